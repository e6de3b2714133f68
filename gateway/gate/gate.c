#include "gate/gate.h"

#include "gate/checks.h"

/*
 * START READING HERE. A request is judged in the order of the contract, and the first thing that does not hold decides:
 *
 *     gate_head.c   method, path, media type
 *     gate.c        XML, root element, rule, accept
 *     checks.c      the checks, in the order of CHECK_LIST; replay last
 *
 * Until check_signature() has put the fields of what was signed into j->request, they are claims: good for choosing
 * rule and keys, for nothing else.
 */

/* The document and what it is. No body is a form of its own. */
static enum reason read_body(struct judgement *j, struct str body)
{
    if (body.n == 0) {
        j->form = FORM_EMPTY;
        return REASON_OK;
    }
    if (j->only_empty)
        return REASON_HTTP_MEDIA_TYPE;
    struct detail *why = &j->decision.found[CHECK_SCHEMA];
    const struct xml_limits *limits =
        j->resource.kind == RESOURCE_REDIRECT ? &XML_LIMITS_REDIRECT : &XML_LIMITS_REQUEST;
    const enum reason r = request_doc_read(body, limits, j->gate->by_tree, &j->doc, why);
    if (r != REASON_OK)
        return r;
    switch (request_doc_root(j->doc)) {
    case KMS_ROOT_REQUEST:
        j->form = FORM_UNSIGNED;
        break;
    case KMS_ROOT_SIGNED_REQUEST:
        j->form = FORM_SIGNED;
        break;
    default:
        detail_set(why, "the root is neither KmsRequest nor SignedKmsRequest");
        return REASON_XML_INVALID;
    }
    if (request_doc_claim(j->doc, &j->request))
        return REASON_OK;
    detail_set(why, "there is no KmsRequest in it");
    return REASON_XML_INVALID;
}

/* Of an unsigned request the user is the body's, else the path's; nothing proves either. */
static void note_claims(struct judgement *j)
{
    if (j->form != FORM_SIGNED && j->request.user_uri.n == 0 && j->resource.user_raw.p)
        j->request.user_uri = buf_view(&j->path_user);
    checks_note_request(j);
    if (j->form == FORM_SIGNED) {
        struct xmlsig_named named;
        request_doc_names(j->doc, &named);
        j->decision.claims.c14n = named.c14n;
        j->decision.claims.hmac_bits = named.hmac_bits;
    }
    j->decision.form = j->form;
    j->decision.judged = true;
}

struct request_facts gate_facts(const struct judgement *j, int64_t now_us)
{
    return (struct request_facts){
        .path = j->path_clear,
        .path_user = j->resource.user_raw.p ? buf_view(&j->path_user) : STR_MISSING,
        .user = j->request.user_uri,
        .client_id = j->request.client_id,
        .device_id = j->request.device_id,
        .source = &j->head.source,
        .form = j->form,
        .now_us = now_us,
    };
}

static enum reason choose_rule(struct judgement *j, int64_t now_us)
{
    const struct request_facts facts = gate_facts(j, now_us);
    j->rule = rules_request(j->rules, &facts);
    if (!j->rule)
        return REASON_RULE_NONE;
    j->decision.rule = j->rule->id;
    const enum reason r = request_rule_form(j->rule, j->form);
    if (r == REASON_OK && !(j->rule->accept & (unsigned)j->form))
        j->decision.shadow[SHADOW_FORM] = request_rule_refuses(j->rule);
    return r;
}

/*
 * What the upstream would read in another way than the rule did, or than the checks will: refused whatever the rule
 * says. (Where it enforces `schema`, that check looks for twins.)
 */
static enum reason unambiguous(struct judgement *j)
{
    struct detail *why = &j->decision.found[CHECK_SCHEMA];
    enum reason r = forward_values(j, why);
    if (r == REASON_OK && j->doc && j->rule->checks.mode[CHECK_SCHEMA] != MODE_ENFORCE)
        r = request_doc_twins(j->doc, why);
    if (r == REASON_OK && j->doc && j->rule->forward.body == FORWARD_SIGNED)
        r = request_doc_foreign_ids(j->doc, why);
    return r;
}

static enum reason gate_judge(struct judgement *j, struct str body, int64_t now_us)
{
    enum reason r = read_body(j, body);
    if (j->form)
        note_claims(j);
    if (r == REASON_OK)
        r = choose_rule(j, now_us);
    if (r == REASON_OK)
        r = unambiguous(j);
    return r == REASON_OK ? checks_run(j, now_us) : r;
}

/* A reply to what is not proven may need the user's keys as well. */
static enum gate_action conclude(struct judgement *j, enum reason r)
{
    struct decision *d = &j->decision;
    d->reason = r == REASON_OK ? checks_ring(j) : r;
    d->accepted = d->reason == REASON_OK;
    if (!d->accepted)
        gate_unsent(j);
    return d->accepted ? GATE_FORWARD : GATE_REFUSE;
}

/* A key that another gateway gave its user a moment ago is not known here yet. */
static bool worth_a_look(const struct judgement *j, enum reason r)
{
    const enum check_result *checks = j->decision.checks;
    return r != REASON_OK && j->gate->looks && j->stale &&
           (checks[CHECK_SIGNATURE] == CHECK_FAIL || checks[CHECK_KEY_POLICY] == CHECK_FAIL);
}

enum gate_action gate_request(struct judgement *j, struct str body, int64_t now_us)
{
    struct decision *d = &j->decision;
    d->time_us = now_us;
    if (!j->head_holds || d->judged || j->doc) { /* a judgement is for one request, whose head was let through */
        d->accepted = false;
        d->reason = REASON_INTERNAL;
        return GATE_REFUSE;
    }
    const enum reason r = gate_judge(j, body, now_us);
    d->reason = r;
    j->looking = worth_a_look(j, r);
    return j->looking || j->spending.waits ? GATE_WAIT : conclude(j, r);
}

enum gate_action gate_looked(struct judgement *j)
{
    struct decision *d = &j->decision;
    j->looking = false;
    if (keystore_edition(j->gate->keys) == j->edition)
        return conclude(j, d->reason);
    checks_again(j);
    const enum reason r = checks_run(j, d->time_us);
    return j->spending.waits ? GATE_WAIT : conclude(j, r);
}

enum gate_action gate_spent(struct judgement *j, enum reason reason)
{
    return conclude(j, checks_spent(j, reason));
}

void gate_unsent(struct judgement *j)
{
    if (j->spent)
        replay_give_back(j->gate->replay, j->gate->replay_line, &j->claim);
    j->spent = false;
}
