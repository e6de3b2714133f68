#include "http/shares.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/timestamp.h"

enum {
    ASKED_S = 10,    /* a resource counts as asked for so long after its last request */
    USER_PART = 16,  /* of in_flight */
    FIRST_SIZE = 64, /* places of the table, a power of two */
};

struct shares {
    atomic_uint half, part;
    uint64_t seed[2]; /* so that nobody can make two users meet on purpose */
    atomic_uint running[SHARES_KINDS];
    _Atomic int64_t asked_us[SHARES_KINDS]; /* monotonic; 0: never */
    pthread_mutex_t lock; /* of the table */
    struct holder {
        uint64_t who; /* 0: a free place */
        unsigned n;
    } *table;
    size_t size, used;
};

void shares_limit(struct shares *s, unsigned in_flight)
{
    atomic_store(&s->half, in_flight > 1 ? in_flight / 2 : 1);
    atomic_store(&s->part, in_flight > USER_PART ? in_flight / USER_PART : 1);
}

struct shares *shares_new(unsigned in_flight)
{
    struct shares *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    shares_limit(s, in_flight);
    s->size = FIRST_SIZE;
    s->table = calloc(s->size, sizeof *s->table);
    pthread_mutex_init(&s->lock, NULL);
    if (s->table && random_bytes(s->seed, sizeof s->seed))
        return s;
    shares_free(s);
    return NULL;
}

void shares_free(struct shares *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s->table);
    free(s);
}

static bool others_ask(struct shares *s, unsigned kind, int64_t now)
{
    for (unsigned i = 0; i < SHARES_KINDS; i++) {
        const int64_t asked = atomic_load_explicit(&s->asked_us[i], memory_order_relaxed);
        if (i != kind && asked && now - asked < ASKED_S * US_PER_S)
            return true;
    }
    return false;
}

bool shares_begin(struct shares *s, unsigned kind)
{
    const unsigned before = atomic_fetch_add(&s->running[kind], 1);
    const int64_t now = time_mono_rough_us();
    atomic_store_explicit(&s->asked_us[kind], now, memory_order_relaxed);
    return before < atomic_load(&s->half) || !others_ask(s, kind, now);
}

void shares_end(struct shares *s, unsigned kind)
{
    atomic_fetch_sub(&s->running[kind], 1);
}

/* FNV-1a over a seed, then mixed (the finalizer of SplitMix64). */
static uint64_t shares_hash(const struct shares *s, char kind, struct str bytes)
{
    uint64_t h = s->seed[0] ^ (uint64_t)(unsigned char)kind;
    for (size_t i = 0; i < bytes.n; i++)
        h = (h ^ (unsigned char)bytes.p[i]) * UINT64_C(0x100000001b3);
    h ^= s->seed[1];
    h = (h ^ (h >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 27)) * UINT64_C(0x94d049bb133111eb);
    h ^= h >> 31;
    return h ? h : 1;
}

uint64_t shares_user(const struct shares *s, struct str user)
{
    return user.n ? shares_hash(s, 'u', user) : 0;
}

uint64_t shares_source(const struct shares *s, const struct ip *source)
{
    static const uint8_t FOUR[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (!source->known)
        return 0;
    const size_t n = memcmp(source->b, FOUR, sizeof FOUR) == 0 ? sizeof source->b : 8;
    return shares_hash(s, 's', (struct str){(const char *)source->b, n});
}

/* The holder's place, or the free one where it would be. There is always a free one. */
static size_t shares_find(const struct shares *s, uint64_t who)
{
    size_t i = (size_t)who & (s->size - 1);
    while (s->table[i].who && s->table[i].who != who)
        i = (i + 1) & (s->size - 1);
    return i;
}

/* At most half full. */
static bool shares_grow(struct shares *s)
{
    if (s->used < s->size / 2)
        return true;
    struct shares larger = {.size = s->size * 2};
    larger.table = calloc(larger.size, sizeof *larger.table);
    if (!larger.table)
        return false;
    for (size_t i = 0; i < s->size; i++)
        if (s->table[i].who)
            larger.table[shares_find(&larger, s->table[i].who)] = s->table[i];
    free(s->table);
    s->table = larger.table;
    s->size = larger.size;
    return true;
}

bool shares_enter(struct shares *s, uint64_t who)
{
    if (!who)
        return true;
    pthread_mutex_lock(&s->lock);
    bool ok = shares_grow(s);
    if (ok) {
        struct holder *h = &s->table[shares_find(s, who)];
        ok = h->n < atomic_load(&s->part);
        if (ok) {
            s->used += !h->who;
            h->who = who;
            h->n++;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* Takes a place out and moves up what had been put further on because of it. */
static void vacate(struct shares *s, size_t hole)
{
    const size_t mask = s->size - 1;
    s->used--;
    for (size_t i = (hole + 1) & mask; s->table[i].who; i = (i + 1) & mask) {
        const size_t due = (size_t)s->table[i].who & mask;
        if (((i - due) & mask) < ((i - hole) & mask))
            continue;
        s->table[hole] = s->table[i];
        hole = i;
    }
    s->table[hole] = (struct holder){0, 0};
}

void shares_leave(struct shares *s, uint64_t who)
{
    if (!who)
        return;
    pthread_mutex_lock(&s->lock);
    const size_t i = shares_find(s, who);
    if (s->table[i].who && --s->table[i].n == 0)
        vacate(s, i);
    pthread_mutex_unlock(&s->lock);
}
