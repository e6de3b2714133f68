#include "study/rejudge.h"

#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "gate/checks.h"

/* What the log tells of one check under the new rules. */
enum tells { HOLDS, FAILS, OPEN };
struct told {
    enum tells tells;
    enum reason reason; /* FAILS */
    bool any;           /* … for one of the check's reasons, which one is open */
};

/* A record as the gate's checks look at it. */
struct again {
    const struct rules *rules;
    const struct record *r;
    struct gate gate;
    struct judgement j;
    struct strings base; /* public_url as expected_url tells it; its one text is `base_text` */
    char *base_text;
    bool failed;
};

static const struct told IT_HOLDS = {.tells = HOLDS}, IT_IS_OPEN = {.tells = OPEN};

static struct told it_fails(enum reason r)
{
    return (struct told){.tells = FAILS, .reason = r};
}

static struct told rejudge_run(struct again *a, check_fn *check)
{
    struct detail ignored;
    const enum reason r = check(&a->j, a->r->time_us, &ignored);
    free(a->j.decision.expected_url);
    a->j.decision.expected_url = NULL;
    a->failed |= r == REASON_INTERNAL;
    return r == REASON_OK ? IT_HOLDS : it_fails(r);
}

static bool recorded_fail(const struct record *r, enum check c)
{
    return r->checks[c] == CHECK_FAIL || r->checks[c] == CHECK_SHADOW_FAIL;
}

/* The reason that a recorded failure of a check was given: the refusal's, or one of the shadow list, if it is one of
 * that check's; else `usual`. */
static enum reason recorded_reason(const struct record *r, const enum reason *of, size_t n, enum reason usual)
{
    for (size_t i = 0; i < n; i++) {
        if (r->reason == of[i])
            return of[i];
        for (size_t k = 0; k < SHADOW_COUNT; k++)
            if (r->shadow[k] == of[i])
                return of[i];
    }
    return usual;
}

static bool has_version(struct str list, struct str version)
{
    for (size_t i = 0; i + version.n <= list.n; i++)
        if (str_eq((struct str){list.p + i, version.n}, version) && (i == 0 || list.p[i - 1] == ' ') &&
            (i + version.n == list.n || list.p[i + version.n] == ' '))
            return version.n > 0;
    return false;
}

/* The log has the Version; all else of the schema is known by the recorded result alone. */
static struct told tell_schema(struct again *a)
{
    const struct record *r = a->r;
    const struct str version = r->claims.version;
    if (record_cut(version))
        return IT_IS_OPEN;
    if (version.n && !has_version(str_z(a->j.rule->checks.versions), version))
        return it_fails(REASON_XML_INVALID);
    if (r->checks[CHECK_SCHEMA] == CHECK_PASS)
        return IT_HOLDS;
    if (!recorded_fail(r, CHECK_SCHEMA))
        return IT_IS_OPEN;
    /* it may have been the Version, if that is one which few rules take */
    return version.n && !has_version(STR("1.1.0 1.0.0"), version) ? IT_IS_OPEN : it_fails(REASON_XML_INVALID);
}

static struct told tell_signature(struct again *a)
{
    static const enum reason OF[] = {REASON_SIGNATURE_MISSING, REASON_SIGNATURE_INVALID, REASON_SIGNATURE_PROFILE,
                                     REASON_SIGNATURE_REFERENCE, REASON_KEY_UNKNOWN, REASON_KEY_REVOKED};
    const struct record *r = a->r;
    const struct checks *c = &a->j.rule->checks;
    const enum reason why = recorded_reason(r, OF, sizeof OF / sizeof *OF, REASON_SIGNATURE_INVALID);
    if (r->proven || r->checks[CHECK_SIGNATURE] == CHECK_PASS)
        return IT_HOLDS;
    if (!recorded_fail(r, CHECK_SIGNATURE)) /* where it is off it is looked at all the same, for `proven` */
        return r->checks[CHECK_SIGNATURE] == CHECK_OFF && r->has_proven && r->checks[CHECK_SCHEMA] == CHECK_PASS
                   ? (struct told){.tells = FAILS, .reason = REASON_SIGNATURE_INVALID, .any = true}
                   : IT_IS_OPEN;
    /* What the signature named, where the log tells: a rule that is looser in something else does not take it. */
    const unsigned bits = r->claims.hmac_bits, form = r->claims.c14n;
    const bool named_is_refused = (bits && bits < c->min_hmac_bits) || (form && !(c->canonicalization & form));
    const bool looser = !named_is_refused && (c->min_hmac_bits < 256 || c->canonicalization != XMLSIG_C14N);
    return why == REASON_SIGNATURE_PROFILE && looser ? IT_IS_OPEN : it_fails(why);
}

static struct told tell_recorded(struct again *a, enum check c, enum reason why)
{
    if (a->r->checks[c] == CHECK_PASS)
        return IT_HOLDS;
    return recorded_fail(a->r, c) ? it_fails(why) : IT_IS_OPEN;
}

/* Without a TrK-ID the rule decides. Where nothing else can have failed, it was an older rule that wanted one. */
static struct told tell_key_policy(struct again *a)
{
    const struct record *r = a->r;
    const struct str trk = r->claims.trk_id;
    if (!trk.n && r->checks[CHECK_KEY_POLICY] == CHECK_PASS && a->j.rule->checks.trk_id_required)
        return it_fails(REASON_KEY_POLICY);
    const bool by_ink = str_eq_z(r->key_type, "ink") && str_eq(r->key_id, r->claims.signature_id) &&
                        !record_cut(r->key_id);
    if (!trk.n && recorded_fail(r, CHECK_KEY_POLICY) && by_ink && !a->j.rule->checks.trk_id_required)
        return IT_HOLDS;
    return tell_recorded(a, CHECK_KEY_POLICY, REASON_KEY_POLICY);
}

static struct told tell_kms_uri(struct again *a)
{
    return record_cut(a->r->claims.kms_uri) ? IT_IS_OPEN : rejudge_run(a, check_kms_uri);
}

/*
 * The log's times have milliseconds: what the next one would decide otherwise is open. So is a Time within the
 * standard's window that was refused: the gateway may just have started, and remembered nothing yet (or its window was
 * narrower).
 */
static struct told tell_time(struct again *a)
{
    static const enum reason OF[] = {REASON_TIME_FUTURE, REASON_TIME_ZONE, REASON_TIME_STALE};
    enum { MS_US = 1000, WINDOW_S = 5 };
    const struct record *r = a->r;
    struct detail ignored;
    if (record_cut(r->claims.time))
        return IT_IS_OPEN;
    const struct told t = rejudge_run(a, check_time);
    const int64_t skew = a->j.decision.skew_us;
    const enum reason later = check_time(&a->j, r->time_us + MS_US - 1, &ignored);
    if ((later == REASON_OK) != (t.tells == HOLDS))
        return IT_IS_OPEN;
    const enum reason was = recorded_reason(r, OF, sizeof OF / sizeof *OF, REASON_TIME_STALE);
    if (t.tells == HOLDS && recorded_fail(r, CHECK_TIME) && was == REASON_TIME_STALE && skew >= 0 &&
        skew <= WINDOW_S * US_PER_S)
        return IT_IS_OPEN;
    return t;
}

/* URLs stand in the log without their queries. */
static struct told tell_client_req_url(struct again *a)
{
    const struct record *r = a->r;
    const struct str got = r->claims.client_req_url, expected = r->expected_url;
    const int compare = a->j.rule->checks.url_compare;
    if (!got.n)
        return it_fails(REASON_CLIENT_REQ_URL_MISMATCH);
    if (!a->base.n || record_cut(got) || record_cut(expected) || record_cut(r->path))
        return IT_IS_OPEN;
    if (str_eq(got, expected)) {
        if (!recorded_fail(r, CHECK_CLIENT_REQ_URL))
            return tell_recorded(a, CHECK_CLIENT_REQ_URL, REASON_CLIENT_REQ_URL_MISMATCH);
        /* then their queries differ */
        return compare == URL_NORMALIZED ? IT_IS_OPEN : it_fails(REASON_CLIENT_REQ_URL_MISMATCH);
    }
    const struct told t = rejudge_run(a, check_client_req_url);
    /* one public URL of perhaps many is in the log: of another host nobody knows whether it is one of them */
    if (t.tells == FAILS && compare == URL_NORMALIZED && !str_ieq(uri_host(got), uri_host(expected)))
        return IT_IS_OPEN;
    return t;
}

static struct told tell_path_user(struct again *a)
{
    const struct record *r = a->r;
    if (a->j.resource.kind != RESOURCE_KEYPROV || !a->j.resource.user_raw.p)
        return record_cut(r->path) ? IT_IS_OPEN : IT_HOLDS;
    return record_cut(r->path) || record_cut(r->user) ? IT_IS_OPEN : rejudge_run(a, check_path_user);
}

static struct told tell_replay(struct again *a)
{
    static const enum reason OF[] = {REASON_REPLAY_SEEN, REASON_REPLAY_FULL};
    return tell_recorded(a, CHECK_REPLAY, recorded_reason(a->r, OF, 2, REASON_REPLAY_SEEN));
}

static struct told (*const TELL[CHECK_COUNT])(struct again *a) = {
    [CHECK_SCHEMA] = tell_schema,         [CHECK_SIGNATURE] = tell_signature,
    [CHECK_KEY_POLICY] = tell_key_policy, [CHECK_KMS_URI] = tell_kms_uri,
    [CHECK_TIME] = tell_time,             [CHECK_CLIENT_REQ_URL] = tell_client_req_url,
    [CHECK_PATH_USER] = tell_path_user,   [CHECK_REPLAY] = tell_replay};

/* Whether one of these rules looks at the texts at `offset` of a struct request_match. */
static bool names(const struct rules *rules, size_t upto, size_t offset)
{
    for (size_t i = 0; i < upto; i++) {
        const struct request_match *const of[] = {&rules->requests[i].match, &rules->requests[i].except};
        for (size_t k = 0; k < 2; k++)
            if (((const struct strings *)(const void *)((const char *)of[k] + offset))->n)
                return true;
    }
    return false;
}

static struct str path_user_of(const struct again *a)
{
    return a->j.resource.user_raw.p ? buf_view(&a->j.path_user) : STR_MISSING;
}

/*
 * The rule, if the log can tell. A text that may be cut counts where a rule up to the chosen one looks at it. Whether a
 * text that is not in the log was missing or empty nobody knows: both must choose the same.
 */
static bool choose(struct again *a, const struct request_rule **out, const char **why)
{
    const struct record *r = a->r;
    struct request_facts f = {.path = a->j.path_clear, .path_user = path_user_of(a), .user = r->user,
                              .client_id = r->client_id, .device_id = r->device_id,
                              .source = &r->source, .form = r->form, .now_us = r->time_us};
    const struct request_rule *rule = rules_request(a->rules, &f);
    const size_t upto = rule ? (size_t)(rule - a->rules->requests) + 1 : a->rules->request_count;
    const struct {
        struct str text;
        size_t offset;
        const char *why;
    } cut[] = {{r->path, offsetof(struct request_match, path), "which rule matches: the path is cut in the log"},
               {r->path, offsetof(struct request_match, path_user), "which rule matches: the path is cut in the log"},
               {r->user, offsetof(struct request_match, user), "which rule matches: the user is cut in the log"},
               {r->client_id, offsetof(struct request_match, client_id),
                "which rule matches: the client_id is cut in the log"},
               {r->device_id, offsetof(struct request_match, device_id),
                "which rule matches: the device_id is cut in the log"}};
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++)
        if (record_cut(cut[i].text) && names(a->rules, upto, cut[i].offset)) {
            *why = cut[i].why;
            return false;
        }
    f.user = f.user.p ? f.user : STR("");
    f.client_id = f.client_id.p ? f.client_id : STR("");
    f.device_id = f.device_id.p ? f.device_id : STR("");
    *out = rule;
    *why = "which rule matches: whether a text was missing or empty is not in the log";
    return rules_request(a->rules, &f) == rule;
}

static bool look_again(struct again *a)
{
    const struct record *r = a->r;
    struct judgement *j = &a->j;
    a->gate = (struct gate){.public_url = &a->base};
    *j = (struct judgement){.gate = &a->gate, .rules = (struct rules *)a->rules, .form = r->form, .proven = r->proven};
    decision_init(&j->decision);
    j->request = (struct kms_request){.user_uri = r->user, .kms_uri = r->claims.kms_uri, .time = r->claims.time,
                                      .client_id = r->client_id, .device_id = r->device_id,
                                      .client_req_url = r->claims.client_req_url, .version = r->claims.version};
    j->head.target = r->path;
    j->path_room = BUF_INIT(r->path.n + 1);
    j->path_user = BUF_INIT(r->path.n + 1);
    const bool exists = resource_parse(r->path, &j->resource, NULL) == REASON_OK;
    if (!uri_percent_decode(r->path, &j->path_room) && !j->path_room.failed) { /* cut in an escape: as it stands */
        j->path_room.n = 0;
        buf_str(&j->path_room, r->path);
    }
    j->path_clear = buf_view(&j->path_room);
    if (j->path_room.failed ||
        (exists && j->resource.user_raw.p && !uri_percent_decode(j->resource.user_raw, &j->path_user)))
        return false;
    if (r->expected_url.n > r->path.n && str_ends(r->expected_url, r->path)) {
        a->base_text = str_dup((struct str){r->expected_url.p, r->expected_url.n - r->path.n});
        a->base = (struct strings){&a->base_text, a->base_text ? 1 : 0};
        return a->base_text != NULL;
    }
    return true;
}

/* What has been judged so far of one record. */
struct verdict {
    bool stopped;        /* an enforced schema or signature fails: the rest is skipped */
    bool maybe_stopped;  /* … or may fail */
    enum tells proven;
};

static bool rejudge_due(const struct again *a, const struct verdict *v, const struct rejudged *out, enum check c)
{
    if (!checks_for(c, a->r->form) || a->j.rule->checks.mode[c] == MODE_OFF || v->stopped)
        return false;
    return c != CHECK_REPLAY || (out->outcome != OUTCOME_REJECT && v->proven != FAILS);
}

static void judge_check(struct again *a, struct verdict *v, struct rejudged *out, enum check c)
{
    const enum mode mode = a->j.rule->checks.mode[c];
    if (c == CHECK_SIGNATURE && checks_for(c, a->r->form) && !v->stopped) {
        v->proven = tell_signature(a).tells;
        a->j.proven = v->proven == HOLDS;
    }
    if (!rejudge_due(a, v, out, c))
        return;
    struct told t = TELL[c](a);
    /* what a group's keys may be asked by depends on the proof */
    if (c == CHECK_PATH_USER && t.tells == FAILS && v->proven == OPEN && a->j.rule->checks.also.n)
        t = IT_IS_OPEN;
    if (mode == MODE_SHADOW) {
        if (t.tells == FAILS && !t.any && !v->maybe_stopped)
            out->shadow[c] = t.reason;
        else if (t.tells != HOLDS)
            out->shadow_open |= 1u << c;
        return;
    }
    if (t.tells == HOLDS)
        return;
    if (t.tells == OPEN) {
        out->open |= out->outcome == OUTCOME_REJECT ? 0 : 1u << c;
        v->maybe_stopped |= checks_stop(c);
        return;
    }
    if (out->outcome != OUTCOME_REJECT) {
        out->reason = t.reason;
        out->reason_open = out->open != 0 || t.any;
    }
    out->outcome = OUTCOME_REJECT;
    v->stopped = checks_stop(c);
}

static void judge_checks(struct again *a, struct rejudged *out)
{
    struct verdict v = {.proven = FAILS};
    out->outcome = OUTCOME_ACCEPT;
    for (int c = 0; c < CHECK_COUNT; c++)
        judge_check(a, &v, out, (enum check)c);
    if (out->outcome == OUTCOME_REJECT)
        out->open = 0;
    else if (out->open)
        out->outcome = OUTCOME_OPEN;
}

static void judge_reply(const struct again *a, struct rejudged *out)
{
    const struct record *r = a->r;
    if (out->outcome != OUTCOME_ACCEPT || r->message < 0 || !r->upstream_status)
        return;
    out->response_judged = true;
    out->response = rules_response(a->rules, out->rule->id, r->form, 1u << r->message, r->upstream_status);
}

static void rejudge_judge(struct again *a, struct rejudged *out)
{
    out->outcome = OUTCOME_REJECT;
    if (!choose(a, &out->rule, &out->why_open)) {
        out->outcome = OUTCOME_OPEN;
        out->rule = NULL;
        return;
    }
    out->why_open = NULL;
    if (!out->rule) {
        out->reason = REASON_RULE_NONE;
    } else if (request_rule_form(out->rule, a->r->form) != REASON_OK) {
        out->reason = request_rule_refuses(out->rule);
    } else {
        if (!(out->rule->accept & (unsigned)a->r->form))
            out->shadow[SHADOW_FORM] = request_rule_refuses(out->rule);
        a->j.rule = out->rule;
        judge_checks(a, out);
        judge_reply(a, out);
    }
}

/* Refused before any rule was looked at: no rules make that other. */
static bool before_rules(const struct record *r)
{
    return !r->form || (!r->rule.p && r->reason != REASON_RULE_NONE);
}

bool rejudge(const struct rules *rules, const struct record *r, struct rejudged *out)
{
    struct again a = {.rules = rules, .r = r};
    *out = (struct rejudged){.outcome = r->accepted ? OUTCOME_ACCEPT : OUTCOME_REJECT, .reason = r->reason};
    if (before_rules(r) || str_eq_z(r->rules_hash, rules->hash)) {
        out->untouched = true;
        return true;
    }
    if (!r->accepted && r->reason == REASON_INTERNAL) {
        out->outcome = OUTCOME_OPEN;
        out->why_open = "the gateway itself failed before it had judged";
        return true;
    }
    a.failed = !look_again(&a);
    if (!a.failed)
        rejudge_judge(&a, out);
    buf_free(&a.j.path_user);
    buf_free(&a.j.path_room);
    free(a.base_text);
    return !a.failed;
}
