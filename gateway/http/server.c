#include "http/server.h"

#include <event2/bufferevent_ssl.h>
#include <evhtp/evhtp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"

static void process(struct conn *c);

static void arm(struct conn *c, int64_t us)
{
    const struct timeval tv = {us / US_PER_S, us % US_PER_S};
    event_add(c->deadline, &tv);
}

static void conn_release(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    event_free(c->deadline);
    event_free(c->kick);
    evbuffer_free(c->hold);
    guard_free(&c->guard);
    free(c);
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
    metric_set(METRIC_CONNECTIONS, NULL, atomic_fetch_sub(&c->worker->server->connections, 1) - 1);
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
    if (c->shut)
        return;
    c->shut = true;
    SSL *ssl = bufferevent_openssl_get_ssl(c->bev);
    if (ssl)
        SSL_shutdown(ssl);
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    arm(c, US_PER_S);
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
    if (c->state == CONN_BUSY)
        c->evhtp_write(bev, c->evhtp_arg);
    else if (c->state == CONN_LINGER)
        linger(c);
}

static void on_event(struct bufferevent *bev, short events, void *arg)
{
    struct conn *c = arg;
    if (events & BEV_EVENT_CONNECTED)
        return;
    if (c->state == CONN_BUSY)
        c->evhtp_event(bev, events, c->evhtp_arg);
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
    guard_next(&c->guard);
    c->state = CONN_READING;
    c->armed = false;
    if (atomic_load(&c->worker->server->stopping)) {
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

static evhtp_res on_accept(evhtp_connection_t *evc, void *arg)
{
    struct listener *l = arg;
    struct worker *w = l->worker;
    const struct limits_config *limits = &w->server->config->limits;
    if (atomic_load(&w->server->connections) >= limits->connections)
        return EVHTP_RES_ERROR;
    struct conn *c = calloc(1, sizeof *c);
    if (!c)
        return EVHTP_RES_ERROR;
    *c = (struct conn){.worker = w, .listener = l, .evc = evc, .bev = evc->bev};
    c->hold = evbuffer_new();
    c->deadline = evtimer_new(w->base, on_deadline, c);
    c->kick = event_new(w->base, -1, EV_TIMEOUT, on_kick, c);
    if (!c->hold || !c->deadline || !c->kick) {
        if (c->hold)
            evbuffer_free(c->hold);
        if (c->deadline)
            event_free(c->deadline);
        if (c->kick)
            event_free(c->kick);
        free(c);
        return EVHTP_RES_ERROR;
    }
    guard_init(&c->guard, limits);
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
    metric_set(METRIC_CONNECTIONS, NULL, atomic_fetch_add(&w->server->connections, 1) + 1);
    arm(c, limits->header_timeout_us);
    return EVHTP_RES_OK;
}

void conn_close_idle(struct worker *w)
{
    for (struct conn *c = w->conns, *next; c; c = next) {
        next = c->next;
        if (c->state == CONN_READING && !guard_begun(&c->guard))
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
    log_warn("listener", l->config->address, "cannot accept: %s", evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
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

void listener_close(struct listener *l)
{
    if (l->htp && l->htp->server)
        evhtp_unbind_socket(l->htp);
}
