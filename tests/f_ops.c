/* Fuzzes a whole cache against a model. The first bytes choose limits, memory, shards and storage;
 * the rest is a stream of operations, also inside loaders. The model knows, for each value ever
 * made, when it was begun, what it depends on and until when it lives; for each key, which values
 * may still be there. A read may always miss, unless nothing limits the cache, but what it gives
 * must be one of those, alive, and not invalidated since it was begun.
 *
 * Without threads, so that nothing ever waits; the clock is the model's. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                    \
    do {                                                                                           \
        if (!CHECK(x)) abort();                                                                    \
    } while (0)

enum { KEYS = 10, TAGS = 12, VALUES = 1200, KILLS = 1200, TICKETS = 6, PINS = 4, BLOCK = 1 << 17 };
enum { ROOT = 1 << TAGS, NONE = -1, ERROR = ZC_E_USER - 7 };

static const char *const tag_names[TAGS] = {"a",   "a:b", "a:b:c", "a:b:d", "a:e",     "f",
                                            "f:g", "h",   "h:b",   "a:",    "x:y:z:w", "a:bc"};
enum { BAD_TAG = 9 }; /* of them */

typedef struct value {
    int key;
    bool absent, certain; /* certain: it was stored */
    uint32_t deps;        /* ROOT included */
    uint64_t begin;       /* in the model's count of steps */
    uint64_t gone;        /* when a put or del superseded it; 0: not yet */
    uint64_t hard, soft, tti, grace, touched;
    size_t len;
} value;

typedef struct object {
    int id;
} object;

typedef struct ticket { /* of a flight in pieces, or of a running loader */
    zc_fill *fill;
    bool leader, set, no_deps;
    int key, id;          /* of the value being made */
    uint64_t join, wrote; /* when it began; the key's last write before that */
    int lead;             /* which of the key's leaders */
} ticket;

typedef struct plan { /* a loader's `user` */
    int key;
    uint32_t deps; /* of the fetch */
} plan;

typedef struct pin {
    zc_view view;
    int id;
} pin;

typedef struct record {
    void *data;
    size_t len;
    uint64_t expires_ms;
} record;

static struct world {
    const uint8_t *at, *end;
    zc_cache *cache;
    zct_mem mem;
    zct_time time;
    size_t max_entries, max_bytes;
    bool block, store, exact; /* exact: nothing but the model's own reasons makes a read miss */
    uint64_t step;
    int depth, nvalues, nkills, nplans, made, dropped, last_loaded;
    value values[VALUES];
    plan plans[VALUES];
    struct {
        uint64_t step;
        uint32_t tags;
    } kills[KILLS];
    uint64_t wrote[KEYS]; /* the last put, del, clear */
    int leads[KEYS];      /* leaders so far: whoever has a successor has lost the lease */
    uint64_t version[TAGS];
    ticket tickets[TICKETS];
    pin pins[PINS];
    zc_tag *interned[TAGS];
    record records[KEYS];
    uint64_t removed_events;
} w;

static char key_names[KEYS][24]; /* of different lengths */
static max_align_t block[BLOCK / sizeof(max_align_t)];

static unsigned next(void) { return w.at < w.end ? *w.at++ : 0; }
static zc_bytes key_of(int k) { return zc_str(key_names[k]); }
static zc_bytes tag_of(unsigned t) { return zc_str(tag_names[t]); }
static uint64_t ms(unsigned n) { return n * ZC_MILLISECOND; }

/* ---- the model ---- */

/* The tags at or below t. */
static uint32_t below(unsigned t) {
    uint32_t mask = 0;
    size_t len = strlen(tag_names[t]);
    for (unsigned u = 0; u < TAGS; u++)
        if (strncmp(tag_names[u], tag_names[t], len) == 0 &&
            (tag_names[u][len] == '\0' || tag_names[u][len] == ':'))
            mask |= 1u << u;
    return mask;
}

static void kill_tags(uint32_t tags) {
    w.kills[w.nkills].step = ++w.step;
    w.kills[w.nkills++].tags = tags;
}

/* Was anything that these depend on invalidated after `from`, up to `to`? */
static bool killed(uint32_t deps, uint64_t from, uint64_t to) {
    for (int i = w.nkills - 1; i >= 0 && w.kills[i].step > from; i--)
        if (w.kills[i].step <= to && w.kills[i].tags & deps) return true;
    return false;
}

static int value_new(int key) {
    int id = w.nvalues++;
    memset(&w.values[id], 0, sizeof w.values[id]);
    w.values[id].key = key;
    w.values[id].deps = ROOT;
    w.values[id].begin = ++w.step;
    w.values[id].hard = w.values[id].soft = ZC_NEVER;
    w.values[id].gone = UINT64_MAX; /* never there yet */
    return id;
}

static uint64_t ends(const value *v) {
    uint64_t idle = v->tti ? v->touched + v->tti : ZC_NEVER;
    return idle < v->hard ? idle : v->hard;
}

/* Everything there was under a key is superseded. */
static void wrote(int key) {
    w.wrote[key] = ++w.step;
    for (int i = 0; i < w.nvalues; i++)
        if (w.values[i].key == key && !w.values[i].gone) w.values[i].gone = w.step;
}

static void lives_from_now(value *v, const zc_put_opts *o) {
    uint64_t now = w.time.mono, ttl = o->ttl ? o->ttl : ZC_NEVER;
    if (v->absent && o->negative_ttl) ttl = o->negative_ttl;
    v->hard = ttl == ZC_NEVER ? ZC_NEVER : now + ttl;
    v->soft = o->soft_ttl ? now + o->soft_ttl : ZC_NEVER;
    v->tti = o->tti == ZC_NEVER ? 0 : o->tti;
    v->grace = o->stale_if_error;
    v->touched = now;
}

/* The value is now what a read gives: surely (nothing older can come back), or perhaps. */
static void stored(int id, bool certain) {
    value *v = &w.values[id];
    if (certain) {
        for (int i = 0; i < w.nvalues; i++)
            if (i != id && w.values[i].key == v->key && !w.values[i].gone)
                w.values[i].gone = w.step + 1;
        ++w.step;
    }
    v->gone = 0;
    v->certain = certain;
}

static bool may_be_read(const value *v, int key) {
    return v->key == key && !v->gone && !killed(v->deps, v->begin, w.step) &&
           w.time.mono < ends(v);
}

/* ---- bytes and objects that tell which value they are ---- */

static unsigned char filler(int id) { return (unsigned char)(id * 31 + 7); }

static zc_bytes content(int id, unsigned char *buf) {
    size_t len = w.values[id].len;
    memset(buf, filler(id), len);
    memcpy(buf, &id, sizeof id);
    return zc_slice(buf, len);
}

static size_t length(void) {
    unsigned n = next();
    return sizeof(int) + (n & 1 ? n * 8 : n / 4);
}

static int id_of(const zc_view *view) {
    int id;
    MUST(view->data && view->size >= sizeof id);
    memcpy(&id, view->data, sizeof id);
    MUST(id >= 0 && id < w.nvalues && view->size == w.values[id].len);
    for (size_t i = sizeof id; i < view->size; i++)
        MUST(((const unsigned char *)view->data)[i] == filler(id));
    return id;
}

static void drop(void *user, void *ptr, size_t size) {
    object *o = (object *)ptr;
    MUST(user == &w && size == sizeof *o);
    w.dropped++;
    free(o);
}

static object *object_new(int id) {
    object *o = (object *)malloc(sizeof *o);
    o->id = id;
    w.values[id].len = sizeof *o;
    w.made++;
    return o;
}

static void object_refused(object *o) {
    w.made--;
    free(o);
}

/* ---- storage ---- */

static int store_key(zc_bytes key) {
    for (int k = 0; k < KEYS; k++)
        if (key_of(k).len == key.len && memcmp(key.ptr, key_names[k], key.len) == 0) return k;
    abort();
}
static int store_del(void *user, zc_bytes key) {
    record *r = &w.records[store_key(key)];
    (void)user;
    free(r->data);
    memset(r, 0, sizeof *r);
    return ZC_OK;
}
static int store_put(void *user, zc_bytes key, zc_bytes bytes, uint64_t expires_ms) {
    record *r = &w.records[store_key(key)];
    store_del(user, key);
    r->data = malloc(bytes.len);
    memcpy(r->data, bytes.ptr, bytes.len);
    r->len = bytes.len;
    r->expires_ms = expires_ms;
    return ZC_OK;
}
static int store_get(void *user, zc_bytes key, zc_sink *sink) {
    record *r = &w.records[store_key(key)];
    (void)user;
    if (!r->data || (r->expires_ms && w.time.wall / ZC_MILLISECOND >= r->expires_ms))
        return ZC_MISS;
    int rc = zc_sink_write(sink, r->data, r->len / 2);
    return rc ? rc : zc_sink_write(sink, (char *)r->data + r->len / 2, r->len - r->len / 2);
}
static int store_clear(void *user) {
    for (int k = 0; k < KEYS; k++) store_del(user, key_of(k));
    return ZC_OK;
}

/* ---- what came back ---- */

/* A read of "there is no such thing" does not tell which value it was. */
static void touch_absent(int key) {
    for (int i = 0; i < w.nvalues; i++)
        if (w.values[i].absent && may_be_read(&w.values[i], key))
            w.values[i].touched = w.time.mono;
}

/* A read begun at step `start` gave rc and view. */
static void check_read(int key, int rc, const zc_view *view, uint64_t start) {
    bool found = false;
    if (rc == ZC_MISS || rc < 0) {
        MUST(!view->data && !view->pin);
        return;
    }
    if (rc == ZC_ABSENT) {
        for (int i = 0; i < w.nvalues; i++)
            found |= w.values[i].absent && may_be_read(&w.values[i], key);
        MUST(found);
        touch_absent(key);
        return;
    }
    int id = id_of(view);
    value *v = &w.values[id];
    MUST(v->key == key && !v->absent);
    MUST(!v->gone || v->gone > start);
    MUST(!killed(v->deps, v->begin, w.step));
    MUST(w.time.mono < ends(v));
    if (!w.store) MUST(rc == (w.time.mono >= v->soft ? ZC_STALE : ZC_OK));
    v->touched = w.time.mono;
    if (!v->certain) stored(id, true);
}

/* A value that stood in for an error. */
static void check_stand_in(int key, const zc_view *view, uint64_t start) {
    value *v = &w.values[id_of(view)];
    MUST(v->key == key && (!v->gone || v->gone > start));
    MUST(!killed(v->deps, v->begin, w.step));
    MUST(v->grace && w.time.mono < ends(v) + v->grace);
}

/* May a "there is no such thing" stand in for an error? */
static bool may_stand_in_absent(int key, uint64_t start) {
    for (int i = 0; i < w.nvalues; i++) {
        const value *v = &w.values[i];
        if (v->absent && v->key == key && (!v->gone || v->gone > start) && v->grace &&
            !killed(v->deps, v->begin, w.step) && w.time.mono < ends(v) + v->grace)
            return true;
    }
    return false;
}

static void check_miss(int key, uint64_t now_step) {
    if (!w.exact) return;
    for (int i = 0; i < w.nvalues; i++)
        MUST(!(w.values[i].certain && may_be_read(&w.values[i], key) && now_step));
}

/* Keeps a view in a free place, or releases it. */
static void keep_or_release(zc_view *view, bool keep) {
    for (int i = 0; keep && i < PINS && view->data; i++) {
        if (w.pins[i].view.data) continue;
        w.pins[i].id = id_of(view);
        w.pins[i].view = *view;
        return;
    }
    zc_release(w.cache, view);
}

static void unpin(int i) {
    pin *p = &w.pins[i];
    if (!p->view.data) return;
    MUST(id_of(&p->view) == p->id);
    zc_release(w.cache, &p->view);
    MUST(!p->view.data && !p->view.pin);
}

/* ---- operations ---- */

static void operate(ticket *parent);

static bool bad_rc(int rc) {
    return rc == ZC_E_NOMEM ? w.exact : rc != ZC_OK && rc != ZC_REFUSED;
}

static void life_options(zc_put_opts *o) {
    unsigned b = next();
    if (b & 1) o->ttl = ms(1 + next() % 50);
    if (b & 2) o->soft_ttl = ms(1 + next() % 20);
    if (b & 4) o->tti = ms(1 + next() % 20);
    if (b & 8) o->stale_if_error = ms(1 + next() % 50);
    if (b & 16) o->negative_ttl = ms(1 + next() % 20);
}

static void put(void) {
    unsigned char buf[4096];
    int key = (int)(next() % KEYS), id = value_new(key);
    value *v = &w.values[id];
    unsigned tags = next(), how = next();
    zc_bytes deps[3];
    zc_tag *interned[1];
    object *o = NULL;
    zc_put_opts opts;
    memset(&opts, 0, sizeof opts);
    opts.deps = deps;
    for (; opts.ndeps < tags % 4; opts.ndeps++) {
        unsigned t = (tags / 4 + (unsigned)opts.ndeps * 5) % TAGS;
        deps[opts.ndeps] = tag_of(t);
        v->deps |= 1u << t;
    }
    life_options(&opts);
    v->len = length();
    zc_bytes bytes = content(id, buf);
    if (how & 2) o = object_new(id);
    else v->absent = how & 4;
    if (how & 8) { /* read before something else happens */
        opts.begin = zc_begin(w.cache);
        if (w.depth < 3) operate(NULL);
    }
    unsigned t = how / 16 % TAGS;
    if (how & 1 && w.interned[t]) { /* chosen last: what comes before may release it */
        interned[0] = w.interned[t];
        opts.tags = interned;
        opts.ntags = 1;
        v->deps |= 1u << t;
    }
    int rc = o ? zc_put_object(w.cache, key_of(key), o, sizeof *o, drop, &w, &opts)
             : v->absent ? zc_put_absent(w.cache, key_of(key), &opts)
                         : zc_put(w.cache, key_of(key), bytes, &opts);
    if (v->deps & 1u << BAD_TAG) {
        MUST(rc == ZC_E_TAG_SEGMENT || rc == ZC_E_NOMEM);
    } else {
        MUST(!bad_rc(rc));
    }
    if (rc == ZC_OK) {
        lives_from_now(v, &opts);
        if (!opts.begin) v->begin = ++w.step;
        wrote(key);
        stored(id, true);
    } else if (o) {
        object_refused(o);
    }
    if (rc == ZC_REFUSED) wrote(key);
}

static void get(void) {
    zc_view view;
    int key = (int)(next() % KEYS);
    unsigned how = next();
    zc_explanation why;
    int said = zc_explain(w.cache, key_of(key), &why);
    MUST(said == ZC_OK);
    int rc = zc_get(w.cache, key_of(key), &view);
    if (!w.store) MUST(why.state == rc);
    MUST(rc >= 0 || (rc == ZC_E_NOMEM && w.store && !w.exact));
    check_read(key, rc, &view, w.step);
    if (rc == ZC_MISS) check_miss(key, w.step);
    keep_or_release(&view, how & 1);
}

static void get_copy(void) {
    unsigned char buf[4096];
    int key = (int)(next() % KEYS);
    size_t cap = next() * 16, len = 0;
    int rc = zc_get_copy(w.cache, key_of(key), buf, cap, &len);
    zc_view view = {rc == ZC_OK || rc == ZC_STALE ? buf : NULL, len, NULL};
    if (rc == ZC_E_RANGE) {
        MUST(len > cap);
    } else if (rc == ZC_E_INVAL || rc == ZC_E_NOMEM) {
        MUST(rc == ZC_E_INVAL || w.store);
    } else {
        if (view.data) MUST(len <= cap);
        check_read(key, rc, &view, w.step);
    }
    /* What was not copied was read all the same. */
    for (int i = 0; (rc == ZC_E_RANGE || rc == ZC_E_INVAL) && i < w.nvalues; i++)
        if (w.values[i].key == key) w.values[i].touched = w.time.mono;
}

static void get_many(void) {
    zc_bytes keys[4];
    zc_view views[4];
    int results[4], k[4], good = 0;
    for (int i = 0; i < 4; i++) {
        k[i] = (int)(next() % KEYS);
        keys[i] = key_of(k[i]);
    }
    int rc = zc_get_many(w.cache, keys, 4, views, results);
    if (rc < 0) {
        MUST(rc == ZC_E_NOMEM && !w.exact);
        return;
    }
    for (int i = 0; i < 4; i++) {
        good += results[i] == ZC_OK;
        check_read(k[i], results[i], &views[i], w.step);
        zc_release(w.cache, &views[i]);
    }
    MUST(rc == good);
}

static void del(void) {
    int key = (int)(next() % KEYS);
    int rc = zc_del(w.cache, key_of(key));
    MUST(rc == ZC_OK || rc == ZC_MISS);
    wrote(key);
}

static void invalidated(unsigned t) {
    uint64_t version;
    MUST(zc_tag_version(w.cache, tag_of(t), &version) == ZC_OK);
    /* Without memory for its node, the tag's parent is stamped in its place. */
    if (w.mem.failed || w.block) return;
    MUST(version && version >= w.version[t]);
    w.version[t] = version;
}

static void invalidate(void) {
    unsigned t = next() % TAGS;
    if (w.interned[t] && next() & 1) {
        MUST(zc_invalidate_tag(w.cache, w.interned[t]) == ZC_OK);
    } else {
        MUST(zc_invalidate(w.cache, tag_of(t)) == (t == BAD_TAG ? ZC_E_TAG_SEGMENT : ZC_OK));
        if (t == BAD_TAG) return;
    }
    kill_tags(below(t));
    invalidated(t);
}

static void invalidate_many(void) {
    zc_bytes tags[3];
    unsigned t[3];
    uint32_t mask = 0;
    for (int i = 0; i < 3; i++) {
        t[i] = next() % TAGS;
        tags[i] = tag_of(t[i]);
        mask |= below(t[i]);
    }
    int rc = zc_invalidate_many(w.cache, tags, 3);
    if (t[0] == BAD_TAG || t[1] == BAD_TAG || t[2] == BAD_TAG) {
        MUST(rc == ZC_E_TAG_SEGMENT);
        return;
    }
    MUST(rc == ZC_OK);
    kill_tags(mask);
    for (int i = 0; i < 3; i++) MUST(zc_tag_version(w.cache, tags[i], &w.version[t[i]]) == ZC_OK);
}

static void clear(void) {
    MUST(zc_clear(w.cache) == ZC_OK);
    kill_tags(UINT32_MAX);
    for (int k = 0; k < KEYS; k++) wrote(k);
}

static void intern(void) {
    unsigned t = next() % TAGS;
    if (w.interned[t]) {
        zc_tag_release(w.cache, w.interned[t]);
        w.interned[t] = NULL;
        return;
    }
    int rc = zc_tag_intern(w.cache, tag_of(t), &w.interned[t]);
    if (t == BAD_TAG) MUST(rc == ZC_E_TAG_SEGMENT);
    else MUST(!bad_rc(rc));
    MUST((rc == ZC_OK) == (w.interned[t] != NULL));
}

/* ---- fills ---- */

/* One thing that is done to a ticket under way. */
static void fill_step(ticket *t) {
    unsigned char buf[4096];
    unsigned what = next();
    value *v = &w.values[t->id];
    object *o;
    int rc = ZC_OK;
    switch (what % 8) {
    case 0:
    case 1: {
        unsigned tag = what / 8 % TAGS;
        rc = zc_fill_dep(t->fill, tag_of(tag));
        if (rc == ZC_OK) v->deps |= 1u << tag;
        else t->no_deps = true;
        if (tag == BAD_TAG) MUST(rc == ZC_E_TAG_SEGMENT);
        else MUST(!bad_rc(rc));
        return;
    }
    case 2:
        if (!w.interned[what / 8 % TAGS]) return;
        rc = zc_fill_dep_tag(t->fill, w.interned[what / 8 % TAGS]);
        if (rc == ZC_OK) v->deps |= 1u << what / 8 % TAGS;
        else t->no_deps = true;
        break;
    case 3:
    case 4: {
        size_t was = v->len;
        v->len = length();
        rc = zc_fill_value(t->fill, content(t->id, buf));
        if (rc != ZC_OK) v->len = was;
        if (rc == ZC_OK) v->absent = false;
        break;
    }
    case 5: {
        size_t was = v->len;
        o = object_new(t->id);
        rc = zc_fill_object(t->fill, o, sizeof *o, drop, &w);
        if (rc == ZC_OK) v->absent = false;
        else object_refused(o);
        if (rc != ZC_OK) v->len = was;
        break;
    }
    case 6:
        if (what & 8) rc = zc_fill_absent(t->fill);
        else life_options(zc_fill_opts(t->fill));
        if (!(what & 8)) return;
        if (rc == ZC_OK) v->absent = true;
        break;
    default:
        zc_fill_no_store(t->fill);
        return;
    }
    MUST(!bad_rc(rc));
    if (rc == ZC_OK && what % 8 > 2) t->set = true;
}

static int load(zc_fill *fill, void *user) {
    ticket t;
    memset(&t, 0, sizeof t);
    t.fill = fill;
    t.leader = true;
    t.key = ((const plan *)user)->key;
    if (w.nvalues > VALUES - 8) return ERROR;
    t.id = value_new(t.key);
    t.join = w.step;
    t.wrote = w.wrote[t.key];
    t.lead = ++w.leads[t.key];
    w.values[t.id].deps |= ((const plan *)user)->deps;
    unsigned how = next();
    w.depth++;
    for (unsigned n = how % 4; n; n--) {
        if (next() & 1 && w.depth < 4) operate(&t);
        else fill_step(&t);
    }
    w.depth--;
    if (how & 16 && how & 32) return ERROR;
    value *v = &w.values[t.id];
    if (!t.set) {
        unsigned char buf[4096];
        v->len = length();
        int rc = zc_fill_value(fill, content(t.id, buf));
        if (rc != ZC_OK) return rc;
    }
    lives_from_now(v, zc_fill_opts(fill));
    w.last_loaded = t.id;
    /* The table may take it, unless somebody has written meanwhile. */
    if (w.wrote[t.key] == t.wrote && w.leads[t.key] == t.lead && !t.no_deps) stored(t.id, false);
    return ZC_OK;
}

/* Returns which dependency was asked for. */
static uint32_t fetch_options(zc_fetch_opts *o, zc_bytes *dep, ticket *parent) {
    unsigned how = next(), tag = how / 16 % TAGS;
    memset(o, 0, sizeof *o);
    o->parent = parent ? parent->fill : NULL;
    if (how & 1) {
        *dep = tag_of(tag);
        o->put.deps = dep;
        o->put.ndeps = tag != BAD_TAG;
    }
    if (how & 2) o->promote = true;
    if (how & 4) life_options(&o->put);
    if (how & 8) o->flight_timeout = ms(1 + next() % 8);
    return o->put.ndeps ? 1u << tag : 0;
}

/* A nested fetch hands its dependencies up. */
static void inherit(ticket *parent, int rc, const zc_view *view) {
    if (parent && (rc == ZC_OK || rc == ZC_STALE) && view->data)
        w.values[parent->id].deps |= w.values[id_of(view)].deps;
}

static void fetch(ticket *parent) {
    zc_fetch_opts o;
    zc_bytes dep;
    zc_view view;
    int key = (int)(next() % KEYS);
    uint64_t start = w.step;
    if (w.nplans == VALUES) return;
    plan *user = &w.plans[w.nplans++];
    user->key = key;
    user->deps = fetch_options(&o, &dep, parent);
    w.last_loaded = NONE;
    int rc = zc_fetch(w.cache, key_of(key), load, user, &o, &view);
    int mine = w.last_loaded;
    if (rc == ZC_OK || rc == ZC_STALE) {
        int id = id_of(&view);
        value *v = &w.values[id];
        MUST(v->key == key);
        if (id == mine) v->touched = w.time.mono;
        else if (rc == ZC_STALE && w.time.mono >= ends(v)) check_stand_in(key, &view, start);
        else if (v->gone <= start || v->gone == 0) check_read(key, rc, &view, start);
    } else {
        MUST(rc == ZC_ABSENT || rc == ERROR || rc == ZC_E_TIMEOUT || rc == ZC_E_DEADLOCK ||
             (rc == ZC_E_NOMEM && !w.exact));
        MUST(!view.data);
        MUST(rc != ZC_E_DEADLOCK || parent);
    }
    if (rc == ZC_ABSENT) touch_absent(key);
    inherit(parent, rc, &view);
    keep_or_release(&view, next() & 1);
}

static void noticed(void *user) { *(bool *)user = true; }

/* Without a parent: what it would hand up is not known here. */
static void begin(void) {
    zc_fetch_opts o;
    zc_bytes dep;
    zc_view view;
    ticket *t = w.tickets;
    static bool told;
    while (t < w.tickets + TICKETS && t->fill) t++;
    if (t == w.tickets + TICKETS) return;
    memset(t, 0, sizeof *t);
    t->key = (int)(next() % KEYS);
    t->id = value_new(t->key);
    t->join = w.step;
    t->wrote = w.wrote[t->key];
    w.values[t->id].deps |= fetch_options(&o, &dep, NULL);
    zc_fill *fill;
    int rc = zc_flight_begin(w.cache, key_of(t->key), &o, &view, &fill);
    MUST(rc != ZC_MISS && (rc >= 0 || (rc == ZC_E_NOMEM && !w.exact)));
    MUST((rc == ZC_LEAD || rc == ZC_FOLLOW) <= (fill != NULL) && (rc >= 0 || !fill));
    if (rc == ZC_OK || rc == ZC_STALE || rc == ZC_ABSENT)
        check_read(t->key, rc, &view, w.step);
    zc_release(w.cache, &view);
    t->fill = fill;
    t->leader = rc != ZC_FOLLOW;
    if (fill && t->leader) t->lead = ++w.leads[t->key];
    if (rc == ZC_FOLLOW && next() & 1) MUST(zc_flight_notify(fill, noticed, &told) == ZC_OK);
}

static void commit(ticket *t) {
    zc_view view;
    value *v = &w.values[t->id];
    zc_put_opts opts = *zc_fill_opts(t->fill);
    zc_fill *fill = t->fill;
    uint64_t start = t->join;
    t->fill = NULL;
    int rc = zc_flight_commit(fill, &view);
    bool own = t->set && !t->no_deps && v->absent;
    if (rc == ZC_ABSENT && !(own && w.exact) && may_stand_in_absent(t->key, start)) {
        /* Whose "there is no such thing" it is cannot be seen. */
        if (own) {
            lives_from_now(v, &opts);
            stored(t->id, false);
        }
    } else if (rc == ZC_OK || rc == ZC_ABSENT) {
        MUST(t->set && !t->no_deps && (rc == ZC_ABSENT) == v->absent);
        MUST(!killed(v->deps, v->begin, w.step));
        MUST(w.wrote[t->key] == t->wrote && w.leads[t->key] == t->lead);
        lives_from_now(v, &opts);
        stored(t->id, true);
    }
    if (rc == ZC_STALE) {
        check_stand_in(t->key, &view, start);
    } else if ((rc == ZC_OK || rc == ZC_REFUSED || rc == ZC_E_LEASE) && !v->absent) {
        MUST(id_of(&view) == t->id);
    } else {
        MUST(!view.data);
        MUST(rc == ZC_ABSENT || v->absent || (rc == ZC_E_LOADER && !t->set) ||
             (rc == ZC_E_NOMEM && !w.exact));
    }
    keep_or_release(&view, next() & 1);
}

static void follow(ticket *t) {
    zc_view view;
    int rc = zc_flight_wait(t->fill, next() & 1 ? ms(5) : 0, &view);
    if (rc == ZC_PENDING) {
        MUST(!view.data);
        return;
    }
    t->fill = NULL;
    if (rc == ZC_OK || rc == ZC_STALE) {
        /* Nothing that killed it, and no write of the key, came before this follower joined. */
        value *v = &w.values[id_of(&view)];
        MUST(v->key == t->key);
        MUST(!killed(v->deps, v->begin, t->join));
        MUST(t->wrote <= v->begin || (v->certain && !v->gone));
    } else {
        MUST(rc == ZC_ABSENT || rc == ZC_RETRY || rc < 0);
        MUST(!view.data);
    }
    zc_release(w.cache, &view);
}

static void pieces(void) {
    unsigned how = next();
    ticket *t = &w.tickets[how % TICKETS];
    if (!t->fill) return;
    if (!t->leader && (how & 64)) {
        zc_flight_abandon(t->fill, 0);
        t->fill = NULL;
    } else if (!t->leader) {
        follow(t);
    } else if (how < 128) {
        fill_step(t);
    } else if (how < 224) {
        commit(t);
    } else {
        zc_fill *fill = t->fill;
        t->fill = NULL;
        zc_flight_abandon(fill, how & 8 ? 0 : ERROR);
    }
}

static void tell_time(void) {
    unsigned how = next();
    zct_step(&w.time, ms(how & 1 ? how / 2 : how / 32));
    if (how == 255) zct_step(&w.time, 7200 * ZC_SECOND);
}

static void check_all(void) {
    zc_stats s;
    uint64_t removed = 0;
    zc_stats_read(w.cache, &s);
    for (int i = 0; i < ZC_CAUSE_COUNT; i++) removed += s.removed[i];
    MUST(s.entries <= w.max_entries && s.bytes <= w.max_bytes);
    uint64_t cleared = 0; /* until housekeeping frees them */
    for (uint32_t i = 0; i < w.cache->nshards; i++)
        cleared += w.cache->shards[i].policy.queue[ZC__CLEARED].count;
    MUST(s.puts == s.entries + cleared + removed);
    MUST(w.dropped <= w.made);
    if (!w.depth) MUST(w.removed_events == removed);
    MUST(zc_check(w.cache) == ZC_OK);
}

static void operate(ticket *parent) {
    if (w.at >= w.end || w.nvalues > VALUES - 8 || w.nkills > KILLS - 8) return;
    w.depth++;
    unsigned op = next() % 24;
    switch (op) {
    case 0: case 1: case 2: put(); break;
    case 3: case 4: get(); break;
    case 5: get_copy(); break;
    case 6: get_many(); break;
    case 7: del(); break;
    case 8: case 9: invalidate(); break;
    case 10: invalidate_many(); break;
    case 11: case 12: case 13: fetch(parent); break;
    case 14: case 15: begin(); break;
    case 16: case 17: case 18: pieces(); break;
    case 19: tell_time(); break;
    case 20: (void)zc_poll(w.cache, next() & 1 ? 0 : ZC_SECOND); break;
    case 21: (void)zc_prune(w.cache, next() & 1 ? 0 : 3 * ZC_SECOND); break;
    case 22:
        if (next() & 1) intern();
        else unpin((int)(next() % PINS));
        break;
    default:
        if (next() & 1) {
            clear();
        } else if (!w.exact) {
            w.mem.fail_at = w.mem.count + 1 + next() % 16;
        }
        break;
    }
    w.depth--;
}

static void on_event(void *user, const zc_event *event) {
    zc_explanation why; /* hooks may call the cache */
    MUST(user == &w);
    if (event->kind != ZC_EVENT_REMOVED) return;
    w.removed_events++;
    MUST(zc_explain(w.cache, event->key, &why) == ZC_OK);
}

static bool open_cache(void) {
    zc_desc d;
    unsigned how = next(), limits = next();
    static const size_t bytes[] = {0, 300, 1000, 5000}, entries[] = {0, 1, 2, 5};
    memset(&d, 0, sizeof d);
    d.seed = 1;
    d.clock = zct_clock(&w.time);
    w.time.mono = w.time.wall = 1000 * ZC_SECOND;
    d.events = (zc_events){1, ZC_EVENT_REMOVED, on_event, &w};
    d.shards = 1u << how % 3;
    d.max_entries = entries[limits % 4];
    d.max_bytes = bytes[limits / 4 % 4];
    d.flight_timeout = ms(20);
    w.max_entries = d.max_entries ? d.max_entries : SIZE_MAX;
    w.max_bytes = d.max_bytes ? d.max_bytes : SIZE_MAX;
    if (how & 32) {
        w.block = true;
        d.block = block;
        d.block_size = BLOCK / 8 * (1 + limits / 16 % 8);
    } else {
        d.allocator = zct_allocator(&w.mem);
    }
    w.store = how & 64;
    if (w.store)
        d.store = (zc_store){.version = 1, .get = store_get, .put = store_put, .del = store_del,
                             .clear = store_clear};
    w.exact = !d.max_entries && !d.max_bytes && !d.block && how & 128;
    int rc = zc_open(&d, &w.cache);
    MUST(rc == ZC_OK || rc == ZC_E_NOMEM);
    MUST(rc == ZC_OK || d.block);
    return rc == ZC_OK;
}

static void close_cache(void) {
    bool before = next() & 1; /* tickets end before the cache, or after it */
    for (int i = 0; i < TAGS; i++) zc_tag_release(w.cache, w.interned[i]);
    for (int round = 0; round < 2; round++) {
        for (ticket *t = w.tickets; t < w.tickets + TICKETS && before; t++)
            if (t->fill) zc_flight_abandon(t->fill, ERROR);
        for (int i = 0; i < PINS && before; i++) unpin(i);
        if (before) memset(w.tickets, 0, sizeof w.tickets);
        if (round == 0) zc_close(w.cache);
        before = true;
    }
    MUST(w.mem.blocks == 0 && w.made == w.dropped);
    store_clear(NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    memset(&w, 0, sizeof w);
    w.at = data;
    w.end = data + size;
    for (int k = 0; k < KEYS; k++)
        snprintf(key_names[k], sizeof key_names[k], "%.*s%d", k * 2, "key-key-key-key-key-", k);
    if (!open_cache()) return 0;
    for (int n = 0; w.at < w.end && w.nvalues < VALUES - 16 && w.nkills < KILLS - 16; n++) {
        operate(NULL);
        if (n % 4 == 0) check_all();
    }
    w.mem.fail_at = 0;
    check_all();
    close_cache();
    return 0;
}
