#include "http/event_memory.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/aside.h"
#include "base/spare.h"

enum { NEEDED = 16 << 10 }; /* a bufferevent takes a few blocks, the largest of some 600 octets */

static _Thread_local bool open_to_this_thread, taken;

static void *event_malloc(size_t n)
{
    void *p = malloc(n);
    if (!p && open_to_this_thread && (p = spare_take(n)))
        taken = true;
    return p;
}

static void event_free_(void *p)
{
    if (!aside_give(p))
        free(p);
}

static void *event_realloc(void *p, size_t n)
{
    if (!p)
        return event_malloc(n);
    const size_t have = aside_size(p);
    if (!have)
        return realloc(p, n);
    void *to = event_malloc(n);
    if (to) {
        memcpy(to, p, have < n ? have : n);
        (void)aside_give(p);
    }
    return to;
}

void event_memory_setup(void)
{
    event_set_mem_functions(event_malloc, event_realloc, event_free_);
}

static void on_never(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
}

/* libevent's heap of timers grows and never shrinks. */
bool event_memory_timers(struct event_base *base, size_t n)
{
    static const struct timeval LATE = {3600, 0};
    struct event *v = calloc(n, sizeof *v);
    size_t added = 0;
    while (v && added < n && evtimer_assign(&v[added], base, on_never, NULL) == 0 && evtimer_add(&v[added], &LATE) == 0)
        added++;
    for (size_t i = 0; i < added; i++)
        event_del(&v[i]);
    free(v);
    return added == n;
}

bool event_memory_descriptor(struct event_base *base, int fd)
{
    struct event e;
    if (event_assign(&e, base, fd, EV_READ, on_never, NULL) != 0 || event_add(&e, NULL) != 0)
        return false;
    event_del(&e);
    return true;
}

static void say_nothing(int severity, const char *text)
{
    (void)severity, (void)text;
}

/* Adding what is not open fails, and is told, when the place has been made. */
void event_memory_descriptors(struct event_base *base, unsigned n)
{
    event_set_log_callback(say_nothing);
    for (unsigned fd = 0; fd < n; fd++)
        if (fcntl((int)fd, F_GETFD) < 0)
            (void)event_memory_descriptor(base, (int)fd);
    event_set_log_callback(NULL);
}

bool event_memory_begin(void)
{
    taken = false;
    return open_to_this_thread = spare_left() >= NEEDED;
}

bool event_memory_end(void)
{
    open_to_this_thread = false;
    return !taken;
}
