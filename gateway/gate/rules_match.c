#include "base/timestamp.h"
#include "gate/rules.h"

static bool any_glob(const struct strings *globs, struct str text, bool path)
{
    for (size_t i = 0; i < globs->n; i++)
        if (str_glob(str_z(globs->v[i]), text, path))
            return true;
    return globs->n == 0;
}

static bool source_matches(const struct request_rule *q, const struct ip *ip)
{
    if (q->match.source_count == 0)
        return true;
    for (size_t i = 0; ip && ip->known && i < q->match.source_count; i++)
        if (cidr_contains(q->match.source + i, ip))
            return true;
    return false;
}

enum rule_miss rules_miss(const struct request_rule *q, const struct request_facts *f)
{
    if (q->since_us != TIME_NONE && f->now_us < q->since_us)
        return MISS_SINCE;
    if (q->until_us != TIME_NONE && f->now_us >= q->until_us)
        return MISS_UNTIL;
    if (q->match.forms && !(q->match.forms & (unsigned)f->form))
        return MISS_FORM;
    if (!source_matches(q, f->source))
        return MISS_SOURCE;
    if (!any_glob(&q->match.path, f->path, true))
        return MISS_PATH;
    if (!any_glob(&q->match.user, f->user, false))
        return MISS_USER;
    if (!any_glob(&q->match.client_id, f->client_id, false))
        return MISS_CLIENT_ID;
    return any_glob(&q->match.device_id, f->device_id, false) ? MISS_NONE : MISS_DEVICE_ID;
}

const struct request_rule *rules_request(const struct rules *r, const struct request_facts *f)
{
    for (size_t i = 0; i < r->request_count; i++)
        if (rules_miss(r->requests + i, f) == MISS_NONE)
            return r->requests + i;
    return NULL;
}

static bool names_rule(const struct strings *ids, const char *id)
{
    for (size_t i = 0; i < ids->n; i++)
        if (str_eq_z(str_z(id), ids->v[i]))
            return true;
    return ids->n == 0;
}

static bool has_status(const struct response_rule *p, int status)
{
    for (size_t i = 0; i < p->match.status_count; i++)
        if (p->match.status[i] == status)
            return true;
    return p->match.status_count == 0;
}

bool rules_response_fits(const struct response_rule *p, const char *request_rule, enum form form, int status)
{
    return names_rule(&p->match.rule, request_rule) && (!p->match.forms || (p->match.forms & (unsigned)form)) &&
           has_status(p, status);
}

const struct response_rule *rules_response(const struct rules *r, const char *request_rule, enum form form,
                                           unsigned message_bit, int status)
{
    for (size_t i = 0; i < r->response_count; i++) {
        const struct response_rule *p = r->responses + i;
        if (rules_response_fits(p, request_rule, form, status) &&
            (!p->match.messages || (p->match.messages & message_bit)))
            return p;
    }
    return NULL;
}
