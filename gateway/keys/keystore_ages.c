#include <string.h>

#include "keys/keystore_inside.h"

#define DAY_US (INT64_C(86400) * US_PER_S)

const unsigned KEY_AGE_DAYS[KEY_AGE_STEPS - 1] = {1, 7, 30, 90, 180, 365};

struct ages {
    struct key_ages *out;
    int64_t now_us;
};

/* Kept in order, the oldest first: few are ever older than those that are there. */
static void keep_oldest(struct key_ages *a, const struct key_row *row)
{
    struct key_oldest *v = a->oldest[row->key.type];
    size_t *n = &a->oldest_n[row->key.type], at = *n;
    while (at > 0 && v[at - 1].since > row->key.since)
        at--;
    if (at == KEY_OLDEST)
        return;
    *n += *n < KEY_OLDEST;
    memmove(v + at + 1, v + at, (*n - 1 - at) * sizeof *v);
    v[at].since = row->key.since;
    v[at].user_n = row->user.n < sizeof v[at].user ? row->user.n : sizeof v[at].user;
    memcpy(v[at].user, row->user.p, v[at].user_n);
}

static bool count_age(void *arg, const struct key_row *row)
{
    const struct ages *a = arg;
    const struct key *k = &row->key;
    if (k->state != KEY_ACTIVE || !key_usable(k, a->now_us) || k->since == TIME_NONE)
        return true;
    size_t step = 0;
    while (step < KEY_AGE_STEPS - 1 && a->now_us - k->since >= KEY_AGE_DAYS[step] * DAY_US)
        step++;
    a->out->n[k->type][step]++;
    keep_oldest(a->out, row);
    return true;
}

void keystore_ages(struct keystore *ks, int64_t now_us, struct key_ages *out)
{
    memset(out, 0, sizeof *out);
    pthread_rwlock_rdlock(&ks->locks->table);
    (void)table_each(ks->now.table, count_age, &(struct ages){out, now_us});
    pthread_rwlock_unlock(&ks->locks->table);
}
