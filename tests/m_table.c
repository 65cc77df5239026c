/* Random operations on the table of a shard with hashes that collide much, and on a whole cache,
 * against naive maps. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { KEYS = 500 };

/* ---- the table itself, hashes chosen ---- */

static zc__entry *made[KEYS];
static uint64_t hash_of[KEYS];
static bool in[KEYS];
static char names[KEYS][16];
static zc__shard shard;

static void relink(uint32_t nbuckets) {
    zc__bucket *to = (zc__bucket *)calloc(nbuckets, sizeof *to);
    if (!to) exit(1);
    free(shard.table.buckets);
    shard.table.buckets = to;
    shard.table.nbuckets = shard.ready = nbuckets;
    shard.table.count = 0;
    for (unsigned i = 0; i < KEYS; i++)
        if (in[i]) zc__table_link(&shard, &shard.table, made[i], hash_of[i]);
}

static void check_all(bool exact) {
    unsigned passed[300] = {0}, found = 0, held = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        zc__entry *e = zc__table_find(&shard, hash_of[i], zc_str(names[i]));
        CHECK(e == (in[i] ? made[i] : NULL));
        held += in[i];
        for (uint32_t b = zc__home_of(hash_of[i], shard.table.nbuckets); in[i];
             b = b + 1 == shard.table.nbuckets ? 0 : b + 1) {
            bool here = false;
            for (unsigned k = 0; k < ZC__SLOTS; k++) here |= shard.table.buckets[b].slot[k] == made[i];
            if (here) break;
            passed[b]++;
        }
    }
    for (uint32_t b = 0; b < shard.table.nbuckets; b++) {
        for (unsigned k = 0; k < ZC__SLOTS; k++) {
            CHECK_EQ(shard.table.buckets[b].slot[k] != NULL, shard.table.buckets[b].fp[k] != 0);
            found += shard.table.buckets[b].slot[k] != NULL;
        }
        unsigned over = shard.table.buckets[b].fp[ZC__OVER];
        CHECK(over == passed[b] || (over == 255 && (!exact || passed[b] > 255)));
    }
    CHECK_EQ(found, held);
}

static void run(uint64_t home_mask, unsigned fps, unsigned steps) {
    zc_desc d;
    zc_cache *c;
    zc__life life;
    unsigned count = 0;
    memset(&d, 0, sizeof d);
    memset(&life, 0, sizeof life);
    memset(&shard, 0, sizeof shard);
    memset(in, 0, sizeof in);
    d.no_thread = true;
    life.ttl = ZC_NEVER;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (unsigned i = 0; i < KEYS; i++) {
        snprintf(names[i], sizeof names[i], "%u", i);
        hash_of[i] = (zct_rand() & home_mask) << 8 | zct_below(fps);
        made[i] = zc__entry_new(c, zc_str(names[i]), zc_str("v"), NULL, NULL, 0, &life, 1);
        REQUIRE(made[i] != NULL);
    }
    relink(3);
    bool exact = true; /* until a count has reached 255 and may be too high */
    for (unsigned step = 0; step < steps; step++) {
        unsigned i = (unsigned)zct_below(KEYS);
        if (in[i]) {
            if (zct_below(100) < (step / 2000 % 2 ? 80 : 30)) {
                zc__table_unlink(&shard.table, made[i], hash_of[i]);
                in[i] = false;
                count--;
            }
        } else {
            if (count + 1 >= shard.table.nbuckets * ZC__SLOTS || zct_below(500) == 0) {
                uint32_t least = (count + 1) / ZC__SLOTS + 1;
                relink(least + (uint32_t)zct_below(least)); /* larger, or smaller again */
                exact = true;
            }
            zc__table_link(&shard, &shard.table, made[i], hash_of[i]);
            in[i] = true;
            count++;
        }
        for (uint32_t b = 0; b < shard.table.nbuckets; b++)
            if (shard.table.buckets[b].fp[ZC__OVER] == 255) exact = false;
        if (step % 50 == 0) check_all(exact);
    }
    check_all(exact);
    free(shard.table.buckets);
    for (unsigned i = 0; i < KEYS; i++) zc__entry_drop(c, made[i]);
    zc_close(c);
}

TEST(random_hashes) { run(UINT64_MAX, 256, 20000); }
TEST(few_homes) { run(UINT64_C(0xe0000000), 256, 20000); }
TEST(few_fingerprints) { run(UINT64_MAX, 2, 20000); }
TEST(few_of_both) { run(UINT64_C(0xc0000000), 3, 20000); }
TEST(one_home_and_one_fingerprint) { run(0, 1, 10000); }

/* ---- a whole cache as a map ---- */

TEST(a_cache_is_a_map) {
    static unsigned value[KEYS];
    for (unsigned shards = 1; shards <= 64; shards *= 4) {
        zct_mem mem = {0};
        zc_desc d;
        zc_cache *c;
        size_t held = 0, len;
        memset(&d, 0, sizeof d);
        memset(value, 0, sizeof value);
        d.no_thread = true;
        d.shards = shards;
        d.seed = zct_rand();
        d.allocator = zct_allocator(&mem);
        REQUIRE(zc_open(&d, &c) == ZC_OK);
        for (unsigned step = 1; step < 20000; step++) {
            unsigned i = (unsigned)zct_below(KEYS), got = 0;
            char key[16];
            snprintf(key, sizeof key, "%u", i * 7919);
            switch (zct_below(step % 4000 < 2000 ? 3 : 4)) {
            case 0:
                CHECK_EQ(zc_put(c, zc_str(key), zc_slice(&step, sizeof step), NULL), ZC_OK);
                held += !value[i];
                value[i] = step;
                break;
            case 1:
            case 2:
                CHECK_EQ(zc_get_copy(c, zc_str(key), &got, sizeof got, &len),
                         value[i] ? ZC_OK : ZC_MISS);
                CHECK_EQ(got, value[i]);
                break;
            default:
                CHECK_EQ(zc_del(c, zc_str(key)), value[i] ? ZC_OK : ZC_MISS);
                held -= value[i] != 0;
                value[i] = 0;
                break;
            }
            if (step % 500) continue;
            zc_stats s;
            zc_stats_read(c, &s);
            CHECK_EQ(s.entries, held);
            CHECK_EQ(zc_check(c), ZC_OK);
        }
        zc_close(c);
        CHECK_EQ(mem.blocks, 0);
    }
}
