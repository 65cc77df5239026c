/* Threads of one process in one LMDB environment: more of them than there are pooled readers. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "lmdb_dir.h"

#include <inttypes.h>

enum { THREADS = ZC__LMDB_SLOTS + 4, STEPS = 300, KEYS = 50 };

static zc_store store;
static zc_bus bus;
static uint64_t appended; /* atomic */

typedef struct worker {
    zc__thread thread;
    uint64_t seed, followed;
} worker;

/* A value says which key it belongs to, so that a mix of two would show. */
static void write_one(unsigned k, uint64_t n) {
    char key[16], value[64];
    snprintf(key, sizeof key, "k%u", k);
    snprintf(value, sizeof value, "value of %u, %" PRIu64, k, n);
    CHECK_EQ(store.put(store.user, zc_str(key), zc_str(value), n % 3 ? 0 : UINT64_MAX), ZC_OK);
}
static void read_one(unsigned k) {
    char key[16], value[64];
    got g;
    snprintf(key, sizeof key, "k%u", k);
    snprintf(value, sizeof value, "value of %u, ", k);
    int rc = ld_get(&store, zc_str(key), &g);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    if (rc == ZC_OK) CHECK(g.len > strlen(value) && memcmp(g.data, value, strlen(value)) == 0);
    free(g.data);
}

/* Whatever one thread has appended, every other sees as soon as it looks. */
static void follow(worker *w) {
    heard h;
    uint64_t least = __atomic_load_n(&appended, __ATOMIC_ACQUIRE), tail = 0;
    CHECK_EQ(bus.peek(bus.user, &tail), ZC_OK);
    CHECK(tail >= least);
    CHECK_EQ(ld_read(&bus, w->followed, &h), ZC_OK);
    CHECK(h.entries == 0 || h.first == w->followed + 1);
    if (h.entries) w->followed = h.last;
    CHECK(w->followed >= least);
}

ZC__THREAD_FN(work, arg) {
    worker *w = (worker *)arg;
    for (unsigned i = 0; i < STEPS; i++) {
        unsigned k = (unsigned)(zc__random(&w->seed) % KEYS);
        char key[16];
        uint64_t at, before = 0, token = 0;
        snprintf(key, sizeof key, "k%u", k);
        switch (zc__random(&w->seed) % 12) {
        case 0: write_one(k, i); break;
        case 1:
            CHECK_EQ(bus.peek(bus.user, &before), ZC_OK);
            if (CHECK_EQ(ld_append(&bus, key, &at), ZC_OK))
                zc__atomic_raise((zc_shared64 *)&appended, at);
            CHECK(at > before && ld_version(&bus, key) > before); /* others append, too */
            break;
        case 2: CHECK_EQ(store.touch(store.user, zc_str(key), UINT64_MAX), ZC_OK); break;
        case 3: CHECK(store.del(store.user, zc_str(key)) >= 0); break;
        case 4:
            if (store.lock(store.user, zc_str(key), ZC_SECOND, &token) == ZC_OK)
                CHECK_EQ(store.unlock(store.user, zc_str(key), token), ZC_OK);
            break;
        case 5:
            if (i % 5 == 0) CHECK_EQ(bus.beat(bus.user, zc_str("")), ZC_OK);
            break;
        case 6: follow(w); break;
        default: read_one(k);
        }
    }
    follow(w);
    return ZC__THREAD_RESULT;
}

TEST(threads_share_an_environment) {
    static worker w[THREADS];
    lmdb_dir dir;
    zc_lmdb_desc d;
    memset(&d, 0, sizeof d);
    memset(w, 0, sizeof w);
    REQUIRE(ld_make(&dir));
    d.path = dir.path;
    REQUIRE(CHECK_EQ(zc_lmdb_open(&d, &store, &bus), ZC_OK));
    for (size_t i = 0; i < THREADS; i++) {
        w[i].seed = zct_rand();
        REQUIRE(zc__thread_start(&w[i].thread, work, &w[i]));
    }
    for (size_t i = 0; i < THREADS; i++) zc__thread_join(w[i].thread);
    ld_check((zc__lmdb *)store.user);
    store.close(store.user);
    bus.close(bus.user);
    ld_remove(&dir);
}

/* ---- a cache ---- */

static zc_cache *cache;
static uint64_t dropped[KEYS]; /* atomic: the last step before which all values were invalidated */
static uint64_t step;          /* atomic */

/* A value says when it was begun; it must not be older than what was over before the read began. */
static void cache_read(unsigned k, zc_bytes key) {
    char buf[64];
    size_t len;
    unsigned of;
    uint64_t at, least = __atomic_load_n(&dropped[k], __ATOMIC_ACQUIRE);
    int rc = zc_get_copy(cache, key, buf, sizeof buf - 1, &len);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    if (rc != ZC_OK) return;
    buf[len] = '\0';
    CHECK(sscanf(buf, "%u %" SCNu64, &of, &at) == 2 && of == k && at > least);
}

ZC__THREAD_FN(cache_work, arg) {
    worker *w = (worker *)arg;
    for (unsigned i = 0; i < 4 * STEPS; i++) {
        unsigned k = (unsigned)(zc__random(&w->seed) % KEYS);
        char key[16], value[64];
        snprintf(key, sizeof key, "k:%u", k);
        zc_bytes tag = zc_str(key);
        zc_put_opts o;
        memset(&o, 0, sizeof o);
        o.deps = &tag;
        o.ndeps = 1;
        switch (zc__random(&w->seed) % 24) {
        case 0:
        case 1:
            o.begin = zc_begin(cache); /* before its step is taken */
            snprintf(value, sizeof value, "%u %" PRIu64, k,
                     __atomic_add_fetch(&step, 1, __ATOMIC_ACQ_REL));
            (void)zc_put(cache, tag, zc_str(value), &o); /* may be invalidated meanwhile */
            break;
        case 2: {
            uint64_t at = __atomic_add_fetch(&step, 1, __ATOMIC_ACQ_REL);
            CHECK_EQ(zc_invalidate(cache, tag), ZC_OK);
            zc__atomic_raise((zc_shared64 *)&dropped[k], at);
            break;
        }
        default: cache_read(k, tag);
        }
    }
    return ZC__THREAD_RESULT;
}

/* Most reads are copies straight from the file: the table is small. */
TEST(threads_share_a_cache) {
    static worker w[THREADS];
    lmdb_dir dir;
    zc_lmdb_desc l;
    zc_desc d;
    zc_stats stats;
    memset(&l, 0, sizeof l);
    memset(&d, 0, sizeof d);
    memset(w, 0, sizeof w);
    REQUIRE(ld_make(&dir));
    l.path = dir.path;
    REQUIRE(CHECK_EQ(zc_lmdb_open(&l, &d.store, &d.bus), ZC_OK));
    d.max_entries = 8;
    REQUIRE(CHECK_EQ(zc_open(&d, &cache), ZC_OK));
    for (size_t i = 0; i < THREADS; i++) {
        w[i].seed = zct_rand();
        REQUIRE(zc__thread_start(&w[i].thread, cache_work, &w[i]));
    }
    for (size_t i = 0; i < THREADS; i++) zc__thread_join(w[i].thread);
    zc_stats_read(cache, &stats);
    CHECK(stats.hits_store > STEPS);
    CHECK_EQ(zc_check(cache), ZC_OK);
    ld_check((zc__lmdb *)d.store.user);
    zc_close(cache);
    ld_remove(&dir);
}
