#include <stdint.h>

#include <libxml/c14n.h>

#include "message/xml_internal.h"

static struct str view(const xmlChar *z)
{
    return str_z((const char *)z);
}

static const xmlNode *element_from(const xmlNode *n)
{
    while (n && n->type != XML_ELEMENT_NODE)
        n = n->next;
    return n;
}

const xmlNode *xml_top(const struct xml_doc *doc)
{
    return element_from(doc->tree->children);
}

const xmlNode *xml_child(const xmlNode *parent)
{
    return parent ? element_from(parent->children) : NULL;
}

const xmlNode *xml_next(const xmlNode *element)
{
    return element ? element_from(element->next) : NULL;
}

const xmlNode *xml_following(const xmlNode *element, const xmlNode *top)
{
    const xmlNode *next = xml_child(element);
    for (; !next && element != top; element = element->parent)
        next = xml_next(element);
    return next;
}

bool xml_in(const xmlNode *element, const char *ns)
{
    if (!element)
        return false;
    return element->ns ? str_eq_z(view(element->ns->href), ns) : ns[0] == '\0';
}

bool xml_is(const xmlNode *element, const char *ns, const char *name)
{
    return xml_in(element, ns) && str_eq_z(view(element->name), name);
}

struct str xml_name(const xmlNode *element)
{
    return element ? view(element->name) : STR_MISSING;
}

struct str xml_namespace(const xmlNode *element)
{
    return element && element->ns ? view(element->ns->href) : STR_MISSING;
}

/* The parser makes one node of adjacent text; anything else is refused, not put together. */
static struct str only_text(const xmlNode *children)
{
    if (!children)
        return STR("");
    if (children->type != XML_TEXT_NODE || children->next || !children->content)
        return STR_MISSING;
    return view(children->content);
}

struct str xml_text(const xmlNode *element)
{
    return element ? only_text(element->children) : STR_MISSING;
}

struct str xml_attr_value(const xmlAttr *attr)
{
    return only_text(attr->children);
}

struct str xml_attr(const xmlNode *element, const char *ns, const char *name)
{
    for (const xmlAttr *a = element ? element->properties : NULL; a; a = a->next) {
        const bool same_ns = ns ? a->ns && str_eq_z(view(a->ns->href), ns) : !a->ns;
        if (same_ns && str_eq_z(view(a->name), name))
            return xml_attr_value(a);
    }
    return STR_MISSING;
}

bool xml_blank(const xmlNode *element)
{
    for (const xmlNode *n = element->children; n; n = n->next) {
        if (n->type == XML_TEXT_NODE && str_trim(view(n->content)).n != 0)
            return false;
    }
    return true;
}

static bool omitted(const struct xml_subtree *part, const xmlNode *n)
{
    if (n == part->omit)
        return true;
    if (!part->omit_named || n->parent != part->apex || n->type != XML_ELEMENT_NODE)
        return false;
    for (const char *const *name = part->omit_named; *name; name++) {
        if (xml_is(n, NS_KMS, *name))
            return true;
    }
    return false;
}

/* libxml2 asks for each node, attribute and namespace node; the last two belong to the element `parent`. */
static int in_subtree(void *arg, xmlNodePtr node, xmlNodePtr parent)
{
    const struct xml_subtree *part = arg;
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

size_t xml_canonical_ceiling(size_t n)
{
    return n > (SIZE_MAX - 65536) / 8 ? SIZE_MAX : 8 * n + 65536;
}

bool xml_canonical(const struct xml_subtree *part, enum xml_c14n form, struct buf *out)
{
    static const int modes[] = {[XML_C14N_INCLUSIVE] = XML_C14N_1_0,
                                [XML_C14N_EXCLUSIVE] = XML_C14N_EXCLUSIVE_1_0,
                                [XML_C14N_INCLUSIVE_11] = XML_C14N_1_1};
    const size_t before = out->n;
    xml_secret_begin(part->doc->secret);
    xmlOutputBufferPtr sink = xmlOutputBufferCreateIO(into_buf, NULL, out, NULL);
    if (!sink) {
        xml_secret_end(part->doc->secret);
        return false;
    }
    /* libxml2 walks from the document's first child: here that is apex, alone. A walk over the whole document for each
     * element that is written as it came would be quadratic. */
    xmlDoc from_apex = *part->doc->tree;
    xmlNode *apex = (xmlNode *)part->apex, *next = apex->next;
    from_apex.children = apex;
    apex->next = NULL;
    const int r = xmlC14NExecute(&from_apex, in_subtree, (void *)part, modes[form], NULL, 0, sink);
    apex->next = next;
    const int flushed = xmlOutputBufferClose(sink);
    xml_secret_end(part->doc->secret);
    return r >= 0 && flushed >= 0 && !out->failed && out->n > before;
}
