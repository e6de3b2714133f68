/*
 * Octets compared and copied in place. Nearly all names, keys, separators and values of an exchange have fewer than 64
 * octets, and there are hundreds of them: a call of the C library for each costs more than its work. Up to 64 octets
 * are taken by few loads, of which the last ones end where the octets end and may overlap those before; longer ones are
 * the C library's. Nothing outside the n octets is read or written.
 *
 *     if (short_equal(name.p, "KmsUri", 6)) short_copy(out, name.p, name.n);
 *
 * Not for secrets: how long a comparison takes hangs on what is compared (secret_equal() is for those).
 */
#ifndef KMSGATE_BASE_SHORT_H
#define KMSGATE_BASE_SHORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct short_sixteen {
    uint64_t first, second;
};

static inline struct short_sixteen short_load(const char *p)
{
    struct short_sixteen v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Where sixteen octets differ, some bit is set. */
static inline uint64_t short_differing(const char *a, const char *b)
{
    const struct short_sixteen one = short_load(a), other = short_load(b);
    return (one.first ^ other.first) | (one.second ^ other.second);
}

/* Of 16 to 64 octets. */
static inline bool short_equal_some(const char *a, const char *b, size_t n)
{
    uint64_t differing = short_differing(a, b) | short_differing(a + n - 16, b + n - 16);
    if (n > 32)
        differing |= short_differing(a + 16, b + 16) | short_differing(a + n - 32, b + n - 32);
    return differing == 0;
}

/* Of less than 16. */
static inline bool short_equal_few(const char *a, const char *b, size_t n)
{
    uint64_t eight[4];
    uint32_t four[4];
    if (n >= 8) {
        memcpy(&eight[0], a, 8);
        memcpy(&eight[1], b, 8);
        memcpy(&eight[2], a + n - 8, 8);
        memcpy(&eight[3], b + n - 8, 8);
        return ((eight[0] ^ eight[1]) | (eight[2] ^ eight[3])) == 0;
    }
    if (n >= 4) {
        memcpy(&four[0], a, 4);
        memcpy(&four[1], b, 4);
        memcpy(&four[2], a + n - 4, 4);
        memcpy(&four[3], b + n - 4, 4);
        return ((four[0] ^ four[1]) | (four[2] ^ four[3])) == 0;
    }
    return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

/* True when the n octets at a are those at b; NULL is fine for none. */
static inline bool short_equal(const char *a, const char *b, size_t n)
{
    if (n > 64)
        return memcmp(a, b, n) == 0;
    return n < 16 ? short_equal_few(a, b, n) : short_equal_some(a, b, n);
}

/* Of 16 to 64 octets: all are loaded before any is stored. */
static inline void short_copy_some(char *to, const char *from, size_t n)
{
    const struct short_sixteen first = short_load(from), last = short_load(from + n - 16);
    if (n > 32) {
        const struct short_sixteen second = short_load(from + 16), before_last = short_load(from + n - 32);
        memcpy(to + 16, &second, sizeof second);
        memcpy(to + n - 32, &before_last, sizeof before_last);
    }
    memcpy(to, &first, sizeof first);
    memcpy(to + n - 16, &last, sizeof last);
}

/* Of less than 16. */
static inline void short_copy_few(char *to, const char *from, size_t n)
{
    uint64_t eight[2];
    uint32_t four[2];
    if (n >= 8) {
        memcpy(&eight[0], from, 8);
        memcpy(&eight[1], from + n - 8, 8);
        memcpy(to, &eight[0], 8);
        memcpy(to + n - 8, &eight[1], 8);
    } else if (n >= 4) {
        memcpy(&four[0], from, 4);
        memcpy(&four[1], from + n - 4, 4);
        memcpy(to, &four[0], 4);
        memcpy(to + n - 4, &four[1], 4);
    } else if (n > 0) {
        const char first = from[0], middle = from[n / 2], last = from[n - 1];
        to[0] = first;
        to[n / 2] = middle;
        to[n - 1] = last;
    }
}

/* By memcpy(), and no more (str.c): in place, a compiler that does not see that n is small warns of it. */
void short_copy_long(char *to, const char *from, size_t n);

/* n octets to where there is room for them, which is elsewhere; NULL is fine for none. Of so many as the compiler
 * knows, it makes the best itself. */
static inline __attribute__((always_inline)) void short_copy(char *to, const char *from, size_t n)
{
    if (__builtin_constant_p(n) && n > 0)
        memcpy(to, from, n);
    else if (n > 64)
        short_copy_long(to, from, n);
    else if (n >= 16)
        short_copy_some(to, from, n);
    else
        short_copy_few(to, from, n);
}

#endif
