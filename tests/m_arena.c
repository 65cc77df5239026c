/* Random allocations and releases in the arena, against a list of intervals with their contents. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { MOST = 600 };

typedef struct piece {
    unsigned char *ptr;
    size_t size;
    unsigned char fill;
} piece;

static piece held[MOST];
static unsigned nheld;

static size_t some_size(void) {
    switch (zct_below(8)) {
    case 0: return zct_below(9);
    case 1: return zct_below(4096);
    case 2: return (size_t)16 << zct_below(8);
    case 3: return ((size_t)16 << zct_below(8)) - 8;
    case 4: return zct_below(64) == 0 ? SIZE_MAX - zct_below(64) : zct_below(20000);
    default: return 8 + zct_below(300);
    }
}

static bool intact(const piece *x) {
    for (size_t i = 0; i < x->size; i++)
        if (x->ptr[i] != x->fill) return false;
    return true;
}

static size_t take(zc__arena *a, unsigned char *block, size_t len) {
    piece x = {NULL, some_size(), (unsigned char)zct_below(256)};
    x.ptr = (unsigned char *)zc__arena_alloc(a, x.size);
    if (!x.ptr) return x.size;
    CHECK((uintptr_t)x.ptr % 16 == 0 && x.ptr >= block && x.ptr + x.size <= block + len);
    for (unsigned i = 0; i < nheld; i++)
        CHECK(held[i].ptr + held[i].size <= x.ptr || x.ptr + x.size <= held[i].ptr);
    memset(x.ptr, x.fill, x.size);
    held[nheld++] = x;
    return 0;
}

static void give(zc__arena *a, unsigned i) {
    CHECK(intact(&held[i]));
    zc__arena_free(a, held[i].ptr);
    held[i] = held[--nheld];
}

/* A refusal is right: no free chunk is as large as the class that the request is rounded up to. */
static bool rightly_refused(const zc__arena *a, size_t size) {
    if (size > (size_t)a->granules * 16) return true;
    size_t need = (size + 8 + 15) / 16, sure = need + need / 8 + 1;
    for (uint32_t g = 1; g < a->granules - 1; g += zc__chunk_size(zc__chunk_at(a, g)))
        if (zc__chunk_at(a, g)->size & ZC__FREE && zc__chunk_size(zc__chunk_at(a, g)) >= sure)
            return false;
    return true;
}

static void run(size_t len, size_t skew, unsigned steps) {
    unsigned char *raw = (unsigned char *)malloc(len + skew);
    REQUIRE(raw != NULL);
    zc__arena *a = zc__arena_init(raw + skew, len);
    nheld = 0;
    unsigned refused = 0, bias = 50;
    for (unsigned step = 0; a && step < steps; step++) {
        if (step % 500 == 0) bias = (unsigned)zct_below(80) + 10; /* to fill, and to empty */
        if (nheld < MOST && (nheld == 0 || zct_below(100) < bias)) {
            size_t failed = take(a, raw + skew, len);
            if (failed) {
                CHECK(rightly_refused(a, failed));
                refused++;
            }
        } else {
            give(a, (unsigned)zct_below(nheld));
        }
        if (step % 16 == 0 && !CHECK(zc__arena_check(a))) break;
    }
    if (a) {
        size_t used = 0;
        for (unsigned i = 0; i < nheld; i++) used += (held[i].size + 8 + 15) / 16 * 16;
        CHECK_EQ(a->used, used);
        while (nheld) give(a, nheld - 1);
        CHECK_EQ(a->used, 0);
        CHECK(zc__arena_check(a));
        CHECK(refused > 0); /* it was full at times */
    }
    CHECK(a != NULL);
    free(raw);
}

TEST(small_blocks) {
    for (unsigned i = 0; i < 60; i++)
        run(sizeof(zc__arena) + 160 + zct_below(3000), zct_below(17), 2000);
}

TEST(a_middling_block) { run(100000, 8, 40000); }

TEST(a_large_block) { run(1u << 20, 1, 40000); }
