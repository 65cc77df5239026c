/* Pinned values while their entries are replaced, evicted, deleted, invalidated, cleared. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

enum { KEYS = 16, THREADS = 6, ROUNDS = 15000 };
#define ALIVE UINT64_C(0x600df00d600df00d)
#define DEAD UINT64_C(0xdeaddeaddeaddead)

/* Dropped things are poisoned and kept in a graveyard, so that a late look finds the poison. */
typedef struct thing {
    uint64_t magic, key; /* atomic: magic */
    int64_t holders;     /* atomic: views that a thread has open on it */
    struct thing *next;
} thing;

typedef struct world {
    zc_cache *c;
    thing *graveyard; /* atomic */
    int64_t made, dropped;
    zc_view kept[THREADS];
} world;

typedef struct worker {
    world *w;
    uint64_t random;
    int id;
} worker;

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x >> 8;
}

static void drop(void *user, void *object, size_t size) {
    world *w = (world *)user;
    thing *t = (thing *)object;
    CHECK_EQ(size, sizeof *t);
    CHECK_EQ(__atomic_exchange_n(&t->magic, DEAD, __ATOMIC_ACQ_REL), ALIVE); /* once */
    CHECK_EQ(__atomic_load_n(&t->holders, __ATOMIC_ACQUIRE), 0);
    t->next = __atomic_load_n(&w->graveyard, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&w->graveyard, &t->next, t, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {}
    __atomic_add_fetch(&w->dropped, 1, __ATOMIC_RELAXED);
}

static thing *make(world *w, uint64_t key) {
    thing *t = (thing *)calloc(1, sizeof *t);
    if (!t) abort();
    t->magic = ALIVE;
    t->key = key;
    __atomic_add_fetch(&w->made, 1, __ATOMIC_RELAXED);
    return t;
}

static int load(zc_fill *fill, void *user) {
    worker *me = (worker *)user;
    thing *t = make(me->w, UINT64_MAX);
    if (next_random(&me->random) % 8 == 0) zc_fill_no_store(fill);
    int rc = zc_fill_object(fill, t, sizeof *t, drop, me->w);
    if (rc != ZC_OK) drop(me->w, t, sizeof *t);
    return next_random(&me->random) % 8 == 0 ? ZC_E_USER : rc;
}

static void inspect(const zc_view *v, uint64_t key) {
    const thing *t = (const thing *)v->data;
    CHECK_EQ(v->size, sizeof *t);
    CHECK_EQ(__atomic_load_n(&t->magic, __ATOMIC_ACQUIRE), ALIVE);
    CHECK(t->key == key || t->key == UINT64_MAX);
}

static void hold_for_a_while(worker *me, zc_view *v, uint64_t key) {
    thing *t = (thing *)(uintptr_t)v->data;
    __atomic_add_fetch(&t->holders, 1, __ATOMIC_ACQ_REL);
    inspect(v, key);
    for (uint64_t n = next_random(&me->random) % 4; n; n--) sched_yield();
    inspect(v, key);
    __atomic_sub_fetch(&t->holders, 1, __ATOMIC_ACQ_REL);
    zc_release(me->w->c, v);
}

static void put_thing(worker *me, uint64_t key) {
    zc_bytes dep = zc_str(key % 2 ? "odd" : "even");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    if (key % 5 == 0) o.ttl = ZC_MILLISECOND;
    thing *t = make(me->w, key);
    int rc = zc_put_object(me->w->c, zc_slice(&key, sizeof key), t, sizeof *t, drop, me->w, &o);
    if (!CHECK_EQ(rc, ZC_OK)) drop(me->w, t, sizeof *t);
}

static void *work(void *user) {
    worker *me = (worker *)user;
    zc_cache *c = me->w->c;
    zc_view *kept = &me->w->kept[me->id], v;
    uint64_t kept_key = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t key = next_random(&me->random) % KEYS, dice = next_random(&me->random) % 100;
        zc_bytes k = zc_slice(&key, sizeof key);
        if (dice < 45) {
            if (zc_get(c, k, &v) == ZC_OK) hold_for_a_while(me, &v, key);
        } else if (dice < 60) {
            if (zc_fetch(c, k, load, me, NULL, &v) == ZC_OK) hold_for_a_while(me, &v, key);
        } else if (dice < 80) {
            put_thing(me, key);
        } else if (dice < 88) {
            CHECK(zc_del(c, k) >= 0);
        } else if (dice < 91) {
            CHECK_EQ(zc_invalidate(c, zc_str(key % 2 ? "odd" : "even")), ZC_OK);
        } else if (dice < 92) {
            CHECK_EQ(zc_clear(c), ZC_OK);
        } else if (dice < 94) {
            (void)zc_poll(c, 20 * ZC_MICROSECOND);
        } else { /* one view is kept for long, the last one beyond zc_close() */
            if (kept->pin) inspect(kept, kept_key);
            zc_release(c, kept);
            if (zc_get(c, k, kept) == ZC_OK) kept_key = key;
        }
    }
    if (kept->pin) inspect(kept, kept_key);
    return NULL;
}

static void pins(zc_desc d) {
    zct_mem mem = {0};
    world w;
    pthread_t thread[THREADS];
    worker me[THREADS];
    memset(&w, 0, sizeof w);
    d.allocator = zct_allocator(&mem);
    d.seed = zct_rand() | 1;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    for (int i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand() | 1, i};
        CHECK_EQ(pthread_create(&thread[i], NULL, work, &me[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    if (d.no_thread) CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_cache *c = w.c;
    zc_close(c);
    for (int i = 0; i < THREADS; i++) {
        if (w.kept[i].pin) CHECK_EQ(((const thing *)w.kept[i].data)->magic, ALIVE);
        zc_release(c, &w.kept[i]);
    }
    CHECK_EQ(mem.blocks, 0);
    CHECK_EQ(w.made, w.dropped);
    printf("    %" PRId64 " things\n", w.made);
    for (thing *t = w.graveyard, *next; t; t = next) {
        next = t->next;
        free(t);
    }
}

TEST(pins_one_shard) { pins((zc_desc){.shards = 1, .max_entries = 8, .no_thread = true}); }
TEST(pins_many_shards) { pins((zc_desc){.shards = 8, .no_thread = true}); }
TEST(pins_and_a_background_thread) { pins((zc_desc){.shards = 4, .max_entries = 10}); }
