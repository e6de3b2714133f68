#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "base/aside.h"
#include "base/crypto.h"

static _Thread_local unsigned depth;

void crypto_keys_begin(void)
{
    depth++;
}

void crypto_keys_end(void)
{
    depth--;
}

#ifdef KMSGATE_TRACED
bool crypto_memory_setup(void)
{
    return true;
}
#else
static void *memory_take(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    void *p = depth ? locked_take(n) : NULL;
    if (p || (p = malloc(n)))
        return p;
    return depth ? spare_take(n) : NULL; /* xmlsec leaks where OpenSSL finds none */
}

static void memory_give(void *p, const char *file, int line)
{
    (void)file, (void)line;
    if (!aside_give(p))
        free(p);
}

static void *memory_move(void *p, size_t n, const char *file, int line)
{
    if (!p)
        return memory_take(n, file, line);
    const size_t have = aside_size(p);
    if (!have)
        return realloc(p, n);
    void *to = memory_take(n, file, line);
    if (!to)
        return NULL;
    memcpy(to, p, have < n ? have : n);
    memory_give(p, file, line);
    return to;
}

bool crypto_memory_setup(void)
{
    return CRYPTO_set_mem_functions(memory_take, memory_move, memory_give) == 1;
}
#endif
