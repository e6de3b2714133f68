#include "message/kms_response_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

void writing_fail(struct writing *w, enum reason reason, const char *what)
{
    if (w->reason != REASON_OK)
        return;
    w->reason = reason;
    detail_set(w->why, "%s", what);
}

bool writing_stopped(const struct writing *w)
{
    return w->reason != REASON_OK || w->out->failed;
}

/*
 * What is kept as it came declares again what was declared around it, and a namespace can be as long as the reply. As
 * much again as the reply is long is enough for what is meant well, and keeps the work linear.
 */
static bool writing_keep(struct writing *w, size_t n)
{
    if (n > w->repeats)
        writing_fail(w, REASON_UPSTREAM_INVALID,
                     "extensions: kept, they would repeat the namespaces declared around them to more than twice the "
                     "reply's length, expected them declared where they are used; `extensions: drop` leaves them out");
    else
        w->repeats -= n;
    return w->reason == REASON_OK;
}

struct str writing_name(const struct writing *w, const xmlNode *n, struct str standard)
{
    if (!w->plan->speak)
        return standard;
    return str_z(n ? dialect_original(n) : dialect_spoken(w->plan->speak, standard.p));
}

const char *writing_type(const struct writing *w, const char *standard)
{
    return w->plan->speak ? dialect_spoken_type(w->plan->speak, standard) : standard;
}

void writing_passes(struct writing *w, struct str text)
{
    if (!w->hidden && text.n > 0)
        spill_text(&w->spill, text);
}

void writing_open(struct writing *w, struct str name)
{
    buf_char(w->out, '<');
    buf_str(w->out, name);
}

void writing_close(struct writing *w, struct str name)
{
    buf_z(w->out, "</");
    buf_str(w->out, name);
    buf_char(w->out, '>');
}

void writing_leaf(struct writing *w, struct str name, struct str text)
{
    if (!text.p)
        return;
    writing_passes(w, text);
    writing_open(w, name);
    buf_char(w->out, '>');
    buf_xml_text(w->out, text);
    writing_close(w, name);
}

static void attribute_text(struct writing *w, struct str name, struct str value)
{
    buf_str(w->out, name);
    buf_z(w->out, "=\"");
    buf_xml_attr(w->out, value);
    buf_char(w->out, '"');
}

static void writing_attribute(struct writing *w, struct str name, struct str value)
{
    if (!value.p)
        return;
    writing_passes(w, value);
    buf_char(w->out, ' ');
    attribute_text(w, name, value);
}

/* An Id or a Version of the upstream's, or a word on why it is left out. */
static void free_attribute(struct writing *w, const xmlNode *n, struct str name, struct str value, bool stays)
{
    if (stays)
        writing_attribute(w, name, value);
    else if (value.p && w->plan->left_out)
        schema_tell_attribute(name.p, xml_name(n), value, w->plan->left_out);
}

/* In canonical order. */
static void own_attributes(struct writing *w, const xmlNode *n, const struct schema_group *g)
{
    static const struct str SORTED[] = {STR_INIT("CacheNum"), STR_INIT("Id"), STR_INIT("IsSecurityGateway"),
                                        STR_INIT("Role"), STR_INIT("Version")};
    for (size_t i = 0; i < sizeof SORTED / sizeof SORTED[0]; i++) {
        const struct str name = SORTED[i], value = xml_attr(n, NULL, name.p);
        if (str_eq(name, STR("Version"))) {
            if (g->version && g->version[0])
                writing_attribute(w, name, str_z(g->version));
            else if (g->version)
                free_attribute(w, n, name, value, schema_is_free_text(value));
        } else if (str_eq(name, STR("Id"))) {
            if (g == &SCHEMA_RESPONSE)
                writing_attribute(w, name, STR("xmldoc"));
            else if (g->version)
                free_attribute(w, n, name, value, schema_id_stays(value));
        } else {
            for (size_t k = 0; k < g->attribute_count; k++) {
                if (str_eq(name, g->attributes[k].name))
                    writing_attribute(w, name, value.p ? str_trim(value) : value);
            }
        }
    }
}

/* Those of other namespaces, and XML Schema's type where there is one. */
struct qualified {
    const char *prefix, *uri, *name; /* name NULL: the prefix is but declared */
    struct str value;
};
enum { QUALIFIED_MAX = LIMIT_XML_ATTRIBUTES + 1 };

static int by_prefix(const void *a, const void *b)
{
    const struct qualified *x = a, *y = b;
    return strcmp(x->prefix, y->prefix);
}

static int by_uri_and_name(const void *a, const void *b)
{
    const struct qualified *x = a, *y = b;
    const int uris = x->uri == y->uri ? 0 : strcmp(x->uri, y->uri);
    return uris || !x->name || !y->name ? uris : strcmp(x->name, y->name);
}

/* No identity of theirs may be mistaken for the response's: that is what xml:id would be. */
static size_t take_foreign(struct writing *w, const xmlNode *n, const struct schema_group *g, struct qualified *found)
{
    size_t count = 0;
    for (const xmlAttr *a = n ? n->properties : NULL; a && w->plan->keep_extensions && g->any_attribute; a = a->next) {
        const char *prefix = a->ns ? (const char *)a->ns->prefix : NULL;
        const struct str name = str_z((const char *)a->name);
        if (!schema_is_foreign_attribute(a) || !prefix || (str_eq_z(str_z(prefix), "xml") && str_ieq_z(name, "id")))
            continue;
        if (str_eq_z(str_z(prefix), "xsi") || count == LIMIT_XML_ATTRIBUTES)
            writing_fail(w, REASON_UPSTREAM_INVALID,
                         "an attribute of another namespace has the prefix xsi, which is taken");
        else
            found[count++] = (struct qualified){prefix, (const char *)a->ns->href, name.p, xml_attr_value(a)};
    }
    return count;
}

static void writing_declarations(struct writing *w, struct qualified *v, size_t n)
{
    if (n > 1)
        qsort(v, n, sizeof *v, by_prefix);
    for (size_t i = 0; i < n; i++) {
        const bool is_own = str_eq_z(str_z(v[i].uri), NS_XSI);
        if (str_eq_z(str_z(v[i].prefix), "xml") || (i && strcmp(v[i].prefix, v[i - 1].prefix) == 0))
            continue;
        if (!is_own && !writing_keep(w, strlen(v[i].uri)))
            return;
        buf_z(w->out, " xmlns:");
        buf_z(w->out, v[i].prefix);
        buf_z(w->out, "=\"");
        buf_xml_attr(w->out, str_z(v[i].uri));
        buf_char(w->out, '"');
    }
}

void writing_attributes(struct writing *w, const xmlNode *n, const struct schema_group *g, const char *type,
                       bool declares)
{
    struct qualified v[QUALIFIED_MAX];
    size_t count = take_foreign(w, n, g, v);
    if (declares)
        v[count++] = (struct qualified){"xsi", NS_XSI, type ? "type" : NULL, str_z(type)};
    writing_declarations(w, v, count);
    own_attributes(w, n, g);
    if (count > 1)
        qsort(v, count, sizeof *v, by_uri_and_name);
    for (size_t i = 0; i < count; i++) {
        if (!v[i].name)
            continue;
        writing_passes(w, v[i].value);
        buf_char(w->out, ' ');
        buf_z(w->out, v[i].prefix);
        buf_char(w->out, ':');
        attribute_text(w, str_z(v[i].name), v[i].value);
    }
}

void writing_key_type(struct writing *w, const char *type)
{
    buf_z(w->out, " xsi:type=\"");
    buf_z(w->out, writing_type(w, type));
    buf_z(w->out, "\">");
}

static const char CANNOT_WRAP[] = "a key content could not be wrapped: the rule's key_wrap may not take its length";

static bool can_wrap(struct writing *w)
{
    if (!w->plan->enc)
        writing_fail(w, REASON_PROTECT_NO_KEY, "a key content is to be encrypted, and the user has no TrK");
    return w->plan->enc != NULL;
}

void writing_key(struct writing *w, const struct schema_element *e, const uint8_t *octets, struct str clear)
{
    const bool encrypts = w->plan->protect == PROTECT_KEYS || !clear.p || schema_is_new_key(e);
    if (encrypts || w->hidden)
        spill_key(&w->spill, octets, e->octets);
    writing_key_type(w, encrypts ? TYPE_ENCRYPTED : TYPE_CLEAR);
    w->encrypted |= encrypts;
    if (!encrypts)
        buf_xml_text(w->out, clear);
    else if (can_wrap(w) && !xmlenc_key(w->plan->enc, w->plan->wrap, octets, e->octets, w->out))
        writing_fail(w, REASON_INTERNAL, CANNOT_WRAP);
}

bool writing_wrap(struct writing *w, struct xmlenc_wrapped *v, size_t count)
{
    for (size_t i = 0; i < count; i++)
        spill_key(&w->spill, v[i].octets, v[i].n);
    w->encrypted = true;
    if (can_wrap(w) && !xmlenc_wrap(w->plan->enc, w->plan->wrap, v, count))
        writing_fail(w, REASON_INTERNAL, CANNOT_WRAP);
    return w->reason == REASON_OK;
}

void writing_wrapped(struct writing *w, const struct xmlenc_wrapped *v)
{
    writing_key_type(w, TYPE_ENCRYPTED);
    if (!xmlenc_put(w->plan->enc, v, w->out))
        writing_fail(w, REASON_INTERNAL, "the reply is too large");
}

/*
 * The inclusive canonical form declares every namespace that was in scope; where there was no default namespace, ours
 * must not become its.
 */
void writing_verbatim(struct writing *w, const xmlNode *n)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): what is written verbatim was read */
    const struct xml_subtree part = {.doc = w->r->doc, .apex = n};
    struct buf text BUF_CLEANUP = BUF_INIT_KEYS(xml_canonical_ceiling(w->r->doc->size));
    if (!xml_canonical(&part, XML_C14N_INCLUSIVE, &text)) {
        writing_fail(w, REASON_INTERNAL, "an element could not be canonicalized");
        return;
    }
    if (!writing_keep(w, text.n))
        return;
    writing_passes(w, buf_view(&text));
    const xmlNs *ns = xmlSearchNs(n->doc, (xmlNode *)n, NULL);
    size_t name = 1;
    while (name < text.n && text.p[name] != ' ' && text.p[name] != '>')
        name++;
    buf_bytes(w->out, text.p, name);
    if (!ns || !ns->href || !ns->href[0])
        buf_z(w->out, " xmlns=\"\"");
    buf_bytes(w->out, text.p + name, text.n - name);
}
