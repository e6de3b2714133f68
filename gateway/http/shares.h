/*
 * Who has how much of limits.in_flight, or of upstream.connections: a resource that hangs, or one user, leaves room for
 * the others. For all workers together.
 *
 *     shares_begin(s, kind)     a complete request of this resource; false: it has its half while others ask
 *     shares_enter(s, who)      it is about to be forwarded; false: this user or source has his sixteenth
 *
 * Each is ended by its twin, also where it said false (shares_begin), or only where it said true (shares_enter).
 */
#ifndef KMSGATE_HTTP_SHARES_H
#define KMSGATE_HTTP_SHARES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/net.h"

struct shares;

/* Of so many requests in flight; NULL without memory. */
struct shares *shares_new(unsigned in_flight);
/* Another number in flight; who has more than his share keeps it. */
void shares_limit(struct shares *s, unsigned in_flight);
void shares_free(struct shares *s); /* NULL is fine */

enum { SHARES_KINDS = 16 };
bool shares_begin(struct shares *s, unsigned kind);
void shares_end(struct shares *s, unsigned kind);

/* Whose request it is; never 0. A proven user, else the source: of IPv6 its /64. 0: nobody can be told apart, and
 * nobody is held to a share. */
uint64_t shares_user(const struct shares *s, struct str user);
uint64_t shares_source(const struct shares *s, const struct ip *source);
bool shares_enter(struct shares *s, uint64_t who);
void shares_leave(struct shares *s, uint64_t who);

#endif
