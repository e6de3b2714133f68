/* The order of judging, forms, modes, and what goes to the upstream. */
#include "judging.h"

static void unsigned_twin(struct ask *a)
{
    a->key = NULL;
    a->fields.signature_id = STR_MISSING;
    a->fields.trk_id = STR_MISSING;
}

static void test_head(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.method = "GET";
    assert_judged(w, &a, REASON_HTTP_METHOD);
    a.method = "post";
    assert_judged(w, &a, REASON_HTTP_METHOD);
    a.target = V1 "//keyprov"; /* method before path */
    assert_judged(w, &a, REASON_HTTP_METHOD);
    assert_true(str_eq_z(w->j->decision.path, V1 "//keyprov"));
    a.method = "POST";
    a.media = "text/plain"; /* path before media type */
    assert_judged(w, &a, REASON_HTTP_PATH);
    a.target = V1 "/nothing";
    assert_judged(w, &a, REASON_HTTP_RESOURCE);
    a.target = V1 "/keyprov";
    assert_judged(w, &a, REASON_HTTP_MEDIA_TYPE);
    a.media = "application/xml";
    a.encoded = true;
    assert_judged(w, &a, REASON_HTTP_MEDIA_TYPE);
    a.encoded = false;
    assert_judged(w, &a, REASON_OK);
}

static void test_media_types(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *media;
        bool good;
    } CASES[] = {
        {NULL, true},
        {"application/xml", true},
        {"text/xml", true},
        {"Application/XML", true},
        {"application/xml;charset=utf-8", true},
        {"application/xml; charset=UTF-8", true},
        {"application/xml ; Charset=\"utf-8\" ", true},
        {"application/xml;", true},
        {"", false},
        {"application/xml2", false},
        {"application/xm", false},
        {"application/soap+xml", false},
        {"application/json", false},
        {"application/xml, application/xml", false},
        {"application/xml;charset=utf-16", false},
        {"application/xml;charset=iso-8859-1", false},
        {"application/xml;charset=\"utf-8", false},
        {"application/xml;charset=", false},
        {"application/xml;charset", false},
        {"application/xml;charset='utf-8'", false},
        {"application/xml;charset=utf-8;charset=utf-8", false},
        {"application/xml;boundary=x", false},
        {"application/xml;charset=utf-8;boundary=x", false},
        {"application/xml;xcharset=utf-8", false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        a.media = CASES[i].media;
        const enum reason got = judge_ask(w, &a);
        if (got != (CASES[i].good ? REASON_OK : REASON_HTTP_MEDIA_TYPE))
            fail_msg("%s: %s", CASES[i].media, reason_name(got));
    }
}

static void test_xml_and_root(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *body;
        enum reason reason;
    } CASES[] = {
        {"hello", REASON_XML_MALFORMED},
        {" ", REASON_XML_MALFORMED},
        {"<!DOCTYPE a><a/>", REASON_XML_FORBIDDEN},
        {"<a/>", REASON_XML_INVALID},
        {"<KmsRequest/>", REASON_XML_INVALID},
        {"<KmsResponse xmlns='" NS_KMS "'/>", REASON_XML_INVALID},
        {"<SignedKmsRequest xmlns='" NS_KMS "'/>", REASON_XML_INVALID},
    };
    w->rules.request_count = 0; /* all that is before the rules */
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        a.body = str_z(CASES[i].body);
        assert_judged(w, &a, CASES[i].reason);
        assert_null(w->j->rule);
    }
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_RULE_NONE);
}

/* accept, form, what that is */
static void test_accept(void **state)
{
    struct world *w = *state;
    static const struct {
        unsigned accept;
        enum form form;
        enum reason reason;
    } CASES[] = {
        {FORM_SIGNED, FORM_SIGNED, REASON_OK},
        {FORM_SIGNED, FORM_UNSIGNED, REASON_SIGNATURE_MISSING},
        {FORM_SIGNED, FORM_EMPTY, REASON_SIGNATURE_MISSING},
        {FORM_UNSIGNED, FORM_SIGNED, REASON_RULE_FORM},
        {FORM_UNSIGNED, FORM_UNSIGNED, REASON_OK},
        {FORM_UNSIGNED, FORM_EMPTY, REASON_RULE_FORM},
        {FORM_EMPTY, FORM_EMPTY, REASON_OK},
        {FORM_EMPTY, FORM_UNSIGNED, REASON_RULE_FORM},
        {FORM_SIGNED | FORM_EMPTY, FORM_UNSIGNED, REASON_SIGNATURE_MISSING},
        {FORM_SIGNED | FORM_UNSIGNED, FORM_EMPTY, REASON_SIGNATURE_MISSING},
        {FORM_UNSIGNED | FORM_EMPTY, FORM_SIGNED, REASON_RULE_FORM},
        {FORM_SIGNED | FORM_UNSIGNED | FORM_EMPTY, FORM_EMPTY, REASON_OK},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        if (CASES[i].form != FORM_SIGNED)
            unsigned_twin(&a);
        if (CASES[i].form == FORM_EMPTY)
            a.body = STR("");
        w->rule[0].accept = CASES[i].accept;
        assert_judged(w, &a, CASES[i].reason);
        assert_int_equal(w->j->form, CASES[i].form);
        assert_int_equal(w->j->proven, CASES[i].form == FORM_SIGNED && CASES[i].reason == REASON_OK);
    }
}

/* shadow_accept lets a form pass and tells what accept alone would have refused it with; deny lets none pass. */
static void test_shadow_accept_and_deny(void **state)
{
    struct world *w = *state;
    static const struct {
        unsigned accept, shadow;
        enum form form;
        enum reason told;
    } CASES[] = {
        {FORM_SIGNED, FORM_UNSIGNED, FORM_UNSIGNED, REASON_SIGNATURE_MISSING},
        {FORM_SIGNED, FORM_EMPTY, FORM_EMPTY, REASON_SIGNATURE_MISSING},
        {FORM_UNSIGNED, FORM_EMPTY, FORM_EMPTY, REASON_RULE_FORM},
        {FORM_UNSIGNED, FORM_SIGNED, FORM_SIGNED, REASON_RULE_FORM},
        {FORM_SIGNED, FORM_UNSIGNED, FORM_SIGNED, REASON_OK},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        char client[] = "client-0";
        client[7] = (char)('0' + i); /* the same bytes twice would be a replay */
        a.fields.client_id = str_z(client);
        if (CASES[i].form != FORM_SIGNED)
            unsigned_twin(&a);
        if (CASES[i].form == FORM_EMPTY)
            a.body = STR("");
        w->rule[0].accept = CASES[i].accept;
        w->rule[0].shadow_accept = CASES[i].shadow;
        assert_judged(w, &a, REASON_OK);
        assert_int_equal(w->j->decision.shadow[SHADOW_FORM], CASES[i].told);
        w->rule[0].deny = true;
        assert_judged(w, &a, REASON_RULE_DENIED);
        assert_int_equal(w->j->decision.shadow[SHADOW_FORM], REASON_OK);
        w->rule[0].deny = false;
    }
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    a.body = STR("");
    w->rule[0].accept = FORM_SIGNED;
    w->rule[0].shadow_accept = FORM_UNSIGNED;
    assert_judged(w, &a, REASON_SIGNATURE_MISSING);
}

static void assert_checks(const struct world *w, const char *expected)
{
    static const char LETTERS[] = "?pfso-"; /* in the order of enum check_result */
    char got[CHECK_COUNT + 1] = {0};
    for (enum check c = 0; c < CHECK_COUNT; c++)
        got[c] = LETTERS[w->j->decision.checks[c]];
    assert_string_equal(got, expected);
}

static void test_what_forms_skip(void **state)
{
    struct world *w = *state;
    w->rule[0].accept = FORM_SIGNED | FORM_UNSIGNED | FORM_EMPTY;
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "p--pppp-");
    a.fields.kms_uri = STR("elsewhere");
    assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
    assert_checks(w, "p--fppp-");
    a = ask_of(w);
    a.body = STR("");
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "------p-");
    w->rule[0].checks.mode[CHECK_SIGNATURE] = MODE_OFF;
    w->rule[0].checks.mode[CHECK_REPLAY] = MODE_SHADOW;
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "-o----p-");
}

/* The user of what is unsigned: the body's, else the path's. */
static void test_the_user_of_the_unproven(void **state)
{
    struct world *w = *state;
    w->rule[0].accept = FORM_UNSIGNED | FORM_EMPTY;
    struct ask a = ask_of(w);
    ask_at(&a, V1 "/keyprov/sip%3Aalice%40example.org", BASE V1 "/keyprov/sip%3Aalice%40example.org");
    a.body = STR("");
    assert_judged(w, &a, REASON_OK);
    assert_true(str_eq_z(w->j->decision.user, ALICE));
    assert_false(w->j->decision.proven);
    assert_true(w->j->ring_loaded && keyring_find(&w->j->ring, STR("ink.1")));
    assert_null(w->j->signer);
    a.body = STR_MISSING;
    unsigned_twin(&a);
    assert_judged(w, &a, REASON_OK);
    a.fields.user_uri = STR(BOB);
    assert_judged(w, &a, REASON_PATH_USER_MISMATCH);
    assert_true(str_eq_z(w->j->decision.user, BOB));
    a = ask_of(w);
    a.body = STR("");
    assert_judged(w, &a, REASON_OK);
    assert_null(w->j->decision.user.p);
    assert_int_equal(w->j->ring.n, 0);
}

/* A request that fails everything, mended from the front: the first failure is the reason, the others are noted. */
static void test_the_first_failure_decides(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    ask_at(&a, V1 "/keyprov/sip:bob@example.org", BASE V1 "/init");
    a.fields.kms_uri = STR("elsewhere");
    a.fields.time = STR("2020-01-01T00:00:00Z");
    a.fields.signature_id = STR("ink.7");
    a.find = "client-1</ClientId>";
    a.put = "client-2</ClientId><ClientId/>";
    assert_judged(w, &a, REASON_XML_INVALID);
    assert_checks(w, "f-------");
    a.put = "client-2</ClientId>";
    assert_judged(w, &a, REASON_SIGNATURE_INVALID);
    assert_checks(w, "pf------");
    a.find = NULL;
    assert_judged(w, &a, REASON_KEY_POLICY);
    assert_checks(w, "ppfffff-");
    a.fields.signature_id = STR("ink.1");
    assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
    assert_checks(w, "pppffff-");
    a.fields.kms_uri = STR("kms.example.org");
    assert_judged(w, &a, REASON_TIME_STALE);
    assert_checks(w, "ppppfff-");
    a.fields.time = STR_MISSING;
    assert_judged(w, &a, REASON_CLIENT_REQ_URL_MISMATCH);
    assert_checks(w, "pppppff-");
    a.fields.client_req_url = STR(BASE V1 "/keyprov/sip:bob@example.org");
    assert_judged(w, &a, REASON_PATH_USER_MISMATCH);
    assert_checks(w, "ppppppf-");
    ask_at(&a, V1 "/keyprov", BASE V1 "/keyprov");
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "pppppppp");
    assert_judged(w, &a, REASON_REPLAY_SEEN);
    assert_checks(w, "pppppppf");
    assert_true(w->j->proven);
}

/* In shadow a failure is told and lets through; off it is not even looked at. */
static void test_shadow_and_off(void **state)
{
    struct world *w = *state;
    struct checks *c = &w->rule[0].checks;
    struct ask a = ask_of(w);
    a.fields.kms_uri = STR("elsewhere");
    a.fields.time = STR("2020-01-01T00:00:00Z");
    a.fields.client_req_url = STR(BASE V1 "/init");
    c->mode[CHECK_KMS_URI] = MODE_SHADOW;
    c->mode[CHECK_TIME] = MODE_OFF;
    assert_judged(w, &a, REASON_CLIENT_REQ_URL_MISMATCH);
    assert_checks(w, "pppsofp-");
    c->mode[CHECK_CLIENT_REQ_URL] = MODE_OFF;
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "pppsoopp");
    assert_int_equal(w->j->decision.shadow[CHECK_KMS_URI], REASON_KMS_URI_MISMATCH);
    assert_int_equal(w->j->decision.shadow[CHECK_TIME], REASON_OK);
    assert_true(w->j->decision.skew_us > 0); /* how far clocks differ is noted all the same */
    c->mode[CHECK_REPLAY] = MODE_SHADOW;
    assert_judged(w, &a, REASON_OK);
    assert_checks(w, "pppsoops");
    assert_int_equal(w->j->decision.shadow[CHECK_REPLAY], REASON_REPLAY_SEEN);
}

/* A schema in shadow must not take the enforced checks behind it along. */
static void test_a_failed_schema_in_shadow(void **state)
{
    struct world *w = *state;
    w->rule[0].checks.mode[CHECK_SCHEMA] = MODE_SHADOW;
    struct ask a = ask_of(w);
    a.fields.version = STR_MISSING;
    a.find = "<KmsRequest ";
    a.put = "<KmsRequest Extra=\"1\" ";
    assert_judged(w, &a, REASON_SIGNATURE_INVALID);
    assert_checks(w, "sf------");
    a = ask_of(w);
    a.fields.kms_uri = STR_MISSING;
    assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
    assert_checks(w, "sppfppp-");
}

/* With the signature in shadow or off it is verified quietly: proven if it holds, else replay learns nothing. */
static void test_signature_in_shadow_and_off(void **state)
{
    struct world *w = *state;
    for (enum mode mode = MODE_SHADOW; mode <= MODE_OFF; mode++) {
        w->rule[0].checks.mode[CHECK_SIGNATURE] = mode;
        const size_t before = replay_count(w->gate.replay);
        struct ask a = ask_of(w);
        assert_judged(w, &a, REASON_OK);
        assert_checks(w, mode == MODE_OFF ? "popppppp" : "pppppppp");
        assert_true(w->j->proven && w->j->decision.proven);
        assert_int_equal(replay_count(w->gate.replay), before + 1);
        assert_judged(w, &a, REASON_REPLAY_SEEN);
        a = ask_of(w);
        a.key = &w->stranger;
        assert_judged(w, &a, REASON_OK);
        assert_checks(w, mode == MODE_OFF ? "poppppp-" : "psppppp-");
        assert_false(w->j->proven || w->j->decision.proven);
        assert_null(w->j->signer);
        assert_int_equal(w->j->decision.shadow[CHECK_SIGNATURE],
                         mode == MODE_OFF ? REASON_OK : REASON_SIGNATURE_INVALID);
        assert_int_equal(replay_count(w->gate.replay), before + 1);
        assert_judged(w, &a, REASON_OK);
        a.key = &w->ink[WHO_ALICE];
        a.fields.kms_uri = STR("elsewhere"); /* everything else is still enforced */
        assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
    }
}

/* Whose keys a signature is held against is said by the message alone, never by the path. */
static void test_the_user_of_the_signed(void **state)
{
    struct world *w = *state;
    w->rule[0].checks.mode[CHECK_SCHEMA] = MODE_SHADOW;
    struct ask a = ask_of(w);
    ask_at(&a, V1 "/keyprov/sip:alice@example.org", BASE V1 "/keyprov/sip:alice@example.org");
    assert_judged(w, &a, REASON_OK);
    a = ask_of(w);
    ask_at(&a, V1 "/keyprov/sip:alice@example.org", BASE V1 "/keyprov/sip:alice@example.org");
    a.fields.user_uri = STR_MISSING;
    assert_judged(w, &a, REASON_KEY_UNKNOWN);
}

static void test_rules_choose_by_claims(void **state)
{
    struct world *w = *state;
    char alice[] = ALICE, *users[] = {alice};
    w->rules.request_count = 2;
    w->rule[0].match.user = (struct strings){users, 1};
    w->rule[0].accept = FORM_UNSIGNED;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_RULE_FORM);
    assert_string_equal(w->j->decision.rule, "everyone");
    a = ask_as(w, WHO_CAROL);
    assert_judged(w, &a, REASON_OK);
    assert_string_equal(w->j->decision.rule, "second");
    w->rule[0].match.user = (struct strings){0};
}

/* One judgement is for one request, and only for a head that was let through. */
static void test_one_judgement_one_request(void **state)
{
    struct world *w = *state;
    struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    ask_write(&a, &body);
    struct judgement *j = judgement_new(&w->gate, "id");
    assert_int_equal(gate_request(j, buf_view(&body), NOW), GATE_REFUSE);
    assert_int_equal(gate_forward(j, buf_view(&body), &out), REASON_INTERNAL);
    judgement_free(j);
    a.method = "GET";
    assert_int_equal(judge_text(w, &a, buf_view(&body)), REASON_HTTP_METHOD);
    assert_int_equal(gate_request(w->j, buf_view(&body), NOW), GATE_REFUSE);
    a.method = "POST";
    assert_int_equal(judge_text(w, &a, buf_view(&body)), REASON_OK);
    assert_int_equal(gate_request(w->j, buf_view(&body), NOW), GATE_REFUSE);
    assert_int_equal(w->j->decision.reason, REASON_INTERNAL);
    assert_int_equal(gate_forward(w->j, buf_view(&body), &out), REASON_INTERNAL);
    judgement_free(NULL);
}

static void test_forward_the_request(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR("as received"), &out), REASON_OK);
    assert_string_equal(out.method, "POST");
    assert_string_equal(out.content_type, "application/xml");
    assert_non_null(strstr(out.body.p, "<UserUri>" ALICE "</UserUri>"));
    assert_null(strstr(out.body.p, "TrK-ID"));
    assert_null(strstr(out.body.p, "Signature"));
    struct xml_doc *doc;
    assert_int_equal(xml_parse(buf_view(&out.body), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
    assert_int_equal(xml_root(doc), KMS_ROOT_REQUEST);
    xml_free(doc);
    gate_outgoing_free(&out);
}

static void test_other_bodies(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    w->rule[0].forward.body = FORWARD_SIGNED;
    assert_int_equal(gate_forward(w->j, STR("as received"), &out), REASON_OK);
    assert_string_equal(out.body.p, "as received");
    gate_outgoing_free(&out);
    w->rule[0].forward.body = FORWARD_EMPTY;
    assert_int_equal(gate_forward(w->j, STR("as received"), &out), REASON_OK);
    assert_int_equal(out.body.n, 0);
    assert_null(out.content_type);
    gate_outgoing_free(&out);
    w->rule[0].forward.body = FORWARD_REQUEST;
    w->rule[0].accept = FORM_EMPTY;
    a.body = STR("");
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_int_equal(out.body.n, 0);
    assert_null(out.content_type);
    gate_outgoing_free(&out);
}

static void assert_json(struct world *w, const char *expected)
{
    struct gate_outgoing out;
    assert_int_equal(gate_forward(w->j, STR("as received"), &out), REASON_OK);
    assert_string_equal(out.content_type, "application/json");
    assert_string_equal(out.body.p, expected);
    gate_outgoing_free(&out);
}

/* Who asks, as far as it is known; a client's text stays text. */
static void test_json(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    w->rule[0].forward.body = FORWARD_JSON;
    a.fields.client_id = STR("a\"},{\"UserUri\":\"sip:bob@example.org\\\n\xc2\xa7");
    assert_judged(w, &a, REASON_OK);
    assert_json(w, "{\"UserUri\":\"" ALICE "\",\"ClientId\":\"a\\\"},{\\\"UserUri\\\":\\\"sip:bob@example.org"
                   "\\\\\\n\xc2\xa7\"}");
    a = ask_of(w);
    a.fields.client_id = STR_MISSING;
    assert_judged(w, &a, REASON_OK);
    assert_json(w, "{\"UserUri\":\"" ALICE "\"}");
    w->rule[0].accept = FORM_EMPTY;
    a.body = STR("");
    assert_judged(w, &a, REASON_OK);
    assert_json(w, "{}");
    ask_at(&a, V1 "/keyprov/sip%3Abob%40example.org", "");
    assert_judged(w, &a, REASON_OK);
    assert_json(w, "{\"UserUri\":\"" BOB "\"}");
}

/* Nothing but an accepted request goes on. */
static void test_no_forward_without_acceptance(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    a.fields.kms_uri = STR("elsewhere");
    assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
    assert_int_equal(gate_forward(w->j, STR("x"), &out), REASON_INTERNAL);
    assert_int_equal(out.body.n + out.header_count, 0);
}

static const char *header(const struct gate_outgoing *out, const char *name)
{
    for (size_t i = 0; i < out->header_count; i++)
        if (str_eq_z(str_z(out->headers[i].name), name))
            return out->headers[i].value.p;
    return NULL;
}

static char NAMES[4][16] = {"X-User", "X-Rule", "X-Device", "X-Plain"};
static char VALUES[4][32] = {"{user}", "{rule}/{key_id}", "{device_id}", "{plain} {user"};
static struct header_rule HEADERS[4] = {{NAMES[0], VALUES[0]}, {NAMES[1], VALUES[1]}, {NAMES[2], VALUES[2]},
                                        {NAMES[3], VALUES[3]}};

static void test_headers(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    w->rule[0].forward.headers = HEADERS;
    w->rule[0].forward.header_count = 4;
    struct ask a = ask_of(w);
    a.fields.device_id = STR("radio-7");
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_string_equal(header(&out, "X-User"), ALICE);
    assert_string_equal(header(&out, "X-Rule"), "everyone/ink.1");
    assert_string_equal(header(&out, "X-Device"), "radio-7");
    assert_string_equal(header(&out, "X-Plain"), "{plain} {user");
    gate_outgoing_free(&out);
    a = ask_of(w);
    a.fields.client_id = STR("client-2");
    a.fields.device_id = STR_MISSING; /* an empty header says nothing: it is left out */
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_int_equal(out.header_count, 3);
    assert_null(header(&out, "X-Device"));
    gate_outgoing_free(&out);
}

/* A value cannot begin another header. */
static void test_injection_into_headers(void **state)
{
    struct world *w = *state;
    static const char *const BAD[] = {"a\nX-User: sip:bob", "a\tb", "\xc2\x85"};
    struct gate_outgoing out;
    w->rule[0].forward.headers = HEADERS;
    w->rule[0].forward.header_count = 4;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct ask a = ask_of(w);
        a.fields.client_id = STR("client-3");
        a.fields.device_id = str_z(BAD[i]);
        assert_judged(w, &a, REASON_XML_INVALID);
        assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_INTERNAL);
        assert_int_equal(out.header_count, 0);
    }
}

/* Servers trim: what stands around a value would be gone there. Inside it is the value's own. */
static void test_space_around_values(void **state)
{
    struct world *w = *state;
    static const char *const BAD[] = {" radio", "radio ", "\xc2\xa0radio", "radio\xe3\x80\x80", "\xe2\x80\xaf radio",
                                      "radio\xef\xbb\xbf", "\xe2\x80\xa8radio", " "};
    struct gate_outgoing out;
    w->rule[0].forward.headers = HEADERS;
    w->rule[0].forward.header_count = 4;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct ask a = ask_of(w);
        a.fields.client_id = STR("client-4");
        a.fields.device_id = str_z(BAD[i]);
        assert_judged(w, &a, REASON_XML_INVALID);
        w->rule[0].forward.header_count = 0; /* where no header takes it, it is the upstream's matter */
        assert_judged(w, &a, REASON_OK);
        w->rule[0].forward.header_count = 4;
    }
    struct ask a = ask_of(w);
    a.fields.device_id = STR("a radio");
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_string_equal(header(&out, "X-Device"), "a radio");
    gate_outgoing_free(&out);
}

/* What an older KMS would read otherwise is refused in every mode of `schema`; what bears no such name passes. */
static void test_twins_of_elements(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *put; /* behind all else */
        enum reason enforced, shadow;
    } CASES[] = {
        {"<v:x xmlns:v=\"urn:v\"><v:y>1</v:y></v:x>", REASON_OK, REASON_OK},
        {"<v:UserUri xmlns:v=\"urn:v\">" BOB "</v:UserUri>", REASON_XML_INVALID, REASON_XML_INVALID},
        {"<v:x xmlns:v=\"urn:v\"><v:a><v:UserUri>" BOB "</v:UserUri></v:a></v:x>", REASON_XML_INVALID,
         REASON_XML_INVALID},
        {"<v:x xmlns:v=\"urn:v\"><UserUri xmlns=\"\">" BOB "</UserUri></v:x>", REASON_XML_INVALID, REASON_XML_INVALID},
        {"<v:KmsRequest xmlns:v=\"urn:v\"/>", REASON_XML_INVALID, REASON_XML_INVALID},
        {"<k:KmsUri xmlns:k=\"" NS_KRR "\">kms.example.org</k:KmsUri>", REASON_XML_INVALID, REASON_XML_INVALID},
        {"<UserUri>" BOB "</UserUri>", REASON_XML_INVALID, REASON_XML_INVALID},
        {"<ClientError><UserUri>" BOB "</UserUri></ClientError>", REASON_XML_INVALID, REASON_XML_INVALID},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        char put[400];
        snprintf(put, sizeof put, "%s</KmsRequest>", CASES[i].put);
        unsigned_twin(&a);
        a.find = "</KmsRequest>";
        a.put = put;
        w->rule[0].accept = FORM_UNSIGNED;
        w->rule[0].checks.mode[CHECK_SCHEMA] = MODE_ENFORCE;
        assert_judged(w, &a, CASES[i].enforced);
        w->rule[0].checks.mode[CHECK_SCHEMA] = MODE_SHADOW;
        assert_judged(w, &a, CASES[i].shadow);
        w->rule[0].checks.mode[CHECK_SCHEMA] = MODE_OFF;
        assert_judged(w, &a, CASES[i].shadow);
    }
}

/* Without a zone, Time is what the zone's clocks show: also where they show it twice, and never. */
static void test_zones(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *now, *time;
        enum reason reason;
    } CASES[] = {
        {"2026-07-01T10:00:00Z", "2026-07-01T12:00:00", REASON_OK},
        {"2026-07-01T10:00:00Z", "2026-07-01T11:00:00", REASON_TIME_STALE},
        {"2026-12-01T11:00:00Z", "2026-12-01T12:00:00", REASON_OK},
        {"2026-10-25T00:30:00Z", "2026-10-25T02:30:00", REASON_OK}, /* the first time */
        {"2026-10-25T01:30:00Z", "2026-10-25T02:30:00", REASON_OK}, /* the second */
        {"2026-10-25T01:00:00Z", "2026-10-25T02:30:00", REASON_TIME_STALE},
        {"2026-03-29T01:30:00Z", "2026-03-29T02:30:00", REASON_TIME_ZONE},
        {"2026-03-29T01:30:00Z", "2026-03-29T03:30:00", REASON_OK},
        {"2026-07-01T10:00:00Z", "2026-07-01T10:00:00Z", REASON_OK}, /* its own zone wins */
    };
    struct checks *c = &w->rule[0].checks;
    w->rule[0].accept = FORM_UNSIGNED;
    c->zone = zone_load(STR("Europe/Paris"), &(bool){false});
    char name[] = "Europe/Paris";
    c->zone_name = name;
    assert_non_null(c->zone);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        bool has_zone;
        unsigned_twin(&a);
        assert_true(time_parse(str_z(CASES[i].now), &a.now_us, &has_zone));
        a.fields.time = str_z(CASES[i].time);
        assert_judged(w, &a, CASES[i].reason);
    }
    zone_free(c->zone);
    c->zone = NULL;
    c->zone_name = NULL;
}

/* A list of redirect responses is long: it has caps of its own, and only where it belongs. */
static void test_caps_of_redirect(void **state)
{
    enum { RESPONSES = 300, ROOM = 64 };
    struct world *w = *state;
    static char put[RESPONSES * ROOM + 100];
    size_t n = (size_t)snprintf(put, sizeof put, "<KrrList>");
    for (int i = 0; i < RESPONSES; i++)
        n += (size_t)snprintf(put + n, sizeof put - n, "<k:R xmlns:k=\"" NS_KRR "\"/>");
    snprintf(put + n, sizeof put - n, "</KrrList></KmsRequest>");
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    a.find = "</KmsRequest>";
    a.put = put;
    w->rule[0].accept = FORM_UNSIGNED;
    w->rule[0].checks.mode[CHECK_CLIENT_REQ_URL] = MODE_OFF;
    assert_judged(w, &a, REASON_XML_FORBIDDEN);
    ask_at(&a, V1 "/redirect", BASE V1 "/redirect");
    assert_judged(w, &a, REASON_OK);
}

/* What is passed on as it came may hold no attribute that could be taken for Id or Version; else none goes on. */
static void test_foreign_attributes(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    a.find = "<KmsRequest ";
    a.put = "<KmsRequest xmlns:v=\"urn:v\" v:Version=\"9\" xml:lang=\"en\" v:tag=\"1\" ";
    w->rule[0].accept = FORM_UNSIGNED;
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_null(strstr(out.body.p, "v:"));
    assert_null(strstr(out.body.p, "lang"));
    assert_non_null(strstr(out.body.p, " Version=\"1.1.0\""));
    gate_outgoing_free(&out);
    w->rule[0].forward.body = FORWARD_SIGNED;
    assert_judged(w, &a, REASON_XML_INVALID);
    a.put = "<KmsRequest xmlns:v=\"urn:v\" v:tag=\"1\" ";
    assert_judged(w, &a, REASON_OK);
}

/* Extensions go on, or all of them stay behind; a KrrList is none. */
static void test_dropped_extensions(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    a.find = "</KmsRequest>";
    a.put = "<ClientError><ErrorCode>1</ErrorCode><ErrorMsg/><v:e xmlns:v=\"urn:v\"/></ClientError>"
            "<v:x xmlns:v=\"urn:v\"><v:y>text</v:y></v:x></KmsRequest>";
    w->rule[0].accept = FORM_UNSIGNED;
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_non_null(strstr(out.body.p, "<v:y>text</v:y>"));
    assert_non_null(strstr(out.body.p, "<v:e "));
    gate_outgoing_free(&out);
    w->rule[0].forward.drop_extensions = true;
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_null(strstr(out.body.p, "v:"));
    assert_null(strstr(out.body.p, "text"));
    assert_non_null(strstr(out.body.p, "<ErrorMsg></ErrorMsg></ClientError></KmsRequest>"));
    gate_outgoing_free(&out);
}

/* Beside other text a value cannot look like that text. */
static void test_composed_values(void **state)
{
    struct world *w = *state;
    char name[] = "X-Both", value[] = "user={user};device=\"{device_id}\"";
    struct header_rule both = {name, value};
    struct gate_outgoing out;
    w->rule[0].forward.headers = &both;
    w->rule[0].forward.header_count = 1;
    struct ask a = ask_of(w);
    a.fields.device_id = STR("7\";user=sip:bob, %\xc3\xa9");
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_string_equal(header(&out, "X-Both"),
                        "user=" ALICE ";device=\"7%22%3Buser%3Dsip:bob%2C%20%25%C3%A9\"");
    gate_outgoing_free(&out);
}

static void test_headers_of_the_unproven(void **state)
{
    struct world *w = *state;
    struct gate_outgoing out;
    w->rule[0].forward.headers = HEADERS;
    w->rule[0].forward.header_count = 2;
    w->rule[0].accept = FORM_UNSIGNED;
    struct ask a = ask_of(w);
    unsigned_twin(&a);
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_INTERNAL);
    w->rule[0].forward.assert_unproven = true;
    assert_int_equal(gate_forward(w->j, STR(""), &out), REASON_OK);
    assert_string_equal(header(&out, "X-User"), ALICE);
    assert_string_equal(header(&out, "X-Rule"), "everyone/");
    gate_outgoing_free(&out);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup(f, fresh)
    const struct CMUnitTest tests[] = {
        CASE(test_head),
        CASE(test_media_types),
        CASE(test_xml_and_root),
        CASE(test_accept),
        CASE(test_shadow_accept_and_deny),
        CASE(test_what_forms_skip),
        CASE(test_the_user_of_the_unproven),
        CASE(test_the_first_failure_decides),
        CASE(test_shadow_and_off),
        CASE(test_a_failed_schema_in_shadow),
        CASE(test_signature_in_shadow_and_off),
        CASE(test_the_user_of_the_signed),
        CASE(test_rules_choose_by_claims),
        CASE(test_one_judgement_one_request),
        CASE(test_forward_the_request),
        CASE(test_other_bodies),
        CASE(test_json),
        CASE(test_no_forward_without_acceptance),
        CASE(test_headers),
        CASE(test_injection_into_headers),
        CASE(test_space_around_values),
        CASE(test_composed_values),
        CASE(test_twins_of_elements),
        CASE(test_foreign_attributes),
        CASE(test_zones),
        CASE(test_caps_of_redirect),
        CASE(test_dropped_extensions),
        CASE(test_headers_of_the_unproven),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
