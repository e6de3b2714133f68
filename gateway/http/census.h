/*
 * What the console tells of the past: decisions, counted in tables of fixed size (some 6 MiB, whatever happens).
 *
 * A worker leaves a note of each decision in a ring of its own: a copy of a few hundred octets, no lock, no wait. A
 * thread of the census takes the notes out ten times a second and counts. What finds no room, in a ring or in a table,
 * is lost and counted as such; serving never notices.
 *
 *     struct census *t = census_new(workers, time_now_us(), config->state);
 *     census_note(t, worker, judgement);                 in the worker's thread, once its decision is made
 *     struct json j = {.out = &body}; census_tell_traffic(t, time_now_us(), &j);
 *     census_free(t);                                    after the workers
 */
#ifndef KMSGATE_HTTP_CENSUS_H
#define KMSGATE_HTTP_CENSUS_H

#include "base/json.h"
#include "gate/gate.h"

struct census;

/* since_us: now. folder: where the use of rules is kept from one run to the next, in a file; NULL: nowhere; it has to
 * stay. NULL without memory or thread. */
struct census *census_new(unsigned workers, int64_t since_us, const char *folder);
void census_free(struct census *t); /* NULL is fine */
/* Of a decision that is made; `worker` counts from 0, and is that of the calling thread. Never blocks. */
void census_note(struct census *t, unsigned worker, const struct judgement *j);
int64_t census_since(const struct census *t);
/* Since when it is known how rules were used: over restarts, unless nobody watched for a day. */
int64_t census_watched(const struct census *t);
/* Notes that found a full ring. */
uint64_t census_lost(struct census *t);

/*
 * Each writes one JSON object, as docker/ADMIN-API.md has it; what was noted before the call is in it. Any thread.
 */
/* /api/traffic: decisions by verdict and reason, in steps of 5 s over ten minutes and of 10 min over a day. */
void census_tell_traffic(struct census *t, int64_t now_us, struct json *j);
/* /api/passes: whom checks in shadow, shadow_accept and exceptions let through. */
void census_tell_passes(struct census *t, int64_t now_us, struct json *j);
/* /api/clocks: users whose clocks are apart from the gateway's, the nearest to refusal first. */
void census_tell_clocks(struct census *t, int64_t now_us, struct json *j);
/* The members `old` and `renewed` of /api/keys, into an object that is open. */
void census_tell_keys(struct census *t, int64_t now_us, struct json *j);

/* How a request rule was used: of its `hits` in /api/rules. Missing: nobody met it since the census began. */
struct census_use {
    uint64_t accepted, rejected;
    int64_t first_us, last_us; /* of the accepted; TIME_NONE: none */
    uint32_t hours[24], days[31]; /* accepted; the newest first */
};
/* False when it was not met. */
bool census_use(struct census *t, struct str rule, int64_t now_us, struct census_use *out);
/* How many users are beyond `percent` of what their rule allows their clocks, within the last day. */
size_t census_drifting(struct census *t, int64_t now_us, unsigned percent);

#endif
