#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "gate/rules_forward.h"
#include "gate/rules_internal.h"

#define LINT_SOON_US (31 * INT64_C(86400) * US_PER_S)
#define LINT_OLD_US (90 * INT64_C(86400) * US_PER_S)
#define LINT_FAR_US (731 * INT64_C(86400) * US_PER_S)
#define LINT_WIDE_US (60 * US_PER_S)

static const struct yaml_choice NAMES[] = {
#define LINT_NAME(e, name) {name, LINT_##e},
    LINT_LIST(LINT_NAME)
#undef LINT_NAME
    {NULL, 0}};

static const struct yaml_field ACCEPTED[] = {
    {"name", yaml_choose, .offset = offsetof(struct accepted, lint), NAMES, .required = true},
    {"rule", yaml_text, .offset = offsetof(struct accepted, rule)},
    {"why", yaml_prose, .offset = offsetof(struct accepted, why), .required = true},
    {0}};

void rules_read_accepted(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct reading *g = to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of accepted lints") || g->accepted || !node->n)
        return;
    g->accepted = calloc(node->n, sizeof *g->accepted);
    if (!g->accepted) {
        yaml_fault(in, node, "out of memory");
        return;
    }
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        struct accepted *a = g->accepted + g->accepted_count++;
        *a = (struct accepted){.lint = -1, .node = m};
        yaml_fields(in, m, ACCEPTED, a);
    }
}

/* What `check` says with gateway.yaml beside the rules alone: it asks rules_accept(). */
static void keep_accepted(struct reading *g, struct accepted *a)
{
    char text[160];
    if (a->lint != LINT_PROXY_SOURCE && a->lint != LINT_CAPTURE_NOWHERE)
        return;
    snprintf(text, sizeof text, "%s %s", NAMES[a->lint].name, a->rule ? a->rule : "");
    a->used = strings_add(&g->r->accepted, str_z(text));
    if (!a->used)
        yaml_fault(&g->in, a->node, "out of memory");
}

bool rules_accept(const struct rules *r, const char *lint, const char *rule)
{
    for (size_t i = 0; i < r->accepted.n; i++) {
        const struct str kept = str_z(r->accepted.v[i]), name = str_z(lint);
        const struct str of = {kept.p + name.n + 1, kept.n > name.n ? kept.n - name.n - 1 : 0};
        if (str_starts(kept, name) && kept.p[name.n] == ' ' && (!of.n || str_eq_z(of, rule)))
            return true;
    }
    return false;
}

void rules_check_accepted(struct reading *g)
{
    const struct rules *r = g->r;
    for (size_t i = 0; i < g->accepted_count; i++) {
        const char *rule = g->accepted[i].rule;
        bool known = !rule;
        for (size_t k = 0; k < r->request_count && !known; k++)
            known = str_eq_z(str_z(rule), r->requests[k].id);
        for (size_t k = 0; k < r->response_count && !known; k++)
            known = str_eq_z(str_z(rule), r->responses[k].id);
        for (size_t k = 0; k < r->dialect_count && !known; k++)
            known = str_eq_z(str_z(rule), r->dialects[k].name);
        if (known) {
            keep_accepted(g, g->accepted + i);
            continue;
        }
        const char *near =
            r->requests ? nearest_name(str_z(rule), &r->requests->id, sizeof *r->requests, r->request_count) : NULL;
        yaml_fault(&g->in, yaml_get(g->accepted[i].node, "rule"), "there is no rule %s%s%s%s", show(str_z(rule)).z,
                   near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
    }
}

struct remark rules_remark(struct reading *g, const char *rule, const struct yaml_node *node, const char *a,
                           const char *b)
{
    const struct yaml_node *member = yaml_get(node, a);
    const struct yaml_node *deeper = member && b ? yaml_get(member, b) : NULL;
    return (struct remark){g, rule, false, deeper ? deeper : member ? member : node};
}

static bool is_accepted(const struct remark *to, enum lint name)
{
    bool accepted = false;
    for (size_t i = 0; i < to->g->accepted_count; i++) {
        struct accepted *a = to->g->accepted + i;
        if (a->lint == (int)name && (!a->rule || str_eq_z(str_z(a->rule), to->rule)))
            accepted = a->used = true;
    }
    return accepted;
}

void rules_lint_add(struct remark to, enum lint name, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const int line = to.dialect ? to.node->key_line : to.node->line;
    const int column = to.dialect ? to.node->key_column : to.node->column;
    if (!is_accepted(&to, name))
        faults_lint(to.g->in.faults, to.g->in.file, line, column, "%s: %s `%s` %s", NAMES[name].name,
                    to.dialect ? "dialect" : "rule", to.rule, text);
}

static void lint_dates(struct reading *g, const struct request_rule *q, const struct yaml_node *node, int64_t now)
{
    const struct remark until = rules_remark(g, q->id, node, "until", NULL);
    if (q->until_us != TIME_NONE && q->until_us <= now)
        rules_lint_add(until, LINT_UNTIL_PAST, "matches no more since its `until` has passed");
    else if (q->until_us != TIME_NONE && q->until_us - now <= LINT_SOON_US)
        rules_lint_add(until, LINT_UNTIL_SOON, "ends within a month, after %s", yaml_get(node, "until")->text.p);
    else if (q->until_us != TIME_NONE && q->until_us - now > LINT_FAR_US && !q->deny)
        rules_lint_add(until, LINT_UNTIL_FAR, "ends more than two years ahead, after %s: nobody will look again before",
                       yaml_get(node, "until")->text.p);
    if (q->since_us != TIME_NONE && q->since_us > now)
        rules_lint_add(rules_remark(g, q->id, node, "since", NULL), LINT_SINCE_FUTURE, "does not match yet");
}

/* A glob that takes more than it seems to: `*@a.example` takes tel:*@a.example, `sip:bob*` takes
 * sip:bob@evil.example. */
static void lint_match(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    const struct strings *const lists[] = {&q->match.user, &q->match.path_user};
    static const char *const KEYS[] = {"user", "path_user"};
    for (size_t k = 0; k < 2 && !q->deny; k++)
        for (size_t i = 0; i < lists[k]->n; i++) {
            const char *glob = lists[k]->v[i], *colon = strchr(glob, ':');
            if (!strchr(glob, '*') || strcmp(glob, "*") == 0)
                continue;
            const bool no_scheme = !colon || memchr(glob, '*', (size_t)(colon - glob));
            if (glob[strlen(glob) - 1] == '*')
                rules_lint_add(rules_remark(g, q->id, node, "match", KEYS[k]), LINT_USER_GLOB,
                               "has the glob %s, which takes any domain behind it: end it with @ and the domain",
                               show(str_z(glob)).z);
            else if (no_scheme)
                rules_lint_add(rules_remark(g, q->id, node, "match", KEYS[k]), LINT_USER_GLOB,
                               "has the glob %s without a scheme: begin it with sip: or what your users' URIs "
                               "begin with",
                               show(str_z(glob)).z);
        }
}

/* What servers take for who asks, by the names of their headers; a name that ends in '-' stands for all that begin
 * so. */
static bool names_identity(struct str name)
{
    static const char *const IDENTITIES[] = {"X-3GPP-Asserted-Identity", "X-3GPP-Intended-Identity",
                                        "P-Asserted-Identity", "P-Preferred-Identity", "X-Forwarded-", "Forwarded",
                                        "X-Real-IP", "True-Client-IP", "X-Client-", "X-Remote-", "Remote-",
                                        "X-User", "X-User-", "X-Auth-", "X-SSL-",
                                        "SSL-Client-", "X-Original-", "X-Authenticated-", "X-Identity", "From"};
    for (size_t i = 0; i < sizeof IDENTITIES / sizeof *IDENTITIES; i++) {
        const struct str n = str_z(IDENTITIES[i]);
        const struct str start = {name.p, n.p[n.n - 1] == '-' && name.n > n.n ? n.n : name.n};
        if (header_same(start, n))
            return true;
    }
    return false;
}

/* A glob for groups and services that has nothing of their own before the @ takes every user, too. */
static bool takes_users(const char *glob)
{
    const char *end = strchr(glob, '@'), *colon = strchr(glob, ':');
    const char *from = colon && (!end || colon < end) ? colon + 1 : glob;
    end = end ? end : glob + strlen(glob);
    while (from < end && *from == '*')
        from++;
    return from == end;
}

static void lint_also(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    for (size_t i = 0; i < q->checks.also.n; i++)
        if (takes_users(q->checks.also.v[i]))
            rules_lint_add(rules_remark(g, q->id, node, "checks", "path_user"), LINT_ALSO_USERS,
                           "lets any proven user ask for the keys of %s, which the users' own URIs match: begin it "
                           "with what only groups' have", show(str_z(q->checks.also.v[i])).z);
}

static void lint_passed(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    for (size_t i = 0; i < q->forward.pass.n; i++)
        if (names_identity(str_z(q->forward.pass.v[i])))
            rules_lint_add(rules_remark(g, q->id, node, "forward", "pass"), LINT_IDENTITY_PASSED,
                           "passes on %s, by which servers tell who asks: any client can write it",
                           show(str_z(q->forward.pass.v[i])).z);
}

static bool takes_unsigned(const struct request_rule *q)
{
    return request_rule_takes(q) & (FORM_UNSIGNED | FORM_EMPTY);
}

/* Exceptions are for a time: someone has to look again. */
static void lint_exception(struct reading *g, const struct request_rule *q, const struct yaml_node *node, int64_t now)
{
    bool exception = takes_unsigned(q), shadow = false;
    for (int i = 0; i < CHECK_COUNT; i++) {
        exception |= q->checks.mode[i] != MODE_ENFORCE;
        shadow |= q->checks.mode[i] == MODE_SHADOW;
    }
    if (exception && q->until_us == TIME_NONE)
        rules_lint_add(rules_remark(g, q->id, node, "id", NULL), LINT_NO_END,
                       "is an exception without an end: give it an `until`");
    if (shadow && q->since_us != TIME_NONE && now - q->since_us > LINT_OLD_US)
        rules_lint_add(rules_remark(g, q->id, node, "since", NULL), LINT_SHADOW_OLD,
             "has looked on for more than 90 days: enforce what it found, or say why not");
}

static void lint_checks(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    const struct checks *c = &q->checks;
    for (int i = 0; i < CHECK_COUNT; i++)
        if (c->mode[i] != MODE_ENFORCE)
            rules_lint_add(rules_remark(g, q->id, node, "checks", check_name(i)),
                 c->mode[i] == MODE_OFF ? LINT_CHECK_OFF : LINT_CHECK_SHADOW, "does not enforce the check `%s` (%s)",
                 check_name(i), mode_name(c->mode[i]));
    const struct remark time = rules_remark(g, q->id, node, "checks", "time");
    if (c->mode[CHECK_TIME] != MODE_OFF && (c->past_us > LINT_WIDE_US || c->future_us > LINT_WIDE_US))
        rules_lint_add(time, LINT_WIDE_WINDOW,
             "takes requests up to %.20s old and %.20s ahead; the standard's example is 5s",
             duration_show(c->past_us).z, duration_show(c->future_us).z);
    else if (c->past_us > STANDARD_WINDOW_US || c->future_us > STANDARD_WINDOW_US)
        (void)is_accepted(&time, LINT_WIDE_WINDOW); /* decided about before it is wide enough for a remark */
    if (c->min_hmac_bits < STANDARD_HMAC_BITS)
        rules_lint_add(rules_remark(g, q->id, node, "checks", "signature"), LINT_SHORT_HMAC,
                       "takes signatures cut to %u of 256 bits",
             c->min_hmac_bits);
}

/* A network that half the world uses within bounds little: the whole of a private range, in pieces, too, or loopback,
 * where everything on the host is, a balancer above all. Of fc00::/7 one half is in use. NULL: none of them. */
static const char *wide_range(const struct request_match *m, bool *loopback)
{
    static const char *const RANGES[] = {"10.0.0.0/8",  "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
                                         "127.0.0.0/8", "169.254.0.0/16", "fd00::/8",      "fe80::/10",
                                         "::1/128"};
    for (size_t k = 0; k < sizeof RANGES / sizeof *RANGES; k++) {
        struct cidr range;
        if (!cidr_parse(str_z(RANGES[k]), &range))
            continue;
        *loopback = k == 4 || k == 8;
        bool wide = !*loopback && rules_networks_cover(m->source, m->source_count, &range);
        for (size_t i = 0; i < m->source_count && *loopback; i++)
            wide |= cidr_contains(&range, &m->source[i].base);
        if (wide)
            return RANGES[k];
    }
    return NULL;
}

static void lint_source(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    bool loopback = false;
    const char *wide = wide_range(&q->match, &loopback);
    const struct remark at = rules_remark(g, q->id, node, "match", "source");
    if (wide && loopback)
        rules_lint_add(at, LINT_WIDE_SOURCE, "has loopback as a bound of what is unsigned: all that a proxy on this "
                       "host hands on comes from there");
    else if (wide)
        rules_lint_add(at, LINT_WIDE_SOURCE,
                       "has the whole of %s as a bound of what is unsigned: name the clients' networks", wide);
}

static void lint_unproven(struct reading *g, const struct request_rule *q, const struct yaml_node *node)
{
    const bool unsigned_too = takes_unsigned(q);
    if (unsigned_too && rules_request_from_anywhere(q))
        rules_lint_add(rules_remark(g, q->id, node, "accept", NULL), LINT_UNSIGNED_ANYWHERE,
             "accepts unsigned requests from any address: it matches on the client's own words only; add `source`");
    else if (unsigned_too)
        lint_source(g, q, node);
    if ((unsigned_too || q->checks.mode[CHECK_SIGNATURE] != MODE_ENFORCE) && forward_unproven_holder(&q->forward))
        rules_lint_add(rules_remark(g, q->id, node, "forward", NULL), LINT_ASSERT_UNPROVEN,
             "tells the upstream %s of requests that prove nothing", forward_unproven_holder(&q->forward));
}

static void lint_request(struct reading *g, size_t i, int64_t now)
{
    const struct request_rule *q = g->r->requests + i;
    const struct yaml_node *node = rules_node(g->requests, i);
    lint_dates(g, q, node, now);
    lint_match(g, q, node);
    if (!q->deny) {
        lint_exception(g, q, node, now);
        lint_unproven(g, q, node);
        lint_checks(g, q, node);
        lint_passed(g, q, node);
        lint_also(g, q, node);
    }
    if (rules_request_never(q))
        rules_lint_add(rules_remark(g, q->id, node, "match", NULL), LINT_NEVER_MATCHES,
                       "can never match: %s", rules_request_never(q));
    const unsigned paths = rules_request_paths(q);
    for (size_t k = 0; k < i && paths; k++)
        if (rules_request_covers(g->r->requests + k, q, paths)) {
            rules_lint_add(rules_remark(g, q->id, node, "id", NULL), LINT_UNREACHABLE,
                 "is never reached: `%s` above it takes all that it matches", g->r->requests[k].id);
            break;
        }
    rules_lint_reach(g, i);
}

static bool requires_trk_id(const struct request_rule *q)
{
    return request_rule_takes(q) == FORM_SIGNED && q->checks.trk_id_required &&
           q->checks.mode[CHECK_KEY_POLICY] == MODE_ENFORCE;
}

/* Whether keys are encrypted is left to the client: for everybody, that is whoever holds a stolen token, too. */
static void lint_unasked(struct reading *g, const struct response_rule *p, const struct yaml_node *node)
{
    bool required = true;
    for (size_t i = 0; i < g->r->request_count; i++)
        required &= !request_rule_takes(g->r->requests + i) || requires_trk_id(g->r->requests + i);
    if (p->encrypt.content != ENCRYPT_NONE && p->encrypt.when == WHEN_REQUESTED && !p->match.rule.n && !required)
        rules_lint_add(rules_remark(g, p->id, node, "encrypt", "when"), LINT_CLEAR_UNASKED,
                       "sends keys in clear to everybody who names no TrK-ID: name the rules that it is for, or "
                       "demand it there (checks: { key_policy: { trk_id: required } })");
}

static void lint_response(struct reading *g, size_t i)
{
    const struct response_rule *p = g->r->responses + i;
    const struct yaml_node *node = rules_node(g->responses, i);
    lint_unasked(g, p, node);
    if (p->encrypt.content == ENCRYPT_NONE || p->encrypt.when == WHEN_NEVER)
        rules_lint_add(rules_remark(g, p->id, node, "encrypt", NULL), LINT_CLEAR_KEYS, "sends keys in clear");
    else if (p->encrypt.content == ENCRYPT_KEYS && p->encrypt.key_wrap == KEY_WRAP_KW)
        rules_lint_add(rules_remark(g, p->id, node, "encrypt", "key_wrap"), LINT_NARROW_WRAP,
             "forces kw-aes256, which takes whole 8-octet blocks only: no RSK (257) and no PVT (65) can be sent");
    if (p->encrypt.content == ENCRYPT_KEYS && p->encrypt.key_wrap == KEY_WRAP_NAMED)
        rules_lint_add(rules_remark(g, p->id, node, "encrypt", "key_wrap"), LINT_MISNAMED_WRAP,
             "calls keys wrapped with padding (RFC 5649) kw-aes256: only clients that expect that can open them");
    if (p->sign == SIGN_NONE)
        rules_lint_add(rules_remark(g, p->id, node, "sign", NULL), LINT_UNSIGNED_REPLY, "sends replies unsigned");
    if (rules_response_never(g->r, p))
        rules_lint_add(rules_remark(g, p->id, node, "match", NULL), LINT_NEVER_MATCHES, "can never match: %s",
             rules_response_never(g->r, p));
    for (size_t k = 0; k < i; k++)
        if (rules_response_covers(g->r->responses + k, p)) {
            rules_lint_add(rules_remark(g, p->id, node, "id", NULL), LINT_UNREACHABLE,
                 "is never reached: `%s` above it takes all that it matches", g->r->responses[k].id);
            break;
        }
}

static void lint_dialect(struct reading *g, size_t i)
{
    const struct dialect *d = g->r->dialects + i;
    const struct yaml_node *node = rules_node(g->dialects, i);
    struct remark to = rules_remark(g, d->name, node, "user_uri", NULL);
    bool used = false;
    to.dialect = true;
    for (size_t k = 0; k < g->r->response_count; k++)
        used |= g->r->responses[k].dialect == d;
    if (used && d->user_uri == USERS_IGNORE)
        rules_lint_add(to, LINT_USER_IGNORED,
                       "takes any user's keys for the requester's: nothing compares its UserUri with the requester's");
    to.node = node;
    if (!used)
        rules_lint_add(to, LINT_DIALECT_UNUSED, "is used by no response rule");
}

void rules_lint(struct reading *g, int64_t now_us)
{
    for (size_t i = 0; i < g->r->request_count; i++)
        lint_request(g, i, now_us);
    rules_lint_replay(g);
    for (size_t i = 0; i < g->r->response_count; i++)
        lint_response(g, i);
    rules_lint_renew(g);
    for (size_t i = 0; i < g->r->dialect_count; i++)
        lint_dialect(g, i);
    for (size_t i = 0; i < g->accepted_count; i++) {
        const struct accepted *a = g->accepted + i;
        if (!a->used)
            faults_lint(g->in.faults, g->in.file, a->node->line, a->node->column,
                        "accepted-unused: the accepted lint `%s`%s%s matches nothing: remove it", NAMES[a->lint].name,
                        a->rule ? " of " : "", a->rule ? a->rule : "");
    }
}
