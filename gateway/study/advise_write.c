#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/timestamp.h"
#include "base/uri.h"
#include "base/yaml.h"
#include "study/advise_inside.h"

enum { EXCEPTION_DAYS = 90, DAY_S = 86400, USERS_SHOWN = 10, STEP_S = 5, FOUR_BITS = 96 };

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

int64_t advice_window(int64_t need_us)
{
    const int64_t step = STEP_S * US_PER_S;
    return need_us > 0 ? (need_us + US_PER_S + step - 1) / step * step : 0;
}

static int64_t wider(int64_t window_us, int64_t need_us)
{
    const int64_t due = advice_window(need_us);
    return need_us >= window_us && due > window_us ? due : window_us;
}

/* The rule's checks with what the group needs. */
static struct checks advice_checks(const struct group *g)
{
    const struct plight *p = &g->plight;
    struct checks c = p->rule ? p->rule->checks
                              : (struct checks){.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N,
                                                .past_us = STEP_S * US_PER_S, .future_us = STEP_S * US_PER_S};
    c.past_us = wider(c.past_us, p->late_us);
    c.future_us = wider(c.future_us, p->early_us);
    if (p->causes & 1u << CAUSE_ZONE) {
        c.zone = NULL;
        c.zone_name = NULL;
        c.zone_refuse = false;
        c.zone_minutes = p->zone_minutes;
    }
    if (p->causes & 1u << CAUSE_HMAC)
        c.min_hmac_bits = p->hmac_bits;
    c.canonicalization |= p->c14n;
    if (p->causes & 1u << CAUSE_URI_HOST)
        c.kms_uri_host = true;
    if (p->causes & (1u << CAUSE_URL_LEADING | 1u << CAUSE_URL_NORMAL))
        c.url_compare = p->causes & 1u << CAUSE_URL_LEADING ? URL_PREFIX : URL_NORMALIZED;
    return c;
}

static void put_quoted(struct buf *out, struct str s)
{
    buf_char(out, '"');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"' || s.p[i] == '\\')
            buf_char(out, '\\');
        buf_char(out, s.p[i]);
    }
    buf_char(out, '"');
}

/* Parameters of one check that differ from the standard's, in the order of the reference. */
static void put_time(const struct checks *c, struct buf *p)
{
    if (c->past_us != STEP_S * US_PER_S)
        buf_printf(p, ", past: %s", duration_show(c->past_us).z);
    if (c->future_us != STEP_S * US_PER_S)
        buf_printf(p, ", future: %s", duration_show(c->future_us).z);
    if (c->zone_refuse) {
        buf_z(p, ", assume_zone: refuse");
    } else if (c->zone_name) {
        buf_printf(p, ", assume_zone: %s", c->zone_name);
    } else if (c->zone_minutes) {
        const int m = abs(c->zone_minutes);
        buf_printf(p, ", assume_zone: \"%c%02d:%02d\"", c->zone_minutes < 0 ? '-' : '+', m / 60, m % 60);
    }
}

static void put_signature(const struct checks *c, struct buf *p)
{
    static const struct {
        unsigned bit;
        const char *name;
    } C14NS[] = {{XMLSIG_C14N, "c14n"},
                 {XMLSIG_EXC_C14N, "exc-c14n"},
                 {XMLSIG_C14N11, "c14n11"},
                 {XMLSIG_C14N_COMMENTS, "c14n-comments"},
                 {XMLSIG_EXC_C14N_COMMENTS, "exc-c14n-comments"},
                 {XMLSIG_C14N11_COMMENTS, "c14n11-comments"}};
    if (c->min_hmac_bits != 256)
        buf_printf(p, ", min_hmac_bits: %u", c->min_hmac_bits);
    if (c->canonicalization == XMLSIG_C14N)
        return;
    buf_z(p, ", canonicalization: [");
    bool any = false;
    for (size_t i = 0; i < sizeof C14NS / sizeof *C14NS; i++)
        if (c->canonicalization & C14NS[i].bit) {
            buf_printf(p, "%s%s", any ? ", " : "", C14NS[i].name);
            any = true;
        }
    buf_char(p, ']');
}

static void put_versions(const struct checks *c, struct buf *p)
{
    if (!c->versions || strcmp(c->versions, "1.1.0 1.0.0") == 0)
        return;
    buf_z(p, ", versions: [");
    for (const char *v = c->versions; *v;) {
        const size_t n = strcspn(v, " ");
        put_quoted(p, (struct str){v, n});
        v += n + strspn(v + n, " ");
        buf_z(p, *v ? ", " : "]");
    }
}

static void put_parameters(const struct checks *c, enum check check, struct buf *p)
{
    switch (check) {
    case CHECK_SCHEMA:
        put_versions(c, p);
        return;
    case CHECK_SIGNATURE:
        put_signature(c, p);
        return;
    case CHECK_KEY_POLICY:
        buf_z(p, c->trk_id_required ? ", trk_id: required" : "");
        return;
    case CHECK_KMS_URI:
        buf_z(p, c->kms_uri_host ? ", compare: host" : "");
        return;
    case CHECK_TIME:
        put_time(c, p);
        return;
    case CHECK_CLIENT_REQ_URL:
        if (c->url_compare != URL_EXACT)
            buf_printf(p, ", compare: %s", c->url_compare == URL_PREFIX ? "prefix" : "normalized");
        return;
    case CHECK_PATH_USER:
        for (size_t i = 0; i < c->also.n; i++) {
            buf_z(p, i ? ", " : ", also: [");
            put_quoted(p, str_z(c->also.v[i]));
        }
        buf_z(p, c->also.n ? "]" : "");
        return;
    default:
        return;
    }
}

static void put_checks(const struct checks *c, struct buf *out)
{
    bool any = false;
    for (int i = 0; i < CHECK_COUNT; i++) {
        struct buf p BUF_CLEANUP = BUF_INIT(1 << 20);
        if (c->mode[i] != MODE_ENFORCE)
            buf_printf(&p, ", mode: %s", mode_name(c->mode[i]));
        put_parameters(c, (enum check)i, &p);
        out->failed |= p.failed;
        if (!p.n)
            continue;
        buf_printf(out, "%s      %s: { %s }\n", any ? "" : "    checks:\n", check_name((enum check)i), p.p + 2);
        any = true;
    }
}

struct forwarding {
    struct buf *out;
    bool unproven, any;
};

/* Of what the rule forwards: headers that say who asks are for those who proved it. */
static void put_forward(void *arg, const char *path, struct str value, int line)
{
    static const char BEFORE[] = "forward.";
    struct forwarding *f = arg;
    const char *key = path + sizeof BEFORE - 1;
    if (!line || !str_starts(str_z(path), STR("forward.")))
        return;
    if (f->unproven && (strcmp(key, "headers") == 0 || strcmp(key, "assert_unproven") == 0)) {
        buf_z(f->out, "    # forward.headers is left out: what is unsigned proves no user that they could name\n");
        return;
    }
    buf_printf(f->out, "%s      %s: ", f->any ? "" : "    forward:\n", key);
    buf_str(f->out, value);
    buf_char(f->out, '\n');
    f->any = true;
}

/* IPv4's bits are counted as IPv4 does, unless the network reaches beyond it. */
static void put_network(const struct cidr *c, struct buf *out)
{
    char base[IP_TEXT];
    const bool four = c->bits >= FOUR_BITS && bounds_ipv4(&c->base);
    ip_format(&c->base, base);
    buf_printf(out, "%s/%u", base, c->bits - (four ? FOUR_BITS : 0));
}

static void put_match(const struct together *e, struct buf *out)
{
    buf_printf(out, "    match:\n      form: %s\n", form_name(e->all.form));
    for (size_t i = 0; i < e->network_count; i++) {
        buf_z(out, i ? ",\n               \"" : "      source: [\"");
        put_network(e->networks + i, out);
        buf_z(out, i + 1 < e->network_count ? "\"" : "\"]\n");
    }
    if (!e->users.n)
        return;
    const bool list = e->users.n > 1 || !e->glob;
    buf_z(out, "      user: ");
    for (size_t i = 0; i < e->users.n; i++) {
        buf_z(out, i ? ",\n             " : list ? "[" : "");
        put_quoted(out, e->users.v[i]);
    }
    buf_z(out, list ? "]\n" : "\n");
}

static void put_when(const struct group *g, struct buf *out)
{
    char first[TIME_TEXT], last[TIME_TEXT];
    time_format(g->first_us, false, first);
    time_format(g->last_us, false, last);
    buf_printf(out, "%zu request%s of %zu user%s from %zu address%s, first %s, last %s", g->count, plural(g->count),
               g->users.n, plural(g->users.n), g->sources.n, g->sources.n == 1 ? "" : "es", first, last);
}

static void put_who(const struct group *g, const char *indent, struct buf *out)
{
    if (g->sources.n) {
        const struct cidr network = bounds_network(&g->sources);
        buf_printf(out, "%s# From: ", indent);
        put_network(&network, out);
        if (g->networks > 1)
            buf_printf(out, ", %zu networks in it", g->networks);
        buf_char(out, '\n');
    }
    if (!g->users.n)
        return;
    buf_printf(out, "%s# Users: ", indent);
    for (size_t i = 0; i < g->users.n && i < USERS_SHOWN; i++) {
        buf_z(out, i ? ", " : "");
        text_escape(out, g->users.v[i]);
    }
    if (g->users.n > USERS_SHOWN)
        buf_printf(out, " and %zu more", g->users.n - USERS_SHOWN);
    buf_char(out, '\n');
}

static const char *group_name(const struct group *g)
{
    for (int c = 0; c < CAUSE_COUNT; c++)
        if (g->plight.causes & 1u << c)
            return CAUSES[c].name;
    return "";
}

/* Response rules that name the rule which these requests meet now do not know the exception's id. */
static void put_responses(const struct rules *r, const struct group *g, const char *id, struct buf *out)
{
    for (size_t i = 0; i < r->response_count && g->plight.rule; i++) {
        const struct strings *of = &r->responses[i].match.rule;
        for (size_t k = 0; k < of->n; k++)
            if (str_eq_z(str_z(g->plight.rule->id), of->v[k]))
                buf_printf(out, "  # Add `%s` to match.rule of the response rule `%s` (line %d).\n", id,
                           r->responses[i].id, r->responses[i].line);
    }
}

static void put_exception(const struct advice *a, const struct together *e, size_t number, struct buf *out)
{
    char id[80], day[TIME_TEXT];
    const struct group *g = &e->all;
    const struct request_rule *base = g->plight.rule;
    snprintf(id, sizeof id, "advise-%zu-%s", number, group_name(g));
    time_format(a->now_us + EXCEPTION_DAYS * DAY_S * US_PER_S, false, day);
    buf_z(out, "  # ");
    put_when(g, out);
    buf_char(out, '\n');
    put_who(g, "  ", out);
    if (e->network_count > 1)
        buf_printf(out, "  # One rule for %zu networks: whom it names may come from any of them.\n", e->network_count);
    for (int c = 0; c < CAUSE_COUNT; c++)
        if (g->plight.causes & 1u << c)
            buf_printf(out, "  # Cause: %s.\n  # Costs: %s.\n", CAUSES[c].what, CAUSES[c].todo);
    if (g->plight.causes & (1u << CAUSE_HMAC | 1u << CAUSE_C14N))
        buf_z(out, "  # Their signatures were refused unread: nothing proves yet that these users sent them.\n");
    if (base)
        buf_printf(out, "  # Paste it above `%s` (line %d), whose other settings it keeps.\n", base->id, base->line);
    else
        buf_z(out, "  # Paste it below all other rules.\n");
    put_responses(a->rules, g, id, out);
    buf_printf(out, "  - id: %s\n    why: \"%s; advised from %zu refused request%s\"\n    until: %.10s\n", id,
               CAUSES[__builtin_ctz(g->plight.causes)].what, g->count, plural(g->count), day);
    put_match(e, out);
    buf_printf(out, "    accept: [%s]\n", form_name(g->form));
    const struct checks checks = advice_checks(g);
    put_checks(&checks, out);
    struct forwarding f = {.out = out, .unproven = g->form != FORM_SIGNED};
    if (base)
        out->failed |= !rules_settings(a->rules, false, (size_t)(base - a->rules->requests), put_forward, &f);
}

static const char *remedy_says(enum remedy r)
{
    static const char *const SAYS[] = {[REMEDY_EXCEPTION] = "No exception",
                                       [REMEDY_CLIENT] = "Clients to be mended",
                                       [REMEDY_CONFIG] = "Configuration or clients to be mended",
                                       [REMEDY_KEYS] = "Keys",
                                       [REMEDY_NONE] = "No exception",
                                       [REMEDY_SERVICE] = "Not the rules"};
    return SAYS[r];
}

static void put_shown(enum cause cause, struct str shown, struct buf *out)
{
    struct buf clear BUF_CLEANUP = BUF_INIT(shown.n + 1);
    buf_z(out, 1u << cause & CAUSES_SUCH_AS ? ", such as " : ": found ");
    const bool decoded = cause == CAUSE_PATH_USER && uri_percent_decode(shown, &clear) && !clear.failed;
    text_escape(out, decoded ? buf_view(&clear) : shown);
}

static void put_remedy(const struct group *g, struct buf *out)
{
    buf_z(out, "#\n# ");
    put_when(g, out);
    buf_char(out, '\n');
    put_who(g, "", out);
    for (int c = 0; c < CAUSE_COUNT; c++) {
        if (!(g->plight.causes & 1u << c))
            continue;
        buf_printf(out, "# %s: %s: %s", remedy_says(CAUSES[c].remedy), CAUSES[c].name, CAUSES[c].what);
        if (c == CAUSE_SERVICE)
            buf_printf(out, " (%s)", reason_name(g->plight.service));
        if (g->plight.shown.n && CAUSES[c].remedy != REMEDY_EXCEPTION)
            put_shown((enum cause)c, g->plight.shown, out);
        buf_z(out, ".\n");
        if (CAUSES[c].remedy != REMEDY_EXCEPTION)
            buf_printf(out, "#   %s.\n", CAUSES[c].todo);
    }
    if (g->apart)
        buf_z(out, "#   They cannot be told apart by user or source from others who need another exception.\n");
    else if (group_excused(g))
        buf_z(out, "#   Neither source nor user bounds them, so that an exception would be for everybody.\n");
}

static int group_order(const void *x, const void *y)
{
    const struct group *a = *(const struct group *const *)x, *b = *(const struct group *const *)y;
    return a->count != b->count ? (a->count < b->count) - (a->count > b->count) : (a > b) - (a < b);
}

static void put_head(const struct advice *a, size_t groups, struct buf *out)
{
    char first[TIME_TEXT], last[TIME_TEXT];
    buf_printf(out, "# %zu decision%s", a->decisions, plural(a->decisions));
    if (a->decisions) {
        time_format(a->first_us, false, first);
        time_format(a->last_us, false, last);
        buf_printf(out, " from %s to %s", first, last);
    }
    buf_z(out, " under ");
    text_escape(out, str_z(a->rules->file));
    buf_printf(out, "\n# %s; refused requests fall into %zu group%s.\n",
               advice_locked_out(a) ? "Somebody is locked out" : "Nobody is locked out", groups, plural(groups));
    if (a->open)
        buf_printf(out, "# %zu decision%s cannot be judged by these rules from the log alone: see `kmsgate replay`.\n",
                   a->open, plural(a->open));
}

/* What there is, and how much of it, before whom it concerns. */
static bool put_causes(const struct advice *a, struct buf *out)
{
    for (int c = 0; c < CAUSE_COUNT; c++) {
        struct texts users = {0};
        size_t requests = 0;
        bool ok = true;
        for (size_t i = 0; i < a->keys.n; i++) {
            const struct group *g = a->groups + i;
            if (!g->count || !(g->plight.causes & 1u << c))
                continue;
            requests += g->count;
            for (size_t k = 0; k < g->users.n && ok; k++)
                ok = texts_add(&users, g->users.v[k]) != SIZE_MAX;
        }
        if (requests)
            buf_printf(out, "#   %-17s %7zu request%s of %zu user%s: %s\n", CAUSES[c].name, requests, plural(requests),
                       users.n, plural(users.n), CAUSES[c].what);
        texts_free(&users);
        if (!ok)
            return false;
    }
    return true;
}

static bool put_groups(const struct advice *a, const struct groups *v, struct buf *out)
{
    struct buf remedies BUF_CLEANUP = BUF_INIT(out->max);
    size_t number = 0;
    bool ok = true;
    for (size_t i = 0; i < v->n && ok; i++) {
        struct together e = {.network_count = 0};
        if (v->taken[i])
            continue;
        ok = !group_excused(v->of[i]) || together_of(&e, v, i);
        if (ok && e.all.count) {
            buf_z(out, number ? "\n" : "requests:\n");
            put_exception(a, &e, ++number, out);
        } else {
            put_remedy(v->of[i], &remedies);
        }
        together_free(&e);
    }
    buf_z(out, number ? "" : "requests: []\n");
    if (remedies.n)
        buf_z(out, "\n# What no exception is for:\n");
    buf_str(out, remedies.n ? buf_view(&remedies) : STR(""));
    return ok && !remedies.failed;
}

bool advice_write(struct advice *a, struct buf *out)
{
    struct groups v = {.of = calloc(a->keys.n + 1, sizeof(void *)), .taken = calloc(a->keys.n + 1, 1)};
    bool ok = v.of && v.taken && groups_join(a);
    for (size_t i = 0; i < a->keys.n && ok; i++)
        if (a->groups[i].count)
            v.of[v.n++] = a->groups + i;
    if (ok) {
        qsort((void *)v.of, v.n, sizeof(void *), group_order);
        put_head(a, v.n, out);
        ok = put_causes(a, out) && put_groups(a, &v, out);
    }
    free((void *)v.of);
    free(v.taken);
    return ok && !out->failed;
}
