#include <assert.h>
#include <stdlib.h>

#include "base/timestamp.h"
#include "base/uri.h"
#include "gate/resource.h"
#include "message/kms_request.h"
#include "study/advise_inside.h"

const struct cause_about CAUSES[CAUSE_COUNT] = {
#define CAUSE_ABOUT(e, remedy, name, what, todo) [CAUSE_##e] = {REMEDY_##remedy, name, what, todo},
    CAUSE_LIST(CAUSE_ABOUT)
#undef CAUSE_ABOUT
};

static_assert(CAUSE_COUNT <= 32, "a cause is a bit of an unsigned");

enum { MINUTE_S = 60, QUARTER_MIN = 15, ZONE_MAX_MIN = 14 * 60, HMAC_LEAST = 128 };
#define PLIGHT_FAR_US (5 * MINUTE_S * US_PER_S)
#define PLIGHT_NEAR_US (30 * US_PER_S) /* a clock that shows local time is right else */

static enum cause plight_time(struct plight *p, const struct record *r)
{
    int64_t t = 0;
    bool has_zone = false;
    if (!time_parse(r->claims.time, &t, &has_zone))
        return CAUSE_XML;
    const int64_t skew = r->time_us - t, quarter = QUARTER_MIN * MINUTE_S * US_PER_S;
    const int64_t quarters = (skew + (skew < 0 ? -quarter : quarter) / 2) / quarter, rest = skew - quarters * quarter;
    const int64_t minutes = -quarters * QUARTER_MIN;
    if (!has_zone && quarters && minutes >= -ZONE_MAX_MIN && minutes <= ZONE_MAX_MIN && rest <= PLIGHT_NEAR_US &&
        rest >= -PLIGHT_NEAR_US) {
        p->zone_minutes = (int)minutes;
        p->late_us = rest > 0 ? rest : 0;
        p->early_us = rest < 0 ? -rest : 0;
        return CAUSE_ZONE;
    }
    if (skew > PLIGHT_FAR_US || skew < -PLIGHT_FAR_US)
        return CAUSE_TIME_FAR;
    p->late_us = skew > 0 ? skew : 0;
    p->early_us = skew < 0 ? -skew : 0;
    return skew < 0 ? CAUSE_EARLY : CAUSE_LATE;
}

static struct str url_rest(struct str url, const char *mark, size_t skip)
{
    for (size_t i = 0; i + skip <= url.n; i++)
        if (str_starts((struct str){url.p + i, url.n - i}, str_z(mark)))
            return (struct str){url.p + i + skip, url.n - i - skip};
    return STR_MISSING;
}

static bool url_same(struct str a, struct str b)
{
    struct buf x BUF_CLEANUP = BUF_INIT(a.n * 3 + 16), y BUF_CLEANUP = BUF_INIT(b.n * 3 + 16);
    return uri_normalize(a, &x) && uri_normalize(b, &y) && !x.failed && !y.failed &&
           str_eq(buf_view(&x), buf_view(&y));
}

static bool url_slash(struct str longer, struct str shorter)
{
    return longer.n == shorter.n + 1 && str_starts(longer, shorter) && longer.p[shorter.n] == '/';
}

/* Both stand in the log without their queries. */
static enum cause plight_url(struct plight *p, const struct record *r)
{
    const struct str got = r->claims.client_req_url, due = r->expected_url;
    if (!got.n || !due.n || record_cut(got) || record_cut(due) || !str_ends(due, r->path))
        return CAUSE_URL_OTHER;
    const size_t base = due.n - r->path.n;
    if (str_eq(got, due))
        return CAUSE_URL_QUERY;
    if (url_slash(got, due) || url_slash(due, got))
        return CAUSE_URL_SLASH;
    if (got.n >= base && got.n < due.n && str_starts(due, got) && due.p[got.n] == '/')
        return CAUSE_URL_LEADING;
    if (url_same(got, due))
        return CAUSE_URL_NORMAL;
    p->shown = str_ends(got, r->path) ? (struct str){got.p, got.n - r->path.n} : STR_MISSING;
    const struct str got_rest = url_rest(got, "://", 3), due_rest = url_rest(due, "://", 3);
    if (str_eq(got_rest, due_rest))
        return CAUSE_URL_SCHEME;
    if (str_eq(url_rest(got_rest, "/", 0), url_rest(due_rest, "/", 0)))
        return CAUSE_URL_HOST;
    return p->shown.p ? CAUSE_URL_PREFIX : CAUSE_URL_OTHER;
}

/* Bits of causes: a signature may be short, and in another form, too. The log names both as the rules do. */
static unsigned plight_profile(struct plight *p, const struct record *r, const struct checks *c)
{
    unsigned causes = 0;
    if (r->claims.hmac_bits >= HMAC_LEAST && r->claims.hmac_bits < c->min_hmac_bits) {
        p->hmac_bits = r->claims.hmac_bits / 8 * 8;
        causes |= 1u << CAUSE_HMAC;
    }
    if (r->claims.c14n && !(r->claims.c14n & c->canonicalization)) {
        p->c14n = r->claims.c14n;
        causes |= 1u << CAUSE_C14N;
    }
    return r->claims.hmac_bits < HMAC_LEAST || !causes ? 1u << CAUSE_PROFILE : causes;
}

/* In the order of check_key_policy(). */
static enum cause plight_key_policy(struct plight *p, const struct record *r)
{
    if (str_eq_z(r->key_type, "trk"))
        return CAUSE_TRK_SIGNS;
    if (!str_eq(r->key_id, r->claims.signature_id))
        return CAUSE_SIGNATURE_ID;
    p->shown = r->claims.trk_id;
    return CAUSE_TRK_ID;
}

static enum cause plight_kms_uri(struct plight *p, const struct record *r, const struct strings *ours)
{
    for (size_t i = 0; i < ours->n; i++)
        if (uri_same_server(r->claims.kms_uri, str_z(ours->v[i])))
            return CAUSE_URI_HOST;
    p->shown = r->claims.kms_uri;
    return CAUSE_URI_OTHER;
}

/* All else of the schema is known by the recorded result alone. */
static enum cause plight_xml(struct plight *p, const struct record *r, const struct checks *c)
{
    struct detail ignored;
    const struct str version = r->claims.version;
    if (r->reason != REASON_XML_INVALID || !version.n || record_cut(version) ||
        kms_request_version(version, str_z(c->versions), &ignored) == REASON_OK)
        return CAUSE_XML;
    p->shown = version;
    return CAUSE_VERSION;
}

static enum cause plight_path_user(struct plight *p, const struct record *r)
{
    struct resource of;
    if (!record_cut(r->path) && resource_parse(r->path, &of, NULL) == REASON_OK)
        p->shown = of.user_raw;
    return CAUSE_PATH_USER;
}

static enum cause plight_cause(struct plight *p, const struct record *r, enum reason reason, const struct rules *rules,
                               const struct checks *checks)
{
    switch (reason) {
    case REASON_RULE_NONE:
        return CAUSE_NO_RULE;
    case REASON_RULE_FORM:
    case REASON_SIGNATURE_MISSING:
        return CAUSE_FORM;
    case REASON_RULE_DENIED:
        return CAUSE_DENIED;
    case REASON_XML_MALFORMED:
    case REASON_XML_FORBIDDEN:
    case REASON_XML_INVALID:
        return plight_xml(p, r, checks);
    case REASON_SIGNATURE_INVALID:
    case REASON_SIGNATURE_REFERENCE:
        return CAUSE_FORGED;
    case REASON_KEY_UNKNOWN:
        p->shown = r->key_id.n ? r->key_id : r->claims.signature_id;
        return CAUSE_KEY_UNKNOWN;
    case REASON_KEY_REVOKED:
        return CAUSE_KEY_REVOKED;
    case REASON_PROTECT_NO_KEY:
        return CAUSE_NO_TRK;
    case REASON_KEY_POLICY:
        return plight_key_policy(p, r);
    case REASON_KMS_URI_MISMATCH:
        return plight_kms_uri(p, r, &rules->kms_uris);
    case REASON_TIME_STALE:
    case REASON_TIME_FUTURE:
    case REASON_TIME_ZONE:
        return plight_time(p, r);
    case REASON_CLIENT_REQ_URL_MISMATCH:
        return plight_url(p, r);
    case REASON_PATH_USER_MISMATCH:
        return plight_path_user(p, r);
    case REASON_REPLAY_SEEN:
        return CAUSE_REPLAYED;
    default:
        p->service = reason;
        return CAUSE_SERVICE;
    }
}

void plight_add(struct plight *p, const struct record *r, enum reason reason, const struct rules *rules,
                const struct request_rule *rule)
{
    static char versions[] = "1.1.0 1.0.0";
    static const struct checks STANDARD = {.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N,
                                           .versions = versions};
    const struct checks *checks = rule ? &rule->checks : &STANDARD;
    p->causes |= reason == REASON_SIGNATURE_PROFILE ? plight_profile(p, r, checks)
                                                    : 1u << plight_cause(p, r, reason, rules, checks);
}
