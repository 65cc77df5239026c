/* Flights in pieces: begin, commit, abandon, wait, notify; leases, fences, refreshes, nesting. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"

static void nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

/* Waits for what another thread does; half a minute is for ever. */
/* clang-format off */
#define EVENTUALLY(x) do { for (int w_ = 0; w_ < 30000 && !(x); w_++) nap(); CHECK(x); } while (0)
/* clang-format on */

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    zc_cache *c;
} fixture;

static bool start_with(fixture *f, zc_desc d) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}

static bool start(fixture *f) {
    return start_with(f, (zc_desc){.no_thread = true, .flight_timeout = 10 * ZC_SECOND});
}

static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

/* Compares a view with a text, and ends it. */
static bool is(zc_cache *c, zc_view *v, const char *want) {
    bool good = v->size == strlen(want) && v->data && memcmp(v->data, want, v->size) == 0;
    if (!good) printf("    view of %zu bytes, wanted \"%s\"\n", v->size, want);
    zc_release(c, v);
    return good;
}

static int get(zc_cache *c, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    if (rc == ZC_OK || rc == ZC_STALE) CHECK(is(c, &v, want));
    zc_release(c, &v);
    return rc;
}

static int begin(zc_cache *c, const char *key, const zc_fetch_opts *o, zc_fill **t) {
    zc_view v;
    int rc = zc_flight_begin(c, zc_str(key), o, &v, t);
    zc_release(c, &v);
    return rc;
}

/* Commits a text. */
static int commit(zc_cache *c, zc_fill *t, const char *value) {
    zc_view v;
    CHECK_EQ(zc_fill_value(t, zc_str(value)), ZC_OK);
    int rc = zc_flight_commit(t, &v);
    CHECK(is(c, &v, value));
    return rc;
}

/* Waits without blocking; the value must be `want`. */
static int wait_now(zc_cache *c, zc_fill *t, const char *want) {
    zc_view v;
    int rc = zc_flight_wait(t, 0, &v);
    if (rc == ZC_OK || rc == ZC_STALE) CHECK(is(c, &v, want));
    zc_release(c, &v);
    return rc;
}

static void count(void *user) { __atomic_add_fetch((int *)user, 1, __ATOMIC_ACQ_REL); }

static int load_text(zc_fill *fill, void *user) {
    return zc_fill_value(fill, zc_str((const char *)user));
}

/* ---- one after the other ---- */

TEST(lead_follow_commit) {
    fixture f;
    zc_fill *lead, *a, *b;
    int told = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", NULL, &b), ZC_FOLLOW);
    CHECK_EQ(stats(f.c).flights, 1);
    CHECK_EQ(wait_now(f.c, a, ""), ZC_PENDING);
    CHECK_EQ(zc_flight_notify(a, count, &told), ZC_OK);
    CHECK_EQ(zc_flight_notify(a, count, &told), ZC_E_INVAL); /* one at a time */
    CHECK_EQ(told, 0);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS); /* a plain read does not wait */
    CHECK_EQ(commit(f.c, lead, "value"), ZC_OK);
    CHECK_EQ(told, 1);
    CHECK_EQ(zc_flight_notify(b, count, &told), ZC_OK); /* ended already: at once */
    CHECK_EQ(told, 2);
    CHECK_EQ(wait_now(f.c, a, "value"), ZC_OK);
    CHECK_EQ(wait_now(f.c, b, "value"), ZC_OK);
    CHECK_EQ(get(f.c, "k", "value"), ZC_OK);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_OK);
    CHECK(lead == NULL);
    zc_stats s = stats(f.c);
    CHECK_EQ(s.flights, 0);
    CHECK_EQ(s.fills, 1);
    CHECK_EQ(s.waits, 2);
    CHECK_EQ(told, 2);
    stop(&f);
}

TEST(tickets_know_their_side) {
    fixture f;
    zc_fill *lead, *follow;
    zc_view v;
    int n = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_wait(lead, 0, &v), ZC_E_INVAL);
    CHECK_EQ(zc_flight_wait(follow, 0, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_flight_notify(lead, count, &n), ZC_E_INVAL);
    CHECK_EQ(zc_flight_notify(follow, NULL, &n), ZC_E_INVAL);
    CHECK_EQ(zc_flight_commit(follow, &v), ZC_E_INVAL);
    CHECK_EQ(zc_fill_value(follow, zc_str("x")), ZC_E_INVAL);
    CHECK_EQ(zc_fill_value(lead, zc_slice(NULL, 1)), ZC_E_INVAL);
    CHECK_EQ(zc_fill_absent(follow), ZC_E_INVAL);
    CHECK_EQ(zc_fill_object(lead, &n, 1, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK); /* all tickets were still good */
    CHECK_EQ(wait_now(f.c, follow, "v"), ZC_OK);
    stop(&f);
}

TEST(absent_values_fly_too) {
    fixture f;
    zc_fill *lead, *follow;
    zc_view v;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    zc_fill_opts(lead)->negative_ttl = 3 * ZC_SECOND;
    CHECK_EQ(zc_fill_absent(lead), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_ABSENT);
    CHECK(!v.data && !v.size);
    zc_release(f.c, &v);
    CHECK_EQ(wait_now(f.c, follow, ""), ZC_ABSENT);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_ABSENT);
    CHECK(lead == NULL);
    zct_step(&f.time, 3 * ZC_SECOND);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    zc_flight_abandon(lead, 0);
    stop(&f);
}

TEST(an_error_reaches_every_follower) {
    fixture f;
    zc_fill *lead, *a, *b, *eager;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", NULL, &b), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", &(zc_fetch_opts){.promote = true}, &eager), ZC_FOLLOW);
    zc_flight_abandon(lead, ZC_E_USER - 7);
    CHECK_EQ(wait_now(f.c, a, ""), ZC_E_USER - 7);
    CHECK_EQ(wait_now(f.c, b, ""), ZC_E_USER - 7);
    CHECK_EQ(wait_now(f.c, eager, ""), ZC_RETRY); /* promote */
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD); /* errors are not kept */
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    zc_flight_abandon(lead, 17); /* no error code: still an error */
    CHECK_EQ(wait_now(f.c, a, ""), ZC_E_LOADER);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    zc_view v;
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_E_LOADER); /* no value was set */
    CHECK(!v.pin);
    CHECK_EQ(wait_now(f.c, a, ""), ZC_E_LOADER);
    CHECK_EQ(stats(f.c).fill_errors, 3);
    CHECK_EQ(stats(f.c).entries, 0);
    stop(&f);
}

TEST(handing_over) {
    fixture f;
    zc_fill *lead, *a, *b;
    int told = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", NULL, &b), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(a, count, &told), ZC_OK);
    CHECK_EQ(zc_flight_notify(b, count, &told), ZC_OK);
    zc_flight_abandon(lead, 0);
    CHECK_EQ(told, 2);
    CHECK_EQ(stats(f.c).fill_errors, 0);
    CHECK_EQ(wait_now(f.c, a, ""), ZC_RETRY);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(wait_now(f.c, b, ""), ZC_RETRY);
    CHECK_EQ(begin(f.c, "k", NULL, &b), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    CHECK_EQ(wait_now(f.c, b, "v"), ZC_OK);
    stop(&f);
}

TEST(a_follower_may_leave) {
    fixture f;
    zc_fill *lead, *a, *b;
    int told_a = 0, told_b = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &a), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", NULL, &b), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(a, count, &told_a), ZC_OK);
    CHECK_EQ(zc_flight_notify(b, count, &told_b), ZC_OK);
    zc_flight_abandon(a, ZC_E_USER); /* a follower's error is its own affair */
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    CHECK_EQ(told_a, 0);
    CHECK_EQ(told_b, 1);
    CHECK_EQ(wait_now(f.c, b, "v"), ZC_OK);
    stop(&f);
}

TEST(the_later_value_counts) {
    fixture f;
    zc_fill *lead;
    zc_view v;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_value(lead, zc_str("first and longer")), ZC_OK);
    CHECK_EQ(zc_fill_absent(lead), ZC_OK);
    CHECK_EQ(zc_fill_value(lead, zc_str("second")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_OK);
    CHECK(is(f.c, &v, "second"));
    /* A call that fails leaves what was set before. */
    CHECK_EQ(begin(f.c, "j", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_value(lead, zc_str("kept")), ZC_OK);
    static char big[100000];
    f.mem.count = 0;
    f.mem.fail_from = 1;
    CHECK_EQ(zc_fill_value(lead, zc_slice(big, sizeof big)), ZC_E_NOMEM);
    f.mem.fail_from = 0;
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_OK);
    CHECK(is(f.c, &v, "kept"));
    stop(&f);
}

TEST(not_to_be_stored) {
    fixture f;
    zc_fill *lead, *follow;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    zc_fill_no_store(lead);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_REFUSED);
    CHECK_EQ(wait_now(f.c, follow, "v"), ZC_OK); /* but this flight's callers have it */
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    /* A dependency that could not be added makes the value unfit for keeping, too. */
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("bad:")), ZC_E_TAG_SEGMENT);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_REFUSED);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    stop(&f);
}

static int drops;
static void drop_count(void *user, void *object, size_t size) {
    CHECK(user == &drops && object == &drops && size == 3);
    drops++;
}

TEST(objects_in_flight) {
    fixture f;
    zc_fill *t, *follow;
    zc_view v, w;
    drops = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &t), ZC_LEAD);
    CHECK_EQ(zc_fill_object(t, &drops, 3, drop_count, &drops), ZC_OK);
    CHECK_EQ(zc_fill_object(t, &drops, 3, drop_count, &drops), ZC_OK); /* replaces the first */
    CHECK_EQ(drops, 1);
    CHECK_EQ(zc_fill_value(t, zc_str("x")), ZC_OK);
    CHECK_EQ(drops, 2);
    CHECK_EQ(zc_fill_object(t, &drops, 3, drop_count, &drops), ZC_OK);
    zc_flight_abandon(t, 0);
    CHECK_EQ(drops, 3);
    CHECK_EQ(begin(f.c, "k", NULL, &t), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_fill_object(t, &drops, 3, drop_count, &drops), ZC_OK);
    zc_fill_no_store(t);
    CHECK_EQ(zc_flight_commit(t, &v), ZC_REFUSED);
    CHECK(v.data == &drops);
    CHECK_EQ(zc_flight_wait(follow, 0, &w), ZC_OK);
    CHECK(w.data == &drops);
    zc_release(f.c, &v);
    CHECK_EQ(drops, 3);
    zc_release(f.c, &w);
    CHECK_EQ(drops, 4); /* the last holder let go */
    CHECK_EQ(begin(f.c, "k", NULL, &t), ZC_LEAD);
    CHECK_EQ(zc_fill_object(t, &drops, 3, drop_count, &drops), ZC_OK);
    CHECK_EQ(zc_flight_commit(t, NULL), ZC_OK);
    CHECK_EQ(drops, 4);
    stop(&f);
    CHECK_EQ(drops, 5);
}

/* ---- fences ---- */

TEST(put_and_del_fence_a_flight) {
    fixture f;
    zc_fill *lead, *before, *after;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &before), ZC_FOLLOW);
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("put"), NULL), ZC_OK);
    CHECK_EQ(commit(f.c, lead, "late"), ZC_E_LEASE);
    CHECK_EQ(get(f.c, "k", "put"), ZC_OK);
    CHECK_EQ(wait_now(f.c, before, "late"), ZC_OK); /* it had come before the put */
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);

    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &before), ZC_FOLLOW);
    CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_MISS);
    CHECK_EQ(begin(f.c, "k", NULL, &after), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "late"), ZC_E_LEASE);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    CHECK_EQ(wait_now(f.c, before, "late"), ZC_OK);
    CHECK_EQ(wait_now(f.c, after, ""), ZC_RETRY); /* what was read before the del is not for it */
    CHECK_EQ(stats(f.c).fills_late, 2);
    stop(&f);
}

TEST(an_invalidation_during_a_flight) {
    fixture f;
    zc_fill *lead, *before, *after;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("row:1")), ZC_OK);
    CHECK_EQ(begin(f.c, "k", NULL, &before), ZC_FOLLOW);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row")), ZC_OK);
    CHECK_EQ(begin(f.c, "k", NULL, &after), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "old"), ZC_REFUSED);
    CHECK_EQ(wait_now(f.c, before, "old"), ZC_OK);
    CHECK_EQ(wait_now(f.c, after, ""), ZC_RETRY);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);

    /* The dependency may come after the invalidation, and its tag be pruned between. */
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row:2")), ZC_OK);
    zct_step(&f.time, ZC_SECOND);
    CHECK(zc_prune(f.c, 0) > 0);
    CHECK_EQ(zc_fill_dep(lead, zc_str("row:2")), ZC_OK);
    CHECK_EQ(commit(f.c, lead, "old"), ZC_REFUSED);

    /* What is not on the path is nothing to it: the follower gets the value. */
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("row:1")), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("col:1")), ZC_OK);
    CHECK_EQ(begin(f.c, "k", NULL, &after), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "new"), ZC_OK);
    CHECK_EQ(wait_now(f.c, after, "new"), ZC_OK);

    /* Clear, without any dependency. */
    CHECK_EQ(begin(f.c, "j", NULL, &lead), ZC_LEAD);
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(begin(f.c, "j", NULL, &after), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "old"), ZC_REFUSED);
    CHECK_EQ(wait_now(f.c, after, ""), ZC_RETRY);
    stop(&f);
}

/* ---- leases ---- */

TEST(a_lost_lease) {
    fixture f;
    zc_fill *late, *follow, *lead, *also;
    int told = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &late), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(follow, count, &told), ZC_OK);
    zct_step(&f.time, 10 * ZC_SECOND - 1);
    CHECK_EQ(begin(f.c, "k", NULL, &also), ZC_FOLLOW);
    zct_step(&f.time, 1);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD); /* takes over */
    CHECK_EQ(told, 1);
    CHECK_EQ(stats(f.c).flights, 1);
    CHECK_EQ(commit(f.c, late, "late"), ZC_E_LEASE); /* it gets its own value all the same */
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    CHECK_EQ(wait_now(f.c, follow, ""), ZC_RETRY);
    CHECK_EQ(wait_now(f.c, also, ""), ZC_RETRY);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, lead, "good"), ZC_OK);
    CHECK_EQ(wait_now(f.c, follow, "good"), ZC_OK);
    CHECK_EQ(get(f.c, "k", "good"), ZC_OK);
    CHECK_EQ(stats(f.c).fills_late, 1);
    stop(&f);
}

TEST(a_late_error_is_nobodys) {
    fixture f;
    zc_fill *late, *lead, *follow;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", &(zc_fetch_opts){.flight_timeout = ZC_SECOND}, &late), ZC_LEAD);
    zct_step(&f.time, ZC_SECOND);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    zc_flight_abandon(late, ZC_E_USER);
    CHECK_EQ(wait_now(f.c, follow, ""), ZC_PENDING);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    CHECK_EQ(wait_now(f.c, follow, "v"), ZC_OK);
    stop(&f);
}

TEST(a_dead_leader_is_noticed_by_who_waits) {
    fixture f;
    zc_fill *late, *follow, *lead;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &late), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    zct_step(&f.time, 10 * ZC_SECOND);
    CHECK_EQ(wait_now(f.c, follow, ""), ZC_RETRY);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    zc_flight_abandon(late, 0);
    CHECK_EQ(get(f.c, "k", "v"), ZC_OK);
    stop(&f);
}

TEST(a_dead_leader_is_noticed_by_who_only_listens) {
    /* "as soon as zc_flight_wait() would not be pending": an event loop has nothing else. */
    fixture f;
    zc_fill *late, *follow;
    int told = 0;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &late), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(follow, count, &told), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(told, 0);
    zct_step(&f.time, 10 * ZC_SECOND);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(told, 1);
    CHECK_EQ(wait_now(f.c, follow, ""), ZC_RETRY);
    zc_flight_abandon(late, 0);
    CHECK_EQ(told, 1);
    stop(&f);
}

/* ---- watchers ---- */

typedef struct watcher {
    zc_cache *c;
    zc_fill *ticket, *other; /* other: somebody else's, consumed as well */
    int rc, told;
    const char *want;
} watcher;

static void consume(void *user) {
    watcher *w = (watcher *)user;
    zc_view v;
    w->told++;
    if (w->other) zc_flight_abandon(w->other, 0);
    w->other = NULL;
    if (!w->ticket) return;
    w->rc = zc_flight_wait(w->ticket, 0, &v);
    w->ticket = NULL;
    if (w->rc == ZC_OK) CHECK(is(w->c, &v, w->want));
    /* The hook may use the cache, even this key. */
    CHECK_EQ(zc_put(w->c, zc_str("from a callback"), zc_str("x"), NULL), ZC_OK);
}

TEST(a_watcher_consumes_its_ticket) {
    fixture f;
    zc_fill *lead;
    watcher w[5];
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    for (int i = 0; i < 5; i++) {
        w[i] = (watcher){.c = f.c, .want = "v"};
        CHECK_EQ(begin(f.c, "k", NULL, &w[i].ticket), ZC_FOLLOW);
        CHECK_EQ(zc_flight_notify(w[i].ticket, consume, &w[i]), ZC_OK);
    }
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(w[i].told, 1);
        CHECK_EQ(w[i].rc, ZC_OK);
    }
    stop(&f);
}

TEST(a_watcher_consumes_anothers_ticket) {
    fixture f;
    zc_fill *lead;
    if (!start(&f)) return;
    for (int first = 0; first < 3; first++) {
        /* Each of three ends the tickets of the two others, in whatever order they are told. */
        watcher w[3];
        zc_fill *t[3];
        int told = 0;
        CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
        for (int i = 0; i < 3; i++) CHECK_EQ(begin(f.c, "k", NULL, &t[i]), ZC_FOLLOW);
        for (int i = 0; i < 3; i++) {
            w[i] = (watcher){.c = f.c, .want = "v", .ticket = i == first ? t[i] : NULL};
            CHECK_EQ(zc_flight_notify(t[i], i == first ? consume : count, i == first ? (void *)&w[i]
                                                                                  : (void *)&told),
                     ZC_OK);
        }
        w[first].other = t[(first + 1) % 3];
        CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
        CHECK_EQ(w[first].told, 1);
        CHECK_EQ(w[first].rc, ZC_OK);
        CHECK(told >= 1 && told <= 2); /* who was ended before its turn is not told */
        CHECK_EQ(wait_now(f.c, t[(first + 2) % 3], "v"), ZC_OK);
        CHECK_EQ(zc_del(f.c, zc_str("k")), ZC_OK);
    }
    stop(&f);
}

static void lead_again(void *user) {
    watcher *w = (watcher *)user;
    zc_fill *t;
    zc_view v;
    w->told++;
    w->rc = zc_flight_wait(w->ticket, 0, &v);
    CHECK_EQ(w->rc, ZC_RETRY);
    if (zc_flight_begin(w->c, zc_str("k"), NULL, &v, &t) == ZC_LEAD)
        CHECK_EQ(commit(w->c, t, w->want), ZC_OK);
    else CHECK(is(w->c, &v, w->want));
}

TEST(a_watcher_takes_over) {
    fixture f;
    zc_fill *lead;
    watcher w[3];
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    for (int i = 0; i < 3; i++) {
        w[i] = (watcher){.c = f.c, .want = "again"};
        CHECK_EQ(begin(f.c, "k", NULL, &w[i].ticket), ZC_FOLLOW);
        CHECK_EQ(zc_flight_notify(w[i].ticket, lead_again, &w[i]), ZC_OK);
    }
    zc_flight_abandon(lead, 0);
    for (int i = 0; i < 3; i++) CHECK_EQ(w[i].told, 1);
    CHECK_EQ(get(f.c, "k", "again"), ZC_OK);
    CHECK_EQ(stats(f.c).fills, 1);
    stop(&f);
}

TEST(a_hundred_thousand_watchers) {
    fixture f;
    enum { N = 100000 };
    zc_fill *lead;
    watcher *w = (watcher *)calloc(N, sizeof *w);
    int wrong = 0;
    REQUIRE(w != NULL);
    if (start(&f)) {
        CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
        for (int i = 0; i < N; i++) {
            w[i].c = f.c;
            w[i].want = "v";
            wrong += begin(f.c, "k", NULL, &w[i].ticket) != ZC_FOLLOW;
            wrong += zc_flight_notify(w[i].ticket, consume, &w[i]) != ZC_OK;
        }
        CHECK_EQ(wrong, 0);
        CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
        for (int i = 0; i < N; i++) wrong += w[i].told != 1 || w[i].rc != ZC_OK;
        CHECK_EQ(wrong, 0);
        CHECK_EQ(stats(f.c).waits, N);
        stop(&f);
    }
    free(w);
}

/* ---- after zc_close ---- */

TEST(tickets_after_close) {
    fixture f;
    zc_fill *lead, *follow, *leave, *no_value;
    zc_view pin, v;
    int told = 0;
    if (!start(&f)) return;
    CHECK_EQ(zc_put(f.c, zc_str("p"), zc_str("pinned"), NULL), ZC_OK);
    CHECK_EQ(zc_get(f.c, zc_str("p"), &pin), ZC_OK);
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", NULL, &leave), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "j", NULL, &no_value), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(lead, zc_str("some:tag")), ZC_OK);
    CHECK_EQ(zc_flight_notify(follow, count, &told), ZC_OK);
    zc_cache *c = f.c;
    zc_close(c);
    CHECK_EQ(told, 1);
    CHECK_EQ(zc_flight_wait(follow, 0, &v), ZC_E_CLOSED);
    zc_flight_abandon(leave, 0);
    CHECK_EQ(zc_fill_dep(lead, zc_str("other:tag")), ZC_OK);
    CHECK_EQ(commit(c, lead, "late"), ZC_E_LEASE);
    zc_flight_abandon(no_value, ZC_E_USER);
    CHECK(f.mem.blocks > 0);
    CHECK(is(c, &pin, "pinned"));
    CHECK_EQ(f.mem.blocks, 0);
}

TEST(the_last_ticket_frees) {
    fixture f;
    zc_fill *lead;
    zc_view v;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    zc_cache *c = f.c;
    zc_close(c);
    CHECK_EQ(zc_fill_value(lead, zc_str("v")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, &v), ZC_E_LEASE);
    CHECK(v.size == 1);
    zc_release(c, &v);
    CHECK_EQ(f.mem.blocks, 0);
}

/* ---- nesting ---- */

TEST(a_nested_read_hands_its_dependencies_up) {
    fixture f;
    zc_fill *outer, *inner, *leads;
    if (!start(&f)) return;
    /* On a miss, in pieces. */
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    zc_fetch_opts o = {.parent = outer};
    CHECK_EQ(begin(f.c, "miss", &o, &inner), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(inner, zc_str("dep:miss")), ZC_OK);
    CHECK_EQ(commit(f.c, inner, "i"), ZC_OK);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("dep:miss")), ZC_OK);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    /* On a hit. */
    zc_bytes dep = zc_str("dep:hit");
    CHECK_EQ(zc_put(f.c, zc_str("hit"), zc_str("h"), &(zc_put_opts){.deps = &dep, .ndeps = 1}),
             ZC_OK);
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    o.parent = outer;
    CHECK_EQ(begin(f.c, "hit", &o, &inner), ZC_OK);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("dep:hit")), ZC_OK);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    /* As a follower. */
    CHECK_EQ(begin(f.c, "other", NULL, &leads), ZC_LEAD);
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    o.parent = outer;
    CHECK_EQ(begin(f.c, "other", &o, &inner), ZC_FOLLOW);
    CHECK_EQ(zc_fill_dep(leads, zc_str("dep:other")), ZC_OK);
    CHECK_EQ(commit(f.c, leads, "x"), ZC_OK);
    CHECK_EQ(wait_now(f.c, inner, "x"), ZC_OK);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("dep:other")), ZC_OK);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    /* A negative result has dependencies, too. */
    dep = zc_str("dep:absent");
    CHECK_EQ(zc_put_absent(f.c, zc_str("none"), &(zc_put_opts){.deps = &dep, .ndeps = 1}), ZC_OK);
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    o.parent = outer;
    CHECK_EQ(begin(f.c, "none", &o, &inner), ZC_ABSENT);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("dep:absent")), ZC_OK);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    stop(&f);
}

TEST(what_the_inner_one_lacks_the_outer_one_lacks) {
    /* The inner value misses a dependency and is not stored; then the outer may not be, either. */
    fixture f;
    zc_fill *outer, *inner;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    zc_fetch_opts o = {.parent = outer};
    CHECK_EQ(begin(f.c, "inner", &o, &inner), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(inner, zc_str("a::b")), ZC_E_TAG_SEGMENT);
    CHECK_EQ(commit(f.c, inner, "i"), ZC_REFUSED);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_REFUSED);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    stop(&f);
}

TEST(an_inner_invalidation_fences_the_outer_fill) {
    fixture f;
    zc_fill *outer, *inner;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    zc_fetch_opts o = {.parent = outer};
    CHECK_EQ(begin(f.c, "inner", &o, &inner), ZC_LEAD);
    CHECK_EQ(zc_fill_dep(inner, zc_str("t")), ZC_OK);
    CHECK_EQ(commit(f.c, inner, "old"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("t")), ZC_OK);
    CHECK_EQ(commit(f.c, outer, "made of old"), ZC_REFUSED);
    CHECK_EQ(get(f.c, "outer", ""), ZC_MISS);
    stop(&f);
}

TEST(a_refresh_may_outlive_the_fill_around_it) {
    fixture f;
    zc_fill *outer, *refresh;
    if (!start(&f)) return;
    zc_put_opts p = {.soft_ttl = ZC_SECOND};
    CHECK_EQ(zc_put(f.c, zc_str("inner"), zc_str("old"), &p), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    zc_fetch_opts o = {.parent = outer, .put = p};
    CHECK_EQ(begin(f.c, "inner", &o, &refresh), ZC_STALE);
    REQUIRE(refresh != NULL);
    CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    CHECK_EQ(zc_fill_dep(refresh, zc_str("t")), ZC_OK);
    CHECK_EQ(commit(f.c, refresh, "new"), ZC_OK);
    CHECK_EQ(get(f.c, "inner", "new"), ZC_OK);
    stop(&f);
}

/* A cancelled task ends the outer ticket while the inner one is still out. */
static void outer_ends_first(bool commits, bool follows) {
    fixture f;
    zc_fill *outer, *inner, *leads = NULL, *again, *lowest;
    zc_view v;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "outer", NULL, &outer), ZC_LEAD);
    zc_fetch_opts in_outer = {.parent = outer};
    if (follows) CHECK_EQ(begin(f.c, "inner", NULL, &leads), ZC_LEAD);
    CHECK_EQ(begin(f.c, "inner", &in_outer, &inner), follows ? ZC_FOLLOW : ZC_LEAD);
    CHECK_EQ(begin(f.c, "outer", &in_outer, &again), ZC_E_DEADLOCK);
    for (int i = 0; i < 9; i++) { /* more than a ticket has room for */
        char tag[8];
        snprintf(tag, sizeof tag, "t%d", i);
        CHECK_EQ(zc_fill_dep(outer, zc_str(tag)), ZC_OK);
    }
    if (commits) CHECK_EQ(commit(f.c, outer, "o"), ZC_OK);
    else zc_flight_abandon(outer, 0);
    zc_fetch_opts in_inner = {.parent = inner};
    CHECK_EQ(begin(f.c, "lowest", &in_inner, &lowest), ZC_LEAD);
    if (!commits) {
        /* What has ended waits for nobody. */
        CHECK_EQ(begin(f.c, "outer", &in_inner, &again), ZC_LEAD);
        CHECK_EQ(commit(f.c, again, "o"), ZC_OK);
    }
    if (follows) {
        CHECK_EQ(zc_flight_wait(inner, 0, &v), ZC_PENDING);
        CHECK_EQ(zc_fill_dep(leads, zc_str("dep")), ZC_OK);
        CHECK_EQ(commit(f.c, leads, "i"), ZC_OK);
        CHECK_EQ(wait_now(f.c, inner, "i"), ZC_OK);
    } else {
        CHECK_EQ(zc_fill_dep(inner, zc_str("dep")), ZC_OK);
        CHECK_EQ(commit(f.c, inner, "i"), ZC_OK);
    }
    CHECK_EQ(commit(f.c, lowest, "l"), ZC_OK);
    CHECK_EQ(get(f.c, "outer", "o"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("dep")), ZC_OK);
    CHECK_EQ(get(f.c, "outer", "o"), ZC_OK); /* it ended before it could inherit that */
    CHECK_EQ(get(f.c, "inner", ""), ZC_MISS);
    CHECK_EQ(stats(f.c).flights, 0);
    stop(&f);
}
TEST(the_outer_ticket_may_end_first) {
    for (int how = 0; how < 4; how++) outer_ends_first(how & 1, how & 2);
}

TEST(a_chain_of_tickets_may_end_in_any_order) {
    enum { DEEP = 5, ORDERS = 120 };
    for (int order = 0; order < ORDERS; order++) {
        fixture f;
        zc_fill *t[DEEP];
        int left[DEEP] = {0, 1, 2, 3, 4};
        if (!start(&f)) return;
        for (int i = 0; i < DEEP; i++) {
            char key[8];
            snprintf(key, sizeof key, "k%d", i);
            zc_fetch_opts o = {.parent = i ? t[i - 1] : NULL};
            CHECK_EQ(begin(f.c, key, &o, &t[i]), ZC_LEAD);
            CHECK_EQ(zc_fill_dep(t[i], zc_str(key)), ZC_OK);
        }
        if (order & 1) {
            zc_close(f.c);
            f.c = NULL;
        }
        for (int n = DEEP, rest = order; n > 0; rest /= n, n--) {
            int at = rest % n, i = left[at];
            left[at] = left[n - 1];
            CHECK_EQ(zc_fill_value(t[i], zc_str("v")), ZC_OK);
            if (i & 1) zc_flight_abandon(t[i], 0);
            else CHECK(zc_flight_commit(t[i], NULL) == (order & 1 ? ZC_E_LEASE : ZC_OK));
        }
        if (f.c) zc_close(f.c);
        CHECK_EQ(f.mem.blocks, 0);
    }
}

static int load_itself(zc_fill *fill, void *user) {
    zc_fetch_opts o = {.parent = fill};
    zc_view v;
    int rc = zc_fetch((zc_cache *)user, zc_str("k"), load_itself, user, &o, &v);
    zc_release((zc_cache *)user, &v);
    return rc;
}
static int load_via_other(zc_fill *fill, void *user) {
    zc_fetch_opts o = {.parent = fill};
    zc_view v;
    int rc = zc_fetch((zc_cache *)user, zc_str("other"), load_itself, user, &o, &v);
    zc_release((zc_cache *)user, &v);
    return rc;
}

TEST(recursion_on_the_same_key) {
    fixture f;
    zc_view v;
    if (!start(&f)) return;
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_itself, f.c, NULL, &v), ZC_E_DEADLOCK);
    CHECK(!v.pin);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_via_other, f.c, NULL, &v), ZC_E_DEADLOCK);
    CHECK_EQ(stats(f.c).flights, 0);
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_text, "fine", NULL, &v), ZC_OK);
    CHECK(is(f.c, &v, "fine"));
    stop(&f);
}

/* ---- flights that wait for each other ---- */

typedef struct knot {
    zc_cache *c;
    const char *key, *via, *other; /* key's loader fetches via (may be NULL), that one other */
    zct_barrier *both_lead;
    int rc, inner;
} knot;

static int load_other(zc_fill *fill, void *user) {
    knot *k = (knot *)user;
    zc_fetch_opts o = {.parent = fill};
    zc_view v;
    zct_barrier_wait(k->both_lead);
    k->inner = zc_fetch(k->c, zc_str(k->other), load_text, "inner", &o, &v);
    zc_release(k->c, &v);
    return zc_fill_value(fill, zc_str("without it"));
}

static int load_via(zc_fill *fill, void *user) {
    knot *k = (knot *)user;
    zc_fetch_opts o = {.parent = fill};
    zc_view v;
    CHECK_EQ(zc_fetch(k->c, zc_str(k->via), load_other, user, &o, &v), ZC_OK);
    zc_release(k->c, &v);
    return zc_fill_value(fill, zc_str("via"));
}

static void *tie(void *user) {
    knot *k = (knot *)user;
    zc_view v;
    k->rc = zc_fetch(k->c, zc_str(k->key), k->via ? load_via : load_other, k, NULL, &v);
    zc_release(k->c, &v);
    return NULL;
}

static void tie_knot(knot a, knot b) {
    zct_barrier barrier;
    pthread_t thread;
    zc_cache *c;
    /* Real time: without detection the lease ends it, after a while. */
    REQUIRE(zc_open(&(zc_desc){.flight_timeout = 5 * ZC_SECOND}, &c) == ZC_OK);
    zct_barrier_init(&barrier, 2);
    a.c = b.c = c;
    a.both_lead = b.both_lead = &barrier;
    CHECK_EQ(pthread_create(&thread, NULL, tie, &a), 0);
    tie(&b);
    pthread_join(thread, NULL);
    CHECK((a.inner == ZC_E_DEADLOCK) != (b.inner == ZC_E_DEADLOCK)); /* one of them, the later */
    CHECK_EQ(a.rc, ZC_OK);
    CHECK_EQ(b.rc, ZC_OK);
    zct_barrier_destroy(&barrier);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(two_flights_that_wait_for_each_other) {
    tie_knot((knot){.key = "a", .other = "b"}, (knot){.key = "b", .other = "a"});
}

TEST(a_circle_through_a_nested_leader) {
    tie_knot((knot){.key = "a", .via = "m", .other = "b"}, (knot){.key = "b", .other = "a"});
}

TEST(a_circle_through_two_nested_leaders) {
    tie_knot((knot){.key = "a", .via = "m", .other = "b"},
             (knot){.key = "b", .via = "n", .other = "a"});
}

/* ---- real waiting ---- */

typedef struct sleeper {
    zc_cache *c;
    zc_fill *ticket;
    uint64_t timeout;
    int rc;
} sleeper;

static void *sleep_on_it(void *user) {
    sleeper *s = (sleeper *)user;
    zc_view v;
    s->rc = zc_flight_wait(s->ticket, s->timeout, &v);
    zc_release(s->c, &v);
    return NULL;
}

TEST(waiting_sleeps_until_the_commit) {
    fixture f;
    enum { N = 8 };
    sleeper s[N];
    pthread_t thread[N];
    zc_fill *lead;
    if (!start(&f)) return;
    CHECK_EQ(begin(f.c, "k", NULL, &lead), ZC_LEAD);
    for (int i = 0; i < N; i++) {
        s[i] = (sleeper){.c = f.c, .timeout = ZC_NEVER, .rc = ZC_PENDING};
        CHECK_EQ(begin(f.c, "k", NULL, &s[i].ticket), ZC_FOLLOW);
        CHECK_EQ(pthread_create(&thread[i], NULL, sleep_on_it, &s[i]), 0);
    }
    nap();
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    for (int i = 0; i < N; i++) {
        pthread_join(thread[i], NULL);
        CHECK_EQ(s[i].rc, ZC_OK);
    }
    stop(&f);
}

TEST(waiting_ends_with_the_lease_in_real_time) {
    zc_cache *c;
    zc_fill *lead, *follow;
    zc_view v;
    REQUIRE(zc_open(&(zc_desc){.flight_timeout = 50 * ZC_MILLISECOND}, &c) == ZC_OK);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(begin(c, "k", NULL, &lead), ZC_LEAD);
        int rc = begin(c, "k", NULL, &follow);
        CHECK_EQ(rc, ZC_FOLLOW);
        if (rc != ZC_FOLLOW) break;
        rc = zc_flight_wait(follow, ZC_NEVER, &v);
        CHECK_EQ(rc, ZC_RETRY); /* never ZC_PENDING: there was no limit */
        if (rc == ZC_PENDING) zc_flight_abandon(follow, 0);
        zc_flight_abandon(lead, 0);
    }
    zc_close(c);
}

TEST(a_limited_wait_stays_pending) {
    zc_cache *c;
    zc_fill *lead, *follow;
    zc_view v;
    REQUIRE(zc_open(NULL, &c) == ZC_OK);
    CHECK_EQ(begin(c, "k", NULL, &lead), ZC_LEAD);
    CHECK_EQ(begin(c, "k", NULL, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_wait(follow, 5 * ZC_MILLISECOND, &v), ZC_PENDING);
    CHECK_EQ(zc_flight_wait(follow, 5 * ZC_MILLISECOND, &v), ZC_PENDING); /* the ticket stays */
    CHECK_EQ(commit(c, lead, "v"), ZC_OK);
    CHECK_EQ(zc_flight_wait(follow, ZC_NEVER, &v), ZC_OK);
    CHECK(is(c, &v, "v"));
    zc_close(c);
}

/* ---- refreshes ---- */

typedef struct source {
    int loads, released;
    const char *text;
    int error;
} source;

static int load_source(zc_fill *fill, void *user) {
    source *s = (source *)user;
    int error = __atomic_load_n(&s->error, __ATOMIC_ACQUIRE);
    __atomic_add_fetch(&s->loads, 1, __ATOMIC_ACQ_REL);
    return error ? error : zc_fill_value(fill, zc_str(s->text));
}
static void release_source(void *user) {
    __atomic_add_fetch(&((source *)user)->released, 1, __ATOMIC_ACQ_REL);
}
static int loads_of(source *s) { return __atomic_load_n(&s->loads, __ATOMIC_ACQUIRE); }
static int released_of(source *s) { return __atomic_load_n(&s->released, __ATOMIC_ACQUIRE); }

static int fetch(zc_cache *c, const char *key, source *s, zc_fetch_opts *o, const char *want) {
    zc_view v;
    int rc = zc_fetch(c, zc_str(key), load_source, s, o, &v);
    if (rc == ZC_OK || rc == ZC_STALE) CHECK(is(c, &v, want));
    zc_release(c, &v);
    return rc;
}

TEST(soft_ttl_refreshes_once_by_poll) {
    fixture f;
    source s = {.text = "1"};
    zc_fetch_opts o = {.put = {.soft_ttl = 5 * ZC_SECOND, .ttl = 60 * ZC_SECOND}};
    o.release = release_source;
    if (!start(&f)) return;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_OK);
    CHECK_EQ(s.released, 1);
    zct_step(&f.time, 5 * ZC_SECOND);
    s.text = "2";
    for (int i = 0; i < 5; i++) CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_STALE);
    CHECK_EQ(s.loads, 1);
    CHECK_EQ(s.released, 5); /* all but the one that is needed later */
    CHECK_EQ(stats(f.c).refreshes, 1);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(s.loads, 2);
    CHECK_EQ(s.released, 6);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_OK);
    /* A refresh that fails leaves the old value, and the next caller tries again. */
    zct_step(&f.time, 5 * ZC_SECOND);
    s.error = ZC_E_USER;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_STALE);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(s.loads, 3);
    s.error = 0;
    s.text = "3";
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_STALE);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(fetch(f.c, "k", &s, &o, "3"), ZC_OK);
    /* One that is still queued at the end is let go by zc_close(). */
    zct_step(&f.time, 5 * ZC_SECOND);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "3"), ZC_STALE);
    int before = s.released;
    stop(&f);
    CHECK_EQ(s.released, before + 1);
    CHECK_EQ(s.loads, 4);
}

TEST(a_refresh_in_its_caller) {
    fixture f;
    source s = {.text = "1"};
    zc_fetch_opts o = {.put = {.soft_ttl = 5 * ZC_SECOND, .ttl = 60 * ZC_SECOND}};
    o.release = release_source;
    o.refresh_here = true;
    if (!start(&f)) return;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_OK);
    zct_step(&f.time, 5 * ZC_SECOND);
    s.error = ZC_E_USER; /* what is there is better than an error */
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_STALE);
    s.error = 0;
    s.text = "2";
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_OK);
    CHECK_EQ(s.loads, 3);
    CHECK_EQ(s.released, 3);
    CHECK_EQ(stats(f.c).refreshes, 2);
    zct_step(&f.time, 5 * ZC_SECOND); /* of others who are at it, it waits for none */
    zc_fill *lead;
    zc_view v;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &lead), ZC_STALE);
    zc_release(f.c, &v);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_STALE);
    zc_flight_abandon(lead, 0);
    CHECK_EQ(zc_poll(f.c, ZC_SECOND), ZC_OK);
    CHECK_EQ(s.loads, 3);
    stop(&f);
}

TEST(soft_ttl_refreshes_by_the_background_thread) {
    fixture f;
    source s = {.text = "1"}, s2 = {.text = "2"};
    zc_fetch_opts o = {.put = {.soft_ttl = 5 * ZC_SECOND}, .release = release_source};
    if (!start_with(&f, (zc_desc){0})) return;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_OK);
    zct_step(&f.time, 5 * ZC_SECOND);
    zc_view v;
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_source, &s2, &o, &v), ZC_STALE);
    CHECK(is(f.c, &v, "1"));
    EVENTUALLY(released_of(&s2) == 1);
    CHECK_EQ(loads_of(&s2), 1);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_OK);
    CHECK_EQ(loads_of(&s), 1);
    stop(&f);
}

TEST(a_refresh_in_pieces) {
    fixture f;
    zc_fill *refresh, *second;
    zc_view v;
    zc_fetch_opts o = {.put = {.soft_ttl = 5 * ZC_SECOND}};
    if (!start(&f)) return;
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("1"), &o.put), ZC_OK);
    zct_step(&f.time, 6 * ZC_SECOND);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &refresh), ZC_STALE);
    CHECK(is(f.c, &v, "1"));
    REQUIRE(refresh != NULL);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &second), ZC_STALE);
    CHECK(is(f.c, &v, "1"));
    CHECK(second == NULL);
    CHECK_EQ(commit(f.c, refresh, "2"), ZC_OK);
    CHECK_EQ(get(f.c, "k", "2"), ZC_OK);
    stop(&f);
}

TEST(an_invalidated_value_is_not_served_while_it_refreshes) {
    fixture f;
    zc_fill *refresh, *lead;
    zc_bytes dep = zc_str("t");
    zc_fetch_opts o = {.put = {.soft_ttl = 5 * ZC_SECOND, .deps = &dep, .ndeps = 1}};
    if (!start(&f)) return;
    CHECK_EQ(zc_put(f.c, zc_str("k"), zc_str("1"), &o.put), ZC_OK);
    zct_step(&f.time, 6 * ZC_SECOND);
    CHECK_EQ(begin(f.c, "k", &o, &refresh), ZC_STALE);
    REQUIRE(refresh != NULL);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    CHECK_EQ(begin(f.c, "k", &o, &lead), ZC_FOLLOW);
    CHECK_EQ(commit(f.c, refresh, "read before"), ZC_REFUSED);
    CHECK_EQ(wait_now(f.c, lead, ""), ZC_RETRY);
    CHECK_EQ(begin(f.c, "k", &o, &lead), ZC_LEAD);
    CHECK_EQ(commit(f.c, lead, "read after"), ZC_OK);
    stop(&f);
}

TEST(early_refresh_spreads_reloads) {
    fixture f;
    source s = {.text = "v"};
    zc_fetch_opts o = {.put = {.ttl = 100 * ZC_SECOND}, .early_percent = 100};
    zc_fill *lead;
    int early = 0;
    if (!start(&f)) return;
    /* A load that takes 10 s of a life of 100 s. */
    CHECK_EQ(begin(f.c, "k", &o, &lead), ZC_LEAD);
    zct_step(&f.time, 9 * ZC_SECOND);
    CHECK_EQ(commit(f.c, lead, "v"), ZC_OK);
    for (int i = 0; i < 100; i++) {
        zc_view v;
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &lead), ZC_OK);
        early += lead != NULL;
        zc_release(f.c, &v);
        zc_flight_abandon(lead, 0);
    }
    CHECK(early < 5); /* e^-11 a call: hardly ever at the start */
    zct_step(&f.time, 95 * ZC_SECOND);
    early = 0;
    for (int i = 0; i < 1000; i++) {
        zc_view v;
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), &o, &v, &lead), ZC_OK);
        early += lead != NULL;
        zc_release(f.c, &v);
        zc_flight_abandon(lead, 0);
    }
    CHECK(early > 480 && early < 670); /* e^-0.55 a call: 574 of 1000, give or take 16 */
    /* One refresh a key, however many ask. */
    for (int i = 0; i < 100; i++) CHECK_EQ(fetch(f.c, "k", &s, &o, "v"), ZC_OK);
    CHECK_EQ(stats(f.c).refreshes, 1);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(s.loads, 1);
    stop(&f);
}

TEST(a_value_may_stand_in_for_an_error) {
    fixture f;
    source s = {.text = "old"};
    zc_fetch_opts o = {.put = {.ttl = 10 * ZC_SECOND, .stale_if_error = 20 * ZC_SECOND}};
    zc_fill *lead, *follow;
    if (!start(&f)) return;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "old"), ZC_OK);
    zct_step(&f.time, 15 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS); /* a plain read knows no errors */
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    s.error = ZC_E_USER;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "old"), ZC_STALE);
    CHECK_EQ(s.loads, 2);
    CHECK_EQ(begin(f.c, "k", &o, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", &o, &follow), ZC_FOLLOW);
    zc_flight_abandon(lead, ZC_E_USER);
    CHECK_EQ(wait_now(f.c, follow, "old"), ZC_STALE);
    zct_step(&f.time, 15 * ZC_SECOND);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "old"), ZC_E_USER); /* past the grace, too */
    s.error = 0;
    s.text = "new";
    CHECK_EQ(fetch(f.c, "k", &s, &o, "new"), ZC_OK);
    stop(&f);
}

TEST(what_was_invalidated_stands_in_only_if_asked_for) {
    fixture f;
    source s = {.text = "old"};
    zc_bytes dep = zc_str("t");
    zc_fetch_opts o = {.put = {.stale_if_error = 20 * ZC_SECOND, .deps = &dep, .ndeps = 1}};
    zc_fetch_opts brave = o;
    zc_fill *lead, *shy, *bold;
    brave.serve_invalidated = true;
    if (!start(&f)) return;
    CHECK_EQ(fetch(f.c, "k", &s, &brave, "old"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    s.error = ZC_E_USER;
    CHECK_EQ(fetch(f.c, "k", &s, &o, ""), ZC_E_USER);
    CHECK_EQ(fetch(f.c, "k", &s, &brave, "old"), ZC_STALE);
    CHECK_EQ(begin(f.c, "k", &brave, &lead), ZC_LEAD);
    CHECK_EQ(begin(f.c, "k", &o, &shy), ZC_FOLLOW);
    CHECK_EQ(begin(f.c, "k", &brave, &bold), ZC_FOLLOW);
    zc_flight_abandon(lead, ZC_E_USER);
    CHECK_EQ(wait_now(f.c, shy, ""), ZC_E_USER);
    CHECK_EQ(wait_now(f.c, bold, "old"), ZC_STALE);
    /* Stored without being asked, it is swept, and then cannot be had. */
    s.error = 0;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "old"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    s.error = ZC_E_USER;
    CHECK_EQ(fetch(f.c, "k", &s, &o, ""), ZC_E_USER);
    stop(&f);
}

TEST(serve_invalidated_with_a_soft_ttl) {
    fixture f;
    source s = {.text = "1"};
    zc_bytes dep = zc_str("t");
    zc_fetch_opts o = {.put = {.soft_ttl = 100 * ZC_SECOND, .deps = &dep, .ndeps = 1}};
    zc_fetch_opts shy = o;
    o.serve_invalidated = true;
    if (!start(&f)) return;
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    s.text = "2";
    CHECK_EQ(get(f.c, "k", ""), ZC_MISS);
    CHECK_EQ(fetch(f.c, "k", &s, &o, "1"), ZC_STALE);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    CHECK_EQ(fetch(f.c, "k", &s, &o, "2"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, dep), ZC_OK);
    s.text = "3";
    CHECK_EQ(fetch(f.c, "k", &s, &shy, "3"), ZC_OK); /* who does not ask for it never sees it */
    stop(&f);
}

TEST(a_stale_negative_result_is_one_all_the_same) {
    fixture f;
    source s = {.text = "1"};
    zc_fetch_opts o = {.put = {.soft_ttl = ZC_SECOND}};
    if (!start(&f)) return;
    CHECK_EQ(zc_put_absent(f.c, zc_str("k"), &(zc_put_opts){.soft_ttl = ZC_SECOND}), ZC_OK);
    zct_step(&f.time, 2 * ZC_SECOND);
    CHECK_EQ(get(f.c, "k", ""), ZC_ABSENT);
    zc_view v;
    CHECK_EQ(zc_fetch(f.c, zc_str("k"), load_source, &s, &o, &v), ZC_ABSENT);
    zc_release(f.c, &v);
    stop(&f);
}
