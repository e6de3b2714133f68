#include "http/conn.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/metrics.h"
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

void conn_listen(struct conn *c)
{
    if (c->tls)
        (void)bufferevent_enable(c->bev, EV_READ);
    else
        (void)event_add(&c->readable, NULL); /* what cannot be read ends by its deadline */
}

void conn_pause(struct conn *c)
{
    if (c->tls)
        (void)bufferevent_disable(c->bev, EV_READ);
    else
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
    SSL *ssl = c->tls ? bufferevent_openssl_get_ssl(c->bev) : NULL;
    if (ssl && c->shaken) {
        SSL_set_shutdown(ssl, SSL_get_shutdown(ssl) | SSL_RECEIVED_SHUTDOWN);
        SSL_shutdown(ssl);
    }
    ERR_clear_error();
    bufferevent_setcb(c->bev, NULL, NULL, NULL, NULL);
    if (!c->tls)
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
        bufferevent_write(c->bev, "HTTP/1.1 100 Continue\r\n\r\n", 25);
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
            bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
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

static void on_read(struct bufferevent *bev, void *arg)
{
    (void)bev;
    struct conn *c = arg;
    conn_enter(c);
    conn_take(c);
    conn_leave(c);
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

static void on_event(struct bufferevent *bev, short events, void *arg);

/* Without TLS, in place of libevent's own reading, which asks first how much there is and has a block for each. */
static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct conn *c = arg;
    struct front *f = c->front;
    conn_enter(c);
    if (c->state == CONN_READING && conn_unread(c)) { /* its turn comes first */
        conn_take(c);
        conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
        return;
    }
    const ssize_t n = recv(fd, f->scratch.p, CONN_SCRATCH, MSG_DONTWAIT);
    if (n > 0) {
        f->reader = c;
        f->piece = (struct str){f->scratch.p, (size_t)n};
        conn_take(c);
        conn_keep_piece(c); /* NOLINT(clang-analyzer-unix.Malloc): the same */
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        c->starved = n < 0 && (errno == ENOMEM || errno == ENOBUFS);
        conn_pause(c);
        on_event(c->bev, BEV_EVENT_READING | (n ? BEV_EVENT_ERROR : BEV_EVENT_EOF), c);
    }
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
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

static void on_write(struct bufferevent *bev, void *arg)
{
    (void)bev;
    struct conn *c = arg;
    if (conn_waiting(c) || c->state == CONN_READING || c->state == CONN_BUSY)
        return;
    conn_enter(c);
    conn_sent(c);
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
}

/* Counted, and in the log for those who look for it: strangers knock with anything, and that is no event. */
static void conn_unshaken(const struct conn *c, bool in_time)
{
    const unsigned long code = bufferevent_get_openssl_error(c->bev);
    const char *why = in_time ? tls_failure(code) : "timeout";
    const char *address = c->listener->config->address;
    struct buf label BUF_CLEANUP = BUF_INIT(512);
    char from[IP_TEXT];
    metric_label(&label, "listener", str_z(address));
    buf_char(&label, ',');
    metric_label(&label, "why", str_z(why));
    if (!label.failed)
        metric_add(METRIC_TLS_FAILURES, label.p, 1);
    if (!log_enabled(LOG_LEVEL_DEBUG))
        return;
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    ip_format(&c->peer, from);
    log_debug("listener", address, "TLS with %s failed (%s): %s", from, why, text ? text : "closed");
}

static void on_event(struct bufferevent *bev, short events, void *arg)
{
    struct conn *c = arg;
    if (events & BEV_EVENT_CONNECTED) {
        c->shaken = true;
        return;
    }
    if (c->tls && !c->shaken) {
        conn_unshaken(c, true);
        conn_close(c);
        return;
    }
    if (!(events & BEV_EVENT_EOF) && !(c->state == CONN_READING && guard_begun(&c->guard))) {
        conn_close(c);
        return;
    }
    conn_ended(c, c->tls && ERR_GET_REASON(bufferevent_get_openssl_error(bev)) == ERR_R_MALLOC_FAILURE);
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
            conn_unshaken(c, false);
        conn_close(c);
    }
}

static void conn_set_up(struct conn *c)
{
    struct front *f = c->front;
    SSL *ssl = bufferevent_openssl_get_ssl(c->bev);
    c->tls = ssl != NULL;
    if (ssl)
        SSL_set_app_data(ssl, c);
    c->settings = settings_ref(f->settings);
    guard_init(&c->guard, &c->settings->limits);
    evtimer_assign(&c->deadline, f->base, on_deadline, c);
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    if (c->tls) {
        bufferevent_setwatermark(c->bev, EV_READ, 0, CONN_SCRATCH);
    } else {
        evbuffer_unfreeze(bufferevent_get_input(c->bev), 0); /* we add to it */
        event_assign(&c->readable, f->base, bufferevent_getfd(c->bev), EV_READ | EV_PERSIST, on_readable, c);
        conn_listen(c);
    }
    c->next = f->conns;
    c->link = &f->conns;
    if (c->next)
        c->next->link = &c->next;
    f->conns = c;
    c->timer_us = NEVER;
    conn_due(c, c->guard.limits->header_timeout_us);
}

bool conn_new(struct listener *l, struct bufferevent *bev, const struct ip *peer)
{
    struct front *f = l->front;
    struct conn *c = calloc(1, sizeof *c);
    int wake = -1;
    const struct ip none = {0};
    const bool proxy = proxy_trusts(f->settings->listen[l->index], peer);
    if (!c || !crowd_join(f->crowd, &c->place, f->owner, proxy ? &none : peer, &wake)) {
        bufferevent_free(bev);
        free(c);
        bounds_hit(f->full);
        return false;
    }
    c->front = f;
    c->listener = l;
    c->bev = bev;
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
