/* 13_firmware: what a microcontroller does that asks slow sensors on a bus: each reading is kept for
 * a second, and all of a sensor's are dropped when it is calibrated. One block of memory, a clock
 * that an interrupt ticks, and of the C library nothing but the five functions that the manual
 * names. It also runs on a desk: only board_print() and board_halt() differ. */
#define ZOOCACHE_NO_STDLIB
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_NO_STORE
#define ZOOCACHE_NO_TEXT
void board_print(const char *text);
void board_halt(const char *why);
#define ZOOCACHE_ASSERT(x) ((x) ? (void)0 : board_halt(#x))
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"

#if __STDC_HOSTED__
#  include <stdio.h>
#  include <stdlib.h>
void board_print(const char *text) { fputs(text, stdout); }
void board_halt(const char *why) { board_print(why), abort(); }
#endif

static unsigned char block[8 * 1024];
static uint64_t ticks; /* of a millisecond */
static int asked;      /* how often the bus was used */

static uint64_t now(void *user) { return (void)user, ticks * ZC_MILLISECOND; }

static int ask(zc_fill *fill, void *user) {
    const int *sensor = (const int *)user;
    int reading = 20 + *sensor + asked++;
    zc_fill_dep(fill, *sensor ? zc_str("sensor:outside") : zc_str("sensor:inside"));
    return zc_fill_value(fill, zc_slice(&reading, sizeof reading));
}

static void show(zc_cache *cache, int sensor) {
    static char line[] = "sensor 0: 00 degrees, the bus was used 0 times\n";
    zc_view v;
    int reading;
    if (zc_fetch(cache, zc_slice(&sensor, sizeof sensor), ask, &sensor, NULL, &v) != ZC_OK)
        board_halt("no reading");
    memcpy(&reading, v.data, sizeof reading);
    zc_release(cache, &v);
    line[7] = (char)('0' + sensor);
    line[10] = (char)('0' + reading / 10);
    line[11] = (char)('0' + reading % 10);
    line[39] = (char)('0' + asked);
    board_print(line);
}

int main(void) {
    static const zc_desc desc = {.block = block, .block_size = sizeof block, .max_entries = 8,
                                 .ttl = ZC_SECOND, .clock = {1, now, now, NULL}};
    zc_cache *cache;
    if (zc_open(&desc, &cache) != ZC_OK) board_halt("the block is too small");
    show(cache, 0);
    show(cache, 1);
    show(cache, 0); /* kept */
    zc_invalidate(cache, zc_str("sensor:outside"));
    show(cache, 0);
    show(cache, 1); /* asked anew */
    ticks += 1000;
    zc_poll(cache, ZC_MILLISECOND);
    show(cache, 0); /* older than a second */
    zc_close(cache);
    return 0;
}
