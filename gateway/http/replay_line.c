#include "http/replay_line.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/timestamp.h"
#include "http/resolver.h"

enum { AGAIN_MS = 250, CONNECT_MS = 1000, SCRATCH = 16384 };

struct replay_site {
    const struct replay_config *config;
    SSL_CTX *tls;                 /* NULL: plain */
    struct resolver **resolvers;  /* of config's hosts */
};

enum wire_state { WIRE_DOWN, WIRE_RESOLVING, WIRE_CONNECTING, WIRE_HANDSHAKE, WIRE_OPEN };

struct wire {
    struct replay_site *site;
    struct redis_line *line;
    struct event_base *base;
    enum wire_state state;
    enum redis_peer peer;
    struct event *tick, *flush, *readable, *writable; /* the last two: while there is a socket */
    int fd;
    SSL *ssl;
    size_t sent;             /* of redis_line_out() */
    size_t turn, address;    /* which host, and which of its addresses, is tried */
    bool told;               /* a Sentinel has named the primary */
    struct resolver *primary; /* of that one */
    char host[REDIS_HOST], port[REDIS_PORT];
    int64_t since_us;        /* monotonic: when this attempt, or this connection, began */
    int64_t again_us;        /* DOWN: when the next one begins */
    char why[TLS_WHY];
};

static void wire_begin(struct wire *w);

static void close_socket(struct wire *w)
{
    struct event **events[] = {&w->readable, &w->writable};
    for (size_t i = 0; i < 2; i++) {
        if (*events[i])
            event_free(*events[i]);
        *events[i] = NULL;
    }
    if (w->ssl) {
        if (SSL_is_init_finished(w->ssl))
            (void)SSL_shutdown(w->ssl);
        ERR_clear_error();
        SSL_free(w->ssl);
    }
    w->ssl = NULL;
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->sent = 0;
}

/* The connection is over; FINE: the line has said why. A primary that a Sentinel has just named is gone to at once. */
static void wire_drop(struct wire *w, enum redis_fault kind, const char *why)
{
    close_socket(w);
    w->state = WIRE_DOWN;
    w->again_us = time_mono_us() + AGAIN_MS * 1000;
    if (kind != REDIS_FINE && w->peer == PEER_SENTINEL)
        kind = REDIS_SENTINEL;
    redis_line_lost(w->line, kind, why);
    if (w->peer == PEER_SENTINEL && redis_line_primary(w->line, w->host, w->port)) {
        resolver_free(w->primary);
        w->primary = resolver_new(w->host, w->port);
        w->told = w->primary;
        w->again_us = 0;
    } else {
        w->told = false;
        w->turn++;
    }
}

static void wire_drop_for(struct wire *w, const char *what, const char *why)
{
    char text[TLS_WHY];
    snprintf(text, sizeof text, "%.80s:%s: %s%s%.100s", w->host, w->port, what, *why ? ": " : "", why);
    wire_drop(w, REDIS_CONNECTION, text);
}

/* What has been said and not yet been written. */
static void wire_write(struct wire *w)
{
    struct buf *out = redis_line_out(w->line);
    while (w->state == WIRE_OPEN && !out->failed && w->sent < out->n) {
        const char *from = out->p + w->sent;
        size_t n = 0;
        bool later = false, failed = false;
        if (w->ssl) {
            ERR_clear_error();
            const int done = SSL_write_ex(w->ssl, from, out->n - w->sent, &n);
            const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(w->ssl, done);
            later = error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ;
            failed = error != SSL_ERROR_NONE && !later;
            if (error != SSL_ERROR_NONE)
                ERR_clear_error();
        } else {
            const ssize_t got = send(w->fd, from, out->n - w->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            later = got < 0 && (errno == EAGAIN || errno == EINTR);
            failed = got < 0 && !later;
            n = got > 0 ? (size_t)got : 0;
        }
        if (failed) {
            wire_drop_for(w, "the connection broke", "");
            return;
        }
        w->sent += n;
        if (later) {
            event_add(w->writable, NULL);
            return;
        }
    }
    if (out->failed) {
        wire_drop_for(w, "more waits to be said than may be", "");
    } else if (out->n && w->sent == out->n) {
        /* What stood behind it was wiped when that was written: all of the buffer, which once held the library, is
         * twenty times as much. */
        secret_wipe(out->p, out->n);
        out->n = 0;
        w->sent = 0;
    }
}

static void wire_opened(struct wire *w)
{
    w->state = WIRE_OPEN;
    w->since_us = time_mono_us();
    if (event_add(w->readable, NULL) != 0) {
        wire_drop_for(w, "out of memory", "");
        return;
    }
    redis_line_connected(w->line, w->peer);
    wire_write(w);
}

static void wire_handshake(struct wire *w)
{
    ERR_clear_error();
    const int done = SSL_connect(w->ssl);
    const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(w->ssl, done);
    if (error == SSL_ERROR_NONE) {
        wire_opened(w);
    } else if (error == SSL_ERROR_WANT_WRITE) {
        event_add(w->writable, NULL);
    } else if (error != SSL_ERROR_WANT_READ) {
        const long verdict = SSL_get_verify_result(w->ssl);
        const unsigned long code = ERR_peek_error();
        const char *why = verdict != X509_V_OK ? X509_verify_cert_error_string(verdict)
                          : code               ? ERR_reason_error_string(code)
                                               : NULL;
        wire_drop_for(w, "TLS", why ? why : "the connection was closed");
        ERR_clear_error();
    }
}

/* The certificate has to be the host's. */
static bool expect_host(SSL *ssl, const char *host)
{
    X509_VERIFY_PARAM *p = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return X509_VERIFY_PARAM_set1_ip_asc(p, host) == 1 ||
           (SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1);
}

static void wire_connected(struct wire *w)
{
    if (!w->site->tls) {
        wire_opened(w);
        return;
    }
    w->state = WIRE_HANDSHAKE;
    w->ssl = SSL_new(w->site->tls);
    if (w->ssl && SSL_set_fd(w->ssl, w->fd) == 1 && expect_host(w->ssl, w->host) &&
        event_add(w->readable, NULL) == 0) {
        wire_handshake(w);
        return;
    }
    ERR_clear_error();
    wire_drop_for(w, "TLS cannot be begun", "");
}

/* -1: it failed; 0: there is no more now. */
static ssize_t wire_read_some(struct wire *w, char scratch[SCRATCH])
{
    if (w->ssl) {
        size_t n = 0;
        ERR_clear_error();
        const int done = SSL_read_ex(w->ssl, scratch, SCRATCH, &n);
        if (done == 1)
            return (ssize_t)n;
        const int error = SSL_get_error(w->ssl, done);
        ERR_clear_error();
        return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
    const ssize_t got = recv(w->fd, scratch, SCRATCH, MSG_DONTWAIT);
    return got > 0 ? got : got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct wire *w = arg;
    char scratch[SCRATCH];
    if (w->state == WIRE_HANDSHAKE) {
        wire_handshake(w);
        return;
    }
    for (bool more = true; more && w->state == WIRE_OPEN;) {
        const ssize_t n = wire_read_some(w, scratch);
        if (n < 0) {
            wire_drop_for(w, "the connection was closed", "");
            return;
        }
        more = n == SCRATCH || (w->ssl && SSL_has_pending(w->ssl));
        if (n > 0 && !redis_line_feed(w->line, scratch, (size_t)n)) {
            wire_drop(w, REDIS_FINE, "");
            if (w->told && w->peer == PEER_SENTINEL)
                wire_begin(w);
            return;
        }
    }
    wire_write(w);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct wire *w = arg;
    int code = 0;
    socklen_t n = sizeof code;
    if (w->state == WIRE_HANDSHAKE) {
        wire_handshake(w);
    } else if (w->state == WIRE_OPEN) {
        wire_write(w);
    } else if (w->state == WIRE_CONNECTING) {
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) != 0)
            code = errno;
        if (code)
            wire_drop_for(w, "cannot be connected to", strerrordesc_np(code));
        else
            wire_connected(w);
    }
}

static void wire_connect(struct wire *w, const struct addresses *to)
{
    static const int on = 1;
    const struct address *a = &to->v[w->address++ % to->n]; /* another one each time */
    w->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (w->fd >= 0) {
        w->readable = event_new(w->base, w->fd, EV_READ | EV_PERSIST, on_readable, w);
        w->writable = event_new(w->base, w->fd, EV_WRITE, on_writable, w);
    }
    if (!w->readable || !w->writable) {
        wire_drop_for(w, "no socket can be opened", w->fd < 0 ? strerrordesc_np(errno) : "out of memory");
        return;
    }
    (void)setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    w->state = WIRE_CONNECTING;
    if (connect(w->fd, (const struct sockaddr *)&a->sa, a->n) != 0 && errno != EINPROGRESS)
        wire_drop_for(w, "cannot be connected to", strerrordesc_np(errno));
    else if (event_add(w->writable, NULL) != 0)
        wire_drop_for(w, "out of memory", "");
}

/* Whom to: a Sentinel first, where there are any, until one has named the primary. */
static void wire_resolve(struct wire *w)
{
    const struct replay_config *c = w->site->config;
    struct resolver *r = w->told ? w->primary : w->site->resolvers[w->turn % c->host_count];
    struct addresses found;
    char why[RESOLVER_WHY] = "";
    switch (resolver_get(r, &found, why)) {
    case RESOLVER_KNOWN:
        wire_connect(w, &found);
        break;
    case RESOLVER_ASKED:
        w->state = WIRE_RESOLVING;
        break;
    default:
        wire_drop_for(w, "cannot be resolved", why);
        break;
    }
}

static void wire_begin(struct wire *w)
{
    const struct replay_config *c = w->site->config;
    w->peer = c->master && !w->told ? PEER_SENTINEL : PEER_SERVER;
    w->since_us = time_mono_us();
    if (!w->told) {
        snprintf(w->host, sizeof w->host, "%s", c->hosts[w->turn % c->host_count].name);
        snprintf(w->port, sizeof w->port, "%s", c->hosts[w->turn % c->host_count].port);
    }
    wire_resolve(w);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct wire *w = arg;
    const int64_t now = time_mono_us();
    const bool late = now - w->since_us > CONNECT_MS * 1000;
    if (w->state == WIRE_DOWN && now >= w->again_us)
        wire_begin(w);
    else if (w->state == WIRE_RESOLVING && !late)
        wire_resolve(w);
    else if (w->state == WIRE_OPEN && w->peer == PEER_SERVER && !redis_line_tick(w->line))
        wire_drop(w, REDIS_FINE, "");
    else if (late && w->state != WIRE_DOWN && (w->state != WIRE_OPEN || w->peer == PEER_SENTINEL))
        wire_drop_for(w, "does not answer", "");
    wire_write(w);
}

static void on_flush(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct wire *w = arg;
    if (w->state != WIRE_OPEN)
        return;
    redis_line_turn_ends(w->line);
    wire_write(w);
}

/* Behind all that this turn of the loop still does: the event stands last in the queue, and is there once. */
static void sockets_soon(void *wire)
{
    event_active(((struct wire *)wire)->flush, EV_TIMEOUT, 0);
}

static void sockets_close(void *wire)
{
    struct wire *w = wire;
    close_socket(w);
    if (w->tick)
        event_free(w->tick);
    if (w->flush)
        event_free(w->flush);
    resolver_free(w->primary);
    free(w);
}

static void *sockets_open(void *arg, struct redis_line *line, struct event_base *loop)
{
    static const struct timeval each = {0, REDIS_TICK_MS * 1000};
    struct wire *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    *w = (struct wire){.site = arg, .line = line, .base = loop, .fd = -1};
    w->tick = event_new(loop, -1, EV_PERSIST, on_tick, w);
    w->flush = event_new(loop, -1, 0, on_flush, w);
    if (w->tick && w->flush && event_add(w->tick, &each) == 0) {
        event_active(w->tick, EV_TIMEOUT, 0); /* the first one at once */
        return w;
    }
    sockets_close(w);
    return NULL;
}

const struct redis_sockets REPLAY_SOCKETS = {sockets_open, sockets_soon, sockets_close};

void replay_site_free(struct replay_site *s)
{
    if (!s)
        return;
    for (size_t i = 0; s->resolvers && i < s->config->host_count; i++)
        resolver_free(s->resolvers[i]);
    free(s->resolvers);
    SSL_CTX_free(s->tls);
    free(s);
}

struct replay_site *replay_site_new(const struct replay_config *c, char why[TLS_WHY])
{
    struct replay_site *s = calloc(1, sizeof *s);
    snprintf(why, TLS_WHY, "out of memory");
    bool ok = s && (s->resolvers = calloc(c->host_count, sizeof(struct resolver *)));
    if (s)
        s->config = c;
    for (size_t i = 0; ok && i < c->host_count; i++)
        ok = (s->resolvers[i] = resolver_new(c->hosts[i].name, c->hosts[i].port));
    if (ok && c->tls && (ok = (s->tls = tls_client_context(c->ca, why)))) {
        /* Here no secret is read, and a connection a worker keeps its buffers: without this a third of a trip's work
         * is to overwrite and give back 16 KiB. */
        SSL_CTX_clear_options(s->tls, SSL_OP_CLEANSE_PLAINTEXT);
        SSL_CTX_clear_mode(s->tls, SSL_MODE_RELEASE_BUFFERS);
    }
    if (ok)
        return s;
    replay_site_free(s);
    return NULL;
}
