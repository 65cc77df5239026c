/* Simulation: several nodes, the network between them and Redis in one thread, in simulated time,
 * all chance from one seed. The nodes are the real code of caches with >>redis as storage and bus;
 * the server is sim_redis.h. What must hold whatever fails (the manual, "Several nodes"):
 *
 *   - on the node itself an invalidation holds at once; on another node, T after it was
 *     acknowledged (T + L with replicas); on a node that started later, from its start
 *   - what a node commits while it holds is known to every node T later, whether it lives or has
 *     died; while it holds, nothing that depends on what is held is in a table or a record
 *   - no call fails, other than as its options say; every flight ends, and every hold
 *   - when the faults end, all nodes serve hits again and every invalidation has arrived
 *
 * x_simulate [--seeds N] [--first N] [--jobs N] [--seed N [--verbose]]
 *
 * Each thread of a node is a coroutine; it gives way wherever the code looks at the clock, talks to
 * the server or runs a loader. Faults: requests and replies lost or late, connections cut,
 * partitions, slow and paused nodes, crashes, also round a commit, clocks an hour off and stepping; nodes whose versions
 * are far ahead of the log, nodes that are some hundred entries behind when two of their threads
 * invalidate, logs whose positions are near 2^16, 2^32, 2^47 and 2^64; hooks that use the cache; a
 * server that is slow, hangs, restarts empty or with a lost tail, is flushed, trimmed, loses keys, scripts, or entries before
 * all have heard them; a replica promoted with a lost tail while the old master still answers, and
 * its return.
 *
 * In one seed of eight a place (>>place) takes Redis' part: calls and answers that are lost or late,
 * swaps that take effect long after they were given up, or twice; what is there is evicted, or the
 * log is rolled back once every node has heard more, and then the records are lost with it. */
#define _GNU_SOURCE
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

/* Threads are coroutines; they wait in simulated time. */
static int sim_thread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static int sim_thread_join(pthread_t, void **);
static pthread_t sim_thread_self(void);
static int sim_mutex_lock(pthread_mutex_t *);
static int sim_cond_timedwait(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int sim_cond_broadcast(pthread_cond_t *);
static int sim_yield(void);
static int sim_clock_gettime(clockid_t id, struct timespec *t) { /* for deadlines alone */
    (void)id;
    t->tv_sec = t->tv_nsec = 0;
    return 0;
}
static int sim_nap(const struct timespec *t, struct timespec *left) {
    (void)t, (void)left;
    return sim_yield();
}
#define pthread_create sim_thread_create
#define pthread_join sim_thread_join
#define pthread_self sim_thread_self
#define pthread_mutex_lock sim_mutex_lock
#define pthread_cond_timedwait sim_cond_timedwait
#define pthread_cond_broadcast sim_cond_broadcast
#define sched_yield sim_yield
#define nanosleep sim_nap
#define clock_gettime sim_clock_gettime

#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_DEBUG 1 /* as -D has it */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "sim_redis.h"
#include <inttypes.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

#define US UINT64_C(1000)
#define MS ZC_MILLISECOND
#define HOUR (3600 * ZC_SECOND)

enum {
    NODES = 4,
    KEYS = 12,
    PLAIN = 9,       /* keys from here on contain another one's value, by a nested fetch */
    TAGS = 10,
    STACK = 256 << 10,
    FIBERS = 128,
    FLIGHTS = 2,     /* that a node has open in pieces */
    HOLDS = 16,      /* that are looked after at once */
    SENTINEL = 2,    /* beside the servers 0 and 1 */
    NAME = 32,       /* of a key on a server, at most */
    STEPS = 3000000, /* looks at the clock in one run: more is a hang */
};

static const char *const tag_names[TAGS] = {"a",   "a:b",   "a:b:c", "a:b:d", "a:e",
                                            "org", "org:1", "org:2", "x",     "x:y"};

/* ---- the world ---- */

typedef struct chunk {
    struct chunk *next;
    uint64_t at;
    size_t len;
    char bytes[];
} chunk;

typedef struct conn {
    struct conn *next; /* all of a run */
    struct node *node;
    int server;             /* SENTINEL: one */
    uint64_t incarnation;   /* of the server */
    bool closed;            /* by the client */
    uint64_t broken;        /* when the client notices; UINT64_MAX: it is whole */
    uint64_t up, down;      /* the last arrival in each direction */
    redisReader *reader;
    chunk *inbox;
    sr_cmd *out[32];
    unsigned nout;
    bool multi;
    sr_cmd *queued[8];
    unsigned nqueued;
    struct fiber *waiter; /* for a reply */
    bool woken;           /* io_wake: `reply` gives way, or fails from now on */
    bool blocked;         /* its XREAD or WAIT waits; what comes after it waits as well: */
    struct event *behind;
    size_t nbehind;
} conn;

typedef struct server {
    sr_db db;
    uint64_t run, replid, incarnation, hung_until, slow_until; /* replid: replication id */
    bool up, master, superseded; /* superseded: another one was promoted, and it does not know */
    bool scripts[ZC__REDIS_SCRIPTS];
    uint64_t offset, applied; /* writes executed; writes of the master applied */
} server;

typedef struct repl { /* a write on its way to the other server, or to the disk */
    struct repl *next;
    uint64_t at, executed;
    zc__redis_script script;
    sr_cmd *cmd;
} repl;

typedef enum event_kind { EV_EXEC, EV_ACTION } event_kind;
typedef enum action {
    A_FAULT, A_HEAL, A_UP, A_PROMOTE, A_VIEW, A_REJOIN, A_FAILBACK, A_DELETE, A_CROWD, A_RUSH,
    A_SILENCE, A_LATE,
} action;

typedef struct event {
    uint64_t at, seq;
    event_kind kind;
    action action;
    int a, b;
    conn *conn;
    sr_cmd *cmd;
    uint64_t until, offset; /* of WAIT */
} event;

typedef struct flight {
    zc_fill *fill; /* NULL: none */
    int key;
    bool leader;
    uint64_t began;
    uint32_t floor[KEYS];
} flight;

typedef struct fiber {
    struct node *node;
    ucontext_t ctx; /* to begin with; then: */
    jmp_buf at;
    bool begun, finished, joined;
    zc__ranked *locks; /* that it holds, with ZOOCACHE_DEBUG */
    uint64_t until;    /* zc__hurry() */
    uint64_t wake;
    pthread_cond_t *cond; /* that it waits for */
    void *(*run)(void *);
    void *arg;
    unsigned spins;
} fiber;

typedef struct node {
    int id;
    bool threads;     /* the cache has its own, and two threads use it */
    bool closing;     /* a thread of the test has to wait */
    unsigned busy;    /* the second thread is at work */
    bool over;
    zc_cache *c; /* NULL: down */
    bool dead;   /* it has crashed: nothing that it does matters any more */
    uint64_t mono_base, wall_off;
    uint64_t paused_until, slow_until, cut_until[2];
    int view; /* where it looks for the master */
    uint32_t own[KEYS];     /* no older value may be served here */
    uint32_t pending[KEYS]; /* invalidated here, not acknowledged yet */
    bool has_pending;
    unsigned unsafe, pending_unsafe; /* what an old master has taken of it; before `pending` */
    zc_ack ack;
    zc_silence silence;
    uint64_t max_stale;
    bool bus_only, write_behind;
    size_t max_entries;
    uint64_t idle; /* the pause between its steps */
    unsigned must; /* so many of its next steps invalidate */
    bool hooked;   /* its event hook uses the cache */
    int depth;     /* loaders that are running */
    int hooks;     /* and hooks */
    uint64_t hook_ended; /* when the last did that took long */
    flight flights[FLIGHTS];
    uint64_t last_poll;
} node;

/* What is held, from when it is announced until it may be over. */
typedef struct held {
    const struct node *by;
    bool lives; /* who holds */
    uint64_t since, until;
    unsigned losses;
    bool key[KEYS];
} held;

typedef struct ack {
    uint64_t at;
    uint32_t floor;
} ack;

/* A value of the place, or a swap that is still on its way. */
typedef struct item {
    struct item *next;
    char key[ZC_PLACE_KEY];
    size_t key_len, len;
    uint64_t token; /* 0: none */
    unsigned char *data;
} item;

typedef struct world {
    bool place;          /* instead of Redis */
    item *items, *late;  /* what is there; swaps that are late */
    item log_was;        /* the log before its last swap */
    uint64_t tokens, rolled; /* rolled: the generation that was rolled back; 0: none */
    uint64_t seed, random, now, seq, steps, digest;
    bool verbose, failed;
    jmp_buf main;
    node nodes[NODES];
    int nnodes, settled;
    fiber *running;
    fiber fibers[FIBERS];
    int nfibers;
    server servers[2];
    int master; /* the true one */
    repl *repl, **repl_tail;
    bool follows; /* the other server is its replica, or its disk; else it has another one */
    bool linked;  /* and can be reached by it */
    uint64_t cut_at, lag;
    event *heap;
    size_t nheap, heap_cap;
    conn *conns;
    /* The profile. */
    bool replicas, sentinel, kills_on_demotion, fsync_always, calm;
    bool faults, writing;
    uint64_t t, l, timeout, fault_gap, end, quiet_since;
    unsigned loss; /* of 1000 messages */
    uint64_t hush_until; /* nobody invalidates */
    bool vandal; /* entries are deleted soon after they are there */
    bool wakes_break; /* io_wake costs the connection */
    bool crowds;      /* no faults, but now and then hundreds of entries at once */
    bool leads;       /* versions get ahead of the log */
    bool seals;       /* by two keys, of which each node has its own first */
    unsigned shards;
    uint64_t log_length, max_tags;
    /* The truth. */
    uint32_t value[KEYS];
    int deps[KEYS][3], ndeps[KEYS];
    ack *acks[KEYS];
    size_t nacks[KEYS], acks_cap[KEYS];
    held holds[HOLDS];
    unsigned lost, demoted; /* how often the server lost what it had; perhaps its last writes */
    /* What was seen. */
    uint64_t ops, reads, hits, fills, invalidations, holdings, unacked, nfaults, breaks;
} world;

static world *w;

typedef struct totals {
    uint64_t seeds, ops, reads, hits, fills, invalidations, holdings, unacked, faults, breaks;
    uint64_t simulated;
    uint64_t current; /* the seed that is running */
    uint64_t failed;  /* the first seed that has failed, + 1 */
} totals;

/* ---- chance, trace ---- */

static uint64_t rnd(void) {
    uint64_t z = (w->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static uint64_t below(uint64_t n) { return n ? rnd() % n : 0; }
static uint64_t between(uint64_t a, uint64_t b) { return a + below(b - a + 1); }
static bool chance(unsigned of_1000) { return below(1000) < of_1000; }

__attribute__((format(printf, 2, 3))) static void trace(const node *n, const char *format, ...) {
    char text[256];
    va_list ap;
    va_start(ap, format);
    int len = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    size_t size = len < (int)sizeof text ? (size_t)len : sizeof text - 1;
    w->digest = XXH3_64bits_withSeed(text, size, w->digest ^ w->now);
    if (w->verbose)
        printf("%11.3f ms  %c  %s\n", (double)w->now / 1e6, n ? 'A' + n->id : ' ', text);
}

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list ap;
    if (w->failed) return;
    w->failed = true;
    printf("seed %" PRIu64 " at %.3f ms, node %c: ", w->seed, (double)w->now / 1e6,
           w->running ? 'A' + w->running->node->id : '-');
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

/* ---- time: events, coroutines ---- */

static bool event_before(const event *a, const event *b) {
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void push(event e) {
    if (w->nheap == w->heap_cap) {
        w->heap_cap = w->heap_cap * 2 + 64;
        w->heap = (event *)realloc(w->heap, w->heap_cap * sizeof *w->heap);
        if (!w->heap) abort();
    }
    if (!e.seq) e.seq = ++w->seq;
    size_t i = w->nheap++;
    for (; i && event_before(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

static event pop(void) {
    event top = w->heap[0], last = w->heap[--w->nheap];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < w->nheap; i = k) {
        if (k + 1 < w->nheap && event_before(&w->heap[k + 1], &w->heap[k])) k++;
        if (!event_before(&w->heap[k], &last)) break;
        w->heap[i] = w->heap[k];
    }
    if (w->nheap) w->heap[i] = last;
    return top;
}

static void later(uint64_t in, action what, int a, int b) {
    event e = {.at = w->now + in, .kind = EV_ACTION, .action = what, .a = a, .b = b};
    push(e);
}

/* Switching by jumps makes no system calls. Each coroutine holds locks of its own. */
static void resume(fiber *f) {
    zc__locks_swap(&f->locks);
    (void)zc__hurry(f->begun ? f->until : ZC_NEVER);
    if (_setjmp(w->main) != 0) {
        zc__locks_swap(&f->locks);
        f->until = zc__hurry(ZC_NEVER);
        return;
    }
    if (f->begun) _longjmp(f->at, 1);
    f->begun = true;
    setcontext(&f->ctx);
}
static void leave(fiber *f) {
    if (_setjmp(f->at) == 0) _longjmp(w->main, 1);
}

/* Gives way until `at`, or until somebody sets `wake` to an earlier time. */
static void give_way(uint64_t at) {
    fiber *f = w->running;
    f->wake = at;
    leave(f);
    while (f->node->paused_until > w->now) {
        f->wake = f->node->paused_until;
        leave(f);
    }
}

static void nap(uint64_t ns) {
    w->running->spins = 0;
    give_way(w->now + ns);
}

static bool others_are_due(const fiber *f) {
    if (w->nheap && w->heap[0].at <= w->now) return true;
    for (int i = 0; i < w->nfibers; i++)
        if (&w->fibers[i] != f && !w->fibers[i].finished && w->fibers[i].wake < w->now) return true;
    return false;
}

static char *stacks[FIBERS]; /* kept for the next run */

static void fiber_main(void) {
    fiber *f = w->running;
    (void)f->run(f->arg);
    f->finished = true;
    f->wake = UINT64_MAX;
    leave(f);
}

static fiber *fiber_new(node *n, void *(*run)(void *), void *arg) {
    fiber *f = NULL;
    for (int i = 0; i < w->nfibers && !f; i++)
        if (w->fibers[i].joined) f = &w->fibers[i];
    if (!f && w->nfibers == FIBERS) abort();
    if (!f) f = &w->fibers[w->nfibers++];
    char **stack = &stacks[f - w->fibers];
    if (!*stack) *stack = (char *)sr_alloc(STACK);
    f->node = n;
    f->begun = f->finished = f->joined = false;
    f->locks = 0;
    f->wake = w->now + below(100 * US);
    f->cond = NULL;
    f->run = run;
    f->arg = arg;
    f->spins = 0;
    getcontext(&f->ctx);
    f->ctx.uc_stack.ss_sp = *stack;
    f->ctx.uc_stack.ss_size = STACK;
    f->ctx.uc_link = NULL;
    makecontext(&f->ctx, fiber_main, 0);
    return f;
}

static int sim_thread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *),
                             void *arg) {
    (void)attr;
    *t = (pthread_t)(fiber_new(w->running->node, run, arg) - w->fibers);
    return 0;
}
static int sim_thread_join(pthread_t t, void **result) {
    (void)result;
    while (!w->fibers[t].finished) nap(100 * US);
    w->fibers[t].joined = true;
    return 0;
}
static pthread_t sim_thread_self(void) { return (pthread_t)(w->running - w->fibers); }
static int sim_mutex_lock(pthread_mutex_t *m) {
    while (pthread_mutex_trylock(m) != 0) nap(20 * US);
    return 0;
}
static int sim_yield(void) {
    nap(1 * US);
    return 0;
}
static int sim_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t) {
    pthread_mutex_unlock(m);
    w->running->cond = c;
    nap((uint64_t)t->tv_sec * ZC_SECOND + (uint64_t)t->tv_nsec);
    w->running->cond = NULL;
    return sim_mutex_lock(m);
}
static int sim_cond_broadcast(pthread_cond_t *c) {
    for (int i = 0; i < w->nfibers; i++)
        if (w->fibers[i].cond == c && w->fibers[i].wake > w->now) w->fibers[i].wake = w->now;
    return 0;
}

/* Who looks at the clock again and again waits for it. */
static uint64_t clock_mono(void *user) {
    node *n = (node *)user;
    if (w->running && n == w->running->node) {
        w->now += 100;
        if (++w->running->spins > 64) w->now += 500 * US;
        if (++w->steps > STEPS) {
            if (!w->failed) fail("no end: %d looks at the clock", STEPS);
            _exit(1);
        }
        if (w->faults && !w->calm && below(400) == 0) {
            uint64_t pause = chance(300) ? between(1, 20) * MS : below(3 * w->t);
            trace(n, "sleeps for %.3f ms", (double)pause / 1e6);
            nap(pause);
        } else if (n->paused_until > w->now || others_are_due(w->running)) {
            give_way(w->now);
        }
    }
    return n->mono_base + w->now;
}

static uint64_t clock_wall(void *user) {
    const node *n = (const node *)user;
    return UINT64_C(1795000000) * ZC_SECOND + w->now + n->wall_off;
}

/* ---- the server ---- */

static void follower_applies(void) {
    server *f = &w->servers[1 - w->master];
    while (w->repl && w->repl->at <= w->now) {
        repl *r = w->repl;
        sr_out o = {NULL, 0, 0};
        sr_exec(&f->db, r->executed, r->cmd, r->script, &o);
        f->applied++;
        free(o.ptr);
        w->repl = r->next;
        if (!w->repl) w->repl_tail = &w->repl;
        sr_cmd_free(r->cmd);
        free(r);
    }
}

static void repl_forget(void) {
    while (w->repl) {
        repl *r = w->repl;
        w->repl = r->next;
        sr_cmd_free(r->cmd);
        free(r);
    }
    w->repl_tail = &w->repl;
}

/* The other server, or the disk, becomes what the master is. */
static void resync(void) {
    server *m = &w->servers[w->master], *f = &w->servers[1 - w->master];
    repl_forget();
    sr_copy(&f->db, &m->db);
    f->applied = m->offset;
    f->replid = m->replid;
    w->linked = w->follows = true;
}

static void replicate(server *s, sr_cmd *c, zc__redis_script script) {
    s->offset++;
    if (s != &w->servers[w->master] || !w->linked || !w->follows) return;
    repl *r = (repl *)sr_alloc(sizeof *r);
    uint64_t at = w->now + (w->fsync_always ? 0 : between(w->lag / 4, w->lag));
    repl **tail = w->repl_tail;
    r->next = NULL;
    r->at = at;
    if (tail != &w->repl) { /* in order */
        repl *last = (repl *)(void *)((char *)tail - offsetof(repl, next));
        if (r->at < last->at) r->at = last->at;
    }
    r->executed = w->now;
    r->script = script;
    r->cmd = c;
    c->refs++;
    *tail = r;
    w->repl_tail = &r->next;
    if (w->fsync_always) follower_applies();
}

static zc__redis_script script_of(const server *s, const sr_cmd *c, bool *known) {
    bool sha = sr_is(c, 0, "EVALSHA");
    *known = true;
    if (!sha && !sr_is(c, 0, "EVAL")) return ZC__NO_SCRIPT;
    for (int i = 0; i < ZC__REDIS_SCRIPTS; i++) {
        char name[48];
        const char *text = zc__redis_script_text((zc__redis_script)i);
        snprintf(name, sizeof name, "%040d", i);
        if (strcmp(c->arg[1], sha ? name : text) != 0) continue;
        *known = !sha || s->scripts[i];
        return (zc__redis_script)i;
    }
    *known = false;
    return ZC__NO_SCRIPT;
}

/* A master that has not heard of its replica for L refuses to write. */
static bool has_replica(const server *s) {
    if (!w->replicas) return true;
    if (s != &w->servers[w->master]) return w->now - w->cut_at <= w->l;
    return !w->follows || w->linked || w->now - w->cut_at <= w->l;
}

static void unblock(int at);
static void server_command(const char *a, const char *b, const char *c);

static void exec_plain(server *s, conn *c, sr_cmd *cmd, sr_out *o) {
    bool known;
    zc__redis_script script = script_of(s, cmd, &known);
    if (!known) {
        sr_line(o, '-', "NOSCRIPT No matching script. Please use EVAL.");
        return;
    }
    bool writes = sr_writes(cmd);
    if (writes && !s->master) {
        sr_line(o, '-', "READONLY You can't write against a read only replica.");
        return;
    }
    if (writes && !has_replica(s)) {
        sr_line(o, '-', "NOREPLICAS Not enough good replicas to write.");
        return;
    }
    if (script == ZC__APPEND && s->superseded) c->node->unsafe++;
    sr_exec(&s->db, w->now, cmd, script, o);
    if (writes) replicate(s, cmd, script);
    if (script == ZC__APPEND && w->vandal && w->faults && s == &w->servers[w->master] &&
        chance(80)) {
        if (chance(200)) server_command("XDEL", cmd->arg[3], "0");
        else
            later(between(50 * US, w->t / 8), A_DELETE,
                  cmd->arg[3][4] == ':' ? cmd->arg[3][5] - '0' : 0, (int)below(2));
    }
    if (script == ZC__APPEND) unblock(c->server);
}

static void exec_info(const server *s, const sr_cmd *cmd, sr_out *o) {
    char text[128];
    if (sr_is(cmd, 1, "server"))
        snprintf(text, sizeof text, "# Server\r\nrun_id:%040" PRIx64 "\r\n", s->run);
    else
        snprintf(text, sizeof text, "# Replication\r\nrole:%s\r\n%smaster_replid:%040" PRIx64 "\r\n",
                 s->master ? "master" : "slave",
                 w->replicas && s->master ? "min_slaves_good_slaves:1\r\n" : "", s->replid);
    sr_bulk_text(o, text);
}

static void exec_one(server *s, conn *c, sr_cmd *cmd, sr_out *o) {
    if (sr_is(cmd, 0, "INFO")) {
        exec_info(s, cmd, o);
    } else if (sr_is(cmd, 0, "SCRIPT")) {
        char name[48];
        for (int i = 0; i < ZC__REDIS_SCRIPTS; i++) {
            if (strcmp(cmd->arg[2], zc__redis_script_text((zc__redis_script)i)) != 0) continue;
            s->scripts[i] = true;
            snprintf(name, sizeof name, "%040d", i);
            sr_bulk_text(o, name);
        }
    } else if (sr_is(cmd, 0, "CONFIG")) {
        sr_array(o, 4);
        sr_bulk_text(o, "appendonly");
        sr_bulk_text(o, "yes");
        sr_bulk_text(o, "appendfsync");
        sr_bulk_text(o, w->fsync_always ? "always" : "everysec");
    } else if (sr_is(cmd, 0, "MULTI")) {
        c->multi = true;
        sr_line(o, '+', "OK");
    } else if (sr_is(cmd, 0, "EXEC")) {
        c->multi = false;
        sr_array(o, c->nqueued);
        for (unsigned i = 0; i < c->nqueued; i++) {
            exec_plain(s, c, c->queued[i], o);
            sr_cmd_free(c->queued[i]);
        }
        c->nqueued = 0;
    } else if (c->multi) {
        cmd->refs++;
        c->queued[c->nqueued++] = cmd;
        sr_line(o, '+', "QUEUED");
    } else {
        exec_plain(s, c, cmd, o);
    }
}

static uint64_t delay(const node *n) {
    uint64_t d = between(20, 400) * US;
    if (w->faults && chance(30)) d += between(1, 20) * MS;
    if (n->slow_until > w->now) d += w->crowds ? below(w->t / 4) : between(1, 80) * MS;
    return d;
}

static void wake_for(conn *c, uint64_t at) {
    if (c->waiter && at < c->waiter->wake) c->waiter->wake = at;
}

/* The connection is lost; the client notices at once, after a while, or by its time-outs. */
static void break_conn(conn *c) {
    if (c->broken != UINT64_MAX) return;
    c->broken = w->now + (chance(200) ? between(50, 500) * MS : delay(c->node));
    wake_for(c, c->broken);
}

static void break_conns(int at, const node *n) {
    for (conn *c = w->conns; c; c = c->next)
        if (!c->closed && (at < 0 || c->server == at) && (!n || c->node == n)) break_conn(c);
}

/* When a message that leaves now arrives: later than all before it. During a partition it waits for
 * the end, as TCP sends it again, or is lost with its connection. UINT64_MAX: lost. */
static uint64_t arrival(conn *c, uint64_t *last) {
    const node *n = c->node;
    uint64_t cut = c->server == SENTINEL ? 0 : n->cut_until[c->server];
    uint64_t at = w->now + delay(n);
    if (c->broken != UINT64_MAX) return UINT64_MAX;
    if (w->faults && chance(w->loss)) {
        if (chance(500)) break_conn(c);
        else at += between(10, 400) * MS;
        if (c->broken != UINT64_MAX) return UINT64_MAX;
    }
    if (cut > w->now) {
        if (chance(500)) break_conn(c);
        if (c->broken != UINT64_MAX) return UINT64_MAX;
        at = cut + delay(n);
    }
    if (c->server != SENTINEL && w->servers[c->server].slow_until > w->now)
        at += between(w->timeout / 4, 2 * w->timeout);
    if (at < *last) at = *last;
    return *last = at;
}

static void answer(conn *c, sr_out *o) {
    size_t at = 0;
    while (at < o->len && !c->closed) {
        size_t len = o->len - at;
        if (len > 2 && chance(20)) len = 1 + below(len - 1);
        uint64_t when = arrival(c, &c->down);
        if (when == UINT64_MAX) return;
        chunk *k = (chunk *)sr_alloc(sizeof *k + len), **end = &c->inbox;
        k->next = NULL;
        k->at = when;
        k->len = len;
        memcpy(k->bytes, o->ptr + at, len);
        while (*end) end = &(*end)->next;
        *end = k;
        wake_for(c, when);
        at += len;
    }
}

/* WAIT n ms: 1 once the replica has what was written before, 0 in the end. False: not yet. */
static bool exec_wait(server *s, event *e, sr_out *o) {
    if (!e->until) {
        e->until = w->now + sr_num(e->cmd->arg[2]) * MS;
        e->offset = s->offset;
    }
    bool mine = s == &w->servers[w->master] && w->linked;
    if (mine && w->follows) follower_applies();
    bool there = mine && (!w->follows || w->servers[1 - w->master].applied >= e->offset);
    if (there || w->now >= e->until) {
        sr_int(o, there);
        return true;
    }
    e->at = w->now + MS / 2;
    e->conn->blocked = true;
    push(*e);
    return false;
}

/* XREAD ... BLOCK ms: until there is something. False: not yet. */
static bool exec_blocking(server *s, event *e, sr_out *o) {
    if (!e->until) e->until = w->now + sr_num(e->cmd->arg[4]) * MS;
    sr_range(sr_log_of(&s->db, e->cmd->arg[6]), e->cmd->arg[7], true, "+", sr_num(e->cmd->arg[2]), o);
    if (o->len > 5 || w->now >= e->until) return true;
    o->len = 0;
    e->at = e->until;
    e->conn->blocked = true;
    push(*e);
    return false;
}

/* The log has grown: whoever waits for that looks again. */
static void unblock(int at) {
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < w->nheap && !again; i++) {
            event e = w->heap[i];
            if (e.kind != EV_EXEC || !e.conn->blocked || e.conn->server != at || e.at <= w->now)
                continue;
            if (!sr_is(e.cmd, 0, "XREAD") || !e.until) continue;
            event *rest = (event *)sr_alloc(w->nheap * sizeof *rest);
            size_t n = w->nheap;
            memcpy(rest, w->heap, n * sizeof *rest);
            w->nheap = 0;
            for (size_t k = 0; k < n; k++) {
                if (k == i) rest[k].at = w->now;
                push(rest[k]);
            }
            free(rest);
            again = true;
        }
    }
}

/* What came behind one that waited. */
static void go_on(conn *c) {
    c->blocked = false;
    for (size_t i = 0; i < c->nbehind; i++) {
        c->behind[i].at = w->now;
        push(c->behind[i]);
    }
    c->nbehind = 0;
}

static void exec_sentinel(const node *n, sr_out *o) {
    sr_array(o, 2);
    sr_bulk_text(o, n->view ? "m1" : "m0");
    sr_bulk_text(o, "6379");
}

static void arrive(event e) {
    conn *c = e.conn;
    server *s = c->server == SENTINEL ? NULL : &w->servers[c->server];
    sr_out o = {NULL, 0, 0};
    bool waits = sr_is(e.cmd, 0, "WAIT") && w->replicas;
    bool blocks = waits || (sr_is(e.cmd, 0, "XREAD") && sr_is(e.cmd, 3, "BLOCK"));
    if (c->blocked && !(blocks && e.until)) {
        c->behind = (event *)realloc(c->behind, (c->nbehind + 1) * sizeof e);
        if (!c->behind) abort();
        c->behind[c->nbehind++] = e;
        return;
    }
    if (s && (!s->up || s->incarnation != c->incarnation)) {
        break_conn(c);
    } else if (s && s->hung_until > w->now) {
        e.at = s->hung_until;
        push(e);
        return;
    } else if (s && blocks) {
        if (!(waits ? exec_wait(s, &e, &o) : exec_blocking(s, &e, &o))) {
            free(o.ptr);
            return;
        }
    } else if (!s) {
        exec_sentinel(c->node, &o);
    } else {
        exec_one(s, c, e.cmd, &o);
        if (w->verbose && c->node) trace(c->node, "server %d: %s %.20s -> %.*s", c->server,
                                         e.cmd->arg[0], e.cmd->argc > 2 ? e.cmd->arg[1] : "",
                                         (int)strcspn(o.ptr, "\r"), o.ptr);
    }
    answer(c, &o);
    free(o.ptr);
    if (blocks) go_on(c);
    sr_cmd_free(e.cmd);
}

/* ---- the io of a node ---- */

static void io_close(void *user, void *link, bool forked) {
    conn *c = (conn *)link;
    (void)user;
    (void)forked;
    c->closed = true;
    redisReaderFree(c->reader);
    c->reader = NULL;
    for (chunk *k; (k = c->inbox) != NULL; free(k)) c->inbox = k->next;
    for (unsigned i = 0; i < c->nout; i++) sr_cmd_free(c->out[i]);
    c->nout = 0;
}

static int server_named(const node *n, const char *host) {
    if (strcmp(host, "sentinel") == 0) return SENTINEL;
    if (strcmp(host, "vip") == 0) return n->view;
    return host[1] - '0'; /* m0, m1 */
}

static int io_open(void *user, const char *host, int port, bool tls, uint64_t timeout,
                   void **link) {
    node *n = (node *)user;
    int at = server_named(n, host);
    uint64_t end = w->now + timeout, took = 2 * delay(n);
    (void)port;
    (void)tls;
    if (n->dead) return ZC_E_STORE;
    bool silent = (at != SENTINEL && n->cut_until[at] > w->now) || (w->faults && chance(w->loss / 2));
    if (at != SENTINEL && w->servers[at].up && w->servers[at].hung_until > w->now + timeout)
        silent = chance(500); /* the kernel may still shake hands */
    if (timeout && (silent || took > timeout)) {
        give_way(end);
        return n->dead ? ZC_E_STORE : ZC_E_TIMEOUT;
    }
    if (timeout) nap(took);
    if (n->dead || (at != SENTINEL && !w->servers[at].up)) return ZC_E_STORE;
    conn *c = (conn *)sr_alloc(sizeof *c);
    memset(c, 0, sizeof *c);
    c->node = n;
    c->server = at;
    c->incarnation = at == SENTINEL ? 0 : w->servers[at].incarnation;
    c->broken = UINT64_MAX;
    c->reader = redisReaderCreate();
    c->next = w->conns;
    w->conns = c;
    *link = c;
    return ZC_OK;
}

static int io_append(void *user, void *link, int argc, const char **argv, const size_t *len) {
    conn *c = (conn *)link;
    (void)user;
    if (c->nout == sizeof c->out / sizeof *c->out) return ZC_E_NOMEM;
    c->out[c->nout++] = sr_cmd_new(argc, argv, len);
    return ZC_OK;
}

static void io_send(conn *c) {
    bool apart = chance(150); /* other nodes' commands may come between these */
    for (unsigned i = 0; i < c->nout; i++) {
        event e = {.kind = EV_EXEC, .conn = c, .cmd = c->out[i]};
        if (i == 0 || apart) e.at = arrival(c, &c->up);
        else e.at = c->broken == UINT64_MAX ? c->up : UINT64_MAX;
        if (e.at == UINT64_MAX) sr_cmd_free(e.cmd);
        else push(e);
    }
    c->nout = 0;
}

static int io_reply(void *user, void *link, uint64_t timeout, redisReply **reply) {
    node *n = (node *)user;
    conn *c = (conn *)link;
    uint64_t end = zc__add_sat(w->now, timeout);
    if (n->dead) return ZC_E_STORE;
    w->running->spins = 0;
    if (c->nout) io_send(c);
    for (;;) {
        void *got = NULL;
        if (c->woken && w->wakes_break) return ZC_E_STORE;
        if (c->woken) {
            c->woken = false;
            return ZC_MORE;
        }
        for (chunk *k; (k = c->inbox) != NULL && k->at <= w->now; free(k)) {
            redisReaderFeed(c->reader, k->bytes, k->len);
            c->inbox = k->next;
        }
        if (redisReaderGetReply(c->reader, &got) != REDIS_OK) {
            fail("the model's reply cannot be parsed");
            return ZC_E_CORRUPT;
        }
        *reply = (redisReply *)got;
        if (got) return ZC_OK;
        uint64_t next = end;
        if (c->inbox) next = c->inbox->at < next ? c->inbox->at : next;
        else if (c->broken <= w->now) return ZC_E_STORE;
        else if (c->broken < next) next = c->broken;
        if (end <= w->now) return ZC_E_TIMEOUT;
        c->waiter = w->running;
        give_way(next);
        c->waiter = NULL;
        if (n->dead) return ZC_E_STORE;
    }
}

static int io_wait(void *user, void *const *links, unsigned n, uint64_t timeout) {
    const node *at = (const node *)user;
    uint64_t end = zc__add_sat(w->now, timeout);
    w->running->spins = 0;
    for (unsigned i = 0; i < n; i++)
        if (((conn *)links[i])->nout) io_send((conn *)links[i]);
    for (uint64_t next = end; !at->dead; next = end) {
        for (unsigned i = 0; i < n; i++) {
            conn *c = (conn *)links[i];
            uint64_t comes = c->inbox ? c->inbox->at : c->broken;
            if (c->woken && !w->wakes_break) {
                c->woken = false;
                return ZC_E_TIMEOUT;
            }
            if (c->woken || comes <= w->now) return (int)i;
            if (comes < next) next = comes;
            c->waiter = w->running;
        }
        if (end > w->now) give_way(next);
        for (unsigned i = 0; i < n; i++) ((conn *)links[i])->waiter = NULL;
        if (end <= w->now) return ZC_E_TIMEOUT;
    }
    return ZC_E_TIMEOUT;
}

static void io_wake(void *user, void *link) {
    conn *c = (conn *)link;
    (void)user;
    c->woken = true;
    wake_for(c, w->now);
}

/* ---- the place ---- */

static item *item_of(item **list, const char *key, size_t len) {
    for (item *i = *list; i; i = i->next)
        if (i->key_len == len && memcmp(i->key, key, len) == 0) return i;
    item *i = (item *)sr_alloc(sizeof *i);
    memset(i, 0, sizeof *i);
    memcpy(i->key, key, len);
    i->key_len = len;
    i->next = *list;
    return *list = i;
}

static void item_set(item *i, const void *data, size_t len) {
    unsigned char *copy = (unsigned char *)sr_alloc(len + 1);
    memcpy(copy, data, len);
    free(i->data);
    i->data = copy;
    i->len = len;
    i->token = ++w->tokens;
}

static bool is_log(const item *i) { return i->key_len == 7 && memcmp(i->key, "sim.log", 7) == 0; }

static int item_swap(item *i, const void *data, size_t len, uint64_t token) {
    if (i->token != token) return ZC_MISS;
    if (is_log(i)) {
        if (i->token) item_set(&w->log_was, i->data, i->len);
        if (w->rolled && zc__get64((const unsigned char *)data + 8) != w->rolled) w->rolled = 0;
    }
    item_set(i, data, len);
    return ZC_OK;
}

/* A message to the place or from it; false: it is lost, or in time no more. */
static bool place_leg(const node *n, uint64_t end) {
    const server *s = &w->servers[w->master];
    uint64_t at = w->now + delay(n);
    if (w->faults && chance(w->loss)) at = chance(500) ? end : at + between(10, 400) * MS;
    if (n->cut_until[w->master] > w->now) at = chance(500) ? end : n->cut_until[w->master];
    if (s->hung_until > w->now && at < s->hung_until) at = s->hung_until + delay(n);
    if (s->slow_until > w->now) at += between(w->timeout / 4, 2 * w->timeout);
    nap((at < end ? at : end) - w->now);
    return at < end && !n->dead;
}

static int place_lost(const node *n) { return n->dead ? ZC_E_STORE : ZC_E_TIMEOUT; }

static int pl_read(void *user, zc_bytes key, zc_sink *value, zc_sink *token) {
    const node *n = (const node *)user;
    uint64_t end = w->now + w->timeout;
    if (!place_leg(n, end)) return place_lost(n);
    const item *i = item_of(&w->items, (const char *)key.ptr, key.len);
    int rc = i->token ? zc_sink_write(value, i->data, i->len) : ZC_MISS;
    if (i->token && token) rc = zc_sink_write(token, &i->token, sizeof i->token);
    return place_leg(n, end) ? rc : place_lost(n);
}
static int pl_get(void *user, zc_bytes key, zc_sink *sink) { return pl_read(user, key, sink, NULL); }

static int pl_put(void *user, zc_bytes key, zc_bytes value, uint64_t expires_ms) {
    const node *n = (const node *)user;
    uint64_t end = w->now + w->timeout;
    (void)expires_ms;
    if (!place_leg(n, end)) return place_lost(n);
    if (w->rolled) return ZC_E_STORE;
    item_set(item_of(&w->items, (const char *)key.ptr, key.len), value.ptr, value.len);
    return place_leg(n, end) ? ZC_OK : place_lost(n);
}

static int pl_del(void *user, zc_bytes key) {
    const node *n = (const node *)user;
    uint64_t end = w->now + w->timeout;
    if (!place_leg(n, end)) return place_lost(n);
    item_of(&w->items, (const char *)key.ptr, key.len)->token = 0;
    return place_leg(n, end) ? ZC_OK : place_lost(n);
}

static int pl_swap(void *user, zc_bytes key, zc_bytes value, zc_bytes token) {
    const node *n = (const node *)user;
    uint64_t end = w->now + w->timeout, was = 0;
    if (token.len) memcpy(&was, token.ptr, sizeof was);
    bool sent = place_leg(n, end);
    if (w->faults && !n->dead && chance(sent ? 20 : 500)) { /* later, perhaps once more */
        item *l = (item *)sr_alloc(sizeof *l);
        memset(l, 0, sizeof *l);
        memcpy(l->key, key.ptr, key.len);
        l->key_len = key.len;
        item_set(l, value.ptr, value.len);
        l->token = was;
        l->next = w->late;
        w->late = l;
        later(below(3 * w->t), A_LATE, 0, 0);
    }
    if (!sent) return place_lost(n);
    int rc = item_swap(item_of(&w->items, (const char *)key.ptr, key.len), value.ptr, value.len, was);
    return place_leg(n, end) ? rc : place_lost(n);
}

/* The swap that has been on its way for longest arrives. */
static void swap_late(void) {
    item **at = &w->late, *l;
    while ((*at)->next) at = &(*at)->next;
    l = *at;
    *at = NULL;
    int rc = item_swap(item_of(&w->items, l->key, l->key_len), l->data, l->len, l->token);
    trace(NULL, "a late swap: %d", rc);
    free(l->data);
    free(l);
}

static void records_are_lost(bool all) {
    for (item *i = w->items; i; i = i->next)
        if (memcmp(i->key, "sim.r.", 6) == 0 && (all || chance(300))) i->token = 0;
}

/* Only if every node has heard all of it. */
static void roll_back(void) {
    item *i = item_of(&w->items, "sim.log", 7);
    if (!i->token || !w->log_was.token || w->rolled) return;
    uint64_t gen = zc__get64(i->data + 8);
    uint64_t last = zc__get64(i->data + 24) + zc__get32(i->data + 32) - 1;
    if (zc__get64(w->log_was.data + 8) != gen) return;
    for (int k = 0; k < w->nnodes; k++) {
        const node *n = &w->nodes[k];
        if (!n->c || n->dead || n->c->bus.identity != gen || n->c->bus.cursor != last) return;
    }
    trace(NULL, "the log is rolled back");
    records_are_lost(true);
    item_set(i, w->log_was.data, w->log_was.len);
    w->rolled = gen;
    w->lost++; /* a list of holds may have come with its last swap */
}

static void place_fails(void) {
    switch (below(4)) {
    case 0:
        trace(NULL, "the log is evicted");
        item_of(&w->items, "sim.log", 7)->token = 0;
        w->rolled = 0;
        w->lost++; /* and the lists of holds with it */
        break;
    case 1: records_are_lost(chance(300)); break;
    default: roll_back(); break;
    }
}

static uint64_t draw(void) { return rnd(); }

static int place_open(node *n, zc_clock clock, zc_store *store, zc_bus *bus) {
    zc_place_desc d;
    memset(&d, 0, sizeof d);
    zc_place p = {1, pl_get, NULL, pl_put, pl_del, pl_read, pl_swap, NULL, NULL, n};
    d.place = p;
    d.prefix = "sim";
    d.clock = clock;
    return zc__place_open(&d, draw, store, bus);
}

/* ---- the truth, and what may be served ---- */

static bool tag_above(const char *tag, const char *below_it) {
    size_t n = strlen(tag);
    return strncmp(tag, below_it, n) == 0 && (below_it[n] == '\0' || below_it[n] == ':');
}

static bool covers(const char *tag, int key) {
    for (int i = 0; i < w->ndeps[key]; i++)
        if (tag_above(tag, tag_names[w->deps[key][i]])) return true;
    return false;
}

static void acknowledge(int key, uint64_t at, uint32_t floor) {
    if (w->nacks[key] == w->acks_cap[key]) {
        w->acks_cap[key] = w->acks_cap[key] * 2 + 16;
        w->acks[key] = (ack *)realloc(w->acks[key], w->acks_cap[key] * sizeof(ack));
        if (!w->acks[key]) abort();
    }
    ack a = {at, floor};
    w->acks[key][w->nacks[key]++] = a;
}

/* What was acknowledged before `at`. */
static uint32_t floor_at(int key, uint64_t at) {
    uint32_t floor = 0;
    for (size_t i = w->nacks[key]; i--;)
        if (w->acks[key][i].at < at && w->acks[key][i].floor > floor) floor = w->acks[key][i].floor;
    return floor;
}

static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static zc_bytes key_of(int key) {
    static const char names[] = "key00key01key02key03key04key05key06key07key08key09key10key11";
    return zc_slice(names + 5 * key, 5);
}

/* A value: a key and its version, then perhaps those that it was made of. */
typedef struct part {
    uint32_t key, version;
} part;

static size_t value_of(int key, uint32_t version, const part *more, size_t n, char *to) {
    part p = {(uint32_t)key, version};
    size_t size = sizeof p * (n + 1), pad = (size_t)(key * 7 + (int)version % 50);
    uint32_t count = (uint32_t)n + 1;
    memcpy(to, &count, 4);
    memcpy(to + 4, &p, sizeof p);
    if (n) memcpy(to + 4 + sizeof p, more, n * sizeof p);
    memset(to + 4 + size, 'p', pad);
    return 4 + size + pad;
}

/* Checks a value that node n has got. `since`: what was acknowledged before must be in it. */
static void check_value(const node *n, int key, const void *data, size_t size, const uint32_t *own,
                        uint64_t since, const char *how) {
    const char *p = (const char *)data;
    uint32_t count = 0;
    part x;
    if (size >= 4 + sizeof x) memcpy(&count, p, 4);
    if (count == 0 || count > KEYS || size < 4 + count * sizeof x) {
        fail("%s of key %d: no value of ours", how, key);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&x, p + 4 + i * sizeof x, sizeof x);
        if (i == 0 && x.key != (uint32_t)key) fail("%s: key %d's value for key %d", how, x.key, key);
        if (x.key >= KEYS || x.version > w->value[x.key]) {
            fail("%s of key %d: a value that never was", how, key);
            return;
        }
        trace(n, "%s key %d: %u of %u", how, x.key, x.version, w->value[x.key]);
        if (x.version < own[x.key])
            fail("%s of key %d: key %u is %u, invalidated here up to %u", how, key, x.key, x.version,
                 own[x.key]);
        uint32_t floor = floor_at((int)x.key, since);
        if (x.version < floor)
            fail("%s of key %d: key %u is %u, invalidated elsewhere in time up to %u", how, key,
                 x.key, x.version, floor);
    }
}

static uint64_t bound(void) { return w->t + (w->replicas ? w->l : 0); }

static bool is_own(const held *h, const node *n) { return h->by == n && h->lives; }

/* Is there a hold on the key that node n must have known of at `at`, and that lasts? */
static const held *held_for(const node *n, int key, uint64_t at) {
    for (held *h = w->holds; h < w->holds + HOLDS; h++) {
        bool own = is_own(h, n), lost = h->losses != w->lost + w->demoted;
        if (!h->key[key] || w->now >= h->until || (lost && !own)) continue;
        if (h->since + (own ? 0 : bound()) < at) return h;
    }
    return NULL;
}

/* ---- what nodes do ---- */

static bool alive(const node *n) { return n->c && !n->dead; }

static void expect(const node *n, const char *what, int rc, bool good) {
    if (!good && alive(n)) fail("%s: %s", what, zc_result_name(rc));
}

/* A read's outcome, and its value. `begin`: of the call. */
static void checked(node *n, int key, int rc, zc_view *v, const uint32_t *own, uint64_t begin,
                    bool at_end, zc_silence silence, const char *how) {
    if (!alive(n)) return;
    w->reads++;
    const held *h = at_end && rc == ZC_OK ? held_for(n, key, begin) : NULL;
    if (h) fail("%s of key %d, which node %c holds", how, key, 'A' + h->by->id);
    if (rc == ZC_OK || (rc == ZC_STALE && silence == ZC_SILENCE_SERVE)) {
        uint64_t since = minus(rc == ZC_OK && at_end ? w->now : begin, bound());
        if (rc == ZC_STALE) since = minus(since, n->max_stale);
        check_value(n, key, v->data, v->size, own, since, how);
        return;
    }
    trace(n, "%s key %d: %s", how, key, zc_result_name(rc));
    expect(n, how, rc, rc == ZC_MISS || (rc == ZC_E_BUS && silence == ZC_SILENCE_ERROR));
}

static void fetch(node *n, int key, zc_fill *parent, part *got);

typedef struct load {
    node *n;
    int key, rc;
} load;

static void sleep_in_loader(void) {
    if (chance(400)) return;
    nap(chance(100) ? below(2 * w->t) : between(10, 3000) * US);
}

static void invalidate(node *n);

static int loader(zc_fill *fill, void *user) {
    load *l = (load *)user;
    node *n = l->n;
    char value[512];
    part inner[2];
    size_t ninner = 0;
    n->depth++;
    w->fills++;
    for (int i = 0; i < w->ndeps[l->key]; i++)
        (void)zc_fill_dep(fill, zc_str(tag_names[w->deps[l->key][i]]));
    sleep_in_loader();
    uint32_t version = w->value[l->key];
    trace(n, "loads key %d: %u", l->key, version);
    sleep_in_loader();
    if (l->key >= PLAIN) {
        inner[0].key = KEYS;
        fetch(n, l->key - PLAIN, fill, &inner[0]);
        ninner = inner[0].key < KEYS;
    }
    if (n->depth == 1 && w->writing && w->now >= w->hush_until && chance(20)) invalidate(n);
    n->depth--;
    if (n->dead) return l->rc = ZC_E_USER;
    if (l->key >= PLAIN && !ninner) return l->rc = ZC_E_USER - 1;
    if (w->writing && chance(10)) return l->rc = ZC_E_USER - 2;
    return zc_fill_value(fill, zc_slice(value, value_of(l->key, version, inner, ninner, value)));
}

static void fetch(node *n, int key, zc_fill *parent, part *got) {
    load l = {n, key, 0};
    zc_fetch_opts o;
    zc_view v;
    uint32_t own[KEYS];
    memset(&o, 0, sizeof o);
    o.parent = parent;
    if (chance(100)) o.silence = (zc_silence)between(1, 3);
    if (parent) o.silence = ZC_SILENCE_BYPASS;
    o.fleet = chance(200);
    zc_silence silence = o.silence ? o.silence : n->silence;
    memcpy(own, n->own, sizeof own);
    uint64_t begin = w->now;
    for (int i = 0; i < FLIGHTS; i++) /* one thread cannot wait for itself */
        if (n->flights[i].fill && n->flights[i].key == key) return;
    int rc = zc_fetch(n->c, key_of(key), loader, &l, &o, &v);
    if ((l.rc && rc == l.rc) || (n->threads && rc <= ZC_E_USER)) {
        trace(n, "fetch key %d: the loader's error", key);
    } else if ((parent || n->hooks) && rc == ZC_E_DEADLOCK) {
        expect(n, "nested fetch", rc, n->hooks); /* a hook, in a loader of that key */
    } else {
        expect(n, "fetch", rc, rc != ZC_MISS);
        checked(n, key, rc, &v, own, begin, false, silence, "fetch");
        if (got && rc == ZC_OK) memcpy(got, (const char *)v.data + 4, sizeof *got);
    }
    zc_release(n->c, &v);
}

static void get(node *n, int key) {
    zc_view v;
    uint32_t own[KEYS];
    memcpy(own, n->own, sizeof own);
    uint64_t begin = w->now;
    if (chance(300)) {
        char text[512];
        size_t len;
        int rc = zc_get_copy(n->c, key_of(key), text, sizeof text, &len);
        memset(&v, 0, sizeof v);
        v.data = text;
        v.size = len;
        checked(n, key, rc, &v, own, begin, true, n->silence, "get_copy");
        return;
    }
    int rc = zc_get(n->c, key_of(key), &v);
    checked(n, key, rc, &v, own, begin, true, n->silence, "get");
    zc_release(n->c, &v);
}

static void get_many(node *n) {
    zc_bytes keys[6] = {0};
    zc_view views[6];
    int results[6], which[6];
    uint32_t own[KEYS];
    size_t count = between(2, 6);
    for (size_t i = 0; i < count; i++) keys[i] = key_of(which[i] = (int)below(KEYS));
    memcpy(own, n->own, sizeof own);
    uint64_t begin = w->now;
    int rc = zc_get_many(n->c, keys, count, views, results);
    expect(n, "get_many", rc, rc >= 0);
    for (size_t i = 0; i < count; i++) {
        checked(n, which[i], results[i], &views[i], own, begin, false, n->silence, "get_many");
        zc_release(n->c, &views[i]);
    }
}

static void put(node *n, int key) {
    zc_put_opts o;
    zc_bytes deps[3];
    char value[512];
    if (key >= PLAIN) return;
    memset(&o, 0, sizeof o);
    for (int i = 0; i < w->ndeps[key]; i++) deps[i] = zc_str(tag_names[w->deps[key][i]]);
    o.deps = deps;
    o.ndeps = (size_t)w->ndeps[key];
    o.begin = zc_begin(n->c);
    uint64_t begin = w->now;
    sleep_in_loader();
    size_t size = value_of(key, w->value[key], NULL, 0, value);
    trace(n, "puts key %d: %u", key, w->value[key]);
    sleep_in_loader();
    int rc = zc_put(n->c, key_of(key), zc_slice(value, size), &o);
    expect(n, "put", rc, rc == ZC_OK || rc == ZC_REFUSED);
    const held *h = rc == ZC_OK && alive(n) ? held_for(n, key, begin) : NULL;
    if (h && is_own(h, n)) fail("put of key %d, which is held", key); /* others may not have heard */
}

/* Acknowledges what had to be sent again, once nothing waits any more. */
static void look_at_pending(node *n) {
    if (!n->has_pending || !alive(n) || n->c->bus.unacknowledged) return;
    bool unsafe = n->unsafe != n->pending_unsafe;
    for (int k = 0; k < KEYS; k++)
        if (n->pending[k] && !unsafe) acknowledge(k, w->now, n->pending[k]);
    trace(n, "everything is sent%s", unsafe ? ", or lost with an old master" : "");
    memset(n->pending, 0, sizeof n->pending);
    n->has_pending = false;
}

/* One or two tags above keys of the source, and what they cover. */
typedef struct change {
    zc_bytes tags[2];
    size_t n; /* 0: everything */
    char text[2][16];
    bool key[KEYS];
} change;

static void choose(change *c, int key, size_t n) {
    c->n = n;
    for (size_t i = 0; i < 2; i++) {
        int of = i ? (int)below(KEYS) : key;
        snprintf(c->text[i], sizeof c->text[i], "%s",
                 tag_names[w->deps[of][below((uint64_t)w->ndeps[of])]]);
        char *colon = strrchr(c->text[i], ':');
        if (colon && chance(250)) *colon = '\0';
        c->tags[i] = zc_str(c->text[i]);
    }
    for (int k = 0; k < KEYS; k++)
        c->key[k] = n == 0 || covers(c->text[0], k) || (n == 2 && covers(c->text[1], k));
}

/* A call has told of what changed, with this result; `before`: what old masters had taken. */
static void told(node *n, int rc, const uint32_t *target, unsigned before) {
    bool taken = rc == ZC_OK && n->ack != ZC_ASYNC && (n->unsafe == before || n->ack == ZC_DURABLE);
    bool lost = rc == ZC_OK && n->ack != ZC_ASYNC && !taken; /* an old master has taken it */
    w->unacked += !taken;
    for (int k = 0; k < KEYS; k++) {
        if (target[k] > n->own[k]) n->own[k] = target[k];
        if (target[k] && taken)
            acknowledge(k, n->ack == ZC_STRICT ? minus(w->now, w->t) : w->now, target[k]);
        else if (target[k] > n->pending[k] && !lost) n->pending[k] = target[k];
    }
    if (taken || lost) return;
    if (!n->has_pending) n->pending_unsafe = before;
    n->has_pending = true;
}

/* Some keys change at the source; then a tag above one of them is invalidated. */
static void invalidate(node *n) {
    int key = (int)below(KEYS);
    bool clear = chance(15), two = !clear && chance(200);
    change c;
    uint32_t target[KEYS];
    for (int more = 0; more < 3 && (more == 0 || chance(300)); more++)
        w->value[more ? below(KEYS) : (uint64_t)key]++;
    choose(&c, key, clear ? 0 : two ? 2 : 1);
    for (int k = 0; k < KEYS; k++) target[k] = c.key[k] ? w->value[k] : 0;
    trace(n, "invalidates %s %s", clear ? "everything" : c.text[0], two ? c.text[1] : "");
    w->invalidations++;
    unsigned before = n->unsafe;
    int rc = clear ? zc_clear(n->c)
                   : two ? zc_invalidate_many(n->c, c.tags, 2) : zc_invalidate(n->c, c.tags[0]);
    if (n->dead) return;
    trace(n, "invalidated: %s", zc_result_name(rc));
    expect(n, "invalidate", rc,
           rc == ZC_OK || (rc == ZC_E_BUS && n->ack != ZC_ASYNC) || (clear && rc == ZC_E_STORE));
    told(n, rc, target, before);
}

static void crash(node *n);

/* A transaction: holds, changes the source, and tells; or it dies on the way, and the lease of what
 * it held does. A server that has lost what was announced cannot tell who attaches before the
 * commit: then there is none. */
static void transact(node *n) {
    uint64_t id, lease = between(1, 3) * w->t, began = w->now;
    unsigned before = n->unsafe, lost = w->lost, demoted = w->demoted;
    uint32_t target[KEYS] = {0};
    held *h = w->holds;
    change c;
    while (h < w->holds + HOLDS && h->until > w->now) h++;
    if (h == w->holds + HOLDS || w->now + 3 * lease > w->end) return;
    *h = (held){.until = UINT64_MAX}; /* of no key yet */
    choose(&c, (int)below(KEYS), 1 + chance(200));
    trace(n, "holds %s %s", c.text[0], c.n == 2 ? c.text[1] : "");
    int rc = zc_hold(n->c, c.tags, c.n, lease, &id);
    trace(n, "held: %s", zc_result_name(rc));
    if (!n->dead) expect(n, "hold", rc, rc == ZC_OK || rc == ZC_E_BUS);
    if (rc != ZC_OK || n->dead) {
        h->until = 0;
        return;
    }
    w->holdings++;
    uint64_t since = w->now;
    *h = (held){n, true, w->now, began + lease, lost + demoted, {false}};
    memcpy(h->key, c.key, sizeof h->key);
    if (chance(800)) nap(below(lease / 2));
    bool durable = n->ack == ZC_DURABLE;
    bool safe = w->lost == lost && (durable || (w->demoted == demoted && n->unsafe == before));
    if (!safe && h->by == n && h->since == since) h->until = 0;
    bool commits = !n->dead && w->now < began + lease && safe && chance(800);
    for (int k = 0; commits && k < KEYS; k++) {
        if (!c.key[k]) continue;
        target[k] = ++w->value[k];
        acknowledge(k, w->now, target[k]);
    }
    trace(n, commits ? "commits" : "rolls back");
    if (chance(500)) nap(below(lease / 4));
    if (w->faults && chance(300)) crash(n);
    if (n->dead) return;
    if (h->by == n && h->since == since) h->until = 0; /* it may be another's meanwhile */
    before = n->unsafe;
    rc = zc_hold_end(n->c, id);
    if (n->dead) return;
    trace(n, "has ended its hold: %s", zc_result_name(rc));
    expect(n, "hold_end", rc, rc == ZC_OK || rc == ZC_E_BUS);
    told(n, rc, target, before);
}

static void flight_end(node *n, flight *f) {
    load l = {n, f->key, 0};
    zc_view v;
    int rc;
    if (!f->leader) {
        rc = zc_flight_wait(f->fill, 0, &v);
        if (rc == ZC_PENDING) return;
        if (rc == ZC_OK)
            check_value(n, f->key, v.data, v.size, f->floor, minus(f->began, bound()), "follower");
        expect(n, "flight_wait", rc,
               rc == ZC_OK || rc == ZC_RETRY || rc <= ZC_E_USER || rc == ZC_E_LOADER);
    } else if (loader(f->fill, &l) != ZC_OK) {
        zc_flight_abandon(f->fill, l.rc);
        f->fill = NULL;
        return;
    } else {
        rc = zc_flight_commit(f->fill, &v);
        check_value(n, f->key, v.data, v.size, f->floor, minus(f->began, bound()), "leader");
        expect(n, "flight_commit", rc, rc == ZC_OK || rc == ZC_REFUSED || rc == ZC_E_LEASE);
    }
    zc_release(n->c, &v);
    f->fill = NULL;
}

/* Flights in pieces: begun at one time, ended at another. */
static void fly(node *n, int key) {
    flight *f = &n->flights[below(FLIGHTS)];
    zc_view v;
    if (f->fill) {
        flight_end(n, f);
        return;
    }
    if (key >= PLAIN) return;
    f->key = key;
    f->began = w->now;
    memcpy(f->floor, n->own, sizeof f->floor);
    int rc = zc_flight_begin(n->c, key_of(key), NULL, &v, &f->fill);
    if (rc == ZC_LEAD || rc == ZC_FOLLOW) {
        f->leader = rc == ZC_LEAD;
        trace(n, "flight of key %d: %s", key, zc_result_name(rc));
        return;
    }
    checked(n, key, rc, &v, f->floor, f->began, false, n->silence, "flight");
    zc_release(n->c, &v);
}

/* What others' tokens promise. */
static void catch_up(node *n) {
    node *other = &w->nodes[below((uint64_t)w->nnodes)];
    if (other == n || !alive(other) || other->closing || other->depth || w->replicas) return;
    uint64_t begin = w->now, token = zc_token(other->c);
    uint32_t own[KEYS];
    bool was = other->has_pending;
    for (int k = 0; k < KEYS; k++) own[k] = was ? 0 : other->own[k];
    if (was)
        for (int k = 0; k < KEYS; k++) own[k] = floor_at(k, begin);
    trace(n, "catches up with %c", 'A' + other->id);
    int rc = zc_catch_up(n->c, token, below(2 * w->t));
    trace(n, "caught up: %s", zc_result_name(rc));
    expect(n, "catch_up", rc, rc == ZC_OK || rc == ZC_E_TIMEOUT || rc == ZC_E_BUS);
    if (rc != ZC_OK || n->dead || was) return;
    for (int k = 0; k < KEYS; k++)
        if (own[k] > n->own[k]) n->own[k] = own[k];
}

static void poll_node(node *n) {
    n->last_poll = w->now;
    (void)zc_poll(n->c, 200 * ZC_MICROSECOND);
    look_at_pending(n);
}

/* As by so many invalidations of its own that the log has them as one entry. */
static void get_ahead(node *n) {
    uint64_t by = chance(500) ? between(65534, 65538) : below(UINT64_C(1) << 22);
    trace(n, "gets ahead by %" PRIu64 " versions", by);
    (void)zc__trie_stamp(&n->c->trie, NULL, 0, zc__published(&n->c->trie) + by);
}

static void step(node *n, bool first) {
    int key = (int)below(KEYS);
    uint64_t dice = below(1000);
    w->ops++;
    if (n->must && w->writing) {
        n->must--;
        invalidate(n);
    } else if (w->leads && chance(30)) {
        get_ahead(n);
    } else if (w->now - n->last_poll > w->t / 4 && chance(700)) poll_node(n);
    else if (dice < 220) get(n, key);
    else if (dice < 300) get_many(n);
    else if (dice < 560) fetch(n, key, NULL, NULL);
    else if (dice < 640 && w->writing && w->now >= w->hush_until) invalidate(n);
    else if (dice < 660 && w->writing && w->now >= w->hush_until) transact(n);
    else if (dice < 720 && first) fly(n, key);
    else if (dice < 750 && w->writing) put(n, key);
    else if (dice < 770) {
        int rc = zc_del(n->c, key_of(key));
        expect(n, "del", rc, rc == ZC_OK || rc == ZC_MISS);
    } else if (dice < 800) catch_up(n);
    else if (dice < 815) (void)zc_prune(n->c, 0);
    else if (dice < 825 && !n->threads) expect(n, "check", ZC_E_CORRUPT, zc_check(n->c) == ZC_OK);
    else poll_node(n);
}

/* ---- the life of a node ---- */

static void say(void *user, zc_log_level level, const char *message) {
    (void)level;
    trace((const node *)user, "log: %s", message);
}

/* What a site's hook may do when it is told of anything, but not of what another hook does. */
static void on_event(void *user, const zc_event *what) {
    node *n = (node *)user;
    uint64_t dice = below(w->crowds ? 10000 : 1000), began = w->now;
    (void)what;
    if (!n->c || n->hooks || n->dead || n->closing || !w->writing) return;
    n->hooks++;
    if (dice < 100) get(n, (int)below(KEYS));
    else if (dice < 150 && !w->crowds) fetch(n, (int)below(PLAIN), NULL, NULL);
    else if (dice < 170 && w->now >= w->hush_until) invalidate(n);
    n->hooks--;
    if (w->now - began > w->t / 4) n->hook_ended = w->now;
}

static void start(node *n) {
    zc_redis_desc d;
    zc_desc desc;
    memset(&d, 0, sizeof d);
    memset(&desc, 0, sizeof desc);
    zc__redis_io io = {io_open, io_append, io_reply, io_wake, io_close, nap, rnd, io_wait, n};
    zc_clock clock = {1, clock_mono, clock_wall, n};
    zc_log log = {1, say, n};
    d.url = w->sentinel ? "redis+sentinel://sentinel/zoo" : "redis://vip";
    d.prefix = "sim";
    d.timeout = w->timeout;
    d.connections = (unsigned)between(1, 3);
    d.replicas = w->replicas;
    d.log_length = w->log_length;
    d.max_tags = w->max_tags;
    d.log_shards = w->shards;
    d.clock = desc.clock = clock;
    desc.log = log;
    zc_events events = {1, w->crowds ? ZC_EVENT_INVALIDATED : 0, on_event, n};
    if (n->hooked) desc.events = events;
    desc.no_thread = !n->threads;
    desc.shards = 1;
    desc.seed = rnd() | 1;
    desc.max_entries = n->max_entries;
    desc.max_staleness = w->t;
    desc.ack = n->ack;
    desc.silence = n->silence;
    desc.max_stale = n->max_stale;
    desc.write_behind = n->write_behind && !n->bus_only;
    desc.flight_timeout = 10 * w->t;
    desc.prune_after = ZC_SECOND;
    if (chance(600)) desc.ttl = between(1, 20) * w->t;
    if (chance(300)) desc.store_ttl = between(1, 20) * w->t;
    zc_store *store = n->bus_only ? NULL : &desc.store;
    int rc = w->place ? place_open(n, clock, store, &desc.bus)
                      : zc__redis_open(&d, &io, store, &desc.bus);
    if (rc != ZC_OK) fail("zc__redis_open: %s", zc_result_name(rc));
    zc_bytes keys[2] = {zc_str("the first of the keys, 32 bytes."),
                        zc_str("and the other, as many as it has")};
    if (n->id % 2) keys[0] = keys[1], keys[1] = zc_str("the first of the keys, 32 bytes.");
    zc_seal_desc seal = {.keys = keys, .nkeys = 2};
    if (w->seals && zc_seal_open(&seal, &desc.sealer) != ZC_OK) fail("zc_seal_open");
    n->dead = false;
    memset(n->pending, 0, sizeof n->pending);
    n->has_pending = false;
    for (int k = 0; k < KEYS; k++) n->own[k] = floor_at(k, minus(w->now, w->replicas ? w->l : 0));
    trace(n, "starts");
    rc = zc_open(&desc, &n->c);
    if (rc != ZC_OK) fail("zc_open: %s", zc_result_name(rc));
    n->closing = false;
}

static void end(node *n) {
    zc_stats st;
    n->closing = true;
    while (n->busy || n->hooks) nap(100 * US);
    for (int i = 0; i < FLIGHTS; i++) {
        if (n->flights[i].fill) zc_flight_abandon(n->flights[i].fill, 0);
        n->flights[i].fill = NULL;
    }
    zc_stats_read(n->c, &st);
    if (st.flights) fail("%zu flights never end", st.flights);
    if ((st.store_forged && !w->crowds) || st.store_unkeyed) fail("what was sealed does not open");
    w->breaks += st.bus_breaks;
    w->hits += st.hits + st.hits_store;
    zc_close(n->c);
    n->c = NULL;
    trace(n, "has ended");
}

/* It is well again: it has heard everything, and told everything. */
static bool is_well(node *n) {
    zc_stats st;
    zc_stats_read(n->c, &st);
    return st.bus_pending == 0 && !n->c->bus.unacknowledged && st.bus_age <= w->t &&
           !st.store_open && !n->c->bus.nholds;
}

/* A connection of it is broken, and it does not know yet. */
static bool is_deceived(const node *n) {
    for (const conn *c = w->conns; c; c = c->next)
        if (c->node == n && !c->closed && c->broken != UINT64_MAX && c->broken > w->now) return true;
    return false;
}

/* When the faults have ended: all is well in time, and the node serves hits that are right. */
static void settle(node *n) {
    uint64_t begin = w->now, most = 8 * ZC_SECOND + 20 * w->t;
    bool well = false;
    while (n->busy || n->hooks) nap(w->t / 4);
    for (int i = 0; i < FLIGHTS; i++)
        while (n->flights[i].fill && n->flights[i].leader) flight_end(n, &n->flights[i]);
    for (int i = 0; i < FLIGHTS; i++) {
        if (n->flights[i].fill) flight_end(n, &n->flights[i]);
        if (n->flights[i].fill) fail("a follower waits for ever");
    }
    while (!well && w->now - begin < most) {
        nap(w->t / 4);
        poll_node(n);
        well = is_well(n) && !is_deceived(n);
    }
    if (!well) fail("not well again after %.1f s", (double)(w->now - begin) / 1e9);
    w->settled++;
    while (w->settled < w->nnodes) { /* until the others have told what they kept */
        nap(w->t / 4);
        poll_node(n);
    }
    for (int i = 0; i < 5; i++) {
        nap(w->t / 4);
        poll_node(n);
    }
    int missed = 0, rc = ZC_OK;
    for (int i = 0; i < 4; i++) { /* one may be missed: an entry that was long on its way */
        int key = (int)below(PLAIN);
        zc_view v;
        poll_node(n);
        fetch(n, key, NULL, NULL);
        uint64_t now = w->now;
        rc = zc_get(n->c, key_of(key), &v);
        if (w->now - now < w->t && n->last_poll + w->t > w->now) missed += rc != ZC_OK;
        zc_release(n->c, &v);
    }
    if (missed > 2) fail("no hits when all is well: %s", zc_result_name(rc));
    for (int key = 0; key < KEYS; key++) {
        get(n, key);
        if (key % 3 == 0) poll_node(n);
    }
}

static void life(node *n) {
    start(n);
    while (w->now < w->end && !w->failed) {
        if (!n->dead) {
            step(n, true);
            if (n->dead) continue;
            nap(n->idle / 2 + below(n->idle));
            if (w->faults && !w->calm && chance(5)) nap(below(3 * w->t));
            continue;
        }
        end(n); /* it has crashed: nothing of this is heard outside */
        nap(between(1, 50) * MS);
        if (chance(300)) n->wall_off = chance(500) ? HOUR : (uint64_t)0 - HOUR;
        n->mono_base = below(HOUR);
        start(n);
    }
    if (n->dead) {
        end(n);
        start(n);
    }
    if (!w->failed) {
        nap(minus(w->quiet_since, w->now));
        settle(n);
        n->closing = true;
        while (n->busy || n->hooks) nap(100 * US);
        if (!n->threads) expect(n, "check", ZC_E_CORRUPT, zc_check(n->c) == ZC_OK);
    }
    end(n);
}

static void *node_main(void *arg) {
    node *n = (node *)arg;
    nap(below(5 * MS));
    life(n);
    n->over = true;
    return NULL;
}

/* The second thread of a node. */
static void *helper_main(void *arg) {
    node *n = (node *)arg;
    while (!n->over) {
        nap(n->idle / 2 + below(n->idle));
        if (!n->c || n->closing || n->dead || w->failed || !w->writing) continue;
        n->busy++;
        step(n, false);
        n->busy--;
    }
    return NULL;
}

/* ---- faults ---- */

static void server_command(const char *a, const char *b, const char *c) {
    const char *arg[3] = {a, b, c};
    size_t len[3] = {strlen(a), b ? strlen(b) : 0, c ? strlen(c) : 0};
    server *s = &w->servers[w->master];
    sr_cmd *cmd = sr_cmd_new(c ? 3 : b ? 2 : 1, arg, len);
    sr_out o = {NULL, 0, 0};
    trace(NULL, "server %d: %s %s %s", w->master, a, b ? b : "", c ? c : "");
    sr_exec(&s->db, w->now, cmd, ZC__NO_SCRIPT, &o);
    replicate(s, cmd, ZC__NO_SCRIPT);
    sr_cmd_free(cmd);
    free(o.ptr);
}

/* kill -9; the restart comes later. How: 0 empty, 1 with what the disk has, 2 with everything. */
static void server_dies(int at, uint64_t for_ns, int how) {
    server *s = &w->servers[at];
    trace(NULL, "server %d dies for %.1f ms, comes back %s", at, (double)for_ns / 1e6,
          how == 0 ? "empty" : how == 1 ? "as the disk is" : "whole");
    s->up = false;
    s->incarnation++;
    break_conns(at, NULL);
    if (how != 2) w->lost++;
    if (how == 0) sr_empty(&s->db);
    if (how == 1) {
        follower_applies();
        sr_copy(&s->db, &w->servers[1 - at].db);
    }
    later(for_ns, A_UP, at, 0);
}

static void server_up(int at) {
    server *s = &w->servers[at];
    if (s->up) return;
    trace(NULL, "server %d is up", at);
    s->up = true;
    s->run = rnd();
    s->replid = rnd();
    memset(s->scripts, 0, sizeof s->scripts);
    if (at == w->master && w->follows) resync();
}

/* The master is cut off from its replica, and perhaps dead; the replica will be promoted. */
static void failover_begins(void) {
    server *m = &w->servers[w->master];
    if (!w->linked || !w->follows || !m->up || !w->servers[1 - w->master].up) return;
    bool dies = chance(400);
    follower_applies();
    repl_forget();
    w->linked = false;
    w->cut_at = w->now;
    trace(NULL, "server %d is cut off from its replica", w->master);
    if (dies) {
        m->up = false;
        m->incarnation++;
        break_conns(w->master, NULL);
    }
    later(below(2 * w->l), A_PROMOTE, w->master, 0);
    if (chance(700)) return;
    node *n = &w->nodes[below((uint64_t)w->nnodes)];
    n->paused_until = w->now + below(8 * w->l); /* perhaps it sleeps through all of it */
    trace(n, "is stopped for %.1f ms", (double)(n->paused_until - w->now) / 1e6);
}

/* Each node learns at its own time where the master is now. */
static void views_follow(void) {
    for (int i = 0; i < w->nnodes; i++) later(below(w->l), A_VIEW, i, w->master);
}

static void promote(int old) {
    server *m = &w->servers[old], *f = &w->servers[1 - old];
    if (w->master != old || w->linked || !w->follows) return;
    trace(NULL, "server %d is promoted", 1 - old);
    m->superseded = true;
    w->demoted++;
    w->master = 1 - old;
    f->master = true;
    f->replid = rnd();
    f->superseded = false;
    f->offset = f->applied;
    w->linked = true; /* to another replica: it may write */
    w->follows = false;
    views_follow();
    later(between(1, 4) * w->l, A_REJOIN, old, 0);
}

/* The old master becomes a replica of the new one. Perhaps it is soon promoted again. */
static void rejoin(int old) {
    server *m = &w->servers[old];
    if (w->master == old) return;
    trace(NULL, "server %d follows", old);
    m->master = m->superseded = false;
    if (!m->up) {
        m->up = true;
        m->run = rnd();
        memset(m->scripts, 0, sizeof m->scripts);
    } else if (w->kills_on_demotion) {
        break_conns(old, NULL);
    }
    resync();
    views_follow();
    if (w->faults && chance(500)) later(between(1, 60) * MS, A_FAILBACK, w->master, 0);
}

/* A planned change back: the replica has everything. */
static void failback(int from) {
    if (w->master != from || !w->linked || !w->follows || !w->servers[1 - from].up) return;
    uint64_t now = w->now;
    w->now = UINT64_MAX - 1; /* all that is on its way */
    follower_applies();
    w->now = now;
    server *m = &w->servers[from], *f = &w->servers[1 - from];
    trace(NULL, "servers %d and %d change places", from, 1 - from);
    m->master = m->superseded = false;
    f->master = true;
    f->replid = rnd();
    f->superseded = false;
    f->offset = f->applied;
    w->master = 1 - from;
    if (w->kills_on_demotion) break_conns(from, NULL);
    resync();
    views_follow();
}

static void crash(node *n) {
    if (!n->c || n->dead) return;
    trace(n, "crashes");
    n->dead = true;
    for (held *h = w->holds; h < w->holds + HOLDS; h++) h->lives &= h->by != n;
    for (conn *c = w->conns; c; c = c->next)
        if (c->node == n) {
            break_conn(c);
            wake_for(c, w->now);
        }
}

static const char *key_in_shard(char key[NAME], unsigned shard, const char *name) {
    if (shard) snprintf(key, NAME, "{sim:%u}:%s", shard, name);
    else snprintf(key, NAME, "{sim}:%s", name);
    return key;
}
/* Of any shard. */
static const char *key_of_shard(char key[NAME], const char *name) {
    return key_in_shard(key, (unsigned)below(w->shards), name);
}

/* Somebody else appends so many entries at once to the log of a shard. */
static void append_many(unsigned shard, unsigned count) {
    server *s = &w->servers[w->master];
    sr_log *l = &s->db.shards[shard];
    char key[3][NAME], gen[24], length[24];
    snprintf(gen, sizeof gen, "%" PRIu64, sr_hget(&l->tags[0], "\0g", 2, 0));
    snprintf(length, sizeof length, "%" PRIu64, w->log_length ? w->log_length : 100000);
    const char *arg[] = {"EVAL", "", "3", key_in_shard(key[0], shard, "log"),
                         key_in_shard(key[1], shard, "tags"), key_in_shard(key[2], shard, "tags2"),
                         gen, "", "0", "\4\0bulk", length, "100000", "bulk"};
    enum { ARGS = sizeof arg / sizeof arg[0] };
    size_t len[ARGS];
    trace(NULL, "%u entries at once in shard %u", count, shard);
    for (unsigned i = 0; i < count && s->up && l->has_log; i++) {
        char nonce[24];
        snprintf(nonce, sizeof nonce, "bulk.%" PRIu64, ++w->seq);
        arg[7] = nonce;
        for (int k = 0; k < ARGS; k++) len[k] = k == 9 ? 6 : strlen(arg[k]);
        sr_cmd *cmd = sr_cmd_new(ARGS, arg, len);
        sr_out o = {NULL, 0, 0};
        sr_exec(&s->db, w->now, cmd, ZC__APPEND, &o);
        replicate(s, cmd, ZC__APPEND);
        sr_cmd_free(cmd);
        free(o.ptr);
    }
    unblock(w->master);
}

/* A node's messages take long; meanwhile its threads invalidate, and hundreds of others do. Then
 * nobody does, and all must have heard everything. */
static void crowd(void) {
    node *n = &w->nodes[below((uint64_t)w->nnodes)];
    n->slow_until = w->now + w->t / 4;
    n->must = (unsigned)between(1, 3);
    later(below(w->t / 8), A_RUSH, (int)below(w->shards), (int)between(200, 900));
    later(3 * w->t, A_SILENCE, 0, 0);
    later(5 * w->t, A_CROWD, 0, 0);
}

static void nobody_is_silent(void) {
    for (int i = 0; i < w->nnodes; i++) {
        const node *n = &w->nodes[i];
        /* A hook may wait for replicas, which lag, or behind who does. */
        bool hook = n->hooks || (n->hook_ended && w->now - n->hook_ended <= w->t);
        if (!n->c || n->closing || hook) continue;
        if (n->c->bus.lease + w->t < n->mono_base + w->now)
            fail("node %c is silent, although all is well", 'A' + n->id);
    }
}

static void fault(void) {
    node *n = &w->nodes[below((uint64_t)w->nnodes)];
    server *s = &w->servers[w->master];
    char number[8], key[NAME];
    w->nfaults++;
    unsigned what = (unsigned)below(w->replicas ? 16 : 14);
    if (w->place && what > 8 && what < 13) {
        place_fails();
        return;
    }
    switch (what) {
    case 0: case 1:
        trace(n, "connections cut");
        break_conns(-1, n);
        break;
    case 2: case 3: {
        int which = (int)below(2);
        uint64_t until = w->now + below(3 * w->t);
        trace(n, "partition of %.1f ms", (double)(until - w->now) / 1e6);
        n->cut_until[w->replicas ? which : w->master] = until;
        if (w->replicas && chance(500)) n->cut_until[1 - which] = until;
        break;
    }
    case 4:
        trace(n, "is slow");
        n->slow_until = w->now + below(2 * w->t);
        break;
    case 5: case 6:
        n->paused_until = w->now + below(4 * w->t);
        trace(n, "is stopped for %.1f ms", (double)(n->paused_until - w->now) / 1e6);
        break;
    case 7: crash(n); break;
    case 8:
        if (chance(500)) {
            s->slow_until = w->now + below(3 * w->t);
            trace(NULL, "server %d is slow", w->master);
            break;
        }
        s->hung_until = w->now + below(2 * w->t);
        trace(NULL, "server %d hangs for %.1f ms", w->master, (double)(s->hung_until - w->now) / 1e6);
        break;
    case 9: case 10:
        if (!w->replicas) server_dies(w->master, below(w->t), (int)below(3));
        else if (chance(300)) server_dies(w->master, below(w->t), chance(500) ? 0 : 2);
        break;
    case 11:
        if (chance(400)) {
            server_command("FLUSHALL", NULL, NULL);
            w->lost++;
        } else {
            static const char *const names[] = {"log", "tags", "tags2", "era"};
            server_command("DEL", key_of_shard(key, names[below(4)]), NULL);
        }
        break;
    case 12:
        snprintf(number, sizeof number, "%d", (int)below(chance(400) ? 8 : 3));
        server_command(chance(400) ? "XTRIM" : "XDEL", key_of_shard(key, "log"), number);
        break;
    case 13:
        n->wall_off = chance(500) ? below(2 * HOUR) : (uint64_t)0 - below(2 * HOUR);
        trace(n, "its wall clock steps");
        memset(s->scripts, 0, sizeof s->scripts);
        break;
    default: failover_begins(); break;
    }
}

/* The faults end: everything is as it should be. */
static void heal(void) {
    trace(NULL, "the faults end");
    w->faults = false;
    w->writing = false;
    w->servers[0].slow_until = w->servers[1].slow_until = 0;
    for (int i = 0; i < w->nnodes; i++) {
        node *n = &w->nodes[i];
        n->cut_until[0] = n->cut_until[1] = n->slow_until = 0;
        if (n->paused_until > w->now) n->paused_until = w->now;
    }
    if (w->replicas && !w->linked) { /* a master whose replica was not promoted */
        promote(w->master);
        rejoin(1 - w->master);
    }
}

static void act(const event *e) {
    char key[NAME];
    switch (e->action) {
    case A_FAULT:
        if (!w->faults) break;
        fault();
        later(below(2 * w->fault_gap), A_FAULT, 0, 0);
        break;
    case A_HEAL: heal(); break;
    case A_UP: server_up(e->a); break;
    case A_PROMOTE: promote(e->a); break;
    case A_VIEW:
        if (w->servers[e->b].master && w->master == e->b) w->nodes[e->a].view = e->b;
        break;
    case A_REJOIN: rejoin(e->a); break;
    case A_DELETE: /* the next append would notice that the newest is not there */
        server_command("XDEL", key_in_shard(key, (unsigned)e->a, "log"), e->b ? "1" : "0");
        w->hush_until = w->now + 3 * w->t;
        break;
    case A_FAILBACK: failback(e->a); break;
    case A_CROWD:
        if (w->writing) crowd();
        break;
    case A_RUSH:
        append_many((unsigned)e->a, (unsigned)e->b);
        w->hush_until = w->now + 4 * w->t;
        break;
    case A_LATE: swap_late(); break;
    case A_SILENCE:
        if (w->writing) nobody_is_silent();
        break;
    }
}

/* ---- one seed ---- */

/* The logs are old already: their positions are where arithmetic might have its edges. */
static void old_logs(void) {
    static const uint64_t edges[] = {65536, UINT64_C(1) << 32, (UINT64_C(1) << 47) - 4000,
                                     (UINT64_C(1) << 47) + 8, UINT64_C(1) << 63, UINT64_MAX - 16};
    for (unsigned i = 0; i < w->shards; i++) {
        sr_log *l = &w->servers[0].db.shards[i];
        const char *const first[3] = {"old", "0", ""};
        const size_t len[3] = {3, 1, 0};
        uint64_t gen = ((rnd() >> 2 | 16) & ~UINT64_C(15)) | (w->shards - 1);
        uint64_t position = edges[below(6)] - below(8);
        sr_xadd(l, gen, position, first, len, SIZE_MAX);
        sr_hset(&l->tags[0], "\0g", 2, gen);
        sr_hset(&l->tags[0], "\0n", 2, position);
        sr_hset(&l->tags[0], "\0f", 2, position);
        sr_hset(&l->tags[0], "\0s", 2, position);
    }
    resync();
}

static void profile(void) {
    static const uint64_t ts[] = {40, 100, 200};
    w->nnodes = (int)between(2, NODES);
    w->replicas = chance(300);
    w->sentinel = w->replicas && chance(400);
    w->kills_on_demotion = w->sentinel || chance(200);
    w->fsync_always = !w->replicas && chance(200);
    w->crowds = chance(60);
    w->leads = chance(200);
    w->seals = w->seed % 8 == 5;
    w->place = w->seed % 8 == 3 && !w->crowds;
    if (w->place) w->replicas = w->sentinel = false;
    w->calm = w->crowds || chance(80);
    w->vandal = chance(250);
    w->wakes_break = chance(200);
    w->t = ts[below(3)] * MS;
    w->l = between(20, 150) * MS;
    w->timeout = chance(700) ? w->t / 2 : 250 * MS;
    w->lag = chance(500) ? 5 * MS : between(5, 300) * MS;
    w->loss = w->calm ? 0 : (unsigned)below(20);
    w->fault_gap = between(w->t / 8, 3 * w->t);
    w->log_length = !w->crowds && chance(300) ? between(2, 20) : 0;
    w->max_tags = chance(300) ? between(2, 16) : 0;
    w->shards = chance(500) ? 1 : (unsigned)between(2, SR_SHARDS);
    if (w->place) w->shards = 1;
    w->end = between(6, 14) * w->t;
    w->quiet_since = w->end + 5 * w->l;
    w->faults = !w->calm;
    w->writing = true;
    for (int k = 0; k < KEYS; k++) {
        w->ndeps[k] = (int)between(1, 3);
        for (int i = 0; i < w->ndeps[k]; i++) w->deps[k][i] = (int)below(TAGS);
        w->value[k] = 1;
    }
    for (int i = 0; i < 2; i++) {
        w->servers[i].up = true;
        w->servers[i].run = rnd();
        w->servers[i].replid = rnd();
    }
    w->servers[0].master = true;
    w->linked = w->follows = true;
    w->repl_tail = &w->repl;
    if (chance(150)) old_logs();
}

static void node_begins(node *n, int id) {
    static const zc_ack acks[] = {ZC_ACKED, ZC_ACKED, ZC_ACKED, ZC_ASYNC, ZC_DURABLE, ZC_STRICT};
    n->id = id;
    n->mono_base = below(HOUR) + 1;
    n->wall_off = chance(300) ? HOUR : chance(300) ? (uint64_t)0 - HOUR : below(10 * ZC_SECOND);
    n->ack = acks[below(6)];
    n->silence = (zc_silence)below(4);
    n->max_stale = chance(500) ? w->t : 0;
    n->bus_only = chance(80);
    n->write_behind = chance(200);
    n->max_entries = chance(500) ? 4 : chance(500) ? 8 : 0;
    n->idle = between(w->t / 100, w->t / 12);
    n->threads = w->crowds || chance(500);
    n->hooked = chance(200);
    fiber_new(n, node_main, n);
    if (n->threads) fiber_new(n, helper_main, n);
}

/* Runs whatever comes next, until every node has ended. */
static void run(void) {
    for (;;) {
        fiber *next = NULL;
        for (int i = 0; i < w->nfibers; i++) {
            fiber *f = &w->fibers[i];
            if (!f->finished && (!next || f->wake < next->wake)) next = f;
        }
        if (!next) return;
        if (w->nheap && w->heap[0].at <= next->wake) {
            event e = pop();
            if (e.at > w->now) w->now = e.at;
            if (e.kind == EV_EXEC) arrive(e);
            else act(&e);
        } else {
            if (next->wake > w->now) w->now = next->wake;
            w->running = next;
            resume(next);
            w->running = NULL;
        }
    }
}

static void clean_up(void) {
    while (w->nheap) {
        event e = pop();
        sr_cmd_free(e.cmd);
    }
    free(w->heap);
    for (conn *c; (c = w->conns) != NULL; free(c)) {
        w->conns = c->next;
        for (unsigned i = 0; i < c->nqueued; i++) sr_cmd_free(c->queued[i]);
        for (size_t i = 0; i < c->nbehind; i++) sr_cmd_free(c->behind[i].cmd);
        free(c->behind);
    }
    for (item *i; (i = w->items ? w->items : w->late) != NULL; free(i)) {
        if (i == w->items) w->items = i->next;
        else w->late = i->next;
        free(i->data);
    }
    free(w->log_was.data);
    repl_forget();
    for (int i = 0; i < 2; i++) sr_empty(&w->servers[i].db);
    for (int k = 0; k < KEYS; k++) free(w->acks[k]);
}

static bool simulate(uint64_t seed, bool verbose, totals *t, uint64_t *digest) {
    static world the_world;
    memset(&the_world, 0, sizeof the_world);
    w = &the_world;
    w->seed = seed;
    w->random = seed * UINT64_C(0xd1342543de82ef95);
    w->verbose = verbose;
    profile();
    for (int i = 0; i < w->nnodes; i++) node_begins(&w->nodes[i], i);
    trace(NULL, "%d nodes, T %.0f ms, %u shards, %s", w->nnodes, (double)w->t / 1e6, w->shards,
          w->replicas ? "replicas" : "one server");
    later(w->fault_gap, A_FAULT, 0, 0);
    later(w->end - w->t, A_HEAL, 0, 0);
    if (w->crowds) later(w->t / 2, A_CROWD, 0, 0);
    run();
    clean_up();
    *digest = w->digest;
    t->seeds++;
    t->ops += w->ops;
    t->reads += w->reads;
    t->hits += w->hits;
    t->fills += w->fills;
    t->invalidations += w->invalidations;
    t->holdings += w->holdings;
    t->unacked += w->unacked;
    t->faults += w->nfaults;
    t->breaks += w->breaks;
    t->simulated += w->now;
    return !w->failed;
}

/* ---- many seeds ---- */

/* Every jobs-th seed. Now and then one twice: it must take the same course. */
static void worker(uint64_t first, uint64_t seeds, uint64_t job, uint64_t jobs, totals *t) {
    uint64_t digest, again;
    for (uint64_t i = job; i < seeds && !t->failed; i += jobs) {
        t->current = first + i;
        bool good = simulate(first + i, false, t, &digest);
        if (good && i % 256 == job) {
            totals none = {0};
            good = simulate(first + i, false, &none, &again);
            if (again != digest) printf("seed %" PRIu64 " does not repeat itself\n", first + i);
            good = good && again == digest;
        }
        if (!good) t->failed = first + i + 1;
    }
    t->current = UINT64_MAX;
}

static int many(uint64_t first, uint64_t seeds, uint64_t jobs) {
    totals *all = (totals *)mmap(NULL, jobs * sizeof *all, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0), sum = {0};
    uint64_t failed = 0;
    int status;
    if (all == MAP_FAILED) return 1;
    for (uint64_t j = 0; j < jobs; j++) {
        pid_t pid = fork();
        if (pid == 0) {
            worker(first, seeds, j, jobs, &all[j]);
            fflush(stdout);
            _exit(0);
        }
    }
    while (wait(&status) > 0) continue;
    for (uint64_t j = 0; j < jobs; j++) {
        const totals *t = &all[j];
        uint64_t bad = t->failed ? t->failed - 1 : t->current;
        if (bad != UINT64_MAX) {
            failed++;
            printf("failed: x_simulate --seed %" PRIu64 " --verbose\n", bad);
        }
        sum.seeds += t->seeds;
        sum.ops += t->ops;
        sum.reads += t->reads;
        sum.hits += t->hits;
        sum.fills += t->fills;
        sum.invalidations += t->invalidations;
        sum.holdings += t->holdings;
        sum.unacked += t->unacked;
        sum.faults += t->faults;
        sum.breaks += t->breaks;
        sum.simulated += t->simulated;
    }
    printf("%" PRIu64 " steps in %.0f simulated s: %" PRIu64 " reads, %" PRIu64 " hits, %" PRIu64
           " loads, %" PRIu64 " invalidations (%" PRIu64 " not at once), %" PRIu64 " holds, %" PRIu64
           " faults, %" PRIu64 " breaks\n",
           sum.ops, (double)sum.simulated / 1e9, sum.reads, sum.hits, sum.fills,
           sum.invalidations, sum.unacked, sum.holdings, sum.faults, sum.breaks);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", sum.seeds - failed, failed);
    return failed != 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, seeds = 200, jobs = 1, digest;
    bool one = false, verbose = false;
    totals t = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) verbose = true;
        else if (i + 1 == argc) return 2;
        else if (strcmp(argv[i], "--seeds") == 0) seeds = sr_num(argv[++i]);
        else if (strcmp(argv[i], "--first") == 0) first = sr_num(argv[++i]);
        else if (strcmp(argv[i], "--jobs") == 0) jobs = sr_num(argv[++i]);
        else if (strcmp(argv[i], "--seed") == 0) one = true, first = sr_num(argv[++i]);
        else return 2;
    }
    if (!one) return many(first, seeds, jobs ? jobs : 1);
    bool good = simulate(first, verbose, &t, &digest);
    printf("seed %" PRIu64 ": %s\n", first, good ? "passed" : "failed");
    return !good;
}
