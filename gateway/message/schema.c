#include "message/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/run.h"
#include "base/timestamp.h"
#include "base/uri.h"
#include "message/xmlenc_internal.h"

#define SHOWN(s) (int)((s).n > 96 ? 96 : (s).n), (s).p ? (s).p : ""

/* Never shows a value: it may be a key that stands where none should. */
static bool schema_invalid(const struct schema_check *c, const xmlNode *at, struct str name, const char *expected)
{
    const struct str where = xml_name(at);
    detail_set(c->why, "%.*s: found %.*s, expected %s", SHOWN(where), SHOWN(name), expected);
    return false;
}

static bool is_integer(struct str s)
{
    const size_t sign = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+');
    for (size_t i = sign; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    }
    return s.n > sign;
}

bool schema_hex_holds(struct str s, size_t octets)
{
    return s.n == 2 * octets && run_hex(s.p, s.n) == s.n;
}

bool schema_value_holds(struct str text, enum schema_type type, bool may_be_empty)
{
    int64_t us;
    bool zone;
    if (!text.p)
        return false;
    switch (type) {
    case TYPE_STRING:
        return true;
    case TYPE_URI:
        return (may_be_empty && text.n == 0) || uri_is_any_uri(text);
    case TYPE_TIME:
        return time_parse(text, &us, &zone);
    case TYPE_INTEGER:
        return is_integer(text);
    case TYPE_BOOLEAN:
        return str_eq_z(text, "true") || str_eq_z(text, "false") || str_eq_z(text, "1") || str_eq_z(text, "0");
    default:
        return false;
    }
}

struct str schema_value(const xmlNode *element, enum schema_type type)
{
    const struct str text = xml_text(element);
    return text.p && type != TYPE_STRING ? str_trim(text) : text;
}

const struct schema_element *schema_find(const struct schema_group *group, const xmlNode *child, size_t *at)
{
    for (size_t i = 0; i < group->count; i++) {
        if (xml_is(child, NS_KMS, group->elements[i].name.p)) {
            *at = i;
            return &group->elements[i];
        }
    }
    return NULL;
}

bool schema_is_foreign(const xmlNode *node)
{
    return !xml_in(node, NS_KMS) && !xml_in(node, "");
}

bool schema_is_foreign_attribute(const xmlAttr *a)
{
    return a->ns && !xml_attr_in(a, NS_XSI) && !xml_attr_in(a, NS_KMS);
}

bool schema_is_sealed(const xmlNode *node)
{
    const xmlNode *n = xml_child(node);
    while (n && !xml_is(n, NS_DS, "Signature"))
        n = xml_next(n);
    return n != NULL;
}

enum { FREE_TEXT_MAX = 128 };
#define FREE_TEXT_SIGNS "-._:@/,=()+"

/* How many octets of it may stand in a free text. */
static size_t free_part(struct str text)
{
    size_t i = 0;
    while (i < text.n && ((text.p[i] >= 'a' && text.p[i] <= 'z') || (text.p[i] >= 'A' && text.p[i] <= 'Z') ||
                          (text.p[i] >= '0' && text.p[i] <= '9') ||
                          (text.p[i] && strchr(" " FREE_TEXT_SIGNS, text.p[i]))))
        i++;
    return i;
}

bool schema_is_free_text(struct str text)
{
    return text.p && text.n <= FREE_TEXT_MAX && free_part(text) == text.n;
}

bool schema_id_stays(struct str id)
{
    return schema_is_free_text(id) && !str_eq(id, STR("xmldoc"));
}

void schema_tell_unfree(const char *element, struct str text, struct detail *out)
{
    const size_t fits = free_part(text);
    char found[64];
    if (schema_is_free_text(text))
        snprintf(found, sizeof found, "%.*s, which is the response's own", STR_FMT(text));
    else if (fits < text.n)
        snprintf(found, sizeof found, "another character at octet %zu", fits);
    else
        snprintf(found, sizeof found, "%zu characters", text.n);
    detail_set(out, "%s: found %s, expected at most %d letters, digits, spaces and " FREE_TEXT_SIGNS "; it is left out "
               "of the reply", element, found, FREE_TEXT_MAX);
}

void schema_tell_attribute(const char *attribute, struct str element, struct str value, struct detail *out)
{
    char name[128];
    if (out->text[0])
        return;
    snprintf(name, sizeof name, "%.*s: its %s", SHOWN(element), attribute);
    schema_tell_unfree(name, value, out);
}

bool schema_is_new_key(const struct schema_element *e)
{
    return str_eq(e->name, STR("NewTransportKey")) || str_eq(e->name, STR("NewIntegrityKey"));
}

bool schema_is_number(const struct schema_element *e)
{
    return str_eq(e->name, STR("UserSigningKeySSK"));
}

const xmlNode *schema_payload(const xmlNode *message, const struct schema_element **e)
{
    size_t at;
    const xmlNode *n = xml_child(message);
    while (n && !(*e = schema_find(&SCHEMA_MESSAGE, n, &at)))
        n = xml_next(n);
    return n;
}

bool schema_is_extended(const xmlNode *node)
{
    for (const xmlNode *n = xml_child(node); n; n = xml_next(n)) {
        if (xml_is(n, NS_KMS, "NewTransportKey") || xml_is(n, NS_KMS, "NewIntegrityKey"))
            return true;
    }
    return false;
}

const xmlNode *schema_encrypted_key(const xmlNode *key_content)
{
    return xml_child(key_content);
}

bool schema_names_key(struct str name)
{
    static const char *const NAMES[] = {"UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT", "NewTransportKey",
                                        "NewIntegrityKey"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        if (str_ieq_z(name, NAMES[i]))
            return true;
    }
    return false;
}

/* The local name that xsi:type gives in the interface's namespace; missing when it is of another. A name without prefix
 * where there is no default namespace is taken for ours: prefixed documents are written so by older servers. */
static struct str type_name(const xmlNode *n, struct str value)
{
    value = str_trim(value);
    size_t colon = 0;
    while (colon < value.n && value.p[colon] != ':')
        colon++;
    char *prefix = colon < value.n ? str_dup((struct str){value.p, colon}) : NULL;
    if (colon < value.n && !prefix)
        return STR_MISSING;
    const xmlNs *ns = xmlSearchNs(n->doc, (xmlNode *)n, (const xmlChar *)prefix);
    free(prefix);
    const struct str uri = ns ? str_z((const char *)ns->href) : STR("");
    if (colon == value.n)
        return uri.n == 0 || str_eq_z(uri, NS_KMS) ? value : STR_MISSING;
    return str_eq_z(uri, NS_KMS) ? (struct str){value.p + colon + 1, value.n - colon - 1} : STR_MISSING;
}

bool schema_attribute_holds(const struct schema_attribute *known, struct str value)
{
    if (known->values[0])
        return str_eq_z(value, known->values[0]) || str_eq_z(value, known->values[1]);
    return value.p && schema_value_holds(known->type == TYPE_STRING ? value : str_trim(value), known->type, false);
}

static bool demands_version(const struct schema_check *c, const struct schema_group *g)
{
    return c->mode == SCHEMA_STRICT && g->version && g->version[0];
}

static bool check_own_attribute(const struct schema_check *c, const xmlNode *n, const xmlAttr *a,
                                const struct schema_group *g)
{
    const struct str name = str_z((const char *)a->name), value = xml_attr_value(a);
    if (g && g->version && str_eq_z(name, "Id"))
        return value.p ? true : schema_invalid(c, n, name, "text in it");
    if (g && g->version && str_eq_z(name, "Version"))
        return !demands_version(c, g) || str_eq_z(value, g->version) ? true : schema_invalid(c, n, name, g->version);
    for (size_t i = 0; g && i < g->attribute_count; i++) {
        if (str_eq(name, g->attributes[i].name))
            return schema_attribute_holds(&g->attributes[i], value) || schema_invalid(c, n, name, "another value");
    }
    return schema_invalid(c, n, name, "no such attribute");
}

/* Of XML Schema's attributes: type where there are several, and hints on where schemas are. */
static bool check_xsi(const struct schema_check *c, const xmlNode *n, const xmlAttr *a, const char *plain,
                      const char *extended)
{
    const struct str name = str_z((const char *)a->name);
    if (str_eq_z(name, "schemaLocation") || str_eq_z(name, "noNamespaceSchemaLocation"))
        return true;
    if (!str_eq_z(name, "type") || !extended)
        return schema_invalid(c, n, name, "no such attribute");
    const struct str type = type_name(n, xml_attr_value(a));
    if (str_eq_z(type, extended) || (c->mode != SCHEMA_STRICT && str_eq_z(type, plain)))
        return true;
    char due[120];
    snprintf(due, sizeof due, "%s%s", extended, c->mode == SCHEMA_LENIENT
        ? "; a dialect's `rename_types` reads a type that the KMS calls otherwise" : "");
    return schema_invalid(c, n, type.p ? type : STR("an xsi:type of another namespace"), due);
}

/* An xsi:type that says, under whatever prefix, that a key in clear is what stands there. */
static bool says_clear_key(const xmlAttr *a)
{
    const struct str value = str_trim(xml_attr_value(a));
    if (!xml_attr_in(a, NS_XSI) || !str_eq_z(str_z((const char *)a->name), "type"))
        return false;
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] == ':')
            return str_ieq_z((struct str){value.p + i + 1, value.n - i - 1}, TYPE_CLEAR);
    return str_ieq_z(value, TYPE_CLEAR);
}

/* What the gateway does not understand may hold anything, but no key by its name or type. */
static bool check_foreign_attribute(const struct schema_check *c, const xmlNode *n, const xmlAttr *a)
{
    if (schema_names_key(str_z((const char *)a->name)) || says_clear_key(a))
        return schema_invalid(c, n, str_z((const char *)a->name), "no such attribute");
    return true;
}

/* `wanted`: the xsi:type that a strict reading demands; NULL: none. */
static bool check_attributes(const struct schema_check *c, const xmlNode *n, const struct schema_group *g,
                             const char *plain, const char *wanted)
{
    bool typed = false;
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const bool is_xsi = xml_attr_in(a, NS_XSI);
        if (g && g->any_attribute && schema_is_foreign_attribute(a)) {
            if (!check_foreign_attribute(c, n, a))
                return false;
            continue;
        }
        if (a->ns && !is_xsi)
            return schema_invalid(c, n, str_z((const char *)a->name), "no such attribute");
        if (is_xsi ? !check_xsi(c, n, a, plain, wanted) : !check_own_attribute(c, n, a, g))
            return false;
        typed |= is_xsi && str_eq_z(str_z((const char *)a->name), "type");
    }
    if (wanted && c->mode == SCHEMA_STRICT && !typed)
        return schema_invalid(c, n, STR("no xsi:type"), wanted);
    if (g && demands_version(c, g) && !xml_attr(n, NULL, "Version").p)
        return schema_invalid(c, n, STR("no Version"), g->version);
    for (size_t i = 0; g && i < g->attribute_count; i++) {
        if (g->attributes[i].required && !xml_attr(n, NULL, g->attributes[i].name.p).p)
            return schema_invalid(c, n, STR("too few attributes"), g->attributes[i].name.p);
    }
    return true;
}

/* What the gateway does not understand may hold anything but what it would understand; no key by its name or type. */
static bool check_foreign(const struct schema_check *c, const xmlNode *top)
{
    for (const xmlNode *n = top; n; n = xml_following(n, top)) {
        if (xml_in(n, NS_KMS) || schema_names_key(xml_name(n)))
            return schema_invalid(c, top, xml_name(n), "nothing of the interface in an element of another namespace");
        for (const xmlAttr *a = n->properties; a; a = a->next)
            if (!check_foreign_attribute(c, top, a))
                return false;
    }
    return true;
}

static bool check_key(struct schema_check *c, const xmlNode *n, const struct schema_element *e)
{
    const xmlNode *key = schema_encrypted_key(n);
    struct encrypted found;
    const bool is_new = schema_is_new_key(e);
    c->has_key_content |= !is_new;
    c->has_new_key |= is_new;
    if (!check_attributes(c, n, NULL, NULL, key ? TYPE_ENCRYPTED : TYPE_CLEAR))
        return false;
    if (!key) {
        if (c->mode != SCHEMA_LENIENT && is_new)
            return schema_invalid(c, n, STR("it in clear"), "an EncryptedKey");
        c->has_clear_key = true;
        if (schema_hex_holds(schema_value(n, TYPE_KEY), e->octets))
            return true;
        schema_tell_key(c->why, e, schema_value(n, TYPE_KEY), false);
        return false;
    }
    if (xml_next(key) || !xml_blank(n))
        return schema_invalid(c, n, STR("more"), "one EncryptedKey alone");
    if (!encrypted_key_read(key, &found, c->why))
        return false;
    if (c->mode != SCHEMA_LENIENT && c->wrapped_by.p && !str_eq(c->wrapped_by, found.key_name))
        return schema_invalid(c, n, STR("another KeyName"), "the same for all keys");
    c->wrapped_by = found.key_name;
    c->has_encrypted = true;
    c->has_encrypted_content |= !is_new;
    return true;
}

/* Elements of the interface, at most LOOKUP_DEPTH deep, text in leaves. No key by its name. */
static bool check_lookup(const struct schema_check *c, const xmlNode *n, unsigned depth)
{
    static const struct schema_group own = {.version = "", .extensions = 0, .any_attribute = true};
    if (depth > 0 && schema_is_foreign(n))
        return check_foreign(c, n);
    if (!xml_in(n, NS_KMS) || schema_names_key(xml_name(n)) || depth > LOOKUP_DEPTH)
        return schema_invalid(c, n, STR("it"), "elements of the interface, not deep, no keys");
    if (!check_attributes(c, n, &own, NULL, NULL))
        return false;
    if (xml_child(n) && !xml_blank(n))
        return schema_invalid(c, n, STR("text"), "elements");
    for (const xmlNode *child = xml_child(n); child; child = xml_next(child)) {
        if (!check_lookup(c, child, depth + 1))
            return false;
    }
    return true;
}

/* Its signature is over its own form: what is not in order cannot be put in order. Only its Versions may be any. */
static bool check_sealed(struct schema_check *c, const xmlNode *n, const struct schema_group *certificate)
{
    static const struct schema_group own = {.version = "", .extensions = NO_EXTENSIONS};
    const xmlNode *inner = xml_child(n), *signature = xml_next(inner);
    const bool is_sealed = schema_is_sealed(n);
    struct schema_check inside = {.mode = SCHEMA_STRICT, .why = c->why};
    struct schema_group any_version = *certificate;
    any_version.version = "";
    if (!check_attributes(c, n, &own, NULL, NULL))
        return false;
    if (!xml_blank(n) || !xml_is(inner, NS_KMS, "KmsCertificate") ||
        (is_sealed ? !xml_is(signature, NS_DS, "Signature") || xml_next(signature) : signature != NULL))
        return schema_invalid(c, n, STR("other content"), "KmsCertificate, and a Signature behind it or none");
    if (!is_sealed)
        return schema_holds(c, inner, certificate);
    return check_foreign(c, signature) && schema_holds(&inside, inner, &any_version);
}

static bool check_payload(struct schema_check *c, const xmlNode *n)
{
    const xmlNode *data = xml_child(n);
    struct encrypted found, key;
    const bool is_encrypted = xml_is(data, NS_XENC, "EncryptedData");
    if (c->mode == SCHEMA_LENIENT && is_encrypted)
        return schema_invalid(c, n, xml_name(data), "a message in clear: nothing here could open it");
    if (!is_encrypted)
        return schema_holds(c, n, &SCHEMA_MESSAGE);
    if (xml_next(data) || !xml_blank(n))
        return schema_invalid(c, n, STR("more"), "one EncryptedData alone");
    if (!check_attributes(c, n, &SCHEMA_MESSAGE, NULL, NULL))
        return false;
    if (!encrypted_data_read(data, &found, c->why) || !encrypted_key_read(found.key, &key, c->why))
        return false;
    c->has_encrypted = true;
    c->wrapped_by = key.key_name;
    return true;
}

static bool check_element(struct schema_check *c, const xmlNode *n, const struct schema_element *e)
{
    switch (e->type) {
    case TYPE_GROUP:
        return schema_holds(c, n, e->group);
    case TYPE_PAYLOAD:
        return check_payload(c, n);
    case TYPE_LOOKUP:
        return check_lookup(c, n, 0);
    case TYPE_SEALED:
        return check_sealed(c, n, e->group);
    case TYPE_KEY:
        return check_key(c, n, e);
    default:
        break;
    }
    const struct str text = schema_value(n, e->type);
    const bool may_be_empty = e->count == OPTIONAL || e->count == ENVELOPE;
    if (!check_attributes(c, n, NULL, NULL, NULL))
        return false;
    if (!text.p)
        return schema_invalid(c, n, STR("elements"), "text");
    if (e->type == TYPE_HEX && !schema_hex_holds(text, e->octets)) {
        schema_tell_key(c->why, e, text, false);
        return false;
    }
    if (e->type != TYPE_HEX && !schema_value_holds(text, e->type, may_be_empty))
        return schema_invalid(c, n, STR("other text"), "a value of its type");
    return true;
}

/* Foreign elements may stand alone in a KmsMessage. */
static bool has_foreign(const xmlNode *n)
{
    for (n = xml_child(n); n; n = xml_next(n))
        if (schema_is_foreign(n))
            return true;
    return false;
}

static bool enough(const struct schema_check *c, const xmlNode *n, const struct schema_group *g, const unsigned *seen)
{
    unsigned choices = 0, chosen = 0;
    for (size_t i = 0; i < g->count; i++) {
        const enum schema_count count = g->elements[i].count;
        const bool due = count == ONE || count == MANY || (count == ENVELOPE && c->mode != SCHEMA_LENIENT);
        const bool once = count != ANY && count != MANY;
        if ((due && seen[i] == 0) || (once && seen[i] > 1))
            return schema_invalid(c, n, seen[i] ? STR("more of") : STR("no"), g->elements[i].name.p);
        choices += count == CHOICE;
        chosen += count == CHOICE ? seen[i] : 0;
    }
    return choices == 0 || chosen == 1 || (g == &SCHEMA_MESSAGE && chosen == 0 && has_foreign(n))
        ? true : schema_invalid(c, n, STR("none or several"), "exactly one of those it may hold");
}

static bool unknown_child(const struct schema_check *c, const xmlNode *child)
{
    if (c->mode != SCHEMA_LENIENT || schema_is_foreign(child))
        return schema_invalid(c, child->parent, xml_name(child), "no such element");
    return schema_invalid(c, child->parent, xml_name(child), xml_in(child, "")
        ? "no element without namespace; a dialect's `namespaces` with \"\" reads it as the standard's"
        : "no such element; a dialect's `rename` reads what the KMS calls otherwise");
}

/* Takes one child: its place in the group; `reached` is where the strict order stands. */
static bool check_child(struct schema_check *c, const xmlNode *child, const struct schema_group *g, unsigned *seen,
                        size_t *reached)
{
    size_t at = 0;
    const struct schema_element *e = schema_find(g, child, &at);
    /* places count double, so that extensions have one of their own before the element that follows them */
    const size_t place = e ? 2 * at + 1 : 2 * g->extensions;
    if (!e && (!schema_is_foreign(child) || g->extensions == NO_EXTENSIONS))
        return unknown_child(c, child);
    if (c->mode == SCHEMA_STRICT && place < *reached)
        return schema_invalid(c, child->parent, xml_name(child), "it earlier");
    *reached = place;
    if (!e)
        return check_foreign(c, child);
    seen[at]++;
    return check_element(c, child, e);
}

bool schema_holds(struct schema_check *c, const xmlNode *node, const struct schema_group *group)
{
    unsigned seen[SCHEMA_ELEMENTS_MAX] = {0};
    size_t reached = 0;
    const char *wanted = NULL;
    if (group->extended && (c->mode != SCHEMA_STRICT || schema_is_extended(node)))
        wanted = group->extended;
    if (!check_attributes(c, node, group, group->plain, wanted))
        return false;
    if (!xml_blank(node))
        return schema_invalid(c, node, STR("text"), "elements");
    for (const xmlNode *n = xml_child(node); n; n = xml_next(n)) {
        if (!check_child(c, n, group, seen, &reached))
            return false;
    }
    return enough(c, node, group, seen);
}
