/* The Python package's library on Windows (tests/reach.py): what is loaded as ctypes loads it does
 * its work, with its threads. */
#include <stdio.h>
#include <windows.h>

#define ZOOCACHE_API typedef /* types of functions, which GetProcAddress() finds */
#include "zoocache.h"

#define FIND(name) name *name##_ = (name *)(uintptr_t)GetProcAddress(library, #name)

int main(int argc, char **argv) {
    HMODULE library = LoadLibraryA(argc > 1 ? argv[1] : "_native.dll");
    zc_cache *cache;
    char value[5];
    size_t len;
    uint64_t version;
    if (!library || !GetProcAddress(library, "zcpy_attach")) return puts("it does not load"), 1;
    FIND(zc_open);
    FIND(zc_close);
    FIND(zc_put);
    FIND(zc_get_copy);
    FIND(zc_invalidate);
    FIND(zc_tag_version);
    if (zc_open_(NULL, &cache) != ZC_OK) return puts("it does not open"), 1;
    zc_bytes tag = zc_str("user:42");
    zc_put_opts o = {.deps = &tag, .ndeps = 1};
    int rc = zc_put_(cache, zc_str("key"), zc_str("value"), &o);
    if (rc == ZC_OK) rc = zc_get_copy_(cache, zc_str("key"), value, sizeof value, &len);
    if (rc != ZC_OK || len != 5 || memcmp(value, "value", 5) != 0) return puts("no value"), 1;
    if (zc_invalidate_(cache, zc_str("user")) != ZC_OK) return puts("not invalidated"), 1;
    if (zc_get_copy_(cache, zc_str("key"), value, sizeof value, &len) != ZC_MISS)
        return puts("stale"), 1;
    if (zc_tag_version_(cache, zc_str("user"), &version) != ZC_OK || !version) return puts("lost"), 1;
    zc_close_(cache);
    return 0;
}
