/*
 * An older KMS's way to speak, against the standard's. The bytes roll a reply, as dice (tests/unit/gate/made_reply.h),
 * and habits: another namespace or none, other names of elements and types, keys as base64 or in lines, points without
 * their first octet, numbers with zeros or without, another encoding. The same reply, in the standard's words and in
 * the dialect's, is made into ours: what comes out must be the same, octet by octet. One that goes to an old client is
 * spoken in the dialect again, and is read back as what it was.
 */
#include "asking.h"

#include "../unit/gate/made_reply.h"

#include <libxml/parser.h>
#include <libxml/tree.h>

#define OLDER "urn:older"
#define HABITS(key_text) \
    "dialects:\n  older:\n    namespaces: [\"" OLDER "\", \"\", TOBEDEFINED]\n    point_prefix: add\n" \
    "    key_octets: numeric\n    encoding: declared\n    key_text: " key_text "\n" \
    "    rename: { Answer: KmsResponse, KmsKeyset: KmsKeySet, RSK: UserDecryptKey, SSK: UserSigningKeySSK }\n" \
    "    rename_types: { KeyText: KeyContentType, KmsKeyProvPlain: KmsKeyProvType }\n"
#define FIRST \
    "version: 1\nkms: { uris: [kms.example.org], id: kms-01 }\n" \
    "requests: [{ id: everyone, why: old clients, accept: [signed, unsigned] }]\n"
static const char *const RULES[] = {
    FIRST "responses: [{ id: older, dialect: older, extensions: keep }]\n" HABITS("auto"),
    FIRST "responses: [{ id: older, dialect: older, extensions: keep }]\n" HABITS("base64"),
    FIRST "responses: [{ id: older, dialect: older, extensions: keep }]\n" HABITS("hex"),
    FIRST "responses: [{ id: spoken, dialect: older, speak: dialect, match: { form: unsigned } }, { id: older }]\n"
    HABITS("auto"),
};
enum { AUTO, BASE64, HEX, SPOKEN, RULE_SETS };
enum { NS_STANDARD, NS_OLDER, NS_PLACEHOLDER, NS_NONE, NAMESPACES };
enum { OCTETS_MAX = 300, LINE = 60, UNCOMPRESSED = 4 };
static const char *const URIS[] = {[NS_STANDARD] = NS_KMS, [NS_OLDER] = OLDER, [NS_PLACEHOLDER] = "TOBEDEFINED"};

/* How a reply is spoken. */
struct habits {
    unsigned ns;
    bool renames, types, base64, lines, cuts_points, latin_1;
    enum { NUMBER_AS_IT_IS, NUMBER_SHORT, NUMBER_LONG } number;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    asking_begin(RULES, RULE_SETS);
    atexit(asking_end);
    return 0;
}

static bool is_kms(const xmlNode *n)
{
    return n->type == XML_ELEMENT_NODE && n->ns && strcmp((const char *)n->ns->href, NS_KMS) == 0;
}

/* The element behind n, in the order of the text; NULL: it was the last. */
static xmlNode *following(xmlNode *n)
{
    do {
        if (n->children && n->type == XML_ELEMENT_NODE)
            n = n->children;
        else {
            while (n && n->type != XML_DOCUMENT_NODE && !n->next)
                n = n->parent;
            n = n && n->type != XML_DOCUMENT_NODE ? n->next : NULL;
        }
    } while (n && n->type != XML_ELEMENT_NODE);
    return n;
}

enum kind { KIND_NONE, KIND_POINT, KIND_NUMBER };
static enum kind kind_of(const xmlNode *n)
{
    static const char *const POINTS[] = {"UserDecryptKey", "UserPubTokenPVT", "PubEncKey", "PubAuthKey"};
    for (size_t i = 0; is_kms(n) && i < sizeof POINTS / sizeof *POINTS; i++)
        if (strcmp((const char *)n->name, POINTS[i]) == 0)
            return KIND_POINT;
    return is_kms(n) && strcmp((const char *)n->name, "UserSigningKeySSK") == 0 ? KIND_NUMBER : KIND_NONE;
}

/* The octets of a key that is there as the standard has it. */
static bool key_of(xmlNode *n, uint8_t octets[OCTETS_MAX], size_t *count)
{
    const xmlNode *text = n->children;
    return kind_of(n) != KIND_NONE && text && text->type == XML_TEXT_NODE && !text->next &&
           hex_decode(str_trim(str_z((const char *)text->content)), octets, OCTETS_MAX, count) && *count > 2;
}

static void set_text(xmlNode *n, struct str text)
{
    xmlNodeSetContent(n, NULL);
    xmlNodeAddContentLen(n, BAD_CAST text.p, (int)text.n);
}

/* Points as points are; a number that begins with zeros, or does not. */
static void as_standard(xmlNode *n, bool zeros)
{
    uint8_t octets[OCTETS_MAX];
    size_t count;
    struct buf hex BUF_CLEANUP = BUF_INIT(4096);
    if (!key_of(n, octets, &count))
        return;
    if (kind_of(n) == KIND_POINT)
        octets[0] = UNCOMPRESSED;
    else if (zeros)
        octets[0] = octets[1] = 0;
    buf_hex(&hex, octets, count, true);
    set_text(n, buf_view(&hex));
}

static void key_as(const struct habits *h, xmlNode *n)
{
    uint8_t octets[OCTETS_MAX + 1];
    size_t count, from = 0;
    struct buf dense BUF_CLEANUP = BUF_INIT(4096), text BUF_CLEANUP = BUF_INIT(8192);
    if (!key_of(n, octets, &count))
        return;
    if (kind_of(n) == KIND_POINT)
        from = h->cuts_points && count % 2 && octets[0] == UNCOMPRESSED;
    else if (h->number == NUMBER_SHORT)
        while (from < count - 1 && octets[from] == 0)
            from++;
    else if (h->number == NUMBER_LONG) {
        memmove(octets + 1, octets, count++);
        octets[0] = 0;
    }
    if (h->base64)
        buf_base64(&dense, octets + from, count - from);
    else
        buf_hex(&dense, octets + from, count - from, !h->lines);
    for (size_t i = 0; i < dense.n; i++) {
        if (h->lines && i % LINE == 0)
            buf_z(&text, "\n ");
        buf_char(&text, dense.p[i]);
    }
    set_text(n, buf_view(&text));
}

static void name_as(xmlNode *n)
{
    static const struct {
        const char *standard, *older;
    } NAMES[] = {{"KmsResponse", "Answer"}, {"KmsKeySet", "KmsKeyset"}, {"UserDecryptKey", "RSK"},
                 {"UserSigningKeySSK", "SSK"}};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp((const char *)n->name, NAMES[i].standard) == 0) {
            xmlNodeSetName(n, BAD_CAST NAMES[i].older);
            return;
        }
}

/* The type in the dialect's word. False: it has one at all, and by a name that needs a namespace. */
static bool type_as(xmlNode *n, bool rename)
{
    static const struct {
        const char *standard, *older;
    } TYPES[] = {{"KeyContentType", "KeyText"}, {"KmsKeyProvType", "KmsKeyProvPlain"}};
    char text[100];
    xmlAttrPtr a = xmlHasNsProp(n, BAD_CAST "type", BAD_CAST NS_XSI);
    if (!a)
        return true;
    const char *value = a->children && a->children->content ? (const char *)a->children->content : "";
    const char *colon = strchr(value, ':'), *local = colon ? colon + 1 : value;
    for (size_t i = 0; rename && i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcmp(local, TYPES[i].standard) == 0) {
            snprintf(text, sizeof text, "%.*s%s", (int)(local - value), value, TYPES[i].older);
            xmlNodeSetContent((xmlNode *)a, BAD_CAST text);
            return false;
        }
    return false;
}

/* Every declaration of the standard's namespace is one of another. */
static void declared_as(xmlNode *n, const char *uri)
{
    for (xmlNs *ns = n->nsDef; ns; ns = ns->next)
        if (strcmp((const char *)ns->href, NS_KMS) == 0) {
            xmlFree((xmlChar *)ns->href);
            ns->href = xmlStrdup(BAD_CAST uri);
        }
}

/* … or of none: its declarations are gone, into a list, since elements point to them until they are through. */
static void bare(xmlNode *n, xmlNs **gone)
{
    for (xmlNs **link = &n->nsDef; *link;) {
        xmlNs *ns = *link;
        if (ns->prefix || strcmp((const char *)ns->href, NS_KMS) != 0) {
            link = &ns->next;
            continue;
        }
        *link = ns->next;
        ns->next = *gone;
        *gone = ns;
    }
}

/* What has no prefix would be of this namespace, not of none. */
static bool has_other_default(const xmlNode *n)
{
    for (const xmlNs *ns = n->nsDef; ns; ns = ns->next)
        if (!ns->prefix && *ns->href && strcmp((const char *)ns->href, NS_KMS) != 0)
            return true;
    return false;
}

static void write_out(xmlDocPtr doc, const char *encoding, struct buf *out)
{
    xmlChar *text = NULL;
    int n = 0;
    xmlDocDumpMemoryEnc(doc, &text, &n, encoding);
    must(text, "no memory");
    buf_bytes(out, text, (size_t)n);
    xmlFree(text);
}

/* False: the dice rolled no document. */
static bool speak(struct str made, struct habits *h, bool zeros, struct buf *standard, struct buf *spoken)
{
    xmlDocPtr doc = xmlReadMemory(made.p, (int)made.n, NULL, NULL, XML_PARSE_NONET);
    xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL;
    xmlNs *gone = NULL;
    if (!root || doc->intSubset) {
        xmlFreeDoc(doc);
        return false;
    }
    for (xmlNode *n = root; n; n = following(n))
        as_standard(n, zeros);
    write_out(doc, "UTF-8", standard);
    for (xmlNode *n = root; n; n = following(n))
        if ((!type_as(n, h->types && is_kms(n)) || has_other_default(n)) && h->ns == NS_NONE)
            h->ns = NS_OLDER;
    for (xmlNode *n = root; n; n = following(n)) {
        key_as(h, n);
        if (h->renames && is_kms(n))
            name_as(n);
        if (h->ns == NS_NONE) {
            bare(n, &gone);
            n->ns = is_kms(n) ? NULL : n->ns;
        }
    }
    for (xmlNode *n = root; h->ns != NS_NONE && n; n = following(n))
        declared_as(n, URIS[h->ns]);
    write_out(doc, h->latin_1 ? "ISO-8859-1" : "UTF-8", spoken);
    xmlFreeNsList(gone);
    xmlFreeDoc(doc);
    return true;
}

static enum reason make(int set, struct str owed, struct str reply, bool is_signed, struct gate_response *out)
{
    struct judgement *j = asked_so(asking.rules[set], owed, is_signed);
    const struct gate_upstream up = {.status = 200, .body = reply};
    const enum reason r = gate_reply(j, &up, asking.now_us + 1, out);
    must(r == REASON_OK || r == REASON_UPSTREAM_INVALID || r == REASON_UPSTREAM_WRONG_USER ||
             r == REASON_UPSTREAM_ERROR, "%s", reason_name(r));
    judgement_free(j);
    return r;
}

static bool compare(int set, struct str standard, struct str spoken)
{
    struct gate_response out[2];
    const enum reason by_standard = make(AUTO, standard, standard, true, &out[0]);
    const enum reason by_dialect = make(set, standard, spoken, true, &out[1]);
    must(by_standard == by_dialect, "%s, spoken %s, since it %s: %.*s", reason_name(by_standard),
         reason_name(by_dialect), out[1].why.text, STR_FMT(spoken));
    must(by_standard != REASON_OK || made_same(buf_view(&out[0].body), buf_view(&out[1].body), true),
         "%.*s\nspoken\n%.*s\nis\n%.*s", STR_FMT(buf_view(&out[0].body)), STR_FMT(spoken),
         STR_FMT(buf_view(&out[1].body)));
    buf_free(&out[0].body);
    buf_free(&out[1].body);
    return by_standard == REASON_OK;
}

/* For an old client that does not sign: what it gets is the dialect's. */
static void speak_again(struct str standard, struct str spoken)
{
    struct gate_response out;
    struct xml_doc *doc = NULL;
    struct kms_response read;
    struct detail why = {""};
    if (make(SPOKEN, standard, spoken, false, &out) == REASON_OK) {
        const struct dialect *d = asking.rules[SPOKEN]->responses[0].dialect;
        must(dialect_parse(buf_view(&out.body), d, &doc, &why) == REASON_OK, "%s", why.text);
        must(kms_response_read(doc, STR_MISSING, STR_MISSING, &read, &why) == REASON_OK, "%s", why.text);
        xml_free(doc);
    }
    buf_free(&out.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dice dice = {.p = size ? data : (const uint8_t *)"", .n = size};
    struct buf made BUF_CLEANUP = BUF_INIT(ASKING_ROOM), standard BUF_CLEANUP = BUF_INIT(ASKING_ROOM),
               spoken BUF_CLEANUP = BUF_INIT(ASKING_ROOM);
    struct habits h = {.ns = roll(&dice, NAMESPACES), .renames = roll(&dice, 2), .types = roll(&dice, 2),
                       .base64 = roll(&dice, 2), .lines = roll(&dice, 2), .cuts_points = roll(&dice, 2),
                       .latin_1 = roll(&dice, 2), .number = roll(&dice, 3)};
    const bool zeros = roll(&dice, 2);
    const int set = roll(&dice, 2) ? AUTO : h.base64 ? BASE64 : HEX;
    bool arrived = false;
    made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), &made);
    if (speak(buf_view(&made), &h, zeros, &standard, &spoken)) {
        must(!standard.failed && !spoken.failed, "room");
        arrived = compare(set, buf_view(&standard), buf_view(&spoken));
        speak_again(buf_view(&standard), buf_view(&spoken));
    }
    fuzz_arrived(arrived);
    return 0;
}
