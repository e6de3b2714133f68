/*
 * How an older KMS speaks, and its replies put into the standard's words: by local name under the namespaces that the
 * dialect lists, names as `rename` says, keys as hex with their leading 04, times as whole seconds with Z.
 *
 *     reason = dialect_parse(body, rule->dialect, &doc, &why);        NULL: the standard's own words only
 *     reason = kms_response_read(doc, …);                             judges what came out, as ever
 *
 * A dialect never makes anything valid: what it does not name stays as it is, and is an error for who reads next.
 */
#ifndef KMSGATE_MESSAGE_DIALECT_H
#define KMSGATE_MESSAGE_DIALECT_H

#include "base/config.h"
#include "message/xml.h"

struct dialect {
    char *name;
    struct strings namespaces; /* what is the standard's besides its own; "" stands for none. May be relative */
    struct dialect_name {
        char *from, *to; /* local names of elements; `to` is one that dialect_target() knows */
    } *rename;
    size_t rename_count;
    struct dialect_name *rename_types; /* of xsi:type; `to` is one that dialect_type_target() knows */
    size_t rename_type_count;
    enum { KEY_TEXT_AUTO, KEY_TEXT_HEX, KEY_TEXT_BASE64 } key_text;
    enum { PREFIX_KEEP, PREFIX_ADD } point_prefix; /* a point may come without its leading 04 */
    enum { OCTETS_EXACT, OCTETS_NUMERIC } key_octets; /* an SSK is a number: zero octets in front may be few or many */
    enum { ENCODING_UTF_8, ENCODING_DECLARED } encoding; /* ISO-8859-1, US-ASCII; white space before */
    enum { USERS_CHECK, USERS_IGNORE_ENVELOPE, USERS_IGNORE } user_uri;
};
void dialect_free(struct dialect *d); /* what it holds */

/* xml_parse() of a reply, then the translation. `d` may be NULL. REASON_OK, or UPSTREAM_INVALID, INTERNAL. */
enum reason dialect_parse(struct str text, const struct dialect *d, struct xml_doc **out,
                          struct detail *why) MUST_CHECK;

/* The standard's name (of an element, of a type) as the dialect has it: what leads there first, else itself. */
const char *dialect_spoken(const struct dialect *d, const char *standard);
const char *dialect_spoken_type(const struct dialect *d, const char *standard);
/* The namespace that the root had before the translation: the standard's, or one that the dialect lists ("": none). */
const char *dialect_namespace(const struct xml_doc *doc);

/* The names that `rename_types` may lead to; NULL behind the last. */
const char *dialect_type_target(size_t n);
/* The names that `rename` may lead to, in some order; NULL behind the last. */
const char *dialect_target(size_t n);
/* True when an element of that name holds a key. */
bool dialect_is_key(struct str name);
/* True when it is a key's name, however it is written: a rename must not make anything else of it. */
bool dialect_looks_like_key(struct str name);
/* True for the namespaces that are never an older KMS's own: those of XML Signature and its kin. */
bool dialect_is_foreign(struct str ns);

#endif
