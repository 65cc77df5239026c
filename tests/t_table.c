/* The hash table of a shard: B1 to B5, with chosen hashes; pins, limits, and the validator. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

static zct_mem mem;

static zc_cache *open_limits(size_t max_entries, size_t max_bytes, unsigned shards) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    memset(&mem, 0, sizeof mem);
    d.no_thread = true;
    d.shards = shards;
    d.seed = 99;
    d.max_entries = max_entries;
    d.max_bytes = max_bytes;
    d.allocator = zct_allocator(&mem);
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    return c;
}

/* ---- a table on its own, with hashes chosen by the test ---- */

enum { MANY = 1200 };
static zc__shard shard;
static zc__entry *made[MANY];
static uint64_t hash_of[MANY];
static bool in[MANY];

static zc_bytes name_of(unsigned i) {
    static char text[16];
    return zc_slice(text, (size_t)snprintf(text, sizeof text, "key-%u", i));
}

static void make_entries(zc_cache *c, unsigned n) {
    zc__life life;
    memset(&life, 0, sizeof life);
    life.ttl = ZC_NEVER;
    for (unsigned i = 0; i < n; i++) {
        made[i] = zc__entry_new(c, name_of(i), zc_str("v"), NULL, NULL, 0, &life, 1);
        if (!CHECK(made[i] != NULL)) exit(1);
        in[i] = false;
    }
}

static void drop_entries(zc_cache *c, unsigned n) {
    for (unsigned i = 0; i < n; i++) zc__entry_drop(c, made[i]);
}

static void table(uint32_t nbuckets) {
    memset(&shard, 0, sizeof shard);
    shard.table.nbuckets = shard.ready = nbuckets;
    shard.table.buckets = (zc__bucket *)calloc(nbuckets, sizeof(zc__bucket));
}

static uint64_t hash_for(uint32_t home, uint32_t nbuckets, unsigned char fp) {
    uint64_t middle = ((uint64_t)home << 32) / nbuckets + 1;
    return middle << 8 | fp;
}

static void link_one(unsigned i, uint64_t hash) {
    hash_of[i] = hash;
    zc__table_link(&shard, &shard.table, made[i], hash);
    in[i] = true;
}

static void unlink_one(unsigned i) {
    zc__table_unlink(&shard.table, made[i], hash_of[i]);
    in[i] = false;
}

/* B1 and B3, counted naively. */
static void check_table(unsigned n) {
    unsigned passed[600] = {0};
    if (!CHECK(shard.table.nbuckets <= 600)) exit(1);
    for (unsigned i = 0; i < n; i++) {
        CHECK((zc__table_find(&shard, hash_of[i], name_of(i)) == made[i]) == in[i]);
        if (!in[i]) continue;
        uint32_t b = zc__home_of(hash_of[i], shard.table.nbuckets);
        for (;; b = b + 1 == shard.table.nbuckets ? 0 : b + 1) {
            bool here = false;
            for (unsigned k = 0; k < ZC__SLOTS; k++) here |= shard.table.buckets[b].slot[k] == made[i];
            if (here) break;
            passed[b]++;
        }
    }
    for (uint32_t b = 0; b < shard.table.nbuckets; b++) {
        unsigned over = shard.table.buckets[b].fp[ZC__OVER];
        CHECK(over == 255 || over == passed[b]);
        if (passed[b] >= 255) CHECK_EQ(over, 255);
    }
}

TEST(home_buckets_cover_the_table_evenly) {
    for (uint32_t n = 1; n < 300; n += 7) {
        unsigned seen[300] = {0};
        for (unsigned i = 0; i < n * 100; i++) {
            uint32_t home = zc__home_of(zct_rand(), n);
            if (!CHECK(home < n)) return;
            seen[home]++;
        }
        for (uint32_t b = 0; b < n; b++) CHECK(seen[b] > 30 && seen[b] < 300);
        CHECK_EQ(zc__home_of(UINT64_MAX, n), n - 1);
        CHECK_EQ(zc__home_of(0, n), 0);
        for (uint32_t b = 0; b < n; b++) CHECK_EQ(zc__home_of(hash_for(b, n, 1), n), b);
    }
}

TEST(fingerprints_are_never_0) {
    for (unsigned h = 0; h < 256; h++) {
        CHECK(zc__fp_of(h) != 0);
        if (h) CHECK_EQ(zc__fp_of(h), h);
    }
}

TEST(matching_finds_every_slot_of_a_bucket) {
    zc__bucket b;
    memset(&b, 0, sizeof b);
    for (unsigned i = 0; i < 100000; i++) {
        unsigned char fp = (unsigned char)(1 + zct_below(i % 2 ? 255 : 3));
        for (unsigned k = 0; k < 8; k++)
            b.fp[k] = (unsigned char)(zct_below(3) ? zct_below(i % 3 ? 256 : 4) : fp);
        unsigned equal = 0, matched = 0;
        for (unsigned k = 0; k < ZC__SLOTS; k++) equal |= (unsigned)(b.fp[k] == fp) << k;
        for (uint64_t m = zc__fps_match(b.fps, fp); m; m &= m - 1)
            matched |= 1u << zc__match_slot(m);
        CHECK_EQ(matched, equal);
    }
}

TEST(all_fingerprints_and_homes_equal) {
    zc_cache *c = open_limits(0, 0, 1);
    const unsigned n = 200;
    make_entries(c, n);
    table(60);
    for (unsigned i = 0; i < n; i++) link_one(i, hash_for(7, 60, 42));
    check_table(n);
    CHECK(zc__table_find(&shard, hash_of[0], zc_str("key-none")) == NULL);
    for (unsigned i = 0; i < n; i += 3) unlink_one(i);
    check_table(n);
    for (unsigned i = 0; i < n; i += 3) link_one(i, hash_of[i]);
    check_table(n);
    for (unsigned i = n; i-- > 0;) unlink_one(i);
    check_table(n);
    for (uint32_t b = 0; b < 60; b++) CHECK_EQ(shard.table.buckets[b].fp[ZC__OVER], 0);
    free(shard.table.buckets);
    drop_entries(c, n);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(probing_wraps_around_the_end) {
    zc_cache *c = open_limits(0, 0, 1);
    const unsigned n = 40;
    make_entries(c, n);
    table(8);
    for (unsigned i = 0; i < n; i++) link_one(i, hash_for(6 + i % 2, 8, (unsigned char)i));
    check_table(n);
    CHECK(shard.table.buckets[7].fp[ZC__OVER] > 0 && shard.table.buckets[0].slot[0] != NULL);
    for (unsigned i = 0; i < 20; i++) unlink_one(i);
    check_table(n);
    for (unsigned i = 20; i < n; i++) unlink_one(i);
    for (uint32_t b = 0; b < 8; b++) CHECK_EQ(shard.table.buckets[b].fp[ZC__OVER], 0);
    free(shard.table.buckets);
    drop_entries(c, n);
    zc_close(c);
}

TEST(a_full_table_is_searched_once_round) {
    zc_cache *c = open_limits(0, 0, 1);
    const uint32_t n = 5;
    make_entries(c, n * ZC__SLOTS);
    table(n);
    for (unsigned i = 0; i < n * ZC__SLOTS; i++) link_one(i, hash_for(2, n, 9));
    check_table(n * ZC__SLOTS);
    CHECK(zc__table_find(&shard, hash_for(3, n, 9), zc_str("key-none")) == NULL);
    unlink_one(0);
    link_one(0, hash_for(4, n, 1)); /* into the very last free slot, the whole way round */
    check_table(n * ZC__SLOTS);
    for (unsigned i = 0; i < n * ZC__SLOTS; i++) unlink_one(i);
    free(shard.table.buckets);
    drop_entries(c, n * ZC__SLOTS);
    zc_close(c);
}

TEST(the_count_of_overflows_saturates_at_255) {
    zc_cache *c = open_limits(0, 0, 1);
    const unsigned n = 400;
    make_entries(c, n);
    table(200);
    for (unsigned i = 0; i < n; i++) {
        link_one(i, hash_for(10, 200, (unsigned char)i));
        if (i == 7 + 253) CHECK_EQ(shard.table.buckets[10].fp[ZC__OVER], 254);
        if (i == 7 + 254) CHECK_EQ(shard.table.buckets[10].fp[ZC__OVER], 255);
    }
    check_table(n);
    CHECK_EQ(shard.table.buckets[10].fp[ZC__OVER], 255);
    for (unsigned i = 0; i < n; i++) unlink_one(i);
    CHECK_EQ(shard.table.buckets[10].fp[ZC__OVER], 255); /* it stays: a look goes on for nothing */
    CHECK(shard.table.buckets[18].fp[ZC__OVER] == 255 && shard.table.buckets[60].fp[ZC__OVER] == 0);
    check_table(n);
    link_one(5, hash_for(10, 200, 1));
    CHECK(zc__table_find(&shard, hash_of[5], name_of(5)) == made[5]);
    CHECK(zc__table_find(&shard, hash_of[6], name_of(6)) == NULL);
    free(shard.table.buckets);
    drop_entries(c, n);
    zc_close(c);
}

/* ---- keys that collide, in a whole cache ---- */

/* Tries keys until n share the fingerprint and the home of the first. */
TEST(keys_of_one_fingerprint_and_one_home) {
    enum { N = 40 };
    zc_cache *c = open_limits(0, 0, 1);
    char keys[N][24], buf[8];
    unsigned n = 0;
    size_t len;
    uint64_t first = 0;
    for (unsigned i = 0; n < N; i++) {
        snprintf(keys[n], sizeof keys[n], "collide-%u", i);
        uint64_t h = zc__hash(zc_str(keys[n]), c->seed);
        if (n == 0) first = h;
        if (zc__fp_of(h) == zc__fp_of(first) && zc__home_of(h, 16) == zc__home_of(first, 16)) n++;
    }
    for (unsigned i = 0; i < N; i++) {
        CHECK_EQ(zc_put(c, zc_str(keys[i]), zc_slice(&i, sizeof i), NULL), ZC_OK);
        CHECK_EQ(zc_check(c), ZC_OK);
    }
    for (unsigned i = 0; i < N; i += 2) CHECK_EQ(zc_del(c, zc_str(keys[i])), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    for (unsigned i = 0; i < N; i++) {
        unsigned got = 0;
        int rc = zc_get_copy(c, zc_str(keys[i]), buf, sizeof buf, &len);
        CHECK_EQ(rc, i % 2 ? ZC_OK : ZC_MISS);
        if (rc == ZC_OK) memcpy(&got, buf, sizeof got);
        if (rc == ZC_OK) CHECK_EQ(got, i);
    }
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(keys_of_every_length) {
    static char key[ZC_KEY_MAX + 1];
    zc_cache *c = open_limits(0, 0, 4);
    zc_view v;
    memset(key, 'k', sizeof key);
    for (size_t n = 0; n <= 300; n++)
        CHECK_EQ(zc_put(c, zc_slice(key, n), zc_slice(&n, sizeof n), NULL), ZC_OK);
    CHECK_EQ(zc_put(c, zc_slice(key, ZC_KEY_MAX), zc_str("long"), NULL), ZC_OK);
    CHECK_EQ(zc_put(c, zc_slice(key, ZC_KEY_MAX + 1), zc_str("x"), NULL), ZC_E_KEY);
    CHECK_EQ(zc_put(c, zc_slice(NULL, 0), zc_slice(NULL, 0), NULL), ZC_OK); /* replaces "" */
    CHECK_EQ(zc_put(c, zc_slice(NULL, 1), zc_str("x"), NULL), ZC_E_INVAL);
    for (size_t n = 1; n <= 300; n++) {
        size_t got = 0;
        CHECK_EQ(zc_get(c, zc_slice(key, n), &v), ZC_OK);
        if (CHECK_EQ(v.size, sizeof got)) memcpy(&got, v.data, sizeof got);
        CHECK_EQ(got, n);
        CHECK_EQ((uintptr_t)v.data % 8, 0); /* values are aligned */
        zc_release(c, &v);
    }
    CHECK_EQ(zc_get(c, zc_slice("", 0), &v), ZC_OK);
    CHECK_EQ(v.size, 0);
    zc_release(c, &v);
    CHECK_EQ(zc_get(c, zc_slice(key, ZC_KEY_MAX), &v), ZC_OK);
    zc_release(c, &v);
    CHECK_EQ(zc_get(c, zc_slice(key, ZC_KEY_MAX + 1), &v), ZC_E_KEY);
    CHECK_EQ(zc_get(c, zc_slice(key, ZC_KEY_MAX - 1), &v), ZC_MISS);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(growth_keeps_everything_and_mends_counts) {
    zc_cache *c = open_limits(0, 0, 1);
    zc__shard *s = &c->shards[0];
    uint32_t grown = 0, last = 0;
    char key[16];
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(zc_put(c, zc_str(key), zc_slice(&i, sizeof i), NULL), ZC_OK);
        if (s->table.nbuckets != last) {
            CHECK_EQ(zc_check(c), ZC_OK);
            for (uint32_t b = 0; b < s->table.nbuckets; b++) CHECK(s->table.buckets[b].fp[ZC__OVER] < 255);
            last = s->table.nbuckets;
            grown++;
        }
    }
    CHECK(grown > 10 && grown < 40);
    CHECK((uint64_t)s->table.nbuckets * ZC__SLOTS < 20000 * 2);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned got = 0;
        size_t len;
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(zc_get_copy(c, zc_str(key), &got, sizeof got, &len), ZC_OK);
        CHECK_EQ(got, i);
    }
    zc_close(c);
}

TEST(a_table_that_cannot_grow_fills_up_then_fails_cleanly) {
    zc_cache *c = open_limits(0, 0, 1);
    zc__shard *s = &c->shards[0];
    char key[16];
    unsigned stored = 0, refused = 0;
    for (unsigned i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(zc_put(c, zc_str(key), zc_str("v"), NULL), ZC_OK);
    }
    for (unsigned i = 100; i < 400; i++) {
        snprintf(key, sizeof key, "%u", i);
        bool grows = (uint64_t)s->count * 7 >= (uint64_t)s->table.nbuckets * ZC__SLOTS * 6;
        mem.fail_at = grows ? mem.count + 2 : 0; /* the entry can be had, the table cannot grow */
        int rc = zc_put(c, zc_str(key), zc_str("v"), NULL);
        mem.fail_at = 0;
        CHECK(rc == ZC_OK || rc == ZC_E_NOMEM);
        stored += rc == ZC_OK;
        refused += rc == ZC_E_NOMEM;
        CHECK_EQ(zc_check(c), ZC_OK);
    }
    CHECK(stored > 0 && refused > 0);
    CHECK_EQ(s->count, s->table.nbuckets * ZC__SLOTS - 1); /* one slot stays free */
    mem.fail_from = mem.count + 2; /* replacing needs no room in the table */
    CHECK_EQ(zc_put(c, zc_str("5"), zc_str("new"), NULL), ZC_OK);
    mem.fail_from = 0;
    CHECK_EQ(zc_put(c, zc_str("more"), zc_str("v"), NULL), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

/* ---- pins ---- */

static unsigned dropped;
static void drop(void *user, void *object, size_t size) {
    (void)user;
    (void)object;
    CHECK_EQ(size, 17);
    dropped++;
}

TEST(a_pin_outlives_everything) {
    static const char *const ends[] = {"replace", "delete", "clear", "evict", "close"};
    for (unsigned how = 0; how < 5; how++) {
        zc_cache *c = open_limits(how == 3 ? 1 : 0, 0, 1);
        zc_view v, w, bytes;
        int object = 5;
        dropped = 0;
        CHECK_EQ(zc_put_object(c, zc_str("k"), &object, 17, drop, NULL, NULL), ZC_OK);
        CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_OK);
        CHECK_EQ(zc_get(c, zc_str("k"), &w), ZC_OK);
        CHECK(v.data == &object && v.size == 17);
        if (how == 0) CHECK_EQ(zc_put(c, zc_str("k"), zc_str("bytes"), NULL), ZC_OK);
        if (how == 1) CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
        if (how == 2) CHECK_EQ(zc_clear(c), ZC_OK);
        if (how == 3) CHECK_EQ(zc_put(c, zc_str("l"), zc_str("bytes"), NULL), ZC_OK);
        if (how == 0) {
            CHECK_EQ(zc_get(c, zc_str("k"), &bytes), ZC_OK);
            CHECK(bytes.size == 5 && memcmp(bytes.data, "bytes", 5) == 0);
            zc_release(c, &bytes);
        }
        zc_release(c, &v);
        CHECK(!v.pin && !v.data && !v.size);
        zc_release(c, &v);
        if (!CHECK_EQ(dropped, 0)) puts(ends[how]);
        if (how == 4 || how == 2) zc_close(c);
        CHECK(w.data == &object);
        zc_release(c, &w);
        CHECK_EQ(dropped, 1);
        if (how != 4 && how != 2) zc_close(c);
        CHECK_EQ(mem.blocks, 0);
    }
}

/* ---- limits ---- */

TEST(B5_limits_hold_at_the_edges) {
    for (size_t most = 1; most < 40; most++) {
        zc_cache *c = open_limits(most, 0, most % 2 ? 1 : 8);
        zc_stats s;
        char key[16];
        for (unsigned i = 0; i < 200; i++) {
            snprintf(key, sizeof key, "%u", i);
            CHECK_EQ(zc_put(c, zc_str(key), zc_str("v"), NULL), ZC_OK);
            zc_stats_read(c, &s);
            CHECK(s.entries <= most);
            CHECK_EQ(s.entries, i + 1 < most ? i + 1 : most); /* and none is given away */
        }
        CHECK_EQ(c->entries.used, most);
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
    }
}

TEST(B5_bytes_are_what_entries_occupy) {
    zc_cache *c = open_limits(0, 5000, 1);
    zc_stats s;
    static char value[6000];
    zc_explanation e;
    CHECK_EQ(zc_put(c, zc_str("k"), zc_slice(value, 1000), NULL), ZC_OK);
    CHECK_EQ(zc_explain(c, zc_str("k"), &e), ZC_OK);
    size_t beside = e.bytes - 1000;
    zc_stats_read(c, &s);
    CHECK_EQ(s.bytes, e.bytes);
    CHECK(beside < 100);
    /* exactly as large as the limit, and one more */
    CHECK_EQ(zc_put(c, zc_str("k"), zc_slice(value, 5000 - beside), NULL), ZC_OK);
    zc_stats_read(c, &s);
    CHECK_EQ(s.bytes, 5000);
    CHECK_EQ(zc_put(c, zc_str("l"), zc_slice(value, 5000 - beside), NULL), ZC_OK);
    zc_stats_read(c, &s);
    CHECK(s.bytes == 5000 && s.entries == 1 && s.removed[ZC_CAUSE_EVICTED] == 1);
    CHECK_EQ(zc_put(c, zc_str("l"), zc_slice(value, 5000 - beside + 1), NULL), ZC_REFUSED);
    zc_stats_read(c, &s);
    CHECK(s.entries == 0 && s.bytes == 0 && s.refused == 1); /* what was there is gone */
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(a_limit_taken_and_given) {
    zc__limit l;
    memset(&l, 0, sizeof l);
    l.max = 10;
    CHECK(zc__limit_take(&l, 4) && zc__limit_take(&l, 6) && l.used == 10);
    CHECK(!zc__limit_take(&l, 1) && zc__limit_take(&l, 0));
    CHECK(!zc__limit_take(&l, SIZE_MAX) && l.used == 10);
    zc__limit_give(&l, 3);
    CHECK(!zc__limit_take(&l, 4) && zc__limit_take(&l, 3) && l.used == 10);
    l.max = SIZE_MAX;
    CHECK(zc__limit_take(&l, SIZE_MAX - 1) && l.used == 10);
}

/* ---- the validator ---- */

static const char *check_shard(const zc_cache *c, const zc__shard *s) {
    const char *broken = zc__check_buckets(c, s, &s->table, s->ready);
    return broken ? broken : zc__check_policy(s);
}

TEST(the_validator_sees_what_is_broken) {
    zc_cache *c = open_limits(100, 100000, 1);
    zc__shard *s = &c->shards[0];
    char key[16];
    for (unsigned i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(zc_put(c, zc_str(key), zc_str("v"), NULL), ZC_OK);
    }
    CHECK(check_shard(c, s) == NULL);
    zc__bucket *b = s->table.buckets;
    while (!b->slot[0]) b++;
    zc__entry *e = b->slot[0];
    b->fp[0] = (unsigned char)(b->fp[0] ^ 1);
    CHECK(strncmp(check_shard(c, s), "B1", 2) == 0);
    b->fp[0] = (unsigned char)(b->fp[0] ^ 1);
    b->slot[0] = NULL;
    CHECK(strncmp(check_shard(c, s), "B1", 2) == 0);
    b->slot[0] = e;
    s->table.count++;
    CHECK_STR(check_shard(c, s), "B2");
    s->table.count--;
    s->count++;
    CHECK_STR(check_shard(c, s), "P2: total");
    s->count--;
    s->ready--;
    CHECK_STR(zc__check_policy(s), "B6: ready");
    s->ready++;
    b->fp[ZC__OVER]++;
    CHECK_STR(check_shard(c, s), "B3");
    b->fp[ZC__OVER]--;
    s->bytes++;
    CHECK_STR(check_shard(c, s), "B4");
    s->bytes--;
    s->cost++;
    CHECK_STR(check_shard(c, s), "B4");
    s->cost--;
    e->begin += UINT64_C(1) << 60;
    CHECK(strncmp(check_shard(c, s), "T1", 2) == 0);
    e->begin -= UINT64_C(1) << 60;
    c->entries.max = 59;
    CHECK_EQ(zc_check(c), ZC_E_CORRUPT);
    c->entries.max = 100;
    c->cost.used--;
    CHECK_EQ(zc_check(c), ZC_E_CORRUPT);
    c->cost.used++;
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}
