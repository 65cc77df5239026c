/* bench.c - what the operations of zoocache cost, and how well it evicts.
 *
 *   build/bench                       everything, in less than two minutes
 *   build/bench --list                the workloads
 *   build/bench --filter storm        those whose name contains "storm"
 *   build/bench --trace FILE          replays a trace of little-endian 64-bit keys; FILE.xz too
 *   build/bench --threads N           up to N threads (default: as many as there are processors)
 *   build/bench --seconds S           about S seconds of measuring a workload (default: 1)
 *   build/bench --repeats R           in R samples (default: 9)
 *   build/bench --seed N --json
 *
 * Uses the public interface alone. One thread: CPU time of the thread. Several: wall time from the
 * start of the first to the end of the last, divided by all operations of all threads, so its
 * inverse is the throughput; the note gives the CPU time. Keys have 16 bytes, values 64, unless
 * said otherwise; an entry has one dependency, on one of 1024 tags of depth 2. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include "sim.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <threads.h>
#include <unistd.h>

#ifndef BENCH_FLAGS
#  define BENCH_FLAGS "unknown"
#endif
#ifdef __clang__
#  define COMPILER __VERSION__
#else
#  define COMPILER "gcc " __VERSION__
#endif

#define KEYS 1000000u    /* different keys */
#define RESIDENT 100000u /* of which the hit workloads hold so many */
#define ORDER (1u << 20) /* length of the precomputed orders of access: a power of two */
#define TAGS 1024u
#define KEY_LEN 16u
#define VALUE_LEN 64u
#define BATCH 32u
#define MAX_THREADS 64u
#define MAX_SAMPLES 1000u

static struct {
    unsigned threads, repeats;
    double seconds;
    uint64_t seed;
    const char *filter;
    const char *traces[64];
    unsigned ntraces;
    bool json, list;
} opt = {0, 9, 1.0, 42, "", {0}, 0, false, false};

/* ---- small things --------------------------------------------------------------------------- */

static void die(const char *what, int rc) {
    fprintf(stderr, "bench: %s: %s\n", what, zc_strerror(rc));
    exit(1);
}

/* Every call that is measured must also have done its work. */
static inline void must(bool good, const char *what, int rc) {
    if (!good) die(what, rc);
}

static void *need(void *memory) {
    if (!memory) die("bench", ZC_E_NOMEM);
    return memory;
}

static double clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static double wall_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
static double cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

static uint64_t next_random(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return sim_mix(*state);
}
static uint32_t random_below(uint64_t *state, uint32_t n) {
    return (uint32_t)((next_random(state) >> 32) * n >> 32);
}

/* Zipf's distribution over 1..n by rejection-inversion (Hormann, Derflinger 1996). */
#define ZIPF_S 0.99
static double zipf_integral(double x) { return (pow(x, 1 - ZIPF_S) - 1) / (1 - ZIPF_S); }
static double zipf_inverse(double y) { return pow(1 + y * (1 - ZIPF_S), 1 / (1 - ZIPF_S)); }

static uint32_t zipf(uint64_t *state, uint32_t n) {
    double low = zipf_integral(1.5) - 1, high = zipf_integral(n + 0.5);
    double slack = 2 - zipf_inverse(zipf_integral(2.5) - pow(2, -ZIPF_S));
    for (;;) {
        double u = high + (double)(next_random(state) >> 11) * 0x1p-53 * (low - high);
        double x = zipf_inverse(u), k = floor(x + 0.5);
        if (k < 1) k = 1;
        if (k > n) k = n;
        if (k - x <= slack || u >= zipf_integral(k + 0.5) - pow(k, -ZIPF_S)) return (uint32_t)k;
    }
}

/* ---- data ----------------------------------------------------------------------------------- */

static char (*keys)[KEY_LEN];       /* "key:000000000042" */
static uint32_t *uniform_order;     /* over the resident keys */
static uint32_t *zipf_order;        /* likewise */
static uint32_t *hot_order;         /* of one of them */
static uint32_t *wide_order;        /* Zipf over all keys */
static char value64[VALUE_LEN] = "value";

static uint32_t *make_order(uint32_t n, bool skewed, uint64_t seed) {
    uint32_t *order = need(malloc(ORDER * sizeof *order)), *name = need(malloc(n * sizeof *name));
    for (uint32_t i = 0; i < n; i++) name[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = random_below(&seed, i), t = name[j];
        name[j] = name[i - 1];
        name[i - 1] = t;
    }
    for (uint32_t i = 0; i < ORDER; i++)
        order[i] = name[skewed ? zipf(&seed, n) - 1 : random_below(&seed, n)];
    free(name);
    return order;
}

static void make_data(void) {
    if (keys) return;
    keys = need(malloc((size_t)KEYS * KEY_LEN));
    for (uint32_t i = 0; i < KEYS; i++) {
        char text[32];
        snprintf(text, sizeof text, "key:%012u", (unsigned)i);
        memcpy(keys[i], text, KEY_LEN);
    }
    uniform_order = make_order(RESIDENT, false, opt.seed);
    hot_order = make_order(1, false, opt.seed);
    zipf_order = make_order(RESIDENT, true, opt.seed + 1);
    wide_order = make_order(KEYS, true, opt.seed + 2);
}

/* ---- output --------------------------------------------------------------------------------- */

typedef struct report {
    const char *name, *unit;
    unsigned threads;
    double samples[MAX_SAMPLES];
    unsigned n;
    char note[160];
} report;

static unsigned reported;

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const report *r, double q) {
    return r->samples[(unsigned)((r->n - 1) * q + 0.5)];
}
static double median(report *r) {
    qsort(r->samples, r->n, sizeof *r->samples, by_size);
    return quantile(r, 0.5);
}

static void add(report *r, double sample) {
    if (r->n < MAX_SAMPLES) r->samples[r->n++] = sample;
}

static void note(report *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->note, sizeof r->note, format, args);
    va_end(args);
}

static void print_report(report *r) {
    double mid = median(r);
    reported++;
    if (opt.json) {
        printf("%s\n  {\"name\": \"%s\", \"threads\": %u, \"unit\": \"%s\", \"median\": %.4f, "
               "\"min\": %.4f, \"p90\": %.4f, \"max\": %.4f, \"samples\": %u, \"note\": \"%s\"}",
               reported > 1 ? "," : "", r->name, r->threads, r->unit, mid, quantile(r, 0),
               quantile(r, 0.9), quantile(r, 1), r->n, r->note);
    } else {
        int digits = mid < 1 ? 4 : 1;
        printf("%-15s %2u %8.*f %8.*f %8.*f %8.*f  %-11s %s\n", r->name, r->threads, digits, mid,
               digits, quantile(r, 0), digits, quantile(r, 0.9), digits, quantile(r, 1), r->unit,
               r->note);
    }
    fflush(stdout);
    r->n = 0;
    r->note[0] = '\0';
}

/* The first line of a file that begins with `field`, from after its ": "; or all of the line. */
static void read_line(const char *path, const char *field, char *out, size_t cap) {
    char line[256];
    FILE *f = fopen(path, "r");
    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, field, strlen(field)) != 0) continue;
        const char *from = *field ? strchr(line, ':') : line;
        from = from ? from + strspn(from, ": \t") : line;
        snprintf(out, cap, "%.*s", (int)strcspn(from, "\n\"\\"), from);
        break;
    }
    if (f) fclose(f);
}

static void print_head(void) {
    char cpu[128], load[64];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    read_line("/proc/cpuinfo", "model name", cpu, sizeof cpu);
    read_line("/proc/loadavg", "", load, sizeof load);
    if (opt.json) {
        printf("{\"zoocache\": \"%s\", \"cpu\": \"%s\", \"cores\": %ld, \"load\": \"%s\", "
               "\"compiler\": \"%s\", \"flags\": \"%s\", \"seed\": %llu, \"seconds\": %g, "
               "\"repeats\": %u, \"results\": [",
               ZOOCACHE_VERSION, cpu, cores, load, COMPILER, BENCH_FLAGS,
               (unsigned long long)opt.seed, opt.seconds, opt.repeats);
        return;
    }
    printf("zoocache %s\nmachine   %s, %ld cores, load %s\ncompiler  %s, %s\n"
           "seed %llu, %g s and %u samples a workload\n\n",
           ZOOCACHE_VERSION, cpu, cores, load, COMPILER, BENCH_FLAGS,
           (unsigned long long)opt.seed, opt.seconds, opt.repeats);
    printf("%-15s %2s %8s %8s %8s %8s  %s\n", "workload", "th", "median", "min", "p90", "max",
           "unit");
}

/* ---- a cache with its tags ------------------------------------------------------------------ */

typedef struct rig {
    zc_cache *cache;
    zc_tag *tags[TAGS];
} rig;

static zc_bytes key_of(uint32_t i) { return zc_slice(keys[i], KEY_LEN); }

static zc_tag *intern(zc_cache *cache, const char *format, ...) {
    char text[64];
    zc_tag *tag;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int rc = zc_tag_intern(cache, zc_str(text), &tag);
    if (rc != ZC_OK) die(text, rc);
    return tag;
}

static void rig_open(rig *r, zc_desc desc, const char *tag_format) {
    desc.seed = opt.seed;
    int rc = zc_open(&desc, &r->cache);
    if (rc != ZC_OK) die("zc_open", rc);
    for (unsigned i = 0; i < TAGS; i++) r->tags[i] = intern(r->cache, tag_format, i);
}

static void rig_close(rig *r) {
    for (unsigned i = 0; i < TAGS; i++) zc_tag_release(r->cache, r->tags[i]);
    zc_close(r->cache);
}

static inline zc_tag **tag_of(rig *r, uint32_t i) { return &r->tags[i % TAGS]; }

static inline void put(rig *r, uint32_t i) {
    zc_put_opts opts = {.tags = tag_of(r, i), .ntags = 1};
    int rc = zc_put(r->cache, key_of(i), zc_slice(value64, VALUE_LEN), &opts);
    must(rc == ZC_OK, "zc_put", rc);
}

static void fill(rig *r, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) put(r, i);
}

/* ---- running a body in threads -------------------------------------------------------------- */

/* What one thread works on. A body does `ops` operations from `at` on, and leaves `at` behind them,
 * so that the next sample goes on where this one ended. */
typedef struct task {
    _Alignas(256) rig *r; /* no two tasks in one cache line, nor in neighbours */
    const uint32_t *order;
    uint64_t at;
    uint64_t ops;
    uint64_t hits;
    zc_tag *unrelated;
    zc_bytes text;
    uint64_t sink; /* keeps what was read from being optimised away */
    double started, ended, cpu;
    atomic_uint *gate; /* threads that are not ready yet */
    void (*body)(struct task *t);
} task;

typedef void body_fn(task *t);

static void run_body(task *t) {
    double cpu = cpu_ns();
    t->started = wall_ns();
    t->body(t);
    t->ended = wall_ns();
    t->cpu = cpu_ns() - cpu;
}

static int run_thread(void *arg) {
    task *t = arg;
    atomic_fetch_sub(t->gate, 1);
    while (atomic_load(t->gate)) thrd_yield();
    run_body(t);
    return 0;
}

typedef struct sample {
    double wall, cpu; /* ns an operation */
} sample;

static sample run_tasks(task *tasks, unsigned threads) {
    thrd_t thread[MAX_THREADS];
    atomic_uint gate = threads;
    double from = INFINITY, to = 0, cpu = 0, ops = 0;
    for (unsigned i = 0; i < threads; i++) tasks[i].gate = &gate;
    if (threads == 1) {
        run_body(&tasks[0]);
    } else {
        for (unsigned i = 0; i < threads; i++)
            must(thrd_create(&thread[i], run_thread, &tasks[i]) == thrd_success, "thrd_create",
                 ZC_E_THREAD);
        for (unsigned i = 0; i < threads; i++) thrd_join(thread[i], NULL);
    }
    for (unsigned i = 0; i < threads; i++) {
        from = fmin(from, tasks[i].started);
        to = fmax(to, tasks[i].ended);
        cpu += tasks[i].cpu;
        ops += (double)tasks[i].ops;
    }
    return (sample){(to - from) / ops, cpu / ops};
}

/* Operations for about a sample's share of --seconds; warms up on the way. */
static uint64_t calibrate(task *t, body_fn *body) {
    double want = opt.seconds * 1e9 / opt.repeats;
    t->body = body;
    for (t->ops = 1024;; t->ops *= 2) {
        double cpu = run_tasks(t, 1).cpu * (double)t->ops;
        if (cpu < want / 4 && t->ops < UINT64_C(1) << 32) continue;
        uint64_t ops = (uint64_t)(want / cpu * (double)t->ops);
        return ops / BATCH * BATCH + BATCH;
    }
}

/* Samples of a body that can go on for ever. */
static void measure(report *r, task *t, body_fn *body) {
    uint64_t ops = calibrate(t, body);
    for (unsigned i = 0; i < opt.repeats; i++) {
        t->ops = ops;
        add(r, run_tasks(t, 1).cpu);
    }
}

/* ---- hits and misses ------------------------------------------------------------------------ */

static inline uint32_t next_key(task *t) { return t->order[t->at++ & (ORDER - 1)]; }

static void body_hit(task *t) {
    char out[VALUE_LEN];
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_get_copy(t->r->cache, key_of(next_key(t)), out, sizeof out, NULL);
        must(rc == ZC_OK, "a hit", rc);
        t->sink += (unsigned char)out[5];
    }
}

static void body_pin(task *t) {
    zc_view view;
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_get(t->r->cache, key_of(next_key(t)), &view);
        must(rc == ZC_OK, "a pinned hit", rc);
        t->sink += *(const unsigned char *)view.data;
        zc_release(t->r->cache, &view);
    }
}

static void body_many(task *t) {
    zc_bytes batch[BATCH];
    zc_view views[BATCH];
    int results[BATCH];
    for (uint64_t i = 0; i < t->ops; i += BATCH) {
        for (unsigned k = 0; k < BATCH; k++) batch[k] = key_of(next_key(t));
        int rc = zc_get_many(t->r->cache, batch, BATCH, views, results);
        must(rc == (int)BATCH, "zc_get_many", rc);
        for (unsigned k = 0; k < BATCH; k++) {
            t->sink += *(const unsigned char *)views[k].data;
            zc_release(t->r->cache, &views[k]);
        }
    }
}

static int load_never(zc_fill *f, void *user) {
    (void)f;
    (void)user;
    return ZC_E_LOADER;
}

static void body_fetch_hit(task *t) {
    zc_view view;
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_fetch(t->r->cache, key_of(next_key(t)), load_never, NULL, NULL, &view);
        must(rc == ZC_OK, "zc_fetch of a resident key", rc);
        t->sink += *(const unsigned char *)view.data;
        zc_release(t->r->cache, &view);
    }
}

static void body_miss(task *t) {
    char out[VALUE_LEN];
    for (uint64_t i = 0; i < t->ops; i++) {
        uint32_t key = RESIDENT + next_key(t);
        int rc = zc_get_copy(t->r->cache, key_of(key), out, sizeof out, NULL);
        must(rc == ZC_MISS, "a miss", rc);
    }
}

static void run_hits(report *r, const uint32_t *order, uint64_t ttl, body_fn *body) {
    static rig g;
    rig_open(&g, (zc_desc){.max_entries = 2 * RESIDENT, .ttl = ttl}, "group:%u");
    fill(&g, RESIDENT);
    task t = {.r = &g, .order = order};
    measure(r, &t, body);
    print_report(r);
    rig_close(&g);
}

static void hit_uniform(report *r) { run_hits(r, uniform_order, 0, body_hit); }
static void hit_hot(report *r) { run_hits(r, hot_order, 0, body_hit); }
static void hit_zipf(report *r) { run_hits(r, zipf_order, 0, body_hit); }
static void hit_ttl(report *r) { run_hits(r, uniform_order, 3600 * ZC_SECOND, body_hit); }
static void hit_pin(report *r) { run_hits(r, uniform_order, 0, body_pin); }
static void hit_fetch(report *r) { run_hits(r, uniform_order, 0, body_fetch_hit); }
static void miss(report *r) { run_hits(r, uniform_order, 0, body_miss); }
/* Samples of it and of as many single calls take turns, over more than the caches hold. */
static void hit_many(report *r) {
    static rig g;
    static report single;
    uint32_t *order = make_order(KEYS, false, opt.seed);
    rig_open(&g, (zc_desc){.max_entries = 2 * KEYS}, "group:%u");
    fill(&g, KEYS);
    task t = {.r = &g, .order = order};
    uint64_t ops = calibrate(&t, body_pin) / 2 / BATCH * BATCH + BATCH;
    for (unsigned i = 0; i < opt.repeats; i++) {
        t.ops = ops;
        t.body = body_pin;
        add(&single, run_tasks(&t, 1).cpu);
        t.body = body_many;
        add(r, run_tasks(&t, 1).cpu);
    }
    note(r, "%u keys a call, of 1e6; x %.2f of zc_get and zc_release, %.1f", BATCH,
         median(r) / median(&single), median(&single));
    print_report(r);
    single.n = 0;
    rig_close(&g);
    free(order);
}

/* ---- writes --------------------------------------------------------------------------------- */

/* A key that was never there before: 16 bytes that hold a number. */
static inline zc_bytes fresh_key(task *t, char key[KEY_LEN]) {
    uint64_t n = t->at++;
    memcpy(key, "new key:", 8);
    memcpy(key + 8, &n, 8);
    return zc_slice(key, KEY_LEN);
}

static void body_put_new(task *t) {
    char key[KEY_LEN];
    for (uint64_t i = 0; i < t->ops; i++) {
        zc_put_opts opts = {.tags = tag_of(t->r, (uint32_t)t->at), .ntags = 1};
        zc_bytes k = fresh_key(t, key);
        int rc = zc_put(t->r->cache, k, zc_slice(value64, VALUE_LEN), &opts);
        must(rc == ZC_OK, "zc_put of a new key", rc);
    }
}

static void body_put_again(task *t) {
    for (uint64_t i = 0; i < t->ops; i++) put(t->r, next_key(t));
}

static int load_value(zc_fill *f, void *user) {
    return zc_fill_value(f, zc_slice(user, VALUE_LEN));
}

/* Misses all: what a flight costs round a loader that does nothing but hand over the value. */
static void body_fill(task *t) {
    char key[KEY_LEN];
    zc_view view;
    for (uint64_t i = 0; i < t->ops; i++) {
        zc_fetch_opts opts = {.put = {.tags = tag_of(t->r, (uint32_t)t->at), .ntags = 1}};
        zc_bytes k = fresh_key(t, key);
        int rc = zc_fetch(t->r->cache, k, load_value, value64, &opts, &view);
        must(rc == ZC_OK, "zc_fetch of a new key", rc);
        zc_release(t->r->cache, &view);
    }
}

static void run_writes(report *r, body_fn *body) {
    static rig g;
    rig_open(&g, (zc_desc){.max_entries = RESIDENT}, "group:%u");
    fill(&g, RESIDENT);
    task t = {.r = &g, .order = uniform_order};
    measure(r, &t, body);
    print_report(r);
    rig_close(&g);
}

static void put_new(report *r) {
    note(r, "each evicts one");
    run_writes(r, body_put_new);
}
static void put_again(report *r) { run_writes(r, body_put_again); }
static void fill_empty(report *r) {
    note(r, "zc_fetch, empty loader, each evicts one");
    run_writes(r, body_fill);
}

/* ---- get or put, get or load ---------------------------------------------------------------- */

static void body_get_or_put(task *t) {
    char out[VALUE_LEN];
    t->hits = 0;
    for (uint64_t i = 0; i < t->ops; i++) {
        uint32_t k = next_key(t);
        if (zc_get_copy(t->r->cache, key_of(k), out, sizeof out, NULL) == ZC_OK) {
            t->hits++;
            t->sink += (unsigned char)out[5];
        } else {
            put(t->r, k);
        }
    }
}

static void body_get_or_load(task *t) {
    zc_view view;
    for (uint64_t i = 0; i < t->ops; i++) {
        uint32_t k = next_key(t);
        zc_fetch_opts opts = {.put = {.tags = tag_of(t->r, k), .ntags = 1}};
        int rc = zc_fetch(t->r->cache, key_of(k), load_value, value64, &opts, &view);
        must(rc == ZC_OK, "zc_fetch", rc);
        t->sink += *(const unsigned char *)view.data;
        zc_release(t->r->cache, &view);
    }
}

static double hit_ratio(zc_cache *cache) {
    zc_stats s;
    zc_stats_read(cache, &s);
    double misses = (double)(s.misses_absent + s.misses_expired + s.misses_invalidated);
    return (double)s.hits / ((double)s.hits + misses);
}

/* One sample from an empty cache: the threads share one order, each its own part. */
static sample cold_sample(unsigned threads, body_fn *body, double *ratio) {
    static rig g;
    static task tasks[MAX_THREADS];
    uint64_t ops = (uint64_t)(2e6 * opt.seconds) / threads + 1;
    rig_open(&g, (zc_desc){.max_entries = RESIDENT}, "group:%u");
    for (unsigned i = 0; i < threads; i++)
        tasks[i] = (task){.r = &g, .order = wide_order, .at = i * ops, .ops = ops, .body = body};
    sample s = run_tasks(tasks, threads);
    *ratio = hit_ratio(g.cache);
    rig_close(&g);
    return s;
}

static void run_cold(report *r, body_fn *body) {
    double ratio = 0;
    for (unsigned i = 0; i < opt.repeats; i++) add(r, cold_sample(1, body, &ratio).cpu);
    note(r, "room for 100k of 1e6 keys, from empty; hit ratio %.3f", ratio);
    print_report(r);
}

static void zipf_put(report *r) { run_cold(r, body_get_or_put); }
static void zipf_load(report *r) { run_cold(r, body_get_or_load); }

/* ---- scaling -------------------------------------------------------------------------------- */

static sample warm_sample(rig *g, const uint32_t *order, unsigned threads, uint64_t ops) {
    static task tasks[MAX_THREADS];
    for (unsigned i = 0; i < threads; i++)
        tasks[i] = (task){.r = g, .order = order, .at = i * (ORDER / threads), .ops = ops,
                          .body = body_hit};
    return run_tasks(tasks, threads);
}

/* Replaces the hot key 1,000 times a second, until there is no rig. */
static int replace_hot(void *user) {
    rig *_Atomic *g = user;
    for (rig *now; (now = atomic_load(g)) != NULL;) {
        put(now, hot_order[0]);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return 0;
}

/* Numbers of threads take turns, so that a slow minute of the machine slows all of them. Where the
 * threads had fewer cores than there are threads, the machine was busy with something else, and the
 * throughput says little; the CPU time is then what to compare. */
static void run_scaling(const char *name, const uint32_t *hits, bool replaced) {
    static report all[MAX_THREADS + 1], cpu[MAX_THREADS + 1];
    static rig g;
    uint64_t ops = 0;
    if (hits) {
        rig_open(&g, (zc_desc){.max_entries = 2 * RESIDENT}, "group:%u");
        fill(&g, RESIDENT);
        task t = {.r = &g, .order = hits};
        ops = calibrate(&t, body_hit);
    }
    rig *_Atomic writes = &g;
    thrd_t writer;
    if (replaced && thrd_create(&writer, replace_hot, &writes) != thrd_success)
        die("a thread", ZC_E_THREAD);
    for (unsigned i = 0; i < opt.repeats; i++) {
        for (unsigned n = 1; n <= opt.threads; n++) {
            double ratio;
            sample s = hits ? warm_sample(&g, hits, n, ops) : cold_sample(n, body_get_or_put, &ratio);
            add(&all[n], s.wall);
            add(&cpu[n], s.cpu);
        }
    }
    atomic_store(&writes, NULL);
    if (replaced) thrd_join(writer, NULL);
    double one = median(&all[1]);
    for (unsigned n = 1; n <= opt.threads; n++) {
        all[n].name = name;
        all[n].unit = "ns/op";
        all[n].threads = n;
        note(&all[n], "throughput x %.2f; cpu %.1f ns/op, had %.2f cores", one / median(&all[n]),
             median(&cpu[n]), median(&cpu[n]) / median(&all[n]));
        print_report(&all[n]);
        all[n].n = cpu[n].n = 0;
    }
    if (hits) rig_close(&g);
}

static void scale_hit(report *r) { run_scaling(r->name, uniform_order, false); }
static void scale_zipf(report *r) { run_scaling(r->name, zipf_order, false); }
static void scale_hot(report *r) { run_scaling(r->name, hot_order, false); }
static void scale_replaced(report *r) { run_scaling(r->name, hot_order, true); }
static void scale_put(report *r) { run_scaling(r->name, NULL, false); }

/* ---- invalidation --------------------------------------------------------------------------- */

static const char leaf[] = "org:7:team:42";

static void body_invalidate_text(task *t) {
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_invalidate(t->r->cache, t->text);
        must(rc == ZC_OK, "zc_invalidate", rc);
    }
}

static void body_invalidate_tag(task *t) {
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_invalidate_tag(t->r->cache, t->unrelated);
        must(rc == ZC_OK, "zc_invalidate_tag", rc);
    }
}

/* Without the background thread the dead entries stay and go on depending on the tag, so every
 * invalidation finds as many dependants as the first. */
static void run_invalidate(report *r, uint32_t dependants, body_fn *body) {
    static rig g;
    rig_open(&g, (zc_desc){.max_entries = KEYS, .no_thread = true}, "group:%u");
    zc_tag *tag = intern(g.cache, "%s", leaf);
    zc_put_opts opts = {.tags = &tag, .ntags = 1};
    for (uint32_t i = 0; i < dependants; i++) {
        int rc = zc_put(g.cache, key_of(i), zc_slice(value64, 8), &opts);
        must(rc == ZC_OK, "zc_put", rc);
    }
    task t = {.r = &g, .unrelated = tag, .text = zc_str(leaf)};
    measure(r, &t, body);
    note(r, "depth 4, %u dependants", (unsigned)dependants);
    print_report(r);
    zc_tag_release(g.cache, tag);
    rig_close(&g);
}

static void inv_text_3(report *r) { run_invalidate(r, 1000, body_invalidate_text); }
static void inv_text_5(report *r) { run_invalidate(r, 100000, body_invalidate_text); }
static void inv_text_6(report *r) { run_invalidate(r, 1000000, body_invalidate_text); }
static void inv_tag_3(report *r) { run_invalidate(r, 1000, body_invalidate_tag); }
static void inv_tag_5(report *r) { run_invalidate(r, 100000, body_invalidate_tag); }
static void inv_tag_6(report *r) { run_invalidate(r, 1000000, body_invalidate_tag); }

/* A different tag each time, of 1e5: the nodes are not in the processor's first caches. */
#define SPREAD 100000u
typedef struct spread_tag {
    char text[24];
} spread_tag;

static void body_invalidate_spread(task *t) {
    const spread_tag *tags = t->text.ptr;
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_invalidate(t->r->cache, zc_str(tags[next_key(t) % SPREAD].text));
        must(rc == ZC_OK, "zc_invalidate", rc);
    }
}

static void inv_spread(report *r) {
    static rig g;
    static spread_tag tags[SPREAD];
    rig_open(&g, (zc_desc){.max_entries = KEYS, .no_thread = true}, "group:%u");
    for (uint32_t i = 0; i < SPREAD; i++)
        snprintf(tags[i].text, sizeof tags[i].text, "org:%u:team:%u", (unsigned)(i / 100),
                 (unsigned)(i % 100));
    for (uint32_t i = 0; i < KEYS; i++) {
        zc_bytes dep = zc_str(tags[i % SPREAD].text);
        zc_put_opts opts = {.deps = &dep, .ndeps = 1};
        int rc = zc_put(g.cache, key_of(i), zc_slice(value64, 8), &opts);
        must(rc == ZC_OK, "zc_put", rc);
    }
    task t = {.r = &g, .order = uniform_order, .text = zc_slice(tags, sizeof tags)};
    measure(r, &t, body_invalidate_spread);
    note(r, "depth 4, text, of 1e5 tags in turn, 10 dependants each");
    print_report(r);
    rig_close(&g);
}

static double clock_cost(void) {
    double best = INFINITY;
    for (unsigned i = 0; i < 1000; i++) {
        double t = wall_ns();
        best = fmin(best, wall_ns() - t);
    }
    return best;
}

/* The first invalidation of a tag with live dependants, beside the background thread, which removes
 * what is dead meanwhile. Each is timed by itself. */
static void run_first(report *r, uint32_t dependants) {
    double cost = clock_cost();
    unsigned want = dependants == KEYS ? 3 : KEYS / dependants;
    while (r->n < want) {
        zc_cache *cache;
        zc_desc desc = {.max_entries = KEYS, .seed = opt.seed};
        int rc = zc_open(&desc, &cache);
        must(rc == ZC_OK, "zc_open", rc);
        for (uint32_t i = 0; i < KEYS; i++) {
            char text[32];
            snprintf(text, sizeof text, "org:7:team:%u", (unsigned)(i / dependants));
            zc_bytes dep = zc_str(text);
            zc_put_opts opts = {.deps = &dep, .ndeps = 1};
            rc = zc_put(cache, key_of(i), zc_slice(value64, 8), &opts);
            must(rc == ZC_OK, "zc_put", rc);
        }
        for (uint32_t i = 0; i < KEYS / dependants; i++) {
            char text[32];
            snprintf(text, sizeof text, "org:7:team:%u", (unsigned)i);
            zc_bytes tag = zc_str(text);
            double from = wall_ns();
            rc = zc_invalidate(cache, tag);
            add(r, wall_ns() - from - cost);
            must(rc == ZC_OK, "zc_invalidate", rc);
        }
        zc_close(cache);
    }
    note(r, "one call each, %u live dependants, background thread on", (unsigned)dependants);
    print_report(r);
}

static void inv_first_3(report *r) { run_first(r, 1000); }
static void inv_first_5(report *r) { run_first(r, 100000); }
static void inv_first_6(report *r) { run_first(r, 1000000); }

/* What is put off: removing the dead. */
static void inv_sweep(report *r) {
    static rig g;
    rig_open(&g, (zc_desc){.max_entries = RESIDENT, .no_thread = true}, "group:%u");
    for (unsigned i = 0; i < opt.repeats; i++) {
        zc_stats s;
        fill(&g, RESIDENT);
        int rc = zc_invalidate(g.cache, zc_str("group"));
        must(rc == ZC_OK, "zc_invalidate", rc);
        double cpu = cpu_ns();
        while ((rc = zc_poll(g.cache, 10 * ZC_MILLISECOND)) == ZC_MORE) {}
        add(r, (cpu_ns() - cpu) / RESIDENT);
        zc_stats_read(g.cache, &s);
        must(rc == ZC_OK && s.entries == 0, "zc_poll left the dead", rc);
    }
    note(r, "per dead entry, by zc_poll");
    print_report(r);
    rig_close(&g);
}

/* ---- hits in a storm ------------------------------------------------------------------------ */

static void body_storm(task *t) {
    char out[VALUE_LEN];
    for (uint64_t i = 0; i < t->ops; i++) {
        int rc = zc_invalidate_tag(t->r->cache, t->unrelated);
        must(rc == ZC_OK, "zc_invalidate_tag", rc);
        rc = zc_get_copy(t->r->cache, key_of(next_key(t)), out, sizeof out, NULL);
        must(rc == ZC_OK, "a hit after an unrelated invalidation", rc);
        t->sink += (unsigned char)out[5];
    }
}

/* Each hit comes right after an invalidation; samples of both, of invalidations alone and of quiet
 * hits take turns, and the invalidations are subtracted. */
static void run_storm(report *r, const char *tag_format) {
    static rig g;
    static report alone, quiet;
    rig_open(&g, (zc_desc){.max_entries = 2 * RESIDENT}, tag_format);
    fill(&g, RESIDENT);
    task t = {.r = &g, .order = uniform_order, .unrelated = intern(g.cache, "%s", leaf)};
    uint64_t ops = calibrate(&t, body_storm) / 2;
    for (unsigned i = 0; i < opt.repeats; i++) {
        t.ops = ops;
        t.body = body_invalidate_tag;
        double inv = run_tasks(&t, 1).cpu;
        t.body = body_storm;
        add(r, run_tasks(&t, 1).cpu - inv);
        add(&alone, inv);
        t.body = body_hit;
        (void)run_tasks(&t, 1); /* the first pass walks and moves the entries up to date */
        add(&quiet, run_tasks(&t, 1).cpu);
    }
    note(r, "x %.2f of the quiet hit, %.1f; invalidation %.1f subtracted",
         median(r) / median(&quiet), median(&quiet), median(&alone));
    print_report(r);
    alone.n = quiet.n = 0;
    zc_tag_release(g.cache, t.unrelated);
    rig_close(&g);
}

static void storm_each(report *r) { run_storm(r, "group:%u"); }
static void storm_deep(report *r) { run_storm(r, "org:1:team:%u"); }

typedef struct storm {
    zc_cache *cache;
    zc_tag *tag;
    uint64_t interval; /* ns; 0: none */
    atomic_bool stop;
    uint64_t done;
    double seconds, cpu;
} storm;

static int storm_thread(void *arg) {
    storm *s = arg;
    double from = wall_ns(), cpu = cpu_ns();
    while (!atomic_load(&s->stop)) {
        uint64_t due = s->interval ? (uint64_t)(wall_ns() - from) / s->interval : s->done + 64;
        for (; s->done < due; s->done++) {
            int rc = zc_invalidate_tag(s->cache, s->tag);
            must(rc == ZC_OK, "zc_invalidate_tag", rc);
        }
        if (s->interval) nanosleep(&(struct timespec){0, (long)s->interval / 2}, NULL);
    }
    s->seconds = (wall_ns() - from) / 1e9;
    s->cpu = cpu_ns() - cpu;
    return 0;
}

/* Hits of this thread while another invalidates; and what the cache's own thread, which looks for
 * the dead after every invalidation, takes of a processor meanwhile. */
static void run_beside(report *r, uint64_t interval) {
    static rig g;
    rig_open(&g, (zc_desc){.max_entries = 2 * RESIDENT}, "group:%u");
    fill(&g, RESIDENT);
    zc_tag *tag = intern(g.cache, "%s", leaf);
    storm s = {.cache = g.cache, .tag = tag, .interval = interval};
    task t = {.r = &g, .order = uniform_order};
    thrd_t thread;
    double own = cpu_ns(), all = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    must(thrd_create(&thread, storm_thread, &s) == thrd_success, "thrd_create", ZC_E_THREAD);
    measure(r, &t, body_hit);
    atomic_store(&s.stop, true);
    thrd_join(thread, NULL);
    all = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - all - (cpu_ns() - own) - s.cpu;
    note(r, "beside %.0f unrelated invalidations a second; housekeeping takes %.1f %% of a core",
         (double)s.done / s.seconds, all / s.seconds / 1e7);
    print_report(r);
    zc_tag_release(g.cache, tag);
    rig_close(&g);
}

static void storm_10k(report *r) { run_beside(r, 100000); }
static void storm_max(report *r) { run_beside(r, 0); }

/* ---- stampede ------------------------------------------------------------------------------- */

#define LOAD_NS 200000

typedef struct crowd {
    zc_cache *cache;
    atomic_uint arrived, round, loads, left;
    unsigned threads, rounds;
    double loaded, last; /* when the loader ended, and the last of the crowd had the value */
} crowd;

static int load_slowly(zc_fill *f, void *user) {
    crowd *c = user;
    atomic_fetch_add(&c->loads, 1);
    nanosleep(&(struct timespec){0, LOAD_NS}, NULL);
    c->loaded = wall_ns();
    return zc_fill_value(f, zc_slice(value64, VALUE_LEN));
}

static int crowd_thread(void *arg) {
    crowd *c = arg;
    for (unsigned round = 1; round <= c->rounds; round++) {
        zc_view view;
        atomic_fetch_add(&c->arrived, 1);
        while (atomic_load(&c->round) < round) thrd_yield();
        int rc = zc_fetch(c->cache, zc_str("the one key"), load_slowly, c, NULL, &view);
        must(rc == ZC_OK, "zc_fetch in a stampede", rc);
        zc_release(c->cache, &view);
        if (atomic_fetch_sub(&c->left, 1) == 1) c->last = wall_ns();
    }
    return 0;
}

/* All threads fetch one cold key at once; from the end of the loader to the last one's return. */
static void stampede(report *r) {
    thrd_t thread[MAX_THREADS];
    unsigned n = opt.threads < 16 ? 16 : opt.threads;
    crowd c = {.threads = n, .rounds = (unsigned)(100 * opt.seconds) + 1};
    zc_desc desc = {.seed = opt.seed};
    int rc = zc_open(&desc, &c.cache);
    must(rc == ZC_OK, "zc_open", rc);
    if (c.rounds > MAX_SAMPLES) c.rounds = MAX_SAMPLES;
    for (unsigned i = 0; i < n; i++)
        must(thrd_create(&thread[i], crowd_thread, &c) == thrd_success, "thrd_create", ZC_E_THREAD);
    for (unsigned round = 1; round <= c.rounds; round++) {
        while (atomic_load(&c.arrived) < n * round) thrd_yield();
        (void)zc_del(c.cache, zc_str("the one key"));
        atomic_store(&c.left, n);
        atomic_store(&c.round, round);
        while (atomic_load(&c.left)) nanosleep(&(struct timespec){0, LOAD_NS / 4}, NULL);
        add(r, (c.last - c.loaded) / 1e3);
    }
    for (unsigned i = 0; i < n; i++) thrd_join(thread[i], NULL);
    must(atomic_load(&c.loads) == c.rounds, "more than one load a round", ZC_E_LOADER);
    r->threads = n;
    r->unit = "us";
    note(r, "loader's end to the last return; %u loads in %u rounds", atomic_load(&c.loads),
         c.rounds);
    print_report(r);
    zc_close(c.cache);
}

/* ---- memory --------------------------------------------------------------------------------- */

#define ENTRY_TAGS 100000u

/* Counts what is asked for. One thread only. */
static size_t asked;

static void *count_alloc(void *user, size_t size) {
    (void)user;
    void *p = malloc(size);
    if (p) asked += size;
    return p;
}
static void count_free(void *user, void *ptr, size_t size) {
    (void)user;
    if (ptr) asked -= size;
    free(ptr);
}

static size_t resident_bytes(void) {
    unsigned long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lu %lu", &total, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

typedef struct footprint {
    double entry_asked, entry_rss, entry_stats, tag_asked, tag_rss, tag_stats;
} footprint;

/* First the tags alone, then the entries; each against what was there before. */
static footprint weigh(size_t limit, uint32_t puts, bool counted) {
    zc_desc desc = {.max_entries = limit, .no_thread = true, .seed = opt.seed};
    zc_tag **tags = need(calloc(ENTRY_TAGS, sizeof *tags));
    zc_stats before, empty, full;
    zc_cache *cache;
    if (counted)
        desc.allocator = (zc_allocator){.version = 1, .alloc = count_alloc, .free = count_free};
    int rc = zc_open(&desc, &cache);
    must(rc == ZC_OK, "zc_open", rc);
    size_t asked_0 = asked, rss_0 = resident_bytes();
    zc_stats_read(cache, &before);
    for (uint32_t i = 0; i < ENTRY_TAGS; i++) tags[i] = intern(cache, "org:%05u", (unsigned)i);
    size_t asked_1 = asked, rss_1 = resident_bytes();
    zc_stats_read(cache, &empty);
    for (uint32_t i = 0; i < puts; i++) {
        char key[KEY_LEN + 1];
        snprintf(key, sizeof key, "key:%012u", (unsigned)i);
        zc_put_opts opts = {.tags = &tags[i % ENTRY_TAGS], .ntags = 1};
        rc = zc_put(cache, zc_slice(key, KEY_LEN), zc_slice(value64, VALUE_LEN), &opts);
        must(rc == ZC_OK, "zc_put", rc);
    }
    size_t asked_2 = asked, rss_2 = resident_bytes();
    zc_stats_read(cache, &full);
    must(full.entries == KEYS, "the number of entries", ZC_E_CORRUPT);
    double n = KEYS, t = (double)(empty.tags - before.tags), own = KEY_LEN + VALUE_LEN;
    return (footprint){(double)(asked_2 - asked_1) / n - own,
                       (double)(rss_2 - rss_1) / n - own,
                       (double)(full.memory - empty.memory) / n - own,
                       (double)(asked_1 - asked_0) / t,
                       (double)(rss_1 - rss_0) / t,
                       (double)(empty.tag_bytes - before.tag_bytes) / t};
}

/* In a child of its own: a heap that nothing else has used, and no need to free it. */
static footprint weigh_apart(size_t limit, uint32_t puts, bool counted) {
    int ends[2], status = 0;
    footprint f = {0, 0, 0, 0, 0, 0};
    fflush(stdout);
    must(pipe(ends) == 0, "pipe", ZC_E_NOMEM);
    pid_t child = fork();
    must(child >= 0, "fork", ZC_E_NOMEM);
    if (child == 0) {
        f = weigh(limit, puts, counted);
        _exit(write(ends[1], &f, sizeof f) != (ssize_t)sizeof f);
    }
    close(ends[1]);
    bool good = read(ends[0], &f, sizeof f) == (ssize_t)sizeof f;
    close(ends[0]);
    must(waitpid(child, &status, 0) == child && good && status == 0, "measuring memory",
         ZC_E_NOMEM);
    return f;
}

static void run_memory(report *r, size_t limit, uint32_t puts) {
    footprint counted = weigh_apart(limit, puts, true), plain = weigh_apart(limit, puts, false);
    r->unit = "bytes/entry";
    add(r, counted.entry_asked);
    note(r, "beyond key and value, asked of the allocator; RSS %.1f, zc_stats %.1f",
         plain.entry_rss, counted.entry_stats);
    print_report(r);
}

static void memory_grown(report *r) { run_memory(r, 0, KEYS); }
static void memory_limit(report *r) { run_memory(r, KEYS, KEYS); }
static void memory_evicted(report *r) { run_memory(r, KEYS, 2 * KEYS); }

static void memory_tag(report *r) {
    footprint counted = weigh_apart(0, KEYS, true), plain = weigh_apart(0, KEYS, false);
    r->unit = "bytes/node";
    add(r, counted.tag_asked);
    note(r, "segment of 5 bytes, asked of the allocator; RSS %.1f, zc_stats %.1f", plain.tag_rss,
         counted.tag_stats);
    print_report(r);
}

/* ---- replaying traces ----------------------------------------------------------------------- */

/* Misses of get-or-put; the keys are the numbers, 8 bytes. */
static uint64_t replay_zoocache(const uint64_t *trace, size_t n, uint32_t capacity) {
    zc_cache *cache;
    zc_desc desc = {.max_entries = capacity, .no_thread = true, .seed = opt.seed};
    uint64_t misses = 0;
    int rc = zc_open(&desc, &cache);
    must(rc == ZC_OK, "zc_open", rc);
    for (size_t i = 0; i < n; i++) {
        zc_bytes key = zc_slice(&trace[i], sizeof trace[i]);
        if (zc_get_copy(cache, key, NULL, 0, NULL) == ZC_OK) continue;
        misses++;
        rc = zc_put(cache, key, zc_slice("", 0), NULL);
        must(rc == ZC_OK, "zc_put", rc);
    }
    zc_close(cache);
    return misses;
}

static void replay(report *r, const char *name, const uint64_t *trace, size_t n) {
    static const double shares[] = {0.001, 0.01, 0.1};
    uint32_t done = 0;
    sim_trace t;
    if (!sim_trace_init(&t, trace, n)) die(name, ZC_E_NOMEM);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t capacity = sim_capacity(&t, shares[i]);
        if (capacity == done) continue;
        done = capacity;
        uint64_t ours = replay_zoocache(trace, n, capacity), fifo = sim_fifo(&t, capacity);
        uint64_t lru = sim_lru(&t, capacity), best = sim_belady(&t, capacity);
        if (fifo == SIM_FAILED || lru == SIM_FAILED || best == SIM_FAILED) die(name, ZC_E_NOMEM);
        double all = (double)n;
        r->unit = "miss ratio";
        add(r, (double)ours / all);
        note(r, "%s, %u of %u keys: FIFO %.6f, LRU %.6f, Belady %.6f, zoocache %.6f, %+.2f %%",
             name, (unsigned)capacity, (unsigned)t.unique, (double)fifo / all, (double)lru / all,
             (double)best / all, (double)ours / all,
             100 * ((double)ours - (double)fifo) / (double)(fifo + !fifo));
        print_report(r);
    }
    sim_trace_free(&t);
}

/* Reads raw keys from a file, or through xz. The caller frees. */
static uint64_t *read_trace(const char *path, size_t *n) {
    size_t len = strlen(path), cap = 1 << 16, got;
    bool packed = len > 3 && strcmp(path + len - 3, ".xz") == 0;
    char command[4096];
    if (strchr(path, '\'') || len > 4000) die(path, ZC_E_INVAL);
    snprintf(command, sizeof command, "xz -dc -- '%s'", path);
    FILE *f = packed ? popen(command, "r") : fopen(path, "rb");
    uint64_t *trace = need(malloc(cap * sizeof *trace));
    if (!f) die(path, ZC_E_INVAL);
    *n = 0;
    while ((got = fread(trace + *n, sizeof *trace, cap - *n, f)) > 0) {
        *n += got;
        if (*n == cap) trace = need(realloc(trace, (cap *= 2) * sizeof *trace));
    }
    if ((packed ? pclose(f) : fclose(f)) != 0 || *n == 0) die(path, ZC_E_CORRUPT);
    return trace;
}

static void replay_all(report *r) {
    for (unsigned i = 0; i < opt.ntraces; i++) {
        size_t n;
        uint64_t *trace = read_trace(opt.traces[i], &n);
        const char *slash = strrchr(opt.traces[i], '/');
        char name[64];
        snprintf(name, sizeof name, "%s", slash ? slash + 1 : opt.traces[i]);
        name[strcspn(name, ".")] = '\0';
        replay(r, name, trace, n);
        free(trace);
    }
    if (opt.ntraces) return;
    /* No trace: the Zipf order of the workloads above. */
    size_t n = ORDER / 2;
    uint64_t *trace = need(malloc(n * sizeof *trace));
    for (size_t i = 0; i < n; i++) trace[i] = wide_order[i];
    replay(r, "zipf 0.99", trace, n);
    free(trace);
}

/* ---- main ----------------------------------------------------------------------------------- */

static const struct workload {
    const char *name, *what;
    void (*run)(report *r);
} workloads[] = {
    /* first, because they need a heap that nothing has used */
    {"memory.grown", "1e6 entries, one dependency each from 1e5 tags, no limit", memory_grown},
    {"memory.limit", "likewise, with max_entries", memory_limit},
    {"memory.evicted", "likewise, after 1e6 evictions", memory_evicted},
    {"memory.tag", "a node of the trie", memory_tag},
    {"hit.uniform", "zc_get_copy of 100k resident keys, uniformly", hit_uniform},
    {"hit.hot", "likewise, of one of them", hit_hot},
    {"hit.zipf", "likewise, Zipf 0.99", hit_zipf},
    {"hit.ttl", "likewise, uniformly, every entry with a TTL", hit_ttl},
    {"hit.pin", "zc_get and zc_release", hit_pin},
    {"hit.many", "zc_get_many and zc_release, a key", hit_many},
    {"hit.fetch", "zc_fetch of resident keys", hit_fetch},
    {"miss", "zc_get_copy of keys that are not there", miss},
    {"put.new", "zc_put of new keys into a full cache of 100k", put_new},
    {"put.replace", "zc_put of resident keys", put_again},
    {"fill", "zc_fetch of new keys, empty loader, full cache of 100k", fill_empty},
    {"zipf.put", "get, or else put; Zipf 0.99 over 1e6 keys, room for 100k", zipf_put},
    {"zipf.load", "likewise by zc_fetch", zipf_load},
    {"inv.text.1e3", "zc_invalidate, depth 4, 1e3 entries depend on it", inv_text_3},
    {"inv.text.1e5", "likewise, 1e5", inv_text_5},
    {"inv.text.1e6", "likewise, 1e6", inv_text_6},
    {"inv.tag.1e3", "zc_invalidate_tag, depth 4, 1e3 entries depend on it", inv_tag_3},
    {"inv.tag.1e5", "likewise, 1e5", inv_tag_5},
    {"inv.tag.1e6", "likewise, 1e6", inv_tag_6},
    {"inv.spread", "zc_invalidate of 1e5 different tags", inv_spread},
    {"inv.first.1e3", "one zc_invalidate, 1e3 live entries depend on it", inv_first_3},
    {"inv.first.1e5", "likewise, 1e5", inv_first_5},
    {"inv.first.1e6", "likewise, 1e6", inv_first_6},
    {"inv.sweep", "removing what an invalidation has killed, an entry", inv_sweep},
    {"storm.each", "a hit right after an unrelated invalidation", storm_each},
    {"storm.deep", "likewise, the entries' tags have depth 4", storm_deep},
    {"storm.10k", "hits while another thread invalidates 10k times a second", storm_10k},
    {"storm.max", "likewise, as fast as it can", storm_max},
    {"stampede", "many threads fetch one cold key", stampede},
    {"scale.hit", "hit.uniform by 1, 2, .. threads", scale_hit},
    {"scale.hit.zipf", "hit.zipf by 1, 2, .. threads", scale_zipf},
    {"scale.hit.hot", "hit.hot by 1, 2, .. threads", scale_hot},
    {"scale.replaced", "likewise, and the key is replaced 1,000 times a second", scale_replaced},
    {"scale.zipf.put", "zipf.put by 1, 2, .. threads", scale_put},
    {"replay", "miss ratio of each --trace beside FIFO, LRU and Belady", replay_all},
};

static void usage(void) {
    fprintf(stderr, "usage: bench [--list] [--filter SUBSTRING] [--threads N] [--seconds S]\n"
                    "             [--repeats R] [--seed N] [--trace FILE]... [--json]\n");
    exit(2);
}

static double number(const char *text, double least, double most) {
    char *end;
    double v = text ? strtod(text, &end) : 0;
    if (!text || *end || !(v >= least && v <= most)) usage();
    return v;
}

static void parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        i++;
        if (!strcmp(name, "--filter") && value) opt.filter = value;
        else if (!strcmp(name, "--threads")) opt.threads = (unsigned)number(value, 1, MAX_THREADS);
        else if (!strcmp(name, "--seconds")) opt.seconds = number(value, 0.001, 3600);
        else if (!strcmp(name, "--repeats")) opt.repeats = (unsigned)number(value, 1, MAX_SAMPLES);
        else if (!strcmp(name, "--seed")) opt.seed = (uint64_t)number(value, 0, 9e15);
        else if (!strcmp(name, "--trace") && value && opt.ntraces < 64)
            opt.traces[opt.ntraces++] = value;
        else {
            i--;
            if (!strcmp(name, "--json")) opt.json = true;
            else if (!strcmp(name, "--list")) opt.list = true;
            else usage();
        }
    }
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!opt.threads) opt.threads = cores < 1 ? 1 : cores > 16 ? 16 : (unsigned)cores;
}

int main(int argc, char **argv) {
    static report r;
    parse(argc, argv);
    size_t n = sizeof workloads / sizeof *workloads;
    if (opt.list) {
        for (size_t i = 0; i < n; i++) printf("%-16s %s\n", workloads[i].name, workloads[i].what);
        return 0;
    }
    print_head();
    for (size_t i = 0; i < n; i++) {
        if (!strstr(workloads[i].name, opt.filter)) continue;
        if (strncmp(workloads[i].name, "memory", 6) != 0) make_data();
        r.name = workloads[i].name;
        r.unit = "ns/op";
        r.threads = 1;
        workloads[i].run(&r);
    }
    if (opt.json) printf("\n]}\n");
    if (!reported) fprintf(stderr, "bench: no workload's name contains \"%s\"\n", opt.filter);
    return reported ? 0 : 1;
}
