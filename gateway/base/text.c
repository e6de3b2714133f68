#include "base/text.h"

#include <stdlib.h>

/* In ascending order. */
static const struct text_range {
    uint32_t first, last;
} HIDDEN[] = {
    {0x0000, 0x001f},   /* C0 */
    {0x007f, 0x009f},   /* DEL, C1 */
    {0x00ad, 0x00ad},   /* soft hyphen */
    {0x034f, 0x034f},   /* combining grapheme joiner */
    {0x0600, 0x0605},   /* Arabic number signs */
    {0x061c, 0x061c},   /* Arabic letter mark */
    {0x06dd, 0x06dd},
    {0x070f, 0x070f},
    {0x0890, 0x0891},
    {0x08e2, 0x08e2},
    {0x115f, 0x1160},   /* Hangul fillers */
    {0x17b4, 0x17b5},
    {0x180b, 0x180f},   /* Mongolian separators */
    {0x200b, 0x200f},   /* zero width, left-to-right and right-to-left mark */
    {0x2028, 0x202e},   /* line and paragraph separator, bidi embeddings and overrides */
    {0x2060, 0x206f},   /* word joiner, bidi isolates */
    {0x3164, 0x3164},   /* Hangul filler */
    {0xfdd0, 0xfdef},   /* noncharacters */
    {0xfe00, 0xfe0f},   /* variation selectors */
    {0xfeff, 0xfeff},   /* byte order mark */
    {0xffa0, 0xffa0},
    {0xfff0, 0xfffb},
    {0xfffe, 0xffff},
    {0x110bd, 0x110bd},
    {0x110cd, 0x110cd},
    {0x13430, 0x1343f}, /* Egyptian format controls */
    {0x1bca0, 0x1bca3}, /* shorthand format controls */
    {0x1d173, 0x1d17a}, /* musical format controls */
    {0xe0000, 0xe0fff}, /* tags, variation selectors */
};

static int text_compare(const void *key, const void *range)
{
    const uint32_t code = *(const uint32_t *)key;
    const struct text_range *r = range;
    return code < r->first ? -1 : code > r->last;
}

bool text_is_hidden(uint32_t code)
{
    return (code & 0xfffe) == 0xfffe ||
           bsearch(&code, HIDDEN, sizeof HIDDEN / sizeof *HIDDEN, sizeof *HIDDEN, text_compare);
}

uint32_t text_code(struct str s, size_t *n)
{
    static const unsigned char LEAD[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    *n = str_utf8_length(s);
    if (!*n)
        return 0;
    uint32_t code = (unsigned char)s.p[0] & LEAD[*n];
    for (size_t i = 1; i < *n; i++)
        code = code << 6 | ((unsigned char)s.p[i] & 0x3f);
    return code;
}

bool text_is_plain(struct str s)
{
    while (s.n) {
        size_t n;
        const uint32_t code = text_code(s, &n);
        if (!n || text_is_hidden(code))
            return false;
        s = (struct str){s.p + n, s.n - n};
    }
    return true;
}

static bool text_has_space(struct str s, bool at_end)
{
    static const char *const SPACES[] = {
        " ",      "\t",           "\n",           "\v",           "\f",           "\r",           "\xc2\x85",
        "\xc2\xa0", "\xe1\x9a\x80", "\xe1\xa0\x8e", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83",
        "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89",
        "\xe2\x80\x8a", "\xe2\x80\x8b", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
        "\xe3\x80\x80", "\xef\xbb\xbf"};
    const unsigned char edge = s.n ? (unsigned char)s.p[at_end ? s.n - 1 : 0] : 'x';
    bool has = false;
    if (edge > ' ' && edge < 0x80) /* nearly all */
        return false;
    for (size_t i = 0; i < sizeof SPACES / sizeof *SPACES && !has; i++)
        has = at_end ? str_ends(s, str_z(SPACES[i])) : str_starts(s, str_z(SPACES[i]));
    return has;
}

bool text_is_trimmed(struct str s)
{
    return !text_has_space(s, false) && !text_has_space(s, true);
}

static void text_append(struct buf *out, struct str s, bool lines)
{
    for (size_t i = 0, from = 0; i < s.n;) {
        size_t n;
        const uint32_t code = text_code((struct str){s.p + i, s.n - i}, &n);
        const bool plain = n && (!text_is_hidden(code) || (lines && code == '\n'));
        const size_t at = i;
        i += n ? n : 1;
        if (plain && i < s.n)
            continue;
        buf_bytes(out, s.p + from, (plain ? i : at) - from);
        from = i;
        if (plain)
            break;
        if (!n || code < 0x80)
            buf_printf(out, "\\x%02x", (unsigned char)s.p[at]);
        else
            buf_printf(out, code > 0xffff ? "\\U%08x" : "\\u%04x", code);
    }
}

void text_escape(struct buf *out, struct str s)
{
    text_append(out, s, false);
}

void text_escape_lines(struct buf *out, struct str s)
{
    text_append(out, s, true);
}

size_t text_cut(struct str s, size_t max)
{
    size_t n = s.n < max ? s.n : max;
    while (n < s.n && n > 0 && ((unsigned char)s.p[n] & 0xc0) == 0x80)
        n--;
    return n;
}

bool text_write(struct str s, FILE *to)
{
    struct buf out BUF_CLEANUP = BUF_INIT(SIZE_MAX / 2);
    text_escape_lines(&out, s);
    return !out.failed && fwrite(out.p ? out.p : "", 1, out.n, to) == out.n;
}
