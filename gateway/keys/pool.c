#include "keys/pool.h"

#include <stdlib.h>

bool pool_reserve(struct pool *p, size_t items)
{
    size_t want = (items + ((size_t)1 << p->shift) - 1) >> p->shift;
    if (items > POOL_NONE)
        return false;
    if (want > p->slots) {
        size_t slots = p->slots ? p->slots : 8;
        while (slots < want)
            slots *= 2;
        uint8_t **chunk = realloc(p->chunk, slots * sizeof *chunk);
        if (!chunk)
            return false;
        p->chunk = chunk;
        p->slots = slots;
    }
    for (; p->chunks < want; p->chunks++) {
        p->chunk[p->chunks] = malloc(p->item << p->shift);
        if (!p->chunk[p->chunks])
            return false;
    }
    return true;
}

void pool_free(struct pool *p)
{
    for (size_t i = 0; i < p->chunks; i++)
        free(p->chunk[i]);
    free(p->chunk);
}
