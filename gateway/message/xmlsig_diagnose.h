/*
 * Why a signature does not hold, for `kmsgate explain`: what the sender seems to have hashed instead. Each form that
 * senders are known to take for the canonical one is tried, with each key text that they are known to take for the key.
 * Never for serving: it costs a hundred digests, and its answer is for who owns the keys.
 *
 *     struct xmlsig_attempt a;
 *     if (xmlsig_find_digest(doc, body, &a)) ...          a.form, a.ends: the DigestValue is of that text
 *     if (xmlsig_find_hmac(doc, body, &key, &a)) ...      the SignatureValue is of that text, under that form of the
 * key
 */
#ifndef KMSGATE_MESSAGE_XMLSIG_DIAGNOSE_H
#define KMSGATE_MESSAGE_XMLSIG_DIAGNOSE_H

#include "message/declarations.h"
#include "message/xmlsig.h"

enum xmlsig_form {
    XMLSIG_AS_DECLARED,  /* what the gateway digests */
    XMLSIG_AS_INCLUSIVE, /* another canonicalization than the message declares */
    XMLSIG_AS_EXCLUSIVE,
    XMLSIG_AS_INCLUSIVE_11,
    XMLSIG_AS_ALONE,   /* out of its envelope: without the namespaces that ancestors declare */
    XMLSIG_AS_DENSE,   /* without the white space between its elements */
    XMLSIG_AS_BARE,    /* canonical but for its default namespace */
    XMLSIG_AS_NAKED,   /* canonical but for all namespace declarations of its first tag */
    XMLSIG_AS_WRITTEN, /* the bytes as they stand in the message, not canonicalized */
    XMLSIG_AS_BEFORE,  /* with fewer declarations in its first tag */
    XMLSIG_AS_WITHIN,  /* in an envelope that declared more prefixes */
    XMLSIG_AS_EXCLUSIVE_OR_ALONE, /* both give the same octets */
    XMLSIG_FORM_COUNT
};
/* Line ends of what was hashed: a parser makes LF of CR LF, and a tree with CRs canonicalizes them as references. */
enum xmlsig_ends { XMLSIG_LF, XMLSIG_CRLF, XMLSIG_CR_REFERENCES, XMLSIG_ENDS_COUNT };
enum xmlsig_key_text {
    XMLSIG_KEY_OCTETS,
    XMLSIG_KEY_HEX,
    XMLSIG_KEY_HEX_UPPER,
    XMLSIG_KEY_BASE64,
    XMLSIG_KEY_HEX_LINE, /* with the line end of the file that they stood in */
    XMLSIG_KEY_TEXT_COUNT
};

struct xmlsig_attempt {
    enum xmlsig_form form;
    enum xmlsig_ends ends;
    enum xmlsig_key_text key_text; /* of an HMAC */
    unsigned bits;                 /* of the SignatureValue */
    char lost[DECLARATIONS_NAMES]; /* XMLSIG_AS_WITHIN: the prefixes that the envelope declared */
    /* The prefixes that are declared around it here, and were not in what was hashed; empty: none. */
    char added[DECLARATIONS_NAMES];
    /* Where the text that the gateway digests first differs from the one that was hashed; both empty where they are
     * the same, cut out of it and made printable. */
    size_t at;
    char ours[160], theirs[160];
};
/* body: the message as it was received. False when no form fits, or when too little of the signature could be read. */
bool xmlsig_find_digest(const struct xml_doc *doc, struct str body, struct xmlsig_attempt *out) MUST_CHECK;
bool xmlsig_find_hmac(const struct xml_doc *doc, struct str body, const struct secret_key *key,
                      struct xmlsig_attempt *out) MUST_CHECK;

/* What KeyName says, also in a signature whose profile is not allowed; missing where it cannot be read. */
struct str xmlsig_find_key_name(const struct xml_doc *doc);

/* "by exclusive canonicalization, …" : how it was hashed, for people; "" for what the gateway does, too. */
const char *xmlsig_form_says(enum xmlsig_form form);
const char *xmlsig_ends_say(enum xmlsig_ends ends);
const char *xmlsig_key_text_says(enum xmlsig_key_text text);

#endif
