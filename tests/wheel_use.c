/* What the library of a wheel is tried with on musl, for which Debian has no Python: memory, LMDB,
 * Redis, by two caches each; and that it finds out that there is no OpenSSL.
 *     wheel_use REDIS PREFIX */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_WITH_REDIS
#include "zoocache.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int zcpy_parts(void); /* what _ffi.parts() asks */

static int loads;

static int load(zc_fill *fill, void *user) {
    (void)user;
    loads++;
    zc_fill_dep(fill, zc_str("a:b"));
    return zc_fill_value(fill, zc_str("value"));
}

static void check(int good, const char *what) {
    if (good) return;
    fprintf(stderr, "%s, after %d computations\n", what, loads);
    exit(1);
}

static int attach(zc_desc *desc, const char *url, const char *prefix) {
    if (!url) return ZC_OK;
    zc_lmdb_desc lmdb = {.path = url};
    zc_redis_desc redis = {.url = url, .prefix = prefix, .timeout = 30 * ZC_SECOND};
    return prefix ? zc_redis_open(&redis, &desc->store, &desc->bus)
                  : zc_lmdb_open(&lmdb, &desc->store, &desc->bus);
}

static zc_cache *open_cache(const char *url, const char *prefix) {
    zc_desc desc = {.max_entries = 100};
    zc_cache *cache = NULL;
    int rc = attach(&desc, url, prefix);
    if (rc == ZC_OK) rc = zc_open(&desc, &cache);
    check(rc == ZC_OK, zc_strerror(rc));
    return cache;
}

static void ask(zc_cache *cache, int computed) {
    zc_view v;
    check(zc_fetch(cache, zc_str("key"), load, NULL, NULL, &v) == ZC_OK, "no value");
    check(v.size == 5 && memcmp(v.data, "value", 5) == 0 && loads == computed, "another value");
    zc_release(cache, &v);
}

/* What one cache has computed, the next one finds in their place, if they have one, until it
 * invalidates it. */
static void use(const char *url, const char *prefix) {
    zc_cache *cache = open_cache(url, prefix);
    int known = url ? 1 : 2;
    loads = 0;
    ask(cache, 1);
    ask(cache, 1);
    zc_close(cache);
    cache = open_cache(url, prefix);
    ask(cache, known);
    zc_invalidate(cache, zc_str("a"));
    ask(cache, known + 1);
    zc_close(cache);
}

/* LMDB on musl needs such mutexes, which a machine that qemu plays has not. */
static int robust(void) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    return pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST) == 0;
}

int main(int count, char **words) {
    check(count == 3 && zc_abi() == ZOOCACHE_ABI, "not the library of this header");
    check(zcpy_parts() == (1 | 2 | 8), "not LMDB, Redis, and no OpenSSL");
    use(NULL, NULL);
    if (robust()) use("/tmp", NULL);
    use(words[1], words[2]);
    printf("used: memory, Redis, no OpenSSL%s\n", robust() ? ", LMDB" : "");
    return 0;
}
