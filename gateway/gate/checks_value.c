#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "gate/checks.h"

enum { SHOWN = 120 }; /* bytes of each text in a detail */

struct str checks_shown(struct str s)
{
    return s.p ? (struct str){s.p, s.n > SHOWN ? SHOWN : s.n} : STR("(none)");
}

/* Details may reach a log: no queries. */
static struct str without_query(struct str s)
{
    size_t n = 0;
    while (s.p && n < s.n && s.p[n] != '?')
        n++;
    return (struct str){s.p, n};
}

enum reason check_kms_uri(struct judgement *j, int64_t now_us, struct detail *found)
{
    (void)now_us;
    const struct strings *ours = &j->rules->kms_uris;
    const struct str got = j->request.kms_uri;
    for (size_t i = 0; i < ours->n; i++) {
        const struct str one = str_z(ours->v[i]);
        if (str_eq(got, one) || (j->rule->checks.kms_uri_host && uri_same_server(got, one)))
            return REASON_OK;
    }
    const struct str a = checks_shown(got), b = checks_shown(str_z(ours->n ? ours->v[0] : NULL));
    detail_set(found, "KmsUri is %.*s, not %.*s", STR_FMT(a), STR_FMT(b));
    return REASON_KMS_URI_MISMATCH;
}

/* Of a Time that clocks show twice, the reading that is nearer to now. False: it has none. */
static bool nearest_reading(const struct checks *c, int64_t now_us, int64_t *t)
{
    int64_t at[2];
    const unsigned n = checks_readings(c, *t, at);
    if (n == 2 && llabs(at[1] - now_us) < llabs(at[0] - now_us))
        at[0] = at[1];
    if (n)
        *t = at[0];
    return n > 0;
}

enum reason check_time(struct judgement *j, int64_t now_us, struct detail *found)
{
    const struct checks *c = &j->rule->checks;
    const struct str text = checks_shown(j->request.time);
    int64_t t;
    bool has_zone;
    if (!time_parse(j->request.time, &t, &has_zone)) {
        detail_set(found, "Time \"%.*s\" is not a valid dateTime", STR_FMT(text));
        return REASON_TIME_STALE;
    }
    if (!has_zone && !nearest_reading(c, now_us, &t)) {
        if (c->zone_refuse)
            detail_set(found, "Time is %.*s, without a zone", STR_FMT(text));
        else
            detail_set(found, "Time is %.*s, which clocks of %s never show", STR_FMT(text), c->zone_name);
        return REASON_TIME_ZONE;
    }
    j->decision.skew_us = now_us - t;
    if (t > now_us + c->future_us) {
        detail_set(found, "Time is %.*s, %lld ms ahead", STR_FMT(text), (long long)((t - now_us) / 1000));
        return REASON_TIME_FUTURE;
    }
    if (t < now_us - c->past_us) {
        detail_set(found, "Time is %.*s, %lld ms ago", STR_FMT(text), (long long)((now_us - t) / 1000));
        return REASON_TIME_STALE;
    }
    return REASON_OK;
}

static enum reason url_equal(struct str got, struct str expected)
{
    struct buf a BUF_CLEANUP = BUF_INIT(got.n * 3 + 16), b BUF_CLEANUP = BUF_INIT(expected.n * 3 + 16);
    const bool both = got.p && uri_normalize(got, &a) && uri_normalize(expected, &b);
    if (a.failed || b.failed)
        return REASON_INTERNAL;
    return both && str_eq(buf_view(&a), buf_view(&b)) ? REASON_OK : REASON_CLIENT_REQ_URL_MISMATCH;
}

/* A leading part that ends before a slash of the path, and has at least the whole base. */
static bool url_leads(struct str got, struct str expected, size_t base_n, size_t path_n)
{
    return got.p && got.n >= base_n && got.n < path_n && expected.p[got.n] == '/' && str_starts(expected, got);
}

static enum reason url_holds(const struct judgement *j, struct str expected, size_t base_n)
{
    const struct str got = j->request.client_req_url;
    const int compare = j->rule->checks.url_compare;
    if (str_eq(got, expected) ||
        (compare == URL_PREFIX && url_leads(got, expected, base_n, base_n + j->resource.path.n)))
        return REASON_OK;
    return compare == URL_NORMALIZED ? url_equal(got, expected) : REASON_CLIENT_REQ_URL_MISMATCH;
}

/* Any of the public bases will do; the decision shows the one that the claim begins with, else the first. */
enum reason check_client_req_url(struct judgement *j, int64_t now_us, struct detail *found)
{
    (void)now_us;
    const struct str got = j->request.client_req_url;
    const struct strings *bases = j->gate->public_url;
    for (size_t i = 0; i < bases->n; i++) {
        const struct str base = str_z(bases->v[i]);
        struct buf url BUF_CLEANUP = BUF_INIT(base.n + j->head.target.n + 1);
        buf_str(&url, base);
        buf_str(&url, j->head.target);
        if (url.failed)
            return REASON_INTERNAL;
        const enum reason r = url_holds(j, buf_view(&url), base.n);
        if (r == REASON_OK || i == 0 || (got.p && str_starts(got, base))) {
            free(j->decision.expected_url);
            j->decision.expected_url = url.p;
            url.p[without_query(buf_view(&url)).n] = '\0';
            url = BUF_INIT(0);
        }
        if (r != REASON_CLIENT_REQ_URL_MISMATCH)
            return r;
    }
    const struct str a = checks_shown(without_query(got)), b = checks_shown(str_z(j->decision.expected_url));
    detail_set(found, "ClientReqUrl is %.*s, not %.*s (queries are left out)", STR_FMT(a), STR_FMT(b));
    return REASON_CLIENT_REQ_URL_MISMATCH;
}

/* Whose keys are asked for. Groups and the like (`also`) may be asked for by any proven user. */
enum reason check_path_user(struct judgement *j, int64_t now_us, struct detail *found)
{
    (void)now_us;
    if (j->resource.kind != RESOURCE_KEYPROV || !j->resource.user_raw.p)
        return REASON_OK;
    const struct str path_user = buf_view(&j->path_user), user = j->request.user_uri;
    if (str_eq(path_user, user))
        return REASON_OK;
    const struct strings *also = &j->rule->checks.also;
    for (size_t i = 0; j->proven && i < also->n; i++)
        if (str_glob(str_z(also->v[i]), path_user, false))
            return REASON_OK;
    const struct str a = checks_shown(path_user), b = checks_shown(user);
    detail_set(found, "the path's user is %.*s, UserUri %.*s", STR_FMT(a), STR_FMT(b));
    return REASON_PATH_USER_MISMATCH;
}
