/* Exceptions that differ in nothing but whom they are for become one rule: a fault that a whole fleet has is read, and
 * ended, in one place. It matches any of its users from any of its networks, which is more than each of its groups
 * alone; so it is made only where nobody who needs another exception is among them. */
#include <string.h>

#include "study/advise_inside.h"

enum { FEW = 4, PATTERNS_MAX = 64 }; /* few rules stay as they are: the narrowest */

void together_free(struct together *t)
{
    texts_free(&t->all.users);
    texts_free(&t->all.sources);
    texts_free(&t->users);
}

static bool together_alike(const struct group *x, const struct group *y)
{
    const struct plight *p = &x->plight, *q = &y->plight;
    return p->causes == q->causes && p->rule == q->rule && x->form == y->form && p->zone_minutes == q->zone_minutes &&
           p->hmac_bits == q->hmac_bits && p->c14n == q->c14n &&
           advice_window(p->late_us) == advice_window(q->late_us) &&
           advice_window(p->early_us) == advice_window(q->early_us);
}

/* Everybody in `from` whom the patterns of `users` match; of none nothing is demanded. */
static bool together_has_user(const struct texts *users, const struct texts *from)
{
    for (size_t i = 0; i < from->n; i++)
        for (size_t k = 0; k < users->n; k++)
            if (str_glob(users->v[k], from->v[i], false))
                return true;
    return !users->n || !from->n;
}

static bool together_has_source(const struct together *t, const struct texts *sources)
{
    for (size_t i = 0; i < sources->n; i++) {
        struct ip ip = {.known = true};
        memcpy(ip.b, sources->v[i].p, sizeof ip.b);
        for (size_t k = 0; k < t->network_count; k++)
            if (cidr_contains(t->networks + k, &ip))
                return true;
    }
    return !t->network_count || !sources->n;
}

/* Whether somebody of another exception would meet this one instead. */
static bool together_in_the_way(const struct together *t, const struct groups *v)
{
    for (size_t i = 0; i < v->n; i++) {
        const struct group *g = v->of[i];
        if (group_excused(g) && g->form == t->all.form && g->plight.rule == t->all.plight.rule &&
            !together_alike(g, &t->all) && together_has_source(t, &g->sources) &&
            together_has_user(&t->users, &g->users))
            return true;
    }
    return false;
}

/* Its own bounds beside those that are there. False: no memory. */
static bool together_add(struct together *t, const struct group *g, const struct bounds *b)
{
    struct group *all = &t->all;
    if (!all->count)
        *all = (struct group){.plight = g->plight, .form = g->form, .first_us = g->first_us, .last_us = g->last_us};
    all->count += g->count;
    all->networks += g->networks;
    all->first_us = g->first_us < all->first_us ? g->first_us : all->first_us;
    all->last_us = g->last_us > all->last_us ? g->last_us : all->last_us;
    all->plight.late_us = g->plight.late_us > all->plight.late_us ? g->plight.late_us : all->plight.late_us;
    all->plight.early_us = g->plight.early_us > all->plight.early_us ? g->plight.early_us : all->plight.early_us;
    if (b->has_source)
        t->networks[t->network_count++] = b->source;
    if (b->glob && texts_add(&t->users, buf_view(&b->user)) == SIZE_MAX)
        return false;
    t->glob |= b->glob;
    return (!b->has_user || b->glob || texts_add_all(&t->users, &g->users)) &&
           texts_add_all(&all->users, &g->users) && texts_add_all(&all->sources, &g->sources);
}

static size_t together_patterns(const struct group *g, const struct bounds *b)
{
    return !b->has_user ? 0 : b->glob ? 1 : g->users.n;
}

/* Bounded in both, or by source alone where nothing names a user. */
static bool together_fits(const struct together *t, const struct group *g, const struct bounds *b)
{
    return b->has_source && t->network_count && t->network_count < TOGETHER_NETWORKS &&
           b->has_user == (t->users.n > 0) && t->users.n + together_patterns(g, b) <= PATTERNS_MAX;
}

static size_t together_kin(const struct groups *v, size_t at)
{
    size_t kin = 0;
    for (size_t i = at; i < v->n; i++)
        kin += !v->taken[i] && group_excused(v->of[i]) && together_alike(v->of[i], v->of[at]);
    return kin;
}

/* v[at], and with `kin` those behind it that are like it; whom it took is TAKEN_NOW. False: no memory. */
static bool together_gather(struct together *t, const struct groups *v, size_t at, bool kin)
{
    *t = (struct together){.network_count = 0};
    for (size_t i = at; i < (kin ? v->n : at + 1); i++) {
        struct bounds b;
        const struct group *g = v->of[i];
        if (v->taken[i] || !group_excused(g) || (i > at && !together_alike(g, v->of[at])))
            continue;
        const bool wanted = bounds_of(g, &b) && (i == at || together_fits(t, g, &b));
        const bool ok = !wanted || together_add(t, g, &b);
        buf_free(&b.user);
        if (!ok)
            return false;
        if (wanted)
            v->taken[i] = TAKEN_NOW;
    }
    return true;
}

static void together_settle(const struct groups *v, size_t at, enum taken as)
{
    for (size_t i = at; i < v->n; i++)
        if (v->taken[i] == TAKEN_NOW)
            v->taken[i] = (unsigned char)as;
}

bool together_of(struct together *t, const struct groups *v, size_t at)
{
    const bool many = together_kin(v, at) > FEW;
    bool ok = together_gather(t, v, at, many);
    if (ok && many && together_in_the_way(t, v)) {
        together_settle(v, at, TAKEN_NOT);
        together_free(t);
        ok = together_gather(t, v, at, false);
    }
    together_settle(v, at, TAKEN);
    return ok;
}
