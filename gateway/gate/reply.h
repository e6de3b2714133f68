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
/* Who signs a reply. */
struct reply_signer {
    const struct key *key;   /* NULL: nobody */
    struct secret_key clear; /* the key, where it was opened already; the owner wipes it */
    bool opened;
};
/* The KmsResponse is written behind what begins it: signs it, or leaves it bare where nobody signs, and validates what
 * came out. */
size_t reply_start(const struct reply_signer *signer, struct buf *out);
enum reason reply_finish(struct judgement *j, struct reply_signer *signer, size_t begun, bool encrypted,
                         struct buf *out, struct detail *why) MUST_CHECK;

/* The same reply once more, as the dialect has it: for who always read it so. `m` is what was read (NULL: nothing), in
 * the namespace `ns`. It reads back as what it says, or it is UPSTREAM_INVALID. */
enum reason reply_speak(const struct dialect *d, const char *ns, const struct kms_response *m,
                        const struct kms_response_plan *plan, struct buf *out, struct detail *why) MUST_CHECK;
/* The dialect's own namespace: the first that it lists, else the standard's. */
const char *reply_spoken_namespace(const struct dialect *d);
/* A fault may name what stood where it should not, and that may be a key: long runs of a key's digits become stars. */
void reply_hide_keys(char *text);
/* Logs an upstream's error answer: the status, and the first 200 characters of what it says. */
void reply_tell_error(const struct judgement *j, const struct gate_upstream *up);

#endif
