/*
 * Where a PostgreSQL key database is: a URI of libpq, read once. Its hosts are tried one after the other, each by a
 * deadline of its own: libpq without blocking has one for none.
 */
#ifndef KMSGATE_KEYS_KEYDB_POSTGRES_TARGET_H
#define KMSGATE_KEYS_KEYDB_POSTGRES_TARGET_H

#include "keys/keydb_postgres.h"

enum { PG_PARAMETERS = 64 };
struct pg_target {
    const char *keywords[PG_PARAMETERS]; /* libpq's literals */
    char *values[PG_PARAMETERS];
    size_t n;
    char *host, *hostaddr, *port, *timeout; /* NULL: not given */
    size_t hosts;
};
/* How long to wait for one host. */
int pg_target_ms(const struct pg_target *t);
/* Begins to connect to one of the hosts; NULL without memory. */
PGconn *pg_target_start(const struct pg_target *t, size_t host);

#endif
