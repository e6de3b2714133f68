/*
 * Sixteen bytes of text at a time, by SSE2, which each x86-64 has; SIXTEEN is not defined elsewhere, and eight.h does
 * the same there. Answers are 0xff for each byte that is of the kind.
 *
 *     if (sixteen_all(sixteen_hex(sixteen_load(p)))) sixteen_octets(v, out);          eight octets of sixteen digits
 *
 * Bytes above ASCII are of no kind. No branch and no table depends on the bytes: keys may be among them.
 */
#ifndef KMSGATE_BASE_SIXTEEN_H
#define KMSGATE_BASE_SIXTEEN_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined __SSE2__
#define SIXTEEN 1

#include <emmintrin.h>

static inline __m128i sixteen_load(const char *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* A bit for each byte, the first lowest. */
static inline unsigned sixteen_which(__m128i answers)
{
    return (unsigned)_mm_movemask_epi8(answers);
}

static inline bool sixteen_all(__m128i answers)
{
    return sixteen_which(answers) == 0xffff;
}

static inline __m128i sixteen_is(__m128i v, char c)
{
    return _mm_cmpeq_epi8(v, _mm_set1_epi8(c));
}

/* [first, last], both ASCII and none the first or last of it. */
static inline __m128i sixteen_within(__m128i v, char first, char last)
{
    return _mm_and_si128(_mm_cmpgt_epi8(v, _mm_set1_epi8((char)(first - 1))),
                         _mm_cmplt_epi8(v, _mm_set1_epi8((char)(last + 1))));
}

/* From `first` to `last`, both in lower case, in either case. */
static inline __m128i sixteen_letters(__m128i v, char first, char last)
{
    return sixteen_within(_mm_or_si128(v, _mm_set1_epi8(0x20)), first, last);
}

static inline __m128i sixteen_hex(__m128i v)
{
    return _mm_or_si128(sixteen_within(v, '0', '9'), sixteen_letters(v, 'a', 'f'));
}

/* The alphabet without `=`. */
static inline __m128i sixteen_base64(__m128i v)
{
    const __m128i words = _mm_or_si128(sixteen_within(v, '0', '9'), sixteen_letters(v, 'a', 'z'));
    return _mm_or_si128(words, sixteen_is(_mm_or_si128(v, _mm_set1_epi8('/' ^ '+')), '/'));
}

/* What names are made of behind their first letter, as far as they are ASCII, without colon. */
static inline __m128i sixteen_name(__m128i v)
{
    const __m128i words = _mm_or_si128(sixteen_within(v, '0', '9'), sixteen_letters(v, 'a', 'z'));
    return _mm_or_si128(words, _mm_or_si128(sixteen_within(v, '-', '.'), sixteen_is(v, '_')));
}

/* What stands for itself in any text and any attribute: printing, none of & < > and no quote. */
static inline __m128i sixteen_plain(__m128i v)
{
    const __m128i angles = sixteen_is(_mm_or_si128(v, _mm_set1_epi8('>' ^ '<')), '>');
    const __m128i ampersand = sixteen_is(_mm_or_si128(v, _mm_set1_epi8('\'' ^ '&')), '\''); /* and apostrophe */
    const __m128i others = _mm_or_si128(_mm_or_si128(angles, ampersand),
                                        _mm_or_si128(sixteen_is(v, '"'), sixteen_is(v, 0x7f)));
    return _mm_andnot_si128(others, _mm_cmpgt_epi8(v, _mm_set1_epi8(0x1f)));
}

/* What stands for itself in a string of JSON: printing, no quote and no backslash. */
static inline __m128i sixteen_json(__m128i v)
{
    const __m128i others = _mm_or_si128(_mm_or_si128(sixteen_is(v, '"'), sixteen_is(v, '\\')), sixteen_is(v, 0x7f));
    return _mm_andnot_si128(others, _mm_cmpgt_epi8(v, _mm_set1_epi8(0x1f)));
}

/* No control, no space, none of " < > \ ^ ` { | } */
static inline __m128i sixteen_uri(__m128i v)
{
    const __m128i paired = _mm_or_si128(v, _mm_set1_epi8('>' ^ '<')); /* and so are backslash and circumflex */
    const __m128i marks = _mm_or_si128(_mm_or_si128(sixteen_is(paired, '>'), sixteen_is(paired, '^')),
                                       _mm_or_si128(sixteen_is(v, '"'), sixteen_is(v, '`')));
    const __m128i others = _mm_or_si128(marks, _mm_or_si128(sixteen_within(v, '{', '}'), sixteen_is(v, 0x7f)));
    return _mm_andnot_si128(others, _mm_cmpgt_epi8(v, _mm_set1_epi8(' ')));
}

/* Of sixteen digits of hex, the eight octets. */
static inline void sixteen_octets(__m128i v, uint8_t out[8])
{
    const __m128i letter = _mm_and_si128(_mm_srli_epi16(v, 6), _mm_set1_epi8(1)); /* 1 in place of each */
    const __m128i digits = _mm_add_epi8(_mm_and_si128(v, _mm_set1_epi8(0x0f)),
                                        _mm_add_epi8(letter, _mm_slli_epi16(letter, 3)));
    const __m128i octets = _mm_and_si128(_mm_or_si128(_mm_slli_epi16(digits, 4), _mm_srli_epi16(digits, 8)),
                                         _mm_set1_epi16(0xff));
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(octets, octets));
}

/* Which of four numbers are this one: a bit for each, the first lowest. */
static inline unsigned four_same(const uint32_t v[4], uint32_t number)
{
    const __m128i same = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)v), _mm_set1_epi32((int)number));
    return (unsigned)_mm_movemask_ps(_mm_castsi128_ps(same));
}

static inline __m128i sixteen_where(__m128i answers, int value)
{
    return _mm_and_si128(answers, _mm_set1_epi8((char)value));
}

/* Six octets as eight numbers of six bits each, in memory's order. */
static inline uint64_t sixteen_sextets(const uint8_t octets[6])
{
    uint32_t four;
    uint16_t two;
    memcpy(&four, octets, sizeof four);
    memcpy(&two, octets + sizeof four, sizeof two);
    uint64_t v = (uint64_t)be32toh(four) << 16 | be16toh(two);
    v = (v & 0xffffff) | v >> 24 << 32;
    v = (v & UINT64_C(0x00000fff00000fff)) | (v & UINT64_C(0x00fff00000fff000)) << 4;
    v = (v & UINT64_C(0x003f003f003f003f)) | (v & UINT64_C(0x0fc00fc00fc00fc0)) << 2;
    return htobe64(v);
}

/* Twelve octets as sixteen digits of base64. */
static inline void sixteen_to_base64(const uint8_t octets[12], char out[16])
{
    const __m128i v = _mm_set_epi64x((long long)sixteen_sextets(octets + 6), (long long)sixteen_sextets(octets));
    __m128i text = _mm_add_epi8(v, _mm_set1_epi8('A')); /* from here on what the next range is off by */
    text = _mm_add_epi8(text, sixteen_where(_mm_cmpgt_epi8(v, _mm_set1_epi8(25)), 'a' - 26 - 'A'));
    text = _mm_add_epi8(text, sixteen_where(_mm_cmpgt_epi8(v, _mm_set1_epi8(51)), '0' - 52 - ('a' - 26)));
    text = _mm_add_epi8(text, sixteen_where(_mm_cmpgt_epi8(v, _mm_set1_epi8(61)), '+' - 62 - ('0' - 52)));
    text = _mm_add_epi8(text, sixteen_where(_mm_cmpgt_epi8(v, _mm_set1_epi8(62)), '/' - 63 - ('+' - 62)));
    _mm_storeu_si128((__m128i *)out, text);
}

/* Six octets, of two numbers of 24 bits, the first in the lower half. */
static inline void sixteen_put_six(uint64_t v, uint8_t out[6])
{
    v = htobe64((v & UINT32_MAX) << 40 | v >> 32 << 16);
    memcpy(out, &v, 6);
}

/* Of sixteen digits of base64, the twelve octets. */
static inline void sixteen_from_base64(__m128i v, uint8_t out[12])
{
    __m128i off = sixteen_where(sixteen_within(v, 'A', 'Z'), -'A');
    off = _mm_or_si128(off, sixteen_where(sixteen_within(v, 'a', 'z'), 26 - 'a'));
    off = _mm_or_si128(off, sixteen_where(sixteen_within(v, '0', '9'), 52 - '0'));
    off = _mm_or_si128(off, sixteen_where(sixteen_is(v, '+'), 62 - '+'));
    off = _mm_or_si128(off, sixteen_where(sixteen_is(v, '/'), 63 - '/'));
    v = _mm_add_epi8(v, off);
    v = _mm_or_si128(_mm_slli_epi16(_mm_and_si128(v, _mm_set1_epi16(0xff)), 6), _mm_srli_epi16(v, 8));
    v = _mm_or_si128(_mm_slli_epi32(_mm_and_si128(v, _mm_set1_epi32(0xffff)), 12), _mm_srli_epi32(v, 16));
    uint64_t halves[2];
    memcpy(halves, &v, sizeof halves);
    sixteen_put_six(halves[0], out);
    sixteen_put_six(halves[1], out + 6);
}

#else
static inline unsigned four_same(const uint32_t v[4], uint32_t number)
{
    unsigned same = 0;
    for (unsigned i = 0; i < 4; i++)
        same |= (unsigned)(v[i] == number) << i;
    return same;
}
#endif
#endif
