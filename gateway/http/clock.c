#include "base/log.h"
#include "base/metrics.h"
#include "http/server.h"

#define CLOCK_STEP_US US_PER_S /* between two ticks: no slewing is so fast */

void clock_tick(struct server *s)
{
    const int64_t apart = time_now_us() - time_mono_us(), step = apart - s->clock_apart_us;
    const bool first = s->clock_apart_us == 0;
    if (!first && step < CLOCK_STEP_US && step > -CLOCK_STEP_US) {
        s->clock_apart_us = apart;
        return;
    }
    s->clock_apart_us = apart;
    if (first) { /* from zero on: a counter's first step is one, too */
        metric_add(METRIC_CLOCK_STEPS, "direction=\"back\"", 0);
        metric_add(METRIC_CLOCK_STEPS, "direction=\"forward\"", 0);
        return;
    }
    const bool back = step < 0;
    metric_add(METRIC_CLOCK_STEPS, back ? "direction=\"back\"" : "direction=\"forward\"", 1);
    log_warn("clock", NULL, "this machine's clock stepped %s by %lld.%03lld s%s", back ? "back" : "forward",
             (long long)((back ? -step : step) / US_PER_S), (long long)((back ? -step : step) / 1000 % 1000),
             replay_unready(s->replay, time_now_us()) ? "; signed requests are refused until it has caught up" : "");
}
