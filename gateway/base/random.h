/*
 * Random bytes for names, such as a request's ID: taken from a block that each thread keeps, since a question to the
 * generator costs a system call. Not for keys: those ask OpenSSL themselves.
 *
 *     uint8_t id[16];
 *     if (!random_bytes(id, sizeof id)) return REASON_INTERNAL;
 */
#ifndef KMSGATE_BASE_RANDOM_H
#define KMSGATE_BASE_RANDOM_H

#include <stdbool.h>
#include <stddef.h>

enum { RANDOM_BLOCK = 4096 };

/* n up to RANDOM_BLOCK. No byte is handed out twice, also not in a child of fork(). False: the generator failed. */
bool random_bytes(void *to, size_t n) __attribute__((warn_unused_result));

#endif
