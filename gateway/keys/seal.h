/*
 * How a key is sealed, on disk and in memory: AES-256-GCM, bound to everything that is said of the key. The working
 * keys are derived from the master key and the database's salt (HKDF-SHA256): no row can move between databases.
 *
 *     struct seal *seal = seal_new(&master, salt);
 *     if (!seal_close(seal, user, &key, &clear)) ...      fills key.sealed, with a fresh nonce
 *     if (!seal_open(seal, user, &key, &clear)) ...       false: any of the fields or the sealed bytes was changed
 *
 * What vouches for all rows together is a sum, modulo 2^256, of one HMAC-SHA256 a row: a change costs two of them,
 * however many rows there are. Who could see sums could add and subtract them until they fit; so they are sealed, too.
 */
#ifndef KMSGATE_KEYS_SEAL_H
#define KMSGATE_KEYS_SEAL_H

#include "base/reason.h"
#include "keys/keystore.h"

enum { SEAL_SALT = 32, SEAL_CHECK = 32, SEAL_SUM = 32, SEAL_SUMS = 12 + 2 * SEAL_SUM + 16 };

/* Immutable after seal_new(): any thread. */
struct seal;
/* Opens and tags many keys with one set-up of the ciphers; one thread. */
struct seal_opener;

/* NULL when out of memory or when OpenSSL fails. */
struct seal *seal_new(const struct secret_key *master, const uint8_t salt[SEAL_SALT]);
void seal_free(struct seal *s);
/* Tells a wrong master key from a tampered database: derived from the master key, the value says nothing of it. */
const uint8_t *seal_check(const struct seal *s);
/* A short name of the master key in this database, stored with each row that is sealed under it. */
uint32_t seal_name(const struct seal *s);
bool seal_close(const struct seal *s, struct str user, struct key *key, const struct secret_key *clear) MUST_CHECK;
bool seal_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear) MUST_CHECK;
/* Two of a user's, with one set-up of the cipher; false: neither is there. */
bool seal_open_two(const struct seal *s, struct str user, const struct key *const keys[2],
                   struct secret_key clear[2]) MUST_CHECK;
/* What a tombstone keeps of a key instead of its bytes: HMAC-SHA256 under the database's salt, since it must outlive a
 * master key. It is sealed like the bytes were. */
bool seal_hash(const struct seal *s, const struct secret_key *clear, struct secret_key *hash) MUST_CHECK;
/* HMAC-SHA256 of other things that must be the operator's own (the counter's file). */
bool seal_mac(const struct seal *s, const void *p, size_t n, uint8_t mac[32]) MUST_CHECK;

struct seal_sum {
    uint64_t w[4]; /* the lowest first */
};
void seal_sum_add(struct seal_sum *to, const struct seal_sum *a);
void seal_sum_take(struct seal_sum *from, const struct seal_sum *a);
bool seal_sum_equal(const struct seal_sum *a, const struct seal_sum *b);
/* Two sums, bound to `aad`. */
bool seal_close_sums(const struct seal *s, const void *aad, size_t n, const struct seal_sum sums[2],
                     uint8_t out[SEAL_SUMS]) MUST_CHECK;
/* *failed: OpenSSL or memory did, which says nothing of the sums. */
bool seal_open_sums(const struct seal *s, const void *aad, size_t n, const uint8_t in[SEAL_SUMS],
                    struct seal_sum sums[2], bool *failed) MUST_CHECK;

/* The key under which other files of this database's gateway are bound to it. */
bool seal_state_key(const struct seal *s, struct secret_key *out) MUST_CHECK;

struct seal_opener *seal_opener_new(const struct seal *s);
void seal_opener_free(struct seal_opener *o);
bool seal_opener_open(struct seal_opener *o, struct str user, const struct key *key,
                      struct secret_key *clear) MUST_CHECK;
/* A row's part of the sum: of its sealed bytes, which are bound to all the rest of it. For rows that were opened. */
bool seal_opener_tag(struct seal_opener *o, const struct key *key, struct seal_sum *tag) MUST_CHECK;

/* Rows of the schema of version 1, to take them over: the same keys, other words around them. */
struct seal_v1_meta {
    uint64_t version, count, seq_sum, last_seq;
    uint8_t salt[SEAL_SALT], check[SEAL_CHECK], mac[32];
};
bool seal_v1_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear) MUST_CHECK;
bool seal_v1_vouches(const struct seal *s, const struct seal_v1_meta *meta);

#endif
