/*
 * The floor after a start: before it no request can be told from a replay of one that an earlier run has accepted.
 * Arithmetic alone; the contract's paragraph on the replay key, "On the wire", is what it follows.
 *
 *     int64_t floor_us = floor_at_start(found ? &mark : NULL, launch_us, rules->max_future_us);
 */
#ifndef KMSGATE_REPLAY_FLOOR_H
#define KMSGATE_REPLAY_FLOOR_H

#include "base/timestamp.h"

enum {
    FLOOR_AHEAD_S = 5, /* a Time so far ahead of the clock is accepted without waiting for the mark */
    FLOOR_BACK_S = 10, /* what a launch counts as, when the clock stands before the mark's: so much beyond that */
    FLOOR_BEAT_S = 1,  /* while requests are accepted the mark's clock is at most so old, but for a slow disk */
};

/* What one run leaves to the next. */
struct mark {
    int64_t latest_us; /* at or beyond each accepted Time that was further ahead than FLOOR_AHEAD_S; 0: none was */
    int64_t clock_us;  /* the latest time of day at which it was written */
    bool clean;        /* the run ended in order: latest_us is the latest Time ever accepted */
    /* Of Times without a zone: what stands in each that an earlier run has accepted (in order: this one, too), read as
     * UTC, is before `walls_us`; 0: none was. How far east of UTC this run's were read, at most; TIME_NONE: none. */
    int64_t walls_us, east_us;
};

/* launch_us: now. future_us: the widest `future` of the rules in force, for which alone no mark (NULL) makes a
 * difference. A whole second. */
int64_t floor_at_start(const struct mark *m, int64_t launch_us, int64_t future_us);
/* replay_walls() to begin with, at that floor: however rules read such Times now, what was accepted is refused. */
int64_t floor_walls_at_start(const struct mark *m, int64_t floor_us);
/* What a mark has to say so that a request of this Time may be accepted: the last instant before the floor that it
 * makes, so that one mark is good for a second of Times. */
int64_t floor_mark_for(int64_t time_us);

#endif
