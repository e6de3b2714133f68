#include "keys/pool.h"

#include <stdlib.h>
#include <string.h>

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

bool pool_add_text(struct pool *p, struct str s, size_t least, uint32_t *at)
{
    const size_t chunk = (size_t)1 << p->shift, n = s.n < least ? least : s.n;
    size_t begin = p->n;
    if ((begin & (chunk - 1)) + n > chunk)
        begin = (begin | (chunk - 1)) + 1;
    if (!pool_reserve(p, begin + n))
        return false;
    memcpy(pool_at(p, begin), s.p, s.n);
    *at = (uint32_t)begin;
    p->n = begin + s.n;
    return true;
}

void pool_free(struct pool *p)
{
    for (size_t i = 0; i < p->chunks; i++)
        free(p->chunk[i]);
    free(p->chunk);
}
