#include "gate/decision.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

const char *check_result_name(enum check_result r)
{
    static const char *const NAMES[] = {[CHECK_NONE] = "",
                                        [CHECK_PASS] = "pass",
                                        [CHECK_FAIL] = "fail",
                                        [CHECK_SHADOW_FAIL] = "shadow_fail",
                                        [CHECK_OFF] = "off",
                                        [CHECK_SKIP] = "skip"};
    return NAMES[r];
}

void decision_init(struct decision *d)
{
    memset(d, 0, offsetof(struct decision, found)); /* the texts are most of it */
    for (size_t i = 0; i < CHECK_COUNT; i++)
        d->found[i].text[0] = '\0';
    d->skew_us = TIME_NONE;
    d->upstream.us = TIME_NONE;
    d->us.total = d->us.judge = d->us.upstream = d->us.protect = TIME_NONE;
}

void decision_clear(struct decision *d)
{
    free(d->expected_url);
    decision_init(d);
}

static void decision_text(struct json *j, struct str key, struct str value)
{
    if (value.n > 0)
        json_put_string(j, key, value, LIMIT_DECISION_TEXT);
}

/* A URL without its query, which may carry what no log may hold. */
static void url(struct json *j, struct str key, struct str value)
{
    const char *const query = value.p ? memchr(value.p, '?', value.n) : NULL;
    const size_t n = query ? (size_t)(query - value.p) : value.n;
    const char *const fragment = value.p ? memchr(value.p, '#', n) : NULL;
    decision_text(j, key, (struct str){value.p, fragment ? (size_t)(fragment - value.p) : n});
}

static void write_who(const struct decision *d, struct json *j)
{
    decision_text(j, STR("rule"), str_z(d->rule));
    if (d->judged && d->form)
        decision_text(j, STR("form"), str_z(form_name(d->form)));
    if (d->judged)
        json_bool(j, "proven", d->proven);
    decision_text(j, STR("user"), d->user);
    decision_text(j, STR("client_id"), d->client_id);
    decision_text(j, STR("device_id"), d->device_id);
    decision_text(j, STR("key_id"), d->key_id);
    if (d->has_key_type)
        decision_text(j, STR("key_type"), str_z(key_type_name(d->key_type)));
}

/* Nearly always they came to what those of the thread's last decision came to. */
static void write_checks(const struct decision *d, struct json *j)
{
    static _Thread_local struct {
        enum check_result checks[CHECK_COUNT];
        size_t n; /* 0: of none yet */
        char text[512];
    } last;
    if (!d->judged)
        return;
    const struct str now = {(const char *)d->checks, sizeof d->checks};
    if (last.n && str_eq(now, (struct str){(const char *)last.checks, sizeof last.checks})) {
        json_again(j, (struct str){last.text, last.n});
        return;
    }
    bool any = false;
    size_t from = j->out->n;
    for (size_t c = 0; c < CHECK_COUNT; c++) {
        if (d->checks[c] == CHECK_NONE)
            continue;
        if (!any)
            json_object(j, "checks");
        any = true;
        decision_text(j, str_z(check_name((enum check)c)), str_z(check_result_name(d->checks[c])));
    }
    if (!any)
        return;
    json_end(j);
    if (j->out->failed)
        return;
    from += j->out->p[from] == ',';
    last.n = j->out->n - from < sizeof last.text ? j->out->n - from : 0;
    memcpy(last.text, j->out->p + from, last.n);
    memcpy(last.checks, d->checks, sizeof last.checks);
}

static void write_verdict(const struct decision *d, struct json *j)
{
    decision_text(j, STR("verdict"), d->accepted ? STR("accept") : STR("reject"));
    decision_text(j, STR("reason"), str_z(reason_name(d->reason)));
    bool any = false;
    for (size_t i = 0; i < SHADOW_COUNT; i++) {
        const enum reason r = d->shadow[(i + SHADOW_FORM) % SHADOW_COUNT]; /* the form is judged before the checks */
        if (r == REASON_OK)
            continue;
        if (!any)
            json_array(j, "shadow");
        any = true;
        decision_text(j, STR_MISSING, str_z(reason_name(r)));
    }
    if (any)
        json_end(j);
}

static void write_claims(const struct decision *d, struct json *j)
{
    if (d->claims.kms_uri.n || d->claims.time.n || d->claims.client_req_url.n || d->claims.trk_id.n ||
        d->claims.signature_id.n || d->claims.version.n || d->claims.c14n || d->claims.hmac_bits) {
        json_object(j, "claims");
        url(j, STR("kms_uri"), d->claims.kms_uri);
        decision_text(j, STR("time"), d->claims.time);
        url(j, STR("client_req_url"), d->claims.client_req_url);
        decision_text(j, STR("trk_id"), d->claims.trk_id);
        decision_text(j, STR("signature_id"), d->claims.signature_id);
        decision_text(j, STR("version"), d->claims.version);
        decision_text(j, STR("c14n"), str_z(d->claims.c14n));
        if (d->claims.hmac_bits)
            json_int(j, "hmac_bits", d->claims.hmac_bits);
        json_end(j);
    }
    if (d->captured)
        json_bool(j, "captured", true);
    url(j, STR("expected_url"), str_z(d->expected_url));
    decision_text(j, STR("rules"), str_z(d->rules_hash));
    if (d->skew_us != TIME_NONE)
        json_int(j, "skew_ms", d->skew_us / 1000);
}

static void ms(struct json *j, struct str key, int64_t us)
{
    if (us != TIME_NONE)
        json_put_thousandths(j, key, us);
}

static void write_reply(const struct decision *d, struct json *j)
{
    if (d->status)
        json_int(j, "status", d->status);
    if (d->upstream.us != TIME_NONE) {
        json_object(j, "upstream");
        if (d->upstream.status)
            json_int(j, "status", d->upstream.status);
        ms(j, STR("ms"), d->upstream.us);
        json_end(j);
    }
    if (d->response.rule || d->response.message || d->response.signed_by.n || d->response.encrypted_by.n) {
        json_object(j, "response");
        decision_text(j, STR("rule"), str_z(d->response.rule));
        decision_text(j, STR("message"), str_z(d->response.message));
        decision_text(j, STR("signed_by"), d->response.signed_by);
        decision_text(j, STR("encrypted_by"), d->response.encrypted_by);
        if (d->response.renewed[0].n) {
            json_array(j, "renewed");
            decision_text(j, STR_MISSING, d->response.renewed[0]);
            decision_text(j, STR_MISSING, d->response.renewed[1]);
            json_end(j);
        }
        json_end(j);
    }
    decision_text(j, STR("trace_id"), str_z(d->trace_id));
    if (d->us.total != TIME_NONE || d->us.judge != TIME_NONE || d->us.upstream != TIME_NONE ||
        d->us.protect != TIME_NONE) {
        json_object(j, "ms");
        ms(j, STR("total"), d->us.total);
        ms(j, STR("judge"), d->us.judge);
        ms(j, STR("upstream"), d->us.upstream);
        ms(j, STR("protect"), d->us.protect);
        json_end(j);
    }
}

void decision_json(const struct decision *d, struct buf *out)
{
    char time[TIME_TEXT];
    struct json j = {.out = out};
    time_format(d->time_us, true, time);
    json_object(&j, NULL);
    decision_text(&j, STR("time"), str_z(time));
    decision_text(&j, STR("id"), str_z(d->id));
    decision_text(&j, STR("source"), str_z(d->source));
    decision_text(&j, STR("method"), d->method);
    url(&j, STR("path"), d->path);
    write_who(d, &j);
    write_checks(d, &j);
    write_verdict(d, &j);
    write_claims(d, &j);
    write_reply(d, &j);
    json_end(&j);
}

enum { COUNTED_RULE = 128 }; /* a longer ID is looked up each time */

/* What a thread counted at last: nearly always where the next one is counted, too. */
static _Thread_local struct {
    struct metric_place phase[4], skew, request;
    char rule[COUNTED_RULE]; /* from here on: of the request */
    bool accepted;
    enum reason reason;
    const char *form, *proven;
} counted;

static void observe_phase(size_t phase, const char *labels, int64_t us)
{
    if (us != TIME_NONE)
        metric_observe_at(&counted.phase[phase], METRIC_PHASE_SECONDS, labels, (double)us / (double)US_PER_S);
}

static void label_request(struct buf *labels, struct str rule)
{
    metric_label(labels, "rule", rule);
    buf_char(labels, ',');
    metric_label(labels, "verdict", counted.accepted ? STR("accept") : STR("reject"));
    buf_char(labels, ',');
    metric_label(labels, "reason", str_z(reason_name(counted.reason)));
    buf_char(labels, ',');
    metric_label(labels, "form", str_z(counted.form));
    buf_char(labels, ',');
    metric_label(labels, "proven", str_z(counted.proven));
}

static void count_request(const struct decision *d)
{
    const char *form = d->judged && d->form ? form_name(d->form) : "";
    const char *proven = !d->judged ? "" : d->proven ? "true" : "false";
    const struct str rule = d->rule ? str_z(d->rule) : STR("");
    if (metric_place_stands(&counted.request) && counted.reason == d->reason && counted.accepted == d->accepted &&
        counted.form == form && counted.proven == proven && str_eq_z(rule, counted.rule)) {
        metric_add_at(&counted.request, METRIC_REQUESTS, NULL, 1);
        return;
    }
    char room[4096];
    struct buf labels = BUF_FIXED(room);
    struct metric_place none = {0};
    const bool fits = rule.n < sizeof counted.rule;
    counted.accepted = d->accepted;
    counted.reason = d->reason;
    counted.form = form;
    counted.proven = proven;
    label_request(&labels, rule);
    counted.request = none;
    if (fits)
        memcpy(counted.rule, rule.p, rule.n + 1);
    if (!labels.failed)
        metric_add_at(fits ? &counted.request : &none, METRIC_REQUESTS, labels.p, 1);
}

static void count_failure(const struct decision *d, const char *check, enum mode mode)
{
    struct buf labels BUF_CLEANUP = BUF_INIT(4096);
    metric_label(&labels, "check", str_z(check));
    buf_char(&labels, ',');
    metric_label(&labels, "mode", str_z(mode_name(mode)));
    buf_char(&labels, ',');
    metric_label(&labels, "rule", d->rule ? str_z(d->rule) : STR(""));
    if (!labels.failed)
        metric_add(METRIC_CHECK_FAILURES, labels.p, 1);
}

void decision_count(const struct decision *d)
{
    count_request(d);
    for (size_t c = 0; c < CHECK_COUNT; c++)
        if (d->checks[c] == CHECK_FAIL || d->checks[c] == CHECK_SHADOW_FAIL)
            count_failure(d, check_name((enum check)c), d->checks[c] == CHECK_FAIL ? MODE_ENFORCE : MODE_SHADOW);
    if (d->shadow[SHADOW_FORM] != REASON_OK)
        count_failure(d, shadow_name(SHADOW_FORM), MODE_SHADOW);
    observe_phase(0, "phase=\"judge\"", d->us.judge);
    observe_phase(1, "phase=\"upstream\"", d->us.upstream);
    observe_phase(2, "phase=\"protect\"", d->us.protect);
    observe_phase(3, "phase=\"total\"", d->us.total);
    if (d->skew_us != TIME_NONE)
        metric_observe_at(&counted.skew, METRIC_CLOCK_SKEW, NULL, (double)d->skew_us / (double)US_PER_S);
}
