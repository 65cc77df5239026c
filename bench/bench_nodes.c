/* bench_nodes.c: several nodes on one Redis, which it starts and ends.
 *
 *   bench_nodes [propagation|stopped|many] [--nodes 500] [--rate 1000] [--seconds 10]
 *
 *   propagation   from the call of zc_invalidate() to its being heard by another node; both are
 *                 read and invalidate all the time. With bus_pause = 1 and by default
 *   stopped       the time of reads and writes while the server is stopped (SIGSTOP)
 *   many          eight nodes that invalidate, and as many connections as it takes for the rest,
 *                 which send what a node's bus sends, and look at the last entry alone: does the
 *                 server keep up? */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"
#include "redis_server.h"
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#define TAGS 4096u
#define WRITERS 64u
#define REAL 8u

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
    uint32_t from, tags; /* its own */
    uint64_t gap;        /* between invalidations */
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
        uint32_t k = b->from + i % b->tags;
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
        b[i] = (busy){node(&d, true), 1024 * i, 1024, 5 * ZC_MILLISECOND};
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

/* A connection that reads the log as a node does. */
typedef struct reader {
    int fd;
    bool asked;
    uint64_t cursor, due, heard;
    size_t len;
    char *buf;
} reader;

#define READER_BUF ((size_t)1 << 20)

typedef struct crowd {
    reader *readers;
    unsigned n;
    char gen[32];
    times lag;
    uint64_t oldest; /* between two proofs of one reader */
    bool bad;
} crowd;

static void reader_ask(const crowd *w, reader *r) {
    char id[64], text[512];
    int len = snprintf(id, sizeof id, "%s-%" PRIu64, w->gen, r->cursor);
    int n =
        snprintf(text, sizeof text,
                 "*8\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$4\r\n1000\r\n$5\r\nBLOCK\r\n$3\r\n500\r\n"
                 "$7\r\nSTREAMS\r\n$14\r\n{zoocache}:log\r\n$%d\r\n%s\r\n"
                 "*4\r\n$6\r\nXRANGE\r\n$14\r\n{zoocache}:log\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n"
                 "*1\r\n$4\r\nPING\r\n",
                 len, id, len, id, len, id);
    r->asked = send(r->fd, text, (size_t)n, MSG_NOSIGNAL) == n;
    r->len = 0;
}

/* The reply is whole. Its ids: those of the entries, then that of the entry at the cursor. */
static void reader_take(crowd *w, reader *r, uint64_t now) {
    const char *end = r->buf + r->len, *last = NULL, *before = NULL;
    size_t n = 0, len = strlen(w->gen);
    for (const char *at = r->buf; (at = (const char *)memmem(at, (size_t)(end - at), w->gen, len));
         n++) {
        before = last;
        last = at;
        at += len;
    }
    if (n == 0) {
        w->bad = true;
        return;
    }
    r->cursor += n - 1;
    r->heard += n - 1;
    r->asked = false;
    if (now - r->due > w->oldest) w->oldest = now - r->due;
    r->due = n > 1 ? now + 10 * ZC_MILLISECOND : now;
    if (!before) return;
    if (strtoull(before + len + 1, NULL, 10) != r->cursor) w->bad = true;
    const char *tag = (const char *)memmem(before, (size_t)(last - before), "t:", 2);
    if (tag) times_add(&w->lag, now - atomic_load(&sent[strtoull(tag + 2, NULL, 10) % TAGS]));
}

static void *crowd_main(void *user) {
    crowd *w = (crowd *)user;
    struct epoll_event events[256];
    int ep = epoll_create1(0);
    for (unsigned i = 0; i < w->n; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(ep, EPOLL_CTL_ADD, w->readers[i].fd, &ev);
        w->readers[i].due = now_ns();
    }
    while (atomic_load(&running)) {
        int n = epoll_wait(ep, events, 256, 1);
        uint64_t now = now_ns();
        for (int i = 0; i < n; i++) {
            reader *r = &w->readers[events[i].data.u32];
            ssize_t got = recv(r->fd, r->buf + r->len, READER_BUF - r->len, MSG_DONTWAIT);
            if (got > 0) r->len += (size_t)got;
            if (r->asked && r->len >= 7 && memcmp(r->buf + r->len - 7, "+PONG\r\n", 7) == 0)
                reader_take(w, r, now);
        }
        for (unsigned i = 0; i < w->n; i++)
            if (!w->readers[i].asked && now >= w->readers[i].due) reader_ask(w, &w->readers[i]);
    }
    close(ep);
    return NULL;
}

static void crowd_make(crowd *w, unsigned n) {
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)server.port);
    const char *id = rs_say(&server, "XREVRANGE", "{zoocache}:log", "+", "-", "COUNT", "1", NULL);
    size_t dash = strcspn(id, "-");
    memset(w, 0, sizeof *w);
    snprintf(w->gen, sizeof w->gen, "%.*s", (int)dash, id);
    w->readers = (reader *)calloc(n, sizeof *w->readers);
    w->n = n;
    for (unsigned i = 0; i < n; i++) {
        w->readers[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        w->readers[i].buf = (char *)malloc(READER_BUF); /* used as far as replies are long */
        w->readers[i].cursor = strtoull(id + dash + 1, NULL, 10);
        if (connect(w->readers[i].fd, (struct sockaddr *)&a, sizeof a) != 0) w->bad = true;
    }
}

static void many(unsigned count, uint64_t rate, uint64_t seconds) {
    zc_cache *caches[REAL];
    busy b[WRITERS];
    pthread_t threads[WRITERS], crowd_thread;
    times heard;
    ear e = {&heard, 0, TAGS};
    crowd w;
    zc_desc d;
    zc_stats st;
    memset(&d, 0, sizeof d);
    times_make(&heard, REAL * rate * seconds * 2);
    rs_say(&server, "FLUSHALL", NULL);
    d.events.version = 1;
    d.events.mask = ZC_EVENT_INVALIDATED;
    d.events.on_event = on_event;
    d.events.user = &e;
    for (unsigned i = 0; i < REAL; i++) caches[i] = node(&d, false);
    crowd_make(&w, count > REAL ? count - REAL : 1);
    times_make(&w.lag, (size_t)count * 120 * seconds);
    uint64_t cpu = cpu_of_server(), here = cpu_here(), begun = now_ns(), breaks = 0,
             least = UINT64_MAX;
    atomic_store(&running, true);
    pthread_create(&crowd_thread, NULL, crowd_main, &w);
    for (uint32_t i = 0; i < WRITERS; i++) {
        b[i] = (busy){caches[i % REAL], TAGS / WRITERS * i, TAGS / WRITERS,
                      WRITERS * ZC_SECOND / rate};
        pthread_create(&threads[i], NULL, invalidates, &b[i]);
    }
    nap(seconds * ZC_SECOND);
    atomic_store(&running, false);
    double took = (double)(now_ns() - begun) / 1e9;
    cpu = cpu_of_server() - cpu;
    here = cpu_here() - here;
    for (unsigned i = 0; i < WRITERS; i++) pthread_join(threads[i], NULL);
    pthread_join(crowd_thread, NULL);
    for (unsigned i = 0; i < w.n; i++) {
        if (w.readers[i].heard < least) least = w.readers[i].heard;
        close(w.readers[i].fd);
        free(w.readers[i].buf);
    }
    zc_stats_read(caches[0], &st);
    for (unsigned i = 0; i < REAL; i++) {
        zc_stats_read(caches[i], &st);
        breaks += st.bus_breaks;
        zc_close(caches[i]);
    }
    printf("%u nodes, %" PRIu64 " invalidations/s asked for: %.0f/s heard by the slowest, %" PRIu64
           " epoch breaks%s\n",
           w.n + REAL, rate, (double)least / took, breaks, w.bad ? ", AND MISTAKES" : "");
    times_print("  from the call, the eight nodes", &heard);
    times_print("  the others: age of the last entry read", &w.lag);
    printf("  longest time between two proofs %.0f ms; server %.2f of a core, all nodes %.2f\n",
           (double)w.oldest / 1e6, (double)cpu / 1000 / took, (double)here / 1000 / took);
    free(w.readers), free(w.lag.at), free(heard.at);
}

int main(int argc, char **argv) {
    const char *what = "";
    uint64_t count = 500, rate = 1000, seconds = 10;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--nodes") == 0) count = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--rate") == 0)
            rate = strtoull(argv[++i], NULL, 0);
        else if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0)
            seconds = strtoull(argv[++i], NULL, 0);
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
