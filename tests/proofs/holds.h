/* What the programs of the proofs share: what must hold is said on standard output, and the first that does not ends
 * it. */
#ifndef PROOFS_HOLDS_H
#define PROOFS_HOLDS_H

#include <stdio.h>
#include <stdlib.h>

static inline void say_bytes(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] >= 0x20 && p[i] < 0x7f && p[i] != '\\')
            putchar(p[i]);
        else
            printf("\\x%02x", (unsigned char)p[i]);
    }
}

#define holds(condition, bytes, n) \
    ((condition) ? (void)0 : (printf("`%s` does not hold of: ", #condition), say_bytes(bytes, n), putchar('\n'), \
                              exit(1)))

#endif
