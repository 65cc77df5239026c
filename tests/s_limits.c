/* The limits hold at every instant, whoever looks. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

enum { THREADS = 4 };

typedef struct world {
    zc_cache *c;
    size_t keys, max_entries, max_bytes;
    int rounds;
    int done; /* atomic */
    uint64_t looks, most_entries, most_bytes;
} world;

typedef struct worker {
    world *w;
    uint64_t random;
} worker;

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x >> 8;
}

static void *work(void *user) {
    static const unsigned char zeros[600];
    worker *me = (worker *)user;
    world *w = me->w;
    /* At least so many rounds, and until the watcher has looked often. */
    for (int i = 0; i < w->rounds || __atomic_load_n(&w->looks, __ATOMIC_RELAXED) < 300; i++) {
        uint64_t key = next_random(&me->random) % w->keys, dice = next_random(&me->random) % 100;
        zc_bytes k = zc_slice(&key, sizeof key), value;
        zc_view v;
        value = zc_slice(zeros, w->max_bytes ? next_random(&me->random) % sizeof zeros : 8);
        if (dice < 70) {
            CHECK_EQ(zc_put(w->c, k, value, NULL), ZC_OK);
        } else if (dice < 95) {
            zc_get(w->c, k, &v);
            zc_release(w->c, &v);
        } else if (dice < 99) {
            CHECK(zc_del(w->c, k) >= 0);
        } else if (i % 16 == 0) {
            CHECK_EQ(zc_clear(w->c), ZC_OK);
        }
    }
    return NULL;
}

/* With every lock held: an instant of the whole cache. */
static void *look(void *user) {
    world *w = (world *)user;
    zc_cache *c = w->c;
    while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE)) {
        size_t entries = 0, bytes = 0;
        zc__lock_all(c, true);
        for (uint32_t i = 0; i < c->nshards; i++) {
            entries += c->shards[i].count;
            bytes += c->shards[i].cost;
        }
        zc__lock_all(c, false);
        if (w->max_entries) CHECK(entries <= w->max_entries);
        if (w->max_bytes) CHECK(bytes <= w->max_bytes);
        if (entries > w->most_entries) w->most_entries = entries;
        if (bytes > w->most_bytes) w->most_bytes = bytes;
        if (c->nshards == 1) { /* one shard: the public snapshot is as good */
            zc_stats s;
            zc_stats_read(c, &s);
            if (w->max_entries) CHECK(s.entries <= w->max_entries);
            if (w->max_bytes) CHECK(s.bytes <= w->max_bytes);
        }
        __atomic_add_fetch(&w->looks, 1, __ATOMIC_RELAXED);
        sched_yield();
    }
    return NULL;
}

static void hold(zc_desc d, size_t keys, int rounds) {
    zct_mem mem = {0};
    world w = {.keys = keys, .max_entries = d.max_entries, .max_bytes = d.max_bytes,
               .rounds = rounds};
    pthread_t thread[THREADS], watcher;
    worker me[THREADS];
    d.allocator = zct_allocator(&mem);
    d.seed = zct_rand() | 1;
    d.no_thread = true;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    CHECK_EQ(pthread_create(&watcher, NULL, look, &w), 0);
    for (int i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand() | 1};
        CHECK_EQ(pthread_create(&thread[i], NULL, work, &me[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    __atomic_store_n(&w.done, 1, __ATOMIC_RELEASE);
    pthread_join(watcher, NULL);
    printf("    %" PRIu64 " looks, at most %" PRIu64 " entries, %" PRIu64 " bytes\n", w.looks,
           w.most_entries, w.most_bytes);
    CHECK(w.looks >= 300);
    CHECK_EQ(zc_check(w.c), ZC_OK);
    /* Nothing of the limits has got lost: they can still be used to the last entry. */
    if (d.max_entries) {
        zc_stats s;
        CHECK_EQ(zc_clear(w.c), ZC_OK);
        for (uint64_t k = 0; k < d.max_entries * 4; k++)
            CHECK_EQ(zc_put(w.c, zc_slice(&k, sizeof k), zc_str("x"), NULL), ZC_OK);
        zc_stats_read(w.c, &s);
        CHECK_EQ(s.entries, d.max_entries);
    }
    zc_close(w.c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(one_entry) { hold((zc_desc){.max_entries = 1, .shards = 1}, 3, 6000); }
TEST(one_entry_in_64_shards) { hold((zc_desc){.max_entries = 1, .shards = 64}, 50, 3000); }
TEST(ten_entries) { hold((zc_desc){.max_entries = 10}, 30, 10000); }
TEST(ten_entries_in_64_shards) { hold((zc_desc){.max_entries = 10, .shards = 64}, 50, 6000); }
TEST(many_entries) { hold((zc_desc){.max_entries = 3000}, 9000, 20000); }
TEST(bytes) { hold((zc_desc){.max_bytes = 10000, .shards = 1}, 60, 10000); }
TEST(bytes_in_8_shards) { hold((zc_desc){.max_bytes = 20000, .shards = 8}, 200, 10000); }
TEST(both) { hold((zc_desc){.max_bytes = 10000, .max_entries = 20, .shards = 4}, 60, 10000); }
