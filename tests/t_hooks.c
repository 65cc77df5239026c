/* What the user's own code may do where it is called: event and log hooks, destructors, loaders,
 * completions and releases use the cache, whatever the cache was at. With ZOOCACHE_DEBUG each call
 * out also asserts that no lock is held. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "log_bus.h"

enum { TOLD = 6000 };

typedef struct world {
    zct_mem mem;
    zct_time time;
    fault_store store;
    log_hub hub;
    log_node node, foreign;
    zc_cache *c, *other; /* other: another node of the bus */
    int depth;
    uint64_t calls[6];      /* of events by kind's bit, and of the log hook */
    uint64_t drops, loads, releases, completions;
    uint64_t last_version;  /* of what was told at depth 0 */
    bool out_of_order;
    unsigned char told[TOLD]; /* tags "t<n>" */
    uint64_t everything;      /* times that everything was told */
} world;

static world w;

static int load(zc_fill *fill, void *user) {
    (void)user;
    w.loads++;
    return zc_fill_value(fill, zc_str("loaded"));
}
static void release(void *user);
static void completion(void *user);

/* Uses all that there is. */
static void meddle(void) {
    zc_fetch_opts o = {.release = release, .put.soft_ttl = ZC_SECOND};
    zc_bytes keys[2] = {zc_str("k0"), zc_str("k1")};
    zc_view v, views[2];
    zc_stats st;
    zc_explanation ex;
    zc_fill *t;
    uint64_t version;
    char buf[64];
    int results[2];
    if (!w.c || w.depth) return;
    w.depth++;
    zct_step(&w.time, ZC_MILLISECOND); /* what this does makes work: polling ends by time alone */
    CHECK(zc_get(w.c, zc_str("k2"), &v) != ZC_PENDING);
    zc_release(w.c, &v);
    (void)zc_get_copy(w.c, zc_str("k3"), buf, sizeof buf, NULL);
    CHECK(zc_get_many(w.c, keys, 2, views, results) >= 0);
    for (int i = 0; i < 2; i++) zc_release(w.c, &views[i]);
    int put = zc_put(w.c, zc_str("from a hook"), zc_str("v"), NULL);
    CHECK(put == ZC_OK || put == ZC_E_NOMEM || put == ZC_REFUSED);
    CHECK(zc_fetch(w.c, zc_str("fetched"), load, NULL, &o, &v) <= ZC_STALE);
    zc_release(w.c, &v);
    if (zc_flight_begin(w.c, zc_str("flight"), NULL, &v, &t) == ZC_LEAD)
        zc_flight_abandon(t, ZC_E_USER);
    zc_release(w.c, &v);
    int rc = zc_invalidate(w.c, zc_str("from:a:hook"));
    CHECK(rc == ZC_OK || rc == ZC_E_BUS || rc == ZC_E_STORE);
    CHECK(zc_del(w.c, zc_str("k4")) >= 0);
    rc = zc_catch_up(w.c, zc_token(w.c), 0);
    CHECK(rc == ZC_OK || rc == ZC_E_BUS || rc == ZC_E_TIMEOUT);
    CHECK(zc_poll(w.c, 0) >= 0);
    CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_prune(w.c, 0);
    zc_stats_read(w.c, &st);
    (void)zc_explain(w.c, zc_str("k5"), &ex);
    (void)zc_tag_version(w.c, zc_str("t"), &version);
    zc_fork_prepare(w.c);
    zc_fork_parent(w.c);
    w.depth--;
}

static void release(void *user) {
    (void)user;
    w.releases++;
    meddle();
}
static void completion(void *user) {
    (void)user;
    w.completions++;
    meddle();
}
static void dropped(void *user, void *object, size_t size) {
    (void)user; (void)object; (void)size;
    w.drops++;
    meddle();
}
static void on_log(void *user, zc_log_level level, const char *message) {
    (void)user; (void)level;
    CHECK(strncmp(message, "zoocache: ", 10) == 0);
    w.calls[5]++;
    meddle();
}
static void on_event(void *user, const zc_event *e) {
    unsigned bit = 0, n;
    char tag[80];
    (void)user;
    while (1u << bit != (unsigned)e->kind) bit++;
    w.calls[bit]++;
    if (e->kind == ZC_EVENT_INVALIDATED) {
        snprintf(tag, sizeof tag, "%.*s", (int)e->key.len, (const char *)e->key.ptr);
        if (sscanf(tag, "t%u", &n) == 1 && n < TOLD) w.told[n]++;
        w.everything += e->key.len == 0;
        if (!w.depth) w.out_of_order |= e->version < w.last_version;
        if (!w.depth) w.last_version = e->version;
    }
    meddle();
}

/* ---- every situation ---- */

enum { STORE = 1, BEHIND = 2, BUS = 4, PEEKS = 8, BLOCK = 16, SITUATIONS = 32, ONE = 32 };

static bool start(int what) {
    static unsigned char block[512 << 10];
    memset(&w, 0, sizeof w);
    fs_init(&w.store);
    lb_init(&w.hub);
    w.node.hub = w.foreign.hub = &w.hub;
    w.time.mono = 1000 * ZC_SECOND;
    w.time.wall = UINT64_C(1700000000) * ZC_SECOND;
    zc_desc d = {.no_thread = true, .shards = 1, .clock = zct_clock(&w.time)};
    zc_desc o = d;
    d.events = (zc_events){1, 0, on_event, NULL};
    d.log = (zc_log){1, on_log, NULL};
    if (what & STORE) d.store = fs_hook(&w.store, !(what & BUS));
    d.write_behind = what & BEHIND;
    if (what & BUS) d.bus = lb_hook(&w.node, what & PEEKS);
    if (what & BLOCK) d.block = block, d.block_size = sizeof block;
    else d.allocator = zct_allocator(&w.mem);
    if (!(what & BLOCK)) d.max_entries = what & ONE ? 1 : 8;
    o.bus = lb_hook(&w.foreign, true);
    return CHECK_EQ(zc_open(&d, &w.c), ZC_OK) && CHECK_EQ(zc_open(&o, &w.other), ZC_OK);
}
static void stop(void) {
    CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_cache *c = w.c;
    w.depth++; /* tests/s_close.c */
    zc_close(c);
    zc_close(w.other);
    CHECK_EQ(w.mem.blocks, 0);
    fs_destroy(&w.store);
    lb_destroy(&w.hub);
}

static void invalidate_some(unsigned from, unsigned to) {
    char tag[64];
    for (unsigned i = from; i < to; i++) {
        snprintf(tag, sizeof tag, "t%u:and-a-rather-long-name-behind-it", i);
        CHECK_EQ(zc_invalidate(w.other, zc_str(tag)), ZC_OK);
    }
}

static void store_all(int n) {
    static unsigned char bytes[600];
    zc_put_opts timed = {.ttl = 30 * ZC_SECOND};
    for (int i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        int rc = i % 3 ? zc_put(w.c, zc_str(key), zc_slice(bytes, sizeof bytes), NULL)
                       : zc_put_object(w.c, zc_str(key), bytes, sizeof bytes, dropped, NULL, &timed);
        CHECK(rc == ZC_OK || rc == ZC_E_NOMEM);
    }
}

/* Reads, writes, waits, each of which may hear, fail, evict, or write what waits. */
static void use(int what, unsigned *told) {
    zc_fill *lead, *follow;
    zc_view v;
    char buf[64];
    for (int call = 0; call < 9; call++) {
        if (what & BUS) invalidate_some(*told, *told + 3);
        *told += 3;
        zct_step(&w.time, 50 * ZC_MILLISECOND);
        switch (call) {
        case 0: (void)zc_get(w.c, zc_str("k0"), &v), zc_release(w.c, &v); break;
        case 1: (void)zc_get_copy(w.c, zc_str("k1"), buf, sizeof buf, NULL); break;
        case 2: store_all(3); break;
        case 3: (void)zc_del(w.c, zc_str("k0")); break;
        case 4: (void)zc_invalidate(w.c, zc_str("own:tag")); break;
        case 5: (void)zc_fetch(w.c, zc_str("k9"), load, NULL, NULL, &v), zc_release(w.c, &v); break;
        case 6: (void)zc_catch_up(w.c, zc_token(w.c), 0); break;
        case 7: (void)zc_clear(w.c); break;
        default: (void)zc_poll(w.c, ZC_MILLISECOND);
        }
    }
    if (zc_flight_begin(w.c, zc_str("led"), NULL, &v, &lead) == ZC_LEAD) {
        if (zc_flight_begin(w.c, zc_str("led"), NULL, &v, &follow) == ZC_FOLLOW) {
            CHECK_EQ(zc_flight_notify(follow, completion, NULL), ZC_OK);
            zct_step(&w.time, 100 * ZC_SECOND); /* overdue, and much is expired */
            for (int i = 0; i < 100; i++) (void)zc_poll(w.c, ZC_MILLISECOND);
            zc_flight_abandon(follow, 0);
        }
        zc_flight_abandon(lead, ZC_E_USER);
    }
}

TEST(hooks_use_the_cache_in_every_situation) {
    for (int what = 0; what < SITUATIONS; what++) {
        if ((what & BEHIND && !(what & STORE)) || (what & PEEKS && !(what & BUS))) continue;
        unsigned told = 0;
        if (!start(what)) return;
        for (int bad = 0; bad < 4; bad++) { /* the storage, the bus, both are down */
            store_all(what & BLOCK ? 900 : 12);
            fs_fail(&w.store, 0, 0, bad & 1);
            w.store.fail_rc = bad & 2 ? ZC_E_TIMEOUT : ZC_E_STORE;
            lb_down(&w.node, bad & 2);
            use(what, &told);
            fs_fail(&w.store, 0, 0, 0);
            lb_down(&w.node, false);
            zct_step(&w.time, 20 * ZC_SECOND);
            use(what, &told);
        }
        CHECK(w.calls[0] > 0 && w.calls[1] > 0 && w.drops > 0 && w.completions > 0);
        if (what & STORE) CHECK(w.calls[4] > 0);
        if (what & BUS) CHECK(w.calls[5] > 0); /* the log hook */
        CHECK(w.loads > 0 && w.releases > 0);
        stop();
    }
}

/* An object that has left the table, and waits to be written: who deletes or writes its key, or
 * clears, takes it out, and lets it go before he returns. */
TEST(what_leaves_the_queue_is_let_go_at_once) {
    static int object;
    for (int how = 0; how < 3; how++) {
        if (!start(STORE | BEHIND | ONE)) return;
        CHECK_EQ(zc_put_object(w.c, zc_str("a"), &object, sizeof object, dropped, NULL, NULL),
                 ZC_OK);
        w.depth++;
        CHECK_EQ(zc_put(w.c, zc_str("b"), zc_str("v"), NULL), ZC_OK);
        CHECK_EQ(w.drops, 0);
        w.depth--;
        if (how == 0) CHECK_EQ(zc_del(w.c, zc_str("a")), ZC_MISS);
        if (how == 1) CHECK_EQ(zc_clear(w.c), ZC_OK);
        if (how == 2) { /* no room in the queue: written at once */
            w.depth++;
            for (int i = 0; i < 1100; i++)
                CHECK_EQ(zc_put(w.c, zc_slice(&i, sizeof i), zc_str("v"), NULL), ZC_OK);
            w.depth--;
            CHECK_EQ(zc_put(w.c, zc_str("a"), zc_str("v"), NULL), ZC_OK);
        }
        CHECK_EQ(w.drops, 1);
        stop();
    }
}

/* ---- what is heard is told, all of it, in order ---- */

static void all_are_told(int what, unsigned n) {
    zc_view v;
    if (!start(what)) return;
    invalidate_some(0, n);
    if (what & PEEKS) CHECK_EQ(zc_get(w.c, zc_str("k"), &v), ZC_MISS);
    else while (zc_poll(w.c, ZC_SECOND) == ZC_MORE) {}
    unsigned told = 0;
    for (unsigned i = 0; i < n; i++) told += w.told[i] == 1;
    CHECK_EQ(told, n);
    CHECK(!w.out_of_order && !w.everything);
    zc_stats st;
    zc_stats_read(w.c, &st);
    CHECK_EQ(st.bus_breaks, 0);
    stop();
}
TEST(as_many_as_there_are) {
    all_are_told(BUS, 3500); /* more than fits into what is told at once */
    all_are_told(BUS | PEEKS, 3500);
}

/* In a full block an entry gives way for each of what is new, and is told, too. */
TEST(in_a_full_block) {
    zc_view v;
    if (!start(BUS | PEEKS | BLOCK)) return;
    w.depth++; /* quiet meanwhile */
    store_all(2000);
    w.depth--;
    zc_stats st;
    zc_stats_read(w.c, &st);
    uint64_t before = st.removed[ZC_CAUSE_EVICTED];
    memset(w.calls, 0, sizeof w.calls);
    invalidate_some(0, 300);
    for (int i = 0; i < 300; i++) {
        (void)zc_get(w.c, zc_str("k1999"), &v);
        zc_release(w.c, &v);
    }
    unsigned told = 0;
    for (unsigned i = 0; i < 300; i++) told += w.told[i] == 1;
    zc_stats_read(w.c, &st);
    CHECK(told == 300 && w.everything == 0);
    CHECK(st.removed[ZC_CAUSE_EVICTED] > before && w.calls[0] > 0);
    stop();
}

/* Without memory for a tag's name, everything is told: nothing is lost. */
TEST(without_memory_it_is_everything) {
    for (uint64_t n = 1, more = 1; more && n < 60; n++) {
        zc_view v;
        if (!start(BUS | PEEKS)) return;
        w.depth++; /* only told, for the sake of the counts */
        zc_cache *c = w.c;
        invalidate_some(0, 3);
        w.mem.count = w.mem.failed = 0;
        w.mem.fail_at = n;
        CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_MISS);
        more = w.mem.failed;
        w.mem.fail_at = 0;
        unsigned told = 0;
        for (unsigned i = 0; i < 3; i++) told += w.told[i] == 1;
        CHECK(told == 3 || w.everything == 1);
        w.depth--;
        CHECK(zc_get(c, zc_str("k"), &v) != ZC_PENDING);
        stop();
    }
}

/* ---- the bus's own thread ---- */

typedef struct own {
    zc_cache *c;
    int strict, caught_up;
    bool done; /* atomic */
} own;

static void on_heard(void *user, const zc_event *e) {
    own *o = (own *)user;
    if (e->key.len != 1 || __atomic_load_n(&o->done, __ATOMIC_ACQUIRE)) return;
    o->strict = zc_invalidate(o->c, zc_str("derived"));
    o->caught_up = zc_catch_up(o->c, zc_token(o->c) + 1, ZC_NEVER); /* "more", soon */
    __atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
}

TEST(the_buss_own_thread_does_not_wait_for_itself) {
    static own o;
    zc_cache *other;
    fs_init(&w.store);
    lb_init(&w.hub);
    w.node = (log_node){.hub = &w.hub, .most = 1}; /* so what is appended is not heard at once */
    w.foreign = (log_node){.hub = &w.hub};
    zc_desc d = {.max_staleness = 50 * ZC_MILLISECOND, .ack = ZC_STRICT, .bus_pause = 1};
    d.bus = lb_hook(&w.node, false);
    d.events = (zc_events){1, ZC_EVENT_INVALIDATED, on_heard, &o};
    zc_desc od = {.no_thread = true, .bus = lb_hook(&w.foreign, true)};
    REQUIRE(zc_open(&od, &other) == ZC_OK);
    REQUIRE(zc_open(&d, &o.c) == ZC_OK);
    const zc_bytes tags[] = {zc_str("x"), zc_str("more"), zc_str("more2")};
    for (int i = 0; i < 3; i++) CHECK_EQ(zc_invalidate(other, tags[i]), ZC_OK);
    while (!__atomic_load_n(&o.done, __ATOMIC_ACQUIRE)) {
        (void)zc_invalidate(other, zc_str("still more"));
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    CHECK_EQ(o.strict, ZC_OK);
    CHECK_EQ(o.caught_up, ZC_OK);
    zc_close(o.c);
    zc_close(other);
    lb_destroy(&w.hub);
    fs_destroy(&w.store);
}

/* ---- flights of one's own ---- */

static int nested_rc, in_hook_rc;

/* Without its ticket as the parent, the cache knows by the thread alone. */
static int load_its_own_key(zc_fill *fill, void *user) {
    zc_view v;
    (void)user;
    nested_rc = zc_fetch(w.c, zc_str("k"), load, NULL, NULL, &v);
    zc_release(w.c, &v);
    return zc_fill_value(fill, zc_str("loaded"));
}
static void fetches(void *user, const zc_event *e) {
    zc_view v;
    (void)user;
    if (e->kind != ZC_EVENT_STORE_FAULT || w.depth) return;
    w.depth++;
    in_hook_rc = zc_fetch(w.c, zc_str("k"), load, NULL, NULL, &v);
    zc_release(w.c, &v);
    w.depth--;
}

TEST(a_thread_does_not_wait_for_a_flight_that_it_runs) {
    zc_view v, views[2];
    const zc_bytes keys[2] = {zc_str("j"), zc_str("k")};
    int results[2];
    memset(&w, 0, sizeof w);
    fs_init(&w.store);
    zc_desc d = {.no_thread = true, .flight_timeout = ZC_NEVER, .store = fs_hook(&w.store, false)};
    d.events = (zc_events){1, 0, fetches, NULL};
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    CHECK_EQ(zc_fetch(w.c, zc_str("k"), load_its_own_key, NULL, NULL, &v), ZC_OK);
    zc_release(w.c, &v);
    CHECK_EQ(nested_rc, ZC_E_DEADLOCK);
    CHECK_EQ(zc_del(w.c, zc_str("k")), ZC_OK);
    for (int how = 0; how < 3; how++) { /* the storage fails while the key is led: a hook asks */
        zc_fill *t = NULL;
        in_hook_rc = 99;
        fs_fail(&w.store, 1u << FS_GET, 1, 0);
        if (how == 0) CHECK_EQ(zc_fetch(w.c, zc_str("k"), load, NULL, NULL, &v), ZC_OK);
        if (how == 1) CHECK_EQ(zc_get(w.c, zc_str("k"), &v), ZC_MISS);
        if (how == 2) CHECK_EQ(zc_flight_begin(w.c, zc_str("k"), NULL, &v, &t), ZC_LEAD);
        zc_release(w.c, &v);
        CHECK_EQ(in_hook_rc, ZC_E_DEADLOCK);
        zc_flight_abandon(t, 0);
        fs_fail(&w.store, 0, 0, 0);
        CHECK(zc_del(w.c, zc_str("k")) >= 0);
    }
    CHECK_EQ(zc_get_many(w.c, keys, 2, views, results), 0);
    /* Its ticket may be anybody's: who waits for it, waits. */
    zc_fill *lead, *follow;
    CHECK_EQ(zc_flight_begin(w.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(w.c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_wait(follow, 1, &v), ZC_PENDING);
    zc_flight_abandon(follow, 0);
    zc_flight_abandon(lead, 0);
    zc_close(w.c);
    fs_destroy(&w.store);
}

/* A refresh waits to be run by zc_poll(), which only this thread would call. */
TEST(a_thread_does_not_wait_for_a_refresh_that_it_has_put_aside) {
    zc_fetch_opts o = {.put.soft_ttl = ZC_SECOND, .put.ttl = 3 * ZC_SECOND, .release = release};
    zc_view v;
    for (int how = 0; how < 4; how++) {
        zc_fill *t = NULL;
        if (!start(0)) return;
        w.depth++;
        for (int i = 0; i < 3; i++) { /* the one that is asked for is the second of three */
            char key[8];
            snprintf(key, sizeof key, "r%d", i);
            CHECK_EQ(zc_put(w.c, zc_str(key), zc_str("old"), &o.put), ZC_OK);
        }
        zct_step(&w.time, 2 * ZC_SECOND);
        for (int i = 0; i < 3; i++) {
            char key[8];
            snprintf(key, sizeof key, "r%d", i);
            CHECK_EQ(zc_fetch(w.c, zc_str(key), load, NULL, &o, &v), ZC_STALE);
            zc_release(w.c, &v);
        }
        CHECK(w.loads == 0 && w.releases == 0);
        if (how & 1) zct_step(&w.time, 2 * ZC_SECOND); /* now it is over */
        else CHECK_EQ(zc_clear(w.c), ZC_OK);           /* or dead: what was begun before is, too */
        if (how & 2) {
            CHECK_EQ(zc_flight_begin(w.c, zc_str("r1"), &o, &v, &t), ZC_FOLLOW);
            int rc = zc_flight_wait(t, ZC_NEVER, &v);
            CHECK_EQ(rc, how & 1 ? ZC_OK : ZC_RETRY);
            zc_release(w.c, &v);
        }
        CHECK_EQ(zc_fetch(w.c, zc_str("r1"), load, NULL, NULL, &v), ZC_OK);
        zc_release(w.c, &v);
        CHECK_EQ(w.releases, 1);
        while (zc_poll(w.c, ZC_MILLISECOND) == ZC_MORE) {}
        CHECK_EQ(w.releases, 3);
        w.depth--;
        stop();
    }
}

/* A cache for each call of a storage: made, used and closed, as who collects garbage may do. */
static int put_beside(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    zc_desc d;
    zc_cache *beside;
    zc_view v;
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    (void)user;
    (void)record;
    (void)expires_ms;
    if (!CHECK_EQ(zc_open(&d, &beside), ZC_OK)) return ZC_E_STORE;
    CHECK_EQ(zc_put(beside, key, zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(zc_put(beside, key, zc_str("w"), NULL), ZC_OK);
    CHECK_EQ(zc_get(beside, key, &v), ZC_OK);
    zc_release(beside, &v);
    CHECK_EQ(zc_invalidate(beside, zc_str("a")), ZC_OK);
    zc_close(beside);
    w.loads++;
    return ZC_OK;
}
static int get_nothing(void *user, zc_bytes key, zc_sink *sink) {
    (void)user;
    (void)key;
    (void)sink;
    return ZC_MISS;
}
static int del_nothing(void *user, zc_bytes key) {
    (void)user;
    (void)key;
    return ZC_OK;
}

static int clear_nothing(void *user) {
    (void)user;
    return ZC_OK;
}

TEST(a_storage_uses_another_cache) {
    zc_desc d;
    zc_cache *c;
    memset(&w, 0, sizeof w);
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    d.store.version = 1;
    d.store.get = get_nothing;
    d.store.put = put_beside;
    d.store.del = del_nothing;
    d.store.clear = clear_nothing;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (unsigned i = 0; i < 3; i++) CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(w.loads, 3);
    zc_close(c);
}
