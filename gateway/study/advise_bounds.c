#include <stdlib.h>
#include <string.h>

#include "study/advise_inside.h"

enum { USERS_NAMED = 64, BITS_ALL = 128 };

bool group_excused(const struct group *g)
{
    for (int c = 0; c < CAUSE_COUNT; c++)
        if ((g->plight.causes & 1u << c) && CAUSES[c].remedy != REMEDY_EXCEPTION)
            return false;
    return !g->apart;
}

bool bounds_ipv4(const struct ip *ip)
{
    struct cidr all;
    return cidr_parse(STR("0.0.0.0/0"), &all) && cidr_contains(&all, ip);
}

struct cidr bounds_network(const struct texts *sources)
{
    struct cidr c = {.bits = BITS_ALL};
    memcpy(c.base.b, sources->v[0].p, sizeof c.base.b);
    c.base.known = true;
    for (size_t i = 1; i < sources->n; i++) {
        const unsigned char *b = (const unsigned char *)sources->v[i].p;
        unsigned same = 0;
        while (same < c.bits && !((c.base.b[same / 8] ^ b[same / 8]) & 0x80 >> same % 8))
            same++;
        c.bits = same;
    }
    for (unsigned i = c.bits; i < BITS_ALL; i++)
        c.base.b[i / 8] &= (unsigned char)~(0x80 >> i % 8);
    return c;
}

/* "sip:radio-*@field.example.org": what all have in front, and the domain. */
static bool bounds_glob(const struct texts *users, struct buf *out)
{
    struct str front = STR_MISSING, domain = STR_MISSING;
    for (size_t i = 0; i < users->n; i++) {
        const struct str u = users->v[i];
        const char *at = memrchr(u.p, '@', u.n);
        if (!at)
            return false;
        const struct str before = {u.p, (size_t)(at - u.p)}, behind = {at, u.n - (size_t)(at - u.p)};
        if (!i) {
            front = before;
            domain = behind;
        }
        size_t n = 0;
        while (n < front.n && n < before.n && front.p[n] == before.p[n])
            n++;
        front.n = n;
        if (!str_eq(domain, behind))
            return false;
    }
    while (front.n && ((unsigned char)front.p[front.n - 1] & 0x80)) /* no character is cut */
        front.n--;
    if (!memchr(front.p, ':', front.n))
        return false;
    buf_str(out, front);
    buf_char(out, '*');
    buf_str(out, domain);
    return !out->failed;
}

/* What is unsigned proves no user: only its source bounds it. */
bool bounds_of(const struct group *g, struct bounds *b)
{
    *b = (struct bounds){.user = BUF_INIT(2048)};
    if (g->sources.n && !g->placeless) {
        b->source = bounds_network(&g->sources);
        b->has_source = b->source.bits > 0;
    }
    if (g->users.n && !g->nameless) {
        b->glob = g->users.n > USERS_NAMED;
        b->has_user = !b->glob || bounds_glob(&g->users, &b->user);
        b->glob = b->glob && b->has_user;
    }
    return b->has_source || (b->has_user && g->form == FORM_SIGNED);
}

/* Whether the exception of one group matches a request of the other. */
static bool groups_meet(const struct bounds *a, const struct group *of_a, const struct group *g)
{
    bool user = !a->has_user, source = !a->has_source;
    for (size_t i = 0; i < g->users.n && !user; i++) {
        user = a->glob && str_glob(buf_view(&a->user), g->users.v[i], false);
        for (size_t k = 0; k < of_a->users.n && !a->glob && !user; k++)
            user = str_eq(of_a->users.v[k], g->users.v[i]);
    }
    for (size_t i = 0; i < g->sources.n && !source; i++) {
        struct ip ip = {.known = true};
        memcpy(ip.b, g->sources.v[i].p, sizeof ip.b);
        source = cidr_contains(&a->source, &ip);
    }
    return user && source;
}

bool texts_add_all(struct texts *to, const struct texts *from)
{
    for (size_t i = 0; i < from->n; i++)
        if (texts_add(to, from->v[i]) == SIZE_MAX)
            return false;
    return true;
}

static bool group_take(struct group *to, struct group *g)
{
    struct plight *p = &to->plight;
    const unsigned urls = 1u << CAUSE_URL_LEADING | 1u << CAUSE_URL_NORMAL;
    const bool zones = (g->plight.causes & p->causes & 1u << CAUSE_ZONE) && g->plight.zone_minutes != p->zone_minutes;
    if (zones || ((g->plight.causes | p->causes) & urls) == urls) {
        g->apart = true; /* one rule reads a Time in one zone, and compares URLs in one way */
        return true;
    }
    if (g->plight.causes & 1u << CAUSE_ZONE)
        p->zone_minutes = g->plight.zone_minutes;
    if (g->plight.hmac_bits && (!p->hmac_bits || g->plight.hmac_bits < p->hmac_bits))
        p->hmac_bits = g->plight.hmac_bits;
    p->c14n |= g->plight.c14n;
    p->causes |= g->plight.causes;
    p->late_us = g->plight.late_us > p->late_us ? g->plight.late_us : p->late_us;
    p->early_us = g->plight.early_us > p->early_us ? g->plight.early_us : p->early_us;
    to->count += g->count;
    to->networks += g->networks;
    to->first_us = g->first_us < to->first_us ? g->first_us : to->first_us;
    to->last_us = g->last_us > to->last_us ? g->last_us : to->last_us;
    to->nameless |= g->nameless;
    to->placeless |= g->placeless;
    g->count = 0; /* gone */
    return texts_add_all(&to->users, &g->users) && texts_add_all(&to->sources, &g->sources);
}

static bool group_exceptional(const struct group *g)
{
    return g->count && group_excused(g);
}

static bool groups_join_pair(struct group *x, struct group *y, bool *joined)
{
    struct bounds bx, by;
    bool ok = true;
    const bool one = bounds_of(x, &bx), other = bounds_of(y, &by);
    if (one && other && (groups_meet(&bx, x, y) || groups_meet(&by, y, x))) {
        ok = group_take(x, y);
        *joined = true;
    }
    buf_free(&bx.user);
    buf_free(&by.user);
    return ok;
}

/* Of one cause and rule, whatever their networks and domains are. */
static bool groups_akin(const struct group *x, const struct group *y)
{
    const struct plight *p = &x->plight, *q = &y->plight;
    return p->causes == q->causes && p->rule == q->rule && x->form == y->form && p->service == q->service &&
           p->zone_minutes == q->zone_minutes &&
           ((p->causes & CAUSES_SUCH_AS) || str_eq(p->shown, q->shown) || (!p->shown.p && !q->shown.p));
}

/* A group that has much more than is usual among its kind stays its own: who sends so much is worth a line. */
static size_t groups_little(const struct advice *a, const struct group *g)
{
    enum { FEW = 4, MUCH = 2 };
    size_t n = 0, requests = 0;
    for (size_t i = 0; i < a->keys.n; i++) {
        const struct group *x = a->groups + i;
        if (x->count && groups_akin(x, g)) {
            n++;
            requests += x->count;
        }
    }
    return n > FEW ? MUCH * requests / n : 0;
}

static bool groups_gather(struct advice *a)
{
    for (size_t i = 0; i < a->keys.n; i++) {
        struct group *x = a->groups + i;
        if (!x->count || group_excused(x) || x->apart)
            continue;
        const size_t little = groups_little(a, x);
        for (size_t k = i + 1; k < a->keys.n && (x->count <= little || x->networks > 1); k++) {
            struct group *y = a->groups + k;
            if (y->count && y->count <= little && !y->apart && groups_akin(x, y) && !group_take(x, y))
                return false;
        }
    }
    return true;
}

bool groups_join(struct advice *a)
{
    if (!groups_gather(a))
        return false;
    bool joined = true;
    while (joined) {
        joined = false;
        for (size_t i = 0; i < a->keys.n; i++)
            for (size_t k = i + 1; k < a->keys.n; k++) {
                struct group *x = a->groups + i, *y = a->groups + k;
                if (group_exceptional(x) && group_exceptional(y) && x->plight.rule == y->plight.rule &&
                    x->form == y->form && !groups_join_pair(x, y, &joined))
                    return false;
            }
    }
    return true;
}
