#include "base/random.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "base/secret.h"

static atomic_uint forks; /* a child has the same block as its parent: it takes a new one */
static pthread_once_t watched = PTHREAD_ONCE_INIT;

static void random_forked(void)
{
    atomic_fetch_add(&forks, 1);
}

static void random_watch(void)
{
    (void)pthread_atfork(NULL, NULL, random_forked);
}

bool random_bytes(void *to, size_t n)
{
    static _Thread_local uint8_t block[RANDOM_BLOCK];
    static _Thread_local size_t left;
    static _Thread_local unsigned seen;
    const unsigned now = atomic_load_explicit(&forks, memory_order_relaxed);
    if (n > RANDOM_BLOCK)
        return false;
    if (left < n || seen != now) {
        pthread_once(&watched, random_watch);
        left = 0;
        if (RAND_bytes(block, sizeof block) != 1)
            return false;
        left = sizeof block;
        seen = now;
    }
    left -= n;
    memcpy(to, block + left, n);
    secret_wipe(block + left, n);
    return true;
}
