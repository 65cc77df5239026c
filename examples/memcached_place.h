/* memcached_place.h: fills zc_place with Memcached's text protocol, over a Unix socket. One server,
 * and no other takes its place when it is down: else the log would be in two places. */
#ifndef MEMCACHED_PLACE_H
#define MEMCACHED_PLACE_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define MC_IDLE 16

typedef struct mc_conn {
    int fd;
    char in[16384]; /* what was received, and */
    size_t at, end; /*   how much of it is still to be read */
} mc_conn;

typedef struct mc_pool {
    struct sockaddr_un address;
    pthread_mutex_t lock;
    mc_conn *idle[MC_IDLE];
    unsigned n;
} mc_pool;

/* A connection that is idle, or a new one. NULL: the server cannot be reached. */
static mc_conn *mc_take(mc_pool *m) {
    struct timeval timeout = {.tv_usec = 250000};
    pthread_mutex_lock(&m->lock);
    mc_conn *c = m->n ? m->idle[--m->n] : NULL;
    pthread_mutex_unlock(&m->lock);
    if (c || !(c = (mc_conn *)calloc(1, sizeof *c))) return c;
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (c->fd >= 0 && connect(c->fd, (struct sockaddr *)&m->address, sizeof m->address) == 0 &&
        setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0 &&
        setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0)
        return c;
    if (c->fd >= 0) close(c->fd);
    free(c);
    return NULL;
}

/* Gives it back; after a failure it is closed, for a late answer may follow. */
static int mc_give(mc_pool *m, mc_conn *c, int rc) {
    pthread_mutex_lock(&m->lock);
    bool keep = rc >= 0 && m->n < MC_IDLE;
    if (keep) m->idle[m->n++] = c;
    pthread_mutex_unlock(&m->lock);
    if (keep) return rc;
    close(c->fd);
    free(c);
    return rc;
}

static bool mc_send(mc_conn *c, const void *data, size_t len) {
    const char *p = (const char *)data;
    for (ssize_t n; len; p += n, len -= (size_t)n)
        if ((n = send(c->fd, p, len, MSG_NOSIGNAL)) <= 0) return false;
    return true;
}

/* False: nothing came in time. */
static bool mc_fill(mc_conn *c) {
    if (c->at < c->end) return true;
    ssize_t n = recv(c->fd, c->in, sizeof c->in, 0);
    c->at = 0;
    c->end = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static bool mc_line(mc_conn *c, char *to, size_t cap) {
    for (size_t n = 0; n < cap && mc_fill(c); n++) {
        to[n] = c->in[c->at++];
        if (n == 0 || to[n] != '\n' || to[n - 1] != '\r') continue;
        to[n - 1] = '\0';
        return true;
    }
    return false;
}

/* Sends a command, with a value if it has one. Its answer is one line. */
static int mc_command(mc_conn *c, const char *command, const zc_bytes *value, char answer[512]) {
    bool sent = mc_send(c, command, strlen(command)) &&
                (!value || (mc_send(c, value->ptr, value->len) && mc_send(c, "\r\n", 2)));
    return sent && mc_line(c, answer, 512) ? ZC_OK : ZC_E_TIMEOUT;
}

/* A value, and, if they are asked for, the number by which it is known. */
static int mc_fetch(mc_pool *m, zc_bytes key, zc_sink *value, zc_sink *token) {
    char text[512];
    unsigned long long size = 0, cas = 0;
    mc_conn *c = mc_take(m);
    if (!c) return ZC_E_STORE;
    snprintf(text, sizeof text, "gets %.*s\r\n", (int)key.len, (const char *)key.ptr);
    int rc = mc_command(c, text, NULL, text);
    if (rc != ZC_OK) return mc_give(m, c, rc);
    if (strcmp(text, "END") == 0) return mc_give(m, c, ZC_MISS);
    if (sscanf(text, "VALUE %*s %*u %llu %llu", &size, &cas) != 2) return mc_give(m, c, ZC_E_STORE);
    while (size && rc == ZC_OK && mc_fill(c)) {
        size_t n = c->end - c->at < size ? c->end - c->at : (size_t)size;
        rc = zc_sink_write(value, c->in + c->at, n);
        c->at += n;
        size -= n;
    }
    if (rc == ZC_OK && (size || !mc_line(c, text, 512) || !mc_line(c, text, 512))) rc = ZC_E_TIMEOUT;
    if (rc == ZC_OK && token) rc = zc_sink_write(token, &cas, sizeof cas);
    return mc_give(m, c, rc);
}

/* "set", "add" or "cas". ZC_MISS: it was not stored, because of what is there. */
static int mc_store(mc_pool *m, const char *how, zc_bytes key, zc_bytes value, uint64_t seconds,
                    const unsigned long long *cas) {
    char text[512], number[32] = "";
    mc_conn *c = mc_take(m);
    if (!c) return ZC_E_STORE;
    if (cas) snprintf(number, sizeof number, " %llu", *cas);
    snprintf(text, sizeof text, "%s %.*s 0 %llu %zu%s\r\n", how, (int)key.len,
             (const char *)key.ptr, (unsigned long long)seconds, value.len, number);
    int rc = mc_command(c, text, &value, text);
    if (rc == ZC_OK && strcmp(text, "STORED") != 0)
        rc = strstr("NOT_STORED EXISTS NOT_FOUND", text) ? ZC_MISS : ZC_E_STORE;
    return mc_give(m, c, rc);
}

static int mc_get(void *user, zc_bytes key, zc_sink *sink) {
    return mc_fetch((mc_pool *)user, key, sink, NULL);
}
static int mc_put(void *user, zc_bytes key, zc_bytes value, uint64_t expires_ms) {
    return mc_store((mc_pool *)user, "set", key, value, (expires_ms + 999) / 1000, NULL);
}
static int mc_del(void *user, zc_bytes key) {
    char text[512];
    mc_conn *c = mc_take((mc_pool *)user);
    if (!c) return ZC_E_STORE;
    snprintf(text, sizeof text, "delete %.*s\r\n", (int)key.len, (const char *)key.ptr);
    return mc_give((mc_pool *)user, c, mc_command(c, text, NULL, text));
}
static int mc_read(void *user, zc_bytes key, zc_sink *value, zc_sink *token) {
    return mc_fetch((mc_pool *)user, key, value, token);
}
static int mc_swap(void *user, zc_bytes key, zc_bytes value, zc_bytes token) {
    unsigned long long cas;
    if (token.len != sizeof cas) return mc_store((mc_pool *)user, "add", key, value, 0, NULL);
    memcpy(&cas, token.ptr, sizeof cas);
    return mc_store((mc_pool *)user, "cas", key, value, 0, &cas);
}

/* In the child: the connections are the parent's; so are their places in memory. */
static void mc_forked(void *user) {
    mc_pool *m = (mc_pool *)user;
    pthread_mutex_init(&m->lock, NULL);
    for (; m->n; free(m->idle[m->n])) close(m->idle[--m->n]->fd);
}
static void mc_close(void *user) {
    mc_forked(user);
    free(user);
}

/* The place in the server that listens at `path`. False: no memory. */
static bool memcached_place(const char *path, zc_place *place) {
    mc_pool *m = (mc_pool *)calloc(1, sizeof *m);
    zc_place p = {.version = 1, .get = mc_get, .put = mc_put, .del = mc_del, .read = mc_read,
                  .swap = mc_swap, .forked = mc_forked, .close = mc_close, .user = m};
    if (!m || strlen(path) >= sizeof m->address.sun_path) return false;
    m->address.sun_family = AF_UNIX;
    strcpy(m->address.sun_path, path);
    pthread_mutex_init(&m->lock, NULL);
    *place = p;
    return true;
}

#endif
