#include "message/request_doc.h"

#include <string.h>

#include "base/block.h"
#include "message/kms_request_table.h"
#include "message/request_profile.h"
#include "message/xmlsig_internal.h"
#include "message/tested_way.h"

struct request_proof {
    const struct request_doc *doc;
    const struct xml_signed *tree; /* NULL: it was read in one pass */
};

struct request_doc {
    bool in_profile;      /* it was read in one pass, and `profile` holds */
    struct xml_doc *tree; /* else, or for who looks closer */
    struct request_profile profile;
    struct request_proof proof;
    char room[]; /* what profile's views point into */
};

/* NULL without memory. */
static struct request_doc *doc_new(size_t room)
{
    struct request_doc *doc = block_take(sizeof *doc + room);
    if (doc) {
        doc->in_profile = false;
        doc->tree = NULL;
        doc->proof = (struct request_proof){NULL, NULL};
    }
    return doc;
}

enum reason request_doc_read(struct str body, const struct xml_limits *limits, bool by_tree, struct request_doc **out,
                             struct detail *why)
{
    by_tree = by_tree || body.n > SIZE_MAX / 4 || tested_way_is_tree("TESTED_REQUEST_WAY");
    const size_t room = by_tree ? 0 : REQUEST_PROFILE_ROOM(body.n);
    struct request_doc *doc = *out = NULL;
    doc = doc_new(room);
    if (!doc)
        return REASON_INTERNAL;
    doc->in_profile = !by_tree && request_profile_read(body, doc->room, room, &doc->profile);
    if (!doc->in_profile) {
        const enum reason r = xml_parse(body, limits, &doc->tree, why);
        if (r != REASON_OK) {
            request_doc_free(doc);
            return r;
        }
    }
    *out = doc;
    return REASON_OK;
}

void request_doc_free(struct request_doc *doc)
{
    if (!doc)
        return;
    xml_free(doc->tree);
    block_give(doc);
}

enum kms_root request_doc_root(const struct request_doc *doc)
{
    return doc->in_profile ? doc->profile.root : xml_root(doc->tree);
}

bool request_doc_in_profile(const struct request_doc *doc)
{
    return doc->in_profile;
}

const struct xml_doc *request_doc_tree(struct request_doc *doc, struct str body)
{
    if (!doc->tree && xml_parse(body, &XML_LIMITS_REQUEST, &doc->tree, NULL) != REASON_OK)
        return NULL;
    return doc->tree;
}

bool request_doc_claim(const struct request_doc *doc, struct kms_request *out)
{
    if (!doc->in_profile)
        return kms_request_claim(doc->tree, out);
    *out = doc->profile.fields;
    return true;
}

/* The profile knows nothing of other namespaces but XML Schema's hints, and each field once, in its place. */
enum reason request_doc_twins(const struct request_doc *doc, struct detail *why)
{
    return doc->in_profile ? REASON_OK : kms_request_twins(doc->tree, why);
}

enum reason request_doc_foreign_ids(const struct request_doc *doc, struct detail *why)
{
    return doc->in_profile ? REASON_OK : kms_request_foreign_ids(doc->tree, why);
}

/* The profile's reader took nothing that the schema refuses, but it knows of no versions. */
enum reason request_doc_schema(const struct request_doc *doc, struct str versions, bool redirect, struct detail *why)
{
    if (!doc->in_profile)
        return kms_request_schema(doc->tree, versions, redirect, why);
    return kms_request_version(doc->profile.fields.version, versions, why);
}

enum reason request_doc_signature(const struct request_doc *doc, const struct xmlsig_policy *policy,
                                  struct xmlsig_info *out, struct detail *why)
{
    const struct request_profile *p = &doc->profile;
    if (!doc->in_profile)
        return xmlsig_read(doc->tree, policy, out, why);
    *out = (struct xmlsig_info){.key_name = STR_MISSING};
    if (p->root != KMS_ROOT_SIGNED_REQUEST)
        return signature_tell_missing(why);
    if (!(policy->canonicalization & XMLSIG_C14N))
        return signature_tell_canonicalization(why, STR(ALG_C14N));
    out->key_name = p->key_name;
    memcpy(out->value, p->value, sizeof p->value);
    out->value_n = sizeof p->value;
    return REASON_OK;
}

void request_doc_names(const struct request_doc *doc, struct xmlsig_named *out)
{
    *out = (struct xmlsig_named){NULL, 0};
    if (request_doc_root(doc) != KMS_ROOT_SIGNED_REQUEST)
        return;
    if (doc->in_profile) /* which has but one form */
        *out = (struct xmlsig_named){"c14n", 8 * HASH_BYTES};
    else
        xmlsig_names(doc->tree, out);
}

enum reason request_doc_verify(struct request_doc *doc, const struct xmlsig_policy *policy,
                               const struct secret_key *key, const struct request_proof **proof, struct detail *why)
{
    struct xmlsig_info info;
    const struct xml_signed *tree = NULL;
    *proof = NULL;
    enum reason r = REASON_OK;
    if (!doc->in_profile)
        r = xmlsig_verify(doc->tree, policy, key, &tree, why);
    else
        r = request_doc_signature(doc, policy, &info, why);
    if (r == REASON_OK && doc->in_profile)
        r = request_profile_verify(&doc->profile, key, why);
    if (r != REASON_OK)
        return r;
    doc->proof = (struct request_proof){doc, tree};
    *proof = &doc->proof;
    return REASON_OK;
}

void request_proof_fields(const struct request_proof *proof, struct kms_request *out)
{
    if (proof->tree)
        kms_request_parse(proof->tree, out);
    else
        *out = proof->doc->profile.fields;
}

/* There are no extensions in it. */
static bool doc_forward_profile(const struct request_doc *doc, struct buf *out)
{
    request_profile_forward(&doc->profile, out);
    return !out->failed;
}

bool request_proof_forward(const struct request_proof *proof, bool extensions, struct buf *out)
{
    return proof->tree ? kms_request_forward(proof->tree, extensions, out) : doc_forward_profile(proof->doc, out);
}

bool request_doc_forward_claimed(const struct request_doc *doc, bool extensions, struct buf *out)
{
    return doc->in_profile ? doc_forward_profile(doc, out) : kms_request_forward_claimed(doc->tree, extensions, out);
}
