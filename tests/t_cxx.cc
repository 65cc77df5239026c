// A C++ program that uses the library: as declarations, linked with the C or the C++ build of the
// implementation. The functions of C, then the types of namespace zoocache.
#include "zoocache.h"
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>

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

// ---- the types of C++ ----

using zoocache::cache, zoocache::fill, zoocache::tag, zoocache::view;

template <class T> constexpr bool moves_only =
    !std::is_copy_constructible_v<T> && std::is_nothrow_move_constructible_v<T> &&
    std::is_nothrow_move_assignable_v<T> && std::is_nothrow_default_constructible_v<T>;
static_assert(moves_only<cache> && moves_only<view> && moves_only<tag>);
static_assert(sizeof(cache) == sizeof(zc_cache *) && sizeof(tag) == 2 * sizeof(void *));

uint64_t now = ZC_SECOND;
uint64_t clock_now(void *) { return now; }

cache open_cache() {
    cache c;
    zc_desc desc = {};
    desc.no_thread = true;
    desc.clock = {1, clock_now, clock_now, nullptr};
    check(!c && c.open(desc) == ZC_OK && c, "a cache opens");
    return c;
}

void values() {
    cache first = open_cache(), c = std::move(first);
    check(!first && c, "a cache is moved");
    check(!c.get("k") && c.get("k").code() == ZC_MISS, "nothing is there");
    check(c.put("k", std::string("value")) == ZC_OK, "a text is stored");
    view v = c.get("k");
    check(v && v.code() == ZC_OK && v.text() == "value", "and read");
    check(c.del("k") == ZC_OK && c.get("k").code() == ZC_MISS, "it is deleted");
    view moved = std::move(v);
    check(!v && v.text().empty() && moved.text() == "value", "a view is moved, and pins");
#if __cplusplus >= 202002L
    check(moved.span().size() == 5 && moved.span()[0] == std::byte{'v'}, "as a span");
#endif
    zc_explanation e;
    c.put("k", "other");
    moved = c.get("k");
    check(zc_explain(c.handle(), zc_str("k"), &e) == ZC_OK && e.pins == 1, "one pin");
    moved = view();
    check(zc_explain(c.handle(), zc_str("k"), &e) == ZC_OK && e.pins == 0, "let go");
    moved = c.get("k");
    c = cache();
    check(moved.text() == "other", "a view outlives its cache");
    zc_desc bad = {};
    bad.shards = 3;
    check(c.open(bad) == ZC_E_INVAL && !c, "what cannot be opened");
}

struct counted {
    int *alive;
    explicit counted(int *n) : alive(n) { ++*n; }
    ~counted() { --*alive; }
};

void owned() {
    int alive = 0;
    cache c = open_cache();
    auto object = std::make_unique<counted>(&alive);
    counted *raw = object.get();
    zc_put_opts bad = {};
    bad.ndeps = 1;
    check(c.put("k", std::move(object), bad) == ZC_E_INVAL && object, "stays the caller's");
    check(c.put("k", std::move(object)) == ZC_OK && !object, "is the cache's");
    check(c.get("k").object<counted>() == raw && c.get("none").object<counted>() == nullptr, "read");
    view v = c.fetch("l", [&](fill &) { return std::make_unique<counted>(&alive); });
    check(v.object<counted>()->alive == &alive && alive == 2, "a loader gives one");
    c = cache();
    check(alive == 1, "a view keeps it");
    v = view();
    check(alive == 0, "all are gone");
}

void tags() {
    cache c = open_cache();
    tag user(c.handle(), "org:1:user:2"), none(c.handle(), "a::b");
    check(user && !none, "an interned tag");
    int loads = 0;
    auto load = [&](fill &f) {
        f.dep(user);
        return "value " + std::to_string(++loads);
    };
    check(c.fetch("k", load).text() == "value 1", "a miss");
    check(c.fetch("k", load).text() == "value 1", "a hit");
    check(c.invalidate(user) == ZC_OK && c.fetch("k", load).text() == "value 2", "by tag");
    check(c.invalidate("org:1") == ZC_OK && c.fetch("k", load).text() == "value 3", "by text");
    check(c.invalidate(none) == ZC_E_INVAL && c.invalidate("a::b") == ZC_E_TAG_SEGMENT, "bad tags");
    user = tag(c.handle(), "other");
    check(c.invalidate(user) == ZC_OK && c.fetch("k", load).text() == "value 3", "another tag");
}

void loaders() {
    cache c = open_cache();
    view v = c.fetch("absent", [](fill &f) { return f.absent(); });
    check(!v && v.code() == ZC_ABSENT, "there is no such thing");
    v = c.fetch("k", [](fill) -> int { return ZC_E_USER - 3; });
    check(!v && v.code() == ZC_E_USER - 3, "a code of the loader's own");
    v = c.fetch("k", [](fill f) {
        f.opts().ttl = ZC_SECOND;
        return f.value("short");
    });
    check(v && v.text() == "short", "a value that it has set");
    now += 2 * ZC_SECOND;
    check(!c.get("k"), "with the life that it has given");
}

// The captures of a loader are gone when fetch() has returned: a refresh runs inside of it.
void refreshes() {
    cache c = open_cache();
    zc_fetch_opts opts = {};
    opts.put.soft_ttl = ZC_SECOND;
    for (int i = 1; i <= 3; i++) {
        std::string text = "value " + std::to_string(i);
        view v = c.fetch("k", [&](fill &) -> std::string_view { return text; }, opts);
        check(v.text() == text && zc_poll(c.handle(), ZC_SECOND) == ZC_OK, "renewed at once");
        now += 2 * ZC_SECOND;
    }
    view v = c.fetch("k", [](fill &) -> int { return ZC_E_USER; }, opts);
    check(v && v.code() == ZC_STALE && v.text() == "value 3", "or as it was");
}

#ifdef __cpp_exceptions
void exceptions() {
    cache c = open_cache();
    zc_fetch_opts opts = {};
    opts.put.soft_ttl = ZC_SECOND;
    auto fails = [](fill &) -> std::string { throw std::runtime_error("no database"); };
    try {
        (void)c.fetch("k", fails);
        check(false, "what a loader throws is thrown on");
    } catch (const std::runtime_error &e) {
        check(std::string(e.what()) == "no database", "what a loader throws is thrown on");
    }
    try {
        (void)c.fetch("outer", [&](fill &) { return std::string(c.fetch("inner", fails).text()); });
        check(false, "through several");
    } catch (const std::runtime_error &) {
        check(true, "through several");
    }
    (void)c.fetch("k", [](fill &) { return std::string_view("old"); }, opts);
    now += 2 * ZC_SECOND;
    view v = c.fetch("k", fails, opts);
    check(v.code() == ZC_STALE && v.text() == "old", "what is stale stands in");
    zc_stats s;
    zc_stats_read(c.handle(), &s);
    check(s.flights == 0 && zc_check(c.handle()) == ZC_OK, "no flight is left");
}

void followers() {
    cache c;
    check(c.open() == ZC_OK, "a cache with threads");
    int code = 0;
    std::thread follower;
    bool thrown = false;
    try {
        (void)c.fetch("k", [&](fill &) -> std::string {
            follower = std::thread([&] {
                code = c.fetch("k", [](fill &) { return std::string("not run"); }).code();
            });
            zc_stats s;
            do zc_stats_read(c.handle(), &s);
            while (s.waits == 0);
            throw std::runtime_error("for the leader alone");
        });
    } catch (const std::runtime_error &) {
        thrown = true;
    }
    follower.join();
    check(thrown && code == ZC_E_LOADER, "who has waited gets a code");
}
#else
void exceptions() {}
void followers() {}
#endif

} // namespace

int main() {
    values();
    owned();
    tags();
    loaders();
    refreshes();
    exceptions();
    followers();
    zc_cache *raw = nullptr;
    zc_desc desc = {};
    desc.max_entries = 100;
    check(zc_open(&desc, &raw) == ZC_OK, "open");
    if (!raw) return 1;
    std::unique_ptr<zc_cache, void (*)(zc_cache *)> owner(raw, zc_close);
    int calls = 0;
    check(fetch(raw, &calls) == "value 1", "a miss runs the loader");
    check(fetch(raw, &calls) == "value 1" && calls == 1, "a hit does not");
    check(zc_invalidate(raw, zc_str("org:1")) == ZC_OK, "invalidate an ancestor");
    check(fetch(raw, &calls) == "value 2", "the loader runs again");
    objects(raw);
    check(zc_check(raw) == ZC_OK, "the structures are sound");
    owner.reset();
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
