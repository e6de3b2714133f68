/*
 * A line of the decision log, read again: what decision.h writes. Strict in what it knows; members that it does not
 * know are a later version's and left alone. Texts are views into the record.
 */
#ifndef KMSGATE_STUDY_RECORD_H
#define KMSGATE_STUDY_RECORD_H

#include "base/json.h"
#include "gate/decision.h"
#include "message/kms_response.h"

struct record {
    struct json_doc *doc;
    int64_t time_us; /* to the millisecond */
    struct str id, path, rule, user, client_id, device_id, key_id, key_type;
    struct ip source; /* not known: a Unix socket's, or nothing that can be read */
    enum form form;   /* 0: it was refused before anybody knew */
    bool has_proven, proven;
    enum check_result checks[CHECK_COUNT];
    bool accepted;
    enum reason reason;
    enum reason shadow[SHADOW_COUNT]; /* as they are listed; REASON_OK ends them */
    struct {
        struct str kms_uri, time, client_req_url, version, trk_id, signature_id;
        unsigned c14n;      /* XMLSIG_…; 0: none told */
        unsigned hmac_bits; /* 0: none told */
    } claims;
    bool captured;
    struct str expected_url, rules_hash;
    int upstream_status; /* 0: not asked */
    struct str response_rule;
    int message; /* enum kms_message; -1: none told */
};
/* False, with the reason, for what is no decision. The caller frees either way. */
bool record_read(struct str line, struct record *out, struct detail *why) MUST_CHECK;
void record_free(struct record *r);
/* A text that may have been cut when it was written: nobody knows how it went on. */
bool record_cut(struct str text);

#endif
