/* TTL, TTI, soft deadlines, grace, jitter, and sweeping; all by a clock that stands still. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

#define S ZC_SECOND

static zct_time now;
static unsigned told[ZC_CAUSE_COUNT];
static char last_key[64];

static void on_event(void *user, const zc_event *ev) {
    (void)user;
    told[ev->cause]++;
    snprintf(last_key, sizeof last_key, "%.*s", (int)ev->key.len, (const char *)ev->key.ptr);
}

static zc_desc plain(void) {
    zc_desc d;
    memset(&d, 0, sizeof d);
    memset(told, 0, sizeof told);
    now.mono = 1000 * S;
    now.wall = 1000000 * S;
    d.no_thread = true;
    d.shards = 1;
    d.seed = 7;
    d.clock = zct_clock(&now);
    d.events.version = 1;
    d.events.mask = ZC_EVENT_REMOVED;
    d.events.on_event = on_event;
    return d;
}

static zc_cache *open_with(const zc_desc *d) {
    zc_cache *c;
    if (!CHECK_EQ(zc_open(d, &c), ZC_OK)) exit(1);
    return c;
}

static int put(zc_cache *c, const char *key, const zc_put_opts *o) {
    return zc_put(c, zc_str(key), zc_str("value"), o);
}

static int put_ttl(zc_cache *c, const char *key, uint64_t ttl) {
    zc_put_opts o;
    memset(&o, 0, sizeof o);
    o.ttl = ttl;
    return put(c, key, &o);
}

static int get(zc_cache *c, const char *key) {
    char buf[16];
    size_t len;
    return zc_get_copy(c, zc_str(key), buf, sizeof buf, &len);
}

/* Polls until nothing is left to do, and checks the cache. */
static void sweep(zc_cache *c) {
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    CHECK_EQ(zc_check(c), ZC_OK);
}

static size_t entries(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s.entries;
}

TEST(ttl_ends_exactly_then) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    CHECK_EQ(put_ttl(c, "a", 10 * S), ZC_OK);
    CHECK_EQ(put_ttl(c, "b", 1), ZC_OK); /* a nanosecond */
    CHECK_EQ(get(c, "b"), ZC_OK);
    zct_step(&now, 1);
    CHECK_EQ(get(c, "b"), ZC_MISS);
    zct_step(&now, 10 * S - 2);
    CHECK_EQ(get(c, "a"), ZC_OK);
    zct_step(&now, 1);
    CHECK_EQ(get(c, "a"), ZC_MISS);
    zc_stats s;
    zc_stats_read(c, &s);
    CHECK_EQ(s.misses_expired, 2);
    CHECK_EQ(s.entries, 2); /* reads do not remove */
    sweep(c);
    CHECK_EQ(entries(c), 0);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 2);
    zc_close(c);
}

TEST(no_ttl_and_never_do_not_end) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    CHECK_EQ(put(c, "a", NULL), ZC_OK);
    CHECK_EQ(put_ttl(c, "b", ZC_NEVER), ZC_OK);
    CHECK_EQ(put_ttl(c, "c", ZC_NEVER - 1), ZC_OK); /* saturates */
    zct_step(&now, UINT64_MAX / 2);
    sweep(c);
    CHECK_EQ(get(c, "a"), ZC_OK);
    CHECK_EQ(get(c, "b"), ZC_OK);
    CHECK_EQ(get(c, "c"), ZC_OK);
    zc_explanation e;
    CHECK_EQ(zc_explain(c, zc_str("b"), &e), ZC_OK);
    CHECK(e.expires_in == ZC_NEVER && !e.expired);
    zc_close(c);
}

TEST(defaults_and_their_exceptions) {
    zc_desc d = plain();
    d.ttl = 10 * S;
    d.negative_ttl = 2 * S;
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    CHECK_EQ(put(c, "default", NULL), ZC_OK);
    CHECK_EQ(put_ttl(c, "longer", 20 * S), ZC_OK);
    CHECK_EQ(put_ttl(c, "never", ZC_NEVER), ZC_OK);
    memset(&o, 0, sizeof o);
    CHECK_EQ(zc_put_absent(c, zc_str("none"), &o), ZC_OK);
    o.negative_ttl = 5 * S;
    CHECK_EQ(zc_put_absent(c, zc_str("none5"), &o), ZC_OK);
    o.ttl = 7 * S; /* the negative one counts */
    CHECK_EQ(zc_put_absent(c, zc_str("none57"), &o), ZC_OK);
    CHECK_EQ(get(c, "none"), ZC_ABSENT);
    zct_step(&now, 2 * S);
    CHECK_EQ(get(c, "none"), ZC_MISS);
    CHECK_EQ(get(c, "none5"), ZC_ABSENT);
    zct_step(&now, 3 * S);
    CHECK_EQ(get(c, "none5"), ZC_MISS);
    CHECK_EQ(get(c, "none57"), ZC_MISS);
    CHECK_EQ(get(c, "default"), ZC_OK);
    zct_step(&now, 5 * S);
    CHECK_EQ(get(c, "default"), ZC_MISS);
    CHECK_EQ(get(c, "longer"), ZC_OK);
    zct_step(&now, 10 * S);
    CHECK_EQ(get(c, "longer"), ZC_MISS);
    CHECK_EQ(get(c, "never"), ZC_OK);
    zc_close(c);
}

TEST(tti_moves_with_every_read_up_to_the_hard_end) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    zc_view view;
    int result;
    memset(&o, 0, sizeof o);
    o.tti = 10 * S;
    o.ttl = 35 * S;
    CHECK_EQ(put(c, "k", &o), ZC_OK);
    zct_step(&now, 9 * S);
    CHECK_EQ(get(c, "k"), ZC_OK); /* 9: until 19 */
    zct_step(&now, 9 * S);
    CHECK_EQ(zc_get(c, zc_str("k"), &view), ZC_OK); /* 18: until 28 */
    zc_release(c, &view);
    zct_step(&now, 9 * S);
    zc_bytes key = zc_str("k");
    CHECK_EQ(zc_get_many(c, &key, 1, &view, &result), 1); /* 27: until 35, the hard end */
    zc_release(c, &view);
    sweep(c);
    zct_step(&now, 7 * S);
    CHECK_EQ(get(c, "k"), ZC_OK); /* 34 */
    zct_step(&now, S);
    CHECK_EQ(get(c, "k"), ZC_MISS);
    sweep(c);
    CHECK_EQ(entries(c), 0);
    CHECK_EQ(put(c, "k", &o), ZC_OK);
    zct_step(&now, 10 * S - 1);
    zc_explanation e; /* looking does not count as a read */
    CHECK_EQ(zc_explain(c, zc_str("k"), &e), ZC_OK);
    CHECK_EQ(e.expires_in, 1);
    zct_step(&now, 1);
    CHECK_EQ(get(c, "k"), ZC_MISS);
    CHECK_EQ(get(c, "k"), ZC_MISS); /* a miss does not revive it */
    zc_close(c);
}

TEST(tti_by_default_and_switched_off) {
    zc_desc d = plain();
    d.tti = 5 * S;
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    memset(&o, 0, sizeof o);
    CHECK_EQ(put(c, "a", NULL), ZC_OK);
    o.tti = ZC_NEVER;
    CHECK_EQ(put(c, "b", &o), ZC_OK);
    o.tti = 8 * S;
    CHECK_EQ(put(c, "c", &o), ZC_OK);
    zct_step(&now, 5 * S);
    CHECK_EQ(get(c, "a"), ZC_MISS);
    CHECK_EQ(get(c, "b"), ZC_OK);
    CHECK_EQ(get(c, "c"), ZC_OK);
    zct_step(&now, 8 * S);
    CHECK_EQ(get(c, "c"), ZC_MISS);
    CHECK_EQ(get(c, "b"), ZC_OK);
    sweep(c);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 2);
    zc_close(c);
}

/* Entries that are read stay, though the sweep once saw an earlier end for them. */
TEST(sweeping_respects_moved_deadlines) {
    zc_desc d = plain();
    d.tti = 10 * S;
    zc_cache *c = open_with(&d);
    char key[16];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(put(c, key, NULL), ZC_OK);
    }
    for (unsigned round = 0; round < 20; round++) {
        zct_step(&now, 6 * S);
        for (unsigned i = 0; i < 100; i += 2) {
            snprintf(key, sizeof key, "%u", i);
            CHECK_EQ(get(c, key), ZC_OK);
        }
        sweep(c);
        CHECK_EQ(entries(c), round ? 50 : 100);
    }
    zct_step(&now, 10 * S);
    sweep(c);
    CHECK_EQ(entries(c), 0);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 100);
    zc_close(c);
}

TEST(jitter_shortens_within_its_bounds) {
    static const unsigned per_cent[] = {1, 10, 50, 100};
    for (unsigned k = 0; k < 4; k++) {
        zc_desc d = plain();
        char key[16];
        d.ttl = 1000 * S;
        d.ttl_jitter = per_cent[k];
        zc_cache *c = open_with(&d);
        uint64_t least = UINT64_MAX, most = 0;
        unsigned same = 0;
        uint64_t last = 0;
        for (unsigned i = 0; i < 2000; i++) {
            zc_explanation e;
            snprintf(key, sizeof key, "%u", i);
            CHECK_EQ(put(c, key, NULL), ZC_OK);
            CHECK_EQ(zc_explain(c, zc_str(key), &e), ZC_OK);
            if (e.expires_in < least) least = e.expires_in;
            if (e.expires_in > most) most = e.expires_in;
            same += e.expires_in == last;
            last = e.expires_in;
        }
        CHECK(most <= 1000 * S);
        CHECK(least >= 1000 * S - per_cent[k] * 10 * S);
        /* and they use the room */
        CHECK(most - least > per_cent[k] * 8 * S);
        CHECK(same < 400);
        CHECK_EQ(put_ttl(c, "never", ZC_NEVER), ZC_OK);
        zct_step(&now, UINT64_C(1) << 60);
        CHECK_EQ(get(c, "never"), ZC_OK);
        zc_close(c);
    }
}

TEST(jitter_of_more_than_everything_is_refused) {
    zc_desc d = plain();
    zc_cache *c;
    d.ttl_jitter = 101;
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    CHECK(c == NULL);
}

static unsigned loads;
static int loader(zc_fill *fill, void *user) {
    loads++;
    if (user) return *(int *)user;
    return zc_fill_value(fill, zc_str("new"));
}

TEST(soft_deadline_serves_stale_and_refreshes_once) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_fetch_opts f;
    zc_view v;
    memset(&f, 0, sizeof f);
    f.put.ttl = 20 * S;
    f.put.soft_ttl = 10 * S;
    loads = 0;
    CHECK_EQ(put(c, "k", &f.put), ZC_OK);
    CHECK_EQ(get(c, "k"), ZC_OK);
    zct_step(&now, 10 * S);
    CHECK_EQ(get(c, "k"), ZC_STALE);
    for (unsigned i = 0; i < 3; i++) { /* one refresh, however many ask */
        CHECK_EQ(zc_fetch(c, zc_str("k"), loader, NULL, &f, &v), ZC_STALE);
        CHECK(v.size == 5 && memcmp(v.data, "value", 5) == 0);
        zc_release(c, &v);
    }
    CHECK_EQ(loads, 0); /* it runs later */
    sweep(c);
    CHECK_EQ(loads, 1);
    CHECK_EQ(zc_fetch(c, zc_str("k"), loader, NULL, &f, &v), ZC_OK);
    CHECK(v.size == 3 && memcmp(v.data, "new", 3) == 0);
    zc_release(c, &v);
    CHECK_EQ(told[ZC_CAUSE_REPLACED], 1);
    zct_step(&now, 20 * S); /* the hard end */
    CHECK_EQ(get(c, "k"), ZC_MISS);
    zc_stats s;
    zc_stats_read(c, &s);
    CHECK_EQ(s.hits_stale, 4);
    CHECK_EQ(s.refreshes, 1);
    zc_close(c);
}

TEST(a_stale_value_is_not_served_after_an_invalidation) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_fetch_opts f;
    zc_view v;
    zc_bytes dep = zc_str("a:b");
    int error = -1001;
    memset(&f, 0, sizeof f);
    f.put.ttl = 20 * S;
    f.put.soft_ttl = 10 * S;
    f.put.stale_if_error = 100 * S;
    f.put.deps = &dep;
    f.put.ndeps = 1;
    loads = 0;
    CHECK_EQ(put(c, "k", &f.put), ZC_OK);
    zct_step(&now, 10 * S);
    CHECK_EQ(zc_invalidate(c, zc_str("a")), ZC_OK);
    CHECK_EQ(get(c, "k"), ZC_MISS);
    CHECK_EQ(zc_fetch(c, zc_str("k"), loader, &error, &f, &v), -1001);
    CHECK(v.pin == NULL);
    CHECK_EQ(loads, 1);
    zc_close(c);
}

TEST(grace_stands_in_for_errors_until_it_ends) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_fetch_opts f;
    zc_view v;
    int error = -1001;
    memset(&f, 0, sizeof f);
    f.put.ttl = 10 * S;
    f.put.stale_if_error = 30 * S;
    CHECK_EQ(put(c, "k", &f.put), ZC_OK);
    zct_step(&now, 10 * S);
    sweep(c);
    CHECK_EQ(entries(c), 1); /* kept for its grace */
    CHECK_EQ(get(c, "k"), ZC_MISS); /* but a plain read does not give it */
    zct_step(&now, 30 * S - 1);
    sweep(c);
    CHECK_EQ(zc_fetch(c, zc_str("k"), loader, &error, &f, &v), ZC_STALE);
    CHECK(v.size == 5 && memcmp(v.data, "value", 5) == 0);
    zc_release(c, &v);
    zct_step(&now, 1);
    CHECK_EQ(zc_fetch(c, zc_str("k"), loader, &error, &f, &v), -1001);
    sweep(c);
    CHECK_EQ(entries(c), 0);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 1);
    zc_close(c);
}

TEST(a_sweep_with_nothing_but_grace_is_not_repeated) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    memset(&o, 0, sizeof o);
    o.ttl = S;
    o.stale_if_error = 1000 * S;
    CHECK_EQ(put(c, "k", &o), ZC_OK);
    zct_step(&now, 2 * S);
    sweep(c);
    CHECK(c->shards[0].next_expiry > now.mono); /* nothing ends before */
    zct_step(&now, 1000 * S);
    CHECK(c->shards[0].next_expiry <= now.mono);
    sweep(c);
    CHECK_EQ(entries(c), 0);
    zc_close(c);
}

TEST(sweeping_tells_the_exact_cause) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    zc_bytes dep = zc_str("t:1");
    memset(&o, 0, sizeof o);
    o.ttl = 5 * S;
    o.deps = &dep;
    o.ndeps = 1;
    CHECK_EQ(put(c, "plain", NULL), ZC_OK);
    CHECK_EQ(put_ttl(c, "expires", 5 * S), ZC_OK);
    CHECK_EQ(put(c, "both", &o), ZC_OK);
    o.ttl = 0;
    CHECK_EQ(put(c, "killed", &o), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_OK);
    sweep(c);
    CHECK_EQ(told[ZC_CAUSE_INVALIDATED], 2);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 0);
    zct_step(&now, 5 * S);
    sweep(c);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 1);
    CHECK_STR(last_key, "expires");
    CHECK_EQ(get(c, "plain"), ZC_OK);
    CHECK_EQ(entries(c), 1);
    o.ttl = 5 * S;
    CHECK_EQ(put(c, "both", &o), ZC_OK);
    zct_step(&now, 5 * S);
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_OK); /* expired and invalidated: the latter */
    sweep(c);
    CHECK_EQ(told[ZC_CAUSE_INVALIDATED], 3);
    zc_close(c);
    CHECK_EQ(told[ZC_CAUSE_CLOSED], 1);
}

TEST(a_quiet_shard_is_not_swept) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc__shard *s = &c->shards[0];
    CHECK_EQ(s->next_expiry == ZC_NEVER, 1);
    CHECK_EQ(put_ttl(c, "a", 50 * S), ZC_OK);
    CHECK_EQ(s->next_expiry, now.mono + 50 * S);
    CHECK_EQ(put_ttl(c, "b", 20 * S), ZC_OK);
    CHECK_EQ(s->next_expiry, now.mono + 20 * S);
    CHECK_EQ(put_ttl(c, "c", 90 * S), ZC_OK);
    CHECK_EQ(s->next_expiry, now.mono + 20 * S);
    uint64_t at = now.mono;
    zct_step(&now, 20 * S);
    sweep(c);
    CHECK_EQ(s->next_expiry, at + 50 * S);
    zct_step(&now, 30 * S);
    sweep(c);
    CHECK_EQ(s->next_expiry, at + 90 * S);
    CHECK_EQ(zc_clear(c), ZC_OK);
    sweep(c);
    CHECK_EQ(put_ttl(c, "d", ZC_NEVER), ZC_OK);
    zct_step(&now, 90 * S);
    sweep(c);
    CHECK_EQ(s->next_expiry == ZC_NEVER, 1);
    zc_close(c);
}

/* What is put before or behind the cursor of a sweep is not overlooked. */
TEST(inserts_during_a_sweep) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc__shard *s = &c->shards[0];
    char key[16];
    for (unsigned i = 0; i < 400; i++) { /* and 20 more do not make the table grow */
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(put_ttl(c, key, (i % 2 ? 1000000 : 10) * S), ZC_OK);
    }
    uint32_t buckets = s->table.nbuckets;
    for (unsigned round = 0; round < 30; round++) {
        zc__entry *garbage = NULL;
        uint64_t start = now.mono;
        zct_step(&now, 10 * S);
        zc__spin_lock(&s->lock);
        bool done = zc__shard_sweep(c, s, 1 + round % buckets, now.mono, &garbage);
        zc__spin_unlock(&s->lock);
        zc__garbage_free(c, garbage);
        CHECK(!done && s->cursor != 0);
        for (unsigned i = 0; i < 20; i++) { /* here and there, before and behind the cursor */
            snprintf(key, sizeof key, "new%u", i);
            CHECK_EQ(put_ttl(c, key, (5 + i) * S), ZC_OK);
        }
        REQUIRE(s->table.nbuckets == buckets);
        while (!done) {
            garbage = NULL;
            zc__spin_lock(&s->lock);
            done = zc__shard_sweep(c, s, 3, now.mono, &garbage);
            zc__spin_unlock(&s->lock);
            zc__garbage_free(c, garbage);
        }
        CHECK(s->next_expiry <= start + 15 * S); /* the first of the new ones */
        CHECK(s->next_expiry > now.mono);
        zct_step(&now, 30 * S);
        sweep(c);
        CHECK_EQ(entries(c), 200);
    }
    zc_close(c);
}

/* An invalidation in the middle of a round, after which polling is done: nothing dead is left. */
TEST(invalidations_during_a_sweep) {
    for (unsigned first = 1; first < 30; first++) {
        zc_desc d = plain();
        zc_cache *c = open_with(&d);
        zc__shard *s = &c->shards[0];
        zc__entry *garbage = NULL;
        zc_put_opts o;
        zc_bytes dep = zc_str("t");
        char key[16];
        memset(&o, 0, sizeof o);
        o.deps = &dep;
        o.ndeps = 1;
        for (unsigned i = 0; i < 200; i++) {
            snprintf(key, sizeof key, "%u", i);
            CHECK_EQ(put(c, key, i % 2 ? &o : NULL), ZC_OK);
        }
        CHECK_EQ(zc_invalidate(c, zc_str("other")), ZC_OK); /* so that there is a round to do */
        CHECK(first < s->table.nbuckets);
        zc__spin_lock(&s->lock);
        (void)zc__shard_sweep(c, s, first, now.mono, &garbage);
        zc__spin_unlock(&s->lock);
        zc__garbage_free(c, garbage);
        CHECK_EQ(zc_invalidate(c, dep), ZC_OK);
        CHECK_EQ(zc_poll(c, ZC_SECOND), ZC_OK); /* "nothing is left to do now" */
        CHECK_EQ(entries(c), 100);
        CHECK_EQ(told[ZC_CAUSE_INVALIDATED], 100);
        zc_close(c);
    }
}

/* A shard that runs empty in the middle of a round does not keep the round's old aim. */
TEST(a_round_ends_when_the_shard_is_empty) {
    zc_desc d = plain();
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    zc_bytes dep = zc_str("t");
    char key[16];
    memset(&o, 0, sizeof o);
    o.deps = &dep;
    o.ndeps = 1;
    for (unsigned i = 0; i < 500; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(put(c, key, NULL), ZC_OK);
    }
    CHECK_EQ(zc_clear(c), ZC_OK);
    for (unsigned round = 0; round < 500; round++) {
        snprintf(key, sizeof key, "%u", round);
        CHECK_EQ(put(c, key, &o), ZC_OK); /* alone in some bucket */
        CHECK_EQ(zc_invalidate(c, dep), ZC_OK);
        CHECK_EQ(zc_poll(c, ZC_SECOND), ZC_OK);
        CHECK_EQ(entries(c), 0);
    }
    zc_close(c);
}

static uint64_t ticking(void *user) {
    zct_step((zct_time *)user, ZC_SECOND / 1000000);
    return zct_mono(user);
}

TEST(a_budget_stops_a_sweep_and_says_so) {
    zc_desc d = plain();
    d.clock.mono_ns = ticking; /* every look at it takes a microsecond */
    zc_cache *c = open_with(&d);
    char key[16];
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(put_ttl(c, key, S), ZC_OK);
    }
    zct_step(&now, 10 * S);
    unsigned calls = 1;
    size_t before = 5000, small = c->shards[0].shrink_below;
    while (zc_poll(c, 10 * ZC_MICROSECOND) == ZC_MORE) {
        size_t left = entries(c);
        /* Every call gets on, if only with the table, which shrinks. */
        CHECK(left < before || c->shards[0].old.nbuckets || left < small);
        before = left;
        calls++;
    }
    CHECK(calls > 5 && calls < 5000);
    CHECK_EQ(entries(c), 0);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 5000);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(eviction_names_what_was_over_anyway) {
    zc_desc d = plain();
    d.max_entries = 1;
    zc_cache *c = open_with(&d);
    zc_put_opts o;
    zc_bytes dep = zc_str("t");
    memset(&o, 0, sizeof o);
    o.deps = &dep;
    o.ndeps = 1;
    CHECK_EQ(put_ttl(c, "a", S), ZC_OK);
    zct_step(&now, S);
    CHECK_EQ(put(c, "b", &o), ZC_OK);
    CHECK_EQ(told[ZC_CAUSE_EXPIRED], 1);
    CHECK_EQ(zc_invalidate(c, dep), ZC_OK);
    CHECK_EQ(put(c, "c", NULL), ZC_OK);
    CHECK_EQ(told[ZC_CAUSE_INVALIDATED], 1);
    CHECK_EQ(put(c, "d", NULL), ZC_OK);
    CHECK_EQ(told[ZC_CAUSE_EVICTED], 1);
    CHECK_EQ(put(c, "d", NULL), ZC_OK);
    CHECK_EQ(told[ZC_CAUSE_REPLACED], 1);
    CHECK_EQ(zc_del(c, zc_str("d")), ZC_OK);
    CHECK_EQ(told[ZC_CAUSE_DELETED], 1);
    zc_close(c);
}
