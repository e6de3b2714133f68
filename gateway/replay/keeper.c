#include "replay/keeper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

#define BEAT_US (FLOOR_BEAT_S * US_PER_S)
#define STUCK_US (INT64_C(4) * US_PER_S) /* with BEAT_US and one write: the clock on the disk is at most 5 s old */
/* After so long, twice, an offset that no Time was read by any more is let go (a summer's): beyond it no clock on earth
 * shows again what it showed. */
#define EAST_US (INT64_C(3) * 86400 * US_PER_S)
enum { HOSTS = 257 };                    /* the most workers that can be configured, and one more */

/* `due_us` is 0 while nothing was accepted since the last mark; what is behind the lock is the thread's to write. */
struct keeper {
    char *folder;
    struct secret_key key;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool started, ending;
    struct mark wanted;
    _Atomic int64_t latest_us; /* on the disk */
    _Atomic int64_t due_us;    /* monotonic: since when a mark is due */
    _Atomic int64_t east_us;   /* on the disk */
    _Atomic int64_t east_now;  /* of what was noted since `turned_us` (monotonic); `east_before`: in the time before */
    int64_t east_before, turned_us;
    bool failing;              /* the last write did; told */
    struct replay_host hosts[HOSTS];
    size_t host_count;
};

struct keeper *keeper_new(const struct replay_state *state, int64_t latest_us, int64_t walls_us)
{
    struct keeper *k = calloc(1, sizeof *k);
    pthread_condattr_t attr;
    if (!k || !(k->folder = str_dup(str_z(state->folder)))) {
        free(k);
        return NULL;
    }
    k->key = state->key;
    k->wanted = (struct mark){.latest_us = latest_us, .walls_us = walls_us, .east_us = TIME_NONE};
    k->east_before = TIME_NONE;
    k->turned_us = time_mono_us();
    atomic_init(&k->east_us, TIME_NONE);
    atomic_init(&k->east_now, TIME_NONE);
    atomic_init(&k->latest_us, 0);
    atomic_init(&k->due_us, 0);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->changed, &attr);
    pthread_condattr_destroy(&attr);
    return k;
}

static void keeper_join(struct keeper *k)
{
    if (!k->started)
        return;
    pthread_mutex_lock(&k->lock);
    k->ending = true;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->thread, NULL);
    k->started = false;
}

void keeper_free(struct keeper *k)
{
    if (!k)
        return;
    keeper_join(k);
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->changed);
    secret_key_clear(&k->key);
    free(k->folder);
    free(k);
}

/* The clock of a mark never goes back, whatever the machine's does. */
static void keeper_stamp(struct keeper *k)
{
    const int64_t now = time_now_us();
    if (now > k->wanted.clock_us)
        k->wanted.clock_us = now;
}

/* Who notes writes east_now and then reads east_us; here it is the other way round, so that one sees the other. */
static void keeper_look_east(struct keeper *k)
{
    const int64_t now = time_mono_us();
    if (now - k->turned_us >= EAST_US) {
        k->turned_us = now;
        atomic_store(&k->east_us, TIME_NONE);
        k->east_before = atomic_exchange(&k->east_now, TIME_NONE);
    }
    const int64_t seen = atomic_load(&k->east_now);
    k->wanted.east_us = seen > k->east_before ? seen : k->east_before;
}

static void keeper_tell(struct keeper *k, bool ok, const struct detail *why)
{
    if (!ok && !k->failing)
        log_error("replay", k->folder, "%s; signed requests are refused while it cannot be", why->text);
    else if (ok && k->failing)
        log_info("replay", k->folder, "%s is written again", MARK_FILE);
    k->failing = !ok;
}

/* With the lock, which is let go while the disk works. */
static void keeper_write(struct keeper *k)
{
    struct detail why = {""};
    const int64_t due = atomic_exchange(&k->due_us, 0);
    keeper_stamp(k); /* after that: what was accepted as being due is not younger */
    keeper_look_east(k);
    const struct mark m = k->wanted;
    pthread_mutex_unlock(&k->lock);
    const bool ok = mark_write(k->folder, &k->key, &m, &why);
    keeper_tell(k, ok, &why);
    pthread_mutex_lock(&k->lock);
    if (!ok) {
        const int64_t now = time_mono_us();
        atomic_store(&k->due_us, due ? due : now);
        return;
    }
    atomic_store(&k->latest_us, m.latest_us);
    atomic_store(&k->east_us, m.east_us);
    for (size_t i = 0; i < k->host_count; i++)
        k->hosts[i].wake(k->hosts[i].arg);
}

static void keeper_sleep(struct keeper *k, int64_t until_us)
{
    const struct timespec t = {until_us / US_PER_S, until_us % US_PER_S * 1000};
    pthread_cond_timedwait(&k->changed, &k->lock, &t);
}

/* A Time that waits is written at once; else one mark a beat, and none while nothing is accepted. */
static void *keeper_run(void *arg)
{
    struct keeper *k = arg;
    int64_t next = time_mono_us() + BEAT_US;
    pthread_mutex_lock(&k->lock);
    while (!k->ending) {
        const bool awaited = k->wanted.latest_us > atomic_load(&k->latest_us) ||
                             atomic_load(&k->east_now) > atomic_load(&k->east_us);
        if ((awaited && !k->failing) || (atomic_load(&k->due_us) && time_mono_us() >= next)) {
            next = time_mono_us() + BEAT_US;
            keeper_write(k);
        } else if (atomic_load(&k->due_us) || k->failing) {
            keeper_sleep(k, next);
        } else {
            pthread_cond_wait(&k->changed, &k->lock);
        }
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

bool keeper_start(struct keeper *k, struct detail *why)
{
    keeper_stamp(k);
    if (!mark_write(k->folder, &k->key, &k->wanted, why))
        return false;
    atomic_store(&k->latest_us, k->wanted.latest_us);
    k->started = pthread_create(&k->thread, NULL, keeper_run, k) == 0;
    if (!k->started)
        detail_set(why, MARK_FILE " has no thread that keeps it");
    return k->started;
}

void keeper_end(struct keeper *k, int64_t latest_us, int64_t walls_us)
{
    struct detail why = {""};
    keeper_join(k);
    keeper_stamp(k);
    const struct mark m = {.latest_us = latest_us, .clock_us = k->wanted.clock_us, .clean = true,
                           .walls_us = walls_us, .east_us = TIME_NONE};
    if (!mark_write(k->folder, &k->key, &m, &why))
        log_error("replay", k->folder, "%s; the next start takes this run for one that was cut off", why.text);
}

static bool far_ahead(const struct keeper_time *t)
{
    return t->time_us > t->now_us + FLOOR_AHEAD_S * US_PER_S;
}

bool keeper_covers(struct keeper *k, const struct keeper_time *t)
{
    const int64_t due = atomic_load(&k->due_us);
    if (due && time_mono_us() - due > STUCK_US)
        return false;
    return (!far_ahead(t) || t->time_us <= atomic_load(&k->latest_us)) && t->east_us <= atomic_load(&k->east_us);
}

bool keeper_note(struct keeper *k, const struct keeper_time *t)
{
    time_raise(&k->east_now, t->east_us);
    const bool covered = keeper_covers(k, t);
    if (covered && atomic_load(&k->due_us))
        return true;
    pthread_mutex_lock(&k->lock);
    if (!atomic_load(&k->due_us))
        atomic_store(&k->due_us, time_mono_us());
    if (far_ahead(t) && t->time_us > k->wanted.latest_us)
        k->wanted.latest_us = floor_mark_for(t->time_us);
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
    return covered;
}

bool keeper_add(struct keeper *k, const struct replay_host *host)
{
    pthread_mutex_lock(&k->lock);
    const bool room = k->host_count < HOSTS;
    if (room)
        k->hosts[k->host_count++] = *host;
    pthread_mutex_unlock(&k->lock);
    return room;
}

void keeper_remove(struct keeper *k, const struct replay_host *host)
{
    pthread_mutex_lock(&k->lock);
    for (size_t i = 0; i < k->host_count; i++)
        if (k->hosts[i].arg == host->arg) {
            k->hosts[i] = k->hosts[--k->host_count];
            break;
        }
    pthread_mutex_unlock(&k->lock);
}
