/* Slabs: blocks do not overlap and come back, pages and regions are given back, figures, want of
 * memory, threads, fork, and the validator. */
#define _POSIX_C_SOURCE 200809L
#include <stdbool.h>
#include <stdlib.h>

static bool no_regions; /* as if there were no memory for them */
static void *test_aligned_alloc(size_t align, size_t size) {
    return no_regions && size > 65536 ? NULL : aligned_alloc(align, size);
}
#define aligned_alloc test_aligned_alloc
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

#ifdef ZC__SLABS

typedef struct piece {
    unsigned char *ptr;
    size_t size;
    uint64_t hash;
} piece;

static bool take(zc__slabs *s, piece *p, size_t size) {
    p->size = size;
    p->hash = zct_rand() << 20 ^ zct_rand() << 50;
    p->ptr = (unsigned char *)zc__slab_take(s, p->hash, size);
    if (p->ptr) memset(p->ptr, (int)(p->hash >> 50 & 255), size);
    return p->ptr != NULL;
}

/* Gives a piece back, and tells whether its bytes were left alone. */
static bool give(zc__slabs *s, piece *p) {
    bool whole = true;
    for (size_t i = 0; i < p->size; i++) whole = whole && p->ptr[i] == (p->hash >> 50 & 255);
    zc__slab_give(s, p->hash, p->ptr, p->size);
    p->ptr = NULL;
    return whole;
}

static size_t used(const zc__slabs *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->npools; i++) n += s->pools[i].used;
    return n;
}
static size_t pages(const zc__slabs *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->npools; i++) n += s->pools[i].pages;
    return n;
}

/* All kinds of tests work the slabs, also where a cache of its own accord would not. */
static zc_cache *open_cache(const zc_desc *desc) {
    zc_cache *c = NULL;
    if (zc_open(desc, &c) != ZC_OK) return NULL;
    if (!c->mem.slabs) c->mem.slabs = zc__slabs_make(c->nshards);
    return c;
}

TEST(blocks_are_whole_and_apart) {
    enum { N = 20000 };
    zc__slabs *s = zc__slabs_make(4);
    piece *p = (piece *)calloc(N, sizeof *p);
    REQUIRE(s && p);
    CHECK_EQ(s->npools, 4);
    size_t sum = 0;
    for (unsigned round = 0; round < 10 * N; round++) {
        piece *q = &p[zct_below(N)];
        if (q->ptr) {
            sum -= (q->size + 7) / 8 * 8;
            CHECK(give(s, q));
        } else {
            REQUIRE(take(s, q, 1 + zct_below(round % 2 ? ZC__SLAB_MAX : 64)));
            CHECK_EQ((uintptr_t)q->ptr % 8, 0);
            sum += (q->size + 7) / 8 * 8;
        }
        if (round % 50000 == 0) zc__slabs_trim(s);
        if (round % 20000 == 0) CHECK(zc__slabs_check(s));
    }
    CHECK_EQ(used(s), sum);
    for (unsigned i = 0; i < N; i++)
        if (p[i].ptr) CHECK(give(s, &p[i]));
    CHECK_EQ(used(s), 0);
    CHECK(zc__slabs_check(s));
    free(p);
    zc__slabs_destroy(s);
}

TEST(the_last_block_given_is_the_first_taken) {
    zc__slabs *s = zc__slabs_make(1);
    REQUIRE(s != NULL);
    void *a = zc__slab_take(s, 0, 100), *b = zc__slab_take(s, 0, 104);
    CHECK_EQ((char *)b - (char *)a, 104); /* neighbours, without anything in between */
    void *other = zc__slab_take(s, 0, 96);
    zc__slab_give(s, 0, a, 100);
    CHECK(zc__slab_take(s, 0, 90) != a);
    CHECK(zc__slab_take(s, 0, 97) == a);
    CHECK(zc__region_of(other) == zc__region_of(a));
    zc__slabs_destroy(s);
}

TEST(trimming_gives_back_what_is_empty_and_leaves_the_rest) {
    enum { N = 60000 };
    zc__slabs *s = zc__slabs_make(2);
    piece *p = (piece *)calloc(N, sizeof *p);
    REQUIRE(s && p);
    for (unsigned i = 0; i < N; i++) REQUIRE(take(s, &p[i], 136));
    CHECK(s->regions >= 4);
    uint32_t regions = s->regions;
    size_t before = pages(s);
    zc__slabs_trim(s); /* nothing is due */
    CHECK_EQ(pages(s), before);
    for (unsigned i = 0; i < N; i++)
        if (i % 500) CHECK(give(s, &p[i]));
    zc__slabs_trim(s);
    CHECK(zc__slabs_check(s));
    CHECK(pages(s) <= N / 500 + 1 + 2 * ZC__SLAB_FEW);
    CHECK(pages(s) >= N / 500 * 136 / ZC__SLAB_PAGE);
    /* What is left is scattered over all regions; a second try waits until it would do good. */
    CHECK_EQ(s->regions, regions);
    before = pages(s);
    zc__slabs_trim(s);
    CHECK_EQ(pages(s), before);
    for (unsigned i = 0; i < N; i++)
        if (p[i].ptr) CHECK(give(s, &p[i]));
    zc__slabs_trim(s);
    CHECK(zc__slabs_check(s));
    CHECK_EQ(s->regions, 1);
    CHECK_EQ(pages(s), 0);
    for (unsigned i = 0; i < N; i++) REQUIRE(take(s, &p[i], 512)); /* and serves again */
    for (unsigned i = 0; i < N; i++) CHECK(give(s, &p[i]));
    free(p);
    zc__slabs_destroy(s);
}

TEST(pages_of_one_size_serve_another) {
    enum { N = 20000 };
    zc__slabs *s = zc__slabs_make(1);
    piece *p = (piece *)calloc(N, sizeof *p);
    REQUIRE(s && p);
    uint32_t most = 0;
    for (size_t size = 100; size <= 500; size += 50) {
        size_t n = N * 100 / size; /* the same bytes every time */
        for (size_t i = 0; i < n; i++) REQUIRE(take(s, &p[i], size));
        for (size_t i = 0; i < n; i++) CHECK(give(s, &p[i]));
        zc__slabs_trim(s);
        if (s->regions > most) most = s->regions;
        CHECK(zc__slabs_check(s));
    }
    CHECK(most <= 2);
    free(p);
    zc__slabs_destroy(s);
}

TEST(slack_is_what_entries_do_not_use) {
    zc__slabs *s = zc__slabs_make(1);
    piece *p = (piece *)calloc(40000, sizeof *p);
    REQUIRE(s && p);
    size_t own = zc__slabs_size(1);
    CHECK_EQ(zc__slabs_slack(NULL), 0);
    CHECK_EQ(zc__slabs_slack(s), own);
    REQUIRE(take(s, &p[0], 136));
    CHECK_EQ(zc__slabs_slack(s), own + 2 * ZC__SLAB_PAGE - 136);
    for (unsigned i = 1; i < 40000; i++) REQUIRE(take(s, &p[i], 136));
    CHECK(zc__slabs_slack(s) < ZC__SLAB_REGION + 40000 * 2); /* the last region, and the rests */
    CHECK(!s->last->huge || s->regions > 1);
    for (unsigned i = 0; i < 40000; i++) CHECK(give(s, &p[i]));
    free(p);
    zc__slabs_destroy(s);
}

TEST(a_small_cache_is_small) {
    zc_desc d = {.max_entries = 1000, .no_thread = true};
    zc_cache *c = open_cache(&d);
    zc_stats before, after;
    REQUIRE(c != NULL);
    zc_stats_read(c, &before);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), zc_str("a value"), NULL), ZC_OK);
    zc_stats_read(c, &after);
    CHECK(after.memory - before.memory <= 16384);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(memory_comes_back_by_polling) {
    zc_desc d = {.no_thread = true};
    zc_cache *c = open_cache(&d);
    zc_stats empty, full, end;
    char value[200];
    REQUIRE(c != NULL);
    memset(value, 'v', sizeof value);
    zc_stats_read(c, &empty);
    for (unsigned i = 0; i < 50000; i++)
        CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), zc_slice(value, 20 + i % 180), NULL), ZC_OK);
    zc_stats_read(c, &full);
    CHECK(full.memory - empty.memory > 50000 * 150);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_clear(c);
    while (zc_poll(c, 1000000) == ZC_MORE) {}
    zc_stats_read(c, &end);
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK_EQ(end.entries, 0);
    CHECK_EQ(c->mem.slabs->regions, 1);
    zc_close(c);
}

TEST(pins_outlive_the_cache) {
    zc_desc d = {.no_thread = true};
    zc_cache *c = open_cache(&d);
    zc_view small, large;
    char value[1000];
    REQUIRE(c != NULL);
    memset(value, 'v', sizeof value);
    CHECK_EQ(zc_put(c, zc_str("small"), zc_slice(value, 100), NULL), ZC_OK);
    CHECK_EQ(zc_put(c, zc_str("large"), zc_slice(value, 1000), NULL), ZC_OK);
    CHECK_EQ(used(c->mem.slabs), 48 + 8 + 104);
    CHECK_EQ(zc_get(c, zc_str("small"), &small), ZC_OK);
    CHECK_EQ(zc_get(c, zc_str("large"), &large), ZC_OK);
    zc_close(c);
    CHECK(memcmp(small.data, value, 100) == 0 && memcmp(large.data, value, 1000) == 0);
    zc_release(c, &large);
    CHECK(memcmp(small.data, value, 100) == 0);
    zc_release(c, &small);
}

TEST(want_of_memory) {
    zc_desc d = {.no_thread = true};
    zc_cache *c = open_cache(&d);
    unsigned i = 0;
    int rc;
    REQUIRE(c != NULL);
    no_regions = true;
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), NULL), ZC_E_NOMEM);
    no_regions = false;
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), NULL), ZC_OK);
    no_regions = true;
    do rc = zc_put(c, zc_slice(&i, sizeof i), zc_str("value"), NULL);
    while (++i < 1000000 && rc == ZC_OK);
    CHECK_EQ(rc, ZC_E_NOMEM);
    CHECK(i > 10000); /* a region full */
    CHECK_EQ(zc_check(c), ZC_OK);
    no_regions = false;
    CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), zc_str("value"), NULL), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(allocators_and_blocks_of_the_user_are_respected) {
    static char block[1 << 17];
    zct_mem counts = {0};
    zc_desc own = {.allocator = zct_allocator(&counts)};
    zc_desc fixed = {.block = block, .block_size = sizeof block};
    zc_cache *c;
    REQUIRE(zc_open(&own, &c) == ZC_OK);
    CHECK(c->mem.slabs == NULL);
    zc_close(c);
    REQUIRE(zc_open(&fixed, &c) == ZC_OK);
    CHECK(c->mem.slabs == NULL);
    zc_close(c);
    REQUIRE(zc_open(NULL, &c) == ZC_OK);
    CHECK_EQ(c->mem.slabs != NULL, !ZC__WATCHED);
    zc_close(c);
}

/* ---- threads ---- */

enum { THREADS = 4, SEATS = 512, ROUNDS = 60000 };
typedef struct world {
    zc__slabs *s;
    piece *seats[SEATS]; /* atomic */
    unsigned running;    /* atomic */
} world;
typedef struct worker {
    world *w;
    uint64_t random;
} worker;

/* Takes a piece, swaps it for what another thread has left, and gives that back. */
static void *work(void *arg) {
    worker *me = (worker *)arg;
    world *w = me->w;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t r = zc__random(&me->random);
        piece *mine = NULL;
        if (r & 1) {
            mine = (piece *)malloc(sizeof *mine);
            if (!mine) break;
            mine->size = 1 + (r >> 8) % ((r & 6) ? 64 : ZC__SLAB_MAX);
            mine->hash = r;
            mine->ptr = (unsigned char *)zc__slab_take(w->s, r, mine->size);
            if (!mine->ptr) break;
            memset(mine->ptr, (int)(r >> 50 & 255), mine->size);
        }
        mine = __atomic_exchange_n(&w->seats[(r >> 32) % SEATS], mine, __ATOMIC_ACQ_REL);
        if (mine) CHECK(give(w->s, mine));
        free(mine);
    }
    __atomic_fetch_sub(&w->running, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

TEST(threads_take_and_give_while_the_housekeeper_trims) {
    static world w;
    pthread_t t[THREADS];
    worker me[THREADS];
    REQUIRE((w.s = zc__slabs_make(2)) != NULL);
    w.running = THREADS;
    for (unsigned i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand()};
        REQUIRE(pthread_create(&t[i], NULL, work, &me[i]) == 0);
    }
    while (__atomic_load_n(&w.running, __ATOMIC_ACQUIRE)) {
        for (uint32_t i = 0; i < 2; i++) { /* whether it pays or not */
            zc__spin_lock(&w.s->pools[i].lock);
            w.s->pools[i].trim_below = SIZE_MAX / 2;
            zc__spin_unlock(&w.s->pools[i].lock);
        }
        zc__slabs_trim(w.s);
        (void)zc__slabs_slack(w.s);
    }
    for (unsigned i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    CHECK(zc__slabs_check(w.s));
    for (unsigned i = 0; i < SEATS; i++) {
        if (w.seats[i]) CHECK(give(w.s, w.seats[i]));
        free(w.seats[i]);
    }
    CHECK_EQ(used(w.s), 0);
    zc__slabs_destroy(w.s);
}

TEST(what_a_fork_has_cut_off_is_recounted) {
    zc__slabs *s = zc__slabs_make(1);
    piece p[200];
    REQUIRE(s != NULL);
    for (unsigned i = 0; i < 200; i++) REQUIRE(take(s, &p[i], 64));
    for (unsigned i = 0; i < 100; i++) CHECK(give(s, &p[i]));
    /* A housekeeper was counting a chain that it had taken away. */
    s->pools[0].chain[64 / 8] = s->pools[0].chain[64 / 8]->next;
    ++*zc__region_found(p[150].ptr);
    CHECK(!zc__slabs_check(s));
    zc__slabs_recount(s);
    zc__slabs_recount(NULL);
    CHECK(zc__slabs_check(s));
    for (unsigned i = 100; i < 200; i++) CHECK(give(s, &p[i]));
    CHECK_EQ(used(s), 64);
    CHECK(zc__slabs_check(s));
    zc__slabs_destroy(s);
}

TEST(the_validator_sees_what_is_wrong) {
    zc__slabs *s = zc__slabs_make(1);
    piece a, b;
    REQUIRE(s && take(s, &a, 64) && take(s, &b, 128));
    CHECK(zc__slabs_check(s) && zc__slabs_check(NULL));
    zc__pool *p = &s->pools[0];
    zc__region *r = s->first;
    p->used += 8;
    CHECK(!zc__slabs_check(s)); /* S2 */
    p->used -= 8;
    zc__block *chain = p->chain[128 / 8];
    p->chain[128 / 8] = (zc__block *)(void *)((unsigned char *)chain + 8);
    p->chain[128 / 8]->next = chain->next;
    CHECK(!zc__slabs_check(s)); /* S1 */
    p->chain[128 / 8] = chain;
    r->fresh++;
    CHECK(!zc__slabs_check(s)); /* S3 */
    r->fresh--;
    p->pages++;
    CHECK(!zc__slabs_check(s)); /* S4 */
    p->pages--;
    r->found[1] = 1;
    CHECK(!zc__slabs_check(s)); /* S5 */
    r->found[1] = 0;
    s->regions++;
    CHECK(!zc__slabs_check(s));
    s->regions--;
    CHECK(give(s, &a));
    CHECK(give(s, &b));
    CHECK(zc__slabs_check(s));
    zc__slabs_destroy(s);
}

#else
TEST(there_are_no_slabs_here) { CHECK(true); }
#endif
