/* kill -9 on processes that share one LMDB environment, CRASH_RUNS times (200): whatever they were
 * doing, the file is whole, and nobody reads what was invalidated.
 *
 * The truth is in memory that the processes share: `row` is what a database would hold, `acked` what
 * of it has been invalidated with success. A read that begins after that must not give an older
 * value. A process that is killed between the two owes nobody anything. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "lmdb_dir.h"

#include <signal.h>
#include <sys/mman.h>

enum { KEYS = 40, WRITERS = 3, LONGEST = 3000 };

typedef struct truth {
    uint64_t row[KEYS], acked[KEYS];
    uint64_t reads, hits, invalidations, bad;
} truth;

static truth *world;
static lmdb_dir dir;

typedef struct loading {
    unsigned k;
    unsigned char value[LONGEST];
} loading;

/* A value is its number, and a filling that the number makes. */
static size_t value_size(uint64_t n) { return 8 + (size_t)(n * 37 % (LONGEST - 8)); }

static int load(zc_fill *fill, void *user) {
    loading *l = (loading *)user;
    char tag[16];
    snprintf(tag, sizeof tag, "row:%u", l->k);
    int rc = zc_fill_dep(fill, zc_str(tag));
    uint64_t n = zc__atomic_load_acq(&world->row[l->k]);
    memset(l->value, (int)(n & 255), sizeof l->value);
    memcpy(l->value, &n, 8);
    return rc != ZC_OK ? rc : zc_fill_value(fill, zc_slice(l->value, value_size(n)));
}

/* One read; a read older than what had been acknowledged before it is the failure looked for. */
static void read_one(zc_cache *c, unsigned k) {
    loading l;
    char key[16];
    zc_view v;
    uint64_t least = zc__atomic_load_acq(&world->acked[k]), n = 0;
    l.k = k;
    snprintf(key, sizeof key, "key%u", k);
    if (!CHECK_EQ(zc_fetch(c, zc_str(key), load, &l, NULL, &v), ZC_OK)) return;
    if (CHECK(v.size >= 8)) memcpy(&n, v.data, 8);
    CHECK(n >= least);
    CHECK_EQ(v.size, value_size(n));
    if (v.size > 8) CHECK_EQ(((const unsigned char *)v.data)[v.size - 1], n & 255);
    zc_release(c, &v);
    __atomic_add_fetch(&world->reads, 1, __ATOMIC_RELAXED);
}

static void change_one(zc_cache *c, unsigned k) {
    char tag[16];
    uint64_t n = __atomic_add_fetch(&world->row[k], 1, __ATOMIC_ACQ_REL);
    snprintf(tag, sizeof tag, "row:%u", k);
    bool all = zct_below(50) == 0;
    if (!CHECK_EQ(all ? zc_clear(c) : zc_invalidate(c, zc_str(tag)), ZC_OK)) return;
    zc__atomic_raise(&world->acked[k], n);
    __atomic_add_fetch(&world->invalidations, 1, __ATOMIC_RELAXED);
}

static zc_cache *open_cache(zc_lmdb_desc *d, zc_desc *c) {
    zc_cache *cache = NULL;
    memset(d, 0, sizeof *d);
    memset(c, 0, sizeof *c);
    d->path = dir.path;
    d->map_size = (size_t)8 << 20;
    if (!CHECK_EQ(zc_lmdb_open(d, &c->store, &c->bus), ZC_OK)) return NULL;
    c->max_entries = KEYS / 4; /* most reads go to the file */
    c->no_thread = true;
    CHECK_EQ(zc_open(c, &cache), ZC_OK);
    return cache;
}

/* Reads and writes until it is killed; ends by itself only after a failure. */
static void work(uint64_t seed) {
    zc_lmdb_desc d;
    zc_desc cd;
    zct_random = seed;
    zc_cache *c = open_cache(&d, &cd);
    char filler[LONGEST];
    memset(filler, 'f', sizeof filler);
    while (c && !zct_bad) {
        unsigned k = (unsigned)zct_below(KEYS), what = (unsigned)zct_below(20);
        char key[32];
        if (what < 3) {
            change_one(c, k);
        } else if (what < 4) { /* fills the map, so that records are evicted */
            snprintf(key, sizeof key, "filler%u", (unsigned)zct_below(5000));
            CHECK_EQ(zc_put(c, zc_str(key), zc_slice(filler, sizeof filler), NULL), ZC_OK);
        } else if (what < 5) {
            snprintf(key, sizeof key, "key%u", k);
            CHECK(zc_del(c, zc_str(key)) >= 0);
        } else {
            read_one(c, k);
        }
    }
    __atomic_add_fetch(&world->bad, 1, __ATOMIC_RELAXED);
    _exit(1);
}

/* Opens the file anew, as a restart does, and looks at all of it. */
static void inspect(void) {
    zc_lmdb_desc d;
    zc_desc cd;
    zc_stats st;
    zc_cache *c = open_cache(&d, &cd);
    if (c) {
        ld_check((zc__lmdb *)cd.store.user);
        for (unsigned k = 0; k < KEYS; k++) read_one(c, k);
        zc_stats_read(c, &st);
        CHECK_EQ(st.store_errors + st.store_corrupt + st.bus_errors, 0);
        __atomic_add_fetch(&world->hits, st.hits_store, __ATOMIC_RELAXED);
        zc_close(c);
    }
    fflush(stdout);
    _exit(zct_bad != 0);
}

static pid_t run(uint64_t seed, bool look) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0 && look) inspect();
    if (pid == 0) work(seed);
    return pid;
}

TEST(writers_are_killed) {
    const char *asked = getenv("CRASH_RUNS");
    unsigned runs = asked ? (unsigned)strtoul(asked, NULL, 10) : 200;
    pid_t pids[WRITERS];
    int status = 0;
    world = (truth *)mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                          -1, 0);
    REQUIRE(world != MAP_FAILED);
    REQUIRE(ld_make(&dir));
    for (size_t i = 0; i < WRITERS; i++) pids[i] = run(zct_rand(), false);
    for (unsigned i = 0; i < runs && !world->bad; i++) {
        size_t victim = (size_t)zct_below(WRITERS);
        struct timespec t = {0, (long)(zct_below(12) * 1000000 + zct_below(1000000))};
        nanosleep(&t, NULL);
        kill(pids[victim], SIGKILL);
        CHECK_EQ(waitpid(pids[victim], &status, 0), pids[victim]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        pid_t looker = run(0, true);
        CHECK_EQ(waitpid(looker, &status, 0), looker);
        CHECK_EQ(status, 0);
        pids[victim] = run(zct_rand(), false);
    }
    for (size_t i = 0; i < WRITERS; i++) kill(pids[i], SIGKILL);
    for (size_t i = 0; i < WRITERS; i++) waitpid(pids[i], &status, 0);
    CHECK_EQ(world->bad, 0);
    printf("    %u kills, %" PRIu64 " reads, %" PRIu64 " invalidations, %" PRIu64
           " records met warm by restarts\n",
           runs, world->reads, world->invalidations, world->hits);
    CHECK(runs < 50 || world->hits > 0); /* else this has tested nothing */
    ld_remove(&dir);
    munmap(world, sizeof *world);
}
