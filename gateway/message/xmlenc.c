#include "message/xmlenc_internal.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/modes.h>
#include <openssl/rand.h>

#include "base/crypto.h"
#include "base/limits.h"

enum { BLOCK = 16, HALF_BLOCK = 8 };

/*
 * One AES-256-ECB context a direction, keyed once: OpenSSL's own AES-WRAP cipher is not constant in time. A context's
 * failure is remembered, since the callback of CRYPTO_128_wrap() cannot tell it.
 */
struct xmlenc {
    EVP_CIPHER_CTX *forward, *back; /* back: NULL until something is opened */
    struct secret_key trk;
    struct str trk_id;
    char *trk_id_text;
    bool failed;
};

struct xmlenc *xmlenc_new(const struct secret_key *trk, struct str trk_id)
{
    struct xmlenc *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->trk = *trk;
    e->trk_id_text = str_dup(trk_id);
    e->trk_id = str_z(e->trk_id_text);
    e->forward = crypto_blocks_take(trk->b, true);
    if (e->trk_id.n > 0 && e->forward)
        return e;
    xmlenc_free(e);
    return NULL;
}

void xmlenc_free(struct xmlenc *e)
{
    if (!e)
        return;
    crypto_blocks_give(e->forward);
    crypto_blocks_give(e->back);
    free(e->trk_id_text);
    secret_wipe(e, sizeof *e);
    free(e);
}

static void one_block(struct xmlenc *e, EVP_CIPHER_CTX *ctx, const uint8_t *in, uint8_t *out)
{
    if (EVP_Cipher(ctx, out, in, BLOCK) != BLOCK) { /* EVP_CipherUpdate() would keep account of a stream */
        memset(out, 0, BLOCK);
        e->failed = true;
    }
}

static void encrypt_block(const unsigned char *in, unsigned char *out, const void *arg)
{
    struct xmlenc *e = (struct xmlenc *)arg;
    one_block(e, e->forward, in, out);
}

static void decrypt_block(const unsigned char *in, unsigned char *out, const void *arg)
{
    struct xmlenc *e = (struct xmlenc *)arg;
    one_block(e, e->back, in, out);
}

static size_t wrap_kw(struct xmlenc *e, const uint8_t *octets, size_t n, uint8_t *out)
{
    e->failed = false;
    if (n < BLOCK || n % HALF_BLOCK != 0)
        return 0;
    const size_t got = CRYPTO_128_wrap(e, NULL, out, octets, n, encrypt_block);
    return e->failed ? 0 : got;
}

static size_t wrap_kwp(struct xmlenc *e, const uint8_t *octets, size_t n, uint8_t *out)
{
    e->failed = false;
    const size_t got = n == 0 ? 0 : CRYPTO_128_wrap_pad(e, NULL, out, octets, n, encrypt_block);
    return e->failed ? 0 : got;
}

/* IV, ciphertext, tag (XML Encryption 1.1, 5.2.4). out has room for n + 28 octets; their number, 0 on failure. */
static size_t seal_gcm(const uint8_t key[KEY_BYTES], const uint8_t *text, size_t n, uint8_t *out)
{
    const struct crypto_gcm how = {.key = key, .iv = out};
    const bool ok = RAND_bytes(out, GCM_IV_BYTES) == 1 &&
                    crypto_gcm_seal(&how, text, n, out + GCM_IV_BYTES, out + GCM_IV_BYTES + n);
    return ok ? GCM_IV_BYTES + n + GCM_TAG_BYTES : 0;
}

/* out has room for n - 28 octets. */
static bool unseal_gcm(const uint8_t key[KEY_BYTES], const uint8_t *cipher, size_t n, uint8_t *out)
{
    const struct crypto_gcm how = {.key = key, .iv = cipher};
    if (n < GCM_IV_BYTES + GCM_TAG_BYTES)
        return false;
    const size_t text = n - GCM_IV_BYTES - GCM_TAG_BYTES;
    return crypto_gcm_open(&how, cipher + GCM_IV_BYTES, text, cipher + n - GCM_TAG_BYTES, out);
}

static void write_key(const struct xmlenc *e, const char *declare, const char *algorithm, struct str cipher,
                      struct str carried, struct buf *out)
{
    buf_z(out, "<xenc:EncryptedKey");
    buf_z(out, declare ? " xmlns:xenc=\"" NS_XENC "\"" : "");
    buf_z(out, "><xenc:EncryptionMethod Algorithm=\"");
    buf_z(out, algorithm);
    buf_z(out, "\"></xenc:EncryptionMethod><ds:KeyInfo");
    buf_z(out, declare ? declare : "");
    buf_z(out, "><ds:KeyName>");
    buf_xml_text(out, e->trk_id);
    buf_z(out, "</ds:KeyName></ds:KeyInfo><xenc:CipherData><xenc:CipherValue>");
    buf_base64(out, (const uint8_t *)cipher.p, cipher.n);
    buf_z(out, "</xenc:CipherValue></xenc:CipherData>");
    if (carried.p) {
        buf_z(out, "<xenc:CarriedKeyName>");
        buf_xml_text(out, carried);
        buf_z(out, "</xenc:CarriedKeyName>");
    }
    buf_z(out, "</xenc:EncryptedKey>");
}

#define DECLARE_DS " xmlns:ds=\"" NS_DS "\""

bool xmlenc_key(struct xmlenc *e, enum key_wrap wrap, const uint8_t *octets, size_t n, struct buf *out)
{
    uint8_t cipher[LIMIT_KEY_CONTENT + 2 * BLOCK];
    size_t got = 0;
    const char *algorithm = ALG_GCM;
    if (n == 0 || n > LIMIT_KEY_CONTENT)
        return false;
    const bool named = wrap == KEY_WRAP_NAMED;
    if (wrap == KEY_WRAP_AUTO || named)
        wrap = n % HALF_BLOCK == 0 && n >= BLOCK ? KEY_WRAP_KW : KEY_WRAP_KWP;
    switch (wrap) {
    case KEY_WRAP_KW:
        algorithm = ALG_KW;
        got = wrap_kw(e, octets, n, cipher);
        break;
    case KEY_WRAP_KWP:
        algorithm = named ? ALG_KW : ALG_KWP;
        got = wrap_kwp(e, octets, n, cipher);
        break;
    default:
        got = seal_gcm(e->trk.b, octets, n, cipher);
    }
    if (got == 0)
        return false;
    write_key(e, DECLARE_DS, algorithm, (struct str){(const char *)cipher, got}, STR_MISSING, out);
    return !out->failed;
}

bool xmlenc_new_key(struct xmlenc *e, const struct secret_key *key, struct str carried, struct buf *out)
{
    uint8_t cipher[KEY_BYTES + HALF_BLOCK];
    if (wrap_kw(e, key->b, sizeof key->b, cipher) != sizeof cipher)
        return false;
    write_key(e, DECLARE_DS, ALG_KW, (struct str){(const char *)cipher, sizeof cipher}, carried, out);
    return !out->failed;
}

bool xmlenc_content(struct xmlenc *e, struct str text, struct buf *out)
{
    struct secret_key key SECRET_CLEANUP = {{0}};
    uint8_t wrapped[KEY_BYTES + HALF_BLOCK];
    struct buf cipher BUF_CLEANUP = BUF_INIT(text.n + GCM_IV_BYTES + GCM_TAG_BYTES + 1);
    uint8_t *room = (uint8_t *)buf_reserve(&cipher, text.n + GCM_IV_BYTES + GCM_TAG_BYTES);
    if (!text.p || !room || RAND_priv_bytes(key.b, sizeof key.b) != 1 ||
        wrap_kw(e, key.b, sizeof key.b, wrapped) != sizeof wrapped)
        return false;
    const size_t n = seal_gcm(key.b, (const uint8_t *)text.p, text.n, room);
    if (n == 0)
        return false;
    buf_z(out, "<xenc:EncryptedData xmlns:xenc=\"" NS_XENC "\" Type=\"" TYPE_CONTENT "\">"
               "<xenc:EncryptionMethod Algorithm=\"" ALG_GCM "\"></xenc:EncryptionMethod>"
               "<ds:KeyInfo" DECLARE_DS ">");
    write_key(e, NULL, ALG_KW, (struct str){(const char *)wrapped, sizeof wrapped}, STR_MISSING, out);
    buf_z(out, "</ds:KeyInfo><xenc:CipherData><xenc:CipherValue>");
    buf_base64(out, room, n);
    buf_z(out, "</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData>");
    return !out->failed;
}

/* Octets of what was unwrapped; 0: the integrity check does not hold. */
static size_t unwrap(struct xmlenc *e, struct str algorithm, const uint8_t *cipher, size_t n, uint8_t *out)
{
    size_t got = 0;
    if (!e->back)
        e->back = crypto_blocks_take(e->trk.b, false);
    e->failed = !e->back;
    if (e->failed)
        return 0;
    if (str_eq_z(algorithm, ALG_KW))
        got = n >= BLOCK + HALF_BLOCK && n % HALF_BLOCK == 0
            ? CRYPTO_128_unwrap(e, NULL, out, cipher, n, decrypt_block) : 0;
    else if (str_eq_z(algorithm, ALG_KWP))
        got = n >= BLOCK && n % HALF_BLOCK == 0 ? CRYPTO_128_unwrap_pad(e, NULL, out, cipher, n, decrypt_block) : 0;
    else if (str_eq_z(algorithm, ALG_GCM))
        got = unseal_gcm(e->trk.b, cipher, n, out) ? n - GCM_IV_BYTES - GCM_TAG_BYTES : 0;
    return e->failed ? 0 : got;
}

bool xmlenc_open_key(struct xmlenc *e, struct str algorithm, const uint8_t *cipher, size_t n, uint8_t *out, size_t cap,
                     size_t *out_n)
{
    uint8_t clear[LIMIT_KEY_CONTENT + 2 * BLOCK];
    *out_n = 0;
    if (n > sizeof clear)
        return false;
    size_t got = unwrap(e, algorithm, cipher, n, clear);
    if (!got && str_eq_z(algorithm, ALG_KW)) /* padded, under the name of kw-aes256 */
        got = unwrap(e, STR(ALG_KWP), cipher, n, clear);
    const bool ok = got > 0 && got <= cap;
    if (ok) {
        memcpy(out, clear, got);
        *out_n = got;
    }
    secret_wipe(clear, sizeof clear);
    return ok;
}

bool xmlenc_open_gcm(const uint8_t key[KEY_BYTES], const uint8_t *cipher, size_t n, struct buf *out)
{
    if (n < GCM_IV_BYTES + GCM_TAG_BYTES)
        return false;
    const size_t text = n - GCM_IV_BYTES - GCM_TAG_BYTES;
    char *room = buf_reserve(out, text);
    if (!room || !unseal_gcm(key, cipher, n, (uint8_t *)room))
        return false;
    out->n += text;
    room[text] = '\0';
    return true;
}
