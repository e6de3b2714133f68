/*
 * A recorded decision under other rules: what would have been, as far as the log can tell. What it cannot is open,
 * never guessed. Where a check's facts are in the log (KmsUri, Time, ClientReqUrl, the path's user), the gate's own
 * check judges them again; of the others the recorded result counts.
 *
 *     if (!rejudge(rules, &record, &again)) ... out of memory
 */
#ifndef KMSGATE_STUDY_REJUDGE_H
#define KMSGATE_STUDY_REJUDGE_H

#include "study/record.h"

enum outcome { OUTCOME_ACCEPT, OUTCOME_REJECT, OUTCOME_OPEN };
struct rejudged {
    enum outcome outcome;
    bool untouched;         /* no rule had a say: refused before them, or judged by these very rules */
    const struct request_rule *rule; /* NULL: none, or not known */
    bool reason_open;       /* refused, but why first is open */
    enum reason reason;
    unsigned open;          /* enforced checks, as bits 1 << enum check, on which the verdict hangs */
    const char *why_open;   /* else: what is not known */
    enum reason shadow[SHADOW_COUNT]; /* REASON_OK: none */
    unsigned shadow_open;   /* shadow checks that cannot be told */
    const struct response_rule *response; /* for the recorded reply; NULL: none, or there was no reply */
    bool response_judged;
};
bool rejudge(const struct rules *rules, const struct record *r, struct rejudged *out) MUST_CHECK;

#endif
