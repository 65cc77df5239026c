/* >>store, "Copies": zc_get_copy() of what a full table does not have, behind a bus that can be
 * peeked at. */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "log_bus.h"

enum { NODES = 3, ROOM = 8, LENGTH = 3000 };

typedef struct fleet {
    zct_mem mem;
    zct_time time;
    log_hub hub;
    fault_store store;
    log_node node[NODES];
    zc_cache *c[NODES];
} fleet;

static void join(fleet *f, unsigned i) {
    zc_desc d;
    memset(&d, 0, sizeof d);
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.no_thread = true;
    d.max_entries = ROOM;
    f->node[i].hub = &f->hub;
    d.bus = lb_hook(&f->node[i], true);
    d.store = fs_hook(&f->store, false);
    CHECK_EQ(zc_open(&d, &f->c[i]), ZC_OK);
}

/* The next reads of what the table has not are copies: makes the table full, if need be, and its
 * turn to put something far. */
static void fill(fleet *f, unsigned i) {
    zc_cache *c = f->c[i];
    for (unsigned k = 0; k < 4 * ROOM; k++) {
        char key[16];
        snprintf(key, sizeof key, "fill%u", k);
        CHECK_EQ(zc_put(c, zc_str(key), zc_str("x"), NULL), ZC_OK);
    }
    for (uint32_t s = 0; s < c->nshards; s++) {
        CHECK(c->shards[s].policy.full);
        c->shards[s].policy.passed = 0;
    }
}

static bool start(fleet *f) {
    memset(f, 0, sizeof *f);
    f->time.mono = 5 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f->hub);
    fs_init(&f->store);
    join(f, 0);
    join(f, 1);
    fill(f, 1);
    return CHECK(f->c[0] && f->c[1]);
}

static void stop(fleet *f) {
    for (unsigned i = 0; i < NODES; i++) {
        if (!f->c[i]) continue;
        CHECK_EQ(zc_check(f->c[i]), ZC_OK);
        zc_close(f->c[i]);
    }
    CHECK_EQ(f->mem.blocks, 0);
    fs_destroy(&f->store);
    lb_destroy(&f->hub);
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

static int copy(zc_cache *c, const char *key, const char *want) {
    static char buf[LENGTH];
    size_t len = 12345;
    int rc = zc_get_copy(c, zc_str(key), buf, sizeof buf, &len);
    if (rc == ZC_OK || rc == ZC_STALE) CHECK(len == strlen(want) && memcmp(buf, want, len) == 0);
    else CHECK_EQ(len, 0);
    return rc;
}

/* The same, and it must have been a copy: the table is as before. */
static int copy_past(zc_cache *c, const char *key, const char *want) {
    uint64_t puts = stats(c).puts, hits = stats(c).hits_store, misses = stats(c).misses_absent;
    int rc = copy(c, key, want);
    CHECK_EQ(stats(c).puts, puts);
    CHECK_EQ(stats(c).misses_absent, misses + 1);
    CHECK_EQ(stats(c).hits_store, hits + (rc != ZC_MISS));
    return rc;
}

TEST(most_reads_leave_a_full_table_alone) {
    enum { KEYS = 400 };
    fleet f;
    char key[16];
    if (!start(&f)) return;
    for (unsigned k = 0; k < KEYS; k++) {
        snprintf(key, sizeof key, "k%u", k);
        CHECK_EQ(zct_put(f.c[0], key, key, "t"), ZC_OK);
    }
    uint64_t puts = stats(f.c[1]).puts;
    for (unsigned k = 0; k < KEYS; k++) {
        snprintf(key, sizeof key, "k%u", k);
        CHECK_EQ(copy(f.c[1], key, key), ZC_OK);
    }
    CHECK_EQ(stats(f.c[1]).hits_store, KEYS);
    CHECK_EQ(stats(f.c[1]).puts - puts, KEYS / ZC__PASS);
    stop(&f);
}

TEST(what_is_read_often_gets_in) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "hot", "value", "t"), ZC_OK);
    uint64_t reads = f.store.op_calls[FS_GET];
    for (unsigned i = 0; i < 10 * ZC__PASS; i++) CHECK_EQ(copy(f.c[1], "hot", "value"), ZC_OK);
    CHECK_EQ(f.store.op_calls[FS_GET] - reads, ZC__PASS);
    stop(&f);
}

TEST(a_table_with_room_takes_all) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "a", "value", "t"), ZC_OK);
    join(&f, 2);
    uint64_t reads = f.store.op_calls[FS_GET];
    CHECK_EQ(copy(f.c[2], "a", "value"), ZC_OK);
    CHECK_EQ(copy(f.c[2], "a", "value"), ZC_OK);
    CHECK_EQ(f.store.op_calls[FS_GET] - reads, 1);
    CHECK_EQ(stats(f.c[2]).puts, 1);
    stop(&f);
}

TEST(every_kind_of_value) {
    fleet f;
    static char noise[LENGTH], even[LENGTH], buf[LENGTH];
    size_t len;
    if (!start(&f)) return;
    for (unsigned i = 0; i < LENGTH - 1; i++) noise[i] = (char)(1 + zct_below(255));
    memset(even, 'e', LENGTH - 1); /* is packed */
    CHECK_EQ(zct_put(f.c[0], "noise", noise, "a:b:c"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "even", even, NULL), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "empty", "", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "", "of no key", "t"), ZC_OK);
    CHECK_EQ(zc_put_absent(f.c[0], zc_str("absent"), NULL), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "noise", noise), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "even", even), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "empty", ""), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "", "of no key"), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "absent", ""), ZC_ABSENT);
    CHECK_EQ(copy_past(f.c[1], "none", ""), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).store_stale, 0);
    memset(buf, '#', sizeof buf);
    CHECK_EQ(zc_get_copy(f.c[1], zc_str("even"), buf, LENGTH - 2, &len), ZC_E_RANGE);
    CHECK_EQ(len, LENGTH - 1);
    CHECK_EQ(zc_get_copy(f.c[1], zc_str("noise"), NULL, 0, &len), ZC_E_RANGE);
    CHECK_EQ(len, LENGTH - 1);
    CHECK(buf[0] == '#' && memcmp(buf, buf + 1, sizeof buf - 1) == 0);
    CHECK_EQ(zc_get_copy(f.c[1], zc_str("empty"), NULL, 0, NULL), ZC_OK);
    CHECK_EQ(zc_get_copy(f.c[1], zc_str("even"), buf, LENGTH - 1, NULL), ZC_OK);
    CHECK_EQ(memcmp(buf, even, LENGTH - 1), 0);
    stop(&f);
}

TEST(deadlines_hold) {
    fleet f;
    if (!start(&f)) return;
    zc_put_opts o = {.ttl = 10 * ZC_SECOND, .soft_ttl = 4 * ZC_SECOND};
    CHECK_EQ(zc_put(f.c[0], zc_str("k"), zc_str("v"), &o), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "k", "v"), ZC_OK);
    zct_step(&f.time, 4 * ZC_SECOND);
    CHECK_EQ(copy_past(f.c[1], "k", "v"), ZC_STALE);
    zct_step(&f.time, 6 * ZC_SECOND);
    CHECK_EQ(copy_past(f.c[1], "k", "v"), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).store_stale, 1);
    zc_put_opts idle = {.tti = 3 * ZC_SECOND};
    CHECK_EQ(zc_put(f.c[0], zc_str("i"), zc_str("v"), &idle), ZC_OK);
    uint64_t end = fs_find(&f.store, zc_str("i"))->expires_ms;
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(copy_past(f.c[1], "i", "v"), ZC_OK); /* a use: it lives longer */
    CHECK_EQ(fs_find(&f.store, zc_str("i"))->expires_ms, end + 2000);
    stop(&f);
}

TEST(what_was_invalidated_is_a_miss) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "a", "1", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "b", "1", "org:2"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "bare", "1", NULL), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "a", "1"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "a", "1"), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).store_stale, 1);
    CHECK_EQ(copy_past(f.c[1], "b", "1"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "a", "2", "org:1:team"), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "a", "2"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("org")), ZC_OK); /* one's own */
    CHECK_EQ(copy_past(f.c[1], "a", "2"), ZC_MISS);
    CHECK_EQ(copy_past(f.c[1], "b", "1"), ZC_MISS);
    CHECK_EQ(copy_past(f.c[1], "bare", "1"), ZC_OK);
    CHECK_EQ(f.node[1].versions, 0); /* all was known */
    stop(&f);
}

TEST(a_node_that_came_later_asks) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "a", "1", "org:1"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "b", "1", "org:2:x"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "bare", "1", NULL), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    join(&f, 2);
    fill(&f, 2);
    CHECK_EQ(copy_past(f.c[2], "a", "1"), ZC_MISS);
    CHECK_EQ(copy_past(f.c[2], "b", "1"), ZC_OK);
    CHECK_EQ(copy_past(f.c[2], "bare", "1"), ZC_OK);
    CHECK_EQ(f.node[2].versions, 3);
    f.node[2].fail_rc = ZC_E_BUS;
    f.node[2].down = true; /* then nothing can be judged */
    CHECK_EQ(copy(f.c[2], "b", "1"), ZC_MISS);
    f.node[2].down = false;
    CHECK_EQ(copy_past(f.c[2], "b", "1"), ZC_OK);
    lb_restart(&f.hub, 0); /* another log: nothing of the old one is believed */
    CHECK_EQ(copy(f.c[2], "b", "1"), ZC_MISS);
    stop(&f);
}

/* Whatever byte of a record is changed, its value is not given; nor that of another key, one cut
 * short, or one with something behind it. */
TEST(damaged_records_are_misses) {
    fleet f;
    static unsigned char bytes[LENGTH];
    zc_bytes key = zc_str("k");
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "value", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "q", "other", "t"), ZC_OK);
    fs_record *r = fs_find(&f.store, key), *q = fs_find(&f.store, zc_str("q"));
    size_t len = r->len;
    for (size_t i = 0; i < len; i++) {
        f.c[1]->shards[0].policy.passed = 0;
        r->data[i] ^= (unsigned char)(1u << zct_below(8));
        memcpy(bytes, r->data, len);
        CHECK_EQ(copy(f.c[1], "k", ""), ZC_MISS);
        fs_plant(&f.store, key, q->data, q->len, 0);
        CHECK_EQ(copy(f.c[1], "k", ""), ZC_MISS);
        CHECK_EQ(zct_put(f.c[0], "k", "value", "t"), ZC_OK);
    }
    CHECK_EQ(stats(f.c[1]).store_corrupt, 2 * len);
    memcpy(bytes, r->data, len);
    for (size_t n = 0; n < len; n++) {
        fs_plant(&f.store, key, bytes, n, 0);
        CHECK_EQ(copy(f.c[1], "k", ""), ZC_MISS);
    }
    memcpy(bytes + len, bytes, len);
    fs_plant(&f.store, key, bytes, 2 * len, 0);
    CHECK_EQ(copy(f.c[1], "k", ""), ZC_MISS);
    f.store.chunk = len; /* twice the same: the first is whole */
    f.c[1]->shards[0].policy.passed = 0;
    CHECK_EQ(copy(f.c[1], "k", ""), ZC_MISS);
    stop(&f);
}

/* What only encoding by hand can make: tags that are none, an LZ4 block that is none. */
TEST(records_of_nonsense_are_misses) {
    static const char *const tags[] = {"", ":", "a::b", "a:"};
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "value", "good"), ZC_OK);
    zc_record r;
    zc_bytes memory, bytes;
    fs_record *at = fs_find(&f.store, zc_str("k"));
    CHECK_EQ(zc_record_decode(zc_slice(at->data, at->len), 100, NULL, &r, &memory), ZC_OK);
    for (unsigned i = 0; i < 4; i++) {
        zc_bytes deps[2] = {zc_str("good"), zc_str(tags[i])};
        zc_record bad = r;
        bad.key = zc_str("bad");
        bad.value = zc_str("value");
        bad.deps = deps;
        bad.ndeps = 2;
        REQUIRE(zc_record_encode(&bad, NULL, &bytes) == ZC_OK);
        fs_plant(&f.store, zc_str("bad"), bytes.ptr, bytes.len, 0);
        free((void *)(uintptr_t)bytes.ptr);
        CHECK_EQ(copy_past(f.c[1], "bad", ""), ZC_MISS);
        CHECK_EQ(stats(f.c[1]).store_corrupt, i + 1);
    }
    unsigned char *p = at->data; /* its dependency reaches beyond the dependencies */
    zc__put_le(p + ZC__RECORD_HEAD + 1, 200, 2);
    zc__put_le(p + 8, zc__record_checksum(p, at->len), 8);
    CHECK_EQ(copy_past(f.c[1], "k", ""), ZC_MISS);
    static char even[1000];
    memset(even, 'e', sizeof even - 1);
    CHECK_EQ(zct_put(f.c[0], "p", even, "good"), ZC_OK);
    at = fs_find(&f.store, zc_str("p"));
    p = at->data;
    CHECK(p[5] & ZC__RECORD_LZ4);
    zc__put_le(p + 68, sizeof even + 5, 4);
    zc__put_le(p + 8, zc__record_checksum(p, at->len), 8);
    CHECK_EQ(copy_past(f.c[1], "p", ""), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).store_corrupt, 6);
    free((void *)(uintptr_t)memory.ptr);
    stop(&f);
}

TEST(records_in_pieces_or_of_many_tags_go_through_the_table) {
    enum { MANY = ZC__COPYING_DEPS + 1 };
    fleet f;
    char text[MANY][8];
    zc_bytes deps[MANY];
    if (!start(&f)) return;
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(text[i], sizeof text[i], "t%u", i);
        deps[i] = zc_str(text[i]);
    }
    zc_put_opts o = {.deps = deps, .ndeps = MANY - 1};
    CHECK_EQ(zc_put(f.c[0], zc_str("some"), zc_str("value"), &o), ZC_OK);
    o.ndeps = MANY;
    CHECK_EQ(zc_put(f.c[0], zc_str("many"), zc_str("value"), &o), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "k", "value", "t"), ZC_OK);
    CHECK_EQ(copy_past(f.c[1], "some", "value"), ZC_OK);
    uint64_t puts = stats(f.c[1]).puts;
    CHECK_EQ(copy(f.c[1], "many", "value"), ZC_OK);
    f.store.chunk = 50;
    CHECK_EQ(copy(f.c[1], "k", "value"), ZC_OK);
    CHECK_EQ(stats(f.c[1]).puts - puts, 2);
    f.store.chunk = 0;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t15")), ZC_OK);
    CHECK_EQ(copy(f.c[1], "some", ""), ZC_MISS);
    CHECK_EQ(copy(f.c[1], "many", ""), ZC_MISS);
    stop(&f);
}

TEST(a_storage_that_fails_is_a_miss_and_then_spared) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "value", "t"), ZC_OK);
    fs_fail(&f.store, 1u << FS_GET, 1, 0);
    CHECK_EQ(copy_past(f.c[1], "k", ""), ZC_MISS); /* after half of the record */
    CHECK_EQ(stats(f.c[1]).store_errors, 1);
    CHECK_EQ(copy_past(f.c[1], "k", "value"), ZC_OK);
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 1u << FS_GET, 1, 0);
    CHECK_EQ(copy_past(f.c[1], "k", ""), ZC_MISS);
    uint64_t reads = f.store.op_calls[FS_GET];
    CHECK_EQ(copy_past(f.c[1], "k", ""), ZC_MISS);
    CHECK_EQ(f.store.op_calls[FS_GET], reads);
    CHECK_EQ(stats(f.c[1]).store_skipped, 1);
    stop(&f);
}

TEST(a_record_that_could_not_be_deleted_is_not_believed) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[1], "k", "value", "t"), ZC_OK);
    CHECK_EQ(copy(f.c[1], "k", "value"), ZC_OK);
    fs_fail(&f.store, 1u << FS_DEL, 1, 0);
    (void)zc_del(f.c[1], zc_str("k"));
    CHECK_EQ(copy_past(f.c[1], "k", ""), ZC_MISS);
    stop(&f);
}

/* Every allocation that a read makes fails once: a miss, or the value; never anything else. */
TEST(without_memory_it_is_a_miss_at_worst) {
    fleet f;
    if (!start(&f)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "value", "a:b:c"), ZC_OK);
    bool more = true;
    for (uint64_t n = 1; more && n < 100; n++) {
        join(&f, 2); /* knows no tag, and has to ask */
        fill(&f, 2);
        f.mem.count = f.mem.failed = 0;
        f.mem.fail_at = n;
        int rc = copy(f.c[2], "k", "value");
        more = f.mem.failed != 0;
        f.mem.fail_at = 0;
        CHECK(rc == ZC_OK || (more && rc == ZC_MISS)); /* another way may need less */
        CHECK_EQ(copy(f.c[2], "k", "value"), ZC_OK);
        CHECK_EQ(zc_check(f.c[2]), ZC_OK);
        zc_close(f.c[2]);
        CHECK(!more || n < 20);
    }
    f.c[2] = NULL;
    stop(&f);
}

/* Whatever two nodes do, a value that is read was written after the last invalidation of its tag. */
TEST(never_a_value_from_before_an_invalidation) {
    enum { KEYS = 40, TAGS = 6, STEPS = 20000 };
    fleet f;
    uint64_t written[TAGS] = {0}; /* the step of the last invalidation */
    uint64_t hits = 0;
    if (!start(&f)) return;
    fill(&f, 0);
    for (unsigned i = 1; i <= STEPS; i++) {
        zc_cache *c = f.c[zct_below(2)];
        unsigned k = (unsigned)zct_below(KEYS), t = k % TAGS;
        char key[16], tag[16], value[32], buf[32];
        size_t len = 0;
        snprintf(key, sizeof key, "k%u", k);
        snprintf(tag, sizeof tag, "t:%u", t);
        snprintf(value, sizeof value, "%u %u", k, i);
        switch (zct_below(100)) {
        case 0:
            CHECK_EQ(zc_invalidate(c, zc_str(tag)), ZC_OK);
            written[t] = i;
            break;
        case 1: (void)zc_del(c, zc_str(key)); break;
        case 2:
        case 3:
        case 4:
        case 5:
        case 6: CHECK_EQ(zct_put(c, key, value, tag), ZC_OK); break;
        default: {
            int rc = zc_get_copy(c, zc_str(key), buf, sizeof buf - 1, &len);
            CHECK(rc == ZC_OK || rc == ZC_MISS);
            if (rc != ZC_OK) break;
            unsigned of, at;
            buf[len] = '\0';
            CHECK(sscanf(buf, "%u %u", &of, &at) == 2 && of == k && at > written[t]);
            hits++;
        }
        }
    }
    CHECK(hits > STEPS / 4 && stats(f.c[0]).hits_store > 1000);
    stop(&f);
}
