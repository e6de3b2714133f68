/*
 * The sockets of the shared replay memory: a connection a worker to a Redis server, found by Sentinels or not, with TLS
 * or not; made again when it breaks. What is said over it is replay/redis.h's.
 *
 *     struct replay_site *site = replay_site_new(&config->replay, why);       one a process
 *     r = replay_redis_new(&how, &settings, &REPLAY_SOCKETS, site);
 */
#ifndef KMSGATE_HTTP_REPLAY_LINE_H
#define KMSGATE_HTTP_REPLAY_LINE_H

#include "base/config.h"
#include "http/tls.h"
#include "replay/redis.h"

struct replay_site;
extern const struct redis_sockets REPLAY_SOCKETS;

/* NULL with the reason in `why`. `c` lives longer. */
struct replay_site *replay_site_new(const struct replay_config *c, char why[TLS_WHY]);
void replay_site_free(struct replay_site *s); /* NULL is fine; after the memory that uses it */

#endif
