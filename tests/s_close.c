/* zc_close() beside the calls that it permits: tickets that end, pins that are released, a write to
 * the storage that is under way; and what its call-backs do. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "barrier.h"
#include "fault_store.h"
#include "log_bus.h"
#include <sched.h>

static void nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }
static bool is_set(const bool *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static void set(bool *p) { __atomic_store_n(p, true, __ATOMIC_RELEASE); }

static zc_fill *lead(zc_cache *c, const char *key) {
    zc_fill *t;
    zc_view v;
    CHECK_EQ(zc_flight_begin(c, zc_str(key), NULL, &v, &t), ZC_LEAD);
    CHECK_EQ(zc_fill_value(t, zc_str("v")), ZC_OK);
    return t;
}
static zc_fill *follow(zc_cache *c, const char *key) {
    zc_fill *t;
    zc_view v;
    CHECK_EQ(zc_flight_begin(c, zc_str(key), NULL, &v, &t), ZC_FOLLOW);
    return t;
}

/* ---- a write under way ---- */

typedef struct writing {
    zc_fill *t;
    fault_store store;
    bool writes, closes; /* atomic */
    bool closed_meanwhile, written_later;
} writing;

static bool is_closed(writing *w) {
    pthread_mutex_lock(&w->store.lock);
    bool closed = w->store.closes != 0;
    pthread_mutex_unlock(&w->store.lock);
    return closed;
}

/* Writes until the other thread has had its chance to close the storage. */
static void slow_put(void *user) {
    writing *w = (writing *)user;
    w->written_later |= is_closed(w);
    set(&w->writes);
    while (!is_set(&w->closes)) nap();
    for (int i = 0; i < 50 && !is_closed(w); i++) nap();
    w->closed_meanwhile |= is_closed(w);
}

static void *commits(void *user) {
    CHECK_EQ(zc_flight_commit(((writing *)user)->t, NULL), ZC_OK);
    return NULL;
}

TEST(a_write_under_way_is_waited_for) {
    static writing w;
    zct_mem mem = {0};
    pthread_t other;
    zc_cache *c;
    fs_init(&w.store);
    zc_desc d = {.no_thread = true, .shards = 4, .allocator = zct_allocator(&mem)};
    d.store = fs_hook(&w.store, true);
    w.store.on_put = slow_put;
    w.store.on_put_user = &w;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    zc_fill *late = lead(c, "late");
    w.t = lead(c, "k");
    pthread_create(&other, NULL, commits, &w);
    while (!is_set(&w.writes)) nap();
    set(&w.closes);
    zc_close(c);
    CHECK_EQ(w.store.closes, 1);
    pthread_join(other, NULL);
    CHECK_EQ(zc_flight_commit(late, NULL), ZC_E_LEASE); /* no longer written */
    CHECK(!w.closed_meanwhile && !w.written_later);
    CHECK_EQ(w.store.nrecords, 1);
    CHECK_EQ(mem.blocks, 0);
    fs_destroy(&w.store);
}

/* ---- a refresh under way ---- */

typedef struct refreshing {
    zc_cache *c;
    bool loads; /* atomic */
} refreshing;

/* In the background it needs a value that somebody else is to give. */
static int load_of_other(zc_fill *fill, void *user) {
    refreshing *w = (refreshing *)user;
    zc_fetch_opts o = {.parent = fill, .promote = true};
    zc_view v;
    set(&w->loads);
    int rc = zc_fetch(w->c, zc_str("other"), load_of_other, user, &o, &v);
    CHECK(rc < 0);
    return rc;
}

TEST(the_workers_refresh_waits_for_a_ticket_that_is_out) {
    static refreshing w;
    zct_mem mem = {0};
    zc_desc d = {.flight_timeout = ZC_NEVER, .allocator = zct_allocator(&mem)};
    zc_fetch_opts o = {.put.soft_ttl = 1};
    zc_view v;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    zc_fill *out = lead(w.c, "other");
    CHECK_EQ(zc_put(w.c, zc_str("k"), zc_str("v"), &o.put), ZC_OK);
    CHECK_EQ(zc_fetch(w.c, zc_str("k"), load_of_other, &w, &o, &v), ZC_STALE);
    zc_release(w.c, &v);
    while (!is_set(&w.loads)) nap();
    for (int i = 0; i < 10; i++) nap(); /* mostly it waits by now */
    zc_close(w.c);
    CHECK_EQ(zc_flight_commit(out, NULL), ZC_E_LEASE);
    CHECK_EQ(mem.blocks, 0);
}

/* ---- call-backs ---- */

enum { TICKETS = 24 };

typedef struct called {
    zc_cache *c;
    zc_fill *lead[TICKETS], *follow[TICKETS];
    uint64_t told, removed;
    int at;
} called;

static int load_text(zc_fill *fill, void *user) {
    return zc_fill_value(fill, zc_str((const char *)user));
}

/* Ends one of the tickets that are out, and does whatever else comes to mind. */
static void meddle(called *w) {
    zc_view v;
    zc_fill *t;
    zc_bytes tag = zc_str("t");
    int i = w->at++ * 7 % TICKETS;
    if (!w->c) return;
    if (w->lead[i]) {
        t = w->lead[i];
        w->lead[i] = NULL;
        if (i & 1) zc_flight_abandon(t, ZC_E_USER);
        else CHECK(zc_flight_commit(t, NULL) != ZC_PENDING);
    }
    i = w->at * 5 % TICKETS;
    if (w->follow[i]) {
        t = w->follow[i];
        w->follow[i] = NULL;
        if (zc_flight_wait(t, 0, &v) == ZC_PENDING) zc_flight_abandon(t, 0);
        zc_release(w->c, &v);
    }
    CHECK(zc_clear(w->c) <= ZC_OK);
    CHECK(zc_put(w->c, zc_str("new"), zc_str("v"), NULL) <= ZC_OK);
    CHECK(zc_put(w->c, zc_str("dep"), zc_str("v"), &(zc_put_opts){.deps = &tag, .ndeps = 1}) <= 0);
    CHECK(zc_get(w->c, zc_str("new"), &v) != ZC_PENDING);
    zc_release(w->c, &v);
    CHECK(zc_fetch(w->c, zc_str("more"), load_text, "x", NULL, &v) <= ZC_OK);
    zc_release(w->c, &v);
    CHECK(zc_del(w->c, zc_str("k3")) <= ZC_MISS);
    CHECK(zc_invalidate(w->c, zc_str("t")) <= ZC_OK);
    CHECK(zc_poll(w->c, 0) >= ZC_OK);
    zc_prune(w->c, 0);
}
static void told(void *user) {
    called *w = (called *)user;
    w->told++;
    meddle(w);
}
static void dropped(void *user, void *object, size_t size) {
    (void)size;
    CHECK(object == user);
    meddle((called *)user);
}
static void on_event(void *user, const zc_event *e) {
    called *w = (called *)user;
    static int depth;
    w->removed += e->kind == ZC_EVENT_REMOVED && w->c;
    if (depth) return;
    depth++;
    meddle(w);
    depth--;
}

/* what: 1 a storage, 2 written behind, 4 a bus, 8 a fixed block */
static void call_backs(int what, uint32_t shards) {
    static unsigned char block[1 << 20];
    static called w;
    static log_hub hub;
    fault_store store;
    log_node node = {.hub = &hub};
    zct_mem mem = {0};
    zc_cache *c;
    char key[16];
    memset(&w, 0, sizeof w);
    fs_init(&store);
    lb_init(&hub);
    zc_desc d = {.no_thread = true, .shards = shards, .events = {1, 0, on_event, &w}};
    if (what & 1) d.store = fs_hook(&store, false);
    d.write_behind = what & 2;
    if (what & 4) d.bus = lb_hook(&node, false);
    if (what & 8) d.block = block, d.block_size = sizeof block;
    else d.allocator = zct_allocator(&mem);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (int i = 0; i < TICKETS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        CHECK_EQ(i % 2 ? zc_put_object(c, zc_str(key), &w, sizeof w, dropped, &w, NULL)
                       : zc_put(c, zc_str(key), zc_slice(&w, sizeof w), NULL),
                 ZC_OK);
        snprintf(key, sizeof key, "f%d", i);
        w.lead[i] = lead(c, key);
        w.follow[i] = follow(c, key);
        CHECK_EQ(zc_flight_notify(w.follow[i], told, &w), ZC_OK);
    }
    w.c = c;
    zc_close(c);
    CHECK(w.told > 0 && w.removed > 0);
    w.c = NULL;
    for (int i = 0; i < TICKETS; i++) {
        zc_view v;
        if (w.lead[i]) CHECK_EQ(zc_flight_commit(w.lead[i], NULL), ZC_E_LEASE);
        if (w.follow[i]) CHECK(zc_flight_wait(w.follow[i], ZC_SECOND, &v) != ZC_PENDING);
        if (w.follow[i]) zc_release(c, &v);
    }
    CHECK_EQ(mem.blocks, 0);
    CHECK_EQ(store.closes, what & 1 ? 1 : 0);
    CHECK_EQ(node.closes, what & 4 ? 1 : 0);
    lb_destroy(&hub);
    fs_destroy(&store);
}
TEST(call_backs_of_a_close) {
    for (int what = 0; what < 16; what++) {
        if (what & 2 && !(what & 1)) continue;
        call_backs(what, 1);
        call_backs(what, 8);
    }
}

/* ---- many threads ---- */

enum { N = 400, ROUNDS = 60 };

typedef struct crowd {
    zc_cache *c;
    zc_fill *lead[N], *follow[N];
    zc_view pin[N];
    zct_barrier go;
} crowd;

static void *ends_leaders(void *user) {
    crowd *w = (crowd *)user;
    zct_barrier_wait(&w->go);
    for (int i = 0; i < N; i++) {
        if (i % 3 == 0) {
            zc_flight_abandon(w->lead[i], i % 2 ? 0 : ZC_E_USER);
            continue;
        }
        CHECK_EQ(zc_fill_dep(w->lead[i], zc_str(i % 2 ? "a:b" : "c")), ZC_OK);
        int rc = zc_flight_commit(w->lead[i], NULL);
        CHECK(rc == ZC_OK || rc == ZC_E_LEASE || rc == ZC_REFUSED);
    }
    return NULL;
}
static void *ends_followers(void *user) {
    crowd *w = (crowd *)user;
    zct_barrier_wait(&w->go);
    for (int i = 0; i < N; i++) {
        zc_view v;
        int rc = zc_flight_wait(w->follow[i], i % 2 ? ZC_MILLISECOND : 0, &v);
        if (rc == ZC_PENDING) zc_flight_abandon(w->follow[i], 0);
        else CHECK(rc == ZC_OK || rc == ZC_E_CLOSED || rc == ZC_RETRY || rc == ZC_E_USER);
        zc_release(w->c, &v);
    }
    return NULL;
}
static void *releases(void *user) {
    crowd *w = (crowd *)user;
    zct_barrier_wait(&w->go);
    for (int i = 0; i < N; i++) zc_release(w->c, &w->pin[i]);
    return NULL;
}

static void round_of(crowd *w, int n) {
    static void *(*const does[])(void *) = {ends_leaders, ends_followers, releases};
    zct_mem mem = {0};
    fault_store store;
    pthread_t thread[3];
    char key[16];
    fs_init(&store);
    zc_desc d = {.no_thread = n % 2, .shards = n % 4 < 2 ? 1 : 4};
    if (n % 3) d.store = fs_hook(&store, true);
    d.write_behind = n % 3 == 2;
    d.allocator = zct_allocator(&mem);
    REQUIRE(zc_open(&d, &w->c) == ZC_OK);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "k%d", i);
        w->lead[i] = lead(w->c, key);
        w->follow[i] = follow(w->c, key);
        snprintf(key, sizeof key, "p%d", i % 50);
        CHECK_EQ(zc_put(w->c, zc_str(key), zc_str("pinned"), NULL), ZC_OK);
        CHECK_EQ(zc_get(w->c, zc_str(key), &w->pin[i]), ZC_OK);
    }
    zct_barrier_init(&w->go, 4);
    for (int i = 0; i < 3; i++) pthread_create(&thread[i], NULL, does[i], w);
    zct_barrier_wait(&w->go);
    for (int i = 0; i < n * 8; i++) sched_yield();
    zc_close(w->c);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    zct_barrier_destroy(&w->go);
    CHECK_EQ(mem.blocks, 0);
    CHECK_EQ(store.closes, n % 3 ? 1 : 0);
    fs_destroy(&store);
}

TEST(tickets_and_pins_end_while_it_closes) {
    static crowd w;
    for (int n = 0; n < ROUNDS; n++) round_of(&w, n);
}
