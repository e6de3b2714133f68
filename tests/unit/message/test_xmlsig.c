/* Signing and verifying: round trips, precedence of reasons, lengths, and every mutation of a signed request. */
#include "fixture.h"

#include "message/xml_internal.h"

enum { ROOM = 1u << 20 };

static const struct kms_request ALICE = {
    .user_uri = {"sip:alice@example.org", 21},
    .kms_uri = {"kms.example.org", 15},
    .time = {"2026-11-23T18:00:00Z", 20},
    .client_id = {"<client & \"1\">\r\n", 16},
    .client_req_url = {"https://kms.example.org/keymanagement/identity/v1/init", 54},
    .signature_id = {"ink.1.alice", 11}};

static struct buf signed_by(const struct kms_request *fields, const char *key_id, const struct secret_key *key)
{
    struct buf text = BUF_INIT(ROOM), out = BUF_INIT(ROOM);
    kms_request_write(fields, &text);
    assert_false(text.failed);
    assert_true(xmlsig_sign(buf_view(&text), str_z(key_id), key, &out));
    buf_free(&text);
    return out;
}

/* A copy of text with the first `from` replaced. */
static struct buf with(struct str text, const char *from, const char *to)
{
    struct buf out = BUF_INIT(ROOM);
    const char *at = memmem(text.p, text.n, from, strlen(from));
    assert_non_null(at);
    buf_bytes(&out, text.p, (size_t)(at - text.p));
    buf_z(&out, to);
    buf_bytes(&out, at + strlen(from), text.n - (size_t)(at - text.p) - strlen(from));
    assert_false(out.failed);
    return out;
}

static enum reason verdict(struct str text, const struct options *o, const struct secret_key *key)
{
    struct request_doc *doc = NULL;
    struct kms_request fields;
    struct options by_tree = *o;
    by_tree.by_tree = true;
    const enum reason r = judge(text, o, key, &doc, &fields, NULL);
    request_doc_free(doc);
    doc = NULL;
    assert_int_equal(judge(text, &by_tree, key, &doc, &fields, NULL), r);
    request_doc_free(doc);
    return r;
}

static enum reason verdict_with(const struct buf *text, const char *from, const char *to, const struct secret_key *key)
{
    const struct options strict = STRICT;
    struct buf changed = with(buf_view(text), from, to);
    const enum reason r = verdict(buf_view(&changed), &strict, key);
    buf_free(&changed);
    return r;
}

static void test_round_trip(void **state)
{
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    const struct options strict = STRICT;
    struct buf text = signed_by(&ALICE, "ink.1.alice", &key);
    struct request_doc *doc = NULL;
    struct kms_request f;
    (void)state;
    assert_int_equal(verdict(buf_view(&text), &strict, &other), REASON_SIGNATURE_INVALID);
    assert_int_equal(judge(buf_view(&text), &strict, &key, &doc, &f, NULL), REASON_OK);
    assert_true(str_eq(f.user_uri, ALICE.user_uri) && str_eq(f.client_id, ALICE.client_id) &&
                str_eq(f.time, ALICE.time));
    assert_true(str_eq(f.id, STR("xmldoc")) && str_eq(f.version, STR("1.1.0")));
    assert_null(f.device_id.p);
    assert_null(f.trk_id.p);
    assert_true(request_doc_in_profile(doc));
    request_doc_free(doc);
    buf_free(&text);
}

/* A client reads the first child node as the message: nothing may stand before it. And what we write is canonical. */
static void test_signed_text(void **state)
{
    static const char start[] = "<SignedKmsRequest xmlns=\"" NS_KMS "\"><KmsRequest xmlns=\"" NS_KMS "\" Id=\"xmldoc\"";
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text = signed_by(&ALICE, "a&b<c", &key), again = BUF_INIT(ROOM);
    struct xml_doc *doc;
    struct xmlsig_info info;
    const struct options strict = STRICT;
    (void)state;
    assert_true(str_starts(buf_view(&text), str_z(start)));
    assert_non_null(strstr(text.p, "</KmsRequest><Signature xmlns=\"" NS_DS "\"><SignedInfo>"));
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
    assert_int_equal(xmlsig_read(doc, &strict.policy, &info, NULL), REASON_OK);
    assert_true(str_eq(info.key_name, STR("a&b<c")));
    assert_true(xml_canonical(&(struct xml_subtree){.doc = doc, .apex = xml_top(doc)}, XML_C14N_INCLUSIVE, &again));
    /* but for the declaration that the payload repeats, so that it stands alone, too */
    struct buf expected = with(buf_view(&text), "<KmsRequest xmlns=\"" NS_KMS "\"", "<KmsRequest");
    assert_string_equal(again.p, expected.p);
    xml_free(doc);
    buf_free(&expected);
    buf_free(&again);
    buf_free(&text);
}

/* What is signed is the canonical form, however the payload was written. */
static void test_sign_canonicalizes(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    struct buf out = BUF_INIT(ROOM);
    struct xml_doc *doc;
    const struct xml_signed *proof = NULL;
    (void)state;
    assert_true(xmlsig_sign(
        STR("<KmsResponse Version='1' Id='xmldoc' xmlns='" NS_KMS "'><KmsId>\r\n<![CDATA[<]]></KmsId></KmsResponse>"),
        STR("k"), &key, &out));
    assert_true(str_starts(buf_view(&out), STR("<SignedKmsResponse xmlns=\"" NS_KMS "\"><KmsResponse xmlns=\"" NS_KMS
                                               "\" Id=\"xmldoc\" Version=\"1\"><KmsId>\n&lt;</KmsId></KmsResponse><")));
    assert_int_equal(xml_parse(buf_view(&out), &XML_LIMITS_REPLY, &doc, NULL), REASON_OK);
    assert_int_equal(xmlsig_verify(doc, &policy, &key, &proof, NULL), REASON_OK);
    assert_true(xml_is(proof->node, NS_KMS, "KmsResponse"));
    xml_free(doc);
    buf_free(&out);
}

static void test_sign_refuses(void **state)
{
    static const char *const bad[] = {"",
                                      "<KmsRequest",
                                      "<KmsRequest xmlns='" NS_KMS "'/>",
                                      "<KmsRequest xmlns='" NS_KMS "' Id='a'/>",
                                      "<KmsRequest Id='xmldoc'/>",
                                      "<SignedKmsRequest xmlns='" NS_KMS "' Id='xmldoc'/>",
                                      "<k:KmsRequest xmlns:k='" NS_KMS "' Id='xmldoc'/>",
                                      "<!DOCTYPE a><KmsRequest xmlns='" NS_KMS "' Id='xmldoc'/>"};
    const struct secret_key key = key_of(ALICE_INK);
    const struct str good = STR("<KmsRequest xmlns='" NS_KMS "' Id='xmldoc'/>");
    struct buf out = BUF_INIT(ROOM), small = BUF_INIT(200);
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(xmlsig_sign(str_z(bad[i]), STR("k"), &key, &out));
    assert_false(xmlsig_sign(good, STR(""), &key, &out));
    assert_false(xmlsig_sign(good, STR_MISSING, &key, &out));
    assert_false(xmlsig_sign(good, STR("k"), &key, &small));
    assert_int_equal(out.n, 0);
    assert_true(xmlsig_sign(good, STR("k"), &key, &out));
    buf_free(&out);
    buf_free(&small);
}

/* Profile before reference before value. In one pass the HMAC is before the digest, so that no stranger makes the
 * gateway hash his message; xmlsec digests first. */
static void test_precedence(void **state)
{
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    struct buf text = signed_by(&ALICE, "ink.1.alice", &key);
    struct request_doc *doc = NULL;
    struct kms_request fields;
    struct detail why = {""};
    const struct options strict = STRICT, by_tree = STRICT_BY_TREE;
    (void)state;
    struct buf reference = with(buf_view(&text), "#xmldoc", "#other");
    assert_int_equal(verdict(buf_view(&reference), &strict, &key), REASON_SIGNATURE_REFERENCE);
    assert_int_equal(verdict_with(&reference, "hmac-sha256", "hmac-sha384", &key), REASON_SIGNATURE_PROFILE);
    assert_int_equal(verdict_with(&reference, "<SignatureValue>", "<SignatureValue>?", &key),
                     REASON_SIGNATURE_REFERENCE);
    buf_free(&reference);
    /* a wrong message under a wrong key */
    struct buf forged = with(buf_view(&text), "sip:alice", "sip:bob");
    for (int i = 0; i < 4; i++) {
        const bool wrong_key = i % 2, tree = i / 2;
        assert_int_equal(judge(buf_view(&forged), tree ? &by_tree : &strict, wrong_key ? &other : &key, &doc, &fields,
                               &why), REASON_SIGNATURE_INVALID);
        assert_non_null(strstr(why.text, wrong_key && !tree ? "SignatureValue" : "DigestValue"));
    }
    buf_free(&forged);
    buf_free(&text);
}

/* verify reads for itself: skipping xmlsig_read wins nothing. */
static void test_verify_reads(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text;
    struct xml_doc *doc;
    const struct xml_signed *proof = (const struct xml_signed *)&key;
    const struct options strict = STRICT;
    (void)state;
    read_case("cases/requests/hmac-128-by-rule.xml", &text);
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
    assert_int_equal(xmlsig_verify(doc, &strict.policy, &key, &proof, NULL), REASON_SIGNATURE_PROFILE);
    assert_null(proof);
    const struct xmlsig_policy lax = {128, XMLSIG_C14N};
    assert_int_equal(xmlsig_verify(doc, &lax, &key, &proof, NULL), REASON_OK);
    xml_free(doc);
    buf_free(&text);
}

/* The replay key's second half is the decoded value, whatever its white space. */
static void test_value(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    const struct options strict = STRICT;
    struct buf texts[2];
    struct xmlsig_info info[2];
    (void)state;
    read_case("cases/requests/plain.xml", &texts[0]);
    read_case("cases/requests/value-in-lines.xml", &texts[1]);
    for (int i = 0; i < 2; i++) {
        struct xml_doc *doc;
        assert_int_equal(xml_parse(buf_view(&texts[i]), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
        assert_int_equal(xmlsig_read(doc, &strict.policy, &info[i], NULL), REASON_OK);
        assert_int_equal(info[i].value_n, 32);
        assert_int_equal(verdict(buf_view(&texts[i]), &strict, &key), REASON_OK);
        xml_free(doc);
        buf_free(&texts[i]);
    }
    assert_true(secret_equal(info[0].value, info[1].value, 32));
}

/* Keys that are almost the right one. */
static void test_keys(void **state)
{
    const struct options strict = STRICT;
    struct secret_key key = key_of(ALICE_INK);
    struct buf text = signed_by(&ALICE, "ink.1.alice", &key);
    (void)state;
    for (size_t i = 0; i < KEY_BYTES * 8; i++) {
        key.b[i / 8] ^= (uint8_t)(1u << (i % 8));
        assert_int_equal(verdict(buf_view(&text), &strict, &key), REASON_SIGNATURE_INVALID);
        key.b[i / 8] ^= (uint8_t)(1u << (i % 8));
    }
    struct secret_key zero = {{0}};
    assert_int_equal(verdict(buf_view(&text), &strict, &zero), REASON_SIGNATURE_INVALID);
    assert_int_equal(verdict(buf_view(&text), &strict, &key), REASON_OK);
    buf_free(&text);
}

/* One accepted message and what was read of it: what a mutation may at most become. */
struct original {
    struct str text;
    struct secret_key key;
    struct options options;
    char *forward; /* the canonical request without its two IDs */
    char *trk_id, *signature_id;
    size_t accepted, refused;
};

/* A mutation is refused, or says the very same. */
static void mutation(struct original *o, struct str text)
{
    struct request_doc *doc = NULL;
    struct kms_request f;
    if (judge(text, &o->options, &o->key, &doc, &f, NULL) != REASON_OK) {
        o->refused++;
        return;
    }
    struct buf forward = BUF_INIT(ROOM);
    o->accepted++;
    assert_true(request_doc_forward_claimed(doc, true, &forward));
    if (!str_eq_z(buf_view(&forward), o->forward) || !str_eq_z(f.trk_id, o->trk_id) ||
        !str_eq_z(f.signature_id, o->signature_id))
        fail_msg("accepted: %.*s", STR_FMT(text));
    buf_free(&forward);
    request_doc_free(doc);
}

static void mutate_all(struct original *o)
{
    static const char inserted[] = "A<>&\"' \n/=\xC3";
    const size_t n = o->text.n;
    char *copy = malloc(n + 1);
    assert_non_null(copy);
    memcpy(copy, o->text.p, n);
    for (size_t i = 0; i < n; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            copy[i] = (char)((unsigned char)o->text.p[i] ^ (1u << bit));
            mutation(o, (struct str){copy, n});
        }
        copy[i] = o->text.p[i];
    }
    for (size_t i = 0; i < n; i++) { /* copy holds the text without byte i */
        memcpy(copy, o->text.p, i);
        memcpy(copy + i, o->text.p + i + 1, n - i - 1);
        mutation(o, (struct str){copy, n - 1});
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(copy, o->text.p, i);
        memcpy(copy + i + 1, o->text.p + i, n - i);
        copy[i] = o->text.p[i];
        mutation(o, (struct str){copy, n + 1});
        copy[i] = inserted[i % (sizeof inserted - 1)];
        mutation(o, (struct str){copy, n + 1});
    }
    free(copy);
}

static void mutate_case(const char *path, bool by_tree)
{
    struct original o = {.key = key_of(ALICE_INK), .options = by_tree ? STRICT_BY_TREE : STRICT};
    struct buf text, forward = BUF_INIT(ROOM);
    struct request_doc *doc = NULL;
    struct kms_request f;
    read_case(path, &text);
    o.text = buf_view(&text);
    assert_int_equal(judge(o.text, &o.options, &o.key, &doc, &f, NULL), REASON_OK);
    assert_true(request_doc_forward_claimed(doc, true, &forward));
    o.forward = forward.p;
    o.trk_id = str_dup(f.trk_id);
    o.signature_id = str_dup(f.signature_id);
    assert_true(o.trk_id && o.signature_id);
    mutate_all(&o);
    assert_true(o.refused > 8 * o.text.n);
    assert_true(o.accepted < o.text.n); /* some white space between tags and attributes is nobody's */
    print_message("%s: %zu mutations refused, %zu the same\n", path, o.refused, o.accepted);
    free(o.trk_id);
    free(o.signature_id);
    request_doc_free(doc);
    buf_free(&forward);
    buf_free(&text);
}

static void test_mutations(void **state)
{
    (void)state;
    mutate_case("cases/requests/plain.xml", false);
    mutate_case("cases/requests/plain.xml", true);
}

static void test_mutations_of_an_enveloped_one(void **state)
{
    (void)state;
    mutate_case("cases/requests/envelope-empty-uri.xml", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_signed_text),
        cmocka_unit_test(test_sign_canonicalizes),
        cmocka_unit_test(test_sign_refuses),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_verify_reads),
        cmocka_unit_test(test_value),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_mutations_of_an_enveloped_one),
    };
    unsetenv("TESTED_REQUEST_WAY"); /* both ways are asked here, whatever the suite is told to take */
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
