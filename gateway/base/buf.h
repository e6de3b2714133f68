/*
 * A growing byte buffer with a ceiling.
 *
 *     struct buf b = BUF_INIT(LIMIT_REPLY_BYTES);
 *     buf_str(&b, STR("<KmsError>")); buf_xml_text(&b, message);
 *     if (b.failed) ... one test at the end: a write that would pass the ceiling or finds no memory sets `failed`,
 *                       and every later write is ignored
 *     buf_free(&b);
 *
 * `p` is kept NUL-terminated (the NUL is not counted in `n`). With `secret` set, memory that the buffer leaves behind,
 * when it grows and when it is freed, is wiped; with `locked` set, too, it is locked.h's: for what may hold keys in
 * clear. With `passing` set it is block.h's: for what an exchange makes and ends. Both of these are set before there is
 * any memory; `secret` may be set later.
 */
#ifndef KMSGATE_BASE_BUF_H
#define KMSGATE_BASE_BUF_H

#include "base/str.h"

struct buf {
    char *p;
    size_t n;
    size_t cap;
    size_t max;
    bool failed;
    bool secret;
    bool locked;
    bool passing;
};

#define BUF_INIT(ceiling) ((struct buf){.max = (ceiling)})
#define BUF_INIT_PASSING(ceiling) ((struct buf){.max = (ceiling), .passing = true})
#define BUF_INIT_SECRET(ceiling) ((struct buf){.max = (ceiling), .secret = true, .passing = true})
#define BUF_INIT_KEYS(ceiling) ((struct buf){.max = (ceiling), .secret = true, .locked = true})

/* Over an array of the caller's, which is its ceiling: no memory of its own, and never freed. */
#define BUF_FIXED(array) ((struct buf){.p = (array), .cap = sizeof(array), .max = sizeof(array) - 1})

/* Makes room for n more bytes; NULL (and failed) when there is none. The caller fills them and adds to b->n. */
char *buf_reserve(struct buf *b, size_t n);
/* In place, since nearly every write fits into what is there (cap is at most max + 1) and most are a few bytes. */
static inline void buf_bytes(struct buf *b, const void *p, size_t n)
{
    if ((b->failed || n >= b->cap - b->n) && !buf_reserve(b, n))
        return;
    short_copy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
}
static inline void buf_str(struct buf *b, struct str s)
{
    buf_bytes(b, s.p, s.n);
}
static inline void buf_z(struct buf *b, const char *z)
{
    buf_bytes(b, z, strlen(z));
}
static inline void buf_char(struct buf *b, char c)
{
    buf_bytes(b, &c, 1);
}
/* Decimal digits, at least so many, which end before `end`; where they begin. Of the largest value there are twenty. */
char *decimal_before(char *end, uint64_t value, unsigned at_least);
void buf_decimal(struct buf *b, uint64_t value);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text and attribute values escaped as inclusive C14N 1.0 writes them (2.3 "Processing Model"), so output stays
 * canonical. */
void buf_xml_text(struct buf *b, struct str s);
void buf_xml_attr(struct buf *b, struct str s);
/* Lower- or upper-case hex, and base64 without line breaks. */
void buf_hex(struct buf *b, const void *p, size_t n, bool upper);
void buf_base64(struct buf *b, const void *p, size_t n);
struct str buf_view(const struct buf *b);
/* Empties the buffer and keeps its memory. */
void buf_reset(struct buf *b);
void buf_free(struct buf *b);
/* For __attribute__((cleanup)). */
#define BUF_CLEANUP __attribute__((cleanup(buf_free)))

/* Strict decoders into a buffer of `cap` bytes: false on a bad digit, odd or non-canonical input, or lack of room.
 * base64_decode skips XML white space and refuses non-zero padding bits. */
bool hex_decode(struct str hex, uint8_t *out, size_t cap, size_t *n);
bool base64_decode(struct str text, uint8_t *out, size_t cap, size_t *n);

#endif
