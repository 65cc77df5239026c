/* bench_redis.c - what a hit in Redis costs beside a raw GET by hiredis, and what the bus costs.
 *
 *   build/bench_redis [--samples N] [--unix]
 *
 * Starts a redis-server of its own on a free port and ends it. Values of 1 KiB, 1000 keys. The raw
 * GET and ours take turns, a batch each; shown are the medians of the batches' wall time for a call,
 * and of its ratio to the raw batch just before. "cache" is zc_get_copy() of a cache on the bus whose table has room for one
 * entry: table, breaker, record, checksum, dependencies and all; "sealed", one with a sealer.
 * Exit status 1: a storage hit took more than 1.15 times a raw GET, or a sealed one more than 1.1
 * times one that is not. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include <stdio.h>
#define CHECK(x) (x)
#define CHECK_EQ(a, b) ((a) == (b))
#include "../tests/redis_server.h"

#define KEYS 1000
#define BATCH 500
#define BAR 1.15
#define BAR_SEALED 1.1

static redis_server server;

static void must(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "bench_redis: %s\n", what);
    rs_stop(&server);
    exit(1);
}

/* Noise without zeros, so that nothing is compressed. */
static void value_of(unsigned key, unsigned char value[1024]) {
    uint64_t state = key;
    for (int i = 0; i < 1024; i++) value[i] = (unsigned char)(zc__random(&state) | 1);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct what {
    redisContext *raw;
    zc_store store;
    zc_cache *cache, *other, *sealed, *sealed_other;
    zc_bytes keys[KEYS];
    char names[KEYS][16];
    unsigned char value[1024];
} what;

static void raw_get(what *w, unsigned i) {
    const char *argv[] = {"GET", w->names[i]};
    redisReply *r = (redisReply *)redisCommandArgv(w->raw, 2, argv, NULL);
    must(r && r->type == REDIS_REPLY_STRING && r->len >= 1024, "raw GET");
    memcpy(w->value, r->str, 1024);
    freeReplyObject(r);
}

static void store_get(what *w, unsigned i) {
    static zc__mem mem;
    zc_sink sink;
    memset(&sink, 0, sizeof sink);
    sink.mem = &mem;
    sink.most = SIZE_MAX;
    must(w->store.get(w->store.user, w->keys[i], &sink) == ZC_OK && sink.buf.size >= 1024, "get");
    zc__buf_free(&mem, &sink.buf);
}

static void get_of(what *w, zc_cache *c, unsigned i) {
    size_t len;
    int rc = zc_get_copy(c, w->keys[i], w->value, sizeof w->value, &len);
    must(rc == ZC_OK && len == 1024, zc_strerror(rc));
}
static void cache_get(what *w, unsigned i) { get_of(w, w->cache, i); }
static void sealed_get(what *w, unsigned i) { get_of(w, w->sealed, i); }

static void raw_xadd(what *w, unsigned i) {
    const char *argv[] = {"XADD", "raw", "MAXLEN", "~", "100000", "*", "t", w->names[i]};
    redisReply *r = (redisReply *)redisCommandArgv(w->raw, 8, argv, NULL);
    must(r && r->type == REDIS_REPLY_STRING, "raw XADD");
    freeReplyObject(r);
}

static void invalidate(what *w, unsigned i) {
    int rc = zc_invalidate(w->other, w->keys[i]);
    must(rc == ZC_OK, zc_strerror(rc));
}
static void sealed_invalidate(what *w, unsigned i) {
    int rc = zc_invalidate(w->sealed_other, w->keys[i]);
    must(rc == ZC_OK, zc_strerror(rc));
}

static double batch(what *w, void (*fn)(what *w, unsigned i)) {
    uint64_t begin = zc__sys_mono();
    for (unsigned i = 0; i < BATCH; i++) fn(w, i * 7 % KEYS);
    return (double)(zc__sys_mono() - begin) / BATCH / 1000;
}

static double median(double *t, unsigned n) {
    qsort(t, n, sizeof *t, by_size);
    return t[n / 2];
}

typedef struct kind {
    const char *name;
    void (*fn)(what *w, unsigned i);
} kind;

/* Prints all; the first is what the others are compared with. Returns the second's ratio. */
static double compare(what *w, unsigned n, const kind *kinds, unsigned nkinds) {
    double ratios[3];
    double *t = (double *)calloc((size_t)n * nkinds, sizeof *t);
    double *ratio = (double *)calloc(n, sizeof *ratio);
    must(t && ratio, "no memory");
    for (unsigned s = 0; s < n; s++)
        for (unsigned k = 0; k < nkinds; k++) t[k * n + s] = batch(w, kinds[k].fn);
    for (unsigned k = 0; k < nkinds; k++) {
        for (unsigned s = 0; s < n; s++) ratio[s] = t[k * n + s] / t[s];
        ratios[k] = median(ratio, n);
    }
    for (unsigned k = 0; k < nkinds; k++)
        printf("%-26s %8.2f us   %.3f\n", kinds[k].name, median(t + (size_t)k * n, n), ratios[k]);
    free(t);
    free(ratio);
    return ratios[1];
}

/* Generous time-outs: a busy machine must not end the measuring. */
static zc_cache *open_cache(const char *url, size_t entries, const char *prefix, bool seals) {
    static const unsigned char secret[ZC_SEAL_KEY] = "of the bench";
    zc_bytes key = zc_slice(secret, sizeof secret);
    zc_seal_desc seal = {.keys = &key, .nkeys = 1};
    zc_redis_desc d = {.url = url, .prefix = prefix, .timeout = 10 * ZC_SECOND};
    zc_desc desc = {.max_entries = entries, .shards = 1, .max_staleness = 60 * ZC_SECOND};
    zc_cache *c = NULL;
    must(zc_redis_open(&d, &desc.store, &desc.bus) == ZC_OK, "zc_redis_open");
    must(!seals || zc_seal_open(&seal, &desc.sealer) == ZC_OK, "zc_seal_open");
    must(zc_open(&desc, &c) == ZC_OK, "zc_open");
    return c;
}

static void prepare(what *w, bool local) {
    char url[128];
    struct timeval t = {5, 0};
    must(rs_start(&server, NULL), "redis-server does not start");
    snprintf(url, sizeof url, "unix://%s", server.path);
    if (!local) snprintf(url, sizeof url, "%s", server.url);
    w->raw = local ? redisConnectUnixWithTimeout(server.path, t)
                   : redisConnectWithTimeout("127.0.0.1", server.port, t);
    must(w->raw && !w->raw->err, "hiredis");
    zc_redis_desc d = {.url = url, .prefix = "plain", .timeout = 10 * ZC_SECOND};
    must(zc_redis_open(&d, &w->store, NULL) == ZC_OK, "zc_redis_open");
    w->cache = open_cache(url, 1, "cache", false);
    w->other = open_cache(url, 100, "cache", false);
    w->sealed = open_cache(url, 1, "sealed", true);
    w->sealed_other = open_cache(url, 100, "sealed", true);
    zc_bytes dep = zc_str("user:42");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(w->names[i], sizeof w->names[i], "key:%07u", i);
        w->keys[i] = zc_str(w->names[i]);
        value_of(i, w->value);
        zc_bytes v = zc_slice(w->value, sizeof w->value);
        const char *argv[] = {"SET", w->names[i], (const char *)w->value};
        size_t len[] = {3, strlen(w->names[i]), sizeof w->value};
        freeReplyObject(redisCommandArgv(w->raw, 3, argv, len));
        must(w->store.put(w->store.user, w->keys[i], v, 0) == ZC_OK, "put");
        must(zc_put(w->cache, w->keys[i], v, &o) == ZC_OK, "zc_put");
        must(zc_put(w->sealed, w->keys[i], v, &o) == ZC_OK, "zc_put");
    }
}

int main(int argc, char **argv) {
    static what w;
    static const kind gets[] = {{"raw GET, hiredis", raw_get},
                                {"store hit", store_get},
                                {"cache, hit in the store", cache_get}};
    static const kind sealed[] = {{"cache, hit in the store", cache_get},
                                  {"the same, sealed", sealed_get}};
    static const kind adds[] = {{"raw XADD, hiredis", raw_xadd},
                                {"zc_invalidate, acked", invalidate},
                                {"the same, sealed", sealed_invalidate}};
    unsigned samples = 41;
    bool local = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--unix") == 0) local = true;
        else if (strcmp(argv[i], "--samples") == 0 && i + 1 < argc)
            samples = (unsigned)strtoul(argv[++i], NULL, 10);
    }
    if (samples == 0) samples = 1;
    prepare(&w, local);
    bool good = compare(&w, samples, gets, 3) <= BAR;
    good = compare(&w, samples, sealed, 2) <= BAR_SEALED && good;
    (void)compare(&w, samples, adds, 3);
    zc_close(w.cache);
    zc_close(w.other);
    zc_close(w.sealed);
    zc_close(w.sealed_other);
    w.store.close(w.store.user);
    redisFree(w.raw);
    rs_stop(&server);
    return good ? 0 : 1;
}
