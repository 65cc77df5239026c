/* The longest call and the 99.99th percentile of every operation, over N entries, growth included:
 * what a frame of a game, or a control loop, has to reckon with.
 *
 * A machine that others use preempts at any moment, and that says nothing of the library. So the
 * same sequence of calls is run several times, each time in a new process, and of each call the
 * shortest of its times counts: a preemption seldom meets the same call again, while work that the
 * call really does is there every time. Page faults are there every time, too, with malloc; a
 * fixed block is touched before.
 *
 * zc_poll() for a time is not the same in each run: there the longest call of each run is taken, in
 * time of the processor, and of these the shortest. Its single steps, zc_poll(c, 0), are the same:
 * a poll takes its budget and at most one step more.
 *
 *   bench_frames [--entries N] [--runs N]        default: 1000000, 5
 *
 * Built twice, with threads and with ZOOCACHE_NO_THREADS; the caches have no thread in either. */
#define _GNU_SOURCE
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 200000u /* the bars, in nanoseconds */
#define MOST 20000u

enum { PUT, PUT_FULL, PUT_RESIZE, PUT_CLEARED, PUT_TAGGED, GET, GET_GROWING, FETCH, INVALIDATE,
       STAMP, CLEAR, DEL_MANY, STEP_MANY, STEP_CLEARED, STEP_LARGE, POLL_CLEARED, POLL_INVALIDATED,
       OPS };
static const char *const names[OPS] = {
    "zc_put, growing", "zc_put, a full cache", "zc_put, max_bytes, other sizes",
    "zc_put, after zc_clear", "zc_put, each with a new tag", "zc_get", "zc_get, growing",
    "zc_fetch, half of them misses", "zc_invalidate, half of them new tags",
    "the writer's lock, for 16,384 tags", "zc_clear",
    "zc_del, of 65,535 dependencies", "a step of zc_poll, after that",
    "a step of zc_poll, after zc_clear", "a step of zc_poll, 64 MiB a value",
    "zc_poll for 100 us, after zc_clear", "zc_poll for 100 us, after zc_invalidate"};

/* Shared with the processes of the runs: of each call the shortest time, and how many there are. */
typedef struct samples {
    size_t cap, n;
    uint32_t *ns, longest; /* of zc_poll: the shortest of the runs' longest calls */
} samples;
static samples *ops;

static unsigned entries = 1000000;
static size_t at[OPS];
static uint32_t longest[OPS]; /* of this run */
static uint64_t chance;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The processor's time of this thread. What zc_poll() does in one call depends on the clock, so
 * calls of different runs cannot be compared: this leaves the preemptions out by itself. */
static uint64_t busy(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void took_ns(int op, uint64_t ns) {
    samples *s = &ops[op];
    size_t i = at[op]++;
    if (i >= s->cap) return;
    if (ns > UINT32_MAX) ns = UINT32_MAX;
    if (ns > longest[op]) longest[op] = (uint32_t)ns;
    if (ns < s->ns[i]) s->ns[i] = (uint32_t)ns;
    if (s->n < at[op]) s->n = at[op];
}
static void took(int op, uint64_t begin) { took_ns(op, now() - begin); }

static uint64_t below(uint64_t n) { return zc__random(&chance) % n; }

static zc_bytes key_of(uint64_t i) {
    static char text[32];
    return zc_slice(text, (size_t)snprintf(text, sizeof text, "key-%llu", (unsigned long long)i));
}
static zc_bytes tag_of(uint64_t i) {
    static char text[48];
    int n = snprintf(text, sizeof text, "org:%llu:user:%llu", (unsigned long long)(i % 1000),
                     (unsigned long long)i);
    return zc_slice(text, (size_t)n);
}

static void put(zc_cache *c, int op, uint64_t i, const zc_put_opts *o, size_t size) {
    static char value[256];
    zc_bytes key = key_of(i);
    uint64_t t = now();
    (void)zc_put(c, key, zc_slice(value, size), o);
    took(op, t);
}

static void get(zc_cache *c, int op, uint64_t i) {
    zc_view v;
    zc_bytes key = key_of(i);
    uint64_t t = now();
    (void)zc_get(c, key, &v);
    zc_release(c, &v);
    took(op, t);
}

static int poll(zc_cache *c, int op) {
    uint64_t t = busy();
    int rc = zc_poll(c, 100 * ZC_MICROSECOND);
    took_ns(op, busy() - t);
    return rc;
}
static void poll_all(zc_cache *c, int op) {
    while (poll(c, op) == ZC_MORE) {}
}

static int load(zc_fill *fill, void *user) { return zc_fill_value(fill, zc_str((const char *)user)); }

static void fetch(zc_cache *c, uint64_t i) {
    static char value[] = "a value of twenty b.";
    zc_view v;
    zc_bytes key = key_of(i);
    uint64_t t = now();
    (void)zc_fetch(c, key, load, value, NULL, &v);
    zc_release(c, &v);
    took(FETCH, t);
}

/* No limit: growth, hits, clearing, and growing into what was cleared. */
static void run_growing(zc_cache *c) {
    for (unsigned i = 0; i < entries; i++) {
        put(c, PUT, i, NULL, 20);
        get(c, GET_GROWING, below(i + 1));
    }
    for (unsigned i = 0; i < entries; i++) get(c, GET, below(entries));
    for (unsigned i = 0; i < entries / 2; i++) fetch(c, below(2 * (uint64_t)entries));
    uint64_t t = now();
    (void)zc_clear(c);
    took(CLEAR, t);
    for (unsigned i = 0; i < entries; i++) {
        put(c, PUT_CLEARED, i + entries / 2, NULL, 20);
        if (i % 1000 == 0) (void)poll(c, POLL_CLEARED);
    }
    (void)zc_clear(c);
    poll_all(c, POLL_CLEARED);
}

static void run_full(zc_cache *c) {
    for (unsigned i = 0; i < 2 * entries; i++) put(c, PUT_FULL, i, NULL, 20);
}

/* Values become larger and smaller, so that the number of entries that fit changes. */
static void run_resized(zc_cache *c) {
    for (unsigned i = 0; i < 2 * entries; i++)
        put(c, PUT_RESIZE, i, NULL, i / (entries / 2) % 2 ? 8 : 200);
}

static void run_tagged(zc_cache *c) {
    for (unsigned i = 0; i < entries; i++) {
        zc_bytes tag = tag_of(i);
        zc_put_opts o = {.deps = &tag, .ndeps = 1};
        put(c, PUT_TAGGED, i, &o, 20);
    }
    for (unsigned i = 0; i < entries / 2; i++) {
        zc_bytes tag = tag_of(below(2 * (uint64_t)entries));
        uint64_t t = now();
        (void)zc_invalidate(c, tag);
        took(INVALIDATE, t);
    }
    poll_all(c, POLL_INVALIDATED);
}

/* What zc_invalidate_many() holds the writer's lock for: readers who meet a version that is not
 * published yet wait for its end. */
static void run_many(zc_cache *c) {
    enum { MANY = 16384 };
    static char text[MANY][32];
    static zc_bytes tags[MANY];
    zc__nodes nodes;
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(text[i], sizeof text[i], "org:%u:user:%u", i % 1000, i);
        tags[i] = zc_str(text[i]);
    }
    for (int i = 0; i < 100; i++) {
        (void)zc__nodes_acquire(c, tags, MANY, false, &nodes);
        uint64_t t = now();
        (void)zc__trie_stamp(&c->trie, nodes.list, nodes.n, 0);
        took(STAMP, t);
        zc__nodes_release(c, &nodes);
    }
}

/* Housekeeping in steps, with a clock that stands still: the same ones in each run. */
static void steps(zc_cache *c, int op) {
    int rc;
    do {
        uint64_t t = now();
        rc = zc_poll(c, 0);
        took(op, t);
    } while (rc == ZC_MORE);
}

static void run_steps(zc_cache *c) {
    enum { MANY = 65535, SIZE = 64 << 20 };
    static char text[MANY][16], value[SIZE];
    static zc_bytes tags[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(text[i], sizeof text[i], "n:%u", i);
        tags[i] = zc_str(text[i]);
    }
    zc_put_opts o = {.deps = tags, .ndeps = MANY};
    for (unsigned i = 0; i < 4; i++) {
        (void)zc_put(c, zc_str("k"), zc_str("v"), &o);
        for (unsigned k = 0; k < entries / 4; k++) (void)zc_put(c, key_of(k), zc_str("v"), NULL);
        (void)zc_invalidate(c, zc_str("unrelated")); /* so that sweeping looks */
        steps(c, STEP_MANY);
        uint64_t t = now();
        (void)zc_del(c, zc_str("k"));
        took(DEL_MANY, t);
        steps(c, STEP_MANY);
        (void)zc_put(c, zc_str("large"), zc_slice(value, SIZE), NULL);
        (void)zc_del(c, zc_str("large"));
        steps(c, STEP_LARGE);
        (void)zc_clear(c);
        steps(c, STEP_CLEARED);
    }
}

static uint64_t still(void *user) { (void)user; return 1000 * ZC_SECOND; }

static void run(void (*part)(zc_cache *), zc_desc d, bool block) {
    zc_cache *c;
    d.no_thread = true;
    d.seed = chance = 42;
    if (block) {
        d.block_size = (size_t)entries * 512 + (64u << 20);
        d.block = mmap(NULL, d.block_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0);
        if (d.block == MAP_FAILED) abort();
        memset(d.block, 0xa5, d.block_size);
    }
    if (zc_open(&d, &c) != ZC_OK) abort();
    part(c);
    zc_close(c);
    if (block) munmap(d.block, d.block_size);
}

static void run_all(bool block) {
    run(run_growing, (zc_desc){0}, block);
    run(run_full, (zc_desc){.max_entries = entries}, block);
    run(run_resized, (zc_desc){.max_bytes = (size_t)entries * 160}, block);
    run(run_tagged, (zc_desc){0}, block);
    run(run_many, (zc_desc){0}, block);
    run(run_steps, (zc_desc){.clock = {1, still, still, NULL}}, block);
    for (int op = 0; op < OPS; op++)
        if (longest[op] < ops[op].longest) ops[op].longest = longest[op];
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void report(int op, const char *memory) {
    samples *s = &ops[op];
    if (!s->n) return;
    qsort(s->ns, s->n, sizeof *s->ns, compare);
    uint32_t at_most = s->ns[s->n - 1], most = s->ns[(size_t)((double)(s->n - 1) * 0.9999)];
    bool polls = op == POLL_CLEARED || op == POLL_INVALIDATED;
    if (polls) at_most = s->longest;
    printf("%-38s %-6s %9zu %8.2f %10.1f %10.1f%s\n", names[op], memory, s->n,
           s->ns[s->n / 2] / 1e3, most / 1e3, at_most / 1e3,
           at_most > LONGEST || (op < STAMP && most > MOST) ? "  over" : "");
}

int main(int argc, char **argv) {
    unsigned runs = 5;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--entries") == 0) entries = (unsigned)atoi(argv[i + 1]);
        if (strcmp(argv[i], "--runs") == 0) runs = (unsigned)atoi(argv[i + 1]);
    }
    if (entries < 1000) entries = 1000;
    printf("%s, %u entries, the shortest of %u runs for each call, us; bars: longest %u, 99.99 %% "
           "%u\n%-38s %-6s %9s %8s %10s %10s\n",
           ZC__CAN_SLEEP ? "with threads" : "ZOOCACHE_NO_THREADS", entries, runs, LONGEST / 1000,
           MOST / 1000, "call", "memory", "calls", "median", "99.99 %", "longest");
    for (int block = 0; block < 2; block++) {
        size_t cap = 2 * (size_t)entries, size = OPS * (sizeof(samples) + cap * sizeof(uint32_t));
        ops = (samples *)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (ops == MAP_FAILED) return 1;
        memset(ops, 0xff, size);
        for (int op = 0; op < OPS; op++) {
            ops[op].cap = cap;
            ops[op].n = 0;
            ops[op].longest = UINT32_MAX;
            ops[op].ns = (uint32_t *)(void *)(ops + OPS) + (size_t)op * cap;
        }
        for (unsigned r = 0; r < runs; r++) {
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                run_all(block);
                _exit(0);
            }
            int status = 1;
            if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) return 1;
        }
        for (int op = 0; op < OPS; op++) report(op, block ? "block" : "malloc");
        munmap(ops, size);
    }
    return 0;
}
