/*
 * Key material. A key type has no print function: nothing in the program formats one, except `kmsgate keys export
 * --with-secrets` and `kmsgate request|open --with-secrets`, which ask for the bytes by name.
 */
#ifndef KMSGATE_BASE_SECRET_H
#define KMSGATE_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEY_BYTES = 32 }; /* InK, TrK and the master key: 256 bits each (TS 33.180 D.3) */

struct secret_key {
    uint8_t b[KEY_BYTES];
};

/* Overwrites n bytes so that the compiler cannot leave it out. NULL is fine. */
void secret_wipe(void *p, size_t n);
/* Constant time in the contents. */
bool secret_equal(const void *a, const void *b, size_t n);
/* For __attribute__((cleanup)): wipes a struct secret_key. */
void secret_key_clear(struct secret_key *key);
#define SECRET_CLEANUP __attribute__((cleanup(secret_key_clear)))
/* A zeroed block for keys that stay: in pages of its own, locked (if the limit allows), in no core dump, empty in a
 * fork; wiped by secret_free. What comes and goes with an exchange: locked.h. */
void *secret_alloc(size_t n);
void secret_free(void *p, size_t n);
/* No core dumps, no ptrace by others: called first in main(). */
void secret_harden_process(void);

#endif
