#include "base/heap.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/block.h"

enum {
    KEEP_BYTES = 8 << 20, /* free at the heap's end before it is given back */
    PAD_BYTES = 1 << 20,  /* asked for beyond what is due */
    BLOCK_BYTES = 2 << 20, /* what some hundred exchanges hold, a thread */
    MAP_BYTES = 1 << 20,  /* as large as a reply may be by default: larger blocks are pages of their own */
};

/* Whether blocks come from the C library itself. Another allocator that was put before it keeps what is given back as
 * it thinks best; or it is a test's, and lets each call fail in turn. */
static bool heap_is_own(void)
{
    Dl_info blocks, library;
    return dladdr((void *)malloc, &blocks) && dladdr((void *)malloc_info, &library) &&
           blocks.dli_fbase == library.dli_fbase;
}

void heap_setup(void)
{
    (void)mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
    (void)mallopt(M_TOP_PAD, PAD_BYTES);
    (void)mallopt(M_MMAP_THRESHOLD, MAP_BYTES);
    if (heap_is_own())
        block_keep(BLOCK_BYTES);
}
