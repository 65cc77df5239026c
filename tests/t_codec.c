/* The stored record: its bytes, round trips, damage, hostile lengths, want of memory. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { HEAD = 80 };

/* Forged records are at most this long. */
static unsigned char forged[8192];

static size_t from_hex(const char *hex, unsigned char *to) {
    size_t n = 0;
    for (; *hex; hex += 2) {
        unsigned v = 0;
        sscanf(hex, "%2x", &v);
        to[n++] = (unsigned char)v;
    }
    return n;
}

/* Makes the checksum right again. */
static void seal(unsigned char *p, size_t len) {
    zc__put_le(p + 8, XXH3_64bits_withSeed(p + 16, len - 16, zc__get64(p)), 8);
}

static bool same_bytes(zc_bytes a, zc_bytes b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static bool same_record(const zc_record *a, const zc_record *b) {
    if (!same_bytes(a->key, b->key) || !same_bytes(a->value, b->value)) return false;
    if (!same_bytes(a->mark, b->mark)) return false;
    if (a->ndeps != b->ndeps || a->absent != b->absent) return false;
    for (size_t i = 0; i < a->ndeps; i++)
        if (!same_bytes(a->deps[i], b->deps[i])) return false;
    return a->generation == b->generation && a->begin == b->begin &&
           a->expires_ms == b->expires_ms && a->soft_ms == b->soft_ms && a->tti_ms == b->tti_ms &&
           a->grace_ms == b->grace_ms;
}

static bool is_zero(const zc_record *r) {
    static const zc_record none;
    return !r->key.ptr && !r->value.ptr && !r->deps && same_record(r, &none);
}

static zc_bytes small_deps[2];

static zc_record small_record(void) {
    zc_record r;
    memset(&r, 0, sizeof r);
    small_deps[0] = zc_str("org:1");
    small_deps[1] = zc_str("user:42");
    r.key = zc_str("k1");
    r.value = zc_str("hello");
    r.deps = small_deps;
    r.ndeps = 2;
    r.generation = UINT64_C(0x1122334455667788);
    r.begin = UINT64_C(0x0102030405060708);
    r.expires_ms = UINT64_C(1700000000000);
    r.soft_ms = UINT64_C(1690000000000);
    r.tti_ms = 60000;
    r.grace_ms = 5000;
    return r;
}

/* Decodes through a counting allocator: whatever happens, nothing may leak, and a failure leaves
 * nothing behind. */
static int decode(const unsigned char *p, size_t len, size_t max_value, const zc_record *want) {
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    zc_record r;
    zc_bytes memory;
    memset(&r, 0xee, sizeof r);
    memset(&memory, 0xee, sizeof memory);
    int rc = zc_record_decode(zc_slice(p, len), max_value, &a, &r, &memory);
    if (rc == ZC_OK) {
        if (want) CHECK(same_record(&r, want));
        if (memory.ptr) zct_free(&mem, (void *)(uintptr_t)memory.ptr, memory.len);
    } else {
        CHECK(is_zero(&r) && !memory.ptr && !memory.len);
    }
    CHECK_EQ(mem.blocks, 0);
    return rc;
}

/* Encodes, and hands out a copy of exactly the right length on the heap. */
static unsigned char *encode(const zc_record *r, size_t *len) {
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    zc_bytes out;
    if (!CHECK_EQ(zc_record_encode(r, &a, &out), ZC_OK)) exit(1);
    unsigned char *copy = (unsigned char *)malloc(out.len);
    memcpy(copy, out.ptr, out.len);
    *len = out.len;
    CHECK_EQ(mem.bytes, out.len);
    zct_free(&mem, (void *)(uintptr_t)out.ptr, out.len);
    CHECK_EQ(mem.blocks, 0);
    return copy;
}

static void pinned(const char *hex, const zc_record *r, bool encoder_too) {
    size_t len, n = from_hex(hex, forged);
    unsigned char *p = encode(r, &len);
    if (encoder_too) {
        CHECK_EQ(len, n);
        CHECK(len == n && memcmp(p, forged, n) == 0);
    }
    CHECK_EQ(decode(forged, n, 1000, r), ZC_OK);
    free(p);
}

/* Written out by hand after the layout in the header; the checksums by another implementation of
 * XXH3. A change of any byte is a change of the format, and needs a new version. */
TEST(the_format_is_pinned_byte_by_byte) {
    zc_record r = small_record();
    pinned("5a4f4f43" "01" "00" "0200"  /* magic, version, flags, number of dependencies */
           "4313f5f876263f0b"           /* checksum */
           "8877665544332211"           /* generation */
           "0807060504030201"           /* begin */
           "0068e5cf8b010000"           /* expires */
           "0084d97b89010000"           /* soft deadline */
           "60ea000000000000"           /* tti */
           "8813000000000000"           /* stale_if_error */
           "0200" "0000" "05000000"     /* length of the key, of the mark, of the value */
           "05000000" "10000000"        /* of the value as stored, of the dependencies */
           "6b31"                       /* k1 */
           "0500" "6f72673a31"          /* org:1 */
           "0700" "757365723a3432"      /* user:42 */
           "68656c6c6f", &r, true);     /* hello */
    memset(&r, 0, sizeof r);
    r.generation = 1;
    r.begin = 2;
    r.absent = true;
    pinned("5a4f4f43" "01" "02" "0000" "5a248476892e720e" "0100000000000000" "0200000000000000"
           "0000000000000000" "0000000000000000" "0000000000000000" "0000000000000000"
           "00000000" "00000000" "00000000" "00000000", &r, true);
}

/* The compressed bytes may differ between versions of LZ4; that they are read may not. */
TEST(a_compressed_record_is_pinned_too) {
    static const char packed[] =
        "5a4f4f43" "01" "01" "0000" "f2530d2c16cb5c55" "0100000000000000" "0200000000000000"
        "0000000000000000" "0000000000000000" "0000000000000000" "0000000000000000"
        "01000000" "2c010000" "0c000000" "00000000" "7a" "1f7a0100ff14507a7a7a7a7a";
    static char value[300];
    zc_record r;
    memset(value, 'z', sizeof value);
    memset(&r, 0, sizeof r);
    r.key = zc_str("z");
    r.value = zc_slice(value, sizeof value);
    r.generation = 1;
    r.begin = 2;
#ifndef ZOOCACHE_NO_LZ4
    pinned(packed, &r, false);
#else
    CHECK_EQ(decode(forged, from_hex(packed, forged), 1000, &r), ZC_E_CORRUPT);
#endif
}

static void fill_random(unsigned char *p, size_t n, unsigned kinds) {
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)zct_below(kinds);
}

TEST(every_field_round_trips) {
    static unsigned char value[100000], key[ZC_KEY_MAX], tag[ZC_TAG_MAX];
    static zc_bytes deps[300];
    for (unsigned i = 0; i < 400; i++) {
        zc_record r;
        size_t len;
        memset(&r, 0, sizeof r);
        r.generation = zct_rand();
        r.begin = zct_rand();
        r.expires_ms = zct_rand();
        r.soft_ms = zct_rand();
        r.tti_ms = zct_rand();
        r.grace_ms = zct_rand();
        r.absent = zct_below(2) != 0;
        size_t vlen = i < 300 ? i : zct_below(sizeof value);
        size_t klen = i % 50 == 49 ? ZC_KEY_MAX : zct_below(100);
        fill_random(value, vlen, i % 3 == 0 ? 256 : i % 3 == 1 ? 2 : 20);
        fill_random(key, klen, 256);
        fill_random(tag, sizeof tag, 256);
        r.value = zc_slice(value, vlen);
        r.key = zc_slice(key, klen);
        r.deps = deps;
        r.ndeps = i % 4 ? zct_below(300) : 0;
        for (size_t d = 0; d < r.ndeps; d++)
            deps[d] = zc_slice(tag, d % 30 == 29 ? ZC_TAG_MAX : zct_below(50));
        unsigned char *p = encode(&r, &len);
        CHECK_EQ(decode(p, len, vlen, &r), ZC_OK);
        if (vlen) CHECK_EQ(decode(p, len, vlen - 1, &r), ZC_E_CORRUPT);
        free(p);
    }
}

TEST(the_largest_of_everything) {
    static zc_bytes deps[ZC_DEPS_MAX];
    zc_record r = small_record();
    size_t len;
    for (size_t i = 0; i < ZC_DEPS_MAX; i++) deps[i] = zc_str("a:b");
    r.deps = deps;
    r.ndeps = ZC_DEPS_MAX;
    unsigned char *p = encode(&r, &len);
    CHECK_EQ(decode(p, len, 5, &r), ZC_OK);
    free(p);
}

#ifndef ZOOCACHE_NO_LZ4
TEST(compression_from_256_bytes_where_it_pays) {
    static char value[5000];
    for (size_t n = 200; n < 300; n++) {
        zc_record r = small_record();
        size_t len;
        memset(value, 'x', n);
        r.value = zc_slice(value, n);
        unsigned char *p = encode(&r, &len);
        CHECK_EQ(p[5] & 1, n >= 256);
        CHECK_EQ(len < HEAD + n, n >= 256);
        free(p);
        for (size_t i = 0; i < n; i++) value[i] = (char)zct_rand(); /* noise does not shrink */
        p = encode(&r, &len);
        CHECK_EQ(p[5] & 1, 0);
        CHECK_EQ(len, HEAD + 2 + 16 + n);
        free(p);
    }
}

TEST(what_is_to_stay_plain_is_not_compressed) {
    static char value[5000];
    zc_record r = small_record();
    size_t len;
    memset(value, 'x', sizeof value);
    r.value = zc_slice(value, sizeof value);
    r.plain = true;
    unsigned char *p = encode(&r, &len);
    CHECK_EQ(p[5] & 1, 0);
    CHECK_EQ(len, HEAD + 2 + 16 + sizeof value);
    CHECK_EQ(decode(p, len, sizeof value, &r), ZC_OK);
    free(p);
}
#endif

TEST(parts_that_are_too_long_are_refused) {
    static unsigned char big[ZC_KEY_MAX + 1];
    static zc_bytes deps[ZC_DEPS_MAX + 1];
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    zc_bytes out = zc_str("x");
    zc_record r = small_record();
    r.key = zc_slice(big, sizeof big);
    CHECK_EQ(zc_record_encode(&r, &a, &out), ZC_E_INVAL);
    CHECK(!out.ptr && !out.len);
    r = small_record();
    r.deps = deps;
    r.ndeps = ZC_DEPS_MAX + 1;
    CHECK_EQ(zc_record_encode(&r, &a, &out), ZC_E_INVAL);
    r = small_record();
    small_deps[1] = zc_slice(big, ZC_TAG_MAX + 1);
    CHECK_EQ(zc_record_encode(&r, &a, &out), ZC_E_INVAL);
    r = small_record();
    r.value = zc_slice(big, (size_t)UINT32_MAX / 2 + 1); /* refused before it is looked at */
    CHECK_EQ(zc_record_encode(&r, &a, &out), ZC_E_INVAL);
    CHECK_EQ(zc_record_encode(NULL, &a, &out), ZC_E_INVAL);
    CHECK_EQ(zc_record_encode(&r, &a, NULL), ZC_E_INVAL);
    zc_bytes memory;
    CHECK_EQ(zc_record_decode(zc_str(""), 0, &a, NULL, &memory), ZC_E_INVAL);
    CHECK_EQ(zc_record_decode(zc_str(""), 0, &a, &r, NULL), ZC_E_INVAL);
    CHECK_EQ(mem.count, 0);
}

/* Records of every kind, for the tests of damage. */
static unsigned char *sample(unsigned kind, zc_record *r, size_t *len) {
    static char value[700];
    *r = small_record();
    if (kind == 1) {
        for (size_t i = 0; i < sizeof value; i++) value[i] = (char)('a' + i % 7 * (i / 100));
        r->value = zc_slice(value, sizeof value);
    } else if (kind == 2) {
        r->absent = true;
        r->value = zc_slice(NULL, 0);
        r->ndeps = 0;
    } else if (kind == 3) {
        r->key = r->value = zc_slice(NULL, 0);
        r->ndeps = 0;
        r->generation = r->begin = r->expires_ms = r->soft_ms = r->tti_ms = r->grace_ms = 0;
    }
    return encode(r, len);
}
enum { SAMPLES = 4 };

TEST(every_flipped_bit_is_seen) {
    for (unsigned kind = 0; kind < SAMPLES; kind++) {
        zc_record r;
        size_t len;
        unsigned char *p = sample(kind, &r, &len);
        CHECK_EQ(decode(p, len, 1000, &r), ZC_OK);
        for (size_t i = 0; i < len; i++) {
            for (unsigned bit = 0; bit < 8; bit++) {
                p[i] ^= (unsigned char)(1u << bit);
                CHECK_EQ(decode(p, len, 1000, NULL), ZC_E_CORRUPT);
                p[i] ^= (unsigned char)(1u << bit);
            }
            unsigned char was = p[i];
            for (unsigned v = 1; v < 256; v += 50) { /* and other values of the byte */
                p[i] = (unsigned char)(was + v);
                CHECK_EQ(decode(p, len, 1000, NULL), ZC_E_CORRUPT);
            }
            p[i] = was;
        }
        CHECK_EQ(decode(p, len, 1000, &r), ZC_OK);
        free(p);
    }
}

TEST(every_truncation_and_extension_is_seen) {
    for (unsigned kind = 0; kind < SAMPLES; kind++) {
        zc_record r;
        size_t len;
        unsigned char *p = sample(kind, &r, &len);
        for (size_t n = 0; n < len; n++) {
            unsigned char *cut = (unsigned char *)malloc(n ? n : 1);
            memcpy(cut, p, n);
            CHECK_EQ(decode(cut, n, 1000, NULL), ZC_E_CORRUPT);
            if (n >= HEAD) { /* even with a right checksum */
                seal(cut, n);
                CHECK_EQ(decode(cut, n, 1000, NULL), ZC_E_CORRUPT);
            }
            free(cut);
        }
        memset(forged, 0, sizeof forged);
        memcpy(forged, p, len);
        for (size_t n = len + 1; n < len + 100; n++) {
            CHECK_EQ(decode(forged, n, 1000, NULL), ZC_E_CORRUPT);
            seal(forged, n);
            CHECK_EQ(decode(forged, n, 1000, NULL), ZC_E_CORRUPT);
            memcpy(forged, p, len);
        }
        free(p);
    }
    CHECK_EQ(decode(NULL, 0, 1000, NULL), ZC_E_CORRUPT);
}

/* Sets one field of the small record and seals it again. */
static int forge(size_t at, uint64_t value, unsigned bytes) {
    zc_record r;
    size_t len;
    unsigned char *p = sample(0, &r, &len);
    zc__put_le(p + at, value, bytes);
    seal(p, len);
    int rc = decode(p, len, SIZE_MAX, NULL);
    free(p);
    return rc;
}

TEST(other_versions_and_unknown_flags_are_refused) {
    for (unsigned v = 0; v < 256; v++) CHECK_EQ(forge(4, v, 1) == ZC_OK, v == 1);
    for (unsigned f = 0; f < 256; f++) /* not LZ4 data, so flag 1 is no good here, either */
        CHECK_EQ(forge(5, f, 1) == ZC_OK, f == 0 || f == 2);
    CHECK_EQ(forge(0, 'z', 1), ZC_E_CORRUPT);
}

TEST(a_mark_is_kept_and_bounded) {
    unsigned char mark[ZC__MARK + 1];
    zc_record r = small_record();
    zc_bytes out;
    memset(mark, 0xa5, sizeof mark);
    for (size_t n = 0; n <= ZC__MARK; n += 8) {
        size_t len;
        r.mark = zc_slice(mark, n);
        unsigned char *p = encode(&r, &len);
        CHECK_EQ(decode(p, len, 1000, &r), ZC_OK);
        if (n) CHECK_EQ(memcmp(p + HEAD + 2, mark, n), 0);
        free(p);
    }
    r.mark = zc_slice(mark, ZC__MARK + 1);
    CHECK_EQ(zc_record_encode(&r, NULL, &out), ZC_E_INVAL);
    CHECK_EQ(forge(66, 8, 2), ZC_E_CORRUPT);
    CHECK_EQ(forge(66, ZC__MARK + 1, 2), ZC_E_CORRUPT);
    CHECK_EQ(forge(66, 65535, 2), ZC_E_CORRUPT);
}

TEST(hostile_lengths_with_a_right_checksum) {
    static const uint64_t lengths[] = {0,          1,          4,          6,          0x7fff,
                                       0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffffe, 0xffffffff};
    for (size_t at = 64; at < HEAD; at += 4) {
        uint64_t was = at == 64 ? 2 : at == 76 ? 16 : 5;
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
            if (lengths[i] != was) CHECK_EQ(forge(at, lengths[i], 4), ZC_E_CORRUPT);
    }
    for (uint64_t n = 0; n < 65536; n++)
        if (n != 2 && (n < 40 || n % 997 == 0 || n == 65535))
            CHECK_EQ(forge(6, n, 2), ZC_E_CORRUPT); /* number of dependencies */
    for (uint64_t n = 0; n < 65536; n++)
        if (n != 5 && (n < 40 || n % 997 == 0 || n == 65535))
            CHECK_EQ(forge(HEAD + 2, n, 2), ZC_E_CORRUPT); /* length of the first */
}

/* Sums that come out right modulo 2^32 or 2^64, and parts that lend each other bytes. */
TEST(lengths_that_add_up_all_the_same) {
    zc_record r, got;
    zc_bytes memory;
    size_t len;
    unsigned char *p = sample(0, &r, &len);
    /* 5 bytes less of the value, 5 more of the key: a different record, but a whole one */
    zc__put_le(p + 64, 7, 4);
    zc__put_le(p + 68, 0, 4);
    zc__put_le(p + 72, 0, 4);
    seal(p, len);
    CHECK_EQ(decode(p, len, 1000, NULL), ZC_E_CORRUPT); /* the dependencies no longer fit */
    zc__put_le(p + 6, 0, 2);
    zc__put_le(p + 76, 0, 4);
    zc__put_le(p + 64, 2, 4);
    zc__put_le(p + 68, 21, 4);
    zc__put_le(p + 72, 21, 4);
    seal(p, len);
    CHECK_EQ(zc_record_decode(zc_slice(p, len), 1000, NULL, &got, &memory), ZC_OK);
    CHECK(got.ndeps == 0 && got.key.len == 2 && got.value.len == 21);
    CHECK((const unsigned char *)got.value.ptr + 21 == p + len);
    free((void *)(uintptr_t)memory.ptr);
    zc__put_le(p + 64, 0xffffffff, 4);
    zc__put_le(p + 76, 2 + 22, 4); /* wraps at 32 bits */
    seal(p, len);
    CHECK_EQ(decode(p, len, 1000, NULL), ZC_E_CORRUPT);
    free(p);
}

TEST(a_tag_longer_than_the_limit_is_refused) {
    zc_record r;
    size_t tag_len;
    for (tag_len = ZC_TAG_MAX; tag_len <= ZC_TAG_MAX + 1; tag_len++) {
        memset(forged, 0, sizeof forged);
        memcpy(forged, "ZOOC\1\0\1\0", 8);
        zc__put_le(forged + 76, 2 + tag_len, 4);
        zc__put_le(forged + HEAD, tag_len, 2);
        memset(forged + HEAD + 2, 't', tag_len);
        seal(forged, HEAD + 2 + tag_len);
        memset(&r, 0, sizeof r);
        CHECK_EQ(decode(forged, HEAD + 2 + tag_len, 0, NULL) == ZC_OK, tag_len == ZC_TAG_MAX);
    }
}

#ifndef ZOOCACHE_NO_LZ4
/* A record whose value claims `value_len` bytes, and is stored as `n` bytes of LZ4. */
static size_t bomb(const void *packed, size_t n, uint64_t value_len) {
    memset(forged, 0, HEAD);
    memcpy(forged, "ZOOC\1\1\0\0", 8);
    zc__put_le(forged + 68, value_len, 4);
    zc__put_le(forged + 72, n, 4);
    if (n) memcpy(forged + HEAD, packed, n);
    seal(forged, HEAD + n);
    return HEAD + n;
}

TEST(compression_bombs) {
    static const unsigned char packed[] = {0x1f, 0x7a, 1, 0, 0xff, 0x14, 0x50,
                                           'z',  'z',  'z', 'z', 'z'}; /* 300 times z */
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    const size_t n = sizeof packed;
    CHECK_EQ(decode(forged, bomb(packed, n, 300), SIZE_MAX, NULL), ZC_OK);
    for (uint64_t claim = 0; claim < 5000; claim++)
        if (claim != 300)
            CHECK_EQ(decode(forged, bomb(packed, n, claim), SIZE_MAX, NULL), ZC_E_CORRUPT);
    /* What cannot be true is refused before memory is asked for. */
    static const uint64_t claims[] = {n * 255 + 1, 0x7e000001, 0x7fffffff, 0x80000000, 0xffffffff};
    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        zc_record r;
        zc_bytes memory;
        size_t len = bomb(packed, n, claims[i]);
        CHECK_EQ(zc_record_decode(zc_slice(forged, len), SIZE_MAX, &a, &r, &memory), ZC_E_CORRUPT);
        len = bomb(packed, n, 300);
        CHECK_EQ(zc_record_decode(zc_slice(forged, len), 299, &a, &r, &memory), ZC_E_CORRUPT);
    }
    CHECK_EQ(mem.count, 0);
    /* Nothing at all, and random bytes, in all sizes. */
    CHECK_EQ(decode(forged, bomb("", 0, 0), SIZE_MAX, NULL), ZC_E_CORRUPT);
    unsigned char noise[64];
    for (unsigned i = 0; i < 20000; i++) {
        size_t k = zct_below(sizeof noise) + 1;
        fill_random(noise, k, i % 2 ? 256 : 32);
        (void)decode(forged, bomb(noise, k, zct_below(300)), SIZE_MAX, NULL);
    }
}
#endif

/* Any header with a right checksum: a failure or a record that lies within the bytes given. */
TEST(random_headers_with_a_right_checksum) {
    unsigned good = 0;
    for (unsigned i = 0; i < 60000; i++) {
        zc_record r, got;
        zc_bytes memory;
        size_t len;
        unsigned char *p = sample((unsigned)zct_below(3), &r, &len);
        for (unsigned k = 0; k < 1 + zct_below(3); k++)
            p[zct_below(3) ? 64 + zct_below(len - 64) : 5 + zct_below(3)] =
                (unsigned char)zct_below(zct_below(2) ? 256 : 24);
        seal(p, len);
        int rc = zc_record_decode(zc_slice(p, len), 5000, NULL, &got, &memory);
        if (rc == ZC_OK) {
            const unsigned char *end = p + len, *key = (const unsigned char *)got.key.ptr;
            CHECK(key == p + HEAD && key + got.key.len <= end && got.value.len <= 5000);
            for (size_t d = 0; d < got.ndeps; d++)
                CHECK((const unsigned char *)got.deps[d].ptr + got.deps[d].len <= end);
            volatile unsigned char sum = 0; /* a sanitizer looks on */
            for (size_t b = 0; b < got.value.len; b++)
                sum = (unsigned char)(sum + ((const unsigned char *)got.value.ptr)[b]);
            free((void *)(uintptr_t)memory.ptr);
            good++;
        } else {
            CHECK_EQ(rc, ZC_E_CORRUPT);
        }
        free(p);
    }
    CHECK(good > 100 && good < 60000);
}

TEST(every_allocation_may_fail) {
    for (unsigned kind = 0; kind < SAMPLES; kind++) {
        zc_record r, got;
        size_t len;
        unsigned char *p = sample(kind, &r, &len);
        for (uint64_t nth = 1;; nth++) {
            zct_mem mem = {0};
            zc_allocator a = zct_allocator(&mem);
            zc_bytes out;
            mem.fail_at = nth;
            int rc = zc_record_encode(&r, &a, &out);
            if (!mem.failed) {
                CHECK_EQ(rc, ZC_OK);
                CHECK(nth > 2); /* the buffer, and the exact copy */
                zct_free(&mem, (void *)(uintptr_t)out.ptr, out.len);
                break;
            }
            CHECK_EQ(rc, ZC_E_NOMEM);
            CHECK(!out.ptr && !out.len);
            CHECK_EQ(mem.blocks, 0);
        }
        zct_mem mem = {0};
        zc_allocator a = zct_allocator(&mem);
        zc_bytes memory;
        mem.fail_from = 1;
        memset(&got, 0xee, sizeof got);
        int rc = zc_record_decode(zc_slice(p, len), 1000, &a, &got, &memory);
        if (kind < 2) {
            CHECK_EQ(rc, ZC_E_NOMEM);
            CHECK(is_zero(&got) && !memory.ptr && !memory.len);
        } else {
            CHECK_EQ(rc, ZC_OK); /* nothing to hold: no memory needed */
            CHECK(same_record(&got, &r));
        }
        CHECK_EQ(mem.blocks, 0);
        free(p);
    }
}
