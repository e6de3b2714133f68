/*
 * limits.memory: the bytes of requests that are not yet judged and of replies until they are written, over all
 * connections of the exchange; those of the admin address have a bound of their own. Beyond it new bodies wait, up to
 * body_timeout, and then get 503; and whoever is slowest, by octets a second, gets 408, or, in taking his reply, loses
 * his connection. What a flood took goes back to the system.
 */
#ifndef KMSGATE_HTTP_HOLD_H
#define KMSGATE_HTTP_HOLD_H

#include <stdbool.h>
#include <stddef.h>

struct conn;
struct front;
struct server;

/* Counts what the connection holds now; 0 where it is closed. A body counts as a whole from its beginning on; what has
 * come of one that waits, a few KiB, does not. */
void hold_count(struct conn *c);
/* True when the connection may hold `more` octets beside what all hold: at once, or since slower ones had to go; it may
 * itself be the slowest, and is refused then. Nobody but it holding anything, it always may. */
bool hold_allows(struct conn *c, size_t more);
/* The octets that a reply takes while it comes from the upstream. True: all hold more than they may, and slower ones
 * are to go; the reply itself is never refused for it, since its request was spent. */
bool hold_reply(struct front *f, size_t before, size_t now);
/* The connection waits: it is asked again, by conn_go_on(), when there is room. */
void hold_wait(struct conn *c);
/* Another front's connections wait: this one's slowest may have to go. */
void hold_make_room(struct front *f);
/* Looks whether those of the front that wait may go on. */
void hold_look(struct front *f);
/* From main, now and then: gives back what is free. */
void hold_trim(struct server *s);

#endif
