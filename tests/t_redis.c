/* Redis as storage and bus, against real servers: what is stored and heard, and every failure. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "redis_server.h"

/* ---- a store and a bus by themselves */

typedef struct node {
    zct_mem mem;
    zc_redis_desc d;
    zc_store st;
    zc_bus bus;
    uint64_t identity, at; /* as attached; the last position heard */
    /* what the last call has given */
    size_t given, all;     /* entries; of them: everything */
    char tags[4096];       /* their tags, each entry ended by ';' */
    int sink_rc;
} node;

static bool node_open_with(node *n, zc_redis_desc d) {
    memset(n, 0, sizeof *n);
    n->d = d;
    n->d.allocator = zct_allocator(&n->mem);
    return CHECK_EQ(zc_redis_open(&n->d, &n->st, &n->bus), ZC_OK);
}
static bool node_open(node *n, const char *url) {
    zc_redis_desc d = {.url = url};
    return node_open_with(n, d);
}
static void node_close(node *n) {
    n->st.close(n->st.user);
    n->bus.close(n->bus.user);
    CHECK_EQ(n->mem.blocks, 0);
}

static int hear(void *user, uint64_t position, const zc_bytes *tags, size_t count) {
    node *n = (node *)user;
    size_t used = strlen(n->tags);
    if (n->sink_rc) return n->sink_rc;
    CHECK_EQ(position, n->at + 1);
    n->at = position;
    n->given++;
    n->all += count == 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(n->tags + used, sizeof n->tags - used, "%s%.*s", i ? "," : "",
                                 (int)tags[i].len, (const char *)tags[i].ptr);
    snprintf(n->tags + used, sizeof n->tags - used, ";");
    return ZC_OK;
}
static zc_bus_sink sink_of(node *n) {
    zc_bus_sink s = {hear, n};
    n->given = n->all = 0;
    n->tags[0] = '\0';
    return s;
}

static int attach(node *n) { return n->bus.attach(n->bus.user, &n->identity, &n->at); }
static int listen_for(node *n, uint64_t wait) {
    zc_bus_sink s = sink_of(n);
    return n->bus.read(n->bus.user, n->at, wait, &s);
}
static int append_as(node *n, const char *tag, bool durable) {
    zc_bytes t = zc_str(tag ? tag : "");
    zc_bus_sink s = sink_of(n);
    return n->bus.append(n->bus.user, &t, tag ? 1 : 0, durable, n->at, &s);
}
static int append(node *n, const char *tag) { return append_as(n, tag, false); }
static uint64_t version(node *n, const char *path) {
    uint64_t v = 12345;
    zc_bytes p = zc_str(path);
    CHECK_EQ(n->bus.versions(n->bus.user, &p, 1, &v), ZC_OK);
    return v;
}

static uint64_t wall_ms(void) { return zc__sys_wall() / ZC_MILLISECOND; }

static int put(node *n, const char *key, const char *value, uint64_t life_ms) {
    return n->st.put(n->st.user, zc_str(key), zc_str(value), life_ms ? wall_ms() + life_ms : 0);
}

/* What is under a key, as text; NULL with *rc. */
static const char *get_bytes(node *n, zc_bytes key, int *rc) {
    static char text[64];
    zc__mem mem = {.hook = zct_allocator(&n->mem)};
    zc_sink sink = {&mem, {NULL, 0, 0}, SIZE_MAX};
    *rc = n->st.get(n->st.user, key, &sink);
    snprintf(text, sizeof text, "%.*s", (int)sink.buf.size, (const char *)sink.buf.ptr);
    zc__buf_free(&mem, &sink.buf);
    return *rc == ZC_OK ? text : NULL;
}
static const char *get(node *n, const char *key) {
    int rc;
    const char *text = get_bytes(n, zc_str(key), &rc);
    if (!text) CHECK_EQ(rc, ZC_MISS);
    return text;
}
__attribute__((unused)) static int get_rc(node *n, const char *key) {
    int rc;
    get_bytes(n, zc_str(key), &rc);
    return rc;
}

/* ---- the URL */

static int opens(const char *url) {
    zc_redis_desc d = {.url = url};
    zc_store st;
    int rc = zc_redis_open(&d, &st, NULL);
    if (rc == ZC_OK) st.close(st.user);
    else CHECK_EQ(st.version, 0);
    return rc;
}

static const zc__redis *parsed(const char *url, zc_store *st) {
    zc_redis_desc d = {.url = url};
    CHECK_EQ(zc_redis_open(&d, st, NULL), ZC_OK);
    return (const zc__redis *)st->user;
}

TEST(urls_are_read) {
    zc_store st;
    const zc__redis *r = parsed("redis://us%40er:p%3a%2Fss@example.org:7000/12", &st);
    CHECK_STR(r->user, "us@er");
    CHECK_STR(r->password, "p:/ss");
    CHECK_STR(r->addrs[0].host, "example.org");
    CHECK_EQ(r->addrs[0].port, 7000);
    CHECK_EQ(r->db, 12);
    st.close(st.user);
    r = parsed("redis://:secret@[::1]:7000", &st);
    CHECK(r->user == NULL);
    CHECK_STR(r->password, "secret");
    CHECK_STR(r->addrs[0].host, "::1");
    st.close(st.user);
    r = parsed("unix:///tmp/a b.sock?db=3", &st);
    CHECK_STR(r->addrs[0].host, "/tmp/a b.sock");
    CHECK_EQ(r->addrs[0].port, 0);
    CHECK_EQ(r->db, 3);
    st.close(st.user);
    r = parsed("redis+sentinel://:pw@a:1,b,[c::d]:3/my-master/4", &st);
    CHECK_EQ(r->naddrs, 3);
    CHECK_STR(r->addrs[1].host, "b");
    CHECK_EQ(r->addrs[1].port, 26379);
    CHECK_STR(r->addrs[2].host, "c::d");
    CHECK_STR(r->master, "my-master");
    CHECK_EQ(r->db, 4);
    st.close(st.user);
    r = parsed(NULL, &st);
    CHECK_STR(r->addrs[0].host, "127.0.0.1");
    CHECK_EQ(r->addrs[0].port, 6379);
    CHECK_EQ(memcmp(r->prefix, "{zoocache}:", 12), 0);
    st.close(st.user);
}

TEST(bad_urls_are_refused) {
    static const char *const bad[] = {
        "",       "http://x",          "redis:/x",          "redis://h:0",      "redis://h:99999",
        "redis://h:x", "redis://h/x",  "redis://h/1/2",     "redis://u@h",      "redis://u:%zz@h",
        "redis://u:%00@h", "redis://u:%4@h", "redis://[::1", "redis://[::1]x",  "unix://",
        "unix:///x?db=", "unix:///x?a=1", "redis+sentinel://h", "redis+sentinel://h//1",
        "redis+sentinel://h/m/x", "redis://h:1:2", "redis://h/4294967296"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!CHECK_EQ(opens(bad[i]), ZC_E_INVAL)) printf("    %s\n", bad[i]);
    char longest[400] = "redis://";
    memset(longest + 8, 'h', 300);
    CHECK_EQ(opens(longest), ZC_E_INVAL);
    CHECK_EQ(opens("redis://h/"), ZC_OK);
    CHECK_EQ(opens("redis://"), ZC_OK);
#ifndef ZOOCACHE_WITH_REDIS_TLS
    CHECK_EQ(opens("rediss://h"), ZC_E_BUILD);
#endif
    zc_redis_desc d = {.prefix = "a{b"};
    zc_store st;
    CHECK_EQ(zc_redis_open(&d, &st, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_redis_open(NULL, NULL, NULL), ZC_E_INVAL);
}

TEST(opening_fails_cleanly_without_memory) {
    zct_mem mem = {0};
    zc_redis_desc d = {.allocator = zct_allocator(&mem)};
    int rc = ZC_E_NOMEM;
    for (uint64_t i = 1; rc != ZC_OK && CHECK(i < 20); i++) {
        zc_store st;
        zc_bus bus;
        mem.count = 0;
        mem.fail_at = i;
        rc = zc_redis_open(&d, &st, &bus);
        if (rc == ZC_OK) {
            st.close(st.user);
            bus.close(bus.user);
        } else {
            CHECK_EQ(rc, ZC_E_NOMEM);
            CHECK(st.version == 0 && bus.version == 0);
        }
        CHECK_EQ(mem.blocks, 0);
    }
}

/* ---- the storage */

TEST(records_are_kept_and_end) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    CHECK(get(&n, "a") == NULL);
    CHECK_EQ(put(&n, "a", "one", 0), ZC_OK);
    CHECK_STR(get(&n, "a"), "one");
    CHECK_EQ(put(&n, "a", "two", 100000), ZC_OK);
    CHECK_STR(get(&n, "a"), "two");
    CHECK_EQ(put(&n, "", "empty key", 0), ZC_OK);
    CHECK_STR(get(&n, ""), "empty key");
    CHECK_EQ(put(&n, "none", "", 0), ZC_OK);
    CHECK_STR(get(&n, "none"), "");
    CHECK_EQ(n.st.del(n.st.user, zc_str("a")), ZC_OK);
    CHECK(get(&n, "a") == NULL);
    CHECK_EQ(n.st.del(n.st.user, zc_str("a")), ZC_MISS);
    CHECK_EQ(put(&n, "brief", "x", 30), ZC_OK);
    while (get(&n, "brief")) usleep(1000);
    CHECK_EQ(put(&n, "past", "x", 0), ZC_OK);
    CHECK_EQ(n.st.put(n.st.user, zc_str("past"), zc_str("y"), 1), ZC_OK); /* 1970 */
    while (get(&n, "past")) usleep(1000);
    node_close(&n);
    rs_stop(&s);
}

TEST(any_bytes_are_a_key) {
    redis_server s;
    node n;
    int rc;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    static char large[ZC_KEY_MAX];
    memset(large, 'k', sizeof large);
    zc_bytes keys[] = {zc_slice("a\0b", 3), zc_slice("a\0c", 3), zc_slice("\r\n{}*", 5),
                       zc_slice(large, sizeof large), zc_slice(large, sizeof large - 1)};
    for (size_t i = 0; i < 5; i++)
        CHECK_EQ(n.st.put(n.st.user, keys[i], zc_slice(&"01234"[i], 1), 0), ZC_OK);
    for (size_t i = 0; i < 5; i++) {
        char want[2] = {"01234"[i], '\0'};
        CHECK_STR(get_bytes(&n, keys[i], &rc), want);
    }
    node_close(&n);
    rs_stop(&s);
}

TEST(every_record_has_an_expiry) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    CHECK_EQ(put(&n, "a", "x", 0), ZC_OK);
    CHECK_EQ(put(&n, "b", "x", UINT64_C(400) * 86400 * 1000), ZC_OK);
    CHECK_EQ(put(&n, "c", "x", 60000), ZC_OK);
    char key[64];
    const char *era = rs_say(&s, "GET", "{zoocache}:era", NULL);
    snprintf(key, sizeof key, "{zoocache}:%.16s:a", era);
    static const long long most[] = {30LL * 86400 * 1000, 30LL * 86400 * 1000, 60000};
    for (int i = 0; i < 3; i++) {
        key[strlen(key) - 1] = (char)('a' + i);
        long long ttl = atoll(rs_say(&s, "PTTL", key, NULL));
        CHECK(ttl > most[i] - 10000 && ttl <= most[i]);
    }
    CHECK_EQ(n.st.touch(n.st.user, zc_str("c"), wall_ms() + 200000), ZC_OK);
    CHECK(atoll(rs_say(&s, "PTTL", key, NULL)) > 150000);
    CHECK_EQ(n.st.touch(n.st.user, zc_str("c"), 0), ZC_OK);
    CHECK(atoll(rs_say(&s, "PTTL", key, NULL)) > 86400000);
    CHECK_EQ(n.st.touch(n.st.user, zc_str("nobody"), 0), ZC_MISS);
    node_close(&n);
    rs_stop(&s);
}

TEST(many_are_got_in_one_command) {
    redis_server s;
    node n;
    enum { N = 200 };
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    static char names[N][16];
    zc_bytes keys[N];
    zc_sink sinks[N], *at[N];
    int results[N];
    zc__mem mem = {.hook = zct_allocator(&n.mem)};
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "key %d", i);
        keys[i] = zc_str(names[i]);
        if (i % 3) CHECK_EQ(put(&n, names[i], names[i], 0), ZC_OK);
        sinks[i] = (zc_sink){&mem, {NULL, 0, 0}, SIZE_MAX};
        at[i] = &sinks[i];
    }
    rs_say(&s, "CONFIG", "RESETSTAT", NULL);
    CHECK_EQ(n.st.get_many(n.st.user, keys, N, at, results), ZC_OK);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(results[i], i % 3 ? ZC_OK : ZC_MISS);
        CHECK(sinks[i].buf.size == (i % 3 ? keys[i].len : 0));
        if (i % 3) CHECK(memcmp(sinks[i].buf.ptr, keys[i].ptr, keys[i].len) == 0);
        zc__buf_free(&mem, &sinks[i].buf);
    }
    CHECK(strstr(rs_say(&s, "INFO", "commandstats", NULL), "cmdstat_mget:calls=1,"));
    CHECK(!strstr(s.said, "cmdstat_get:"));
    node_close(&n);
    rs_stop(&s);
}

TEST(a_clear_reaches_every_node) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    CHECK_EQ(put(&a, "k", "old", 0), ZC_OK);
    CHECK_STR(get(&b, "k"), "old");
    CHECK_EQ(a.st.clear(a.st.user), ZC_OK);
    CHECK(get(&b, "k") == NULL);
    CHECK(get(&a, "k") == NULL);
    CHECK_EQ(put(&a, "k", "new", 0), ZC_OK);
    CHECK_EQ(a.st.clear(a.st.user), ZC_OK);
    CHECK_EQ(put(&a, "k", "newer", 0), ZC_OK);
    CHECK_EQ(b.st.del(b.st.user, zc_str("k")), ZC_OK); /* of the era that b has not heard of */
    CHECK(get(&a, "k") == NULL);
    CHECK_EQ(a.st.clear(a.st.user), ZC_OK);
    CHECK_EQ(put(&b, "k", "from b", 0), ZC_OK);
    CHECK_STR(get(&a, "k"), "from b");
    /* Without an era there are no records. */
    rs_say(&s, "DEL", "{zoocache}:era", NULL);
    CHECK(get(&a, "k") == NULL);
    rs_say(&s, "SET", "{zoocache}:era", "not an era", NULL);
    CHECK(get(&a, "k") == NULL);
    CHECK_EQ(put(&a, "k", "again", 0), ZC_OK);
    rs_say(&s, "FLUSHALL", NULL);
    CHECK(get(&b, "k") == NULL);
    CHECK_EQ(put(&b, "k", "at last", 0), ZC_OK);
    CHECK_STR(get(&a, "k"), "at last");
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(prefixes_are_apart) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .prefix = "other"};
    REQUIRE(node_open(&a, s.url) && node_open_with(&b, d));
    CHECK_EQ(put(&a, "k", "x", 0), ZC_OK);
    CHECK(get(&b, "k") == NULL);
    CHECK_EQ(b.st.clear(b.st.user), ZC_OK);
    CHECK_STR(get(&a, "k"), "x");
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(a_lock_has_one_holder) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    uint64_t ta = 0, tb = 0;
    zc_bytes k = zc_str("k");
    CHECK_EQ(a.st.lock(a.st.user, k, 60 * ZC_SECOND, &ta), ZC_OK);
    CHECK(ta != 0);
    CHECK_EQ(b.st.lock(b.st.user, k, 60 * ZC_SECOND, &tb), ZC_MISS);
    CHECK_EQ(tb, 0);
    CHECK_EQ(b.st.unlock(b.st.user, k, ta + 2), ZC_MISS);
    CHECK_EQ(a.st.lock(a.st.user, k, 90 * ZC_SECOND, &ta), ZC_OK); /* renewed */
    CHECK(atoll(rs_say(&s, "PTTL", "{zoocache}:lock:k", NULL)) > 80000);
    rs_say(&s, "SCRIPT", "FLUSH", NULL); /* the server forgets: the text is sent */
    CHECK_EQ(a.st.lock(a.st.user, k, 90 * ZC_SECOND, &ta), ZC_OK);
    CHECK_EQ(a.st.unlock(a.st.user, k, ta), ZC_OK);
    CHECK_EQ(a.st.unlock(a.st.user, k, ta), ZC_MISS);
    CHECK_EQ(a.st.lock(a.st.user, k, ZC_SECOND, &ta), ZC_MISS); /* lost: not renewed */
    CHECK_EQ(b.st.lock(b.st.user, k, 20 * ZC_MILLISECOND, &tb), ZC_OK);
    ta = 0;
    while (a.st.lock(a.st.user, k, ZC_SECOND, &ta) == ZC_MISS) usleep(1000); /* it ends by itself */
    CHECK_EQ(b.st.lock(b.st.user, k, ZC_SECOND, &tb), ZC_MISS);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

/* ---- the bus */

TEST(entries_are_heard_by_all) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    CHECK_EQ(listen_for(&a, 0), ZC_RETRY); /* not attached */
    CHECK_EQ(append(&a, "x"), ZC_RETRY);
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK(a.identity != 0 && a.identity == b.identity && a.at == 0 && b.at == 0);
    CHECK_EQ(listen_for(&a, 0), ZC_OK);
    CHECK_EQ(append(&a, "user:1"), ZC_OK);
    CHECK_STR(a.tags, "user:1;");
    CHECK_EQ(append(&b, "user:2"), ZC_OK); /* hears a's, and its own */
    CHECK_STR(b.tags, "user:1;user:2;");
    CHECK_EQ(append(&b, NULL), ZC_OK);
    CHECK(b.given == 1 && b.all == 1);
    CHECK_EQ(listen_for(&a, ZC_SECOND), ZC_OK);
    CHECK_STR(a.tags, "user:2;;");
    CHECK(a.at == 3 && b.at == 3);
    CHECK_EQ(listen_for(&a, 30 * ZC_MILLISECOND), ZC_OK);
    CHECK_EQ(a.given, 0);
    zc_bytes two[] = {zc_str("t:1"), zc_str("t:2")};
    zc_bus_sink k = sink_of(&b);
    CHECK_EQ(b.bus.append(b.bus.user, two, 2, false, b.at, &k), ZC_OK);
    CHECK_EQ(listen_for(&a, ZC_SECOND), ZC_OK);
    CHECK_STR(a.tags, "t:1,t:2;");
    /* A node that comes later begins at the tail. */
    node c;
    REQUIRE(node_open(&c, s.url) && CHECK_EQ(attach(&c), ZC_OK));
    CHECK(c.at == 4 && c.identity == a.identity);
    CHECK_EQ(listen_for(&c, 0), ZC_OK);
    a.sink_rc = -77;
    CHECK_EQ(append(&c, "x"), ZC_OK);
    CHECK_EQ(listen_for(&a, 0), -77);
    node_close(&c);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(versions_are_never_below_the_truth) {
    redis_server s;
    node a;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .max_tags = 20};
    REQUIRE(node_open_with(&a, d) && CHECK_EQ(attach(&a), ZC_OK));
    CHECK_EQ(version(&a, "t"), 0);
    CHECK_EQ(version(&a, ""), 0);
    CHECK_EQ(append(&a, NULL), ZC_OK);
    CHECK_EQ(version(&a, ""), 1);
    uint64_t last[64] = {0};
    for (int i = 0; i < 2000; i++) {
        char tag[16];
        uint64_t k = zct_below(i % 7 ? 6 : 64);
        snprintf(tag, sizeof tag, "t:%d", (int)k);
        if (!CHECK_EQ(append(&a, tag), ZC_OK)) break;
        last[k] = a.at;
        k = zct_below(64);
        snprintf(tag, sizeof tag, "t:%d", (int)k);
        uint64_t v = version(&a, tag);
        if (!CHECK(v >= last[k] && v <= a.at)) break;
        if (k < 6) CHECK(v - last[k] < 200); /* what is used is not forgotten at once */
    }
    CHECK_EQ(version(&a, ""), 1);
    CHECK(atoi(rs_say(&s, "HLEN", "{zoocache}:tags", NULL)) <= 16);
    CHECK(atoi(rs_say(&s, "HLEN", "{zoocache}:tags2", NULL)) <= 16);
    /* The older half lost: everything in it counts as of when the younger was begun. */
    rs_say(&s, "DEL", "{zoocache}:tags2", NULL);
    for (int k = 0; k < 64; k++) {
        char tag[16];
        snprintf(tag, sizeof tag, "t:%d", k);
        uint64_t v = version(&a, tag);
        CHECK(v >= last[k] && v <= a.at);
    }
    /* The younger half lost: another log. */
    uint64_t v, identity = a.identity;
    rs_say(&s, "DEL", "{zoocache}:tags", NULL);
    zc_bytes p = zc_str("t:1");
    CHECK_EQ(a.bus.versions(a.bus.user, &p, 1, &v), ZC_RETRY);
    CHECK_EQ(append(&a, "x"), ZC_RETRY);
    CHECK_EQ(attach(&a), ZC_OK);
    CHECK(a.identity != identity && a.at == 0);
    node_close(&a);
    rs_stop(&s);
}

/* What is done to the log or the server, after which every node must attach anew. */
static void breaks(void (*harm)(redis_server *s)) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, "--appendonly", "yes", "--appendfsync", "always", NULL));
    REQUIRE(node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    uint64_t identity = a.identity;
    harm(&s);
    int rc;
    while ((rc = listen_for(&b, 10 * ZC_MILLISECOND)) == ZC_E_BUS || rc == ZC_E_TIMEOUT) usleep(10000);
    CHECK_EQ(rc, ZC_RETRY);
    while ((rc = append(&a, "y")) == ZC_E_BUS || rc == ZC_E_TIMEOUT) usleep(10000);
    CHECK_EQ(rc, ZC_RETRY);
    zc_bytes p = zc_str("x");
    uint64_t v;
    rc = a.bus.versions(a.bus.user, &p, 1, &v); /* the stream alone is lost: they are right */
    CHECK(rc == ZC_RETRY || (rc == ZC_OK && v == 1));
    CHECK_EQ(attach(&a), ZC_OK);
    CHECK_EQ(attach(&b), ZC_OK);
    CHECK(a.identity == b.identity && a.identity != identity);
    CHECK_EQ(append(&a, "z"), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK_STR(b.tags, "z;");
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

static void flush_all(redis_server *s) { rs_say(s, "FLUSHALL", NULL); }
static void del_log(redis_server *s) { rs_say(s, "DEL", "{zoocache}:log", NULL); }
static void other_type(redis_server *s) { rs_say(s, "SET", "{zoocache}:log", "text", NULL); }
static void restart(redis_server *s) {
    rs_kill(s);
    CHECK(rs_again(s) && rs_up(s));
}
/* Another node makes a new log at once, with as many entries. */
static void flush_and_refill(redis_server *s) {
    node c;
    rs_say(s, "FLUSHALL", NULL);
    REQUIRE(node_open(&c, s->url) && CHECK_EQ(attach(&c), ZC_OK));
    for (int i = 0; i < 3; i++) CHECK_EQ(append(&c, "other"), ZC_OK);
    node_close(&c);
}
/* As after a failover with a lost tail: the same ids again, of others. */
static void reuse_ids(redis_server *s) {
    char id[64];
    snprintf(id, sizeof id, "%s", rs_say(s, "XREVRANGE", "{zoocache}:log", "+", "-", "COUNT", "1", NULL));
    *strchr(id, ' ') = '\0';
    rs_say(s, "XDEL", "{zoocache}:log", id, NULL);
    char before[64];
    snprintf(before, sizeof before, "%s", id);
    strcpy(strchr(before, '-'), "-0");
    CHECK_STR(rs_say(s, "XSETID", "{zoocache}:log", before, NULL), "OK");
    CHECK_STR(rs_say(s, "XADD", "{zoocache}:log", id, "n", "other", "h", "1", "t", "", NULL), id);
}

TEST(flushall_is_noticed) { breaks(flush_all); }
TEST(a_deleted_log_is_noticed) { breaks(del_log); }
TEST(a_log_of_another_type_is_noticed) { breaks(other_type); }
TEST(a_restart_is_noticed_although_nothing_was_lost) { breaks(restart); }
TEST(a_new_log_in_the_old_ones_place_is_noticed) { breaks(flush_and_refill); }
TEST(reused_ids_are_noticed) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    reuse_ids(&s);
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY); /* the nonce at the cursor */
    CHECK_EQ(append(&a, "y"), ZC_RETRY);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(a_gap_is_noticed) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    for (int i = 0; i < 3; i++) CHECK_EQ(append(&a, "x"), ZC_OK);
    char id[64];
    snprintf(id, sizeof id, "%s",
             rs_say(&s, "XREVRANGE", "{zoocache}:log", "+", "-", "COUNT", "1", NULL));
    strcpy(strchr(id, '-'), "-2");
    CHECK_STR(rs_say(&s, "XDEL", "{zoocache}:log", id, NULL), "1");
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
    CHECK_EQ(b.given, 1); /* up to the gap */
    CHECK_EQ(attach(&b), ZC_OK);
    CHECK_EQ(b.at, 3);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    /* Trimmed past a reader that lags. */
    for (int i = 0; i < 5; i++) CHECK_EQ(append(&a, "x"), ZC_OK);
    rs_say(&s, "XTRIM", "{zoocache}:log", "MAXLEN", "2", NULL);
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}
