/* Tags, versions, floors, pruning: T1 to T5, the limits, want of memory. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

static zct_time now;
static zct_mem mem;

static zc_cache *fresh(void) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    memset(&mem, 0, sizeof mem);
    now.mono = 100000 * ZC_SECOND;
    now.wall = 1000000 * ZC_SECOND;
    d.no_thread = true;
    d.shards = 1;
    d.seed = 42;
    d.clock = zct_clock(&now);
    d.allocator = zct_allocator(&mem);
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    (void)zc_poll(c, ZC_SECOND);
    return c;
}

/* Moves the clock, and lets the cache see it. */
static void later(zc_cache *c, uint64_t seconds) {
    zct_step(&now, seconds * ZC_SECOND);
    (void)zc_poll(c, ZC_SECOND);
}

static uint64_t version(zc_cache *c, const char *tag) {
    uint64_t v = 99;
    CHECK_EQ(zc_tag_version(c, zc_str(tag), &v), ZC_OK);
    return v;
}

static uint64_t kill_tag(zc_cache *c, const char *tag) {
    CHECK_EQ(zc_invalidate(c, zc_str(tag)), ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    return zc_begin(c);
}

static int put(zc_cache *c, const char *key, const char *dep, uint64_t begin) {
    zc_put_opts o;
    zc_bytes d = zc_str(dep);
    memset(&o, 0, sizeof o);
    o.deps = &d;
    o.ndeps = 1;
    o.begin = begin;
    return zc_put(c, zc_str(key), zc_str("value"), &o);
}

static bool fresh_value(zc_cache *c, const char *key) {
    char buf[8];
    size_t len;
    return zc_get_copy(c, zc_str(key), buf, sizeof buf, &len) == ZC_OK;
}

/* The node of a tag, without a reference and without making it young. */
static zc_tag *node(zc_cache *c, const char *tag) {
    zc__path path;
    CHECK_EQ(zc__path_parse(zc_str(tag), &path), ZC_OK);
    uint64_t hash = zc__path_hash(&c->trie, &path, path.depth);
    zc__stripe *s = zc__stripe_of(&c->trie, hash);
    zc__spin_lock(&s->lock);
    zc_tag *n = zc__stripe_find(s, hash, &path, path.depth);
    zc__spin_unlock(&s->lock);
    return n;
}

static size_t tags(zc_cache *c, size_t *idle) {
    zc_stats s;
    zc_stats_read(c, &s);
    if (idle) *idle = s.tags_idle;
    return s.tags;
}

/* ---- parsing ---- */

TEST(every_error_of_a_tag) {
    static const struct {
        const char *text;
        int rc;
    } cases[] = {
        {"", ZC_E_TAG_EMPTY}, {"a", ZC_OK}, {"a:b", ZC_OK}, {":", ZC_E_TAG_SEGMENT},
        {"::", ZC_E_TAG_SEGMENT}, {":a", ZC_E_TAG_SEGMENT}, {"a:", ZC_E_TAG_SEGMENT},
        {"a::b", ZC_E_TAG_SEGMENT}, {"a:b:", ZC_E_TAG_SEGMENT}, {"a:b::c", ZC_E_TAG_SEGMENT},
        {" ", ZC_OK}, {"a b", ZC_OK}, {"\xff\xfe:\x01", ZC_OK}, {"user:42-x/y|z", ZC_OK},
        {"\xc3\xa9t\xc3\xa9:\xe6\x97\xa5", ZC_OK}, {"-", ZC_OK}, {"*", ZC_OK}, {"\n", ZC_OK}};
    zc_cache *c = fresh();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zc_bytes tag = zc_str(cases[i].text);
        uint64_t v = 7;
        zc_tag *t = NULL;
        CHECK_EQ(zc_tag_check(tag), cases[i].rc);
        CHECK_EQ(zc_tag_version(c, tag, &v), cases[i].rc);
        CHECK_EQ(v, 0);
        CHECK_EQ(zc_tag_intern(c, tag, &t), cases[i].rc);
        CHECK_EQ(t != NULL, cases[i].rc == ZC_OK);
        zc_tag_release(c, t);
        CHECK_EQ(put(c, "k", cases[i].text, 0), cases[i].rc);
        uint64_t before = zc_begin(c);
        CHECK_EQ(zc_invalidate(c, tag), cases[i].rc);
        CHECK_EQ(zc_begin(c) > before, cases[i].rc == ZC_OK); /* a failure changes nothing */
    }
    for (size_t at = 0; at < 3; at++) {
        char text[] = "abc";
        text[at] = '\0';
        CHECK_EQ(zc_tag_check(zc_slice(text, 3)), ZC_E_TAG_NUL);
    }
    CHECK_EQ(zc_tag_check(zc_slice(NULL, 0)), ZC_E_TAG_EMPTY);
    CHECK_EQ(zc_tag_check(zc_slice(NULL, 3)), ZC_E_INVAL);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(limits_exactly_and_one_above) {
    static char text[1 << 20];
    zc_cache *c = fresh();
    memset(text, 'x', sizeof text);
    CHECK_EQ(zc_tag_check(zc_slice(text, ZC_TAG_MAX)), ZC_OK);
    CHECK_EQ(zc_tag_check(zc_slice(text, ZC_TAG_MAX + 1)), ZC_E_TAG_LONG);
    CHECK_EQ(zc_tag_check(zc_slice(text, sizeof text)), ZC_E_TAG_LONG);
    CHECK_EQ(zc_invalidate(c, zc_slice(text, ZC_TAG_MAX)), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_slice(text, ZC_TAG_MAX + 1)), ZC_E_TAG_LONG);
    for (size_t i = 1; i < ZC_TAG_MAX; i += 2) text[i] = ':';
    CHECK_EQ(zc_tag_check(zc_slice(text, 2 * ZC_TAG_DEPTH - 1)), ZC_OK);
    CHECK_EQ(zc_tag_check(zc_slice(text, 2 * ZC_TAG_DEPTH + 1)), ZC_E_TAG_DEEP);
    CHECK_EQ(zc_tag_check(zc_slice(text, ZC_TAG_MAX - 1)), ZC_E_TAG_DEEP);
    CHECK_EQ(zc_tag_check(zc_slice(text, 2 * ZC_TAG_DEPTH)), ZC_E_TAG_DEEP);
    CHECK_EQ(zc_tag_check(zc_slice(text, 2 * ZC_TAG_DEPTH - 2)), ZC_E_TAG_SEGMENT);
    CHECK_EQ(zc_invalidate(c, zc_slice(text, 2 * ZC_TAG_DEPTH - 1)), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_slice(text, 2 * ZC_TAG_DEPTH + 1)), ZC_E_TAG_DEEP);
    CHECK_EQ(tags(c, NULL), 1 + ZC_TAG_DEPTH);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

/* ---- the one rule ---- */

TEST(every_prefix_kills_and_nothing_else_does) {
    static const char *const dep = "org:1:team:a:x";
    static const char *const kills[] = {"org", "org:1", "org:1:team", "org:1:team:a",
                                        "org:1:team:a:x"};
    static const char *const others[] = {"or", "org:", "org1", "org:2", "org:11", "org:1:team:b",
                                         "org:1:team:a:x:y", "org:1:team:a:xx", "team", "a",
                                         "1:team", "org:1:tea", "x", "org:1:team:a:y", "Org"};
    zc_cache *c = fresh();
    for (size_t i = 0; i < sizeof kills / sizeof kills[0]; i++) {
        CHECK_EQ(put(c, "k", dep, 0), ZC_OK);
        CHECK(fresh_value(c, "k"));
        kill_tag(c, kills[i]);
        CHECK(!fresh_value(c, "k"));
    }
    CHECK_EQ(put(c, "k", dep, 0), ZC_OK);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        (void)zc_invalidate(c, zc_str(others[i]));
        if (!CHECK(fresh_value(c, "k"))) puts(others[i]);
    }
    CHECK_EQ(zc_clear(c), ZC_OK);
    CHECK(!fresh_value(c, "k"));
    zc_close(c);
}

TEST(prefixes_of_the_text_are_not_prefixes_of_the_path) {
    zc_cache *c = fresh();
    CHECK_EQ(put(c, "1", "a:b", 0), ZC_OK);
    CHECK_EQ(put(c, "2", "ab", 0), ZC_OK);
    CHECK_EQ(put(c, "3", "a", 0), ZC_OK);
    CHECK_EQ(put(c, "4", "a:bc", 0), ZC_OK);
    kill_tag(c, "ab");
    CHECK(fresh_value(c, "1") && !fresh_value(c, "2"));
    CHECK(fresh_value(c, "3") && fresh_value(c, "4"));
    kill_tag(c, "a:b");
    CHECK(!fresh_value(c, "1") && fresh_value(c, "3") && fresh_value(c, "4"));
    kill_tag(c, "a");
    CHECK(!fresh_value(c, "3") && !fresh_value(c, "4"));
    CHECK(version(c, "a") > version(c, "a:b") && version(c, "a:b") > version(c, "ab"));
    CHECK_EQ(version(c, "b"), 0);
    zc_close(c);
}

TEST(a_fill_begun_before_an_invalidation_is_never_fresh) {
    zc_cache *c = fresh();
    uint64_t begin = zc_begin(c);
    CHECK(begin != 0);
    kill_tag(c, "x:y");
    CHECK_EQ(put(c, "k", "x:y:z", begin), ZC_REFUSED);
    CHECK(!fresh_value(c, "k"));
    CHECK_EQ(put(c, "k", "x:q", begin), ZC_OK);
    CHECK(fresh_value(c, "k"));
    CHECK_EQ(put(c, "k", "x:y:z", zc_begin(c)), ZC_OK);
    CHECK(fresh_value(c, "k"));
    CHECK_EQ(put(c, "k", "x", zc_begin(c) + 1), ZC_E_INVAL); /* nobody has seen that yet */
    zc_close(c);
}

TEST(versions_strictly_increase) {
    zc_cache *c = fresh();
    uint64_t last = 0;
    for (unsigned i = 0; i < 2000; i++) {
        char tag[32];
        snprintf(tag, sizeof tag, "t%u:%u", (unsigned)zct_below(10), (unsigned)zct_below(10));
        CHECK_EQ(zc_invalidate(c, zc_str(tag)), ZC_OK);
        CHECK(version(c, tag) > last);
        last = version(c, tag);
        CHECK(last == zc_begin(c)); /* published */
        if (i % 3 == 0) zct_set_wall(&now, zct_below(2000000) * ZC_SECOND);
        if (i % 100 == 0) CHECK_EQ(zc_clear(c), ZC_OK);
    }
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(several_tags_in_one_step) {
    zc_cache *c = fresh();
    static const char *const names[] = {"a", "b:c", "a", "b", "d:e:f"};
    zc_bytes list[5];
    for (unsigned i = 0; i < 5; i++) list[i] = zc_str(names[i]);
    uint64_t before = zc_begin(c);
    CHECK_EQ(zc_invalidate_many(c, list, 5), ZC_OK);
    uint64_t v = zc_begin(c);
    CHECK(v > before);
    for (unsigned i = 0; i < 5; i++) CHECK(version(c, names[i]) == v);
    CHECK_EQ(version(c, "d:e"), 0);
    list[3] = zc_str("b::c"); /* one bad: none is done */
    CHECK_EQ(zc_invalidate_many(c, list, 5), ZC_E_TAG_SEGMENT);
    CHECK(zc_begin(c) == v && version(c, "a") == v);
    CHECK_EQ(zc_invalidate_many(c, NULL, 0), ZC_OK);
    CHECK_EQ(zc_invalidate_many(c, NULL, 1), ZC_E_INVAL);
    CHECK_EQ(zc_invalidate_many(c, list, SIZE_MAX), ZC_E_INVAL);
    CHECK(zc_begin(c) == v);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(interned_tags) {
    zc_cache *c = fresh();
    zc_tag *t, *same;
    CHECK_EQ(zc_tag_intern(c, zc_str("x:y"), &t), ZC_OK);
    CHECK_EQ(zc_tag_intern(c, zc_str("x:y"), &same), ZC_OK);
    CHECK(t == same);
    zc_tag_release(c, same);
    zc_put_opts o;
    memset(&o, 0, sizeof o);
    zc_tag *const list[] = {t, t};
    o.tags = list;
    o.ntags = 2;
    CHECK_EQ(zc_put(c, zc_str("k"), zc_str("v"), &o), ZC_OK);
    CHECK(fresh_value(c, "k"));
    CHECK_EQ(t->link.refs, 2); /* the handle and the entry: doubles count once */
    CHECK_EQ(zc_invalidate_tag(c, t), ZC_OK);
    CHECK(!fresh_value(c, "k"));
    CHECK(version(c, "x:y") == zc_begin(c));
    later(c, 10000);
    CHECK_EQ(zc_prune(c, 0), 0); /* the handle keeps it */
    zc_tag_release(c, t);
    CHECK_EQ(zc_prune(c, 0), 2);
    zc_tag_release(c, NULL);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(text_of_a_node) {
    zc_cache *c = fresh();
    static const char *const names[] = {"a", "ab:c", "a:b:c:d:e:f:g", "x:yy:zzz"};
    char text[ZC_TAG_MAX];
    for (unsigned i = 0; i < 4; i++) {
        zc_tag *t;
        CHECK_EQ(zc_tag_intern(c, zc_str(names[i]), &t), ZC_OK);
        size_t n = zc__tag_text(t, text);
        CHECK(n == strlen(names[i]) && memcmp(text, names[i], n) == 0);
        zc_tag_release(c, t);
    }
    CHECK_EQ(zc__tag_text(&c->trie.root, text), 0);
    zc_close(c);
}

typedef struct named {
    uint64_t hash;
    unsigned id;
} named;

static int by_hash(const void *a, const void *b) {
    uint64_t x = ((const named *)a)->hash, y = ((const named *)b)->hash;
    return x < y ? -1 : x > y;
}

/* Two tags with the same stripe and the same 32 bits of hash, found by trying. */
TEST(hash_collisions_within_a_stripe) {
    enum { N = 1 << 20 };
    zc_cache *c = fresh();
    named *all = (named *)malloc(N * sizeof *all);
    char a[16], b[16];
    unsigned pairs = 0;
    REQUIRE(all != NULL);
    for (unsigned i = 0; i < N; i++) {
        snprintf(a, sizeof a, "t%u", i);
        uint64_t h = zc__hash(zc_str(a), c->trie.seed);
        all[i].hash = h >> 60 << 32 | (h & UINT32_MAX);
        all[i].id = i;
    }
    qsort(all, N, sizeof *all, by_hash);
    for (unsigned i = 1; i < N; i++) {
        if (all[i].hash != all[i - 1].hash) continue;
        pairs++;
        snprintf(a, sizeof a, "t%u", all[i - 1].id);
        snprintf(b, sizeof b, "t%u", all[i].id);
        CHECK_EQ(put(c, "a", a, 0), ZC_OK);
        CHECK_EQ(put(c, "b", b, 0), ZC_OK);
        CHECK(node(c, a) != node(c, b) && node(c, a)->link.hash == node(c, b)->link.hash);
        uint64_t v = kill_tag(c, a);
        CHECK(!fresh_value(c, "a") && fresh_value(c, "b"));
        CHECK(version(c, a) == v && version(c, b) < v);
    }
    CHECK(pairs > 0);
    free(all);
    zc_close(c);
}

TEST(growth_keeps_every_tag) {
    enum { N = 5000 };
    zc_cache *c = fresh();
    static zc_tag *t[N];
    char name[32];
    for (unsigned i = 0; i < N; i++) {
        snprintf(name, sizeof name, "g%u:%u:%u", i % 7, i % 100, i);
        CHECK_EQ(zc_tag_intern(c, zc_str(name), &t[i]), ZC_OK);
    }
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK_EQ(tags(c, NULL), 7 + 700 + N);
    for (unsigned i = 0; i < N; i++) {
        zc_tag *same;
        snprintf(name, sizeof name, "g%u:%u:%u", i % 7, i % 100, i);
        CHECK_EQ(zc_tag_intern(c, zc_str(name), &same), ZC_OK);
        CHECK(same == t[i]);
        zc_tag_release(c, same);
        zc_tag_release(c, t[i]);
    }
    CHECK_EQ(zc_prune(c, 0), 7 + 700 + N);
    CHECK_EQ(tags(c, NULL), 0);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

/* ---- pruning ---- */

TEST(T5_pruned_and_born_again_is_not_below) {
    zc_cache *c = fresh();
    uint64_t begin = zc_begin(c), va = kill_tag(c, "a:b:c"), vb = kill_tag(c, "a:b:d");
    CHECK_EQ(zc_prune(c, 0), 4); /* parents after their children */
    CHECK_EQ(tags(c, NULL), 0);
    CHECK(version(c, "a:b:c") >= va && version(c, "a:b:d") >= vb);
    CHECK(c->trie.root.floor == vb);
    CHECK_EQ(put(c, "k", "a:b:c", begin), ZC_REFUSED); /* the fill that was under way */
    CHECK_EQ(put(c, "k", "a:b:c", va - 1), ZC_REFUSED);
    CHECK_EQ(put(c, "k", "a:b:c", zc_begin(c)), ZC_OK);
    CHECK(fresh_value(c, "k"));
    CHECK(node(c, "a:b:c")->version >= va && node(c, "a:b:c")->floor >= va);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(T5_floors_add_up_level_by_level) {
    zc_cache *c = fresh();
    zc_tag *keep;
    CHECK_EQ(zc_tag_intern(c, zc_str("a:b"), &keep), ZC_OK);
    uint64_t begin = zc_begin(c), deep = kill_tag(c, "a:b:c:d");
    uint64_t other = kill_tag(c, "z");
    CHECK_EQ(zc_prune(c, 0), 3); /* a:b:c:d, a:b:c, z */
    CHECK(keep->floor == deep && keep->version == 0);
    CHECK(c->trie.root.floor == other);
    CHECK(version(c, "a:b") == 0);             /* it never was invalidated itself */
    CHECK(version(c, "a:b:c") == deep);        /* what is below it may have been */
    CHECK(version(c, "a:b:q:r:s") == deep);
    CHECK(version(c, "a") == 0);
    CHECK(version(c, "q") == other);
    /* An entry on a:b itself is not harmed by what happened below. */
    CHECK_EQ(put(c, "k", "a:b", begin), ZC_OK);
    CHECK_EQ(put(c, "l", "a:b:c:d", begin), ZC_REFUSED);
    CHECK_EQ(put(c, "l", "a:b:c", begin), ZC_REFUSED);
    zc_tag_release(c, keep);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(a_stale_entry_never_comes_back_by_pruning) {
    zc_cache *c = fresh();
    zc_view view;
    CHECK_EQ(put(c, "k", "a:b", 0), ZC_OK);
    CHECK_EQ(zc_get(c, zc_str("k"), &view), ZC_OK); /* pinned: its tags stay */
    kill_tag(c, "a:b");
    for (unsigned i = 0; i < 5; i++) {
        later(c, 100000);
        zc_prune(c, 0);
        CHECK(!fresh_value(c, "k"));
    }
    CHECK(node(c, "a:b") != NULL);
    zc_release(c, &view);
    while (zc_poll(c, ZC_SECOND) == ZC_MORE) {}
    CHECK_EQ(zc_prune(c, 0), 2);
    CHECK(!fresh_value(c, "k"));
    zc_close(c);
}

TEST(pruning_respects_the_age) {
    zc_cache *c = fresh();
    kill_tag(c, "old");
    later(c, 50);
    kill_tag(c, "middle:x");
    later(c, 50);
    kill_tag(c, "new");
    later(c, 10);
    CHECK_EQ(zc_prune(c, 200 * ZC_SECOND), 0);
    CHECK_EQ(zc_prune(c, 111 * ZC_SECOND), 0);
    CHECK_EQ(zc_prune(c, 110 * ZC_SECOND), 1);
    CHECK(!node(c, "old") && node(c, "middle:x") && node(c, "new"));
    CHECK_EQ(zc_prune(c, 60 * ZC_SECOND), 2);
    CHECK(node(c, "new") != NULL);
    CHECK_EQ(zc_prune(c, ZC_NEVER), 0);
    /* A use makes it young again. */
    later(c, 1000);
    zc_tag *t;
    CHECK_EQ(zc_tag_intern(c, zc_str("new"), &t), ZC_OK);
    zc_tag_release(c, t);
    CHECK_EQ(zc_prune(c, 5 * ZC_SECOND), 0);
    later(c, 5);
    CHECK_EQ(zc_prune(c, 5 * ZC_SECOND), 1);
    zc_stats s;
    zc_stats_read(c, &s);
    CHECK_EQ(s.tags_pruned, 4);
    CHECK_EQ(s.tags, 0);
    zc_close(c);
}

TEST(a_young_tag_is_not_pruned_by_who_never_polls) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    now.mono = 100000 * ZC_SECOND;
    d.no_thread = true;
    d.clock = zct_clock(&now);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str("a:b")), ZC_OK);
    CHECK_EQ(zc_prune(c, 60 * ZC_SECOND), 0);
    zc_close(c);
}

TEST(polling_prunes_after_prune_after) {
    zc_cache *c = fresh();
    kill_tag(c, "a:b:c");
    later(c, 3599);
    CHECK_EQ(tags(c, NULL), 3);
    for (unsigned i = 0; i < 10; i++) later(c, 1);
    CHECK_EQ(tags(c, NULL), 0);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
}

TEST(pruning_goes_on_in_small_steps_and_only_when_due) {
    zc_cache *c = fresh();
    char name[32];
    size_t idle, before = 0, most = 0;
    unsigned steps = 0;
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "a:%u:%u", i % 100, i);
        CHECK_EQ(zc_invalidate(c, zc_str(name)), ZC_OK);
    }
    later(c, 1000);
    kill_tag(c, "young");
    zct_step(&now, 2600 * ZC_SECOND);
    CHECK_EQ(tags(c, &idle), 3102);
    for (before = 3102; zc_poll(c, 0) == ZC_MORE; steps++) {
        size_t left = tags(c, NULL);
        if (before - left > most) most = before - left;
        before = left;
        CHECK_EQ(zc_check(c), ZC_OK);
        if (!CHECK(steps < 10000)) break;
    }
    CHECK_EQ(before, 1);
    CHECK(node(c, "young") != NULL);
    CHECK(most > 0 && most < 200);
    CHECK_EQ(zc_poll(c, 0), ZC_OK); /* nothing is due, so nothing is looked at */
    zct_step(&now, 999 * ZC_SECOND);
    CHECK_EQ(zc_poll(c, 0), ZC_OK);
    zct_step(&now, 2 * ZC_SECOND);
    CHECK_EQ(zc_poll(c, 0), ZC_MORE);
    while (zc_poll(c, 0) == ZC_MORE) {}
    CHECK_EQ(tags(c, NULL), 0);
    zc_close(c);
}

TEST(T3_idle_tags_are_counted) {
    zc_cache *c = fresh();
    size_t idle;
    CHECK_EQ(put(c, "k", "a:b", 0), ZC_OK);
    CHECK_EQ(tags(c, &idle), 2);
    CHECK_EQ(idle, 0);
    kill_tag(c, "x:y");
    CHECK_EQ(tags(c, &idle), 4);
    CHECK_EQ(idle, 1); /* x has a child */
    CHECK_EQ(zc_del(c, zc_str("k")), ZC_OK);
    tags(c, &idle);
    CHECK_EQ(idle, 2);
    kill_tag(c, "a");
    tags(c, &idle);
    CHECK_EQ(idle, 2); /* still has its child, which is idle */
    CHECK_EQ(zc_prune(c, 0), 4);
    CHECK_EQ(tags(c, &idle), 0);
    CHECK_EQ(idle, 0);
    CHECK_EQ(c->trie.root.link.refs, 1);
    CHECK_EQ(c->trie.bytes, 0);
    zc_close(c);
}

TEST(idle_pressure_bounds_memory) {
    zc_cache *c = fresh();
    zc_stats s;
    zc_tag *held[100];
    char name[64];
    uint64_t begin = zc_begin(c), last = 0;
    size_t most = 0, most_bytes = 0;
    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "held:%u", i);
        CHECK_EQ(zc_tag_intern(c, zc_str(name), &held[i]), ZC_OK);
    }
    for (unsigned i = 0; i < 200000; i++) {
        snprintf(name, sizeof name, i % 2 ? "p:%u" : "q:%u:r", i);
        CHECK_EQ(zc_invalidate(c, zc_str(name)), ZC_OK);
        if (i % 100) continue;
        zc_stats_read(c, &s);
        if (s.tags > most) most = s.tags;
        if (s.tag_bytes > most_bytes) most_bytes = s.tag_bytes;
        last = zc_begin(c);
    }
    CHECK(most > ZC__IDLE_SLACK);
    CHECK(most < 8 * ZC__IDLE_SLACK);
    CHECK(most_bytes < 8 * ZC__IDLE_SLACK * 80);
    zc_stats_read(c, &s);
    CHECK(s.tags_pruned > 200000);
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK_EQ(put(c, "k", "q:0:r", begin), ZC_REFUSED); /* long pruned, not forgotten */
    CHECK_EQ(put(c, "k", "p:1", begin), ZC_REFUSED);
    CHECK(last > begin);
    for (unsigned i = 0; i < 100; i++) {
        CHECK_EQ(held[i]->version, 0);
        zc_tag_release(c, held[i]);
    }
    zc_close(c);
}

/* Of a chain of nodes only the last one is idle; the others must not count as live for ever. */
TEST(idle_pressure_bounds_memory_of_deep_tags) {
    static const unsigned depths[] = {3, 5, 8, 16, 31};
    for (unsigned k = 0; k < sizeof depths / sizeof depths[0]; k++) {
        zc_cache *c = fresh();
        char name[ZC_TAG_MAX];
        size_t most = 0;
        const unsigned births = 1000000;
        for (unsigned i = 0; i < births / depths[k]; i++) {
            int len = snprintf(name, sizeof name, "all:%u", i);
            for (unsigned d = 1; d < depths[k]; d++)
                len += snprintf(name + len, sizeof name - (size_t)len, ":s");
            CHECK_EQ(zc_invalidate(c, zc_str(name)), ZC_OK);
            size_t n = i % 100 ? 0 : tags(c, NULL);
            if (n > most) most = n;
        }
        if (!CHECK(most < 2 * ZC_TAG_DEPTH * ZC__IDLE_SLACK))
            printf("    depth %u: %zu tags\n", depths[k] + 1, most);
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
    }
}

/* ---- want of memory ---- */

TEST(invalidation_needs_no_memory) {
    zc_cache *c = fresh();
    zc_tag *keep;
    CHECK_EQ(zc_tag_intern(c, zc_str("a"), &keep), ZC_OK);
    CHECK_EQ(put(c, "k", "a:b:c", 0), ZC_OK);
    CHECK_EQ(put(c, "l", "a:z", 0), ZC_OK);
    CHECK_EQ(put(c, "o", "other", 0), ZC_OK);
    uint64_t begin = zc_begin(c);
    mem.fail_from = mem.count + 1;
    uint64_t v = kill_tag(c, "a:b:c"); /* there is a node */
    CHECK(!fresh_value(c, "k") && fresh_value(c, "l"));
    /* There is none: what is above it is stamped, too much rather than too little. */
    uint64_t w = kill_tag(c, "a:n:m");
    CHECK(w > v && keep->version == w);
    CHECK(!fresh_value(c, "l") && fresh_value(c, "o"));
    uint64_t x = kill_tag(c, "q");
    CHECK(c->trie.root.version == x && !fresh_value(c, "o"));
    mem.fail_from = 0;
    /* A fill that was under way meanwhile is refused. */
    CHECK_EQ(put(c, "m", "a:n:m", begin), ZC_REFUSED);
    CHECK_EQ(put(c, "m", "a:n:m:o", begin), ZC_REFUSED);
    CHECK_EQ(put(c, "m", "q", begin), ZC_REFUSED);
    CHECK_EQ(put(c, "m", "a:n:m", 0), ZC_OK);
    CHECK(fresh_value(c, "m"));
    zc_tag_release(c, keep);
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_close(c);
    CHECK_EQ(mem.blocks, 0);
}

TEST(invalidating_many_needs_no_memory) {
    for (unsigned nth = 1; nth < 6; nth++) { /* the list of nodes, then the nodes */
        zc_cache *c = fresh();
        zc_bytes list[] = {zc_str("a:b"), zc_str("n:o:p")};
        CHECK_EQ(put(c, "k", "a:b:c", 0), ZC_OK);
        CHECK_EQ(put(c, "l", "x", 0), ZC_OK);
        uint64_t begin = zc_begin(c);
        mem.fail_from = mem.count + nth;
        CHECK_EQ(zc_invalidate_many(c, list, 2), ZC_OK);
        CHECK(!fresh_value(c, "k"));
        mem.fail_from = 0;
        CHECK_EQ(put(c, "m", "n:o:p", begin), ZC_REFUSED);
        CHECK_EQ(put(c, "m", "n:o:p:q", begin), ZC_REFUSED);
        CHECK_EQ(put(c, "k", "a:b:c", begin), ZC_REFUSED);
        CHECK_EQ(put(c, "k", "a:b:c", 0), ZC_OK);
        CHECK(fresh_value(c, "k"));
        CHECK_EQ(zc_check(c), ZC_OK);
        zc_close(c);
        CHECK_EQ(mem.blocks, 0);
    }
}

TEST(interning_without_memory_changes_nothing) {
    for (uint64_t nth = 1;; nth++) {
        zc_cache *c = fresh();
        zc_tag *t;
        mem.fail_at = mem.count + nth;
        int rc = zc_tag_intern(c, zc_str("a:b:c:d"), &t);
        bool failed = mem.failed != 0;
        CHECK_EQ(zc_check(c), ZC_OK);
        if (rc == ZC_OK) zc_tag_release(c, t);
        else CHECK(rc == ZC_E_NOMEM && !t);
        size_t idle, n = tags(c, &idle);
        CHECK_EQ(zc_prune(c, 0), n); /* no reference is left behind */
        CHECK_EQ(tags(c, NULL), 0);
        zc_close(c);
        CHECK_EQ(mem.blocks, 0);
        if (!failed) {
            CHECK(nth > 4);
            break;
        }
    }
}

/* ---- the validator ---- */

#define BREAKS(type, field, value, name)                                                           \
    do {                                                                                           \
        uint64_t was = (field);                                                                    \
        (field) = (value);                                                                         \
        const char *said = zc__trie_check(&c->trie);                                               \
        CHECK(said != NULL && strncmp(said, name, 2) == 0);                                        \
        (field) = (type)was;                                                                       \
        CHECK(zc__trie_check(&c->trie) == NULL);                                                   \
    } while (0)

TEST(the_validator_sees_what_is_broken) {
    zc_cache *c = fresh();
    zc_tag *t;
    CHECK_EQ(zc_tag_intern(c, zc_str("a:b"), &t), ZC_OK);
    kill_tag(c, "x");
    uint64_t seen = zc_begin(c);
    uint8_t depth = t->depth;
    BREAKS(uint64_t, t->version, seen + 1, "T1");
    BREAKS(uint64_t, t->floor, seen + 1, "T1");
    BREAKS(uint32_t, t->parent->link.refs, 0, "T2");
    BREAKS(uint32_t, t->link.refs, 0, "T3");
    BREAKS(uint32_t, node(c, "x")->link.refs, 1, "T3");
    BREAKS(uint64_t, c->trie.idle, 5, "T3");
    BREAKS(uint32_t, t->link.hash, t->link.hash ^ 1, "T4");
    t->depth = (uint8_t)(depth + 1);
    CHECK_STR(zc__trie_check(&c->trie), "T4: depth");
    t->depth = depth;
    BREAKS(uint64_t, c->trie.tags, 7, "T4");
    BREAKS(uint64_t, c->trie.bytes, 7, "T4");
    zc__stripe *s = zc__stripe_of(&c->trie, zc__hash(zc_str("a:b"), c->trie.seed));
    BREAKS(uint32_t, s->tags.count, s->tags.count + 1, "T4");
    CHECK_EQ(zc_check(c), ZC_OK);
    zc_tag_release(c, t);
    zc_close(c);
}
