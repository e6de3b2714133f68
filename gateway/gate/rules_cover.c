#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "gate/rules_internal.h"
#include "message/kms_response.h"

/* What can be said of rules without a request: which leave nothing to those below, which match nothing at all. */

/* Whether every text that b takes is taken by a: in a text with `*` for whatever stands there only a run takes the `*`,
 * and a run takes what it stands for, too. */
static bool globs_cover(const struct strings *a, const struct strings *b)
{
    if (!a->n)
        return true;
    for (size_t i = 0; i < b->n; i++) {
        bool covered = false;
        for (size_t k = 0; k < a->n && !covered; k++)
            covered = str_glob(str_z(a->v[k]), str_z(b->v[i]), false);
        if (!covered)
            return false;
    }
    return b->n > 0;
}

/* It is in one of them whole, or each half is in some. */
bool rules_networks_cover(const struct cidr *nets, size_t n, const struct cidr *of)
{
    bool within = false;
    for (size_t k = 0; k < n; k++) {
        if (nets[k].bits <= of->bits && cidr_contains(nets + k, &of->base))
            return true;
        within |= nets[k].bits > of->bits && cidr_contains(of, &nets[k].base);
    }
    if (!within) /* so there are no more steps than networks have bits */
        return false;
    struct cidr low = *of, high = *of;
    low.bits = ++high.bits;
    high.base.b[of->bits / 8] |= (uint8_t)(0x80u >> of->bits % 8);
    return rules_networks_cover(nets, n, &low) && rules_networks_cover(nets, n, &high);
}

bool rules_request_from_anywhere(const struct request_rule *q)
{
    struct cidr v4, v6;
    if (!q->match.source_count)
        return true;
    return (cidr_parse(STR("0.0.0.0/0"), &v4) && rules_networks_cover(q->match.source, q->match.source_count, &v4)) ||
           (cidr_parse(STR("::/0"), &v6) && rules_networks_cover(q->match.source, q->match.source_count, &v6));
}

static bool sources_cover(const struct request_rule *a, const struct request_rule *b)
{
    if (!a->match.source_count)
        return true;
    for (size_t i = 0; i < b->match.source_count; i++)
        if (!rules_networks_cover(a->match.source, a->match.source_count, b->match.source + i))
            return false;
    return b->match.source_count > 0;
}

#define V1 "/keymanagement/identity/v1"
/* The paths that exist: any other is refused before there is a rule. */
static const char *const PATHS[PATH_COUNT] = {
    [PATH_INIT] = V1 "/init",
    [PATH_KEYPROV] = V1 "/keyprov",
    [PATH_KEYPROV_USER] = V1 "/keyprov/*",
    [PATH_KEYPROV_TIME] = V1 "/keyprov/*/*",
    [PATH_CERTCACHE] = V1 "/certcache",
    [PATH_CERTCACHE_NUMBER] = V1 "/certcache/*",
    [PATH_CERT] = V1 "/cert/*",
    [PATH_LOOKUP] = V1 "/lookup/*",
    [PATH_REDIRECT] = V1 "/redirect",
};
const char *const RULES_PATHS[PATH_COUNT] = {
    "/init",      "/keyprov",              "/keyprov/{UserUri}", "/keyprov/{UserUri}/{time}",
    "/certcache", "/certcache/{CacheNum}", "/cert/{KmsUri}",     "/lookup/{UserUri}",
    "/redirect"};
enum { PATHS_OF_USERS = 1u << PATH_KEYPROV_USER | 1u << PATH_KEYPROV_TIME | 1u << PATH_LOOKUP };

struct token {
    enum { END, BYTE, STAR, STARS } kind;
    size_t n;
};
static struct token token_at(const char *glob)
{
    if (*glob == '*')
        return glob[1] == '*' ? (struct token){STARS, 2} : (struct token){STAR, 1};
    return (struct token){*glob ? BYTE : END, *glob != '\0'};
}

/* True when `s`, a run, can take the first of the other glob's tokens and stay. */
static bool run_takes(struct token s, struct token other, char byte)
{
    if (s.kind != STAR && s.kind != STARS)
        return false;
    return other.kind == STAR || other.kind == STARS || (other.kind == BYTE && (byte != '/' || s.kind == STARS));
}

/* Whether some text matches both. `seen` has a place for each pair of what is left of the two: each looked at once. */
static bool meet(const char *a, const char *b, bool *seen, size_t width)
{
    bool *place = seen + strlen(a) * width + strlen(b);
    const struct token x = token_at(a), y = token_at(b);
    if (*place)
        return false;
    *place = true;
    if (x.kind == END && y.kind == END)
        return true;
    if (x.kind == BYTE && y.kind == BYTE)
        return *a == *b && meet(a + 1, b + 1, seen, width);
    return (x.kind >= STAR && meet(a + x.n, b, seen, width)) || (y.kind >= STAR && meet(a, b + y.n, seen, width)) ||
           (run_takes(x, y, *b) && meet(a, b + y.n, seen, width)) ||
           (run_takes(y, x, *a) && meet(a + x.n, b, seen, width));
}

static bool takes_some_of(const char *glob, const char *other)
{
    enum { GLOB_MAX = 2048 }; /* longer ones are taken for good: paths and users are not that long in practice */
    const size_t n = strlen(glob), width = strlen(other) + 1;
    bool *seen = n > GLOB_MAX || width > GLOB_MAX ? NULL : calloc((n + 1) * width, sizeof *seen);
    const bool met = !seen || meet(glob, other, seen, width);
    free(seen);
    return met;
}

/* Whether one of these globs and one of those have a text in common. What is not named is any text. */
static bool globs_meet(const struct strings *a, const struct strings *b)
{
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < b->n; k++)
            if (takes_some_of(a->v[i], b->v[k]))
                return true;
    return !a->n || !b->n;
}

static bool sources_meet(const struct request_match *a, const struct request_match *b)
{
    for (size_t i = 0; i < a->source_count; i++)
        for (size_t k = 0; k < b->source_count; k++)
            if (cidr_contains(a->source + i, &b->source[k].base) || cidr_contains(b->source + k, &a->source[i].base))
                return true;
    return !a->source_count || !b->source_count;
}

static bool days_meet(const struct request_rule *a, const struct request_rule *b)
{
    return !(a->until_us != TIME_NONE && b->since_us != TIME_NONE && a->until_us <= b->since_us) &&
           !(b->until_us != TIME_NONE && a->since_us != TIME_NONE && b->until_us <= a->since_us);
}

bool rules_requests_meet(const struct request_rule *a, const struct request_rule *b)
{
    const struct request_match *m = &a->match, *o = &b->match;
    return (!m->forms || !o->forms || (m->forms & o->forms)) && days_meet(a, b) && sources_meet(m, o) &&
           globs_meet(&m->user, &o->user) && globs_meet(&m->client_id, &o->client_id) &&
           globs_meet(&m->device_id, &o->device_id) && globs_meet(&m->path_user, &o->path_user) &&
           globs_meet(&m->path, &o->path) && (rules_request_paths(a) & rules_request_paths(b));
}

const struct request_rule *rules_request_heir(const struct rules *r, size_t i, size_t *at,
                                              bool *takes_all)
{
    struct request_rule q = r->requests[i];
    *takes_all = *takes_all && *at != i;
    q.until_us = TIME_NONE; /* what comes after its end is asked */
    for (size_t k = *at + 1; k < r->request_count; k++) {
        const struct request_rule *below = r->requests + k;
        if (r->requests[i].until_us != TIME_NONE && below->until_us != TIME_NONE &&
            below->until_us <= r->requests[i].until_us)
            continue;
        if (!rules_requests_meet(&q, below))
            continue;
        *takes_all = rules_request_covers(below, &q, rules_request_paths(&q));
        *at = *takes_all ? r->request_count : k;
        return below;
    }
    *at = r->request_count;
    return NULL;
}

unsigned rules_request_paths(const struct request_rule *q)
{
    unsigned paths = q->match.path.n ? 0 : (1u << PATH_COUNT) - 1;
    for (size_t i = 0; i < PATH_COUNT; i++)
        for (size_t k = 0; k < q->match.path.n && !(paths & 1u << i); k++)
            paths |= takes_some_of(q->match.path.v[k], PATHS[i]) ? 1u << i : 0;
    return q->match.path_user.n ? paths & PATHS_OF_USERS : paths;
}

/* As globs_cover(), of those parts of it that are paths of this resource. A `**` of b is more than a `*` of a. */
static bool path_covers(const struct strings *a, const char *b, const char *resource)
{
    for (size_t k = 0; k < a->n; k++)
        if (str_glob(str_z(a->v[k]), str_z(resource), true) || str_eq_z(str_z(b), a->v[k]) ||
            (!strstr(b, "**") && str_glob(str_z(a->v[k]), str_z(b), true)))
            return true;
    return false;
}

static bool paths_cover(const struct strings *a, const struct strings *b, unsigned paths_of_b)
{
    if (!a->n)
        return true;
    for (size_t i = 0; i < PATH_COUNT; i++) {
        if (!(paths_of_b & 1u << i))
            continue;
        if (!b->n && !path_covers(a, "**", PATHS[i]))
            return false;
        for (size_t k = 0; k < b->n; k++)
            if (!path_covers(a, b->v[k], PATHS[i]))
                return false;
    }
    return true;
}

static bool names_anything(const struct request_match *m)
{
    return m->path.n || m->path_user.n || m->user.n || m->client_id.n || m->device_id.n || m->source_count || m->forms;
}

bool rules_request_covers(const struct request_rule *a, const struct request_rule *b, unsigned paths_of_b)
{
    return (a->since_us == TIME_NONE || (b->since_us != TIME_NONE && b->since_us >= a->since_us)) &&
           (a->until_us == TIME_NONE || (b->until_us != TIME_NONE && b->until_us <= a->until_us)) &&
           (!a->match.forms || (b->match.forms && !(b->match.forms & ~a->match.forms))) &&
           globs_cover(&a->match.user, &b->match.user) && globs_cover(&a->match.client_id, &b->match.client_id) &&
           globs_cover(&a->match.device_id, &b->match.device_id) && sources_cover(a, b) &&
           globs_cover(&a->match.path_user, &b->match.path_user) && !names_anything(&a->except) &&
           paths_cover(&a->match.path, &b->match.path, paths_of_b);
}

bool rules_response_covers(const struct response_rule *a, const struct response_rule *b)
{
    if ((a->match.forms && (!b->match.forms || (b->match.forms & ~a->match.forms))) ||
        (a->match.messages && (!b->match.messages || (b->match.messages & ~a->match.messages))) ||
        !globs_cover(&a->match.rule, &b->match.rule) || (a->match.status_count && !b->match.status_count))
        return false;
    for (size_t i = 0; i < b->match.status_count && a->match.status_count; i++) {
        bool covered = false;
        for (size_t k = 0; k < a->match.status_count && !covered; k++)
            covered = a->match.status[k] == b->match.status[i];
        if (!covered)
            return false;
    }
    return true;
}

const char *rules_request_never(const struct request_rule *q)
{
    if (!rules_request_paths(q))
        return q->match.path_user.n ? "its `path` and `path_user` are those of no resource"
                                    : "its `path` is that of no resource";
    if (q->match.forms == FORM_EMPTY && (q->match.client_id.n || q->match.device_id.n))
        return "an empty request names no client and no device";
    return NULL;
}

/* The forms in which a request that this rule lets through can be. */
static unsigned forms_of(const struct request_rule *q)
{
    return request_rule_takes(q) & (q->match.forms ? q->match.forms : request_rule_takes(q));
}

const char *rules_response_never(const struct rules *r, const struct response_rule *p)
{
    bool form = false, status = p->match.status_count == 0;
    const bool errors_too = !p->match.messages || (p->match.messages & (1u << KMS_MESSAGE_ERROR));
    for (size_t i = 0; i < r->request_count; i++) {
        bool named = p->match.rule.n == 0;
        for (size_t k = 0; k < p->match.rule.n; k++)
            named |= str_eq_z(str_z(r->requests[i].id), p->match.rule.v[k]);
        form |= named && (!p->match.forms || (forms_of(r->requests + i) & p->match.forms));
    }
    if (!form)
        return "no request of such a form is let through by the rules that it names";
    for (size_t i = 0; i < p->match.status_count; i++) {
        const int s = p->match.status[i]; /* of 3xx nothing is used; of 4xx and 5xx an error is made */
        status |= s < 300 || (s >= 400 && errors_too);
    }
    return status ? NULL : "no reply that is used has such a status and holds such a message";
}
