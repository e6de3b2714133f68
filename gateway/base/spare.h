/*
 * Memory set aside, for libraries that crash, leak or lose a part of what they make where an allocation of theirs fails
 * (libevent while it makes a bufferevent, libxml2 and xmlsec nearly everywhere). Who takes from here refuses what he
 * was about, once the library has returned: this is for coming out whole, not for going on. Safe between threads.
 *
 *     void *p = malloc(n);
 *     if (!p && (p = spare_take(n))) failed = true;
 */
#ifndef KMSGATE_BASE_SPARE_H
#define KMSGATE_BASE_SPARE_H

#include <stdbool.h>
#include <stddef.h>

/* Once, before threads, in a process that serves; without it there is none. In locked pages: keys may pass through. */
bool spare_setup(void);
/* NULL: nothing in one piece is left; never more than SPARE_MOST. */
enum { SPARE_MOST = 64 << 10 };
void *spare_take(size_t n);
bool spare_owns(const void *p);
size_t spare_size(const void *p); /* of a block of spare_take(), at least what was asked for */
void spare_give(void *p);         /* wipes it */
/* Bytes that nobody has. */
size_t spare_left(void);

#endif
