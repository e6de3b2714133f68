/* The KmsRequest: what is claimed, what is read of what was signed, what goes on to the upstream, what a client writes.
 */
#include "fixture.h"

#include "message/xml_internal.h"

enum { ROOM = 1u << 20 };

static struct xml_doc *parse(const char *text)
{
    struct xml_doc *doc;
    struct detail why = {""};
    if (xml_parse(str_z(text), &XML_LIMITS_REQUEST, &doc, &why) != REASON_OK)
        fail_msg("%s: %s", text, why.text);
    return doc;
}

#define BARE(inner) "<KmsRequest xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.1.0\">" inner "</KmsRequest>"
#define REQUIRED_1 "<UserUri>sip:a@b</UserUri><KmsUri>kms</KmsUri>"
#define REQUIRED_2 "<Time>2026-11-23T18:00:00Z</Time>"
#define REQUIRED_3 "<ClientReqUrl>http://kms/init</ClientReqUrl>"
#define REQUIRED REQUIRED_1 REQUIRED_2 REQUIRED_3

static enum reason schema_of(const char *text, bool redirect, struct detail *why)
{
    struct xml_doc *doc = parse(text);
    const enum reason r = kms_request_schema(doc, VERSIONS, redirect, why);
    xml_free(doc);
    return r;
}

static void expect_schema(const char *text, bool redirect, enum reason expected)
{
    struct detail why = {""};
    const enum reason r = schema_of(text, redirect, &why);
    if (r != expected)
        fail_msg("%s: %s (%s)", text, reason_name(r), why.text);
    assert_true(r == REASON_OK || (strstr(why.text, "found ") && strstr(why.text, "expected ")));
}

static void test_schema(void **state)
{
    (void)state;
    expect_schema(BARE(REQUIRED), false, REASON_OK);
    expect_schema(BARE(""), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED_1 REQUIRED_2), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED_1 REQUIRED_3), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED_2 REQUIRED_3), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED_1 "<ClientId/>" REQUIRED_2 REQUIRED_3), false, REASON_OK);
    expect_schema(BARE(REQUIRED_1 "<DeviceId/>" REQUIRED_2 REQUIRED_3), false, REASON_OK);
    expect_schema(BARE(REQUIRED_1 REQUIRED_2 "<DeviceId/>" REQUIRED_3), false, REASON_OK);
    expect_schema(BARE(REQUIRED_1 "<ClientId/>" REQUIRED_2 "<ClientId/>" REQUIRED_3), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED_1 "<ClientId/>" REQUIRED_2 "<DeviceId/>" REQUIRED_3), false, REASON_XML_INVALID);
    expect_schema("<KmsResponse xmlns='" NS_KMS "'/>", false, REASON_XML_INVALID);
    expect_schema("<SignedKmsRequest xmlns='" NS_KMS "'/>", false, REASON_XML_INVALID);
    expect_schema("<SignedKmsRequest xmlns='" NS_KMS "'>" BARE(REQUIRED) "</SignedKmsRequest>", false, REASON_OK);
    expect_schema("<SignedKmsRequest xmlns='" NS_KMS "'>" BARE(REQUIRED) BARE(REQUIRED) "</SignedKmsRequest>", false,
                  REASON_XML_INVALID);
}

static void test_rest(void **state)
{
#define KRR "<KrrList><k:Krr xmlns:k='" NS_KRR "'/></KrrList>"
#define ERR "<ClientError><ErrorCode>+1290</ErrorCode><ErrorMsg>m</ErrorMsg></ClientError>"
#define EXT "<x:E xmlns:x='urn:x'>text</x:E>"
    (void)state;
    expect_schema(BARE(REQUIRED KRR ERR "<TrK-ID/><Signature-ID/>" EXT EXT), true, REASON_OK);
    expect_schema(BARE(REQUIRED "<Signature-ID/>" KRR EXT "<TrK-ID/>" EXT), true, REASON_OK);
    expect_schema(BARE(REQUIRED KRR), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED), true, REASON_OK);
    expect_schema(BARE(REQUIRED ERR KRR), true, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED EXT ERR), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED ERR ERR), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<TrK-ID/><TrK-ID/>"), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<KrrList>text</KrrList>"), true, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<KrrList><UserUri>sip:a@b</UserUri></KrrList>"), true, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<ClientError><ErrorCode>1</ErrorCode></ClientError>"), false, REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<ClientError><ErrorCode>-</ErrorCode><ErrorMsg/></ClientError>"), false,
                  REASON_XML_INVALID);
    expect_schema(BARE(REQUIRED "<ClientError>x<ErrorCode>1</ErrorCode><ErrorMsg/></ClientError>"), false,
                  REASON_XML_INVALID);
}

static void test_versions(void **state)
{
    static const struct {
        const char *version, *list;
        bool listed;
    } rows[] = {{"1.1.0", "1.1.0", true},
                {"1.0.0", "1.1.0", false},
                {"1.0.0", "1.1.0 1.0.0", true},
                {"", "1.1.0", false},
                {"1.1.0 1.0.0", "1.1.0 1.0.0", false},
                {"1.1", "1.1.0", false},
                {"2", "  2  ", true},
                {"2", "", false}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, "<KmsRequest xmlns='" NS_KMS "' Version='%s'>" REQUIRED "</KmsRequest>",
                 rows[i].version);
        struct xml_doc *doc = parse(text);
        assert_int_equal(kms_request_schema(doc, str_z(rows[i].list), false, NULL),
                         rows[i].listed ? REASON_OK : REASON_XML_INVALID);
        xml_free(doc);
    }
    struct xml_doc *none = parse("<KmsRequest xmlns='" NS_KMS "'>" REQUIRED "</KmsRequest>");
    assert_int_equal(kms_request_schema(none, STR("1.1.0"), false, NULL), REASON_OK);
    xml_free(none);
}

static void test_claim(void **state)
{
    struct kms_request f;
    (void)state;
    struct xml_doc *doc = parse("<SignedKmsRequest xmlns='" NS_KMS "'><x xmlns='urn:x'/>"
                                BARE("<KmsUri> kms\n</KmsUri><UserUri><b/></UserUri><UserUri>sip:second@b</UserUri>"
                                     "<x:Time xmlns:x='urn:x'>no</x:Time><ClientId> c </ClientId><DeviceId/>")
                                BARE("<Time>later</Time>") "</SignedKmsRequest>");
    assert_true(kms_request_claim(doc, &f));
    assert_null(f.user_uri.p); /* the first counts, and it is no text */
    assert_true(str_eq(f.kms_uri, STR("kms")));
    assert_null(f.time.p);
    assert_true(str_eq(f.client_id, STR(" c ")));
    assert_true(f.device_id.p != NULL && f.device_id.n == 0);
    xml_free(doc);
    doc = parse("<KmsResponse xmlns='" NS_KMS "'><UserUri>sip:a@b</UserUri></KmsResponse>");
    assert_false(kms_request_claim(doc, &f));
    assert_null(f.user_uri.p);
    xml_free(doc);
    doc = parse("<SignedKmsRequest xmlns='" NS_KMS "'/>");
    assert_false(kms_request_claim(doc, &f));
    xml_free(doc);
}

static void forwards(const char *text, const char *expected)
{
    struct xml_doc *doc = parse(text);
    struct buf out = BUF_INIT(ROOM);
    assert_true(kms_request_forward_claimed(doc, true, &out));
    assert_string_equal(out.p, expected);
    buf_free(&out);
    xml_free(doc);
}

static void test_forward(void **state)
{
    (void)state;
    forwards("<KmsRequest Version='1.1.0' Id='i' xmlns='" NS_KMS
             "'><UserUri><![CDATA[a&b]]></UserUri><TrK-ID>t</TrK-ID>"
             "<x:TrK-ID xmlns:x='urn:x'><y/></x:TrK-ID><Signature-ID>s</Signature-ID><TrK-ID>t</TrK-ID></KmsRequest>",
             "<KmsRequest xmlns=\"" NS_KMS "\" Id=\"i\" Version=\"1.1.0\"><UserUri>a&amp;b</UserUri>"
             "<x:TrK-ID xmlns:x=\"urn:x\"><y></y></x:TrK-ID></KmsRequest>");
    /* what is in scope above is in scope in the document of its own */
    forwards("<k:SignedKmsRequest xmlns:k='" NS_KMS
             "' xmlns:x='urn:x'><k:KmsRequest><k:UserUri/><x:E a='x:b'/></k:KmsRequest>"
             "<Signature xmlns='" NS_DS "'/></k:SignedKmsRequest>",
             "<k:KmsRequest xmlns:k=\"" NS_KMS
             "\" xmlns:x=\"urn:x\"><k:UserUri></k:UserUri><x:E a=\"x:b\"></x:E></k:KmsRequest>");
    struct xml_doc *doc = parse("<KmsRequest/>");
    struct buf out = BUF_INIT(ROOM);
    assert_false(kms_request_forward_claimed(doc, true, &out));
    xml_free(doc);
    doc = parse(BARE(REQUIRED));
    struct buf small = BUF_INIT(64);
    assert_false(kms_request_forward_claimed(doc, true, &small));
    buf_free(&small);
    xml_free(doc);
}

static void test_write(void **state)
{
    const struct kms_request all = {.user_uri = STR("sip:a@b"),
                                    .kms_uri = STR("k"),
                                    .time = STR("2026-11-23T18:00:00Z"),
                                    .client_id = STR("<&>\r"),
                                    .device_id = STR(""),
                                    .client_req_url = STR("http://k/?a&b"),
                                    .trk_id = STR("t"),
                                    .signature_id = STR("s")};
    struct buf out = BUF_INIT(ROOM);
    (void)state;
    kms_request_write(&all, &out);
    assert_string_equal(
        out.p, BARE("<UserUri>sip:a@b</UserUri><KmsUri>k</KmsUri><Time>2026-11-23T18:00:00Z</Time>"
                    "<ClientId>&lt;&amp;&gt;&#xD;</ClientId><DeviceId></DeviceId>"
                    "<ClientReqUrl>http://k/?a&amp;b</ClientReqUrl><TrK-ID>t</TrK-ID><Signature-ID>s</Signature-ID>"));
    expect_schema(out.p, false, REASON_OK);
    struct xml_doc *doc = parse(out.p);
    struct kms_request f;
    assert_true(kms_request_claim(doc, &f));
    assert_true(str_eq(f.client_id, all.client_id) && str_eq(f.client_req_url, all.client_req_url));
    assert_true(str_eq(f.device_id, all.device_id) && str_eq(f.trk_id, all.trk_id));
    xml_free(doc);
    buf_reset(&out);
    kms_request_write(&(struct kms_request){.user_uri = STR("u")}, &out);
    assert_string_equal(out.p, BARE("<UserUri>u</UserUri>"));
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schema),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_claim),
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_write),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
