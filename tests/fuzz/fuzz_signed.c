/*
 * Signed requests that are more than odd, against an independent reading. The bytes roll a request, as dice
 * (tests/unit/message/made.h); pieces of its tree are copied, moved, renamed and put elsewhere; it is signed with
 * Alice's key; and then perhaps its tree is changed once more, as who wraps a signature does. It is judged under rules
 * that forward what was proven, what was received, and JSON.
 *
 * What must hold of what is let through: xmlsec finds the signature valid; the element that its one reference names is
 * the one that fields were read from, by libxml2's tree alone; and whoever reads what is forwarded by local names, in
 * whatever namespace, the first or the last, finds the same fields.
 */
#include "asking.h"
#include "by_xmlsec.h"

#include "../unit/message/made.h"

#define SIGNED_RULES(name, forward) \
    "version: 1\nkms: { uris: [kms.example.org] }\nrequests:\n  - id: " name "\n    why: only who asks matters\n" \
    "    checks: { kms_uri: shadow, time: off, client_req_url: shadow, path_user: shadow }\n    forward: { " forward \
    ", headers: { X-User: \"{user}\" } }\nresponses: [{ id: default }]\n"
static const char *const RULES[] = {SIGNED_RULES("proven", "body: request"), SIGNED_RULES("received", "body: signed"),
                                    SIGNED_RULES("json", "body: json")};
enum { PROVEN, RECEIVED, AS_JSON, RULE_SETS };
enum { ELEMENTS = 64, OPERATIONS = 3 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    asking_begin(RULES, RULE_SETS);
    atexit(asking_end);
    return 0;
}

/* What a reader by local names takes for a field. */
struct field {
    unsigned n;
    xmlChar *first, *last;
};

static bool named(const xmlNode *n, const char *name)
{
    return n->type == XML_ELEMENT_NODE && strcmp((const char *)n->name, name) == 0;
}

/* The redirect responses of other servers hold requests' names of their own. */
static void find(xmlNode *n, const char *name, struct field *out)
{
    for (; n; n = n->next) {
        if (named(n, name)) {
            xmlFree(out->n > 1 ? out->last : NULL);
            out->last = xmlNodeGetContent(n);
            out->first = out->n++ ? out->first : out->last;
        }
        if (n->type == XML_ELEMENT_NODE && !named(n, "KrrList"))
            find(n->children, name, out);
    }
}

static void field_free(struct field *f)
{
    if (f->n)
        xmlFree(f->first);
    if (f->n > 1)
        xmlFree(f->last);
}

static bool says(const xmlChar *text, struct str value)
{
    return str_eq(str_trim(str_z((const char *)text)), str_trim(value));
}

static void check_field(xmlNode *from, const char *name, struct str value)
{
    struct field f = {0};
    find(from, name, &f);
    must(f.n == (value.p != NULL), "%u of %s", f.n, name);
    must(f.n == 0 || (says(f.first, value) && says(f.last, value)), "%s: %s, and it was judged as %.*s", name, f.last,
         STR_FMT(value));
    field_free(&f);
}

static void check_fields(xmlNode *from, const struct kms_request *r, bool ids)
{
    const struct {
        const char *name;
        struct str value;
    } FIELDS[] = {{"UserUri", r->user_uri},   {"KmsUri", r->kms_uri},     {"Time", r->time},
                  {"ClientId", r->client_id}, {"DeviceId", r->device_id}, {"ClientReqUrl", r->client_req_url},
                  {"TrK-ID", ids ? r->trk_id : STR_MISSING}, {"Signature-ID", ids ? r->signature_id : STR_MISSING}};
    for (size_t i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++)
        check_field(from, FIELDS[i].name, FIELDS[i].value);
}

static xmlNode *find_node(xmlNode *n, const char *name)
{
    for (xmlNode *below; n; n = n->next) {
        if (named(n, name))
            return n;
        if (n->type == XML_ELEMENT_NODE && (below = find_node(n->children, name)))
            return below;
    }
    return NULL;
}

/* The element of that Id; the only one. */
static void find_id(xmlNode *n, const char *id, xmlNode **out)
{
    for (; n; n = n->next) {
        xmlChar *value = n->type == XML_ELEMENT_NODE ? xmlGetNoNsProp(n, BAD_CAST "Id") : NULL;
        if (value && strcmp((const char *)value, id) == 0) {
            must(!*out, "two elements of the Id %s", id);
            *out = n;
        }
        xmlFree(value);
        if (n->type == XML_ELEMENT_NODE)
            find_id(n->children, id, out);
    }
}

/* The fields stand in the element that the reference is to. */
static void check_referenced(struct str body, const struct kms_request *r)
{
    xmlNode *signature, *reached = NULL;
    xmlDocPtr doc = read_for_xmlsec(body, &signature);
    xmlNode *reference = find_node(signature, "Reference");
    must(reference, "no reference");
    xmlChar *uri = xmlGetNoNsProp(reference, BAD_CAST "URI");
    must(uri && (uri[0] == '#' || !uri[0]), "a reference elsewhere: %s", uri);
    if (uri[0])
        find_id(doc->children, (const char *)uri + 1, &reached);
    else
        reached = xmlDocGetRootElement(doc);
    must(reached, "a reference to nothing: %s", uri);
    must(named(reached, "KmsRequest") || named(reached, "SignedKmsRequest"), "a reference to %s", reached->name);
    check_fields(find_node(reached, "KmsRequest")->children, r, true);
    xmlFree(uri);
    xmlFreeDoc(doc);
}

static void check_json(struct str body, const struct kms_request *r)
{
    size_t at;
    const char *why = "";
    struct json_doc *doc = json_read(body, &at, &why);
    must(doc, "%s in %.*s", why, STR_FMT(body));
    const struct json_value *user = json_get(json_root(doc), "UserUri"), *client = json_get(json_root(doc), "ClientId");
    must(user && str_eq(user->text, r->user_uri), "%.*s", STR_FMT(body));
    must(r->client_id.n ? client && str_eq(client->text, r->client_id) : !client, "%.*s", STR_FMT(body));
    json_free(doc);
}

static void check_forwarded(int set, struct judgement *j, struct str body)
{
    struct gate_outgoing out;
    must(gate_forward(j, body, &out) == REASON_OK, "not forwarded");
    must(out.header_count == 1 && str_eq(buf_view(&out.headers[0].value), j->request.user_uri), "X-User");
    if (set == AS_JSON) {
        check_json(buf_view(&out.body), &j->request);
    } else {
        xmlDocPtr doc = xmlReadMemory(out.body.p, (int)out.body.n, NULL, NULL, XML_PARSE_NONET);
        must(doc, "libxml2 reads what we forward");
        check_fields(doc->children, &j->request, set == RECEIVED);
        struct field requests = {0};
        find(doc->children, "KmsRequest", &requests);
        must(requests.n == 1, "%u requests", requests.n);
        field_free(&requests);
        xmlFreeDoc(doc);
    }
    must(set != RECEIVED || str_eq(buf_view(&out.body), body), "other bytes than were received");
    gate_outgoing_free(&out);
}

/* Whether it is let through. */
static bool judge(int set, struct str body)
{
    const struct gate_head head = {.method = STR("POST"), .target = STR("/keymanagement/identity/v1/keyprov"),
                                   .content_type = STR("application/xml")};
    asking.gate.rules = asking.rules[set];
    asking.gate.replay = replay_memory_new(64, asking.now_us - US_PER_S,
                                           &(struct replay_settings){.past_us = 60 * US_PER_S});
    struct judgement *j = judgement_new(&asking.gate, "fuzz");
    must(asking.gate.replay && j && gate_head(j, &head) == REASON_OK, "head");
    const bool through = gate_request(j, body, asking.now_us) == GATE_FORWARD;
    must(j->decision.reason != REASON_INTERNAL, "%s", j->decision.found[CHECK_SIGNATURE].text);
    if (through) {
        must(j->proven && str_eq_z(j->signer->id, "ink.1.alice"), "unproven");
        must(str_eq_z(j->request.user_uri, ALICE), "another user: %.*s", STR_FMT(j->request.user_uri));
        must(xmlsec_accepts(body, &asking.ink), "xmlsec refuses %.*s", STR_FMT(body));
        check_referenced(body, &j->request);
        check_forwarded(set, j, body);
    }
    judgement_free(j);
    replay_free(asking.gate.replay);
    asking.gate.replay = NULL;
    return through;
}

static void collect(xmlNode *n, xmlNode **list, size_t *count)
{
    for (; n && *count < ELEMENTS; n = n->next)
        if (n->type == XML_ELEMENT_NODE) {
            list[(*count)++] = n;
            collect(n->children, list, count);
        }
}

/* Something below the root is copied, moved, renamed, or another's from now on. */
static void rearrange(struct dice *d, xmlDocPtr doc)
{
    static const char *const NAMES[] = {"KmsRequest", "UserUri", "SignedKmsRequest", "Signature", "Object", "TrK-ID"};
    static const char *const OWNERS[] = {"urn:x", NS_KMS, NS_DS, NS_XENC};
    static const char *const IDS[] = {"xmldoc", "r-1", "other"};
    xmlNode *list[ELEMENTS], *root = xmlDocGetRootElement(doc);
    size_t n = 0;
    collect(root, list, &n);
    if (n < 3)
        return;
    xmlNode *what = list[1 + roll(d, (unsigned)n - 1)], *where = list[1 + roll(d, (unsigned)n - 1)];
    xmlNode *copy = xmlDocCopyNode(what, doc, 1);
    must(copy, "no memory");
    switch (roll(d, 6)) {
    case 0:
        xmlAddNextSibling(where, copy);
        return;
    case 1:
        xmlAddPrevSibling(where, copy);
        return;
    case 2:
        xmlAddChild(where, copy);
        return;
    case 3:
        xmlNodeSetName(what, BAD_CAST PICK(d, NAMES));
        break;
    case 4:
        xmlSetNs(what, xmlNewNs(what, BAD_CAST PICK(d, OWNERS), BAD_CAST "z"));
        break;
    default:
        xmlSetProp(what, BAD_CAST "Id", BAD_CAST PICK(d, IDS));
    }
    xmlFreeNode(copy);
}

static void rearranged(struct dice *d, struct buf *text)
{
    xmlChar *out = NULL;
    int n = 0;
    unsigned operations = roll(d, OPERATIONS);
    xmlDocPtr doc = operations ? xmlReadMemory(text->p, (int)text->n, NULL, NULL, XML_PARSE_NONET) : NULL;
    for (; doc && operations > 0; operations--)
        rearrange(d, doc);
    if (doc)
        xmlDocDumpMemory(doc, &out, &n);
    xmlFreeDoc(doc);
    if (!out)
        return;
    buf_reset(text);
    buf_bytes(text, out, (size_t)n);
    xmlFree(out);
}

/* The next text, of characters that may stand in XML. */
static struct str next_text(struct str *rest, char room[256])
{
    const struct str text = fuzz_next(rest);
    for (size_t i = 0; i < text.n; i++)
        room[i] = text.p[i] < 0x20 || text.p[i] == 0x7f ? '.' : text.p[i];
    return (struct str){room, text.n};
}

/* A right one, with the bytes as the values that are Alice's to choose. */
static void make_right(struct str rest, struct buf *out)
{
    char texts[2][256];
    struct buf request BUF_CLEANUP = BUF_INIT(MADE_ROOM);
    const struct str client = next_text(&rest, texts[0]), device = next_text(&rest, texts[1]);
    const struct kms_request fields = {.user_uri = STR(ALICE), .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"), .client_id = client, .device_id = device,
                                       .client_req_url = STR("http://127.0.0.1:8080/"),
                                       .trk_id = STR("trk.1.alice"), .signature_id = STR("ink.1.alice")};
    buf_reset(out);
    kms_request_write(&fields, &request);
    if (request.failed || !xmlsig_sign(buf_view(&request), STR("ink.1.alice"), &asking.ink, out))
        buf_reset(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dice dice = {.p = size ? data : (const uint8_t *)"", .n = size};
    struct buf text BUF_CLEANUP = BUF_INIT(MADE_ROOM);
    const unsigned before = roll(&dice, 4), after = roll(&dice, 4);
    bool arrived = false;
    made_request(&dice, &text);
    if (before == 1)
        made_mutate(&dice, &text);
    if (before == 2)
        rearranged(&dice, &text);
    made_sign(&asking.ink, &text);
    if (after == 1)
        rearranged(&dice, &text);
    must(!text.failed, "room");
    for (int set = 0; set < RULE_SETS; set++)
        arrived |= judge(set, buf_view(&text));
    if (!arrived) {
        make_right(fuzz_view(data, size), &text);
        for (int set = 0; set < RULE_SETS; set++)
            arrived |= judge(set, buf_view(&text));
    }
    fuzz_arrived(arrived);
    return 0;
}
