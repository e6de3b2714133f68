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
};

/* What the meta row of the database says of all rows together. */
struct key_totals {
    uint64_t count, seq_sum, last_seq;
};

struct table;
struct table *table_new(void);
void table_free(struct table *t);
struct key_totals table_totals(const struct table *t);
/* Room for so many more keys with so many bytes of text: table_set() cannot run out of memory then. */
bool table_reserve(struct table *t, size_t keys, size_t text) MUST_CHECK;
/* Adds the key or overwrites the one of that user and ID. False when out of memory, when the user has LIMIT_USER_KEYS
 * keys, or when the key is there with another type. */
bool table_set(struct table *t, const struct key_row *row) MUST_CHECK;
/* 0 when there is no such key. */
uint64_t table_seq(const struct table *t, struct str user, struct str id);
/* Copies a user's keys into *out, which the caller has emptied; store stays as it is. */
enum keystore_result table_user(const struct table *t, struct str user, struct keyring *out) MUST_CHECK;
/* An expired key counts as revoked. */
void table_count(const struct table *t, int64_t now_us, size_t out[2][3]);
/* Byte by byte: less than, equal to or greater than 0. */
int key_text_order(struct str x, struct str y);
/* All users' names in byte order, as views into the table (valid until it is freed); the caller frees the array.
 * NULL when out of memory. */
struct str *table_users(const struct table *t, size_t *n);

#endif
