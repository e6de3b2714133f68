/*
 * How the allocator is to behave in a process that serves.
 */
#ifndef KMSGATE_BASE_HEAP_H
#define KMSGATE_BASE_HEAP_H

/* Once, before threads. Blocks of an exchange come and go by the thousand a second: the allocator must not hand the
 * heap's end back to the system, and ask for it again, with each of them. What a flood took is still given back. */
void heap_setup(void);

#endif
