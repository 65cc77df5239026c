/* 03_stampede: sixteen threads miss the same key at the same moment. The loader runs once; the
 * others wait for it, and all get the same value. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define THREADS 16

static zc_cache *cache;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER; /* main holds it until all are there */
static atomic_int loads, answers;

static int slow_query(zc_fill *fill, void *user) {
    (void)user;
    atomic_fetch_add(&loads, 1);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* 50 ms */
    zc_fill_dep(fill, zc_str("report:2026"));
    return zc_fill_value(fill, zc_str("the report"));
}

static void *caller(void *arg) {
    zc_view v;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    if (zc_fetch(cache, zc_str("report"), slow_query, NULL, NULL, &v) != ZC_OK) return arg;
    if (v.size == 10 && memcmp(v.data, "the report", 10) == 0) atomic_fetch_add(&answers, 1);
    zc_release(cache, &v);
    return arg;
}

static int stampede(void) {
    pthread_t threads[THREADS];
    atomic_store(&loads, 0);
    atomic_store(&answers, 0);
    pthread_mutex_lock(&gate);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, caller, NULL) != 0) return 1;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("callers: %d, right answers: %d, loads: %d\n", THREADS, atomic_load(&answers),
           atomic_load(&loads));
    return atomic_load(&loads) != 1 || atomic_load(&answers) != THREADS;
}

int main(void) {
    if (zc_open(NULL, &cache) != ZC_OK) return 1;
    int bad = stampede();
    zc_invalidate(cache, zc_str("report"));
    bad |= stampede(); /* everything below "report" is gone: one load again */
    zc_close(cache);
    return bad;
}
