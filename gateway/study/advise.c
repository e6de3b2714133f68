#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/timestamp.h"
#include "study/advise_inside.h"

enum { GROUPS_MAX = 4096, MEMBERS_MAX = 100000, ACCEPTED_MAX = 4 << 20, HASH_N = 8 };

static uint64_t texts_hash(struct str s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * UINT64_C(1099511628211);
    return h ^ h >> 32;
}

static size_t *texts_slot(const struct texts *t, struct str s)
{
    size_t at = (size_t)texts_hash(s) & (t->slot_count - 1);
    while (t->slots[at] && !str_eq(t->v[t->slots[at] - 1], s))
        at = (at + 1) & (t->slot_count - 1);
    return t->slots + at;
}

static bool texts_grow(struct texts *t)
{
    const size_t cap = t->cap ? t->cap * 2 : 8;
    struct str *v = realloc(t->v, cap * sizeof *v);
    if (!v)
        return false;
    t->v = v;
    size_t *slots = calloc(cap * 2, sizeof *slots);
    if (!slots)
        return false;
    free(t->slots);
    *t = (struct texts){v, t->n, cap, slots, cap * 2};
    for (size_t i = 0; i < t->n; i++)
        *texts_slot(t, v[i]) = i + 1;
    return true;
}

size_t texts_add(struct texts *t, struct str s)
{
    if (t->n == t->cap && !texts_grow(t))
        return SIZE_MAX;
    size_t *slot = texts_slot(t, s);
    if (*slot)
        return *slot - 1;
    char *copy = str_dup(s);
    if (!copy)
        return SIZE_MAX;
    t->v[t->n] = (struct str){copy, s.n};
    *slot = ++t->n;
    return t->n - 1;
}

static bool texts_has(const struct texts *t, struct str s)
{
    return t->n && *texts_slot(t, s);
}

void texts_free(struct texts *t)
{
    for (size_t i = 0; i < t->n; i++)
        free((char *)t->v[i].p);
    free(t->v);
    free(t->slots);
    *t = (struct texts){0};
}

struct advice *advice_new(const struct rules *rules, int64_t now_us)
{
    struct advice *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    *a = (struct advice){.rules = rules, .relaxed = *rules, .now_us = now_us};
    a->relaxed.hash[0] = '\0'; /* whatever was recorded is judged again */
    a->relaxed.requests = calloc(rules->request_count + 1, sizeof *a->relaxed.requests);
    if (!a->relaxed.requests) {
        free(a);
        return NULL;
    }
    for (size_t i = 0; i < rules->request_count; i++)
        a->relaxed.requests[i] = rules->requests[i];
    return a;
}

void advice_free(struct advice *a)
{
    for (size_t i = 0; a && i < a->keys.n; i++) {
        texts_free(&a->groups[i].users);
        texts_free(&a->groups[i].sources);
        free((char *)a->groups[i].plight.shown.p);
    }
    if (a) {
        texts_free(&a->keys);
        texts_free(&a->accepted);
        free(a->groups);
        free(a->relaxed.requests);
    }
    free(a);
}

/* What makes two requests the same one, sent again: a hash, since millions may have been accepted. */
static bool advice_mark(const struct record *r, unsigned char out[EVP_MAX_MD_SIZE])
{
    const struct str of[] = {r->user, r->path, r->claims.time, r->claims.client_req_url, r->claims.signature_id,
                             r->client_id, r->device_id};
    struct buf text BUF_CLEANUP = BUF_INIT(8192);
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        buf_str(&text, of[i]);
        buf_char(&text, '\n');
    }
    return !text.failed && EVP_Digest(text.p, text.n, out, NULL, EVP_sha256(), NULL) == 1;
}

/* The first reason that the rules have against it is set aside, to see the next. False where no rule can be looser. */
static bool advice_relax(struct request_rule *q, enum reason reason, enum form form)
{
    static const struct {
        enum reason first, last;
        enum check check;
    } OF[] = {{REASON_XML_INVALID, REASON_XML_INVALID, CHECK_SCHEMA},
              {REASON_SIGNATURE_INVALID, REASON_KEY_UNKNOWN, CHECK_SIGNATURE},
              {REASON_KEY_POLICY, REASON_KEY_POLICY, CHECK_KEY_POLICY},
              {REASON_KEY_REVOKED, REASON_KEY_REVOKED, CHECK_SIGNATURE},
              {REASON_KMS_URI_MISMATCH, REASON_KMS_URI_MISMATCH, CHECK_KMS_URI},
              {REASON_TIME_STALE, REASON_TIME_ZONE, CHECK_TIME},
              {REASON_CLIENT_REQ_URL_MISMATCH, REASON_CLIENT_REQ_URL_MISMATCH, CHECK_CLIENT_REQ_URL},
              {REASON_PATH_USER_MISMATCH, REASON_PATH_USER_MISMATCH, CHECK_PATH_USER},
              {REASON_REPLAY_SEEN, REASON_REPLAY_SEEN, CHECK_REPLAY}};
    if (reason == REASON_RULE_FORM || reason == REASON_SIGNATURE_MISSING) {
        q->accept |= (unsigned)form;
        return !q->deny;
    }
    for (size_t i = 0; i < sizeof OF / sizeof *OF; i++)
        if (reason >= OF[i].first && reason <= OF[i].last && q->checks.mode[OF[i].check] != MODE_OFF) {
            q->checks.mode[OF[i].check] = MODE_OFF;
            return true;
        }
    return false;
}

/* All that the rules have against the record; none: it is let in, or (*open) the log does not tell. */
static bool advice_plight(struct advice *a, const struct record *r, struct plight *p, bool *open)
{
    struct rejudged again;
    if (!rejudge(a->rules, r, &again))
        return false;
    *open = again.outcome == OUTCOME_OPEN;
    if (again.outcome == OUTCOME_ACCEPT && r->reason == REASON_PROTECT_NO_KEY)
        plight_add(p, r, r->reason, a->rules, again.rule);
    if (again.outcome != OUTCOME_REJECT)
        return true;
    plight_add(p, r, again.reason, a->rules, again.rule);
    const bool before_rules = !r->form || (!r->rule.p && r->reason != REASON_RULE_NONE);
    enum reason reason = again.reason;
    while (!before_rules) {
        if (!rejudge(&a->relaxed, r, &again))
            return false;
        if (!again.rule)
            break;
        const size_t i = (size_t)(again.rule - a->relaxed.requests);
        p->rule = a->rules->requests + i;
        if (!advice_relax(a->relaxed.requests + i, reason, r->form) || !rejudge(&a->relaxed, r, &again))
            break;
        if (again.outcome != OUTCOME_REJECT)
            break;
        reason = again.reason;
        plight_add(p, r, reason, a->rules, p->rule);
    }
    if (p->rule)
        a->relaxed.requests[p->rule - a->rules->requests] = *p->rule;
    return true;
}

/* A request that comes late is a replay, if it was accepted when it came in time. */
static bool advice_replayed(struct advice *a, const struct record *r, struct plight *p)
{
    unsigned char mark[EVP_MAX_MD_SIZE];
    if (r->form != FORM_SIGNED || !r->claims.time.n)
        return true;
    if (!advice_mark(r, mark))
        return false;
    const struct str s = {(const char *)mark, HASH_N};
    if (!p->causes && r->accepted)
        return a->accepted.n >= ACCEPTED_MAX || texts_add(&a->accepted, s) != SIZE_MAX;
    if ((p->causes & (1u << CAUSE_LATE | 1u << CAUSE_TIME_FAR | 1u << CAUSE_ZONE)) && texts_has(&a->accepted, s))
        p->causes = 1u << CAUSE_REPLAYED;
    return true;
}

/* Nobody's name with a `*` in it, or with what is not shown, is written into a rule: it would match others. */
static bool advice_nameable(struct str user)
{
    return user.n && !record_cut(user) && text_is_plain(user) && !memchr(user.p, '*', user.n);
}

static void advice_key(struct buf *out, const struct record *r, const struct plight *p)
{
    const size_t network = bounds_ipv4(&r->source) ? 14 : 6; /* IPv4 /16, IPv6 /48 */
    buf_printf(out, "%x|%x|%d|%d|", p->causes, (unsigned)r->form, p->rule ? p->rule->line : 0, p->zone_minutes);
    buf_printf(out, "%u|%x|%d|", p->hmac_bits, p->c14n, (int)p->service);
    buf_str(out, p->shown.p && !(p->causes & CAUSES_SUCH_AS) ? p->shown : STR(""));
    buf_char(out, '|');
    if (r->source.known)
        buf_hex(out, r->source.b, network, false);
    buf_char(out, '|');
    const char *at = advice_nameable(r->user) ? memrchr(r->user.p, '@', r->user.n) : NULL;
    if (at)
        buf_str(out, (struct str){at, r->user.n - (size_t)(at - r->user.p)});
}

static struct group *advice_group(struct advice *a, struct str key)
{
    const size_t n = a->keys.n;
    if (n == GROUPS_MAX && !texts_has(&a->keys, key))
        key = a->keys.v[n - 1]; /* the last takes the rest; see advice_join() */
    const size_t i = texts_add(&a->keys, key);
    if (i == SIZE_MAX)
        return NULL;
    if (i < n)
        return a->groups + i;
    if (i == a->group_cap) {
        const size_t cap = a->group_cap ? a->group_cap * 2 : 16;
        struct group *v = realloc(a->groups, cap * sizeof *v);
        if (!v) {
            a->keys.n--; /* no group, no key: nothing is looked up any more */
            return NULL;
        }
        a->groups = v;
        a->group_cap = cap;
    }
    a->groups[i] = (struct group){0};
    return a->groups + i;
}

static bool advice_member(struct texts *t, struct str s)
{
    return t->n >= MEMBERS_MAX || texts_add(t, s) != SIZE_MAX;
}

static bool advice_count(struct advice *a, const struct record *r, const struct plight *p)
{
    struct buf key BUF_CLEANUP = BUF_INIT(4096);
    advice_key(&key, r, p);
    struct group *g = key.failed ? NULL : advice_group(a, buf_view(&key));
    if (!g)
        return false;
    if (!g->count) {
        g->plight = *p;
        g->plight.shown = (struct str){str_dup(p->shown), p->shown.n};
        g->form = r->form;
        g->networks = 1;
        g->first_us = r->time_us;
    }
    g->apart |= g->plight.causes != p->causes; /* the group of what is too much */
    g->count++;
    g->last_us = r->time_us > g->last_us ? r->time_us : g->last_us;
    g->first_us = r->time_us < g->first_us ? r->time_us : g->first_us;
    g->plight.late_us = p->late_us > g->plight.late_us ? p->late_us : g->plight.late_us;
    g->plight.early_us = p->early_us > g->plight.early_us ? p->early_us : g->plight.early_us;
    g->nameless |= !advice_nameable(r->user) || g->users.n >= MEMBERS_MAX;
    g->placeless |= !r->source.known || g->sources.n >= MEMBERS_MAX;
    return (!r->user.n || advice_member(&g->users, r->user)) &&
           (!r->source.known || advice_member(&g->sources, (struct str){(const char *)r->source.b, 16}));
}

bool advice_add(struct advice *a, const struct record *r)
{
    struct plight p = {.service = REASON_OK};
    bool open = false;
    if (!advice_plight(a, r, &p, &open) || !advice_replayed(a, r, &p))
        return false;
    if (!a->decisions || r->time_us < a->first_us)
        a->first_us = r->time_us;
    if (!a->decisions || r->time_us > a->last_us)
        a->last_us = r->time_us;
    a->decisions++;
    a->open += open;
    return !p.causes || advice_count(a, r, &p);
}

bool advice_locked_out(const struct advice *a)
{
    const unsigned others = 1u << CAUSE_REPLAYED | 1u << CAUSE_SERVICE;
    for (size_t i = 0; i < a->keys.n; i++)
        if (a->groups[i].plight.causes & ~others)
            return true;
    return false;
}
