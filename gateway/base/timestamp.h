/*
 * Instants: microseconds since 1970-01-01T00:00:00Z in an int64_t ("us").
 */
#ifndef KMSGATE_BASE_TIMESTAMP_H
#define KMSGATE_BASE_TIMESTAMP_H

#include <stdatomic.h>

#include "base/str.h"

#define US_PER_S INT64_C(1000000)
#define TIME_NONE INT64_MIN

/* Now, by CLOCK_REALTIME (us), and a clock for durations, by CLOCK_MONOTONIC (us). */
int64_t time_now_us(void);
int64_t time_mono_us(void);
/* The latter as it was at the kernel's last tick, some milliseconds ago at most, for a third of the cost: for deadlines
 * and ages, not for what is told. */
int64_t time_mono_rough_us(void);

/* An instant that many threads raise and none lowers. */
static inline void time_raise(_Atomic int64_t *value, int64_t to)
{
    int64_t is = atomic_load(value);
    while (is < to && !atomic_compare_exchange_weak(value, &is, to))
        ;
}

/*
 * Reads an xs:dateTime (XML Schema Part 2, 3.2.7): years 0001 to 9999, offsets to +-14:00; 24:00:00, second 60 and a
 * missing seconds part are refused; fractions beyond microseconds are cut. Surrounding XML white space is skipped.
 * Without a zone *has_zone becomes false and *us is the value read as UTC. False when it is no such value.
 */
bool time_parse(struct str text, int64_t *us, bool *has_zone);

enum { TIME_TEXT = 40 };
/* "2026-11-23T18:00:00Z"; with_ms: "2026-11-23T18:00:00.123Z". Whole units, cut towards the past. */
void time_format(int64_t us, bool with_ms, char out[TIME_TEXT]);
/* "2026-11-23" as the first instant of that UTC day. */
bool date_parse(struct str text, int64_t *us);

#endif
