#include <stdlib.h>
#include <string.h>

#include "http/census_inside.h"

enum { PASS_USERS_TOLD = 20, CLOCKS_TOLD = 200, KEYS_TOLD = 200 };
#define DAY_US (86400 * US_PER_S)

static void begin(struct census *t)
{
    pthread_mutex_lock(&t->lock);
    census_take(t);
}

static void census_end(struct census *t)
{
    pthread_mutex_unlock(&t->lock);
}

static void put_time(struct json *j, const char *key, int64_t us)
{
    char text[TIME_TEXT];
    if (us == TIME_NONE)
        return;
    time_format(us, false, text);
    json_string(j, key, str_z(text), 0);
}

static void put_counts(struct json *j, const char *key, const uint32_t *v, size_t n)
{
    json_array(j, key);
    for (size_t i = 0; i < n; i++)
        json_int(j, NULL, v[i]);
    json_end(j);
}

/* Without reasons that nobody met. */
static void put_bin(struct json *j, const struct bin *b, int64_t step_s)
{
    static const char *const VERDICTS[] = {"reject", "accept"};
    json_object(j, NULL);
    put_time(j, "from", b->number * step_s * US_PER_S);
    for (int verdict = 1; verdict >= 0; verdict--) {
        json_object(j, VERDICTS[verdict]);
        for (size_t r = 0; r < REASON_COUNT; r++)
            if (b->n[verdict][r])
                json_int(j, reason_name((enum reason)r), b->n[verdict][r]);
        json_end(j);
    }
    json_end(j);
}

/* The oldest first; steps in which nothing happened are left out, and the one that is not over is the last. */
static void put_bins(struct json *j, const char *key, const struct bin *v, int64_t n, int64_t step_s, int64_t now_us)
{
    const int64_t now = now_us / (step_s * US_PER_S);
    json_object(j, key);
    json_int(j, "step_s", step_s);
    json_int(j, "steps", n);
    put_time(j, "now", now * step_s * US_PER_S);
    json_array(j, "bins");
    for (int64_t number = now - n + 1; number <= now; number++)
        if (number >= 0 && v[number % n].number == number && number)
            put_bin(j, &v[number % n], step_s);
    json_end(j);
    json_end(j);
}

void census_tell_traffic(struct census *t, int64_t now_us, struct json *j)
{
    begin(t);
    json_object(j, NULL);
    put_time(j, "since", t->since_us);
    put_bins(j, "minutes", t->fine, FINE_BINS, FINE_S, now_us);
    put_bins(j, "day", t->coarse, COARSE_BINS, COARSE_S, now_us);
    json_end(j);
    census_end(t);
}

static int by_weight(const struct cell *a, const struct cell *b)
{
    return a->weight != b->weight ? (a->weight < b->weight ? 1 : -1) : a->last_us < b->last_us ? 1 : -1;
}

/* By whose they are, then the heaviest first. */
static int by_of(const void *x, const void *y)
{
    const struct cell *a = *(const struct cell *const *)x, *b = *(const struct cell *const *)y;
    return a->of != b->of ? (a->of < b->of ? -1 : 1) : by_weight(a, b);
}

static int heaviest(const void *x, const void *y)
{
    return by_weight(*(const struct cell *const *)x, *(const struct cell *const *)y);
}

/* Those in use, in order; the caller frees. NULL without memory, or where there are none. */
static const struct cell **in_order(const struct cells *all, int (*order)(const void *, const void *), size_t *n)
{
    const struct cell **v = calloc(all->n, sizeof(struct cell *));
    *n = 0;
    for (size_t i = 0; v && i < all->n; i++)
        if (all->v[i].hash)
            v[(*n)++] = &all->v[i];
    if (v)
        qsort(v, *n, sizeof(struct cell *), order);
    return v;
}

static void put_cell(struct json *j, const struct cell *c)
{
    json_string(j, "user", (struct str){c->user, c->user_n}, 0);
    json_int(j, "count", (int64_t)c->count);
    put_time(j, "first", c->first_us);
    put_time(j, "last", c->last_us);
}

static void put_pass_users(struct json *j, const struct cell *const *v, size_t n)
{
    json_array(j, "users");
    for (size_t i = 0; i < n && i < PASS_USERS_TOLD; i++) {
        json_object(j, NULL);
        put_cell(j, v[i]);
        json_bool(j, "proven", v[i]->v[0] != 0);
        json_end(j);
    }
    json_end(j);
    json_int(j, "users_known", (int64_t)n);
}

static void put_pass(struct json *j, const struct pass *p, int64_t now_us, const struct cell *const *v, size_t n)
{
    uint32_t hours[SPAN_HOURS], days[SPAN_DAYS];
    span_read(&p->span, now_us, hours, days);
    json_object(j, NULL);
    json_string(j, "rule", str_z(p->rule), 0);
    json_string(j, "by", p->what == PASS_RULE ? STR("exception") : str_z(shadow_name(p->what)), 0);
    json_int(j, "count", (int64_t)p->span.total);
    put_time(j, "first", p->span.first_us);
    put_time(j, "last", p->span.last_us);
    put_counts(j, "hours", hours, SPAN_HOURS);
    put_counts(j, "days", days, SPAN_DAYS);
    put_pass_users(j, v, n);
    json_end(j);
}

static void put_passes(struct census *t, int64_t now_us, struct json *j)
{
    size_t n;
    const struct cell **v = in_order(&t->passing, by_of, &n);
    json_array(j, "passes");
    for (size_t i = 0; v && i < PASSES; i++) {
        const struct pass *p = &t->pass[i];
        if (!t->pass_hash[i] || !p->span.total || (p->what == PASS_RULE && !p->exception))
            continue;
        size_t from = 0, to;
        while (from < n && v[from]->of < p->number)
            from++;
        for (to = from; to < n && v[to]->of == p->number;)
            to++;
        put_pass(j, p, now_us, v + from, to - from);
    }
    json_end(j);
    free(v);
}

void census_tell_passes(struct census *t, int64_t now_us, struct json *j)
{
    begin(t);
    json_object(j, NULL);
    put_time(j, "since", t->watched_us);
    put_time(j, "users_since", t->since_us);
    json_int(j, "forgotten", (int64_t)t->passing.dropped);
    put_passes(t, now_us, j);
    json_end(j);
    census_end(t);
}

static void put_clock(struct json *j, const struct cell *c)
{
    json_object(j, NULL);
    put_cell(j, c);
    json_bool(j, "proven", c->of != 0);
    json_int(j, "skew_ms", c->v[CLOCK_LAST]);
    json_int(j, "mean_ms", c->v[CLOCK_MEAN]);
    json_int(j, "worst_ms", c->v[CLOCK_WORST]);
    json_int(j, "first_ms", c->v[CLOCK_FIRST]);
    json_int(j, "limit_ms", c->v[CLOCK_LIMIT]);
    json_end(j);
}

void census_tell_clocks(struct census *t, int64_t now_us, struct json *j)
{
    size_t n;
    (void)now_us;
    begin(t);
    const struct cell **v = in_order(&t->clocks, heaviest, &n);
    json_object(j, NULL);
    put_time(j, "since", t->since_us);
    json_int(j, "forgotten", (int64_t)t->clocks.dropped);
    json_int(j, "users_known", (int64_t)n);
    json_array(j, "users");
    for (size_t i = 0; v && i < n && i < CLOCKS_TOLD; i++)
        put_clock(j, v[i]);
    json_end(j);
    json_end(j);
    free(v);
    census_end(t);
}

static void put_old_key(struct json *j, const struct cell *c)
{
    json_object(j, NULL);
    put_cell(j, c);
    json_string(j, "type", str_z(key_type_name((enum key_type)c->of)), 0);
    json_string(j, "id", (struct str){c->more, c->more_n}, 0);
    json_string(j, "why", c->v[KEY_WHY] == KEY_OLD_RETIRING ? STR("retiring") : STR("offered"), 0);
    put_time(j, "until", c->v[KEY_UNTIL_US]);
    json_end(j);
}

static void put_renewed(const struct census *t, struct json *j)
{
    json_array(j, "renewed");
    for (uint64_t i = 0; i < RENEWED && i < t->renewed_n; i++) {
        const struct renewed *r = &t->renewed[(t->renewed_n - 1 - i) % RENEWED];
        json_object(j, NULL);
        put_time(j, "time", r->time_us);
        json_string(j, "user", (struct str){r->user, r->user_n}, 0);
        json_array(j, "ids");
        for (int k = 0; k < 2; k++)
            if (r->id_n[k])
                json_string(j, NULL, (struct str){r->id[k], r->id_n[k]}, 0);
        json_end(j);
        json_end(j);
    }
    json_end(j);
}

void census_tell_keys(struct census *t, int64_t now_us, struct json *j)
{
    size_t n;
    (void)now_us;
    begin(t);
    const struct cell **v = in_order(&t->keys, heaviest, &n);
    json_int(j, "old_forgotten", (int64_t)t->keys.dropped);
    json_int(j, "old_known", (int64_t)n);
    json_array(j, "old");
    for (size_t i = 0; v && i < n && i < KEYS_TOLD; i++)
        put_old_key(j, v[i]);
    json_end(j);
    put_renewed(t, j);
    free(v);
    census_end(t);
}

bool census_use(struct census *t, struct str rule, int64_t now_us, struct census_use *out)
{
    begin(t);
    const struct pass *p = census_pass(t, rule, PASS_RULE);
    *out = (struct census_use){.first_us = TIME_NONE, .last_us = TIME_NONE};
    if (p) {
        out->accepted = p->span.total;
        out->rejected = p->rejected;
        span_read(&p->span, now_us, out->hours, out->days);
    }
    if (p && p->span.total) {
        out->first_us = p->span.first_us;
        out->last_us = p->span.last_us;
    }
    census_end(t);
    return p != NULL;
}

size_t census_drifting(struct census *t, int64_t now_us, unsigned percent)
{
    size_t n = 0;
    begin(t);
    for (size_t i = 0; i < t->clocks.n; i++) {
        const struct cell *c = &t->clocks.v[i];
        n += c->hash && c->of && c->weight > percent * 10u && now_us - c->last_us < DAY_US;
    }
    census_end(t);
    return n;
}
