/* Every allocation fails once, and from each one on all fail; then blocks of every size. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    fault_store *store; /* NULL: none */
    zc_cache *c;
    bool evicts;        /* a fixed block or a limit: what was stored may be gone */
    int short_of;       /* calls that failed for want of memory */
} fixture;

/* ZC_OK, or what else is wanted; else it must be the lack of memory. True: as wanted. */
static bool went(fixture *f, int line, int rc, int want) {
    if (rc == want) return true;
    f->short_of++;
    if (rc == ZC_E_NOMEM && (f->evicts || f->mem.failed)) return false;
    if (rc == ZC_REFUSED && f->evicts) return false;
    printf("    line %d\n", line);
    CHECK_EQ(rc, want);
    return false;
}
#define WENT(f, rc, want) went(f, __LINE__, rc, want)

static void sound(fixture *f) { CHECK_EQ(zc_check(f->c), ZC_OK); }

/* What must be under a key: `want`, NULL: nothing. */
static void holds(fixture *f, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(f->c, zc_str(key), &v);
    if (rc == ZC_OK) {
        CHECK(want && v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    } else {
        CHECK(!v.data && !v.pin);
        if (f->store) CHECK(rc == ZC_MISS || rc == ZC_E_NOMEM);
        else CHECK(rc == ZC_MISS && (!want || f->evicts));
    }
    zc_release(f->c, &v);
}

static int put(fixture *f, const char *key, const char *value, const zc_put_opts *o) {
    return zc_put(f->c, zc_str(key), zc_str(value), o);
}

/* ---- the scenario, in steps; each leaves nothing behind but what it says ---- */

static void puts_and_reads(fixture *f) {
    zc_bytes deps[5] = {zc_str("a:1"), zc_str("a:2:x"), zc_str("b"), zc_str("c:d:e"),
                        zc_str("b:z")};
    zc_put_opts few = {.deps = deps, .ndeps = 2}, many = {.deps = deps, .ndeps = 5};
    const char *k = NULL, *l = NULL;
    if (WENT(f, put(f, "k", "1", &few), ZC_OK)) k = "1";
    holds(f, "k", k);
    sound(f);
    if (WENT(f, put(f, "k", "22222222", &many), ZC_OK)) k = "22222222";
    else if (f->evicts) k = NULL, (void)zc_del(f->c, zc_str("k"));
    holds(f, "k", k);
    sound(f);
    zc_put_opts timed = {.deps = deps, .ndeps = 3, .ttl = ZC_SECOND, .tti = ZC_SECOND};
    if (WENT(f, put(f, "l", "timed", &timed), ZC_OK)) l = "timed";
    holds(f, "l", l);
    zct_step(&f->time, 2 * ZC_SECOND);
    while (zc_poll(f->c, 100 * ZC_MICROSECOND) == ZC_MORE) {}
    holds(f, "l", NULL);
    zc_view v;
    if (WENT(f, zc_put_absent(f->c, zc_str("l"), NULL), ZC_OK) && !f->evicts)
        CHECK_EQ(zc_get(f->c, zc_str("l"), &v), ZC_ABSENT);
    CHECK(zc_del(f->c, zc_str("l")) >= 0);
    holds(f, "l", NULL);
    sound(f);
    /* Invalidating never fails for want of memory, and is never forgotten. */
    CHECK_EQ(zc_invalidate(f->c, zc_str("c")), ZC_OK);
    /* Without memory for the tag's node it may hit too much, never too little. */
    bool spared = k && strcmp(k, "1") == 0 && !f->mem.failed;
    if (spared || !k || strcmp(k, "1") != 0) holds(f, "k", spared ? "1" : NULL);
    CHECK_EQ(zc_invalidate(f->c, zc_str("a")), ZC_OK);
    holds(f, "k", NULL);
    CHECK_EQ(zc_invalidate(f->c, zc_str("never:seen:before")), ZC_OK);
    sound(f);
}

static void growing(fixture *f) {
    bool there[40];
    zc_bytes keys[40];
    zc_view v[40];
    int name[40], results[40];
    for (int i = 0; i < 40; i++) {
        char tag[16];
        snprintf(tag, sizeof tag, "g:%d", i);
        zc_bytes dep = zc_str(tag);
        zc_put_opts o = {.deps = &dep, .ndeps = 1};
        name[i] = i;
        keys[i] = zc_slice(&name[i], sizeof name[i]);
        there[i] = WENT(f, zc_put(f->c, keys[i], keys[i], &o), ZC_OK);
    }
    sound(f);
    int found = zc_get_many(f->c, keys, 40, v, results);
    for (int i = 0; i < 40; i++) {
        if (results[i] == ZC_OK) CHECK(v[i].size == 4 && *(const int *)v[i].data == i);
        if (!f->evicts && !f->store) CHECK_EQ(results[i], there[i] ? ZC_OK : ZC_MISS);
        found -= results[i] == ZC_OK;
        zc_release(f->c, &v[i]);
    }
    CHECK_EQ(found, 0);
    zc_bytes two[2] = {zc_str("g:7"), zc_str("g:9")};
    CHECK_EQ(zc_invalidate_many(f->c, two, 2), ZC_OK);
    for (int i = 7; i <= 9; i += 2) {
        int rc = zc_get(f->c, keys[i], &v[i]);
        CHECK(rc == ZC_MISS || (f->store && rc == ZC_E_NOMEM));
    }
    (void)zc_prune(f->c, 0);
    sound(f);
    CHECK_EQ(zc_clear(f->c), ZC_OK);
    (void)zc_prune(f->c, 0);
    sound(f);
}

static int drops;
static void drop(void *user, void *object, size_t size) {
    CHECK(user == NULL && object == &drops && size == 2);
    drops++;
}

static int put_object(fixture *f) {
    return zc_put_object(f->c, zc_str("o"), &drops, 2, drop, NULL, NULL);
}

static void objects(fixture *f) {
    zc_view v;
    drops = 0;
    int owned = 0;
    if (WENT(f, put_object(f), ZC_OK)) owned++;
    CHECK_EQ(drops, 0); /* not transferred unless ZC_OK */
    if (zc_get(f->c, zc_str("o"), &v) == ZC_OK) CHECK(v.data == &drops);
    if (WENT(f, put_object(f), ZC_OK)) owned++;
    CHECK(drops <= owned);
    zc_release(f->c, &v);
    CHECK(zc_del(f->c, zc_str("o")) >= 0);
    CHECK_EQ(drops, owned);
    sound(f);
}

typedef struct job {
    fixture *f;
    bool stubborn; /* goes on when a dependency could not be added */
    int deps, runs;
    zc_cache *nested;
} job;

static int load(zc_fill *fill, void *user) {
    job *j = (job *)user;
    j->runs++;
    for (int i = 0; i < j->deps; i++) {
        char tag[16];
        snprintf(tag, sizeof tag, "dep:%d", i);
        int rc = zc_fill_dep(fill, zc_str(tag));
        if (rc != ZC_OK && !j->stubborn) return rc;
        CHECK(rc == ZC_OK || rc == ZC_E_NOMEM);
    }
    if (j->nested) {
        job inner = {.f = j->f, .deps = 2};
        zc_fetch_opts o = {.parent = fill};
        zc_view v;
        int rc = zc_fetch(j->nested, zc_str("inner"), load, &inner, &o, &v);
        zc_release(j->nested, &v);
        if (rc != ZC_OK) return rc;
    }
    return zc_fill_value(fill, zc_str("loaded"));
}

static void fetches(fixture *f) {
    zc_view v;
    zc_stats s;
    zc_bytes dep = zc_str("static");
    job plain = {.f = f, .deps = 9}, stubborn = {.f = f, .deps = 9, .stubborn = true};
    job nested = {.f = f, .deps = 1, .nested = f->c};
    zc_fetch_opts o = {.put = {.deps = &dep, .ndeps = 1, .ttl = 100 * ZC_SECOND}};
    bool stored = WENT(f, zc_fetch(f->c, zc_str("f"), load, &plain, &o, &v), ZC_OK);
    CHECK_EQ(stored, v.pin != NULL);
    zc_release(f->c, &v);
    if (!stored) holds(f, "f", NULL);
    sound(f);
    if (WENT(f, zc_fetch(f->c, zc_str("s"), load, &stubborn, NULL, &v), ZC_OK))
        CHECK(v.size == 6 && memcmp(v.data, "loaded", 6) == 0);
    zc_release(f->c, &v);
    /* Whatever it lacks: an invalidation of any of the nine is never missed. */
    CHECK_EQ(zc_invalidate(f->c, zc_str("dep:8")), ZC_OK);
    holds(f, "s", NULL);
    holds(f, "f", NULL);
    (void)WENT(f, zc_fetch(f->c, zc_str("n"), load, &nested, NULL, &v), ZC_OK);
    zc_release(f->c, &v);
    CHECK_EQ(zc_invalidate(f->c, zc_str("dep:1")), ZC_OK);
    holds(f, "n", NULL);
    holds(f, "inner", NULL);
    zc_stats_read(f->c, &s);
    CHECK_EQ(s.flights, 0);
    CHECK_EQ(zc_clear(f->c), ZC_OK);
    sound(f);
}

static void told(void *user) { ++*(int *)user; }

static void pieces(fixture *f) {
    zc_view v;
    zc_fill *lead, *follow = NULL;
    int calls = 0, rc;
    if (!WENT(f, zc_flight_begin(f->c, zc_str("p"), NULL, &v, &lead), ZC_LEAD)) {
        CHECK(lead == NULL);
        sound(f);
        return;
    }
    rc = zc_flight_begin(f->c, zc_str("p"), NULL, &v, &follow);
    if (WENT(f, rc, ZC_FOLLOW)) CHECK_EQ(zc_flight_notify(follow, told, &calls), ZC_OK);
    else CHECK(follow == NULL);
    (void)WENT(f, zc_fill_dep(lead, zc_str("p:1")), ZC_OK);
    bool has = WENT(f, zc_fill_value(lead, zc_str("first")), ZC_OK);
    bool more = WENT(f, zc_fill_value(lead, zc_str("a value that is longer than the first one, "
                                                   "so that it needs more room than it has")),
                     ZC_OK);
    sound(f);
    int done = zc_flight_commit(lead, &v);
    if (done == ZC_OK || done == ZC_REFUSED || done == ZC_E_LEASE)
        CHECK(v.size == (more ? 81u : 5u) && (has || more));
    else CHECK((done == ZC_E_NOMEM || (done == ZC_E_LOADER && !has && !more)) && !v.pin);
    zc_release(f->c, &v);
    if (follow) {
        CHECK_EQ(calls, 1);
        rc = zc_flight_wait(follow, 0, &v);
        CHECK_EQ(rc, done == ZC_REFUSED ? ZC_OK : done);
        zc_release(f->c, &v);
    }
    CHECK(zc_del(f->c, zc_str("p")) >= 0);
    sound(f);
}

static void refreshes(fixture *f) {
    zc_view v;
    job j = {.f = f, .deps = 1};
    zc_fetch_opts o = {.put = {.soft_ttl = ZC_SECOND, .ttl = 10 * ZC_SECOND,
                               .stale_if_error = 10 * ZC_SECOND}};
    if (!WENT(f, put(f, "r", "old", &o.put), ZC_OK)) return;
    zct_step(&f->time, 2 * ZC_SECOND);
    int rc = zc_fetch(f->c, zc_str("r"), load, &j, &o, &v);
    /* The stale value is there: no lack of memory for a refresh takes it away. */
    if (!f->evicts && !f->store) CHECK(rc == ZC_STALE || rc == ZC_E_NOMEM);
    if (rc == ZC_STALE) CHECK(v.size == 3);
    zc_release(f->c, &v);
    while (zc_poll(f->c, 100 * ZC_MICROSECOND) == ZC_MORE) {}
    zct_step(&f->time, 12 * ZC_SECOND);
    rc = zc_fetch(f->c, zc_str("r"), load, &j, &o, &v); /* an error may be stood in for */
    CHECK(rc == ZC_OK || rc == ZC_STALE || rc == ZC_E_NOMEM);
    zc_release(f->c, &v);
    CHECK(zc_del(f->c, zc_str("r")) >= 0);
    sound(f);
}

static void tags_and_texts(fixture *f) {
    zc_tag *tag;
    uint64_t version;
    zc_explanation x;
    zc_stats s;
    char buf[32];
    if (WENT(f, zc_tag_intern(f->c, zc_str("in:terned"), &tag), ZC_OK)) {
        zc_put_opts o = {.tags = &tag, .ntags = 1};
        (void)WENT(f, put(f, "t", "v", &o), ZC_OK);
        CHECK_EQ(zc_invalidate_tag(f->c, tag), ZC_OK);
        holds(f, "t", NULL);
        zc_tag_release(f->c, tag);
    } else {
        CHECK(tag == NULL);
    }
    if (f->store) (void)WENT(f, zc_tag_version(f->c, zc_str("in:terned"), &version), ZC_OK);
    else CHECK_EQ(zc_tag_version(f->c, zc_str("in:terned"), &version), ZC_OK);
    CHECK_EQ(zc_explain(f->c, zc_str("t"), &x), ZC_OK);
    CHECK(zc_get_copy(f->c, zc_str("t"), buf, sizeof buf, NULL) != ZC_OK);
    zc_stats_read(f->c, &s);
    CHECK(zc_stats_prometheus(&s, "x", buf, sizeof buf) > sizeof buf);
    sound(f);
}

static void scenario(fixture *f) {
    puts_and_reads(f);
    growing(f);
    objects(f);
    fetches(f);
    pieces(f);
    refreshes(f);
    tags_and_texts(f);
}

/* One run with the n-th allocation failing (or all from there). False: none was made to fail. */
static bool run(zc_desc d, uint64_t n, bool from_there, fault_store *store) {
    fixture f;
    memset(&f, 0, sizeof f);
    f.time.mono = f.time.wall = 1000 * ZC_SECOND;
    f.store = store;
    f.evicts = d.max_entries != 0 || store;
    d.allocator = zct_allocator(&f.mem);
    d.clock = zct_clock(&f.time);
    d.no_thread = true;
    d.seed = 1;
    if (store) d.store = fs_hook(store, true);
    if (from_there) f.mem.fail_from = n;
    else f.mem.fail_at = n;
    unsigned bad = zct_bad;
    int rc = zc_open(&d, &f.c);
    if (rc == ZC_OK) {
        scenario(&f);
        /* With memory again everything works, if nothing was left in a bad state. */
        uint64_t failed = f.mem.failed;
        f.mem.fail_at = f.mem.fail_from = 0;
        f.mem.failed = 0;
        f.short_of = 0;
        scenario(&f);
        if (!f.evicts) CHECK_EQ(f.short_of, 0);
        f.mem.failed = failed;
        zc_close(f.c);
    } else {
        CHECK_EQ(rc, ZC_E_NOMEM);
        CHECK(f.c == NULL && f.mem.failed > 0);
    }
    CHECK_EQ(f.mem.blocks, 0);
    if (zct_bad != bad) printf("    with allocation %u failing\n", (unsigned)n);
    return f.mem.failed != 0;
}

static void sweep(zc_desc d, bool from_there, bool with_store) {
    uint64_t n = 1;
    for (bool more = true; more && zct_bad < 20; n++) {
        fault_store store;
        fs_init(&store);
        more = run(d, n, from_there, with_store ? &store : NULL);
        fs_destroy(&store);
    }
    printf("    %u allocations\n", (unsigned)n - 2);
    CHECK(n > 100);
}

TEST(each_allocation_fails_once) { sweep((zc_desc){0}, false, false); }
TEST(each_allocation_fails_once_with_a_limit) {
    sweep((zc_desc){.max_entries = 4, .shards = 2}, false, false);
}
TEST(each_allocation_fails_once_with_a_storage) { sweep((zc_desc){0}, false, true); }
TEST(no_memory_from_each_allocation_on) { sweep((zc_desc){0}, true, false); }
TEST(no_memory_from_each_allocation_on_with_a_storage) { sweep((zc_desc){0}, true, true); }

TEST(records_without_memory) {
    zc_bytes deps[2] = {zc_str("a"), zc_str("b:c")}, out, memory;
    static char value[3000];
    zc_record r = {.key = zc_str("k"), .value = zc_slice(value, sizeof value), .deps = deps,
                   .ndeps = 2}, back;
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    int rc, n = 0;
    do {
        mem.count = 0;
        mem.fail_at = (uint64_t)++n;
        rc = zc_record_encode(&r, &a, &out);
        CHECK(rc == ZC_OK || (rc == ZC_E_NOMEM && !out.ptr && !out.len && mem.blocks == 0));
    } while (rc != ZC_OK && n < 20);
    CHECK(rc == ZC_OK && n > 2);
    mem.count = 0;
    mem.fail_at = 1;
    CHECK_EQ(zc_record_decode(out, sizeof value, &a, &back, &memory), ZC_E_NOMEM);
    CHECK(!memory.ptr && !memory.len && !back.ndeps && !back.value.ptr);
    CHECK_EQ(zc_record_decode(out, sizeof value, &a, &back, &memory), ZC_OK);
    CHECK(back.value.len == sizeof value && memcmp(back.value.ptr, value, sizeof value) == 0);
    zct_free(&mem, (void *)(uintptr_t)memory.ptr, memory.len);
    zct_free(&mem, (void *)(uintptr_t)out.ptr, out.len);
}

TEST(blocks_of_every_size) {
    static unsigned char block[96 * 1024];
    int opened = 0;
    size_t step = 112;
    for (size_t size = 512; size < sizeof block && zct_bad < 20; size += step) {
        fixture f;
        memset(&f, 0, sizeof f);
        f.time.mono = f.time.wall = 1000 * ZC_SECOND;
        f.evicts = true;
        if (size > 60000) step = 1872;
        zc_desc d = {.block = block, .block_size = size, .no_thread = true, .seed = 1};
        d.clock = zct_clock(&f.time);
        memset(block, 0xa5, sizeof block);
        unsigned bad = zct_bad;
        int rc = zc_open(&d, &f.c);
        if (rc == ZC_OK) {
            opened++;
            scenario(&f);
            scenario(&f);
            zc_close(f.c);
        } else {
            CHECK_EQ(rc, ZC_E_NOMEM);
            CHECK(f.c == NULL);
        }
        for (size_t i = size; i < sizeof block; i++)
            if (block[i] != 0xa5) {
                CHECK(block[i] == 0xa5); /* not a byte beyond it */
                break;
            }
        if (zct_bad != bad) printf("    with a block of %zu bytes\n", size);
    }
    CHECK(opened > 50);
}

TEST(a_block_full_of_pins) {
    /* What is pinned cannot be evicted: the errors are clear, and it recovers. */
    static unsigned char block[64 * 1024];
    static char value[700];
    zc_view v[200];
    int n = 0, rc = ZC_OK;
    fixture f;
    memset(&f, 0, sizeof f);
    f.time.mono = f.time.wall = 1000 * ZC_SECOND;
    f.evicts = true;
    zc_desc d = {.block = block, .block_size = sizeof block, .no_thread = true, .seed = 1};
    d.clock = zct_clock(&f.time);
    REQUIRE(zc_open(&d, &f.c) == ZC_OK);
    for (; n < 200; n++) {
        memset(value, n, sizeof value);
        rc = zc_put(f.c, zc_slice(&n, sizeof n), zc_slice(value, sizeof value), NULL);
        if (rc != ZC_OK) break;
        CHECK_EQ(zc_get(f.c, zc_slice(&n, sizeof n), &v[n]), ZC_OK);
    }
    CHECK_EQ(rc, ZC_E_NOMEM);
    CHECK(n > 20 && n < 100);
    sound(&f);
    scenario(&f);
    for (int i = 0; i < n; i++) {
        CHECK(v[i].size == sizeof value && *(const unsigned char *)v[i].data == i);
        zc_release(f.c, &v[i]);
    }
    sound(&f);
    CHECK_EQ(put(&f, "k", "works again", NULL), ZC_OK);
    holds(&f, "k", "works again");
    zc_close(f.c);
}
