/* A syslog server says nothing back. What is certain is only that its machine has acknowledged the octets (SIOCOUTQ is
 * 0): until then the sink holds them, and they are sent again over the next connection. */
#include "http/syslog.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/net.h"
#include "base/sink_target.h"
#include "base/timestamp.h"

enum {
    FACILITY_AUTHPRIV = 10, /* RFC 5424, 6.2.1: security messages */
    SEVERITY_WARNING = 4,   /* a request was refused, lines were lost */
    SEVERITY_INFO = 6,
    CONNECT_MS = 2000,
    HANDSHAKE_MS = 5000,
    RETRY_US = 1000000,
    UNACKED_MS = 20000,     /* a server that is gone without a word is noticed after so long */
    HOST_MAX = 255,
};

struct syslog {
    char *path;       /* of a Unix socket; else */
    char *host, *port;
    bool tls;
    char from[HOST_MAX + 1]; /* HOSTNAME */
    SSL_CTX *context;
    SSL *ssl;
    int64_t next_us;  /* monotonic: not connected before */
};

static const struct sink_target_kind DATAGRAM_KIND, STREAM_KIND;

static void syslog_disconnect(struct sink_target *t)
{
    struct syslog *l = t->own;
    SSL_free(l->ssl);
    l->ssl = NULL;
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
    l->next_us = time_mono_us() + RETRY_US;
}

static ssize_t syslog_broken(struct sink_target *t, const char *why)
{
    sink_target_fails(t, why);
    syslog_disconnect(t);
    return SINK_PUT_BROKEN;
}

static bool syslog_wait(int fd, short events, int64_t until_us)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        const int64_t left = until_us - time_mono_us();
        const int n = left <= 0 ? 0 : poll(&p, 1, (int)(left / 1000 + 1));
        if (n >= 0 || errno != EINTR)
            return n > 0;
    }
}

static int connect_to(const struct sockaddr *sa, socklen_t n, int type)
{
    const int fd = socket(sa->sa_family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0;
    socklen_t size = sizeof error;
    if (fd < 0)
        return -1;
    if (connect(fd, sa, n) == 0)
        return fd;
    error = errno;
    if (error == EINPROGRESS) {
        error = ETIMEDOUT;
        if (syslog_wait(fd, POLLOUT, time_mono_us() + CONNECT_MS * 1000LL))
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

static bool connect_unix(struct sink_target *t)
{
    const struct syslog *l = t->own;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path, l->path, strlen(l->path)); /* its length was looked at */
    t->fd = connect_to((const struct sockaddr *)&un, sizeof un, SOCK_DGRAM);
    if (t->fd < 0)
        sink_target_fails(t, errno == EPROTOTYPE ? "this Unix socket takes no datagrams" : strerror(errno));
    return t->fd >= 0;
}

static bool connect_tcp(struct sink_target *t)
{
    const struct syslog *l = t->own;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    const unsigned unacked = UNACKED_MS;
    const int code = getaddrinfo(l->host, l->port, &hints, &list);
    if (code != 0) {
        sink_target_fails(t, code == EAI_SYSTEM ? strerror(errno) : gai_strerror(code));
        return false;
    }
    for (const struct addrinfo *a = list; a && t->fd < 0; a = a->ai_next)
        t->fd = connect_to(a->ai_addr, a->ai_addrlen, SOCK_STREAM);
    const int error = errno;
    freeaddrinfo(list);
    if (t->fd < 0) {
        sink_target_fails(t, strerror(error));
        return false;
    }
    setsockopt(t->fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(t->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked, sizeof unacked);
    return true;
}

static const char *tls_why(const SSL *ssl)
{
    const long verified = SSL_get_verify_result(ssl);
    const unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    if (verified != X509_V_OK)
        return X509_verify_cert_error_string(verified);
    return reason ? reason : "the TLS handshake failed";
}

static bool tls_start(struct sink_target *t)
{
    struct syslog *l = t->own;
    struct ip ip;
    ERR_clear_error();
    if (!(l->ssl = SSL_new(l->context)) || SSL_set_fd(l->ssl, t->fd) != 1)
        return false;
    if (ip_parse(str_z(l->host), &ip))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(l->ssl), l->host) == 1;
    SSL_set_hostflags(l->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(l->ssl, l->host) == 1 && SSL_set_tlsext_host_name(l->ssl, l->host) == 1;
}

static bool tls_connect(struct sink_target *t)
{
    const struct syslog *l = t->own;
    const int64_t until = time_mono_us() + HANDSHAKE_MS * 1000LL;
    if (!tls_start(t)) {
        sink_target_fails(t, "no memory for TLS");
        return false;
    }
    for (;;) {
        const int n = SSL_connect(l->ssl), e = SSL_get_error(l->ssl, n);
        if (n == 1)
            return true;
        if ((e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) ||
            !syslog_wait(t->fd, e == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, until)) {
            sink_target_fails(t, e == SSL_ERROR_WANT_READ ? "the TLS handshake takes too long" : tls_why(l->ssl));
            return false;
        }
    }
}

/* False: not now; a little time has passed. */
static bool syslog_connect(struct sink_target *t)
{
    const struct syslog *l = t->own;
    if (t->fd >= 0)
        return true;
    if (time_mono_us() < l->next_us) {
        nanosleep(&(struct timespec){0, SINK_RETRY_MS * 1000000}, NULL);
        return false;
    }
    const bool done = l->path ? connect_unix(t) : connect_tcp(t) && (!l->tls || tls_connect(t));
    if (!done)
        syslog_disconnect(t);
    return done;
}

static ssize_t datagram_put(struct sink_target *t, const char *p, size_t line, size_t n)
{
    (void)n;
    if (!syslog_connect(t))
        return 0;
    const ssize_t got = send(t->fd, p, line, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (got >= 0)
        return (ssize_t)line;
    if (errno == EMSGSIZE) {
        log_warn("decisions", t->name, "a line of %zu octets does not fit into a datagram, and is dropped", line);
        return (ssize_t)line;
    }
    if (errno != EAGAIN && errno != ENOBUFS)
        return syslog_broken(t, strerror(errno));
    syslog_wait(t->fd, POLLOUT, time_mono_us() + SINK_RETRY_MS * 1000LL);
    return 0;
}

/* What the server says is of no interest; that it closes is. */
static bool stream_is_closed(const struct sink_target *t)
{
    const struct syslog *l = t->own;
    char c[256];
    for (;;) {
        if (l->ssl) {
            const int n = SSL_read(l->ssl, c, sizeof c), e = SSL_get_error(l->ssl, n);
            if (n > 0)
                continue;
            ERR_clear_error();
            return e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE;
        }
        const ssize_t n = recv(t->fd, c, sizeof c, MSG_DONTWAIT);
        if (n <= 0)
            return n == 0 || (errno != EAGAIN && errno != EINTR);
    }
}

static ssize_t tls_put(struct sink_target *t, const char *p, size_t n)
{
    const struct syslog *l = t->own;
    size_t got = 0;
    if (SSL_write_ex(l->ssl, p, n, &got) == 1)
        return (ssize_t)got;
    const int e = SSL_get_error(l->ssl, 0);
    if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE)
        return syslog_broken(t, tls_why(l->ssl));
    syslog_wait(t->fd, e == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, time_mono_us() + SINK_RETRY_MS * 1000LL);
    return 0;
}

static ssize_t stream_put(struct sink_target *t, const char *p, size_t line, size_t n)
{
    const struct syslog *l = t->own;
    (void)line;
    const bool fresh = t->fd < 0;
    if (!syslog_connect(t))
        return 0;
    if (!fresh && stream_is_closed(t))
        return syslog_broken(t, "the server closed the connection");
    if (l->ssl)
        return tls_put(t, p, n);
    const ssize_t got = send(t->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (got > 0)
        return got;
    if (got < 0 && errno != EAGAIN && errno != EINTR)
        return syslog_broken(t, strerror(errno));
    syslog_wait(t->fd, POLLOUT, time_mono_us() + SINK_RETRY_MS * 1000LL);
    return 0;
}

static int stream_settled(struct sink_target *t)
{
    int waiting = 0;
    if (t->fd < 0)
        return SINK_PUT_BROKEN;
    if (stream_is_closed(t))
        return (int)syslog_broken(t, "the server closed the connection");
    return ioctl(t->fd, SIOCOUTQ, &waiting) != 0 || waiting == 0;
}

/* TIMESTAMP: the decision's own, which is RFC 3339 already. */
static struct str syslog_time(struct str line, char now[TIME_TEXT])
{
    static const struct str before = STR("{\"time\":\"");
    const char *end = str_starts(line, before) ? memchr(line.p + before.n, '"', line.n - before.n) : NULL;
    if (end && end - line.p - before.n < TIME_TEXT)
        return (struct str){line.p + before.n, (size_t)(end - line.p) - before.n};
    time_format(time_now_us(), true, now);
    return str_z(now);
}

/* No text of a stranger's can look so: in a JSON string quotation marks are escaped. */
static bool is_refusal(struct str line)
{
    static const struct str mark = STR("\"verdict\":\"reject\"");
    return !line.p || memmem(line.p, line.n, mark.p, mark.n);
}

static void syslog_header(const struct syslog *l, struct str line, struct buf *out)
{
    char now[TIME_TEXT];
    const struct str time = syslog_time(line, now);
    buf_printf(out, "<%d>1 ", FACILITY_AUTHPRIV * 8 + (is_refusal(line) ? SEVERITY_WARNING : SEVERITY_INFO));
    buf_str(out, time);
    buf_printf(out, " %s kmsgate %ld %s - ", l->from, (long)getpid(), line.p ? "decision" : "lost");
}

static void datagram_frame(const struct sink_target *t, struct str line, struct str text, struct buf *out)
{
    syslog_header(t->own, line, out);
    buf_str(out, text);
}

static void stream_frame(const struct sink_target *t, struct str line, struct str text, struct buf *out)
{
    struct buf header BUF_CLEANUP = BUF_INIT(1024);
    syslog_header(t->own, line, &header);
    buf_printf(out, "%zu ", header.n + text.n);
    buf_str(out, buf_view(&header));
    buf_str(out, text);
    out->failed |= header.failed;
}

/* A new connection finds a server that has moved, and certificates that were exchanged. */
static bool syslog_reopen(struct sink_target *t)
{
    struct syslog *l = t->own;
    syslog_disconnect(t);
    l->next_us = 0;
    if (l->tls && SSL_CTX_set_default_verify_paths(l->context) != 1)
        log_warn("decisions", t->name, "the system's certificates cannot be read again");
    return true;
}

static void syslog_close(struct sink_target *t)
{
    struct syslog *l = t->own;
    syslog_disconnect(t);
    SSL_CTX_free(l->context);
    free(l->path);
    free(l->host);
    free(l->port);
    free(l);
}

static const struct sink_target_kind DATAGRAM_KIND = {
    .put = datagram_put, .frame = datagram_frame, .reopen = syslog_reopen, .close = syslog_close};
static const struct sink_target_kind STREAM_KIND = {.resends = true,
                                                    .put = stream_put,
                                                    .settled = stream_settled,
                                                    .frame = stream_frame,
                                                    .reopen = syslog_reopen,
                                                    .close = syslog_close};

/* HOSTNAME is printable US-ASCII (RFC 5424, 6.2.4). */
static void syslog_from(struct syslog *l)
{
    if (gethostname(l->from, sizeof l->from - 1) != 0 || !l->from[0])
        snprintf(l->from, sizeof l->from, "-");
    for (char *p = l->from; *p; p++)
        if (*p <= ' ' || *p > '~')
            *p = '?';
}

static bool tls_context(struct syslog *l)
{
    if (!l->tls)
        return true;
    if (!(l->context = SSL_CTX_new(TLS_client_method())) || SSL_CTX_set_default_verify_paths(l->context) != 1)
        return false;
    SSL_CTX_set_verify(l->context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(l->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return SSL_CTX_set_min_proto_version(l->context, TLS1_2_VERSION) == 1;
}

bool syslog_open(struct sink_target *t, const char *where, char *why, size_t why_size)
{
    const struct str path = str_behind(str_z(where), STR("syslog:unix:"));
    const struct str tls = str_behind(str_z(where), STR("syslog+tls://"));
    struct str host = STR(""), port = STR("");
    struct syslog *l = calloc(1, sizeof *l);
    if (!l || !sink_syslog_is_valid(str_z(where))) {
        snprintf(why, why_size, l ? "%s: no address of a syslog server" : "%s: out of memory", where);
        free(l);
        return false;
    }
    l->tls = tls.p != NULL;
    syslog_from(l);
    if (!path.p)
        net_host_port(l->tls ? tls : str_behind(str_z(where), STR("syslog+tcp://")), &host, &port);
    l->path = path.p ? str_dup(path) : NULL;
    l->host = str_dup(host);
    l->port = str_dup(port);
    t->own = l;
    t->kind = path.p ? &DATAGRAM_KIND : &STREAM_KIND;
    if ((!path.p || l->path) && l->host && l->port && tls_context(l))
        return true;
    snprintf(why, why_size, "%s: no memory for the connection", where);
    return false;
}
