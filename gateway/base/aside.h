/*
 * For the allocators of libraries, whose blocks may be the C library's, locked.h's or spare.h's: which it is of the
 * last two.
 */
#ifndef KMSGATE_BASE_ASIDE_H
#define KMSGATE_BASE_ASIDE_H

#include "base/locked.h"
#include "base/spare.h"

/* How long it is at least; 0: it is neither's. */
static inline size_t aside_size(const void *p)
{
    return locked_owns(p) ? locked_size(p) : spare_owns(p) ? spare_size(p) : 0;
}

/* Wipes it and gives it back. False: it is neither's. */
static inline bool aside_give(void *p)
{
    if (locked_owns(p))
        locked_free(p);
    else if (spare_owns(p))
        spare_give(p);
    else
        return false;
    return true;
}

#endif
