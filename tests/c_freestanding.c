/* Compiled, not run: without threads, LZ4 and the C library's heap and clocks: the caller supplies
 * a block, a clock, and what to do on a broken assertion. */
#define ZOOCACHE_NO_STDLIB
#define ZOOCACHE_NO_THREADS
#define ZOOCACHE_NO_LZ4
void board_halt(void);
#define ZOOCACHE_ASSERT(x) ((x) ? (void)0 : board_halt())
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
