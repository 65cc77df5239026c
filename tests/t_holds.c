/* Holds: tags that a transaction is about to change, and holders that die. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "log_bus.h"
#ifdef ZCT_FORKS
#  include <sys/types.h>
#  include <sys/wait.h>
#  include <unistd.h>
#endif

#define NODES 3
#define T (1000 * ZC_MILLISECOND)
#define LEASE (10 * ZC_SECOND)

/* Nodes without threads: time moves, and the log is read, when the test says so. */
typedef struct fleet {
    zct_mem mem;
    zct_time time;
    log_hub hub;
    fault_store store;
    log_node node[NODES];
    zc_cache *c[NODES];
    bool alone, peeks;
} fleet;

/* The list is kept, and then log and lists are lost; once. */
static bool lists_break;
static int hold_and_break(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    log_hub *h = ((log_node *)user)->hub;
    int rc = lb_hold(user, id, tags, n);
    if (!lists_break) return rc;
    lists_break = false;
    memset(h->hold_ids, 0, sizeof h->hold_ids);
    lb_restart(h, 0);
    return rc;
}

static bool join(fleet *f, unsigned i) {
    zc_desc d = {.allocator = zct_allocator(&f->mem), .clock = zct_clock(&f->time),
                 .no_thread = true, .max_staleness = T};
    f->node[i] = (log_node){.hub = &f->hub};
    if (!f->alone) {
        d.bus = lb_hook(&f->node[i], f->peeks);
        d.bus.hold = hold_and_break;
        d.store = fs_hook(&f->store, false);
    }
    return CHECK_EQ(zc_open(&d, &f->c[i]), ZC_OK);
}

static bool start(fleet *f, unsigned n, bool alone) {
    memset(f, 0, sizeof *f);
    f->time.mono = 5 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    f->alone = alone;
    lb_init(&f->hub);
    fs_init(&f->store);
    for (unsigned i = 0; i < n; i++)
        if (!join(f, i)) return false;
    return true;
}

/* As if it had died: what it holds is not ended. */
static void die(fleet *f, unsigned i) {
    CHECK_EQ(zc_check(f->c[i]), ZC_OK);
    zc_close(f->c[i]);
    f->c[i] = NULL;
}

static void stop(fleet *f) {
    for (unsigned i = 0; i < NODES; i++)
        if (f->c[i]) die(f, i);
    fs_destroy(&f->store);
    lb_destroy(&f->hub);
    CHECK_EQ(f->mem.blocks, 0);
}

static void poll(fleet *f) {
    for (unsigned i = 0; i < NODES; i++)
        while (f->c[i] && zc_poll(f->c[i], ZC_MILLISECOND) == ZC_MORE) {}
}

/* Time goes by, in steps in which each node hears the log. */
static void pass(fleet *f, uint64_t ns) {
    for (uint64_t step = T / 4; ns; ns -= step) {
        if (step > ns) step = ns;
        zct_step(&f->time, step);
        poll(f);
    }
}

static int hold(zc_cache *c, const char *tag, uint64_t *id) {
    zc_bytes t = zc_str(tag);
    return zc_hold(c, &t, 1, LEASE, id);
}

static int get(zc_cache *c, const char *key) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    zc_release(c, &v);
    return rc;
}

static zc_fill *lead(zc_cache *c, const char *key, const char *dep) {
    zc_view v;
    zc_fill *fill = NULL;
    CHECK_EQ(zc_flight_begin(c, zc_str(key), NULL, &v, &fill), ZC_LEAD);
    if (!fill) return NULL;
    if (dep) CHECK_EQ(zc_fill_dep(fill, zc_str(dep)), ZC_OK);
    CHECK_EQ(zc_fill_value(fill, zc_str("v")), ZC_OK);
    return fill;
}

/* A fill from begin to end. ZC_OK: stored; ZC_REFUSED: given to the caller alone. */
static int fill(zc_cache *c, const char *key, const char *dep) {
    zc_view v;
    memset(&v, 0, sizeof v);
    zc_fill *lead_fill = lead(c, key, dep);
    int rc = zc_flight_commit(lead_fill, &v);
    CHECK(v.size == 1 && *(const char *)v.data == 'v');
    zc_release(c, &v);
    return rc;
}

TEST(what_is_held_is_not_stored) {
    fleet f;
    uint64_t id, other;
    if (!start(&f, 1, true)) return;
    zc_cache *c = f.c[0];
    CHECK_EQ(fill(c, "k", "org:1:team"), ZC_OK);
    CHECK_EQ(fill(c, "apart", "org:2"), ZC_OK);
    CHECK_EQ(hold(c, "org:1", &id), ZC_OK);
    CHECK(id != 0);
    CHECK_EQ(get(c, "k"), ZC_MISS); /* from before */
    CHECK_EQ(get(c, "apart"), ZC_OK);
    CHECK_EQ(fill(c, "k", "org:1:team"), ZC_REFUSED);
    CHECK_EQ(fill(c, "k", "org:1"), ZC_REFUSED);
    CHECK_EQ(zct_put(c, "k", "v", "org:1:x"), ZC_REFUSED);
    CHECK_EQ(fill(c, "above", "org"), ZC_OK);
    CHECK_EQ(fill(c, "free", NULL), ZC_OK);
    pass(&f, 2 * LEASE); /* it lives: the lease is for others */
    CHECK_EQ(fill(c, "k", "org:1:team"), ZC_REFUSED);
    CHECK_EQ(hold(c, "org:1:team", &other), ZC_OK); /* two hold it */
    CHECK(other != id);
    zc_fill *slow = lead(c, "slow", "org:1:team");
    CHECK_EQ(zc_hold_end(c, id), ZC_OK);
    CHECK_EQ(fill(c, "k", "org:1:team"), ZC_REFUSED);
    CHECK_EQ(fill(c, "k", "org:1"), ZC_OK);
    CHECK_EQ(zc_hold_end(c, other), ZC_OK);
    CHECK_EQ(zc_flight_commit(slow, NULL), ZC_REFUSED); /* begun before that */
    CHECK_EQ(fill(c, "t", "org:1:team"), ZC_OK);
    CHECK_EQ(zc_hold_end(c, id), ZC_E_INVAL);
    CHECK_EQ(get(c, "k"), ZC_OK);
    stop(&f);
}

TEST(followers_are_given_what_is_held) {
    fleet f;
    uint64_t id;
    zc_view v;
    zc_fill *follower;
    if (!start(&f, 1, true)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    zc_fill *leader = lead(f.c[0], "k", "t");
    CHECK_EQ(zc_flight_begin(f.c[0], zc_str("k"), NULL, &v, &follower), ZC_FOLLOW);
    CHECK_EQ(zc_flight_commit(leader, NULL), ZC_REFUSED);
    CHECK_EQ(zc_flight_wait(follower, 0, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    stop(&f);
}

/* Its loader may have run before a commit that is told of at the end of the hold. */
TEST(who_joins_an_old_flight_is_not_given_what_is_held) {
    fleet f;
    uint64_t id;
    zc_view v;
    zc_fill *young, *old;
    if (!start(&f, 2, false)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    poll(&f);
    zc_fill *leader = lead(f.c[1], "k", "t");
    pass(&f, T / 2);
    CHECK_EQ(zc_flight_begin(f.c[1], zc_str("k"), NULL, &v, &young), ZC_FOLLOW);
    die(&f, 0); /* after its commit */
    pass(&f, T);
    CHECK_EQ(zc_flight_begin(f.c[1], zc_str("k"), NULL, &v, &old), ZC_FOLLOW);
    CHECK_EQ(zc_flight_commit(leader, NULL), ZC_REFUSED);
    CHECK_EQ(zc_flight_wait(young, 0, &v), ZC_OK);
    zc_release(f.c[1], &v);
    CHECK_EQ(zc_flight_wait(old, 0, &v), ZC_RETRY);
    stop(&f);
}

static int load_inner(zc_fill *fill_, void *user) {
    (void)user;
    CHECK_EQ(zc_fill_dep(fill_, zc_str("t")), ZC_OK);
    return zc_fill_value(fill_, zc_str("v"));
}

TEST(what_is_made_of_it_is_not_stored_either) {
    fleet f;
    uint64_t id;
    zc_view v;
    if (!start(&f, 1, true)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    zc_fill *outer = lead(f.c[0], "outer", NULL);
    zc_fetch_opts o = {.parent = outer};
    CHECK_EQ(zc_fetch(f.c[0], zc_str("inner"), load_inner, NULL, &o, &v), ZC_OK);
    zc_release(f.c[0], &v);
    CHECK_EQ(zc_flight_commit(outer, NULL), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    stop(&f);
}

static void other_nodes_hold(bool peeks) {
    fleet f;
    uint64_t id;
    if (!start(&f, 0, false)) return;
    f.peeks = peeks;
    if (!join(&f, 0) || !join(&f, 1)) return;
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_OK);
    zc_fill *early = lead(f.c[1], "early", "t:1");
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    poll(&f);
    CHECK_EQ(get(f.c[1], "k"), ZC_MISS);
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_REFUSED);
    CHECK_EQ(zc_flight_commit(early, NULL), ZC_REFUSED);
    zc_fill *slow = lead(f.c[1], "slow", "t:1");
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    poll(&f);
    CHECK_EQ(zc_flight_commit(slow, NULL), ZC_REFUSED);
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_OK);
    CHECK_EQ(get(f.c[0], "k"), ZC_OK); /* by the storage */
    CHECK_EQ(f.c[1]->bus.nholds, 0);
    CHECK_EQ(f.c[0]->bus.nholds, 0);
    for (unsigned i = 0; i < LB_HOLDS; i++) CHECK_EQ(f.hub.hold_ids[i], 0);
    stop(&f);
}
TEST(other_nodes_hold_with_a_lease) { other_nodes_hold(false); }
TEST(other_nodes_hold_that_peek) { other_nodes_hold(true); }

/* It dies between its commit and its invalidation: the lease ends it. */
TEST(a_holder_that_dies) {
    fleet f;
    uint64_t id;
    if (!start(&f, 2, false)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    die(&f, 0);
    pass(&f, LEASE - T);
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_REFUSED);
    zc_fill *slow = lead(f.c[1], "slow", "t"); /* may have read what was before the commit */
    CHECK_EQ(get(f.c[1], "k"), ZC_MISS);
    pass(&f, 2 * T);
    CHECK_EQ(zc_flight_commit(slow, NULL), ZC_REFUSED);
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_OK);
    CHECK_EQ(get(f.c[1], "k"), ZC_OK);
    CHECK_EQ(f.c[1]->bus.nholds, 0);
    for (unsigned i = 0; i < LB_HOLDS; i++) CHECK_EQ(f.hub.hold_ids[i], 0); /* it has cleaned up */
    stop(&f);
}

#ifdef ZCT_FORKS
/* A child of a fork has heard of what its parent holds as any other node has: it does not store
 * that, and only the parent, or the lease, ends it. */
static int child_holds(fleet *f, uint64_t id) {
    CHECK_EQ(zc_fork_child(f->c[0]), ZC_OK);
    CHECK_EQ(fill(f->c[0], "k", "t"), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(f->c[0], id), ZC_E_INVAL);
    pass(f, LEASE - T);
    CHECK_EQ(fill(f->c[0], "k", "t"), ZC_REFUSED);
    pass(f, 2 * T);
    CHECK_EQ(fill(f->c[0], "k", "t"), ZC_OK);
    CHECK_EQ(f->c[0]->bus.nholds, 0);
    CHECK_EQ(hold(f->c[0], "t", &id), ZC_OK); /* its own */
    CHECK_EQ(zc_hold_end(f->c[0], id), ZC_OK);
    die(f, 0);
    return zct_bad != 0;
}

static void fork_holds(bool alone) {
    fleet f;
    uint64_t id;
    int status = 1;
    if (!start(&f, 1, alone)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    fflush(stdout);
    zc_fork_prepare(f.c[0]);
    pid_t child = fork();
    if (child == 0) _exit(child_holds(&f, id));
    zc_fork_parent(f.c[0]);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    pass(&f, 2 * LEASE); /* it is the parent's all the same */
    CHECK_EQ(fill(f.c[0], "k", "t"), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    CHECK_EQ(fill(f.c[0], "k", "t"), ZC_OK);
    stop(&f);
}
TEST(a_child_does_not_end_what_its_parent_holds) { fork_holds(false); }
TEST(a_child_of_one_that_is_alone) { fork_holds(true); }
#endif

/* Its lease counts from when it has heard, not from when its holder began. */
TEST(who_attaches_meanwhile_holds) {
    fleet f;
    uint64_t id;
    if (!start(&f, 1, false)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    die(&f, 0);
    pass(&f, LEASE / 2);
    if (!join(&f, 1)) return;
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_REFUSED);
    pass(&f, LEASE - T);
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_REFUSED);
    pass(&f, 2 * T);
    CHECK_EQ(fill(f.c[1], "k", "t:1"), ZC_OK);
    if (!join(&f, 2)) return; /* the list is gone */
    CHECK_EQ(f.c[2]->bus.nholds, 0);
    stop(&f);
}

TEST(who_attaches_anew_holds) {
    fleet f;
    uint64_t id, second;
    if (!start(&f, 3, false)) return;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    poll(&f);
    lb_down(&f.node[1], true); /* does not hear of the second */
    CHECK_EQ(hold(f.c[0], "u", &second), ZC_OK);
    lb_restart(&f.hub, 0); /* the log is lost, and with it both entries */
    lb_down(&f.node[1], false);
    pass(&f, 2 * T);
    CHECK_EQ(f.node[1].attaches, 2);
    for (unsigned i = 1; i < NODES; i++) {
        CHECK_EQ(fill(f.c[i], "k", "t"), ZC_REFUSED);
        CHECK_EQ(fill(f.c[i], "l", "u"), ZC_REFUSED);
    }
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    CHECK_EQ(zc_hold_end(f.c[0], second), ZC_OK);
    poll(&f);
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_OK);
    CHECK_EQ(fill(f.c[2], "l", "u"), ZC_OK);
    stop(&f);
}

/* What was stored by a node that has not heard of the hold is dead for one that has. */
TEST(a_record_from_before_the_hold) {
    fleet f;
    uint64_t id;
    if (!start(&f, 3, false)) return;
    lb_down(&f.node[1], true);
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_OK); /* reads the old value, and writes its record */
    poll(&f);
    CHECK_EQ(get(f.c[2], "k"), ZC_MISS);
    CHECK_EQ(get(f.c[0], "k"), ZC_MISS);
    lb_down(&f.node[1], false);
    poll(&f);
    CHECK_EQ(get(f.c[1], "k"), ZC_MISS);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    poll(&f);
    CHECK_EQ(get(f.c[2], "k"), ZC_MISS);
    stop(&f);
}

TEST(a_hold_that_cannot_be_announced) {
    fleet f;
    uint64_t id = 7;
    if (!start(&f, 2, false)) return;
    lb_down(&f.node[0], true);
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_E_BUS);
    CHECK_EQ(id, 0);
    CHECK_EQ(f.c[0]->bus.nholds, 0);
    lb_down(&f.node[0], false);
    pass(&f, 2 * T);
    CHECK_EQ(fill(f.c[0], "k", "t"), ZC_OK);
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    lb_down(&f.node[0], true);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_E_BUS); /* ended here; told as soon as it can be */
    poll(&f);
    CHECK_EQ(fill(f.c[1], "l", "t"), ZC_REFUSED);
    lb_down(&f.node[0], false);
    pass(&f, 2 * T);
    CHECK_EQ(fill(f.c[0], "l", "t"), ZC_OK);
    pass(&f, LEASE); /* that it has ended, the others were not told */
    CHECK_EQ(fill(f.c[1], "m", "t"), ZC_OK);
    stop(&f);
}

/* The log takes it, and says that it is another one than that which has the list. */
TEST(a_hold_over_a_break) {
    fleet f;
    uint64_t id;
    if (!start(&f, 1, false)) return;
    lb_restart(&f.hub, 0);
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    CHECK_EQ(f.node[0].attaches, 2);
    if (!join(&f, 1)) return;
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    lists_break = true;
    CHECK_EQ(hold(f.c[0], "t", &id), ZC_OK);
    if (!join(&f, 2)) return;
    CHECK_EQ(fill(f.c[2], "k", "t"), ZC_REFUSED);
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    stop(&f);
}

TEST(bad_holds) {
    fleet f;
    uint64_t id;
    zc_cache *c;
    zc_bytes t = zc_str("t"), bad[2] = {zc_str("t"), zc_str("a::b")};
    if (!start(&f, 1, false)) return;
    CHECK_EQ(zc_hold(NULL, &t, 1, LEASE, &id), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], NULL, 1, LEASE, &id), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], &t, 0, LEASE, &id), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], &t, 1, 0, &id), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], &t, 1, 3601 * ZC_SECOND, &id), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], &t, 1, LEASE, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_hold(f.c[0], bad, 2, LEASE, &id), ZC_E_TAG_SEGMENT);
    CHECK_EQ(id, 0);
    CHECK_EQ(zc_hold_end(f.c[0], 0), ZC_E_INVAL);
    CHECK_EQ(zc_hold_end(NULL, 1), ZC_E_INVAL);
    CHECK_EQ(zc_hold_end(f.c[0], 1), ZC_E_INVAL);
    CHECK_EQ(f.c[0]->bus.nholds, 0);
    CHECK_EQ(f.hub.tail, 0);
    log_node node = {.hub = &f.hub};
    zc_desc d = {.no_thread = true, .bus = lb_hook(&node, false)};
    d.bus.hold = NULL;
    CHECK_EQ(zc_open(&d, &c), ZC_E_INVAL); /* one without the other */
    d.bus.holds = NULL;
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    CHECK_EQ(hold(c, "t", &id), ZC_E_BUILD); /* it has nowhere to keep it */
    zc_close(c);
    stop(&f);
}

/* Lists and entries that are no good: nothing is held, and nothing breaks. */
TEST(marks_that_are_none) {
    static const char *const marks[] = {
        "\1hold:0123456789abcdeg:0000001000", "\1hold:0123456789abcdef:000000100x",
        "\1hold:0123456789abcdef.0000001000", "\1hola:0123456789abcdef:0000001000",
        "\1hold:0123456789abcdef:00000010000", "\1hold:ffffffffffffffff:0000001000"};
    fleet f;
    if (!start(&f, 1, false)) return;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        zc_bytes list[2] = {zc_str(marks[i]), zc_str("t")};
        CHECK_EQ(zc_invalidate_many(f.c[0], list, 2), ZC_OK);
        CHECK_EQ(lb_hold(&f.node[0], 100 + i, list, 2), ZC_OK);
    }
    zc_bytes broken[2] = {zc_str("\1hold:0123456789abcdef:0000001000"), zc_str("a::b")};
    CHECK_EQ(lb_hold(&f.node[0], 99, broken, 2), ZC_OK);
    CHECK_EQ(lb_hold(&f.node[0], 98, broken, 1), ZC_OK);
    CHECK_EQ(f.c[0]->bus.nholds, 0);
    if (!join(&f, 1)) return;
    CHECK_EQ(f.c[1]->bus.nholds, 0);
    CHECK_EQ(fill(f.c[1], "k", "t"), ZC_OK);
    stop(&f);
}

/* Without memory: all or nothing for who holds; who hears holds, or does not serve. */
TEST(each_allocation_fails) {
    fleet f;
    uint64_t id = 0;
    if (!start(&f, 2, false)) return;
    int rc = ZC_E_NOMEM;
    for (uint64_t n = 1; rc != ZC_OK; n++) {
        f.mem.count = 0;
        f.mem.fail_at = n;
        zc_bytes tags[2] = {zc_str("a:b:c"), zc_str("d:e")};
        rc = zc_hold(f.c[0], tags, 2, LEASE, &id);
        bool failed = f.mem.failed != 0;
        f.mem.fail_at = f.mem.failed = 0;
        CHECK(rc == ZC_OK || rc == ZC_E_NOMEM || rc == ZC_E_BUS);
        CHECK_EQ(id != 0, rc == ZC_OK);
        if (rc == ZC_OK && failed) { /* done all the same */
            CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
            rc = ZC_E_NOMEM;
        } else if (rc != ZC_OK) {
            CHECK_EQ(zc_hold_end(f.c[0], 1), ZC_E_INVAL);
        }
        if (rc != ZC_OK) pass(&f, 2 * LEASE);
    }
    poll(&f);
    CHECK_EQ(fill(f.c[1], "k", "a:b:c:x"), ZC_REFUSED);
    for (uint64_t n = 1; n < 40; n++) { /* who attaches */
        f.mem.count = 0;
        f.mem.fail_at = n;
        zc_desc d = {.allocator = zct_allocator(&f.mem), .clock = zct_clock(&f.time),
                     .no_thread = true};
        f.node[2] = (log_node){.hub = &f.hub};
        d.bus = lb_hook(&f.node[2], false);
        rc = zc_open(&d, &f.c[2]);
        f.mem.fail_at = 0;
        if (rc != ZC_OK) continue;
        poll(&f);
        CHECK_EQ(fill(f.c[2], "k", "a:b:c"), ZC_REFUSED);
        CHECK_EQ(fill(f.c[2], "l", "d:e"), ZC_REFUSED);
        die(&f, 2);
    }
    CHECK_EQ(zc_hold_end(f.c[0], id), ZC_OK);
    stop(&f);
}

/* Random nodes, holders that die and do not, commits in between: nothing stale is served later than
 * T after the hold of its change was announced. */
TEST(random_holders) {
    enum { TAGS = 3 };
    static const char *const tag[TAGS] = {"row:0", "row:1", "row:2"};
    fleet f;
    uint64_t id[NODES] = {0}, began[NODES] = {0};
    unsigned held[NODES] = {0};
    int db[TAGS] = {0};                 /* what is committed, */
    static uint64_t when[TAGS][30000]; /* and when each was */
    unsigned served = 0, stored = 0;
    struct slow { zc_fill *fill; int value; } slow[NODES][TAGS];
    memset(slow, 0, sizeof slow);
    if (!start(&f, NODES, false)) return;
    for (unsigned step = 0; step < 30000; step++) {
        unsigned i = (unsigned)zct_below(NODES), t = (unsigned)zct_below(TAGS);
        zc_cache *c = f.c[i];
        zc_view v;
        zct_step(&f.time, zct_below(T / 20));
        switch (zct_below(12)) {
        case 0:
            if (zct_below(5) == 0 && !id[i] && hold(c, tag[t], &id[i]) == ZC_OK) {
                held[i] = t;
                began[i] = f.time.mono;
            }
            break;
        case 1:
            if (!id[i]) break;
            if (f.time.mono - began[i] < LEASE && zct_below(4)) { /* the commit */
                when[held[i]][++db[held[i]]] = f.time.mono;
            }
            if (zct_below(3) == 0) { /* and it dies */
                for (unsigned k = 0; k < TAGS; k++)
                    if (slow[i][k].fill) zc_flight_abandon(slow[i][k].fill, 0);
                memset(slow[i], 0, sizeof slow[i]);
                die(&f, i);
                if (!join(&f, i)) return;
            } else {
                int rc = zc_hold_end(c, id[i]);
                CHECK(rc == ZC_OK || rc == ZC_E_BUS);
            }
            id[i] = 0;
            break;
        case 2: /* a fill that reads now, and ends some time */
            if (slow[i][t].fill) {
                stored += zc_flight_commit(slow[i][t].fill, NULL) == ZC_OK;
                slow[i][t].fill = NULL;
            } else if (zc_flight_begin(c, zc_str(tag[t]), NULL, &v, &slow[i][t].fill) == ZC_LEAD) {
                CHECK_EQ(zc_fill_dep(slow[i][t].fill, zc_str(tag[t])), ZC_OK);
                CHECK_EQ(zc_fill_value(slow[i][t].fill, zc_slice(&db[t], sizeof db[t])), ZC_OK);
            } else {
                zc_release(c, &v);
            }
            break;
        case 3: lb_down(&f.node[i], zct_below(3) == 0); break;
        case 4:
            if (zct_below(50) == 0) lb_restart(&f.hub, f.hub.tail - zct_below(f.hub.tail / 2 + 1));
            break;
        case 5: case 6: (void)zc_poll(c, ZC_MILLISECOND); break;
        default:
            if (zc_get(c, zc_str(tag[t]), &v) != ZC_OK) break;
            served++;
            int got = *(const int *)v.data;
            CHECK(got == db[t] || when[t][got + 1] + T >= f.time.mono);
            zc_release(c, &v);
        }
    }
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned k = 0; k < TAGS; k++)
            if (slow[i][k].fill) zc_flight_abandon(slow[i][k].fill, 0);
    CHECK(served > 100 && stored > 100);
    stop(&f);
}
