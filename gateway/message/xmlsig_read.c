#include "message/xmlsig_internal.h"

/* XML Signature 1.1, 6.3.1: no HMAC below half the hash's length, whatever a rule says. */
enum { HMAC_BITS = 256, HMAC_BITS_FLOOR = 128 };

struct reading {
    const struct xml_doc *doc;
    const struct xmlsig_policy *policy;
    struct signature *sig;
    struct detail *why;
};

static enum reason profile(const struct reading *r, const char *what, struct str found, const char *expected)
{
    detail_set(r->why, "%s: found %.*s, expected %s", what, (int)(found.n > 96 ? 96 : found.n), found.p ? found.p : "",
               expected);
    return REASON_SIGNATURE_PROFILE;
}

static enum reason xmlsig_reference(const struct reading *r, const char *what)
{
    detail_set(r->why, "%s", what);
    return REASON_SIGNATURE_REFERENCE;
}

/* The closed form of an element of the signature: its name, only the attributes `Id` and `allowed`, no text between its
 * children. */
static enum reason xmlsig_expect(const struct reading *r, const xmlNode *n, const char *name, const char *allowed)
{
    if (!n)
        return profile(r, "Signature", STR("nothing"), name);
    if (!xml_is(n, NS_DS, name))
        return profile(r, "Signature", xml_name(n), name);
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const struct str attribute = str_z((const char *)a->name);
        if (a->ns || !(str_eq_z(attribute, "Id") || (allowed && str_eq_z(attribute, allowed))))
            return profile(r, name, attribute, "no such attribute");
    }
    if (xml_child(n) && !xml_blank(n))
        return profile(r, name, STR("text"), "elements only");
    return REASON_OK;
}

/* An element that is an algorithm's name and nothing else but, with `parameters`, child elements. */
static enum reason expect_algorithm(const struct reading *r, const xmlNode *n, const char *name, bool parameters,
                                    struct str *algorithm)
{
    const enum reason bad = xmlsig_expect(r, n, name, "Algorithm");
    if (bad != REASON_OK)
        return bad;
    *algorithm = xml_attr(n, NULL, "Algorithm");
    if (!algorithm->p)
        return profile(r, name, STR("no Algorithm"), "one");
    if ((!parameters && xml_child(n)) || !xml_blank(n))
        return profile(r, name, STR("content"), "none");
    return REASON_OK;
}

enum reason signature_tell_missing(struct detail *why)
{
    detail_set(why, "found no Signature beside the message");
    return REASON_SIGNATURE_MISSING;
}

enum reason signature_tell_canonicalization(struct detail *why, struct str found)
{
    const struct reading r = {.why = why};
    return profile(&r, "CanonicalizationMethod", found, "one that the rule lists");
}

static const struct canonical {
    const char *name, *short_name;
    unsigned bit;
    enum xml_c14n form;
} KNOWN[] = {{ALG_C14N, "c14n", XMLSIG_C14N, XML_C14N_INCLUSIVE},
             {ALG_EXC_C14N, "exc-c14n", XMLSIG_EXC_C14N, XML_C14N_EXCLUSIVE},
             {ALG_C14N11, "c14n11", XMLSIG_C14N11, XML_C14N_INCLUSIVE_11},
             {ALG_C14N_COMMENTS, "c14n-comments", XMLSIG_C14N_COMMENTS, XML_C14N_INCLUSIVE},
             {ALG_EXC_C14N_COMMENTS, "exc-c14n-comments", XMLSIG_EXC_C14N_COMMENTS, XML_C14N_EXCLUSIVE},
             {ALG_C14N11_COMMENTS, "c14n11-comments", XMLSIG_C14N11_COMMENTS, XML_C14N_INCLUSIVE_11}};

/* NULL: none that a rule can name. */
static const struct canonical *canonical_of(struct str algorithm)
{
    for (size_t i = 0; i < sizeof KNOWN / sizeof KNOWN[0]; i++)
        if (str_eq_z(algorithm, KNOWN[i].name))
            return &KNOWN[i];
    return NULL;
}

static bool canonicalization(const struct reading *r, struct str algorithm, enum xml_c14n *form,
                             bool *comments)
{
    const struct canonical *c = canonical_of(algorithm);
    if (!c || !(r->policy->canonicalization & c->bit))
        return false;
    *form = c->form;
    *comments = c->bit >= XMLSIG_C14N_COMMENTS;
    return true;
}

static enum reason read_hmac(const struct reading *r, const xmlNode *method)
{
    struct str algorithm;
    uint64_t bits = HMAC_BITS;
    const enum reason bad = expect_algorithm(r, method, "SignatureMethod", true, &algorithm);
    if (bad != REASON_OK)
        return bad;
    if (!str_eq_z(algorithm, ALG_HMAC_SHA256))
        return profile(r, "SignatureMethod", algorithm, ALG_HMAC_SHA256);
    const xmlNode *length = xml_child(method);
    if (length) {
        const enum reason wrong = xmlsig_expect(r, length, "HMACOutputLength", NULL);
        if (wrong != REASON_OK)
            return wrong;
        const struct str text = str_trim(xml_text(length));
        if (xml_next(length) || !str_to_u64(text, HMAC_BITS, &bits) || bits % 8 != 0 || bits < HMAC_BITS_FLOOR ||
            bits < r->policy->min_hmac_bits)
            return profile(r, "HMACOutputLength", text, "256, or what min_hmac_bits allows");
    }
    r->sig->hmac_bytes = (size_t)bits / 8;
    return REASON_OK;
}

/* None, C14N alone; for the envelope enveloped, then perhaps C14N. */
static enum reason read_transforms(const struct reading *r, const xmlNode *transforms)
{
    struct str algorithm;
    enum reason bad = xmlsig_expect(r, transforms, "Transforms", NULL);
    if (bad != REASON_OK)
        return bad;
    const xmlNode *t = xml_child(transforms);
    bad = expect_algorithm(r, t, "Transform", false, &algorithm);
    if (bad != REASON_OK)
        return bad;
    if (str_eq_z(algorithm, ALG_ENVELOPED)) {
        r->sig->enveloped = true;
        t = xml_next(t);
        if (!t)
            return REASON_OK;
        bad = expect_algorithm(r, t, "Transform", false, &algorithm);
        if (bad != REASON_OK)
            return bad;
    }
    if (!canonicalization(r, algorithm, &r->sig->apex_form, &r->sig->apex_comments))
        return profile(r, "Transform", algorithm, ALG_C14N);
    return xml_next(t) ? profile(r, "Transforms", STR("more"), "one canonicalization at most") : REASON_OK;
}

/* How many elements carry the value in an attribute that somebody might take for an ID: Id, ID, id, xml:id. */
static unsigned count_id(const struct xml_doc *doc, struct str value)
{
    unsigned n = 0;
    for (const xmlNode *e = xml_top(doc); e; e = xml_following(e, xml_top(doc))) {
        for (const xmlAttr *a = e->properties; a; a = a->next)
            n += str_ieq_z(str_z((const char *)a->name), "Id") && str_eq(xml_attr_value(a), value);
    }
    return n;
}

/* The reference is to the payload by its Id, or to the envelope by its Id or by "". Comparing the URI with our own Ids
 * is all the resolving there is: no XPointer, no look-up, nothing outside the document. */
static enum reason read_target(const struct reading *r, struct str uri)
{
    struct signature *sig = r->sig;
    const struct str own = xml_attr(sig->payload, NULL, "Id"), outer = xml_attr(sig->top, NULL, "Id");
    if (!uri.p)
        return xmlsig_reference(r, "Reference: found no URI, expected the Id of the message beside the signature");
    if (uri.n == 0) {
        sig->apex = sig->top;
    } else {
        const struct str id = {uri.p + 1, uri.n - 1};
        if (uri.p[0] != '#' || id.n == 0)
            return xmlsig_reference(r, "Reference: found a URI outside the message, expected # and an Id");
        if (str_eq(id, own))
            sig->apex = sig->payload;
        else if (str_eq(id, outer))
            sig->apex = sig->top;
        else
            return xmlsig_reference(r, "Reference: found another Id than that of the message beside the signature");
        sig->reference_id = id;
        if (!signature_plain_id(id))
            return xmlsig_reference(r, "Reference: found an Id with other characters than letters, digits and -._:");
        if (count_id(r->doc, id) != 1)
            return xmlsig_reference(r, "Reference: found its Id at more than one element");
    }
    if (sig->enveloped != (sig->apex == sig->top))
        return profile(r, "Transforms", sig->enveloped ? STR("enveloped-signature") : STR("no enveloped-signature"),
                       "it for a reference to the envelope, and for no other");
    return REASON_OK;
}

static enum reason read_digest(const struct reading *r, const xmlNode *method, struct str *digest)
{
    struct str algorithm;
    enum reason bad = expect_algorithm(r, method, "DigestMethod", false, &algorithm);
    if (bad != REASON_OK)
        return bad;
    if (!str_eq_z(algorithm, ALG_SHA256))
        return profile(r, "DigestMethod", algorithm, ALG_SHA256);
    const xmlNode *value = xml_next(method);
    bad = xmlsig_expect(r, value, "DigestValue", NULL);
    if (bad != REASON_OK)
        return bad;
    *digest = xml_text(value);
    if (!digest->p || xml_next(value))
        return profile(r, "Reference", STR("more"), "a DigestValue last");
    return REASON_OK;
}

static enum reason read_signed_info(const struct reading *r, struct str *uri, struct str *digest)
{
    struct signature *sig = r->sig;
    struct str algorithm;
    enum reason bad = xmlsig_expect(r, sig->info, "SignedInfo", NULL);
    if (bad != REASON_OK)
        return bad;
    const xmlNode *n = xml_child(sig->info);
    bad = expect_algorithm(r, n, "CanonicalizationMethod", false, &algorithm);
    if (bad != REASON_OK)
        return bad;
    if (!canonicalization(r, algorithm, &sig->info_form, &sig->info_comments))
        return signature_tell_canonicalization(r->why, algorithm);
    n = xml_next(n);
    bad = read_hmac(r, n);
    if (bad != REASON_OK)
        return bad;
    n = xml_next(n);
    bad = xmlsig_expect(r, n, "Reference", "URI");
    if (bad != REASON_OK)
        return bad;
    if (xml_next(n))
        return profile(r, "SignedInfo", xml_name(xml_next(n)), "one Reference last");
    *uri = xml_attr(n, NULL, "URI");
    n = xml_child(n);
    if (xml_is(n, NS_DS, "Transforms")) {
        bad = read_transforms(r, n);
        if (bad != REASON_OK)
            return bad;
        n = xml_next(n);
    }
    return read_digest(r, n, digest);
}

static enum reason read_key_info(const struct reading *r, const xmlNode *info)
{
    const enum reason bad = xmlsig_expect(r, info, "KeyInfo", NULL);
    if (bad != REASON_OK)
        return bad;
    const xmlNode *name = xml_child(info);
    const enum reason wrong = xmlsig_expect(r, name, "KeyName", NULL);
    if (wrong != REASON_OK)
        return wrong;
    r->sig->key_name = xml_text(name);
    if (!r->sig->key_name.p || r->sig->key_name.n == 0 || xml_next(name))
        return profile(r, "KeyInfo", STR("other"), "exactly one KeyName");
    return xml_next(info) ? profile(r, "Signature", xml_name(xml_next(info)), "KeyInfo last") : REASON_OK;
}

static enum reason read_values(const struct reading *r, struct str value, struct str digest)
{
    uint8_t bytes[2 * HASH_BYTES];
    size_t n = 0;
    if (!base64_decode(digest, bytes, sizeof bytes, &n) || n != HASH_BYTES) {
        detail_set(r->why, "DigestValue: expected the base64 of 32 octets");
        return REASON_SIGNATURE_INVALID;
    }
    for (size_t i = 0; i < HASH_BYTES; i++)
        r->sig->digest[i] = bytes[i];
    if (!base64_decode(value, bytes, sizeof bytes, &n)) {
        detail_set(r->why, "SignatureValue: expected base64");
        return REASON_SIGNATURE_INVALID;
    }
    if (n != r->sig->hmac_bytes) {
        detail_set(r->why, "SignatureValue: found %zu octets, expected %zu", n, r->sig->hmac_bytes);
        return REASON_SIGNATURE_PROFILE;
    }
    for (size_t i = 0; i < n; i++)
        r->sig->value[i] = bytes[i];
    return REASON_OK;
}

/* Finds the parts of Signed…(Kms…, Signature). */
static enum reason read_envelope(const struct reading *r)
{
    struct signature *sig = r->sig;
    const enum kms_root root = xml_root(r->doc);
    unsigned children = 0, signatures = 0;
    sig->top = xml_top(r->doc);
    for (const xmlNode *n = xml_child(sig->top); n; n = xml_next(n), children++) {
        if (xml_is(n, NS_DS, "Signature")) {
            signatures++;
            sig->node = n;
        }
    }
    if ((root != KMS_ROOT_SIGNED_REQUEST && root != KMS_ROOT_SIGNED_RESPONSE) || signatures == 0) {
        return signature_tell_missing(r->why);
    }
    if (signatures > 1)
        return profile(r, "Signature", STR("more than one"), "one");
    sig->payload = xml_child(sig->top);
    if (children != 2 || !xml_is(sig->payload, NS_KMS, root == KMS_ROOT_SIGNED_REQUEST ? "KmsRequest" : "KmsResponse"))
        return xmlsig_reference(r, "found something else beside the Signature, expected one message before it");
    return REASON_OK;
}

enum reason signature_read(const struct xml_doc *doc, const struct xmlsig_policy *policy, struct signature *sig,
                           struct detail *why)
{
    const struct reading r = {doc, policy, sig, why};
    struct str uri = STR_MISSING, digest = STR_MISSING;
    *sig = (struct signature){.apex_form = XML_C14N_INCLUSIVE};
    enum reason bad = read_envelope(&r);
    if (bad != REASON_OK)
        return bad;
    bad = xmlsig_expect(&r, sig->node, "Signature", NULL);
    if (bad != REASON_OK)
        return bad;
    sig->info = xml_child(sig->node);
    bad = read_signed_info(&r, &uri, &digest);
    if (bad != REASON_OK)
        return bad;
    const xmlNode *value = xml_next(sig->info);
    bad = xmlsig_expect(&r, value, "SignatureValue", NULL);
    if (bad != REASON_OK)
        return bad;
    bad = read_key_info(&r, xml_next(value));
    if (bad != REASON_OK)
        return bad;
    bad = read_target(&r, uri);
    return bad != REASON_OK ? bad : read_values(&r, xml_text(value), digest);
}

enum reason xmlsig_read(const struct xml_doc *doc, const struct xmlsig_policy *policy, struct xmlsig_info *out,
                        struct detail *why)
{
    struct signature sig;
    *out = (struct xmlsig_info){.key_name = STR_MISSING};
    const enum reason r = signature_read(doc, policy, &sig, why);
    if (r != REASON_OK)
        return r;
    out->key_name = sig.key_name;
    for (size_t i = 0; i < sig.hmac_bytes; i++)
        out->value[i] = sig.value[i];
    out->value_n = sig.hmac_bytes;
    return REASON_OK;
}

static const xmlNode *child_named(const xmlNode *parent, const char *name)
{
    const xmlNode *n = parent ? xml_child(parent) : NULL;
    while (n && !xml_is(n, NS_DS, name))
        n = xml_next(n);
    return n;
}

void xmlsig_names(const struct xml_doc *doc, struct xmlsig_named *out)
{
    enum { BITS_TOLD_MAX = 4096 }; /* what reads decisions takes no more */
    const xmlNode *info = child_named(child_named(xml_top(doc), "Signature"), "SignedInfo");
    const xmlNode *form = child_named(info, "CanonicalizationMethod"), *method = child_named(info, "SignatureMethod");
    const struct canonical *c = form ? canonical_of(xml_attr(form, NULL, "Algorithm")) : NULL;
    const xmlNode *length = child_named(method, "HMACOutputLength");
    uint64_t bits = HMAC_BITS;
    *out = (struct xmlsig_named){.c14n = c ? c->short_name : NULL};
    if (!method || !str_eq_z(xml_attr(method, NULL, "Algorithm"), ALG_HMAC_SHA256))
        return;
    if (!length || str_to_u64(str_trim(xml_text(length)), BITS_TOLD_MAX, &bits))
        out->hmac_bits = (unsigned)bits;
}
