/* chaos.c: node processes on a real Redis, seeded faults, and the truth beside them.
 *
 *   chaos [--replicas] [--shards 1] [--seconds 60] [--seed N|random] [--only NAME] [--list]
 *
 *   Truth      A table in shared memory: the committed version of each key, and for each version
 *              when its invalidation had been acknowledged. A loader reads the committed version;
 *              a writer commits the next one, invalidates, and notes the time.
 *   Checked    A read begun at t gives no version that an invalidation acknowledged before
 *              t - bound had killed; bound is T, with replicas T + L. No read fails. Nothing
 *              hangs. After every fault all nodes are up to date and hit again. At rest, now and
 *              then and at the end, what was invalidated but not acknowledged is dead, too.
 *   Network    Every node and every replica has a link of its own (chaos_proxy.h): cut, refused,
 *              stalled, muted, slow, losing. With replicas, a link leads to the master of the day,
 *              and what was connected before stays with the old one.
 *   L          Redis counts a replica's lag in whole seconds and looks once a second, so a master
 *              that is cut off may take writes for min-replicas-max-lag + 2 s.
 *
 * Not strict about instants within a read: a process that is stopped between its last look at the
 * clock and the return of the call gives what was good then. Such reads are counted apart. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"
#include "redis_server.h"
#include "chaos_proxy.h"
#include <dirent.h>
#include <sys/resource.h>

#define NODES 4
#define READERS 3
#define KEYS 96u
#define GROUPS 8u
#define RING 4096u
#define SERVERS 3
#define T (600 * ZC_MILLISECOND)
#define MAX_LAG 1
#define PATIENCE (30 * ZC_SECOND) /* longer than that without a sign of life is a hang */

enum { RUN, REST, VERIFY, QUIT };

typedef struct row {
    _Atomic uint64_t version;
    struct {
        _Atomic uint64_t version, at;
    } acked[RING];
} row;

typedef struct seat {                    /* of a node */
    _Atomic uint64_t alive[READERS + 2]; /* last sign of life of each thread */
    _Atomic uint64_t reads, loads, acks, refusals, worst, longest, overtaken;
    _Atomic uint64_t hits, from_store, stores, breaks, silent, age, pending, looked;
    _Atomic uint64_t lost_hits, lost_breaks; /* of those that were killed before */
    _Atomic bool owes[KEYS];                 /* committed here, and not acknowledged */
    _Atomic unsigned resting, rounds, wrong, second_hits;
} seat;

typedef struct world {
    row rows[KEYS];
    seat seats[NODES];
    net_link links[NODES + SERVERS];
    _Atomic int phase;
    _Atomic unsigned round; /* of verification: asked for */
    _Atomic unsigned stale, failures;
    _Atomic uint64_t bound, seed;
    bool replicas;
    unsigned shards; /* of the log */
    char doing[64];
} world;

static world *w;
static pid_t nodes[NODES];

static uint64_t mix(uint64_t *s) {
    uint64_t x = *s += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void nap(uint64_t us) {
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static void at_least(_Atomic uint64_t *p, uint64_t v) {
    uint64_t old = atomic_load(p);
    while (old < v && !atomic_compare_exchange_weak(p, &old, v)) {}
}

/* ---- a node */

typedef struct value {
    uint64_t version;
    uint32_t key;
    char padding[180];
} value;

typedef struct worker {
    zc_cache *cache;
    seat *seat;
    int node, number;
    uint64_t random;
    uint32_t key; /* being loaded */
} worker;

static zc_bytes key_of(uint32_t k, char text[32]) {
    return zc_slice(text, (size_t)snprintf(text, 32, "row/%u", k));
}
static zc_bytes tag_of(uint32_t k, char text[32]) {
    return zc_slice(text, (size_t)snprintf(text, 32, "group:%u:row:%u", k % GROUPS, k));
}

static value read_row(uint32_t k) {
    value v;
    memset(&v, 0, sizeof v);
    v.key = k;
    v.version = atomic_load(&w->rows[k].version);
    return v;
}

static int load(zc_fill *fill, void *user) {
    worker *me = (worker *)user;
    char text[32];
    value v = read_row(me->key);
    uint64_t dice = mix(&me->random);
    if (dice % 8 ==
        0) /* the row may change meanwhile; in slices, for a stopped process sleeps on */
        for (uint64_t n = dice / 8 % 12; n--;) nap(400);
    atomic_fetch_add(&me->seat->loads, 1);
    int rc = zc_fill_dep(fill, tag_of(me->key, text));
    return rc == ZC_OK ? zc_fill_value(fill, zc_slice(&v, sizeof v)) : rc;
}

static void complain(_Atomic unsigned *count, const char *what, const worker *me, uint32_t k,
                     uint64_t a, uint64_t b) {
    if (atomic_fetch_add(count, 1) >= 10) return;
    printf("seed %" PRIu64 ", node %d, thread %d, key %u, during \"%s\": %s"
           " (%" PRIu64 ", %" PRIu64 ")\n",
           atomic_load(&w->seed), me->node, me->number, k, w->doing, what, a, b);
    fflush(stdout);
}

/* How long before `then` the first invalidation that kills this version had been acknowledged. */
static uint64_t staleness(uint32_t k, uint64_t version, uint64_t then) {
    row *r = &w->rows[k];
    uint64_t now = atomic_load(&r->version), worst = 0;
    for (uint64_t v = now > RING && version < now - RING ? now - RING : version; ++v <= now;) {
        if (atomic_load(&r->acked[v % RING].version) != v) continue; /* not yet, or no more */
        uint64_t at = atomic_load(&r->acked[v % RING].at);
        if (atomic_load(&r->acked[v % RING].version) != v) continue; /* overwritten meanwhile */
        if (at < then && then - at > worst) worst = then - at;
    }
    return worst;
}

static void judge(worker *me, uint32_t k, const value *v, size_t size, uint64_t begun) {
    if (size != sizeof *v || v->key != k) {
        complain(&w->failures, "another key's value, or a damaged one", me, k, size, v->key);
        return;
    }
    uint64_t late = staleness(k, v->version, begun);
    at_least(&me->seat->worst, late);
    if (late > atomic_load(&w->bound))
        complain(&w->stale, "STALE (version, age in us)", me, k, v->version, late / 1000);
    else if (staleness(k, v->version, net_now()) > atomic_load(&w->bound))
        atomic_fetch_add(&me->seat->overtaken, 1);
}

static void read_one(worker *me) {
    char text[32];
    uint64_t dice = mix(&me->random), begun = net_now();
    uint32_t a = (uint32_t)(dice >> 8) % KEYS, b = (uint32_t)(dice >> 40) % KEYS, k = a < b ? a : b;
    zc_fetch_opts opts;
    zc_view view;
    value v;
    size_t size = 0;
    int rc;
    memset(&view, 0, sizeof view);
    memset(&opts, 0, sizeof opts);
    unsigned how = (unsigned)(dice & 63);
    if (how < 8) {
        rc = zc_get(me->cache, key_of(k, text), &view);
    } else if (how < 12) {
        rc = zc_get_copy(me->cache, key_of(k, text), &v, sizeof v, &size);
        if (rc == ZC_OK) judge(me, k, &v, size, begun);
    } else {
        if (how == 12) { /* one loader in the fleet */
            opts.fleet = true;
            opts.flight_timeout = 2 * ZC_SECOND;
        }
        me->key = k;
        rc = zc_fetch(me->cache, key_of(k, text), load, me, &opts, &view);
        if (rc != ZC_OK) complain(&w->failures, zc_result_name(rc), me, k, 0, 0);
    }
    if (rc != ZC_OK && rc != ZC_MISS) complain(&w->failures, zc_result_name(rc), me, k, 0, 0);
    if (view.pin) judge(me, k, (const value *)view.data, view.size, begun);
    zc_release(me->cache, &view);
    atomic_fetch_add(&me->seat->reads, 1);
    at_least(&me->seat->longest, net_now() - begun);
}

static bool working(worker *me) {
    bool rested = false;
    for (;; nap(2000)) {
        int phase = atomic_load(&w->phase);
        atomic_store(&me->seat->alive[me->number], net_now());
        if (phase == RUN || phase == QUIT) {
            if (rested) atomic_fetch_sub(&me->seat->resting, 1);
            return phase == RUN;
        }
        if (!rested) atomic_fetch_add(&me->seat->resting, 1);
        rested = true;
    }
}

static void *reader(void *user) {
    worker *me = (worker *)user;
    while (working(me)) {
        for (int i = 0; i < 16; i++) read_one(me);
        nap(mix(&me->random) % 1500);
    }
    return NULL;
}

/* Commits new versions of n keys; *versions: which. */
static void commit(worker *me, const uint32_t *keys, size_t n, uint64_t *versions) {
    for (size_t i = 0; i < n; i++) {
        atomic_store(&me->seat->owes[keys[i]], true);
        versions[i] = atomic_fetch_add(&w->rows[keys[i]].version, 1) + 1;
    }
}

static void acknowledged(worker *me, const uint32_t *keys, size_t n, const uint64_t *versions,
                         uint64_t at) {
    for (size_t i = 0; i < n; i++) {
        row *r = &w->rows[keys[i]];
        atomic_store(&r->acked[versions[i] % RING].version, 0);
        atomic_store(&r->acked[versions[i] % RING].at, at);
        atomic_store(&r->acked[versions[i] % RING].version, versions[i]);
        atomic_store(&me->seat->owes[keys[i]], false);
    }
}

static zc_ack ack_of(int node) {
    if (w->replicas) return ZC_DURABLE;
    return node == 2 ? ZC_STRICT : ZC_ACKED;
}

static void write_one(worker *me) {
    uint64_t dice = mix(&me->random), versions[KEYS];
    uint32_t keys[KEYS];
    size_t n = 0;
    char text[2][32];
    zc_bytes tags[2];
    int rc;
    unsigned how = (unsigned)(dice % 16);
    uint32_t k = (uint32_t)(dice >> 8) % KEYS;
    if (how == 0) { /* a whole group */
        for (uint32_t i = k % GROUPS; i < KEYS; i += GROUPS) keys[n++] = i;
        commit(me, keys, n, versions);
        rc = zc_invalidate(
            me->cache, zc_slice(text[0], (size_t)snprintf(text[0], 32, "group:%u", k % GROUPS)));
    } else if (how < 3) { /* two at once */
        keys[0] = k;
        keys[1] = (k + 1) % KEYS;
        commit(me, keys, n = 2, versions);
        for (size_t i = 0; i < 2; i++) tags[i] = tag_of(keys[i], text[i]);
        rc = zc_invalidate_many(me->cache, tags, 2);
    } else if (how == 3 && dice >> 40 & 1) {
        for (uint32_t i = 0; i < KEYS; i++) keys[n++] = i;
        commit(me, keys, n, versions);
        rc = zc_clear(me->cache);
    } else {
        keys[0] = k;
        commit(me, keys, n = 1, versions);
        rc = zc_invalidate(me->cache, tag_of(k, text[0]));
    }
    uint64_t at = net_now();
    if (ack_of(me->node) == ZC_STRICT) at -= T; /* nobody serves it from now on */
    if (rc == ZC_OK) acknowledged(me, keys, n, versions, at);
    else if (rc != ZC_E_BUS && !(rc == ZC_E_STORE && n == KEYS))
        complain(&w->failures, zc_result_name(rc), me, k, 1, 1);
    atomic_fetch_add(rc == ZC_OK ? &me->seat->acks : &me->seat->refusals, 1);
}

/* What was read is put, with the order of its reading. */
static void put_one(worker *me) {
    char text[32], tag[32];
    uint32_t k = (uint32_t)mix(&me->random) % KEYS;
    zc_bytes dep = tag_of(k, tag);
    zc_put_opts opts;
    memset(&opts, 0, sizeof opts);
    opts.deps = &dep;
    opts.ndeps = 1;
    opts.begin = zc_begin(me->cache);
    value v = read_row(k);
    nap(mix(&me->random) % 2000);
    int rc = zc_put(me->cache, key_of(k, text), zc_slice(&v, sizeof v), &opts);
    if (rc != ZC_OK && rc != ZC_REFUSED) complain(&w->failures, zc_result_name(rc), me, k, 2, 2);
}

static void *writer(void *user) {
    worker *me = (worker *)user;
    while (working(me)) {
        /* Node 0 only reads: no failing write of its own tells it that something is wrong. */
        if (me->node == 0 || mix(&me->random) % 4 == 0) put_one(me);
        else write_one(me);
        nap(mix(&me->random) % 60000);
    }
    return NULL;
}

static void look(zc_cache *c, seat *s) {
    zc_stats st;
    zc_stats_read(c, &st);
    atomic_store(&s->hits, st.hits);
    atomic_store(&s->from_store, st.hits_store);
    atomic_store(&s->breaks, st.bus_breaks);
    atomic_store(&s->silent, st.bus_silent);
    atomic_store(&s->age, st.bus_age);
    atomic_store(&s->pending, st.bus_pending);
    atomic_store(&s->looked, net_now());
}

/* In peace, every key has its last version, and is a hit afterwards. */
static void verify(worker *me) {
    zc_stats before, after;
    char text[32];
    for (int pass = 0; pass < 2; pass++) {
        zc_stats_read(me->cache, &before);
        for (uint32_t k = 0; k < KEYS; k++) {
            zc_view view;
            me->key = k;
            if (zc_fetch(me->cache, key_of(k, text), load, me, NULL, &view) != ZC_OK) continue;
            uint64_t is = ((const value *)view.data)->version,
                     now = atomic_load(&w->rows[k].version);
            if (is != now)
                complain(&me->seat->wrong, "not the last version, at rest", me, k, is, now);
            zc_release(me->cache, &view);
        }
        zc_stats_read(me->cache, &after);
    }
    atomic_store(&me->seat->second_hits, (unsigned)(after.hits - before.hits));
}

static void log_line(void *user, zc_log_level level, const char *message) {
    if (getenv("CHAOS_LOG")) fprintf(stderr, "node %d: %d: %s\n", *(int *)user, level, message);
}

/* A site's hook: it looks at the cache when it hears of something, and tells of a tag of its own. */
static void on_event(void *user, const zc_event *event) {
    static _Atomic uint64_t count;
    worker *me = (worker *)user;
    uint64_t n = atomic_fetch_add(&count, 1);
    char text[32];
    value v;
    size_t len;
    (void)event;
    if (n % 16 == 0)
        (void)zc_get_copy(me->cache, key_of((uint32_t)(n / 16 % KEYS), text), &v, sizeof v, &len);
    if (n % 512 == 0) (void)zc_invalidate(me->cache, zc_str("hook"));
}

static int node_main(int i) {
    static worker workers[READERS + 2];
    pthread_t threads[READERS + 1];
    zc_redis_desc d;
    zc_desc cd;
    char url[64], text[KEYS][32];
    zc_bytes tags[KEYS];
    seat *s = &w->seats[i];
    memset(&d, 0, sizeof d);
    memset(&cd, 0, sizeof cd);
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", w->links[i].port);
    d.url = url;
    d.prefix = "chaos";
    d.timeout = 200 * ZC_MILLISECOND;
    d.replicas = w->replicas ? 1 : 0;
    d.log_shards = w->shards;
    d.log_length = 2000;
    d.connections = i == 0 ? 1 : 0;
    d.max_tags = i == 3 ? 64 : 0; /* forgets often: the floor is used */
    cd.max_staleness = T;
    cd.ack = ack_of(i);
    cd.bus_pause = i == 1 ? 1 : 0;
    cd.write_behind = i == 3;
    cd.ttl = i % 2 ? 10 * ZC_SECOND : 0;
    cd.log.version = 1;
    cd.log.write = log_line;
    cd.log.user = &i;
    if (zc_redis_open(&d, &cd.store, &cd.bus) != ZC_OK) return 3;
    worker *me = &workers[READERS + 1];
    zc_events events = {1, 0, on_event, me};
    if (i == 2) cd.events = events;
    if (zc_open(&cd, &me->cache) != ZC_OK) return 4;
    atomic_store(&s->resting, 0);
    for (int j = 0; j < READERS + 2; j++) {
        workers[j].cache = me->cache;
        workers[j].seat = s;
        workers[j].node = i;
        workers[j].number = j;
        workers[j].random = atomic_load(&w->seed) + (uint64_t)(i * 16 + j) + (uint64_t)getpid();
        atomic_store(&s->alive[j], net_now());
    }
    /* What one that was killed here had committed, and not told: in one step, for a strict one waits
     * for T each time. */
    size_t owed = 0;
    for (uint32_t k = 0; k < KEYS; k++)
        if (atomic_load(&s->owes[k])) tags[owed] = tag_of(k, text[owed]), owed++;
    if (owed) (void)zc_invalidate_many(me->cache, tags, owed);
    for (int j = 0; j <= READERS; j++)
        if (pthread_create(&threads[j], NULL, j < READERS ? reader : writer, &workers[j])) return 5;
    while (atomic_load(&w->phase) != QUIT) {
        look(me->cache, s);
        if (atomic_load(&w->phase) == VERIFY && atomic_load(&s->rounds) != atomic_load(&w->round)) {
            verify(me);
            atomic_store(&s->rounds, atomic_load(&w->round));
        }
        atomic_store(&s->alive[me->number], net_now());
        nap(10000);
    }
    for (int j = 0; j <= READERS; j++) pthread_join(threads[j], NULL);
    look(me->cache, s);
    zc_close(me->cache);
    return 0;
}

static void node_start(int i) {
    pid_t parent = getpid();
    fflush(stdout);
    for (int j = 0; j < READERS + 2; j++) atomic_store(&w->seats[i].alive[j], net_now());
    if ((nodes[i] = fork()) != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(126);
    int rc = node_main(i);
    fflush(stdout);
    _exit(rc);
}

/* ---- the controller */

static redis_server servers[SERVERS];
static int nservers, master;
static pid_t proxy;
static uint64_t dice_state;
static bool over; /* a hang, a death: no use going on */

static uint64_t dice(uint64_t n) { return mix(&dice_state) % n; }

static void give_up(const char *what, int i) {
    printf("seed %" PRIu64 ", during \"%s\": %s (node %d)\n", atomic_load(&w->seed), w->doing, what,
           i);
    over = true;
}

/* Sleeps, with an eye on the nodes. `stopped`: one that cannot give a sign of life; -1: none. */
static void watch(uint64_t ms, int stopped) {
    for (uint64_t end = net_now() + ms * ZC_MILLISECOND; !over;) {
        uint64_t now = net_now();
        for (int i = 0; i < NODES && !over; i++) {
            int status;
            if (i == stopped || !nodes[i]) continue;
            if (waitpid(nodes[i], &status, WNOHANG) == nodes[i]) {
                nodes[i] = 0;
                give_up("it has died", i);
            }
            for (int j = 0; j < READERS + 2; j++) {
                uint64_t alive = atomic_load(&w->seats[i].alive[j]);
                if (now > alive && now - alive > PATIENCE) give_up("it hangs", i);
            }
        }
        if (now >= end) return;
        nap(end - now < 5 * ZC_MILLISECOND ? (end - now) / 1000 : 5000);
    }
}

/* A time between: short ones more often than long ones. */
static void hold_node(uint64_t most_ms, int stopped) {
    uint64_t ms = 20 + dice(most_ms);
    watch(dice(2) ? ms : ms / 4, stopped);
}
static void hold(uint64_t most_ms) { hold_node(most_ms, -1); }

static void links_all(int mode) {
    for (int i = 0; i < NODES; i++) atomic_store(&w->links[i].mode, mode);
}
/* Some of the nodes, not all, not none. */
static unsigned some(void) { return 1 + (unsigned)dice((1u << NODES) - 2); }
static void links_some(unsigned which, int mode) {
    for (int i = 0; i < NODES; i++)
        if (which >> i & 1) atomic_store(&w->links[i].mode, mode);
}
static void cut_some(unsigned which) {
    for (int i = 0; i < NODES; i++)
        if (which >> i & 1) atomic_fetch_add(&w->links[i].cuts, 1);
}
static void everybody_to(int port) {
    for (int i = 0; i < NODES; i++) atomic_store(&w->links[i].target, port);
}
static const char *say(int i, const char *a, const char *b, const char *c, const char *d) {
    return rs_say(&servers[i], a, b, c, d, NULL);
}

static uint64_t number_after(const char *text, const char *name) {
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* ---- replication: server i hears its master over link NODES + i */

static void replicate(int i) {
    char port[16];
    net_link *l = &w->links[NODES + i];
    snprintf(port, sizeof port, "%d", l->port);
    atomic_store(&l->mode, LINK_OPEN);
    atomic_store(&l->target, servers[master].port);
    atomic_fetch_add(&l->cuts, 1);
    say(i, "REPLICAOF", "127.0.0.1", port, NULL);
}

/* The replica that has heard most becomes the master, and the others but `old` hear it. New
 * connections are led there. */
static void promote(int old) {
    uint64_t most = 0;
    int best = -1;
    for (int i = 0; i < nservers; i++) {
        if (i == old || !servers[i].pid) continue;
        uint64_t n = number_after(say(i, "INFO", "replication", NULL, NULL), "slave_repl_offset:");
        if (best < 0 || n > most) best = i, most = n;
    }
    if (best < 0) return;
    master = best;
    say(best, "REPLICAOF", "NO", "ONE", NULL);
    for (int i = 0; i < nservers; i++)
        if (i != old && i != best) replicate(i);
    everybody_to(servers[best].port);
}

/* Everything as it should be, whatever was done. */
static void heal(void) {
    links_all(LINK_OPEN);
    for (int i = 0; i < NODES + nservers; i++) {
        atomic_store(&w->links[i].mode, LINK_OPEN);
        atomic_store(&w->links[i].delay, 0);
        atomic_store(&w->links[i].loss, 0);
    }
    for (int i = 0; i < nservers; i++) {
        if (!servers[i].pid && !(rs_again(&servers[i]) && rs_up(&servers[i])))
            give_up("a server does not start", i);
        rs_go_on(&servers[i]);
    }
    everybody_to(servers[master].port);
    for (int i = 0; i < nservers; i++)
        if (i != master && !strstr(say(i, "INFO", "replication", NULL, NULL), "role:slave"))
            replicate(i);
}

/* Waits until all nodes are up to date and hit again. */
static void recover(void) {
    uint64_t hits[NODES], begun = net_now();
    for (int i = 0; i < NODES; i++) hits[i] = atomic_load(&w->seats[i].hits);
    for (bool good = false; !good && !over; watch(20, -1)) {
        good = true;
        for (int i = 0; i < NODES; i++) {
            seat *s = &w->seats[i];
            uint64_t looked = atomic_load(&s->looked);
            good &= looked > begun && atomic_load(&s->age) < T && atomic_load(&s->pending) == 0;
            good &= atomic_load(&s->hits) >= hits[i] + 100;
            if (!good && net_now() - begun > PATIENCE) {
                printf("age %" PRIu64 " ms, pending %" PRIu64 ", hits +%" PRIu64 "\n",
                       atomic_load(&s->age) / ZC_MILLISECOND, atomic_load(&s->pending),
                       atomic_load(&s->hits) - hits[i]);
                give_up("it does not come back", i);
                break;
            }
        }
    }
}

/* ---- faults */

static void f_kill_connections(void) {
    for (uint64_t n = 1 + dice(5); n--; hold(150)) say(master, "CLIENT", "KILL", "TYPE", "normal");
}
static void f_stop_server(void) {
    rs_hang(&servers[master]);
    hold(2500);
    rs_go_on(&servers[master]);
}
static void f_flushall(void) { say(master, "FLUSHALL", NULL, NULL, NULL); }

/* A key of one of the shards. */
static const char *name_of(const char *what) {
    static char name[32];
    unsigned shard = (unsigned)dice(w->shards);
    if (shard) snprintf(name, sizeof name, "{chaos:%u}:%s", shard, what);
    else snprintf(name, sizeof name, "{chaos}:%s", what);
    return name;
}
static void f_del_log(void) { say(master, "DEL", name_of("log"), NULL, NULL); }
static void f_del_tags(void) {
    say(master, "DEL", name_of(dice(2) ? "tags" : "tags2"), NULL, NULL);
}
static void f_trim(void) { say(master, "XTRIM", name_of("log"), "MAXLEN", dice(2) ? "0" : "3"); }
static void f_foreign_entry(void) {
    rs_say(&servers[master], "EVAL",
           "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] "
           "local id = last and last[1]:match('^%d+') .. '-*' or '*' "
           "return redis.call('XADD', KEYS[1], id, 'x', 'y')",
           "1", name_of("log"), NULL);
}
/* More at once than a node remembers nonces, while the nodes' threads invalidate. */
static void f_crowd(void) {
    char tags[40];
    const char *log = name_of("log");
    snprintf(tags, sizeof tags, "%.*stags", (int)(strlen(log) - 3), log);
    for (uint64_t n = 1 + dice(4); n--; hold(300))
        rs_say(&servers[master], "EVAL",
               "local g = redis.call('HGET', KEYS[2], '\\0g') "
               "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] "
               "if not g or not last then return 0 end "
               "local seq = tonumber(last[1]:match('%d+$')) "
               "for i = 1, 700 do"
               " redis.call('XADD', KEYS[1], g .. '-' .. string.format('%.0f', seq + i),"
               " 'n', 'crowd.' .. ARGV[1] .. i, 'h', '0', 't', '\\4\\0bulk')"
               " end "
               "seq = string.format('%.0f', seq + 700) "
               "redis.call('HSET', KEYS[2], '\\0n', seq, 'bulk', seq) "
               "return 1",
               "2", log, tags, dice(2) ? "a" : "b", NULL);
}
static void f_absurd_position(void) {
    rs_say(&servers[master], "EVAL",
           "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] "
           "if not last then return end "
           "return redis.call('XADD', KEYS[1], last[1]:match('^%d+') .. ARGV[1], 'n', 'y')",
           "1", name_of("log"), dice(2) ? "-18446744073709551614" : "-140737488355330", NULL);
}
static void f_not_a_log(void) {
    const char *log = name_of("log");
    say(master, "DEL", log, NULL, NULL);
    say(master, "SET", log, "nonsense", NULL);
}
static void f_memory_full(void) {
    say(master, "CONFIG", "SET", "maxmemory", "1");
    hold(1500);
    say(master, "CONFIG", "SET", "maxmemory", "0");
}

/* The disk takes no more: the append-only file cannot be written, and Redis refuses (MISCONF). */
static void f_disk_full(void) {
    struct rlimit none = {0, RLIM_INFINITY}, all = {RLIM_INFINITY, RLIM_INFINITY};
    prlimit(servers[master].pid, RLIMIT_FSIZE, &none, NULL);
    hold(2500);
    prlimit(servers[master].pid, RLIMIT_FSIZE, &all, NULL);
}

static void aof_folder(int i, char path[128]) {
    snprintf(path, 128, "%s/appendonlydir", servers[i].dir);
}
/* The end of the append-only file never reached the disk. */
static void cut_tail(int i, off_t bytes) {
    char folder[128], path[512];
    aof_folder(i, folder);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strstr(e->d_name, ".incr.aof")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        int fd = open(path, O_WRONLY);
        off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
        if (fd >= 0 && ftruncate(fd, size > bytes ? size - bytes : 0) != 0) perror(path);
        if (fd >= 0) close(fd);
    }
    if (d) closedir(d);
}
static void again(int i) {
    hold(600);
    if (!rs_again(&servers[i]) || !rs_up(&servers[i])) give_up("a server does not start", i);
}
static void f_kill_server(void) {
    rs_kill(&servers[master]);
    again(master);
}
static void f_kill_server_tail(void) {
    rs_kill(&servers[master]);
    cut_tail(master, (off_t)(10 + dice(4000)));
    again(master);
}
static void f_kill_server_empty(void) {
    char folder[128];
    rs_kill(&servers[master]);
    aof_folder(master, folder);
    rs_remove(folder);
    again(master);
}

static void f_cut(void) {
    for (uint64_t n = 1 + dice(4); n--; hold(200)) cut_some(some());
}
static void partition(int mode) {
    unsigned which = some();
    links_some(which, mode);
    hold(2500);
    if (mode != LINK_REFUSED && dice(2)) cut_some(which);
    links_some(which, LINK_OPEN);
}
static void f_partition(void) { partition(LINK_REFUSED); }
static void f_stall(void) { partition(LINK_STALLED); }
static void f_mute(void) { partition(LINK_MUTE); }
static void f_slow(void) {
    unsigned which = some();
    unsigned us = 500u << dice(7);
    for (int i = 0; i < NODES; i++)
        if (which >> i & 1) {
            atomic_store(&w->links[i].delay, us);
            atomic_store(&w->links[i].loss, (unsigned)dice(100));
        }
    hold(2500);
}

/* False: it is dead, which watch() has told of. */
static bool node_signal(int i, int sig) { return nodes[i] > 0 && kill(nodes[i], sig) == 0; }

static void f_stop_node(void) {
    int i = (int)dice(NODES), status;
    if (!node_signal(i, SIGSTOP)) return;
    waitpid(nodes[i], &status, WUNTRACED);
    hold_node(2500, i);
    for (int j = 0; j < READERS + 2; j++) atomic_store(&w->seats[i].alive[j], net_now());
    node_signal(i, SIGCONT);
}
/* Stopped for moments, again and again: between any two instructions. */
static void f_stutter_node(void) {
    for (int n = 0; n < 20; n++) {
        int i = (int)dice(NODES);
        node_signal(i, SIGSTOP);
        nap(1000 * dice(n % 5 ? 60 : 900));
        node_signal(i, SIGCONT);
        watch(dice(60), -1);
    }
}
static void f_kill_node(void) {
    int i = (int)dice(NODES);
    seat *s = &w->seats[i];
    if (!node_signal(i, SIGKILL)) return;
    waitpid(nodes[i], NULL, 0);
    nodes[i] = 0;
    atomic_fetch_add(&s->lost_hits, atomic_exchange(&s->hits, 0));
    atomic_fetch_add(&s->lost_breaks, atomic_exchange(&s->breaks, 0));
    hold(500);
    node_start(i);
}

/* With replicas. */
static void stall_replicas(void) {
    for (int i = 0; i < nservers; i++)
        if (i != master) atomic_store(&w->links[NODES + i].mode, LINK_STALLED);
}
/* kill -9 of the master; the replicas had not heard its last moments. */
static void f_failover(void) {
    int old = master;
    if (dice(2)) {
        stall_replicas();
        hold(900);
    }
    rs_kill(&servers[old]);
    hold(300);
    promote(old);
    hold(500);
}
/* The old master is cut off from its replicas, not from all nodes, and goes on answering. */
static void f_old_master(void) {
    int old = master;
    stall_replicas();
    hold(1200);
    promote(old);
    cut_some(some());
    watch(dice(7000), -1);
}
/* The master is stopped, succeeded, and wakes. */
static void f_sleeping_master(void) {
    int old = master;
    rs_hang(&servers[old]);
    hold(800);
    promote(old);
    cut_some(some());
    watch(dice(7000), -1);
    rs_go_on(&servers[old]);
    hold(1500);
}
static void f_stop_replica(void) {
    int i = (master + 1) % nservers;
    rs_hang(&servers[i]);
    hold(2500);
    rs_go_on(&servers[i]);
}
static void f_stall_replicas(void) {
    stall_replicas();
    hold(3000);
}

enum { ALONE = 1, TOGETHER = 2, BOTH = 3 };

static struct fault {
    const char *name;
    void (*inject)(void);
    int modes;
    unsigned count;
} faults[] = {
    {"connections killed", f_kill_connections, BOTH, 0},
    {"server stopped", f_stop_server, BOTH, 0},
    {"server killed, again with its log", f_kill_server, ALONE, 0},
    {"server killed, again without its tail", f_kill_server_tail, ALONE, 0},
    {"server killed, again empty", f_kill_server_empty, ALONE, 0},
    {"FLUSHALL", f_flushall, BOTH, 0},
    {"DEL of the log", f_del_log, BOTH, 0},
    {"DEL of the tags", f_del_tags, BOTH, 0},
    {"XTRIM of the log", f_trim, BOTH, 0},
    {"foreign entry in the log", f_foreign_entry, BOTH, 0},
    {"a crowd of entries", f_crowd, BOTH, 0},
    {"an absurd position", f_absurd_position, BOTH, 0},
    {"no log under its key", f_not_a_log, BOTH, 0},
    {"memory full", f_memory_full, BOTH, 0},
    {"disk full", f_disk_full, ALONE, 0},
    {"links cut", f_cut, BOTH, 0},
    {"partition", f_partition, BOTH, 0},
    {"links stalled", f_stall, BOTH, 0},
    {"replies lost", f_mute, BOTH, 0},
    {"slow and losing links", f_slow, BOTH, 0},
    {"node stopped", f_stop_node, BOTH, 0},
    {"nodes stutter", f_stutter_node, BOTH, 0},
    {"node killed", f_kill_node, BOTH, 0},
    {"failover, tail lost", f_failover, TOGETHER, 0},
    {"old master answers on", f_old_master, TOGETHER, 0},
    {"old master wakes", f_sleeping_master, TOGETHER, 0},
    {"replica stopped", f_stop_replica, TOGETHER, 0},
    {"replicas not heard", f_stall_replicas, TOGETHER, 0},
};
#define FAULTS (sizeof faults / sizeof faults[0])

static bool begin_servers(void) {
    nservers = w->replicas ? SERVERS : 1;
    for (int i = 0; i < nservers; i++) {
        bool good =
            w->replicas
                ? rs_start(&servers[i], "--min-replicas-to-write", "1", "--min-replicas-max-lag",
                           "1", "--repl-diskless-sync-delay", "0", "--repl-timeout", "10", NULL)
                : rs_start(&servers[i], "--appendonly", "yes", "--appendfsync", "everysec", NULL);
        if (!good) return false;
    }
    for (int i = 0; i < NODES + nservers; i++) {
        if (!net_listen(&w->links[i])) return false;
        atomic_store(&w->links[i].target, servers[0].port);
    }
    pid_t parent = getpid();
    proxy = fork();
    if (proxy == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) net_run(w->links, NODES + nservers, dice_state);
        _exit(0);
    }
    for (int i = 1; i < nservers; i++) replicate(i);
    return !w->replicas || rs_until(&servers[0], "min_slaves_good_slaves:2", "INFO", "replication");
}

/* Peace: all have rested, the outboxes are empty, the bound is over. Then all is as it should be. */
static void settle(void) {
    snprintf(w->doing, sizeof w->doing, "peace");
    atomic_store(&w->phase, REST);
    for (uint64_t begun = net_now(); !over; watch(20, -1)) {
        bool good = true;
        for (int i = 0; i < NODES; i++) {
            seat *s = &w->seats[i];
            good &= atomic_load(&s->resting) == READERS + 1 && atomic_load(&s->pending) == 0;
            good &= atomic_load(&s->age) < T;
        }
        if (good) break;
        if (net_now() - begun > PATIENCE) give_up("no peace", -1);
    }
    watch(atomic_load(&w->bound) / ZC_MILLISECOND, -1);
    atomic_fetch_add(&w->round, 1);
    atomic_store(&w->phase, VERIFY);
    for (uint64_t begun = net_now(); !over; watch(20, -1)) {
        bool good = true;
        for (int i = 0; i < NODES; i++)
            good &= atomic_load(&w->seats[i].rounds) == atomic_load(&w->round);
        if (good) break;
        if (net_now() - begun > PATIENCE) give_up("verification does not end", -1);
    }
}

static void torment(uint64_t seconds, const char *only) {
    size_t order[FAULTS], n = 0;
    for (size_t i = 0; i < FAULTS; i++)
        if (faults[i].modes & (w->replicas ? TOGETHER : ALONE) && strstr(faults[i].name, only))
            order[n++] = i;
    if (n == 0) give_up("no such fault", -1);
    uint64_t end = net_now() + seconds * ZC_SECOND;
    for (size_t at = 0; !over && net_now() < end; at++) {
        if (at % n == 0) /* each once, in another order every time */
            for (size_t i = n; i > 1; i--) {
                size_t j = dice(i), swap = order[i - 1];
                order[i - 1] = order[j];
                order[j] = swap;
            }
        struct fault *f = &faults[order[at % n]];
        snprintf(w->doing, sizeof w->doing, "%s", f->name);
        f->count++;
        f->inject();
        if (dice(4) == 0) { /* and another before the first is mended */
            f = &faults[order[dice(n)]];
            snprintf(w->doing, sizeof w->doing, "%.30s, %.30s", faults[order[at % n]].name,
                     f->name);
            f->count++;
            f->inject();
        }
        heal();
        recover();
        hold(400);
        if (dice(10) == 0) {
            settle();
            atomic_store(&w->phase, RUN);
        }
        unsigned bad = atomic_load(&w->stale) + atomic_load(&w->failures);
        for (int i = 0; i < NODES; i++) bad += atomic_load(&w->seats[i].wrong);
        if (bad) return;
    }
}

static void end_all(void) {
    int status;
    uint64_t begun = net_now();
    atomic_store(&w->phase, QUIT);
    for (int i = 0; i < NODES; i++) {
        while (nodes[i] && !over && waitpid(nodes[i], &status, WNOHANG) == 0) {
            if (net_now() - begun > PATIENCE) give_up("it does not end", i);
            nap(2000);
        }
        if (nodes[i] && over) {
            kill(nodes[i], SIGKILL);
            waitpid(nodes[i], NULL, 0);
        } else if (nodes[i] && status != 0) {
            give_up("it has ended badly", i);
        }
    }
    kill(proxy, SIGKILL);
    waitpid(proxy, NULL, 0);
    for (int i = 0; i < nservers; i++) rs_stop(&servers[i]);
}

static uint64_t sum(size_t offset) {
    uint64_t n = 0;
    for (int i = 0; i < NODES; i++)
        n += atomic_load((_Atomic uint64_t *)(void *)((char *)&w->seats[i] + offset));
    return n;
}
static uint64_t most(size_t offset) {
    uint64_t n = 0;
    for (int i = 0; i < NODES; i++) {
        uint64_t v = atomic_load((_Atomic uint64_t *)(void *)((char *)&w->seats[i] + offset));
        if (v > n) n = v;
    }
    return n;
}
#define SUM(field) sum(offsetof(seat, field))
#define MOST(field) most(offsetof(seat, field))

static unsigned passed, failed;
static void verdict(const char *what, bool good) {
    printf("%-58s %s\n", what, good ? "ok" : "FAILED");
    passed += good;
    failed += !good;
}

static int report(unsigned recovered, bool settled) {
    unsigned wrong = 0, cold = 0;
    uint64_t reads = SUM(reads), loads = SUM(loads);
    for (size_t i = 0; i < FAULTS; i++)
        if (faults[i].count) printf("  %4u  %s\n", faults[i].count, faults[i].name);
    for (int i = 0; i < NODES; i++) {
        wrong += atomic_load(&w->seats[i].wrong);
        cold += atomic_load(&w->seats[i].second_hits) < KEYS * 9 / 10;
    }
    printf("invalidations %" PRIu64 " acknowledged, %" PRIu64 " not; reads %" PRIu64
           ", %.1f %% without the loader, %.1f %% from the table; epochs %" PRIu64 "\n",
           SUM(acks), SUM(refusals), reads, 100.0 * (1 - (double)loads / (double)(reads + !reads)),
           100.0 * (double)(SUM(hits) + SUM(lost_hits)) / (double)(reads + !reads),
           SUM(breaks) + SUM(lost_breaks));
    printf("largest staleness %" PRIu64 " ms of %" PRIu64 "; %" PRIu64
           " reads overtaken by a pause; "
           "longest read %" PRIu64 " ms\n",
           MOST(worst) / ZC_MILLISECOND, atomic_load(&w->bound) / ZC_MILLISECOND, SUM(overtaken),
           MOST(longest) / ZC_MILLISECOND);
    verdict("no value staler than the bound", atomic_load(&w->stale) == 0);
    verdict("no failure in a caller", atomic_load(&w->failures) == 0);
    verdict("no hang, no death, all come back and hit after each fault", !over);
    verdict("at rest, every node has every key's last version", settled && wrong == 0);
    verdict("at rest, every node hits", settled && cold == 0);
    passed += recovered;
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}

int main(int argc, char **argv) {
    uint64_t seconds = 60, seed = 0;
    unsigned shards = 1;
    const char *only = "";
    bool replicas = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--replicas") == 0) replicas = true;
        else if (strcmp(argv[i], "--list") == 0)
            for (size_t j = 0; j < FAULTS; j++) puts(faults[j].name);
        else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
            seconds = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[++i], NULL, 0); /* random: 0 */
        else if (i + 1 < argc && strcmp(argv[i], "--shards") == 0)
            shards = (unsigned)strtoul(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--only") == 0) only = argv[++i];
        else
            return fprintf(stderr, "chaos [--replicas] [--shards N] [--seconds N] [--seed N] "
                                   "[--only NAME]\n"),
                   2;
        if (strcmp(argv[i], "--list") == 0) return 0;
    }
    if (shards < 1 || shards > 16) return fprintf(stderr, "chaos: 1 to 16 shards\n"), 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGXFSZ, SIG_IGN); /* the servers inherit it: a write that is too long is an error */
    signal(SIGPIPE, SIG_IGN);
    if (seed == 0) seed = (net_now() ^ (uint64_t)getpid() << 40) >> 8;
    dice_state = zct_random = seed;
    w = (world *)mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (w == MAP_FAILED) return 2;
    atomic_store(&w->seed, seed);
    w->replicas = replicas;
    w->shards = shards;
    atomic_store(&w->bound, replicas ? T + (MAX_LAG + 2) * ZC_SECOND : T);
    for (uint32_t k = 0; k < KEYS; k++) atomic_store(&w->rows[k].version, 1);
    printf("seed %" PRIu64 ", %s, %u shards, %d nodes, T %d ms\n", seed,
           replicas ? "a master and two replicas" : "one server", w->shards, NODES,
           (int)(T / ZC_MILLISECOND));
    if (!begin_servers()) return 2;
    for (int i = 0; i < NODES; i++) node_start(i);
    recover();
    torment(seconds, only);
    bool calm = !over && !atomic_load(&w->stale);
    if (calm) settle();
    bool settled = calm && !over;
    end_all();
    unsigned recovered = 0;
    for (size_t i = 0; i < FAULTS; i++) recovered += faults[i].count;
    return report(recovered - (over && recovered), settled);
}
