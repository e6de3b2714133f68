/*
 * A signed request as xmlsec reads it: another reading than the gateway's own.
 */
#ifndef TEST_FUZZ_BY_XMLSEC_H
#define TEST_FUZZ_BY_XMLSEC_H

#include "fuzz.h"

#include <libxml/parser.h>
#include <xmlsec/crypto.h>
#include <xmlsec/errors.h>
#include <xmlsec/keys.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>
#include <xmlsec/xmltree.h>

#include "base/secret.h"

static inline void register_ids(xmlDocPtr doc, xmlNodePtr n)
{
    for (; n; n = n->next) {
        xmlAttrPtr id = n->type == XML_ELEMENT_NODE ? xmlHasNsProp(n, BAD_CAST "Id", NULL) : NULL;
        if (id && id->children)
            xmlAddID(NULL, doc, id->children->content, id);
        register_ids(doc, n->children);
    }
}

static inline xmlDocPtr read_for_xmlsec(struct str text, xmlNodePtr *signature)
{
    /* NOENT: or libxml2 leaves &amp; in a namespace's URI as &#38; */
    xmlDocPtr doc =
        xmlReadMemory(text.p, (int)text.n, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOCDATA | XML_PARSE_NOENT);
    must(doc, "libxml2 reads what we read");
    register_ids(doc, xmlDocGetRootElement(doc));
    xmlNodePtr n = xmlDocGetRootElement(doc)->last;
    while (n && !xmlSecCheckNodeName(n, xmlSecNodeSignature, xmlSecDSigNs))
        n = n->prev;
    *signature = n;
    return doc;
}

static inline xmlSecDSigCtxPtr context_of(const struct secret_key *key)
{
    xmlSecDSigCtxPtr ctx = xmlSecDSigCtxCreate(NULL);
    must(ctx, "no memory");
    ctx->signKey = xmlSecKeyReadMemory(xmlSecKeyDataHmacId, key->b, KEY_BYTES);
    must(ctx->signKey, "no memory");
    return ctx;
}

/* libxml2's canonicalization writes a namespace's URI as it is, and an ampersand is to be escaped (C14N 1.0, 2.3). */
static inline void escape_uris(xmlNodePtr n)
{
    for (; n; n = n->next) {
        for (xmlNs *ns = n->type == XML_ELEMENT_NODE ? n->nsDef : NULL; ns; ns = ns->next)
            if (xmlStrchr(ns->href, '&')) {
                xmlChar *escaped = xmlEncodeSpecialChars(NULL, ns->href);
                must(escaped, "no memory");
                xmlFree((xmlChar *)ns->href);
                ns->href = escaped;
            }
        escape_uris(n->children);
    }
}

static inline bool xmlsec_accepts(struct str text, const struct secret_key *key)
{
    xmlNodePtr signature;
    xmlDocPtr doc = read_for_xmlsec(text, &signature);
    escape_uris(doc->children);
    xmlSecDSigCtxPtr ctx = context_of(key);
    const bool ok =
        signature && xmlSecDSigCtxVerify(ctx, signature) == 0 && ctx->status == xmlSecDSigStatusSucceeded;
    xmlSecDSigCtxDestroy(ctx);
    xmlFreeDoc(doc);
    return ok;
}

#endif
