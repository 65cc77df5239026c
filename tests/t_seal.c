/* Sealing: the cipher's vectors, forgeries, what a storage sees, keys that change, faults. */
#define _GNU_SOURCE /* memmem */
#define ZOOCACHE_IMPLEMENTATION
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_WITH_LMDB
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"
#include "lmdb_dir.h"

#include <openssl/kdf.h>
#include <pthread.h>
#include <sys/mman.h>

/* With ZC_LONG: a million forgeries, ten million nonces (make seal-long). */
static size_t so_many(size_t usual, size_t many) { return getenv("ZC_LONG") ? many : usual; }

#define START (UINT64_C(1700000000) * ZC_SECOND)

/* ---- OpenSSL's memory, of which the n-th piece can fail ---- */

static uint64_t pieces, fail_at; /* atomic */
static void *piece(size_t size) {
    uint64_t n = __atomic_add_fetch(&pieces, 1, __ATOMIC_RELAXED);
    return n == __atomic_load_n(&fail_at, __ATOMIC_RELAXED) ? NULL : malloc(size);
}
static void *ssl_malloc(size_t size, const char *file, int line) {
    (void)file; (void)line;
    return piece(size);
}
static void *ssl_realloc(void *p, size_t size, const char *file, int line) {
    (void)file; (void)line;
    return realloc(p, size);
}
static void ssl_free(void *p, const char *file, int line) {
    (void)file; (void)line;
    free(p);
}
static bool watched;
__attribute__((constructor(101))) static void watch(void) {
    watched = CRYPTO_set_mem_functions(ssl_malloc, ssl_realloc, ssl_free) == 1;
}

/* ---- a sink, and a sealer of one key ---- */

static zc__mem plain_mem;
static void sink_open(zc_sink *sink) {
    memset(sink, 0, sizeof *sink);
    sink->mem = &plain_mem;
    sink->most = UINT32_MAX;
}
static void sink_close(zc_sink *sink) { zc__buf_free(&plain_mem, &sink->buf); }

static unsigned char key_a[ZC_SEAL_KEY], key_b[ZC_SEAL_KEY];
__attribute__((constructor)) static void keys(void) {
    memset(key_a, 'a', sizeof key_a);
    memset(key_b, 'b', sizeof key_b);
}

static bool sealer_of(zc_sealer *s, const char *prefix, const unsigned char *first,
                      const unsigned char *second) {
    zc_bytes k[2] = {zc_slice(first, ZC_SEAL_KEY), zc_slice(second, ZC_SEAL_KEY)};
    zc_seal_desc d = {.keys = k, .nkeys = second ? 2 : 1, .prefix = zc_str(prefix)};
    return CHECK_EQ(zc_seal_open(&d, s), ZC_OK);
}

/* Opens into a copy that ends with NUL; NULL: it does not open, *rc says why. */
static char *opened(const zc_sealer *s, const char *key, zc_bytes sealed, int *rc) {
    zc_sink sink;
    char *text = NULL;
    sink_open(&sink);
    *rc = s->open(s->user, zc_str(key), sealed, &sink);
    if (*rc == ZC_OK && (text = (char *)calloc(1, sink.buf.size + 1)) != NULL && sink.buf.size)
        memcpy(text, sink.buf.ptr, sink.buf.size);
    CHECK(*rc == ZC_OK || sink.buf.size == 0); /* nothing of a forgery comes out */
    sink_close(&sink);
    return text;
}

/* ---- the cipher ---- */

static size_t from_hex(const char *hex, unsigned char *out) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned v;
        CHECK_EQ(sscanf(hex + 2 * i, "%2x", &v), 1);
        out[i] = (unsigned char)v;
    }
    return n;
}

static bool xaes(zc__seal *s, const unsigned char *key, const unsigned char *nonce, zc_bytes from,
                 zc_bytes aad, unsigned char *to, unsigned char *tag, int encrypts) {
    zc__seal_context *x = zc__seal_take(s, 0);
    if (!CHECK(x != NULL)) return false;
    bool ok = zc__xaes_init(x, key, nonce, aad, zc_slice("", 0), encrypts) &&
              zc__xaes_run(x, from, to, tag, encrypts);
    zc__seal_give(s, x, 0);
    return ok;
}

TEST(the_cipher_is_that_of_its_specification) {
    static const struct {
        unsigned char key;
        const char *aad, *ciphertext;
    } v[] = {{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
             {3, "c2sp.org/XAES-256-GCM",
              "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"}};
    zc_sealer s;
    if (!sealer_of(&s, "", key_a, NULL)) return;
    for (size_t i = 0; i < 2; i++) {
        unsigned char key[32], want[64], made[64];
        memset(key, v[i].key, sizeof key);
        size_t n = from_hex(v[i].ciphertext, want);
        zc_bytes text = zc_str("XAES-256-GCM"), nonce = zc_str("ABCDEFGHIJKLMNOPQRSTUVWX");
        CHECK(xaes((zc__seal *)s.user, key, (const unsigned char *)nonce.ptr, text,
                   zc_str(v[i].aad), made, made + text.len, 1));
        CHECK(n == text.len + 16 && memcmp(made, want, n) == 0);
    }
    s.close(s.user);
}

TEST(keys_are_derived_as_hkdf_does) {
    unsigned char key[ZC_SEAL_KEY], ours[ZC_SEAL_KEY], theirs[ZC_SEAL_KEY];
    for (int i = 0; i < 100; i++) {
        unsigned char info[200] = "use", prefix[40], scope[140];
        size_t np = zct_below(sizeof prefix), ns = zct_below(sizeof scope), len = sizeof theirs;
        for (size_t k = 0; k < sizeof key; k++) key[k] = (unsigned char)zct_rand();
        for (size_t k = 0; k < np; k++) prefix[k] = (unsigned char)zct_rand();
        for (size_t k = 0; k < ns; k++) scope[k] = (unsigned char)zct_rand();
        zc__put_le(info + 3, np, 8);
        memcpy(info + 11, prefix, np);
        memcpy(info + 11 + np, scope, ns);
        EVP_PKEY_CTX *k = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
        CHECK(k && EVP_PKEY_derive_init(k) > 0 && EVP_PKEY_CTX_set_hkdf_md(k, EVP_sha256()) > 0 &&
              EVP_PKEY_CTX_set1_hkdf_key(k, key, sizeof key) > 0 &&
              EVP_PKEY_CTX_add1_hkdf_info(k, info, (int)(11 + np + ns)) > 0 &&
              EVP_PKEY_derive(k, theirs, &len) > 0);
        EVP_PKEY_CTX_free(k);
        CHECK(zc__seal_derive(key, "use", zc_slice(prefix, np), zc_slice(scope, ns), ours));
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);
    }
}

/* The accumulated test of the specification: 10,000 random messages. */
static void squeeze(EVP_MD_CTX *c, unsigned char *all, size_t n) {
    CHECK(EVP_DigestInit_ex(c, EVP_shake128(), NULL) > 0 && EVP_DigestFinalXOF(c, all, n) > 0);
}
TEST(ten_thousand_random_messages_have_the_hash_of_the_specification) {
    enum { N = 10000, MOST = N * (32 + 24 + 2 * 256) };
    zc_sealer s;
    EVP_MD_CTX *c = EVP_MD_CTX_new(), *sum = EVP_MD_CTX_new();
    unsigned char *random = (unsigned char *)malloc(MOST), out[300], back[300], digest[32], want[32];
    REQUIRE(c && sum && random && sealer_of(&s, "", key_a, NULL));
    squeeze(c, random, MOST);
    CHECK(EVP_DigestInit_ex(sum, EVP_shake128(), NULL) > 0);
    const unsigned char *at = random;
    for (int i = 0; i < N; i++) {
        const unsigned char *key = at, *nonce = at + 32;
        at += 56;
        zc_bytes text = zc_slice(at + 1, *at);
        at += 1 + text.len;
        zc_bytes aad = zc_slice(at + 1, *at);
        at += 1 + aad.len;
        CHECK(xaes((zc__seal *)s.user, key, nonce, text, aad, out, out + text.len, 1));
        CHECK(EVP_DigestUpdate(sum, out, text.len + 16) > 0);
        CHECK(xaes((zc__seal *)s.user, key, nonce, zc_slice(out, text.len), aad, back,
                   out + text.len, 0));
        CHECK(text.len == 0 || memcmp(back, text.ptr, text.len) == 0);
    }
    CHECK(EVP_DigestFinalXOF(sum, digest, sizeof digest) > 0);
    from_hex("e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939", want);
    CHECK(memcmp(digest, want, sizeof want) == 0);
    free(random);
    EVP_MD_CTX_free(c);
    EVP_MD_CTX_free(sum);
    s.close(s.user);
}

/* ---- forgeries ---- */

TEST(nothing_that_was_changed_moved_or_cut_opens) {
    zc_sealer s, other, foreign;
    zc_sink sealed;
    int rc;
    REQUIRE(sealer_of(&s, "shop", key_a, NULL) && sealer_of(&other, "bank", key_a, NULL) &&
            sealer_of(&foreign, "shop", key_b, NULL));
    sink_open(&sealed);
    CHECK_EQ(s.seal(s.user, zc_str("k"), zc_str("the secret of a tenant"), &sealed), ZC_OK);
    zc_bytes whole = zc_slice(sealed.buf.ptr, sealed.buf.size);
    char *text = opened(&s, "k", whole, &rc);
    CHECK(text && strcmp(text, "the secret of a tenant") == 0);
    free(text);
    CHECK(!opened(&s, "l", whole, &rc) && rc == ZC_E_SEAL);
    CHECK(!opened(&other, "k", whole, &rc) && rc == ZC_E_SEAL);
    CHECK(!opened(&foreign, "k", whole, &rc) && rc == ZC_E_UNKEYED);
    unsigned char *copy = (unsigned char *)malloc(whole.len + 8);
    REQUIRE(copy);
    for (size_t n = 0; n <= whole.len + 8; n++) { /* cut, and with more behind it */
        memcpy(copy, whole.ptr, n < whole.len ? n : whole.len);
        if (n > whole.len) memset(copy + whole.len, 0, n - whole.len);
        if (n != whole.len) CHECK(!opened(&s, "k", zc_slice(copy, n), &rc) && rc == ZC_E_SEAL);
    }
    for (size_t bit = 0; bit < 8 * whole.len; bit++) {
        memcpy(copy, whole.ptr, whole.len);
        copy[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CHECK(!opened(&s, "k", zc_slice(copy, whole.len), &rc) &&
              (rc == ZC_E_SEAL || (rc == ZC_E_UNKEYED && bit / 8 >= 4 && bit / 8 < 8)));
    }
    for (int i = 0; i < 20000; i++) { /* anything at all behind a good head */
        memcpy(copy, whole.ptr, whole.len);
        for (size_t k = 8 + zct_below(whole.len - 8); k < whole.len; k++)
            copy[k] = (unsigned char)zct_rand();
        if (memcmp(copy, whole.ptr, whole.len) == 0) continue;
        CHECK(!opened(&s, "k", zc_slice(copy, whole.len), &rc) && rc == ZC_E_SEAL);
    }
    /* An old head before a new body. */
    zc_sink again;
    sink_open(&again);
    CHECK_EQ(s.seal(s.user, zc_str("k"), zc_str("the secret of a tenant"), &again), ZC_OK);
    CHECK_EQ(again.buf.size, whole.len);
    CHECK(memcmp(again.buf.ptr, whole.ptr, whole.len) != 0);
    memcpy(copy, again.buf.ptr, whole.len);
    memcpy(copy, whole.ptr, ZC__SEAL_HEAD);
    CHECK(!opened(&s, "k", zc_slice(copy, whole.len), &rc) && rc == ZC_E_SEAL);
    free(copy);
    sink_close(&again);
    sink_close(&sealed);
    s.close(s.user);
    other.close(other.user);
    foreign.close(foreign.user);
}

/* ---- scopes ---- */

static zc_bytes first_part(void *user, zc_bytes key) { /* "tenant/key" */
    const char *p = (const char *)key.ptr, *end = (const char *)memchr(p, '/', key.len);
    CHECK(user == key_a);
    return zc_slice(p, end ? (size_t)(end - p) : 0);
}

TEST(each_scope_has_a_key_of_its_own) {
    char keys[40][300];
    zc_bytes k = zc_slice(key_a, ZC_SEAL_KEY);
    zc_seal_desc d = {.keys = &k, .nkeys = 1, .scope_of = first_part, .user = key_a};
    zc_sealer s;
    zc_sink sealed[40];
    int rc;
    REQUIRE(zc_seal_open(&d, &s) == ZC_OK);
    unsigned char scoped[3][ZC_SEAL_KEY];
    static const char *const tenants[3] = {"", "1", "2"};
    for (size_t i = 0; i < 3; i++) {
        zc__seal_context *x = zc__seal_take((zc__seal *)s.user, 0);
        const unsigned char *one =
            zc__seal_scope_key((zc__seal *)s.user, x, 0, zc_str(tenants[i]));
        REQUIRE(one != NULL);
        memcpy(scoped[i], one, ZC_SEAL_KEY);
        zc__seal_give((zc__seal *)s.user, x, 0);
        for (size_t j = 0; j < i; j++) CHECK(memcmp(scoped[i], scoped[j], ZC_SEAL_KEY) != 0);
    }
    for (int i = 0; i < 40; i++) { /* more than a context knows, some too long for it */
        memset(keys[i], 'x', sizeof keys[i]);
        int n = snprintf(keys[i], sizeof keys[i], "tenant-%d", i);
        if (i % 10 == 9) keys[i][n] = 'x', n = 290;
        snprintf(keys[i] + n, sizeof keys[i] - (size_t)n, "/k");
        sink_open(&sealed[i]);
        CHECK_EQ(s.seal(s.user, zc_str(keys[i]), zc_str(keys[i]), &sealed[i]), ZC_OK);
    }
    for (int i = 0; i < 400; i++) {
        int n = (int)zct_below(40);
        zc_bytes whole = zc_slice(sealed[n].buf.ptr, sealed[n].buf.size);
        char *text = opened(&s, keys[n], whole, &rc);
        CHECK(text && strcmp(text, keys[n]) == 0);
        free(text);
        CHECK(!opened(&s, keys[(n + 1) % 40], whole, &rc) && rc == ZC_E_SEAL);
    }
    for (int i = 0; i < 40; i++) sink_close(&sealed[i]);
    s.close(s.user);
}

/* ---- forgeries of every kind ---- */

enum { CACHES = 4, OF_EACH = 16 };
typedef struct forge {
    zc_sealer s[CACHES]; /* of two keys and two prefixes; scopes as above */
    char keys[OF_EACH][16];
    zc_sink good[CACHES][OF_EACH];
} forge;

static zc_bytes good_one(const forge *f, size_t cache, size_t key) {
    return zc_slice(f->good[cache][key].buf.ptr, f->good[cache][key].buf.size);
}
/* One bit or several, a cut, more behind it, or what another has before or behind some place. */
static size_t changed(const forge *f, unsigned char *to, zc_bytes from) {
    zc_bytes other = good_one(f, zct_below(CACHES), zct_below(OF_EACH));
    size_t len = from.len, at = zct_below(len);
    memcpy(to, from.ptr, len);
    switch (zct_below(6)) {
    case 0: to[at] ^= (unsigned char)(1 << zct_below(8)); break;
    case 1: for (int i = 0; i < 9; i++) to[zct_below(len)] ^= (unsigned char)zct_rand(); break;
    case 2: return at;
    case 3: to[len] = (unsigned char)zct_rand(); return len + 1;
    case 4: memcpy(to, other.ptr, at < other.len ? at : other.len); break;
    default: at = zct_below(2) ? ZC__SEAL_HEAD : at;
             memcpy(to + at, (const char *)other.ptr + at, other.len - at); return other.len;
    }
    return len;
}

TEST(forgeries_of_every_kind) {
    static forge f;
    size_t opens = 0, n = so_many(20000, 1000000);
    int rc;
    for (size_t c = 0; c < CACHES; c++) {
        zc_bytes k = zc_slice(c & 1 ? key_a : key_b, ZC_SEAL_KEY);
        zc_seal_desc d = {.keys = &k, .nkeys = 1, .prefix = zc_str(c & 2 ? "shop" : "bank"),
                          .scope_of = first_part, .user = key_a};
        REQUIRE(zc_seal_open(&d, &f.s[c]) == ZC_OK);
        for (size_t i = 0; i < OF_EACH; i++) {
            snprintf(f.keys[i], sizeof f.keys[i], "tenant%d/%d", (int)i % 4, (int)i / 4);
            sink_open(&f.good[c][i]);
            CHECK_EQ(f.s[c].seal(f.s[c].user, zc_str(f.keys[i]), zc_str("of one length"),
                                 &f.good[c][i]), ZC_OK);
        }
    }
    for (size_t i = 0; i < n; i++) {
        size_t c = zct_below(CACHES), k = zct_below(OF_EACH), to = zct_below(CACHES),
               key = zct_below(OF_EACH);
        unsigned char bytes[256];
        zc_bytes good = good_one(&f, c, k), forged = good;
        if (zct_below(4)) forged = zc_slice(bytes, changed(&f, bytes, good));
        if (zct_below(2)) to = c, key = k;
        zc_bytes own = good_one(&f, to, key);
        bool same = forged.len == own.len && memcmp(forged.ptr, own.ptr, own.len) == 0;
        char *text = opened(&f.s[to], f.keys[key], forged, &rc);
        CHECK_EQ(text != NULL, same);
        CHECK(same || rc == ZC_E_SEAL || rc == ZC_E_UNKEYED);
        opens += same;
        free(text);
    }
    CHECK(opens > n / 16 && opens < n / 4);
    for (size_t c = 0; c < CACHES; c++) {
        for (size_t i = 0; i < OF_EACH; i++) sink_close(&f.good[c][i]);
        f.s[c].close(f.s[c].user);
    }
}

/* ---- nonces, over threads and forks ---- */

enum { THREADS = 4, FORKS = 3 };
static size_t each;
typedef struct batch {
    zc_sealer *s;
    unsigned char (*nonce)[24];
} batch;
static void *seal_many(void *arg) {
    batch *b = (batch *)arg;
    for (size_t i = 0; i < each; i++) {
        zc_sink out;
        sink_open(&out);
        CHECK_EQ(b->s->seal(b->s->user, zc_str("k"), zc_str("v"), &out), ZC_OK);
        if (out.buf.size > 32) memcpy(b->nonce[i], out.buf.ptr + 8, 24);
        sink_close(&out);
    }
    return NULL;
}
static int by_bytes(const void *a, const void *b) { return memcmp(a, b, 24); }

TEST(no_nonce_is_given_twice_over_threads_and_forks) {
    enum { PARTS = 1 + THREADS + FORKS };
    zc_sealer s;
    pthread_t t[THREADS];
    pid_t child[FORKS];
    batch b[PARTS];
    each = so_many(5000, 1250000);
    size_t all = PARTS * each;
    void *room = mmap(NULL, all * 24, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char(*nonces)[24] = (unsigned char(*)[24])room;
    REQUIRE(room != MAP_FAILED && sealer_of(&s, "", key_a, NULL));
    for (size_t i = 0; i < PARTS; i++) b[i] = (batch){&s, nonces + i * each};
    seal_many(&b[0]); /* so that there is something to be repeated */
    for (int i = 0; i < FORKS; i++) {
        if ((child[i] = fork()) != 0) continue;
        seal_many(&b[1 + i]);
        _exit(zct_bad != 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&t[i], NULL, seal_many, &b[1 + FORKS + i]), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < FORKS; i++) {
        int status = 1;
        CHECK(waitpid(child[i], &status, 0) == child[i] && status == 0);
    }
    qsort(nonces, all, 24, by_bytes);
    size_t twice = 0;
    for (size_t i = 1; i < all; i++) twice += memcmp(nonces[i - 1], nonces[i], 24) == 0;
    CHECK_EQ(twice, 0);
    munmap(room, all * 24);
    s.close(s.user);
}

/* ---- a cache ---- */

typedef struct fixture {
    zct_mem mem;
    zct_time time;
    fault_store store;
    zc_cache *c;
    bool strict;
} fixture;

static bool reopen(fixture *f, const char *prefix, const unsigned char *first,
                   const unsigned char *second) {
    zc_desc d = {.max_entries = 1, .no_thread = true, .seal_strict = f->strict};
    d.allocator = zct_allocator(&f->mem);
    d.clock = zct_clock(&f->time);
    d.store = fs_hook(&f->store, true);
    return sealer_of(&d.sealer, prefix, first, second) && CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static bool start(fixture *f) {
    memset(f, 0, sizeof *f);
    fs_init(&f->store);
    f->time.mono = 1000 * ZC_SECOND;
    f->time.wall = START;
    return reopen(f, "shop", key_a, NULL);
}
static void shut(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
}
static void stop(fixture *f) {
    shut(f);
    fs_destroy(&f->store);
}
static zc_stats stats(fixture *f) {
    zc_stats s;
    zc_stats_read(f->c, &s);
    return s;
}
static int put(fixture *f, const char *key, const char *value, const char *tag) {
    zc_bytes dep = zc_str(tag);
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    return zc_put(f->c, zc_str(key), zc_str(value), &o);
}
static int get(fixture *f, const char *key, const char *want) {
    zc_view v;
    int rc = zc_get(f->c, zc_str(key), &v);
    if (rc == ZC_OK) CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(f->c, &v);
    return rc;
}
static void evict(fixture *f, const char *key) {
    zc_explanation x = {.present = true};
    for (int i = 0; i < 1000 && x.present; i++) {
        CHECK_EQ(put(f, "makes room", "", "room"), ZC_OK);
        CHECK_EQ(zc_explain(f->c, zc_str(key), &x), ZC_OK);
    }
    CHECK(!x.present);
}
static int loads;
static int load(zc_fill *fill, void *user) {
    loads++;
    return zc_fill_value(fill, zc_str((const char *)user));
}
static int fetch(fixture *f, const char *key, const char *loaded, const char *want) {
    zc_view v;
    char text[64];
    snprintf(text, sizeof text, "%s", loaded);
    int rc = zc_fetch(f->c, zc_str(key), load, text, NULL, &v);
    if (rc == ZC_OK) CHECK(v.size == strlen(want) && memcmp(v.data, want, v.size) == 0);
    zc_release(f->c, &v);
    return rc;
}
static bool store_shows(fault_store *s, const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < 64; i++)
        for (fs_record *r = s->records[i]; r; r = r->next)
            if (memmem(r->data, r->len, text, len) || memmem(r->key, r->key_len, text, len))
                return true;
    return false;
}
/* The only record but "makes room". */
static fs_record *record_of(fixture *f, const char *key) {
    unsigned char name[ZC_SEAL_NAME];
    const zc_sealer *s = &f->c->desc.sealer;
    CHECK_EQ(s->blind(s->user, 0, zc_str(key), name), ZC_OK);
    return fs_find(&f->store, zc_slice(name, sizeof name));
}

TEST(a_storage_sees_neither_key_nor_value_nor_dependency) {
    fixture f;
    if (!start(&f)) return;
    CHECK_EQ(put(&f, "key-of-alice", "value-of-alice", "tag-of-alice"), ZC_OK);
    CHECK_EQ(f.store.nrecords, 1);
    CHECK(!store_shows(&f.store, "alice"));
    evict(&f, "key-of-alice");
    CHECK_EQ(get(&f, "key-of-alice", "value-of-alice"), ZC_OK);
    CHECK_EQ(stats(&f).hits_store, 1);
    CHECK_EQ(zc_invalidate(f.c, zc_str("tag-of-alice")), ZC_OK);
    CHECK_EQ(get(&f, "key-of-alice", ""), ZC_MISS);
    CHECK_EQ(put(&f, "key-of-alice", "new", "tag-of-alice"), ZC_OK);
    shut(&f); /* and a restart finds it, judged as ever */
    if (!reopen(&f, "shop", key_a, NULL)) return;
    CHECK_EQ(get(&f, "key-of-alice", "new"), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("key-of-alice")), ZC_OK);
    CHECK(!record_of(&f, "key-of-alice"));
    CHECK_EQ(zc_clear(f.c), ZC_OK);
    CHECK_EQ(f.store.nrecords, 0);
    stop(&f);
}

TEST(what_does_not_open_is_a_miss_and_told_apart) {
    fixture f;
    if (!start(&f)) return;
    loads = 0;
    CHECK_EQ(put(&f, "k", "good", "t"), ZC_OK);
    evict(&f, "k");
    fs_record *r = record_of(&f, "k");
    REQUIRE(r != NULL);
    r->data[r->len / 2] ^= 1;
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_forged, 1);
    CHECK_EQ(fetch(&f, "k", "again", "again"), ZC_OK); /* and it is replaced */
    CHECK_EQ(loads, 1);
    evict(&f, "k");
    CHECK_EQ(get(&f, "k", "again"), ZC_OK);
    evict(&f, "k");
    /* A plain record, such as one who has no key could plant, is a forgery. */
    zc_record plain = {.key = zc_str("k"), .value = zc_str("planted"), .generation = 77,
                       .begin = zc_begin(f.c)};
    zc_bytes bytes;
    REQUIRE(zc_record_encode(&plain, NULL, &bytes) == ZC_OK);
    r = record_of(&f, "k");
    REQUIRE(r != NULL);
    fs_plant(&f.store, zc_slice(r->key, r->key_len), bytes.ptr, bytes.len, 0);
    free((void *)(uintptr_t)bytes.ptr);
    CHECK_EQ(get(&f, "k", ""), ZC_MISS);
    CHECK_EQ(stats(&f).store_forged, 3);
    CHECK_EQ(stats(&f).store_unkeyed, 0);
    CHECK_EQ(stats(&f).store_errors + stats(&f).store_corrupt, 0);
    stop(&f);
}

TEST(a_strict_cache_fails_and_leaves_the_record_as_it_is) {
    fixture f;
    zc_view v[2];
    int results[2];
    if (!start(&f)) return;
    shut(&f);
    f.strict = true;
    if (!reopen(&f, "shop", key_a, NULL)) return;
    loads = 0;
    CHECK_EQ(put(&f, "k", "good", "t"), ZC_OK);
    evict(&f, "k");
    fs_record *r = record_of(&f, "k");
    REQUIRE(r != NULL);
    r->data[r->len - 1] ^= 1;
    CHECK_EQ(get(&f, "k", ""), ZC_E_SEAL);
    CHECK_EQ(fetch(&f, "k", "again", ""), ZC_E_SEAL);
    CHECK_EQ(loads, 0);
    zc_fill *fill;
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v[0], &fill), ZC_E_SEAL);
    CHECK(!fill);
    zc_bytes both[2] = {zc_str("k"), zc_str("none")};
    (void)zc_get_many(f.c, both, 2, v, results);
    CHECK_EQ(results[0], ZC_E_SEAL);
    CHECK_EQ(results[1], ZC_MISS);
    r->data[r->len - 1] ^= 1;
    CHECK_EQ(get(&f, "k", "good"), ZC_OK); /* nothing has written over it */
    evict(&f, "k");
    memset(r->data + 4, 'x', 4);
    CHECK_EQ(get(&f, "k", ""), ZC_E_UNKEYED);
    CHECK_EQ(stats(&f).store_unkeyed, 1);
    stop(&f);
}

TEST(keys_change_without_a_miss_and_old_ones_are_dropped_with_theirs) {
    fixture f;
    if (!start(&f)) return;
    CHECK_EQ(put(&f, "k", "old", "t"), ZC_OK);
    CHECK_EQ(put(&f, "gone", "old", "t"), ZC_OK);
    shut(&f);
    if (!reopen(&f, "shop", key_a, key_b)) return; /* every process knows the new one first */
    CHECK_EQ(get(&f, "k", "old"), ZC_OK);
    shut(&f);
    if (!reopen(&f, "shop", key_b, key_a)) return; /* then it seals */
    CHECK_EQ(get(&f, "k", "old"), ZC_OK);
    CHECK_EQ(zc_del(f.c, zc_str("gone")), ZC_MISS); /* not in the table; under its older name */
    CHECK_EQ(put(&f, "k", "new", "t"), ZC_OK);
    CHECK_EQ(f.store.nrecords, 1); /* the older name gave way */
    CHECK_EQ(put(&f, "l", "new", "t"), ZC_OK);
    shut(&f);
    if (!reopen(&f, "shop", key_a, key_b)) return; /* a process that is one step behind */
    CHECK_EQ(get(&f, "k", "new"), ZC_OK);
    shut(&f);
    if (!reopen(&f, "shop", key_b, NULL)) return;
    CHECK_EQ(get(&f, "l", "new"), ZC_OK);
    CHECK_EQ(get(&f, "gone", ""), ZC_MISS);
    shut(&f);
    if (!reopen(&f, "shop", key_a, NULL)) return;
    CHECK_EQ(get(&f, "l", ""), ZC_MISS); /* its name is another */
    CHECK_EQ(stats(&f).store_forged + stats(&f).store_unkeyed, 0);
    stop(&f);
}

TEST(descriptions_that_are_wrong_are_refused) {
    zc_bytes k[ZC_SEAL_KEYS + 1], few = zc_slice(key_a, ZC_SEAL_KEY - 1);
    zc_sealer s = {.version = 1};
    for (size_t i = 0; i <= ZC_SEAL_KEYS; i++) k[i] = zc_slice(key_a, ZC_SEAL_KEY);
    zc_seal_desc d = {.keys = k, .nkeys = 1};
    CHECK_EQ(zc_seal_open(&d, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_seal_open(NULL, &s), ZC_E_INVAL);
    CHECK_EQ(s.version, 0);
    d.nkeys = 0;
    CHECK_EQ(zc_seal_open(&d, &s), ZC_E_INVAL);
    d.nkeys = ZC_SEAL_KEYS + 1;
    CHECK_EQ(zc_seal_open(&d, &s), ZC_E_INVAL);
    d = (zc_seal_desc){.keys = &few, .nkeys = 1};
    CHECK_EQ(zc_seal_open(&d, &s), ZC_E_INVAL);
    d = (zc_seal_desc){.keys = k, .nkeys = 1, .prefix = zc_slice(NULL, 3)};
    CHECK_EQ(zc_seal_open(&d, &s), ZC_E_INVAL);
    zc_cache *c;
    zc_desc without = {.max_entries = 1};
    REQUIRE(sealer_of(&without.sealer, "", key_a, NULL));
    CHECK_EQ(zc_open(&without, &c), ZC_E_INVAL); /* there is no storage to be sealed */
    without.sealer.close(without.sealer.user);
}

TEST(no_failed_allocation_loses_anything) {
    fixture f;
    REQUIRE(watched);
    for (uint64_t n = 1;; n++) { /* of OpenSSL, in all that a sealer does */
        zc_bytes k = zc_slice(key_a, ZC_SEAL_KEY);
        zc_seal_desc d = {.keys = &k, .nkeys = 1, .prefix = zc_str("p")};
        zc_sealer s;
        zc_sink out;
        unsigned char name[ZC_SEAL_NAME];
        sink_open(&out);
        __atomic_store_n(&pieces, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&fail_at, n, __ATOMIC_RELAXED);
        int rc = zc_seal_open(&d, &s), sealed = ZC_E_NOMEM, back = ZC_E_NOMEM, blind = ZC_E_NOMEM;
        if (rc == ZC_OK) sealed = s.seal(s.user, zc_str("k"), zc_str("v"), &out);
        if (sealed == ZC_OK) {
            zc_sink in;
            sink_open(&in);
            back = s.open(s.user, zc_str("k"), zc_slice(out.buf.ptr, out.buf.size), &in);
            if (back == ZC_OK) CHECK(in.buf.size == 1 && in.buf.ptr[0] == 'v');
            sink_close(&in);
        }
        if (rc == ZC_OK) blind = s.blind(s.user, 0, zc_str("k"), name);
        bool failed = __atomic_load_n(&pieces, __ATOMIC_RELAXED) >= n;
        __atomic_store_n(&fail_at, 0, __ATOMIC_RELAXED);
        CHECK(rc == ZC_OK || rc == ZC_E_NOMEM);
        CHECK(sealed == ZC_OK || sealed == ZC_E_NOMEM);
        CHECK(back == ZC_OK || back == ZC_E_NOMEM || back == ZC_E_SEAL);
        CHECK(blind == ZC_OK || blind == ZC_E_NOMEM);
        if (rc == ZC_OK) s.close(s.user);
        else CHECK_EQ(s.version, 0);
        sink_close(&out);
        if (failed) continue;
        CHECK(rc == ZC_OK && sealed == ZC_OK && back == ZC_OK && blind == ZC_OK);
        CHECK(n > 20);
        break;
    }
    if (!start(&f)) return;
    CHECK_EQ(put(&f, "k", "v", "t"), ZC_OK);
    evict(&f, "k");
    for (uint64_t n = 1;; n++) { /* of the cache, in a read through it, and in a write */
        f.mem.count = f.mem.failed = 0;
        f.mem.fail_at = n;
        int rc = get(&f, "k", "v"), wrote = put(&f, "k", "v", "t");
        bool failed = f.mem.failed != 0;
        f.mem.fail_at = 0;
        CHECK(rc == ZC_OK || rc == ZC_MISS || rc == ZC_E_NOMEM);
        CHECK(wrote == ZC_OK || wrote == ZC_E_NOMEM);
        if (!failed) {
            CHECK(n > 3);
            break;
        }
        CHECK_EQ(put(&f, "k", "v", "t"), ZC_OK);
        evict(&f, "k");
    }
    CHECK_EQ(stats(&f).store_forged, 0);
    stop(&f);
}

/* ---- a real storage ---- */

static bool file_shows(const lmdb_dir *d, const char *text) {
    char name[128];
    FILE *f = fopen(ld_file(d, "data.mdb", name), "rb");
    if (!CHECK(f != NULL)) return true;
    CHECK_EQ(fseek(f, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *all = (char *)malloc(n);
    bool shows = !all || fread(all, 1, n, f) != n || memmem(all, n, text, strlen(text));
    free(all);
    fclose(f);
    return shows;
}

TEST(an_lmdb_file_is_sealed_with_all_that_a_cache_asks_of_it) {
    lmdb_dir dir;
    zc_view v[3];
    int results[3];
    char copy[64];
    size_t len;
    REQUIRE(ld_make(&dir));
    for (int life = 0; life < 2; life++) {
        zc_cache *c;
        zc_desc d = {.max_entries = 1, .no_thread = true};
        zc_lmdb_desc l = {.path = dir.path, .map_size = 16 << 20};
        if (!CHECK_EQ(zc_lmdb_open(&l, &d.store, &d.bus), ZC_OK)) break;
        d.store.lock = NULL, d.store.unlock = NULL;
        if (!sealer_of(&d.sealer, "shop", key_a, NULL)) break;
        if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) break;
        zc_put_opts o = {.tti = ZC_SECOND * 1000};
        if (life == 0) {
            CHECK_EQ(zc_put(c, zc_str("key-of-bob"), zc_str("value-of-bob"), &o), ZC_OK);
            zc_bytes parts[] = {zc_str("second"), zc_str("-of-bob")}; /* LMDB would take them */
            CHECK_EQ(zc_put_parts(c, zc_str("two-of-bob"), parts, 2, &o), ZC_OK);
        }
        zc_bytes keys[3] = {zc_str("key-of-bob"), zc_str("none"), zc_str("two-of-bob")};
        CHECK_EQ(zc_get_many(c, keys, 3, v, results), 2);
        CHECK_EQ(results[1], ZC_MISS);
        if (results[2] == ZC_OK) CHECK(memcmp(v[2].data, "second-of-bob", v[2].size) == 0);
        for (int i = 0; i < 3; i++) zc_release(c, &v[i]);
        for (int i = 0; i < 20; i++) {
            CHECK_EQ(zc_get_copy(c, zc_str("two-of-bob"), copy, sizeof copy, &len), ZC_OK);
            CHECK(len == 13 && memcmp(copy, "second-of-bob", len) == 0);
            CHECK_EQ(zc_get_copy(c, zc_str("key-of-bob"), copy, sizeof copy, &len), ZC_OK);
            CHECK(len == 12 && memcmp(copy, "value-of-bob", len) == 0);
        }
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
        CHECK(!file_shows(&dir, "of-bob"));
    }
    ld_remove(&dir);
}
