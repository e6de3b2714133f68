#include <string.h>

#include "message/dialect_internal.h"

static bool dialect_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The value of `encoding` in the XML declaration that the text begins with; *end is where that ends, 0 without one. */
static struct str declared_encoding(struct str text, size_t *end)
{
    static const char KEY[] = "encoding";
    *end = 0;
    if (!str_starts(text, STR("<?xml")) || text.n < 6 || !dialect_blank(text.p[5]))
        return STR_MISSING;
    const char *close = memmem(text.p, text.n, "?>", 2);
    if (!close)
        return STR_MISSING;
    *end = (size_t)(close - text.p) + 2;
    const char *p = memmem(text.p, *end, KEY, sizeof KEY - 1);
    for (p = p ? p + sizeof KEY - 1 : close; p < close && (dialect_blank(*p) || *p == '='); p++)
        ;
    if (p == close || (*p != '"' && *p != '\''))
        return STR_MISSING;
    const char *last = memchr(p + 1, *p, (size_t)(close - p - 1));
    return last ? (struct str){p + 1, (size_t)(last - p - 1)} : STR_MISSING;
}

/* One octet a character: those above 127 become two. */
static void from_latin_1(struct str text, struct buf *out)
{
    for (size_t i = 0, from = 0; i <= text.n; i++) {
        if (i < text.n && (unsigned char)text.p[i] < 0x80)
            continue;
        buf_bytes(out, text.p + from, i - from);
        from = i + 1;
        if (i == text.n)
            break;
        const unsigned char c = (unsigned char)text.p[i];
        const char two[] = {(char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))};
        buf_bytes(out, two, sizeof two);
    }
}

static bool is_ascii(struct str text)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.p[i] >= 0x80)
            return false;
    return true;
}

bool dialect_recode(struct str text, struct buf *room, struct str *out)
{
    size_t at = 0, end;
    *out = text;
    while (at < text.n && dialect_blank(text.p[at]))
        at++;
    const struct str body = {text.p + at, text.n - at};
    const struct str encoding = text.n ? declared_encoding(body, &end) : STR_MISSING;
    if (!text.n || !end)
        return true;
    const struct str behind = {body.p + end, body.n - end};
    const bool latin_1 = encoding.p && str_ieq_z(encoding, "ISO-8859-1");
    const bool ascii = encoding.p && str_ieq_z(encoding, "US-ASCII") && is_ascii(behind);
    if (!latin_1 || is_ascii(behind)) {
        *out = latin_1 || ascii ? behind : body;
        return true;
    }
    from_latin_1(behind, room);
    *out = buf_view(room);
    return !room->failed;
}
