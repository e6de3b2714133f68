/*
 * New keys in a reply (contract, "New keys"): which are due, what the keeper of the keys is asked for, and what it
 * answered. The gate itself never waits: whoever serves asks the keeper, between two calls of gate_reply().
 */
#ifndef KMSGATE_GATE_RENEWAL_H
#define KMSGATE_GATE_RENEWAL_H

#include "gate/gate.h"

enum { RENEWAL_KEYS = 2 }; /* a TrK and an InK */
struct renewal {
    struct key_wish wishes[RENEWAL_KEYS]; /* texts are the judgement's, but for those in `learnt` */
    char *learnt[RENEWAL_KEYS];           /* owned: IDs that the upstream gave */
    size_t n;
    bool answered;
    struct str trk;                       /* the ID of the TrK that they are sent under */
    struct {
        char *id;                         /* owned; NULL: none of that type */
        struct secret_key key;
    } keys[RENEWAL_KEYS];                 /* to be sent: the TrK, the InK */
    enum reason fails;                    /* not REASON_OK: without them the reply must not go out, and it cannot bring
                                           * them */
    struct detail why;                    /* … since */
};
void renewal_free(struct renewal *r); /* wipes; NULL is fine */

/* A valid reply of the upstream's, the rule that it goes out by, and the TrK under which (NULL: the user has none). */
struct occasion {
    const struct judgement *j;
    const struct response_rule *rule;
    const struct kms_response *reply;
    const struct key *trk;
    int64_t now_us;
};
/* What a reply is to bring, by the user's keys as they were when he asked: what he was sent under that TrK before is
 * there at once, the rest are wishes. NULL with REASON_OK: nothing. Under `new_keys: learn`, for keys that the upstream
 * issues: UPSTREAM_INVALID, PROTECT_NO_KEY, with the why. INTERNAL: no memory. */
enum reason renewal_due(const struct occasion *o, struct renewal **out, struct detail *why) MUST_CHECK;
/* The keeper has to be asked first. */
bool renewal_waits(const struct renewal *r);

#endif
