/* Runs before main. Left to itself, glibc takes each large block that is freed as a reason to keep the next ones: what
 * making one index needed for a second would stay with the process for ever. See docs/decisions. */
#include <malloc.h>

/* Blocks of this size and above go back to the system when they are freed. */
#define MAPPED_BYTES (1024 * 1024)
/* What may lie idle at the end of an arena. */
#define IDLE_BYTES (256 * 1024)
/* Arenas: as many threads allocate much. */
#define ARENAS 4

__attribute__((constructor)) static void tarn_set_up_malloc(void) {
    mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
    mallopt(M_TRIM_THRESHOLD, IDLE_BYTES);
    mallopt(M_ARENA_MAX, ARENAS);
}
