#include "base/heap.h"

#include <malloc.h>

#include "base/block.h"

enum {
    KEEP_BYTES = 8 << 20, /* free at the heap's end before it is given back */
    PAD_BYTES = 1 << 20,  /* asked for beyond what is due */
    BLOCK_BYTES = 2 << 20, /* what some hundred exchanges hold, a thread */
    MAP_BYTES = 1 << 20,  /* as large as a reply may be by default: larger blocks are pages of their own */
};

void heap_setup(void)
{
    (void)mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
    (void)mallopt(M_TOP_PAD, PAD_BYTES);
    (void)mallopt(M_MMAP_THRESHOLD, MAP_BYTES);
#ifndef KMSGATE_TRACED /* a sanitizer sees more of blocks that are freed, and a test that lets each one fail */
    block_keep(BLOCK_BYTES);
#endif
}
