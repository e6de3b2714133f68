#include <xmlsec/crypto.h>
#include <xmlsec/errors.h>
#include <xmlsec/io.h>
#include <xmlsec/keys.h>
#include <xmlsec/transforms.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>

#include "base/crypto.h"
#include "message/xmlsig_internal.h"

enum { XMLSEC_HMAC_BITS_FLOOR = 128 }; /* half the hash's length; signature_read() holds a rule's own floor */

/* xmlsec's reports hold bytes from strangers, and say nothing that the result does not. */
static void xmlsec_quiet(const char *file, int line, const char *function, const char *object, const char *subject,
                         int reason, const char *message)
{
    (void)file, (void)line, (void)function, (void)object, (void)subject, (void)reason, (void)message;
}

static bool xmlsec_started;

bool xmlsec_startup(void)
{
    if (xmlsec_started)
        return true;
    if (xmlSecInit() < 0)
        return false;
    xmlSecErrorsSetCallback(xmlsec_quiet);
    xmlSecIOCleanupCallbacks(); /* it fetches nothing, from nowhere */
    if (xmlSecCryptoInit() < 0) {
        xmlSecShutdown();
        return false;
    }
    xmlSecTransformHmacSetMinOutputBitsSize(XMLSEC_HMAC_BITS_FLOOR);
    return xmlsec_started = true;
}

void xmlsec_shutdown(void)
{
    if (!xmlsec_started)
        return;
    xmlsec_started = false;
    xmlSecCryptoShutdown();
    xmlSecShutdown();
}

static xmlSecTransformId xmlsec_canonicalization(enum xml_c14n form, bool comments)
{
    switch (form) {
    case XML_C14N_EXCLUSIVE:
        return comments ? xmlSecTransformExclC14NWithCommentsId : xmlSecTransformExclC14NId;
    case XML_C14N_INCLUSIVE_11:
        return comments ? xmlSecTransformInclC14N11WithCommentsId : xmlSecTransformInclC14N11Id;
    default:
        return comments ? xmlSecTransformInclC14NWithCommentsId : xmlSecTransformInclC14NId;
    }
}

/* Nothing but what signature_read() saw is allowed, so that a difference in reading is a refusal. */
static bool xmlsec_lock(xmlSecDSigCtxPtr ctx, const struct signature *sig)
{
    ctx->flags = XMLSEC_DSIG_FLAGS_IGNORE_MANIFESTS | XMLSEC_DSIG_FLAGS_USE_VISA3D_HACK; /* Ids without XPath */
    ctx->enabledReferenceUris =
        sig->reference_id.p ? xmlSecTransformUriTypeSameDocument : xmlSecTransformUriTypeEmpty;
    const xmlSecTransformId info = xmlsec_canonicalization(sig->info_form, sig->info_comments);
    const xmlSecTransformId apex = xmlsec_canonicalization(sig->apex_form, sig->apex_comments);
    return xmlSecDSigCtxEnableSignatureTransform(ctx, info) == 0 &&
           xmlSecDSigCtxEnableSignatureTransform(ctx, xmlSecTransformHmacSha256Id) == 0 &&
           xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecTransformSha256Id) == 0 &&
           xmlSecDSigCtxEnableReferenceTransform(ctx, apex) == 0 &&
           (!sig->enveloped || xmlSecDSigCtxEnableReferenceTransform(ctx, xmlSecTransformEnvelopedId) == 0);
}

/* The one reference was digested and holds. */
static bool xmlsec_digested(xmlSecDSigCtxPtr ctx)
{
    const struct _xmlSecDSigReferenceCtx *one = xmlSecPtrListGetItem(&ctx->signedInfoReferences, 0);
    return xmlSecPtrListGetSize(&ctx->signedInfoReferences) == 1 && one && one->status == xmlSecDSigStatusSucceeded;
}

/* What runs with the key in ctx already. */
typedef enum reason xmlsec_work(xmlSecDSigCtxPtr ctx, const struct signature *sig, struct detail *why);

static enum reason xmlsec_check(xmlSecDSigCtxPtr ctx, const struct signature *sig, struct detail *why)
{
    struct buf swapped BUF_CLEANUP = BUF_INIT(SIZE_MAX / 4);
    const bool ran = xml_escape_uris(sig->top, &swapped) && xmlSecDSigCtxVerify(ctx, (xmlNodePtr)sig->node) == 0;
    xml_restore_uris(&swapped);
    if (!ran) {
        detail_set(why, "the signature could not be verified");
        return REASON_INTERNAL;
    }
    const bool digested = xmlsec_digested(ctx);
    if (digested && ctx->status == xmlSecDSigStatusSucceeded)
        return REASON_OK;
    if (digested)
        signature_tell_hmac(why);
    else
        signature_tell_digest(why);
    return REASON_SIGNATURE_INVALID;
}

/* The values go into the tree, where they stood. */
static enum reason xmlsec_make(xmlSecDSigCtxPtr ctx, const struct signature *sig, struct detail *why)
{
    struct buf swapped BUF_CLEANUP = BUF_INIT(SIZE_MAX / 4);
    const bool ran = xml_escape_uris(sig->top, &swapped) && xmlSecDSigCtxSign(ctx, (xmlNodePtr)sig->node) == 0 &&
                     ctx->status == xmlSecDSigStatusSucceeded && xmlsec_digested(ctx);
    xml_restore_uris(&swapped);
    if (!ran)
        detail_set(why, "the signature could not be made");
    return ran ? REASON_OK : REASON_INTERNAL;
}

static enum reason xmlsec_with_key(const struct signature *sig, const struct secret_key *key, xmlsec_work *work,
                                   struct detail *why)
{
    xmlSecDSigCtx ctx;
    enum reason r = REASON_INTERNAL;
    xml_secret_begin(true); /* the key is copied into memory of libxml2's, and into OpenSSL's */
    crypto_keys_begin();
    if (xmlSecDSigCtxInitialize(&ctx, NULL) >= 0) {
        ctx.signKey = xmlSecKeyReadMemory(xmlSecKeyDataHmacId, key->b, KEY_BYTES); /* the context's own from here */
        if (ctx.signKey && xmlsec_lock(&ctx, sig))
            r = work(&ctx, sig, why);
        xmlSecDSigCtxFinalize(&ctx);
    }
    crypto_keys_end();
    xml_secret_end(true);
    return r;
}

/* The attribute that gives the apex its Id. */
static xmlAttrPtr xmlsec_id(const xmlNode *apex)
{
    xmlAttrPtr a = apex->properties;
    while (a && (a->ns || xmlStrcmp(a->name, BAD_CAST "Id") != 0))
        a = a->next;
    return a;
}

static enum reason xmlsec_with_id(const struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                                  xmlsec_work *work, struct detail *why)
{
    if (!sig->reference_id.p)
        return xmlsec_with_key(sig, key, work, why);
    xmlAttrPtr id = xmlsec_id(sig->apex);
    if (!id || !id->children)
        return REASON_INTERNAL;
    if (xmlGetID(doc->tree, id->children->content)) {
        detail_set(why, "Reference: found its Id at more than one element");
        return REASON_SIGNATURE_REFERENCE;
    }
    enum reason r = REASON_INTERNAL;
    if (xmlAddID(NULL, doc->tree, id->children->content, id)) {
        if (xmlGetID(doc->tree, id->children->content) == id)
            r = xmlsec_with_key(sig, key, work, why);
        xmlRemoveID(doc->tree, id);
    }
    return r;
}

static enum reason xmlsec_do(const struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                             xmlsec_work *work, struct detail *why)
{
    const uint64_t shortages = xml_shortages();
    const enum reason r = xmlsec_with_id(doc, sig, key, work, why);
    return xml_shortages() == shortages ? r : REASON_INTERNAL;
}

enum reason xmlsec_verify(const struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                          struct detail *why)
{
    return xmlsec_do(doc, sig, key, xmlsec_check, why);
}

enum reason xmlsec_sign(struct xml_doc *doc, const struct signature *sig, const struct secret_key *key,
                        struct detail *why)
{
    return xmlsec_do(doc, sig, key, xmlsec_make, why);
}
