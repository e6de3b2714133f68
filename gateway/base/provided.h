/*
 * SHA-256, and opening AES-256-GCM, by the functions that OpenSSL's provider hands out for them (provider(7),
 * provider-digest(7), provider-cipher(7)): those that EVP calls, too, and of the provider that EVP chose. On the way to
 * them EVP makes a digest's context anew for each text, outside of locked memory, and asks a cipher by names how long
 * its IV is for each: more than half of what opening a user's key takes.
 *
 *     struct provided_hash *h = provided_hash_new(sha256);
 *     if (!provided_hash_begin(h) || !provided_hash_add(h, p, n) || !provided_hash_end(h, out)) ...
 *
 * A context is one thread's. False, always: OpenSSL failed, or as is said; what it then says in the thread's queue of
 * errors stays there.
 */
#ifndef KMSGATE_BASE_PROVIDED_H
#define KMSGATE_BASE_PROVIDED_H

#include "base/crypto.h"

/* NULL: no memory, or not what EVP would ask of a provider; a hash of other than HASH_BYTES. Uses `md`, which its owner
 * keeps as long. */
struct provided_hash *provided_hash_new(const EVP_MD *md);
/* Whatever text was begun before is left. */
bool provided_hash_begin(struct provided_hash *h);
bool provided_hash_add(struct provided_hash *h, const void *p, size_t n);
bool provided_hash_end(struct provided_hash *h, uint8_t out[HASH_BYTES]);
void provided_hash_free(struct provided_hash *h); /* NULL is fine */

/* NULL: as above, or no AES-256-GCM. Uses `gcm`, which its owner keeps as long. */
struct provided_gcm *provided_gcm_new(const EVP_CIPHER *gcm);
/* Takes the place of the key that was set up before. */
bool provided_gcm_key(struct provided_gcm *g, const uint8_t key[KEY_BYTES]);
/* Under the key that is set up. False, too, unless the tag holds: then v->text is to be wiped. */
bool provided_gcm_open(struct provided_gcm *g, const struct crypto_sealed *v);
void provided_gcm_free(struct provided_gcm *g); /* NULL is fine */

#endif
