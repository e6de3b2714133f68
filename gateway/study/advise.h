/*
 * Advice from recorded decisions: whom the rules lock out, why, and the narrowest exception that would let them in.
 * What is forged, replayed, revoked or unknown gets none, nor does what is mended elsewhere: that is named with its
 * remedy.
 *
 *     struct advice *a = advice_new(rules, time_now_us());
 *     while (…) if (!advice_add(a, &record)) … out of memory
 *     advice_write(a, &out);
 *     advice_free(a);
 */
#ifndef KMSGATE_STUDY_ADVISE_H
#define KMSGATE_STUDY_ADVISE_H

#include "study/rejudge.h"

struct advice;
/* `rules` must outlive it; exceptions end 90 days after now_us. NULL without memory. */
struct advice *advice_new(const struct rules *rules, int64_t now_us);
/* One decision, in the order of time: what was accepted once is known again when it comes late. False without
 * memory. */
bool advice_add(struct advice *a, const struct record *r) MUST_CHECK;
/* A `requests:` list in YAML, all else as comments; false without memory. To be asked once, when all is added. */
bool advice_write(struct advice *a, struct buf *out) MUST_CHECK;
/* Whether somebody is locked out: replays and what the services behind the rules refused do not count. */
bool advice_locked_out(const struct advice *a);
void advice_free(struct advice *a); /* NULL is fine */

#endif
