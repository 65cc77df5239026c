/* Bounded frames: what a call does at once, counted in buckets, entries and bytes, never in time.
 * Growth in steps, clearing without looking at an entry, destructors in zc_poll() alone. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

static zct_mem mem;
static zct_time now;
static uint64_t removed[ZC_CAUSE_COUNT];

static void on_event(void *user, const zc_event *ev) {
    (void)user;
    removed[ev->cause]++;
}

static zc_cache *open_with(zc_desc d) {
    zc_cache *c;
    memset(&mem, 0, sizeof mem);
    memset(removed, 0, sizeof removed);
    now.mono = now.wall = 1000 * ZC_SECOND;
    d.no_thread = true;
    if (!d.seed) d.seed = 5;
    if (!d.shards) d.shards = 1;
    d.clock = zct_clock(&now);
    if (!d.block) d.allocator = zct_allocator(&mem);
    d.events = (zc_events){1, ZC_EVENT_REMOVED, on_event, NULL};
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    return c;
}

static void close_sound(zc_cache *c) {
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

static int put(zc_cache *c, unsigned i) {
    return zc_put(c, zc_slice(&i, sizeof i), zc_slice(&i, sizeof i), NULL);
}
static bool has(zc_cache *c, unsigned i) {
    unsigned got = 0;
    return zc_get_copy(c, zc_slice(&i, sizeof i), &got, sizeof got, NULL) == ZC_OK && got == i;
}
static void poll_all(zc_cache *c) {
    while (zc_poll(c, 0) == ZC_MORE) {}
}

/* ---- growth ---- */

/* No put moves or clears more than a few buckets, and everything is found at every step. */
static void grow_in_steps(zc_cache *c, unsigned n) {
    zc__shard *s = &c->shards[0];
    unsigned growths = 0, steps = 0;
    for (unsigned i = 0; i < n; i++) {
        uint32_t moved = s->moved, ready = s->ready;
        const zc__bucket *before = s->table.buckets;
        REQUIRE(put(c, i) == ZC_OK);
        if (s->table.buckets != before) { /* it has begun, of nothing */
            growths++;
            moved = ready = 0;
        }
        if (s->old.nbuckets) {
            steps++;
            CHECK(s->moved > moved && s->moved - moved <= ZC__MOVES);
            CHECK(s->ready - ready <= 2 * ZC__MOVES + 4);
            for (unsigned k = 0; k < 20; k++) CHECK(has(c, (unsigned)zct_below(i + 1)));
            CHECK(!has(c, i + 1));
            if (steps % 64 == 0) CHECK_EQ(zc_check(c), ZC_OK);
        } else {
            CHECK_EQ(s->ready, s->table.nbuckets);
        }
    }
    CHECK(growths > 5 && steps > n / 100);
    for (unsigned i = 0; i < n; i++) CHECK(has(c, i));
}

TEST(a_put_that_grows_the_table_moves_a_few_homes) {
    zc_cache *c = open_with((zc_desc){0});
    grow_in_steps(c, 20000);
    close_sound(c);
}

TEST(a_fixed_block_grows_in_the_same_steps) {
    static char block[4 << 20];
    memset(block, 0xa5, sizeof block);
    zc_cache *c = open_with((zc_desc){.block = block, .block_size = sizeof block});
    zc__shard *s = &c->shards[0];
    zc__free(&c->mem, s->table.buckets, s->table.nbuckets * sizeof(zc__bucket));
    memset(&s->table, 0, sizeof s->table); /* as if the block had been small at first */
    s->ready = 0;
    grow_in_steps(c, 12000);
    close_sound(c);
}

TEST(housekeeping_ends_a_growth) {
    zc_cache *c = open_with((zc_desc){0});
    zc__shard *s = &c->shards[0];
    unsigned n = 0;
    while (n < 1000 || !s->old.nbuckets) CHECK_EQ(put(c, n++), ZC_OK);
    for (uint32_t moved = s->moved; s->old.nbuckets; moved = s->moved) {
        CHECK_EQ(zc_poll(c, 0), ZC_MORE);
        CHECK(!s->old.nbuckets || (s->moved > moved && s->moved - moved <= ZC__MOVES));
        CHECK_EQ(zc_check(c), ZC_OK);
    }
    poll_all(c);
    zc_stats st;
    zc_stats_read(c, &st);
    CHECK_EQ(st.memory, mem.bytes);
    for (unsigned i = 0; i < n; i++) CHECK(has(c, i));
    close_sound(c);
}

static void del(zc_cache *c, unsigned i) {
    CHECK_EQ(zc_del(c, zc_slice(&i, sizeof i)), ZC_OK);
}

/* Deletes all of n but one in `each`. */
static void thin_out(zc_cache *c, unsigned n, unsigned each) {
    for (unsigned i = 0; i < n; i++)
        if (i % each) del(c, i);
}

TEST(a_table_that_is_nearly_empty_shrinks_in_the_same_steps) {
    enum { N = 20000, EACH = 200 };
    zc_cache *c = open_with((zc_desc){0});
    zc__shard *s = &c->shards[0];
    zc_stats st;
    unsigned more = N, steps = 0;
    for (unsigned i = 0; i < N; i++) CHECK_EQ(put(c, i), ZC_OK);
    poll_all(c);
    uint32_t large = s->table.nbuckets;
    thin_out(c, N, EACH);
    for (uint32_t moved = 0; zc_poll(c, 0) == ZC_MORE; moved = s->old.nbuckets ? s->moved : 0) {
        if (s->old.nbuckets) CHECK(s->moved <= moved + ZC__MOVES);
        CHECK(has(c, (unsigned)zct_below(N / EACH) * EACH));
        if (steps % 16 == 0) CHECK_EQ(put(c, more++), ZC_OK);
        if (steps % 64 == 0) CHECK_EQ(zc_check(c), ZC_OK);
        if (!CHECK(steps++ < 2 * N)) break;
    }
    CHECK(steps > large / ZC__MOVES);
    CHECK(s->table.nbuckets < large / 8 && !s->old.nbuckets);
    for (unsigned i = 0; i < N; i += EACH) CHECK(has(c, i));
    for (unsigned i = N; i < more; i++) CHECK(has(c, i));
    zc_stats_read(c, &st);
    CHECK_EQ(st.memory, mem.bytes);
    CHECK_EQ(zc_poll(c, 0), ZC_OK); /* and stays as it is */
    close_sound(c);
}

TEST(puts_that_come_while_a_table_shrinks_find_room) {
    enum { N = 20000 };
    zc_cache *c = open_with((zc_desc){0});
    zc__shard *s = &c->shards[0];
    for (unsigned i = 0; i < N; i++) CHECK_EQ(put(c, i), ZC_OK);
    poll_all(c);
    uint32_t large = s->table.nbuckets;
    thin_out(c, N, 10000);
    while (!s->old.nbuckets) CHECK_EQ(zc_poll(c, 0), ZC_MORE);
    CHECK_EQ(s->table.nbuckets, large / 8);
    for (unsigned i = N; i < 3 * N; i++) REQUIRE(put(c, i) == ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    for (unsigned i = N; i < 3 * N; i++) CHECK(has(c, i));
    close_sound(c);
}

TEST(without_memory_a_table_stays_large) {
    enum { N = 20000 };
    static char block[4 << 20];
    zc_cache *c = open_with((zc_desc){0});
    for (unsigned i = 0; i < N; i++) CHECK_EQ(put(c, i), ZC_OK);
    poll_all(c);
    thin_out(c, N, 10000);
    mem.count = 0;
    mem.fail_from = 1;
    poll_all(c); /* and does not try for ever */
    CHECK(has(c, 0) && has(c, 10000));
    mem.fail_from = 0;
    close_sound(c);
    /* A fixed block has its table from the start. */
    c = open_with((zc_desc){.block = block, .block_size = sizeof block});
    uint32_t n = c->shards[0].table.nbuckets;
    CHECK_EQ(put(c, 1), ZC_OK);
    poll_all(c);
    CHECK_EQ(c->shards[0].table.nbuckets, n);
    close_sound(c);
}

/* Deleting, replacing, expiring and sweeping while a table grows; against a plain array. */
TEST(anything_may_happen_during_a_growth) {
    enum { KEYS = 3001 };
    static bool in[KEYS];
    zc_cache *c = open_with((zc_desc){0});
    zc__shard *s = &c->shards[0];
    unsigned growing = 0;
    memset(in, 0, sizeof in);
    for (unsigned step = 0; step < 30000; step++) {
        unsigned i = (unsigned)zct_below(1 + step / 10);
        switch (zct_below(8)) {
        case 0:
            CHECK(zc_del(c, zc_slice(&i, sizeof i)) == ZC_OK || !in[i]); /* or one that is over */
            in[i] = false;
            break;
        case 1:
        case 2: CHECK_EQ(has(c, i), in[i]); break;
        case 3: {
            zc_put_opts o = {.ttl = ZC_SECOND};
            CHECK_EQ(zc_put(c, zc_slice(&i, sizeof i), zc_slice(&i, sizeof i), &o), ZC_OK);
            zct_step(&now, ZC_SECOND); /* is over at once */
            in[i] = false;
            break;
        }
        case 4:
            if (step % 16 == 0) (void)zc_poll(c, 0);
            break;
        default:
            CHECK_EQ(put(c, i), ZC_OK);
            in[i] = true;
        }
        growing += s->old.nbuckets != 0;
        if (step % 200 == 0) CHECK_EQ(zc_check(c), ZC_OK);
    }
    CHECK(growing > 100);
    poll_all(c);
    CHECK_EQ(zc_check(c), ZC_OK);
    unsigned held = 0;
    for (unsigned i = 0; i < KEYS; i++) {
        CHECK_EQ(has(c, i), in[i]);
        held += in[i];
    }
    CHECK_EQ(s->count, held);
    close_sound(c);
}

/* Without memory for a larger table, and then with it again. */
TEST(a_growth_without_memory_is_tried_again) {
    for (unsigned fails = 1; fails < 4; fails++) {
        zc_cache *c = open_with((zc_desc){0});
        zc__shard *s = &c->shards[0];
        unsigned n = 0, stored;
        while (n < 500 || s->old.nbuckets || (uint64_t)s->count * 7 < s->table.nbuckets * 42u)
            CHECK_EQ(put(c, n++), ZC_OK);
        for (stored = n; stored < n + fails * 10; stored++) {
            mem.fail_at = mem.count + 2; /* the entry can be had */
            CHECK_EQ(put(c, stored), ZC_OK);
            CHECK(!s->old.nbuckets);
        }
        mem.fail_at = 0;
        CHECK_EQ(put(c, stored++), ZC_OK);
        CHECK(s->old.nbuckets && s->moved == ZC__MOVES);
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c); /* in the middle of it */
        CHECK_EQ(mem.blocks, 0);
    }
}

/* ---- zc_clear ---- */

TEST(clearing_looks_at_no_entry) {
    zc_cache *c = open_with((zc_desc){.shards = 4});
    zc_stats st;
    enum { N = 5000 };
    for (unsigned i = 0; i < N; i++) CHECK_EQ(put(c, i), ZC_OK);
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK_EQ(removed[ZC_CAUSE_INVALIDATED], 0);
    zc_stats_read(c, &st);
    CHECK(st.entries == 0 && st.bytes == 0 && st.removed[ZC_CAUSE_INVALIDATED] == 0);
    CHECK_EQ(st.memory, mem.bytes); /* it is still there */
    CHECK_EQ(zc_check(c), ZC_OK);
    uint64_t before = 0;
    while (zc_poll(c, 0) == ZC_MORE) { /* a budget of nothing: one small step */
        CHECK(removed[ZC_CAUSE_INVALIDATED] - before <= 16);
        before = removed[ZC_CAUSE_INVALIDATED];
    }
    CHECK_EQ(removed[ZC_CAUSE_INVALIDATED], N);
    zc_stats_read(c, &st);
    CHECK_EQ(st.removed[ZC_CAUSE_INVALIDATED], N);
    CHECK_EQ(st.memory, mem.bytes);
    CHECK(st.memory < 5000 * 48);
    close_sound(c);
    CHECK_EQ(removed[ZC_CAUSE_CLOSED], 0);
}

/* To every function, what was cleared is as if it had never been, freed or not. */
TEST(what_was_cleared_is_not_there) {
    zc_cache *c = open_with((zc_desc){0});
    zc_put_opts o = {.soft_ttl = ZC_MILLISECOND, .ttl = ZC_SECOND, .stale_if_error = ZC_SECOND};
    zc_fetch_opts f = {.put = o, .serve_invalidated = true};
    zc_view v;
    zc_fill *fill;
    zc_explanation x;
    zc_stats st;
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), &f, &v, &fill), ZC_LEAD);
    CHECK_EQ(zc_fill_value(fill, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(fill, NULL), ZC_OK);
    zct_step(&now, 2 * ZC_MILLISECOND);
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK_EQ(c->shards[0].count, 1);
    CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_MISS);
    CHECK_EQ(zc_explain(c, zc_str("k"), &x), ZC_OK);
    CHECK(!x.present && x.state == ZC_MISS);
    CHECK_EQ(zc_del(c, zc_str("k")), ZC_MISS);
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), &f, &v, &fill), ZC_LEAD); /* no stale value */
    zc_flight_abandon(fill, ZC_E_USER);
    zc_stats_read(c, &st);
    CHECK(st.misses_absent >= 2 && st.misses_invalidated == 0);
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("new"), NULL), ZC_OK);
    CHECK(removed[ZC_CAUSE_INVALIDATED] == 1 && removed[ZC_CAUSE_REPLACED] == 0);
    CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_OK);
    zc_release(c, &v);
    close_sound(c);
}

/* Limits count what is not freed yet, and it goes before anything that lives. */
TEST(the_cleared_give_way_first) {
    enum { N = 200 };
    for (int bytes = 0; bytes < 2; bytes++) {
        size_t max = bytes ? SIZE_MAX : N;
        zc_cache *c = open_with((zc_desc){.max_entries = max, .max_bytes = bytes ? N * 64 : 0});
        zc__shard *s = &c->shards[0];
        unsigned i = 0;
        for (; i < 2 * N; i++) CHECK_EQ(put(c, i), ZC_OK);
        for (unsigned k = 0; k < 2 * N; k++) (void)has(c, k); /* some are hot */
        uint64_t evicted = removed[ZC_CAUSE_EVICTED];
        uint32_t held = s->count;
        for (int round = 0; round < 5; round++) {
            CHECK_EQ(zc_clear(c), ZC_OK);
            unsigned first = i;
            for (; i < first + held / 2; i++) {
                CHECK_EQ(put(c, i), ZC_OK);
                CHECK(s->count <= held && s->cost <= c->cost.max);
            }
            for (unsigned k = first; k < i; k++) CHECK(has(c, k));
            CHECK_EQ(zc_check(c), ZC_OK);
        }
        CHECK_EQ(removed[ZC_CAUSE_EVICTED], evicted);
        close_sound(c);
    }
}

/* An entry that was made before a zc_clear() and comes after it. */
static zc_cache *to_clear;
static void *alloc_and_clear(void *user, size_t size) {
    zc_cache *c = to_clear;
    to_clear = NULL;
    if (c) CHECK_EQ(zc_clear(c), ZC_OK);
    return zct_alloc(user, size);
}

TEST(what_comes_late_is_cleared_as_well) {
    zc_cache *c;
    memset(&mem, 0, sizeof mem);
    memset(removed, 0, sizeof removed);
    zc_desc d = {.shards = 1, .seed = 5, .no_thread = true, .max_entries = 10};
    d.allocator = (zc_allocator){1, alloc_and_clear, zct_free, &mem};
    d.events = (zc_events){1, ZC_EVENT_REMOVED, on_event, NULL};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    zc_stats st;
    for (unsigned round = 0; round < 40; round++) {
        if (round % 2) CHECK_EQ(put(c, 1), ZC_OK);
        CHECK_EQ(put(c, 2 + round), ZC_OK);
        to_clear = c;
        CHECK_EQ(put(c, 1), ZC_OK); /* the clear comes between */
        CHECK(!has(c, 1) && !has(c, 2 + round));
        zc_stats_read(c, &st);
        CHECK(st.entries == 0 && st.bytes == 0);
        CHECK_EQ(zc_check(c), ZC_OK);
        if (round % 3 == 0) poll_all(c);
        if (round % 3 == 1) CHECK_EQ(put(c, 1), ZC_OK);
    }
    poll_all(c);
    zc_stats_read(c, &st);
    uint64_t all = 0;
    for (int i = 0; i < ZC_CAUSE_COUNT; i++) all += removed[i];
    CHECK_EQ(all + st.entries, st.puts);
    CHECK_EQ(removed[ZC_CAUSE_EVICTED], 0);
    close_sound(c);
}

/* ---- the policy's ghosts, and what is large ---- */

/* The first eviction takes the ghosts and clears a few; each one after it clears a few more. */
TEST(ghosts_are_cleared_in_steps) {
    enum { N = 5000 };
    zc_cache *c = open_with((zc_desc){.max_entries = N});
    zc__policy *p = &c->shards[0].policy;
    for (unsigned i = 0; i < N; i++) CHECK_EQ(put(c, i), ZC_OK);
    CHECK(!p->ghosts && p->ghosts_ready == 0);
    unsigned steps = 0;
    for (unsigned i = N; steps == 0 || p->ghosts_ready < p->nghosts; i++, steps++) {
        uint32_t ready = p->ghosts_ready;
        CHECK_EQ(put(c, i), ZC_OK);
        CHECK(p->ghosts_ready > ready && p->ghosts_ready - ready <= ZC__GHOSTS_CLEARED);
        CHECK_EQ(zc_del(c, zc_slice(&i, sizeof i)), ZC_OK); /* looks for a ghost to leave */
        CHECK_EQ(put(c, i), ZC_OK);
    }
    CHECK(steps > 10);
    for (size_t i = 0; i < (size_t)p->nghosts * ZC__GHOST_WAYS; i++) {
        uint32_t g = p->ghosts[i]; /* the allocator has filled it with something else */
        CHECK(g != 0xa5a5a5a5u);
    }
    close_sound(c);
}

#ifdef ZC__PAGES
/* What malloc gave for large tables is given back in pieces, by the calls that follow. */
TEST(large_tables_are_given_back_in_pieces) {
    zc_cache *c;
    zc_desc d = {.shards = 1, .seed = 5, .no_thread = true};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    unsigned i = 0, pieces = 0;
    zc_stats before, after;
    for (; !c->mem.large && i < 1000000; i++) CHECK_EQ(put(c, i), ZC_OK);
    REQUIRE(c->mem.large != NULL);
    zc_stats_read(c, &before);
    size_t left = c->mem.large->left, size = c->mem.large->size;
    CHECK(c->mem.large_size == size && size >= 2 * ZC__PIECE);
    for (; c->mem.large; i++, pieces++) {
        CHECK(left - c->mem.large->left <= ZC__PIECE);
        left = c->mem.large->left;
        CHECK_EQ(put(c, i), ZC_OK);
    }
    CHECK(pieces >= size / ZC__PIECE - 2);
    zc_stats_read(c, &after);
    CHECK(after.memory < before.memory); /* it counts as long as it is there */
    CHECK_EQ(c->mem.large_size, 0);
    for (unsigned k = 0; k < i; k++) CHECK(has(c, k));
    CHECK_EQ(zc_check(c), ZC_OK);
    zc__free_large(&c->mem, malloc(1 << 20), 1 << 20); /* closing frees what is left */
    CHECK(c->mem.large != NULL);
    zc_close(c);
}
#endif

/* ---- very many dependencies ---- */

enum { DEPS = 5000, DEPS_LEFT = DEPS - ZC__BROAD };

/* Puts a value that depends on n:0 to n:4999; `o`: how else. */
static int put_broad(zc_cache *c, const char *key, zc_put_opts o) {
    static char text[DEPS][16];
    static zc_bytes deps[DEPS];
    for (unsigned i = 0; i < DEPS && !deps[i].ptr; i++) {
        snprintf(text[i], sizeof text[i], "n:%u", i);
        deps[i] = zc_str(text[i]);
    }
    o.deps = deps;
    o.ndeps = DEPS;
    return zc_put(c, zc_str(key), zc_str("v"), &o);
}

static unsigned idle_tags(zc_cache *c) {
    zc_stats st;
    zc_stats_read(c, &st);
    CHECK_EQ(st.memory, mem.bytes);
    return (unsigned)st.tags_idle;
}

/* The entry has just been let go of, or will be by these steps: in none of them of more than a few
 * dependencies, until there are none. */
static void parts_in_steps(zc_cache *c) {
    unsigned idle = idle_tags(c), more, steps = 0;
    CHECK(idle <= ZC__BROAD);
    for (; zc_poll(c, 0) == ZC_MORE; steps++, idle = more) {
        more = idle_tags(c);
        CHECK(more - idle <= 2 * ZC__BROAD);
        if (steps % 16 == 0) CHECK_EQ(zc_check(c), ZC_OK);
    }
    CHECK(steps >= DEPS_LEFT / (2 * ZC__BROAD));
    CHECK_EQ(idle_tags(c), DEPS);
    CHECK_EQ(zc_prune(c, 0), DEPS + 1);
}

TEST(an_entry_lets_go_of_its_dependencies_in_steps) {
    for (unsigned how = 0; how < 6; how++) {
        zc_cache *c = open_with((zc_desc){.max_entries = 1, .prune_after = ZC_NEVER});
        CHECK_EQ(put_broad(c, "k", (zc_put_opts){.ttl = ZC_SECOND}), ZC_OK);
        if (how == 0) CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
        if (how == 1) CHECK_EQ(zc_put(c, zc_str("k"), zc_str("w"), NULL), ZC_OK);
        if (how == 2) CHECK_EQ(zc_put(c, zc_str("other"), zc_str("w"), NULL), ZC_OK);
        if (how == 3) CHECK_EQ(zc_clear(c), ZC_OK);
        if (how == 4) zct_step(&now, 2 * ZC_SECOND);
        if (how == 5) CHECK_EQ(zc_invalidate(c, zc_str("n:0")), ZC_OK);
        parts_in_steps(c);
        close_sound(c);
    }
}

TEST(who_closes_or_prunes_waits_for_no_steps) {
    for (unsigned how = 0; how < 3; how++) {
        zc_view v;
        zc_stats st;
        zc_cache *c = open_with((zc_desc){0});
        CHECK_EQ(put_broad(c, "k", (zc_put_opts){0}), ZC_OK);
        CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_OK);
        CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
        zc_stats_read(c, &st);
        CHECK_EQ(st.tags_idle, 0); /* it is pinned */
        if (how < 2) zc_release(c, &v);
        if (how == 0) CHECK_EQ(zc_prune(c, 0), DEPS + 1);
        zc_close(c); /* in the middle of it, or before */
        if (how == 2) zc_release(c, &v);
        CHECK_EQ(mem.blocks, 0);
    }
}

/* Though nobody keeps house, what is left to be freed does not add up. */
TEST(who_puts_many_dependencies_lets_go_of_as_many) {
    zc_cache *c = open_with((zc_desc){0});
    for (unsigned i = 0; i < 50; i++) {
        CHECK_EQ(put_broad(c, "k", (zc_put_opts){0}), ZC_OK);
        CHECK(c->parting_size <= 2 * DEPS * sizeof(zc_tag *));
    }
    (void)idle_tags(c);
    close_sound(c);
}

TEST(a_full_block_has_the_memory_of_what_is_being_freed) {
    static char block[1 << 20];
    zc_cache *c = open_with((zc_desc){.block = block, .block_size = sizeof block});
    static char large[300000];
    for (unsigned i = 0; i < 20; i++) {
        CHECK_EQ(put_broad(c, "k", (zc_put_opts){0}), ZC_OK);
        CHECK_EQ(zc_put(c, zc_str("large"), zc_slice(large, sizeof large), NULL), ZC_OK);
        CHECK_EQ(zc_put(c, zc_str("k"), zc_slice(large, sizeof large / 2), NULL), ZC_OK);
        CHECK_EQ(zc_check(c), ZC_OK);
    }
    zc_close(c);
}

/* One step of sweeping; how many dependencies it has looked at, of an entry alone in its table. */
static uint32_t sweeps(zc_cache *c, int *rc) {
    zc__shard *s = &c->shards[0];
    uint32_t at = s->broad_at;
    *rc = zc_poll(c, 0);
    return s->broad_at ? s->broad_at - at : DEPS - at;
}

TEST(sweeping_looks_at_many_dependencies_in_steps) {
    int rc;
    for (unsigned how = 0; how < 4; how++) {
        zc_cache *c = open_with((zc_desc){.prune_after = ZC_NEVER});
        zc__shard *s = &c->shards[0];
        unsigned steps = 0;
        CHECK_EQ(put_broad(c, "k", (zc_put_opts){0}), ZC_OK);
        CHECK_EQ(put_broad(c, "l", (zc_put_opts){0}), ZC_OK);
        uint64_t begin = zc__published(&c->trie);
        CHECK_EQ(zc_del(c, zc_str("l")), ZC_OK);
        poll_all(c);
        zc__entry *e = zc__table_find(s, zc__hash(zc_str("k"), c->seed), zc_str("k"));
        REQUIRE(e != NULL);
        zc_tag *first = zc__entry_deps(e)[0], *last = zc__entry_deps(e)[DEPS - 1];
        if (how == 1) CHECK_EQ(zc_invalidate_tag(c, last), ZC_OK);
        else CHECK_EQ(zc_invalidate(c, zc_str("unrelated")), ZC_OK);
        uint64_t published = zc__published(&c->trie);
        zct_step(&now, 10 * ZC_SECOND);
        do {
            CHECK(sweeps(c, &rc) <= ZC__BROAD);
            if (!CHECK(steps++ < 2 * DEPS)) break;
            if (steps != DEPS / ZC__BROAD / 2) continue;
            if (how == 2) CHECK_EQ(zc_invalidate_tag(c, first), ZC_OK); /* seen already */
            if (how == 3) CHECK_EQ(put_broad(c, "k", (zc_put_opts){0}), ZC_OK); /* not this one */
        } while (s->broad_at);
        CHECK(steps >= (how == 3 ? DEPS / ZC__BROAD / 2 : DEPS / ZC__BROAD));
        e = zc__table_find(s, zc__hash(zc_str("k"), c->seed), zc_str("k"));
        CHECK_EQ(e != NULL, how != 1);
        if (how == 0) CHECK(e && e->begin == published && begin < published);
        if (how == 2) CHECK(e && e->begin == published && published < zc__published(&c->trie));
        zc_view v;
        CHECK_EQ(zc_get(c, zc_str("k"), &v), how == 1 || how == 2 ? ZC_MISS : ZC_OK);
        zc_release(c, &v);
        poll_all(c);
        s->next_sweep = 0;
        poll_all(c);
        CHECK_EQ(s->count, how == 1 || how == 2 ? 0 : 1);
        close_sound(c);
    }
}

/* Several of them in a bucket, some of which may be served though invalidated, and always something
 * new is invalidated: a round ends all the same, and the next one finds what is dead. */
TEST(sweeping_comes_to_an_end) {
    zc_cache *c = open_with((zc_desc){.prune_after = ZC_NEVER});
    zc__shard *s = &c->shards[0];
    char key[16];
    unsigned steps = 0;
    for (unsigned i = 0; i < 6; i++) {
        zc_view v;
        zc_fill *fill;
        zc_fetch_opts f = {.serve_invalidated = true};
        snprintf(key, sizeof key, "k%u", i);
        CHECK_EQ(put_broad(c, key, (zc_put_opts){0}), ZC_OK);
        snprintf(key, sizeof key, "f%u", i);
        CHECK_EQ(zc_flight_begin(c, zc_str(key), &f, &v, &fill), ZC_LEAD);
        for (unsigned k = 0; k < 200; k++) {
            char tag[16];
            snprintf(tag, sizeof tag, "n:%u", k);
            CHECK_EQ(zc_fill_dep(fill, zc_str(tag)), ZC_OK);
        }
        CHECK_EQ(zc_fill_value(fill, zc_str("v")), ZC_OK);
        CHECK_EQ(zc_flight_commit(fill, NULL), ZC_OK);
    }
    CHECK_EQ(zc_invalidate(c, zc_str("n:100")), ZC_OK);
    CHECK_EQ(put_broad(c, "new", (zc_put_opts){0}), ZC_OK);
    uint64_t dead = zc__published(&c->trie);
    zct_step(&now, 10 * ZC_SECOND);
    while (s->swept < dead && CHECK(steps++ < 20 * DEPS / ZC__BROAD)) {
        CHECK_EQ(zc_invalidate(c, zc_str("unrelated")), ZC_OK);
        (void)zc_poll(c, 0);
        s->next_sweep = 0;
    }
    CHECK_EQ(s->count, 7);
    close_sound(c);
}

#ifdef ZC__PAGES
/* What malloc took from the system for a large value goes back a piece at a time. */
TEST(a_large_value_is_given_back_in_pieces) {
    enum { SIZE = 4 << 20 };
    static char large[SIZE];
    for (unsigned how = 0; how < 4; how++) {
        zc_cache *c;
        zc_stats st;
        zc_desc d = {.shards = 1, .seed = 5, .no_thread = true, .clock = zct_clock(&now)};
        zc_put_opts o = {.ttl = ZC_SECOND};
        unsigned pieces = 0;
        now.mono = now.wall = 1000 * ZC_SECOND;
        REQUIRE(zc_open(&d, &c) == ZC_OK);
        poll_all(c);
        CHECK_EQ(zc_put(c, zc_str("k"), zc_slice(large, SIZE), &o), ZC_OK);
        zc_stats_read(c, &st);
        size_t before = st.memory, left = SIZE + 1000;
        if (how == 0) CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
        if (how == 1) CHECK_EQ(zc_put(c, zc_str("k"), zc_str("small"), NULL), ZC_OK);
        if (how == 2) CHECK_EQ(zc_clear(c), ZC_OK);
        if (how == 3) zct_step(&now, 2 * ZC_SECOND);
        for (; zc_poll(c, 0) == ZC_MORE; pieces++) {
            size_t next = c->mem.large ? c->mem.large->left : 0;
            CHECK(next >= 2 * ZC__PIECE || left <= 3 * ZC__PIECE);
            CHECK(left - next <= 2 * ZC__PIECE || !next);
            if (next) left = next;
        }
        CHECK(pieces >= SIZE / ZC__PIECE - 3);
        CHECK(!c->mem.large && c->mem.large_size == 0);
        zc_stats_read(c, &st);
        CHECK(st.memory + SIZE / 2 < before);
        /* Who puts as much frees as much, and leaves it to malloc. */
        for (unsigned i = 0; i < 20; i++) {
            CHECK_EQ(zc_put(c, zc_str("k"), zc_slice(large, SIZE), NULL), ZC_OK);
            CHECK(c->mem.large_size <= SIZE + 1000);
        }
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
    }
}
#endif

#ifndef ZOOCACHE_NO_THREADS
/* A poll frees some of what the readers of other threads have kept, and the next ones the rest. */
TEST(limbos_are_emptied_in_steps) {
    enum { EACH = ZC__LIMBO_FEW - 1, SEATS = ZC__SEATS - 1 };
    zc_cache *c;
    zc_desc d = {.shards = 1, .seed = 5, .no_thread = true};
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    uint32_t me = zc__number, all = 0, n = 0;
    for (zc__number = 1; zc__number <= SEATS; zc__number++) {
        for (unsigned i = 0; i < EACH; i++) {
            CHECK_EQ(put(c, i), ZC_OK);
            del(c, i);
        }
    }
    zc__number = me;
    for (unsigned i = 0; i < ZC__SEATS; i++) all += c->rcu->seat[i].n;
    CHECK_EQ(all, EACH * SEATS);
    for (unsigned polls = 0; all && CHECK(polls < 2 * EACH * SEATS / ZC__LIMBOS_MOST); polls++) {
        (void)zc_poll(c, 0);
        n = 0;
        for (unsigned i = 0; i < ZC__SEATS; i++) n += c->rcu->seat[i].n;
        CHECK(all - n < ZC__LIMBOS_MOST + EACH);
        all = n;
    }
    zc_close(c);
}
#endif

/* ---- destructors in zc_poll() ---- */

enum { THINGS = 400 };
static unsigned char things[THINGS];
static unsigned dropped[THINGS], ndropped;
static bool polling; /* only then a destructor may run */

static void drop_thing(void *user, void *object, size_t size) {
    CHECK(user == things && size == 7);
    CHECK(polling);
    if (ndropped < THINGS) dropped[ndropped++] = (unsigned)((unsigned char *)object - things);
}

static int put_thing_so(zc_cache *c, const char *key, unsigned i, const zc_put_opts *opts) {
    return zc_put_object(c, zc_str(key), &things[i], 7, drop_thing, things, opts);
}

static int put_thing(zc_cache *c, const char *key, unsigned i) {
    return put_thing_so(c, key, i, NULL);
}

/* One small step of housekeeping; how many destructors it has called. */
static unsigned step(zc_cache *c, int *rc) {
    unsigned before = ndropped;
    polling = true;
    *rc = zc_poll(c, 0);
    polling = false;
    return ndropped - before;
}

static zc_cache *open_dropping(zc_desc d) {
    ndropped = 0;
    polling = false;
    d.drop_in_poll = true;
    return open_with(d);
}

static void close_dropping(zc_cache *c, unsigned all) {
    CHECK_EQ(zc_check(c), ZC_OK);
    polling = true; /* what is left */
    zc_close(c);
    CHECK_EQ(ndropped, all);
    CHECK_EQ(mem.blocks, 0);
    bool seen[THINGS] = {false};
    for (unsigned i = 0; i < all; i++) {
        CHECK(!seen[dropped[i]]);
        seen[dropped[i]] = true;
    }
}

TEST(destructors_wait_for_polls_and_go_one_by_one) {
    zc_cache *c = open_dropping((zc_desc){.max_entries = 2});
    zc_view v;
    int rc;
    CHECK_EQ(put_thing(c, "a", 0), ZC_OK);
    CHECK_EQ(put_thing(c, "a", 1), ZC_OK); /* replaced: 0 */
    CHECK_EQ(zc_del(c, zc_str("a")), ZC_OK);
    CHECK_EQ(put_thing(c, "b", 2), ZC_OK);
    CHECK_EQ(zc_get(c, zc_str("b"), &v), ZC_OK);
    CHECK(v.data == &things[2]);
    CHECK_EQ(zc_put(c, zc_str("b"), zc_str("bytes"), NULL), ZC_OK); /* 2 is pinned */
    CHECK_EQ(put_thing(c, "c", 3), ZC_OK);
    CHECK_EQ(zc_put(c, zc_str("d"), zc_str("1"), NULL), ZC_OK);
    CHECK_EQ(zc_put(c, zc_str("e"), zc_str("2"), NULL), ZC_OK); /* 3 is evicted */
    zc_release(c, &v);                                          /* the last hold on 2 */
    CHECK_EQ(removed[ZC_CAUSE_REPLACED], 2); /* events are told at once */
    CHECK_EQ(ndropped, 0);
    while (ndropped < 4) {
        CHECK(step(c, &rc) <= 1);
        CHECK_EQ(rc, ZC_MORE);
    }
    const unsigned order[] = {0, 1, 3, 2}; /* as they were let go */
    for (unsigned i = 0; i < 4; i++) CHECK_EQ(dropped[i], order[i]);
    CHECK_EQ(step(c, &rc), 0);
    CHECK_EQ(rc, ZC_OK);
    /* Cleared, expired, invalidated; and what is left goes with the cache. */
    zc_bytes tag = zc_str("t");
    zc_put_opts o = {.deps = &tag, .ndeps = 1};
    CHECK_EQ(put_thing(c, "f", 4), ZC_OK);
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK_EQ(put_thing_so(c, "g", 5, &o), ZC_OK);
    CHECK_EQ(zc_invalidate(c, tag), ZC_OK);
    o.ttl = ZC_SECOND;
    CHECK_EQ(put_thing_so(c, "h", 6, &o), ZC_OK);
    zct_step(&now, 20 * ZC_SECOND);
    do CHECK(step(c, &rc) <= 1);
    while (rc == ZC_MORE);
    CHECK_EQ(ndropped, 7);
    CHECK_EQ(put_thing(c, "i", 7), ZC_OK);
    CHECK_EQ(put_thing(c, "i", 8), ZC_OK);
    CHECK_EQ(ndropped, 7);
    close_dropping(c, 9);
}

TEST(destructors_of_fills_wait_as_well) {
    zc_cache *c = open_dropping((zc_desc){0});
    zc_view v;
    zc_fill *fill;
    int rc;
    for (unsigned how = 0; how < 4; how++) {
        CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &fill), ZC_LEAD);
        CHECK_EQ(zc_fill_object(fill, &things[2 * how], 7, drop_thing, things), ZC_OK);
        CHECK_EQ(zc_fill_object(fill, &things[2 * how + 1], 7, drop_thing, things), ZC_OK);
        if (how == 0) zc_flight_abandon(fill, ZC_E_USER);
        if (how == 1) CHECK_EQ(zc_fill_value(fill, zc_str("bytes")), ZC_OK);
        if (how == 2) zc_fill_no_store(fill);
        if (how > 0) CHECK(zc_flight_commit(fill, &v) >= 0);
        zc_release(c, &v);
        CHECK_EQ(ndropped, 2 * how);
        if (how != 3) do CHECK(step(c, &rc) <= 1);
            while (rc == ZC_MORE);
        (void)zc_del(c, zc_str("k"));
    }
    CHECK_EQ(ndropped, 6);
    do CHECK(step(c, &rc) <= 1);
    while (rc == ZC_MORE);
    CHECK_EQ(ndropped, 8);
    /* Without memory for its place in the queue an object stays the caller's. */
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &fill), ZC_LEAD);
    mem.fail_from = mem.count + 1;
    CHECK_EQ(zc_fill_object(fill, &things[8], 7, drop_thing, things), ZC_E_NOMEM);
    mem.fail_from = 0;
    CHECK_EQ(zc_flight_commit(fill, &v), ZC_E_LOADER);
    close_dropping(c, 8);
}

TEST(an_object_that_outlives_its_cache_goes_with_its_view) {
    zc_cache *c = open_dropping((zc_desc){0});
    zc_view v;
    CHECK_EQ(put_thing(c, "a", 0), ZC_OK);
    CHECK_EQ(zc_get(c, zc_str("a"), &v), ZC_OK);
    zc_close(c);
    CHECK_EQ(ndropped, 0);
    polling = true; /* nobody polls any more */
    zc_release(c, &v);
    CHECK_EQ(ndropped, 1);
    CHECK_EQ(mem.blocks, 0);
}

#ifndef ZOOCACHE_NO_THREADS
#include <pthread.h>

static pthread_t poller;
static unsigned strangers, drops_seen;
static void drop_here(void *user, void *object, size_t size) {
    (void)user, (void)object, (void)size;
    if (!pthread_equal(pthread_self(), poller)) strangers++;
    drops_seen++;
}

static unsigned working;
static void *let_go(void *user) {
    zc_cache *c = (zc_cache *)user;
    uint64_t random = (uintptr_t)&random;
    for (unsigned i = 0; i < 3000; i++) {
        zc_put_opts o = {.ttl = 1 + zc__random(&random) % ZC_MILLISECOND};
        unsigned key = (unsigned)zc__random(&random) % 64;
        zc_bytes k = zc_slice(&key, sizeof key);
        zc_view v;
        CHECK_EQ(zc_put_object(c, k, things, 1, drop_here, NULL, &o), ZC_OK);
        if (zc_get(c, k, &v) >= 0) zc_release(c, &v);
        if (i % 7 == 0) (void)zc_del(c, k);
        if (i % 500 == 0) CHECK_EQ(zc_clear(c), ZC_OK);
    }
    __atomic_sub_fetch(&working, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

/* Other threads put, evict, delete and release, and one keeps house: none calls a destructor. */
TEST(destructors_run_in_the_polling_thread_alone) {
    enum { THREADS = 3 };
    zc_cache *c;
    zc_desc d = {.max_entries = 32, .shards = 4, .drop_in_poll = true};
    pthread_t t[THREADS];
    zc_stats st;
    poller = pthread_self();
    strangers = drops_seen = 0;
    working = THREADS;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (unsigned i = 0; i < THREADS; i++) REQUIRE(pthread_create(&t[i], NULL, let_go, c) == 0);
    while (__atomic_load_n(&working, __ATOMIC_ACQUIRE)) (void)zc_poll(c, 100 * ZC_MICROSECOND);
    for (unsigned i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    zc_stats_read(c, &st);
    zc_close(c);
    CHECK_EQ(strangers, 0);
    CHECK_EQ(drops_seen, st.puts);
}
#endif
