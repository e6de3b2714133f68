/*
 * Allocators whose memory ends when the test says so, for the libraries that take some.
 *
 *     #include "../ending_memory.h"
 *     static bool denied(void) { ... }      is this allocation one that fails?
 *     CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free);
 *     xmlMemSetup(free, limited_malloc, limited_realloc, limited_strdup);
 *
 * With ENDING_MEMORY_WRAPPED malloc() itself asks, of our own code, too (linked with --wrap), and libraries need not.
 */
#ifndef TEST_ENDING_MEMORY_H
#define TEST_ENDING_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static bool denied(void);

#ifdef ENDING_MEMORY_WRAPPED
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_malloc(size_t n)
{
    return denied() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return denied() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return denied() ? NULL : __real_realloc(p, n);
}

#define limited_malloc malloc
#define limited_realloc realloc
#else
static inline void *limited_malloc(size_t n)
{
    return denied() ? NULL : malloc(n);
}

static inline void *limited_realloc(void *p, size_t n)
{
    return denied() ? NULL : realloc(p, n);
}
#endif

static inline char *limited_strdup(const char *s)
{
    return denied() ? NULL : strdup(s);
}

static inline void *crypto_malloc(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    return limited_malloc(n);
}

static inline void *crypto_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file, (void)line;
    return limited_realloc(p, n);
}

static inline void crypto_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    free(p);
}

#endif
