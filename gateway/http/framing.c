#include "http/framing.h"

#include <string.h>

enum { SIZE_DIGITS = 8 }; /* of a chunk: more than any limit needs, and no overflow */

static bool is_token_char(char c)
{
    const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return alnum || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

bool framing_is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_token_char(s.p[i]))
            return false;
    return s.n > 0;
}

struct str framing_trim(struct str s)
{
    while (s.n && (*s.p == ' ' || *s.p == '\t'))
        s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

bool framing_is_value(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (((unsigned char)s.p[i] < 0x20 && s.p[i] != '\t') || s.p[i] == 0x7f)
            return false;
    return true;
}

bool framing_list_has(struct str list, struct str token)
{
    while (list.n) {
        const char *comma = memchr(list.p, ',', list.n);
        const size_t n = comma ? (size_t)(comma - list.p) : list.n;
        if (str_ieq(framing_trim((struct str){list.p, n}), token))
            return true;
        const size_t step = comma ? n + 1 : n;
        list.p += step;
        list.n -= step;
    }
    return false;
}

enum framing_length framing_length(struct str value, size_t max, size_t *out)
{
    uint64_t n = 0;
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] < '0' || value.p[i] > '9')
            return FRAMING_NONE;
    if (!value.n)
        return FRAMING_NONE;
    if (!str_to_u64(value, max, &n))
        return FRAMING_LARGE;
    *out = (size_t)n;
    return FRAMING_LENGTH;
}

bool framing_field(struct str line, struct str *name, struct str *value)
{
    const char *colon = line.n ? memchr(line.p, ':', line.n) : NULL;
    if (!colon)
        return false;
    *name = (struct str){line.p, (size_t)(colon - line.p)};
    *value = framing_trim((struct str){colon + 1, line.n - name->n - 1});
    return framing_is_token(*name) && framing_is_value(*value);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Digits alone: extensions and white space are refused, too. */
static void chunk_size(struct chunks *c, char byte, size_t room)
{
    if (byte == '\r' && c->digits) {
        c->state = CHUNK_SIZE_LF;
        return;
    }
    const int v = hex_value(byte);
    if (v < 0 || ++c->digits > SIZE_DIGITS) {
        c->state = CHUNK_BAD;
        return;
    }
    c->left = c->left * 16 + (size_t)v;
    if (c->left > room)
        c->state = CHUNK_LARGE;
}

void framing_chunk(struct chunks *c, char byte, size_t room)
{
    switch (c->state) {
    case CHUNK_SIZE:
        chunk_size(c, byte, room);
        break;
    case CHUNK_SIZE_LF:
        c->state = byte != '\n' ? CHUNK_BAD : c->left ? CHUNK_DATA : CHUNK_END_CR;
        c->digits = 0;
        break;
    case CHUNK_DATA_CR:
        c->state = byte == '\r' ? CHUNK_DATA_LF : CHUNK_BAD;
        break;
    case CHUNK_DATA_LF:
        c->state = byte == '\n' ? CHUNK_SIZE : CHUNK_BAD;
        break;
    case CHUNK_END_CR:
        c->state = byte == '\r' ? CHUNK_END_LF : CHUNK_BAD;
        break;
    case CHUNK_END_LF:
        c->state = byte == '\n' ? CHUNK_DONE : CHUNK_BAD;
        break;
    case CHUNK_DATA:
    case CHUNK_DONE:
    case CHUNK_BAD:
    case CHUNK_LARGE:
        c->state = CHUNK_BAD;
        break;
    }
}

void framing_chunk_data(struct chunks *c, size_t n)
{
    c->left = n < c->left ? c->left - n : 0;
    if (!c->left)
        c->state = CHUNK_DATA_CR;
}
