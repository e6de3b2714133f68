#include "base/crypto.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "base/provided.h"
#include "base/short.h"

enum {
    HASH_BLOCK = 64,
    IPAD = 0x36, /* RFC 2104's */
    OPAD = 0x5c,
    CRYPTO_SPARE = 2, /* one that encrypts and one that decrypts */
    CRYPTO_KEPT = 4   /* more than there are keys at a time, even while one follows the other */
};
struct crypto_thread {
    EVP_MD *sha256;
    struct provided_hash *hash;
    EVP_CIPHER *gcm, *ecb;
    EVP_CIPHER_CTX *sealing;
    struct crypto_kept {
        struct provided_gcm *gcm;
        uint64_t number; /* of the key that is set up; 0: nobody's */
    } kept[CRYPTO_KEPT];
    size_t kept_next; /* whose place the next key takes */
    EVP_CIPHER_CTX *blocks[CRYPTO_SPARE]; /* those that nobody has taken */
    size_t spare;
};
static _Thread_local struct crypto_thread *crypto_own;
static pthread_key_t crypto_key;
static pthread_once_t crypto_once = PTHREAD_ONCE_INIT;
static bool crypto_key_made;

static void crypto_thread_free(void *arg)
{
    struct crypto_thread *t = arg;
    if (!t)
        return;
    provided_hash_free(t->hash);
    EVP_MD_free(t->sha256);
    EVP_CIPHER_CTX_free(t->sealing);
    for (size_t i = 0; i < CRYPTO_KEPT; i++)
        provided_gcm_free(t->kept[i].gcm);
    while (t->spare)
        EVP_CIPHER_CTX_free(t->blocks[--t->spare]);
    EVP_CIPHER_free(t->gcm);
    EVP_CIPHER_free(t->ecb);
    free(t);
}

static void crypto_make_key(void)
{
    crypto_key_made = pthread_key_create(&crypto_key, crypto_thread_free) == 0;
}

static bool crypto_kept_new(struct crypto_thread *t)
{
    bool ok = true;
    for (size_t i = 0; ok && i < CRYPTO_KEPT; i++)
        ok = (t->kept[i].gcm = provided_gcm_new(t->gcm)) != NULL;
    return ok;
}

static struct crypto_thread *crypto_thread_new(void)
{
    (void)pthread_once(&crypto_once, crypto_make_key);
    struct crypto_thread *t = crypto_key_made ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    t->hash = t->sha256 ? provided_hash_new(t->sha256) : NULL;
    t->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    t->ecb = EVP_CIPHER_fetch(NULL, "AES-256-ECB", NULL);
    t->sealing = EVP_CIPHER_CTX_new();
    /* from here on the algorithm is never named again: naming it makes the context anew */
    if (!t->hash || !t->gcm || !t->ecb || !t->sealing ||
        EVP_CipherInit_ex2(t->sealing, t->gcm, NULL, NULL, 1, NULL) != 1 || !crypto_kept_new(t) ||
        pthread_setspecific(crypto_key, t) != 0) {
        crypto_thread_free(t);
        return NULL;
    }
    return t;
}

/* This thread's contexts; NULL: they cannot be made. */
static struct crypto_thread *crypto_thread(void)
{
    if (crypto_own)
        return crypto_own;
    crypto_keys_begin();
    crypto_own = crypto_thread_new();
    crypto_keys_end();
    return crypto_own;
}

void crypto_thread_end(void)
{
    if (!crypto_own)
        return;
    (void)pthread_setspecific(crypto_key, NULL);
    crypto_thread_free(crypto_own);
    crypto_own = NULL;
}

bool crypto_sha256(const void *p, size_t n, uint8_t out[HASH_BYTES])
{
    struct crypto_thread *t = p ? crypto_thread() : NULL;
    return t && provided_hash_begin(t->hash) && provided_hash_add(t->hash, p, n) && provided_hash_end(t->hash, out);
}

bool crypto_sha256_parts(const struct crypto_part *parts, size_t count, uint8_t out[HASH_BYTES])
{
    enum { SHORT = 768 }; /* put together: a call for each part costs more than hashing it */
    uint8_t all[SHORT];
    size_t n = 0, next = 0;
    for (; next < count && parts[next].n <= sizeof all - n; n += parts[next++].n)
        short_copy((char *)all + n, parts[next].p, parts[next].n);
    struct crypto_thread *t = crypto_thread();
    bool ok = t && provided_hash_begin(t->hash) && provided_hash_add(t->hash, all, n);
    secret_wipe(all, n); /* a key may be among them */
    for (; ok && next < count; next++)
        ok = provided_hash_add(t->hash, parts[next].p, parts[next].n);
    return ok && provided_hash_end(t->hash, out);
}

/* The first block of either hash of RFC 2104: the key, filled with noughts, under `with`. */
static void crypto_pad(const uint8_t key[KEY_BYTES], uint8_t with, uint8_t pad[HASH_BLOCK])
{
    memset(pad, with, HASH_BLOCK);
    for (size_t i = 0; i < KEY_BYTES; i++)
        pad[i] ^= key[i];
}

/*
 * RFC 2104: H(K ^ opad, H(K ^ ipad, text)). OpenSSL's own HMAC keeps the key, and what is made of it, in three
 * contexts, where another key has to overwrite it afterwards: a third of the work for a text as long as a SignedInfo.
 * Of two hashes nothing of the key is left when they are done: the context holds the HMAC.
 */
bool crypto_hmac_sha256(const uint8_t key[KEY_BYTES], const void *p, size_t n, uint8_t out[HASH_BYTES])
{
    uint8_t pad[HASH_BLOCK], inner[HASH_BYTES];
    if (!p)
        return false;
    crypto_pad(key, IPAD, pad);
    bool ok = crypto_sha256_parts((struct crypto_part[]){{pad, sizeof pad}, {p, n}}, 2, inner);
    crypto_pad(key, OPAD, pad);
    ok = ok && crypto_sha256_parts((struct crypto_part[]){{pad, sizeof pad}, {inner, sizeof inner}}, 2, out);
    secret_wipe(pad, sizeof pad);
    secret_wipe(inner, sizeof inner);
    return ok;
}

/* The two hashes of RFC 2104, each after the block that its key makes: what is hashed goes on from a copy. */
struct crypto_keyed {
    EVP_MD_CTX *inner, *outer, *work;
};

static bool crypto_keyed_begin(struct crypto_keyed *k, const uint8_t key[KEY_BYTES])
{
    uint8_t pad[HASH_BLOCK];
    struct crypto_thread *t = crypto_thread();
    EVP_MD_CTX *const hashes[] = {k->inner, k->outer};
    static const uint8_t PADS[] = {IPAD, OPAD};
    bool ok = t != NULL;
    for (size_t h = 0; h < 2 && ok; h++) {
        crypto_pad(key, PADS[h], pad);
        ok = EVP_DigestInit_ex2(hashes[h], t->sha256, NULL) == 1 && EVP_DigestUpdate(hashes[h], pad, sizeof pad) == 1;
    }
    secret_wipe(pad, sizeof pad);
    return ok;
}

struct crypto_keyed *crypto_keyed_new(const uint8_t key[KEY_BYTES])
{
    struct crypto_keyed *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    crypto_keys_begin();
    k->inner = EVP_MD_CTX_new();
    k->outer = EVP_MD_CTX_new();
    k->work = EVP_MD_CTX_new();
    const bool ok = k->inner && k->outer && k->work && crypto_keyed_begin(k, key);
    crypto_keys_end();
    if (ok)
        return k;
    crypto_keyed_free(k);
    return NULL;
}

bool crypto_keyed_hmac(struct crypto_keyed *k, const void *p, size_t n, uint8_t out[HASH_BYTES])
{
    uint8_t inner[HASH_BYTES];
    return EVP_MD_CTX_copy_ex(k->work, k->inner) == 1 && EVP_DigestUpdate(k->work, p, n) == 1 &&
           EVP_DigestFinal_ex(k->work, inner, NULL) == 1 && EVP_MD_CTX_copy_ex(k->work, k->outer) == 1 &&
           EVP_DigestUpdate(k->work, inner, sizeof inner) == 1 && EVP_DigestFinal_ex(k->work, out, NULL) == 1;
}

void crypto_keyed_free(struct crypto_keyed *k)
{
    if (!k)
        return;
    EVP_MD_CTX_free(k->inner);
    EVP_MD_CTX_free(k->outer);
    EVP_MD_CTX_free(k->work);
    free(k);
}

EVP_MAC_CTX *crypto_cmac_new(const uint8_t key[KEY_BYTES])
{
    char name[] = "AES-256-CBC";
    const OSSL_PARAM cipher[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, name, 0),
                                 OSSL_PARAM_construct_end()};
    crypto_keys_begin();
    EVP_MAC *cmac = EVP_MAC_fetch(NULL, "CMAC", NULL);
    EVP_MAC_CTX *ctx = cmac ? EVP_MAC_CTX_new(cmac) : NULL;
    const bool ok = ctx && EVP_MAC_init(ctx, key, KEY_BYTES, cipher) == 1;
    EVP_MAC_free(cmac);
    crypto_keys_end();
    if (ok)
        return ctx;
    EVP_MAC_CTX_free(ctx);
    return NULL;
}

bool crypto_cmac(EVP_MAC_CTX *ctx, const void *p, size_t n, uint8_t out[CMAC_BYTES])
{
    size_t got = 0;
    return EVP_MAC_init(ctx, NULL, 0, NULL) == 1 && EVP_MAC_update(ctx, p, n) == 1 &&
           EVP_MAC_final(ctx, out, &got, CMAC_BYTES) == 1 && got == CMAC_BYTES;
}

void crypto_cmac_free(EVP_MAC_CTX *ctx)
{
    EVP_MAC_CTX_free(ctx);
}

static const uint8_t NOBODYS[KEY_BYTES]; /* whose schedule overwrites a key's */

static bool crypto_gcm_forget(EVP_CIPHER_CTX *ctx)
{
    return EVP_CipherInit_ex2(ctx, NULL, NOBODYS, NULL, 1, NULL) == 1;
}

static bool crypto_gcm_begin(EVP_CIPHER_CTX *ctx, const struct crypto_gcm *how, size_t n, int encrypt)
{
    int done = 0;
    return n <= INT_MAX && how->aad_n <= INT_MAX &&
           EVP_CipherInit_ex2(ctx, NULL, how->key, how->iv, encrypt, NULL) == 1 &&
           (!how->aad || EVP_CipherUpdate(ctx, NULL, &done, how->aad, (int)how->aad_n) == 1);
}

bool crypto_gcm_seal(const struct crypto_gcm *how, const uint8_t *text, size_t n, uint8_t *cipher,
                     uint8_t tag[GCM_TAG_BYTES])
{
    int done = 0, rest = 0;
    struct crypto_thread *t = crypto_thread();
    if (!t)
        return false;
    const bool ok = crypto_gcm_begin(t->sealing, how, n, 1) &&
                    EVP_CipherUpdate(t->sealing, cipher, &done, text, (int)n) == 1 &&
                    (size_t)done == n && EVP_CipherFinal_ex(t->sealing, cipher + n, &rest) == 1 && rest == 0 &&
                    EVP_CIPHER_CTX_ctrl(t->sealing, EVP_CTRL_AEAD_GET_TAG, GCM_TAG_BYTES, tag) == 1;
    return crypto_gcm_forget(t->sealing) && ok;
}

static bool crypto_gcm_open_one(EVP_CIPHER_CTX *ctx, const struct crypto_gcm *how, const struct crypto_sealed *v)
{
    uint8_t own[GCM_TAG_BYTES], none[GCM_TAG_BYTES]; /* OpenSSL wants the tag writable */
    int done = 0, rest = 0;
    memcpy(own, v->tag, sizeof own);
    return crypto_gcm_begin(ctx, how, v->n, 0) &&
           EVP_CipherUpdate(ctx, v->text, &done, v->cipher, (int)v->n) == 1 && (size_t)done == v->n &&
           EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, GCM_TAG_BYTES, own) == 1 &&
           EVP_CipherFinal_ex(ctx, none, &rest) == 1 && rest == 0;
}

bool crypto_gcm_open(const struct crypto_gcm *how, const uint8_t *cipher, size_t n, const uint8_t tag[GCM_TAG_BYTES],
                     uint8_t *text)
{
    const struct crypto_sealed one = {how->iv, how->aad, how->aad_n, cipher, n, tag, text};
    struct crypto_thread *t = crypto_thread();
    ERR_set_mark();
    bool ok = t && crypto_gcm_open_one(t->sealing, how, &one);
    ERR_pop_to_mark(); /* what is left in the thread's queue would be taken for a fault of its TLS connections */
    ok = t && crypto_gcm_forget(t->sealing) && ok;
    if (!ok)
        secret_wipe(text, n);
    return ok;
}

static struct crypto_kept *crypto_kept_find(struct crypto_thread *t, uint64_t number)
{
    for (size_t i = 0; i < CRYPTO_KEPT; i++)
        if (t->kept[i].number == number)
            return &t->kept[i];
    return NULL;
}

/* Where the key is set up, in place of the one that was first; NULL: OpenSSL failed. */
static struct crypto_kept *crypto_kept_set(struct crypto_thread *t, const struct crypto_kept_key *key)
{
    struct crypto_kept *kept = &t->kept[t->kept_next++ % CRYPTO_KEPT];
    const bool ok = provided_gcm_key(kept->gcm, key->b);
    kept->number = ok ? key->number : 0;
    return ok ? kept : NULL;
}

bool crypto_gcm_open_kept(const struct crypto_kept_key *key, const struct crypto_sealed *v, size_t count)
{
    struct crypto_thread *t = crypto_thread();
    const struct crypto_kept *kept = t ? crypto_kept_find(t, key->number) : NULL;
    if (t && !kept)
        kept = crypto_kept_set(t, key);
    /* what does not open leaves the key as it is: else it would show in the time that the next one takes */
    bool ok = kept != NULL;
    for (size_t i = 0; ok && i < count; i++)
        ok = provided_gcm_open(kept->gcm, &v[i]);
    if (ok)
        return true;
    for (size_t i = 0; i < count; i++)
        secret_wipe(v[i].text, v[i].n);
    if (ERR_peek_error()) /* it would be taken for a fault of the thread's TLS; a wrong tag leaves none */
        ERR_clear_error();
    return false;
}

void crypto_gcm_forget_kept(uint64_t number)
{
    struct crypto_kept *kept = crypto_own ? crypto_kept_find(crypto_own, number) : NULL;
    if (!kept)
        return;
    kept->number = 0;
    (void)provided_gcm_key(kept->gcm, NOBODYS);
}

EVP_CIPHER_CTX *crypto_blocks_take(const uint8_t key[KEY_BYTES], bool encrypt)
{
    struct crypto_thread *t = crypto_thread();
    const bool spare = t && t->spare;
    crypto_keys_begin();
    EVP_CIPHER_CTX *ctx = !t ? NULL : spare ? t->blocks[--t->spare] : EVP_CIPHER_CTX_new();
    const bool ok = ctx && EVP_CipherInit_ex2(ctx, spare ? NULL : t->ecb, key, NULL, encrypt, NULL) == 1;
    crypto_keys_end();
    if (ok)
        return ctx;
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

void crypto_blocks_give(EVP_CIPHER_CTX *ctx)
{
    struct crypto_thread *t = crypto_own;
    if (ctx && t && t->spare < CRYPTO_SPARE && EVP_CipherInit_ex2(ctx, NULL, NOBODYS, NULL, 1, NULL) == 1)
        t->blocks[t->spare++] = ctx;
    else
        EVP_CIPHER_CTX_free(ctx);
}
