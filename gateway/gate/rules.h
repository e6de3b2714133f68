/*
 * The rule set: YAML in, one immutable, reference-counted object out. rules/README.md is the language's reference.
 */
#ifndef KMSGATE_GATE_RULES_H
#define KMSGATE_GATE_RULES_H

#include "base/buf.h"
#include "base/config.h"
#include "base/reason.h"
#include "base/zone.h"
#include "message/dialect.h"
#include "message/xmlenc.h"

enum form { FORM_SIGNED = 1, FORM_UNSIGNED = 2, FORM_EMPTY = 4 };
enum mode { MODE_ENFORCE, MODE_SHADOW, MODE_OFF };

/* In the order of judging. */
#define CHECK_LIST(X)                                                                                             \
    X(SCHEMA, "schema") X(SIGNATURE, "signature") X(KEY_POLICY, "key_policy") X(KMS_URI, "kms_uri") X(TIME, "time") \
    X(CLIENT_REQ_URL, "client_req_url") X(PATH_USER, "path_user") X(REPLAY, "replay")
enum check {
#define CHECK_ENUM(e, name) CHECK_##e,
    CHECK_LIST(CHECK_ENUM)
#undef CHECK_ENUM
    CHECK_COUNT
};
const char *check_name(enum check c);
/* What shadow lets through: by check, and the form of the request behind them. "form" for SHADOW_FORM. */
enum { SHADOW_FORM = CHECK_COUNT, SHADOW_COUNT };
/* What a rule without settings demands: whatever takes more is looser. The window is Annex D's example. */
#define STANDARD_WINDOW_US (5 * US_PER_S)
enum { STANDARD_HMAC_BITS = 256 };
const char *shadow_name(size_t i);
const char *mode_name(enum mode m);
const char *form_name(enum form f); /* "signed", … */

struct checks {
    enum mode mode[CHECK_COUNT];
    char *versions;            /* schema: separated by spaces */
    unsigned min_hmac_bits;    /* signature */
    unsigned canonicalization; /* signature: XMLSIG_… */
    bool trk_id_required;      /* key_policy */
    bool kms_uri_host;         /* kms_uri: compare host */
    int64_t past_us, future_us;
    bool zone_refuse;          /* time: assume_zone: refuse */
    int zone_minutes;          /* else the offset assumed, east positive, */
    struct zone *zone;         /* or the zone; NULL: the offset */
    char *zone_name;
    enum { URL_EXACT, URL_NORMALIZED, URL_PREFIX } url_compare;
    struct strings also;       /* path_user: globs */
};

struct header_rule {
    char *name, *value; /* value with {user} and its kin not yet filled in */
};
struct forward {
    enum { FORWARD_REQUEST, FORWARD_SIGNED, FORWARD_EMPTY, FORWARD_JSON } body;
    char *method;
    struct header_rule *headers;
    size_t header_count;
    struct strings pass;
    unsigned withhold;   /* bits 1 << the place in FORWARD_STANDARD */
    bool drop_extensions;
    bool assert_unproven;
};
/* The headers of the client's that go on without a word of the rules. */
enum { FORWARD_STANDARD_COUNT = 4 };
extern const char *const FORWARD_STANDARD[FORWARD_STANDARD_COUNT];
/* What a rule looks at. A list that is empty, and no form, are not looked at. */
struct request_match {
    struct strings path, path_user, user, client_id, device_id; /* globs */
    struct cidr *source;
    size_t source_count;
    unsigned forms; /* FORM_… */
};
struct request_rule {
    char *id, *why;
    int64_t since_us, until_us; /* TIME_NONE: none; until_us is the first instant after the last day */
    struct request_match match; /* all of what it names holds, … */
    struct request_match except; /* … and nothing of what this names (`not`) */
    bool deny;
    unsigned accept;        /* FORM_… */
    unsigned shadow_accept; /* FORM_…: let through as well, and told */
    bool capture;           /* bodies that it refuses are kept */
    struct checks checks;
    struct forward forward;
    int line; /* where it stands */
};

enum field_from { FIELD_REQUEST, FIELD_RULES, FIELD_NOW, FIELD_KEEP, FIELD_REMOVE };
struct response_rule {
    char *id;
    struct {
        struct strings rule; /* ids of request rules; none: any */
        unsigned forms;      /* 0: any */
        unsigned messages;   /* bits of 1 << enum kms_message; 0: any */
        int *status;         /* none: any */
        size_t status_count;
    } match;
    enum field_from user_uri, kms_uri, kms_id, time, client_req_url;
    enum { SIGN_AUTO, SIGN_ALWAYS, SIGN_NONE } sign;
    struct {
        enum { ENCRYPT_KEYS, ENCRYPT_MESSAGE, ENCRYPT_NONE } content;
        enum key_wrap key_wrap;
        enum { WHEN_ALWAYS, WHEN_REQUESTED, WHEN_NEVER } when;
    } encrypt;
    bool keep_extensions;
    bool speak; /* plain replies to unproven requesters are written as the dialect has it */
    struct new_keys { /* those that the upstream itself issues */
        enum { NEW_KEYS_REFUSE, NEW_KEYS_LEARN, NEW_KEYS_REPLACE } what;
        int64_t keep_old_us; /* how long older ones go on, where `renew` does not say it */
    } new_keys;
    struct renew {
        int64_t trk_us, ink_us; /* how old the newest key may be; 0: none of that type is issued */
        int64_t keep_old_us;    /* how long older ones go on */
    } renew;
    bool carried_key_name; /* new keys say their ID */
    const struct dialect *dialect; /* one of the rule set's; NULL: none */
    int line;
};

struct rules {
    char *file;
    struct strings kms_uris;
    char *kms_id; /* or NULL */
    bool detail_reason;
    struct request_rule *requests;
    size_t request_count;
    struct response_rule *responses;
    size_t response_count;
    struct dialect *dialects;
    size_t dialect_count;
    struct strings headers; /* that some request rule sets: none of them ever comes from a client */
    struct strings accepted; /* lints that only gateway.yaml can give rise to; see rules_accept() */
    int64_t max_past_us;   /* widest window of all rules where replay is on: how long the replay memory must remember */
    int64_t max_future_us; /* the same of those that enforce time, too: how far ahead it may have accepted */
    char hash[65];       /* SHA-256 of the file, hex */
    char *text;          /* the file, for /rules */
    unsigned refs;       /* by rules_ref and rules_unref only (atomic) */
};

/* The instants that a Time without a zone, read as UTC, stands for under the rule, the earliest first: none where the
 * rule refuses such a Time or its zone's clocks never show it, two where they show it twice. */
unsigned checks_readings(const struct checks *c, int64_t wall_us, int64_t out[2]);
/* The forms that get through; none of a rule that denies. */
unsigned request_rule_takes(const struct request_rule *q);
/* What the rule says of a form before any check: REASON_OK also where only shadow_accept lets it through; then
 * request_rule_refuses() is what a refusal would have said. */
enum reason request_rule_form(const struct request_rule *q, enum form form);
enum reason request_rule_refuses(const struct request_rule *q);
/* What the rule lets through that a rule without settings would not, a phrase each; `each` may be NULL. Returns how
 * many: 0 is no exception. (Canonicalizations, zones and `also` widen what is read, not what is proven: not told.) */
typedef void rules_loosening(void *arg, const char *phrase);
size_t request_rule_loosened(const struct request_rule *q, rules_loosening *each, void *arg);
/* Who decides what request rule i matches once it is gone or has ended: from *at = i on each call gives the next rule
 * below that may, up to one that takes all of it. NULL: no more; when none took all, some of it meets no rule.
 * *takes_all tells. */
const struct request_rule *rules_request_heir(const struct rules *r, size_t i, size_t *at, bool *takes_all);

/* NULL with every fault added; lints are added too, but do not fail. */
struct rules *rules_load(const char *path, struct faults *faults);
/* Whether somebody accepted that lint of that rule: one that is told by gateway.yaml and the rules together. */
bool rules_accept(const struct rules *r, const char *lint, const char *rule);
/* `check --print`: every setting in effect with its place or "default", a line each. */
void rules_describe(const struct rules *r, struct buf *out);
/* The settings in effect of request rule i, or of response rule i: `line` 0 where a default holds. False without
 * memory. */
typedef void rules_setting(void *arg, const char *path, struct str value, int line);
bool rules_settings(const struct rules *r, bool response, size_t i, rules_setting *each, void *arg);
/* With a memory that many gateways share: a Time far ahead would make each of its epochs as long. False with a fault a
 * rule that takes one of more than a minute. */
bool rules_fit_shared(const struct rules *r, struct faults *faults);
struct rules *rules_ref(struct rules *r);
void rules_unref(struct rules *r);

/* Whether a client's header of that name goes to the upstream under the rule: one of the standard ones that is not
 * withheld, or one that `pass` names; never one that any request rule sets. */
bool rules_pass_header(const struct rules *r, const struct request_rule *q, struct str name);

/* What rules select by. source may be unknown (a Unix socket): then no rule with `source` matches. */
struct request_facts {
    struct str path;      /* without the query, each segment percent-decoded */
    struct str path_user; /* decoded {UserUri} of /keyprov and /lookup; missing: the path has none */
    struct str user, client_id, device_id; /* as claimed; missing: matches no glob */
    const struct ip *source;
    enum form form;
    int64_t now_us;
};
/* What of a rule the facts do not match, the first that is looked at; MISS_NONE: it matches. */
enum rule_miss {
    MISS_NONE,
    MISS_SINCE,
    MISS_UNTIL,
    MISS_FORM,
    MISS_SOURCE,
    MISS_PATH,
    MISS_PATH_USER,
    MISS_USER,
    MISS_CLIENT_ID,
    MISS_DEVICE_ID,
    MISS_NOT
};
enum rule_miss rules_miss(const struct request_rule *q, const struct request_facts *facts);
/* MISS_NOT: the key of its `not` that holds, as the miss of that name. */
enum rule_miss rules_excepted(const struct request_rule *q, const struct request_facts *facts);
/* The first that matches, or NULL. */
const struct request_rule *rules_request(const struct rules *r, const struct request_facts *facts);
/* Whether it matches, its `message` set aside: what a reply is, only the rule's dialect can tell. status 0: any. */
bool rules_response_fits(const struct response_rule *p, const char *request_rule, enum form form, int status);
const struct response_rule *rules_response(const struct rules *r, const char *request_rule, enum form form,
                                           unsigned message_bit, int status);

#endif
