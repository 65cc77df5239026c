/* chaos_proxy.h: a network of TCP links that can be cut, refused, stalled, muted and delayed. One
 * process moves the bytes; who shares its memory steers it. Include it after redis_server.h. */
#ifndef CHAOS_PROXY_H
#define CHAOS_PROXY_H

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { LINK_OPEN, LINK_REFUSED, LINK_STALLED, LINK_MUTE }; /* mute: requests pass, replies do not */

typedef struct net_link {
    int port, listener;
    _Atomic int target; /* the port that new connections are led to; old ones stay where they are */
    _Atomic int mode;
    _Atomic unsigned cuts;  /* a change ends all connections */
    _Atomic unsigned delay; /* microseconds that each chunk waits; as much again at random */
    _Atomic unsigned loss;  /* of 1000 chunks, how many wait for a retransmission of 200 ms */
} net_link;

typedef struct net_pipe {
    int from, to;
    size_t at, len;
    uint64_t due;
    char buf[16384];
} net_pipe;

typedef struct net_conn {
    net_link *link; /* NULL: free */
    unsigned cuts;
    net_pipe up, down;
} net_conn;

#define NET_CONNS 384

static inline uint64_t net_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static inline bool net_listen(net_link *l) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->listener < 0 || bind(l->listener, (struct sockaddr *)&a, n) != 0) return false;
    if (getsockname(l->listener, (struct sockaddr *)&a, &n) != 0) return false;
    l->port = ntohs(a.sin_port);
    return listen(l->listener, 128) == 0;
}

static inline void net_close(net_conn *c) {
    close(c->up.from);
    close(c->up.to);
    c->link = NULL;
}

static inline void net_accept(net_link *l, net_conn *conns) {
    int fd = accept4(l->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    net_conn *c = conns;
    while (c < conns + NET_CONNS && c->link) c++;
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)atomic_load(&l->target));
    int to = -1;
    if (c < conns + NET_CONNS && atomic_load(&l->mode) != LINK_REFUSED)
        to = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (to < 0 || (connect(to, (struct sockaddr *)&a, sizeof a) != 0 && errno != EINPROGRESS)) {
        close(fd);
        if (to >= 0) close(to);
        return;
    }
    memset(&c->up, 0, offsetof(net_pipe, buf));
    memset(&c->down, 0, offsetof(net_pipe, buf));
    c->up.from = c->down.to = fd;
    c->up.to = c->down.from = to;
    c->cuts = atomic_load(&l->cuts);
    c->link = l;
}

/* False: the connection is over. */
static inline bool net_move(net_conn *c, net_pipe *p, bool ready, uint64_t now, uint64_t *random) {
    if (p->len == 0 && ready) {
        ssize_t n = recv(p->from, p->buf, sizeof p->buf, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return false;
        if (n < 0) return true;
        unsigned delay = atomic_load(&c->link->delay), loss = atomic_load(&c->link->loss);
        *random = *random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        unsigned dice = (unsigned)(*random >> 33);
        p->at = 0;
        p->len = (size_t)n;
        p->due = now + (delay ? delay + dice % delay : 0) * UINT64_C(1000);
        if (dice % 1000 < loss) p->due += UINT64_C(200000000);
    }
    if (p->len == 0 || p->due > now) return true;
    ssize_t n = send(p->to, p->buf + p->at, p->len, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == ENOTCONN;
    p->at += (size_t)n;
    p->len -= (size_t)n;
    return true;
}

/* Moves bytes until it is killed. */
static inline void net_run(net_link *links, int nlinks, uint64_t random) {
    static net_conn conns[NET_CONNS];
    static struct pollfd fds[NET_CONNS * 2 + 64];
    for (;;) {
        bool busy = false;
        int n = 0;
        for (int i = 0; i < nlinks; i++, n++) fds[n].fd = links[i].listener, fds[n].events = POLLIN;
        for (net_conn *c = conns; c < conns + NET_CONNS; c++, n += 2) {
            int mode = c->link ? atomic_load(&c->link->mode) : LINK_STALLED;
            bool up = mode == LINK_OPEN || mode == LINK_MUTE, down = mode == LINK_OPEN;
            busy |= c->link && ((up && c->up.len) || (down && c->down.len));
            fds[n].fd = up && !c->up.len ? c->up.from : -1;
            fds[n + 1].fd = down && !c->down.len ? c->down.from : -1;
            fds[n].events = fds[n + 1].events = POLLIN;
        }
        if (poll(fds, (nfds_t)n, busy ? 1 : 5) < 0) continue;
        uint64_t now = net_now();
        n = nlinks;
        for (net_conn *c = conns; c < conns + NET_CONNS; c++, n += 2) {
            if (!c->link) continue;
            int mode = atomic_load(&c->link->mode);
            bool good = mode != LINK_REFUSED && c->cuts == atomic_load(&c->link->cuts);
            if (good && (mode == LINK_OPEN || mode == LINK_MUTE))
                good = net_move(c, &c->up, fds[n].fd >= 0 && fds[n].revents, now, &random);
            if (good && mode == LINK_OPEN)
                good =
                    net_move(c, &c->down, fds[n + 1].fd >= 0 && fds[n + 1].revents, now, &random);
            if (!good) net_close(c);
        }
        for (int i = 0; i < nlinks; i++)
            if (fds[i].revents) net_accept(&links[i], conns);
    }
}

#endif
