/* hostile_server.h: a scripted TCP server for tests: a thread that answers each connection with
 * what it is told to, whatever it is asked. Include it after zc_test.h.
 *
 *   hostile_server h;
 *   hs_start(&h, step, user);    step(user, &asked, out): called for each command received
 *   h.port
 *   hs_stop(&h);
 *
 * A step looks at asked->argv[0..argc) (a copy, NUL-terminated) and appends to `out` with hs_say();
 * it returns HS_GO_ON, or HS_CUT: what was said is sent, then the connection is closed; or HS_STALL:
 * it is sent, and no more ever. hs_handshake() answers as an honest server does while a client
 * introduces itself. Up to HS_CLIENTS connections are served. */
#ifndef HOSTILE_SERVER_H
#define HOSTILE_SERVER_H

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define HS_CLIENTS 16

typedef enum hs_next { HS_GO_ON, HS_CUT, HS_STALL } hs_next;

typedef struct hs_out {
    char *text;
    size_t len, cap;
} hs_out;

typedef hs_next (*hs_step)(void *user, int argc, const char *const *argv, hs_out *out);

typedef struct hs_client {
    int fd; /* -1: none */
    bool stalled;
    redisReader *in;
} hs_client;

typedef struct hostile_server {
    int fd, port;
    uint32_t stop;
    hs_step step;
    void *user;
    pthread_t thread;
    hs_client clients[HS_CLIENTS];
} hostile_server;

static inline void hs_say_bytes(hs_out *o, const void *text, size_t n) {
    if (n == 0) return;
    if (o->len + n > o->cap) {
        o->cap = (o->len + n) * 2;
        o->text = (char *)realloc(o->text, o->cap);
    }
    memcpy(o->text + o->len, text, n);
    o->len += n;
}
static inline void hs_say(hs_out *o, const char *text) { hs_say_bytes(o, text, strlen(text)); }
static inline void hs_bulk(hs_out *o, const char *text) {
    char head[32];
    snprintf(head, sizeof head, "$%zu\r\n", strlen(text));
    hs_say(o, head);
    hs_say(o, text);
    hs_say(o, "\r\n");
}

/* INFO and SCRIPT LOAD, answered; HELLO, as by a server that is too old for it; false: something
 * else was asked. */
static inline bool hs_handshake(int argc, const char *const *argv, hs_out *o) {
    if (argc == 2 && strcmp(argv[0], "INFO") == 0) {
        hs_bulk(o, "# Server\r\nrun_id:0123456789\r\nrole:master\r\nmin_slaves_good_slaves:1\r\n");
    } else if (argc == 3 && strcmp(argv[0], "SCRIPT") == 0) {
        hs_bulk(o, "0123456789012345678901234567890123456789");
    } else if (argc == 2 && strcmp(argv[0], "HELLO") == 0) {
        hs_say(o, "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n");
    } else {
        return false;
    }
    return true;
}

static inline void hs_close(hs_client *c) {
    if (c->fd < 0) return;
    close(c->fd);
    redisReaderFree(c->in);
    c->fd = -1;
}

static inline void hs_answer(hostile_server *h, hs_client *c, const redisReply *asked) {
    const char *argv[64];
    int argc = 0;
    hs_out out = {NULL, 0, 0};
    for (size_t i = 0; i < asked->elements && i < 64; i++) argv[argc++] = asked->element[i]->str;
    hs_next next = argc ? h->step(h->user, argc, argv, &out) : HS_CUT;
    for (size_t at = 0; at < out.len;) {
        ssize_t n = send(c->fd, out.text + at, out.len - at, MSG_NOSIGNAL);
        if (n <= 0) break;
        at += (size_t)n;
    }
    free(out.text);
    if (next == HS_CUT) hs_close(c);
    if (next == HS_STALL) c->stalled = true;
}

static inline void hs_serve(hostile_server *h, hs_client *c) {
    char bytes[16384];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n <= 0 || c->stalled) {
        if (n <= 0) hs_close(c);
        return;
    }
    redisReaderFeed(c->in, bytes, (size_t)n);
    for (void *asked = NULL; c->fd >= 0 && !c->stalled; asked = NULL) {
        if (redisReaderGetReply(c->in, &asked) != REDIS_OK || !asked) break;
        hs_answer(h, c, (const redisReply *)asked);
        freeReplyObject(asked);
    }
}

static inline void *hs_run(void *user) {
    hostile_server *h = (hostile_server *)user;
    while (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE)) {
        struct pollfd p[HS_CLIENTS + 1];
        p[0].fd = h->fd;
        p[0].events = POLLIN;
        for (int i = 0; i < HS_CLIENTS; i++) {
            p[i + 1].fd = h->clients[i].fd;
            p[i + 1].events = POLLIN;
        }
        if (poll(p, HS_CLIENTS + 1, 10) <= 0) continue;
        for (int i = 0; i < HS_CLIENTS; i++)
            if (p[i + 1].fd >= 0 && p[i + 1].revents) hs_serve(h, &h->clients[i]);
        for (int i = 0; i < HS_CLIENTS && (p[0].revents & POLLIN); i++) {
            hs_client *c = &h->clients[i];
            if (c->fd >= 0) continue;
            c->fd = accept(h->fd, NULL, NULL);
            c->stalled = false;
            if (c->fd >= 0) c->in = redisReaderCreate();
            break;
        }
    }
    return NULL;
}

static inline bool hs_start(hostile_server *h, hs_step step, void *user) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    memset(h, 0, sizeof *h);
    memset(&a, 0, sizeof a);
    h->step = step;
    h->user = user;
    for (int i = 0; i < HS_CLIENTS; i++) h->clients[i].fd = -1;
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    h->fd = socket(AF_INET, SOCK_STREAM, 0);
    bool good = h->fd >= 0 && bind(h->fd, (struct sockaddr *)&a, n) == 0 &&
                listen(h->fd, 16) == 0 && getsockname(h->fd, (struct sockaddr *)&a, &n) == 0;
    h->port = ntohs(a.sin_port);
    return CHECK(good && pthread_create(&h->thread, NULL, hs_run, h) == 0);
}

static inline void hs_stop(hostile_server *h) {
    __atomic_store_n(&h->stop, 1, __ATOMIC_RELEASE);
    pthread_join(h->thread, NULL);
    for (int i = 0; i < HS_CLIENTS; i++) hs_close(&h->clients[i]);
    close(h->fd);
}

#endif
