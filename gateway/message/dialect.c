#include "message/dialect.h"

#include <stdlib.h>

#include <libxml/tree.h>

#include <libxml/dict.h>

#include "base/limits.h"
#include "base/secret.h"
#include "base/timestamp.h"
#include "base/yaml.h"
#include "message/schema.h"

/*
 * The tree is changed in place, before anything is read from it: namespaces, names, values. _private marks what was
 * changed, since what others have signed must not be.
 */
struct translation {
    struct xml_doc *doc;
    const struct dialect *d;
    struct detail *why;
    enum reason reason; /* REASON_OK until something does not translate */
};

static const struct schema_element ROOTS[] = {{.name = "KmsResponse", .type = TYPE_GROUP},
                                              {.name = "SignedKmsResponse", .type = TYPE_GROUP}};
enum { ROOT_COUNT = sizeof ROOTS / sizeof ROOTS[0] };
static const char CHANGED = '!';

void dialect_free(struct dialect *d)
{
    free(d->name);
    strings_free(&d->namespaces);
    for (size_t i = 0; i < d->rename_count; i++) {
        free(d->rename[i].from);
        free(d->rename[i].to);
    }
    free(d->rename);
    *d = (struct dialect){0};
}

const char *dialect_target(size_t n)
{
    const struct schema_element *e = n < ROOT_COUNT ? ROOTS + n : schema_nth(n - ROOT_COUNT);
    return e ? e->name : NULL;
}

bool dialect_is_key(struct str name)
{
    const struct schema_element *e = schema_named(name);
    return e && e->type == TYPE_KEY;
}

bool dialect_looks_like_key(struct str name)
{
    return schema_names_key(name);
}

bool dialect_is_foreign(struct str ns)
{
    return str_starts(ns, STR("http://www.w3.org/"));
}

static void refuse(struct translation *t, enum reason reason, const xmlNode *at, const char *what)
{
    const struct str name = xml_name(at);
    if (t->reason != REASON_OK)
        return;
    t->reason = reason;
    detail_set(t->why, "%.*s: %s", (int)(name.n > 96 ? 96 : name.n), name.p ? name.p : "", what);
}

static bool lists(const struct dialect *d, struct str ns)
{
    for (size_t i = 0; i < d->namespaces.n; i++)
        if (str_eq_z(ns, d->namespaces.v[i]))
            return true;
    return false;
}

static const struct dialect_name *renamed(const struct dialect *d, struct str name)
{
    for (size_t i = 0; i < d->rename_count; i++)
        if (str_eq_z(name, d->rename[i].from))
            return d->rename + i;
    return NULL;
}

/* Every declaration of a listed namespace becomes one of the standard's: for elements, attributes and the values of
 * xsi:type alike. */
static void declarations(struct translation *t, xmlNode *n)
{
    for (xmlNs *ns = n->nsDef; ns; ns = ns->next) {
        const struct str uri = str_z((const char *)ns->href);
        if (!uri.n || str_eq_z(uri, NS_KMS) || !lists(t->d, uri))
            continue;
        xmlChar *standard = xmlStrdup((const xmlChar *)NS_KMS);
        if (!standard) {
            refuse(t, REASON_INTERNAL, n, "no memory");
            return;
        }
        xmlFree((xmlChar *)ns->href);
        ns->href = standard;
        ns->_private = (void *)&CHANGED;
    }
}

/* Qualified ones, as some write them, are read as the standard's, which are not. */
static void attributes(struct translation *t, xmlNode *n)
{
    for (xmlAttr *a = n->properties; a; a = a->next) {
        if (!a->ns || !str_eq_z(str_z((const char *)a->ns->href), NS_KMS))
            continue;
        for (const xmlAttr *b = n->properties; b; b = b->next)
            if (b != a && !b->ns && str_eq_z(str_z((const char *)b->name), (const char *)a->name))
                refuse(t, REASON_UPSTREAM_INVALID, n, "found an attribute twice, expected it once");
        a->ns = NULL;
        n->_private = (void *)&CHANGED;
    }
}

/* No key hides below a foreign name: neither under its own nor under the one that the dialect says it has. */
static bool hides_key(const struct dialect *d, struct str name)
{
    for (size_t i = 0; i < d->rename_count; i++)
        if (str_ieq_z(name, d->rename[i].from) && dialect_is_key(str_z(d->rename[i].to)))
            return true;
    return false;
}

static void foreign(struct translation *t, const xmlNode *n)
{
    if (hides_key(t->d, xml_name(n)))
        refuse(t, REASON_UPSTREAM_INVALID, n, "found the name of a key in an element of another namespace");
    for (const xmlAttr *a = n->properties; a; a = a->next)
        if (hides_key(t->d, str_z((const char *)a->name)))
            refuse(t, REASON_UPSTREAM_INVALID, n, "found the name of a key in an attribute of another namespace");
}

static void element(struct translation *t, xmlNode *n)
{
    if (xml_in(n, "") && lists(t->d, STR(""))) {
        n->ns = t->doc->standard;
        n->_private = (void *)&CHANGED;
    }
    if (!xml_in(n, NS_KMS)) {
        foreign(t, n);
        return;
    }
    attributes(t, n);
    const struct dialect_name *as = renamed(t->d, xml_name(n));
    if (!as && hides_key(t->d, xml_name(n)))
        refuse(t, REASON_UPSTREAM_INVALID, n, "found the name of a key, written otherwise than the dialect has it");
    if (as) {
        xmlNodeSetName(n, (const xmlChar *)as->to);
        n->_private = (void *)&CHANGED;
        if (!str_eq_z(xml_name(n), as->to))
            refuse(t, REASON_INTERNAL, n, "no memory");
    }
}

static bool declares_changed(const xmlNode *n)
{
    for (const xmlNs *ns = n->nsDef; ns; ns = ns->next)
        if (ns->_private)
            return true;
    return false;
}

/* Its signature is over its own form, the declarations around it included: translated, it would not hold. */
static void sealed(struct translation *t, const xmlNode *top)
{
    bool touched = false;
    for (const xmlNode *n = top->parent; n && n->type == XML_ELEMENT_NODE; n = n->parent)
        touched |= declares_changed(n);
    for (const xmlNode *n = top; n; n = xml_following(n, top))
        touched |= n->_private || declares_changed(n);
    if (touched)
        refuse(t, REASON_UPSTREAM_INVALID, top, "its signature would not outlive the dialect");
}

/* The one text node of a leaf. The old text may be a key: it is wiped. */
static void set_text(struct translation *t, const xmlNode *leaf, struct str text)
{
    xmlNode *node = leaf->children;
    if (node->content && !(leaf->doc->dict && xmlDictOwns(leaf->doc->dict, node->content)))
        secret_wipe(node->content, str_z((const char *)node->content).n);
    xmlNodeSetContentLen(node, (const xmlChar *)text.p, (int)text.n);
    if (!node->content)
        refuse(t, REASON_INTERNAL, leaf, "no memory");
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* `n` octets were read where `want` are due: right, or a point without its first octet, which is then put there. */
static bool complete(const struct dialect *d, size_t want, uint8_t octets[LIMIT_KEY_CONTENT], size_t n)
{
    enum { UNCOMPRESSED = 4, IS_POINT = 1 }; /* two coordinates behind one octet; keys without it have an even number */
    if (n == want)
        return true;
    if (d->point_prefix != PREFIX_ADD || n + 1 != want || !(want & IS_POINT))
        return false;
    for (size_t i = n; i > 0; i--)
        octets[i] = octets[i - 1];
    octets[0] = UNCOMPRESSED;
    return true;
}

/* Hex and base64 of as many octets as are due never have the same number of digits: no text is both. */
static bool octets_of(const struct dialect *d, size_t want, struct str text, uint8_t octets[LIMIT_KEY_CONTENT])
{
    const size_t room = LIMIT_KEY_CONTENT - 1;
    struct buf dense BUF_CLEANUP = BUF_INIT_SECRET(2 * LIMIT_KEY_CONTENT);
    size_t n = 0;
    for (size_t i = 0; i < text.n && !dense.failed; i++)
        if (!blank(text.p[i]))
            buf_char(&dense, text.p[i]);
    if (dense.failed || !dense.n)
        return false;
    if (d->key_text != KEY_TEXT_BASE64 && hex_decode(buf_view(&dense), octets, room, &n) &&
        complete(d, want, octets, n))
        return true;
    return d->key_text != KEY_TEXT_HEX && base64_decode(buf_view(&dense), octets, room, &n) &&
           complete(d, want, octets, n);
}

static void key(struct translation *t, const xmlNode *n, const struct schema_element *e, struct str text)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    struct buf hex BUF_CLEANUP = BUF_INIT_SECRET(2 * LIMIT_KEY_CONTENT);
    if (octets_of(t->d, e->octets, text, octets)) {
        buf_hex(&hex, octets, e->octets, true);
        if (hex.failed)
            refuse(t, REASON_INTERNAL, n, "no memory");
        else
            set_text(t, n, buf_view(&hex));
    } else {
        refuse(t, REASON_UPSTREAM_INVALID, n, "found other text, expected a key of its length in the dialect's form");
    }
    secret_wipe(octets, sizeof octets);
}

/* Without a zone it is UTC. A space where T is due is how a date comes out of many a program. */
static void instant(struct translation *t, const xmlNode *n, struct str text)
{
    enum { DATE = 10 };
    int64_t us;
    bool zone;
    char utc[TIME_TEXT];
    struct buf copy BUF_CLEANUP = BUF_INIT(4096);
    buf_str(&copy, str_trim(text));
    if (copy.failed)
        return;
    if (copy.n > DATE && copy.p[DATE] == ' ')
        copy.p[DATE] = 'T';
    if (!time_parse(buf_view(&copy), &us, &zone))
        return;
    time_format(us, false, utc);
    set_text(t, n, str_z(utc));
}

static void value(struct translation *t, const xmlNode *n)
{
    const struct schema_element *e = xml_in(n, NS_KMS) ? schema_named(xml_name(n)) : NULL;
    const struct str text = xml_text(n);
    if (!e || !n->children || !text.n)
        return;
    if (e->type == TYPE_KEY || e->type == TYPE_HEX)
        key(t, n, e, text);
    else if (e->type == TYPE_TIME)
        instant(t, n, text);
    else if (e->type == TYPE_STRING && str_trim(text).n < text.n) {
        char *trimmed = str_dup(str_trim(text)); /* set_text() frees what this is a view of */
        if (trimmed)
            set_text(t, n, str_z(trimmed));
        else
            refuse(t, REASON_INTERNAL, n, "no memory");
        free(trimmed);
    }
}

static xmlNode *element_from(xmlNode *n)
{
    while (n && n->type != XML_ELEMENT_NODE)
        n = n->next;
    return n;
}

/* In document order, below top; not into n where that is not wanted. */
static xmlNode *following(xmlNode *n, const xmlNode *top, bool into)
{
    xmlNode *next = into ? element_from(n->children) : NULL;
    for (; !next && n != top; n = n->parent)
        next = element_from(n->next);
    return next;
}

static void translate(struct translation *t)
{
    xmlNode *top = xmlDocGetRootElement(t->doc->tree);
    t->doc->standard = xmlNewNs(NULL, (const xmlChar *)NS_KMS, NULL);
    if (!t->doc->standard)
        refuse(t, REASON_INTERNAL, top, "no memory");
    for (xmlNode *n = top; n && t->reason == REASON_OK; n = following(n, top, true))
        declarations(t, n);
    for (xmlNode *n = top; n && t->reason == REASON_OK; n = following(n, top, true))
        element(t, n);
    for (xmlNode *n = top, *next; n && t->reason == REASON_OK; n = next) {
        const bool is_sealed = xml_is(n, NS_KMS, "SignedKmsCertificate");
        if (is_sealed)
            sealed(t, n);
        else
            value(t, n);
        next = following(n, top, !is_sealed);
    }
}

enum reason dialect_parse(struct str text, const struct dialect *d, struct xml_doc **out, struct detail *why)
{
    struct xml_limits limits = XML_LIMITS_REPLY;
    limits.relative = d ? &d->namespaces : NULL;
    const enum reason parsed = xml_parse(text, &limits, out, why);
    if (parsed != REASON_OK)
        return parsed == REASON_INTERNAL ? parsed : REASON_UPSTREAM_INVALID;
    struct translation t = {.doc = *out, .d = d, .why = why, .reason = REASON_OK};
    if (d)
        translate(&t);
    if (t.reason != REASON_OK) {
        xml_free(*out);
        *out = NULL;
    }
    return t.reason;
}
