#include "message/xmlenc_internal.h"

struct reading {
    struct detail *why;
    bool ok;
};

static void xmlenc_refuse(struct reading *r, const char *where, const char *expected)
{
    if (r->ok)
        detail_set(r->why, "%s: expected %s", where, expected);
    r->ok = false;
}

/* Only the attributes `allowed` and Id, and no text between children. */
static void xmlenc_expect(struct reading *r, const xmlNode *n, const char *ns, const char *name, const char *allowed)
{
    if (!r->ok || !xml_is(n, ns, name)) {
        xmlenc_refuse(r, name, "it here");
        return;
    }
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const struct str attribute = str_z((const char *)a->name);
        if (a->ns || !(str_eq_z(attribute, "Id") || (allowed && str_eq_z(attribute, allowed))))
            xmlenc_refuse(r, name, "no such attribute");
    }
    if (xml_child(n) && !xml_blank(n))
        xmlenc_refuse(r, name, "no text between its elements");
}

static const xmlNode *only_child(struct reading *r, const xmlNode *n)
{
    const xmlNode *child = xml_child(n);
    if (r->ok && (!child || xml_next(child)))
        xmlenc_refuse(r, (const char *)n->name, "exactly one element in it");
    return child;
}

static struct str text_of(struct reading *r, const xmlNode *n)
{
    const struct str text = r->ok ? xml_text(n) : STR_MISSING;
    if (r->ok && n && (!text.p || text.n == 0))
        xmlenc_refuse(r, (const char *)n->name, "text");
    return text;
}

/* Takes EncryptionMethod, KeyInfo, CipherData; gives what is in KeyInfo. */
static const xmlNode *read_parts(struct reading *r, const xmlNode *n, struct encrypted *out)
{
    const xmlNode *method = xml_child(n), *info = xml_next(method), *data = xml_next(info);
    xmlenc_expect(r, method, NS_XENC, "EncryptionMethod", "Algorithm");
    if (r->ok && (xml_child(method) || !xml_blank(method)))
        xmlenc_refuse(r, "EncryptionMethod", "no content");
    xmlenc_expect(r, info, NS_DS, "KeyInfo", NULL);
    xmlenc_expect(r, data, NS_XENC, "CipherData", NULL);
    const xmlNode *carried = xml_next(data);
    const bool may_carry = xml_is(n, NS_XENC, "EncryptedKey");
    if (r->ok && carried && may_carry)
        xmlenc_expect(r, carried, NS_XENC, "CarriedKeyName", NULL);
    out->carried = carried && may_carry ? text_of(r, carried) : STR_MISSING;
    if (r->ok && carried && (!may_carry || xml_next(carried)))
        xmlenc_refuse(r, (const char *)n->name, may_carry ? "CarriedKeyName last" : "CipherData last");
    const xmlNode *in_info = r->ok ? only_child(r, info) : NULL;
    const xmlNode *value = r->ok ? only_child(r, data) : NULL;
    xmlenc_expect(r, value, NS_XENC, "CipherValue", NULL);
    out->cipher = text_of(r, value);
    out->algorithm = r->ok ? xml_attr(method, NULL, "Algorithm") : STR_MISSING;
    return in_info;
}

bool encrypted_key_read(const xmlNode *n, struct encrypted *out, struct detail *why)
{
    struct reading r = {why, true};
    *out = (struct encrypted){0};
    xmlenc_expect(&r, n, NS_XENC, "EncryptedKey", NULL);
    const xmlNode *name = r.ok ? read_parts(&r, n, out) : NULL;
    xmlenc_expect(&r, name, NS_DS, "KeyName", NULL);
    out->key_name = text_of(&r, name);
    if (r.ok && !str_eq_z(out->algorithm, ALG_KW) && !str_eq_z(out->algorithm, ALG_KWP) &&
        !str_eq_z(out->algorithm, ALG_GCM))
        xmlenc_refuse(&r, "EncryptionMethod", ALG_KW ", its form with padding, or AES-256-GCM");
    return r.ok;
}

bool encrypted_data_read(const xmlNode *n, struct encrypted *out, struct detail *why)
{
    struct reading r = {why, true};
    *out = (struct encrypted){0};
    xmlenc_expect(&r, n, NS_XENC, "EncryptedData", "Type");
    if (r.ok && !str_eq_z(xml_attr(n, NULL, "Type"), TYPE_CONTENT))
        xmlenc_refuse(&r, "EncryptedData", "Type " TYPE_CONTENT);
    out->key = r.ok ? read_parts(&r, n, out) : NULL;
    xmlenc_expect(&r, out->key, NS_XENC, "EncryptedKey", NULL);
    if (r.ok && !str_eq_z(out->algorithm, ALG_GCM))
        xmlenc_refuse(&r, "EncryptionMethod", ALG_GCM);
    return r.ok;
}
