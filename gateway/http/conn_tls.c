#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/metrics.h"
#include "http/conn_inside.h"
#include "http/server.h"

/* OpenSSL has the socket to itself: it reads all that is there at once, whichever records those octets are. So there
 * may be more to read while the socket has nothing: whoever has read asks conn_tls_has_more(). */
struct conn_tls {
    SSL *ssl;               /* NULL: closed */
    struct event writable;
    unsigned long error;    /* OpenSSL's first, of what has ended the connection; 0: it said none */
    bool reading_waits;     /* until the socket takes what OpenSSL has to say before it reads on */
    bool writing_waits;     /* until the client has said what OpenSSL has to hear before it writes on */
};

/* What is the matter, as errno would say it; 0: the client has ended its side. */
static int tls_trouble(struct conn_tls *t, int error)
{
    const int system = errno;
    bool starved = error == SSL_ERROR_SYSCALL && (system == ENOMEM || system == ENOBUFS);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return EAGAIN;
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    t->error = ERR_peek_error();
    for (unsigned long code; (code = ERR_get_error()) != 0;)
        starved = starved || ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    return starved ? ENOMEM : EPROTO;
}

static int tls_shake(struct conn *c)
{
    if (c->shaken)
        return 1;
    const int done = SSL_do_handshake(c->tls->ssl);
    c->shaken = done == 1;
    return done;
}

ssize_t conn_tls_read(struct conn *c, char *to, size_t room)
{
    struct conn_tls *t = c->tls;
    size_t n = 0;
    ERR_clear_error();
    int done = tls_shake(c);
    if (done == 1)
        done = SSL_read_ex(t->ssl, to, room, &n);
    const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, done);
    t->reading_waits = error == SSL_ERROR_WANT_WRITE;
    if (t->reading_waits || t->writing_waits) {
        t->writing_waits = false;
        (void)event_add(&t->writable, NULL); /* else it ends by its deadline */
    }
    if (done == 1)
        return (ssize_t)n;
    errno = tls_trouble(t, error);
    return errno ? -1 : 0;
}

bool conn_tls_has_more(const struct conn *c)
{
    return SSL_has_pending(c->tls->ssl);
}

bool conn_tls_write(struct conn *c)
{
    struct conn_tls *t = c->tls;
    struct evbuffer *out = bufferevent_get_output(c->bev);
    struct evbuffer_iovec v;
    while (evbuffer_peek(out, -1, NULL, &v, 1) > 0) {
        size_t n = 0;
        ERR_clear_error();
        const int done = SSL_write_ex(t->ssl, v.iov_base, v.iov_len, &n);
        if (done == 1) {
            evbuffer_drain(out, n);
            continue;
        }
        const int error = SSL_get_error(t->ssl, done);
        t->writing_waits = error == SSL_ERROR_WANT_READ;
        return tls_trouble(t, error) == EAGAIN && (t->writing_waits || event_add(&t->writable, NULL) == 0);
    }
    return true;
}

bool conn_tls_write_soon(struct conn *c)
{
    return event_add(&c->tls->writable, NULL) == 0;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;
    conn_enter(c);
    if (c->tls->reading_waits)
        conn_readable(c);
    if (c->bev && conn_waiting(c)) {
        if (!conn_tls_write(c))
            conn_broken(c, BEV_EVENT_WRITING | BEV_EVENT_ERROR);
        else if (!conn_waiting(c))
            conn_written(c);
    }
    conn_leave(c); /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
}

struct conn_tls *conn_tls_new(SSL *ssl)
{
    struct conn_tls *t = calloc(1, sizeof *t);
    if (t) {
        t->ssl = ssl;
        SSL_set_accept_state(ssl);
    } else {
        SSL_free(ssl);
    }
    return t;
}

void conn_tls_begin(struct conn *c)
{
    event_assign(&c->tls->writable, c->front->base, bufferevent_getfd(c->bev), EV_WRITE, on_writable, c);
    bufferevent_disable(c->bev, EV_WRITE);                /* what waits there is for us to write */
    evbuffer_unfreeze(bufferevent_get_output(c->bev), 1); /* we take from it */
}

void conn_tls_say_end(struct conn *c)
{
    SSL_shutdown(c->tls->ssl);
    ERR_clear_error();
}

void conn_tls_close(struct conn *c)
{
    struct conn_tls *t = c->tls;
    if (c->shaken) {
        SSL_set_shutdown(t->ssl, SSL_get_shutdown(t->ssl) | SSL_RECEIVED_SHUTDOWN);
        conn_tls_say_end(c);
    }
    event_del(&t->writable);
    SSL_free(t->ssl);
    t->ssl = NULL;
}

void conn_tls_free(struct conn_tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    free(t);
}

/* Counted, and in the log for those who look for it: strangers knock with anything, and that is no event. */
void conn_tls_unshaken(const struct conn *c, bool in_time)
{
    const unsigned long code = c->tls->error;
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

X509 *conn_certificate(const struct conn *c)
{
    return SSL_get_certificate(c->tls->ssl);
}
