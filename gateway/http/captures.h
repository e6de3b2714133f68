/*
 * Bodies of refused requests, kept for who looks into them: of rules with `capture: on`, in the folder `captures` of
 * gateway.yaml. ID.xml is the body as it came, ID.json beside it says when, where from and to which target; both have
 * mode 0600. When there are more than `max` octets the oldest go. A thread writes; whoever serves never waits for it.
 */
#ifndef KMSGATE_HTTP_CAPTURES_H
#define KMSGATE_HTTP_CAPTURES_H

#include "base/net.h"
#include "base/str.h"

enum { CAPTURE_ID = 32 }; /* hex digits in lower case */
bool capture_is_id(struct str id);

struct capture {
    const char *id; /* of the request: CAPTURE_ID hex digits in lower case */
    struct str body, target;
    struct ip source;
    int64_t time_us;
};

struct captures;
/* Makes the folder where only its last part is missing. False: it can't be, or cannot be used; `why` is written. */
bool captures_prepare(const char *folder, char *why, size_t why_size);
/* Looks at what is in it. NULL: `why` is written. */
struct captures *captures_open(const char *folder, uint64_t max, char *why, size_t why_size);
/* Any thread; copies. False: too many wait to be written, or there is no memory; that is counted. NULL: false. */
bool captures_keep(struct captures *c, const struct capture *what);
/* Writes what waits (for at most a second). NULL is fine. */
void captures_close(struct captures *c);

#endif
