#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/config.h"
#include "cmd/cmd.h"
#include "http/tls.h"

/* What is asked, plain or by TLS. */
struct health_line {
    int fd;
    SSL *ssl; /* NULL: plain */
};

static void health_hang_up(struct health_line *h)
{
    SSL_free(h->ssl);
    if (h->fd >= 0)
        close(h->fd);
}

/* Nothing secret is said, and whoever answers at this address has the gateway's place: no certificate is verified. */
static bool health_shake(struct health_line *h, const struct listen_config *a)
{
    char why[TLS_WHY];
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx && !tls_client_of(ctx, a, false, why))
        complain("health: %s", why); /* and is refused, or not */
    h->ssl = ctx ? SSL_new(ctx) : NULL;
    SSL_CTX_free(ctx);
    return h->ssl && SSL_set_fd(h->ssl, h->fd) == 1 && SSL_connect(h->ssl) == 1;
}

static bool health_call(struct health_line *h, const struct listen_config *a)
{
    const struct timeval wait = {3, 0};
    h->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (h->fd < 0)
        return false;
    setsockopt(h->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(h->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    return connect(h->fd, (const struct sockaddr *)&a->sa, a->sa_len) == 0 && (!a->certificate || health_shake(h, a));
}

static bool health_say(struct health_line *h, struct str s)
{
    return h->ssl ? SSL_write(h->ssl, s.p, (int)s.n) == (int)s.n
                  : send(h->fd, s.p, s.n, MSG_NOSIGNAL) == (ssize_t)s.n;
}

static int health_ask(const struct config *c)
{
    static const char OK[] = "HTTP/1.1 200 ";
    char reply[sizeof OK - 1];
    size_t n = 0;
    struct health_line h = {.fd = -1};
    const bool sent = health_call(&h, &c->admin) &&
                      health_say(&h, STR("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    while (sent && n < sizeof reply) {
        const ssize_t got = h.ssl ? SSL_read(h.ssl, reply + n, (int)(sizeof reply - n))
                                  : recv(h.fd, reply + n, sizeof reply - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    health_hang_up(&h);
    if (!sent || !n)
        complain("health: no response from %s", c->admin.address);
    else if (!str_eq_z((struct str){reply, n}, OK))
        complain("health: not ready");
    else
        return EXIT_DONE;
    return EXIT_NEGATIVE;
}

struct health_options {
    const char *config;
};

static int health_run(const void *given)
{
    const struct health_options *q = given;
    struct faults faults = {0};
    struct config *c = config_load(q->config, &faults);
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (!c)
        return EXIT_NEGATIVE;
    const int code = health_ask(c);
    config_free(c);
    return code;
}

static const struct command_option HEALTH_OPTIONS[] = {OPTION_CONFIG(struct health_options, config)};
const struct command COMMAND_HEALTH = {
    .name = "health", .does = "test whether a running gateway is ready",
    .about = "Requests `/readyz` at the admin address of a running gateway. Suitable as the health check of a "
             "container. Where the address requires a certificate, its own is shown.",
    .exits = "0 ready; 1 not ready, or no response",
    COMMAND_OPTIONS(HEALTH_OPTIONS), .size = sizeof(struct health_options), .run = health_run};
