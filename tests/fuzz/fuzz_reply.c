/*
 * Any reply of an upstream to a proven request, made into ours under the default rule, under one that keeps all that
 * can be kept, and under one with a dialect that encrypts whole messages. Bytes that are no reply roll one, as dice
 * (tests/unit/gate/made_reply.h).
 *
 * What must hold: `internal` is no answer to anything that an upstream can send; what is sent is valid by the table and
 * by the XSD, which share nothing; its signature verifies, its keys open under the TrK; and no key that came in its
 * place stands in what is sent.
 */
#include "asking.h"

#include "../unit/gate/made_reply.h"

#include <libxml/parser.h>
#include <libxml/xmlschemas.h>
#include <libxml/xmlschemastypes.h>

#define KEEP "extensions: keep, set: { UserUri: keep, KmsUri: keep, KmsId: keep, Time: keep, ClientReqUrl: keep }"
static const char *const RULES[] = {
    RULES_BEGIN "responses: [{ id: default }]\n",
    RULES_BEGIN "responses: [{ id: keeps, " KEEP " }]\n",
    RULES_BEGIN "responses: [{ id: older, dialect: older, " KEEP ", encrypt: { content: message } }]\n"
                "dialects:\n  older:\n    namespaces: [\"urn:older\", \"\", TOBEDEFINED]\n"
                "    rename: { KmsKeyset: KmsKeySet, Key: UserSigningKeySSK }\n    point_prefix: add\n",
};
enum { PLAIN, KEEPS, OLDER, RULE_SETS };
enum { ROOM = 1 << 22, PIECE = 16 };
static const char *const KEYS[] = {"UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT", "NewTransportKey",
                                   "NewIntegrityKey"};

static xmlSchemaPtr schema;

/* URIs are held to less by validators than by each other, and libxml2 counts no further than 24 digits: both are text
 * here. */
static void read_schema(void)
{
    static const char path[] = TEST_ROOT "/xsd/kms.xsd";
    static const char *const AS_TEXT[] = {"\"xs:anyURI\"", "\"xs:integer\""}, text[] = "\"xs:string\"";
    struct buf xsd = BUF_INIT(ROOM);
    char piece[4096];
    FILE *f = fopen(path, "r");
    must(f, "no schema");
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;)
        buf_bytes(&xsd, piece, n);
    fclose(f);
    for (size_t i = 0; i < sizeof AS_TEXT / sizeof *AS_TEXT; i++)
        for (char *at = xsd.p; (at = strstr(at, AS_TEXT[i]));) {
            memset(at, ' ', strlen(AS_TEXT[i]));
            memcpy(at, text, sizeof text - 1);
        }
    xmlDocPtr doc = xmlReadMemory(xsd.p, (int)xsd.n, path, NULL, 0);
    xmlSchemaParserCtxtPtr parser = xmlSchemaNewDocParserCtxt(doc);
    schema = xmlSchemaParse(parser);
    must(schema, "no schema");
    xmlSchemaFreeParserCtxt(parser);
    xmlFreeDoc(doc);
    buf_free(&xsd);
}

static void close_all(void)
{
    xmlSchemaFree(schema);
    xmlSchemaCleanupTypes();
    asking_end();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    asking_begin(RULES, RULE_SETS);
    read_schema();
    atexit(close_all);
    return 0;
}

static bool give_trk(void *arg, struct str id, struct secret_key *out)
{
    (void)arg;
    *out = asking.trk;
    return str_eq(id, STR("trk.1.alice"));
}

static void count_key(void *arg, const struct kms_key_content *key)
{
    must(key->algorithm.p || arg, "a key in clear");
    must(key->n > 0, "no octets");
}

static void check_opens(struct str text, bool whole)
{
    static const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    struct xml_doc *doc = NULL;
    const struct xml_signed *proof = NULL;
    struct kms_response r;
    struct detail why = {""};
    const struct kms_reader reader = {.trk = give_trk, .key = count_key, .arg = whole ? &why : NULL};
    must(xml_parse(text, &XML_LIMITS_PROTECTED, &doc, &why) == REASON_OK, "%s", why.text);
    must(xmlsig_verify(doc, &policy, &asking.ink, &proof, &why) == REASON_OK, "%s", why.text);
    must(kms_response_open(proof, &reader, &r, &why) == REASON_OK, "%s: %.*s", why.text, (int)text.n, text.p);
    xml_free(doc);
}

static void print_fault(void *arg, xmlErrorPtr error)
{
    (void)arg;
    fprintf(stderr, "%s", error->message);
}

static void check_xsd(struct str text)
{
    xmlDocPtr doc = xmlReadMemory(text.p, (int)text.n, NULL, NULL, XML_PARSE_NONET | XML_PARSE_HUGE);
    xmlSchemaValidCtxtPtr ctx = xmlSchemaNewValidCtxt(schema);
    must(doc && ctx, "libxml2 reads what we write");
    xmlSchemaSetValidStructuredErrors(ctx, print_fault, NULL);
    must(xmlSchemaValidateDoc(ctx, doc) == 0, "%.*s", (int)text.n, text.p);
    xmlSchemaFreeValidCtxt(ctx);
    xmlFreeDoc(doc);
}

/* Sixteen octets of hex whose halves are more than one octet eight times. */
static bool telling(const char *hex)
{
    for (int half = 0; half < 2; half++) {
        bool same = true;
        for (int i = 1; i < PIECE / 2; i++)
            same &= strncasecmp(hex + half * PIECE, hex + half * PIECE + 2 * i, 2) == 0;
        if (same)
            return false;
    }
    return true;
}

static void check_piece(const char *hex, struct str sent)
{
    char lower[2 * PIECE], upper[2 * PIECE];
    for (size_t i = 0; i < 2 * PIECE; i++) {
        lower[i] = (char)(hex[i] | 0x20);
        upper[i] = hex[i] >= 'a' ? (char)(hex[i] - 32) : hex[i];
    }
    must(!memmem(sent.p, sent.n, lower, sizeof lower) && !memmem(sent.p, sent.n, upper, sizeof upper), "%.*s",
         (int)sizeof lower, lower);
}

/* Each key that stands in its place in the upstream's reply. */
static void check_no_key(const xmlNode *n, struct str sent)
{
    for (; n; n = n->next) {
        bool is_key = false;
        for (size_t i = 0; n->type == XML_ELEMENT_NODE && i < sizeof KEYS / sizeof *KEYS; i++)
            is_key |= str_eq_z(str_z(KEYS[i]), (const char *)n->name);
        if (is_key && n->children && n->children->type == XML_TEXT_NODE && !n->children->next) {
            const struct str text = str_trim(str_z((const char *)n->children->content));
            for (size_t i = 0; i + 2 * PIECE <= text.n; i += 2 * PIECE)
                if (telling(text.p + i))
                    check_piece(text.p + i, sent);
        }
        check_no_key(n->children, sent);
    }
}

/* Whether a reply came of it. */
static bool make(int set, int status, struct str reply)
{
    struct judgement *j = asked(asking.rules[set], reply);
    const struct gate_upstream up = {.status = status, .body = reply};
    struct gate_response out;
    const enum reason r = gate_reply(j, &up, asking.now_us + 1, &out);
    must(r == REASON_OK || r == REASON_UPSTREAM_INVALID || r == REASON_UPSTREAM_WRONG_USER ||
             r == REASON_UPSTREAM_ERROR,
         "%s", reason_name(r));
    must((r == REASON_OK) == (out.status == 200), "%d", out.status);
    must(out.body.n > 0, "no reply");
    must(kms_response_validate(buf_view(&out.body), true, NULL) == REASON_OK, "%s", out.body.p);
    check_xsd(buf_view(&out.body));
    check_opens(buf_view(&out.body), set == OLDER);
    if (r == REASON_OK && set != OLDER) {
        xmlDocPtr doc = xmlReadMemory(reply.p, (int)reply.n, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOCDATA);
        if (doc)
            check_no_key(doc->children, buf_view(&out.body));
        xmlFreeDoc(doc);
    }
    buf_free(&out.body);
    judgement_free(j);
    return r == REASON_OK;
}

static bool make_all(struct str reply)
{
    bool arrived = false;
    for (int set = 0; set < RULE_SETS; set++)
        arrived |= make(set, 200, reply);
    return arrived;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct str reply = fuzz_view(data, size);
    bool arrived = make_all(reply);
    make(PLAIN, 400 + (int)(size % 200), reply);
    if (!arrived) {
        struct dice dice = {.p = data, .n = size};
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), &made);
        must(!made.failed, "room");
        arrived = make_all(buf_view(&made));
    }
    fuzz_arrived(arrived);
    return 0;
}
