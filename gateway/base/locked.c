#include "base/locked.h"

#include <linux/capability.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/secret.h"

/*
 * One range of addresses, taken from the system in spans. A span is cut into blocks of one size, a power of two, or is
 * part of a larger block. Which are in use stands outside: no overflow in here reaches it.
 */
enum {
    SPAN = 64 << 10,
    SPANS = 16 << 10, /* 1 GiB of addresses; beyond it, the heap */
    SMALLEST = 64,
    CLASSES = 10,   /* to 32 KiB */
    EMPTY_KEPT = 8, /* spans that stay though nothing is in them */
    STACK = 256 << 10,
    GUARD = 64 << 10,
    ARENA_LEAST = 2 << 20, /* what some dozens of exchanges hold at a time */
};
enum span_use { SPAN_FREE, SPAN_BLOCKS, SPAN_LARGE };
#define NO_BLOCK UINT16_MAX
#define NO_SPAN UINT32_MAX

struct span {
    uint8_t use, class;
    bool committed, held;
    uint16_t used, fresh, free; /* blocks; from `fresh` on none was ever handed out; the first of those given back */
    uint32_t next, prev;        /* of the class's spans with room */
    uint32_t length;            /* SPAN_LARGE: in spans, at the first */
};

static struct {
    pthread_mutex_t lock;
    unsigned char *at; /* NULL: there is none, the heap is used */
    struct span spans[SPANS];
    uint32_t with_room[CLASSES];
    uint32_t lowest; /* below it none is free */
    uint32_t empty;  /* committed and free */
} arena = {.lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t arena_once = PTHREAD_ONCE_INIT;
static _Atomic size_t missing;
#ifdef KMSGATE_TRACED
static bool use_pages = false;
#else
static bool use_pages = true;
#endif

void locked_use_pages(void)
{
    use_pages = true;
}

bool locked_pages(void *p, size_t n)
{
    (void)madvise(p, n, MADV_DONTDUMP);
    (void)madvise(p, n, MADV_WIPEONFORK);
    const bool held = mlock2(p, n, MLOCK_ONFAULT) == 0 || mlock(p, n) == 0; /* the second: an older kernel */
    if (!held)
        atomic_fetch_add(&missing, n);
    return held;
}

void locked_pages_end(size_t n, bool held)
{
    if (!held)
        atomic_fetch_sub(&missing, n);
}

size_t locked_missing(void)
{
    return atomic_load(&missing);
}

size_t locked_need(size_t threads)
{
    return ARENA_LEAST + threads * STACK;
}

size_t locked_limit(bool given_up)
{
    struct rlimit limit = {0, 0};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}};
    if (!given_up && syscall(SYS_capget, &head, caps) == 0 && caps[0].effective & 1u << CAP_IPC_LOCK)
        return SIZE_MAX;
    return getrlimit(RLIMIT_MEMLOCK, &limit) != 0 ? 0 : limit.rlim_cur == RLIM_INFINITY ? SIZE_MAX : limit.rlim_cur;
}

static void *heap_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    if (p && use_pages)
        atomic_fetch_add(&missing, malloc_usable_size(p));
    return p;
}

static void heap_free(void *p)
{
    if (use_pages)
        atomic_fetch_sub(&missing, malloc_usable_size(p));
    secret_wipe(p, malloc_usable_size(p));
    free(p);
}

static void arena_make(void)
{
    const size_t n = (size_t)SPANS * SPAN;
    unsigned char *p = mmap(NULL, n + 2 * (size_t)GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return;
    for (size_t i = 0; i < CLASSES; i++)
        arena.with_room[i] = NO_SPAN;
    arena.at = p + GUARD;
}

bool locked_owns(const void *p)
{
    const uintptr_t from = (uintptr_t)arena.at; /* set before there is any block */
    return from && (uintptr_t)p - from < (uintptr_t)SPANS * SPAN;
}

static size_t class_size(unsigned class)
{
    return (size_t)SMALLEST << class;
}

static unsigned class_of(size_t n)
{
    unsigned class = 0;
    while (class_size(class) < n)
        class++;
    return class;
}

static uint32_t span_of(const void *p)
{
    return (uint32_t)(((uintptr_t)p - (uintptr_t)arena.at) / SPAN);
}

static unsigned char *span_at(uint32_t i)
{
    return arena.at + (size_t)i * SPAN;
}

static bool span_commit(uint32_t i)
{
    struct span *s = &arena.spans[i];
    if (s->committed) {
        arena.empty--;
        return true;
    }
    if (mprotect(span_at(i), SPAN, PROT_READ | PROT_WRITE) != 0)
        return false;
    s->held = locked_pages(span_at(i), SPAN);
    s->committed = true;
    return true;
}

/* All of it is zero again. */
static void span_give(uint32_t i)
{
    struct span *s = &arena.spans[i];
    s->use = SPAN_FREE;
    if (i < arena.lowest)
        arena.lowest = i;
    if (arena.empty < EMPTY_KEPT) {
        arena.empty++;
        return;
    }
    if (s->held)
        (void)munlock(span_at(i), SPAN);
    (void)madvise(span_at(i), SPAN, MADV_DONTNEED);
    (void)mprotect(span_at(i), SPAN, PROT_NONE);
    locked_pages_end(SPAN, s->held);
    s->committed = s->held = false;
}

/* The first of n free spans in a row, to be used as that; NO_SPAN: there are none. */
static uint32_t spans_take(uint32_t n, enum span_use use)
{
    uint32_t row = 0, i = arena.lowest;
    while (i < SPANS && row < n)
        row = arena.spans[i++].use == SPAN_FREE ? row + 1 : 0;
    const uint32_t first = i - n;
    if (row < n)
        return NO_SPAN;
    for (uint32_t k = 0; k < n; k++) {
        if (!span_commit(first + k)) {
            while (k)
                span_give(first + --k);
            return NO_SPAN;
        }
        arena.spans[first + k].use = (uint8_t)use;
    }
    if (first == arena.lowest)
        arena.lowest = first + n;
    return first;
}

static void class_add(uint32_t i)
{
    struct span *s = &arena.spans[i];
    s->prev = NO_SPAN;
    s->next = arena.with_room[s->class];
    if (s->next != NO_SPAN)
        arena.spans[s->next].prev = i;
    arena.with_room[s->class] = i;
}

static void class_take_out(uint32_t i)
{
    const struct span *s = &arena.spans[i];
    if (s->next != NO_SPAN)
        arena.spans[s->next].prev = s->prev;
    if (s->prev != NO_SPAN)
        arena.spans[s->prev].next = s->next;
    else
        arena.with_room[s->class] = s->next;
}

/* A free block begins with the number of the next one. */
static void *block_take(unsigned class)
{
    const uint16_t blocks = (uint16_t)(SPAN / class_size(class));
    uint32_t i = arena.with_room[class];
    if (i == NO_SPAN) {
        if ((i = spans_take(1, SPAN_BLOCKS)) == NO_SPAN)
            return NULL;
        struct span *fresh = &arena.spans[i];
        fresh->class = (uint8_t)class;
        fresh->used = fresh->fresh = 0;
        fresh->free = NO_BLOCK;
        class_add(i);
    }
    struct span *s = &arena.spans[i];
    const uint16_t at = s->free != NO_BLOCK ? s->free : s->fresh++;
    unsigned char *p = span_at(i) + at * class_size(class);
    if (at == s->free)
        memcpy(&s->free, p, sizeof s->free);
    memset(p, 0, sizeof s->free);
    if (++s->used == blocks)
        class_take_out(i);
    return p;
}

static void block_give(uint32_t i, unsigned char *p)
{
    struct span *s = &arena.spans[i];
    const size_t size = class_size(s->class);
    memcpy(p, &s->free, sizeof s->free);
    s->free = (uint16_t)((size_t)(p - span_at(i)) / size);
    if (s->used-- == SPAN / size)
        class_add(i);
    if (s->used || (s->next == NO_SPAN && s->prev == NO_SPAN)) /* the last one with room is kept: it is used at once */
        return;
    for (uint16_t k = 0; k < s->fresh; k++)
        memset(span_at(i) + k * size, 0, sizeof s->free);
    class_take_out(i);
    span_give(i);
}

static void *large_take(size_t n)
{
    const uint32_t length = (uint32_t)((n + SPAN - 1) / SPAN), i = spans_take(length, SPAN_LARGE);
    if (i == NO_SPAN)
        return NULL;
    arena.spans[i].length = length;
    return span_at(i);
}

void *locked_take(size_t n)
{
    void *p = NULL;
    if (use_pages)
        (void)pthread_once(&arena_once, arena_make);
    if (arena.at && n <= (size_t)SPANS * SPAN) {
        pthread_mutex_lock(&arena.lock);
        p = n <= class_size(CLASSES - 1) ? block_take(class_of(n)) : large_take(n);
        pthread_mutex_unlock(&arena.lock);
    }
    return p;
}

void *locked_alloc(size_t n)
{
    void *p = locked_take(n);
    return p ? p : heap_alloc(n);
}

/* Of a block in use: nobody else changes what is read here. */
size_t locked_size(const void *p)
{
    const struct span *s = &arena.spans[span_of(p)];
    return s->use == SPAN_LARGE ? (size_t)s->length * SPAN : class_size(s->class);
}

void locked_free(void *p)
{
    if (!p)
        return;
    if (!locked_owns(p)) {
        heap_free(p);
        return;
    }
    const uint32_t i = span_of(p);
    secret_wipe(p, locked_size(p));
    pthread_mutex_lock(&arena.lock);
    if (arena.spans[i].use == SPAN_LARGE)
        for (uint32_t k = arena.spans[i].length; k; k--)
            span_give(i + k - 1);
    else
        block_give(i, p);
    pthread_mutex_unlock(&arena.lock);
}

bool locked_thread_start(struct locked_thread *t, void *(*run)(void *), void *arg)
{
    pthread_attr_t attr;
    t->stack = NULL;
    if (!use_pages) /* frames are larger, too */
        return pthread_create(&t->id, NULL, run, arg) == 0;
    unsigned char *p = mmap(NULL, GUARD + STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (p == MAP_FAILED)
        return false;
    bool ok = mprotect(p + GUARD, STACK, PROT_READ | PROT_WRITE) == 0 && pthread_attr_init(&attr) == 0;
    t->stack = p;
    t->held = locked_pages(p + GUARD, STACK);
    if (ok) {
        ok = pthread_attr_setstack(&attr, p + GUARD, STACK) == 0 && pthread_create(&t->id, &attr, run, arg) == 0;
        pthread_attr_destroy(&attr);
    }
    if (ok)
        return true;
    locked_pages_end(STACK, t->held);
    munmap(p, GUARD + STACK);
    return false;
}

void locked_thread_join(struct locked_thread *t)
{
    pthread_join(t->id, NULL);
    if (!t->stack)
        return;
    secret_wipe((unsigned char *)t->stack + GUARD, STACK);
    locked_pages_end(STACK, t->held);
    munmap(t->stack, GUARD + STACK);
    t->stack = NULL;
}
