#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/c14n.h>

#include "message/xml_internal.h"

/*
 * Two ways to one text. The first writes inclusive C14N 1.0 straight from the tree: it is what nearly every message
 * needs, at a tenth of the cost. It knows elements, text, attributes of one text and declared namespaces; at anything
 * else it gives up, and libxml2 does it, as it does the other forms. Tests hold the first against the second.
 */

size_t xml_canonical_ceiling(size_t n)
{
    return n > (SIZE_MAX - 65536) / 8 ? SIZE_MAX : 8 * n + 65536;
}

static bool omitted(const struct xml_subtree *part, const xmlNode *n)
{
    if (n == part->omit)
        return true;
    if (part->own_elements && n->type == XML_ELEMENT_NODE && !xml_in(n, NS_KMS) && !xml_in_krr_list(n))
        return true;
    if (!part->omit_named || n->parent != part->apex || n->type != XML_ELEMENT_NODE)
        return false;
    for (const char *const *name = part->omit_named; *name; name++) {
        if (xml_is(n, NS_KMS, *name))
            return true;
    }
    return false;
}

enum { SORTED_MAX = 40 }; /* attributes, or namespaces in scope, of one element; with more it gives up */

static struct str canonical_view(const xmlChar *z)
{
    return z ? str_z((const char *)z) : STR("");
}

static int by_bytes(const xmlChar *a, const xmlChar *b)
{
    return strcmp(a ? (const char *)a : "", b ? (const char *)b : "");
}

/*
 * The namespaces in scope, and how each two of them are ordered, once that was asked: URIs may be as long as a message
 * is, and stand on each of many attributes. With more than there is room for, the text is compared.
 */
struct scope {
    const xmlNs *ns[SORTED_MAX];
    size_t n;
    enum { UNKNOWN, LESS, SAME, MORE } order[SORTED_MAX][SORTED_MAX];
};

static void canonical_enter(struct scope *s, const xmlNode *n)
{
    for (const xmlNs *ns = n->nsDef; ns; ns = ns->next, s->n++) {
        if (s->n >= SORTED_MAX)
            continue;
        s->ns[s->n] = ns;
        for (size_t i = 0; i < s->n; i++)
            s->order[i][s->n] = s->order[s->n][i] = UNKNOWN;
    }
}

static void leave(struct scope *s, const xmlNode *n)
{
    for (const xmlNs *ns = n->nsDef; ns; ns = ns->next)
        s->n--;
}

/* Its place, or SORTED_MAX. */
static size_t place_in(const struct scope *s, const xmlNs *ns)
{
    size_t i = s->n < SORTED_MAX ? s->n : SORTED_MAX;
    while (i > 0 && s->ns[i - 1] != ns)
        i--;
    return i > 0 ? i - 1 : SORTED_MAX;
}

static int by_uri(struct scope *s, const xmlNs *a, const xmlNs *b)
{
    const size_t x = place_in(s, a), y = place_in(s, b);
    if (a == b)
        return 0;
    if (x == SORTED_MAX || y == SORTED_MAX)
        return by_bytes(a ? a->href : NULL, b ? b->href : NULL);
    if (s->order[x][y] == UNKNOWN) {
        const int order = by_bytes(a->href, b->href);
        s->order[x][y] = order < 0 ? LESS : order > 0 ? MORE : SAME;
        s->order[y][x] = order < 0 ? MORE : order > 0 ? LESS : SAME;
    }
    return (int)s->order[x][y] - SAME;
}

/* The URI that a prefix (NULL: the default) stands for at an element, "" for none. */
static const xmlChar *in_scope(const xmlNode *n, const xmlChar *prefix)
{
    for (; n && n->type == XML_ELEMENT_NODE; n = n->parent) {
        for (const xmlNs *ns = n->nsDef; ns; ns = ns->next)
            if (by_bytes(ns->prefix, prefix) == 0)
                return ns->href ? ns->href : (const xmlChar *)"";
    }
    return (const xmlChar *)"";
}

static int by_prefix(const void *a, const void *b)
{
    const xmlNs *const *x = a, *const *y = b;
    return by_bytes((*x)->prefix, (*y)->prefix);
}

/* Takes those of n that its parent does not have as well; of the apex's ancestors, those that nothing nearer hides. */
static bool take_namespaces(const xmlNode *n, const xmlNode *apex, const xmlNs **found, size_t *count)
{
    for (const xmlNode *from = n; from && from->type == XML_ELEMENT_NODE; from = from->parent) {
        for (const xmlNs *ns = from->nsDef; ns; ns = ns->next) {
            const xmlChar *above = n == apex ? (const xmlChar *)"" : in_scope(n->parent, ns->prefix);
            bool hidden = by_bytes(ns->href, above) == 0 || by_bytes(ns->prefix, (const xmlChar *)"xml") == 0;
            for (const xmlNode *near = n; near != from && !hidden; near = near->parent)
                for (const xmlNs *other = near->nsDef; other && !hidden; other = other->next)
                    hidden = by_bytes(other->prefix, ns->prefix) == 0;
            if (hidden)
                continue;
            if (*count == SORTED_MAX)
                return false;
            found[(*count)++] = ns;
        }
        if (n != apex)
            break;
    }
    return true;
}

static bool write_namespaces(const xmlNode *n, const xmlNode *apex, struct buf *out)
{
    const xmlNs *found[SORTED_MAX];
    size_t count = 0;
    for (const xmlNs *ns = n->nsDef; ns; ns = ns->next) {
        if (ns->href && ns->href[0] && !xml_absolute(ns->href)) /* that is libxml2's to refuse */
            return false;
    }
    if (n != apex && !n->nsDef)
        return true;
    if (!take_namespaces(n, apex, found, &count))
        return false;
    if (count > 1)
        /* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers are what is sorted */
        qsort(found, count, sizeof found[0], by_prefix);
    for (size_t i = 0; i < count; i++) {
        buf_str(out, STR(" xmlns"));
        if (found[i]->prefix) {
            buf_char(out, ':');
            buf_str(out, canonical_view(found[i]->prefix));
        }
        buf_str(out, STR("=\""));
        buf_xml_attr(out, canonical_view(found[i]->href));
        buf_char(out, '"');
    }
    return true;
}

static void write_name(const xmlNs *ns, const xmlChar *name, struct buf *out)
{
    if (ns && ns->prefix) {
        buf_str(out, canonical_view(ns->prefix));
        buf_char(out, ':');
    }
    buf_str(out, canonical_view(name));
}

/* By namespace URI, those in none first, then by local name. */
static bool comes_after(struct scope *s, const xmlAttr *x, const xmlAttr *y)
{
    const int uris = by_uri(s, x->ns, y->ns);
    return uris ? uris > 0 : by_bytes(x->name, y->name) > 0;
}

static bool write_attributes(const xmlNode *n, bool plain, struct scope *s, struct buf *out)
{
    const xmlAttr *found[SORTED_MAX];
    size_t count = 0;
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        size_t at = count;
        if (plain && a->ns)
            continue;
        if (count == SORTED_MAX || !xml_attr_value(a).p)
            return false;
        for (; at > 0 && comes_after(s, found[at - 1], a); at--)
            found[at] = found[at - 1];
        found[at] = a;
        count++;
    }
    for (size_t i = 0; i < count; i++) {
        buf_char(out, ' ');
        write_name(found[i]->ns, found[i]->name, out);
        buf_str(out, STR("=\""));
        buf_xml_attr(out, xml_attr_value(found[i]));
        buf_char(out, '"');
    }
    return true;
}

static bool write_start(const xmlNode *n, const struct xml_subtree *part, struct scope *s, struct buf *out)
{
    buf_char(out, '<');
    write_name(n->ns, n->name, out);
    canonical_enter(s, n);
    if (!write_namespaces(n, part->apex, out) || !write_attributes(n, part->plain_attributes, s, out))
        return false;
    buf_char(out, '>');
    return true;
}

static void write_end(const xmlNode *n, struct scope *s, struct buf *out)
{
    leave(s, n);
    buf_str(out, STR("</"));
    write_name(n->ns, n->name, out);
    buf_char(out, '>');
}

/* Attributes of XML's own namespace above the apex (xml:lang, xml:space) belong to it as well in this form. */
static bool inherits_attributes(const xmlNode *apex)
{
    for (const xmlNode *n = apex->parent; n && n->type == XML_ELEMENT_NODE; n = n->parent)
        for (const xmlAttr *a = n->properties; a; a = a->next)
            if (a->ns && by_bytes(a->ns->prefix, (const xmlChar *)"xml") == 0)
                return true;
    return false;
}

static bool write_tree(const struct xml_subtree *part, struct buf *out)
{
    const xmlNode *n = part->apex;
    struct scope scope;
    scope.n = 0;
    for (const xmlNode *above = n->parent; above && above->type == XML_ELEMENT_NODE; above = above->parent)
        canonical_enter(&scope, above);
    if ((!part->plain_attributes && inherits_attributes(n)) || !write_start(n, part, &scope, out))
        return false;
    bool inside = true; /* at n's start: its children come next */
    for (;;) {
        const xmlNode *next = inside ? n->children : n->next;
        while (next && omitted(part, next))
            next = next->next;
        if (!next) {
            if (!inside)
                n = n->parent;
            write_end(n, &scope, out);
            if (n == part->apex)
                return true;
            inside = false;
        } else if (next->type == XML_TEXT_NODE) {
            buf_xml_text(out, canonical_view(next->content));
            n = next;
            inside = false;
        } else if (next->type == XML_ELEMENT_NODE) {
            if (!write_start(next, part, &scope, out))
                return false;
            n = next;
            inside = true;
        } else {
            return false;
        }
    }
}

/* libxml2 asks for each node, attribute and namespace node; the last two belong to the element `parent`. */
static int in_subtree(void *arg, xmlNodePtr node, xmlNodePtr parent)
{
    const struct xml_subtree *part = arg;
    if (part->plain_attributes && node->type == XML_ATTRIBUTE_NODE && ((const xmlAttr *)(const void *)node)->ns)
        return 0;
    const bool owned = node->type == XML_NAMESPACE_DECL || node->type == XML_ATTRIBUTE_NODE;
    for (const xmlNode *n = owned ? parent : node; n && n->type != XML_DOCUMENT_NODE; n = n->parent) {
        if (omitted(part, n))
            return 0;
        if (n == part->apex)
            return 1;
    }
    return 0;
}

static int into_buf(void *arg, const char *p, int n)
{
    struct buf *out = arg;
    buf_bytes(out, p, (size_t)n);
    return out->failed ? -1 : n;
}

/*
 * libxml2 writes a namespace's URI as it is, though an ampersand is to be escaped there as in any attribute (C14N 1.0,
 * 2.3). So it gets URIs that are escaped already, and the tree its own back. That changes no order: what differs first
 * differs before and after.
 */
struct swapped {
    xmlNs *ns;
    const xmlChar *own;
};

static bool swap_uris(const xmlNode *n, struct buf *swapped)
{
    for (xmlNs *ns = n->nsDef; ns; ns = ns->next) {
        struct buf escaped BUF_CLEANUP = BUF_INIT(SIZE_MAX / 4);
        if (!ns->href || !xmlStrchr(ns->href, '&'))
            continue;
        buf_xml_attr(&escaped, canonical_view(ns->href));
        const struct swapped s = {ns, ns->href};
        buf_bytes(swapped, &s, sizeof s);
        if (escaped.failed || swapped->failed)
            return false;
        ns->href = (const xmlChar *)escaped.p;
        escaped.p = NULL;
    }
    return true;
}

bool xml_escape_uris(const xmlNode *apex, struct buf *swapped)
{
    for (const xmlNode *n = apex->parent; n && n->type == XML_ELEMENT_NODE; n = n->parent)
        if (!swap_uris(n, swapped))
            return false;
    for (const xmlNode *n = apex; n; n = xml_following(n, apex))
        if (!swap_uris(n, swapped))
            return false;
    return true;
}

void xml_restore_uris(const struct buf *swapped)
{
    for (size_t at = 0; at < swapped->n; at += sizeof(struct swapped)) {
        struct swapped s;
        memcpy(&s, swapped->p + at, sizeof s);
        free((void *)s.ns->href);
        s.ns->href = s.own;
    }
}

/* libxml2 walks from the document's first child: here that is apex, alone. A walk over the whole document for each
 * element that is written as it came would be quadratic. */
static bool execute_from(const struct xml_subtree *part, int mode, xmlOutputBufferPtr sink)
{
    struct buf swapped BUF_CLEANUP = BUF_INIT(SIZE_MAX / 4);
    xmlDoc from_apex = *part->doc->tree;
    xmlNode *apex = (xmlNode *)part->apex, *next = apex->next;
    from_apex.children = apex;
    apex->next = NULL;
    const bool ok = xml_escape_uris(apex, &swapped) &&
                    xmlC14NExecute(&from_apex, in_subtree, (void *)part, mode, NULL, 0, sink) >= 0;
    xml_restore_uris(&swapped);
    apex->next = next;
    return ok;
}

bool xml_canonical_by_library(const struct xml_subtree *part, enum xml_c14n form, struct buf *out)
{
    static const int modes[] = {[XML_C14N_INCLUSIVE] = XML_C14N_1_0,
                                [XML_C14N_EXCLUSIVE] = XML_C14N_EXCLUSIVE_1_0,
                                [XML_C14N_INCLUSIVE_11] = XML_C14N_1_1};
    const size_t before = out->n;
    const uint64_t shortages = xml_shortages();
    xml_secret_begin(part->doc->secret);
    xmlOutputBufferPtr sink = xmlOutputBufferCreateIO(into_buf, NULL, out, NULL);
    if (!sink) {
        xml_secret_end(part->doc->secret);
        return false;
    }
    const bool executed = execute_from(part, modes[form], sink);
    const int flushed = xmlOutputBufferClose(sink);
    xml_secret_end(part->doc->secret);
    return executed && flushed >= 0 && !out->failed && out->n > before && xml_shortages() == shortages;
}

bool xml_canonical(const struct xml_subtree *part, enum xml_c14n form, struct buf *out)
{
    const size_t before = out->n;
    if (form != XML_C14N_INCLUSIVE)
        return xml_canonical_by_library(part, form, out);
    if (write_tree(part, out))
        return !out->failed;
    if (out->failed)
        return false;
    out->n = before;
    /* the library takes xml:lang and its like from above the apex, wanted or not */
    if (part->plain_attributes && inherits_attributes(part->apex))
        return false;
    return xml_canonical_by_library(part, form, out);
}
