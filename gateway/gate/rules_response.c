#include <stdlib.h>

#include "base/timestamp.h"
#include "gate/rules_internal.h"
#include "message/kms_response.h"

/* A response rule as it stands in the file. */
struct response_text {
    struct response_rule rule;
    char *dialect; /* its name */
};
#define IN(member) .offset = offsetof(struct response_text, rule.member)
#define IN_MATCH(member) .offset = offsetof(struct response_rule, match.member) - offsetof(struct response_rule, match)
#define IN_RULE(member) .offset = offsetof(struct response_rule, member)
#define IN_ENCRYPT(member)                                                                                             \
    .offset = offsetof(struct response_rule, encrypt.member) - offsetof(struct response_rule, encrypt)
#define MESSAGE(m) (1 << KMS_MESSAGE_##m)

static const struct yaml_choice FORMS[] = {
    {"signed", FORM_SIGNED}, {"unsigned", FORM_UNSIGNED}, {"empty", FORM_EMPTY}, {NULL, 0}};
static const struct yaml_choice MESSAGES[] = {
    {"KmsInit", MESSAGE(INIT)},     {"KmsKeyProv", MESSAGE(KEYPROV)}, {"KmsCertCache", MESSAGE(CERTCACHE)},
    {"KmsLookup", MESSAGE(LOOKUP)}, {"error", MESSAGE(ERROR)},        {"none", MESSAGE(NONE)},
    {NULL, 0}};
/* What the schema allows to be left out may be removed; every field may come from where the standard has it from. */
static const struct yaml_choice OF_REQUEST[] = {{"request", FIELD_REQUEST}, {"keep", FIELD_KEEP}, {NULL, 0}};
static const struct yaml_choice OF_RULES[] = {{"rules", FIELD_RULES}, {"keep", FIELD_KEEP}, {NULL, 0}};
static const struct yaml_choice OF_KMS_ID[] = {
    {"rules", FIELD_RULES}, {"keep", FIELD_KEEP}, {"remove", FIELD_REMOVE}, {NULL, 0}};
static const struct yaml_choice OF_TIME[] = {{"now", FIELD_NOW}, {"keep", FIELD_KEEP}, {NULL, 0}};
static const struct yaml_choice SIGNS[] = {
    {"auto", SIGN_AUTO}, {"always", SIGN_ALWAYS}, {"none", SIGN_NONE}, {NULL, 2}};
static const struct yaml_choice CONTENTS[] = {
    {"keys", ENCRYPT_KEYS}, {"message", ENCRYPT_MESSAGE}, {"none", ENCRYPT_NONE}, {NULL, 2}};
static const struct yaml_choice WRAPS[] = {{"auto", KEY_WRAP_AUTO}, {"kw-aes256", KEY_WRAP_KW},
                                           {"kw-aes256-pad", KEY_WRAP_KWP}, {"aes256-gcm", KEY_WRAP_GCM},
                                           {"kw-aes256-named", KEY_WRAP_NAMED}, {NULL, 4}};
static const struct yaml_choice WHENS[] = {
    {"always", WHEN_ALWAYS}, {"requested", WHEN_REQUESTED}, {"never", WHEN_NEVER}, {NULL, 1}};
static const struct yaml_choice EXTENSIONS[] = {{"drop", false}, {"keep", true}, {NULL, 1}};
static const struct yaml_choice SPEAKS[] = {{"dialect", true}, {NULL, 0}};
static const struct yaml_choice NEW_KEYS[] = {
    {"refuse", NEW_KEYS_REFUSE}, {"learn", NEW_KEYS_LEARN}, {"replace", NEW_KEYS_REPLACE}, {NULL, 1}};
static const struct yaml_range AGE = {US_PER_S, 3660 * INT64_C(86400) * US_PER_S};

/* `to` is the rule's match. */
static void read_status(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct response_rule *p = (struct response_rule *)((char *)to - offsetof(struct response_rule, match));
    static const struct yaml_range STATUS = {200, 599};
    (void)arg;
    const bool list = node->kind == YAML_LIST;
    if (list && (!node->n || node->n > 400)) {
        yaml_fault(in, node, "found %zu statuses, expected 1 to 400", node->n);
        return;
    }
    free(p->match.status);
    p->match.status_count = 0;
    p->match.status = calloc(list ? node->n : 1, sizeof *p->match.status);
    if (!p->match.status) {
        yaml_fault(in, node, "out of memory");
        return;
    }
    for (const struct yaml_node *m = list ? node->first : node; m; m = list ? m->next : NULL) {
        unsigned status = 0;
        yaml_count(in, m, &status, &STATUS);
        for (size_t i = 0; i < p->match.status_count; i++)
            if (p->match.status[i] == (int)status)
                yaml_fault(in, m, "duplicate value %u", status);
        if (status)
            p->match.status[p->match.status_count++] = (int)status;
    }
}

#define KEEP_OLD_US (7 * INT64_C(86400) * US_PER_S)

/* One name of a list, into a bool. */
static void read_chosen(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    int chosen = *(bool *)to;
    yaml_choose(in, node, &chosen, arg);
    *(bool *)to = chosen;
}

static const struct yaml_field RENEW[] = {
    {"trk", yaml_duration, .offset = offsetof(struct renew, trk_us), &AGE},
    {"ink", yaml_duration, .offset = offsetof(struct renew, ink_us), &AGE},
    {"keep_old", yaml_duration, .offset = offsetof(struct renew, keep_old_us), &AGE},
    {0}};
static void read_renew(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    struct renew *r = to;
    r->keep_old_us = KEEP_OLD_US;
    yaml_fields(in, node, RENEW, r);
    if (node->kind == YAML_MAPPING && !yaml_get(node, "trk") && !yaml_get(node, "ink"))
        yaml_fault(in, node, "found neither `trk` nor `ink`, expected how old a key may become");
}

static const struct yaml_field LEARN[] = {
    {"keep_old", yaml_duration, .offset = offsetof(struct new_keys, keep_old_us), &AGE}, {0}};
static const struct yaml_field LEARNT[] = {{"learn", yaml_sub, .offset = 0, .required = true, .sub = LEARN}, {0}};

/* `learn` may be a mapping, too. */
static void read_new_keys(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct new_keys *k = to;
    int chosen = NEW_KEYS_LEARN;
    k->keep_old_us = KEEP_OLD_US;
    if (node->kind == YAML_MAPPING)
        yaml_fields(in, node, LEARNT, k);
    else
        yaml_choose(in, node, &chosen, arg);
    k->what = chosen;
}

static const struct yaml_field MATCH[] = {
    {"rule", yaml_texts, IN_MATCH(rule)},
    {"form", yaml_flags, IN_MATCH(forms), FORMS},
    {"message", yaml_flags, IN_MATCH(messages), MESSAGES},
    {"status", read_status, .offset = 0},
    {0}};
static const struct yaml_field SET[] = {
    {"UserUri", yaml_choose, IN_RULE(user_uri), OF_REQUEST, "request"},
    {"KmsUri", yaml_choose, IN_RULE(kms_uri), OF_RULES, "rules"},
    {"KmsId", yaml_choose, IN_RULE(kms_id), OF_KMS_ID, "rules"},
    {"Time", yaml_choose, IN_RULE(time), OF_TIME, "now"},
    {"ClientReqUrl", yaml_choose, IN_RULE(client_req_url), OF_REQUEST, "request"},
    {0}};
static const struct yaml_field ENCRYPT[] = {
    {"content", yaml_choose, IN_ENCRYPT(content), CONTENTS, "keys"},
    {"key_wrap", yaml_choose, IN_ENCRYPT(key_wrap), WRAPS, "auto"},
    {"when", yaml_choose, IN_ENCRYPT(when), WHENS, "always"},
    {0}};
const struct yaml_field RESPONSE_FIELDS[] = {
    {"id", rules_read_id, IN(id), .required = true},
    {"match", yaml_sub, IN(match), .sub = MATCH},
    {"set", yaml_sub, .offset = offsetof(struct response_text, rule), .sub = SET},
    {"sign", yaml_choose, IN(sign), SIGNS, "auto"},
    {"encrypt", yaml_sub, IN(encrypt), .sub = ENCRYPT},
    {"extensions", read_chosen, IN(keep_extensions), EXTENSIONS, "drop"},
    {"dialect", yaml_text, .offset = offsetof(struct response_text, dialect)},
    {"speak", read_chosen, IN(speak), SPEAKS},
    {"new_keys", read_new_keys, IN(new_keys), NEW_KEYS, "refuse"},
    {"carried_key_name", yaml_switch, IN(carried_key_name), .arg = NULL, "on"},
    {"renew", read_renew, IN(renew)},
    {0}};

void rules_read_responses(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct reading *g = to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of rules") || g->r->responses)
        return;
    if (!node->n || node->n > RULES_MAX) {
        yaml_fault(in, node, "found %zu response rules, expected 1 to %d", node->n, RULES_MAX);
        return;
    }
    g->responses = node;
    g->r->responses = calloc(node->n, sizeof *g->r->responses);
    if (!g->r->responses) {
        yaml_fault(in, node, "out of memory");
        return;
    }
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        struct response_text text = {.rule = {.user_uri = FIELD_REQUEST,
                                              .kms_uri = FIELD_RULES,
                                              .kms_id = FIELD_RULES,
                                              .time = FIELD_NOW,
                                              .client_req_url = FIELD_REQUEST,
                                              .carried_key_name = true,
                                              .line = m->line}};
        yaml_fields(in, m, RESPONSE_FIELDS, &text);
        free(text.dialect); /* found when all dialects are read */
        g->r->responses[g->r->response_count++] = text.rule;
    }
}

static bool is_request_rule(const struct rules *r, const char *id)
{
    for (size_t i = 0; i < r->request_count; i++)
        if (str_eq_z(str_z(id), r->requests[i].id))
            return true;
    return false;
}

static void check_match(struct reading *g, const struct response_rule *p, const struct yaml_node *at)
{
    for (size_t i = 0; i < p->match.rule.n; i++) {
        if (is_request_rule(g->r, p->match.rule.v[i]))
            continue;
        const char *near = nearest_name(str_z(p->match.rule.v[i]), &g->r->requests->id, sizeof *g->r->requests,
                                        g->r->request_count);
        yaml_fault(&g->in, at, "there is no request rule %s%s%s%s", show(str_z(p->match.rule.v[i])).z,
                   near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
    }
}

static void find_dialect(struct reading *g, struct response_rule *p, const struct yaml_node *at)
{
    const struct dialect *all = g->r->dialects;
    for (size_t i = 0; i < g->r->dialect_count; i++)
        if (str_eq_z(at->text, all[i].name))
            p->dialect = all + i;
    if (p->dialect)
        return;
    const char *near = all ? nearest_name(at->text, &all->name, sizeof *all, g->r->dialect_count) : NULL;
    yaml_fault(&g->in, at, "there is no dialect %s%s%s%s", yaml_found(at).z, near ? "; did you mean `" : "",
               near ? near : "", near ? "`?" : "");
}

static void check_new_keys(struct reading *g, const struct response_rule *p, const struct yaml_node *node)
{
    const bool renews = p->renew.keep_old_us, brings = renews || p->new_keys.what != NEW_KEYS_REFUSE;
    if (brings && p->sign == SIGN_NONE)
        yaml_fault(&g->in, yaml_get(node, renews ? "renew" : "new_keys"),
                   "no client can trust new keys in replies that are not signed (`sign: none`)");
    if (renews && p->new_keys.what == NEW_KEYS_LEARN)
        yaml_fault(&g->in, yaml_get(node, "new_keys"),
                   "`new_keys: learn` and `renew` in one rule: either the upstream issues the new keys or the gateway "
                   "does; `new_keys: replace` hands out the gateway's instead of the upstream's");
}

void rules_check_responses(struct reading *g)
{
    for (size_t i = 0; i < g->r->response_count; i++) {
        struct response_rule *p = g->r->responses + i;
        const struct yaml_node *node = rules_node(g->responses, i);
        for (size_t k = 0; k < i && p->id; k++)
            if (str_eq_z(str_z(p->id), g->r->responses[k].id)) {
                yaml_fault(&g->in, yaml_get(node, "id"), "duplicate id `%s` (first on line %d)", p->id,
                           g->r->responses[k].line);
                break;
            }
        const struct yaml_node *rule = yaml_get(yaml_get(node, "match"), "rule"), *dialect = yaml_get(node, "dialect");
        if (rule && g->r->request_count)
            check_match(g, p, rule);
        if (dialect && dialect->kind == YAML_SCALAR)
            find_dialect(g, p, dialect);
        if (p->speak && !dialect)
            yaml_fault(&g->in, yaml_get(node, "speak"), "`speak: dialect` needs a `dialect` that is to be spoken");
        check_new_keys(g, p, node);
    }
}

void response_rule_free(struct response_rule *p)
{
    free(p->id);
    strings_free(&p->match.rule);
    free(p->match.status);
}
