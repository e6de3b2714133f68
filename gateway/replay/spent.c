#include "replay/spent.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/pace.h"

enum {
    SHARDS = 64,        /* more than any machine has cores: two users seldom meet at a lock */
    DIGEST = REPLAY_DIGEST,
    USER_SHARE = 16,    /* one user gets at most this part of the memory */
    FIRST_BUCKETS = 64, /* of a shard */
    FORGOTTEN = 2,      /* with each that is added: requests of one second end together, and nobody waits for all */
    AT_ONCE = 32,       /* under a lock that others wait for */
    TIDY_US = 100000,
};

struct user {
    struct user *next;
    unsigned entries;
    uint8_t digest[DIGEST];
};

struct entry {
    struct entry *next;
    struct user *user;
    int64_t wall_us; /* TIME_NONE: its Time has a zone */
    uint32_t at; /* in the heap */
    uint8_t digest[DIGEST];
};

/* The Time until which an entry stands beside it: what is moved up and down is told apart without looking at entries,
 * each of which would be somewhere else in memory. */
struct place {
    int64_t time_us;
    struct entry *entry;
};

/* Entries stand in a chain of their bucket and in a heap with the oldest on top. */
struct shard {
    pthread_mutex_t lock;
    struct entry **bucket;
    struct user **users;
    size_t buckets; /* of both; a power of two */
    struct place *heap;
    size_t n, heap_cap;
};

struct spent {
    atomic_uint max, max_user;
    _Atomic int64_t floor, walls, retain;
    atomic_size_t count;
    struct shard shard[SHARDS];
};

static struct shard *shard_of(struct spent *r, const uint8_t digest[2][DIGEST])
{
    return &r->shard[digest[0][0] % SHARDS];
}

static size_t slot(const struct shard *s, const uint8_t digest[DIGEST])
{
    uint32_t h;
    memcpy(&h, digest + 4, sizeof h);
    return h & (s->buckets - 1);
}

static bool digest_of(struct str a, const uint8_t *b, size_t b_n, uint8_t out[DIGEST])
{
    uint8_t full[HASH_BYTES];
    const uint64_t a_n = a.n;
    const struct crypto_part parts[] = {{&a_n, sizeof a_n}, {a.p, a.n}, {b, b_n}};
    const bool ok = crypto_sha256_parts(parts, sizeof parts / sizeof *parts, full);
    if (ok)
        memcpy(out, full, DIGEST);
    return ok;
}

static bool spent_same(const uint8_t a[DIGEST], const uint8_t b[DIGEST])
{
    return str_eq((struct str){(const char *)a, DIGEST}, (struct str){(const char *)b, DIGEST});
}

static void heap_put(struct place *h, size_t i, struct place p)
{
    h[i] = p;
    p.entry->at = (uint32_t)i;
}

static void heap_up(struct place *h, size_t i)
{
    const struct place p = h[i];
    for (; i > 0 && p.time_us < h[(i - 1) / 2].time_us; i = (i - 1) / 2)
        heap_put(h, i, h[(i - 1) / 2]);
    heap_put(h, i, p);
}

static void heap_down(struct place *h, size_t n, size_t i)
{
    const struct place p = h[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && h[child + 1].time_us < h[child].time_us)
            child++;
        if (p.time_us <= h[child].time_us)
            break;
        heap_put(h, i, h[child]);
        i = child;
    }
    heap_put(h, i, p);
}

static void drop_user(struct shard *s, struct user *u)
{
    struct user **at = &s->users[slot(s, u->digest)];
    while (*at != u)
        at = &(*at)->next;
    *at = u->next;
    free(u);
}

static void drop_entry(struct spent *r, struct shard *s, struct entry *e)
{
    struct entry **at = &s->bucket[slot(s, e->digest)];
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    const struct place last = s->heap[--s->n];
    if (last.entry != e) {
        heap_put(s->heap, e->at, last);
        heap_up(s->heap, last.entry->at);
        heap_down(s->heap, s->n, last.entry->at);
    }
    if (--e->user->entries == 0)
        drop_user(s, e->user);
    free(e);
    atomic_fetch_sub(&r->count, 1);
}

/* With the floor beyond it; the walls rise before it is forgotten. */
static void spent_drop(struct spent *r, struct shard *s, struct entry *e)
{
    if (e->wall_us != TIME_NONE)
        time_raise(&r->walls, e->wall_us + 1);
    drop_entry(r, s, e);
}

/* So many at most; false when there is no more. Floor and walls rise before anything is forgotten: whoever holds the
 * shard's lock next sees both or neither. */
static bool purge(struct spent *r, struct shard *s, int64_t before, size_t most)
{
    if (s->n && s->heap[0].time_us < before)
        time_raise(&r->floor, before);
    for (; s->n && s->heap[0].time_us < before; most--) {
        if (!most)
            return true;
        spent_drop(r, s, s->heap[0].entry);
    }
    return false;
}

/* As much as others may wait for; false when there is no more. */
static bool purge_portion(struct spent *r, struct shard *s, int64_t before)
{
    pthread_mutex_lock(&s->lock);
    const bool more = purge(r, s, before, AT_ONCE);
    pthread_mutex_unlock(&s->lock);
    return more;
}

/* What other shards no longer need still takes places, of which one is enough. */
static void make_room(struct spent *r, int64_t before)
{
    for (size_t i = 0; i < SHARDS && atomic_load(&r->count) >= atomic_load(&r->max); i++)
        (void)purge_portion(r, &r->shard[i], before);
}

/* Twice the buckets; without memory for them the chains just get longer. */
static void grow_buckets(struct shard *s)
{
    const size_t old = s->buckets;
    struct entry **bucket = calloc(old * 2, sizeof(struct entry *));
    struct user **users = calloc(old * 2, sizeof(struct user *));
    if (!bucket || !users) {
        free(bucket);
        free(users);
        return;
    }
    struct entry **old_bucket = s->bucket;
    struct user **old_users = s->users;
    s->bucket = bucket;
    s->users = users;
    s->buckets = old * 2;
    for (size_t i = 0; i < old; i++) {
        for (struct entry *e = old_bucket[i], *next; e; e = next) {
            struct entry **at = &bucket[slot(s, e->digest)];
            next = e->next;
            e->next = *at;
            *at = e;
        }
        for (struct user *u = old_users[i], *next; u; u = next) {
            struct user **at = &users[slot(s, u->digest)];
            next = u->next;
            u->next = *at;
            *at = u;
        }
    }
    free(old_bucket);
    free(old_users);
}

static bool room_in_heap(struct shard *s)
{
    if (s->n < s->heap_cap)
        return true;
    const size_t cap = s->heap_cap ? s->heap_cap * 2 : FIRST_BUCKETS;
    struct place *heap = realloc(s->heap, cap * sizeof *heap);
    if (!heap)
        return false;
    s->heap = heap;
    s->heap_cap = cap;
    return true;
}

static struct user *find_user(const struct shard *s, const uint8_t digest[DIGEST])
{
    struct user *u = s->users[slot(s, digest)];
    while (u && !spent_same(u->digest, digest))
        u = u->next;
    return u;
}

static struct entry *find_entry(const struct shard *s, const uint8_t digest[DIGEST])
{
    struct entry *e = s->bucket[slot(s, digest)];
    while (e && !spent_same(e->digest, digest))
        e = e->next;
    return e;
}

/* One of the places that all shards share; false when there is none. */
static bool take_place(struct spent *r)
{
    size_t n = atomic_load(&r->count);
    do {
        if (n >= atomic_load(&r->max))
            return false;
    } while (!atomic_compare_exchange_weak(&r->count, &n, n + 1));
    return true;
}

/* With a place taken, which is given back on failure. */
static enum reason remember(struct spent *r, struct shard *s, const uint8_t digest[2][DIGEST],
                            const struct replay_claim *c, int64_t time_us)
{
    const uint8_t *user = digest[0];
    struct user *u = find_user(s, user);
    struct entry *e = NULL;
    if (u && u->entries >= atomic_load(&r->max_user))
        goto full;
    if (s->n >= s->buckets)
        grow_buckets(s);
    e = malloc(sizeof *e);
    if (!e || !room_in_heap(s))
        goto full;
    if (!u) {
        u = calloc(1, sizeof *u);
        if (!u)
            goto full;
        memcpy(u->digest, user, DIGEST);
        u->next = s->users[slot(s, user)];
        s->users[slot(s, user)] = u;
    }
    u->entries++;
    *e = (struct entry){.next = s->bucket[slot(s, digest[1])], .user = u};
    e->wall_us = c->zoneless ? c->wall_us : TIME_NONE;
    memcpy(e->digest, digest[1], DIGEST);
    s->bucket[slot(s, digest[1])] = e;
    s->heap[s->n] = (struct place){time_us, e};
    heap_up(s->heap, s->n++);
    return REASON_OK;
full:
    free(e);
    atomic_fetch_sub(&r->count, 1);
    return REASON_REPLAY_FULL;
}

/* What will be looked at, and is most likely not in the cache: all of it is asked for at once, and what it leads to. */
static void fetch(const struct shard *s, const uint8_t digest[2][DIGEST])
{
    struct entry *const *entry = &s->bucket[slot(s, digest[1])];
    struct user *const *user = &s->users[slot(s, digest[0])];
    __builtin_prefetch(entry);
    __builtin_prefetch(user);
    if (s->n > 0) {
        __builtin_prefetch(&s->heap[0]);
        __builtin_prefetch(&s->heap[(s->n - 1) / 2]);
        __builtin_prefetch(&s->heap[s->n], 1);
    }
    __builtin_prefetch(*entry);
    __builtin_prefetch(*user);
}

/* *crowded: the shared bound refused, not the user's share or lack of memory. */
static enum reason try_spend(struct spent *r, const uint8_t digest[2][DIGEST],
                             const struct replay_claim *c, bool *crowded)
{
    struct shard *s = shard_of(r, digest);
    enum reason result;
    *crowded = false;
    pthread_mutex_lock(&s->lock);
    fetch(s, digest);
    const int64_t before = c->now_us - atomic_load(&r->retain);
    (void)purge(r, s, before, FORGOTTEN);
    struct entry *e = find_entry(s, digest[1]);
    if (e && s->heap[e->at].time_us < before) { /* its turn has not come yet, that is all */
        spent_drop(r, s, e);
        e = NULL;
    }
    const int64_t floor = atomic_load(&r->floor);
    int64_t until_us = c->latest_us;
    if (until_us == TIME_NONE || until_us < floor)
        until_us = c->now_us > floor ? c->now_us : floor;
    if (e)
        result = REASON_REPLAY_SEEN;
    else if ((c->earliest_us != TIME_NONE && c->earliest_us < floor) || (c->zoneless && c->wall_us < spent_walls(r)))
        result = REASON_REPLAY_UNAVAILABLE;
    else if (!take_place(r)) {
        *crowded = true;
        result = REASON_REPLAY_FULL;
    } else
        result = remember(r, s, digest, c, until_us);
    pthread_mutex_unlock(&s->lock);
    return result;
}

bool spent_digests(const struct replay_claim *c, uint8_t out[2][REPLAY_DIGEST])
{
    return digest_of(c->user, NULL, 0, out[0]) && digest_of(c->key_id, c->value, c->value_n, out[1]);
}

enum reason spent_add(struct spent *r, const uint8_t digest[2][REPLAY_DIGEST], const struct replay_claim *c)
{
    bool crowded;
    const enum reason result = try_spend(r, digest, c, &crowded);
    if (result != REASON_REPLAY_FULL)
        return result;
    const int64_t before = c->now_us - atomic_load(&r->retain);
    if (crowded)
        make_room(r, before);
    else
        while (purge_portion(r, shard_of(r, digest), before)) /* the user's own may be the last of them */
            ;
    return try_spend(r, digest, c, &crowded);
}

void spent_forget(struct spent *r, const uint8_t digest[2][DIGEST])
{
    struct shard *s = shard_of(r, digest);
    pthread_mutex_lock(&s->lock);
    struct entry *e = find_entry(s, digest[1]);
    if (e)
        drop_entry(r, s, e);
    pthread_mutex_unlock(&s->lock);
}

void spent_tidy(struct spent *r)
{
    struct pace pace = {.rests = true};
    const int64_t until_us = time_mono_us() + TIDY_US;
    for (size_t i = 0; i < SHARDS;) {
        const bool more = purge_portion(r, &r->shard[i], atomic_load(&r->floor));
        pace_step(&pace);
        if (more && time_mono_us() >= until_us)
            return;
        i += !more;
    }
}

void spent_retain(struct spent *r, int64_t retain_us)
{
    atomic_store(&r->retain, retain_us);
}

int64_t spent_floor(const struct spent *r)
{
    return atomic_load(&r->floor);
}

int64_t spent_walls(const struct spent *r)
{
    return atomic_load(&r->walls);
}

size_t spent_count(const struct spent *r)
{
    return atomic_load(&r->count);
}

static bool shard_init(struct shard *s)
{
    s->bucket = calloc(FIRST_BUCKETS, sizeof(struct entry *));
    s->users = calloc(FIRST_BUCKETS, sizeof(struct user *));
    s->buckets = FIRST_BUCKETS;
    return pthread_mutex_init(&s->lock, NULL) == 0 && s->bucket && s->users;
}

void spent_limit(struct spent *s, unsigned max_entries)
{
    atomic_store(&s->max, max_entries);
    atomic_store(&s->max_user, max_entries / USER_SHARE ? max_entries / USER_SHARE : 1);
}

struct spent *spent_new(unsigned max_entries, int64_t floor_us, int64_t walls_us, int64_t retain_us)
{
    struct spent *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    spent_limit(r, max_entries);
    atomic_init(&r->floor, floor_us);
    atomic_init(&r->walls, walls_us);
    atomic_init(&r->retain, retain_us);
    atomic_init(&r->count, 0);
    bool ok = true;
    for (size_t i = 0; i < SHARDS; i++)
        ok &= shard_init(&r->shard[i]);
    if (ok)
        return r;
    spent_free(r);
    return NULL;
}

void spent_free(struct spent *r)
{
    for (size_t i = 0; r && i < SHARDS; i++) {
        struct shard *s = &r->shard[i];
        while (s->n)
            drop_entry(r, s, s->heap[0].entry);
        free(s->bucket);
        free(s->users);
        free(s->heap);
        pthread_mutex_destroy(&s->lock);
    }
    free(r);
}
