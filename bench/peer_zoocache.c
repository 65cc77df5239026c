/* peer_zoocache.c - zoocache in the harness that measures native caches side by side: bench.h defines
 * the workloads and includes nothing of us; this file gives it a get and a put.
 *
 * As a service would use it: a limit in entries, threads, and one dependency for each entry, so that
 * every hit proves that nothing it depends on was invalidated. Keys share 1024 tags. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_STATIC
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include <stdio.h>
#include <stdlib.h>

#define PEER_NAME "zoocache, one dependency"
#define TAGS 1024u

typedef struct {
    zc_cache *zc;
    zc_tag *tags[TAGS];
} cache_t;

static cache_t *cache_new(size_t cap) {
    cache_t *c = calloc(1, sizeof *c);
    zc_desc desc = {.max_entries = cap};
    if (!c || zc_open(&desc, &c->zc) != ZC_OK) exit(1);
    for (unsigned i = 0; i < TAGS; i++) {
        char tag[32];
        snprintf(tag, sizeof tag, "group:%u", i);
        if (zc_tag_intern(c->zc, zc_str(tag), &c->tags[i]) != ZC_OK) exit(1);
    }
    return c;
}

static int cache_get(cache_t *c, const char *key, char *out) {
    return zc_get_copy(c->zc, zc_slice(key, 16), out, 64, NULL) == ZC_OK;
}

static void cache_put(cache_t *c, const char *key, const char *value) {
    unsigned group = ((unsigned char)key[15] + 256u * (unsigned char)key[14]) % TAGS;
    zc_put_opts opts = {.tags = &c->tags[group], .ntags = 1};
    if (zc_put(c->zc, zc_slice(key, 16), zc_slice(value, 64), &opts) != ZC_OK) exit(1);
}

#include "bench.h"
