#include "keys/seal.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

enum { NONCE = 12, TAG = 16 };
_Static_assert(KEY_SEALED == NONCE + KEY_BYTES + TAG, "the layout of a sealed key");

/* Names what is sealed, so that no other use of the derived key could ever be taken for a row. */
static const char ROW_LABEL[] = "kmsgate key row 1";
enum { AAD_MAX = sizeof ROW_LABEL + 2 * (4 + KEY_TEXT_MAX) + 1 + 1 + 8 + 8 };

/* Lives in locked memory. */
struct seal {
    uint8_t row_key[KEY_BYTES];
    uint8_t mac_key[KEY_BYTES];
    uint8_t check[SEAL_CHECK];
    EVP_CIPHER *gcm; /* fetched once: an implicit fetch costs more than sealing a key */
};

struct seal_opener {
    const struct seal *seal;
    EVP_CIPHER_CTX *ctx;
};

static bool derive(EVP_KDF *kdf, const struct secret_key *master, const uint8_t *salt, const char *label, uint8_t *out)
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
    struct seal *s = secret_alloc(sizeof *s);
    if (!s)
        return NULL;
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    s->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    bool ok = kdf && s->gcm && derive(kdf, master, salt, "kmsgate: rows", s->row_key) &&
              derive(kdf, master, salt, "kmsgate: meta", s->mac_key) &&
              derive(kdf, master, salt, "kmsgate: master key check", s->check);
    EVP_KDF_free(kdf);
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
    secret_free(s, sizeof *s);
}

const uint8_t *seal_check(const struct seal *s)
{
    return s->check;
}

static uint8_t *put_number(uint8_t *at, uint64_t value, int bytes)
{
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8)
        *at++ = (uint8_t)(value >> shift);
    return at;
}

static uint8_t *put_text(uint8_t *at, struct str s)
{
    at = put_number(at, s.n, 4);
    memcpy(at, s.p, s.n);
    return at + s.n;
}

/* Each part has a fixed length or its length before it: no two keys have the same bytes. 0 when a text is too long. */
static int associated_data(struct str user, const struct key *key, uint8_t out[AAD_MAX])
{
    if (!user.p || !key->id.p || user.n > KEY_TEXT_MAX || key->id.n > KEY_TEXT_MAX)
        return 0;
    memcpy(out, ROW_LABEL, sizeof ROW_LABEL);
    uint8_t *at = put_text(out + sizeof ROW_LABEL, user);
    at = put_number(at, (uint64_t)key->type, 1);
    at = put_text(at, key->id);
    at = put_number(at, (uint64_t)key->state, 1);
    at = put_number(at, (uint64_t)key->not_after, 8);
    at = put_number(at, key->seq, 8);
    return (int)(at - out);
}

bool seal_close(const struct seal *s, struct str user, struct key *key, const struct secret_key *clear)
{
    uint8_t aad[AAD_MAX];
    int aad_n = associated_data(user, key, aad);
    uint8_t *nonce = key->sealed, *text = nonce + NONCE, *tag = text + KEY_BYTES;
    EVP_CIPHER_CTX *ctx = aad_n ? EVP_CIPHER_CTX_new() : NULL;
    int n = 0;
    bool ok = ctx && RAND_bytes(nonce, NONCE) == 1 && EVP_EncryptInit_ex2(ctx, s->gcm, s->row_key, nonce, NULL) == 1 &&
              EVP_EncryptUpdate(ctx, NULL, &n, aad, aad_n) == 1 &&
              EVP_EncryptUpdate(ctx, text, &n, clear->b, KEY_BYTES) == 1 && n == KEY_BYTES &&
              EVP_EncryptFinal_ex(ctx, text + n, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

struct seal_opener *seal_opener_new(const struct seal *s)
{
    struct seal_opener *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->seal = s;
    o->ctx = EVP_CIPHER_CTX_new();
    if (!o->ctx || EVP_DecryptInit_ex2(o->ctx, s->gcm, s->row_key, NULL, NULL) != 1) {
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
    free(o);
}

bool seal_opener_open(struct seal_opener *o, struct str user, const struct key *key, struct secret_key *clear)
{
    uint8_t aad[AAD_MAX], tag[TAG];
    int aad_n = associated_data(user, key, aad);
    if (!aad_n)
        return false;
    const uint8_t *nonce = key->sealed, *text = nonce + NONCE;
    memcpy(tag, text + KEY_BYTES, TAG); /* OpenSSL wants it writable */
    int n = 0, rest = 0;
    ERR_set_mark();
    bool ok = EVP_DecryptInit_ex2(o->ctx, NULL, NULL, nonce, NULL) == 1 &&
              EVP_DecryptUpdate(o->ctx, NULL, &n, aad, aad_n) == 1 &&
              EVP_DecryptUpdate(o->ctx, clear->b, &n, text, KEY_BYTES) == 1 && n == KEY_BYTES &&
              EVP_CIPHER_CTX_ctrl(o->ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag) == 1 &&
              EVP_DecryptFinal_ex(o->ctx, clear->b + n, &rest) == 1;
    ERR_pop_to_mark(); /* what is left in the thread's queue would be taken for a fault of its TLS connections */
    if (!ok)           /* what did not verify is nobody's key */
        secret_key_clear(clear);
    return ok;
}

bool seal_open(const struct seal *s, struct str user, const struct key *key, struct secret_key *clear)
{
    struct seal_opener *o = seal_opener_new(s);
    bool ok = o && seal_opener_open(o, user, key, clear);
    seal_opener_free(o);
    return ok;
}

bool seal_mac(const struct seal *s, const void *p, size_t n, uint8_t mac[SEAL_MAC])
{
    unsigned mac_n = 0;
    return HMAC(EVP_sha256(), s->mac_key, sizeof s->mac_key, p, n, mac, &mac_n) != NULL && mac_n == SEAL_MAC;
}

bool seal_state_key(const struct seal *s, struct secret_key *out)
{
    static const char LABEL[] = "kmsgate: state 1"; /* no meta row is so short */
    _Static_assert((int)SEAL_MAC == (int)KEY_BYTES, "a mac is a key");
    return seal_mac(s, LABEL, sizeof LABEL, out->b);
}
