/*
 * Memory that ends, in a gateway that serves: loaded by LD_PRELOAD. Once the file that SCARCE names is there, each call
 * of malloc, calloc and realloc whose number since then is what the file holds fails, and all behind it while the
 * second number is above it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <unistd.h>

/* Shared with the test: which allocation fails (0: none), how many in a row, how many there were since it was set; how
 * many blocks are in use. */
struct scarce {
    _Atomic uint64_t at, many, seen, live;
};
static struct scarce *shared;

static void *(*real_malloc)(size_t), *(*real_calloc)(size_t, size_t), *(*real_realloc)(void *, size_t);
static _Alignas(16) char early[1 << 16]; /* dlsym() asks for memory before it can say where that is */
static size_t early_n;

static void *early_take(size_t n)
{
    void *p = early + early_n;
    early_n += (n + 15) & ~(size_t)15;
    return early_n <= sizeof early ? p : NULL;
}

static int denied(void)
{
    const uint64_t at = shared ? atomic_load(&shared->at) : 0;
    if (!at)
        return 0;
    const uint64_t n = atomic_fetch_add(&shared->seen, 1) + 1;
    return n >= at && n < at + atomic_load(&shared->many);
}

static void *counted(void *p)
{
    if (p && shared)
        atomic_fetch_add(&shared->live, 1);
    return p;
}

void *malloc(size_t n)
{
    if (!real_malloc)
        return early_take(n);
    if (denied())
        return errno = ENOMEM, NULL;
    return counted(real_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    if (!real_calloc)
        return early_take(n * size); /* zeroed: nobody gives any back */
    if (denied())
        return errno = ENOMEM, NULL;
    return counted(real_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (denied())
        return errno = ENOMEM, NULL;
    return p ? real_realloc(p, n) : counted(real_realloc(p, n));
}

void free(void *p)
{
    static void (*real_free)(void *);
    if ((char *)p >= early && (char *)p < early + sizeof early)
        return;
    if (!real_free)
        *(void **)&real_free = dlsym(RTLD_NEXT, "free");
    if (p && shared)
        atomic_fetch_sub(&shared->live, 1);
    real_free(p);
}

__attribute__((constructor)) static void start(void)
{
    const char *file = getenv("SCARCE");
    void *found = dlsym(RTLD_NEXT, "calloc");
    *(void **)&real_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&real_malloc = dlsym(RTLD_NEXT, "malloc");
    memcpy(&real_calloc, &found, sizeof found);
    const int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    shared = p == MAP_FAILED ? NULL : p;
}
