/*
 * A request in the closed profile, read in one pass without a tree: KmsRequest alone, or SignedKmsRequest of KmsRequest
 * and Signature in the standard's form (one reference `#Id`, inclusive C14N 1.0, no transform, HMAC-SHA256 in full,
 * SHA-256, one KeyName), valid by the schema, without KrrList, ClientError and extensions. What is read is what will be
 * hashed: fields are views of the canonical text. Everything else is declined, and is for the reader by tree.
 *
 *     struct request_profile r;
 *     if (request_profile_read(body, room, REQUEST_PROFILE_ROOM(body.n), &r)) ...    r's views point into room
 *     reason = request_profile_verify(&r, &key, why);                               the HMAC first, then the digest
 *
 * For request_doc.c and tests.
 */
#ifndef KMSGATE_MESSAGE_REQUEST_PROFILE_H
#define KMSGATE_MESSAGE_REQUEST_PROFILE_H

#include "base/crypto.h"
#include "message/kms_request.h"

enum { PROFILE_LEFT_OUT = 4 };
/* A self-closing tag becomes two, a `>` four bytes; values with references are decoded beside. What a body needs beyond
 * is declined. */
#define REQUEST_PROFILE_ROOM(n) (2 * (n) + 1024)

struct request_profile {
    enum kms_root root; /* REQUEST or SIGNED_REQUEST */
    struct kms_request fields;
    struct str request; /* canonical text of KmsRequest */
    /* parts of it that are not forwarded, in order */
    struct str left_out[PROFILE_LEFT_OUT];
    unsigned left_out_count;
    /* of a signed one */
    struct str info; /* canonical text of SignedInfo */
    struct str key_name;
    uint8_t digest[HASH_BYTES], value[HASH_BYTES];
};

/* False: not in the profile, or not valid; nothing is known of it then. */
bool request_profile_read(struct str body, char *room, size_t cap, struct request_profile *out) MUST_CHECK;
/* Of a signed one. REASON_OK, SIGNATURE_INVALID, or INTERNAL when a library failed. The same work for every key. */
enum reason request_profile_verify(const struct request_profile *r, const struct secret_key *key,
                                   struct detail *why) MUST_CHECK;
/* Appends what is forwarded: the canonical text without what is left out. */
void request_profile_forward(const struct request_profile *r, struct buf *out);

#endif
