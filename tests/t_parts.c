/* zc_put_parts(): a value in parts goes to the storage, as the record of the whole; the table has
 * none of it. */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    fault_store store;
    zc_cache *c;
} fixture;

static unsigned in_parts;
static int put_in_parts(void *user, zc_bytes key, zc_bytes head, const zc_bytes *parts, size_t n,
                        uint64_t expires_ms) {
    unsigned char record[1000];
    size_t len = head.len;
    if (!CHECK(head.len < sizeof record / 2)) return ZC_E_INVAL;
    memcpy(record, head.ptr, head.len);
    for (size_t i = 0; i < n; len += parts[i++].len)
        if (parts[i].len) memcpy(record + len, parts[i].ptr, parts[i].len);
    in_parts++;
    return fs_put(user, key, zc_slice(record, len), expires_ms);
}

/* takes: the storage takes parts. */
static bool start(fixture *f, bool takes, bool behind) {
    zc_desc d;
    memset(f, 0, sizeof *f);
    memset(&d, 0, sizeof d);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    fs_init(&f->store);
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.no_thread = true;
    d.write_behind = behind;
    d.store = fs_hook(&f->store, true);
    if (takes) d.store.put_parts = put_in_parts;
    in_parts = 0;
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
    fs_destroy(&f->store);
}

static zc_stats stats(fixture *f) {
    zc_stats s;
    zc_stats_read(f->c, &s);
    return s;
}

static int get(fixture *f, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(f->c, zc_str(key), &v);
    if (rc == ZC_OK) CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(f->c, &v);
    return rc;
}

/* What is stored of a key is what is stored of another, but for the keys, of one byte, and what they
 * do to the checksum. */
static void same_records(fixture *f, const char *a, const char *b) {
    const fs_record *x = fs_find(&f->store, zc_str(a)), *y = fs_find(&f->store, zc_str(b));
    REQUIRE(x && y && CHECK_EQ(x->len, y->len));
    CHECK(memcmp(x->data, y->data, 8) == 0);
    CHECK(memcmp(x->data + 16, y->data + 16, 64) == 0);
    CHECK(memcmp(x->data + 81, y->data + 81, x->len - 81) == 0);
    CHECK_EQ(x->expires_ms, y->expires_ms);
}

TEST(the_record_is_that_of_the_whole) {
    const zc_bytes parts[] = {zc_str("one,"), zc_slice(NULL, 0), zc_str("two,"), zc_str("three")};
    zc_bytes dep = zc_str("tag");
    zc_put_opts o = {.deps = &dep, .ndeps = 1, .ttl = 60 * ZC_SECOND};
    for (int way = 0; way < 4; way++) {
        fixture f;
        REQUIRE(start(&f, way & 1, way & 2));
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("older"), &o), ZC_OK);
        CHECK_EQ(zc_put_parts(f.c, zc_str("k"), parts, 4, &o), ZC_OK);
        CHECK_EQ(in_parts, (unsigned)(way & 1));
        CHECK_EQ(stats(&f).entries, 0);
        CHECK_EQ(zc_put(f.c, zc_str("w"), zc_str("one,two,three"), &o), ZC_OK);
        while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {} /* what is written behind is not the older one */
        same_records(&f, "k", "w");
        CHECK_EQ(get(&f, "k", "one,two,three"), ZC_OK);
        CHECK_EQ(zc_put_parts(f.c, zc_str("e"), NULL, 0, NULL), ZC_OK);
        CHECK_EQ(get(&f, "e", ""), ZC_OK);
        stop(&f);
    }
}

TEST(what_was_invalidated_since_it_began_is_refused) {
    fixture f;
    zc_bytes dep = zc_str("tag"), part = zc_str("value");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    REQUIRE(start(&f, true, false));
    o.begin = zc_begin(f.c);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, &o), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("other")), ZC_OK);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, &o), ZC_OK);
    CHECK_EQ(get(&f, "k", "value"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, &o), ZC_REFUSED);
    CHECK(fs_find(&f.store, zc_str("k")) == NULL);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    o.begin = zc_begin(f.c) + 1;
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, &o), ZC_E_INVAL);
    stop(&f);
}

TEST(what_cannot_be_written_takes_the_older_away) {
    fixture f;
    const zc_bytes parts[] = {zc_str("new"), zc_slice("", (size_t)UINT32_MAX)};
    for (int takes = 0; takes < 2; takes++) {
        REQUIRE(start(&f, takes, false));
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("old"), NULL), ZC_OK);
        f.store.fail_ops = 1u << FS_PUT;
        f.store.fail_at = f.store.calls + 1;
        CHECK_EQ(zc_put_parts(f.c, zc_str("k"), parts, 1, NULL), ZC_OK);
        CHECK_EQ(stats(&f).store_errors, 1);
        CHECK_EQ(get(&f, "k", ""), ZC_MISS);
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("old"), NULL), ZC_OK);
        CHECK_EQ(zc_put_parts(f.c, zc_str("k"), parts, 2, NULL), ZC_OK); /* no record is so long */
        CHECK_EQ(get(&f, "k", ""), ZC_MISS);
        stop(&f);
    }
}

TEST(without_memory_nothing_changes) {
    fixture f;
    zc_bytes dep = zc_str("a:b:c"), part = zc_str("value");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    int rc = ZC_E_NOMEM;
    for (uint64_t n = 1; rc == ZC_E_NOMEM; n++) {
        REQUIRE(start(&f, true, false));
        CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("old"), NULL), ZC_OK);
        f.mem.count = 0;
        f.mem.fail_at = n;
        rc = zc_put_parts(f.c, zc_str("k"), &part, 1, &o);
        f.mem.fail_at = 0;
        if (rc == ZC_E_NOMEM) CHECK_EQ(get(&f, "k", "old"), ZC_OK);
        else CHECK_EQ(get(&f, "k", "value"), in_parts ? ZC_OK : ZC_MISS);
        stop(&f);
    }
    CHECK_EQ(rc, ZC_OK);
}

TEST(what_makes_no_sense) {
    fixture f;
    zc_desc none;
    zc_bytes part = zc_str("x");
    zc_put_opts deps = {.ndeps = 1};
    REQUIRE(start(&f, false, false));
    CHECK_EQ(zc_put_parts(NULL, zc_str("k"), &part, 1, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), NULL, 1, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, SIZE_MAX, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, &deps), ZC_E_INVAL);
    stop(&f);
    memset(&none, 0, sizeof none);
    none.no_thread = true;
    REQUIRE(CHECK_EQ(zc_open(&none, &f.c), ZC_OK));
    CHECK_EQ(zc_put_parts(f.c, zc_str("k"), &part, 1, NULL), ZC_E_INVAL); /* there is no storage */
    zc_close(f.c);
}
