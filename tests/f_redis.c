/* Fuzz: what a server may answer, through hiredis' parser into what reads entries, versions, INFO,
 * redirections and URLs: no byte of it is trusted. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#define ZC_TEST_NO_MAIN
#include "zc_test.h"

/* clang-format off */
#define MUST(x) do { if (!(x)) { printf("%s:%d: %s\n", __FILE__, __LINE__, #x); abort(); } } while (0)
/* clang-format on */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct ear {
    uint64_t next; /* the position that must come */
    size_t given;
    size_t odd; /* tags that are none of ours, but can be read */
} ear;

static int hear(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    ear *e = (ear *)user;
    MUST(position == e->next++);
    for (size_t i = 0; i < n; i++) e->odd += zc_tag_check(tags[i]) != ZC_OK;
    e->given++;
    return ZC_OK;
}

static const zc__redis_log log_7 = {7, 9, 0};

static zc__redis *attached(zc_bus *bus) {
    MUST(zc_redis_open(NULL, NULL, bus) == ZC_OK);
    zc__redis *r = (zc__redis *)bus->user;
    zc__redis_entry e = {7, 3, XXH3_64bits("me.3", 4), {NULL, 0}};
    r->attached = log_7;
    zc__redis_remember(r, log_7, &e);
    return r;
}

static void entries(zc__redis *r, const redisReply *range) {
    ear e = {4, 0, 0};
    zc_bus_sink sink = {hear, &e};
    int rc = zc__redis_range(r, log_7, 4, range, 3, &sink);
    MUST(rc == ZC_OK || rc == ZC_MORE || rc == ZC_RETRY || rc == ZC_E_BUS);
}

static void versions(const redisReply *young, const redisReply *old) {
    zc_bytes paths[3] = {zc_str(""), zc_str("a"), zc_str("a:b")};
    uint64_t at[3];
    int rc = zc__redis_versions_read(log_7, young, old, paths, 3, at);
    MUST(rc == ZC_OK || rc == ZC_RETRY);
}

static void others(zc__redis *r, const redisReply *reply) {
    zc__redis_addr to;
    zc__redis_entry e;
    uint64_t v;
    (void)zc__redis_entry_read(reply, &e);
    (void)zc__redis_info(reply, "run_id");
    (void)zc__redis_error(reply);
    (void)zc__redis_log_error(reply);
    (void)zc__redis_field(reply, &v);
    (void)zc__redis_is_durable(r, reply, reply);
    if (zc__redis_redirect(reply, &to)) MUST(to.host[0] && to.port > 0 && to.port <= 65535);
}

/* A parser of hiredis allocates what an array says it has; that is not what is tested here. */
static bool sane(const char *p, size_t size) {
    for (size_t i = 0; i + 1 < size; i++) {
        size_t digits = 0;
        if (p[i] != '*' && p[i] != '%' && p[i] != '~' && p[i] != '>') continue;
        while (i + 1 + digits < size &&
               (p[i + 1 + digits] == '+' || (p[i + 1 + digits] >= '0' && p[i + 1 + digits] <= '9')))
            digits++;
        if (digits > 4) return false;
    }
    return true;
}

/* An entry that is right but for its tags: what cannot be read as such is everything. */
static void packed(zc__redis *r, const char *text, size_t size) {
    ear e = {4, 0, 0};
    zc_bus_sink sink = {hear, &e};
    MUST(zc__entry_deliver(&r->mem, zc_slice(text, size), 4, &sink) == ZC_OK && e.given == 1);
}

static void url(const uint8_t *data, size_t size) {
    char text[300];
    zc_redis_desc d;
    zc_bus bus;
    if (size >= sizeof text) size = sizeof text - 1;
    memcpy(text, data, size);
    text[size] = '\0';
    memset(&d, 0, sizeof d);
    d.url = text;
    int rc = zc_redis_open(&d, NULL, &bus);
    MUST(rc == ZC_OK || rc == ZC_E_INVAL || rc == ZC_E_BUILD);
    if (rc == ZC_OK) bus.close(bus.user);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    if (data[0] % 4 == 3) {
        url(data + 1, size - 1);
        return 0;
    }
    const char *bytes = (const char *)data + 1;
    zc_bus bus;
    zc__redis *r = attached(&bus);
    if (data[0] % 4 == 2) packed(r, bytes, size - 1);
    if (data[0] % 4 == 2 || !sane(bytes, size - 1)) {
        bus.close(bus.user);
        return 0;
    }
    redisReader *reader = redisReaderCreate();
    void *got[2] = {NULL, NULL};
    redisReaderFeed(reader, bytes, size - 1);
    for (int i = 0; i < 2; i++)
        if (redisReaderGetReply(reader, &got[i]) != REDIS_OK) got[i] = NULL;
    redisReply *a = (redisReply *)got[0], *b = (redisReply *)got[1];
    if (a) others(r, a);
    if (a) entries(r, a);
    if (b) entries(r, b);
    if (a && b) versions(a, b);
    for (int i = 0; i < 2; i++)
        if (got[i]) freeReplyObject(got[i]);
    redisReaderFree(reader);
    bus.close(bus.user);
    return 0;
}
