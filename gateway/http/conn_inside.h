/*
 * What conn.c (connections and what they read) and conn_reply.c (what they write) share. Nobody else's.
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

#endif
