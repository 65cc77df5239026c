/* The promises of the library, one test for each; those about several nodes are elsewhere.
 *
 *   1  after zc_invalidate() has returned, no read begun later gives what was read before it
 *   3  nothing that was invalidated before a restart or a fork is served after it
 *   4  one loader a key at a time, time-outs aside; every waiter returns
 *   5  the limits hold at every instant
 *   6  pruning never makes a stale entry fresh
 *   7  bytes from the storage, however corrupt: a miss and a counter
 *   8  a failed call changes nothing and leaks nothing
 *   9  a pinned value stays valid until it is released
 *  10  a fault of the storage never reaches the caller's function
 */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include <sys/types.h>
#ifndef _WIN32
#  include <sys/wait.h>
#endif
#include <unistd.h>

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    zc_cache *c;
} fixture;

static bool start(fixture *f, zc_desc d) {
    memset(f, 0, sizeof *f);
    f->time.mono = f->time.wall = 1000000 * ZC_SECOND;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.no_thread = true;
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}

static int put(zc_cache *c, const char *key, const char *value, const char *tag, uint64_t begin) {
    zc_bytes dep = zc_str(tag ? tag : "");
    zc_put_opts o = {.deps = &dep, .ndeps = tag ? 1u : 0u, .begin = begin};
    return zc_put(c, zc_str(key), zc_str(value), &o);
}
static int get(zc_cache *c, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    if (rc == ZC_OK) CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(c, &v);
    return rc;
}

/* ---- 1 ---- */

static const char *const above[] = {"a", "a:b", "a:b:c", "a:b:c:d"};

/* The database row that a loader reads, and what happens right after it has read it. */
typedef struct scene {
    zc_cache *c;
    const char *row, *kill; /* kill: NULL clears */
    int when;               /* 0: before the dependency is named, 1: after it, 2: not at all */
    bool prune;
} scene;

static void strike(scene *s) {
    s->row = "new";
    CHECK_EQ(s->kill ? zc_invalidate(s->c, zc_str(s->kill)) : zc_clear(s->c), ZC_OK);
    if (s->prune) zc_prune(s->c, 0);
}
static int load_row(zc_fill *fill, void *user) {
    scene *s = (scene *)user;
    const char *read = s->row;
    if (s->when == 0) strike(s);
    CHECK_EQ(zc_fill_dep(fill, zc_str("a:b:c:d")), ZC_OK);
    if (s->when == 1) strike(s);
    s->when = 2;
    return zc_fill_value(fill, zc_str(read));
}

TEST(invariant_1_a_finished_invalidation_holds) {
    /* For every tag on the path, and for clear, and for an invalidation before, during and after a
     * fill: by zc_fetch, in pieces, and by zc_put with a begin. */
    for (int i = 0; i < 5; i++) {
        for (int when = 0; when < 2; when++) {
            for (int prune = 0; prune < 2; prune++) {
                fixture f;
                zc_view v;
                if (!start(&f, (zc_desc){0})) return;
                scene s = {f.c, "old", i < 4 ? above[i] : NULL, when, prune};
                CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_row, &s, NULL, &v), ZC_OK);
                zc_release(f.c, &v);
                CHECK_EQ(get(f.c, "k", "new"), ZC_MISS);
                CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_row, &s, NULL, &v), ZC_OK);
                CHECK(v.size == 3 && memcmp(v.data, "new", 3) == 0);
                zc_release(f.c, &v);
                CHECK_EQ(get(f.c, "k", "new"), ZC_OK);

                uint64_t begin = zc_begin(f.c);
                strike(&s);
                CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
                CHECK_EQ(put(f.c, "k", "old", "a:b:c:d", begin), ZC_REFUSED);
                CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
                CHECK_EQ(put(f.c, "k", "new", "a:b:c:d", zc_begin(f.c)), ZC_OK);
                CHECK_EQ(get(f.c, "k", "new"), ZC_OK);
                stop(&f);
            }
        }
    }
}

TEST(invariant_1_a_follower_gets_nothing_older_than_itself) {
    fixture f;
    zc_fill *lead, *before, *after;
    zc_view v;
    if (!start(&f, (zc_desc){0})) return;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &before), ZC_FOLLOW);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a")), ZC_OK);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &after), ZC_FOLLOW);
    CHECK_EQ(zc_fill_dep(lead, zc_str("a:b")), ZC_OK);
    CHECK_EQ(zc_fill_value(lead, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, NULL), ZC_REFUSED);
    CHECK_EQ(zc_flight_wait(before, 0, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(zc_flight_wait(after, 0, &v), ZC_RETRY);
    stop(&f);
}

TEST(invariant_1_every_dependency_of_many_counts) {
    enum { N = 50 };
    fixture f;
    char text[N][16];
    zc_bytes deps[N];
    if (!start(&f, (zc_desc){0})) return;
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "d%d:x", i);
        deps[i] = zc_str(text[i]);
    }
    zc_put_opts o = {.deps = deps, .ndeps = N};
    for (int i = 0; i < N; i++) {
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("v"), &o), ZC_OK);
        /* A read that finds it fresh may remember that, but not for longer than it is true. */
        CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_str("unrelated")), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_slice(text[i], strlen(text[i]) - 2)), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_MISS);
    }
    stop(&f);
}

TEST(invariant_1_whatever_the_wall_clock_does) {
    fixture f;
    if (!start(&f, (zc_desc){0})) return;
    static const uint64_t walls[] = {5000000, 4999999, 1, 0, 9000000, 8999999, 0};
    for (size_t i = 0; i < sizeof walls / sizeof walls[0]; i++) {
        zct_set_wall(&f.time, walls[i] * ZC_SECOND);
        CHECK_EQ(put(f.c, "k", "v", "t", 0), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_MISS);
    }
    stop(&f);
}

/* ---- 3 ---- */

TEST(invariant_3_restart) {
    fixture f;
    fault_store store;
    fs_init(&store);
    if (!start(&f, (zc_desc){.store = fs_hook(&store, true)})) return;
    char key[2] = "0";
    for (int i = 0; i < 4; i++, key[0]++) CHECK_EQ(put(f.c, key, "old", "a:b:c:d", 0), ZC_OK);
    CHECK_EQ(put(f.c, "other", "kept", "z", 0), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a:b")), ZC_OK);
    stop(&f);
    for (int hours = 0; hours < 3; hours++) { /* clocks that run backwards between the lives */
        zc_desc d = {.store = fs_hook(&store, true), .no_thread = true};
        zct_time back = {.mono = ZC_SECOND};
        back.wall = f.time.wall - (uint64_t)hours * 3600 * ZC_SECOND;
        d.clock = zct_clock(&back);
        REQUIRE(zc_open(&d, &f.c) == ZC_OK);
        key[0] = '0';
        for (int i = 0; i < 4; i++, key[0]++) CHECK_EQ(get(f.c, key, ""), ZC_MISS);
        CHECK_EQ(get(f.c, "other", "kept"), ZC_OK);
        zc_close(f.c);
    }
    fs_destroy(&store);
}

#ifndef _WIN32
TEST(invariant_3_fork) {
    fixture f;
    int status = -1;
    if (!start(&f, (zc_desc){0})) return;
    CHECK_EQ(put(f.c, "dead", "v", "a:b", 0), ZC_OK);
    CHECK_EQ(put(f.c, "live", "v", "c", 0), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a")), ZC_OK);
    fflush(stdout);
    zc_fork_prepare(f.c);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_EQ(zc_fork_child(f.c), ZC_OK);
        CHECK_EQ(get(f.c, "dead", ""), ZC_MISS);
        CHECK_EQ(get(f.c, "live", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_str("c")), ZC_OK);
        CHECK_EQ(get(f.c, "live", ""), ZC_MISS);
        fflush(stdout);
        _exit(zct_bad ? 1 : 0);
    }
    zc_fork_parent(f.c);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(get(f.c, "live", "v"), ZC_OK); /* the child's cache is its own */
    CHECK_EQ(get(f.c, "dead", ""), ZC_MISS);
    stop(&f);
}
#endif

/* ---- 4 ---- */

typedef struct herd {
    zc_cache *c;
    int running, most, loads; /* atomic */
} herd;

static int load_one(zc_fill *fill, void *user) {
    herd *h = (herd *)user;
    int now = __atomic_add_fetch(&h->running, 1, __ATOMIC_ACQ_REL);
    if (now > __atomic_load_n(&h->most, __ATOMIC_ACQUIRE))
        __atomic_store_n(&h->most, now, __ATOMIC_RELEASE);
    __atomic_add_fetch(&h->loads, 1, __ATOMIC_ACQ_REL);
    nanosleep(&(struct timespec){0, 300000}, NULL);
    __atomic_sub_fetch(&h->running, 1, __ATOMIC_ACQ_REL);
    return zc_fill_value(fill, zc_str("v"));
}
static void *fetch_often(void *user) {
    herd *h = (herd *)user;
    for (int i = 0; i < 100; i++) {
        zc_view v;
        CHECK_EQ(zc_fetch(h->c, zc_str("k"), load_one, h, NULL, &v), ZC_OK);
        zc_release(h->c, &v);
        if (i % 4 == 0) CHECK(zc_del(h->c, zc_str("k")) >= 0);
        if (i % 4 == 2) CHECK_EQ(zc_clear(h->c), ZC_OK);
    }
    return NULL;
}

TEST(invariant_4_one_loader_at_a_time) {
    herd h = {0};
    pthread_t thread[8];
    REQUIRE(zc_open(&(zc_desc){.no_thread = true}, &h.c) == ZC_OK);
    for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&thread[i], NULL, fetch_often, &h), 0);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL); /* every waiter returns */
    CHECK_EQ(h.most, 1);
    CHECK(h.loads > 20);
    zc_close(h.c);
}

TEST(invariant_4_every_end_of_a_flight_wakes_its_waiters) {
    for (int end = 0; end < 6; end++) {
        fixture f;
        zc_fill *lead, *follow, *next = NULL;
        zc_view v;
        static const int wants[] = {ZC_OK, ZC_E_LOADER, ZC_RETRY, ZC_E_USER, ZC_RETRY, ZC_E_CLOSED};
        if (!start(&f, (zc_desc){0})) return;
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
        CHECK_EQ(zc_flight_wait(follow, 0, &v), ZC_PENDING);
        if (end == 0) CHECK_EQ(zc_fill_value(lead, zc_str("v")), ZC_OK);
        if (end == 0) CHECK_EQ(zc_flight_commit(lead, NULL), ZC_OK);
        if (end == 1) CHECK_EQ(zc_flight_commit(lead, NULL), ZC_E_LOADER);
        if (end == 2 || end == 3) zc_flight_abandon(lead, end == 2 ? 0 : ZC_E_USER);
        if (end == 4) {
            zct_step(&f.time, 60 * ZC_SECOND);
            CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &next), ZC_LEAD);
        }
        if (end == 5) zc_close(f.c);
        CHECK_EQ(zc_flight_wait(follow, 0, &v), wants[end]);
        zc_release(f.c, &v);
        if (end >= 4) zc_flight_abandon(lead, 0);
        zc_flight_abandon(next, 0);
        if (end == 5) CHECK_EQ(f.mem.blocks, 0);
        else stop(&f);
    }
}

/* ---- 5 ---- */

static zc_cache *limited;
static uint64_t over_limit, limit_looks;
static void look_at_limits(void *user, const zc_event *e) {
    zc_stats s;
    (void)user;
    (void)e;
    zc_stats_read(limited, &s);
    over_limit += s.entries > 7 || s.bytes > 2000;
    limit_looks++;
}

TEST(invariant_5_limits_hold_at_every_step) {
    fixture f;
    static unsigned char value[900];
    zc_stats s;
    zc_desc d = {.max_entries = 7, .max_bytes = 2000, .shards = 4};
    d.events = (zc_events){1, ZC_EVENT_REMOVED, look_at_limits, NULL}; /* between removals, too */
    over_limit = limit_looks = 0;
    if (!start(&f, d)) return;
    limited = f.c;
    for (int i = 0; i < 5000; i++) {
        int key = (int)zct_below(40);
        int rc = zc_put(f.c, zc_slice(&key, sizeof key), zc_slice(value, zct_below(900)), NULL);
        CHECK(rc == ZC_OK || rc == ZC_REFUSED);
        zc_stats_read(f.c, &s);
        CHECK(s.entries <= 7 && s.bytes <= 2000);
    }
    CHECK_EQ(over_limit, 0);
    CHECK(limit_looks > 1000);
    stop(&f);
}

/* ---- 6 ---- */

TEST(invariant_6_pruning_never_makes_anything_fresh) {
    /* Dead entries, fills in flight and begins from before, for each tag on the path; pruned after
     * each step, and once the whole path is gone. */
    for (int i = 0; i < 4; i++) {
        for (int rounds = 0; rounds < 4; rounds++) {
            fixture f;
            zc_fill *lead;
            zc_view v;
            uint64_t version;
            if (!start(&f, (zc_desc){0})) return;
            CHECK_EQ(put(f.c, "dead", "v", "a:b:c:d", 0), ZC_OK);
            uint64_t begin = zc_begin(f.c);
            CHECK_EQ(zc_flight_begin(f.c, zc_str("fill"), NULL, &v, &lead), ZC_LEAD);
            CHECK_EQ(zc_invalidate(f.c, zc_str(above[i])), ZC_OK);
            CHECK_EQ(zc_tag_version(f.c, zc_str(above[i]), &version), ZC_OK);
            if (rounds & 1) CHECK_EQ(zc_del(f.c, zc_str("dead")), ZC_OK); /* lets go of the path */
            for (int n = 0; n < 3; n++) {
                zct_step(&f.time, 10 * ZC_SECOND);
                zc_prune(f.c, 0);
                if (rounds & 2) CHECK_EQ(zc_invalidate(f.c, zc_str("a:unrelated")), ZC_OK);
            }
            if (rounds == 1) {
                zc_stats s;
                zc_stats_read(f.c, &s);
                CHECK_EQ(s.tags, 0); /* it was really pruned */
            }
            CHECK_EQ(get(f.c, "dead", ""), ZC_MISS);
            CHECK_EQ(put(f.c, "late", "v", "a:b:c:d", begin), ZC_REFUSED);
            CHECK_EQ(zc_fill_dep(lead, zc_str("a:b:c:d")), ZC_OK);
            CHECK_EQ(zc_fill_value(lead, zc_str("v")), ZC_OK);
            CHECK_EQ(zc_flight_commit(lead, NULL), ZC_REFUSED);
            uint64_t again;
            CHECK_EQ(zc_tag_version(f.c, zc_str(above[i]), &again), ZC_OK);
            CHECK(again >= version);
            CHECK_EQ(put(f.c, "new", "v", "a:b:c:d", 0), ZC_OK);
            CHECK_EQ(get(f.c, "new", "v"), ZC_OK);
            stop(&f);
        }
    }
}

/* ---- 7 ---- */

TEST(invariant_7_corrupt_bytes_are_counted_misses) {
    fixture f;
    fault_store store;
    zc_stats s;
    zc_bytes key = zc_str("k");
    unsigned char good[400], bad[400];
    char value[600];
    memset(value, 'v', sizeof value); /* compressed in the record */
    fs_init(&store);
    if (!start(&f, (zc_desc){.max_entries = 1, .store = fs_hook(&store, true)})) return;
    zc_bytes dep = zc_str("a:b");
    CHECK_EQ(zc_put(f.c, key, zc_slice(value, sizeof value),
                    &(zc_put_opts){.deps = &dep, .ndeps = 1}),
             ZC_OK);
    size_t len = fs_find(&store, key)->len;
    REQUIRE(len < sizeof good);
    memcpy(good, fs_find(&store, key)->data, len);
    uint64_t n = 0;
    int64_t most = 0;
    zc_explanation x;
    do { /* out of the table, and out of the way */
        CHECK_EQ(zc_put(f.c, zc_str("room"), zc_str(""), NULL), ZC_OK);
        CHECK_EQ(zc_explain(f.c, key, &x), ZC_OK);
    } while (x.present && n++ < 100);
    n = 0;
    for (int i = 0; i < 5000; i++) {
        size_t bad_len = i % 3 ? len : zct_below(len + 1);
        memcpy(bad, good, len);
        for (uint64_t k = 1 + zct_below(4); k; k--) {
            size_t at = zct_below(len);
            bad[at] = (unsigned char)(bad[at] ^ (1 + zct_below(255)));
        }
        if (bad_len == len && memcmp(bad, good, len) == 0) continue;
        fs_plant(&store, key, bad, bad_len, 0);
        zc_view v;
        CHECK_EQ(zc_get(f.c, key, &v), ZC_MISS);
        n++;
        if (f.mem.bytes > most) most = f.mem.bytes;
    }
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.store_corrupt, n);
    CHECK(most < 1000000); /* no length in them was believed */
    fs_plant(&store, key, good, len, 0);
    zc_view v;
    CHECK_EQ(zc_get(f.c, key, &v), ZC_OK);
    CHECK(v.size == sizeof value && memcmp(v.data, value, sizeof value) == 0);
    zc_release(f.c, &v);
    stop(&f);
    fs_destroy(&store);
}

/* ---- 8 ---- */

static int load_deps(zc_fill *fill, void *user) {
    int rc = ZC_OK;
    (void)user;
    for (int i = 0; i < 8 && rc == ZC_OK; i++)
        rc = zc_fill_dep(fill, zc_str((const char *[]){"x:1", "x:2", "y", "z:1:2:3", "u", "v", "w",
                                                       "x:3"}[i]));
    return rc == ZC_OK ? zc_fill_value(fill, zc_str("fetched")) : rc;
}

TEST(invariant_8_a_failed_call_changes_nothing) {
    /* (t_oom.c goes through every function; here is the promise in small.) */
    fixture f;
    zc_bytes deps[3] = {zc_str("p:1:2"), zc_str("q"), zc_str("r:5")};
    zc_put_opts o = {.deps = deps, .ndeps = 3, .ttl = 50 * ZC_SECOND};
    zc_view v;
    int rc;
    for (int what = 0; what < 2; what++) {
        uint64_t n = 0;
        do {
            zc_stats before, after;
            if (!start(&f, (zc_desc){0})) return;
            CHECK_EQ(put(f.c, "k", "old", "t", 0), ZC_OK);
            zc_stats_read(f.c, &before);
            f.mem.count = 0;
            f.mem.fail_at = ++n;
            if (what == 0) {
                rc = zc_put(f.c, zc_str("k"), zc_str("new"), &o);
            } else {
                rc = zc_fetch(f.c, zc_str("j"), load_deps, NULL, NULL, &v);
                CHECK((rc == ZC_OK) == (v.pin != NULL));
                zc_release(f.c, &v);
            }
            f.mem.fail_at = 0;
            CHECK(rc == ZC_OK || rc == ZC_E_NOMEM);
            zc_stats_read(f.c, &after);
            CHECK_EQ(after.flights, 0);
            if (rc != ZC_OK) {
                CHECK_EQ(after.entries, before.entries);
                CHECK_EQ(after.bytes, before.bytes);
                CHECK_EQ(after.puts, before.puts);
                CHECK_EQ(get(f.c, "k", "old"), ZC_OK);
            }
            stop(&f);
        } while ((rc != ZC_OK || n < 3) && n < 100);
        CHECK(n > 3 && n < 100);
    }
}

/* ---- 9 ---- */

TEST(invariant_9_pins_last) {
    fixture f;
    zc_view v[6];
    if (!start(&f, (zc_desc){.max_entries = 6})) return;
    for (int i = 0; i < 6; i++) {
        char key[2] = {(char)('0' + i), 0};
        CHECK_EQ(put(f.c, key, "the value as it was", "t", 0), ZC_OK);
        CHECK_EQ(zc_get(f.c, zc_str(key), &v[i]), ZC_OK);
    }
    CHECK_EQ(put(f.c, "0", "replaced by another", "t", 0), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("1")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_str("evicts"), NULL), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    zct_step(&f.time, 7200 * ZC_SECOND);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    zc_prune(f.c, 0);
    CHECK_EQ(zc_check(f.c), ZC_OK);
    zc_close(f.c);
    for (int i = 0; i < 6; i++) {
        CHECK(v[i].size == 19 && memcmp(v[i].data, "the value as it was", 19) == 0);
        zc_release(f.c, &v[i]);
    }
    CHECK_EQ(f.mem.blocks, 0);
}

/* ---- 10 ---- */

static int load_value(zc_fill *fill, void *user) {
    ++*(int *)user;
    CHECK_EQ(zc_fill_dep(fill, zc_str("t")), ZC_OK);
    return zc_fill_value(fill, zc_str("v"));
}

TEST(invariant_10_a_dead_storage_is_not_noticed) {
    fixture f;
    fault_store store;
    zc_stats s;
    zc_view v;
    int loads = 0;
    fs_init(&store);
    if (!start(&f, (zc_desc){.store = fs_hook(&store, true)})) return;
    fs_fail(&store, 0, 0, 1); /* every call fails, for ever */
    for (int i = 0; i < 100; i++) {
        zc_bytes key = zc_slice(&i, sizeof i);
        CHECK_EQ(zc_get(f.c, key, &v), ZC_MISS);
        CHECK_EQ(zc_fetch(f.c, key, load_value, &loads, NULL, &v), ZC_OK);
        CHECK_EQ(v.size, 1);
        zc_release(f.c, &v);
        CHECK_EQ(zc_put(f.c, key, zc_str("put"), NULL), ZC_OK);
        CHECK_EQ(zc_get(f.c, key, &v), ZC_OK);
        zc_release(f.c, &v);
        CHECK_EQ(zc_del(f.c, key), ZC_OK);
        CHECK_EQ(zc_get(f.c, key, &v), ZC_MISS);
    }
    CHECK_EQ(loads, 100);
    zc_stats_read(f.c, &s);
    CHECK(s.store_errors >= 100);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_E_STORE); /* this one is told: it must be kept */
    stop(&f);
    fs_destroy(&store);
}
