#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/parser.h>
#include <libxml/parserInternals.h>
#include <libxml/SAX2.h>
#include <libxml/xmlerror.h>

#include "base/config.h"
#include "base/limits.h"
#include "message/xml_internal.h"

enum {
    REQUEST_ATTRIBUTES = LIMIT_XML_ELEMENTS_REQUEST * LIMIT_XML_ATTRIBUTES, /* as many as its elements may have */
    REDIRECT_ATTRIBUTES = LIMIT_XML_ELEMENTS_REDIRECT * LIMIT_XML_ATTRIBUTES,
};
const struct xml_limits XML_LIMITS_REQUEST = {LIMIT_XML_DEPTH_REQUEST, LIMIT_XML_ELEMENTS_REQUEST, LIMIT_XML_ATTRIBUTES,
                                              LIMIT_XML_NAMESPACES, LIMIT_XML_DECLARATIONS_REQUEST, REQUEST_ATTRIBUTES,
                                              false, false, NULL, NULL};
const struct xml_limits XML_LIMITS_REDIRECT = {LIMIT_XML_DEPTH_REQUEST, LIMIT_XML_ELEMENTS_REDIRECT,
                                               LIMIT_XML_ATTRIBUTES, LIMIT_XML_NAMESPACES,
                                               LIMIT_XML_DECLARATIONS_REDIRECT, REDIRECT_ATTRIBUTES, false, false,
                                               NULL, NULL};
const struct xml_limits XML_LIMITS_REPLY = {LIMIT_XML_DEPTH_REPLY, LIMIT_XML_ELEMENTS_REPLY, LIMIT_XML_ATTRIBUTES,
                                            LIMIT_XML_NAMESPACES, LIMIT_XML_DECLARATIONS_REPLY,
                                            LIMIT_XML_ATTRIBUTES_REPLY, true, true, NULL, NULL};
/* Around a reply comes SignedKmsResponse; each key content becomes an EncryptedKey, which declares two namespaces; what
 * is kept as it came declares all that was around it, beside what the gateway's own elements declare. */
const struct xml_limits XML_LIMITS_PROTECTED = {LIMIT_XML_DEPTH_REPLY + 4, 5 * LIMIT_XML_ELEMENTS_REPLY,
                                                LIMIT_XML_ATTRIBUTES, LIMIT_XML_NAMESPACES + 8,
                                                20 * LIMIT_XML_DECLARATIONS_REPLY, 5 * LIMIT_XML_ATTRIBUTES_REPLY,
                                                true, true, NULL, NULL};

/* libxml2's own reports go nowhere: they hold bytes from strangers. What matters comes back by parse_error(). */
static void quiet(void *arg, xmlErrorPtr error)
{
    (void)arg;
    (void)error;
}

static void quiet_text(void *arg, const char *format, ...)
{
    (void)arg;
    (void)format;
}

bool xml_startup(void)
{
    LIBXML_TEST_VERSION
    if (!xml_memory_startup())
        return false;
    xmlInitParser();
    xmlSetStructuredErrorFunc(NULL, quiet);
    xmlSetGenericErrorFunc(NULL, quiet_text);
    xmlThrDefSetStructuredErrorFunc(NULL, quiet); /* threads that are yet to start */
    xmlThrDefSetGenericErrorFunc(NULL, quiet_text);
    return signature_startup();
}

void xml_shutdown(void)
{
    signature_shutdown();
    xmlCleanupParser();
}

/* One parse. libxml2's context is new for each message: a reused one keeps a dictionary that hostile names grow. */
struct parse {
    const struct xml_limits *limits;
    struct detail *why;
    startElementNsSAX2Func build;
    enum reason reason; /* REASON_OK until a handler refuses */
    unsigned elements, declarations, attributes;
    uint64_t shortages; /* at the start */
};

static void xml_refuse(xmlParserCtxtPtr ctxt, const char *what, const char *help)
{
    struct parse *parse = ctxt->_private;
    if (parse->reason == REASON_OK) {
        parse->reason = REASON_XML_FORBIDDEN;
        detail_set(parse->why, "line %d: found %s%s", xmlSAX2GetLineNumber(ctxt), what, help ? help : "");
    }
    xmlStopParser(ctxt);
}

static void on_doctype(void *arg, const xmlChar *name, const xmlChar *external, const xmlChar *system)
{
    (void)name, (void)external, (void)system;
    xml_refuse(arg, "a document type declaration, expected none", NULL);
}

static void on_comment(void *arg, const xmlChar *text)
{
    xmlParserCtxtPtr ctxt = arg;
    const struct parse *parse = ctxt->_private;
    (void)text;
    if (!parse->limits->drop_comments)
        xml_refuse(ctxt, "a comment, expected none", NULL);
}

static void on_instruction(void *arg, const xmlChar *target, const xmlChar *text)
{
    (void)target;
    on_comment(arg, text);
}

/* Canonicalization fails on a URI without a scheme. What is no URI at all, libxml2 reports as a namespace error. */
bool xml_absolute(const xmlChar *uri)
{
    const xmlChar *p = uri;
    while ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
           (p > uri && ((*p >= '0' && *p <= '9') || *p == '+' || *p == '-' || *p == '.')))
        p++;
    return p > uri && *p == ':';
}

static bool xml_listed(const struct strings *list, const xmlChar *uri)
{
    for (size_t i = 0; list && i < list->n; i++)
        if (str_eq_z(str_z((const char *)uri), list->v[i]))
            return true;
    return false;
}

/* startElementNsSAX2Func's parameters: their number is not ours to choose. */
#define START_ELEMENT                                                                                      \
    void *arg, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri, int n_ns, const xmlChar **ns, \
        int n_attrs, int n_default, const xmlChar **attrs

static void on_element(START_ELEMENT)
{
    xmlParserCtxtPtr ctxt = arg;
    struct parse *parse = ctxt->_private;
    const struct xml_limits *limits = parse->limits;
    if (xml_shortages() != parse->shortages) { /* the less is asked of what is set aside */
        xmlStopParser(ctxt);
        return;
    }
    parse->elements++;
    parse->declarations += (unsigned)n_ns; /* those in scope were counted by the scan */
    parse->attributes += (unsigned)n_attrs;
    if (parse->elements > limits->elements || (unsigned)ctxt->nameNr >= limits->depth ||
        (unsigned)n_attrs > limits->attributes || parse->declarations > limits->declarations ||
        parse->attributes > limits->attributes_all) {
        xml_refuse(ctxt, "more elements, levels, attributes or namespaces than allowed", NULL);
        return;
    }
    for (int i = 0; i < n_ns; i++) {
        const xmlChar *declared = ns[2 * i + 1];
        if (declared && declared[0] && !xml_absolute(declared) && !xml_listed(limits->relative, declared)) {
            xml_refuse(ctxt, "a relative namespace URI, expected an absolute one", limits->relative_help);
            return;
        }
    }
    parse->build(arg, name, prefix, uri, n_ns, ns, n_attrs, n_default, attrs);
}

static void on_error(void *arg, xmlErrorPtr error)
{
    xmlParserCtxtPtr ctxt = arg;
    struct parse *parse = ctxt->_private;
    const bool grave =
        error->level == XML_ERR_FATAL || (error->level == XML_ERR_ERROR && error->domain == XML_FROM_NAMESPACE);
    if (error->code == XML_ERR_NO_MEMORY)
        parse->reason = REASON_INTERNAL;
    if (parse->reason != REASON_OK || !grave)
        return;
    const size_t n = error->message ? strcspn(error->message, "\n") : 0;
    parse->reason = REASON_XML_MALFORMED;
    detail_set(parse->why, "line %d: %.*s", error->line, n > 200 ? 200 : (int)n, error->message ? error->message : "");
}

static enum reason parse_tree(struct str body, struct parse *parse, xmlDocPtr *tree)
{
    xmlParserCtxtPtr ctxt = xmlNewParserCtxt();
    if (!ctxt)
        return REASON_INTERNAL;
    ctxt->_private = parse;
    parse->build = ctxt->sax->startElementNs;
    ctxt->sax->startElementNs = on_element;
    ctxt->sax->internalSubset = on_doctype;
    ctxt->sax->externalSubset = on_doctype;
    ctxt->sax->comment = on_comment;
    ctxt->sax->processingInstruction = on_instruction;
    ctxt->sax->serror = on_error;
    /* NOENT: or libxml2 leaves &amp; in a namespace URI as &#38;. What else it would put in, only a DTD can name. */
    xmlDocPtr doc = xmlCtxtReadMemory(ctxt, body.p, (int)body.n, NULL, "UTF-8",
                                      XML_PARSE_NONET | XML_PARSE_NOCDATA | XML_PARSE_NOENT);
    enum reason r = parse->reason;
    /* every fault in the text was reported: what is left is want of memory */
    if (r == REASON_OK && (!doc || !ctxt->wellFormed || !ctxt->nsWellFormed || !xmlDocGetRootElement(doc) ||
                           xmlGetIntSubset(doc) || doc->extSubset)) {
        detail_set(parse->why, "libxml2 made no tree");
        r = REASON_INTERNAL;
    }
    xmlFreeParserCtxt(ctxt);
    if (r == REASON_OK)
        *tree = doc;
    else
        xmlFreeDoc(doc);
    return r;
}

enum reason xml_parse(struct str text, const struct xml_limits *limits, struct xml_doc **out, struct detail *why)
{
    struct str body;
    struct parse parse = {.limits = limits, .why = why};
    *out = NULL;
    if (text.n > INT_MAX)
        return REASON_INTERNAL;
    enum reason r = xml_scan(text, limits, &body, why);
    if (r != REASON_OK)
        return r;
    struct xml_doc *doc = calloc(1, sizeof *doc);
    if (!doc)
        return REASON_INTERNAL;
    doc->size = body.n;
    doc->secret = limits->secret;
    parse.shortages = xml_shortages();
    xml_secret_begin(doc->secret);
    r = parse_tree(body, &parse, &doc->tree);
    if (xml_shortages() != parse.shortages) {
        xmlFreeDoc(doc->tree);
        r = REASON_INTERNAL;
    }
    xml_secret_end(doc->secret);
    if (r != REASON_OK) {
        free(doc);
        return r;
    }
    *out = doc;
    return REASON_OK;
}

void xml_free(struct xml_doc *doc)
{
    if (!doc)
        return;
    xml_secret_begin(doc->secret);
    xmlFreeDoc(doc->tree);
    xmlFreeNs(doc->standard);
    xml_secret_end(doc->secret);
    free(doc);
}

enum kms_root xml_root(const struct xml_doc *doc)
{
    const xmlNode *root = xml_top(doc);
    if (xml_is(root, NS_KMS, "KmsRequest"))
        return KMS_ROOT_REQUEST;
    if (xml_is(root, NS_KMS, "SignedKmsRequest"))
        return KMS_ROOT_SIGNED_REQUEST;
    if (xml_is(root, NS_KMS, "KmsResponse"))
        return KMS_ROOT_RESPONSE;
    return xml_is(root, NS_KMS, "SignedKmsResponse") ? KMS_ROOT_SIGNED_RESPONSE : KMS_ROOT_OTHER;
}
