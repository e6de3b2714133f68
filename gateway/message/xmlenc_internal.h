/*
 * XML Encryption's elements, written and read. For files of message/ only.
 */
#ifndef KMSGATE_MESSAGE_XMLENC_INTERNAL_H
#define KMSGATE_MESSAGE_XMLENC_INTERNAL_H

#include "message/xml_internal.h"
#include "message/xmlenc.h"

#define ALG_KW NS_XENC "kw-aes256"
#define ALG_KWP NS_XENC11 "kw-aes-256-pad"
#define ALG_GCM NS_XENC11 "aes256-gcm"
#define TYPE_CONTENT NS_XENC "Content"

/* An EncryptedKey or EncryptedData as read: views into the document. */
struct encrypted {
    struct str algorithm;
    struct str key_name;  /* of an EncryptedKey */
    struct str carried;   /* CarriedKeyName, the name of the key in it; missing where there is none */
    struct str cipher;    /* base64 */
    const xmlNode *key;   /* of EncryptedData: the EncryptedKey that carries the content's key */
};
/* False, with the why, unless the element has exactly the profile's form. */
bool encrypted_key_read(const xmlNode *n, struct encrypted *out, struct detail *why) MUST_CHECK;
bool encrypted_data_read(const xmlNode *n, struct encrypted *out, struct detail *why) MUST_CHECK;

#endif
