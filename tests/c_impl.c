/* Compiled, not run: the implementation alone, by every compiler, standard and option, as C and as
 * C++ (tests/matrix.sh). */
#define ZOOCACHE_IMPLEMENTATION
#include "zoocache.h"
