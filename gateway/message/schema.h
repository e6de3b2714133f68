/*
 * The response side of the interface as tables (TS 33.180 D.3.2, protocol.md): which elements there are, in which
 * order, of which type, where keys may stand. What the tables do not hold is invalid. For files of message/ only.
 *
 * Two readings. SCHEMA_LENIENT is an older KMS's: any order, any Version, xsi:type optional, the envelope's fields
 * optional; TrK-ID and Signature-ID have no meaning there. SCHEMA_STRICT is the standard's: what the gateway sends.
 * SCHEMA_CLIENT is strict but for order and Version.
 */
#ifndef KMSGATE_MESSAGE_SCHEMA_H
#define KMSGATE_MESSAGE_SCHEMA_H

#include "message/xml_internal.h"

enum schema_type {
    TYPE_URI,     /* an optional one may be empty */
    TYPE_TIME,
    TYPE_STRING,
    TYPE_INTEGER,
    TYPE_BOOLEAN,
    TYPE_HEX,     /* exactly so many octets */
    TYPE_KEY,     /* key content: hex of exactly so many octets, or an EncryptedKey */
    TYPE_GROUP,
    TYPE_PAYLOAD, /* KmsMessage: a group, or an EncryptedData */
    TYPE_LOOKUP,  /* KmsLookup */
    TYPE_SEALED   /* SignedKmsCertificate: signed by others, so strict in any reading, and never rewritten; one without
                   * Signature is but a KmsCertificate in an envelope */
};

struct schema_group;
struct schema_element {
    struct str name; /* ends with a NUL */
    enum schema_type type;
    enum schema_count { ONE, OPTIONAL, ANY, MANY, CHOICE, ENVELOPE } count; /* MANY: at least one; CHOICE: one of all
                                                                             * that say so; ENVELOPE: one, lenient:
                                                                             * optional */
    size_t octets;
    const struct schema_group *group;
};
struct schema_attribute {
    struct str name; /* ends with a NUL */
    enum schema_type type;
    bool required;
    const char *values[2]; /* NULL: any of the type */
};
struct schema_group {
    const struct schema_element *elements;
    size_t count;
    const struct schema_attribute *attributes; /* besides Id and Version */
    size_t attribute_count;
    const char *version;     /* "": any; NULL: has neither Id nor Version */
    size_t extensions;       /* children of other namespaces stand before the element of this index; NO_EXTENSIONS */
    bool any_attribute;      /* attributes of other namespaces may stand on it */
    const char *plain, *extended; /* xsi:type without and with NewTransportKey or NewIntegrityKey; NULL: takes none */
};
enum { NO_EXTENSIONS = 99, SCHEMA_ELEMENTS_MAX = 16, LOOKUP_DEPTH = 4 };

extern const struct schema_group SCHEMA_RESPONSE, SCHEMA_MESSAGE, SCHEMA_KEY_SET;
#define TYPE_CLEAR "KeyContentType"
#define TYPE_ENCRYPTED "EncKeyContentType"

enum schema_mode { SCHEMA_LENIENT, SCHEMA_STRICT, SCHEMA_CLIENT };
struct schema_check {
    enum schema_mode mode;
    struct detail *why;
    /* what was found */
    bool has_key_content, has_new_key, has_clear_key, has_encrypted; /* key_content: of a KmsKeySet */
    bool has_encrypted_content; /* one of those */
    struct str wrapped_by; /* KeyName of the EncryptedKeys; two names are invalid but in the lenient reading */
};
/* The whole below a KmsResponse, or below a KmsMessage that was decrypted. False, with the why, when it is invalid. */
bool schema_holds(struct schema_check *c, const xmlNode *node, const struct schema_group *group) MUST_CHECK;

const struct schema_element *schema_find(const struct schema_group *group, const xmlNode *child, size_t *at);
/* Whatever group it stands in: a name has one type everywhere. NULL: no element of a response has that name. */
const struct schema_element *schema_named(struct str name);
const struct schema_element *schema_nth(size_t n); /* of all groups' elements; NULL behind the last */
/* True for the name of a key content, in upper or lower case. */
bool schema_names_key(struct str name);
/* A value as it is written: trimmed unless white space belongs to its type. */
struct str schema_value(const xmlNode *element, enum schema_type type);
bool schema_value_holds(struct str text, enum schema_type type, bool may_be_empty);
bool schema_hex_holds(struct str text, size_t octets);
bool schema_attribute_holds(const struct schema_attribute *known, struct str value);
/* True when a child element of the group's node makes it the extended type. */
bool schema_is_extended(const xmlNode *node);
bool schema_is_new_key(const struct schema_element *e);
/* True for a key that is a number, so that zero octets in front of it mean nothing. */
bool schema_is_number(const struct schema_element *e);
/* Says of a key's text why it is none: how long it is, how long it should be, and which key of a dialect would read it.
 * Never what it is. base64_due: it was to be base64, as some dialects have it; else hex. */
void schema_tell_key(struct detail *why, const struct schema_element *e, struct str text, bool base64_due);
/* The payload of a KmsMessage, and what the schema says of it; NULL: none, or it is still encrypted. */
const xmlNode *schema_payload(const xmlNode *message, const struct schema_element **e);
/* A child of another namespace (not of none). */
bool schema_is_foreign(const xmlNode *node);
/* An attribute of a namespace that is neither the interface's nor XML Schema's. */
bool schema_is_foreign_attribute(const xmlAttr *a);
/* True for a SignedKmsCertificate that somebody has signed. */
bool schema_is_sealed(const xmlNode *node);
/* True when an optional text without a type of its own may leave as it is: at most 128 letters, digits, spaces and
 * -._:@/,=()+. A key in another dress does not fit, or is found by kms_response_spill.h. */
bool schema_is_free_text(struct str text);
/* True for an Id that may leave as it is, on another element than the response: none may be taken for its `xmldoc`. */
bool schema_id_stays(struct str id);
/* In words, of a text of that element that is not: what was found, without the text, and what was due. */
void schema_tell_unfree(const char *element, struct str text, struct detail *out);
/* The same of the value of an attribute on that element, unless `out` says something already. */
void schema_tell_attribute(const char *attribute, struct str element, struct str value, struct detail *out);
/* The EncryptedKey of a key content; NULL when it is in clear. */
const xmlNode *schema_encrypted_key(const xmlNode *key_content);

#endif
