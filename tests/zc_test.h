/* zc_test.h: the test harness of zoocache. Include it once, after zoocache.h; it supplies main(),
 * unless ZC_TEST_NO_MAIN is defined (fuzz targets).
 *
 *   TEST(name) { ... }     registers itself; tests run in the order of definition
 *   CHECK(x)               counts a failure and goes on; CHECK_EQ(a, b) prints both integers,
 *                          CHECK_STR(a, b) both strings; all may be used in any thread
 *   REQUIRE(x)             as CHECK, and returns from the (void) function
 *   zct_rand(), zct_below(n)   random numbers from the printed seed (main thread only)
 *   zct_mem, zct_allocator()   counts, fails the n-th allocation, checks sizes and leaks
 *   zct_time, zct_clock()      a clock that only moves when told to
 *   zct_put(c, key, value, dep)  stores a text that depends on a tag
 *
 * The program: [--list] [--seed N|random] [part of a name]; exit status 1 if a test has failed. */
#ifndef ZC_TEST_H
#define ZC_TEST_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "zoocache.h"

#if !defined(_WIN32) && !defined(__wasm__)
#  define ZCT_FORKS /* there is fork() */
#endif

typedef struct zct_test {
    const char *name;
    void (*run)(void);
    int line;
    struct zct_test *next;
} zct_test;

static zct_test *zct_tests; /* sorted by line */
static unsigned zct_bad;    /* failed checks of the running test; atomic */
static int64_t zct_live;    /* blocks out of every zct_mem; atomic */
static uint64_t zct_seed = 1, zct_random;

static inline void zct_register(zct_test *t) {
    zct_test **at = &zct_tests;
    while (*at && (*at)->line < t->line) at = &(*at)->next;
    t->next = *at;
    *at = t;
}

#define TEST(id)                                                                                   \
    static void zct_run_##id(void);                                                                \
    static zct_test zct_test_##id = {#id, zct_run_##id, __LINE__, NULL};                           \
    __attribute__((constructor)) static void zct_add_##id(void) { zct_register(&zct_test_##id); }  \
    static void zct_run_##id(void)

static inline bool zct_check(const char *file, int line, const char *what, bool good) {
    if (good) return true;
    if (__atomic_add_fetch(&zct_bad, 1, __ATOMIC_RELAXED) > 10) return false; /* said enough */
    printf("%s:%d: failed: %s\n", file, line, what);
    fflush(stdout);
    return false;
}

static inline bool zct_eq(const char *file, int line, const char *what, intmax_t a, intmax_t b) {
    if (a == b) return true;
    if (__atomic_load_n(&zct_bad, __ATOMIC_RELAXED) < 10)
        printf("    left %jd (%#jx), right %jd (%#jx)\n", a, (uintmax_t)a, b, (uintmax_t)b);
    return zct_check(file, line, what, false);
}

static inline bool zct_str(const char *file, int line, const char *what, const char *a,
                           const char *b) {
    if (a == b || (a && b && strcmp(a, b) == 0)) return true;
    if (__atomic_load_n(&zct_bad, __ATOMIC_RELAXED) < 10)
        printf("    left \"%s\"\n    right \"%s\"\n", a ? a : "(NULL)", b ? b : "(NULL)");
    return zct_check(file, line, what, false);
}

#define CHECK(x) zct_check(__FILE__, __LINE__, #x, (x))
#define CHECK_EQ(a, b) zct_eq(__FILE__, __LINE__, #a " == " #b, (intmax_t)(a), (intmax_t)(b))
#define CHECK_STR(a, b) zct_str(__FILE__, __LINE__, #a " equals " #b, (a), (b))
/* clang-format off */
#define REQUIRE(x) do { if (!CHECK(x)) return; } while (0)
/* clang-format on */

/* splitmix64 */
static inline uint64_t zct_rand(void) {
    uint64_t x = zct_random += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}
static inline uint64_t zct_below(uint64_t n) { return zct_rand() % n; }

/* An allocator that watches. Zero-initialize. `fail_at` = n fails the n-th allocation from here,
 * `fail_from` = n that one and all after it; setting `count` back to 0 starts anew. Every block
 * must be free again when its test ends. Thread-safe. */
typedef struct zct_mem {
    uint64_t count, failed;      /* allocations asked for; of them, made to fail */
    uint64_t fail_at, fail_from; /* 0: never */
    int64_t blocks, bytes;       /* out now */
} zct_mem;

typedef union zct_head { /* before each block; two words keep it aligned as malloc's */
    uintptr_t is[2];     /* the size, and its complement while the block is alive */
    max_align_t align;
} zct_head;

static inline void *zct_alloc(void *user, size_t size) {
    zct_mem *m = (zct_mem *)user;
    uint64_t n = __atomic_add_fetch(&m->count, 1, __ATOMIC_RELAXED);
    uint64_t from = __atomic_load_n(&m->fail_from, __ATOMIC_RELAXED);
    bool fail = n == __atomic_load_n(&m->fail_at, __ATOMIC_RELAXED) || (from && n >= from);
    if (fail) __atomic_add_fetch(&m->failed, 1, __ATOMIC_RELAXED);
    zct_head *h = fail ? NULL : (zct_head *)malloc(sizeof *h + size);
    if (!h) return NULL;
    h->is[0] = size;
    h->is[1] = ~(uintptr_t)size;
    memset(h + 1, 0xa5, size);
    __atomic_add_fetch(&m->blocks, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&m->bytes, (int64_t)size, __ATOMIC_RELAXED);
    __atomic_add_fetch(&zct_live, 1, __ATOMIC_RELAXED);
    return h + 1;
}

static inline void zct_free(void *user, void *ptr, size_t size) {
    zct_mem *m = (zct_mem *)user;
    if (!ptr) return;
    zct_head *h = (zct_head *)ptr - 1;
    if (!CHECK(h->is[1] == ~h->is[0] /* a live block */)) return;
    CHECK_EQ(size, h->is[0] /* the size that was asked for */);
    memset(h, 0x5a, sizeof *h + h->is[0]);
    __atomic_sub_fetch(&m->blocks, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&m->bytes, (int64_t)size, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&zct_live, 1, __ATOMIC_RELAXED);
    free(h);
}

static inline zc_allocator zct_allocator(zct_mem *m) {
    zc_allocator a = {1, zct_alloc, zct_free, m};
    return a;
}

/* A clock that stands still. Zero is a fine start; set the fields before zc_open(), and move them
 * with zct_step() and zct_set_wall() after it. Thread-safe. */
typedef struct zct_time {
    uint64_t mono, wall;
} zct_time;

static inline uint64_t zct_mono(void *user) {
    return __atomic_load_n(&((zct_time *)user)->mono, __ATOMIC_ACQUIRE);
}
static inline uint64_t zct_wall(void *user) {
    return __atomic_load_n(&((zct_time *)user)->wall, __ATOMIC_ACQUIRE);
}
static inline void zct_set_wall(zct_time *t, uint64_t wall) {
    __atomic_store_n(&t->wall, wall, __ATOMIC_RELEASE);
}
static inline void zct_step(zct_time *t, uint64_t ns) {
    __atomic_add_fetch(&t->mono, ns, __ATOMIC_RELEASE);
    __atomic_add_fetch(&t->wall, ns, __ATOMIC_RELEASE);
}
static inline zc_clock zct_clock(zct_time *t) {
    zc_clock c = {1, zct_mono, zct_wall, t};
    return c;
}

static inline bool zct_run(const zct_test *t) {
    int64_t live = zct_live;
    printf("%s\n", t->name);
    fflush(stdout);
    zct_bad = 0;
    zct_random = zct_seed;
    t->run();
    if (zct_live != live) CHECK_EQ(zct_live - live, 0); /* blocks leaked */
    if (zct_bad) printf("%s: %u failed checks\n", t->name, zct_bad);
    return zct_bad == 0;
}

/* A value that depends on one tag; NULL: on none. */
static inline int zct_put(zc_cache *c, const char *key, const char *value, const char *dep) {
    zc_bytes tag = zc_str(dep ? dep : "");
    zc_put_opts o = {.deps = &tag, .ndeps = dep != NULL};
    return zc_put(c, zc_str(key), zc_str(value), &o);
}

#ifndef ZC_TEST_NO_MAIN
int main(int argc, char **argv) {
    const char *filter = "";
    unsigned passed = 0, failed = 0;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) list = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            bool any = strcmp(argv[++i], "random") == 0;
            zct_seed = any ? (uint64_t)time(NULL) * 1000003 : strtoull(argv[i], NULL, 0);
        } else filter = argv[i];
    }
    if (!list) printf("seed %" PRIu64 "\n", zct_seed);
    for (const zct_test *t = zct_tests; t; t = t->next) {
        if (!strstr(t->name, filter)) continue;
        if (list) puts(t->name);
        else if (zct_run(t)) passed++;
        else failed++;
    }
    if (!list) printf("%u passed, %u failed\n", passed, failed);
    return list || (passed && !failed) ? 0 : 1;
}

#endif
#endif
