#include "gate/rules_internal.h"

#define DAY_US (INT64_C(86400) * US_PER_S)

/* Which key of the rule hands out new keys; NULL: none does. */
static const char *giver(const struct response_rule *p)
{
    return p->renew.keep_old_us ? "renew" : p->new_keys.what != NEW_KEYS_REFUSE ? "new_keys" : NULL;
}

/* New keys go to those alone who have proved who they are, as by these. */
static enum check unenforced(const struct request_rule *q)
{
    static const enum check NEEDED[] = {CHECK_SIGNATURE, CHECK_KEY_POLICY, CHECK_REPLAY};
    for (size_t i = 0; i < sizeof NEEDED / sizeof *NEEDED; i++)
        if (q->checks.mode[NEEDED[i]] != MODE_ENFORCE)
            return NEEDED[i];
    return CHECK_COUNT;
}

static void lint_unenforced(struct reading *g, const struct response_rule *p, const struct yaml_node *node)
{
    for (size_t i = 0; i < g->r->request_count; i++) {
        const struct request_rule *q = g->r->requests + i;
        const enum check c = unenforced(q);
        if (c == CHECK_COUNT || !(request_rule_takes(q) & FORM_SIGNED) ||
            !rules_response_fits(p, q->id, FORM_SIGNED, 0))
            continue;
        rules_lint_add(rules_remark(g, p->id, node, giver(p), NULL), LINT_RENEW_UNENFORCED,
                       "%s those whom `%s` lets in: that rule does not enforce the check `%s`",
                       p->new_keys.what == NEW_KEYS_LEARN ? "refuses the new keys that the upstream issues for"
                                                          : "renews no key of", q->id, check_name(c));
        return;
    }
}

/* Whoever is offline for so long comes back with a key that has ended. */
static void lint_short(struct reading *g, const struct response_rule *p, const struct yaml_node *node)
{
    static const char *const NAMES[] = {"trk", "ink", "keep_old"};
    const int64_t us[] = {p->renew.trk_us, p->renew.ink_us, p->renew.keep_old_us};
    for (size_t i = 0; i < sizeof us / sizeof *us; i++)
        if (us[i] && us[i] < DAY_US)
            rules_lint_add(rules_remark(g, p->id, node, "renew", NAMES[i]), LINT_RENEW_SHORT,
                           "has `renew.%s` of %.20s, less than a day: for tests, not for clients that are switched off "
                           "over night", NAMES[i], duration_show(us[i]).z);
    if (p->new_keys.what == NEW_KEYS_LEARN && p->new_keys.keep_old_us < DAY_US)
        rules_lint_add(rules_remark(g, p->id, node, "new_keys", "learn"), LINT_RENEW_SHORT,
                       "has `new_keys.learn.keep_old` of %.20s, less than a day: for tests, not for clients that are "
                       "switched off over night", duration_show(p->new_keys.keep_old_us).z);
}

void rules_lint_renew(struct reading *g)
{
    for (size_t i = 0; i < g->r->response_count; i++) {
        const struct response_rule *p = g->r->responses + i;
        const struct yaml_node *node = rules_node(g->responses, i);
        if (!giver(p))
            continue;
        lint_unenforced(g, p, node);
        lint_short(g, p, node);
    }
}
