/* Walks over keys and tags: what is there from the first step to the last comes once, whatever is
 * written between the steps; and zc_contains(). */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#define ZOOCACHE_WITH_WALK
#include "zoocache.h"
#include "zc_test.h"

#include <limits.h>
#include <pthread.h>

enum { THERE = 500, OTHERS = 20000 };

static zct_mem mem;
static zct_time now;

typedef struct walk {
    zc_cache *c;
    unsigned times[THERE + OTHERS]; /* that each number has come */
    unsigned calls;
    bool writes; /* between two of them, and within */
    bool done;   /* atomic */
    uint64_t next;
} walk;

static zc_cache *open_with(zc_desc d) {
    zc_cache *c;
    memset(&mem, 0, sizeof mem);
    now.mono = now.wall = 1000 * ZC_SECOND;
    d.no_thread = true;
    d.seed = 5;
    d.clock = zct_clock(&now);
    d.allocator = zct_allocator(&mem);
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    return c;
}

static void close_sound(zc_cache *c) {
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

static int put(zc_cache *c, unsigned i) {
    char text[16];
    snprintf(text, sizeof text, "g:%u", i);
    zc_bytes dep = zc_str(text);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    return zc_put(c, zc_slice(&i, sizeof i), zc_slice(&i, sizeof i), &o);
}

/* Others come and go, so that tables and chains grow and shrink. */
static void disturb(walk *w) {
    bool grows = w->next / OTHERS % 2 == 0;
    for (unsigned i = 0; i < 40; i++, w->next++) {
        unsigned k = THERE + (unsigned)(w->next % OTHERS);
        if (grows) CHECK_EQ(put(w->c, k), ZC_OK);
        else CHECK(zc_del(w->c, zc_slice(&k, sizeof k)) >= 0);
    }
    if (w->next % 400 == 0) (void)zc_poll(w->c, 0); /* tables stay half moved for a while */
}

static void on_key(void *user, zc_bytes key, zc_bytes value) {
    walk *w = (walk *)user;
    unsigned i;
    REQUIRE(key.len == sizeof i && value.len == sizeof i);
    CHECK(memcmp(key.ptr, value.ptr, sizeof i) == 0);
    memcpy(&i, key.ptr, sizeof i);
    w->times[i]++;
    w->calls++;
    if (w->writes && i >= THERE) CHECK(zc_del(w->c, key) >= 0); /* the cache may be used */
    if (w->writes) disturb(w);
}

static void on_tag(void *user, zc_bytes tag) {
    walk *w = (walk *)user;
    char text[16] = "";
    REQUIRE(tag.len < sizeof text);
    memcpy(text, tag.ptr, tag.len);
    w->calls++;
    if (strcmp(text, "g") == 0) return;
    unsigned i = (unsigned)strtoul(text + 2, NULL, 10);
    REQUIRE(text[0] == 'g' && text[1] == ':' && i < THERE + OTHERS);
    w->times[i]++;
    if (w->writes) disturb(w);
}

static void walk_all(walk *w, bool tags, size_t n) {
    uint64_t cursor = 0;
    unsigned steps = 0;
    int rc;
    do {
        unsigned before = w->calls;
        rc = tags ? zc_tags(w->c, &cursor, n, on_tag, w) : zc_keys(w->c, &cursor, n, on_key, w);
        CHECK(n == SIZE_MAX || w->calls - before <= n + ZC__WALKED);
        if (w->writes) disturb(w);
        steps++;
    } while (rc == ZC_MORE);
    CHECK_EQ(rc, ZC_OK);
    CHECK_EQ(cursor, 0);
    CHECK(n == SIZE_MAX ? steps == 1 : steps > 4);
    for (unsigned i = 0; i < THERE; i++) CHECK_EQ(w->times[i], 1);
    for (unsigned i = THERE; i < THERE + OTHERS; i++) CHECK(w->times[i] <= (w->writes ? 2u : 0u));
}

TEST(what_is_there_comes_once) {
    static const size_t steps[] = {1, 7, 100, SIZE_MAX};
    for (unsigned how = 0; how < 16; how++) {
        static walk w;
        memset(&w, 0, sizeof w);
        w.c = open_with((zc_desc){.shards = how & 1 ? 8 : 1});
        for (unsigned i = 0; i < THERE; i++) CHECK_EQ(put(w.c, i), ZC_OK);
        walk_all(&w, how & 2, steps[how / 4]);
        CHECK_EQ(w.calls, THERE + (how & 2 ? 1u : 0u)); /* and "g", which is above them */
        CHECK_EQ(zc_check(w.c), ZC_OK);
        close_sound(w.c);
    }
}

TEST(while_others_come_and_go) {
    for (unsigned how = 0; how < 4; how++) {
        static walk w;
        memset(&w, 0, sizeof w);
        w.writes = true;
        w.c = open_with((zc_desc){.shards = how & 1 ? 4 : 1});
        for (unsigned i = 0; i < THERE; i++) CHECK_EQ(put(w.c, i), ZC_OK);
        walk_all(&w, how & 2, 1);
        CHECK(w.next > 2 * OTHERS); /* it has grown, and shrunk */
        close_sound(w.c);
    }
}

static void *write_on(void *user) {
    walk *w = (walk *)user;
    while (w->next < 2 * OTHERS) disturb(w);
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
    return NULL;
}

TEST(beside_a_writer) {
    static walk w, writer;
    pthread_t thread;
    memset(&w, 0, sizeof w);
    memset(&writer, 0, sizeof writer);
    REQUIRE(CHECK_EQ(zc_open(NULL, &w.c), ZC_OK));
    for (unsigned i = 0; i < THERE; i++) CHECK_EQ(put(w.c, i), ZC_OK);
    writer.c = w.c;
    REQUIRE(pthread_create(&thread, NULL, write_on, &writer) == 0);
    for (bool tags = false; !__atomic_load_n(&writer.done, __ATOMIC_ACQUIRE); tags = !tags) {
        uint64_t cursor = 0;
        memset(w.times, 0, sizeof w.times);
        while ((tags ? zc_tags(w.c, &cursor, 20, on_tag, &w)
                     : zc_keys(w.c, &cursor, 20, on_key, &w)) == ZC_MORE) {}
        for (unsigned i = 0; i < THERE; i++) CHECK_EQ(w.times[i], 1);
    }
    pthread_join(thread, NULL);
    zc_close(w.c);
}

TEST(at_every_point_of_growth) {
    static walk w;
    memset(&w, 0, sizeof w);
    w.c = open_with((zc_desc){.shards = 1});
    for (unsigned n = 1, more = 1; n; n += more) {
        unsigned k = more == 1 ? n - 1 : n;
        if (more == 1) CHECK_EQ(put(w.c, k), ZC_OK);
        else CHECK_EQ(zc_del(w.c, zc_slice(&k, sizeof k)), ZC_OK);
        if (n == THERE) more = UINT_MAX; /* back again */
        uint64_t cursor = 0;
        w.calls = 0;
        REQUIRE(CHECK_EQ(zc_keys(w.c, &cursor, SIZE_MAX, on_key, &w), ZC_OK));
        REQUIRE(CHECK_EQ(w.calls, n));
        if (n % 32 == 0) (void)zc_poll(w.c, 0);
    }
    close_sound(w.c);
}

/* Without memory for more chains, one can be longer than what is pinned at once. */
TEST(a_chain_that_is_very_long) {
    static walk w;
    uint64_t cursor = 0;
    memset(&w, 0, sizeof w);
    w.c = open_with((zc_desc){0});
    CHECK_EQ(put(w.c, 0), ZC_OK);
    for (unsigned i = 1; i < THERE + OTHERS; i++) {
        for (unsigned k = 0; k < ZC__STRIPES; k++) w.c->trie.stripes[k].tags.count = 0;
        CHECK_EQ(put(w.c, i), ZC_OK);
    }
    while (zc_tags(w.c, &cursor, 1, on_tag, &w) == ZC_MORE) {}
    for (unsigned i = 0; i < THERE + OTHERS; i++) CHECK_EQ(w.times[i], 1);
    for (unsigned i = 0; i < ZC__STRIPES; i++) { /* as if there had been none */
        zc__chains *t = &w.c->trie.stripes[i].tags;
        CHECK(t->n <= 8 && !t->old);
        t->count = 0;
        for (uint32_t j = 0; j < t->n; j++)
            for (zc__link *l = t->to[j]; l; l = l->next) t->count++;
    }
    close_sound(w.c);
}

TEST(ranges_are_halved) {
    zc__range r = {.from = 8, .end = 16};
    CHECK(zc__range_halve(&r) && r.end == 12);
    CHECK(zc__range_halve(&r) && r.end == 10);
    CHECK(!zc__range_halve(&r) && r.end == 9); /* one hash: never nothing */
    CHECK(!zc__range_halve(&r) && r.end == 9);
    for (uint32_t n = 1; n < 100; n++)
        for (uint32_t home = 0; home < n; home++) {
            uint64_t end = zc__home_end(home, n);
            CHECK_EQ(zc__home_of((end - 1) << 8, n), home);
            CHECK(home + 1 == n ? end == UINT64_C(1) << 32 : zc__home_of(end << 8, n) == home + 1);
        }
    CHECK_EQ(zc__reverse(1), UINT32_C(1) << 31);
    CHECK_EQ(zc__reverse(zc__reverse(0x12345678)), 0x12345678);
}

static void count_key(void *user, zc_bytes key, zc_bytes value) {
    (void)value;
    ++*(int *)user;
    CHECK(key.len == 5 || key.len == 4);
}

static int keys_of(zc_cache *c) {
    uint64_t cursor = 0;
    int n = 0;
    CHECK_EQ(zc_keys(c, &cursor, SIZE_MAX, count_key, &n), ZC_OK);
    return n;
}

static int store(zc_cache *c, const char *key, zc_put_opts o) {
    return zc_put(c, zc_str(key), zc_str("v"), &o);
}

TEST(what_is_dead_does_not_come) {
    zc_cache *c = open_with((zc_desc){0});
    zc_bytes dep = zc_str("a:b");
    CHECK_EQ(keys_of(c), 0);
    CHECK(!zc_contains(c, zc_str("plain")) && !zc_contains(NULL, zc_str("plain")));
    CHECK_EQ(store(c, "plain", (zc_put_opts){0}), ZC_OK);
    CHECK_EQ(store(c, "short", (zc_put_opts){.ttl = ZC_SECOND}), ZC_OK);
    CHECK_EQ(store(c, "soft", (zc_put_opts){.soft_ttl = ZC_SECOND}), ZC_OK);
    CHECK_EQ(store(c, "b", (zc_put_opts){.deps = &dep, .ndeps = 1}), ZC_OK);
    CHECK_EQ(zc_put_absent(c, zc_str("none"), NULL), ZC_OK);
    CHECK(zc_contains(c, zc_str("b")) && !zc_contains(c, zc_str("none")));
    CHECK_EQ(zc_invalidate(c, zc_str("a")), ZC_OK);
    zct_step(&now, 2 * ZC_SECOND);
    CHECK(!zc_contains(c, zc_str("b")) && !zc_contains(c, zc_str("short")));
    CHECK(zc_contains(c, zc_str("soft")) && zc_contains(c, zc_str("plain")));
    CHECK_EQ(keys_of(c), 2);
    zc_stats s;
    zc_stats_read(c, &s);
    CHECK_EQ(s.hits + s.misses_absent + s.misses_expired + s.misses_invalidated, 0);
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK(!zc_contains(c, zc_str("plain")));
    CHECK_EQ(keys_of(c), 0);
    uint64_t cursor = UINT64_MAX;
    int n = 0;
    CHECK_EQ(zc_keys(c, &cursor, 1, count_key, &n), ZC_OK); /* past the end */
    CHECK(cursor == 0 && n == 0);
    CHECK_EQ(zc_keys(c, &cursor, 1, NULL, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_keys(c, NULL, 1, count_key, &n), ZC_E_INVAL);
    CHECK_EQ(zc_tags(NULL, &cursor, 1, on_tag, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_tags(c, &cursor, 1, NULL, NULL), ZC_E_INVAL);
    close_sound(c);
}
