/* Processes that share one LMDB file: what one of them computes, all of them have; what one of them
 * invalidates is gone for all at once. Here a parent and its child take turns. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int loads;

static int load(zc_fill *fill, void *user) {
    loads++;
    zc_fill_dep(fill, zc_str("price:apples"));
    return zc_fill_value(fill, zc_str((const char *)user));
}

/* The price, and who found it out. */
static void show(zc_cache *cache, const char *who, char *source) {
    zc_view v;
    int before = loads;
    if (zc_fetch(cache, zc_str("apples"), load, source, NULL, &v) != ZC_OK) exit(1);
    printf("%s: %.*s%s\n", who, (int)v.size, (const char *)v.data,
           loads > before ? " (computed)" : "");
    fflush(stdout);
    zc_release(cache, &v);
}

static zc_cache *open_cache(const char *directory) {
    zc_desc desc = {.max_entries = 10000};
    zc_lmdb_desc file = {.path = directory};
    zc_cache *cache;
    int rc = zc_lmdb_open(&file, &desc.store, &desc.bus);
    if (rc == ZC_OK) rc = zc_open(&desc, &cache);
    if (rc == ZC_OK) return cache;
    fprintf(stderr, "%s: %s\n", directory, zc_strerror(rc));
    exit(1);
}

int main(void) {
    char directory[] = "/tmp/zoocache-XXXXXX", word, command[64];
    char *euro = "1 euro", *two = "2 euros";
    int to_child[2], to_parent[2];
    if (!mkdtemp(directory) || pipe(to_child) != 0 || pipe(to_parent) != 0) return 1;
    pid_t child = fork(); /* before the cache is opened: each process opens it for itself */
    zc_cache *cache = NULL;
    if (child == 0) {
        if (read(to_child[0], &word, 1) != 1) _exit(1);
        cache = open_cache(directory);
        show(cache, "child ", euro); /* the parent's */
        if (write(to_parent[1], "1", 1) != 1 || read(to_child[0], &word, 1) != 1) _exit(1);
        show(cache, "child ", two); /* the parent has invalidated it */
        zc_close(cache);
        _exit(0);
    }
    cache = open_cache(directory);
    show(cache, "parent", euro);
    if (write(to_child[1], "1", 1) != 1 || read(to_parent[0], &word, 1) != 1) return 1;
    zc_invalidate(cache, zc_str("price"));
    if (write(to_child[1], "2", 1) != 1) return 1;
    waitpid(child, NULL, 0);
    show(cache, "parent", two); /* the child's */
    zc_close(cache);
    snprintf(command, sizeof command, "rm -r %s", directory);
    return system(command) == 0 ? 0 : 1;
}
