/*
 * OpenSSL's contexts, made once a thread and used again: making one costs more than hashing a message. Each thread has
 * its own from its first call on, and gives them back when it ends. What a key leaves in a context is overwritten
 * before the call returns, but for the one that is to be kept.
 *
 *     uint8_t digest[HASH_BYTES];
 *     if (!crypto_sha256(text.p, text.n, digest)) return REASON_INTERNAL;      false: OpenSSL failed, or no memory
 */
#ifndef KMSGATE_BASE_CRYPTO_H
#define KMSGATE_BASE_CRYPTO_H

#include <openssl/types.h>

#include "base/secret.h"

enum { HASH_BYTES = 32, CMAC_BYTES = 16, GCM_IV_BYTES = 12, GCM_TAG_BYTES = 16 };

bool crypto_sha256(const void *p, size_t n, uint8_t out[HASH_BYTES]);
/* Of the parts one after the other. */
struct crypto_part {
    const void *p; /* may be NULL where n is 0 */
    size_t n;
};
bool crypto_sha256_parts(const struct crypto_part *parts, size_t count, uint8_t out[HASH_BYTES]);
bool crypto_hmac_sha256(const uint8_t key[KEY_BYTES], const void *p, size_t n, uint8_t out[HASH_BYTES]);

/* The same under a key that stays: half the work for a short text. NULL without memory; one thread at a time; the free
 * overwrites what the key left. */
struct crypto_keyed;
struct crypto_keyed *crypto_keyed_new(const uint8_t key[KEY_BYTES]);
bool crypto_keyed_hmac(struct crypto_keyed *k, const void *p, size_t n, uint8_t out[HASH_BYTES]);
void crypto_keyed_free(struct crypto_keyed *k); /* NULL is fine */

/* AES-256-CMAC (NIST SP 800-38B), under a key that stays: as good a name for what nobody is to learn as an HMAC is, for
 * less than half the work. NULL without memory; one thread at a time; the free overwrites what the key left. */
EVP_MAC_CTX *crypto_cmac_new(const uint8_t key[KEY_BYTES]);
bool crypto_cmac(EVP_MAC_CTX *ctx, const void *p, size_t n, uint8_t out[CMAC_BYTES]);
void crypto_cmac_free(EVP_MAC_CTX *ctx); /* NULL is fine */

/* AES-256-GCM. aad may be NULL. n is below 2^31. */
struct crypto_gcm {
    const uint8_t *key, *iv; /* KEY_BYTES, GCM_IV_BYTES: fresh for each text under one key */
    const void *aad;
    size_t aad_n;
};
bool crypto_gcm_seal(const struct crypto_gcm *how, const uint8_t *text, size_t n, uint8_t *cipher,
                     uint8_t tag[GCM_TAG_BYTES]);
/* False unless the tag holds: then `text` is wiped. */
bool crypto_gcm_open(const struct crypto_gcm *how, const uint8_t *cipher, size_t n, const uint8_t tag[GCM_TAG_BYTES],
                     uint8_t *text);
/* Several texts under a key that its owner keeps in locked memory for as long as threads may serve: what it was made
 * into stays, in locked memory, too, until another key of so many takes its place or the thread ends. Setting it up
 * takes longer than opening a user's key under it. All of the texts, or none: then each `text` is wiped. */
struct crypto_kept_key {
    const uint8_t *b; /* KEY_BYTES */
    uint64_t number;  /* which key it is: no other of the process has it, and it is not 0 */
};
struct crypto_sealed {
    const uint8_t *iv;
    const void *aad;
    size_t aad_n;
    const uint8_t *cipher;
    size_t n; /* of cipher, and of text */
    const uint8_t *tag;
    uint8_t *text;
};
bool crypto_gcm_open_kept(const struct crypto_kept_key *key, const struct crypto_sealed *v, size_t count);
/* Overwrites what this thread has of it. */
void crypto_gcm_forget_kept(uint64_t number);

/* AES-256 by single blocks, for EVP_Cipher(), which knows no padding: OpenSSL's own AES-WRAP is not constant in time.
 * NULL: no memory.
 * What was taken is given back by the same thread: then the key's schedule is overwritten. NULL is fine. */
EVP_CIPHER_CTX *crypto_blocks_take(const uint8_t key[KEY_BYTES], bool encrypt);
void crypto_blocks_give(EVP_CIPHER_CTX *ctx);

/* Once, before OpenSSL is used at all, in a process that serves: from then on what it allocates between the next two is
 * locked memory (locked.h), wherever it is freed. They nest, and hold for their thread. False: OpenSSL was used
 * already. */
bool crypto_memory_setup(void);
void crypto_keys_begin(void);
void crypto_keys_end(void);

/* What this thread has, given back early: before OpenSSL is left. */
void crypto_thread_end(void);

#endif
