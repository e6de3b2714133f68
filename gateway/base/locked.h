/*
 * Memory for the keys of an exchange while they are in clear: locked (never swapped), in no dump, empty in a fork,
 * between pages that nobody may touch, and wiped when it is given back. Safe between threads.
 *
 *     struct errand *e = locked_alloc(sizeof *e);        zeroed; NULL: no memory
 *     ...
 *     locked_free(e);
 *
 *     struct locked_thread t;                            what it and libraries leave on its stack is held, too
 *     if (!locked_thread_start(&t, run, arg)) return false;
 *     locked_thread_join(&t);
 *
 * Where the system locks no more (RLIMIT_MEMLOCK), memory stays unlocked, which locked_missing() tells: a gateway that
 * refuses is worse than a key that can swap. Builds with a sanitizer take it all from their own heap, and wipe it.
 */
#ifndef KMSGATE_BASE_LOCKED_H
#define KMSGATE_BASE_LOCKED_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

void *locked_alloc(size_t n);
void locked_free(void *p); /* NULL is fine */
/* For the allocators of libraries: the same out of these pages alone, NULL where they have no more (never any in a
 * build with a sanitizer); whether a block is one of those, which locked_free() takes back; how long it is at least.
 * */
void *locked_take(size_t n);
bool locked_owns(const void *p);
size_t locked_size(const void *p);

/* Pages that somebody else mapped: locked, in no dump, empty in a fork; told of by locked_missing(). False: not
 * locked. */
bool locked_pages(void *p, size_t n);
/* Before they are unmapped. `held`: what locked_pages() said. */
void locked_pages_end(size_t n, bool held);

/* For tests: a build with a sanitizer does as all others. Before all else. */
void locked_use_pages(void);

/* Bytes that are to be locked and are not, now. */
size_t locked_missing(void);
/* What a process with so many threads of locked_thread_start() asks the system to lock, at least. */
size_t locked_need(size_t threads);
/* What the system lets this process lock: RLIMIT_MEMLOCK; SIZE_MAX: all it wants. `given_up`: a capability that is to
 * be given up does not count. */
size_t locked_limit(bool given_up);

/* A thread whose stack is locked. */
struct locked_thread {
    pthread_t id;
    void *stack; /* NULL: the system's */
    bool held;
};
bool locked_thread_start(struct locked_thread *t, void *(*run)(void *), void *arg);
void locked_thread_join(struct locked_thread *t);

#endif
