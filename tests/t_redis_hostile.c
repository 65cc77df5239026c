/* Redis that lies, stalls, and cuts in the middle of a reply: every call returns, with a failure or
 * with what is true, and nothing is leaked. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "hostile_server.h"

typedef struct scene {
    const char *reply; /* what every command but a handshake gets; or the next ones, below */
    const char *next[32]; /* again and again */
    hs_next how, handshake;
    size_t cut;       /* not 0: only so many bytes of it */
    uint64_t timeout; /* 0: a long one, for what must not depend on the machine's load */
    uint32_t asked;   /* commands, handshakes aside */
    uint32_t greeted;
} scene;

static hs_next act(void *user, int argc, const char *const *argv, hs_out *out) {
    scene *s = (scene *)user;
    if (hs_handshake(argc, argv, out)) {
        __atomic_add_fetch(&s->greeted, 1, __ATOMIC_RELAXED);
        return s->handshake;
    }
    uint32_t n = __atomic_fetch_add(&s->asked, 1, __ATOMIC_RELAXED), lines = 1;
    while (lines < 32 && s->next[lines]) lines++;
    const char *text = s->reply ? s->reply : s->next[n % lines];
    size_t len = strlen(text ? text : "");
    hs_say_bytes(out, text ? text : "", s->cut && s->cut < len ? s->cut : len);
    return s->how;
}

#define BRIEF (15 * ZC_MILLISECOND) /* for what ends by it */

typedef struct stage {
    scene scene;
    hostile_server server;
    zct_mem mem;
    zc_store st;
    zc_bus bus;
    uint64_t heard;
} stage;

static bool begin(stage *g, scene s) {
    char url[64];
    memset(g, 0, sizeof *g);
    g->scene = s;
    if (!hs_start(&g->server, act, &g->scene)) return false;
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", g->server.port);
    zc_redis_desc d = {.url = url, .timeout = s.timeout ? s.timeout : 20 * ZC_SECOND};
    d.allocator = zct_allocator(&g->mem);
    return CHECK_EQ(zc_redis_open(&d, &g->st, &g->bus), ZC_OK);
}
static void end(stage *g) {
    g->st.close(g->st.user);
    g->bus.close(g->bus.user);
    CHECK_EQ(g->mem.blocks, 0);
    hs_stop(&g->server);
}

static int hear(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    stage *g = (stage *)user;
    (void)position;
    for (size_t i = 0; i < n; i++) CHECK_EQ(zc_tag_check(tags[i]), ZC_OK);
    g->heard++;
    return ZC_OK;
}

/* As if attached to gen 7 at position 3. */
static void attached(stage *g) {
    zc__redis *r = (zc__redis *)g->bus.user;
    r->attached.gen = 7;
    r->attached.run = XXH3_64bits("0123456789", 10) | 1;
    zc__redis_entry e = {7, 3, XXH3_64bits("me.3", 4), {NULL, 0}};
    zc__redis_log log = r->attached;
    zc__redis_remember(r, log, &e);
    zc__atomic_store_rel(&r->era, 0x1111111111111111);
    r->down_until = 0;
    r->fails = 0;
}

enum {
    GET,
    MANY,
    PUT,
    DEL,
    TOUCH,
    CLEAR,
    LOCK,
    RENEW,
    UNLOCK,
    ATTACH,
    READ,
    WAIT,
    APPEND,
    DURABLE,
    VERSIONS,
    BEAT,
    CALLS
};

static int call(stage *g, int which) {
    zc_bytes keys[2] = {zc_str("k"), zc_str("l")};
    zc_allocator all = zct_allocator(&g->mem);
    zc__mem mem = {.hook = {1, all.alloc, all.free, all.user}};
    zc_sink sinks[2] = {{&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL},
                        {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL}};
    zc_sink *at[2] = {&sinks[0], &sinks[1]};
    zc_bus_sink ear = {hear, g};
    uint64_t a = 0, b = 0, positions[2];
    int results[2] = {0, 0}, rc = ZC_OK;
    zc_store *st = &g->st;
    zc_bus *bus = &g->bus;
    if (which == RENEW) a = 77;
    switch (which) {
    case GET: rc = st->get(st->user, keys[0], at[0]); break;
    case MANY: rc = st->get_many(st->user, keys, 2, at, results); break;
    case PUT: rc = st->put(st->user, keys[0], zc_str("v"), 0); break;
    case DEL: rc = st->del(st->user, keys[0]); break;
    case TOUCH: rc = st->touch(st->user, keys[0], 0); break;
    case CLEAR: rc = st->clear(st->user); break;
    case LOCK:
    case RENEW: rc = st->lock(st->user, keys[0], ZC_SECOND, &a); break;
    case UNLOCK: rc = st->unlock(st->user, keys[0], 77); break;
    case ATTACH: rc = bus->attach(bus->user, &a, &b); break;
    case READ: rc = bus->read(bus->user, 3, 0, &ear); break;
    case WAIT: rc = bus->read(bus->user, 3, 5 * ZC_MILLISECOND, &ear); break;
    case APPEND: rc = bus->append(bus->user, keys, 2, false, 3, &ear); break;
    case DURABLE: rc = bus->append(bus->user, keys, 2, true, 3, &ear); break;
    case VERSIONS: rc = bus->versions(bus->user, keys, 2, positions); break;
    default: rc = bus->beat(bus->user, zc_str("text")); break;
    }
    for (int i = 0; i < 2; i++) zc__buf_free(&mem, &sinks[i].buf);
    return rc;
}

/* Replies that are no good for anything but, by chance, a command that ignores its own. */
#define ENTRY 0 /* what a script says that attaches */
static const char *const lies[] = {
    "*2\r\n$3\r\n7-3\r\n*2\r\n$1\r\nn\r\n$4\r\nme.4\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "*0\r\n",
    ":0\r\n",
    ":1\r\n",
    "+OK\r\n",
    "+QUEUED\r\n",
    "$0\r\n\r\n",
    "-ERR no\r\n",
    "-WRONGTYPE no\r\n",
    "-LOADING wait\r\n",
    "-READONLY no\r\n",
    "-NOAUTH who\r\n",
    "-MISCONF disk\r\n",
    "-NOREPLICAS no\r\n",
    "-OOM command not allowed\r\n",
    "-MOVED\r\n",
    "-MOVED 1\r\n",
    "-MOVED 1 nowhere\r\n",
    "-MOVED 1 :0\r\n",
    "-MOVED 1 127.0.0.1:1\r\n",
    "-ASK 1 127.0.0.1:1\r\n",
    "-ERR Error running script (call to f_0): @user_script:1: -READONLY no\r\n",
    "-ERR Error running script\r\n",
    "-NOSCRIPT no\r\n",
    "- \r\n",
    "-\r\n",
    "*1\r\n$-1\r\n",
    "*1\r\n*1\r\n*1\r\n*0\r\n",
    "*2\r\n$1\r\nx\r\n*0\r\n",
    "*2\r\n$-1\r\n$-1\r\n",
    "*2\r\n$16\r\n1111111111111111\r\n*1\r\n$1\r\nx\r\n",
    "*1\r\n*2\r\n$3\r\n7-3\r\n*2\r\n$1\r\nn\r\n$4\r\nme.4\r\n",
    "*1\r\n*2\r\n$3\r\n7-3\r\n*-1\r\n",
    "*1\r\n*2\r\n:7\r\n:3\r\n",
    "*1\r\n*2\r\n$41\r\n99999999999999999999-99999999999999999999\r\n*0\r\n",
    "*1\r\n*2\r\n$1\r\n-\r\n*0\r\n",
    "*1\r\n*2\r\n$3\r\n7-3\r\n*3\r\n$1\r\nn\r\n:5\r\n$1\r\nt\r\n",
    "*2\r\n*3\r\n$1\r\n7\r\n$1\r\n0\r\n$1\r\n0\r\n*3\r\n$-1\r\n$-1\r\n$-1\r\n",
    "*2\r\n*4\r\n$1\r\n7\r\n$1\r\n0\r\n$1\r\n0\r\n$1\r\nx\r\n*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
    "*2\r\n*5\r\n$1\r\n7\r\n:0\r\n:0\r\n:1\r\n:1\r\n*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
    /* Of RESP3. */
    "_\r\n",
    "#t\r\n",
    ",1.5\r\n",
    "(99999999999999999999\r\n",
    "=7\r\ntxt:7-3\r\n",
    "!6\r\nERR no\r\n",
    "~1\r\n:1\r\n",
    "%0\r\n",
    "%1\r\n$3\r\nlog\r\n_\r\n",
    "%1\r\n$3\r\nlog\r\n*0\r\n",
    "%2\r\n$3\r\nlog\r\n*0\r\n$3\r\nlog\r\n*0\r\n",
    "%1\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n",
    ">1\r\n+pushed\r\n",
    ">0\r\n",
    "$9999999999999\r\nx",
    "*99999\r\n",
    "?what\r\n",
    "\r\n",
    "",
    "$5\r\nab",
    "*3\r\n$1\r\n",
    ":12",
};

TEST(lies_are_failures) {
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        stage g;
        scene s = {.reply = lies[i], .timeout = BRIEF};
        REQUIRE(begin(&g, s));
        for (int which = 0; which < CALLS; which++) {
            attached(&g);
            int rc = call(&g, which);
            bool proves = which >= ATTACH && which != BEAT;
            if (which == ATTACH && i == ENTRY) continue; /* what an honest server might say */
            if (!CHECK(!proves || (rc != ZC_OK && rc != ZC_MORE)))
                printf("    call %d, lie %zu: %d\n", which, i, rc);
            if (!CHECK(which != GET || rc != ZC_OK)) printf("    lie %zu\n", i);
        }
        CHECK_EQ(g.heard, 0);
        end(&g);
    }
}

/* What an honest server says to READ: that there is news, or not; the newest position; the log from
 * the cursor on. */
#define POSITION(p) "$1\r\n" p "\r\n"
#define NEWEST(p) "*1\r\n" POSITION(p)
#define LOGGED(id, nonce)                                                                          \
    "*2\r\n$3\r\n" id "\r\n*4\r\n$1\r\nn\r\n$4\r\n" nonce "\r\n$1\r\nt\r\n$0\r\n\r\n"
#define CURSOR "*1\r\n" LOGGED("7-3", "me.3")
#define RANGE(id) "*2\r\n" LOGGED("7-3", "me.3") LOGGED(id, "me.4")
#define STREAM "$3\r\nlog\r\n*1\r\n" LOGGED("7-4", "me.4")
#define NEWS "*1\r\n*2\r\n" STREAM
#define NONE "*-1\r\n"

TEST(the_truth_is_taken) {
    stage g;
    scene s = {.next = {NONE, NEWEST("3"), CURSOR,        /* nothing new */
                        NEWS, NEWEST("4"), RANGE("7-4"),  /* an entry */
                        NEWS, NEWEST("5"), RANGE("7-5"),  /* after a gap */
                        NEWS, NEWEST("4"), RANGE("8-4"),  /* of another log */
                        NONE, NEWEST("4"), CURSOR,        /* gone */
                        NEWS, NEWEST("5"), RANGE("7-4"),  /* gone, but for the one before it */
                        NONE, "*1\r\n$-1\r\n", CURSOR,    /* nobody knows the newest */
                        NONE, NEWEST("3"), RANGE("7-4")}}; /* appended after that was asked */
    REQUIRE(begin(&g, s));
    attached(&g);
    CHECK_EQ(call(&g, READ), ZC_OK);
    CHECK_EQ(g.heard, 0);
    CHECK_EQ(call(&g, READ), ZC_OK);
    CHECK_EQ(g.heard, 1);
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* a gap */
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* another log */
    CHECK_EQ(g.heard, 1);
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* the newest entry is not there any more */
    CHECK_EQ(g.heard, 1);
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* the one before it is */
    CHECK_EQ(g.heard, 2);
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* nobody knows the newest */
    CHECK_EQ(call(&g, READ), ZC_OK);    /* appended after the newest had been asked for */
    CHECK_EQ(g.heard, 3);
    end(&g);
}

/* What an honest server says to APPEND: the entry's position, and the log from the cursor on. */
#define BOTH RANGE("7-4")

TEST(what_is_appended_must_come_back) {
    stage g;
    scene s = {.next = {POSITION("4"), BOTH, POSITION("4"), CURSOR, POSITION("5"), BOTH,
                        POSITION("x"), BOTH}};
    REQUIRE(begin(&g, s));
    attached(&g);
    CHECK_EQ(call(&g, APPEND), ZC_OK);
    CHECK_EQ(g.heard, 1);
    CHECK_EQ(call(&g, APPEND), ZC_RETRY); /* somebody has deleted it */
    CHECK_EQ(call(&g, APPEND), ZC_RETRY);
    CHECK_EQ(call(&g, APPEND), ZC_E_BUS);
    end(&g);
}

#if HIREDIS_MAJOR >= 1
#define MAP "%1\r\n" STREAM
#define PUSH ">2\r\n+message\r\n$2\r\nhi\r\n"

TEST(resp3_is_the_same_truth) {
    stage g;
    scene s = {.next = {"_\r\n", NEWEST("3"), CURSOR, PUSH MAP, NEWEST("4"), PUSH PUSH RANGE("7-4"),
                        MAP, NEWEST("5"), RANGE("7-5"), MAP, PUSH NEWEST("4"),
                        PUSH RANGE("7-4") PUSH}};
    REQUIRE(begin(&g, s));
    attached(&g);
    CHECK_EQ(call(&g, READ), ZC_OK);
    CHECK_EQ(g.heard, 0);
    CHECK_EQ(call(&g, READ), ZC_OK);
    CHECK_EQ(g.heard, 1);
    CHECK_EQ(call(&g, READ), ZC_RETRY); /* a gap */
    CHECK_EQ(call(&g, READ), ZC_OK);
    CHECK_EQ(g.heard, 2);
    CHECK_EQ(call(&g, READ), ZC_OK); /* the first again */
    end(&g);
}
#endif

/* What a command in a script has met, as Redis 6 says it. */
#define OF_6(error)                                                                                \
    "-ERR Error running script (call to f_0123): @user_script:1: @user_script: 1: -" error "\r\n"

TEST(an_old_servers_scripts_meet_the_same) {
    static const struct {
        const char *said;
        int which, rc;
        bool drops;
    } cases[] = {
        {"-OOM command not allowed\r\n", APPEND, ZC_E_FULL, false},
        {OF_6("OOM command not allowed"), APPEND, ZC_E_FULL, false},
        {OF_6("OOM command not allowed"), RENEW, ZC_E_FULL, false},
        {"-READONLY You can't write\r\n", APPEND, ZC_E_BUS, true},
        {OF_6("READONLY You can't write"), APPEND, ZC_E_BUS, true},
        {OF_6("READONLY You can't write"), RENEW, ZC_E_STORE, true},
        {"-NOREPLICAS Not enough good replicas to write.\r\n", PUT, ZC_E_STORE, true},
        {OF_6("NOREPLICAS Not enough good replicas"), APPEND, ZC_E_BUS, true},
        {OF_6("WRONGTYPE Operation against a key"), APPEND, ZC_RETRY, false},
        {"-ERR wrong, and what OOM there is\r\n", APPEND, ZC_E_BUS, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        stage g;
        scene s = {.reply = cases[i].said};
        REQUIRE(begin(&g, s));
        attached(&g);
        bool good = CHECK_EQ(call(&g, cases[i].which), cases[i].rc);
        bool linked = false;
        zc__redis *r = (zc__redis *)g.st.user;
        for (unsigned k = 0; k < r->nconns; k++) linked = linked || r->conns[k].link;
        if (!CHECK_EQ(linked, !cases[i].drops) || !good) printf("    case %zu\n", i);
        end(&g);
    }
}

TEST(tls_needs_a_build_with_it) {
    zc_redis_desc d = {.url = "rediss://h"};
    zc_store st;
    CHECK_EQ(zc_redis_open(&d, &st, NULL), ZC_E_BUILD);
}

/* Cut or stalled after every byte of a good reply. */
static void broken(hs_next how, const char *reply, int which, size_t step) {
    for (size_t cut = 1; cut < strlen(reply); cut += step) {
        stage g;
        scene s = {.reply = reply, .how = how, .cut = cut};
        if (how == HS_STALL) s.timeout = BRIEF;
        REQUIRE(begin(&g, s));
        attached(&g);
        int rc = call(&g, which);
        CHECK(rc == (how == HS_STALL ? ZC_E_TIMEOUT : which >= ATTACH ? ZC_E_BUS : ZC_E_STORE));
        if (how == HS_CUT) CHECK_EQ(g.scene.asked, 2); /* once more, not for ever */
        end(&g);
    }
}
#define HIT "*2\r\n$16\r\n1111111111111111\r\n$5\r\nvalue\r\n"

TEST(cut_in_the_middle) {
    broken(HS_CUT, HIT, GET, 1);
    broken(HS_CUT, CURSOR, READ, 3);
}
TEST(stalled_in_the_middle) {
    broken(HS_STALL, HIT, GET, 9);
    broken(HS_STALL, CURSOR, READ, 13);
}

TEST(a_good_hit) {
    stage g;
    scene s = {.reply = HIT};
    REQUIRE(begin(&g, s));
    attached(&g);
    CHECK_EQ(call(&g, GET), ZC_OK);
    end(&g);
}

TEST(cut_or_stalled_while_greeting) {
    for (hs_next how = HS_CUT; how <= HS_STALL; how = (hs_next)(how + 1)) {
        stage g;
        scene s = {.reply = HIT, .handshake = how};
        if (how == HS_STALL) s.timeout = BRIEF;
        REQUIRE(begin(&g, s));
        attached(&g);
        CHECK_EQ(call(&g, GET), how == HS_STALL ? ZC_E_TIMEOUT : ZC_E_STORE);
        zc__redis *r = (zc__redis *)g.st.user;
        CHECK(r->down_until > 0 && r->fails > 0);
        r->down_until = UINT64_MAX;
        uint32_t greeted = __atomic_load_n(&g.scene.greeted, __ATOMIC_RELAXED);
        CHECK_EQ(call(&g, GET), ZC_E_STORE); /* it is not asked before that */
        CHECK_EQ(__atomic_load_n(&g.scene.greeted, __ATOMIC_RELAXED), greeted);
        CHECK_EQ(g.scene.asked, 0);
        end(&g);
    }
}

/* A byte now and then: each arrives in time, the reply does not. */
static hs_next trickle(void *user, int argc, const char *const *argv, hs_out *out) {
    (void)user;
    if (!hs_handshake(argc, argv, out)) hs_say(out, "$");
    return HS_GO_ON;
}
typedef struct dripping {
    hostile_server *h;
    uint32_t stop;
} dripping;
static void *drip(void *user) {
    dripping *d = (dripping *)user;
    while (!__atomic_load_n(&d->stop, __ATOMIC_ACQUIRE)) {
        int fd = __atomic_load_n(&d->h->clients[0].fd, __ATOMIC_ACQUIRE);
        if (fd >= 0) (void)send(fd, "1", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        usleep(5000);
    }
    return NULL;
}

TEST(a_trickle_ends_at_the_deadline) {
    stage g;
    scene s = {.reply = "", .timeout = 300 * ZC_MILLISECOND};
    pthread_t t;
    REQUIRE(begin(&g, s));
    g.server.step = trickle;
    attached(&g);
    /* Connect first; the handshake must not be mixed with the drops. */
    zc__redis *r = (zc__redis *)g.st.user;
    zc__redis_conn *c = &r->conns[zc__redis_affinity() % r->nconns];
    CHECK_EQ(zc__redis_connect(r, c, ZC_NEVER, zc__redis_now(r) + 20 * ZC_SECOND), ZC_OK);
    dripping d = {&g.server, 0};
    pthread_create(&t, NULL, drip, &d);
    int rc = call(&g, GET);
    CHECK(rc == ZC_E_TIMEOUT || rc == ZC_E_CORRUPT); /* too many digits also end it */
    __atomic_store_n(&d.stop, 1, __ATOMIC_RELEASE);
    pthread_join(t, NULL);
    end(&g);
}

/* Sent hither and thither: it ends. */
static hs_next always_moved(void *user, int argc, const char *const *argv, hs_out *out) {
    const stage *g = (const stage *)user;
    char text[64];
    snprintf(text, sizeof text, "-MOVED 5 127.0.0.1:%d\r\n", g->server.port);
    if (!hs_handshake(argc, argv, out)) hs_say(out, text);
    return HS_GO_ON;
}

TEST(moved_for_ever) {
    stage g;
    scene s = {.reply = ""};
    REQUIRE(begin(&g, s));
    g.server.step = always_moved;
    g.server.user = &g;
    for (int which = 0; which < CALLS; which++) {
        attached(&g);
        int rc = call(&g, which);
        if (!CHECK(rc < 0 || rc == ZC_RETRY)) printf("    call %d: %d\n", which, rc);
    }
    end(&g);
}
