#include "cmd/mikey_sakke.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <string.h>

#include "base/buf.h"
#include "cmd/sakke_parameters.h"

enum { COORDINATE = 128 };

/* TS 33.180 F.2.1: each part is followed by its length in two octets. */
static bool put_part(struct buf *b, struct str s)
{
    if (s.n > UINT16_MAX)
        return false;
    buf_bytes(b, s.p, s.n);
    buf_char(b, (char)(s.n >> 8));
    buf_char(b, (char)(s.n & 0xff));
    return true;
}

/* Numbers are the fewest big-endian octets; zero is one. */
static bool put_number(struct buf *b, uint64_t v)
{
    char octets[8];
    size_t n = 0;
    for (int shift = 56; shift >= 0; shift -= 8)
        if (n || v >> shift || shift == 0)
            octets[n++] = (char)(v >> shift & 0xff);
    return put_part(b, (struct str){octets, n});
}

bool mikey_uid(const struct mikey_identity *who, uint8_t out[MIKEY_UID])
{
    struct buf b BUF_CLEANUP = BUF_INIT(3 * UINT16_MAX);
    buf_char(&b, 0);
    bool ok = put_part(&b, STR("MIKEY-SAKKE-UID")) && put_part(&b, who->user_uri) && put_part(&b, who->kms_uri) &&
              put_number(&b, who->period) && put_number(&b, who->offset) && put_number(&b, who->number);
    return ok && !b.failed && EVP_Digest(b.p, b.n, out, NULL, EVP_sha256(), NULL) == 1;
}

uint64_t mikey_period_number(int64_t unix_seconds, uint64_t period, uint64_t offset)
{
    const uint64_t ntp = (uint64_t)(unix_seconds + INT64_C(2208988800)); /* NTP counts from 1900 */
    return ntp < offset ? 0 : (ntp - offset) / period;
}

/*
 * The SAKKE curve and the numbers of one check. Everything that stems from a key is a BIGNUM of `ctx`, whose memory is
 * cleansed when it is freed.
 */
struct sakke {
    BN_CTX *ctx;
    BIGNUM *p, *q, *g;
    EC_GROUP *curve;
    EC_POINT *base;
    bool ok; /* false: a library failed, nothing follows */
};

static void sakke_free(struct sakke *s)
{
    EC_POINT_free(s->base);
    EC_GROUP_free(s->curve);
    BN_free(s->p);
    BN_free(s->q);
    BN_free(s->g);
    if (s->ctx)
        BN_CTX_end(s->ctx);
    BN_CTX_free(s->ctx);
}

static bool sakke_init(struct sakke *s)
{
    *s = (struct sakke){.ctx = BN_CTX_secure_new()};
    if (!s->ctx)
        return false;
    BN_CTX_start(s->ctx);
    BIGNUM *a = BN_CTX_get(s->ctx), *b = BN_CTX_get(s->ctx), *x = BN_CTX_get(s->ctx), *y = BN_CTX_get(s->ctx);
    if (!y || !BN_hex2bn(&s->p, SAKKE_P) || !BN_hex2bn(&s->q, SAKKE_Q) || !BN_hex2bn(&s->g, SAKKE_G) ||
        !BN_hex2bn(&x, SAKKE_PX) || !BN_hex2bn(&y, SAKKE_PY))
        return false;
    BN_zero(b);
    if (!BN_copy(a, s->p) || !BN_sub_word(a, 3) || !(s->curve = EC_GROUP_new_curve_GFp(s->p, a, b, s->ctx)) ||
        !(s->base = EC_POINT_new(s->curve)))
        return false;
    return EC_POINT_set_affine_coordinates(s->curve, s->base, x, y, s->ctx) == 1;
}

/* A point of order q from its octets; NULL when they are none: not uncompressed, not on the curve, of another order. */
static EC_POINT *sakke_point(struct sakke *s, const uint8_t octets[MIKEY_SAKKE_POINT])
{
    EC_POINT *point = EC_POINT_new(s->curve), *end = EC_POINT_new(s->curve);
    BN_CTX_start(s->ctx);
    BIGNUM *x = BN_CTX_get(s->ctx), *y = BN_CTX_get(s->ctx);
    s->ok = point && end && y && BN_bin2bn(octets + 1, COORDINATE, x) &&
        BN_bin2bn(octets + 1 + COORDINATE, COORDINATE, y);
    bool good = s->ok && octets[0] == 4 && BN_cmp(x, s->p) < 0 && BN_cmp(y, s->p) < 0 &&
                EC_POINT_set_affine_coordinates(s->curve, point, x, y, s->ctx) == 1;
    if (good) {
        s->ok = EC_POINT_mul(s->curve, end, NULL, point, s->q, s->ctx) == 1;
        good = s->ok && EC_POINT_is_at_infinity(s->curve, end) == 1;
    }
    BN_CTX_end(s->ctx);
    EC_POINT_clear_free(end);
    if (good)
        return point;
    EC_POINT_clear_free(point);
    return NULL;
}

/* x + iy over F_p, i^2 = -1 */
struct complex {
    BIGNUM *x, *y;
};

/* a = a * b; t0..t2 are scratch */
static bool complex_mul(const struct sakke *s, struct complex *a, const struct complex *b, BIGNUM *t[3])
{
    return BN_mod_mul(t[0], a->x, b->x, s->p, s->ctx) && BN_mod_mul(t[1], a->y, b->y, s->p, s->ctx) &&
           BN_mod_mul(t[2], a->x, b->y, s->p, s->ctx) && BN_mod_mul(a->y, a->y, b->x, s->p, s->ctx) &&
           BN_mod_sub(a->x, t[0], t[1], s->p, s->ctx) && BN_mod_add(a->y, a->y, t[2], s->p, s->ctx);
}

/* The state of Miller's algorithm: C = [k]B, v its value so far. */
struct miller {
    struct complex v, line;
    BIGNUM *bx, *by, *cx, *cy, *qx, *qy;
    BIGNUM *l, *t[3];
};

/*
 * One step of RFC 6508, 3.2: the line through C and B (or the tangent at C) with gradient l, evaluated at [i]Q, is
 * multiplied into v; then C moves on. -1: a gradient is infinite, which no right key leads to.
 */
static int miller_step(const struct sakke *s, struct miller *m, bool tangent)
{
    BIGNUM *over = m->t[0], *under = m->t[1];
    bool ok = tangent ? BN_mod_sqr(over, m->cx, s->p, s->ctx) && BN_sub_word(over, 1) && BN_mul_word(over, 3) &&
                            BN_mod_lshift1(under, m->cy, s->p, s->ctx)
                      : BN_mod_sub(over, m->cy, m->by, s->p, s->ctx) && BN_mod_sub(under, m->cx, m->bx, s->p, s->ctx);
    if (!ok)
        return 0;
    if (BN_is_zero(under))
        return -1;
    if (!BN_mod_inverse(under, under, s->p, s->ctx) || !BN_mod_mul(m->l, over, under, s->p, s->ctx))
        return 0;
    /* the line at [i]Q: l * (Qx + Cx) - Cy + i * Qy */
    if (!BN_mod_add(m->t[0], m->qx, m->cx, s->p, s->ctx) || !BN_mod_mul(m->t[0], m->t[0], m->l, s->p, s->ctx) ||
        !BN_mod_sub(m->line.x, m->t[0], m->cy, s->p, s->ctx) || !BN_copy(m->line.y, m->qy) ||
        !complex_mul(s, &m->v, &m->line, m->t))
        return 0;
    /* C's successor: x = l^2 - Cx - (Cx or Bx), y = l * (Cx - x) - Cy */
    return BN_mod_sqr(m->t[0], m->l, s->p, s->ctx) && BN_mod_sub(m->t[0], m->t[0], m->cx, s->p, s->ctx) &&
           BN_mod_sub(m->t[0], m->t[0], tangent ? m->cx : m->bx, s->p, s->ctx) &&
           BN_mod_sub(m->t[1], m->cx, m->t[0], s->p, s->ctx) && BN_mod_mul(m->t[1], m->t[1], m->l, s->p, s->ctx) &&
           BN_mod_sub(m->cy, m->t[1], m->cy, s->p, s->ctx) && BN_copy(m->cx, m->t[0]);
}

static bool miller_init(const struct sakke *s, struct miller *m, const EC_POINT *b, const EC_POINT *q)
{
    BIGNUM **numbers[] = {&m->v.x,  &m->v.y, &m->line.x, &m->line.y, &m->bx,   &m->by,   &m->cx,
                          &m->cy,   &m->qx,  &m->qy,     &m->l,      &m->t[0], &m->t[1], &m->t[2]};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(*numbers[i] = BN_CTX_get(s->ctx)))
            return false;
    BN_zero(m->v.y);
    return BN_one(m->v.x) && EC_POINT_get_affine_coordinates(s->curve, b, m->bx, m->by, s->ctx) == 1 &&
           EC_POINT_get_affine_coordinates(s->curve, q, m->qx, m->qy, s->ctx) == 1 && BN_copy(m->cx, m->bx) &&
           BN_copy(m->cy, m->by);
}

/* The Tate-Lichtenbaum pairing <B, Q> of RFC 6508, 3.2, held against g. */
static enum mikey_verdict pairing_is_g(const struct sakke *s, const EC_POINT *b, const EC_POINT *q)
{
    enum mikey_verdict verdict = MIKEY_ERROR;
    struct miller m;
    BN_CTX_start(s->ctx);
    BIGNUM *k = BN_CTX_get(s->ctx);
    if (!k || !miller_init(s, &m, b, q) || !BN_copy(k, s->q) || !BN_sub_word(k, 1))
        goto out;
    for (int bit = BN_num_bits(k) - 2; bit >= 0; bit--) {
        const struct complex square = {m.line.x, m.line.y};
        if (!BN_copy(square.x, m.v.x) || !BN_copy(square.y, m.v.y) || !complex_mul(s, &m.v, &square, m.t))
            goto out;
        int step = miller_step(s, &m, true);
        if (step == 1 && BN_is_bit_set(k, bit))
            step = miller_step(s, &m, false);
        if (step != 1) {
            verdict = step < 0 ? MIKEY_WRONG : MIKEY_ERROR;
            goto out;
        }
    }
    /* v^c with c = (p + 1) / q = 4; then the ratio y/x stands for the value */
    for (int i = 0; i < 2; i++)
        if (!BN_copy(m.line.x, m.v.x) || !BN_copy(m.line.y, m.v.y) || !complex_mul(s, &m.v, &m.line, m.t))
            goto out;
    if (BN_is_zero(m.v.x)) {
        verdict = MIKEY_WRONG;
        goto out;
    }
    if (BN_mod_inverse(m.l, m.v.x, s->p, s->ctx) && BN_mod_mul(m.l, m.l, m.v.y, s->p, s->ctx))
        verdict = BN_cmp(m.l, s->g) == 0 ? MIKEY_RIGHT : MIKEY_WRONG;
out:
    BN_CTX_end(s->ctx);
    return verdict;
}

enum mikey_verdict mikey_rsk_check(const uint8_t *identifier, size_t n, const uint8_t pub_enc[MIKEY_SAKKE_POINT],
                                   const uint8_t rsk[MIKEY_SAKKE_POINT])
{
    enum mikey_verdict verdict = MIKEY_ERROR;
    struct sakke s = {0};
    EC_POINT *sum = NULL, *z = NULL, *key = NULL;
    BIGNUM *a = BN_bin2bn(identifier, (int)n, NULL);
    if (!a || !sakke_init(&s) || !(sum = EC_POINT_new(s.curve)))
        goto out;
    if (!(z = sakke_point(&s, pub_enc)) || !(key = sakke_point(&s, rsk))) {
        verdict = s.ok ? MIKEY_WRONG : MIKEY_ERROR;
        goto out;
    }
    if (EC_POINT_mul(s.curve, sum, NULL, s.base, a, s.ctx) == 1 && EC_POINT_add(s.curve, sum, sum, z, s.ctx) == 1)
        verdict = EC_POINT_is_at_infinity(s.curve, sum) ? MIKEY_WRONG : pairing_is_g(&s, sum, key);
out:
    EC_POINT_clear_free(key);
    EC_POINT_free(z);
    EC_POINT_free(sum);
    BN_free(a);
    sakke_free(&s);
    return verdict;
}

/* HS of RFC 6507, 5.1.1: SHA-256 over G, KPAK, ID and PVT, points uncompressed. */
static bool eccsi_hash(const EC_GROUP *curve, const uint8_t *identifier, size_t n, const uint8_t *kpak,
                       const uint8_t *pvt,
                       uint8_t out[32])
{
    uint8_t g[MIKEY_ECCSI_POINT];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md &&
              EC_POINT_point2oct(curve, EC_GROUP_get0_generator(curve), POINT_CONVERSION_UNCOMPRESSED, g, sizeof g,
                                 NULL) == sizeof g &&
              EVP_DigestInit_ex(md, EVP_sha256(), NULL) && EVP_DigestUpdate(md, g, sizeof g) &&
              EVP_DigestUpdate(md, kpak, MIKEY_ECCSI_POINT) && EVP_DigestUpdate(md, identifier, n) &&
              EVP_DigestUpdate(md, pvt, MIKEY_ECCSI_POINT) && EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    return ok;
}

enum mikey_verdict mikey_ssk_check(const uint8_t *identifier, size_t n, const uint8_t pub_auth[MIKEY_ECCSI_POINT],
                                   const uint8_t pvt[MIKEY_ECCSI_POINT], const uint8_t ssk[MIKEY_SSK])
{
    enum mikey_verdict verdict = MIKEY_ERROR;
    uint8_t hash[32];
    EC_GROUP *curve = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
    BN_CTX *ctx = BN_CTX_secure_new();
    EC_POINT *left = NULL, *right = NULL, *kpak = NULL, *token = NULL;
    BIGNUM *hs = BN_new(), *key = BN_secure_new();
    if (!curve || !ctx || !hs || !key || !(left = EC_POINT_new(curve)) || !(right = EC_POINT_new(curve)) ||
        !(kpak = EC_POINT_new(curve)) || !(token = EC_POINT_new(curve)) || !BN_bin2bn(ssk, MIKEY_SSK, key))
        goto out;
    if (EC_POINT_oct2point(curve, kpak, pub_auth, MIKEY_ECCSI_POINT, ctx) != 1 ||
        EC_POINT_oct2point(curve, token, pvt, MIKEY_ECCSI_POINT, ctx) != 1 || BN_is_zero(key) ||
        BN_cmp(key, EC_GROUP_get0_order(curve)) >= 0) {
        verdict = MIKEY_WRONG;
        goto out;
    }
    if (eccsi_hash(curve, identifier, n, pub_auth, pvt, hash) && BN_bin2bn(hash, sizeof hash, hs) &&
        EC_POINT_mul(curve, left, key, NULL, NULL, ctx) == 1 && EC_POINT_mul(curve, right, NULL, token, hs, ctx) == 1 &&
        EC_POINT_add(curve, right, right, kpak, ctx) == 1) {
        const int differs = EC_POINT_cmp(curve, left, right, ctx);
        verdict = differs == 0 ? MIKEY_RIGHT : differs == 1 ? MIKEY_WRONG : MIKEY_ERROR;
    }
out:
    BN_free(hs);
    BN_clear_free(key);
    EC_POINT_free(left);
    EC_POINT_free(right);
    EC_POINT_free(kpak);
    EC_POINT_free(token);
    BN_CTX_free(ctx);
    EC_GROUP_free(curve);
    return verdict;
}
