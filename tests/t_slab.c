/* Slabs: blocks do not overlap and come back, entries move and regions are given back, figures, want
 * of memory, threads, and the validator. */
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
static uint32_t regions(const zc__slabs *s) {
    uint32_t n = 0;
    for (const zc__region *r = s->first; r; r = r->next) n++;
    for (const zc__region *r = s->old; r; r = r->next) n++;
    return n;
}
static void free_old(zc__slabs *s) {
    for (uint32_t n = 0; n <= regions(s) / 16; n++)
        while (zc__slabs_drop(s)) {}
}
/* What housekeeping does with an entry. */
static bool move(zc__slabs *s, piece *p) {
    unsigned char *from = p->ptr;
    if (!zc__block_is_old(s, from)) return true;
    p->ptr = (unsigned char *)zc__slab_take(s, p->hash, p->size);
    if (!p->ptr || zc__block_is_old(s, p->ptr)) return false;
    memcpy(p->ptr, from, p->size);
    zc__slab_give(s, p->hash, from, p->size);
    return true;
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
        if (round % 50000 == 0) s->renew_below = SIZE_MAX; /* whether it pays or not */
        if (round % 50000 == 0) CHECK(zc__slabs_renew(s, false));
        if (round % 1000 == 0) (void)zc__slabs_drop(s);
        if (round % 20000 == 0) CHECK(zc__slabs_check(s));
    }
    CHECK_EQ(used(s), sum);
    for (unsigned i = 0; i < N; i++)
        if (p[i].ptr) CHECK(give(s, &p[i]));
    CHECK_EQ(used(s), 0);
    free_old(s);
    CHECK(!s->old);
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

TEST(a_new_generation_begins_when_less_than_half_is_used) {
    enum { N = 60000 };
    zc__slabs *s = zc__slabs_make(2);
    piece *p = (piece *)calloc(N, sizeof *p);
    REQUIRE(s && p);
    for (unsigned i = 0; i < N; i++) REQUIRE(take(s, &p[i], 136));
    CHECK(regions(s) >= 4);
    uint32_t before = regions(s), n = 0;
    CHECK(!zc__slabs_renew(s, false)); /* not due */
    for (; n < N && !zc__slabs_renew(s, false); n++) CHECK(give(s, &p[n]));
    CHECK(n > N / 2 && n < N / 2 + N / 20);
    for (unsigned i = n; i < N; i++)
        if (i % 500) CHECK(give(s, &p[i]));
    CHECK(zc__slabs_check(s));
    free_old(s);
    CHECK(regions(s) > 1 && regions(s) < before); /* what is left is scattered over the others */
    for (unsigned i = n; i < N; i++)
        if (p[i].ptr) CHECK(move(s, &p[i]));
    zc__slabs_compacted(s);
    free_old(s);
    CHECK(zc__slabs_check(s));
    CHECK_EQ(regions(s), 1);
    CHECK(!zc__slabs_renew(s, false));
    for (unsigned i = 0; i < N; i++)
        if (p[i].ptr) CHECK(give(s, &p[i]));
    CHECK(!zc__slabs_renew(s, false)); /* a few pages are not worth it */
    for (unsigned i = 0; i < N; i++) REQUIRE(take(s, &p[i], 512)); /* and serves again */
    for (unsigned i = 0; i < N; i++) CHECK(give(s, &p[i]));
    CHECK(zc__slabs_renew(s, false));
    free_old(s);
    CHECK_EQ(regions(s), 0);
    free(p);
    zc__slabs_destroy(s);
}

TEST(what_cannot_be_denser_is_not_moved_again) {
    /* Few blocks of many sizes: half empty pages, however they are laid. */
    zc__slabs *s = zc__slabs_make(16);
    piece *p = (piece *)calloc(3000, sizeof *p);
    REQUIRE(s && p);
    for (unsigned i = 0; i < 3000; i++) REQUIRE(take(s, &p[i], 8 + 8 * (i % 60)));
    CHECK(zc__slabs_renew(s, false)); /* it may help */
    for (unsigned i = 0; i < 3000; i++) CHECK(move(s, &p[i]));
    zc__slabs_compacted(s);
    free_old(s);
    CHECK(!s->old);
    CHECK(!zc__slabs_renew(s, false)); /* it did not */
    for (unsigned i = 0; i < 3000; i++) CHECK(give(s, &p[i]));
    free(p);
    zc__slabs_destroy(s);
}

TEST(memory_of_one_size_serves_another) {
    enum { N = 20000 };
    zc__slabs *s = zc__slabs_make(1);
    piece *p = (piece *)calloc(N, sizeof *p);
    REQUIRE(s && p);
    uint32_t most = 0;
    for (size_t size = 100; size <= 500; size += 50) {
        size_t n = N * 100 / size; /* the same bytes every time */
        for (size_t i = 0; i < n; i++) REQUIRE(take(s, &p[i], size));
        for (size_t i = 0; i < n; i++) CHECK(give(s, &p[i]));
        CHECK(zc__slabs_renew(s, false));
        if (regions(s) > most) most = regions(s);
        free_old(s);
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
    CHECK(s->last->huge && s->first->huge);
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
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    (void)zc_poll(c, ZC_SECOND); /* gives back what the rounds before have freed */
    zc_stats_read(c, &end);
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK_EQ(end.entries, 0);
    CHECK_EQ(regions(c->mem.slabs), 0);
    CHECK(end.memory - empty.memory < 50000 * 20); /* tables */
    zc_close(c);
}

/* A value that tells whose it is. */
static zc_bytes value_of(unsigned i, char buf[256]) {
    size_t size = 20 + i % 180;
    memset(buf, (int)(i * 7 & 255), size);
    memcpy(buf, &i, sizeof i);
    return zc_slice(buf, size);
}
static bool is_there(zc_cache *c, unsigned i) {
    char want[256], got[256];
    zc_bytes v = value_of(i, want);
    size_t len;
    return zc_get_copy(c, zc_slice(&i, sizeof i), got, sizeof got, &len) == ZC_OK &&
           len == v.len && memcmp(got, v.ptr, len) == 0;
}

TEST(few_survivors_keep_little) {
    enum { N = 200000, EACH = 200 };
    static zct_time time;
    static zc_view pins[N / EACH];
    time.mono = 1000 * ZC_SECOND;
    zc_desc d = {.no_thread = true, .clock = zct_clock(&time)};
    zc_cache *c = open_cache(&d);
    zc_stats full, end;
    char value[256];
    REQUIRE(c != NULL);
    for (unsigned i = 0; i < N; i++)
        CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), value_of(i, value), NULL), ZC_OK);
    zc_stats_read(c, &full);
    /* Of those that stay some are pinned, and so cannot be moved yet. */
    for (unsigned i = 0; i < N; i += 10 * EACH)
        CHECK_EQ(zc_get(c, zc_slice(&i, sizeof i), &pins[i / EACH]), ZC_OK);
    for (unsigned i = 0; i < N; i++)
        if (i % EACH) CHECK_EQ(zc_del(c, zc_slice(&i, sizeof i)), ZC_OK);
    while (zc_poll(c, 0) == ZC_MORE) {}
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK(c->mem.slabs->old != NULL);
    for (unsigned i = 0; i < N; i += EACH) CHECK(is_there(c, i));
    for (unsigned i = 0; i < N; i += 10 * EACH) {
        zc_bytes v = value_of(i, value);
        CHECK(memcmp(pins[i / EACH].data, v.ptr, v.len) == 0);
        zc_release(c, &pins[i / EACH]);
    }
    zct_step(&time, 60 * ZC_SECOND);
    while (zc_poll(c, 0) == ZC_MORE) {}
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK(!c->mem.slabs->old);
    CHECK_EQ(regions(c->mem.slabs), 1);
    for (unsigned i = 0; i < N; i += EACH) CHECK(is_there(c, i));
    zc_stats_read(c, &end);
    CHECK_EQ(end.entries, N / EACH);
    CHECK(zc__slabs_slack(c->mem.slabs) < 2 * ZC__SLAB_REGION);
    CHECK(zc_poll(c, ZC_MILLISECOND) == ZC_OK);
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

TEST(threads_take_and_give_while_generations_change) {
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
        zc__spin_lock(&w.s->lock);
        if (w.s->first) w.s->renew_below = SIZE_MAX; /* whether it pays or not */
        zc__spin_unlock(&w.s->lock);
        (void)zc__slabs_renew(w.s, false);
        for (unsigned i = 0; i < 100; i++) (void)zc__slabs_drop(w.s);
        (void)zc__slabs_slack(w.s);
    }
    for (unsigned i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    CHECK(zc__slabs_check(w.s));
    for (unsigned i = 0; i < SEATS; i++) {
        if (w.seats[i]) CHECK(give(w.s, w.seats[i]));
        free(w.seats[i]);
    }
    CHECK_EQ(used(w.s), 0);
    free_old(w.s);
    CHECK(!w.s->old);
    zc__slabs_destroy(w.s);
}

typedef struct user {
    zc_cache *c;
    uint64_t random;
    unsigned *running, *turns; /* atomic */
} user;

/* Reads, pins, writes and deletes, until entries were moved meanwhile; what is there is whole. */
static void *use(void *arg) {
    user *me = (user *)arg;
    char want[256];
    for (unsigned n = 0; n < ROUNDS || !__atomic_load_n(me->turns, __ATOMIC_ACQUIRE); n++) {
        uint64_t r = zc__random(&me->random);
        unsigned i = (unsigned)(r >> 32) % 3000;
        if (n >= ROUNDS) zc__yield();
        zc_bytes key = zc_slice(&i, sizeof i), v = value_of(i, want);
        zc_view view;
        if (r % 8 == 0) CHECK_EQ(zc_put(me->c, key, v, NULL), ZC_OK);
        if (r % 8 == 1) CHECK(zc_del(me->c, key) >= 0);
        if (r % 8 < 2 || zc_get(me->c, key, &view) != ZC_OK) continue;
        CHECK(view.size == v.len && memcmp(view.data, v.ptr, v.len) == 0);
        zc_release(me->c, &view);
    }
    __atomic_fetch_sub(me->running, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

TEST(entries_move_under_the_hands_of_threads) {
    zc_desc d = {.no_thread = true, .max_entries = 2000, .shards = 4};
    zc_cache *c = open_cache(&d);
    pthread_t t[THREADS];
    user me[THREADS];
    unsigned running = THREADS, turns = 0;
    REQUIRE(c != NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        me[i] = (user){c, zct_rand(), &running, &turns};
        REQUIRE(pthread_create(&t[i], NULL, use, &me[i]) == 0);
    }
    while (__atomic_load_n(&running, __ATOMIC_ACQUIRE)) {
        zc__spin_lock(&c->mem.slabs->lock);
        if (c->mem.slabs->first) c->mem.slabs->renew_below = SIZE_MAX;
        zc__spin_unlock(&c->mem.slabs->lock);
        (void)zc_poll(c, 100 * ZC_MICROSECOND);
        __atomic_fetch_add(&turns, 1, __ATOMIC_ACQ_REL);
    }
    for (unsigned i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_clear(c);
    while (zc_poll(c, ZC_MILLISECOND) == ZC_MORE) {}
    zc__limbos_empty(c, UINT32_MAX);
    CHECK_EQ(used(c->mem.slabs), 0);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(the_validator_sees_what_is_wrong) {
    zc__slabs *s = zc__slabs_make(1);
    piece a, b;
    REQUIRE(s && take(s, &a, 64) && take(s, &b, 128));
    CHECK(zc__slabs_check(s) && zc__slabs_check(NULL));
    zc__pool *p = &s->pools[0];
    zc__region *r = s->first;
    p->used += 1024;
    CHECK(!zc__slabs_check(s)); /* S3 */
    p->used -= 1024;
    zc__block *chain = p->chain[128 / 8];
    p->chain[128 / 8] = (zc__block *)(void *)((unsigned char *)chain + 8);
    p->chain[128 / 8]->next = chain->next;
    CHECK(!zc__slabs_check(s)); /* S1 */
    p->chain[128 / 8] = chain;
    r->used[1]++;
    CHECK(!zc__slabs_check(s)); /* S2 */
    r->used[1]--;
    s->generation++;
    CHECK(!zc__slabs_check(s)); /* S1 */
    s->generation--;
    zc__region *full = (zc__region *)calloc(1, sizeof *full);
    REQUIRE(full != NULL);
    r->next = full;
    CHECK(!zc__slabs_check(s)); /* S4 */
    r->next = NULL;
    free(full);
    CHECK(give(s, &a));
    CHECK(give(s, &b));
    CHECK(zc__slabs_check(s));
    zc__slabs_destroy(s);
}

#else
TEST(there_are_no_slabs_here) { CHECK(true); }
#endif
