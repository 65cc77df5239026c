/* log_bus.h: a log of invalidations in memory, for the nodes of one program. Include it after
 * zc_test.h.
 *
 *   log_hub hub;
 *   lb_init(&hub);
 *   log_node a = {.hub = &hub};       one for each cache
 *   desc.bus = lb_hook(&a, false);    true: with `peek`, so without a lease
 *   a.down = true;                    its calls fail, with a.fail_rc (0: ZC_E_TIMEOUT)
 *   lb_forget(&hub, 3);               trims the first three entries, in silence
 *   lb_restart(&hub, 5);              another log, which has lost what came after entry 5
 *   lb_destroy(&hub);                 when no cache uses it any more
 *
 * Thread-safe. A node's `read` waits for entries on a condition variable. */
#ifndef LOG_BUS_H
#define LOG_BUS_H

#include <pthread.h>

#define LB_ENTRIES 4096
#define LB_TAGS 4
#define LB_TAG 128 /* bytes of one */
#define LB_HOLDS 64

typedef struct lb_entry {
    size_t n; /* 0: everything */
    char tags[LB_TAGS][LB_TAG];
    size_t len[LB_TAGS];
} lb_entry;

typedef struct log_hub {
    pthread_mutex_t lock;
    pthread_cond_t grown;
    uint64_t identity, first, tail; /* entries first + 1 .. tail are there */
    lb_entry entries[LB_ENTRIES];
    lb_entry holds[LB_HOLDS]; /* n == 0: none */
    uint64_t hold_ids[LB_HOLDS];
} log_hub;

typedef struct log_node {
    log_hub *hub;
    zc_cache *cache;              /* the test's */
    bool down, down_after_append; /* calls fail; the append was done all the same */
    int fail_rc;
    uint64_t attached;            /* the identity that it knows */
    size_t most;                  /* give so many entries a call; 0: all */
    unsigned repeat;              /* give the last so many entries once more */
    bool woken;
    uint64_t attaches, reads, appends, versions, beats, forks, closes;
} log_node;

static inline void lb_init(log_hub *h) {
    memset(h, 0, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->grown, NULL);
    h->identity = 1001;
}

static inline void lb_destroy(log_hub *h) {
    pthread_cond_destroy(&h->grown);
    pthread_mutex_destroy(&h->lock);
}

static inline void lb_forget(log_hub *h, uint64_t n) {
    pthread_mutex_lock(&h->lock);
    h->first += n;
    pthread_mutex_unlock(&h->lock);
}

static inline void lb_restart(log_hub *h, uint64_t tail) {
    pthread_mutex_lock(&h->lock);
    h->identity++;
    h->tail = tail;
    if (h->first > tail) h->first = tail;
    pthread_mutex_unlock(&h->lock);
}

static inline int lb_fails(const log_node *b) { return b->fail_rc ? b->fail_rc : ZC_E_TIMEOUT; }

static inline int lb_attach(void *user, uint64_t *identity, uint64_t *position) {
    log_node *b = (log_node *)user;
    log_hub *h = b->hub;
    pthread_mutex_lock(&h->lock);
    b->attaches++;
    int rc = b->down ? lb_fails(b) : ZC_OK;
    if (rc == ZC_OK) {
        *identity = b->attached = h->identity;
        *position = h->tail;
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}

/* Entries after `position`; the lock is held on entry and on return, but not while they are
 * given. */
static inline int lb_give(log_node *b, uint64_t position, zc_bus_sink *sink) {
    log_hub *h = b->hub;
    if (b->attached != h->identity || position < h->first || position > h->tail) return ZC_RETRY;
    uint64_t from = position + 1, to = h->tail;
    if (b->most && to > position + b->most) to = position + b->most;
    if (b->repeat) from = from > b->repeat + h->first ? from - b->repeat : h->first + 1;
    int rc = to < h->tail ? ZC_MORE : ZC_OK;
    int given = ZC_OK;
    for (uint64_t p = from; p <= to && given == ZC_OK; p++) {
        lb_entry e = h->entries[p % LB_ENTRIES];
        zc_bytes tags[LB_TAGS];
        for (size_t i = 0; i < e.n; i++) tags[i] = zc_slice(e.tags[i], e.len[i]);
        pthread_mutex_unlock(&h->lock);
        given = zc_bus_entry(sink, p, tags, e.n);
        pthread_mutex_lock(&h->lock);
        if (given != ZC_OK) rc = given;
    }
    return rc;
}

static inline int lb_read(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    log_node *b = (log_node *)user;
    log_hub *h = b->hub;
    pthread_mutex_lock(&h->lock);
    b->reads++;
    if (wait && !b->woken && !b->down && h->tail == position && b->attached == h->identity) {
        struct timespec t = zc__to_timespec(zc__sys_wall() + wait);
        pthread_cond_timedwait(&h->grown, &h->lock, &t);
    }
    bool woken = b->woken;
    b->woken = false;
    int rc = b->down ? lb_fails(b) : woken ? ZC_MORE : lb_give(b, position, sink);
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static inline void lb_entry_set(lb_entry *e, const zc_bytes *tags, size_t n) {
    e->n = n <= LB_TAGS ? n : 0; /* too many are given as everything */
    for (size_t i = 0; i < e->n; i++) {
        CHECK(tags[i].len && tags[i].len <= LB_TAG);
        e->len[i] = tags[i].len < LB_TAG ? tags[i].len : LB_TAG;
        memcpy(e->tags[i], tags[i].ptr, e->len[i]);
    }
}

static inline int lb_append(void *user, const zc_bytes *tags, size_t n, bool durable,
                            uint64_t position, zc_bus_sink *sink) {
    log_node *b = (log_node *)user;
    log_hub *h = b->hub;
    (void)durable;
    pthread_mutex_lock(&h->lock);
    b->appends++;
    int rc = b->down && !b->down_after_append ? lb_fails(b)
             : b->attached != h->identity     ? ZC_RETRY
                                              : ZC_OK;
    if (rc == ZC_OK) {
        lb_entry_set(&h->entries[++h->tail % LB_ENTRIES], tags, n);
        pthread_cond_broadcast(&h->grown);
        rc = b->down ? lb_fails(b) : lb_give(b, position, sink);
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static inline int lb_hold(void *user, uint64_t id, const zc_bytes *tags, size_t n) {
    log_node *b = (log_node *)user;
    log_hub *h = b->hub;
    pthread_mutex_lock(&h->lock);
    int rc = b->down ? lb_fails(b) : b->attached != h->identity ? ZC_RETRY : ZC_OK;
    unsigned i = 0;
    while (i < LB_HOLDS - 1 && h->hold_ids[i] != id) i++;
    if (h->hold_ids[i] != id)
        for (i = 0; i < LB_HOLDS - 1 && h->hold_ids[i];) i++;
    if (rc == ZC_OK) {
        lb_entry_set(&h->holds[i], tags, n);
        h->hold_ids[i] = n ? id : 0;
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static inline int lb_holds(void *user, zc_bus_sink *sink) {
    log_node *b = (log_node *)user;
    int rc = b->down ? lb_fails(b) : ZC_OK;
    for (unsigned i = 0; i < LB_HOLDS && rc == ZC_OK; i++) {
        zc_bytes tags[LB_TAGS];
        pthread_mutex_lock(&b->hub->lock);
        lb_entry e = b->hub->holds[i];
        uint64_t id = b->hub->hold_ids[i];
        pthread_mutex_unlock(&b->hub->lock);
        for (size_t k = 0; k < e.n; k++) tags[k] = zc_slice(e.tags[k], e.len[k]);
        if (id) rc = zc_bus_entry(sink, id, tags, e.n);
    }
    return rc;
}

static inline int lb_versions(void *user, const zc_bytes *paths, size_t n, uint64_t *positions) {
    log_node *b = (log_node *)user;
    log_hub *h = b->hub;
    pthread_mutex_lock(&h->lock);
    b->versions++;
    for (size_t i = 0; i < n; i++) {
        positions[i] = h->first; /* what was trimmed may have been anything */
        for (uint64_t p = h->first + 1; p <= h->tail; p++) {
            const lb_entry *e = &h->entries[p % LB_ENTRIES];
            bool hit = e->n == 0 && paths[i].len == 0;
            for (size_t k = 0; k < e->n; k++)
                hit = hit || (e->len[k] == paths[i].len &&
                              memcmp(e->tags[k], paths[i].ptr, paths[i].len) == 0);
            if (hit) positions[i] = p;
        }
    }
    int rc = b->down ? lb_fails(b) : b->attached != h->identity ? ZC_RETRY : ZC_OK;
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static inline int lb_peek(void *user, uint64_t *position) {
    log_node *b = (log_node *)user;
    pthread_mutex_lock(&b->hub->lock);
    *position = b->hub->tail;
    int rc = b->down ? lb_fails(b) : b->attached != b->hub->identity ? ZC_RETRY : ZC_OK;
    pthread_mutex_unlock(&b->hub->lock);
    return rc;
}

static inline int lb_beat(void *user, zc_bytes text) {
    log_node *b = (log_node *)user;
    CHECK(text.len > 100);
    b->beats++;
    return ZC_OK;
}

static inline void lb_wake(void *user) {
    log_node *b = (log_node *)user;
    pthread_mutex_lock(&b->hub->lock);
    b->woken = true;
    pthread_cond_broadcast(&b->hub->grown);
    pthread_mutex_unlock(&b->hub->lock);
}

static inline void lb_forked(void *user) { ((log_node *)user)->forks++; }
static inline void lb_close(void *user) { ((log_node *)user)->closes++; }

static inline void lb_down(log_node *b, bool down) {
    pthread_mutex_lock(&b->hub->lock);
    b->down = down;
    pthread_mutex_unlock(&b->hub->lock);
}

static inline zc_bus lb_hook(log_node *b, bool peeks) {
    zc_bus bus = {.version = 1, .attach = lb_attach, .read = lb_read, .append = lb_append,
                  .versions = lb_versions, .peek = peeks ? lb_peek : NULL, .beat = lb_beat,
                  .wake = lb_wake, .forked = lb_forked, .close = lb_close, .user = b,
                  .hold = lb_hold, .holds = lb_holds};
    return bus;
}

#endif
