/*
 * What the parts of the upstream client share: upstream.c (calls: what is asked, and how it ends), upstream_pool.c
 * (which connection carries a call), upstream_connection.c (bytes on one connection), upstream_site.c (what all workers
 * know: health, breaker). Nobody else's.
 */
#ifndef KMSGATE_HTTP_UPSTREAM_INSIDE_H
#define KMSGATE_HTTP_UPSTREAM_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/timestamp.h"
#include "http/resolver.h"
#include "http/shares.h"
#include "http/upstream.h"
#include "http/upstream_reply.h"

enum {
    UPSTREAM_ERROR = 256,          /* text of what went wrong, for the log */
    UPSTREAM_SCRATCH = 64 * 1024,  /* read at a time */
    UPSTREAM_SPARE_CALLS = 64,     /* kept by a pool with their buffers */
    UPSTREAM_SPARE_BYTES = 16384,  /* of a buffer that is kept */
};

struct upstream_site {
    const struct upstream_config *config;
    char *host, *port;        /* without brackets */
    char *authority, *prefix; /* for Host, and what stands before each target */
    bool tls, literal;        /* the host is an address */
    struct resolver *resolver;
    struct shares *shares;    /* of the calls that may run: by resource */
    atomic_uint busy, open;   /* calls that run; connections, idle ones too */
    atomic_uint answers;      /* so far, modulo its size */
    atomic_uint failures;     /* calls in a row without an answer */
    atomic_bool down;
    pthread_mutex_t lock;     /* of all below */
    bool unconnected;         /* it is down since no connection could be made: a probe can tell when that is over */
    bool broken;              /* the breaker is open */
    int64_t since_us;         /* monotonic: when it went away, or came back */
    int64_t trial_us;         /* monotonic: the next call that the open breaker lets through */
    int64_t told_us;          /* monotonic: when the log last told of a bad reply */
    unsigned failed, refused; /* calls meanwhile */
};

struct upstream {
    struct upstream_site *site;
    struct event_base *base;
    struct upstream_tls *tls;
    int64_t timeout_us;               /* of a call */
    struct upstream_call *calls;      /* that run */
    struct upstream_call *spare;
    unsigned spare_count;
    struct upstream_connection *idle; /* the newest first */
    struct upstream_connection *gone; /* closed, freed in the next turn */
    struct event *sweep, *answered, *probe_timer, *reap;
    int answered_fd;                  /* the resolver has an answer; -1: none will come */
    char *scratch;                    /* UPSTREAM_SCRATCH bytes, wiped after each reading */
    bool probing, probed;
    void (*on_held)(void *arg, size_t before, size_t now); /* NULL: nobody is told */
    void *on_held_arg;
};

enum connection_state { CONNECTION_OPENING, CONNECTION_HANDSHAKE, CONNECTION_OPEN, CONNECTION_GONE };

struct upstream_connection {
    struct upstream *u;
    struct upstream_connection *next, **link; /* while idle, or gone */
    enum connection_state state;
    int fd;
    SSL *ssl;
    struct upstream_tls *tls;
    struct event *readable, *writable; /* the first is armed from the start of TLS, or the first request, for good */
    struct upstream_call *call;        /* NULL: idle */
    int64_t born_us, idle_us, keep_us; /* monotonic; keep_us: for how long it may be idle */
};

struct upstream_call {
    struct upstream *u;
    struct upstream_call *next, **link; /* while it runs */
    struct upstream_connection *connection;
    struct event *deadline;
    struct buf head, out;
    bool bodiless;    /* the method has none */
    size_t sent;      /* of head and out */
    struct reply_reader reply;
    unsigned kind;    /* of resource, for its share */
    unsigned answers; /* that the site had when it began */
    size_t held;      /* octets of memory that the reply takes, as told */
    upstream_done *done;
    void *arg;
    bool busy;        /* counted by the site */
    bool probe;       /* connects, and that is all */
    bool waits;       /* for the resolver */
    bool asked_again; /* the resolver, since none of its addresses could be reached */
    bool connected;   /* a connection was there, with TLS if that is due */
    bool touched;     /* a byte of the request was given to the kernel */
    bool ends;        /* in the next turn, with this fault */
    enum reason fault;
    int64_t until_us, timeout_us; /* monotonic: its deadline; how long that was away at the start */
    struct addresses addresses;
    size_t address;   /* the one that is tried next */
    char error[UPSTREAM_ERROR];
};

/* upstream.c */
/* Ends the call, and tells whoever asked; c is gone. */
void call_end(struct upstream_call *c, enum reason reason);
/* The same in the next turn of the loop. */
void call_end_later(struct upstream_call *c, enum reason reason);
void call_tell(struct upstream_call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Tells what its reply takes now. */
void call_hold(struct upstream_call *c, size_t now);
int64_t call_left_us(const struct upstream_call *c); /* until its deadline */

/* upstream_pool.c */
/* Over a kept connection, else over a new one. */
void pool_carry(struct upstream_call *c);
/* Over a new connection: by the next address, or the next answer of the resolver. */
void pool_connect(struct upstream_call *c);
/* The exchange on it is over: it is kept where that can be. */
void pool_park(struct upstream_connection *k, const struct reply_reader *reply);
bool pool_start(struct upstream *u);
void pool_end(struct upstream *u);

/* upstream_connection.c */
/* Begins to connect to an address for the call. False: it failed at once; the call's error tells. */
bool connection_open(struct upstream_call *c, const struct address *to);
/* Sends what is left of its call's request. False: nothing was ever sent and nothing can be: the connection is closed,
 * and the call has to go elsewhere. */
bool connection_send(struct upstream_connection *k);
/* It has nothing to say, not even that it is at its end. */
bool connection_is_silent(struct upstream_connection *k);
/* Closed now, freed in the next turn. Its call, if any, has none then. */
void connection_close(struct upstream_connection *k);
void connection_free(struct upstream_connection *k);

/* upstream_site.c */
/* Whether a call for this kind of resource may run; counts it, until it is released. */
enum reason site_admit(struct upstream_site *s, unsigned kind);
void site_release(struct upstream_site *s, unsigned kind);
/* Adds the failure or success to what is known, and tells a change. */
void site_note(struct upstream_call *c, enum reason reason);

#endif
