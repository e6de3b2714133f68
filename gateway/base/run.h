/*
 * How many of the first bytes of a text are of one kind: by sixteen where the processor can, else by eight.
 *
 *     s->at += run_plain(s->p + s->at, s->n - s->at);          up to the first that is not, or to the end
 *
 * Nothing behind the n bytes is read.
 */
#ifndef KMSGATE_BASE_RUN_H
#define KMSGATE_BASE_RUN_H

#include <stddef.h>

#include "base/eight.h"
#include "base/sixteen.h"

enum { RUN_PLAIN = 1, RUN_NAME = 2, RUN_HEX = 4, RUN_BASE64 = 8, RUN_URI = 16, RUN_JSON = 32 };
extern const unsigned char RUN_KINDS[256]; /* for what is too short for steps */

#define RUN_IN_PLACE __attribute__((always_inline)) /* runs are short: a call would be half of the work */

#ifdef SIXTEEN
#define RUN_IS(kind) sixteen_##kind
typedef __m128i run_is(__m128i v);
#else
#define RUN_IS(kind) eight_##kind
typedef uint64_t run_is(uint64_t v);
#endif

static inline RUN_IN_PLACE size_t run_while(const char *p, size_t n, run_is *is, unsigned kind)
{
    size_t i = 0;
#ifdef SIXTEEN
    for (; n - i >= 16; i += 16) {
        const unsigned which = sixteen_which(is(sixteen_load(p + i)));
        if (which != 0xffff)
            return i + (size_t)__builtin_ctz(~which);
    }
    if (n >= 16 && i < n) { /* the last sixteen, of which some are known */
        const unsigned others = ~sixteen_which(is(sixteen_load(p + n - 16))) & 0xffff;
        const unsigned left = others >> (16 - (n - i));
        return left ? i + (size_t)__builtin_ctz(left) : n;
    }
#else
    for (; n - i >= 8; i += 8) {
        const uint64_t answers = is(eight_load(p + i));
        if (!eight_all(answers))
            return i + (size_t)__builtin_ctzll(answers ^ EIGHT_TOPS) / 8;
    }
#endif
    while (i < n && RUN_KINDS[(unsigned char)p[i]] & kind)
        i++;
    return i;
}

/* What stands for itself in any text and any attribute: printing ASCII, none of & < > and no quote. */
static inline RUN_IN_PLACE size_t run_plain(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(plain), RUN_PLAIN);
}

/* What stands for itself in a string of JSON: printing ASCII, no quote and no backslash. */
static inline RUN_IN_PLACE size_t run_json(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(json), RUN_JSON);
}

/* Letters, digits, `-`, `.` and `_`. */
static inline RUN_IN_PLACE size_t run_name(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(name), RUN_NAME);
}

static inline RUN_IN_PLACE size_t run_hex(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(hex), RUN_HEX);
}

/* What of ASCII may stand in a URI. */
static inline RUN_IN_PLACE size_t run_uri(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(uri), RUN_URI);
}

/* The alphabet without `=`. */
static inline RUN_IN_PLACE size_t run_base64(const char *p, size_t n)
{
    return run_while(p, n, RUN_IS(base64), RUN_BASE64);
}

#endif
