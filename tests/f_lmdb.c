/* Fuzz: what a file of LMDB may hold, below what LMDB itself checks: rows of any key and value in
 * every database, entries of the log, and records that are right but for what they say. Read, heard
 * and written over by the hooks and by a whole cache, no byte of them is trusted.
 *
 * The input is rows: which database, which key (and its bytes), how the value is made, its length
 * and bytes. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"
#include "lmdb_dir.h"

/* clang-format off */
#define MUST(x) do { if (!(x)) { printf("%s:%d: %s\n", __FILE__, __LINE__, #x); abort(); } } while (0)
/* clang-format on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 12, LONGEST = 4000, LOG = 3 /* entries before those of the input */ };

static lmdb_dir dir;
static zc_store store;
static zc_bus bus;
static zc__lmdb *db;

typedef struct input {
    const uint8_t *p;
    size_t left;
} input;

static unsigned byte(input *in) {
    if (!in->left) return 0;
    in->left--;
    return *in->p++;
}
static zc_bytes bytes(input *in, size_t n) {
    zc_bytes b;
    if (n > in->left) n = in->left;
    b = zc_slice(in->p, n);
    in->p += n;
    in->left -= n;
    return b;
}

static void remove_dir(void) {
    store.close(store.user);
    bus.close(bus.user);
    ld_remove(&dir);
}
static void keep_open(void *user) { (void)user; }

static void open_once(void) {
    zc_lmdb_desc d;
    if (db) return;
    memset(&d, 0, sizeof d);
    strcpy(dir.path, "/dev/shm/zc-lmdb-XXXXXX"); /* where there is */
    MUST(mkdtemp(dir.path) || ld_make(&dir));
    d.path = dir.path;
    d.map_size = (size_t)8 << 20;
    MUST(zc_lmdb_open(&d, &store, &bus) == ZC_OK);
    db = (zc__lmdb *)store.user;
    atexit(remove_dir);
}

/* ---- what the input makes of the file ---- */

static MDB_val any_key(input *in, unsigned char key[64]) {
    unsigned how = byte(in);
    zc__lmdb_h h = zc__lmdb_hash(db, zc_str("k"));
    switch (how % 5) {
    case 0: memcpy(key, h.b, ZC__LMDB_H); return zc__lmdb_val(key, ZC__LMDB_H);
    case 1: zc__put_be64(key, byte(in)); return zc__lmdb_val(key, 8); /* a position, a stamp */
    case 2:
        zc__put_le(key, XXH3_64bits_withSeed("t", 1, db->identity), 8);
        return zc__lmdb_val(key, 8);
    case 3:
        zc__put_be64(key, byte(in));
        memcpy(key + 8, h.b, ZC__LMDB_H);
        return zc__lmdb_val(key, 8 + ZC__LMDB_H);
    default: break;
    }
    zc_bytes raw = bytes(in, 1 + how / 5);
    memset(key, 0, 64);
    memcpy(key, raw.ptr, raw.len);
    return zc__lmdb_val(key, raw.len ? raw.len : 1);
}

/* A record of "k" in this log, which then is changed; with or without the right checksum. */
static size_t any_record(input *in, unsigned char *out) {
    unsigned how = byte(in);
    zc_bytes deps[3] = {zc_str("t"), zc_str(""), zc_str("")}, record;
    zc_record r;
    memset(&r, 0, sizeof r);
    for (unsigned i = 1; i < 3; i++) deps[i] = bytes(in, byte(in) % 8);
    r.key = zc_str("k");
    r.deps = deps;
    r.ndeps = how % 4;
    r.generation = db->identity;
    r.begin = byte(in);
    r.expires_ms = how & 4 ? UINT64_MAX : 0;
    r.soft_ms = how & 8 ? 1 : 0;
    r.tti_ms = how & 16 ? 1000 : 0;
    r.absent = how & 32;
    r.value = bytes(in, byte(in) * 4);
    MUST(zc_record_encode(&r, NULL, &record) == ZC_OK);
    size_t len = record.len < LONGEST - 11 ? record.len : LONGEST - 11;
    memset(out, 0, 8); /* no end */
    zc__put_le(out + 8, 1, 2);
    out[10] = 'k';
    memcpy(out + 11, record.ptr, len);
    free((void *)(uintptr_t)record.ptr);
    for (unsigned n = byte(in) % 4; n > 0; n--) {
        size_t at = byte(in) * 5;
        out[at % (11 + len)] ^= (unsigned char)byte(in);
    }
    if (how & 64) zc__put_le(out + 11 + 8, zc__record_checksum(out + 11, len), 8);
    return 11 + len;
}

/* Tags as they are in the log, of which one may be none, and the last may be cut. */
static size_t any_entry(input *in, unsigned char *out) {
    size_t at = 0;
    for (unsigned n = byte(in) % 20; n > 0; n--) {
        zc_bytes tag = bytes(in, byte(in) % 40);
        zc__put_le(out + at, tag.len + (byte(in) > 250 ? byte(in) : 0), 2);
        if (tag.len) memcpy(out + at + 2, tag.ptr, tag.len);
        at += 2 + tag.len;
    }
    return at;
}

static int plant(zc__lmdb_tx *t, void *arg) {
    static unsigned char key[64], value[LONGEST];
    input *in = (input *)arg;
    for (unsigned i = 0; i < ROWS && in->left; i++) {
        unsigned what = byte(in), which = what % (ZC__LMDB_DBS + 3);
        size_t len;
        MDB_val k, v;
        if (which == ZC__LMDB_DBS) { /* one of the numbers */
            unsigned at = byte(in) % ZC__LMDB_META;
            uint64_t number = byte(in);
            if (byte(in) % 2) number <<= 56;
            if (at != ZC__LMDB_FORMAT) t->meta[at] = number;
            continue;
        }
        if (which == ZC__LMDB_DBS + 1) { /* the entry after the last */
            zc__put_be64(key, ++t->meta[ZC__LMDB_TAIL]);
            k = zc__lmdb_val(key, 8);
            len = any_entry(in, value);
            which = ZC__LMDB_ENTRIES;
        } else if (which == ZC__LMDB_DBS + 2) {
            memcpy(key, zc__lmdb_hash(db, zc_str("k")).b, ZC__LMDB_H);
            k = zc__lmdb_val(key, ZC__LMDB_H);
            len = any_record(in, value);
            which = ZC__LMDB_RECORDS;
        } else {
            k = any_key(in, key);
            zc_bytes raw = bytes(in, byte(in));
            len = raw.len;
            if (len) memcpy(value, raw.ptr, len);
        }
        v = zc__lmdb_val(value, len);
        MUST(mdb_put(t->txn, zc__lmdb_db(t, which), &k, &v, 0) == 0);
    }
    return ZC_OK;
}

/* The file as it was, with some entries; nothing is remembered of it. */
static int renew(zc__lmdb_tx *t, void *arg) {
    (void)arg;
    uint64_t identity = db->identity;
    for (unsigned i = 0; i < ZC__LMDB_DBS; i++) MUST(mdb_drop(t->txn, zc__lmdb_db(t, i), 0) == 0);
    memset(t->meta, 0, sizeof t->meta);
    t->meta[ZC__LMDB_FORMAT] = ZC__LMDB_FORMAT_1;
    t->meta[ZC__LMDB_IDENTITY] = identity;
    t->meta[ZC__LMDB_TAIL] = LOG;
    for (uint64_t i = 1; i <= LOG; i++) {
        unsigned char at[8];
        MDB_val none = zc__lmdb_val("", 0);
        zc__put_be64(at, i);
        MUST(zc__lmdb_put(t, ZC__LMDB_ENTRIES, zc__lmdb_val(at, 8), none) == ZC_OK);
    }
    memset(db->note, 0, sizeof db->note);
    return ZC_OK;
}

/* As zc__lmdb_write(), but whatever the row of the numbers says. */
static void change(zc__lmdb_step step, void *arg) {
    zc__lmdb_tx t;
    unsigned char row[ZC__LMDB_META * 8];
    MDB_val key = zc__lmdb_val("zoocache", 8), value = zc__lmdb_val(row, sizeof row);
    t.db = db;
    MUST(mdb_txn_begin(db->env, NULL, 0, &t.txn) == 0);
    (void)zc__lmdb_load(t.txn, t.meta);
    MUST(step(&t, arg) == ZC_OK);
    for (size_t i = 0; i < ZC__LMDB_META; i++) zc__put_le(row + i * 8, t.meta[i], 8);
    MUST(mdb_put(t.txn, ZC__LMDB_MAIN, &key, &value, 0) == 0);
    MUST(mdb_txn_commit(t.txn) == 0);
}

/* ---- what is done with it ---- */

static bool known(int rc) { return rc == ZC_OK || rc == ZC_MISS || rc == ZC_E_CORRUPT; }

/* The file is in memory as a whole, so no sanitizer sees what reads beyond a row. */
static void must_be_in(unsigned which, MDB_val key, const void *p, size_t len) {
    zc__lmdb_rd r;
    MDB_val row;
    if (len == 0) return;
    MUST(zc__lmdb_begin(db, &r) == ZC_OK);
    MUST(mdb_get(r.txn, db->dbi[which], &key, &row) == 0);
    uintptr_t at = (uintptr_t)p - (uintptr_t)row.mv_data;
    MUST(at <= row.mv_size && len <= row.mv_size - at);
    zc__lmdb_end(&r);
}

static int hear(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    uint64_t *last = (uint64_t *)user;
    unsigned char at[8];
    MUST(position == *last + 1);
    *last = position;
    zc__put_be64(at, position);
    for (size_t i = 0; i < n; i++)
        must_be_in(ZC__LMDB_ENTRIES, zc__lmdb_val(at, 8), tags[i].ptr, tags[i].len);
    return ZC_OK;
}

static bool see(void *user, zc_bytes record) {
    zc__lmdb_h h = zc__lmdb_hash(db, zc_str("k"));
    (void)user;
    must_be_in(ZC__LMDB_RECORDS, zc__lmdb_val(h.b, ZC__LMDB_H), record.ptr, record.len);
    return true;
}

static void use_hooks(void) {
    zc_bytes k = zc_str("k"), paths[3] = {zc_str(""), zc_str("t"), zc_str("t:u")};
    uint64_t position = 0, identity, at[3], token = 0, last;
    zc_sink sink_k;
    memset(&sink_k, 0, sizeof sink_k);
    sink_k.most = SIZE_MAX;
    sink_k.take = see;
    MUST(known(store.get(store.user, k, &sink_k)));
    for (uint64_t from = 0; from <= LOG; from += LOG) {
        zc_bus_sink sink = {hear, &last};
        last = from;
        int rc = bus.read(bus.user, from, 0, &sink);
        MUST(rc == ZC_OK || rc == ZC_MORE || rc == ZC_RETRY || rc == ZC_E_CORRUPT);
    }
    MUST(known(bus.peek(bus.user, &position)));
    MUST(known(bus.attach(bus.user, &identity, &position)));
    MUST(known(bus.versions(bus.user, paths, 3, at)));
    MUST(known(store.touch(store.user, k, UINT64_MAX)));
    MUST(known(store.lock(store.user, k, ZC_SECOND, &token)));
    if (token) MUST(known(store.unlock(store.user, k, token)));
}

static void change_hooks(void) {
    zc_bytes k = zc_str("k"), tag = zc_str("t");
    uint64_t last = 0, identity;
    zc_bus_sink sink = {hear, &last};
    if (bus.attach(bus.user, &identity, &last) == ZC_OK) {
        int rc = bus.append(bus.user, &tag, 1, false, last, &sink);
        MUST(known(rc) || rc == ZC_MORE || rc == ZC_RETRY);
    }
    MUST(known(store.put(store.user, k, zc_str("v"), 1)));
    MUST(known(bus.beat(bus.user, zc_str(""))));
    MUST(known(store.put(store.user, zc_str("other"), zc_str("v"), 0)));
    MUST(known(store.del(store.user, k)));
}

/* A cache that was there before, or comes only now. */
static zc_cache *open_cache(void) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    d.store = store;
    d.bus = bus;
    d.store.close = d.bus.close = keep_open;
    d.max_entries = 4;
    d.no_thread = true;
    MUST(zc_open(&d, &c) == ZC_OK);
    for (uint32_t i = 0; i < c->nshards; i++) c->shards[i].policy.full = true;
    return c;
}
static void use_cache(zc_cache *c) {
    char buf[64];
    size_t len;
    zc_view v;
    for (unsigned i = 0; i < 2; i++) { /* straight from the file, and through the table */
        int rc = zc_get_copy(c, zc_str("k"), buf, sizeof buf, &len);
        MUST(rc == ZC_OK || rc == ZC_MISS || rc == ZC_ABSENT || rc == ZC_STALE || rc == ZC_E_RANGE);
        MUST(rc != ZC_OK || len <= sizeof buf);
        if (zc_get(c, zc_str("k"), &v) >= 0) zc_release(c, &v);
        (void)zc_poll(c, 10 * ZC_MICROSECOND);
    }
    MUST(zc_check(c) == ZC_OK);
    zc_close(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    open_once();
    change(renew, NULL);
    db->known_txn = db->tail = 0;
    zc_cache *before = open_cache();
    change(plant, &in);
    zc_cache *after = open_cache();
    use_hooks();
    use_cache(before);
    use_cache(after);
    change_hooks();
    use_hooks();
    return 0;
}
