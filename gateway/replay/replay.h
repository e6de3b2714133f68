/*
 * The replay memory: which signed requests were accepted while their Time was acceptable. One narrow interface, with
 * an engine behind it: the process's own memory (memory.c), or a store that many gateways share.
 *
 *     struct replay *r = replay_memory_new(max_entries, floor_us, &settings);           shared by all threads
 *     struct replay_line *line = replay_line_open(r, &host);                            one a worker
 *     enum reason reason = replay_spend(r, line, &claim, &call);
 *     if (call.waits) ...                                     later, in that thread: call.done(call.arg, reason)
 *     replay_give_back(r, line, &claim);                      it came to nothing: no byte of it was sent
 *
 * An engine answers at once, or later: what it answers later comes from replay_line_turn() or from the worker's loop,
 * never from within replay_spend(). It has no deadline of its own: who waits cancels, after replay_patience_us().
 *
 * What was accepted has a Time at or after `floor`: a request before it cannot be told from a replay and is
 * REPLAY_UNAVAILABLE. So a restart, a wider window after a reload and a clock that steps back all fail closed.
 */
#ifndef KMSGATE_REPLAY_REPLAY_H
#define KMSGATE_REPLAY_REPLAY_H

#include "base/reason.h"
#include "base/secret.h"
#include "base/timestamp.h"

struct event_base;
struct replay;
struct replay_line;

/* What the rules say, at the start and after each reload. */
struct replay_settings {
    int64_t past_us;   /* the widest of all rules that remember */
    int64_t future_us; /* the same */
    unsigned max_entries; /* how many are remembered, from a reload on; 0: as many as before */
};

/*
 * A request that is otherwise accepted and proven. Its texts live until the call is over.
 *
 * Times: where rules read a Time without a zone differently, it is held against the floor by the earliest reading and
 * remembered until the latest has left the window. TIME_NONE: its own rule does not enforce Time; `earliest` is then
 * not held against anything, and for a missing `latest` the arrival stands.
 */
struct replay_claim {
    struct str user, key_id;
    const uint8_t *value; /* the decoded SignatureValue */
    size_t value_n;
    int64_t time_us;      /* as its own rule reads it */
    int64_t earliest_us, latest_us;
    int64_t now_us;       /* by the wall clock, when it was judged */
    bool zoneless;        /* Time has no zone: other rules, of an earlier run or a later reload, read it otherwise */
    int64_t wall_us;      /* then: what stands there, read as UTC; before replay_walls() it is REPLAY_UNAVAILABLE */
};

/* The answer; of REPLAY_UNAVAILABLE also why. Called once, in the line's thread; the call is over then. */
typedef void replay_done(void *arg, enum reason reason);

/* A claim that may have to wait. The caller owns it, sets `done` and `arg`, and leaves it where it is while it waits;
 * all else is the engine's. */
struct replay_call {
    replay_done *done;
    void *arg;
    bool waits;
    struct replay_line *line;
    struct replay_call *next, **link; /* of the engine's list */
    int64_t time_us, now_us, east_us;
    uint64_t order;        /* in the engine's queue */
    uint8_t digest[2][16]; /* of user and request */
};

/* What a worker lends to its line. */
struct replay_host {
    struct event_base *loop; /* for an engine that talks to a network: nobody else in this layer looks at it */
    void (*wake)(void *arg); /* from any thread: makes the worker call replay_line_turn() soon */
    void *arg;
};

/* Any thread. */
void replay_free(struct replay *r); /* after all its lines */
/* After a reload. A wider window does not bring back what was forgotten. */
void replay_settle(struct replay *r, const struct replay_settings *s);
/* Now and then, by a thread that has time for it: gives back memory that is of no use any more. */
void replay_tidy(struct replay *r);
/* Before it no request can be told from a replay. */
int64_t replay_floor(const struct replay *r);
/* The same for what stands in a Time without a zone, read as UTC: it rises when such a Time is forgotten, so that no
 * change of `assume_zone` makes an old one new. TIME_NONE: none was. */
int64_t replay_walls(const struct replay *r);
/* Why signed requests are refused just now, as a word for /readyz; NULL: they are not. */
const char *replay_unready(const struct replay *r, int64_t now_us);
size_t replay_count(const struct replay *r); /* remembered, as far as this process knows */
/* How long a call may wait before it is cancelled. */
int64_t replay_patience_us(const struct replay *r);

/* A worker's own handle, used in its thread alone; NULL without memory. */
struct replay_line *replay_line_open(struct replay *r, const struct replay_host *host);
void replay_line_turn(struct replay_line *l);
void replay_line_close(struct replay_line *l); /* nothing waits any more */

/* One atomic step: REASON_OK and remembered; REPLAY_SEEN; REPLAY_FULL (also without memory, or when the user has his
 * share); REPLAY_UNAVAILABLE. With call->waits set the return value means nothing: the answer comes later. Without a
 * line and a call nothing waits: what would have to is REPLAY_UNAVAILABLE. */
enum reason replay_spend(struct replay *r, struct replay_line *line, const struct replay_claim *claim,
                         struct replay_call *call) MUST_CHECK;
/* Of a call that waits: `done` will not be called, and what was spent is given back where that can be. */
void replay_cancel(struct replay_call *call);
/* After REASON_OK, when certainly nothing was sent: the same bytes may be spent again. */
void replay_give_back(struct replay *r, struct replay_line *line, const struct replay_claim *claim);

/* Before the first line is opened; and when the last is closed and nothing is accepted any more, the end in order. */
bool replay_start(struct replay *r, struct detail *why) MUST_CHECK;
void replay_end(struct replay *r);

/* Where the process's own memory leaves its mark (mark.h) for the next start. */
struct replay_state {
    const char *folder;
    struct secret_key key; /* keystore_state_key() */
};
/* The process's own memory. max_entries: in all; a sixteenth of them for one user. floor_us: to begin with. NULL when
 * out of memory. */
struct replay *replay_memory_new(unsigned max_entries, int64_t floor_us, const struct replay_settings *s);
/* The same, with the floor that the mark in `state` makes, and a mark kept from replay_start() on. launch_us: now. */
struct replay *replay_memory_kept(unsigned max_entries, const struct replay_settings *s,
                                  const struct replay_state *state, int64_t launch_us);

#endif
