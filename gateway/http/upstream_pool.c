#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/locked.h"
#include "http/upstream_inside.h"

enum { SWEEP_MS = 500 }; /* kept connections past their age are closed so much later, and never used meanwhile */

static void take_out(struct upstream_connection *k)
{
    *k->link = k->next;
    if (k->next)
        k->next->link = k->link;
    k->next = NULL;
    k->link = NULL;
}

static bool is_past(const struct upstream_connection *k, int64_t now)
{
    return now - k->idle_us >= k->keep_us || now - k->born_us >= k->u->site->config->lifetime_us || k->tls != k->u->tls;
}

static struct upstream_connection *pool_pick(struct upstream *u)
{
    while (u->idle) {
        struct upstream_connection *k = u->idle;
        if (!is_past(k, time_mono_rough_us()) && connection_is_silent(k)) {
            take_out(k);
            return k;
        }
        connection_close(k);
    }
    return NULL;
}

void pool_carry(struct upstream_call *c)
{
    struct upstream_connection *k;
    c->sent = 0;
    while ((k = pool_pick(c->u))) {
        k->call = c;
        c->connection = k;
        c->connected = true;
        if (connection_send(k))
            return;
        c->sent = 0;
    }
    pool_connect(c);
}

/* Asks for addresses. True: there are some to be tried. */
static bool pool_locate(struct upstream_call *c)
{
    char why[RESOLVER_WHY];
    c->address = 0;
    switch (resolver_get(c->u->site->resolver, &c->addresses, why)) {
    case RESOLVER_KNOWN:
        return true;
    case RESOLVER_ASKED:
        c->waits = true;
        break;
    case RESOLVER_FAILED:
        call_tell(c, "the name cannot be resolved: %s", why);
        call_end_later(c, REASON_UPSTREAM_UNREACHABLE);
        break;
    }
    return false;
}

void pool_connect(struct upstream_call *c)
{
    c->sent = 0;
    c->connected = false;
    if (!c->addresses.n && !pool_locate(c))
        return;
    while (c->address < c->addresses.n)
        if (connection_open(c, &c->addresses.v[c->address++]))
            return;
    if (c->asked_again || !resolver_doubt(c->u->site->resolver, &c->addresses)) {
        call_end_later(c, REASON_UPSTREAM_UNREACHABLE);
        return;
    }
    c->asked_again = true; /* the host may have moved */
    c->addresses.n = 0;
    pool_connect(c);
}

/* Below the upstream's own: with less to spare its end and the next request would meet on the way. */
static int64_t keep_for(const struct upstream *u, const struct reply_reader *reply)
{
    const int64_t most = u->site->config->idle_timeout_us;
    if (reply->keep_seconds == UINT64_MAX)
        return most;
    const int64_t theirs = (int64_t)reply->keep_seconds * US_PER_S;
    const int64_t spare = theirs / 5 > US_PER_S ? theirs / 5 : US_PER_S;
    return theirs - spare < most ? theirs - spare : most;
}

static void sweep_later(struct upstream *u)
{
    static const struct timeval LATER = {0, SWEEP_MS * 1000};
    if (!event_pending(u->sweep, EV_TIMEOUT, NULL))
        event_add(u->sweep, &LATER);
}

void pool_park(struct upstream_connection *k, const struct reply_reader *reply)
{
    struct upstream *u = k->u;
    k->keep_us = keep_for(u, reply);
    k->idle_us = time_mono_rough_us();
    if (!reply_keeps(reply) || is_past(k, k->idle_us)) {
        connection_close(k);
        return;
    }
    k->call->connection = NULL;
    k->call = NULL;
    k->next = u->idle;
    k->link = &u->idle;
    if (k->next)
        k->next->link = &k->next;
    u->idle = k;
    sweep_later(u);
}

/* Closes what is past its age, and one more each time while all workers together hold more than they may. */
static void pool_sweep(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream *u = arg;
    const unsigned most = u->site->config->connections;
    const int64_t now = time_mono_us();
    for (struct upstream_connection *k = u->idle, *next; k; k = next) {
        next = k->next;
        if (is_past(k, now) || (most && atomic_load(&u->site->open) > most))
            connection_close(k);
    }
    if (u->idle)
        sweep_later(u);
}

static void pool_reap(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream *u = arg;
    struct upstream_connection *k;
    while ((k = u->gone)) {
        u->gone = k->next;
        connection_free(k);
    }
}

/* Whoever waits for the resolver looks again. */
static void pool_answered(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct upstream *u = arg;
    uint64_t n;
    (void)!read(fd, &n, sizeof n);
    for (struct upstream_call *c = u->calls, *next; c; c = next) {
        next = c->next;
        if (!c->waits)
            continue;
        c->waits = false;
        pool_connect(c);
    }
}

bool pool_start(struct upstream *u)
{
    u->answered_fd = -1;
    u->scratch = locked_alloc(UPSTREAM_SCRATCH);
    u->sweep = evtimer_new(u->base, pool_sweep, u);
    u->reap = evtimer_new(u->base, pool_reap, u);
    if (!u->scratch || !u->sweep || !u->reap)
        return false;
    if (u->site->literal)
        return true;
    u->answered_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->answered_fd < 0)
        return false;
    u->answered = event_new(u->base, u->answered_fd, EV_READ | EV_PERSIST, pool_answered, u);
    return u->answered && event_add(u->answered, NULL) == 0 && resolver_watch(u->site->resolver, u->answered_fd);
}

void pool_end(struct upstream *u)
{
    while (u->idle)
        connection_close(u->idle);
    if (u->reap) {
        pool_reap(-1, 0, u);
        event_free(u->reap);
    }
    if (u->sweep)
        event_free(u->sweep);
    if (u->answered)
        event_free(u->answered);
    if (u->answered_fd >= 0) {
        resolver_unwatch(u->site->resolver, u->answered_fd);
        close(u->answered_fd);
    }
    locked_free(u->scratch);
}
