#include "message/xmlenc_internal.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/modes.h>
#include <openssl/rand.h>

#include "base/crypto.h"
#include "base/limits.h"
#include "base/locked.h"

enum { BLOCK = 16, HALF_BLOCK = 8 };

/*
 * One AES-256-ECB context a direction, keyed once: OpenSSL's own AES-WRAP cipher is not constant in time. A context's
 * failure is remembered, since the callback of CRYPTO_128_wrap() cannot tell it.
 */
struct xmlenc {
    EVP_CIPHER_CTX *forward, *back; /* back: NULL until something is opened */
    struct secret_key trk;
    struct str trk_id;
    bool failed;
    char trk_id_text[];
};

struct xmlenc *xmlenc_new(const struct secret_key *trk, struct str trk_id)
{
    struct xmlenc *e = trk_id.n > 0 ? locked_alloc(sizeof *e + trk_id.n) : NULL;
    if (!e)
        return NULL;
    e->trk = *trk;
    memcpy(e->trk_id_text, trk_id.p, trk_id.n);
    e->trk_id = (struct str){e->trk_id_text, trk_id.n};
    e->forward = crypto_blocks_take(trk->b, true);
    if (e->forward)
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
    locked_free(e);
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

/* auto's choice, and what NAMED does under another name. */
static enum key_wrap wrap_of(enum key_wrap wrap, size_t n)
{
    if (wrap != KEY_WRAP_AUTO && wrap != KEY_WRAP_NAMED)
        return wrap;
    return n % HALF_BLOCK == 0 && n >= BLOCK ? KEY_WRAP_KW : KEY_WRAP_KWP;
}

static const char *algorithm_of(enum key_wrap wrap, size_t n)
{
    const enum key_wrap is = wrap_of(wrap, n);
    return is == KEY_WRAP_KW || wrap == KEY_WRAP_NAMED ? ALG_KW : is == KEY_WRAP_KWP ? ALG_KWP : ALG_GCM;
}

bool xmlenc_put(const struct xmlenc *e, const struct xmlenc_wrapped *w, struct buf *out)
{
    write_key(e, DECLARE_DS, w->algorithm, (struct str){(const char *)w->cipher, w->cipher_n}, STR_MISSING, out);
    return !out->failed;
}

bool xmlenc_key(struct xmlenc *e, enum key_wrap wrap, const uint8_t *octets, size_t n, struct buf *out)
{
    uint8_t cipher[LIMIT_KEY_CONTENT + XMLENC_MORE];
    struct xmlenc_wrapped w = {octets, n, cipher, 0, algorithm_of(wrap, n)};
    if (n == 0 || n > LIMIT_KEY_CONTENT)
        return false;
    switch (wrap_of(wrap, n)) {
    case KEY_WRAP_KW:
        w.cipher_n = wrap_kw(e, octets, n, cipher);
        break;
    case KEY_WRAP_KWP:
        w.cipher_n = wrap_kwp(e, octets, n, cipher);
        break;
    default:
        w.cipher_n = seal_gcm(e->trk.b, octets, n, cipher);
    }
    return w.cipher_n > 0 && xmlenc_put(e, &w, out);
}

/* One of several: its register A goes to the first half block of the cipher text, its R stands behind that. */
struct lane {
    uint8_t *cipher, *begin, *at, *end; /* R's first half block, and the one that is next */
    uint64_t steps;
};

/* RFC 3394, 2.2.1, and RFC 5649, 4.1: the text where R begins, A's first value before it. False: not for lanes. */
static bool lane_begin(enum key_wrap wrap, struct xmlenc_wrapped *w, struct lane *l)
{
    static const uint8_t KW_A[HALF_BLOCK] = {0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6};
    const size_t halves = (w->n + HALF_BLOCK - 1) / HALF_BLOCK;
    const uint8_t kwp_a[HALF_BLOCK] = {0xa6, 0x59, 0x59, 0xa6, 0, 0, (uint8_t)(w->n >> 8), (uint8_t)w->n};
    if (wrap == KEY_WRAP_GCM || halves < 2 || w->n > LIMIT_KEY_CONTENT || (wrap == KEY_WRAP_KW && w->n % HALF_BLOCK))
        return false;
    memcpy(w->cipher, wrap == KEY_WRAP_KW ? KW_A : kwp_a, HALF_BLOCK);
    memcpy(w->cipher + HALF_BLOCK, w->octets, w->n);
    memset(w->cipher + HALF_BLOCK + w->n, 0, halves * HALF_BLOCK - w->n);
    w->cipher_n = HALF_BLOCK + halves * HALF_BLOCK;
    *l = (struct lane){.cipher = w->cipher, .begin = w->cipher + HALF_BLOCK, .at = w->cipher + HALF_BLOCK,
                       .end = w->cipher + w->cipher_n, .steps = 6 * halves};
    return true;
}

/*
 * A, and the half block of R that is enciphered with it. A vector, since it is to be put together in a register and
 * stored as a whole: where two stores of a half each come before AES's load of a block, the processor cannot hand them
 * on to it, and each step waits for the cache. A step's time is what wrapping costs: it needs the one before.
 */
typedef uint64_t lane_block __attribute__((vector_size(BLOCK)));

/* What step t of the lane has made of A and R; and what its next step takes: the next half block of R, behind A. */
static inline void lane_took(struct lane *l, lane_block *block, uint64_t t)
{
    const uint64_t a = (*block)[0] ^ htobe64(t), r = (*block)[1];
    uint64_t after;
    memcpy(l->at, &r, HALF_BLOCK);
    uint8_t *const next = l->at + HALF_BLOCK;
    l->at = next == l->end ? l->begin : next;
    memcpy(&after, l->at, HALF_BLOCK);
    *block = (lane_block){a, after};
}

static inline bool lanes_encrypt(struct xmlenc *e, lane_block *blocks, size_t count)
{
    const int n = (int)(count * BLOCK);
    return EVP_Cipher(e->forward, (uint8_t *)blocks, (uint8_t *)blocks, (unsigned)n) == n;
}

/* From step t on, the others have ended. */
static void lane_alone(struct xmlenc *e, struct lane l, lane_block *block, uint64_t t)
{
    bool ok = true;
    for (; t <= l.steps; t++) {
        ok &= lanes_encrypt(e, block, 1);
        lane_took(&l, block, t);
    }
    e->failed |= !ok;
    memcpy(l.cipher, block, HALF_BLOCK);
}

/* Step t of each lane is done at once; those that end first come last. */
static void lanes_go(struct xmlenc *e, struct lane *l, size_t count)
{
    lane_block blocks[XMLENC_SEVERAL];
    for (size_t k = 0; k < count; k++)
        memcpy(&blocks[k], l[k].cipher, BLOCK);
    uint64_t t = 1;
    for (; count > 1 && !e->failed; t++) {
        e->failed = !lanes_encrypt(e, blocks, count);
        for (size_t k = 0; k < count; k++)
            lane_took(&l[k], &blocks[k], t);
        for (; count > 0 && t == l[count - 1].steps; count--)
            memcpy(l[count - 1].cipher, &blocks[count - 1], HALF_BLOCK);
    }
    if (count > 0)
        lane_alone(e, l[0], blocks, t);
    secret_wipe(blocks, sizeof blocks);
}

bool xmlenc_wrap(struct xmlenc *e, enum key_wrap wrap, struct xmlenc_wrapped *v, size_t count)
{
    struct lane lanes[XMLENC_SEVERAL];
    size_t n = 0;
    if (count > XMLENC_SEVERAL)
        return false;
    e->failed = false;
    for (size_t i = 0; i < count; i++) {
        const enum key_wrap how = wrap_of(wrap, v[i].n);
        struct lane next;
        v[i].algorithm = algorithm_of(wrap, v[i].n);
        if (lane_begin(how, &v[i], &next)) {
            size_t at = n++;
            for (; at > 0 && lanes[at - 1].steps < next.steps; at--)
                lanes[at] = lanes[at - 1];
            lanes[at] = next;
            continue;
        }
        v[i].cipher_n = how == KEY_WRAP_GCM ? seal_gcm(e->trk.b, v[i].octets, v[i].n, v[i].cipher)
                        : how == KEY_WRAP_KW ? wrap_kw(e, v[i].octets, v[i].n, v[i].cipher)
                                             : wrap_kwp(e, v[i].octets, v[i].n, v[i].cipher);
        if (v[i].cipher_n == 0)
            return false;
    }
    lanes_go(e, lanes, n);
    return !e->failed;
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
