#include "gate/resource.h"

#include "base/text.h"
#include "base/uri.h"

#define PREFIX "/keymanagement/identity/v1/"

/* What stands in the place of {…}: escapes are allowed there, and only there. */
enum place { PLACE_NONE, PLACE_USER, PLACE_KMS, PLACE_NUMBER };

static const struct {
    const char *name;
    enum resource_kind kind;
    bool bare;          /* the resource without a {…} segment exists */
    enum place place;   /* of the first {…} segment */
    bool time;          /* a {time} segment may follow */
} RESOURCES[] = {
    {"init", RESOURCE_INIT, true, PLACE_NONE, false},
    {"keyprov", RESOURCE_KEYPROV, true, PLACE_USER, true},
    {"certcache", RESOURCE_CERTCACHE, true, PLACE_NUMBER, false},
    {"cert", RESOURCE_CERT, false, PLACE_KMS, false},
    {"lookup", RESOURCE_LOOKUP, false, PLACE_USER, false},
    {"redirect", RESOURCE_REDIRECT, true, PLACE_NONE, false},
};
enum { RESOURCE_COUNT = sizeof RESOURCES / sizeof *RESOURCES, SEGMENTS_MAX = 3 };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* pchar of RFC 3986 3.3, but for the percent sign. */
static bool is_pchar(char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c))
        return true;
    switch (c) {
    case '-': case '.': case '_': case '~': case '!': case '$': case '&': case '\'': case '(': case ')':
    case '*': case '+': case ',': case ';': case '=': case ':': case '@':
        return true;
    default:
        return false;
    }
}

/* Only what RFC 3986 allows in a path and a query, escapes well-formed. */
static bool characters_hold(struct str s, bool query, struct detail *why)
{
    for (size_t i = 0; i < s.n; i++) {
        const char c = s.p[i];
        if (is_pchar(c) || c == '/' || (query && c == '?'))
            continue;
        if (c == '%' && s.n - i > 2 && is_hex(s.p[i + 1]) && is_hex(s.p[i + 2])) {
            i += 2;
            continue;
        }
        detail_set(why, "byte 0x%02x at %zu of the %s: malformed escape, or not allowed there", (unsigned char)c, i,
                   query ? "query" : "path");
        return false;
    }
    return true;
}

/* "." and ".." however they are written; with parameters (..;x) too, since some servers cut those first. */
static bool is_dots(struct str s)
{
    size_t n = 0;
    while (n < s.n && s.p[n] != ';')
        n++;
    return (n == 1 && s.p[0] == '.') || (n == 2 && s.p[0] == '.' && s.p[1] == '.');
}

static bool has_escape(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '%')
            return true;
    return false;
}

/* A {…} segment: what it decodes to must not be able to become another path. */
static enum reason value_holds(struct str raw, struct detail *why)
{
    struct buf clear BUF_CLEANUP = BUF_INIT(raw.n + 1);
    struct str s = raw;
    if (has_escape(raw)) {
        const bool decoded = uri_percent_decode(raw, &clear);
        if (clear.failed)
            return REASON_INTERNAL;
        if (!decoded) {
            detail_set(why, "an escape that is malformed or stands for a control character");
            return REASON_HTTP_PATH;
        }
        s = buf_view(&clear);
    }
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '/' || s.p[i] == '\\') {
            detail_set(why, "an escaped slash or backslash");
            return REASON_HTTP_PATH;
        }
    if (is_dots(s) || !str_is_utf8(s)) {
        detail_set(why, "a dot segment, or a segment that is not valid UTF-8");
        return REASON_HTTP_PATH;
    }
    if (!text_is_trimmed(s)) {
        detail_set(why, "escaped white space around a segment");
        return REASON_HTTP_PATH;
    }
    return REASON_OK;
}

/* Cuts what follows the prefix into segments; more than `max` are counted, not kept. */
static size_t split(struct str s, struct str *out, size_t max)
{
    size_t n = 0;
    for (size_t from = 0, i = 0; i <= s.n; i++)
        if (i == s.n || s.p[i] == '/') {
            if (n < max)
                out[n] = (struct str){s.p + from, i - from};
            n++;
            from = i + 1;
        }
    return n;
}

/* Dot segments, doubled slashes and escapes in the whole path; the first `plain` segments may hold no escape. */
static enum reason path_holds(struct str path, size_t plain, struct detail *why)
{
    size_t number = 0;
    for (size_t from = 1, i = 1; i <= path.n; i++) {
        if (i < path.n && path.p[i] != '/')
            continue;
        const struct str segment = {path.p + from, i - from};
        if (segment.n == 0 && i < path.n) {
            detail_set(why, "a doubled slash at %zu", i);
            return REASON_HTTP_PATH;
        }
        const enum reason r = value_holds(segment, why);
        if (r != REASON_OK)
            return r;
        if (number < plain && has_escape(segment)) {
            detail_set(why, "an escape in a segment that takes none");
            return REASON_HTTP_PATH;
        }
        number++;
        from = i + 1;
    }
    return REASON_OK;
}

static bool all(struct str s, bool (*is)(char))
{
    for (size_t i = 0; i < s.n; i++)
        if (!is(s.p[i]))
            return false;
    return s.n > 0;
}

/* s[0] is the resource's name, n the number of segments below the prefix. */
static bool match(const struct str *s, size_t n, struct resource *out, size_t *values)
{
    *values = 0;
    for (size_t i = 0; i < RESOURCE_COUNT; i++) {
        if (!str_eq_z(s[0], RESOURCES[i].name))
            continue;
        out->kind = RESOURCES[i].kind;
        *values = (RESOURCES[i].place != PLACE_NONE) + (size_t)RESOURCES[i].time;
        if (n == 1)
            return RESOURCES[i].bare;
        if (n - 1 > *values || s[1].n == 0)
            return false;
        if (RESOURCES[i].place == PLACE_NUMBER && !all(s[1], is_digit))
            return false;
        if (RESOURCES[i].place == PLACE_USER)
            out->user_raw = s[1];
        return n < 3 || (s[2].n == 16 && all(s[2], is_hex));
    }
    return false;
}

enum reason resource_parse(struct str target, struct resource *out, struct detail *why)
{
    *out = (struct resource){.path = target};
    if (!target.p || target.n == 0 || target.p[0] != '/') {
        detail_set(why, "the target is not a path");
        return REASON_HTTP_PATH;
    }
    for (size_t i = 0; i < target.n; i++)
        if (target.p[i] == '?') {
            out->path.n = i;
            out->query = (struct str){target.p + i + 1, target.n - i - 1};
            break;
        }
    if (!characters_hold(out->path, false, why) || !characters_hold(out->query, true, why))
        return REASON_HTTP_PATH;

    struct str s[SEGMENTS_MAX];
    const struct str prefix = STR(PREFIX);
    size_t values = 0;
    bool found = false;
    if (str_starts(out->path, prefix)) {
        const size_t n = split((struct str){out->path.p + prefix.n, out->path.n - prefix.n}, s, SEGMENTS_MAX);
        found = match(s, n, out, &values);
    }
    /* Four segments stand before the first {…}: three of the prefix and the resource's name. */
    enum reason r = path_holds(out->path, values ? 4 : SIZE_MAX, why);
    if (r == REASON_OK && !found) {
        detail_set(why, "no such resource");
        r = REASON_HTTP_RESOURCE;
    }
    if (r != REASON_OK)
        out->user_raw = STR_MISSING;
    return r;
}
