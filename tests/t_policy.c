/* Eviction: the queues and their moves, the ghosts, the target; P1 to P3. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

static zc_cache *cache;
static zc__shard *shard;
static zc__policy *policy;
static char evicted[64];
static unsigned evictions;

static void on_event(void *user, const zc_event *ev) {
    (void)user;
    if (ev->cause != ZC_CAUSE_EVICTED) return;
    evictions++;
    snprintf(evicted, sizeof evicted, "%.*s", (int)ev->key.len, (const char *)ev->key.ptr);
}

static void open_cap(size_t max_entries) {
    zc_desc d;
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    d.shards = 1;
    d.seed = 12345;
    d.max_entries = max_entries;
    d.events.version = 1;
    d.events.mask = ZC_EVENT_REMOVED;
    d.events.on_event = on_event;
    evictions = 0;
    if (!CHECK_EQ(zc_open(&d, &cache), ZC_OK)) exit(1);
    shard = &cache->shards[0];
    policy = &shard->policy;
}

static zc_bytes key_of(const char *kind, unsigned i) {
    static char text[32];
    return zc_slice(text, (size_t)snprintf(text, sizeof text, "%s%u", kind, i));
}

static void put(const char *kind, unsigned i) {
    CHECK_EQ(zc_put(cache, key_of(kind, i), zc_str("v"), NULL), ZC_OK);
}

static bool hit(const char *kind, unsigned i) {
    char buf[4];
    size_t len;
    return zc_get_copy(cache, key_of(kind, i), buf, sizeof buf, &len) == ZC_OK;
}

/* A get, and a put where it misses, as a user does. */
static bool use(const char *kind, unsigned i) {
    bool found = hit(kind, i);
    if (!found) put(kind, i);
    return found;
}

static zc__entry *find(const char *kind, unsigned i) {
    zc_bytes key = key_of(kind, i);
    return zc__table_find(shard, zc__hash(key, cache->seed), key);
}

static int queue_of(const char *kind, unsigned i) {
    const zc__entry *e = find(kind, i);
    return e ? (int)(e->state & ZC__QUEUE_BITS) : -1;
}

static unsigned count(unsigned q) { return policy->queue[q].count; }

static void close_checked(void) {
    CHECK_EQ(zc_check(cache), ZC_OK);
    zc_close(cache);
}

TEST(new_entries_go_through_the_window_to_probation) {
    open_cap(320); /* a window of 10 */
    for (unsigned i = 0; i < 20; i++) put("k", i);
    CHECK_EQ(count(ZC__WINDOW), 10);
    CHECK_EQ(count(ZC__PROBATION), 10);
    CHECK_EQ(queue_of("k", 0), ZC__PROBATION);
    CHECK_EQ(queue_of("k", 9), ZC__PROBATION);
    CHECK_EQ(queue_of("k", 10), ZC__WINDOW);
    CHECK_EQ(queue_of("k", 19), ZC__WINDOW);
    close_checked();
}

TEST(hits_in_the_window_are_put_aside) {
    open_cap(320);
    put("k", 0);
    for (unsigned i = 0; i < 5; i++) CHECK(hit("k", 0));
    CHECK_EQ(find("k", 0)->hits, ZC__HITS_MAX); /* it saturates */
    for (unsigned i = 1; i <= 10; i++) put("k", i);
    CHECK_EQ(queue_of("k", 0), ZC__PROBATION);
    CHECK_EQ(find("k", 0)->hits, 0);
    CHECK_EQ(find("k", 0)->state / ZC__EARLY % 4, 2);
    CHECK_EQ(find("k", 1) ? find("k", 1)->state / ZC__EARLY % 4 : 9, 0);
    close_checked();
}

TEST(until_it_is_full_the_overflow_goes_to_main) {
    open_cap(100);
    for (unsigned i = 0; i < 100; i++) put("k", i);
    CHECK_EQ(evictions, 0);
    CHECK(!policy->full);
    CHECK_EQ(policy->target, 20 * 256);
    CHECK(count(ZC__WINDOW) + count(ZC__PROBATION) <= 21);
    CHECK(count(ZC__MAIN) >= 79);
    CHECK_EQ(queue_of("k", 0), ZC__MAIN);
    put("k", 100);
    CHECK_EQ(evictions, 1);
    CHECK(policy->full);
    close_checked();
}

TEST(a_scan_passes_and_the_hot_ones_stay) {
    open_cap(1000);
    for (unsigned round = 0; round < 4; round++)
        for (unsigned i = 0; i < 400; i++) (void)use("hot", i);
    for (unsigned i = 0; i < 1000; i++) put("fill", i);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < 400; i++) (void)use("hot", i);
    for (unsigned i = 0; i < 100000; i++) put("scan", i);
    unsigned left = 0;
    for (unsigned i = 0; i < 400; i++) left += hit("hot", i);
    CHECK(left > 300); /* a list in order of use would have none */
    CHECK_EQ(evictions, 100000 + 1000 + 400 - 1000);
    close_checked();
}

/* Two hits by the end of probation earn a place in main, one does not; hits in the window count. */
TEST(promotion_at_two_hits) {
    for (unsigned hits = 0; hits < 4; hits++) {
        for (unsigned in_window = 0; in_window <= hits; in_window++) {
            open_cap(320);
            for (unsigned i = 0; i < 400; i++) put("old", i); /* full */
            put("k", 0);
            for (unsigned i = 0; i < in_window; i++) CHECK(hit("k", 0));
            for (unsigned i = 0; i < 12; i++) put("a", i);
            CHECK_EQ(queue_of("k", 0), ZC__PROBATION);
            for (unsigned i = in_window; i < hits; i++) CHECK(hit("k", 0));
            int where = ZC__PROBATION;
            for (unsigned i = 0; where == ZC__PROBATION && i < 5000; i++) {
                put("b", i);
                where = queue_of("k", 0);
            }
            CHECK_EQ(where, hits >= ZC__PROMOTE ? ZC__MAIN : -1);
            if (where == ZC__MAIN) CHECK_EQ(find("k", 0)->hits, 0); /* to be earned again */
            close_checked();
        }
    }
}

/* Main is a CLOCK: who was hit goes round once more for each hit, and is then proven. */
TEST(main_gives_second_chances) {
    open_cap(64);
    for (unsigned i = 0; i < 64; i++) put("m", i);
    CHECK_EQ(queue_of("m", 0), ZC__MAIN);
    CHECK_EQ(queue_of("m", 1), ZC__MAIN);
    CHECK(hit("m", 0));
    CHECK(hit("m", 0));
    policy->target = 64 * 256; /* as if all room were probation's: main gives way */
    zc__policy_step(policy, 0);
    unsigned in_main = count(ZC__MAIN);
    CHECK(policy->queue[ZC__MAIN].oldest == find("m", 0));
    zc__spin_lock(&shard->lock);
    uint64_t hash;
    zc__entry *victim = zc__policy_victim(cache, shard, &hash);
    zc__spin_unlock(&shard->lock);
    /* probation is below its target, so main was asked; m0 had its chance, m1 went */
    CHECK(victim == find("m", 1));
    CHECK_EQ(find("m", 0)->hits, 1);
    CHECK(find("m", 0)->state & ZC__PROVEN);
    CHECK(policy->queue[ZC__MAIN].newest == find("m", 0));
    CHECK_EQ(count(ZC__MAIN), in_main - 1);
    CHECK(policy->target < 64 * 256); /* that hit speaks for main */
    zc__queue_push(shard, victim, ZC__MAIN); /* as it was */
    close_checked();
}

TEST(a_victim_takes_a_bounded_number_of_looks) {
    open_cap(500);
    for (unsigned i = 0; i < 500; i++) put("m", i);
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < 500; i++) CHECK(hit("m", i));
    put("new", 0); /* everything is hot: still only one goes */
    CHECK_EQ(evictions, 1);
    unsigned cooled = 0;
    for (unsigned i = 0; i < 500; i++) {
        const zc__entry *e = find("m", i);
        cooled += e && e->hits < 2;
    }
    CHECK(cooled <= ZC__LOOKS + 16 + 8); /* looks, and the window's overflow */
    close_checked();
}

/* ---- ghosts ---- */

TEST(a_ghost_of_probation_comes_back_to_main_and_widens_it) {
    open_cap(320);
    for (unsigned i = 0; i < 400; i++) put("old", i);
    put("k", 0);
    for (unsigned i = 0; queue_of("k", 0) >= 0 && i < 5000; i++) put("b", i);
    CHECK_STR(evicted, "k0");
    int64_t before = policy->target;
    put("k", 0);
    CHECK_EQ(queue_of("k", 0), ZC__MAIN);
    CHECK(policy->target > before);
    CHECK(policy->target - before <= 5 * 256);
    close_checked();
}

TEST(the_evidence_of_a_ghost_is_worth_less_with_its_age) {
    open_cap(3200);
    for (unsigned i = 0; i < 4000; i++) put("old", i);
    int64_t last = INT64_MAX;
    static const unsigned ages[] = {1, 300, 1000, 2000, 3500};
    for (unsigned a = 0; a < 5; a++) {
        policy->target = 1000 * 256;
        put("k", a);
        for (unsigned i = 0; queue_of("k", a) >= 0 && i < 50000; i++) put("b", i + a * 50000);
        for (unsigned i = 1; i < ages[a]; i++) put("c", i + a * 50000);
        policy->target = 1000 * 256;
        zc_bytes key = key_of("k", a);
        zc__spin_lock(&shard->lock);
        unsigned to = zc__policy_miss(shard, zc__hash(key, cache->seed));
        zc__spin_unlock(&shard->lock);
        int64_t step = policy->target - 1000 * 256;
        CHECK_EQ(to, ZC__MAIN);
        CHECK(step > 0 && step <= 5 * 256 && step <= last);
        if (a > 1) CHECK(step < last);
        last = step;
    }
    close_checked();
}

TEST(ghosts_expire) {
    open_cap(320);
    for (unsigned i = 0; i < 400; i++) put("old", i);
    put("k", 0);
    for (unsigned i = 0; queue_of("k", 0) >= 0 && i < 5000; i++) put("b", i);
    for (unsigned i = 0; i < 320 * 5 / 4 + 40; i++) put("c", i); /* more than 1.25 cache-fulls */
    int64_t before = policy->target;
    zc_bytes key = key_of("k", 0);
    zc__spin_lock(&shard->lock);
    unsigned to = zc__policy_miss(shard, zc__hash(key, cache->seed));
    zc__spin_unlock(&shard->lock);
    CHECK_EQ(to, ZC__WINDOW);
    CHECK_EQ(policy->target, before);
    close_checked();
}

TEST(a_ghost_counts_once) {
    open_cap(320);
    for (unsigned i = 0; i < 400; i++) put("old", i);
    uint64_t h = zc__hash(zc_str("x"), cache->seed);
    zc__spin_lock(&shard->lock);
    zc__ghost_add(policy, h, 0, false);
    CHECK_EQ(zc__policy_miss(shard, h), ZC__MAIN);
    CHECK_EQ(zc__policy_miss(shard, h), ZC__WINDOW);
    /* from main: down; back to main only if it was proven there */
    int64_t before = policy->target = 100 * 256;
    zc__ghost_add(policy, h, 1, false);
    CHECK_EQ(zc__policy_miss(shard, h), ZC__WINDOW);
    CHECK(policy->target < before);
    zc__ghost_add(policy, h, 1, true);
    CHECK_EQ(zc__policy_miss(shard, h), ZC__MAIN);
    /* removed, not evicted: no evidence, but its place */
    before = policy->target;
    zc__ghost_add(policy, h, 0, true);
    CHECK_EQ(zc__policy_miss(shard, h), ZC__MAIN);
    CHECK_EQ(policy->target, before);
    zc__spin_unlock(&shard->lock);
    close_checked();
}

TEST(ghost_stamps_wrap_around) {
    open_cap(100); /* small enough for a stamp to be one eviction */
    zc__policy p = *policy;
    for (uint64_t at = 65000; at < 66000; at += 7) {
        for (uint64_t age = 0; age < 500; age += 13) {
            p.gone[1] = at;
            uint32_t g = 1u << 18 | 1u << 17 | (uint16_t)at;
            p.gone[1] += age;
            CHECK_EQ(zc__ghost_age(&p, g), age);
            CHECK_EQ(zc__ghost_expired(&p, g), age > 100);
            g &= ~(1u << 17);
            p.gone[0] = at + age;
            CHECK_EQ(zc__ghost_expired(&p, g), age > 125);
        }
    }
    close_checked();
}

TEST(a_bucket_of_ghosts_gives_up_its_oldest) {
    open_cap(320);
    for (unsigned i = 0; i < 400; i++) put("old", i);
    zc__spin_lock(&shard->lock);
    uint64_t base = zc__hash(zc_str("x"), cache->seed), h[9];
    uint32_t *b = zc__ghost_bucket(policy, base);
    memset(b, 0, ZC__GHOST_WAYS * sizeof *b);
    unsigned n = 0;
    for (uint64_t i = 1; n < 9; i++) { /* nine that share a bucket, with different prints */
        uint64_t x = base + (i << 24);
        bool fits = zc__ghost_bucket(policy, x) == b;
        for (unsigned k = 0; k < n; k++) fits = fits && zc__ghost_print(x) != zc__ghost_print(h[k]);
        if (fits) h[n++] = x;
    }
    for (unsigned k = 0; k < 9; k++) {
        zc__ghost_add(policy, h[k], 0, false);
        policy->gone[0]++;
    }
    CHECK_EQ(zc__policy_miss(shard, h[0]), ZC__WINDOW); /* the oldest went */
    for (unsigned k = 1; k < 9; k++) CHECK_EQ(zc__policy_miss(shard, h[k]), ZC__MAIN);
    zc__spin_unlock(&shard->lock);
    close_checked();
}

TEST(a_removed_entry_that_had_earned_it_returns_to_main) {
    open_cap(320);
    for (unsigned i = 0; i < 400; i++) put("old", i);
    for (unsigned i = 0; i < 3; i++) put("k", i);
    CHECK(hit("k", 0) && hit("k", 0) && hit("k", 1));
    int64_t target = policy->target;
    for (unsigned i = 0; i < 3; i++) CHECK_EQ(zc_del(cache, key_of("k", i)), ZC_OK);
    for (unsigned i = 0; i < 3; i++) put("k", i);
    CHECK_EQ(queue_of("k", 0), ZC__MAIN);
    CHECK_EQ(queue_of("k", 1), ZC__WINDOW); /* one hit is not enough */
    CHECK_EQ(queue_of("k", 2), ZC__WINDOW);
    CHECK_EQ(policy->target, target);
    close_checked();
}

TEST(a_replaced_value_keeps_its_place_and_is_warmer) {
    open_cap(320);
    for (unsigned i = 0; i < 20; i++) put("k", i);
    int q = queue_of("k", 3);
    zc__entry *prev = find("k", 3)->prev, *next = find("k", 3)->next;
    for (unsigned i = 0; i < 4; i++) {
        put("k", 3);
        CHECK_EQ(queue_of("k", 3), q);
        CHECK(find("k", 3)->prev == prev && find("k", 3)->next == next);
        CHECK_EQ(find("k", 3)->hits, i < 1 ? 1 : 2);
        CHECK_EQ(zc_check(cache), ZC_OK);
    }
    put("k", 19); /* the newest, and the oldest */
    put("k", 0);
    CHECK_EQ(zc_check(cache), ZC_OK);
    CHECK_EQ(evictions, 0);
    close_checked();
}

/* ---- target ---- */

TEST(P3_the_target_stays_within_its_bounds) {
    static const uint64_t caps[] = {1, 2, 10, 31, 32, 33, 64, 1000, 1000000, UINT64_C(1) << 40};
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        zc__policy p;
        memset(&p, 0, sizeof p);
        p.cap = caps[i];
        int64_t most = (int64_t)caps[i] * 256, least = most / 32 > 256 ? most / 32 : 256;
        zc__policy_step(&p, INT64_C(1) << 60);
        CHECK_EQ(p.target, most);
        zc__policy_step(&p, -(INT64_C(1) << 61));
        CHECK_EQ(p.target, least < most ? least : most);
        zc__policy_step(&p, 1);
        CHECK(p.target >= 256 && p.target <= most);
    }
}

TEST(worth_is_bounded) {
    zc__policy p;
    memset(&p, 0, sizeof p);
    p.cap = 1000;
    CHECK_EQ(zc__policy_worth(&p, 64, 0, 5), 5 * 256);
    CHECK_EQ(zc__policy_worth(&p, 64, 1000, 5), 64);
    CHECK_EQ(zc__policy_worth(&p, 64, 64000, 5), 1);
    CHECK_EQ(zc__policy_worth(&p, 64, 64001, 5), 0);
    CHECK_EQ(zc__policy_worth(&p, 40, 1, 2), 2 * 256);
}

TEST(the_smallest_caches_work) {
    for (size_t cap = 1; cap < 12; cap++) {
        open_cap(cap);
        for (unsigned i = 0; i < 3000; i++) {
            (void)use("k", (unsigned)zct_below(cap * 3));
            if (i % 10 == 0) CHECK_EQ(zc_check(cache), ZC_OK);
        }
        CHECK_EQ(shard->count, cap);
        close_checked();
    }
}

/* A loop a little longer than the cache defeats a list in order of use entirely. */
TEST(a_loop_longer_than_the_cache_is_answered_in_part) {
    open_cap(500);
    unsigned hits = 0;
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < 600; i++) hits += use("k", i);
    CHECK(hits > 20 * 600 / 4);
    close_checked();
}

/* Half the room is given up, and taken again. */
TEST(after_many_deletions_it_fills_again) {
    open_cap(200);
    for (unsigned i = 0; i < 300; i++) put("k", i);
    CHECK(policy->full);
    for (unsigned i = 0; i < 300; i++) (void)zc_del(cache, key_of("k", i));
    CHECK_EQ(shard->count, 0);
    evictions = 0;
    for (unsigned i = 0; i < 200; i++) put("l", i);
    CHECK_EQ(evictions, 0);
    CHECK_EQ(shard->count, 200);
    CHECK(count(ZC__MAIN) > 100);
    close_checked();
}

TEST(a_limit_of_bytes_learns_how_many_entries_it_holds) {
    zc_desc d;
    zc_explanation e;
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    d.shards = 1;
    d.seed = 5;
    d.max_bytes = 100000;
    if (!CHECK_EQ(zc_open(&d, &cache), ZC_OK)) exit(1);
    shard = &cache->shards[0];
    policy = &shard->policy;
    for (unsigned i = 0; i < 5000; i++) put("k", i);
    CHECK_EQ(zc_explain(cache, key_of("k", 4999), &e), ZC_OK);
    uint64_t holds = 100000 / e.bytes;
    CHECK(policy->cap > holds * 3 / 4 && policy->cap < holds * 5 / 4 + 2);
    CHECK(shard->count + 1 >= holds); /* and no room is wasted */
    CHECK_EQ(zc_check(cache), ZC_OK);
    static char large[1000];
    for (unsigned i = 0; i < 2000; i++) /* larger ones: fewer */
        CHECK_EQ(zc_put(cache, key_of("l", i), zc_slice(large, 1000), NULL), ZC_OK);
    CHECK(policy->cap < holds / 4);
    close_checked();
}

/* What is reckoned with a limit fits, however large it is. */
TEST(limits_beyond_all_memory) {
    const size_t limits[] = {SIZE_MAX / 512, SIZE_MAX / 256, SIZE_MAX / 2 + 1, SIZE_MAX - 1, SIZE_MAX};
    for (size_t n = 0; n < sizeof limits / sizeof *limits; n++) {
        open_cap(limits[n]);
        for (unsigned i = 0; i < 100; i++) use("k", i % 50);
        CHECK(hit("k", 0));
        CHECK_EQ(evictions, 0);
        close_checked();
    }
}

/* ---- the validator ---- */

TEST(the_validator_sees_what_is_broken) {
    open_cap(64);
    for (unsigned i = 0; i < 80; i++) put("k", i);
    CHECK(zc__check_policy(shard) == NULL);
    zc__entry *e = policy->queue[ZC__MAIN].oldest;
    e->state ^= 1;
    CHECK(strncmp(zc__check_policy(shard), "P1", 2) == 0);
    e->state ^= 1;
    e->hits = 3;
    CHECK(strncmp(zc__check_policy(shard), "P1", 2) == 0);
    e->hits = 0;
    zc__entry *next = e->next;
    e->next = next->next;
    CHECK(strncmp(zc__check_policy(shard), "P1", 2) == 0);
    e->next = next;
    policy->queue[ZC__MAIN].count++;
    CHECK(strncmp(zc__check_policy(shard), "P2", 2) == 0);
    policy->queue[ZC__MAIN].count--;
    zc__entry *newest = policy->queue[ZC__MAIN].newest;
    policy->queue[ZC__MAIN].newest = e;
    CHECK(strncmp(zc__check_policy(shard), "P2", 2) == 0);
    policy->queue[ZC__MAIN].newest = newest;
    int64_t target = policy->target;
    policy->target = 255;
    CHECK_STR(zc__check_policy(shard), "P3");
    policy->target = 64 * 256 + 1;
    CHECK_STR(zc__check_policy(shard), "P3");
    policy->target = target;
    close_checked();
}
