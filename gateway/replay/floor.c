#include "replay/floor.h"

static int64_t floor_round_up(int64_t us)
{
    const int64_t cut = us / US_PER_S * US_PER_S; /* towards zero: up, before 1970 */
    return cut < us ? cut + US_PER_S : cut;
}

static int64_t floor_later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t floor_at_start(const struct mark *m, int64_t launch_us, int64_t future_us)
{
    const int64_t ahead = FLOOR_AHEAD_S * US_PER_S;
    if (!m)
        return floor_round_up(launch_us + floor_later(future_us, ahead));
    if (launch_us < m->clock_us)
        launch_us = m->clock_us + FLOOR_BACK_S * US_PER_S;
    const int64_t after = floor_round_up(m->latest_us + 1);
    if (m->clean)
        return floor_later(floor_round_up(launch_us), after);
    /* the last accepted request may be younger than the mark's clock, and the clock may have been set back since */
    const int64_t beat = m->clock_us + FLOOR_BEAT_S * US_PER_S;
    return floor_later(floor_round_up(floor_later(launch_us, beat) + ahead), after);
}

/* What was accepted was read as before the floor, by clocks that were at most so far ahead of UTC. */
int64_t floor_walls_at_start(const struct mark *m, int64_t floor_us)
{
    if (!m)
        return TIME_NONE;
    return m->clean || m->east_us == TIME_NONE ? m->walls_us : floor_later(m->walls_us, floor_us + m->east_us);
}

int64_t floor_mark_for(int64_t time_us)
{
    return floor_round_up(time_us + 1) - 1;
}
