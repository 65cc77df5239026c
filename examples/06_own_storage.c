/* 06_own_storage: a second tier behind the cache, one file a record (file_store.h). It outlives the
 * process: a restart is warm. It also keeps what was invalidated, so a restart is never stale, and
 * what is damaged or unknown is a miss. Each step opens the cache anew, as a restart would. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE /* mkdtemp() there */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "file_store.h"

static char dir[] = "/tmp/own_storage.XXXXXX";
static zc_cache *cache;

static int load(zc_fill *fill, void *user) {
    printf(" loads %s", (const char *)user);
    zc_fill_dep(fill, zc_str(user));
    return zc_fill_value(fill, zc_str("a text"));
}

static void get(const char *doc) {
    zc_view v;
    if (zc_fetch(cache, zc_str(doc), load, (void *)(uintptr_t)doc, NULL, &v) != ZC_OK) exit(1);
    zc_release(cache, &v);
}

/* Opens, reads two documents, invalidates one if asked to, closes. */
static void run(const char *what, const char *invalidate) {
    zc_desc desc = {.no_thread = true};
    zc_stats st;
    printf("%s:", what);
    if (file_store_open(dir, &desc.store) != ZC_OK || zc_open(&desc, &cache) != ZC_OK) exit(1);
    get("doc:1");
    get("doc:2");
    if (invalidate && zc_invalidate(cache, zc_str(invalidate)) != ZC_OK) exit(1);
    zc_stats_read(cache, &st);
    printf(" (from storage: %d, stale: %d, damaged: %d)\n", (int)st.hits_store, (int)st.store_stale,
           (int)st.store_corrupt);
    zc_close(cache);
}

/* Changes a byte of every record, or deletes the versions. */
static void damage(const char *how) {
    char command[160];
    snprintf(command, sizeof command, "cd %s && %s", dir, how);
    if (system(command) != 0) exit(1);
}

int main(void) {
    if (!mkdtemp(dir)) return 1;
    run("first run", NULL);
    run("restart", "doc:1"); /* invalidated, and not read again before the end */
    run("after an invalidation", NULL);
    damage(
        "for f in *.record; do printf x | dd of=$f bs=1 seek=90 conv=notrunc; done 2>log; rm log");
    run("with damaged records", NULL);
    run("once more", NULL);
    damage("rm versions");
    run("without the versions", NULL);
    return file_store_remove(dir) != ZC_OK;
}
