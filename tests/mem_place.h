/* mem_place.h: a place in memory that compares and sets, and breaks its promise when told to.
 * Include it after zc_test.h.
 *
 *   mem_place m;
 *   mp_init(&m);
 *   desc.place = mp_hook(&m);
 *   m.fail_at = 3;                the third call from here fails, with m.fail_rc (0: ZC_E_STORE)
 *   m.took = true;                a swap that fails has taken effect all the same
 *   mp_drop(&m, "zoocache.log");  evicted
 *   mp_item *i = mp_find(&m, key);   what is there; its bytes may be damaged at will
 *   mp_destroy(&m);
 *
 * Thread-safe. */
#ifndef MEM_PLACE_H
#define MEM_PLACE_H

#include <pthread.h>

enum { MP_GET, MP_PUT, MP_DEL, MP_READ, MP_SWAP, MP_OPS };

typedef struct mp_item {
    struct mp_item *next;
    char key[ZC_PLACE_KEY + 1];
    unsigned char *data;
    size_t len;
    uint64_t version, expires_ms;
} mp_item;

typedef struct mem_place {
    pthread_mutex_t lock;
    mp_item *items;
    uint64_t version;
    uint64_t calls, fail_at, fail_from; /* of those in `fail_ops`; 0: never */
    uint32_t fail_ops;                  /* bits 1 << MP_...; 0: all */
    int fail_rc;
    bool took;      /* a swap that fails has won */
    bool again;     /* a swap that wins is sent again: it says that it has not */
    bool any_token; /* every swap wins */
    bool stale;     /* a read gives what was there before the last swap */
    unsigned char *was;
    size_t was_len;
    uint64_t op_calls[MP_OPS], failed, forks, closes;
    void (*on_swap)(void *user); /* before a swap, without the lock */
    void *on_swap_user;
} mem_place;

static inline void mp_init(mem_place *m) {
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
}

static inline mp_item **mp_at(mem_place *m, const char *key, size_t len) {
    mp_item **i = &m->items;
    while (*i && !(strlen((*i)->key) == len && memcmp((*i)->key, key, len) == 0)) i = &(*i)->next;
    return i;
}
static inline mp_item *mp_find(mem_place *m, const char *key) { return *mp_at(m, key, strlen(key)); }

static inline void mp_remove(mp_item **at) {
    mp_item *i = *at;
    *at = i->next;
    free(i->data);
    free(i);
}
static inline void mp_drop(mem_place *m, const char *key) {
    pthread_mutex_lock(&m->lock);
    mp_item **at = mp_at(m, key, strlen(key));
    if (*at) mp_remove(at);
    pthread_mutex_unlock(&m->lock);
}

static inline void mp_destroy(mem_place *m) {
    while (m->items) mp_remove(&m->items);
    free(m->was);
    pthread_mutex_destroy(&m->lock);
}

static inline void mp_store(mem_place *m, const char *key, size_t key_len, const void *data,
                            size_t len, uint64_t expires_ms) {
    mp_item **at = mp_at(m, key, key_len), *i = *at;
    if (!i) {
        i = (mp_item *)calloc(1, sizeof *i);
        if (!i) abort();
        memcpy(i->key, key, key_len);
        i->next = m->items;
        m->items = i;
    }
    unsigned char *copy = (unsigned char *)malloc(len + 1);
    if (!copy) abort();
    if (len) memcpy(copy, data, len);
    free(m->was);
    m->was = i->data;
    m->was_len = i->len;
    i->data = copy;
    i->len = len;
    i->version = ++m->version;
    i->expires_ms = expires_ms;
}

/* Locks, counts a call, and says whether it is to fail. */
static inline bool mp_enter(mem_place *m, int op, zc_bytes key) {
    const char *p = (const char *)key.ptr;
    CHECK(key.len > 0 && key.len <= ZC_PLACE_KEY && *p != '.');
    for (size_t i = 0; i < key.len; i++)
        CHECK(p[i] && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.",
                             p[i]));
    pthread_mutex_lock(&m->lock);
    m->op_calls[op]++;
    if (m->fail_ops && !(m->fail_ops & 1u << op)) return false;
    uint64_t n = ++m->calls;
    bool fail = n == m->fail_at || (m->fail_from && n >= m->fail_from);
    m->failed += fail;
    return fail;
}
static inline int mp_fails(const mem_place *m) { return m->fail_rc ? m->fail_rc : ZC_E_STORE; }

static inline int mp_get(void *user, zc_bytes key, zc_sink *sink) {
    mem_place *m = (mem_place *)user;
    int rc = mp_enter(m, MP_GET, key) ? mp_fails(m) : ZC_MISS;
    const mp_item *i = *mp_at(m, (const char *)key.ptr, key.len);
    if (rc == ZC_MISS && i) rc = zc_sink_write(sink, i->data, i->len);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static inline int mp_get_many(void *user, const zc_bytes *keys, size_t n, zc_sink *const *sinks,
                              int *results) {
    for (size_t i = 0; i < n; i++)
        if ((results[i] = mp_get(user, keys[i], sinks[i])) < 0) return results[i];
    return ZC_OK;
}

static inline int mp_put(void *user, zc_bytes key, zc_bytes value, uint64_t expires_ms) {
    mem_place *m = (mem_place *)user;
    CHECK(expires_ms != 0);
    int rc = mp_enter(m, MP_PUT, key) ? mp_fails(m) : ZC_OK;
    if (rc == ZC_OK)
        mp_store(m, (const char *)key.ptr, key.len, value.ptr, value.len, expires_ms);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static inline int mp_del(void *user, zc_bytes key) {
    mem_place *m = (mem_place *)user;
    int rc = mp_enter(m, MP_DEL, key) ? mp_fails(m) : ZC_MISS;
    mp_item **at = mp_at(m, (const char *)key.ptr, key.len);
    if (rc == ZC_MISS && *at) {
        mp_remove(at);
        rc = ZC_OK;
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static inline int mp_read(void *user, zc_bytes key, zc_sink *value, zc_sink *token) {
    mem_place *m = (mem_place *)user;
    int rc = mp_enter(m, MP_READ, key) ? mp_fails(m) : ZC_MISS;
    const mp_item *i = *mp_at(m, (const char *)key.ptr, key.len);
    if (rc == ZC_MISS && i) {
        bool old = m->stale && m->was;
        rc = zc_sink_write(value, old ? m->was : i->data, old ? m->was_len : i->len);
        if (rc == ZC_OK) rc = zc_sink_write(token, &i->version, sizeof i->version);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static inline int mp_swap(void *user, zc_bytes key, zc_bytes value, zc_bytes token) {
    mem_place *m = (mem_place *)user;
    if (m->on_swap) m->on_swap(m->on_swap_user);
    bool fail = mp_enter(m, MP_SWAP, key);
    const mp_item *i = *mp_at(m, (const char *)key.ptr, key.len);
    bool same = i ? token.len == 8 && memcmp(token.ptr, &i->version, 8) == 0 : token.len == 0;
    bool wins = (same || m->any_token) && (!fail || m->took);
    if (wins) mp_store(m, (const char *)key.ptr, key.len, value.ptr, value.len, 0);
    int rc = fail ? mp_fails(m) : wins && !m->again ? ZC_OK : ZC_MISS;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static inline void mp_forked(void *user) { ((mem_place *)user)->forks++; }
static inline void mp_close(void *user) { ((mem_place *)user)->closes++; }

static inline zc_place mp_hook(mem_place *m) {
    zc_place p = {.version = 1, .get = mp_get, .get_many = mp_get_many, .put = mp_put,
                  .del = mp_del, .read = mp_read, .swap = mp_swap, .forked = mp_forked,
                  .close = mp_close, .user = m};
    return p;
}

#endif
