#include "base/secret.h"

#include <malloc.h>
#include <openssl/crypto.h>
#include <string.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

void secret_wipe(void *p, size_t n)
{
    if (p)
        explicit_bzero(p, n);
}

bool secret_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

void secret_key_clear(struct secret_key *key)
{
    secret_wipe(key, sizeof *key);
}

/* Pages of their own: what is locked or left out of a dump is always whole pages. */
void *secret_alloc(size_t n)
{
    void *p = mmap(NULL, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)mlock(p, n); /* beyond the limit it stays unlocked: a gateway without keys is worse than a key that can
                        * swap */
    (void)madvise(p, n, MADV_DONTDUMP);
    return p;
}

void secret_free(void *p, size_t n)
{
    if (!p)
        return;
    secret_wipe(p, n);
    munmap(p, n ? n : 1);
}

void secret_heap_free(void *p)
{
    if (p)
        secret_wipe(p, malloc_usable_size(p));
    free(p);
}

void *secret_heap_realloc(void *p, size_t n)
{
    const size_t have = p ? malloc_usable_size(p) : 0;
    void *to = malloc(n);
    if (!to || !p)
        return to;
    memcpy(to, p, have < n ? have : n);
    secret_heap_free(p);
    return to;
}

void secret_harden_process(void)
{
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
#ifndef KMSGATE_TRACED /* the leak sanitizer traces its own process */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}
