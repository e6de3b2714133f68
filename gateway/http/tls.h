/*
 * Certificates and keys: read as a whole, checked, and only then used. What is read stays what it is until somebody
 * asks for it to be read again; connections that are open keep what they began with.
 */
#ifndef KMSGATE_HTTP_TLS_H
#define KMSGATE_HTTP_TLS_H

#include <openssl/ssl.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/reason.h"
#include "base/timestamp.h"

enum { TLS_WHY = 512 };

struct tickets;

/* For a listener; NULL with the reason in `why`, which names the file. Sessions are resumed by `tickets`, which outlive
 * it, bound to the listener's address, client_auth and the content of client_ca; NULL: they are not. */
SSL_CTX *tls_context(const struct listen_config *l, struct tickets *tickets, char why[TLS_WHY]);
/* For a client of that very address, of the same machine: it shows the address's own certificate where one is
 * required. `only`: it takes nobody but who has that certificate, whatever name the address has. False with the reason
 * in `why`. */
bool tls_client_of(SSL_CTX *ctx, const struct listen_config *l, bool only, char why[TLS_WHY]) MUST_CHECK;
/* Why a handshake failed, in a word of a closed set, for the metric; code: OpenSSL's error, 0: there was none. */
const char *tls_failure(unsigned long code);
/* When the first certificate of the listener's chain expires; TIME_NONE: it has none. */
int64_t tls_context_expiry(SSL_CTX *ctx);

/* For connections to a server whose certificate has to be from `ca` (a PEM file; NULL: from whom the system trusts);
 * whose it has to be is the caller's to say. NULL with the reason in `why`. */
SSL_CTX *tls_client_context(const char *ca, char why[TLS_WHY]);

/* What connections to the upstream are made with. */
struct upstream_tls {
    SSL_CTX *ctx;      /* NULL: it is reached without TLS */
    int64_t expiry_us; /* of the certificate that is shown to it */
    unsigned refs;     /* by the two functions below only */
};
/* NULL with the reason in `why`. */
struct upstream_tls *upstream_tls_load(const struct upstream_config *c, char why[TLS_WHY]);
struct upstream_tls *upstream_tls_ref(struct upstream_tls *t);
void upstream_tls_unref(struct upstream_tls *t); /* NULL is fine */

#endif
