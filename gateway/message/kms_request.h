/*
 * KmsRequest (TS 33.180 D.2.3): reading and writing. Values are text as XML sees it (CDATA and character references
 * resolved), anyURI and dateTime trimmed; they point into the document and live as long as it. A missing element has
 * p == NULL; an empty one has n == 0.
 */
#ifndef KMSGATE_MESSAGE_KMS_REQUEST_H
#define KMSGATE_MESSAGE_KMS_REQUEST_H

#include "base/buf.h"
#include "message/xml.h"
#include "message/xmlsig.h"

struct kms_request {
    struct str id, version; /* attributes */
    struct str user_uri, kms_uri, time, client_id, device_id, client_req_url, trk_id, signature_id;
};

/* Who says that he is asking: the first element of each name under the KmsRequest, wherever the document's root has
 * one. Untrusted, lenient (nothing but the text is checked), only good for finding rule and keys. False: root is no
 * request. */
bool kms_request_claim(const struct xml_doc *doc, struct kms_request *out);
/*
 * Whatever the rules say: XML_INVALID, with the why, for what an older KMS that reads by local name could read in
 * another way. An element of another namespace (within KrrList: than krr and ds) that bears the name of an element of
 * KmsRequest; a second KmsRequest; a field twice, elsewhere than below the KmsRequest, or with elements in it.
 */
enum reason kms_request_twins(const struct xml_doc *doc, struct detail *why) MUST_CHECK;
/* XML_INVALID for an attribute called Id or Version of any namespace: for what is passed on as it came. */
enum reason kms_request_foreign_ids(const struct xml_doc *doc, struct detail *why) MUST_CHECK;
/* The schema check: structure, order (both published ones), types, each element once, `Version` one of `versions`
 * (separated by spaces; the attribute may be missing), attributes and elements of other namespaces where the published
 * schema has them (KmsRequest, ClientError), KrrList only where `redirect`, nothing of the interface's
 * namespace anywhere else. SignedKmsRequest must be KmsRequest then at most one ds:Signature (none is the signature
 * check's matter). REASON_OK or XML_INVALID. */
enum reason kms_request_schema(const struct xml_doc *doc, struct str versions, bool redirect,
                               struct detail *why) MUST_CHECK;
/* The part of it that a message which was read in one pass still owes: a missing attribute is fine. */
enum reason kms_request_version(struct str version, struct str versions, struct detail *why) MUST_CHECK;
/* The fields of what was signed, and of nothing else. */
void kms_request_parse(const struct xml_signed *proof, struct kms_request *out);

/* Writes a KmsRequest out again as a document of its own, in canonical form, without TrK-ID, Signature-ID and all
 * attributes of any namespace; with `extensions`, elements of other namespaces are kept, else only those within
 * KrrList. The first is what was signed, the second what the root has and nobody proved. False when out of memory or
 * over the ceiling. */
bool kms_request_forward(const struct xml_signed *proof, bool extensions, struct buf *out) MUST_CHECK;
bool kms_request_forward_claimed(const struct xml_doc *doc, bool extensions, struct buf *out) MUST_CHECK;

/* A client's KmsRequest in the schema's order, canonical, Id="xmldoc" Version="1.1.0"; missing fields are left out. */
void kms_request_write(const struct kms_request *fields, struct buf *out);

#endif
