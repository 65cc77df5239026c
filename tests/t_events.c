/* The event hook: one cause for each removal, once; what it may do; the mask. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"


typedef struct recorder {
    zc_cache *c;
    uint64_t kinds[32];          /* by bit number of the kind */
    uint64_t causes[ZC_CAUSE_COUNT];
    char last_key[64], last_value[64];
    int last_cause, last_rc;
    uint64_t last_version, last_elapsed;
    bool calls_back;
    int depth;
} recorder;

static void copy_text(char to[64], zc_bytes from) {
    size_t n = from.len < 63 ? from.len : 63;
    if (n) memcpy(to, from.ptr, n);
    to[n] = '\0';
}

static void call_back(recorder *r) {
    zc_view v;
    if (!r->calls_back || !r->c || r->depth) return;
    r->depth++; /* what this does makes events, too: no end otherwise */
    CHECK_EQ(zc_put(r->c, zc_str("from the hook"), zc_str("x"), NULL), ZC_OK);
    CHECK_EQ(zc_get(r->c, zc_str("from the hook"), &v), ZC_OK);
    zc_release(r->c, &v);
    CHECK_EQ(zc_invalidate(r->c, zc_str("from:the:hook")), ZC_OK);
    CHECK(zc_del(r->c, zc_str("something else")) >= 0);
    zc_prune(r->c, 0);
    r->depth--;
}

static void on_event(void *user, const zc_event *e) {
    recorder *r = (recorder *)user;
    unsigned bit = 0;
    while (1u << bit != (unsigned)e->kind && bit < 31) bit++;
    CHECK(bit < 5); /* one of the five kinds */
    if (r->depth) return;
    r->kinds[bit]++;
    copy_text(r->last_key, e->key);
    copy_text(r->last_value, e->value);
    r->last_rc = e->rc;
    r->last_version = e->version;
    r->last_elapsed = e->elapsed;
    if (e->kind == ZC_EVENT_REMOVED) {
        r->last_cause = (int)e->cause;
        if (CHECK(e->cause < ZC_CAUSE_COUNT)) r->causes[e->cause]++;
    }
    call_back(r);
}

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    recorder r;
    zc_cache *c;
} fixture;

static bool start(fixture *f, zc_desc d, uint32_t mask) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.no_thread = true;
    d.events = (zc_events){1, mask, on_event, &f->r};
    bool good = CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
    f->r.c = f->c;
    return good;
}
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    f->r.c = NULL; /* nothing may be called while it closes */
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}

static int put(fixture *f, const char *key, const char *value, const char *tag, uint64_t ttl) {
    zc_bytes dep = zc_str(tag ? tag : "");
    zc_put_opts o = {.deps = &dep, .ndeps = tag ? 1u : 0u, .ttl = ttl};
    return zc_put(f->c, zc_str(key), zc_str(value), &o);
}
static void poll_all(fixture *f) {
    while (zc_poll(f->c, ZC_MILLISECOND) == ZC_MORE) {}
}

/* The last removal was of this, and for that; and it was the n-th for that cause. */
static void removed(fixture *f, const char *key, const char *value, zc_cause cause, uint64_t n) {
    zc_stats s;
    CHECK_STR(f->r.last_key, key);
    CHECK_STR(f->r.last_value, value);
    CHECK_STR(zc_cause_name(f->r.last_cause), zc_cause_name((int)cause));
    CHECK_EQ(f->r.causes[cause], n);
    zc_stats_read(f->c, &s);
    for (int i = 0; i < ZC_CAUSE_COUNT; i++) CHECK_EQ(s.removed[i], f->r.causes[i]);
}

TEST(each_cause) {
    fixture f;
    if (!start(&f, (zc_desc){.max_entries = 3}, ZC_EVENT_REMOVED)) return;
    CHECK_EQ(put(&f, "k", "1", NULL, 0), ZC_OK);
    CHECK_EQ(f.r.kinds[0], 0); /* storing removes nothing */
    CHECK_EQ(put(&f, "k", "2", NULL, 0), ZC_OK);
    removed(&f, "k", "1", ZC_CAUSE_REPLACED, 1);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    removed(&f, "k", "2", ZC_CAUSE_DELETED, 1);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_MISS);
    CHECK_EQ(f.r.causes[ZC_CAUSE_DELETED], 1);
    CHECK_EQ(put(&f, "k", "3", NULL, ZC_SECOND), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    zc_view v;
    CHECK_EQ(zc_get(f.c, zc_str("k"), &v), ZC_MISS);
    CHECK_EQ(f.r.causes[ZC_CAUSE_EXPIRED], 0); /* reads remove nothing */
    poll_all(&f);
    removed(&f, "k", "3", ZC_CAUSE_EXPIRED, 1);
    CHECK_EQ(put(&f, "k", "4", "a:b", 0), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a")), ZC_OK);
    CHECK_EQ(f.r.causes[ZC_CAUSE_INVALIDATED], 0); /* O(depth): nothing is looked for */
    zct_step(&f.time, 10 * ZC_SECOND); /* sweeping may take its time */
    poll_all(&f);
    removed(&f, "k", "4", ZC_CAUSE_INVALIDATED, 1);
    CHECK_EQ(put(&f, "k", "5", NULL, 0), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(f.r.causes[ZC_CAUSE_INVALIDATED], 1);
    poll_all(&f);
    removed(&f, "k", "5", ZC_CAUSE_INVALIDATED, 2);
    for (int i = 0; i < 10; i++)
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_str("e"), NULL), ZC_OK);
    CHECK_EQ(f.r.causes[ZC_CAUSE_EVICTED], 7);
    CHECK_STR(f.r.last_value, "e");
    uint64_t before = f.r.causes[ZC_CAUSE_CLOSED];
    stop(&f);
    CHECK_EQ(before, 0);
    CHECK_EQ(f.r.causes[ZC_CAUSE_CLOSED], 3);
    CHECK_EQ(f.r.kinds[0], 1 + 1 + 1 + 2 + 7 + 3);
}

TEST(dead_entries_that_give_way_keep_their_own_cause) {
    fixture f;
    if (!start(&f, (zc_desc){.max_entries = 1}, ZC_EVENT_REMOVED)) return;
    CHECK_EQ(put(&f, "x", "1", NULL, ZC_SECOND), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(put(&f, "y", "2", "t", 0), ZC_OK);
    removed(&f, "x", "1", ZC_CAUSE_EXPIRED, 1);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(put(&f, "z", "3", NULL, 0), ZC_OK);
    removed(&f, "y", "2", ZC_CAUSE_INVALIDATED, 1);
    CHECK_EQ(put(&f, "u", "4", NULL, 0), ZC_OK);
    removed(&f, "z", "3", ZC_CAUSE_EVICTED, 1);
    stop(&f);
}

TEST(refused_puts) {
    fixture f;
    static char big[1000];
    if (!start(&f, (zc_desc){.max_bytes = 500}, ZC_EVENT_REMOVED)) return;
    CHECK_EQ(put(&f, "k", "old", NULL, 0), ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_slice(big, sizeof big), NULL), ZC_REFUSED);
    removed(&f, "k", "old", ZC_CAUSE_DELETED, 1); /* what was there is; the new one never was */
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_slice(big, sizeof big), NULL), ZC_REFUSED);
    CHECK_EQ(f.r.kinds[0], 1);
    stop(&f);
}

typedef struct job {
    const char *text;
    zct_time *time;
    int rc;
} job;
static int load(zc_fill *fill, void *user) {
    job *j = (job *)user;
    zct_step(j->time, 3 * ZC_MILLISECOND);
    if (j->rc) return j->rc;
    return zc_fill_value(fill, zc_str(j->text));
}

TEST(fills) {
    fixture f;
    zc_view v;
    zc_fill *t;
    if (!start(&f, (zc_desc){0}, 0)) return;
    job j = {.text = "value", .time = &f.time};
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load, &j, NULL, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(f.r.kinds[2], 1);
    CHECK_STR(f.r.last_key, "k");
    CHECK_STR(f.r.last_value, "value");
    CHECK_EQ(f.r.last_rc, ZC_OK);
    CHECK_EQ(f.r.last_elapsed, 3 * ZC_MILLISECOND);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load, &j, NULL, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(f.r.kinds[2], 1); /* a hit tells nothing */
    j.rc = ZC_E_USER - 1;
    CHECK_EQ(zc_fetch(f.c, zc_str("e"), load, &j, NULL, &v), ZC_E_USER - 1);
    CHECK_EQ(f.r.kinds[3], 1);
    CHECK_STR(f.r.last_key, "e");
    CHECK_EQ(f.r.last_rc, ZC_E_USER - 1);
    CHECK_EQ(f.r.last_elapsed, 3 * ZC_MILLISECOND);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("r"), NULL, &v, &t), ZC_LEAD);
    CHECK_EQ(zc_fill_value(t, zc_str("late")), ZC_OK);
    CHECK_EQ(zc_fill_dep(t, zc_str("t")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(zc_flight_commit(t, NULL), ZC_REFUSED);
    CHECK_EQ(f.r.kinds[2], 2);
    CHECK_STR(f.r.last_key, "r");
    CHECK_STR(f.r.last_value, "late");
    CHECK_EQ(f.r.last_rc, ZC_REFUSED);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("r"), NULL, &v, &t), ZC_LEAD);
    zc_flight_abandon(t, 0); /* handing over is no failure */
    CHECK_EQ(f.r.kinds[3], 1);
    stop(&f);
}

TEST(invalidations) {
    fixture f;
    uint64_t version;
    zc_tag *tag;
    zc_bytes two[2] = {zc_str("x:1"), zc_str("y:2")};
    if (!start(&f, (zc_desc){0}, ZC_EVENT_INVALIDATED)) return;
    CHECK_EQ(zc_invalidate(f.c, zc_str("a:b")), ZC_OK);
    CHECK_EQ(f.r.kinds[1], 1);
    CHECK_STR(f.r.last_key, "a:b");
    CHECK_EQ(zc_tag_version(f.c, zc_str("a:b"), &version), ZC_OK);
    CHECK_EQ(f.r.last_version, version);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a::b")), ZC_E_TAG_SEGMENT);
    CHECK_EQ(f.r.kinds[1], 1);
    CHECK_EQ(zc_invalidate_many(f.c, two, 2), ZC_OK);
    CHECK_EQ(f.r.kinds[1], 3);
    CHECK_STR(f.r.last_key, "y:2");
    CHECK_EQ(zc_tag_intern(f.c, zc_str("some:handle"), &tag), ZC_OK);
    CHECK_EQ(zc_invalidate_tag(f.c, tag), ZC_OK);
    CHECK_STR(f.r.last_key, "some:handle");
    zc_tag_release(f.c, tag);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(f.r.kinds[1], 5);
    CHECK_STR(f.r.last_key, "");
    CHECK(f.r.last_version > version);
    stop(&f);
}

TEST(the_mask) {
    for (uint32_t mask = 0; mask < 32; mask++) {
        fixture f;
        zc_view v;
        if (!start(&f, (zc_desc){0}, mask)) return;
        job j = {.text = "v", .time = &f.time};
        CHECK_EQ(zc_fetch(f.c, zc_str("k"), load, &j, NULL, &v), ZC_OK);
        zc_release(f.c, &v);
        j.rc = ZC_E_USER;
        CHECK_EQ(zc_fetch(f.c, zc_str("e"), load, &j, NULL, &v), ZC_E_USER);
        CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
        for (unsigned bit = 0; bit < 4; bit++)
            CHECK_EQ(f.r.kinds[bit], mask == 0 || mask >> bit & 1 ? 1 : 0);
        stop(&f);
    }
}

TEST(the_hook_may_call_the_cache) {
    fixture f;
    zc_view v;
    if (!start(&f, (zc_desc){.max_entries = 5}, 0)) return;
    f.r.calls_back = true;
    for (int i = 0; i < 200; i++) {
        job j = {.text = "v", .time = &f.time, .rc = i % 7 == 0 ? ZC_E_USER : 0};
        int key = i % 17;
        zc_bytes k = zc_slice(&key, sizeof key);
        (void)zc_fetch(f.c, k, load, &j, NULL, &v);
        zc_release(f.c, &v);
        CHECK_EQ(put(&f, "x", "1", "t", (uint64_t)(i % 3) * ZC_MILLISECOND), ZC_OK);
        if (i % 5 == 0) CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        if (i % 6 == 0) (void)zc_del(f.c, k);
        if (i % 11 == 0) CHECK_EQ(zc_clear(f.c), ZC_OK);
        poll_all(&f);
        CHECK_EQ(zc_check(f.c), ZC_OK);
    }
    CHECK(f.r.kinds[0] > 100 && f.r.kinds[1] > 10 && f.r.kinds[2] > 10 && f.r.kinds[3] > 10);
    stop(&f);
}

/* ---- once for each entry, over a long random run ---- */

typedef struct ledger {
    int64_t in[4096]; /* by serial number: 1 stored, 0 gone or never stored */
    uint64_t removals, wrong;
} ledger;

static void book(void *user, const zc_event *e) {
    ledger *l = (ledger *)user;
    uint32_t serial = 0;
    if (!CHECK(e->value.len >= sizeof serial)) return;
    memcpy(&serial, e->value.ptr, sizeof serial);
    l->removals++;
    l->wrong += l->in[serial]-- != 1;
}

TEST(every_entry_leaves_once) {
    zct_mem mem = {0};
    zct_time time = {.mono = ZC_SECOND, .wall = ZC_SECOND};
    static ledger l;
    zc_cache *c;
    zc_desc d = {.max_entries = 20, .shards = 4, .no_thread = true, .seed = 5};
    memset(&l, 0, sizeof l);
    d.allocator = zct_allocator(&mem);
    d.clock = zct_clock(&time);
    d.events = (zc_events){1, ZC_EVENT_REMOVED, book, &l};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    uint64_t stored = 0;
    for (uint32_t i = 0; i < 4096; i++) {
        uint64_t key = zct_below(60), dice = zct_below(100);
        zc_bytes k = zc_slice(&key, sizeof key), dep = zc_str(key % 2 ? "a:b" : "a:c");
        zc_put_opts o = {.deps = &dep, .ndeps = 1, .ttl = key % 3 ? 0 : 5 * ZC_SECOND};
        l.in[i] = 1; /* before, as it may be removed by the call itself */
        int rc = zc_put(c, k, zc_slice(&i, sizeof i), &o);
        if (!CHECK_EQ(rc, ZC_OK)) l.in[i] = 0;
        stored += rc == ZC_OK;
        zct_step(&time, zct_below(ZC_SECOND));
        if (dice < 10) (void)zc_del(c, k);
        else if (dice < 14) CHECK_EQ(zc_invalidate(c, zc_str(dice % 2 ? "a:b" : "a")), ZC_OK);
        else if (dice < 15) CHECK_EQ(zc_clear(c), ZC_OK);
        else if (dice < 30) (void)zc_poll(c, ZC_MICROSECOND);
    }
    zc_close(c);
    CHECK_EQ(l.removals, stored);
    CHECK_EQ(l.wrong, 0);
    for (uint32_t i = 0; i < 4096; i++) CHECK_EQ(l.in[i], 0);
    CHECK_EQ(mem.blocks, 0);
}
