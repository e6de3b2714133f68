#include "mikey_issue.h"

#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/sakke_parameters.h"

struct mikey_master {
    EC_GROUP *sakke, *eccsi;
    EC_POINT *base; /* P of the SAKKE curve */
    BIGNUM *q;
    BIGNUM *z, *ksak;
    uint8_t pub_enc[ISSUE_SAKKE_POINT], pub_auth[ISSUE_ECCSI_POINT];
};

void mikey_master_free(struct mikey_master *m)
{
    if (!m)
        return;
    EC_POINT_free(m->base);
    EC_GROUP_free(m->sakke);
    EC_GROUP_free(m->eccsi);
    BN_free(m->q);
    BN_clear_free(m->z);
    BN_clear_free(m->ksak);
    free(m);
}

/* The octets of [k]base; base NULL: the generator. */
static bool multiple(const EC_GROUP *curve, const EC_POINT *base, const BIGNUM *k, uint8_t *out, size_t n)
{
    EC_POINT *r = EC_POINT_new(curve);
    bool ok = r && (base ? EC_POINT_mul(curve, r, NULL, base, k, NULL) : EC_POINT_mul(curve, r, k, NULL, NULL, NULL)) &&
              EC_POINT_point2oct(curve, r, POINT_CONVERSION_UNCOMPRESSED, out, n, NULL) == n;
    EC_POINT_clear_free(r);
    return ok;
}

static bool sakke_curve(struct mikey_master *m)
{
    BIGNUM *p = NULL, *a = NULL, *b = BN_new(), *x = NULL, *y = NULL;
    bool ok = b && BN_hex2bn(&p, SAKKE_P) && BN_hex2bn(&m->q, SAKKE_Q) && BN_hex2bn(&x, SAKKE_PX) &&
              BN_hex2bn(&y, SAKKE_PY) && (a = BN_dup(p)) && BN_sub_word(a, 3) &&
              (m->sakke = EC_GROUP_new_curve_GFp(p, a, b, NULL)) && (m->base = EC_POINT_new(m->sakke)) &&
              EC_POINT_set_affine_coordinates(m->sakke, m->base, x, y, NULL);
    BN_free(p);
    BN_free(a);
    BN_free(b);
    BN_free(x);
    BN_free(y);
    return ok;
}

/* 0 < secret < order */
static bool draw(BIGNUM **secret, const BIGNUM *order)
{
    if (!*secret && !(*secret = BN_secure_new()))
        return false;
    do {
        if (!BN_priv_rand_range(*secret, order))
            return false;
    } while (BN_is_zero(*secret));
    return true;
}

struct mikey_master *mikey_master_new(void)
{
    struct mikey_master *m = calloc(1, sizeof *m);
    if (m && sakke_curve(m) && (m->eccsi = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1)) && draw(&m->z, m->q) &&
        draw(&m->ksak, EC_GROUP_get0_order(m->eccsi)) &&
        multiple(m->sakke, m->base, m->z, m->pub_enc, sizeof m->pub_enc) &&
        multiple(m->eccsi, NULL, m->ksak, m->pub_auth, sizeof m->pub_auth))
        return m;
    mikey_master_free(m);
    return NULL;
}

const uint8_t *mikey_pub_enc(const struct mikey_master *m)
{
    return m->pub_enc;
}

const uint8_t *mikey_pub_auth(const struct mikey_master *m)
{
    return m->pub_auth;
}

/* RSK = [(a + z)^-1 mod q]P, then [a + z]RSK = P */
static bool issue_rsk(const struct mikey_master *m, const uint8_t *identifier, size_t n, uint8_t out[ISSUE_SAKKE_POINT])
{
    BN_CTX *ctx = BN_CTX_secure_new();
    BIGNUM *sum = BN_bin2bn(identifier, (int)n, NULL), *inverse = BN_secure_new();
    EC_POINT *key = EC_POINT_new(m->sakke);
    bool ok = ctx && sum && inverse && key && BN_mod_add(sum, sum, m->z, m->q, ctx) && !BN_is_zero(sum) &&
              BN_mod_inverse(inverse, sum, m->q, ctx) && multiple(m->sakke, m->base, inverse, out, ISSUE_SAKKE_POINT) &&
              EC_POINT_oct2point(m->sakke, key, out, ISSUE_SAKKE_POINT, ctx) &&
              EC_POINT_mul(m->sakke, key, NULL, key, sum, ctx) && EC_POINT_cmp(m->sakke, key, m->base, ctx) == 0;
    EC_POINT_clear_free(key);
    BN_clear_free(inverse);
    BN_clear_free(sum);
    BN_CTX_free(ctx);
    return ok;
}

/* HS = SHA-256(G || KPAK || ID || PVT) */
static bool eccsi_hs(const struct mikey_master *m, const uint8_t *identifier, size_t n, const uint8_t *pvt, BIGNUM *hs)
{
    uint8_t text[2 * ISSUE_ECCSI_POINT + 256 + ISSUE_ECCSI_POINT], digest[32];
    if (n > 256 || EC_POINT_point2oct(m->eccsi, EC_GROUP_get0_generator(m->eccsi), POINT_CONVERSION_UNCOMPRESSED, text,
                                      ISSUE_ECCSI_POINT, NULL) != ISSUE_ECCSI_POINT)
        return false;
    size_t at = ISSUE_ECCSI_POINT;
    memcpy(text + at, m->pub_auth, ISSUE_ECCSI_POINT);
    at += ISSUE_ECCSI_POINT;
    memcpy(text + at, identifier, n);
    at += n;
    memcpy(text + at, pvt, ISSUE_ECCSI_POINT);
    at += ISSUE_ECCSI_POINT;
    return EVP_Digest(text, at, digest, NULL, EVP_sha256(), NULL) && BN_bin2bn(digest, sizeof digest, hs);
}

/* SSK = (KSAK + HS * v) mod order, then [SSK]G = KPAK + [HS]PVT */
static bool issue_ssk(const struct mikey_master *m, const uint8_t *identifier, size_t n, struct mikey_keys *out)
{
    const BIGNUM *order = EC_GROUP_get0_order(m->eccsi);
    BN_CTX *ctx = BN_CTX_secure_new();
    BIGNUM *v = NULL, *hs = BN_new(), *ssk = BN_secure_new();
    EC_POINT *left = EC_POINT_new(m->eccsi), *right = EC_POINT_new(m->eccsi), *kpak = EC_POINT_new(m->eccsi);
    bool ok = ctx && hs && ssk && left && right && kpak && draw(&v, order) &&
              multiple(m->eccsi, NULL, v, out->pvt, sizeof out->pvt) && eccsi_hs(m, identifier, n, out->pvt, hs) &&
              BN_mod_mul(ssk, hs, v, order, ctx) && BN_mod_add(ssk, ssk, m->ksak, order, ctx) && !BN_is_zero(ssk) &&
              BN_bn2binpad(ssk, out->ssk, sizeof out->ssk) == (int)sizeof out->ssk &&
              EC_POINT_mul(m->eccsi, left, ssk, NULL, NULL, ctx) &&
              EC_POINT_oct2point(m->eccsi, right, out->pvt, sizeof out->pvt, ctx) &&
              EC_POINT_oct2point(m->eccsi, kpak, m->pub_auth, sizeof m->pub_auth, ctx) &&
              EC_POINT_mul(m->eccsi, right, NULL, right, hs, ctx) && EC_POINT_add(m->eccsi, right, right, kpak, ctx) &&
              EC_POINT_cmp(m->eccsi, left, right, ctx) == 0;
    EC_POINT_free(left);
    EC_POINT_free(right);
    EC_POINT_free(kpak);
    BN_clear_free(v);
    BN_free(hs);
    BN_clear_free(ssk);
    BN_CTX_free(ctx);
    return ok;
}

bool mikey_issue(const struct mikey_master *m, const uint8_t *identifier, size_t n, struct mikey_keys *out)
{
    return issue_rsk(m, identifier, n, out->rsk) && issue_ssk(m, identifier, n, out);
}

/* Appends a part and its length; false when there is no room. */
static bool part(uint8_t *text, size_t cap, size_t *n, const void *p, size_t len)
{
    if (len > UINT16_MAX || cap - *n < len + 2)
        return false;
    memcpy(text + *n, p, len);
    text[*n + len] = (uint8_t)(len >> 8);
    text[*n + len + 1] = (uint8_t)len;
    *n += len + 2;
    return true;
}

bool mikey_user_id(const char *user_uri, const char *kms_uri, const uint64_t period_offset_number[3],
                   uint8_t out[ISSUE_UID])
{
    uint8_t text[8192] = {0};
    size_t n = 1;
    bool ok = part(text, sizeof text, &n, "MIKEY-SAKKE-UID", 15) &&
        part(text, sizeof text, &n, user_uri, strlen(user_uri)) &&
              part(text, sizeof text, &n, kms_uri, strlen(kms_uri));
    for (int i = 0; ok && i < 3; i++) {
        uint8_t octets[8];
        const uint64_t v = period_offset_number[i];
        for (int at = 0; at < 8; at++)
            octets[at] = (uint8_t)(v >> (56 - 8 * at));
        size_t skip = 0;
        while (skip < 7 && octets[skip] == 0)
            skip++;
        ok = part(text, sizeof text, &n, octets + skip, 8 - skip);
    }
    return ok && EVP_Digest(text, n, out, NULL, EVP_sha256(), NULL) == 1;
}
