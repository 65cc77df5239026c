/* Random tags, invalidations, prunings and dependants against a naive map from path to version.
 * What the cache calls fresh must be fresh by the one rule in the model; without pruning and with
 * enough memory the reverse holds, too. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { LABELS = 3, DEPTH = 4, PATHS = 3 + 9 + 27 + 81, HOLDERS = 80, DEPS = 3, HANDLES = 20 };

typedef struct path {
    char text[24];
    unsigned above; /* index, or PATHS: the root */
    uint64_t killed;
} path;

typedef struct holder { /* an entry, or a fill under way */
    bool filling, stored;
    uint64_t begin;
    unsigned n, deps[DEPS];
} holder;

static path paths[PATHS + 1];
static holder holders[HOLDERS];
static zc_tag *handles[HANDLES];
static unsigned handle_path[HANDLES];
static zc_cache *c;
static zct_time now;
static zct_mem mem;
static unsigned refused_by_floor, killed_too_much, kept;

static void make_paths(void) {
    static const char *const labels[LABELS] = {"a", "ab", "b"};
    unsigned n = 0;
    memset(paths, 0, sizeof paths);
    for (unsigned up = PATHS; n < PATHS; up = up == PATHS ? 0 : up + 1) {
        for (unsigned l = 0; l < LABELS; l++, n++) {
            memcpy(paths[n].text, paths[up].text, sizeof paths[n].text);
            if (up != PATHS) strcat(paths[n].text, ":");
            strcat(paths[n].text, labels[l]);
            paths[n].above = up;
        }
    }
}

static zc_bytes text_of(unsigned p) { return zc_str(paths[p].text); }

/* The one rule. */
static bool model_fresh(const holder *h) {
    if (paths[PATHS].killed > h->begin) return false;
    for (unsigned i = 0; i < h->n; i++)
        for (unsigned p = h->deps[i]; p != PATHS; p = paths[p].above)
            if (paths[p].killed > h->begin) return false;
    return true;
}

static zc_bytes key_of(unsigned i) {
    static char key[16];
    return zc_slice(key, (size_t)snprintf(key, sizeof key, "%u", i));
}

static void begin_fill(holder *h) {
    memset(h, 0, sizeof *h);
    h->filling = true;
    h->begin = zc_begin(c);
    h->n = (unsigned)zct_below(DEPS + 1);
    for (unsigned i = 0; i < h->n; i++) h->deps[i] = (unsigned)zct_below(PATHS);
}

static void end_fill(unsigned i, bool exact) {
    holder *h = &holders[i];
    zc_put_opts o;
    zc_bytes texts[DEPS];
    bool fresh = model_fresh(h);
    memset(&o, 0, sizeof o);
    for (unsigned k = 0; k < h->n; k++) texts[k] = text_of(h->deps[k]);
    o.deps = texts;
    o.ndeps = h->n;
    o.begin = h->begin;
    int rc = zc_put(c, key_of(i), zc_str("v"), &o);
    if (rc == ZC_OK) {
        CHECK(fresh);
        kept++;
    } else if (rc == ZC_REFUSED) {
        if (exact) CHECK(!fresh);
        refused_by_floor += fresh;
    } else {
        CHECK(rc == ZC_E_NOMEM && !exact);
    }
    h->filling = false;
    h->stored = rc == ZC_OK;
    h->begin = zc_begin(c);
    if (rc == ZC_E_NOMEM) (void)zc_del(c, key_of(i)); /* an older entry would be left */
}

/* Without memory for a node, an invalidation may take what is above it: never too little. */
static void look(unsigned i, bool failing) {
    const holder *h = &holders[i];
    char buf[4];
    size_t len;
    if (h->filling) return;
    bool fresh = h->stored && model_fresh(h);
    int rc = zc_get_copy(c, key_of(i), buf, sizeof buf, &len);
    if (fresh && failing) killed_too_much += rc == ZC_MISS;
    else CHECK_EQ(rc, fresh ? ZC_OK : ZC_MISS);
}

static void invalidate(void) {
    zc_bytes texts[5];
    unsigned p[5], n = 1;
    uint64_t before = zc_begin(c);
    if (zct_below(4) == 0) n = 1 + (unsigned)zct_below(5);
    for (unsigned i = 0; i < n; i++) {
        p[i] = (unsigned)zct_below(PATHS);
        texts[i] = text_of(p[i]);
    }
    unsigned h = (unsigned)zct_below(HANDLES);
    if (n == 1 && handles[h] && zct_below(3) == 0) {
        p[0] = handle_path[h];
        CHECK_EQ(zc_invalidate_tag(c, handles[h]), ZC_OK);
    } else if (n == 1) {
        CHECK_EQ(zc_invalidate(c, texts[0]), ZC_OK);
    } else {
        CHECK_EQ(zc_invalidate_many(c, texts, n), ZC_OK);
    }
    CHECK(zc_begin(c) > before);
    for (unsigned i = 0; i < n; i++) paths[p[i]].killed = zc_begin(c);
}

static void intern(void) {
    unsigned h = (unsigned)zct_below(HANDLES);
    if (handles[h]) {
        zc_tag_release(c, handles[h]);
        handles[h] = NULL;
        return;
    }
    handle_path[h] = (unsigned)zct_below(PATHS);
    int rc = zc_tag_intern(c, text_of(handle_path[h]), &handles[h]);
    CHECK(rc == ZC_OK || (rc == ZC_E_NOMEM && mem.failed));
}

static void ask(bool exact, bool failing) {
    unsigned p = (unsigned)zct_below(PATHS);
    uint64_t v, newest = c->trie.root.version;
    CHECK_EQ(zc_tag_version(c, text_of(p), &v), ZC_OK);
    CHECK(v <= zc_begin(c));
    if (exact) CHECK_EQ(v, paths[p].killed);
    if (!failing) CHECK(v >= paths[p].killed); /* T5, whatever was dropped */
    for (unsigned q = p; q != PATHS; q = paths[q].above) {
        CHECK_EQ(zc_tag_version(c, text_of(q), &v), ZC_OK);
        if (v > newest) newest = v;
    }
    CHECK(newest >= paths[p].killed);
}

static void run(bool pruning, bool failing, unsigned steps) {
    zc_desc d;
    bool exact = !pruning && !failing;
    memset(&d, 0, sizeof d);
    memset(&mem, 0, sizeof mem);
    memset(holders, 0, sizeof holders);
    memset(handles, 0, sizeof handles);
    make_paths();
    refused_by_floor = killed_too_much = kept = 0;
    now.mono = now.wall = 50000 * ZC_SECOND;
    d.no_thread = true;
    d.seed = zct_rand();
    d.clock = zct_clock(&now);
    d.allocator = zct_allocator(&mem);
    d.prune_after = pruning ? 20 * ZC_SECOND : ZC_NEVER;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    unsigned before = zct_bad;
    for (unsigned step = 0; step < steps && zct_bad == before; step++) {
        unsigned i = (unsigned)zct_below(HOLDERS);
        if (failing) mem.fail_from = step / 50 % 3 == 0 ? mem.count + 1 + zct_below(4) : 0;
        switch (zct_below(12)) {
        case 0:
        case 1: begin_fill(&holders[i]); break;
        case 2:
        case 3:
        case 4:
            if (holders[i].filling) end_fill(i, exact);
            break;
        case 5:
        case 6: invalidate(); break;
        case 7: intern(); break;
        case 8: ask(exact, failing); break;
        case 9:
            zct_step(&now, zct_below(3 * ZC_SECOND));
            if (pruning && zct_below(3) == 0)
                (void)zc_prune(c, zct_below(2) ? 0 : 10 * ZC_SECOND);
            else if (zct_below(2)) (void)zc_poll(c, ZC_MILLISECOND);
            break;
        default: look(i, failing); break;
        }
        if (zct_below(2000) == 0) {
            CHECK_EQ(zc_clear(c), ZC_OK);
            paths[PATHS].killed = zc_begin(c);
        }
        if (step % 20 == 0) CHECK_EQ(zc_check(c), ZC_OK);
    }
    mem.fail_from = 0;
    for (unsigned i = 0; i < HOLDERS; i++) look(i, failing);
    for (unsigned i = 0; i < HANDLES; i++) zc_tag_release(c, handles[i]);
    CHECK(kept > 100);
    /* The price is paid at times. */
    if (pruning || failing) CHECK(refused_by_floor + killed_too_much > 0);
    for (unsigned i = 0; i < HOLDERS; i++) (void)zc_del(c, key_of(i));
    while (zc_poll(c, ZC_MILLISECOND) == ZC_MORE) {} /* frees what zc_clear() has killed */
    (void)zc_prune(c, 0);
    CHECK_EQ(c->trie.tags, 0); /* no reference is left over */
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(exact) { for (unsigned i = 0; i < 5; i++) run(false, false, 20000); }
TEST(with_pruning) { for (unsigned i = 0; i < 5; i++) run(true, false, 20000); }
TEST(with_want_of_memory) { for (unsigned i = 0; i < 5; i++) run(false, true, 20000); }
TEST(with_both) { for (unsigned i = 0; i < 5; i++) run(true, true, 20000); }
