/*
 * The replay memory in Redis 7.0, shared by all gateways of a fleet: an engine behind replay.h. The rule is in
 * library.lua, a library that the gateway loads into the server; here is what is said to it. Sockets are lent by
 * whoever knows event loops (http/replay_line.c): a connection a worker, over which bytes come in and go out.
 *
 *     struct replay *r = replay_redis_new(&how, &settings, &sockets, sockets_arg);
 *
 *     redis_line_connected(line, PEER_SERVER);         the sockets' side: a connection is there
 *     redis_line_feed(line, bytes, n);                 false: it is to be closed
 *     redis_line_turn_ends(line);                      after redis_sockets.soon: then redis_line_out() is to be written
 *     redis_line_tick(line);                           each REDIS_TICK_MS; false: it is to be closed
 *     redis_line_lost(line, kind, why);                it is closed, or could not be made
 */
#ifndef KMSGATE_REPLAY_REDIS_H
#define KMSGATE_REPLAY_REDIS_H

#include "base/buf.h"
#include "replay/replay.h"

/* Why the shared memory does not serve: kmsgate_replay_errors_total's `kind`, and a word of /readyz. */
#define REDIS_FAULT_LIST(X)                                                                            \
    X(FINE, "fine")                                                                                    \
    X(STARTING, "starting")     /* no connection has been there yet */                                 \
    X(CONNECTION, "connection") /* none, or it broke */                                                \
    X(TIMEOUT, "timeout")       /* no answer in time */                                                \
    X(SENTINEL, "sentinel")     /* no Sentinel says who the primary is */                              \
    X(AUTH, "auth")             /* user, password or rights */                                         \
    X(ROLE, "role")             /* no primary */                                                       \
    X(REPLICAS, "replicas")     /* too few have it */                                                  \
    X(CLOCK, "clock")           /* the server's and this machine's are further apart than agreed */    \
    X(EVICTION, "eviction")     /* the server forgets when it is full */                               \
    X(FULL, "full")                                                                                    \
    X(SECRET, "secret")         /* the epoch is of gateways with another */                            \
    X(LIBRARY, "library")       /* cannot be loaded, or is gone */                                     \
    X(SERVER, "server")         /* another error of the server */                                      \
    X(PROTOCOL, "protocol")     /* what came is no reply that was due */                               \
    X(EPOCH, "epoch")           /* requests before its floor cannot be told from replays */
enum redis_fault {
#define REDIS_FAULT_ENUM(e, name) REDIS_##e,
    REDIS_FAULT_LIST(REDIS_FAULT_ENUM)
#undef REDIS_FAULT_ENUM
    REDIS_FAULTS
};

enum { REDIS_TICK_MS = 50, REDIS_HOST = 256, REDIS_PORT = 6 };

/* Who is at the other end. */
enum redis_peer { PEER_SERVER, PEER_SENTINEL };

struct redis_line;
/* What the sockets' side does; `wire` is its own, one a line. */
struct redis_sockets {
    void *(*open)(void *arg, struct redis_line *line, struct event_base *loop); /* NULL without memory */
    void (*soon)(void *wire); /* at the end of this turn of the loop: redis_line_turn_ends(), and write */
    void (*close)(void *wire);
};

/* As it is configured; texts live as long as the memory, secrets are copied. */
struct replay_redis {
    const char *name;               /* for the log: the URL */
    const struct secret_key *secret;
    const char *user, *password;    /* NULL: none */
    const char *master;             /* the name that Sentinels know; NULL: there are none */
    int64_t timeout_us, apart_us;
    unsigned wait_replicas;
    unsigned user_max;              /* entries of one user */
};

/* NULL without memory, or where OpenSSL fails. */
struct replay *replay_redis_new(const struct replay_redis *how, const struct replay_settings *s,
                                const struct redis_sockets *sockets, void *arg);

/* For the sockets' side, in the line's thread. */
void redis_line_connected(struct redis_line *l, enum redis_peer peer);
bool redis_line_feed(struct redis_line *l, const void *bytes, size_t n) MUST_CHECK;
bool redis_line_tick(struct redis_line *l) MUST_CHECK;
void redis_line_turn_ends(struct redis_line *l);
/* What is to be written. It may hold a password: the sockets' side wipes and empties it when all is written. */
struct buf *redis_line_out(struct redis_line *l);
/* After a Sentinel's answer, once: the primary. False: none was told. */
bool redis_line_primary(struct redis_line *l, char host[REDIS_HOST], char port[REDIS_PORT]);
/* kind FINE: the line itself said why. Whoever waits is refused. */
void redis_line_lost(struct redis_line *l, enum redis_fault kind, const char *why);

#endif
