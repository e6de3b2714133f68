/* What libxml2 frees of a reply holds no key any more: the memory below looks into each block that comes back. */
#include "fixture.h"
#include "replies.h"

#include <malloc.h>

#include <libxml/xmlmemory.h>

static char mark[33]; /* from the middle of a key's hex */
static unsigned seen;

static void look_and_free(void *p)
{
    if (p && mark[0] && memmem(p, malloc_usable_size(p), mark, strlen(mark)))
        seen++;
    free(p);
}

static void *look_and_move(void *p, size_t n)
{
    if (p && mark[0] && memmem(p, malloc_usable_size(p), mark, strlen(mark)))
        seen++;
    return realloc(p, n);
}

static void mark_key(void)
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(mark + 2 * i, 3, "%02X", key_octet('r', 64 + i));
    seen = 0;
}

static void test_parsed(void **state)
{
    (void)state;
    struct buf text;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    const struct xml_limits *const limits[] = {&XML_LIMITS_REQUEST, &XML_LIMITS_REPLY, &XML_LIMITS_PROTECTED};
    for (size_t i = 0; i < 3; i++) {
        struct xml_doc *doc = NULL;
        mark_key();
        assert_int_equal(xml_parse(buf_view(&text), limits[i], &doc, NULL), REASON_OK);
        xml_free(doc);
        if (i == 0) /* the twin: a request's memory is not wiped */
            assert_true(seen > 0);
        else
            assert_int_equal(seen, 0);
    }
    buf_free(&text);
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace(&text, "</KmsResponse>", "</Kms>");
    struct xml_doc *doc = NULL;
    mark_key();
    assert_int_not_equal(xml_parse(buf_view(&text), &XML_LIMITS_REPLY, &doc, NULL), REASON_OK);
    assert_int_equal(seen, 0);
    buf_free(&text);
}

/* Written, signed, looked at: in clear where a rule says so, with an extension that is kept as it came. */
static void test_made(void **state)
{
    (void)state;
    const struct secret_key key = key_of(ALICE_INK);
    struct kms_response_plan plan = {.user_uri = STR(REPLY_USER), .kms_uri = STR("kms.example.org"),
                                     .time = STR("2026-11-23T18:00:01Z"), .client_req_url = STR("https://a/"),
                                     .keep_extensions = true, .signature_id = STR("ink.1.alice")};
    struct buf text, out = BUF_INIT_SECRET(REPLY_MAX), signed_text = BUF_INIT_SECRET(REPLY_MAX);
    struct xml_doc *doc = NULL;
    struct kms_response r;
    bool encrypted;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace(&text, "</KmsKeyProv>", "<x:e xmlns:x=\"urn:x\">t</x:e></KmsKeyProv>");
    mark_key();
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REPLY, &doc, NULL), REASON_OK);
    assert_int_equal(kms_response_read(doc, STR(REPLY_USER), STR_MISSING, &r, NULL), REASON_OK);
    assert_int_equal(kms_response_write(&r, &plan, &out, &encrypted, NULL), REASON_OK);
    assert_non_null(strstr(out.p, mark));
    assert_true(xmlsig_sign(buf_view(&out), STR("ink.1.alice"), &key, &signed_text));
    assert_int_equal(kms_response_validate(buf_view(&signed_text), false, NULL), REASON_OK);
    xml_free(doc);
    assert_int_equal(seen, 0);
    buf_free(&text);
    buf_free(&out);
    buf_free(&signed_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parsed), cmocka_unit_test(test_made)};
    if (xmlMemSetup(look_and_free, malloc, look_and_move, strdup) != 0 || !xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    xml_shutdown();
    return failed;
}
