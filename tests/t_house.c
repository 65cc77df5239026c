/* Housekeeping: each duty has its turn, steps are small, and go on where the last ended. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "log_bus.h"

static void nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

/* Waits for what another thread does; half a minute is for ever. */
/* clang-format off */
#define EVENTUALLY(x) do { for (int w_ = 0; w_ < 30000 && !(x); w_++) nap(); CHECK(x); } while (0)
/* clang-format on */

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    log_hub hub;
    log_node node;
    fault_store store;
    zc_cache *c;
} fixture;

static bool start_with(fixture *f, zc_desc d) {
    memset(f, 0, sizeof *f);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    lb_init(&f->hub);
    fs_init(&f->store);
    f->node.hub = &f->hub;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
    fs_destroy(&f->store);
    lb_destroy(&f->hub);
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

static zc_bytes name(char text[32], const char *what, int i) {
    snprintf(text, 32, "%s%d", what, i);
    return zc_str(text);
}

static void put_for(zc_cache *c, zc_bytes key, uint64_t ttl) {
    zc_put_opts o = {.ttl = ttl};
    CHECK_EQ(zc_put(c, key, zc_str("x"), &o), ZC_OK);
}

static void count(void *user) { __atomic_add_fetch((int *)user, 1, __ATOMIC_ACQ_REL); }
static int counted(int *n) { return __atomic_load_n(n, __ATOMIC_ACQUIRE); }

/* ---- each duty has its turn ---- */

#define HOT 3

/* Keys that are always past their soft deadline: each refresh takes longer than any budget, and
 * leaves another behind. */
static fixture *hot;
static int refreshed;

static int load_hot(zc_fill *fill, void *user);
static void fetch_hot(int i) {
    static int which[HOT];
    char text[32];
    zc_view v;
    zc_fetch_opts o = {.put = {.soft_ttl = 1}};
    which[i] = i;
    int rc = zc_fetch(hot->c, name(text, "hot", i), load_hot, &which[i], &o, &v);
    CHECK(rc == ZC_OK || rc == ZC_STALE);
    zc_release(hot->c, &v);
}
static int load_hot(zc_fill *fill, void *user) {
    int i = *(int *)user, rc = zc_fill_value(fill, zc_str("hot"));
    if (refreshed++ >= HOT) { /* not one of the first fills */
        zct_step(&hot->time, 5 * ZC_MILLISECOND);
        fetch_hot((i + 1) % HOT);
    }
    return rc;
}

TEST(refreshes_without_end_keep_nothing_else_from_its_turn) {
    static fixture f;
    zc_fill *late, *follower;
    zc_view v;
    int told = 0;
    zc_desc d = {.no_thread = true, .write_behind = true, .ack = ZC_ASYNC, .shards = 4};
    zc_fetch_opts lease = {.flight_timeout = 200 * ZC_MILLISECOND};
    f.node.hub = &f.hub;
    d.bus = lb_hook(&f.node, false);
    d.store = fs_hook(&f.store, false);
    if (!start_with(&f, d)) return;
    hot = &f;
    refreshed = 0;
    for (int i = 0; i < HOT; i++) fetch_hot(i);
    while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
    for (int i = 0; i < HOT; i++) fetch_hot(i); /* the first of those without end */
    char text[32];
    for (int i = 0; i < 100; i++) put_for(f.c, name(text, "short", i), 200 * ZC_MILLISECOND);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("slow"), &lease, &v, &late), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("slow"), &lease, &v, &follower), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(follower, count, &told), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c, zc_str("row:1")), ZC_OK);
    f.store.fail_rc = ZC_E_TIMEOUT;
    fs_fail(&f.store, 1u << FS_GET, 0, 1);
    CHECK_EQ(zc_get(f.c, zc_str("unknown"), &v), ZC_MISS);
    CHECK(stats(f.c).store_open);
    fs_fail(&f.store, 0, 0, 0);
    int before = refreshed;
    uint64_t oldest = 0;
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(zc_poll(f.c, 0), ZC_MORE);
        uint64_t age = stats(f.c).bus_age;
        if (age > oldest) oldest = age;
    }
    CHECK_EQ(refreshed - before, 1000); /* one a round */
    CHECK_EQ(stats(f.c).removed[ZC_CAUSE_EXPIRED], 100);
    CHECK_EQ(told, 1);
    CHECK(f.node.appends == 1);
    CHECK(!stats(f.c).store_open);
    CHECK(fs_find(&f.store, zc_str("short99")) != NULL);
    CHECK(oldest <= 10 * ZC_MILLISECOND);
    zc_flight_abandon(late, 0);
    zc_flight_abandon(follower, 0);
    stop(&f);
}

TEST(a_node_far_behind_hears_some_at_a_time) {
    static fixture f;
    log_node other = {.hub = &f.hub};
    zc_cache *writer;
    zc_view v;
    char text[32];
    zc_desc d = {.no_thread = true, .shards = 1};
    zc_bytes tag = zc_str("t999");
    zc_put_opts o = {.deps = &tag, .ndeps = 1};
    d.bus = lb_hook(&f.node, false);
    if (!start_with(&f, d)) return;
    d.bus = lb_hook(&other, false);
    d.clock = zct_clock(&f.time);
    REQUIRE(zc_open(&d, &writer) == ZC_OK);
    CHECK_EQ(zc_put(f.c, zc_str("last"), zc_str("x"), &o), ZC_OK);
    for (int i = 0; i < 100; i++) put_for(f.c, name(text, "short", i), 200 * ZC_MILLISECOND);
    for (int i = 0; i < 1000; i++) CHECK_EQ(zc_invalidate(writer, name(text, "t", i)), ZC_OK);
    zct_step(&f.time, 500 * ZC_MILLISECOND);
    uint64_t age = stats(f.c).bus_age;
    unsigned rounds = 0;
    for (uint64_t heard = 0; zc_poll(f.c, 0) == ZC_MORE && rounds < 1000; rounds++) {
        uint64_t all = stats(f.c).bus_entries;
        CHECK(all - heard <= 64);
        CHECK(all > heard || all == 1000);
        heard = all;
        if (heard < 1000) CHECK_EQ(stats(f.c).bus_age, age); /* nothing is proven yet */
        if (rounds == 10) CHECK(stats(f.c).removed[ZC_CAUSE_EXPIRED] > 0); /* its turn */
    }
    CHECK(rounds >= 1000 / 64);
    CHECK_EQ(stats(f.c).bus_entries, 1000);
    CHECK_EQ(stats(f.c).bus_age, 0);
    CHECK_EQ(stats(f.c).removed[ZC_CAUSE_EXPIRED], 100);
    CHECK_EQ(zc_get(f.c, zc_str("last"), &v), ZC_MISS);
    zc_close(writer);
    stop(&f);
}

/* ---- threads for refreshes ---- */

typedef struct meeting {
    fixture *f;
    int there, want, released; /* atomic */
    bool removed;              /* instead: until housekeeping has removed something */
} meeting;

static int load_together(zc_fill *fill, void *user) {
    meeting *m = (meeting *)user;
    count(&m->there);
    if (m->removed) EVENTUALLY(stats(m->f->c).removed[ZC_CAUSE_EXPIRED] == 1);
    else EVENTUALLY(counted(&m->there) >= m->want);
    return zc_fill_value(fill, zc_str("new"));
}
static void release_meeting(void *user) { count(&((meeting *)user)->released); }

static void refresh_soon(fixture *f, int i, meeting *m) {
    char text[32];
    zc_view v;
    zc_put_opts soft = {.soft_ttl = ZC_SECOND};
    zc_fetch_opts o = {.put = soft, .release = release_meeting};
    CHECK_EQ(zc_put(f->c, name(text, "k", i), zc_str("old"), &soft), ZC_OK);
    zct_step(&f->time, ZC_SECOND);
    CHECK_EQ(zc_fetch(f->c, zc_str(text), load_together, m, &o, &v), ZC_STALE);
    zc_release(f->c, &v);
}

TEST(refreshes_run_side_by_side_if_asked) {
    static fixture f;
    meeting m = {&f, 0, 3, 0, false};
    if (!start_with(&f, (zc_desc){.refresh_threads = 3})) return;
    for (int i = 0; i < 3; i++) refresh_soon(&f, i, &m);
    EVENTUALLY(counted(&m.released) == 3);
    stop(&f);
}

TEST(one_after_the_other_unless_asked) {
    static fixture f;
    meeting m = {&f, 0, 1, 0, false};
    if (!start_with(&f, (zc_desc){0})) return;
    for (int i = 0; i < 20; i++) refresh_soon(&f, i, &m);
    EVENTUALLY(counted(&m.released) == 20);
    CHECK_EQ(m.there, 20);
    stop(&f);
}

TEST(a_loader_that_takes_for_ever_does_not_stop_housekeeping) {
    static fixture f;
    meeting m = {&f, 0, 0, 0, true};
    if (!start_with(&f, (zc_desc){0})) return;
    refresh_soon(&f, 0, &m);
    EVENTUALLY(counted(&m.there) == 1);
    put_for(f.c, zc_str("short"), ZC_SECOND);
    zct_step(&f.time, 2 * ZC_SECOND);
    EVENTUALLY(counted(&m.released) == 1);
    CHECK_EQ(stats(f.c).removed[ZC_CAUSE_EXPIRED], 1);
    stop(&f);
}

TEST(descriptions_of_threads) {
    zc_cache *c = NULL;
    CHECK_EQ(zc_open(&(zc_desc){.refresh_threads = 65}, &c), ZC_E_INVAL);
    CHECK(!c);
    /* Without threads it means nothing. */
    REQUIRE(zc_open(&(zc_desc){.refresh_threads = 64, .no_thread = true}, &c) == ZC_OK);
    CHECK(!c->threads);
    zc_close(c);
}

TEST(no_memory_for_threads_changes_nothing) {
    for (uint64_t fail = 1;; fail++) {
        zct_mem mem = {.fail_at = fail};
        zc_cache *c;
        zc_desc d = {.allocator = zct_allocator(&mem), .refresh_threads = 2};
        int rc = zc_open(&d, &c);
        if (rc == ZC_OK) {
            CHECK_EQ(c->nthreads, 3);
            zc_close(c);
        }
        CHECK_EQ(mem.blocks, 0);
        if (rc == ZC_OK) break;
        CHECK_EQ(rc, ZC_E_NOMEM);
    }
}

/* ---- overdue flights ---- */

#define LATE 2000

TEST(overdue_flights_end_some_at_a_time_and_none_is_looked_at_twice) {
    static fixture f;
    static zc_fill *leaders[LATE + 1], *followers[LATE];
    char text[32];
    zc_view v;
    int told = 0;
    zc_desc d = {.no_thread = true, .shards = 1, .flight_timeout = 10 * ZC_SECOND};
    if (!start_with(&f, d)) return;
    for (int i = 0; i < LATE; i++) {
        zc_bytes key = name(text, "k", i);
        CHECK_EQ(zc_flight_begin(f.c, key, NULL, &v, &leaders[i]), ZC_LEAD);
        CHECK_EQ(zc_flight_begin(f.c, key, NULL, &v, &followers[i]), ZC_FOLLOW);
        CHECK_EQ(zc_flight_notify(followers[i], count, &told), ZC_OK);
    }
    CHECK_EQ(zc_poll(f.c, 0), ZC_OK);
    zct_step(&f.time, 10 * ZC_SECOND);
    int rounds = 0, most = 0;
    for (uint32_t at = 0; told < LATE && rounds < LATE; rounds++) {
        int before = told;
        CHECK_EQ(zc_poll(f.c, 0), ZC_MORE);
        if (told - before > most) most = told - before;
        CHECK(f.c->shards[0].lease_at > at || f.c->shards[0].lease_at == 0); /* never back */
        at = f.c->shards[0].lease_at;
        if (rounds != 3) continue;
        /* One that begins meanwhile, in whatever chain, is found when its time has come. */
        zc_fetch_opts soon = {.flight_timeout = ZC_SECOND};
        CHECK_EQ(zc_flight_begin(f.c, zc_str("new"), &soon, &v, &leaders[LATE]), ZC_LEAD);
    }
    CHECK_EQ(told, LATE);
    CHECK(most > 0 && most <= 64);
    while (zc_poll(f.c, 0) == ZC_MORE) {}
    CHECK_EQ(stats(f.c).flights, 1);
    CHECK_EQ(f.c->shards[0].next_lease, f.time.mono + ZC_SECOND);
    zct_step(&f.time, ZC_SECOND);
    while (zc_poll(f.c, 0) == ZC_MORE) {}
    CHECK_EQ(stats(f.c).flights, 0);
    for (int i = 0; i < LATE; i++) {
        zc_flight_abandon(leaders[i], 0);
        zc_flight_abandon(followers[i], 0);
    }
    zc_flight_abandon(leaders[LATE], 0);
    stop(&f);
}
