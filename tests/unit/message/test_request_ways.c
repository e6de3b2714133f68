/*
 * Both ways of reading a request say the same: in one pass, and by libxml2's tree with xmlsec1 as verifier. What the
 * first accepts, the second and the program xmlsec1 accept, too; every field and every forwarded byte is the same.
 *
 *     TESTED_MESSAGES=1000000 TESTED_SEED=7 message_test_request_ways      the long run
 */
#include "program.h"

#include <inttypes.h>

#include "made.h"

enum { MESSAGES = 20000, FOR_THE_PROGRAM = 60 };

static char folder[] = "/tmp/kmsgate-ways-XXXXXX";

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : usual;
}

static void by_the_program(struct str text)
{
    const struct secret_key key = key_of(ALICE_INK);
    char key_path[256], path[256], out[256];
    put_file(folder, "key", (struct str){(const char *)key.b, KEY_BYTES}, key_path);
    put_file(folder, "out", STR(""), out);
    put_file(folder, "request.xml", text, path);
    if (xmlsec1("--verify", key_path, path, out) != 0)
        fail_msg("we accept, the program xmlsec1 refuses: %.*s", STR_FMT(text));
    unlink(key_path);
    unlink(path);
    unlink(out);
}

static enum request_ways one(struct dice *d, const struct secret_key *key, struct buf *text)
{
    static const struct xmlsig_policy POLICIES[] = {
        {256, XMLSIG_C14N}, {256, XMLSIG_C14N}, {256, XMLSIG_C14N}, {128, XMLSIG_C14N | XMLSIG_EXC_C14N},
        {256, XMLSIG_EXC_C14N}};
    const char *what;
    made_request(d, text);
    if (one_in(d, 6))
        made_mutate(d, text); /* and signed as it then is */
    made_sign(key, text);
    if (one_in(d, 4))
        made_mutate(d, text);
    assert_false(text->failed);
    const enum request_ways ways = request_ways(buf_view(text), &PICK(d, POLICIES), key, &what);
    if (ways == REQUEST_WAYS_DIFFER)
        fail_msg("the two ways differ in %s: %.*s", what, STR_FMT(buf_view(text)));
    assert_int_not_equal(ways, REQUEST_WAYS_NO_MEMORY);
    return ways;
}

static void test_made_messages(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    const uint64_t messages = setting("TESTED_MESSAGES", MESSAGES), seed = setting("TESTED_SEED", 1);
    struct dice d = {.state = UINT64_C(0x9E3779B97F4A7C15) * (seed + 1)};
    uint64_t counts[REQUEST_WAYS_DIFFER] = {0};
    unsigned for_program = 0;
    struct buf text = BUF_INIT(MADE_ROOM);
    (void)state;
    for (uint64_t i = 0; i < messages; i++) {
        buf_reset(&text);
        const enum request_ways ways = one(&d, &key, &text);
        counts[ways]++;
        if (ways == REQUEST_WAYS_ACCEPT && i >= for_program * (messages / FOR_THE_PROGRAM)) {
            for_program++;
            by_the_program(buf_view(&text));
        }
    }
    print_message("%" PRIu64 " messages: %" PRIu64 " not in the profile, %" PRIu64 " refused, %" PRIu64
                  " accepted; %u by the program, too\n",
                  messages, counts[REQUEST_WAYS_ONE], counts[REQUEST_WAYS_REFUSE], counts[REQUEST_WAYS_ACCEPT],
                  for_program);
    /* what is compared is not an empty set */
    assert_true(counts[REQUEST_WAYS_ACCEPT] > messages / 5 && counts[REQUEST_WAYS_REFUSE] > messages / 50 &&
                counts[REQUEST_WAYS_ONE] > messages / 20 && for_program > FOR_THE_PROGRAM / 2);
    buf_free(&text);
}

/* What nearly every client sends is read in one pass, or all of this is for nothing. */
static void test_usual_messages(void **state)
{
    static const char *const NAMES[] = {"cases/requests/plain.xml", "cases/requests/bom-and-declaration.xml",
                                        "cases/requests/unsigned.xml", "cases/requests/value-in-lines.xml",
                                        "cases/vectors/request-python-xmlsec.xml",
                                        "cases/vectors/request-xml-crypto-no-transforms.xml"};
    const struct secret_key key = key_of(ALICE_INK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        struct buf text;
        const char *what;
        read_case(NAMES[i], &text);
        const enum request_ways ways = request_ways(buf_view(&text), &policy, &key, &what);
        if (ways == REQUEST_WAYS_ONE || ways == REQUEST_WAYS_DIFFER)
            fail_msg("%s: %s", NAMES[i], ways == REQUEST_WAYS_DIFFER ? what : "not in the profile");
        buf_free(&text);
    }
}

/* So is one with other namespaces declared, as long as each reader takes them for absolute URIs. */
static void test_plain_namespaces(void **state)
{
    static const struct {
        const char *uri;
        bool plain;
    } URIS[] = {{"urn:a", true},         {"urn:a:b", true},       {"urn:a:b:c", true},      {"http://a/b", true},
                {"https://a/b#c", true}, {"urn:", false},         {"urn:a:", false},        {"urn:a::b", false},
                {"urn:a#b", false},      {"http:///a", false},    {"http://a/b:c", false},  {"http://a#b#c", false},
                {"https://", false},     {"a/relative", false},   {"urn:a&amp;b", false}};
    const struct secret_key key = key_of(ALICE_INK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    (void)state;
    for (size_t i = 0; i < sizeof URIS / sizeof *URIS; i++) {
        struct buf text = BUF_INIT(MADE_ROOM);
        struct dice d = {.p = (const uint8_t *)"", .n = 0};
        struct making m = {&d, &text, "", "", false};
        const char *what = "";
        buf_printf(&text, "<SignedKmsRequest xmlns=\"" NS_KMS "\" xmlns:x=\"%s\">", URIS[i].uri);
        made_signature(&m, made_payload(&m, false));
        buf_z(&text, "</SignedKmsRequest>");
        made_sign(&key, &text);
        const enum request_ways ways = request_ways(buf_view(&text), &policy, &key, &what);
        if (ways != (URIS[i].plain ? REQUEST_WAYS_ACCEPT : REQUEST_WAYS_ONE))
            fail_msg("%s: %d %s", URIS[i].uri, (int)ways, what);
        buf_free(&text);
    }
}

/* And one with each of its fields; an element of another name is none of them, wherever it stands. */
static void test_each_field(void **state)
{
    static const char *const FIELDS[] = {"<UserUri>sip:alice@example.org</UserUri>", "<KmsUri>kms.example.org</KmsUri>",
                                         "<Time>2026-11-23T18:00:00Z</Time>", "<ClientId>c</ClientId>",
                                         "<DeviceId>d</DeviceId>",
                                         "<ClientReqUrl>https://kms.example.org/</ClientReqUrl>",
                                         "<TrK-ID>trk.1.alice</TrK-ID>", "<Signature-ID>ink.1.alice</Signature-ID>"};
    enum { ALL = sizeof FIELDS / sizeof *FIELDS, NONE = ALL };
    const struct secret_key key = key_of(ALICE_INK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    (void)state;
    for (size_t odd = 0; odd <= NONE; odd++) {
        struct buf text = BUF_INIT(MADE_ROOM);
        struct dice d = {.p = (const uint8_t *)"", .n = 0};
        struct making m = {&d, &text, "", "", false};
        const char *what = "";
        buf_z(&text, "<SignedKmsRequest xmlns=\"" NS_KMS "\"><KmsRequest Id=\"xmldoc\" Version=\"1.1.0\">");
        for (size_t i = 0; i < ALL; i++)
            buf_z(&text, i == odd ? "<Other>sip:alice@example.org</Other>" : FIELDS[i]);
        buf_z(&text, "</KmsRequest>");
        made_signature(&m, "xmldoc");
        buf_z(&text, "</SignedKmsRequest>");
        made_sign(&key, &text);
        const enum request_ways ways = request_ways(buf_view(&text), &policy, &key, &what);
        if (ways != (odd == NONE ? REQUEST_WAYS_ACCEPT : REQUEST_WAYS_ONE))
            fail_msg("without %s: %d %s", odd == NONE ? "none" : FIELDS[odd], (int)ways, what);
        buf_free(&text);
    }
}

/* An ampersand in a namespace's URI is escaped in canonical text, which libxml2 alone does not do. */
static void test_ampersand_in_a_namespace(void **state)
{
    static const char *const URIS[] = {"urn:a", "urn:a&amp;b"};
    const struct secret_key key = key_of(ALICE_INK);
    const struct options strict = STRICT_BY_TREE;
    (void)state;
    for (size_t i = 0; i < sizeof URIS / sizeof *URIS; i++) {
        struct buf text = BUF_INIT(MADE_ROOM), forward = BUF_INIT(MADE_ROOM);
        struct dice d = {.p = (const uint8_t *)"", .n = 0};
        struct making m = {&d, &text, "", "", false};
        struct request_doc *doc = NULL;
        struct kms_request fields;
        struct detail why;
        buf_printf(&text, "<SignedKmsRequest xmlns=\"" NS_KMS "\" xmlns:x=\"%s\">", URIS[i]);
        made_signature(&m, made_payload(&m, false));
        buf_z(&text, "</SignedKmsRequest>");
        made_sign(&key, &text);
        if (judge(buf_view(&text), &strict, &key, &doc, &fields, &why) != REASON_OK)
            fail_msg("%s: %s", why.text, text.p);
        assert_true(request_doc_forward_claimed(doc, true, &forward));
        assert_non_null(strstr(forward.p, URIS[i]));
        request_doc_free(doc);
        buf_free(&forward);
        buf_free(&text);
    }
}

/* What xmlsec would take for XPointer, or paste into XPath, is no Id that a signature may refer to. */
static void test_ids_that_are_no_names(void **state)
{
    static const char *const IDS[] = {"xmldoc", "xpointer(/)", "x') | //* | id('y", "a b", "a/b"};
    const struct secret_key key = key_of(ALICE_INK);
    (void)state;
    for (size_t i = 0; i < sizeof IDS / sizeof *IDS; i++) {
        for (int by_tree = 0; by_tree < 2; by_tree++) {
            const struct options o = by_tree ? STRICT_BY_TREE : STRICT;
            struct buf text = BUF_INIT(MADE_ROOM);
            struct dice d = {.p = (const uint8_t *)"", .n = 0};
            struct making m = {&d, &text, "", "", false};
            struct request_doc *doc = NULL;
            struct kms_request fields;
            buf_printf(&text, "<SignedKmsRequest xmlns=\"" NS_KMS "\"><KmsRequest Id=\"%s\">", IDS[i]);
            made_children(&m);
            buf_z(&text, "</KmsRequest>");
            made_signature(&m, IDS[i]);
            buf_z(&text, "</SignedKmsRequest>");
            made_sign(&key, &text);
            assert_int_equal(judge(buf_view(&text), &o, &key, &doc, &fields, NULL),
                             i == 0 ? REASON_OK : REASON_SIGNATURE_REFERENCE);
            request_doc_free(doc);
            buf_free(&text);
        }
    }
}

/* A digest that is wrong in one octet, whichever, is wrong, though the key has signed it. */
static void test_every_octet_of_a_digest(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    (void)state;
    for (size_t i = 0; i <= HASH_BYTES; i++) {
        struct buf text = BUF_INIT(MADE_ROOM);
        struct dice d = {.p = (const uint8_t *)"", .n = 0};
        struct making m = {&d, &text, "", "", false};
        uint8_t octets[HASH_BYTES + 1] = {0}; /* one more, in which no digest is wrong */
        buf_z(&text, "<SignedKmsRequest xmlns=\"" NS_KMS "\">");
        made_signature(&m, made_payload(&m, false));
        buf_z(&text, "</SignedKmsRequest>");
        assert_true(made_octets(&key, &text, 0, octets));
        octets[i] ^= 1;
        made_put(&text, MADE_DIGEST, octets);
        made_sign(&key, &text);
        for (int by_tree = 0; by_tree < 2; by_tree++) {
            const struct options o = by_tree ? STRICT_BY_TREE : STRICT;
            struct request_doc *doc = NULL;
            struct kms_request fields;
            struct detail why = {""};
            const enum reason r = judge(buf_view(&text), &o, &key, &doc, &fields, &why);
            assert_int_equal(r, i == HASH_BYTES ? REASON_OK : REASON_SIGNATURE_INVALID);
            assert_true(i == HASH_BYTES || strstr(why.text, "DigestValue"));
            request_doc_free(doc);
        }
        buf_free(&text);
    }
}

/* No reading beyond the text, however it is cut; no writing beyond the room, however small it is. */
static void test_cut(void **state)
{
    struct buf text;
    (void)state;
    read_case("cases/requests/plain.xml", &text);
    for (size_t n = 0; n < text.n; n++) {
        char *exact = malloc(n ? n : 1);
        struct request_doc *doc = NULL;
        assert_non_null(exact);
        memcpy(exact, text.p, n);
        const enum reason r = request_doc_read((struct str){exact, n}, &XML_LIMITS_REQUEST, false, &doc, NULL);
        assert_true(r != REASON_OK || n == text.n - 1); /* the last byte is a line end */
        request_doc_free(doc);
        free(exact);
    }
    buf_free(&text);
}

/* A document's block may be one that another has left: nothing of that is seen, and none is of two. */
static void test_blocks_that_are_kept(void **state)
{
    static const size_t LENGTHS[] = {10, 900, 10, 40000, 1500, 10, 3000};
    enum { COUNT = sizeof LENGTHS / sizeof LENGTHS[0] };
    struct buf text[COUNT];
    struct request_doc *held[COUNT] = {NULL}, *doc = NULL;
    struct kms_request f;
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        struct buf client = BUF_INIT(MADE_ROOM);
        for (size_t n = 0; n < LENGTHS[i]; n++)
            buf_char(&client, (char)('a' + i));
        const struct kms_request fields = {.user_uri = STR("sip:alice@example.org"), .kms_uri = STR("kms.example.org"),
                                           .time = STR("2026-11-23T18:00:00Z"), .client_id = buf_view(&client),
                                           .client_req_url = STR("https://kms.example.org/")};
        text[i] = BUF_INIT(MADE_ROOM);
        kms_request_write(&fields, &text[i]);
        assert_false(text[i].failed || client.failed);
        buf_free(&client);
    }
    for (unsigned turn = 0; turn < 3 * COUNT; turn++) {
        const size_t i = turn % COUNT, before = (i + COUNT - 1 - turn / COUNT) % COUNT;
        assert_int_equal(request_doc_read(buf_view(&text[i]), &XML_LIMITS_REQUEST, turn % 5 == 4, &doc, NULL),
                         REASON_OK);
        request_doc_free(held[before]);
        held[before] = NULL;
        request_doc_free(held[i]);
        held[i] = doc;
        for (size_t k = 0; k < COUNT; k++)
            if (held[k]) {
                assert_true(request_doc_claim(held[k], &f));
                assert_int_equal(f.client_id.n, LENGTHS[k]);
                assert_true(f.client_id.p[0] == (char)('a' + k) && f.client_id.p[LENGTHS[k] - 1] == (char)('a' + k));
            }
        assert_int_not_equal(request_doc_read(STR("<KmsRequest"), &XML_LIMITS_REQUEST, false, &doc, NULL), REASON_OK);
        assert_null(doc);
    }
    for (size_t i = 0; i < COUNT; i++) {
        request_doc_free(held[i]);
        buf_free(&text[i]);
    }
}

static int begin(void **state)
{
    unsetenv("TESTED_REQUEST_WAY"); /* both ways are asked here, whatever the suite is told to take */
    return start_libraries(state) == 0 && mkdtemp(folder) ? 0 : -1;
}

static int end(void **state)
{
    rmdir(folder);
    return stop_libraries(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_messages),
        cmocka_unit_test(test_usual_messages),
        cmocka_unit_test(test_plain_namespaces),
        cmocka_unit_test(test_each_field),
        cmocka_unit_test(test_ampersand_in_a_namespace),
        cmocka_unit_test(test_ids_that_are_no_names),
        cmocka_unit_test(test_every_octet_of_a_digest),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_blocks_that_are_kept),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
