/*
 * Keeps the mark while a run accepts requests, in a thread of its own: nobody else ever waits for the disk. Inside
 * replay/ only.
 *
 *     if (!keeper_note(k, &time)) ...     to be accepted only when keeper_covers(k, &time), after a wake
 */
#ifndef KMSGATE_REPLAY_KEEPER_H
#define KMSGATE_REPLAY_KEEPER_H

#include "replay/mark.h"
#include "replay/replay.h"

struct keeper;

/* An accepted request's Time, what the clock said, and how far east of UTC a Time without a zone was read (TIME_NONE:
 * it has one, or was not looked at). */
struct keeper_time {
    int64_t time_us, now_us, east_us;
};

/* Nothing runs or is written yet. Takes a copy of the key. latest_us, walls_us: what the mark says to begin with. NULL
 * without memory. */
struct keeper *keeper_new(const struct replay_state *state, int64_t latest_us, int64_t walls_us);
void keeper_free(struct keeper *k);
/* Takes the word of a clean end away, durably, and starts the thread. False with the reason. */
bool keeper_start(struct keeper *k, struct detail *why) MUST_CHECK;
/* Ends the thread; nothing is accepted any more: the mark of a clean end. */
void keeper_end(struct keeper *k, int64_t latest_us, int64_t walls_us);

/* A request of this Time is accepted. False: only when keeper_covers() says so, of which the hosts are told. */
bool keeper_note(struct keeper *k, const struct keeper_time *t) MUST_CHECK;
bool keeper_covers(struct keeper *k, const struct keeper_time *t) MUST_CHECK;

/* Whom to wake when the mark has risen. False without room for one more. */
bool keeper_add(struct keeper *k, const struct replay_host *host) MUST_CHECK;
void keeper_remove(struct keeper *k, const struct replay_host *host);

#endif
