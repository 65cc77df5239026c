/* Fuzz: what a storage may answer where a sealed record is expected: none of it opens, but what was
 * sealed; any record comes back as it was, and not for another key. */
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"

/* clang-format off */
#define MUST(x) do { if (!(x)) { printf("%s:%d: %s\n", __FILE__, __LINE__, #x); abort(); } } while (0)
/* clang-format on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static zc__mem mem;

static int opened(const zc_sealer *s, const char *key, zc_bytes sealed, zc_sink *sink) {
    memset(sink, 0, sizeof *sink);
    sink->mem = &mem;
    sink->most = UINT32_MAX;
    int rc = s->open(s->user, zc_str(key), sealed, sink);
    MUST(rc == ZC_OK || sink->buf.size == 0);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static zc_sealer s;
    static unsigned char key[ZC_SEAL_KEY];
    zc_bytes k = zc_slice(key, sizeof key);
    zc_seal_desc d = {.keys = &k, .nkeys = 1};
    zc_sink sealed, plain;
    if (!s.version) MUST(zc_seal_open(&d, &s) == ZC_OK);
    int rc = opened(&s, "k", zc_slice(data, size), &plain);
    MUST(rc == ZC_E_SEAL || rc == ZC_E_UNKEYED);

    memset(&sealed, 0, sizeof sealed);
    sealed.mem = &mem;
    sealed.most = UINT32_MAX;
    MUST(s.seal(s.user, zc_str("k"), zc_slice(data, size), &sealed) == ZC_OK);
    MUST(opened(&s, "l", zc_slice(sealed.buf.ptr, sealed.buf.size), &plain) == ZC_E_SEAL);
    MUST(opened(&s, "k", zc_slice(sealed.buf.ptr, sealed.buf.size), &plain) == ZC_OK);
    MUST(plain.buf.size == size && (size == 0 || memcmp(plain.buf.ptr, data, size) == 0));
    zc__buf_free(&mem, &plain.buf);
    /* The input in the place of what is behind a good head. */
    size_t head = 8, n = size < sealed.buf.size - head ? size : sealed.buf.size - head;
    bool same = n == 0 || memcmp(sealed.buf.ptr + head, data, n) == 0;
    if (n) memcpy(sealed.buf.ptr + head, data, n);
    rc = opened(&s, "k", zc_slice(sealed.buf.ptr, sealed.buf.size), &plain);
    MUST(rc == (same ? ZC_OK : ZC_E_SEAL));
    zc__buf_free(&mem, &plain.buf);
    zc__buf_free(&mem, &sealed.buf);
    return 0;
}
