/*
 * Users' own cases for a rules file: the facts of a request, and what the rules are to make of it. Each case is judged
 * by the gate itself: a message with these facts is written, signed with keys made for it, judged, forwarded and
 * answered for; no verdict is made up. rules/README.md, "Testing rules", is the language's reference.
 *
 *     struct cases *c = cases_load("rules.cases.yaml", &faults);        NULL: told in faults
 *     struct case_run run;
 *     if (cases_run(c, rules, &faults, &run)) ... run.failed of run.n; what differs is in faults, with its place
 */
#ifndef KMSGATE_STUDY_CASES_H
#define KMSGATE_STUDY_CASES_H

#include "base/yaml.h"
#include "gate/gate.h"

/* What signs a case's request, of keys that its user has; the last two are no keys of his. */
enum case_signer {
    SIGNER_INK,
    SIGNER_TRK,
    SIGNER_RETIRING,
    SIGNER_REVOKED,
    SIGNER_EXPIRED,
    SIGNER_UNKNOWN,
    SIGNER_ANOTHER,
    SIGNER_COUNT
};
/* Fields that a request leaves out. */
enum { WITHOUT_USER = 1, WITHOUT_KMS_URI = 2, WITHOUT_TIME = 4, WITHOUT_CLIENT_REQ_URL = 8, WITHOUT_TRK_ID = 16,
       WITHOUT_SIGNATURE_ID = 32, WITHOUT_VERSION = 64 };
enum { HAS_INK = 1, HAS_TRK = 2, HAS_NONE = 4 };

struct case_facts {
    char *path, *method, *user, *client_id, *device_id, *kms_uri, *client_req_url, *version, *trk_id, *signature_id;
    char *time;        /* as it is written; NULL: of at_us and offset_us */
    char *body;        /* instead of all that is written from the facts */
    struct ip source;
    int64_t at_us;     /* TIME_NONE: now */
    int64_t offset_us; /* of Time from at_us */
    int zone_minutes;  /* of Time; ZONE_NONE: it has none */
    enum form form;
    enum case_signer signed_by;
    unsigned keys;     /* HAS_…: what the user has */
    unsigned hmac_bits, canonicalization, without;
    int fails;         /* a check that is to fail, made so by the facts; -1: none */
    /* the upstream's reply */
    unsigned status;
    int message;       /* enum kms_message; -1: what the path is owed */
    char *reply;       /* instead of that */
    size_t reply_n;    /* octets of a stored reply, which may be anything; 0: reply is a text */
};
enum { ZONE_NONE = 10000 };

struct rule_case {
    char *name;
    struct case_facts facts;
    const struct yaml_node *node, *expect;
};
struct cases {
    struct yaml *yaml; /* owns the nodes */
    char *file;
    struct strings public_url;
    struct rule_case *v;
    size_t n;
};
struct cases *cases_load(const char *path, struct faults *faults);
void cases_free(struct cases *c);

struct case_run {
    size_t n, failed;
    bool *requests, *responses; /* by the rules' order: some case tells what this rule does */
    struct strings notes;       /* FILE:LINE: …: what a reply was passed on without */
};
/* False when out of memory or when OpenSSL fails: told in faults. */
bool cases_run(const struct cases *c, struct rules *rules, struct faults *faults, struct case_run *out) MUST_CHECK;
void case_run_free(struct case_run *r);

/* What was made of one case's facts. For cases*.c. */
struct case_made {
    struct keystore *keys;
    struct buf body, reply;
    char time[TIME_TEXT + 8];
};
/* False when out of memory, or, with the reason, when the facts cannot be made into a request. */
bool case_make(const struct cases *c, const struct case_facts *f, const struct rules *rules, int64_t now_us,
               struct case_made *out, struct detail *why) MUST_CHECK;
void case_made_free(struct case_made *m);
/* The path's resource; false when it is none. */
bool case_resource(const struct case_facts *f, struct resource *out);
/* Compares what was expected with what came out; false, with faults, when something differs. */
struct case_outcome {
    const struct judgement *j;
    struct str body;
    const struct gate_outgoing *outgoing; /* NULL: refused */
    enum reason request_reason; /* of the judgement alone */
    enum reason shadow[SHADOW_COUNT];
    int status;
};
bool case_compare(struct yaml_in *in, const struct rule_case *rc, const struct case_outcome *o);
/* What `expect` may hold: names and shapes. */
void case_expect_read(struct yaml_in *in, const struct yaml_node *node);
bool case_expects_response(const struct rule_case *rc);

#endif
