/* The shared library of the Python package: zoocache.h, and a few flat functions over it that ctypes
 * calls with nothing but pointers, lengths and numbers.
 *
 *   Idea     Values and keys stay in Python; the tag trie, the versions and the one rule are the
 *            library's. A *set* is what an entry depends on: one interned tag, or a block of them
 *            with the lowest bit of its address set. The empty set is the root.
 *   Words    Python owns an array of 64-bit words and hands it over once (zcpy_attach). A cached call
 *            compares words[CHANGES] with what it was when its entry was last checked, so a hit needs
 *            no call into this file. Whatever can make an entry unfit changes that word afterwards:
 *            an invalidation once it is published, and, while entries with a deadline are being read,
 *            a tick every few milliseconds.
 *   Ticker   One thread a process, asleep while no entry with a deadline is read. Falling asleep, it
 *            sets words[PERIOD] to 0 and then changes words[CHANGES] once more: a reader that saw it
 *            awake checks again at its next call, and wakes it.
 */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#  define _POSIX_C_SOURCE 200809L
#endif
#ifdef _WIN32
#  define ZCPY_API __declspec(dllexport)
#else
#  define ZOOCACHE_PTHREADS
#  define ZCPY_API __attribute__((visibility("default")))
#endif
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

enum { CHANGES, PERIOD, WANTED };

#define ZCPY_TAG_MAX 256u /* bytes of a tag, as the package has always had it */
#define ZCPY_TICK_MAX (50 * ZC_MILLISECOND)

static uint64_t *words;

static void change(void) { (void)zc__add_rlx(&words[CHANGES], 1u); }

static void on_event(void *user, const zc_event *event) {
    (void)user;
    (void)event;
    __atomic_fetch_add(&words[CHANGES], 1, __ATOMIC_RELEASE);
}

/* ---- the ticker ---- */

static struct {
    zc__monitor monitor;
    zc__thread thread;
    bool ready, running;
} ticker;

ZC__THREAD_FN(tick_main, arg) {
    unsigned ticks = 0, idle = 0;
    (void)arg;
    zc__monitor_lock(&ticker.monitor);
    for (;;) {
        uint64_t period = zc__load_rlx(&words[PERIOD]);
        if (!period) {
            zc__monitor_sleep(&ticker.monitor, ZC_SECOND);
            continue;
        }
        zc__monitor_sleep(&ticker.monitor, period);
        idle = zc__load_rlx(&words[WANTED]) ? 0 : idle + 1;
        zc__store_rlx(&words[WANTED], 0u);
        if (idle > 20) {
            zc__store_rel(&words[PERIOD], 0u);
            idle = 0;
        } else if (++ticks % 256 == 0) {
            zc__store_rel(&words[PERIOD], ZCPY_TICK_MAX); /* who wants it shorter says so again */
        }
        __atomic_fetch_add(&words[CHANGES], 1, __ATOMIC_RELEASE);
    }
    return ZC__THREAD_RESULT; /* not reached */
}

/* Ticks at least every `period` ns from now on. False: no thread could be started. */
ZCPY_API int zcpy_tick(uint64_t period) {
    bool ok = true;
    if (period > ZCPY_TICK_MAX) period = ZCPY_TICK_MAX;
    if (period < ZC_MILLISECOND) period = ZC_MILLISECOND;
    if (!ticker.ready) return 0;
    zc__monitor_lock(&ticker.monitor);
    uint64_t now = zc__load_rlx(&words[PERIOD]);
    zc__store_rlx(&words[WANTED], 1u);
    if (!now || now > period) zc__store_rel(&words[PERIOD], period);
    if (!ticker.running) {
        ok = zc__thread_start(&ticker.thread, tick_main, NULL);
        ticker.running = ok;
        if (!ok) zc__store_rel(&words[PERIOD], 0u);
    }
    zc__monitor_wake(&ticker.monitor);
    zc__monitor_unlock(&ticker.monitor);
    return ok;
}

ZCPY_API void zcpy_change(void) { change(); }

/* Takes over the words; once a process. */
ZCPY_API int zcpy_attach(uint64_t *memory) {
    words = memory;
    ticker.ready = zc__monitor_init(&ticker.monitor);
    return ticker.ready;
}

/* In the child of a fork. */
ZCPY_API void zcpy_fork_child(void) {
    ticker.running = false; /* threads stay behind */
    ticker.ready = zc__monitor_init(&ticker.monitor);
    words[PERIOD] = 0;
    change();
}

/* ---- tags ---- */

/* The package's syntax is narrower than the library's: see _tags.py, which explains refusals. */
static bool tag_ok(const unsigned char *s, size_t n) {
    unsigned depth = 1;
    if (n == 0 || n > ZCPY_TAG_MAX) return false;
    if (strchr(":./", s[0]) || strchr(":./", s[n - 1])) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = s[i];
        if (c <= ' ' || c == '|' || c == 0x7f) return false;
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

typedef struct core {
    zc_cache *cache;
    uint64_t refs; /* the handle that Python has, and one for each set: they are freed in any order */
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

ZCPY_API void zcpy_close(core *c) {
    if (zc__sub_acqrel(&c->refs, 1u) != 1) return;
    zc_close(c->cache);
    free(c);
}

ZCPY_API void zcpy_release(uintptr_t handle) {
    zc_tag *one = (zc_tag *)handle;
    span s = SPAN(handle, one);
    zc_cache *cache = cache_of(s.tags[0]);
    for (size_t i = 0; i < s.n; i++) zc_tag_release(cache, s.tags[i]);
    if (handle & 1) free(set_of(handle));
    zcpy_close((core *)cache->desc.events.user);
}

/* The set of the tags in `text`. Free with zcpy_release(). -1: a tag is no good. -2: no memory. */
ZCPY_API intptr_t zcpy_set(core *c, const char *text, int len) {
    zc_bytes rest = zc_slice(text, (size_t)len), tag;
    int64_t n = tags_count(rest);
    zc_tag *node;
    set *s;
    if (n < 0) return -1;
    if (n == 1) {
        if (zc_tag_intern(c->cache, rest, &node) != ZC_OK) return -2;
        (void)zc__add_rlx(&c->refs, 1u);
        return (intptr_t)node;
    }
    s = (set *)malloc(sizeof *s + (size_t)n * sizeof s->tags[0]);
    if (!s) return -2;
    for (s->n = 0; tag_next(&rest, &tag); s->n++) {
        if (zc_tag_intern(c->cache, tag, &s->tags[s->n]) == ZC_OK) continue;
        while (s->n) zc_tag_release(c->cache, s->tags[--s->n]);
        free(s);
        return -2;
    }
    (void)zc__add_rlx(&c->refs, 1u);
    return (intptr_t)((uintptr_t)s | 1);
}

/* The empty set: the root, so only clearing everything kills it. Free with zcpy_release(). */
ZCPY_API uintptr_t zcpy_nothing(core *c) {
    zc__tag_ref(&c->cache->trie.root);
    (void)zc__add_rlx(&c->refs, 1u);
    return (uintptr_t)&c->cache->trie.root;
}

/* The one rule needs one number: the newest version on the paths of the tags, published. */
ZCPY_API uint64_t zcpy_newest(uintptr_t handle) {
    zc_tag *one = (zc_tag *)handle;
    const zc_tag *who = NULL;
    uint64_t newest = 0;
    span s = SPAN(handle, one);
    for (size_t i = 0; i < s.n; i++) {
        uint64_t v = zc__tag_newest(s.tags[i], &who);
        if (v > newest) newest = v;
    }
    if (newest) {
        const zc__trie *trie = &cache_of(s.tags[0])->trie;
        while (zc__seen(trie) < newest) zc__yield(); /* its writer is between stamp and publish */
    }
    return newest;
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

ZCPY_API core *zcpy_open(void) {
    zc_desc desc;
    core *c = (core *)malloc(sizeof *c);
    if (!c) return NULL;
    c->refs = 1;
    memset(&desc, 0, sizeof desc);
    desc.shards = 1;
    desc.no_thread = true;
    desc.events.version = 1;
    desc.events.mask = ZC_EVENT_INVALIDATED;
    desc.events.on_event = on_event;
    desc.events.user = c;
    if (zc_open(&desc, &c->cache) == ZC_OK) return c;
    free(c);
    return NULL;
}

/* The cache itself, for code in C that invalidates what Python has cached. */
ZCPY_API zc_cache *zcpy_cache(const core *c) { return c->cache; }

/* Round fork(), where other threads may be in here at that moment: not where the interpreter has one
 * lock for all, which its callers hold. There a lock of ours that is held from hook to hook would
 * stop a thread that holds the interpreter's. */
ZCPY_API void zcpy_core_prepare(const core *c) { zc_fork_prepare(c->cache); }
ZCPY_API void zcpy_core_parent(const core *c) { zc_fork_parent(c->cache); }
ZCPY_API void zcpy_core_child(const core *c) { (void)zc_fork_child(c->cache); }

/* Where the version of the latest published invalidation stands. */
ZCPY_API const uint64_t *zcpy_seen(const core *c) { return &c->cache->trie.seen; }

/* Invalidates the tags in `text` in one step. 0, -1: a tag is no good, nothing was done; -2. */
ZCPY_API int zcpy_invalidate(core *c, const char *text, int len) {
    zc_bytes rest = zc_slice(text, (size_t)len), *tags;
    int64_t n = tags_count(rest);
    if (n < 0) return -1;
    if (n == 1) return zc_invalidate(c->cache, rest) == ZC_OK ? 0 : -2;
    tags = (zc_bytes *)malloc((size_t)n * sizeof *tags);
    if (!tags) return -2;
    for (int64_t i = 0; i < n; i++) (void)tag_next(&rest, &tags[i]);
    int rc = zc_invalidate_many(c->cache, tags, (size_t)n);
    free(tags);
    return rc == ZC_OK ? 0 : -2;
}

ZCPY_API void zcpy_clear(core *c) { (void)zc_clear(c->cache); }

/* Forgets some of the tags that nothing has depended on for an hour. */
ZCPY_API void zcpy_poll(core *c) { (void)zc_poll(c->cache, 200); }

ZCPY_API size_t zcpy_prune(core *c, uint64_t max_age) { return zc_prune(c->cache, max_age); }

/* The version of a tag that zcpy_tag_ok() has passed. */
ZCPY_API uint64_t zcpy_version(core *c, const char *tag, size_t len) {
    uint64_t version;
    return zc_tag_version(c->cache, zc_slice(tag, len), &version) == ZC_OK ? version : 0;
}

/* {invalidations, tags, idle tags, bytes of tags, tags pruned} */
ZCPY_API void zcpy_stats(core *c, uint64_t out[5]) {
    zc_stats s;
    zc_stats_read(c->cache, &s);
    out[0] = s.invalidations;
    out[1] = s.tags;
    out[2] = s.tags_idle;
    out[3] = s.tag_bytes;
    out[4] = s.tags_pruned;
}

ZCPY_API uint64_t zcpy_hash(const char *data, size_t len) { return zc__hash(zc_slice(data, len), 0); }

ZCPY_API const char *zcpy_library_version(void) { return ZOOCACHE_VERSION; }
