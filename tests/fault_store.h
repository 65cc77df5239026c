/* fault_store.h: a storage in memory that fails when told to. Include it after zc_test.h.
 *
 *   fault_store s;
 *   fs_init(&s);
 *   desc.store = fs_hook(&s, true);      true: it keeps versions, too
 *   s.fail_at = 3;                       the third call from here fails, with s.fail_rc
 *   fs_record *r = fs_find(&s, key);     what is stored; r->data may be damaged at will
 *   fs_destroy(&s);                      when no cache uses it any more
 *
 * Thread-safe. It outlives the caches that use it: closing is only counted. */
#ifndef FAULT_STORE_H
#define FAULT_STORE_H

#include <pthread.h>

enum { FS_GET, FS_PUT, FS_DEL, FS_TOUCH, FS_CLEAR, FS_GENERATION, FS_TAG_PUT, FS_TAG_GET, FS_OPS };

typedef struct fs_record {
    struct fs_record *next;
    unsigned char *key, *data;
    size_t key_len, len;
    uint64_t expires_ms;
} fs_record;

typedef struct fs_tag {
    struct fs_tag *next;
    unsigned char *path;
    size_t len;
    uint64_t version;
} fs_tag;

typedef struct fault_store {
    pthread_mutex_t lock;
    fs_record *records[64];
    fs_tag *tags[64];
    uint64_t generation, latest;
    size_t nrecords;
    /* faults */
    uint64_t calls;             /* of those in `fail_ops`; set it to 0 to start anew */
    uint64_t fail_at, fail_from; /* 0: never */
    uint32_t fail_ops;          /* bits 1 << FS_...; 0: all */
    int fail_rc;                /* default ZC_E_STORE */
    bool torn;                  /* a put that fails leaves half a record behind */
    size_t chunk;               /* get hands the record out in pieces of so many bytes; 0: whole */
    /* what happened */
    uint64_t op_calls[FS_OPS], failed, closes;
    /* called at the start of get, and of put, without the lock */
    void (*on_get)(void *user);
    void *on_get_user;
    void (*on_put)(void *user);
    void *on_put_user;
} fault_store;

static inline void fs_init(fault_store *s) {
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    s->generation = 77;
    s->fail_rc = ZC_E_STORE;
}

static inline unsigned fs_slot(const void *ptr, size_t len) {
    const unsigned char *p = (const unsigned char *)ptr;
    unsigned h = 2166136261u;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 16777619u;
    return h % 64;
}

/* Locks, counts a call, and says whether it is to fail. */
static inline bool fs_enter(fault_store *s, int op) {
    pthread_mutex_lock(&s->lock);
    s->op_calls[op]++;
    if (s->fail_ops && !(s->fail_ops & 1u << op)) return false;
    uint64_t n = ++s->calls;
    bool fail = n == s->fail_at || (s->fail_from && n >= s->fail_from);
    s->failed += fail;
    return fail;
}
static inline int fs_leave(fault_store *s, int rc) {
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static inline fs_record **fs_link(fault_store *s, zc_bytes key) {
    fs_record **at = &s->records[fs_slot(key.ptr, key.len)];
    while (*at && ((*at)->key_len != key.len || memcmp((*at)->key, key.ptr, key.len) != 0))
        at = &(*at)->next;
    return at;
}
static inline fs_record *fs_find(fault_store *s, zc_bytes key) {
    pthread_mutex_lock(&s->lock);
    fs_record *r = *fs_link(s, key);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static inline void fs_remove(fault_store *s, fs_record **at) {
    fs_record *r = *at;
    *at = r->next;
    free(r->key);
    free(r->data);
    free(r);
    s->nrecords--;
}

static inline unsigned char *fs_dup(const void *ptr, size_t len) {
    unsigned char *p = (unsigned char *)malloc(len ? len : 1);
    if (!p) abort();
    if (len) memcpy(p, ptr, len);
    return p;
}

/* Puts bytes of any kind under a key, past the cache. */
static inline void fs_plant(fault_store *s, zc_bytes key, const void *data, size_t len,
                            uint64_t expires_ms) {
    fs_record **at = fs_link(s, key), *r = *at;
    unsigned char *copy = fs_dup(data, len);
    if (!r) {
        r = (fs_record *)calloc(1, sizeof *r);
        if (!r) abort();
        r->key = fs_dup(key.ptr, key.len);
        r->key_len = key.len;
        *at = r;
        s->nrecords++;
    }
    free(r->data);
    r->data = copy;
    r->len = len;
    r->expires_ms = expires_ms;
}

static inline int fs_get(void *user, zc_bytes key, zc_sink *sink) {
    fault_store *s = (fault_store *)user;
    if (s->on_get) s->on_get(s->on_get_user);
    bool fail = fs_enter(s, FS_GET);
    fs_record *r = *fs_link(s, key);
    if (!r) return fs_leave(s, fail ? s->fail_rc : ZC_MISS);
    size_t len = fail ? r->len / 2 : r->len; /* a failure may come in the middle */
    int rc = ZC_OK;
    for (size_t at = 0, n; at < len && rc == ZC_OK; at += n) {
        n = s->chunk && s->chunk < len - at ? s->chunk : len - at;
        rc = zc_sink_write(sink, r->data + at, n);
    }
    return fs_leave(s, fail ? s->fail_rc : rc);
}

static inline int fs_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    fault_store *s = (fault_store *)user;
    if (s->on_put) s->on_put(s->on_put_user);
    bool fail = fs_enter(s, FS_PUT);
    size_t len = fail ? record.len / 2 : record.len;
    if (!fail || s->torn) fs_plant(s, key, record.ptr, len, expires_ms);
    return fs_leave(s, fail ? s->fail_rc : ZC_OK);
}

static inline int fs_del(void *user, zc_bytes key) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_DEL)) return fs_leave(s, s->fail_rc);
    fs_record **at = fs_link(s, key);
    bool found = *at != NULL;
    if (found) fs_remove(s, at);
    return fs_leave(s, found ? ZC_OK : ZC_MISS);
}

static inline int fs_touch(void *user, zc_bytes key, uint64_t expires_ms) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_TOUCH)) return fs_leave(s, s->fail_rc);
    fs_record *r = *fs_link(s, key);
    if (r) r->expires_ms = expires_ms;
    return fs_leave(s, r ? ZC_OK : ZC_MISS);
}

static inline int fs_clear(void *user) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_CLEAR)) return fs_leave(s, s->fail_rc);
    for (unsigned i = 0; i < 64; i++)
        while (s->records[i]) fs_remove(s, &s->records[i]);
    return fs_leave(s, ZC_OK);
}

static inline int fs_generation(void *user, uint64_t *generation, uint64_t *latest) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_GENERATION)) return fs_leave(s, s->fail_rc);
    *generation = s->generation;
    *latest = s->latest;
    return fs_leave(s, ZC_OK);
}

static inline fs_tag *fs_tag_find(fault_store *s, zc_bytes path) {
    fs_tag *t = s->tags[fs_slot(path.ptr, path.len)];
    while (t && (t->len != path.len || memcmp(t->path, path.ptr, path.len) != 0)) t = t->next;
    return t;
}

static inline int fs_tag_put(void *user, const zc_bytes *paths, size_t n, uint64_t version) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_TAG_PUT)) return fs_leave(s, s->fail_rc);
    for (size_t i = 0; i < n; i++) {
        fs_tag *t = fs_tag_find(s, paths[i]);
        if (!t) {
            t = (fs_tag *)calloc(1, sizeof *t);
            if (!t) abort();
            t->path = fs_dup(paths[i].ptr, paths[i].len);
            t->len = paths[i].len;
            t->next = s->tags[fs_slot(t->path, t->len)];
            s->tags[fs_slot(t->path, t->len)] = t;
        }
        if (t->version < version) t->version = version;
    }
    if (s->latest < version) s->latest = version;
    return fs_leave(s, ZC_OK);
}

static inline int fs_tag_get(void *user, const zc_bytes *paths, size_t n, uint64_t *versions) {
    fault_store *s = (fault_store *)user;
    if (fs_enter(s, FS_TAG_GET)) return fs_leave(s, s->fail_rc);
    for (size_t i = 0; i < n; i++) {
        const fs_tag *t = fs_tag_find(s, paths[i]);
        versions[i] = t ? t->version : 0;
    }
    return fs_leave(s, ZC_OK);
}

static inline void fs_close(void *user) {
    fault_store *s = (fault_store *)user;
    pthread_mutex_lock(&s->lock);
    s->closes++;
    pthread_mutex_unlock(&s->lock);
}

static inline zc_store fs_hook(fault_store *s, bool versions) {
    zc_store h;
    memset(&h, 0, sizeof h);
    h.version = 1;
    h.get = fs_get;
    h.put = fs_put;
    h.del = fs_del;
    h.touch = fs_touch;
    h.clear = fs_clear;
    if (versions) {
        h.generation = fs_generation;
        h.tag_put = fs_tag_put;
        h.tag_get = fs_tag_get;
    }
    h.close = fs_close;
    h.user = s;
    return h;
}

/* Counts from here; the n-th call of the kinds in `ops` (0: any) fails, or all from it on. */
static inline void fs_fail(fault_store *s, uint32_t ops, uint64_t at, uint64_t from) {
    pthread_mutex_lock(&s->lock);
    s->calls = s->failed = 0;
    s->fail_ops = ops;
    s->fail_at = at;
    s->fail_from = from;
    pthread_mutex_unlock(&s->lock);
}

static inline void fs_destroy(fault_store *s) {
    for (unsigned i = 0; i < 64; i++) {
        while (s->records[i]) fs_remove(s, &s->records[i]);
        for (fs_tag *t = s->tags[i], *next; t; t = next) {
            next = t->next;
            free(t->path);
            free(t);
        }
    }
    pthread_mutex_destroy(&s->lock);
}

#endif
