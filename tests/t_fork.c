/* fork() while other threads are at work: both processes go on, each with its own cache. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#  define UNDER_TSAN true
#elif defined(__has_feature)
#  if __has_feature(thread_sanitizer)
#    define UNDER_TSAN true
#  endif
#endif
#ifndef UNDER_TSAN
#  define UNDER_TSAN false
#endif

/* ThreadSanitizer cannot start a thread in the child of a process with threads. */
static bool may_start_threads(bool wanted) {
    if (wanted && UNDER_TSAN) printf("    under ThreadSanitizer: without a background thread\n");
    return wanted && !UNDER_TSAN;
}

/* An allocator fit for fork(): its lock is held around it. (That of the C library is so by itself,
 * that of AddressSanitizer is not.) */
typedef struct locked_mem {
    zct_mem mem;
    pthread_mutex_t lock;
} locked_mem;

static void *locked_alloc(void *user, size_t size) {
    locked_mem *m = (locked_mem *)user;
    pthread_mutex_lock(&m->lock);
    void *p = zct_alloc(&m->mem, size);
    pthread_mutex_unlock(&m->lock);
    return p;
}
static void locked_free(void *user, void *ptr, size_t size) {
    locked_mem *m = (locked_mem *)user;
    pthread_mutex_lock(&m->lock);
    zct_free(&m->mem, ptr, size);
    pthread_mutex_unlock(&m->lock);
}

enum { KEYS = 40, THREADS = 4, FORKS = 12 };

typedef struct world {
    zc_cache *c;
    fault_store *store;
    locked_mem mem;
    uint64_t truth[KEYS], floor[KEYS]; /* atomic; see s_stress.c */
    int done;                          /* atomic */
} world;

typedef struct worker {
    world *w;
    uint64_t random;
} worker;

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x >> 8;
}
static uint64_t peek(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

static zc_bytes tag_of(uint64_t key, char text[32]) {
    snprintf(text, 32, "g%d:k%d", (int)(key % 4), (int)key);
    return zc_str(text);
}

typedef struct request {
    world *w;
    uint64_t key;
} request;

static int load(zc_fill *fill, void *user) {
    request *q = (request *)user;
    char text[32];
    uint64_t version = peek(&q->w->truth[q->key]);
    int rc = zc_fill_dep(fill, tag_of(q->key, text));
    return rc != ZC_OK ? rc : zc_fill_value(fill, zc_slice(&version, sizeof version));
}

static void fetch(world *w, uint64_t key) {
    request q = {w, key};
    uint64_t floor = peek(&w->floor[key]), version = 0;
    zc_view v;
    CHECK_EQ(zc_fetch(w->c, zc_slice(&key, sizeof key), load, &q, NULL, &v), ZC_OK);
    if (CHECK_EQ(v.size, sizeof version)) memcpy(&version, v.data, sizeof version);
    CHECK(version >= floor);
    zc_release(w->c, &v);
}

static void change(world *w, uint64_t key) {
    char text[32];
    uint64_t v = __atomic_add_fetch(&w->truth[key], 1, __ATOMIC_SEQ_CST);
    uint64_t old = peek(&w->floor[key]);
    CHECK_EQ(zc_invalidate(w->c, tag_of(key, text)), ZC_OK);
    while (old < v && !__atomic_compare_exchange_n(&w->floor[key], &old, v, false, __ATOMIC_SEQ_CST,
                                                   __ATOMIC_SEQ_CST)) {}
}

static void one_step(worker *me) {
    world *w = me->w;
    uint64_t key = next_random(&me->random) % KEYS, dice = next_random(&me->random) % 100;
    zc_bytes k = zc_slice(&key, sizeof key);
    if (dice < 60) fetch(w, key);
    else if (dice < 85) change(w, key);
    else if (dice < 90) (void)zc_prune(w->c, 0);
    else if (dice < 95) CHECK(zc_del(w->c, k) >= 0);
    else (void)zc_poll(w->c, 20 * ZC_MICROSECOND);
}

static void *work(void *user) {
    worker *me = (worker *)user;
    while (!__atomic_load_n(&me->w->done, __ATOMIC_ACQUIRE)) one_step(me);
    return NULL;
}

static void write_log(void *user, zc_log_level level, const char *message) {
    (void)user;
    printf("    log %d: %s\n", (int)level, message);
}

/* All that a child does; returns its exit status. */
static int child(world *w, uint64_t random) {
    worker me = {w, random};
    zc_stats s;
    zc_view v;
    zc_bytes dep = zc_str("child:tag");
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    zct_bad = 0; /* the parent's are its own */
    CHECK_EQ(zc_fork_child(w->c), ZC_OK);
    zc_stats_read(w->c, &s);
    CHECK_EQ(s.flights, 0);
    for (uint64_t key = 0; key < KEYS; key++) fetch(w, key); /* nobody is waited for in vain */
    for (int i = 0; i < 300; i++) one_step(&me);
    CHECK_EQ(zc_put(w->c, zc_str("child"), zc_str("value"), &o), ZC_OK);
    CHECK_EQ(zc_get(w->c, zc_str("child"), &v), ZC_OK);
    CHECK_EQ(zc_invalidate(w->c, dep), ZC_OK);
    zc_release(w->c, &v);
    CHECK_EQ(zc_get(w->c, zc_str("child"), &v), ZC_MISS);
    CHECK_EQ(zc_clear(w->c), ZC_OK);
    (void)zc_prune(w->c, 0);
    CHECK_EQ(zc_check(w->c), ZC_OK);
    zc_close(w->c);
    fflush(stdout);
    return zct_bad ? 1 : 0;
}

static void fork_once(world *w) {
    int status = -1;
    uint64_t random = zct_rand() | 1;
    fflush(stdout);
    zc_fork_prepare(w->c);
    if (w->store) pthread_mutex_lock(&w->store->lock); /* a storage must be fit for fork(), too */
    pthread_mutex_lock(&w->mem.lock);
    pid_t pid = fork();
    pthread_mutex_unlock(&w->mem.lock);
    if (w->store) pthread_mutex_unlock(&w->store->lock);
    if (pid == 0) _exit(child(w, random));
    zc_fork_parent(w->c);
    if (!CHECK(pid > 0)) return;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void forks(zc_desc d, bool with_store) {
    static fault_store store;
    static world w;
    pthread_t thread[THREADS];
    worker me[THREADS];
    memset(&w, 0, sizeof w);
    pthread_mutex_init(&w.mem.lock, NULL);
    if (with_store) {
        fs_init(&store);
        w.store = &store;
        d.store = fs_hook(&store, true);
    }
    if (!d.block) d.allocator = (zc_allocator){1, locked_alloc, locked_free, &w.mem};
    d.seed = zct_rand() | 1;
    d.no_thread = !may_start_threads(!d.no_thread);
    d.log = (zc_log){1, write_log, NULL};
    REQUIRE(zc_open(&d, &w.c) == ZC_OK);
    for (int i = 0; i < THREADS; i++) {
        me[i] = (worker){&w, zct_rand() | 1};
        CHECK_EQ(pthread_create(&thread[i], NULL, work, &me[i]), 0);
    }
    for (int i = 0; i < FORKS; i++) fork_once(&w);
    __atomic_store_n(&w.done, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
    for (uint64_t key = 0; key < KEYS; key++) fetch(&w, key); /* and so does the parent */
    CHECK_EQ(zc_check(w.c), ZC_OK);
    zc_close(w.c);
    CHECK_EQ(w.mem.mem.blocks, 0);
    pthread_mutex_destroy(&w.mem.lock);
    if (with_store) fs_destroy(&store);
}

TEST(fork_without_a_background_thread) { forks((zc_desc){.no_thread = true}, false); }
TEST(fork_with_a_background_thread) { forks((zc_desc){.shards = 8}, false); }
TEST(fork_with_threads_for_refreshes) { forks((zc_desc){.refresh_threads = 3}, false); }
TEST(fork_with_a_limit) { forks((zc_desc){.max_entries = 20, .shards = 4}, false); }
TEST(fork_with_a_fixed_block) {
    static unsigned char block[512 * 1024];
    forks((zc_desc){.block = block, .block_size = sizeof block, .no_thread = true}, false);
}
TEST(fork_with_a_storage) { forks((zc_desc){.no_thread = true, .max_entries = 20}, true); }

TEST(flights_of_other_threads_are_over_in_the_child) {
    zc_cache *c;
    zc_fill *lead, *follow, *mine;
    zc_view v;
    int status = -1;
    REQUIRE(zc_open(&(zc_desc){.no_thread = !may_start_threads(true)}, &c) == ZC_OK);
    /* As if by other threads: their tickets are only used in the parent. */
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
    fflush(stdout);
    zc_fork_prepare(c);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK_EQ(zc_fork_child(c), ZC_OK);
        CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &mine), ZC_LEAD);
        CHECK_EQ(zc_fill_value(mine, zc_str("child's")), ZC_OK);
        CHECK_EQ(zc_flight_commit(mine, NULL), ZC_OK);
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
        fflush(stdout);
        _exit(zct_bad ? 1 : 0);
    }
    zc_fork_parent(c);
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &mine), ZC_FOLLOW); /* not touched here */
    zc_flight_abandon(mine, 0);
    CHECK_EQ(zc_fill_value(lead, zc_str("parent's")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, NULL), ZC_OK);
    CHECK_EQ(zc_flight_wait(follow, 0, &v), ZC_OK);
    CHECK_EQ(v.size, 8);
    zc_release(c, &v);
    zc_close(c);
}
