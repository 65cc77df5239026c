/* A directory for one test of the LMDB part, and the sinks that its hooks ask for. */
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
    size_t all;           /* entries that named everything */
    uint64_t sum;         /* of what was said */
    int answer;           /* what the sink returns */
    char text[ZC_TAG_MAX + 1]; /* the last tag */
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
/* Appends one tag (NULL: everything); *position is that of the entry. */
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

#endif
