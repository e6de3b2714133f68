/*
 * The decision: what was judged, how, and what became of it. One line of JSON a request.
 */
#ifndef KMSGATE_GATE_DECISION_H
#define KMSGATE_GATE_DECISION_H

#include "base/json.h"
#include "gate/rules.h"
#include "keys/keystore.h"

enum check_result { CHECK_NONE, CHECK_PASS, CHECK_FAIL, CHECK_SHADOW_FAIL, CHECK_OFF, CHECK_SKIP };
const char *check_result_name(enum check_result r);

/* Texts are views into the exchange, alive until decision_json() has written them. Missing and zero are left out. */
struct decision {
    int64_t time_us; /* when the request was complete (or given up) */
    char id[33];
    char trace_id[33]; /* the client's, or id; empty: nobody serves it */
    char source[IP_TEXT];
    struct str method, path;
    const char *rule; /* id */
    enum form form;   /* 0: not known */
    bool judged;      /* form, proven and checks apply */
    bool proven;
    struct str user, client_id, device_id, key_id;
    bool has_key_type;
    enum key_type key_type;
    enum check_result checks[CHECK_COUNT];
    bool accepted;
    enum reason reason;
    enum reason shadow[SHADOW_COUNT]; /* what a refusal would have said; REASON_OK: none */
    struct {
        struct str kms_uri, time, client_req_url, trk_id, signature_id, version;
        const char *c14n;   /* as rules name it */
        unsigned hmac_bits; /* 0: none told */
    } claims;
    bool captured;      /* its body is kept */
    char *expected_url; /* owned */
    const char *rules_hash;
    int64_t skew_us;    /* TIME_NONE: not known */
    int status;
    struct {
        int status;
        int64_t us; /* TIME_NONE: never asked */
    } upstream;
    struct {
        const char *rule;
        const char *message;
        struct str signed_by, encrypted_by, renewed[2];
    } response;
    struct {
        int64_t total, judge, upstream, protect; /* us; TIME_NONE: did not happen */
    } us;
    struct detail found[CHECK_COUNT]; /* for explain and the debug log; last: decision_init() only empties them */
};
void decision_init(struct decision *d);
void decision_clear(struct decision *d);
/* Appends one JSON object, without a newline. */
void decision_json(const struct decision *d, struct buf *out);
/* The same for who reads the Elastic Common Schema: appends another text of a line that decision_json() made (a
 * sink_shape). False: it is no such line, or there is no memory. */
bool decision_ecs(struct str line, struct buf *out);
/* Counts it in the metrics. */
void decision_count(const struct decision *d);

#endif
