/*
 * What conn.c (connections and what they read), conn_reply.c (what they write) and conn_tls.c (by which both do it
 * where they speak TLS) share. Nobody else's.
 */
#ifndef KMSGATE_HTTP_CONN_INSIDE_H
#define KMSGATE_HTTP_CONN_INSIDE_H

#include "http/conn.h"

/* Until the last one has left, it is not freed, even if it is closed. */
void conn_enter(struct conn *c);
void conn_leave(struct conn *c);
/* False when it has to make room, and is closed. */
bool conn_mark(struct conn *c, enum place_state state);
/* Forgets the request: the next one goes by what is in force now. */
void conn_settle(struct conn *c);
/* Reads requests from what has come. */
void conn_process(struct conn *c);
/* Octets that have come and were not looked at. */
size_t conn_unread(const struct conn *c);
/* These are dropped. */
void conn_forget_unread(struct conn *c);
/* All that was to be written is out. */
void conn_sent(struct conn *c);
/* It goes out behind what waits, in the next turn of the loop. False: it cannot. */
bool conn_put(struct conn *c, struct str more) MUST_CHECK;
/* There may be something to read. */
void conn_readable(struct conn *c);
/* The socket has taken all that waited. */
void conn_written(struct conn *c);
/* Nothing goes on: BEV_EVENT_ of libevent. */
void conn_broken(struct conn *c, short events);

/* conn_tls.c. */
/* Takes over ssl, which has the connection's socket, also where it fails: NULL without memory. */
struct conn_tls *conn_tls_new(SSL *ssl);
void conn_tls_free(struct conn_tls *t); /* NULL is fine */
/* All that follow are for an open connection with TLS. */
/* When bev and tls are there. */
void conn_tls_begin(struct conn *c);
/* As recv() would, after the handshake, which it makes: octets; 0: the client has ended its side; -1 with errno EAGAIN:
 * nothing yet, ENOMEM, or EPROTO: nothing any more. */
ssize_t conn_tls_read(struct conn *c, char *to, size_t room);
/* There are octets that OpenSSL has read from the socket and that nobody has asked it for. */
bool conn_tls_has_more(const struct conn *c);
/* Writes what waits, as far as the socket takes it; the rest follows by itself, then conn_written(). False: it
 * cannot. */
bool conn_tls_write(struct conn *c) MUST_CHECK;
/* The same, not before the next turn of the loop. */
bool conn_tls_write_soon(struct conn *c) MUST_CHECK;
/* Tells the client that nothing follows. */
void conn_tls_say_end(struct conn *c);
/* The end of it: OpenSSL's part is freed. */
void conn_tls_close(struct conn *c);
/* No handshake has come about: by what OpenSSL has said of it, or in time. */
void conn_tls_unshaken(const struct conn *c, bool in_time);

#endif
