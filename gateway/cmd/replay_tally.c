#include <stdlib.h>
#include <string.h>

#include "cmd/replay.h"

const char *change_name(enum change c)
{
    static const char *const NAMES[] = {
#define CHANGE_NAME(e, name, says) name,
        CHANGE_LIST(CHANGE_NAME)
#undef CHANGE_NAME
    };
    return NAMES[c];
}

const char *change_says(enum change c)
{
    static const char *const SAYS[] = {
#define CHANGE_SAYS(e, name, says) says,
        CHANGE_LIST(CHANGE_SAYS)
#undef CHANGE_SAYS
    };
    return SAYS[c];
}

static bool same_shadow(const struct record *r, const struct rejudged *again)
{
    size_t were = 0, are = 0;
    for (size_t i = 0; i < SHADOW_COUNT; i++)
        were += r->shadow[i] != REASON_OK;
    for (size_t i = 0; i < SHADOW_COUNT; i++) {
        if (again->shadow[i] == REASON_OK)
            continue;
        bool found = false;
        for (size_t k = 0; k < SHADOW_COUNT; k++)
            found |= r->shadow[k] == again->shadow[i];
        if (!found)
            return false;
        are++;
    }
    return were == are;
}

enum change change_of(const struct record *r, const struct rejudged *again)
{
    if (again->untouched)
        return CHANGE_NONE;
    if (again->outcome == OUTCOME_OPEN)
        return !r->accepted && again->open == 1u << CHECK_REPLAY ? CHANGE_REPLAYS_APART : CHANGE_OPEN;
    if ((again->outcome == OUTCOME_ACCEPT) != r->accepted)
        return r->accepted ? CHANGE_REFUSED : CHANGE_ACCEPTED;
    if (!r->accepted && (again->reason_open || again->reason != r->reason))
        return CHANGE_REASON;
    if (again->response_judged && r->response_rule.p && !again->response) /* upstream.invalid: as bad as a refusal */
        return CHANGE_REPLY_LOST;
    if (!same_shadow(r, again))
        return CHANGE_SHADOW;
    if (again->shadow_open)
        return CHANGE_SHADOW_OPEN;
    if (again->response_judged && r->response_rule.p &&
        (!again->response || !str_eq_z(r->response_rule, again->response->id)))
        return CHANGE_REPLY;
    const bool same = again->rule ? str_eq_z(r->rule, again->rule->id) : !r->rule.p;
    return same ? CHANGE_NONE : CHANGE_RULE;
}

static size_t tally_hash(struct str s)
{
    uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * UINT64_C(1099511628211);
    return (size_t)(h ^ h >> 32);
}

static struct tally_row *tally_place(const struct tally *t, struct str name)
{
    size_t i = tally_hash(name) & (t->cap - 1);
    while (t->rows[i].name && !str_eq_z(name, t->rows[i].name))
        i = (i + 1) & (t->cap - 1);
    return &t->rows[i];
}

static bool tally_grow(struct tally *t)
{
    struct tally more = {.n = t->n, .cap = t->cap ? 2 * t->cap : 64};
    more.rows = calloc(more.cap, sizeof *more.rows);
    if (!more.rows)
        return false;
    for (size_t i = 0; i < t->cap; i++)
        if (t->rows[i].name)
            *tally_place(&more, str_z(t->rows[i].name)) = t->rows[i];
    free(t->rows);
    *t = more;
    return true;
}

bool tally_add(struct tally *t, struct str name, enum change c)
{
    if (4 * (t->n + 1) > 3 * t->cap && !tally_grow(t))
        return false;
    struct tally_row *row = tally_place(t, name);
    if (!row->name) {
        row->name = str_dup(name);
        if (!row->name)
            return false;
        t->n++;
    }
    row->counts[c]++;
    return true;
}

static size_t changed(const struct tally_row *row)
{
    size_t n = 0;
    for (int c = 0; c < CHANGE_NONE; c++)
        n += row->counts[c];
    return n;
}

static int by_changes(const void *x, const void *y)
{
    const struct tally_row *a = *(const struct tally_row *const *)x, *b = *(const struct tally_row *const *)y;
    const size_t m = changed(a), n = changed(b);
    if (m != n)
        return m > n ? -1 : 1;
    return strcmp(a->name, b->name);
}

const struct tally_row **tally_sorted(const struct tally *t, size_t *n)
{
    const struct tally_row **v = calloc(t->n + 1, sizeof(const struct tally_row *));
    *n = 0;
    for (size_t i = 0; v && i < t->cap; i++)
        if (t->rows[i].name)
            v[(*n)++] = &t->rows[i];
    if (v && *n)
        qsort(v, *n, sizeof(const struct tally_row *), by_changes);
    return v;
}

size_t tally_users(const struct tally *t, enum change c)
{
    size_t n = 0;
    for (size_t i = 0; i < t->cap; i++)
        n += t->rows[i].name && t->rows[i].counts[c] > 0;
    return n;
}

void tally_free(struct tally *t)
{
    for (size_t i = 0; i < t->cap; i++)
        free(t->rows[i].name);
    free(t->rows);
    *t = (struct tally){0};
}
