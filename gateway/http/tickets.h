/*
 * TLS sessions resumed by tickets (RFC 5077; RFC 8446, 2.2): a client that comes back need not prove itself anew, and
 * counts as the client with which the session was made. Its certificate is in the ticket.
 *
 * A ticket opens only where it was made: its keys are derived from the hour's secret and from a binding of listener,
 * client_auth and the content of client_ca. It is good for two hours from the full handshake, however often it was
 * renewed, and never longer than the client's certificate. The secrets live in memory, are new each hour, and the last
 * two open. With a secret of a fleet they are derived from it and from the hour, so that every gateway opens them.
 */
#ifndef KMSGATE_HTTP_TICKETS_H
#define KMSGATE_HTTP_TICKETS_H

#include <openssl/ssl.h>

#include "base/reason.h"
#include "base/secret.h"

enum { TICKETS_BINDING = 32, TICKETS_SECONDS = 7200 };

struct tickets;

/* NULL without memory. `fleet`: the secret that several gateways share, copied; NULL: of this process alone. */
struct tickets *tickets_new(const struct secret_key *fleet);
void tickets_free(struct tickets *t); /* NULL is fine; not before the contexts that use it */
/* Sessions of ctx are resumed by tickets that are bound to `binding`. Where certain is true, one without a client's
 * certificate is never resumed. t outlives ctx. */
bool tickets_use(struct tickets *t, SSL_CTX *ctx, const uint8_t binding[TICKETS_BINDING], bool certain) MUST_CHECK;
/* For tests: the hours are counted from here on as if so many seconds had passed. */
void tickets_shift(struct tickets *t, int64_t seconds);

#endif
