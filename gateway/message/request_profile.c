#include "message/request_profile.h"

#include <string.h>

#include "message/kms_request_table.h"
#include "message/scanner.h"
#include "message/xmlsig_internal.h"

/* One reading. */
struct profile {
    struct scanner s;
    struct canon c;
    struct request_profile *out;
};

static const struct str KMS = {NS_KMS, sizeof NS_KMS - 1}, DS = {NS_DS, sizeof NS_DS - 1},
                        XSI = {NS_XSI, sizeof NS_XSI - 1};

/* Where text with references is decoded, there it stays; else the canonical text is the value. */
static bool profile_value(struct profile *p, struct str canonical, struct str *value)
{
    if (!memchr(canonical.p, '&', canonical.n)) {
        *value = canonical;
        return true;
    }
    if (canonical.n > p->c.cap - p->c.n) /* decoded it is no longer */
        return false;
    *value = canon_decode(canonical, p->c.p + p->c.n);
    p->c.n += value->n;
    return true;
}

/* A hint on where schemas are is the only attribute of a namespace that stands in a request. */
static bool profile_is_hint(const struct profile *p, const struct scan_attribute *a, struct str local)
{
    return str_eq(a->local, local) && str_eq(scanner_uri(&p->s, a->prefix), XSI);
}

/* The attributes of an element, all of them known ones: Id, Version where `version` is given, the two hints. */
struct profile_attributes {
    const struct scan_attribute *id, *version, *hints[2];
};
static bool profile_attributes(const struct profile *p, const struct scan_tag *tag, struct profile_attributes *out)
{
    static const struct str HINTS[2] = {{"noNamespaceSchemaLocation", 25}, {"schemaLocation", 14}};
    *out = (struct profile_attributes){NULL, NULL, {NULL, NULL}};
    for (unsigned i = 0; i < tag->attribute_count; i++) {
        const struct scan_attribute *a = &tag->attributes[i];
        const struct scan_attribute **slot = NULL;
        if (a->prefix.n == 0)
            slot = str_eq(a->local, STR("Id")) ? &out->id : str_eq(a->local, STR("Version")) ? &out->version : NULL;
        else
            slot = profile_is_hint(p, a, HINTS[0])   ? &out->hints[0]
                   : profile_is_hint(p, a, HINTS[1]) ? &out->hints[1]
                                                     : NULL;
        if (!slot || *slot) /* two prefixes of one namespace make one name */
            return false;
        *slot = a;
    }
    return true;
}

/* What stands there in the canonical text is not forwarded. */
static bool profile_leave_out(struct profile *p, size_t from, size_t to)
{
    if (p->out->left_out_count == PROFILE_LEFT_OUT)
        return false;
    p->out->left_out[p->out->left_out_count++] = (struct str){p->c.p + from, to - from};
    return true;
}

/* A child of KmsRequest that is text: its canonical text is appended; as its value that of its content is noted. */
static bool profile_leaf(struct profile *p, const struct scan_tag *tag, enum request_field f)
{
    const struct request_leaf *leaf = &REQUEST_LEAVES[f];
    const size_t from = p->c.n;
    struct str text = STR("");
    canon_start(&p->c, &p->s, tag, false);
    canon_bytes(&p->c, STR(">"));
    if (tag->attribute_count || (!tag->empty && !scanner_text(&p->s, &p->c, &text)) || !scanner_end(&p->s, tag))
        return false;
    canon_end(&p->c, tag);
    if (p->c.full)
        return false;
    const size_t to = p->c.n;
    if (leaf->between && !profile_leave_out(p, from, to))
        return false;
    *request_field(&p->out->fields, f) = text;
    return true;
}

/* Which of the table's leaves it is; REQUEST_FIELDS: none. */
static enum request_field profile_field(const struct scan_tag *tag)
{
    enum request_field f = 0;
    while (f < REQUEST_FIELDS && !str_eq(tag->local, REQUEST_LEAVES[f].name))
        f++;
    return str_eq(tag->uri, KMS) ? f : REQUEST_FIELDS;
}

/* The children in one of the two orders, then TrK-ID and Signature-ID in any; each at most once. */
static bool profile_children(struct profile *p)
{
    struct scan_tag tag;
    bool seen[REQUEST_FIELDS] = {false};
    size_t next = 0; /* of the order: where the next one may stand */
    int order = REQUEST_BY_SCHEMA;
    if (!scanner_blank(&p->s, &p->c))
        return false;
    while (!scanner_at_end_tag(&p->s)) {
        if (!scanner_start(&p->s, &tag))
            return false;
        const enum request_field f = profile_field(&tag);
        if (f == REQUEST_FIELDS || seen[f])
            return false;
        if (next == REQUEST_TIME && f != REQUEST_TIME)
            order = REQUEST_BY_TABLE;
        if (f < REQUEST_ORDERED) {
            while (next < REQUEST_ORDERED && REQUEST_ORDER[order][next] != f) {
                if (REQUEST_LEAVES[REQUEST_ORDER[order][next]].required)
                    return false;
                next++;
            }
            if (next == REQUEST_ORDERED)
                return false;
            next++;
        } else if (next < REQUEST_ORDERED) {
            return false;
        }
        seen[f] = true;
        if (!profile_leaf(p, &tag, f) || !scanner_blank(&p->s, &p->c))
            return false;
    }
    return next == REQUEST_ORDERED;
}

/* The values of what was read, out of their canonical text, by the types of the table. */
static bool profile_values(struct profile *p)
{
    for (enum request_field f = 0; f < REQUEST_FIELDS; f++) {
        const struct request_leaf *leaf = &REQUEST_LEAVES[f];
        struct str *value = request_field(&p->out->fields, f);
        if (!value->p)
            continue;
        if (!profile_value(p, *value, value) || !leaf->holds(*value))
            return false;
        if (leaf->trimmed)
            *value = str_trim(*value);
    }
    return true;
}

/* At the start tag of a KmsRequest. */
static bool profile_request(struct profile *p, const struct scan_tag *tag)
{
    struct profile_attributes a;
    const size_t from = p->c.n;
    struct str hint;
    if (!scan_tag_is(tag, KMS, STR("KmsRequest")) || tag->empty || !profile_attributes(p, tag, &a))
        return false;
    canon_start(&p->c, &p->s, tag, true);
    if (a.id)
        canon_attribute(&p->c, a.id, &p->out->fields.id);
    if (a.version)
        canon_attribute(&p->c, a.version, &p->out->fields.version);
    for (int i = 0; i < 2; i++) {
        const size_t before = p->c.n;
        if (a.hints[i])
            canon_attribute(&p->c, a.hints[i], &hint);
        if (a.hints[i] && !profile_leave_out(p, before, p->c.n))
            return false;
    }
    canon_bytes(&p->c, STR(">"));
    if (!profile_children(p) || !scanner_end(&p->s, tag))
        return false;
    canon_end(&p->c, tag);
    p->out->request = (struct str){p->c.p + from, p->c.n - from};
    return !p->c.full;
}

/* An element of the signature: this name, and this attribute or, NULL, none. */
static bool profile_ds(struct profile *p, struct scan_tag *tag, struct str local, const char *attribute)
{
    if (!scanner_start(&p->s, tag) || !scan_tag_is(tag, DS, local) || tag->attribute_count != (attribute != NULL))
        return false;
    return !attribute || scan_attribute_named(tag, str_z(attribute));
}

/* The same within SignedInfo: its start tag as canonical text. */
static bool profile_info_start(struct profile *p, struct scan_tag *tag, struct str local, const char *attribute)
{
    struct str value;
    if (!scanner_blank(&p->s, &p->c) || !profile_ds(p, tag, local, attribute))
        return false;
    canon_start(&p->c, &p->s, tag, false);
    if (attribute)
        canon_attribute(&p->c, &tag->attributes[0], &value);
    canon_bytes(&p->c, STR(">"));
    return !p->c.full;
}

static bool profile_info_end(struct profile *p, const struct scan_tag *tag)
{
    if (!scanner_end(&p->s, tag))
        return false;
    canon_end(&p->c, tag);
    return !p->c.full;
}

/* <local Algorithm="algorithm"></local> */
static bool profile_algorithm(struct profile *p, struct str local, const char *algorithm)
{
    struct scan_tag tag;
    return profile_info_start(p, &tag, local, "Algorithm") && str_eq_z(tag.attributes[0].value, algorithm) &&
           profile_info_end(p, &tag);
}

/* The reference is to the KmsRequest beside the signature, by its Id, which no other element has. */
static bool profile_refers(const struct profile *p, struct str uri)
{
    const struct str id = p->out->fields.id;
    return signature_plain_id(id) && uri.n == id.n + 1 && uri.p[0] == '#' &&
           str_eq((struct str){uri.p + 1, uri.n - 1}, id);
}

static bool profile_octets(struct str text, uint8_t out[HASH_BYTES])
{
    size_t n = 0;
    return base64_decode(text, out, HASH_BYTES, &n) && n == HASH_BYTES;
}

static bool profile_reference(struct profile *p)
{
    struct scan_tag tag, value;
    struct str text;
    return profile_info_start(p, &tag, STR("Reference"), "URI") && !tag.empty &&
           profile_refers(p, tag.attributes[0].value) && profile_algorithm(p, STR("DigestMethod"), ALG_SHA256) &&
           profile_info_start(p, &value, STR("DigestValue"), NULL) && !value.empty &&
           scanner_text(&p->s, &p->c, &text) && profile_octets(text, p->out->digest) &&
           profile_info_end(p, &value) && scanner_blank(&p->s, &p->c) && profile_info_end(p, &tag);
}

static bool profile_signed_info(struct profile *p)
{
    struct scan_tag tag;
    const size_t from = p->c.n;
    if (!scanner_blank(&p->s, NULL) || !profile_ds(p, &tag, STR("SignedInfo"), NULL) || tag.empty)
        return false;
    canon_start(&p->c, &p->s, &tag, true);
    canon_bytes(&p->c, STR(">"));
    if (!profile_algorithm(p, STR("CanonicalizationMethod"), ALG_C14N) ||
        !profile_algorithm(p, STR("SignatureMethod"), ALG_HMAC_SHA256) || !profile_reference(p) ||
        !scanner_blank(&p->s, &p->c) || !profile_info_end(p, &tag))
        return false;
    p->out->info = (struct str){p->c.p + from, p->c.n - from};
    return true;
}

/* An element of the signature that is text and is not signed. */
static bool profile_text(struct profile *p, struct str local, struct str *text)
{
    struct scan_tag tag;
    return scanner_blank(&p->s, NULL) && profile_ds(p, &tag, local, NULL) && !tag.empty &&
           scanner_text(&p->s, &p->c, text) && scanner_end(&p->s, &tag);
}

static bool profile_signature(struct profile *p)
{
    struct scan_tag tag, info;
    struct str value, name;
    if (!profile_ds(p, &tag, STR("Signature"), NULL) || tag.empty || !profile_signed_info(p) ||
        !profile_text(p, STR("SignatureValue"), &value) || !profile_octets(value, p->out->value) ||
        !scanner_blank(&p->s, NULL) || !profile_ds(p, &info, STR("KeyInfo"), NULL) || info.empty ||
        !profile_text(p, STR("KeyName"), &name) || !scanner_blank(&p->s, NULL) || !scanner_end(&p->s, &info) ||
        !scanner_blank(&p->s, NULL) || !scanner_end(&p->s, &tag))
        return false;
    return profile_value(p, name, &p->out->key_name) && p->out->key_name.n > 0;
}

static bool profile_signed(struct profile *p, const struct scan_tag *top)
{
    struct profile_attributes a;
    struct scan_tag tag;
    if (top->empty || !profile_attributes(p, top, &a) || a.version || !scanner_blank(&p->s, NULL) ||
        !scanner_start(&p->s, &tag) || !profile_request(p, &tag) || !p->out->fields.id.p ||
        (a.id && str_eq(a.id->value, p->out->fields.id)))
        return false;
    return scanner_blank(&p->s, NULL) && profile_signature(p) && scanner_blank(&p->s, NULL) &&
           scanner_end(&p->s, top);
}

bool request_profile_read(struct str body, char *room, size_t cap, struct request_profile *out)
{
    struct profile p = {.c = {.p = room, .cap = cap}, .out = out};
    struct scan_tag top;
    *out = (struct request_profile){.root = KMS_ROOT_REQUEST};
    if (!scanner_begin(&p.s, body) || !scanner_start(&p.s, &top))
        return false;
    if (scan_tag_is(&top, KMS, STR("SignedKmsRequest"))) {
        out->root = KMS_ROOT_SIGNED_REQUEST;
        if (!profile_signed(&p, &top))
            return false;
    } else if (!profile_request(&p, &top)) {
        return false;
    }
    return scanner_done(&p.s) && profile_values(&p);
}

enum reason request_profile_verify(const struct request_profile *r, const struct secret_key *key, struct detail *why)
{
    uint8_t computed[HASH_BYTES];
    if (!signature_hmac(key, r->info, computed))
        return REASON_INTERNAL;
    const bool signed_by_key = secret_equal(computed, r->value, sizeof computed);
    secret_wipe(computed, sizeof computed);
    if (!signed_by_key) {
        signature_tell_hmac(why);
        return REASON_SIGNATURE_INVALID;
    }
    if (!signature_hash(r->request, computed))
        return REASON_INTERNAL;
    if (secret_equal(computed, r->digest, sizeof computed))
        return REASON_OK;
    signature_tell_digest(why);
    return REASON_SIGNATURE_INVALID;
}

void request_profile_forward(const struct request_profile *r, struct buf *out)
{
    const char *from = r->request.p, *end = r->request.p + r->request.n;
    for (unsigned i = 0; i < r->left_out_count; i++) {
        buf_bytes(out, from, (size_t)(r->left_out[i].p - from));
        from = r->left_out[i].p + r->left_out[i].n;
    }
    buf_bytes(out, from, (size_t)(end - from));
}
