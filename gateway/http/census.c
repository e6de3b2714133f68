#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "base/text.h"
#include "http/census_inside.h"

/* In the worker's thread: what is noted. */

static bool offered(const struct keyring *ring, enum key_type type)
{
    for (size_t i = 0; i < ring->n; i++)
        if (ring->keys[i].type == type && ring->keys[i].state == KEY_OFFERED)
            return true;
    return false;
}

static void note_key(struct note *n, const struct keyring *ring, const struct key *k)
{
    if (!k)
        return;
    n->used[k->type] = 1;
    n->old_until_us[k->type] = k->not_after;
    n->old[k->type] = k->state == KEY_RETIRING ? KEY_OLD_RETIRING
                      : k->state == KEY_ACTIVE && offered(ring, k->type) ? KEY_OLD_OFFERED
                                                                         : KEY_NOT_OLD;
}

static void note_keys(struct note *n, struct str text[2], const struct judgement *j)
{
    if (!j->proven || !j->signer)
        return;
    const struct key *trk = keyring_find(&j->ring, j->decision.claims.trk_id);
    if (trk && trk->type == KEY_TRK) {
        note_key(n, &j->ring, trk);
        text[KEY_TRK] = j->decision.claims.trk_id;
    }
    note_key(n, &j->ring, j->signer);
    text[j->signer->type] = j->decision.key_id;
}

static void note_judgement(struct note *n, const struct judgement *j)
{
    const struct decision *d = &j->decision;
    *n = (struct note){.time_us = d->time_us, .skew_us = d->skew_us, .accepted = d->accepted,
                       .reason = (uint8_t)d->reason, .proven = j->proven, .old_until_us = {TIME_NONE, TIME_NONE}};
    for (size_t i = 0; i < SHADOW_COUNT; i++)
        n->shadow |= d->shadow[i] != REASON_OK ? (uint16_t)(1u << i) : 0;
    if (!j->rule)
        return;
    n->past_us = j->rule->checks.past_us;
    n->future_us = j->rule->checks.future_us;
    n->exception = request_rule_loosened(j->rule, NULL, NULL) > 0;
}

static uint16_t census_put(char *bytes, size_t *at, struct str text, size_t max)
{
    const size_t n = text.p ? text_cut(text, max) : 0;
    memcpy(bytes + *at, n ? text.p : "", n);
    *at += n;
    return (uint16_t)n;
}

static void ring_copy(struct ring *r, size_t at, const void *from, size_t n)
{
    const size_t place = at % RING, first = n < RING - place ? n : RING - place;
    memcpy(r->bytes + place, from, first);
    memcpy(r->bytes, (const char *)from + first, n - first);
}

void census_note(struct census *t, unsigned worker, const struct judgement *j)
{
    struct ring *r = &t->rings[worker % t->ring_count];
    const struct decision *d = &j->decision;
    struct note n;
    struct str key[2] = {STR_MISSING, STR_MISSING};
    char bytes[NOTE_MAX];
    size_t size = sizeof n;
    note_judgement(&n, j);
    note_keys(&n, key, j);
    n.rule_n = census_put(bytes, &size, str_z(d->rule), NOTE_RULE_MAX);
    n.user_n = census_put(bytes, &size, d->user, LIMIT_DECISION_TEXT);
    for (int i = 0; i < 2; i++) {
        n.key_n[i] = census_put(bytes, &size, key[i], NOTE_KEY_MAX);
        n.renewed_n[i] = census_put(bytes, &size, d->response.renewed[i], NOTE_KEY_MAX);
    }
    memcpy(bytes, &n, sizeof n);
    const size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head - atomic_load_explicit(&r->tail, memory_order_acquire) + size > RING) {
        atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
        return;
    }
    ring_copy(r, head, bytes, size);
    atomic_store_explicit(&r->head, head + size, memory_order_release);
}

/* In the census's thread, or that of whoever asks. */

static void ring_read(const struct ring *r, size_t at, void *to, size_t n)
{
    const size_t place = at % RING, first = n < RING - place ? n : RING - place;
    memcpy(to, r->bytes + place, first);
    memcpy((char *)to + first, r->bytes, n - first);
}

static struct str next(const char **at, size_t n)
{
    const struct str s = {*at, n};
    *at += n;
    return s;
}

/* Octets of the note at `at`. */
static size_t read_note(const struct ring *r, size_t at, struct noted *out)
{
    ring_read(r, at, &out->n, sizeof out->n);
    const struct note *n = &out->n;
    const size_t text = (size_t)n->rule_n + n->user_n + n->key_n[0] + n->key_n[1] + n->renewed_n[0] + n->renewed_n[1];
    const char *p = out->bytes;
    ring_read(r, at + sizeof *n, out->bytes, text);
    out->rule = next(&p, n->rule_n);
    out->user = next(&p, n->user_n);
    for (int i = 0; i < 2; i++) {
        out->key[i] = next(&p, n->key_n[i]);
        out->renewed[i] = next(&p, n->renewed_n[i]);
    }
    return sizeof *n + text;
}

void census_take(struct census *t)
{
    for (unsigned i = 0; i < t->ring_count; i++) {
        struct ring *r = &t->rings[i];
        const size_t head = atomic_load_explicit(&r->head, memory_order_acquire);
        size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
        while (tail != head) {
            struct noted n;
            tail += read_note(r, tail, &n);
            census_count(t, &n);
            atomic_store_explicit(&r->tail, tail, memory_order_release);
        }
    }
}

static void *census_run(void *arg)
{
    static const struct timespec PAUSE = {0, 100000000};
    enum { TURNS_A_MINUTE = 600 };
    struct census *t = arg;
    sigset_t all;
    sigfillset(&all); /* signals are for main */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (unsigned turn = 1;; turn++) {
        const bool ends = atomic_load(&t->ending);
        if (!ends)
            nanosleep(&PAUSE, NULL);
        pthread_mutex_lock(&t->lock);
        census_take(t);
        pthread_mutex_unlock(&t->lock);
        if (ends || turn % TURNS_A_MINUTE == 0)
            census_keep(t, time_now_us());
        if (ends)
            break;
    }
    return NULL;
}

static bool cells_new(struct cells *c, size_t n)
{
    c->v = calloc(n, sizeof *c->v);
    c->n = c->v ? n : 0;
    return c->v != NULL;
}

static bool census_room(struct census *t, unsigned workers)
{
    t->rings = aligned_alloc(_Alignof(struct ring), workers * sizeof *t->rings);
    if (!t->rings)
        return false;
    memset(t->rings, 0, workers * sizeof *t->rings);
    for (t->ring_count = 0; t->ring_count < workers; t->ring_count++)
        if (!(t->rings[t->ring_count].bytes = malloc(RING)))
            return false;
    return cells_new(&t->passing, PASS_CELLS) && cells_new(&t->clocks, CLOCK_CELLS) && cells_new(&t->keys, KEY_CELLS);
}

struct census *census_new(unsigned workers, int64_t since_us, const char *folder)
{
    struct census *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->since_us = t->watched_us = since_us;
    t->folder = folder;
    pthread_mutex_init(&t->lock, NULL);
    const bool ok = census_room(t, workers) && random_bytes(&t->seed, sizeof t->seed);
    if (ok && folder)
        census_recall(t, since_us);
    t->started = ok && pthread_create(&t->thread, NULL, census_run, t) == 0;
    if (t->started)
        return t;
    census_free(t);
    return NULL;
}

void census_free(struct census *t)
{
    if (!t)
        return;
    atomic_store(&t->ending, true);
    if (t->started)
        pthread_join(t->thread, NULL);
    for (unsigned i = 0; i < t->ring_count; i++)
        free(t->rings[i].bytes);
    free(t->rings);
    free(t->passing.v);
    free(t->clocks.v);
    free(t->keys.v);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int64_t census_since(const struct census *t)
{
    return t->since_us;
}

int64_t census_watched(const struct census *t)
{
    return t->watched_us;
}

uint64_t census_lost(struct census *t)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < t->ring_count; i++)
        n += atomic_load_explicit(&t->rings[i].lost, memory_order_relaxed);
    return n;
}
