/* Every message of tests/cases/requests gets the verdict that stands beside it, and the published vectors are valid. */
#include "fixture.h"

struct row {
    char *file, *options, *reason, *twin;
};
enum { ROWS = 1024 };
static struct buf table;
static struct row rows[ROWS];
static size_t count;

static int read_table(void **state)
{
    char *line, *save = NULL;
    read_case("cases/requests/verdicts.tsv", &table);
    for (line = strtok_r(table.p, "\n", &save); line && count < ROWS; line = strtok_r(NULL, "\n", &save)) {
        char *inner = NULL;
        struct row *r = &rows[count++];
        r->file = strtok_r(line, "\t", &inner);
        r->options = strtok_r(NULL, "\t", &inner);
        r->reason = strtok_r(NULL, "\t", &inner);
        r->twin = strtok_r(NULL, "\t", &inner);
        if (!r->twin)
            return -1;
    }
    return start_libraries(state);
}

static int drop_table(void **state)
{
    buf_free(&table);
    return stop_libraries(state);
}

static struct options options_of(const char *text)
{
    struct options o = STRICT;
    if (strncmp(text, "bits=", 5) == 0)
        o.policy.min_hmac_bits = (unsigned)strtoul(text + 5, NULL, 10);
    else if (strncmp(text, "versions=", 9) == 0)
        o.versions = str_z(text + 9);
    else if (strcmp(text, "exc-c14n") == 0)
        o.policy.canonicalization |= XMLSIG_EXC_C14N;
    else if (strcmp(text, "c14n11") == 0)
        o.policy.canonicalization |= XMLSIG_C14N11;
    else if (strcmp(text, "redirect") == 0)
        o.redirect = true;
    else
        assert_string_equal(text, "-");
    return o;
}

static bool judged_as_written(const struct row *row, bool by_tree, const struct secret_key *key)
{
    char path[256];
    struct buf text;
    struct request_doc *doc = NULL;
    struct kms_request fields;
    struct detail why = {""};
    struct options o = options_of(row->options);
    o.by_tree = by_tree;
    snprintf(path, sizeof path, "cases/requests/%s.xml", row->file);
    read_case(path, &text);
    const enum reason r = judge(buf_view(&text), &o, key, &doc, &fields, &why);
    const bool as_written = strcmp(reason_name(r), row->reason) == 0;
    if (!as_written)
        print_error("%s: %s, expected %s (%s)\n", row->file, reason_name(r), row->reason, why.text);
    const bool alice = r != REASON_OK || str_eq(fields.user_uri, STR("sip:alice@example.org"));
    if (!alice)
        print_error("%s: it is of %.*s\n", row->file, STR_FMT(fields.user_uri));
    if (r != REASON_OK && !why.text[0])
        print_error("%s: no detail\n", row->file);
    request_doc_free(doc);
    buf_free(&text);
    return as_written && alice && (r == REASON_OK || why.text[0]);
}

static void test_cases(void **state)
{
    const struct secret_key ink = key_of(ALICE_INK), trk = key_of(ALICE_TRK);
    size_t wrong = 0;
    (void)state;
    assert_true(count > 250 && count < ROWS);
    for (size_t i = 0; i < count; i++) {
        const struct secret_key *key = strcmp(rows[i].file, "by-trk") == 0 ? &trk : &ink;
        wrong += !judged_as_written(&rows[i], false, key) || !judged_as_written(&rows[i], true, key);
    }
    assert_int_equal(wrong, 0);
}

/* Each refused case names one that is judged otherwise and differs by one thing. */
static void test_twins(void **state)
{
    (void)state;
    for (size_t i = 0; i < count; i++) {
        bool found = strcmp(rows[i].reason, "ok") == 0;
        for (size_t j = 0; j < count; j++)
            found |= strcmp(rows[i].twin, rows[j].file) == 0 && strcmp(rows[j].reason, "ok") == 0;
        if (!found)
            fail_msg("%s has no accepted twin", rows[i].file);
    }
}

static void test_published_requests(void **state)
{
    static const char *const names[] = {"request-santuario", "request-xml-crypto", "request-xml-crypto-no-transforms",
                                        "request-python-xmlsec"};
    const struct secret_key ink = key_of(ALICE_INK);
    const struct options strict = STRICT;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[256];
        struct buf text;
        struct request_doc *doc;
        struct kms_request f;
        struct detail why = {""};
        snprintf(path, sizeof path, "cases/vectors/%s.xml", names[i]);
        read_case(path, &text);
        if (judge(buf_view(&text), &strict, &ink, &doc, &f, &why) != REASON_OK)
            fail_msg("%s: %s", names[i], why.text);
        assert_true(str_eq(f.user_uri, STR("sip:alice@example.org")) && str_eq(f.kms_uri, STR("kms.example.org")));
        assert_true(str_eq(f.time, STR("2026-11-23T18:00:00Z")) && str_eq(f.device_id, STR("device-1")));
        assert_true(str_eq(f.trk_id, STR("trk.1.alice")) && str_eq(f.signature_id, STR("ink.1.alice")));
        request_doc_free(doc);
        buf_free(&text);
    }
}

static void test_published_replies(void **state)
{
    static const char *const names[] = {"cases/vectors/reply-santuario.xml", "cases/vectors/reply-xml-crypto.xml"};
    const struct secret_key ink = key_of(ALICE_INK), trk = key_of(ALICE_TRK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct buf text;
        struct xml_doc *doc;
        struct xmlsig_info info;
        const struct xml_signed *proof = NULL;
        read_case(names[i], &text);
        assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_PROTECTED, &doc, NULL), REASON_OK);
        assert_int_equal(xml_root(doc), KMS_ROOT_SIGNED_RESPONSE);
        assert_int_equal(xmlsig_read(doc, &policy, &info, NULL), REASON_OK);
        assert_true(str_eq(info.key_name, STR("ink.1.alice")));
        assert_int_equal(xmlsig_verify(doc, &policy, &trk, &proof, NULL), REASON_SIGNATURE_INVALID);
        assert_null(proof);
        assert_int_equal(xmlsig_verify(doc, &policy, &ink, &proof, NULL), REASON_OK);
        assert_non_null(proof);
        xml_free(doc);
        buf_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_published_requests),
        cmocka_unit_test(test_published_replies),
    };
    return cmocka_run_group_tests(tests, read_table, drop_table);
}
