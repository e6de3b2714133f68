/*
 * How a key is sealed, on disk and in memory: AES-256-GCM, bound to everything that is said of the key. The working
 * keys are derived from the master key and the database's salt (HKDF-SHA256): no row can move between databases.
 *
 *     struct seal *seal = seal_new(&master, salt);
 *     if (!seal_close(seal, user, &key, &clear)) ...      fills key.sealed, with a fresh nonce
 *     if (!seal_open(seal, user, &key, &clear)) ...       false: any of the fields or the sealed bytes was changed
 */
#ifndef KMSGATE_KEYS_SEAL_H
#define KMSGATE_KEYS_SEAL_H

#include "base/reason.h"
#include "keys/keystore.h"

enum { SEAL_SALT = 32, SEAL_CHECK = 32, SEAL_MAC = 32 };

/* Immutable after seal_new(): any thread. */
struct seal;
/* Opens many keys with one set-up of the cipher; one thread. */
struct seal_opener;

/* NULL when out of memory or when OpenSSL fails. */
struct seal *seal_new(const struct secret_key *master, const uint8_t salt[SEAL_SALT]);
void seal_free(struct seal *s);
/* Tells a wrong master key from a tampered database: derived from the master key, the value says nothing of it. */
const uint8_t *seal_check(const struct seal *s);
bool seal_close(const struct seal *s, struct str user, struct key *key, const struct secret_key *clear) MUST_CHECK;
bool seal_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear) MUST_CHECK;
/* HMAC-SHA256 under a key of its own. */
bool seal_mac(const struct seal *s, const void *p, size_t n, uint8_t mac[SEAL_MAC]) MUST_CHECK;

/* The key under which other files of this database's gateway are bound to it. */
bool seal_state_key(const struct seal *s, struct secret_key *out) MUST_CHECK;

struct seal_opener *seal_opener_new(const struct seal *s);
void seal_opener_free(struct seal_opener *o);
bool seal_opener_open(struct seal_opener *o, struct str user, const struct key *key,
                      struct secret_key *clear) MUST_CHECK;

#endif
