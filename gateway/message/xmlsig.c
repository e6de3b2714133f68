#include <openssl/core_names.h>
#include <openssl/evp.h>

#include "message/xmlsig_internal.h"

/* Looked up once: for each message that would cost more than the hashing. Whoever uses the second makes a copy. */
static EVP_MD *sha256;
static EVP_MAC_CTX *hmac_sha256;

bool signature_startup(void)
{
    char digest[] = "SHA256";
    const OSSL_PARAM with_sha256[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                      OSSL_PARAM_construct_end()};
    if (sha256 && hmac_sha256)
        return true;
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    hmac_sha256 = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    EVP_MAC_free(hmac);
    if (sha256 && hmac_sha256 && EVP_MAC_CTX_set_params(hmac_sha256, with_sha256) == 1)
        return true;
    signature_shutdown();
    return false;
}

void signature_shutdown(void)
{
    EVP_MAC_CTX_free(hmac_sha256);
    EVP_MD_free(sha256);
    hmac_sha256 = NULL;
    sha256 = NULL;
}

bool signature_hash(struct str text, uint8_t out[HASH_BYTES])
{
    unsigned n = 0;
    return text.p && sha256 && EVP_Digest(text.p, text.n, out, &n, sha256, NULL) == 1 && n == HASH_BYTES;
}

bool signature_hmac(const struct secret_key *key, struct str text, uint8_t out[HASH_BYTES])
{
    size_t n = 0;
    EVP_MAC_CTX *ctx = text.p && hmac_sha256 ? EVP_MAC_CTX_dup(hmac_sha256) : NULL;
    const bool ok = ctx && EVP_MAC_init(ctx, key->b, KEY_BYTES, NULL) == 1 &&
                    EVP_MAC_update(ctx, (const unsigned char *)text.p, text.n) == 1 &&
                    EVP_MAC_final(ctx, out, &n, HASH_BYTES) == 1 && n == HASH_BYTES;
    EVP_MAC_CTX_free(ctx);
    return ok;
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
