/* zc_invalidate_many: no reader sees one tag done and another not. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>

/* In round r a writer puts r under both keys, announces the round, and invalidates both tags in one
 * step, with many others between them. A reader that knows of the round and finds one key gone
 * knows that the step has happened: the other key may be gone, or be of a later round, but not of
 * this one. Another thread invalidates what nobody depends on, so that readers look at the tags. */
enum { READERS = 2, ROUNDS = 800, TAGS = 400 };

typedef struct world {
    zc_cache *c;
    uint64_t round;           /* put and announced; atomic */
    int done;                 /* atomic */
    uint64_t seen_gone, torn; /* atomic */
} world;

typedef struct reader {
    world *w;
    const char *first, *second;
} reader;

static uint64_t value_of(zc_cache *c, const char *key) {
    uint64_t v = 0;
    size_t len = 0;
    int rc = zc_get_copy(c, zc_str(key), &v, sizeof v, &len);
    CHECK(rc == ZC_OK || rc == ZC_MISS);
    return rc == ZC_OK ? v : 0;
}

static void *watch(void *user) {
    reader *me = (reader *)user;
    world *w = me->w;
    while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE)) {
        uint64_t round = __atomic_load_n(&w->round, __ATOMIC_ACQUIRE);
        if (value_of(w->c, me->first) != 0) continue;
        uint64_t other = value_of(w->c, me->second);
        if (!round) continue;
        __atomic_add_fetch(&w->seen_gone, 1, __ATOMIC_RELAXED);
        if (other && other <= round) __atomic_add_fetch(&w->torn, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void *make_noise(void *user) {
    world *w = (world *)user;
    while (!__atomic_load_n(&w->done, __ATOMIC_ACQUIRE))
        CHECK_EQ(zc_invalidate(w->c, zc_str("noise")), ZC_OK);
    return NULL;
}

static void run(const char *tag_a, const char *tag_b, const char *dep_a, const char *dep_b,
                unsigned shards, bool prune) {
    zct_mem mem = {0};
    world w;
    pthread_t thread[READERS], noise;
    zc_bytes tags[TAGS], deps[2] = {zc_str(dep_a), zc_str(dep_b)};
    char others[TAGS][24];
    memset(&w, 0, sizeof w);
    tags[0] = zc_str(tag_a);
    tags[TAGS - 1] = zc_str(tag_b);
    for (int i = 1; i < TAGS - 1; i++) {
        snprintf(others[i], sizeof others[i], "other:%d", i);
        tags[i] = zc_str(others[i]);
    }
    zc_desc d = {.shards = shards, .no_thread = true, .allocator = zct_allocator(&mem)};
    d.seed = zct_rand() | 1;
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    reader r[2] = {{&w, "a", "b"}, {&w, "b", "a"}};
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, watch, &r[i % 2]), 0);
    CHECK_EQ(pthread_create(&noise, NULL, make_noise, &w), 0);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < 2; i++) {
            zc_put_opts o = {.deps = &deps[i], .ndeps = 1};
            CHECK_EQ(zc_put(w.c, zc_str(i ? "b" : "a"), zc_slice(&round, sizeof round), &o), ZC_OK);
        }
        __atomic_store_n(&w.round, round, __ATOMIC_RELEASE);
        CHECK_EQ(zc_invalidate_many(w.c, tags, TAGS), ZC_OK);
        if (prune) zc_prune(w.c, 0);
    }
    __atomic_store_n(&w.done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < READERS; i++) pthread_join(thread[i], NULL);
    pthread_join(noise, NULL);
    CHECK_EQ(w.torn, 0);
    CHECK(w.seen_gone > 0);
    printf("    %" PRIu64 " times seen gone\n", w.seen_gone);
    CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_close(w.c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(two_tags_one_shard) { run("x:a", "x:b", "x:a", "x:b", 1, false); }
TEST(two_tags_two_shards) { run("a", "b:c", "a", "b:c", 16, false); }
TEST(two_tags_above) { run("a", "b", "a:x:y", "b:z:u:v", 16, false); }
TEST(two_tags_pruned) { run("a:1", "b:2", "a:1", "b:2", 4, true); }

/* ---- between stamp and publication ---- */

static int late_result;
static void *read_late(void *user) {
    zc_cache *c = (zc_cache *)user;
    zc_view v;
    int rc = zc_get(c, zc_str("k"), &v);
    zc_release(c, &v);
    __atomic_store_n(&late_result, rc, __ATOMIC_RELEASE);
    return NULL;
}

TEST(a_stamped_tag_is_not_reported_before_it_is_published) {
    /* The writer's two steps by hand: who meets a tag's version waits until it is published, since the
     * other tags of the same step might not have theirs. */
    zc_cache *c;
    zc_tag *tag;
    pthread_t thread;
    REQUIRE(zc_open(&(zc_desc){.no_thread = true}, &c) == ZC_OK);
    CHECK_EQ(zc_tag_intern(c, zc_str("t"), &tag), ZC_OK);
    zc_put_opts o = {.tags = &tag, .ntags = 1};
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str("unrelated")), ZC_OK); /* so that readers look */
    zc__spin_lock(&c->trie.writer);
    uint64_t version = zc_hlc_now(&c->hlc);
    zc__atomic_store_rel(&tag->version, version);
    late_result = ZC_PENDING;
    CHECK_EQ(pthread_create(&thread, NULL, read_late, c), 0);
    for (int i = 0; i < 30; i++) nanosleep(&(struct timespec){0, 1000000}, NULL);
    CHECK_EQ(__atomic_load_n(&late_result, __ATOMIC_ACQUIRE), ZC_PENDING);
    zc__atomic_store_rel(&c->trie.published, version);
    zc__spin_unlock(&c->trie.writer);
    pthread_join(thread, NULL);
    CHECK_EQ(late_result, ZC_MISS);
    zc_tag_release(c, tag);
    zc_close(c);
}

/* ---- very many dependencies: nobody looks at them all with the shard's lock ---- */

enum { BROAD = 1000 };

static int load_late(zc_fill *fill, void *user) {
    (void)fill, (void)user;
    return ZC_E_USER;
}
static void *copy_late(void *user) {
    char v[8];
    size_t len;
    late_result = zc_get_copy((zc_cache *)user, zc_str("k"), v, sizeof v, &len);
    return NULL;
}
static void *fetch_late(void *user) {
    zc_view v;
    int rc = zc_fetch((zc_cache *)user, zc_str("k"), load_late, NULL, NULL, &v);
    late_result = rc == ZC_E_USER ? ZC_MISS : rc; /* the loader has run */
    zc_release((zc_cache *)user, &v);
    return NULL;
}
static void *explain_late(void *user) {
    zc_explanation e;
    CHECK_EQ(zc_explain((zc_cache *)user, zc_str("k"), &e), ZC_OK);
    CHECK_EQ(e.present && e.invalidated, e.state == ZC_MISS);
    late_result = e.state;
    return NULL;
}

/* A cache of one shard with one such entry, and perhaps a newer version, at which to look. */
static zc_cache *broad_cache(zct_mem *mem, zc_tag **last, zc__entry **e) {
    static char name[BROAD][16];
    static zc_bytes deps[BROAD];
    zc_view v;
    zc_cache *c = NULL;
    memset(mem, 0, sizeof *mem);
    zc_desc d = {.allocator = zct_allocator(mem), .no_thread = true, .shards = 1};
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    for (int i = 0; i < BROAD; i++) {
        snprintf(name[i], sizeof name[i], "many:%d", i);
        deps[i] = zc_str(name[i]);
    }
    zc_put_opts o = {.deps = deps, .ndeps = BROAD};
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
    CHECK_EQ(zc_tag_intern(c, deps[BROAD - 1], last), ZC_OK);
    CHECK_EQ(zc_get(c, zc_str("k"), &v), ZC_OK);
    *e = (zc__entry *)v.pin;
    zc_release(c, &v);
    CHECK_EQ(zc_invalidate(c, zc_str("unrelated")), ZC_OK); /* so that readers look */
    return c;
}

/* A reader is in the middle of looking, as its last tag's version is not published yet, while
 * another key of the shard is written; `removed`: and the entry leaves the table. */
static void look_apart(void *(*look)(void *), bool removed) {
    zct_mem mem;
    zc_tag *tag;
    zc__entry *e;
    pthread_t thread;
    zc_cache *c = broad_cache(&mem, &tag, &e);
    REQUIRE(c != NULL);
    zc__spin_lock(&c->trie.writer);
    uint64_t version = zc_hlc_now(&c->hlc);
    zc__atomic_store_rel(&tag->version, version);
    late_result = ZC_PENDING;
    CHECK_EQ(pthread_create(&thread, NULL, look, c), 0);
    while (zc__atomic_load_acq(&e->refs) < 2) sched_yield();
    int put = ZC_E_NOMEM, del = ZC_OK;
    ZC__APART(put = zc_put(c, zc_str("other"), zc_str("v"), NULL));
    if (removed) ZC__APART(del = zc_del(c, zc_str("k")));
    CHECK(put == ZC_OK && del == ZC_OK);
    zc__atomic_store_rel(&c->trie.published, version);
    zc__spin_unlock(&c->trie.writer);
    pthread_join(thread, NULL);
    CHECK_EQ(late_result, ZC_MISS);
    CHECK_EQ(value_of(c, "other"), 'v');
    zc_tag_release(c, tag);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(who_looks_at_many_dependencies_holds_up_nobody) {
    void *(*const looks[])(void *) = {read_late, copy_late, fetch_late, explain_late};
    for (size_t i = 0; i < sizeof looks / sizeof looks[0]; i++) {
        look_apart(looks[i], false);
        look_apart(looks[i], true);
    }
}

/* The rule is the same for them. */
TEST(many_dependencies_are_looked_at) {
    zct_mem mem;
    zc_tag *tag;
    zc__entry *e;
    zc_stats st;
    zc_cache *c = broad_cache(&mem, &tag, &e);
    REQUIRE(c != NULL);
    CHECK(e->begin < zc__published(&c->trie));
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    CHECK_EQ(e->begin, zc__published(&c->trie)); /* once */
    CHECK_EQ(value_of(c, "k"), 'v');
    CHECK_EQ(zc_invalidate(c, zc_str("unrelated")), ZC_OK);
    CHECK_EQ(value_of(c, "k"), 'v');
    CHECK_EQ(e->begin, zc__published(&c->trie));
    CHECK_EQ(zc_invalidate_tag(c, tag), ZC_OK);
    CHECK_EQ(value_of(c, "k"), 0);
    c->shards[0].next_sweep = 0;
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    zc_stats_read(c, &st);
    CHECK_EQ(st.entries, 0);
    CHECK_EQ(st.removed[ZC_CAUSE_INVALIDATED], 1);
    zc_tag_release(c, tag);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}
