#include "http/crowd.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

/* LOOK: how many equals are compared by age. They stand in the order in which they became equal, so that those beyond
 * are younger but for rare cases, and the work is bounded. */
enum { BUCKETS = 4096, LOOK = 256, BEFORE = 0, BEHIND = 1, KEY = 8, NET_KEY = 6 };

struct list {
    struct place *first, *last;
};

/* An IPv4 address, or a /64. */
struct source {
    struct source *next; /* in its bucket */
    struct net *net;
    struct source *sibling; /* of the same net */
    uint8_t key[KEY];
    unsigned count, unfinished;
    struct list places;
};

/* An IPv4 address, or a /48: what is compared. */
struct net {
    struct net *next; /* in its bucket */
    struct net *level[2]; /* before and behind it, among those that hold as many */
    uint8_t key[KEY];     /* of a /48 the rest is 0xff, which no /64 of ours has there: see key_of */
    unsigned count, unfinished;
    struct source *sources;
};

struct crowd {
    pthread_mutex_t lock;
    unsigned most, count, top; /* top: no net holds more */
    unsigned room;             /* levels reach so far */
    uint64_t joined, seed;
    struct list idle, strays;  /* strays: without a source */
    struct source *sources[BUCKETS];
    struct net *nets[BUCKETS];
    struct {
        struct net *first, *last;
    } *levels; /* by how many a net holds: 0 to room */
    struct place **evicted; /* one list an owner */
};

/* --- lists of places: `which` links of a place --- */

static struct place **links(struct place *p, bool idle)
{
    return idle ? p->idle : p->mates;
}

static void list_append(struct list *l, struct place *p, bool idle)
{
    links(p, idle)[BEFORE] = l->last;
    links(p, idle)[BEHIND] = NULL;
    if (l->last)
        links(l->last, idle)[BEHIND] = p;
    else
        l->first = p;
    l->last = p;
}

static void list_remove(struct list *l, struct place *p, bool idle)
{
    struct place *before = links(p, idle)[BEFORE], *behind = links(p, idle)[BEHIND];
    if (before)
        links(before, idle)[BEHIND] = behind;
    else
        l->first = behind;
    if (behind)
        links(behind, idle)[BEFORE] = before;
    else
        l->last = before;
}

/* --- nets by how many they hold --- */

static void level_remove(struct crowd *c, struct net *n)
{
    if (n->level[BEFORE])
        n->level[BEFORE]->level[BEHIND] = n->level[BEHIND];
    else
        c->levels[n->count].first = n->level[BEHIND];
    if (n->level[BEHIND])
        n->level[BEHIND]->level[BEFORE] = n->level[BEFORE];
    else
        c->levels[n->count].last = n->level[BEFORE];
}

static void level_append(struct crowd *c, struct net *n)
{
    n->level[BEFORE] = c->levels[n->count].last;
    n->level[BEHIND] = NULL;
    if (n->level[BEFORE])
        n->level[BEFORE]->level[BEHIND] = n;
    else
        c->levels[n->count].first = n;
    c->levels[n->count].last = n;
    if (n->count > c->top)
        c->top = n->count;
}

/* --- sources --- */

/* The first 64 bits; an IPv4 address as 0:ffff:a.b.c.d, which no IPv6 address has there: ::/16 is reserved. */
static bool key_of(const struct ip *ip, uint8_t key[KEY])
{
    static const uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    const bool four = memcmp(ip->b, MAPPED, sizeof MAPPED) == 0;
    memcpy(key, four ? ip->b + 8 : ip->b, KEY);
    return four;
}

static unsigned bucket_of(const struct crowd *c, const uint8_t key[KEY])
{
    uint64_t v;
    memcpy(&v, key, sizeof v);
    v = (v ^ c->seed) * 0x9e3779b97f4a7c15u;
    return (unsigned)((v ^ v >> 29) * 0xbf58476d1ce4e5b9u >> 52);
}
_Static_assert(BUCKETS == 1 << (64 - 52), "bucket_of() has as many bits");

static struct net *net_of(struct crowd *c, const uint8_t key[KEY], bool four)
{
    uint8_t of[KEY];
    memcpy(of, key, KEY);
    if (!four)
        memset(of + NET_KEY, 0xff, KEY - NET_KEY);
    struct net **bucket = &c->nets[bucket_of(c, of)], *n = *bucket;
    while (n && memcmp(n->key, of, KEY) != 0)
        n = n->next;
    if (n || !(n = calloc(1, sizeof *n)))
        return n;
    memcpy(n->key, of, KEY);
    n->next = *bucket;
    *bucket = n;
    level_append(c, n);
    return n;
}

static void net_free(struct crowd *c, struct net *n)
{
    struct net **at = &c->nets[bucket_of(c, n->key)];
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    level_remove(c, n);
    free(n);
}

/* NULL without memory: then the connection counts for itself. */
static struct source *source_of_ip(struct crowd *c, const struct ip *ip)
{
    uint8_t key[KEY];
    const bool four = key_of(ip, key);
    struct source **bucket = &c->sources[bucket_of(c, key)], *s = *bucket;
    while (s && memcmp(s->key, key, KEY) != 0)
        s = s->next;
    if (s)
        return s;
    struct net *n = net_of(c, key, four);
    if (!n || !(s = calloc(1, sizeof *s))) {
        if (n && !n->count)
            net_free(c, n);
        return NULL;
    }
    *s = (struct source){.next = *bucket, .net = n, .sibling = n->sources};
    memcpy(s->key, key, KEY);
    *bucket = s;
    n->sources = s;
    return s;
}

static void source_free(struct crowd *c, struct source *s)
{
    struct source **at = &c->sources[bucket_of(c, s->key)];
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    for (at = &s->net->sources; *at != s;)
        at = &(*at)->sibling;
    *at = s->sibling;
    if (!s->net->sources)
        net_free(c, s->net);
    free(s);
}

static void source_add(struct crowd *c, struct place *p, const struct ip *ip)
{
    struct source *s = ip->known ? source_of_ip(c, ip) : NULL;
    p->source = s;
    list_append(s ? &s->places : &c->strays, p, false);
    if (!s)
        return;
    level_remove(c, s->net);
    s->count++;
    s->net->count++;
    level_append(c, s->net);
    s->unfinished += p->state == PLACE_UNFINISHED;
    s->net->unfinished += p->state == PLACE_UNFINISHED;
}

static void source_remove(struct crowd *c, struct place *p)
{
    struct source *s = p->source;
    list_remove(s ? &s->places : &c->strays, p, false);
    if (!s)
        return;
    s->unfinished -= p->state == PLACE_UNFINISHED;
    s->net->unfinished -= p->state == PLACE_UNFINISHED;
    level_remove(c, s->net);
    s->count--;
    s->net->count--;
    level_append(c, s->net);
    p->source = NULL;
    if (!s->count)
        source_free(c, s);
}

/* --- who has to go --- */

static struct place *first_unfinished(const struct list *l)
{
    struct place *p = l->first;
    while (p && p->state != PLACE_UNFINISHED)
        p = p->mates[BEHIND];
    return p;
}

/* The oldest unfinished one of that /64 of the net that holds most. */
static struct place *oldest_of_net(const struct net *n)
{
    const struct source *most = NULL;
    int left = LOOK;
    for (const struct source *s = n->sources; s && left--; s = s->sibling)
        if (s->unfinished && (!most || s->count > most->count))
            most = s;
    return most ? first_unfinished(&most->places) : NULL;
}

static struct place *oldest_unfinished(struct crowd *c)
{
    struct place *found = NULL;
    while (c->top && !c->levels[c->top].first)
        c->top--;
    for (unsigned count = c->top; count && !found; count--) {
        int left = LOOK;
        if (count == 1)
            found = first_unfinished(&c->strays);
        for (const struct net *n = c->levels[count].first; n && left; n = n->level[BEHIND]) {
            struct place *p = n->unfinished ? oldest_of_net(n) : NULL;
            if (p && (!found || p->since < found->since))
                found = p;
            left -= p != NULL;
        }
    }
    return found || c->top ? found : first_unfinished(&c->strays);
}

static void crowd_forget(struct crowd *c, struct place *p)
{
    if (p->state == PLACE_IDLE)
        list_remove(&c->idle, p, true);
    source_remove(c, p);
    c->count--;
}

/* -1: nobody can. */
static int crowd_evict(struct crowd *c)
{
    struct place *p = c->idle.first ? c->idle.first : oldest_unfinished(c);
    if (!p)
        return -1;
    crowd_forget(c, p);
    p->evicted = true;
    p->evicted_next = c->evicted[p->owner];
    c->evicted[p->owner] = p;
    return (int)p->owner;
}

bool crowd_join(struct crowd *c, struct place *p, unsigned owner, const struct ip *ip, int *wake)
{
    *wake = -1;
    pthread_mutex_lock(&c->lock);
    bool ok = c->count < c->most;
    if (!ok) {
        *wake = crowd_evict(c);
        ok = *wake >= 0;
    }
    if (ok) {
        *p = (struct place){.state = PLACE_UNFINISHED, .owner = owner, .since = c->joined++};
        source_add(c, p, ip);
        c->count++;
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

void crowd_leave(struct crowd *c, struct place *p)
{
    pthread_mutex_lock(&c->lock);
    if (p->evicted) {
        struct place **at = &c->evicted[p->owner];
        while (*at && *at != p)
            at = &(*at)->evicted_next;
        if (*at)
            *at = p->evicted_next;
    } else {
        crowd_forget(c, p);
    }
    pthread_mutex_unlock(&c->lock);
}

void crowd_move(struct crowd *c, struct place *p, const struct ip *ip)
{
    uint8_t key[KEY];
    pthread_mutex_lock(&c->lock);
    if (ip->known)
        key_of(ip, key);
    const bool same = ip->known ? p->source && memcmp(p->source->key, key, KEY) == 0 : !p->source;
    if (!p->evicted && !same) {
        source_remove(c, p);
        source_add(c, p, ip);
    }
    pthread_mutex_unlock(&c->lock);
}

bool crowd_enter(struct crowd *c, struct place *p, enum place_state state)
{
    pthread_mutex_lock(&c->lock);
    const bool ok = !p->evicted;
    if (ok && state != p->state) {
        const unsigned was = p->state == PLACE_UNFINISHED, is = state == PLACE_UNFINISHED;
        if (p->state == PLACE_IDLE)
            list_remove(&c->idle, p, true);
        if (state == PLACE_IDLE)
            list_append(&c->idle, p, true);
        if (p->source) {
            p->source->unfinished += is - was;
            p->source->net->unfinished += is - was;
        }
        p->state = state;
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

struct place *crowd_evicted(struct crowd *c, unsigned owner)
{
    pthread_mutex_lock(&c->lock);
    struct place *p = c->evicted[owner];
    if (p)
        c->evicted[owner] = p->evicted_next;
    pthread_mutex_unlock(&c->lock);
    return p;
}

unsigned crowd_count(struct crowd *c)
{
    pthread_mutex_lock(&c->lock);
    const unsigned n = c->count;
    pthread_mutex_unlock(&c->lock);
    return n;
}

struct crowd *crowd_new(unsigned most, unsigned owners)
{
    struct crowd *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->most = c->room = most;
    c->levels = calloc((size_t)most + 1, sizeof *c->levels);
    c->evicted = calloc(owners, sizeof *c->evicted); /* NOLINT(bugprone-sizeof-expression): pointers */
    if (pthread_mutex_init(&c->lock, NULL) == 0 && c->levels && c->evicted && random_bytes(&c->seed, sizeof c->seed))
        return c;
    crowd_free(c);
    return NULL;
}

bool crowd_limit(struct crowd *c, unsigned most)
{
    pthread_mutex_lock(&c->lock);
    bool ok = most <= c->room;
    void *levels = ok ? NULL : realloc(c->levels, ((size_t)most + 1) * sizeof *c->levels);
    if (levels) {
        c->levels = levels;
        memset(c->levels + c->room + 1, 0, (most - c->room) * sizeof *c->levels);
        c->room = most;
        ok = true;
    }
    if (ok)
        c->most = most;
    while (c->count > c->most && crowd_evict(c) >= 0)
        ;
    pthread_mutex_unlock(&c->lock);
    return ok;
}

void crowd_free(struct crowd *c)
{
    if (!c)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c->levels);
    free(c->evicted);
    free(c);
}
