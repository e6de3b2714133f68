#include "study/which.h"

#include "base/text.h"
#include "base/timestamp.h"
#include "base/uri.h"

enum { STATUS_GOOD = 200 };

static enum kms_message which_owed(enum resource_kind kind)
{
    static const enum kms_message OWED[] = {
        [RESOURCE_INIT] = KMS_MESSAGE_INIT,           [RESOURCE_KEYPROV] = KMS_MESSAGE_KEYPROV,
        [RESOURCE_CERTCACHE] = KMS_MESSAGE_CERTCACHE, [RESOURCE_CERT] = KMS_MESSAGE_CERTCACHE,
        [RESOURCE_LOOKUP] = KMS_MESSAGE_LOOKUP,       [RESOURCE_REDIRECT] = KMS_MESSAGE_NONE};
    return OWED[kind];
}

/* All of them where the path is not given. */
static void which_replies(struct which *w, bool has_path, enum kms_message owed)
{
    for (int m = KMS_MESSAGE_NONE; m < KMS_MESSAGE_ERROR; m++) {
        if (has_path && m != (int)owed)
            continue;
        w->replies[w->reply_count].message = (enum kms_message)m;
        w->replies[w->reply_count++].rule =
            rules_response(w->rules, w->rule->id, w->facts.form, 1u << m, STATUS_GOOD);
    }
}

bool which_ask(const struct rules *rules, const struct which_asks *asks, struct which *out, struct detail *why)
{
    struct resource resource = {.kind = RESOURCE_INIT};
    *out = (struct which){.rules = rules, .path = BUF_INIT(1 << 20), .path_user = BUF_INIT(1 << 20)};
    if (asks->path.p) {
        if (resource_parse(asks->path, &resource, why) != REASON_OK) {
            if (!why->text[0])
                detail_set(why, "no resource of the KMS interface has this path");
            return false;
        }
        if (!uri_percent_decode(resource.path, &out->path) ||
            (resource.user_raw.p && !uri_percent_decode(resource.user_raw, &out->path_user))) {
            detail_set(why, "malformed escape in the path, or out of memory");
            return false;
        }
    }
    out->facts = (struct request_facts){.path = asks->path.p ? buf_view(&out->path) : STR_MISSING,
                                        .path_user = resource.user_raw.p ? buf_view(&out->path_user) : STR_MISSING,
                                        .user = asks->user, .client_id = asks->client_id, .source = &asks->source,
                                        .form = asks->form, .now_us = asks->now_us};
    out->rule = rules_request(rules, &out->facts);
    out->reason = out->rule ? request_rule_form(out->rule, asks->form) : REASON_RULE_NONE;
    out->shadow_form = out->reason == REASON_OK && !(out->rule->accept & (unsigned)asks->form);
    if (out->rule)
        which_replies(out, asks->path.p != NULL, which_owed(resource.kind));
    return true;
}

void which_free(struct which *w)
{
    buf_free(&w->path);
    buf_free(&w->path_user);
}

static void which_value(struct buf *out, struct str s)
{
    buf_char(out, '`');
    text_escape(out, s);
    buf_char(out, '`');
}

static void which_globs(struct buf *out, const struct strings *globs)
{
    for (size_t i = 0; i < globs->n; i++) {
        buf_z(out, i ? ", " : "");
        which_value(out, str_z(globs->v[i]));
    }
}

/* What was given of what the miss is about; and the globs that the rule has for it. */
static struct str which_given(const struct which *w, enum rule_miss miss)
{
    switch (miss) {
    case MISS_PATH:
        return w->facts.path;
    case MISS_PATH_USER:
        return w->facts.path_user;
    case MISS_USER:
        return w->facts.user;
    case MISS_CLIENT_ID:
        return w->facts.client_id;
    default:
        return w->facts.device_id;
    }
}

static const struct strings *which_wanted(const struct request_match *m, enum rule_miss miss)
{
    switch (miss) {
    case MISS_PATH:
        return &m->path;
    case MISS_PATH_USER:
        return &m->path_user;
    case MISS_USER:
        return &m->user;
    case MISS_CLIENT_ID:
        return &m->client_id;
    default:
        return &m->device_id;
    }
}

static const char *which_key(enum rule_miss miss)
{
    static const char *const KEYS[] = {[MISS_NONE] = "", [MISS_SINCE] = "since", [MISS_UNTIL] = "until",
                                       [MISS_FORM] = "form", [MISS_SOURCE] = "source", [MISS_PATH] = "path",
                                       [MISS_PATH_USER] = "path_user", [MISS_USER] = "user",
                                       [MISS_CLIENT_ID] = "client_id", [MISS_DEVICE_ID] = "device_id",
                                       [MISS_NOT] = "not"};
    return KEYS[miss];
}

static void which_forms(struct buf *out, unsigned forms)
{
    bool any = false;
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f *= 2)
        if (forms & f) {
            buf_printf(out, "%s%s", any ? ", " : "", form_name((enum form)f));
            any = true;
        }
}

void which_request_miss(const struct which *w, const struct request_rule *q, struct buf *out)
{
    const enum rule_miss miss = rules_miss(q, &w->facts);
    char day[TIME_TEXT], address[IP_TEXT];
    buf_printf(out, "%s: ", which_key(miss));
    if (miss == MISS_SINCE || miss == MISS_UNTIL) {
        time_format(miss == MISS_SINCE ? q->since_us : q->until_us - US_PER_S, false, day);
        buf_printf(out, miss == MISS_SINCE ? "matches from %.10s" : "matched until %.10s", day);
    } else if (miss == MISS_FORM) {
        buf_printf(out, "%s, not ", form_name(w->facts.form));
        which_forms(out, q->match.forms);
    } else if (miss == MISS_SOURCE) {
        ip_format(w->facts.source, address);
        buf_z(out, w->facts.source->known ? address : "not given");
        buf_z(out, w->facts.source->known ? ", which is in none of its networks" : "");
    } else if (miss == MISS_NOT) {
        buf_printf(out, "its exception by %s holds", which_key(rules_excepted(q, &w->facts)));
    } else {
        const struct str given = which_given(w, miss);
        if (given.p)
            which_value(out, given);
        else
            buf_z(out, miss == MISS_PATH_USER && w->facts.path.p ? "the path names none" : "not given");
        buf_z(out, ", not ");
        which_globs(out, which_wanted(&q->match, miss));
    }
}

void which_response_miss(const struct which *w, const struct response_rule *p, size_t i, struct buf *out)
{
    bool named = p->match.rule.n == 0;
    for (size_t k = 0; k < p->match.rule.n; k++)
        named |= str_eq_z(str_z(w->rule->id), p->match.rule.v[k]);
    if (!named) {
        buf_printf(out, "rule: `%s`, not ", w->rule->id);
        which_globs(out, &p->match.rule);
    } else if (p->match.forms && !(p->match.forms & (unsigned)w->facts.form)) {
        buf_printf(out, "form: %s, not ", form_name(w->facts.form));
        which_forms(out, p->match.forms);
    } else if (!rules_response_fits(p, w->rule->id, w->facts.form, STATUS_GOOD)) {
        buf_printf(out, "status: %d is not among its statuses", STATUS_GOOD);
    } else {
        buf_printf(out, "message: %s is not among its messages", kms_message_name(w->replies[i].message));
    }
}
