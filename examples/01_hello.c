/* 01_hello: open a cache, fetch through a loader, invalidate what the value depends on. */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <stdio.h>

static const char *name = "Ada Byron"; /* stands for a row of a database */

static int load(zc_fill *fill, void *user) {
    (void)user;
    puts("loading");
    zc_fill_dep(fill, zc_str("user:42"));
    return zc_fill_value(fill, zc_str(name));
}

static void show(zc_cache *cache) {
    zc_view v;
    if (zc_fetch(cache, zc_str("profile/42"), load, NULL, NULL, &v) != ZC_OK) return;
    printf("%.*s\n", (int)v.size, (const char *)v.data);
    zc_release(cache, &v);
}

int main(void) {
    zc_cache *cache;
    if (zc_open(NULL, &cache) != ZC_OK) return 1;
    show(cache); /* a miss: the loader runs */
    show(cache); /* a hit */
    name = "Ada Lovelace";
    zc_invalidate(cache, zc_str("user:42"));
    show(cache); /* what depended on user:42 is gone: the loader runs again */
    zc_close(cache);
    return 0;
}
