/* A directory for one test of the LMDB part, the sinks that its hooks ask for, and a look at every
 * row of its file. Include it after zc_test.h. */
#ifndef LMDB_DIR_H
#define LMDB_DIR_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct lmdb_dir {
    char path[64];
} lmdb_dir;

static inline bool ld_make(lmdb_dir *d) {
    strcpy(d->path, "/tmp/zc-lmdb-XXXXXX");
    return mkdtemp(d->path) != NULL;
}
static inline char *ld_file(const lmdb_dir *d, const char *name, char out[128]) {
    snprintf(out, 128, "%s/%s", d->path, name);
    return out;
}
static inline void ld_remove(const lmdb_dir *d) {
    static const char *const names[] = {"data.mdb", "lock.mdb", "zoocache"};
    char file[128];
    for (size_t i = 0; i < 3; i++) unlink(ld_file(d, names[i], file));
    rmdir(d->path);
}

/* What a storage has given, and what a bus has. */
typedef struct got {
    char *data;
    size_t len;
} got;

static inline int ld_get(const zc_store *s, zc_bytes key, got *g) {
    static zc__mem mem;
    zc_sink sink;
    memset(&sink, 0, sizeof sink);
    sink.mem = &mem;
    sink.most = SIZE_MAX;
    int rc = s->get(s->user, key, &sink);
    g->data = (char *)sink.buf.ptr;
    g->len = sink.buf.size;
    return rc;
}
/* The result of get; ZC_E_USER if it gives something else than `want`. */
static inline int ld_expect(const zc_store *s, zc_bytes key, zc_bytes want) {
    got g;
    int rc = ld_get(s, key, &g);
    if (rc == ZC_OK && (g.len != want.len || (g.len && memcmp(g.data, want.ptr, g.len) != 0)))
        rc = ZC_E_USER;
    free(g.data);
    return rc;
}

typedef struct heard {
    uint64_t first, last; /* positions */
    size_t entries, tags;
    size_t all;                /* entries that named everything */
    uint64_t sum;              /* of what was said */
    int answer;                /* what the sink returns */
    char text[ZC_TAG_MAX + ZC_SEAL_TAG + 1]; /* the last tag */
} heard;

static inline int ld_entry(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    heard *h = (heard *)user;
    if (h->entries++ == 0) h->first = position;
    else if (position != h->last + 1) return ZC_E_USER;
    h->last = position;
    h->tags += n;
    h->all += n == 0;
    for (size_t i = 0; i < n; i++) {
        h->sum += XXH3_64bits(tags[i].ptr, tags[i].len);
        memcpy(h->text, tags[i].ptr, tags[i].len);
        h->text[tags[i].len] = '\0';
    }
    return h->answer;
}
static inline int ld_read(const zc_bus *b, uint64_t position, heard *h) {
    zc_bus_sink sink = {ld_entry, h};
    memset(h, 0, sizeof *h);
    return b->read(b->user, position, 0, &sink);
}
/* Appends one tag (NULL: everything); *position is the last that was heard: that of the entry, if
 * nobody else appends. */
static inline int ld_append(const zc_bus *b, const char *tag, uint64_t *position) {
    heard h;
    zc_bus_sink sink = {ld_entry, &h};
    zc_bytes t = zc_str(tag ? tag : "");
    uint64_t id, at;
    memset(&h, 0, sizeof h);
    int rc = b->attach(b->user, &id, &at);
    if (rc == ZC_OK) rc = b->append(b->user, &t, tag != NULL, false, at, &sink);
    *position = h.last;
    return rc;
}
static inline uint64_t ld_version(const zc_bus *b, const char *path) {
    uint64_t v = 0;
    zc_bytes p = zc_str(path);
    return b->versions(b->user, &p, 1, &v) == ZC_OK ? v : UINT64_MAX;
}

static inline size_t ld_stat(MDB_txn *txn, MDB_dbi dbi) {
    MDB_stat s;
    memset(&s, 0, sizeof s);
    CHECK_EQ(mdb_stat(txn, dbi, &s), 0);
    return s.ms_entries;
}
static inline size_t ld_count(zc__lmdb *db, unsigned which) {
    zc__lmdb_rd r;
    if (!CHECK_EQ(zc__lmdb_begin(db, &r), ZC_OK)) return 0;
    size_t n = ld_stat(r.txn, db->dbi[which]);
    zc__lmdb_end(&r);
    return n;
}

/* L1, L2, and that every record's key has the hash under which it is. */
static inline void ld_check(zc__lmdb *db) {
    zc__lmdb_rd r;
    uint64_t meta[ZC__LMDB_META], ended = 0, before = 0;
    MDB_cursor *c;
    MDB_val key, row, other;
    if (!CHECK_EQ(zc__lmdb_begin_meta(db, &r, meta), ZC_OK)) return;
    CHECK_EQ(mdb_cursor_open(r.txn, db->dbi[ZC__LMDB_RECORDS], &c), 0);
    while (mdb_cursor_get(c, &key, &row, MDB_NEXT) == 0) {
        unsigned char at[24];
        const unsigned char *p = (const unsigned char *)row.mv_data;
        zc__lmdb_h h = zc__lmdb_hash(db, zc_slice(p + 10, zc__get16(p + 8)));
        CHECK(key.mv_size == 16 && memcmp(key.mv_data, h.b, 16) == 0);
        if (!CHECK_EQ(mdb_get(r.txn, db->dbi[ZC__LMDB_USES], &key, &other), 0)) continue;
        const unsigned char *uses = (const unsigned char *)other.mv_data;
        uint64_t end = zc__get64(uses + 8);
        zc__put_be64(at, zc__get64(uses));
        MDB_val lru = zc__lmdb_val(at, 8);
        CHECK_EQ(mdb_get(r.txn, db->dbi[ZC__LMDB_LRU], &lru, &other), 0);
        CHECK(other.mv_size == 16 && memcmp(other.mv_data, key.mv_data, 16) == 0);
        ended += end != 0;
        zc__put_be64(at, end);
        memcpy(at + 8, key.mv_data, 16);
        MDB_val ends = zc__lmdb_val(at, 24);
        CHECK_EQ(mdb_get(r.txn, db->dbi[ZC__LMDB_ENDS], &ends, &other), end ? 0 : MDB_NOTFOUND);
    }
    mdb_cursor_close(c);
    CHECK_EQ(mdb_cursor_open(r.txn, db->dbi[ZC__LMDB_ENTRIES], &c), 0);
    while (mdb_cursor_get(c, &key, &row, MDB_NEXT) == 0) {
        uint64_t at = zc__get_be64((const unsigned char *)key.mv_data);
        CHECK(!before || at == before + 1);
        before = at;
    }
    mdb_cursor_close(c);
    CHECK_EQ(before, meta[ZC__LMDB_TAIL]);
    size_t records = ld_stat(r.txn, db->dbi[ZC__LMDB_RECORDS]);
    CHECK_EQ(ld_stat(r.txn, db->dbi[ZC__LMDB_USES]), records);
    CHECK_EQ(ld_stat(r.txn, db->dbi[ZC__LMDB_LRU]), records);
    CHECK_EQ(ld_stat(r.txn, db->dbi[ZC__LMDB_ENDS]), ended);
    zc__lmdb_end(&r);
}

#endif
