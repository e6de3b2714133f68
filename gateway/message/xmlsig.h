/*
 * XML Signature by HMAC-SHA256 (TS 33.180 D.2.2, D.3) over a tree: a closed profile, read here, verified by xmlsec1.
 * The common form of a request is verified without a tree: request_doc.h.
 *
 *     struct xmlsig_info info;
 *     r = xmlsig_read(doc, &policy, &info, why);          profile and reference; gives the KeyName
 *     r = xmlsig_verify(doc, &policy, &key, &proof, why); the key is chosen by the caller, never by the message
 *
 * Only xmlsig_verify makes a struct xml_signed, and only message/ knows what is in it: who has a pointer to one has
 * the proof. It lives as long as its document.
 */
#ifndef KMSGATE_MESSAGE_XMLSIG_H
#define KMSGATE_MESSAGE_XMLSIG_H

#include "base/buf.h"
#include "base/secret.h"
#include "message/xml.h"

/* The forms that keep comments are the same as those that do not: a message with a comment is refused before. */
enum {
    XMLSIG_C14N = 1,
    XMLSIG_EXC_C14N = 2,
    XMLSIG_C14N11 = 4,
    XMLSIG_C14N_COMMENTS = 8,
    XMLSIG_EXC_C14N_COMMENTS = 16,
    XMLSIG_C14N11_COMMENTS = 32
};
struct xmlsig_policy {
    unsigned min_hmac_bits;    /* 256; less only where a rule says so: 128 */
    unsigned canonicalization; /* XMLSIG_… that are allowed */
};
struct xmlsig_info {
    struct str key_name;   /* into the document */
    uint8_t value[32];     /* the decoded SignatureValue: the replay key's second half */
    size_t value_n;
};
/* What a signature says of itself, whether or not anybody takes it. */
struct xmlsig_named {
    const char *c14n;   /* CanonicalizationMethod as rules name it ("exc-c14n"); NULL: none of those */
    unsigned hmac_bits; /* HMACOutputLength of an HMAC-SHA256, without one 256; 0: not to be read */
};
/* Proof of what was signed with the key that was handed over. */
struct xml_signed;

/* Structure, algorithms, KeyInfo and reference of the one Signature in a Signed… root. REASON_OK, SIGNATURE_MISSING,
 * SIGNATURE_PROFILE, SIGNATURE_REFERENCE; SIGNATURE_INVALID for values that are no base64. No cryptography, no I/O. */
enum reason xmlsig_read(const struct xml_doc *doc, const struct xmlsig_policy *policy, struct xmlsig_info *out,
                        struct detail *why) MUST_CHECK;
/* Of the first Signature in the root; for what tells of it, never for what judges. */
void xmlsig_names(const struct xml_doc *doc, struct xmlsig_named *out);
/* REASON_OK and the proof (else NULL), what xmlsig_read() says, SIGNATURE_INVALID, or INTERNAL when a library failed.
 * The same work for every key: the reference is digested first. */
enum reason xmlsig_verify(struct xml_doc *doc, const struct xmlsig_policy *policy, const struct secret_key *key,
                          const struct xml_signed **proof, struct detail *why) MUST_CHECK;

/*
 * Signs a serialized KmsRequest or KmsResponse: `payload` is one element with Id="xmldoc" that declares every namespace
 * it uses, the default one included. Appends <SignedKms… xmlns="…">payload<ds Signature/></SignedKms…>, without any
 * white space between, reference "#xmldoc", no transforms, KeyName = key_id. False on any failure.
 */
bool xmlsig_sign(struct str payload, struct str key_id, const struct secret_key *key, struct buf *out) MUST_CHECK;
/* What a signature was made of: the response's digest, SignedInfo as it was MACed, the MAC. */
struct xmlsig_made {
    uint8_t digest[32], mac[32];
    char info[1024];
    size_t info_n;
};
/* The same of a KmsResponse where it stands, between begin and end: what is sent is what was hashed, nothing is copied.
 * It is taken for its own canonical form without a look, and the signature holds only if it is: finished_holds() or
 * kms_response_validate_signed() tell.
 *
 *     const size_t from = xmlsig_response_begin(&out);          then the KmsResponse, to the end of out
 *     ok = xmlsig_response_end(&out, from, key_id, &key, &made);
 */
size_t xmlsig_response_begin(struct buf *out);
enum { XMLSIG_MORE = 1100 }; /* at least what comes behind the text, without the name of the key */
bool xmlsig_response_end(struct buf *out, size_t from, struct str key_id, const struct secret_key *key,
                         struct xmlsig_made *made) MUST_CHECK;
/*
 * The same by xmlsec1, and in any form that a rule allows: `min_hmac_bits` are the SignatureValue's length,
 * `canonicalization` is one XMLSIG_…. For clients and the requests of rules' cases, so that what judges them is held
 * against another signer. Not while serving: xmlSecDSigCtxSign() leaks when memory ends.
 */
extern const struct xmlsig_policy XMLSIG_STANDARD; /* what the standard has */
bool xmlsig_sign_as(struct str payload, struct str key_id, const struct secret_key *key,
                    const struct xmlsig_policy *profile, struct buf *out) MUST_CHECK;

#endif
