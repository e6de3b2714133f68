/*
 * Both ways of reading a request (request_doc.h) side by side: they must say the same of what both can read. Tests and
 * the fuzzer ask this of what they make, `kmsgate explain` of what it explains. Never for serving.
 */
#ifndef KMSGATE_MESSAGE_REQUEST_WAYS_H
#define KMSGATE_MESSAGE_REQUEST_WAYS_H

#include "message/request_doc.h"

enum request_ways {
    REQUEST_WAYS_ONE,      /* it is not in the profile: there is but the way by tree and xmlsec1 */
    REQUEST_WAYS_REFUSE,   /* both say that the signature does not hold, or that there is none */
    REQUEST_WAYS_ACCEPT,   /* both verify it, read the same fields and forward the same text */
    REQUEST_WAYS_DIFFER,   /* a fault of the gateway's; *what names the thing that differs */
    REQUEST_WAYS_NO_MEMORY
};
/* `key`: what the signature is verified with. */
enum request_ways request_ways(struct str body, const struct xmlsig_policy *policy, const struct secret_key *key,
                               const char **what);

#endif
