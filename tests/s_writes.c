/* Writing through: who waits for the storage, and for whose write. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "fault_store.h"

static void nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

/* Waits for what another thread does; half a minute is for ever. */
/* clang-format off */
#define EVENTUALLY(x) do { for (int w_ = 0; w_ < 30000 && !(x); w_++) nap(); CHECK(x); } while (0)
/* clang-format on */

typedef struct fixture {
    zct_mem mem;
    fault_store store;
    zc_cache *c;
    unsigned inside, all; /* atomic: writes that have begun; how many are to meet there */
    unsigned got;         /* atomic: callers that have their value */
    bool go;              /* atomic */
} fixture;

static bool start(fixture *f, zc_desc d) {
    memset(f, 0, sizeof *f);
    fs_init(&f->store);
    d.allocator = zct_allocator(&f->mem);
    d.store = fs_hook(&f->store, false);
    d.no_thread = true;
    d.shards = 1;
    return CHECK_EQ(zc_open(&d, &f->c), ZC_OK);
}
static void stop(fixture *f) {
    CHECK_EQ(zc_check(f->c), ZC_OK);
    zc_close(f->c);
    CHECK_EQ(f->mem.blocks, 0);
    fs_destroy(&f->store);
}
static unsigned count(const unsigned *n) { return __atomic_load_n(n, __ATOMIC_SEQ_CST); }

static unsigned writers(zc_cache *c) {
    unsigned n = 0;
    zc__spin_lock(&c->shards[0].lock);
    for (const zc__writer *w = c->shards[0].writers; w; w = w->next) n++;
    zc__spin_unlock(&c->shards[0].lock);
    return n;
}

/* Does the storage have the value that the table has? */
static bool agree(fixture *f, const char *key) {
    zc_view v;
    zc_record r;
    zc_bytes memory;
    zc_allocator a = zct_allocator(&f->mem);
    fs_record *s = fs_find(&f->store, zc_str(key));
    if (!CHECK(s != NULL)) return false;
    if (!CHECK_EQ(zc_record_decode(zc_slice(s->data, s->len), 100, &a, &r, &memory), ZC_OK))
        return false;
    CHECK_EQ(zc_get(f->c, zc_str(key), &v), ZC_OK);
    bool same = v.size == r.value.len && memcmp(v.data, r.value.ptr, v.size) == 0;
    zc_release(f->c, &v);
    a.free(a.user, (void *)(uintptr_t)memory.ptr, memory.len);
    return same;
}

/* ---- flights ---- */

static void until_all_have_it(void *user) {
    fixture *f = (fixture *)user;
    EVENTUALLY(count(&f->got) == f->all);
}
static void notified(void *user) { __atomic_add_fetch((unsigned *)user, 1, __ATOMIC_SEQ_CST); }
static int no_load(zc_fill *fill, void *user) {
    (void)fill, (void)user;
    return ZC_E_USER;
}
static void *fetches(void *user) {
    fixture *f = (fixture *)user;
    zc_view v;
    CHECK_EQ(zc_fetch(f->c, zc_str("k"), no_load, NULL, NULL, &v), ZC_OK);
    zc_release(f->c, &v);
    __atomic_add_fetch(&f->got, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

TEST(followers_do_not_wait_for_the_storage) {
    fixture f;
    pthread_t t[3];
    zc_view v;
    zc_fill *lead, *follow;
    zc_stats st;
    if (!start(&f, (zc_desc){0})) return;
    f.store.on_put = until_all_have_it;
    f.store.on_put_user = &f;
    f.all = 4; /* three that sleep, and one that is called */
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
    CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
    CHECK_EQ(zc_flight_notify(follow, notified, &f.got), ZC_OK);
    for (int i = 0; i < 3; i++) REQUIRE(pthread_create(&t[i], NULL, fetches, &f) == 0);
    do zc_stats_read(f.c, &st);
    while (st.waits < 3);
    CHECK_EQ(zc_fill_value(lead, zc_str("v")), ZC_OK);
    CHECK_EQ(zc_flight_commit(lead, NULL), ZC_OK);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    CHECK_EQ(zc_flight_wait(follow, 0, &v), ZC_OK);
    zc_release(f.c, &v);
    f.store.on_put = NULL;
    CHECK(agree(&f, "k"));
    stop(&f);
}

static void put_newer(void *user) {
    fixture *f = (fixture *)user;
    CHECK_EQ(zc_put(f->c, zc_str("k"), zc_str("newer"), NULL), ZC_OK);
}
static void del_it(void *user) {
    fixture *f = (fixture *)user;
    CHECK_EQ(zc_del(f->c, zc_str("k")), ZC_OK);
}

TEST(a_completion_writes_the_key_that_is_about_to_be_written) {
    void (*const complete[])(void *) = {put_newer, del_it};
    for (int i = 0; i < 2; i++) {
        fixture f;
        zc_view v;
        zc_fill *lead, *follow;
        if (!start(&f, (zc_desc){0})) return;
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &lead), ZC_LEAD);
        CHECK_EQ(zc_flight_begin(f.c, zc_str("k"), NULL, &v, &follow), ZC_FOLLOW);
        CHECK_EQ(zc_flight_notify(follow, complete[i], &f), ZC_OK);
        CHECK_EQ(zc_fill_value(lead, zc_str("older")), ZC_OK);
        CHECK_EQ(zc_flight_commit(lead, NULL), ZC_OK);
        zc_flight_abandon(follow, 0);
        if (i == 0) CHECK(agree(&f, "k"));
        else CHECK(fs_find(&f.store, zc_str("k")) == NULL);
        CHECK_EQ(writers(f.c), 0);
        stop(&f);
    }
}

/* ---- keys ---- */

static void until_all_are_inside(void *user) {
    fixture *f = (fixture *)user;
    __atomic_add_fetch(&f->inside, 1, __ATOMIC_SEQ_CST);
    EVENTUALLY(count(&f->inside) >= f->all);
}

typedef struct putter {
    pthread_t thread;
    fixture *f;
    char key[8], value[8];
} putter;

static void *puts_once(void *user) {
    const putter *p = (const putter *)user;
    CHECK_EQ(zc_put(p->f->c, zc_str(p->key), zc_str(p->value), NULL), ZC_OK);
    return NULL;
}

TEST(keys_of_one_shard_are_written_at_the_same_time) {
    enum { N = 16 };
    fixture f;
    putter p[N];
    if (!start(&f, (zc_desc){0})) return;
    f.store.on_put = until_all_are_inside;
    f.store.on_put_user = &f;
    f.all = N;
    for (int i = 0; i < N; i++) {
        p[i] = (putter){.f = &f, .value = "v"};
        snprintf(p[i].key, sizeof p[i].key, "k%d", i);
        REQUIRE(pthread_create(&p[i].thread, NULL, puts_once, &p[i]) == 0);
    }
    for (int i = 0; i < N; i++) pthread_join(p[i].thread, NULL);
    CHECK_EQ(f.store.op_calls[FS_PUT], N);
    stop(&f);
}

static void until_told(void *user) {
    fixture *f = (fixture *)user;
    __atomic_add_fetch(&f->inside, 1, __ATOMIC_SEQ_CST);
    EVENTUALLY(__atomic_load_n(&f->go, __ATOMIC_SEQ_CST));
}

/* However many wait for a key, the storage gets the one that is being written, and the last. */
TEST(writes_of_one_key_are_in_order_and_wait_for_two_at_most) {
    enum { N = 9 };
    for (int behind = 0; behind < 2; behind++) {
        fixture f;
        putter p[N];
        if (!start(&f, (zc_desc){.write_behind = behind})) return;
        f.store.on_put = until_told;
        f.store.on_put_user = &f;
        for (int i = 0; i < N; i++) {
            p[i] = (putter){.f = &f, .key = "k"};
            snprintf(p[i].value, sizeof p[i].value, "v%d", i);
            REQUIRE(pthread_create(&p[i].thread, NULL, puts_once, &p[i]) == 0);
            if (behind) pthread_join(p[i].thread, NULL);
            else EVENTUALLY(writers(f.c) == (unsigned)i + 1 && count(&f.inside) == 1);
        }
        __atomic_store_n(&f.go, true, __ATOMIC_SEQ_CST);
        for (int i = 0; i < N && !behind; i++) pthread_join(p[i].thread, NULL);
        while (zc_poll(f.c, ZC_MILLISECOND) == ZC_MORE) {}
        CHECK_EQ(writers(f.c), 0);
        CHECK(f.store.op_calls[FS_PUT] <= (behind ? N : 2));
        CHECK(agree(&f, "k"));
        stop(&f);
    }
}

/* What went before it may have replaced a record, and is not written itself. */
TEST(a_write_that_stands_for_others_takes_over_what_they_replaced) {
    fixture f;
    zc__writer older, newer;
    if (!start(&f, (zc_desc){0})) return;
    zc__shard *s = &f.c->shards[0];
    zc__spin_lock(&s->lock);
    zc__writes(s, &older, 7, true);
    zc__writes(s, &newer, 7, false);
    zc__spin_unlock(&s->lock);
    CHECK(newer.replaces);
    CHECK(zc__write_turn(s, &newer));
    zc__written(s, &newer);
    CHECK(!zc__write_turn(s, &older));
    CHECK_EQ(writers(f.c), 0);
    stop(&f);
}
