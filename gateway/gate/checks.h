/*
 * The checks of one request, in the order of CHECK_LIST. Inside gate/ only.
 *
 *     reason = checks_run(j, now_us);       j: document, form, claims and rule are there
 *
 * Fills j->decision (results, shadow reasons, what was found), and, when the signature holds, j->proven, j->signer and
 * j->request anew from the node that was signed.
 */
#ifndef KMSGATE_GATE_CHECKS_H
#define KMSGATE_GATE_CHECKS_H

#include "gate/gate.h"

/* REASON_OK: nothing enforced failed, and the replay memory has taken note; or, with j->spending.waits, it will answer
 * later: checks_spent() then says how all of it ended. */
enum reason checks_run(struct judgement *j, int64_t now_us) MUST_CHECK;
enum reason checks_spent(struct judgement *j, enum reason reason) MUST_CHECK;
/* Before checks_run() once more: what the first run found is forgotten, and the keys are loaded anew. */
void checks_again(struct judgement *j);

/* Whether a check is for requests of this form, and whether its failure ends the judging. */
bool checks_for(enum check c, enum form f);
bool checks_stop(enum check c);

/* One check: REASON_OK or why it fails, with what was found. INTERNAL is no check's failure: it refuses in any mode. */
typedef enum reason check_fn(struct judgement *j, int64_t now_us, struct detail *found);
check_fn check_signature, check_key_policy;               /* checks_key.c */
check_fn check_replay;                                    /* checks_replay.c */
check_fn check_time, check_client_req_url;                /* checks_value.c */
check_fn check_kms_uri, check_path_user;

/* Loads the user's keys; REASON_INTERNAL when the store could not look. No such user: an empty ring. */
enum reason checks_ring(struct judgement *j) MUST_CHECK;
/* What the replay memory answered becomes the finding, also of an answer that comes later. */
void checks_replay_found(struct judgement *j, enum reason reason, struct detail *found);
/* What the decision says of who asks and what he claims, from j->request. */
void checks_note_request(struct judgement *j);

/* A client's text as details show it: cut, and never missing. */
struct str checks_shown(struct str s);

#endif
