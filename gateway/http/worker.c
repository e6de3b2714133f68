#include <evhtp/evhtp.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "http/event_memory.h"
#include "http/hold.h"
#include "http/server.h"

/* Without memory the old ones stay, and the next look tries again. */
static bool take_settings(struct worker *w)
{
    struct server *s = w->server;
    if (w->front.settings && w->front.settings->config == s->now)
        return true;
    struct settings *settings = settings_new(s->config, s->now);
    if (!settings)
        return false;
    settings_unref(w->front.settings);
    w->front.settings = settings;
    w->gate.public_url = &settings->config->public_url;
    upstream_set_timeout(w->upstream, settings->config->upstream.timeout_us);
    conn_settle_idle(&w->front);
    return true;
}

/* Takes over the settings, rules and certificates in force: each worker holds references of its own. */
static void take_over(struct worker *w)
{
    struct server *s = w->server;
    pthread_mutex_lock(&s->lock);
    struct rules *old = w->gate.rules;
    w->gate.rules = rules_ref(s->rules);
    rules_unref(old);
    for (size_t i = 0; i < s->config->listen_count; i++)
        listener_use(&w->listeners[i], s->tls[i]);
    upstream_use_tls(w->upstream, s->upstream_tls);
    if (take_settings(w))
        w->edition = atomic_load(&s->edition);
    pthread_mutex_unlock(&s->lock);
}

void worker_follow(struct worker *w)
{
    if (w->edition != atomic_load(&w->server->edition))
        take_over(w);
}

enum { TURN_MS = 20, CLOSING_TURNS = 25 };

/* What is connected already is still accepted: to those clients, their requests are on the way. */
static void stop_listening(struct worker *w)
{
    const size_t n = w->server->config->listen_count;
    bool waiting = w->closing_turns == 0;
    for (size_t i = 0; i < n; i++)
        waiting = waiting || listener_has_waiting(&w->listeners[i]);
    if (waiting && ++w->closing_turns < CLOSING_TURNS)
        return;
    for (size_t i = 0; i < n; i++)
        listener_close(&w->listeners[i]);
    w->stopped_listening = true;
}

static void on_room(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    hold_look(arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct worker *w = arg;
    uint64_t n;
    if (what & EV_READ)
        (void)!read(fd, &n, sizeof n);
    replay_line_turn(w->gate.replay_line);
    keepings_turn(w->keepings);
    conn_close_evicted(&w->front);
    if (atomic_exchange(&w->room_wanted, false))
        hold_make_room(&w->front);
    if (!atomic_load(&w->server->stopping)) {
        worker_follow(w);
        return;
    }
    if (!w->stopped_listening)
        stop_listening(w);
    conn_close_idle(&w->front);
    if (atomic_load(&w->server->leaving)) /* drain_timeout has passed, or nothing is left */
        event_base_loopbreak(w->front.base);
    static const struct timeval again = {0, TURN_MS * 1000};
    event_add(w->wake, &again);
}

void worker_wake(struct worker *w)
{
    const uint64_t one = 1;
    (void)!write(w->wake_fd, &one, sizeof one);
}

static void wake_for_replay(void *arg)
{
    worker_wake(arg);
}

void worker_stop(struct worker *w)
{
    atomic_store(&w->server->leaving, true);
    worker_wake(w);
    locked_thread_join(&w->thread);
    close(w->wake_fd); /* not before: others wake the worker until here */
}

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    event_base_dispatch(w->front.base);
    while (w->front.conns)
        conn_close(w->front.conns);
    upstream_free(w->upstream);
    for (int i = 0; i < 3; i++) /* what waits for its turn to be freed */
        event_base_loop(w->front.base, EVLOOP_NONBLOCK);
    keepings_close(w->keepings);
    replay_line_close(w->gate.replay_line);
    for (size_t i = 0; i < w->server->config->listen_count; i++) {
        listener_close(&w->listeners[i]);
        evhtp_free(w->listeners[i].htp);
    }
    event_free(w->wake);
    event_del(&w->front.room);
    event_base_free(w->front.base);
    rules_unref(w->gate.rules);
    settings_unref(w->front.settings);
    free(w->listeners);
    buf_free(&w->front.head);
    buf_free(&w->front.scratch);
    buf_free(&w->line);
    return NULL;
}

/* Not here: whoever has to go may be one whom the caller is serving. */
static void on_reply_held(void *arg, size_t before, size_t now)
{
    struct worker *w = arg;
    if (hold_reply(&w->front, before, now)) {
        atomic_store(&w->room_wanted, true);
        worker_wake(w);
    }
}

static void worker_catch_up(struct front *f)
{
    worker_follow(worker_of(f));
}

static void wake_owner(struct front *f, unsigned owner)
{
    worker_wake(&f->server->workers[owner]);
}

static void ask_others(struct front *f)
{
    struct server *s = f->server;
    for (unsigned i = 0; i < s->worker_count; i++)
        if (&s->workers[i].front != f) {
            atomic_store(&s->workers[i].room_wanted, true);
            worker_wake(&s->workers[i]);
        }
}

static const struct service EXCHANGE = {.head = proxy_head, .complete = proxy_complete, .vanished = proxy_vanished,
                                        .follow = worker_catch_up, .wake = wake_owner, .ask_others = ask_others};

/* At a time at most: a connection's deadline, an exchange's patience, a call's deadline and the shares of its connects,
 * and those that a worker has for itself. */
static size_t timers(const struct server *s)
{
    enum { OWN = 64 };
    const struct config *c = s->config;
    return s->connections_max + c->limits.in_flight + 2 * (size_t)c->upstream.connections + c->listen_count + OWN;
}

bool worker_start(struct worker *w)
{
    struct server *s = w->server;
    const size_t n = s->config->listen_count;
    w->front = (struct front){.service = &EXCHANGE, .server = s, .base = event_base_new(), .crowd = s->crowd,
                              .owner = (unsigned)(w - s->workers), .held = &s->held, .full = BOUND_CONNECTIONS,
                              .short_of = BOUND_MEMORY};
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->listeners = calloc(n, sizeof *w->listeners);
    w->front.head = BUF_INIT(32 << 10);
    w->front.scratch = BUF_INIT(CONN_SCRATCH);
    w->line = BUF_INIT(1 << 20);
    if (!w->front.base || w->wake_fd < 0 || !w->listeners || !buf_reserve(&w->front.scratch, CONN_SCRATCH) ||
        !event_memory_timers(w->front.base, timers(s)))
        return false;
    event_memory_descriptors(w->front.base, s->connections_max);
    w->wake = event_new(w->front.base, w->wake_fd, EV_READ | EV_PERSIST, on_wake, w);
    w->upstream = upstream_new(w->front.base, s->upstream_site);
    w->gate = (struct gate){
        .rules = rules_ref(s->rules),
        .keys = s->keys,
        .asks_keeper = true,
        .looks = keystore_is_shared(s->keys),
        .replay = s->replay,
        .replay_line = replay_line_open(s->replay, &(struct replay_host){w->front.base, wake_for_replay, w}),
    };
    w->keepings = keepings_new(w);
    evtimer_assign(&w->front.room, w->front.base, on_room, &w->front);
    if (!w->wake || !w->upstream || !w->gate.replay_line || !w->keepings || !take_settings(w) ||
        event_add(w->wake, NULL) != 0)
        return false;
    upstream_use_tls(w->upstream, s->upstream_tls);
    upstream_tell_held(w->upstream, on_reply_held, w);
    if (w == s->workers && !upstream_probe(w->upstream))
        return false;
    for (size_t i = 0; i < n; i++) {
        w->listeners[i] = (struct listener){.front = &w->front, .config = &s->config->listen[i], .index = i};
        const int fd = fcntl(s->sockets[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0 || !listener_open(&w->listeners[i], fd, s->tls[i]))
            return false;
    }
    w->started = locked_thread_start(&w->thread, worker_run, w);
    return w->started;
}
