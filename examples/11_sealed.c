/* 11_sealed: two tenants in one storage that others can read. What is stored is encrypted, for each
 * tenant with a key of its own, under names that tell nothing; a record that was moved from one
 * tenant to the other does not open. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#define ZOOCACHE_WITH_SEAL
#include "zoocache.h"
#include "file_store.h"

static char dir[] = "/tmp/sealed.XXXXXX";

/* Keys are "tenant/what": the scope is what stands before the slash. */
static zc_bytes tenant_of(void *user, zc_bytes key) {
    const char *slash = memchr(key.ptr, '/', key.len);
    (void)user;
    return zc_slice(key.ptr, slash ? (size_t)(slash - (const char *)key.ptr) : 0);
}

static int open_cache(zc_bytes key, zc_cache **cache) {
    zc_desc desc = {.no_thread = true};
    zc_seal_desc seal = {.keys = &key, .nkeys = 1, .scope_of = tenant_of};
    int rc = file_store_open(dir, &desc.store);
    if (rc == ZC_OK) rc = zc_seal_open(&seal, &desc.sealer);
    return rc == ZC_OK ? zc_open(&desc, cache) : rc;
}

static int shell(const char *how) {
    char command[200];
    snprintf(command, sizeof command, "cd %s && %s", dir, how);
    return system(command);
}

static void show(zc_cache *cache, const char *key) {
    zc_view v;
    int rc = zc_get(cache, zc_str(key), &v);
    printf("%s: %.*s\n", key, rc == ZC_OK ? (int)v.size : 4,
           rc == ZC_OK ? (const char *)v.data : "none");
    zc_release(cache, &v);
}

int main(void) {
    unsigned char secret[ZC_SEAL_KEY];
    zc_cache *cache;
    zc_stats st;
    FILE *random = fopen("/dev/urandom", "rb"); /* in earnest: from where you keep secrets */
    if (!random || fread(secret, 1, sizeof secret, random) != sizeof secret) return 1;
    fclose(random);
    zc_bytes key = zc_slice(secret, sizeof secret);
    if (!mkdtemp(dir) || open_cache(key, &cache) != ZC_OK) return 1;
    zc_put(cache, zc_str("acme/salary"), zc_str("90000"), NULL);
    zc_put(cache, zc_str("umbra/salary"), zc_str("12000"), NULL);
    zc_close(cache);

    printf("files that have a tenant's name or a salary in them: ");
    fflush(stdout);
    if (shell("cat * | grep -acE 'acme|umbra|90000|12000'") == 0) return 1; /* prints 0 */

    if (open_cache(key, &cache) != ZC_OK) return 1;
    show(cache, "acme/salary");
    show(cache, "umbra/salary");
    zc_close(cache);

    if (shell("set -- *.record; cp $1 x; cp $2 $1; mv x $2") != 0) return 1;
    printf("after the two records have changed places:\n");
    if (open_cache(key, &cache) != ZC_OK) return 1;
    show(cache, "acme/salary");
    show(cache, "umbra/salary");
    zc_stats_read(cache, &st);
    printf("forgeries: %d\n", (int)st.store_forged);
    zc_close(cache);
    return file_store_remove(dir) != ZC_OK;
}
