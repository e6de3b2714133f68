#include "cmd/client_proof.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "base/timestamp.h"
#include "base/text.h"

enum { HAVE_RSK = 1, HAVE_SSK = 2, HAVE_PVT = 4, HAVE_ALL = 7 };
#define SHORT(s) (int)((s).n < 32 ? (s).n : 32), (s).p ? (s).p : ""

/* Instants of a certificate; one that is not there sets no bound. */
static bool in_force(const struct kms_certificate *c, int64_t now_us)
{
    int64_t us;
    bool zone;
    return !(c->valid_from.p && time_parse(c->valid_from, &us, &zone) && now_us < us) &&
           !(c->valid_to.p && time_parse(c->valid_to, &us, &zone) && now_us > us);
}

void proof_kms_take(struct proof_kms *kms, const struct kms_certificate *c, int64_t now_us)
{
    proof_kms_free(kms);
    if (c->revoked)
        snprintf(kms->why, sizeof kms->why, "the KMS certificate is revoked");
    else if (!in_force(c, now_us))
        snprintf(kms->why, sizeof kms->why, "the KMS certificate is not in force now (%.*s to %.*s)",
                 SHORT(c->valid_from), SHORT(c->valid_to));
    else if (!str_eq_z(c->user_id_format, "2"))
        snprintf(kms->why, sizeof kms->why,
                 "the KMS certificate's UserIdFormat is `%.*s`; known is 2 (TS 33.180 F.2.1)",
                 SHORT(c->user_id_format));
    else if (!c->period)
        snprintf(kms->why, sizeof kms->why,
                 "the KMS certificate's UserKeyPeriod or UserKeyOffset is not a number of seconds");
    else if (!(kms->uri = str_dup(c->kms_uri)))
        snprintf(kms->why, sizeof kms->why, "no memory");
    kms->known = kms->uri != NULL;
    kms->period = c->period;
    kms->offset = c->offset;
    memcpy(kms->pub_enc, c->pub_enc, sizeof kms->pub_enc);
    memcpy(kms->pub_auth, c->pub_auth, sizeof kms->pub_auth);
}

void proof_kms_free(struct proof_kms *kms)
{
    free(kms->uri);
    *kms = (struct proof_kms){.known = false};
}

void proof_begin(struct proof *p, const struct proof_want *want)
{
    *p = (struct proof){.want = want};
}

void proof_end(struct proof *p)
{
    secret_wipe(p->rsk, sizeof p->rsk);
    secret_wipe(p->ssk, sizeof p->ssk);
}

static bool wrong(struct buf *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool wrong(struct buf *out, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    complain("wrong key: %s", text);
    buf_z(out, "  WRONG: ");
    text_escape(out, str_z(text));
    buf_char(out, '\n');
    return false;
}

/* Hex, as servers write it, or base64. */
static bool user_id_is(struct str text, const uint8_t uid[MIKEY_UID])
{
    uint8_t found[MIKEY_UID];
    size_t n = 0;
    return ((hex_decode(text, found, sizeof found, &n) && n == MIKEY_UID) ||
            (base64_decode(text, found, sizeof found, &n) && n == MIKEY_UID)) &&
           memcmp(found, uid, MIKEY_UID) == 0; /* no secret */
}

/* Whom the set says it is for. */
static bool names_hold(const struct proof_want *want, const struct kms_key_content *key, struct buf *out)
{
    if (!str_eq(key->user_uri, want->user) && !str_eq(key->user_uri, want->also)) {
        const struct str due = want->also.p ? want->also : want->user;
        return wrong(out, "KmsKeySet: its UserUri is `%.*s`, expected `%.*s`", STR_FMT(key->user_uri), STR_FMT(due));
    }
    if (want->kms && want->kms->known && !str_eq_z(key->kms_uri, want->kms->uri))
        return wrong(out, "KmsKeySet: its KmsUri is `%.*s`, expected the certificate's, `%s`", STR_FMT(key->kms_uri),
                     want->kms->uri);
    return true;
}

static void tell_period(const struct proof *p, uint64_t number, struct buf *out)
{
    const struct proof_kms *kms = p->want->kms;
    const uint64_t due = mikey_period_number(p->want->at_us / US_PER_S, kms->period, kms->offset);
    char from[TIME_TEXT];
    const uint64_t begin = number * kms->period + kms->offset - UINT64_C(2208988800);
    buf_printf(out, "period %" PRIu64, number);
    if (number > due + 1 || number + 1 < due) {
        buf_printf(out, ", which is far from the one that is due, %" PRIu64, due);
        return;
    }
    time_format((int64_t)begin * US_PER_S, false, from);
    buf_printf(out, ", %s (it begins on %.10s)",
               number == due ? "the one that is due" : number < due ? "the one before that which is due" : "the next",
                   from);
}

/* RFC 6508 and RFC 6507: the keys against the identifier and the KMS's public keys. */
static bool mathematics_hold(const struct proof *p, const uint8_t uid[MIKEY_UID], struct buf *out, bool *failed)
{
    const struct proof_kms *kms = p->want->kms;
    const enum mikey_verdict rsk = mikey_rsk_check(uid, MIKEY_UID, kms->pub_enc, p->rsk);
    const enum mikey_verdict ssk = mikey_ssk_check(uid, MIKEY_UID, kms->pub_auth, p->pvt, p->ssk);
    *failed = rsk == MIKEY_ERROR || ssk == MIKEY_ERROR;
    bool ok = true;
    if (rsk == MIKEY_WRONG)
        ok = wrong(out, "UserDecryptKey: expected the RSK of this UserID under the KMS's PubEncKey "
                        "(RFC 6508, 6.1.2: <[a]P + Z, RSK> = g)");
    if (ssk == MIKEY_WRONG)
        ok = wrong(out, "UserSigningKeySSK, UserPubTokenPVT: expected a pair of this UserID under the KMS's PubAuthKey "
                        "(RFC 6507, 5.1.2: [SSK]G = KPAK + [HS]PVT)");
    return ok;
}

static bool proof_judge(struct proof *p, const struct kms_key_content *key, struct buf *out)
{
    const struct proof_kms *kms = p->want->kms;
    uint8_t uid[MIKEY_UID];
    struct mikey_identity who = {.user_uri = key->user_uri, .kms_uri = key->kms_uri};
    bool failed = false;
    if (!names_hold(p->want, key, out))
        return false;
    if (!kms || !kms->known) {
        buf_printf(out, "  not proven: %s\n", kms && *kms->why ? kms->why : p->want->why_not);
        return true;
    }
    who.period = kms->period;
    who.offset = kms->offset;
    if (!str_to_u64(key->period_no, UINT32_MAX, &who.number))
        return wrong(out, "KmsKeySet: its KeyPeriodNo is `%.*s`, expected the number of a period",
                     STR_FMT(key->period_no));
    if (!mikey_uid(&who, uid)) {
        buf_z(out, "  not proven: no memory\n");
        return true;
    }
    if (!user_id_is(key->user_id, uid)) {
        struct buf hex BUF_CLEANUP = BUF_INIT(128);
        buf_hex(&hex, uid, sizeof uid, true);
        return wrong(out, "KmsKeySet: its UserID is `%.*s`, expected `%s`, that of %.*s at %s in period %" PRIu64,
                     STR_FMT(key->user_id), hex.failed ? "" : hex.p, STR_FMT(key->user_uri), kms->uri, who.number);
    }
    if (!mathematics_hold(p, uid, out, &failed))
        return false;
    if (failed) {
        buf_z(out, "  not proven: the check could not be made: no memory\n");
        return true;
    }
    p->right++;
    buf_printf(out, "  proven: UserID and all three keys are those of %.*s at %s,\n          ", STR_FMT(key->user_uri),
               kms->uri);
    tell_period(p, who.number, out);
    buf_char(out, '\n');
    return true;
}

static void proof_take(struct proof *p, const struct kms_key_content *key, unsigned which, uint8_t *to, size_t n)
{
    if (key->n != n)
        return;
    memcpy(to, key->octets, n);
    p->have |= which;
}

void proof_key(struct proof *p, const struct kms_key_content *key, struct buf *out)
{
    if (!key->set)
        return;
    if (key->set != p->set) {
        p->set = key->set;
        p->have = 0;
        p->sets++;
    }
    if (str_eq_z(key->element, "UserDecryptKey"))
        proof_take(p, key, HAVE_RSK, p->rsk, sizeof p->rsk);
    else if (str_eq_z(key->element, "UserSigningKeySSK"))
        proof_take(p, key, HAVE_SSK, p->ssk, sizeof p->ssk);
    else
        proof_take(p, key, HAVE_PVT, p->pvt, sizeof p->pvt);
    if (p->have != HAVE_ALL)
        return;
    p->wrong += !proof_judge(p, key, out);
    p->have = 0;
}
