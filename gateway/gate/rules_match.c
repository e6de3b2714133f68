#include "base/timestamp.h"
#include "gate/rules.h"

unsigned checks_readings(const struct checks *c, int64_t wall_us, int64_t out[2])
{
    if (c->zone_refuse)
        return 0;
    if (c->zone)
        return zone_instants(c->zone, wall_us, out);
    out[0] = wall_us - (int64_t)c->zone_minutes * 60 * US_PER_S;
    return 1;
}

unsigned request_rule_takes(const struct request_rule *q)
{
    return q->deny ? 0 : q->accept | q->shadow_accept;
}

enum reason request_rule_refuses(const struct request_rule *q)
{
    if (q->deny)
        return REASON_RULE_DENIED;
    return q->accept & FORM_SIGNED ? REASON_SIGNATURE_MISSING : REASON_RULE_FORM;
}

enum reason request_rule_form(const struct request_rule *q, enum form form)
{
    return request_rule_takes(q) & (unsigned)form ? REASON_OK : request_rule_refuses(q);
}

static bool some_glob(const struct strings *globs, struct str text, bool path)
{
    for (size_t i = 0; i < globs->n; i++)
        if (str_glob(str_z(globs->v[i]), text, path))
            return true;
    return false;
}

static bool some_network(const struct request_match *m, const struct ip *ip)
{
    for (size_t i = 0; ip && ip->known && i < m->source_count; i++)
        if (cidr_contains(m->source + i, ip))
            return true;
    return false;
}

#define GLOBS(member, path)                                                                                 \
    static bool names_##member(const struct request_match *m)                                               \
    {                                                                                                       \
        return m->member.n > 0;                                                                             \
    }                                                                                                       \
    static bool holds_##member(const struct request_match *m, const struct request_facts *f)                \
    {                                                                                                       \
        return some_glob(&m->member, f->member, path);                                                      \
    }
GLOBS(path, true)
GLOBS(path_user, false)
GLOBS(user, false)
GLOBS(client_id, false)
GLOBS(device_id, false)
#undef GLOBS

static bool names_form(const struct request_match *m)
{
    return m->forms != 0;
}

static bool holds_form(const struct request_match *m, const struct request_facts *f)
{
    return m->forms & (unsigned)f->form;
}

static bool names_source(const struct request_match *m)
{
    return m->source_count > 0;
}

static bool holds_source(const struct request_match *m, const struct request_facts *f)
{
    return some_network(m, f->source);
}

/* In the order in which they are looked at: what is named, and whether the facts are among it. */
static const struct {
    enum rule_miss miss;
    bool (*named)(const struct request_match *m);
    bool (*holds)(const struct request_match *m, const struct request_facts *f);
} LOOKED_AT[] = {{MISS_FORM, names_form, holds_form},
                                             {MISS_SOURCE, names_source, holds_source},
                                             {MISS_PATH, names_path, holds_path},
                                             {MISS_PATH_USER, names_path_user, holds_path_user},
                                             {MISS_USER, names_user, holds_user},
                                             {MISS_CLIENT_ID, names_client_id, holds_client_id},
                                             {MISS_DEVICE_ID, names_device_id, holds_device_id}};
enum { LOOKS = sizeof LOOKED_AT / sizeof *LOOKED_AT };

enum rule_miss rules_excepted(const struct request_rule *q, const struct request_facts *f)
{
    for (size_t i = 0; i < LOOKS; i++)
        if (LOOKED_AT[i].named(&q->except) && LOOKED_AT[i].holds(&q->except, f))
            return LOOKED_AT[i].miss;
    return MISS_NONE;
}

enum rule_miss rules_miss(const struct request_rule *q, const struct request_facts *f)
{
    if (q->since_us != TIME_NONE && f->now_us < q->since_us)
        return MISS_SINCE;
    if (q->until_us != TIME_NONE && f->now_us >= q->until_us)
        return MISS_UNTIL;
    for (size_t i = 0; i < LOOKS; i++)
        if (LOOKED_AT[i].named(&q->match) && !LOOKED_AT[i].holds(&q->match, f))
            return LOOKED_AT[i].miss;
    return rules_excepted(q, f) == MISS_NONE ? MISS_NONE : MISS_NOT;
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
    return p->match.status_count == 0 || status == 0;
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
