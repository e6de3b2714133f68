#include <string.h>

#include "gate/rules_internal.h"
#include "message/kms_response.h"

/*
 * Remarks on where requests go that a rule does not keep: to the rules below it, and to response rules that do not fit.
 */

static bool looser_checks(const struct checks *a, const struct checks *b)
{
    for (int c = 0; c < CHECK_COUNT; c++)
        if (b->mode[c] > a->mode[c])
            return true;
    bool also = false;
    for (size_t i = 0; i < b->also.n; i++) {
        bool covered = false;
        for (size_t k = 0; k < a->also.n && !covered; k++)
            covered = str_glob(str_z(a->also.v[k]), str_z(b->also.v[i]), false);
        also |= !covered;
    }
    return also || b->past_us > a->past_us || b->future_us > a->future_us || b->min_hmac_bits < a->min_hmac_bits ||
           (b->canonicalization & ~a->canonicalization) || (a->trk_id_required && !b->trk_id_required) ||
           (b->kms_uri_host && !a->kms_uri_host) || (b->url_compare != URL_EXACT && b->url_compare != a->url_compare);
}

/* Whether b lets something through that a, with the same request, would not. */
static bool looser(const struct request_rule *a, const struct request_rule *b)
{
    const unsigned a_takes = request_rule_takes(a), b_takes = request_rule_takes(b);
    return b_takes && ((b_takes & ~a_takes) || looser_checks(&a->checks, &b->checks));
}

static bool is_exception(const struct request_rule *q)
{
    const bool other_c14n = q->checks.canonicalization & ~(unsigned)XMLSIG_C14N;
    return !q->deny && (other_c14n || request_rule_loosened(q, NULL, NULL) > 0);
}

/* A rule about one user's keys whose path ends at the user: the same with a time behind it is for the rules below. */
static void lint_time_form(struct reading *g, size_t i)
{
    const struct request_rule *q = g->r->requests + i;
    const unsigned paths = rules_request_paths(q), time_form = 1u << PATH_KEYPROV_TIME;
    if (!(paths & 1u << PATH_KEYPROV_USER) || (paths & time_form))
        return;
    for (size_t k = i + 1; k < g->r->request_count; k++) {
        const struct request_rule *below = g->r->requests + k;
        if (!(rules_request_paths(below) & time_form) || !looser(q, below))
            continue;
        rules_lint_add(rules_remark(g, q->id, rules_node(g->requests, i), "match", "path"), LINT_TIME_FORM,
                       "does not match the same path with a time behind it (/keyprov/{UserUri}/{time}), which `%s` "
                       "below takes and is weaker: name the user by `path_user`",
                       below->id);
        return;
    }
}

/* Two exceptions for the same requests: the upper one decides, and what the lower one grants is not granted there. */
static void lint_overlap(struct reading *g, size_t i, unsigned paths)
{
    const struct request_rule *q = g->r->requests + i;
    for (size_t k = 0; k < i && is_exception(q); k++) {
        const struct request_rule *above = g->r->requests + k;
        if (!is_exception(above) || !rules_requests_meet(above, q) || !looser(above, q) ||
            rules_request_covers(above, q, paths))
            continue;
        rules_lint_add(rules_remark(g, q->id, rules_node(g->requests, i), "id", NULL), LINT_OVERLAP,
                       "and `%s` above it match some of the same requests: those get what `%s` grants, "
                       "not what this rule does",
                       above->id, above->id);
        return;
    }
}

/* What the upstream's good answer holds, by resource. */
static const enum kms_message OWED[PATH_COUNT] = {
    [PATH_INIT] = KMS_MESSAGE_INIT,
    [PATH_KEYPROV] = KMS_MESSAGE_KEYPROV,
    [PATH_KEYPROV_USER] = KMS_MESSAGE_KEYPROV,
    [PATH_KEYPROV_TIME] = KMS_MESSAGE_KEYPROV,
    [PATH_CERTCACHE] = KMS_MESSAGE_CERTCACHE,
    [PATH_CERTCACHE_NUMBER] = KMS_MESSAGE_CERTCACHE,
    [PATH_CERT] = KMS_MESSAGE_CERTCACHE,
    [PATH_LOOKUP] = KMS_MESSAGE_LOOKUP,
    [PATH_REDIRECT] = KMS_MESSAGE_NONE,
};

static void lint_replies(struct reading *g, size_t i, unsigned paths)
{
    enum { GOOD = 200 };
    const struct request_rule *q = g->r->requests + i;
    const struct remark to = rules_remark(g, q->id, rules_node(g->requests, i), "id", NULL);
    const unsigned forms = q->match.forms ? request_rule_takes(q) & q->match.forms : request_rule_takes(q);
    bool any = false;
    for (size_t k = 0; k < g->r->response_count && !any; k++) {
        const struct strings *of = &g->r->responses[k].match.rule;
        any = of->n == 0;
        for (size_t n = 0; n < of->n && !any; n++)
            any = str_eq_z(str_z(q->id), of->v[n]);
    }
    if (!any)
        rules_lint_add(to, LINT_NO_RESPONSE, "has no response rule: its replies are upstream.invalid");
    for (size_t p = 0; p < PATH_COUNT && any; p++)
        for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY && (paths & 1u << p); f *= 2) {
            const struct response_rule *by =
                forms & f ? rules_response(g->r, q->id, (enum form)f, 1u << OWED[p], GOOD) : NULL;
            if (by || !(forms & f))
                continue;
            rules_lint_add(to, LINT_NO_RESPONSE,
                           "has no response rule for %s (%s requests, status 200): such replies are upstream.invalid",
                           RULES_PATHS[p], form_name((enum form)f));
            return;
        }
}

/* A client that sends no body cannot ask for wrapped keys, and most that send none cannot read them. */
static void lint_wrapped(struct reading *g, size_t i, unsigned paths)
{
    enum { GOOD = 200, OF_KEYS = 1u << PATH_KEYPROV | 1u << PATH_KEYPROV_USER | 1u << PATH_KEYPROV_TIME };
    const struct request_rule *q = g->r->requests + i;
    const unsigned forms = q->match.forms ? q->match.forms : FORM_EMPTY;
    if (!(request_rule_takes(q) & forms & FORM_EMPTY) || !(paths & OF_KEYS))
        return;
    const struct response_rule *p = rules_response(g->r, q->id, FORM_EMPTY, 1u << KMS_MESSAGE_KEYPROV, GOOD);
    if (p && p->encrypt.content != ENCRYPT_NONE && p->encrypt.when == WHEN_ALWAYS)
        rules_lint_add(rules_remark(g, q->id, rules_node(g->requests, i), "accept", NULL), LINT_WRAPPED_UNASKED,
                       "takes requests without a body, whose clients name no TrK-ID; response rule `%s` sends them "
                       "wrapped keys all the same (encrypt.when)", p->id);
}

void rules_lint_reach(struct reading *g, size_t i)
{
    const struct request_rule *q = g->r->requests + i;
    const unsigned paths = rules_request_paths(q);
    lint_time_form(g, i);
    if (!request_rule_takes(q))
        return;
    lint_overlap(g, i, paths);
    lint_replies(g, i, paths);
    lint_wrapped(g, i, paths);
}
