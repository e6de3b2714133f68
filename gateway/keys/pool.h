/*
 * Memory for many equal items, found by their number. They stand in chunks that never move: growing copies nothing, so
 * memory never peaks at twice its size, and what points into a pool goes on pointing there.
 */
#ifndef KMSGATE_KEYS_POOL_H
#define KMSGATE_KEYS_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

#define POOL_NONE UINT32_MAX /* no item: places are kept in 32 bits */

struct pool {
    uint8_t **chunk;
    size_t chunks, slots; /* chunks there; room in the array of them */
    size_t n;             /* items in use */
    size_t item;          /* bytes */
    unsigned shift;       /* log2 of the items a chunk */
};

static inline void *pool_at(const struct pool *p, size_t i)
{
    return p->chunk[i >> p->shift] + (i & (((size_t)1 << p->shift) - 1)) * p->item;
}
/* Room for so many items in all; false when out of memory, or beyond POOL_NONE. */
bool pool_reserve(struct pool *p, size_t items);
/* Of a pool of bytes: adds a copy, *at is where it begins. It does not cross the end of a chunk, and nor do the first
 * `least` bytes from there, if it has fewer. False when out of memory. */
bool pool_add_text(struct pool *p, struct str s, size_t least, uint32_t *at);
void pool_free(struct pool *p);

#endif
