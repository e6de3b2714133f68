/*
 * Memory ends at the n-th allocation of libxml2 and OpenSSL, for every n: the verdict is the one with memory, or
 * "internal"; what is made is whole, or nothing. Nothing is accepted, blamed on a good client or leaked for want of it.
 */
#include "fixture.h"

#include "../ending_memory.h"
#include "base/crypto.h"
#include "base/spare.h"
#include "message/dialect.h"
#include "message/kms_response.h"

#include <libxml/xmlmemory.h>
#include <openssl/crypto.h>

enum { PLENTY = -1, ROOM = 1u << 20, ALLOCATIONS_MAX = 20000 };
static long left = PLENTY; /* allocations until memory ends, and stays so, or is there again at once */
static bool ended, once;

static bool denied(void)
{
    if (left == PLENTY)
        return false;
    if (left > 0) {
        left--;
        return false;
    }
    ended = true;
    if (once)
        left = PLENTY;
    return true;
}

/* xmlsec leaks where OpenSSL finds no memory; the gateway has OpenSSL take from what is set aside there, too. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libxmlsec1\nleak:xmlXPathNodeSet\n";
}

static void ends_at_each(const char *path, bool by_tree, enum reason expected)
{
    const struct secret_key key = key_of(ALICE_INK);
    const struct options strict = by_tree ? STRICT_BY_TREE : STRICT;
    struct buf text;
    long n;
    read_case(path, &text);
    /* first with plenty: the libraries then have what they make once */
    for (n = PLENTY, ended = true; (ended || n < 1) && n < ALLOCATIONS_MAX; n++) {
        struct request_doc *doc = NULL;
        struct kms_request fields;
        crypto_thread_end(); /* what it holds is made anew: nearly all that judging asks for */
        ended = false;
        left = n;
        const enum reason r = judge(buf_view(&text), &strict, &key, &doc, &fields, NULL);
        left = PLENTY;
        /* a bad text may be found bad for another fault */
        const bool refused = expected != REASON_OK && r != REASON_OK;
        if (r != expected && !(ended && (refused || r == REASON_INTERNAL)))
            fail_msg("%s: memory ends at allocation %ld: %s", path, n, reason_name(r));
        if (r == REASON_OK)
            assert_true(str_eq(fields.user_uri, STR("sip:alice@example.org")));
        request_doc_free(doc);
    }
    assert_true(n > 1 && n < ALLOCATIONS_MAX);
    buf_free(&text);
}

static void test_judging(void **state)
{
    (void)state;
    ends_at_each("cases/requests/plain.xml", false, REASON_OK);
    ends_at_each("cases/requests/plain.xml", true, REASON_OK);
    ends_at_each("cases/requests/extension.xml", false, REASON_OK);
    ends_at_each("cases/requests/envelope-empty-uri.xml", false, REASON_OK);
    ends_at_each("cases/requests/forged-user.xml", false, REASON_SIGNATURE_INVALID);
    ends_at_each("cases/requests/relative-namespace-word.xml", false, REASON_XML_FORBIDDEN);
    ends_at_each("cases/requests/schema-no-time.xml", false, REASON_XML_INVALID);
}

static void test_writing(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text, whole = BUF_INIT(ROOM), signature = BUF_INIT(ROOM);
    struct xml_doc *doc;
    (void)state;
    read_case("cases/requests/extension.xml", &text);
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
    assert_true(kms_request_forward_claimed(doc, true, &whole));
    assert_true(xmlsig_sign(buf_view(&whole), STR("k"), &key, &signature));
    long n = 0;
    const size_t aside = spare_left();
    for (ended = true; ended && n < ALLOCATIONS_MAX; n++) {
        struct buf a = BUF_INIT(ROOM), b = BUF_INIT(ROOM);
        crypto_thread_end();
        ended = false;
        left = n;
        const bool forwarded = kms_request_forward_claimed(doc, true, &a);
        const bool is_signed = xmlsig_sign(buf_view(&whole), STR("k"), &key, &b);
        left = PLENTY;
        assert_true(forwarded ? str_eq(buf_view(&a), buf_view(&whole)) : ended);
        assert_true(is_signed ? str_eq(buf_view(&b), buf_view(&signature)) : ended);
        buf_free(&a);
        buf_free(&b);
    }
    assert_true(n > 1 && n < ALLOCATIONS_MAX);
    assert_int_equal(spare_left(), aside);
    xml_free(doc);
    buf_free(&signature);
    buf_free(&whole);
    buf_free(&text);
}

/* A reply through a dialect that changes namespaces, names and values: read whole, or for want of memory not at all. */
static void test_dialect(void **state)
{
    static const char TEXT[] =
        "<v:Answer xmlns:v='OTHER'><KmsId> a </KmsId><v:Time>2026-11-23 18:00:00</v:Time><v:KmsMessage><v:KmsKeyProv>"
        "<v:NewTransportKey>AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=</v:NewTransportKey></v:KmsKeyProv>"
        "</v:KmsMessage></v:Answer>";
    char *namespaces[] = {(char[]){"OTHER"}, (char[]){""}};
    struct dialect_name answer = {(char[]){"Answer"}, (char[]){"KmsResponse"}};
    const struct dialect d = {.namespaces = {namespaces, 2}, .rename = &answer, .rename_count = 1};
    struct detail why;
    const size_t aside = spare_left();
    long n;
    (void)state;
    for (n = PLENTY, ended = true; (ended || n < 1) && n < ALLOCATIONS_MAX; n++) {
        struct xml_doc *doc = NULL;
        struct kms_response r;
        ended = false;
        left = n;
        const enum reason parsed = dialect_parse(str_z(TEXT), &d, &doc, &why);
        left = PLENTY;
        if (parsed != REASON_OK) {
            assert_true(ended && parsed == REASON_INTERNAL && !doc);
            continue;
        }
        assert_int_equal(kms_response_read(doc, STR_MISSING, STR_MISSING, &r, &why), REASON_OK);
        assert_true(str_eq(r.kms_id, STR("a")) && str_eq(r.time, STR("2026-11-23T18:00:00Z")) && r.has_new_key);
        xml_free(doc);
    }
    /* without a sanitizer what may hold a key is in memory for keys, which is not counted here */
    assert_true(n > 5 && n < ALLOCATIONS_MAX);
    assert_int_equal(spare_left(), aside); /* nothing of it is kept */
}

static void one_alone(void **state)
{
    (void)state;
    once = true;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judging), cmocka_unit_test(test_writing), cmocka_unit_test(test_dialect),
        cmocka_unit_test(one_alone), cmocka_unit_test(test_judging), cmocka_unit_test(test_writing),
        cmocka_unit_test(test_dialect)};
    if (!spare_setup() || CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) != 1 ||
        xmlMemSetup(free, limited_malloc, limited_realloc, limited_strdup) != 0)
        return 1;
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
