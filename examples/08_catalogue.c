/* 08_catalogue: a small service over a real database, whose answers are cached.
 *
 * The database is SQLite's, filled with the countries, subdivisions, languages and currencies of
 * Debian's package iso-codes. Readers ask questions, the popular ones often (Zipf): the page of a
 * subdivision, a region's members, a country's tree, a search for names. Writers rename, move,
 * delete and insert rows in transactions, and invalidate what they have changed.
 *
 * Tags    country:FR:FR-ARA:FR-01  a row. Its ancestors are in the tag, so renaming a region ends
 *                                  every page that shows the region's name
 *         children:FR-ARA          which rows are directly below a region or country
 *         names:FR                 the names in a country, for searches
 *         code:FR-01               that there is such a row, for the pages of those that are not
 *         languages                the names of languages
 *
 * Every answer is checked. What can change is a fact: a row, a set of children, the names of a
 * country. Each fact has a revision, which the transaction that changes it raises, and an answer
 * carries the facts that it was made of. When its invalidation has returned, a writer publishes the
 * revision. An answer is stale if it carries a revision for which a later one was published before
 * the question was asked. Besides, while the writers are held at a moment when all their
 * invalidations have returned, cached answers are compared with fresh ones byte for byte.
 *
 * Built with -DCATALOGUE_BEGIN_AFTER_LOADER it makes the usual mistake: it notes what was
 * invalidated so far after the query instead of before it. Then the checks must find stale answers.
 *
 * Usage: 08_catalogue [--seconds S] [--threads N] [--writers N] [--entries N] [--seed N]
 *                     [--record FILE] [--data DIRECTORY]
 * --record writes the hashes of the keys asked for, in order, as little-endian 64-bit numbers.
 * Prints what happened. Exit status: 0; 1 if any answer was stale or an error occurred; 77 if
 * iso-codes is not installed. Link with -llz4 -lsqlite3 -pthread. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- small things --------------------------------------------------------------------------- */

static char directory[64]; /* of the database; "" before it is made */

static void remove_directory(void) {
    static const char *const files[] = {"/db", "/db-wal", "/db-shm"};
    char path[80];
    if (!directory[0]) return;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", directory, files[i]);
        (void)unlink(path);
    }
    (void)rmdir(directory);
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "08_catalogue: %s: %s\n", what, why);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * ZC_SECOND + (uint64_t)t.tv_nsec;
}

static void sleep_us(uint64_t us) {
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000 * 1000)};
    nanosleep(&t, NULL);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

typedef struct buf {
    char *p;
    size_t n, cap;
} buf;

static void add(buf *b, const void *p, size_t n) {
    if (n > b->cap - b->n) {
        b->cap = (b->cap + n) * 2;
        if (!(b->p = realloc(b->p, b->cap))) die("memory", "exhausted");
    }
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void addf(buf *b, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add(b, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

/* ---- the database --------------------------------------------------------------------------- */

/* A row's fact is its number; that of its children the next one; of a country's names the next but
 * one. `gone` keeps the deleted rows: a revision is even while the row is there, odd when not. */
static const char schema[] =
    "CREATE TABLE country(fact INTEGER PRIMARY KEY, code TEXT UNIQUE, name TEXT, original TEXT,"
    " official TEXT, numeric TEXT, rev INTEGER DEFAULT 0, children INTEGER DEFAULT 0,"
    " names INTEGER DEFAULT 0);"
    "CREATE TABLE subdivision(fact INTEGER PRIMARY KEY, code TEXT UNIQUE, country TEXT,"
    " parent TEXT, name TEXT, original TEXT, type TEXT, rev INTEGER DEFAULT 0,"
    " children INTEGER DEFAULT 0);"
    "CREATE TABLE gone(fact INTEGER PRIMARY KEY, code TEXT UNIQUE, country TEXT, parent TEXT,"
    " name TEXT, original TEXT, type TEXT, rev INTEGER, children INTEGER);"
    "CREATE TABLE language(code TEXT PRIMARY KEY, name TEXT, original TEXT, type TEXT);"
    "CREATE TABLE currency(code TEXT PRIMARY KEY, name TEXT, numeric TEXT);"
    "CREATE TABLE languages(fact INTEGER PRIMARY KEY, rev INTEGER);"
    "CREATE INDEX subdivision_country ON subdivision(country);"
    "CREATE INDEX subdivision_parent ON subdivision(parent);";

static const struct {
    const char *file, *insert;
} sources[] = {
    {"iso_3166-1.json", "INSERT INTO country(fact, code, name, original, official, numeric)"
                        " SELECT key * 3, value->>'alpha_2', value->>'name', value->>'name',"
                        " coalesce(value->>'official_name', value->>'name'), value->>'numeric'"
                        " FROM json_each(?1, '$.\"3166-1\"')"},
    {"iso_3166-2.json", /* a parent is given as FR-ARA or as ARA */
     "INSERT INTO subdivision(fact, code, country, parent, name, original, type)"
     " SELECT (SELECT count(*) FROM country) * 3 + key * 2, value->>'code',"
     " substr(value->>'code', 1, 2), CASE WHEN value->>'parent' LIKE '%-%' THEN value->>'parent'"
     " ELSE substr(value->>'code', 1, 3) || (value->>'parent') END,"
     " value->>'name', value->>'name', value->>'type' FROM json_each(?1, '$.\"3166-2\"')"},
    {"iso_639-3.json",
     "INSERT INTO language SELECT value->>'alpha_3', value->>'name', value->>'name', value->>'type'"
     " FROM json_each(?1, '$.\"639-3\"')"},
    {"iso_4217.json",
     "INSERT INTO currency SELECT value->>'alpha_3', value->>'name', value->>'numeric'"
     " FROM json_each(?1, '$.\"4217\"')"},
};

static void run(sqlite3 *db, const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) die(sql, sqlite3_errmsg(db));
}

static sqlite3 *connect_db(void) {
    sqlite3 *db;
    char path[80];
    snprintf(path, sizeof path, "%s/db", directory);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) die(path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 60000);
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000");
    return db;
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql) {
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL);
    if (rc != SQLITE_OK) die(sql, sqlite3_errmsg(db));
    return st;
}

static bool step(sqlite3_stmt *st) {
    int rc = sqlite3_step(st);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        die(sqlite3_sql(st), sqlite3_errmsg(sqlite3_db_handle(st)));
    return rc == SQLITE_ROW;
}

/* "" for NULL. Good until the next step. */
static const char *text_of(sqlite3_stmt *st, int column) {
    const char *text = (const char *)sqlite3_column_text(st, column);
    return text ? text : "";
}

static void bind_text(sqlite3_stmt *st, int i, const char *text) {
    if (text) sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
    else sqlite3_bind_null(st, i);
}

static int number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *st = prepare(db, sql);
    int n = step(st) ? sqlite3_column_int(st, 0) : 0;
    sqlite3_finalize(st);
    return n;
}

/* Reads a file whole; false if it is not there. */
static bool read_file(const char *data, const char *name, buf *b) {
    char path[512], block[65536];
    snprintf(path, sizeof path, "%s/%s", data, name);
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) add(b, block, n);
    fclose(f);
    return true;
}

static void load_database(sqlite3 *db, const char *data) {
    run(db, schema);
    run(db, "BEGIN");
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        buf json = {NULL, 0, 0};
        if (!read_file(data, sources[i].file, &json)) {
            fprintf(stderr, "08_catalogue: %s/%s: not there; is the package iso-codes installed?\n",
                    data, sources[i].file);
            exit(77);
        }
        sqlite3_stmt *st = prepare(db, sources[i].insert);
        sqlite3_bind_text(st, 1, json.p, (int)json.n, SQLITE_STATIC);
        (void)step(st);
        sqlite3_finalize(st);
        free(json.p);
    }
    run(db, "INSERT INTO languages SELECT max(fact) + 2, 0 FROM subdivision");
    run(db, "COMMIT; ANALYZE");
    if (number(db, "SELECT count(*) FROM subdivision s WHERE parent IS NOT NULL AND NOT EXISTS"
                   " (SELECT 1 FROM subdivision p WHERE p.code = s.parent AND p.parent IS NULL)"))
        die(data, "a subdivision whose parent is not a subdivision of the first level");
}

/* ---- facts: what was published when ---------------------------------------------------------- */

#define RING 16

/* history: the latest revisions, each with the number of the publication that told it, as
 * publication << 24 | revision. */
typedef struct fact {
    atomic_uint begun;     /* a revision that was committed, or is about to be */
    atomic_uint published; /* a revision whose invalidation has returned */
    _Atomic uint64_t history[RING];
} fact;

static fact *facts;
static _Atomic uint64_t publications;
static pthread_mutex_t publishing = PTHREAD_MUTEX_INITIALIZER;

static void raise_to(atomic_uint *a, unsigned v) {
    unsigned old = atomic_load(a);
    while (old < v && !atomic_compare_exchange_weak(a, &old, v)) {}
}

/* The mutex is held; `publications` is raised when all facts of a change have been told. */
static void publish(uint32_t id, unsigned rev) {
    uint64_t number = atomic_load(&publications) + 1;
    atomic_store(&facts[id].history[rev % RING], number << 24 | rev);
    raise_to(&facts[id].published, rev);
}

/* Was something later than `rev` published by the publication `asked` or before it? */
static bool is_stale(uint32_t id, unsigned rev, uint64_t asked) {
    if (atomic_load(&facts[id].published) <= rev) return false;
    for (int i = 0; i < RING; i++) {
        uint64_t h = atomic_load(&facts[id].history[i]);
        if ((h & 0xffffff) > rev && h >> 24 <= asked) return true;
    }
    return false;
}

/* ---- questions and answers ------------------------------------------------------------------ */

typedef enum kind { PAGE, REGION, TREE, SEARCH, LANGUAGES, KINDS } kind;

typedef struct question {
    kind kind;
    char a[8], b[4]; /* a code; a part of a name */
    uint32_t fact;   /* PAGE, REGION: the row's */
    char key[24];
} question;

static question ask_for(kind k, const char *a, const char *b, uint32_t id) {
    static const char *const names[KINDS] = {"page", "region", "tree", "search", "languages"};
    question q = {.kind = k, .fact = id};
    snprintf(q.a, sizeof q.a, "%s", a);
    snprintf(q.b, sizeof q.b, "%s", b);
    snprintf(q.key, sizeof q.key, "%s/%s%s%s", names[k], a, b[0] ? "/" : "", b);
    return q;
}

static const char *const queries[KINDS] = {
    /* PAGE: the row, then its ancestors */
    "WITH RECURSIVE up(n, code) AS (SELECT 0, ?1 UNION ALL"
    " SELECT n + 1, parent FROM up JOIN subdivision USING (code) WHERE parent IS NOT NULL)"
    "SELECT s.fact, s.rev, c.fact, c.rev, s.country, s.parent, s.code, s.name, s.type, c.name,"
    " s.fact + 1, s.children, (SELECT count(*) FROM subdivision k WHERE k.parent = s.code)"
    " FROM up JOIN subdivision s USING (code) JOIN country c ON c.code = s.country ORDER BY n",
    /* REGION: the row with each of its children */
    "SELECT s.fact, s.rev, s.fact + 1, s.children, s.country, s.parent, s.name,"
    " k.fact, k.rev, k.code, k.name, k.type"
    " FROM subdivision s LEFT JOIN subdivision k ON k.parent = s.code"
    " WHERE s.code = ?1 ORDER BY k.name, k.code",
    /* TREE: the country with each row of its first level, and how many are below that */
    "WITH RECURSIVE below(top, code) AS ("
    " SELECT code, code FROM subdivision WHERE country = ?1 AND parent IS NULL UNION ALL"
    " SELECT top, s.code FROM below JOIN subdivision s ON s.parent = below.code)"
    "SELECT c.fact, c.rev, c.fact + 1, c.children, c.official, m.name, s.fact, s.rev, s.fact + 1,"
    " s.children, s.code, s.name, s.type, (SELECT count(*) - 1 FROM below WHERE top = s.code)"
    " FROM country c LEFT JOIN subdivision s ON s.country = c.code AND s.parent IS NULL"
    " LEFT JOIN currency m ON m.numeric = c.numeric"
    " WHERE c.code = ?1 ORDER BY s.name, s.code, m.code",
    /* SEARCH */
    "SELECT c.fact + 2, c.names, s.code, s.name FROM country c LEFT JOIN subdivision s"
    " ON s.country = c.code AND s.name LIKE '%' || ?2 || '%' WHERE c.code = ?1"
    " ORDER BY s.name, s.code",
    /* LANGUAGES */
    ("SELECT f.fact, f.rev, l.code, l.name FROM languages f LEFT JOIN language l"
     " ON l.name LIKE '%' || ?1 || '%' ORDER BY l.name, l.code"),
};

/* A thread's own: its connection and its counters. */
typedef struct context {
    sqlite3 *db;
    sqlite3_stmt *query[KINDS];
    uint64_t random;
    uint64_t requests, misses, loads, queries, checked, stale;
    uint64_t cached_ns, samples, sample_ns;
} context;

/* An answer in the making. */
typedef struct work {
    buf facts, text, deps; /* pairs of fact and revision; text; tags, each with its NUL */
    bool absent;
} work;

static void free_work(work *w) {
    free(w->facts.p);
    free(w->text.p);
    free(w->deps.p);
}

/* Adds the fact and revision of two columns. */
static void add_fact(work *w, sqlite3_stmt *st, int column) {
    uint32_t pair[2] = {(uint32_t)sqlite3_column_int(st, column),
                        (uint32_t)sqlite3_column_int(st, column + 1)};
    add(&w->facts, pair, sizeof pair);
}

static void add_dep(work *w, const char *tag, const char *rest) {
    addf(&w->deps, "%s%s", tag, rest);
    add(&w->deps, "", 1);
}

/* The tag of a row. There are two levels, which the writers keep so. */
static const char *row_tag(char tag[64], const char *country, const char *parent,
                           const char *code) {
    snprintf(tag, 64, "country:%s:%s%s%s", country, parent, parent[0] ? ":" : "", code);
    return tag;
}

/* The value: how many facts, the facts, the text. */
static buf finish(const work *w) {
    buf value = {NULL, 0, 0};
    uint32_t n = (uint32_t)(w->facts.n / 8);
    add(&value, &n, sizeof n);
    add(&value, w->facts.p, w->facts.n);
    add(&value, w->text.p, w->text.n);
    return value;
}

/* Makes an answer a part of another. */
static void append_answer(work *w, const void *data, size_t size) {
    uint32_t n;
    memcpy(&n, data, sizeof n);
    add(&w->facts, (const char *)data + sizeof n, n * 8);
    add(&w->text, (const char *)data + sizeof n + n * 8, size - sizeof n - n * 8);
}

static void answer_page(sqlite3_stmt *st, const question *q, work *w) {
    char tag[64];
    w->absent = true;
    for (; step(st); w->absent = false) {
        add_fact(w, st, 0);
        if (w->absent) { /* the first row: the one asked for */
            add_fact(w, st, 2);
            add_fact(w, st, 10);
            add_dep(w, row_tag(tag, text_of(st, 4), text_of(st, 5), q->a), "");
            add_dep(w, "children:", q->a);
            addf(&w->text, "%s: %d below\n", text_of(st, 9), sqlite3_column_int(st, 12));
        }
        addf(&w->text, "%s %s (%s)\n", text_of(st, 6), text_of(st, 7), text_of(st, 8));
    }
    if (w->absent) add_dep(w, "code:", q->a);
}

static void answer_region(sqlite3_stmt *st, const question *q, work *w) {
    char tag[64], child[64];
    w->absent = true;
    for (; step(st); w->absent = false) {
        row_tag(tag, text_of(st, 4), text_of(st, 5), q->a);
        if (w->absent) {
            add_fact(w, st, 0);
            add_fact(w, st, 2);
            add_dep(w, tag, "");
            add_dep(w, "children:", q->a);
            addf(&w->text, "%s %s\n", q->a, text_of(st, 6));
        }
        if (!text_of(st, 9)[0]) continue; /* no children */
        add_fact(w, st, 7);
        add_dep(w, row_tag(child, text_of(st, 4), q->a, text_of(st, 9)), "");
        addf(&w->text, "  %s %s (%s)\n", text_of(st, 9), text_of(st, 10), text_of(st, 11));
    }
    if (w->absent) add_dep(w, "code:", q->a);
}

/* Leaves the codes of the rows that have something below them in `regions`. */
static void answer_tree(sqlite3_stmt *st, const question *q, work *w, buf *regions) {
    char tag[64];
    for (bool first = true; step(st); first = false) {
        if (first) {
            add_fact(w, st, 0);
            add_fact(w, st, 2);
            add_dep(w, "country:", q->a);
            add_dep(w, "children:", q->a);
            addf(&w->text, "%s, %s\n", text_of(st, 4), text_of(st, 5));
        }
        const char *code = text_of(st, 10);
        if (!code[0]) continue;
        add_fact(w, st, 6);
        add_fact(w, st, 8);
        add_dep(w, row_tag(tag, q->a, "", code), "");
        add_dep(w, "children:", code);
        addf(&w->text, " %s %s (%s) + %d\n", code, text_of(st, 11), text_of(st, 12),
             sqlite3_column_int(st, 13));
        if (sqlite3_column_int(st, 13)) add(regions, code, strlen(code) + 1);
    }
}

static void answer_search(sqlite3_stmt *st, const question *q, work *w) {
    for (bool first = true; step(st); first = false) {
        if (first) {
            add_fact(w, st, 0);
            if (q->kind == SEARCH) add_dep(w, "names:", q->a);
            else add_dep(w, "languages", "");
        }
        addf(&w->text, "%s %s\n", text_of(st, 2), text_of(st, 3));
    }
}

/* ---- the service ---------------------------------------------------------------------------- */

static zc_cache *cache;

/* What a loader needs. */
typedef struct job {
    context *c;
    question q;
} job;

static int load(zc_fill *fill, void *user);
static int answer(context *c, const question *q, zc_fill *fill, work *w);

/* Puts a region's answer into a tree's. With a fill around it, it is fetched for itself, and hands
 * its dependencies up. */
static int add_region(context *c, const char *code, zc_fill *fill, work *w) {
    job j = {c, ask_for(REGION, code, "", 0)};
    if (fill) {
        const zc_fetch_opts nested = {.parent = fill};
        zc_view v;
        int rc = zc_fetch(cache, zc_str(j.q.key), load, &j, &nested, &v);
        if (rc == ZC_OK) append_answer(w, v.data, v.size);
        zc_release(cache, &v);
        return rc;
    }
    work part = {.absent = false};
    int rc = answer(c, &j.q, NULL, &part);
    buf value = finish(&part);
    if (!part.absent) append_answer(w, value.p, value.n);
    add(&w->deps, part.deps.p, part.deps.n);
    free(value.p);
    free_work(&part);
    return rc;
}

/* Asks the database. One statement is one snapshot. It is reset before anything is fetched inside:
 * a snapshot that stayed open would be older than the beginning of the inner fill, whose answer
 * would pass for newer than it is. */
static int answer(context *c, const question *q, zc_fill *fill, work *w) {
    sqlite3_stmt *st = c->query[q->kind];
    buf regions = {NULL, 0, 0};
    int rc = ZC_OK;
    bind_text(st, 1, q->a);
    if (q->kind == SEARCH) bind_text(st, 2, q->b);
    c->queries++;
    if (q->kind == PAGE) answer_page(st, q, w);
    else if (q->kind == REGION) answer_region(st, q, w);
    else if (q->kind == TREE) answer_tree(st, q, w, &regions);
    else answer_search(st, q, w);
    sqlite3_reset(st);
    for (size_t i = 0; i < regions.n && rc >= 0; i += strlen(regions.p + i) + 1)
        rc = add_region(c, regions.p + i, fill, w);
    free(regions.p);
    return rc < 0 ? rc : ZC_OK;
}

static int load(zc_fill *fill, void *user) {
    job *j = user;
    work w = {.absent = false};
    int rc = answer(j->c, &j->q, fill, &w);
    for (size_t i = 0; i < w.deps.n; i += strlen(w.deps.p + i) + 1)
        zc_fill_dep(fill, zc_str(w.deps.p + i)); /* if it fails, the answer is not stored */
    if (rc == ZC_OK && w.absent) rc = zc_fill_absent(fill);
    else if (rc == ZC_OK) {
        buf value = finish(&w);
        rc = zc_fill_value(fill, zc_slice(value.p, value.n));
        free(value.p);
    }
    free_work(&w);
    j->c->loads++;
    return rc;
}

/* What the service does for a question. ZC_OK: *v is the answer; ZC_ABSENT: no such row. */
#ifndef CATALOGUE_BEGIN_AFTER_LOADER
static int ask(context *c, const question *q, zc_view *v) {
    job j = {c, *q};
    return zc_fetch(cache, zc_str(q->key), load, &j, NULL, v);
}
#else
/* Wrong on purpose: what is invalidated between the query and zc_begin() goes unseen. */
static int ask(context *c, const question *q, zc_view *v) {
    int rc = zc_get(cache, zc_str(q->key), v);
    if (rc != ZC_MISS) return rc;
    work w = {.absent = false};
    zc_bytes deps[2048];
    zc_put_opts opts = {.deps = deps};
    rc = answer(c, q, NULL, &w);
    c->loads++;
    buf value = finish(&w);
    for (size_t i = 0; i < w.deps.n && opts.ndeps < 2048; i += deps[opts.ndeps++].len + 1)
        deps[opts.ndeps] = zc_str(w.deps.p + i);
    opts.begin = zc_begin(cache);
    if (rc == ZC_OK)
        rc = w.absent ? zc_put_absent(cache, zc_str(q->key), &opts)
                      : zc_put(cache, zc_str(q->key), zc_slice(value.p, value.n), &opts);
    free(value.p);
    free_work(&w);
    if (rc < 0) return rc;
    rc = zc_get(cache, zc_str(q->key), v);
    return rc == ZC_MISS ? ask(c, q, v) : rc; /* evicted or invalidated already */
}
#endif

/* How many facts of an answer are older than what had been published when it was asked for. */
static uint64_t check_answer(context *c, const zc_view *v, uint64_t asked) {
    const char *p = v->data;
    uint32_t n, pair[2];
    uint64_t old = 0;
    memcpy(&n, p, sizeof n);
    p += sizeof n;
    for (uint32_t i = 0; i < n; i++, p += sizeof pair) {
        memcpy(pair, p, sizeof pair);
        old += is_stale(pair[0], pair[1], asked);
    }
    c->checked += n;
    return old;
}

/* ---- readers -------------------------------------------------------------------------------- */

static question *questions;
static double *weights; /* summed up, for drawing by Zipf's law */
static size_t nquestions;
static atomic_bool stop;

static uint64_t *recorded; /* hashes, in the order of asking */
static size_t record_cap;
static atomic_size_t nrecorded;

static const question *draw(uint64_t *random) {
    double x = (double)(next_random(random) >> 11) / 9007199254740992.0 * weights[nquestions - 1];
    size_t low = 0, high = nquestions - 1;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (weights[mid] <= x) low = mid + 1;
        else high = mid;
    }
    return &questions[low];
}

static void record(const question *q) {
    size_t i = atomic_fetch_add_explicit(&nrecorded, 1, memory_order_relaxed);
    if (i < record_cap) recorded[i] = XXH3_64bits(q->key, strlen(q->key));
}

/* The same question without the cache: what would it have cost? */
static void sample(context *c, const question *q) {
    uint64_t before = c->queries, begun = now_ns();
    work w = {.absent = false};
    if (answer(c, q, NULL, &w) != ZC_OK) die(q->key, "no answer");
    buf value = finish(&w);
    c->sample_ns += now_ns() - begun;
    c->samples++;
    c->queries = before;
    free(value.p);
    free_work(&w);
}

static void read_once(context *c) {
    const question *q = draw(&c->random);
    uint64_t asked = atomic_load(&publications), loads = c->loads;
    unsigned known = atomic_load(&facts[q->fact].published);
    zc_view v;
    if (record_cap) record(q);
    uint64_t begun = now_ns();
    int rc = ask(c, q, &v);
    c->cached_ns += now_ns() - begun;
    c->requests++;
    c->misses += c->loads != loads;
    if (rc == ZC_OK) {
        c->stale += check_answer(c, &v, asked) != 0;
    } else if (rc == ZC_ABSENT) {
        /* Right if the row was gone at some time since the question was asked. */
        c->checked++;
        c->stale += known % 2 == 0 && atomic_load(&facts[q->fact].begun) == known;
    } else {
        die(q->key, zc_strerror(rc));
    }
    zc_release(cache, &v);
    if (c->requests % 256 == 0) sample(c, q);
}

static void open_context(context *c, uint64_t seed) {
    memset(c, 0, sizeof *c);
    c->db = connect_db();
    c->random = seed;
    for (int i = 0; i < KINDS; i++) c->query[i] = prepare(c->db, queries[i]);
}

static void close_context(context *c) {
    for (int i = 0; i < KINDS; i++) sqlite3_finalize(c->query[i]);
    sqlite3_close(c->db);
}

static void *reader(void *arg) {
    context *c = arg;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) read_once(c);
    return NULL;
}

/* ---- writers -------------------------------------------------------------------------------- */

/* Held for reading from before a transaction until its revisions are published. */
static pthread_rwlock_t quiet = PTHREAD_RWLOCK_INITIALIZER;

/* ?1: a row's code, ?2: another, ?3: a number. Each gives the fact changed and its revision, most
 * also the row's country and parent. */
typedef enum change {
    FIND,
    TARGET,
    RENAME,
    MOVE,
    BURY,
    DELETE,
    REVIVE,
    UNBURY,
    CHILDREN,
    COUNTRY_CHILDREN,
    NAMES,
    COUNTRY,
    LANGUAGE,
    LANGUAGE_NAMES,
    CHANGES
} change;

#define LEAF " AND NOT EXISTS (SELECT 1 FROM subdivision k WHERE k.parent = ?1)"
static const char *const changes[CHANGES] = {
    "SELECT fact, rev, country, coalesce(parent, '') FROM subdivision WHERE code = ?1",
    "SELECT fact, rev, code, '' FROM subdivision WHERE country = ?2 AND parent IS NULL"
    " AND code <> ?1 ORDER BY fact * ?3 % 7919 LIMIT 1",
    "UPDATE subdivision SET name = original || ' (' || ?3 || ')', rev = rev + 2 WHERE code = ?1"
    " RETURNING fact, rev, country, coalesce(parent, '')",
    "UPDATE subdivision SET parent = ?2, rev = rev + 2 WHERE code = ?1" LEAF " RETURNING fact, rev",
    "INSERT INTO gone SELECT fact, code, country, parent, name, original, type, rev + 1, children"
    " FROM subdivision WHERE code = ?1" LEAF " RETURNING fact, rev, country, coalesce(parent, '')",
    "DELETE FROM subdivision WHERE code = ?1",
    "INSERT INTO subdivision SELECT fact, code, country, (SELECT code FROM subdivision p WHERE"
    " p.code = gone.parent AND p.parent IS NULL), name, original, type, rev + 1, children FROM gone"
    " WHERE code = ?1 RETURNING fact, rev, country, coalesce(parent, '')",
    "DELETE FROM gone WHERE code = ?1",
    "UPDATE subdivision SET children = children + 1 WHERE code = ?1 RETURNING fact + 1, children",
    "UPDATE country SET children = children + 1 WHERE code = ?1 RETURNING fact + 1, children",
    "UPDATE country SET names = names + 1 WHERE code = ?1 RETURNING fact + 2, names",
    "UPDATE country SET name = original || ' (' || ?3 || ')', rev = rev + 2 WHERE code = ?1"
    " RETURNING fact, rev",
    "UPDATE language SET name = original || ' (' || ?3 || ')'"
    " WHERE rowid = 1 + ?3 % (SELECT max(rowid) FROM language) RETURNING 0, 0",
    "UPDATE languages SET rev = rev + 1 RETURNING fact, rev",
};

typedef struct writer {
    sqlite3 *db;
    sqlite3_stmt *change[CHANGES];
    uint64_t random;
    const question *about;    /* what is being changed */
    uint32_t fact[8], rev[8]; /* what the transaction has changed */
    size_t nfacts;
    char tag[8][64]; /* what it must invalidate */
    size_t ntags;
    char country[8], parent[8]; /* of the last row */
    uint64_t renamed, moved, deleted, inserted, tags;
} writer;

/* Runs a statement. False: no row was found, nothing has changed. */
static bool apply(writer *w, change what, const char *a, const char *b) {
    sqlite3_stmt *st = w->change[what];
    int params = sqlite3_bind_parameter_count(st);
    if (params > 0) bind_text(st, 1, a);
    if (params > 1) bind_text(st, 2, b);
    if (params > 2) sqlite3_bind_int(st, 3, (int)(next_random(&w->random) % 100000 + 1));
    bool found = step(st);
    if (found && sqlite3_column_count(st) > 2) {
        snprintf(w->country, sizeof w->country, "%s", text_of(st, 2));
        snprintf(w->parent, sizeof w->parent, "%s", text_of(st, 3));
    }
    if (found && what != FIND && what != TARGET && what != LANGUAGE) {
        w->fact[w->nfacts] = (uint32_t)sqlite3_column_int(st, 0);
        w->rev[w->nfacts++] = (uint32_t)sqlite3_column_int(st, 1);
    }
    while (found && step(st)) {}
    sqlite3_reset(st);
    return found;
}

static void touch(writer *w, const char *tag, const char *rest) {
    snprintf(w->tag[w->ntags++], sizeof w->tag[0], "%s%s", tag, rest);
}

/* The set of rows directly below a region, or a country, has changed. */
static void touch_children(writer *w, const char *country, const char *parent) {
    apply(w, parent[0] ? CHILDREN : COUNTRY_CHILDREN, parent[0] ? parent : country, NULL);
    touch(w, "children:", parent[0] ? parent : country);
}

static void touch_names(writer *w, const char *country) {
    apply(w, NAMES, country, NULL);
    touch(w, "names:", country);
}

static void rename_row(writer *w, const char *code) {
    char tag[64];
    if (!apply(w, RENAME, code, NULL)) return;
    touch(w, row_tag(tag, w->country, w->parent, code), "");
    touch_names(w, w->country);
    w->renamed++;
}

static void move_row(writer *w, const char *code) {
    char tag[64], country[8], from[8];
    const char *to = NULL;
    snprintf(country, sizeof country, "%s", w->country);
    snprintf(from, sizeof from, "%s", w->parent);
    if (!from[0] || next_random(&w->random) % 2)
        if (apply(w, TARGET, code, country)) to = w->country;
    if ((!to && !from[0]) || (to && strcmp(to, from) == 0)) return;
    if (!apply(w, MOVE, code, to)) return;
    touch(w, row_tag(tag, country, from, code), ""); /* what was filled depends on the old place */
    touch_children(w, country, from);
    touch_children(w, country, to ? to : "");
    w->moved++;
}

static void delete_row(writer *w, const char *code) {
    char tag[64];
    if (!apply(w, BURY, code, NULL)) return;
    apply(w, DELETE, code, NULL);
    touch(w, row_tag(tag, w->country, w->parent, code), "");
    touch(w, "code:", code);
    touch_children(w, w->country, w->parent);
    touch_names(w, w->country);
    w->deleted++;
}

static void insert_row(writer *w, const char *code) {
    if (!apply(w, REVIVE, code, NULL)) return;
    apply(w, UNBURY, code, NULL);
    touch(w, "code:", code);
    touch_children(w, w->country, w->parent);
    touch_names(w, w->country);
    w->inserted++;
}

static void change_something(writer *w) {
    const question *q = w->about;
    uint64_t dice = next_random(&w->random) % 100;
    if (q->kind == LANGUAGES) {
        apply(w, LANGUAGE, NULL, NULL);
        apply(w, LANGUAGE_NAMES, NULL, NULL);
        touch(w, "languages", "");
        w->renamed++;
    } else if (q->kind == TREE) {
        apply(w, COUNTRY, q->a, NULL);
        touch(w, "country:", q->a);
        w->renamed++;
    } else if (q->kind != SEARCH) {
        if (!apply(w, FIND, q->a, NULL)) insert_row(w, q->a);
        else if (dice < 60) rename_row(w, q->a);
        else if (dice < 85) move_row(w, q->a);
        else delete_row(w, q->a);
    }
}

/* Held from a transaction's beginning until its invalidation has returned: they invalidate in the
 * order of their commits. A row that moves takes its tag with it; who renames it next names the new
 * place, and must not have returned before the old one was invalidated. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static void write_once(writer *w) {
    zc_bytes tags[8];
    w->nfacts = w->ntags = 0;
    pthread_mutex_lock(&writing);
    run(w->db, "BEGIN IMMEDIATE");
    change_something(w);
    for (size_t i = 0; i < w->nfacts; i++) raise_to(&facts[w->fact[i]].begun, w->rev[i]);
    run(w->db, "COMMIT");
    /* First the change, then the invalidation. */
    for (size_t i = 0; i < w->ntags; i++) tags[i] = zc_str(w->tag[i]);
    int rc = zc_invalidate_many(cache, tags, w->ntags);
    pthread_mutex_unlock(&writing);
    if (rc != ZC_OK) die("zc_invalidate_many", zc_strerror(rc));
    w->tags += w->ntags;
    pthread_mutex_lock(&publishing);
    for (size_t i = 0; i < w->nfacts; i++) publish(w->fact[i], w->rev[i]);
    atomic_fetch_add(&publications, 1);
    pthread_mutex_unlock(&publishing);
}

static void *write_on(void *arg) {
    writer *w = arg;
    while (!atomic_load(&stop)) {
        /* Something popular, and often more than once: people correct what they have written. */
        w->about = draw(&w->random);
        do {
            pthread_rwlock_rdlock(&quiet);
            write_once(w);
            pthread_rwlock_unlock(&quiet);
            sleep_us(next_random(&w->random) % 1000);
        } while (!atomic_load(&stop) && next_random(&w->random) % 4);
        sleep_us(next_random(&w->random) % 20000);
    }
    return NULL;
}

static void open_writer(writer *w, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->db = connect_db();
    w->random = seed;
    for (int i = 0; i < CHANGES; i++) w->change[i] = prepare(w->db, changes[i]);
}

static void close_writer(writer *w) {
    for (int i = 0; i < CHANGES; i++) sqlite3_finalize(w->change[i]);
    sqlite3_close(w->db);
}

/* ---- the quiet moments ---------------------------------------------------------------------- */

static uint64_t compared, different;

/* Compares a cached answer, if there is one, with a fresh one. The writers are held. */
static void compare(context *c, const question *q) {
    zc_view v;
    work w = {.absent = false};
    int rc = zc_get(cache, zc_str(q->key), &v);
    if (rc != ZC_OK && rc != ZC_ABSENT) return;
    if (answer(c, q, NULL, &w) != ZC_OK) die(q->key, "no answer");
    buf value = finish(&w);
    bool same = w.absent ? rc == ZC_ABSENT
                         : rc == ZC_OK && v.size == value.n && !memcmp(v.data, value.p, value.n);
    if (!same && different++ < 3) fprintf(stderr, "%s: not as in the database\n", q->key);
    compared++;
    free(value.p);
    free_work(&w);
    zc_release(cache, &v);
}

/* Holds the writers and compares some of the popular answers. */
static void quiet_moment(context *c) {
    pthread_rwlock_wrlock(&quiet);
    for (int i = 0; i < 200; i++) compare(c, draw(&c->random));
    pthread_rwlock_unlock(&quiet);
}

/* ---- the run -------------------------------------------------------------------------------- */

typedef struct options {
    double seconds;
    int readers, writers;
    size_t entries;
    uint64_t seed;
    const char *record, *data;
} options;

static void parse_options(options *o, int argc, char **argv) {
    *o = (options){3, 4, 2, 4000, 1, NULL, "/usr/share/iso-codes/json"};
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) die(name, "needs a value; the options are at the top of the source");
        if (!strcmp(name, "--seconds")) o->seconds = atof(value);
        else if (!strcmp(name, "--threads")) o->readers = atoi(value);
        else if (!strcmp(name, "--writers")) o->writers = atoi(value);
        else if (!strcmp(name, "--entries")) o->entries = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--seed")) o->seed = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--record")) o->record = value;
        else if (!strcmp(name, "--data")) o->data = value;
        else die(name, "no such option; they are at the top of the source");
    }
    if (o->readers < 1 || o->readers > 64 || o->writers < 0 || o->writers > 16)
        die("--threads, --writers", "1 to 64, 0 to 16");
}

static void add_question(question q) {
    if ((nquestions & (nquestions - 1)) == 0) {
        questions = realloc(questions, (nquestions * 2 + 1) * sizeof *questions);
        if (!questions) die("memory", "exhausted");
    }
    questions[nquestions++] = q;
}

static void add_questions(sqlite3 *db, kind k, const char *sql) {
    sqlite3_stmt *st = prepare(db, sql);
    while (step(st)) {
        uint32_t id = (uint32_t)sqlite3_column_int(st, 2);
        add_question(ask_for(k, text_of(st, 0), text_of(st, 1), id));
    }
    sqlite3_finalize(st);
}

/* All questions that will be asked, in the order of their popularity, which chance decides. */
static void make_questions(sqlite3 *db, const options *o) {
    uint64_t random = o->seed;
    add_questions(db, PAGE, "SELECT code, '', fact FROM subdivision");
    add_questions(db, REGION,
                  "SELECT code, '', fact FROM subdivision WHERE code IN"
                  " (SELECT parent FROM subdivision)");
    add_questions(db, TREE, "SELECT code, '', fact FROM country");
    add_questions(db, SEARCH,
                  "SELECT c.code, p.value, c.fact FROM country c, json_each("
                  "'[\"an\", \"ar\", \"en\", \"in\", \"or\"]') p WHERE (SELECT count(*)"
                  " FROM subdivision s WHERE s.country = c.code) >= 20");
    add_questions(db, LANGUAGES,
                  "SELECT a.value || b.value, '', 0 FROM"
                  " json_each('[\"a\", \"e\", \"i\", \"o\", \"u\"]') a, json_each("
                  "'[\"b\", \"k\", \"l\", \"m\", \"n\", \"r\", \"s\", \"t\"]') b");
    weights = malloc(nquestions * sizeof *weights);
    if (!weights) die("memory", "exhausted");
    for (size_t i = 0; i < nquestions; i++) {
        size_t j = i + next_random(&random) % (nquestions - i);
        question q = questions[i];
        questions[i] = questions[j];
        questions[j] = q;
        weights[i] = (i ? weights[i - 1] : 0) + 1 / ((double)i + 1);
    }
}

static void start(pthread_t *t, void *(*fn)(void *), void *arg) {
    if (pthread_create(t, NULL, fn, arg) != 0) die("pthread_create", "failed");
}

static void write_record(const char *path) {
    unsigned char key[8];
    FILE *f = fopen(path, "wb");
    size_t n = atomic_load(&nrecorded) < record_cap ? atomic_load(&nrecorded) : record_cap;
    if (!f) die(path, "cannot be written");
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; k < 8; k++) key[k] = (unsigned char)(recorded[i] >> 8 * k);
        if (fwrite(key, 1, 8, f) != 8) die(path, "cannot be written");
    }
    if (fclose(f) != 0) die(path, "cannot be written");
    printf("recorded      %zu keys in %s\n", n, path);
}

/* Runs readers and writers for the time given, with quiet moments in between and at the end. */
static void serve(const options *o, context *c, writer *w, context *judge) {
    pthread_t threads[80];
    int n = 0;
    uint64_t end = now_ns() + (uint64_t)(o->seconds * 1e9);
    for (int i = 0; i < o->readers; i++) start(&threads[n++], reader, &c[i]);
    for (int i = 0; i < o->writers; i++) start(&threads[n++], write_on, &w[i]);
    while (now_ns() < end) {
        uint64_t left = (end - now_ns()) / 1000;
        sleep_us(left < 250000 ? left : 250000);
        quiet_moment(judge);
    }
    atomic_store(&stop, true);
    while (n) pthread_join(threads[--n], NULL);
    for (size_t i = 0; i < nquestions; i++) compare(judge, &questions[i]);
}

static int report(const options *o, const context *c, const writer *w) {
    context t = {.requests = 0};
    writer x = {.renamed = 0};
    zc_stats st;
    for (int i = 0; i < o->readers; i++) {
        t.requests += c[i].requests, t.misses += c[i].misses, t.queries += c[i].queries;
        t.checked += c[i].checked, t.stale += c[i].stale;
        t.cached_ns += c[i].cached_ns, t.samples += c[i].samples, t.sample_ns += c[i].sample_ns;
    }
    for (int i = 0; i < o->writers; i++) {
        x.renamed += w[i].renamed, x.moved += w[i].moved, x.deleted += w[i].deleted;
        x.inserted += w[i].inserted, x.tags += w[i].tags;
    }
    zc_stats_read(cache, &st);
    double n = t.requests ? (double)t.requests : 1, cached = (double)t.cached_ns / n / 1000;
    double fresh = t.samples ? (double)t.sample_ns / (double)t.samples / 1000 : 0;
    printf("requests      %llu, %.0f a second\n", (unsigned long long)t.requests, n / o->seconds);
    printf("hit ratio     %.2f %%\n", 100 * (n - (double)t.misses) / n);
    printf("queries       %llu run; %llu requests needed none\n", (unsigned long long)t.queries,
           (unsigned long long)(t.requests - t.misses));
    printf("waits         %llu, for another thread's load of the same key\n",
           (unsigned long long)st.waits);
    printf("time          %.2f us a request with the cache, %.2f without: %.1f times faster\n",
           cached, fresh, cached > 0 ? fresh / cached : 0);
    printf("              (without: every 256th request, asked once more of the database alone)\n");
    printf("writes        %llu renamed, %llu moved, %llu deleted, %llu inserted\n",
           (unsigned long long)x.renamed, (unsigned long long)x.moved,
           (unsigned long long)x.deleted, (unsigned long long)x.inserted);
    printf("invalidations %llu, of %llu tags; ", (unsigned long long)st.invalidations,
           (unsigned long long)x.tags);
    printf("they made %llu requests miss and %llu loads not be stored\n",
           (unsigned long long)st.misses_invalidated, (unsigned long long)st.refused);
    printf("checked       %llu facts; %llu answers compared with the database, byte for byte\n",
           (unsigned long long)t.checked, (unsigned long long)compared);
    printf("stale answers %llu, and %llu that differed\n", (unsigned long long)t.stale,
           (unsigned long long)different);
    return t.stale || different || !t.requests || zc_check(cache) != ZC_OK;
}

int main(int argc, char **argv) {
    static context readers[64], judge;
    static writer writers[16];
    options o;
    parse_options(&o, argc, argv);
    const char *tmp = getenv("TMPDIR");
    if (!tmp || strlen(tmp) > 30) tmp = "/tmp";
    snprintf(directory, sizeof directory, "%s/catalogue.XXXXXX", tmp);
    if (!mkdtemp(directory)) die(tmp, "no directory can be made there");
    atexit(remove_directory);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* a counter that all threads would share */

    sqlite3 *db = connect_db();
    load_database(db, o.data);
    make_questions(db, &o);
    facts = calloc((size_t)number(db, "SELECT fact + 1 FROM languages"), sizeof *facts);
    if (o.record) recorded = malloc((record_cap = 2000000) * sizeof *recorded);
    if (!facts || (o.record && !recorded)) die("memory", "exhausted");
    printf(
        "loaded        %d countries, %d subdivisions, %d languages, %d currencies\n",
        number(db, "SELECT count(*) FROM country"), number(db, "SELECT count(*) FROM subdivision"),
        number(db, "SELECT count(*) FROM language"), number(db, "SELECT count(*) FROM currency"));
    printf("service       %zu questions, %zu entries, %d readers, %d writers, %.1f s\n", nquestions,
           o.entries, o.readers, o.writers, o.seconds);

    int rc = zc_open(&(zc_desc){.max_entries = o.entries}, &cache);
    if (rc != ZC_OK) die("zc_open", zc_strerror(rc));
    for (int i = 0; i < o.readers; i++) open_context(&readers[i], o.seed * 1000 + (uint64_t)i);
    for (int i = 0; i < o.writers; i++) open_writer(&writers[i], o.seed * 2000 + (uint64_t)i);
    open_context(&judge, o.seed * 3000);
    serve(&o, readers, writers, &judge);
    int bad = report(&o, readers, writers);
    if (o.record) write_record(o.record);

    for (int i = 0; i < o.readers; i++) close_context(&readers[i]);
    for (int i = 0; i < o.writers; i++) close_writer(&writers[i]);
    close_context(&judge);
    zc_close(cache);
    sqlite3_close(db);
    free(questions);
    free(weights);
    free(facts);
    free(recorded);
    return bad;
}
