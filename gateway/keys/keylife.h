/*
 * A key's life after it came: offered to its user, confirmed by his use of it, retired, revoked.
 *
 *     offered -> active -> retiring (not_after = now + keep_old, or what it had if that is earlier) -> expired
 *     revoked from any
 *
 * For what serves, a keeper: the keys' own thread. It follows the changes of others and does wishes, all that wait in
 * one transaction (so that one fsync serves many), without any event loop ever waiting:
 *
 *     struct key_wish w[] = {{.deed = KEY_OFFER, .type = KEY_TRK, .user = user, .id = newest->id, .trk = trk->id,
 *                             .keep_old_us = keep_old}};
 *     if (!keykeeper_ask(keeper, w, 1, done, exchange))
 *         ... deferred: the reply goes out without new keys
 *     static void done(void *arg, const struct key_fate *v, size_t n)   in the keeper's thread, exactly once
 *
 * A caller that waits no longer than 500 ms sets a timer of its own and lets `arg` live until `done` has come.
 */
#ifndef KMSGATE_KEYS_KEYLIFE_H
#define KMSGATE_KEYS_KEYLIFE_H

#include "base/reason.h"
#include "keys/keystore.h"

enum key_deed {
    KEY_OFFER,   /* a new key of the gateway's own; or again the one that is offered, or came after `id` */
    KEY_CONFIRM, /* key `id` was used by its user: an offered one becomes active */
    KEY_LEARN    /* a new key that an upstream issued becomes offered */
};
struct key_wish {
    enum key_deed deed;
    enum key_type type; /* CONFIRM: not looked at */
    struct str user;
    /* OFFER: the newest active key, as the caller knows it, or the older one that the client goes on using; missing:
     * none. CONFIRM: the key. LEARN: the ID; missing: it is counted. */
    struct str id;
    struct str trk;          /* OFFER, LEARN: the ID of the TrK that it will be sent under */
    int64_t keep_old_us;     /* OFFER, LEARN: how long older ones go on once it is confirmed */
    struct secret_key key;   /* LEARN */
    bool with_next;          /* LEARN: the next wish is of the same reply: both are learnt, or neither */
};
enum key_outcome {
    KEY_OFFERED_NEW, /* committed: to be sent */
    KEY_RESENT,      /* the same as before: to be sent again */
    KEY_CONFIRMED,
    KEY_TAKEN_UP,    /* LEARN: committed: to be sent */
    KEY_NOTHING,     /* nothing to do: no offer is due or has room (eight retire), or it is active already */
    KEY_REFUSED,     /* LEARN: what import would refuse; `why` says it */
    KEY_DEFERRED     /* the store is away or busy, too many wait: nothing was done, or nothing that may be sent yet */
};
struct key_fate {
    enum key_outcome outcome;
    struct detail why; /* of REFUSED and DEFERRED */
    struct str id;     /* of the key; valid while the callback runs, like `key` */
    struct secret_key key; /* OFFER, LEARN: its bytes, when they are to be sent */
};

/* Does n wishes in one transaction and waits for it; what one is refused does not touch the others. `v` is the
 * caller's, key_fates_free() wipes it. Waits at most `patience_ms` for another writer (0: as is usual). */
void keystore_do(struct keystore *ks, const struct key_wish *wishes, size_t n, int patience_ms, struct key_fate *v);
void key_fates_free(struct key_fate *v, size_t n);

struct keykeeper;
enum { KEYKEEPER_WAITING_MAX = 64, KEYKEEPER_WAIT_MS = 500, KEYKEEPER_WISHES = 4, KEYKEEPER_LOOKS_S = 20,
       KEYKEEPER_LOOKING_MAX = 1024 };
/* Starts the thread; `turn` (in it, twice a second and after each change) tells what following gave: see
 * keystore_refresh(). NULL when there is no memory or no thread. */
struct keykeeper *keykeeper_start(struct keystore *ks,
                                  void (*turn)(void *arg, bool ok, bool changed, const char *why), void *arg);
/* Copies the wishes (at most KEYKEEPER_WISHES, done or deferred together). False: too many wait, or the keeper ends;
 * `done` is not called then. Any thread; never waits. */
bool keykeeper_ask(struct keykeeper *k, const struct key_wish *wishes, size_t n,
                   void (*done)(void *arg, const struct key_fate *v, size_t n), void *arg) MUST_CHECK;
/* A look for changes by other gateways, before one is due: one look for all who ask meanwhile, and at most
 * KEYKEEPER_LOOKS_S a second; four where the database is away and says so at once, for it may be back. `done` is called
 * in the keeper's thread, once. False (and `done` is never called): nobody
 * else has these keys, they cannot be followed at present, too many wait, or the keeper ends. Any thread; it never
 * waits. */
bool keykeeper_look(struct keykeeper *k, void (*done)(void *arg), void *arg) MUST_CHECK;
/* What waits is deferred; the thread has ended when this returns. NULL is fine. */
void keykeeper_stop(struct keykeeper *k);

/* Revokes one key; or all of a user's, where `id` is missing. Keys that were ever offered under a revoked TrK and were
 * not used yet are revoked, too: who has the TrK has read them. Those that have become active since are told of
 * (`cascade`: are revoked as well), also where the TrK was revoked before, or is gone. `told` gets, once all is
 * committed, each key that was revoked or is to be looked at. */
bool keystore_revoke(struct keystore *ks, struct str user, struct str id, bool cascade,
                     void (*told)(void *arg, struct str id, enum key_type type, bool revoked), void *arg,
                     struct faults *faults);
/* His newest active keys are due: the next occasion renews them. False with a fault where he has none. */
bool keystore_make_due(struct keystore *ks, struct str user, size_t *n, struct faults *faults);

#endif
