/*
 * Trace Context (W3C): which trace a request belongs to, and the `traceparent` that the upstream gets.
 *
 *     struct trace t;
 *     trace_begin(&t, &guard, id);                        the client's trace, or one by the request's ID
 *     if (trace_parent(&t, header)) ...                   a new parent for each call
 */
#ifndef KMSGATE_HTTP_TRACE_H
#define KMSGATE_HTTP_TRACE_H

#include "http/guard.h"

enum { TRACE_ID_TEXT = 33, TRACE_PARENT_TEXT = 56 };
struct trace {
    char id[TRACE_ID_TEXT];
    bool clients; /* the client's own: its sampling, and a tracestate that may pass, belong to it */
    bool sampled;
};
/* `id`: 32 lower hexadecimal digits, taken where there is not exactly one traceparent, or it is not well-formed: the
 * form of version 00 (2-32-16-2 lower hexadecimal digits and no more), no version ff, no ID all zero. */
void trace_begin(struct trace *t, const struct guard *g, const char *id);
/* False: no random bytes. */
bool trace_parent(const struct trace *t, char out[TRACE_PARENT_TEXT]) MUST_CHECK;

#endif
