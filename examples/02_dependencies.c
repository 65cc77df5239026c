/* 02_dependencies: tags form a hierarchy, separated by ':'. Invalidating a tag ends everything that
 * depends on it or on a tag below it. A value may have many dependencies; several tags can be
 * invalidated in one step; zc_explain() tells what ended an entry. */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <stdio.h>

static const char *const keys[] = {"team a", "team b", "org 1", "a and b"};

static void put(zc_cache *cache, const char *key, size_t n, const char *d0, const char *d1) {
    const zc_bytes deps[] = {zc_str(d0), zc_str(d1)};
    zc_put_opts opts = {.deps = deps, .ndeps = n};
    int rc = zc_put(cache, zc_str(key), zc_str("..."), &opts);
    if (rc != ZC_OK) printf("%s: %s\n", key, zc_strerror(rc));
}

static void fill(zc_cache *cache) {
    put(cache, "team a", 1, "org:1:team:a", "");
    put(cache, "team b", 1, "org:1:team:b", "");
    put(cache, "org 1", 1, "org:1", "");
    put(cache, "a and b", 2, "org:1:team:a", "org:1:team:b");
}

static void show(zc_cache *cache, const char *what) {
    printf("%s\n", what);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        zc_explanation x;
        if (zc_explain(cache, zc_str(keys[i]), &x) < 0) return;
        if (x.state == ZC_OK) printf("    %-8s fresh, dependencies: %zu\n", keys[i], x.deps);
        else if (x.invalidated) printf("    %-8s ended by %s\n", keys[i], x.killer);
        else printf("    %-8s not there\n", keys[i]);
    }
}

int main(void) {
    zc_cache *cache;
    /* Without the background thread nothing is swept away before it has been explained. */
    if (zc_open(&(zc_desc){.no_thread = true}, &cache) != ZC_OK) return 1;
    fill(cache);
    show(cache, "at first");

    zc_invalidate(cache, zc_str("org:1:team:a"));
    show(cache, "after org:1:team:a: its parent org:1 does not change");

    fill(cache);
    zc_invalidate(cache, zc_str("org"));
    show(cache, "after org: everything below it");

    fill(cache);
    const zc_bytes both[] = {zc_str("org:1:team:b"), zc_str("org:2")};
    zc_invalidate_many(cache, both, 2);
    show(cache, "after org:1:team:b and org:2, in one step");

    printf("a bad tag: %s\n", zc_strerror(zc_invalidate(cache, zc_str("org::1"))));
    zc_close(cache);
    return 0;
}
