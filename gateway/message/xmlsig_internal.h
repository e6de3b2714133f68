/*
 * The signature profile's names, and one Signature as read. For xmlsig*.c only.
 */
#ifndef KMSGATE_MESSAGE_XMLSIG_INTERNAL_H
#define KMSGATE_MESSAGE_XMLSIG_INTERNAL_H

#include "base/crypto.h"
#include "message/xml_internal.h"
#include "message/xmlsig.h"

#define ALG_C14N "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
#define ALG_C14N11 "http://www.w3.org/2006/12/xml-c14n11"
#define ALG_C14N_COMMENTS ALG_C14N "#WithComments"
#define ALG_EXC_C14N_COMMENTS ALG_EXC_C14N "WithComments"
#define ALG_C14N11_COMMENTS ALG_C14N11 "#WithComments"
#define ALG_EXC_C14N "http://www.w3.org/2001/10/xml-exc-c14n#"
#define ALG_ENVELOPED "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
#define ALG_HMAC_SHA256 "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
#define ALG_SHA256 "http://www.w3.org/2001/04/xmlenc#sha256"

struct signature {
    const xmlNode *top, *payload, *node, *info; /* Signed…, KmsRequest or KmsResponse, Signature, SignedInfo */
    const xmlNode *apex;                        /* what is digested: payload, or top without node */
    enum xml_c14n info_form, apex_form;
    bool info_comments, apex_comments; /* by the names that keep comments */
    bool enveloped;
    size_t hmac_bytes;
    uint8_t value[HASH_BYTES], digest[HASH_BYTES];
    struct str key_name;
    struct str reference_id; /* what the reference names; missing: the whole document */
};
/* REASON_OK and everything in *sig; SIGNATURE_MISSING, _PROFILE, _REFERENCE; SIGNATURE_INVALID for values that are no
 * base64 or no digest. */
enum reason signature_read(const struct xml_doc *doc, const struct xmlsig_policy *policy, struct signature *sig,
                           struct detail *why) MUST_CHECK;

/* What an Id must be for a reference to it: name characters alone. Nothing that a library could take for XPointer. */
bool signature_plain_id(struct str id);
void signature_tell_hmac(struct detail *why);
void signature_tell_digest(struct detail *why);
/* SIGNATURE_MISSING, SIGNATURE_PROFILE: what both readers say of the same. */
enum reason signature_tell_missing(struct detail *why);
enum reason signature_tell_canonicalization(struct detail *why, struct str found);

/*
 * xmlsec1 as the verifier of what signature_read() has found, locked down: the key is given, KeyInfo is not looked at,
 * no keys manager; only the transforms and the kind of reference that were read; nothing can be fetched; the
 * reference's Id is `apex`'s and nobody else's. REASON_OK, SIGNATURE_INVALID, SIGNATURE_REFERENCE (the Id is taken), or
 * INTERNAL when the library failed.
 */
bool xmlsec_startup(void);
void xmlsec_shutdown(void);
enum reason xmlsec_verify(const struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                          struct detail *why) MUST_CHECK;
/* The same lock, for a signature to be made: DigestValue and SignatureValue are replaced in the tree. OK, or INTERNAL,
 * SIGNATURE_REFERENCE as above. */
enum reason xmlsec_sign(struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                        struct detail *why) MUST_CHECK;

bool signature_hash(struct str text, uint8_t out[HASH_BYTES]) MUST_CHECK;
bool signature_hmac(const struct secret_key *key, struct str text, uint8_t out[HASH_BYTES]) MUST_CHECK;

#endif
