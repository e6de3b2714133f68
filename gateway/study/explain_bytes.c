#include <string.h>

#include "base/text.h"
#include "study/explain_inside.h"

/* Bytes that other files and other encodings begin with. */
static const struct {
    struct str begins;
    const char *is;
} KINDS[] = {
    {{"\x1f\x8b", 2}, "found compressed data (gzip), expected XML"},
    {{"\xff\xfe\0\0", 4}, "found UTF-32, expected UTF-8"},
    {{"\0\0\xfe\xff", 4}, "found UTF-32, expected UTF-8"},
    {{"<\0\0\0", 4}, "found UTF-32, expected UTF-8"},
    {{"\0\0\0<", 4}, "found UTF-32, expected UTF-8"},
    {{"\xff\xfe", 2}, "found UTF-16, expected UTF-8"},
    {{"\xfe\xff", 2}, "found UTF-16, expected UTF-8"},
    {{"<\0", 2}, "found UTF-16, expected UTF-8"},
    {{"\0<", 2}, "found UTF-16, expected UTF-8"},
    {{"\x4c\x6f\xa7\x94", 4}, "found EBCDIC, expected UTF-8"},
    {{"<!DOCTYPE html", 14}, "found an HTML page, expected a KmsRequest or a SignedKmsRequest"},
    {{"<html", 5}, "found an HTML page, expected a KmsRequest or a SignedKmsRequest"},
    {{"{", 1}, "found JSON, expected XML"},
};

static struct str bytes_skip(struct str s, size_t n)
{
    return (struct str){s.p + n, s.n - n};
}

/* The name of the first tag that opens an element; missing where none does. */
static struct str bytes_root(struct str s)
{
    for (const char *at = s.p; (at = memchr(at, '<', s.n - (size_t)(at - s.p)));) {
        const struct str rest = bytes_skip(s, (size_t)(++at - s.p));
        if (!rest.n)
            break;
        if (*rest.p == '?' || *rest.p == '!')
            continue;
        size_t n = 0;
        while (n < rest.n && !strchr(" \t\r\n/>", rest.p[n]))
            n++;
        return (struct str){rest.p, n};
    }
    return STR_MISSING;
}

/* True when the element that the text begins with is not closed at its end. */
static bool bytes_torn(struct str text)
{
    const struct str root = bytes_root(text), s = str_trim(text);
    struct buf end BUF_CLEANUP = BUF_INIT(4096);
    if (!root.n)
        return s.n && s.p[0] == '<';
    buf_z(&end, "</");
    buf_str(&end, root);
    return !end.failed && !str_ends(s, STR("/>")) &&
           (!str_ends(s, STR(">")) || !memmem(s.p + s.n - (s.n < end.n + 16 ? s.n : end.n + 16),
                                              s.n < end.n + 16 ? s.n : end.n + 16, end.p, end.n));
}

bool explain_bytes(struct str body, struct detail *why)
{
    struct str text = body;
    size_t n = 0;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (str_starts(body, KINDS[i].begins)) {
            detail_set(why, "%s", KINDS[i].is);
            return true;
        }
    while (text.n) {
        text_code(text, &n);
        if (!n)
            break;
        text = bytes_skip(text, n);
    }
    if (text.n && body.n - text.n + 4 > body.n && bytes_torn(body))
        detail_set(why, "the file ends after %zu octets, inside of a character: it is truncated", body.n);
    else if (text.n)
        detail_set(why, "octet %zu (0x%02x) is not UTF-8: the file is in another encoding, such as ISO-8859-1",
                   body.n - text.n, (unsigned)(unsigned char)*text.p);
    else if (bytes_torn(body))
        detail_set(why, "the file ends after %zu octets, before its first element is closed: it is truncated", body.n);
    else
        return false;
    return true;
}
