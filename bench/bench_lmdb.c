/* bench_lmdb.c - what a hit in an LMDB environment costs, beside LMDB's own.
 *
 *   build/bench_lmdb [--keys N] [--size BYTES] [--rounds R] [--dir DIRECTORY]
 *
 * Another process has written the values. Each round measures every row once, so that all of them
 * see the same machine, and each row after as many calls that do not count, so that none pays for
 * what the one before has left in the processor's caches. Printed is the median of the rounds, CPU
 * time of the thread.
 *   raw get        mdb_txn_renew, mdb_get, memcpy of the value, mdb_txn_reset, in a plain environment
 *   raw begin      likewise, with mdb_txn_begin and mdb_txn_abort
 *   record         the storage's get, the decoding, the comparison of the position: what has to be
 *   versions       likewise, with the versions of its tag and of the root read from the file
 *   copy           zc_get_copy of a cache whose table has room for almost nothing, and that was
 *                  there when the values were written: it has heard the log, and looks whether it
 *                  has grown
 *   pinned         zc_get and zc_release, likewise: through the table
 *   put            zc_put;   invalidate: zc_invalidate
 *   ..., later     of a cache opened after all that: each hit asks the file for versions */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include <stdio.h>
#include <sys/wait.h>

enum { MOST_ROUNDS = 101, TAGS = 1024, ROWS = 10, LATER = 8, KEY = 16 };

static unsigned keys = 10000, rounds = 15;
static size_t size = 1024;
static const char *base = "/tmp";

static char dir[256], raw_dir[280];
static uint64_t seed = 42;

static void must(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "bench_lmdb: %s\n", what);
    exit(1);
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static char (*names)[KEY + 1];

static void make_keys(void) {
    names = (char (*)[KEY + 1])malloc(keys * sizeof *names);
    must(names != NULL, "no memory");
    for (unsigned i = 0; i < keys; i++) snprintf(names[i], KEY + 1, "user:%011u", i);
}
static zc_bytes key_of(unsigned i) { return zc_slice(names[i], KEY); }
static zc_bytes tag_of(unsigned i, char tag[16]) {
    snprintf(tag, 16, "org:%u", i % TAGS);
    return zc_str(tag);
}
static unsigned any(void) { return (unsigned)(zc__random(&seed) % keys); }

/* Bytes that do not compress: the time is LMDB's, not LZ4's. */
static const void *value_of(unsigned i) {
    static unsigned char value[1 << 20];
    uint64_t s = i;
    for (size_t at = 0; at + 8 <= size; at += 8) zc__put_le(value + at, zc__random(&s), 8);
    return value;
}

static zc_cache *open_cache(zc_store *store, zc_bus *bus) {
    zc_lmdb_desc l;
    zc_desc d;
    zc_cache *c;
    memset(&l, 0, sizeof l);
    memset(&d, 0, sizeof d);
    l.path = dir;
    must(zc_lmdb_open(&l, &d.store, &d.bus) == ZC_OK, "zc_lmdb_open");
    if (store) *store = d.store;
    if (bus) *bus = d.bus;
    d.max_entries = 16;
    d.no_thread = true;
    must(zc_open(&d, &c) == ZC_OK, "zc_open");
    return c;
}

static void put_one(zc_cache *c, unsigned i) {
    char tag[16];
    zc_put_opts o;
    zc_bytes dep = tag_of(i, tag);
    memset(&o, 0, sizeof o);
    o.deps = &dep;
    o.ndeps = 1;
    must(zc_put(c, key_of(i), zc_slice(value_of(i), size), &o) == ZC_OK, "zc_put");
}

static void write_all(void) {
    pid_t child = fork();
    int status = 1;
    if (child == 0) {
        zc_cache *c = open_cache(NULL, NULL);
        for (unsigned i = 0; i < 100; i++) {
            char tag[16];
            must(zc_invalidate(c, tag_of(i, tag)) == ZC_OK, "zc_invalidate");
        }
        for (unsigned i = 0; i < keys; i++) put_one(c, i);
        zc_close(c);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && status == 0, "the writer has failed");
}

/* ---- LMDB alone ---- */

static MDB_env *env;
static MDB_dbi dbi;
static MDB_txn *reader;

static void raw_open(void) {
    MDB_txn *txn;
    bool good = mdb_env_create(&env) == 0 && mdb_env_set_mapsize(env, (size_t)1 << 30) == 0 &&
                mdb_env_open(env, raw_dir, MDB_NOTLS | MDB_NOSYNC, 0600) == 0 &&
                mdb_txn_begin(env, NULL, 0, &txn) == 0 && mdb_dbi_open(txn, NULL, 0, &dbi) == 0;
    must(good, "raw environment");
    for (unsigned i = 0; i < keys; i++) {
        MDB_val k = zc__lmdb_val(names[i], KEY), v = zc__lmdb_val(value_of(i), size);
        must(mdb_put(txn, dbi, &k, &v, 0) == 0, "mdb_put");
    }
    must(mdb_txn_commit(txn) == 0, "commit");
    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &reader) == 0, "reader");
    mdb_txn_reset(reader);
}

static unsigned char copy[1 << 20];

static void raw_copy(MDB_txn *txn, unsigned i) {
    MDB_val k = zc__lmdb_val(names[i], KEY), v;
    must(mdb_get(txn, dbi, &k, &v) == 0 && v.mv_size == size, "mdb_get");
    memcpy(copy, v.mv_data, v.mv_size);
}
static void raw_get(zc_cache *c, unsigned i) {
    (void)c;
    must(mdb_txn_renew(reader) == 0, "renew");
    raw_copy(reader, i);
    mdb_txn_reset(reader);
}
static void raw_begin(zc_cache *c, unsigned i) {
    MDB_txn *txn;
    (void)c;
    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0, "begin");
    raw_copy(txn, i);
    mdb_txn_abort(txn);
}

/* ---- the hooks, the cache ---- */

static zc_store store;
static zc_bus bus;
static zc__mem mem;
static zc__buf buf;

static uint64_t record_of(unsigned i, zc_bytes *dep) {
    zc_sink sink;
    zc_record r;
    zc_bytes memory;
    uint64_t tail;
    memset(&sink, 0, sizeof sink);
    sink.mem = &mem;
    sink.most = UINT32_MAX;
    sink.buf = buf;
    sink.buf.size = 0;
    int rc = store.get(store.user, key_of(i), &sink);
    buf = sink.buf;
    must(rc == ZC_OK, "get");
    rc = zc_record_decode(zc_slice(buf.ptr, buf.size), UINT32_MAX, NULL, &r, &memory);
    must(rc == ZC_OK && r.value.len == size && r.ndeps == 1, "decode");
    memcpy(copy, r.value.ptr, r.value.len);
    *dep = r.deps[0];
    free((void *)(uintptr_t)memory.ptr);
    must(bus.peek(bus.user, &tail) == ZC_OK && r.begin <= tail, "peek");
    return r.begin;
}
static void record(zc_cache *c, unsigned i) {
    zc_bytes dep;
    (void)c;
    (void)record_of(i, &dep);
}
static void record_versions(zc_cache *c, unsigned i) {
    zc_bytes paths[3];
    uint64_t at[3];
    (void)c;
    uint64_t begin = record_of(i, &paths[2]);
    paths[0] = zc_str("");
    paths[1] = zc_str("org");
    must(bus.versions(bus.user, paths, 3, at) == ZC_OK, "versions");
    must(at[0] <= begin && at[1] <= begin && at[2] <= begin, "stale");
}
static void cache_copy(zc_cache *c, unsigned i) {
    size_t len;
    must(zc_get_copy(c, key_of(i), copy, size, &len) == ZC_OK && len == size, "zc_get_copy");
}
static void cache_get(zc_cache *c, unsigned i) {
    zc_view v;
    must(zc_get(c, key_of(i), &v) == ZC_OK && v.size == size, "zc_get");
    zc_release(c, &v);
}
static void cache_invalidate(zc_cache *c, unsigned i) {
    char tag[32];
    snprintf(tag, sizeof tag, "other:%u", i);
    must(zc_invalidate(c, zc_str(tag)) == ZC_OK, "zc_invalidate");
}

static double sample(void (*fn)(zc_cache *, unsigned), zc_cache *c, unsigned n) {
    for (unsigned i = 0; i < n; i++) fn(c, any());
    double from = now_ns();
    for (unsigned i = 0; i < n; i++) fn(c, any());
    return (now_ns() - from) / n;
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static struct {
    const char *name;
    void (*fn)(zc_cache *, unsigned);
    unsigned n;
    double ns[MOST_ROUNDS], median;
} rows[ROWS] = {
    {"raw get", raw_get, 20000, {0}, 0},
    {"raw begin", raw_begin, 20000, {0}, 0},
    {"record", record, 20000, {0}, 0},
    {"versions", record_versions, 20000, {0}, 0},
    {"copy", cache_copy, 20000, {0}, 0},
    {"pinned", cache_get, 20000, {0}, 0},
    {"put", put_one, 500, {0}, 0},
    {"invalidate", cache_invalidate, 500, {0}, 0},
    {"copy, later", cache_copy, 20000, {0}, 0},
    {"pinned, later", cache_get, 20000, {0}, 0},
};

static void measure(zc_cache *c, unsigned from, unsigned to) {
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned i = from; i < to; i++) rows[i].ns[r] = sample(rows[i].fn, c, rows[i].n);
    for (unsigned i = from; i < to; i++) {
        qsort(rows[i].ns, rounds, sizeof(double), order);
        rows[i].median = rows[i].ns[rounds / 2];
    }
}

static void options(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--keys") == 0) keys = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--size") == 0) size = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            rounds = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--dir") == 0) base = argv[i + 1];
        else must(false, "unknown option");
    }
    must(keys > 0 && size > 0 && size <= sizeof copy && rounds > 0 && rounds <= MOST_ROUNDS,
         "an option out of range");
}

int main(int argc, char **argv) {
    static const char *const files[] = {"data.mdb", "lock.mdb", "zoocache", "raw/data.mdb",
                                        "raw/lock.mdb"};
    options(argc, argv);
    make_keys();
    snprintf(dir, sizeof dir, "%s/bench-lmdb-XXXXXX", base);
    must(mkdtemp(dir) != NULL, "no directory");
    snprintf(raw_dir, sizeof raw_dir, "%s/raw", dir);
    must(mkdir(raw_dir, 0700) == 0, "no directory");
    raw_open();
    zc_cache *c = open_cache(&store, &bus); /* attached before they are written */
    write_all();
    measure(c, 0, LATER);
    zc_close(c);
    c = open_cache(NULL, NULL);
    measure(c, LATER, ROWS);
    zc_close(c);
    printf("%u keys, values of %zu bytes, median of %u rounds\n", keys, size, rounds);
    for (unsigned i = 0; i < ROWS; i++)
        printf("%-14s %8.0f ns  %5.2f x raw get\n", rows[i].name, rows[i].median,
               rows[i].median / rows[0].median);
    free(buf.ptr);
    free(names);
    mdb_txn_abort(reader);
    mdb_env_close(env);
    for (size_t i = 0; i < 5; i++) {
        char name[300];
        snprintf(name, sizeof name, "%s/%s", dir, files[i]);
        unlink(name);
    }
    rmdir(raw_dir);
    rmdir(dir);
    return 0;
}
