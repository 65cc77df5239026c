/* sim.h - replays a sequence of keys through the policies that a cache is compared with.
 *
 *   FIFO     evicts what was admitted first
 *   LRU      evicts what was used longest ago
 *   Belady   evicts what is used again latest (Belady 1966): no policy that admits every miss can
 *            miss less often, and none can know it in advance
 *
 * Every request is a read that admits the key on a miss; every key has the size 1. Keys are
 * numbered first, so a simulation is a few arrays indexed by key, without a hash table.
 *
 *   sim_trace t;
 *   if (sim_trace_init(&t, keys, n)) {
 *       uint64_t misses = sim_fifo(&t, capacity);      (SIM_FAILED: no memory)
 *       sim_trace_free(&t);
 *   }
 *
 * Everything is static; include it where it is used. Needs nothing but the C library. */
#ifndef ZOOCACHE_SIM_H
#define ZOOCACHE_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SIM_FAILED UINT64_MAX
#define SIM_NONE UINT32_MAX

typedef struct sim_trace {
    uint32_t *ids;   /* of each request: the number of its key, in the order of first use */
    size_t n;        /* requests, fewer than 2^32 - 1 */
    uint32_t unique; /* different keys */
} sim_trace;

static inline uint64_t sim_mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Numbers the keys, by a hash table of positions that is thrown away afterwards. */
static inline bool sim_trace_init(sim_trace *t, const uint64_t *keys, size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    memset(t, 0, sizeof *t);
    if (n >= SIM_NONE) return false;
    t->ids = malloc((n + !n) * sizeof *t->ids);
    uint32_t *first = malloc(slots * sizeof *first); /* the first request of the key in this slot */
    if (!t->ids || !first) {
        free(t->ids);
        free(first);
        t->ids = NULL;
        return false;
    }
    memset(first, 0xff, slots * sizeof *first);
    for (size_t i = 0; i < n; i++) {
        size_t s = sim_mix(keys[i]) & (slots - 1);
        while (first[s] != SIM_NONE && keys[first[s]] != keys[i]) s = (s + 1) & (slots - 1);
        if (first[s] == SIM_NONE) {
            first[s] = (uint32_t)i;
            t->ids[i] = t->unique++;
        } else {
            t->ids[i] = t->ids[first[s]];
        }
    }
    t->n = n;
    free(first);
    return true;
}

static inline void sim_trace_free(sim_trace *t) {
    free(t->ids);
    memset(t, 0, sizeof *t);
}

/* A share of the unique keys as a capacity: rounded to the nearest, at least 10. */
static inline uint32_t sim_capacity(const sim_trace *t, double share) {
    double c = (double)t->unique * share + 0.5;
    return c < 10 ? 10 : (uint32_t)c;
}

static inline uint64_t sim_fifo(const sim_trace *t, uint32_t capacity) {
    uint64_t misses = 0;
    uint32_t used = 0, oldest = 0;
    bool *in = calloc((size_t)t->unique + 1, sizeof *in);
    uint32_t *ring = malloc(((size_t)capacity + 1) * sizeof *ring);
    for (size_t i = 0; in && ring && i < t->n && capacity; i++) {
        uint32_t id = t->ids[i];
        if (in[id]) continue;
        misses++;
        in[id] = true;
        if (used < capacity) {
            ring[used++] = id;
            continue;
        }
        in[ring[oldest]] = false;
        ring[oldest] = id;
        oldest = oldest + 1 == capacity ? 0 : oldest + 1;
    }
    if (!in || !ring) misses = SIM_FAILED;
    free(in);
    free(ring);
    return capacity || misses ? misses : t->n;
}

/* A ring of keys through a sentinel, whose number is `unique`: next[sentinel] is the newest,
 * prev[sentinel] the oldest. */
static inline void sim_lru_link(uint32_t *next, uint32_t *prev, uint32_t sentinel, uint32_t id) {
    next[id] = next[sentinel];
    prev[id] = sentinel;
    prev[next[id]] = id;
    next[sentinel] = id;
}

static inline void sim_lru_unlink(uint32_t *next, uint32_t *prev, uint32_t id) {
    next[prev[id]] = next[id];
    prev[next[id]] = prev[id];
    next[id] = SIM_NONE; /* not in the cache */
}

static inline uint64_t sim_lru(const sim_trace *t, uint32_t capacity) {
    uint64_t misses = 0;
    uint32_t used = 0, sentinel = t->unique;
    uint32_t *next = malloc(((size_t)t->unique + 1) * sizeof *next);
    uint32_t *prev = malloc(((size_t)t->unique + 1) * sizeof *prev);
    if (next && prev) {
        memset(next, 0xff, (size_t)t->unique * sizeof *next);
        next[sentinel] = prev[sentinel] = sentinel;
    }
    for (size_t i = 0; next && prev && i < t->n && capacity; i++) {
        uint32_t id = t->ids[i];
        if (next[id] != SIM_NONE) {
            sim_lru_unlink(next, prev, id);
        } else {
            misses++;
            if (used < capacity) used++;
            else sim_lru_unlink(next, prev, prev[sentinel]);
        }
        sim_lru_link(next, prev, sentinel, id);
    }
    if (!next || !prev) misses = SIM_FAILED;
    free(next);
    free(prev);
    return capacity || misses ? misses : t->n;
}

/* A heap of the keys in the cache, the one that is used again latest on top. */
typedef struct sim_heap {
    uint32_t *id;    /* the heap */
    uint32_t *place; /* of each key: where in the heap; SIM_NONE: not in the cache */
    uint32_t *next;  /* of each key: the request that uses it again; SIM_NONE: none */
    uint32_t used;
} sim_heap;

static inline void sim_heap_set(sim_heap *h, uint32_t at, uint32_t id) {
    h->id[at] = id;
    h->place[id] = at;
}

static inline void sim_heap_up(sim_heap *h, uint32_t at) {
    uint32_t id = h->id[at];
    for (; at > 0 && h->next[h->id[(at - 1) / 2]] < h->next[id]; at = (at - 1) / 2)
        sim_heap_set(h, at, h->id[(at - 1) / 2]);
    sim_heap_set(h, at, id);
}

/* Puts a key in the place of the top, which leaves the cache. */
static inline void sim_heap_replace(sim_heap *h, uint32_t id) {
    uint32_t at = 0;
    h->place[h->id[0]] = SIM_NONE;
    for (uint32_t child; (child = 2 * at + 1) < h->used; at = child) {
        if (child + 1 < h->used && h->next[h->id[child + 1]] > h->next[h->id[child]]) child++;
        if (h->next[h->id[child]] <= h->next[id]) break;
        sim_heap_set(h, at, h->id[child]);
    }
    sim_heap_set(h, at, id);
}

/* Of each request, which one uses its key next. `last`: scratch, one a key. */
static inline void sim_next_use(const sim_trace *t, uint32_t *after, uint32_t *last) {
    memset(last, 0xff, (size_t)t->unique * sizeof *last);
    for (size_t i = t->n; i-- > 0; last[t->ids[i]] = (uint32_t)i) after[i] = last[t->ids[i]];
}

static inline uint64_t sim_belady(const sim_trace *t, uint32_t capacity) {
    uint64_t misses = 0;
    size_t keys = (size_t)t->unique + 1;
    sim_heap h = {malloc(((size_t)capacity + 1) * sizeof(uint32_t)),
                  malloc(keys * sizeof(uint32_t)), malloc(keys * sizeof(uint32_t)), 0};
    uint32_t *after = malloc((t->n + 1) * sizeof *after);
    bool ready = h.id && h.place && h.next && after;
    if (ready) {
        sim_next_use(t, after, h.next);
        memset(h.place, 0xff, keys * sizeof *h.place);
    }
    for (size_t i = 0; ready && i < t->n && capacity; i++) {
        uint32_t id = t->ids[i];
        h.next[id] = after[i]; /* later than it was: it can only rise */
        if (h.place[id] != SIM_NONE) {
            sim_heap_up(&h, h.place[id]);
            continue;
        }
        misses++;
        if (h.used == capacity) {
            sim_heap_replace(&h, id);
        } else {
            sim_heap_set(&h, h.used, id);
            sim_heap_up(&h, h.used++);
        }
    }
    if (!ready) misses = SIM_FAILED;
    free(h.id);
    free(h.place);
    free(h.next);
    free(after);
    return capacity || misses ? misses : t->n;
}

#endif /* ZOOCACHE_SIM_H */
