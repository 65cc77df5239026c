/* The LMDB part when LMDB or the system fails: every call of either fails once. What was said to be
 * done is done, nothing is half done, nothing is leaked, and afterwards all is well. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t calls, fail_at; /* 0: never */
static int fail_with;           /* an errno */

static bool fails(void) { return ++calls == fail_at; }
/* For calls that return -1, and errno. */
static bool fails_errno(void) {
    if (!fails()) return false;
    errno = fail_with;
    return true;
}
/* Whatever it returns, the transaction has ended. */
static int commit(MDB_txn *txn) {
    if (!fails()) return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return fail_with;
}

#define mdb_cursor_del(...) (fails() ? fail_with : (mdb_cursor_del)(__VA_ARGS__))
#define mdb_cursor_get(...) (fails() ? fail_with : (mdb_cursor_get)(__VA_ARGS__))
#define mdb_cursor_open(...) (fails() ? fail_with : (mdb_cursor_open)(__VA_ARGS__))
#define mdb_dbi_open(...) (fails() ? fail_with : (mdb_dbi_open)(__VA_ARGS__))
#define mdb_del(...) (fails() ? fail_with : (mdb_del)(__VA_ARGS__))
#define mdb_drop(...) (fails() ? fail_with : (mdb_drop)(__VA_ARGS__))
#define mdb_env_create(...) (fails() ? fail_with : (mdb_env_create)(__VA_ARGS__))
#define mdb_env_get_fd(...) (fails() ? fail_with : (mdb_env_get_fd)(__VA_ARGS__))
#define mdb_env_open(...) (fails() ? fail_with : (mdb_env_open)(__VA_ARGS__))
#define mdb_get(...) (fails() ? fail_with : (mdb_get)(__VA_ARGS__))
#define mdb_put(...) (fails() ? fail_with : (mdb_put)(__VA_ARGS__))
#define mdb_reader_check(...) (fails() ? fail_with : (mdb_reader_check)(__VA_ARGS__))
#define mdb_stat(...) (fails() ? fail_with : (mdb_stat)(__VA_ARGS__))
#define mdb_txn_begin(...) (fails() ? fail_with : (mdb_txn_begin)(__VA_ARGS__))
#define mdb_txn_commit(txn) commit(txn)
#define mdb_txn_renew(...) (fails() ? fail_with : (mdb_txn_renew)(__VA_ARGS__))
#define access(...) (fails_errno() ? -1 : (access)(__VA_ARGS__))
#define fcntl(...) (fails_errno() ? -1 : (fcntl)(__VA_ARGS__))
#define flock(...) (fails_errno() ? -1 : (flock)(__VA_ARGS__))
#define fstat(...) (fails_errno() ? -1 : (fstat)(__VA_ARGS__))
#define fsync(...) (fails_errno() ? -1 : (fsync)(__VA_ARGS__))
#define mmap(...) (fails_errno() ? MAP_FAILED : (mmap)(__VA_ARGS__))
#define mkdir(...) (fails_errno() ? -1 : (mkdir)(__VA_ARGS__))
#define open(...) (fails_errno() ? -1 : (open)(__VA_ARGS__))
#define pread(...) (fails_errno() ? -1 : (pread)(__VA_ARGS__))
#define pwrite(...) (fails_errno() ? -1 : (pwrite)(__VA_ARGS__))
#define stat(...) (fails_errno() ? -1 : (stat)(__VA_ARGS__))
#define unlink(...) (fails_errno() ? -1 : (unlink)(__VA_ARGS__))

#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "lmdb_dir.h"

#define MS 1700000000000u

typedef struct fixture {
    lmdb_dir dir;
    zct_mem mem;
    zct_time time;
    zc_store s;
    zc_bus b;
    uint64_t identity;
    /* what the calls have said */
    bool put, deleted;
    uint64_t appended, maybe; /* entries; those that failed included */
} fixture;

static int start(fixture *f, bool sync) {
    zc_lmdb_desc d;
    memset(&d, 0, sizeof d);
    d.path = f->dir.path;
    d.map_size = (size_t)8 << 20;
    d.sync = sync;
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    return zc_lmdb_open(&d, &f->s, &f->b);
}
static void shut(fixture *f) {
    f->s.close(f->s.user);
    f->b.close(f->b.user);
}

/* Failures are told as such, and only where one was. */
static bool good(int rc) {
    if (rc >= 0) return true;
    CHECK(fail_at && calls >= fail_at);
    CHECK(rc == ZC_E_STORE || rc == ZC_E_FULL || rc == ZC_E_NOMEM || rc == ZC_E_TIMEOUT ||
          rc == ZC_E_CORRUPT || rc == ZC_E_INVAL);
    return false;
}

static void append(fixture *f, const char *tag) {
    uint64_t at;
    bool done = good(ld_append(&f->b, tag, &at));
    f->maybe++;
    f->appended += done;
}

/* Is that how a full disk is told? */
static bool evicts(void) { return fail_with == ENOSPC || fail_with == EIO; }

/* Everything that the hooks can do, in an environment that is open. */
static void use(fixture *f) {
    zc_bytes keys[2] = {zc_str("a"), zc_str("none")}, paths[2] = {zc_str(""), zc_str("t:1")};
    uint64_t token = 0, at[2], position;
    heard h;
    got g;
    int results[2];
    static zc__mem mem;
    (void)good(f->b.attach(f->b.user, &f->identity, &position));
    zc_sink sinks[2], *to[2] = {&sinks[0], &sinks[1]};
    memset(sinks, 0, sizeof sinks);
    sinks[0].mem = sinks[1].mem = &mem;
    sinks[0].most = sinks[1].most = SIZE_MAX;
    for (unsigned i = 0; i < 3; i++) { /* end soon, and are swept by the next writes */
        char key[8];
        snprintf(key, sizeof key, "e%u", i);
        (void)good(f->s.put(f->s.user, zc_str(key), zc_str("x"), MS + 10));
    }
    f->put = good(f->s.put(f->s.user, keys[0], zc_str("value"), MS + 5000));
    (void)good(f->s.put(f->s.user, zc_str("d"), zc_str("x"), 0));
    (void)good(f->s.touch(f->s.user, keys[0], MS + 9000));
    zct_step(&f->time, 100 * ZC_MILLISECOND);
    int rc = ld_get(&f->s, keys[0], &g);
    if (good(rc)) CHECK(rc == ZC_OK || !f->put || evicts());
    if (rc == ZC_OK) CHECK(g.len == 5 && memcmp(g.data, "value", 5) == 0);
    free(g.data);
    if (good(f->s.get_many(f->s.user, keys, 2, to, results)))
        for (unsigned i = 0; i < 2; i++) (void)good(results[i]);
    for (unsigned i = 0; i < 2; i++) zc__buf_free(&mem, &sinks[i].buf);
    (void)good(ld_get(&f->s, zc_str("e0"), &g));
    free(g.data);
    rc = f->s.lock(f->s.user, keys[0], ZC_SECOND, &token);
    if (good(rc)) CHECK(rc == ZC_OK && token);
    if (token) (void)good(f->s.unlock(f->s.user, keys[0], token));
    append(f, "t:1");
    append(f, "t:2");
    append(f, NULL);
    (void)good(ld_read(&f->b, 0, &h));
    if (good(f->b.peek(f->b.user, &position))) CHECK(position >= f->appended);
    if (good(f->b.versions(f->b.user, paths, 2, at))) CHECK(at[1] <= f->maybe);
    f->deleted = good(f->s.del(f->s.user, zc_str("d")));
    (void)good(f->b.beat(f->b.user, zc_str("")));
}

/* What is there afterwards is what was said to be done; what has failed is done whole, or not. Or
 * everything is gone, and so is the identity: a boot that could not be told is another one. */
static void look(fixture *f) {
    heard h;
    uint64_t identity = 0, at = 0;
    CHECK_EQ(f->b.attach(f->b.user, &identity, &at), ZC_OK);
    if (f->identity && identity != f->identity) {
        CHECK_EQ(at, 0);
        CHECK_EQ(ld_expect(&f->s, zc_str("a"), zc_str("")), ZC_MISS);
        f->put = f->deleted = false;
        f->appended = 0;
    }
    int rc = ld_expect(&f->s, zc_str("a"), zc_str("value"));
    CHECK(rc == ZC_OK || (rc == ZC_MISS && (!f->put || evicts())));
    rc = ld_expect(&f->s, zc_str("d"), zc_str("x"));
    CHECK(rc == ZC_MISS || (rc == ZC_OK && !f->deleted));
    CHECK_EQ(ld_read(&f->b, 0, &h), ZC_OK);
    CHECK(h.entries >= f->appended && h.entries <= f->maybe);
    if (h.entries) CHECK(h.first == 1 && h.last == h.entries);
    ld_check((zc__lmdb *)f->s.user);
    CHECK_EQ(f->s.put(f->s.user, zc_str("b"), zc_str("after"), 0), ZC_OK);
    CHECK_EQ(ld_expect(&f->s, zc_str("b"), zc_str("after")), ZC_OK);
    CHECK_EQ(ld_append(&f->b, "t", &at), ZC_OK);
    CHECK_EQ(at, h.entries + 1);
}

/* One run, in which the n-th call fails; false: there are not so many. */
static bool run(uint64_t n, int with, bool sync) {
    fixture f;
    memset(&f, 0, sizeof f);
    f.time.mono = 1000 * ZC_SECOND;
    f.time.wall = MS * ZC_MILLISECOND;
    strcpy(f.dir.path, "/dev/shm/zc-lmdb-XXXXXX"); /* where there is: it syncs at once */
    if (!mkdtemp(f.dir.path) && !CHECK(ld_make(&f.dir))) return false;
    calls = 0;
    fail_at = n;
    fail_with = with;
    if (good(start(&f, sync))) {
        use(&f);
        shut(&f);
        CHECK_EQ(f.mem.blocks, 0);
        if (good(start(&f, !sync))) shut(&f); /* another time, likewise */
    }
    CHECK_EQ(f.mem.blocks, 0);
    bool more = calls >= n;
    fail_at = 0;
    if (CHECK_EQ(start(&f, sync), ZC_OK)) {
        look(&f);
        shut(&f);
    }
    CHECK_EQ(f.mem.blocks, 0);
    ld_remove(&f.dir);
    if (zct_bad) printf("    call %u fails with %d\n", (unsigned)n, with);
    return more && zct_bad == 0;
}

static void sweep(int with, bool sync) {
    uint64_t n = 1;
    while (run(n, with, sync)) n++;
    printf("    %u calls\n", (unsigned)n - 1);
    CHECK(n > 100);
}

TEST(each_call_fails_once) { sweep(EIO, false); }
TEST(each_call_fails_once_with_sync) { sweep(EIO, true); }
TEST(each_call_has_no_memory_once) { sweep(ENOMEM, false); }
TEST(each_call_is_interrupted_once) { sweep(EINTR, false); }
TEST(each_call_finds_no_room_once) { sweep(ENOSPC, false); }

TEST(each_call_finds_no_slot_for_a_reader_once) { sweep(MDB_READERS_FULL, false); }
