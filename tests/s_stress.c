/* Everything at once on a few keys: nobody may ever read what was invalidated before the read. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

/* The "database": truth[k] is the version of row k. A writer raises it, then invalidates the row's
 * tag, and when that has returned it raises floor[k]. So a read that begins when floor[k] is f may
 * not give anything older than f. */
enum { KEYS = 48, GROUPS = 6, THREADS = 6 };

typedef struct world {
    zc_cache *c;
    uint64_t truth[KEYS], floor[KEYS]; /* atomic */
    uint64_t reads, loads, stale;      /* atomic */
    int rounds;
    bool clears;
} world;

typedef struct worker {
    world *w;
    uint64_t random;
} worker;

typedef struct row {
    uint64_t key, version;
} row;

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x >> 8;
}
static uint64_t peek(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static void add(uint64_t *p) { __atomic_add_fetch(p, 1, __ATOMIC_RELAXED); }
static void raise_to(uint64_t *p, uint64_t v) {
    uint64_t old = peek(p);
    while (old < v &&
           !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
}

static zc_bytes tag_of(uint64_t key, char text[32]) {
    snprintf(text, 32, "g%d:k%d", (int)(key % GROUPS), (int)key);
    return zc_str(text);
}

typedef struct request {
    world *w;
    uint64_t key;
} request;

static int load(zc_fill *fill, void *user) {
    request *q = (request *)user;
    char text[32];
    row r = {q->key, peek(&q->w->truth[q->key])};
    add(&q->w->loads);
    if (r.version % 16 == 5) return ZC_E_USER;
    /* Late on purpose, and after the reading: the tag may be pruned in between. */
    int rc = zc_fill_dep(fill, tag_of(q->key, text));
    /* Some have many: looking at them all takes time in which things happen. */
    for (int i = 0; i < 100 && q->key % 4 == 0 && rc == ZC_OK; i++) {
        snprintf(text, sizeof text, "many:%d", i);
        rc = zc_fill_dep(fill, zc_str(text));
    }
    if (rc != ZC_OK) return rc;
    if (r.version % 16 == 7) zc_fill_opts(fill)->ttl = 20000;
    return zc_fill_value(fill, zc_slice(&r, sizeof r));
}

static void judge(world *w, uint64_t key, uint64_t floor, const void *data, size_t size) {
    row r;
    add(&w->reads);
    if (!CHECK_EQ(size, sizeof r)) return;
    memcpy(&r, data, sizeof r);
    CHECK_EQ(r.key, key);
    if (r.version < floor) add(&w->stale);
}

static void read_key(world *w, uint64_t key, bool copy) {
    uint64_t floor = peek(&w->floor[key]);
    zc_view v;
    row r;
    size_t len;
    if (copy) {
        int rc = zc_get_copy(w->c, zc_slice(&key, sizeof key), &r, sizeof r, &len);
        CHECK(rc == ZC_OK || rc == ZC_MISS);
        if (rc == ZC_OK) judge(w, key, floor, &r, len);
        return;
    }
    int rc = zc_get(w->c, zc_slice(&key, sizeof key), &v);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    if (rc == ZC_OK) judge(w, key, floor, v.data, v.size);
    zc_release(w->c, &v);
}

static void fetch_key(world *w, uint64_t key) {
    request q = {w, key};
    uint64_t floor = peek(&w->floor[key]);
    zc_view v;
    int rc = zc_fetch(w->c, zc_slice(&key, sizeof key), load, &q, NULL, &v);
    CHECK(rc == ZC_OK || rc == ZC_E_USER);
    if (rc == ZC_OK) judge(w, key, floor, v.data, v.size);
    zc_release(w->c, &v);
}

static void put_key(world *w, uint64_t key) {
    char text[32];
    zc_bytes dep = tag_of(key, text);
    zc_put_opts o = {.deps = &dep, .ndeps = 1, .begin = zc_begin(w->c)};
    row r = {key, peek(&w->truth[key])};
    int rc = zc_put(w->c, zc_slice(&key, sizeof key), zc_slice(&r, sizeof r), &o);
    CHECK(rc == ZC_OK || rc == ZC_REFUSED);
}

static void change(world *w, uint64_t key) {
    char text[32];
    uint64_t v = __atomic_add_fetch(&w->truth[key], 1, __ATOMIC_SEQ_CST);
    CHECK_EQ(zc_invalidate(w->c, tag_of(key, text)), ZC_OK);
    raise_to(&w->floor[key], v);
}

/* Changes all the keys of a group (or all there are), and invalidates the tag above them. */
static void change_many(world *w, uint64_t group, bool all) {
    uint64_t v[KEYS];
    char text[32];
    for (uint64_t k = 0; k < KEYS; k++)
        if (all || k % GROUPS == group)
            v[k] = __atomic_add_fetch(&w->truth[k], 1, __ATOMIC_SEQ_CST);
    snprintf(text, sizeof text, "g%d", (int)group);
    CHECK_EQ(all ? zc_clear(w->c) : zc_invalidate(w->c, zc_str(text)), ZC_OK);
    for (uint64_t k = 0; k < KEYS; k++)
        if (all || k % GROUPS == group) raise_to(&w->floor[k], v[k]);
}

static void change_two(world *w, uint64_t a, uint64_t b) {
    char text[2][32];
    uint64_t va = __atomic_add_fetch(&w->truth[a], 1, __ATOMIC_SEQ_CST);
    uint64_t vb = __atomic_add_fetch(&w->truth[b], 1, __ATOMIC_SEQ_CST);
    zc_bytes tags[2] = {tag_of(a, text[0]), tag_of(b, text[1])};
    CHECK_EQ(zc_invalidate_many(w->c, tags, 2), ZC_OK);
    raise_to(&w->floor[a], va);
    raise_to(&w->floor[b], vb);
}

static void *work(void *user) {
    worker *me = (worker *)user;
    world *w = me->w;
    for (int i = 0; i < w->rounds; i++) {
        uint64_t key = next_random(&me->random) % KEYS, dice = next_random(&me->random) % 100;
        if (dice < 30) read_key(w, key, dice % 2);
        else if (dice < 60) fetch_key(w, key);
        else if (dice < 70) put_key(w, key);
        else if (dice < 90) change(w, key);
        else if (dice < 93) change_two(w, key, next_random(&me->random) % KEYS);
        else if (dice < 96) change_many(w, key % GROUPS, w->clears && dice == 95);
        else if (dice < 98) zc_prune(w->c, 0);
        else if (dice < 99) (void)zc_poll(w->c, 50 * ZC_MICROSECOND);
        else CHECK(zc_del(w->c, zc_slice(&key, sizeof key)) >= 0);
    }
    return NULL;
}

static void stress(zc_desc d, int rounds, bool clears) {
    zct_mem mem = {0};
    world w;
    pthread_t thread[THREADS];
    worker me[THREADS];
    memset(&w, 0, sizeof w);
    w.rounds = rounds;
    w.clears = clears;
    if (!d.block) d.allocator = zct_allocator(&mem);
    d.seed = zct_rand() | 1;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    for (int i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand() | 1};
        CHECK_EQ(pthread_create(&thread[i], NULL, work, &me[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    CHECK_EQ(w.stale, 0);
    CHECK(w.reads > (uint64_t)rounds / 10 && w.loads > 0);
    /* Quiet again: what can still be read is the truth. */
    for (uint64_t k = 0; k < KEYS; k++) {
        zc_view v;
        if (zc_get(w.c, zc_slice(&k, sizeof k), &v) == ZC_OK)
            CHECK_EQ(((const row *)v.data)->version, w.truth[k]);
        zc_release(w.c, &v);
    }
    zc_stats s;
    zc_stats_read(w.c, &s);
    CHECK_EQ(s.flights, 0);
    printf("    %" PRIu64 " reads, %" PRIu64 " loads, %" PRIu64 " invalidations\n", w.reads,
           w.loads, s.invalidations);
    if (d.no_thread) CHECK_EQ(zc_check(w.c), ZC_OK); /* nobody else is at work */
    zc_close(w.c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(one_shard) { stress((zc_desc){.shards = 1, .no_thread = true}, 20000, true); }
TEST(many_shards_and_a_background_thread) { stress((zc_desc){.shards = 16}, 20000, true); }
TEST(with_evictions) {
    stress((zc_desc){.shards = 4, .max_entries = KEYS / 3, .no_thread = true}, 20000, true);
}
TEST(with_times) {
    stress((zc_desc){.shards = 2, .ttl = 300 * ZC_MILLISECOND, .tti = 40 * ZC_MILLISECOND}, 20000,
           false);
}
TEST(in_a_fixed_block) {
    static unsigned char block[256 * 1024];
    stress((zc_desc){.block = block, .block_size = sizeof block, .no_thread = true}, 20000, true);
}

/* ---- a hot reader beside an invalidator ---- */

enum { HOT_DEPS = 200, HOT_ROUNDS = 5000 };

typedef struct hot {
    zc_cache *c;
    uint64_t truth, floor; /* atomic */
    uint64_t reads, stale;
    int done; /* atomic */
} hot;

static void *read_hot(void *user) {
    hot *h = (hot *)user;
    while (!__atomic_load_n(&h->done, __ATOMIC_ACQUIRE)) {
        uint64_t floor = peek(&h->floor), v = 0;
        int rc = zc_get_copy(h->c, zc_str("hot"), &v, sizeof v, NULL);
        h->reads += rc == ZC_OK;
        h->stale += rc == ZC_OK && v < floor;
    }
    return NULL;
}
static void *make_noise(void *user) {
    hot *h = (hot *)user;
    while (!__atomic_load_n(&h->done, __ATOMIC_ACQUIRE)) {
        CHECK_EQ(zc_invalidate(h->c, zc_str("unrelated")), ZC_OK);
        sched_yield();
    }
    return NULL;
}

TEST(a_hot_reader_beside_an_invalidator) {
    hot h;
    pthread_t reader, noise;
    zc_bytes deps[HOT_DEPS];
    static char text[HOT_DEPS][16];
    memset(&h, 0, sizeof h);
    for (int i = 0; i < HOT_DEPS; i++) {
        snprintf(text[i], sizeof text[i], "d%d", i);
        deps[i] = zc_str(text[i]);
    }
    REQUIRE(zc_open(&(zc_desc){.no_thread = true}, &h.c) == ZC_OK);
    CHECK_EQ(pthread_create(&reader, NULL, read_hot, &h), 0);
    CHECK_EQ(pthread_create(&noise, NULL, make_noise, &h), 0);
    for (int i = 0; i < HOT_ROUNDS; i++) {
        zc_put_opts o = {.deps = deps, .ndeps = HOT_DEPS, .begin = zc_begin(h.c)};
        uint64_t v = peek(&h.truth);
        CHECK_EQ(zc_put(h.c, zc_str("hot"), zc_slice(&v, sizeof v), &o), ZC_OK);
        for (uint64_t n = zct_below(8); n; n--) sched_yield();
        v = __atomic_add_fetch(&h.truth, 1, __ATOMIC_SEQ_CST);
        CHECK_EQ(zc_invalidate(h.c, deps[zct_below(HOT_DEPS)]), ZC_OK);
        raise_to(&h.floor, v);
        for (uint64_t n = zct_below(4); n; n--) sched_yield();
    }
    __atomic_store_n(&h.done, 1, __ATOMIC_RELEASE);
    pthread_join(reader, NULL);
    pthread_join(noise, NULL);
    CHECK_EQ(h.stale, 0);
    printf("    %" PRIu64 " reads\n", h.reads);
    zc_close(h.c);
}
