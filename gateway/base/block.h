/*
 * Blocks of an exchange. Each thread keeps those that were given back for the next one that asks for as much: of what
 * is larger than a kilobyte the C library's allocator would put together whatever is free beside it, and take it apart
 * again, with each request.
 *
 *     struct judgement *j = block_take(sizeof *j);
 *     block_give(j);
 *
 * Nothing is wiped: for what holds no key in clear (else: locked.h).
 */
#ifndef KMSGATE_BASE_BLOCK_H
#define KMSGATE_BASE_BLOCK_H

#include <stddef.h>

/* How many bytes of blocks given back each thread keeps: none, until who serves has said so, before threads. */
void block_keep(size_t bytes);
/* n bytes, aligned as malloc()'s are, with anything in them; NULL without memory. Given back by block_give() alone. */
void *block_take(size_t n);
/* In any thread, which keeps or frees it. NULL is fine. */
void block_give(void *p);
/* Frees what this thread keeps; done at its end, too, but for the process's first thread. */
void block_thread_end(void);

#endif
