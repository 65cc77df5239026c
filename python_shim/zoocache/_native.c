/* The shared library of the Python package: zoocache.h, and a few flat functions over it that ctypes
 * calls with nothing but pointers, lengths and numbers.
 *
 *   Idea     Values and keys stay in Python; the tag trie, the versions and the one rule are the
 *            library's. A *set* is what an entry depends on: one interned tag, or a block of them
 *            with the lowest bit of its address set. The empty set is the root.
 *   Copies   A process may have the package several times: in interpreters of their own, or imported
 *            anew. Each has a *home*, its words and its ticker, which its cores know; nothing else
 *            here is static. A home lives as long as the process, as a core may outlive its Python.
 *   Words    Python owns an array of 64-bit words and hands it over (zcpy_attach). A cached call
 *            compares words[CHANGES] with what it was when its entry was last checked, so a hit needs
 *            no call into this file. Whatever can make an entry unfit changes that word afterwards:
 *            an invalidation once it is published, and, while entries with a deadline are being read,
 *            a tick every few milliseconds.
 *   Ticker   One thread a home, asleep while no entry with a deadline is read. Falling asleep, it
 *            sets words[PERIOD] to 0 and then changes words[CHANGES] once more: a reader that saw it
 *            awake checks again at its next call, and wakes it. Having slept for long, it ends.
 *   Shared   With a storage or a bus, the library's cache is what stands behind Python's dict: it
 *            asks the storage, judges its records, and follows the log. Its own table is kept small,
 *            as Python has the values and the flights: what is read from a storage goes past both. A
 *            place in Python is asked between two calls (zcpy_look_begin, _end), not out of one. An
 *            entry that was checked remembers when the lease ends that held then (zcpy_gate), and a hit
 *            reads the clock after it: no thread has to run in time.
 *   Beats    With Redis as bus, what a node tells about itself every second is what Python has said last
 *            (zcpy_tell), and what it is asked waits for Python (zcpy_asked). So the bus' thread does
 *            both, and waits for no Python.
 *   Calls    What may wait for a storage is called with the interpreter's lock released; the rest
 *            takes no lock under which a storage is called, as that may be one in Python.
 */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#  define _POSIX_C_SOURCE 200809L
#  define _DEFAULT_SOURCE /* madvise() */
#endif
#ifdef _WIN32
#  define ZCPY_API __declspec(dllexport)
#  define ZOOCACHE_API ZCPY_API
#else
#  define ZCPY_API __attribute__((visibility("default")))
#endif
#ifndef ZOOCACHE_WITH_BUS
#  define ZOOCACHE_WITH_BUS /* the breaker, for a storage in Python */
#endif
#ifdef ZCPY_OPENSSL_AT_RUN_TIME
#  include "_openssl.h"
#endif
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#ifdef ZOOCACHE_WITH_LMDB
#  include <sys/mman.h>
#endif

enum { CHANGES, PERIOD, WANTED };

#define ZCPY_TAG_MAX 256u /* bytes of a tag, as the package has always had it */
#define ZCPY_TICK_MAX (50 * ZC_MILLISECOND)

/* One copy of the package. */
typedef struct home {
    uint64_t *words;
    zc__monitor monitor;
    zc__thread ticker;
    bool ticks; /* it has a thread */
    bool ended; /* which is to be joined */
} home;

static void change(home *h) {
    (void)__atomic_fetch_add(&h->words[CHANGES], 1, __ATOMIC_RELEASE);
}

/* ---- the ticker ---- */

#define ZCPY_SLEEPS 60u /* seconds of sleep after which it ends */

/* One tick. */
static void tick(home *h, unsigned *ticks, unsigned *idle) {
    *idle = zc__atomic_load_rlx(&h->words[WANTED]) ? 0 : *idle + 1;
    zc__atomic_store_rlx(&h->words[WANTED], 0u);
    if (*idle > 20) {
        zc__atomic_store_rel(&h->words[PERIOD], 0u);
        *idle = 0;
    } else if (++*ticks % 256 == 0) {
        zc__atomic_store_rel(&h->words[PERIOD], ZCPY_TICK_MAX); /* who wants it shorter says so again */
    }
    change(h);
}

ZC__THREAD_FN(tick_main, arg) {
    home *h = (home *)arg;
    unsigned ticks = 0, idle = 0, asleep = 0;
    zc__monitor_lock(&h->monitor);
    while (asleep < ZCPY_SLEEPS) {
        uint64_t period = zc__atomic_load_rlx(&h->words[PERIOD]);
        asleep = period ? 0 : asleep + 1;
        zc__monitor_sleep(&h->monitor, period ? period : ZC_SECOND);
        if (period) tick(h, &ticks, &idle);
    }
    h->ended = true;
    zc__monitor_unlock(&h->monitor);
    return ZC__THREAD_RESULT;
}

/* Ticks at least every `period` ns from now on. False: no thread could be started. */
ZCPY_API int zcpy_tick(home *h, uint64_t period) {
    if (period > ZCPY_TICK_MAX) period = ZCPY_TICK_MAX;
    if (period < ZC_MILLISECOND) period = ZC_MILLISECOND;
    zc__monitor_lock(&h->monitor);
    uint64_t now = zc__atomic_load_rlx(&h->words[PERIOD]);
    zc__atomic_store_rlx(&h->words[WANTED], 1u);
    if (!now || now > period) zc__atomic_store_rel(&h->words[PERIOD], period);
    if (h->ended) {
        zc__thread_join(h->ticker);
        h->ticks = h->ended = false;
    }
    if (!h->ticks) {
        h->ticks = zc__thread_start(&h->ticker, tick_main, h);
        if (!h->ticks) zc__atomic_store_rel(&h->words[PERIOD], 0u);
    }
    int ok = h->ticks;
    zc__monitor_wake(&h->monitor);
    zc__monitor_unlock(&h->monitor);
    return ok;
}

ZCPY_API void zcpy_change(home *h) { change(h); }

/* The home of a copy of the package, with its words. NULL: no memory. */
ZCPY_API home *zcpy_attach(uint64_t *words) {
    home *h = (home *)calloc(1, sizeof *h);
    if (!h) return NULL;
    h->words = words;
    if (zc__monitor_init(&h->monitor, ZC__RANK_OUTSIDE)) return h;
    free(h);
    return NULL;
}

/* In the child of a fork. */
ZCPY_API void zcpy_fork_child(home *h) {
    h->ticks = h->ended = false; /* threads stay behind */
    (void)zc__monitor_init(&h->monitor, ZC__RANK_OUTSIDE);
    h->words[PERIOD] = 0;
    change(h);
}

/* ---- tags ---- */

/* The package's syntax is narrower than the library's: see _tags.py, which explains refusals. */
static bool tag_ok(const unsigned char *s, size_t n) {
    unsigned depth = 1;
    if (n == 0 || n > ZCPY_TAG_MAX) return false;
    if (strchr(":./", s[0]) || strchr(":./", s[n - 1])) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (c <= ' ' || c == '|' || c == '*' || c == 0x7f) return false;
        if (c != ':' && c != '.') continue;
        if (s[i + 1] == ':' || s[i + 1] == '.') return false; /* not the last, by the check above */
        depth += c == ':';
    }
    return depth <= ZC_TAG_DEPTH;
}

/* The next of the tags in `text`, which are separated by NULs. */
static bool tag_next(zc_bytes *text, zc_bytes *tag) {
    const char *s = (const char *)text->ptr;
    const char *end;
    if (!s) return false;
    end = (const char *)memchr(s, '\0', text->len);
    *tag = zc_slice(s, end ? (size_t)(end - s) : text->len);
    *text = end ? zc_slice(end + 1, text->len - tag->len - 1) : zc_slice(NULL, 0);
    return true;
}

/* How many tags, or -1 if one of them is no good. */
static int64_t tags_count(zc_bytes rest) {
    zc_bytes tag;
    int64_t n = 0;
    for (; tag_next(&rest, &tag); n++)
        if (!tag_ok((const unsigned char *)tag.ptr, tag.len)) return -1;
    return n;
}

ZCPY_API int zcpy_tag_ok(const char *tag, size_t len) {
    return memchr(tag, '\0', len) == NULL && tag_ok((const unsigned char *)tag, len);
}

/* ---- sets ---- */

#define ZCPY_LINES 16u /* that wait to be asked for */
#define ZCPY_LINE 256u /* bytes of one */

#define ZCPY_ASKED 16u  /* questions that wait to be taken */
#define ZCPY_QUESTION 4096u /* bytes of one */

/* What the library says, until Python asks: it speaks in threads of its own, and with locks held
 * that somebody with the interpreter's lock may wait for. */
typedef struct news {
    zc__spin lock;
    unsigned first, n;
    struct {
        int level;
        char text[ZCPY_LINE];
    } line[ZCPY_LINES];
    char *facts; /* of this node, for its beat; NULL: none, or they are being sent */
    size_t size;
    char *asked[ZCPY_ASKED];
    unsigned nasked;
} news;

static void news_free(news *w) {
    if (!w) return;
    free(w->facts);
    for (unsigned i = 0; i < w->nasked; i++) free(w->asked[i]);
    free(w);
}

typedef struct core {
    zc_cache *cache; /* its memory is held as long as this is there */
    home *home;
    news *news; /* NULL: it has nothing to say */
    uint64_t refs; /* the handle that Python has, one for each set, one for all uses: freed in any order */
    uint64_t uses; /* one until it is shut, and one for each call that is inside; 0: it is closed */
    bool shut;
    bool left_behind; /* in the child of a fork: nothing of it is touched any more */
    bool calls_python;
    zc_shared64 latency; /* ns, of look-ups in the storage, smoothed */
    zc_shared64 last_fault; /* of the storage */
} core;

typedef struct set {
    size_t n;
    zc_tag *tags[];
} set;

typedef struct span {
    zc_tag *const *tags; /* at least one */
    size_t n;
} span;

static inline set *set_of(uintptr_t handle) { return (set *)(handle & ~(uintptr_t)1); }

#define SPAN(handle, one)                                                                          \
    ((handle) & 1 ? (span){set_of(handle)->tags, set_of(handle)->n} : (span){&(one), 1})

/* ctypes takes some 80 ns for each argument, so a set finds its cache by itself: through the root. */
static zc_cache *cache_of(const zc_tag *tag) {
    while (tag->parent) tag = tag->parent;
    return (zc_cache *)(uintptr_t)((const char *)tag - offsetof(zc_cache, trie) -
                                   offsetof(zc__trie, root));
}

static __thread int fault; /* of the storage, in this thread, since it was last set to 0 */

static void on_event(void *user, const zc_event *event) {
    core *c = (core *)user;
    if (event->kind == ZC_EVENT_STORE_FAULT) {
        fault = event->rc;
        zc__atomic_store_rlx(&c->last_fault, (uint64_t)(int64_t)event->rc);
    } else {
        change(c->home);
    }
}

static void on_log(void *user, zc_log_level level, const char *message) {
    news *w = (news *)user;
    zc__spin_lock(&w->lock);
    unsigned i = (w->first + w->n) % ZCPY_LINES;
    const char *last = w->n ? w->line[(i + ZCPY_LINES - 1) % ZCPY_LINES].text : "";
    if (w->n < ZCPY_LINES && strcmp(last, message) != 0) {
        size_t n = strnlen(message, ZCPY_LINE - 1);
        memcpy(w->line[i].text, message, n);
        w->line[i].text[n] = '\0';
        w->line[i].level = (int)level;
        w->n++;
    }
    zc__spin_unlock(&w->lock);
}

/* The oldest line that nobody has asked for, and its level; 0: there is none. */
static int news_take(news *w, char out[ZCPY_LINE]) {
    int level = 0;
    zc__spin_lock(&w->lock);
    if (w->n) {
        level = w->line[w->first].level;
        memcpy(out, w->line[w->first].text, ZCPY_LINE);
        w->first = (w->first + 1) % ZCPY_LINES;
        w->n--;
    }
    zc__spin_unlock(&w->lock);
    return level;
}

/* The oldest line that the library has said, at most ZCPY_LINE bytes with its NUL: its level, or 0. */
ZCPY_API int zcpy_news(const core *c, char out[ZCPY_LINE]) {
    return c->news ? news_take(c->news, out) : 0;
}

/* The call may go in: it is not closed before leave(). */
static bool enter(core *c) {
    uint64_t n = zc__atomic_load_rlx(&c->uses);
    while (n) {
        if (zc__atomic_cas(&c->uses, &n, n + 1)) return true;
    }
    return false;
}

static void unhold(core *c) {
    zc__cache_unref(c->cache);
    news_free(c->news);
    free(c);
}

/* The last use has ended. */
static void end_uses(core *c) {
    zc_close(c->cache);
    if (zc__atomic_sub_acqrel(&c->refs, 1u) == 1) unhold(c);
}

ZC__THREAD_FN(end_main, arg) {
    end_uses((core *)arg);
    return ZC__THREAD_RESULT;
}

/* A storage in Python is closed by a thread of its own: who leaves may have the interpreter's lock. */
static void leave(core *c) {
    zc__thread thread;
    if (zc__atomic_sub_acqrel(&c->uses, 1u) != 1) return;
    if (!c->calls_python || !zc__thread_start(&thread, end_main, c)) end_uses(c);
}

/* Closes it now: storage, bus, threads; or, if calls are inside, when the last of them leaves. Its
 * tags and their versions are there until the last set and the handle are. */
ZCPY_API void zcpy_shut(core *c) {
    if (c->left_behind || c->shut) return;
    c->shut = true;
    if (zc__atomic_sub_acqrel(&c->uses, 1u) == 1) end_uses(c);
}

/* The handle, or a set, is gone. */
static void let_go(core *c) {
    if (zc__atomic_sub_acqrel(&c->refs, 1u) == 1 && !c->left_behind) unhold(c);
}

ZCPY_API void zcpy_close(core *c) {
    zcpy_shut(c);
    let_go(c);
}

/* The body of a call that needs the cache to be open. */
#define INSIDE(c, type, closed, call)                                                              \
    if (!enter(c)) return closed;                                                                  \
    type result = call;                                                                            \
    leave(c);                                                                                      \
    return result

ZCPY_API void zcpy_release(uintptr_t handle) {
    zc_tag *one = (zc_tag *)handle;
    span s = SPAN(handle, one);
    zc_cache *cache = cache_of(s.tags[0]);
    if (((core *)cache->desc.events.user)->left_behind) return;
    for (size_t i = 0; i < s.n; i++) zc_tag_release(cache, s.tags[i]);
    if (handle & 1) free(set_of(handle));
    let_go((core *)cache->desc.events.user);
}

/* The set of n tags. Free with zcpy_release(). -2: no memory. */
static intptr_t set_of_text(core *c, zc_bytes rest, size_t n) {
    zc_bytes tag;
    zc_tag *node;
    set *s;
    if (n == 1) {
        if (zc_tag_intern(c->cache, rest, &node) != ZC_OK) return -2;
        (void)zc__atomic_add_rlx(&c->refs, 1u);
        return (intptr_t)node;
    }
    s = (set *)malloc(sizeof *s + n * sizeof s->tags[0]);
    if (!s) return -2;
    for (s->n = 0; tag_next(&rest, &tag); s->n++) {
        if (zc_tag_intern(c->cache, tag, &s->tags[s->n]) == ZC_OK) continue;
        while (s->n) zc_tag_release(c->cache, s->tags[--s->n]);
        free(s);
        return -2;
    }
    (void)zc__atomic_add_rlx(&c->refs, 1u);
    return (intptr_t)((uintptr_t)s | 1);
}

/* The set of the tags in `text`. Free with zcpy_release(). -1: a tag is no good. -2: no memory. */
ZCPY_API intptr_t zcpy_set(core *const *c, const char *text, int len) {
    zc_bytes rest = zc_slice(text, (size_t)len);
    int64_t n = tags_count(rest);
    return n < 0 ? -1 : set_of_text(*c, rest, (size_t)n);
}

/* The same for tags that were checked, and some of the package's own: those begin with '|'. */
ZCPY_API intptr_t zcpy_set_marked(core *const *c, const char *text, int len) {
    zc_bytes rest = zc_slice(text, (size_t)len), left = rest, tag;
    size_t n = 0;
    while (tag_next(&left, &tag)) n++;
    return set_of_text(*c, rest, n);
}

/* The empty set: the root, so only clearing everything kills it. Free with zcpy_release(). */
ZCPY_API uintptr_t zcpy_nothing(core *c) {
    zc__tag_ref(&c->cache->trie.root);
    (void)zc__atomic_add_rlx(&c->refs, 1u);
    return (uintptr_t)&c->cache->trie.root;
}

/* The one rule needs one number: the newest version on the paths of the tags, published; the highest
 * that there is, if one of them is held. */
ZCPY_API uint64_t zcpy_newest(uintptr_t handle) {
    zc_tag *one = (zc_tag *)handle;
    const zc_tag *who = NULL;
    uint64_t newest = 0;
    span s = SPAN(handle, one);
    for (size_t i = 0; i < s.n; i++) {
        uint64_t v = zc__tag_newest(s.tags[i], &who);
        if (v > newest) newest = v;
    }
    zc_cache *cache = cache_of(s.tags[0]);
    if (newest)
        while (zc__published(&cache->trie) < newest) zc__yield(); /* its writer is about to publish it */
    return zc__held(cache, s.tags, s.n) ? UINT64_MAX : newest;
}

/* The tags as text, separated by NULs: at most `cap` bytes; returns the whole length. */
ZCPY_API size_t zcpy_text(uintptr_t handle, char *buf, size_t cap) {
    zc_tag *one = (zc_tag *)handle;
    span s = SPAN(handle, one);
    char text[ZC_TAG_MAX];
    size_t len = 0;
    for (size_t i = 0; i < s.n; i++) {
        size_t n = zc__tag_text(s.tags[i], text), at = len + (i > 0);
        if (at + n <= cap) {
            if (i) buf[len] = '\0';
            memcpy(buf + at, text, n);
        }
        len = at + n;
    }
    return len;
}

/* ---- the cache ---- */

/* How a cache is opened: zero is the default everywhere. Mirrored in _ffi.py. */
typedef struct options {
    const char *storage, *bus; /* URLs; the bus is by default where the storage is */
    const char *prefix;
    const char *tls_ca, *tls_cert, *tls_key;
    uint64_t map_size, max_entries, timeout, max_staleness, max_stale, storage_ttl, flight_timeout, bus_pause;
    uint32_t connections, replicas, log_shards;
    int32_t ack, silence;
    int32_t write_behind, sync;
    uint64_t breaker_pause;
    uint32_t breaker_failures, nseal_keys;
    const unsigned char *seal_keys; /* ZC_SEAL_KEY bytes each */
    int32_t seal_strict;
    zc_store own; /* a storage in Python; version 0: none */
    zc_place place; /* or one that can compare and set, so that it carries invalidations as well */
    char why[ZCPY_LINE]; /* out: the first that was said, if it could not be opened */
} options;

#ifdef ZOOCACHE_WITH_REDIS
/* Takes what a node is asked from a reply. */
static void take_questions(news *w, const redisReply *list) {
    for (size_t i = 0; zc__redis_is(list, REDIS_REPLY_ARRAY) && i < list->elements; i++) {
        const redisReply *q = list->element[i];
        if (!zc__redis_string(q) || q->len > ZCPY_QUESTION) continue;
        char *text = (char *)malloc(q->len + 1);
        if (!text) return;
        memcpy(text, q->str, q->len + 1);
        zc__spin_lock(&w->lock);
        bool room = w->nasked < ZCPY_ASKED;
        if (room) w->asked[w->nasked++] = text;
        zc__spin_unlock(&w->lock);
        if (!room) free(text);
    }
}

/* Facts that were taken go back, unless there are newer ones. */
static void give_back(news *w, char *facts, size_t size) {
    zc__spin_lock(&w->lock);
    bool newer = w->facts != NULL;
    if (!newer) {
        w->facts = facts;
        w->size = size;
    }
    zc__spin_unlock(&w->lock);
    if (newer) free(facts);
}

/* In place of Redis' own beat: tells what Python has said, if anything, and takes what the node is
 * asked. The bus' log is its news. */
static int beat(void *user, zc_bytes text) {
    zc__redis *r = (zc__redis *)user;
    news *w = (news *)r->lines.log.user;
    zc__redis_req q;
    zc__spin_lock(&w->lock);
    char *facts = w->facts;
    size_t size = w->size;
    w->facts = NULL;
    zc__spin_unlock(&w->lock);
    (void)text;
    if (!facts) return ZC_OK;
    int rc = zc__redis_beat(r, zc_slice(facts, size));
    give_back(w, facts, size);
    if (rc != ZC_OK) return rc;
    zc__req_init(r, &q);
    q.at_once = true;
    zc__req_cmd(&q, "MULTI");
    zc__req_cmd(&q, "LRANGE $ask:%x 0 %u", r->node, (uint64_t)ZCPY_ASKED - 1);
    zc__req_cmd(&q, "LTRIM $ask:%x %u -1", r->node, (uint64_t)ZCPY_ASKED);
    zc__req_cmd(&q, "EXEC");
    rc = zc__bus_rc(zc__redis_call(r, &q, 0, 0));
    if (rc == ZC_OK && zc__redis_array(q.reply[3], 2)) take_questions(w, q.reply[3]->element[0]);
    zc__req_free(&q);
    return rc == ZC_E_BUSY ? ZC_OK : rc;
}

static bool is_redis(const core *c) { return c->cache->desc.bus.beat == beat; }
#else
static bool is_redis(const core *c) { return (void)c, false; }
#endif

#define ZCPY_TABLE 64u /* entries of the library's own table: Python has the values */

static bool is_lmdb(const char *url) { return strncmp(url, "lmdb://", 7) == 0; }

/* Fills the tables that are wanted from the place that a URL names. */
static int open_url(const options *o, const zc_log *log, const char *url, zc_store *store,
                    zc_bus *bus) {
    if (is_lmdb(url)) {
#ifdef ZOOCACHE_WITH_LMDB
        zc_lmdb_desc d;
        zc_store unwanted_store;
        zc_bus unwanted_bus;
        memset(&d, 0, sizeof d);
        d.path = url + 7;
        d.map_size = (size_t)o->map_size;
        d.max_entries = (size_t)o->max_entries;
        d.sync = o->sync != 0;
        d.log = *log;
        int rc = zc_lmdb_open(&d, store ? store : &unwanted_store, bus ? bus : &unwanted_bus);
        if (rc != ZC_OK) return rc;
        if (!store) unwanted_store.close(unwanted_store.user);
        if (!bus) unwanted_bus.close(unwanted_bus.user);
        return ZC_OK;
#endif
    } else {
#ifdef ZOOCACHE_WITH_REDIS
        zc_redis_desc d;
        memset(&d, 0, sizeof d);
        d.url = url;
        d.prefix = o->prefix;
        d.timeout = o->timeout;
        d.connections = o->connections;
        d.replicas = o->replicas;
        d.log_shards = o->log_shards;
        d.tls_ca = o->tls_ca;
        d.tls_cert = o->tls_cert;
        d.tls_key = o->tls_key;
        d.log = *log;
        int rc = zc_redis_open(&d, store, bus);
        if (rc == ZC_OK && bus) bus->beat = beat;
        return rc;
#endif
    }
    (void)o, (void)log, (void)store, (void)bus;
    return ZC_E_BUILD;
}

/* A hook in Python that an exception has left returns whatever is there, 0 as well: so those of which
 * nothing may be taken for done that was not return ZCPY_DONE. `user` is the table as Python has it,
 * for as long as the process lives. */
#define ZCPY_DONE 100
#define ZCPY_HOOK(table, name, params, args)                                                       \
    static int table##_##name params {                                                             \
        int rc = ((const zc_##table *)user)->name args;                                            \
        return rc == ZCPY_DONE ? ZC_OK : rc < 0 || rc == ZC_MISS ? rc : ZC_E_STORE;                \
    }
ZCPY_HOOK(place, put, (void *user, zc_bytes key, zc_bytes record, uint64_t expires),
          (user, key, record, expires))
ZCPY_HOOK(place, del, (void *user, zc_bytes key), (user, key))
ZCPY_HOOK(place, swap, (void *user, zc_bytes key, zc_bytes value, zc_bytes token),
          (user, key, value, token))
ZCPY_HOOK(store, put, (void *user, zc_bytes key, zc_bytes record, uint64_t expires),
          (user, key, record, expires))
ZCPY_HOOK(store, del, (void *user, zc_bytes key), (user, key))
ZCPY_HOOK(store, clear, (void *user), (user))
ZCPY_HOOK(store, generation, (void *user, uint64_t *generation, uint64_t *latest),
          (user, generation, latest))
ZCPY_HOOK(store, tag_put, (void *user, const zc_bytes *paths, size_t n, uint64_t version),
          (user, paths, n, version))
ZCPY_HOOK(store, tag_get, (void *user, const zc_bytes *paths, size_t n, uint64_t *versions),
          (user, paths, n, versions))

static zc_store own_store(const options *o) {
    zc_store s = o->own;
    s.put = store_put;
    s.del = store_del;
    s.clear = store_clear;
    if (s.generation) s.generation = store_generation;
    if (s.tag_put) s.tag_put = store_tag_put;
    if (s.tag_get) s.tag_get = store_tag_get;
    return s;
}

static int open_place(const options *o, zc_desc *desc) {
    zc_place_desc d;
    memset(&d, 0, sizeof d);
    d.place = o->place;
    d.place.put = place_put;
    d.place.del = place_del;
    d.place.swap = place_swap;
    d.prefix = o->prefix;
    d.log = desc->log;
    return zc_place_open(&d, &desc->store, &desc->bus);
}

static int open_tiers(const options *o, zc_desc *desc) {
    bool apart = o->bus && (!o->storage || strcmp(o->bus, o->storage) != 0);
    int rc = ZC_OK;
    if (o->own.version) desc->store = own_store(o);
    if (o->storage)
        rc = open_url(o, &desc->log, o->storage, &desc->store, apart ? NULL : &desc->bus);
    if (o->place.version) rc = open_place(o, desc);
    if (rc == ZC_OK && apart) rc = open_url(o, &desc->log, o->bus, NULL, &desc->bus);
    if (rc != ZC_OK && o->storage && desc->store.version) desc->store.close(desc->store.user);
    return rc;
}

#ifdef ZOOCACHE_WITH_SEAL
/* The path of a scope stands at the end of a key, behind "|@", if there is one. */
static zc_bytes scope_of(void *user, zc_bytes key) {
    const char *text = (const char *)key.ptr;
    (void)user;
    for (size_t at = key.len; at >= 2; at--)
        if (text[at - 2] == '|' && text[at - 1] == '@') return zc_slice(text + at, key.len - at);
    return zc_slice("", 0);
}
#endif

static int open_sealer(const options *o, zc_desc *desc) {
#ifdef ZOOCACHE_WITH_SEAL
    zc_bytes keys[ZC_SEAL_KEYS];
    zc_seal_desc d;
    if (!o->nseal_keys) return ZC_OK;
    if (o->nseal_keys > ZC_SEAL_KEYS) return ZC_E_INVAL;
    for (uint32_t i = 0; i < o->nseal_keys; i++)
        keys[i] = zc_slice(o->seal_keys + i * ZC_SEAL_KEY, ZC_SEAL_KEY);
    memset(&d, 0, sizeof d);
    d.keys = keys;
    d.nkeys = o->nseal_keys;
    d.prefix = zc_str(o->prefix ? o->prefix : "zoocache");
    d.scope_of = scope_of;
    desc->seal_strict = o->seal_strict != 0;
    return zc_seal_open(&d, &desc->sealer);
#else
    (void)desc;
    return o->nseal_keys ? ZC_E_BUILD : ZC_OK;
#endif
}

static void close_tiers(const options *o, const zc_desc *desc) {
    if (desc->sealer.version) desc->sealer.close(desc->sealer.user);

    if (desc->bus.version) desc->bus.close(desc->bus.user);
    if ((o->storage || o->place.version) && desc->store.version) desc->store.close(desc->store.user);
}

static void describe(const options *o, zc_desc *desc) {
    uint64_t t = o->max_staleness ? o->max_staleness : ZC_SECOND;
    desc->no_thread = false;
    desc->max_entries = ZCPY_TABLE;
    if (o->max_entries && o->max_entries < ZCPY_TABLE) desc->max_entries = (size_t)o->max_entries;
    desc->max_staleness = t;
    desc->max_stale = o->max_stale;
    desc->store_ttl = o->storage_ttl;
    desc->flight_timeout = o->flight_timeout;
    desc->bus_pause = o->bus_pause;
    desc->ack = (zc_ack)o->ack;
    desc->silence = (zc_silence)o->silence;
    desc->write_behind = o->write_behind != 0;
    desc->breaker_failures = o->breaker_failures;
    desc->breaker_pause = o->breaker_pause;
}

/* A cache: `o` NULL: of this process alone. *rc: why there is none. */
ZCPY_API core *zcpy_open(home *h, options *o, int *rc) {
    zc_desc desc;
    core *c = (core *)calloc(1, sizeof *c);
    news *w = o ? (news *)calloc(1, sizeof *w) : NULL;
    *rc = ZC_E_NOMEM;
    if (!c || (o && !w)) {
        free(c);
        return NULL;
    }
    c->home = h;
    c->refs = 2;
    c->uses = 1;
    c->news = w;
    memset(&desc, 0, sizeof desc);
    if (w) desc.log.version = 1;
    desc.log.write = on_log;
    desc.log.user = w;
    desc.shards = 1;
    desc.no_thread = true;
    desc.events.version = 1;
    desc.events.mask = ZC_EVENT_INVALIDATED | ZC_EVENT_STORE_FAULT;
    desc.events.on_event = on_event;
    desc.events.user = c;
    *rc = o ? open_tiers(o, &desc) : ZC_OK;
    if (*rc == ZC_OK && o) {
        describe(o, &desc);
        c->calls_python = o->own.version || o->place.version;
        *rc = open_sealer(o, &desc);
        if (*rc != ZC_OK) close_tiers(o, &desc);
    }
    if (*rc == ZC_OK && (*rc = zc_open(&desc, &c->cache)) != ZC_OK && o) close_tiers(o, &desc);
    if (*rc == ZC_OK) {
        zc__cache_ref(c->cache);
        return c;
    }
    if (w) (void)news_take(w, o->why);
    news_free(w);
    free(c);
    return NULL;
}

/* What can be done here: 1 LMDB, 2 Redis, 4 Redis over TLS, 16 sealing; 8: for these two, there is no
 * OpenSSL yet. */
ZCPY_API int zcpy_parts(void) {
    int parts = 0;
#ifdef ZOOCACHE_WITH_LMDB
    parts |= 1;
#endif
#ifdef ZOOCACHE_WITH_REDIS
    parts |= 2;
#endif
#ifdef ZCPY_OPENSSL_AT_RUN_TIME
    parts |= openssl_there() ? 4 | 16 : 8;
#else
#  ifdef ZOOCACHE_WITH_REDIS_TLS
    parts |= 4;
#  endif
#  ifdef ZOOCACHE_WITH_SEAL
    parts |= 16;
#  endif
#endif
    return parts;
}

ZCPY_API const char *zcpy_error(int rc) { return zc_strerror(rc); }

/* The cache itself, for code in C that invalidates what Python has cached. */
ZCPY_API zc_cache *zcpy_cache(const core *c) { return c->cache; }

/* Round fork(), where other threads may be in here at that moment: not where the interpreter has one
 * lock for all, which its callers hold. There a lock of ours that is held from hook to hook would
 * stop a thread that holds the interpreter's. */
ZCPY_API void zcpy_core_prepare(const core *c) { zc_fork_prepare(c->cache); }
ZCPY_API void zcpy_core_parent(const core *c) { zc_fork_parent(c->cache); }
ZCPY_API void zcpy_core_child(const core *c) { (void)zc_fork_child(c->cache); }

/* Where the version of the latest published invalidation stands. */
ZCPY_API const uint64_t *zcpy_seen(const core *c) { return &c->cache->trie.published; }

/* As zc_begin_ago(), by the clock of the cache in Python: `now` never steps back. */
ZCPY_API uint64_t zcpy_begin_ago(core *c, uint64_t now, uint64_t lag) {
    zc__spin_lock(&c->cache->trie.writer);
    uint64_t begin = zc__trie_ago(&c->cache->trie, now, lag);
    zc__spin_unlock(&c->cache->trie.writer);
    return begin;
}

/* Invalidates the tags in `text` in one step. A zc_result; ZC_E_INVAL: a tag is no good, and nothing
 * was done. */
static int invalidate(core *c, const char *text, int len) {
    zc_bytes rest = zc_slice(text, (size_t)len), *tags;
    int64_t n = tags_count(rest);
    if (n < 0) return ZC_E_INVAL;
    if (n == 1) return zc_invalidate(c->cache, rest);
    tags = (zc_bytes *)malloc((size_t)n * sizeof *tags);
    if (!tags) return ZC_E_NOMEM;
    for (int64_t i = 0; i < n; i++) (void)tag_next(&rest, &tags[i]);
    int rc = zc_invalidate_many(c->cache, tags, (size_t)n);
    free(tags);
    return rc;
}

ZCPY_API int zcpy_invalidate(core *const *c, const char *text, int len) {
    INSIDE(*c, int, ZC_E_CLOSED, invalidate(*c, text, len));
}

/* Holds the tags in `text`, which were checked, for `lease` ns. A zc_result; zcpy_hold_end() ends it. */
static int hold(core *c, const char *text, int len, uint64_t lease, uint64_t *id) {
    zc_bytes rest = zc_slice(text, (size_t)len), *tags;
    int64_t n = tags_count(rest);
    tags = n > 0 ? (zc_bytes *)malloc((size_t)n * sizeof *tags) : NULL;
    if (!tags) return n < 0 ? ZC_E_INVAL : ZC_E_NOMEM;
    for (int64_t i = 0; i < n; i++) (void)tag_next(&rest, &tags[i]);
    int rc = zc_hold(c->cache, tags, (size_t)n, lease, id);
    free(tags);
    return rc;
}

ZCPY_API int zcpy_hold(core *c, const char *text, int len, uint64_t lease, uint64_t *id) {
    INSIDE(c, int, ZC_E_CLOSED, hold(c, text, len, lease, id));
}

ZCPY_API int zcpy_hold_end(core *c, uint64_t id) {
    INSIDE(c, int, ZC_E_CLOSED, zc_hold_end(c->cache, id));
}

/* Where it stands how many holds there are: with any, what is fresh is asked of zcpy_newest(). */
ZCPY_API const uint32_t *zcpy_holds(const core *c) { return &c->cache->bus.nholds; }

/* Invalidates a tag of the package's own. */
ZCPY_API int zcpy_invalidate_mark(core *const *c, const char *mark, int len) {
    INSIDE(*c, int, ZC_E_CLOSED, zc_invalidate((*c)->cache, zc_slice(mark, (size_t)len)));
}

/* Invalidates everything. */
ZCPY_API int zcpy_clear(core *c) {
    INSIDE(c, int, ZC_E_CLOSED, zc_clear(c->cache));
}

/* ---- shared: the storage and the bus ---- */

enum { HAS_STORE = 1, HAS_BUS = 2, PEEKS = 4, CAN_LOCK = 8, BEATS = 16 };

ZCPY_API int zcpy_has(const core *c) {
    const zc_desc *d = &c->cache->desc;
    return (d->store.version ? HAS_STORE : 0) | (d->bus.version ? HAS_BUS : 0) |
           (d->bus.peek ? PEEKS : 0) | (d->store.lock ? CAN_LOCK : 0) | (is_redis(c) ? BEATS : 0);
}

/* How many ns the lease lasts from now: what is found fresh after this call may be served for so long.
 * 0: there is none, ask zcpy_gate(). */
static uint64_t lease(core *c) {
    const zc__bus *b = &c->cache->bus;
    uint64_t lease = zc__bus_lease(c->cache), now = zc__mono(&c->cache->clock);
    return lease && !b->peeks && lease + b->serve_for > now ? lease + b->serve_for - now : 0;
}

ZCPY_API uint64_t zcpy_lease(core *const *c) {
    INSIDE(*c, uint64_t, 0, lease(*c));
}

/* May what Python has be served at this moment? ZC_OK; or the bus is silent, and ZC_STALE, ZC_MISS,
 * ZC_E_BUS is what `silence` makes of it. */
static int gate(core *c, int silence) {
    uint64_t lease;
    return zc__bus_gate(c->cache, (zc_silence)silence, &lease);
}

ZCPY_API int zcpy_gate(core *const *c, int silence) {
    INSIDE(*c, int, ZC_MISS, gate(*c, silence));
}

/* What the library has found. Times are what is left of them. */
typedef struct found {
    zc_view view; /* let go with zcpy_done(); without a pin, its data are a block of their own */
    uintptr_t deps; /* a set: free with zcpy_release() */
    uint64_t begin, left, hard, tti;
} found;

/* A set of these tags, whose references are the set's from now on. */
static int set_of_tags(core *c, zc_tag *const *tags, size_t n, uintptr_t *handle) {
    if (n == 0) {
        *handle = zcpy_nothing(c);
        return ZC_OK;
    }
    set *s = n == 1 ? NULL : (set *)malloc(sizeof *s + n * sizeof s->tags[0]);
    if (!s && n > 1) return ZC_E_NOMEM;
    if (s) {
        memcpy(s->tags, tags, n * sizeof *tags);
        s->n = n;
    }
    *handle = s ? (uintptr_t)s | 1 : (uintptr_t)tags[0];
    (void)zc__atomic_add_rlx(&c->refs, 1u);
    return ZC_OK;
}

static int set_of_entry(core *c, const zc__entry *e, uintptr_t *handle) {
    zc_tag *const *tags = zc__entry_deps(e);
    int rc = set_of_tags(c, tags, e->ndeps, handle);
    for (size_t i = 0; i < e->ndeps && rc == ZC_OK; i++) zc__tag_ref(tags[i]);
    return rc;
}

static uint64_t left_of(uint64_t at, uint64_t now) {
    return at == ZC_NEVER ? ZC_NEVER : at > now ? at - now : 0;
}

static int describe_found(core *c, found *out) {
    zc__entry *e = (zc__entry *)out->view.pin;
    zc__shard *s = zc__shard_of(c->cache, zc__entry_hash(c->cache, e));
    uint64_t now = zc__now(c->cache), expires;
    zc__spin_lock(&s->lock);
    out->begin = e->begin;
    expires = e->expires;
    zc__spin_unlock(&s->lock);
    out->left = out->hard = left_of(expires, now);
    if (e->flags & ZC__EXTRAS) {
        const zc__extras *x = zc__entry_extras(e);
        out->hard = left_of(x->hard, now);
        out->tti = x->tti == ZC_NEVER ? 0 : x->tti;
    }
    return set_of_entry(c, e, &out->deps);
}

/* A look-up in the storage has taken so long. */
static void took(core *c, uint64_t ns) {
    uint64_t was = zc__atomic_load_rlx(&c->latency);
    zc__atomic_store_rlx(&c->latency, was ? was - was / 8 + ns / 8 : ns);
}

/* ---- a record as the storage has it ---- */

typedef struct shown {
    core *c;
    zc_bytes key;
    zc_record record;
    zc_tag **nodes;
    size_t n;
    uint64_t begin;
    void *value;
    bool stays; /* a value that is not packed is not copied: it begins there in the record, */
    size_t at;
    int rc; /* ZC_MORE: nothing was shown that can be taken so */
} shown;

#ifdef ZOOCACHE_WITH_LMDB
static bool is_mapped(const zc_cache *cache) { return cache->desc.store.get == zc__lmdb_store_get; }

#  define ZCPY_STEP (1u << 20) /* bytes that are copied at once */

/* Pages of the file do not stay in the process for having been read: a large value would count
 * twice. */
static void let_pages_go(zc_bytes file) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)file.ptr;
    uintptr_t end = (from + file.len) / page * page;
    from = (from + page - 1) / page * page;
    if (from < end) (void)madvise((void *)from, end - from, MADV_DONTNEED);
}

static void copy_from_file(unsigned char *to, const unsigned char *from, size_t len) {
    if (len >= ZCPY_STEP) let_pages_go(zc_slice(from, len)); /* the checksum was read */
    while (len) {
        size_t n = len < ZCPY_STEP ? len : ZCPY_STEP;
        memcpy(to, from, n);
        if (n == ZCPY_STEP) let_pages_go(zc_slice(from, n));
        to += n, from += n, len -= n;
    }
}
#else
static bool is_mapped(const zc_cache *cache) { return (void)cache, false; }
static void copy_from_file(unsigned char *to, const unsigned char *from, size_t len) {
    memcpy(to, from, len);
}
#endif

#define ZCPY_HUGE ((size_t)2 << 20)

/* Room for a value, to be freed with free(). A large one lies on huge pages, where there are any: it
 * takes longer to be given that many small ones than to fill them. */
static void *room_for(size_t len) {
#ifdef ZC__PAGES
    void *room;
    if (len >= 2 * ZCPY_HUGE) {
        if (posix_memalign(&room, ZCPY_HUGE, len) != 0) return NULL;
        (void)madvise(room, len / ZCPY_HUGE * ZCPY_HUGE, MADV_HUGEPAGE); /* whole ones alone */
        return room;
    }
#endif
    return malloc(len ? len : 1);
}

/* Holds the tags of a record, and judges it by them. */
static int judge_shown(shown *w, const zc__record_body *body, zc_bytes *deps) {
    zc_cache *cache = w->c->cache;
    const zc_record *r = &w->record;
    int rc = ZC_OK;
    if (!zc__record_deps(body, r->ndeps, deps)) return ZC_MORE;
    if (r->expires_ms && zc__left(r->expires_ms, zc__wall_ms(cache)) == 0) return ZC_MISS;
    for (; w->n < r->ndeps && rc == ZC_OK; w->n += rc == ZC_OK)
        rc = zc__tag_get(cache, deps[w->n], true, &w->nodes[w->n]);
    if (rc != ZC_OK) return ZC_MORE;
    return zc__store_judge(cache, r, w->nodes, w->n, &w->begin);
}

/* Takes the record if it is good, and copies its value: once. False: it is not for this. */
static bool take_shown(void *user, zc_bytes bytes) {
    shown *w = (shown *)user;
    zc_record *r = &w->record;
    zc__record_body body;
    if (w->rc != ZC_MORE || zc__record_open(bytes, UINT32_MAX / 2, r, &body) != ZC_OK || r->absent ||
        r->key.len != w->key.len || memcmp(r->key.ptr, w->key.ptr, w->key.len) != 0)
        return false;
    size_t len = r->value.len;
    zc_bytes *deps = (zc_bytes *)malloc(r->ndeps * sizeof *deps + 1);
    w->nodes = (zc_tag **)malloc(r->ndeps * sizeof *w->nodes + 1);
    if (deps && w->nodes) w->rc = judge_shown(w, &body, deps);
    free(deps);
    if (w->rc == ZC_OK && w->stays && !body.packed) {
        w->at = (size_t)((const char *)body.value - (const char *)bytes.ptr);
        return true;
    }
    if (w->rc == ZC_OK && !(w->value = room_for(len))) w->rc = ZC_MORE;
    if (w->rc != ZC_OK) return w->rc != ZC_MORE;
    if (body.packed) w->rc = zc__record_unpack(&body, w->value, len) ? ZC_OK : ZC_MORE;
    else if (is_mapped(w->c->cache)) copy_from_file((unsigned char *)w->value, body.value, len);
    else if (len) memcpy(w->value, body.value, len);
    return w->rc == ZC_OK;
}

/* Has the library's own table, or somebody who writes it, what the storage may not have yet? */
static bool is_ahead(zc_cache *cache, zc_bytes key) {
    uint64_t hash = zc__hash(key, cache->seed);
    zc__shard *s = zc__shard_of(cache, hash);
    zc__spin_lock(&s->lock);
    bool ahead = cache->behind || zc__shard_find(s, hash, key) || zc__writer_of(s->writers, hash);
    zc__spin_unlock(&s->lock);
    return ahead;
}

/* Describes what was taken, whose references become the set's. */
static int describe_shown(shown *w, found *out) {
    zc_cache *cache = w->c->cache;
    const zc_record *r = &w->record;
    int rc = set_of_tags(w->c, w->nodes, w->n, &out->deps);
    if (rc != ZC_OK) return rc;
    out->view.data = w->value;
    out->view.size = r->value.len;
    out->begin = w->begin;
    out->hard = zc__left(r->expires_ms, zc__wall_ms(cache));
    if (cache->desc.store_ttl && cache->desc.ttl < out->hard) out->hard = cache->desc.ttl;
    out->tti = zc__mul_sat(r->tti_ms, ZC_MILLISECOND);
    out->left = out->tti && out->tti < out->hard ? out->tti : out->hard;
    w->value = NULL;
    w->n = 0;
    zc__count(&cache->hits_store, 1);
    zc__store_used(cache, w->key, r);
    return ZC_OK;
}

/* May a key be looked up in the storage, past flights and table, which Python has? */
static bool may_show(core *c, zc_bytes key, int silence, uint64_t *lease, uint32_t *epoch) {
    zc_cache *cache = c->cache;
    return zc__bus_on(cache) && zc__has_store(cache) && key.len <= ZC_KEY_MAX &&
           !is_ahead(cache, key) && zc__bus_gate(cache, (zc_silence)silence, lease) == ZC_OK &&
           zc__store_up(cache, epoch);
}

/* The storage was asked, and what it has shown was taken, with this result. ZC_OK: *out is filled;
 * ZC_MORE: it takes the usual way. */
static int end_shown(shown *w, int rc, uint64_t lease, found *out) {
    zc_cache *cache = w->c->cache;
    bool there = rc == ZC_OK;
    if (there) rc = w->rc;
    if (rc == ZC_OK && !zc__bus_holds(cache, lease)) rc = ZC_MISS;
    if (rc == ZC_OK && describe_shown(w, out) != ZC_OK) rc = ZC_MORE;
    if (rc == ZC_MISS) zc__count(&cache->store_stale, there);
    if (rc < 0) {
        zc__store_fault(cache, w->key, rc);
        if (!zc__seal_refuses(cache, rc)) rc = ZC_MISS;
    }
    while (w->n) zc__tag_unref(&cache->trie, w->nodes[--w->n]);
    free(w->nodes);
    free(w->value);
    return rc;
}

static void begin_shown(shown *w, core *c, zc_bytes key) {
    memset(w, 0, sizeof *w);
    w->c = c;
    w->key = key;
    w->rc = ZC_MORE;
}

/* Looks a key up. A record is judged, and its value copied, where it is in the storage's file; else
 * when the call is over, as one of Python's has the interpreter's lock. */
static int find_shown(core *c, zc_bytes key, int silence, found *out) {
    const zc_store *st = &c->cache->desc.store;
    zc_sink sink;
    shown w;
    uint64_t lease;
    uint32_t epoch;
    if (!may_show(c, key, silence, &lease, &epoch)) return ZC_MORE;
    begin_shown(&w, c, key);
    zc__sink_init(&sink, c->cache);
    if (is_mapped(c->cache)) sink.take = take_shown;
    sink.user = &w;
    int rc = zc__store_outcome(c->cache, epoch, st->get(st->user, key, &sink));
    if (rc == ZC_OK && !sink.take) (void)take_shown(&w, zc_slice(sink.buf.ptr, sink.buf.size));
    else if (rc == ZC_OK && sink.buf.size) w.rc = ZC_MORE;
    rc = end_shown(&w, rc, lease, out);
    zc__buf_free(&c->cache->mem, &sink.buf);
    return rc;
}

/* A look-up in a place in Python, which asks it by itself, between two calls. */
typedef struct look {
    found found;
    core *inside; /* it is there until the look-up is over */
    zc_bytes key;
    uint64_t lease, began;
    size_t at; /* where the value is in the record; 0: it is in found.view */
    uint32_t epoch;
    char name[ZC_PLACE_KEY + 1]; /* of the record */
} look;

static int look_begin(core *c, zc_bytes key, int silence, look *k) {
    const zc_store *st = &c->cache->desc.store;
    zc_bytes name;
    shown w;
    if (st->get != zc__place_get || !may_show(c, key, silence, &k->lease, &k->epoch)) return ZC_MORE;
    k->key = key;
    k->began = zc__mono(&c->cache->clock);
    int rc = zc__place_record((zc__place *)st->user, key, k->name, &name);
    rc = zc__store_outcome(c->cache, k->epoch, rc);
    if (rc == ZC_OK) return k->name[name.len] = '\0', ZC_OK;
    begin_shown(&w, c, key);
    return end_shown(&w, rc, k->lease, &k->found);
}

/* The look-up is over, or given up. */
ZCPY_API void zcpy_look_leave(look *k) {
    core *c = k->inside;
    k->inside = NULL;
    if (c && !c->left_behind) leave(c);
}

/* ZC_OK: k->name is to be asked for, and what comes of it to be given to zcpy_look_end(). Else as
 * zcpy_find(), which is to be asked if it is ZC_MORE. The key stays where it is. */
ZCPY_API int zcpy_look_begin(core *c, const char *key, size_t len, int silence, look *k) {
    if (!enter(c)) return ZC_MISS;
    k->inside = c;
    int rc = look_begin(c, zc_slice(key, len), silence, k);
    if (rc != ZC_OK) zcpy_look_leave(k);
    return rc;
}

ZCPY_API int zcpy_look_end(look *k, const char *record, size_t size, int rc) {
    core *c = k->inside;
    shown w;
    begin_shown(&w, c, k->key);
    w.stays = true;
    rc = zc__store_outcome(c->cache, k->epoch, rc);
    if (rc == ZC_OK) (void)take_shown(&w, zc_slice(record, size));
    rc = end_shown(&w, rc, k->lease, &k->found);
    k->at = w.at;
    if (rc != ZC_MORE) took(c, zc__mono(&c->cache->clock) - k->began);
    zcpy_look_leave(k);
    return rc;
}

/* Looks a key up: in the storage, if need be. ZC_OK, ZC_STALE (the bus is silent): *out is filled.
 * ZC_MISS, or a negative code. */
static int find(core *c, const char *key, size_t len, int silence, found *out) {
    zc_fetch_opts opts;
    zc_fill *ticket;
    memset(out, 0, sizeof *out);
    memset(&opts, 0, sizeof opts);
    opts.silence = (zc_silence)silence;
    uint64_t began = zc__mono(&c->cache->clock);
    bool asked = zc__has_store(c->cache) && !zc__store_is_open(c->cache);
    int shown = find_shown(c, zc_slice(key, len), silence, out);
    if (shown != ZC_MORE) {
        took(c, zc__mono(&c->cache->clock) - began);
        return shown;
    }
    int rc = zc_flight_begin(c->cache, zc_slice(key, len), &opts, &out->view, &ticket);
    zc_flight_abandon(ticket, 0); /* Python has flights of its own */
    if (asked) took(c, zc__mono(&c->cache->clock) - began);
    if (rc != ZC_OK && rc != ZC_STALE) return rc < 0 ? rc : ZC_MISS;
    int described = describe_found(c, out);
    if (described == ZC_OK) return rc;
    zc_release(c->cache, &out->view);
    return described;
}

ZCPY_API int zcpy_find(core *c, const char *key, size_t len, int silence, found *out) {
    INSIDE(c, int, ZC_MISS, find(c, key, len, silence, out));
}

ZCPY_API void zcpy_done(core *c, found *out) {
    if (out->view.pin) zc_release(c->cache, &out->view);
    else free((void *)(uintptr_t)out->view.data);
}

/* The same for n keys, in one step where the storage can. rcs[i]: as zcpy_find() would return. */
static int find_many(core *c, const zc_bytes *keys, size_t n, found *out, int *rcs) {
    zc_view *views = (zc_view *)malloc(n * sizeof *views);
    if (!views) return ZC_E_NOMEM;
    memset(out, 0, n * sizeof *out);
    int rc = zc_get_many(c->cache, keys, n, views, rcs);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        if (rcs[i] != ZC_OK && rcs[i] != ZC_STALE) continue;
        out[i].view = views[i];
        if (describe_found(c, &out[i]) == ZC_OK) continue;
        zc_release(c->cache, &out[i].view);
        rcs[i] = ZC_MISS;
    }
    free(views);
    return rc;
}

ZCPY_API int zcpy_find_many(core *c, const zc_bytes *keys, size_t n, found *out, int *rcs) {
    INSIDE(c, int, ZC_E_CLOSED, find_many(c, keys, n, out, rcs));
}

/* Stores a value that was begun at `begin`. ZC_REFUSED: invalidated since. ZC_E_FULL: the storage has
 * no room for it. In several parts, it is for the storage alone. */
static int keep(core *c, const char *key, size_t len, const zc_bytes *parts, size_t n,
                uintptr_t deps, uint64_t begin, uint64_t ttl, uint64_t tti, int plain) {
    zc_tag *one = (zc_tag *)deps;
    span s = SPAN(deps, one);
    zc_put_opts opts;
    memset(&opts, 0, sizeof opts);
    opts.begin = begin;
    opts.ttl = ttl;
    opts.tti = tti;
    opts.plain = plain != 0;
    if (s.tags[0]->parent) { /* not the empty set */
        opts.tags = s.tags;
        opts.ntags = s.n;
    }
    fault = 0;
    int rc = n == 1 ? zc_put(c->cache, zc_slice(key, len), parts[0], &opts)
                    : zc_put_parts(c->cache, zc_slice(key, len), parts, n, &opts);
    return fault == ZC_E_FULL ? fault : rc;
}

ZCPY_API int zcpy_keep(core *c, const char *key, size_t len, const zc_bytes *parts, size_t n,
                       uintptr_t deps, uint64_t begin, uint64_t ttl, uint64_t tti, int plain) {
    INSIDE(c, int, ZC_E_CLOSED, keep(c, key, len, parts, n, deps, begin, ttl, tti, plain));
}

/* Removes a key here and in the storage. */
ZCPY_API int zcpy_drop(core *c, const char *key, size_t len) {
    INSIDE(c, int, ZC_E_CLOSED, zc_del(c->cache, zc_slice(key, len)));
}

/* One loader in the fleet: as zc_store.lock and unlock, through the breaker. */
static int lock(core *c, const char *key, size_t len, uint64_t lease, uint64_t *token) {
    const zc_store *st = &c->cache->desc.store;
    uint32_t epoch;
    if (!st->lock || !zc__store_up(c->cache, &epoch)) return ZC_E_STORE;
    return zc__store_outcome(c->cache, epoch, st->lock(st->user, zc_slice(key, len), lease, token));
}

ZCPY_API int zcpy_lock(core *c, const char *key, size_t len, uint64_t lease, uint64_t *token) {
    INSIDE(c, int, ZC_E_CLOSED, lock(c, key, len, lease, token));
}

static int unlock(core *c, const char *key, size_t len, uint64_t token) {
    const zc_store *st = &c->cache->desc.store;
    uint32_t epoch;
    if (!zc__store_up(c->cache, &epoch)) return ZC_E_STORE;
    return zc__store_outcome(c->cache, epoch, st->unlock(st->user, zc_slice(key, len), token));
}

ZCPY_API int zcpy_unlock(core *c, const char *key, size_t len, uint64_t token) {
    INSIDE(c, int, ZC_E_CLOSED, unlock(c, key, len, token));
}

ZCPY_API uint64_t zcpy_token(core *c) {
    INSIDE(c, uint64_t, 0, zc_token(c->cache));
}

static int catch_up(core *c, uint64_t token, uint64_t timeout) {
    int rc = zc_catch_up(c->cache, token, timeout);
    change(c->home); /* attaching anew, it dropped everything without an event */
    return rc;
}

ZCPY_API int zcpy_catch_up(core *c, uint64_t token, uint64_t timeout) {
    INSIDE(c, int, ZC_E_CLOSED, catch_up(c, token, timeout));
}

static void stats_read(core *c, zc_stats *out) {
    memset(out, 0, sizeof *out);
    if (!enter(c)) return;
    zc_stats_read(c->cache, out);
    leave(c);
}

/* {hits, errors, corrupt, stale, spared, epoch of the breaker; heard, breaks, errors, silent,
 * pending, age; latency, last fault} */
ZCPY_API void zcpy_shared_stats(core *c, uint64_t out[16]) {
    zc_stats s;
    stats_read(c, &s);
    const uint64_t all[16] = {
        s.hits_store,    s.store_errors, s.store_corrupt, s.store_stale,
        s.store_forged,  s.store_unkeyed, s.store_skipped, zc__store_epoch(c->cache), s.bus_entries,
        s.bus_breaks,    s.bus_errors,   s.bus_silent,    s.bus_pending,
        s.bus_age,       zc__atomic_load_rlx(&c->latency), zc__atomic_load_rlx(&c->last_fault)};
    memcpy(out, all, sizeof all);
}

/* ---- what a node tells, and is asked; Redis, asked directly ---- */

/* The facts that the node's next beats tell. */
ZCPY_API void zcpy_tell(const core *c, const char *facts, size_t size) {
    char *text = (char *)malloc(size + 1);
    if (!text) return;
    memcpy(text, facts, size);
    zc__spin_lock(&c->news->lock);
    char *old = c->news->facts;
    c->news->facts = text;
    c->news->size = size;
    zc__spin_unlock(&c->news->lock);
    free(old);
}

/* The oldest question, a text to be freed with zcpy_free(); NULL: there is none. */
ZCPY_API char *zcpy_asked(const core *c) {
    news *w = c->news;
    zc__spin_lock(&w->lock);
    char *text = w->nasked ? w->asked[0] : NULL;
    if (text) memmove(w->asked, w->asked + 1, --w->nasked * sizeof *w->asked);
    zc__spin_unlock(&w->lock);
    return text;
}

ZCPY_API void zcpy_free(void *ptr) { free(ptr); }

/* The text of replies: each a sign, a number, a line feed. '_' nothing, ':' the number, '$' a text of
 * so many bytes, which follow, '-' the same of an error, '*' a list of so many replies. */
typedef struct replies {
    char *ptr;
    size_t size, cap;
    bool failed;
} replies;

#ifdef ZOOCACHE_WITH_REDIS
static void replies_add(replies *t, const void *ptr, size_t n) {
    if (t->failed || !n) return;
    if (t->size + n > t->cap) {
        size_t cap = 2 * (t->size + n);
        char *grown = (char *)realloc(t->ptr, cap);
        t->failed = !grown;
        if (!grown) return;
        t->ptr = grown;
        t->cap = cap;
    }
    memcpy(t->ptr + t->size, ptr, n);
    t->size += n;
}

static void replies_head(replies *t, char sign, long long n) {
    char line[32];
    int len = snprintf(line, sizeof line, "%c%lld\n", sign, n);
    replies_add(t, line, (size_t)len);
}

static void replies_write(replies *t, const redisReply *reply) {
    if (!reply || reply->type == REDIS_REPLY_NIL) {
        replies_head(t, '_', 0);
    } else if (reply->type == REDIS_REPLY_ARRAY || (reply->elements && reply->element)) {
        replies_head(t, '*', (long long)reply->elements);
        for (size_t i = 0; i < reply->elements; i++) replies_write(t, reply->element[i]);
    } else if (reply->str) {
        replies_head(t, reply->type == REDIS_REPLY_ERROR ? '-' : '$', (long long)reply->len);
        replies_add(t, reply->str, reply->len);
    } else {
        replies_head(t, ':', reply->integer);
    }
}

/* Sends commands, whose words stand one after the other; the last of command i ends before ends[i]. */
static int redis_ask(zc__redis *r, const zc_bytes *words, const size_t *ends, size_t n, replies *out) {
    zc__redis_req q;
    size_t word = 0;
    if (n > ZC__REDIS_CMDS) return ZC_E_INVAL;
    zc__req_init(r, &q);
    for (size_t i = 0; i < n; i++) {
        for (; word < ends[i]; word++) zc__req_arg(&q, words[word].ptr, words[word].len);
        zc__req_end(&q);
    }
    int rc = q.failed ? ZC_E_NOMEM : zc__redis_call(r, &q, 0, 0);
    for (size_t i = 0; i < n && rc == ZC_OK; i++) replies_write(out, q.reply[i]);
    zc__req_free(&q);
    return rc == ZC_OK && out->failed ? ZC_E_NOMEM : rc;
}
#endif

static int node_ask(const core *c, const zc_bytes *words, const size_t *ends, size_t n, replies *out) {
#ifdef ZOOCACHE_WITH_REDIS
    if (is_redis(c)) return redis_ask((zc__redis *)c->cache->desc.bus.user, words, ends, n, out);
#endif
    (void)c, (void)words, (void)ends, (void)n, (void)out;
    return ZC_E_BUILD;
}

/* Over the connections of a node's bus. out->ptr is to be freed with zcpy_free(), whatever comes. */
ZCPY_API int zcpy_node_ask(core *c, const zc_bytes *words, const size_t *ends, size_t n, replies *out) {
    INSIDE(c, int, ZC_E_CLOSED, node_ask(c, words, ends, n, out));
}

/* What the node is called there; 0: nothing. */
ZCPY_API uint64_t zcpy_node(const core *c) {
#ifdef ZOOCACHE_WITH_REDIS
    if (is_redis(c)) return ((const zc__redis *)c->cache->desc.bus.user)->node;
#endif
    (void)c;
    return 0;
}

/* A server that is asked, and no node. */
typedef struct server {
    zc_bus bus;
    news news;
} server;

ZCPY_API server *zcpy_server_open(options *o, int *rc) {
    server *s = (server *)calloc(1, sizeof *s);
    zc_log log = {1, on_log, NULL};
    *rc = ZC_E_NOMEM;
    if (!s) return NULL;
    log.user = &s->news;
    *rc = is_lmdb(o->bus) ? ZC_E_INVAL : open_url(o, &log, o->bus, NULL, &s->bus);
    if (*rc == ZC_OK) return s;
    (void)news_take(&s->news, o->why);
    free(s);
    return NULL;
}

ZCPY_API int zcpy_server_ask(server *s, const zc_bytes *words, const size_t *ends, size_t n,
                             replies *out, char why[ZCPY_LINE]) {
    int rc = ZC_E_BUILD;
#ifdef ZOOCACHE_WITH_REDIS
    rc = redis_ask((zc__redis *)s->bus.user, words, ends, n, out);
#else
    (void)words, (void)ends, (void)n, (void)out;
#endif
    if (s->bus.report) s->bus.report(s->bus.user);
    for (why[0] = '\0'; news_take(&s->news, why);) continue; /* the last that was said */
    return rc;
}

ZCPY_API void zcpy_server_close(server *s) {
    s->bus.close(s->bus.user);
    free(s);
}

/* In the child of a fork: the sockets and files of the parent are let go of, and so is the rest, as
 * threads of the parent may have been in the middle of it. */
ZCPY_API void zcpy_leave_behind(core *c) {
    const zc_desc *d = &c->cache->desc;
    bool open = zc__atomic_load_rlx(&c->uses) != 0;
    c->left_behind = true;
    memset(&c->news->lock, 0, sizeof c->news->lock);
    if (!open) return;
    if (d->store.forked) d->store.forked(d->store.user);
    if (d->bus.forked) d->bus.forked(d->bus.user);
    if (d->store.forked) d->store.close(d->store.user);
    if (d->bus.forked) d->bus.close(d->bus.user);
}

/* A sink's other end: where a storage in Python puts what it has read. */
ZCPY_API int zcpy_sink(zc_sink *sink, const char *data, size_t len) {
    return zc_sink_write(sink, data, len);
}

/* Forgets some of the tags that nothing has depended on for an hour. */
ZCPY_API int zcpy_poll(core *c) {
    INSIDE(c, int, ZC_E_CLOSED, zc_poll(c->cache, 200 * ZC_MICROSECOND));
}

ZCPY_API size_t zcpy_prune(core *c, uint64_t max_age) {
    INSIDE(c, size_t, 0, zc_prune(c->cache, max_age));
}

/* The version of a tag that zcpy_tag_ok() has passed. */
static uint64_t version_of(core *c, const char *tag, size_t len) {
    uint64_t version;
    return zc_tag_version(c->cache, zc_slice(tag, len), &version) == ZC_OK ? version : 0;
}

ZCPY_API uint64_t zcpy_version(core *c, const char *tag, size_t len) {
    INSIDE(c, uint64_t, 0, version_of(c, tag, len));
}

/* {invalidations, tags, idle tags, bytes of tags, tags pruned} */
ZCPY_API void zcpy_stats(core *c, uint64_t out[5]) {
    zc_stats s;
    stats_read(c, &s);
    out[0] = s.invalidations;
    out[1] = s.tags;
    out[2] = s.tags_idle;
    out[3] = s.tag_bytes;
    out[4] = s.tags_pruned;
}

ZCPY_API uint64_t zcpy_hash(const char *data, size_t len) { return zc__hash(zc_slice(data, len), 0); }

ZCPY_API const char *zcpy_library_version(void) { return ZOOCACHE_VERSION; }
