/* What a build without storage and texts has, and refuses: ZOOCACHE_NO_STORE and ZOOCACHE_NO_TEXT. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_NO_STORE
#define ZOOCACHE_NO_TEXT
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

static int store_get(void *user, zc_bytes key, zc_sink *sink) {
    (void)user, (void)key, (void)sink;
    return ZC_MISS;
}
static int store_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    (void)user, (void)key, (void)record, (void)expires_ms;
    return ZC_OK;
}
static int store_del(void *user, zc_bytes key) { return (void)user, (void)key, ZC_OK; }
static int store_clear(void *user) { return *(int *)user = 1, ZC_OK; }
static void store_close(void *user) { *(int *)user = 1; }

TEST(a_storage_is_refused_and_stays_the_callers) {
    int called = 0;
    zc_desc d = {.store = {.version = 1, .get = store_get, .put = store_put, .del = store_del}};
    zc_cache *c;
    d.store.clear = store_clear;
    d.store.close = store_close;
    d.store.user = &called;
    CHECK_EQ(zc_open(&d, &c), ZC_E_BUILD);
    CHECK(!c && !called);
}

TEST(a_result_is_told_by_its_name) {
    CHECK_STR(zc_strerror(ZC_E_NOMEM), "ZC_E_NOMEM");
    CHECK_STR(zc_result_name(ZC_E_NOMEM), "ZC_E_NOMEM");
}

static int load(zc_fill *fill, void *user) {
    ++*(int *)user;
    CHECK_EQ(zc_fill_dep(fill, zc_str("a:b")), ZC_OK);
    return zc_fill_value(fill, zc_str("value"));
}

TEST(the_rest_is_as_it_was) {
    zc_cache *c;
    zc_view v;
    int loads = 0;
    uint64_t version;
    CHECK_EQ(zc_open(NULL, &c), ZC_OK);
    for (int i = 1; i <= 2; i++) {
        CHECK_EQ(zc_fetch(c, zc_str("k"), load, &loads, NULL, &v), ZC_OK);
        zc_release(c, &v);
        CHECK_EQ(zc_fetch(c, zc_str("k"), load, &loads, NULL, &v), ZC_OK);
        zc_release(c, &v);
        CHECK_EQ(loads, i);
        CHECK(zc_contains(c, zc_str("k")));
        CHECK_EQ(zc_invalidate(c, zc_str("a")), ZC_OK);
        CHECK(!zc_contains(c, zc_str("k")));
        CHECK(zc_tag_version(c, zc_str("a"), &version) == ZC_OK && version);
    }
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("x"), NULL), ZC_OK);
    CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}
