#include <string.h>

#include "message/xml_internal.h"

static struct str tree_view(const xmlChar *z)
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

/* Most names differ in their first letter. */
static bool tree_same(const xmlChar *found, const char *name)
{
    return found && found[0] == (xmlChar)name[0] && strcmp((const char *)found, name) == 0;
}

bool xml_in(const xmlNode *element, const char *ns)
{
    if (!element)
        return false;
    return element->ns ? tree_same(element->ns->href, ns) : ns[0] == '\0';
}

bool xml_is(const xmlNode *element, const char *ns, const char *name)
{
    return element && tree_same(element->name, name) && xml_in(element, ns);
}

bool xml_in_krr_list(const xmlNode *element)
{
    const xmlNode *n = element;
    while (n && n->type == XML_ELEMENT_NODE && !xml_is(n, NS_KMS, "KrrList"))
        n = n->parent;
    return n && n->type == XML_ELEMENT_NODE;
}

struct str xml_name(const xmlNode *element)
{
    return element ? tree_view(element->name) : STR_MISSING;
}

struct str xml_namespace(const xmlNode *element)
{
    return element && element->ns ? tree_view(element->ns->href) : STR_MISSING;
}

/* The parser makes one node of adjacent text; anything else is refused, not put together. */
static struct str only_text(const xmlNode *children)
{
    if (!children)
        return STR("");
    if (children->type != XML_TEXT_NODE || children->next || !children->content)
        return STR_MISSING;
    return tree_view(children->content);
}

struct str xml_text(const xmlNode *element)
{
    return element ? only_text(element->children) : STR_MISSING;
}

struct str xml_attr_value(const xmlAttr *attr)
{
    return only_text(attr->children);
}

bool xml_attr_in(const xmlAttr *attr, const char *ns)
{
    return attr->ns && tree_same(attr->ns->href, ns);
}

struct str xml_attr(const xmlNode *element, const char *ns, const char *name)
{
    for (const xmlAttr *a = element ? element->properties : NULL; a; a = a->next) {
        if (tree_same(a->name, name) && (ns ? a->ns && tree_same(a->ns->href, ns) : !a->ns))
            return xml_attr_value(a);
    }
    return STR_MISSING;
}

bool xml_blank(const xmlNode *element)
{
    for (const xmlNode *n = element->children; n; n = n->next) {
        if (n->type == XML_TEXT_NODE && str_trim(tree_view(n->content)).n != 0)
            return false;
    }
    return true;
}
