/*
 * A request as the gate sees it, whichever way it was read: in one pass where it is in the closed profile
 * (request_profile.h), which nearly every request is, else by libxml2's tree and xmlsec1. Both say the same of what
 * both can read: verdict, fields, and what is forwarded. Values point into the document and live as long as it.
 *
 *     r = request_doc_read(body, &XML_LIMITS_REQUEST, false, &doc, why);
 *     request_doc_claim(doc, &claim);                                         claims: they choose rule and keys
 *     r = request_doc_schema(doc, versions, redirect, why);
 *     r = request_doc_signature(doc, &policy, &info, why);                    gives the KeyName
 *     r = request_doc_verify(doc, &policy, &key, &proof, why);
 *     request_proof_fields(proof, &fields); request_proof_forward(proof, &out);
 *     request_doc_free(doc);
 */
#ifndef KMSGATE_MESSAGE_REQUEST_DOC_H
#define KMSGATE_MESSAGE_REQUEST_DOC_H

#include "message/kms_request.h"

struct request_doc;
/* Who has a pointer to one has the proof that the request was signed by the key that was handed over: only
 * request_doc_verify() makes one, which lives as long as its document. */
struct request_proof;

/* REASON_OK and a document that the caller frees, or what xml_parse() says by these limits, which the short way never
 * reaches. `by_tree`: no short way; tests and explain
 * compare the two. `body` need not outlive the call. */
enum reason request_doc_read(struct str body, const struct xml_limits *limits, bool by_tree, struct request_doc **out,
                             struct detail *why) MUST_CHECK;
void request_doc_free(struct request_doc *doc);

enum kms_root request_doc_root(const struct request_doc *doc);
/* True when it was read in one pass. */
bool request_doc_in_profile(const struct request_doc *doc);
/* The document as a tree, for who looks closer. Where it was read in one pass, it is made now, of `body`, which is what
 * was read; NULL without memory. */
const struct xml_doc *request_doc_tree(struct request_doc *doc, struct str body);

/* As the functions of kms_request.h and xmlsig.h with these names say. */
bool request_doc_claim(const struct request_doc *doc, struct kms_request *out);
enum reason request_doc_twins(const struct request_doc *doc, struct detail *why) MUST_CHECK;
enum reason request_doc_foreign_ids(const struct request_doc *doc, struct detail *why) MUST_CHECK;
enum reason request_doc_schema(const struct request_doc *doc, struct str versions, bool redirect,
                               struct detail *why) MUST_CHECK;
enum reason request_doc_signature(const struct request_doc *doc, const struct xmlsig_policy *policy,
                                  struct xmlsig_info *out, struct detail *why) MUST_CHECK;
/* As xmlsig_names(); of what is unsigned, nothing. */
void request_doc_names(const struct request_doc *doc, struct xmlsig_named *out);
enum reason request_doc_verify(struct request_doc *doc, const struct xmlsig_policy *policy,
                               const struct secret_key *key, const struct request_proof **proof,
                               struct detail *why) MUST_CHECK;

/* The fields of what was signed, and of nothing else. */
void request_proof_fields(const struct request_proof *proof, struct kms_request *out);
/* What the upstream gets of it: kms_request_forward(). The second is of what nobody proved. */
bool request_proof_forward(const struct request_proof *proof, bool extensions, struct buf *out) MUST_CHECK;
bool request_doc_forward_claimed(const struct request_doc *doc, bool extensions, struct buf *out) MUST_CHECK;

#endif
