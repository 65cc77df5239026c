/* Compiled, not run: the declarations alone, included twice, with nothing included before. */
#include "zoocache.h"
#include "zoocache.h"

int zc_user_of_declarations(zc_cache *cache);
int zc_user_of_declarations(zc_cache *cache) {
    return zc_put(cache, zc_str("key"), zc_str("value"), NULL);
}
