#include "http/server.h"

#include <event2/bufferevent_ssl.h>
#include <evhtp/evhtp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static void process(struct conn *c);

static void arm(struct conn *c, int64_t us)
{
    const struct timeval tv = {us / US_PER_S, us % US_PER_S};
    event_add(c->deadline, &tv);
}

static void conn_free_parts(struct conn *c)
{
    if (c->hold)
        evbuffer_free(c->hold);
    if (c->deadline)
        event_free(c->deadline);
    if (c->kick)
        event_free(c->kick);
    guard_free(&c->guard);
    free(c);
}

static void conn_release(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    conn_free_parts(arg);
}

/* evhtp frees its connection: ours follows one loop turn later, since it may be in use further up the stack. */
static evhtp_res on_fini(evhtp_connection_t *evc, void *arg)
{
    (void)evc;
    struct conn *c = arg;
    c->evc = NULL;
    c->bev = NULL;
    proxy_vanished(c);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    event_del(c->deadline);
    event_del(c->kick);
    atomic_fetch_sub(&c->worker->server->connections, 1);
    static const struct timeval now = {0, 0};
    event_base_once(c->worker->base, -1, EV_TIMEOUT, conn_release, c, &now);
    return EVHTP_RES_OK;
}

void conn_close(struct conn *c)
{
    if (c->evc)
        evhtp_connection_free(c->evc);
}

/* The reply is out: no more will be sent, and what still comes is read for a second. */
static void linger(struct conn *c)
{
    if (c->shut || evbuffer_get_length(bufferevent_get_output(c->bev)))
        return;
    c->shut = true;
    c->state = CONN_LINGER;
    SSL *ssl = bufferevent_openssl_get_ssl(c->bev);
    if (ssl)
        SSL_shutdown(ssl);
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    arm(c, US_PER_S);
    event_active(c->kick, EV_TIMEOUT, 0); /* evhtp's own turn to resume comes first */
}

static const char *phrase(int status)
{
    static const struct {
        int status;
        const char *text;
    } PHRASES[] = {{400, "Bad Request"}, {404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"},
        {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
        {417, "Expectation Failed"}, {431, "Request Header Fields Too Large"}, {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof PHRASES / sizeof *PHRASES; i++)
        if (PHRASES[i].status == status)
            return PHRASES[i].text;
    return "Error";
}

void conn_refuse(struct conn *c, int status, const char *id, const char *extra, struct str body)
{
    c->state = CONN_LINGER;
    struct evbuffer *out = bufferevent_get_output(c->bev);
    evbuffer_add_printf(out,
                        "HTTP/1.1 %d %s\r\nContent-Type: application/xml; charset=utf-8\r\nContent-Length: %zu\r\n"
                        "Cache-Control: no-store\r\nX-Request-Id: %s\r\n%sConnection: close\r\n\r\n",
                        status, phrase(status), body.n, id, extra);
    if (body.n && !str_eq_z(c->guard.method, "HEAD"))
        evbuffer_add(out, body.p, body.n);
    evbuffer_drain(c->hold, evbuffer_get_length(c->hold));
    arm(c, 2 * US_PER_S);
}

/* evhtp gets one canonical request: it never sees what the client wrote but method, target and body. */
static void hand_over(struct conn *c)
{
    struct evbuffer *one = evbuffer_new();
    if (!one) {
        conn_close(c);
        return;
    }
    c->state = CONN_BUSY;
    event_del(c->deadline);
    evbuffer_add_printf(one, "POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: %zu\r\n%s\r\n", c->guard.body.n,
                        c->guard.keep_alive ? "" : "Connection: close\r\n");
    if (c->guard.body.n)
        evbuffer_add(one, c->guard.body.p, c->guard.body.n);
    evbuffer_prepend_buffer(bufferevent_get_input(c->bev), one);
    evbuffer_free(one);
    c->evhtp_read(c->bev, c->evhtp_arg);
}

static void head_complete(struct conn *c)
{
    if (!proxy_head(c, REASON_OK, 0))
        return;
    c->armed = false;
    if (c->guard.state != GUARD_BODY)
        return;
    arm(c, c->guard.limits->body_timeout_us);
    if (c->guard.expect_continue && evbuffer_get_length(c->hold) == 0)
        bufferevent_write(c->bev, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

static void process(struct conn *c)
{
    while (c->evc && c->state == CONN_READING && evbuffer_get_length(c->hold)) {
        struct evbuffer_iovec v;
        if (evbuffer_peek(c->hold, -1, NULL, &v, 1) < 1)
            return;
        const enum guard_state before = c->guard.state;
        const size_t used = guard_feed(&c->guard, v.iov_base, v.iov_len);
        evbuffer_drain(c->hold, used);
        if (!c->armed && c->guard.state == GUARD_HEAD && guard_begun(&c->guard)) {
            c->armed = true;
            arm(c, c->guard.limits->header_timeout_us);
        }
        if (c->guard.state == GUARD_REFUSED)
            proxy_head(c, c->guard.reason, c->guard.status);
        else if (before == GUARD_HEAD && c->guard.state != GUARD_HEAD)
            head_complete(c);
        if (c->state == CONN_READING && c->guard.state == GUARD_DONE)
            hand_over(c);
    }
}

static void on_read(struct bufferevent *bev, void *arg)
{
    struct conn *c = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    if (c->state == CONN_LINGER) {
        evbuffer_drain(in, evbuffer_get_length(in));
        return;
    }
    evbuffer_add_buffer(c->hold, in);
    if (c->state == CONN_READING)
        process(c);
    else if (evbuffer_get_length(c->hold) > (1u << 20)) /* far more than one request ahead */
        bufferevent_disable(bev, EV_READ);
}

static void on_write(struct bufferevent *bev, void *arg)
{
    struct conn *c = arg;
    if (c->state == CONN_BUSY && !c->last)
        c->evhtp_write(bev, c->evhtp_arg);
    else if (c->state == CONN_BUSY || c->state == CONN_LINGER)
        linger(c);
}

/* For the log of those who look for it: strangers knock with anything, and that is no event. */
static void tell_handshake(const struct conn *c)
{
    char from[IP_TEXT];
    if (!log_enabled(LOG_LEVEL_DEBUG) || c->served || !bufferevent_openssl_get_ssl(c->bev))
        return;
    const unsigned long code = bufferevent_get_openssl_error(c->bev);
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    ip_format(&c->peer, from);
    log_debug("listener", c->listener->config->address, "TLS with %s ended: %s", from, why ? why : "closed");
}

static void on_event(struct bufferevent *bev, short events, void *arg)
{
    struct conn *c = arg;
    if (events & BEV_EVENT_CONNECTED)
        return;
    if (events & BEV_EVENT_ERROR)
        tell_handshake(c);
    if (c->state == CONN_BUSY)
        c->evhtp_event(bev, events, c->evhtp_arg);
    else if (c->state == CONN_READING && guard_begun(&c->guard))
        proxy_head(c, REASON_HTTP_FRAMING, 400); /* it ended within a request, and may still want to know */
    else if (c->state != CONN_LINGER || !(events & BEV_EVENT_EOF) || c->shut)
        conn_close(c); /* else a client that has shut its side still gets its refusal */
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    if (c->state == CONN_READING && guard_begun(&c->guard))
        proxy_head(c, REASON_HTTP_TIMEOUT, 408);
    else
        conn_close(c);
}

/* The reply is written and evhtp has freed the request: the next one, which may be here already. */
static void on_kick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    if (c->state == CONN_LINGER) {
        bufferevent_enable(c->bev, EV_READ);
        return;
    }
    guard_next(&c->guard);
    c->state = CONN_READING;
    c->armed = false;
    c->served = true;
    if (atomic_load(&c->worker->server->stopping) && evbuffer_get_length(c->hold) == 0) {
        conn_close(c);
        return;
    }
    arm(c, c->guard.limits->idle_timeout_us);
    process(c);
}

static evhtp_res on_request_fini(evhtp_request_t *r, void *arg)
{
    (void)r;
    struct conn *c = arg;
    if (c->evc)
        event_active(c->kick, EV_TIMEOUT, 0);
    return EVHTP_RES_OK;
}

static void on_request(evhtp_request_t *r, void *arg)
{
    (void)arg;
    void *p = NULL;
    bufferevent_getcb(r->conn->bev, NULL, NULL, NULL, &p);
    struct conn *c = p;
    evhtp_request_set_hook(r, evhtp_hook_on_request_fini, (evhtp_hook)on_request_fini, c);
    proxy_complete(c, r);
    evhtp_request_pause(r);
}

bool server_may_tell(struct server *s)
{
    const int64_t now = time_mono_us();
    int64_t told = atomic_load(&s->crowded_told_us);
    return (!told || now - told > 10 * US_PER_S) && atomic_compare_exchange_strong(&s->crowded_told_us, &told, now);
}

/* One of the places for connections. */
static bool take_place(struct listener *l)
{
    struct server *s = l->worker->server;
    if (atomic_fetch_add(&s->connections, 1) < s->connections_max)
        return true;
    atomic_fetch_sub(&s->connections, 1);
    if (server_may_tell(s))
        log_warn("listener", l->config->address, "%u connections are open, the most allowed: more are closed at once",
                 s->connections_max);
    return false;
}

static struct conn *conn_new(struct listener *l, evhtp_connection_t *evc)
{
    struct worker *w = l->worker;
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    *c = (struct conn){.worker = w, .listener = l, .evc = evc, .bev = evc->bev, .since_us = time_mono_us()};
    guard_init(&c->guard, &w->server->config->limits);
    c->hold = evbuffer_new();
    c->deadline = evtimer_new(w->base, on_deadline, c);
    c->kick = event_new(w->base, -1, EV_TIMEOUT, on_kick, c);
    if (c->hold && c->deadline && c->kick)
        return c;
    conn_free_parts(c);
    return NULL;
}

static evhtp_res on_accept(evhtp_connection_t *evc, void *arg)
{
    struct listener *l = arg;
    struct worker *w = l->worker;
    if (!evc->bev || !take_place(l))
        return EVHTP_RES_ERROR;
    struct conn *c = conn_new(l, evc);
    if (!c) {
        atomic_fetch_sub(&w->server->connections, 1);
        return EVHTP_RES_ERROR;
    }
    if (evc->saddr)
        ip_from_sockaddr(evc->saddr, &c->peer);
    bufferevent_getcb(c->bev, &c->evhtp_read, &c->evhtp_write, &c->evhtp_event, &c->evhtp_arg);
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    evhtp_connection_set_hook(evc, evhtp_hook_on_connection_fini, (evhtp_hook)on_fini, c);
    c->next = w->conns;
    c->link = &w->conns;
    if (c->next)
        c->next->link = &c->next;
    w->conns = c;
    arm(c, c->guard.limits->header_timeout_us);
    return EVHTP_RES_OK;
}

/* Who has just connected has a request on the way: he gets a second for it. */
void conn_close_idle(struct worker *w)
{
    const int64_t before = time_mono_us() - US_PER_S;
    for (struct conn *c = w->conns, *next; c; c = next) {
        next = c->next;
        if (c->state == CONN_READING && !guard_begun(&c->guard) && (c->served || c->since_us < before))
            conn_close(c);
    }
}

/* Out of descriptors: wait a little instead of spinning. */
static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct listener *l = arg;
    if (l->htp->server)
        evconnlistener_enable(l->htp->server);
}

static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    struct listener *l = arg;
    evconnlistener_disable(listener);
    const char *why = evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR());
    if (server_may_tell(l->worker->server))
        log_warn("listener", l->config->address, "cannot accept: %s", why);
    const struct timeval tv = {0, 100000};
    event_base_once(l->worker->base, -1, EV_TIMEOUT, on_accept_again, l, &tv);
}

static void on_accept_error_of(struct evconnlistener *listener, void *htp)
{
    on_accept_error(listener, ((evhtp_t *)htp)->arg);
}

bool server_listen(struct worker *w, struct listener *l, int fd)
{
    l->htp = evhtp_new(w->base, l);
    if (!l->htp)
        return false;
    evhtp_disable_flag(l->htp, EVHTP_FLAG_ENABLE_100_CONT);
    if (l->config->sa.ss_family != AF_UNIX)
        evhtp_enable_flag(l->htp, EVHTP_FLAG_ENABLE_NODELAY);
    SSL_CTX *tls = w->server->tls[l->index];
    if (tls) {
        SSL_CTX_up_ref(tls);
        l->htp->ssl_ctx = tls;
    }
    evhtp_set_gencb(l->htp, on_request, l);
    evhtp_set_post_accept_cb(l->htp, on_accept, l);
    if (evhtp_accept_socket(l->htp, fd, 1024) != 0)
        return false;
    evconnlistener_set_error_cb(l->htp->server, on_accept_error_of);
    return true;
}

bool listener_has_waiting(const struct listener *l)
{
    struct pollfd p = {.fd = -1, .events = POLLIN};
    if (l->htp && l->htp->server)
        p.fd = evconnlistener_get_fd(l->htp->server);
    return p.fd >= 0 && poll(&p, 1, 0) == 1;
}

void listener_close(struct listener *l)
{
    if (l->htp && l->htp->server)
        evhtp_unbind_socket(l->htp);
}
