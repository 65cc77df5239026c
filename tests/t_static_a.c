/* One of two static copies of the library in one program (t_static_b.c): nothing of it is seen from
 * outside this file. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_STATIC
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

int static_a_remembers(const char *value);
int static_a_remembers(const char *value) {
    zc_cache *cache;
    zc_view view;
    if (zc_open(NULL, &cache) != ZC_OK) return 0;
    int good = zc_put(cache, zc_str("k"), zc_str(value), NULL) == ZC_OK &&
               zc_get(cache, zc_str("k"), &view) == ZC_OK && view.size == strlen(value) &&
               memcmp(view.data, value, view.size) == 0;
    if (good) zc_release(cache, &view);
    zc_close(cache);
    return good;
}
