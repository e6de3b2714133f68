/*
 * A client's connection: reads requests through the guard, one at a time, and writes replies in their order.
 *
 * libevhtp accepts it, and no other parser than the guard sees its bytes. They are read, by OpenSSL where it is TLS,
 * into one block for all connections of the thread, and the guard takes them from there: only what it may not look at
 * yet is kept. A reply goes out at once where the socket takes it, and only the rest is kept. An idle connection has no
 * buffer.
 */
#ifndef KMSGATE_HTTP_CONN_H
#define KMSGATE_HTTP_CONN_H

#include <event2/bufferevent.h>
#include <event2/event_struct.h>
#include <openssl/ssl.h>
#include <stdatomic.h>

#include "base/net.h"
#include "http/bounds.h"
#include "http/crowd.h"
#include "http/guard.h"

enum { CONN_SCRATCH = 16 << 10 };

struct conn;
struct conn_tls;
struct exchange;
struct front;
struct listener;
struct server;
struct settings;
struct stream;

/* What is served over connections: the exchange (proxy.c, worker.c), or the admin address (admin_serve.c). */
struct service {
    /* The head is there, or the guard refused (reason, status). False: it was refused and answered. */
    bool (*head)(struct conn *c, enum reason reason, int status);
    /* The request is complete: conn_reply() will answer it, perhaps before this returns. */
    void (*complete)(struct conn *c);
    /* The client is gone. */
    void (*vanished)(struct conn *c);
    /* All of a stream is out; NULL: no reply is one. */
    void (*written)(struct conn *c);
    /* Before a request is read: what is in force now is taken over. */
    void (*follow)(struct front *f);
    /* A place of another front has to go. NULL, like the next: there is no other. */
    void (*wake)(struct front *f, unsigned owner);
    /* Connections wait for room: who is slowest may be another front's. */
    void (*ask_others)(struct front *f);
    /* So many are accepted before those that are there have their turn; 0: as many as come. */
    unsigned accepts;
    /* Who does not take its reply makes room like one that has not finished its request. */
    bool replies_yield;
};

/* What connections of one thread share. */
struct front {
    const struct service *service;
    struct server *server;
    struct event_base *base;
    struct settings *settings; /* in force: a connection takes them over between requests */
    struct crowd *crowd;       /* their places */
    unsigned owner;            /* as the crowd knows this front */
    atomic_size_t *held;       /* octets of requests and replies: hold.h */
    struct event room;         /* while connections wait for room */
    enum bound full, short_of; /* which bounds are met without a place, without memory */
    struct buf head;           /* of the reply that is being written */
    struct buf scratch;        /* CONN_SCRATCH octets of room: what one reading takes */
    const struct conn *reader; /* whose bytes are in it; NULL: nobody's */
    struct str piece;          /* those that were not looked at yet */
    struct conn *conns;
};

/* READING: the guard reads a request. BUSY: it is complete and not yet answered. WRITING: what is left of the reply
 * goes out. STREAMING: the reply has no end yet. LINGER: the last reply was made; what comes is thrown away, so that
 * the client can read it. */
enum conn_state { CONN_READING, CONN_BUSY, CONN_WRITING, CONN_STREAMING, CONN_LINGER };

struct conn {
    struct front *front;
    struct listener *listener;
    struct conn *next, **link;
    enum conn_state state;
    struct bufferevent *bev;   /* holds what waits; NULL: closed, and freed when nobody is inside any more */
    union {                    /* the service's own */
        struct exchange *exchange;
        struct stream *stream;
    };
    struct settings *settings; /* of the request that is read or served */
    struct guard guard;
    struct conn_tls *tls;      /* NULL: plain HTTP */
    struct event readable;
    struct event deadline;
    int64_t due_us;            /* monotonic: when something has to have happened */
    int64_t timer_us;          /* when the timer fires; it may be earlier */
    int64_t since_us;          /* monotonic: when it was accepted */
    struct place place;        /* among all connections */
    size_t held, reply_size;   /* octets that it holds, as counted; of the reply that is being written */
    size_t reserved;           /* for the body that is being read */
    int64_t held_since_us;     /* monotonic: since when it holds something */
    struct ip peer;
    unsigned inside;           /* how many of our functions are at work on it */
    enum place_state marked;   /* as it stands in the crowd */
    bool shaken;               /* with TLS: the handshake is over */
    bool waiting;              /* for room: hold.h */
    bool paused;               /* nothing is read, until the reply is out */
    bool armed;                /* the header's deadline runs */
    bool served;               /* a request was answered */
    bool looping;              /* conn_process() is at work */
    bool eof;                  /* the client has ended its side */
    bool starved;              /* what it said was lost for want of memory; `eof` stands, too */
    bool shut;                 /* we have ended ours */
};

/* Takes over bev and ssl (NULL: plain HTTP), also where it fails: false without memory, or where all places are taken
 * and nobody can go. */
bool conn_new(struct listener *l, struct bufferevent *bev, SSL *ssl, const struct ip *peer);
/* The certificate that the client was shown; of a connection with TLS only, and its own. */
X509 *conn_certificate(const struct conn *c);
/* Whether what comes is read. */
void conn_listen(struct conn *c);
void conn_pause(struct conn *c);
/* Now; the exchange, if there is one, goes on without it. */
void conn_close(struct conn *c);
/* There may be room for one that waits. True when it went on, and other connections may be gone. */
bool conn_go_on(struct conn *c);
/* Those that wait for a request go by the front's settings from now on; others when theirs is served. */
void conn_settle_idle(struct front *f);
/* Closes those that have to go, since all places are taken. */
void conn_close_evicted(struct front *f);
/* Closes those that wait for a request. Who has just connected has one on the way, and gets a second for it. */
void conn_close_idle(struct front *f);

/* conn_reply.c */
struct conn_answer {
    int status;
    const char *type; /* Content-Type */
    const char *id;   /* X-Request-Id; NULL: none */
    struct str extra; /* header lines with their ends; missing: none */
    struct str body;  /* of a stream: its beginning */
    bool last;        /* it ends the connection */
    bool stream;      /* it goes on by conn_push() until conn_end(), and is the last */
};
/* To the request that was read. */
void conn_reply(struct conn *c, const struct conn_answer *a);
/* To one that was not read to its end: nothing that follows is looked at. */
void conn_refuse(struct conn *c, const struct conn_answer *a);
/* More of a stream. It may be closed then. */
void conn_push(struct conn *c, struct str more);
/* Octets of a reply or stream that wait to be written. */
size_t conn_waiting(const struct conn *c);
/* The stream has reached its end: what waits goes out, and that is all. */
void conn_end(struct conn *c);
/* From now on, unless it is called anew: closed when no reply was begun, or none taken, for so long. */
void conn_due(struct conn *c, int64_t us);

#endif
