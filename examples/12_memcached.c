/* 12_memcached: eight processes share one memcached, which has no log and no subscriptions, only
 * "store this if nobody was faster". zc_place_open() makes of that a storage and a bus: what one of
 * them has computed the others find, and what one invalidates they all hear. memcached_place.h
 * fills zc_place. */
#define _GNU_SOURCE
#define ZOOCACHE_WITH_BUS
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include "memcached_place.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { PROCESSES = 8, ROUNDS = 60 };

static char socket_path[] = "/tmp/zoocache_12.XXXXXX/socket";

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static zc_cache *open_cache(void) {
    zc_place_desc place = {.prefix = "example"};
    zc_desc desc = {.max_staleness = 2 * ZC_SECOND};
    zc_cache *cache;
    if (!memcached_place(socket_path, &place.place)) exit(1);
    if (zc_place_open(&place, &desc.store, &desc.bus) != ZC_OK) exit(1);
    if (zc_open(&desc, &cache) != ZC_OK) exit(1);
    return cache;
}

static int load(zc_fill *fill, void *user) {
    *(bool *)user = true;
    zc_fill_dep(fill, zc_str("page"));
    return zc_fill_value(fill, zc_str("a page"));
}

/* The first one computes a value and leaves; the second finds it, and invalidates it. */
static void share(void) {
    for (int i = 0; i < 3; i++) {
        zc_cache *cache = open_cache();
        zc_view view;
        bool loads = false;
        if (zc_fetch(cache, zc_str("page"), load, &loads, NULL, &view) != ZC_OK) exit(1);
        printf("%s\n", loads ? "computes the page" : "finds the page that another has computed");
        zc_release(cache, &view);
        if (i == 1 && zc_invalidate(cache, zc_str("page")) != ZC_OK) exit(1);
        zc_close(cache);
    }
}

/* Invalidates, some 60 times a second, until all have heard all. Exit status 1: something was lost. */
static int work(int ready, int start) {
    zc_cache *cache = open_cache();
    zc_stats stats;
    char go;
    if (write(ready, "r", 1) != 1 || read(start, &go, 1) != 1) return 1;
    for (int i = 0; i < ROUNDS; i++) {
        while (zc_invalidate(cache, zc_str("user:42")) != ZC_OK) {} /* it is kept, too */
        sleep_ms(16);
    }
    do zc_stats_read(cache, &stats), sleep_ms(10);
    while (stats.bus_entries < PROCESSES * ROUNDS && !stats.bus_breaks);
    if (write(ready, "h", 1) != 1 || read(start, &go, 1) != 1) return 1; /* all have */
    zc_close(cache);
    return stats.bus_breaks != 0;
}

/* Eight times `what`, from each; then tells each to go on. */
static void meet(int from, int to) {
    char c;
    for (int i = 0; i < PROCESSES; i++)
        if (read(from, &c, 1) != 1) exit(1);
    for (int i = 0; i < PROCESSES; i++)
        if (write(to, "g", 1) != 1) exit(1);
}

int main(void) {
    char *slash = strrchr(socket_path, '/');
    *slash = '\0';
    if (!mkdtemp(socket_path)) return 1;
    *slash = '/';
    pid_t server = fork();
    if (server == 0) {
        execlp("memcached", "memcached", "-s", socket_path, "-m", "16", "-u", "root", (char *)NULL);
        _exit(127);
    }
    zc_place place;
    if (!memcached_place(socket_path, &place)) return 1;
    while (place.del(place.user, zc_str("any")) < 0) { /* until it answers */
        if (waitpid(server, NULL, WNOHANG) != 0) return 77; /* memcached is not installed */
        sleep_ms(10);
    }
    place.close(place.user);
    share();
    int ready[2], start[2], status, failed = 0;
    if (pipe(ready) != 0 || pipe(start) != 0) return 1;
    for (int i = 0; i < PROCESSES; i++)
        if (fork() == 0) _exit(work(ready[1], start[0]));
    meet(ready[0], start[1]);
    meet(ready[0], start[1]);
    for (int i = 0; i < PROCESSES; i++) {
        wait(&status);
        failed += status != 0;
    }
    printf("%d processes, %d invalidations: %s\n", PROCESSES, PROCESSES * ROUNDS,
           failed ? "some were lost" : "each has heard all, without a break");
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
    unlink(socket_path);
    *slash = '\0';
    return rmdir(socket_path) != 0 || failed;
}
