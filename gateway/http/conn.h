/*
 * A client's connection: reads requests through the guard, one at a time, and writes replies in their order.
 *
 * libevhtp accepts it and libevent carries its bytes; no other parser than the guard sees them. A reply goes out at
 * once where the socket takes it, and only the rest is kept. An idle connection has no buffer.
 */
#ifndef KMSGATE_HTTP_CONN_H
#define KMSGATE_HTTP_CONN_H

#include <event2/bufferevent.h>
#include <event2/event_struct.h>

#include "base/net.h"
#include "http/crowd.h"
#include "http/guard.h"

struct settings;
struct worker;
struct listener;
struct exchange;

/* READING: the guard reads a request. BUSY: it is complete and not yet answered. WRITING: what is left of the reply
 * goes out. LINGER: the last reply was made; what comes is thrown away, so that the client can read it. */
enum conn_state { CONN_READING, CONN_BUSY, CONN_WRITING, CONN_LINGER };

struct conn {
    struct worker *worker;
    struct listener *listener;
    struct conn *next, **link;
    enum conn_state state;
    struct bufferevent *bev;   /* NULL: closed, and freed when nobody is inside any more */
    struct exchange *exchange; /* proxy.c's */
    struct settings *settings; /* of the request that is read or served */
    struct guard guard;
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
    bool tls, shaken;          /* shaken: the handshake is over */
    bool waiting;              /* for room: hold.h */
    bool paused;               /* nothing is read, until the reply is out */
    bool armed;                /* the header's deadline runs */
    bool served;               /* a request was answered */
    bool looping;              /* conn_process() is at work */
    bool eof;                  /* the client has ended its side */
    bool shut;                 /* we have ended ours */
};

/* Takes over bev, also where it fails: false without memory, or where all places are taken and nobody can go. */
bool conn_new(struct listener *l, struct bufferevent *bev, const struct ip *peer);
/* Now; the exchange, if there is one, goes on without it. */
void conn_close(struct conn *c);
/* There may be room for one that waits. True when it went on, and other connections may be gone. */
bool conn_go_on(struct conn *c);
/* Those that wait for a request go by the worker's settings from now on; others when theirs is served. */
void conn_settle_idle(struct worker *w);
/* Closes those that have to go, since all places are taken. */
void conn_close_evicted(struct worker *w);
/* Closes those that wait for a request. Who has just connected has one on the way, and gets a second for it. */
void conn_close_idle(struct worker *w);
/* The answer to the request that was read. `extra`: header lines with their ends. `last`: it ends the connection. */
void conn_reply(struct conn *c, int status, const char *id, struct str extra, struct str body, bool last);
/* The same, for a request that was not read to its end: nothing that follows is looked at. */
void conn_refuse(struct conn *c, int status, const char *id, struct str extra, struct str body);

#endif
