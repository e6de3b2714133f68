#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/timestamp.h"
#include "load.h"

/* A handshake, and the server's end: with its tickets, if it has sent some. */
static SSL_SESSION *shake(SSL_CTX *ctx, const struct sockaddr_in *to, SSL_SESSION *session, bool *resumed)
{
    char none[64];
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    SSL *ssl = SSL_new(ctx);
    need(fd >= 0 && ssl && connect(fd, (const struct sockaddr *)to, sizeof *to) == 0, "connect");
    need(SSL_set_fd(ssl, fd) == 1 && (!session || SSL_set_session(ssl, session) == 1), "preparing TLS");
    need(SSL_connect(ssl) == 1, "a handshake");
    *resumed = SSL_session_reused(ssl);
    (void)SSL_shutdown(ssl);
    while (SSL_read(ssl, none, sizeof none) > 0)
        ;
    SSL_SESSION *next = SSL_get1_session(ssl);
    SSL_free(ssl);
    close(fd);
    return next;
}

int load_tls(const char *port, unsigned long count, bool resume)
{
    const struct sockaddr_in to = load_loopback(port);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_SESSION *session = NULL;
    unsigned long reused = 0;
    need(ctx && count, "starting TLS");
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    const int64_t began = time_mono_us();
    for (unsigned long i = 0; i < count; i++) {
        bool resumed;
        SSL_SESSION *next = shake(ctx, &to, resume ? session : NULL, &resumed);
        SSL_SESSION_free(session);
        session = next;
        reused += resumed;
    }
    const double seconds = (double)(time_mono_us() - began) / 1e6;
    SSL_SESSION_free(session);
    SSL_CTX_free(ctx);
    printf("{\"bench\":\"tls\",\"handshakes\":%lu,\"resumed\":%lu,\"seconds\":%.3f}\n", count, reused, seconds);
    return resume && reused + 1 < count;
}
