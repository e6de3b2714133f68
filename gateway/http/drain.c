#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"

/* Waits up to `us`; true when a signal says that it is to end at once. A reload in between has nothing left to do. */
static bool hurried(const sigset_t *signals, int64_t us)
{
    const int64_t until = time_mono_us() + us;
    for (int64_t left = us; left > 0; left = until - time_mono_us()) {
        const struct timespec t = {left / US_PER_S, left % US_PER_S * 1000};
        const int got = sigtimedwait(signals, NULL, &t);
        if (got == SIGTERM || got == SIGINT)
            return true;
    }
    return false;
}

static bool busy(struct server *s)
{
    return atomic_load(&s->in_flight) || crowd_count(s->crowd);
}

void drain(struct server *s, const sigset_t *signals)
{
    log_info("gateway", NULL, "ends: requests in flight are finished first");
    atomic_store(&s->draining, true);
    bool hurry = hurried(signals, s->now->drain_delay_us);
    atomic_store(&s->stopping, true);
    for (size_t i = 0; i < s->config->listen_count; i++) { /* the workers' own hold them until all are accepted */
        close(s->sockets[i]);
        s->sockets[i] = -1;
    }
    for (unsigned i = 0; i < s->worker_count; i++)
        worker_wake(&s->workers[i]);
    const int64_t until = time_mono_us() + s->now->drain_timeout_us;
    while (!hurry && busy(s) && time_mono_us() < until)
        hurry = hurried(signals, 10000);
    const unsigned cut = atomic_load(&s->in_flight);
    if (cut)
        log_warn("gateway", NULL, "%s: %u request%s in flight cut",
                 hurry ? "told to end at once" : "drain_timeout is over", cut, cut == 1 ? "" : "s");
    for (unsigned i = 0; i < s->worker_count; i++)
        if (s->workers[i].started)
            worker_stop(&s->workers[i]);
    log_info("gateway", NULL, "has ended");
}
