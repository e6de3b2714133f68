#include "message/scanner.h"

#include "base/run.h"
#include "base/token.h"
#include "message/xml.h"

/* What each byte may be part of. Bytes above ASCII are looked at as characters. */
enum { BYTE_SPACE = 1, BYTE_NAME_START = 2, BYTE_NAME = 4, BYTE_TEXT = 8, BYTE_VALUE = 16, BYTE_URI = 32 };
#define BYTE_LETTER (BYTE_NAME_START | BYTE_NAME | BYTE_TEXT | BYTE_VALUE | BYTE_URI)
#define BYTE_PLAIN (BYTE_TEXT | BYTE_VALUE)
static const unsigned char BYTES[128] = {
    ['\t'] = BYTE_SPACE | BYTE_TEXT,
    ['\n'] = BYTE_SPACE | BYTE_TEXT,
    ['\r'] = BYTE_SPACE,
    [' '] = BYTE_SPACE | BYTE_PLAIN,
    ['!'] = BYTE_PLAIN, ['"'] = BYTE_TEXT, ['#'] = BYTE_PLAIN, ['$'] = BYTE_PLAIN, ['%'] = BYTE_PLAIN,
    ['\''] = BYTE_TEXT, ['('] = BYTE_PLAIN, [')'] = BYTE_PLAIN, ['*'] = BYTE_PLAIN, ['+'] = BYTE_PLAIN,
    [','] = BYTE_PLAIN,
    ['-'] = BYTE_PLAIN | BYTE_NAME | BYTE_URI,
    ['.'] = BYTE_PLAIN | BYTE_NAME | BYTE_URI,
    ['/'] = BYTE_PLAIN | BYTE_URI,
    ['0' ... '9'] = BYTE_PLAIN | BYTE_NAME | BYTE_URI,
    [':'] = BYTE_PLAIN, [';'] = BYTE_PLAIN, ['='] = BYTE_PLAIN, ['>'] = BYTE_VALUE, ['?'] = BYTE_PLAIN,
    ['@'] = BYTE_PLAIN,
    ['A' ... 'Z'] = BYTE_LETTER,
    ['['] = BYTE_PLAIN, ['\\'] = BYTE_PLAIN, [']'] = BYTE_PLAIN, ['^'] = BYTE_PLAIN,
    ['_'] = BYTE_LETTER,
    ['`'] = BYTE_PLAIN,
    ['a' ... 'z'] = BYTE_LETTER,
    ['{'] = BYTE_PLAIN, ['|'] = BYTE_PLAIN, ['}'] = BYTE_PLAIN,
    ['~'] = BYTE_PLAIN | BYTE_URI,
    [0x7f] = BYTE_PLAIN,
};

static bool byte_is(char c, unsigned kinds)
{
    const unsigned char b = (unsigned char)c;
    return b < 128 && (BYTES[b] & kinds);
}

static struct str scan_between(const struct scanner *s, size_t from)
{
    return (struct str){s->p + from, s->at - from};
}

static bool scan_space(struct scanner *s)
{
    const size_t from = s->at;
    while (s->at < s->n && byte_is(s->p[s->at], BYTE_SPACE))
        s->at++;
    return s->at > from;
}

/* In place: of a token that is written there, a comparison of a few bytes is left. */
static inline __attribute__((always_inline)) bool scan_token(struct scanner *s, struct str token)
{
    if (!token_at(s->p + s->at, s->n - s->at, token))
        return false;
    s->at += token.n;
    return true;
}

/* A character above ASCII that XML allows: its length; 0: something else. */
static size_t scan_character(const struct scanner *s)
{
    const size_t n = str_utf8_length((struct str){s->p + s->at, s->n - s->at});
    const unsigned char *c = (const unsigned char *)s->p + s->at;
    return n == 3 && c[0] == 0xEF && c[1] == 0xBF && c[2] >= 0xBE ? 0 : n; /* U+FFFE and U+FFFF are none */
}

/* Moves over bytes of these kinds, of which plain ones are, and characters above ASCII. */
static bool scan_run(struct scanner *s, unsigned kinds)
{
    for (;;) {
        s->at += run_plain(s->p + s->at, s->n - s->at);
        if (s->at == s->n)
            return true;
        const unsigned char c = (unsigned char)s->p[s->at];
        if (c < 128 && !(BYTES[c] & kinds))
            return true;
        const size_t n = c < 128 ? 1 : scan_character(s);
        if (n == 0)
            return false;
        s->at += n;
    }
}

/* name="value" of the XML declaration with one of two values; where it is not that, nothing is passed over. */
static bool scan_pseudo(struct scanner *s, struct str name, struct str value, struct str other)
{
    const size_t before = s->at;
    if (scan_token(s, name) && s->n - s->at >= 2 && s->p[s->at] == '=') {
        const char quote = s->p[s->at + 1];
        s->at += 2;
        if ((quote == '"' || quote == '\'') && (scan_token(s, value) || scan_token(s, other)) && s->at < s->n &&
            s->p[s->at] == quote) {
            s->at++;
            return true;
        }
    }
    s->at = before;
    return false;
}

static bool scan_declaration(struct scanner *s)
{
    if (!scan_token(s, STR("<?xml")))
        return true;
    if (!scan_space(s) || !scan_pseudo(s, STR("version"), STR("1.0"), STR("1.0")))
        return false;
    bool space = scan_space(s);
    if (space && scan_pseudo(s, STR("encoding"), STR("UTF-8"), STR("utf-8")))
        space = scan_space(s);
    if (space && scan_pseudo(s, STR("standalone"), STR("yes"), STR("no")))
        scan_space(s);
    return scan_token(s, STR("?>"));
}

bool scanner_begin(struct scanner *s, struct str text)
{
    if (!text.p)
        return false;
    *s = (struct scanner){.p = text.p, .n = text.n};
    (void)scan_token(s, STR("\xEF\xBB\xBF"));
    return scan_declaration(s);
}

/* A name with at most one prefix. */
static bool scan_name(struct scanner *s, struct str *name, struct str *prefix, struct str *local)
{
    const size_t from = s->at;
    size_t colon = 0;
    for (;;) {
        const size_t part = s->at;
        if (s->at == s->n || !byte_is(s->p[s->at], BYTE_NAME_START))
            return false;
        s->at += run_name(s->p + s->at, s->n - s->at);
        *local = scan_between(s, part);
        if (s->at == s->n || s->p[s->at] != ':')
            break;
        if (colon)
            return false;
        colon = s->at++;
    }
    *name = scan_between(s, from);
    *prefix = (struct str){s->p + from, colon ? colon - from : 0};
    return true;
}

/* A value without references, line ends and quotes: it is its own canonical form. */
static bool scan_value(struct scanner *s, struct str *value)
{
    scan_space(s);
    if (s->n - s->at < 2 || s->p[s->at] != '=')
        return false;
    s->at++;
    scan_space(s);
    if (s->at == s->n || (s->p[s->at] != '"' && s->p[s->at] != '\''))
        return false;
    const char quote = s->p[s->at++];
    const size_t from = s->at;
    if (!scan_run(s, BYTE_VALUE) || s->at == s->n || s->p[s->at] != quote)
        return false;
    *value = scan_between(s, from);
    s->at++;
    return true;
}

static bool plain_run(struct str s, size_t *at)
{
    const size_t from = *at;
    while (*at < s.n && byte_is(s.p[*at], BYTE_URI))
        ++*at;
    return *at > from;
}

/* urn:a:b or http://host/path#fragment of plain characters: what every reader takes for an absolute URI. */
static bool plain_uri(struct str s)
{
    if (str_eq(s, STR(NS_KMS)) || str_eq(s, STR(NS_DS))) /* nearly each is one of these */
        return true;
    const bool urn = str_starts(s, STR("urn:"));
    size_t at = urn ? 4 : str_starts(s, STR("http://")) ? 7 : str_starts(s, STR("https://")) ? 8 : 0;
    if (at == 0 || (at < s.n && s.p[at] == '/') || !plain_run(s, &at))
        return false;
    while (urn && at < s.n && s.p[at] == ':' && at++ < s.n) {
        if (!plain_run(s, &at))
            return false;
    }
    if (!urn && at < s.n && s.p[at] == '#') {
        at++;
        (void)plain_run(s, &at);
    }
    return at == s.n && !str_starts(s, STR("http://www.w3.org/XML/1998/")) &&
           !str_starts(s, STR("http://www.w3.org/2000/xmlns"));
}

static bool scan_declare(struct scanner *s, const struct scan_tag *tag, struct str prefix, struct str uri)
{
    if (s->declared == SCAN_NAMESPACES || str_starts(prefix, STR("xml")) || !plain_uri(uri))
        return false;
    for (unsigned i = tag->scope_before; i < s->scope_count; i++) {
        if (str_eq(s->scope[i].prefix, prefix))
            return false;
    }
    s->declared++;
    s->scope[s->scope_count++] = (struct scan_namespace){prefix, uri};
    return true;
}

/* One attribute, or a namespace declaration. */
static bool scan_attribute(struct scanner *s, struct scan_tag *tag)
{
    struct scan_attribute a;
    struct str name;
    if (!scan_name(s, &name, &a.prefix, &a.local) || !scan_value(s, &a.value))
        return false;
    if (str_eq(name, STR("xmlns")))
        return scan_declare(s, tag, STR(""), a.value);
    if (str_eq(a.prefix, STR("xmlns")))
        return scan_declare(s, tag, a.local, a.value);
    if (tag->attribute_count == SCAN_ATTRIBUTES)
        return false;
    for (unsigned i = 0; i < tag->attribute_count; i++) {
        if (str_eq(tag->attributes[i].local, a.local) && str_eq(tag->attributes[i].prefix, a.prefix))
            return false;
    }
    tag->attributes[tag->attribute_count++] = a;
    return true;
}

struct str scanner_uri(const struct scanner *s, struct str prefix)
{
    for (unsigned i = s->scope_count; i > 0; i--) {
        const struct scan_namespace *ns = &s->scope[i - 1];
        if (ns->prefix.n == prefix.n && (prefix.n == 0 || str_eq(ns->prefix, prefix)))
            return ns->uri;
    }
    return STR_MISSING;
}

bool scanner_start(struct scanner *s, struct scan_tag *tag)
{
    tag->attribute_count = 0;
    tag->scope_before = s->scope_count;
    tag->empty = false;
    scan_space(s);
    if (s->depth == SCAN_DEPTH || !scan_token(s, STR("<")) || !scan_name(s, &tag->name, &tag->prefix, &tag->local))
        return false;
    for (;;) {
        if (scan_token(s, STR(">")))
            break;
        const bool space = scan_space(s);
        if (space && scan_token(s, STR(">")))
            break;
        if (scan_token(s, STR("/>"))) {
            tag->empty = true;
            break;
        }
        if (!space || !scan_attribute(s, tag))
            return false;
    }
    s->depth++;
    tag->uri = scanner_uri(s, tag->prefix);
    return tag->uri.p || tag->prefix.n == 0;
}

bool scanner_end(struct scanner *s, const struct scan_tag *tag)
{
    if (!tag->empty) {
        if (!scan_token(s, STR("</")) || !scan_token(s, tag->name))
            return false;
        if (!scan_token(s, STR(">")) && !(scan_space(s) && scan_token(s, STR(">"))))
            return false;
    }
    s->scope_count = tag->scope_before;
    s->depth--;
    return true;
}

/* At `&`: one of the five entities or the reference that canonical text has, as canonical text. */
static bool scan_entity(struct scanner *s, struct canon *c)
{
    static const struct {
        const char *entity, *canonical;
    } ENTITIES[] = {
        {"&amp;", "&amp;"}, {"&lt;", "&lt;"}, {"&gt;", "&gt;"}, {"&quot;", "\""}, {"&apos;", "'"},
        {"&#xD;", "&#xD;"},
    };
    for (size_t i = 0; i < sizeof ENTITIES / sizeof *ENTITIES; i++) {
        if (scan_token(s, str_z(ENTITIES[i].entity))) {
            canon_bytes(c, str_z(ENTITIES[i].canonical));
            return true;
        }
    }
    return false;
}

bool scanner_text(struct scanner *s, struct canon *c, struct str *out)
{
    const size_t start = c->n;
    for (;;) {
        const size_t from = s->at;
        if (!scan_run(s, BYTE_TEXT))
            return false;
        canon_bytes(c, scan_between(s, from));
        if (s->at == s->n)
            return false;
        if (s->p[s->at] == '<')
            break;
        if (s->p[s->at] == '&') {
            if (!scan_entity(s, c))
                return false;
        } else if (s->p[s->at] == '>' && (s->at == 0 || s->p[s->at - 1] != ']')) { /* "]]>" may not stand in text */
            s->at++;
            canon_bytes(c, STR("&gt;"));
        } else {
            return false;
        }
    }
    *out = (struct str){c->p + start, c->n - start};
    return !c->full;
}

bool scanner_blank(struct scanner *s, struct canon *c)
{
    const size_t from = s->at;
    if (s->at < s->n && s->p[s->at] == '<')
        return !(c && c->full);
    while (s->at < s->n && byte_is(s->p[s->at], BYTE_SPACE) && s->p[s->at] != '\r')
        s->at++;
    if (c)
        canon_bytes(c, scan_between(s, from));
    return s->at < s->n && s->p[s->at] == '<' && !(c && c->full);
}

void scanner_space(struct scanner *s)
{
    (void)scan_space(s);
}

struct str scanner_hex(struct scanner *s)
{
    const size_t from = s->at;
    s->at += run_hex(s->p + s->at, s->n - s->at);
    return scan_between(s, from);
}

bool scanner_at_end_tag(const struct scanner *s)
{
    return s->n - s->at >= 2 && s->p[s->at] == '<' && s->p[s->at + 1] == '/';
}

bool scanner_done(struct scanner *s)
{
    scan_space(s);
    return s->depth == 0 && s->at == s->n;
}

bool scan_tag_is(const struct scan_tag *tag, struct str uri, struct str local)
{
    return str_eq(tag->local, local) && str_eq(tag->uri, uri);
}

const struct scan_attribute *scan_attribute_named(const struct scan_tag *tag, struct str local)
{
    for (unsigned i = 0; i < tag->attribute_count; i++) {
        if (tag->attributes[i].prefix.n == 0 && str_eq(tag->attributes[i].local, local))
            return &tag->attributes[i];
    }
    return NULL;
}
