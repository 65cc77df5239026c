/* Fuzz: what a log may say to a sealed cache. Names by its key are the tags that they stand for;
 * whatever else there is among them, all is invalidated, and nothing breaks. */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_WITH_SEAL
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"

/* clang-format off */
#define MUST(x) do { if (!(x)) { printf("%s:%d: %s\n", __FILE__, __LINE__, #x); abort(); } } while (0)
/* clang-format on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 8 };
static zc_bytes list[MOST];
static size_t n;
static uint64_t tail;
static bool waits; /* the list has not been heard */

static int attach(void *user, uint64_t *identity, uint64_t *position) {
    (void)user;
    *identity = 1;
    *position = tail;
    return ZC_OK;
}
static int take(void *user, uint64_t position, uint64_t wait, zc_bus_sink *sink) {
    (void)user; (void)wait;
    if (!waits) return ZC_OK;
    MUST(position == tail);
    waits = false;
    return zc_bus_entry(sink, ++tail, list, n);
}
static int append(void *user, const zc_bytes *tags, size_t ntags, bool durable, uint64_t position,
                  zc_bus_sink *sink) {
    (void)user; (void)tags; (void)ntags; (void)durable; (void)position; (void)sink;
    return ZC_E_BUS;
}
static int versions(void *user, const zc_bytes *paths, size_t npaths, uint64_t *positions) {
    (void)user; (void)paths; (void)npaths; (void)positions;
    return ZC_OK;
}

/* Is it "t:x", or above it, or no tag at all? */
static bool kills(zc_bytes tag) {
    bool above = (tag.len == 1 || tag.len == 3) && memcmp(tag.ptr, "t:x", tag.len) == 0;
    return above || zc_tag_check(tag) != ZC_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static zc_cache *c;
    static zc_sealer s;
    static unsigned char key[ZC_SEAL_KEY], names[MOST][ZC_TAG_MAX + ZC_SEAL_TAG];
    zc_bytes k = zc_slice(key, sizeof key), dep = zc_str("t:x");
    zc_seal_desc sealing = {.keys = &k, .nkeys = 1};
    zc_put_opts o = {.deps = &dep, .ndeps = 1};
    zc_view v;
    bool known = false, dies = false;
    if (!c) {
        zc_desc d = {.no_thread = true, .max_staleness = ZC_NEVER / 4};
        zc_bus bus = {.version = 1, .attach = attach, .read = take, .append = append,
                      .versions = versions};
        d.bus = bus;
        MUST(zc_seal_open(&sealing, &d.sealer) == ZC_OK && zc_open(&d, &c) == ZC_OK);
        MUST(zc_seal_open(&sealing, &s) == ZC_OK);
    }
    /* Pieces: how it is meant, its length, itself. */
    for (n = 0; n < MOST && size >= 2; n++) {
        unsigned how = data[0] % 4, i;
        size_t len = data[1] < size - 2 ? data[1] : size - 2, all = 0;
        zc_bytes text = zc_slice(data + 2, len);
        static unsigned char out[256];
        int rc = ZC_OK;
        if (len && data[2] == 1) return 0; /* it may be a hold's mark */
        list[n] = text;
        if (how < 3 && len) { /* a name; or one with a changed byte */
            MUST(s.tag_seal(s.user, 0, text, names[n], &all) == ZC_OK);
            size_t at = data[0] / 4 % all;
            if (how == 2) names[n][at] ^= 1;
            if (how == 2) rc = at >= 1 && at < 5 ? ZC_E_UNKEYED : ZC_E_SEAL;
            list[n] = zc_slice(names[n], all);
        } else {
            rc = s.tag_open(s.user, text, out, &all, &i);
            MUST(rc == ZC_E_SEAL || rc == ZC_E_UNKEYED);
        }
        known = known || rc == ZC_OK;
        dies = dies || rc == ZC_E_SEAL || (rc == ZC_OK && kills(text));
        data += 2 + len;
        size -= 2 + len;
    }
    MUST(zc_put(c, zc_str("k"), zc_str("v"), &o) == ZC_OK);
    waits = true;
    while (waits) (void)zc_poll(c, ZC_SECOND);
    int rc = zc_get(c, zc_str("k"), &v);
    zc_release(c, &v);
    MUST(rc == (dies || !known ? ZC_MISS : ZC_OK));
    MUST(zc_check(c) == ZC_OK);
    return 0;
}
