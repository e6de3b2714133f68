/*
 * One transaction of a writer, for keystore_write.c (import), keystore_renew.c (a key's life), keystore_revoke.c (its
 * end, by hand) and keystore_keep.c (what is done to many): the only code that writes rows.
 *
 *     struct change *c = change_begin(ks, 0, &r, &why);          takes the db lock
 *     bool ok = c && ... && change_commit(c, &why);
 *     change_end(ks, c);                                  always, also after a failed begin
 */
#ifndef KMSGATE_KEYS_KEYCHANGE_H
#define KMSGATE_KEYS_KEYCHANGE_H

#include "keys/keystore_inside.h"

/* FAULT: this entry is refused, the next may be looked at. FAILED: nothing more can be done in this transaction. */
enum outcome { DONE, FAULT, FAILED };

/* A key of the user at hand. */
struct stored {
    struct key key;
    struct secret_key clear;
    char *texts; /* owns id and sent */
    bool gone;   /* pruned in this transaction */
};
struct tomb {
    struct key key;         /* its ID is `id` */
    struct secret_key hash; /* of the bytes that it stands for */
    char *id;
};

struct change {
    struct keystore *ks;
    struct openers openers;
    struct keydb_meta meta;  /* its numbers grow with each row written; goes in at the end */
    struct seal_sum sums[2]; /* of keys, of tombstones */
    int64_t now_us;
    enum keydb_result result; /* of the store, when something FAILED */
    bool wrote;
    bool lags; /* committed, but the table does not know it yet */
    char *user;
    size_t user_n;
    struct stored *v; /* in secret memory: the clear keys of the user at hand, newest last; room for one more */
    size_t n;
    struct tomb *tombs;
    size_t tomb_n, tomb_cap;
};
enum { CHANGE_KEYS = LIMIT_USER_KEYS + 1 };

/* Waits so long (ms; 0: as is usual) for other writers. NULL with the reason, and its
 * kind in *result. */
struct change *change_begin(struct keystore *ks, int patience_ms, enum keydb_result *result, struct detail *why);
/* Durable when true; the table follows at once, or else (`lags`) with the next refresh. */
bool change_commit(struct change *c, struct detail *why) MUST_CHECK;
void change_end(struct keystore *ks, struct change *c);

/* Reads the user's keys from the database, not from the table: it has what this transaction wrote before. */
bool change_fetch(struct change *c, struct str user, struct detail *why) MUST_CHECK;
/* NULL when there is none of that ID (that is not gone). */
struct stored *change_find(struct change *c, struct str id);
/* The newest of a type and state that is usable now; NULL. */
struct stored *change_newest(struct change *c, enum key_type type, enum key_state state);
/* How many of a type retire. */
size_t change_retiring(struct change *c, enum key_type type);
/* True when an ID is taken, by a key or a tombstone. */
bool change_taken(struct change *c, struct str id);
/* The user's key, or tombstone, of the same bytes that is worth nothing any more: *id is its ID. */
bool change_was_revoked(struct change *c, const struct secret_key *clear, struct str *id);
bool change_is_tomb(struct change *c, struct str id, const struct secret_key *clear, bool *same);

/* Writes a key that was changed in place. */
bool change_write(struct change *c, struct stored *s, struct detail *why) MUST_CHECK;
bool change_write_tomb(struct change *c, struct tomb *t, struct detail *why) MUST_CHECK;
/* Other bytes for a key. */
bool change_overwrite(struct change *c, struct stored *s, const struct secret_key *clear,
                      struct detail *why) MUST_CHECK;
/* Adds a key; its texts are copied. */
struct stored *change_add(struct change *c, const struct key *key, const struct secret_key *clear, struct detail *why);
/* Before a key of that type becomes active: the others retire, with an end at `end_us` at the latest (TIME_NONE: as it
 * was). `except` may be NULL. */
bool change_retire_others(struct change *c, const struct stored *except, enum key_type type, int64_t end_us,
                          struct detail *why) MUST_CHECK;
/* Lets old keys give way. To be called when all else is done to the user. */
bool change_prune(struct change *c, struct detail *why) MUST_CHECK;
/* What no message could ever carry, or no screen should show, is refused. */
bool change_check_names(struct str user, struct str id, struct detail *why) MUST_CHECK;

#endif
