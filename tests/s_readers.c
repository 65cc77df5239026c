/* Reads that take no lock: whole, of their key, never older than they may be, counted; and they
 * write nothing that another thread reads. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEYS = 16, CHURN = 3000, ROUNDS = 12, READERS = 3, WORDS = 300 };

static zc_cache *open_cache(zc_desc d) {
    zc_cache *c = NULL;
    d.no_thread = true;
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    return c;
}
static uint64_t peek(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
static zc_bytes key_of(uint32_t *k) { return zc_slice(k, sizeof *k); }
static uint64_t hits_of(zc_cache *c) {
    zc_stats st;
    zc_stats_read(c, &st);
    return st.hits;
}
/* This thread's seat, once it has read. */
static zc__seat *my_seat(zc_cache *c) {
    uint32_t none = UINT32_MAX;
    if (zc__rcu_seat(c->rcu)->in == ZC__SEAT_NEW)
        (void)zc_get_copy(c, key_of(&none), NULL, 0, NULL);
    return zc__rcu_seat(c->rcu);
}

/* ---- what is read is whole, of its key, and not too old ---- */

typedef struct world {
    zc_cache *c;
    uint64_t floor[KEYS]; /* atomic: no read that begins now may give an older version */
    uint64_t hits;        /* atomic */
    int running;          /* atomic: the writer does */
    int reading;          /* atomic: readers that have begun */
} world;

static void *read_all(void *user) {
    world *w = (world *)user;
    uint64_t buf[WORDS], hits = 0;
    __atomic_add_fetch(&w->reading, 1, __ATOMIC_ACQ_REL);
    for (uint32_t k = 0; __atomic_load_n(&w->running, __ATOMIC_ACQUIRE); k = (k + 1) % KEYS) {
        size_t len;
        uint64_t floor = peek(&w->floor[k]);
        if (zc_get_copy(w->c, key_of(&k), buf, sizeof buf, &len) != ZC_OK) continue;
        hits++;
        bool whole = len >= 8 && len % 8 == 0;
        for (size_t i = 0; i < len / 8; i++) whole = whole && buf[i] == buf[0];
        CHECK(whole);
        CHECK_EQ(buf[0] % KEYS, k);
        CHECK(buf[0] / KEYS >= floor);
    }
    __atomic_add_fetch(&w->hits, hits, __ATOMIC_RELAXED);
    return NULL;
}

static void put(world *w, uint32_t k, uint64_t version, size_t n) {
    uint64_t words[WORDS];
    zc_bytes tag = zc_str("odd");
    zc_put_opts o = {.deps = &tag, .ndeps = k % 2, .ttl = 3600 * ZC_SECOND};
    for (size_t i = 0; i < n; i++) words[i] = version * KEYS + k;
    CHECK_EQ(zc_put(w->c, key_of(&k), zc_slice(words, n * 8), &o), ZC_OK);
    __atomic_store_n(&w->floor[k], version, __ATOMIC_SEQ_CST);
}

/* Replaces, invalidates; and other keys make the tables grow, shrink and evict. */
static void write_all(world *w) {
    while (__atomic_load_n(&w->reading, __ATOMIC_ACQUIRE) < READERS) sched_yield();
    for (uint64_t v = 1; v <= ROUNDS; v++) {
        for (uint32_t k = 0; k < KEYS; k++) put(w, k, v, 1 + (v * 7 + k * 31) % (k % 4 ? 40 : WORDS));
        for (uint32_t i = KEYS; i < CHURN; i++) {
            CHECK_EQ(zc_put(w->c, key_of(&i), zc_slice(w->floor, i % 64), NULL), ZC_OK);
            if (i % 8 == 0) put(w, i / 8 % KEYS, v, i % 40 + 1);
        }
        if (v % 2) CHECK_EQ(zc_clear(w->c), ZC_OK);
        else CHECK_EQ(zc_invalidate(w->c, zc_str("odd")), ZC_OK);
        for (uint32_t k = v % 2 ? 0 : 1; k < KEYS; k += v % 2 ? 1 : 2)
            __atomic_store_n(&w->floor[k], v + 1, __ATOMIC_SEQ_CST);
        for (uint32_t i = KEYS; v % 2 == 0 && i < CHURN; i++) (void)zc_del(w->c, key_of(&i));
        while (zc_poll(w->c, ZC_MILLISECOND) == ZC_MORE) {}
        CHECK_EQ(zc_check(w->c), ZC_OK);
    }
    __atomic_store_n(&w->running, 0, __ATOMIC_RELEASE);
}

static void readers_beside_a_writer(zc_desc d) {
    world w = {.c = open_cache(d), .running = 1};
    pthread_t t[READERS];
    for (int i = 0; i < READERS; i++) REQUIRE(pthread_create(&t[i], NULL, read_all, &w) == 0);
    write_all(&w);
    for (int i = 0; i < READERS; i++) pthread_join(t[i], NULL);
    CHECK_EQ(hits_of(w.c), w.hits);
    zc_close(w.c);
    printf("    %d hits\n", (int)w.hits);
}

TEST(tables_grow_and_shrink) { readers_beside_a_writer((zc_desc){.shards = 1}); }
TEST(in_many_shards) { readers_beside_a_writer((zc_desc){.shards = 8}); }
TEST(what_is_read_is_evicted) {
    readers_beside_a_writer((zc_desc){.shards = 2, .max_entries = KEYS + 100});
}

/* The old entry goes before the new one is there, but nobody sees that. */
static void *never_miss(void *user) {
    world *w = (world *)user;
    uint64_t v, hits = 0;
    uint32_t k = 1;
    for (; __atomic_load_n(&w->running, __ATOMIC_ACQUIRE); hits++)
        CHECK_EQ(zc_get_copy(w->c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    __atomic_add_fetch(&w->hits, hits, __ATOMIC_RELAXED);
    return NULL;
}

TEST(what_is_replaced_is_never_missed) {
    world w = {.c = open_cache((zc_desc){.shards = 1}), .running = 1};
    pthread_t t[READERS];
    zc_stats st;
    for (uint32_t k = 0; k < 6; k++) put(&w, k, 1, 1);
    for (int i = 0; i < READERS; i++) REQUIRE(pthread_create(&t[i], NULL, never_miss, &w) == 0);
    for (uint64_t v = 0; v < 100000; v++) {
        put(&w, 1, v, 1);
        if (v % 1000 == 0) sched_yield();
    }
    __atomic_store_n(&w.running, 0, __ATOMIC_RELEASE);
    for (int i = 0; i < READERS; i++) pthread_join(t[i], NULL);
    zc_stats_read(w.c, &st);
    CHECK(st.hits == w.hits && st.misses_absent == 0);
    zc_close(w.c);
    printf("    %d hits\n", (int)w.hits);
}

TEST(a_miss_takes_no_lock_and_is_counted) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    uint32_t k = 1, v;
    zc_stats st;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_MISS); /* there is no table yet */
    CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), NULL), ZC_OK);
    k = 2;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_MISS);
    CHECK_EQ(my_seat(c)->misses, 2);
    c->shards[0].turn |= ZC__TURN_ENTRY; /* as while one is put */
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_MISS);
    k = 1;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    c->shards[0].turn &= ~ZC__TURN_ENTRY;
    CHECK(c->shards[0].misses_absent == 1 && my_seat(c)->misses == 2 && my_seat(c)->hits == 1);
    zc_stats_read(c, &st);
    CHECK(st.misses_absent == 3 && st.hits == 1);
    zc_close(c);
}

/* ---- nothing is written ---- */

TEST(a_hit_writes_nothing_that_another_reads) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    uint32_t k = 7;
    char v[64] = "value", out[64];
    zc_put_opts o = {.ttl = 3600 * ZC_SECOND};
    CHECK_EQ(zc_put(c, key_of(&k), zc_slice(v, sizeof v), &o), ZC_OK);
    for (int i = 0; i < ZC__HITS_MAX; i++)
        CHECK_EQ(zc_get_copy(c, key_of(&k), out, sizeof out, NULL), ZC_OK);
    zc__shard *s = c->shards;
    uint64_t hash = zc__hash(key_of(&k), c->seed);
    zc__entry *e = zc__table_find(s, hash, key_of(&k));
    size_t size = zc__entry_size(e), table = s->table.nbuckets * sizeof(zc__bucket);
    static zc_cache cache;
    static zc__shard shard;
    static zc__rcu rcu;
    unsigned char *entry = (unsigned char *)malloc(size), *buckets = (unsigned char *)malloc(table);
    REQUIRE(entry && buckets);
    memcpy((void *)&cache, c, sizeof cache);
    memcpy((void *)&shard, s, sizeof shard);
    memcpy((void *)&rcu, c->rcu, sizeof rcu);
    memcpy(entry, e, size);
    memcpy(buckets, s->table.buckets, table);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(zc_get_copy(c, key_of(&k), out, sizeof out, NULL), ZC_OK);
    CHECK_EQ(my_seat(c)->hits, rcu.seat[my_seat(c) - c->rcu->seat].hits + 1000);
    my_seat(c)->hits -= 1000; /* all that it has written */
    CHECK(memcmp(&cache, c, sizeof cache) == 0 && memcmp(&shard, s, sizeof shard) == 0);
    CHECK(memcmp(&rcu, c->rcu, sizeof rcu) == 0);
    CHECK(memcmp(entry, e, size) == 0 && memcmp(buckets, s->table.buckets, table) == 0);
    CHECK_EQ((uintptr_t)c->rcu->seat % ZC__LINE, 0);
    free(entry);
    free(buckets);
    zc_close(c);
}

static uint64_t now_of(void *user) { return *(const uint64_t *)user; }

TEST(what_is_expired_is_not_copied) {
    uint64_t now = 1000 * ZC_SECOND;
    zc_cache *c = open_cache((zc_desc){.shards = 1, .clock = {1, now_of, now_of, &now}});
    uint32_t k = 1, v;
    zc_put_opts o = {.ttl = ZC_SECOND};
    CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), &o), ZC_OK);
    now += ZC_SECOND - 1;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    CHECK_EQ(my_seat(c)->hits, 1);
    now++;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_MISS);
    zc_close(c);
}

/* ---- seats, limbo ---- */

TEST(a_seat_that_is_taken_means_the_lock) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    uint32_t k = 1, v;
    CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), NULL), ZC_OK);
    my_seat(c)->in = ZC__SEAT_TAKEN;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    CHECK(c->shards[0].hits == 1 && my_seat(c)->hits == 0 && my_seat(c)->in == ZC__SEAT_TAKEN);
    my_seat(c)->in = ZC__SEAT_FREE;
    CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    CHECK(c->shards[0].hits == 1 && my_seat(c)->hits == 1 && my_seat(c)->in == ZC__SEAT_FREE);
    CHECK_EQ(hits_of(c), 2);
    zc_close(c);
}

TEST(a_reader_is_seen_until_he_leaves) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    (void)my_seat(c);
    zc__seat *me = zc__rcu_enter(c->rcu);
    REQUIRE(me != NULL);
    CHECK(!zc__rcu_passed(c->rcu, false));
    (void)zc__rcu_leave(me, ZC_OK);
    CHECK(zc__rcu_passed(c->rcu, false));
    zc_close(c);
}

static unsigned limbo_of(zc_cache *c) {
    unsigned n = 0;
    for (unsigned i = 0; i < ZC__SEATS; i++) n += c->rcu->seat[i].n;
    return n;
}

TEST(what_a_reader_may_look_at_stays) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    zc_stats st;
    uint32_t k = 1;
    zc__seat *seat = my_seat(c);
    for (unsigned i = 0; i < 4 * ZC__LIMBO_FEW; i++) {
        CHECK_EQ(zc_put(c, key_of(&k), zc_slice(&st, 50), NULL), ZC_OK);
        seat->in = ZC__SEAT_TAKEN;
    }
    zc_stats_read(c, &st);
    CHECK_EQ(limbo_of(c), 4 * ZC__LIMBO_FEW - 1);
    size_t before = st.memory;
    zc__limbos_empty(c, UINT32_MAX);
    CHECK_EQ(limbo_of(c), 4 * ZC__LIMBO_FEW - 1);
    seat->in = ZC__SEAT_FREE;
    (void)zc_poll(c, ZC_MILLISECOND);
    zc_stats_read(c, &st);
    CHECK_EQ(limbo_of(c), 0);
    CHECK(st.memory <= before);
    zc_close(c);
}

/* Large values are not kept by the dozen. */
TEST(no_more_than_some_bytes_wait) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    static char large[3 * ZC__LIMBO_BYTES];
    uint32_t k = 1;
    CHECK_EQ(zc_put(c, key_of(&k), zc_slice(large, sizeof large), NULL), ZC_OK);
    CHECK_EQ(zc_put(c, key_of(&k), zc_slice(large, sizeof large), NULL), ZC_OK);
    CHECK_EQ(limbo_of(c), 0);
    CHECK_EQ(zc_get_copy(c, key_of(&k), large, sizeof large, NULL), ZC_OK);
    zc_close(c);
}

TEST(readers_take_the_lock_while_a_table_changes) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    zc__shard *s = c->shards;
    unsigned changing = 0;
    CHECK(my_seat(c)->in == ZC__SEAT_FREE);
    for (uint32_t k = 0; k < 500; k++) {
        uint32_t v;
        CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), NULL), ZC_OK);
        CHECK_EQ(s->turn & ZC__TURN_TABLE, s->old.nbuckets != 0);
        CHECK(!(s->turn & ZC__TURN_ENTRY));
        bool changes = s->old.nbuckets != 0;
        changing += changes;
        uint64_t before = s->hits;
        CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
        CHECK_EQ(s->hits > before, changes);
    }
    CHECK(changing > 10);
    zc_close(c);
}

/* Nobody puts, nobody keeps house: the readers are through with it themselves. */
TEST(readers_help_a_table_to_change) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    zc__shard *s = c->shards;
    uint32_t n = 0, v, reads = 0;
    while (n < 1000 || !s->old.nbuckets) {
        CHECK_EQ(zc_put(c, key_of(&n), key_of(&n), NULL), ZC_OK);
        n++;
    }
    uint32_t left = s->old.nbuckets - s->moved;
    for (; s->old.nbuckets && reads <= left; reads++) {
        uint32_t k = reads % n;
        CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
        CHECK_EQ(v, k);
        CHECK_EQ(zc_check(c), ZC_OK);
    }
    CHECK_EQ(reads, (left + ZC__MOVES - 1) / ZC__MOVES);
    uint64_t before = s->hits;
    CHECK_EQ(zc_get_copy(c, key_of(&v), &v, sizeof v, NULL), ZC_OK);
    CHECK_EQ(s->hits, before);
    zc_close(c);
}

typedef struct leaver {
    zc_cache *c;
    zc__seat *seat;
    bool waited;
    int over; /* atomic */
} leaver;

#if defined(__SANITIZE_THREAD__)
#  define TSAN 1 /* it would see a look at what the shard's lock is for */
#elif defined(__has_feature)
#  define TSAN __has_feature(thread_sanitizer)
#else
#  define TSAN 0
#endif
#if !TSAN
static void *leave(void *user) {
    leaver *l = (leaver *)user;
    zc__shard *s = l->c->shards;
    const uint32_t *moved = &s->moved, *all = &s->old.nbuckets;
    uint32_t n = 0;
    while (!__atomic_load_n(&l->over, __ATOMIC_ACQUIRE) &&
           (!(n = __atomic_load_n(all, __ATOMIC_ACQUIRE)) ||
            __atomic_load_n(moved, __ATOMIC_ACQUIRE) < n))
        sched_yield();
    for (int i = 0; i < 100; i++) sched_yield();
    l->waited = !__atomic_load_n(&l->over, __ATOMIC_ACQUIRE);
    __atomic_store_n(&l->seat->in, 0, __ATOMIC_RELEASE);
    return NULL;
}

TEST(an_old_table_stays_while_a_reader_is_in_it) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    leaver l = {c, my_seat(c), false, 0};
    pthread_t t;
    uint32_t k = 0;
    for (; !c->shards[0].table.nbuckets; k++) (void)zc_put(c, key_of(&k), key_of(&k), NULL);
    l.seat->in = ZC__SEAT_TAKEN;
    REQUIRE(pthread_create(&t, NULL, leave, &l) == 0);
    for (uint32_t end = k + 30; k < end; k++) (void)zc_put(c, key_of(&k), key_of(&k), NULL);
    __atomic_store_n(&l.over, 1, __ATOMIC_RELEASE);
    pthread_join(t, NULL);
    CHECK(l.waited);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}
#endif

static void *read_some(void *user) {
    world *w = (world *)user;
    uint32_t k = 1, v;
    for (int i = 0; i < 100; i++)
        CHECK_EQ(zc_get_copy(w->c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
    return NULL;
}

TEST(more_threads_than_seats) {
    enum { THREADS = 2 * ZC__SEATS + 3 };
    world w = {.c = open_cache((zc_desc){.shards = 1})};
    static pthread_t t[THREADS];
    uint32_t k = 1;
    CHECK_EQ(zc_put(w.c, key_of(&k), key_of(&k), NULL), ZC_OK);
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&t[i], NULL, read_some, &w) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    CHECK_EQ(hits_of(w.c), THREADS * 100);
    CHECK_EQ(w.c->rcu->used, ZC__SEATS);
    zc_close(w.c);
}

/* A child does not wait for a reader that was in its section when the parent forked. */
TEST(a_child_has_no_readers_of_its_parent) {
    zc_cache *c = open_cache((zc_desc){.shards = 1});
    uint32_t k = 1, v;
    CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), NULL), ZC_OK);
    my_seat(c)->in = ZC__SEAT_TAKEN;
    zc_fork_prepare(c);
    pid_t child = fork();
    if (child == 0) {
        bool good = zc_fork_child(c) == ZC_OK && zc__rcu_passed(c->rcu, false);
        if (!good) _exit(1); /* it would wait for ever */
        for (unsigned i = 0; i < 2 * ZC__LIMBO_MOST * ZC__LIMBO_FEW; i++)
            good = good && zc_put(c, key_of(&k), key_of(&i), NULL) == ZC_OK;
        good = good && limbo_of(c) < ZC__LIMBO_FEW;
        good = good && zc_get_copy(c, key_of(&k), &v, sizeof v, NULL) == ZC_OK;
        zc_close(c);
        _exit(good ? 0 : 1);
    }
    int status = -1;
    zc_fork_parent(c);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(my_seat(c)->in, ZC__SEAT_TAKEN);
    my_seat(c)->in = ZC__SEAT_FREE;
    zc_close(c);
}

/* ---- where all reads take the lock ---- */

TEST(not_from_a_block_nor_an_allocator) {
    zct_mem m;
    static char block[1 << 16];
    uint32_t k = 1, v;
    memset(&m, 0, sizeof m);
    for (int i = 0; i < 2; i++) {
        zc_desc d = {.shards = 1};
        if (i) d.allocator = zct_allocator(&m);
        else d.block = block, d.block_size = sizeof block;
        zc_cache *c = open_cache(d);
        CHECK(c->rcu == NULL);
        CHECK_EQ(zc_put(c, key_of(&k), key_of(&k), NULL), ZC_OK);
        CHECK_EQ(zc_get_copy(c, key_of(&k), &v, sizeof v, NULL), ZC_OK);
        CHECK_EQ(c->shards[0].hits, 1);
        zc_close(c);
    }
}
