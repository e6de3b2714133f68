/* What an upstream's reply may be: a table of faults, each of which makes a good reply bad by one thing. */
#include "fixture.h"
#include "replies.h"

static enum reason read_text(struct str text, struct detail *why)
{
    struct xml_doc *doc = NULL;
    struct kms_response r;
    enum reason reason = xml_parse(text, &XML_LIMITS_REPLY, &doc, why);
    if (reason == REASON_OK)
        reason = kms_response_read(doc, STR(REPLY_USER), STR("sip:group@example.org"), &r, why);
    xml_free(doc);
    return reason;
}

#define SSK_OPEN "<UserSigningKeySSK>"
#define XSI " xmlns:xsi=\"" NS_XSI "\""

struct wrong {
    enum kms_message of;
    const char *find, *put;
};

/* Neither a pass-through nor dropped: upstream.invalid. */
static const struct wrong INVALID[] = {
    /* unknown, misplaced, doubled, missing elements */
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<Surprise>00</Surprise><KeyPeriodNo>"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet", "<UserSigningKeySSK>00</UserSigningKeySSK><KmsKeySet"},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<UserSigningKeySSK>00</UserSigningKeySSK><KmsMessage>"},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage><KmsKeyProv></KmsKeyProv>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>1514</KeyPeriodNo>", ""},
    {KMS_MESSAGE_KEYPROV, "<UserID>ABCDEF</UserID>", ""},
    {KMS_MESSAGE_KEYPROV, "<UserID>", "<UserID>00</UserID><UserID>"},
    {KMS_MESSAGE_KEYPROV, "<UserID>", "<UserID><b/>"},
    {KMS_MESSAGE_KEYPROV, "<UserID>", "<userID>00</userID><UserID>"},
    {KMS_MESSAGE_KEYPROV, "<KmsId>Old</KmsId>", "<KmsId>Old</KmsId><KmsId>Old</KmsId>"},
    {KMS_MESSAGE_KEYPROV, "<KmsId>Old</KmsId>", "<KmsId xmlns=\"\">Old</KmsId>"},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsError><ErrorCode>1</ErrorCode><ErrorMsg/></KmsError><KmsMessage>"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeyProv Version=\"1.0.0\">", "<KmsKeyProv><x:e xmlns:x=\"urn:x\"><KmsUri xmlns=\"" NS_KMS
                                                            "\"/></x:e>"},
    {KMS_MESSAGE_INIT, "<KmsInit Version=\"1.0.0\">", "<KmsInit><KmsKeySet/>"},
    {KMS_MESSAGE_INIT, "<KmsDomain>sec1.example.org</KmsDomain>", ""},
    {KMS_MESSAGE_INIT, "<UserIdFormat>2</UserIdFormat>", ""},
    /* text where there is none */
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet", "2222<KmsKeySet"},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "22<KmsMessage>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "2<KeyPeriodNo>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<![CDATA[2]]><KeyPeriodNo>"},
    {KMS_MESSAGE_LOOKUP, "<a>", "22<a>"},
    /* attributes */
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage Copy=\"00\">"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet Ssk=\"00\" "},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, "<UserSigningKeySSK Id=\"1\">"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet" XSI " xsi:nil=\"true\" "},
    {KMS_MESSAGE_KEYPROV, "<KmsKeyProv ", "<KmsKeyProv" XSI " xsi:type=\"KmsInitTkIkType\" "},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, "<UserSigningKeySSK" XSI " xsi:type=\"EncKeyContentType\">"},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, "<UserSigningKeySSK" XSI " xmlns:x=\"urn:x\" xsi:type=\"x:KeyContentType\">"},
    {KMS_MESSAGE_INIT, " Role=\"Root\"", ""},
    {KMS_MESSAGE_INIT, "\"Root\"", "\"root\""},
    {KMS_MESSAGE_CERTCACHE, "CacheNum=\"4\"", "CacheNum=\"four\""},
    /* values */
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, SSK_OPEN "00"},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, SSK_OPEN "0"},
    {KMS_MESSAGE_KEYPROV, "</UserSigningKeySSK>", "g0</UserSigningKeySSK>"},
    {KMS_MESSAGE_KEYPROV, "<UserDecryptKey>04", "<UserDecryptKey>"},
    {KMS_MESSAGE_KEYPROV, "<UserPubTokenPVT>04", "<UserPubTokenPVT> 04 "},
    {KMS_MESSAGE_KEYPROV, "1514", "15.14"},
    {KMS_MESSAGE_KEYPROV, "1514", ""},
    {KMS_MESSAGE_KEYPROV, "2026-11-23T18:00:00.123456+00:00", "yesterday"},
    {KMS_MESSAGE_KEYPROV, "2026-11-23T18:00:00.123456+00:00", "2026-11-23T24:00:00Z"},
    {KMS_MESSAGE_KEYPROV, "<UserUri>" REPLY_USER "</UserUri><UserID>", "<UserUri></UserUri><UserID>"},
    {KMS_MESSAGE_KEYPROV, "http://old.example.org/", "http://old.example.org/<!-- -->a b"},
    {KMS_MESSAGE_INIT, "<PubEncKey>04", "<PubEncKey>"},
    {KMS_MESSAGE_INIT, "2592000", "PT1H"},
    {KMS_MESSAGE_ERROR, "17", "seventeen"},
    {KMS_MESSAGE_ERROR, "17", "9223372036854775808"},
    {KMS_MESSAGE_ERROR, "<ErrorMsg>row 4711</ErrorMsg>", ""},
    /* keys where none belong, by any name of the standard, in any namespace */
    {KMS_MESSAGE_KEYPROV, "</KmsMessage>", "</KmsMessage><e xmlns=\"urn:x\"><UserSigningKeySSK/></e>"},
    {KMS_MESSAGE_KEYPROV, "</KmsMessage>", "</KmsMessage><UserDecryptKey xmlns=\"urn:x\"/>"},
    {KMS_MESSAGE_KEYPROV, "</KmsMessage>", "</KmsMessage><e xmlns=\"urn:x\"><userdecryptkey/></e>"},
    {KMS_MESSAGE_KEYPROV, "</KmsMessage>", "</KmsMessage><e xmlns=\"urn:x\" UserPubTokenPVT=\"00\"/>"},
    {KMS_MESSAGE_LOOKUP, "<c>", "<c><NewTransportKey>00</NewTransportKey>"},
    {KMS_MESSAGE_LOOKUP, "<c>", "<c><d/>"},
    {KMS_MESSAGE_LOOKUP, "<c>", "<c><UserDecryptKey xmlns=\"urn:x\"/>"},
    {KMS_MESSAGE_LOOKUP, "<a>", "<a xmlns:x=\"urn:x\" x:NewIntegrityKey=\"00\">"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet xmlns:x=\"urn:x\" x:UserDecryptKey=\"00\" "},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<UserDecryptKey xmlns=\"urn:x\"/><KeyPeriodNo>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<e xmlns=\"urn:x\"" XSI " xsi:type=\"q:KeyContentType\"/><KeyPeriodNo>"},
    {KMS_MESSAGE_KEYPROV, "<Issuer>", "<Issuer xmlns:x=\"urn:x\" x:a=\"00\">"}, /* no place for any */
    {KMS_MESSAGE_INIT, "<KmsDomainList>", "<KmsDomainList xmlns:x=\"urn:x\" x:a=\"00\">"},
    {KMS_MESSAGE_INIT, "<KmsDomainList>", "<KmsDomainList><e xmlns=\"urn:x\"/>"},
    {KMS_MESSAGE_LOOKUP, "<a>", "<a Key=\"00\">"},
    {KMS_MESSAGE_LOOKUP, "<KmsUri>kms.other.example</KmsUri>", "<KmsUri>kms.other.example<x/></KmsUri>"},
    /* another language */
    {KMS_MESSAGE_KEYPROV, NS_KMS, "urn:3gpp:ns:mcsecKMSInterface:1.1"},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage><EncryptedData xmlns=\"" NS_XENC "\"/>"},
};

static void test_invalid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof INVALID / sizeof INVALID[0]; i++) {
        const struct wrong *f = &INVALID[i];
        struct detail why = {""};
        struct buf text;
        put_reply(&text, f->of);
        const enum reason twin = read_text(buf_view(&text), &why);
        if (twin != REASON_OK)
            fail_msg("the twin of %zu: %s, %s", i, reason_name(twin), why.text);
        if (f->of == KMS_MESSAGE_LOOKUP && strcmp(f->put, "<c><d/>") == 0)
            replace(&text, "<KmsUri>kms.other.example</KmsUri>", "<d><KmsUri>kms.other.example</KmsUri></d>");
        else
            replace(&text, f->find, f->put);
        const enum reason got = read_text(buf_view(&text), &why);
        if (got != REASON_UPSTREAM_INVALID)
            fail_msg("%s -> %s: %s, %s", f->find, f->put, reason_name(got), why.text);
        assert_true(why.text[0]);
        buf_free(&text);
    }
}

/* Odd, and right: what an older KMS may do. */
static const struct wrong VALID[] = {
    {KMS_MESSAGE_KEYPROV, " Version=\"1.1.0\">", " Id=\"other\" Version=\"7\">"},
    {KMS_MESSAGE_KEYPROV, " Version=\"1.1.0\">", ">"},
    {KMS_MESSAGE_KEYPROV, "<KmsId>Old</KmsId>", ""},
    {KMS_MESSAGE_KEYPROV, "<UserUri>" REPLY_USER "</UserUri><Time>", "<Time>"},
    {KMS_MESSAGE_KEYPROV, "<KmsUri>old.example.org</KmsUri>\n", ""},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<!-- a comment --><TrK-ID>t</TrK-ID><KmsMessage>"},
    {KMS_MESSAGE_KEYPROV, "</KmsMessage>", "</KmsMessage><e xmlns=\"urn:x\" a=\"b\">text<f/></e>"},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, "<UserSigningKeySSK" XSI " xsi:type=\" KeyContentType \">\n  "},
    {KMS_MESSAGE_KEYPROV, SSK_OPEN, "<UserSigningKeySSK" XSI " xmlns:k=\"" NS_KMS "\" xsi:type=\"k:KeyContentType\">"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet" XSI " xsi:schemaLocation=\"a b\" "},
    {KMS_MESSAGE_KEYPROV, "<Issuer>An &amp; Issuer</Issuer>", "<CertUri/><Issuer/>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>1514</KeyPeriodNo>", "<Revoked>0</Revoked><KeyPeriodNo>+1514</KeyPeriodNo>"},
    {KMS_MESSAGE_CERTCACHE, " CacheNum=\"4\"", ""},
    {KMS_MESSAGE_LOOKUP, "<a>", "<a Id=\"1\">"},
    {KMS_MESSAGE_ERROR, "17", " -17 "},
    {KMS_MESSAGE_LOOKUP, "<c>", "<c><e xmlns=\"urn:x\"/>"},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet xml:lang=\"en\" "},
    {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet xmlns:x=\"urn:x\" x:Id=\"00\" "},
    {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage><e xmlns=\"urn:x\"/>"},
    {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<e xmlns=\"urn:x\"/><KeyPeriodNo>"},
};

static void test_valid(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof VALID / sizeof VALID[0]; i++) {
        struct detail why = {""};
        struct buf text;
        put_reply(&text, VALID[i].of);
        replace(&text, VALID[i].find, VALID[i].put);
        const enum reason got = read_text(buf_view(&text), &why);
        if (got != REASON_OK)
            fail_msg("%s -> %s: %s, %s", VALID[i].find, VALID[i].put, reason_name(got), why.text);
        buf_free(&text);
    }
}

static void test_no_detail_shows_a_value(void **state)
{
    (void)state;
    struct detail why = {""};
    struct buf text;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace(&text, SSK_OPEN, SSK_OPEN "00");
    assert_int_equal(read_text(buf_view(&text), &why), REASON_UPSTREAM_INVALID);
    assert_no_clear_key(str_z(why.text));
    buf_free(&text);
}

static void test_users(void **state)
{
    (void)state;
    static const char set[] = "<UserUri>" REPLY_USER "</UserUri><UserID>";
    static const struct {
        const char *find, *put;
        enum reason reason;
    } CASES[] = {
        {"<UserUri>" REPLY_USER, "<UserUri>sip:mallory@example.org", REASON_UPSTREAM_WRONG_USER},
        {"<UserUri>" REPLY_USER, "<UserUri>sip:Alice@example.org", REASON_UPSTREAM_WRONG_USER},
        {"<UserUri>" REPLY_USER, "<UserUri>sip:group@example.org", REASON_OK},
        {"<UserUri>" REPLY_USER, "<UserUri> " REPLY_USER " ", REASON_OK},
        {set, "<UserUri>sip:mallory@example.org</UserUri><UserID>", REASON_UPSTREAM_WRONG_USER},
        {set, "<UserUri>sip:group@example.org</UserUri><UserID>", REASON_OK},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct detail why = {""};
        struct buf text;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        replace(&text, CASES[i].find, CASES[i].put);
        assert_int_equal(read_text(buf_view(&text), &why), CASES[i].reason);
        buf_free(&text);
    }
}

static void test_nobody_known(void **state)
{
    (void)state;
    struct xml_doc *doc = NULL;
    struct kms_response r;
    struct buf text;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REPLY, &doc, NULL), REASON_OK);
    assert_int_equal(kms_response_read(doc, STR_MISSING, STR_MISSING, &r, NULL), REASON_OK);
    assert_int_equal(r.message, KMS_MESSAGE_KEYPROV);
    assert_true(r.has_key_content);
    assert_true(str_eq(r.user_uri, STR(REPLY_USER)));
    xml_free(doc);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invalid), cmocka_unit_test(test_valid), cmocka_unit_test(test_no_detail_shows_a_value),
        cmocka_unit_test(test_users),   cmocka_unit_test(test_nobody_known),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
