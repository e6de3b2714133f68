#include "base/json.h"

#include "base/text.h"

static void begin_value(struct json *j, const char *key)
{
    const uint64_t level = UINT64_C(1) << j->depth;
    if (j->has_item & level)
        buf_char(j->out, ',');
    j->has_item |= level;
    if (key) {
        buf_char(j->out, '"');
        buf_z(j->out, key);
        buf_z(j->out, "\":");
    }
}

static void open_level(struct json *j, const char *key, bool array)
{
    begin_value(j, key);
    buf_char(j->out, array ? '[' : '{');
    if (++j->depth >= 64) { /* no text of ours is that deep */
        j->out->failed = true;
        j->depth = 63;
    }
    const uint64_t level = UINT64_C(1) << j->depth;
    j->has_item &= ~level;
    j->is_array = array ? j->is_array | level : j->is_array & ~level;
}

void json_object(struct json *j, const char *key)
{
    open_level(j, key, false);
}

void json_array(struct json *j, const char *key)
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

/* Nearly every character stands as it is, and is ASCII. */
static bool is_plain(char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
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
        buf_z(j->out, short_escape((unsigned char)code));
    else if (code > 0xffff) /* RFC 8259, section 7: a surrogate pair */
        buf_printf(j->out, "\\u%04x\\u%04x", 0xd7c0 + (code >> 10), 0xdc00 | (code & 0x3ff));
    else
        buf_printf(j->out, "\\u%04x", code);
}

void json_string(struct json *j, const char *key, struct str value, size_t max)
{
    const size_t whole = max && max < value.n ? max : value.n;
    size_t i = 0, from = 0;
    if (!value.p)
        return;
    begin_value(j, key);
    buf_char(j->out, '"');
    for (;;) {
        size_t n;
        uint32_t code;
        while (i < whole && is_plain(value.p[i]))
            i++;
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

static void put_digits(struct buf *out, uint64_t value, size_t at_least)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[sizeof digits - ++n] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0 || n < at_least);
    buf_bytes(out, digits + sizeof digits - n, n);
}

/* Writes the sign, gives what follows it. */
static uint64_t put_sign(struct buf *out, int64_t value)
{
    if (value >= 0)
        return (uint64_t)value;
    buf_char(out, '-');
    return 0 - (uint64_t)value;
}

void json_int(struct json *j, const char *key, int64_t value)
{
    begin_value(j, key);
    put_digits(j->out, put_sign(j->out, value), 1);
}

void json_thousandths(struct json *j, const char *key, int64_t value)
{
    begin_value(j, key);
    const uint64_t size = put_sign(j->out, value);
    put_digits(j->out, size / 1000, 1);
    buf_char(j->out, '.');
    put_digits(j->out, size % 1000, 3);
}

void json_number(struct json *j, const char *key, double value, int decimals)
{
    begin_value(j, key);
    if (value != value || value > 1e15 || value < -1e15)
        buf_z(j->out, "null"); /* JSON has no such number, or nobody could read it */
    else
        buf_printf(j->out, "%.*f", decimals, value);
}

void json_bool(struct json *j, const char *key, bool value)
{
    begin_value(j, key);
    buf_z(j->out, value ? "true" : "false");
}
