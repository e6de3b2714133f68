#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/locked.h"
#include "base/log.h"
#include "base/timestamp.h"
#include "keys/keylife.h"

enum {
    TURN_MS = 400,
    PATIENCE_MS = 300, /* for another writer, of the half second that an exchange waits */
    TELL_EACH_S = 60,
    AWAY_LOOK_MS = 250, /* a database that is away is looked for so often where somebody waits; it fits into his wait */
    AT_ONCE_MS = 100    /* who takes longer to say that it is away is not waited for */
};

/* What one caller asked for; its texts in one block behind it. */
struct errand {
    struct errand *next;
    int64_t asked_us; /* monotonic */
    struct key_wish wishes[KEYKEEPER_WISHES];
    struct key_fate fates[KEYKEEPER_WISHES];
    size_t n;
    void (*done)(void *arg, const struct key_fate *v, size_t n);
    void *arg;
    char text[];
};

/* Who waits for a look. */
struct looker {
    struct looker *next;
    void (*done)(void *arg);
    void *arg;
};

struct keykeeper {
    struct keystore *ks;
    void (*turn)(void *arg, bool ok, bool changed, const char *why);
    void *arg;
    struct locked_thread thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    struct errand *first, **last;
    size_t waiting;
    struct looker *lookers;
    size_t looking;
    bool lost; /* the last look failed, and the next would, or would not tell in time */
    int64_t told_us; /* the thread's own; monotonic: when the log last told of what was put off; 0: never */
    bool ends;
};

static void errand_free(struct errand *e)
{
    key_fates_free(e->fates, e->n);
    locked_free(e);
}

static struct str copy_text(char **at, struct str s)
{
    if (!s.p)
        return STR_MISSING;
    char *to = *at;
    memcpy(to, s.p, s.n);
    *at += s.n;
    return (struct str){to, s.n};
}

static struct errand *errand_new(const struct key_wish *wishes, size_t n)
{
    size_t text = 1;
    for (size_t i = 0; i < n; i++)
        text += wishes[i].user.n + wishes[i].id.n + wishes[i].trk.n;
    struct errand *e = locked_alloc(sizeof *e + text);
    if (!e)
        return NULL;
    char *at = e->text;
    e->asked_us = time_mono_us();
    e->n = n;
    for (size_t i = 0; i < n; i++) {
        e->wishes[i] = wishes[i];
        e->wishes[i].user = copy_text(&at, wishes[i].user);
        e->wishes[i].id = copy_text(&at, wishes[i].id);
        e->wishes[i].trk = copy_text(&at, wishes[i].trk);
    }
    return e;
}

bool keykeeper_ask(struct keykeeper *k, const struct key_wish *wishes, size_t n,
                   void (*done)(void *arg, const struct key_fate *v, size_t n), void *arg)
{
    struct errand *e = n > 0 && n <= KEYKEEPER_WISHES ? errand_new(wishes, n) : NULL;
    if (!e)
        return false;
    e->done = done;
    e->arg = arg;
    pthread_mutex_lock(&k->lock);
    const bool ok = !k->ends && k->waiting < KEYKEEPER_WAITING_MAX;
    if (ok) {
        *k->last = e;
        k->last = &e->next;
        k->waiting++;
        pthread_cond_signal(&k->wake);
    }
    pthread_mutex_unlock(&k->lock);
    if (!ok)
        errand_free(e);
    return ok;
}

bool keykeeper_look(struct keykeeper *k, void (*done)(void *arg), void *arg)
{
    struct looker *l = keystore_is_shared(k->ks) ? calloc(1, sizeof *l) : NULL;
    if (!l)
        return false;
    l->done = done;
    l->arg = arg;
    pthread_mutex_lock(&k->lock);
    const bool ok = !k->ends && !k->lost && k->looking < KEYKEEPER_LOOKING_MAX;
    if (ok) {
        l->next = k->lookers;
        k->lookers = l;
        k->looking++;
        pthread_cond_signal(&k->wake);
    }
    pthread_mutex_unlock(&k->lock);
    if (!ok)
        free(l);
    return ok;
}

static void defer(struct errand *e, const char *text)
{
    for (size_t i = 0; i < e->n; i++) {
        e->fates[i].outcome = KEY_DEFERRED;
        detail_set(&e->fates[i].why, "%s", text);
    }
}

/* Replies go on without new keys, so that nobody else would say why there are none. */
static void tell_deferred(struct keykeeper *k, const char *why)
{
    const int64_t now = time_mono_us();
    if (k->told_us && now - k->told_us < TELL_EACH_S * US_PER_S)
        return;
    k->told_us = now;
    log_warn("keys", keystore_where(k->ks), "no key can be offered, learnt or confirmed at present: %s", why);
}

/* All that is still worth doing, in one transaction; the callbacks come after its commit. */
static void run_errands(struct keykeeper *k, struct errand *first)
{
    enum { ALL = KEYKEEPER_WAITING_MAX * KEYKEEPER_WISHES };
    struct key_wish *wishes = locked_alloc(ALL * sizeof *wishes);
    struct key_fate *fates = locked_alloc(ALL * sizeof *fates);
    const int64_t oldest = time_mono_us() - KEYKEEPER_WAIT_MS * INT64_C(1000);
    size_t n = 0, at = 0;
    for (struct errand *e = first; wishes && fates && e; e = e->next)
        for (size_t i = 0; e->asked_us >= oldest && i < e->n; i++)
            wishes[n++] = e->wishes[i];
    if (n)
        keystore_do(k->ks, wishes, n, PATIENCE_MS, fates);
    for (size_t i = 0; i < n; i++)
        if (fates[i].outcome == KEY_DEFERRED && wishes[i].deed != KEY_LEARN) {
            tell_deferred(k, fates[i].why.text);
            break;
        }
    while (first) {
        struct errand *e = first;
        first = e->next;
        if (wishes && fates && e->asked_us >= oldest) {
            memcpy(e->fates, fates + at, e->n * sizeof *fates);
            at += e->n;
        } else {
            defer(e, "the store did not come to it in time");
        }
        e->done(e->arg, e->fates, e->n);
        errand_free(e);
    }
    locked_free(wishes);
    locked_free(fates);
}

/* Those who wait for a look that is begun now. */
static struct looker *take_lookers(struct keykeeper *k)
{
    pthread_mutex_lock(&k->lock);
    struct looker *first = k->lookers;
    k->lookers = NULL;
    k->looking = 0;
    pthread_mutex_unlock(&k->lock);
    return first;
}

/* A database that is away, and says so at once, may be back at the next look: a key that another gateway has just
 * offered is worth that wait. */
static bool keykeeper_note(struct keykeeper *k)
{
    char why[256] = "";
    bool changed = false;
    struct looker *first = take_lookers(k);
    const int64_t at_once_us = time_mono_us() + AT_ONCE_MS * INT64_C(1000);
    const bool ok = keystore_refresh(k->ks, &changed, why, sizeof why);
    pthread_mutex_lock(&k->lock);
    k->lost = !ok && (!keystore_is_away(k->ks) || time_mono_us() > at_once_us);
    pthread_mutex_unlock(&k->lock);
    k->turn(k->arg, ok, changed, why);
    while (first) {
        struct looker *l = first;
        first = l->next;
        l->done(l->arg);
        free(l);
    }
    return ok;
}

/* Until something is asked for, or for a turn; a look comes no sooner than at `look_us`. The lock is held. */
static void wait_for_errands(struct keykeeper *k, int64_t turn_us, int64_t look_us)
{
    int rc = 0;
    while (!k->first && !k->ends && rc == 0) {
        const int64_t until_us = k->lookers && look_us < turn_us ? look_us : turn_us;
        const struct timespec until = {until_us / US_PER_S, until_us % US_PER_S * 1000};
        rc = pthread_cond_timedwait(&k->wake, &k->lock, &until);
    }
}

static bool has_lookers(struct keykeeper *k)
{
    pthread_mutex_lock(&k->lock);
    const bool any = k->lookers != NULL;
    pthread_mutex_unlock(&k->lock);
    return any;
}

static void *keykeeper_keep(void *arg)
{
    struct keykeeper *k = arg;
    int64_t turn_us = 0, look_us = 0;
    /* woken, it does not push aside a thread that serves, and so is late where one does: base/pace.h looks at that */
    if (sched_getscheduler(0) == SCHED_OTHER)
        (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    for (;;) {
        const int64_t now = time_mono_us();
        if (now >= turn_us || (now >= look_us && has_lookers(k))) {
            const bool ok = keykeeper_note(k);
            turn_us = time_mono_us() + TURN_MS * INT64_C(1000);
            look_us = now + (ok ? US_PER_S / KEYKEEPER_LOOKS_S : AWAY_LOOK_MS * INT64_C(1000));
        }
        pthread_mutex_lock(&k->lock);
        wait_for_errands(k, turn_us, look_us);
        struct errand *first = k->first;
        const bool ends = k->ends;
        k->first = NULL;
        k->last = &k->first;
        k->waiting = 0;
        pthread_mutex_unlock(&k->lock);
        for (struct errand *e = first; ends && e; e = e->next)
            e->asked_us = 0; /* they are deferred */
        if (first)
            run_errands(k, first);
        if (ends) {
            (void)keykeeper_note(k); /* nobody is left waiting */
            return NULL;
        }
    }
}

struct keykeeper *keykeeper_start(struct keystore *ks,
                                  void (*turn)(void *arg, bool ok, bool changed, const char *why), void *arg)
{
    struct keykeeper *k = calloc(1, sizeof *k);
    pthread_condattr_t attr;
    if (!k)
        return NULL;
    k->ks = ks;
    keystore_give_way(ks, true);
    k->turn = turn;
    k->arg = arg;
    k->last = &k->first;
    pthread_mutex_init(&k->lock, NULL); /* these cannot fail on Linux but for their arguments */
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (locked_thread_start(&k->thread, keykeeper_keep, k))
        return k;
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->lock);
    free(k);
    return NULL;
}

void keykeeper_stop(struct keykeeper *k)
{
    if (!k)
        return;
    keystore_give_way(k->ks, false); /* nobody is judged any more, and the process is to end */
    pthread_mutex_lock(&k->lock);
    k->ends = true;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->lock);
    locked_thread_join(&k->thread);
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->lock);
    free(k);
}
