/* The other of two translation units: it only sees the declarations. */
#include "zoocache.h"
#include "zc_test.h"

static int load(zc_fill *fill, void *user) {
    ++*(int *)user;
    int rc = zc_fill_dep(fill, zc_str("user:42"));
    return rc < 0 ? rc : zc_fill_value(fill, zc_str("loaded"));
}

TEST(a_user_without_the_implementation) {
    zct_mem mem = {0};
    zc_desc desc = {.allocator = zct_allocator(&mem)};
    zc_cache *cache;
    zc_view view;
    int loads = 0;
    REQUIRE(zc_open(&desc, &cache) == ZC_OK);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(zc_fetch(cache, zc_str("k"), load, &loads, NULL, &view), ZC_OK);
        CHECK(view.size == 6 && memcmp(view.data, "loaded", 6) == 0);
        zc_release(cache, &view);
    }
    CHECK_EQ(loads, 1);
    CHECK_EQ(zc_invalidate(cache, zc_str("user")), ZC_OK);
    CHECK_EQ(zc_get(cache, zc_str("k"), &view), ZC_MISS);
    CHECK_EQ(zc_check(cache), ZC_OK);
    zc_close(cache);
}

TEST(several_caches_in_one_process) {
    zc_cache *caches[3];
    char buf[16];
    size_t len;
    for (int i = 0; i < 3; i++) {
        REQUIRE(zc_open(NULL, &caches[i]) == ZC_OK);
        CHECK_EQ(zc_put(caches[i], zc_str("k"), zc_slice("abc", (size_t)i), NULL), ZC_OK);
    }
    CHECK_EQ(zc_clear(caches[1]), ZC_OK);
    for (int i = 0; i < 3; i++) {
        int rc = zc_get_copy(caches[i], zc_str("k"), buf, sizeof buf, &len);
        CHECK_EQ(rc, i == 1 ? ZC_MISS : ZC_OK);
        if (rc == ZC_OK) CHECK_EQ(len, i);
        zc_close(caches[i]);
    }
}

TEST(results_have_names_and_texts) {
    CHECK_STR(zc_result_name(ZC_MISS), "ZC_MISS");
    CHECK_STR(zc_result_name(ZC_E_NOMEM), "ZC_E_NOMEM");
    CHECK_STR(zc_strerror(ZC_OK), "done");
    CHECK_STR(zc_cause_name(ZC_CAUSE_EVICTED), "evicted");
}
