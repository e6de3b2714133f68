/*
 * Inside rules*.c: one reading of a rules file.
 */
#ifndef KMSGATE_GATE_RULES_INTERNAL_H
#define KMSGATE_GATE_RULES_INTERNAL_H

#include "base/yaml.h"
#include "gate/rules.h"

#define LINT_LIST(X)                                                                                            \
    X(UNTIL_SOON, "until-soon") X(UNTIL_PAST, "until-past") X(SINCE_FUTURE, "since-future")                     \
    X(WIDE_WINDOW, "wide-window") X(UNSIGNED_ANYWHERE, "unsigned-anywhere") X(ASSERT_UNPROVEN, "assert-unproven") \
    X(CHECK_SHADOW, "check-shadow") X(CHECK_OFF, "check-off") X(SHORT_HMAC, "short-hmac")                       \
    X(UNREACHABLE, "unreachable") X(NEVER_MATCHES, "never-matches") X(NO_RESPONSE, "no-response")               \
    X(NO_END, "no-end") X(SHADOW_OLD, "shadow-old") X(CLEAR_KEYS, "clear-keys")                                 \
    X(UNSIGNED_REPLY, "unsigned-reply") X(NARROW_WRAP, "narrow-wrap") X(MISNAMED_WRAP, "misnamed-wrap")         \
    X(DIALECT_UNUSED, "dialect-unused")                                                                         \
    X(USER_IGNORED, "user-ignored") X(TIME_FORM, "time-form") X(OVERLAP, "overlap") X(UNTIL_FAR, "until-far")     \
    X(USER_GLOB, "user-glob") X(ALSO_USERS, "also-users") X(IDENTITY_PASSED, "identity-passed")                 \
    X(WIDE_SOURCE, "wide-source") X(CLEAR_UNASKED, "clear-unasked") X(WRAPPED_UNASKED, "wrapped-unasked")       \
    X(REPLAY_TIMELESS, "replay-timeless") X(ZONE_RESTART, "zone-restart")                                       \
    X(RENEW_UNENFORCED, "renew-unenforced") X(RENEW_SHORT, "renew-short")                                       \
    X(PROXY_SOURCE, "proxy-source") X(CAPTURE_NOWHERE, "capture-nowhere")                                       \
    X(ACCEPTED_UNUSED, "accepted-unused")
enum lint {
#define LINT_ENUM(e, name) LINT_##e,
    LINT_LIST(LINT_ENUM)
#undef LINT_ENUM
};

struct accepted {
    int lint;
    char *rule, *why;
    bool used;
    const struct yaml_node *node;
};
struct reading {
    struct yaml_in in;
    struct rules *r;
    const struct yaml_node *root;
    const struct yaml_node *requests, *responses; /* the lists that r's rules were read from */
    struct strings kms_uris; /* handed over to r */
    char *kms_id;
    int detail_reason;
    const struct yaml_node *dialects;             /* the mapping that r's dialects were read from */
    struct accepted *accepted;
    size_t accepted_count;
};

extern const struct yaml_field REQUEST_FIELDS[], RESPONSE_FIELDS[], DIALECT_FIELDS[];

/* `to` is a struct reading; each is called once at most per file but for duplicate keys, which are faults already. */
yaml_reader rules_read_requests, rules_read_responses, rules_read_dialects, rules_read_accepted;
void request_rule_free(struct request_rule *q);
void response_rule_free(struct response_rule *p);
/* What can only be judged when all is read. */
void rules_check_requests(struct reading *g);
void rules_check_responses(struct reading *g);
void rules_check_accepted(struct reading *g);
void rules_lint(struct reading *g, int64_t now_us);
void rules_lint_replay(struct reading *g); /* its part of what a restart means */
void rules_lint_renew(struct reading *g);
/* One remark on one rule, or on a dialect. */
struct remark {
    struct reading *g;
    const char *rule;
    bool dialect;
    const struct yaml_node *node; /* where: the member if it is there, else the rule */
};
struct remark rules_remark(struct reading *g, const char *rule, const struct yaml_node *node, const char *a,
                           const char *b);
/* Adds the lint, unless it is accepted. */
void rules_lint_add(struct remark to, enum lint name, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* rules_lint_reach.c: what a rule leaves to those below it, and to the response rules; of request rule i. */
void rules_lint_reach(struct reading *g, size_t i);
/* Which of the resources its `path` and `path_user` can be of, a bit each, in the order of RULES_PATHS. */
unsigned rules_request_paths(const struct request_rule *q);
enum {
    PATH_INIT, PATH_KEYPROV, PATH_KEYPROV_USER, PATH_KEYPROV_TIME, PATH_CERTCACHE, PATH_CERTCACHE_NUMBER, PATH_CERT,
    PATH_LOOKUP, PATH_REDIRECT, PATH_COUNT
};
/* Without what stands before them all. */
extern const char *const RULES_PATHS[PATH_COUNT];
/* Whether some request may match both, as far as that can be seen without requests. */
bool rules_requests_meet(const struct request_rule *a, const struct request_rule *b);
/* True when all that b matches is matched by a, as far as that can be seen without requests; rules_request_paths(b). */
bool rules_request_covers(const struct request_rule *a, const struct request_rule *b, unsigned paths_of_b);
/* Whether each address of the network `of` is in one of these. */
bool rules_networks_cover(const struct cidr *nets, size_t n, const struct cidr *of);
/* No address of IPv4, or none of IPv6, is left out by its `source`. */
bool rules_request_from_anywhere(const struct request_rule *q);
bool rules_response_covers(const struct response_rule *a, const struct response_rule *b);
/* Why the rule can never match; NULL: it may. */
const char *rules_request_never(const struct request_rule *q);
const char *rules_response_never(const struct rules *r, const struct response_rule *p);

#define RULES_ID_EXPECTED "an id of at most 64 letters, digits, `.`, `_` and `-`"
bool rules_is_id(struct str s);
/* The reader of ids. */
yaml_reader rules_read_id;
/* The n-th member of a list; NULL where there is no list (NULL), or it is shorter. */
const struct yaml_node *rules_node(const struct yaml_node *list, size_t n);
enum { RULES_MAX = 2000 };

#endif
