/* The public functions from outside: arguments, values, objects, pins, limits, times, tags. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

#define START UINT64_C(1700000000000000000) /* a day in 2023 */

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    zc_cache *c;
} fixture;

static bool start(fixture *f, zc_desc *d) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = START;
    d->allocator = zct_allocator(&f->mem);
    d->clock = zct_clock(&f->time);
    d->no_thread = true;
    d->seed = 1;
    return CHECK_EQ(zc_open(d, &f->c), ZC_OK);
}

static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}

static int put(zc_cache *c, const char *key, const char *value, const zc_put_opts *o) {
    return zc_put(c, zc_str(key), zc_str(value), o);
}

/* Puts with one dependency. */
static int put_dep(zc_cache *c, const char *key, const char *value, const char *tag) {
    zc_bytes dep = zc_str(tag);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    return put(c, key, value, &o);
}

/* The result of a read whose value, if there is one, must be `want`. */
static int read_as(zc_cache *c, zc_bytes key, zc_bytes want) {
    zc_view v;
    int rc = zc_get(c, key, &v);
    if (rc == ZC_OK || rc == ZC_STALE) {
        CHECK_EQ(v.size, want.len);
        CHECK(v.size == want.len && (want.len == 0 || memcmp(v.data, want.ptr, want.len) == 0));
    } else {
        CHECK(!v.data && !v.size);
    }
    zc_release(c, &v);
    return rc;
}
static int get(zc_cache *c, const char *key, const char *want) {
    return read_as(c, zc_str(key), zc_str(want));
}

static int load_hello(zc_fill *fill, void *user) {
    ++*(int *)user;
    return zc_fill_value(fill, zc_str("hello"));
}

/* ---- arguments ---- */

TEST(open_refuses_contradictions) {
    static unsigned char block[65536];
    zct_mem m = {0};
    zct_time t = {0};
    zc_cache *c = (zc_cache *)(void *)block;
    CHECK_EQ(zc_open(NULL, NULL), ZC_E_INVAL);
    zc_store half = {.version = 1};
    zc_allocator half_allocator = zct_allocator(&m), late = zct_allocator(&m);
    half_allocator.free = NULL;
    late.version = 2;
    zc_clock half_clock = zct_clock(&t);
    half_clock.wall_ns = NULL;
    const zc_desc bad[] = {
        {.shards = 3},
        {.shards = 128},
        {.ttl_jitter = 101},
        {.block = block},
        {.block_size = sizeof block},
        {.block = block, .block_size = sizeof block, .allocator = zct_allocator(&m)},
        {.allocator = half_allocator},
        {.allocator = late},
        {.clock = half_clock},
        {.log = {.version = 1}},
        {.log = {.version = 9}},
        {.events = {.version = 1}},
        {.weigher = {.version = 1}},
        {.store = half},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        c = (zc_cache *)(void *)block;
        if (!CHECK_EQ(zc_open(&bad[i], &c), ZC_E_INVAL)) printf("    case %zu\n", i);
        CHECK(c == NULL);
    }
    zc_desc tiny = {.block = block, .block_size = 64};
    CHECK_EQ(zc_open(&tiny, &c), ZC_E_NOMEM);
    CHECK(c == NULL);
    zc_close(NULL);
}

TEST(open_with_all_defaults) {
    zc_cache *c;
    zc_stats s;
    REQUIRE(zc_open(NULL, &c) == ZC_OK);
    CHECK_EQ(put(c, "k", "v", NULL), ZC_OK);
    CHECK_EQ(get(c, "k", "v"), ZC_OK);
    zc_stats_read(c, &s);
    CHECK_EQ(s.entries, 1);
    CHECK_EQ(s.hits, 1);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(null_arguments) {
    fixture f;
    zc_view v;
    zc_fill *fill = NULL;
    zc_tag *tag = NULL;
    zc_stats s;
    zc_explanation x;
    uint64_t version = 7;
    size_t len = 7;
    int n = 0, results[1];
    zc_bytes k = zc_str("k"), broken = zc_slice(NULL, 3), empty = zc_slice(NULL, 0);
    if (!start(&f, &(zc_desc){0})) return;
    zc_cache *c = f.c;

    CHECK_EQ(zc_get(NULL, k, &v), ZC_E_INVAL);
    CHECK_EQ(zc_get(c, k, NULL), ZC_E_INVAL);
    memset(&v, 0xee, sizeof v);
    CHECK_EQ(zc_get(c, broken, &v), ZC_E_INVAL);
    CHECK(!v.data && !v.size && !v.pin);
    CHECK_EQ(zc_get_copy(NULL, k, NULL, 0, &len), ZC_E_INVAL);
    CHECK_EQ(len, 0);
    CHECK_EQ(zc_get_copy(c, k, NULL, 1, &len), ZC_E_INVAL);
    CHECK_EQ(zc_get_copy(c, broken, NULL, 0, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_get_many(NULL, &k, 1, &v, results), ZC_E_INVAL);
    CHECK_EQ(zc_get_many(c, NULL, 1, &v, results), ZC_E_INVAL);
    CHECK_EQ(zc_get_many(c, &k, 1, NULL, results), ZC_E_INVAL);
    CHECK_EQ(zc_get_many(c, &k, 1, &v, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_get_many(c, NULL, 0, NULL, NULL), 0);
    zc_release(c, NULL);

    CHECK_EQ(zc_put(NULL, k, k, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put(c, broken, k, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put(c, k, broken, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put(c, k, k, &(zc_put_opts){.ndeps = 1}), ZC_E_INVAL);
    CHECK_EQ(zc_put(c, k, k, &(zc_put_opts){.ntags = 1}), ZC_E_INVAL);
    CHECK_EQ(zc_put(c, k, k, &(zc_put_opts){.begin = zc_begin(c) + 1}), ZC_E_INVAL);
    CHECK_EQ(zc_put_object(c, k, &n, 1, NULL, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put_absent(c, broken, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_del(NULL, k), ZC_E_INVAL);
    CHECK_EQ(zc_del(c, broken), ZC_E_INVAL);
    CHECK_EQ(zc_begin(NULL), 0);

    CHECK_EQ(zc_fetch(NULL, k, load_hello, &n, NULL, &v), ZC_E_INVAL);
    CHECK_EQ(zc_fetch(c, k, NULL, &n, NULL, &v), ZC_E_INVAL);
    CHECK_EQ(zc_fetch(c, k, load_hello, &n, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_fetch(c, broken, load_hello, &n, NULL, &v), ZC_E_INVAL);
    zc_fetch_opts future = {.put = {.begin = zc_begin(c) + 1}};
    CHECK_EQ(zc_fetch(c, k, load_hello, &n, &future, &v), ZC_E_INVAL);
    CHECK_EQ(zc_fetch(c, k, load_hello, &n, &(zc_fetch_opts){.put = {.ndeps = 1}}, &v),
             ZC_E_INVAL);
    CHECK_EQ(n, 0);
    CHECK_EQ(zc_flight_begin(NULL, k, NULL, &v, &fill), ZC_E_INVAL);
    CHECK_EQ(zc_flight_begin(c, k, NULL, NULL, &fill), ZC_E_INVAL);
    CHECK_EQ(zc_flight_begin(c, k, NULL, &v, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_flight_commit(NULL, &v), ZC_E_INVAL);
    CHECK_EQ(zc_flight_wait(NULL, 0, &v), ZC_E_INVAL);
    CHECK_EQ(zc_flight_notify(NULL, NULL, NULL), ZC_E_INVAL);
    zc_flight_abandon(NULL, 0);
    CHECK_EQ(zc_fill_dep(NULL, k), ZC_E_INVAL);
    CHECK_EQ(zc_fill_dep_tag(NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_fill_value(NULL, k), ZC_E_INVAL);
    CHECK_EQ(zc_fill_object(NULL, &n, 1, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_fill_absent(NULL), ZC_E_INVAL);
    CHECK(zc_fill_opts(NULL) == NULL);
    zc_fill_no_store(NULL);

    CHECK_EQ(zc_invalidate(NULL, k), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate(c, empty), ZC_E_TAG_EMPTY);
    CHECK_EQ(zc_invalidate(c, broken), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate_many(NULL, &k, 1), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate_many(c, NULL, 1), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate_many(c, NULL, 0), ZC_OK);
    CHECK_EQ(zc_invalidate_tag(NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate_tag(c, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_clear(NULL), ZC_E_INVAL);
    CHECK_EQ(zc_tag_intern(c, k, NULL), ZC_E_INVAL);
    tag = (zc_tag *)(void *)&n;
    CHECK_EQ(zc_tag_intern(NULL, k, &tag), ZC_E_INVAL);
    CHECK(tag == NULL);
    zc_tag_release(c, NULL);
    zc_tag_release(NULL, NULL);
    CHECK_EQ(zc_tag_version(c, k, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_tag_version(NULL, k, &version), ZC_E_INVAL);
    CHECK_EQ(version, 0);
    CHECK_EQ(zc_prune(NULL, 0), 0);
    CHECK_EQ(zc_poll(NULL, 0), ZC_E_INVAL);
    zc_fork_prepare(NULL);
    zc_fork_parent(NULL);
    CHECK_EQ(zc_fork_child(NULL), ZC_E_INVAL);
    CHECK_EQ(zc_check(NULL), ZC_E_INVAL);
    CHECK_EQ(zc_explain(NULL, k, &x), ZC_E_INVAL);
    CHECK_EQ(zc_explain(c, k, NULL), ZC_E_INVAL);
    zc_stats_read(c, NULL);
    memset(&s, 0xee, sizeof s);
    zc_stats_read(NULL, &s);
    CHECK_EQ(s.entries, 0);
    CHECK_EQ(zc_sink_write(NULL, "x", 1), ZC_E_INVAL);

    /* Nothing of all that has left a trace. */
    zc_stats_read(c, &s);
    CHECK_EQ(s.entries, 0);
    CHECK_EQ(s.puts, 0);
    CHECK_EQ(s.flights, 0);
    CHECK_EQ(s.invalidations, 0);
    CHECK_EQ(s.tags, 0);
    stop(&f);
}

TEST(bad_tags_change_nothing) {
    fixture f;
    char lengthy[ZC_TAG_MAX + 2], deep[2 * (ZC_TAG_DEPTH + 1)];
    memset(lengthy, 'x', sizeof lengthy);
    for (size_t i = 0; i < sizeof deep; i++) deep[i] = i % 2 ? ':' : 'd';
    const struct {
        zc_bytes tag;
        int rc;
    } bad[] = {
        {zc_slice("", 0), ZC_E_TAG_EMPTY},
        {zc_str(":a"), ZC_E_TAG_SEGMENT},
        {zc_str("a:"), ZC_E_TAG_SEGMENT},
        {zc_str("a::b"), ZC_E_TAG_SEGMENT},
        {zc_str(":"), ZC_E_TAG_SEGMENT},
        {zc_slice("a\0b", 3), ZC_E_TAG_NUL},
        {zc_slice(lengthy, ZC_TAG_MAX + 1), ZC_E_TAG_LONG},
        {zc_slice(deep, 2 * ZC_TAG_DEPTH + 1), ZC_E_TAG_DEEP},
    };
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(put(f.c, "k", "old", NULL), ZC_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        zc_bytes pair[2] = {zc_str("good"), bad[i].tag};
        zc_put_opts o = {.deps = pair, .ndeps = 2};
        zc_tag *tag;
        zc_view v;
        uint64_t version;
        int n = 0;
        CHECK_EQ(zc_tag_check(bad[i].tag), bad[i].rc);
        CHECK_EQ(put(f.c, "k", "new", &o), bad[i].rc);
        CHECK_EQ(zc_invalidate(f.c, bad[i].tag), bad[i].rc);
        CHECK_EQ(zc_invalidate_many(f.c, pair, 2), bad[i].rc);
        CHECK_EQ(zc_tag_intern(f.c, bad[i].tag, &tag), bad[i].rc);
        CHECK(tag == NULL);
        CHECK_EQ(zc_tag_version(f.c, bad[i].tag, &version), bad[i].rc);
        zc_fetch_opts fo = {.put = o};
        CHECK_EQ(zc_fetch(f.c, zc_str("other"), load_hello, &n, &fo, &v), bad[i].rc);
        CHECK_EQ(n, 0);
        CHECK(!v.pin);
    }
    zc_stats s;
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.invalidations, 0);
    CHECK_EQ(s.entries, 1);
    CHECK_EQ(s.flights, 0);
    CHECK_EQ(get(f.c, "k", "old"), ZC_OK);
    /* The longest and the deepest are good. */
    CHECK_EQ(zc_tag_check(zc_slice(lengthy, ZC_TAG_MAX)), ZC_OK);
    CHECK_EQ(zc_tag_check(zc_slice(deep, 2 * ZC_TAG_DEPTH - 1)), ZC_OK);
    stop(&f);
}

TEST(too_many_dependencies) {
    fixture f;
    size_t n = ZC_DEPS_MAX + 1;
    zc_bytes *deps = (zc_bytes *)malloc(n * sizeof *deps);
    char *text = (char *)malloc(n * 8);
    REQUIRE(deps && text);
    for (size_t i = 0; i < n; i++) {
        snprintf(text + 8 * i, 8, "t%zu", i);
        deps[i] = zc_str(text + 8 * i);
    }
    if (start(&f, &(zc_desc){0})) {
        zc_put_opts o = {.deps = deps, .ndeps = n};
        CHECK_EQ(put(f.c, "k", "v", NULL), ZC_OK);
        CHECK_EQ(put(f.c, "k", "w", &o), ZC_E_DEPS);
        CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
        o.ndeps = ZC_DEPS_MAX;
        CHECK_EQ(put(f.c, "k", "w", &o), ZC_OK);
        CHECK_EQ(get(f.c, "k", "w"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, deps[ZC_DEPS_MAX - 1]), ZC_OK);
        CHECK_EQ(get(f.c, "k", "w"), ZC_MISS);
        /* Doubles count once. */
        for (size_t i = 0; i < n; i++) deps[i] = zc_str(i % 2 ? "even" : "odd");
        o.ndeps = n;
        zc_explanation x;
        CHECK_EQ(put(f.c, "k", "w", &o), ZC_OK);
        CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
        CHECK_EQ(x.deps, 2);
        stop(&f);
    }
    free(deps);
    free(text);
}

/* ---- keys and values ---- */

TEST(keys_of_every_kind) {
    fixture f;
    static unsigned char big[ZC_KEY_MAX + 1];
    memset(big, 'K', sizeof big);
    if (!start(&f, &(zc_desc){0})) return;
    zc_bytes empty = zc_slice(NULL, 0), also_empty = zc_slice("", 0);
    zc_bytes most = zc_slice(big, ZC_KEY_MAX), more = zc_slice(big, ZC_KEY_MAX + 1);
    zc_view v;
    int n = 0;
    CHECK_EQ(zc_put(f.c, empty, zc_str("none"), NULL), ZC_OK);
    CHECK_EQ(read_as(f.c, also_empty, zc_str("none")), ZC_OK);
    CHECK_EQ(zc_put(f.c, most, zc_str("most"), NULL), ZC_OK);
    CHECK_EQ(read_as(f.c, most, zc_str("most")), ZC_OK);
    CHECK_EQ(read_as(f.c, zc_slice(big, ZC_KEY_MAX - 1), empty), ZC_MISS);
    CHECK_EQ(zc_put(f.c, more, zc_str("more"), NULL), ZC_E_KEY);
    CHECK_EQ(read_as(f.c, more, empty), ZC_E_KEY);
    CHECK_EQ(zc_del(f.c, more), ZC_E_KEY);
    CHECK_EQ(zc_fetch(f.c, more, load_hello, &n, NULL, &v), ZC_E_KEY);
    CHECK_EQ(zc_get_copy(f.c, more, NULL, 0, NULL), ZC_E_KEY);
    zc_explanation x;
    CHECK_EQ(zc_explain(f.c, more, &x), ZC_E_KEY);
    /* Bytes that are no text, and keys that are each other's beginnings. */
    unsigned char bin[9] = {0, 255, 0, 1, 128, 0, 0, 0, 0};
    for (size_t len = 1; len <= sizeof bin; len++) {
        unsigned char value = (unsigned char)len;
        CHECK_EQ(zc_put(f.c, zc_slice(bin, len), zc_slice(&value, 1), NULL), ZC_OK);
    }
    for (size_t len = 1; len <= sizeof bin; len++) {
        unsigned char value = (unsigned char)len;
        CHECK_EQ(read_as(f.c, zc_slice(bin, len), zc_slice(&value, 1)), ZC_OK);
    }
    CHECK_EQ(zc_del(f.c, empty), ZC_OK);
    CHECK_EQ(zc_del(f.c, empty), ZC_MISS);
    stop(&f);
}

TEST(values_of_every_length) {
    fixture f;
    static const size_t sizes[] = {0, 1, 7, 8, 9, 255, 4095, 4096, 4097, 65536, 3000000};
    const size_t most = 3000000;
    unsigned char *value = (unsigned char *)malloc(most), *copy = (unsigned char *)malloc(most);
    REQUIRE(value && copy);
    for (size_t i = 0; i < most; i++) value[i] = (unsigned char)zct_rand();
    if (start(&f, &(zc_desc){0})) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            size_t size = sizes[i], len = 99;
            zc_bytes key = zc_slice(&sizes[i], sizeof sizes[i]);
            CHECK_EQ(zc_put(f.c, key, zc_slice(value, size), NULL), ZC_OK);
            CHECK_EQ(read_as(f.c, key, zc_slice(value, size)), ZC_OK);
            memset(copy, 0, size);
            CHECK_EQ(zc_get_copy(f.c, key, copy, size, &len), ZC_OK);
            CHECK_EQ(len, size);
            CHECK(memcmp(copy, value, size) == 0);
            if (size == 0) continue;
            copy[0] = (unsigned char)~value[0];
            CHECK_EQ(zc_get_copy(f.c, key, copy, size - 1, &len), ZC_E_RANGE);
            CHECK_EQ(len, size);
            CHECK_EQ(copy[0], (unsigned char)~value[0]);
            CHECK_EQ(zc_get_copy(f.c, key, NULL, 0, &len), ZC_E_RANGE);
            CHECK_EQ(len, size);
        }
        size_t len = 99;
        CHECK_EQ(zc_get_copy(f.c, zc_str("no"), copy, 10, &len), ZC_MISS);
        CHECK_EQ(len, 0);
        stop(&f);
    }
    free(value);
    free(copy);
}

TEST(an_absent_value) {
    fixture f;
    zc_view v;
    size_t len = 9;
    char buf[4];
    if (!start(&f, &(zc_desc){.negative_ttl = 5 * ZC_SECOND})) return;
    CHECK_EQ(zc_put_absent(f.c, zc_str("k"), NULL), ZC_OK);
    memset(&v, 0xee, sizeof v);
    CHECK_EQ(zc_get(f.c, zc_str("k"), &v), ZC_ABSENT);
    CHECK(!v.data && !v.size);
    zc_release(f.c, &v);
    CHECK_EQ(zc_get_copy(f.c, zc_str("k"), buf, sizeof buf, &len), ZC_ABSENT);
    CHECK_EQ(len, 0);
    zct_step(&f.time, 5 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "k", ""), ZC_ABSENT);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    stop(&f);
}

TEST(absent_leaves_the_view_zero) {
    /* The manual of zc_get(): *view is zeroed. Who believes that does not release it. */
    fixture f;
    zc_view v;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(zc_put_absent(f.c, zc_str("k"), NULL), ZC_OK);
    memset(&v, 0xee, sizeof v);
    CHECK_EQ(zc_get(f.c, zc_str("k"), &v), ZC_ABSENT);
    CHECK(!v.data && !v.size && !v.pin);
    zc_release(f.c, &v);
    stop(&f);
}

TEST(get_many_in_batches) {
    fixture f;
    enum { N = 50 };
    zc_bytes keys[N];
    zc_view views[N];
    int results[N], stored[N], want = 0;
    static unsigned char big[ZC_KEY_MAX + 1];
    if (!start(&f, &(zc_desc){.shards = 4})) return;
    for (int i = 0; i < N; i++) {
        stored[i] = i;
        keys[i] = zc_slice(&stored[i], sizeof stored[i]);
        if (i % 3 == 0) continue;
        CHECK_EQ(i % 3 == 2 ? zc_put_absent(f.c, keys[i], NULL)
                            : zc_put(f.c, keys[i], keys[i], NULL),
                 ZC_OK);
        want += i % 3 == 1;
    }
    keys[7] = zc_slice(big, sizeof big); /* one bad key spoils nothing else */
    keys[8] = zc_slice(NULL, 1);
    keys[10] = keys[13]; /* and doubles are welcome */
    want -= 1;
    CHECK_EQ(zc_get_many(f.c, keys, N, views, results), want);
    for (int i = 0; i < N; i++) {
        int is = i == 10 ? 13 : i;
        int expected = i == 7   ? ZC_E_KEY
                       : i == 8 ? ZC_E_INVAL
                                : (const int[]){ZC_MISS, ZC_OK, ZC_ABSENT}[is % 3];
        CHECK_EQ(results[i], expected);
        if (results[i] == ZC_OK) CHECK(views[i].size == 4 && *(const int *)views[i].data == is);
        else CHECK(!views[i].data);
        zc_release(f.c, &views[i]);
    }
    stop(&f);
}

/* ---- objects and pins ---- */

typedef struct thing {
    int alive, drops;
    size_t size;
    zc_cache *calls; /* the destructor reads "x" from it */
} thing;

static void drop_thing(void *user, void *object, size_t size) {
    thing *t = (thing *)object;
    CHECK(user == NULL || user == t);
    CHECK_EQ(size, t->size);
    t->alive--;
    t->drops++;
    if (!t->calls) return;
    zc_view v;
    zc_get(t->calls, zc_str("x"), &v);
    zc_release(t->calls, &v);
    zc_put(t->calls, zc_str("from a destructor"), zc_str("y"), NULL);
}

static int put_thing(zc_cache *c, const char *key, thing *t, const char *tag, uint64_t ttl) {
    zc_bytes dep = zc_str(tag ? tag : "t");
    zc_put_opts o = {.deps = &dep, .ndeps = tag ? 1u : 0u, .ttl = ttl};
    t->alive++;
    int rc = zc_put_object(c, zc_str(key), t, t->size, drop_thing, t, &o);
    if (rc != ZC_OK) t->alive--;
    return rc;
}

TEST(objects_are_dropped_once) {
    fixture f;
    thing replaced = {0}, deleted = {0}, expired = {0}, invalidated = {0}, cleared = {0},
          closed = {0}, copied = {0};
    zc_view v;
    char buf[8];
    if (!start(&f, &(zc_desc){0})) return;
    replaced.size = 17;
    CHECK_EQ(put_thing(f.c, "r", &replaced, NULL, 0), ZC_OK);
    CHECK_EQ(zc_get(f.c, zc_str("r"), &v), ZC_OK);
    CHECK(v.data == &replaced);
    CHECK_EQ(v.size, 17);
    zc_release(f.c, &v);
    CHECK(!v.data && !v.size && !v.pin);
    zc_release(f.c, &v); /* does nothing */
    CHECK_EQ(zc_get_copy(f.c, zc_str("r"), buf, sizeof buf, NULL), ZC_E_INVAL);
    CHECK_EQ(replaced.drops, 0);
    CHECK_EQ(put(f.c, "r", "bytes", NULL), ZC_OK);
    CHECK_EQ(replaced.drops, 1);
    CHECK_EQ(put_thing(f.c, "d", &deleted, NULL, 0), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("d")), ZC_OK);
    CHECK_EQ(deleted.drops, 1);
    CHECK_EQ(put_thing(f.c, "e", &expired, NULL, ZC_SECOND), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(put_thing(f.c, "i", &invalidated, "a:b", 0), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("a")), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(expired.drops, 1);
    CHECK_EQ(invalidated.drops, 1);
    CHECK_EQ(put_thing(f.c, "c", &cleared, NULL, 0), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(cleared.drops, 1);
    CHECK_EQ(put_thing(f.c, "z", &closed, NULL, 0), ZC_OK);
    CHECK_EQ(put_thing(f.c, "y", &copied, NULL, 0), ZC_OK);
    stop(&f);
    CHECK_EQ(closed.drops, 1);
    CHECK_EQ(copied.drops, 1);
    CHECK_EQ(closed.alive, 0);
    CHECK_EQ(replaced.drops + deleted.drops + expired.drops + invalidated.drops + cleared.drops, 5);
}

TEST(objects_stay_the_callers_on_failure) {
    fixture f;
    thing t = {.size = 1};
    if (!start(&f, &(zc_desc){.max_entries = 10, .max_bytes = 1000, .max_entry_bytes = 150}))
        return;
    static unsigned char big[200];
    zc_bytes heavy = zc_slice(big, sizeof big), dep = zc_str("t");
    CHECK_EQ(put(f.c, "k", "v", NULL), ZC_OK);
    CHECK_EQ(put_thing(f.c, "k", &t, "bad::tag", 0), ZC_E_TAG_SEGMENT);
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    CHECK_EQ(zc_put_object(NULL, heavy, &t, 1, drop_thing, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put_object(f.c, heavy, &t, 1, drop_thing, NULL, NULL), ZC_REFUSED);
    uint64_t begin = zc_begin(f.c);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    zc_put_opts o = {.deps = &dep, .ndeps = 1, .begin = begin};
    CHECK_EQ(zc_put_object(f.c, zc_str("k"), &t, 1, drop_thing, NULL, &o), ZC_REFUSED);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS); /* refused: what was there is removed */
    f.mem.count = 0;
    f.mem.fail_from = 1;
    CHECK_EQ(put_thing(f.c, "n", &t, NULL, 0), ZC_E_NOMEM);
    f.mem.fail_from = 0;
    CHECK_EQ(t.drops, 0);
    CHECK_EQ(t.alive, 0);
    stop(&f);
    CHECK_EQ(t.drops, 0);
}

TEST(destructors_may_call_the_cache) {
    fixture f;
    thing t[4] = {0};
    if (!start(&f, &(zc_desc){.max_entries = 2})) return;
    for (int i = 0; i < 4; i++) t[i].calls = f.c;
    CHECK_EQ(put_thing(f.c, "x", &t[0], NULL, 0), ZC_OK);
    CHECK_EQ(put_thing(f.c, "x", &t[1], NULL, 0), ZC_OK);
    CHECK_EQ(put_thing(f.c, "y", &t[2], NULL, 0), ZC_OK);
    CHECK_EQ(put_thing(f.c, "z", &t[3], NULL, 0), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    for (int i = 0; i < 4; i++) CHECK_EQ(t[i].drops, 1);
    stop(&f);
}

TEST(pins_outlive_everything) {
    fixture f;
    enum { WAYS = 6 };
    zc_view v[WAYS], w;
    thing t[WAYS] = {0};
    char key[2] = "0";
    if (!start(&f, &(zc_desc){.max_entries = 100})) return;
    for (int i = 0; i < WAYS; i++) {
        key[0] = (char)('0' + i);
        CHECK_EQ(put_thing(f.c, key, &t[i], i == 3 ? "tag" : NULL, i == 4 ? ZC_SECOND : 0), ZC_OK);
        CHECK_EQ(zc_get(f.c, zc_str(key), &v[i]), ZC_OK);
    }
    CHECK_EQ(put(f.c, "bytes", "some bytes", NULL), ZC_OK);
    CHECK_EQ(zc_get(f.c, zc_str("bytes"), &w), ZC_OK);
    CHECK_EQ(put(f.c, "bytes", "other bytes", NULL), ZC_OK);
    CHECK_EQ(put(f.c, "0", "replaced", NULL), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("1")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("tag")), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    for (int i = 0; i < 5000; i++) { /* evicts: each is read more often than those before */
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_str("filler"), NULL), ZC_OK);
        for (int n = 0; n < 3; n++)
            CHECK_EQ(read_as(f.c, zc_slice(&i, sizeof i), zc_str("filler")), ZC_OK);
    }
    CHECK_EQ(get(f.c, "2", ""), ZC_MISS);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    for (int i = 0; i < WAYS; i++) {
        CHECK(v[i].data == &t[i]);
        CHECK_EQ(t[i].drops, 0);
    }
    zc_release(f.c, &v[0]);
    CHECK_EQ(t[0].drops, 1);
    CHECK_EQ(zc_check(f.c), ZC_OK);
    zc_close(f.c);
    CHECK(f.mem.blocks > 0); /* what pins need is still there */
    for (int i = 1; i < WAYS; i++) {
        CHECK_EQ(t[i].drops, 0);
        zc_release(f.c, &v[i]);
        CHECK_EQ(t[i].drops, 1);
    }
    CHECK(w.size == 10 && memcmp(w.data, "some bytes", 10) == 0);
    zc_release(f.c, &w);
    CHECK_EQ(f.mem.blocks, 0);
}

TEST(one_entry_many_pins) {
    fixture f;
    thing t = {0};
    zc_view v[100];
    zc_explanation x;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(put_thing(f.c, "k", &t, NULL, 0), ZC_OK);
    for (int i = 0; i < 100; i++) CHECK_EQ(zc_get(f.c, zc_str("k"), &v[i]), ZC_OK);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK_EQ(x.pins, 100);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(t.drops, 0);
        zc_release(f.c, &v[i]);
    }
    CHECK_EQ(t.drops, 1);
    stop(&f);
}

/* ---- limits ---- */

static void hold_entries(size_t limit, unsigned shards, int puts) {
    fixture f;
    zc_stats s;
    if (!start(&f, &(zc_desc){.max_entries = limit, .shards = shards})) return;
    for (int i = 0; i < puts; i++) {
        int key = (int)zct_below((uint64_t)puts);
        CHECK_EQ(zc_put(f.c, zc_slice(&key, sizeof key), zc_slice(&i, sizeof i), NULL), ZC_OK);
        CHECK_EQ(read_as(f.c, zc_slice(&key, sizeof key), zc_slice(&i, sizeof i)), ZC_OK);
        if (limit > 1000 && i % 1000) continue;
        zc_stats_read(f.c, &s);
        if (!CHECK(s.entries <= limit)) break;
        if (limit <= 1000) CHECK_EQ(zc_check(f.c), ZC_OK);
    }
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.entries, limit); /* and it is used */
    CHECK_EQ(s.puts - s.removed[ZC_CAUSE_REPLACED] - s.removed[ZC_CAUSE_EVICTED], s.entries);
    stop(&f);
}

TEST(max_entries_1) { hold_entries(1, 0, 1000); }
TEST(max_entries_10) { hold_entries(10, 0, 3000); }
TEST(max_entries_1_of_64_shards) { hold_entries(1, 64, 1000); }
TEST(max_entries_10_of_64_shards) { hold_entries(10, 64, 3000); }
TEST(max_entries_100000) { hold_entries(100000, 0, 300000); }

TEST(max_bytes_held_at_every_step) {
    fixture f;
    static unsigned char value[4000];
    zc_stats s;
    uint64_t refused = 0;
    for (unsigned shards = 1; shards <= 16; shards *= 16) {
        if (!start(&f, &(zc_desc){.max_bytes = 20000, .max_entry_bytes = 3000, .shards = shards}))
            return;
        refused = 0;
        for (int i = 0; i < 3000; i++) {
            int key = (int)zct_below(60);
            size_t len = zct_below(sizeof value);
            int rc = zc_put(f.c, zc_slice(&key, sizeof key), zc_slice(value, len), NULL);
            CHECK(rc == (len > 3000 ? ZC_REFUSED : len < 2800 ? ZC_OK : rc));
            CHECK_EQ(read_as(f.c, zc_slice(&key, sizeof key), zc_slice(value, len)),
                     rc == ZC_OK ? ZC_OK : ZC_MISS);
            refused += rc == ZC_REFUSED;
            zc_stats_read(f.c, &s);
            CHECK(s.bytes <= 20000);
            CHECK_EQ(zc_check(f.c), ZC_OK);
        }
        CHECK_EQ(s.refused, refused);
        CHECK(refused > 0 && s.removed[ZC_CAUSE_EVICTED] > 0);
        CHECK(s.bytes > 12000); /* a full cache is not half empty */
        stop(&f);
    }
}

static int weighings;
static size_t weigh_first_byte(void *user, zc_bytes key, zc_bytes value) {
    weighings++;
    CHECK(user == &weighings);
    CHECK_EQ(key.len, sizeof(int));
    return value.len ? *(const unsigned char *)value.ptr : 0;
}

TEST(a_weigher_decides) {
    fixture f;
    zc_stats s;
    zc_desc d = {.max_bytes = 300, .max_entry_bytes = 100};
    d.weigher = (zc_weigher){1, weigh_first_byte, &weighings};
    weighings = 0;
    if (!start(&f, &d)) return;
    for (int i = 0; i < 2000; i++) {
        unsigned char w = (unsigned char)zct_below(140);
        int key = (int)zct_below(20);
        int rc = zc_put(f.c, zc_slice(&key, sizeof key), zc_slice(&w, 1), NULL);
        CHECK_EQ(rc, w > 100 ? ZC_REFUSED : ZC_OK);
        CHECK_EQ(weighings, i + 1);
        zc_stats_read(f.c, &s);
        CHECK(s.bytes <= 300);
    }
    /* Weightless entries take no room. */
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    for (int key = 0; key < 1000; key++)
        CHECK_EQ(zc_put(f.c, zc_slice(&key, sizeof key), zc_slice("", 0), NULL), ZC_OK);
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.entries, 1000);
    CHECK_EQ(s.bytes, 0);
    stop(&f);
}

/* An object of 4 MiB, by a put or by a loader. */
static int load_4_mib(zc_fill *fill, void *user) {
    thing *t = (thing *)user;
    t->alive++;
    return zc_fill_object(fill, t, t->size, drop_thing, NULL);
}

TEST(objects_count_by_their_size) {
    enum { N = 100, MIB = 1 << 20 };
    static thing things[N];
    fixture f;
    zc_stats s;
    zc_explanation x;
    zc_view v;
    if (!start(&f, &(zc_desc){.max_bytes = 64 * MIB, .max_entry_bytes = 5 * MIB, .shards = 4}))
        return;
    int alive = 0;
    for (int i = 0; i < N; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        memset(&things[i], 0, sizeof things[i]);
        things[i].size = 4 * MIB;
        if (i % 2) CHECK_EQ(put_thing(f.c, key, &things[i], NULL, (uint64_t)(i & 2)), ZC_OK);
        else CHECK_EQ(zc_fetch(f.c, zc_str(key), load_4_mib, &things[i], NULL, &v), ZC_OK);
        if (i % 2 == 0) zc_release(f.c, &v);
        zc_stats_read(f.c, &s);
        CHECK(s.bytes <= 64 * MIB && s.bytes >= s.entries * 4 * MIB);
        CHECK_EQ(zc_check(f.c), ZC_OK);
    }
    for (int i = 0; i < N; i++) alive += things[i].alive;
    CHECK_EQ(alive, (int)s.entries);
    CHECK(s.entries <= 15 && s.entries >= 12);
    CHECK_EQ(zc_explain(f.c, zc_str("99"), &x), ZC_OK);
    CHECK(x.present && x.bytes > 4 * MIB && x.bytes < 4 * MIB + 200);
    /* Too large, or more than numbers can say: refused, and still the caller's. */
    thing huge = {.size = 5 * MIB};
    for (int i = 0; i < 2; i++, huge.size = SIZE_MAX)
        CHECK_EQ(put_thing(f.c, "huge", &huge, NULL, 0), ZC_REFUSED);
    CHECK_EQ(huge.drops, 0);
    /* In place of an object only its entry's bytes. */
    for (int i = 0; i < N; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        CHECK_EQ(put(f.c, key, "small", NULL), ZC_OK);
    }
    zc_stats_read(f.c, &s);
    CHECK(s.entries == N && s.bytes < N * 200);
    stop(&f);
}

TEST(a_weigher_outweighs_an_objects_size) {
    fixture f;
    zc_stats s;
    zc_desc d = {.max_bytes = 300};
    d.weigher = (zc_weigher){1, weigh_first_byte, &weighings};
    if (!start(&f, &d)) return;
    static thing things[3];
    for (int key = 0; key < 3; key++) {
        things[key].alive = 100; /* its first byte: what it weighs */
        things[key].size = (size_t)1 << 30;
        CHECK_EQ(zc_put_object(f.c, zc_slice(&key, sizeof key), &things[key], (size_t)1 << 30,
                               drop_thing, NULL, NULL),
                 ZC_OK);
    }
    zc_stats_read(f.c, &s);
    CHECK(s.entries == 3 && s.bytes == 300);
    stop(&f);
}

/* A block is full when its bytes are used, whatever objects say of themselves. */
TEST(objects_do_not_fill_a_block) {
    static char block[1 << 20];
    static thing things[500];
    fixture f;
    zc_stats s;
    zc_desc d = {.block = block, .block_size = sizeof block, .no_thread = true};
    REQUIRE(zc_open(&d, &f.c) == ZC_OK);
    for (int i = 0; i < 500; i++) {
        char key[8];
        snprintf(key, sizeof key, "%d", i);
        memset(&things[i], 0, sizeof things[i]);
        things[i].size = 1 << 30;
        CHECK_EQ(put_thing(f.c, key, &things[i], NULL, 0), ZC_OK);
        for (uint32_t k = 0; k < f.c->nshards; k++) CHECK(f.c->shards[k].policy.cap > 100);
    }
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.entries, 500);
    CHECK_EQ(zc_check(f.c), ZC_OK);
    zc_close(f.c);
}

/* How many entries of a value of `size` bytes find room before one has to give way, up to d->max_entries;
 * 0: it does not open. */
static size_t entries_in(const zc_desc *d, size_t size) {
    static const char value[1000];
    zc_cache *c;
    zc_stats s;
    size_t n = 0;
    if (zc_open(d, &c) != ZC_OK) return 0;
    for (; n < d->max_entries; n++) {
        if (zc_put(c, zc_slice(&n, sizeof n), zc_slice(value, size), NULL) != ZC_OK) break;
        zc_stats_read(c, &s);
        if (s.entries <= n) break;
    }
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    return n;
}

TEST(a_block_of_the_size_for_its_limits) {
    static const struct {
        size_t n, value;
        unsigned shards;
        bool by_all, thread;
    } cases[] = {{1, 100, 1, false, false},   {8, 64, 0, false, false},   {8, 48, 0, true, true},
                 {100, 500, 1, false, false}, {1000, 80, 0, false, true}, {3000, 96, 4, true, false},
                 {5000, 999, 0, true, false}, {20000, 1, 0, false, false}};
    unsigned char *block = (unsigned char *)malloc(1 << 23);
    REQUIRE(block != NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = cases[i].n, bytes = (sizeof(zc__entry) + 2 * sizeof n + cases[i].value + 7) & ~7u;
        zc_desc d = {.max_entries = n, .shards = cases[i].shards, .seed = 1, .no_thread = !cases[i].thread};
        if (cases[i].by_all) d.max_bytes = n * bytes;
        else d.max_entry_bytes = bytes;
        d.block_size = zc_block_size(&d);
        REQUIRE(d.block_size > n * bytes && d.block_size < 1 << 23);
        for (size_t skew = 0; skew < 16; skew += n > 1000 ? 15 : 1) {
            d.block = block + skew;
            if (!CHECK_EQ(entries_in(&d, cases[i].value), n)) printf("    case %zu\n", i);
        }
        /* Not much less will do: a chunk is rounded up, at least 128 bytes are taken for an entry. */
        size_t more = 1000 + n * 16;
        if (bytes < 128) more += n * (128 - bytes);
        d.block_size -= more < d.block_size ? more : d.block_size - 1;
        if (!CHECK(entries_in(&d, cases[i].value) < n)) printf("    case %zu\n", i);
    }
    free(block);
}

TEST(there_may_be_no_block_of_a_size) {
    const zc_desc none[] = {
        {.max_entries = 5},
        {.max_entry_bytes = 100},
        {.max_bytes = 100},
        {.max_entries = 5, .max_bytes = SIZE_MAX},
        {.max_entries = SIZE_MAX, .max_bytes = 100},
        {.max_entries = SIZE_MAX, .max_entry_bytes = SIZE_MAX},
        {.max_entries = SIZE_MAX / 128 + 1, .max_entry_bytes = 128},
        {.max_entries = 2, .max_entry_bytes = SIZE_MAX / 2 + 1},
    };
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        if (!CHECK_EQ(zc_block_size(&none[i]), 0)) printf("    case %zu\n", i);
    CHECK_EQ(zc_block_size(NULL), 0);
    /* The stricter of the two counts. */
    zc_desc d = {.max_entries = 1000, .max_bytes = 1 << 20}, e = d, f = d;
    e.max_entry_bytes = SIZE_MAX / 2;
    f.max_entry_bytes = 200;
    CHECK_EQ(zc_block_size(&d), zc_block_size(&e));
    CHECK_EQ(zc_block_size(&d) - zc_block_size(&f), (1 << 20) - 200 * 1000);
}

TEST(what_stats_call_memory_is_what_was_taken) {
    fixture f;
    zc_stats s;
    if (!start(&f, &(zc_desc){.max_entries = 500})) return;
    for (int i = 0; i < 2000; i++) {
        char tag[32];
        int n = 0;
        zc_view v;
        snprintf(tag, sizeof tag, "a:b%d:c%d", i % 7, i);
        zc_bytes dep = zc_str(tag);
        zc_put_opts o = {.deps = &dep, .ndeps = 1, .ttl = (uint64_t)(i % 2) * ZC_SECOND};
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_slice(tag, (size_t)i % 32), &o), ZC_OK);
        CHECK_EQ(zc_fetch(f.c, zc_str("f"), load_hello, &n, NULL, &v), ZC_OK);
        zc_release(f.c, &v);
    }
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.memory, f.mem.bytes);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.memory, f.mem.bytes);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    zc_prune(f.c, 0);
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.memory, f.mem.bytes);
    CHECK_EQ(s.tags, 0);
    stop(&f);
}

TEST(a_full_block_evicts) {
    static unsigned char block[256 * 1024];
    static unsigned char value[500];
    zct_time time = {.mono = ZC_SECOND, .wall = START};
    zc_desc d = {.block = block + 3, .block_size = sizeof block - 3, .no_thread = true};
    zc_cache *c;
    zc_stats s;
    d.clock = zct_clock(&time);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (int i = 0; i < 5000; i++) {
        CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), zc_slice(value, zct_below(500)), NULL), ZC_OK);
        if (i % 50 == 0) CHECK_EQ(zc_check(c), ZC_OK);
    }
    zc_stats_read(c, &s);
    CHECK(s.removed[ZC_CAUSE_EVICTED] > 0 && s.entries > 100);
    CHECK(s.memory <= sizeof block);
    /* Larger than the block: a clear refusal. */
    unsigned char *huge = (unsigned char *)calloc(1, sizeof block);
    REQUIRE(huge != NULL);
    int rc = zc_put(c, zc_str("huge"), zc_slice(huge, sizeof block), NULL);
    CHECK(rc == ZC_E_NOMEM || rc == ZC_REFUSED);
    free(huge);
    CHECK_EQ(put(c, "small", "still works", NULL), ZC_OK);
    CHECK_EQ(get(c, "small", "still works"), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

/* ---- time ---- */

TEST(ttl_to_the_nanosecond) {
    fixture f;
    if (!start(&f, &(zc_desc){.ttl = 10 * ZC_SECOND})) return;
    CHECK_EQ(put(f.c, "default", "v", NULL), ZC_OK);
    CHECK_EQ(put(f.c, "short", "v", &(zc_put_opts){.ttl = 1}), ZC_OK);
    CHECK_EQ(put(f.c, "own", "v", &(zc_put_opts){.ttl = 20 * ZC_SECOND}), ZC_OK);
    CHECK_EQ(put(f.c, "ever", "v", &(zc_put_opts){.ttl = ZC_NEVER}), ZC_OK);
    CHECK_EQ(get(f.c, "short", "v"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "short", "v"), ZC_MISS);
    zct_step(&f.time, 10 * ZC_SECOND - 2);
    CHECK_EQ(get(f.c, "default", "v"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "default", "v"), ZC_MISS);
    zct_step(&f.time, 10 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "own", "v"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "own", "v"), ZC_MISS);
    zct_step(&f.time, 1000000 * ZC_SECOND);
    CHECK_EQ(get(f.c, "ever", "v"), ZC_OK);
    zc_stats s;
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.misses_expired, 3);
    while (zc_poll(f.c, 100 * ZC_MICROSECOND) == ZC_MORE) {}
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.removed[ZC_CAUSE_EXPIRED], 3);
    CHECK_EQ(s.entries, 1);
    stop(&f);
}

TEST(wall_time_does_not_expire_anything) {
    fixture f;
    if (!start(&f, &(zc_desc){.ttl = 10 * ZC_SECOND})) return;
    CHECK_EQ(put(f.c, "k", "v", NULL), ZC_OK);
    zct_set_wall(&f.time, START + 1000000 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    zct_set_wall(&f.time, ZC_SECOND);
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "d", "v", "t"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(get(f.c, "d", "v"), ZC_MISS);
    stop(&f);
}

TEST(tti_slides_up_to_the_ttl) {
    fixture f;
    if (!start(&f, &(zc_desc){.ttl = 25 * ZC_SECOND, .tti = 10 * ZC_SECOND})) return;
    CHECK_EQ(put(f.c, "read", "v", NULL), ZC_OK);
    CHECK_EQ(put(f.c, "unread", "v", NULL), ZC_OK);
    CHECK_EQ(put(f.c, "off", "v", &(zc_put_opts){.tti = ZC_NEVER}), ZC_OK);
    zct_step(&f.time, 9 * ZC_SECOND);
    CHECK_EQ(get(f.c, "read", "v"), ZC_OK);
    zct_step(&f.time, 9 * ZC_SECOND);
    CHECK_EQ(get(f.c, "unread", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "read", "v"), ZC_OK);
    CHECK_EQ(get(f.c, "off", "v"), ZC_OK);
    zct_step(&f.time, 7 * ZC_SECOND - 1);
    CHECK_EQ(get(f.c, "read", "v"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c, "read", "v"), ZC_MISS); /* the ttl is over */
    CHECK_EQ(get(f.c, "off", "v"), ZC_MISS);
    stop(&f);
}

TEST(soft_ttl_is_stale_to_a_plain_get) {
    fixture f;
    zc_stats s;
    if (!start(&f, &(zc_desc){0})) return;
    zc_put_opts o = {.soft_ttl = 5 * ZC_SECOND, .ttl = 8 * ZC_SECOND};
    CHECK_EQ(put(f.c, "k", "v", &o), ZC_OK);
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    zct_step(&f.time, 5 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k", "v"), ZC_STALE);
    char buf[4];
    CHECK_EQ(zc_get_copy(f.c, zc_str("k"), buf, sizeof buf, NULL), ZC_STALE);
    CHECK_EQ(buf[0], 'v');
    zct_step(&f.time, 3 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k", "v"), ZC_MISS);
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.hits, 3);
    CHECK_EQ(s.hits_stale, 2);
    stop(&f);
}

TEST(jitter_only_shortens) {
    fixture f;
    int early = 0;
    if (!start(&f, &(zc_desc){.ttl = 100 * ZC_SECOND, .ttl_jitter = 20})) return;
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_str("v"), NULL), ZC_OK);
    zct_step(&f.time, 80 * ZC_SECOND - 1);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(read_as(f.c, zc_slice(&i, sizeof i), zc_str("v")), ZC_OK);
    zct_step(&f.time, 10 * ZC_SECOND);
    for (int i = 0; i < 1000; i++)
        early += read_as(f.c, zc_slice(&i, sizeof i), zc_str("v")) == ZC_MISS;
    CHECK(early > 300 && early < 700);
    zct_step(&f.time, 10 * ZC_SECOND + 1);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(read_as(f.c, zc_slice(&i, sizeof i), zc_str("v")), ZC_MISS);
    stop(&f);
}

/* ---- tags ---- */

TEST(hierarchy) {
    fixture f;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(put_dep(f.c, "1", "v", "org:1:team:a"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "2", "v", "org:1:team:b"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "3", "v", "org:1"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "4", "v", "org:11"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "5", "v", "user:1"), ZC_OK);
    CHECK_EQ(put(f.c, "6", "v", NULL), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:1:team:a:room")), ZC_OK); /* below: nobody */
    CHECK_EQ(get(f.c, "1", "v"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:1:team:a")), ZC_OK);
    CHECK_EQ(get(f.c, "1", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "2", "v"), ZC_OK);
    CHECK_EQ(get(f.c, "3", "v"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:1")), ZC_OK);
    CHECK_EQ(get(f.c, "2", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "3", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "4", "v"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org")), ZC_OK);
    CHECK_EQ(get(f.c, "4", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "5", "v"), ZC_OK);
    CHECK_EQ(get(f.c, "6", "v"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "1", "again", "org:1:team:a"), ZC_OK);
    CHECK_EQ(get(f.c, "1", "again"), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(get(f.c, "1", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "6", "v"), ZC_MISS);
    stop(&f);
}

TEST(the_first_invalidation_counts_with_a_clock_at_zero) {
    /* A board without a real-time clock. */
    zct_time time = {0};
    zc_desc d = {.no_thread = true};
    zc_cache *c;
    d.clock = zct_clock(&time);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(put_dep(c, "k", "v", "t"), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_OK);
    CHECK_EQ(get(c, "k", "v"), ZC_MISS);
    zc_close(c);
}

TEST(begin_guards_what_was_read_before) {
    fixture f;
    zc_bytes dep = zc_str("row:1");
    if (!start(&f, &(zc_desc){0})) return;
    zc_put_opts o = {.deps = &dep, .ndeps = 1, .begin = zc_begin(f.c)};
    CHECK(o.begin != 0);
    CHECK_EQ(zc_invalidate(f.c, zc_str("other")), ZC_OK);
    CHECK_EQ(put(f.c, "k", "v", &o), ZC_OK); /* that was nothing to it */
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    o.begin = zc_begin(f.c);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row")), ZC_OK);
    CHECK_EQ(put(f.c, "k", "late", &o), ZC_REFUSED);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    o.begin = zc_begin(f.c);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(put(f.c, "k", "late", &o), ZC_REFUSED);
    o.ndeps = 0;
    CHECK_EQ(put(f.c, "k", "late", &o), ZC_REFUSED); /* clear hits what depends on nothing, too */
    stop(&f);
}

TEST(interned_tags) {
    fixture f;
    zc_tag *a, *again, *b;
    uint64_t v1, v2;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(zc_tag_intern(f.c, zc_str("x:a"), &a), ZC_OK);
    CHECK_EQ(zc_tag_intern(f.c, zc_str("x:a"), &again), ZC_OK);
    CHECK_EQ(zc_tag_intern(f.c, zc_str("x:b"), &b), ZC_OK);
    CHECK(a == again && a != b);
    zc_tag *tags[2] = {a, b};
    zc_put_opts o = {.tags = tags, .ntags = 2};
    CHECK_EQ(put(f.c, "both", "v", &o), ZC_OK);
    o.ntags = 1;
    CHECK_EQ(put(f.c, "a", "v", &o), ZC_OK);
    CHECK_EQ(put_dep(f.c, "text", "v", "x:a"), ZC_OK);
    CHECK_EQ(zc_invalidate_tag(f.c, b), ZC_OK);
    CHECK_EQ(get(f.c, "both", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "a", "v"), ZC_OK);
    CHECK_EQ(zc_tag_version(f.c, zc_str("x:b"), &v1), ZC_OK);
    CHECK_EQ(v1, zc_begin(f.c));
    CHECK_EQ(zc_invalidate_tag(f.c, a), ZC_OK);
    CHECK_EQ(get(f.c, "a", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "text", "v"), ZC_MISS);
    CHECK_EQ(zc_tag_version(f.c, zc_str("x:a"), &v2), ZC_OK);
    CHECK(v2 > v1);
    CHECK_EQ(put(f.c, "a", "w", &o), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("x")), ZC_OK);
    CHECK_EQ(get(f.c, "a", "w"), ZC_MISS);
    /* A handle keeps its node; when all are back, the node may be pruned. */
    zct_step(&f.time, 10 * ZC_SECOND);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(zc_prune(f.c, 0), 0);
    zc_tag_release(f.c, a);
    CHECK_EQ(zc_prune(f.c, 0), 0);
    zc_tag_release(f.c, again);
    CHECK_EQ(zc_prune(f.c, 0), 1);
    zc_tag_release(f.c, b);
    CHECK_EQ(zc_prune(f.c, 0), 2);
    stop(&f);
}

TEST(several_tags_get_one_version) {
    fixture f;
    zc_bytes tags[4] = {zc_str("a"), zc_str("b:c"), zc_str("a"), zc_str("d")};
    uint64_t va, vb, vd, ve;
    zc_stats s;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(put_dep(f.c, "a", "v", "a:x"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "b", "v", "b"), ZC_OK);
    CHECK_EQ(put_dep(f.c, "c", "v", "b:c"), ZC_OK);
    CHECK_EQ(zc_invalidate_many(f.c, tags, 4), ZC_OK);
    CHECK_EQ(get(f.c, "a", "v"), ZC_MISS);
    CHECK_EQ(get(f.c, "b", "v"), ZC_OK);
    CHECK_EQ(get(f.c, "c", "v"), ZC_MISS);
    CHECK_EQ(zc_tag_version(f.c, zc_str("a"), &va), ZC_OK);
    CHECK_EQ(zc_tag_version(f.c, zc_str("b:c"), &vb), ZC_OK);
    CHECK_EQ(zc_tag_version(f.c, zc_str("d"), &vd), ZC_OK);
    CHECK_EQ(zc_tag_version(f.c, zc_str("e"), &ve), ZC_OK);
    CHECK(va == vb && vb == vd && va > 0);
    CHECK_EQ(ve, 0);
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.invalidations, 1);
    /* Without memory for the list the whole cache goes: too much rather than too little. */
    CHECK_EQ(put_dep(f.c, "a", "v", "a:x"), ZC_OK);
    f.mem.count = 0;
    f.mem.fail_from = 1;
    CHECK_EQ(zc_invalidate_many(f.c, tags, 4), ZC_OK);
    f.mem.fail_from = 0;
    CHECK_EQ(get(f.c, "a", "v"), ZC_MISS);
    stop(&f);
}

TEST(versions_grow_while_the_wall_clock_falls) {
    fixture f;
    uint64_t last = 0, v;
    if (!start(&f, &(zc_desc){0})) return;
    for (int i = 0; i < 200; i++) {
        zct_set_wall(&f.time, START - (uint64_t)i * 3600 * ZC_SECOND);
        CHECK_EQ(put_dep(f.c, "k", "v", "t"), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
        CHECK_EQ(get(f.c, "k", "v"), ZC_MISS);
        CHECK_EQ(zc_tag_version(f.c, zc_str("t"), &v), ZC_OK);
        CHECK(v > last);
        last = v;
    }
    stop(&f);
}

TEST(explain_tells_why) {
    fixture f;
    zc_explanation x;
    zc_bytes dep = zc_str("org:1:team");
    uint64_t version;
    if (!start(&f, &(zc_desc){0})) return;
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK(x.state == ZC_MISS && !x.present && !x.filling);
    zc_put_opts o = {.deps = &dep, .ndeps = 1, .ttl = 9 * ZC_SECOND, .soft_ttl = 3 * ZC_SECOND};
    CHECK_EQ(put(f.c, "k", "v", &o), ZC_OK);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK(x.state == ZC_OK && x.present && !x.expired && !x.invalidated);
    CHECK_EQ(x.expires_in, 9 * ZC_SECOND);
    CHECK_EQ(x.deps, 1);
    CHECK(x.bytes > 0);
    zct_step(&f.time, 4 * ZC_SECOND);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK_EQ(x.state, ZC_STALE);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:1")), ZC_OK);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK(x.state == ZC_MISS && x.invalidated && !x.expired);
    CHECK_STR(x.killer, "org:1");
    CHECK_EQ(zc_tag_version(f.c, zc_str("org:1"), &version), ZC_OK);
    CHECK_EQ(x.killed_at, version);
    zct_step(&f.time, 6 * ZC_SECOND);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK(x.state == ZC_MISS && x.expired);
    CHECK_EQ(x.expires_in, 0);
    zc_view v;
    zc_fill *fill;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &fill), ZC_LEAD);
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK(x.filling);
    zc_flight_abandon(fill, 0);
    zc_stats s;
    zc_stats_read(f.c, &s);
    CHECK_EQ(s.hits, 0); /* explaining counts nothing */
    stop(&f);
}

TEST(caches_do_not_know_each_other) {
    fixture f[3];
    for (int i = 0; i < 3; i++)
        if (!start(&f[i], &(zc_desc){.max_entries = (size_t)i + 1})) return;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(put_dep(f[i].c, "k", (const char *[]){"0", "1", "2"}[i], "t"), ZC_OK);
    }
    CHECK_EQ(zc_invalidate(f[0].c, zc_str("t")), ZC_OK);
    CHECK_EQ(get(f[0].c, "k", "0"), ZC_MISS);
    CHECK_EQ(get(f[1].c, "k", "1"), ZC_OK);
    CHECK_EQ(zc_clear(f[1].c), ZC_OK);
    CHECK_EQ(get(f[1].c, "k", "1"), ZC_MISS);
    stop(&f[0]);
    CHECK_EQ(get(f[2].c, "k", "2"), ZC_OK);
    stop(&f[1]);
    CHECK_EQ(get(f[2].c, "k", "2"), ZC_OK);
    stop(&f[2]);
}

TEST(a_fill_of_another_cache_is_no_parent) {
    fixture f[2];
    zc_view v;
    zc_fill *fill;
    int n = 0;
    if (!start(&f[0], &(zc_desc){0}) || !start(&f[1], &(zc_desc){0})) return;
    CHECK_EQ(put_dep(f[1].c, "inner", "v", "t"), ZC_OK);
    CHECK_EQ(zc_flight_begin(f[0].c, zc_str("outer"), NULL, &v, &fill), ZC_LEAD);
    zc_fetch_opts o = {.parent = fill};
    CHECK_EQ(zc_fetch(f[1].c, zc_str("inner"), load_hello, &n, &o, &v), ZC_E_INVAL);
    zc_release(f[1].c, &v);
    zc_flight_abandon(fill, 0);
    stop(&f[0]);
    stop(&f[1]);
}

TEST(texts_of_results) {
    CHECK_STR(zc_result_name(ZC_E_NOMEM), "ZC_E_NOMEM");
    CHECK_STR(zc_result_name(ZC_RETRY), "ZC_RETRY");
    CHECK_STR(zc_result_name(-1234), "ZC_E_USER");
    CHECK_STR(zc_result_name(-999), "?");
    CHECK_STR(zc_result_name(99), "?");
    CHECK_STR(zc_strerror(ZC_OK), "done");
    CHECK_STR(zc_version(), ZOOCACHE_VERSION);
    CHECK_EQ(zc_abi(), ZOOCACHE_ABI);
    CHECK(strstr(zc_strerror(ZC_E_TAG_NUL), "NUL") != NULL);
    CHECK(zc_strerror(12345) && zc_strerror(-5000) && zc_strerror(-900));
    CHECK_STR(zc_cause_name(ZC_CAUSE_EVICTED), "evicted");
    CHECK_STR(zc_cause_name(ZC_CAUSE_COUNT), "?");
    CHECK_STR(zc_cause_name(-1), "?");
}
