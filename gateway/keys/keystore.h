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

enum key_type { KEY_INK, KEY_TRK }; /* integrity; transport */
/* As stored; not_after is looked at by key_usable(). OFFERED: sent to its user, who has not used it yet. PRUNED: a
 * tombstone, seen by writers only; it keeps revoked bytes from coming back. */
enum key_state { KEY_ACTIVE, KEY_RETIRING, KEY_REVOKED, KEY_OFFERED, KEY_PRUNED };
enum { KEY_STATES = 4 };                                         /* that a user's key may have */
enum key_origin { KEY_IMPORTED, KEY_BY_HAND, KEY_RENEWED, KEY_LEARNT }; /* by whom it came */
enum { KEY_SEALED = 60 };                                        /* nonce 12, ciphertext 32, tag 16 */
enum { KEY_TEXT_MAX = 1024 };                                    /* bytes of a user's URI or of a key's ID */
enum { KEY_SENT_MAX = 4096 };                                    /* bytes of the IDs of TrKs that it was sent under */
enum { KEY_RETIRING_MAX = 8 };                                   /* retiring keys of a user and type */

struct key {
    enum key_type type;
    enum key_state state;
    enum key_origin origin;
    bool due;          /* to be renewed at the next occasion, whatever its age */
    uint8_t under;     /* which of the store's master keys it is sealed under: the store's own number */
    int64_t not_after; /* us; TIME_NONE: no end */
    int64_t since;     /* us, whole seconds: when it became active; TIME_NONE: not yet */
    int64_t keep_old;  /* us that older keys go on when this one is confirmed; TIME_NONE: was never offered */
    uint64_t seq;      /* larger is newer */
    struct str id;     /* points into the keyring */
    struct str sent;   /* IDs of the TrKs that it was sent under, a line end after each; mostly empty */
    uint8_t sealed[KEY_SEALED];
};

/* One user's keys, copied for one exchange: later changes of the store do not touch it. Still encrypted. */
struct keyring {
    const struct keystore *store;
    struct str user;
    size_t n;
    char *text; /* owns user, ids and sent */
    struct key keys[LIMIT_USER_KEYS]; /* need not be zeroed; the one beyond n is nobody's, so that all cost the same */
    uint32_t id_hash[LIMIT_USER_KEYS]; /* of each key's ID: most are told apart by them alone */
};

enum keystore_result { KEYSTORE_OK, KEYSTORE_NOT_FOUND, KEYSTORE_FAILED };

struct keystore;
struct key_entry;

/*
 * What may become of the database by opening it. READ: nothing; one of an earlier schema is read as it would be when it
 * is taken over. TRY: the same, and where there is none, as if there were one without keys. CHANGE: one of an earlier
 * schema is taken over. DRAFT: and where there is none, the first change makes it, whole: who is killed before leaves
 * nothing behind. MAKE: where there is none, one without keys is made at once.
 */
enum keystore_opening { KEYSTORE_READ, KEYSTORE_TRY, KEYSTORE_CHANGE, KEYSTORE_DRAFT, KEYSTORE_MAKE };
/* Opens the database, checks every row against the master keys and loads the table. What is sealed under any of the n
 * master keys opens; what is written is sealed under the first. The working keys, derived from them, stay in locked
 * memory. NULL with the reason in `faults` on a wrong master key, damage, tampering. A file or folder that cannot be
 * written is opened for reading. */
struct keystore *keystore_open_under(const char *where, const struct secret_key *masters, size_t n,
                                     enum keystore_opening how, struct faults *faults);
/* The same for who serves: where the database is a shared one, a sealed copy in `folder` (keycopy.h) is what it is held
 * against, and what is taken while it is away, if that is no older than `max_age_us`. With a copy there, no new
 * database is made. */
struct keystore_place {
    const char *where;
    const struct secret_key *masters;
    size_t n;
    enum keystore_opening how;
    const char *folder; /* NULL: no copy is looked for */
    int64_t max_age_us;
};
struct keystore *keystore_open_at(const struct keystore_place *at, struct faults *faults);
/* The same under one master key: made at once, or changed. */
struct keystore *keystore_open(const char *where, const struct secret_key *master, bool create, struct faults *faults);
/* True when it was opened for reading and is of an earlier schema: the next start, or `kmsgate keys`, takes it over. */
bool keystore_is_earlier(const struct keystore *ks);
/* Another list of master keys, at once for all that comes. False with a fault, and the old list stays, when a key in
 * use is sealed under one that is not listed any more. Any thread that does not serve. */
bool keystore_set_masters(struct keystore *ks, const struct secret_key *masters, size_t n, struct faults *faults);
/* Keeps the number of changes in a file elsewhere, from which an older database is known across restarts: written after
 * each change and whatever was seen of others. False with a fault when the database is older than the file says, or the
 * file is another database's, damaged, or cannot be written. A file that is not there is made. */
bool keystore_use_counter(struct keystore *ks, const char *path, struct faults *faults);
/* The same for who only looks: nothing is made or written. */
bool keystore_look_at_counter(const struct keystore *ks, const char *path, struct faults *faults);
/* False with a fault when the last change is not in that file. */
bool keystore_counted(struct keystore *ks, struct faults *faults);
/* From now on each refresh leaves word of what is followed in a file beside the database (followers.h): for a gateway,
 * once it serves. Where that folder cannot be written nothing is said. */
void keystore_tell_followers(struct keystore *ks);
/* For `kmsgate keys`, after a change: false with a fault for each running gateway that leaves such word and does not
 * follow this database. Waits up to two seconds for one that is about to. */
bool keystore_followed(struct keystore *ks, struct faults *faults);
/* A store of these keys in memory alone, sealed under a key that dies with it: nothing can be changed or refreshed.
 * NULL when out of memory, when OpenSSL fails, or when a user has more than LIMIT_USER_KEYS keys. */
struct keystore *keystore_scratch(const struct key_entry *v, size_t n);
void keystore_close(struct keystore *ks);
const char *keystore_where(const struct keystore *ks);
/* A key for files beside it (the replay memory's mark): the same at each start, another for another database. The
 * caller wipes it. */
bool keystore_state_key(const struct keystore *ks, struct secret_key *out);
/* Takes over what other processes changed since; called by one thread, twice a second. False (table unchanged, reason
 * in why) when the changes cannot be read or do not verify: again at each call, until they can. *changed tells whether
 * anything did. Never waits for a writer: what he does is seen at the call after his commit. A file that replaced the
 * open one, or was written to by anything but a database, is taken over when it is the same database and comes after
 * what is in use by changes alone: no revocation is ever undone. */
bool keystore_refresh(struct keystore *ks, bool *changed, char *why, size_t why_size);
/* The last refresh failed since the database could not be reached. For the thread that refreshes. */
bool keystore_is_away(const struct keystore *ks);
/* Whether others judge by these keys meanwhile: then what goes over all of them rests now and then (base/pace.h). Any
 * thread. */
void keystore_give_way(struct keystore *ks, bool others_serve);
/* For how long (us) it has not been known that the table is what the database holds. Any thread. */
int64_t keystore_age_us(const struct keystore *ks);
/* One more with each change of the table. Any thread. */
uint64_t keystore_edition(const struct keystore *ks);
/* True where other gateways have the same keys, and change them. */
bool keystore_is_shared(const struct keystore *ks);
/* Number of keys by type and state, for metrics; an expired key counts as revoked. */
void keystore_count(struct keystore *ks, int64_t now_us, size_t out[2][KEY_STATES]);
/* The active, usable keys by type and age, which counts from when they became active: step i is younger than
 * KEY_AGE_DAYS[i], the last is older than all of these. And whose are the oldest, the oldest first; a user of more
 * octets than there is room for is cut. Looks at every key, a tenth of a second for a million: not for each request. */
enum { KEY_AGE_STEPS = 7, KEY_OLDEST = 20, KEY_OLDEST_USER = 256 };
extern const unsigned KEY_AGE_DAYS[KEY_AGE_STEPS - 1];
struct key_ages {
    size_t n[2][KEY_AGE_STEPS];
    struct key_oldest {
        int64_t since; /* us */
        size_t user_n;
        char user[KEY_OLDEST_USER];
    } oldest[2][KEY_OLDEST];
    size_t oldest_n[2];
};
void keystore_ages(struct keystore *ks, int64_t now_us, struct key_ages *out);

/* Any thread. As long for a user with one key as for one with all that are possible, or for one who is not known. The
 * caller frees the ring with keyring_clear(), also after NOT_FOUND. */
enum keystore_result keystore_user(const struct keystore *ks, struct str user, struct keyring *out);
void keyring_clear(struct keyring *ring);
/* NULL when there is none of that ID. Type is not looked at. */
const struct key *keyring_find(const struct keyring *ring, struct str id);
/* Active, retiring or offered, and not_after not passed at now_us. */
bool key_usable(const struct key *key, int64_t now_us);
/* True when it was sent to its user under the TrK of that ID. */
bool key_sent_under(const struct key *key, struct str trk);
/* True when the user has (or had: revoked and expired ones count) an InK. One that was only ever offered is none yet:
 * he may not have got it. */
bool keyring_has_ink(const struct keyring *ring);
/* The newest active, usable key of a type, of TrKs else the newest retiring; NULL when there is none. */
const struct key *keyring_newest(const struct keyring *ring, enum key_type type, int64_t now_us);
/* Decrypts into *out, which the caller wipes. False when the sealed bytes do not verify. */
bool keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out);
/* Two at once, which is less work. False: neither is there. */
bool keyring_open_two(const struct keyring *ring, const struct key *const keys[2], struct secret_key out[2]);

/*
 * Writing. Each function is one transaction, and blocks. Whatever adds a key or makes one active keeps two promises:
 * one key of a type is active at most (the older one retires), and old ones give way, so that no number of changes
 * fills a user's places: of those that are revoked or expired the newest two of a type stay, of those that retire the
 * newest KEY_RETIRING_MAX go on. A revoked key that goes leaves a tombstone.
 */
struct key_entry {
    struct str user, id;
    enum key_type type;
    enum key_state state;
    int64_t not_after;
    struct secret_key key;
};
enum key_change { KEY_ADDED, KEY_REPLACED, KEY_SAME };
/* REPLACE: other bytes under a known ID overwrite it, a stricter state or another not_after is taken over. FORCE: takes
 * bytes that were revoked, under another ID. DRY: tells what would be done and does nothing. BY_HAND: the origin. */
enum key_put { KEY_PUT_REPLACE = 1, KEY_PUT_FORCE = 2, KEY_PUT_DRY = 4, KEY_PUT_BY_HAND = 8 };
/* All or nothing. Refuses other bytes under a known ID unless replaced, an all-zero key, InK equal to TrK of one user,
 * bytes of that user that were revoked. counts[KEY_ADDED..KEY_SAME] says what was done; the fault names the entry by
 * its index (0-based) in *at. */
bool keystore_put(struct keystore *ks, const struct key_entry *v, size_t n, bool replace, size_t counts[3], size_t *at,
                  struct faults *faults);
/* What a long change tells while it runs. All may be NULL. */
struct key_telling {
    void (*fault)(void *arg, size_t at, const char *text); /* at n: the fault is no entry's */
    void (*progress)(void *arg, size_t done, size_t of);
    void *arg;
};
/* The same for a file: goes on after a fault, so that all are told (up to 100), each with the number of its entry. */
bool keystore_import(struct keystore *ks, const struct key_entry *v, size_t n, unsigned how, size_t counts[3],
                     const struct key_telling *tell);
/* Sets the state of one key; false with a fault when there is none, or when it would un-revoke. */
bool keystore_set_state(struct keystore *ks, struct str user, struct str id, enum key_state state,
                        struct faults *faults);
/* Seals under the first master key what is sealed under another, a few hundred users a transaction, beside whoever
 * serves; killed at any moment, every row opens under one of the listed, and the next call goes on. *n: the keys (and
 * tombstones) that were sealed anew. */
bool keystore_rekey(struct keystore *ks, const struct key_telling *tell, size_t *n, struct faults *faults);
/* Lets old keys of all users give way, as each change does for its user. *n: the keys that went or were ended. */
bool keystore_prune(struct keystore *ks, const struct key_telling *tell, size_t *n, struct faults *faults);
/* Walks all keys in order of user and ID; stops when the callback returns false. False when out of memory. */
bool keystore_walk(struct keystore *ks, bool (*each)(void *arg, const struct keyring *ring, const struct key *key),
                   void *arg);

const char *key_type_name(enum key_type t);   /* "ink", "trk" */
const char *key_state_name(enum key_state s); /* "active", "retiring", "revoked", "offered" */

#endif
