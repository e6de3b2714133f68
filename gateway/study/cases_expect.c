#include <stdio.h>
#include <string.h>

#include "study/cases.h"

/*
 * What a case expects: held against what came out. Only what is stated is compared, but `shadow`, which is empty unless
 * it is stated: a check that begins to fail quietly is to be noticed.
 */
static const struct yaml_choice VERDICTS[] = {{"accept", true}, {"reject", false}, {NULL, 0}};
static const struct yaml_choice RESULTS[] = {{"pass", CHECK_PASS},
                                             {"fail", CHECK_FAIL},
                                             {"shadow_fail", CHECK_SHADOW_FAIL},
                                             {"off", CHECK_OFF},
                                             {"skip", CHECK_SKIP},
                                             {NULL, 0}};
static const struct yaml_choice TYPES[] = {{"ink", KEY_INK}, {"trk", KEY_TRK}, {"none", 2}, {NULL, 0}};
static const struct yaml_choice MESSAGES[] = {
    {"KmsInit", KMS_MESSAGE_INIT},     {"KmsKeyProv", KMS_MESSAGE_KEYPROV}, {"KmsCertCache", KMS_MESSAGE_CERTCACHE},
    {"KmsLookup", KMS_MESSAGE_LOOKUP}, {"error", KMS_MESSAGE_ERROR},        {"none", KMS_MESSAGE_NONE},
    {NULL, 0}};
static const struct yaml_range STATUS = {100, 599};

/* Shapes alone: what is read is looked up again where it is compared, so that each difference has its place. */
union shape {
    int choice;
    unsigned number;
    bool flag;
};

static void read_reason(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    enum reason r;
    (void)to, (void)arg;
    if (yaml_is_scalar(in, node, "a reason such as time.stale") && !reason_parse(node->text, &r))
        yaml_fault(in, node, "found %s, expected a reason such as time.stale: docker/DECISIONS.md lists them",
                   yaml_found(node).z);
}

static void read_reasons(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    if (!yaml_is_list(in, node, "a list of reasons, [] for none"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next)
        read_reason(in, m, to, arg);
}

static void read_rule(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to, (void)arg;
    if (yaml_is_scalar(in, node, "a rule's id, or none"))
        return;
}

static void read_headers(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to, (void)arg;
    if (!yaml_is_mapping(in, node, "a mapping of headers to their values"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next)
        (void)yaml_is_scalar(in, m, "a header's value, or none");
}

static const struct yaml_field CHECKS[] = {
#define FIELD(e, name) {name, yaml_choose, .offset = 0, RESULTS},
    CHECK_LIST(FIELD)
#undef FIELD
    {0}};
static const struct yaml_field RESPONSE[] = {{"rule", read_rule, .offset = 0},
                                             {"reason", read_reason, .offset = 0},
                                             {"status", yaml_count, .offset = 0, &STATUS},
                                             {"message", yaml_choose, .offset = 0, MESSAGES},
                                             {"signed_by", yaml_choose, .offset = 0, TYPES},
                                             {"encrypted", yaml_switch, .offset = 0},
                                             {0}};
static const struct yaml_field EXPECT[] = {{"verdict", yaml_choose, .offset = 0, VERDICTS, .required = true},
                                           {"rule", read_rule, .offset = 0},
                                           {"reason", read_reason, .offset = 0},
                                           {"shadow", read_reasons, .offset = 0},
                                           {"proven", yaml_switch, .offset = 0},
                                           {"checks", yaml_sub, .offset = 0, .sub = CHECKS},
                                           {"headers", read_headers, .offset = 0},
                                           {"response", yaml_sub, .offset = 0, .sub = RESPONSE},
                                           {0}};

static bool accepts(const struct yaml_node *expect)
{
    const struct yaml_node *v = expect->kind == YAML_SCALAR ? expect : yaml_get(expect, "verdict");
    return v && str_eq_z(v->text, "accept");
}

void case_expect_read(struct yaml_in *in, const struct yaml_node *node)
{
    union shape shape = {0};
    const size_t before = in->faults->errors;
    if (node->kind == YAML_SCALAR) {
        yaml_choose(in, node, &shape, VERDICTS);
        return;
    }
    yaml_fields(in, node, EXPECT, &shape);
    const struct yaml_node *reason = yaml_get(node, "reason");
    if (in->faults->errors != before)
        return;
    if (accepts(node) && reason)
        yaml_fault(in, reason, "an accepted request has no reason; that of its reply stands in `response`");
    if (!accepts(node) && reason && str_eq_z(reason->text, "ok"))
        yaml_fault(in, reason, "found `ok`, expected the reason of a refusal");
    for (const char *const *key = (const char *const[]){"response", "headers", NULL}; *key && !accepts(node); key++)
        if (yaml_get(node, *key))
            yaml_fault(in, yaml_get(node, *key), "a refused request never reaches the upstream: it has no `%s`", *key);
}

bool case_expects_response(const struct rule_case *rc)
{
    return yaml_get(rc->expect, "response") != NULL;
}

struct comparing {
    struct yaml_in *in;
    const struct rule_case *rc;
    const struct case_outcome *o;
    bool same;
};

static void differs(struct comparing *c, const struct yaml_node *at, const char *what, const char *expected,
                    const char *found)
{
    c->same = false;
    yaml_fault(c->in, at, "case %s: %s: expected %s, found %s", show(str_z(c->rc->name)).z, what, expected, found);
}

static void cases_compare(struct comparing *c, const struct yaml_node *at, const char *what, const char *found)
{
    if (at && !str_eq_z(at->text, found ? found : "none"))
        differs(c, at, what, yaml_found(at).z, found ? show(str_z(found)).z : "none");
}

/* A name that no rule has is no wrong expectation but a slip of the pen. */
static void compare_rule(struct comparing *c, const struct yaml_node *at, const char *what, const char *found,
                         const void *ids, size_t stride, size_t n)
{
    bool known = !at || str_eq_z(at->text, "none");
    for (size_t i = 0; i < n && !known; i++)
        known = str_eq_z(at->text, *(char *const *)(const void *)((const char *)ids + i * stride));
    if (known) {
        cases_compare(c, at, what, found);
        return;
    }
    char text[400];
    const char *near = nearest_name(at->text, ids, stride, n);
    snprintf(text, sizeof text, "%s; no such rule has that id%s%s%s", found ? show(str_z(found)).z : "none",
             near ? ": did you mean `" : "", near ? near : "", near ? "`?" : "");
    differs(c, at, what, yaml_found(at).z, text);
}

static void compare_flag(struct comparing *c, const struct yaml_node *at, const char *what, bool found)
{
    bool expected = false;
    if (!at)
        return;
    yaml_switch(c->in, at, &expected, NULL);
    if (expected != found)
        differs(c, at, what, expected ? "true" : "false", found ? "true" : "false");
}

static void compare_verdict(struct comparing *c)
{
    const struct yaml_node *e = c->rc->expect;
    const struct yaml_node *at = e->kind == YAML_SCALAR ? e : yaml_get(e, "verdict");
    const struct decision *d = &c->o->j->decision;
    const bool accepted = c->o->request_reason == REASON_OK;
    char found[420];
    if (accepts(e) != accepted) {
        const char *why = "";
        for (size_t i = 0; i < CHECK_COUNT && !*why; i++)
            if (d->checks[i] == CHECK_FAIL || (d->checks[i] == CHECK_NONE && i == CHECK_SCHEMA))
                why = d->found[i].text;
        snprintf(found, sizeof found, "%s%s%s%s%s", accepted ? "accept, by rule " : "reject: ",
                 accepted ? d->rule : reason_name(c->o->request_reason), accepted || !*why ? "" : " (",
                 accepted ? "" : why, accepted || !*why ? "" : ")");
        differs(c, at, "verdict", accepted ? "reject" : "accept", found);
        return;
    }
    const struct rules *r = c->o->j->rules;
    compare_rule(c, yaml_get(e, "rule"), "rule", d->rule, &r->requests->id, sizeof *r->requests, r->request_count);
    if (!accepted)
        cases_compare(c, yaml_get(e, "reason"), "reason", reason_name(c->o->request_reason));
    compare_flag(c, yaml_get(e, "proven"), "proven", d->proven);
}

static bool expected_shadow(const struct yaml_node *list, enum reason r)
{
    for (const struct yaml_node *m = list ? list->first : NULL; m; m = m->next)
        if (str_eq_z(m->text, reason_name(r)))
            return true;
    return false;
}

static void compare_shadow(struct comparing *c)
{
    const struct yaml_node *e = c->rc->expect, *list = yaml_get(e, "shadow");
    for (size_t i = 0; i < SHADOW_COUNT; i++)
        if (c->o->shadow[i] != REASON_OK && !expected_shadow(list, c->o->shadow[i]))
            differs(c, list ? list : e, "shadow", list ? "only what is listed" : "nothing (no `shadow` is stated)",
                    show(str_z(reason_name(c->o->shadow[i]))).z);
    for (const struct yaml_node *m = list ? list->first : NULL; m; m = m->next) {
        bool found = false;
        for (size_t i = 0; i < SHADOW_COUNT; i++)
            found |= c->o->shadow[i] != REASON_OK && str_eq_z(m->text, reason_name(c->o->shadow[i]));
        if (!found)
            differs(c, m, "shadow", yaml_found(m).z, "no such failure");
    }
}

static void compare_checks(struct comparing *c)
{
    const struct yaml_node *checks = yaml_get(c->rc->expect, "checks");
    for (size_t i = 0; i < CHECK_COUNT; i++) {
        const char *found = check_result_name(c->o->j->decision.checks[i]);
        cases_compare(c, yaml_get(checks, check_name((enum check)i)), check_name((enum check)i), *found ? found : NULL);
    }
}

static void compare_headers(struct comparing *c)
{
    const struct yaml_node *headers = yaml_get(c->rc->expect, "headers");
    for (const struct yaml_node *m = headers ? headers->first : NULL; m && c->o->outgoing; m = m->next) {
        struct str found = STR_MISSING;
        for (size_t i = 0; i < c->o->outgoing->header_count; i++)
            if (str_ieq_z(m->key, c->o->outgoing->headers[i].name))
                found = buf_view(&c->o->outgoing->headers[i].value);
        if (found.p ? !str_eq(found, m->text) : !str_eq_z(m->text, "none"))
            differs(c, m, m->key.p, yaml_found(m).z, found.p ? show(found).z : "none");
    }
}

static const char *type_of(const struct judgement *j, struct str id)
{
    const struct key *k = id.n ? keyring_find(&j->ring, id) : NULL;
    return k ? key_type_name(k->type) : NULL;
}

static void compare_response(struct comparing *c)
{
    const struct yaml_node *r = yaml_get(c->rc->expect, "response");
    const struct judgement *j = c->o->j;
    const struct decision *d = &j->decision;
    char status[16];
    if (!r)
        return;
    snprintf(status, sizeof status, "%d", c->o->status);
    compare_rule(c, yaml_get(r, "rule"), "response.rule", d->response.rule, &j->rules->responses->id,
                 sizeof *j->rules->responses, j->rules->response_count);
    cases_compare(c, yaml_get(r, "reason"), "response.reason", reason_name(d->reason));
    cases_compare(c, yaml_get(r, "status"), "response.status", status);
    cases_compare(c, yaml_get(r, "message"), "response.message", d->response.message);
    cases_compare(c, yaml_get(r, "signed_by"), "response.signed_by", type_of(j, d->response.signed_by));
    compare_flag(c, yaml_get(r, "encrypted"), "response.encrypted", d->response.encrypted_by.n > 0);
}

bool case_compare(struct yaml_in *in, const struct rule_case *rc, const struct case_outcome *o)
{
    struct comparing c = {in, rc, o, true};
    compare_verdict(&c);
    if (!c.same)
        return false; /* the rest follows from it */
    compare_shadow(&c);
    compare_checks(&c);
    compare_headers(&c);
    if (o->request_reason == REASON_OK)
        compare_response(&c);
    return c.same;
}
