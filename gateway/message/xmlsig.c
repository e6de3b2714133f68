#include "message/xmlsig_internal.h"

bool signature_startup(void)
{
    return xmlsec_startup();
}

void signature_shutdown(void)
{
    xmlsec_shutdown();
    crypto_thread_end();
}

bool signature_hash(struct str text, uint8_t out[HASH_BYTES])
{
    return crypto_sha256(text.p, text.n, out);
}

bool signature_hmac(const struct secret_key *key, struct str text, uint8_t out[HASH_BYTES])
{
    return crypto_hmac_sha256(key->b, text.p, text.n, out);
}

bool signature_plain_id(struct str id)
{
    for (size_t i = 0; i < id.n; i++) {
        const unsigned char c = (unsigned char)id.p[i];
        if (!((unsigned)((c | 0x20) - 'a') < 26 || (unsigned)(c - '0') < 10 || c == '_' || c == '-' || c == '.' ||
              c == ':' || c >= 0x80))
            return false;
    }
    return id.n > 0;
}

void signature_tell_hmac(struct detail *why)
{
    detail_set(why, "SignatureValue: it is not that of SignedInfo under this key");
}

void signature_tell_digest(struct detail *why)
{
    detail_set(why, "DigestValue: it is not that of the message");
}

enum reason xmlsig_verify(struct xml_doc *doc, const struct xmlsig_policy *policy, const struct secret_key *key,
                          const struct xml_signed **proof, struct detail *why)
{
    struct signature sig;
    *proof = NULL;
    enum reason r = signature_read(doc, policy, &sig, why);
    if (r == REASON_OK)
        r = xmlsec_verify(doc, &sig, key, why);
    if (r != REASON_OK)
        return r;
    doc->proof = (struct xml_signed){doc, sig.payload};
    *proof = &doc->proof;
    return REASON_OK;
}
