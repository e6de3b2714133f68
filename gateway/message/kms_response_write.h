/*
 * How a reply is written: one pass over what was read, its texts noted for the look for keys beside their place, until
 * the first thing that goes wrong. For kms_response_write*.c only.
 */
#ifndef KMSGATE_MESSAGE_KMS_RESPONSE_WRITE_H
#define KMSGATE_MESSAGE_KMS_RESPONSE_WRITE_H

#include "message/dialect_internal.h"
#include "message/kms_response_internal.h"
#include "message/kms_response_spill.h"

struct writing {
    const struct kms_response *r; /* NULL: no payload */
    const struct kms_response_plan *plan;
    struct buf *out;
    struct detail *why;
    enum reason reason; /* the first that went wrong; then nothing more is written that would be sent */
    bool encrypted;
    bool typed;         /* within an element that declares xsi */
    bool hidden;        /* within what is encrypted as a whole */
    size_t repeats;     /* octets that may yet be written of what is kept as it came; see keep() */
    struct spill spill; /* what is encrypted, and what stands beside it in clear */
};

void writing_fail(struct writing *w, enum reason reason, const char *what);
/* Nothing more will be sent: what is written from here on is for nobody. */
bool writing_stopped(const struct writing *w);
/* As the standard calls it (a name that ends with a NUL), or, where a dialect is spoken, as the upstream does (n: its
 * own element; NULL: none). */
struct str writing_name(const struct writing *w, const xmlNode *n, struct str standard);
const char *writing_type(const struct writing *w, const char *standard);
/* A text of the upstream's that leaves as it is. */
void writing_passes(struct writing *w, struct str text);
void writing_open(struct writing *w, struct str name); /* "<name" */
void writing_close(struct writing *w, struct str name);
void writing_leaf(struct writing *w, struct str name, struct str text); /* nothing where the text is missing */
/* Behind an element's name, in canonical order: declarations, attributes. n: the upstream's element, or NULL. `type`:
 * its xsi:type; `declares`: xsi, with or without type. */
void writing_attributes(struct writing *w, const xmlNode *n, const struct schema_group *g, const char *type,
                        bool declares);
/* Behind a key's name: its xsi:type and, at once or not, its content. */
void writing_key_type(struct writing *w, const char *type);
/* e's octets, encrypted where they must be; `clear`: the hex as it came; missing: it came encrypted. */
void writing_key(struct writing *w, const struct schema_element *e, const uint8_t *octets, struct str clear);
/* The same of several that are all encrypted: first wrapped, then each written. */
bool writing_wrap(struct writing *w, struct xmlenc_wrapped *v, size_t count) MUST_CHECK;
void writing_wrapped(struct writing *w, const struct xmlenc_wrapped *v);
/* An element as it came: its inclusive canonical form, so that a signature over it holds where it stands now. */
void writing_verbatim(struct writing *w, const xmlNode *n);

#endif
