/* The other static copy, built differently: without threads and LZ4. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_STATIC
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_NO_LZ4
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

int static_a_remembers(const char *value);

TEST(two_static_copies_in_one_program) {
    zc_cache *cache;
    char buf[8];
    size_t len = 0;
    REQUIRE(zc_open(NULL, &cache) == ZC_OK);
    CHECK_EQ(zc_put(cache, zc_str("k"), zc_str("mine"), NULL), ZC_OK);
    CHECK(static_a_remembers("yours"));
    CHECK_EQ(zc_get_copy(cache, zc_str("k"), buf, sizeof buf, &len), ZC_OK);
    CHECK(len == 4 && memcmp(buf, "mine", 4) == 0);
    zc_close(cache);
}
