/* Files of LMDB that are damaged at random, below what LMDB checks itself: bytes, words of page
 * headers, nodes and metas, whole pages. Each is opened and, unless that is refused, read and
 * written by every hook. Nothing may end the process: LMDB aborts, or leaves its map, at pages that
 * it takes on trust. What is refused stays as it is. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_LMDB
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "lmdb_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define TRIALS 3000
#define KEYS 60
#define NOW ((uint64_t)1700000000000) /* ms */

typedef struct fixture {
    lmdb_dir dir;
    zct_time time;
    zc_store s;
    zc_bus b;
    unsigned errors; /* in the log */
} fixture;

/* A file that is sound, as bytes. */
typedef struct image {
    unsigned char *data;
    size_t size;
} image;

enum { PAGE = 4096 };

static void hear(void *user, zc_log_level level, const char *message) {
    (void)message;
    ((fixture *)user)->errors += level == ZC_LOG_ERROR;
}

static int open_it(fixture *f) {
    zc_lmdb_desc d;
    memset(&d, 0, sizeof d);
    d.path = f->dir.path;
    d.map_size = (size_t)8 << 20;
    d.max_entries = KEYS;
    d.clock = zct_clock(&f->time);
    d.log.version = 1;
    d.log.write = hear;
    d.log.user = f;
    f->errors = 0;
    return zc_lmdb_open(&d, &f->s, &f->b);
}
static void shut(fixture *f) {
    f->s.close(f->s.user);
    f->b.close(f->b.user);
}

static bool make_dir(fixture *f) {
    memset(f, 0, sizeof *f);
    f->time.wall = NOW * ZC_MILLISECOND;
    strcpy(f->dir.path, "/dev/shm/zc-lmdb-XXXXXX"); /* where there is */
    return mkdtemp(f->dir.path) || ld_make(&f->dir);
}

/* ---- what is done with a file, damaged or not: every hook, results apart ---- */

static zc_bytes key_n(unsigned i, char key[16]) {
    snprintf(key, 16, "key-%u", i);
    return zc_str(key);
}

/* Values of all kinds of length: most in a page, some on pages of their own. */
static void put_one(fixture *f, unsigned i) {
    static char value[20000];
    char key[16];
    size_t len = i % 7 == 0 ? 5000 + zct_below(15000) : zct_below(600);
    uint64_t end = i % 3 ? 0 : NOW + 1 + zct_below(100);
    memset(value, (int)i, len);
    (void)f->s.put(f->s.user, key_n(i, key), zc_slice(value, len), end);
}

static void change(fixture *f, unsigned rounds) {
    char key[16], tag[16];
    uint64_t at, token;
    for (unsigned n = 0; n < rounds; n++) {
        unsigned i = (unsigned)zct_below(KEYS * 5 / 4);
        zc_bytes k = key_n(i, key), paths = zc_str(tag);
        switch (zct_below(8)) {
        case 0: (void)f->s.del(f->s.user, k); break;
        case 1: (void)f->s.touch(f->s.user, k, NOW + 1000); break;
        case 2:
            token = 0;
            (void)f->s.lock(f->s.user, k, ZC_SECOND, &token);
            if (token && i % 2) (void)f->s.unlock(f->s.user, k, token);
            break;
        case 3:
            snprintf(tag, sizeof tag, "tag:%u", i);
            (void)ld_append(&f->b, i % 20 ? tag : NULL, &at);
            break;
        case 4:
            paths = zc_slice("t:u", 3);
            (void)f->b.hold(f->b.user, i % 4, &paths, i % 2);
            break;
        default: put_one(f, i); break;
        }
    }
    f->time.wall += 20 * ZC_MILLISECOND;
    (void)f->b.beat(f->b.user, zc_str(""));
}

static void look(fixture *f) {
    char key[16], tag[16];
    heard h;
    zc_bus_sink sink = {ld_entry, &h};
    for (unsigned i = 0; i < KEYS * 5 / 4; i++) {
        got g;
        (void)ld_get(&f->s, key_n(i, key), &g);
        free(g.data);
        snprintf(tag, sizeof tag, "tag:%u", i);
        (void)ld_version(&f->b, tag);
    }
    for (uint64_t from = 0; from < 40; from += 10) (void)ld_read(&f->b, from, &h);
    memset(&h, 0, sizeof h);
    (void)f->b.holds(f->b.user, &sink);
}

/* ---- a sound file ---- */

static bool load(fixture *f, image *of) {
    char name[128];
    struct stat st;
    int fd = open(ld_file(&f->dir, "data.mdb", name), O_RDONLY);
    bool good = fd >= 0 && fstat(fd, &st) == 0;
    of->size = good ? (size_t)st.st_size : 0;
    of->data = (unsigned char *)malloc(of->size + 1);
    good = good && read(fd, of->data, of->size) == (ssize_t)of->size;
    if (fd >= 0) close(fd);
    return CHECK(good);
}
static bool save(fixture *f, const image *from) {
    char name[128];
    int fd = open(ld_file(&f->dir, "data.mdb", name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool good = fd >= 0 && write(fd, from->data, from->size) == (ssize_t)from->size;
    if (fd >= 0) close(fd);
    return CHECK(good);
}

static bool make_sound(fixture *f, image *of, unsigned rounds) {
    if (!CHECK_EQ(open_it(f), ZC_OK)) return false;
    for (unsigned i = 0; i < rounds / 10; i++) {
        change(f, 10);
        look(f);
    }
    shut(f);
    return load(f, of);
}

/* ---- damage ---- */

static uint64_t odd_number(const image *m, unsigned bytes) {
    uint64_t any = zct_rand();
    switch (zct_below(6)) {
    case 0: return 0;
    case 1: return UINT64_MAX;
    case 2: return zct_below(m->size / PAGE + 4);
    case 3: return zct_below(PAGE + 64);
    case 4: return zct_below(9);
    default: return bytes < 8 ? any : any >> zct_below(64);
    }
}

static void set_word(image *m, size_t at) {
    unsigned bytes = 1u << (1 + zct_below(3)); /* 2, 4, 8 */
    uint64_t v = odd_number(m, bytes);
    if (at + 8 > m->size) return;
    if (zct_below(3) == 0) v = zc__get64(m->data + at) + (zct_below(2) ? 1 : UINT64_MAX);
    zc__put_le(m->data + at, v, bytes);
}

/* A word of what LMDB reads: of a page's head, its table of nodes, or a node. */
static void hit_page(image *m, size_t page) {
    unsigned char *p = m->data + page * PAGE;
    size_t nodes = zc__get16(p + 12) > 16 ? (zc__get16(p + 12) - 16u) / 2 : 1;
    size_t at = 2 * zct_below(8), node = 16 + 2 * zct_below(nodes < 2000 ? nodes : 2000);
    switch (zct_below(3)) {
    case 0: break;
    case 1: at = node; break;
    default: at = zc__get16(p + node) + 2 * zct_below(40); break;
    }
    set_word(m, page * PAGE + at);
}

static void damage(image *m) {
    size_t pages = m->size / PAGE, a = zct_below(pages), b = zct_below(pages);
    switch (zct_below(10)) {
    case 0: m->data[zct_below(m->size)] ^= (unsigned char)(1u << zct_below(8)); break;
    case 1: memset(m->data + a * PAGE, zct_below(2) ? 0 : 0xff, PAGE); break;
    case 2: memcpy(m->data + a * PAGE, m->data + b * PAGE, PAGE); break;
    case 3: /* as case 2, but it knows its place */
        memcpy(m->data + a * PAGE + 8, m->data + b * PAGE + 8, PAGE - 8);
        break;
    case 4: m->size -= zct_below(m->size); break;
    case 5: set_word(m, PAGE * zct_below(2) + 16 + 4 * zct_below(30)); break; /* a meta */
    case 6:
        for (size_t i = zct_below(PAGE), n = zct_below(64); n-- > 0 && i < PAGE; i++)
            m->data[a * PAGE + i] = (unsigned char)zct_rand();
        break;
    default: hit_page(m, a); break;
    }
}

static bool same_as(fixture *f, const image *m) {
    image now;
    bool same = load(f, &now) && now.size >= m->size && memcmp(now.data, m->data, m->size) == 0;
    free(now.data);
    return same;
}

/* What a process has left that was killed, or worse: LMDB makes it anew if nobody has it open. */
static void spoil_locks(fixture *f) {
    unsigned char noise[4096];
    char name[128];
    int fd = open(ld_file(&f->dir, "lock.mdb", name), O_WRONLY);
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (unsigned char)zct_rand();
    CHECK(write(fd, noise, sizeof noise) == (ssize_t)sizeof noise);
    CHECK_EQ(ftruncate(fd, (off_t)zct_below(2 * sizeof noise)), 0);
    close(fd);
}

/* Returns the result of the open. */
static int trial(fixture *f, const image *sound) {
    image m = {(unsigned char *)malloc(sound->size), sound->size};
    memcpy(m.data, sound->data, m.size);
    do damage(&m);
    while (m.size > 3 * PAGE && zct_below(3) == 0);
    if (zct_below(50) == 0) spoil_locks(f);
    int rc = save(f, &m) ? open_it(f) : ZC_E_STORE;
    if (rc == ZC_OK) {
        look(f);
        change(f, 30);
        look(f);
        (void)f->s.clear(f->s.user);
        change(f, 10);
        shut(f);
    } else {
        CHECK_EQ(f->errors, 1);
        CHECK(same_as(f, &m));
    }
    free(m.data);
    return rc;
}

TEST(damage_ends_no_process) {
    fixture f;
    image sound = {NULL, 0};
    unsigned refused = 0;
    REQUIRE(CHECK(make_dir(&f)));
    for (unsigned n = 0; n < TRIALS; n++) {
        if (n % 500 == 0) {
            char name[128];
            free(sound.data);
            (void)unlink(ld_file(&f.dir, "data.mdb", name));
            REQUIRE(CHECK(make_sound(&f, &sound, 300)));
        }
        refused += trial(&f, &sound) != ZC_OK;
    }
    CHECK(refused > TRIALS / 4 && refused < TRIALS);
    printf("    %u of %d were refused\n", refused, TRIALS);
    free(sound.data);
    ld_remove(&f.dir);
}
