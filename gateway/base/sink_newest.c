#include <stdlib.h>
#include <string.h>

#include "base/sink_target.h"

enum { NEWEST = 1000 };

struct kept {
    char *p;
    size_t n, cap;
};

struct sink_newest {
    pthread_mutex_t lock;
    struct kept kept[NEWEST];
    uint64_t next; /* how many lines there ever were */
};

struct sink_newest *sink_newest_new(void)
{
    struct sink_newest *r = calloc(1, sizeof *r);
    if (r)
        pthread_mutex_init(&r->lock, NULL);
    return r;
}

void sink_newest_free(struct sink_newest *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < NEWEST; i++)
        free(r->kept[i].p);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void sink_newest_keep(struct sink_newest *r, struct str line)
{
    pthread_mutex_lock(&r->lock);
    struct kept *k = &r->kept[r->next % NEWEST];
    if (k->cap < line.n) {
        free(k->p);
        k->p = malloc(line.n);
        k->cap = k->p ? line.n : 0;
    }
    k->n = k->p ? line.n : 0;
    if (k->n)
        memcpy(k->p, line.p, line.n);
    r->next++;
    pthread_mutex_unlock(&r->lock);
}

/* A line at a time, so that no producer waits for more than one copy. Copies line `number` behind what `out` holds;
 * false where it is gone, or was never kept. */
static bool newest_copy(struct sink_newest *r, uint64_t number, struct buf *out)
{
    pthread_mutex_lock(&r->lock);
    const struct kept *k = &r->kept[number % NEWEST];
    const bool there = r->next <= number + NEWEST && k->n > 0;
    if (there)
        buf_str(out, (struct str){k->p, k->n});
    pthread_mutex_unlock(&r->lock);
    return there;
}

uint64_t sink_next_number(struct sink *s)
{
    struct sink_newest *r = sink_newest_of(s);
    pthread_mutex_lock(&r->lock);
    const uint64_t next = r->next;
    pthread_mutex_unlock(&r->lock);
    return next;
}

bool sink_follow(struct sink *s, uint64_t *at, uint64_t *lost, struct buf *out)
{
    for (uint64_t next; (next = sink_next_number(s)) > *at;) {
        const uint64_t oldest = next > NEWEST ? next - NEWEST : 0;
        if (*at < oldest) {
            *lost += oldest - *at;
            *at = oldest;
        }
        if (newest_copy(sink_newest_of(s), (*at)++, out))
            return !out->failed;
        ++*lost;
    }
    return false;
}

void sink_recent(struct sink *s, size_t n, sink_wanted *wanted, const void *arg, struct buf *out)
{
    const uint64_t next = sink_next_number(s);
    const uint64_t kept = next < NEWEST ? next : NEWEST;
    size_t found = 0;
    buf_char(out, '[');
    for (uint64_t i = 0; found < n && i < kept && !out->failed; i++) {
        const size_t before = out->n;
        if (found)
            buf_char(out, ',');
        const size_t from = out->n;
        const bool there = newest_copy(sink_newest_of(s), next - 1 - i, out) && !out->failed;
        if (there && (!wanted || wanted(arg, (struct str){out->p + from, out->n - from})))
            found++;
        else if (!out->failed)
            out->n = before;
    }
    buf_char(out, ']');
}
