/* Fuzzes the record decoder, and encoder and decoder against each other.
 *
 * The first byte chooses what becomes of the others:
 *   0  they are decoded as they are
 *   1  they are a record but for magic, version and checksum, which are put right, so that the
 *      decoder gets past them to the lengths
 *   2  likewise, and the length of the whole is made to fit, so that it gets to the parts
 *   3  they are cut into a record's fields, which must survive encoding and decoding
 * The second byte: bits 0-2 fail an allocation, bit 3 sets a small max_value. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                    \
    do {                                                                                           \
        if (!CHECK(x)) abort();                                                                    \
    } while (0)

static bool same(zc_bytes a, zc_bytes b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static bool within(zc_bytes part, zc_bytes whole) {
    uintptr_t p = (uintptr_t)part.ptr, w = (uintptr_t)whole.ptr;
    return part.len == 0 || (p >= w && p - w <= whole.len && part.len <= whole.len - (p - w));
}

static void same_record(const zc_record *a, const zc_record *b) {
    MUST(same(a->key, b->key) && same(a->value, b->value) && same(a->mark, b->mark));
    MUST(a->ndeps == b->ndeps);
    for (size_t i = 0; i < a->ndeps; i++) MUST(same(a->deps[i], b->deps[i]));
    MUST(a->generation == b->generation && a->begin == b->begin);
    MUST(a->expires_ms == b->expires_ms && a->soft_ms == b->soft_ms);
    MUST(a->tti_ms == b->tti_ms && a->grace_ms == b->grace_ms && a->absent == b->absent);
}

/* What is encoded must decode to the same. */
static void round_trip(const zc_record *r) {
    zct_mem mem = {0};
    zc_allocator a = zct_allocator(&mem);
    zc_bytes bytes, memory;
    zc_record back;
    MUST(zc_record_encode(r, &a, &bytes) == ZC_OK);
    MUST(zc_record_decode(bytes, SIZE_MAX, &a, &back, &memory) == ZC_OK);
    same_record(r, &back);
    MUST(r->value.len == 0 ||
         zc_record_decode(bytes, r->value.len - 1, &a, &back, &(zc_bytes){NULL, 0}) ==
             ZC_E_CORRUPT);
    a.free(a.user, (void *)(uintptr_t)memory.ptr, memory.len);
    a.free(a.user, (void *)(uintptr_t)bytes.ptr, bytes.len);
    MUST(mem.blocks == 0);
}

static void decode(zc_bytes bytes, unsigned how) {
    zct_mem mem = {.fail_at = how & 7};
    zc_allocator a = zct_allocator(&mem);
    zc_bytes memory;
    zc_record r;
    size_t most = how & 8 ? 300 : SIZE_MAX;
    int rc = zc_record_decode(bytes, most, &a, &r, &memory);
    MUST(rc == ZC_OK || rc == ZC_E_CORRUPT || (rc == ZC_E_NOMEM && mem.failed));
    if (rc != ZC_OK) {
        static const zc_record zero;
        MUST(memory.ptr == NULL && memory.len == 0 && mem.blocks == 0);
        same_record(&r, &zero);
        return;
    }
    /* LZ4's bound, and one slice for each two bytes of dependencies. */
    MUST((uint64_t)mem.bytes <= (uint64_t)bytes.len * 255 + bytes.len / 2 * sizeof(zc_bytes));
    MUST(within(r.key, bytes) && r.value.len <= most);
    MUST(within(r.value, bytes) || within(r.value, memory));
    for (size_t i = 0; i < r.ndeps; i++) MUST(within(r.deps[i], bytes));
    round_trip(&r);
    a.free(a.user, (void *)(uintptr_t)memory.ptr, memory.len);
    MUST(mem.blocks == 0);
}

/* Puts right what a mutation can hardly guess. */
static void repair(uint8_t *p, size_t size, bool lengths) {
    if (size < ZC__RECORD_HEAD) return;
    memcpy(p, "ZOOC", 4);
    p[4] = ZC__RECORD_VERSION;
    p[5] &= ZC__RECORD_LZ4 | ZC__RECORD_ABSENT;
    if (lengths) {
        size_t rest = size - ZC__RECORD_HEAD;
        size_t key = rest ? zc__get16(p + 64) % (rest + 1) : 0;
        size_t deps = rest - key ? zc__get16(p + 76) % (rest - key + 1) : 0;
        zc__put_le(p + 64, key, 4);
        zc__put_le(p + 76, deps, 4);
        zc__put_le(p + 72, rest - key - deps, 4);
        if (!(p[5] & ZC__RECORD_LZ4)) zc__put_le(p + 68, rest - key - deps, 4);
    }
    zc__put_le(p + 8, zc__record_checksum(p, size), 8);
}

static zc_bytes take(const uint8_t **p, size_t *left, size_t most) {
    size_t want = *left ? (size_t)**p * 5 : 0;
    if (*left) {
        ++*p;
        --*left;
    }
    if (want > most) want = most;
    if (want > *left) want = *left;
    zc_bytes b = zc_slice(*p, want);
    *p += want;
    *left -= want;
    return b;
}

static void encode(const uint8_t *p, size_t left) {
    zc_bytes deps[8];
    zc_record r = {.deps = deps};
    if (left < 48) return;
    r.generation = zc__get64(p);
    r.begin = zc__get64(p + 8);
    r.expires_ms = zc__get64(p + 16);
    r.soft_ms = zc__get64(p + 24);
    r.tti_ms = zc__get64(p + 32);
    r.grace_ms = zc__get64(p + 40);
    p += 48;
    left -= 48;
    r.absent = left & 1;
    r.key = take(&p, &left, ZC_KEY_MAX);
    for (r.ndeps = 0; r.ndeps < 8 && left; r.ndeps++) deps[r.ndeps] = take(&p, &left, ZC_TAG_MAX);
    r.value = zc_slice(p, left);
    round_trip(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    unsigned mode = data[0] % 4, how = data[1];
    data += 2;
    size -= 2;
    /* A copy of exactly that size, so that reading beyond it is seen. */
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    if (size) memcpy(copy, data, size);
    if (mode == 3) {
        encode(copy, size);
    } else {
        if (mode) repair(copy, size, mode == 2);
        decode(zc_slice(copy, size), how);
    }
    free(copy);
    return 0;
}
