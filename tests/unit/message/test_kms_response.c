/* A reply written anew: order, types, keys wrapped, whole messages encrypted; opened by a client; looked at once
 * more. */
#include "fixture.h"
#include "replies.h"

#define TRK_ID STR("trk.1.alice")
#define INK_ID STR("ink.1.alice")

static struct kms_response_plan plan_of(struct xmlenc *enc)
{
    return (struct kms_response_plan){.user_uri = STR(REPLY_USER), .kms_uri = STR("kms.example.org"),
                                      .time = STR("2026-11-23T18:00:01Z"), .kms_id = STR("kms-01"),
                                      .client_req_url = STR("https://kms.example.org/?a=1&b=2"),
                                      .protect = PROTECT_KEYS, .enc = enc, .trk_id = TRK_ID};
}

/* Reads `text` and writes it by the plan. */
static enum reason rewrite(struct str text, const struct kms_response_plan *plan, struct buf *out, bool *encrypted)
{
    struct xml_doc *doc = NULL;
    struct kms_response r;
    struct detail why = {""};
    *out = BUF_INIT(REPLY_MAX);
    enum reason reason = xml_parse(text, &XML_LIMITS_PROTECTED, &doc, &why);
    if (reason == REASON_OK)
        reason = kms_response_read(doc, STR(REPLY_USER), STR_MISSING, &r, &why);
    assert_int_equal(reason, REASON_OK);
    reason = kms_response_write(&r, plan, out, encrypted, &why);
    xml_free(doc);
    return reason;
}

struct found {
    unsigned n;
    char names[16][32];
    bool wrapped, other_octets;
    const struct secret_key *trk;
};

static bool give_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct found *f = arg;
    if (!str_eq(id, TRK_ID) || !f->trk)
        return false;
    *out = *f->trk;
    return true;
}

static void note_key(void *arg, const struct kms_key_content *key)
{
    struct found *f = arg;
    assert_true(f->n < 16);
    snprintf(f->names[f->n++], sizeof f->names[0], "%.*s", STR_FMT(key->element));
    f->wrapped = key->algorithm.p != NULL;
    const char which = str_eq(key->element, STR("UserDecryptKey")) ? 'r'
                       : str_eq(key->element, STR("UserPubTokenPVT")) ? 'p' : 's';
    for (size_t i = 0; i < key->n; i++)
        f->other_octets |= key->octets[i] != key_octet(which, i);
}

static enum reason open_text(struct str text, struct found *f, struct kms_response *r)
{
    struct xml_doc *doc = NULL;
    const struct xml_signed *proof = NULL;
    struct detail why = {""};
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    const struct secret_key ink = key_of(ALICE_INK);
    enum reason reason = xml_parse(text, &XML_LIMITS_PROTECTED, &doc, &why);
    if (reason == REASON_OK && xml_root(doc) == KMS_ROOT_SIGNED_RESPONSE)
        reason = xmlsig_verify(doc, &policy, &ink, &proof, &why);
    const struct kms_reader reader = {give_trk, note_key, NULL, f};
    if (reason == REASON_OK)
        reason = proof ? kms_response_open(proof, &reader, r, &why)
                       : kms_response_open_unsigned(doc, &reader, r, &why);
    xml_free(doc);
    return reason;
}

static void test_every_message(void **state)
{
    (void)state;
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    for (enum kms_message m = KMS_MESSAGE_NONE; m < KMS_MESSAGE_ERROR; m++) {
        for (int protect = PROTECT_NONE; protect <= PROTECT_MESSAGE; protect++) {
            struct kms_response_plan plan = plan_of(enc);
            struct found found = {.trk = &trk};
            struct kms_response r;
            struct buf text, out;
            bool encrypted;
            plan.protect = protect;
            put_reply(&text, m);
            assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_OK);
            assert_xsd_valid(buf_view(&out));
            assert_int_equal(kms_response_validate(buf_view(&out), protect != PROTECT_NONE, NULL), REASON_OK);
            assert_int_equal(encrypted, (protect == PROTECT_KEYS && m == KMS_MESSAGE_KEYPROV) ||
                                            (protect == PROTECT_MESSAGE && m != KMS_MESSAGE_NONE));
            assert_int_equal(strstr(out.p, "<TrK-ID>") != NULL, encrypted);
            assert_int_equal(open_text(buf_view(&out), &found, &r), REASON_OK);
            assert_int_equal(r.message, m);
            assert_int_equal(found.n, m == KMS_MESSAGE_KEYPROV ? 3 : 0);
            assert_false(found.other_octets);
            if (protect != PROTECT_NONE)
                assert_no_clear_key(buf_view(&out));
            buf_free(&text);
            buf_free(&out);
        }
    }
    xmlenc_free(enc);
}

static void test_an_error_instead(void **state)
{
    (void)state;
    struct kms_response_plan plan = plan_of(NULL);
    struct buf out = BUF_INIT(REPLY_MAX);
    bool encrypted;
    struct found found = {0};
    struct kms_response r;
    plan.error_code = -17;
    plan.error_msg = STR("a <b> & c");
    plan.user_uri = STR("");
    assert_int_equal(kms_response_write(NULL, &plan, &out, &encrypted, NULL), REASON_OK);
    assert_xsd_valid(buf_view(&out));
    assert_int_equal(kms_response_validate(buf_view(&out), true, NULL), REASON_OK);
    assert_int_equal(open_text(buf_view(&out), &found, &r), REASON_OK);
    assert_int_equal(r.message, KMS_MESSAGE_ERROR);
    assert_int_equal(r.error_code, -17);
    buf_free(&out);
}

static void test_keys_that_come_encrypted(void **state)
{
    (void)state;
    const struct secret_key trk = key_of(ALICE_TRK), other = key_of(ALICE_INK);
    struct xmlenc *enc = xmlenc_new(&trk, STR("old")), *plan_enc = xmlenc_new(&trk, TRK_ID);
    struct xmlenc *stranger = xmlenc_new(&other, TRK_ID);
    struct kms_response_plan plan = plan_of(enc);
    struct buf text, once, again;
    bool encrypted;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    plan.trk_id = STR("old");
    assert_int_equal(rewrite(buf_view(&text), &plan, &once, &encrypted), REASON_OK);

    plan = plan_of(plan_enc);
    plan.protect = PROTECT_NONE; /* what came encrypted stays so */
    assert_int_equal(rewrite(buf_view(&once), &plan, &again, &encrypted), REASON_OK);
    assert_true(encrypted);
    assert_no_clear_key(buf_view(&again));
    assert_int_equal(kms_response_validate(buf_view(&again), true, NULL), REASON_OK);
    buf_free(&again);

    plan.enc = stranger;
    assert_int_equal(rewrite(buf_view(&once), &plan, &again, &encrypted), REASON_UPSTREAM_INVALID);
    buf_free(&again);
    plan.enc = NULL;
    assert_int_equal(rewrite(buf_view(&once), &plan, &again, &encrypted), REASON_UPSTREAM_INVALID);
    buf_free(&again);
    buf_free(&once);
    buf_free(&text);
    xmlenc_free(enc);
    xmlenc_free(plan_enc);
    xmlenc_free(stranger);
}

/* A new TrK or InK never leaves in clear, whatever the rule says. */
static void test_new_keys(void **state)
{
    (void)state;
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    for (enum kms_message m = KMS_MESSAGE_INIT; m <= KMS_MESSAGE_KEYPROV; m++) {
        struct kms_response_plan plan = plan_of(enc);
        struct found found = {.trk = &trk};
        struct kms_response r;
        struct buf text, out, keys = BUF_INIT(4096);
        bool encrypted;
        put_hex(&keys, "NewTransportKey", 's', SSK_OCTETS);
        put_hex(&keys, "NewIntegrityKey", 's', SSK_OCTETS);
        buf_z(&keys, m == KMS_MESSAGE_INIT ? "</KmsInit>" : "</KmsKeyProv>");
        put_reply(&text, m);
        replace(&text, m == KMS_MESSAGE_INIT ? "</KmsInit>" : "</KmsKeyProv>", keys.p);
        plan.protect = PROTECT_NONE;
        assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_OK);
        assert_true(encrypted);
        assert_xsd_valid(buf_view(&out));
        assert_non_null(strstr(out.p, m == KMS_MESSAGE_INIT ? "\"KmsInitTkIkType\"" : "\"KmsKeyProvTkIkType\""));
        assert_int_equal(kms_response_validate(buf_view(&out), m == KMS_MESSAGE_INIT, NULL), REASON_OK);
        assert_int_equal(open_text(buf_view(&out), &found, &r), REASON_OK);
        assert_int_equal(found.n, m == KMS_MESSAGE_INIT ? 2 : 5);
        assert_false(found.other_octets);
        buf_free(&out);
        plan.enc = NULL;
        assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_PROTECT_NO_KEY);
        buf_free(&out);
        buf_free(&keys);
        buf_free(&text);
    }
    xmlenc_free(enc);
}

static void test_wrap_by_rule(void **state)
{
    (void)state;
    static const enum reason expected[] = {[KEY_WRAP_AUTO] = REASON_OK, [KEY_WRAP_KW] = REASON_INTERNAL,
                                           [KEY_WRAP_KWP] = REASON_OK, [KEY_WRAP_GCM] = REASON_OK};
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    for (enum key_wrap wrap = KEY_WRAP_AUTO; wrap <= KEY_WRAP_GCM; wrap++) {
        struct kms_response_plan plan = plan_of(enc);
        struct found found = {.trk = &trk};
        struct kms_response r;
        struct buf text, out;
        bool encrypted;
        plan.wrap = wrap;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), expected[wrap]);
        if (expected[wrap] == REASON_OK) {
            assert_xsd_valid(buf_view(&out));
            assert_int_equal(open_text(buf_view(&out), &found, &r), REASON_OK);
            assert_int_equal(found.n, 3);
        }
        buf_free(&out);
        buf_free(&text);
    }
    xmlenc_free(enc);
}

static void test_extensions(void **state)
{
    (void)state;
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    struct kms_response_plan plan = plan_of(enc);
    struct buf text, out;
    bool encrypted;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace(&text, "</KmsMessage>", "</KmsMessage><x:e xmlns:x=\"urn:x\" a=\"1\"><x:f>kept</x:f></x:e>");
    replace(&text, "</KmsKeyProv>", "<y xmlns=\"urn:y\">as well</y></KmsKeyProv>");
    assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_OK);
    assert_null(strstr(out.p, "kept"));
    assert_null(strstr(out.p, "as well"));
    buf_free(&out);
    plan.keep_extensions = true;
    assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_OK);
    assert_xsd_valid(buf_view(&out));
    assert_int_equal(kms_response_validate(buf_view(&out), true, NULL), REASON_OK);
    assert_non_null(strstr(out.p, "<x:f>kept</x:f></x:e></KmsResponse>"));
    assert_non_null(strstr(out.p, ">as well</y></KmsKeyProv>"));
    buf_free(&out);
    buf_free(&text);
    xmlenc_free(enc);
}

/* What a client holds: replies of other implementations, with nine keys each. */
/* Of the texts that are not passed on the first is told, and only that. */
static void test_first_text_left_out(void **state)
{
    struct buf in = BUF_INIT(REPLY_MAX), out;
    struct xmlenc *enc = xmlenc_new(&(struct secret_key){{1}}, TRK_ID);
    struct detail left_out = {""};
    struct kms_response_plan plan = plan_of(enc);
    bool encrypted;
    (void)state;
    plan.left_out = &left_out;
    buf_z(&in, REPLY_HEAD "<KmsMessage><KmsKeyProv Version=\"1.0.0\">");
    put_key_set(&in);
    put_key_set(&in);
    buf_z(&in, "</KmsKeyProv></KmsMessage>" REPLY_END);
    replace(&in, "An &amp; Issuer", "Issuer; one");
    assert_int_equal(rewrite(buf_view(&in), &plan, &out, &encrypted), REASON_OK);
    assert_non_null(strstr(left_out.text, "Issuer: found another character at octet 6, expected"));
    assert_null(strstr(out.p, "Issuer"));
    buf_free(&out);
    buf_free(&in);
    xmlenc_free(enc);
}

static void test_published_replies(void **state)
{
    (void)state;
    static const char *const files[] = {"cases/vectors/reply-santuario.xml", "cases/vectors/reply-xml-crypto.xml"};
    const struct secret_key trk = key_of(ALICE_TRK), other = key_of(ALICE_INK);
    for (size_t i = 0; i < 2; i++) {
        struct found found = {.trk = &trk};
        struct kms_response r;
        struct buf text;
        read_case(files[i], &text);
        assert_int_equal(open_text(buf_view(&text), &found, &r), REASON_OK);
        assert_int_equal(found.n, 9);
        assert_true(found.wrapped);
        assert_string_equal(found.names[0], "UserDecryptKey");
        found.n = 0;
        found.trk = NULL;
        assert_int_equal(open_text(buf_view(&text), &found, &r), REASON_KEY_UNKNOWN);
        found.trk = &other;
        assert_int_equal(open_text(buf_view(&text), &found, &r), REASON_UPSTREAM_INVALID);
        assert_int_equal(found.n, 0);
        buf_free(&text);
    }
}

/* The last look: each fault is one change of a text that passes. */
static void test_validate(void **state)
{
    (void)state;
    static const struct {
        const char *find, *put;
    } FAULTS[] = {
        {"Id=\"xmldoc\"", "Id=\"xmldoc2\""},
        {"Version=\"1.0.0\"><UserUri>", "Version=\"1.1.0\"><UserUri>"},
        {"<KmsKeySet Id=\"set\" Version=\"1.1.0\">", "<KmsKeySet Version=\"1.0.0\">"},
        {"<KmsKeySet Id=\"set\" Version=\"1.1.0\">", "<KmsKeySet>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId> "},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId>x"},
        {"<KmsId>kms-01</KmsId><ClientReqUrl>https://kms.example.org/?a=1&amp;b=2</ClientReqUrl>",
         "<ClientReqUrl>https://kms.example.org/</ClientReqUrl><KmsId>kms-01</KmsId>"},
        {"<KmsId>", "<KmsId2>x</KmsId2><KmsId>"},
        {"<TrK-ID>trk.1.alice</TrK-ID>", ""},
        {"<TrK-ID>trk.1.alice</TrK-ID>", "<TrK-ID>trk.2.alice</TrK-ID>"},
        {"<Signature-ID>ink.1.alice</Signature-ID>", ""},
        {"<Signature-ID>ink.1.alice</Signature-ID>", "<Signature-ID>ink.2.alice</Signature-ID>"},
        {"<UserSigningKeySSK xsi:type=\"EncKeyContentType\">", "<UserSigningKeySSK>"},
        {"<ds:KeyName>trk.1.alice", "<ds:KeyName>trk.2.alice"},
        {"#kw-aes256", "#kw-aes128"},
        {"</KmsResponse>", "<KmsId>kms-01</KmsId></KmsResponse>"},
        {"</KmsResponse><Signature", "</KmsResponse><KmsResponse xmlns=\"" NS_KMS "\"/><Signature"},
        {"xmldsig-more#hmac-sha256", "xmldsig-more#hmac-sha224"},
        {"<SignedKmsResponse ", "<SignedKmsResponse Id=\"xmldoc\" "},
        {"UserSigningKeySSK>", "UserSigningKeyssk>"},
    };
    const struct secret_key trk = key_of(ALICE_TRK), ink = key_of(ALICE_INK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    struct kms_response_plan plan = plan_of(enc);
    struct buf text, payload, good = BUF_INIT(REPLY_MAX);
    bool encrypted;
    plan.signature_id = INK_ID;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    assert_int_equal(rewrite(buf_view(&text), &plan, &payload, &encrypted), REASON_OK);
    assert_true(xmlsig_sign(buf_view(&payload), INK_ID, &ink, &good));
    assert_xsd_valid(buf_view(&good));
    assert_int_equal(kms_response_validate(buf_view(&good), true, NULL), REASON_OK);
    for (size_t i = 0; i < sizeof FAULTS / sizeof FAULTS[0]; i++) {
        struct buf bad = BUF_INIT(REPLY_MAX);
        struct detail why = {""};
        buf_str(&bad, buf_view(&good));
        replace(&bad, FAULTS[i].find, FAULTS[i].put);
        const enum reason r = kms_response_validate(buf_view(&bad), true, &why);
        /* white space does no harm to the schema: the writer makes none */
        const enum reason due = strcmp(FAULTS[i].put, "<KmsId>kms-01</KmsId> ") == 0
            ? REASON_OK : REASON_UPSTREAM_INVALID;
        if (r != due)
            fail_msg("%s -> %s: %s", FAULTS[i].find, FAULTS[i].put, reason_name(r));
        buf_free(&bad);
    }
    buf_free(&good);
    buf_free(&payload);
    buf_free(&text);
    xmlenc_free(enc);
}

/* Signed unread, the last look tells whether that holds: each text that is not canonical beside one that is. */
static void test_signed_unread(void **state)
{
    static const struct {
        const char *find, *put;
        bool holds;
    } CASES[] = {
        {"<KmsResponse ", "<KmsResponse ", true},
        {"<UserUri>", "<UserUri >", false},
        {" Id=\"xmldoc\"", " Id='xmldoc'", false},
        {" Id=\"xmldoc\" Version=\"1.0.0\"", " Version=\"1.0.0\" Id=\"xmldoc\"", false},
        {"<KmsMessage>", "<KmsMessage xmlns=\"" NS_KMS "\">", false},
        {"<KmsMessage>", "<KmsMessage>\n", true},
        {"<KmsMessage>", "<KmsMessage>\r\n", false},
        {"<ClientReqUrl>h", "<ClientReqUrl>&#x68;", false},
    };
    const struct secret_key trk = key_of(ALICE_TRK), ink = key_of(ALICE_INK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    struct kms_response_plan plan = plan_of(enc);
    struct buf text, payload;
    bool encrypted, holds;
    (void)state;
    plan.signature_id = INK_ID;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct xmlsig_made made;
        struct buf once = BUF_INIT(REPLY_MAX), twice = BUF_INIT(REPLY_MAX);
        struct detail why = {""};
        assert_int_equal(rewrite(buf_view(&text), &plan, &payload, &encrypted), REASON_OK);
        replace(&payload, CASES[i].find, CASES[i].put);
        const size_t from = xmlsig_response_begin(&once);
        buf_str(&once, buf_view(&payload));
        assert_true(xmlsig_response_end(&once, from, INK_ID, &ink, &made));
        const enum reason r =
            kms_response_validate_signed(buf_view(&once), buf_view(&payload), true, &holds, &why);
        if (r != REASON_OK || holds != CASES[i].holds)
            fail_msg("%s: %s, %s", CASES[i].put, reason_name(r), why.text);
        assert_true(xmlsig_sign(buf_view(&payload), INK_ID, &ink, &twice)); /* reads it, and holds in any case */
        assert_int_equal(str_eq(buf_view(&once), buf_view(&twice)), holds);
        assert_int_equal(kms_response_validate(buf_view(&twice), true, NULL), REASON_OK);
        buf_free(&once);
        buf_free(&twice);
        buf_free(&payload);
    }
    buf_free(&text);
    xmlenc_free(enc);
    struct buf none = BUF_INIT(REPLY_MAX);
    struct xmlsig_made made;
    const size_t from = xmlsig_response_begin(&none);
    assert_false(xmlsig_response_end(&none, from, INK_ID, &ink, &made));
    buf_z(&none, "<a/>");
    assert_false(xmlsig_response_end(&none, from, STR(""), &ink, &made));
    assert_true(xmlsig_response_end(&none, from, INK_ID, &ink, &made));
    assert_int_equal(kms_response_validate_signed(STR("<a/>"), STR("<a/>"), true, &holds, NULL),
                     REASON_UPSTREAM_INVALID);
    assert_false(holds);
    buf_free(&none);
}

static void test_no_clear_key_passes_the_last_look(void **state)
{
    (void)state;
    struct kms_response_plan plan = plan_of(NULL);
    struct buf text, out;
    bool encrypted;
    plan.protect = PROTECT_NONE;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    assert_int_equal(rewrite(buf_view(&text), &plan, &out, &encrypted), REASON_OK);
    assert_false(encrypted);
    assert_xsd_valid(buf_view(&out));
    assert_int_equal(kms_response_validate(buf_view(&out), false, NULL), REASON_OK);
    assert_int_equal(kms_response_validate(buf_view(&out), true, NULL), REASON_UPSTREAM_INVALID);
    buf_free(&out);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_message),     cmocka_unit_test(test_an_error_instead),
        cmocka_unit_test(test_keys_that_come_encrypted), cmocka_unit_test(test_new_keys),
        cmocka_unit_test(test_wrap_by_rule),      cmocka_unit_test(test_extensions),
        cmocka_unit_test(test_signed_unread),     cmocka_unit_test(test_first_text_left_out),
        cmocka_unit_test(test_published_replies), cmocka_unit_test(test_validate),
        cmocka_unit_test(test_no_clear_key_passes_the_last_look),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
