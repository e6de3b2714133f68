/*
 * A token that is written in the source, compared in place: a few bytes' comparison is left of the call.
 */
#ifndef KMSGATE_BASE_TOKEN_H
#define KMSGATE_BASE_TOKEN_H

#include "base/str.h"

/* True when the n bytes at p begin with the token. Not for secrets. */
static inline __attribute__((always_inline)) bool token_at(const char *p, size_t n, struct str token)
{
    return n >= token.n && short_equal(p, token.p, token.n);
}

#endif
