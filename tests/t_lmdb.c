/* The LMDB part, through its hooks: records, room, log, versions, locks, restarts, processes. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "lmdb_dir.h"

#include <signal.h>
#include <sys/resource.h>

#define MS 1700000000000u
#define MIB ((size_t)1 << 20)

typedef struct fixture {
    lmdb_dir dir;
    zct_mem mem;
    zct_time time;
    zc_lmdb_desc d;
    zc_store s;
    zc_bus b;
    char said[256]; /* the last message */
} fixture;

static void note(void *user, zc_log_level level, const char *message) {
    (void)level;
    snprintf(((fixture *)user)->said, 256, "%s", message);
}

static int again(fixture *f) {
    f->said[0] = '\0';
    f->d.path = f->dir.path;
    f->d.allocator = zct_allocator(&f->mem);
    f->d.clock = zct_clock(&f->time);
    f->d.log.version = 1;
    f->d.log.write = note;
    f->d.log.user = f;
    return zc_lmdb_open(&f->d, &f->s, &f->b);
}
static bool start(fixture *f, size_t map_size) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = MS * ZC_MILLISECOND;
    f->d.map_size = map_size;
    return CHECK(ld_make(&f->dir)) && CHECK_EQ(again(f), ZC_OK);
}
static void shut(fixture *f) {
    f->s.close(f->s.user);
    f->b.close(f->b.user);
    CHECK_EQ(f->mem.blocks, 0);
}
static void stop(fixture *f) {
    shut(f);
    ld_remove(&f->dir);
}

/* The end of a child that has used what its parent had open. That is lost in the child, as it has to
 * be; valgrind would call it a leak, so this is no exit. */
static void leave(bool good) {
    execl("/bin/sh", "sh", "-c", good ? "exit 0" : "exit 1", (char *)NULL);
    _exit(1);
}

static int put(fixture *f, const char *key, const char *value, uint64_t end) {
    return f->s.put(f->s.user, zc_str(key), zc_str(value), end);
}
static int get(fixture *f, const char *key, const char *want) {
    return ld_expect(&f->s, zc_str(key), zc_str(want));
}
static int put_n(fixture *f, unsigned i, size_t len) {
    char key[16];
    char *value = (char *)malloc(len + 1);
    snprintf(key, sizeof key, "k%u", i);
    memset(value, (int)('a' + i % 26), len);
    int rc = f->s.put(f->s.user, zc_str(key), zc_slice(value, len), 0);
    free(value);
    return rc;
}
static int has_n(fixture *f, unsigned i, size_t len) {
    char key[16];
    got g;
    snprintf(key, sizeof key, "k%u", i);
    int rc = ld_get(&f->s, zc_str(key), &g);
    if (rc == ZC_OK && (g.len != len || (len && g.data[len - 1] != (char)('a' + i % 26))))
        rc = ZC_E_USER;
    free(g.data);
    return rc;
}
static uint64_t tail(fixture *f) {
    uint64_t id, at = 0;
    CHECK_EQ(f->b.attach(f->b.user, &id, &at), ZC_OK);
    return at;
}
static uint64_t identity(fixture *f) {
    uint64_t id = 0, at;
    CHECK_EQ(f->b.attach(f->b.user, &id, &at), ZC_OK);
    return id;
}
static zc__lmdb *db(fixture *f) { return (zc__lmdb *)f->s.user; }

static size_t entries(fixture *f, unsigned which) { return ld_count(db(f), which); }
static void check_whole(fixture *f) { ld_check(db(f)); }

/* ---- records ---- */

TEST(put_get_del_clear) {
    fixture f;
    REQUIRE(start(&f, 0));
    CHECK_EQ(get(&f, "a", ""), ZC_MISS);
    CHECK_EQ(put(&f, "a", "one", 0), ZC_OK);
    CHECK_EQ(get(&f, "a", "one"), ZC_OK);
    CHECK_EQ(put(&f, "a", "", 0), ZC_OK);
    CHECK_EQ(get(&f, "a", ""), ZC_OK);
    zc_bytes parts[] = {zc_str("tw"), zc_slice(NULL, 0), zc_str("o")};
    CHECK_EQ(f.s.put_parts(f.s.user, zc_str("a"), zc_str("1, "), parts, 3, 0), ZC_OK);
    CHECK_EQ(get(&f, "a", "1, two"), ZC_OK);
    CHECK_EQ(put(&f, "a", "three", 0), ZC_OK);
    CHECK_EQ(put(&f, "b", "x", MS + 5), ZC_OK);
    check_whole(&f);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 2);
    CHECK_EQ(f.s.del(f.s.user, zc_str("a")), ZC_OK);
    CHECK_EQ(f.s.del(f.s.user, zc_str("a")), ZC_MISS);
    CHECK_EQ(get(&f, "a", ""), ZC_MISS);
    CHECK_EQ(get(&f, "b", "x"), ZC_OK);
    check_whole(&f);
    CHECK_EQ(f.s.clear(f.s.user), ZC_OK);
    CHECK_EQ(get(&f, "b", ""), ZC_MISS);
    check_whole(&f);
    stop(&f);
}

TEST(keys_of_any_length) {
    static const size_t lens[] = {0, 1, 8, 510, 511, 512, 2000, ZC_KEY_MAX};
    static unsigned char key[ZC_KEY_MAX];
    fixture f;
    REQUIRE(start(&f, 0));
    for (size_t i = 0; i < sizeof key; i++) key[i] = (unsigned char)(i * 7);
    for (size_t i = 0; i < 8; i++) {
        char value[8];
        snprintf(value, sizeof value, "%zu", lens[i]);
        CHECK_EQ(f.s.put(f.s.user, zc_slice(key, lens[i]), zc_str(value), 0), ZC_OK);
    }
    for (size_t i = 0; i < 8; i++) {
        char value[8];
        snprintf(value, sizeof value, "%zu", lens[i]);
        CHECK_EQ(ld_expect(&f.s, zc_slice(key, lens[i]), zc_str(value)), ZC_OK);
    }
    CHECK_EQ(f.s.put(f.s.user, zc_slice(key, (size_t)ZC_KEY_MAX + 1), zc_str(""), 0), ZC_E_KEY);
    check_whole(&f);
    stop(&f);
}

/* Two keys of one hash cannot be found; so the row is given another key's text. */
TEST(another_key_of_the_same_hash_is_a_miss) {
    fixture f;
    REQUIRE(start(&f, 0));
    zc__lmdb_row row;
    row.h = zc__lmdb_hash(db(&f), zc_str("wanted"));
    row.key = zc_str("other!");
    row.head = zc_str("value");
    row.parts = NULL;
    row.n = 0;
    row.len = 5;
    row.end = 0;
    CHECK_EQ(zc__lmdb_write(db(&f), zc__lmdb_put_step, &row), ZC_OK);
    CHECK_EQ(get(&f, "wanted", ""), ZC_MISS);
    CHECK_EQ(put(&f, "wanted", "mine", 0), ZC_OK);
    CHECK_EQ(get(&f, "wanted", "mine"), ZC_OK);
    check_whole(&f);
    stop(&f);
}

TEST(get_many_in_one_step) {
    fixture f;
    static zc__mem mem;
    zc_sink sinks[3];
    zc_sink *at[3];
    int results[3];
    zc_bytes keys[3] = {zc_str("a"), zc_str("none"), zc_str("b")};
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "1", 0), ZC_OK);
    CHECK_EQ(put(&f, "b", "22", 0), ZC_OK);
    memset(sinks, 0, sizeof sinks);
    for (size_t i = 0; i < 3; i++) {
        at[i] = &sinks[i];
        sinks[i].mem = &mem;
        sinks[i].most = 100;
    }
    sinks[2].most = 1; /* refuses */
    CHECK_EQ(f.s.get_many(f.s.user, keys, 3, at, results), ZC_OK);
    CHECK_EQ(results[0], ZC_OK);
    CHECK(sinks[0].buf.size == 1 && sinks[0].buf.ptr[0] == '1');
    CHECK_EQ(results[1], ZC_MISS);
    CHECK_EQ(results[2], ZC_E_CORRUPT);
    for (size_t i = 0; i < 3; i++) free(sinks[i].buf.ptr);
    stop(&f);
}

TEST(records_end) {
    fixture f;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", MS + 100), ZC_OK);
    CHECK_EQ(put(&f, "b", "y", 0), ZC_OK);
    zct_step(&f.time, 99 * ZC_MILLISECOND);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    zct_step(&f.time, ZC_MILLISECOND);
    CHECK_EQ(get(&f, "a", "x"), ZC_MISS);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 2);
    CHECK_EQ(put(&f, "c", "z", 0), ZC_OK); /* a write takes some of the dead along */
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 2);
    CHECK_EQ(put(&f, "d", "z", MS + 200), ZC_OK);
    zct_step(&f.time, ZC_SECOND);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_OK); /* and so does the beat */
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 2);
    CHECK_EQ(get(&f, "b", "y"), ZC_OK);
    check_whole(&f);
    stop(&f);
}

TEST(touch_moves_the_end_and_is_flushed_in_batches) {
    fixture f;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", MS + 100), ZC_OK);
    CHECK_EQ(put(&f, "b", "y", MS + 100), ZC_OK);
    uint64_t before = db(&f)->known_txn;
    uint64_t now;
    CHECK_EQ(f.b.peek(f.b.user, &now), ZC_OK);
    before = db(&f)->known_txn;
    CHECK_EQ(f.s.touch(f.s.user, zc_str("a"), MS + 300), ZC_OK);
    CHECK_EQ(f.s.touch(f.s.user, zc_str("a"), MS + 200), ZC_OK); /* not to earlier */
    CHECK_EQ(f.s.touch(f.s.user, zc_str("none"), MS + 300), ZC_OK);
    CHECK_EQ(f.b.peek(f.b.user, &now), ZC_OK);
    CHECK_EQ(db(&f)->known_txn, before); /* nothing was written */
    zct_step(&f.time, 150 * ZC_MILLISECOND);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK); /* known from memory */
    CHECK_EQ(get(&f, "b", "y"), ZC_MISS);
    CHECK_EQ(put(&f, "c", "z", 0), ZC_OK); /* brings it along, and deletes b */
    check_whole(&f);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 2);
    shut(&f);
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);                   /* known from the file */
    CHECK_EQ(f.s.touch(f.s.user, zc_str("a"), 0), ZC_OK); /* never */
    zct_step(&f.time, ZC_SECOND);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    shut(&f); /* flushes */
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    check_whole(&f);
    stop(&f);
}

TEST(many_touches_overflow_into_the_file) {
    enum { N = 2000 };
    fixture f;
    char key[16];
    REQUIRE(start(&f, 0));
    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "k%u", i);
        CHECK_EQ(put(&f, key, "v", MS + 100), ZC_OK);
    }
    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "k%u", i);
        CHECK_EQ(f.s.touch(f.s.user, zc_str(key), MS + 1000), ZC_OK);
    }
    zct_step(&f.time, 500 * ZC_MILLISECOND);
    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "k%u", i);
        CHECK_EQ(get(&f, key, "v"), ZC_OK);
    }
    check_whole(&f);
    stop(&f);
}

TEST(a_replaced_record_does_not_inherit_a_touch) {
    fixture f;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", MS + 100), ZC_OK);
    CHECK_EQ(f.s.touch(f.s.user, zc_str("a"), MS + 9000), ZC_OK);
    CHECK_EQ(put(&f, "a", "y", MS + 200), ZC_OK);
    zct_step(&f.time, 300 * ZC_MILLISECOND);
    CHECK_EQ(get(&f, "a", "y"), ZC_MISS);
    stop(&f);
}

/* ---- room ---- */

TEST(a_full_map_evicts_the_longest_unused) {
    enum { N = 9000, LEN = 1000, HOT = 10 };
    fixture f;
    unsigned left = 0, newest = 0;
    REQUIRE(start(&f, 8 * MIB));
    for (unsigned i = 0; i < N; i++) {
        if (!CHECK_EQ(put_n(&f, i, LEN), ZC_OK)) break;
        for (unsigned k = 0; k < HOT; k++) (void)has_n(&f, k, LEN);
    }
    for (unsigned k = 0; k < HOT; k++) CHECK_EQ(has_n(&f, k, LEN), ZC_OK);
    for (unsigned i = 0; i < N; i++) left += has_n(&f, i, LEN) == ZC_OK;
    for (unsigned i = N - left / 2; i < N; i++) newest += has_n(&f, i, LEN) == ZC_OK;
    CHECK(left > 2000 && left < 6000);
    CHECK_EQ(newest, left / 2);
    check_whole(&f);
    stop(&f);
}

TEST(a_full_map_evicts_what_has_ended_first) {
    enum { N = 2500, LEN = 1000 };
    fixture f;
    char value[LEN + 1], key[16];
    REQUIRE(start(&f, 8 * MIB));
    memset(value, 'x', LEN);
    value[LEN] = '\0';
    CHECK_EQ(put_n(&f, 0, LEN), ZC_OK); /* the longest unused */
    for (unsigned i = 0; i < N; i++) {
        snprintf(key, sizeof key, "t%u", i);
        CHECK_EQ(put(&f, key, value, MS + 10), ZC_OK);
    }
    zct_step(&f.time, ZC_SECOND);
    for (unsigned i = 1; i < N; i++) CHECK_EQ(put_n(&f, i, LEN), ZC_OK);
    CHECK_EQ(has_n(&f, 0, LEN), ZC_OK);
    check_whole(&f);
    stop(&f);
}

TEST(large_records_come_and_go) {
    fixture f;
    REQUIRE(start(&f, 16 * MIB));
    for (unsigned i = 0; i < 300; i++) {
        size_t len = 1 + (size_t)zct_below(2 * MIB - 1000);
        if (!CHECK_EQ(put_n(&f, i, len), ZC_OK)) break;
        CHECK_EQ(has_n(&f, i, len), ZC_OK);
    }
    check_whole(&f);
    CHECK_EQ(put_n(&f, 1000, 2 * MIB + 1),
             ZC_E_FULL); /* more than an eighth: nothing changes for it */
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    CHECK_EQ(f.s.clear(f.s.user), ZC_OK);
    check_whole(&f);
    stop(&f);
}

/* A reader that stands still keeps every page that it sees; the map fills up whatever is deleted. */
TEST(a_map_that_a_reader_keeps_full_says_so_and_loses_nothing) {
    fixture f;
    zc__lmdb_rd r;
    unsigned i = 0;
    uint64_t at;
    int rc = ZC_OK;
    REQUIRE(start(&f, 8 * MIB));
    CHECK_EQ(ld_append(&f.b, "t", &at), ZC_OK);
    CHECK_EQ(put(&f, "first", "x", 0), ZC_OK);
    REQUIRE(CHECK_EQ(zc__lmdb_begin(db(&f), &r), ZC_OK));
    while (i < 100000 && (rc = put_n(&f, i, 3000)) == ZC_OK) i++;
    CHECK_EQ(rc, ZC_E_FULL);
    CHECK_EQ(ld_version(&f.b, "t"), at);
    CHECK_EQ(tail(&f), at);
    check_whole(&f);
    zc__lmdb_end(&r);
    CHECK_EQ(put_n(&f, i, 3000), ZC_OK); /* and all is well again */
    CHECK_EQ(has_n(&f, i, 3000), ZC_OK);
    CHECK_EQ(ld_append(&f.b, "u", &at), ZC_OK);
    check_whole(&f);
    stop(&f);
}

/* ---- the log ---- */

TEST(append_read_peek_versions) {
    fixture f;
    heard h;
    uint64_t at, p = 9;
    zc_bytes two[2] = {zc_str("x:y"), zc_str("z")};
    zc_bus_sink sink = {ld_entry, &h};
    REQUIRE(start(&f, 0));
    CHECK_EQ(tail(&f), 0);
    CHECK_EQ(f.b.peek(f.b.user, &p), ZC_OK);
    CHECK_EQ(p, 0);
    CHECK_EQ(ld_read(&f.b, 0, &h), ZC_OK);
    CHECK_EQ(h.entries, 0);
    CHECK_EQ(ld_append(&f.b, "a", &at), ZC_OK);
    CHECK_EQ(at, 1);
    memset(&h, 0, sizeof h);
    CHECK_EQ(f.b.append(f.b.user, two, 2, true, 0, &sink), ZC_OK);
    CHECK_EQ(h.entries, 2); /* the other's and its own */
    CHECK_EQ(h.tags, 3);
    CHECK_STR(h.text, "z");
    CHECK_EQ(f.b.peek(f.b.user, &p), ZC_OK);
    CHECK_EQ(p, 2);
    CHECK_EQ(ld_append(&f.b, NULL, &at), ZC_OK);
    CHECK_EQ(ld_read(&f.b, 0, &h), ZC_OK);
    CHECK_EQ(h.first, 1);
    CHECK_EQ(h.last, 3);
    CHECK_EQ(h.all, 1);
    CHECK_EQ(h.sum, XXH3_64bits("a", 1) + XXH3_64bits("x:y", 3) + XXH3_64bits("z", 1));
    CHECK_EQ(ld_read(&f.b, 2, &h), ZC_OK);
    CHECK_EQ(h.entries, 1);
    CHECK_EQ(ld_read(&f.b, 3, &h), ZC_OK);
    CHECK_EQ(h.entries, 0);
    CHECK_EQ(ld_read(&f.b, 4, &h), ZC_RETRY); /* from a log that has gone */
    CHECK_EQ(ld_version(&f.b, "a"), 1);
    CHECK_EQ(ld_version(&f.b, "x:y"), 2);
    CHECK_EQ(ld_version(&f.b, "x"), 0);
    CHECK_EQ(ld_version(&f.b, ""), 3);
    h.answer = ZC_E_NOMEM; /* the sink's answer is passed on */
    memset(&h, 0, sizeof h);
    h.answer = ZC_E_NOMEM;
    CHECK_EQ(f.b.read(f.b.user, 0, 0, &sink), ZC_E_NOMEM);
    CHECK_EQ(h.entries, 1);
    CHECK(identity(&f) != 0);
    check_whole(&f);
    stop(&f);
}

TEST(tags_of_every_length) {
    fixture f;
    heard h;
    enum { MOST = ZC_TAG_MAX + ZC_SEAL_TAG }; /* of the name of a tag, with a sealer */
    char tag[MOST + 1];
    zc_bytes many[100], t;
    zc_bus_sink sink = {ld_entry, &h};
    uint64_t sum = 0, versions[100];
    REQUIRE(start(&f, 0));
    memset(tag, 'q', sizeof tag);
    memset(&h, 0, sizeof h);
    for (size_t len = 1; len <= ZC_TAG_MAX; len++) {
        t = zc_slice(tag, len);
        sum += XXH3_64bits(tag, len);
        CHECK_EQ(f.b.append(f.b.user, &t, 1, false, len - 1, &sink), ZC_OK);
    }
    CHECK_EQ(h.entries, ZC_TAG_MAX);
    CHECK_EQ(h.sum, sum);
    CHECK_EQ(ld_read(&f.b, 0, &h), ZC_OK);
    CHECK_EQ(h.sum, sum);
    for (size_t len = 1; len <= ZC_TAG_MAX; len++) {
        t = zc_slice(tag, len);
        CHECK_EQ(f.b.versions(f.b.user, &t, 1, versions), ZC_OK);
        CHECK_EQ(versions[0], len);
    }
    t = zc_slice(tag, MOST + 1);
    CHECK_EQ(f.b.append(f.b.user, &t, 1, false, 0, &sink), ZC_E_INVAL);
    t = zc_slice(tag, MOST);
    CHECK_EQ(f.b.append(f.b.user, &t, 1, false, ZC_TAG_MAX, &sink), ZC_OK);
    CHECK_EQ(f.b.versions(f.b.user, &t, 1, versions), ZC_OK);
    CHECK_EQ(versions[0], ZC_TAG_MAX + 1);
    for (size_t i = 0; i < 100; i++) many[i] = zc_slice(tag, i + 1);
    memset(&h, 0, sizeof h);
    CHECK_EQ(f.b.append(f.b.user, many, 100, false, ZC_TAG_MAX + 1, &sink), ZC_OK);
    CHECK_EQ(h.tags, 100);
    CHECK_EQ(f.b.versions(f.b.user, many, 100, versions), ZC_OK);
    for (size_t i = 0; i < 100; i++) CHECK_EQ(versions[i], ZC_TAG_MAX + 2);
    stop(&f);
}

TEST(a_reader_behind_the_trim_begins_anew) {
    enum { N = ZC__LMDB_LOG + 500 };
    fixture f;
    heard h, all;
    zc_bytes t = zc_str("t");
    zc_bus_sink sink = {ld_entry, &all};
    REQUIRE(start(&f, 0));
    memset(&all, 0, sizeof all);
    for (uint64_t i = 0; i < N; i++) CHECK_EQ(f.b.append(f.b.user, &t, 1, false, i, &sink), ZC_OK);
    CHECK_EQ(all.entries, N);
    CHECK_EQ(entries(&f, ZC__LMDB_ENTRIES), ZC__LMDB_LOG);
    CHECK_EQ(ld_read(&f.b, 0, &h), ZC_RETRY);
    CHECK_EQ(h.entries, 0);
    CHECK_EQ(ld_read(&f.b, N - ZC__LMDB_LOG - 1, &h), ZC_RETRY);
    CHECK_EQ(ld_read(&f.b, N - ZC__LMDB_LOG, &h), ZC_MORE);
    CHECK_EQ(h.entries, ZC__LMDB_READ);
    uint64_t at = h.last;
    size_t n = h.entries;
    int rc = ZC_MORE;
    while (rc == ZC_MORE) {
        rc = ld_read(&f.b, at, &h);
        CHECK_EQ(h.first, at + 1);
        at = h.last;
        n += h.entries;
    }
    CHECK_EQ(rc, ZC_OK);
    CHECK_EQ(n, ZC__LMDB_LOG);
    check_whole(&f);
    stop(&f);
}

TEST(large_entries_trim_the_log_sooner) {
    enum { TAGS = 60 };
    fixture f;
    heard h;
    static char text[TAGS][ZC_TAG_MAX];
    zc_bytes tags[TAGS];
    zc_bus_sink sink = {ld_entry, &h};
    REQUIRE(start(&f, 8 * MIB));
    memset(text, 'l', sizeof text);
    for (size_t i = 0; i < TAGS; i++) {
        text[i][0] = (char)('0' + i);
        tags[i] = zc_slice(text[i], ZC_TAG_MAX);
    }
    for (uint64_t i = 0; i < 200; i++) {
        memset(&h, 0, sizeof h);
        CHECK_EQ(f.b.append(f.b.user, tags, TAGS, false, i, &sink), ZC_OK);
        CHECK_EQ(h.entries, 1);
    }
    CHECK(entries(&f, ZC__LMDB_ENTRIES) < 10);
    check_whole(&f);
    stop(&f);
}

/* A version may be too high, never too low; and no more paths are kept than two generations. */
TEST(versions_have_a_floor) {
    enum { N = 6000 };
    fixture f;
    static uint64_t at[N];
    char tag[16];
    uint64_t root;
    size_t exact = 0;
    REQUIRE(start(&f, 8 * MIB)); /* 2048 paths a generation */
    CHECK_EQ(db(&f)->tags, 2048);
    CHECK_EQ(ld_append(&f.b, NULL, &root), ZC_OK);
    for (unsigned i = 0; i < N; i++) {
        snprintf(tag, sizeof tag, "t:%u", i);
        CHECK_EQ(ld_append(&f.b, tag, &at[i]), ZC_OK);
        if (i % 100 == 0) CHECK_EQ(ld_append(&f.b, "hot", &at[0]), ZC_OK);
    }
    CHECK(entries(&f, ZC__LMDB_TAGS0) + entries(&f, ZC__LMDB_TAGS1) <= 2 * 2048);
    for (unsigned i = 1; i < N; i++) {
        snprintf(tag, sizeof tag, "t:%u", i);
        CHECK(ld_version(&f.b, tag) >= at[i]);
        exact += ld_version(&f.b, tag) == at[i];
    }
    CHECK(exact >= 2048);
    CHECK_EQ(ld_version(&f.b, "hot"), at[0]);
    CHECK_EQ(ld_version(&f.b, ""), root);
    CHECK(ld_version(&f.b, "never") > 0 && ld_version(&f.b, "never") < at[N - 2048]);
    shut(&f);
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    for (unsigned i = 1; i < N; i++) {
        snprintf(tag, sizeof tag, "t:%u", i);
        CHECK(ld_version(&f.b, tag) >= at[i]);
    }
    stop(&f);
}

TEST(read_waits_and_wakes) {
    fixture f;
    heard h;
    zc_bus_sink sink = {ld_entry, &h};
    REQUIRE(start(&f, 0));
    memset(&h, 0, sizeof h);
    f.b.wake(f.b.user);
    CHECK_EQ(f.b.read(f.b.user, 0, ZC_NEVER, &sink), ZC_OK); /* the clock stands still */
    CHECK_EQ(f.b.read(f.b.user, 0, ZC_NEVER, &sink), ZC_OK);
    CHECK_EQ(f.b.read(f.b.user, 0, 0, &sink), ZC_OK);
    pid_t child = fork();
    if (child == 0) {
        uint64_t at;
        f.b.forked(f.b.user);
        leave(ld_append(&f.b, "late", &at) == ZC_OK);
    }
    CHECK_EQ(f.b.read(f.b.user, 0, ZC_NEVER, &sink), ZC_OK);
    CHECK_EQ(h.entries, 1);
    CHECK_STR(h.text, "late");
    int status = 1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    stop(&f);
}

/* ---- locks of the fleet ---- */

typedef struct lists {
    unsigned n;
    uint64_t ids;  /* the sum */
    size_t tags;
    int rc;
} lists;

static int take_list(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    lists *l = (lists *)user;
    l->n++;
    l->ids += id;
    l->tags += n;
    CHECK(n > 0 && tags[0].len == 4 && memcmp(tags[0].ptr, "mark", 4) == 0);
    return l->rc;
}

TEST(holds_are_kept_beside_the_log) {
    fixture f;
    if (!start(&f, 0)) return;
    lists l = {0, 0, 0, ZC_OK};
    zc_bus_sink sink = {take_list, &l};
    zc_bytes list[2] = {zc_str("mark"), zc_str("t:1")};
    CHECK_EQ(f.b.holds(f.b.user, &sink), ZC_OK);
    CHECK_EQ(f.b.hold(f.b.user, 7, list, 2), ZC_OK);
    CHECK_EQ(f.b.hold(f.b.user, UINT64_C(1) << 60, list, 1), ZC_OK);
    shut(&f);
    CHECK_EQ(again(&f), ZC_OK);
    CHECK_EQ(f.b.holds(f.b.user, &sink), ZC_OK);
    CHECK_EQ(l.n, 2);
    CHECK_EQ(l.ids, 7 + (UINT64_C(1) << 60));
    CHECK_EQ(l.tags, 3);
    CHECK_EQ(f.b.hold(f.b.user, 7, NULL, 0), ZC_OK);
    CHECK_EQ(f.b.hold(f.b.user, 7, NULL, 0), ZC_OK); /* was gone */
    l = (lists){0, 0, 0, ZC_E_NOMEM};
    CHECK_EQ(f.b.holds(f.b.user, &sink), ZC_E_NOMEM);
    CHECK_EQ(l.n, 1);
    stop(&f);
}

TEST(locks_are_held_renewed_lost_and_swept) {
    fixture f;
    uint64_t a = 0, b = 0, c = 0;
    zc_bytes key = zc_str("k");
    REQUIRE(start(&f, 0));
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &a), ZC_OK);
    CHECK(a != 0);
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &b), ZC_MISS);
    CHECK_EQ(b, 0);
    CHECK_EQ(f.s.lock(f.s.user, zc_str(""), ZC_SECOND, &b), ZC_OK); /* another key */
    zct_step(&f.time, 900 * ZC_MILLISECOND);
    c = a;
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &c), ZC_OK); /* renewed */
    CHECK_EQ(c, a);
    zct_step(&f.time, 900 * ZC_MILLISECOND);
    c = 0;
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &c), ZC_MISS);
    zct_step(&f.time, 200 * ZC_MILLISECOND);
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &c), ZC_OK); /* it has ended */
    CHECK(c > a && c > b);
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &a), ZC_MISS); /* lost */
    CHECK_EQ(f.s.unlock(f.s.user, key, a), ZC_MISS);
    CHECK_EQ(f.s.unlock(f.s.user, key, c), ZC_OK);
    CHECK_EQ(f.s.unlock(f.s.user, key, c), ZC_MISS);
    a = 0;
    CHECK_EQ(f.s.lock(f.s.user, key, ZC_SECOND, &a), ZC_OK);
    for (unsigned i = 0; i < 1000; i++) { /* holders that never unlock */
        char name[16];
        snprintf(name, sizeof name, "dead%u", i);
        a = 0;
        CHECK_EQ(f.s.lock(f.s.user, zc_str(name), ZC_MILLISECOND, &a), ZC_OK);
        zct_step(&f.time, 10 * ZC_MILLISECOND);
    }
    CHECK(entries(&f, ZC__LMDB_LOCKS) < 200);
    stop(&f);
}

/* ---- restarts, processes ---- */

TEST(a_restart_is_warm_and_knows_what_was_invalidated) {
    fixture f;
    uint64_t at;
    heard h;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    CHECK_EQ(ld_append(&f.b, "t", &at), ZC_OK);
    uint64_t id = identity(&f);
    shut(&f);
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK_EQ(identity(&f), id);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    CHECK_EQ(tail(&f), at);
    CHECK_EQ(ld_version(&f.b, "t"), at);
    CHECK_EQ(ld_read(&f.b, 0, &h), ZC_OK);
    CHECK_EQ(h.entries, 1);
    CHECK_EQ(ld_append(&f.b, "t", &at), ZC_OK);
    CHECK_EQ(at, 2);
    stop(&f);
}

static void set_claim(fixture *f, size_t i, char c) {
    char name[128];
    FILE *file = fopen(ld_file(&f->dir, "zoocache", name), "r+b");
    if (!CHECK(file)) return;
    fseek(file, (long)i, SEEK_SET);
    fputc(c, file);
    fclose(file);
}

TEST(another_boot_begins_empty_unless_synced) {
    fixture f;
    REQUIRE(start(&f, 0));
    uint64_t id = identity(&f);
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    shut(&f);
    set_claim(&f, 9, '?'); /* the boot's id */
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK(identity(&f) != id);
    CHECK_EQ(get(&f, "a", ""), ZC_MISS);
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    id = identity(&f);
    shut(&f);
    f.d.sync = true;
    REQUIRE(CHECK_EQ(again(&f), ZC_OK)); /* too late: some of it is not on disk */
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    shut(&f);
    set_claim(&f, 9, '?');
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK(identity(&f) != id);
    CHECK_EQ(put(&f, "a", "y", 0), ZC_OK);
    id = identity(&f);
    shut(&f);
    set_claim(&f, 9, '?');
    REQUIRE(CHECK_EQ(again(&f), ZC_OK)); /* synced from its first byte on */
    CHECK_EQ(identity(&f), id);
    CHECK_EQ(get(&f, "a", "y"), ZC_OK);
    stop(&f);
}

TEST(a_process_opens_a_directory_once) {
    fixture f;
    zc_store s;
    zc_bus b;
    REQUIRE(start(&f, 0));
    CHECK_EQ(zc_lmdb_open(&f.d, &s, &b), ZC_E_INVAL);
    CHECK_EQ(s.version, 0);
    CHECK_EQ(b.version, 0);
    CHECK(strstr(f.said, "already") != NULL);
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK); /* and harms nothing */
    pid_t child = fork();
    if (child == 0) {
        f.s.forked(f.s.user);
        f.b.forked(f.b.user);
        bool good = get(&f, "a", "x") == ZC_OK && put(&f, "a", "child", 0) == ZC_OK;
        good = good && zc_lmdb_open(&f.d, &s, &b) == ZC_E_INVAL;
        f.s.close(f.s.user);
        f.b.close(f.b.user);
        leave(good);
    }
    int status = 1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(get(&f, "a", "child"), ZC_OK); /* the parent's slots are still its own */
    CHECK_EQ(zc_lmdb_open(&f.d, &s, &b), ZC_E_INVAL);
    check_whole(&f);
    stop(&f);
}

TEST(processes_agree_at_once) {
    enum { N = 300 };
    fixture f;
    int to[2], from[2], status = 1;
    char c = 0;
    REQUIRE(start(&f, 0));
    shut(&f);
    REQUIRE(pipe(to) == 0 && pipe(from) == 0);
    pid_t child = fork();
    if (child == 0) {
        bool good = again(&f) == ZC_OK;
        for (unsigned i = 0; i < N && read(to[0], &c, 1) == 1; i++) {
            uint64_t at = 0, p = 0;
            good = good && has_n(&f, i, 100) == ZC_OK;
            good = good && ld_append(&f.b, "t", &at) == ZC_OK && at == i + 1;
            good = good && f.b.peek(f.b.user, &p) == ZC_OK && p == at;
            if (write(from[1], &c, 1) != 1) break;
        }
        f.s.close(f.s.user);
        f.b.close(f.b.user);
        _exit(good ? 0 : 1);
    }
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    for (unsigned i = 0; i < N; i++) {
        uint64_t p = 0;
        CHECK_EQ(put_n(&f, i, 100), ZC_OK);
        REQUIRE(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1);
        CHECK_EQ(f.b.peek(f.b.user, &p), ZC_OK);
        CHECK_EQ(p, i + 1);
        CHECK_EQ(ld_version(&f.b, "t"), i + 1);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    for (size_t i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
    check_whole(&f);
    stop(&f);
}

/* A process that dies while it reads leaves its slot, and with it every page that it saw. */
TEST(readers_that_died_are_cleared) {
    fixture f;
    int ready[2], status;
    char c = 0;
    REQUIRE(start(&f, 8 * MIB));
    for (unsigned i = 0; i < 500; i++) CHECK_EQ(put_n(&f, i, 3000), ZC_OK);
    REQUIRE(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        zc__lmdb_rd r;
        f.s.forked(f.s.user);
        if (zc__lmdb_begin(db(&f), &r) != ZC_OK || write(ready[1], &c, 1) != 1) _exit(1);
        for (;;) pause();
    }
    REQUIRE(read(ready[0], &c, 1) == 1);
    kill(child, SIGKILL);
    CHECK_EQ(waitpid(child, &status, 0), child);
    for (unsigned i = 0; i < 2000; i++)
        if (!CHECK_EQ(put_n(&f, i, 3000), ZC_OK)) break;
    check_whole(&f);
    close(ready[0]);
    close(ready[1]);
    stop(&f);
}

TEST(a_stopped_writer_is_not_waited_for) {
    fixture f;
    int ready[2], status;
    char c = 0;
    uint64_t at;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    REQUIRE(pipe(ready) == 0);
    pid_t child = fork();
    if (child == 0) {
        f.s.forked(f.s.user);
        if (zc__lmdb_enter(db(&f)) != ZC_OK || write(ready[1], &c, 1) != 1) _exit(1);
        for (;;) pause();
    }
    REQUIRE(read(ready[0], &c, 1) == 1);
    kill(child, SIGSTOP);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK); /* readers go on */
    CHECK_EQ(put(&f, "a", "y", 0), ZC_E_TIMEOUT);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    kill(child, SIGKILL);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(put(&f, "a", "y", 0), ZC_OK);
    CHECK_EQ(ld_append(&f.b, "t", &at), ZC_OK);
    check_whole(&f);
    close(ready[0]);
    close(ready[1]);
    stop(&f);
}

static void *put_busily(void *user) {
    fixture *f = (fixture *)user;
    CHECK_EQ(put(f, "a", "y", 0), ZC_E_BUSY);
    return NULL;
}

/* Each call waits for itself, not for those before it to have waited. */
TEST(a_thread_that_waits_for_a_writer_does_not_keep_the_others) {
    fixture f;
    pthread_t t;
    REQUIRE(start(&f, 0));
    CHECK_EQ(zc__lmdb_enter(db(&f)), ZC_OK);
    REQUIRE(pthread_create(&t, NULL, put_busily, &f) == 0);
    pthread_join(t, NULL); /* while the lock is held */
    zc__lmdb_leave(db(&f));
    CHECK_EQ(put(&f, "a", "z", 0), ZC_OK);
    check_whole(&f);
    stop(&f);
}

TEST(more_readers_at_once_than_slots) {
    fixture f;
    zc__lmdb_rd r[ZC__LMDB_SLOTS + 5];
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    for (size_t i = 0; i < ZC__LMDB_SLOTS + 5; i++) CHECK_EQ(zc__lmdb_begin(db(&f), &r[i]), ZC_OK);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    for (size_t i = 0; i < ZC__LMDB_SLOTS + 5; i++) zc__lmdb_end(&r[i]);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK);
    stop(&f);
}

TEST(a_file_that_was_replaced_is_not_believed) {
    fixture f;
    char name[128], other[128];
    uint64_t p;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_OK);
    CHECK_EQ(rename(ld_file(&f.dir, "data.mdb", name), ld_file(&f.dir, "moved", other)), 0);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_E_STORE);
    f.b.report(f.b.user);
    CHECK(strstr(f.said, "removed, replaced") != NULL);
    CHECK_EQ(get(&f, "a", "x"), ZC_E_STORE);
    CHECK_EQ(put(&f, "a", "x", 0), ZC_E_STORE);
    CHECK_EQ(f.b.peek(f.b.user, &p), ZC_E_STORE);
    unlink(other);
    stop(&f);
}

TEST(a_file_that_was_cut_is_not_read) {
    fixture f;
    char name[128];
    REQUIRE(start(&f, 0));
    for (unsigned i = 0; i < 500; i++) CHECK_EQ(put_n(&f, i, 1000), ZC_OK);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_OK);
    CHECK_EQ(truncate(ld_file(&f.dir, "data.mdb", name), 8192), 0);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_E_STORE);
    f.b.report(f.b.user);
    CHECK(strstr(f.said, "cut") != NULL);
    CHECK_EQ(has_n(&f, 7, 1000), ZC_E_STORE);
    stop(&f);
}

typedef struct meddler {
    zc_cache *c;
    unsigned said;
    bool forking, good;
} meddler;

static void meddle(void *user, zc_log_level level, const char *message) {
    meddler *m = (meddler *)user;
    zc_view v;
    (void)level;
    m->said++;
    bool good = !m->forking && CHECK(strstr(message, "path/zoocache cannot be opened"));
    good = good && CHECK_EQ(zc_get(m->c, zc_str("k"), &v), ZC_MISS) &&
           CHECK_EQ(zc_put(m->c, zc_str("k"), zc_str("w"), NULL), ZC_OK) &&
           CHECK_EQ(zc_invalidate(m->c, zc_str("t")), ZC_E_BUS) && CHECK(zc_poll(m->c, 0) >= 0);
    m->good = m->good && good;
}

/* A child that cannot open the file says so when it is whole again, not on the way. */
TEST(a_log_hook_uses_the_cache_of_a_child) {
    fixture f;
    meddler m = {NULL, 0, false, true};
    zc_desc d = {.no_thread = true};
    char moved[160];
    int status = 1;
    REQUIRE(start(&f, 0));
    shut(&f);
    zc_lmdb_desc l = {.path = f.dir.path, .log = {1, meddle, &m}};
    REQUIRE(zc_lmdb_open(&l, &d.store, &d.bus) == ZC_OK && zc_open(&d, &m.c) == ZC_OK);
    snprintf(moved, sizeof moved, "%s.moved", f.dir.path);
    REQUIRE(rename(f.dir.path, moved) == 0);
    close(open(f.dir.path, O_CREAT | O_RDWR, 0600)); /* a file in its place */
    zc_fork_prepare(m.c);
    pid_t child = fork();
    if (child == 0) {
        m.forking = true;
        CHECK_EQ(zc_fork_child(m.c), ZC_OK);
        m.forking = false;
        CHECK(zc_poll(m.c, 0) >= 0);
        leave(CHECK(m.said > 0 && m.good) && CHECK_EQ(zc_check(m.c), ZC_OK));
    }
    zc_fork_parent(m.c);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    unlink(f.dir.path);
    CHECK_EQ(rename(moved, f.dir.path), 0);
    CHECK_EQ(m.said, 0); /* the parent has nothing to say */
    zc_close(m.c);
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    stop(&f);
}

/* ---- a limit of entries ---- */

TEST(a_limit_of_entries_holds) {
    fixture f;
    REQUIRE(start(&f, 0));
    shut(&f);
    f.d.max_entries = 10;
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    for (unsigned i = 0; i < 200; i++) {
        CHECK_EQ(put_n(&f, i, 100), ZC_OK);
        CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), i < 10 ? i + 1 : 10);
        CHECK_EQ(has_n(&f, i, 100), ZC_OK); /* not the newest gives way */
    }
    for (unsigned i = 0; i < 190; i++) CHECK_EQ(has_n(&f, i, 100), ZC_MISS);
    CHECK_EQ(put_n(&f, 195, 100), ZC_OK); /* in place of another of the same key */
    for (unsigned i = 190; i < 200; i++) CHECK_EQ(has_n(&f, i, 100), ZC_OK);
    check_whole(&f);
    /* What is used stays: all others come and go. */
    for (unsigned i = 0; i < 50; i++) {
        CHECK_EQ(has_n(&f, 195, 100), ZC_OK);
        CHECK_EQ(put_n(&f, 1000 + i, 100), ZC_OK);
        CHECK_EQ(has_n(&f, 1000 + i, 100), ZC_OK);
    }
    CHECK_EQ(has_n(&f, 195, 100), ZC_OK);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 10);
    check_whole(&f);
    stop(&f);
}

TEST(what_has_ended_gives_way_first) {
    fixture f;
    REQUIRE(start(&f, 0));
    shut(&f);
    f.d.max_entries = 10;
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    for (unsigned i = 0; i < 5; i++) CHECK_EQ(put_n(&f, i, 100), ZC_OK);
    for (unsigned i = 0; i < 5; i++) {
        char key[8];
        snprintf(key, sizeof key, "e%u", i);
        CHECK_EQ(put(&f, key, "x", MS + 5), ZC_OK);
    }
    f.time.wall += 10 * ZC_MILLISECOND;
    for (unsigned i = 5; i < 10; i++) CHECK_EQ(put_n(&f, i, 100), ZC_OK);
    for (unsigned i = 0; i < 10; i++) CHECK_EQ(has_n(&f, i, 100), ZC_OK);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 10);
    check_whole(&f);
    stop(&f);
}

TEST(a_file_with_too_many_entries_comes_down) {
    fixture f;
    REQUIRE(start(&f, 0));
    for (unsigned i = 0; i < 1000; i++) CHECK_EQ(put_n(&f, i, 10), ZC_OK);
    shut(&f);
    f.d.max_entries = 100;
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_OK);
    CHECK_EQ(put_n(&f, 1000, 10), ZC_OK);
    CHECK(entries(&f, ZC__LMDB_RECORDS) <= 1000 - ZC__LMDB_NOTES);
    CHECK_EQ(f.b.beat(f.b.user, zc_str("")), ZC_OK);
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 100);
    CHECK_EQ(has_n(&f, 1000, 10), ZC_OK);
    check_whole(&f);
    stop(&f);
}

/* Two processes at once: neither counts for itself. */
TEST(a_limit_of_entries_is_of_all_processes) {
    fixture f;
    REQUIRE(start(&f, 0));
    shut(&f);
    f.d.max_entries = 100;
    pid_t pids[2];
    for (unsigned p = 0; p < 2; p++) {
        if ((pids[p] = fork()) != 0) continue;
        bool good = again(&f) == ZC_OK;
        for (unsigned i = 0; i < 400 && good; i++)
            good = put_n(&f, 400 * p + i, 10) == ZC_OK && entries(&f, ZC__LMDB_RECORDS) <= 100;
        f.s.close(f.s.user);
        f.b.close(f.b.user);
        leave(good);
    }
    for (unsigned p = 0; p < 2; p++) {
        int status;
        CHECK(waitpid(pids[p], &status, 0) == pids[p] && status == 0);
    }
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    CHECK_EQ(entries(&f, ZC__LMDB_RECORDS), 100);
    check_whole(&f);
    stop(&f);
}

/* ---- what cannot be opened ---- */

static void write_file(fixture *f, const char *file, const void *data, size_t len) {
    char name[128];
    FILE *out = fopen(ld_file(&f->dir, file, name), "wb");
    if (!CHECK(out)) return;
    CHECK_EQ(fwrite(data, 1, len, out), len);
    fclose(out);
}

TEST(hostile_files_are_told_and_left) {
    fixture f;
    static unsigned char noise[65536];
    char name[128];
    REQUIRE(start(&f, 0));
    shut(&f);
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (unsigned char)zct_rand();
    write_file(&f, "data.mdb", noise, sizeof noise);
    CHECK_EQ(again(&f), ZC_E_CORRUPT);
    CHECK_EQ(f.s.version, 0);
    CHECK(f.said[0] != '\0');
    CHECK_EQ(access(ld_file(&f.dir, "data.mdb", name), F_OK), 0);
    write_file(&f, "data.mdb", noise, 100);
    CHECK_EQ(again(&f), ZC_E_CORRUPT);
    ld_remove(&f.dir); /* LMDB's file, but somebody else's: there is no path/zoocache */
    REQUIRE(ld_make(&f.dir));
    write_file(&f, "data.mdb", "x", 1);
    CHECK_EQ(again(&f), ZC_E_CORRUPT);
    CHECK(strstr(f.said, "not of this library") != NULL);
    CHECK_EQ(f.mem.blocks, 0);
    ld_remove(&f.dir);
}

static int spoil(zc__lmdb_tx *t, void *arg) {
    t->meta[ZC__LMDB_FORMAT] ^= *(uint64_t *)arg;
    return ZC_OK;
}

static int write_number(zc__lmdb_tx *t, void *arg) {
    const uint64_t *number = (const uint64_t *)arg;
    t->meta[number[0]] = number[1];
    return ZC_OK;
}

TEST(absurd_numbers_are_damage) {
    static const uint64_t bad[][2] = {
        {ZC__LMDB_TAIL, ZC__POSITION_MAX + 1}, {ZC__LMDB_TAIL, UINT64_MAX},
        {ZC__LMDB_FLOOR, 2},                   {ZC__LMDB_FLOOR, UINT64_MAX},
        {ZC__LMDB_SWAPPED, UINT64_MAX},        {ZC__LMDB_ROOT, UINT64_MAX - 1},
        {ZC__LMDB_STAMP, UINT64_MAX},          {ZC__LMDB_TOKEN, UINT64_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fixture f;
        uint64_t identity, at, number[2] = {bad[i][0], bad[i][1]};
        if (!start(&f, 0)) return;
        zc_bytes tag = zc_str("t");
        zc_bus_sink none = {NULL, NULL};
        CHECK_EQ(zc__lmdb_write((zc__lmdb *)f.b.user, write_number, number), ZC_OK);
        CHECK_EQ(f.b.attach(f.b.user, &identity, &at), ZC_E_CORRUPT);
        CHECK_EQ(f.b.append(f.b.user, &tag, 1, false, 0, &none), ZC_E_CORRUPT);
        CHECK_EQ(put(&f, "k", "v", 0), ZC_E_CORRUPT);
        shut(&f);
        CHECK_EQ(again(&f), ZC_E_CORRUPT); /* and told when it is opened */
        CHECK(strstr(f.said, "damaged") != NULL);
        ld_remove(&f.dir);
    }
}

TEST(another_format_is_told) {
    fixture f;
    uint64_t bit = 2;
    uint64_t p;
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    CHECK_EQ(zc__lmdb_write(db(&f), spoil, &bit), ZC_OK);
    CHECK_EQ(put(&f, "a", "y", 0), ZC_E_CORRUPT);
    CHECK_EQ(f.b.peek(f.b.user, &p), ZC_E_CORRUPT);
    shut(&f);
    CHECK_EQ(again(&f), ZC_E_CORRUPT);
    CHECK(strstr(f.said, "another version") != NULL);
    CHECK_EQ(f.mem.blocks, 0);
    ld_remove(&f.dir);
}

TEST(somebody_elses_environment_is_left_alone) {
    fixture f;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val key = zc__lmdb_val("theirs", 6), value = zc__lmdb_val("1", 1);
    char name[128];
    REQUIRE(start(&f, 0));
    shut(&f);
    unlink(ld_file(&f.dir, "data.mdb", name));
    CHECK_EQ(mdb_env_create(&env), 0);
    CHECK_EQ(mdb_env_open(env, f.dir.path, 0, 0600), 0);
    CHECK_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
    CHECK_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    CHECK_EQ(mdb_put(txn, dbi, &key, &value, 0), 0);
    CHECK_EQ(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    CHECK_EQ(again(&f), ZC_E_CORRUPT);
    ld_remove(&f.dir);
}

/* A file that lost its end: LMDB would map what is not there. */
TEST(a_file_cut_short_is_corrupt_not_a_crash) {
    for (unsigned pages = 2; pages < 200; pages += 9) {
        fixture f;
        char name[128];
        REQUIRE(start(&f, 8 * MIB));
        for (unsigned i = 0; i < 500; i++) CHECK_EQ(put_n(&f, i, 1000), ZC_OK);
        shut(&f);
        CHECK_EQ(truncate(ld_file(&f.dir, "data.mdb", name), (off_t)pages * 4096), 0);
        int rc = again(&f);
        CHECK(rc == ZC_OK || rc == ZC_E_CORRUPT);
        if (rc == ZC_OK) {
            for (unsigned i = 0; i < 500; i++) {
                rc = has_n(&f, i, 1000);
                CHECK(rc == ZC_OK || rc == ZC_MISS || rc == ZC_E_CORRUPT);
            }
            shut(&f);
        }
        CHECK_EQ(f.mem.blocks, 0);
        ld_remove(&f.dir);
    }
}

/* ---- a disk that is full, or must not be written */

/* As on a full disk: no file may become larger than this. */
static void limit_files(rlim_t size) {
    struct rlimit l;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &l), 0);
    l.rlim_cur = size;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static uint64_t full_calls;
static int load_full(zc_fill *fill, void *user) {
    (void)user;
    full_calls++;
    return zc_fill_value(fill, zc_str("loaded"));
}

static unsigned lines_full;
static void count_full(void *user, zc_log_level level, const char *message) {
    (void)level;
    lines_full += strstr(message, "cannot be written") != NULL;
    snprintf(((fixture *)user)->said, 256, "%s", message);
}

TEST(a_full_disk_is_told_loses_nothing_and_passes) {
    fixture f;
    unsigned n = 0, kept = 0;
    uint64_t at;
    REQUIRE(start(&f, 64 * MIB));
    shut(&f);
    lines_full = 0;
    f.d.path = f.dir.path;
    f.d.log.write = count_full;
    REQUIRE(zc_lmdb_open(&f.d, &f.s, &f.b) == ZC_OK);
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQ(put(&f, "old", "value", 0), ZC_OK);
    CHECK_EQ(ld_append(&f.b, "t:1", &at), ZC_OK);
    limit_files((rlim_t)MIB);
    while (n < 1000 && put_n(&f, n, 20000) == ZC_OK) n++;
    CHECK(n > 10);
    limit_files(0); /* nor is there a page to be had of what was freed */
    CHECK_EQ(put_n(&f, n, 200000), ZC_E_FULL);
    f.s.report(f.s.user);
    CHECK_EQ(lines_full, 1); /* however many have failed */
    CHECK(strstr(f.said, "full") || strstr(f.said, "File too large"));
    for (unsigned i = 0; i < n; i++) kept += has_n(&f, i, 20000) == ZC_OK;
    CHECK(kept > 0);
    CHECK_EQ(tail(&f), at); /* what was acknowledged is there */
    limit_files(RLIM_INFINITY);
    CHECK_EQ(put_n(&f, n, 200000), ZC_OK);
    CHECK_EQ(has_n(&f, n, 200000), ZC_OK);
    CHECK_EQ(ld_append(&f.b, "t:2", &at), ZC_OK);
    CHECK_EQ(tail(&f), at);
    shut(&f);
    CHECK_EQ(again(&f), ZC_OK);
    CHECK_EQ(has_n(&f, n, 200000), ZC_OK);
    stop(&f);
}

TEST(a_cache_over_a_full_disk_goes_on) {
    fixture f;
    zc_desc d;
    zc_cache *c;
    zc_view v;
    char key[16];
    REQUIRE(start(&f, 64 * MIB));
    memset(&d, 0, sizeof d);
    d.store = f.s;
    d.bus = f.b;
    d.no_thread = true;
    d.clock = f.d.clock;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    signal(SIGXFSZ, SIG_IGN);
    limit_files(0);
    full_calls = 0;
    for (unsigned i = 0; i < 50; i++) {
        snprintf(key, sizeof key, "k%u", i);
        CHECK_EQ(zc_fetch(c, zc_str(key), load_full, NULL, NULL, &v), ZC_OK);
        CHECK(v.size == 6 && memcmp(v.data, "loaded", 6) == 0);
        zc_release(c, &v);
    }
    CHECK_EQ(full_calls, 50);
    limit_files(RLIM_INFINITY);
    zc_close(c);
    CHECK_EQ(f.mem.blocks, 0);
    ld_remove(&f.dir);
}

TEST(a_full_disk_refuses_a_new_file) {
    fixture f;
    memset(&f, 0, sizeof f);
    REQUIRE(ld_make(&f.dir));
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t size = 0; size < 400000; size += 20000) {
        limit_files(size);
        int rc = again(&f);
        limit_files(RLIM_INFINITY);
        if (rc == ZC_OK) {
            CHECK(size >= 4096 + 64 * ZC__LMDB_READERS); /* all of the lock file, from the first */
            shut(&f);
        } else {
            CHECK_EQ(rc, ZC_E_FULL);
            CHECK(strstr(f.said, "File too large") != NULL);
        }
        CHECK_EQ(f.mem.blocks, 0);
    }
    CHECK_EQ(again(&f), ZC_OK);
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    stop(&f);
}

/* As nobody, whom the directory does not belong to: for root nothing is read-only. */
static int open_as_nobody(fixture *f) {
    bool root = geteuid() == 0;
    if (root) CHECK_EQ(seteuid(65534), 0);
    int rc = again(f);
    if (root) CHECK_EQ(seteuid(0), 0);
    return rc;
}

TEST(what_must_not_be_written_is_told_and_left) {
    fixture f;
    char file[128];
    REQUIRE(start(&f, 0));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    shut(&f);
    /* The directory, and all in it. */
    static const char *const names[] = {"zoocache", "data.mdb", "lock.mdb"};
    for (size_t i = 0; i < 3; i++) CHECK_EQ(chmod(ld_file(&f.dir, names[i], file), 0444), 0);
    CHECK_EQ(chmod(f.dir.path, 0555), 0);
    CHECK_EQ(open_as_nobody(&f), ZC_E_STORE);
    CHECK(strstr(f.said, "Permission denied") != NULL);
    CHECK_EQ(f.mem.blocks, 0);
    /* Each of its files alone. */
    CHECK_EQ(chmod(f.dir.path, 0777), 0);
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < 3; i++)
            CHECK_EQ(chmod(ld_file(&f.dir, names[i], file), i == k ? 0444 : 0666), 0);
        CHECK_EQ(open_as_nobody(&f), ZC_E_STORE);
        CHECK(strstr(f.said, "Permission denied") != NULL);
        CHECK_EQ(f.mem.blocks, 0);
    }
    for (size_t i = 0; i < 3; i++) CHECK_EQ(chmod(ld_file(&f.dir, names[i], file), 0600), 0);
    CHECK_EQ(again(&f), ZC_OK);
    CHECK_EQ(get(&f, "a", "x"), ZC_OK); /* nothing is lost */
    stop(&f);
}

TEST(bad_arguments_and_places) {
    fixture f;
    zc_store s;
    zc_bus b;
    zc_lmdb_desc d;
    memset(&f, 0, sizeof f);
    memset(&d, 0, sizeof d);
    CHECK_EQ(zc_lmdb_open(NULL, &s, &b), ZC_E_INVAL);
    CHECK_EQ(zc_lmdb_open(&d, &s, &b), ZC_E_INVAL);
    d.path = "";
    CHECK_EQ(zc_lmdb_open(&d, &s, &b), ZC_E_INVAL);
    d.path = "/nonexistent/directory";
    CHECK_EQ(zc_lmdb_open(&d, &s, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_lmdb_open(&d, NULL, &b), ZC_E_INVAL);
    CHECK_EQ(zc_lmdb_open(&d, &s, &b), ZC_E_STORE);
    CHECK_EQ(s.version + b.version, 0);
    d.path = "/dev/null";
    CHECK_EQ(zc_lmdb_open(&d, &s, &b), ZC_E_STORE);
    d.map_size = 4096;
    CHECK_EQ(zc_lmdb_open(&d, &s, &b), ZC_E_INVAL);
    REQUIRE(ld_make(&f.dir));
    f.mem.fail_at = 1;
    CHECK_EQ(again(&f), ZC_E_NOMEM);
    f.mem.fail_at = 0;
    strcat(f.dir.path, "/deep"); /* made */
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    shut(&f);
    CHECK_EQ(again(&f), ZC_OK);
    stop(&f);
    f.dir.path[strlen(f.dir.path) - 5] = '\0';
    ld_remove(&f.dir);
}

TEST(an_existing_file_is_made_larger) {
    fixture f;
    MDB_envinfo info;
    REQUIRE(start(&f, 8 * MIB));
    CHECK_EQ(put(&f, "a", "x", 0), ZC_OK);
    shut(&f);
    f.d.map_size = 16 * MIB;
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    mdb_env_info(db(&f)->env, &info);
    CHECK_EQ(info.me_mapsize, 16 * MIB);
    for (unsigned i = 0; i < 3000; i++) CHECK_EQ(put_n(&f, i, 3000), ZC_OK);
    shut(&f);
    f.d.map_size = 8 * MIB; /* never smaller */
    REQUIRE(CHECK_EQ(again(&f), ZC_OK));
    mdb_env_info(db(&f)->env, &info);
    CHECK_EQ(info.me_mapsize, 16 * MIB);
    for (unsigned i = 0; i < 3000; i++) CHECK_EQ(put_n(&f, i, 3000), ZC_OK);
    check_whole(&f);
    stop(&f);
}
