/*
 * The shared replay memory over failovers: two servers of which one follows the other, two gateways, one signed request
 * that somebody posts again and again, to whichever gateway, at any time. Replication lags and is cut; servers are killed,
 * restarted (with what they had, or emptied), promoted and promoted back; clocks differ; a gateway's rules are given a
 * wider window. Checked for every interleaving by tests/models/run.
 *
 * What must hold: the request is accepted at most once.
 *
 * The rule, as gateway/replay/library.lua has it: an epoch (owner, floor, window, future) is replicated with the data. A server
 * whose own name is not the epoch's owner, or which is asked for a wider window or a Time further ahead, opens a new one: floor =
 * its now + F + 3D, F the widest that any gateway has asked for. It accepts iff its clock and the gateway's are within D, Time >=
 * floor, Time + window > now, and the request is new. A server's name is new with each process and with each promotion
 * (Redis: the process's run ID and the replication ID).
 *
 * Two settings in which the rule holds:
 *   (none)            two primaries may live apart; a request is accepted once the replica has it (wait_replicas: 1)
 *   NO_WAIT, SINGLE   no waiting; nobody is promoted before the old primary is dead
 * Variants that must be found wrong (-D):
 *   SETNX             no epoch: the memory alone; in either setting
 *   OWNER_BY_PROCESS  a promotion gives no new name: promoted back, it goes on with its old epoch; in either setting
 *   NO_WAIT           two primaries live apart, and nobody waits
 *   NO_WAIT, SINGLE, SHORT_FLOOR        floor = now + F: clocks that differ are forgotten
 *   NO_WAIT, SINGLE, NO_FUTURE          F of whoever opens the epoch: what another took further ahead is forgotten
 *
 * Left out: a server's clock that goes back (the library opens an epoch when it sees that), eviction (which gives a
 * server a new name), Times without a zone (the library's `walls`), what is given back.
 */
#define D 1    /* how far clocks may differ */
#define PAST 1 /* of all rules */
#ifndef WIDER
#define WIDER 1 /* how much a gateway's rules are, after it was given wider ones */
#endif
#define F(g) (1 + WIDER * wide[g])
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#ifdef NO_FUTURE
#define AHEAD(g, s) F(g)
#else
#define AHEAD(g, s) MAX(F(g), future[s])
#endif
#define W(g) (PAST + F(g) + 2 * D)
#ifndef END
#define END 5 /* of time */
#endif
#ifndef EVENTS
#define EVENTS 3 /* kills, cuts, promotions, switches */
#endif

byte now, events;
byte time_;       /* the request's */
byte ahead[2];    /* of servers: their clocks, by so much */
byte before[2];   /* of gateways */
bit wide[2];
byte accepted;

bool up[2], primary[2], linked;
/*
 * Data: replicated. Of names only this matters: whether an epoch's owner is what a server is called now. So `owner` is NAME(s),
 * or 0 where it is no server's name, or not any more. Of a floor: whether the request's Time is before it.
 */
byte owner[2], window[2], future[2], ends[2]; /* ends: until when the request is remembered; 0: not at all */
bool behind[2]; /* the floor */

#define CLOCK(s) (now + ahead[s])
#define OTHER(s) (1 - (s))
#define FOLLOWS(s) (linked && up[s] && !primary[s] && up[OTHER(s)] && primary[OTHER(s)])

inline copy(from)
{
    owner[1 - from] = owner[from]; behind[1 - from] = behind[from];
    window[1 - from] = window[from]; future[1 - from] = future[from]; ends[1 - from] = ends[from]
}

#define NAME(s) ((s) + 1)
inline rename(s) /* epochs that were its own are so no more, wherever their data is */
{
    if :: owner[0] == NAME(s) -> owner[0] = 0 :: else fi;
    if :: owner[1] == NAME(s) -> owner[1] = 0 :: else fi
}

/* A gateway's own check. */
#define TIME_HOLDS(g) (time_ + PAST >= now + before[g] && time_ <= now + before[g] + F(g))

/* A new one is opened where the old one is not this server's own, or too narrow. */
#ifdef NO_FUTURE
#define DUE(g, s) (owner[s] != NAME(s) || W(g) > window[s])
#else
#define DUE(g, s) (owner[s] != NAME(s) || W(g) > window[s] || F(g) > future[s])
#endif
inline epoch(g, s)
{
    if
    :: DUE(g, s) ->
        owner[s] = NAME(s);
#ifdef SHORT_FLOOR
        behind[s] = behind[s] || time_ < CLOCK(s) + AHEAD(g, s);
#else
        behind[s] = behind[s] || time_ < CLOCK(s) + AHEAD(g, s) + 3 * D;
#endif
        future[s] = MAX(future[s], F(g));
        window[s] = MAX(window[s], W(g))
    :: else
    fi
}

/* One call of the library; `ok` says whether it says yes. */
inline spend(g, s, ok)
{
    ok = false;
    if
    :: CLOCK(s) > now + before[g] + D || now + before[g] > CLOCK(s) + D -> skip /* clocks apart */
    :: else ->
#ifndef SETNX
        epoch(g, s);
#else
        window[s] = W(g);
#endif
        if
        :: !behind[s] && time_ + window[s] > CLOCK(s) && ends[s] <= CLOCK(s) ->
            ends[s] = time_ + window[s];
            ok = true
        :: else
        fi
    fi
}

proctype gateway(byte g)
{
    byte s;
    bool ok;
again:
    atomic {
        if /* nothing before this may be done: an atomic step ends where it must wait */
        :: up[0] && primary[0] && TIME_HOLDS(g) -> s = 0
        :: up[1] && primary[1] && TIME_HOLDS(g) -> s = 1
        fi;
        spend(g, s, ok)
#ifndef NO_WAIT
    }
    if
    :: atomic { ok && FOLLOWS(OTHER(s)) -> copy(s) } /* the replica has it: what it has is all that came before, too */
    :: ok = false /* no answer in time: refused, and spent */
    fi;
    atomic {
#else
        ;
#endif
        if
        :: ok -> accepted++; assert(accepted <= 1)
        :: else
        fi;
        ok = false;
        s = 0;
        goto again
    }
}

proctype world()
{
    do
    :: now < END -> now++
    :: atomic { FOLLOWS(0) -> copy(1) } /* replication arrives, or lags */
    :: atomic { FOLLOWS(1) -> copy(0) }
#ifndef SETNX
    :: atomic { up[0] && primary[0] && DUE(1, 0) -> epoch(1, 0) } /* others' requests come, too */
    :: atomic { up[1] && primary[1] && DUE(1, 1) -> epoch(1, 1) }
    :: atomic { up[0] && primary[0] && DUE(0, 0) -> epoch(0, 0) }
    :: atomic { up[1] && primary[1] && DUE(0, 1) -> epoch(0, 1) }
#endif
    :: atomic { !wide[0] -> wide[0] = 1 }
    :: atomic { events < EVENTS && linked -> linked = false; events++ }
    :: atomic { !linked && (primary[0] + primary[1] == 1) -> linked = true } /* whoever follows begins with a full copy */
    /* two primaries: one is told to follow again, and does */
    :: atomic { primary[0] && primary[1] -> primary[0] = false; linked = up[1]; if :: up[1] -> copy(1) :: else fi }
    :: atomic { primary[0] && primary[1] -> primary[1] = false; linked = up[0]; if :: up[0] -> copy(0) :: else fi }
    :: atomic { events < EVENTS && up[0] -> up[0] = false; events++ }
    :: atomic { events < EVENTS && up[1] -> up[1] = false; events++ }
    /* a new process, in its old part; with its data or emptied */
    :: atomic { !up[0] -> up[0] = true; rename(0); if :: skip :: owner[0] = 0; behind[0] = false; window[0] = 0; future[0] = 0; ends[0] = 0 fi }
    :: atomic { !up[1] -> up[1] = true; rename(1); if :: skip :: owner[1] = 0; behind[1] = false; window[1] = 0; future[1] = 0; ends[1] = 0 fi }
    /* promotion: of who does not follow any more */
#ifdef SINGLE
#define MAY(s) (!primary[s] && up[s] && !up[OTHER(s)])
#else
#define MAY(s) (!primary[s] && up[s] && (!linked || !up[OTHER(s)]))
#endif
#define TAKE(s) if :: up[OTHER(s)] -> linked = false :: else -> primary[OTHER(s)] = false /* it comes back as a follower */ fi
#ifdef OWNER_BY_PROCESS
#define NEW_NAME(s) skip
#else
#define NEW_NAME(s) rename(s)
#endif
    :: atomic { events < EVENTS && MAY(0) -> events++; primary[0] = true; TAKE(0); NEW_NAME(0) }
    :: atomic { events < EVENTS && MAY(1) -> events++; primary[1] = true; TAKE(1); NEW_NAME(1) }
    /* a switch by hand: the old primary follows the new one, and what had not arrived there is lost */
    :: atomic { events < EVENTS && FOLLOWS(0) -> events++; primary[0] = true; primary[1] = false; NEW_NAME(0); copy(0) }
    :: atomic { events < EVENTS && FOLLOWS(1) -> events++; primary[1] = true; primary[0] = false; NEW_NAME(1); copy(1) }
    od
}

init {
    atomic {
        up[0] = true; up[1] = true; primary[0] = true; linked = true;
        /* clocks: the first server's is one ahead, so that the others may be on both sides of it */
        ahead[0] = 1;
        if :: ahead[1] = 0 :: ahead[1] = 1 :: ahead[1] = 2 fi;
        if :: before[0] = 0 :: before[0] = 1 :: before[0] = 2 fi;
        if :: before[1] = 0 :: before[1] = 1 :: before[1] = 2 fi;
        /* an epoch that is open, and old enough that every Time is behind its floor */
        owner[0] = NAME(0);
        window[0] = W(0);
        future[0] = F(0);
        copy(0);
#ifdef LATE /* behind the floor of whoever was promoted early */
        time_ = END - 1;
#elif defined(FAR) /* behind the first epoch of wider rules, as far ahead as they let it be */
        time_ = END + 4;
#else
        if :: time_ = 1 :: time_ = 2 fi;
#endif
        run gateway(0);
        run gateway(1);
        run world()
    }
}
