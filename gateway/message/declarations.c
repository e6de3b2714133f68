#include "message/declarations.h"

#include <string.h>

#include "message/xml.h"

/* What senders and the proxies before them declare on an envelope, in the order of C14N. */
static const struct {
    const char *prefix, *uri;
} KNOWN[] = {
    {"ds", NS_DS},
    {"env", "http://www.w3.org/2003/05/soap-envelope"},
    {"krr", "urn:3gpp:ns:mcsecKMSKRR:1.0"},
    {"soap", "http://schemas.xmlsoap.org/soap/envelope/"},
    {"soapenv", "http://schemas.xmlsoap.org/soap/envelope/"},
    {"xenc", NS_XENC},
    {"xenc11", NS_XENC11},
    {"xsd", "http://www.w3.org/2001/XMLSchema"},
    {"xsi", NS_XSI},
};
enum { KNOWN_COUNT = sizeof KNOWN / sizeof *KNOWN };

struct str declarations_of(struct str text)
{
    const char *end = text.p + text.n, *from = text.p;
    while (from < end && *from != ' ' && *from != '>')
        from++;
    const char *to = from;
    for (;;) {
        const struct str rest = {to, (size_t)(end - to)};
        if (!str_starts(rest, STR(" xmlns=")) && !str_starts(rest, STR(" xmlns:")))
            break;
        const char *open = memchr(to, '"', (size_t)(end - to));
        const char *close = open ? memchr(open + 1, '"', (size_t)(end - open - 1)) : NULL;
        if (!close)
            break;
        to = close + 1;
    }
    return (struct str){from, (size_t)(to - from)};
}

/* Takes the first declaration, ` xmlns:prefix="…"`, off *rest; its prefix, empty for the default namespace. */
static struct str declarations_take(struct str *rest, struct str *whole)
{
    const char *equals = memchr(rest->p, '=', rest->n);
    const char *close = equals ? memchr(equals + 2, '"', rest->n - (size_t)(equals + 2 - rest->p)) : NULL;
    const size_t size = close ? (size_t)(close + 1 - rest->p) : rest->n;
    const bool prefixed = equals && rest->p[6] == ':';
    const struct str prefix = {rest->p + 7, prefixed ? (size_t)(equals - rest->p - 7) : 0};
    *whole = (struct str){rest->p, size};
    *rest = (struct str){rest->p + size, rest->n - size};
    return prefix;
}

size_t declarations_count(struct str text)
{
    struct str rest = declarations_of(text), whole;
    size_t n = 0;
    while (rest.n)
        n += declarations_take(&rest, &whole).n > 0;
    return n;
}

static unsigned count_bits(unsigned set)
{
    unsigned n = 0;
    for (; set; set &= set - 1)
        n++;
    return n;
}

bool declarations_next(size_t n, unsigned most, unsigned *set)
{
    enum { SETS_MOST = 16 };
    const unsigned end = 1u << (n < SETS_MOST ? n : SETS_MOST);
    for (unsigned size = *set ? count_bits(*set) : 1; size <= most; size++, *set = 0)
        for (unsigned next = *set + 1; next < end; next++)
            if (count_bits(next) == size) {
                *set = next;
                return true;
            }
    return false;
}

bool declarations_drop(struct str text, unsigned set, struct buf *out)
{
    const struct str all = declarations_of(text);
    struct str rest = all, whole;
    buf_bytes(out, text.p, (size_t)(all.p - text.p));
    for (size_t i = 0; rest.n;) {
        const bool prefixed = declarations_take(&rest, &whole).n > 0;
        if (!prefixed || !(set & 1u << i))
            buf_str(out, whole);
        i += prefixed;
    }
    buf_bytes(out, all.p + all.n, text.n - (size_t)(all.p + all.n - text.p));
    return !out->failed;
}

size_t declarations_known(void)
{
    return KNOWN_COUNT;
}

/* Of two different prefixes. */
static bool stands_before(struct str a, struct str b)
{
    size_t i = 0;
    while (i < a.n && i < b.n && a.p[i] == b.p[i])
        i++;
    return i == a.n || (i < b.n && (unsigned char)a.p[i] < (unsigned char)b.p[i]);
}

bool declarations_add(struct str text, unsigned set, struct buf *out)
{
    struct str rest = declarations_of(text), whole;
    const char *behind = rest.p + rest.n;
    buf_bytes(out, text.p, (size_t)(rest.p - text.p));
    for (size_t i = 0; i < KNOWN_COUNT; i++) {
        const struct str mine = str_z(KNOWN[i].prefix);
        if (!(set & 1u << i))
            continue;
        while (rest.n) {
            struct str next = rest;
            const struct str theirs = declarations_take(&next, &whole);
            if (str_eq(theirs, mine))
                return false;
            if (!stands_before(theirs, mine))
                break;
            buf_str(out, whole);
            rest = next;
        }
        buf_printf(out, " xmlns:%s=\"%s\"", KNOWN[i].prefix, KNOWN[i].uri);
    }
    buf_bytes(out, rest.p, rest.n);
    buf_bytes(out, behind, text.n - (size_t)(behind - text.p));
    return !out->failed;
}

static void declarations_name(struct buf *names, struct str prefix)
{
    if (names->n + prefix.n + 6 > DECLARATIONS_NAMES)
        return;
    buf_z(names, names->n ? ", " : "");
    buf_str(names, prefix);
}

static void put_names(const struct buf *names, char out[DECLARATIONS_NAMES])
{
    out[0] = '\0';
    if (names->p && names->n < DECLARATIONS_NAMES)
        memcpy(out, names->p, names->n + 1);
}

void declarations_known_names(unsigned set, char out[DECLARATIONS_NAMES])
{
    struct buf names BUF_CLEANUP = BUF_INIT(DECLARATIONS_NAMES);
    for (size_t i = 0; i < KNOWN_COUNT; i++)
        if (set & 1u << i)
            declarations_name(&names, str_z(KNOWN[i].prefix));
    put_names(&names, out);
}

static bool declares(struct str text, struct str declaration)
{
    struct str rest = declarations_of(text), whole;
    while (rest.n) {
        (void)declarations_take(&rest, &whole);
        if (str_eq(whole, declaration))
            return true;
    }
    return false;
}

void declarations_more(struct str text, struct str other, char out[DECLARATIONS_NAMES])
{
    struct buf names BUF_CLEANUP = BUF_INIT(DECLARATIONS_NAMES);
    struct str rest = declarations_of(text), whole;
    while (rest.n) {
        const struct str prefix = declarations_take(&rest, &whole);
        if (prefix.n && !declares(other, whole))
            declarations_name(&names, prefix);
    }
    put_names(&names, out);
}
