#include "http/server.h"

#include <event2/bufferevent.h>
#include <evhtp/evhtp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "http/event_memory.h"

bool server_may_tell(struct server *s)
{
    const int64_t now = time_mono_us();
    int64_t told = atomic_load(&s->crowded_told_us);
    return (!told || now - told > 10 * US_PER_S) && atomic_compare_exchange_strong(&s->crowded_told_us, &told, now);
}

static void accept_later(struct listener *l, long us);

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct listener *l = arg;
    if (l->htp->server && evconnlistener_enable(l->htp->server) != 0)
        accept_later(l, 100000);
}

/* Where memory is short it goes on at once: nothing would ever ask it to. */
static void accept_later(struct listener *l, long us)
{
    const struct timeval tv = {0, us};
    l->accepted = 0;
    if (event_add(&l->again, &tv) == 0)
        evconnlistener_disable(l->htp->server);
}

/* The loop's table of descriptors grows by the largest that it has seen: it does so here, where failing is no harm. */
static bool loop_takes(struct listener *l, evutil_socket_t fd)
{
    if (fd > l->reached && event_memory_descriptor(l->front->base, fd))
        l->reached = fd;
    return fd <= l->reached;
}

/* libevent would crash at the first allocation that fails in here: what it asks for is set aside. `fd` is closed with
 * the bufferevent, or at once. */
static struct bufferevent *accept_into(struct listener *l, evutil_socket_t fd)
{
    struct bufferevent *bev = NULL;
    if (loop_takes(l, fd) && event_memory_begin()) {
        bev = bufferevent_socket_new(l->front->base, fd, BEV_OPT_CLOSE_ON_FREE);
        if (!event_memory_end() && bev) {
            bufferevent_free(bev);
            return NULL;
        }
    }
    if (!bev)
        close(fd);
    return bev;
}

/* OpenSSL's part; NULL: no memory. */
static SSL *accept_tls(SSL_CTX *ctx, evutil_socket_t fd)
{
    SSL *ssl = SSL_new(ctx);
    if (ssl && SSL_set_fd(ssl, fd) == 1)
        return ssl;
    SSL_free(ssl);
    ERR_clear_error();
    return NULL;
}

/* libevhtp's own acceptance, and the request that it makes with each connection, leak and crash where memory ends, and
 * its parser takes 9 KB a connection: its listener is used, and what it would do then is done here. */
static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *sa, int sa_n, void *arg)
{
    struct listener *l = ((evhtp_t *)arg)->arg;
    struct ip peer = {0};
    (void)listener;
    (void)sa_n;
    SSL_CTX *tls = l->htp->ssl_ctx;
    SSL *ssl = tls ? accept_tls(tls, fd) : NULL;
    if (sa)
        ip_from_sockaddr(sa, &peer);
    struct bufferevent *bev = NULL;
    if (tls && !ssl)
        close(fd);
    else
        bev = accept_into(l, fd);
    if (bev)
        (void)conn_new(l, bev, ssl, &peer);
    else
        SSL_free(ssl);
    if (++l->accepted == l->front->service->accepts)
        accept_later(l, 0);
}

/* Out of descriptors: it waits a little instead of spinning. */
static void on_accept_error(struct listener *l)
{
    const char *why = evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR());
    if (server_may_tell(l->front->server))
        log_warn("listener", l->config->address, "cannot accept: %s", why);
    accept_later(l, 100000);
}

static void on_accept_error_of(struct evconnlistener *listener, void *htp)
{
    (void)listener;
    on_accept_error(((evhtp_t *)htp)->arg);
}

bool listener_open(struct listener *l, int fd, SSL_CTX *tls)
{
    l->htp = evhtp_new(l->front->base, l);
    if (!l->htp)
        return false;
    evtimer_assign(&l->again, l->front->base, on_accept_again, l);
    if (tls) {
        SSL_CTX_up_ref(tls);
        l->htp->ssl_ctx = tls;
    }
    if (evhtp_accept_socket(l->htp, fd, 0) != 0) /* it listens already: by now no call could make it */
        return false;
    evconnlistener_set_cb(l->htp->server, on_accept, l->htp); /* the error's callback has the same argument */
    evconnlistener_set_error_cb(l->htp->server, on_accept_error_of);
    return true;
}

void listener_use(struct listener *l, SSL_CTX *tls)
{
    if (!tls || !l->htp || l->htp->ssl_ctx == tls)
        return;
    SSL_CTX_free(l->htp->ssl_ctx);
    SSL_CTX_up_ref(tls);
    l->htp->ssl_ctx = tls;
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
    if (!l->htp || !l->htp->server)
        return;
    event_del(&l->again);
    evhtp_unbind_socket(l->htp);
}
