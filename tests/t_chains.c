/* Chains: C1 to C3, growth in small steps, walks in steps while they grow, want of memory. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { N = 20000 };

static zct_mem counts;
static zc__mem mem;
static zc__chains chains;
static zc__link links[N];

static void start(void) {
    memset(&counts, 0, sizeof counts);
    memset(&mem, 0, sizeof mem);
    memset(&chains, 0, sizeof chains);
    memset(links, 0, sizeof links);
    mem.hook = zct_allocator(&counts);
}
static void stop(void) {
    zc__chains_free(&mem, &chains);
    CHECK_EQ(counts.blocks, 0);
}

static bool add(unsigned i) {
    links[i].hash = (uint32_t)zct_rand();
    return zc__chains_add(&mem, &chains, &links[i]);
}
static bool find(unsigned i) {
    zc__link *l = *zc__chain(&chains, links[i].hash);
    while (l && l != &links[i]) l = l->next;
    return l != NULL;
}

/* Goes through all chains, and counts what it meets. */
static size_t walk(void) {
    size_t n = 0;
    for (uint32_t k = 0; k < zc__chains_end(&chains); k++) {
        for (zc__link *l = *zc__chain(&chains, k); l; l = l->next, n++)
            if (zc__chain(&chains, l->hash) != zc__chain(&chains, k)) return SIZE_MAX;
    }
    return n;
}

TEST(no_step_of_growing_moves_much) {
    uint32_t doublings = 0;
    start();
    for (unsigned i = 0; i < N; i++) {
        uint32_t moved = chains.old ? chains.moved : 0, n = chains.n;
        REQUIRE(add(i));
        CHECK_EQ(chains.count, i + 1);
        if (chains.old) {
            CHECK(chains.moved - (chains.n == n ? moved : 0) <= ZC__CHAINS_MOVED);
            CHECK(chains.moved < chains.n / 2);
        }
        CHECK(chains.n >= chains.count); /* C3: it was done in time */
        doublings += chains.n != n;
        CHECK(find(i) && find((unsigned)zct_below(i + 1)));
        if (i % 97 == 0 || chains.n != n) CHECK_EQ(walk(), i + 1);
        CHECK_EQ(zc__chains_size(&chains),
                 (chains.n + (chains.old ? chains.n / 2 : 0)) * sizeof(void *));
        CHECK_EQ((size_t)counts.bytes, zc__chains_size(&chains));
    }
    CHECK(doublings > 8);
    stop();
}

TEST(a_walk_in_steps_passes_none_by) {
    start();
    for (unsigned first = 1; first < 3000; first += 50) {
        for (unsigned i = 0; i < first; i++) REQUIRE(add(i));
        for (unsigned i = 0; i < first; i++) links[i].refs = 0;
        unsigned next = first;
        for (uint32_t at = 0; at < zc__chains_end(&chains);) {
            for (unsigned step = 0; step < 3 && at < zc__chains_end(&chains); step++, at++)
                for (zc__link *l = *zc__chain(&chains, at); l; l = l->next) l->refs++;
            if (next < N && next < 8 * first) REQUIRE(add(next++));
        }
        for (unsigned i = 0; i < first; i++) CHECK(links[i].refs > 0);
        zc__chains_free(&mem, &chains);
        memset(links, 0, sizeof links);
    }
    stop();
}

TEST(without_memory_chains_grow_longer) {
    start();
    counts.fail_from = 1;
    CHECK(!add(0));
    CHECK_EQ(chains.count, 0);
    counts.fail_from = counts.count = 0;
    CHECK(add(0));
    counts.count = 0;
    counts.fail_from = 1;
    for (unsigned i = 1; i < 1000; i++) CHECK(add(i));
    CHECK_EQ(chains.n, 8);
    CHECK_EQ(walk(), 1000);
    counts.fail_from = 0;
    for (unsigned i = 1000; i < 3000; i++) CHECK(add(i)); /* catches up */
    CHECK(chains.n >= 2048);
    CHECK_EQ(walk(), 3000);
    for (unsigned i = 0; i < 3000; i++) CHECK(find(i));
    stop();
}
