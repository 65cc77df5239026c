/* Threads: what the library's own wait by, which signals they take, how locks are waited for. The
 * system's functions are watched, and still called. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

static unsigned naps, yields; /* atomic */
static unsigned slept, early; /* atomic; early: over before the monotonic clock was there */
static uint64_t longest;      /* atomic: the latest deadline, from the monotonic clock */

static uint64_t in_ns(const struct timespec *t) {
    return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}
static uint64_t monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return in_ns(&t);
}
static int watch_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t) {
    uint64_t at = in_ns(t), now = monotonic();
    int rc = pthread_cond_timedwait(c, m, t);
    if (rc == ETIMEDOUT && monotonic() < at) __atomic_add_fetch(&early, 1, __ATOMIC_SEQ_CST);
    uint64_t wait = at > now ? at - now : 0;
    if (wait > __atomic_load_n(&longest, __ATOMIC_SEQ_CST))
        __atomic_store_n(&longest, wait, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&slept, 1, __ATOMIC_SEQ_CST);
    return rc;
}
static int watch_nap(const struct timespec *t, struct timespec *left) {
    __atomic_add_fetch(&naps, 1, __ATOMIC_SEQ_CST);
    return nanosleep(t, left);
}
static int watch_yield(void) {
    __atomic_add_fetch(&yields, 1, __ATOMIC_SEQ_CST);
    return sched_yield();
}
#define pthread_cond_timedwait watch_timedwait
#define nanosleep watch_nap
#define sched_yield watch_yield

#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#undef nanosleep
#undef sched_yield
#undef pthread_cond_timedwait
#include "zc_test.h"
#include "log_bus.h"

#define MS ZC_MILLISECOND

/* ---- waits ---- */

static void watch(void) {
    __atomic_store_n(&slept, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&early, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&longest, 0, __ATOMIC_SEQ_CST);
}

/* Something has waited, each time by the monotonic clock: a deadline of the wall clock would be
 * decades away. */
static void check_waits(void) {
    CHECK(__atomic_load_n(&slept, __ATOMIC_SEQ_CST) > 0);
    CHECK_EQ(__atomic_load_n(&early, __ATOMIC_SEQ_CST), 0);
    CHECK(__atomic_load_n(&longest, __ATOMIC_SEQ_CST) <= ZC__SLICE);
}

TEST(a_follower_waits_by_the_monotonic_clock) {
    zc_cache *c;
    zc_fill *lead, *follow;
    zc_view v;
    zc_desc d = {.no_thread = true};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
    watch();
    CHECK_EQ(zc_flight_wait(follow, 20 * MS, &v), ZC_PENDING);
    check_waits();
    zc_flight_abandon(lead, 0);
    zc_flight_abandon(follow, 0);
    zc_close(c);
}

TEST(the_worker_waits_by_the_monotonic_clock) {
    zc_cache *c;
    watch();
    REQUIRE(zc_open(NULL, &c) == ZC_OK);
    while (!__atomic_load_n(&slept, __ATOMIC_SEQ_CST)) sched_yield();
    zc_close(c);
    check_waits();
}

TEST(the_bus_waits_by_the_monotonic_clock) {
    static log_hub hub;
    static log_node node = {.hub = &hub};
    zc_cache *c;
    lb_init(&hub);
    zc_desc d = {.bus = lb_hook(&node, false), .ack = ZC_STRICT, .max_staleness = 20 * MS};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    watch();
    CHECK_EQ(zc_invalidate(c, zc_str("tag")), ZC_OK); /* waits until no node can serve it */
    check_waits();
    lb_down(&node, true); /* the thread tries again and again */
    lb_wake(&node);
    watch();
    while (__atomic_load_n(&slept, __ATOMIC_SEQ_CST) < 3) sched_yield();
    zc_close(c);
    check_waits();
}

/* ---- signals ---- */

static unsigned looked; /* atomic: bit 0: in the bus's thread, bit 1: in the worker */

static void look(unsigned bit, const pthread_t *not_here) {
    sigset_t mask;
    if (pthread_equal(*not_here, pthread_self())) return;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
    for (int s = 1; s <= SIGRTMAX; s++) {
        bool kernels = s == SIGKILL || s == SIGSTOP || (s > 31 && s < SIGRTMIN);
        bool fault = s == SIGSEGV || s == SIGBUS || s == SIGFPE || s == SIGILL;
        if (!kernels && !CHECK_EQ(sigismember(&mask, s), !fault)) printf("    signal %d\n", s);
    }
    __atomic_fetch_or(&looked, bit, __ATOMIC_SEQ_CST);
}

static pthread_t main_thread;
static int (*lb_read_)(void *, uint64_t, uint64_t, zc_bus_sink *);
static int looking_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    look(1, &main_thread);
    return lb_read_(user, position, wait, sink);
}
static int looking_load(zc_fill *fill, void *user) {
    (void)user;
    look(2, &main_thread);
    return zc_fill_value(fill, zc_str("v"));
}

TEST(the_librarys_threads_block_signals) {
    static log_hub hub;
    static log_node node = {.hub = &hub};
    zc_cache *c;
    zc_view v;
    sigset_t before, after, user;
    sigemptyset(&user);
    sigaddset(&user, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &user, &before); /* whoever opens keeps what he had */
    lb_init(&hub);
    main_thread = pthread_self();
    zc_desc d = {.bus = lb_hook(&node, false)};
    lb_read_ = d.bus.read;
    d.bus.read = looking_read;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int s = 1; s <= 31; s++)
        CHECK_EQ(sigismember(&after, s), sigismember(&before, s) || s == SIGUSR1);
    zc_fetch_opts o = {.put.soft_ttl = 1};
    while (__atomic_load_n(&looked, __ATOMIC_SEQ_CST) != 3) { /* the worker refreshes it */
        int rc = zc_fetch(c, zc_str("k"), looking_load, NULL, &o, &v);
        if (!CHECK(rc == ZC_OK || rc == ZC_STALE)) break;
        zc_release(c, &v);
        sched_yield();
    }
    zc_close(c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- locks ---- */

typedef struct waiter {
    zc_cache *c;
    zc__spin *lock;
    bool done; /* atomic */
} waiter;

static void *wait_for_lock(void *user) {
    waiter *w = (waiter *)user;
    zc__spin_lock(w->lock);
    zc__spin_unlock(w->lock);
    return NULL;
}

static void *read_entry(void *user) {
    waiter *w = (waiter *)user;
    zc_view v;
    CHECK_EQ(zc_get(w->c, zc_str("k"), &v), ZC_MISS);
    return NULL;
}

/* Until it sleeps, or has given way so often that it never will. */
static void wait_for_nap(void) {
    while (!__atomic_load_n(&naps, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&yields, __ATOMIC_SEQ_CST) < 10000)
        sched_yield();
    CHECK(__atomic_load_n(&naps, __ATOMIC_SEQ_CST) > 0);
}

static void no_naps(void) {
    __atomic_store_n(&naps, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&yields, 0, __ATOMIC_SEQ_CST);
}

/* A holder of lower priority runs only while the waiter does not. */
TEST(who_waits_for_a_spin_lock_sleeps_in_the_end) {
    zc__spin lock = {0};
    waiter w = {.lock = &lock};
    pthread_t t;
    no_naps();
    zc__spin_lock(&lock);
    REQUIRE(pthread_create(&t, NULL, wait_for_lock, &w) == 0);
    wait_for_nap();
    zc__spin_unlock(&lock);
    pthread_join(t, NULL);
}

TEST(a_reader_that_meets_a_version_not_published_yet_sleeps_in_the_end) {
    zc_cache *c;
    pthread_t t;
    zc_desc d = {.no_thread = true};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), NULL), ZC_OK);
    waiter w = {.c = c};
    CHECK_EQ(zc_invalidate(c, zc_str("tag")), ZC_OK); /* so that the entry is looked at anew */
    uint64_t v = zc__published(&c->trie) + 1; /* what zc_clear() does, and is interrupted */
    zc__atomic_store_rel(&c->trie.root.version, v);
    no_naps();
    REQUIRE(pthread_create(&t, NULL, read_entry, &w) == 0);
    wait_for_nap();
    zc__atomic_raise(&c->trie.published, v);
    pthread_join(t, NULL);
    zc_close(c);
}
