/* file_store.h - a storage for zoocache that keeps each record in a file of its own. POSIX.
 *
 *   DIR/1f0c...e2.record  a record, named by the hash of its key; written beside and renamed, so
 *                         that there is always a whole one
 *   DIR/versions          a generation, then what was invalidated when; only appended to
 *   DIR/lock              held while the store is open: one cache at a time
 *
 *   zc_desc desc = {0};
 *   if (file_store_open("/var/cache/app", &desc.store) == ZC_OK) zc_open(&desc, &cache);
 *   zc_close(cache);      (closes the store too; after a failed zc_open() call desc.store.close())
 *
 * A restart is warm: records are good as long as nothing that they depend on was invalidated, and
 * the versions tell. They are what must not be lost: an invalidation is on the disk before
 * zc_invalidate() returns. If the file is missing or damaged, ends within an entry, or could not be
 * written, a new generation begins, and all records of the one before are misses.
 *
 * A tag is kept as its hash alone, 16 bytes: two tags with the same hash share the higher version,
 * which costs a miss, never a stale value. Beyond FILE_STORE_TAGS tags all are forgotten, and the
 * root gets the latest version: that costs a miss for every record, likewise.
 *
 * It does not limit the size of the directory, and leaves expired records until they are replaced.
 * Include it after zoocache.h. Link with -pthread. */
#ifndef FILE_STORE_H
#define FILE_STORE_H

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define FILE_STORE_TAGS 100000u    /* different tags that are remembered */
#define FILE_STORE_SLOTS 262144u   /* of their hash table: a power of two, well above that */
#define FILE_STORE_LOG (16u << 20) /* bytes of `versions` beyond which it is written anew */
#define FILE_STORE_MAGIC UINT64_C(0x3173657a6f6f637a) /* in the machine's byte order */

typedef struct file_store_version {
    uint64_t tag, version, check; /* a hash, 0: unused in memory; of the two others */
} file_store_version;

typedef struct file_store {
    char dir[256];
    int lock, log;         /* file descriptors */
    pthread_mutex_t mutex; /* of all below */
    uint64_t generation;
    uint64_t latest;          /* the highest version */
    uint64_t root;            /* the root's version: a floor under all */
    file_store_version *tags; /* a hash table, open addressing */
    size_t ntags, log_size;
    unsigned temporary; /* to name files */
    bool broken;        /* `versions` could not be written: the next open begins a generation */
} file_store;

static int file_store_path(const file_store *s, const char *name, char path[320]) {
    int n = snprintf(path, 320, "%s/%s", s->dir, name);
    return n > 0 && n < 320 ? ZC_OK : ZC_E_STORE;
}

static int file_store_record(const file_store *s, zc_bytes key, char path[320]) {
    char name[48];
    XXH128_hash_t h = XXH3_128bits(key.ptr, key.len);
    snprintf(name, sizeof name, "%016llx%016llx.record", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
    return file_store_path(s, name, path);
}

static int file_store_write_all(int fd, const void *data, size_t len) {
    const char *p = data;
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return ZC_E_STORE;
        p += n;
        len -= (size_t)n;
    }
    return ZC_OK;
}

/* ---- records -------------------------------------------------------------------------------- */

static int file_store_get(void *user, zc_bytes key, zc_sink *sink) {
    char path[320], block[16384];
    int rc = file_store_record(user, key, path);
    if (rc != ZC_OK) return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? ZC_MISS : ZC_E_STORE;
    for (ssize_t n = 1; n != 0 && rc == ZC_OK;) {
        n = read(fd, block, sizeof block);
        if (n > 0) rc = zc_sink_write(sink, block, (size_t)n);
        else if (n < 0 && errno != EINTR) rc = ZC_E_STORE;
    }
    close(fd);
    return rc;
}

static int file_store_put(void *user, zc_bytes key, zc_bytes record, uint64_t expires_ms) {
    file_store *s = user;
    char path[320], beside[320], name[32];
    (void)expires_ms; /* it is in the record as well, and checked by the cache */
    pthread_mutex_lock(&s->mutex);
    snprintf(name, sizeof name, "%u.temporary", s->temporary++);
    pthread_mutex_unlock(&s->mutex);
    int rc = file_store_record(s, key, path);
    if (rc == ZC_OK) rc = file_store_path(s, name, beside);
    if (rc != ZC_OK) return rc;
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return ZC_E_STORE;
    /* Not synced: a record that a power failure has cut fails its checksum, and is a miss. */
    rc = file_store_write_all(fd, record.ptr, record.len);
    if (close(fd) != 0) rc = ZC_E_STORE;
    if (rc == ZC_OK && rename(beside, path) == 0) return ZC_OK;
    (void)unlink(beside);
    return ZC_E_STORE;
}

static int file_store_del(void *user, zc_bytes key) {
    char path[320];
    int rc = file_store_record(user, key, path);
    if (rc != ZC_OK || unlink(path) == 0) return rc;
    return errno == ENOENT ? ZC_MISS : ZC_E_STORE;
}

static int file_store_clear(void *user) {
    file_store *s = user;
    char path[320];
    int rc = ZC_OK;
    DIR *d = opendir(s->dir);
    if (!d) return ZC_E_STORE;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || (strcmp(dot, ".record") != 0 && strcmp(dot, ".temporary") != 0)) continue;
        if (file_store_path(s, e->d_name, path) != ZC_OK) rc = ZC_E_STORE;
        else if (unlink(path) != 0 && errno != ENOENT) rc = ZC_E_STORE;
    }
    closedir(d);
    return rc;
}

/* ---- versions ------------------------------------------------------------------------------- */

/* Never 0. The root is the empty path. */
static uint64_t file_store_hash(zc_bytes path) { return XXH3_64bits(path.ptr, path.len) | 1; }

static uint64_t file_store_check(const file_store *s, const file_store_version *v, size_t at) {
    return XXH3_64bits_withSeed(v, 2 * sizeof(uint64_t), s->generation + at);
}

static file_store_version *file_store_find(const file_store *s, uint64_t tag) {
    size_t i = (size_t)(tag >> 1) & (FILE_STORE_SLOTS - 1);
    while (s->tags[i].tag && s->tags[i].tag != tag) i = (i + 1) & (FILE_STORE_SLOTS - 1);
    return &s->tags[i];
}

/* Raises a tag's version in memory. Where there is no room for it, the root does its work. */
static void file_store_raise(file_store *s, uint64_t tag, uint64_t version) {
    if (version > s->latest) s->latest = version;
    file_store_version *v = file_store_find(s, tag);
    if (tag == file_store_hash(zc_slice("", 0))) {
        if (version > s->root) s->root = version;
    } else if (!v->tag && s->ntags >= FILE_STORE_TAGS) {
        memset(s->tags, 0, FILE_STORE_SLOTS * sizeof *s->tags);
        s->ntags = 0;
        s->root = s->latest;
    } else {
        s->ntags += !v->tag;
        v->tag = tag;
        if (version > v->version) v->version = version;
    }
}

/* Appends versions, all with one write. */
static int file_store_append(file_store *s, file_store_version *v, size_t n) {
    for (size_t i = 0; i < n; i++)
        v[i].check = file_store_check(s, &v[i], s->log_size + i * sizeof *v);
    if (file_store_write_all(s->log, v, n * sizeof *v) != ZC_OK) return ZC_E_STORE;
    s->log_size += n * sizeof *v;
    return ZC_OK;
}

/* Makes a rename last. */
static int file_store_sync_dir(const file_store *s) {
    int fd = open(s->dir, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? ZC_OK : ZC_E_STORE;
    if (fd >= 0) close(fd);
    return rc;
}

/* Writes `versions` anew, beside, and renames it. */
static int file_store_rewrite(file_store *s) {
    char path[320], beside[320];
    uint64_t head[2] = {FILE_STORE_MAGIC, s->generation};
    file_store_version root = {file_store_hash(zc_slice("", 0)), s->root, 0};
    if (file_store_path(s, "versions", path) || file_store_path(s, "versions.temporary", beside))
        return ZC_E_STORE;
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return ZC_E_STORE;
    if (s->log >= 0) close(s->log);
    s->log = fd;
    s->log_size = sizeof head;
    int rc = file_store_write_all(fd, head, sizeof head);
    if (rc == ZC_OK) rc = file_store_append(s, &root, 1);
    for (size_t i = 0; i < FILE_STORE_SLOTS && rc == ZC_OK; i++)
        if (s->tags[i].tag) rc = file_store_append(s, &s->tags[i], 1);
    if (rc == ZC_OK && fsync(fd) == 0 && rename(beside, path) == 0) return file_store_sync_dir(s);
    (void)unlink(beside);
    return ZC_E_STORE;
}

/* Reads `versions`. False: it is not there, or anything in it is wrong. */
static bool file_store_read(file_store *s, const char *path) {
    uint64_t head[2] = {0, 0};
    file_store_version v;
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool good = fread(head, sizeof head, 1, f) == 1 && head[0] == FILE_STORE_MAGIC && head[1];
    s->generation = head[1];
    size_t n = 0, at = sizeof head;
    for (; good && (n = fread(&v, 1, sizeof v, f)) == sizeof v; at += sizeof v) {
        good = v.check == file_store_check(s, &v, at);
        if (good) file_store_raise(s, v.tag, v.version);
    }
    good = good && n == 0 && !ferror(f) && at > sizeof head;
    fclose(f);
    return good;
}

/* Begins a generation: no record is good any more. */
static int file_store_begin(file_store *s) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t seed[3] = {(uint64_t)t.tv_sec, (uint64_t)t.tv_nsec, (uint64_t)getpid()};
    s->generation = XXH3_64bits(seed, sizeof seed) | 1;
    s->latest = s->root = 0;
    s->ntags = 0;
    memset(s->tags, 0, FILE_STORE_SLOTS * sizeof *s->tags);
    return file_store_clear(s);
}

static int file_store_generation(void *user, uint64_t *generation, uint64_t *latest) {
    file_store *s = user;
    *generation = s->generation;
    *latest = s->latest;
    return ZC_OK;
}

static int file_store_tag_put(void *user, const zc_bytes *paths, size_t n, uint64_t version) {
    file_store *s = user;
    char path[320];
    file_store_version few[64], *all = n <= 64 ? few : malloc(n * sizeof *all);
    int rc = all ? ZC_OK : ZC_E_STORE;
    pthread_mutex_lock(&s->mutex);
    for (size_t i = 0; i < n; i++) {
        file_store_version v = {file_store_hash(paths[i]), version, 0};
        file_store_raise(s, v.tag, v.version);
        if (all) all[i] = v;
    }
    if (s->broken) rc = ZC_E_STORE;
    if (rc == ZC_OK) rc = file_store_append(s, all, n);
    if (rc == ZC_OK && fsync(s->log) != 0) rc = ZC_E_STORE;
    if (rc == ZC_OK && s->log_size > FILE_STORE_LOG) rc = file_store_rewrite(s);
    if (rc != ZC_OK) { /* whatever else fails: the next open must not believe the old file */
        s->broken = true;
        if (file_store_path(s, "versions", path) == ZC_OK) (void)unlink(path);
    }
    pthread_mutex_unlock(&s->mutex);
    if (all != few) free(all);
    return rc;
}

static int file_store_tag_get(void *user, const zc_bytes *paths, size_t n, uint64_t *versions) {
    file_store *s = user;
    pthread_mutex_lock(&s->mutex);
    for (size_t i = 0; i < n; i++) {
        versions[i] = file_store_find(s, file_store_hash(paths[i]))->version;
        if (versions[i] < s->root) versions[i] = s->root;
    }
    pthread_mutex_unlock(&s->mutex);
    return ZC_OK;
}

/* ---- open, close ---------------------------------------------------------------------------- */

static void file_store_close(void *user) {
    file_store *s = user;
    if (s->log >= 0) close(s->log);
    if (s->lock >= 0) close(s->lock); /* and unlocks it */
    pthread_mutex_destroy(&s->mutex);
    free(s->tags);
    free(s);
}

static int file_store_setup(file_store *s) {
    char path[320];
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (file_store_path(s, "lock", path) != ZC_OK) return ZC_E_STORE;
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock < 0 || fcntl(s->lock, F_SETLK, &whole) != 0) return ZC_E_STORE;
    if (file_store_path(s, "versions", path) != ZC_OK) return ZC_E_STORE;
    if (!file_store_read(s, path) && file_store_begin(s) != ZC_OK) return ZC_E_STORE;
    return file_store_rewrite(s); /* what was appended is so put together again */
}

/* Opens the storage in a directory that exists. ZC_E_STORE: it cannot be used, or is in use by
 * another process; ZC_E_NOMEM. Then *store is zeroed. */
static int file_store_open(const char *dir, zc_store *store) {
    memset(store, 0, sizeof *store);
    file_store *s = calloc(1, sizeof *s);
    if (!s) return ZC_E_NOMEM;
    s->tags = calloc(FILE_STORE_SLOTS, sizeof *s->tags);
    s->lock = s->log = -1;
    int n = snprintf(s->dir, sizeof s->dir, "%s", dir);
    int rc = s->tags ? ZC_OK : ZC_E_NOMEM;
    if (n < 0 || n >= (int)sizeof s->dir) rc = ZC_E_STORE;
    pthread_mutex_init(&s->mutex, NULL);
    if (rc == ZC_OK) rc = file_store_setup(s);
    if (rc != ZC_OK) {
        file_store_close(s);
        return rc;
    }
    *store = (zc_store){.version = 1,
                        .get = file_store_get,
                        .put = file_store_put,
                        .del = file_store_del,
                        .clear = file_store_clear,
                        .generation = file_store_generation,
                        .tag_put = file_store_tag_put,
                        .tag_get = file_store_tag_get,
                        .close = file_store_close,
                        .user = s};
    return ZC_OK;
}

/* Deletes what a closed storage has in its directory; and the directory, if it is empty then. */
static int file_store_remove(const char *dir) {
    static const char *const names[] = {"versions", "versions.temporary", "lock"};
    file_store s = {.lock = -1};
    char path[320];
    snprintf(s.dir, sizeof s.dir, "%s", dir);
    int rc = file_store_clear(&s);
    for (int i = 0; i < 3 && rc == ZC_OK; i++)
        if ((rc = file_store_path(&s, names[i], path)) == ZC_OK) (void)unlink(path);
    return rc == ZC_OK && rmdir(dir) == 0 ? ZC_OK : ZC_E_STORE;
}

#endif /* FILE_STORE_H */
