/*
 * What the two files that look for keys in texts share: the pieces, and what is of every way to write octets.
 */
#ifndef KMSGATE_MESSAGE_KMS_RESPONSE_PIECES_H
#define KMSGATE_MESSAGE_KMS_RESPONSE_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

enum { PIECE = 8 };

/*
 * The pieces, in a table: 0 is an empty place. It is found by the low seven octets, which of a text of base64 are known
 * before the first. The factor is random, so that no sender can crowd others in one place than those that differ in
 * the first octet alone: at most 256.
 * What is known of a few bits of a word is enough to pass over most. They, too, stand at a place that is random for
 * each reply: which lines of the cache are written tells nobody what a key is.
 */
enum { FEW_PLACES = 256, PARTS_BITS = 14, PARTS = 1 << PARTS_BITS, PARTS_WORDS = PARTS / 64 };
struct pieces {
    uint64_t *v, factor, offset;
    size_t places;
    unsigned shift;
    uint64_t parts[PARTS_WORDS]; /* a bit for each value of the fourteen above a last digit of base64 or base32 */
    uint64_t few[FEW_PLACES]; /* v, where that is enough */
};

static inline size_t first_place(const struct pieces *t, uint64_t word)
{
    return (size_t)((word << 8) * t->factor >> t->shift);
}

static inline size_t place_of(const struct pieces *t, uint64_t piece)
{
    size_t at = first_place(t, piece);
    while (t->v[at] && t->v[at] != piece)
        at = (at + 1) & (t->places - 1);
    return at;
}

/* No piece is 0. Nearly every word's place is empty. */
static inline bool is_piece(const struct pieces *t, uint64_t word)
{
    return t->v[first_place(t, word)] && word && t->v[place_of(t, word)] == word;
}

/* The place of the lowest fourteen bits. */
static inline size_t part_at(const struct pieces *t, uint64_t part)
{
    return (size_t)((part * t->factor + t->offset) % PARTS);
}

static inline bool parts_have(const struct pieces *t, uint64_t part)
{
    const size_t at = part_at(t, part);
    return t->parts[at / 64] >> at % 64 & 1;
}

/* Where one text ends and the next begins: nothing is read across. */
static inline bool ends(char c)
{
    return c == '\0';
}

static inline bool letter(char c)
{
    return (unsigned)((c | 0x20) - 'a') < 26;
}

/* True: a text holds a piece as a list of numbers, or is a number that ends in one. */
bool pieces_in_numbers(const struct pieces *t, struct str text);
/* In either alphabet of RFC 4648, fifteen octets' worth or more. */
bool pieces_in_base32(const struct pieces *t, struct str text);

#endif
