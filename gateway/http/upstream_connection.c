#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/net.h"
#include "http/upstream_inside.h"

/* What a reading or writing came to. */
enum moved { MOVED_SOME, MOVED_LATER, MOVED_END, MOVED_FAILED };

void connection_free(struct upstream_connection *k)
{
    if (k->readable)
        event_free(k->readable);
    if (k->writable)
        event_free(k->writable);
    upstream_tls_unref(k->tls);
    free(k);
}

void connection_close(struct upstream_connection *k)
{
    struct upstream *u = k->u;
    if (k->state == CONNECTION_GONE)
        return;
    k->state = CONNECTION_GONE;
    if (k->call)
        k->call->connection = NULL;
    k->call = NULL;
    if (k->link) {
        *k->link = k->next;
        if (k->next)
            k->next->link = k->link;
    }
    if (k->readable)
        event_del(k->readable);
    if (k->writable)
        event_del(k->writable);
    if (k->ssl) {
        if (SSL_is_init_finished(k->ssl))
            (void)SSL_shutdown(k->ssl); /* says that nothing follows; no answer is waited for */
        ERR_clear_error();
        SSL_free(k->ssl);
    }
    k->ssl = NULL;
    close(k->fd);
    k->fd = -1;
    atomic_fetch_sub(&u->site->open, 1);
    k->link = NULL;
    k->next = u->gone; /* it may be in use further up the stack */
    u->gone = k;
    event_active(u->reap, EV_TIMEOUT, 0);
}

/* Says why, and where to. */
static void tell_connect(struct upstream_call *c, const struct address *to, int code)
{
    struct ip ip;
    char text[IP_TEXT];
    ip_from_sockaddr((const struct sockaddr *)&to->sa, &ip);
    ip_format(&ip, text);
    call_tell(c, "cannot connect to %s, port %s: %s", text, c->u->site->port, strerrordesc_np(code));
}

static void tell_tls(struct upstream_connection *k)
{
    const long verdict = SSL_get_verify_result(k->ssl);
    const unsigned long code = ERR_peek_error();
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    if (verdict != X509_V_OK)
        call_tell(k->call, "TLS: the certificate of %s is not accepted: %s", k->u->site->host,
                  X509_verify_cert_error_string(verdict));
    else
        call_tell(k->call, "TLS: the handshake with %s failed: %s", k->u->site->host,
                  why ? why : "the connection was closed");
}

static void connection_readable(evutil_socket_t fd, short what, void *arg);
static void connection_writable(evutil_socket_t fd, short what, void *arg);

/* The address in turn did not do: the next one. */
static void connection_elsewhere(struct upstream_connection *k)
{
    struct upstream_call *c = k->call;
    connection_close(k);
    pool_connect(c);
}

static void connection_opened(struct upstream_connection *k)
{
    struct upstream_call *c = k->call;
    k->state = CONNECTION_OPEN;
    c->connected = true;
    if (!k->ssl && event_add(k->readable, NULL) != 0) {
        call_tell(c, "out of memory");
        connection_close(k);
        call_end_later(c, REASON_INTERNAL);
    } else if (c->probe) {
        connection_close(k);
        call_end_later(c, REASON_OK);
    } else if (!connection_send(k)) {
        pool_connect(c);
    }
}

static void connection_handshake(struct upstream_connection *k)
{
    ERR_clear_error();
    const int done = SSL_connect(k->ssl);
    const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(k->ssl, done);
    if (error == SSL_ERROR_NONE) {
        connection_opened(k);
    } else if (error == SSL_ERROR_WANT_WRITE) {
        event_add(k->writable, NULL);
    } else if (error != SSL_ERROR_WANT_READ) {
        struct upstream_call *c = k->call;
        tell_tls(k);
        ERR_clear_error();
        connection_close(k);
        call_end_later(c, REASON_UPSTREAM_UNREACHABLE);
    }
}

/* The certificate has to be the host's; a name is also sent, for servers with many. */
static bool expect_host(SSL *ssl, const struct upstream_site *s)
{
    X509_VERIFY_PARAM *p = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (s->literal)
        return X509_VERIFY_PARAM_set1_ip_asc(p, s->host) == 1;
    return SSL_set1_host(ssl, s->host) == 1 && SSL_set_tlsext_host_name(ssl, s->host) == 1;
}

static bool begin_tls(struct upstream_connection *k)
{
    k->ssl = k->tls && k->tls->ctx ? SSL_new(k->tls->ctx) : NULL;
    return k->ssl && SSL_set_fd(k->ssl, k->fd) == 1 && expect_host(k->ssl, k->u->site) &&
           event_add(k->readable, NULL) == 0;
}

static void connection_connected(struct upstream_connection *k)
{
    struct upstream_call *c = k->call;
    if (!k->u->site->tls) {
        connection_opened(k);
        return;
    }
    k->state = CONNECTION_HANDSHAKE;
    if (begin_tls(k)) {
        connection_handshake(k);
        return;
    }
    ERR_clear_error();
    call_tell(c, "TLS cannot be begun");
    connection_close(k);
    call_end_later(c, REASON_INTERNAL);
}

static struct upstream_connection *connection_new(struct upstream_call *c, int fd)
{
    struct upstream *u = c->u;
    struct upstream_connection *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    *k = (struct upstream_connection){.u = u, .fd = fd, .call = c, .born_us = time_mono_us()};
    k->tls = upstream_tls_ref(u->tls);
    k->readable = event_new(u->base, fd, EV_READ | EV_PERSIST, connection_readable, k);
    k->writable = event_new(u->base, fd, EV_WRITE, connection_writable, k);
    if (k->readable && k->writable)
        return k;
    connection_free(k);
    return NULL;
}

bool connection_open(struct upstream_call *c, const struct address *to)
{
    static const int on = 1;
    const int fd = socket(to->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct upstream_connection *k = fd < 0 ? NULL : connection_new(c, fd);
    if (!k) {
        call_tell(c, "no socket can be opened: %s", fd < 0 ? strerrordesc_np(errno) : "out of memory");
        if (fd >= 0)
            close(fd);
        return false;
    }
    atomic_fetch_add(&c->u->site->open, 1);
    c->connection = k;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (const struct sockaddr *)&to->sa, to->n) != 0 && errno != EINPROGRESS) {
        tell_connect(c, to, errno);
        connection_close(k);
        return false;
    }
    /* every address gets its part of the time that is left */
    const size_t others = c->addresses.n - c->address;
    const int64_t us = call_left_us(c) / (int64_t)(others + 1);
    const struct timeval share = {us / US_PER_S, us % US_PER_S};
    if (event_add(k->writable, others ? &share : NULL) == 0)
        return true;
    call_tell(c, "out of memory");
    connection_close(k);
    return false;
}

static enum moved write_plain(struct upstream_connection *k, size_t *n)
{
    struct upstream_call *c = k->call;
    const size_t head = c->sent < c->head.n ? c->head.n - c->sent : 0;
    const size_t body = c->sent > c->head.n ? c->sent - c->head.n : 0;
    struct iovec part[2] = {{c->head.p + (c->head.n - head), head}, {NULL, 0}};
    if (c->out.n > body)
        part[1] = (struct iovec){c->out.p + body, c->out.n - body};
    const struct msghdr message = {.msg_iov = head ? part : part + 1, .msg_iovlen = head && part[1].iov_len ? 2 : 1};
    const ssize_t got = sendmsg(k->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? MOVED_LATER : MOVED_FAILED;
    *n = (size_t)got;
    c->touched = c->touched || got > 0;
    return MOVED_SOME;
}

/* One record where it fits: the body stands behind the head since call_finish_head(). */
static enum moved write_tls(struct upstream_connection *k, size_t *n)
{
    struct upstream_call *c = k->call;
    BIO *out = SSL_get_wbio(k->ssl);
    const uint64_t before = BIO_number_written(out);
    ERR_clear_error();
    const int done = SSL_write_ex(k->ssl, c->head.p + c->sent, c->head.n - c->sent, n);
    const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(k->ssl, done);
    ERR_clear_error();
    c->touched = c->touched || BIO_number_written(out) != before;
    if (error == SSL_ERROR_NONE)
        return MOVED_SOME;
    return error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? MOVED_LATER : MOVED_FAILED;
}

bool connection_send(struct upstream_connection *k)
{
    struct upstream_call *c = k->call;
    const size_t whole = c->head.n + c->out.n;
    while (c->sent < whole) {
        size_t n = 0;
        switch (k->ssl ? write_tls(k, &n) : write_plain(k, &n)) {
        case MOVED_SOME:
            c->sent += n;
            break;
        case MOVED_LATER:
            event_add(k->writable, NULL);
            return true;
        default:
            if (c->touched) { /* what it has to say, if anything, is still read: the end comes by the other event */
                event_del(k->writable);
                return true;
            }
            connection_close(k);
            return false;
        }
    }
    return true;
}

static void connection_writable(evutil_socket_t fd, short what, void *arg)
{
    struct upstream_connection *k = arg;
    struct upstream_call *c = k->call;
    int code = 0;
    socklen_t n = sizeof code;
    if (k->state == CONNECTION_GONE || !c)
        return;
    switch (k->state) {
    case CONNECTION_OPENING:
        if (what & EV_TIMEOUT)
            code = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) != 0)
            code = errno;
        if (code == 0) {
            connection_connected(k);
            return;
        }
        tell_connect(c, &c->addresses.v[c->address - 1], code);
        connection_elsewhere(k);
        break;
    case CONNECTION_HANDSHAKE:
        connection_handshake(k);
        break;
    default:
        if (!connection_send(k))
            pool_carry(c);
        break;
    }
}

static enum moved read_some(struct upstream_connection *k, size_t *n)
{
    if (k->ssl) {
        ERR_clear_error();
        crypto_keys_begin(); /* a record is decrypted in a buffer that it makes */
        const int done = SSL_read_ex(k->ssl, k->u->scratch, UPSTREAM_SCRATCH, n);
        crypto_keys_end();
        const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(k->ssl, done);
        ERR_clear_error();
        return error == SSL_ERROR_NONE ? MOVED_SOME
               : error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? MOVED_LATER
               : error == SSL_ERROR_ZERO_RETURN ? MOVED_END : MOVED_FAILED;
    }
    const ssize_t got = recv(k->fd, k->u->scratch, UPSTREAM_SCRATCH, MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? MOVED_LATER : MOVED_FAILED;
    *n = (size_t)got;
    return got ? MOVED_SOME : MOVED_END;
}

bool connection_is_silent(struct upstream_connection *k)
{
    char one;
    if (recv(k->fd, &one, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
        return errno == EAGAIN;
    size_t n = 0; /* of TLS it may be a new ticket, which is nothing that is said */
    return k->ssl && read_some(k, &n) == MOVED_LATER;
}

/* The upstream's side is at its end, or broken. */
static void connection_ended(struct upstream_connection *k, bool cleanly)
{
    struct upstream_call *c = k->call;
    struct reply_reader *r = &c->reply;
    connection_close(k);
    if (!c->touched) { /* it was never asked */
        pool_carry(c);
        return;
    }
    if (cleanly)
        reply_end(r);
    if (r->state == REPLY_DONE) {
        call_end(c, REASON_OK);
        return;
    }
    if (r->begun)
        call_tell(c, "%s", r->state == REPLY_REFUSED ? r->why : "breaks off before its end");
    else
        call_tell(c, "the connection was closed before a reply came; the request may have been processed, so it is "
                  "not sent again");
    call_end(c, r->begun ? REASON_UPSTREAM_INVALID : REASON_UPSTREAM_UNREACHABLE);
}

/* Bytes of a reply are there. False: the connection is not to be read any more now. */
static bool connection_take(struct upstream_connection *k, size_t n)
{
    struct upstream_call *c = k->call;
    struct upstream *u = k->u;
    const size_t used = reply_feed(&c->reply, u->scratch, n);
    secret_wipe(u->scratch, n);
    call_hold(c, c->reply.body.n ? c->reply.body.cap : 0);
    if (c->reply.state == REPLY_REFUSED) {
        call_tell(c, "%s", c->reply.why);
        connection_close(k);
        call_end(c, REASON_UPSTREAM_INVALID);
        return false;
    }
    if (c->reply.state != REPLY_DONE)
        return true;
    if (used < n || c->sent < c->head.n + c->out.n || (k->ssl && SSL_has_pending(k->ssl)))
        connection_close(k); /* what is left would be taken for the reply to the next one */
    else
        pool_park(k, &c->reply);
    call_end(c, REASON_OK);
    return false;
}

static void connection_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream_connection *k = arg;
    if (k->state == CONNECTION_HANDSHAKE) {
        connection_handshake(k);
        return;
    }
    for (bool more = true; more && k->state == CONNECTION_OPEN;) {
        size_t n = 0;
        const enum moved moved = read_some(k, &n);
        more = n == UPSTREAM_SCRATCH || (k->ssl && SSL_has_pending(k->ssl));
        if (moved == MOVED_LATER)
            return;
        if (!k->call) { /* kept, and it speaks, or ends */
            secret_wipe(k->u->scratch, n);
            connection_close(k);
        } else if (moved != MOVED_SOME) {
            connection_ended(k, moved == MOVED_END);
        } else {
            more = connection_take(k, n) && more;
        }
    }
}
