#include "base/limits.h"
#include "message/xmlsig_internal.h"

/* What the signed reference is made of, as canonical text. In the message SignedInfo stands below Signature, which
 * declares the namespace; what is signed is SignedInfo as an apex, with that declaration on itself. */
#define SIGNED_INFO_REST                                                                                       \
    "><CanonicalizationMethod Algorithm=\"" ALG_C14N "\"></CanonicalizationMethod>"                            \
    "<SignatureMethod Algorithm=\"" ALG_HMAC_SHA256 "\"></SignatureMethod><Reference URI=\"#xmldoc\">"         \
    "<DigestMethod Algorithm=\"" ALG_SHA256 "\"></DigestMethod><DigestValue>"
#define SIGNED_INFO_END "</DigestValue></Reference></SignedInfo>"

static bool hmac_of_reference(const uint8_t digest[HASH_BYTES], const struct secret_key *key, uint8_t mac[HASH_BYTES])
{
    struct buf info BUF_CLEANUP = BUF_INIT(2048);
    buf_z(&info, "<SignedInfo xmlns=\"" NS_DS "\"" SIGNED_INFO_REST);
    buf_base64(&info, digest, HASH_BYTES);
    buf_z(&info, SIGNED_INFO_END);
    return !info.failed && signature_hmac(key, buf_view(&info), mac);
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

enum { SIGNATURE_BYTES = 1100 }; /* at least what comes around the text, without the name of the key */

/* `text` is canonical and in no buffer that `out` shares. */
static bool sign(struct str text, const char *envelope, struct str key_id, const struct secret_key *key, struct buf *out)
{
    uint8_t digest[HASH_BYTES], mac[HASH_BYTES];
    if (!signature_hash(text, digest) || !hmac_of_reference(digest, key, mac))
        return false;
    (void)buf_reserve(out, text.n + key_id.n + SIGNATURE_BYTES); /* growing would wipe one block after the other */
    buf_char(out, '<');
    buf_z(out, envelope);
    buf_z(out, " xmlns=\"" NS_KMS "\">");
    buf_str(out, text);
    buf_z(out, "<Signature xmlns=\"" NS_DS "\"><SignedInfo" SIGNED_INFO_REST);
    buf_base64(out, digest, HASH_BYTES);
    buf_z(out, SIGNED_INFO_END "<SignatureValue>");
    buf_base64(out, mac, HASH_BYTES);
    buf_z(out, "</SignatureValue><KeyInfo><KeyName>");
    buf_xml_text(out, key_id);
    buf_z(out, "</KeyName></KeyInfo></Signature></");
    buf_z(out, envelope);
    buf_char(out, '>');
    return !out->failed;
}

bool xmlsig_sign(struct str payload, struct str key_id, const struct secret_key *key, struct buf *out)
{
    const char *envelope;
    struct buf text BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT); /* a rule may leave keys in clear */
    return key_id.n > 0 && canonical_payload(payload, &text, &envelope) &&
           sign(buf_view(&text), envelope, key_id, key, out);
}

bool xmlsig_sign_as_is(struct str response, struct str key_id, const struct secret_key *key, struct buf *out)
{
    return response.n > 0 && key_id.n > 0 && sign(response, "SignedKmsResponse", key_id, key, out);
}
