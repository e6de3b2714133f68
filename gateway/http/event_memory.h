/*
 * libevent's memory. It crashes where it can get none while it makes a bufferevent (bufferevent_socket_new of 2.1.12
 * frees what is not made yet): there it has what is set aside (base/spare.h).
 *
 *     if (!event_memory_begin()) return NULL;      too little is set aside: nothing is tried
 *     bev = bufferevent_socket_new(...);
 *     if (!event_memory_end()) ...                 memory was short: what was made is whole, and best given up
 */
#ifndef KMSGATE_HTTP_EVENT_MEMORY_H
#define KMSGATE_HTTP_EVENT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

struct event_base;

/* Once, before libevent is used. */
void event_memory_setup(void);
/* Room for so many timers at a time: from then on adding one of them never fails for want of memory. */
bool event_memory_timers(struct event_base *base, size_t n);
/* What the loop keeps for a descriptor, which it makes when it first sees it. False: no memory, or it is not open. */
bool event_memory_descriptor(struct event_base *base, int fd);
/* The same for those below `n` that are not open yet. It is never freed: made later, among connections' memory, it
 * would hold every page of that when the connections have gone. */
void event_memory_descriptors(struct event_base *base, unsigned n);
bool event_memory_begin(void);
bool event_memory_end(void);

#endif
