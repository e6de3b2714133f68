/*
 * What is limited while serving, and who is told when a limit is reached: the log (a line each ten seconds and limit),
 * the metric kmsgate_limit, and what /readyz says below its word. Process-wide, from any thread.
 */
#ifndef KMSGATE_HTTP_BOUNDS_H
#define KMSGATE_HTTP_BOUNDS_H

#include "base/buf.h"

/* enumerator, name (of the metric's label), what stands in /readyz while it is reached */
#define BOUND_LIST(X)                                                                               \
    X(CONNECTIONS, "connections", "limits.connections is reached: room is made by closing others")  \
    X(IN_FLIGHT, "in_flight", "limits.in_flight is reached: requests are refused")                  \
    X(MEMORY, "memory", "limits.memory is reached: bodies wait or are refused")                     \
    X(USER, "user", "one user or source has all of his share of limits.in_flight")                  \
    X(RESOURCE, "resource", "one resource has half of what may be in flight: others come first")    \
    X(UPSTREAM, "upstream_connections", "upstream.connections is reached: requests are refused")    \
    X(BREAKER, "breaker", "the upstream does not answer: requests are refused but for single ones") \
    X(ADMIN, "admin_connections", "the admin address has no room: it is made by closing others")

enum bound {
#define BOUND_ENUM(e, name, text) BOUND_##e,
    BOUND_LIST(BOUND_ENUM)
#undef BOUND_ENUM
    BOUND_COUNT
};

/* Somebody has met the limit. It counts as reached for ten seconds. */
void bounds_hit(enum bound b);
/* For a limit that is on until it is off: the caller tells the log itself. */
void bounds_set(enum bound b, bool on);
bool bounds_reached(enum bound b);
const char *bounds_text(enum bound b); /* what it means, as in /readyz */
void bounds_measure(void);             /* sets the metric, 1 or 0, of each */
void bounds_write(struct buf *out);    /* a line for each that is reached and that requests can meet */

#endif
