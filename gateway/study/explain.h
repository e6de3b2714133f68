/*
 * Why a request was judged as it was, for those who run the gateway: `kmsgate explain` prints it. It looks at a
 * judgement that is done and changes none. What it says helps whoever forges: it never goes to a client or a log.
 *
 *     gate_request(j, body, now) ...
 *     struct explanation e;
 *     if (explain(&(struct explain_in){.j = j, .body = body, .now_us = now, …}, &e)) ... print ...
 *     explanation_free(&e);
 */
#ifndef KMSGATE_STUDY_EXPLAIN_H
#define KMSGATE_STUDY_EXPLAIN_H

#include "gate/gate.h"

struct explain_in {
    struct judgement *j;
    struct str body;         /* as received */
    int64_t now_us;          /* as of which it was judged */
    bool at_given;           /* somebody said when it arrived */
    struct keystore *keys;   /* the gate's: to look for a key among other users' */
    const char *config_file; /* where public_url stands */
};

/* Texts are owned; those of rules and checks are views into the judgement. */
struct explanation {
    /* The rules that were asked, in their order: the last one is the one that matched, if any did. */
    struct explained_rule {
        const struct request_rule *rule;
        bool matches;
        char *why; /* what did not match: found and expected */
    } *rules;
    size_t rule_count;
    bool has_checks; /* false: refused before any */
    struct explained_check {
        enum mode mode;
        enum check_result result;
        char *found, *expected; /* NULL: nothing to tell */
    } checks[CHECK_COUNT];
    char *stage; /* refused before the rules: what was found there */
    struct strings diagnosis; /* sentences: what seems to be the cause */
    bool on_the_way; /* which may be something between client and gateway that changed the message */
    /* What would let it through. */
    struct advice {
        char *place; /* FILE:LINE, or "the client" */
        char *change, *cost;
        char *rule; /* of a loosening: the rule to insert, as YAML; NULL: none */
    } *advice;
    size_t advice_count;
    bool failed; /* out of memory: not to be used */
};
bool explain(const struct explain_in *in, struct explanation *out) MUST_CHECK;
/* What bytes that are no readable message seem to be: another encoding, another kind of file, the beginning of one.
 * False when nothing of the kind is found. */
bool explain_bytes(struct str body, struct detail *why);
void explanation_free(struct explanation *e);

#endif
