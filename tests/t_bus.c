/* >>bus and >>store with several nodes: caches that share a log in memory. */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "log_bus.h"

#define NODES 3
#define T (1000 * ZC_MILLISECOND)

/* Nodes without threads: time moves, and the log is read, when the test says so. */
typedef struct fleet {
    zct_mem mem;
    zct_time time;
    log_hub hub;
    fault_store store;
    log_node node[NODES];
    zc_cache *c[NODES];
    unsigned n;
} fleet;

static zc_desc desc_of(fleet *f, unsigned i, const zc_desc *base) {
    zc_desc d = *base;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.no_thread = true;
    d.bus = lb_hook(&f->node[i], base->bus.version == 99);
    if (base->store.version == 99) d.store = fs_hook(&f->store, false);
    else memset(&d.store, 0, sizeof d.store);
    return d;
}

static bool join(fleet *f, unsigned i, const zc_desc *base) {
    zc_desc d = desc_of(f, i, base);
    f->node[i].hub = &f->hub;
    return CHECK_EQ(zc_open(&d, &f->c[i]), ZC_OK);
}

static bool start(fleet *f, unsigned n, zc_desc base) {
    memset(f, 0, sizeof *f);
    f->time.mono = 5 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f->hub);
    fs_init(&f->store);
    f->n = n;
    for (unsigned i = 0; i < n; i++)
        if (!join(f, i, &base)) return false;
    return true;
}

static void stop(fleet *f) {
    for (unsigned i = 0; i < f->n; i++) {
        if (!f->c[i]) continue;
        CHECK_EQ(zc_check(f->c[i]), ZC_OK);
        zc_close(f->c[i]);
        CHECK_EQ(f->node[i].closes, 1);
    }
    fs_destroy(&f->store);
    lb_destroy(&f->hub);
}

static void poll_all(fleet *f) {
    for (unsigned i = 0; i < f->n; i++)
        if (f->c[i])
            while (zc_poll(f->c[i], ZC_MILLISECOND) == ZC_MORE) {}
}

/* Reads; if there is a value, it must be this one. */
static int get(zc_cache *c, const char *key, const char *value) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    if (rc == ZC_OK || rc == ZC_STALE) {
        CHECK_EQ(v.size, strlen(value));
        CHECK(v.size == strlen(value) && memcmp(v.data, value, v.size) == 0);
        zc_release(c, &v);
    } else {
        CHECK(!v.pin && !v.data);
    }
    return rc;
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

/* As a thread that reads does it. */
static int read_log(zc_cache *c) {
    if (!zc__timed_lock(&c->bus.reading, &c->clock, 0)) return ZC_E_BUSY;
    int rc = zc__bus_read(c, 0);
    zc__timed_unlock(&c->bus.reading);
    return rc;
}

TEST(an_invalidation_reaches_the_others) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zct_put(f.c[0], "k", "0", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "other", "1", "org:2"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "0"), ZC_MISS); /* here at once */
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);   /* there when it is heard */
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "other", "1"), ZC_OK);
    CHECK_EQ(stats(f.c[1]).bus_entries, 1);
    CHECK_EQ(stats(f.c[0]).bus_entries, 1); /* its own, with the answer */
    zc_bytes two[] = {zc_str("org:2"), zc_str("a:b")};
    CHECK_EQ(zc_invalidate_many(f.c[0], two, 2), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "other", "1"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "all", "1", NULL), ZC_OK);
    CHECK_EQ(zc_clear(f.c[0]), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "all", "1"), ZC_MISS);
    stop(&f);
}

TEST(a_fill_after_ones_own_invalidation_stays) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "k", "new", "t"), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "k", "new"), ZC_OK);
    stop(&f);
}

TEST(the_lease_bounds_what_is_served) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    poll_all(&f);
    f.node[1].down = true;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    zct_step(&f.time, T);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK); /* T, to the nanosecond */
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    char buf[8];
    CHECK_EQ(zc_get_copy(f.c[1], zc_str("k"), buf, sizeof buf, NULL), ZC_MISS);
    zc_bytes key = zc_str("k");
    zc_view view;
    int result;
    CHECK_EQ(zc_get_many(f.c[1], &key, 1, &view, &result), 0);
    CHECK_EQ(result, ZC_MISS);
    CHECK(stats(f.c[1]).bus_silent >= 3);
    CHECK(stats(f.c[1]).bus_errors >= 1);
    CHECK(stats(f.c[1]).bus_age > T);
    f.node[1].down = false;
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS); /* now it is invalidated */
    CHECK_EQ(stats(f.c[1]).bus_breaks, 0);    /* nothing was lost: no flush */
    stop(&f);
}

TEST(what_was_not_invalidated_survives_an_outage) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    f.node[1].down = true;
    zct_step(&f.time, 10 * T);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    f.node[1].down = false;
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    stop(&f);
}

static int load_text(zc_fill *fill, void *user) {
    CHECK_EQ(zc_fill_dep(fill, zc_str("t")), ZC_OK);
    return zc_fill_value(fill, zc_str((const char *)user));
}

TEST(silence_by_policy) {
    fleet f;
    zc_view v;
    char text[] = "loaded";
    zc_fetch_opts error = {.silence = ZC_SILENCE_ERROR}, serve = {.silence = ZC_SILENCE_SERVE},
                  bypass = {.silence = ZC_SILENCE_BYPASS};
    if (!start(&f, 1, (zc_desc){.max_staleness = T, .max_stale = 5 * T,
                                .silence = ZC_SILENCE_SERVE}))
        return;
    CHECK_EQ(zct_put(f.c[0], "k", "1", "t"), ZC_OK);
    f.node[0].down = true;
    zct_step(&f.time, 6 * T);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_STALE);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_text, text, &error, &v), ZC_E_BUS);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_text, text, &serve, &v), ZC_STALE);
    CHECK_EQ(v.size, 1);
    zc_release(f.c[0], &v);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_text, text, &bypass, &v), ZC_OK);
    CHECK_EQ(v.size, 6);
    zc_release(f.c[0], &v);
    zct_step(&f.time, 1); /* beyond max_stale */
    CHECK_EQ(get(f.c[0], "k", "loaded"), ZC_MISS);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_text, text, &serve, &v), ZC_OK);
    CHECK_EQ(v.size, 6);
    zc_release(f.c[0], &v);
    stop(&f);
}

TEST(what_was_killed_is_not_served_stale_in_silence) {
    fleet f;
    zc_view v;
    char text[] = "loaded";
    if (!start(&f, 1, (zc_desc){.max_staleness = T, .max_stale = 5 * T,
                                .silence = ZC_SILENCE_SERVE}))
        return;
    CHECK_EQ(zct_put(f.c[0], "k", "1", "t"), ZC_OK);
    f.node[0].down = true;
    zct_step(&f.time, 2 * T);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_MISS);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_text, text, NULL, &v), ZC_OK);
    CHECK_EQ(v.size, 6);
    zc_release(f.c[0], &v);
    stop(&f);
}

static size_t pending;
static int append_and_look(void *user, const zc_bytes *tags, size_t n, bool durable,
                           uint64_t position, zc_bus_sink *sink) {
    log_node *b = (log_node *)user;
    pending = stats(b->cache).bus_pending;
    return lb_append(user, tags, n, durable, position, sink);
}

TEST(what_is_on_its_way_is_pending) {
    fleet f;
    if (!start(&f, 0, (zc_desc){0})) return;
    zc_desc base = {.ack = ZC_ASYNC}, d = desc_of(&f, 0, &base);
    d.bus.append = append_and_look;
    f.node[0].hub = &f.hub;
    f.n = 1;
    if (!CHECK_EQ(zc_open(&d, &f.c[0]), ZC_OK)) return;
    f.node[0].cache = f.c[0];
    zc_bytes two[] = {zc_str("a"), zc_str("b")};
    CHECK_EQ(zc_invalidate_many(f.c[0], two, 2), ZC_OK);
    CHECK_EQ(stats(f.c[0]).bus_pending, 2);
    poll_all(&f);
    CHECK_EQ(pending, 2);
    CHECK_EQ(stats(f.c[0]).bus_pending, 0);
    CHECK_EQ(zc_clear(f.c[0]), ZC_OK);
    poll_all(&f);
    CHECK_EQ(pending, 1);
    CHECK_EQ(stats(f.c[0]).bus_pending, 0);
    stop(&f);
}

TEST(an_invalidation_that_cannot_be_told_is_kept) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t:a"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "l", "1", "u"), ZC_OK);
    f.node[0].down = true;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t:a")), ZC_E_BUS);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t:a")), ZC_E_BUS);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("v")), ZC_E_BUS);
    CHECK_EQ(stats(f.c[0]).bus_pending, 2);
    uint64_t appends = f.node[0].appends;
    CHECK_EQ(appends, 1); /* the others did not even try: the time-out is paid once */
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    f.node[0].down = false;
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(stats(f.c[0]).bus_pending, 0);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "l", "1"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("u")), ZC_OK); /* and the bus is up again */
    stop(&f);
}

TEST(the_outbox_is_bounded) {
    fleet f;
    char tag[200];
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "a:0"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "l", "1", "b:0"), ZC_OK);
    f.node[0].down = true;
    for (int i = 0; i < 2000; i++) {
        snprintf(tag, sizeof tag, "a:%0100d", i);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str(tag)), ZC_E_BUS);
        CHECK(f.c[0]->bus.outbox.size <= ZC__OUTBOX_BYTES);
    }
    CHECK(stats(f.c[0]).bus_pending < 700); /* collapsed to "a", at least once */
    f.node[0].down = false;
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    /* Many first segments: everything. */
    f.node[0].down = true;
    for (int i = 0; i < 2000; i++) {
        snprintf(tag, sizeof tag, "%0100d", i);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str(tag)), ZC_E_BUS);
    }
    CHECK_EQ(stats(f.c[0]).bus_pending, 1);
    f.node[0].down = false;
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "l", "1"), ZC_MISS);
    stop(&f);
}

/* Each tag is found by its hash, in a few steps, however many there are. */
TEST(a_full_outbox_is_not_searched) {
    fleet f;
    zc_desc none = {.ack = ZC_ASYNC, .seed = 1};
    if (!start(&f, 2, none)) return;
    zc__bus *b = &f.c[0]->bus;
    for (unsigned round = 0; round < 3; round++) { /* each is there already in the later ones */
        for (unsigned i = 0; i < 4000; i++) {
            char tag[24];
            snprintf(tag, sizeof tag, "org:%u", i * 7919);
            CHECK_EQ(zc_invalidate(f.c[0], zc_str(tag)), ZC_OK);
        }
        CHECK_EQ(b->outbox_tags, 4000);
    }
    size_t steps = 0, longest = 0, taken = 0;
    zc__monitor_lock(&b->out);
    for (size_t at = 0, len; at < b->outbox.size; at += 2 + len) {
        len = zc__get16(b->outbox.ptr + at);
        zc_bytes tag = zc_slice(b->outbox.ptr + at + 2, len);
        size_t home = (size_t)zc__hash(tag, f.c[0]->seed);
        size_t found = (size_t)(zc__outbox_slot(f.c[0], tag) - b->index);
        size_t n = (found - home) & (b->index_size - 1);
        CHECK_EQ(b->index[found], at + 1);
        steps += n;
        if (n > longest) longest = n;
    }
    zc__monitor_unlock(&b->out);
    for (size_t i = 0; i < b->index_size; i++) taken += b->index[i] != 0;
    CHECK_EQ(taken, 4000);
    CHECK(b->index_size >= 8000 && b->index_size <= 16384);
    CHECK(steps < 4000 && longest < 64);
    CHECK_EQ(zct_put(f.c[1], "k", "v", "org:7919"), ZC_OK);
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
    CHECK_EQ(b->outbox_tags + b->index_size, 0);
    stop(&f);
}

TEST(the_outbox_without_memory_is_everything) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "a"), ZC_OK);
    f.node[0].down = true;
    f.mem.count = 0;
    f.mem.fail_from = 1;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("z")), ZC_E_BUS);
    f.mem.fail_from = 0;
    CHECK_EQ(stats(f.c[0]).bus_pending, 1);
    f.node[0].down = false;
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    stop(&f);
}

TEST(async_writers_do_not_wait) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.ack = ZC_ASYNC})) return;
    CHECK_EQ(zct_put(f.c[0], "k", "0", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    for (int i = 0; i < 10; i++) CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(f.node[0].appends, 0);
    CHECK_EQ(get(f.c[0], "k", "0"), ZC_MISS);
    poll_all(&f);
    poll_all(&f);
    CHECK_EQ(f.node[0].appends, 1); /* coalesced */
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("u")), ZC_OK);
    zc_close(f.c[0]); /* sends what is left */
    f.c[0] = NULL;
    CHECK_EQ(f.node[0].appends, 2);
    stop(&f);
}

TEST(a_gap_is_a_flush) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    for (int i = 0; i < 5; i++) CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    lb_forget(&f.hub, 3); /* the ones that would have killed it */
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_breaks, 1);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "k", "2", "t"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_OK);
    stop(&f);
}

TEST(another_log_is_a_flush_and_positions_may_come_again) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    for (int i = 0; i < 7; i++) CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    lb_restart(&f.hub, 2);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "k", "2", "t"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK); /* attaches anew by itself */
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_MISS);
    stop(&f);
}

TEST(an_invalidation_finds_another_log) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zct_put(f.c[0], "k", "1", "t"), ZC_OK);
    lb_restart(&f.hub, 0);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(f.hub.tail, 1);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_MISS);
    stop(&f);
}

TEST(entries_in_pieces_and_twice) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    f.node[1].most = 2;
    f.node[1].repeat = 3;
    for (int i = 0; i < 9; i++) CHECK_EQ(zc_invalidate(f.c[0], zc_str(i == 8 ? "t" : "x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_entries, 9); /* each once */
    CHECK_EQ(stats(f.c[1]).bus_breaks, 0);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    stop(&f);
}

static zc_cache *the_cache;
static int retry_after_another(void *user, const zc_bytes *tags, size_t n, bool durable,
                               uint64_t position, zc_bus_sink *sink) {
    (void)sink;
    CHECK_EQ(read_log(the_cache), ZC_OK); /* another thread attaches anew */
    the_cache->desc.bus.append = lb_append;
    (void)user, (void)tags, (void)n, (void)durable, (void)position;
    return ZC_RETRY;
}

TEST(who_finds_another_log_late_does_not_break_the_new_one) {
    fleet f;
    zc_desc none = {0};
    if (!start(&f, 1, none)) return;
    lb_restart(&f.hub, 0);
    the_cache = f.c[0];
    the_cache->desc.bus.append = retry_after_another;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(stats(f.c[0]).bus_breaks, 1);
    CHECK_EQ(f.node[0].attaches, 2);
    stop(&f);
}

TEST(a_fill_is_fenced_by_what_is_heard_meanwhile) {
    fleet f;
    zc_view v;
    zc_fill *lead;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zc_flight_begin(f.c[1], zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("t")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(zc_fill_value(lead, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, NULL), ZC_REFUSED);
    CHECK_EQ(zc_flight_begin(f.c[1], zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("t")), ZC_OK);
    lb_restart(&f.hub, 0); /* an epoch break fences as well */
    poll_all(&f);
    CHECK_EQ(zc_fill_value(lead, zc_str("old")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, NULL), ZC_REFUSED);
    stop(&f);
}

TEST(starts_without_the_log_and_joins_later) {
    fleet f;
    if (!start(&f, 0, (zc_desc){0})) return;
    f.n = 1;
    f.node[0].down = true;
    if (!join(&f, 0, &(zc_desc){0})) return;
    CHECK_EQ(zct_put(f.c[0], "k", "1", "t"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_MISS); /* nothing is proven */
    CHECK_EQ(stats(f.c[0]).bus_age, ZC_NEVER);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("u")), ZC_E_BUS);
    f.node[0].down = false;
    poll_all(&f);
    CHECK_EQ(f.hub.tail, 1);
    CHECK_EQ(zct_put(f.c[0], "k", "2", "t"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "2"), ZC_OK);
    stop(&f);
}

TEST(reads_look_at_a_log_that_can_be_peeked_at) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.bus = {.version = 99}})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS); /* at once, nobody has polled */
    CHECK_EQ(zct_put(f.c[1], "k", "2", "t"), ZC_OK);
    zct_step(&f.time, 3600 * ZC_SECOND);
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_OK);
    f.node[1].down = true;
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_MISS);
    f.node[1].down = false;
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_OK);
    lb_restart(&f.hub, 0);
    CHECK_EQ(get(f.c[1], "k", "2"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "k", "3", "t"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "3"), ZC_OK);
    stop(&f);
}

/* ---- records ---- */

static const zc_desc shared = {.store = {.version = 99}, .max_entries = 64};

TEST(another_nodes_record_is_used) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "v", "org:1:team"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_OK);
    CHECK_EQ(stats(f.c[1]).hits_store, 1);
    CHECK_EQ(f.node[1].versions, 0); /* begun since it attached: known without asking */
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).store_stale, 1);
    CHECK_EQ(zct_put(f.c[1], "k", "w", "org:1:team"), ZC_OK);
    zc_view v;
    CHECK_EQ(zc_get(f.c[0], zc_str("k"), &v), ZC_OK); /* and back */
    zc_release(f.c[0], &v);
    stop(&f);
}

TEST(who_joins_late_learns_what_was_invalidated) {
    fleet f;
    if (!start(&f, 1, shared)) return;
    CHECK_EQ(zct_put(f.c[0], "dead", "v", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "alive", "v", "org:2"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    f.n = 2;
    if (!join(&f, 1, &shared)) return;
    CHECK_EQ(get(f.c[1], "dead", "v"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "alive", "v"), ZC_OK);
    CHECK_EQ(f.node[1].versions, 2);
    CHECK_EQ(get(f.c[1], "alive", "v"), ZC_OK); /* from the table */
    CHECK_EQ(f.node[1].versions, 2);
    CHECK_EQ(zc_clear(f.c[0]), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "alive", "v"), ZC_MISS);
    stop(&f);
}

/* The largest call for versions, and the largest piece of memory. */
static size_t most_paths, most_bytes;
static int count_versions(void *user, const zc_bytes *paths, size_t n, uint64_t *positions) {
    if (n > most_paths) most_paths = n;
    return lb_versions(user, paths, n, positions);
}
static void *count_alloc(void *user, size_t n) {
    if (n > most_bytes) most_bytes = n;
    return zct_allocator((zct_mem *)user).alloc(user, n);
}

TEST(a_record_with_many_dependencies_is_asked_about_in_parts) {
    enum { DEPS = 1000, DEEP = 32 };
    static char text[DEPS][2 * DEEP + 8];
    static zc_bytes deps[DEPS];
    static fleet f;
    for (int i = 0; i < DEPS; i++) {
        for (int k = 0; k < DEEP - 1; k++) memcpy(text[i] + 2 * k, "a:", 2);
        snprintf(text[i] + 2 * (DEEP - 1), 8, "%d", i);
        deps[i] = zc_str(text[i]);
    }
    for (int killed = -1; killed < DEPS; killed += killed < 0 ? 1 : DEPS - 1) {
        if (!start(&f, 1, shared)) return;
        zc_put_opts o = {.deps = deps, .ndeps = DEPS};
        CHECK_EQ(zc_put(f.c[0], zc_str("K"), zc_str("v"), &o), ZC_OK);
        /* The log moves on: without it, and in the first or the last of its dependencies. */
        CHECK_EQ(zc_invalidate(f.c[0], killed < 0 ? zc_str("other") : deps[killed]), ZC_OK);
        zc_desc d = desc_of(&f, 1, &shared);
        d.bus.versions = count_versions;
        d.allocator.alloc = count_alloc;
        f.node[1].hub = &f.hub;
        f.n = 2;
        if (!CHECK_EQ(zc_open(&d, &f.c[1]), ZC_OK)) return;
        most_paths = most_bytes = 0;
        CHECK_EQ(get(f.c[1], "K", "v"), killed < 0 ? ZC_OK : ZC_MISS);
        CHECK(most_paths > 1 && most_paths <= 64 * DEEP + 1);
        CHECK(most_bytes < 1000000);
        if (killed < 0) CHECK_EQ(f.node[1].versions, (DEPS + 63) / 64);
        stop(&f);
    }
}

TEST(records_of_another_log_are_misses) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
    lb_restart(&f.hub, 0);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "k", "w", "t"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "w"), ZC_OK);
    stop(&f);
}

TEST(what_was_killed_here_and_not_told_is_not_read_from_the_storage) {
    for (int broken = 0; broken < 2; broken++) {
        fleet f;
        if (!start(&f, 2, shared)) return;
        CHECK_EQ(zct_put(f.c[1], "k", "v", "t"), ZC_OK);
        f.node[0].down = true;
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS);
        CHECK_EQ(zc_invalidate(f.c[1], zc_str("x")), ZC_OK);
        CHECK_EQ(zct_put(f.c[1], "k", "v", "t"), ZC_OK); /* begun later, but has not heard */
        f.node[0].down = false;
        if (broken) { /* attaches anew, to a log that does not know of it either */
            lb_forget(&f.hub, 1);
            zc__bus *b = &f.c[0]->bus;
            CHECK_EQ(read_log(f.c[0]), ZC_OK);
            CHECK(b->attached && !zc__outbox_empty(b));
        }
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
        poll_all(&f);
        poll_all(&f);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
        CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
        stop(&f);
    }
}

TEST(other_entries_do_not_revive_what_was_killed_here) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    f.node[0].down = true;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "k", "v", "t"), ZC_OK); /* at position 1, and has not heard */
    f.node[0].down = false;
    CHECK_EQ(read_log(f.c[0]), ZC_OK); /* heard of x, has not told of t */
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
    lb_forget(&f.hub, 1);
    f.hub.identity++;
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[1], "k", "w", "t"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "w"), ZC_OK); /* told, and come back: records count again */
    stop(&f);
}

/* `published` gets ahead of the log by n versions: by invalidations told as one, or by puts that
 * the storage's breaker spares. */
static void gets_ahead(fleet *f, unsigned n, bool by_puts) {
    uint64_t seen = zc_begin(f->c[0]);
    if (by_puts) {
        f->store.fail_rc = ZC_E_TIMEOUT;
        fs_fail(&f->store, 1u << FS_GET, 1, 0);
        CHECK_EQ(get(f->c[0], "nothing", ""), ZC_MISS);
        for (unsigned i = 0; i < n; i++) CHECK_EQ(zct_put(f->c[0], "other", "v", NULL), ZC_OK);
        zct_step(&f->time, ZC_SECOND / 2);
    } else {
        while (zc_begin(f->c[0]) < seen + n) zc_invalidate(f->c[0], zc_str("mine"));
    }
    poll_all(f);
    poll_all(f);
    CHECK(!stats(f->c[0]).store_open && stats(f->c[0]).bus_pending == 0);
}

TEST(a_record_claims_no_more_than_was_heard) {
    static const unsigned ahead[] = {0, 1, 65534, 65535, 65536, 65537, 70000, 200000};
    for (unsigned i = 0; i < 16; i++) {
        fleet f;
        zc_desc d = shared;
        d.write_behind = true;
        d.ack = ZC_ASYNC;
        if (!start(&f, 2, d)) return;
        gets_ahead(&f, ahead[i / 2], i & 1);
        zc_invalidate(f.c[0], zc_str("mine"));
        CHECK_EQ(zct_put(f.c[0], "k", "old", "t"), ZC_OK); /* waits to be written */
        CHECK_EQ(zc_invalidate(f.c[1], zc_str("t")), ZC_OK);
        (void)zc__timed_lock(&f.c[1]->bus.reading, &f.c[1]->clock, 0);
        CHECK_EQ(zc__bus_flush(f.c[1]), ZC_OK);
        zc__timed_unlock(&f.c[1]->bus.reading);
        poll_all(&f); /* hears, and writes */
        CHECK_EQ(get(f.c[0], "k", ""), ZC_MISS);
        CHECK_EQ(get(f.c[1], "k", ""), ZC_MISS);
        CHECK_EQ(stats(f.c[0]).store_errors, (i & 1));
        stop(&f);
    }
}

TEST(records_are_of_use_to_who_was_ahead_of_the_log) {
    for (int by_puts = 0; by_puts < 2; by_puts++) {
        fleet f;
        zc_desc d = shared;
        d.ack = ZC_ASYNC;
        if (!start(&f, 2, d)) return;
        gets_ahead(&f, 200000, by_puts);
        CHECK_EQ(zc_invalidate(f.c[1], zc_str("mine")), ZC_OK);
        poll_all(&f);
        poll_all(&f);
        CHECK_EQ(zct_put(f.c[1], "k", "v", "mine"), ZC_OK);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_OK);
        CHECK_EQ(f.node[0].versions, 0);
        stop(&f);
    }
}

TEST(what_could_not_be_deleted_stays_dead_after_an_attach) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
    fs_fail(&f.store, 1u << FS_DEL, 0, 1);
    CHECK_EQ(zc_del(f.c[0], zc_str("k")), ZC_OK);
    fs_fail(&f.store, 0, 0, 0);
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
    zc__bus_detach(f.c[0], f.c[0]->bus.epoch);
    poll_all(&f); /* the same log, at the same position */
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("x")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
    CHECK_EQ(zct_put(f.c[1], "k", "w", "t"), ZC_OK); /* begun later */
    CHECK_EQ(get(f.c[0], "k", "w"), ZC_OK);
    lb_restart(&f.hub, 0); /* another log: its positions have nothing to do with those */
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[1], "k", "x", "t"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k", "x"), ZC_OK);
    stop(&f);
}

/* A clock that does something when it has been asked so many times. */
static zct_time the_time;
static int the_countdown;
static void (*the_doing)(void);
static uint64_t busy_mono(void *user) {
    if (the_countdown && --the_countdown == 0) the_doing();
    return zct_mono(user);
}

static fleet *the_fleet;
static void sleep_and_hear(void) {
    CHECK_EQ(zc_invalidate(the_fleet->c[0], zc_str("t")), ZC_OK);
    zct_step(&the_time, 2 * T); /* acknowledged long ago, when the reader wakes up */
    CHECK_EQ(read_log(the_fleet->c[1]), ZC_OK);
}

TEST(a_reader_that_slept_looks_at_the_lease_that_it_had) {
    static char value[ZC__COPY_LOCKED + 2], buf[sizeof value];
    memset(value, '1', sizeof value - 1);
    /* A view; a copy without the lock; one that takes the lock, and a pin. In each the clock is asked
     * before and after the value is found; the last begins with a try without the lock, and looks
     * once more when it has copied. */
    static const int asked[3] = {2, 2, 4};
    for (int way = 0; way < 3; way++) {
        int slept = 0;
        const char *is = way == 2 ? value : "1";
        for (int at = 1; at < 8; at++) {
            fleet f;
            zc_desc d = {.max_staleness = T};
            if (!start(&f, 1, d)) return;
            the_fleet = &f;
            the_time = f.time;
            the_doing = sleep_and_hear;
            f.n = 2;
            f.node[1].hub = &f.hub;
            d = desc_of(&f, 1, &d);
            d.clock = (zc_clock){1, busy_mono, zct_wall, &the_time};
            d.allocator.version = 0; /* with one, all reads take the lock */
            if (!CHECK_EQ(zc_open(&d, &f.c[1]), ZC_OK)) return;
            CHECK(f.c[1]->rcu);
            CHECK_EQ(zct_put(f.c[1], "k", is, "t"), ZC_OK);
            the_countdown = at;
            int rc = way ? zc_get_copy(f.c[1], zc_str("k"), buf, sizeof buf, NULL)
                         : get(f.c[1], "k", is);
            CHECK_EQ(rc, the_countdown ? ZC_OK : ZC_MISS);
            slept += !the_countdown;
            the_countdown = 0;
            stop(&f);
        }
        CHECK_EQ(slept, asked[way]);
    }
}

TEST(a_record_from_beyond_ones_cursor_is_no_newer_than_the_cursor) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK); /* at position 1 */
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_OK);      /* whose cursor is 0 */
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
    stop(&f);
}

/* Positions that no log has. */
static const uint64_t absurd[] = {ZC__POSITION_MAX + 1, UINT64_C(1) << 48, UINT64_C(1) << 63,
                                  UINT64_MAX - 1, UINT64_MAX};
enum { ABSURD = sizeof absurd / sizeof absurd[0] };

TEST(a_record_from_an_absurd_position_is_refused) {
    for (unsigned i = 0; i < ABSURD; i++) {
        fleet f;
        zc_bytes tag = zc_str("t"), bytes;
        if (!start(&f, 1, shared)) return;
        zc_record r = {.key = zc_str("k"), .value = zc_str("v"), .deps = &tag, .ndeps = 1,
                       .generation = f.hub.identity, .begin = absurd[i]};
        CHECK_EQ(zc_record_encode(&r, NULL, &bytes), ZC_OK);
        fs_plant(&f.store, r.key, bytes.ptr, bytes.len, 0);
        free((void *)(uintptr_t)bytes.ptr);
        CHECK_EQ(get(f.c[0], "k", ""), ZC_MISS);
        CHECK_EQ(stats(f.c[0]).store_corrupt, 1);
        stop(&f);
    }
}

static uint64_t the_position;
static int attach_there(void *user, uint64_t *identity, uint64_t *position) {
    int rc = lb_attach(user, identity, position);
    if (the_position) *position = the_position;
    return rc;
}
static int versions_there(void *user, const zc_bytes *paths, size_t n, uint64_t *positions) {
    (void)user, (void)paths;
    for (size_t i = 0; i < n; i++) positions[i] = the_position;
    return ZC_OK;
}

TEST(a_log_with_an_absurd_position_is_not_attached_to) {
    for (unsigned i = 0; i < ABSURD; i++) {
        fleet f;
        zc_desc none = {0};
        if (!start(&f, 1, none)) return;
        f.c[0]->desc.bus.attach = attach_there;
        the_position = absurd[i];
        lb_restart(&f.hub, 0);
        poll_all(&f);
        CHECK(stats(f.c[0]).bus_errors > 0);
        CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS);
        the_position = 0;
        poll_all(&f); /* a sound one again: nothing is lost */
        poll_all(&f);
        CHECK_EQ(f.hub.tail, 1);
        CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
        stop(&f);
    }
}

TEST(absurd_versions_of_a_log_are_counted) {
    for (unsigned i = 0; i < ABSURD; i++) {
        fleet f;
        if (!start(&f, 1, shared)) return;
        CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
        f.n = 2;
        if (!join(&f, 1, &shared)) return;
        f.c[1]->desc.bus.versions = versions_there;
        the_position = absurd[i];
        CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
        CHECK_EQ(stats(f.c[1]).store_corrupt, 1);
        the_position = 0;
        CHECK_EQ(get(f.c[1], "k", "v"), ZC_OK);
        stop(&f);
    }
}

TEST(nothing_is_read_from_the_storage_in_silence) {
    fleet f;
    if (!start(&f, 2, shared)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
    f.node[1].down = true;
    zct_step(&f.time, 2 * T);
    uint64_t gets = f.store.op_calls[FS_GET];
    CHECK_EQ(get(f.c[1], "k", "v"), ZC_MISS);
    CHECK_EQ(f.store.op_calls[FS_GET], gets);
    stop(&f);
}

static fleet *slow_fleet;
static void store_is_slow(void *user) {
    (void)user;
    slow_fleet->store.on_get = NULL;
    zct_step(&slow_fleet->time, T / 2);
    poll_all(slow_fleet);
    slow_fleet->node[1].down = true;
    CHECK_EQ(zc_invalidate(slow_fleet->c[0], zc_str("t")), ZC_OK);
    zct_step(&slow_fleet->time, T + 1);
}

TEST(a_record_that_took_longer_than_the_lease_is_a_miss) {
    for (int many = 0; many < 2; many++) {
        fleet f;
        zc_view v;
        int result = ZC_MISS;
        char text[] = "loaded";
        zc_bytes key = zc_str("k");
        if (!start(&f, 2, shared)) return;
        CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
        slow_fleet = &f;
        f.store.on_get = store_is_slow;
        if (many) CHECK_EQ(zc_get_many(f.c[1], &key, 1, &v, &result), 0);
        else CHECK_EQ(zc_fetch(f.c[1], key, load_text, text, NULL, &v), ZC_OK);
        if (!many) CHECK_EQ(v.size, 6);
        zc_release(f.c[1], &v);
        stop(&f);
    }
}

TEST(two_lifetimes) {
    fleet f;
    zc_desc d = shared;
    d.ttl = 5 * ZC_SECOND;
    d.store_ttl = 100 * ZC_SECOND;
    if (!start(&f, 2, d)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "v", "t"), ZC_OK);
    for (int i = 0; i < 9; i++) {
        zct_step(&f.time, 10 * ZC_SECOND);
        poll_all(&f);
        CHECK_EQ(get(f.c[0], "k", "v"), ZC_OK);
    }
    CHECK_EQ(stats(f.c[0]).hits_store, 9);
    zct_step(&f.time, 11 * ZC_SECOND);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_MISS);
    stop(&f);
}

/* ---- the breaker, write-behind, batches, the fleet's flights ---- */

TEST(the_breaker_opens_at_once_when_a_call_times_out) {
    fleet f;
    if (!start(&f, 1, shared)) return;
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 0, 0, 1);
    CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
    uint64_t failed = f.store.failed;
    CHECK_EQ(failed, 1);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
        CHECK_EQ(zct_put(f.c[0], "b", "1", NULL), ZC_OK);
    }
    CHECK_EQ(f.store.failed, failed);
    CHECK(stats(f.c[0]).store_open);
    CHECK(stats(f.c[0]).store_skipped >= 50);
    zct_step(&f.time, 200 * ZC_MILLISECOND); /* housekeeping tries, in nobody's way */
    poll_all(&f);
    CHECK_EQ(f.store.failed, failed + 1);
    poll_all(&f);
    CHECK_EQ(f.store.failed, failed + 1); /* and not at once again */
    fs_fail(&f.store, 0, 0, 0);
    zct_step(&f.time, ZC_SECOND);
    poll_all(&f);
    CHECK(!stats(f.c[0]).store_open);
    stop(&f);
}

TEST(the_breaker_opens_and_tries_again_as_it_was_told) {
    fleet f;
    zc_desc own = shared;
    own.breaker_failures = 5;
    own.breaker_pause = ZC_SECOND;
    if (!start(&f, 1, own)) return;
    f.store.fail_rc = ZC_E_STORE;
    fs_fail(&f.store, 0, 0, 1);
    for (uint64_t i = 1; i <= 5; i++) {
        CHECK(!stats(f.c[0]).store_open);
        CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
        CHECK_EQ(f.store.failed, i);
    }
    CHECK(stats(f.c[0]).store_open);
    zct_step(&f.time, ZC_SECOND / 2 - 1); /* half of the pause is drawn */
    poll_all(&f);
    CHECK_EQ(f.store.failed, 5);
    uint64_t pause = ZC_SECOND;
    for (uint64_t i = 6; i < 16; i++) {
        zct_step(&f.time, pause);
        poll_all(&f);
        CHECK_EQ(f.store.failed, i);
        pause = pause * 2 < 50 * ZC_SECOND ? pause * 2 : 50 * ZC_SECOND; /* and no longer */
    }
    fs_fail(&f.store, 0, 0, 0);
    zct_step(&f.time, pause);
    poll_all(&f);
    CHECK(!stats(f.c[0]).store_open);
    stop(&f);
}

typedef struct reader {
    pthread_t thread;
    zc_cache *c;
    unsigned *inside; /* atomic: calls that have begun, */
    const unsigned *go; /* atomic: and that are let go on */
} reader;

static void stand_in_line(void *user) {
    const reader *r = (const reader *)user;
    unsigned n = __atomic_add_fetch(r->inside, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(r->go, __ATOMIC_SEQ_CST) < n) {}
}
static void *read_slowly(void *user) {
    const reader *r = (const reader *)user;
    char key[32];
    snprintf(key, sizeof key, "%p", user);
    CHECK_EQ(get(r->c, key, ""), ZC_MISS);
    return NULL;
}

TEST(calls_that_time_out_together_are_one_failure) {
    enum { READERS = 8 };
    fleet f;
    unsigned inside = 0, go = 0;
    reader r[READERS];
    if (!start(&f, 1, shared)) return;
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 0, 0, 1);
    f.store.on_get = stand_in_line;
    f.store.on_get_user = &r[0];
    for (int i = 0; i < READERS; i++) {
        r[i] = (reader){.c = f.c[0], .inside = &inside, .go = &go};
        REQUIRE(pthread_create(&r[i].thread, NULL, read_slowly, &r[i]) == 0);
    }
    while (__atomic_load_n(&inside, __ATOMIC_SEQ_CST) < READERS) {}
    __atomic_store_n(&go, READERS - 1, __ATOMIC_SEQ_CST); /* all but one */
    while (stats(f.c[0]).store_errors < READERS - 1) {}
    CHECK(stats(f.c[0]).store_open);
    f.store.on_get = NULL;
    fs_fail(&f.store, 0, 0, 0);
    zct_step(&f.time, ZC__BREAKER_LEAST); /* as after one */
    poll_all(&f);
    CHECK(!stats(f.c[0]).store_open);
    fs_fail(&f.store, 0, 0, 1);
    __atomic_store_n(&go, READERS, __ATOMIC_SEQ_CST); /* what began long ago tells nothing new */
    for (int i = 0; i < READERS; i++) pthread_join(r[i].thread, NULL);
    CHECK_EQ(stats(f.c[0]).store_errors, READERS);
    CHECK(!stats(f.c[0]).store_open);
    stop(&f);
}

TEST(a_storage_that_was_busy_with_other_calls_has_not_failed) {
    static const int slow[] = {ZC_E_BUSY, ZC_E_TIMEOUT};
    for (int i = 0; i < 2; i++) {
        fleet f;
        zc_view v;
        zc_desc d = shared;
        d.max_entries = 1;
        if (!start(&f, 1, d)) return;
        CHECK_EQ(zct_put(f.c[0], "k", "old", NULL), ZC_OK);
        CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK); /* evicts it */
        uint64_t puts = f.store.op_calls[FS_PUT];
        f.store.fail_rc = slow[i];
        fs_fail(&f.store, 0, 0, 1);
        for (int j = 0; j < 5; j++) {
            char key[8];
            snprintf(key, sizeof key, "f%d", j);
            CHECK_EQ(zc_fetch(f.c[0], zc_str(key), load_text, "v", NULL, &v), ZC_OK);
            zc_release(f.c[0], &v);
        }
        CHECK_EQ(f.store.op_calls[FS_PUT], puts); /* who has waited once, waits no more */
        CHECK_EQ(f.store.op_calls[FS_DEL], 0);
        CHECK_EQ(stats(f.c[0]).store_open, slow[i] == ZC_E_TIMEOUT);
        CHECK_EQ(zct_put(f.c[0], "k", "new", NULL), ZC_OK);
        CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK);
        CHECK_EQ(f.store.op_calls[FS_DEL], 0);
        fs_fail(&f.store, 0, 0, 0);
        zct_step(&f.time, ZC_SECOND);
        poll_all(&f);
        CHECK_EQ(get(f.c[0], "k", "old"), ZC_MISS);
        stop(&f);
    }
}

static void note(void *user, zc_log_level level, const char *message) {
    char *text = (char *)user;
    (void)level;
    snprintf(text + strlen(text), 500 - strlen(text), "%s;", message);
}

TEST(the_log_says_what_happened) {
    static const struct {
        int rc;
        const char *text;
    } faults[] = {
        {ZC_E_TIMEOUT, "zoocache: a call of the storage has failed: timed out;"
                       "zoocache: the storage is not asked for a while: timed out;"},
        {ZC_E_BUSY, "zoocache: a call of the storage has failed: not done in time, because other "
                    "calls of this process were in the way;"},
        {ZC_E_CORRUPT, "zoocache: the storage has what is no good: corrupt data: a record or a "
                       "structure fails its check;"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        fleet f;
        char text[500] = "";
        zc_desc d = shared;
        d.log = (zc_log){1, note, text};
        if (!start(&f, 1, d)) return;
        f.store.fail_rc = faults[i].rc;
        fs_fail(&f.store, 0, 0, 1);
        CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
        CHECK_STR(text, faults[i].text);
        fs_fail(&f.store, 0, 0, 0);
        stop(&f);
    }
}

static struct {
    int (*read)(void *, uint64_t, uint64_t, zc_bus_sink *);
    int (*get)(void *, zc_bytes, zc_sink *);
    uint64_t bus, store; /* until when who asked has time */
    zct_time *slow;      /* reading takes 10 ms */
} hurry;
static int hurried_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    hurry.bus = zc__until;
    if (hurry.slow) zct_step(hurry.slow, 10 * ZC_MILLISECOND);
    return hurry.read(user, position, wait, sink);
}
static int hurried_get(void *user, zc_bytes key, zc_sink *sink) {
    hurry.store = zc__until;
    return hurry.get(user, key, sink);
}

TEST(a_poll_hands_its_deadline_on) {
    fleet f;
    if (!start(&f, 1, shared)) return;
    hurry.read = f.c[0]->desc.bus.read;
    hurry.get = f.c[0]->desc.store.get;
    f.c[0]->desc.bus.read = hurried_read;
    f.c[0]->desc.store.get = hurried_get;
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 0, 0, 1);
    CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
    CHECK_EQ(hurry.store, ZC_NEVER); /* a reader has time */
    zct_step(&f.time, 200 * ZC_MILLISECOND);
    (void)zc_poll(f.c[0], 300 * ZC_MICROSECOND);
    CHECK_EQ(hurry.bus, f.time.mono + 300000);
    CHECK_EQ(hurry.store, f.time.mono + 300000); /* is it well again? */
    hurry.slow = &f.time;
    uint64_t end = f.time.mono + 7 * ZC_MILLISECOND;
    CHECK_EQ(zc_catch_up(f.c[0], zc_token(f.c[0]) + 1, 7 * ZC_MILLISECOND), ZC_E_TIMEOUT);
    CHECK_EQ(hurry.bus, end);
    hurry.slow = NULL;
    fs_fail(&f.store, 0, 0, 0);
    stop(&f);
}

static int busy_append(void *user, const zc_bytes *tags, size_t n, bool durable, uint64_t position,
                       zc_bus_sink *sink) {
    (void)user, (void)tags, (void)n, (void)durable, (void)position, (void)sink;
    return ZC_E_BUSY;
}

TEST(a_log_that_was_busy_with_other_calls_has_not_failed) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    int (*append)(void *, const zc_bytes *, size_t, bool, uint64_t, zc_bus_sink *) =
        f.c[0]->desc.bus.append;
    f.c[0]->desc.bus.append = busy_append;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS); /* it is kept */
    f.c[0]->desc.bus.append = append;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("u")), ZC_OK); /* nobody was told to spare the log */
    CHECK_EQ(stats(f.c[0]).bus_errors, 1);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_entries, 2);
    stop(&f);
}

/* Writers have all connections: it gives up when its caller's time is. */
static int crowded_append(void *user, const zc_bytes *tags, size_t n, bool durable,
                          uint64_t position, zc_bus_sink *sink) {
    (void)user, (void)tags, (void)n, (void)durable, (void)position, (void)sink;
    hurry.bus = zc__until;
    zct_step(hurry.slow, zc__until == ZC_NEVER ? T : zc__until - hurry.slow->mono);
    return ZC_E_BUSY;
}

/* x_simulate, seed 25504 with holds among crowds: the thread that reads the log waited behind
 * writers, who waited for replicas, to send what it kept; meanwhile the node was silent. */
TEST(the_log_is_read_although_what_waits_cannot_be_sent) {
    fleet f;
    if (!start(&f, 2, (zc_desc){.max_staleness = T})) return;
    int (*append)(void *, const zc_bytes *, size_t, bool, uint64_t, zc_bus_sink *) =
        f.c[0]->desc.bus.append;
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[0], "k", "1", "x"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "other", "1", "y"), ZC_OK);
    hurry.slow = &f.time;
    f.c[0]->desc.bus.append = crowded_append;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_E_BUS);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("x")), ZC_OK);
    uint64_t end = f.time.mono + T / 3;
    CHECK_EQ(zc__bus_round(f.c[0], T / 3), ZC_E_BUSY);
    CHECK_EQ(hurry.bus, end);
    CHECK_EQ(stats(f.c[0]).bus_age, 0);
    CHECK_EQ(stats(f.c[0]).bus_pending, 1);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_MISS);
    CHECK_EQ(get(f.c[0], "other", "1"), ZC_OK);
    f.c[0]->desc.bus.append = append;
    hurry.slow = NULL;
    poll_all(&f);
    CHECK_EQ(stats(f.c[0]).bus_pending, 0);
    stop(&f);
}

TEST(a_put_that_the_breaker_spared_is_not_undone) {
    fleet f;
    zc_desc d = shared;
    d.max_entries = 1;
    if (!start(&f, 1, d)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "old", NULL), ZC_OK);
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 0, 0, 1);
    CHECK_EQ(get(f.c[0], "x", ""), ZC_MISS);
    CHECK_EQ(zct_put(f.c[0], "k", "new", NULL), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK); /* evicts it */
    fs_fail(&f.store, 0, 0, 0);
    zct_step(&f.time, 10 * ZC_SECOND);
    poll_all(&f);
    CHECK(!stats(f.c[0]).store_open);
    CHECK_EQ(get(f.c[0], "k", "old"), ZC_MISS);
    stop(&f);
}

TEST(write_behind_writes_later_and_brings_nothing_back) {
    fleet f;
    zc_desc d = shared;
    d.write_behind = true;
    if (!start(&f, 1, d)) return;
    CHECK_EQ(zct_put(f.c[0], "a", "1", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "a", "2", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "b", "1", "t"), ZC_OK);
    CHECK_EQ(f.store.nrecords, 0);
    CHECK_EQ(zc_del(f.c[0], zc_str("b")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(f.store.nrecords, 1);
    CHECK(fs_find(&f.store, zc_str("a")) && !fs_find(&f.store, zc_str("b")));
    CHECK_EQ(zct_put(f.c[0], "c", "1", "t"), ZC_OK);
    CHECK_EQ(zc_clear(f.c[0]), ZC_OK);
    poll_all(&f);
    CHECK_EQ(f.store.nrecords, 0);
    for (int i = 0; i < 3000; i++) { /* more than may wait: writers write themselves */
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        CHECK_EQ(zct_put(f.c[0], key, "1", "t"), ZC_OK);
    }
    CHECK(f.store.nrecords >= 3000 - 1024);
    CHECK_EQ(zct_put(f.c[0], "last", "1", "t"), ZC_OK);
    zc_close(f.c[0]); /* writes what is left */
    f.c[0] = NULL;
    CHECK(fs_find(&f.store, zc_str("last")) != NULL);
    stop(&f);
}

static void clear_it(void *user) {
    fleet *f = (fleet *)user;
    zc__ranked *another_threads = NULL;
    f->store.on_put = NULL;
    zc__locks_swap(&another_threads);
    CHECK_EQ(zc_clear(f->c[0]), ZC_OK);
    zc__locks_swap(&another_threads);
    (void)another_threads;
}

TEST(a_clear_while_what_waits_is_written) {
    fleet f;
    zc_desc d = shared;
    d.write_behind = true;
    if (!start(&f, 1, d)) return;
    CHECK_EQ(zct_put(f.c[0], "a", "1", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "b", "1", "t"), ZC_OK);
    f.store.on_put = clear_it;
    f.store.on_put_user = &f;
    poll_all(&f);
    CHECK(!f.store.on_put);
    CHECK_EQ(zc_check(f.c[0]), ZC_OK);
    CHECK_EQ(get(f.c[0], "a", ""), ZC_MISS);
    CHECK_EQ(zct_put(f.c[0], "a", "2", "t"), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "a", "2"), ZC_OK);
    stop(&f);
}

TEST(what_waits_to_be_written_is_newer_than_the_storage) {
    fleet f;
    zc_desc d = shared;
    d.write_behind = true;
    d.max_entries = 1;
    if (!start(&f, 1, d)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "old", NULL), ZC_OK);
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[0], "k", "new", NULL), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK); /* evicts it before it is written */
    CHECK_EQ(get(f.c[0], "k", ""), ZC_MISS);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "k", "new"), ZC_OK);
    /* No room to wait: it is written at once, and what waits of the same key is not, after it. */
    CHECK_EQ(zct_put(f.c[0], "k", "older", NULL), ZC_OK);
    for (int i = 0; i < 1023; i++) CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "k", "newer", NULL), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "other", "1", NULL), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[0], "k", "newer"), ZC_OK);
    stop(&f);
}

/* fault_store with get_many and locks, which all nodes share. */
typedef struct locks {
    uint64_t owner, next, calls, many;
    zct_time *time; /* moves on by `step` with each try */
    uint64_t step;
    bool nameless; /* says that it is locked, and not by whom */
} locks;
static locks the_locks;
static fault_store *the_store;

static int try_lock(void *user, zc_bytes key, uint64_t lease, uint64_t *token) {
    (void)user;
    (void)key;
    CHECK(lease > 0);
    the_locks.calls++;
    if (the_locks.step) zct_step(the_locks.time, the_locks.step);
    if (the_locks.nameless) return ZC_OK;
    if (the_locks.owner && the_locks.owner != *token) return ZC_MISS;
    if (*token && !the_locks.owner) return ZC_MISS;
    if (!*token) *token = ++the_locks.next;
    the_locks.owner = *token;
    return ZC_OK;
}
static int unlock(void *user, zc_bytes key, uint64_t token) {
    (void)user;
    (void)key;
    if (the_locks.owner != token) return ZC_MISS;
    the_locks.owner = 0;
    return ZC_OK;
}
static int get_many(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                    int *results) {
    zc_store plain = fs_hook((fault_store *)user, false);
    the_locks.many++;
    if (the_store->fail_from == 1) return ZC_E_STORE;
    for (size_t i = 0; i < n; i++) results[i] = plain.get(user, keys[i], sinks[i]);
    return ZC_OK;
}

static bool start_locks(fleet *f, unsigned n) {
    memset(&the_locks, 0, sizeof the_locks);
    if (!start(f, 0, shared)) return false;
    the_store = &f->store;
    f->n = n;
    for (unsigned i = 0; i < n; i++) {
        zc_desc d = desc_of(f, i, &shared);
        d.store.lock = try_lock;
        d.store.unlock = unlock;
        d.store.get_many = get_many;
        f->node[i].hub = &f->hub;
        if (!CHECK_EQ(zc_open(&d, &f->c[i]), ZC_OK)) return false;
    }
    return true;
}

TEST(many_keys_in_one_call) {
    fleet f;
    zc_bytes keys[20];
    char text[20][8];
    zc_view views[20];
    int results[20];
    if (!start_locks(&f, 2)) return;
    for (int i = 0; i < 20; i++) {
        snprintf(text[i], sizeof text[i], "%d", i);
        keys[i] = zc_str(text[i]);
        if (i != 7) CHECK_EQ(zct_put(f.c[0], text[i], text[i], "t"), ZC_OK);
    }
    keys[9] = keys[8]; /* twice the same */
    CHECK_EQ(zc_get_many(f.c[1], keys, 20, views, results), 19);
    CHECK_EQ(results[7], ZC_MISS);
    for (int i = 0; i < 20; i++) {
        if (i == 7) continue;
        CHECK_EQ(results[i], ZC_OK);
        CHECK_EQ(views[i].size, keys[i].len);
        CHECK(views[i].data && memcmp(views[i].data, keys[i].ptr, keys[i].len) == 0);
        zc_release(f.c[1], &views[i]);
    }
    CHECK_EQ(the_locks.many, 2); /* batches of 16 */
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(zc_get_many(f.c[1], keys, 20, views, results), 0);
    fs_fail(&f.store, 0, 0, 1);
    CHECK_EQ(zc_get_many(f.c[1], keys, 3, views, results), 0);
    CHECK_EQ(stats(f.c[1]).flights, 0);
    stop(&f);
}

typedef struct other {
    zc_cache *cache;
    int loads;
} other;

static int load_slowly(zc_fill *fill, void *user) {
    other *o = (other *)user;
    o->loads++;
    CHECK_EQ(zc_fill_dep(fill, zc_str("t")), ZC_OK);
    return zc_fill_value(fill, zc_str("v"));
}

TEST(one_loader_in_the_fleet) {
    fleet f;
    zc_view v;
    other o = {0};
    zc_fetch_opts fleetwide = {.fleet = true};
    if (!start_locks(&f, 2)) return;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &fleetwide, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(the_locks.owner, 0); /* given back */
    CHECK_EQ(zc_fetch(f.c[1], zc_str("k"), load_slowly, &o, &fleetwide, &v), ZC_OK);
    zc_release(f.c[1], &v);
    CHECK_EQ(o.loads, 1);
    stop(&f);
}

/* What cannot be given back is no lock: nothing is kept for it. */
TEST(a_lock_without_a_token) {
    fleet f;
    zc_view v;
    other o = {0};
    zc_fetch_opts fleetwide = {.fleet = true};
    if (!start_locks(&f, 1)) return;
    the_locks.nameless = true;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &fleetwide, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(the_locks.calls, 1);
    CHECK_EQ(o.loads, 1);
    stop(&f);
}

TEST(another_nodes_value_is_waited_for_as_long_as_the_caller_likes) {
    fleet f;
    zc_view v;
    other o = {0};
    zc_fetch_opts fleetwide = {.fleet = true, .wait_timeout = 100 * ZC_MILLISECOND};
    fleetwide.flight_timeout = 500 * ZC_MILLISECOND;
    if (!start_locks(&f, 1)) return;
    the_locks.owner = 999;
    the_locks.time = &f.time;
    the_locks.step = 30 * ZC_MILLISECOND;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &fleetwide, &v), ZC_E_TIMEOUT);
    CHECK_EQ(the_locks.calls, 4);
    CHECK_EQ(o.loads, 0);
    CHECK_EQ(stats(f.c[0]).flights, 0); /* handed over */
    the_locks.owner = 0;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &fleetwide, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(o.loads, 1);
    stop(&f);
}

TEST(a_refresh_does_not_wait_for_another_node) {
    fleet f;
    zc_view v;
    other shared_one = {0}, own = {0};
    zc_fetch_opts o = {.put.soft_ttl = ZC_SECOND, .fleet = true};
    o.flight_timeout = 10 * ZC_SECOND;
    if (!start_locks(&f, 1)) return;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("shared"), load_slowly, &shared_one, &o, &v), ZC_OK);
    zc_release(f.c[0], &v);
    o.fleet = false;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("own"), load_slowly, &own, &o, &v), ZC_OK);
    zc_release(f.c[0], &v);
    zct_step(&f.time, 2 * ZC_SECOND);
    poll_all(&f);
    the_locks.owner = 999;
    the_locks.time = &f.time;
    the_locks.step = ZC_SECOND / 2;
    uint64_t calls = the_locks.calls;
    o.fleet = true;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("shared"), load_slowly, &shared_one, &o, &v), ZC_STALE);
    zc_release(f.c[0], &v);
    o.fleet = false;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("own"), load_slowly, &own, &o, &v), ZC_STALE);
    zc_release(f.c[0], &v);
    poll_all(&f);
    CHECK_EQ(the_locks.calls, calls + 1);
    CHECK_EQ(own.loads, 2); /* whatever became of the other */
    CHECK_EQ(shared_one.loads, 1);
    poll_all(&f);
    CHECK_EQ(the_locks.calls, calls + 1); /* and not again and again */
    the_locks.owner = 0;
    zct_step(&f.time, 100 * ZC_MILLISECOND);
    poll_all(&f);
    CHECK_EQ(shared_one.loads, 2); /* not what is in the storage: that is the old one */
    CHECK_EQ(the_locks.owner, 0);
    the_locks.owner = 999; /* what waits at the end is ended */
    zct_step(&f.time, 2 * ZC_SECOND);
    poll_all(&f);
    o.fleet = true;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("shared"), load_slowly, &shared_one, &o, &v), ZC_STALE);
    zc_release(f.c[0], &v);
    poll_all(&f);
    stop(&f);
}

static int time_out(zc_fill *fill, void *user) {
    (void)fill;
    ++*(int *)user;
    return ZC_E_TIMEOUT;
}

/* A loader that gives what a call of its own has given is not one that waits for another node. */
TEST(the_loader_of_a_refresh_may_time_out) {
    fleet f;
    zc_view v;
    other first = {0};
    int calls = 0;
    zc_fetch_opts o = {.put.soft_ttl = ZC_SECOND};
    if (!start_locks(&f, 1)) return;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &first, &o, &v), ZC_OK);
    zc_release(f.c[0], &v);
    zct_step(&f.time, 2 * ZC_SECOND);
    poll_all(&f);
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), time_out, &calls, &o, &v), ZC_STALE);
    zc_release(f.c[0], &v);
    poll_all(&f);
    CHECK_EQ(calls, 1);
    zct_step(&f.time, ZC_SECOND);
    poll_all(&f);
    CHECK_EQ(calls, 1);
    CHECK_EQ(zc_check(f.c[0]), ZC_OK);
    stop(&f);
}

TEST(a_refresh_in_its_caller_does_not_wait_for_another_node) {
    fleet f;
    zc_view v;
    other o = {0};
    zc_fetch_opts here = {.put.soft_ttl = ZC_SECOND, .fleet = true, .refresh_here = true};
    if (!start_locks(&f, 1)) return;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &here, &v), ZC_OK);
    zc_release(f.c[0], &v);
    zct_step(&f.time, 2 * ZC_SECOND);
    poll_all(&f);
    the_locks.owner = 999;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &here, &v), ZC_STALE);
    zc_release(f.c[0], &v);
    CHECK_EQ(o.loads, 1);
    CHECK_EQ(stats(f.c[0]).flights, 0);
    the_locks.owner = 0;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), load_slowly, &o, &here, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(o.loads, 2);
    stop(&f);
}

static int lose_the_lock(zc_fill *fill, void *user) {
    the_locks.owner = 999; /* its lease was over, and another node has it now */
    return load_slowly(fill, user);
}

TEST(who_lost_the_lock_does_not_write_over_the_other) {
    fleet f;
    zc_view v;
    other o = {0};
    zc_fetch_opts fleetwide = {.fleet = true};
    if (!start_locks(&f, 1)) return;
    CHECK_EQ(zc_fetch(f.c[0], zc_str("k"), lose_the_lock, &o, &fleetwide, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(f.store.nrecords, 0);
    CHECK_EQ(the_locks.owner, 999);
    CHECK_EQ(get(f.c[0], "k", "v"), ZC_OK); /* its own value is as good as any */
    stop(&f);
}

/* ---- tokens ---- */

TEST(a_token_is_waited_for) {
    fleet f;
    if (!start(&f, 2, (zc_desc){0})) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    uint64_t token = zc_token(f.c[0]);
    CHECK_EQ(zc_catch_up(f.c[1], token, 0), ZC_OK); /* reads the log itself */
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    f.node[1].down = true;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK(zc_catch_up(f.c[1], zc_token(f.c[0]), 0) < 0);
    f.node[1].down = false;
    lb_restart(&f.hub, 0);
    zct_step(&f.time, 1);
    poll_all(&f);
    zct_step(&f.time, 1);
    CHECK_EQ(zc_catch_up(f.c[1], token, ZC_SECOND), ZC_OK); /* of a log that is gone */
    CHECK_EQ(zc_catch_up(f.c[1], 0, 0), ZC_OK);
    stop(&f);
}

/* ---- with threads ---- */

TEST(threads_hear_by_themselves) {
    log_hub hub;
    log_node node[2] = {{.hub = &hub}, {.hub = &hub}};
    zc_cache *c[2];
    zc_view v;
    zc_bytes tag = zc_str("t");
    zc_put_opts o = {.deps = &tag, .ndeps = 1};
    lb_init(&hub);
    for (int i = 0; i < 2; i++) {
        zc_desc d = {.bus = lb_hook(&node[i], false), .bus_pause = 1, .max_staleness = T,
                     .ack = i == 0 ? ZC_ACKED : ZC_ASYNC};
        if (!CHECK_EQ(zc_open(&d, &c[i]), ZC_OK)) return;
    }
    for (int round = 0; round < 200; round++) {
        int to = round & 1, from = !to;
        CHECK_EQ(zc_put(c[to], zc_str("k"), zc_str("v"), &o), ZC_OK);
        CHECK_EQ(zc_invalidate(c[from], tag), ZC_OK);
        while (zc_get(c[to], zc_str("k"), &v) == ZC_OK) zc_release(c[to], &v);
    }
    lb_down(&node[0], true);
    CHECK_EQ(zc_invalidate(c[0], tag), ZC_E_BUS);
    CHECK_EQ(zc_put(c[1], zc_str("k"), zc_str("v"), &o), ZC_OK);
    lb_down(&node[0], false);
    while (zc_get(c[1], zc_str("k"), &v) == ZC_OK) zc_release(c[1], &v);
    zc_stats s;
    do zc_stats_read(c[0], &s);
    while (s.bus_pending);
    for (int i = 0; i < 2; i++) zc_close(c[i]);
    lb_destroy(&hub);
}

TEST(strict_writers_wait_until_nobody_can_serve_it) {
    log_hub hub;
    log_node node = {.hub = &hub};
    zc_cache *c;
    lb_init(&hub);
    zc_desc d = {.bus = lb_hook(&node, false), .max_staleness = 50 * ZC_MILLISECOND,
                 .ack = ZC_STRICT};
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) return;
    uint64_t before = zc__sys_mono();
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_OK);
    CHECK(zc__sys_mono() - before >= 50 * ZC_MILLISECOND);
    zc_close(c);
    lb_destroy(&hub);
}

/* Two nodes hear the same logs, each in an order of its own. What a mark means on the other: never
 * more than was known where it was made, and never less than is told by the logs concerned. */
enum { LOGS = 3, HEARD = 3 * ZC__HISTORY };

typedef struct hearer {
    zc__bus b;
    uint64_t at[HEARD + 1][LOGS]; /* `cursors` at each position since the attach */
    size_t n;
} hearer;

static void hears(hearer *h, unsigned log) {
    h->b.cursors[log]++;
    h->b.cursor++;
    zc__monitor_lock(&h->b.apply);
    zc__bus_moved(&h->b);
    zc__monitor_unlock(&h->b.apply);
    h->n++;
    for (unsigned i = 0; i < LOGS; i++) h->at[h->n][i] = h->b.cursors[i];
}
static void attaches(hearer *h, const uint64_t *logs) {
    memset(h, 0, sizeof *h);
    CHECK(zc__monitor_init(&h->b.apply, ZC__RANK_APPLY));
    h->b.logs = LOGS;
    h->b.history = (uint64_t *)calloc(ZC__HISTORY * LOGS, sizeof(uint64_t));
    for (unsigned i = 0; i < LOGS; i++) {
        h->b.cursors[i] = h->at[0][i] = logs[i];
        h->b.cursor += logs[i];
    }
    zc__monitor_lock(&h->b.apply);
    zc__bus_rebase(&h->b, 1);
    zc__bus_moved(&h->b);
    zc__monitor_unlock(&h->b.apply);
}
static bool is_within(const uint64_t *heard, const uint64_t *mark, uint32_t which) {
    bool good = true;
    for (unsigned i = 0; i < LOGS; i++) good = good && (!(which >> i & 1) || heard[i] <= mark[i]);
    return good;
}

TEST(a_mark_has_its_place) {
    static hearer a, b;
    uint64_t logs[LOGS] = {5, 70, 1000}, position, found = 0, refused = 0;
    attaches(&a, logs);
    attaches(&b, logs);
    for (size_t i = 0; i < HEARD; i++) {
        hears(&a, (unsigned)zct_below(LOGS));
        for (unsigned log = 0; log < LOGS; log++) /* b is a little behind, or ahead */
            while (b.n < HEARD && b.b.cursors[log] < a.b.cursors[log] + zct_below(3) &&
                   zct_below(4))
                hears(&b, log);
        const uint64_t *mark = a.at[a.n - zct_below(a.n > 9 && zct_below(20) ? 9 : a.n + 1)];
        uint32_t which = 1 + (uint32_t)zct_below((1u << LOGS) - 1);
        size_t first = b.n < ZC__HISTORY ? 0 : b.n - ZC__HISTORY + 1, last = b.n;
        while (last > first && !is_within(b.at[last], mark, which)) last--;
        bool good = is_within(b.at[last], mark, which);
        zc__monitor_lock(&b.b.apply);
        bool known = zc__bus_locate(&b.b, mark, which, &position);
        zc__monitor_unlock(&b.b.apply);
        if (!CHECK_EQ(known, good)) break;
        if (good && !CHECK_EQ(position, b.b.base_at + last)) break;
        found += good;
        refused += !good;
    }
    CHECK(found > HEARD / 2 && refused > 0);
    free(a.b.history);
    free(b.b.history);
    zc__monitor_destroy(&a.b.apply);
    zc__monitor_destroy(&b.b.apply);
}

TEST(a_tag_is_in_the_log_of_its_first_segment) {
    zc__bus b;
    unsigned counts[ZC_LOGS_MAX] = {0};
    char text[2][32];
    memset(&b, 0, sizeof b);
    b.logs = ZC_LOGS_MAX;
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(text[0], sizeof text[0], "tag%u", i);
        snprintf(text[1], sizeof text[1], "tag%u:x:%u", i, i);
        unsigned log = zc__bus_log_of_text(&b, zc_str(text[0]));
        CHECK_EQ(log, zc__bus_log_of_text(&b, zc_str(text[1])));
        counts[log]++;
    }
    for (unsigned i = 0; i < ZC_LOGS_MAX; i++) CHECK(counts[i] > 60);
}

TEST(descriptions_that_make_no_sense) {
    log_hub hub;
    log_node node = {.hub = &hub};
    zc_cache *c;
    lb_init(&hub);
    zc_desc d = {.bus = lb_hook(&node, false), .max_staleness = ZC_MILLISECOND};
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    d.max_staleness = 0;
    d.bus.read = NULL;
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    d.bus = lb_hook(&node, false);
    d.bus.version = 2;
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    d.bus.version = 1;
    d.bus.nlogs = 2; /* without what several logs need */
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    d.bus.nlogs = ZC_LOGS_MAX + 1;
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL);
    lb_destroy(&hub);
}
