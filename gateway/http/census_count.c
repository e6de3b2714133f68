#include <stdlib.h>
#include <string.h>

#include "http/census_inside.h"

#define HOUR_US (3600 * US_PER_S)
#define DAY_US (24 * HOUR_US)

/* A step into a newer hour empties those between; what is older than all that is kept is only in the total. */
static void span_step(uint32_t *v, int64_t n, int64_t *newest, int64_t number)
{
    const int64_t from = number - *newest > n ? number - n : *newest;
    for (int64_t i = from + 1; i <= number; i++)
        v[i % n] = 0;
    if (number > *newest)
        *newest = number;
    if (number > *newest - n && v[number % n] < UINT32_MAX)
        v[number % n]++;
}

static void span_add(struct span *s, int64_t us)
{
    if (us < 0)
        return;
    span_step(s->hours, SPAN_HOURS, &s->hour, us / HOUR_US);
    span_step(s->days, SPAN_DAYS, &s->day, us / DAY_US);
    s->first_us = s->total++ ? s->first_us : us;
    s->last_us = us > s->last_us ? us : s->last_us;
}

static void span_out(const uint32_t *v, int64_t n, int64_t newest, int64_t now, uint32_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        const int64_t number = now - i;
        out[i] = number >= 0 && number <= newest && number > newest - n ? v[number % n] : 0;
    }
}

void span_read(const struct span *s, int64_t now_us, uint32_t hours[SPAN_HOURS], uint32_t days[SPAN_DAYS])
{
    span_out(s->hours, SPAN_HOURS, s->hour, now_us / HOUR_US, hours);
    span_out(s->days, SPAN_DAYS, s->day, now_us / DAY_US, days);
}

static void bin_add(struct bin *v, int64_t n, int64_t step_us, const struct note *note)
{
    const int64_t number = note->time_us / step_us;
    if (note->time_us < 0)
        return;
    struct bin *b = &v[number % n];
    if (number < b->number) /* a clock that stepped back */
        return;
    if (number > b->number)
        *b = (struct bin){.number = number};
    b->n[note->accepted ? 1 : 0][note->reason]++;
}

static uint64_t mix(uint64_t h, struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * UINT64_C(0x9e3779b97f4a7c15);
    h ^= h >> 32;
    h *= UINT64_C(0xd6e8feb86659fd93);
    return (h ^ h >> 32) | 1; /* 0 is a free place */
}

static bool cell_is(const struct cell *c, uint64_t hash, uint32_t of, struct str user)
{
    return c->hash == hash && c->of == of && str_eq((struct str){c->user, c->user_n}, user);
}

/* The user's cell; `make`: one is made for him where there is none, else NULL. */
static struct cell *cell_of(const struct census *t, struct cells *all, uint32_t of, struct str user, bool make)
{
    const uint64_t hash = mix(t->seed + of * UINT64_C(0x100000001b3), user);
    struct cell *set = all->v + hash / 2 % (all->n / CELL_WAYS) * CELL_WAYS, *least = set;
    for (size_t i = 0; i < CELL_WAYS; i++) {
        if (cell_is(&set[i], hash, of, user))
            return &set[i];
        if (set[i].weight < least->weight)
            least = &set[i];
    }
    if (!make)
        return NULL;
    all->dropped += least->hash != 0;
    *least = (struct cell){.hash = hash, .of = of, .user_n = (uint16_t)user.n};
    memcpy(least->user, user.p, user.n);
    return least;
}

static void cell_touch(struct cell *c, int64_t us)
{
    c->first_us = c->count++ ? c->first_us : us;
    c->last_us = us;
}

static uint64_t pass_hash(const struct census *t, struct str rule, unsigned what)
{
    return mix(t->seed ^ (what + 1), rule);
}

static struct pass *pass_find(struct census *t, uint64_t hash, struct str rule, unsigned what)
{
    for (size_t i = 0; i < PASSES; i++)
        if (t->pass_hash[i] == hash && t->pass[i].what == what && str_eq_z(rule, t->pass[i].rule))
            return &t->pass[i];
    return NULL;
}

struct pass *census_pass(struct census *t, struct str rule, unsigned what)
{
    return pass_find(t, pass_hash(t, rule, what), rule, what);
}

struct pass *census_pass_of(struct census *t, struct str rule, unsigned what)
{
    const uint64_t hash = pass_hash(t, rule, what);
    struct pass *p = pass_find(t, hash, rule, what);
    if (p)
        return p;
    size_t place = 0;
    for (size_t i = 0; i < PASSES && t->pass_hash[place]; i++)
        if (!t->pass_hash[i] || t->pass[i].span.last_us < t->pass[place].span.last_us)
            place = i;
    for (size_t i = 0; i < t->passing.n && t->pass_hash[place]; i++)
        if (t->passing.v[i].hash && t->passing.v[i].of == t->pass[place].number)
            t->passing.v[i] = (struct cell){0};
    t->pass_hash[place] = hash;
    p = &t->pass[place];
    *p = (struct pass){.what = (uint8_t)what, .number = ++t->pass_next};
    memcpy(p->rule, rule.p, rule.n);
    return p;
}

static void count_user(struct census *t, const struct pass *p, const struct noted *n)
{
    struct cell *c = cell_of(t, &t->passing, p->number, n->user, true);
    cell_touch(c, n->n.time_us);
    c->v[0] = n->n.proven;
    c->weight = c->count;
}

static void count_passes(struct census *t, const struct noted *n)
{
    if (!n->rule.n)
        return;
    struct pass *p = census_pass_of(t, n->rule, PASS_RULE);
    p->exception = n->n.exception;
    if (!n->n.accepted) {
        p->rejected++;
        return;
    }
    span_add(&p->span, n->n.time_us);
    if (n->n.exception)
        count_user(t, p, n);
    for (unsigned i = 0; i < SHADOW_COUNT; i++) {
        if (!(n->n.shadow & 1u << i))
            continue;
        p = census_pass_of(t, n->rule, i);
        span_add(&p->span, n->n.time_us);
        count_user(t, p, n);
    }
}

static uint64_t permille(int64_t skew_ms, int64_t limit_ms)
{
    const int64_t apart = skew_ms < 0 ? -skew_ms : skew_ms;
    return limit_ms > 0 ? (uint64_t)apart * 1000 / (uint64_t)limit_ms : 0;
}

/* Only who is a fifth of the way to a refusal takes a place; who has one keeps it, to be seen mended. */
static void count_clock(struct census *t, const struct noted *n)
{
    enum { FAR = 200 };
    if (n->n.skew_us == TIME_NONE || !n->user.n)
        return;
    const int64_t ms = n->n.skew_us / 1000, limit = (ms < 0 ? n->n.future_us : n->n.past_us) / 1000;
    const uint64_t far = permille(ms, limit);
    struct cell *c = cell_of(t, &t->clocks, n->n.proven, n->user, far >= FAR);
    if (!c)
        return;
    const bool fresh = c->count == 0;
    cell_touch(c, n->n.time_us);
    c->v[CLOCK_FIRST] = fresh ? ms : c->v[CLOCK_FIRST];
    c->v[CLOCK_MEAN] = fresh ? ms : c->v[CLOCK_MEAN] + (ms - c->v[CLOCK_MEAN]) / 8;
    c->v[CLOCK_WORST] = fresh || permille(ms, 1000) > permille(c->v[CLOCK_WORST], 1000) ? ms : c->v[CLOCK_WORST];
    c->v[CLOCK_LAST] = ms;
    c->v[CLOCK_LIMIT] = limit;
    c->weight = far + 1;
}

static void count_key(struct census *t, const struct noted *n, enum key_type type)
{
    const uint8_t why = n->n.old[type];
    struct cell *c = cell_of(t, &t->keys, type, n->user, why != KEY_NOT_OLD);
    if (!c)
        return;
    if (why == KEY_NOT_OLD) { /* he has moved on */
        *c = (struct cell){0};
        return;
    }
    cell_touch(c, n->n.time_us);
    c->weight = (uint64_t)n->n.time_us;
    c->v[KEY_WHY] = why;
    c->v[KEY_UNTIL_US] = n->n.old_until_us[type];
    c->more_n = (uint16_t)n->key[type].n;
    memcpy(c->more, n->key[type].p, n->key[type].n);
}

static void count_renewed(struct census *t, const struct noted *n)
{
    if (!n->renewed[0].n)
        return;
    struct renewed *r = &t->renewed[t->renewed_n++ % RENEWED];
    *r = (struct renewed){.time_us = n->n.time_us, .user_n = (uint16_t)n->user.n};
    memcpy(r->user, n->user.p, n->user.n);
    for (int i = 0; i < 2; i++) {
        r->id_n[i] = (uint16_t)n->renewed[i].n;
        memcpy(r->id[i], n->renewed[i].p, n->renewed[i].n);
    }
}

void census_count(struct census *t, const struct noted *n)
{
    t->counted++;
    bin_add(t->fine, FINE_BINS, FINE_S * US_PER_S, &n->n);
    bin_add(t->coarse, COARSE_BINS, COARSE_S * US_PER_S, &n->n);
    count_passes(t, n);
    count_clock(t, n);
    for (int type = 0; type < 2; type++)
        if (n->n.used[type] && n->user.n)
            count_key(t, n, (enum key_type)type);
    count_renewed(t, n);
}
