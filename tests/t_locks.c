/* The order of locks: the debug build finds a lock that is taken against it, one that is missing,
 * and one that is given back by who has not got it. The assertions that fail are noted. */
#ifndef ZOOCACHE_DEBUG
#  define ZOOCACHE_DEBUG
#endif
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdbool.h>

static _Thread_local unsigned failures; /* assertions that have failed in this thread */
#define ZOOCACHE_ASSERT(x) ((x) ? (void)0 : (void)failures++)
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "log_bus.h"

/* How many assertions have failed since it was last asked. */
static unsigned found(void) {
    unsigned n = failures;
    failures = 0;
    return n;
}

static zc_cache *open_with(unsigned shards) {
    zc_cache *c = NULL;
    zc_desc d = {.no_thread = true, .shards = shards};
    CHECK(zc_open(&d, &c) == ZC_OK);
    return c;
}

TEST(in_the_order_all_is_well) {
    zc_cache *c = open_with(2);
    REQUIRE(c);
    zc__spin_lock(&c->trie.writer);
    zc__spin_lock(&c->shards[0].lock);
    zc__spin_lock(&c->shards[1].lock);
    zc__spin_lock(&c->trie.stripes[0].lock);
    ZC__ASSERT_HELD(&c->shards[0].lock);
    zc__spin_unlock(&c->shards[0].lock); /* in any order */
    zc__spin_unlock(&c->trie.writer);
    zc__spin_unlock(&c->trie.stripes[0].lock);
    zc__spin_unlock(&c->shards[1].lock);
    ZC__CALLS_OUT();
    CHECK_EQ(found(), 0);
    CHECK_EQ(zc_check(c), ZC_OK); /* takes every lock that there is */
    CHECK_EQ(found(), 0);
    zc_close(c);
}

TEST(a_lock_against_the_order_is_found) {
    zc_cache *c = open_with(2);
    REQUIRE(c);
    zc__spin_lock(&c->trie.stripes[3].lock);
    zc__spin_lock(&c->shards[0].lock);
    CHECK_EQ(found(), 1);
    zc__spin_unlock(&c->shards[0].lock);
    zc__spin_unlock(&c->trie.stripes[3].lock);
    zc__spin_lock(&c->shards[1].lock); /* of one rank, by address */
    zc__spin_lock(&c->shards[0].lock);
    CHECK_EQ(found(), 1);
    zc__spin_unlock(&c->shards[0].lock);
    zc__spin_unlock(&c->shards[1].lock);
    zc__spin_lock(&c->jobs_lock);
    zc__spin_lock(&c->trie.writer); /* against one lock of two */
    CHECK_EQ(found(), 1);
    zc__spin_unlock(&c->trie.writer);
    zc__spin_unlock(&c->jobs_lock);
    CHECK_EQ(found(), 0);
    zc_close(c);
}

TEST(a_lock_that_is_only_tried_may_be_against_it) {
    zc_cache *c = open_with(1);
    REQUIRE(c);
    zc__spin_lock(&c->shards[0].lock);
    CHECK(zc__spin_trylock(&c->house));
    CHECK_EQ(found(), 0);
    zc__spin_lock(&c->trie.stripes[0].lock); /* and counts like the others from then on */
    ZC__ASSERT_HELD(&c->house);
    CHECK_EQ(found(), 0);
    zc__spin_unlock(&c->trie.stripes[0].lock);
    zc__spin_end(&c->house);
    zc__spin_unlock(&c->shards[0].lock);
    CHECK_EQ(found(), 0);
    zc_close(c);
}

TEST(mutexes_and_gates_have_ranks_too) {
    zc_clock real = {0};
    zc__monitor low, high;
    zc__timed gate;
    REQUIRE(zc__monitor_init(&low, ZC__RANK_ORDER) && zc__monitor_init(&high, ZC__RANK_APPLY));
    REQUIRE(zc__timed_init(&gate, ZC__RANK_READING));
    zc__monitor_lock(&low);
    CHECK(zc__timed_lock(&gate, &real, ZC_NEVER));
    zc__monitor_lock(&high);
    ZC__ASSERT_HELD(&gate);
    ZC__ASSERT_HELD(&high);
    zc__monitor_unlock(&high);
    zc__timed_unlock(&gate);
    zc__monitor_unlock(&low);
    CHECK_EQ(found(), 0);
    zc__monitor_lock(&high); /* the wrong order is only asked about: TSan would find it, too */
    zc__locking(&gate.monitor.ranked);
    zc__locking(&low.ranked);
    CHECK_EQ(found(), 2);
    ZC__ASSERT_HELD(&gate);
    CHECK_EQ(found(), 1);
    zc__monitor_unlock(&high);
    CHECK(zc__timed_lock(&gate, &real, ZC_NEVER));
    zc__locking(&gate.monitor.ranked); /* who has it does not wait for it */
    CHECK_EQ(found(), 1);
    zc__timed_unlock(&gate);
    CHECK_EQ(found(), 0);
    zc__timed_destroy(&gate);
    zc__monitor_destroy(&low);
    zc__monitor_destroy(&high);
}

/* ---- what somebody else holds ---- */

typedef struct pair {
    zc__monitor low, high;
    bool woken; /* [high] */
} pair;

static void *wakes(void *user) {
    pair *p = (pair *)user;
    zc__monitor_lock(&p->low);
    zc__monitor_lock(&p->high);
    p->woken = true;
    zc__monitor_wake(&p->high);
    zc__monitor_unlock(&p->high);
    zc__monitor_unlock(&p->low);
    return (void *)(uintptr_t)found();
}

TEST(who_sleeps_does_not_hold_the_mutex) {
    pair p = {.woken = false};
    pthread_t t;
    void *n;
    REQUIRE(zc__monitor_init(&p.low, ZC__RANK_ORDER) && zc__monitor_init(&p.high, ZC__RANK_APPLY));
    zc__monitor_lock(&p.high);
    REQUIRE(pthread_create(&t, NULL, wakes, &p) == 0);
    while (!p.woken) zc__monitor_sleep(&p.high, ZC_SECOND);
    ZC__ASSERT_HELD(&p.high); /* again, and nothing of the other's */
    zc__monitor_unlock(&p.high);
    ZC__CALLS_OUT();
    CHECK_EQ(found(), 0);
    pthread_join(t, &n);
    CHECK_EQ((uintptr_t)n, 0);
    zc__monitor_destroy(&p.low);
    zc__monitor_destroy(&p.high);
}

static void *another(void *user) {
    zc__spin *lock = (zc__spin *)user;
    ZC__ASSERT_HELD(lock);
    zc__unlocking(&lock->ranked);
    return (void *)(uintptr_t)found();
}

TEST(a_lock_is_held_by_the_thread_that_took_it) {
    zc__spin lock = {0};
    pthread_t t;
    void *n;
    ZC__ASSERT_HELD(&lock);
    CHECK_EQ(found(), 1);
    zc__spin_lock(&lock);
    REQUIRE(pthread_create(&t, NULL, another, &lock) == 0);
    pthread_join(t, &n);
    CHECK_EQ((uintptr_t)n, 2);
    ZC__CALLS_OUT();
    CHECK_EQ(found(), 1);
    zc__spin_unlock(&lock);
    CHECK_EQ(found(), 0);
}

TEST(between_prepare_and_parent_the_locks_are_the_caches) {
    zc_cache *one = open_with(4), *two = open_with(1);
    REQUIRE(one && two);
    zc_fork_prepare(one);
    zc_fork_prepare(two);
    ZC__CALLS_OUT();
    zc_fork_parent(one);
    zc_fork_parent(two);
    CHECK_EQ(found(), 0);
    zc_close(one);
    zc_close(two);
}

/* Every function that says which lock it needs, with a bus and without. */
TEST(what_needs_a_lock_says_so) {
    zc_cache *c = open_with(1);
    zc__entry *garbage = NULL;
    REQUIRE(c);
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(found(), 0);
    (void)zc__shard_sweep(c, &c->shards[0], 8, 0, &garbage);
    CHECK(found() > 0);
    zc_close(c);
}
