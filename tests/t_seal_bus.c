/* Sealed tags: what a log and kept versions show, nodes that hear of each other, keys that change
 * while they do, holds, who has no key, and what is none of ours. */
#define _GNU_SOURCE /* memmem */
#define ZOOCACHE_IMPLEMENTATION
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_WITH_LMDB
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "lmdb_dir.h"
#include "log_bus.h"

#define NODES 3
#define T (1000 * ZC_MILLISECOND)
#define LEASE (10 * ZC_SECOND)

static unsigned char keys[3][ZC_SEAL_KEY]; /* A, B, C */
__attribute__((constructor)) static void make_keys(void) {
    for (int i = 0; i < 3; i++) memset(keys[i], 'a' + i, ZC_SEAL_KEY);
}

/* A sealer with the keys of a text: "BA" seals with B. */
static bool sealer_of(zc_sealer *s, const char *ring) {
    zc_bytes k[3];
    size_t n = strlen(ring);
    for (size_t i = 0; i < n; i++) k[i] = zc_slice(keys[ring[i] - 'A'], ZC_SEAL_KEY);
    zc_seal_desc d = {.keys = k, .nkeys = n, .prefix = zc_str("shop")};
    return CHECK_EQ(zc_seal_open(&d, s), ZC_OK);
}

/* Nodes without threads: time moves, and the log is read, when the test says so. */
typedef struct fleet {
    zct_mem mem;
    zct_time time;
    log_hub hub;
    fault_store store;
    log_node node[NODES];
    zc_cache *c[NODES];
    char told[256]; /* what was invalidated, by all nodes */
} fleet;

static void told(void *user, const zc_event *ev) {
    fleet *f = (fleet *)user;
    size_t len = strlen(f->told);
    if (ev->kind == ZC_EVENT_INVALIDATED)
        snprintf(f->told + len, sizeof f->told - len, "%.*s;", (int)ev->key.len,
                 (const char *)ev->key.ptr);
}

/* `ring` "": it has no key. */
static int join(fleet *f, unsigned i, const char *ring) {
    zc_desc d = {.allocator = zct_allocator(&f->mem), .clock = zct_clock(&f->time),
                 .max_entries = 1, .no_thread = true, .max_staleness = T};
    f->node[i] = (log_node){.hub = &f->hub};
    d.bus = lb_hook(&f->node[i], false);
    d.store = fs_hook(&f->store, false);
    d.events = (zc_events){.version = 1, .on_event = told, .user = f};
    if (*ring && !sealer_of(&d.sealer, ring)) return ZC_E_INVAL;
    return zc_open(&d, &f->c[i]);
}
static void leave(fleet *f, unsigned i) {
    CHECK_EQ(zc_check(f->c[i]), ZC_OK);
    zc_close(f->c[i]);
    f->c[i] = NULL;
}
static bool start(fleet *f, const char *ring) {
    memset(f, 0, sizeof *f);
    f->time.mono = 5 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f->hub);
    fs_init(&f->store);
    return CHECK_EQ(join(f, 0, ring), ZC_OK) && CHECK_EQ(join(f, 1, ring), ZC_OK);
}
static void stop(fleet *f) {
    for (unsigned i = 0; i < NODES; i++)
        if (f->c[i]) leave(f, i);
    CHECK_EQ(f->mem.blocks, 0);
    fs_destroy(&f->store);
    lb_destroy(&f->hub);
}

static void hear(fleet *f) {
    for (unsigned i = 0; i < NODES; i++)
        if (f->c[i]) (void)zc_poll(f->c[i], ZC_SECOND);
}
static int put(fleet *f, unsigned i, const char *key, const char *tag) {
    zc_bytes dep = zc_str(tag);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    return zc_put(f->c[i], zc_str(key), zc_str("v"), &o);
}
static int get(fleet *f, unsigned i, const char *key) {
    zc_view v;
    int rc = zc_get(f->c[i], zc_str(key), &v);
    zc_release(f->c[i], &v);
    return rc;
}
static int kill_tag(fleet *f, unsigned i, const char *tag) {
    return zc_invalidate(f->c[i], zc_str(tag));
}
static zc_stats stats(fleet *f, unsigned i) {
    zc_stats s;
    zc_stats_read(f->c[i], &s);
    return s;
}

/* Whether anything that left the processes has a text in it. */
static bool shown(const fleet *f, const char *text) {
    size_t len = strlen(text);
    for (size_t p = 0; p < LB_ENTRIES; p++)
        for (size_t i = 0; i < f->hub.entries[p].n; i++)
            if (memmem(f->hub.entries[p].tags[i], f->hub.entries[p].len[i], text, len)) return true;
    for (size_t p = 0; p < LB_HOLDS; p++)
        for (size_t i = 0; i < f->hub.holds[p].n; i++)
            if (memmem(f->hub.holds[p].tags[i], f->hub.holds[p].len[i], text, len)) return true;
    for (size_t i = 0; i < 64; i++) {
        for (fs_record *r = f->store.records[i]; r; r = r->next)
            if (memmem(r->data, r->len, text, len) || memmem(r->key, r->key_len, text, len))
                return true;
        for (fs_tag *t = f->store.tags[i]; t; t = t->next)
            if (memmem(t->path, t->len, text, len)) return true;
    }
    return false;
}
/* The same of its digest, which is a dictionary's way to it. */
static bool shows(const fleet *f, const char *text) {
    unsigned char sha[32];
    uint64_t xxh = XXH3_64bits(text, strlen(text));
    char hash[9] = {0};
    zc__put_le((unsigned char *)hash, xxh, 8);
    CHECK(EVP_Digest(text, strlen(text), sha, NULL, EVP_sha256(), NULL) > 0);
    sha[16] = 0;
    return shown(f, text) || (strlen(hash) == 8 && shown(f, hash)) ||
           (strlen((char *)sha) == 16 && shown(f, (char *)sha));
}

/* ---- names ---- */

TEST(a_tag_comes_back_from_its_name_and_from_none_that_was_changed) {
    zc_sealer s, other;
    unsigned char name[ZC_TAG_MAX + ZC_SEAL_TAG], tag[ZC_TAG_MAX + ZC_SEAL_TAG], again[64];
    char text[ZC_TAG_MAX];
    size_t len, n, m;
    unsigned i;
    REQUIRE(sealer_of(&s, "BA") && sealer_of(&other, "C"));
    for (size_t size = 1; size <= sizeof text; size += 1 + size / 7) {
        memset(text, 'x', sizeof text);
        CHECK_EQ(s.tag_seal(s.user, 1, zc_slice(text, size), name, &len), ZC_OK);
        CHECK_EQ(len, size + ZC_SEAL_TAG);
        CHECK_EQ(s.tag_open(s.user, zc_slice(name, len), tag, &n, &i), ZC_OK);
        CHECK(i == 1 && n == size && memcmp(tag, text, n) == 0);
        CHECK_EQ(other.tag_open(other.user, zc_slice(name, len), tag, &n, &i), ZC_E_UNKEYED);
    }
    CHECK_EQ(s.tag_seal(s.user, 2, zc_str("t"), name, &len), ZC_MISS);
    CHECK_EQ(s.tag_seal(s.user, 0, zc_str("user:42"), name, &len), ZC_OK);
    CHECK_EQ(s.tag_seal(s.user, 0, zc_str("user:42"), again, &n), ZC_OK);
    CHECK(n == len && memcmp(name, again, n) == 0);
    CHECK_EQ(s.tag_seal(s.user, 0, zc_str("user:43"), again, &n), ZC_OK);
    for (m = 5; m < 5 + 16 && name[m] == again[m];) m++;
    CHECK(m < 8); /* nor does what they have in common show */
    CHECK(memcmp(name + ZC_SEAL_TAG, again + ZC_SEAL_TAG, 6) != 0);
    CHECK(zc_tag_check(zc_slice(name, len)) < 0);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        memcpy(again, name, len);
        again[bit / 8] ^= (unsigned char)(1 << bit % 8);
        int rc = s.tag_open(s.user, zc_slice(again, len), tag, &n, &i);
        CHECK_EQ(rc, bit / 8 >= 1 && bit / 8 < 5 ? ZC_E_UNKEYED : ZC_E_SEAL);
    }
    for (n = 0; n < len; n++)
        CHECK(s.tag_open(s.user, zc_slice(name, n), tag, &m, &i) == ZC_E_SEAL);
    s.close(s.user);
    other.close(other.user);
}

/* ---- nodes ---- */

TEST(nodes_hear_of_tags_that_the_log_does_not_show) {
    for (int two = 0; two < 2; two++) {
        fleet f;
        if (!start(&f, two ? "AB" : "A")) return;
        CHECK_EQ(put(&f, 0, "below", "acme:user:alice"), ZC_OK);
        CHECK_EQ(get(&f, 0, "below"), ZC_OK);
        CHECK_EQ(put(&f, 1, "beside", "acme:user:bob"), ZC_OK);
        uint64_t breaks = stats(&f, 0).bus_breaks;
        f.told[0] = 0;
        CHECK_EQ(kill_tag(&f, 1, "acme:user:alice"), ZC_OK);
        hear(&f);
        if (!CHECK(strcmp(f.told, "acme:user:alice;acme:user:alice;acme:user:alice;") == 0))
            printf("%s\n", f.told); /* who says it, and each who hears it */
        CHECK_EQ(get(&f, 0, "below"), ZC_MISS);
        CHECK_EQ(get(&f, 1, "beside"), ZC_OK); /* nothing else went */
        CHECK_EQ(kill_tag(&f, 0, "acme:user"), ZC_OK); /* what is above takes all below */
        hear(&f);
        CHECK_EQ(get(&f, 1, "beside"), ZC_MISS);
        for (const char *const *t = (const char *const[]){"acme", "alice", "acme:user", "user",
                                                          "acme:user:alice", "below", "beside", NULL};
             *t; t++)
            CHECK(!shows(&f, *t));
        CHECK_EQ(stats(&f, 0).bus_breaks, breaks);
        CHECK_EQ(stats(&f, 0).store_forged + stats(&f, 0).store_unkeyed, 0);
        stop(&f);
    }
}

TEST(who_joins_later_knows_what_was_invalidated_before) {
    fleet f;
    if (!start(&f, "A")) return;
    CHECK_EQ(put(&f, 0, "dead", "t:dead"), ZC_OK);
    CHECK_EQ(put(&f, 0, "above", "up:a:b"), ZC_OK);
    CHECK_EQ(put(&f, 0, "good", "t:good"), ZC_OK);
    CHECK_EQ(kill_tag(&f, 0, "t:dead"), ZC_OK);
    CHECK_EQ(kill_tag(&f, 1, "up"), ZC_OK);
    CHECK_EQ(join(&f, 2, "A"), ZC_OK);
    CHECK_EQ(get(&f, 2, "good"), ZC_OK);
    CHECK_EQ(get(&f, 2, "dead"), ZC_MISS);
    CHECK_EQ(get(&f, 2, "above"), ZC_MISS);
    CHECK_EQ(stats(&f, 2).hits_store, 1);
    stop(&f);
}

TEST(a_storage_keeps_versions_under_names) {
    fleet f;
    memset(&f, 0, sizeof f);
    f.time.mono = 5 * ZC_SECOND;
    f.time.wall = UINT64_C(1700000000) * ZC_SECOND;
    fs_init(&f.store);
    static const char *const ring[] = {"A", "AB", "BA", "B"};
    for (unsigned life = 0; life < 4; life++) {
        zc_desc d = {.allocator = zct_allocator(&f.mem), .clock = zct_clock(&f.time),
                     .no_thread = true, .store = fs_hook(&f.store, true)};
        REQUIRE(sealer_of(&d.sealer, ring[life]) && zc_open(&d, &f.c[0]) == ZC_OK);
        char tag[40], key[40];
        for (unsigned before = 0; before <= life; before++) {
            snprintf(key, sizeof key, "key-%u", before);
            bool opens = life < 3 || before == 2;
            CHECK_EQ(get(&f, 0, key), before < life && opens && before != 1 ? ZC_OK : ZC_MISS);
        }
        snprintf(key, sizeof key, "key-%u", life);
        snprintf(tag, sizeof tag, "secret:%u", life);
        CHECK_EQ(put(&f, 0, key, tag), ZC_OK);
        if (life) CHECK_EQ(kill_tag(&f, 0, "secret:1"), ZC_OK); /* by who seals with A, and with B */
        CHECK(!shows(&f, "secret") && !shows(&f, tag));
        leave(&f, 0);
    }
    CHECK_EQ(f.mem.blocks, 0);
    fs_destroy(&f.store);
}

/* ---- keys that change ---- */

TEST(keys_change_while_nodes_work_and_none_goes_unheard) {
    fleet f;
    static const char *const step[] = {"A", "AB", "BA", "B"};
    if (!start(&f, "A")) return;
    char key[40], tag[40];
    unsigned n = 0;
    CHECK_EQ(put(&f, 0, "early", "t:early"), ZC_OK);
    CHECK_EQ(kill_tag(&f, 1, "t:early"), ZC_OK); /* which has but one name */
    for (unsigned s = 1; s < 4; s++) { /* one node after the other takes the next step */
        for (unsigned i = 0; i < 2; i++) {
            /* What was stored and invalidated before is known to who comes. */
            snprintf(key, sizeof key, "before-%u", n);
            snprintf(tag, sizeof tag, "t:before-%u", n);
            CHECK_EQ(put(&f, n % 2, key, tag), ZC_OK);
            CHECK_EQ(kill_tag(&f, i ^ 1, tag), ZC_OK);
            leave(&f, i);
            CHECK_EQ(join(&f, i, step[s]), ZC_OK);
            CHECK_EQ(get(&f, i, key), ZC_MISS);
            CHECK_EQ(get(&f, i, "early"), ZC_MISS);
            for (unsigned by = 0; by < 2; by++, n++) {
                snprintf(key, sizeof key, "key-%u", n);
                snprintf(tag, sizeof tag, "t:%u", n);
                CHECK_EQ(put(&f, by ^ 1, key, tag), ZC_OK);
                CHECK_EQ(get(&f, by, key), ZC_OK); /* sealed by the other */
                CHECK_EQ(put(&f, by ^ 1, "other", "t:other"), ZC_OK);
                CHECK_EQ(kill_tag(&f, by, tag), ZC_OK);
                hear(&f);
                CHECK_EQ(get(&f, by ^ 1, "other"), ZC_OK);
                CHECK_EQ(get(&f, by ^ 1, key), ZC_MISS);
                CHECK_EQ(get(&f, by, key), ZC_MISS);
            }
        }
    }
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(stats(&f, i).store_forged + stats(&f, i).store_unkeyed + stats(&f, i).bus_errors, 0);
    stop(&f);
}

/* ---- holds ---- */

TEST(holds_are_heard_and_learned_and_end) {
    fleet f;
    uint64_t hold;
    zc_bytes tags[2] = {zc_str("acct:7"), zc_str("acct:8")};
    for (int two = 0; two < 2; two++) { /* with one key, and with two: each list twice in the log */
        if (!start(&f, two ? "AB" : "A")) return;
        CHECK_EQ(zc_hold(f.c[0], tags, 1 + (size_t)!two, LEASE, &hold), ZC_OK);
        hear(&f);
        CHECK_EQ(put(&f, 1, "k", "acct:7:x"), ZC_REFUSED); /* not stored */
        CHECK_EQ(get(&f, 1, "k"), ZC_MISS);
        CHECK_EQ(put(&f, 1, "free", "acct:9"), ZC_OK);
        CHECK_EQ(get(&f, 1, "free"), ZC_OK);
        CHECK_EQ(join(&f, 2, two ? "BA" : "A"), ZC_OK);
        CHECK_EQ(put(&f, 2, "k", "acct:7"), ZC_REFUSED);
        CHECK_EQ(get(&f, 2, "k"), ZC_MISS);
        CHECK(!shows(&f, "acct") && !shows(&f, "acct:7") && !shown(&f, "hold"));
        CHECK_EQ(zc_hold_end(f.c[0], hold), ZC_OK);
        hear(&f);
        for (unsigned i = 0; i < 3; i++) {
            CHECK_EQ(put(&f, i, "k", "acct:7"), ZC_OK);
            CHECK_EQ(get(&f, i, "k"), ZC_OK);
        }
        /* A holder dies: its hold ends with its lease. */
        CHECK_EQ(zc_hold(f.c[0], tags, 1, LEASE, &hold), ZC_OK);
        hear(&f);
        f.told[0] = 0;
        f.time.mono += LEASE + ZC_SECOND;
        leave(&f, 0);
        hear(&f);
        CHECK(strstr(f.told, "acct:7;") != NULL);
        hear(&f);
        CHECK_EQ(put(&f, 1, "k", "acct:7"), ZC_OK);
        CHECK_EQ(get(&f, 1, "k"), ZC_OK);
        stop(&f);
    }
}

/* ---- who has no key, or another ---- */

TEST(an_entry_that_is_not_sealed_for_us_is_everything) {
    fleet f;
    log_node stranger;
    if (!start(&f, "A")) return;
    stranger = (log_node){.hub = &f.hub, .attached = f.hub.identity};
    zc_bus bus = lb_hook(&stranger, false);
    zc_bus_sink none = {zc__bus_unheard, NULL};
    zc_sealer foreign, ours;
    unsigned char names[2][64];
    size_t len[2];
    REQUIRE(sealer_of(&foreign, "C") && sealer_of(&ours, "A"));
    CHECK_EQ(foreign.tag_seal(foreign.user, 0, zc_str("t"), names[0], &len[0]), ZC_OK);
    CHECK_EQ(ours.tag_seal(ours.user, 0, zc_str("t"), names[1], &len[1]), ZC_OK);
    names[1][len[1] - 1] ^= 1;
    zc_bytes lists[][2] = {{zc_str("t"), zc_str("u")},
                           {zc_slice(names[0], len[0]), zc_slice(names[0], len[0])},
                           {zc_slice(names[1], len[1]), zc_slice(names[0], len[0])},
                           {zc_slice(names[0], len[0]), zc_str("u")}};
    for (unsigned i = 0; i < 4; i++) {
        zc_stats was = stats(&f, 1);
        CHECK_EQ(put(&f, 1, "k", "nothing:of:it"), ZC_OK);
        CHECK_EQ(get(&f, 1, "k"), ZC_OK);
        CHECK_EQ(bus.append(&stranger, lists[i], 2, false, f.hub.tail, &none), ZC_OK);
        hear(&f);
        CHECK_EQ(get(&f, 1, "k"), ZC_MISS);
        zc_stats is = stats(&f, 1);
        CHECK_EQ(is.store_forged - was.store_forged, i != 1);
        CHECK_EQ(is.store_unkeyed - was.store_unkeyed, i == 1);
        CHECK_EQ(is.bus_breaks, was.bus_breaks);
    }
    foreign.close(foreign.user);
    ours.close(ours.user);
    stop(&f);
}

TEST(a_sealed_log_takes_nobody_in_who_has_no_key) {
    fleet f;
    memset(&f, 0, sizeof f);
    f.time.mono = 5 * ZC_SECOND;
    f.time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f.hub);
    fs_init(&f.store);
    CHECK_EQ(join(&f, 0, ""), ZC_OK); /* before the log is sealed */
    CHECK_EQ(put(&f, 0, "k", "t"), ZC_OK);
    CHECK_EQ(kill_tag(&f, 0, "u"), ZC_OK);
    CHECK_EQ(get(&f, 0, "k"), ZC_OK);
    CHECK_EQ(join(&f, 1, "A"), ZC_OK);
    CHECK_EQ(put(&f, 1, "s", "t"), ZC_OK);
    /* What it says from now on would not be known to who joins later: it is not acknowledged. */
    CHECK_EQ(kill_tag(&f, 0, "t"), ZC_E_BUS);
    CHECK_EQ(get(&f, 0, "k"), ZC_MISS);
    CHECK_EQ(get(&f, 1, "s"), ZC_OK);
    CHECK_EQ(join(&f, 2, ""), ZC_OK);
    CHECK_EQ(kill_tag(&f, 2, "t"), ZC_E_BUS);
    CHECK_EQ(get(&f, 2, "k"), ZC_MISS);
    hear(&f);
    CHECK_EQ(stats(&f, 2).bus_age, ZC_NEVER);
    CHECK_EQ(put(&f, 1, "s", "t"), ZC_OK);
    CHECK_EQ(get(&f, 1, "s"), ZC_OK);
    /* Another log, which has lost the mark, gets it again. */
    leave(&f, 2);
    lb_restart(&f.hub, 0);
    memset(f.hub.hold_ids, 0, sizeof f.hub.hold_ids);
    hear(&f);
    hear(&f);
    CHECK_EQ(join(&f, 2, ""), ZC_OK);
    CHECK_EQ(kill_tag(&f, 2, "t"), ZC_E_BUS);
    stop(&f);
}

/* A mark that was begun when its author died: who comes tells all once more. */
TEST(a_mark_that_not_all_were_told_of_is_told_again) {
    fleet f;
    log_node stranger;
    zc_bytes half = zc_str(ZC__SEALING);
    memset(&f, 0, sizeof f);
    f.time.mono = 5 * ZC_SECOND;
    f.time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f.hub);
    fs_init(&f.store);
    CHECK_EQ(join(&f, 0, ""), ZC_OK);
    stranger = (log_node){.hub = &f.hub, .attached = f.hub.identity};
    CHECK_EQ(lb_hold(&stranger, ZC__SEAL_MARK, &half, 1), ZC_OK);
    CHECK_EQ(kill_tag(&f, 0, "t"), ZC_OK); /* it has not heard */
    CHECK_EQ(join(&f, 1, "A"), ZC_OK);
    CHECK_EQ(kill_tag(&f, 0, "t"), ZC_E_BUS);
    uint64_t tail = f.hub.tail;
    CHECK_EQ(join(&f, 2, "A"), ZC_OK); /* and that was all */
    CHECK_EQ(f.hub.tail, tail);
    stop(&f);
}

/* A hold by a key that is not here cannot be kept: then nothing is served. */
TEST(who_lacks_the_key_of_a_hold_is_not_taken_in) {
    fleet f;
    uint64_t hold;
    zc_bytes tag = zc_str("t");
    if (!start(&f, "B")) return;
    CHECK_EQ(zc_hold(f.c[0], &tag, 1, LEASE, &hold), ZC_OK);
    CHECK_EQ(join(&f, 2, "C"), ZC_OK);
    CHECK_EQ(put(&f, 2, "k", "t"), ZC_OK);
    CHECK_EQ(get(&f, 2, "k"), ZC_MISS);
    CHECK_EQ(zc_hold_end(f.c[0], hold), ZC_OK);
    hear(&f);
    CHECK_EQ(put(&f, 2, "k", "t"), ZC_OK);
    CHECK_EQ(get(&f, 2, "k"), ZC_OK);
    stop(&f);
}

/* ---- faults ---- */

TEST(no_failed_allocation_loses_an_invalidation) {
    fleet f;
    if (!start(&f, "AB")) return;
    for (uint64_t n = 1;; n++) {
        CHECK_EQ(put(&f, 1, "k", "t:x"), ZC_OK);
        f.mem.count = f.mem.failed = 0;
        f.mem.fail_at = n;
        int rc = kill_tag(&f, 0, "t");
        (void)zc_poll(f.c[1], ZC_SECOND);
        bool failed = f.mem.failed != 0;
        f.mem.fail_at = 0;
        CHECK(rc == ZC_OK || rc == ZC_E_BUS);
        if (rc != ZC_OK) CHECK(stats(&f, 0).bus_pending > 0);
        hear(&f);
        hear(&f);
        CHECK_EQ(stats(&f, 0).bus_pending, 0);
        CHECK_EQ(get(&f, 1, "k"), ZC_MISS);
        if (failed) continue;
        CHECK(n > 3);
        break;
    }
    stop(&f);
}

/* ---- a real log ---- */

TEST(an_lmdb_file_shows_no_tag_and_takes_the_longest) {
    lmdb_dir dir;
    char name[128], longest[ZC_TAG_MAX + 1], text[8];
    memset(longest, 'q', ZC_TAG_MAX);
    longest[ZC_TAG_MAX] = 0;
    zc_cache *c;
    REQUIRE(ld_make(&dir));
    zc_bytes deps[2] = {zc_str("tag-of-carol:below"), zc_str(longest)}, tags[2] = {deps[0], deps[1]};
    tags[0] = zc_str("tag-of-carol");
    zc_put_opts o = {.deps = deps, .ndeps = 2};
    for (int life = 0; life < 3; life++) { /* the last has no key */
        zc_desc d = {.no_thread = true};
        zc_lmdb_desc l = {.path = dir.path, .map_size = 16 << 20};
        uint64_t hold = 0;
        size_t len;
        REQUIRE(zc_lmdb_open(&l, &d.store, &d.bus) == ZC_OK);
        REQUIRE((life == 2 || sealer_of(&d.sealer, "BA")) && zc_open(&d, &c) == ZC_OK);
        for (int i = 0; i < 4 && life < 2; i++) {
            CHECK_EQ(zc_get_copy(c, zc_str("k"), text, sizeof text, &len),
                     life && !i ? ZC_OK : ZC_MISS);
            CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
            CHECK_EQ(zc_get_copy(c, zc_str("k"), text, sizeof text, &len), ZC_OK);
            if (i < 2) CHECK_EQ(zc_invalidate(c, tags[i]), ZC_OK);
            else if (i == 2) CHECK_EQ(zc_invalidate_many(c, tags, 2), ZC_OK);
            else CHECK_EQ(zc_hold(c, tags, 2, LEASE, &hold), ZC_OK);
            CHECK_EQ(zc_get_copy(c, zc_str("k"), text, sizeof text, &len), ZC_MISS);
            if (i == 3) CHECK_EQ(zc_hold_end(c, hold), ZC_OK);
            if (i == 3) CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
        }
        if (life == 2) CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_E_BUS);
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
    }
    FILE *file = fopen(ld_file(&dir, "data.mdb", name), "rb");
    REQUIRE(file != NULL && fseek(file, 0, SEEK_END) == 0);
    size_t n = (size_t)ftell(file);
    rewind(file);
    char *all = (char *)malloc(n);
    REQUIRE(all && fread(all, 1, n, file) == n);
    CHECK(!memmem(all, n, "of-carol", 8) && !memmem(all, n, "below", 5) &&
          !memmem(all, n, "qqqqqqqq", 8) && memmem(all, n, ZC__SEALED, 7));
    free(all);
    fclose(file);
    ld_remove(&dir);
}
