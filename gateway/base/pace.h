/*
 * Long work beside threads that serve goes in short runs with rests between: who has a request to judge waits for one
 * run at most, whatever the scheduler thinks of either. No priority is lowered, and the rests have an end: a change of
 * keys comes through on a machine that has no time to spare, too.
 *
 *     struct pace pace = {.rests = true};
 *     for (each of millions) { ...; pace_step(&pace); }
 */
#ifndef KMSGATE_BASE_PACE_H
#define KMSGATE_BASE_PACE_H

#include <stdbool.h>
#include <time.h>

#include "base/timestamp.h"

enum {
    PACE_STEPS = 32, /* some microseconds each: the clock is not looked at more often */
    PACE_RUN_US = 200,
    PACE_REST_US = 50,
    PACE_WAKING_US = 100, /* a sleeper comes so late where the core is free */
    PACE_LATE = 5,        /* where it is not, the next rest is longer by so many times what is beyond that */
    PACE_REST_MAX_US = 2000,
    PACE_ALL_US = 60 * 1000000, /* of rests and of being late: then it is for others to wait */
};

struct pace {
    bool rests;
    bool (*may)(const void *arg); /* whether it may rest now, asked before each rest; NULL: it may */
    const void *arg;
    unsigned steps;
    int64_t since_us; /* the run's begin, monotonic; 0: none yet */
    int64_t rest_us, rested_us; /* the next one, and all so far */
};

static inline int64_t pace_next_rest(int64_t late_us)
{
    const int64_t more = late_us > PACE_WAKING_US ? (late_us - PACE_WAKING_US) * PACE_LATE : 0;
    return more < PACE_REST_MAX_US - PACE_REST_US ? PACE_REST_US + more : PACE_REST_MAX_US;
}

/* After each step; rests when a run is over. */
static inline void pace_step(struct pace *p)
{
    if (!p->rests || ++p->steps < PACE_STEPS)
        return;
    p->steps = 0;
    const int64_t now = time_mono_us();
    if (!p->since_us) {
        p->since_us = now;
        p->rest_us = PACE_REST_US;
    } else if (now - p->since_us >= PACE_RUN_US) {
        p->since_us = now;
        if (p->may && !p->may(p->arg))
            return;
        (void)nanosleep(&(struct timespec){.tv_nsec = p->rest_us * 1000L}, NULL);
        p->since_us = time_mono_us();
        p->rested_us += p->since_us - now;
        p->rest_us = pace_next_rest(p->since_us - now - p->rest_us);
        p->rests = p->rested_us < PACE_ALL_US;
    }
}

#endif
