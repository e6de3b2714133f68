#include "keys/seal.h"

#include <endian.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "base/crypto.h"

enum { NONCE = 12, TAG = 16 };
_Static_assert(KEY_SEALED == NONCE + KEY_BYTES + TAG, "the layout of a sealed key");

/* Names what is sealed, so that no other use of the derived key could ever be taken for a row. */
static const char ROW_LABEL[] = "kmsgate key row 2", ROW_V1_LABEL[] = "kmsgate key row 1";
_Static_assert(sizeof ROW_LABEL == sizeof ROW_V1_LABEL, "one room for both");
enum { AAD_MAX = sizeof ROW_LABEL + 2 * (4 + KEY_TEXT_MAX) + 4 + KEY_SENT_MAX + 4 * 1 + 4 * 8 };

enum { SEAL_SOME = 2 }; /* opened at once */

/* Lives in locked memory. */
struct seal {
    uint8_t row_key[KEY_BYTES];
    uint8_t mac_key[KEY_BYTES];
    uint8_t tag_key[KEY_BYTES];  /* of the rows' parts of the sum */
    uint8_t sum_key[KEY_BYTES];  /* of the sealed sums */
    uint8_t salt[SEAL_SALT];
    uint8_t check[SEAL_CHECK];
    uint32_t name;
    uint64_t number; /* of row_key: no other has it */
    EVP_CIPHER *gcm; /* fetched once: an implicit fetch costs more than sealing a key */
};

struct seal_opener {
    const struct seal *seal;
    EVP_CIPHER_CTX *ctx;
    struct crypto_keyed *mac;
};

static bool seal_derive(EVP_KDF *kdf, const struct secret_key *master, const uint8_t *salt, const char *label,
                        uint8_t *out)
{
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    if (!ctx)
        return false;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)master->b, sizeof master->b),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, SEAL_SALT),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)label, strlen(label)),
        OSSL_PARAM_construct_end(),
    };
    bool ok = EVP_KDF_derive(ctx, out, KEY_BYTES, params) == 1;
    EVP_KDF_CTX_free(ctx);
    return ok;
}

struct seal *seal_new(const struct secret_key *master, const uint8_t salt[SEAL_SALT])
{
    static _Atomic uint64_t numbers;
    struct seal *s = secret_alloc(sizeof *s);
    if (!s)
        return NULL;
    s->number = atomic_fetch_add(&numbers, 1) + 1;
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    s->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    bool ok = kdf && s->gcm && seal_derive(kdf, master, salt, "kmsgate: rows", s->row_key) &&
              seal_derive(kdf, master, salt, "kmsgate: meta", s->mac_key) &&
              seal_derive(kdf, master, salt, "kmsgate: row tags", s->tag_key) &&
              seal_derive(kdf, master, salt, "kmsgate: sums", s->sum_key) &&
              seal_derive(kdf, master, salt, "kmsgate: master key check", s->check);
    EVP_KDF_free(kdf);
    memcpy(s->salt, salt, sizeof s->salt);
    for (int i = 0; i < 4; i++) /* 31 bits: a number that any database keeps */
        s->name = (s->name << 8 | s->check[i]) & 0x7fffffff;
    if (!ok) {
        seal_free(s);
        return NULL;
    }
    return s;
}

void seal_free(struct seal *s)
{
    if (!s)
        return;
    EVP_CIPHER_free(s->gcm);
    crypto_gcm_forget_kept(s->number);
    secret_free(s, sizeof *s);
}

const uint8_t *seal_check(const struct seal *s)
{
    return s->check;
}

uint32_t seal_name(const struct seal *s)
{
    return s->name;
}

static inline uint8_t *put_number(uint8_t *at, uint64_t value, int bytes)
{
    const uint64_t first = htobe64(value << (8 * (8 - bytes)));
    memcpy(at, &first, (size_t)bytes);
    return at + bytes;
}

static uint8_t *put_text(uint8_t *at, struct str s)
{
    at = put_number(at, s.n, 4);
    if (s.n)
        memcpy(at, s.p, s.n);
    return at + s.n;
}

/* Each part has a fixed length or its length before it: no two keys have the same bytes. 0 when a text is too long. */
static int associated_data(struct str user, const struct key *key, uint8_t out[AAD_MAX])
{
    if (!user.p || !key->id.p || user.n > KEY_TEXT_MAX || key->id.n > KEY_TEXT_MAX || key->sent.n > KEY_SENT_MAX)
        return 0;
    memcpy(out, ROW_LABEL, sizeof ROW_LABEL);
    uint8_t *at = put_text(out + sizeof ROW_LABEL, user);
    at = put_number(at, (uint64_t)key->type, 1);
    at = put_text(at, key->id);
    at = put_number(at, (uint64_t)key->state, 1);
    at = put_number(at, (uint64_t)key->origin, 1);
    at = put_number(at, (uint64_t)key->due, 1);
    at = put_number(at, (uint64_t)key->not_after, 8);
    at = put_number(at, (uint64_t)key->since, 8);
    at = put_number(at, (uint64_t)key->keep_old, 8);
    at = put_number(at, key->seq, 8);
    at = put_text(at, key->sent);
    return (int)(at - out);
}

static int associated_data_v1(struct str user, const struct key *key, uint8_t out[AAD_MAX])
{
    if (!user.p || !key->id.p || user.n > KEY_TEXT_MAX || key->id.n > KEY_TEXT_MAX)
        return 0;
    memcpy(out, ROW_V1_LABEL, sizeof ROW_V1_LABEL);
    uint8_t *at = put_text(out + sizeof ROW_V1_LABEL, user);
    at = put_number(at, (uint64_t)key->type, 1);
    at = put_text(at, key->id);
    at = put_number(at, (uint64_t)key->state, 1);
    at = put_number(at, (uint64_t)key->not_after, 8);
    at = put_number(at, key->seq, 8);
    return (int)(at - out);
}

/* `sealed` has room for nonce, n bytes and tag. */
static bool encrypt(const struct seal *s, const uint8_t *key, struct str aad, const void *clear, size_t n,
                    uint8_t *sealed)
{
    uint8_t *nonce = sealed, *text = nonce + NONCE, *tag = text + n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int done = 0;
    bool ok = ctx && RAND_bytes(nonce, NONCE) == 1 && EVP_EncryptInit_ex2(ctx, s->gcm, key, nonce, NULL) == 1 &&
              EVP_EncryptUpdate(ctx, NULL, &done, (const uint8_t *)aad.p, (int)aad.n) == 1 &&
              EVP_EncryptUpdate(ctx, text, &done, clear, (int)n) == 1 && done == (int)n &&
              EVP_EncryptFinal_ex(ctx, text + n, &done) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

/* With ctx's key set up. What does not verify leaves nothing in `clear`. */
static bool seal_decrypt(EVP_CIPHER_CTX *ctx, struct str aad, const uint8_t *sealed, void *clear, size_t n)
{
    const uint8_t *nonce = sealed, *text = nonce + NONCE;
    uint8_t tag[TAG];
    memcpy(tag, text + n, TAG); /* OpenSSL wants it writable */
    int done = 0, rest = 0;
    ERR_set_mark();
    bool ok = EVP_DecryptInit_ex2(ctx, NULL, NULL, nonce, NULL) == 1 &&
              EVP_DecryptUpdate(ctx, NULL, &done, (const uint8_t *)aad.p, (int)aad.n) == 1 &&
              EVP_DecryptUpdate(ctx, clear, &done, text, (int)n) == 1 && done == (int)n &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag) == 1 &&
              EVP_DecryptFinal_ex(ctx, (uint8_t *)clear + n, &rest) == 1;
    ERR_pop_to_mark(); /* what is left in the thread's queue would be taken for a fault of its TLS connections */
    if (!ok)
        secret_wipe(clear, n);
    return ok;
}

bool seal_close(const struct seal *s, struct str user, struct key *key, const struct secret_key *clear)
{
    uint8_t aad[AAD_MAX];
    const int n = associated_data(user, key, aad);
    return n && encrypt(s, s->row_key, (struct str){(char *)aad, (size_t)n}, clear->b, KEY_BYTES, key->sealed);
}

bool seal_close_sums(const struct seal *s, const void *aad, size_t n, const struct seal_sum sums[2],
                     uint8_t out[SEAL_SUMS])
{
    uint8_t clear[2 * SEAL_SUM], *at = clear;
    for (int i = 0; i < 8; i++)
        at = put_number(at, sums[i / 4].w[i % 4], 8);
    return encrypt(s, s->sum_key, (struct str){aad, n}, clear, sizeof clear, out);
}

bool seal_open_sums(const struct seal *s, const void *aad, size_t n, const uint8_t in[SEAL_SUMS],
                    struct seal_sum sums[2], bool *failed)
{
    uint8_t clear[2 * SEAL_SUM];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    *failed = !ctx || EVP_DecryptInit_ex2(ctx, s->gcm, s->sum_key, NULL, NULL) != 1;
    bool ok = !*failed && seal_decrypt(ctx, (struct str){aad, n}, in, clear, sizeof clear);
    EVP_CIPHER_CTX_free(ctx);
    for (int i = 0; ok && i < 8; i++) {
        uint64_t *w = &sums[i / 4].w[i % 4];
        *w = 0;
        for (int b = 0; b < 8; b++)
            *w = *w << 8 | clear[8 * i + b];
    }
    return ok;
}

struct seal_opener *seal_opener_new(const struct seal *s)
{
    struct seal_opener *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->seal = s;
    o->ctx = EVP_CIPHER_CTX_new();
    o->mac = crypto_keyed_new(s->tag_key);
    if (!o->ctx || EVP_DecryptInit_ex2(o->ctx, s->gcm, s->row_key, NULL, NULL) != 1 || !o->mac) {
        seal_opener_free(o);
        return NULL;
    }
    return o;
}

void seal_opener_free(struct seal_opener *o)
{
    if (!o)
        return;
    EVP_CIPHER_CTX_free(o->ctx);
    crypto_keyed_free(o->mac);
    free(o);
}

bool seal_opener_open(struct seal_opener *o, struct str user, const struct key *key, struct secret_key *clear)
{
    uint8_t aad[AAD_MAX];
    const int n = associated_data(user, key, aad);
    return n && seal_decrypt(o->ctx, (struct str){(char *)aad, (size_t)n}, key->sealed, clear->b, KEY_BYTES);
}

bool seal_opener_tag(struct seal_opener *o, const struct key *key, struct seal_sum *tag)
{
    uint8_t mac[SEAL_SUM];
    _Static_assert((int)SEAL_SUM == (int)HASH_BYTES, "a tag is a whole mac");
    if (!crypto_keyed_hmac(o->mac, key->sealed, sizeof key->sealed, mac))
        return false;
    memcpy(tag->w, mac, sizeof mac); /* any fixed order of the bytes will do, but a database may change its machine */
    for (int i = 0; i < 4; i++)
        tag->w[i] = le64toh(tag->w[i]);
    return true;
}

/* What did not verify is nobody's key. */
static bool open_some(const struct seal *s, struct str user, const struct key *const *keys, struct secret_key *clear,
                      size_t count)
{
    uint8_t aad[SEAL_SOME][AAD_MAX];
    struct crypto_sealed v[SEAL_SOME];
    bool ok = count <= SEAL_SOME;
    for (size_t i = 0; ok && i < count; i++) {
        const uint8_t *const text = keys[i]->sealed + NONCE;
        const int n = associated_data(user, keys[i], aad[i]);
        v[i] = (struct crypto_sealed){.iv = keys[i]->sealed, .aad = aad[i], .aad_n = (size_t)n, .cipher = text,
                                      .n = KEY_BYTES, .tag = text + KEY_BYTES, .text = clear[i].b};
        ok = n > 0;
    }
    ok = ok && crypto_gcm_open_kept(&(struct crypto_kept_key){s->row_key, s->number}, v, count);
    for (size_t i = 0; !ok && i < count; i++)
        secret_key_clear(&clear[i]);
    return ok;
}

bool seal_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear)
{
    return open_some(s, user, &key, clear, 1);
}

bool seal_open_two(const struct seal *s, struct str user, const struct key *const keys[2], struct secret_key clear[2])
{
    return open_some(s, user, keys, clear, 2);
}

bool seal_v1_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear)
{
    uint8_t aad[AAD_MAX];
    const int n = associated_data_v1(user, key, aad);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = n && ctx && EVP_DecryptInit_ex2(ctx, s->gcm, s->row_key, NULL, NULL) == 1 &&
              seal_decrypt(ctx, (struct str){(char *)aad, (size_t)n}, key->sealed, clear->b, KEY_BYTES);
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static bool seal_hmac(const uint8_t *key, const void *p, size_t n, uint8_t mac[32])
{
    unsigned mac_n = 0;
    return HMAC(EVP_sha256(), key, KEY_BYTES, p, n, mac, &mac_n) != NULL && mac_n == 32;
}

bool seal_mac(const struct seal *s, const void *p, size_t n, uint8_t mac[32])
{
    return seal_hmac(s->mac_key, p, n, mac);
}

bool seal_hash(const struct seal *s, const struct secret_key *clear, struct secret_key *hash)
{
    return seal_hmac(s->salt, clear->b, sizeof clear->b, hash->b);
}

bool seal_v1_vouches(const struct seal *s, const struct seal_v1_meta *meta)
{
    uint8_t text[4 * 8 + SEAL_SALT + SEAL_CHECK], mac[32], *at = text;
    at = put_number(at, meta->version, 8);
    at = put_number(at, meta->count, 8);
    at = put_number(at, meta->seq_sum, 8);
    at = put_number(at, meta->last_seq, 8);
    memcpy(at, meta->salt, SEAL_SALT);
    memcpy(at + SEAL_SALT, meta->check, SEAL_CHECK);
    return seal_mac(s, text, sizeof text, mac) && secret_equal(mac, meta->mac, sizeof mac);
}

void seal_sum_add(struct seal_sum *to, const struct seal_sum *a)
{
    unsigned __int128 carry = 0;
    for (int i = 0; i < 4; i++) {
        carry += (unsigned __int128)to->w[i] + a->w[i];
        to->w[i] = (uint64_t)carry;
        carry >>= 64;
    }
}

void seal_sum_take(struct seal_sum *from, const struct seal_sum *a)
{
    uint64_t borrow = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned __int128 d = (unsigned __int128)from->w[i] - a->w[i] - borrow;
        from->w[i] = (uint64_t)d;
        borrow = (uint64_t)(d >> 64) & 1;
    }
}

bool seal_sum_equal(const struct seal_sum *a, const struct seal_sum *b)
{
    return secret_equal(a->w, b->w, sizeof a->w);
}

bool seal_state_key(const struct seal *s, struct secret_key *out)
{
    static const char LABEL[] = "kmsgate: state 1"; /* no meta row is so short */
    _Static_assert(KEY_BYTES == 32, "a mac is a key");
    return seal_mac(s, LABEL, sizeof LABEL, out->b);
}
