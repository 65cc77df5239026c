/* 05_textures: a game's textures as objects in one fixed block of memory: no threads; no malloc (it
 * would abort); a clock that counts frames; a little housekeeping in each frame. A texture that was
 * not drawn for three frames is dropped; the next level drops those of the one before. */
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_NO_LZ4
#define ZOOCACHE_MALLOC(size) (abort(), (void *)(size))
#define ZOOCACHE_FREE(ptr) ((void)(ptr), abort())
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
#include <stdio.h>
#include <stdlib.h>
#define FRAME ZC_SECOND /* the unit is ours to choose */
#define SLOTS 8         /* for textures that the cache keeps, and those being drawn */
static struct texture { int id; } slots[SLOTS]; /* 0: free */
static int frame, loaded, dropped;
static unsigned char block[64 * 1024]; /* 64 KiB: the cache and all that it ever needs */

static uint64_t frames(void *user) { return (void)user, (uint64_t)frame * FRAME; }
static void drop(void *user, void *object, size_t size) {
    (void)user, (void)size, dropped++;
    ((struct texture *)object)->id = 0;
}

static int load(zc_fill *fill, void *user) {
    int id = *(int *)user, i = 0;
    while (i < SLOTS && slots[i].id) i++;
    if (i == SLOTS) return ZC_E_USER;
    slots[i].id = id, loaded++;
    zc_fill_dep(fill, zc_str(id < 10 ? "level:1" : "level:2"));
    return zc_fill_object(fill, &slots[i], sizeof slots[i], drop, NULL);
}

int main(void) {
    static int scenes[8][3] = {{1, 2, 3}, {1, 2, 4}, {1, 4, 1},    {1, 4, 1},
                               {1, 4, 1}, {1, 4, 1}, {11, 12, 13}, {11, 12, 13}};
    zc_desc desc = {.block = block, .block_size = sizeof block, .max_entries = 4};
    desc.tti = 3 * FRAME;
    desc.clock = (zc_clock){1, frames, frames, NULL};
    zc_cache *cache;
    zc_stats st;
    zc_view view[3]; /* what is drawn is pinned until the end of its frame */
    if (zc_open(&desc, &cache) != ZC_OK) return 1;
    for (frame = 1; frame <= 8; frame++) {
        int *ids = scenes[frame - 1];
        if (frame == 7) zc_invalidate(cache, zc_str("level:1"));
        /* The clock stands still within a frame, so the budget is in steps: 0 us is one step. */
        for (int step = 0; step < 16 && zc_poll(cache, 0) == ZC_MORE; step++) {}
        for (int i = 0; i < 3; i++) {
            zc_bytes key = zc_slice(&ids[i], sizeof ids[i]);
            if (zc_fetch(cache, key, load, &ids[i], NULL, &view[i]) != ZC_OK) return 1;
            if (((const struct texture *)view[i].data)->id != ids[i]) return 1;
        }
        for (int i = 0; i < 3; i++) zc_release(cache, &view[i]);
        zc_stats_read(cache, &st);
        printf("%d: %d loaded, %d dropped, %zu kept\n", frame, loaded, dropped, st.entries);
    }
    zc_close(cache); /* drops the rest */
    printf("at the end: %d loaded, %d dropped\n", loaded, dropped);
    return loaded != dropped;
}
