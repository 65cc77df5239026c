/* Random operations on a whole cache, one thread, against a naive model: values, freshness by the
 * one rule, deadlines, the limits after every step, the cause of every removal, and that every
 * object is dropped exactly once. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { KEYS = 60, TAGS = 3 + 9 + 27, MAX_DEPS = 8, OBJECTS = 1 << 17, PINS = 6 };

/* ---- the model ---- */

typedef struct item {
    bool present;
    unsigned value;        /* its number: every value ever made is different */
    bool object, absent;
    uint64_t begin;        /* the point up to which what it was made from is known */
    uint64_t deps;         /* a bit for each path */
    uint64_t hard, tti, soft, idle_end, grace; /* deadlines; UINT64_MAX: none */
} item;

typedef struct tag_path {
    char text[16];
    unsigned chain[5], nchain; /* itself and those above, as indices */
    uint64_t killed;           /* version of the last invalidation */
} tag_path;

typedef struct setup {
    const char *name;
    size_t max_entries, max_bytes, max_entry_bytes, block;
    uint64_t ttl, tti;
    unsigned shards;
    bool weigh, exact_tags; /* exact_tags: nothing is pruned, so floors never cost a miss */
    unsigned steps;
} setup;

static item model[KEYS], cleared[KEYS]; /* cleared, and not told yet */
static tag_path paths[TAGS];
static unsigned npaths;
static uint64_t root_killed;
static zct_time now;
static const setup *cfg;
static zc_cache *cache;
static unsigned char drops[OBJECTS]; /* how often each object was dropped */
static unsigned next_value;
static uint64_t removed[ZC_CAUSE_COUNT];

static bool given[OBJECTS];          /* the objects that were transferred */

/* What the operation under way may do, beside evicting: keys whose entries may be replaced or
 * deleted; everything may be closed. */
static bool op_replaces[KEYS], op_deletes[KEYS], op_closes;

/* The loads under way, the innermost last. */
typedef struct load {
    unsigned key;
    bool ran, failed;
    zc_put_opts opts;
    item made;
} load;
static load *loads[8];
static unsigned nloads;

/* Every path of up to three segments out of "a", "ab" and "b". */
static void make_paths(void) {
    static const char *const labels[] = {"a", "ab", "b"};
    npaths = 0;
    memset(paths, 0, sizeof paths);
    for (int above = -1; npaths < TAGS; above++) {
        for (unsigned l = 0; l < 3; l++) {
            tag_path *t = &paths[npaths];
            if (above >= 0) memcpy(t, &paths[above], sizeof *t);
            if (above >= 0) strcat(t->text, ":");
            strcat(t->text, labels[l]);
            t->chain[t->nchain++] = npaths++;
        }
    }
}

static bool model_dead(const item *x) {
    if (root_killed > x->begin) return true;
    for (uint64_t left = x->deps; left; left &= left - 1) {
        const tag_path *t = &paths[zc__ctz64(left)];
        for (unsigned k = 0; k < t->nchain; k++)
            if (paths[t->chain[k]].killed > x->begin) return true;
    }
    return false;
}

static uint64_t model_end(const item *x) { return x->idle_end < x->hard ? x->idle_end : x->hard; }
static bool model_expired(const item *x) { return now.mono >= model_end(x); }

static uint64_t later(uint64_t from, uint64_t by) {
    return by == UINT64_MAX || from > UINT64_MAX - by ? UINT64_MAX : from + by;
}

static void model_read(item *x) {
    if (x->tti) x->idle_end = later(now.mono, x->tti);
}

/* ---- keys and values ---- */

static char key_buf[32];

static zc_bytes key_of(unsigned k) {
    /* lengths from 0 to about 20, so that all ways of comparing are used */
    int n = k == 0 ? 0 : snprintf(key_buf, sizeof key_buf, "%u%.*s", k, (int)(k % 19),
                                  "-------------------");
    return zc_slice(key_buf, (size_t)n);
}

static int number_of(zc_bytes key) {
    char text[32] = "0";
    memcpy(text, key.ptr, key.len < 31 ? key.len : 31);
    if (key.len == 0) return 0;
    return atoi(text);
}

static unsigned char value_buf[5000], expected_buf[5000];

/* The bytes of a value follow from its number. */
static zc_bytes value_in(unsigned char *buf, unsigned v) {
    size_t n = v % 11 == 0 ? 700 + v % 4000 : v % 90;
    if (n < 4) n = 4;
    for (size_t i = 0; i < n; i++) buf[i] = (unsigned char)(v * 31 + i);
    memcpy(buf, &v, 4);
    return zc_slice(buf, n);
}

/* To be put: it stays as it is while the events of the same call look at others. */
static zc_bytes value_of(unsigned v) { return value_in(value_buf, v); }

static unsigned value_number(const void *data, size_t size) {
    unsigned v = 0;
    if (!CHECK(size >= 4)) return 0;
    memcpy(&v, data, 4);
    zc_bytes want = value_in(expected_buf, v);
    CHECK(want.len == size && memcmp(want.ptr, data, size) == 0);
    return v;
}

static void drop(void *user, void *object, size_t size) {
    size_t v = (size_t)((unsigned char *)object - drops);
    CHECK(user == (void *)&model && v < OBJECTS && size == v % 1000);
    if (v < OBJECTS) CHECK_EQ(++drops[v], 1);
    zc_explanation e;
    if (!op_closes) CHECK_EQ(zc_explain(cache, zc_str("1-"), &e), ZC_OK); /* no lock is held */
}

/* ---- what the cache says about removals ---- */

static void wrong(const char *what, int key, const zc_event *ev) {
    CHECK(what == NULL); /* never */
    printf("    %s: key %d, cause %s\n", what, key, zc_cause_name((int)ev->cause));
}

static bool within_limits(void) {
    zc_stats s;
    zc_stats_read(cache, &s);
    return (!cfg->max_entries || s.entries <= cfg->max_entries) &&
           (!cfg->max_bytes || s.bytes <= cfg->max_bytes);
}

static void told_removed(unsigned k, const zc_event *ev) {
    item *x = cleared[k].present ? &cleared[k] : &model[k];
    bool dead = model_dead(x), over = model_expired(x), ok = false;
    removed[ev->cause]++;
    if (!x->present) {
        wrong("was not there", (int)k, ev);
        return;
    }
    if (!x->absent) {
        unsigned v = x->object ? (unsigned)((const unsigned char *)ev->value.ptr - drops)
                               : value_number(ev->value.ptr, ev->value.len);
        if (v != x->value) wrong("not its value", (int)k, ev);
    }
    switch (ev->cause) {
    case ZC_CAUSE_REPLACED: ok = op_replaces[k]; break;
    case ZC_CAUSE_DELETED: ok = op_deletes[k]; break;
    case ZC_CAUSE_INVALIDATED: ok = dead; break;
    case ZC_CAUSE_EXPIRED: ok = over && !dead; break;
    case ZC_CAUSE_EVICTED:
        ok = !dead && !over && (cfg->max_entries || cfg->max_bytes || cfg->block);
        break;
    case ZC_CAUSE_CLOSED: ok = op_closes; break;
    default: break;
    }
    if (x == &cleared[k]) ok = ev->cause == ZC_CAUSE_INVALIDATED;
    if (!ok) wrong("wrong cause", (int)k, ev);
    x->present = false;
}

static void stored(unsigned k, const item *x) {
    CHECK(!model[k].present); /* what was there has been told as removed */
    CHECK(!model_dead(x));    /* nothing is stored that was dead before */
    model[k] = *x;
    model[k].present = true;
    model[k].begin = zc_begin(cache); /* and so it is good up to now */
}

static void model_life(item *x, const zc_put_opts *o);

static void told_filled(unsigned k, const zc_event *ev) {
    REQUIRE(nloads > 0);
    load *l = loads[nloads - 1];
    CHECK_EQ(k, l->key);
    if (ev->rc == ZC_OK) {
        model_life(&l->made, &l->opts);
        stored(k, &l->made);
    } else {
        CHECK_EQ(ev->rc, ZC_REFUSED);
        if (cfg->exact_tags && !cfg->max_bytes && !cfg->block) CHECK(model_dead(&l->made));
    }
}

static void on_event(void *user, const zc_event *ev) {
    (void)user;
    int k = ev->kind == ZC_EVENT_INVALIDATED ? 0 : number_of(ev->key);
    if (k < 0 || k >= KEYS) {
        wrong("no such key", k, ev);
        return;
    }
    if (!op_closes) CHECK(within_limits());
    if (ev->kind == ZC_EVENT_REMOVED) told_removed((unsigned)k, ev);
    if (ev->kind == ZC_EVENT_FILLED) told_filled((unsigned)k, ev);
}

static size_t weigh(void *user, zc_bytes key, zc_bytes value) {
    (void)user;
    return key.len * 10 + value.len % 100;
}

/* ---- operations ---- */

/* Some paths: their texts, and their bits. */
static unsigned some_deps(uint64_t *deps, zc_bytes *texts) {
    unsigned n = (unsigned)(zct_below(3) ? zct_below(3) : zct_below(MAX_DEPS));
    *deps = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned p = (unsigned)zct_below(npaths);
        *deps |= UINT64_C(1) << p;
        texts[i] = zc_str(paths[p].text);
    }
    return n;
}

static uint64_t some_time(void) {
    return zct_below(3) ? 0 : zct_below(10) == 0 ? ZC_NEVER : (1 + zct_below(400)) * ZC_SECOND;
}

/* Sets the deadlines of a new item as its options say, with the defaults. */
static void model_life(item *x, const zc_put_opts *o) {
    uint64_t ttl = o->ttl ? o->ttl : cfg->ttl ? cfg->ttl : ZC_NEVER;
    if (x->absent && o->negative_ttl) ttl = o->negative_ttl;
    uint64_t tti = o->tti ? o->tti : cfg->tti;
    x->tti = tti == ZC_NEVER ? 0 : tti;
    x->hard = later(now.mono, ttl);
    x->idle_end = x->tti ? later(now.mono, x->tti) : UINT64_MAX;
    x->soft = o->soft_ttl ? later(now.mono, o->soft_ttl) : UINT64_MAX;
    x->grace = o->stale_if_error;
}

static void some_options(zc_put_opts *o) {
    memset(o, 0, sizeof *o);
    o->ttl = some_time();
    o->tti = some_time();
    o->negative_ttl = some_time();
    o->soft_ttl = zct_below(6) ? 0 : some_time();
    o->stale_if_error = zct_below(6) ? 0 : some_time();
}

static void op_put(void) {
    unsigned k = (unsigned)zct_below(KEYS);
    zc_put_opts o;
    item x;
    zc_bytes texts[MAX_DEPS];
    int rc;
    if (next_value + 1 >= OBJECTS) return;
    memset(&x, 0, sizeof x);
    some_options(&o);
    x.value = ++next_value;
    o.ndeps = some_deps(&x.deps, texts);
    o.deps = texts;
    x.absent = zct_below(10) == 0;
    x.object = !x.absent && zct_below(4) == 0;
    x.begin = zc_begin(cache);
    if (x.begin > 100 && zct_below(5) == 0) o.begin = x.begin -= zct_below(80); /* read earlier */
    model_life(&x, &o);
    bool dead = model_dead(&x);
    op_replaces[k] = op_deletes[k] = true; /* refused: what was there goes, too */
    if (x.object) {
        rc = zc_put_object(cache, key_of(k), drops + x.value, x.value % 1000, drop, &model, &o);
        given[x.value] = rc == ZC_OK;
    } else {
        rc = x.absent ? zc_put_absent(cache, key_of(k), &o)
                      : zc_put(cache, key_of(k), value_of(x.value), &o);
    }
    if (rc == ZC_OK) {
        stored(k, &x);
    } else if (rc == ZC_REFUSED) {
        CHECK(!model[k].present);
        if (cfg->exact_tags && !cfg->max_bytes) CHECK(dead);
    } else {
        CHECK_EQ(rc, ZC_E_NOMEM);
        CHECK(cfg->block != 0);
    }
}

/* What a read gave is what the model has. */
static void compare(unsigned k, int rc, const zc_view *v) {
    item *x = &model[k];
    if (rc == ZC_MISS) {
        CHECK(!v->pin && !v->data);
        CHECK(!x->present || model_dead(x) || model_expired(x));
        return;
    }
    CHECK_EQ(v->pin != NULL, rc != ZC_ABSENT);
    REQUIRE(x->present);
    CHECK(!model_dead(x));
    CHECK(!model_expired(x));
    bool soft = now.mono >= x->soft;
    CHECK_EQ(rc, x->absent ? ZC_ABSENT : soft ? ZC_STALE : ZC_OK);
    if (x->object) CHECK_EQ((const unsigned char *)v->data - drops, x->value);
    else if (!x->absent) CHECK_EQ(value_number(v->data, v->size), x->value);
    model_read(x);
}

static zc_view pins[PINS];
static unsigned pinned_value[PINS];
static bool pinned_object[PINS];

static void op_get(void) {
    unsigned k = (unsigned)zct_below(KEYS);
    zc_view v;
    int rc = zc_get(cache, key_of(k), &v);
    compare(k, rc, &v);
    unsigned slot = (unsigned)zct_below(PINS);
    if (rc == ZC_OK && !pins[slot].pin && zct_below(20) == 0) {
        pins[slot] = v; /* keep it for a while */
        pinned_value[slot] = model[k].value;
        pinned_object[slot] = model[k].object;
        return;
    }
    zc_release(cache, &v);
    zc_release(cache, &v); /* once more does nothing */
}

static void op_unpin(void) {
    unsigned slot = (unsigned)zct_below(PINS);
    if (!pins[slot].pin) return;
    unsigned v = pinned_value[slot]; /* still what it was, whatever has happened */
    if (pinned_object[slot]) {
        CHECK(pins[slot].data == drops + v && pins[slot].size == v % 1000);
        CHECK_EQ(drops[v], 0);
    } else {
        CHECK_EQ(value_number(pins[slot].data, pins[slot].size), v);
    }
    zc_release(cache, &pins[slot]);
}

static void op_get_many(void) {
    static char texts[20][32];
    zc_bytes keys[20] = {{NULL, 0}};
    unsigned ks[20];
    zc_view views[20];
    int results[20], found = 0;
    size_t n = zct_below(21);
    for (size_t i = 0; i < n; i++) {
        ks[i] = (unsigned)zct_below(KEYS);
        zc_bytes key = key_of(ks[i]);
        memcpy(texts[i], key.ptr, key.len);
        keys[i] = zc_slice(texts[i], key.len);
    }
    int rc = zc_get_many(cache, keys, n, views, results);
    for (size_t i = 0; i < n; i++) {
        compare(ks[i], results[i], &views[i]);
        found += results[i] == ZC_OK;
        zc_release(cache, &views[i]);
    }
    CHECK_EQ(rc, found);
}

static void op_del(void) {
    unsigned k = (unsigned)zct_below(KEYS);
    op_deletes[k] = true;
    bool was = model[k].present;
    int rc = zc_del(cache, key_of(k));
    CHECK_EQ(rc, was ? ZC_OK : ZC_MISS);
    CHECK(!model[k].present);
}

/* ---- fetching ---- */

static void kill_path(unsigned p) {
    CHECK_EQ(zc_invalidate(cache, zc_str(paths[p].text)), ZC_OK);
    paths[p].killed = zc_begin(cache);
}

static int loader(zc_fill *fill, void *user);

/* What a fetch gave, against its loader's notes and what was there before. */
static void fetched(int rc, const zc_view *v, const load *l, const item *was) {
    const item *gives = l->ran && !l->failed ? &l->made : was;
    if (l->failed) {
        bool stands_in = was->present && was->grace && !model_dead(was) &&
                         now.mono < later(model_end(was), was->grace);
        CHECK_EQ(rc, !stands_in ? -1234 : was->absent ? ZC_ABSENT : ZC_STALE);
    } else if (rc == ZC_E_NOMEM && cfg->block) {
        CHECK(!v->pin);
        return;
    } else {
        if (!l->ran) CHECK(was->present && !model_dead(was) && !model_expired(was));
        CHECK_EQ(rc, gives->absent ? ZC_ABSENT : ZC_OK);
    }
    CHECK_EQ(v->pin != NULL, rc == ZC_OK || rc == ZC_STALE); /* a negative result has no value */
    if (rc < 0 || gives->absent) return;
    if (gives->object) CHECK_EQ((const unsigned char *)v->data - drops, gives->value);
    else CHECK_EQ(value_number(v->data, v->size), gives->value);
}

/* Fetches a key; `up`: what is made of it, which inherits the dependencies. */
static void fetch(unsigned k, zc_fill *parent, item *up) {
    zc_fetch_opts o;
    load l;
    zc_view v;
    item was = model[k];
    /* Refreshes, which run later, are not for this model. */
    if ((was.present && was.soft != UINT64_MAX) || next_value + 20 >= OBJECTS) return;
    memset(&l, 0, sizeof l);
    memset(&o, 0, sizeof o);
    some_options(&l.opts);
    l.opts.soft_ttl = 0;
    l.key = k;
    o.put = l.opts;
    o.parent = parent;
    op_replaces[k] = true;
    loads[nloads++] = &l;
    int rc = zc_fetch(cache, key_of(k), loader, &l, &o, &v);
    nloads--;
    fetched(rc, &v, &l, &was);
    if (!l.ran && rc >= 0) model_read(&model[k]);
    if (up && rc >= 0) up->deps |= l.ran && !l.failed ? l.made.deps : was.deps;
    zc_release(cache, &v);
}

static int fail_load(load *l) {
    l->failed = true;
    return -1234;
}

static int loader(zc_fill *fill, void *user) {
    load *l = (load *)user;
    item *x = &l->made, *was = &model[l->key];
    CHECK(!l->ran);
    l->ran = true;
    CHECK(!was->present || model_dead(was) || model_expired(was));
    memset(x, 0, sizeof *x);
    x->begin = zc_begin(cache); /* nothing has happened since the flight began */
    x->value = ++next_value;
    x->absent = zct_below(8) == 0;
    x->object = !x->absent && zct_below(4) == 0;
    for (unsigned i = (unsigned)zct_below(3); i > 0; i--) {
        unsigned inner = l->key + 1 + (unsigned)zct_below(3); /* upwards only: no circles */
        if (nloads < 4 && inner < KEYS) fetch(inner, fill, x);
        unsigned p = (unsigned)zct_below(npaths);
        int rc = zc_fill_dep(fill, zc_str(paths[p].text));
        CHECK(rc == ZC_OK || (rc == ZC_E_NOMEM && cfg->block));
        if (rc != ZC_OK) return fail_load(l);
        x->deps |= UINT64_C(1) << p;
    }
    if (zct_below(6) == 0) kill_path((unsigned)zct_below(npaths)); /* while it is computed */
    if (zct_below(10) == 0) return fail_load(l);
    int rc = x->absent   ? zc_fill_absent(fill)
             : x->object ? zc_fill_object(fill, drops + x->value, x->value % 1000, drop, &model)
                         : zc_fill_value(fill, value_of(x->value));
    CHECK(rc == ZC_OK || (rc == ZC_E_NOMEM && cfg->block));
    if (x->object) given[x->value] = rc == ZC_OK;
    return rc == ZC_OK ? ZC_OK : fail_load(l);
}

static void op_fetch(void) { fetch((unsigned)zct_below(KEYS), NULL, NULL); }

/* ---- the rest ---- */

static void op_invalidate(void) { kill_path((unsigned)zct_below(npaths)); }

static void op_invalidate_many(void) {
    zc_bytes texts[MAX_DEPS];
    uint64_t deps;
    unsigned n = some_deps(&deps, texts);
    CHECK_EQ(zc_invalidate_many(cache, texts, n), ZC_OK);
    for (; deps; deps &= deps - 1) paths[zc__ctz64(deps)].killed = zc_begin(cache);
}

static void op_clear(void) {
    CHECK_EQ(zc_clear(cache), ZC_OK);
    root_killed = zc_begin(cache);
    for (unsigned k = 0; k < KEYS; k++) {
        if (!model[k].present) continue;
        CHECK(!cleared[k].present);
        cleared[k] = model[k];
        model[k].present = false;
    }
}

static void op_clock(void) {
    zct_step(&now, zct_below(4) ? zct_below(20 * ZC_SECOND) : zct_below(300 * ZC_SECOND));
}

/* Nothing is left that is past its end and its grace; and, where sweeping has not just been put off
 * because there was little to find, nothing that was invalidated. */
static void op_poll(void) {
    bool thorough = zct_below(2);
    while (zc_poll(cache, 100 * ZC_MILLISECOND) == ZC_MORE) {}
    if (thorough) {
        zct_step(&now, 8 * ZC_SECOND);
        while (zc_poll(cache, 100 * ZC_MILLISECOND) == ZC_MORE) {}
    }
    for (unsigned k = 0; k < KEYS; k++) {
        item *x = &model[k];
        if (!x->present) continue;
        CHECK(now.mono < later(model_end(x), x->grace));
        if (thorough) CHECK(!model_dead(x));
    }
}

static void op_prune(void) {
    if (!cfg->exact_tags) (void)zc_prune(cache, zct_below(2) ? 0 : 50 * ZC_SECOND);
}

static void op_explain(void) {
    unsigned k = (unsigned)zct_below(KEYS);
    zc_explanation e;
    CHECK_EQ(zc_explain(cache, key_of(k), &e), ZC_OK);
    const item *x = &model[k];
    CHECK_EQ(e.present, x->present);
    if (!x->present) return;
    bool dead = model_dead(x), over = model_expired(x);
    uint64_t end = model_end(x);
    CHECK_EQ(e.expired, over);
    CHECK_EQ(e.invalidated, dead);
    CHECK_EQ(e.expires_in, over ? 0 : end == UINT64_MAX ? ZC_NEVER : end - now.mono);
    CHECK_EQ(e.state, dead || over       ? ZC_MISS
                      : x->absent        ? ZC_ABSENT
                      : now.mono >= x->soft ? ZC_STALE
                                         : ZC_OK);
}

/* ---- after every step ---- */

static void check_step(unsigned step) {
    zc_stats s;
    unsigned present = 0;
    zc_stats_read(cache, &s);
    for (unsigned k = 0; k < KEYS; k++) present += model[k].present;
    CHECK_EQ(s.entries, present);
    CHECK(within_limits());
    if (present == 0) CHECK_EQ(s.bytes, 0);
    for (unsigned i = 0; i < ZC_CAUSE_COUNT; i++) CHECK_EQ(s.removed[i], removed[i]);
    CHECK_EQ(s.flights, 0);
    if (step % 20 == 0) CHECK_EQ(zc_check(cache), ZC_OK);
}

static void open_cache(const setup *s, uint64_t seed, void *block, zct_mem *mem) {
    zc_desc d;
    memset(&d, 0, sizeof d);
    d.max_entries = s->max_entries;
    d.max_bytes = s->max_bytes;
    d.max_entry_bytes = s->max_entry_bytes;
    d.ttl = s->ttl;
    d.tti = s->tti;
    d.shards = s->shards;
    d.no_thread = true;
    d.seed = seed;
    d.prune_after = s->exact_tags ? ZC_NEVER : 100 * ZC_SECOND;
    d.clock = zct_clock(&now);
    d.events.version = 1;
    d.events.on_event = on_event;
    d.weigher.version = s->weigh;
    d.weigher.weigh = weigh;
    d.block = block;
    d.block_size = s->block;
    if (!block) d.allocator = zct_allocator(mem);
    if (!CHECK_EQ(zc_open(&d, &cache), ZC_OK)) exit(1);
}

static void close_cache(void) {
    op_closes = true;
    zc_close(cache);
    for (unsigned k = 0; k < KEYS; k++)
        CHECK(!model[k].present && !cleared[k].present); /* all told */
    for (unsigned i = 0; i < PINS; i++) { /* pins outlive the cache */
        if (pins[i].pin && !pinned_object[i])
            CHECK_EQ(value_number(pins[i].data, pins[i].size), pinned_value[i]);
        zc_release(cache, &pins[i]);
    }
    for (unsigned v = 0; v < OBJECTS; v++)
        if (drops[v] != given[v]) CHECK_EQ(drops[v], given[v]);
    cache = NULL;
}

static void run(const setup *s, uint64_t seed) {
    static void (*const ops[])(void) = {
        op_put,  op_put,        op_put,        op_put,             op_get,   op_get,
        op_get,  op_get,        op_get,        op_get_many,        op_del,   op_unpin,
        op_poll, op_invalidate, op_invalidate, op_invalidate_many, op_clock, op_clock,
        op_prune, op_explain,   op_fetch,      op_fetch,           op_fetch};
    zct_mem mem = {0};
    unsigned char *raw = s->block ? (unsigned char *)malloc(s->block + 128) : NULL;
    /* at the same distance from a cache line in every run of the seed */
    void *block = raw ? raw + (-(uintptr_t)raw & 63) + seed % 4 * 16 : NULL;
    unsigned before = zct_bad;
    memset(model, 0, sizeof model);
    memset(removed, 0, sizeof removed);
    memset(drops, 0, sizeof drops);
    memset(given, 0, sizeof given);
    make_paths();
    cfg = s;
    root_killed = 0;
    next_value = 0;
    op_closes = false;
    now.mono = 5000 * ZC_SECOND;
    now.wall = 1000000 * ZC_SECOND;
    zct_random = seed;
    open_cache(s, seed, block, &mem);
    for (unsigned step = 0; step < s->steps && zct_bad == before; step++) {
        memset(op_replaces, 0, sizeof op_replaces);
        memset(op_deletes, 0, sizeof op_deletes);
        if (zct_below(400) == 0) op_clear();
        else ops[zct_below(sizeof ops / sizeof ops[0])]();
        check_step(step);
        if (zct_bad != before) printf("    %s, seed %" PRIu64 ", step %u\n", s->name, seed, step);
    }
    close_cache();
    CHECK_EQ(mem.blocks, 0);
    free(raw);
}

static void run_some(const setup *s) {
    uint64_t seed = zct_rand();
    for (unsigned i = 0; i < 4; i++) run(s, seed + i);
}

enum { STEPS = 12000 };

TEST(unlimited) {
    static const setup s = {.name = "unlimited", .exact_tags = true, .steps = STEPS};
    run_some(&s);
}

TEST(unlimited_and_pruned) {
    static const setup s = {.name = "unlimited_and_pruned", .steps = STEPS, .shards = 4};
    run_some(&s);
}

TEST(limit_of_one_entry) {
    static const setup s = {.name = "one", .max_entries = 1, .exact_tags = true, .steps = STEPS};
    run_some(&s);
}

TEST(limit_of_ten_entries) {
    static const setup s = {.name = "ten", .max_entries = 10, .exact_tags = true, .steps = STEPS};
    run_some(&s);
}

TEST(ten_entries_in_sixteen_shards) {
    static const setup s = {.name = "shards", .max_entries = 10, .shards = 16, .exact_tags = true,
                            .ttl = 200 * ZC_SECOND, .steps = STEPS};
    run_some(&s);
}

TEST(limit_of_bytes) {
    static const setup s = {.name = "bytes", .max_bytes = 6000, .tti = 100 * ZC_SECOND,
                            .steps = STEPS};
    run_some(&s);
}

TEST(limit_of_bytes_in_shards) {
    static const setup s = {.name = "byte_shards", .max_bytes = 9000, .max_entry_bytes = 2000,
                            .shards = 8, .exact_tags = true, .steps = STEPS};
    run_some(&s);
}

TEST(both_limits_weighed) {
    static const setup s = {.name = "weighed", .max_bytes = 3000, .max_entries = 20,
                            .max_entry_bytes = 250, .weigh = true, .shards = 2,
                            .ttl = 300 * ZC_SECOND, .tti = 150 * ZC_SECOND, .steps = STEPS};
    run_some(&s);
}

TEST(a_fixed_block) {
    static const setup s = {.name = "block", .block = 48 * 1024, .steps = STEPS, .shards = 1};
    run_some(&s);
}

TEST(a_tiny_block_in_shards) {
    static const setup s = {.name = "tiny_block", .block = 40 * 1024, .steps = STEPS, .shards = 4,
                            .max_entries = 30};
    run_some(&s);
}
