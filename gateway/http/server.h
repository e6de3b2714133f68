/*
 * What the parts of the running gateway share. Inside http/ and cmd/serve.c only.
 *
 * A worker is a thread with an event base of its own; connections and exchanges belong to one worker and are touched by
 * no other. Shared between workers: the key store, the replay memory, the sink, and the atomics in struct server.
 */
#ifndef KMSGATE_HTTP_SERVER_H
#define KMSGATE_HTTP_SERVER_H

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "gate/gate.h"
#include "http/guard.h"
#include "http/upstream.h"

struct evhtp;
struct evhtp_connection;
struct evhtp_request;

struct server {
    struct config *config;
    struct keystore *keys;
    struct replay *replay;
    struct sink *sink;
    char *admin_token; /* NULL: none */
    pthread_mutex_t lock; /* of rules and tls, which a reload replaces */
    struct rules *rules;
    SSL_CTX **tls;     /* one a listener; NULL: plain */
    int *sockets;      /* one a listener, bound once */
    struct worker *workers;
    unsigned worker_count;
    int64_t floor_us;  /* before it no request can be told from a replay */
    atomic_uint in_flight, connections;
    atomic_bool serving, draining, stopping, leaving;
};

struct listener {
    struct worker *worker;
    const struct listen_config *config;
    struct evhtp *htp;
    size_t index;
};

struct worker {
    struct server *server;
    pthread_t thread;
    bool started;
    struct event_base *base;
    struct event *wake;
    int wake_fd;
    struct gate gate; /* rules: this worker's own reference */
    struct upstream *upstream;
    struct listener *listeners;
    struct conn *conns;
    bool stopped_listening;
};

/* READING: the guard reads a request. BUSY: evhtp has it, until it is answered and freed. LINGER: refused or at its
 * end; what comes is thrown away, so that the client can read the reply. */
enum conn_state { CONN_READING, CONN_BUSY, CONN_LINGER };

struct conn {
    struct worker *worker;
    struct listener *listener;
    struct conn *next, **link;
    enum conn_state state;
    struct evhtp_connection *evc; /* NULL: gone */
    struct bufferevent *bev;
    bufferevent_data_cb evhtp_read, evhtp_write;
    bufferevent_event_cb evhtp_event;
    void *evhtp_arg;
    struct evbuffer *hold;        /* received, not yet looked at */
    struct event *deadline, *kick;
    struct guard guard;
    struct ip peer;
    bool armed;                   /* the header's deadline runs */
    bool shut;
    struct exchange *exchange;
};

/* server.c */
bool server_listen(struct worker *w, struct listener *l, int fd);
/* A raw reply by the guard, then a lingering close. */
void conn_refuse(struct conn *c, int status, const char *id, const char *extra, struct str body);
void conn_close(struct conn *c); /* now */
void conn_close_idle(struct worker *w);
void listener_close(struct listener *l);

/* proxy.c: an exchange is one request and its reply. */
/* The head is there, or the guard refused (reason). False: it was refused and answered. */
bool proxy_head(struct conn *c, enum reason reason, int status);
/* The request is complete and evhtp has it, paused. */
void proxy_complete(struct conn *c, struct evhtp_request *request);
/* The client is gone. */
void proxy_vanished(struct conn *c);

/* worker.c */
bool worker_start(struct worker *w);
void worker_wake(struct worker *w);
/* Ends what still runs, and waits for the thread. */
void worker_stop(struct worker *w);

/* tls.c */
SSL_CTX *tls_context(const struct listen_config *config);
void tls_count_expiry(const struct config *config);

/* admin.c */
bool admin_start(struct server *s, pthread_t *thread, int fd);
/* A listening, non-blocking socket; -1 with the reason logged. */
int socket_listen(const struct listen_config *config);

/* sandbox.c */
bool sandbox_enter(void);

#endif
