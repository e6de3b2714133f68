#include "base/block.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum {
    SMALLEST = 128, /* of less the C library keeps enough itself */
    SIZES = 17,     /* 128, 192, 256, 384 ... 32768 */
    NOT_KEPT = SIZES,
};

/* Stands before what is handed out. */
struct block {
    union {
        struct block *next; /* of those that are kept */
        size_t size;        /* of one in use: which one; NOT_KEPT: larger than all */
    };
    max_align_t here[];
};
_Static_assert(sizeof(struct block) % _Alignof(max_align_t) == 0, "what follows is aligned");

struct blocks {
    struct block *kept[SIZES];
    size_t bytes;
    bool ends; /* they are freed at the thread's end */
};
static _Thread_local struct blocks own;
static pthread_key_t block_key;
static pthread_once_t block_once = PTHREAD_ONCE_INIT;
static bool block_key_made;
static size_t keeps; /* bytes; set before there are threads */

static size_t size_bytes(size_t size)
{
    return ((size % 2 ? 3u : 2u) * (size_t)SMALLEST / 2) << size / 2;
}

/* The smallest of at least n bytes. */
static size_t size_of(size_t n)
{
    if (n <= SMALLEST)
        return 0;
    const unsigned log = 63 - (unsigned)__builtin_clzll(n - 1); /* 2^log < n <= 2^(log + 1) */
    const size_t size = 2 * (log - 7);
    _Static_assert(SMALLEST == 1 << 7, "the first of them");
    return size + (n > (size_t)3 << (log - 1) ? 2 : 1);
}

void block_keep(size_t bytes)
{
    keeps = bytes;
}

static void blocks_end(void *arg)
{
    struct blocks *b = arg;
    for (size_t size = 0; size < SIZES; size++)
        for (struct block *next; b->kept[size]; b->kept[size] = next) {
            next = b->kept[size]->next;
            free(b->kept[size]);
        }
    b->bytes = 0;
    b->ends = false;
}

static void make_key(void)
{
    block_key_made = pthread_key_create(&block_key, blocks_end) == 0;
}

void block_thread_end(void)
{
    if (own.ends)
        (void)pthread_setspecific(block_key, NULL);
    blocks_end(&own);
}

/* Once in a thread that keeps any. */
static bool will_end(void)
{
    (void)pthread_once(&block_once, make_key);
    own.ends = block_key_made && pthread_setspecific(block_key, &own) == 0;
    return own.ends;
}

void *block_take(size_t n)
{
    if (n > SIZE_MAX - sizeof(struct block))
        return NULL;
    const size_t size = size_of(n + sizeof(struct block));
    struct block *b = size < SIZES ? own.kept[size] : NULL;
    if (b) {
        own.kept[size] = b->next;
        own.bytes -= size_bytes(size);
    } else {
        b = malloc(size < SIZES ? size_bytes(size) : n + sizeof(struct block));
        if (!b)
            return NULL;
    }
    b->size = size < SIZES ? size : NOT_KEPT;
    return b->here;
}

void block_give(void *p)
{
    if (!p)
        return;
    struct block *b = (struct block *)((unsigned char *)p - offsetof(struct block, here));
    const size_t size = b->size;
    if (size == NOT_KEPT || own.bytes + size_bytes(size) > keeps || (!own.ends && !will_end())) {
        free(b);
        return;
    }
    b->next = own.kept[size];
    own.kept[size] = b;
    own.bytes += size_bytes(size);
}
