/* Flights by many threads: stampedes, errors, hand-overs, leases that run out, people who leave. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"

enum { KEYS = 6, THREADS = 6, ROUNDS = 4000 };

typedef struct world {
    zc_cache *c;
    zct_time time;
    bool steps;               /* the clock moves: leases are lost */
    int running[KEYS];        /* leaders at work; atomic */
    uint64_t told, listening; /* atomic */
    uint64_t led, followed, retried, left;
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
static void add(uint64_t *p) { __atomic_add_fetch(p, 1, __ATOMIC_RELAXED); }

static void told(void *user) { add(&((world *)user)->told); }

static void value_is(const zc_view *v, uint64_t key) {
    if (!v->data) return;
    CHECK(v->size == sizeof key && memcmp(v->data, &key, sizeof key) == 0);
}

static void lead(worker *me, zc_fill *t, uint64_t key) {
    world *w = me->w;
    uint64_t dice = next_random(&me->random) % 100;
    zc_view v;
    add(&w->led);
    /* Without a clock that moves nobody loses a lease: then there is one leader a key. */
    int others = __atomic_fetch_add(&w->running[key], 1, __ATOMIC_ACQ_REL);
    if (!w->steps) CHECK_EQ(others, 0);
    for (uint64_t n = next_random(&me->random) % 4; n; n--) sched_yield();
    if (dice < 20) CHECK_EQ(zc_fill_dep(t, zc_str("t")), ZC_OK);
    __atomic_sub_fetch(&w->running[key], 1, __ATOMIC_ACQ_REL);
    if (dice < 60) {
        if (dice % 8 == 0) CHECK_EQ(zc_fill_absent(t), ZC_OK);
        else CHECK_EQ(zc_fill_value(t, zc_slice(&key, sizeof key)), ZC_OK);
        int rc = zc_flight_commit(t, &v);
        CHECK(rc == ZC_OK || rc == ZC_ABSENT || rc == ZC_REFUSED || rc == ZC_E_LEASE);
        value_is(&v, key);
        zc_release(w->c, &v);
    } else if (dice < 70) {
        CHECK_EQ(zc_flight_commit(t, NULL), ZC_E_LOADER);
    } else {
        zc_flight_abandon(t, dice < 85 ? 0 : ZC_E_USER);
    }
}

static void follow(worker *me, zc_fill *t, uint64_t key) {
    world *w = me->w;
    uint64_t dice = next_random(&me->random) % 100;
    zc_view v;
    add(&w->followed);
    if (dice < 30) {
        add(&w->listening);
        CHECK_EQ(zc_flight_notify(t, told, w), ZC_OK);
    }
    if (dice % 10 == 0) {
        add(&w->left);
        zc_flight_abandon(t, 0);
        return;
    }
    for (;;) {
        int rc = zc_flight_wait(t, dice % 3 ? ZC_NEVER : next_random(&me->random) % 100000, &v);
        if (rc == ZC_PENDING) continue;
        CHECK(rc == ZC_OK || rc == ZC_ABSENT || rc == ZC_RETRY || rc == ZC_E_USER ||
              rc == ZC_E_LOADER);
        if (rc == ZC_RETRY) add(&w->retried);
        value_is(&v, key);
        zc_release(w->c, &v);
        return;
    }
}

static void *work(void *user) {
    worker *me = (worker *)user;
    world *w = me->w;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t key = next_random(&me->random) % KEYS, dice = next_random(&me->random) % 100;
        zc_bytes k = zc_slice(&key, sizeof key);
        zc_fetch_opts o = {.promote = dice % 2 == 0};
        if (dice % 3 == 0) o.flight_timeout = (1 + next_random(&me->random) % 1000) * 1000;
        if (!w->steps) o.flight_timeout = 0;
        if (dice < 80) {
            zc_fill *t;
            zc_view v;
            int rc = zc_flight_begin(w->c, k, &o, &v, &t);
            CHECK(rc == ZC_OK || rc == ZC_ABSENT || rc == ZC_LEAD || rc == ZC_FOLLOW);
            value_is(&v, key);
            zc_release(w->c, &v);
            if (rc == ZC_LEAD) lead(me, t, key);
            else if (rc == ZC_FOLLOW) follow(me, t, key);
        } else if (dice < 95) {
            CHECK(zc_del(w->c, k) >= 0);
        } else if (dice < 97) {
            CHECK_EQ(zc_invalidate(w->c, zc_str("t")), ZC_OK);
        } else {
            (void)zc_poll(w->c, 10 * ZC_MICROSECOND);
        }
        if (w->steps) zct_step(&w->time, next_random(&me->random) % 300000);
    }
    return NULL;
}

static void fly(bool steps, unsigned shards) {
    zct_mem mem = {0};
    world w;
    pthread_t thread[THREADS];
    worker me[THREADS];
    memset(&w, 0, sizeof w);
    w.time.mono = w.time.wall = 1000 * ZC_SECOND;
    w.steps = steps;
    zc_desc d = {.shards = shards, .no_thread = true, .seed = zct_rand() | 1};
    d.allocator = zct_allocator(&mem);
    if (steps) {
        d.clock = zct_clock(&w.time);
        d.flight_timeout = 2 * ZC_MILLISECOND; /* of the clock that moves with the work */
    }
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    for (int i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand() | 1};
        CHECK_EQ(pthread_create(&thread[i], NULL, work, &me[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL); /* every waiter returns */
    zc_stats s;
    zc_stats_read(w.c, &s);
    CHECK_EQ(s.flights, 0);
    CHECK(w.told <= w.listening);
    CHECK(w.led > 100);
    CHECK_EQ(zc_check(w.c), ZC_OK);
    printf("    led %" PRIu64 ", followed %" PRIu64 ", retried %" PRIu64 ", late %" PRIu64 "\n",
           w.led, w.followed, w.retried, s.fills_late);
    zc_close(w.c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(flights_one_shard) { fly(false, 1); }
TEST(flights_many_shards) { fly(false, 8); }
TEST(leases_run_out) { fly(true, 1); }
TEST(leases_run_out_in_many_shards) { fly(true, 8); }

/* ---- stampedes: every round all threads want the same new key ---- */

typedef struct herd {
    zc_cache *c;
    zct_barrier barrier;
    int loads; /* atomic */
    int round;
} herd;

static int load_herd(zc_fill *fill, void *user) {
    herd *h = (herd *)user;
    __atomic_add_fetch(&h->loads, 1, __ATOMIC_ACQ_REL);
    for (int i = 0; i < 20; i++) sched_yield();
    if (h->round % 5 == 4) return ZC_E_USER;
    return zc_fill_value(fill, zc_slice(&h->round, sizeof h->round));
}

static void *stampede(void *user) {
    herd *h = (herd *)user;
    for (int r = 0; r < 300; r++) {
        zc_view v;
        if (zct_barrier_wait(&h->barrier)) {
            h->round = r;
            __atomic_store_n(&h->loads, 0, __ATOMIC_RELEASE);
        }
        zct_barrier_wait(&h->barrier);
        int rc = zc_fetch(h->c, zc_slice(&r, sizeof r), load_herd, h, NULL, &v);
        CHECK_EQ(rc, r % 5 == 4 ? ZC_E_USER : ZC_OK);
        if (rc == ZC_OK) CHECK(v.size == sizeof r && memcmp(v.data, &r, sizeof r) == 0);
        zc_release(h->c, &v);
        zct_barrier_wait(&h->barrier);
        if (r % 5 != 4) CHECK_EQ(__atomic_load_n(&h->loads, __ATOMIC_ACQUIRE), 1);
        zct_barrier_wait(&h->barrier);
    }
    return NULL;
}

TEST(stampedes) {
    zct_mem mem = {0};
    herd h;
    pthread_t thread[THREADS];
    zc_desc d = {.allocator = zct_allocator(&mem)};
    memset(&h, 0, sizeof h);
    REQUIRE(zc_open(&d, &h.c) == ZC_OK);
    zct_barrier_init(&h.barrier, THREADS);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, stampede, &h), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    zct_barrier_destroy(&h.barrier);
    zc_close(h.c);
    CHECK_EQ(mem.blocks, 0);
}
