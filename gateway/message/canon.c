#include <string.h>

#include "message/scanner.h"

/* Negative, zero, positive as prefixes are sorted: by bytes, the default namespace first. */
static int canon_order(struct str a, struct str b)
{
    const size_t n = a.n < b.n ? a.n : b.n;
    const int bytes = n ? strncmp(a.p, b.p, n) : 0; /* names hold no NUL */
    return bytes ? bytes : (a.n > b.n) - (a.n < b.n);
}

/* The declaration that counts for its prefix within the first `count` of the scope; missing: there is none. */
static struct str canon_uri(const struct scanner *s, unsigned count, struct str prefix)
{
    for (unsigned i = count; i > 0; i--) {
        if (str_eq(s->scope[i - 1].prefix, prefix))
            return s->scope[i - 1].uri;
    }
    return STR_MISSING;
}

static void canon_declare(struct canon *c, const struct scan_namespace *ns)
{
    canon_bytes(c, STR(" xmlns"));
    if (ns->prefix.n) {
        canon_bytes(c, STR(":"));
        canon_bytes(c, ns->prefix);
    }
    canon_bytes(c, STR("=\""));
    canon_bytes(c, ns->uri); /* plain: it needs no escapes */
    canon_bytes(c, STR("\""));
}

void canon_start(struct canon *c, const struct scanner *s, const struct scan_tag *tag, bool apex)
{
    const struct scan_namespace *sorted[SCAN_NAMESPACES];
    unsigned count = 0;
    canon_bytes(c, STR("<"));
    canon_bytes(c, tag->name);
    for (unsigned i = apex ? 0 : tag->scope_before; i < s->scope_count; i++) {
        const struct scan_namespace *ns = &s->scope[i];
        const struct str here = canon_uri(s, s->scope_count, ns->prefix);
        if (here.p != ns->uri.p || (!apex && str_eq(canon_uri(s, tag->scope_before, ns->prefix), ns->uri)))
            continue; /* hidden by a nearer one, or the parent has it already */
        unsigned at = count++;
        for (; at > 0 && canon_order(ns->prefix, sorted[at - 1]->prefix) < 0; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = ns;
    }
    for (unsigned i = 0; i < count; i++)
        canon_declare(c, sorted[i]);
}

void canon_attribute(struct canon *c, const struct scan_attribute *a, struct str *value)
{
    canon_bytes(c, STR(" "));
    if (a->prefix.n) {
        canon_bytes(c, a->prefix);
        canon_bytes(c, STR(":"));
    }
    canon_bytes(c, a->local);
    canon_bytes(c, STR("=\""));
    *value = (struct str){c->p + c->n, a->value.n};
    canon_bytes(c, a->value);
    canon_bytes(c, STR("\""));
}

void canon_end(struct canon *c, const struct scan_tag *tag)
{
    canon_bytes(c, STR("</"));
    canon_bytes(c, tag->name);
    canon_bytes(c, STR(">"));
}

struct str canon_decode(struct str text, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        const struct str rest = {text.p + i, text.n - i};
        const struct {
            struct str reference;
            char c;
        } known[] = {{STR("&amp;"), '&'}, {STR("&lt;"), '<'}, {STR("&gt;"), '>'}, {STR("&#xD;"), '\r'}};
        size_t k = 0;
        while (rest.p[0] == '&' && k < 4 && !str_starts(rest, known[k].reference))
            k++;
        const bool is = rest.p[0] == '&' && k < 4;
        out[n++] = is ? known[k].c : rest.p[0];
        i += is ? known[k].reference.n : 1;
    }
    return (struct str){out, n};
}
