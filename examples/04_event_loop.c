/* 04_event_loop: flights in pieces, for a program that must not block. One poll() loop, no threads;
 * the slow backend is a child process. The first caller of a key leads: it starts the backend, and
 * commits when the answer has come. Later callers follow, and are told when they can have it. */
#define _POSIX_C_SOURCE 200809L
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <poll.h>
#include <stdio.h>
typedef struct client {
    const char *name, *key, *command; /* the command computes the key's value */
    zc_fill *fill;
    FILE *backend; /* not NULL: leads */
} client;
#define CLIENTS 3
static client clients[CLIENTS] = {{"A", "slow", "sleep 0.5; echo 42", NULL, NULL},
                                  {"B", "quick", "sleep 0.1; echo 7", NULL, NULL},
                                  {"C", "slow", "echo never run", NULL, NULL}};
static client *told[CLIENTS]; /* followers whose flights have ended */
static int ntold;
static zc_cache *cache;
static void tell(void *user) { told[ntold++] = user; } /* runs inside the leader's commit */

static void begin(client *c) {
    zc_view v;
    int rc = zc_flight_begin(cache, zc_str(c->key), NULL, &v, &c->fill);
    printf("%s begins %s: %s\n", c->name, c->key, zc_result_name(rc));
    if (rc == ZC_LEAD && !(c->backend = popen(c->command, "r"))) exit(1);
    if (rc == ZC_FOLLOW) zc_flight_notify(c->fill, tell, c);
    zc_release(cache, &v);
}

static void end(client *c) {
    char line[32];
    zc_view v;
    if (c->backend && fgets(line, sizeof line, c->backend))
        zc_fill_value(c->fill, zc_slice(line, strcspn(line, "\n")));
    int rc = c->backend ? zc_flight_commit(c->fill, &v) : zc_flight_wait(c->fill, 0, &v);
    const char *text = rc == ZC_OK ? v.data : "";
    printf("%s: %s %.*s\n", c->name, zc_result_name(rc), (int)v.size, text);
    zc_release(cache, &v);
    if (c->backend) pclose(c->backend);
    c->backend = NULL;
}

int main(void) {
    if (zc_open(&(zc_desc){.no_thread = true}, &cache) != ZC_OK) return 1;
    for (int i = 0; i < CLIENTS; i++) begin(&clients[i]);
    while (clients[0].backend || clients[1].backend) {
        struct pollfd p[CLIENTS];
        for (int i = 0; i < CLIENTS; i++) /* poll() skips negative ones */
            p[i] = (struct pollfd){clients[i].backend ? fileno(clients[i].backend) : -1, POLLIN, 0};
        if (poll(p, CLIENTS, -1) < 0) return 1;
        for (int i = 0; i < CLIENTS; i++)
            if (p[i].revents) end(&clients[i]);
        while (ntold) end(told[--ntold]);
        zc_poll(cache, 500 * ZC_MICROSECOND); /* the cache's own work, for half a millisecond at most */
    }
    begin(&clients[0]); /* now a hit */
    zc_close(cache);
}
