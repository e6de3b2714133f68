#include <string.h>

#include "message/xml_internal.h"

/* Deep enough for every struct xml_limits: a stack of the names of open elements. */
enum { OPEN_MAX = 40 };

struct scan {
    const char *start, *p, *end;
    const struct xml_limits *limits;
    struct detail *why;
    struct str open[OPEN_MAX];
    unsigned declared[OPEN_MAX]; /* by each open element */
    unsigned depth, elements, declarations, attributes, in_scope;
    const char *next[3]; /* see nearest() */
};

static enum reason malformed(struct scan *s, const char *what)
{
    detail_set(s->why, "at byte %zu: %s", (size_t)(s->p - s->start), what);
    return REASON_XML_MALFORMED;
}

static enum reason forbidden(struct scan *s, const char *what)
{
    detail_set(s->why, "at byte %zu: found %s, expected none", (size_t)(s->p - s->start), what);
    return REASON_XML_FORBIDDEN;
}

static enum reason over(struct scan *s, const char *what, unsigned limit)
{
    detail_set(s->why, "at byte %zu: found more than %u %s, expected at most that", (size_t)(s->p - s->start), limit,
               what);
    return REASON_XML_FORBIDDEN;
}

static bool at(const struct scan *s, struct str token)
{
    return s->p < s->end && *s->p == *token.p && str_starts((struct str){s->p, (size_t)(s->end - s->p)}, token);
}

static bool xml_scan_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct scan *s)
{
    while (s->p < s->end && xml_scan_space(*s->p))
        s->p++;
}

/* Moves behind the next `token`; false when there is none. */
static bool skip_past(struct scan *s, struct str token)
{
    const char *found = memmem(s->p, (size_t)(s->end - s->p), token.p, token.n);
    if (found)
        s->p = found + token.n;
    return found != NULL;
}

/* Names of ASCII exactly; which other characters a name may hold, libxml2 knows. */
static bool begins_name(unsigned char c)
{
    return (unsigned)((c | 0x20) - 'a') < 26 || c == '_' || c == ':' || c >= 0x80;
}

static bool goes_on_in_name(unsigned char c)
{
    return begins_name(c) || (unsigned)(c - '0') < 10 || c == '-' || c == '.';
}

static struct str xml_scan_name(struct scan *s)
{
    const char *from = s->p;
    if (s->p < s->end && begins_name((unsigned char)*s->p))
        while (++s->p < s->end && goes_on_in_name((unsigned char)*s->p))
            ;
    return (struct str){from, (size_t)(s->p - from)};
}

static bool is_char(uint32_t c)
{
    return c == 9 || c == 10 || c == 13 || (c >= 0x20 && c <= 0xD7FF) || (c >= 0xE000 && c <= 0xFFFD) ||
           (c >= 0x10000 && c <= 0x10FFFF);
}

static bool character_reference(struct scan *s)
{
    const bool hex = s->p < s->end && *s->p == 'x';
    uint32_t value = 0;
    size_t digits = 0;
    if (hex)
        s->p++;
    for (; s->p < s->end && *s->p != ';'; s->p++, digits++) {
        const char c = *s->p;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if (hex && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
            digit = (uint32_t)((c | 0x20) - 'a') + 10;
        else
            return false;
        value = value * (hex ? 16 : 10) + digit;
        if (value > 0x10FFFF)
            return false;
    }
    return digits > 0 && s->p < s->end && is_char(value);
}

/* At "&". Without a DTD there are five entities. */
static enum reason scan_reference(struct scan *s)
{
    static const char *const known[] = {"&lt;", "&gt;", "&amp;", "&quot;", "&apos;"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (at(s, str_z(known[i]))) {
            s->p += strlen(known[i]);
            return REASON_OK;
        }
    }
    if (!at(s, STR("&#")))
        return malformed(s, "found an unknown entity, expected &lt; &gt; &amp; &quot; &apos; or a character reference");
    s->p += 2;
    if (!character_reference(s))
        return malformed(s, "found a character reference that names no character of XML");
    s->p++;
    return REASON_OK;
}

static const char *up_to(const char *p, const char *end, char c)
{
    const char *found = memchr(p, c, (size_t)(end - p));
    return found ? found : end;
}

static enum reason attribute_value(struct scan *s)
{
    if (s->p == s->end || (*s->p != '"' && *s->p != '\''))
        return malformed(s, "expected a quoted attribute value");
    const char quote = *s->p++;
    const char *close = up_to(s->p, s->end, quote);
    const char *less = up_to(s->p, close, '<');
    if (less < close) {
        s->p = less;
        return malformed(s, "found < in an attribute value");
    }
    while ((s->p = up_to(s->p, close, '&')) < close) {
        const enum reason r = scan_reference(s);
        if (r != REASON_OK)
            return r;
    }
    if (s->p == s->end)
        return malformed(s, "the text ends within an attribute value");
    s->p++;
    return REASON_OK;
}

static enum reason count_declaration(struct scan *s, unsigned *declared)
{
    if (++s->declarations > s->limits->declarations)
        return over(s, "namespace declarations", s->limits->declarations);
    if (s->in_scope + ++*declared > s->limits->in_scope)
        return over(s, "namespace declarations in scope", s->limits->in_scope);
    return REASON_OK;
}

static enum reason xml_scan_attribute(struct scan *s, unsigned *attributes, unsigned *declared)
{
    const struct str n = xml_scan_name(s);
    if (n.n == 0)
        return malformed(s, "expected an attribute's name, > or />");
    if (n.p[0] == 'x' && (str_eq(n, STR("xmlns")) || str_starts(n, STR("xmlns:")))) {
        const enum reason r = count_declaration(s, declared);
        if (r != REASON_OK)
            return r;
    } else if (++*attributes > s->limits->attributes) {
        return over(s, "attributes in an element", s->limits->attributes);
    } else if (++s->attributes > s->limits->attributes_all) {
        return over(s, "attributes", s->limits->attributes_all);
    }
    skip_space(s);
    if (s->p == s->end || *s->p != '=')
        return malformed(s, "expected = behind an attribute's name");
    s->p++;
    skip_space(s);
    return attribute_value(s);
}

/* At "<" and a name: libxml2 looks for doubles and binds prefixes, this counts. */
static enum reason start_tag(struct scan *s)
{
    unsigned attributes = 0, declared = 0;
    s->p++;
    const struct str n = xml_scan_name(s);
    if (n.n == 0)
        return malformed(s, "expected a name behind <");
    if (s->depth == 0 && s->elements > 0)
        return malformed(s, "found a second root element");
    if (++s->elements > s->limits->elements)
        return over(s, "elements", s->limits->elements);
    if (s->depth >= s->limits->depth || s->depth >= OPEN_MAX)
        return over(s, "levels of elements", s->limits->depth);
    for (;;) {
        const char *before = s->p;
        skip_space(s);
        if (at(s, STR("/>"))) {
            s->p += 2;
            return REASON_OK;
        }
        if (at(s, STR(">"))) {
            s->p++;
            s->in_scope += declared;
            s->declared[s->depth] = declared;
            s->open[s->depth++] = n;
            return REASON_OK;
        }
        if (before == s->p)
            return malformed(s, "expected white space, > or /> in a start tag");
        const enum reason r = xml_scan_attribute(s, &attributes, &declared);
        if (r != REASON_OK)
            return r;
    }
}

static enum reason end_tag(struct scan *s)
{
    s->p += 2;
    const struct str n = xml_scan_name(s);
    if (s->depth == 0 || !str_eq(n, s->open[s->depth - 1]))
        return malformed(s, "found an end tag that closes no open element");
    skip_space(s);
    if (!at(s, STR(">")))
        return malformed(s, "expected > in an end tag");
    s->p++;
    s->in_scope -= s->declared[--s->depth];
    return REASON_OK;
}

/* At "<!": a comment, CDATA, or a declaration. */
static enum reason declaration(struct scan *s)
{
    if (at(s, STR("<!--"))) {
        if (!s->limits->drop_comments)
            return forbidden(s, "a comment");
        s->p += 4;
        return skip_past(s, STR("-->")) ? REASON_OK : malformed(s, "the text ends within a comment");
    }
    if (at(s, STR("<!DOCTYPE")))
        return forbidden(s, "a document type declaration");
    if (!at(s, STR("<![CDATA[")) || s->depth == 0)
        return malformed(s, "found markup that is none");
    s->p += 9;
    return skip_past(s, STR("]]>")) ? REASON_OK : malformed(s, "the text ends within a CDATA section");
}

static enum reason instruction(struct scan *s)
{
    if (!s->limits->drop_comments)
        return forbidden(s, "a processing instruction");
    s->p += 2;
    return skip_past(s, STR("?>")) ? REASON_OK : malformed(s, "the text ends within a processing instruction");
}

/* The next `<`, `&` or `]`. Where each is next is remembered, or many of one would be sought past again and again. */
static const char *nearest(struct scan *s)
{
    static const char SOUGHT[] = {'<', '&', ']'};
    const char *best = s->end;
    for (size_t i = 0; i < sizeof SOUGHT; i++) {
        if (!s->next[i] || s->next[i] < s->p)
            s->next[i] = up_to(s->p, s->end, SOUGHT[i]);
        best = s->next[i] < best ? s->next[i] : best;
    }
    return best;
}

/* At anything but "<": up to the next byte that needs a look. */
static enum reason character_data(struct scan *s)
{
    if (s->depth == 0 && !xml_scan_space(*s->p))
        return malformed(s, "found text outside the root element");
    if (*s->p == '&')
        return scan_reference(s);
    if (at(s, STR("]]>")))
        return malformed(s, "found ]]> in text");
    s->p++;
    if (s->depth)
        s->p = nearest(s);
    return REASON_OK;
}

static enum reason content(struct scan *s)
{
    while (s->p < s->end) {
        enum reason r;
        const char second = s->p + 1 < s->end ? s->p[1] : '\0';
        if (*s->p != '<')
            r = character_data(s);
        else if (second == '/')
            r = end_tag(s);
        else if (second == '!')
            r = declaration(s);
        else if (second == '?')
            r = instruction(s);
        else
            r = start_tag(s);
        if (r != REASON_OK)
            return r;
    }
    if (s->elements == 0)
        return malformed(s, "found no root element");
    return s->depth == 0 ? REASON_OK : malformed(s, "the text ends within an element");
}

/* One of the XML declaration's pairs, such as version='1.0', if it is there. False when it is malformed. */
static bool pseudo_attribute(struct scan *s, struct str key, struct str *value)
{
    const char *before = s->p;
    *value = STR_MISSING;
    skip_space(s);
    if (!at(s, key)) {
        s->p = before;
        return true;
    }
    if (before == s->p)
        return false;
    s->p += key.n;
    skip_space(s);
    if (!at(s, STR("=")))
        return false;
    s->p++;
    skip_space(s);
    if (s->p == s->end || (*s->p != '"' && *s->p != '\''))
        return false;
    const char *from = s->p + 1;
    const char *to = memchr(from, *s->p, (size_t)(s->end - from));
    if (!to)
        return false;
    *value = (struct str){from, (size_t)(to - from)};
    s->p = to + 1;
    return true;
}

static enum reason xml_declaration(struct scan *s)
{
    struct str version, encoding, standalone;
    if (!at(s, STR("<?xml")) || s->end - s->p < 6 || !xml_scan_space(s->p[5]))
        return REASON_OK;
    s->p += 5;
    if (!pseudo_attribute(s, STR("version"), &version) || !version.p ||
        !pseudo_attribute(s, STR("encoding"), &encoding) || !pseudo_attribute(s, STR("standalone"), &standalone))
        return malformed(s, "the XML declaration is malformed");
    skip_space(s);
    if (!at(s, STR("?>")))
        return malformed(s, "the XML declaration is malformed");
    if (!str_eq_z(version, "1.0")) {
        detail_set(s->why, "found XML version %.*s, expected 1.0", (int)(version.n < 16 ? version.n : 16), version.p);
        return REASON_XML_FORBIDDEN;
    }
    if (encoding.p && !str_ieq_z(encoding, "UTF-8")) {
        detail_set(s->why, "found encoding %.*s, expected UTF-8", (int)(encoding.n < 32 ? encoding.n : 32), encoding.p);
        return REASON_XML_FORBIDDEN;
    }
    s->p += 2;
    return REASON_OK;
}

/* The first octets of UTF-16 and UTF-32, with a byte order mark and without, and of EBCDIC (XML 1.0, appendix F). */
static bool foreign_encoding(struct str t)
{
    return str_starts(t, (struct str){"\xFE\xFF", 2}) || str_starts(t, (struct str){"\xFF\xFE", 2}) ||
           str_starts(t, (struct str){"\0<", 2}) || str_starts(t, (struct str){"<\0", 2}) ||
           str_starts(t, (struct str){"\0\0\0<", 4}) || str_starts(t, (struct str){"\0\0\xFE\xFF", 4}) ||
           str_starts(t, (struct str){"\x4C\x6F\xA7\x94", 4});
}

/* True when none of eight bytes is a control or above ASCII. */
static bool plain_eight(const char *p)
{
    const uint64_t HIGH = UINT64_C(0x8080808080808080), SPACES = UINT64_C(0x2020202020202020);
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return !((v | (v - SPACES)) & HIGH);
}

static enum reason characters(struct scan *s)
{
    if (!str_is_utf8((struct str){s->p, (size_t)(s->end - s->p)})) {
        for (size_t n; (n = str_utf8_length((struct str){s->p, (size_t)(s->end - s->p)})) > 0;)
            s->p += n;
        return malformed(s, "the text is not UTF-8");
    }
    for (const char *p = s->p; p < s->end; p++) {
        while (s->end - p >= 8 && plain_eight(p)) /* nearly all of it */
            p += 8;
        if (p == s->end)
            break;
        const unsigned char c = (unsigned char)*p;
        const bool no_character =
            c == 0xEF && s->end - p > 2 && (unsigned char)p[1] == 0xBF && (unsigned char)p[2] >= 0xBE;
        if ((c < 0x20 && !xml_scan_space(*p)) || no_character) {
            s->p = p;
            return malformed(s, "found a character that XML does not allow");
        }
    }
    return REASON_OK;
}

enum reason xml_scan(struct str text, const struct xml_limits *limits, struct str *body, struct detail *why)
{
    struct scan s = {.limits = limits, .why = why};
    if (!text.p)
        text = STR("");
    if (foreign_encoding(text)) {
        detail_set(why, "found another encoding than UTF-8");
        return REASON_XML_FORBIDDEN;
    }
    if (str_starts(text, STR("\xEF\xBB\xBF")))
        text = (struct str){text.p + 3, text.n - 3};
    *body = text;
    s.start = s.p = text.p;
    s.end = text.p + text.n;
    enum reason r = characters(&s);
    if (r == REASON_OK)
        r = xml_declaration(&s);
    return r == REASON_OK ? content(&s) : r;
}
