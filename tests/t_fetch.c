/* zc_fetch with threads and loaders. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"

static void nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

/* clang-format off */
#define EVENTUALLY(x) do { for (int w_ = 0; w_ < 30000 && !(x); w_++) nap(); CHECK(x); } while (0)
/* clang-format on */

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    zc_cache *c;
} fixture;

static bool start_with(fixture *f, zc_desc d, bool fake) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    d.allocator = zct_allocator(&f->mem);
    if (fake) d.clock = zct_clock(&f->time);
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static bool start(fixture *f) { return start_with(f, (zc_desc){.no_thread = true}, true); }
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

/* What a loader does, and what became of it. */
typedef struct job {
    zc_cache *c;
    const char *text;   /* the value; NULL: absent */
    const char *dep;
    uint64_t ttl, wait_for; /* wait_for: the load goes on until so many callers wait */
    int rc;             /* not 0: returned at once */
    bool sets_nothing, slow;
    int loads, released, go; /* atomic */
} job;

static int load(zc_fill *fill, void *user) {
    job *j = (job *)user;
    __atomic_add_fetch(&j->loads, 1, __ATOMIC_ACQ_REL);
    if (j->wait_for) EVENTUALLY(stats(j->c).waits >= j->wait_for);
    if (j->slow) EVENTUALLY(__atomic_load_n(&j->go, __ATOMIC_ACQUIRE));
    if (j->rc) return j->rc;
    if (j->sets_nothing) return ZC_OK;
    if (j->dep) CHECK_EQ(zc_fill_dep(fill, zc_str(j->dep)), ZC_OK);
    if (j->ttl) zc_fill_opts(fill)->ttl = j->ttl;
    return j->text ? zc_fill_value(fill, zc_str(j->text)) : zc_fill_absent(fill);
}
static void release(void *user) {
    __atomic_add_fetch(&((job *)user)->released, 1, __ATOMIC_ACQ_REL);
}

static int fetch_as(zc_cache *c, const char *key, job *j, const zc_fetch_opts *o,
                    const char *want) {
    zc_view v;
    int rc = zc_fetch(c, zc_str(key), load, j, o, &v);
    if (rc == ZC_OK || rc == ZC_STALE) {
        CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    } else {
        CHECK(!v.data && !v.size);
    }
    zc_release(c, &v);
    return rc;
}

static int get(zc_cache *c, const char *key) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    zc_release(c, &v);
    return rc;
}

typedef struct caller {
    job *j;
    const char *key;
    zc_fetch_opts opts;
    int rc, want;
} caller;

static void *call(void *user) {
    caller *a = (caller *)user;
    a->rc = fetch_as(a->j->c, a->key, a->j, &a->opts, a->j->text ? a->j->text : "");
    return NULL;
}

/* n threads call at once; with wait_for == n - 1 the load lasts until all the others wait. */
static void stampede(job *j, int n, bool promote, int *rcs) {
    pthread_t thread[32];
    caller a[32];
    for (int i = 0; i < n; i++) {
        a[i] = (caller){.j = j, .key = "k", .opts = {.promote = promote, .release = release}};
        CHECK_EQ(pthread_create(&thread[i], NULL, call, &a[i]), 0);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        rcs[i] = a[i].rc;
    }
}

TEST(sixteen_threads_one_load) {
    fixture f;
    int rc[16];
    if (!start_with(&f, (zc_desc){0}, false)) return;
    job j = {.c = f.c, .text = "value", .wait_for = 15};
    stampede(&j, 16, false, rc);
    for (int i = 0; i < 16; i++) CHECK_EQ(rc[i], ZC_OK);
    CHECK_EQ(j.loads, 1);
    CHECK_EQ(j.released, 16);
    zc_stats s = stats(f.c);
    CHECK_EQ(s.fills, 1);
    CHECK_EQ(s.waits, 15);
    CHECK_EQ(s.flights, 0);
    uint64_t loads = 0;
    for (int i = 0; i < ZC_LOAD_BUCKETS; i++) loads += s.load_histogram[i];
    CHECK_EQ(loads, 1);
    stop(&f);
}

TEST(sixteen_threads_one_failure) {
    fixture f;
    int rc[16];
    if (!start_with(&f, (zc_desc){0}, false)) return;
    job j = {.c = f.c, .text = "value", .wait_for = 15, .rc = ZC_E_USER - 3};
    stampede(&j, 16, false, rc);
    for (int i = 0; i < 16; i++) CHECK_EQ(rc[i], ZC_E_USER - 3);
    CHECK_EQ(j.loads, 1);
    CHECK_EQ(j.released, 16);
    CHECK_EQ(get(f.c, "k"), ZC_MISS);
    job k = {.c = f.c, .text = "value"};
    CHECK_EQ(fetch_as(f.c, "k", &k, NULL, "value"), ZC_OK);
    stop(&f);
}

TEST(promotion_tries_each_in_turn) {
    fixture f;
    int rc[8];
    if (!start_with(&f, (zc_desc){0}, false)) return;
    job j = {.c = f.c, .text = "value", .rc = ZC_E_USER, .wait_for = 7};
    stampede(&j, 8, true, rc);
    for (int i = 0; i < 8; i++) CHECK_EQ(rc[i], ZC_E_USER); /* each has led, and failed itself */
    CHECK_EQ(j.loads, 8);
    CHECK_EQ(j.released, 8);
    stop(&f);
}

static int load_second_time(zc_fill *fill, void *user) {
    job *j = (job *)user;
    if (__atomic_add_fetch(&j->loads, 1, __ATOMIC_ACQ_REL) > 1)
        return zc_fill_value(fill, zc_str("second"));
    EVENTUALLY(stats(j->c).waits >= j->wait_for);
    return ZC_E_USER;
}
static void *call_second(void *user) {
    caller *a = (caller *)user;
    zc_view v;
    a->rc = zc_fetch(a->j->c, zc_str("k"), load_second_time, a->j, &a->opts, &v);
    if (a->rc == ZC_OK) CHECK(v.size == 6 && memcmp(v.data, "second", 6) == 0);
    zc_release(a->j->c, &v);
    return NULL;
}

TEST(one_is_promoted) {
    fixture f;
    pthread_t thread[8];
    caller a[8];
    int failed = 0;
    if (!start_with(&f, (zc_desc){0}, false)) return;
    job j = {.c = f.c, .wait_for = 7};
    for (int i = 0; i < 8; i++) {
        a[i] = (caller){.j = &j, .opts = {.promote = true}};
        CHECK_EQ(pthread_create(&thread[i], NULL, call_second, &a[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(thread[i], NULL);
        failed += a[i].rc == ZC_E_USER;
        CHECK(a[i].rc == ZC_OK || a[i].rc == ZC_E_USER);
    }
    CHECK_EQ(failed, 1); /* the first leader alone */
    CHECK_EQ(j.loads, 2);
    stop(&f);
}

typedef struct many {
    zc_cache *c;
    int loads[64]; /* by key */
    zct_barrier start;
} many;

typedef struct many_load {
    many *m;
    int key;
} many_load;

static int load_many(zc_fill *fill, void *user) {
    many_load *l = (many_load *)user;
    __atomic_add_fetch(&l->m->loads[l->key], 1, __ATOMIC_ACQ_REL);
    nap();
    return zc_fill_value(fill, zc_slice(&l->key, sizeof l->key));
}

static void *fetch_many(void *user) {
    many *m = (many *)user;
    zct_barrier_wait(&m->start);
    for (int i = 0; i < 64; i++) {
        many_load l = {m, i};
        zc_view v;
        CHECK_EQ(zc_fetch(m->c, zc_slice(&i, sizeof i), load_many, &l, NULL, &v), ZC_OK);
        CHECK(v.size == sizeof i && memcmp(v.data, &i, sizeof i) == 0);
        zc_release(m->c, &v);
    }
    return NULL;
}

TEST(many_keys_many_threads) {
    fixture f;
    pthread_t thread[8];
    many m;
    memset(&m, 0, sizeof m);
    if (!start_with(&f, (zc_desc){.shards = 4}, false)) return;
    m.c = f.c;
    zct_barrier_init(&m.start, 8);
    for (int i = 0; i < 8; i++) CHECK_EQ(pthread_create(&thread[i], NULL, fetch_many, &m), 0);
    for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 64; i++) CHECK_EQ(m.loads[i], 1);
    zct_barrier_destroy(&m.start);
    stop(&f);
}

/* ---- what loaders may do ---- */

TEST(loaders_that_fail) {
    fixture f;
    if (!start(&f)) return;
    job j = {.c = f.c, .rc = -1234};
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), -1234);
    j.rc = 5; /* positive codes mean nothing */
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), ZC_E_LOADER);
    j.rc = 0;
    j.sets_nothing = true;
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), ZC_E_LOADER);
    CHECK_EQ(j.loads, 3);
    zc_stats s = stats(f.c);
    CHECK_EQ(s.fill_errors, 3);
    CHECK_EQ(s.fills, 0);
    CHECK_EQ(s.entries, 0);
    stop(&f);
}

TEST(negative_results) {
    fixture f;
    if (!start_with(&f, (zc_desc){.no_thread = true, .negative_ttl = 5 * ZC_SECOND,
                                  .ttl = 100 * ZC_SECOND}, true))
        return;
    job j = {.c = f.c};
    zc_fetch_opts o = {.put = {.negative_ttl = ZC_SECOND}};
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), ZC_ABSENT);
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), ZC_ABSENT);
    CHECK_EQ(fetch_as(f.c, "own", &j, &o, ""), ZC_ABSENT);
    CHECK_EQ(j.loads, 2);
    zct_step(&f.time, ZC_SECOND);
    CHECK_EQ(get(f.c, "own"), ZC_MISS);
    zct_step(&f.time, 4 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "k"), ZC_ABSENT);
    zct_step(&f.time, 1);
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, ""), ZC_ABSENT);
    CHECK_EQ(j.loads, 3);
    /* A dependency kills it as it kills a value. */
    j.dep = "t";
    CHECK_EQ(fetch_as(f.c, "dep", &j, NULL, ""), ZC_ABSENT);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(get(f.c, "dep"), ZC_MISS);
    stop(&f);
}

TEST(the_loader_chooses_the_ttl) {
    fixture f;
    if (!start_with(&f, (zc_desc){.no_thread = true, .ttl = 100 * ZC_SECOND}, true)) return;
    job j = {.c = f.c, .text = "v", .ttl = 3 * ZC_SECOND};
    zc_fetch_opts o = {.put = {.ttl = 50 * ZC_SECOND}};
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK);
    zct_step(&f.time, 3 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "k"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "k"), ZC_MISS);
    j.ttl = 0;
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK);
    zct_step(&f.time, 50 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "k"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "k"), ZC_MISS);
    j.ttl = ZC_NEVER;
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK);
    zct_step(&f.time, 10000 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k"), ZC_OK);
    stop(&f);
}

static int load_and_invalidate(zc_fill *fill, void *user) {
    job *j = (job *)user;
    j->loads++;
    CHECK_EQ(zc_fill_dep(fill, zc_str("row:7")), ZC_OK);
    CHECK_EQ(zc_fill_value(fill, zc_str("read before")), ZC_OK);
    return zc_invalidate(j->c, zc_str("row:7"));
}

TEST(an_invalidation_inside_the_loader) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    job j = {.c = f.c};
    for (int i = 1; i <= 3; i++) {
        CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_and_invalidate, &j, NULL, &v), ZC_OK);
        CHECK(v.size == 11); /* good for the caller that led */
        zc_release(f.c, &v);
        CHECK_EQ(get(f.c, "k"), ZC_MISS); /* and for nobody after it */
        CHECK_EQ(j.loads, i);
    }
    CHECK_EQ(stats(f.c).refused, 3);
    stop(&f);
}

TEST(static_dependencies_and_those_of_the_loader) {
    fixture f;
    zc_tag *tag;
    zc_explanation x;
    if (!start(&f)) return;
    CHECK_EQ(zc_tag_intern(f.c, zc_str("interned"), &tag), ZC_OK);
    zc_bytes deps[2] = {zc_str("s:1"), zc_str("s:2")};
    zc_fetch_opts o = {.put = {.deps = deps, .ndeps = 2, .tags = &tag, .ntags = 1}};
    job j = {.c = f.c, .text = "v", .dep = "dynamic"};
    static const char *const kill[] = {"s:1", "s:2", "interned", "dynamic", "s"};
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK);
        CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
        CHECK_EQ(x.deps, 4);
        CHECK_EQ(get(f.c, "k"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_str(kill[i])), ZC_OK);
        CHECK_EQ(get(f.c, "k"), ZC_MISS);
    }
    zc_tag_release(f.c, tag);
    stop(&f);
}

static int drops;
static void drop(void *user, void *object, size_t size) {
    CHECK(user == &drops && object == &drops && size == 9);
    drops++;
}
static int load_object(zc_fill *fill, void *user) {
    job *j = (job *)user;
    j->loads++;
    CHECK_EQ(zc_fill_object(fill, &drops, 9, drop, &drops), ZC_OK);
    return j->rc;
}

TEST(loaders_of_objects) {
    fixture f;
    zc_view v;
    drops = 0;
    if (!start_with(&f, (zc_desc){.no_thread = true, .max_bytes = 150}, true)) return;
    job j = {.c = f.c};
    char key[200];
    memset(key, 'k', sizeof key);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_object, &j, NULL, &v), ZC_OK);
    CHECK(v.data == &drops && v.size == 9);
    zc_release(f.c, &v);
    CHECK_EQ(drops, 0);
    /* Too large for the cache: the caller has it, and ends its life. */
    CHECK_EQ(zc_fetch(f.c, zc_slice(key, sizeof key), load_object, &j, NULL, &v), ZC_OK);
    CHECK(v.data == &drops);
    CHECK_EQ(drops, 0);
    zc_release(f.c, &v);
    CHECK_EQ(drops, 1);
    /* A loader that gives one and fails nevertheless. */
    j.rc = ZC_E_USER;
    CHECK_EQ(zc_fetch(f.c, zc_str("j"), load_object, &j, NULL, &v), ZC_E_USER);
    CHECK_EQ(drops, 2);
    stop(&f);
    CHECK_EQ(drops, 3);
}

static int load_nested(zc_fill *fill, void *user) {
    job *j = (job *)user;
    zc_fetch_opts o = {.parent = fill};
    job inner = {.c = j->c, .text = "inner", .dep = "inner:dep"};
    j->loads++;
    CHECK_EQ(fetch_as(j->c, "inner", &inner, &o, "inner"), ZC_OK);
    return zc_fill_value(fill, zc_str("outer"));
}

TEST(nested_fetches_hand_dependencies_up) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    job j = {.c = f.c};
    for (int i = 0; i < 2; i++) { /* first the inner one is a miss, then a hit */
        CHECK_EQ(zc_fetch(f.c, zc_str("outer"), load_nested, &j, NULL, &v), ZC_OK);
        zc_release(f.c, &v);
        CHECK_EQ(get(f.c, "outer"), ZC_OK);
        if (i == 0) CHECK_EQ(zc_del(f.c, zc_str("outer")), ZC_OK);
    }
    CHECK_EQ(j.loads, 2);
    CHECK_EQ(zc_invalidate(f.c, zc_str("inner:dep")), ZC_OK);
    CHECK_EQ(get(f.c, "outer"), ZC_MISS);
    stop(&f);
}

/* ---- waiting ---- */

TEST(wait_timeout) {
    fixture f;
    pthread_t thread;
    if (!start_with(&f, (zc_desc){0}, false)) return;
    job j = {.c = f.c, .text = "v", .slow = true};
    caller leader = {.j = &j, .key = "k"};
    CHECK_EQ(pthread_create(&thread, NULL, call, &leader), 0);
    EVENTUALLY(__atomic_load_n(&j.loads, __ATOMIC_ACQUIRE) == 1);
    job mine = {.c = f.c, .text = "mine"};
    zc_fetch_opts o = {.wait_timeout = 10 * ZC_MILLISECOND, .release = release};
    CHECK_EQ(fetch_as(f.c, "k", &mine, &o, ""), ZC_E_TIMEOUT);
    CHECK_EQ(mine.loads, 0);
    CHECK_EQ(mine.released, 1);
    __atomic_store_n(&j.go, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK_EQ(leader.rc, ZC_OK);
    CHECK_EQ(fetch_as(f.c, "k", &mine, &o, "v"), ZC_OK); /* no harm to anybody else */
    stop(&f);
}

TEST(a_follower_takes_over_from_a_dead_leader) {
    fixture f;
    zc_view v;
    zc_fill *dead;
    /* Real time. The leader never comes back; nobody has set a wait_timeout. */
    if (!start_with(&f, (zc_desc){.flight_timeout = 60 * ZC_MILLISECOND}, false)) return;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(zc_flight_begin(f.c, zc_slice(&i, sizeof i), NULL, &v, &dead), ZC_LEAD);
        job j = {.c = f.c, .text = "mine"};
        CHECK_EQ(zc_fetch(f.c, zc_slice(&i, sizeof i), load, &j, NULL, &v), ZC_OK);
        zc_release(f.c, &v);
        CHECK_EQ(j.loads, 1);
        zc_flight_abandon(dead, 0);
    }
    stop(&f);
}

TEST(a_late_loader_gets_its_own_value) {
    fixture f;
    pthread_t thread;
    if (!start(&f)) return;
    job late = {.c = f.c, .text = "late", .slow = true};
    caller a = {.j = &late, .key = "k", .opts = {.flight_timeout = ZC_SECOND}};
    CHECK_EQ(pthread_create(&thread, NULL, call, &a), 0);
    EVENTUALLY(__atomic_load_n(&late.loads, __ATOMIC_ACQUIRE) == 1);
    zct_step(&f.time, ZC_SECOND);
    job j = {.c = f.c, .text = "good"};
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, "good"), ZC_OK);
    __atomic_store_n(&late.go, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK_EQ(a.rc, ZC_OK);
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, "good"), ZC_OK);
    CHECK_EQ(stats(f.c).fills_late, 1);
    stop(&f);
}

/* ---- release ---- */

TEST(release_is_called_once_on_every_path) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    job j = {.c = f.c, .text = "v"};
    zc_fetch_opts o = {.release = release};
    int want = 0;
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK); /* led */
    CHECK_EQ(j.released, ++want);
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "v"), ZC_OK); /* hit */
    CHECK_EQ(j.released, ++want);
    j.rc = ZC_E_USER;
    CHECK_EQ(fetch_as(f.c, "e", &j, &o, ""), ZC_E_USER); /* failed */
    CHECK_EQ(j.released, ++want);
    j.rc = 0;
    CHECK_EQ(zc_fetch(f.c, zc_slice(NULL, 1), load, &j, &o, &v), ZC_E_INVAL); /* bad key */
    CHECK_EQ(j.released, ++want);
    CHECK_EQ(zc_fetch(NULL, zc_str("k"), load, &j, &o, &v), ZC_E_INVAL);
    CHECK_EQ(j.released, ++want);
    zc_bytes bad = zc_str(":");
    o.put.deps = &bad;
    o.put.ndeps = 1;
    CHECK_EQ(fetch_as(f.c, "d", &j, &o, ""), ZC_E_TAG_SEGMENT);
    CHECK_EQ(j.released, ++want);
    o.put.ndeps = 0;
    f.mem.count = 0;
    f.mem.fail_from = 1;
    CHECK_EQ(fetch_as(f.c, "n", &j, &o, ""), ZC_E_NOMEM);
    f.mem.fail_from = 0;
    CHECK_EQ(j.released, ++want);
    zc_fill *lead;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("w"), NULL, &v, &lead), ZC_LEAD);
    zct_step(&f.time, 60 * ZC_SECOND);
    CHECK_EQ(fetch_as(f.c, "w", &j, &o, "v"), ZC_OK); /* took over */
    CHECK_EQ(j.released, ++want);
    zc_flight_abandon(lead, 0);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load, &j, &o, NULL), ZC_E_INVAL); /* no view */
    CHECK_EQ(j.released, ++want);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), NULL, &j, &o, &v), ZC_E_INVAL); /* no loader */
    CHECK_EQ(j.released, ++want);
    stop(&f);
    CHECK_EQ(j.released, want);
}

/* ---- a begin of before ---- */

TEST(a_begin_of_before_the_load) {
    fixture f;
    if (!start(&f)) return;
    job j = {.c = f.c, .text = "old", .dep = "row:1"};
    zc_fetch_opts o = {.begin = zc_begin(f.c)}; /* a snapshot is taken here */
    CHECK_EQ(zc_invalidate(f.c, zc_str("other")), ZC_OK);
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "old"), ZC_OK); /* that was nothing to it */
    CHECK_EQ(get(f.c, "k"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row")), ZC_OK);
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "old"), ZC_OK); /* as the snapshot has it: not stored */
    CHECK_EQ(get(f.c, "k"), ZC_MISS);
    j.text = "new";
    CHECK_EQ(fetch_as(f.c, "k", &j, NULL, "new"), ZC_OK);
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, "new"), ZC_OK); /* what there is is newer: a hit */
    CHECK_EQ(j.loads, 3);
    o.begin = zc_begin(f.c) + 1;
    CHECK_EQ(fetch_as(f.c, "k", &j, &o, ""), ZC_E_INVAL); /* no such version was handed out */
    stop(&f);
}

/* Who follows is given what is as good as he has asked for, and no more. */
TEST(a_follower_with_a_begin_of_before) {
    fixture f;
    zc_fill *lead, *old, *young;
    zc_view v;
    zc_bytes dep = zc_str("row:1");
    if (!start(&f)) return;
    zc_fetch_opts o = {.put = {.deps = &dep, .ndeps = 1, .begin = zc_begin(f.c)}};
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &old), ZC_FOLLOW);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &young), ZC_FOLLOW);
    CHECK_EQ(zc_fill_value(lead, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_REFUSED);
    zc_release(f.c, &v);
    CHECK_EQ(zc_flight_wait(old, 0, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(zc_flight_wait(young, 0, &v), ZC_RETRY);
    stop(&f);
}

typedef struct nesting {
    job inner;
    zc_fetch_opts o;
} nesting;

static int load_from_before(zc_fill *fill, void *user) {
    nesting *n = (nesting *)user;
    zc_fetch_opts o = n->o;
    o.parent = fill;
    CHECK_EQ(fetch_as(n->inner.c, "inner", &n->inner, &o, n->inner.text), ZC_OK);
    return zc_fill_value(fill, zc_str(n->inner.text));
}

/* What is made of a value is not good for longer than that. */
TEST(a_begin_of_before_goes_up_to_the_parent) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    nesting n = {.inner = {.c = f.c, .text = "old", .dep = "row:1"},
                 .o = {.begin = zc_begin(f.c)}};
    CHECK_EQ(zc_invalidate(f.c, zc_str("row:1")), ZC_OK); /* before the outer fill begins */
    CHECK_EQ(zc_fetch(f.c, zc_str("outer"), load_from_before, &n, NULL, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(get(f.c, "inner"), ZC_MISS);
    CHECK_EQ(get(f.c, "outer"), ZC_MISS);
    n.o.begin = 0;
    n.inner.text = "new";
    CHECK_EQ(zc_fetch(f.c, zc_str("outer"), load_from_before, &n, NULL, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK_EQ(get(f.c, "outer"), ZC_OK);
    stop(&f);
}

/* Nor of one that was served although it is invalidated. */
TEST(what_was_invalidated_goes_up_to_the_parent) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    nesting n = {.inner = {.c = f.c, .text = "old", .dep = "row:1"},
                 .o = {.put = {.soft_ttl = 10 * ZC_SECOND}, .serve_invalidated = true}};
    CHECK_EQ(fetch_as(f.c, "inner", &n.inner, &n.o, "old"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row:1")), ZC_OK);
    zc_fill *fill;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("outer"), NULL, &v, &fill), ZC_LEAD);
    n.o.parent = fill;
    CHECK_EQ(fetch_as(f.c, "inner", &n.inner, &n.o, "old"), ZC_STALE);
    CHECK_EQ(zc_fill_value(fill, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(fill, NULL), ZC_REFUSED);
    CHECK_EQ(get(f.c, "outer"), ZC_MISS);
    stop(&f);
}

TEST(the_point_of_some_time_ago) {
    fixture f;
    uint64_t at[200];
    if (!start(&f)) return;
    CHECK_EQ(zc_begin_ago(NULL, 1), 0);
    CHECK_EQ(zc_begin_ago(f.c, ZC_SECOND), 1); /* before every invalidation */
    CHECK_EQ(zc_begin_ago(f.c, 0), zc_begin(f.c));
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        at[i] = zc_begin(f.c);
        uint64_t ago = zc_begin_ago(f.c, ZC_SECOND), most = i < 10 ? 1 : at[i - 10];
        CHECK(ago <= most && ago >= (i < 12 ? 1 : at[i - 12])); /* and little more than that */
        zct_step(&f.time, ZC_SECOND / 10);
    }
    CHECK_EQ(zc_begin_ago(f.c, ZC_NEVER), 1);
    stop(&f);
}

/* Of any lag, also of several at a time, and after pauses: never younger than that, and with lags
 * from a second to hours little older. */
TEST(any_lag_is_kept_to) {
    enum { N = 20000 };
    static uint64_t when[N], version[N];
    static const uint64_t lag[] = {ZC_SECOND, 20 * ZC_SECOND, 3600 * ZC_SECOND};
    fixture f;
    if (!start(&f)) return;
    for (int i = 0; i < N; i++) {
        CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        when[i] = f.time.mono;
        version[i] = zc_begin(f.c);
        uint64_t l = lag[zct_below(3)], ago = zc_begin_ago(f.c, l);
        int at = i;
        while (at >= 0 && version[at] != ago) at--;
        CHECK(at < 0 ? ago == 1 : f.time.mono - when[at] >= l);
        uint64_t most = 2 * l + 10 * ZC_SECOND;
        if (f.time.mono - when[0] > most) CHECK(at >= 0 && f.time.mono - when[at] <= most);
        zct_step(&f.time, zct_below(ZC_SECOND));
    }
    stop(&f);
}

/* A replica that is behind by any time up to the lag, and never goes back. */
typedef struct replica {
    zct_time *time;
    uint64_t when[4000];
    int n, at;
} replica;

static int load_replica(zc_fill *fill, void *user) {
    replica *r = (replica *)user;
    CHECK_EQ(zc_fill_dep(fill, zc_str("row:1")), ZC_OK);
    return zc_fill_value(fill, zc_slice(&r->at, sizeof r->at));
}

TEST(no_value_outlives_the_lag) {
    static replica r;
    fixture f;
    zc_view v;
    const uint64_t lag = 10 * ZC_SECOND;
    if (!start(&f)) return;
    r = (replica){.time = &f.time, .n = 1};
    r.when[0] = 0;
    unsigned stored = 0;
    for (int i = 0; i < 20000; i++) {
        zct_step(&f.time, zct_below(lag / 7));
        if (r.n < 4000 && zct_below(20) == 0) {
            r.when[r.n++] = f.time.mono;
            CHECK_EQ(zc_invalidate(f.c, zc_str("row:1")), ZC_OK);
            if (zct_below(2)) CHECK_EQ(zc_invalidate(f.c, zc_str("row")), ZC_OK);
        }
        uint64_t seen = f.time.mono - zct_below(lag + 1);
        while (r.at + 1 < r.n && r.when[r.at + 1] <= seen) r.at++;
        zc_fetch_opts o = {.put = {.begin = zc_begin_ago(f.c, lag)}};
        stored += get(f.c, "k") == ZC_OK;
        CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_replica, &r, &o, &v), ZC_OK);
        int got = *(const int *)v.data;
        CHECK(got + 1 >= r.n || r.when[got + 1] + lag > f.time.mono);
        zc_release(f.c, &v);
    }
    CHECK(stored > 1000);
    stop(&f);
}
