/*
 * The only HTTP client: asynchronous calls to the upstream on a worker's event base, with a keep-alive pool. A call is
 * sent at most once: what cannot be known to have failed is never repeated.
 */
#ifndef KMSGATE_HTTP_UPSTREAM_H
#define KMSGATE_HTTP_UPSTREAM_H

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/reason.h"
#include "http/tls.h"

struct upstream;
struct upstream_call;

/* Once, in main, before threads. */
bool upstream_startup(void) MUST_CHECK;

/* Whether the upstream is there, for all workers together: the log tells a change, not each call that fails. */
struct upstream_health {
    pthread_mutex_t lock;
    atomic_bool down;
    bool unconnected;  /* it is down since no connection could be made: a probe can tell when that is over */
    int64_t since_us;  /* monotonic: when it went away, or came back */
    unsigned failed;   /* calls meanwhile */
};

/* NULL without memory. `connections` is this worker's share; 0: no cap. */
struct upstream *upstream_new(struct event_base *base, const struct upstream_config *config, unsigned connections,
                              struct upstream_health *health);
/* For connections from now on. */
void upstream_use_tls(struct upstream *u, struct upstream_tls *tls);
/* Looks whether the upstream is there: now, and every two seconds while it cannot be reached. One worker does so. */
bool upstream_probe(struct upstream *u);
/* Ends calls that still run: their callbacks say that the upstream is unreachable. */
void upstream_free(struct upstream *u);

struct upstream_result {
    enum reason reason; /* REASON_OK: there is a reply; else UPSTREAM_UNREACHABLE, _TIMEOUT or _INVALID */
    bool unsent;        /* certainly no byte of the request was sent */
    int status;
    struct str body;
    struct str www_authenticate, retry_after; /* sanitized; missing when there are none */
};
/* Called once, from the event loop, never from within upstream_start(). The result lives until it returns. */
typedef void upstream_done(void *arg, const struct upstream_result *result);

/* A call to be started; NULL without memory. method and target are copied. */
struct upstream_call *upstream_call_new(struct upstream *u, const char *method, struct str target);
/* False without memory or when the value holds control characters. */
bool upstream_call_header(struct upstream_call *c, struct str name, struct str value);
/* Takes over the body, and the call whatever comes of it. False: not started, `done` will not be called. */
bool upstream_start(struct upstream_call *c, struct buf *body, upstream_done *done, void *arg);
void upstream_call_free(struct upstream_call *c); /* of a call that was not started */

#endif
