/*
 * New keys in a reply (contract, "New keys"): which are due, what the keeper of the keys is asked for, and what it
 * answered. The gate itself never waits: whoever serves asks the keeper, between two calls of gate_reply().
 */
#ifndef KMSGATE_GATE_RENEWAL_H
#define KMSGATE_GATE_RENEWAL_H

#include "gate/gate.h"

enum { RENEWAL_KEYS = 2 }; /* a TrK and an InK */
struct renewal {
    struct key_wish wishes[RENEWAL_KEYS]; /* texts are the judgement's */
    size_t n;
    bool answered;
    struct str trk;                       /* the ID of the TrK that they are sent under */
    struct {
        enum key_type type;
        char *id;                         /* owned */
        struct secret_key key;
    } keys[RENEWAL_KEYS];                 /* to be sent */
    size_t count;
};
void renewal_free(struct renewal *r); /* wipes; NULL is fine */

/* What a reply of the rule that goes out under `trk` is to bring, by the user's keys as they were when he asked. NULL
 * with REASON_OK: nothing. REASON_INTERNAL: no memory. */
enum reason renewal_due(const struct judgement *j, const struct response_rule *rule, const struct key *trk,
                        int64_t now_us, struct renewal **out) MUST_CHECK;

#endif
