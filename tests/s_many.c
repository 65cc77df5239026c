/* zc_invalidate_many: no reader sees one tag done and another not. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

/* In round r a writer puts r under both keys, announces the round, and invalidates both tags at once.
 * A reader that knows of the round and finds one key gone knows that the step has happened: the
 * other key may be gone, or be of a later round, but it cannot be of this one. */
enum { READERS = 4, ROUNDS = 20000 };

typedef struct world {
    zc_cache *c;
    uint64_t round;           /* put and announced; atomic */
    int done;                 /* atomic */
    uint64_t seen_gone, torn; /* atomic */
} world;

typedef struct reader {
    world *w;
    const char *first, *second;
} reader;

static uint64_t value_of(zc_cache *c, const char *key) {
    uint64_t v = 0;
    size_t len = 0;
    int rc = zc_get_copy(c, zc_str(key), &v, sizeof v, &len);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    return rc == ZC_OK ? v : 0;
}

static void *watch(void *user) {
    reader *me = (reader *)user;
    world *w = me->w;
    while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE)) {
        uint64_t round = __atomic_load_n(&w->round, __ATOMIC_ACQUIRE);
        if (value_of(w->c, me->first) != 0) continue;
        uint64_t other = value_of(w->c, me->second);
        if (!round) continue;
        __atomic_add_fetch(&w->seen_gone, 1, __ATOMIC_RELAXED);
        if (other && other <= round) __atomic_add_fetch(&w->torn, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void run(const char *tag_a, const char *tag_b, const char *dep_a, const char *dep_b,
                unsigned shards, bool prune) {
    zct_mem mem = {0};
    world w;
    pthread_t thread[READERS];
    zc_bytes tags[2] = {zc_str(tag_a), zc_str(tag_b)}, deps[2] = {zc_str(dep_a), zc_str(dep_b)};
    memset(&w, 0, sizeof w);
    zc_desc d = {.shards = shards, .no_thread = true, .allocator = zct_allocator(&mem)};
    d.seed = zct_rand() | 1;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    reader r[2] = {{&w, "a", "b"}, {&w, "b", "a"}};
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, watch, &r[i % 2]), 0);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < 2; i++) {
            zc_put_opts o = {.deps = &deps[i], .ndeps = 1};
            CHECK_EQ(zc_put(w.c, zc_str(i ? "b" : "a"), zc_slice(&round, sizeof round), &o), ZC_OK);
        }
        __atomic_store_n(&w.round, round, __ATOMIC_RELEASE);
        CHECK_EQ(zc_invalidate_many(w.c, tags, 2), ZC_OK);
        if (prune) zc_prune(w.c, 0);
    }
    __atomic_store_n(&w.done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < READERS; i++) pthread_join(thread[i], NULL);
    CHECK_EQ(w.torn, 0);
    CHECK(w.seen_gone > 0);
    printf("    %" PRIu64 " times seen gone\n", w.seen_gone);
    CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_close(w.c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(two_tags_one_shard) { run("x:a", "x:b", "x:a", "x:b", 1, false); }
TEST(two_tags_two_shards) { run("a", "b:c", "a", "b:c", 16, false); }
TEST(two_tags_above) { run("a", "b", "a:x:y", "b:z:u:v", 16, false); }
TEST(two_tags_pruned) { run("a:1", "b:2", "a:1", "b:2", 4, true); }
