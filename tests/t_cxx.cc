// A C++ program that uses the library: as declarations, linked with the C or the C++ build of the
// implementation.
#include "zoocache.h"
#include <cstdio>
#include <memory>
#include <string>

namespace {

int failed, passed;

void check(bool good, const char *what) {
    std::printf("%s %s\n", good ? "good" : "FAILED", what);
    ++(good ? passed : failed);
}

int load(zc_fill *fill, void *user) {
    auto *calls = static_cast<int *>(user);
    ++*calls;
    std::string value = "value " + std::to_string(*calls);
    if (int rc = zc_fill_dep(fill, zc_str("org:1:user:2"))) return rc;
    return zc_fill_value(fill, zc_slice(value.data(), value.size()));
}

std::string fetch(zc_cache *cache, int *calls) {
    zc_view view;
    if (zc_fetch(cache, zc_str("key"), load, calls, nullptr, &view) != ZC_OK) return "";
    std::string value(static_cast<const char *>(view.data), view.size);
    zc_release(cache, &view);
    return value;
}

void drop_string(void *user, void *object, size_t) {
    ++*static_cast<int *>(user);
    delete static_cast<std::string *>(object);
}

void objects(zc_cache *cache) {
    int dropped = 0;
    auto text = std::make_unique<std::string>("a C++ object");
    int rc = zc_put_object(cache, zc_str("object"), text.get(), text->size(), drop_string, &dropped,
                           nullptr);
    check(rc == ZC_OK, "an object is stored");
    if (rc != ZC_OK) return;
    std::string *raw = text.release(); // the cache's from now on
    zc_view view;
    check(zc_get(cache, zc_str("object"), &view) == ZC_OK && view.data == raw, "and found");
    check(zc_del(cache, zc_str("object")) == ZC_OK && dropped == 0, "a pin keeps it alive");
    check(*static_cast<const std::string *>(view.data) == "a C++ object", "and whole");
    zc_release(cache, &view);
    check(dropped == 1, "dropped once");
}

} // namespace

int main() {
    zc_cache *raw = nullptr;
    zc_desc desc = {};
    desc.max_entries = 100;
    check(zc_open(&desc, &raw) == ZC_OK, "open");
    if (!raw) return 1;
    std::unique_ptr<zc_cache, void (*)(zc_cache *)> cache(raw, zc_close);
    int calls = 0;
    check(fetch(raw, &calls) == "value 1", "a miss runs the loader");
    check(fetch(raw, &calls) == "value 1" && calls == 1, "a hit does not");
    check(zc_invalidate(raw, zc_str("org:1")) == ZC_OK, "invalidate an ancestor");
    check(fetch(raw, &calls) == "value 2", "the loader runs again");
    objects(raw);
    check(zc_check(raw) == ZC_OK, "the structures are sound");
    cache.reset();
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
