/*
 * The resources of the KMS interface (TS 33.180 D.2.1): a closed list, matched on the raw path.
 */
#ifndef KMSGATE_GATE_RESOURCE_H
#define KMSGATE_GATE_RESOURCE_H

#include "base/buf.h"
#include "base/reason.h"

enum resource_kind {
    RESOURCE_INIT,
    RESOURCE_KEYPROV,
    RESOURCE_CERTCACHE,
    RESOURCE_CERT,
    RESOURCE_LOOKUP,
    RESOURCE_REDIRECT
};
struct resource {
    enum resource_kind kind;
    struct str path, query; /* raw views into the target; query is missing when there is no '?' */
    struct str user_raw;    /* the {UserUri} segment of keyprov and lookup, still encoded; missing when there is none */
};
/* HTTP_PATH for a target that is ambiguous or malformed (dot segments, doubled slashes, escapes outside {…} segments or
 * of '/', controls, backslash, fragment …), HTTP_RESOURCE for one that does not exist, else REASON_OK. */
enum reason resource_parse(struct str target, struct resource *out, struct detail *why) MUST_CHECK;

#endif
