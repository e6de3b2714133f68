/*
 * What the files of kms_response share.
 */
#ifndef KMSGATE_MESSAGE_KMS_RESPONSE_INTERNAL_H
#define KMSGATE_MESSAGE_KMS_RESPONSE_INTERNAL_H

#include "message/kms_response.h"
#include "message/schema.h"
#include "message/xmlenc_internal.h"

/* The fields of a KmsResponse that schema_holds() passed. False when ErrorCode is out of range, or a KmsError stands
 * beside a KmsMessage. */
bool response_fields(const struct xml_doc *doc, const xmlNode *response, struct kms_response *out,
                     struct detail *why) MUST_CHECK;
/* The element of that name below n; NULL: none. */
const xmlNode *response_child(const xmlNode *n, const char *name);
/* The octets of a key content, out of its hex or its EncryptedKey (opened by e). False: they are not e's to open,
 * or not as many as the schema wants. */
bool response_octets(const xmlNode *key_content, const struct schema_element *e, struct xmlenc *enc, uint8_t *out,
                     size_t cap) MUST_CHECK;

#endif
