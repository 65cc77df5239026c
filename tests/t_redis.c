/* Redis as storage and bus, against real servers: what is stored and heard, and every failure. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_WITH_REDIS_TLS
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
    size_t given, all; /* entries; of them: everything */
    char tags[4096];   /* their tags, each entry ended by ';'; cut where it is full */
    int sink_rc;
} node;

/* Time-outs are long where none is awaited: a busy machine must not fail a test. */
#define BRIEF (250 * ZC_MILLISECOND)

static bool node_open_with(node *n, zc_redis_desc d) {
    memset(n, 0, sizeof *n);
    n->d = d;
    if (!n->d.timeout) n->d.timeout = 30 * ZC_SECOND;
    n->d.tls_ca = rs_tls_file("all.pem"); /* with RS_TLS */
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
    for (size_t i = 0; i < count && used + tags[i].len + 3 < sizeof n->tags; i++)
        used += (size_t)snprintf(n->tags + used, sizeof n->tags - used, "%s%.*s", i ? "," : "",
                                 (int)tags[i].len, (const char *)tags[i].ptr);
    snprintf(n->tags + used, sizeof n->tags - used, ";");
    return ZC_OK;
}
/* The same for lists whose ids follow no order. */
static int hear_any(void *user, uint64_t position, const zc_bytes *tags, size_t count) {
    ((node *)user)->at = position - 1;
    return hear(user, position, tags, count);
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
    zc_sink sink = {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL};
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
static int get_rc(node *n, const char *key) {
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
    static const char *const bad[] = {"",
                                      "http://x",
                                      "redis:/x",
                                      "redis://h:0",
                                      "redis://h:99999",
                                      "redis://h:x",
                                      "redis://h/x",
                                      "redis://h/1/2",
                                      "redis://u@h",
                                      "redis://u:%zz@h",
                                      "redis://u:%00@h",
                                      "redis://u:%4@h",
                                      "redis://[::1",
                                      "redis://[::1]x",
                                      "unix://",
                                      "unix:///x?db=",
                                      "unix:///x?a=1",
                                      "redis+sentinel://h",
                                      "redis+sentinel://h//1",
                                      "redis+sentinel://h/m/x",
                                      "redis+sentinel://h/m?x",
                                      "redis+sentinel://h?x/m",
                                      "redis+sentinel://h/m#x",
                                      "redis://h?x",
                                      "rediss://h#x",
                                      "redis://h:1:2",
                                      "redis://h/4294967296"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!CHECK_EQ(opens(bad[i]), ZC_E_INVAL)) printf("    %s\n", bad[i]);
    char longest[400] = "redis://";
    memset(longest + 8, 'h', 300);
    CHECK_EQ(opens(longest), ZC_E_INVAL);
    CHECK_EQ(opens("redis://h/"), ZC_OK);
    CHECK_EQ(opens("redis://"), ZC_OK);
    CHECK_EQ(opens("rediss://h"), ZC_OK);
    zc_redis_desc d = {.prefix = "a{b"};
    zc_store st;
    CHECK_EQ(zc_redis_open(&d, &st, NULL), ZC_E_INVAL);
    CHECK_EQ(zc_redis_open(NULL, NULL, NULL), ZC_E_INVAL);
    d.prefix = NULL;
    d.log_shards = ZC_LOGS_MAX + 1;
    CHECK_EQ(zc_redis_open(&d, &st, NULL), ZC_E_INVAL);
}

TEST(opening_fails_cleanly_without_memory) {
    zct_mem mem = {0};
    zc_redis_desc d = {.allocator = zct_allocator(&mem), .log_shards = 3};
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

enum { MANY = 200 };

static const char *name_of(int i) { /* below MANY */
    static char names[MANY][16];
    snprintf(names[i], sizeof names[i], "key %d", i);
    return names[i];
}

/* Two thirds of so many keys are put; all come with these commands. */
static void get_many(redis_server *s, node *n, int count, const char *commands) {
    zc_bytes keys[MANY];
    zc_sink sinks[MANY], *at[MANY];
    int results[MANY];
    zc__mem mem = {.hook = zct_allocator(&n->mem)};
    for (int i = 0; i < count; i++) {
        keys[i] = zc_str(name_of(i));
        if (i % 3) CHECK_EQ(put(n, name_of(i), name_of(i), 0), ZC_OK);
        sinks[i] = (zc_sink){&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL};
        at[i] = &sinks[i];
    }
    rs_say(s, "CONFIG", "RESETSTAT", NULL);
    CHECK_EQ(n->st.get_many(n->st.user, keys, (size_t)count, at, results), ZC_OK);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(results[i], i % 3 ? ZC_OK : ZC_MISS);
        CHECK(sinks[i].buf.size == (i % 3 ? keys[i].len : 0));
        if (i % 3) CHECK(memcmp(sinks[i].buf.ptr, keys[i].ptr, keys[i].len) == 0);
        zc__buf_free(&mem, &sinks[i].buf);
    }
    CHECK(strstr(rs_say(s, "INFO", "commandstats", NULL), commands));
}

TEST(many_are_got_in_one_command) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    get_many(&s, &n, MANY, "cmdstat_mget:calls=1,");
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

/* The server comes to the question when nobody waits for its answer any more. */
TEST(a_lock_that_was_not_answered_in_time_is_given_back) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    uint64_t token = 0;
    zc_bytes k = zc_str("k");
    CHECK_EQ(n.st.unlock(n.st.user, k, 1), ZC_MISS); /* connects */
    ((zc__redis *)n.st.user)->timeout = BRIEF;
    rs_hang(&s);
    CHECK_EQ(n.st.lock(n.st.user, k, 3600 * ZC_SECOND, &token), ZC_E_TIMEOUT);
    CHECK_EQ(token, 0);
    rs_go_on(&s);
    CHECK(rs_until(&s, "cmdstat_del:calls=1", "INFO", "commandstats"));
    CHECK(strstr(rs_say(&s, "INFO", "commandstats", NULL), "cmdstat_set:calls=1") != NULL);
    CHECK_STR(rs_say(&s, "EXISTS", "{zoocache}:lock:k", NULL), "0");
    node_close(&n);
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
    while ((rc = listen_for(&b, 10 * ZC_MILLISECOND)) == ZC_E_BUS || rc == ZC_E_TIMEOUT)
        usleep(10000);
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
    snprintf(id, sizeof id, "%s",
             rs_say(s, "XREVRANGE", "{zoocache}:log", "+", "-", "COUNT", "1", NULL));
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

/* What a thread is given that began to append from position 0: at the first entry another, which
 * began there as well, appends and hears everything. */
static int hear_behind_another(void *user, uint64_t position, const zc_bytes *tags, size_t count) {
    node *n = (node *)user;
    if (position == 1 && n->at == 0) CHECK_EQ(append(n, "other"), ZC_OK);
    return position > n->at ? hear(n, position, tags, count) : ZC_OK;
}
static int append_from_behind(node *n) {
    zc_bytes t = zc_str("behind");
    zc_bus_sink s = {hear_behind_another, n};
    return n->bus.append(n->bus.user, &t, 1, false, 0, &s);
}

TEST(who_is_far_behind_does_not_displace_what_is_newer) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    for (int i = 0; i < 400; i++) CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_EQ(append_from_behind(&b), ZC_OK);
    CHECK_EQ(b.at, 402);
    for (int i = 0; i < 3; i++) CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK_EQ(append_from_behind(&b), ZC_MORE); /* position 0 is forgotten: no proof */
    CHECK_EQ(b.at, 403);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(what_was_heard_first_at_a_position_counts) {
    redis_server s;
    node b;
    REQUIRE(rs_start(&s, NULL) && node_open(&b, s.url) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append(&b, "x"), ZC_OK);
    reuse_ids(&s);
    CHECK_EQ(append_from_behind(&b), ZC_RETRY); /* another entry 1, and its own would follow */
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
    node_close(&b);
    rs_stop(&s);
}

TEST(a_cursor_that_is_not_remembered_is_a_break) {
    redis_server s;
    node b;
    REQUIRE(rs_start(&s, NULL) && node_open(&b, s.url) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append(&b, "x"), ZC_OK);
    zc__redis *r = (zc__redis *)b.bus.user;
    memset(r->nonce_at, 0, sizeof r->nonce_at);
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
    CHECK_EQ(append(&b, "y"), ZC_RETRY);
    CHECK_EQ(attach(&b), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    node_close(&b);
    /* A cache is back with its next round, and has counted it. */
    zc_redis_desc rd = {.url = s.url, .timeout = 30 * ZC_SECOND, .tls_ca = rs_tls_file("all.pem")};
    zc_desc d = {.max_staleness = 60 * ZC_SECOND, .no_thread = true};
    zc_cache *c;
    zc_stats st;
    REQUIRE(zc_redis_open(&rd, NULL, &d.bus) == ZC_OK && zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(zc_poll(c, 0), ZC_OK);
    r = (zc__redis *)d.bus.user;
    memset(r->nonce_at, 0, sizeof r->nonce_at);
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    zc_stats_read(c, &st);
    CHECK_EQ(st.bus_breaks, 1);
    zc_close(c);
    rs_stop(&s);
}

/* Somebody writes numbers that no log has: a new log takes the place of this one. */
TEST(absurd_numbers_are_a_break) {
    static const char *const ids[] = {"-140737488355329", "-9007199254740993",
                                      "-18446744073709551615", NULL};
    for (int i = 0; i < 4; i++) {
        redis_server s;
        node a, b;
        char id[64];
        REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
        REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
        CHECK_EQ(append(&a, "x"), ZC_OK);
        uint64_t was = a.identity;
        zc__redis_log log = zc__redis_attached((zc__redis *)a.bus.user);
        snprintf(id, sizeof id, "%" PRIu64 "%s", log.gen, ids[i] ? ids[i] : "");
        if (ids[i]) rs_say(&s, "XADD", "{zoocache}:log", id, "n", "other", "t", "", NULL);
        else rs_say(&s, "EVAL", "return redis.call('HSET', KEYS[1], '\\0n', '99999999999')", "1",
                    "{zoocache}:tags", NULL);
        CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
        CHECK_EQ(attach(&b), ZC_OK);
        CHECK(b.identity != was);
        CHECK_EQ(b.at, 0);
        CHECK_EQ(append(&a, "x"), ZC_RETRY);
        CHECK_EQ(attach(&a), ZC_OK);
        for (int k = 0; k < 3; k++) CHECK_EQ(append(&a, "x"), ZC_OK);
        CHECK_EQ(listen_for(&b, 0), ZC_OK);
        CHECK_EQ(b.given, 3);
        node_close(&a);
        node_close(&b);
        rs_stop(&s);
    }
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
    /* The newest is deleted before it was heard: no gap, no news, and yet something is missing. */
    CHECK_EQ(attach(&b), ZC_OK);
    uint64_t before = b.identity;
    CHECK_EQ(append(&a, "x"), ZC_OK);
    snprintf(id, sizeof id, "%s",
             rs_say(&s, "XREVRANGE", "{zoocache}:log", "+", "-", "COUNT", "1", NULL));
    *strchr(id, ' ') = '\0';
    CHECK_STR(rs_say(&s, "XDEL", "{zoocache}:log", id, NULL), "1");
    CHECK_EQ(listen_for(&b, 0), ZC_RETRY);
    CHECK_EQ(attach(&b), ZC_OK);
    CHECK(b.identity != before);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(durable_needs_replicas_or_the_disk) {
    redis_server s, t;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && CHECK_EQ(attach(&a), ZC_OK));
    CHECK_EQ(append_as(&a, "x", true), ZC_E_BUS); /* memory alone */
    node_close(&a);
    rs_stop(&s);
    REQUIRE(rs_start(&t, "--appendonly", "yes", "--appendfsync", "always", NULL));
    REQUIRE(node_open(&b, t.url) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append_as(&b, "x", true), ZC_OK);
    CHECK_STR(b.tags, "x;");
    node_close(&b);
    rs_stop(&t);
}

/* ---- replicas: a master that is cut off proves nothing */

static bool replica_of(redis_server *r, redis_server *master) {
    char port[16];
    snprintf(port, sizeof port, "%d", master->port);
    return rs_start(r, "--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0", NULL) &&
           CHECK(rs_until(r, "master_link_status:up", "INFO", "replication"));
}

TEST(with_replicas_the_fence_must_be_taken) {
    redis_server s, r;
    node a, plain;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .replicas = 1};
    REQUIRE(node_open_with(&a, d));
    CHECK_EQ(attach(&a), ZC_E_BUS); /* without min-replicas-to-write a fence is none */
    node_close(&a);
    rs_say(&s, "CONFIG", "SET", "min-replicas-to-write", "1", NULL);
    rs_say(&s, "CONFIG", "SET", "min-replicas-max-lag", "5", NULL);
    REQUIRE(node_open_with(&a, d));
    CHECK_EQ(attach(&a), ZC_E_BUS); /* no replica yet */
    REQUIRE(replica_of(&r, &s));
    while (attach(&a) != ZC_OK) usleep(20000);
    while (append_as(&a, "x", true) != ZC_OK) usleep(20000); /* the replica may be slow */
    while (listen_for(&a, 0) != ZC_OK) usleep(20000);
    CHECK_EQ(version(&a, "x"), a.at);
    /* A node that asks the replica: it may hear, it cannot prove. */
    REQUIRE(node_open(&plain, r.url));
    CHECK_EQ(attach(&plain), ZC_E_BUS);
    node_close(&plain);
    /* The replica is gone: what is heard proves nothing any more, and nothing is durable. */
    rs_hang(&r);
    zc__redis *own = (zc__redis *)a.bus.user;
    own->timeout = BRIEF; /* so long it waits for the replica, and twice that for the answer */
    int rc = append_as(&a, "y", true);
    CHECK(rc == ZC_E_BUS || rc == ZC_E_TIMEOUT);
    own->timeout = 30 * ZC_SECOND;
    while (listen_for(&a, 0) != ZC_E_BUS) usleep(20000);
    zc_bytes p = zc_str("x");
    uint64_t v;
    CHECK_EQ(a.bus.versions(a.bus.user, &p, 1, &v), ZC_E_BUS);
    rs_go_on(&r);
    while ((rc = listen_for(&a, 0)) == ZC_E_BUS) usleep(20000);
    CHECK_EQ(rc, ZC_OK);
    node_close(&a);
    rs_stop(&r);
    rs_stop(&s);
}

TEST(a_master_that_became_a_replica_is_noticed) {
    redis_server s, r;
    node a;
    char port[16];
    REQUIRE(rs_start(&s, NULL) && replica_of(&r, &s));
    rs_say(&s, "CONFIG", "SET", "min-replicas-to-write", "1", NULL);
    zc_redis_desc d = {.url = s.url, .replicas = 1};
    REQUIRE(node_open_with(&a, d));
    while (attach(&a) != ZC_OK) usleep(20000);
    CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_STR(rs_say(&r, "REPLICAOF", "NO", "ONE", NULL), "OK");
    snprintf(port, sizeof port, "%d", r.port);
    CHECK_STR(rs_say(&s, "REPLICAOF", "127.0.0.1", port, NULL), "OK");
    CHECK_EQ(listen_for(&a, 0), ZC_E_BUS);
    CHECK_EQ(append(&a, "y"), ZC_E_BUS);
    CHECK_EQ(put(&a, "k", "v", 0), ZC_E_STORE);
    node_close(&a);
    rs_stop(&r);
    rs_stop(&s);
}

/* Its run id is the same, and so are its connections; its entries may not be. */
TEST(a_master_for_the_second_time_is_noticed) {
    redis_server s, r;
    node n[3]; /* one for each call that must notice it */
    char s_port[16], r_port[16];
    REQUIRE(rs_start(&s, NULL) && replica_of(&r, &s));
    snprintf(s_port, sizeof s_port, "%d", s.port);
    snprintf(r_port, sizeof r_port, "%d", r.port);
    rs_say(&s, "CONFIG", "SET", "min-replicas-to-write", "1", NULL);
    zc_redis_desc d = {.url = s.url, .replicas = 1};
    for (int i = 0; i < 3; i++) {
        REQUIRE(node_open_with(&n[i], d));
        while (attach(&n[i]) != ZC_OK) usleep(20000);
        while (listen_for(&n[i], 0) != ZC_OK) usleep(20000);
    }
    CHECK_STR(rs_say(&r, "REPLICAOF", "NO", "ONE", NULL), "OK");
    CHECK_STR(rs_say(&s, "REPLICAOF", "127.0.0.1", r_port, NULL), "OK");
    CHECK(rs_until(&s, "master_link_status:up", "INFO", "replication"));
    CHECK_STR(rs_say(&s, "REPLICAOF", "NO", "ONE", NULL), "OK");
    CHECK_STR(rs_say(&r, "REPLICAOF", "127.0.0.1", s_port, NULL), "OK");
    CHECK(rs_until(&s, "min_slaves_good_slaves:1", "INFO", "replication"));
    zc_bytes p = zc_str("x");
    uint64_t v, identity = n[0].identity;
    int rc;
    while ((rc = listen_for(&n[0], 0)) == ZC_E_BUS) usleep(20000);
    CHECK_EQ(rc, ZC_RETRY);
    while ((rc = append(&n[1], "x")) == ZC_E_BUS) usleep(20000);
    CHECK_EQ(rc, ZC_RETRY);
    while ((rc = n[2].bus.versions(n[2].bus.user, &p, 1, &v)) == ZC_E_BUS) usleep(20000);
    CHECK_EQ(rc, ZC_RETRY);
    while (attach(&n[0]) != ZC_OK) usleep(20000);
    CHECK(n[0].identity != identity);
    CHECK_EQ(listen_for(&n[0], 0), ZC_OK);
    for (int i = 0; i < 3; i++) node_close(&n[i]);
    rs_stop(&r);
    rs_stop(&s);
}

TEST(sentinels_tell_the_master) {
    redis_server s, r, w;
    node a;
    char url[128];
    REQUIRE(rs_start(&s, NULL) && replica_of(&r, &s) && rs_start_sentinel(&w, s.port));
    /* The first Sentinel is not there. */
    snprintf(url, sizeof url, "redis+sentinel://127.0.0.1:%d,127.0.0.1:%d/zoo", rs_free_port(),
             w.port);
    REQUIRE(node_open(&a, url));
    CHECK_EQ(attach(&a), ZC_OK);
    CHECK_EQ(put(&a, "k", "before", 0), ZC_OK);
    CHECK_EQ(append(&a, "x"), ZC_OK);
    uint64_t identity = a.identity;
    CHECK(rs_until(&w, "slaves=1", "INFO", "sentinel"));
    CHECK_STR(rs_say(&s, "SET", "last", "arrived", NULL), "OK");
    CHECK(rs_until(&r, "arrived", "GET", "last"));
    rs_kill(&s);
    int rc;
    for (int i = 0; i < 1500 && (rc = attach(&a)) != ZC_OK; i++) usleep(20000);
    CHECK_EQ(rc, ZC_OK);
    CHECK(a.identity != identity);
    CHECK_STR(get(&a, "k"), "before");
    CHECK_EQ(append(&a, "y"), ZC_OK);
    node_close(&a);
    rs_stop(&w);
    rs_stop(&r);
    rs_stop(&s);
    REQUIRE(node_open(&a, url)); /* nobody is left */
    CHECK_EQ(put(&a, "k", "x", 0), ZC_E_STORE);
    node_close(&a);
}

/* ---- a cluster: one slot, which moves */

#ifdef RS_TLS
#define CLUSTER_TLS "yes"
#else
#define CLUSTER_TLS "no"
#endif
static bool cluster_node(redis_server *s, char bus[16]) {
    snprintf(bus, 16, "%d", rs_free_port());
    return rs_start(s, "--cluster-enabled", "yes", "--cluster-require-full-coverage", "no",
                    "--cluster-port", bus, "--tls-cluster", CLUSTER_TLS, NULL);
}
static void words(char *out, size_t cap, const char *text) { /* the first word */
    snprintf(out, cap, "%.*s", (int)strcspn(text, " \n"), text);
}

TEST(a_cluster_is_followed) {
    redis_server s, t;
    node a;
    char port[16], bus[16], slot[16], id_s[64], id_t[64];
    REQUIRE(cluster_node(&s, bus) && cluster_node(&t, bus));
    snprintf(slot, sizeof slot, "%s", rs_say(&s, "CLUSTER", "KEYSLOT", "{zoocache}:log", NULL));
    snprintf(port, sizeof port, "%d", t.tls_port ? t.tls_port : t.port);
    rs_say(&s, "CLUSTER", "MEET", "127.0.0.1", port, bus, NULL);
    CHECK(rs_until(&s, "cluster_known_nodes:2", "CLUSTER", "INFO"));
    words(id_s, sizeof id_s, rs_say(&s, "CLUSTER", "MYID", NULL));
    words(id_t, sizeof id_t, rs_say(&t, "CLUSTER", "MYID", NULL));
    CHECK_STR(rs_say(&t, "CLUSTER", "ADDSLOTS", slot, NULL), "OK");
    CHECK(rs_until(&s, "cluster_slots_assigned:1", "CLUSTER", "INFO"));
    CHECK(rs_until(&s, "cluster_state:ok", "CLUSTER", "INFO"));
    CHECK(rs_until(&t, "cluster_state:ok", "CLUSTER", "INFO"));
    REQUIRE(node_open(&a, s.url)); /* the one that does not have it: MOVED */
    CHECK_EQ(put(&a, "k", "v", 0), ZC_OK);
    CHECK_STR(get(&a, "k"), "v");
    CHECK_EQ(attach(&a), ZC_OK);
    CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_EQ(listen_for(&a, 0), ZC_OK);
    CHECK_EQ(version(&a, "x"), 1);
    /* The slot is on its way from t to s. What t has not got any more is asked of s. */
    char era[64], key[64];
    snprintf(era, sizeof era, "%s", rs_say(&t, "GET", "{zoocache}:era", NULL));
    snprintf(key, sizeof key, "{zoocache}:lock:k");
    CHECK_STR(rs_say(&s, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_t, NULL), "OK");
    CHECK_STR(rs_say(&t, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_s, NULL), "OK");
    uint64_t token = 0;
    CHECK_EQ(a.st.lock(a.st.user, zc_str("k"), 60 * ZC_SECOND, &token), ZC_OK);
    rs_say(&s, "ASKING", NULL);
    CHECK(strstr(rs_say(&s, "EXISTS", key, NULL), "1")); /* made there */
    /* It has arrived. */
    CHECK_STR(rs_say(&s, "CLUSTER", "SETSLOT", slot, "NODE", id_s, NULL), "OK");
    CHECK(strstr(rs_say(&t, "DEL", "{zoocache}:era", "{zoocache}:log", NULL), "2"));
    rs_say(&t, "FLUSHALL", NULL);
    rs_say(&t, "CLUSTER", "SETSLOT", slot, "NODE", id_s, NULL);
    CHECK_EQ(put(&a, "k", "moved", 0), ZC_OK);
    CHECK_STR(get(&a, "k"), "moved");
    CHECK_EQ(listen_for(&a, 0), ZC_RETRY); /* another server */
    CHECK_EQ(attach(&a), ZC_OK);
    CHECK_EQ(append(&a, "x"), ZC_OK);
    node_close(&a);
    rs_stop(&s);
    rs_stop(&t);
}

/* ---- who may, where */

TEST(passwords_users_databases_sockets) {
    redis_server s;
    node n;
    char url[200];
    REQUIRE(rs_start(&s, "--requirepass", "p@ss", NULL));
    REQUIRE(node_open(&n, s.url));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_E_STORE);
    CHECK_EQ(attach(&n), ZC_E_BUS);
    node_close(&n);
    snprintf(url, sizeof url, "redis://:p%%40ss@127.0.0.1:%d/3", s.port);
    REQUIRE(node_open(&n, url));
    CHECK_EQ(put(&n, "k", "in 3", 0), ZC_OK);
    CHECK_EQ(attach(&n), ZC_OK);
    node_close(&n);
    snprintf(url, sizeof url, "redis://:wrong@127.0.0.1:%d", s.port);
    REQUIRE(node_open(&n, url));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_E_STORE);
    node_close(&n);
    snprintf(url, sizeof url, "unix://:p%%40ss@%s?db=3", s.path);
    REQUIRE(node_open(&n, url));
    CHECK_STR(get(&n, "k"), "in 3");
    CHECK_EQ(attach(&n), ZC_OK);
    CHECK_EQ(listen_for(&n, ZC_MILLISECOND), ZC_OK);
    rs_say(&s, "AUTH", "p@ss", NULL);
    CHECK_STR(rs_say(&s, "ACL", "SETUSER", "zoo", "on", ">pw", "~{zoocache}:*", "+@all", NULL),
              "OK");
    node_close(&n);
    snprintf(url, sizeof url, "redis://zoo:pw@127.0.0.1:%d", s.port);
    REQUIRE(node_open(&n, url));
    CHECK(get(&n, "k") == NULL); /* database 0 */
    CHECK_EQ(attach(&n), ZC_OK);
    CHECK_EQ(append(&n, "x"), ZC_OK);
    node_close(&n);
    zc_redis_desc d = {.url = url, .prefix = "forbidden"};
    REQUIRE(node_open_with(&n, d));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_E_STORE);
    CHECK_EQ(attach(&n), ZC_E_BUS);
    node_close(&n);
    snprintf(url, sizeof url, "redis://:p%%40ss@127.0.0.1:%d/99", s.port);
    REQUIRE(node_open(&n, url));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_E_STORE); /* no such database */
    node_close(&n);
    rs_stop(&s);
}

TEST(a_user_without_scripts_still_stores) {
    redis_server s;
    node n;
    char url[128];
    REQUIRE(rs_start(&s, NULL));
    rs_say(&s, "ACL", "SETUSER", "zoo", "on", ">pw", "~*", "+@all", "-@scripting", "-info", NULL);
    snprintf(url, sizeof url, "redis://zoo:pw@127.0.0.1:%d", s.port);
    REQUIRE(node_open(&n, url));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_OK);
    CHECK_STR(get(&n, "k"), "v");
    CHECK_EQ(attach(&n), ZC_E_BUS);
    node_close(&n);
    rs_stop(&s);
}

/* Of two nodes without INFO: a mark in the server's cache of scripts tells its run. */
#define NO_DANGER "zoo", "on", ">pw", "~*", "&*", "+@all", "-@dangerous"

static bool poor_url(redis_server *s, char url[128]) {
    snprintf(url, 128, "redis://zoo:pw@127.0.0.1:%d", s->port);
    return CHECK_STR(rs_say(s, "ACL", "SETUSER", NO_DANGER, NULL), "OK");
}

TEST(without_info_a_mark_tells_the_servers_run) {
    redis_server s;
    node a, b;
    char url[128];
    REQUIRE(rs_start(&s, "--appendonly", "yes", "--appendfsync", "always", NULL));
    REQUIRE(poor_url(&s, url) && node_open(&a, url) && node_open(&b, url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK(a.identity == b.identity);
    CHECK_EQ(append(&a, "x"), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK_STR(b.tags, "x;");
    CHECK_EQ(put(&a, "k", "v", 0), ZC_OK);
    CHECK_STR(get(&b, "k"), "v");
    /* New connections to the same run are nothing new. */
    rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL);
    CHECK_EQ(append(&a, "y"), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK_STR(b.tags, "y;");
    CHECK_EQ(version(&b, "x"), 1);
    /* Another run is, although nothing was lost; and so is a mark that was forgotten. */
    for (int i = 0; i < 3; i++) {
        uint64_t identity = a.identity;
        if (i == 0) {
            rs_kill(&s);
            REQUIRE(CHECK(rs_again(&s) && rs_up(&s)) && poor_url(&s, url));
        } else {
            if (i == 1) rs_say(&s, "SCRIPT", "FLUSH", NULL);
            if (i == 2) rs_say(&s, "DEL", "{zoocache}:run", NULL);
            rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", NULL);
        }
        int rc;
        while ((rc = listen_for(&b, 0)) == ZC_E_BUS || rc == ZC_E_TIMEOUT) usleep(10000);
        CHECK_EQ(rc, ZC_RETRY);
        CHECK_EQ(append(&a, "z"), ZC_RETRY);
        CHECK_EQ(attach(&a), ZC_OK);
        CHECK_EQ(attach(&b), ZC_OK);
        CHECK(a.identity == b.identity && a.identity != identity);
    }
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

static void hear_line(void *user, zc_log_level level, const char *message) {
    char *said = (char *)user;
    size_t used = strlen(said);
    (void)level;
    snprintf(said + used, 8192 - used, "%s\n", message);
}

/* What a replica says of the run is not believed, nor what goes with replicas. */
TEST(without_info_replicas_cannot_be_proven) {
    redis_server s, t;
    node n;
    static char said[8192];
    char url[128], port[8];
    REQUIRE(rs_start(&s, NULL));
    snprintf(port, sizeof port, "%d", s.port);
    REQUIRE(rs_start(&t, "--replicaof", "127.0.0.1", port, NULL));
    CHECK(rs_until(&t, "master_link_status:up", "INFO", "replication"));
    REQUIRE(poor_url(&t, url) && node_open(&n, url));
    CHECK_EQ(attach(&n), ZC_E_BUS);
    node_close(&n);
    REQUIRE(poor_url(&s, url));
    zc_redis_desc d = {.url = url, .replicas = 1, .log = {1, hear_line, said}};
    REQUIRE(node_open_with(&n, d));
    CHECK_EQ(attach(&n), ZC_E_BUS);
    n.bus.report(n.bus.user);
    CHECK(strstr(said, "INFO is refused, and needed: there are replicas"));
    node_close(&n);
    rs_stop(&t);
    rs_stop(&s);
}

/* A hold's list is there for who attaches, until it is forgotten, and says of which server it is. */
TEST(holds_are_kept_beside_the_log) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    zc_bytes list[2] = {zc_str("mark"), zc_str("t:1")};
    CHECK_EQ(a.bus.hold(a.bus.user, 1, list, 2), ZC_RETRY); /* not attached */
    CHECK_EQ(a.bus.holds(a.bus.user, NULL), ZC_RETRY);
    REQUIRE(attach(&a) == ZC_OK && attach(&b) == ZC_OK);
    zc_bus_sink sink = sink_of(&b);
    CHECK_EQ(b.bus.holds(b.bus.user, &sink), ZC_OK);
    CHECK_EQ(b.given, 0);
    CHECK_EQ(a.bus.hold(a.bus.user, 1, list, 2), ZC_OK);
    CHECK_EQ(a.bus.hold(a.bus.user, UINT64_C(0xfedcba9876543210), list, 1), ZC_OK);
    rs_say(&s, "HSET", "{zoocache}:holds", "nobody's", "x", NULL); /* skipped, as is the next */
    rs_say(&s, "HSET", "{zoocache}:holds", "0000000000000003", "x", NULL);
    sink = sink_of(&b);
    sink.entry = hear_any;
    CHECK_EQ(b.bus.holds(b.bus.user, &sink), ZC_OK);
    CHECK_EQ(b.given, 2);
    CHECK(strstr(b.tags, "mark,t:1;") && strstr(b.tags, "mark;"));
    CHECK_EQ(a.bus.hold(a.bus.user, 1, NULL, 0), ZC_OK);
    CHECK_EQ(a.bus.hold(a.bus.user, 1, NULL, 0), ZC_OK); /* was gone */
    sink = sink_of(&b);
    sink.entry = hear_any;
    CHECK_EQ(b.bus.holds(b.bus.user, &sink), ZC_OK);
    CHECK_EQ(b.given, 1);
    rs_say(&s, "SET", "{zoocache}:holds", "of another type", NULL);
    CHECK_EQ(b.bus.holds(b.bus.user, &sink), ZC_RETRY);
    rs_kill(&s);
    CHECK(a.bus.hold(a.bus.user, 2, list, 2) < 0);
    REQUIRE(rs_again(&s));
    int rc;
    while ((rc = a.bus.hold(a.bus.user, 2, list, 2)) == ZC_E_BUS) usleep(1000);
    CHECK_EQ(rc, ZC_RETRY); /* of another run */
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

/* Caches on several logs: a hold is in each that has one of its tags. */
TEST(a_hold_spreads_over_the_shards) {
    redis_server s;
    zc_cache *c[3];
    uint64_t id;
    REQUIRE(rs_start(&s, NULL));
    zc_bytes tags[6] = {zc_str("a:1"), zc_str("b"), zc_str("c"), zc_str("d"), zc_str("e:2"), zc_str("f")};
    for (int i = 0; i < 3; i++) {
        zc_redis_desc rd = {.url = s.url, .log_shards = 3, .tls_ca = rs_tls_file("all.pem"),
                            .timeout = 30 * ZC_SECOND};
        zc_desc d = {.no_thread = true, .max_staleness = 3600 * ZC_SECOND};
        REQUIRE(zc_redis_open(&rd, &d.store, &d.bus) == ZC_OK && zc_open(&d, &c[i]) == ZC_OK);
        if (i == 1) CHECK_EQ(zc_hold(c[0], tags, 6, 600 * ZC_SECOND, &id), ZC_OK);
    }
    for (int i = 0; i < 3; i++) { /* the holder, who has heard it, and who has read the list */
        while (zc_poll(c[i], ZC_MILLISECOND) == ZC_MORE) {}
        for (int t = 0; t < 6; t++) {
            zc_put_opts o = {.deps = &tags[t], .ndeps = 1};
            CHECK_EQ(zc_put(c[i], tags[t], zc_str("v"), &o), ZC_REFUSED);
        }
    }
    CHECK_EQ(zc_hold_end(c[0], id), ZC_OK);
    for (int i = 0; i < 3; i++) {
        while (zc_poll(c[i], ZC_MILLISECOND) == ZC_MORE) {}
        CHECK_EQ(c[i]->bus.nholds, 0);
        for (int t = 0; t < 6; t++) {
            zc_put_opts o = {.deps = &tags[t], .ndeps = 1};
            CHECK_EQ(zc_put(c[i], tags[t], zc_str("v"), &o), ZC_OK);
        }
    }
    CHECK_STR(rs_say(&s, "EXISTS", "{zoocache}:holds", NULL), "0");
    for (int i = 0; i < 3; i++) zc_close(c[i]);
    rs_stop(&s);
}

/* The permissions that >>redis lists. */
static const char *const permissions[] = {
    "+get", "+mget", "+set", "+del", "+unlink", "+pexpire", "+xadd", "+xread", "+xrange",
    "+xrevrange", "+xinfo|stream", "+hget", "+hset", "+hdel", "+hgetall", "+hmget", "+hlen",
    "+rename", "+multi", "+exec", "+eval", "+evalsha", "+script|load", "+script|exists", "+zadd", "+zremrangebyscore",
    "+lrange", "+ltrim", "+rpush"};

static int no_entry(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    (void)user, (void)position, (void)tags, (void)n;
    return ZC_E_CORRUPT;
}

/* Everything that a node may ask for, with these but one. Counts what was not granted. */
static unsigned exercise(redis_server *s, const char *url, size_t without) {
    node n;
    char inspect[64];
    const char *ask[] = {"zoo", "other"};
    zc_bytes keys[2] = {zc_str("k"), zc_str("none")}, p = zc_str("t0");
    uint64_t token = 0, v;
    unsigned bad = 0;
    CHECK_STR(rs_say(s, "ACL", "SETUSER", "zoo", "reset", "on", ">pw", "~{zoocache}:*", NULL),
              "OK");
    for (size_t i = 0; i < sizeof permissions / sizeof permissions[0]; i++)
        if (i != without) CHECK_STR(rs_say(s, "ACL", "SETUSER", "zoo", permissions[i], NULL), "OK");
    rs_say(s, "FLUSHALL", NULL);
    rs_say(s, "SCRIPT", "FLUSH", NULL);
    zc_redis_desc d = {.url = url, .max_tags = 8};
    if (!node_open_with(&n, d)) return 1;
    const zc__redis *r = (const zc__redis *)n.st.user;
    snprintf(inspect, sizeof inspect, "{zoocache}:inspect:%016llx", (unsigned long long)r->node);
    rs_say(s, "RPUSH", inspect, ask[1], NULL);
    bad += attach(&n) != ZC_OK;
    bad += attach(&n) != ZC_OK; /* there is one now */
    for (int i = 0; i < 20; i++) {
        char tag[8];
        snprintf(tag, sizeof tag, "t%d", i);
        bad += append(&n, tag) != ZC_OK;
    }
    bad += listen_for(&n, 0) != ZC_OK;
    bad += n.bus.versions(n.bus.user, &p, 1, &v) != ZC_OK;
    bad += n.bus.beat(n.bus.user, zc_str("text")) != ZC_OK;
    zc_bus_sink none = {no_entry, NULL};
    bad += n.bus.hold(n.bus.user, 1, &p, 1) != ZC_OK;
    bad += n.bus.hold(n.bus.user, 1, NULL, 0) != ZC_OK;
    bad += n.bus.holds(n.bus.user, &none) != ZC_OK;
    bad += put(&n, "k", "v", 0) != ZC_OK;
    bad += get_rc(&n, "k") != ZC_OK;
    zc__mem mem = {.hook = zct_allocator(&n.mem)};
    zc_sink one = {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL}, two = one;
    zc_sink *sinks[2] = {&one, &two};
    int rcs[2];
    bad += n.st.get_many(n.st.user, keys, 2, sinks, rcs) != ZC_OK;
    zc__buf_free(&mem, &one.buf);
    bad += n.st.touch(n.st.user, keys[0], wall_ms() + 5000) != ZC_OK;
    bad += n.st.del(n.st.user, keys[0]) != ZC_OK;
    bad += n.st.lock(n.st.user, keys[0], ZC_SECOND, &token) != ZC_OK;
    bad += n.st.lock(n.st.user, keys[0], ZC_SECOND, &token) != ZC_OK;
    bad += n.st.unlock(n.st.user, keys[0], token) != ZC_OK;
    bad += n.st.clear(n.st.user) != ZC_OK;
    node_close(&n);
    if (node_open_with(&n, d)) { /* another finds the mark */
        bad += attach(&n) != ZC_OK;
        node_close(&n);
    }
    return bad;
}

TEST(the_permissions_listed_are_enough_and_needed) {
    redis_server s;
    char url[128];
    size_t all = sizeof permissions / sizeof permissions[0];
    REQUIRE(rs_start(&s, NULL) && poor_url(&s, url));
    CHECK_EQ(exercise(&s, url, all), 0);
    for (size_t i = 0; i < all; i++)
        if (!CHECK(exercise(&s, url, i) > 0)) fprintf(stderr, "not needed: %s\n", permissions[i]);
    rs_stop(&s);
}

/* Where it leads, what is refused, and no password: also where a server repeats it. */
TEST(troubles_are_said_without_secrets) {
    static const struct {
        const char *url, *said; /* the server's address is added where it is missing */
    } cases[] = {
        {"redis://:s3cret@127.0.0.1:1", "127.0.0.1:1: cannot be reached: refused"},
        {"unix://u:s3cret@/nowhere", "/nowhere: cannot be reached"},
        {"redis+sentinel://:s3cret@127.0.0.1:1/m", "m: cannot be reached"},
        {"redis://:s3cret@", "AUTH: WRONGPASS"},
        {"redis://u:s3%63ret@", "AUTH: WRONGPASS"},
        {"redis://", "INFO: NOAUTH"},
        {"redis://zoo:pw@", "MGET: NOPERM"},
    };
    redis_server s;
    static char said[8192];
    REQUIRE(rs_start(&s, "--requirepass", "right", NULL));
    rs_say(&s, "AUTH", "right", NULL);
    rs_say(&s, "ACL", "SETUSER", "zoo", "on", ">pw", "~*", "+@all", "-mget", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        node n;
        char url[128];
        said[0] = '\0';
        size_t len = strlen(cases[i].url);
        bool whole = cases[i].url[len - 1] != '@' && cases[i].url[len - 1] != '/';
        if (whole) snprintf(url, sizeof url, "%s", cases[i].url);
        else snprintf(url, sizeof url, "%s127.0.0.1:%d", cases[i].url, s.port);
        zc_redis_desc d = {.url = url, .log = {1, hear_line, said}};
        REQUIRE(node_open_with(&n, d));
        CHECK_EQ(get_rc(&n, "k"), ZC_E_STORE);
        n.st.report(n.st.user);
        if (!CHECK(strstr(said, cases[i].said))) fprintf(stderr, "%s: %s\n", url, said);
        CHECK(!strstr(said, "s3"));
        node_close(&n);
    }
    rs_stop(&s);
}

/* Uses the cache, whatever that was at when Redis refused something. */
typedef struct meddler {
    zc_cache *c;
    unsigned said, depth;
} meddler;

static void meddle(void *user, zc_log_level level, const char *message) {
    meddler *m = (meddler *)user;
    zc_view v;
    (void)level;
    m->said += strstr(message, ": NOPERM") != NULL;
    if (!m->c || m->depth++) return;
    (void)zc_get(m->c, zc_str("k"), &v);
    zc_release(m->c, &v);
    CHECK(zc_put(m->c, zc_str("k"), zc_str("w"), NULL) >= 0);
    CHECK_EQ(zc_invalidate(m->c, zc_str("t")), ZC_E_BUS);
    CHECK(zc_poll(m->c, 0) >= 0);
    m->depth = 0;
}

TEST(a_log_hook_uses_the_cache) {
    redis_server s;
    meddler m = {NULL, 0, 0};
    char url[128];
    REQUIRE(rs_start(&s, NULL));
    CHECK_STR(rs_say(&s, "ACL", "SETUSER", "zoo", "on", ">pw", "~*", "+@all", NULL), "OK");
    snprintf(url, sizeof url, "redis://zoo:pw@127.0.0.1:%d", s.port);
    zc_redis_desc d = {.url = url, .timeout = 30 * ZC_SECOND, .log = {1, meddle, &m}};
    zc_desc cd = {.no_thread = true, .max_staleness = 60 * ZC_SECOND};
    REQUIRE(zc_redis_open(&d, &cd.store, &cd.bus) == ZC_OK && zc_open(&cd, &m.c) == ZC_OK);
    CHECK_STR(rs_say(&s, "ACL", "SETUSER", "zoo", "-set", "-eval", "-evalsha", NULL), "OK");
    CHECK_EQ(zc_put(m.c, zc_str("k"), zc_str("v"), NULL), ZC_OK);
    CHECK(m.said > 0); /* whose turn it was to write */
    unsigned said = m.said;
    CHECK_EQ(zc_invalidate(m.c, zc_str("t")), ZC_E_BUS);
    CHECK(zc_poll(m.c, 30 * ZC_SECOND) >= 0); /* as the reader, who sends what waits */
    CHECK(m.said > said);
    CHECK_EQ(zc_check(m.c), ZC_OK);
    CHECK_STR(rs_say(&s, "ACL", "SETUSER", "zoo", "+@all", NULL), "OK");
    zc_close(m.c);
    rs_stop(&s);
}

/* ---- failures */

TEST(a_full_server_says_so) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, "--maxmemory", "3mb", NULL) && node_open(&n, s.url));
    static char large[100000];
    int rc = ZC_OK;
    CHECK_EQ(attach(&n), ZC_OK);
    for (int i = 0; i < 1000 && rc == ZC_OK; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        rc = n.st.put(n.st.user, zc_str(key), zc_slice(large, sizeof large), 0);
    }
    CHECK_EQ(rc, ZC_E_FULL);
    rs_say(&s, "CONFIG", "SET", "maxmemory", "1", NULL);
    CHECK_EQ(append(&n, "x"), ZC_E_FULL);
    CHECK_EQ(listen_for(&n, 0), ZC_OK); /* and nothing was lost by it */
    CHECK_EQ(n.st.del(n.st.user, zc_str("0")), ZC_OK);
    rs_say(&s, "CONFIG", "SET", "maxmemory", "0", NULL);
    CHECK_EQ(append(&n, "x"), ZC_OK);
    node_close(&n);
    rs_stop(&s);
}

TEST(a_hung_server_costs_one_timeout) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .timeout = BRIEF};
    REQUIRE(node_open_with(&n, d));
    while (put(&n, "k", "v", 0) != ZC_OK) usleep(1000);
    while (attach(&n) != ZC_OK) usleep(1000);
    while (get_rc(&n, "k") != ZC_OK) usleep(1000);
    const zc__redis *r = (const zc__redis *)n.st.user;
    rs_hang(&s);
    uint64_t begin = zc__sys_mono();
    CHECK_EQ(get_rc(&n, "k"), ZC_E_TIMEOUT);
    CHECK(zc__sys_mono() - begin >= r->timeout / 4);
    CHECK(r->conns[0].link == NULL); /* its reply will never be taken for another's */
    CHECK_EQ(listen_for(&n, 10 * ZC_MILLISECOND), ZC_E_TIMEOUT);
    CHECK_EQ(append(&n, "x"), ZC_E_TIMEOUT); /* it tries to connect */
    CHECK_EQ(append(&n, "x"), ZC_E_BUS);     /* at once: that has just failed */
    rs_go_on(&s);
    while (get_rc(&n, "k") != ZC_OK) usleep(1000);
    int rc;
    while ((rc = listen_for(&n, 0)) < 0) usleep(1000);
    CHECK_EQ(rc, ZC_OK); /* the same server: nothing was lost */
    node_close(&n);
    rs_stop(&s);
}

typedef struct in_line {
    pthread_t thread;
    zc__redis *r;
    int name, *order, *n; /* [its connection] */
} in_line;

static void *take_a_turn(void *user) {
    const in_line *w = (const in_line *)user;
    zc__redis_conn *c = zc__redis_acquire(w->r, ZC_NEVER);
    if (!CHECK(c != NULL)) return NULL;
    w->order[(*w->n)++] = w->name;
    zc__redis_release(w->r, c);
    return NULL;
}

static int line_length(zc__redis *r) {
    int n = 0;
    zc__monitor_lock(&r->pool);
    for (const zc__redis_waiter *w = r->queue; w; w = w->next) n++;
    zc__monitor_unlock(&r->pool);
    return n;
}

TEST(who_waits_for_a_connection_stands_in_line) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .timeout = BRIEF, .connections = 1};
    REQUIRE(node_open_with(&n, d));
    while (put(&n, "k", "v", 0) != ZC_OK) usleep(1000);
    zc__redis *r = (zc__redis *)n.st.user;
    zc__redis_conn *c = zc__redis_acquire(r, 0);
    REQUIRE(c != NULL);
    CHECK_EQ(get_rc(&n, "k"), ZC_E_BUSY); /* which is no time-out of the server's */
    CHECK(zc__redis_acquire(r, 0) == NULL);
    int order[8], len = 0;
    in_line w[8];
    for (int i = 0; i < 8; i++) {
        w[i] = (in_line){.r = r, .name = i, .order = order, .n = &len};
        REQUIRE(pthread_create(&w[i].thread, NULL, take_a_turn, &w[i]) == 0);
        while (line_length(r) != i + 1) usleep(100);
    }
    zc__redis_release(r, c);
    c = zc__redis_acquire(r, ZC_NEVER); /* behind them, if they are still there */
    CHECK(c != NULL);
    zc__redis_release(r, c);
    for (int i = 0; i < 8; i++) pthread_join(w[i].thread, NULL);
    CHECK_EQ(len, 8);
    for (int i = 0; i < len; i++) CHECK_EQ(order[i], i);
    while (get_rc(&n, "k") != ZC_OK) usleep(1000);
    node_close(&n);
    rs_stop(&s);
}

/* A poll with a small budget: it is not the server's time-out that it waits for. */
TEST(who_has_no_time_does_not_wait_for_a_hung_server) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    zc_bus_sink bus = sink_of(&n);
    zc__mem mem = {.hook = zct_allocator(&n.mem)};
    zc_sink store = {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL};
    CHECK_EQ(put(&n, "k", "v", 0), ZC_OK);
    CHECK_EQ(attach(&n), ZC_OK);
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    rs_hang(&s);
    (void)zc__hurry(1); /* long ago */
    CHECK_EQ(n.bus.read(n.bus.user, n.at, 0, &bus), ZC_E_BUSY);
    CHECK_EQ(n.st.get(n.st.user, zc_str("other"), &store), ZC_E_BUSY);
    CHECK_EQ(n.st.get(n.st.user, zc_str("other"), &store), ZC_E_BUSY); /* connecting */
    rs_go_on(&s); /* a healthy one gets all the time that it needs */
    while (n.bus.read(n.bus.user, n.at, 0, &bus) != ZC_OK) usleep(1000);
    while (n.st.get(n.st.user, zc_str("other"), &store) != ZC_MISS) usleep(1000);
    (void)zc__hurry(ZC_NEVER);
    node_close(&n);
    rs_stop(&s);
}

#define MS ZC_MILLISECOND
TEST(how_long_it_takes_at_least_to_give_up) {
    zc__redis r;
    memset(&r, 0, sizeof r);
    r.timeout = 250 * MS;
    CHECK_EQ(zc__redis_limit(&r, 1001 * MS, 1000 * MS, 1250 * MS), 1062 * MS + MS / 2);
    r.latency = 1; /* before, nothing was known */
    CHECK_EQ(zc__redis_limit(&r, 1001 * MS, 1000 * MS, 1250 * MS), 1005 * MS);
    r.latency = 2 * MS;
    CHECK_EQ(zc__redis_limit(&r, 1001 * MS, 1000 * MS, 1250 * MS), 1016 * MS);
    CHECK_EQ(zc__redis_limit(&r, 1001 * MS, 1000 * MS, 1010 * MS), 1010 * MS);
    CHECK_EQ(zc__redis_limit(&r, 1100 * MS, 1000 * MS, 1250 * MS), 1100 * MS);
    CHECK_EQ(zc__redis_limit(&r, ZC_NEVER, 1000 * MS, 1250 * MS), 1250 * MS);
}

TEST(patience_grows_with_a_slow_server) {
    node n;
    REQUIRE(node_open(&n, "redis://127.0.0.1"));
    zc__redis *r = (zc__redis *)n.st.user;
    CHECK_EQ(zc__redis_reply_timeout(r), r->timeout);
    zc__redis_latency_update(r, 30000, ZC_OK);
    CHECK_EQ(zc__redis_reply_timeout(r), r->timeout / 4);
    uint64_t before = zc__redis_reply_timeout(r);
    for (int i = 0; i < 3; i++) zc__redis_latency_update(r, 0, ZC_E_TIMEOUT);
    CHECK(zc__redis_reply_timeout(r) == r->timeout && before < r->timeout);
    for (int i = 0; i < 200; i++) zc__redis_latency_update(r, 30000, ZC_OK);
    CHECK_EQ(zc__redis_reply_timeout(r), r->timeout / 4);
    node_close(&n);
}

TEST(a_dropped_connection_is_replaced_once) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_OK);
    CHECK_EQ(attach(&n), ZC_OK);
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    for (int i = 0; i < 20; i++) {
        rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", NULL);
        CHECK_STR(get(&n, "k"), "v");
        CHECK_EQ(append(&n, "x"), ZC_OK);
        CHECK_EQ(listen_for(&n, 0), ZC_OK); /* the same server, the same entry: nothing lost */
    }
    rs_kill(&s);
    CHECK_EQ(get_rc(&n, "k"), ZC_E_STORE);
    /* Not one connection each: the pause doubles, from 20 ms. */
    uint64_t begin = zc__sys_mono();
    for (int i = 0; i < 2000; i++) CHECK_EQ(get_rc(&n, "k"), ZC_E_STORE);
    uint64_t pauses = 1;
    for (uint64_t took = zc__sys_mono() - begin; took > ZC__REDIS_BACKOFF / 2; took /= 2) pauses++;
    CHECK(((zc__redis *)n.st.user)->fails <= pauses + 3);
    CHECK(rs_again(&s) && rs_up(&s));
    while (get_rc(&n, "k") != ZC_MISS) usleep(1000);
    node_close(&n);
    rs_stop(&s);
}

TEST(nobody_there) {
    node n;
    char url[64];
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", rs_free_port());
    REQUIRE(node_open(&n, url));
    CHECK_EQ(get_rc(&n, "k"), ZC_E_STORE);
    CHECK_EQ(attach(&n), ZC_E_BUS);
    node_close(&n);
    REQUIRE(node_open(&n, "unix:///nowhere/at/all"));
    CHECK_EQ(get_rc(&n, "k"), ZC_E_STORE);
    node_close(&n);
}

/* ---- waiting, telling */

typedef struct waiter {
    node *n;
    int rc;
} waiter;

static void *wait_long(void *user) {
    waiter *w = (waiter *)user;
    w->rc = listen_for(w->n, 600 * ZC_SECOND);
    return NULL;
}

TEST(a_waiting_read_can_be_woken) {
    redis_server s;
    node n;
    pthread_t t;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url) && CHECK_EQ(attach(&n), ZC_OK));
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    waiter w = {&n, -1};
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    n.bus.wake(n.bus.user);
    pthread_join(t, NULL);
    CHECK_EQ(w.rc, ZC_MORE);
    CHECK_EQ(n.given, 0);
    CHECK_EQ(listen_for(&n, 600 * ZC_SECOND), ZC_OK); /* the next one does not wait */
    n.bus.wake(n.bus.user);
    CHECK_EQ(listen_for(&n, 600 * ZC_SECOND), ZC_OK); /* nor one that had not begun */
    for (int i = 0; i < 100; i++) {                   /* what does not wait is not interrupted */
        n.bus.wake(n.bus.user);
        CHECK_EQ(listen_for(&n, 0), ZC_OK);
    }
    /* Dropped while it waits: it looks again by itself. */
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", NULL);
    pthread_join(t, NULL);
    CHECK_EQ(w.rc, ZC_OK);
    /* Also if the server hangs. */
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    rs_hang(&s);
    n.bus.wake(n.bus.user);
    pthread_join(t, NULL);
    CHECK_EQ(w.rc, ZC_MORE);
    rs_go_on(&s);
    node_close(&n);
    rs_stop(&s);
}

static unsigned opened; /* connections; atomic */
static int counted_open(void *user, const char *host, int port, bool tls, uint64_t timeout,
                        void **conn) {
    __atomic_add_fetch(&opened, 1, __ATOMIC_RELAXED);
    return zc__redis_io_open(user, host, port, tls, timeout, conn);
}
static unsigned count_opened(const void *user) {
    zc__redis *r = (zc__redis *)(uintptr_t)user;
    for (unsigned i = 0; i < r->nshards; i++) ((zc__redis *)r->shards[i])->io.open = counted_open;
    return __atomic_load_n(&opened, __ATOMIC_RELAXED);
}

TEST(a_wake_costs_no_connection) {
    redis_server s;
    node a, b;
    pthread_t t;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url));
    REQUIRE(node_open_with(&b, (zc_redis_desc){.url = s.url, .connections = 1}));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(append(&b, "x"), ZC_OK); /* the pool has its connection */
    unsigned before = count_opened(b.bus.user);
    zc__redis *r = (zc__redis *)b.bus.user;
    waiter w = {&b, -1};
    for (int i = 0; i < 20; i++) {
        pthread_create(&t, NULL, wait_long, &w);
        CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
        b.bus.wake(b.bus.user);
        pthread_join(t, NULL);
        CHECK(w.rc == ZC_MORE || (i && w.rc == ZC_OK)); /* it had not begun to wait again */
        CHECK_EQ(listen_for(&b, 0), ZC_OK);
    }
    CHECK(r->reader.pending > 0);
    CHECK_EQ(append(&a, "y"), ZC_OK); /* answers what was left behind */
    CHECK_EQ(listen_for(&b, 600 * ZC_SECOND), ZC_OK);
    CHECK_STR(b.tags, "y;");
    CHECK_EQ(r->reader.pending, 0);
    CHECK_EQ(opened, before);
    /* What is owed by a connection that is lost, or by a server that hangs. */
    for (int hangs = 0; hangs < 2; hangs++) {
        pthread_create(&t, NULL, wait_long, &w);
        CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
        b.bus.wake(b.bus.user);
        pthread_join(t, NULL);
        CHECK(r->reader.pending > 0);
        if (hangs) rs_hang(&s);
        else rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", NULL);
        r->timeout = hangs ? BRIEF : r->timeout;
        int rc = listen_for(&b, 0);
        CHECK(hangs ? rc == ZC_E_TIMEOUT && r->reader.link == NULL : rc == ZC_OK);
        if (hangs) rs_go_on(&s);
        r->timeout = 30 * ZC_SECOND;
        CHECK_EQ(append(&a, "z"), ZC_OK);
        CHECK_EQ(listen_for(&b, 600 * ZC_SECOND), ZC_OK);
        CHECK_STR(b.tags, "z;");
        CHECK_EQ(r->reader.pending, 0);
    }
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

/* x_simulate, seed 65442 with holds among crowds: a reader who owed replies waited for a connection
 * behind writers, who waited for replicas. */
TEST(a_read_after_a_wake_waits_for_no_writer) {
    redis_server s;
    node n;
    pthread_t t;
    REQUIRE(rs_start(&s, NULL));
    REQUIRE(node_open_with(&n, (zc_redis_desc){.url = s.url, .connections = 1}));
    REQUIRE(CHECK_EQ(attach(&n), ZC_OK));
    zc__redis *r = (zc__redis *)n.bus.user;
    waiter w = {&n, -1};
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    n.bus.wake(n.bus.user);
    pthread_join(t, NULL);
    CHECK(r->reader.pending > 0);
    zc__redis_conn *all = zc__redis_acquire(r, 0);
    REQUIRE(CHECK(all != NULL));
    r->timeout = BRIEF;
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    CHECK_EQ(r->reader.pending, 0);
    zc__redis_release(r, all);
    node_close(&n);
    rs_stop(&s);
}

TEST(an_append_ends_the_waiting) {
    redis_server s;
    node a, b;
    pthread_t t;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    waiter w = {&b, -1};
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    CHECK_EQ(append(&a, "x"), ZC_OK);
    pthread_join(t, NULL);
    CHECK_EQ(w.rc, ZC_OK);
    CHECK_STR(b.tags, "x;");
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(a_long_backlog_comes_in_parts) {
    redis_server s;
    node a, b;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    for (int i = 0; i < 2500; i++) append(&a, NULL);
    CHECK_EQ(a.at, 2500);
    CHECK_EQ(append(&b, NULL), ZC_MORE);
    CHECK_EQ(b.given, 1000);
    CHECK_EQ(listen_for(&b, 0), ZC_MORE);
    CHECK_EQ(b.given, 1000);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK_EQ(b.at, 2501);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(many_and_long_tags_in_one_entry) {
    redis_server s;
    node a, b;
    enum { N = 20000 };
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && node_open(&b, s.url));
    REQUIRE(CHECK_EQ(attach(&a), ZC_OK) && CHECK_EQ(attach(&b), ZC_OK));
    static char text[N][12];
    static zc_bytes tags[N];
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "t:%d", i);
        tags[i] = zc_str(text[i]);
    }
    static char longest[ZC_TAG_MAX];
    memset(longest, '*', sizeof longest);
    tags[7] = zc_slice(longest, sizeof longest);
    zc_bus_sink k = sink_of(&a);
    CHECK_EQ(a.bus.append(a.bus.user, tags, 20, false, a.at, &k), ZC_OK);
    CHECK_EQ(listen_for(&b, 0), ZC_OK);
    CHECK(strstr(b.tags, "t:6,*******") && strstr(b.tags, "*,t:8,"));
    CHECK_EQ(a.bus.append(a.bus.user, tags, N, false, a.at, &k), ZC_OK);
    static uint64_t positions[N];
    CHECK_EQ(a.bus.versions(a.bus.user, tags, N, positions), ZC_OK);
    for (int i = 0; i < N; i++) CHECK_EQ(positions[i], 2);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(an_entry_that_cannot_be_read_is_everything) {
    redis_server s;
    node a;
    char id[64];
    static const char *const bad[] = {"x", "\5", "\1\1x", "a:b", "\3", "\2"};
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url) && CHECK_EQ(attach(&a), ZC_OK));
    uint64_t gen = ((const zc__redis *)a.bus.user)->attached.gen;
    for (unsigned i = 0; i < 6; i++) {
        snprintf(id, sizeof id, "%" PRIu64 "-%u", gen, i + 1);
        rs_say(&s, "XADD", "{zoocache}:log", id, i == 4 ? "z" : "t", bad[i], NULL);
        CHECK_EQ(listen_for(&a, 0), ZC_OK);
        CHECK(a.given == 1 && a.all == 1);
    }
    node_close(&a);
    rs_stop(&s);
}

TEST(a_node_tells_about_itself_and_answers) {
    redis_server s;
    node a;
    char id[32], key[64];
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url));
    CHECK_EQ(a.bus.beat(a.bus.user, zc_str("hits 1\n")), ZC_OK);
    snprintf(id, sizeof id, "%s", rs_say(&s, "ZRANGE", "{zoocache}:nodes", "0", "-1", NULL));
    CHECK_EQ(strlen(id), 16);
    snprintf(key, sizeof key, "{zoocache}:node:%.16s", id);
    CHECK_STR(rs_say(&s, "GET", key, NULL), "hits 1\n");
    CHECK(atoll(rs_say(&s, "PTTL", key, NULL)) > 1000);
    snprintf(key, sizeof key, "{zoocache}:inspect:%.16s", id);
    rs_say(&s, "RPUSH", key, "monitor-1", "monitor-2", NULL);
    CHECK_EQ(a.bus.beat(a.bus.user, zc_str("hits 2\n")), ZC_OK);
    CHECK_STR(rs_say(&s, "LPOP", "{zoocache}:reply:monitor-1", NULL), "hits 2\n");
    CHECK_STR(rs_say(&s, "LPOP", "{zoocache}:reply:monitor-2", NULL), "hits 2\n");
    CHECK_STR(rs_say(&s, "EXISTS", key, NULL), "0");
    rs_say(&s, "ZADD", "{zoocache}:nodes", "5", "long gone", NULL);
    CHECK_EQ(a.bus.beat(a.bus.user, zc_str("")), ZC_OK);
    CHECK_STR(rs_say(&s, "ZRANGE", "{zoocache}:nodes", "0", "-1", NULL), id);
    node_close(&a);
    rs_stop(&s);
}

/* Redis has the first part of a beat, and a monitor asks, before it gets the rest. */
static struct {
    int (*append)(void *, void *, int, const char **, const size_t *);
    redis_server *s;
    uint64_t node;
} asking;
static int late_append(void *user, void *conn, int argc, const char **argv, const size_t *len) {
    char key[64];
    if (strcmp(argv[0], "LTRIM") == 0) {
        CHECK_EQ(zc__redis_io_send((zc__redis_link *)conn), ZC_OK);
        snprintf(key, sizeof key, "{zoocache}:node:%016" PRIx64, asking.node);
        CHECK(rs_until(asking.s, "1", "EXISTS", key));
        snprintf(key, sizeof key, "{zoocache}:inspect:%016" PRIx64, asking.node);
        rs_say(asking.s, "RPUSH", key, "monitor", NULL);
    }
    return asking.append(user, conn, argc, argv, len);
}

TEST(no_monitor_asks_in_vain) {
    redis_server s;
    node a;
    REQUIRE(rs_start(&s, NULL) && node_open(&a, s.url));
    zc__redis *r = (zc__redis *)a.bus.user;
    asking.append = r->io.append;
    asking.s = &s;
    asking.node = r->node;
    r->io.append = late_append;
    CHECK_EQ(a.bus.beat(a.bus.user, zc_str("hits 1\n")), ZC_OK);
    r->io.append = asking.append;
    CHECK_STR(rs_say(&s, "LPOP", "{zoocache}:reply:monitor", NULL), "hits 1\n");
    node_close(&a);
    rs_stop(&s);
}

/* ---- threads, forks, memory */

typedef struct crowd {
    node *n;
    unsigned id;
} crowd;

static void *one_of_crowd(void *user) {
    crowd *w = (crowd *)user;
    zc_allocator all = zct_allocator(&w->n->mem);
    zc__mem mem = {.hook = all};
    for (int i = 0; i < 300; i++) {
        char key[32], value[32];
        snprintf(key, sizeof key, "%u/%d", w->id, i % 10);
        snprintf(value, sizeof value, "%u/%d", w->id, i);
        CHECK_EQ(w->n->st.put(w->n->st.user, zc_str(key), zc_str(value), 0), ZC_OK);
        zc_sink sink = {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL};
        CHECK_EQ(w->n->st.get(w->n->st.user, zc_str(key), &sink), ZC_OK);
        CHECK(sink.buf.size == strlen(value) && memcmp(sink.buf.ptr, value, sink.buf.size) == 0);
        zc__buf_free(&mem, &sink.buf);
    }
    return NULL;
}

TEST(threads_share_the_pool) {
    redis_server s;
    node n;
    enum { N = 12 };
    pthread_t t[N];
    crowd w[N];
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .connections = 3};
    REQUIRE(node_open_with(&n, d));
    for (unsigned i = 0; i < N; i++) {
        w[i] = (crowd){&n, i};
        pthread_create(&t[i], NULL, one_of_crowd, &w[i]);
    }
    for (unsigned i = 0; i < N; i++) pthread_join(t[i], NULL);
    CHECK(atoi(strstr(rs_say(&s, "INFO", "clients", NULL), "connected_clients:") + 18) <= 4);
    node_close(&n);
    rs_stop(&s);
}

TEST(a_child_has_its_own_connections) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL) && node_open(&n, s.url) && CHECK_EQ(attach(&n), ZC_OK));
    CHECK_EQ(put(&n, "k", "v", 0), ZC_OK);
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    uint64_t node_id = ((zc__redis *)n.st.user)->node;
    pid_t pid = fork();
    if (pid == 0) {
        n.st.forked(n.st.user);
        n.bus.forked(n.bus.user);
        bool good = ((zc__redis *)n.st.user)->node != node_id;
        for (int i = 0; i < 200 && good; i++) good = get_rc(&n, "k") == ZC_OK;
        good = good && append(&n, "from the child") == ZC_OK && listen_for(&n, 0) == ZC_OK;
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < 200; i++) CHECK_STR(get(&n, "k"), "v");
    int status = 1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(listen_for(&n, 0), ZC_OK);
    CHECK_STR(n.tags, "from the child;");
    node_close(&n);
    rs_stop(&s);
}

/* Everything once; the first failure. */
static int everything(node *n, uint64_t lock) {
    int results[2], rc = attach(n);
    zc_bytes keys[2] = {zc_str("a"), zc_str("b")}, many[60];
    zc_bytes locked = zc_slice(&lock, sizeof lock);
    uint64_t token = 0, positions[60];
    zc_allocator all = zct_allocator(&n->mem);
    zc__mem mem = {.hook = {1, all.alloc, all.free, all.user}};
    zc_sink sinks[2] = {{&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL},
                        {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL}};
    zc_sink *at[2] = {&sinks[0], &sinks[1]};
    for (int i = 0; i < 60; i++) many[i] = zc_str("t:1");
    if (rc == ZC_OK) rc = put(n, "a", "v", 0);
    if (rc == ZC_OK) rc = n->st.touch(n->st.user, keys[0], 0);
    if (rc == ZC_OK) rc = n->st.get_many(n->st.user, keys, 2, at, results);
    if (rc == ZC_OK && results[0] < 0) rc = results[0];
    for (int i = 0; i < 2; i++) zc__buf_free(&mem, &sinks[i].buf);
    if (rc == ZC_OK) rc = n->st.lock(n->st.user, locked, ZC_SECOND, &token);
    if (rc == ZC_OK) rc = n->st.unlock(n->st.user, locked, token);
    zc_bus_sink k = sink_of(n);
    if (rc == ZC_OK) rc = n->bus.append(n->bus.user, many, 60, false, n->at, &k);
    if (rc == ZC_OK) rc = listen_for(n, 0);
    if (rc == ZC_OK) rc = n->bus.versions(n->bus.user, many, 60, positions);
    if (rc == ZC_OK) rc = n->bus.beat(n->bus.user, zc_str("text"));
    return rc;
}

TEST(without_memory_every_call_fails_cleanly) {
    redis_server s;
    node n;
    int rc = ZC_E_NOMEM;
    REQUIRE(rs_start(&s, NULL));
    for (uint64_t i = 1; rc != ZC_OK && CHECK(i < 500); i++) {
        REQUIRE(node_open(&n, s.url));
        n.mem.count = 0;
        n.mem.fail_at = i;
        rc = everything(&n, i);
        if (rc != ZC_OK && !CHECK_EQ(rc, ZC_E_NOMEM)) break;
        n.mem.fail_at = 0;
        ((zc__redis *)n.st.user)->down_until = 0;
        CHECK_EQ(everything(&n, i + 1000), ZC_OK);
        node_close(&n);
    }
    rs_stop(&s);
}

/* The block's own io, of which the call number `at` fails. */
typedef struct broken_io {
    zc__redis_io real;
    uint64_t calls, at;
    int rc;
} broken_io;

static int broken(broken_io *b) { return ++b->calls == b->at ? b->rc : ZC_OK; }
static int broken_open(void *user, const char *host, int port, bool tls, uint64_t timeout,
                       void **conn) {
    broken_io *b = (broken_io *)user;
    int rc = broken(b);
    return rc != ZC_OK ? rc : b->real.open(b->real.user, host, port, tls, timeout, conn);
}
static int broken_append(void *user, void *conn, int argc, const char **argv, const size_t *len) {
    broken_io *b = (broken_io *)user;
    int rc = broken(b);
    return rc != ZC_OK ? rc : b->real.append(b->real.user, conn, argc, argv, len);
}
static int broken_reply(void *user, void *conn, uint64_t timeout, redisReply **reply) {
    broken_io *b = (broken_io *)user;
    int rc = broken(b);
    return rc != ZC_OK ? rc : b->real.reply(b->real.user, conn, timeout, reply);
}
static void broken_wake(void *user, void *conn) {
    const broken_io *b = (const broken_io *)user;
    b->real.wake(b->real.user, conn);
}
static void broken_close(void *user, void *conn, bool forked) {
    const broken_io *b = (const broken_io *)user;
    b->real.close(b->real.user, conn, forked);
}
TEST(each_call_of_the_io_fails_once) {
    static const int codes[] = {ZC_E_STORE, ZC_E_TIMEOUT, ZC_E_CORRUPT, ZC_E_NOMEM};
    redis_server s;
    uint64_t runs = 0, told = 0;
    REQUIRE(rs_start(&s, NULL));
    for (size_t k = 0; k < sizeof codes / sizeof codes[0]; k++) {
        broken_io b = {.at = 0, .rc = codes[k]};
        do {
            node n;
            REQUIRE(node_open(&n, s.url));
            zc__redis *r = (zc__redis *)n.st.user;
            b.real = r->io;
            b.calls = 0;
            b.at++;
            r->io = (zc__redis_io){broken_open, broken_append, broken_reply, broken_wake,
                                   broken_close, b.real.sleep, b.real.random, NULL, &b};
            int rc = everything(&n, ++runs);
            CHECK(rc == ZC_OK || rc == ZC_RETRY || rc == ZC_MORE || rc == ZC_E_BUS ||
                  rc == ZC_MISS || rc == codes[k]); /* a lock whose taking was not told: a miss */
            told += rc < 0;
            bool reached = b.calls >= b.at;
            b.at = reached ? b.at : 0;
            r->down_until = 0;
            uint64_t at = b.at;
            b.at = 0;
            CHECK_EQ(everything(&n, ++runs), ZC_OK);
            b.at = at;
            node_close(&n);
        } while (b.at);
    }
    CHECK(runs > 100 && told > 20);
    rs_stop(&s);
}

/* ---- whole caches */

static zc_cache *cache_on(redis_server *s) {
    zc_redis_desc r = {.url = s->url, .timeout = 30 * ZC_SECOND};
    r.tls_ca = rs_tls_file("all.pem");
    zc_desc d = {.max_staleness = 60 * ZC_SECOND};
    zc_cache *c = NULL;
    CHECK_EQ(zc_redis_open(&r, &d.store, &d.bus), ZC_OK);
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    return c;
}

typedef struct row {
    const char *text;
    int loads;
} row;
static int load_row(zc_fill *fill, void *user) {
    row *r = (row *)user;
    r->loads++;
    CHECK_EQ(zc_fill_dep(fill, zc_str("user:42:name")), ZC_OK);
    return zc_fill_value(fill, zc_str(r->text));
}
static bool fetches(zc_cache *c, row *r, const char *want) {
    zc_view v;
    int rc = zc_fetch(c, zc_str("name of 42"), load_row, r, NULL, &v);
    bool good = rc == ZC_OK && v.size == strlen(want) && memcmp(v.data, want, v.size) == 0;
    zc_release(c, &v);
    return good;
}

TEST(caches_share_what_they_load_and_what_they_invalidate) {
    redis_server s;
    row r = {"Ada Byron", 0};
    REQUIRE(rs_start(&s, NULL));
    zc_cache *a = cache_on(&s), *b = cache_on(&s);
    REQUIRE(a && b);
    CHECK(fetches(a, &r, "Ada Byron"));
    CHECK(fetches(b, &r, "Ada Byron"));
    CHECK_EQ(r.loads, 1); /* b has it from Redis */
    r.text = "Ada Lovelace";
    CHECK_EQ(zc_invalidate(a, zc_str("user:42")), ZC_OK);
    CHECK_EQ(zc_catch_up(b, zc_token(a), 30 * ZC_SECOND), ZC_OK);
    /* One that comes late does not revive the old record, which is still there. */
    zc_cache *late = cache_on(&s);
    REQUIRE(late);
    CHECK(fetches(late, &r, "Ada Lovelace"));
    CHECK(fetches(b, &r, "Ada Lovelace"));
    CHECK(fetches(a, &r, "Ada Lovelace"));
    CHECK_EQ(r.loads, 2);
    /* Whatever was in Redis is lost, its log, too: the loader runs again, once in each. */
    rs_say(&s, "FLUSHALL", NULL);
    r.text = "Countess of Lovelace";
    int rc = zc_invalidate(a, zc_str("user:42"));
    CHECK(rc == ZC_OK || rc == ZC_E_BUS);
    for (int i = 0; i < 3000 && !fetches(b, &r, r.text); i++) usleep(10000);
    CHECK(fetches(b, &r, r.text) && fetches(a, &r, r.text));
    zc_close(a);
    zc_close(b);
    zc_close(late);
    rs_stop(&s);
}

/* Polls with next to no budget; then it has all been within the server's time-out. */
static void poll_hung(zc_cache *c, int n) {
    uint64_t begin = zc__mono(&c->clock);
    while (n--) (void)zc_poll(c, ZC_MICROSECOND);
    CHECK(zc__mono(&c->clock) - begin < 30 * ZC_SECOND);
}
static bool is_behind(zc_cache *c) {
    zc_stats st;
    zc_stats_read(c, &st);
    return st.bus_pending || c->behind_at != c->behind_end || !zc__atomic_load_acq(&c->bus.attached);
}

TEST(a_poll_does_not_wait_for_a_hung_server_and_loses_nothing) {
    redis_server s;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc r = {.url = s.url, .timeout = 60 * ZC_SECOND};
    r.tls_ca = rs_tls_file("all.pem");
    zc_desc d = {.max_staleness = 600 * ZC_SECOND, .no_thread = true, .write_behind = true,
                 .ack = ZC_ASYNC};
    zc_cache *c = NULL;
    uint64_t hold;
    REQUIRE(zc_redis_open(&r, &d.store, &d.bus) == ZC_OK);
    zc__redis *io = (zc__redis *)d.bus.user;
    io->down_until = UINT64_MAX; /* zc_open() does not wait */
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    io->down_until = 0;
    rs_hang(&s);
    poll_hung(c, 50); /* it shakes hands, and says nothing */
    rs_go_on(&s);
    while (is_behind(c)) (void)zc_poll(c, ZC_MICROSECOND);
    /* That of the test, one for the log, and one of the pool if it was needed: none was given up. */
    const char *made = strstr(rs_say(&s, "INFO", "stats", NULL), "total_connections_received:");
    CHECK(made && atoi(made + strlen("total_connections_received:")) <= 3);

    /* The same with everything that a poll may have to say. */
    zc_put_opts opts;
    memset(&opts, 0, sizeof opts);
    zc_bytes tag = zc_str("t");
    opts.deps = &tag;
    opts.ndeps = 1;
    CHECK_EQ(zc_hold(c, &tag, 1, ZC_MILLISECOND, &hold), ZC_OK);
    c->bus.holds->own = false; /* as if another's, who has died */
    rs_hang(&s);
    CHECK_EQ(zc_invalidate(c, zc_str("u")), ZC_OK);
    opts.begin = zc_begin(c);
    opts.deps = NULL;
    opts.ndeps = 0;
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &opts), ZC_OK);
    usleep(2000); /* the hold's lease */
    c->bus.last_beat = 0;
    poll_hung(c, 50);
    CHECK(is_behind(c));
    rs_go_on(&s);
    while (is_behind(c)) (void)zc_poll(c, ZC_MICROSECOND);
    CHECK_EQ(c->bus.nholds, 0);
    zc_cache *other = cache_on(&s);
    zc_view v;
    REQUIRE(other != NULL);
    CHECK_EQ(zc_get(other, zc_str("k"), &v), ZC_OK); /* Redis has it */
    zc_release(other, &v);
    zc_close(other);
    zc_close(c);
    rs_stop(&s);
}

/* A cache that tells of its invalidations later, on so many logs. */
static zc_cache *async_cache(redis_server *s, unsigned shards) {
    zc_redis_desc r = {.url = s->url, .timeout = 30 * ZC_SECOND, .log_shards = shards};
    r.tls_ca = rs_tls_file("all.pem");
    r.connections = 1;
    zc_desc d = {.max_staleness = 60 * ZC_SECOND, .ack = ZC_ASYNC, .bus_pause = 1};
    zc_cache *c = NULL;
    CHECK_EQ(zc_redis_open(&r, NULL, &d.bus), ZC_OK);
    (void)count_opened(d.bus.user);
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    return c;
}

TEST(asynchronous_invalidations_cost_no_connections) {
    for (unsigned shards = 1; shards <= 3; shards += 2) {
        redis_server s;
        unsigned before = 0;
        REQUIRE(rs_start(&s, NULL));
        zc_cache *a = async_cache(&s, shards), *b = async_cache(&s, shards);
        REQUIRE(a && b);
        for (int i = 0; i < 40; i++) {
            char tag[16];
            zc_stats st;
            snprintf(tag, sizeof tag, "t%d", i);
            CHECK_EQ(i ? zc_invalidate(a, zc_str(tag)) : zc_clear(a), ZC_OK);
            do zc_stats_read(a, &st);
            while (st.bus_pending && usleep(1000) == 0);
            CHECK_EQ(zc_catch_up(b, zc_token(a), 30 * ZC_SECOND), ZC_OK);
            CHECK_EQ(zc_catch_up(a, zc_token(b), 30 * ZC_SECOND), ZC_OK);
            if (i == 5) before = __atomic_load_n(&opened, __ATOMIC_RELAXED); /* all are there */
        }
        CHECK_EQ(__atomic_load_n(&opened, __ATOMIC_RELAXED), before);
        zc_close(a);
        zc_close(b);
        rs_stop(&s);
    }
}

/* ---- several shards */

enum { SHARDS = 3 };

static zc_cache *sharded_cache(const char *url, uint64_t t) {
    zc_redis_desc r = {.url = url, .timeout = 30 * ZC_SECOND, .log_shards = SHARDS};
    r.tls_ca = rs_tls_file("all.pem"); /* with RS_TLS */
    zc_desc d = {.max_staleness = t};
    zc_cache *c = NULL;
    CHECK_EQ(zc_redis_open(&r, &d.store, &d.bus), ZC_OK);
    CHECK_EQ(zc_open(&d, &c), ZC_OK);
    return c;
}

/* A tag, and a key, of a shard. */
static const char *in_shard(unsigned shard, const char *what) {
    static char text[8][32];
    static unsigned turn;
    char *to = text[turn++ % 8];
    for (unsigned i = 0;; i++) {
        snprintf(to, sizeof text[0], "%s%u", what, i);
        if (XXH3_64bits(to, strlen(to)) % SHARDS == shard) return to;
    }
}

typedef struct thing {
    const char *tags[2];
    char text[32];
    int loads;
} thing;
static int load_thing(zc_fill *fill, void *user) {
    thing *t = (thing *)user;
    t->loads++;
    for (int i = 0; i < 2 && t->tags[i]; i++) CHECK_EQ(zc_fill_dep(fill, zc_str(t->tags[i])), ZC_OK);
    return zc_fill_value(fill, zc_str(t->text));
}
/* Does the cache give the text as it is now? */
static bool gives(zc_cache *c, thing *t, const char *key) {
    zc_view v;
    int rc = zc_fetch(c, zc_str(key), load_thing, t, NULL, &v);
    bool good = rc == ZC_OK && v.size == strlen(t->text) && memcmp(v.data, t->text, v.size) == 0;
    zc_release(c, &v);
    return good;
}

/* Nodes with what is in every shard, whatever servers those are on. */
static void share_in_all_shards(zc_cache *a, zc_cache *b, const char *url) {
    for (unsigned s = 0; s < SHARDS; s++) {
        for (unsigned other = 0; other < SHARDS; other++) {
            thing t = {{in_shard(s, "t"), other == s ? NULL : in_shard(other, "t")}, "one", 0};
            char key[32], below_it[40];
            snprintf(key, sizeof key, "%s of %u", in_shard((s + other) % SHARDS, "key"), s);
            snprintf(below_it, sizeof below_it, "%s:below", t.tags[0]);
            t.tags[0] = below_it;
            CHECK(gives(a, &t, key) && gives(b, &t, key));
            CHECK_EQ(t.loads, 1); /* b has it from Redis */
            snprintf(t.text, sizeof t.text, "two");
            CHECK_EQ(zc_invalidate(other % 2 ? b : a, zc_str(in_shard(s, "t"))), ZC_OK);
            CHECK_EQ(zc_catch_up(b, zc_token(a), 30 * ZC_SECOND), ZC_OK);
            CHECK_EQ(zc_catch_up(a, zc_token(b), 30 * ZC_SECOND), ZC_OK);
            zc_cache *late = sharded_cache(url, 60 * ZC_SECOND);
            REQUIRE(late);
            CHECK(gives(late, &t, key)); /* does not revive the old record */
            CHECK(gives(b, &t, key) && gives(a, &t, key));
            CHECK_EQ(t.loads, 2);
            zc_close(late);
            late = sharded_cache(url, 60 * ZC_SECOND);
            REQUIRE(late);
            CHECK(gives(late, &t, key)); /* but has the new one, once it knows the versions */
            CHECK_EQ(t.loads, 2);
            zc_close(late);
        }
    }
    /* All at once. */
    thing t = {{in_shard(0, "t"), in_shard(2, "t")}, "one", 0};
    zc_bytes tags[4];
    for (unsigned i = 0; i < 4; i++) tags[i] = zc_str(in_shard(3 - i < SHARDS ? 3 - i : 0, "t"));
    CHECK(gives(a, &t, "k") && gives(b, &t, "k"));
    snprintf(t.text, sizeof t.text, "two");
    CHECK_EQ(zc_invalidate_many(a, tags, 4), ZC_OK);
    CHECK_EQ(zc_catch_up(b, zc_token(a), 30 * ZC_SECOND), ZC_OK);
    CHECK(gives(b, &t, "k"));
    snprintf(t.text, sizeof t.text, "three");
    CHECK_EQ(zc_clear(b), ZC_OK);
    CHECK_EQ(zc_catch_up(a, zc_token(b), 30 * ZC_SECOND), ZC_OK);
    CHECK(gives(a, &t, "k"));
    thing none = {{NULL, NULL}, "no tags", 0};
    CHECK(gives(a, &none, "untagged") && gives(b, &none, "untagged"));
    CHECK_EQ(none.loads, 1);
}

TEST(shards_of_one_server) {
    redis_server s;
    REQUIRE(rs_start(&s, NULL));
    zc_cache *a = sharded_cache(s.url, 60 * ZC_SECOND), *b = sharded_cache(s.url, 60 * ZC_SECOND);
    REQUIRE(a && b);
    share_in_all_shards(a, b, s.url);
    static const char *const logs[] = {"{zoocache}:log", "{zoocache:1}:log", "{zoocache:2}:log"};
    for (unsigned i = 0; i < SHARDS; i++) {
        CHECK(atoi(rs_say(&s, "XLEN", logs[i], NULL)) >= 6);
        /* The log of one is lost: the node attaches anew, to all. */
        thing t = {{in_shard((i + 1) % SHARDS, "t"), NULL}, "one", 0};
        zc_stats before, now;
        CHECK(gives(a, &t, logs[i]));
        zc_stats_read(a, &before);
        rs_say(&s, "DEL", logs[i], NULL);
        do zc_stats_read(a, &now), (void)zc_catch_up(a, zc_token(a), ZC_SECOND);
        while (now.bus_breaks == before.bus_breaks);
        snprintf(t.text, sizeof t.text, "two");
        CHECK(gives(a, &t, logs[i]));
    }
    CHECK_EQ(zc_check(a), ZC_OK);
    CHECK_EQ(zc_check(b), ZC_OK);
    zc_close(a);
    zc_close(b);
    rs_stop(&s);
}

TEST(many_keys_of_many_shards) {
    redis_server s;
    node n;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .log_shards = SHARDS};
    REQUIRE(node_open_with(&n, d));
    get_many(&s, &n, 100, "cmdstat_mget:calls=3,"); /* SHARDS */
    CHECK_STR(get(&n, "key 1"), "key 1");
    CHECK_EQ(n.st.touch(n.st.user, zc_str("key 1"), 0), ZC_OK);
    CHECK_EQ(n.st.del(n.st.user, zc_str("key 1")), ZC_OK);
    CHECK(get(&n, "key 1") == NULL);
    uint64_t token = 0, other = 0;
    CHECK_EQ(n.st.lock(n.st.user, zc_str("key 2"), 60 * ZC_SECOND, &token), ZC_OK);
    CHECK_EQ(n.st.lock(n.st.user, zc_str("key 2"), 60 * ZC_SECOND, &other), ZC_MISS);
    CHECK_EQ(n.st.unlock(n.st.user, zc_str("key 2"), token), ZC_OK);
    pid_t pid = fork();
    if (pid == 0) {
        n.st.forked(n.st.user);
        bool good = true;
        for (int i = 2; i < 50 && good; i++)
            good = get_rc(&n, name_of(i)) == (i % 3 ? ZC_OK : ZC_MISS);
        _exit(good ? 0 : 1);
    }
    for (int i = 2; i < 50; i++) CHECK_EQ(get_rc(&n, name_of(i)), i % 3 ? ZC_OK : ZC_MISS);
    int status = 1;
    waitpid(pid, &status, 0);
    CHECK_EQ(status, 0);
    CHECK_EQ(n.st.clear(n.st.user), ZC_OK);
    for (int i = 0; i < 100; i++) CHECK(get(&n, name_of(i)) == NULL);
    node_close(&n);
    rs_stop(&s);
}

static bool shard_as(node *n, unsigned shard, uint64_t *identity, uint64_t *at, int rc) {
    return CHECK_EQ(n->bus.attach(n->bus.logs[shard], identity, at), rc);
}

TEST(who_counts_the_shards_otherwise_does_not_attach) {
    redis_server s;
    node one, two, three;
    uint64_t id, at;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .log_shards = 2};
    REQUIRE(node_open(&one, s.url) && node_open_with(&two, d));
    d.log_shards = 3;
    REQUIRE(node_open_with(&three, d));
    shard_as(&three, 0, &id, &at, ZC_OK);
    shard_as(&three, 2, &id, &at, ZC_OK);
    shard_as(&two, 0, &id, &at, ZC_E_INVAL);
    CHECK_EQ(attach(&one), ZC_E_INVAL);
    rs_say(&s, "DEL", "{zoocache}:log", NULL); /* now another decides */
    CHECK_EQ(attach(&one), ZC_OK);
    shard_as(&two, 0, &id, &at, ZC_E_INVAL);
    shard_as(&three, 0, &id, &at, ZC_E_INVAL);
    /* A cache of the wrong number serves nothing and says why; its invalidations fail. */
    zc_cache *c = sharded_cache(s.url, 60 * ZC_SECOND);
    thing t = {{"t", NULL}, "one", 0};
    REQUIRE(c);
    CHECK(gives(c, &t, "k") && gives(c, &t, "k"));
    CHECK_EQ(t.loads, 2);
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_E_BUS);
    zc_close(c);
    node_close(&one);
    node_close(&two);
    node_close(&three);
    rs_stop(&s);
}

typedef struct bell_waiter {
    node *n;
    uint64_t at[SHARDS];
} bell_waiter;
static void *wait_for_wakeups(void *user) {
    bell_waiter *w = (bell_waiter *)user;
    w->n->bus.wait(w->n->bus.user, w->at, 600 * ZC_SECOND);
    return NULL;
}
static bool all_wait(redis_server *s) {
    return CHECK(rs_until(s, "blocked_clients:3", "INFO", "clients"));
}

TEST(one_waits_for_all_shards) {
    redis_server s;
    node a, b;
    pthread_t t;
    uint64_t id;
    REQUIRE(rs_start(&s, NULL));
    zc_redis_desc d = {.url = s.url, .log_shards = SHARDS};
    REQUIRE(node_open_with(&a, d) && node_open_with(&b, d));
    bell_waiter w = {&a, {0}};
    for (unsigned i = 0; i < SHARDS; i++) {
        shard_as(&a, i, &id, &w.at[i], ZC_OK);
        shard_as(&b, i, &id, &b.at, ZC_OK);
    }
    for (unsigned i = 0; i < SHARDS; i++) {
        zc_bytes tag = zc_str("x");
        pthread_create(&t, NULL, wait_for_wakeups, &w);
        all_wait(&s);
        zc_bus_sink k = sink_of(&b);
        b.at = w.at[i];
        CHECK_EQ(b.bus.append(b.bus.logs[i], &tag, 1, false, b.at, &k), ZC_OK);
        pthread_join(t, NULL);
        k = sink_of(&a);
        a.at = w.at[i];
        CHECK_EQ(a.bus.read(a.bus.logs[i], a.at, 0, &k), ZC_OK);
        CHECK_STR(a.tags, "x;");
        w.at[i] = a.at;
    }
    /* Woken; before it waits, too; and although the server hangs. */
    pthread_create(&t, NULL, wait_for_wakeups, &w);
    all_wait(&s);
    a.bus.wake(a.bus.user);
    pthread_join(t, NULL);
    zc_bus_sink k = sink_of(&a);
    a.at = w.at[0];
    CHECK_EQ(a.bus.read(a.bus.logs[0], a.at, 0, &k), ZC_OK); /* as >>bus does: takes note of it */
    a.bus.wake(a.bus.user);
    wait_for_wakeups(&w);
    CHECK_EQ(a.bus.read(a.bus.logs[0], a.at, 0, &k), ZC_OK);
    pthread_create(&t, NULL, wait_for_wakeups, &w);
    all_wait(&s);
    rs_hang(&s);
    a.bus.wake(a.bus.user);
    pthread_join(t, NULL);
    rs_go_on(&s);
    CHECK_EQ(a.bus.read(a.bus.logs[0], a.at, 0, &k), ZC_OK);
    /* A wake-up connection that is dropped ends the wait. */
    pthread_create(&t, NULL, wait_for_wakeups, &w);
    all_wait(&s);
    rs_say(&s, "CLIENT", "KILL", "TYPE", "normal", NULL);
    pthread_join(t, NULL);
    node_close(&a);
    node_close(&b);
    rs_stop(&s);
}

TEST(shards_of_a_cluster) {
    redis_server s, t;
    char port[16], bus[16], slot[16];
    REQUIRE(cluster_node(&s, bus) && cluster_node(&t, bus));
    snprintf(port, sizeof port, "%d", t.port);
    rs_say(&s, "CLUSTER", "MEET", "127.0.0.1", port, bus, NULL);
    CHECK(rs_until(&s, "cluster_known_nodes:2", "CLUSTER", "INFO"));
    for (unsigned i = 0; i < SHARDS; i++) {
        static const char *const keys[] = {"{zoocache}:log", "{zoocache:1}:log", "{zoocache:2}:log"};
        snprintf(slot, sizeof slot, "%s", rs_say(&s, "CLUSTER", "KEYSLOT", keys[i], NULL));
        CHECK_STR(rs_say(i == 1 ? &t : &s, "CLUSTER", "ADDSLOTS", slot, NULL), "OK");
    }
    for (int i = 0; i < 2; i++) {
        CHECK(rs_until(i ? &t : &s, "cluster_slots_assigned:3", "CLUSTER", "INFO"));
        CHECK(rs_until(i ? &t : &s, "cluster_state:ok", "CLUSTER", "INFO"));
    }
    zc_cache *a = sharded_cache(s.url, 60 * ZC_SECOND), *b = sharded_cache(t.url, 60 * ZC_SECOND);
    REQUIRE(a && b);
    share_in_all_shards(a, b, t.url);
    zc_close(a);
    zc_close(b);
    /* If a node of the cluster is silent, nothing is served, whatever is in the others. */
    thing one = {{in_shard(0, "t"), NULL}, "one", 0};
    zc_view v;
    a = sharded_cache(s.url, 200 * ZC_MILLISECOND);
    REQUIRE(a);
    while (!gives(a, &one, "x") || zc_get(a, zc_str("x"), &v) != ZC_OK) usleep(1000);
    zc_release(a, &v);
    rs_hang(&t);
    while (zc_get(a, zc_str("x"), &v) == ZC_OK) {
        zc_release(a, &v);
        usleep(1000);
    }
    for (int i = 0; i < 20; i++, usleep(10000)) CHECK_EQ(zc_get(a, zc_str("x"), &v), ZC_MISS);
    rs_go_on(&t);
    while (zc_get(a, zc_str("x"), &v) != ZC_OK) {
        usleep(1000);
        CHECK(gives(a, &one, "x"));
    }
    zc_release(a, &v);
    zc_close(a);
    rs_stop(&s);
    rs_stop(&t);
}
