#include "base/str.h"

#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) void short_copy_long(char *to, const char *from, size_t n)
{
    memcpy(to, from, n);
}

struct str str_z(const char *z)
{
    return z ? (struct str){z, strlen(z)} : STR_MISSING;
}

static unsigned char lower(char c)
{
    return (unsigned char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c); /* no locale has a say */
}

bool str_ieq(struct str a, struct str b)
{
    if (!a.p || !b.p || a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (lower(a.p[i]) != lower(b.p[i]))
            return false;
    return true;
}

bool str_starts(struct str s, struct str prefix)
{
    return s.p && prefix.p && s.n >= prefix.n && short_equal(s.p, prefix.p, prefix.n);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.p && suffix.p && s.n >= suffix.n && short_equal(s.p + s.n - suffix.n, suffix.p, suffix.n);
}

struct str str_behind(struct str s, struct str prefix)
{
    return str_starts(s, prefix) ? (struct str){s.p + prefix.n, s.n - prefix.n} : STR_MISSING;
}

static bool xml_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s)
{
    while (s.n && xml_space(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n && xml_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

char *str_dup(struct str s)
{
    char *z = s.p ? malloc(s.n + 1) : NULL;
    if (!z)
        return NULL;
    memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

bool str_to_u64(struct str s, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    if (!s.n)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        const uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (value > (max - digit) / 10 || digit > max)
            return false;
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

size_t str_utf8_length(struct str s)
{
    static const struct {
        unsigned char first, last, low, high; /* range of the first byte, and of the second (RFC 3629, section 4) */
        unsigned char length;
    } FORMS[] = {
        {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
            {0xed, 0xed, 0x80, 0x9f, 3},
        {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
            {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    const unsigned char *p = (const unsigned char *)s.p;
    if (!s.n || p[0] < 0x80)
        return s.n ? 1 : 0;
    for (size_t k = 0; k < sizeof FORMS / sizeof *FORMS; k++) {
        if (p[0] < FORMS[k].first || p[0] > FORMS[k].last)
            continue;
        if (s.n < FORMS[k].length || p[1] < FORMS[k].low || p[1] > FORMS[k].high)
            return 0;
        for (size_t i = 2; i < FORMS[k].length; i++)
            if (p[i] < 0x80 || p[i] > 0xbf)
                return 0;
        return FORMS[k].length;
    }
    return 0;
}

bool str_is_utf8(struct str s)
{
    const uint64_t HIGH = UINT64_C(0x8080808080808080);
    for (size_t i = 0; i < s.n;) {
        uint64_t eight;
        if (s.n - i >= sizeof eight) { /* nearly all text is ASCII */
            memcpy(&eight, s.p + i, sizeof eight);
            if (!(eight & HIGH)) {
                i += sizeof eight;
                continue;
            }
        }
        const size_t length = str_utf8_length((struct str){s.p + i, s.n - i});
        if (!length)
            return false;
        i += length;
    }
    return true;
}

/* Where to go on when what follows a star did not match: the star's place, and how far it has eaten. */
struct star {
    bool seen;
    size_t after, text;
};

/*
 * Only the last `*` and the last `**` can have eaten too little: that an earlier one matched as early as possible never
 * spoils what follows it. A `**` begins a new stretch, so it forgets the `*` before it.
 */
bool str_glob(struct str pattern, struct str text, bool path)
{
    struct star one = {0}, any = {0};
    size_t p = 0, t = 0;
    if (!pattern.p || !text.p)
        return false;
    for (;;) {
        if (p < pattern.n && pattern.p[p] == '*') {
            const bool crosses = !path || (p + 1 < pattern.n && pattern.p[p + 1] == '*');
            while (crosses && p + 1 < pattern.n && pattern.p[p + 1] == '*')
                p++;
            *(crosses ? &any : &one) = (struct star){true, ++p, t};
            one.seen = one.seen && !crosses;
        } else if (p < pattern.n && t < text.n && pattern.p[p] == text.p[t]) {
            p++;
            t++;
        } else if (p == pattern.n && t == text.n) {
            return true;
        } else if (one.seen && one.text < text.n && text.p[one.text] != '/') {
            p = one.after;
            t = ++one.text;
        } else if (any.seen && any.text < text.n) {
            one.seen = false;
            p = any.after;
            t = ++any.text;
        } else {
            return false;
        }
    }
}
