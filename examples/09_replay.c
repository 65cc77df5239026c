/* 09_replay: replays a trace of keys through a cache, beside FIFO, LRU and Belady's optimal
 * algorithm, and draws the miss ratios as bars.
 *
 * Usage: 09_replay [FILE...]
 * A trace is a file of 64-bit little-endian keys, one a request, as 08_catalogue --record writes
 * it; .xz files are read through xz. Capacities are 0.1 %, 1 % and 10 % of the different keys, at
 * least 10. Every request is a read, and a put after a miss. FIFO and LRU know the past, as the
 * cache does; Belady knows the future, and shows how much there is to gain. Without a FILE it makes
 * a trace of its own: popular keys, and now and then a scan over keys that are never seen again. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include "../bench/sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t *read_keys(FILE *f, size_t *n) {
    unsigned char b[8];
    uint64_t *keys = NULL;
    size_t cap = 0;
    for (*n = 0; fread(b, 1, 8, f) == 8; (*n)++) {
        if (*n == cap) {
            uint64_t *more = realloc(keys, (cap = cap * 2 + 4096) * sizeof *keys);
            if (!more) break;
            keys = more;
        }
        keys[*n] = 0;
        for (int i = 8; i-- > 0;) keys[*n] = keys[*n] << 8 | b[i];
    }
    return keys;
}

static uint64_t *read_trace(const char *path, size_t *n) {
    size_t len = strlen(path);
    bool packed = len > 3 && strcmp(path + len - 3, ".xz") == 0;
    char command[4200];
    if (strchr(path, '\'') || len > 4096) return NULL; /* the shell would see more than a name */
    snprintf(command, sizeof command, "xz -dc -- '%s'", path);
    FILE *f = packed ? popen(command, "r") : fopen(path, "rb");
    if (!f) return NULL;
    uint64_t *keys = read_keys(f, n);
    int rc = packed ? pclose(f) : fclose(f);
    if (rc == 0 && *n) return keys;
    free(keys);
    return NULL;
}

/* Misses of a cache that holds `capacity` entries; SIM_FAILED for a failure. */
static uint64_t replay(const uint64_t *keys, size_t n, uint32_t capacity) {
    zc_desc desc = {.max_entries = capacity, .no_thread = true, .seed = 1};
    zc_cache *cache;
    uint64_t misses = 0;
    if (zc_open(&desc, &cache) != ZC_OK) return SIM_FAILED;
    for (size_t i = 0; i < n; i++) {
        zc_bytes key = zc_slice(&keys[i], sizeof keys[i]);
        int rc = zc_get_copy(cache, key, NULL, 0, NULL);
        if (rc == ZC_MISS) {
            misses++;
            rc = zc_put(cache, key, zc_str(""), NULL);
        }
        if (rc != ZC_OK) {
            misses = SIM_FAILED;
            break;
        }
    }
    zc_close(cache);
    return misses;
}

static void draw(const char *name, uint64_t misses, size_t n) {
    enum { WIDTH = 56 };
    double ratio = (double)misses / (double)n;
    int full = (int)(ratio * WIDTH + 0.5);
    printf("  %-8s  %8.6f  ", name, ratio);
    for (int i = 0; i < WIDTH; i++) putchar(i < full ? '#' : '.');
    putchar('\n');
}

/* A product of random numbers prefers the small ones. */
static uint64_t *make_trace(size_t *n) {
    uint64_t *keys = malloc((*n = 200000) * sizeof *keys), x = 1;
    for (size_t i = 0; keys && i < *n; i++) {
        double u = 20000;
        for (int k = 0; k < 3; k++) {
            x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            u *= (double)(x >> 40) / (1 << 24);
        }
        keys[i] = i % 5000 < 1000 ? 1000000 + i : (uint64_t)u;
    }
    return keys;
}

/* Shows a trace, whose keys are freed. */
static int show(const char *path, uint64_t *keys, size_t n) {
    static const double shares[] = {0.001, 0.01, 0.1};
    sim_trace t;
    uint32_t before = 0;
    int bad = 0;
    if (!keys || !sim_trace_init(&t, keys, n)) {
        fprintf(stderr, "09_replay: %s: not a trace that can be read\n", path);
        free(keys);
        return 1;
    }
    const char *name = strrchr(path, '/');
    printf("%s: %zu requests, %u different keys; miss ratios\n", name ? name + 1 : path, n,
           t.unique);
    for (int i = 0; i < 3; i++) {
        uint32_t capacity = sim_capacity(&t, shares[i]);
        if (capacity == before) continue; /* a small trace */
        before = capacity;
        uint64_t fifo = sim_fifo(&t, capacity), lru = sim_lru(&t, capacity);
        uint64_t ours = replay(keys, n, capacity), best = sim_belady(&t, capacity);
        if (fifo == SIM_FAILED || lru == SIM_FAILED || ours == SIM_FAILED || best == SIM_FAILED) {
            fprintf(stderr, "09_replay: %s: no memory\n", path);
            bad = 1;
            break;
        }
        printf(" %g %%: %u entries\n", shares[i] * 100, capacity);
        draw("FIFO", fifo, n);
        draw("LRU", lru, n);
        draw("zoocache", ours, n);
        draw("Belady", best, n);
    }
    sim_trace_free(&t);
    free(keys);
    return bad;
}

int main(int argc, char **argv) {
    int bad = 0;
    size_t n = 0;
    if (argc < 2) {
        uint64_t *keys = make_trace(&n);
        bad = show("a trace of its own", keys, n);
    }
    for (int i = 1; i < argc; i++) {
        uint64_t *keys = read_trace(argv[i], &n);
        bad |= show(argv[i], keys, n);
    }
    return bad;
}
