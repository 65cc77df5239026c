/* A barrier of threads, as POSIX has it and macOS has not. */
#ifndef ZC_TEST_BARRIER_H
#define ZC_TEST_BARRIER_H

#include <pthread.h>
#include <stdbool.h>

typedef struct zct_barrier {
    pthread_mutex_t lock;
    pthread_cond_t full;
    unsigned missing, threads, round;
} zct_barrier;

static inline void zct_barrier_init(zct_barrier *b, unsigned threads) {
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->full, NULL);
    b->missing = b->threads = threads;
    b->round = 0;
}
static inline void zct_barrier_destroy(zct_barrier *b) {
    pthread_cond_destroy(&b->full);
    pthread_mutex_destroy(&b->lock);
}
/* True for one of them. */
static inline bool zct_barrier_wait(zct_barrier *b) {
    pthread_mutex_lock(&b->lock);
    unsigned round = b->round;
    bool last = --b->missing == 0;
    if (last) {
        b->missing = b->threads;
        b->round++;
        pthread_cond_broadcast(&b->full);
    }
    while (round == b->round) pthread_cond_wait(&b->full, &b->lock);
    pthread_mutex_unlock(&b->lock);
    return last;
}

#endif
