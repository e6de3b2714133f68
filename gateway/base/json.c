#include "base/json.h"

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

/* The character's number when it may not stand as it is: controls, quote and backslash, and what some readers take for
 * the end of a line (U+0085, U+2028, U+2029), which would make two lines of one. Else 0. `n`: its bytes. */
static unsigned to_escape(const char *p, size_t n)
{
    const unsigned char c = (unsigned char)p[0];
    const unsigned char d = n > 1 ? (unsigned char)p[1] : 0, e = n > 2 ? (unsigned char)p[2] : 0;
    if (n == 1)
        return c < 0x20 || c == 0x7f || c == '"' || c == '\\' ? c : 0;
    if (n == 2 && c == 0xc2 && d < 0xa0)
        return d;
    return n == 3 && c == 0xe2 && d == 0x80 && (e & 0xfe) == 0xa8 ? 0x2000u + (e & 0x3f) : 0;
}

void json_string(struct json *j, const char *key, struct str value, size_t max)
{
    if (!value.p)
        return;
    begin_value(j, key);
    buf_char(j->out, '"');
    for (size_t i = 0, plain = 0; i < value.n;) {
        const unsigned char c = (unsigned char)value.p[i];
        const size_t n = str_utf8_length((struct str){value.p + i, value.n - i});
        const unsigned number = n ? to_escape(value.p + i, n) : 0;
        const bool as_it_is = n && !number && c;
        const size_t step = n ? n : 1;
        const bool cut = max && i + step > max;
        if (as_it_is && !cut)
            plain += step;
        else if (plain)
            buf_bytes(j->out, value.p + i - plain, plain);
        if (cut)
            break;
        i += step;
        if (as_it_is) {
            if (i == value.n)
                buf_bytes(j->out, value.p + i - plain, plain);
            continue;
        }
        plain = 0;
        if (!n)
            buf_z(j->out, "\xef\xbf\xbd"); /* U+FFFD */
        else if (short_escape(c))
            buf_z(j->out, short_escape(c));
        else
            buf_printf(j->out, "\\u%04x", number);
    }
    buf_char(j->out, '"');
}

void json_int(struct json *j, const char *key, int64_t value)
{
    begin_value(j, key);
    buf_printf(j->out, "%lld", (long long)value);
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
