/* How it scales with cores that this machine does not have: the cache lines that an operation
 * writes although another core has used them since, and those that it reads although another core
 * has written them since. Each is a message between cores; one that all cores send about the same
 * line is what throughput ends at. What sends none scales.
 *
 *   bench_lines [--filter START] [--threads N] [--where] [--most LINES]
 *
 * --where names the places that wrote such lines most often, and how often an operation did.
 * --most fails if an operation writes more than so many.
 *
 * The library is compiled for ThreadSanitizer, whose calls at each load, store and atomic come here
 * instead: they keep a directory of who has used which line (as MESI does, with caches that forget
 * nothing). Threads are real, as the library may tell them apart by what is theirs, but one runs at
 * a time, for one operation: so a run is the same each time, whatever the machine, and what is
 * counted is the least that must be sent. What threads do to each other in the middle of an
 * operation, such as waiting for a lock, comes on top. */
#define _GNU_SOURCE
#define ZOOCACHE_IMPLEMENTATION
#define ZOOCACHE_NO_LZ4
#include "zoocache.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CORES 64u
#define KEYS 200000u   /* different keys */
#define ROOM 20000u    /* of which so many fit, and are there */
#define TAGS 1024u
#define WARM 30000u    /* operations of all threads before any is counted */
#define COUNTED 20000u

/* ---- the directory -------------------------------------------------------------------------- */

#define UNSEEN __attribute__((no_sanitize("thread"), noinline))

typedef struct line {
    uintptr_t at;           /* its number; 0: free */
    uint64_t holders, lost; /* cores that have it; that had it until another wrote it */
} line;

typedef struct place {
    void *pc; /* where the library wrote */
    uint64_t n;
} place;

static struct {
    line *lines;
    size_t used;
    place places[4096];
    unsigned core;  /* which runs */
    bool on, count; /* accesses are followed; and counted */
    uint64_t operations, written, read;
} sim;
#define LINES ((size_t)1 << 22)

UNSEEN static void die(const char *why) {
    fprintf(stderr, "bench_lines: %s\n", why);
    exit(1);
}

UNSEEN static line *line_of(uintptr_t at) {
    size_t i = (size_t)(at * UINT64_C(0x9e3779b97f4a7c15) >> 42);
    while (sim.lines[i].at && sim.lines[i].at != at) i = (i + 1) & (LINES - 1);
    if (!sim.lines[i].at && ++sim.used > LINES / 4 * 3) die("the directory is full");
    sim.lines[i].at = at;
    return &sim.lines[i];
}

UNSEEN static void note_place(void *pc) {
    size_t i = (uintptr_t)pc * UINT64_C(0x9e3779b97f4a7c15) >> 52;
    while (sim.places[i].pc && sim.places[i].pc != pc) i = (i + 1) % 4096;
    sim.places[i].pc = pc;
    sim.places[i].n++;
}

UNSEEN static void use(const volatile void *p, size_t size, bool write, void *pc) {
    uint64_t me = UINT64_C(1) << sim.core;
    if (!sim.on || !size) return;
    for (uintptr_t at = (uintptr_t)p / 64; at <= ((uintptr_t)p + size - 1) / 64; at++) {
        line *l = line_of(at);
        uint64_t others = l->holders & ~me;
        if (sim.count && write && others) {
            sim.written++;
            note_place(pc);
        }
        if (sim.count && !write && l->lost & me) sim.read++;
        l->lost &= ~me;
        if (write) {
            l->lost |= others;
            l->holders = 0;
        }
        l->holders |= me;
    }
}

/* ---- what the compiler calls ---------------------------------------------------------------- */

#define PC __builtin_return_address(0)
#define HOOK(type, name, ...)                                                                      \
    type name(__VA_ARGS__);                                                                        \
    UNSEEN type name(__VA_ARGS__)

HOOK(void, __tsan_init, void) {}
HOOK(void, __tsan_func_entry, void *pc) { (void)pc; }
HOOK(void, __tsan_func_exit, void) {}
HOOK(void, __tsan_atomic_thread_fence, int order) { (void)order; }
HOOK(void, __tsan_atomic_signal_fence, int order) { (void)order; }
HOOK(void *, __tsan_memset, void *p, int c, size_t n) {
    use(p, n, true, PC);
    return memset(p, c, n);
}
HOOK(void *, __tsan_memcpy, void *to, const void *from, size_t n) {
    use(from, n, false, PC);
    use(to, n, true, PC);
    return memcpy(to, from, n);
}
HOOK(void *, __tsan_memmove, void *to, const void *from, size_t n) {
    use(from, n, false, PC);
    use(to, n, true, PC);
    return memmove(to, from, n);
}

#define PLAIN(n)                                                                                   \
    HOOK(void, __tsan_read##n, void *p) { use(p, n, false, PC); }                                  \
    HOOK(void, __tsan_write##n, void *p) { use(p, n, true, PC); }                                  \
    HOOK(void, __tsan_unaligned_read##n, void *p) { use(p, n, false, PC); }                        \
    HOOK(void, __tsan_unaligned_write##n, void *p) { use(p, n, true, PC); }
PLAIN(1) PLAIN(2) PLAIN(4) PLAIN(8) PLAIN(16)

/* One thread runs at a time, and hands over by a semaphore: plain accesses are atomic enough. */
#define CHANGE(type, prefix, name, expression)                                                     \
    HOOK(type, prefix##name, volatile type *p, type v, int order) {                                \
        type old = *p;                                                                             \
        (void)order;                                                                               \
        use(p, sizeof *p, true, PC);                                                               \
        *p = (type)(expression);                                                                   \
        return old;                                                                                \
    }
#define ATOMIC(type, prefix)                                                                       \
    HOOK(type, prefix##load, const volatile type *p, int order) {                                  \
        (void)order;                                                                               \
        use(p, sizeof *p, false, PC);                                                              \
        return *p;                                                                                 \
    }                                                                                              \
    HOOK(void, prefix##store, volatile type *p, type v, int order) {                               \
        (void)order;                                                                               \
        use(p, sizeof *p, true, PC);                                                               \
        *p = v;                                                                                    \
    }                                                                                              \
    CHANGE(type, prefix, exchange, v)                                                              \
    CHANGE(type, prefix, fetch_add, old + v)                                                       \
    CHANGE(type, prefix, fetch_sub, old - v)                                                       \
    CHANGE(type, prefix, fetch_and, old &v)                                                        \
    CHANGE(type, prefix, fetch_or, old | v)                                                        \
    HOOK(type, prefix##compare_exchange_val, volatile type *p, type expected, type v, int order,   \
         int failed) {                                                                             \
        type old = *p;                                                                             \
        (void)order;                                                                               \
        (void)failed;                                                                              \
        use(p, sizeof *p, true, PC);                                                               \
        if (old == expected) *p = v;                                                               \
        return old;                                                                                \
    }
ATOMIC(uint8_t, __tsan_atomic8_)
ATOMIC(uint16_t, __tsan_atomic16_)
ATOMIC(uint32_t, __tsan_atomic32_)
ATOMIC(uint64_t, __tsan_atomic64_)

/* ---- the loads ------------------------------------------------------------------------------ */

typedef struct worker {
    unsigned core;
    uint64_t random;
    unsigned turns; /* operations so far */
    sem_t turn;
    pthread_t thread;
} worker;

static worker workers[CORES];
static unsigned threads, turns;
static zc_cache *cache;
static double ranks[KEYS]; /* ranks[i]: the share of the keys 0..i, by Zipf */
static char value[64] = "value";

UNSEEN static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

UNSEEN static void zipf_init(void) {
    double sum = 0;
    for (unsigned i = 0; i < KEYS; i++) ranks[i] = sum += pow(i + 1, -0.99);
}

/* One of the first n keys; which are popular is as it comes. */
UNSEEN static unsigned zipf(worker *w, unsigned n) {
    double x = (double)(next_random(&w->random) >> 11) * 0x1p-53 * ranks[n - 1];
    unsigned low = 0, high = n - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (ranks[middle] < x) low = middle + 1;
        else high = middle;
    }
    return (unsigned)(low * UINT64_C(7919) % n);
}

UNSEEN static unsigned any(worker *w) { return (unsigned)(next_random(&w->random) % KEYS); }

typedef struct text {
    char at[24];
    zc_bytes bytes;
} text;

UNSEEN static void name(text *t, const char *form, unsigned i) {
    t->bytes = zc_slice(t->at, (size_t)snprintf(t->at, sizeof t->at, form, i));
}

static int put(unsigned i) {
    text key, tag;
    name(&key, "key:%012u", i);
    name(&tag, "tag:%04u", i % TAGS);
    zc_put_opts o;
    memset(&o, 0, sizeof o);
    o.deps = &tag.bytes;
    o.ndeps = 1;
    return zc_put(cache, key.bytes, zc_slice(value, sizeof value), &o);
}

static int get(unsigned i) {
    text key;
    char copy[64];
    name(&key, "key:%012u", i);
    return zc_get_copy(cache, key.bytes, copy, sizeof copy, NULL);
}

static int pin(unsigned i) {
    text key;
    zc_view v;
    name(&key, "key:%012u", i);
    int rc = zc_get(cache, key.bytes, &v);
    zc_release(cache, &v);
    return rc;
}

static int load(zc_fill *fill, void *user) {
    text tag;
    name(&tag, "tag:%04u", *(unsigned *)user % TAGS);
    (void)zc_fill_dep(fill, tag.bytes);
    return zc_fill_value(fill, zc_slice(value, sizeof value));
}

static int fetch(unsigned i) {
    text key;
    zc_view v;
    name(&key, "key:%012u", i);
    int rc = zc_fetch(cache, key.bytes, load, &i, NULL, &v);
    zc_release(cache, &v);
    return rc;
}

static int invalidate(unsigned i) {
    text tag;
    name(&tag, "tag:%04u", i % TAGS);
    return zc_invalidate(cache, tag.bytes);
}

static int hit_hot(worker *w) { return (void)w, get(7); }
static int pin_hot(worker *w) { return (void)w, pin(7); }
static int hit_zipf(worker *w) { return get(zipf(w, ROOM)); }
static int pin_zipf(worker *w) { return pin(zipf(w, ROOM)); }
static int fetch_hot(worker *w) { return (void)w, fetch(7); }
static int fetch_zipf(worker *w) { return fetch(zipf(w, ROOM)); }
static int put_zipf(worker *w) { return put(zipf(w, ROOM)); }
static int put_new(worker *w) { return put(any(w)); }
static int fetch_new(worker *w) { return fetch(any(w)); }
static int invalidate_zipf(worker *w) { return invalidate(zipf(w, TAGS)); }
static int get_or_put(worker *w) {
    unsigned i = zipf(w, KEYS);
    int rc = get(i);
    return rc == ZC_MISS ? put(i) : rc;
}
static int invalidate_other(worker *w) { return (void)w, zc_invalidate(cache, zc_str("other")); }
static int replace_hot(worker *w) { return (void)w, put(7); }

static const struct {
    const char *name;
    int (*operation)(worker *w);
    int (*between)(worker *w); /* NULL, or done before every sixteenth, and not counted */
} loads[] = {
    {"hit, one hot key", hit_hot, NULL},
    {"hit, Zipf", hit_zipf, NULL},
    {"pinned hit, one hot key", pin_hot, NULL},
    {"pinned hit, Zipf", pin_zipf, NULL},
    {"hit beside puts, one hot key", hit_hot, replace_hot},
    {"hit beside invalidations, Zipf", hit_zipf, invalidate_other},
    {"fetch, a hit, one hot key", fetch_hot, NULL},
    {"fetch, a hit, Zipf", fetch_zipf, NULL},
    {"fetch, room for a tenth", fetch_new, NULL},
    {"get or put, Zipf, room for 10 %", get_or_put, NULL},
    {"put, Zipf, replaces", put_zipf, NULL},
    {"put, room for a tenth", put_new, NULL},
    {"invalidate, Zipf", invalidate_zipf, NULL},
};
enum { LOADS = sizeof loads / sizeof *loads };
static unsigned current;

static void *work(void *user) {
    worker *w = (worker *)user;
    for (unsigned i = 0; i < turns; i++) {
        sem_wait(&w->turn);
        sim.core = w->core;
        if (loads[current].between && (i * threads + w->core) % 16 == 0)
            (void)loads[current].between(w);
        sim.count = i >= turns * (uint64_t)WARM / (WARM + COUNTED);
        int rc = loads[current].operation(w);
        sim.operations += sim.count;
        sim.count = false;
        if (rc < 0) die(zc_strerror(rc));
        sem_post(&workers[(w->core + 1) % threads].turn);
    }
    return NULL;
}

static void fill_cache(void) {
    zc_desc d;
    memset(&d, 0, sizeof d);
    d.max_entries = ROOM;
    d.no_thread = true;
    d.seed = 42;
    if (zc_open(&d, &cache) != ZC_OK) die("zc_open");
    for (unsigned i = ROOM; i-- > 0;)
        if (put(i) != ZC_OK) die("zc_put");
    for (unsigned i = 0; i < 4 * ROOM; i++) (void)get(i % ROOM); /* marks of use are set */
}

static void run(unsigned n) {
    threads = n;
    turns = (WARM + COUNTED) / n;
    memset(sim.lines, 0, LINES * sizeof *sim.lines);
    sim.used = sim.core = 0;
    sim.operations = sim.written = sim.read = 0;
    sim.on = true;
    fill_cache();
    for (unsigned i = 0; i < n; i++) {
        worker *w = &workers[i];
        *w = (worker){.core = i, .random = i + 1};
        if (sem_init(&w->turn, 0, i == 0)) die("sem_init");
    }
    for (unsigned i = 0; i < n; i++)
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) die("pthread_create");
    for (unsigned i = 0; i < n; i++) pthread_join(workers[i].thread, NULL);
    sim.on = false;
    zc_close(cache);
}

static int more_often(const void *a, const void *b) {
    const place *p = (const place *)a, *q = (const place *)b;
    return (p->n < q->n) - (p->n > q->n);
}

static void say_where(const char *program) {
    char command[512];
    qsort(sim.places, 4096, sizeof *sim.places, more_often);
    for (unsigned i = 0; i < 8 && sim.places[i].n; i++) {
        printf("    %6.3f ", (double)sim.places[i].n / (double)sim.operations);
        fflush(stdout);
        snprintf(command, sizeof command, "addr2line -fips -e %s %#" PRIxPTR, program,
                 (uintptr_t)sim.places[i].pc - 1);
        if (system(command) != 0) die("addr2line has failed");
    }
}

int main(int argc, char **argv) {
    const char *filter = "";
    unsigned only = 0, bad = 0;
    double most = INFINITY;
    bool where = false;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--where") == 0) where = true;
        else if (more && strcmp(argv[i], "--filter") == 0) filter = argv[++i];
        else if (more && strcmp(argv[i], "--threads") == 0) only = (unsigned)atoi(argv[++i]);
        else if (more && strcmp(argv[i], "--most") == 0) most = atof(argv[++i]);
        else die("[--filter START] [--threads N] [--where] [--most LINES]");
    }
    if (only > CORES) die("at most 64 threads");
    sim.lines = malloc(LINES * sizeof *sim.lines);
    if (!sim.lines) die("no memory");
    zipf_init();
    printf("cache lines an operation: written that another core has used since, read that another "
           "has written\n%-32s", "threads");
    for (unsigned n = 1; n <= CORES; n *= 2)
        if (!only || n == only) printf(" %12u", n);
    printf("\n");
    for (current = 0; current < LOADS; current++) {
        if (strncmp(loads[current].name, filter, strlen(filter)) != 0) continue;
        printf("%-32s", loads[current].name);
        memset(sim.places, 0, sizeof sim.places);
        for (unsigned n = 1; n <= CORES; n *= 2) {
            if (only && n != only) continue;
            run(n);
            double operations = (double)sim.operations;
            printf("  %5.2f %5.2f", (double)sim.written / operations, (double)sim.read / operations);
            fflush(stdout);
            bad += (double)sim.written / operations > most;
        }
        printf("\n");
        if (where) say_where(argv[0]);
    }
    free(sim.lines);
    return bad != 0;
}
