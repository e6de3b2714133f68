/*
 * The only HTTP client of a serving gateway: asynchronous calls to the upstream on a worker's event base, over kept
 * connections. A request is sent at most once: only what certainly never left goes out on another connection.
 *
 *     struct upstream_call *c = upstream_call_new(u, kind, "POST", target);
 *     if (c && upstream_call_header(c, STR("X-Request-Id"), id) && ...)
 *         reason = upstream_start(c, &body, done, arg);
 */
#ifndef KMSGATE_HTTP_UPSTREAM_H
#define KMSGATE_HTTP_UPSTREAM_H

#include <event2/event.h>

#include "base/reason.h"
#include "http/tls.h"

struct upstream_site;
struct upstream;
struct upstream_call;

/* What all workers together know of the upstream: where it is, whether it answers, how many calls run. The
 * configuration has to stay. NULL without memory. */
struct upstream_site *upstream_site_new(const struct upstream_config *config);
void upstream_site_free(struct upstream_site *site); /* after all its pools; NULL is fine */
/* It did not answer the last time. */
/* As in its URL, a number in text; lives as long as the site. */
const char *upstream_site_port(const struct upstream_site *site);
bool upstream_site_down(const struct upstream_site *site);

/* A worker's pool; NULL without memory. */
struct upstream *upstream_new(struct event_base *base, struct upstream_site *site);
/* `held` is told of each change in the octets that one reply takes, from its first until its call is over. */
void upstream_tell_held(struct upstream *u, void (*held)(void *arg, size_t before, size_t now), void *arg);
/* For connections from now on; kept ones that were made with another are closed. */
/* Of calls that begin from now on. */
void upstream_set_timeout(struct upstream *u, int64_t us);
void upstream_use_tls(struct upstream *u, struct upstream_tls *tls);
/* Looks whether the upstream is there: now, and every two seconds while it cannot be reached. One worker does so. */
bool upstream_probe(struct upstream *u);
/* Ends calls that still run: their callbacks say that the upstream is unreachable. */
void upstream_free(struct upstream *u);

struct upstream_result {
    enum reason reason; /* REASON_OK: there is a reply; else UPSTREAM_UNREACHABLE, _TIMEOUT or _INVALID */
    bool unsent;        /* certainly no byte of the request left this host */
    int status;
    struct str body;
    struct str www_authenticate, retry_after; /* NUL-terminated, sanitized; missing when there are none */
};
/* Called once, from the event loop, never from within upstream_start(). The result lives until it returns. */
typedef void upstream_done(void *arg, const struct upstream_result *result);

/* A call to be started; NULL without memory. method and target are copied. `kind`, below SHARES_KINDS: of resource, for
 * its share of the calls that may run. */
struct upstream_call *upstream_call_new(struct upstream *u, unsigned kind, const char *method, struct str target);
/* False without memory or when the value holds control characters. An empty value: the header is left out. */
bool upstream_call_header(struct upstream_call *c, struct str name, struct str value);
/*
 * Takes over the body, and the call whatever comes of it. Other than REASON_OK: not started and nothing sent, `done`
 * will not be called. HTTP_BUSY: as many calls run as may, or nearly so, most of them of this kind, while others ask;
 * UPSTREAM_UNREACHABLE: the breaker is open, see upstream_retry_after(); INTERNAL: no memory.
 */
enum reason upstream_start(struct upstream_call *c, struct buf *body, upstream_done *done, void *arg) MUST_CHECK;
void upstream_call_free(struct upstream_call *c); /* of a call that was not started */
/* Seconds after which whom the breaker refused may come again; 0: the breaker lets calls through. */
unsigned upstream_retry_after(const struct upstream *u);

#endif
