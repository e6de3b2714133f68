/*
 * One conversation with a Redis server: commands out, replies in, in order. No sockets.
 *
 *     talk_begin(t);                                  greetings are in t->out; t->fault says how things stand
 *     if (talk_takes(t)) talk_spend(t, &claim, call); with the digests in the call
 *     talk_flush(t);                                  what was spent since is in t->out, as one command
 *     if (!talk_feed(t, bytes, n)) ...                replies; call->done() for each that is answered
 *     talk_end(t);                                    whoever waits is refused
 *
 * Inside replay/ only.
 */
#ifndef KMSGATE_REPLAY_REDIS_TALK_H
#define KMSGATE_REPLAY_REDIS_TALK_H

#include <stdatomic.h>

#include "replay/redis.h"
#include "replay/redis_reply.h"
#include "replay/replay_engine.h"

enum { REDIS_MARK = 16 }; /* hex digits: whose secret it is */

/* What all conversations of a gateway share. */
struct redis_site {
    struct replay_redis how;
    char *password;                       /* of secret_alloc(); NULL: none */
    size_t password_n;
    struct secret_key *secret;            /* of secret_alloc() */
    char mark[REDIS_MARK + 1];
    _Atomic int64_t past_us, future_us;   /* of the rules */
    atomic_uint user_max;
    _Atomic int64_t floor_us;             /* the epoch's, as it was last told */
    /* Of Times without a zone, what stands in them, read as UTC: the latest that was ever asked for; and just after the
     * latest that was before the epoch of now, which the server is told: it may have lost what it knew. 0: none. */
    _Atomic int64_t wall_us, walls_us;
    _Atomic int64_t told_us;              /* monotonic: when the log last spoke of trouble; 0: all is well */
    _Atomic int told_fault;               /* and of which */
    atomic_bool told_unbounded;           /* that the server's memory is */
};

enum { CLAIMS = 2048, ASKED = 1024, BATCH = REPLY_ITEMS - 8, WHY = 160 };

/* A request that waits for an answer, the server's or that of its replicas. */
struct claim {
    struct replay_call *call; /* NULL: nobody waits any more */
    enum { CLAIM_NEW, CLAIM_ASKED, CLAIM_LEFT_OUT, CLAIM_REFUSED, CLAIM_TAKEN } state;
    int64_t earliest_us, latest_us, asked_us;
    int64_t wall_us; /* of a Time without a zone that its rule judges; else TIME_NONE */
    uint8_t digest[2][REPLAY_DIGEST];
};

/* A command that waits for its reply. */
struct asked {
    enum { ASK_AUTH, ASK_MEMORY, ASK_ROLE, ASK_VERSION, ASK_LOAD, ASK_SPEND, ASK_WAIT, ASK_FORGET, ASK_PROBE } what;
    unsigned claims;  /* SPEND: so many follow those before */
    int64_t sent_us;  /* monotonic */
};

struct talk {
    struct redis_site *site;
    struct redis_reader *reader;
    struct buf out;
    enum redis_fault fault; /* FINE: it takes requests */
    char why[WHY];
    bool greeting;          /* not yet through it */
    unsigned loads;         /* of the library, in this greeting */
    bool silent;            /* an answer is overdue */
    bool unbroken;          /* the last SPEND was answered with DONE: then a WAIT that holds makes it FINE */
    int64_t beat_us, look_us, fault_us; /* monotonic: the last heartbeat, look at memory's policy, change of fault */
    /* Rings; the numbers only grow. answered <= spent <= asked <= end. */
    struct claim *claims;
    uint64_t claim_answered, claim_spent, claim_asked, claim_end;
    struct asked *asked;
    uint64_t asked_first, asked_end;
};

bool talk_init(struct talk *t, struct redis_site *site) MUST_CHECK; /* false without memory */
void talk_free(struct talk *t);
void talk_begin(struct talk *t);
/* There is room, and an answer to be expected. */
bool talk_takes(const struct talk *t);
/* From now on the call waits; call->digest is set. */
void talk_spend(struct talk *t, const struct replay_claim *c, struct replay_call *call);
void talk_cancel(struct talk *t, struct replay_call *call);
void talk_forget(struct talk *t, const uint8_t digest[2][REPLAY_DIGEST]);
void talk_flush(struct talk *t);
/* False: the connection is of no use any more, t->fault and t->why tell. */
bool talk_feed(struct talk *t, const void *bytes, size_t n) MUST_CHECK;
bool talk_tick(struct talk *t) MUST_CHECK;
void talk_end(struct talk *t);
void talk_settle(struct talk *t, enum redis_fault fault, const char *why); /* how things stand from now on */
void talk_beat(struct talk *t); /* asks how things stand */
void talk_probe(struct talk *t); /* asks whether all may be done that will have to be */
void talk_ask_version(struct talk *t);
void talk_load(struct talk *t, bool replace);
int64_t talk_library_version(void); /* of the library that this program carries */
bool talk_fail(struct talk *t, enum redis_fault fault, const char *format, ...) /* false */
    __attribute__((format(printf, 3, 4)));

/* Asks a Sentinel, over a connection of its own, for the primary's address; with the password where it wants one. */
void redis_ask_sentinel(struct talk *t, bool password);
/* LOCKED: it wants a password, or another. FAILS: t->fault tells. */
enum sentinel_says { SENTINEL_MORE, SENTINEL_KNOWS, SENTINEL_LOCKED, SENTINEL_FAILS };
enum sentinel_says redis_hear_sentinel(struct talk *t, const void *bytes, size_t n, char host[REDIS_HOST],
                                       char port[REDIS_PORT]);

/* Appends a command: its length, then its arguments. */
void redis_command(struct buf *out, size_t n);
void redis_argument(struct buf *out, const void *p, size_t n);
void redis_argument_z(struct buf *out, const char *z);
void redis_argument_int(struct buf *out, int64_t value);
/* What an error of the server means. */
enum redis_fault redis_error_kind(struct str error);
const char *redis_fault_name(enum redis_fault f);
void redis_count(enum redis_fault f, unsigned n);

#endif
