#include "base/secret.h"

#include <openssl/crypto.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/locked.h"

void secret_wipe(void *p, size_t n)
{
    if (!p)
        return;
    memset(p, 0, n); /* in place, where n is known and small: explicit_bzero() is two calls each time */
    __asm__ __volatile__("" : : "r"(p) : "memory"); /* for all that a compiler knows, what is in here reads them */
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
union secret_head {
    bool held; /* locked */
    max_align_t alignment;
};

void *secret_alloc(size_t n)
{
    const size_t all = n + sizeof(union secret_head);
    union secret_head *p = all < n ? MAP_FAILED : mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                                       -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    p->held = locked_pages(p, all);
    return p + 1;
}

void secret_free(void *p, size_t n)
{
    if (!p)
        return;
    union secret_head *head = (union secret_head *)p - 1;
    secret_wipe(p, n);
    locked_pages_end(n + sizeof *head, head->held);
    munmap(head, n + sizeof *head);
}

void secret_harden_process(void)
{
    const struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
#ifndef KMSGATE_TRACED /* the leak sanitizer traces its own process */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}
