/*
 * XML from strangers: UTF-8 only, no DTD, comment or processing instruction, caps while parsing (notes on their reasons
 * in base/limits.h). The only door to libxml2, together with its neighbours in message/. Nothing outside message/ looks
 * into a document.
 */
#ifndef KMSGATE_MESSAGE_XML_H
#define KMSGATE_MESSAGE_XML_H

#include "base/reason.h"

#define NS_KMS "urn:3gpp:ns:mcsecKMSInterface:1.0"
#define NS_KRR "urn:3gpp:ns:mcsecKMSKRR:1.0"
#define NS_DS "http://www.w3.org/2000/09/xmldsig#"
#define NS_XENC "http://www.w3.org/2001/04/xmlenc#"
#define NS_XENC11 "http://www.w3.org/2009/xmlenc11#"
#define NS_XSI "http://www.w3.org/2001/XMLSchema-instance"

struct xml_doc;
struct strings;
struct xml_limits {
    unsigned depth, elements, attributes;
    unsigned in_scope, declarations; /* of namespaces: around an element and on it; in the whole message */
    unsigned attributes_all;         /* in the whole message; `attributes`: on an element */
    bool drop_comments; /* replies: comments and PIs are dropped; requests: refused */
    bool secret;        /* may hold keys in clear: what libxml2 frees is wiped */
    const struct strings *relative; /* namespace URIs that may be declared though they are relative; NULL: none */
    const char *relative_help;      /* said behind the refusal of another; NULL: nothing */
};
/* PROTECTED: what a gateway wrote and a client or the last look reads: each wrapped key declares its own namespaces. */
extern const struct xml_limits XML_LIMITS_REQUEST, XML_LIMITS_REDIRECT, XML_LIMITS_REPLY, XML_LIMITS_PROTECTED;

/* Once, in main, before threads: libxml2 and its process-wide settings. False when a library will not start. */
bool xml_startup(void);
void xml_shutdown(void);

/* REASON_OK and a document that the caller frees, or XML_MALFORMED / XML_FORBIDDEN (or INTERNAL) with the why. `text`
 * need not outlive the call. */
enum reason xml_parse(struct str text, const struct xml_limits *limits, struct xml_doc **out,
                      struct detail *why) MUST_CHECK;
void xml_free(struct xml_doc *doc);

/* The root, by local name in the interface's namespace. */
enum kms_root {
    KMS_ROOT_OTHER,
    KMS_ROOT_REQUEST,
    KMS_ROOT_SIGNED_REQUEST,
    KMS_ROOT_RESPONSE,
    KMS_ROOT_SIGNED_RESPONSE
};
enum kms_root xml_root(const struct xml_doc *doc);

#endif
