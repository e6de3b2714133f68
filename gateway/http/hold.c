#include "http/hold.h"

#include <event2/buffer.h>
#include <malloc.h>

#include "http/bounds.h"
#include "http/server.h"

enum {
    PATIENCE_MS = 500, /* nobody is called slow who has begun so recently */
    LOOK_MS = 50,
    EACH = 4096,       /* what an open connection takes beside: a guess, to know when much was freed */
    WORTH = 8 << 20,   /* free memory that is worth to be given back */
    LITTLE = 1 << 20,  /* that is, too, when nobody is kept waiting by it */
    LEFT = 256 << 10,  /* of a flood that is over */
    QUIET_MS = 2000,   /* with no more than that: nobody is kept waiting */
};

void hold_count(struct conn *c)
{
    size_t now = 0;
    if (c->bev)
        now = c->guard.head.cap + (c->reserved > c->guard.body.cap ? c->reserved : c->guard.body.cap) +
              (c->waiting ? 0 : evbuffer_get_length(bufferevent_get_input(c->bev))) + conn_waiting(c);
    if (now > c->held)
        atomic_fetch_add(c->front->held, now - c->held);
    else if (now < c->held)
        atomic_fetch_sub(c->front->held, c->held - now);
    if (!c->held && now)
        c->held_since_us = time_mono_rough_us();
    c->held = now;
}

bool hold_reply(struct front *f, size_t before, size_t now)
{
    const size_t most = f->settings->limits.memory;
    if (now <= before) {
        atomic_fetch_sub(f->held, before - now);
        return false;
    }
    const bool over = atomic_fetch_add(f->held, now - before) + (now - before) > most;
    if (over)
        bounds_hit(f->short_of);
    return over;
}

/* Octets a second, since the request or its reply was begun; negative: he is not to be called slow. */
static double hold_pace(const struct conn *c, int64_t now)
{
    if (c->state == CONN_STREAMING)
        return -1; /* its end is not known, and it is bounded by itself */
    const bool outside = c->waiting && c->guard.state == GUARD_BODY && !c->reserved; /* it may not be faster */
    const bool reading = c->state == CONN_READING && guard_begun(&c->guard) && !outside;
    const size_t left = c->bev ? conn_waiting(c) : 0;
    const int64_t us = now - c->held_since_us;
    if (!c->held || us < PATIENCE_MS * 1000 || (!reading && !left))
        return -1;
    const size_t moved = reading ? c->guard.head.n + c->guard.body.n : c->reply_size > left ? c->reply_size - left : 0;
    return (double)moved * US_PER_S / (double)us;
}

/* The front's slowest goes. False: there is none. */
static bool hold_drop(struct front *f)
{
    struct conn *slowest = NULL;
    double pace = 0;
    const int64_t now = time_mono_us();
    for (struct conn *c = f->conns; c; c = c->next) {
        const double his = hold_pace(c, now);
        if (his >= 0 && (!slowest || his < pace)) {
            slowest = c;
            pace = his;
        }
    }
    if (!slowest)
        return false;
    if (slowest->state == CONN_READING)
        f->service->head(slowest, REASON_HTTP_TIMEOUT, 408);
    else
        conn_close(slowest);
    return true;
}

static void hold_look_soon(struct front *f)
{
    static const struct timeval look = {0, LOOK_MS * 1000};
    if (!evtimer_pending(&f->room, NULL))
        event_add(&f->room, &look);
}

bool hold_allows(struct conn *c, size_t more)
{
    struct front *f = c->front;
    const size_t most = f->settings->limits.memory;
    for (int i = 0; i < 64; i++) { /* each drop frees something, but its last octets may still be on their way */
        const size_t held = atomic_load(f->held);
        if (held <= c->held || (more <= most && held <= most - more))
            return true;
        bounds_hit(f->short_of);
        if (!hold_drop(f))
            break;
        if (!c->bev || c->state != CONN_READING)
            return false; /* it was itself the slowest */
    }
    return false;
}

void hold_wait(struct conn *c)
{
    if (!c->waiting) {
        c->waiting = true;
        conn_pause(c);
    }
    hold_look_soon(c->front);
}

/* The first that wait; true when one went on, after which the list may be another. */
static bool hold_go_on(struct front *f, bool *waiting)
{
    *waiting = false;
    for (struct conn *c = f->conns; c; c = c->next)
        if (c->waiting) {
            *waiting = true;
            return conn_go_on(c);
        }
    return false;
}

void hold_look(struct front *f)
{
    bool waiting = true;
    for (int i = 0; i < 64 && hold_go_on(f, &waiting); i++)
        ;
    if (!waiting)
        return;
    hold_look_soon(f);
    if (f->service->ask_others)
        f->service->ask_others(f);
}

void hold_make_room(struct front *f)
{
    (void)hold_drop(f);
}

/* After a flood it is done once when half of it has gone, and once more when all has: what is left of it then is too
 * little for the first, however much it is. Once more when it has been quiet after that: who counts a connection as
 * gone frees it a moment later. After a small one only then: while it is done, who allocates waits. */
void hold_trim(struct server *s)
{
    static size_t peak, flood; /* the most since it was done last, and since all had gone */
    static int64_t busy_us;
    static bool again;
    const size_t now = atomic_load(&s->held) + (size_t)crowd_count(s->crowd) * EACH;
    const int64_t now_us = time_mono_us();
    peak = now > peak ? now : peak;
    flood = now > flood ? now : flood;
    busy_us = now > LEFT ? now_us : busy_us;
    const bool half = peak - now >= WORTH && now <= peak / 2, quiet = now_us - busy_us >= QUIET_MS * 1000;
    const bool gone = now <= LEFT && (flood >= WORTH || (quiet && (flood >= LITTLE || again)));
    if (!half && !gone)
        return;
    peak = now;
    flood = gone ? now : flood;
    again = !quiet;
    (void)malloc_trim(0);
}
