#include <string.h>

#include "base/limits.h"
#include "message/xmlsig_internal.h"

const struct xmlsig_policy XMLSIG_STANDARD = {8 * HASH_BYTES, XMLSIG_C14N};

/*
 * SignedInfo as canonical text, and as it stands in the message: there it is below Signature, which declares the
 * namespace; what is signed is SignedInfo as an apex, with that declaration on itself. It has no other, so that all
 * three canonicalizations write it alike.
 */
static void put_signed_info(const struct xmlsig_policy *profile, const uint8_t digest[HASH_BYTES],
                            const char *declaration, struct buf *out)
{
    static const struct {
        unsigned form;
        const char *name;
    } FORMS[] = {{XMLSIG_EXC_C14N, ALG_EXC_C14N},
                 {XMLSIG_C14N11, ALG_C14N11},
                 {XMLSIG_C14N_COMMENTS, ALG_C14N_COMMENTS},
                 {XMLSIG_EXC_C14N_COMMENTS, ALG_EXC_C14N_COMMENTS},
                 {XMLSIG_C14N11_COMMENTS, ALG_C14N11_COMMENTS}};
    const char *c14n = ALG_C14N;
    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++)
        if (FORMS[i].form == profile->canonicalization)
            c14n = FORMS[i].name;
    buf_z(out, "<SignedInfo");
    buf_z(out, declaration);
    buf_z(out, "><CanonicalizationMethod Algorithm=\"");
    buf_z(out, c14n);
    buf_z(out, "\"></CanonicalizationMethod><SignatureMethod Algorithm=\"" ALG_HMAC_SHA256 "\">");
    if (profile->min_hmac_bits < 8 * HASH_BYTES)
        buf_printf(out, "<HMACOutputLength>%u</HMACOutputLength>", profile->min_hmac_bits);
    buf_z(out, "</SignatureMethod><Reference URI=\"#xmldoc\"><DigestMethod Algorithm=\"" ALG_SHA256
               "\"></DigestMethod><DigestValue>");
    buf_base64(out, digest, HASH_BYTES);
    buf_z(out, "</DigestValue></Reference></SignedInfo>");
}

/* The digest of what is signed, the SignedInfo that names it, and the HMAC of that: the standard's form. */
static bool sign_make(struct str text, const struct secret_key *key, struct xmlsig_made *made)
{
    struct buf info = BUF_FIXED(made->info);
    if (!signature_hash(text, made->digest))
        return false;
    put_signed_info(&XMLSIG_STANDARD, made->digest, " xmlns=\"" NS_DS "\"", &info);
    made->info_n = info.n;
    return !info.failed && signature_hmac(key, buf_view(&info), made->mac);
}

/* The payload's canonical text, whose root is a KmsRequest or KmsResponse with Id="xmldoc", and the envelope's name. */
static bool canonical_payload(struct str payload, struct buf *out, const char **envelope)
{
    struct xml_doc *doc;
    if (xml_parse(payload, &XML_LIMITS_PROTECTED, &doc, NULL) != REASON_OK)
        return false;
    const enum kms_root root = xml_root(doc);
    *envelope = root == KMS_ROOT_REQUEST ? "SignedKmsRequest" : "SignedKmsResponse";
    const struct xml_subtree whole = {.doc = doc, .apex = xml_top(doc)};
    const bool ok = (root == KMS_ROOT_REQUEST || root == KMS_ROOT_RESPONSE) &&
                    str_eq(xml_attr(xml_top(doc), NULL, "Id"), STR("xmldoc")) && !xml_top(doc)->ns->prefix &&
                    xml_canonical(&whole, XML_C14N_INCLUSIVE, out);
    xml_free(doc);
    return ok;
}

static void put_begin(const char *envelope, struct buf *out)
{
    buf_char(out, '<');
    buf_z(out, envelope);
    buf_z(out, " xmlns=\"" NS_KMS "\">");
}

static bool put_end(const char *envelope, struct str key_id, const struct xmlsig_policy *profile,
                    const struct xmlsig_made *made, struct buf *out)
{
    buf_z(out, "<Signature xmlns=\"" NS_DS "\">");
    put_signed_info(profile, made->digest, "", out);
    buf_z(out, "<SignatureValue>");
    buf_base64(out, made->mac, profile->min_hmac_bits / 8);
    buf_z(out, "</SignatureValue><KeyInfo><KeyName>");
    buf_xml_text(out, key_id);
    buf_z(out, "</KeyName></KeyInfo></Signature></");
    buf_z(out, envelope);
    buf_char(out, '>');
    return !out->failed;
}

/* `text` is canonical. */
static bool sign_put(struct str text, const char *envelope, struct str key_id, const struct xmlsig_policy *profile,
                     const struct xmlsig_made *made, struct buf *out)
{
    put_begin(envelope, out);
    buf_str(out, text);
    return put_end(envelope, key_id, profile, made, out);
}

/* What xmlsec1 makes of the message with nothing but zeros for values. */
static bool made_by_xmlsec(struct str text, const char *envelope, struct str key_id, const struct secret_key *key,
                           const struct xmlsig_policy *profile, struct xmlsig_made *made)
{
    struct buf blank BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    struct xml_doc *doc;
    struct signature sig;
    *made = (struct xmlsig_made){.info_n = 0};
    if (!sign_put(text, envelope, key_id, profile, made, &blank) ||
        xml_parse(buf_view(&blank), &XML_LIMITS_PROTECTED, &doc, NULL) != REASON_OK)
        return false;
    const bool ok = signature_read(doc, profile, &sig, NULL) == REASON_OK &&
                    xmlsec_sign(doc, &sig, key, NULL) == REASON_OK &&
                    signature_read(doc, profile, &sig, NULL) == REASON_OK; /* the values that are there now */
    if (ok) {
        memcpy(made->digest, sig.digest, sizeof made->digest);
        memcpy(made->mac, sig.value, sig.hmac_bytes);
    }
    xml_free(doc);
    return ok;
}

bool xmlsig_sign_as(struct str payload, struct str key_id, const struct secret_key *key,
                    const struct xmlsig_policy *profile, struct buf *out)
{
    const char *envelope;
    struct xmlsig_made made;
    struct buf text BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT); /* a rule may leave keys in clear */
    return key_id.n > 0 && profile->min_hmac_bits <= 8 * HASH_BYTES && canonical_payload(payload, &text, &envelope) &&
           made_by_xmlsec(buf_view(&text), envelope, key_id, key, profile, &made) &&
           sign_put(buf_view(&text), envelope, key_id, profile, &made, out);
}

bool xmlsig_sign(struct str payload, struct str key_id, const struct secret_key *key, struct buf *out)
{
    const char *envelope;
    struct xmlsig_made made;
    struct buf text BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    return key_id.n > 0 && canonical_payload(payload, &text, &envelope) && sign_make(buf_view(&text), key, &made) &&
           sign_put(buf_view(&text), envelope, key_id, &XMLSIG_STANDARD, &made, out);
}

static const char RESPONSE[] = "SignedKmsResponse";

size_t xmlsig_response_begin(struct buf *out)
{
    put_begin(RESPONSE, out);
    return out->n;
}

bool xmlsig_response_end(struct buf *out, size_t from, struct str key_id, const struct secret_key *key,
                         struct xmlsig_made *made)
{
    if (out->failed || from >= out->n || key_id.n == 0)
        return false;
    return sign_make((struct str){out->p + from, out->n - from}, key, made) &&
           put_end(RESPONSE, key_id, &XMLSIG_STANDARD, made, out);
}
