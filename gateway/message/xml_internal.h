/*
 * What the files of message/ share: the tree behind a struct xml_doc, and how to read it. Nothing outside message/
 * includes this.
 *
 * What a tree holds, by construction: elements, attributes and text alone (CDATA and character references are text,
 * adjacent text is one node; comments and PIs were refused or dropped; no entity references). Every namespace URI is
 * absolute, but for those that limits->relative lists.
 */
#ifndef KMSGATE_MESSAGE_XML_INTERNAL_H
#define KMSGATE_MESSAGE_XML_INTERNAL_H

#include <libxml/tree.h>

#include "base/buf.h"
#include "message/xml.h"

/* Only xmlsig_verify() fills one in; tests/guards looks for others. */
struct xml_signed {
    const struct xml_doc *doc;
    const xmlNode *node; /* the KmsRequest or KmsResponse that was signed */
};

struct xml_doc {
    xmlDocPtr tree;
    size_t size; /* octets that it was read from */
    bool secret; /* what libxml2 frees for it is wiped */
    struct xml_signed proof;
    xmlNsPtr standard; /* what a dialect gave to elements of no namespace; the tree does not own it */
    const char *root_namespace; /* before the dialect's translation, as the dialect lists it; NULL: the same */
};

/* Between the two, this thread wipes all that libxml2 frees or moves; `secret` false: nothing happens. They nest. */
bool xml_memory_startup(void);
void xml_secret_begin(bool secret);
void xml_secret_end(bool secret);
/* How often this thread's calls of libxml2 and xmlsec have found no memory: they went on with what is set aside, and
 * who called them refuses when it has changed. */
uint64_t xml_shortages(void);

/* Part of xml_startup() and xml_shutdown(): xmlsec1, and this thread's cryptography. */
bool signature_startup(void);
void signature_shutdown(void);

/*
 * The scan before libxml2: one linear pass over the bytes that knows tokens but no namespaces. It refuses foreign
 * encodings, DTDs, what the limits forbid and most of what is malformed, so that libxml2, whose work on a start tag is
 * quadratic in attributes and which goes on after errors, never sees it. XML_MALFORMED or XML_FORBIDDEN, else OK.
 * *body is the text without byte order mark.
 */
enum reason xml_scan(struct str text, const struct xml_limits *limits, struct str *body, struct detail *why) MUST_CHECK;

/* Elements, in document order; NULL: there is none. xml_following never leaves `top`. */
const xmlNode *xml_top(const struct xml_doc *doc);
const xmlNode *xml_child(const xmlNode *parent);
const xmlNode *xml_next(const xmlNode *element);
const xmlNode *xml_following(const xmlNode *element, const xmlNode *top);

/* True for a URI with a scheme: canonicalization is not defined for others. */
bool xml_absolute(const xmlChar *uri);

bool xml_is(const xmlNode *element, const char *ns, const char *name);
/* True when the element's namespace is ns; ns "" stands for none. */
bool xml_in(const xmlNode *element, const char *ns);
/* True for a KrrList of the interface's and for what stands in one. */
bool xml_in_krr_list(const xmlNode *element);
struct str xml_name(const xmlNode *element);      /* local name */
struct str xml_namespace(const xmlNode *element); /* missing when in none */

/* The text of an element without child elements, untrimmed, as a view into the tree; empty when there is none, missing
 * when it has child elements or element is NULL. */
struct str xml_text(const xmlNode *element);
/* The value of an attribute, ns NULL: in no namespace. Missing when it is not there. */
struct str xml_attr(const xmlNode *element, const char *ns, const char *name);
struct str xml_attr_value(const xmlAttr *attr);
/* True when it is of the namespace ns (not for none). */
bool xml_attr_in(const xmlAttr *attr, const char *ns);
/* True when nothing but white space stands between the element's children. */
bool xml_blank(const xmlNode *element);

/*
 * Canonical text (no comments) of the subtree at apex, without the subtree at omit (may be NULL) and without apex's
 * children in the interface's namespace that omit_named lists (may be NULL, ends with NULL), in the document's context:
 * in-scope namespaces of ancestors are rendered where the form says so. Exactly the octets that a verifier digests.
 * False when libxml2 fails, memory is short or the ceiling passed: out is then not to be used.
 */
enum xml_c14n { XML_C14N_INCLUSIVE, XML_C14N_EXCLUSIVE, XML_C14N_INCLUSIVE_11 };
struct xml_subtree {
    const struct xml_doc *doc;
    const xmlNode *apex;
    const xmlNode *omit;
    const char *const *omit_named;
    bool plain_attributes; /* only those of no namespace; nothing is inherited from above the apex */
    bool own_elements;     /* only those of the interface's namespace, and all below a KrrList */
};
bool xml_canonical(const struct xml_subtree *part, enum xml_c14n form, struct buf *out) MUST_CHECK;
/* The same by libxml2 alone: what the faster way is held against. */
bool xml_canonical_by_library(const struct xml_subtree *part, enum xml_c14n form, struct buf *out) MUST_CHECK;
/* What libxml2's canonicalization needs around it: the URIs of namespaces escaped, below apex and above it, and put
 * back again from `swapped`, also after a failure. */
bool xml_escape_uris(const xmlNode *apex, struct buf *swapped) MUST_CHECK;
void xml_restore_uris(const struct buf *swapped);
/* Most octets that the canonical form of a document of n bytes can have: a quote in an attribute becomes six, each
 * element at most repeats its name in an end tag; declarations are capped. */
size_t xml_canonical_ceiling(size_t n);

#endif
