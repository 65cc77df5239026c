/* Random use of eviction under a limit, with the invariants of every structure checked, and its
 * hits compared with a plain FIFO of the same size. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { KEYS = 4000 };

/* ---- a FIFO ---- */

static bool fifo_in[KEYS];
static unsigned fifo[KEYS], fifo_at, fifo_n;

static bool fifo_use(unsigned key, unsigned cap) {
    if (fifo_in[key]) return true;
    if (fifo_n == cap) fifo_in[fifo[fifo_at]] = false;
    else fifo_n++;
    fifo[fifo_at] = key;
    fifo_at = (fifo_at + 1) % cap;
    fifo_in[key] = true;
    return false;
}

/* ---- workloads ---- */

static unsigned skewed(unsigned n) { /* small numbers far more often */
    unsigned r = (unsigned)zct_below(n), s = (unsigned)zct_below(n), t = (unsigned)zct_below(n);
    return (unsigned)((uint64_t)r * s / n * t / n);
}
static unsigned skewed_keys(unsigned step) { (void)step; return skewed(KEYS); }
static unsigned scan_among_skewed(unsigned step) {
    return step / 2000 % 2 ? 2000 + step % 2000 : skewed(2000);
}
static unsigned loop(unsigned step) { return step % 500; }
static unsigned uniform(unsigned step) { (void)step; return (unsigned)zct_below(KEYS); }
static unsigned drifting(unsigned step) { return (step / 50 + skewed(300)) % KEYS; }

static zc_bytes key_of(unsigned k) {
    static char text[16];
    return zc_slice(text, (size_t)snprintf(text, sizeof text, "%u", k));
}

/* Checks after every step at first, then now and then. Returns the hits; *fifo_hits: a FIFO's.
 * `disturb`: deletes, replaces and clears at random. */
static unsigned run(unsigned cap, unsigned steps, unsigned (*next)(unsigned), bool disturb,
                    unsigned *fifo_hits) {
    zc_desc d;
    zc_cache *c;
    zct_mem mem = {0};
    unsigned hits = 0;
    memset(&d, 0, sizeof d);
    memset(fifo_in, 0, sizeof fifo_in);
    fifo_at = fifo_n = *fifo_hits = 0;
    d.no_thread = true;
    d.shards = 1;
    d.seed = zct_rand();
    d.max_entries = cap;
    d.allocator = zct_allocator(&mem);
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    for (unsigned step = 0; step < steps; step++) {
        unsigned k = next(step);
        char buf[4];
        size_t len;
        *fifo_hits += fifo_use(k, cap);
        if (zc_get_copy(c, key_of(k), buf, sizeof buf, &len) == ZC_OK) hits++;
        else CHECK_EQ(zc_put(c, key_of(k), zc_str("v"), NULL), ZC_OK);
        unsigned what = disturb ? (unsigned)zct_below(60) : 60;
        if (what < 10) (void)zc_del(c, key_of(next(step)));
        else if (what < 20) CHECK_EQ(zc_put(c, key_of(next(step)), zc_str("w"), NULL), ZC_OK);
        else if (what == 20 && zct_below(100) == 0) CHECK_EQ(zc_clear(c), ZC_OK);
        CHECK(c->shards[0].count <= cap);
        if (!disturb && step > cap * 50) CHECK_EQ(c->shards[0].count, fifo_n);
        if (step < 300 || step % 997 == 0)
            if (!CHECK_EQ(zc_check(c), ZC_OK)) break;
    }
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
    return hits;
}

static unsigned (*const loads[])(unsigned) = {skewed_keys, scan_among_skewed, loop, uniform,
                                              drifting};
static const unsigned caps[] = {1, 2, 3, 10, 33, 100, 400, 1000};

TEST(every_workload_and_size) {
    unsigned fifo_hits;
    for (unsigned w = 0; w < sizeof loads / sizeof loads[0]; w++)
        for (unsigned i = 0; i < sizeof caps / sizeof caps[0]; i++)
            (void)run(caps[i], 12000, loads[w], false, &fifo_hits);
}

TEST(with_deletions_replacements_and_clears) {
    unsigned fifo_hits;
    for (unsigned w = 0; w < sizeof loads / sizeof loads[0]; w++)
        for (unsigned i = 0; i < sizeof caps / sizeof caps[0]; i++)
            (void)run(caps[i], 12000, loads[w], true, &fifo_hits);
}

/* The misses that a FIFO has and these have not: where there is something to learn, it is learnt;
 * where there is not, nothing is lost. */
TEST(fewer_misses_than_a_fifo) {
    static const struct {
        unsigned (*load)(unsigned);
        unsigned cap, least_gain; /* per cent of the FIFO's misses; 100: none, but no loss either */
    } cases[] = {{skewed_keys, 100, 110}, {skewed_keys, 400, 115}, {scan_among_skewed, 300, 110},
                 {loop, 450, 150},        {uniform, 400, 99},      {drifting, 100, 98}};
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned fifo_hits, steps = 60000;
        unsigned hits = run(cases[i].cap, steps, cases[i].load, false, &fifo_hits);
        uint64_t misses = steps - hits, fifo_misses = steps - fifo_hits;
        if (!CHECK(misses * cases[i].least_gain <= fifo_misses * 100))
            printf("    case %u: %" PRIu64 " misses, FIFO %" PRIu64 "\n", i, misses, fifo_misses);
    }
}
