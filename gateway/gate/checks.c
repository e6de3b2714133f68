#include "gate/checks.h"

static enum reason check_schema(struct judgement *j, int64_t now_us, struct detail *found)
{
    (void)now_us;
    const enum reason twins = request_doc_twins(j->doc, found);
    if (twins != REASON_OK)
        return twins;
    return request_doc_schema(j->doc, str_z(j->rule->checks.versions), j->resource.kind == RESOURCE_REDIRECT, found);
}

/*
 * Which forms of a request a check is for: an unsigned request has no key, an empty one no fields. `quiet`: looked at
 * even when it is off, for what it notes: a signature proves where the fields come from, a Time how far clocks differ.
 */
static const struct {
    check_fn *run;
    unsigned forms;
    bool quiet;
    bool stops; /* when it fails, nothing that comes later can be trusted to mean anything */
} CHECKS[CHECK_COUNT] = {
    [CHECK_SCHEMA] = {check_schema, FORM_SIGNED | FORM_UNSIGNED, false, true},
    [CHECK_SIGNATURE] = {check_signature, FORM_SIGNED, true, true},
    [CHECK_KEY_POLICY] = {check_key_policy, FORM_SIGNED, false, false},
    [CHECK_KMS_URI] = {check_kms_uri, FORM_SIGNED | FORM_UNSIGNED, false, false},
    [CHECK_TIME] = {check_time, FORM_SIGNED | FORM_UNSIGNED, true, false},
    [CHECK_CLIENT_REQ_URL] = {check_client_req_url, FORM_SIGNED | FORM_UNSIGNED, false, false},
    [CHECK_PATH_USER] = {check_path_user, FORM_SIGNED | FORM_UNSIGNED | FORM_EMPTY, false, false},
    [CHECK_REPLAY] = {check_replay, FORM_SIGNED, false, false},
};

bool checks_for(enum check c, enum form f)
{
    return CHECKS[c].forms & (unsigned)f;
}

bool checks_stop(enum check c)
{
    return CHECKS[c].stops;
}

/* Notes what became of check c; true when it refuses the request. */
static bool checks_note(struct judgement *j, enum check c, enum reason r)
{
    struct decision *d = &j->decision;
    const enum mode mode = j->rule->checks.mode[c];
    if (r == REASON_INTERNAL || (r != REASON_OK && mode == MODE_ENFORCE)) {
        d->checks[c] = CHECK_FAIL;
        return true;
    }
    if (mode == MODE_OFF)
        d->checks[c] = CHECK_OFF;
    else if (r == REASON_OK)
        d->checks[c] = CHECK_PASS;
    else {
        d->checks[c] = CHECK_SHADOW_FAIL;
        d->shadow[c] = r;
    }
    return false;
}

/* Replay is spent last, and only for what is otherwise accepted and proven. */
static bool checks_due(const struct judgement *j, enum check c, enum reason first)
{
    if (!checks_for(c, j->form))
        return false;
    return c != CHECK_REPLAY || (first == REASON_OK && j->proven && j->gate->replay);
}

enum reason checks_run(struct judgement *j, int64_t now_us)
{
    enum reason first = REASON_OK;
    bool stopped = false;
    for (enum check c = 0; c < CHECK_COUNT; c++) {
        const bool off = j->rule->checks.mode[c] == MODE_OFF;
        if (stopped || !checks_due(j, c, first) || (off && !CHECKS[c].quiet)) {
            j->decision.checks[c] = off ? CHECK_OFF : CHECK_SKIP;
            continue;
        }
        const enum reason r = CHECKS[c].run(j, now_us, &j->decision.found[c]);
        if (j->spending.waits) {
            j->decision.checks[c] = CHECK_SKIP; /* until checks_spent() */
            continue;
        }
        if (!checks_note(j, c, r))
            continue;
        if (first == REASON_OK)
            first = r;
        stopped = CHECKS[c].stops || r == REASON_INTERNAL;
    }
    return first;
}

void checks_again(struct judgement *j)
{
    struct decision *d = &j->decision;
    for (enum check c = 0; c < CHECK_COUNT; c++) {
        d->shadow[c] = REASON_OK;
        d->found[c].text[0] = 0;
    }
    d->proven = d->has_key_type = j->proven = j->ring_loaded = j->stale = false;
    j->proof = NULL;
    j->signer = NULL;
}

enum reason checks_spent(struct judgement *j, enum reason reason)
{
    j->spent = reason == REASON_OK;
    checks_replay_found(j, reason, &j->decision.found[CHECK_REPLAY]);
    return checks_note(j, CHECK_REPLAY, reason) ? reason : REASON_OK;
}
