/*
 * The finished reply, proven by one pass over its bytes before it leaves: no tree, no memory of its own, no code of the
 * writer's. It takes nothing but the canonical text of the schema's own elements in the strict order, with every key
 * content in its place and encrypted where it must be; and what it sees is byte for byte what was hashed and MACed.
 *
 *     const struct finished f = {payload, &made, signer_id, encrypted};
 *     if (!finished_holds(text, &f)) ...  not proven: kms_response_validate_signed() judges it instead, by a tree
 *
 * A false is no verdict: a SignedKmsCertificate, a KmsLookup, an element or attribute of another namespace are not in
 * the form. What it takes is a subset of what the tree takes: xmlsig_sign() would have made the same text.
 */
#ifndef KMSGATE_MESSAGE_FINISHED_H
#define KMSGATE_MESSAGE_FINISHED_H

#include "message/xmlsig.h"

struct finished {
    struct str hashed;              /* the KmsResponse as it was hashed; as it was written, where nobody signs */
    const struct xmlsig_made *made; /* what xmlsig_response_end() made of it; NULL: nobody signs */
    struct str key_id;              /* of the key that signed */
    bool encrypted;                 /* no key content may be in clear */
};
bool finished_holds(struct str text, const struct finished *f) MUST_CHECK;

#endif
