/*
 * What replies and refusals share. Inside gate/ only.
 */
#ifndef KMSGATE_GATE_REPLY_H
#define KMSGATE_GATE_REPLY_H

#include "gate/gate.h"

/* Texts that a plan points at. */
struct reply_texts {
    char time[TIME_TEXT];
    struct buf url;
};
void reply_texts_free(struct reply_texts *t);
/* The gateway's own envelope: UserUri as asked (empty where it is no anyURI), KmsUri and KmsId of the rules, Time now,
 * ClientReqUrl the first public_url and the target. */
void reply_envelope(const struct judgement *j, int64_t now_us, struct reply_texts *texts,
                    struct kms_response_plan *plan);
/* The text of an error that tells nothing. */
struct str reply_generic(int status);
/* Signs the KmsResponse in `payload`, or leaves it bare where signer is NULL, and validates what came out. */
enum reason reply_finish(struct judgement *j, const struct key *signer, const struct buf *payload, bool encrypted,
                         struct buf *out, struct detail *why) MUST_CHECK;

#endif
