/*
 * What the files of message/ know of a translation.
 */
#ifndef KMSGATE_MESSAGE_DIALECT_INTERNAL_H
#define KMSGATE_MESSAGE_DIALECT_INTERNAL_H

#include "message/dialect.h"
#include "message/xml_internal.h"

/* The local name that an element had when it came. */
const char *dialect_original(const xmlNode *n);
/*
 * A reply as its XML declaration says that it is encoded (ISO-8859-1, US-ASCII; white space before it is passed over):
 * *out is the text in UTF-8 without declaration, in `room` where it had to be made. What declares another encoding or
 * none, or is not so encoded, comes back as it is. False: no memory.
 */
bool dialect_recode(struct str text, struct buf *room, struct str *out) MUST_CHECK;

#endif
