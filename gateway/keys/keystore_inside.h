/*
 * What the parts of the keystore share: keystore.c (opening, closing, master keys), keystore_open.c (opening a shared
 * database), keystore_load.c (verifying what a database holds), keystore_follow.c (changes of others), keychange.c (a
 * transaction of one's own), keystore_write.c (import), keystore_renew.c (a key's life), keystore_revoke.c (its end, by
 * hand), keyring.c.
 */
#ifndef KMSGATE_KEYS_KEYSTORE_INSIDE_H
#define KMSGATE_KEYS_KEYSTORE_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/pace.h"
#include "keys/followers.h"
#include "keys/keydb.h"

/* What a table holds, as a meta row vouches for it. */
struct keystore_state {
    struct table *table;
    struct seal_sum sum; /* of the tags of all its keys */
    uint64_t last_seq;
    uint8_t commit[FOLLOWER_COMMIT]; /* the last commit's own bytes: two histories never have the same */
};

/*
 * Readers hold `table_lock` for reading, for one look-up. `db_lock` is held by whoever uses the database; only such a
 * thread changes the table, with `table_lock` held for writing, after all that it will put in was verified.
 */
struct keystore {
    char *where;    /* as it may be shown */
    char *database; /* as it is opened: may hold a password */
    uint8_t salt[SEAL_SALT];
    struct seal *seals[TABLE_MASTERS]; /* set before any key in the table points to it; freed at the end */
    struct keystore_past *past;        /* seals that gave way to others; freed at the end */
    bool listed[TABLE_MASTERS];        /* may open what comes; what is in the table opens in any case */
    size_t seal_n, first;              /* first: what is written is sealed under it */
    struct keystore_locks {
        pthread_mutex_t db;
        pthread_rwlock_t table;
    } *locks;
    struct keydb *db;
    struct keystore_state now; /* `table` changes under both locks, the rest under db_lock */
    int64_t seen;          /* the database's version that the table reflects */
    uint64_t stamp;        /* and its file's */
    bool behind;           /* the table lacks what this process itself has committed */
    int64_t refused;       /* the version whose content was refused, for `refusal`; -1: none */
    uint64_t refused_stamp;/* and its file's, also of one that replaced the one that is open; 0: none */
    struct detail refusal;
    unsigned busy;         /* refreshes in a row that found the database locked */
    bool away;             /* the last refresh could not reach it */
    int64_t reopened_us;   /* monotonic: when a file was last read anew */
    char *counter;         /* path of the count of changes that is kept elsewhere; NULL: none */
    uint64_t counted;      /* what it says at least */
    bool earlier;          /* opened for reading, and of an earlier schema */
    uint8_t opened[FOLLOWER_COMMIT]; /* now.commit when it was opened */
    bool tells;            /* who follows: `follower` is held */
    struct followers_slot follower;
    atomic_bool gives_way;      /* others judge by the table: long work rests now and then */
    struct keydb *rests_on;     /* what is read for no change of its own; NULL: nothing is */
    _Atomic uint64_t edition;   /* of the table */
    _Atomic int64_t in_step_us; /* monotonic: when the table was last known to be what the database holds */
};

/* keystore_open.c */
bool keystore_open_shared(struct keystore *ks, const struct keystore_place *at, struct detail *why) MUST_CHECK;
struct keydb *keystore_open_db(struct keystore *ks, const struct keystore_place *at, enum keystore_opening how,
                               struct detail *why);
/* Adds the working keys of master keys that are not there yet; the list alone may open what comes. */
bool keystore_take_masters(struct keystore *ks, const struct secret_key *masters, size_t n,
                           struct detail *why) MUST_CHECK;
/* The table is what the database holds at that version (keydb_version). Any thread. */
bool keystore_is_at(struct keystore *ks, int64_t version);
/* A MAC under the first master key's seal; whether one is under any listed. Any thread. */
bool keystore_mac(const struct keystore *ks, const void *p, size_t n, uint8_t mac[32]) MUST_CHECK;
bool keystore_mac_holds(const struct keystore *ks, const void *p, size_t n, const uint8_t mac[32]) MUST_CHECK;
/* keycopy.c: what the stamp of the copy in that folder says: how many changes there had been at that time (us). False:
 * there is none, or it is not one of these keys. */
bool keycopy_stamp(const struct keystore *ks, const char *folder, uint64_t *seq, int64_t *us);

/* One opener a master key, made when it is first needed. */
struct openers {
    const struct keystore *ks;
    struct seal_opener *v[TABLE_MASTERS];
    struct secret_key clear; /* of the row that was opened last */
};
void openers_free(struct openers *o);
/* Which of the master keys a row is sealed under; -1: none that is listed. */
int keystore_seal_of(const struct keystore *ks, uint32_t name);
/* Sets row->key.under, opens it into o->clear. */
enum keydb_result keystore_verify(struct openers *o, struct key_row *row, struct detail *why) MUST_CHECK;
/* The tag of a verified key, or of one in the table. */
bool keystore_tag(struct openers *o, const struct key *key, struct seal_sum *tag) MUST_CHECK;

/* NULL without memory; keystore_close() frees it. */
struct keystore_locks *keystore_locks_new(void);
/* Inside a transaction: the authenticated meta row, and the sums of keys and tombstones in it. */
enum keydb_result keystore_meta(struct keydb *db, const struct keystore *ks, struct keydb_meta *out,
                                struct seal_sum sums[2], struct detail *why) MUST_CHECK;
/* Writes check and sums into the meta row, over everything else in it. */
bool keystore_meta_seal(const struct seal *seal, struct keydb_meta *meta, const struct seal_sum sums[2]) MUST_CHECK;
/* Inside a transaction: the whole database as a new table. */
enum keydb_result keystore_load(struct keydb *db, const struct keystore *ks, struct keystore_state *out,
                                struct detail *why) MUST_CHECK;
/* With the db lock: for work that goes over all keys. It rests while others judge by them and it keeps nobody from
 * changing them. */
struct pace keystore_pace(const struct keystore *ks);
/* Inside a transaction, with the db lock: takes over into the table what the database has and the table lacks. Where
 * somebody wrote who changed no key by our rules, all is read and verified anew. */
enum keydb_result keystore_absorb(struct keystore *ks, bool *changed, struct detail *why) MUST_CHECK;
/* The same, but all is verified anew, whatever has changed, and held against the table that it replaces. */
enum keydb_result keystore_reread(struct keystore *ks, struct detail *why) MUST_CHECK;
/* With the db lock: the counter becomes what the table has seen. True, too, where there is none. */
bool keystore_count_up(struct keystore *ks, struct detail *why) MUST_CHECK;
/* With the db lock, after a refresh: who looks learns what is followed. */
void keystore_tell(struct keystore *ks, bool in_step);
/* "user U, key ID": for messages; texts from a damaged file are cut and made printable. */
struct detail key_row_name(const struct key_row *row);

#endif
