/*
 * A zone of the system's tzdata, such as Europe/Paris: which instants its clocks' times stand for. Read once, whole; no
 * global state, safe from any thread.
 *
 *     struct zone *z = zone_load(STR("Europe/Paris"), &damaged);
 *     int64_t at[2];
 *     unsigned n = zone_instants(z, wall_us, at);    0: the clocks never show it (spring), 2: twice (autumn)
 */
#ifndef KMSGATE_BASE_ZONE_H
#define KMSGATE_BASE_ZONE_H

#include "base/timestamp.h"

struct zone;
/* NULL when tzdata has no zone of that name, its file is no TZif of version 2 or later or counts leap seconds, or
 * memory is short. The caller frees. *damaged: there is such a file, and it is none that can be used. */
struct zone *zone_load(struct str name, bool *damaged);
/* "+01:00", from "-14:00" to "+14:00": minutes, east positive. False where it is none, and *minutes is left alone. */
bool zone_offset_parse(struct str text, int *minutes);
void zone_free(struct zone *z);
/* The instants (us) at which clocks there show `wall_us`, a time read as if it were UTC; the earliest first. */
unsigned zone_instants(const struct zone *z, int64_t wall_us, int64_t out[2]);

#endif
