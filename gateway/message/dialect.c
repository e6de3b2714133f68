#include "message/dialect_internal.h"

#include <stdlib.h>
#include <string.h>

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

static const struct schema_element ROOTS[] = {{.name = STR_INIT("KmsResponse"), .type = TYPE_GROUP},
                                              {.name = STR_INIT("SignedKmsResponse"), .type = TYPE_GROUP}};
enum { ROOT_COUNT = sizeof ROOTS / sizeof ROOTS[0] };
static const struct dialect_name CHANGED = {0}; /* otherwise than by a name of `rename` */

static void names_free(struct dialect_name *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(v[i].from);
        free(v[i].to);
    }
    free(v);
}

void dialect_free(struct dialect *d)
{
    free(d->name);
    strings_free(&d->namespaces);
    names_free(d->rename, d->rename_count);
    names_free(d->rename_types, d->rename_type_count);
    *d = (struct dialect){0};
}

static const char *led_to(const struct dialect_name *v, size_t n, const char *standard)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq_z(str_z(v[i].to), standard))
            return v[i].from;
    return standard;
}

const char *dialect_spoken(const struct dialect *d, const char *standard)
{
    return led_to(d->rename, d->rename_count, standard);
}

const char *dialect_spoken_type(const struct dialect *d, const char *standard)
{
    return led_to(d->rename_types, d->rename_type_count, standard);
}

const char *dialect_namespace(const struct xml_doc *doc)
{
    return doc->root_namespace ? doc->root_namespace : NS_KMS;
}

const char *dialect_original(const xmlNode *n)
{
    const struct dialect_name *by = n->_private;
    return by && by->from ? by->from : (const char *)n->name;
}

const char *dialect_type_target(size_t n)
{
    static const char *const TYPES[] = {"KmsInitType", "KmsInitTkIkType", "KmsKeyProvType", "KmsKeyProvTkIkType",
                                        TYPE_CLEAR, TYPE_ENCRYPTED};
    return n < sizeof TYPES / sizeof TYPES[0] ? TYPES[n] : NULL;
}

const char *dialect_target(size_t n)
{
    const struct schema_element *e = n < ROOT_COUNT ? ROOTS + n : schema_nth(n - ROOT_COUNT);
    return e ? e->name.p : NULL;
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

static void dialect_deny(struct translation *t, enum reason reason, const xmlNode *at, const char *what)
{
    const struct str name = xml_name(at);
    if (t->reason != REASON_OK)
        return;
    t->reason = reason;
    detail_set(t->why, "%.*s: %s", (int)(name.n > 96 ? 96 : name.n), name.p ? name.p : "", what);
}

/* The namespace as the dialect lists it; NULL: it does not. */
static const char *dialect_listed(const struct dialect *d, struct str ns)
{
    for (size_t i = 0; i < d->namespaces.n; i++)
        if (str_eq_z(ns, d->namespaces.v[i]))
            return d->namespaces.v[i];
    return NULL;
}

static const struct dialect_name *renamed(const struct dialect_name *v, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq_z(name, v[i].from))
            return v + i;
    return NULL;
}

/* Every declaration of a listed namespace becomes one of the standard's: for elements, attributes and the values of
 * xsi:type alike. */
static void dialect_declarations(struct translation *t, xmlNode *n)
{
    for (xmlNs *ns = n->nsDef; ns; ns = ns->next) {
        const struct str uri = str_z((const char *)ns->href);
        if (!uri.n || str_eq_z(uri, NS_KMS) || !dialect_listed(t->d, uri))
            continue;
        xmlChar *standard = xmlStrdup((const xmlChar *)NS_KMS);
        if (!standard) {
            dialect_deny(t, REASON_INTERNAL, n, "no memory");
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
        if (!xml_attr_in(a, NS_KMS))
            continue;
        for (const xmlAttr *b = n->properties; b; b = b->next)
            if (b != a && !b->ns && str_eq_z(str_z((const char *)b->name), (const char *)a->name))
                dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found an attribute twice, expected it once");
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

static bool is_type(const xmlAttr *a)
{
    return xml_attr_in(a, NS_XSI) && str_eq_z(str_z((const char *)a->name), "type");
}

/* What the dialect says that the type is, under whatever prefix; *prefix is how long that is with its colon. NULL:
 * nothing. */
static const struct dialect_name *renamed_type(const struct dialect *d, struct str value, size_t *prefix)
{
    *prefix = 0;
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] == ':')
            *prefix = i + 1;
    return renamed(d->rename_types, d->rename_type_count, (struct str){value.p + *prefix, value.n - *prefix});
}

static void foreign_attributes(struct translation *t, const xmlNode *n)
{
    size_t prefix;
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const struct str value = xml_attr_value(a);
        const struct dialect_name *type = is_type(a) && value.p ? renamed_type(t->d, str_trim(value), &prefix) : NULL;
        if (a->ns && !xml_attr_in(a, NS_KMS) && hides_key(t->d, str_z((const char *)a->name)))
            dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found the name of a key in an attribute of another namespace");
        if (type && !xml_in(n, NS_KMS) && (str_eq_z(str_z(type->to), TYPE_CLEAR)))
            dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found the type of a key in an element of another namespace");
    }
}

static void foreign(struct translation *t, const xmlNode *n)
{
    if (hides_key(t->d, xml_name(n)))
        dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found the name of a key in an element of another namespace");
    for (const xmlAttr *a = n->properties; a; a = a->next)
        if (!a->ns && hides_key(t->d, str_z((const char *)a->name)))
            dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found the name of a key in an attribute of another namespace");
    foreign_attributes(t, n);
}

/* The standard's name for its xsi:type, behind the prefix that is there. */
static void type(struct translation *t, xmlNode *n)
{
    enum { TYPE_PREFIX = 1024 };
    size_t prefix;
    struct buf text BUF_CLEANUP = BUF_INIT(2 * TYPE_PREFIX);
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const struct str value = is_type(a) ? xml_attr_value(a) : STR_MISSING;
        const struct dialect_name *as = value.p ? renamed_type(t->d, str_trim(value), &prefix) : NULL;
        if (!as)
            continue;
        if (prefix > TYPE_PREFIX) {
            dialect_deny(t, REASON_UPSTREAM_INVALID, n, "found a type with a prefix that is too long");
            return;
        }
        buf_bytes(&text, str_trim(value).p, prefix);
        buf_z(&text, as->to);
        if (!text.failed)
            xmlNodeSetContentLen(a->children, (const xmlChar *)text.p, (int)text.n);
        if (text.failed || !a->children->content)
            dialect_deny(t, REASON_INTERNAL, n, "no memory");
        n->_private = (void *)&CHANGED;
    }
}

static void dialect_element(struct translation *t, xmlNode *n)
{
    if (xml_in(n, "") && dialect_listed(t->d, STR(""))) {
        n->ns = t->doc->standard;
        n->_private = (void *)&CHANGED;
    }
    if (!xml_in(n, NS_KMS)) {
        foreign(t, n);
        return;
    }
    attributes(t, n);
    foreign_attributes(t, n);
    type(t, n);
    const struct dialect_name *as = renamed(t->d->rename, t->d->rename_count, xml_name(n));
    if (!as && hides_key(t->d, xml_name(n)))
        dialect_deny(t, REASON_UPSTREAM_INVALID, n,
                     "found the name of a key, written otherwise than the dialect has it");
    if (as) {
        xmlNodeSetName(n, (const xmlChar *)as->to);
        n->_private = (void *)as;
        if (!str_eq_z(xml_name(n), as->to))
            dialect_deny(t, REASON_INTERNAL, n, "no memory");
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
static void dialect_sealed(struct translation *t, const xmlNode *top)
{
    bool touched = false;
    for (const xmlNode *n = top->parent; n && n->type == XML_ELEMENT_NODE; n = n->parent)
        touched |= declares_changed(n);
    for (const xmlNode *n = top; n; n = xml_following(n, top))
        touched |= n->_private || declares_changed(n);
    if (touched)
        dialect_deny(t, REASON_UPSTREAM_INVALID, top, "its signature would not outlive the dialect");
}

/* The one text node of a leaf. The old text may be a key: it is wiped. */
static void set_text(struct translation *t, const xmlNode *leaf, struct str text)
{
    xmlNode *node = leaf->children;
    if (node->content && !(leaf->doc->dict && xmlDictOwns(leaf->doc->dict, node->content)))
        secret_wipe(node->content, str_z((const char *)node->content).n);
    xmlNodeSetContentLen(node, (const xmlChar *)text.p, (int)text.n);
    if (!node->content)
        dialect_deny(t, REASON_INTERNAL, leaf, "no memory");
}

static bool dialect_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/*
 * *n octets were read where those of e are due: right; or a point without its first octet, which is then put there; or
 * a number whose zeros in front are too many or too few.
 */
static bool dialect_complete(const struct dialect *d, const struct schema_element *e, uint8_t octets[LIMIT_KEY_CONTENT],
                             size_t n)
{
    enum { UNCOMPRESSED = 4, IS_POINT = 1 }; /* two coordinates behind one octet; keys without it have an even number */
    const size_t want = e->octets;
    size_t zeros = 0;
    if (n == want)
        return true;
    if (d->key_octets == OCTETS_NUMERIC && schema_is_number(e) && n > 0) {
        while (n - zeros > want && octets[zeros] == 0)
            zeros++;
        if (n - zeros > want)
            return false;
        memmove(octets + want - (n - zeros), octets + zeros, n - zeros);
        memset(octets, 0, want - (n - zeros));
        return true;
    }
    if (d->point_prefix != PREFIX_ADD || n + 1 != want || !(want & IS_POINT))
        return false;
    memmove(octets + 1, octets, n);
    octets[0] = UNCOMPRESSED;
    return true;
}

/* Hex and base64 of as many octets as are due never have the same number of digits: no text is both. A number is hex
 * where all its digits are; that of base64 happen to be so is less likely than a guessed key. */
static enum reason octets_of(const struct dialect *d, const struct schema_element *e, struct str text,
                      uint8_t octets[LIMIT_KEY_CONTENT])
{
    const size_t room = LIMIT_KEY_CONTENT - 1;
    struct buf dense BUF_CLEANUP = BUF_INIT_KEYS(2 * LIMIT_KEY_CONTENT);
    size_t n = 0, digits = 0;
    for (size_t i = 0; i < text.n; i++)
        digits += !dialect_blank(text.p[i]);
    if (!digits || digits >= dense.max)
        return REASON_UPSTREAM_INVALID;
    if (digits % 2 && d->key_octets == OCTETS_NUMERIC && schema_is_number(e))
        buf_char(&dense, '0');
    const size_t pad = dense.n;
    for (size_t i = 0; i < text.n && !dense.failed; i++)
        if (!dialect_blank(text.p[i]))
            buf_char(&dense, text.p[i]);
    if (dense.failed)
        return REASON_INTERNAL;
    const struct str hex = buf_view(&dense), base64 = {dense.p + pad, dense.n - pad};
    if (d->key_text != KEY_TEXT_BASE64 && hex_decode(hex, octets, room, &n) && dialect_complete(d, e, octets, n))
        return REASON_OK;
    if (d->key_text != KEY_TEXT_HEX && base64_decode(base64, octets, room, &n) && dialect_complete(d, e, octets, n))
        return REASON_OK;
    return REASON_UPSTREAM_INVALID;
}

static void key(struct translation *t, const xmlNode *n, const struct schema_element *e, struct str text)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    struct buf hex BUF_CLEANUP = BUF_INIT_KEYS(2 * LIMIT_KEY_CONTENT);
    const enum reason reason = octets_of(t->d, e, text, octets);
    if (reason == REASON_OK)
        buf_hex(&hex, octets, e->octets, true);
    if (reason == REASON_INTERNAL || hex.failed) {
        dialect_deny(t, REASON_INTERNAL, n, "no memory");
    } else if (reason == REASON_OK) {
        set_text(t, n, buf_view(&hex));
    } else if (t->reason == REASON_OK) {
        t->reason = REASON_UPSTREAM_INVALID;
        schema_tell_key(t->why, e, text, t->d->key_text == KEY_TEXT_BASE64);
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
    if (copy.failed && str_trim(text).n <= copy.max) /* else it is no time */
        dialect_deny(t, REASON_INTERNAL, n, "no memory");
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
            dialect_deny(t, REASON_INTERNAL, n, "no memory");
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
        dialect_deny(t, REASON_INTERNAL, top, "no memory");
    t->doc->root_namespace = dialect_listed(t->d, top->ns ? xml_namespace(top) : STR(""));
    for (xmlNode *n = top; n && t->reason == REASON_OK; n = following(n, top, true))
        dialect_declarations(t, n);
    for (xmlNode *n = top; n && t->reason == REASON_OK; n = following(n, top, true))
        dialect_element(t, n);
    for (xmlNode *n = top, *next; n && t->reason == REASON_OK; n = next) {
        const bool is_sealed = xml_is(n, NS_KMS, "SignedKmsCertificate") && schema_is_sealed(n);
        if (is_sealed)
            dialect_sealed(t, n);
        else
            value(t, n);
        next = following(n, top, !is_sealed);
    }
}

/* What the declaration says is read under `encoding: declared`: a fault of the text may be but that. */
static void hint_encoding(struct str text, struct detail *why)
{
    struct buf room BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    struct detail found;
    struct str recoded;
    if (!why || !dialect_recode(text, &room, &recoded) || recoded.p == text.p)
        return;
    found = *why;
    detail_set(why, "%.200s; a dialect's `encoding: declared` reads ISO-8859-1 and US-ASCII, and white space before "
                    "the declaration", found.text);
}

static enum reason dialect_read(struct str text, const struct dialect *d, struct xml_doc **out, struct detail *why)
{
    struct buf room BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    struct xml_limits limits = XML_LIMITS_REPLY;
    const bool declared = d && d->encoding == ENCODING_DECLARED;
    limits.relative = d ? &d->namespaces : NULL;
    limits.relative_help = "; a dialect's `namespaces` reads those that it lists";
    if (declared && !dialect_recode(text, &room, &text))
        return REASON_INTERNAL;
    const enum reason parsed = xml_parse(text, &limits, out, why);
    if (parsed == REASON_OK || parsed == REASON_INTERNAL)
        return parsed;
    if (!declared)
        hint_encoding(text, why);
    return REASON_UPSTREAM_INVALID;
}

enum reason dialect_parse(struct str text, const struct dialect *d, struct xml_doc **out, struct detail *why)
{
    const enum reason parsed = dialect_read(text, d, out, why);
    if (parsed != REASON_OK)
        return parsed;
    struct translation t = {.doc = *out, .d = d, .why = why, .reason = REASON_OK};
    const uint64_t shortages = xml_shortages();
    if (d)
        translate(&t);
    if (xml_shortages() != shortages)
        t.reason = REASON_INTERNAL;
    if (t.reason != REASON_OK) {
        xml_free(*out);
        *out = NULL;
    }
    return t.reason;
}
