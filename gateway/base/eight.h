/*
 * Eight bytes of text at a time, in a word, for any processor: what is asked of each is answered by its top bit.
 *
 *     while (n - i >= 8 && eight_all(eight_hex(eight_load(p + i)))) i += 8;          then byte by byte
 *
 * Bytes above ASCII are of no range. No branch and no table depends on the bytes: keys may be among them.
 */
#ifndef KMSGATE_BASE_EIGHT_H
#define KMSGATE_BASE_EIGHT_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define EIGHT(byte) (UINT64_C(0x0101010101010101) * (byte))
#define EIGHT_TOPS EIGHT(0x80)

/* The first byte is the word's lowest. */
static inline uint64_t eight_load(const char *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static inline bool eight_all(uint64_t answers)
{
    return answers == EIGHT_TOPS;
}

/* Which are in [first, last], both ASCII. */
static inline uint64_t eight_within(uint64_t v, unsigned first, unsigned last)
{
    const uint64_t low = v & ~EIGHT_TOPS; /* so that no sum passes into the next byte */
    return (low + EIGHT(0x80 - first)) & ~(low + EIGHT(0x7f - last)) & ~v & EIGHT_TOPS;
}

/* Which are letters from `first` to `last`, both in lower case, in either case. */
static inline uint64_t eight_letters(uint64_t v, unsigned first, unsigned last)
{
    return eight_within(v | EIGHT(0x20), first, last);
}

static inline uint64_t eight_hex(uint64_t v)
{
    return eight_within(v, '0', '9') | eight_letters(v, 'a', 'f');
}

/* The alphabet without `=`. */
static inline uint64_t eight_base64(uint64_t v)
{
    return eight_letters(v, 'a', 'z') | eight_within(v, '0', '9') | eight_within(v | EIGHT('/' ^ '+'), '/', '/');
}

/* Letters, digits, `-`, `.` and `_`. */
static inline uint64_t eight_name(uint64_t v)
{
    return eight_letters(v, 'a', 'z') | eight_within(v, '0', '9') | eight_within(v, '-', '.') |
           eight_within(v, '_', '_');
}

/* What stands for itself in any text and any attribute: printing, none of & < > and no quote. */
static inline uint64_t eight_plain(uint64_t v)
{
    return eight_within(v, ' ', '~') & ~eight_within(v | EIGHT('>' ^ '<'), '>', '>') & ~eight_within(v, '&', '\'') &
           ~eight_within(v, '"', '"');
}

/* No control, no space, none of " < > \ ^ ` { | } */
static inline uint64_t eight_uri(uint64_t v)
{
    const uint64_t paired = v | EIGHT('>' ^ '<'); /* and so are backslash and circumflex */
    return eight_within(v, '!', '~') & ~eight_within(paired, '>', '>') & ~eight_within(paired, '^', '^') &
           ~eight_within(v, '"', '"') & ~eight_within(v, '`', '`') & ~eight_within(v, '{', '}');
}

/* What stands for itself in a string of JSON: printing, no quote and no backslash. */
static inline uint64_t eight_json(uint64_t v)
{
    return eight_within(v, ' ', '~') & ~eight_within(v, '"', '"') & ~eight_within(v, '\\', '\\');
}

/* Of eight digits of hex, the four octets, the first lowest. */
static inline uint32_t eight_octets(uint64_t v)
{
    const uint64_t digits = (v & EIGHT(0x0f)) + (eight_letters(v, 'a', 'f') >> 7) * 9;
    uint64_t octets = (digits << 4 | digits >> 8) & UINT64_C(0x00ff00ff00ff00ff);
    octets = (octets | octets >> 8) & UINT64_C(0x0000ffff0000ffff);
    return (uint32_t)(octets | octets >> 16);
}

#endif
