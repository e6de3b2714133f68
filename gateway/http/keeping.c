#include <stdlib.h>

#include "base/locked.h"
#include "http/server.h"

/* One errand. The keeper has it until `answered` is called, which happens exactly once; then its worker. */
struct keeping {
    struct keepings *all;
    struct keeping *next;
    void (*done)(void *arg, const struct key_fate *v, size_t n); /* the worker's alone; NULL: cancelled */
    void *arg;
    struct key_fate fates[KEYKEEPER_WISHES]; /* copies */
    size_t n;
};
/* What was answered, until the worker comes to it. */
struct keepings {
    struct worker *worker;
    pthread_mutex_t lock;
    struct keeping *first, **last;
    bool closed;
};

struct keepings *keepings_new(struct worker *w)
{
    struct keepings *all = calloc(1, sizeof *all);
    if (!all)
        return NULL;
    all->worker = w;
    all->last = &all->first;
    pthread_mutex_init(&all->lock, NULL); /* without attributes it cannot fail on Linux */
    return all;
}

static void keeping_free(struct keeping *k)
{
    key_fates_free(k->fates, k->n);
    locked_free(k);
}

/* What has no memory for its ID is as good as deferred. */
static void copy_fate(struct key_fate *to, const struct key_fate *from)
{
    *to = *from;
    char *id = str_dup(from->id);
    to->id = (struct str){id, id ? from->id.n : 0};
    if (from->id.p && !id)
        to->outcome = KEY_DEFERRED;
}

/* In the keeper's thread. The wake is within the lock: after keepings_close() there is nobody to be woken. */
static void answered(void *arg, const struct key_fate *v, size_t n)
{
    struct keeping *k = arg;
    struct keepings *all = k->all;
    for (size_t i = 0; i < n; i++)
        copy_fate(&k->fates[i], &v[i]);
    k->n = n;
    pthread_mutex_lock(&all->lock);
    const bool closed = all->closed;
    if (!closed) {
        *all->last = k;
        all->last = &k->next;
        worker_wake(all->worker);
    }
    pthread_mutex_unlock(&all->lock);
    if (closed)
        keeping_free(k);
}

static void looked(void *arg)
{
    answered(arg, NULL, 0);
}

static struct keeping *keeping_new(struct worker *w, void (*done)(void *arg, const struct key_fate *v, size_t n),
                                   void *arg)
{
    struct keeping *k = locked_alloc(sizeof *k); /* its fates hold keys */
    if (k)
        *k = (struct keeping){.all = w->keepings, .done = done, .arg = arg};
    return k;
}

struct keeping *keeping_look(struct worker *w, void (*done)(void *arg, const struct key_fate *v, size_t n), void *arg)
{
    struct keeping *k = keeping_new(w, done, arg);
    if (k && keykeeper_look(w->server->keeper, looked, k))
        return k;
    locked_free(k);
    return NULL;
}

struct keeping *keeping_ask(struct worker *w, const struct key_wish *wishes, size_t n,
                            void (*done)(void *arg, const struct key_fate *v, size_t n), void *arg)
{
    struct keeping *k = keeping_new(w, done, arg);
    if (k && keykeeper_ask(w->server->keeper, wishes, n, answered, k))
        return k;
    locked_free(k);
    return NULL;
}

void keeping_cancel(struct keeping *k)
{
    if (k)
        k->done = NULL;
}

static void confirmed(void *arg, const struct key_fate *v, size_t n)
{
    const enum key_type *type = arg;
    for (size_t i = 0; i < n; i++)
        gate_confirmed(*type, &v[i]);
}

void keeping_confirm(struct worker *w, const struct judgement *j)
{
    static enum key_type types[] = {KEY_INK, KEY_TRK}; /* never written */
    struct key_wish wishes[2];
    const size_t n = gate_confirms(j, wishes);
    for (size_t i = 0; i < n; i++) /* too many wait: the next request that uses it does it */
        (void)!keykeeper_ask(w->server->keeper, &wishes[i], 1, confirmed, &types[wishes[i].type]);
}

static struct keeping *take_answered(struct keepings *all, bool close)
{
    pthread_mutex_lock(&all->lock);
    struct keeping *first = all->first;
    all->first = NULL;
    all->last = &all->first;
    all->closed |= close;
    pthread_mutex_unlock(&all->lock);
    return first;
}

void keepings_turn(struct keepings *all)
{
    struct keeping *k = take_answered(all, false);
    while (k) {
        struct keeping *next = k->next;
        if (k->done)
            k->done(k->arg, k->fates, k->n);
        keeping_free(k);
        k = next;
    }
}

void keepings_close(struct keepings *all)
{
    struct keeping *k = take_answered(all, true);
    while (k) {
        struct keeping *next = k->next;
        keeping_free(k);
        k = next;
    }
}

void keepings_free(struct keepings *all)
{
    if (!all)
        return;
    pthread_mutex_destroy(&all->lock);
    free(all);
}
