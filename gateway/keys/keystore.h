/*
 * The users' InK and TrK: SQLite on disk, a table in memory; encrypted (AES-256-GCM under the master key) in both.
 *
 *     struct keyring ring;
 *     if (keystore_user(store, user, &ring) != KEYSTORE_OK) ...   NOT_FOUND is not FAILED: the second is a 500
 *     const struct key *ink = keyring_find(&ring, key_id);
 *     struct secret_key clear SECRET_CLEANUP;
 *     if (!keyring_open(&ring, ink, &clear)) ...
 */
#ifndef KMSGATE_KEYS_KEYSTORE_H
#define KMSGATE_KEYS_KEYSTORE_H

#include "base/faults.h"
#include "base/limits.h"
#include "base/secret.h"
#include "base/timestamp.h"

enum key_type { KEY_INK, KEY_TRK };                       /* integrity; transport */
enum key_state { KEY_ACTIVE, KEY_RETIRING, KEY_REVOKED }; /* as stored; not_after is looked at by key_usable() */
enum { KEY_SEALED = 60 };                                 /* nonce 12, ciphertext 32, tag 16 */
enum { KEY_TEXT_MAX = 1024 };                             /* bytes of a user's URI or of a key's ID */

struct key {
    enum key_type type;
    enum key_state state;
    int64_t not_after; /* us; TIME_NONE: no end */
    uint64_t seq;      /* larger is newer */
    struct str id;     /* points into the keyring */
    uint8_t sealed[KEY_SEALED];
};

/* One user's keys, copied for one exchange: later changes of the store do not touch it. Still encrypted. */
struct keyring {
    const struct keystore *store;
    struct str user;
    struct key keys[LIMIT_USER_KEYS];
    size_t n;
    char *text; /* owns user and ids */
};

enum keystore_result { KEYSTORE_OK, KEYSTORE_NOT_FOUND, KEYSTORE_FAILED };

struct keystore;
struct key_entry;

/* Opens the SQLite file (created when `create`), checks every row against the master key and loads the table. The
 * working keys, derived from the master key, stay in locked memory. NULL with the reason in `faults` on a wrong master
 * key, damage, tampering. A file or folder that cannot be written is opened for reading. */
struct keystore *keystore_open(const char *path, const struct secret_key *master, bool create, struct faults *faults);
/* A store of these keys in memory alone, sealed under a key that dies with it: nothing can be changed or refreshed.
 * NULL when out of memory, when OpenSSL fails, or when a user has more than LIMIT_USER_KEYS keys. */
struct keystore *keystore_scratch(const struct key_entry *v, size_t n);
void keystore_close(struct keystore *ks);
const char *keystore_path(const struct keystore *ks);
/* A key for files beside it (the replay memory's mark): the same at each start, another for another database. The
 * caller wipes it. */
bool keystore_state_key(const struct keystore *ks, struct secret_key *out);
/* Takes over what other processes changed since; called by one thread, twice a second. False (table unchanged, reason
 * in why) when the changes cannot be read or do not verify: again at each call, until they can. *changed tells whether
 * anything did. Never waits for a writer: what he does is seen at the call after his commit. A file that replaced the
 * open one (same database, not older) is taken over, too. */
bool keystore_refresh(struct keystore *ks, bool *changed, char *why, size_t why_size);
/* Number of keys by type and state, for metrics; an expired key counts as revoked. */
void keystore_count(struct keystore *ks, int64_t now_us, size_t out[2][3]);

/* Any thread. The caller frees the ring with keyring_clear(), also after NOT_FOUND. */
enum keystore_result keystore_user(const struct keystore *ks, struct str user, struct keyring *out);
void keyring_clear(struct keyring *ring);
/* NULL when there is none of that ID. Type is not looked at. */
const struct key *keyring_find(const struct keyring *ring, struct str id);
/* Active or retiring, and not_after not passed at now_us. */
bool key_usable(const struct key *key, int64_t now_us);
/* True when the user has (or had: revoked and expired ones count) an InK. */
bool keyring_has_ink(const struct keyring *ring);
/* The newest active, usable key of a type; NULL when there is none. */
const struct key *keyring_newest(const struct keyring *ring, enum key_type type, int64_t now_us);
/* Decrypts into *out, which the caller wipes. False when the sealed bytes do not verify. */
bool keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out);

/* Writing, by `kmsgate keys`. Each function is one transaction. */
struct key_entry {
    struct str user, id;
    enum key_type type;
    enum key_state state;
    int64_t not_after;
    struct secret_key key;
};
enum key_change { KEY_ADDED, KEY_REPLACED, KEY_SAME };
/* All or nothing. Refuses other bytes under a known ID unless `replace`, an all-zero key, InK equal to TrK of one user.
 * A second active key of a type makes the older one retiring. counts[KEY_ADDED..KEY_SAME] says what was done; the
 * fault names the entry by its index (0-based) in *at. */
bool keystore_put(struct keystore *ks, const struct key_entry *v, size_t n, bool replace, size_t counts[3], size_t *at,
                  struct faults *faults);
/* The same for a file: goes on after a fault, so that all are told (up to 100), each with the number of its entry
 * (n: the fault is no entry's). */
bool keystore_import(struct keystore *ks, const struct key_entry *v, size_t n, bool replace, size_t counts[3],
                     void (*fault)(void *arg, size_t at, const char *text), void *arg);
/* Sets the state of one key; false with a fault when there is none, or when it would un-revoke. */
bool keystore_set_state(struct keystore *ks, struct str user, struct str id, enum key_state state,
                        struct faults *faults);
/* Walks all keys in order of user and ID; stops when the callback returns false. False when out of memory. */
bool keystore_walk(struct keystore *ks, bool (*each)(void *arg, const struct keyring *ring, const struct key *key),
                   void *arg);

const char *key_type_name(enum key_type t);   /* "ink", "trk" */
const char *key_state_name(enum key_state s); /* "active", "retiring", "revoked" */

#endif
