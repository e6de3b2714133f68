#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "message/xmlsig_internal.h"

bool signature_hash(struct str text, uint8_t out[HASH_BYTES])
{
    unsigned n = 0;
    return text.p && EVP_Digest(text.p, text.n, out, &n, EVP_sha256(), NULL) == 1 && n == HASH_BYTES;
}

bool signature_hmac(const struct secret_key *key, struct str text, uint8_t out[HASH_BYTES])
{
    unsigned n = 0;
    return text.p && HMAC(EVP_sha256(), key->b, KEY_BYTES, (const unsigned char *)text.p, text.n, out, &n) &&
           n == HASH_BYTES;
}

/* libxml2 failing to canonicalize is a refusal like any other: never an empty text that hashes to something. */
static enum reason holds_hmac(const struct signature *sig, const struct xml_doc *doc, const struct secret_key *key)
{
    uint8_t mac[HASH_BYTES];
    struct buf text BUF_CLEANUP = BUF_INIT(xml_canonical_ceiling(doc->size));
    const struct xml_subtree part = {.doc = doc, .apex = sig->info};
    if (!xml_canonical(&part, sig->info_form, &text) ||
        !signature_hmac(key, buf_view(&text), mac))
        return REASON_INTERNAL;
    const bool same = secret_equal(mac, sig->value, sig->hmac_bytes);
    secret_wipe(mac, sizeof mac);
    return same ? REASON_OK : REASON_SIGNATURE_INVALID;
}

static enum reason holds_digest(const struct signature *sig, const struct xml_doc *doc)
{
    uint8_t digest[HASH_BYTES];
    struct buf text BUF_CLEANUP = BUF_INIT(xml_canonical_ceiling(doc->size));
    const struct xml_subtree part = {.doc = doc, .apex = sig->apex, .omit = sig->enveloped ? sig->node : NULL};
    if (!xml_canonical(&part, sig->apex_form, &text) || !signature_hash(buf_view(&text), digest))
        return REASON_INTERNAL;
    return secret_equal(digest, sig->digest, HASH_BYTES) ? REASON_OK : REASON_SIGNATURE_INVALID;
}

enum reason xmlsig_verify(struct xml_doc *doc, const struct xmlsig_policy *policy, const struct secret_key *key,
                          struct xml_signed *proof, struct detail *why)
{
    struct signature sig;
    *proof = (struct xml_signed){NULL, NULL};
    enum reason r = signature_read(doc, policy, &sig, why);
    if (r != REASON_OK)
        return r;
    r = holds_hmac(&sig, doc, key);
    if (r != REASON_OK) {
        detail_set(why, "SignatureValue: it is not that of SignedInfo under this key");
        return r;
    }
    r = holds_digest(&sig, doc);
    if (r != REASON_OK) {
        detail_set(why, "DigestValue: it is not that of the message");
        return r;
    }
    *proof = (struct xml_signed){doc, sig.payload};
    return REASON_OK;
}
