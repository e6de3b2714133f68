#include "http/upstream_sockets.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

curl_socket_t upstream_socket_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    struct upstream_sockets *s = arg;
    if (s->n == s->cap) {
        const size_t cap = s->cap ? s->cap * 2 : 16;
        struct upstream_socket *v = realloc(s->v, cap * sizeof *v);
        if (!v)
            return CURL_SOCKET_BAD;
        s->v = v;
        s->cap = cap;
    }
    const int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0)
        return CURL_SOCKET_BAD;
    s->v[s->n++] = (struct upstream_socket){fd, 0};
    return fd;
}

int upstream_socket_close(void *arg, curl_socket_t fd)
{
    struct upstream_sockets *s = arg;
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].fd == fd) {
            s->v[i] = s->v[--s->n];
            break;
        }
    return close(fd);
}

static int port_of(curl_socket_t fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } sa;
    socklen_t n = sizeof sa;
    memset(&sa, 0, sizeof sa);
    if (getsockname(fd, &sa.any, &n) != 0)
        return 0;
    return ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);
}

bool upstream_sockets_silent(struct upstream_sockets *s, int port)
{
    for (size_t i = 0; i < s->n; i++) {
        if (!s->v[i].port)
            s->v[i].port = port_of(s->v[i].fd);
        struct pollfd p = {.fd = s->v[i].fd, .events = POLLIN};
        if (s->v[i].port == port)
            return poll(&p, 1, 0) == 0;
    }
    return false;
}

void upstream_sockets_free(struct upstream_sockets *s)
{
    free(s->v);
    *s = (struct upstream_sockets){0};
}
