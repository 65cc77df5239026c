/* The arena of the fixed block: M1 to M4, its limits, and its validator. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

enum { BLOCK = 1 << 16 };
static union {
    max_align_t align;
    unsigned char bytes[BLOCK + 64];
} mem;

static zc__arena *fresh(void) { return zc__arena_init(mem.bytes, BLOCK); }

/* What is free, in granules, and in how many chunks. */
static size_t free_space(const zc__arena *a, unsigned *chunks) {
    size_t n = 0;
    *chunks = 0;
    for (uint32_t g = 1; g < a->granules - 1; g += zc__chunk_size(zc__chunk_at(a, g))) {
        const zc__chunk *c = zc__chunk_at(a, g);
        if (!(c->size & ZC__FREE)) continue;
        n += zc__chunk_size(c);
        ++*chunks;
    }
    return n;
}

TEST(every_block_size_works_or_is_refused) {
    for (size_t skew = 0; skew < 32; skew++) {
        size_t first = 0;
        for (size_t size = 0; size < sizeof(zc__arena) + 400; size++) {
            memset(mem.bytes, 0xee, sizeof(zc__arena) + 512);
            zc__arena *a = zc__arena_init(mem.bytes + skew, size);
            if (!a) {
                CHECK_EQ(first, 0); /* once large enough, always large enough */
                continue;
            }
            if (!first) first = size;
            CHECK((unsigned char *)a >= mem.bytes + skew);
            CHECK(zc__arena_check(a));
            CHECK((unsigned char *)zc__chunk_at(a, a->granules - 1) + 8 <= mem.bytes + skew + size);
            void *p = zc__arena_alloc(a, 8);
            CHECK(p != NULL && (unsigned char *)p + 8 <= mem.bytes + skew + size);
            CHECK(zc__arena_check(a));
            for (size_t i = 0; i < 32; i++) CHECK_EQ(mem.bytes[skew + size + i], 0xee);
        }
        CHECK(first != 0);
    }
}

TEST(results_are_aligned_apart_and_large_enough) {
    zc__arena *a = fresh();
    unsigned char *last = NULL;
    size_t last_size = 0;
    for (size_t size = 0; size < 300; size++) {
        unsigned char *p = (unsigned char *)zc__arena_alloc(a, size);
        REQUIRE(p != NULL);
        CHECK_EQ((uintptr_t)p % 16, 0);
        CHECK(p + size <= mem.bytes + BLOCK);
        if (last) CHECK(p >= last + last_size + 8);
        memset(p, 0xff, size ? size : 1);
        if (size) CHECK(zc__arena_check(a));
        last = p;
        last_size = size;
    }
    CHECK(zc__arena_check(a));
}

TEST(huge_requests_are_refused_and_change_nothing) {
    zc__arena *a = fresh();
    const size_t huge[] = {SIZE_MAX,     SIZE_MAX - 7, SIZE_MAX - 15, SIZE_MAX - 23,
                           SIZE_MAX / 2, BLOCK,        SIZE_MAX / 3, BLOCK + (SIZE_MAX >> 28)};
    zc__arena before = *a;
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        CHECK(zc__arena_alloc(a, huge[i]) == NULL);
        CHECK(memcmp(&before, a, sizeof before) == 0);
    }
    for (size_t less = 0; less < 32; less++)
        CHECK(zc__arena_alloc(a, (size_t)a->granules * 16 - less) == NULL);
    CHECK(zc__arena_check(a));
}

TEST(exhaustion_then_everything_comes_back) {
    static void *got[BLOCK / 16];
    for (size_t size = 1; size < 2000; size += 37) {
        zc__arena *a = fresh();
        unsigned n = 0, chunks;
        while ((got[n] = zc__arena_alloc(a, size)) != NULL) n++;
        size_t each = (size + 8 + 15) / 16;
        CHECK(n > 0);
        CHECK_EQ(a->used, n * each * 16);
        /* What is left is less than the next larger class. */
        CHECK(free_space(a, &chunks) < each + each / 8 + 2);
        CHECK(zc__arena_check(a));
        /* Every second, then the rest: holes, then merging on both sides. */
        for (unsigned i = 0; i < n; i += 2) zc__arena_free(a, got[i]);
        CHECK(zc__arena_check(a));
        for (unsigned i = 1; i < n; i += 2) zc__arena_free(a, got[i]);
        CHECK(zc__arena_check(a));
        CHECK_EQ(free_space(a, &chunks), a->granules - 2);
        CHECK_EQ(chunks, 1);
        CHECK_EQ(a->used, 0);
    }
}

TEST(M2_neighbours_merge_in_every_order) {
    static const unsigned char orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                               {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (unsigned o = 0; o < 6; o++) {
        zc__arena *a = fresh();
        void *p[3], *fence;
        unsigned chunks;
        for (unsigned i = 0; i < 3; i++) p[i] = zc__arena_alloc(a, 100);
        fence = zc__arena_alloc(a, 100);
        size_t rest = free_space(a, &chunks);
        for (unsigned i = 0; i < 3; i++) {
            zc__arena_free(a, p[orders[o][i]]);
            CHECK(zc__arena_check(a));
        }
        CHECK_EQ(free_space(a, &chunks), rest + 3 * 7);
        CHECK_EQ(chunks, 2);
        /* The merged chunk is found again as one. */
        CHECK(zc__arena_alloc(a, 3 * 7 * 16 - 8) == p[0]);
        zc__arena_free(a, fence);
        CHECK(zc__arena_check(a));
    }
}

TEST(M3_lists_hold_chunks_of_their_sizes_only) {
    /* A chunk's list never promises more than it has, and lists are ordered by size. */
    uint32_t last = 0;
    for (uint32_t n = 1; n < 100000; n++) {
        uint32_t list = zc__arena_list(n);
        CHECK(list == last || list == last + 1);
        last = list;
    }
    for (uint32_t n = ZC__FREE - 1; n > ZC__FREE - 100; n--)
        CHECK(zc__arena_list(n) < ZC__ARENA_CLASSES * 16);
    /* So whatever is handed out is large enough, for every size of the only free chunk. */
    for (uint32_t n = 2; n < 400; n++) {
        zc__arena *a = fresh();
        void *p = zc__arena_alloc(a, n * 16 - 8);
        while (zc__arena_alloc(a, 8)) {}
        zc__arena_free(a, p);
        CHECK(zc__arena_alloc(a, n * 16) == NULL); /* one granule more than there is */
        CHECK(zc__arena_check(a));
        CHECK(zc__arena_alloc(a, n * 16 - 8) == p);
        CHECK(zc__arena_check(a));
    }
}

/* Damages one thing, asks the validator, and mends it. */
#define DAMAGED(field, value)                                                                      \
    do {                                                                                           \
        uint32_t was = (field);                                                                    \
        CHECK(was != (value));                                                                     \
        (field) = (value);                                                                         \
        CHECK(!zc__arena_check(a));                                                                \
        (field) = was;                                                                             \
        CHECK(zc__arena_check(a));                                                                 \
    } while (0)

static void *p[8];

static zc__arena *with_holes(void) {
    zc__arena *a = fresh();
    for (unsigned i = 0; i < 8; i++) p[i] = zc__arena_alloc(a, 40 + 16 * i);
    zc__arena_free(a, p[1]);
    zc__arena_free(a, p[4]);
    zc__arena_free(a, p[6]);
    return a;
}

static zc__chunk *chunk_of(void *ptr) { return (zc__chunk *)(void *)((unsigned char *)ptr - 8); }

TEST(the_validator_sees_M1) {
    zc__arena *a = with_holes();
    CHECK(zc__arena_check(a));
    DAMAGED(chunk_of(p[2])->prev, chunk_of(p[2])->prev + 1);
    DAMAGED(chunk_of(p[2])->size, chunk_of(p[2])->size + 1);
    DAMAGED(chunk_of(p[2])->size, chunk_of(p[2])->size - 1);
    DAMAGED(chunk_of(p[2])->size, 0u);
    DAMAGED(chunk_of(p[7])->size, 0x7fffffffu);
    DAMAGED(zc__chunk_at(a, a->granules - 1)->prev, 1u);
    size_t used = a->used;
    a->used += 16;
    CHECK(!zc__arena_check(a));
    a->used = used;
}

TEST(the_validator_sees_M2_and_M3) {
    zc__arena *a = with_holes();
    zc__chunk *taken = chunk_of(p[2]), *hole = chunk_of(p[1]);
    DAMAGED(taken->size, taken->size | ZC__FREE); /* two free neighbours, and not listed */
    taken = chunk_of(p[3]);
    DAMAGED(hole->size, hole->size & ~ZC__FREE);
    uint32_t list = zc__arena_list(zc__chunk_size(hole)), g = a->head[list / 16][list % 16];
    CHECK(g != 0 && zc__chunk_at(a, g) == hole);
    DAMAGED(a->head[list / 16][list % 16], 0u);
    DAMAGED(hole->next_free, g); /* a circle */
    zc__chunk *other = chunk_of(p[6]);
    uint32_t there = zc__arena_list(zc__chunk_size(other));
    CHECK(there != list);
    DAMAGED(a->head[list / 16][list % 16], a->head[there / 16][there % 16]);
    (void)taken;
}

TEST(the_validator_sees_M4) {
    zc__arena *a = with_holes();
    for (uint32_t cls = 0; cls < ZC__ARENA_CLASSES; cls++) {
        for (uint32_t i = 0; i < 16; i++) {
            a->lists[cls] = (uint16_t)(a->lists[cls] ^ 1u << i);
            CHECK(!zc__arena_check(a));
            a->lists[cls] = (uint16_t)(a->lists[cls] ^ 1u << i);
        }
    }
    for (uint32_t cls = 0; cls < 32; cls++) {
        a->top ^= 1u << cls;
        CHECK(!zc__arena_check(a));
        a->top ^= 1u << cls;
    }
    CHECK(zc__arena_check(a));
}

TEST(the_memory_of_a_cache_goes_through_the_arena) {
    zc__mem m;
    memset(&m, 0, sizeof m);
    m.arena = fresh();
    size_t used = m.arena->used;
    unsigned char *z = (unsigned char *)zc__alloc_zero(&m, 100);
    REQUIRE(z != NULL);
    for (unsigned i = 0; i < 100; i++) CHECK_EQ(z[i], 0);
    CHECK(z > mem.bytes && z < mem.bytes + BLOCK);
    zc__free(&m, z, 100);
    zc__free(&m, NULL, 100);
    CHECK_EQ(m.arena->used, used);
    CHECK(zc__alloc_zero(&m, SIZE_MAX) == NULL);
    CHECK(zc__arena_check(m.arena));
}

TEST(growing_buffers) {
    zct_mem counts = {0};
    zc__mem m;
    zc__buf b;
    memset(&m, 0, sizeof m);
    memset(&b, 0, sizeof b);
    m.hook = zct_allocator(&counts);
    CHECK(zc__buf_reserve(&m, &b, 1) && b.cap >= 1);
    for (unsigned i = 0; i < 5000; i++) {
        REQUIRE(zc__buf_reserve(&m, &b, 1));
        b.ptr[b.size++] = (unsigned char)(i * 7);
    }
    CHECK(counts.count < 20); /* it doubles */
    for (unsigned i = 0; i < 5000; i++) CHECK_EQ(b.ptr[i], (unsigned char)(i * 7));
    CHECK(!zc__buf_reserve(&m, &b, SIZE_MAX));
    CHECK(!zc__buf_reserve(&m, &b, SIZE_MAX - b.size));
    CHECK(!zc__buf_reserve(&m, &b, SIZE_MAX / 2));
    counts.fail_from = counts.count + 1;
    size_t cap = b.cap;
    CHECK(!zc__buf_reserve(&m, &b, cap)); /* a failure keeps what there is */
    CHECK_EQ(b.cap, cap);
    CHECK_EQ(b.ptr[4999], (unsigned char)(4999 * 7));
    zc__buf_free(&m, &b);
    CHECK_EQ(counts.blocks, 0);
    CHECK(b.ptr == NULL);
}
