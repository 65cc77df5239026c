/* The hybrid logical clock: H1, H2, and the text form. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"

#define MS ZC_MILLISECOND

static zct_time now;

static zc_hlc fake(uint64_t wall_ms) {
    zc_hlc h;
    memset(&h, 0, sizeof h);
    now.wall = wall_ms * MS;
    h.clock = zct_clock(&now);
    return h;
}

static uint64_t stamp_of(uint64_t ms, uint64_t counter) { return ms << 16 | counter; }

TEST(a_stamp_is_milliseconds_and_a_counter) {
    zc_hlc h = fake(1000);
    now.wall += 999999; /* below a millisecond */
    CHECK_EQ(zc_hlc_now(&h), stamp_of(1000, 0));
    CHECK_EQ(zc_hlc_now(&h), stamp_of(1000, 1));
    now.wall += 1;
    CHECK_EQ(zc_hlc_now(&h), stamp_of(1001, 0));
}

TEST(the_system_clock_is_the_default) {
    zc_hlc h;
    memset(&h, 0, sizeof h);
    uint64_t before = (uint64_t)time(NULL), stamp = zc_hlc_now(&h), after = (uint64_t)time(NULL);
    uint64_t second = (stamp >> 16) / 1000;
    CHECK(second + 1 >= before && second <= after); /* a coarse clock may lag some milliseconds */
}

TEST(H1_grows_under_a_clock_that_steps_back) {
    zc_hlc h = fake(1000000);
    uint64_t last = 0;
    for (unsigned i = 0; i < 100000; i++) {
        switch (zct_below(6)) {
        case 0: now.wall = zct_below(2000000) * MS; break;
        case 1: now.wall = 0; break;
        case 2: now.wall += zct_below(5 * MS); break;
        case 3: (void)zc_hlc_merge(&h, stamp_of(zct_below(2100000), zct_below(65536))); break;
        default: break;
        }
        uint64_t s = zc_hlc_now(&h);
        CHECK(s > last);
        CHECK(s >> 16 >= now.wall / MS);
        last = s;
    }
}

TEST(H1_is_above_what_was_merged) {
    zc_hlc h = fake(1000);
    CHECK_EQ(zc_hlc_merge(&h, stamp_of(30000, 5)), ZC_OK);
    CHECK_EQ(zc_hlc_now(&h), stamp_of(30000, 6));
    CHECK_EQ(zc_hlc_merge(&h, stamp_of(2000, 7)), ZC_OK); /* an old one changes nothing */
    CHECK_EQ(zc_hlc_now(&h), stamp_of(30000, 7));
    CHECK_EQ(zc_hlc_merge(&h, 0), ZC_OK);
    CHECK_EQ(zc_hlc_now(&h), stamp_of(30000, 8));
    CHECK_EQ(h.refused, 0);
}

TEST(the_counter_runs_over_into_the_milliseconds) {
    zc_hlc h = fake(1000);
    uint64_t last = zc_hlc_now(&h);
    for (unsigned i = 0; i < 3 * 65536; i++) {
        uint64_t s = zc_hlc_now(&h);
        if (s != last + 1) CHECK_EQ(s, last + 1);
        last = s;
    }
    CHECK_EQ(last, stamp_of(1003, 0));
    now.wall = 1003 * MS; /* the wall clock is behind the stamps now: they go on */
    CHECK_EQ(zc_hlc_now(&h), stamp_of(1003, 1));
    now.wall = 1004 * MS;
    CHECK_EQ(zc_hlc_now(&h), stamp_of(1004, 0));
}

TEST(H2_refused_beyond_the_drift_and_nothing_changes) {
    static const uint64_t drifts[] = {0, 1, 5, 1000, 60000, 86400000};
    for (size_t i = 0; i < sizeof drifts / sizeof drifts[0]; i++) {
        zc_hlc h = fake(5000000);
        uint64_t ms = drifts[i] ? drifts[i] : 60000; /* the default is 60 s */
        h.max_drift = drifts[i] * MS;
        uint64_t last = zc_hlc_now(&h), most = stamp_of(5000000 + ms, 0);
        zc_hlc before = h;
        CHECK_EQ(zc_hlc_merge(&h, most + 1), ZC_E_CLOCK);
        CHECK_EQ(zc_hlc_merge(&h, most + 65536), ZC_E_CLOCK);
        CHECK_EQ(zc_hlc_merge(&h, UINT64_MAX), ZC_E_CLOCK);
        CHECK_EQ(h.refused, 3);
        h.refused = 0;
        CHECK(memcmp(&h, &before, sizeof h) == 0);
        CHECK_EQ(zc_hlc_now(&h), last + 1);
        CHECK_EQ(zc_hlc_merge(&h, most), ZC_OK);
        CHECK_EQ(h.last, most);
        CHECK_EQ(h.refused, 0);
    }
}

/* The bound is counted from the wall clock, not from the last stamp: nobody can be led away in
 * small steps. */
TEST(H2_no_creeping) {
    zc_hlc h = fake(1000000);
    h.max_drift = 1000 * MS;
    uint64_t most = stamp_of(1001000, 0), s = 0;
    for (unsigned i = 0; i < 50; i++)
        if (zc_hlc_merge(&h, s = stamp_of(1000000 + i * 50, 0)) == ZC_OK) CHECK(s <= most);
    CHECK_EQ(h.last, most);
    CHECK_EQ(h.refused, 29);
}

TEST(a_drift_without_end_takes_every_stamp) {
    zc_hlc h = fake(1000);
    h.max_drift = ZC_NEVER;
    CHECK_EQ(zc_hlc_merge(&h, ZC__VERSION_MAX), ZC_OK);
    CHECK(zc_hlc_now(&h) == ZC__VERSION_MAX + 1);
    h = fake(UINT64_MAX / MS); /* and a wall clock at its end does not overflow the bound */
    CHECK_EQ(zc_hlc_merge(&h, stamp_of(UINT64_MAX / MS, 0)), ZC_OK);
    CHECK_EQ(zc_hlc_merge(&h, UINT64_MAX), ZC_E_CLOCK);
}

TEST(H2_no_stamp_is_the_last) {
    static const uint64_t absurd[] = {ZC__VERSION_MAX + 1, UINT64_C(1) << 63, UINT64_MAX - 1,
                                      UINT64_MAX};
    static const uint64_t drifts[] = {0, 1, ZC_NEVER - 1, ZC_NEVER};
    for (unsigned i = 0; i < 16; i++) {
        zc_hlc h = fake(1000);
        h.max_drift = drifts[i % 4];
        CHECK_EQ(zc_hlc_merge(&h, absurd[i / 4]), ZC_E_CLOCK);
        CHECK_EQ(h.refused, 1);
        CHECK_EQ(zc_hlc_now(&h), stamp_of(1000, 0));
        h.last = absurd[i / 4]; /* as of memory that was not zeroed */
        uint64_t s = zc_hlc_now(&h);
        for (unsigned k = 0; k < 3; k++) CHECK(zc_hlc_now(&h) > s + k);
    }
}

static const char *text_of(uint64_t stamp) {
    static char text[ZC_HLC_TEXT];
    memset(text, '#', sizeof text);
    CHECK(zc_hlc_format(stamp, text) == text);
    return text;
}

static int parse(const char *text, uint64_t *stamp) {
    *stamp = 99;
    return zc_hlc_parse(zc_str(text), stamp);
}

/* Seconds of `date -u +%s`. */
TEST(known_dates) {
    static const struct {
        uint64_t second;
        const char *date;
    } known[] = {{0, "1970-01-01T00:00:00"},           {68169599, "1972-02-28T23:59:59"},
                 {68169600, "1972-02-29T00:00:00"},    {68256000, "1972-03-01T00:00:00"},
                 {951782399, "2000-02-28T23:59:59"},   {951782400, "2000-02-29T00:00:00"},
                 {951868800, "2000-03-01T00:00:00"},   {978220800, "2000-12-31T00:00:00"},
                 {1709164800, "2024-02-29T00:00:00"},  {1795246331, "2026-11-21T07:32:11"},
                 {4107542399, "2100-02-28T23:59:59"},  {4107542400, "2100-03-01T00:00:00"},
                 {253402300799, "9999-12-31T23:59:59"}, {253402300800, "10000-01-01T00:00:00"},
                 {281474976710, "10889-08-02T05:31:50"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        char want[64];
        uint64_t stamp, s = stamp_of(known[i].second * 1000 + 7, 0xbeef);
        snprintf(want, sizeof want, "%s.007Z+beef", known[i].date);
        CHECK_STR(text_of(s), want);
        CHECK_EQ(parse(want, &stamp), ZC_OK);
        CHECK_EQ(stamp, s);
    }
    CHECK_STR(text_of(0), "1970-01-01T00:00:00.000Z+0000");
    CHECK_STR(text_of(UINT64_MAX), "10889-08-02T05:31:50.655Z+ffff");
    CHECK_STR(text_of(stamp_of(UINT64_C(1795246331123), 0x42)), "2026-11-21T07:32:11.123Z+0042");
}

TEST(every_day_of_nine_thousand_years) {
    static const unsigned days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    uint32_t day = 0;
    for (uint32_t y = 1970; y < 10889; y++) {
        bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
        for (unsigned m = 1; m <= 12; m++) {
            unsigned n = days[m - 1] + (m == 2 && leap);
            for (unsigned d = 1; d <= n; d++, day++) {
                uint32_t gy, gm, gd;
                zc__date_of(day, &gy, &gm, &gd);
                if (gy != y || gm != m || gd != d) {
                    CHECK_EQ(gy * 10000 + gm * 100 + gd, y * 10000 + m * 100 + d);
                    return;
                }
            }
        }
    }
}

TEST(text_round_trips_and_sorts) {
    char a[ZC_HLC_TEXT], b[ZC_HLC_TEXT];
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t s = zct_rand(), t, got;
        if (i % 2) s >>= 6; /* four-digit years */
        if (i % 5 == 0) s &= ~UINT64_C(0xffff);
        zc_hlc_format(s, a);
        CHECK_EQ(zc_hlc_parse(zc_str(a), &got), ZC_OK);
        CHECK(got == s);
        t = s + zct_below(UINT64_C(1) << zct_below(50));
        zc_hlc_format(t, b);
        if (t > s && strlen(a) == strlen(b)) CHECK(strcmp(a, b) < 0);
    }
    uint64_t got;
    CHECK_EQ(zc_hlc_parse(zc_str(text_of(UINT64_MAX)), &got), ZC_OK);
    CHECK(got == UINT64_MAX);
}

TEST(malformed_text_is_refused) {
    static const char *const bad[] = {
        "", "2026", "2026-11-21T07:32:11.123Z+004", "2026-11-21T07:32:11.123Z+00420",
        "2026-11-21 07:32:11.123Z+0042", "2026-11-21T07:32:11,123Z+0042",
        "2026-11-21t07:32:11.123Z+0042", "2026-11-21T07:32:11.123z+0042",
        "2026-11-21T07:32:11.123Z-0042", "2026/11/21T07:32:11.123Z+0042",
        "2026-11-21T07-32-11.123Z+0042", "2026-11-21T07:32:11.123Z+004G",
        "2026-11-21T07:32:11.123Z+004F", /* small letters only */
        "2026-00-21T07:32:11.123Z+0042", "2026-13-21T07:32:11.123Z+0042",
        "2026-11-00T07:32:11.123Z+0042", "2026-11-31T07:32:11.123Z+0042",
        "2026-02-29T07:32:11.123Z+0042", "2100-02-29T07:32:11.123Z+0042",
        "2026-12-32T07:32:11.123Z+0042", "2026-11-99T07:32:11.123Z+0042",
        "2026-11-21T24:00:00.000Z+0042", "2026-11-21T07:60:11.123Z+0042",
        "2026-11-21T07:32:60.123Z+0042", "1969-12-31T23:59:59.999Z+0000",
        "0000-01-01T00:00:00.000Z+0000", "02026-11-21T07:32:11.123Z+0042",
        "10889-08-02T05:31:50.656Z+0000", "10889-08-03T00:00:00.000Z+0000",
        "10889-12-31T23:59:59.999Z+ffff", "10890-01-01T00:00:00.000Z+0000",
        "99999-12-31T23:59:59.999Z+ffff", "-026-11-21T07:32:11.123Z+0042",
        "2026-1a-21T07:32:11.123Z+0042", " 026-11-21T07:32:11.123Z+0042",
        "2026-11-21T07:32:11.123Z+ 042", "2026-11-21T07:32:11.123Z+0x42"};
    uint64_t stamp;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!CHECK_EQ(parse(bad[i], &stamp), ZC_E_INVAL)) puts(bad[i]);
        CHECK_EQ(stamp, 0);
    }
    CHECK_EQ(zc_hlc_parse(zc_slice(NULL, 0), &stamp), ZC_E_INVAL);
    CHECK_EQ(zc_hlc_parse(zc_slice(NULL, 29), &stamp), ZC_E_INVAL);
    CHECK_EQ(zc_hlc_parse(zc_str("x"), NULL), ZC_E_INVAL);
    /* With a NUL inside, or as the thirtieth byte. */
    CHECK_EQ(zc_hlc_parse(zc_slice("2026-11-21T07:32:11.123Z+0042", 30), &stamp), ZC_E_INVAL);
    CHECK_EQ(zc_hlc_parse(zc_slice("2026-11-21T07:32:11.123Z+00\0" "2", 29), &stamp), ZC_E_INVAL);
}

/* Each byte of good text changed to every other: refused, or a different stamp that prints so. */
TEST(every_changed_byte_of_text) {
    static const char *const good[] = {"2026-11-21T07:32:11.123Z+0042",
                                       "10889-08-02T05:31:50.655Z+ffff"};
    for (unsigned k = 0; k < 2; k++) {
        char text[ZC_HLC_TEXT];
        size_t len = strlen(good[k]);
        uint64_t stamp;
        for (size_t i = 0; i < len; i++) {
            for (unsigned v = 0; v < 256; v++) {
                memcpy(text, good[k], len + 1);
                text[i] = (char)v;
                if (zc_hlc_parse(zc_slice(text, len), &stamp) == ZC_OK)
                    CHECK(memcmp(text_of(stamp), text, len + 1) == 0);
                else
                    CHECK_EQ(stamp, 0);
            }
        }
    }
}

TEST(a_cache_refuses_no_drift_of_its_own) {
    zc_desc d;
    zc_cache *c;
    zc_stats s;
    memset(&d, 0, sizeof d);
    now.mono = ZC_SECOND;
    now.wall = 5000 * ZC_SECOND;
    d.no_thread = true;
    d.clock = zct_clock(&now);
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    uint64_t last = 0, v;
    for (unsigned i = 0; i < 100; i++) { /* versions grow while the wall clock runs backwards */
        now.wall -= 40 * ZC_SECOND;
        CHECK_EQ(zc_invalidate(c, zc_str("a:b")), ZC_OK);
        CHECK_EQ(zc_tag_version(c, zc_str("a:b"), &v), ZC_OK);
        CHECK(v > last);
        last = v;
    }
    zc_stats_read(c, &s);
    CHECK_EQ(s.invalidations, 100);
    CHECK_EQ(s.clock_refused, 0);
    zc_close(c);
}

TEST(a_cache_observes_the_stamps_of_others) {
    zc_desc d;
    zc_cache *c;
    zc_stats s;
    memset(&d, 0, sizeof d);
    now.mono = ZC_SECOND;
    now.wall = 5000 * ZC_SECOND;
    d.no_thread = true;
    d.clock = zct_clock(&now);
    d.max_clock_drift = 10 * ZC_SECOND;
    REQUIRE(zc_open(&d, &c) == ZC_OK);
    uint64_t here = now.wall / ZC_MILLISECOND << 16, v = 0;
    uint64_t ahead = here + (UINT64_C(9000) << 16), too_far = here + (UINT64_C(11000) << 16);
    CHECK_EQ(zc_observe(c, ahead), ZC_OK);
    CHECK_EQ(zc_invalidate(c, zc_str("a")), ZC_OK);
    CHECK_EQ(zc_tag_version(c, zc_str("a"), &v), ZC_OK);
    CHECK_EQ(v, ahead + 1);
    CHECK_EQ(zc_observe(c, too_far), ZC_E_CLOCK);
    CHECK_EQ(zc_invalidate(c, zc_str("a")), ZC_OK);
    CHECK_EQ(zc_tag_version(c, zc_str("a"), &v), ZC_OK);
    CHECK_EQ(v, ahead + 2);
    zc_stats_read(c, &s);
    CHECK_EQ(s.clock_refused, 1);
    zc_close(c);
    CHECK_EQ(zc_observe(NULL, ahead), ZC_E_INVAL);
}
