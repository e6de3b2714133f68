#include "base/spare.h"

#include <pthread.h>
#include <stdint.h>

#include "base/secret.h"

enum { UNIT = 256, UNITS = 2048 }; /* 512 KiB */

static struct {
    pthread_mutex_t lock;
    unsigned char *at;
    uint16_t run[UNITS]; /* of a block's first unit: how many it has; of the others 1: taken; 0: free */
    size_t free;
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool spare_setup(void)
{
    if (!spare.at && (spare.at = secret_alloc((size_t)UNITS * UNIT)))
        spare.free = UNITS;
    return spare.at != NULL;
}

bool spare_owns(const void *p)
{
    const uintptr_t from = (uintptr_t)spare.at;
    return from && (uintptr_t)p - from < (uintptr_t)UNITS * UNIT;
}

/* The first free units in a row; UNITS: there are not so many. */
static size_t spare_find(size_t n)
{
    size_t row = 0;
    for (size_t i = 0; i < UNITS; i++) {
        row = spare.run[i] ? 0 : row + 1;
        if (row == n)
            return i + 1 - n;
    }
    return UNITS;
}

void *spare_take(size_t n)
{
    const size_t units = n ? (n + UNIT - 1) / UNIT : 1;
    if (!spare.at || n > SPARE_MOST)
        return NULL;
    pthread_mutex_lock(&spare.lock);
    const size_t first = spare_find(units);
    for (size_t i = 0; first < UNITS && i < units; i++)
        spare.run[first + i] = i ? 1 : (uint16_t)units;
    spare.free -= first < UNITS ? units : 0;
    pthread_mutex_unlock(&spare.lock);
    return first < UNITS ? spare.at + first * UNIT : NULL;
}

static size_t spare_unit(const void *p)
{
    return ((uintptr_t)p - (uintptr_t)spare.at) / UNIT;
}

size_t spare_size(const void *p)
{
    return (size_t)spare.run[spare_unit(p)] * UNIT;
}

void spare_give(void *p)
{
    const size_t first = spare_unit(p), units = spare.run[first];
    secret_wipe(p, units * UNIT);
    pthread_mutex_lock(&spare.lock);
    for (size_t i = 0; i < units; i++)
        spare.run[first + i] = 0;
    spare.free += units;
    pthread_mutex_unlock(&spare.lock);
}

size_t spare_left(void)
{
    pthread_mutex_lock(&spare.lock);
    const size_t left = spare.free * UNIT;
    pthread_mutex_unlock(&spare.lock);
    return left;
}
