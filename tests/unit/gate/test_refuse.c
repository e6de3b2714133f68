/* Refusals: valid whatever was asked, signed where the requester proved himself, the same for all who did not. */
#include "judging.h"

#include "../message/replies.h"

static struct gate_response refuse(struct world *w, enum reason reason, int status)
{
    struct gate_response out;
    gate_refuse(w->j, reason, status, NOW, &out);
    assert_int_equal(w->j->decision.reason, reason);
    assert_int_equal(w->j->decision.status, out.status);
    assert_xsd_valid(buf_view(&out.body));
    assert_int_equal(kms_response_validate(buf_view(&out.body), true, NULL), REASON_OK);
    return out;
}

/* Judges the request and refuses it for the reason found. */
static struct gate_response refused(struct world *w, const struct ask *a, enum reason due)
{
    assert_judged(w, a, due);
    return refuse(w, due, 0);
}

static bool has(const struct gate_response *out, const char *text)
{
    return strstr(out->body.p, text) != NULL;
}

static void test_signed(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    struct xml_doc *doc = NULL;
    const struct xml_signed *proof = NULL;
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    a.fields.kms_uri = STR("kms.evil.example");
    struct gate_response out = refused(w, &a, REASON_KMS_URI_MISMATCH);
    assert_int_equal(out.status, 403);
    assert_int_equal(xml_parse(buf_view(&out.body), &XML_LIMITS_PROTECTED, &doc, NULL), REASON_OK);
    assert_int_equal(xmlsig_verify(doc, &policy, &w->ink[WHO_ALICE], &proof, NULL), REASON_OK);
    assert_true(has(&out, "<UserUri>" ALICE "</UserUri><KmsUri>kms.example.org</KmsUri>"));
    assert_true(has(&out, "<ClientReqUrl>" BASE V1 "/keyprov</ClientReqUrl><KmsError><ErrorCode>403</ErrorCode>"));
    assert_true(str_eq(w->j->decision.response.signed_by, STR("ink.1")));
    xml_free(doc);
    buf_free(&out.body);
}

static void test_not_signed(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.key = &w->stranger;
    struct gate_response out = refused(w, &a, REASON_SIGNATURE_INVALID);
    assert_true(has(&out, "<KmsResponse xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.0.0\"><UserUri>" ALICE));
    assert_false(has(&out, "Signature"));
    assert_null(w->j->decision.response.signed_by.p);
    buf_free(&out.body);
}

/* Who has no proof learns nothing about users and keys: byte for byte the same but for what he sent himself. */
static void test_oracles(void **state)
{
    struct world *w = *state;
    for (int detail = 0; detail < 2; detail++) {
        struct ask a = ask_of(w);
        w->rules.detail_reason = detail;
        a.key = &w->stranger;
        struct gate_response wrong = refused(w, &a, REASON_SIGNATURE_INVALID);
        a.key_id = "ink.unknown";
        a.fields.signature_id = str_z(a.key_id);
        struct gate_response unknown = refused(w, &a, REASON_KEY_UNKNOWN);
        assert_string_equal(unknown.body.p, wrong.body.p);
        assert_int_equal(unknown.status, wrong.status);
        buf_free(&unknown.body);
        a = ask_as(w, WHO_BOB);
        struct gate_response revoked = refused(w, &a, REASON_KEY_REVOKED);
        replace(&revoked.body, BOB, ALICE);
        assert_string_equal(revoked.body.p, wrong.body.p);
        buf_free(&revoked.body);
        a.fields.user_uri = STR("sip:nobody@example.org");
        struct gate_response nobody = refused(w, &a, REASON_KEY_UNKNOWN);
        replace(&nobody.body, "sip:nobody@example.org", ALICE);
        assert_string_equal(nobody.body.p, wrong.body.p);
        assert_int_equal(has(&wrong, "<ErrorMsg>signature.invalid</ErrorMsg>"), detail);
        buf_free(&nobody.body);
        buf_free(&wrong.body);
    }
    w->rules.detail_reason = false;
}

static void test_every_reason(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    for (enum reason r = REASON_OK + 1; r < REASON_COUNT; r++) {
        struct gate_response out = refuse(w, r, 0);
        char code[64];
        snprintf(code, sizeof code, "<ErrorCode>%d</ErrorCode>", reason_status(r));
        assert_int_equal(out.status, reason_status(r));
        assert_true(has(&out, code));
        assert_false(has(&out, reason_name(r)));
        buf_free(&out.body);
    }
    struct gate_response out = refuse(w, REASON_HTTP_TOO_LARGE, 431);
    assert_int_equal(out.status, 431);
    assert_true(has(&out, "<ErrorCode>431</ErrorCode>"));
    buf_free(&out.body);
}

static struct gate_response refuse_target(struct world *w, struct str target, enum reason due)
{
    const struct gate_head head = {.method = STR("POST"), .target = target};
    judgement_free(w->j);
    w->j = judgement_new(&w->gate, "x");
    assert_non_null(w->j);
    assert_int_equal(gate_head(w->j, &head), due);
    return refuse(w, due, 0);
}

/* Nothing but the target is known, which a stranger chose. */
static void test_targets(void **state)
{
    static const struct {
        struct str target;
        const char *url;
    } CASES[] = {
        {STR("/nothing"), BASE "/nothing"},
        {STR("/a?b=c&d"), BASE "/a?b=c&amp;d"},
        {STR("/a b\"<>"), BASE "/a%20b%22%3C%3E"},
        {STR("/%zz%4"), BASE "/%25zz%254"},
        {STR("/%41#[1]"), BASE "/%41%23%5B1%5D"},
        {STR("/\xff\x01\x7f"), BASE "/%FF%01%7F"},
        {STR("/a\0b"), BASE "/a%00b"},
        {STR("*"), BASE "*"},
        {STR(""), BASE},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct resource ignored;
        const enum reason due = resource_parse(CASES[i].target, &ignored, NULL);
        struct gate_response out = refuse_target(w, CASES[i].target, due);
        char url[256];
        snprintf(url, sizeof url, "<UserUri></UserUri><KmsUri>kms.example.org</KmsUri><Time>2026-11-18T11:06:40Z</Time>"
                                  "<ClientReqUrl>%s</ClientReqUrl>", CASES[i].url);
        if (!has(&out, url))
            fail_msg("%s is not in %s", url, out.body.p);
        buf_free(&out.body);
    }
}

static void test_before_anything_is_known(void **state)
{
    struct world *w = *state;
    judgement_free(w->j);
    w->j = judgement_new(&w->gate, "x");
    struct gate_response out = refuse(w, REASON_HTTP_FRAMING, 0);
    assert_int_equal(out.status, 400);
    assert_true(has(&out, "<ClientReqUrl>" BASE "</ClientReqUrl>"));
    buf_free(&out.body);
}

/* A claimed UserUri is given back where it is a URI, and cannot become anything else. */
static void test_claimed_users(void **state)
{
    static const struct {
        const char *user, *shown;
    } CASES[] = {
        {"sip:zoe@example.org", "sip:zoe@example.org"}, {"  sip:zoe@example.org ", "sip:zoe@example.org"},
        {"not a uri", ""},                              {"sip:a<b", ""},
        {"sip:%zz", ""},                                {"sip:a#b#c", ""},
        {"", ""},                                       {"sip:a&b", "sip:a&amp;b"},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct ask a = ask_of(w);
        char shown[64];
        a.key = &w->stranger;
        a.fields.user_uri = str_z(CASES[i].user);
        (void)!judge_ask(w, &a);
        struct gate_response out = refuse(w, REASON_SIGNATURE_INVALID, 0);
        snprintf(shown, sizeof shown, "<UserUri>%s</UserUri>", CASES[i].shown);
        if (!has(&out, shown))
            fail_msg("%s is not in %s", shown, out.body.p);
        buf_free(&out.body);
    }
}

/* A reply for what was never let through is a refusal. */
static void test_reply_without_request(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    struct gate_response out;
    const struct gate_upstream up = {200, STR("<a/>")};
    a.key = &w->stranger;
    assert_judged(w, &a, REASON_SIGNATURE_INVALID);
    assert_int_equal(gate_reply(w->j, &up, NOW, &out), REASON_INTERNAL);
    assert_int_equal(out.status, 500);
    buf_free(&out.body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_signed, fresh),       cmocka_unit_test_setup(test_not_signed, fresh),
        cmocka_unit_test_setup(test_oracles, fresh),      cmocka_unit_test_setup(test_every_reason, fresh),
        cmocka_unit_test_setup(test_targets, fresh),      cmocka_unit_test_setup(test_before_anything_is_known, fresh),
        cmocka_unit_test_setup(test_claimed_users, fresh), cmocka_unit_test_setup(test_reply_without_request, fresh),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
