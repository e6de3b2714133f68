/*
 * The keys in memory, compact: a million users with two keys each take about 300 MB. Found by user in one hash look-up.
 * No locks of its own. Keys stay sealed. What is in it was verified by whoever put it in.
 */
#ifndef KMSGATE_KEYS_TABLE_H
#define KMSGATE_KEYS_TABLE_H

#include "base/reason.h"
#include "keys/keystore.h"

/* A key and whose it is; texts borrowed. */
struct key_row {
    struct str user;
    struct key key;
    uint32_t master; /* as a database has it: the name of the master key that it is sealed under (seal_name) */
};

struct table;
/* users: so many are to come, and the index need not be made anew for them as it grows, each time at once; or more. */
struct table *table_new(size_t users);
void table_free(struct table *t);
/* Keys in it. */
size_t table_size(const struct table *t);
/* By the one who changes the table, while others still read it: what table_reserve() of so many keys would keep them
 * from for longest, the index made anew. False when out of memory. table_settle(): gives back what is not needed, when
 * table_reserve() has had it, or is not to come. */
bool table_prepare(struct table *t, size_t keys) MUST_CHECK;
void table_settle(struct table *t);
/* Room for so many more keys with so many bytes of text: table_set() cannot run out of memory then. */
bool table_reserve(struct table *t, size_t keys, size_t text) MUST_CHECK;
/* Adds the key or overwrites the one of that user and ID. False when out of memory, when the user has LIMIT_USER_KEYS
 * keys, or when the key is there with another type. */
bool table_set(struct table *t, const struct key_row *row) MUST_CHECK;
/* Nothing happens when there is no such key. */
void table_remove(struct table *t, struct str user, struct str id);
/* The key as it is, its texts missing; false when there is none. */
bool table_find(const struct table *t, struct str user, struct str id, struct key *out);
/* True when so much room is lost to texts that are used no more that a new table is worth its making. */
bool table_is_loose(const struct table *t);
/* Copies a user's keys into *out, which the caller has emptied; store stays as it is. */
enum keystore_result table_user(const struct table *t, struct str user, struct keyring *out) MUST_CHECK;
/* An expired key counts as revoked. */
void table_count(const struct table *t, int64_t now_us, size_t out[2][KEY_STATES]);
/* How many keys are sealed under master key number `under`. */
size_t table_under(const struct table *t, unsigned under);
/* Each key once, in no order, with its user; texts live as long as nothing is changed. Stops when `each` is false. */
bool table_each(const struct table *t, bool (*each)(void *arg, const struct key_row *row), void *arg);
/* Of an ID, as keyring.id_hash has it. */
uint32_t key_id_hash(struct str id);
/* Byte by byte: less than, equal to or greater than 0. */
int key_text_order(struct str x, struct str y);
/* All users' names in byte order, as views into the table (valid until it is freed); the caller frees the array.
 * NULL when out of memory. */
struct str *table_users(const struct table *t, size_t *n);

enum { TABLE_MASTERS = 16 }; /* master keys that keys in memory may be sealed under at once */

#endif
