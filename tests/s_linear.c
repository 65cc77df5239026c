/* Linearizability: short random histories of several threads on few keys, of a cache alone and of
 * one over a storage, are recorded, and each must be one that a sequential cache could have given
 * (linear.h). Threads yield at random wherever the cache looks at what they share. LINEAR_ROUNDS:
 * how many times as many histories as usual. A history that fails is printed. */
#define _POSIX_C_SOURCE 200809L
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
static void hesitate(void);
#define __atomic_load_n(at, order) (hesitate(), __atomic_load_n(at, order))
#define __atomic_store_n(at, value, order) (hesitate(), __atomic_store_n(at, value, order))
#define __atomic_fetch_add(at, n, order) (hesitate(), __atomic_fetch_add(at, n, order))
static void *slow_malloc(size_t size);
static void slow_release(void *ptr);
#define ZOOCACHE_MALLOC(size) slow_malloc(size)
#define ZOOCACHE_FREE(ptr) slow_release(ptr)
#define ZC__LIMBO_FEW 1u /* memory goes back as soon as it may */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"
#include "fault_store.h"
#include "linear.h"
#include <malloc.h>

/* A thread gives way before one in 256 of its atomic operations. */
static void hesitate(void) {
    static _Thread_local uint64_t random;
    if (!random) random = (uint64_t)(uintptr_t)&random | 1;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    if (random >> 56 == 0) sched_yield();
}

/* ---- recording ---- */

enum { KEYS = LIN_KEYS, THREADS = 4, CALLS = 5, STEPS = LIN_STEPS / THREADS };

/* get, put, del; all; all and pruning; that and housekeeping, for a storage. */
typedef enum op_set { PURE, DEPENDENT, LOSSY, TIERED } op_set;

typedef struct world {
    zc_cache *c;
    op_set ops;
    bool begins_late; /* the usual mistake: zc_begin() after the reading, not before */
    bool hook;        /* memory is an allocator's: reads take the lock */
    int rounds;       /* to play; atomic: 0 ends them */
    uint32_t round;
    uint64_t moment, fills; /* atomic */
    uint64_t source[KEYS];  /* atomic: versions */
    int ready;              /* atomic: threads at the line */
    zct_barrier start, end;
} world;

typedef struct worker {
    world *w;
    pthread_t thread;
    uint64_t random;
    uint8_t number;
    unsigned n;
    lin_step step[STEPS];
} worker;

typedef struct value {
    uint32_t round;
    uint16_t key, fill;
} value;

static uint64_t below(worker *me, uint64_t n) {
    me->random ^= me->random << 13;
    me->random ^= me->random >> 7;
    me->random ^= me->random << 17;
    return (me->random >> 8) % n;
}
static uint64_t moment(world *w) { return __atomic_add_fetch(&w->moment, 1, __ATOMIC_SEQ_CST); }
static uint64_t peek(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static uint8_t new_fill(world *w) {
    return (uint8_t)__atomic_add_fetch(&w->fills, 1, __ATOMIC_SEQ_CST);
}
static uint8_t bits(unsigned key) { return (uint8_t)(1u << key); }
static void dawdle(worker *me) {
    for (uint64_t n = below(me, 6); n > 3; n--) sched_yield();
}

/* A step that is under way: its kind and its call are noted, the rest is the caller's. */
static lin_step *step(worker *me, lin_kind kind, unsigned keys, uint8_t fill) {
    lin_step *p = &me->step[me->n++];
    *p = (lin_step){.kind = kind, .thread = me->number, .keys = (uint8_t)keys, .fill = fill};
    p->good = true;
    p->call = moment(me->w);
    return p;
}
static void done(worker *me, lin_step *p) { p->ret = moment(me->w); }

static zc_bytes key_of(unsigned key, char text[8]) {
    snprintf(text, 8, "k%u", key);
    return zc_str(text);
}
/* k0 and k1 are below g0, k2 is below g1. */
static zc_bytes tag_of(unsigned key, char text[16]) {
    snprintf(text, 16, "g%u:k%u", key / 2, key);
    return zc_str(text);
}

static uint8_t fill_of(world *w, unsigned key, const void *data, size_t size) {
    value v = {0, 0, 0};
    if (!CHECK_EQ(size, sizeof v)) return 0;
    memcpy(&v, data, sizeof v);
    CHECK_EQ(v.round, w->round);
    CHECK_EQ(v.key, key);
    return (uint8_t)v.fill;
}

/* ---- what a thread does ---- */

static void get(worker *me, unsigned key) {
    char text[8];
    value v;
    size_t len;
    zc_view view;
    zc_bytes k = key_of(key, text);
    bool copy = below(me, 2);
    lin_step *p = step(me, LIN_GET, bits(key), 0);
    int rc = copy ? zc_get_copy(me->w->c, k, &v, sizeof v, &len) : zc_get(me->w->c, k, &view);
    done(me, p);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    if (rc == ZC_OK)
        p->fill = copy ? fill_of(me->w, key, &v, len) : fill_of(me->w, key, view.data, view.size);
    if (!copy) zc_release(me->w->c, &view);
}

static void put(worker *me, unsigned key) {
    char text[8], tag[16];
    value v = {me->w->round, (uint16_t)key, new_fill(me->w)};
    zc_bytes dep = tag_of(key, tag);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    lin_step *p = step(me, LIN_PUT, bits(key), (uint8_t)v.fill);
    int rc = zc_put(me->w->c, key_of(key, text), zc_slice(&v, sizeof v), &o);
    done(me, p);
    CHECK(rc == ZC_OK || rc == ZC_REFUSED);
    p->good = rc == ZC_OK;
}

static void del(worker *me, unsigned key) {
    char text[8];
    lin_step *p = step(me, LIN_DEL, bits(key), 0);
    int rc = zc_del(me->w->c, key_of(key, text));
    done(me, p);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    p->good = rc == ZC_OK;
}

static void read_source(worker *me, unsigned key, uint8_t fill) {
    lin_step *p = step(me, LIN_READ, bits(key), fill);
    p->version = (uint8_t)peek(&me->w->source[key]);
    done(me, p);
    dawdle(me);
}

/* Reads the source, then puts. */
static void put_read(worker *me, unsigned key) {
    char text[8], tag[16];
    world *w = me->w;
    value v = {w->round, (uint16_t)key, new_fill(w)};
    zc_bytes dep = tag_of(key, tag);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    lin_step *p = step(me, LIN_BEGIN, bits(key), (uint8_t)v.fill);
    o.begin = zc_begin(w->c);
    done(me, p);
    read_source(me, key, (uint8_t)v.fill);
    if (w->begins_late) o.begin = zc_begin(w->c);
    p = step(me, LIN_PUT, bits(key), (uint8_t)v.fill);
    int rc = zc_put(w->c, key_of(key, text), zc_slice(&v, sizeof v), &o);
    done(me, p);
    CHECK(rc == ZC_OK || rc == ZC_REFUSED);
    p->good = rc == ZC_OK;
}

typedef struct request {
    worker *me;
    unsigned key;
    lin_step *p; /* what is under way: fetch; then lead, read, end */
} request;

static int load(zc_fill *fill, void *user) {
    request *q = (request *)user;
    worker *me = q->me;
    char tag[16];
    value v = {me->w->round, (uint16_t)q->key, new_fill(me->w)};
    bool early = below(me, 2);
    q->p->kind = LIN_LEAD;
    q->p->fill = (uint8_t)v.fill;
    done(me, q->p);
    if (early) CHECK_EQ(zc_fill_dep(fill, tag_of(q->key, tag)), ZC_OK);
    read_source(me, q->key, (uint8_t)v.fill);
    q->p = step(me, LIN_END, bits(q->key), (uint8_t)v.fill);
    q->p->good = below(me, 8) > 0;
    if (!early) CHECK_EQ(zc_fill_dep(fill, tag_of(q->key, tag)), ZC_OK);
    return q->p->good ? zc_fill_value(fill, zc_slice(&v, sizeof v)) : ZC_E_USER - v.fill;
}

static void fetch(worker *me, unsigned key) {
    char text[8];
    zc_view view;
    request q = {me, key, step(me, LIN_FETCH, bits(key), 0)};
    int rc = zc_fetch(me->w->c, key_of(key, text), load, &q, NULL, &view);
    done(me, q.p);
    bool led = q.p->kind == LIN_END;
    uint8_t fill = 0;
    if (rc == ZC_OK) fill = fill_of(me->w, key, view.data, view.size);
    else if (CHECK(rc < ZC_E_USER)) fill = (uint8_t)(ZC_E_USER - rc);
    if (led) CHECK_EQ(fill, q.p->fill); /* who computed a value gets it */
    if (led) CHECK_EQ(q.p->good, rc == ZC_OK);
    q.p->fill = fill;
    q.p->good = rc == ZC_OK;
    zc_release(me->w->c, &view);
}

static void write_source(worker *me, unsigned key) {
    lin_step *p = step(me, LIN_WRITE, bits(key), 0);
    p->version = (uint8_t)__atomic_add_fetch(&me->w->source[key], 1, __ATOMIC_SEQ_CST);
    done(me, p);
}

static void change(worker *me, unsigned key) {
    char tag[16];
    write_source(me, key);
    lin_step *p = step(me, LIN_INVALIDATE, bits(key), 0);
    CHECK_EQ(zc_invalidate(me->w->c, tag_of(key, tag)), ZC_OK);
    done(me, p);
}

/* Two keys at once: both tags in one call, or (k0 and k1) the tag above them. */
static void change_two(worker *me, unsigned a, unsigned b) {
    char text[2][16];
    zc_bytes tags[2] = {tag_of(a, text[0]), tag_of(b, text[1])};
    bool above = a / 2 == b / 2 && below(me, 2);
    write_source(me, a);
    write_source(me, b);
    lin_step *p = step(me, LIN_INVALIDATE, (unsigned)bits(a) | bits(b), 0);
    CHECK_EQ(above ? zc_invalidate(me->w->c, zc_str("g0")) : zc_invalidate_many(me->w->c, tags, 2),
             ZC_OK);
    done(me, p);
}

/* A transaction on one key, or on the two that are below g0. */
static void transact(worker *me, unsigned key) {
    char text[16];
    bool above = key < 2 && below(me, 2);
    unsigned keys = above ? 3u : bits(key);
    zc_bytes tag = above ? zc_str("g0") : tag_of(key, text);
    uint64_t id;
    lin_step *p = step(me, LIN_HOLD, keys, 0);
    CHECK_EQ(zc_hold(me->w->c, &tag, 1, ZC_SECOND, &id), ZC_OK);
    done(me, p);
    dawdle(me);
    write_source(me, key);
    dawdle(me);
    p = step(me, LIN_RELEASE, keys, 0);
    CHECK_EQ(zc_hold_end(me->w->c, id), ZC_OK);
    done(me, p);
}

static void clear(worker *me) {
    lin_step *p = step(me, LIN_INVALIDATE, (1u << KEYS) - 1, 0);
    CHECK_EQ(zc_clear(me->w->c), ZC_OK);
    done(me, p);
}

static void call(worker *me) {
    unsigned key = (unsigned)below(me, KEYS), dice = (unsigned)below(me, 100);
    if (me->w->ops >= LOSSY && dice % 10 == 0) zc_prune(me->w->c, 0);
    if (me->w->ops == TIERED && dice % 3 == 0) zc_poll(me->w->c, ZC_MICROSECOND);
    if (me->w->ops == PURE) dice %= 50;
    if (dice < 25) get(me, key);
    else if (dice < 40) put(me, key);
    else if (dice < 50) del(me, key);
    else if (dice < 70) fetch(me, key);
    else if (dice < 80) put_read(me, key);
    else if (dice < 88) change(me, key);
    else if (dice < 94) transact(me, key);
    else if (dice < 98) change_two(me, key, (key + 1) % KEYS);
    else clear(me);
}

static void *work(void *user) {
    worker *me = (worker *)user;
    world *w = me->w;
    for (;;) {
        zct_barrier_wait(&w->start);
        if (!w->rounds) return NULL;
        me->n = 0;
        __atomic_add_fetch(&w->ready, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(&w->ready, __ATOMIC_ACQUIRE) < THREADS) sched_yield();
        for (int i = 0; i < CALLS; i++) {
            call(me);
            dawdle(me);
        }
        zct_barrier_wait(&w->end);
    }
}

/* ---- many histories ---- */

/* Yields at random: what lies between two steps of one call is there for the others to see. */
static uint64_t slow_calls; /* atomic */
static void slow(unsigned one_in) {
    uint64_t n = __atomic_add_fetch(&slow_calls, 1, __ATOMIC_RELAXED);
    if ((n * UINT64_C(0x9e3779b97f4a7c15)) >> 32 & (one_in - 1)) return;
    sched_yield();
}
static void *slow_malloc(size_t size) {
    slow(4);
    return malloc(size);
}
/* Nothing is read that was freed. */
static void slow_release(void *ptr) {
    if (ptr) memset(ptr, 0xdd, malloc_usable_size(ptr));
    free(ptr);
}
static void *slow_alloc(void *user, size_t size) {
    (void)user;
    return slow_malloc(size);
}
static void slow_free(void *user, void *ptr, size_t size) {
    (void)user;
    (void)size;
    free(ptr);
}
/* The clock is read after a value was found fresh and before it is copied. */
static uint64_t slow_clock(void *user) {
    (void)user;
    slow(2);
    return zc__sys_mono();
}

static void give_way(void *user) {
    (void)user;
    sched_yield();
}

static void play(world *w, worker *workers, zc_desc d, lin_history *h) {
    fault_store store;
    d.seed = zct_rand() | 1;
    fs_init(&store);
    store.on_get = store.on_put = give_way;
    if (w->ops == TIERED) d.store = fs_hook(&store, false);
    REQUIRE(zc_open(&d, &w->c) == ZC_OK);
    w->round++;
    w->moment = w->fills = 0;
    w->ready = 0;
    memset(w->source, 0, sizeof w->source);
    zct_barrier_wait(&w->start);
    zct_barrier_wait(&w->end);
    h->n = 0;
    h->lossy = w->ops >= LOSSY;
    h->tiered = w->ops == TIERED;
    for (int i = 0; i < THREADS; i++) {
        memcpy(&h->step[h->n], workers[i].step, workers[i].n * sizeof(lin_step));
        h->n += workers[i].n;
    }
    zc_close(w->c);
    fs_destroy(&store);
}

/* A read at the end of what was invalidated before it: of any fill that was over by then. */
static bool add_stale_read(lin_history *h) {
    for (unsigned i = 0; i < h->n && h->n < LIN_STEPS; i++) {
        const lin_step *p = &h->step[i];
        if (p->kind != LIN_PUT && p->kind != LIN_END) continue;
        for (unsigned j = 0; j < h->n; j++) {
            const lin_step *q = &h->step[j];
            bool kills = q->kind == LIN_INVALIDATE || q->kind == LIN_HOLD;
            if (!kills || !(q->keys & p->keys) || q->call < p->ret) continue;
            h->step[h->n++] = (lin_step){1000000, 1000001, LIN_GET, 9, p->keys, p->fill, 0, true};
            return true;
        }
    }
    return false;
}

/* Plays until a history is bad; returns how many were good. In passing, that the checker finds a
 * stale read that is added to a good history. */
static int histories(world *w, zc_desc d, int rounds) {
    worker workers[THREADS];
    lin_history h;
    int good = 0, mutants = 0, steps = 0;
    if (w->hook) d.allocator = (zc_allocator){1, slow_alloc, slow_free, NULL};
    else d.clock = (zc_clock){1, slow_clock, slow_clock, NULL};
    d.ttl = w->hook ? 0 : 3600 * ZC_SECOND;
    w->rounds = 1;
    zct_barrier_init(&w->start, THREADS + 1);
    zct_barrier_init(&w->end, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){.w = w, .random = zct_rand() | 1, .number = (uint8_t)(i + 1)};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (; good < rounds; good++) {
        play(w, workers, d, &h);
        lin_verdict v = lin_check(&h, true);
        CHECK(v != LIN_UNDECIDED);
        if (v != LIN_GOOD) break;
        steps += (int)h.n;
        if (!add_stale_read(&h)) continue;
        mutants++;
        CHECK_EQ(lin_check(&h, false), LIN_BAD);
    }
    w->rounds = 0;
    zct_barrier_wait(&w->start);
    for (int i = 0; i < THREADS; i++) pthread_join(workers[i].thread, NULL);
    zct_barrier_destroy(&w->start);
    zct_barrier_destroy(&w->end);
    printf("    %d histories, %d steps; %d stale reads planted\n", good, steps, mutants);
    return good;
}

static void all_good(op_set ops, zc_desc d, int rounds) {
    world w = {.ops = ops};
    const char *times = getenv("LINEAR_ROUNDS");
    if (times) rounds *= atoi(times);
    CHECK_EQ(histories(&w, d, rounds), rounds);
}

/* ---- the checker ---- */

/* Histories written by hand. */
typedef struct line {
    char kind; /* the kinds of linear.h in their order: W R I H U B P D G F L E; small: not good */
    uint8_t keys, fill, version;
    uint64_t call, ret;
} line;

static lin_verdict verdict(const line *lines) {
    static const char kinds[] = "WRIHUBPDGFLE";
    lin_history h;
    h.n = 0;
    h.lossy = h.tiered = false;
    for (; lines->kind; lines++) {
        bool good = lines->kind < 'a';
        char kind = (char)(good ? lines->kind : lines->kind - 'a' + 'A');
        h.step[h.n++] = (lin_step){.call = lines->call,
                                   .ret = lines->ret,
                                   .kind = (lin_kind)(strchr(kinds, kind) - kinds),
                                   .keys = lines->keys,
                                   .fill = lines->fill,
                                   .version = lines->version,
                                   .good = good};
    }
    return lin_check(&h, false);
}

#define GOOD(...) CHECK_EQ(verdict((const line[]){__VA_ARGS__, {0}}), LIN_GOOD)
#define BAD(...) CHECK_EQ(verdict((const line[]){__VA_ARGS__, {0}}), LIN_BAD)

/* clang-format off */
#define TWO_PUTS {'P', 1, 1, 0, 1, 2}, {'P', 1, 2, 0, 3, 4}
#define AT_ONCE {'P', 1, 1, 0, 1, 4}, {'P', 1, 2, 0, 2, 3}
#define FILL {'B', 1, 1, 0, 1, 2}, {'R', 1, 1, 0, 3, 4}
#define CHANGE {'W', 1, 0, 1, 5, 6}, {'I', 1, 0, 0, 7, 8}
#define BESIDE {'I', 1, 0, 0, 5, 8}, {'P', 1, 1, 0, 6, 7}
#define BOTH {'P', 1, 1, 0, 1, 2}, {'P', 2, 2, 0, 3, 4}, {'I', 3, 0, 0, 5, 20}
#define LEAD {'L', 1, 1, 0, 1, 2}, {'R', 1, 1, 0, 3, 4}
#define END {'E', 1, 1, 0, 30, 31}
#define HELD {'H', 1, 0, 0, 1, 2}
#define LEAD_3 {'L', 1, 1, 0, 3, 4}, {'R', 1, 1, 0, 5, 6}
/* clang-format on */

TEST(the_checker_knows_a_map) {
    GOOD(TWO_PUTS, {'G', 1, 2, 0, 5, 6});
    BAD(TWO_PUTS, {'G', 1, 1, 0, 5, 6});
    BAD(TWO_PUTS, {'G', 1, 0, 0, 5, 6});
    GOOD(AT_ONCE, {'G', 1, 1, 0, 5, 6});
    GOOD(AT_ONCE, {'G', 1, 2, 0, 5, 6});
    BAD(AT_ONCE, {'G', 1, 1, 0, 5, 6}, {'G', 1, 2, 0, 7, 8});
    BAD(TWO_PUTS, {'d', 1, 0, 0, 5, 6});
    BAD({'D', 1, 0, 0, 1, 2});
    GOOD(TWO_PUTS, {'D', 1, 0, 0, 5, 6}, {'d', 1, 0, 0, 7, 8}, {'G', 1, 0, 0, 9, 10});
    BAD(TWO_PUTS, {'D', 1, 0, 0, 5, 6}, {'G', 1, 2, 0, 7, 8});
    BAD({'P', 2, 1, 0, 1, 2}, {'G', 1, 1, 0, 3, 4}); /* another key's */
}

TEST(the_checker_knows_invalidations) {
    GOOD(FILL, CHANGE, {'p', 1, 1, 0, 9, 10});
    BAD(FILL, CHANGE, {'P', 1, 1, 0, 9, 10});
    BAD(FILL, {'p', 1, 1, 0, 9, 10}); /* refused without cause */
    GOOD(FILL, {'W', 1, 0, 1, 5, 6}, {'P', 1, 1, 0, 9, 10}, {'G', 1, 1, 0, 11, 12});
    BAD({'W', 1, 0, 2, 5, 6});
    BAD({'W', 1, 0, 1, 1, 2}, {'R', 1, 1, 0, 3, 4});
    /* One that runs beside a put may kill it or not, but once for all; what had begun before, it
     * does kill. */
    GOOD(BESIDE, {'G', 1, 1, 0, 9, 10});
    GOOD(BESIDE, {'G', 1, 0, 0, 9, 10});
    BAD(BESIDE, {'G', 1, 0, 0, 9, 10}, {'G', 1, 1, 0, 11, 12});
    GOOD(FILL, BESIDE, {'G', 1, 0, 0, 9, 10});
    BAD(FILL, BESIDE, {'G', 1, 1, 0, 9, 10});
    /* Two tags in one step. */
    GOOD(BOTH, {'G', 1, 1, 0, 6, 7}, {'G', 2, 0, 0, 8, 9});
    BAD(BOTH, {'G', 1, 0, 0, 6, 7}, {'G', 2, 2, 0, 8, 9});
}

TEST(the_checker_knows_holds) {
    GOOD(HELD, {'p', 1, 1, 0, 3, 4}, {'G', 1, 0, 0, 5, 6}, {'U', 1, 0, 0, 7, 8});
    BAD(HELD, {'P', 1, 1, 0, 3, 4}, {'U', 1, 0, 0, 7, 8});
    BAD({'P', 1, 1, 0, 1, 2}, {'H', 1, 0, 0, 3, 4}, {'G', 1, 1, 0, 5, 6}); /* from before it */
    BAD(HELD, {'G', 1, 1, 0, 3, 4});
    GOOD(HELD, {'P', 1, 1, 0, 3, 8}, {'U', 1, 0, 0, 4, 5}, {'G', 1, 1, 0, 9, 10});
    GOOD(HELD, {'p', 1, 1, 0, 3, 8}, {'U', 1, 0, 0, 4, 5}, {'G', 1, 0, 0, 9, 10});
    BAD(HELD, {'U', 1, 0, 0, 3, 4}, {'p', 1, 1, 0, 5, 6}); /* it is over */
    BAD(HELD, {'H', 1, 0, 0, 3, 4}, {'U', 1, 0, 0, 5, 6}, {'P', 1, 1, 0, 7, 8}); /* of one */
    GOOD(HELD, {'P', 2, 1, 0, 3, 4}, {'G', 2, 1, 0, 5, 6}); /* another key */
    GOOD(HELD, LEAD_3, {'F', 1, 1, 0, 7, 12}, {'E', 1, 1, 0, 9, 10}, {'G', 1, 0, 0, 13, 14});
    BAD(HELD, LEAD_3, {'E', 1, 1, 0, 9, 10}, {'G', 1, 1, 0, 13, 14});
}

TEST(the_checker_knows_flights) {
    GOOD(LEAD, {'F', 1, 1, 0, 5, 32}, END, {'G', 1, 1, 0, 33, 34});
    BAD(LEAD, END, {'G', 1, 0, 0, 33, 34});
    BAD(LEAD, {'L', 1, 2, 0, 5, 6}, END); /* two leaders */
    BAD(LEAD, {'G', 1, 1, 0, 5, 6}, END); /* a get does not wait */
    GOOD(LEAD, {'P', 1, 2, 0, 5, 6}, END, {'G', 1, 2, 0, 33, 34});
    BAD(LEAD, {'P', 1, 2, 0, 5, 6}, END, {'G', 1, 1, 0, 33, 34}); /* the late value undid it */
    BAD(LEAD, {'D', 1, 0, 0, 5, 6}, END, {'G', 1, 1, 0, 33, 34});
    BAD(LEAD, CHANGE, {'F', 1, 1, 0, 9, 32}, END); /* joined after the invalidation */
    GOOD(LEAD, {'F', 1, 1, 0, 5, 32}, {'I', 1, 0, 0, 7, 8}, END);
    BAD(LEAD, {'I', 1, 0, 0, 7, 8}, END, {'G', 1, 1, 0, 33, 34});
    GOOD(LEAD, {'f', 1, 1, 0, 5, 32}, {'e', 1, 1, 0, 30, 31}, {'L', 1, 2, 0, 33, 34});
    BAD(LEAD, {'e', 1, 1, 0, 30, 31}, {'f', 1, 1, 0, 32, 33}); /* an error is not kept */
}

/* ---- the cache ---- */

TEST(a_map) { all_good(PURE, (zc_desc){.shards = 1, .no_thread = true}, 8000); }
TEST(a_map_of_many_shards) { all_good(PURE, (zc_desc){.shards = 8, .no_thread = true}, 8000); }
TEST(with_dependencies) { all_good(DEPENDENT, (zc_desc){.shards = 1, .no_thread = true}, 12000); }
TEST(with_dependencies_in_many_shards) {
    all_good(DEPENDENT, (zc_desc){.shards = 8, .no_thread = true}, 12000);
}
TEST(where_all_reads_take_the_lock) {
    world w = {.ops = DEPENDENT, .hook = true};
    CHECK_EQ(histories(&w, (zc_desc){.shards = 1, .no_thread = true}, 8000), 8000);
}
TEST(with_a_background_thread) { all_good(DEPENDENT, (zc_desc){.shards = 2}, 4000); }
TEST(with_evictions_and_pruning) {
    all_good(LOSSY, (zc_desc){.shards = 2, .max_entries = 2, .no_thread = true}, 8000);
}
/* Others begin and end holds of the same tag: for who holds it all the time, nothing is stored. */
static void *hold_and_end(void *user) {
    world *w = (world *)user;
    zc_bytes tag = zc_str("g0");
    uint64_t id;
    while (__atomic_load_n(&w->rounds, __ATOMIC_ACQUIRE)) {
        CHECK_EQ(zc_hold(w->c, &tag, 1, 3600 * ZC_SECOND, &id), ZC_OK);
        CHECK_EQ(zc_hold_end(w->c, id), ZC_OK);
    }
    return NULL;
}
TEST(what_two_hold_is_held_until_both_have_ended) {
    world w = {.rounds = 1};
    zc_bytes tag = zc_str("g0"), dep = zc_str("g0:k0");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    pthread_t other;
    uint64_t id;
    REQUIRE(zc_open(&(zc_desc){.no_thread = true}, &w.c) == ZC_OK);
    CHECK_EQ(zc_hold(w.c, &tag, 1, 3600 * ZC_SECOND, &id), ZC_OK);
    REQUIRE(pthread_create(&other, NULL, hold_and_end, &w) == 0);
    int stored = 0;
    for (int i = 0; i < 200000; i++)
        stored += zc_put(w.c, zc_str("k0"), zc_str("v"), &o) != ZC_REFUSED;
    CHECK_EQ(stored, 0);
    __atomic_store_n(&w.rounds, 0, __ATOMIC_RELEASE);
    pthread_join(other, NULL);
    CHECK_EQ(zc_put(w.c, zc_str("k0"), zc_str("v"), &o), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(w.c, id), ZC_OK);
    CHECK_EQ(zc_put(w.c, zc_str("k0"), zc_str("v"), &o), ZC_OK);
    zc_close(w.c);
}
/* The values that the table has no room for come from the storage. */
TEST(over_a_storage_written_through) {
    all_good(TIERED, (zc_desc){.shards = 1, .max_entries = 2, .no_thread = true}, 8000);
}
TEST(over_a_storage_written_behind) {
    zc_desc d = {.shards = 1, .max_entries = 2, .no_thread = true, .write_behind = true};
    all_good(TIERED, d, 8000);
}
TEST(a_begin_after_the_reading_is_found_out) {
    world w = {.ops = DEPENDENT, .begins_late = true};
    CHECK(histories(&w, (zc_desc){.no_thread = true}, 1000000) < 1000000);
}
