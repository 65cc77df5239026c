/* Texts, statistics, the Prometheus format, explanations. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

#define S ZC_SECOND

static zct_time now;

static zc_cache *fresh(void) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    now.mono = 1000 * S;
    now.wall = 1000000 * S;
    d.no_thread = true;
    d.clock = zct_clock(&now);
    if (!CHECK_EQ(zc_open(&d, &c), ZC_OK)) exit(1);
    return c;
}

TEST(every_result_has_a_name_and_a_text) {
    static const struct {
        int value;
        const char *name, *text;
    } all[] = {
#define ZC_X(name, value, text) {value, #name, text},
        ZC_RESULTS(ZC_X)
#undef ZC_X
    };
    const int n = (int)(sizeof all / sizeof all[0]);
    for (int i = 0; i < n; i++) {
        CHECK_STR(zc_result_name(all[i].value), all[i].name);
        CHECK_STR(zc_strerror(all[i].value), all[i].text);
        CHECK(strlen(all[i].text) > 3 && strchr(all[i].text, '\n') == NULL);
        for (int k = 0; k < i; k++) {
            CHECK(all[k].value != all[i].value);
            CHECK(strcmp(all[k].text, all[i].text) != 0);
        }
    }
    for (int rc = -3000; rc < 100; rc++) {
        bool known = false;
        for (int i = 0; i < n; i++) known |= all[i].value == rc;
        if (known) continue;
        CHECK_STR(zc_result_name(rc), rc <= ZC_E_USER ? "ZC_E_USER" : "?");
        CHECK(strlen(zc_strerror(rc)) > 3);
    }
    CHECK_STR(zc_result_name(INT32_MIN), "ZC_E_USER");
    CHECK_STR(zc_result_name(INT32_MAX), "?");
    /* The numbers are part of the interface. */
    CHECK_EQ(ZC_OK, 0);
    CHECK_EQ(ZC_MISS, 1);
    CHECK_EQ(ZC_E_NOMEM, -1);
    CHECK_EQ(ZC_E_RANGE, -19);
    CHECK_EQ(ZC_E_USER, -1000);
}

TEST(every_cause_has_a_name) {
    static const char *const names[] = {"replaced", "expired", "evicted", "invalidated", "deleted",
                                        "closed"};
    for (int i = 0; i < ZC_CAUSE_COUNT; i++) CHECK_STR(zc_cause_name(i), names[i]);
    CHECK_STR(zc_cause_name(-1), "?");
    CHECK_STR(zc_cause_name(ZC_CAUSE_COUNT), "?");
}

/* ---- the Prometheus text ---- */

/* Statistics in which every number is different. */
static zc_stats numbered(void) {
    zc_stats s;
    uint64_t n = 1000;
    memset(&s, 0, sizeof s);
#define NEXT(field) s.field = ++n
    NEXT(hits), NEXT(hits_stale), NEXT(hits_store);
    NEXT(misses_absent), NEXT(misses_expired), NEXT(misses_invalidated);
    NEXT(puts), NEXT(refused);
    for (unsigned i = 0; i < ZC_CAUSE_COUNT; i++) NEXT(removed[i]);
    NEXT(fills), NEXT(fill_errors), NEXT(fills_late), NEXT(waits), NEXT(refreshes);
    for (unsigned i = 0; i < ZC_LOAD_BUCKETS; i++) NEXT(load_histogram[i]);
    NEXT(invalidations), NEXT(tags_pruned), NEXT(clock_refused);
    NEXT(store_errors), NEXT(store_corrupt), NEXT(store_stale);
    NEXT(entries), NEXT(bytes), NEXT(flights), NEXT(tags), NEXT(tags_idle), NEXT(tag_bytes);
    NEXT(memory);
#undef NEXT
    s.load_ns = UINT64_C(12345678901234);
    return s;
}

typedef struct sample {
    char name[80], label[40], value[40]; /* the label beside cache="..." */
    char number[40];
    char cache[80];
} sample;

static sample samples[200];
static unsigned nsamples;

/* One quoted label value, unescaped. Returns what follows it, NULL if malformed. */
static const char *quoted(const char *p, char *out, size_t cap) {
    size_t n = 0;
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        char ch = *p;
        if (ch == '\0' || ch == '\n' || n + 1 >= cap) return NULL;
        if (ch == '\\') {
            ch = *++p;
            if (ch == 'n') ch = '\n';
            else if (ch != '"' && ch != '\\') return NULL;
        }
        out[n++] = ch;
    }
    out[n] = '\0';
    return p + 1;
}

static const char *word(const char *p, char *out, size_t cap) {
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz_");
    if (n == 0 || n >= cap) return NULL;
    memcpy(out, p, n);
    out[n] = '\0';
    return p + n;
}

/* Parses "name{cache="c",label="value"} number\n". Returns what follows, NULL if malformed. */
static const char *parse_sample(const char *p, sample *s) {
    char label[40];
    memset(s, 0, sizeof *s);
    p = word(p, s->name, sizeof s->name);
    if (!p || *p++ != '{') return NULL;
    p = word(p, label, sizeof label);
    if (!p || strcmp(label, "cache") != 0 || *p++ != '=') return NULL;
    p = quoted(p, s->cache, sizeof s->cache);
    if (p && *p == ',') {
        p = word(p + 1, s->label, sizeof s->label);
        if (!p || *p++ != '=') return NULL;
        p = quoted(p, s->value, sizeof s->value);
    }
    if (!p || *p++ != '}' || *p++ != ' ') return NULL;
    size_t n = strspn(p, "0123456789.");
    if (n == 0 || n >= sizeof s->number || p[n] != '\n') return NULL;
    memcpy(s->number, p, n);
    return p + n + 1;
}

/* Parses the whole text; every sample must follow a TYPE line of its family. */
static bool parse_all(const char *p) {
    char family[80] = "", type[20] = "";
    nsamples = 0;
    while (*p) {
        if (strncmp(p, "# TYPE ", 7) == 0) {
            p = word(p + 7, family, sizeof family);
            if (!p || *p++ != ' ') return false;
            p = word(p, type, sizeof type);
            if (!p || *p++ != '\n') return false;
            if (strcmp(type, "counter") && strcmp(type, "gauge") && strcmp(type, "histogram"))
                return false;
            for (unsigned i = 0; i < nsamples; i++) /* a family comes once, and whole */
                if (strcmp(samples[i].name, family) == 0) return false;
            bool total = strlen(family) > 6 && !strcmp(family + strlen(family) - 6, "_total");
            if (total != (strcmp(type, "counter") == 0)) return false;
            continue;
        }
        sample *s = &samples[nsamples++];
        if (nsamples == 200 || !(p = parse_sample(p, s))) return false;
        size_t n = strlen(family);
        if (strncmp(s->name, family, n) != 0) return false;
        const char *suffix = s->name + n;
        bool part = !strcmp(suffix, "_bucket") || !strcmp(suffix, "_sum") ||
                    !strcmp(suffix, "_count");
        if (strcmp(type, "histogram") == 0 ? !part : *suffix != '\0') return false;
    }
    return true;
}

static const char *number(const char *name, const char *value) {
    for (unsigned i = 0; i < nsamples; i++)
        if (!strcmp(samples[i].name + strlen("zoocache_"), name) &&
            !strcmp(samples[i].value, value))
            return samples[i].number;
    return "none";
}

static void expect(const char *name, const char *value, uint64_t want) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, want);
    if (!CHECK_STR(number(name, value), text)) printf("    %s %s\n", name, value);
}

static char text[20000];

TEST(prometheus_text_is_well_formed_and_right) {
    zc_stats s = numbered();
    size_t n = zc_stats_prometheus(&s, "main", text, sizeof text);
    CHECK(n < sizeof text && n == strlen(text));
    CHECK(parse_all(text));
    for (unsigned i = 0; i < nsamples; i++) {
        CHECK_STR(samples[i].cache, "main");
        CHECK(strncmp(samples[i].name, "zoocache_", 9) == 0);
        for (unsigned k = 0; k < i; k++)
            CHECK(strcmp(samples[i].name, samples[k].name) ||
                  strcmp(samples[i].value, samples[k].value));
    }
    expect("hits_total", "", s.hits);
    expect("hits_stale_total", "", s.hits_stale);
    expect("hits_store_total", "", s.hits_store);
    expect("misses_total", "absent", s.misses_absent);
    expect("misses_total", "expired", s.misses_expired);
    expect("misses_total", "invalidated", s.misses_invalidated);
    expect("puts_total", "", s.puts);
    expect("refused_total", "", s.refused);
    for (int i = 0; i < ZC_CAUSE_COUNT; i++)
        expect("removed_total", zc_cause_name(i), s.removed[i]);
    expect("fills_total", "", s.fills);
    expect("fill_errors_total", "", s.fill_errors);
    expect("fills_late_total", "", s.fills_late);
    expect("waits_total", "", s.waits);
    expect("refreshes_total", "", s.refreshes);
    expect("invalidations_total", "", s.invalidations);
    expect("tags_pruned_total", "", s.tags_pruned);
    expect("clock_refused_total", "", s.clock_refused);
    expect("store_errors_total", "", s.store_errors);
    expect("store_corrupt_total", "", s.store_corrupt);
    expect("store_stale_total", "", s.store_stale);
    expect("entries", "", s.entries);
    expect("bytes", "", s.bytes);
    expect("flights", "", s.flights);
    expect("tags", "", s.tags);
    expect("tags_idle", "", s.tags_idle);
    expect("tag_bytes", "", s.tag_bytes);
    expect("memory_bytes", "", s.memory);
}

TEST(prometheus_histogram_adds_up) {
    zc_stats s = numbered();
    uint64_t sum = 0, last = 0;
    double bound = 0, last_bound = 0;
    unsigned buckets = 0;
    zc_stats_prometheus(&s, "main", text, sizeof text);
    REQUIRE(parse_all(text));
    for (unsigned i = 0; i < nsamples; i++) {
        if (strcmp(samples[i].name, "zoocache_load_seconds_bucket") != 0) continue;
        sum += s.load_histogram[buckets];
        CHECK_STR(samples[i].label, "le");
        CHECK_EQ(strtoull(samples[i].number, NULL, 10), sum);
        CHECK(sum > last);
        last = sum;
        if (++buckets == ZC_LOAD_BUCKETS) {
            CHECK_STR(samples[i].value, "+Inf");
            break;
        }
        bound = strtod(samples[i].value, NULL);
        CHECK(bound > last_bound);
        CHECK(bound * 1e6 - (double)(UINT64_C(1) << (buckets - 1)) < 0.5);
        last_bound = bound;
    }
    CHECK_EQ(buckets, ZC_LOAD_BUCKETS);
    expect("load_seconds_count", "", sum);
    CHECK_STR(number("load_seconds_sum", ""), "12345.678901");
}

TEST(prometheus_text_is_cut_like_snprintf) {
    static char cut[20000];
    zc_stats s = numbered();
    size_t n = zc_stats_prometheus(&s, "main", text, sizeof text);
    CHECK_EQ(zc_stats_prometheus(&s, "main", NULL, 0), n);
    CHECK_EQ(zc_stats_prometheus(&s, "main", NULL, 1000), n);
    for (size_t cap = 0; cap <= n + 2; cap++) {
        memset(cut, '#', n + 8);
        if (!CHECK(zc_stats_prometheus(&s, "main", cut, cap) == n)) break;
        size_t shown = cap == 0 ? 0 : cap - 1 < n ? cap - 1 : n;
        if (memcmp(cut, text, shown) != 0 || (cap && cut[shown] != '\0') || cut[cap] != '#') {
            CHECK_EQ(cap, 0);
            break;
        }
    }
}

TEST(prometheus_label_is_escaped) {
    zc_stats s = numbered();
    static const char *const names[] = {"", "a b", "a\"b", "a\\b", "a\nb", "\"", "\\", "\n",
                                        "\\n", "\\\"\n\\\\", "\xc3\xa9{},="};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        zc_stats_prometheus(&s, names[i], text, sizeof text);
        CHECK(parse_all(text));
        for (unsigned k = 0; k < nsamples; k++) CHECK_STR(samples[k].cache, names[i]);
    }
    zc_stats_prometheus(&s, NULL, text, sizeof text);
    CHECK(parse_all(text));
    CHECK_STR(samples[0].cache, "");
    CHECK_EQ(zc_stats_prometheus(NULL, "x", text, sizeof text), 0);
    CHECK_STR(text, "");
}

/* ---- statistics of a live cache ---- */

static int slow_loader(zc_fill *fill, void *user) {
    zct_step(&now, *(uint64_t *)user);
    return zc_fill_value(fill, zc_str("v"));
}

TEST(loads_are_measured) {
    zc_cache *c = fresh();
    zc_stats s;
    char key[16];
    uint64_t total = 0;
    static const uint64_t took[] = {0,       999,           1000,    1999,        2000,
                                    3999,    4000,          1000000, 4194303000,  4194304000,
                                    1 * S,   100 * S,       8000,    UINT64_C(1) << 50};
    static const unsigned bucket[] = {0, 0, 1, 1, 2, 2, 3, 10, 22, 23, 20, 23, 4, 23};
    for (unsigned i = 0; i < sizeof took / sizeof took[0]; i++) {
        uint64_t ns = took[i];
        zc_view v;
        zc_stats before;
        zc_stats_read(c, &before);
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(zc_fetch(c, zc_str(key), slow_loader, &ns, NULL, &v), ZC_OK);
        zc_release(c, &v);
        zc_stats_read(c, &s);
        total += ns;
        for (unsigned b = 0; b < ZC_LOAD_BUCKETS; b++)
            CHECK_EQ(s.load_histogram[b] - before.load_histogram[b], b == bucket[i]);
        CHECK_EQ(s.load_ns, total);
        CHECK_EQ(s.fills, i + 1);
    }
    zc_close(c);
}

TEST(memory_is_reported_as_the_allocator_sees_it) {
    zct_mem mem = {0};
    zc_desc d;
    zc_cache *c;
    zc_stats s;
    char key[16];
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    d.max_entries = 500;
    d.allocator = zct_allocator(&mem);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    for (unsigned i = 0; i < 2000; i++) {
        zc_put_opts o;
        zc_bytes dep = zc_slice(key, (size_t)snprintf(key, sizeof key, "t%u:%u", i % 7, i % 99));
        memset(&o, 0, sizeof o);
        o.deps = &dep;
        o.ndeps = 1;
        CHECK_EQ(zc_put(c, zc_str(key), zc_slice(text, i), &o), ZC_OK);
        if (i % 100) continue;
        zc_stats_read(c, &s);
        CHECK_EQ(s.memory, mem.bytes);
    }
    zc_close(c);
    zc_stats_read(NULL, &s);
    CHECK_EQ(s.memory, 0);
    zc_stats_read(c, NULL);
}

/* ---- explanations ---- */

static int put(zc_cache *c, const char *key, const char *dep, const zc_put_opts *with) {
    zc_put_opts o;
    zc_bytes tag = zc_str(dep ? dep : "");
    memset(&o, 0, sizeof o);
    if (with) o = *with;
    if (dep) o.deps = &tag;
    o.ndeps = dep != NULL;
    return zc_put(c, zc_str(key), zc_str("value"), &o);
}

static zc_explanation explain(zc_cache *c, const char *key) {
    zc_explanation e;
    zc_stats before, after;
    memset(&e, 0xee, sizeof e);
    zc_stats_read(c, &before);
    CHECK_EQ(zc_explain(c, zc_str(key), &e), ZC_OK);
    zc_stats_read(c, &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0); /* it counts nothing */
    return e;
}

TEST(explain_in_every_state) {
    zc_cache *c = fresh();
    zc_put_opts o;
    zc_view v;
    zc_explanation e = explain(c, "nothing");
    CHECK(e.state == ZC_MISS && !e.present && !e.expired && !e.invalidated && !e.filling);
    CHECK_EQ(put(c, "plain", NULL, NULL), ZC_OK);
    e = explain(c, "plain");
    CHECK(e.state == ZC_OK && e.present && !e.expired && !e.invalidated);
    CHECK(e.expires_in == ZC_NEVER && e.deps == 0 && e.pins == 0 && e.bytes > 5);
    CHECK(e.begin == zc_begin(c));
    CHECK_EQ(zc_get(c, zc_str("plain"), &v), ZC_OK);
    CHECK_EQ(explain(c, "plain").pins, 1);
    zc_release(c, &v);

    memset(&o, 0, sizeof o);
    o.ttl = 10 * S;
    o.soft_ttl = 5 * S;
    CHECK_EQ(put(c, "timed", "a:b:c", &o), ZC_OK);
    e = explain(c, "timed");
    CHECK(e.state == ZC_OK && e.expires_in == 10 * S && e.deps == 1);
    zct_step(&now, 5 * S);
    e = explain(c, "timed");
    CHECK(e.state == ZC_STALE && e.expires_in == 5 * S && !e.expired);
    zct_step(&now, 5 * S);
    e = explain(c, "timed");
    CHECK(e.state == ZC_MISS && e.present && e.expired && e.expires_in == 0 && !e.invalidated);

    CHECK_EQ(zc_put_absent(c, zc_str("absent"), &o), ZC_OK);
    CHECK_EQ(explain(c, "absent").state, ZC_ABSENT);

    CHECK_EQ(put(c, "dead", "a:b:c", NULL), ZC_OK);
    uint64_t begin = zc_begin(c), killed;
    CHECK_EQ(zc_invalidate(c, zc_str("a:b")), ZC_OK);
    CHECK_EQ(zc_tag_version(c, zc_str("a:b"), &killed), ZC_OK);
    e = explain(c, "dead");
    CHECK(e.state == ZC_MISS && e.present && e.invalidated && !e.expired);
    CHECK_STR(e.killer, "a:b");
    CHECK(e.killed_at == killed && e.begin == begin);
    e = explain(c, "timed"); /* both */
    CHECK(e.expired && e.invalidated);
    zc_close(c);
}

TEST(explain_during_a_fill) {
    zc_cache *c = fresh();
    zc_view v;
    zc_fill *fill;
    CHECK_EQ(zc_flight_begin(c, zc_str("k"), NULL, &v, &fill), ZC_LEAD);
    zc_explanation e = explain(c, "k");
    CHECK(e.filling && !e.present && e.state == ZC_MISS);
    CHECK(!explain(c, "l").filling);
    CHECK_EQ(zc_fill_value(fill, zc_str("v")), ZC_OK);
    CHECK_EQ(zc_flight_commit(fill, NULL), ZC_OK);
    e = explain(c, "k");
    CHECK(!e.filling && e.present && e.state == ZC_OK);
    zc_close(c);
}

TEST(explain_names_the_longest_tag_and_refuses_bad_arguments) {
    static char tag[ZC_TAG_MAX + 1];
    zc_cache *c = fresh();
    zc_explanation e;
    memset(tag, 'x', ZC_TAG_MAX);
    for (unsigned i = 30; i < ZC_TAG_MAX - 40; i += 40) tag[i] = ':';
    CHECK_EQ(put(c, "k", tag, NULL), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str(tag)), ZC_OK);
    e = explain(c, "k");
    CHECK(e.invalidated);
    CHECK_STR(e.killer, tag);
    CHECK_EQ(zc_explain(c, zc_str("k"), NULL), ZC_E_INVAL);
    CHECK_EQ(zc_explain(NULL, zc_str("k"), &e), ZC_E_INVAL);
    CHECK_EQ(zc_explain(c, zc_slice(tag, ZC_KEY_MAX + 1), &e), ZC_E_KEY);
    CHECK(!e.present && !e.bytes);
    zc_close(c);
}

/* ---- the checker says what is broken ---- */

static char said[200];
static void on_log(void *user, zc_log_level level, const char *message) {
    (void)user;
    CHECK_EQ(level, ZC_LOG_ERROR);
    snprintf(said, sizeof said, "%s", message);
}

TEST(check_writes_to_the_log) {
    zc_desc d;
    zc_cache *c;
    memset(&d, 0, sizeof d);
    d.no_thread = true;
    d.log.version = 1;
    d.log.write = on_log;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    CHECK_EQ(zc_check(c), ZC_OK);
    CHECK_STR(said, "");
    c->trie.tags = 5;
    CHECK_EQ(zc_check(c), ZC_E_CORRUPT);
    CHECK(strstr(said, "T4") != NULL && strchr(said, '\n') == NULL);
    c->trie.tags = 0;
    CHECK_EQ(zc_check(NULL), ZC_E_INVAL);
    zc_close(c);
}
