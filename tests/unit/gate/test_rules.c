#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/timestamp.h"
#include "gate/rules.h"
#include "message/kms_response.h"
#include "message/xmlsig.h"

#define HEAD "version: 1\nkms: { uris: [kms.example.org, \"http://kms:1\"], id: kms-01 }\n"
#define RESPONSES "responses: [{ id: default }]\n"

static char path[] = "/tmp/kmsgate-rules-XXXXXX";

static struct rules *load(const char *text, struct faults *f)
{
    *f = (struct faults){0};
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return rules_load(path, f);
}

static bool has_fault(const struct faults *f, const char *part)
{
    for (size_t i = 0; i < f->n; i++)
        if (strstr(f->v[i].text, part))
            return true;
    return false;
}

/* Rules without a fault; lints are thrown away. */
static struct rules *good(const char *text)
{
    struct faults f;
    struct rules *r = load(text, &f);
    if (!r)
        fail_msg("%s", f.n ? f.v[0].text : "no rules");
    faults_free(&f);
    return r;
}

static int make_file(void **state)
{
    (void)state;
    const int fd = mkstemp(path);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void what_a_rule_leaves_out(void **state)
{
    (void)state;
    struct rules *r = good(HEAD "requests: [{ id: everyone }]\n" RESPONSES);
    assert_int_equal(r->kms_uris.n, 2);
    assert_string_equal(r->kms_uris.v[0], "kms.example.org");
    assert_string_equal(r->kms_id, "kms-01");
    assert_false(r->detail_reason);
    assert_int_equal(r->request_count, 1);
    const struct request_rule *q = r->requests;
    assert_string_equal(q->id, "everyone");
    assert_int_equal(q->line, 3);
    assert_true(q->since_us == TIME_NONE && q->until_us == TIME_NONE);
    assert_int_equal(q->match.path.n + q->match.user.n + q->match.client_id.n + q->match.device_id.n, 0);
    assert_int_equal(q->match.source_count, 0);
    assert_int_equal(q->match.forms, 0);
    assert_int_equal(q->accept, FORM_SIGNED);
    for (int c = 0; c < CHECK_COUNT; c++)
        assert_int_equal(q->checks.mode[c], MODE_ENFORCE);
    assert_string_equal(q->checks.versions, "1.1.0 1.0.0");
    assert_int_equal(q->checks.min_hmac_bits, 256);
    assert_int_equal(q->checks.canonicalization, XMLSIG_C14N);
    assert_false(q->checks.kms_uri_host);
    assert_int_equal(q->checks.past_us, 5 * US_PER_S);
    assert_int_equal(q->checks.future_us, 5 * US_PER_S);
    assert_false(q->checks.zone_refuse);
    assert_int_equal(q->checks.zone_minutes, 0);
    assert_int_equal(q->checks.url_compare, URL_EXACT);
    assert_int_equal(q->checks.also.n, 0);
    assert_int_equal(q->forward.body, FORWARD_REQUEST);
    assert_string_equal(q->forward.method, "POST");
    assert_int_equal(q->forward.header_count + q->forward.pass.n, 0);
    assert_false(q->forward.assert_unproven);
    const struct response_rule *p = r->responses;
    assert_int_equal(p->match.rule.n + p->match.status_count + p->match.forms + p->match.messages, 0);
    assert_int_equal(p->user_uri, FIELD_REQUEST);
    assert_int_equal(p->kms_uri, FIELD_RULES);
    assert_int_equal(p->kms_id, FIELD_RULES);
    assert_int_equal(p->time, FIELD_NOW);
    assert_int_equal(p->client_req_url, FIELD_REQUEST);
    assert_int_equal(p->sign, SIGN_AUTO);
    assert_int_equal(p->encrypt.content, ENCRYPT_KEYS);
    assert_int_equal(p->encrypt.key_wrap, KEY_WRAP_AUTO);
    assert_int_equal(p->encrypt.when, WHEN_ALWAYS);
    assert_false(p->keep_extensions);
    assert_int_equal(r->max_past_us, 5 * US_PER_S);
    rules_unref(r);
}

static void what_a_rule_says(void **state)
{
    (void)state;
    struct rules *r = good(
        HEAD
        "errors: { detail: reason }\nrequests:\n"
        "  - id: a\n    why: because\n    since: 2026-01-02\n    until: 2026-01-03\n"
        "    match: { path: [/a, /b], user: \"u*\", client_id: [c], device_id: d, source: [10.0.0.0/8, \"::1\"], form: "
        "[signed, empty] }\n"
        "    accept: [unsigned, empty]\n"
        "    checks:\n"
        "      schema: { mode: shadow, versions: [1.0.0, 2.0] }\n"
        "      signature: { min_hmac_bits: 128, canonicalization: [exc-c14n, c14n11] }\n"
        "      key_policy: off\n"
        "      kms_uri: { compare: host }\n"
        "      time: { past: 1m, future: 0s, assume_zone: \"-03:30\" }\n"
        "      client_req_url: { compare: normalized }\n"
        "      path_user: { also: [\"g*\", \"h*\"] }\n"
        "      replay: shadow\n"
        "    forward: { headers: { X-A: \"{user}\", X-B: b }, pass: [X-C, X-D], assert_unproven: on, method: POST, "
        "body: request }\n"
        "  - id: b\n    checks: { time: { assume_zone: refuse, past: 1h, }, client_req_url: { compare: prefix } }\n"
        "responses:\n"
        "  - id: x\n    match: { rule: [a, b], form: signed, message: [KmsInit, error, none], status: [200, 404] }\n"
        "    set: { UserUri: keep, KmsUri: keep, KmsId: remove, Time: keep, ClientReqUrl: keep }\n"
        "    sign: always\n    encrypt: { content: message, key_wrap: aes256-gcm, when: requested }\n    extensions: "
        "keep\n"
        "  - { id: y, sign: none, encrypt: { content: none, key_wrap: kw-aes256-pad, when: never } }\n");
    assert_true(r->detail_reason);
    const struct request_rule *q = r->requests;
    int64_t day = 0;
    assert_true(date_parse(STR("2026-01-02"), &day));
    assert_true(q->since_us == day);
    assert_true(date_parse(STR("2026-01-04"), &day));
    assert_true(q->until_us == day);
    assert_int_equal(q->match.path.n, 2);
    assert_int_equal(q->match.source_count, 2);
    assert_int_equal(q->match.forms, FORM_SIGNED | FORM_EMPTY);
    assert_int_equal(q->accept, FORM_UNSIGNED | FORM_EMPTY);
    assert_int_equal(q->checks.mode[CHECK_SCHEMA], MODE_SHADOW);
    assert_int_equal(q->checks.mode[CHECK_SIGNATURE], MODE_ENFORCE);
    assert_int_equal(q->checks.mode[CHECK_KEY_POLICY], MODE_OFF);
    assert_int_equal(q->checks.mode[CHECK_REPLAY], MODE_SHADOW);
    assert_string_equal(q->checks.versions, "1.0.0 2.0");
    assert_int_equal(q->checks.min_hmac_bits, 128);
    assert_int_equal(q->checks.canonicalization, XMLSIG_EXC_C14N | XMLSIG_C14N11);
    assert_true(q->checks.kms_uri_host);
    assert_int_equal(q->checks.past_us, 60 * US_PER_S);
    assert_int_equal(q->checks.future_us, 0);
    assert_int_equal(q->checks.zone_minutes, -210);
    assert_int_equal(q->checks.url_compare, URL_NORMALIZED);
    assert_string_equal(q->checks.also.v[1], "h*");
    assert_int_equal(q->forward.header_count, 2);
    assert_string_equal(q->forward.headers[0].name, "X-A");
    assert_string_equal(q->forward.headers[0].value, "{user}");
    assert_string_equal(q->forward.pass.v[1], "X-D");
    assert_true(q->forward.assert_unproven);
    assert_true(r->requests[1].checks.zone_refuse);
    assert_int_equal(r->requests[1].checks.url_compare, URL_PREFIX);
    const struct response_rule *p = r->responses;
    assert_int_equal(p->match.rule.n, 2);
    assert_int_equal(p->match.messages, 1 << KMS_MESSAGE_INIT | 1 << KMS_MESSAGE_ERROR | 1 << KMS_MESSAGE_NONE);
    assert_int_equal(p->match.status[1], 404);
    assert_int_equal(p->user_uri, FIELD_KEEP);
    assert_int_equal(p->kms_id, FIELD_REMOVE);
    assert_int_equal(p->client_req_url, FIELD_KEEP);
    assert_int_equal(p->sign, SIGN_ALWAYS);
    assert_int_equal(p->encrypt.content, ENCRYPT_MESSAGE);
    assert_int_equal(p->encrypt.key_wrap, KEY_WRAP_GCM);
    assert_int_equal(p->encrypt.when, WHEN_REQUESTED);
    assert_true(p->keep_extensions);
    assert_int_equal(r->responses[1].encrypt.key_wrap, KEY_WRAP_KWP);
    assert_int_equal(r->max_past_us, 3600 * US_PER_S);
    rules_unref(r);
}

/* Which rule takes the facts; "" for none. */
static const char *decides(const struct rules *r, struct request_facts f)
{
    const struct request_rule *q = rules_request(r, &f);
    return q ? q->id : "";
}

static void first_match_decides(void **state)
{
    (void)state;
    struct ip ten, eleven, unix_peer = {.known = false};
    assert_true(ip_parse(STR("10.1.2.3"), &ten) && ip_parse(STR("11.1.2.3"), &eleven));
    struct rules *r = good(HEAD "requests:\n"
                                "  - { id: path, match: { path: [\"/k/init\", \"/k/keyprov/**\"] } }\n"
                                "  - { id: user, match: { user: \"sip:*@a.example\" } }\n"
                                "  - { id: client, match: { client_id: \"c*\", device_id: \"d*\" } }\n"
                                "  - { id: source, match: { source: 10.0.0.0/8 } }\n"
                                "  - { id: empty, why: x, accept: [empty], match: { form: empty } }\n" RESPONSES);
    const struct {
        struct request_facts facts;
        const char *rule;
    } CASES[] = {
        {{.path = STR("/k/init"), .form = FORM_SIGNED}, "path"},
        {{.path = STR("/k/init/x"), .form = FORM_SIGNED}, ""},
        {{.path = STR("/k/keyprov/a/b"), .form = FORM_SIGNED}, "path"},
        {{.path = STR("/x"), .user = STR("sip:u@a.example"), .form = FORM_SIGNED}, "user"},
        {{.path = STR("/x"), .user = STR("SIP:u@a.example"), .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .user = STR("sip:u@a.example.evil"), .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .client_id = STR("c1"), .device_id = STR("d1"), .form = FORM_SIGNED}, "client"},
        {{.path = STR("/x"), .client_id = STR("c1"), .form = FORM_SIGNED}, ""}, /* missing matches nothing */
        {{.path = STR("/x"), .client_id = STR("c1"), .device_id = STR("x"), .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .source = &ten, .form = FORM_SIGNED}, "source"},
        {{.path = STR("/x"), .source = &eleven, .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .source = &unix_peer, .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .source = NULL, .form = FORM_SIGNED}, ""},
        {{.path = STR("/x"), .form = FORM_EMPTY}, "empty"},
        {{.path = STR("/x"), .form = FORM_UNSIGNED}, ""},
        {{.path = STR("/k/init"), .user = STR("sip:u@a.example"), .form = FORM_EMPTY}, "path"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_string_equal(decides(r, CASES[i].facts), CASES[i].rule);
    rules_unref(r);
}

static void until_is_the_last_day(void **state)
{
    (void)state;
    struct rules *r = good(HEAD "requests: [{ id: a, since: 2026-01-02, until: 2026-01-03 }]\n" RESPONSES);
    static const struct {
        const char *time;
        bool matches;
    } CASES[] = {{"2026-01-01T23:59:59.999999Z", false},
                 {"2026-01-02T00:00:00Z", true},
                 {"2026-01-03T23:59:59.999999Z", true},
                 {"2026-01-04T00:00:00Z", false}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct request_facts f = {.path = STR("/x"), .form = FORM_SIGNED};
        bool zone;
        assert_true(time_parse(str_z(CASES[i].time), &f.now_us, &zone));
        assert_int_equal(rules_request(r, &f) != NULL, CASES[i].matches);
    }
    rules_unref(r);
}

static void responses(void **state)
{
    (void)state;
    struct rules *r = good(HEAD "requests: [{ id: a, match: { user: \"a*\" } }, { id: b }]\n"
                                "responses:\n"
                                "  - { id: a-init, match: { rule: a, message: KmsInit } }\n"
                                "  - { id: empty, match: { form: [empty, unsigned] } }\n"
                                "  - { id: missing, match: { status: [404, 410] } }\n"
                                "  - { id: b, match: { rule: b } }\n");
    static const struct {
        const char *request;
        enum form form;
        enum kms_message message;
        int status;
        const char *rule;
    } CASES[] = {
        {"a", FORM_SIGNED, KMS_MESSAGE_INIT, 200, "a-init"}, {"a", FORM_SIGNED, KMS_MESSAGE_KEYPROV, 200, ""},
        {"b", FORM_SIGNED, KMS_MESSAGE_INIT, 200, "b"},      {"a", FORM_EMPTY, KMS_MESSAGE_KEYPROV, 200, "empty"},
        {"a", FORM_SIGNED, KMS_MESSAGE_ERROR, 410, "missing"}, {"a", FORM_SIGNED, KMS_MESSAGE_ERROR, 411, ""},
        {"a", FORM_EMPTY, KMS_MESSAGE_INIT, 404, "a-init"},  {"b", FORM_UNSIGNED, KMS_MESSAGE_NONE, 204, "empty"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct response_rule *p =
            rules_response(r, CASES[i].request, CASES[i].form, 1u << CASES[i].message, CASES[i].status);
        assert_string_equal(p ? p->id : "", CASES[i].rule);
    }
    rules_unref(r);
}

static void widest_window(void **state)
{
    static const struct {
        const char *requests;
        int64_t us;
    } CASES[] = {
        {"[{ id: a, checks: { time: { past: 9s } }, match: { user: a } }, { id: b }]", 9 * US_PER_S},
        {"[{ id: a, why: x, checks: { time: { past: 9s }, replay: off }, match: { user: a } }, { id: b }]",
         5 * US_PER_S},
        {"[{ id: a, why: x, checks: { time: { past: 9s }, replay: shadow } }]", 9 * US_PER_S},
        {"[{ id: a, why: x, checks: { replay: off } }]", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[1000];
        snprintf(text, sizeof text, "%srequests: %s\n%s", HEAD, CASES[i].requests, RESPONSES);
        struct rules *r = good(text);
        assert_int_equal(r->max_past_us, CASES[i].us);
        rules_unref(r);
    }
}

static void hash_and_text(void **state)
{
    (void)state;
    static const char TEXT[] = "version: 1\nkms: { uris: [k] }\nrequests: [{ id: a }]\nresponses: [{ id: b }]\n";
    struct rules *r = good(TEXT);
    /* sha256sum of the same bytes */
    assert_string_equal(r->hash, "b37fabee8c8c292c222b561cc8b839243b844a8e631f54f5186c9f314bdc519c");
    assert_string_equal(r->text, TEXT);
    assert_string_equal(r->file, path);
    rules_unref(r);
}

/* A rule that ends so many days from today. */
static void lint_until(int days, const char *lint)
{
    char text[500], day[TIME_TEXT];
    struct faults f;
    time_format(time_now_us() + days * 86400 * US_PER_S, false, day);
    snprintf(text, sizeof text, "%srequests: [{ id: a, until: %.10s }, { id: b }]\n%s", HEAD, day, RESPONSES);
    struct rules *r = load(text, &f);
    assert_non_null(r);
    assert_int_equal(f.errors, 0);
    assert_int_equal(f.n, lint ? 1 : 0);
    assert_true(!lint || (has_fault(&f, lint) && f.v[0].lint));
    rules_unref(r);
    faults_free(&f);
}

static void lints_of_dates(void **state)
{
    (void)state;
    lint_until(-2, "until-past");
    lint_until(1, "until-soon");
    lint_until(29, "until-soon");
    lint_until(33, NULL);
}

static void one_fault_refuses_the_file(void **state)
{
    static const struct {
        const char *text, *message;
    } CASES[] = {
        {"", "expected"},
        {"a", "expected a mapping"},
        {HEAD "requests: [{ id: a, foo: 1 }]\n" RESPONSES, ":3:21: unknown key `foo`; did you mean"},
        {HEAD "requests: [{ id: a, accept: [empty] }]\n" RESPONSES, "needs `why`"},
        {HEAD "requests: [{ id: a }]\nresponses: [{ id: r, match: { rule: b } }]\n",
         "there is no request rule `b`; did you mean `a`?"},
        {HEAD "requests: [{ id: a, forward: { method: GET, body: json } }]\n" RESPONSES,
         ":3:51: a GET carries no body"},
        {HEAD "requests: [{ id: a }]\nresponses: [{ id: r, new_keys: learn, renew: { ink: 9d } }]\n",
         ":4:32: `new_keys: learn` and `renew` in one rule"},
        {HEAD "requests: [{ id: a }]\n" RESPONSES "dialects: { x: { rename: { A: B } } }\n", "no element `B`"},
        {HEAD "requests: [{ id: a }]\nresponses: [{ id: r, dialect: x }]\n", "there is no dialect `x`"},
        {HEAD "requests: [7]\nresponses: [[]]\n", "expected a mapping"},
        {HEAD "requests: [{ why: x }]\nresponses: [{ id: r, match: { rule: abc } }]\n",
         "there is no request rule `abc`"},
        {HEAD "requests:\nrequests: [{ id: a }, { id: a, accept: empty }]\nresponses: 1\n" RESPONSES,
         "duplicate id `a`"},
        {HEAD "requests: [{}, {}]\nresponses: [{}, {}]\n", "the key `id` is missing"},
        {HEAD "requests: [{ id: a }]\nrequests: [{ id: a }]\n" RESPONSES, "duplicate"},
        {HEAD "requests: [{ id: a, forward: { headers: { X-A: a }, headers: { X-B: b } } }]\n" RESPONSES,
         "duplicate"},
        {HEAD "requests: [{ id: a, id: b, why: c, why: d, match: { source: ::1, source: ::2 } }]\n" RESPONSES,
         "duplicate key"},
        {HEAD "requests: [{ id: a }]\nresponses: [{ id: r, match: { status: 200, status: 201 } }]\n", "duplicate key"},
        {HEAD "requests: [{ id: a }]\n" RESPONSES
              "lints: { accepted: [], accepted: [{ name: check-off, why: x }, 7] }\n",
         "duplicate key"},
        {HEAD "requests: [{ id: a }]\n" RESPONSES "kms: { uris: [a] }\n", "duplicate key"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f;
        struct rules *r = load(CASES[i].text, &f);
        if (r || !has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].text, f.n ? f.v[0].text : "no fault");
        faults_free(&f);
    }
    struct faults f = {0};
    assert_null(rules_load("/nonexistent/rules.yaml", &f));
    assert_int_equal(f.errors, 1);
    faults_free(&f);
}

static void describe(void **state)
{
    (void)state;
    struct buf out BUF_CLEANUP = BUF_INIT(1 << 20);
    char line[200];
    struct rules *r = good(HEAD "requests:\n  - id: a\n    checks: { time: { past: 7s } }\n" RESPONSES);
    rules_describe(r, &out);
    assert_false(out.failed);
    snprintf(line, sizeof line, "# %s:5\n", path);
    const char *at = strstr(out.p, "requests[a].checks.time.past: 7s ");
    assert_non_null(at);
    assert_ptr_equal(strstr(at, "# "), strstr(at, line));
    assert_non_null(strstr(out.p, "responses[default].sign: auto "));
    rules_unref(r);
}

static void *take_and_drop(void *arg)
{
    for (int i = 0; i < 20000; i++)
        rules_unref(rules_ref(arg));
    return NULL;
}

static void references_of_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    struct rules *r = good(HEAD "requests: [{ id: a }]\n" RESPONSES);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(threads + i, NULL, take_and_drop, r), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(r->refs, 1);
    assert_null(rules_ref(NULL));
    rules_unref(r);
    rules_unref(NULL);
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(check_name(CHECK_SCHEMA), "schema");
    assert_string_equal(check_name(CHECK_REPLAY), "replay");
    assert_string_equal(check_name(CHECK_COUNT), "?");
    assert_string_equal(mode_name(MODE_SHADOW), "shadow");
    assert_string_equal(form_name(FORM_UNSIGNED), "unsigned");
}

/* Any byte of a full file replaced, and any prefix of it: rules or a fault, never a crash or a leak. */
static void any_bytes(void **state)
{
    static const char TEXT[] = HEAD
        "requests:\n  - { id: a, why: w, since: 2026-01-01, match: { path: /a, source: ::1 }, accept: [empty],\n"
        "      checks: { time: { past: 1s }, replay: off }, forward: { headers: { X-A: \"{rule}\" }, pass: X-B } }\n"
        "responses: [{ id: r, match: { rule: a, status: 200 }, dialect: v }]\n"
        "dialects: { v: { namespaces: [\"\", a], rename: { A: KmsDomain } } }\n"
        "lints: { accepted: [{ name: check-off, why: x }] }\n";
    static const char BYTES[] = " \n[]{}:,-\"a0\xff";
    (void)state;
    char copy[sizeof TEXT];
    for (size_t n = 0; n < sizeof TEXT - 1; n++)
        for (size_t b = 0; b < sizeof BYTES; b++) {
            struct faults f;
            memcpy(copy, TEXT, sizeof TEXT);
            copy[n] = BYTES[b];
            struct rules *r = load(copy, &f);
            assert_true(!r == (f.errors > 0));
            rules_unref(r);
            faults_free(&f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_rule_leaves_out), cmocka_unit_test(what_a_rule_says),
        cmocka_unit_test(first_match_decides), cmocka_unit_test(until_is_the_last_day),
        cmocka_unit_test(responses), cmocka_unit_test(widest_window),
        cmocka_unit_test(hash_and_text), cmocka_unit_test(lints_of_dates),
        cmocka_unit_test(one_fault_refuses_the_file), cmocka_unit_test(describe),
        cmocka_unit_test(references_of_threads), cmocka_unit_test(names),
        cmocka_unit_test(any_bytes),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
