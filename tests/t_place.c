/* >>place: caches that share a place in memory, which fails and breaks its promise. */
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "mem_place.h"
#ifdef ZCT_FORKS
#  include <sys/wait.h>
#endif

#define NODES 3
#define T (1000 * ZC_MILLISECOND)
#define LOG "zoocache.log"

/* Nodes without threads: time moves, and the log is read, when the test says so. */
typedef struct fleet {
    zct_mem mem;
    zct_time time;
    mem_place m;
    zc_cache *c[NODES];
    zc__place *p[NODES];
    char said[256]; /* the last line of the log */
} fleet;

static void say(void *user, zc_log_level level, const char *line) {
    fleet *f = (fleet *)user;
    (void)level;
    snprintf(f->said, sizeof f->said, "%s", line);
}

static void prepare(fleet *f) {
    memset(f, 0, sizeof *f);
    f->time.mono = 5 * ZC_SECOND;
    f->time.wall = UINT64_C(1700000000) * ZC_SECOND;
    mp_init(&f->m);
}

static zc_place_desc place_of(fleet *f) {
    zc_place_desc d = {.place = mp_hook(&f->m), .allocator = zct_allocator(&f->mem),
                       .clock = zct_clock(&f->time)};
    d.log.version = 1;
    d.log.write = say;
    d.log.user = f;
    return d;
}

static int join(fleet *f, unsigned i, bool stores) {
    zc_desc d = {.allocator = zct_allocator(&f->mem), .clock = zct_clock(&f->time),
                 .no_thread = true, .max_staleness = T};
    zc_place_desc pd = place_of(f);
    int rc = zc_place_open(&pd, stores ? &d.store : NULL, &d.bus);
    if (rc != ZC_OK) return rc;
    f->p[i] = (zc__place *)d.bus.user;
    rc = zc_open(&d, &f->c[i]);
    if (rc == ZC_OK) return rc;
    if (stores) d.store.close(d.store.user);
    d.bus.close(d.bus.user);
    return rc;
}

static bool start(fleet *f, unsigned n, bool stores) {
    prepare(f);
    for (unsigned i = 0; i < n; i++)
        if (!CHECK_EQ(join(f, i, stores), ZC_OK)) return false;
    return true;
}

static void leave(fleet *f, unsigned i) {
    if (!f->c[i]) return;
    CHECK_EQ(zc_check(f->c[i]), ZC_OK);
    zc_close(f->c[i]);
    f->c[i] = NULL;
}

static void stop(fleet *f) {
    f->m.fail_at = f->m.fail_from = 0;
    for (unsigned i = 0; i < NODES; i++) leave(f, i);
    mp_destroy(&f->m);
}

static void poll_all(fleet *f) {
    for (unsigned i = 0; i < NODES; i++)
        if (f->c[i])
            while (zc_poll(f->c[i], ZC_MILLISECOND) == ZC_MORE) {}
}

/* Reads; if there is a value, it must be this one. */
static int get(zc_cache *c, const char *key, const char *value) {
    zc_view v;
    int rc = zc_get(c, zc_str(key), &v);
    if (rc == ZC_OK) {
        CHECK(v.size == strlen(value) && memcmp(v.data, value, v.size) == 0);
        zc_release(c, &v);
    }
    return rc;
}

static zc_stats stats(zc_cache *c) {
    zc_stats s;
    zc_stats_read(c, &s);
    return s;
}

/* The log as it is in the place. */
static uint64_t log_number(fleet *f, unsigned at, unsigned bytes) {
    const mp_item *i = mp_find(&f->m, LOG);
    uint64_t v = 0;
    for (unsigned k = bytes; i && k--;) v = v << 8 | i->data[at + k];
    return v;
}
static uint64_t log_gen(fleet *f) { return log_number(f, 8, 8); }
static uint64_t log_last(fleet *f) { return log_number(f, 24, 8) + log_number(f, 32, 4) - 1; }

/* A copy of the log, and the copy put back in its place. */
typedef struct copy {
    unsigned char bytes[98304];
    size_t len;
} copy;
static void log_save(fleet *f, copy *to) {
    const mp_item *i = mp_find(&f->m, LOG);
    to->len = i->len;
    memcpy(to->bytes, i->data, i->len);
}
static void log_restore(fleet *f, const copy *from) {
    mp_store(&f->m, LOG, strlen(LOG), from->bytes, from->len, 0);
}

TEST(an_invalidation_reaches_the_others) {
    fleet f;
    if (!start(&f, 2, false)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "0", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "org:1:team"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "other", "1", "org:2"), ZC_OK);
    uint64_t reads = f.m.op_calls[MP_READ], swaps = f.m.op_calls[MP_SWAP];
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("org:1")), ZC_OK);
    CHECK_EQ(f.m.op_calls[MP_READ], reads + 1);
    CHECK_EQ(f.m.op_calls[MP_SWAP], swaps + 1);
    CHECK_EQ(stats(f.c[0]).bus_entries, 1); /* its own, with the answer */
    CHECK_EQ(get(f.c[0], "k", "0"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "other", "1"), ZC_OK);
    CHECK_EQ(zct_put(f.c[1], "all", "1", NULL), ZC_OK);
    CHECK_EQ(zc_clear(f.c[0]), ZC_OK);
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "all", "1"), ZC_MISS);
    CHECK_EQ(stats(f.c[1]).bus_breaks, 0);
    stop(&f);
    CHECK_EQ(f.m.closes, 2);
}

TEST(the_lease_bounds_what_is_served) {
    fleet f;
    if (!start(&f, 2, false)) return;
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    f.m.fail_from = 1; /* cut off */
    zct_step(&f.time, T);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    zct_step(&f.time, 1);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("u")), ZC_E_BUS);
    f.m.fail_from = 0;
    poll_all(&f);
    CHECK_EQ(get(f.c[1], "k", "1"), ZC_OK);
    CHECK_EQ(log_last(&f), 1); /* it was kept, and sent */
    stop(&f);
}

TEST(records_are_shared_and_judged) {
    fleet f;
    if (!start(&f, 1, true)) return;
    CHECK_EQ(zct_put(f.c[0], "k", "0", "t"), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "u", "0", "u"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "t2", "2", "t"), ZC_OK);
    CHECK_EQ(join(&f, 1, true), ZC_OK); /* late */
    CHECK_EQ(get(f.c[1], "k", "0"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "u", "0"), ZC_OK);
    CHECK_EQ(get(f.c[1], "t2", "2"), ZC_OK);
    CHECK_EQ(zc_del(f.c[1], zc_str("u")), ZC_OK);
    CHECK_EQ(join(&f, 2, true), ZC_OK);
    CHECK_EQ(get(f.c[2], "u", "0"), ZC_MISS);
    zc_bytes keys[] = {zc_str("t2"), zc_str("none")};
    zc_view views[2];
    int results[2];
    CHECK_EQ(zc_get_many(f.c[2], keys, 2, views, results), 1);
    CHECK_EQ(results[0], ZC_OK);
    CHECK_EQ(results[1], ZC_MISS);
    zc_release(f.c[2], &views[0]);
    stop(&f);
}

TEST(names_of_records) {
    fleet f;
    prepare(&f);
    zc_store store;
    zc_place_desc d = place_of(&f);
    d.prefix = "a-B_9.x";
    d.max_ttl = ZC_SECOND;
    REQUIRE(zc_place_open(&d, &store, NULL) == ZC_OK);
    char any[300];
    for (int i = 0; i < 300; i++) any[i] = (char)i;
    uint64_t now = f.time.wall / ZC_MILLISECOND;
    CHECK_EQ(store.put(store.user, zc_slice(any, 300), zc_str("r"), 0), ZC_OK);
    const mp_item *i = f.m.items;
    CHECK_EQ(strlen(i->key), strlen("a-B_9.x.r.") + 32);
    CHECK(strncmp(i->key, "a-B_9.x.r.", 10) == 0);
    CHECK_EQ(i->expires_ms, now + 1000);
    CHECK_EQ(store.put(store.user, zc_str(""), zc_str("r"), now + 10), ZC_OK);
    CHECK_EQ(f.m.items->expires_ms, now + 10);
    CHECK_EQ(store.put(store.user, zc_str(""), zc_str("r"), now + 10000), ZC_OK);
    CHECK_EQ(f.m.items->expires_ms, now + 1000);
    CHECK(mp_find(&f.m, "a-B_9.x.log"));
    /* Clearing gives them other names, here at once, elsewhere within a second. */
    zc_store other;
    REQUIRE(zc_place_open(&d, &other, NULL) == ZC_OK);
    zc__mem mem;
    memset(&mem, 0, sizeof mem);
    mem.hook = zct_allocator(&f.mem);
    zc_sink sink = {.mem = &mem, .most = 100};
    CHECK_EQ(other.get(other.user, zc_str(""), &sink), ZC_OK);
    CHECK_EQ(store.clear(store.user), ZC_OK);
    CHECK_EQ(store.get(store.user, zc_str(""), &sink), ZC_MISS);
    CHECK_EQ(other.get(other.user, zc_str(""), &sink), ZC_OK);
    zct_step(&f.time, ZC_SECOND);
    CHECK_EQ(other.get(other.user, zc_str(""), &sink), ZC_MISS);
    zc__buf_free(&mem, &sink.buf);
    store.close(store.user);
    other.close(other.user);
    stop(&f);
    CHECK_EQ(f.m.closes, 2);
}

TEST(descriptions_that_are_refused) {
    fleet f;
    prepare(&f);
    zc_store store;
    zc_bus bus;
    const char *const bad[] = {"", ".", ".a", "a b", "a:b", "a/b", "{a}", "caf\xc3\xa9",
        "0123456789012345678901234567890123456789012345678901234567890123x"};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        zc_place_desc d = place_of(&f);
        d.prefix = bad[i];
        store.version = bus.version = 7;
        CHECK_EQ(zc_place_open(&d, &store, &bus), ZC_E_INVAL);
        CHECK_EQ(store.version + bus.version, 0);
    }
    zc_place_desc d = place_of(&f);
    CHECK_EQ(zc_place_open(NULL, &store, &bus), ZC_E_INVAL);
    CHECK_EQ(zc_place_open(&d, NULL, NULL), ZC_E_INVAL);
    d.place.swap = NULL;
    CHECK_EQ(zc_place_open(&d, &store, &bus), ZC_E_INVAL);
    d = place_of(&f);
    d.place.version = 2;
    CHECK_EQ(zc_place_open(&d, &store, &bus), ZC_E_INVAL);
    CHECK_EQ(f.m.op_calls[MP_READ], 0);
    CHECK_EQ(f.m.closes, 0);
    mp_destroy(&f.m);
}

TEST(a_place_that_breaks_its_promise_is_refused) {
    fleet f;
    zc_bus bus;
    prepare(&f);
    f.m.any_token = true;
    CHECK_EQ(join(&f, 0, true), ZC_E_INVAL);
    CHECK_STR(f.said, "zoocache: place: refused: of two swaps with one token both win");
    f.m.any_token = false;
    f.m.stale = true;
    CHECK_EQ(join(&f, 0, true), ZC_E_INVAL);
    CHECK_STR(f.said, "zoocache: place: refused: a read does not give what was swapped last");
    f.m.stale = false;
    f.m.again = true;
    CHECK_EQ(join(&f, 0, true), ZC_E_INVAL);
    CHECK_STR(f.said, "zoocache: place: refused: a swap does not win");
    f.m.again = false;
    CHECK_EQ(f.m.closes, 0);
    CHECK(!f.m.items); /* what it was tried with is gone */
    /* One that cannot be reached is tried later, and refused then. */
    zc_place_desc d = place_of(&f);
    uint64_t identity, position;
    f.m.fail_from = 1;
    f.m.fail_rc = ZC_E_TIMEOUT;
    REQUIRE(zc_place_open(&d, NULL, &bus) == ZC_OK);
    CHECK_EQ(bus.attach(bus.user, &identity, &position), ZC_E_TIMEOUT);
    f.m.fail_from = 0;
    f.m.any_token = true;
    CHECK_EQ(bus.attach(bus.user, &identity, &position), ZC_E_INVAL);
    CHECK_EQ(bus.attach(bus.user, &identity, &position), ZC_E_INVAL);
    CHECK_EQ(mp_find(&f.m, LOG) != NULL, false);
    bus.report(bus.user);
    CHECK_STR(f.said, "zoocache: place: refused: of two swaps with one token both win");
    bus.close(bus.user);
    /* Or passes. */
    f.m.any_token = false;
    f.m.calls = 0;
    f.m.fail_from = 3;
    REQUIRE(zc_place_open(&d, NULL, &bus) == ZC_OK);
    f.m.fail_from = 0;
    CHECK_EQ(bus.attach(bus.user, &identity, &position), ZC_OK);
    bus.close(bus.user);
    stop(&f);
}

/* ---- breaks ---- */

static int ignore(void *user, uint64_t position, const zc_bytes *tags, size_t n) {
    (void)user, (void)position, (void)tags, (void)n;
    return ZC_OK;
}

/* Every node has flushed, and all are at one log again, in which they hear each other. */
static void all_anew(fleet *f, uint64_t breaks) {
    poll_all(f);
    poll_all(f);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(get(f->c[i], "k", "old"), ZC_MISS);
        CHECK_EQ(stats(f->c[i]).bus_breaks, breaks);
        CHECK_EQ(f->c[i]->bus.identity, log_gen(f));
        CHECK_EQ(zct_put(f->c[i], "k", "old", "t"), ZC_OK);
    }
    CHECK_EQ(zc_invalidate(f->c[0], zc_str("t")), ZC_OK);
    poll_all(f);
    CHECK_EQ(get(f->c[1], "k", "old"), ZC_MISS);
    for (unsigned i = 0; i < 2; i++) CHECK_EQ(zct_put(f->c[i], "k", "old", "t"), ZC_OK);
}

TEST(a_log_that_is_lost_is_a_break) {
    fleet f;
    if (!start(&f, 2, false)) return;
    all_anew(&f, 0);
    uint64_t gen = log_gen(&f), era = log_number(&f, 16, 8);
    mp_drop(&f.m, LOG);
    all_anew(&f, 1);
    CHECK(log_gen(&f) != gen && log_number(&f, 16, 8) != era);
    /* So is one that is damaged, wherever that is, or cut. */
    copy good;
    uint64_t breaks = 1;
    log_save(&f, &good);
    for (size_t i = 0; i < good.len; i += i < 100 ? 1 : 13) {
        mp_item *item = mp_find(&f.m, LOG);
        item->data[i < item->len ? i : 0] ^= (unsigned char)(1 + zct_below(255));
        all_anew(&f, ++breaks);
        item = mp_find(&f.m, LOG);
        item->len = i < item->len ? i : 0;
        all_anew(&f, ++breaks);
    }
    /* Or made up: sizes that lead beyond its end, with a checksum that is right. */
    for (unsigned at = 24; at < 64; at += 4) {
        log_save(&f, &good);
        memset(good.bytes + at, 0xff, 4);
        zc__put_le(good.bytes + good.len - 8, XXH3_64bits(good.bytes, good.len - 8), 8);
        log_restore(&f, &good);
        poll_all(&f);
        poll_all(&f);
        CHECK_EQ(f.c[0]->bus.identity, log_gen(&f));
        CHECK_EQ(f.c[1]->bus.identity, log_gen(&f));
    }
    stop(&f);
}

TEST(a_log_that_is_rolled_back_is_a_break) {
    fleet f;
    if (!start(&f, 2, false)) return;
    all_anew(&f, 0);
    uint64_t gen = log_gen(&f);
    copy old, newer;
    log_save(&f, &old);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    poll_all(&f);
    log_restore(&f, &old); /* shorter than what was heard */
    all_anew(&f, 1);
    CHECK(log_gen(&f) != gen); /* positions are not given twice */
    /* As long, and longer, but other entries. */
    for (unsigned longer = 0; longer < 2; longer++) {
        log_save(&f, &old);
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
        log_save(&f, &newer);
        log_restore(&f, &old);
        f.m.op_calls[MP_SWAP] = 0;
        zc_place_desc d = place_of(&f);
        zc_bus other;
        REQUIRE(zc_place_open(&d, NULL, &other) == ZC_OK);
        uint64_t identity, position;
        zc_bus_sink sink = {ignore, NULL};
        zc_bytes tag = zc_str("y");
        CHECK_EQ(other.attach(other.user, &identity, &position), ZC_OK);
        for (unsigned i = 0; i <= longer; i++)
            CHECK_EQ(other.append(other.user, &tag, 1, false, position + i, &sink), ZC_OK);
        other.close(other.user);
        poll_all(&f); /* the first node has seen what is gone */
        poll_all(&f);
        CHECK_EQ(stats(f.c[0]).bus_breaks, 2 + longer);
        CHECK(log_gen(&f) != identity);
        all_anew(&f, 2 + longer);
    }
    /* To a log that was left. */
    log_save(&f, &old);
    mp_drop(&f.m, LOG);
    all_anew(&f, 4);
    log_restore(&f, &old);
    all_anew(&f, 5);
    memcpy(&gen, old.bytes + 8, 8);
    CHECK(log_gen(&f) != gen);
    stop(&f);
}

TEST(a_swap_that_won_twice_is_a_break) {
    fleet f;
    if (!start(&f, 2, false)) return;
    all_anew(&f, 0);
    copy old;
    log_save(&f, &old);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    uint64_t version = mp_find(&f.m, LOG)->version;
    f.m.any_token = true; /* the second writer has read before the first has swapped */
    log_restore(&f, &old);
    CHECK_EQ(zc_invalidate(f.c[1], zc_str("y")), ZC_OK);
    f.m.any_token = false;
    CHECK(mp_find(&f.m, LOG)->version > version);
    poll_all(&f);
    CHECK_EQ(stats(f.c[0]).bus_breaks, 1);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_breaks, 1);
    all_anew(&f, 1);
    stop(&f);
}

TEST(who_is_too_far_behind_breaks_alone) {
    fleet f;
    if (!start(&f, 2, false)) return;
    all_anew(&f, 0);
    uint64_t gen = log_gen(&f), first = log_last(&f);
    for (unsigned i = 0; i < ZC__PLACE_ENTRIES - 1; i++)
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    CHECK_EQ(log_number(&f, 24, 8), first); /* its entry is still there */
    CHECK_EQ(log_number(&f, 32, 4), ZC__PLACE_ENTRIES);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_breaks, 0);
    CHECK_EQ(get(f.c[1], "k", "old"), ZC_OK);
    for (unsigned i = 0; i < ZC__PLACE_ENTRIES; i++)
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_breaks, 1);
    CHECK_EQ(stats(f.c[0]).bus_breaks, 0);
    CHECK_EQ(get(f.c[1], "k", "old"), ZC_MISS);
    CHECK_EQ(log_gen(&f), gen);
    CHECK(mp_find(&f.m, LOG)->len <= 98304);
    stop(&f);
}

TEST(a_joiner_takes_no_record_older_than_the_window) {
    fleet f;
    if (!start(&f, 1, true)) return;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "old", "1", "t"), ZC_OK);
    for (unsigned i = 0; i < ZC__PLACE_ENTRIES - 2; i++)
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "young", "1", "t"), ZC_OK);
    CHECK_EQ(join(&f, 1, true), ZC_OK);
    CHECK_EQ(get(f.c[1], "old", "1"), ZC_OK); /* all that came after it is there */
    leave(&f, 1);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("t")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "new", "1", "t"), ZC_OK);
    for (unsigned i = 0; i <= ZC__PLACE_ENTRIES; i++)
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("x")), ZC_OK);
    CHECK_EQ(zct_put(f.c[0], "newer", "1", "u"), ZC_OK);
    CHECK_EQ(join(&f, 1, true), ZC_OK);
    CHECK_EQ(get(f.c[1], "young", "1"), ZC_MISS); /* what killed it is there no more */
    CHECK_EQ(get(f.c[1], "new", "1"), ZC_MISS);
    CHECK_EQ(get(f.c[1], "newer", "1"), ZC_OK);
    CHECK_EQ(get(f.c[0], "new", "1"), ZC_OK); /* who was there knows better */
    stop(&f);
}

TEST(large_entries) {
    fleet f;
    if (!start(&f, 2, false)) return;
    static char text[2100][16];
    static zc_bytes tags[2100];
    for (int i = 0; i < 2100; i++) {
        snprintf(text[i], sizeof text[i], "tag:%09d", i);
        tags[i] = zc_str(text[i]);
    }
    for (unsigned round = 0; round < 6; round++) {
        bool all = round & 1; /* 31 KB, which stand for everything; and 25 */
        CHECK_EQ(zct_put(f.c[1], "other", "1", "other"), ZC_OK);
        CHECK_EQ(zct_put(f.c[1], "k", "1", "tag:000001900"), ZC_OK);
        CHECK_EQ(zc_invalidate_many(f.c[0], all ? tags : tags + 300, all ? 2100 : 1700), ZC_OK);
        poll_all(&f);
        CHECK_EQ(get(f.c[1], "other", "1"), all ? ZC_MISS : ZC_OK);
        CHECK_EQ(get(f.c[1], "k", "1"), ZC_MISS);
        CHECK(mp_find(&f.m, LOG)->len < 98304);
    }
    CHECK_EQ(stats(f.c[1]).bus_breaks, 0);
    stop(&f);
}

/* ---- answers that are lost, others who are faster ---- */

TEST(a_swap_whose_answer_is_lost_is_not_done_twice) {
    fleet f;
    if (!start(&f, 2, false)) return;
    f.m.fail_ops = 1u << MP_SWAP;
    f.m.took = true;
    for (unsigned resent = 0; resent < 2; resent++) {
        uint64_t last = log_last(&f);
        f.m.calls = 0;
        f.m.fail_at = resent ? 0 : 1;
        f.m.again = resent;
        f.m.on_swap = NULL;
        CHECK_EQ(zc_invalidate(f.c[0], zc_str("a")), ZC_OK);
        f.m.again = false;
        CHECK_EQ(log_last(&f), last + 1);
        poll_all(&f);
        CHECK_EQ(stats(f.c[1]).bus_entries, resent + 1);
    }
    /* It failed indeed: then it is an error, and kept. */
    f.m.took = false;
    f.m.calls = 0;
    f.m.fail_at = 1;
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("b")), ZC_E_BUS);
    CHECK_EQ(log_last(&f), 2);
    poll_all(&f);
    CHECK_EQ(log_last(&f), 3);
    stop(&f);
}

/* Somebody else is faster, `left` times. */
typedef struct rival {
    fleet *f;
    zc_bus bus;
    unsigned left;
} rival;

static void is_faster(void *user) {
    rival *r = (rival *)user;
    uint64_t identity, position;
    zc_bus_sink sink = {ignore, NULL};
    zc_bytes tag = zc_str("rival");
    if (!r->left) return;
    r->left--;
    r->f->m.on_swap = NULL;
    CHECK_EQ(r->bus.attach(r->bus.user, &identity, &position), ZC_OK);
    CHECK_EQ(r->bus.append(r->bus.user, &tag, 1, false, position, &sink), ZC_OK);
    r->f->m.on_swap = is_faster;
}

TEST(who_loses_a_race_tries_again) {
    fleet f;
    if (!start(&f, 1, false)) return;
    rival r = {.f = &f, .left = 3};
    zc_place_desc d = place_of(&f);
    REQUIRE(zc_place_open(&d, NULL, &r.bus) == ZC_OK);
    f.m.on_swap = is_faster;
    f.m.on_swap_user = &r;
    CHECK_EQ(zct_put(f.c[0], "k", "1", "rival"), ZC_OK);
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("a")), ZC_OK);
    CHECK_EQ(r.left, 0);
    CHECK_EQ(log_last(&f), 4);
    CHECK_EQ(get(f.c[0], "k", "1"), ZC_MISS); /* what came before it was heard with it */
    CHECK_EQ(stats(f.c[0]).bus_entries, 4);
    r.left = UINT32_MAX; /* always */
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("a")), ZC_E_BUS);
    CHECK_EQ(UINT32_MAX - r.left, ZC__PLACE_TRIES);
    f.m.on_swap = NULL;
    r.bus.close(r.bus.user);
    stop(&f);
}

/* Threads invalidate while a swap is under way; the next carries what all of them have. */
typedef struct crowd {
    fleet *f;
    pthread_t thread[8];
    bool joined;
} crowd;

static void *invalidates(void *arg) {
    CHECK_EQ(zc_invalidate((zc_cache *)arg, zc_str("t")), ZC_OK);
    return NULL;
}

static void waits_for_the_crowd(void *user) {
    crowd *c = (crowd *)user;
    zc__place *p = c->f->p[0];
    unsigned waiting = 0;
    c->f->m.on_swap = NULL;
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&c->thread[i], NULL, invalidates, c->f->c[0]), 0);
    while (waiting < 8) {
        waiting = 0;
        zc__monitor_lock(&p->monitor);
        for (const zc__place_op *op = p->queue; op; op = op->next) waiting++;
        zc__monitor_unlock(&p->monitor);
        sched_yield();
    }
}

TEST(one_swap_carries_all_that_waits) {
    fleet f;
    if (!start(&f, 2, false)) return;
    crowd c = {.f = &f};
    f.m.on_swap = waits_for_the_crowd;
    f.m.on_swap_user = &c;
    uint64_t swaps = f.m.op_calls[MP_SWAP];
    CHECK_EQ(zc_invalidate(f.c[0], zc_str("first")), ZC_OK);
    for (unsigned i = 0; i < 8; i++) pthread_join(c.thread[i], NULL);
    CHECK_EQ(f.m.op_calls[MP_SWAP], swaps + 2);
    CHECK_EQ(log_last(&f), 9);
    poll_all(&f);
    CHECK_EQ(stats(f.c[1]).bus_entries, 9);
    CHECK_EQ(stats(f.c[0]).bus_entries, 9);
    stop(&f);
}

/* ---- each call, each allocation ---- */

static void act(fleet *f) {
    uint64_t hold;
    bool has[2] = {f->c[0] != NULL, f->c[1] != NULL};
    for (unsigned i = 0; i < 2; i++)
        if (!has[i]) has[i] = join(f, i, true) == ZC_OK;
    for (unsigned i = 0; i < 2 && has[0] && has[1]; i++) {
        zc_bytes tag = zc_str("t");
        zc_fetch_opts o = {.fleet = true};
        zc_view v;
        zc_fill *fill = NULL;
        (void)zct_put(f->c[i], "k", "old", "t");
        (void)get(f->c[!i], "k", "old");
        (void)zc_invalidate(f->c[i], zc_str("t"));
        if (zc_hold(f->c[i], &tag, 1, ZC_SECOND, &hold) == ZC_OK)
            (void)zc_hold_end(f->c[i], hold);
        zct_step(&f->time, ZC_SECOND / 2);
        if (zc_flight_begin(f->c[i], zc_str("f"), &o, &v, &fill) >= 0) {
            if (v.pin) zc_release(f->c[i], &v);
            if (fill) zc_flight_abandon(fill, ZC_E_LOADER);
        }
        (void)zc_clear(f->c[!i]);
    }
}

/* After a fault: what was invalidated stays dead, and all hear each other. */
static void heals(fleet *f) {
    f->m.fail_at = f->m.fail_from = f->mem.fail_at = 0;
    for (unsigned i = 0; i < 2; i++)
        if (!f->c[i]) CHECK_EQ(join(f, i, true), ZC_OK);
    for (unsigned i = 0; i < 8; i++) {
        zct_step(&f->time, ZC_SECOND);
        poll_all(f);
    }
    for (unsigned i = 0; i < 2; i++) CHECK_EQ(get(f->c[i], "k", "old"), ZC_MISS);
    CHECK_EQ(zc_invalidate(f->c[0], zc_str("t")), ZC_OK); /* from here on records are trusted */
    poll_all(f);
    CHECK_EQ(zct_put(f->c[1], "k", "new", "t"), ZC_OK);
    CHECK_EQ(get(f->c[0], "k", "new"), ZC_OK);
    CHECK_EQ(zc_invalidate(f->c[0], zc_str("t")), ZC_OK);
    poll_all(f);
    CHECK_EQ(get(f->c[1], "k", "new"), ZC_MISS);
}

TEST(each_call_of_the_place_failed_once) {
    unsigned failures = 0;
    for (unsigned took = 0; took < 2; took++) {
        uint64_t n = 1;
        for (bool failed = true; failed; n++) {
            fleet f;
            prepare(&f);
            f.m.fail_at = n;
            f.m.took = took;
            f.m.fail_rc = n & 1 ? ZC_E_STORE : ZC_E_TIMEOUT;
            act(&f);
            failed = f.m.failed != 0;
            failures += failed;
            heals(&f);
            stop(&f);
        }
    }
    CHECK(failures > 80);
}

TEST(each_allocation_failed_once) {
    uint64_t n = 1;
    for (bool failed = true; failed; n++) {
        fleet f;
        prepare(&f);
        f.mem.fail_at = n;
        act(&f);
        failed = f.mem.failed != 0;
        heals(&f);
        stop(&f);
        CHECK_EQ(f.mem.blocks, 0);
    }
    CHECK(n > 100);
}

/* ---- holds, locks, fork ---- */

TEST(holds_are_beside_the_log) {
    fleet f;
    if (!start(&f, 1, true)) return;
    zc_bytes tag = zc_str("t");
    uint64_t hold, second;
    CHECK_EQ(zc_hold(f.c[0], &tag, 1, 3 * ZC_SECOND, &hold), ZC_OK);
    CHECK_EQ(zc_hold(f.c[0], &tag, 1, ZC_SECOND, &second), ZC_OK);
    CHECK_EQ(zc_hold_end(f.c[0], second), ZC_OK);
    CHECK_EQ(join(&f, 1, true), ZC_OK); /* after it was announced */
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_REFUSED);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "u"), ZC_OK);
    CHECK_EQ(zc_hold_end(f.c[0], hold), ZC_OK);
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    CHECK_EQ(log_number(&f, 36, 4) + ZC__PLACE_HEAD + 8, mp_find(&f.m, LOG)->len); /* none left */
    /* The holder dies. */
    CHECK_EQ(zc_hold(f.c[0], &tag, 1, 3 * ZC_SECOND, &hold), ZC_OK);
    leave(&f, 0);
    poll_all(&f);
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_REFUSED);
    for (int i = 0; i < 4; i++) {
        zct_step(&f.time, ZC_SECOND);
        poll_all(&f);
    }
    CHECK_EQ(zct_put(f.c[1], "k", "1", "t"), ZC_OK);
    /* They have room of their own. */
    static char text[40][1000];
    static zc_bytes tags[40];
    for (int i = 0; i < 40; i++) {
        snprintf(text[i], sizeof text[i], "%0999d", i);
        tags[i] = zc_slice(text[i], 900);
        tags[i].ptr = text[i] + 99;
    }
    CHECK_EQ(zc_hold(f.c[1], tags, 20, ZC_SECOND, &hold), ZC_E_BUS);
    CHECK_EQ(zc_hold(f.c[1], tags, 40, ZC_SECOND, &hold), ZC_E_BUS);
    CHECK_EQ(zc_hold(f.c[1], tags, 10, ZC_SECOND, &hold), ZC_OK);
    CHECK_EQ(zc_hold(f.c[1], tags, 10, ZC_SECOND, &second), ZC_E_BUS);
    CHECK_EQ(zc_hold_end(f.c[1], hold), ZC_OK);
    CHECK_EQ(zc_hold(f.c[1], tags, 10, ZC_SECOND, &hold), ZC_OK);
    CHECK_EQ(zc_hold_end(f.c[1], hold), ZC_OK);
    stop(&f);
}

TEST(locks) {
    fleet f;
    prepare(&f);
    zc_place_desc d = place_of(&f);
    zc_store a, b;
    REQUIRE(zc_place_open(&d, &a, NULL) == ZC_OK);
    REQUIRE(zc_place_open(&d, &b, NULL) == ZC_OK);
    uint64_t mine = 0, other = 0, more[600] = {0};
    CHECK_EQ(a.lock(a.user, zc_str("k"), ZC_SECOND, &mine), ZC_OK);
    CHECK(mine != 0);
    CHECK_EQ(b.lock(b.user, zc_str("k"), ZC_SECOND, &other), ZC_MISS);
    CHECK_EQ(other, 0);
    zct_set_wall(&f.time, f.time.wall + ZC_SECOND / 2);
    CHECK_EQ(a.lock(a.user, zc_str("k"), ZC_SECOND, &mine), ZC_OK); /* renewed */
    zct_set_wall(&f.time, f.time.wall + ZC_SECOND * 3 / 4);
    CHECK_EQ(b.lock(b.user, zc_str("k"), ZC_SECOND, &other), ZC_MISS);
    zct_set_wall(&f.time, f.time.wall + ZC_SECOND / 2);
    CHECK_EQ(b.lock(b.user, zc_str("k"), ZC_SECOND, &other), ZC_OK); /* it had ended */
    CHECK_EQ(a.lock(a.user, zc_str("k"), ZC_SECOND, &mine), ZC_MISS);
    CHECK_EQ(a.unlock(a.user, zc_str("k"), mine), ZC_MISS);
    CHECK_EQ(b.unlock(b.user, zc_str("k"), other), ZC_OK);
    mine = 0;
    CHECK_EQ(a.lock(a.user, zc_str("k"), ZC_SECOND, &mine), ZC_OK);
    /* Many share 256 values, from which those that have ended go. */
    for (unsigned i = 0; i < 600; i++)
        CHECK_EQ(b.lock(b.user, zc_slice(&i, sizeof i), ZC_SECOND, &more[i]), ZC_OK);
    for (unsigned i = 0; i < 600; i += 2)
        CHECK_EQ(b.unlock(b.user, zc_slice(&i, sizeof i), more[i]), ZC_OK);
    unsigned values = 0, live = 0;
    for (mp_item *i = f.m.items; i; i = i->next) {
        if (!strstr(i->key, ".lock.")) continue;
        values++;
        live += (unsigned)(i->len / ZC__PLACE_LOCK);
        CHECK_EQ(i->len % ZC__PLACE_LOCK, 0);
        i->len -= i->len > 1; /* that is none of ours */
    }
    CHECK(values <= 256);
    CHECK_EQ(live, 301);
    for (unsigned i = 1; i < 600; i += 2) {
        uint64_t token = 0;
        CHECK_EQ(a.lock(a.user, zc_slice(&i, sizeof i), ZC_SECOND, &token), ZC_OK);
    }
    a.close(a.user);
    b.close(b.user);
    stop(&f);
}

#ifdef ZCT_FORKS
TEST(the_child_of_a_fork_goes_on) {
    mem_place m;
    mp_init(&m);
    zc_desc d = {.no_thread = true};
    zc_place_desc pd = {.place = mp_hook(&m)};
    zc_cache *c;
    REQUIRE(zc_place_open(&pd, &d.store, &d.bus) == ZC_OK);
    zc__place *p = (zc__place *)d.bus.user;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    uint64_t random = p->random;
    zc_fork_prepare(c);
    pid_t pid = fork();
    if (pid == 0) {
        bool good = zc_fork_child(c) == ZC_OK && m.forks == 1 && p->random != random;
        good = good && zc_invalidate(c, zc_str("t")) == ZC_OK;
        _exit(good ? 0 : 1);
    }
    zc_fork_parent(c);
    int status = 1;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(zc_invalidate(c, zc_str("t")), ZC_OK);
    zc_close(c);
    mp_destroy(&m);
}
#endif

/* ---- with threads ---- */

TEST(threads_hear_each_other) {
    mem_place m;
    zc_cache *c[2];
    mp_init(&m);
    for (unsigned i = 0; i < 2; i++) {
        zc_desc d = {.max_staleness = i ? 600 * ZC_SECOND : ZC_SECOND};
        zc_place_desc pd = {.place = mp_hook(&m), .poll = i ? ZC_MILLISECOND : 0};
        REQUIRE(zc_place_open(&pd, &d.store, &d.bus) == ZC_OK);
        REQUIRE(zc_open(&d, &c[i]) == ZC_OK);
    }
    for (unsigned round = 0; round < 3; round++) {
        CHECK_EQ(zct_put(c[1], "k", "1", "t"), ZC_OK);
        CHECK_EQ(zc_invalidate(c[0], zc_str("t")), ZC_OK);
        while (get(c[1], "k", "1") == ZC_OK) sched_yield(); /* polls, far more often than T */
        /* A read that sleeps is woken. */
        CHECK_EQ(zc_catch_up(c[0], zc_token(c[1]), 600 * ZC_SECOND), ZC_OK);
    }
    zc_close(c[0]);
    zc_close(c[1]);
    mp_destroy(&m);
}
