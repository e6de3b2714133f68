/*
 * Other implementations as the oracle: what we sign and wrap, python-xmlsec and `cryptography` verify and unwrap; the
 * signature in a SignedKmsCertificate, made and verified by xmlsec, outlives our writing it anew.
 */
#include "fixture.h"
#include "replies.h"

#include <sys/wait.h>
#include <unistd.h>

#include <xmlsec/crypto.h>
#include <xmlsec/errors.h>
#include <xmlsec/keys.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>
#include <xmlsec/xmltree.h>

#define TRK_ID STR("trk.1.alice")
#define INK_ID STR("ink.1.alice")
#define SIGNATURE                                                                                                   \
    "<ds:Signature xmlns:ds=\"" NS_DS "\"><ds:SignedInfo><ds:CanonicalizationMethod "                               \
    "Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/><ds:SignatureMethod "                           \
    "Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256\"/><ds:Reference URI=\"#cert\">"                \
    "<ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><ds:DigestValue/></ds:Reference>"      \
    "</ds:SignedInfo><ds:SignatureValue/></ds:Signature>"

static char folder[] = "/tmp/kmsgate-reply-XXXXXX";

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

/* Signs, or verifies, the first Signature in the document by a key of ours. */
static bool run_xmlsec(xmlDocPtr doc, bool sign)
{
    const struct secret_key key = key_of(ALICE_INK);
    register_ids(doc, xmlDocGetRootElement(doc));
    xmlNodePtr signature = xmlSecFindNode(xmlDocGetRootElement(doc), xmlSecNodeSignature, xmlSecDSigNs);
    xmlSecDSigCtxPtr ctx = xmlSecDSigCtxCreate(NULL);
    assert_non_null(signature);
    ctx->signKey = xmlSecKeyReadMemory(xmlSecKeyDataHmacId, key.b, KEY_BYTES);
    const bool ok = sign ? xmlSecDSigCtxSign(ctx, signature) == 0
                         : xmlSecDSigCtxVerify(ctx, signature) == 0 && ctx->status == xmlSecDSigStatusSucceeded;
    xmlSecDSigCtxDestroy(ctx);
    return ok;
}

/* Every element of the text gets the prefix. */
static void prefix_all(struct buf *text, const char *prefix)
{
    struct buf out = BUF_INIT(REPLY_MAX);
    for (size_t i = 0; i < text->n; i++) {
        buf_char(&out, text->p[i]);
        if (text->p[i] != '<')
            continue;
        if (text->p[i + 1] == '/')
            buf_char(&out, text->p[++i]);
        buf_z(&out, prefix);
    }
    buf_free(text);
    *text = out;
}

struct variant {
    enum kms_message message;
    const char *prefix;   /* of every element */
    const char *declare;  /* on the root, instead of the default namespace */
    bool new_key;
    enum reason reason;
};

static void upstream_text(const struct variant *v, struct buf *text)
{
    put_reply(text, v->message);
    replace(text, "<KmsCertificate ", "<SignedKmsCertificate Id=\"outer\">\n<KmsCertificate Id=\"cert\" ");
    replace(text, "</KmsCertificate>", "</KmsCertificate><SIGNATURE/></SignedKmsCertificate>");
    if (v->new_key) {
        struct buf key = BUF_INIT(1024);
        put_hex(&key, "NewTransportKey", 's', SSK_OCTETS);
        buf_z(&key, "</KmsInit>");
        replace(text, "</KmsInit>", key.p);
        buf_free(&key);
    }
    prefix_all(text, v->prefix);
    replace(text, " xmlns=\"" NS_KMS "\"", v->declare);
    struct buf mark = BUF_INIT(64);
    buf_printf(&mark, "<%sSIGNATURE/>", v->prefix);
    replace(text, mark.p, SIGNATURE);
    buf_free(&mark);
    xmlDocPtr tree = xmlReadMemory(text->p, (int)text->n, NULL, NULL, XML_PARSE_NONET);
    assert_non_null(tree);
    assert_true(run_xmlsec(tree, true));
    xmlChar *dump = NULL;
    int n = 0;
    xmlDocDumpMemory(tree, &dump, &n);
    buf_reset(text);
    buf_bytes(text, dump, (size_t)n);
    xmlFree(dump);
    xmlFreeDoc(tree);
}

static struct kms_response_plan plan_of(struct xmlenc *enc)
{
    return (struct kms_response_plan){.user_uri = STR(REPLY_USER), .kms_uri = STR("kms.example.org"),
                                      .time = STR("2026-11-23T18:00:01Z"),
                                      .client_req_url = STR("https://kms.example.org/"), .protect = PROTECT_KEYS,
                                      .enc = enc, .trk_id = TRK_ID, .signature_id = INK_ID};
}

/* Read, written by the plan, signed. */
static enum reason protect(struct str text, const struct kms_response_plan *plan, struct buf *out)
{
    const struct secret_key ink = key_of(ALICE_INK);
    struct buf payload = BUF_INIT(REPLY_MAX);
    struct xml_doc *doc = NULL;
    struct kms_response r;
    struct detail why = {""};
    bool encrypted;
    *out = BUF_INIT(REPLY_MAX);
    if (xml_parse(text, &XML_LIMITS_REPLY, &doc, &why) != REASON_OK ||
        kms_response_read(doc, STR(REPLY_USER), STR_MISSING, &r, &why) != REASON_OK)
        fail_msg("%s\n%.*s", why.text, STR_FMT(text));
    const enum reason reason = kms_response_write(&r, plan, &payload, &encrypted, NULL);
    if (reason == REASON_OK) {
        assert_true(xmlsig_sign(buf_view(&payload), INK_ID, &ink, out));
        assert_int_equal(kms_response_validate(buf_view(out), true, NULL), REASON_OK);
        assert_xsd_valid(buf_view(out));
    }
    xml_free(doc);
    buf_free(&payload);
    return reason;
}

static void test_signed_certificates(void **state)
{
    (void)state;
    static const struct variant VARIANTS[] = {
        {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\"", false, REASON_OK},
        {KMS_MESSAGE_CERTCACHE, "", " xmlns=\"" NS_KMS "\"", false, REASON_OK},
        {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\" xmlns:v=\"urn:v\" xmlns:xsi=\"" NS_XSI "\"", false, REASON_OK},
        {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\" xmlns:v=\"urn:v\" xmlns:xsi=\"" NS_XSI "\"", true, REASON_OK},
        {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\" xmlns:xenc=\"urn:v\" xmlns:xsi=\"urn:w\"", true, REASON_OK},
        {KMS_MESSAGE_INIT, "k:", " xmlns:k=\"" NS_KMS "\"", false, REASON_OK},
        {KMS_MESSAGE_CERTCACHE, "k:", " xmlns:k=\"" NS_KMS "\" xmlns=\"urn:default\"", false, REASON_OK},
        {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\"", true, REASON_UPSTREAM_INVALID},
    };
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    for (size_t i = 0; i < sizeof VARIANTS / sizeof VARIANTS[0]; i++) {
        const struct kms_response_plan plan = plan_of(enc);
        struct buf text, out;
        upstream_text(&VARIANTS[i], &text);
        assert_int_equal(protect(buf_view(&text), &plan, &out), VARIANTS[i].reason);
        if (VARIANTS[i].reason == REASON_OK) {
            xmlDocPtr tree = xmlReadMemory(out.p, (int)out.n, NULL, NULL, XML_PARSE_NONET);
            /* the first Signature in the text is the certificate's */
            if (!run_xmlsec(tree, false))
                fail_msg("variant %zu: the certificate's signature is broken:\n%s", i, out.p);
            xmlFreeDoc(tree);
            /* the twin: a changed certificate does not verify */
            replace(&out, "sec1.example.org", "sec2.example.org");
            tree = xmlReadMemory(out.p, (int)out.n, NULL, NULL, XML_PARSE_NONET);
            assert_false(run_xmlsec(tree, false));
            xmlFreeDoc(tree);
        }
        buf_free(&out);
        buf_free(&text);
    }
    xmlenc_free(enc);
}

/* What stands in a signed certificate cannot be put in order: out of order is invalid. */
static void test_signed_certificate_out_of_order(void **state)
{
    (void)state;
    const struct variant v = {KMS_MESSAGE_INIT, "", " xmlns=\"" NS_KMS "\"", false, REASON_OK};
    struct xml_doc *doc = NULL;
    struct kms_response r;
    struct buf text;
    upstream_text(&v, &text);
    replace(&text, "<UserIdFormat>2</UserIdFormat>", "");
    replace(&text, "<ParameterSet>", "<UserIdFormat>2</UserIdFormat><ParameterSet>");
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REPLY, &doc, NULL), REASON_OK);
    assert_int_equal(kms_response_read(doc, STR_MISSING, STR_MISSING, &r, NULL), REASON_UPSTREAM_INVALID);
    xml_free(doc);
    buf_free(&text);
}

/* The end-to-end tests' client, which shares no line with us: 0 when it verifies the reply and finds the three keys. */
static int ask_python(struct str reply, bool quiet)
{
    static const char script[] =
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "try:\n    import kms\nexcept ImportError:\n    sys.exit(77)\n"
        "r = kms.Reply(200, {}, open(sys.argv[2], 'rb').read())\n"
        "assert r.signed and r.verify(bytes.fromhex(sys.argv[3]), 'ink.1.alice')\n"
        "keys = r.keys(bytes.fromhex(sys.argv[4]), 'trk.1.alice')\n"
        "assert [(n, len(k)) for n, k in keys] == [('UserDecryptKey', 257), ('UserSigningKeySSK', 32), "
        "('UserPubTokenPVT', 65)], keys\n"
        "assert keys[1][1].hex() == sys.argv[5], keys\n";
    char path[96], ssk[2 * SSK_OCTETS + 1];
    int status = 0;
    for (size_t i = 0; i < SSK_OCTETS; i++)
        snprintf(ssk + 2 * i, 3, "%02x", key_octet('s', i));
    snprintf(path, sizeof path, "%s/reply.xml", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(reply.p, 1, reply.n, f);
    fclose(f);
    const pid_t child = fork();
    if (child == 0) {
        if (quiet)
            close(STDERR_FILENO);
        execl("/usr/bin/python3", "python3", "-B", "-c", script, TEST_ROOT "/e2e", path, ALICE_INK, ALICE_TRK, ssk,
              (char *)NULL);
        _exit(126);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    unlink(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_python_opens_it(void **state)
{
    (void)state;
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    static const enum key_wrap wraps[] = {KEY_WRAP_AUTO, KEY_WRAP_KWP, KEY_WRAP_GCM, KEY_WRAP_AUTO};
    for (size_t i = 0; i < 4; i++) {
        struct kms_response_plan plan = plan_of(enc);
        struct buf text, out;
        plan.wrap = wraps[i];
        plan.protect = i < 3 ? PROTECT_KEYS : PROTECT_MESSAGE;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        assert_int_equal(protect(buf_view(&text), &plan, &out), REASON_OK);
        const int result = ask_python(buf_view(&out), false);
        if (result == 77 || result == 126) {
            print_message("no python3 with xmlsec, lxml and cryptography: not asked\n");
            buf_free(&text);
            buf_free(&out);
            break;
        }
        assert_int_equal(result, 0);
        replace(&out, "CipherValue>", "CipherValue>AAAA"); /* the twin */
        assert_int_not_equal(ask_python(buf_view(&out), true), 0);
        buf_free(&text);
        buf_free(&out);
    }
    xmlenc_free(enc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signed_certificates),
        cmocka_unit_test(test_signed_certificate_out_of_order),
        cmocka_unit_test(test_python_opens_it),
    };
    return cmocka_run_group_tests(tests, start_xmlsec, stop_xmlsec);
}
