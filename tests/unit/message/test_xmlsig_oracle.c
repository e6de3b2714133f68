/*
 * Other implementations as the oracle: what we accept, xmlsec accepts; what we sign, xmlsec and its program verify;
 * what they sign, we verify. Everything here is xmlsec at its laxest: the profile is ours alone to refuse.
 */
#include "program.h"

#include <libxml/parser.h>
#include <xmlsec/crypto.h>
#include <xmlsec/errors.h>
#include <xmlsec/keys.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>
#include <xmlsec/xmltree.h>

enum { ROOM = 1u << 20 };
static char folder[] = "/tmp/kmsgate-oracle-XXXXXX";

static int start_xmlsec(void **state)
{
    if (start_libraries(state) != 0) /* xmlsec among them */
        return -1;
    return mkdtemp(folder) ? 0 : -1;
}

static int stop_xmlsec(void **state)
{
    rmdir(folder);
    return stop_libraries(state);
}

static void register_ids(xmlDocPtr doc, xmlNodePtr n)
{
    for (; n; n = n->next) {
        xmlAttrPtr id = n->type == XML_ELEMENT_NODE ? xmlHasProp(n, BAD_CAST "Id") : NULL;
        if (id && id->children)
            xmlAddID(NULL, doc, id->children->content, id);
        register_ids(doc, n->children);
    }
}

static bool xmlsec_accepts(struct str text, const struct secret_key *key)
{
    bool ok = false;
    xmlDocPtr doc = xmlReadMemory(text.p, (int)text.n, NULL, NULL, XML_PARSE_NONET);
    if (!doc)
        return false;
    register_ids(doc, xmlDocGetRootElement(doc));
    xmlNodePtr signature = xmlSecFindNode(xmlDocGetRootElement(doc), xmlSecNodeSignature, xmlSecDSigNs);
    xmlSecDSigCtxPtr ctx = xmlSecDSigCtxCreate(NULL);
    assert_non_null(ctx);
    ctx->signKey = xmlSecKeyReadMemory(xmlSecKeyDataHmacId, key->b, KEY_BYTES);
    assert_non_null(ctx->signKey);
    if (signature)
        ok = xmlSecDSigCtxVerify(ctx, signature) == 0 && ctx->status == xmlSecDSigStatusSucceeded;
    xmlSecDSigCtxDestroy(ctx);
    xmlFreeDoc(doc);
    return ok;
}

static bool we_accept(struct str text, const struct options *o, const struct secret_key *key)
{
    struct request_doc *doc = NULL;
    struct kms_request fields;
    const bool ok = judge(text, o, key, &doc, &fields, NULL) == REASON_OK;
    request_doc_free(doc);
    return ok;
}

static struct buf our_request(const struct secret_key *key)
{
    const struct kms_request fields = {.user_uri = STR("sip:alice@example.org"),
                                       .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"),
                                       .client_id = STR("\xC3\xA9 <&>\"'\r\n\t"),
                                       .client_req_url = STR("https://kms.example.org/?a&b"),
                                       .signature_id = STR("ink.1.alice")};
    struct buf text = BUF_INIT(ROOM), out = BUF_INIT(ROOM);
    kms_request_write(&fields, &text);
    assert_true(xmlsig_sign(buf_view(&text), STR("ink.1.alice"), key, &out));
    buf_free(&text);
    return out;
}

static void test_we_sign_xmlsec_verifies(void **state)
{
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    struct buf text = our_request(&key);
    (void)state;
    assert_true(xmlsec_accepts(buf_view(&text), &key));
    assert_false(xmlsec_accepts(buf_view(&text), &other));
    buf_free(&text);
}

/* One case of verdicts.tsv that is accepted, whatever the options. */
static void accepted_case(const char *name, size_t *count)
{
    const struct secret_key ink = key_of(ALICE_INK), trk = key_of(ALICE_TRK);
    const struct options lax = {{128, XMLSIG_C14N | XMLSIG_EXC_C14N | XMLSIG_C14N11}, VERSIONS, true, false};
    const struct secret_key *key = strcmp(name, "by-trk") == 0 ? &trk : &ink;
    char path[256];
    struct buf text;
    snprintf(path, sizeof path, "cases/requests/%s.xml", name);
    read_case(path, &text);
    if (!we_accept(buf_view(&text), &lax, key) || !xmlsec_accepts(buf_view(&text), key))
        fail_msg("%s: we and xmlsec do not agree", name);
    buf_free(&text);
    ++*count;
}

static void test_accepted_cases(void **state)
{
    struct buf table;
    char *save = NULL;
    size_t count = 0;
    (void)state;
    read_case("cases/requests/verdicts.tsv", &table);
    for (char *line = strtok_r(table.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *inner = NULL;
        const char *name = strtok_r(line, "\t", &inner);
        strtok_r(NULL, "\t", &inner);
        const char *reason = strtok_r(NULL, "\t", &inner);
        assert_non_null(reason);
        if (strcmp(reason, "ok") == 0)
            accepted_case(name, &count);
    }
    assert_true(count > 40);
    buf_free(&table);
}

/* We accept, xmlsec refuses: never. */
static void test_mutations_agree(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    const struct options strict = STRICT;
    struct buf text = our_request(&key);
    size_t accepted = 0;
    (void)state;
    for (size_t i = 0; i < text.n; i++) {
        const char was = text.p[i];
        for (unsigned c = 9; c < 127; c++) {
            text.p[i] = (char)c;
            if (!we_accept(buf_view(&text), &strict, &key))
                continue;
            accepted++;
            if (!xmlsec_accepts(buf_view(&text), &key))
                fail_msg("we accept, xmlsec refuses: %s", text.p);
        }
        text.p[i] = was;
    }
    assert_true(accepted >= text.n); /* each byte as it was */
    buf_free(&text);
}

static void test_we_sign_the_program_verifies(void **state)
{
    const struct secret_key key = key_of(ALICE_INK);
    struct buf text = our_request(&key);
    char key_path[256], path[256], out[256];
    (void)state;
    put_file(folder, "key", (struct str){(const char *)key.b, KEY_BYTES}, key_path);
    put_file(folder, "out", STR(""), out);
    put_file(folder, "request.xml", buf_view(&text), path);
    assert_int_equal(xmlsec1("--verify", key_path, path, out), 0);
    char *at = strstr(text.p, "sip:alice");
    assert_non_null(at);
    at[4] = 'b';
    put_file(folder, "request.xml", buf_view(&text), path);
    assert_int_not_equal(xmlsec1("--verify", key_path, path, out), 0);
    unlink(key_path);
    unlink(path);
    unlink(out);
    buf_free(&text);
}

static void test_the_program_signs_we_verify(void **state)
{
    static const char template[] =
        "<?xml version=\"1.0\"?>\n<SignedKmsRequest xmlns=\"" NS_KMS "\" xmlns:x=\"urn:x\">\n"
        "  <KmsRequest Id=\"r-1\" Version=\"1.1.0\"><UserUri>sip:alice@example.org</UserUri><KmsUri>kms</KmsUri>\n"
        "    <Time>2026-11-23T18:00:00Z</Time><ClientReqUrl>http://kms/</ClientReqUrl><x:E a='1' "
        "b=\"&lt;\"/></KmsRequest>\n"
        "<d:Signature xmlns:d=\"" NS_DS "\"><d:SignedInfo><d:CanonicalizationMethod "
        "Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/><d:SignatureMethod "
        "Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256\"/><d:Reference URI=\"#r-1\"><d:DigestMethod "
        "Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><d:DigestValue/></d:Reference></d:SignedInfo>"
        "<d:SignatureValue/><d:KeyInfo><d:KeyName>ink.1.alice</d:KeyName></d:KeyInfo></d:Signature></SignedKmsRequest>";
    const struct secret_key key = key_of(ALICE_INK), other = key_of(ALICE_TRK);
    const struct options strict = STRICT;
    char key_path[256], path[256], out[256];
    struct buf text = BUF_INIT(ROOM);
    (void)state;
    put_file(folder, "key", (struct str){(const char *)key.b, KEY_BYTES}, key_path);
    put_file(folder, "template.xml", str_z(template), path);
    put_file(folder, "out.xml", STR(""), out);
    assert_int_equal(xmlsec1("--sign", key_path, path, out), 0);
    FILE *f = fopen(out, "rb");
    assert_non_null(f);
    char *room = buf_reserve(&text, 65536);
    assert_non_null(room);
    text.n += fread(room, 1, 65536, f);
    fclose(f);
    assert_true(we_accept(buf_view(&text), &strict, &key));
    assert_false(we_accept(buf_view(&text), &strict, &other));
    unlink(key_path);
    unlink(path);
    unlink(out);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_we_sign_xmlsec_verifies),
        cmocka_unit_test(test_accepted_cases),
        cmocka_unit_test(test_mutations_agree),
        cmocka_unit_test(test_we_sign_the_program_verifies),
        cmocka_unit_test(test_the_program_signs_we_verify),
    };
    return cmocka_run_group_tests(tests, start_xmlsec, stop_xmlsec);
}
