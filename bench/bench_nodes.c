/* bench_nodes.c: several nodes on one Redis, which it starts and ends.
 *
 *   bench_nodes [propagation|stopped|many] [--nodes 500] [--rate 1000] [--seconds 10]
 *
 *   propagation   from the call of zc_invalidate() to its being heard by another node; both are
 *                 read and invalidate all the time. With bus_pause = 1 and by default
 *   stopped       the time of reads and writes while the server is stopped (SIGSTOP)
 *   many          nodes with a bus each, invalidations by four of them: does every node keep up? */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"
#include "redis_server.h"
#include <stdatomic.h>
#include <sys/resource.h>

#define TAGS 4096u

static redis_server server;
static _Atomic uint64_t sent[TAGS]; /* when the tag's last invalidation was called; by its number */
static _Atomic bool running;

static uint64_t now_ns(void) { return zc__sys_mono(); }
static void nap(uint64_t ns) {
    struct timespec t = {(time_t)(ns / ZC_SECOND), (long)(ns % ZC_SECOND)};
    nanosleep(&t, NULL);
}

/* Times, in order to sort them. */
typedef struct times {
    uint64_t *at;
    _Atomic size_t n;
    size_t size;
} times;
static void times_make(times *t, size_t size) {
    t->at = (uint64_t *)calloc(size, sizeof *t->at);
    atomic_store(&t->n, 0);
    t->size = t->at ? size : 0;
}
static void times_add(times *t, uint64_t ns) {
    size_t i = atomic_fetch_add(&t->n, 1);
    if (i < t->size) t->at[i] = ns;
}
static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
static double times_us(times *t, double part) { /* sorted */
    size_t n = atomic_load(&t->n);
    if (n > t->size) n = t->size;
    return n ? (double)t->at[(size_t)(part * (double)(n - 1))] / 1000 : 0;
}
static void times_sort(times *t) {
    size_t n = atomic_load(&t->n);
    qsort(t->at, n < t->size ? n : t->size, sizeof *t->at, by_size);
}
static void times_print(const char *what, times *t) {
    times_sort(t);
    printf("%-40s p50 %9.1f  p99 %9.1f  max %9.1f us  (%zu)\n", what, times_us(t, 0.5),
           times_us(t, 0.99), times_us(t, 1), atomic_load(&t->n));
}

static zc_cache *node(zc_desc *d, bool with_store) {
    zc_redis_desc r;
    zc_cache *c = NULL;
    memset(&r, 0, sizeof r);
    r.url = server.url;
    r.connections = with_store ? 0 : 1;
    if (zc_redis_open(&r, with_store ? &d->store : NULL, &d->bus) != ZC_OK ||
        zc_open(d, &c) != ZC_OK) {
        fprintf(stderr, "cannot open a node\n");
        exit(2);
    }
    return c;
}

static zc_bytes tag_of(uint32_t i, char text[32]) {
    return zc_slice(text, (size_t)snprintf(text, 32, "t:%u", i % TAGS));
}

static int load(zc_fill *fill, void *user) {
    char text[32];
    (void)zc_fill_dep(fill, tag_of(*(uint32_t *)user, text));
    return zc_fill_value(fill, zc_str("a value"));
}

static int fetch(zc_cache *c, uint32_t k) {
    char text[32];
    zc_view v;
    int rc = zc_fetch(c, zc_slice(text, (size_t)snprintf(text, 32, "k/%u", k)), load, &k, NULL, &v);
    zc_release(c, &v);
    return rc;
}

/* ---- propagation */

typedef struct ear {
    times *heard;
    uint32_t from, below; /* numbers of tags that are timed */
} ear;

static void on_event(void *user, const zc_event *ev) {
    const ear *e = (const ear *)user;
    if (ev->key.len < 3) return;
    uint32_t i = 0;
    for (const char *s = (const char *)ev->key.ptr + 2, *end = s + ev->key.len - 2; s < end; s++)
        i = i * 10 + (uint32_t)(*s - '0');
    if (i >= e->from && i < e->below) times_add(e->heard, now_ns() - atomic_load(&sent[i]));
}

typedef struct busy {
    zc_cache *cache;
    uint32_t from; /* of 1024 tags of its own */
    uint64_t gap;
} busy;

static void *reads(void *user) {
    busy *b = (busy *)user;
    for (uint32_t i = 0; atomic_load(&running); i++) {
        (void)fetch(b->cache, i * 7 % TAGS);
        if (i % 64 == 0) nap(100000);
    }
    return NULL;
}
static void *invalidates(void *user) {
    busy *b = (busy *)user;
    char text[32];
    uint64_t next = now_ns();
    for (uint32_t i = 0; atomic_load(&running); i++) {
        uint32_t k = b->from + i % 1024;
        atomic_store(&sent[k], now_ns());
        (void)zc_invalidate(b->cache, tag_of(k, text));
        uint64_t now = now_ns();
        next += b->gap;
        if (next > now) nap(next - now);
    }
    return NULL;
}

static void propagation(uint64_t pause, const char *name) {
    zc_desc d;
    busy b[2];
    ear ears[2];
    times heard;
    pthread_t threads[4];
    memset(&d, 0, sizeof d);
    times_make(&heard, 1 << 20);
    rs_say(&server, "FLUSHALL", NULL);
    d.bus_pause = pause;
    for (uint32_t i = 0; i < 2; i++) {
        /* Each listens for the other's tags. */
        ears[i] = (ear){&heard, 1024 * (1 - i), 1024 * (2 - i)};
        zc_events events = {1, ZC_EVENT_INVALIDATED, on_event, &ears[i]};
        d.events = events;
        b[i] = (busy){node(&d, true), 1024 * i, 5 * ZC_MILLISECOND};
    }
    nap(ZC_SECOND / 2);
    atomic_store(&running, true);
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, reads, &b[i]);
        pthread_create(&threads[2 + i], NULL, invalidates, &b[i]);
    }
    nap(5 * ZC_SECOND);
    atomic_store(&running, false);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) zc_close(b[i].cache);
    times_print(name, &heard);
    free(heard.at);
}

/* ---- a server that is stopped */

static void stopped(void) {
    zc_desc d;
    times before, during, after, hits, writes;
    char text[32];
    memset(&d, 0, sizeof d);
    rs_say(&server, "FLUSHALL", NULL);
    zc_cache *c = node(&d, true);
    times_make(&before, 1 << 20);
    times_make(&during, 1 << 20);
    times_make(&after, 1 << 20);
    times_make(&hits, 1 << 20);
    times_make(&writes, 1 << 20);
    uint32_t k = 0;
    for (; k < 5000; k++) {
        uint64_t t = now_ns();
        (void)fetch(c, k);
        times_add(&before, now_ns() - t);
    }
    rs_hang(&server);
    uint64_t begun = now_ns();
    for (unsigned i = 0; now_ns() - begun < 4 * ZC_SECOND; i++) {
        uint64_t t = now_ns();
        (void)fetch(c, k++);
        uint64_t took = now_ns() - t;
        times_add(took > 20 * ZC_MILLISECOND ? &during : &after, took);
        t = now_ns();
        (void)fetch(c, k - 1);
        times_add(&hits, now_ns() - t);
        if (i % 16) continue;
        t = now_ns();
        (void)zc_invalidate(c, tag_of(k, text));
        times_add(&writes, now_ns() - t);
    }
    rs_go_on(&server);
    printf("server stopped (time-out 250 ms, max_staleness 1 s):\n");
    times_print("  misses before", &before);
    times_print("  misses, those above 20 ms", &during);
    times_print("  misses, the others", &after);
    times_print("  the same key again", &hits);
    times_print("  zc_invalidate", &writes);
    zc_close(c);
    free(before.at), free(during.at), free(after.at), free(hits.at), free(writes.at);
}

/* ---- many nodes */

static uint64_t cpu_of_server(void) { /* ms */
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)server.pid);
    FILE *f = fopen(path, "r");
    unsigned long user = 0, system = 0;
    if (f && fgets(line, sizeof line, f) && strrchr(line, ')'))
        (void)sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                     &user, &system);
    if (f) fclose(f);
    return (user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}
static uint64_t cpu_here(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void many(unsigned count, uint64_t rate, uint64_t seconds) {
    zc_cache **caches = (zc_cache **)calloc(count, sizeof *caches);
    busy b[4];
    pthread_t threads[4];
    times heard;
    ear e = {&heard, 0, 1024}; /* a quarter of them is timed */
    zc_desc d;
    zc_stats st;
    memset(&d, 0, sizeof d);
    times_make(&heard, (size_t)count * rate * seconds / 4 + 100000);
    rs_say(&server, "FLUSHALL", NULL);
    d.events.version = 1;
    d.events.mask = ZC_EVENT_INVALIDATED;
    d.events.on_event = on_event;
    d.events.user = &e;
    d.shards = 1;
    for (unsigned i = 0; i < count; i++) caches[i] = node(&d, false);
    nap(2 * ZC_SECOND);
    uint64_t heard_before = 0, heard_after = 0, breaks = 0, silent = 0, late = 0;
    for (unsigned i = 0; i < count; i++) {
        zc_stats_read(caches[i], &st);
        heard_before += st.bus_entries;
    }
    atomic_store(&heard.n, 0);
    uint64_t cpu = cpu_of_server(), here = cpu_here(), begun = now_ns();
    atomic_store(&running, true);
    for (uint32_t i = 0; i < 4; i++) {
        b[i] = (busy){caches[i], 1024 * i, 4 * ZC_SECOND / rate};
        pthread_create(&threads[i], NULL, invalidates, &b[i]);
    }
    while (now_ns() - begun < seconds * ZC_SECOND) {
        nap(ZC_SECOND / 10);
        for (unsigned i = 0; i < count; i++) {
            zc_stats_read(caches[i], &st);
            if (st.bus_age > late && st.bus_age != ZC_NEVER) late = st.bus_age;
            silent += st.bus_age > ZC_SECOND;
        }
    }
    atomic_store(&running, false);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    double took = (double)(now_ns() - begun) / 1e9;
    cpu = cpu_of_server() - cpu;
    here = cpu_here() - here;
    nap(ZC_SECOND);
    for (unsigned i = 0; i < count; i++) {
        zc_stats_read(caches[i], &st);
        heard_after += st.bus_entries;
        breaks += st.bus_breaks;
    }
    double each = (double)(heard_after - heard_before) / count / took;
    printf("%u nodes, %.0f invalidations/s asked for: %.0f/s heard by each node, %" PRIu64
           " epoch breaks\n", count, (double)rate, each, breaks);
    times_print("  from the call to each node", &heard);
    printf("  oldest lease %.0f ms of 1000, %" PRIu64 " looks of 10/s x nodes met one that was too old\n"
           "  server %.2f of a core, all nodes %.2f of a core\n",
           (double)late / 1e6, silent, (double)cpu / 1000 / took, (double)here / 1000 / took);
    for (unsigned i = 0; i < count; i++) zc_close(caches[i]);
    free(caches);
    free(heard.at);
}

int main(int argc, char **argv) {
    const char *what = "";
    uint64_t count = 500, rate = 1000, seconds = 10;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--nodes") == 0) count = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--rate") == 0) rate = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) seconds = strtoull(argv[++i], NULL, 0);
        else what = argv[i];
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!rs_start(&server, "--maxclients", "4000", NULL)) return 2;
    if (strstr("propagation", what)) {
        printf("zc_invalidate to the other node, both busy:\n");
        propagation(1, "  bus_pause 1 (bar: p50 < 1000)");
        propagation(0, "  default (bar: p50 < 25000)");
    }
    if (strstr("stopped", what)) stopped();
    if (strstr("many", what) && rate) many((unsigned)count, rate, seconds);
    rs_stop(&server);
    return 0;
}
