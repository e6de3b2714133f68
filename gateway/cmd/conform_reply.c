/* TS 33.180 D.3 and D.3.1: what an answer must be, resource by resource. */
#include <errno.h>
#include <fcntl.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/timestamp.h"
#include "base/uri.h"
#include "cmd/conform.h"

#define INTERFACE "urn:3gpp:ns:mcsecKMSInterface:1.0"
#define XENC "http://www.w3.org/2001/04/xmlenc#"
#define DSIG "http://www.w3.org/2000/09/xmldsig#"
#define XSI "http://www.w3.org/2001/XMLSchema-instance"

enum { PAUSE_MS = 20, TIME_APART_US = 60 * 1000000, DEPTH_MAX = 64 };

static bool is_element(const xmlNode *n, const char *ns, const char *name)
{
    return n && n->type == XML_ELEMENT_NODE && n->ns && strcmp((const char *)n->ns->href, ns) == 0 &&
           (!name || strcmp((const char *)n->name, name) == 0);
}

static xmlNode *child(const xmlNode *parent, const char *ns, const char *name)
{
    xmlNode *n = parent ? parent->children : NULL;
    while (n && !is_element(n, ns, name))
        n = n->next;
    return n;
}

/* The text of an element that holds only that; NULL: there is no such element. The caller frees by xmlFree(). */
static char *reply_field(const struct conform_reply *r, const char *name)
{
    const xmlNode *n = child(r->response, INTERFACE, name);
    return n ? (char *)xmlNodeGetContent(n) : NULL;
}

static bool field_is(const struct conform_reply *r, const char *name, struct str due, char text[CONFORM_TEXT])
{
    char *found = reply_field(r, name);
    const bool same = found && str_eq(str_trim(str_z(found)), due);
    if (!same)
        snprintf(text, CONFORM_TEXT, "%s is %s%.80s%s, expected `%.*s`", name, found ? "`" : "not there",
                 found ? found : "", found ? "`" : "", (int)(due.n < 80 ? due.n : 80), due.p ? due.p : "");
    xmlFree(found);
    return same;
}

static void see(struct conform_reply *r)
{
    r->doc = r->body.n ? xmlReadMemory(r->body.p, (int)r->body.n, NULL, NULL,
                                       XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING) : NULL;
    xmlNode *root = r->doc ? xmlDocGetRootElement(r->doc) : NULL;
    r->is_signed = is_element(root, INTERFACE, "SignedKmsResponse");
    if (r->is_signed)
        r->response = child(root, INTERFACE, "KmsResponse");
    else if (is_element(root, INTERFACE, "KmsResponse"))
        r->response = root;
    r->error = child(r->response, INTERFACE, "KmsError") != NULL;
    const xmlNode *message = child(r->response, INTERFACE, "KmsMessage");
    for (const xmlNode *n = message ? message->children : NULL; n && !r->message; n = n->next)
        if (n->type == XML_ELEMENT_NODE)
            r->message = is_element(n, XENC, "EncryptedData") ? "encrypted" : (const char *)n->name;
}

static void keep_file(struct conform *c, const char *name, const char *kind, struct str text)
{
    char path[96];
    if (c->folder < 0)
        return;
    snprintf(path, sizeof path, "%03u-%s.%s", c->sent, name, kind);
    const int fd = openat(c->folder, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    const bool ok = fd >= 0 && file_write_all(fd, text.p, text.n);
    if (!ok && !c->broken) {
        complain("conform: %s/%s: cannot be written: %s", c->options->out, path, strerror(errno));
        c->broken = true;
    }
    if (fd >= 0)
        close(fd);
}

void conform_post(struct conform *c, const char *resource, const char *name, struct str body, struct conform_reply *r)
{
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20);
    char status[32];
    const struct conform_options *o = c->options;
    *r = (struct conform_reply){.body = BUF_INIT_SECRET(LIMIT_REPLY_OUT)};
    buf_z(&url, o->url);
    buf_z(&url, "/keymanagement/identity/v1");
    buf_z(&url, resource);
    if (url.failed) {
        c->broken = true;
        return;
    }
    r->exchange = ++c->sent;
    nanosleep(&(struct timespec){0, PAUSE_MS * 1000000}, NULL); /* it may be a KMS that people depend on */
    r->arrived = client_post(&(struct client_post){.url = url.p, .connect = o->connect, .ca = o->ca,
                                                   .certificate = o->cert, .key = o->key, .token_file = o->token_file,
                                                   .body = body, .quiet = c->sent > 1}, &r->status, &r->body);
    if (r->arrived)
        see(r);
    snprintf(status, sizeof status, "HTTP %ld\n", r->status);
    keep_file(c, name, "request.xml", body);
    keep_file(c, name, "response.xml", r->body.p ? buf_view(&r->body) : STR(""));
    keep_file(c, name, "status", str_z(r->arrived ? status : "no answer\n"));
}

void conform_reply_free(struct conform_reply *r)
{
    xmlFreeDoc(r->doc);
    buf_free(&r->body);
    r->doc = r->response = NULL;
}

bool conform_accepted(const struct conform_reply *r, char text[CONFORM_TEXT])
{
    const xmlNode *said = r->error ? child(child(r->response, INTERFACE, "KmsError"), INTERFACE, "ErrorMsg") : NULL;
    char *message = said ? (char *)xmlNodeGetContent(said) : NULL;
    const bool ok = r->arrived && r->status >= 200 && r->status < 300 && r->response && !r->error;
    if (!r->arrived)
        snprintf(text, CONFORM_TEXT, "no answer came");
    else if (!ok)
        snprintf(text, CONFORM_TEXT, "HTTP %ld%s%.150s", r->status,
                 !r->response ? ", and a body that is not a KmsResponse"
                 : r->error   ? ", KmsError: "
                              : ", a KmsResponse",
                 message ? message : "");
    xmlFree(message);
    return ok;
}

/* By xmlsec1, with the key that signed the request. The proof lives as long as *doc, which the caller frees; NULL: it
 * does not hold, and `text` says why. */
static const struct xml_signed *prove(const struct conform *c, const struct conform_reply *r, struct xml_doc **doc,
                                      char text[CONFORM_TEXT])
{
    static const struct xmlsig_policy POLICY = {.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N};
    const struct xml_signed *proof = NULL;
    struct detail why = {""};
    struct xmlsig_info info = {0};
    *doc = NULL;
    if (!r->is_signed) {
        snprintf(text, CONFORM_TEXT, "it is not signed: a bare KmsResponse");
        return NULL;
    }
    enum reason reason = xml_parse(buf_view(&r->body), &XML_LIMITS_PROTECTED, doc, &why);
    if (reason == REASON_OK)
        reason = xmlsig_read(*doc, &POLICY, &info, &why);
    if (reason == REASON_OK && !str_eq(info.key_name, c->signer->id)) {
        detail_set(&why, "KeyName: found `%.*s`, expected the key that signed the request, `%.*s`",
                   STR_FMT(info.key_name), STR_FMT(c->signer->id));
        reason = REASON_SIGNATURE_INVALID;
    }
    if (reason == REASON_OK)
        reason = xmlsig_verify(*doc, &POLICY, &c->signer->key, &proof, &why);
    if (reason != REASON_OK)
        snprintf(text, CONFORM_TEXT, "%.200s", why.text);
    return reason == REASON_OK ? proof : NULL;
}

static bool fields_hold(const struct conform *c, const struct conform_reply *r, const char *resource,
                        char text[CONFORM_TEXT])
{
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20);
    int64_t at = 0;
    bool zone;
    buf_z(&url, c->options->url);
    buf_z(&url, "/keymanagement/identity/v1");
    buf_z(&url, resource);
    if (url.failed || !field_is(r, "UserUri", c->client.user, text) || !field_is(r, "KmsUri", c->kms_uri, text) ||
        !field_is(r, "ClientReqUrl", buf_view(&url), text))
        return false;
    char *time = reply_field(r, "Time");
    const bool now = time && time_parse(str_trim(str_z(time)), &at, &zone) && llabs(at - time_now_us()) < TIME_APART_US;
    if (!now)
        snprintf(text, CONFORM_TEXT, "Time is %.60s, expected about now", time ? time : "not there");
    xmlFree(time);
    return now;
}

struct contents {
    const struct conform *c;
    unsigned keys, clear;     /* key contents; those in clear */
    unsigned untyped, others; /* encrypted: without the xsi:type that says so; not under the TrK */
    unsigned misnamed;        /* under a name whose method cannot wrap as many octets */
};

static bool is_key(const xmlNode *n)
{
    static const char *const NAMES[] = {"UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT", "NewTransportKey",
                                        "NewIntegrityKey"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (is_element(n, INTERFACE, NAMES[i]))
            return true;
    return false;
}

static bool under_trk(const struct conform *c, const xmlNode *encrypted)
{
    const xmlNode *name = child(child(encrypted, DSIG, "KeyInfo"), DSIG, "KeyName");
    char *id = name ? (char *)xmlNodeGetContent(name) : NULL;
    const bool own = id && c->trk && str_eq(str_trim(str_z(id)), c->trk->id);
    xmlFree(id);
    return own;
}

/* The schema's type of a key content is abstract: each names its own, by a QName that ends so. */
static bool says_encrypted(const xmlNode *n)
{
    static const struct str ENCRYPTED = STR("EncKeyContentType");
    xmlChar *type = xmlGetNsProp(n, (const xmlChar *)"type", (const xmlChar *)XSI);
    const struct str name = str_trim(str_z(type ? (const char *)type : ""));
    const bool own = str_ends(name, ENCRYPTED) && (name.n == ENCRYPTED.n || name.p[name.n - ENCRYPTED.n - 1] == ':');
    xmlFree(type);
    return own;
}

/* An RSK has 257 octets and a PVT 65: RFC 3394 wraps whole blocks of 8. */
static bool is_odd(const xmlNode *n)
{
    return is_element(n, INTERFACE, "UserDecryptKey") || is_element(n, INTERFACE, "UserPubTokenPVT");
}

static bool is_kw(const xmlNode *encrypted)
{
    const xmlNode *method = child(encrypted, XENC, "EncryptionMethod");
    xmlChar *name = method ? xmlGetNoNsProp(method, (const xmlChar *)"Algorithm") : NULL;
    const bool same = name && strcmp((const char *)name, XENC "kw-aes256") == 0;
    xmlFree(name);
    return same;
}

static void count_keys(struct contents *k, const xmlNode *parent, unsigned depth)
{
    for (const xmlNode *n = parent && depth < DEPTH_MAX ? parent->children : NULL; n; n = n->next) {
        if (n->type != XML_ELEMENT_NODE)
            continue;
        if (!is_key(n)) {
            count_keys(k, n, depth + 1);
            continue;
        }
        const xmlNode *encrypted = child(n, XENC, "EncryptedKey");
        k->keys++;
        k->clear += !encrypted;
        k->untyped += encrypted && !says_encrypted(n);
        k->others += encrypted && !under_trk(k->c, encrypted);
        k->misnamed += encrypted && is_odd(n) && is_kw(encrypted);
    }
}

static bool give_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct conform *c = arg;
    if (!c->trk || !str_eq(id, c->trk->id))
        return false;
    *out = c->trk->key;
    return true;
}

static void pass_over(void *arg, const struct kms_key_content *key)
{
    (void)arg;
    (void)key;
}

/* What is encrypted can be opened with the TrK, and is what the schema says. */
static bool reply_opens(const struct conform *c, const struct xml_signed *proof, char text[CONFORM_TEXT])
{
    const struct kms_reader reader = {give_trk, pass_over, NULL, (void *)(uintptr_t)c};
    struct kms_response response;
    struct detail why = {""};
    const enum reason reason = kms_response_open(proof, &reader, &response, &why);
    if (reason != REASON_OK)
        snprintf(text, CONFORM_TEXT, "%.200s", *why.text ? why.text : reason_name(reason));
    return reason == REASON_OK;
}

/* Whether they can be opened is looked at only in what is certainly the KMS's. */
static bool encryption_holds(const struct conform *c, const struct conform_reply *r, const struct xml_signed *proof,
                             char text[CONFORM_TEXT], bool *any)
{
    struct contents k = {.c = c};
    const bool whole = r->message && strcmp(r->message, "encrypted") == 0;
    count_keys(&k, r->response, 0);
    *any = k.keys > 0 || whole;
    if (k.clear)
        snprintf(text, CONFORM_TEXT, "%u of %u key contents came in clear", k.clear, k.keys);
    else if (k.untyped)
        snprintf(text, CONFORM_TEXT, "%u of %u key contents have no xsi:type EncKeyContentType", k.untyped, k.keys);
    else if (k.others)
        snprintf(text, CONFORM_TEXT, "%u of %u key contents do not name the TrK `%.*s`", k.others, k.keys,
                 STR_FMT(c->trk->id));
    else if (k.misnamed)
        snprintf(text, CONFORM_TEXT, "%u of %u key contents name kw-aes256, which cannot wrap their octets", k.misnamed,
                 k.keys);
    else
        return !*any || (field_is(r, "TrK-ID", c->trk->id, text) && (!proof || reply_opens(c, proof, text)));
    return false;
}

static void row_of(struct conform *c, const char *clause, const char *what, const char *resource,
                   const struct conform_reply *r, enum conform_result result, const char *text)
{
    struct conform_row *row = conform_row(c, clause, what, resource, result, r->exchange);
    if (result != CONFORM_HOLDS)
        snprintf(row->found, sizeof row->found, "%s", text);
}

static void judge_encryption(struct conform *c, const char *resource, const struct conform_reply *r,
                             const struct xml_signed *proof)
{
    static const char WHAT[] = "its keys are encrypted under the TrK, which TrK-ID names";
    char text[CONFORM_TEXT] = "";
    bool any = false;
    const bool hidden = encryption_holds(c, r, proof, text, &any);
    if (any)
        row_of(c, "D.3.1", WHAT, resource, r, hidden ? CONFORM_HOLDS : CONFORM_FAILS, text);
    else if (strncmp(resource, "/keyprov", 8) == 0)
        row_of(c, "D.3.1", WHAT, resource, r, CONFORM_UNKNOWN, "it brought no keys");
}

void conform_signed(struct conform *c, const char *what, const char *resource, const struct conform_reply *r)
{
    char text[CONFORM_TEXT] = "";
    struct xml_doc *doc;
    const struct xml_signed *proof = prove(c, r, &doc, text);
    row_of(c, "D.3.1", what, resource, r, proof ? CONFORM_HOLDS : CONFORM_FAILS, text);
    xml_free(doc);
}

static void judge_protection(struct conform *c, const char *resource, const struct conform_reply *r)
{
    char text[CONFORM_TEXT] = "";
    struct xml_doc *doc;
    const bool by = field_is(r, "Signature-ID", c->signer->id, text);
    row_of(c, "D.3.1", "Signature-ID names the key that signs", resource, r, by ? CONFORM_HOLDS : CONFORM_FAILS, text);
    const struct xml_signed *proof = prove(c, r, &doc, text);
    row_of(c, "D.3.1", "it is signed by the key that signed the request", resource, r,
           proof ? CONFORM_HOLDS : CONFORM_FAILS, text);
    if (c->trk)
        judge_encryption(c, resource, r, proof);
    xml_free(doc);
}

static void judge_resource(struct conform *c, const char *resource, const char *due, const struct conform_reply *r)
{
    static const char ANSWER[] = "a valid request is answered with a KmsResponse";
    char text[CONFORM_TEXT] = "";
    if (!r->arrived) {
        row_of(c, "D.3", ANSWER, resource, r, CONFORM_UNKNOWN, "no answer came");
        return;
    }
    if (!r->response) {
        snprintf(text, sizeof text, "HTTP %ld, and a body that is not a KmsResponse of %s", r->status, INTERFACE);
        row_of(c, "D.3", ANSWER, resource, r, CONFORM_FAILS, text);
        return;
    }
    row_of(c, "D.3", ANSWER, resource, r, CONFORM_HOLDS, "");
    const bool fields = fields_hold(c, r, resource, text);
    row_of(c, "D.3", "UserUri, KmsUri, Time and ClientReqUrl are those of the request", resource, r,
           fields ? CONFORM_HOLDS : CONFORM_FAILS, text);
    static const char MESSAGE[] = "KmsMessage is what the resource owes";
    if (!conform_accepted(r, text)) {
        row_of(c, "D.3", MESSAGE, resource, r, CONFORM_UNKNOWN, text);
    } else {
        const bool right = r->message && (strcmp(r->message, due) == 0 || strcmp(r->message, "encrypted") == 0);
        snprintf(text, sizeof text, "found %.60s, expected %s", r->message ? r->message : "no KmsMessage", due);
        row_of(c, "D.3", MESSAGE, resource, r, right ? CONFORM_HOLDS : CONFORM_FAILS, text);
    }
    judge_protection(c, resource, r);
}

static void try_resource(struct conform *c, const char *path, struct str segment, const char *due, const char *name)
{
    struct buf resource BUF_CLEANUP = BUF_INIT(1 << 16), body BUF_CLEANUP = BUF_INIT(64 << 10);
    struct conform_reply r = {.body = BUF_INIT(0)};
    buf_z(&resource, path);
    if (segment.p)
        uri_percent_encode(segment, "-._~", &resource); /* one segment of a path */
    if (resource.failed || !conform_compose(c, resource.p, FLAW_NONE, &body)) {
        complain("conform: no memory for a request");
        c->broken = true;
        return;
    }
    conform_post(c, resource.p, name, buf_view(&body), &r);
    judge_resource(c, resource.p, due, &r);
    if (strcmp(path, "/init") != 0)
        conform_requests_to(c, resource.p, &r);
    conform_reply_free(&r);
}

void conform_responses(struct conform *c)
{
    const struct {
        const char *path, *due, *name;
        struct str segment;
    } ALL[] = {{"/init", "KmsInit", "init", STR_MISSING},
               {"/keyprov", "KmsKeyProv", "keyprov", STR_MISSING},
               {"/keyprov/", "KmsKeyProv", "keyprov-user", c->client.user},
               {"/certcache", "KmsCertCache", "certcache", STR_MISSING},
               {"/cert/", "KmsCertCache", "cert", c->kms_uri},
               {"/lookup/", "KmsLookup", "lookup", c->client.user}};
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL && !c->broken; i++)
        try_resource(c, ALL[i].path, ALL[i].segment, ALL[i].due, ALL[i].name);
}
