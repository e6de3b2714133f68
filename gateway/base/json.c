#include "base/json.h"

#include <string.h>

#include "base/run.h"
#include "base/text.h"

/* Writes the comma and the key that stand before a value, and makes room for n octets of it: whoever writes them there
 * adds them to the buffer by wrote(). NULL: the buffer has failed. */
static char *begin_value(struct json *j, struct str key, size_t n)
{
    struct buf *b = j->out;
    const uint64_t level = UINT64_C(1) << j->depth;
    const bool comma = j->has_item & level;
    char *at = buf_reserve(b, comma + (key.p ? key.n + 3 : 0) + n), *const from = at;
    if (!at)
        return NULL;
    if (comma)
        *at++ = ',';
    j->has_item |= level;
    if (key.p) {
        *at++ = '"';
        short_copy(at, key.p, key.n);
        at += key.n;
        *at++ = '"';
        *at++ = ':';
    }
    b->n += (size_t)(at - from);
    *at = '\0';
    return at;
}

static void wrote(struct json *j, size_t n)
{
    j->out->n += n;
    j->out->p[j->out->n] = '\0';
}

static void put_value(struct json *j, struct str key, const char *text, size_t n)
{
    char *at = begin_value(j, key, n);
    if (!at)
        return;
    short_copy(at, text, n);
    wrote(j, n);
}

static void open_level(struct json *j, struct str key, bool array)
{
    put_value(j, key, array ? "[" : "{", 1);
    if (++j->depth >= 64) { /* no text of ours is that deep */
        j->out->failed = true;
        j->depth = 63;
    }
    const uint64_t level = UINT64_C(1) << j->depth;
    j->has_item &= ~level;
    j->is_array = array ? j->is_array | level : j->is_array & ~level;
}

void json_put_object(struct json *j, struct str key)
{
    open_level(j, key, false);
}

void json_put_array(struct json *j, struct str key)
{
    open_level(j, key, true);
}

void json_end(struct json *j)
{
    buf_char(j->out, j->is_array & UINT64_C(1) << j->depth ? ']' : '}');
    j->depth -= j->depth > 0;
}

static const char *short_escape(unsigned char c)
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: return NULL;
    }
}

/* The character's number when it may not stand as it is: what no text shows as it is, quote and backslash. */
static bool must_escape(struct str s, size_t *n, uint32_t *code)
{
    *code = text_code(s, n);
    return !*n || *code == '"' || *code == '\\' || text_is_hidden(*code);
}

static void put_escaped(struct json *j, size_t n, uint32_t code)
{
    if (!n)
        buf_z(j->out, "\xef\xbf\xbd"); /* U+FFFD */
    else if (code < 0x80 && short_escape((unsigned char)code))
        buf_bytes(j->out, short_escape((unsigned char)code), 2);
    else if (code > 0xffff) /* RFC 8259, section 7: a surrogate pair */
        buf_printf(j->out, "\\u%04x\\u%04x", 0xd7c0 + (code >> 10), 0xdc00 | (code & 0x3ff));
    else
        buf_printf(j->out, "\\u%04x", code);
}

void json_put_string(struct json *j, struct str key, struct str value, size_t max)
{
    const size_t whole = max && max < value.n ? max : value.n;
    if (!value.p)
        return;
    size_t i = run_json(value.p, whole), from = 0;
    char *at = begin_value(j, key, i + 2);
    if (!at)
        return;
    *at = '"';
    if (i == value.n) { /* nearly every one */
        short_copy(at + 1, value.p, i);
        at[i + 1] = '"';
        wrote(j, i + 2);
        return;
    }
    wrote(j, 1);
    for (;;) {
        size_t n;
        uint32_t code;
        i += run_json(value.p + i, whole - i);
        if (i == value.n)
            break;
        const bool escape = must_escape((struct str){value.p + i, value.n - i}, &n, &code);
        const size_t step = n ? n : 1;
        if (i + step > whole)
            break;
        if (escape) {
            buf_bytes(j->out, value.p + from, i - from);
            put_escaped(j, n, code);
            from = i + step;
        }
        i += step;
    }
    buf_bytes(j->out, value.p + from, i - from);
    buf_char(j->out, '"');
}

enum { NUMBER_TEXT = 24 }; /* a sign, twenty digits and a point */

static uint64_t size_of(int64_t value)
{
    return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

static void put_number(struct json *j, struct str key, char *from, const char *end, bool negative)
{
    if (negative)
        *--from = '-';
    put_value(j, key, from, (size_t)(end - from));
}

void json_put_int(struct json *j, struct str key, int64_t value)
{
    char text[NUMBER_TEXT], *const end = text + sizeof text;
    put_number(j, key, decimal_before(end, size_of(value), 1), end, value < 0);
}

void json_put_thousandths(struct json *j, struct str key, int64_t value)
{
    char text[NUMBER_TEXT], *const end = text + sizeof text, *at = decimal_before(end, size_of(value) % 1000, 3);
    *--at = '.';
    put_number(j, key, decimal_before(at, size_of(value) / 1000, 1), end, value < 0);
}

void json_put_number(struct json *j, struct str key, double value, int decimals)
{
    if (!begin_value(j, key, 0))
        return;
    if (value != value || value > 1e15 || value < -1e15)
        buf_z(j->out, "null"); /* JSON has no such number, or nobody could read it */
    else
        buf_printf(j->out, "%.*f", decimals, value);
}

void json_put_bool(struct json *j, struct str key, bool value)
{
    put_value(j, key, value ? "true" : "false", value ? 4 : 5);
}

void json_again(struct json *j, struct str text)
{
    put_value(j, STR_MISSING, text.p, text.n);
}
