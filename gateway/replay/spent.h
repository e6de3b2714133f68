/*
 * What this process has accepted: a table sharded by user, safe from any thread, bounded. Full, it refuses; it forgets
 * nothing within the window; its floor rises before anything is forgotten, and that is a few with each that is added.
 * Inside replay/ only.
 *
 *     if (!spent_digests(&claim, digest)) ...
 *     reason = spent_add(s, digest, &claim);         REASON_OK, REPLAY_SEEN, REPLAY_FULL, REPLAY_UNAVAILABLE
 */
#ifndef KMSGATE_REPLAY_SPENT_H
#define KMSGATE_REPLAY_SPENT_H

#include "replay/replay_engine.h"

struct spent;
/* walls_us: replay_walls() to begin with. retain_us: how long something is remembered after its Time. NULL when out of
 * memory. */
struct spent *spent_new(unsigned max_entries, int64_t floor_us, int64_t walls_us, int64_t retain_us);
void spent_free(struct spent *r);
/* A wider window brings nothing back: the floor stays. */
void spent_retain(struct spent *r, int64_t retain_us);
/* Another number of entries; what is there too much is forgotten as it would be anyway. */
void spent_limit(struct spent *s, unsigned max_entries);
int64_t spent_floor(const struct spent *r);
int64_t spent_walls(const struct spent *r);
size_t spent_count(const struct spent *r);

/* Of user and request: [0] and [1]. False when out of memory. */
bool spent_digests(const struct replay_claim *c, uint8_t out[2][REPLAY_DIGEST]) MUST_CHECK;
/* One atomic step. */
enum reason spent_add(struct spent *r, const uint8_t digest[2][REPLAY_DIGEST],
                      const struct replay_claim *c) MUST_CHECK;
/* Forgets what the floor refuses anyway, for a tenth of a second at most: else memory would be given back by those
 * alone who come. Any thread. */
void spent_tidy(struct spent *r);
void spent_forget(struct spent *r, const uint8_t digest[2][REPLAY_DIGEST]);

#endif
