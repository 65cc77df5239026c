/* The second tier: what is written and read, restarts, damaged records, faults, order. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"
#include "fault_store.h"

#define START (UINT64_C(1700000000) * ZC_SECOND)
#define HOUR (3600 * ZC_SECOND)

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    fault_store store;
    bool versions;
    zc_desc d;
    zc_cache *c;
} fixture;

static bool reopen(fixture *f) {
    f->d.allocator = zct_allocator(&f->mem);
    f->d.clock = zct_clock(&f->time);
    f->d.no_thread = true;
    f->d.store = fs_hook(&f->store, f->versions);
    return CHECK_EQ(zc_open(&f->d, &f->c), ZC_OK);
}
static bool start_with(fixture *f, bool versions, zc_desc d) {
    memset(f, 0, sizeof *f);
    fs_init(&f->store);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = START;
    f->versions = versions;
    f->d = d;
    return reopen(f);
}
static bool start(fixture *f, bool versions) { return start_with(f, versions, (zc_desc){0}); }
static void close_cache(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}
static void stop(fixture *f) {
    close_cache(f);
    fs_destroy(&f->store);
}

static zc_stats stats(fixture *f) {
    zc_stats s;
    zc_stats_read(f->c, &s);
    return s;
}

static int put_dep(fixture *f, const char *key, const char *value, const char *tag) {
    zc_bytes dep = zc_str(tag ? tag : "");
    zc_put_opts o = {.deps = &dep, .ndeps = tag ? 1u : 0u};
    return zc_put(f->c, zc_str(key), zc_str(value), &o);
}
static int get(fixture *f, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(f->c, zc_str(key), &v);
    if (rc == ZC_OK || rc == ZC_STALE)
        CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(f->c, &v);
    return rc;
}

typedef struct source {
    const char *text, *dep;
    int loads;
} source;
static int load(zc_fill *fill, void *user) {
    source *s = (source *)user;
    s->loads++;
    if (s->dep) CHECK_EQ(zc_fill_dep(fill, zc_str(s->dep)), ZC_OK);
    return s->text ? zc_fill_value(fill, zc_str(s->text)) : zc_fill_absent(fill);
}
static int fetch(fixture *f, const char *key, source *s, const char *want) {
    zc_view v;
    int rc = zc_fetch(f->c, zc_str(key), load, s, NULL, &v);
    if (rc == ZC_OK || rc == ZC_STALE)
        CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(f->c, &v);
    return rc;
}

/* Drives `key` out of a table of one entry. */
static void evict(fixture *f, const char *key) {
    zc_explanation x;
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(zc_explain(f->c, zc_str(key), &x), ZC_OK);
        if (!x.present) return;
        CHECK_EQ(zc_put(f->c, zc_str("makes room"), zc_str(""), NULL), ZC_OK);
    }
    CHECK(!x.present);
}

/* ---- two tiers ---- */

TEST(an_evicted_value_comes_back_from_the_storage) {
    fixture f;
    char big[5000];
    memset(big, 'x', sizeof big);
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    CHECK_EQ(put_dep(&f, "k", "value", "t"), ZC_OK);
    CHECK(fs_find(&f.store, zc_str("k")) != NULL);
    evict(&f, "k");
    f.store.chunk = 7;
    CHECK_EQ(get(&f, "k", "value"), ZC_OK);
    CHECK_EQ(stats(&f).hits_store, 1);
    CHECK_EQ(get(&f, "k", "value"), ZC_OK);
    CHECK_EQ(stats(&f).hits_store, 1); /* from the table again */
    CHECK_EQ(stats(&f).hits, 1);
    CHECK_EQ(zc_put(f.c, zc_str("big"), zc_slice(big, sizeof big), NULL), ZC_OK);
    CHECK(fs_find(&f.store, zc_str("big"))->len < sizeof big / 2); /* compressed */
    evict(&f, "big");
    char copy[sizeof big];
    size_t len;
    CHECK_EQ(zc_get_copy(f.c, zc_str("big"), copy, sizeof copy, &len), ZC_OK);
    CHECK(len == sizeof big && memcmp(copy, big, len) == 0);
    evict(&f, "big");
    zc_bytes keys[3] = {zc_str("big"), zc_str("none"), zc_str("k")};
    zc_view v[3];
    int results[3];
    CHECK_EQ(zc_get_many(f.c, keys, 3, v, results), 2);
    CHECK_EQ(results[1], ZC_MISS);
    for (int i = 0; i < 3; i++) zc_release(f.c, &v[i]);
    stop(&f);
    CHECK_EQ(f.store.closes, 1);
}

TEST(a_fetch_asks_the_storage_before_the_loader) {
    fixture f;
    source s = {.text = "value", .dep = "a:b"};
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    CHECK_EQ(fetch(&f, "k", &s, "value"), ZC_OK);
    CHECK_EQ(s.loads, 1);
    evict(&f, "k");
    CHECK_EQ(fetch(&f, "k", &s, "value"), ZC_OK);
    CHECK_EQ(s.loads, 1);
    evict(&f, "k");
    zc_fill *fill;
    zc_view v;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &fill), ZC_OK);
    CHECK(fill == NULL && v.size == 5);
    zc_release(f.c, &v);
    CHECK_EQ(stats(&f).hits_store, 2);
    CHECK_EQ(stats(&f).fills, 1); /* what comes from the storage is no fill */
    /* The dependencies came back with the record. */
    CHECK_EQ(zc_invalidate(f.c, zc_str("a")), ZC_OK);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK(stats(&f).store_stale > 0);
    CHECK_EQ(fetch(&f, "k", &s, "value"), ZC_OK);
    CHECK_EQ(s.loads, 2);
    stop(&f);
}

TEST(deleting_and_clearing_reach_the_storage) {
    fixture f;
    if (!start(&f, false)) return;
    CHECK_EQ(put_dep(&f, "k", "v", NULL), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    CHECK(fs_find(&f.store, zc_str("k")) == NULL);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(zc_put(f.c, zc_slice(&i, sizeof i), zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(f.store.nrecords, 5);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(f.store.nrecords, 0);
    for (int i = 0; i < 5; i++) {
        zc_view v;
        CHECK_EQ(zc_get(f.c, zc_slice(&i, sizeof i), &v), ZC_MISS);
    }
    stop(&f);
}

TEST(a_refused_put_leaves_nothing_in_the_storage) {
    fixture f;
    char big[1000] = {0};
    if (!start_with(&f, false, (zc_desc){.max_entries = 10, .max_entry_bytes = 500,
                                         .max_bytes = 5000}))
        return;
    CHECK_EQ(put_dep(&f, "k", "old", NULL), ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_slice(big, sizeof big), NULL), ZC_REFUSED);
    CHECK(fs_find(&f.store, zc_str("k")) == NULL);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    stop(&f);
}

static int drops;
static void drop(void *user, void *object, size_t size) {
    CHECK(user == NULL && object == &drops && size == 1);
    drops++;
}
static int load_object(zc_fill *fill, void *user) {
    (void)user;
    return zc_fill_object(fill, &drops, 1, drop, NULL);
}

TEST(objects_are_not_stored) {
    fixture f;
    zc_view v;
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    CHECK_EQ(put_dep(&f, "k", "bytes", NULL), ZC_OK);
    CHECK_EQ(zc_put_object(f.c, zc_str("k"), &drops, 1, drop, NULL, NULL), ZC_OK);
    CHECK(fs_find(&f.store, zc_str("k")) == NULL); /* the older bytes are gone as well */
    evict(&f, "k");
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(zc_fetch(f.c, zc_str("j"), load_object, NULL, NULL, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK(fs_find(&f.store, zc_str("j")) == NULL);
    stop(&f);
}

#ifndef ZOOCACHE_NO_LZ4
static int load_plain(zc_fill *fill, void *user) { return zc_fill_value(fill, *(zc_bytes *)user); }

TEST(what_is_to_stay_plain_is_stored_so) {
    static char text[1000];
    fixture f;
    zc_view v;
    zc_put_opts packed = {.plain = false};
    zc_fetch_opts plain = {.put = {.plain = true}};
    if (!start(&f, false)) return;
    memset(text, 'x', sizeof text);
    zc_bytes value = zc_slice(text, sizeof text);
    CHECK_EQ(zc_put(f.c, zc_str("packed"), value, &packed), ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("put"), value, &plain.put), ZC_OK);
    CHECK_EQ(zc_fetch(f.c, zc_str("fetched"), load_plain, &value, &plain, &v), ZC_OK);
    zc_release(f.c, &v);
    CHECK(fs_find(&f.store, zc_str("packed"))->len < sizeof text / 2);
    CHECK(fs_find(&f.store, zc_str("put"))->len > sizeof text);
    CHECK(fs_find(&f.store, zc_str("fetched"))->len > sizeof text);
    stop(&f);
}
#endif

TEST(an_object_that_refreshes_bytes_removes_their_record) {
    fixture f;
    zc_view v;
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    zc_fetch_opts o = {.put = {.soft_ttl = ZC_SECOND}};
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("bytes"), &o.put), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_object, NULL, &o, &v), ZC_STALE);
    zc_release(f.c, &v);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(zc_get(f.c, zc_str("k"), &v), ZC_OK);
    CHECK(v.data == &drops);
    zc_release(f.c, &v);
    evict(&f, "k");
    CHECK_EQ(get(&f, "k", "bytes"), ZC_MISS);
    stop(&f);
}

TEST(times_survive_in_the_storage) {
    fixture f;
    zc_view v;
    if (!start_with(&f, true, (zc_desc){.max_entries = 100})) return;
    zc_put_opts ttl = {.ttl = 100 * ZC_SECOND}, soft = {.ttl = 100 * ZC_SECOND,
                                                       .soft_ttl = 20 * ZC_SECOND};
    zc_put_opts absent = {.ttl = ZC_SECOND, .negative_ttl = 100 * ZC_SECOND};
    CHECK_EQ(zc_put(f.c, zc_str("ttl"), zc_str("v"), &ttl), ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("soft"), zc_str("v"), &soft), ZC_OK);
    CHECK_EQ(zc_put_absent(f.c, zc_str("absent"), &absent), ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("ever"), zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(fs_find(&f.store, zc_str("ttl"))->expires_ms, (START + 100 * ZC_SECOND) / 1000000);
    CHECK_EQ(fs_find(&f.store, zc_str("ever"))->expires_ms, 0);
    close_cache(&f);
    f.time.mono = 5; /* another boot */
    f.time.wall = START + 50 * ZC_SECOND;
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "ttl", "v"), ZC_OK);
    CHECK_EQ(zc_get(f.c, zc_str("absent"), &v), ZC_ABSENT);
    zc_release(f.c, &v);
    CHECK_EQ(get(&f, "ever", "v"), ZC_OK);
    CHECK_EQ(get(&f, "soft", "v"), ZC_STALE); /* from the storage ... */
    CHECK_EQ(get(&f, "soft", "v"), ZC_STALE); /* ... and from the table */
    zct_step(&f.time, 50 * ZC_SECOND - 2 * ZC_MILLISECOND);
    CHECK_EQ(get(&f, "ttl", "v"), ZC_OK);
    zct_step(&f.time, 3 * ZC_MILLISECOND);
    CHECK_EQ(get(&f, "ttl", ""), ZC_MISS);
    CHECK_EQ(zc_get(f.c, zc_str("absent"), &v), ZC_MISS);
    CHECK_EQ(get(&f, "soft", ""), ZC_MISS);
    CHECK_EQ(get(&f, "ever", "v"), ZC_OK);
    stop(&f);
}

TEST(reading_a_record_touches_it) {
    fixture f;
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    zc_put_opts o = {.ttl = 100 * ZC_SECOND, .tti = 10 * ZC_SECOND};
    uint64_t ms = START / 1000000;
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("v"), &o), ZC_OK);
    CHECK_EQ(fs_find(&f.store, zc_str("k"))->expires_ms, ms + 10000);
    evict(&f, "k");
    CHECK_EQ(f.store.op_calls[FS_TOUCH], 0);
    zct_step(&f.time, 5 * ZC_SECOND);
    CHECK_EQ(get(&f, "k", "v"), ZC_OK);
    CHECK_EQ(f.store.op_calls[FS_TOUCH], 1);
    CHECK_EQ(fs_find(&f.store, zc_str("k"))->expires_ms, ms + 15000);
    evict(&f, "k");
    zct_step(&f.time, 90 * ZC_SECOND);
    CHECK_EQ(get(&f, "k", "v"), ZC_OK); /* this storage does not drop what is over by itself */
    CHECK_EQ(fs_find(&f.store, zc_str("k"))->expires_ms, ms + 100000); /* not beyond the ttl */
    zct_step(&f.time, 5 * ZC_SECOND);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    stop(&f);
}

/* ---- restarts ---- */

TEST(without_versions_a_restart_begins_anew) {
    fixture f;
    if (!start(&f, false)) return;
    CHECK_EQ(put_dep(&f, "k", "v", "t"), ZC_OK);
    close_cache(&f);
    zct_step(&f.time, ZC_SECOND);
    if (!reopen(&f)) return;
    CHECK(fs_find(&f.store, zc_str("k")) == NULL);
    CHECK_EQ(get(&f, "k", "v"), ZC_MISS);
    source s = {.text = "new"};
    CHECK_EQ(fetch(&f, "k", &s, "new"), ZC_OK);
    CHECK_EQ(s.loads, 1);
    stop(&f);
}

TEST(without_versions_and_without_entropy) {
    /* A board: one fixed block at a fixed address, clocks that start at the same instant, so even
     * the generation is the same. The invalidation of the first life is forgotten: its records must
     * not come back. */
    static unsigned char block[65536];
    fault_store store;
    fs_init(&store);
    for (int life = 0; life < 2; life++) {
        zct_time time = {.mono = ZC_SECOND, .wall = ZC_SECOND};
        zc_desc d = {.block = block, .block_size = sizeof block, .no_thread = true};
        zc_cache *c;
        zc_view v;
        zc_bytes dep = zc_str("t");
        zc_put_opts o = {.deps = &dep, .ndeps = 1};
        d.clock = zct_clock(&time);
        d.store = fs_hook(&store, false);
        memset(block, 0, sizeof block);
        REQUIRE(zc_open(&d, &c) == ZC_OK);
        CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_MISS);
        zc_release(c, &v);
        if (life == 0) {
            CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
            CHECK_EQ(zc_invalidate(c, dep), ZC_OK);
        }
        zc_close(c);
    }
    fs_destroy(&store);
}

TEST(with_versions_a_restart_is_warm_and_never_stale) {
    fixture f;
    if (!start(&f, true)) return;
    CHECK_EQ(put_dep(&f, "good", "v", "org:1:team:a"), ZC_OK);
    CHECK_EQ(put_dep(&f, "same", "v", "org:2:team:a"), ZC_OK);
    CHECK_EQ(put_dep(&f, "above", "v", "org:3:team:a"), ZC_OK);
    CHECK_EQ(put_dep(&f, "many", "v", "m:1"), ZC_OK);
    CHECK_EQ(put_dep(&f, "handle", "v", "h"), ZC_OK);
    CHECK_EQ(put_dep(&f, "nodep", "v", NULL), ZC_OK);
    zc_bytes many[2] = {zc_str("m"), zc_str("x")};
    zc_tag *tag;
    CHECK_EQ(zc_tag_intern(f.c, zc_str("h"), &tag), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:2:team:a")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:3")), ZC_OK);
    CHECK_EQ(zc_invalidate_many(f.c, many, 2), ZC_OK);
    CHECK_EQ(zc_invalidate_tag(f.c, tag), ZC_OK);
    zc_tag_release(f.c, tag);
    CHECK_EQ(put_dep(&f, "after", "v", "org:3"), ZC_OK);
    uint64_t version, again;
    CHECK_EQ(zc_tag_version(f.c, zc_str("org:3"), &version), ZC_OK);
    close_cache(&f);
    for (int life = 0; life < 3; life++) {
        /* The clock may have stepped back an hour between the two lives. */
        f.time.wall -= HOUR;
        if (!reopen(&f)) return;
        CHECK_EQ(zc_tag_version(f.c, zc_str("org:3"), &again), ZC_OK);
        CHECK_EQ(again, version);
        CHECK_EQ(get(&f, "good", "v"), ZC_OK);
        CHECK_EQ(get(&f, "after", "v"), ZC_OK);
        CHECK_EQ(get(&f, "nodep", "v"), ZC_OK);
        CHECK_EQ(get(&f, "same", ""), ZC_MISS);
        CHECK_EQ(get(&f, "above", ""), ZC_MISS);
        CHECK_EQ(get(&f, "many", ""), ZC_MISS);
        CHECK_EQ(get(&f, "handle", ""), ZC_MISS);
        close_cache(&f);
    }
    /* And what is invalidated now, with the clock behind, still counts. */
    if (!reopen(&f)) return;
    CHECK_EQ(zc_invalidate(f.c, zc_str("org:1")), ZC_OK);
    CHECK_EQ(get(&f, "good", ""), ZC_MISS);
    CHECK_EQ(get(&f, "after", "v"), ZC_OK);
    close_cache(&f);
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "good", ""), ZC_MISS);
    CHECK_EQ(get(&f, "after", "v"), ZC_OK);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    close_cache(&f);
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "after", ""), ZC_MISS);
    CHECK_EQ(get(&f, "nodep", ""), ZC_MISS);
    stop(&f);
}

TEST(a_cleared_storage_that_could_not_clear) {
    /* clear() of the records fails, but the root's version is kept. */
    fixture f;
    if (!start(&f, true)) return;
    CHECK_EQ(put_dep(&f, "k", "v", "t"), ZC_OK);
    CHECK_EQ(put_dep(&f, "n", "v", NULL), ZC_OK);
    fs_fail(&f.store, 1u << FS_CLEAR, 0, 1);
    CHECK_EQ(zc_clear(f.c), ZC_E_STORE);
    CHECK_EQ(f.store.nrecords, 2);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(get(&f, "n", ""), ZC_MISS);
    close_cache(&f);
    f.time.wall -= HOUR;
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(get(&f, "n", ""), ZC_MISS);
    stop(&f);
}

TEST(a_new_generation_of_versions_drops_all_records) {
    fixture f;
    if (!start(&f, true)) return;
    CHECK_EQ(put_dep(&f, "k", "v", "t"), ZC_OK);
    close_cache(&f);
    f.store.generation++; /* the versions were lost */
    f.store.latest = 0;
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    stop(&f);
}

TEST(a_version_that_was_not_kept_does_not_protect_a_later_life) {
    /* First life: an invalidation of X the storage could not keep (the caller was told), then a
     * record of T, whose begin is that version. Second life, the clock an hour back: T is
     * invalidated, with a lower version. However far the versions get: the record is stale. */
    fixture f;
    if (!start(&f, true)) return;
    fs_fail(&f.store, 1u << FS_TAG_PUT, 0, 1);
    CHECK_EQ(zc_invalidate(f.c, zc_str("x")), ZC_E_STORE);
    fs_fail(&f.store, 0, 0, 0);
    CHECK_EQ(put_dep(&f, "k", "v", "t"), ZC_OK);
    close_cache(&f);
    f.time.wall -= HOUR;
    if (!reopen(&f)) return;
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    zct_step(&f.time, 2 * HOUR);
    CHECK_EQ(zc_invalidate(f.c, zc_str("other")), ZC_OK);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    stop(&f);
}

TEST(pruned_tags_are_asked_again) {
    fixture f;
    if (!start_with(&f, true, (zc_desc){.max_entries = 1})) return;
    CHECK_EQ(put_dep(&f, "k", "v", "a:b"), ZC_OK);
    evict(&f, "k");
    CHECK_EQ(zc_invalidate(f.c, zc_str("a:b")), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK(zc_prune(f.c, ZC_SECOND) > 0);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    close_cache(&f);
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    stop(&f);
}

/* ---- records that are no good ---- */

TEST(every_damaged_byte_is_a_counted_miss) {
    fixture f;
    if (!start_with(&f, false, (zc_desc){.max_entries = 1})) return;
    zc_bytes key = zc_str("key");
    CHECK_EQ(put_dep(&f, "key", "some value", "org:1"), ZC_OK);
    fs_record *r = fs_find(&f.store, key);
    REQUIRE(r != NULL);
    unsigned char good[400];
    size_t len = r->len;
    REQUIRE(len < sizeof good);
    memcpy(good, r->data, len);
    evict(&f, "key");
    uint64_t corrupt = 0;
    for (size_t i = 0; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            unsigned char bad[sizeof good];
            memcpy(bad, good, len);
            bad[i] = (unsigned char)(bad[i] ^ 1u << bit);
            fs_plant(&f.store, key, bad, len, 0);
            CHECK_EQ(get(&f, "key", ""), ZC_MISS);
            CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
        }
    }
    for (size_t n = 0; n < len; n++) {
        fs_plant(&f.store, key, good, n, 0);
        CHECK_EQ(get(&f, "key", ""), ZC_MISS);
        CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
    }
    unsigned char more[sizeof good + 1] = {0};
    memcpy(more, good, len);
    fs_plant(&f.store, key, more, len + 1, 0);
    CHECK_EQ(get(&f, "key", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
    for (int i = 0; i < 2000; i++) {
        unsigned char noise[200];
        size_t n = zct_below(sizeof noise);
        for (size_t k = 0; k < n; k++) noise[k] = (unsigned char)zct_rand();
        if (n > 5) memcpy(noise, "ZOOC\1", 5);
        fs_plant(&f.store, key, noise, n, 0);
        CHECK_EQ(get(&f, "key", ""), ZC_MISS);
        CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
    }
    /* A whole record of another key is not this one's. */
    fs_plant(&f.store, zc_str("other"), good, len, 0);
    CHECK_EQ(get(&f, "other", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
    fs_plant(&f.store, key, good, len, 0);
    CHECK_EQ(get(&f, "key", "some value"), ZC_OK);
    stop(&f);
}

/* Plants a whole, correctly summed record. */
static void plant(fixture *f, const zc_record *r) {
    zc_bytes out;
    CHECK_EQ(zc_record_encode(r, NULL, &out), ZC_OK);
    fs_plant(&f->store, r->key, out.ptr, out.len, 0);
    free((void *)(uintptr_t)out.ptr);
}

TEST(records_whole_but_not_to_be_believed) {
    fixture f;
    if (!start(&f, true)) return;
    zc_bytes deps[2] = {zc_str("a:b"), zc_str("c::d")};
    zc_record r = {.key = zc_str("k"), .value = zc_str("v"), .deps = deps, .ndeps = 1,
                   .generation = f.store.generation, .begin = zc_begin(f.c)};
    uint64_t stale = 0, corrupt = 0;
    plant(&f, &r);
    CHECK_EQ(get(&f, "k", "v"), ZC_OK); /* this one is */
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    zc_record bad = r;
    bad.begin++; /* from the future of the versions */
    plant(&f, &bad);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_stale, ++stale);
    bad = r;
    bad.generation++;
    plant(&f, &bad);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_stale, ++stale);
    bad = r;
    bad.expires_ms = START / 1000000;
    plant(&f, &bad);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_stale, ++stale);
    bad = r;
    bad.ndeps = 2; /* a tag that is none */
    plant(&f, &bad);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_corrupt, ++corrupt);
    source s = {.text = "loaded"};
    CHECK_EQ(fetch(&f, "k", &s, "loaded"), ZC_OK); /* nothing of the bad record is left */
    CHECK_EQ(get(&f, "k", "loaded"), ZC_OK);
    zc_explanation x;
    CHECK_EQ(zc_explain(f.c, zc_str("k"), &x), ZC_OK);
    CHECK_EQ(x.deps, 0);
    CHECK_EQ(x.expires_in, ZC_NEVER);
    stop(&f);
}

/* ---- faults ---- */

static int faults, last_fault;
static void note_fault(void *user, const zc_event *e) {
    CHECK(user == &faults);
    CHECK_EQ(e->kind, ZC_EVENT_STORE_FAULT);
    faults++;
    last_fault = e->rc;
}

TEST(a_failing_open) {
    fixture f;
    memset(&f, 0, sizeof f);
    fs_init(&f.store);
    zc_desc d = {.allocator = zct_allocator(&f.mem), .store = fs_hook(&f.store, true)};
    for (int i = 1; i <= 2; i++) { /* generation, then the root's version */
        fs_fail(&f.store, 0, (uint64_t)i, 0);
        CHECK_EQ(zc_open(&d, &f.c), ZC_E_STORE);
        CHECK(f.c == NULL);
        CHECK_EQ(f.mem.blocks, 0);
    }
    CHECK_EQ(f.store.closes, 0); /* still the caller's */
    fs_destroy(&f.store);
}

/* What no clock has ever given. */
static const uint64_t absurd[] = {ZC__VERSION_MAX + 1, UINT64_C(1) << 63, UINT64_MAX - 1,
                                  UINT64_MAX};

static void invalidates(fixture *f) {
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(put_dep(f, "k", "old", "org:1"), ZC_OK);
        CHECK_EQ(get(f, "k", "old"), ZC_OK);
        CHECK_EQ(zc_invalidate(f->c, zc_str(i ? "org:1" : "org")), ZC_OK);
        CHECK_EQ(get(f, "k", "old"), ZC_MISS);
    }
}

TEST(absurd_versions_of_a_storage_are_refused_when_it_is_opened) {
    for (unsigned i = 0; i < 9; i++) {
        fixture f;
        zc_bytes root = zc_str("");
        if (!start(&f, true)) return;
        close_cache(&f);
        uint64_t v = i < 8 ? absurd[i / 2] : ZC__VERSION_MAX, was = f.store.latest;
        fs_tag_put(&f.store, &root, 1, v);
        if (i < 8 && i & 1) f.store.latest = was; /* of the root alone */
        if (i < 8) CHECK_EQ(zc_open(&f.d, &f.c), ZC_E_CORRUPT);
        if (i < 8) CHECK_EQ(f.mem.blocks, 0);
        if (i == 8 && reopen(&f)) { /* the largest that is none of these */
            invalidates(&f);
            close_cache(&f);
        }
        fs_destroy(&f.store);
    }
}

TEST(absurd_versions_of_tags_are_counted_and_not_learned) {
    for (unsigned i = 0; i < 4; i++) {
        fixture f;
        uint64_t v;
        zc_bytes tag = zc_str("org:1");
        if (!start(&f, true)) return;
        CHECK_EQ(put_dep(&f, "k", "v", "org:1"), ZC_OK);
        close_cache(&f);
        uint64_t was = f.store.latest;
        fs_tag_put(&f.store, &tag, 1, absurd[i]);
        f.store.latest = was;
        if (!reopen(&f)) return;
        CHECK_EQ(get(&f, "k", "v"), ZC_MISS); /* nobody knows */
        CHECK_EQ(stats(&f).store_corrupt, 1);
        CHECK_EQ(zc_tag_version(f.c, tag, &v), ZC_E_STORE);
        CHECK(zc_begin(f.c) < ZC__VERSION_MAX);
        invalidates(&f);
        stop(&f);
    }
}

TEST(an_absurd_version_of_another_node_is_counted_and_not_learned) {
    for (unsigned i = 0; i < 4; i++) {
        fixture f;
        if (!start_with(&f, false, (zc_desc){.max_clock_drift = ZC_NEVER})) return;
        CHECK_EQ(zc_observe(f.c, absurd[i]), ZC_E_CLOCK);
        CHECK_EQ(stats(&f).clock_refused, 1);
        invalidates(&f);
        zc_put_opts o = {.begin = absurd[i]};
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("v"), &o), ZC_E_INVAL);
        CHECK_EQ(zc_observe(f.c, ZC__VERSION_MAX), ZC_OK);
        invalidates(&f);
        stop(&f);
    }
}

TEST(each_fault_is_counted_and_told) {
    fixture f;
    zc_desc d = {.max_entries = 1};
    d.events = (zc_events){1, ZC_EVENT_STORE_FAULT, note_fault, &faults};
    faults = 0;
    if (!start_with(&f, true, d)) return;
    f.store.fail_rc = -4321;
    fs_fail(&f.store, 1u << FS_PUT, 0, 1);
    CHECK_EQ(put_dep(&f, "k", "v", "t"), ZC_OK);
    CHECK_EQ(faults, 1);
    CHECK_EQ(last_fault, -4321);
    fs_fail(&f.store, 1u << FS_GET, 0, 1);
    CHECK_EQ(get(&f, "none", ""), ZC_MISS);
    CHECK_EQ(faults, 2);
    fs_fail(&f.store, 1u << FS_DEL, 0, 1);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    CHECK_EQ(faults, 3);
    fs_fail(&f.store, 1u << FS_TAG_PUT, 0, 1);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_E_STORE);
    CHECK_EQ(faults, 4);
    CHECK_EQ(stats(&f).store_errors, 4);
    fs_fail(&f.store, 0, 0, 0);
    fs_plant(&f.store, zc_str("junk"), "junk", 4, 0);
    CHECK_EQ(get(&f, "junk", ""), ZC_MISS);
    CHECK_EQ(faults, 5);
    CHECK_EQ(last_fault, ZC_E_CORRUPT);
    CHECK_EQ(stats(&f).store_corrupt, 1);
    stop(&f);
}

TEST(a_failed_delete_does_not_bring_the_value_back) {
    fixture f;
    if (!start(&f, true)) return;
    CHECK_EQ(put_dep(&f, "k", "deleted", NULL), ZC_OK);
    fs_fail(&f.store, 1u << FS_DEL, 0, 1);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    CHECK_EQ(get(&f, "k", "deleted"), ZC_MISS);
    fs_fail(&f.store, 0, 0, 0);
    CHECK_EQ(get(&f, "k", "deleted"), ZC_MISS);
    source s = {.text = "loaded"};
    CHECK_EQ(fetch(&f, "k", &s, "loaded"), ZC_OK);
    CHECK_EQ(s.loads, 1);
    stop(&f);
}

TEST(a_failed_delete_is_remembered_over_a_restart) {
    /* The record cannot be deleted, but that it is not to be trusted can be kept. */
    fixture f;
    if (!start(&f, true)) return;
    CHECK_EQ(put_dep(&f, "k", "deleted", NULL), ZC_OK);
    fs_fail(&f.store, 1u << FS_DEL, 0, 1);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    fs_fail(&f.store, 0, 0, 0);
    close_cache(&f);
    zct_step(&f.time, ZC_SECOND);
    if (!reopen(&f)) return;
    CHECK_EQ(get(&f, "k", "deleted"), ZC_MISS);
    stop(&f);
}

TEST(a_failed_write_does_not_bring_the_older_value_back) {
    for (int torn = 0; torn < 2; torn++) {
        fixture f;
        if (!start_with(&f, true, (zc_desc){.max_entries = 1})) return;
        f.store.torn = torn;
        CHECK_EQ(put_dep(&f, "k", "older", NULL), ZC_OK);
        fs_fail(&f.store, 1u << FS_PUT, 0, 1);
        CHECK_EQ(put_dep(&f, "k", "newer", NULL), ZC_OK);
        CHECK_EQ(get(&f, "k", "newer"), ZC_OK);
        evict(&f, "k");
        fs_fail(&f.store, 0, 0, 0);
        CHECK_EQ(get(&f, "k", "older"), ZC_MISS);
        /* Neither of the two calls that could remove it works. */
        CHECK_EQ(put_dep(&f, "k", "older", NULL), ZC_OK);
        fs_fail(&f.store, 1u << FS_PUT | 1u << FS_DEL, 0, 1);
        CHECK_EQ(put_dep(&f, "k", "newer", NULL), ZC_OK);
        evict(&f, "k");
        fs_fail(&f.store, 0, 0, 0);
        CHECK_EQ(get(&f, "k", "older"), ZC_MISS);
        CHECK_EQ(put_dep(&f, "k", "newest", NULL), ZC_OK);
        evict(&f, "k");
        CHECK_EQ(get(&f, "k", "newest"), ZC_OK); /* the key is good again */
        stop(&f);
    }
}

/* A fixed scenario; what it reads is checked against what may be true at that point. A miss is
 * always allowed where the storage may have failed. */
static void scenario(fixture *f) {
    source s = {.text = "loaded", .dep = "org:1"};
    zc_put_opts tti = {.tti = 10 * ZC_SECOND};
    int rc;
    CHECK_EQ(put_dep(f, "a", "a1", "org:1"), ZC_OK);
    CHECK_EQ(zc_put(f->c, zc_str("t"), zc_str("t1"), &tti), ZC_OK);
    evict(f, "t");
    rc = get(f, "t", "t1");
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    evict(f, "a");
    rc = get(f, "a", "a1");
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    CHECK_EQ(put_dep(f, "a", "a2", "org:1"), ZC_OK);
    CHECK_EQ(get(f, "a", "a2"), ZC_OK);
    evict(f, "a");
    rc = get(f, "a", "a2");
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    CHECK_EQ(fetch(f, "l", &s, "loaded"), ZC_OK);
    CHECK_EQ(s.loads, 1);
    evict(f, "l");
    CHECK_EQ(fetch(f, "l", &s, "loaded"), ZC_OK);
    rc = zc_invalidate(f->c, zc_str("org:1"));
    CHECK(rc == ZC_OK || rc == ZC_E_STORE);
    CHECK_EQ(get(f, "a", ""), ZC_MISS);
    s.text = "again";
    CHECK_EQ(fetch(f, "l", &s, "again"), ZC_OK);
    CHECK_EQ(put_dep(f, "d", "d1", "org:2"), ZC_OK);
    CHECK_EQ(zc_del(f->c, zc_str("d")), ZC_OK);
    CHECK_EQ(get(f, "d", ""), ZC_MISS);
    CHECK_EQ(put_dep(f, "e", "e1", "org:2"), ZC_OK);
    rc = zc_clear(f->c);
    CHECK(rc == ZC_OK || rc == ZC_E_STORE);
    CHECK_EQ(get(f, "e", ""), ZC_MISS);
    CHECK_EQ(get(f, "l", ""), ZC_MISS);
    CHECK_EQ(put_dep(f, "z", "z1", "org:3"), ZC_OK);
    CHECK_EQ(get(f, "z", "z1"), ZC_OK);
}

static void sweep(bool versions, bool all_from_there, bool torn) {
    fixture f;
    uint64_t n = 1, failed = 1;
    for (; failed && n < 200; n++) {
        if (!start_with(&f, versions, (zc_desc){.max_entries = 1})) return;
        f.store.torn = torn;
        fs_fail(&f.store, 0, all_from_there ? 0 : n, all_from_there ? n : 0);
        unsigned bad = zct_bad;
        scenario(&f);
        failed = f.store.failed;
        if (failed) CHECK(stats(&f).store_errors > 0);
        if (zct_bad != bad) printf("    with call %u of the storage failing\n", (unsigned)n);
        fs_fail(&f.store, 0, 0, 0);
        stop(&f);
    }
    CHECK(n > 25 && n < 200); /* it came to an end, after failing many */
}

TEST(every_call_of_the_storage_failed_once) {
    sweep(false, false, false);
    sweep(true, false, false);
    sweep(true, false, true);
}
TEST(the_storage_goes_down_at_every_call) {
    sweep(false, true, false);
    sweep(true, true, true);
}

/* ---- reads while the storage is being written ---- */

/* The storage's own put and del, and before each a read of what they are about to change. */
static struct {
    fixture *f;
    zc_store real;
    unsigned reads;
} between;

static void *read_it(void *user) {
    const zc_bytes *key = (const zc_bytes *)user;
    zc_view v;
    CHECK_EQ(zc_get(between.f->c, *key, &v), ZC_MISS);
    int result = ZC_OK;
    (void)zc_get_many(between.f->c, key, 1, &v, &result);
    CHECK_EQ(result, ZC_MISS);
    return NULL;
}
static void read_between(zc_bytes key) {
    pthread_t reader; /* a storage does not call the cache */
    zct_step(&between.f->time, 2 * ZC_SECOND);
    pthread_create(&reader, NULL, read_it, &key);
    pthread_join(reader, NULL);
    between.reads++;
}
static int put_between(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    read_between(key);
    return between.real.put(user, key, record, expires_ms);
}
static int del_between(void *user, zc_bytes key) {
    read_between(key);
    return between.real.del(user, key);
}

TEST(a_read_between_the_table_and_the_storage_brings_nothing_back) {
    fixture f;
    REQUIRE(start(&f, true));
    CHECK_EQ(put_dep(&f, "k", "old", NULL), ZC_OK);
    CHECK_EQ(put_dep(&f, "d", "old", NULL), ZC_OK);
    close_cache(&f);
    between.f = &f;
    between.reads = 0;
    f.d.store = between.real = fs_hook(&f.store, true);
    f.d.store.put = put_between;
    f.d.store.del = del_between;
    CHECK_EQ(zc_open(&f.d, &f.c), ZC_OK);
    zc_put_opts brief = {.ttl = ZC_SECOND}; /* it is over when the storage gets it */
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("new"), &brief), ZC_OK);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(zc_del(f.c, zc_str("d")), ZC_MISS);
    CHECK_EQ(get(&f, "d", ""), ZC_MISS);
    CHECK_EQ(between.reads, 2);
    stop(&f);
}

/* ---- several threads ---- */

typedef struct racer {
    zc_cache *c;
    int id;
    uint64_t random;
    zct_barrier *start;
} racer;

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void *race(void *user) {
    racer *r = (racer *)user;
    zct_barrier_wait(r->start);
    for (int i = 0; i < 3000; i++) {
        int key = (int)(next_random(&r->random) % 4), value = r->id * 100000 + i;
        zc_bytes k = zc_slice(&key, sizeof key);
        zc_view v;
        switch (next_random(&r->random) % 4) {
        case 0: CHECK(zc_del(r->c, k) >= 0); break;
        case 1:
            CHECK(zc_get(r->c, k, &v) >= 0);
            zc_release(r->c, &v);
            break;
        default: CHECK_EQ(zc_put(r->c, k, zc_slice(&value, sizeof value), NULL), ZC_OK);
        }
    }
    return NULL;
}

TEST(the_storage_ends_up_with_what_the_table_has) {
    for (int round = 0; round < 4; round++) {
        fixture f;
        pthread_t thread[4];
        racer r[4];
        zct_barrier barrier;
        if (!start(&f, round % 2)) return;
        zct_barrier_init(&barrier, 4);
        for (int i = 0; i < 4; i++) {
            r[i] = (racer){f.c, i, zct_rand() | 1, &barrier};
            CHECK_EQ(pthread_create(&thread[i], NULL, race, &r[i]), 0);
        }
        for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
        for (int key = 0; key < 4; key++) {
            zc_explanation x;
            zc_bytes k = zc_slice(&key, sizeof key);
            fs_record *stored = fs_find(&f.store, k);
            CHECK_EQ(zc_explain(f.c, k, &x), ZC_OK);
            CHECK_EQ(x.present, stored != NULL);
            if (!x.present || !stored) continue;
            zc_record rec;
            zc_bytes memory;
            zc_view v;
            CHECK_EQ(zc_record_decode(zc_slice(stored->data, stored->len), 1000, NULL, &rec,
                                      &memory),
                     ZC_OK);
            CHECK_EQ(zc_get(f.c, k, &v), ZC_OK);
            CHECK(rec.value.len == v.size && memcmp(rec.value.ptr, v.data, v.size) == 0);
            zc_release(f.c, &v);
            free((void *)(uintptr_t)memory.ptr);
        }
        zct_barrier_destroy(&barrier);
        stop(&f);
    }
}

typedef struct meanwhile {
    zc_cache *c;
    int what, calls;
} meanwhile;

static void *do_meanwhile(void *user) {
    meanwhile *m = (meanwhile *)user;
    switch (m->what) {
    case 0: CHECK_EQ(zc_invalidate(m->c, zc_str("t")), ZC_OK); break;
    case 1: CHECK_EQ(zc_del(m->c, zc_str("k")), ZC_MISS); break;
    case 2: CHECK_EQ(zc_put(m->c, zc_str("k"), zc_str("new"), NULL), ZC_OK); break;
    case 3: CHECK_EQ(zc_clear(m->c), ZC_OK); break;
    default: break;
    }
    return NULL;
}
static void on_get(void *user) {
    meanwhile *m = (meanwhile *)user;
    pthread_t thread;
    if (m->calls++) return;
    CHECK_EQ(pthread_create(&thread, NULL, do_meanwhile, m), 0);
    pthread_join(thread, NULL);
}

TEST(what_happens_while_a_record_is_read) {
    for (int what = 0; what < 4; what++) {
        fixture f;
        if (!start_with(&f, true, (zc_desc){.max_entries = 1})) return;
        CHECK_EQ(put_dep(&f, "k", "old", "t"), ZC_OK);
        evict(&f, "k");
        meanwhile m = {f.c, what, 0};
        f.store.on_get_user = &m;
        f.store.on_get = on_get;
        zc_view v;
        int rc = zc_get(f.c, zc_str("k"), &v); /* begun before: old or new or nothing */
        CHECK(rc == ZC_OK || rc == ZC_MISS);
        zc_release(f.c, &v);
        CHECK(m.calls >= 1);
        f.store.on_get = NULL;
        /* Begun after: never the old one. */
        CHECK_EQ(get(&f, "k", "new"), what == 2 ? ZC_OK : ZC_MISS);
        stop(&f);
    }
}

TEST(a_read_beside_a_running_fill) {
    /* The flight is another's: a plain read looks into the storage and does not wait. */
    fixture f;
    zc_fill *lead;
    zc_view v;
    if (!start_with(&f, true, (zc_desc){.max_entries = 1})) return;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    zc_record r = {.key = zc_str("k"), .value = zc_str("stored"),
                   .generation = f.store.generation, .begin = zc_begin(f.c)};
    plant(&f, &r);
    CHECK_EQ(get(&f, "k", "stored"), ZC_OK);
    CHECK_EQ(stats(&f).waits, 0);
    zc_flight_abandon(lead, 0);
    CHECK_EQ(stats(&f).flights, 0);
    stop(&f);
}
