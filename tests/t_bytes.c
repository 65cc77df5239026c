/* Little-endian numbers, comparing, saturation, text; and the hash and random numbers. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

TEST(numbers_are_little_endian_at_any_address) {
    unsigned char b[32];
    for (unsigned at = 0; at < 9; at++) {
        memset(b, 0xaa, sizeof b);
        zc__put_le(b + at, UINT64_C(0x0123456789abcdef), 8);
        static const unsigned char want[8] = {0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01};
        CHECK(memcmp(b + at, want, 8) == 0);
        CHECK(zc__get64(b + at) == UINT64_C(0x0123456789abcdef));
        CHECK_EQ(zc__get32(b + at), 0x89abcdef);
        CHECK_EQ(zc__get16(b + at), 0xcdef);
        CHECK_EQ(b[at + 8], 0xaa);
    }
    for (unsigned bytes = 0; bytes <= 8; bytes++) {
        memset(b, 0xaa, sizeof b);
        zc__put_le(b, UINT64_MAX, bytes);
        for (unsigned i = 0; i < 16; i++) CHECK_EQ(b[i], i < bytes ? 0xff : 0xaa);
    }
    memset(b, 0xff, sizeof b);
    CHECK(zc__get64(b) == UINT64_MAX);
    CHECK_EQ(zc__get32(b), UINT32_MAX);
    CHECK_EQ(zc__get16(b), 0xffff);
}

TEST(equal_is_memcmp) {
    unsigned char a[80], b[80];
    for (size_t n = 0; n <= 64; n++) {
        for (size_t oa = 0; oa < 8; oa++) {
            for (size_t ob = 0; ob < 8; ob += 3) {
                for (size_t i = 0; i < sizeof a; i++) a[i] = (unsigned char)zct_rand();
                memset(b, 0x77, sizeof b);
                memcpy(b + ob, a + oa, n);
                CHECK(zc__equal(a + oa, b + ob, n));
                /* Every single byte counts, and none outside. */
                for (size_t i = 0; i < n; i++) {
                    b[ob + i] ^= (unsigned char)(1u << zct_below(8));
                    CHECK(!zc__equal(a + oa, b + ob, n));
                    b[ob + i] = a[oa + i];
                }
                b[ob + n] = (unsigned char)(a[oa + n] + 1);
                CHECK(zc__equal(a + oa, b + ob, n));
            }
        }
    }
}

/* Exactly n bytes on the heap: a sanitizer sees a read beyond them. */
TEST(equal_reads_nothing_beyond) {
    for (size_t n = 1; n <= 64; n++) {
        unsigned char *a = (unsigned char *)malloc(n), *b = (unsigned char *)malloc(n);
        REQUIRE(a && b);
        memset(a, 1, n);
        memset(b, 1, n);
        CHECK(zc__equal(a, b, n));
        b[n - 1] = 2;
        CHECK(!zc__equal(a, b, n));
        free(a);
        free(b);
    }
}

TEST(sums_and_products_saturate) {
    const uint64_t most = UINT64_MAX;
    CHECK_EQ(zc__add_sat(2, 3), 5);
    CHECK(zc__add_sat(most, 0) == most && zc__add_sat(0, most) == most);
    CHECK(zc__add_sat(most, 1) == most && zc__add_sat(1, most) == most);
    CHECK(zc__add_sat(most - 1, 1) == most && zc__add_sat(most - 1, 2) == most);
    CHECK(zc__add_sat(most - 2, 1) == most - 1);
    CHECK(zc__add_sat(most, most) == most);
    CHECK_EQ(zc__mul_sat(6, 7), 42);
    CHECK_EQ(zc__mul_sat(most, 0), 0);
    CHECK_EQ(zc__mul_sat(0, most), 0);
    CHECK(zc__mul_sat(most, 1) == most && zc__mul_sat(1, most) == most);
    CHECK(zc__mul_sat(most, 2) == most && zc__mul_sat(2, most) == most);
    CHECK(zc__mul_sat(UINT64_C(1) << 32, UINT64_C(1) << 32) == most);
    CHECK(zc__mul_sat(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1) == (most >> 32 << 32));
    CHECK(zc__mul_sat(most / 3, 3) == most / 3 * 3 && zc__mul_sat(most / 3 + 1, 3) == most);
}

TEST(powers_of_two) {
    CHECK(!zc__is_pow2(0));
    for (unsigned i = 0; i < sizeof(size_t) * 8; i++) CHECK(zc__is_pow2((size_t)1 << i));
    for (size_t n = 3, i = 0; i < 61; i++, n = n * 2 + 1) CHECK(!zc__is_pow2(n));
    CHECK(!zc__is_pow2(SIZE_MAX));
}

TEST(bits) {
    for (unsigned i = 0; i < 64; i++) {
        CHECK_EQ(zc__ctz64(UINT64_C(1) << i), i);
        CHECK_EQ(zc__clz64(UINT64_C(1) << i), 63 - i);
        CHECK_EQ(zc__ctz64(UINT64_MAX << i), i);
        CHECK_EQ(zc__clz64(UINT64_MAX >> i), i);
    }
}

static size_t write_all(char *buf, size_t cap) {
    zc__text t = {buf, cap, 0};
    zc__text_str(&t, "a-");
    zc__text_num(&t, 0, 1);
    zc__text_bytes(&t, "", 0);
    zc__text_num(&t, 7, 3);
    zc__text_str(&t, "");
    zc__text_num(&t, UINT64_MAX, 1);
    return zc__text_end(&t);
}

TEST(text_is_cut_but_counted_like_snprintf) {
    static const char whole[] = "a-000718446744073709551615";
    char buf[64];
    CHECK_EQ(write_all(buf, sizeof buf), sizeof whole - 1);
    CHECK_STR(buf, whole);
    for (size_t cap = 0; cap < sizeof buf; cap++) {
        char want[64];
        memset(buf, '#', sizeof buf);
        memset(want, '#', sizeof want);
        CHECK_EQ(write_all(buf, cap), snprintf(want, cap, "%s", whole));
        /* Nothing beyond the end is touched; what snprintf leaves after the NUL may differ. */
        size_t shown = cap == 0 ? 0 : cap - 1 < sizeof whole - 1 ? cap : sizeof whole;
        CHECK(memcmp(buf, want, shown) == 0);
        for (size_t i = cap; i < sizeof buf; i++) CHECK_EQ(buf[i], '#');
    }
    CHECK_EQ(write_all(NULL, 0), sizeof whole - 1);
}

TEST(decimal_numbers) {
    static const uint64_t numbers[] = {0,     1,          9,         10,         99,            100,
                                       12345, UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_MAX - 1};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        for (unsigned width = 1; width <= 20; width++) {
            char buf[32], want[32];
            zc__text t = {buf, sizeof buf, 0};
            zc__text_num(&t, numbers[i], width);
            zc__text_end(&t);
            snprintf(want, sizeof want, "%0*" PRIu64, (int)width, numbers[i]);
            CHECK_STR(buf, want);
        }
    }
}

TEST(slices) {
    zc_bytes b = zc_str("");
    CHECK(b.len == 0 && b.ptr != NULL);
    b = zc_str("abc");
    CHECK(b.len == 3 && memcmp(b.ptr, "abc", 3) == 0);
    b = zc_slice(NULL, 0);
    CHECK(b.ptr == NULL && b.len == 0);
}

TEST(hash_depends_on_seed_and_every_byte) {
    unsigned char key[40];
    for (size_t i = 0; i < sizeof key; i++) key[i] = (unsigned char)i;
    uint64_t h = zc__hash(zc_slice(key, sizeof key), 1);
    CHECK(h == zc__hash(zc_slice(key, sizeof key), 1));
    CHECK(h != zc__hash(zc_slice(key, sizeof key), 2));
    CHECK(h != zc__hash(zc_slice(key, sizeof key - 1), 1));
    CHECK(h == XXH3_64bits_withSeed(key, sizeof key, 1));
    for (size_t i = 0; i < sizeof key; i++) {
        key[i] ^= 1;
        CHECK(h != zc__hash(zc_slice(key, sizeof key), 1));
        key[i] ^= 1;
    }
}

/* Who does not know the seed cannot choose keys that all have the same hash. A multiplication
 * forgets one factor when the other is 0: no half of a key alone may decide that. */
TEST(no_half_of_a_key_cancels_the_other) {
    static const uint64_t halves[] = {0, UINT64_MAX, UINT64_C(0x2d358dccaa6c78a5),
                                      UINT64_C(0x8bb84b93962eacc9), UINT64_C(0x4b33a62ed433d4a3)};
    for (size_t h = 0; h < sizeof halves / sizeof halves[0]; h++) {
        for (unsigned side = 0; side < 2; side++) {
            for (uint64_t len = 0; len <= 16; len += 16) {
                unsigned char key[16];
                uint64_t seed = zct_rand(), last = 0, fixed = halves[h] ^ len;
                unsigned same = 0;
                for (unsigned i = 0; i < 100; i++) {
                    uint64_t other = zct_rand();
                    memcpy(key + 8 * side, &fixed, 8);
                    memcpy(key + 8 - 8 * side, &other, 8);
                    uint64_t hash = zc__hash(zc_slice(key, sizeof key), seed);
                    same += i > 0 && hash == last;
                    last = hash;
                }
                CHECK_EQ(same, 0);
            }
        }
    }
}

TEST(hashes_of_similar_keys_spread) {
    for (size_t len = 1; len <= 40; len++) {
        unsigned buckets[64] = {0}, prints[256] = {0};
        uint64_t seed = zct_rand();
        char key[48];
        memset(key, '0', sizeof key);
        for (unsigned i = 0; i < 64 * 64; i++) { /* counting up, as keys do */
            char digits[8];
            snprintf(digits, sizeof digits, "%04u", i);
            size_t n = len < 4 ? len : 4;
            memcpy(key + len - n, digits + 4 - n, n);
            uint64_t h = zc__hash(zc_slice(key, len), seed);
            buckets[zc__home_of(h, 64)]++;
            prints[zc__fp_of(h)]++;
        }
        unsigned most = 0, print = 0;
        for (unsigned b = 0; b < 64; b++) most = buckets[b] > most ? buckets[b] : most;
        for (unsigned f = 0; f < 256; f++) print = prints[f] > print ? prints[f] : print;
        if (len >= 4) CHECK(most < 64 * 2 && print < 16 * 4);
    }
}

/* The first numbers of splitmix64 from state 1234567, as the reference code prints them. */
TEST(random_is_splitmix64) {
    static const uint64_t want[] = {UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
                                    UINT64_C(9817491932198370423), UINT64_C(4593380528125082431),
                                    UINT64_C(16408922859458223821)};
    uint64_t state = 1234567;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        CHECK(zc__random(&state) == want[i]);
}
