#include "http/conn.h"

#include <errno.h>
#include <event2/buffer.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "http/conn_inside.h"
#include "http/hold.h"
#include "http/server.h"

/* AHEAD: octets of the request that is being served, before reading pauses. TURN: how many requests of one connection
 * are begun before others have their turn. */
enum { AHEAD = 4 << 10, TURN = 8 };
#define NEVER INT64_MAX

void conn_enter(struct conn *c)
{
    c->inside++;
}

void conn_leave(struct conn *c)
{
    if (--c->inside)
        return;
    hold_count(c);
    if (!c->bev) {
        settings_unref(c->settings);
        conn_tls_free(c->tls);
        free(c);
    }
}

void conn_settle(struct conn *c)
{
    guard_free(&c->guard);
    if (c->settings != c->front->settings) {
        settings_unref(c->settings);
        c->settings = settings_ref(c->front->settings);
    }
    guard_init(&c->guard, &c->settings->limits);
}

/* The timer is left alone where it fires before that anyway: it then looks again. */
void conn_due(struct conn *c, int64_t us)
{
    const int64_t now = time_mono_rough_us();
    c->due_us = now + us;
    if (c->timer_us <= c->due_us)
        return;
    c->timer_us = c->due_us;
    const struct timeval tv = {us / US_PER_S, us % US_PER_S};
    if (event_add(&c->deadline, &tv) != 0)
        c->timer_us = NEVER;
}

/* on_read() is called in the next turn, when others have had theirs. */
static void conn_again(struct conn *c)
{
    bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* What OpenSSL has taken from the socket is no event of that any more. */
static void conn_more(struct conn *c)
{
    if (c->bev && c->shaken && conn_tls_has_more(c) && event_pending(&c->readable, EV_READ, NULL))
        conn_again(c);
}

void conn_listen(struct conn *c)
{
    (void)event_add(&c->readable, NULL); /* what cannot be read ends by its deadline */
    conn_more(c);
}

void conn_pause(struct conn *c)
{
    event_del(&c->readable);
}

/* What is kept came before what is in the front's block. */
size_t conn_unread(const struct conn *c)
{
    return evbuffer_get_length(bufferevent_get_input(c->bev)) + (c->front->reader == c ? c->front->piece.n : 0);
}

void conn_forget_unread(struct conn *c)
{
    evbuffer_drain(bufferevent_get_input(c->bev), SIZE_MAX);
    if (c->front->reader == c)
        c->front->piece.n = 0;
}

void conn_close(struct conn *c)
{
    if (!c->bev)
        return;
    conn_enter(c);
    if (c->tls)
        conn_tls_close(c);
    bufferevent_setcb(c->bev, NULL, NULL, NULL, NULL);
    event_del(&c->readable);
    conn_forget_unread(c);
    bufferevent_free(c->bev);
    c->bev = NULL;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    event_del(&c->deadline);
    c->front->service->vanished(c);
    guard_free(&c->guard);
    crowd_leave(c->front->crowd, &c->place);
    conn_leave(c);
}

bool conn_mark(struct conn *c, enum place_state state)
{
    if (c->marked == state)
        return true;
    c->marked = state;
    if (crowd_enter(c->front->crowd, &c->place, state))
        return true;
    conn_close(c);
    return false;
}

/* True when there is room for what it brings: for a body it is kept from then on, and the client told to send it. */
static bool conn_has_room(struct conn *c)
{
    const struct guard *g = &c->guard;
    if (c->reserved)
        return true;
    const size_t more = g->state != GUARD_BODY ? 0 : g->chunked ? g->limits->body : g->length;
    if (!hold_allows(c, more))
        return false;
    c->reserved = more;
    if (more && g->expect_continue && conn_unread(c) == 0)
        (void)!conn_put(c, STR("HTTP/1.1 100 Continue\r\n\r\n"));
    return true;
}

/* There is none: it waits, no longer than it may take its time. */
static void conn_wait(struct conn *c)
{
    if (!c->bev || c->state != CONN_READING)
        return;
    hold_wait(c);
    if (!c->armed && c->guard.state == GUARD_HEAD) {
        c->armed = true;
        conn_due(c, c->guard.limits->header_timeout_us);
    }
}

static bool conn_ask(struct conn *c, enum reason reason, int status)
{
    return c->front->service->head(c, reason, status);
}

static void conn_head(struct conn *c)
{
    if (!conn_ask(c, REASON_OK, 0))
        return;
    c->armed = false;
    if (c->guard.state != GUARD_BODY)
        return;
    conn_due(c, c->guard.limits->body_timeout_us);
    if (!conn_has_room(c))
        conn_wait(c);
}

/* What has come in one piece goes through the guard. */
static void conn_feed(struct conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    struct str *piece = &c->front->piece;
    struct evbuffer_iovec v;
    const enum guard_state before = c->guard.state;
    if (evbuffer_peek(in, -1, NULL, &v, 1) > 0) {
        evbuffer_drain(in, guard_feed(&c->guard, v.iov_base, v.iov_len));
    } else {
        const size_t used = guard_feed(&c->guard, piece->p, piece->n);
        *piece = (struct str){piece->p + used, piece->n - used};
    }
    if (c->guard.state == GUARD_REFUSED)
        conn_ask(c, c->guard.reason, c->guard.status);
    else if (before == GUARD_HEAD && c->guard.state != GUARD_HEAD)
        conn_head(c);
    if (c->bev && c->state == CONN_READING && c->guard.state == GUARD_DONE) {
        c->state = CONN_BUSY;
        c->reserved = 0;
        c->due_us = NEVER; /* the upstream's timeout bounds it */
        if (conn_mark(c, PLACE_COMPLETE))
            c->front->service->complete(c);
    }
}

/* The client has ended its side, or as good as that, within a request: it may still want to know what became of it. */
static void conn_cut(struct conn *c)
{
    (void)(c->starved ? conn_ask(c, REASON_INTERNAL, 500) : conn_ask(c, REASON_HTTP_FRAMING, 400));
}

void conn_process(struct conn *c)
{
    conn_enter(c);
    c->looping = true;
    for (int left = TURN; c->bev && c->state == CONN_READING && !c->waiting && conn_unread(c);) {
        const bool fresh = !guard_begun(&c->guard);
        if (fresh)
            c->front->service->follow(c->front); /* it is read by what is in force now */
        if (fresh && left-- == 0) {
            conn_again(c);
            break;
        }
        if (!conn_has_room(c)) {
            conn_wait(c);
            break;
        }
        conn_feed(c);
        hold_count(c);
    }
    c->looping = false;
    if (c->bev && c->state == CONN_READING && guard_begun(&c->guard)) {
        if (c->eof && conn_unread(c) == 0) {
            conn_cut(c);
        } else if (conn_mark(c, PLACE_UNFINISHED) && !c->armed && c->guard.state == GUARD_HEAD) {
            c->armed = true;
            conn_due(c, c->guard.limits->header_timeout_us);
        }
    } else if (c->bev && c->state == CONN_READING && c->eof && conn_unread(c) == 0) {
        conn_close(c);
    }
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
}

static void conn_take(struct conn *c)
{
    if (c->state == CONN_LINGER || c->state == CONN_STREAMING) {
        conn_forget_unread(c);
    } else if (c->state == CONN_READING && !c->waiting) {
        conn_process(c);
    } else if (!c->waiting && conn_unread(c) > AHEAD) {
        c->paused = true;
        conn_pause(c);
    }
}

/* Nothing more comes from there: what has come was lost (`starved`), or by the client's will or the network's. */
static void conn_ended(struct conn *c, bool starved)
{
    c->eof = true;
    c->starved = c->starved || starved;
    if (c->state == CONN_READING)
        conn_process(c);
    else if (c->shut || c->state == CONN_STREAMING)
        conn_close(c); /* else a client that has ended its side still gets what it has asked for */
}

/* What is not looked at in this turn is kept. */
static void conn_keep_piece(struct conn *c)
{
    struct front *f = c->front;
    const struct str rest = f->piece;
    const bool kept = !c->bev || !rest.n || evbuffer_add(bufferevent_get_input(c->bev), rest.p, rest.n) == 0;
    f->reader = NULL;
    f->piece = (struct str){NULL, 0};
    if (kept)
        return;
    conn_pause(c);
    conn_ended(c, true);
}

/* In place of libevent's own reading, which asks first how much there is and has a block for each. */
static void conn_read(struct conn *c)
{
    struct front *f = c->front;
    const ssize_t n = c->tls ? conn_tls_read(c, f->scratch.p, CONN_SCRATCH)
                             : recv(bufferevent_getfd(c->bev), f->scratch.p, CONN_SCRATCH, MSG_DONTWAIT);
    if (n > 0) {
        f->reader = c;
        f->piece = (struct str){f->scratch.p, (size_t)n};
        conn_take(c);
        conn_keep_piece(c);
        conn_more(c);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        c->starved = n < 0 && (errno == ENOMEM || errno == ENOBUFS);
        conn_pause(c);
        conn_broken(c, BEV_EVENT_READING | (n ? BEV_EVENT_ERROR : BEV_EVENT_EOF));
    }
}

void conn_readable(struct conn *c)
{
    conn_enter(c);
    if (c->state == CONN_READING && conn_unread(c)) { /* its turn comes first */
        conn_take(c);
        conn_more(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
    } else {
        conn_read(c);
    }
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): the same */
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    conn_readable(arg);
}

/* By conn_again() alone. */
static void on_read(struct bufferevent *bev, void *arg)
{
    (void)bev;
    struct conn *c = arg;
    conn_enter(c);
    if (conn_unread(c)) {
        conn_take(c);
        conn_more(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
    } else if (event_pending(&c->readable, EV_READ, NULL)) {
        conn_read(c);
    }
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): the same */
}

bool conn_go_on(struct conn *c)
{
    if (!conn_has_room(c) || !c->bev || !c->waiting)
        return false;
    c->waiting = false;
    conn_listen(c);
    conn_process(c);
    return true;
}

bool conn_put(struct conn *c, struct str more)
{
    return bufferevent_write(c->bev, more.p, more.n) == 0 && (!c->tls || conn_tls_write_soon(c));
}

void conn_written(struct conn *c)
{
    if (conn_waiting(c) || c->state == CONN_READING || c->state == CONN_BUSY)
        return;
    conn_enter(c);
    conn_sent(c);
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
}

static void on_write(struct bufferevent *bev, void *arg)
{
    (void)bev;
    conn_written(arg);
}

void conn_broken(struct conn *c, short events)
{
    if (c->tls && !c->shaken) {
        conn_tls_unshaken(c, true);
        conn_close(c);
        return;
    }
    if (!(events & BEV_EVENT_EOF) && !(c->state == CONN_READING && guard_begun(&c->guard))) {
        conn_close(c);
        return;
    }
    conn_ended(c, false);
}

static void on_event(struct bufferevent *bev, short events, void *arg)
{
    (void)bev;
    conn_broken(arg, events);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    c->timer_us = NEVER;
    const int64_t now = time_mono_us();
    if (c->due_us > now) {
        if (c->due_us != NEVER)
            conn_due(c, c->due_us - now);
    } else if (c->state == CONN_READING && (guard_begun(&c->guard) || c->waiting)) {
        if (c->waiting)
            conn_ask(c, REASON_HTTP_BUSY, 503);
        else
            conn_ask(c, REASON_HTTP_TIMEOUT, 408);
    } else {
        if (c->tls && !c->shaken)
            conn_tls_unshaken(c, false);
        conn_close(c);
    }
}

static void conn_set_up(struct conn *c)
{
    struct front *f = c->front;
    c->settings = settings_ref(f->settings);
    guard_init(&c->guard, &c->settings->limits);
    evtimer_assign(&c->deadline, f->base, on_deadline, c);
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    evbuffer_unfreeze(bufferevent_get_input(c->bev), 0); /* we add to it */
    event_assign(&c->readable, f->base, bufferevent_getfd(c->bev), EV_READ | EV_PERSIST, on_readable, c);
    if (c->tls)
        conn_tls_begin(c);
    conn_listen(c);
    c->next = f->conns;
    c->link = &f->conns;
    if (c->next)
        c->next->link = &c->next;
    f->conns = c;
    c->timer_us = NEVER;
    conn_due(c, c->guard.limits->header_timeout_us);
}

bool conn_new(struct listener *l, struct bufferevent *bev, SSL *ssl, const struct ip *peer)
{
    struct front *f = l->front;
    struct conn *c = calloc(1, sizeof *c);
    struct conn_tls *tls = ssl ? conn_tls_new(ssl) : NULL;
    int wake = -1;
    const struct ip none = {0};
    const bool proxy = proxy_trusts(f->settings->listen[l->index], peer);
    if (!c || (ssl && !tls) || !crowd_join(f->crowd, &c->place, f->owner, proxy ? &none : peer, &wake)) {
        conn_tls_free(tls);
        bufferevent_free(bev);
        free(c);
        bounds_hit(f->full);
        return false;
    }
    c->front = f;
    c->listener = l;
    c->bev = bev;
    c->tls = tls;
    c->peer = *peer;
    c->since_us = time_mono_us();
    conn_set_up(c);
    if (c->timer_us == NEVER) { /* without a deadline nobody is let in */
        conn_close(c);
        return false;
    }
    if (wake == (int)f->owner)
        conn_close_evicted(f);
    else if (wake >= 0)
        f->service->wake(f, (unsigned)wake);
    if (wake >= 0)
        bounds_hit(f->full);
    return true;
}

void conn_settle_idle(struct front *f)
{
    for (struct conn *c = f->conns; c; c = c->next) {
        if (c->state != CONN_READING || guard_begun(&c->guard) || c->settings == f->settings)
            continue;
        conn_settle(c);
        const struct limits_config *l = c->guard.limits;
        const int64_t us = c->served && !c->armed ? l->idle_timeout_us : l->header_timeout_us;
        if (c->due_us > time_mono_us() + us)
            conn_due(c, us);
    }
}

void conn_close_evicted(struct front *f)
{
    for (struct place *p; (p = crowd_evicted(f->crowd, f->owner));)
        conn_close((struct conn *)(void *)((char *)p - offsetof(struct conn, place)));
}

void conn_close_idle(struct front *f)
{
    const int64_t before = time_mono_us() - US_PER_S;
    for (struct conn *c = f->conns, *next; c; c = next) {
        next = c->next;
        if (c->state == CONN_READING && !guard_begun(&c->guard) && (c->served || c->since_us < before))
            conn_close(c);
    }
}
