#include "http/server.h"

#include <event2/bufferevent_ssl.h>
#include <evhtp/evhtp.h>
#include <poll.h>
#include <stdlib.h>

#include "base/log.h"

bool server_may_tell(struct server *s)
{
    const int64_t now = time_mono_us();
    int64_t told = atomic_load(&s->crowded_told_us);
    return (!told || now - told > 10 * US_PER_S) && atomic_compare_exchange_strong(&s->crowded_told_us, &told, now);
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct listener *l = arg;
    if (l->htp->server)
        evconnlistener_enable(l->htp->server);
}

static void accept_later(struct listener *l, long us)
{
    const struct timeval tv = {0, us};
    l->accepted = 0;
    evconnlistener_disable(l->htp->server);
    event_base_once(l->front->base, -1, EV_TIMEOUT, on_accept_again, l, &tv);
}

/* libevhtp's part ends here: it has accepted the socket and begun TLS. The bufferevent is taken from it, and what evhtp
 * keeps for a parser of its own, 9 KB a connection, is given back at once: evhtp frees what is "refused". */
static evhtp_res on_accept(evhtp_connection_t *evc, void *arg)
{
    struct listener *l = arg;
    struct bufferevent *bev = evc->bev;
    struct ip peer = {0};
    evc->bev = NULL;
    if (evc->saddr)
        ip_from_sockaddr(evc->saddr, &peer);
    if (bev)
        (void)conn_new(l, bev, &peer);
    if (++l->accepted == l->front->service->accepts)
        accept_later(l, 0);
    return EVHTP_RES_ERROR;
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
    if (tls) {
        SSL_CTX_up_ref(tls);
        l->htp->ssl_ctx = tls; /* its callbacks are deferred: OpenSSL must not be entered twice */
    } else {
        evhtp_set_bev_flags(l->htp, BEV_OPT_CLOSE_ON_FREE);
    }
    evhtp_set_post_accept_cb(l->htp, on_accept, l);
    if (evhtp_accept_socket(l->htp, fd, 0) != 0) /* it listens already: by now no call could make it */
        return false;
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
    if (l->htp && l->htp->server)
        evhtp_unbind_socket(l->htp);
}
