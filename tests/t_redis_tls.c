/* Redis over TLS: whom it believes, and what it survives. That everything else works over TLS is
 * what t_redis shows when it is built with RS_TLS. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_REDIS
#define ZOOCACHE_WITH_REDIS_TLS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "zc_test.h"
#include "redis_server.h"

#define BRIEF (250 * ZC_MILLISECOND) /* for what ends by it */

typedef struct side {
    zct_mem mem;
    zc_store st;
    zc_bus bus;
} side;

static int side_try(side *n, zc_redis_desc d) {
    memset(n, 0, sizeof *n);
    if (!d.timeout) d.timeout = 30 * ZC_SECOND;
    d.allocator = zct_allocator(&n->mem);
    return zc_redis_open(&d, &n->st, &n->bus);
}
static bool side_open(side *n, zc_redis_desc d) { return CHECK_EQ(side_try(n, d), ZC_OK); }
/* A server whose certificate is for 127.0.0.1, and one who trusts it. */
static bool serve(redis_server *s) {
    return rs_authority("ca") && rs_certificate("server", "ca", "/CN=x", "IP:127.0.0.1") &&
           rs_start_tls(s, "server", "ca", NULL);
}
static bool side_to(side *n, const redis_server *s) {
    return side_open(n, (zc_redis_desc){.url = s->url, .tls_ca = rs_tls_file("ca.pem")});
}
static void side_close(side *n) {
    n->st.close(n->st.user);
    n->bus.close(n->bus.user);
    CHECK_EQ(n->mem.blocks, 0);
    CHECK_EQ(ERR_peek_error(), 0); /* the caller's queue of errors is its own */
}

static int put(side *n, const char *key, zc_bytes value) {
    return n->st.put(n->st.user, zc_str(key), value, 0);
}
static int get(side *n, const char *key, zc_bytes want) {
    zc__mem mem = {.hook = zct_allocator(&n->mem)};
    zc_sink sink = {&mem, {NULL, 0, 0}, SIZE_MAX, NULL, NULL};
    int rc = n->st.get(n->st.user, zc_str(key), &sink);
    if (rc == ZC_OK)
        CHECK(sink.buf.size == want.len && memcmp(sink.buf.ptr, want.ptr, want.len) == 0);
    zc__buf_free(&mem, &sink.buf);
    return rc;
}

/* Opens, writes, closes. */
static int speaks(zc_redis_desc d) {
    side n;
    int rc = side_try(&n, d);
    if (rc != ZC_OK) return rc;
    rc = put(&n, "k", zc_str("v"));
    if (rc == ZC_OK) rc = get(&n, "k", zc_str("v"));
    side_close(&n);
    return rc;
}
static int speaks_to(const char *url, const char *ca) {
    zc_redis_desc d = {.url = url, .tls_ca = ca ? rs_tls_file(ca) : NULL};
    return speaks(d);
}

static const char *url_of(const char *scheme, const char *host, int port) {
    static char url[128];
    snprintf(url, sizeof url, "%s://%s:%d", scheme, host, port);
    return url;
}

static int waits_for(int port, const char *ca) {
    zc_redis_desc d = {.url = url_of("rediss", "127.0.0.1", port), .timeout = BRIEF};
    d.tls_ca = rs_tls_file(ca);
    return speaks(d);
}

/* ---- whom it believes */

TEST(the_name_and_the_chain_are_checked) {
    /* The server's certificate; who is asked for; is it believed? */
    static const struct {
        const char *subject, *names, *host;
        int rc;
    } cases[] = {
        {"/CN=x", "IP:127.0.0.1,DNS:localhost", "127.0.0.1", ZC_OK},
        {"/CN=x", "IP:127.0.0.1,DNS:localhost", "localhost", ZC_OK},
        {"/CN=x", "DNS:localhost", "localhost", ZC_OK},
        {"/CN=x", "DNS:localhost", "127.0.0.1", ZC_E_STORE},
        {"/CN=x", "IP:127.0.0.1", "localhost", ZC_E_STORE},
        {"/CN=x", "IP:127.0.0.2,DNS:elsewhere", "127.0.0.1", ZC_E_STORE},
        {"/CN=x", "DNS:127.0.0.1", "127.0.0.1", ZC_E_STORE},
        {"/CN=x", "DNS:local*", "localhost", ZC_E_STORE},
        {"/CN=localhost", "DNS:elsewhere", "localhost", ZC_E_STORE},
        {"/CN=127.0.0.1", NULL, "127.0.0.1", ZC_E_STORE},
        {"/CN=localhost", NULL, "localhost", ZC_OK}, /* of before there were names beside it */
    };
    REQUIRE(rs_authority("ca") && rs_authority("other"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        redis_server s;
        REQUIRE(rs_certificate("server", "ca", cases[i].subject, cases[i].names));
        REQUIRE(rs_start_tls(&s, "server", "ca", NULL));
        const char *url = url_of("rediss", cases[i].host, s.tls_port);
        if (!CHECK_EQ(speaks_to(url, "ca.pem"), cases[i].rc)) printf("    case %zu\n", i);
        CHECK_EQ(speaks_to(url, "other.pem"), ZC_E_STORE);
        CHECK_EQ(speaks_to(url, NULL), ZC_E_STORE); /* none of the system's */
        rs_stop(&s);
    }
}

TEST(a_certificate_that_has_ended_is_refused) {
    redis_server s;
    static const char make[] =
        "exec 2>old.log; touch index; echo 01 >serial; printf '%s\\n' '[ca]' default_ca=d '[d]' "
        "database=index new_certs_dir=. serial=serial default_md=sha256 policy=p "
        "copy_extensions=copy '[p]' commonName=supplied >ca.cnf && "
        "openssl req -new -key old.key -subj /CN=x -addext subjectAltName=IP:127.0.0.1 "
        "-out old.csr && openssl ca -config ca.cnf -batch -notext -in old.csr -cert ca.pem "
        "-keyfile ca.key -startdate 200101000000Z -enddate 200102000000Z -out old.pem";
    char line[sizeof make + 64];
    REQUIRE(rs_authority("ca") && rs_certificate("old", "ca", "/CN=x", "IP:127.0.0.1"));
    snprintf(line, sizeof line, "cd %s && %s", rs_tls_dir, make);
    REQUIRE(CHECK_EQ(system(line), 0));
    REQUIRE(rs_start_tls(&s, "old", "ca", NULL));
    CHECK_EQ(speaks_to(s.url, "ca.pem"), ZC_E_STORE);
    rs_stop(&s);
}

TEST(a_server_may_want_our_certificate) {
    redis_server s;
    REQUIRE(rs_authority("ca") && rs_certificate("server", "ca", "/CN=x", "IP:127.0.0.1"));
    REQUIRE(rs_certificate("me", "ca", "/CN=me", NULL));
    REQUIRE(rs_authority("other") && rs_certificate("stranger", "other", "/CN=me", NULL));
    REQUIRE(rs_start_tls(&s, "server", "ca", "--tls-auth-clients", "yes", NULL));
    zc_redis_desc d = {.url = s.url, .tls_ca = rs_tls_file("ca.pem")};
    char ca[96], cert[96], key[96];
    snprintf(ca, sizeof ca, "%s", rs_tls_file("ca.pem"));
    snprintf(cert, sizeof cert, "%s", rs_tls_file("me.pem"));
    snprintf(key, sizeof key, "%s", rs_tls_file("me.key"));
    d.tls_ca = ca;
    CHECK_EQ(speaks(d), ZC_E_STORE);
    d.tls_cert = cert;
    CHECK_EQ(speaks(d), ZC_E_INVAL); /* no key */
    d.tls_key = key;
    CHECK_EQ(speaks(d), ZC_OK);
    d.tls_cert = NULL;
    CHECK_EQ(speaks(d), ZC_E_INVAL);
    d.tls_cert = rs_tls_file("stranger.pem");
    CHECK_EQ(speaks(d), ZC_E_INVAL); /* not its key */
    d.tls_key = rs_tls_file("stranger.key");
    CHECK_EQ(speaks(d), ZC_E_STORE); /* nobody that the server knows vouches for it */
    rs_stop(&s);
}

TEST(files_that_are_no_good) {
    char line[400];
    REQUIRE(rs_authority("ca") && rs_certificate("me", "ca", "/CN=me", NULL));
    CHECK_EQ(speaks_to("rediss://127.0.0.1:1", "nowhere"), ZC_E_INVAL);
    CHECK_EQ(speaks_to("rediss://127.0.0.1:1", "ca.log"), ZC_E_INVAL); /* no certificate in it */
    snprintf(line, sizeof line,
             "cd %s && openssl ec -aes128 -passout pass:secret -in me.key "
             "-out locked.key 2>locked.log",
             rs_tls_dir);
    REQUIRE(CHECK_EQ(system(line), 0));
    zc_redis_desc d = {.url = "rediss://127.0.0.1:1",
                       .tls_cert = rs_tls_file("me.pem"),
                       .tls_key = rs_tls_file("locked.key")};
    CHECK_EQ(speaks(d), ZC_E_INVAL); /* and nobody is asked for a password */
    d.tls_key = "/nowhere";
    CHECK_EQ(speaks(d), ZC_E_INVAL);
}

TEST(both_ends_must_mean_the_same) {
    redis_server s, old;
    REQUIRE(serve(&s));
    CHECK_EQ(speaks_to(url_of("rediss", "127.0.0.1", s.tls_port), "ca.pem"), ZC_OK);
    int rc = waits_for(s.port, "ca.pem"); /* Redis waits for the end of what is no line */
    CHECK(rc == ZC_E_TIMEOUT || rc == ZC_E_STORE);
    CHECK_EQ(speaks_to(url_of("redis", "127.0.0.1", s.tls_port), NULL), ZC_E_STORE);
    REQUIRE(rs_start_tls(&old, "server", "ca", "--tls-protocols", "TLSv1.2", NULL));
    CHECK_EQ(speaks_to(old.url, "ca.pem"), ZC_OK);
    rs_stop(&s);
    rs_stop(&old);
}

/* ---- what it survives */

TEST(large_values_pass) {
    redis_server s;
    side n;
    enum { SIZE = 20 << 20 };
    REQUIRE(serve(&s) && side_to(&n, &s));
    char *bytes = (char *)malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) bytes[i] = (char)(i * 2654435761u >> 24);
    /* Also around the size of a record of TLS. */
    static const size_t sizes[] = {1, 4095, 4096, 4097, 16383, 16384, 16385, 100000, SIZE};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK_EQ(put(&n, "k", zc_slice(bytes, sizes[i])), ZC_OK);
        CHECK_EQ(get(&n, "k", zc_slice(bytes, sizes[i])), ZC_OK);
    }
    free(bytes);
    side_close(&n);
    rs_stop(&s);
}

/* Between a client and a server: passes bytes of the server, up to a number, then cuts or stalls.
 * Without a server: says something itself, a byte now and then. */
typedef struct middle {
    int fd, port, target; /* target 0: nobody */
    size_t pass;
    bool stalls;
    uint32_t stop, cuts;
    pthread_t thread;
} middle;

static int middle_connect(int port) {
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_port = htons((uint16_t)port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) return -1;
    return fd;
}

/* False: no more of this connection. */
static bool middle_move(middle *m, int from, int to, size_t *left) {
    char bytes[4096];
    size_t most = left && *left < sizeof bytes ? *left : sizeof bytes;
    if (most == 0) return true; /* stalled */
    ssize_t n = recv(from, bytes, most, 0);
    if (n <= 0 || send(to, bytes, (size_t)n, MSG_NOSIGNAL) != n) return false;
    if (!left) return true;
    *left -= (size_t)n;
    if (*left == 0) __atomic_add_fetch(&m->cuts, 1, __ATOMIC_RELAXED);
    return *left > 0 || m->stalls;
}

static void middle_drip(middle *m, int client) {
    static const char record[] = {0x16, 3, 3, 0x40, 0, 2}; /* a long record of a handshake */
    for (size_t i = 0; !__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE); i++) {
        const char *byte = i < sizeof record ? &record[i] : "";
        if (send(client, byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) return;
        usleep(2000);
    }
}

static void middle_serve(middle *m, int client) {
    if (!m->target) {
        middle_drip(m, client);
        return;
    }
    int server = middle_connect(m->target);
    size_t left = m->pass;
    bool going = server >= 0;
    while (going && !__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
        struct pollfd p[2] = {{client, POLLIN, 0}, {left ? server : -1, POLLIN, 0}};
        if (poll(p, 2, 10) <= 0) continue;
        if (p[0].revents) going = middle_move(m, client, server, NULL);
        if (going && p[1].revents) going = middle_move(m, server, client, &left);
    }
    if (server >= 0) close(server);
}

static void *middle_run(void *user) {
    middle *m = (middle *)user;
    while (!__atomic_load_n(&m->stop, __ATOMIC_ACQUIRE)) {
        struct pollfd p = {m->fd, POLLIN, 0};
        if (poll(&p, 1, 10) <= 0) continue;
        int client = accept(m->fd, NULL, NULL);
        if (client < 0) continue;
        middle_serve(m, client);
        close(client);
    }
    return NULL;
}

static bool middle_listen(middle *m) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    memset(m, 0, sizeof *m);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    m->fd = socket(AF_INET, SOCK_STREAM, 0);
    bool good = m->fd >= 0 && bind(m->fd, (struct sockaddr *)&a, n) == 0 &&
                listen(m->fd, 16) == 0 && getsockname(m->fd, (struct sockaddr *)&a, &n) == 0;
    m->port = ntohs(a.sin_port);
    return CHECK(good);
}
static bool middle_start(middle *m) {
    return CHECK_EQ(pthread_create(&m->thread, NULL, middle_run, m), 0);
}
static void middle_stop(middle *m) {
    __atomic_store_n(&m->stop, 1, __ATOMIC_RELEASE);
    pthread_join(m->thread, NULL);
    close(m->fd);
}

TEST(a_handshake_has_a_deadline) {
    middle m;
    REQUIRE(rs_authority("ca"));
    REQUIRE(middle_listen(&m));
    CHECK_EQ(waits_for(m.port, "ca.pem"), ZC_E_TIMEOUT); /* accepted by the system, and silence */
    close(m.fd);
    REQUIRE(middle_listen(&m) && middle_start(&m));
    CHECK_EQ(waits_for(m.port, "ca.pem"), ZC_E_TIMEOUT); /* each byte comes in time */
    middle_stop(&m);
}

TEST(cut_or_stalled_anywhere) {
    redis_server s;
    REQUIRE(serve(&s));
    unsigned cut = 0, whole = 0, stalled = 0;
    for (size_t pass = 1; whole < 3 && CHECK(pass < 100000); pass += pass < 32 ? 3 : 149) {
        middle m;
        REQUIRE(middle_listen(&m));
        m.target = s.tls_port;
        m.pass = pass;
        m.stalls = pass % 7 == 0;
        REQUIRE(middle_start(&m));
        zc_redis_desc d = {.url = url_of("rediss", "127.0.0.1", m.port)};
        d.tls_ca = rs_tls_file("ca.pem");
        d.timeout = m.stalls ? BRIEF : 30 * ZC_SECOND;
        int rc = speaks(d);
        middle_stop(&m);
        if (m.cuts == 0) whole += CHECK_EQ(rc, ZC_OK);
        else if (m.stalls) stalled += CHECK(rc == ZC_E_TIMEOUT || rc == ZC_OK);
        else cut += CHECK(rc == ZC_E_STORE || rc == ZC_OK); /* OK: over the next connection */
    }
    CHECK(cut > 10 && stalled > 1);
    rs_stop(&s);
}

typedef struct waiter {
    side *n;
    uint64_t at;
    int rc;
} waiter;

static int hear(void *user, uint64_t position, const zc_bytes *tags, size_t count) {
    waiter *w = (waiter *)user;
    (void)tags, (void)count;
    CHECK_EQ(position, w->at + 1);
    w->at = position;
    return ZC_OK;
}
static void *wait_long(void *user) {
    waiter *w = (waiter *)user;
    zc_bus_sink sink = {hear, w};
    w->rc = w->n->bus.read(w->n->bus.user, w->at, 600 * ZC_SECOND, &sink);
    return NULL;
}

TEST(a_server_killed_while_a_read_waits) {
    redis_server s;
    side n;
    pthread_t t;
    uint64_t identity;
    REQUIRE(serve(&s) && side_to(&n, &s));
    waiter w = {&n, 0, 12345};
    CHECK_EQ(put(&n, "k", zc_str("v")), ZC_OK);
    CHECK_EQ(n.bus.attach(n.bus.user, &identity, &w.at), ZC_OK);
    pthread_create(&t, NULL, wait_long, &w);
    CHECK(rs_until(&s, "blocked_clients:1", "INFO", "clients"));
    rs_kill(&s);
    pthread_join(t, NULL);
    CHECK_EQ(w.rc, ZC_E_BUS);
    for (int i = 0; i < 3; i++) CHECK_EQ(get(&n, "k", zc_str("v")), ZC_E_STORE); /* no signal */
    CHECK(rs_again(&s) && rs_up(&s));
    while (put(&n, "k", zc_str("v")) != ZC_OK) usleep(1000);
    CHECK_EQ(n.bus.attach(n.bus.user, &identity, &w.at), ZC_OK);
    side_close(&n);
    rs_stop(&s);
}

/* What was sent after the other end has gone must not end the program. */
TEST(a_peer_that_vanished_raises_no_signal) {
    redis_server s;
    side n;
    REQUIRE(serve(&s) && side_to(&n, &s));
    CHECK_EQ(put(&n, "k", zc_str("v")), ZC_OK);
    zc__redis *r = (zc__redis *)n.st.user;
    for (unsigned i = 0; i < r->nconns; i++)
        if (r->conns[i].link) shutdown(((zc__redis_link *)r->conns[i].link)->ctx->fd, SHUT_RDWR);
    CHECK_EQ(get(&n, "k", zc_str("v")), ZC_OK); /* over another connection */
    side_close(&n);
    rs_stop(&s);
}

#if HIREDIS_MAJOR >= 1
TEST(resp3_is_spoken) {
    redis_server s;
    side n;
    REQUIRE(serve(&s) && side_to(&n, &s));
    CHECK_EQ(put(&n, "k", zc_str("v")), ZC_OK);
    CHECK(strstr(rs_say(&s, "CLIENT", "LIST", NULL), " resp=3"));
    side_close(&n);
    rs_stop(&s);
}
#endif
