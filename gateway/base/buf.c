#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/digit.h"
#include "base/locked.h"
#include "base/run.h"
#include "base/secret.h"

enum { FIRST_BYTES = 1024 };

static void release(struct buf *b)
{
    if (b->locked) {
        locked_free(b->p);
        return;
    }
    if (b->secret)
        secret_wipe(b->p, b->cap);
    if (b->passing)
        block_give(b->p);
    else
        free(b->p);
}

/* realloc() would leave a copy of a secret behind. */
static char *larger(const struct buf *b, size_t cap)
{
    if (b->locked)
        return locked_alloc(cap);
    if (b->passing)
        return block_take(cap);
    return b->secret ? malloc(cap) : realloc(b->p, cap);
}

/* Moves to a block of at least `cap` bytes. */
static bool buf_move(struct buf *b, size_t cap)
{
    char *p = larger(b, cap);
    if (!p)
        return false;
    if (b->secret || b->passing) {
        if (b->p)
            memcpy(p, b->p, b->n + 1);
        release(b);
    }
    b->p = p;
    b->cap = cap;
    return true;
}

char *buf_reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return NULL;
    if (n > b->max || b->n > b->max - n) {
        b->failed = true;
        return NULL;
    }
    const size_t need = b->n + n + 1;
    if (need > b->cap) {
        size_t cap = b->cap ? 2 * b->cap : FIRST_BYTES; /* twice as much, or as much as who asks knows of */
        if (cap < need)
            cap = need;
        if (cap > b->max + 1) /* max + 1 >= need */
            cap = b->max + 1;
        if (!buf_move(b, cap)) {
            b->failed = true;
            return NULL;
        }
        b->p[b->n] = '\0';
    }
    return b->p + b->n;
}

char *decimal_before(char *end, uint64_t value, unsigned at_least)
{
    for (unsigned n = 0; value > 0 || n < at_least; n++) {
        *--end = (char)('0' + value % 10);
        value /= 10;
    }
    return end;
}

void buf_decimal(struct buf *b, uint64_t value)
{
    char digits[20], *const end = digits + sizeof digits;
    const char *from = decimal_before(end, value, 1);
    buf_bytes(b, from, (size_t)(end - from));
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *at = n < 0 ? NULL : buf_reserve(b, (size_t)n);
    if (!at) {
        b->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(at, (size_t)n + 1, format, arguments);
    va_end(arguments);
    b->n += (size_t)n;
}

static const char *escape_text(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '\r': return "&#xD;";
    default: return NULL;
    }
}

static const char *escape_attr(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '"': return "&quot;";
    case '\t': return "&#x9;";
    case '\n': return "&#xA;";
    case '\r': return "&#xD;";
    default: return NULL;
    }
}

/* Whether one of them may have something else for it. */
static bool may_be_escaped(char c)
{
    return c < ' ' || c == '&' || c == '<' || c == '>' || c == '"';
}

static void escaped(struct buf *b, struct str s, const char *(*escape)(char c))
{
    size_t from = 0;
    for (size_t i = run_plain(s.p, s.n); i < s.n; i++) {
        const char *instead = may_be_escaped(s.p[i]) ? escape(s.p[i]) : NULL;
        if (!instead)
            continue;
        buf_bytes(b, s.p + from, i - from);
        buf_z(b, instead);
        from = i + 1;
    }
    if (s.n > from)
        buf_bytes(b, s.p + from, s.n - from);
}

void buf_xml_text(struct buf *b, struct str s)
{
    escaped(b, s, escape_text);
}

void buf_xml_attr(struct buf *b, struct str s)
{
    escaped(b, s, escape_attr);
}

void buf_hex(struct buf *b, const void *p, size_t n, bool upper)
{
    const char letter = upper ? 'A' : 'a';
    const unsigned char *from = p;
    char *at = n > SIZE_MAX / 2 ? NULL : buf_reserve(b, 2 * n);
    if (!at) {
        b->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        *at++ = digit_to_hex(from[i] >> 4, letter);
        *at++ = digit_to_hex(from[i] & 15, letter);
    }
    b->n += 2 * n;
    b->p[b->n] = '\0';
}

void buf_base64(struct buf *b, const void *p, size_t n)
{
    const unsigned char *from = p;
    char *at = n > SIZE_MAX / 2 ? NULL : buf_reserve(b, (n + 2) / 3 * 4);
    if (!at) {
        b->failed = true;
        return;
    }
    size_t i = 0;
#ifdef SIXTEEN
    for (; n - i >= 12; i += 12, at += 16)
        sixteen_to_base64(from + i, at);
    if (i > 0 && n - i >= 3) { /* what is left of whole groups, and some of those before once more */
        const size_t more = (n - i) / 3;
        i += 3 * more;
        at += 4 * more;
        sixteen_to_base64(from + i - 12, at - 16);
    }
#endif
    for (; n - i >= 3; i += 3, at += 4) {
        const unsigned bits = (unsigned)from[i] << 16 | (unsigned)from[i + 1] << 8 | from[i + 2];
        for (unsigned k = 0; k < 4; k++)
            at[k] = digit_to_base64(bits >> (18 - 6 * k) & 63);
    }
    if (i < n) {
        const unsigned bits = (unsigned)from[i] << 16 | (n - i > 1 ? (unsigned)from[i + 1] << 8 : 0);
        at[0] = digit_to_base64(bits >> 18);
        at[1] = digit_to_base64(bits >> 12 & 63);
        at[2] = n - i > 1 ? digit_to_base64(bits >> 6 & 63) : '=';
        at[3] = '=';
    }
    b->n += (n + 2) / 3 * 4;
    b->p[b->n] = '\0';
}

struct str buf_view(const struct buf *b)
{
    return (struct str){b->p ? b->p : "", b->n};
}

void buf_reset(struct buf *b)
{
    if (b->secret && b->p)
        secret_wipe(b->p, b->cap);
    b->n = 0;
    b->failed = false;
    if (b->p)
        b->p[0] = '\0';
}

void buf_free(struct buf *b)
{
    release(b);
    b->p = NULL;
    b->n = b->cap = 0;
}

/* All of it is read before anything is said: how far digits of hex go in a key that is base64 hangs on the key. */
bool hex_decode(struct str hex, uint8_t *out, size_t cap, size_t *n)
{
    if (!hex.p || hex.n % 2 || hex.n / 2 > cap)
        return false;
    size_t i = 0;
    unsigned none = 0; /* not 0: something else than digits was there */
#ifdef SIXTEEN
    __m128i sixteens = _mm_set1_epi8(-1);
    for (; hex.n - i >= 16; i += 16) {
        const __m128i sixteen = sixteen_load(hex.p + i);
        sixteens = _mm_and_si128(sixteens, sixteen_hex(sixteen));
        sixteen_octets(sixteen, out + i / 2);
    }
    none = sixteen_which(sixteens) ^ 0xffff;
#endif
    for (; hex.n - i >= 8; i += 8) {
        const uint64_t eight = eight_load(hex.p + i);
        const uint32_t four = htole32(eight_octets(eight));
        none |= !eight_all(eight_hex(eight));
        memcpy(out + i / 2, &four, sizeof four);
    }
    for (; i < hex.n; i += 2) {
        const unsigned high = digit_hex(hex.p[i]), low = digit_hex(hex.p[i + 1]);
        none |= (high | low) & DIGIT_HEX_NONE;
        out[i / 2] = (uint8_t)(high << 4 | low);
    }
    if (none)
        return false;
    *n = hex.n / 2;
    return true;
}

#ifdef SIXTEEN
static inline bool base64_sixteen(const char *p, uint8_t out[12])
{
    const __m128i sixteen = sixteen_load(p);
    if (!sixteen_all(sixteen_base64(sixteen)))
        return false;
    sixteen_from_base64(sixteen, out);
    return true;
}
#endif

/* Groups of four digits from the beginning on, up to the first that holds anything else, or for which there is no room:
 * how many characters they are. */
static size_t base64_groups(struct str text, uint8_t *out, size_t cap)
{
    size_t i = 0;
#ifdef SIXTEEN
    while (text.n - i >= 16 && i / 4 * 3 + 12 <= cap && base64_sixteen(text.p + i, out + i / 4 * 3))
        i += 16;
    if (i > 0 && text.n - i >= 8 && text.n - i < 16) { /* what is left, and some of those before once more */
        const size_t end = text.n - text.n % 4 - 4; /* the last group may have another end */
        if (end / 4 * 3 <= cap && base64_sixteen(text.p + end - 16, out + end / 4 * 3 - 12))
            i = end;
    }
#endif
    for (; text.n - i >= 4 && i / 4 * 3 + 3 <= cap; i += 4) {
        const unsigned a = digit_base64(text.p[i]), b = digit_base64(text.p[i + 1]), c = digit_base64(text.p[i + 2]),
                       d = digit_base64(text.p[i + 3]);
        const uint32_t bits = a << 18 | b << 12 | c << 6 | d;
        const bool others = (a | b | c | d) >= DIGIT_BASE64_NONE;
        if (others)
            break;
        out[i / 4 * 3] = (uint8_t)(bits >> 16);
        out[i / 4 * 3 + 1] = (uint8_t)(bits >> 8);
        out[i / 4 * 3 + 2] = (uint8_t)bits;
    }
    return i;
}

static bool base64_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Where digits, white space and `=` are is no secret; which digits they are may be. */
bool base64_decode(struct str text, uint8_t *out, size_t cap, size_t *n)
{
    uint32_t bits = 0;
    unsigned have = 0, pad = 0; /* of the group of four */
    if (!text.p)
        return false;
    size_t i = base64_groups(text, out, cap), m = i / 4 * 3;
    for (; i < text.n; i++) {
        const unsigned digit = digit_base64(text.p[i]);
        const bool other = digit >= DIGIT_BASE64_NONE;
        if (other && base64_space(text.p[i]))
            continue;
        if (other ? text.p[i] != '=' || have < 2 : pad)
            return false;
        pad += other;
        bits = bits << 6 | (digit & (DIGIT_BASE64_NONE - 1));
        if (++have < 4)
            continue;
        const bool stray = bits & ((1u << 8 * pad) - 1); /* bits that no octet has */
        if (m + 3 - pad > cap || stray)
            return false;
        for (unsigned k = 0; k < 3 - pad; k++)
            out[m++] = (uint8_t)(bits >> (16 - 8 * k));
        if (pad) { /* the end: only white space may follow */
            have = 0;
            for (i++; i < text.n; i++)
                if (!base64_space(text.p[i]))
                    return false;
            break;
        }
        bits = 0;
        have = 0;
    }
    *n = m;
    return have == 0;
}
