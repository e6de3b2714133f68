/* What an upstream's answer becomes, and refusals: by the response rules, for proven and for other requesters. */
#include "judging.h"

#include "../message/replies.h"

struct story {
    struct world *w;
    struct response_rule rule;
    struct ask ask;
    struct buf text;     /* the upstream's */
    int status;
    struct gate_response out;
    enum reason reason;
};

static void begin(struct story *s, void **state, enum kms_message m, const char *resource)
{
    static char id[] = "default", kms_id[] = "kms-01";
    *s = (struct story){.w = *state, .status = 200};
    s->rule = (struct response_rule){.id = id, .kms_uri = FIELD_RULES, .kms_id = FIELD_RULES, .time = FIELD_NOW};
    s->w->rules.responses = &s->rule;
    s->w->rules.response_count = 1;
    s->w->rules.kms_id = kms_id;
    s->w->rules.detail_reason = false;
    s->ask = ask_of(s->w);
    static char url[256];
    snprintf(url, sizeof url, BASE "%s", resource);
    ask_at(&s->ask, resource, url);
    put_reply(&s->text, m);
}

static void as_unsigned(struct story *s)
{
    s->w->rule[0].accept = FORM_UNSIGNED;
    s->ask.key = NULL;
    s->ask.fields.signature_id = STR_MISSING;
}

static void answer(struct story *s)
{
    char device[32];
    static unsigned number;
    snprintf(device, sizeof device, "answered-%u", number++); /* never a replay */
    s->ask.fields.device_id = str_z(device);
    const enum reason judged = judge_ask(s->w, &s->ask);
    if (judged != REASON_OK)
        fail_msg("the request: %s", reason_name(judged));
    const struct gate_upstream up = {s->status, buf_view(&s->text)};
    buf_free(&s->out.body);
    s->reason = gate_reply(s->w->j, &up, NOW + 1, &s->out);
    assert_int_equal(s->w->j->decision.reason, s->reason);
    assert_int_equal(s->w->j->decision.status, s->out.status);
    assert_xsd_valid(buf_view(&s->out.body));
    assert_int_equal(kms_response_validate(buf_view(&s->out.body), false, NULL), REASON_OK);
    assert_null(strstr(s->out.body.p, "4711"));
}

static void end(struct story *s)
{
    buf_free(&s->text);
    buf_free(&s->out.body);
}

#define assert_answer(s, due_reason, due_status)              \
    do {                                                      \
        answer(s);                                            \
        if ((s)->reason != (due_reason))                      \
            fail_msg("%s", reason_name((s)->reason));         \
        assert_int_equal((s)->out.status, due_status);        \
    } while (0)

static bool holds(const struct story *s, const char *text)
{
    return strstr(s->out.body.p, text) != NULL;
}

struct got {
    const struct secret_key *trk;
    unsigned keys, wrapped;
    enum kms_message message;
    char user[64], kms_uri[64], url[128];
    int64_t code;
};

static bool got_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct got *g = arg;
    if (!str_eq(id, STR("trk.1")))
        return false;
    *out = *g->trk;
    return true;
}

static void got_key(void *arg, const struct kms_key_content *key)
{
    struct got *g = arg;
    const char which = key->n == RSK_OCTETS ? 'r' : key->n == PVT_OCTETS ? 'p' : 's';
    for (size_t i = 0; i < key->n; i++)
        assert_int_equal(key->octets[i], key_octet(which, i));
    g->keys++;
    g->wrapped += key->algorithm.p != NULL;
}

/* Opens it as the client would; `signer` NULL: it is bare. */
static struct got open_reply(const struct story *s, enum who who, const struct secret_key *signer)
{
    struct got g = {.trk = &s->w->trk[who]};
    struct xml_doc *doc = NULL;
    const struct xml_signed *proof = NULL;
    struct kms_response r;
    struct xmlsig_info info;
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    assert_int_equal(xml_parse(buf_view(&s->out.body), &XML_LIMITS_PROTECTED, &doc, NULL), REASON_OK);
    if (signer) {
        assert_int_equal(xmlsig_read(doc, &policy, &info, NULL), REASON_OK);
        assert_int_equal(xmlsig_verify(doc, &policy, signer, &proof, NULL), REASON_OK);
    }
    const struct kms_reader reader = {got_trk, got_key, NULL, &g};
    assert_int_equal(proof ? kms_response_open(proof, &reader, &r, NULL)
                           : kms_response_open_unsigned(doc, &reader, &r, NULL), REASON_OK);
    g.message = r.message;
    g.code = r.error_code;
    snprintf(g.user, sizeof g.user, "%.*s", (int)r.user_uri.n, r.user_uri.p ? r.user_uri.p : "");
    snprintf(g.kms_uri, sizeof g.kms_uri, "%.*s", (int)r.kms_uri.n, r.kms_uri.p ? r.kms_uri.p : "");
    snprintf(g.url, sizeof g.url, "%.*s", (int)r.client_req_url.n, r.client_req_url.p ? r.client_req_url.p : "");
    xml_free(doc);
    return g;
}

static const struct {
    enum kms_message message;
    const char *resource;
} OWED[] = {
    {KMS_MESSAGE_INIT, V1 "/init"},           {KMS_MESSAGE_KEYPROV, V1 "/keyprov"},
    {KMS_MESSAGE_CERTCACHE, V1 "/certcache"}, {KMS_MESSAGE_CERTCACHE, V1 "/cert/kms.other.example"},
    {KMS_MESSAGE_LOOKUP, V1 "/lookup/sip%3Abob%40example.org"}, {KMS_MESSAGE_NONE, V1 "/redirect"},
};
enum { OWED_COUNT = sizeof OWED / sizeof OWED[0] };

/* Each resource gets the message that it owes, or a KmsError, and no other. */
static void test_what_is_owed(void **state)
{
    for (size_t i = 0; i < OWED_COUNT; i++) {
        for (enum kms_message m = KMS_MESSAGE_NONE; m <= KMS_MESSAGE_ERROR; m++) {
            const bool good = m == OWED[i].message || m == KMS_MESSAGE_ERROR;
            struct story s;
            begin(&s, state, m, OWED[i].resource);
            assert_answer(&s, good ? REASON_OK : REASON_UPSTREAM_INVALID, good ? 200 : 502);
            const struct got g = open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
            assert_int_equal(g.message, good ? m : KMS_MESSAGE_ERROR);
            assert_string_equal(g.user, ALICE);
            assert_string_equal(g.kms_uri, "kms.example.org");
            assert_int_equal(g.wrapped, good && m == KMS_MESSAGE_KEYPROV ? 3 : 0);
            assert_int_equal(g.keys, g.wrapped);
            assert_true(holds(&s, "<KmsId>kms-01</KmsId>"));
            assert_null(strstr(s.out.body.p, "\n"));
            assert_no_clear_key(buf_view(&s.out.body));
            end(&s);
        }
    }
}

static void test_decision(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    assert_answer(&s, REASON_OK, 200);
    const struct decision *d = &s.w->j->decision;
    assert_string_equal(d->response.rule, "default");
    assert_string_equal(d->response.message, "KmsKeyProv");
    assert_true(str_eq(d->response.signed_by, STR("ink.1")));
    assert_true(str_eq(d->response.encrypted_by, STR("trk.1")));
    assert_int_equal(d->upstream.status, 200);
    end(&s);
}

static void test_statuses(void **state)
{
    static const struct {
        int status;
        enum reason reason;
        int out;
    } CASES[] = {
        {100, REASON_UPSTREAM_INVALID, 502}, {199, REASON_UPSTREAM_INVALID, 502}, {200, REASON_OK, 200},
        {201, REASON_OK, 200},               {299, REASON_OK, 200},               {300, REASON_UPSTREAM_INVALID, 502},
        {302, REASON_UPSTREAM_INVALID, 502}, {399, REASON_UPSTREAM_INVALID, 502}, {400, REASON_UPSTREAM_ERROR, 400},
        {401, REASON_UPSTREAM_ERROR, 401},   {404, REASON_UPSTREAM_ERROR, 404},   {500, REASON_UPSTREAM_ERROR, 500},
        {599, REASON_UPSTREAM_ERROR, 599},   {600, REASON_UPSTREAM_INVALID, 502}, {0, REASON_UPSTREAM_INVALID, 502},
        {204, REASON_UPSTREAM_INVALID, 502},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct story s;
        begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
        s.status = CASES[i].status;
        assert_answer(&s, CASES[i].reason, CASES[i].out);
        const struct got g = open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
        if (CASES[i].reason != REASON_OK)
            assert_int_equal(g.code, CASES[i].out);
        end(&s);
    }
}

static void test_empty_answers(void **state)
{
    for (size_t i = 0; i < OWED_COUNT; i++) {
        const bool good = OWED[i].message == KMS_MESSAGE_NONE;
        static const int statuses[] = {200, 202, 204};
        for (size_t k = 0; k < 3; k++) {
            struct story s;
            begin(&s, state, KMS_MESSAGE_NONE, OWED[i].resource);
            buf_reset(&s.text);
            s.status = statuses[k];
            assert_answer(&s, good ? REASON_OK : REASON_UPSTREAM_INVALID, good ? 200 : 502);
            assert_int_equal(open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]).message,
                             good ? KMS_MESSAGE_NONE : KMS_MESSAGE_ERROR);
            end(&s);
        }
    }
}

static void test_wrong_user(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    replace(&s.text, "<UserUri>" ALICE, "<UserUri>" BOB);
    assert_answer(&s, REASON_UPSTREAM_WRONG_USER, 502);
    end(&s);
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    replace(&s.text, "<UserUri>" ALICE "</UserUri><UserID>", "<UserUri>" BOB "</UserUri><UserID>");
    assert_answer(&s, REASON_UPSTREAM_WRONG_USER, 502);
    assert_no_clear_key(buf_view(&s.out.body));
    end(&s);
}

static void test_not_xml(void **state)
{
    static const char *const BODIES[] = {"oops: row 4711", "<html></html>", "<!DOCTYPE a><KmsResponse/>", " ", "{}"};
    for (size_t i = 0; i < sizeof BODIES / sizeof BODIES[0]; i++) {
        struct story s;
        begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
        buf_reset(&s.text);
        buf_z(&s.text, BODIES[i]);
        assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
        end(&s);
    }
}

static void test_error_of_the_kms(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_ERROR, V1 "/keyprov");
    assert_answer(&s, REASON_OK, 200);
    const struct got g = open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
    assert_int_equal(g.code, 17);
    end(&s);
}

/* First match decides; none is upstream.invalid. */
static void test_rules(void **state)
{
    static int two_hundred[] = {200};
    static char id[] = "everyone", other[] = "another";
    char *ids[] = {id}, *others[] = {other};
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    s.rule.match.messages = 1u << KMS_MESSAGE_KEYPROV;
    s.rule.match.status = two_hundred;
    s.rule.match.status_count = 1;
    s.rule.match.forms = FORM_SIGNED;
    s.rule.match.rule = (struct strings){ids, 1};
    assert_answer(&s, REASON_OK, 200);
    s.status = 201;
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    s.status = 500;
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    s.status = 200;
    s.rule.match.messages = 1u << KMS_MESSAGE_INIT;
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    s.rule.match.messages = 0;
    s.rule.match.forms = FORM_UNSIGNED | FORM_EMPTY;
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    s.rule.match.forms = 0;
    s.rule.match.rule = (struct strings){others, 1};
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    end(&s);
}

static void test_fields(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    s.rule.kms_uri = s.rule.kms_id = s.rule.time = s.rule.client_req_url = s.rule.user_uri = FIELD_KEEP;
    assert_answer(&s, REASON_OK, 200);
    assert_true(holds(&s,
                      "<UserUri>" ALICE "</UserUri><KmsUri>old.example.org</KmsUri><Time>2026-11-23T18:00:00Z</Time>"
                          "<KmsId>Old</KmsId><ClientReqUrl>http://old.example.org/</ClientReqUrl><KmsMessage>"));
    s.rule.kms_id = FIELD_REMOVE;
    assert_answer(&s, REASON_OK, 200);
    assert_false(holds(&s, "<KmsId>"));
    replace(&s.text, "<KmsUri>old.example.org</KmsUri>\n", "");
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    s.rule.kms_uri = FIELD_RULES;
    assert_answer(&s, REASON_OK, 200);
    end(&s);
}

static void test_encryption(void **state)
{
    static const struct {
        int content, when;
        bool names_trk, wrapped;
    } CASES[] = {
        {ENCRYPT_KEYS, WHEN_ALWAYS, true, true},     {ENCRYPT_KEYS, WHEN_ALWAYS, false, true},
        {ENCRYPT_KEYS, WHEN_REQUESTED, true, true},  {ENCRYPT_KEYS, WHEN_REQUESTED, false, false},
        {ENCRYPT_KEYS, WHEN_NEVER, true, false},     {ENCRYPT_NONE, WHEN_ALWAYS, true, false},
        {ENCRYPT_MESSAGE, WHEN_ALWAYS, false, true}, {ENCRYPT_MESSAGE, WHEN_REQUESTED, false, false},
        {ENCRYPT_MESSAGE, WHEN_REQUESTED, true, true},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct story s;
        begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
        s.rule.encrypt.content = CASES[i].content;
        s.rule.encrypt.when = CASES[i].when;
        if (!CASES[i].names_trk)
            s.ask.fields.trk_id = STR_MISSING;
        assert_answer(&s, REASON_OK, 200);
        const struct got g = open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
        assert_int_equal(g.keys, 3);
        assert_int_equal(g.wrapped, CASES[i].wrapped && CASES[i].content == ENCRYPT_KEYS ? 3 : 0);
        assert_int_equal(holds(&s, "<TrK-ID>trk.1</TrK-ID>"), CASES[i].wrapped);
        assert_int_equal(holds(&s, "EncryptedData"), CASES[i].wrapped && CASES[i].content == ENCRYPT_MESSAGE);
        if (CASES[i].wrapped)
            assert_no_clear_key(buf_view(&s.out.body));
        end(&s);
    }
}

/* Who is nobody has no TrK: no key content for him where one is due. */
static void test_without_trk(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    as_unsigned(&s);
    s.ask.fields.user_uri = STR("sip:nobody@example.org");
    s.ask.fields.trk_id = STR_MISSING;
    replace(&s.text, "<UserUri>" ALICE, "<UserUri>sip:nobody@example.org");
    replace(&s.text, "<UserUri>" ALICE, "<UserUri>sip:nobody@example.org");
    assert_answer(&s, REASON_PROTECT_NO_KEY, 500);
    assert_no_clear_key(buf_view(&s.out.body));
    s.rule.encrypt.when = WHEN_REQUESTED;
    assert_answer(&s, REASON_OK, 200);
    open_reply(&s, WHO_ALICE, NULL);
    s.ask.fields.trk_id = STR("trk.1");
    assert_answer(&s, REASON_PROTECT_NO_KEY, 500);
    end(&s);
    begin(&s, state, KMS_MESSAGE_INIT, V1 "/init"); /* no key content: none is needed */
    as_unsigned(&s);
    s.ask.fields.user_uri = STR("sip:nobody@example.org");
    replace(&s.text, "<UserUri>" ALICE, "<UserUri>sip:nobody@example.org");
    assert_answer(&s, REASON_OK, 200);
    s.rule.encrypt.content = ENCRYPT_MESSAGE;
    assert_answer(&s, REASON_PROTECT_NO_KEY, 500);
    end(&s);
}

static void test_signing(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    s.rule.sign = SIGN_NONE;
    assert_answer(&s, REASON_OK, 200);
    assert_int_equal(open_reply(&s, WHO_ALICE, NULL).wrapped, 3);
    assert_false(holds(&s, "Signature-ID"));
    as_unsigned(&s);
    s.rule.sign = SIGN_AUTO;
    assert_answer(&s, REASON_OK, 200);
    assert_int_equal(open_reply(&s, WHO_ALICE, NULL).wrapped, 3);
    s.rule.sign = SIGN_ALWAYS;
    assert_answer(&s, REASON_OK, 200);
    open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
    end(&s);
    begin(&s, state, KMS_MESSAGE_INIT, V1 "/init"); /* by TrK: carol never had an InK, dave's is expired */
    s.w->rule[0].accept = FORM_SIGNED;
    s.ask = ask_as(s.w, WHO_CAROL);
    ask_at(&s.ask, V1 "/init", BASE V1 "/init");
    replace(&s.text, ALICE, CAROL);
    assert_answer(&s, REASON_OK, 200);
    open_reply(&s, WHO_CAROL, &s.w->trk[WHO_CAROL]);
    as_unsigned(&s);
    s.rule.sign = SIGN_ALWAYS;
    assert_answer(&s, REASON_OK, 200);
    open_reply(&s, WHO_CAROL, &s.w->trk[WHO_CAROL]);
    s.ask.fields.user_uri = STR(DAVE);
    replace(&s.text, CAROL, DAVE);
    assert_answer(&s, REASON_PROTECT_NO_KEY, 500);
    end(&s);
}

/* Nobody is known: the upstream's UserUri stays, or nothing is sent. */
static void test_empty_requests(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_INIT, V1 "/init");
    s.w->rule[0].accept = FORM_EMPTY;
    s.ask.body = STR("");
    s.rule.sign = SIGN_ALWAYS;
    assert_answer(&s, REASON_OK, 200);
    const struct got g = open_reply(&s, WHO_ALICE, NULL);
    assert_string_equal(g.user, ALICE);
    assert_string_equal(g.url, BASE V1 "/init");
    replace(&s.text, "<UserUri>" ALICE "</UserUri>", "");
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    end(&s);
}

static void test_extensions(void **state)
{
    struct story s;
    begin(&s, state, KMS_MESSAGE_KEYPROV, V1 "/keyprov");
    replace(&s.text, "</KmsMessage>", "</KmsMessage><e xmlns=\"urn:x\">kept</e>");
    assert_answer(&s, REASON_OK, 200);
    assert_false(holds(&s, "kept"));
    s.rule.keep_extensions = true;
    assert_answer(&s, REASON_OK, 200);
    assert_true(holds(&s, "<e xmlns=\"urn:x\">kept</e></KmsResponse>"));
    open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
    /* its own form repeats a declaration that stands above it: what was written is not canonical, what is sent is */
    replace(&s.text, "<e xmlns=\"urn:x\">kept</e>", "<x:e xmlns:x=\"urn:x\">kept</x:e>");
    assert_answer(&s, REASON_OK, 200);
    assert_true(holds(&s, "<x:e xmlns:x=\"urn:x\">kept</x:e></KmsResponse>"));
    open_reply(&s, WHO_ALICE, &s.w->ink[WHO_ALICE]);
    replace(&s.text, ">kept<", "><UserSigningKeySSK/><");
    assert_answer(&s, REASON_UPSTREAM_INVALID, 502);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_what_is_owed, fresh),   cmocka_unit_test_setup(test_decision, fresh),
        cmocka_unit_test_setup(test_statuses, fresh),       cmocka_unit_test_setup(test_empty_answers, fresh),
        cmocka_unit_test_setup(test_wrong_user, fresh),     cmocka_unit_test_setup(test_not_xml, fresh),
        cmocka_unit_test_setup(test_error_of_the_kms, fresh), cmocka_unit_test_setup(test_rules, fresh),
        cmocka_unit_test_setup(test_fields, fresh),         cmocka_unit_test_setup(test_encryption, fresh),
        cmocka_unit_test_setup(test_without_trk, fresh),    cmocka_unit_test_setup(test_signing, fresh),
        cmocka_unit_test_setup(test_empty_requests, fresh), cmocka_unit_test_setup(test_extensions, fresh),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
