/*
 * The renewal of keys: one user's device with two requests under way at once, two gateways, one store. Everything may be
 * lost or die at every step: a request, a reply, a gateway before or after its commit. Checked for every interleaving by
 * tests/models/run.
 *
 * What must hold, whatever happens:
 *   usable   the device always knows an InK, and a TrK, that the store takes (offered, active or retiring)
 *   opens    the TrK that a reply is encrypted under is one that the device knows
 *   taken    a key that the device has learnt is known to the store: never a 403 for it but when it has expired, and then a newer
 *            one is known
 *   one      at most one key of a type is offered, and at most one is active
 *   again    whoever uses an older key while a newer one is offered or active is sent that very one, never another
 *
 * -DALONE: one request at a time, so that more keys (-DKEYS=3) can be had.
 *
 * -DLEARN: `new_keys: learn`. It is the upstream that issues keys, any at any time, and those that it issued before once more; a
 * gateway commits each as offered before it is sent, an older offer retires and is active when it is used after all, and a reply
 * whose key cannot be committed does not go out. `again` is then the upstream's affair. -DONLY=INK: it issues those alone, so that
 * more of them can be had.
 *
 * Left out: revocation by hand (it ends a device on purpose), pruning (it takes only what is expired), a client that loses its
 * own memory.
 *
 * Variants that must be found wrong (-D), with the property that each breaks:
 *   ACTIVE_WHEN_SENT   a new key is active as soon as it was sent, the old one retires: usable
 *   SENT_FIRST         the reply goes out before the commit: taken
 *   OWN_OFFERS         each gateway makes its own offer without looking at the store's: one
 *   NO_LOOK            a gateway refuses a key that its table does not have without looking at the store: taken
 *   LEARNT_ACTIVE      under LEARN: what the upstream issues is active at once, the old one retires: usable
 *   OLDER_DROPPED      under LEARN: an older offer ends when a newer one comes: taken
 *   SENT_UNLEARNT      under LEARN: a reply whose key could not be committed goes out all the same: taken
 */
#define INK 0
#define TRK 1
#ifndef KEYS
#define KEYS 3 /* of a type; the first is there from the beginning */
#endif

#define NONE 0
#define OFFERED 1
#define ACTIVE 2
#define RETIRING 3
#define EXPIRED 4
#define UNUSED 5  /* retiring, and never was active */
#define DROPPED 6 /* gone before its time: no state of ours */

#define AT(type, k) ((type) * KEYS + (k))
#define USABLE(s) ((s) == OFFERED || (s) == ACTIVE || (s) == RETIRING || (s) == UNUSED)
#ifdef ONLY
#define ISSUES(type) ((type) == ONLY)
#else
#define ISSUES(type) true
#endif
#define ENDS(s) ((s) == RETIRING || (s) == UNUSED)
#define KNOWS(type, k) ((known >> AT(type, k)) & 1)

byte store[2 * KEYS]; /* committed */
/*
 * What each gateway's table says: the store as it was at some time, followed within a second, here: at any time. Of that,
 * only what a request can tell apart: whether a key is usable, of a TrK whether it is the active one.
 */
byte view[4 * KEYS];
#define SEEN(i) ((i) >= AT(TRK, 0) && store[i] == ACTIVE -> ACTIVE : (USABLE(store[i]) -> OFFERED : NONE))
#define VIEW(g, type, k) view[(g) * 2 * KEYS + AT(type, k)]
byte known; /* the device's: a bit a key */
byte i_;    /* counters of atomic steps */

inline newest_active_trk(g, out)
{
    out = KEYS;
    i_ = 0;
    do
    :: i_ < KEYS -> if :: VIEW(g, TRK, i_) == ACTIVE -> out = i_ :: else fi; i_++
    :: else -> break
    od;
    i_ = 0
}

inline follow(g)
{
    i_ = 0;
    do
    :: i_ < 2 * KEYS -> view[(g) * 2 * KEYS + i_] = SEEN(i_); i_++
    :: else -> break
    od;
    i_ = 0
}

byte offered_[2], active_[2];
bool usable_[2];
inline must_hold()
{
    offered_[0] = 0; offered_[1] = 0; active_[0] = 0; active_[1] = 0; usable_[0] = false; usable_[1] = false;
    i_ = 0;
    do
    :: i_ < 2 * KEYS ->
        if :: store[i_] == OFFERED -> offered_[i_ / KEYS]++ :: else fi;
        if :: store[i_] == ACTIVE -> active_[i_ / KEYS]++ :: else fi;
        if :: ((known >> i_) & 1) && USABLE(store[i_]) -> usable_[i_ / KEYS] = true :: else fi;
        i_++
    :: else -> break
    od;
    i_ = 0;
    assert(usable_[INK] && usable_[TRK]);                      /* usable */
    assert(offered_[INK] <= 1 && offered_[TRK] <= 1);          /* one */
    assert(active_[INK] <= 1 && active_[TRK] <= 1);
    offered_[0] = 0; offered_[1] = 0; active_[0] = 0; active_[1] = 0; usable_[0] = false; usable_[1] = false
}

/* One transaction: the offered key that was used becomes active, the older active one retires. */
inline confirm(type, k)
{
    if
    :: store[AT(type, k)] == OFFERED || store[AT(type, k)] == UNUSED ->
        i_ = 0;
        do
        :: i_ < KEYS -> if :: store[AT(type, i_)] == ACTIVE -> store[AT(type, i_)] = RETIRING :: else fi; i_++
        :: else -> break
        od;
        i_ = 0;
        store[AT(type, k)] = ACTIVE;
        must_hold()
    :: else
    fi
}

/* One transaction: what a reply to a request that used key `used` is to carry; KEYS: nothing. */
inline offer(type, used, due, out)
{
    out = KEYS;
    i_ = 0;
    do
    :: i_ < KEYS ->
        if
#ifndef OWN_OFFERS
        :: store[AT(type, i_)] == OFFERED -> out = i_
#endif
        :: store[AT(type, i_)] == ACTIVE && i_ > used && out == KEYS -> out = i_
        :: else
        fi;
        i_++
    :: else -> break
    od;
    if
    :: out == used -> out = KEYS /* it has it */
    :: out == KEYS && due ->
        i_ = 0;
        do
        :: i_ < KEYS && store[AT(type, i_)] != NONE -> i_++
        :: else -> break
        od;
        if
        :: i_ < KEYS ->
            out = i_;
#ifdef ACTIVE_WHEN_SENT
            store[AT(type, used)] = RETIRING;
            store[AT(type, out)] = ACTIVE
#else
            store[AT(type, out)] = OFFERED
#endif
        :: else
        fi
    :: else
    fi;
    i_ = 0;
    must_hold()
}

/* One transaction: a key that the upstream issues for the first time becomes offered. KEYS: there are no more. */
inline learn(type, out)
{
    out = 0;
    do
    :: out < KEYS && store[AT(type, out)] != NONE -> out++
    :: else -> break
    od;
    if
    :: out < KEYS ->
        i_ = 0;
        do
        :: i_ < KEYS ->
            if
#ifdef OLDER_DROPPED
            :: store[AT(type, i_)] == OFFERED -> store[AT(type, i_)] = DROPPED
#else
            :: store[AT(type, i_)] == OFFERED -> store[AT(type, i_)] = UNUSED
#endif
#ifdef LEARNT_ACTIVE
            :: store[AT(type, i_)] == ACTIVE -> store[AT(type, i_)] = RETIRING
#endif
            :: else
            fi;
            i_++
        :: else -> break
        od;
        i_ = 0;
#ifdef LEARNT_ACTIVE
        store[AT(type, out)] = ACTIVE
#else
        store[AT(type, out)] = OFFERED
#endif
    :: else
    fi;
    must_hold()
}

/* What is no longer needed is set back, so that states which differ in nothing else are one. */
inline forget()
{
    g = 0; ink = 0; trk = 0; wrap = 0; used = 0; t = 0; n[INK] = KEYS; n[TRK] = KEYS; named = false
}

/* The device asks, a gateway answers; again and again. */
proctype exchange()
{
    byte g, ink, trk, wrap, used, t, n[2];
    bool named;
    n[INK] = KEYS;
    n[TRK] = KEYS;
again:
    atomic { /* any key that it knows: a device may go on with an older one */
        if
        :: KNOWS(INK, 0) -> ink = 0
        :: KNOWS(INK, 1) -> ink = 1
        :: KNOWS(INK, KEYS - 1) -> ink = KEYS - 1
        fi;
        if
        :: KNOWS(TRK, 0) -> trk = 0
        :: KNOWS(TRK, 1) -> trk = 1
        :: KNOWS(TRK, KEYS - 1) -> trk = KEYS - 1
        fi;
        if :: named = true :: named = false fi /* whether the request names its TrK */
    }
    atomic { /* judged by the table of either gateway; what it does not know makes it look */
        if :: g = 0 :: g = 1 fi;
        if
        :: !USABLE(VIEW(g, INK, ink)) || (named && !USABLE(VIEW(g, TRK, trk))) ->
#ifndef NO_LOOK
            follow(g)
#endif
        :: else
        fi;
        if
        :: !USABLE(VIEW(g, INK, ink)) ->
            assert(store[AT(INK, ink)] == EXPIRED); /* taken */
            forget(); goto again
        :: named && !USABLE(VIEW(g, TRK, trk)) ->
            assert(store[AT(TRK, trk)] == EXPIRED);
            forget(); goto again
        :: else
        fi;
        if
        :: named -> wrap = trk
        :: else -> newest_active_trk(g, wrap)
        fi;
        assert(wrap < KEYS && KNOWS(TRK, wrap)); /* opens */
        g = 0
    }
    /* What was used is confirmed; the gateway may die before it, and between the two. */
    if
    :: d_step { confirm(INK, ink) }
    :: atomic { forget(); goto again }
    fi;
    if
    :: d_step { if :: named -> confirm(TRK, trk) :: else fi }
    :: atomic { forget(); goto again }
    fi;
    /* New keys: committed, then sent. The commit may fail (`deferred`: a reply without), be made and the gateway die. */
#ifdef SENT_FIRST
    t = 0;
    do
    :: t < 2 ->
        atomic {
            n[t] = 0;
            do
            :: n[t] < KEYS && store[AT(t, n[t])] != NONE -> n[t]++
            :: else -> break
            od;
            if
            :: n[t] < KEYS -> known = known | (1 << AT(t, n[t]))
            :: else
            fi
        }
        if
        :: atomic { n[t] < KEYS && store[AT(t, n[t])] == NONE -> store[AT(t, n[t])] = OFFERED; must_hold() }
        :: skip
        fi;
        t++
    :: else -> break
    od;
    atomic { forget(); goto again };
#endif
    t = 0;
    do
    :: atomic {
        used = (t == INK -> ink : wrap);
#ifdef LEARN
        if
        :: d_step { ISSUES(t) -> learn(t, n[t]) }
        :: ISSUES(t) && USABLE(store[AT(t, 1)]) -> n[t] = 1 /* issued before, and sent again */
#if KEYS > 2
        :: ISSUES(t) && USABLE(store[AT(t, KEYS - 1)]) -> n[t] = KEYS - 1
#endif
        :: n[t] = KEYS /* it issues none of this type */
        :: atomic { forget(); goto again } /* the gateway dies, or the store is away: no reply */
#ifdef SENT_UNLEARNT
        :: ISSUES(t) && store[AT(t, 1)] == NONE -> n[t] = 1
#endif
        fi;
#else
        if
        :: d_step { offer(t, used, true, n[t]) }  /* it is due */
        :: d_step { offer(t, used, false, n[t]) } /* it is not */
        :: atomic { forget(); goto again } /* the gateway dies */
        :: n[t] = KEYS /* deferred */
        fi;
#endif
        used = 0;
        t++
      }
      if
      :: atomic { t == 2 -> ink = 0; trk = 0; wrap = 0; t = 0; break }
      :: else
      fi
    od;
    if
    :: atomic { /* the reply arrives, and the device keeps what it has got, for good, before it uses it */
            if :: n[INK] < KEYS -> known = known | (1 << AT(INK, n[INK])) :: else fi;
            if :: n[TRK] < KEYS -> known = known | (1 << AT(TRK, n[TRK])) :: else fi;
            /* again: what was sent is a key of the store, and no other is on offer beside it */
            assert(n[INK] == KEYS || store[AT(INK, n[INK])] != NONE);
            assert(n[TRK] == KEYS || store[AT(TRK, n[TRK])] != NONE);
            forget();
            goto again
        }
    :: atomic { forget(); goto again } /* it is lost */
    fi
}

/* A gateway follows the store, sooner or later; what retires ends, sooner or later. */
proctype world()
{
    do
    :: d_step { follow(0) }
    :: d_step { follow(1) }
    :: d_step { ENDS(store[AT(INK, 0)]) -> store[AT(INK, 0)] = EXPIRED; must_hold() }
    :: d_step { ENDS(store[AT(INK, 1)]) -> store[AT(INK, 1)] = EXPIRED; must_hold() }
    :: d_step { ENDS(store[AT(TRK, 0)]) -> store[AT(TRK, 0)] = EXPIRED; must_hold() }
    :: d_step { ENDS(store[AT(TRK, 1)]) -> store[AT(TRK, 1)] = EXPIRED; must_hold() }
    od
}

init {
    atomic {
        store[AT(INK, 0)] = ACTIVE;
        store[AT(TRK, 0)] = ACTIVE;
        known = (1 << AT(INK, 0)) | (1 << AT(TRK, 0));
        follow(0);
        follow(1);
        run exchange();
#ifndef ALONE
        run exchange();
#endif
        run world()
    }
}
