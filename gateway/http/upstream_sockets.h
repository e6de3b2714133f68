/*
 * The sockets of a worker's connections to the upstream, so that one can be looked at before it is used again: libcurl
 * names a connection by its port alone. Inside http/upstream_* only.
 */
#ifndef KMSGATE_HTTP_UPSTREAM_SOCKETS_H
#define KMSGATE_HTTP_UPSTREAM_SOCKETS_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

struct upstream_sockets {
    struct upstream_socket {
        curl_socket_t fd;
        int port; /* this side's; 0: not looked up yet */
    } *v;
    size_t n, cap;
};

/* libcurl's callbacks; arg: the struct upstream_sockets. */
curl_socket_t upstream_socket_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
int upstream_socket_close(void *arg, curl_socket_t fd);
/* True when the connection from this port is known and has nothing to be read, not even its end. */
bool upstream_sockets_silent(struct upstream_sockets *s, int port);
void upstream_sockets_free(struct upstream_sockets *s);

#endif
