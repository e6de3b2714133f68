/*
 * The places for connections, of all workers together: who has to go when they are all taken.
 *
 * Oldest first: those that are kept and idle; then unfinished ones (in the handshake, or in the middle of a request) of
 * the source that holds most. A connection with a complete request never has to go. A source is an IPv4 address or an
 * IPv6 /64; for the comparison the /64s of one /48 count together, and within it the /64 that holds most goes first.
 * Between equals it is the oldest. A connection without a source (a Unix socket's, or a trusted proxy's that has not
 * yet said for whom it speaks) counts for itself alone.
 *
 * Safe from any thread. A place that has to go is only marked: its owner, who is to be woken, asks crowd_evicted() for
 * it and closes the connection. Its place is free from the mark on.
 */
#ifndef KMSGATE_HTTP_CROWD_H
#define KMSGATE_HTTP_CROWD_H

#include "base/net.h"
#include "base/reason.h"

struct crowd;

enum place_state { PLACE_UNFINISHED, PLACE_COMPLETE, PLACE_IDLE };

/* Of one connection, in its memory; its fields are crowd.c's alone. */
struct place {
    enum place_state state;
    unsigned owner;
    bool evicted;
    uint64_t since;                    /* the count of those who joined before it: its age */
    struct place *idle[2], *mates[2];  /* before and behind it, among the idle ones, and in its source's list */
    struct place *evicted_next;
    struct source *source;             /* NULL: none; then its mates are the others without */
};

/* NULL without memory. `owners`: how many there are. */
struct crowd *crowd_new(unsigned most, unsigned owners);
/* Another number of places; those that are too many are marked: all owners are to be woken. False without memory: it
 * stays as it was. */
bool crowd_limit(struct crowd *c, unsigned most) MUST_CHECK;
void crowd_free(struct crowd *c); /* NULL is fine; not before all have left */
/* True when p has got a place. *wake: the owner of one that has to go for it, -1: nobody. ip: its source; unknown: it
 * has none. */
bool crowd_join(struct crowd *c, struct place *p, unsigned owner, const struct ip *ip, int *wake) MUST_CHECK;
void crowd_leave(struct crowd *c, struct place *p);
/* Another source, by what its last head says. */
void crowd_move(struct crowd *c, struct place *p, const struct ip *ip);
/* False when it has to go: it is to be closed, and whatever it has asked is not served. */
bool crowd_enter(struct crowd *c, struct place *p, enum place_state state) MUST_CHECK;
/* One of the owner's that has to go, each once; NULL when there is none left. */
struct place *crowd_evicted(struct crowd *c, unsigned owner);
unsigned crowd_count(struct crowd *c);

#endif
