/*
 * What is wrong with a signature: never "nothing" where it does not verify, always "nothing" where it does; the key as
 * text and line ends found; no byte of the message makes it read where it must not. And signing in the forms that a
 * rule allows.
 */
#include "fixture.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "message/xmlsig_diagnose.h"

enum { ROOM = 1u << 20 };
static const struct xmlsig_policy STANDARD = {256, XMLSIG_C14N};

static struct buf signed_as(const struct secret_key *key, const struct xmlsig_policy *profile)
{
    static const struct kms_request FIELDS = {.user_uri = {"sip:alice@example.org", 21},
                                              .kms_uri = {"kms.example.org", 15},
                                              .time = {"2026-11-23T18:00:00Z", 20},
                                              .client_id = {"two\nlines", 9},
                                              .client_req_url = {"https://k/keymanagement/identity/v1/init", 40},
                                              .signature_id = {"ink.1.alice", 11}};
    struct buf text = BUF_INIT(ROOM), out = BUF_INIT(ROOM);
    kms_request_write(&FIELDS, &text);
    assert_true(xmlsig_sign_as(buf_view(&text), STR("ink.1.alice"), key, profile, &out));
    buf_free(&text);
    return out;
}

static bool clean(const struct xmlsig_attempt *a)
{
    return a->form == XMLSIG_AS_DECLARED && a->ends == XMLSIG_LF && a->key_text == XMLSIG_KEY_OCTETS;
}

static void test_a_good_one_is_good(void **state)
{
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    struct xmlsig_attempt a;
    struct xml_doc *doc;
    (void)state;
    struct buf text = signed_as(&key, &STANDARD);
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
    assert_true(xmlsig_find_digest(doc, buf_view(&text), &a) && clean(&a));
    assert_string_equal(a.ours, "");
    assert_true(xmlsig_find_hmac(doc, buf_view(&text), &key, &a) && clean(&a) && a.bits == 256);
    assert_false(xmlsig_find_hmac(doc, buf_view(&text), &other, &a));
    assert_true(str_eq(xmlsig_find_key_name(doc), STR("ink.1.alice")));
    xml_free(doc);
    buf_free(&text);
}

static void test_forms_that_a_rule_allows(void **state)
{
    static const struct xmlsig_policy FORMS[] = {
        {256, XMLSIG_C14N}, {128, XMLSIG_C14N}, {160, XMLSIG_EXC_C14N}, {256, XMLSIG_EXC_C14N}, {248, XMLSIG_C14N11}};
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    (void)state;
    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++) {
        struct buf text = signed_as(&key, &FORMS[i]);
        struct options o = STRICT;
        struct request_doc *doc = NULL;
        struct kms_request fields;
        struct xmlsig_attempt a;
        o.policy = FORMS[i];
        assert_int_equal(judge(buf_view(&text), &o, &key, &doc, &fields, NULL), REASON_OK);
        assert_true(xmlsig_find_hmac(request_doc_tree(doc, buf_view(&text)), buf_view(&text), &key, &a) && clean(&a) &&
                    a.bits == FORMS[i].min_hmac_bits);
        request_doc_free(doc);
        assert_int_equal(judge(buf_view(&text), &o, &other, &doc, &fields, NULL), REASON_SIGNATURE_INVALID);
        o.policy = STANDARD;
        assert_int_equal(judge(buf_view(&text), &o, &key, &doc, &fields, NULL),
                         i == 0 ? REASON_OK : REASON_SIGNATURE_PROFILE);
        if (i == 0)
            request_doc_free(doc);
        buf_free(&text);
    }
}

/* The value of an HMAC by these octets as key, put in place of the one that is there. */
static struct buf with_hmac(const struct buf *text, const void *key, size_t n)
{
    const char *from = strstr(text->p, "<SignedInfo>"), *to = strstr(text->p, "</SignedInfo>");
    const char *value = strstr(text->p, "<SignatureValue>");
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned mac_n = 0;
    struct buf info = BUF_INIT(ROOM), out = BUF_INIT(ROOM);
    assert_true(from && to && value);
    buf_z(&info, "<SignedInfo xmlns=\"" NS_DS "\">");
    buf_bytes(&info, from + 12, (size_t)(to + 13 - from - 12));
    assert_non_null(HMAC(EVP_sha256(), key, (int)n, (const unsigned char *)info.p, info.n, mac, &mac_n));
    buf_bytes(&out, text->p, (size_t)(value + 16 - text->p));
    buf_base64(&out, mac, mac_n);
    buf_z(&out, strstr(value, "</SignatureValue>"));
    buf_free(&info);
    assert_false(out.failed);
    return out;
}

static void test_keys_as_text(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text = signed_as(&key, &STANDARD), forms[XMLSIG_KEY_TEXT_COUNT];
    (void)state;
    for (int k = 0; k < XMLSIG_KEY_TEXT_COUNT; k++)
        forms[k] = BUF_INIT(200);
    buf_bytes(&forms[XMLSIG_KEY_OCTETS], key.b, KEY_BYTES);
    buf_hex(&forms[XMLSIG_KEY_HEX], key.b, KEY_BYTES, false);
    buf_hex(&forms[XMLSIG_KEY_HEX_UPPER], key.b, KEY_BYTES, true);
    buf_base64(&forms[XMLSIG_KEY_BASE64], key.b, KEY_BYTES);
    buf_hex(&forms[XMLSIG_KEY_HEX_LINE], key.b, KEY_BYTES, false);
    buf_char(&forms[XMLSIG_KEY_HEX_LINE], '\n');
    for (int k = 0; k < XMLSIG_KEY_TEXT_COUNT; k++) {
        struct xmlsig_attempt a;
        struct xml_doc *doc;
        struct buf changed = with_hmac(&text, forms[k].p, forms[k].n);
        assert_int_equal(xml_parse(buf_view(&changed), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
        assert_true(xmlsig_find_hmac(doc, buf_view(&changed), &key, &a));
        assert_int_equal(a.key_text, k);
        assert_int_equal(a.form, XMLSIG_AS_DECLARED);
        assert_int_equal(*xmlsig_key_text_says(a.key_text) != '\0', k != XMLSIG_KEY_OCTETS);
        xml_free(doc);
        buf_free(&changed);
        buf_free(&forms[k]);
    }
    buf_free(&text);
}

/* Every byte of a signed request changed: either it still verifies, or one of its halves is said to be wrong. */
static void test_every_byte_changed(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text = signed_as(&key, &STANDARD);
    size_t refused = 0;
    (void)state;
    for (size_t i = 0; i < text.n; i++) {
        const char before = text.p[i];
        struct xml_doc *doc;
        struct xmlsig_info info;
        const struct xml_signed *proof = NULL;
        struct xmlsig_attempt digest, hmac;
        text.p[i] = before == 'a' ? 'b' : 'a';
        if (xml_parse(buf_view(&text), &XML_LIMITS_REQUEST, &doc, NULL) == REASON_OK) {
            const bool holds = xmlsig_read(doc, &STANDARD, &info, NULL) == REASON_OK &&
                               xmlsig_verify(doc, &STANDARD, &key, &proof, NULL) == REASON_OK;
            const bool right = xmlsig_find_digest(doc, buf_view(&text), &digest) && clean(&digest) &&
                               xmlsig_find_hmac(doc, buf_view(&text), &key, &hmac) && clean(&hmac) && hmac.bits == 256;
            if (holds && !right)
                fail_msg("byte %zu: it verifies, and is said not to", i);
            /* a form that nothing of the profile allows may have right values: its profile is told, not its values */
            if (!holds && right && xmlsig_read(doc, &STANDARD, &info, NULL) == REASON_OK)
                fail_msg("byte %zu: it does not verify, and nothing is said to be wrong", i);
            refused += !holds;
            xml_free(doc);
        }
        text.p[i] = before;
    }
    assert_true(refused > 300);
    buf_free(&text);
}

/* Messages of any kind and none: no crash, no answer for what has no signature. */
static void test_other_messages(void **state)
{
    static const char *const TEXTS[] = {
        "<a/>", "<KmsRequest xmlns=\"" NS_KMS "\"/>", "<SignedKmsRequest xmlns=\"" NS_KMS "\"/>",
        "<SignedKmsRequest xmlns=\"" NS_KMS "\"><KmsRequest/><Signature xmlns=\"" NS_DS "\"/></SignedKmsRequest>",
        "<SignedKmsRequest xmlns=\"" NS_KMS "\"><KmsRequest/><Signature xmlns=\"" NS_DS "\"><SignedInfo/></Signature>"
        "</SignedKmsRequest>"};
    const struct secret_key key = key_of(ALICE_INK);
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        struct xmlsig_attempt a;
        struct xml_doc *doc;
        assert_int_equal(xml_parse(str_z(TEXTS[i]), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
        assert_false(xmlsig_find_digest(doc, str_z(TEXTS[i]), &a));
        assert_false(xmlsig_find_hmac(doc, str_z(TEXTS[i]), &key, &a));
        assert_null(xmlsig_find_key_name(doc).p);
        xml_free(doc);
    }
}

static void test_signing_refuses(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    const struct xmlsig_policy too_long = {264, XMLSIG_C14N};
    struct buf out BUF_CLEANUP = BUF_INIT(ROOM), text BUF_CLEANUP = BUF_INIT(ROOM);
    (void)state;
    kms_request_write(&(struct kms_request){.user_uri = STR("a")}, &text);
    assert_false(xmlsig_sign_as(buf_view(&text), STR("k"), &key, &too_long, &out));
    assert_false(xmlsig_sign_as(buf_view(&text), STR_MISSING, &key, &STANDARD, &out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_one_is_good), cmocka_unit_test(test_forms_that_a_rule_allows),
        cmocka_unit_test(test_keys_as_text),       cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_other_messages),     cmocka_unit_test(test_signing_refuses),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    xml_shutdown();
    return failed;
}
