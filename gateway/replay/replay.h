/*
 * The replay memory: which signed requests were accepted while their Time was acceptable. Sharded by user, safe from
 * any thread, bounded; it refuses when full and forgets nothing within the window.
 *
 * It remembers every accepted request whose Time is at or after `floor`: the start of the process, moved forward
 * when entries leave the window. A request before the floor cannot be told from a replay and is time.stale. So a
 * restart, a wider window after a reload and a clock that steps back all fail closed.
 */
#ifndef KMSGATE_REPLAY_REPLAY_H
#define KMSGATE_REPLAY_REPLAY_H

#include "base/reason.h"
#include "base/timestamp.h"

struct replay;
/* start_us: the floor to begin with. retain_us: the widest `past` of the rules. NULL when out of memory. */
struct replay *replay_new(unsigned max_entries, int64_t start_us, int64_t retain_us);
void replay_free(struct replay *r);
/* After a reload. A wider window does not bring back what was forgotten: the floor stays. */
void replay_retain(struct replay *r, int64_t retain_us);
int64_t replay_floor(const struct replay *r);
/* One atomic step: REASON_OK and remembered; REPLAY_SEEN; REPLAY_FULL (also without memory, or when the user has his
 * share); TIME_STALE when time_us is before the floor. value: the decoded SignatureValue. time_us: the request's Time
 * (the latest, where rules read it differently); TIME_NONE where none enforces it: then arrival stands for it. */
enum reason replay_spend(struct replay *r, struct str user, struct str key_id, const uint8_t *value, size_t value_n,
                         int64_t time_us, int64_t now_us) MUST_CHECK;
size_t replay_count(const struct replay *r);

#endif
