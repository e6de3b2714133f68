#include "http/sessions.h"

#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/timestamp.h"

enum { TRIERS = 64, SOURCE = 8, NAME_BYTES = 32 };
#define NEVER (INT64_MIN / 2)
#define MINUTE_US (60 * US_PER_S)

struct session {
    uint64_t number; /* 0: free */
    int64_t since_us, used_us;
    uint8_t hash[HASH_BYTES]; /* of its name */
};

struct trier {
    uint8_t key[SOURCE];
    int64_t at[SESSIONS_TRIES]; /* a ring; next: the oldest */
    unsigned next;
};

struct sessions {
    uint64_t last;
    struct session v[SESSIONS_MOST];
    struct trier triers[TRIERS];
    int64_t at[SESSIONS_TRIES_OF_ALL]; /* of all triers, a ring */
    unsigned next;
};

struct sessions *sessions_new(void)
{
    struct sessions *s = calloc(1, sizeof *s);
    for (size_t i = 0; s && i < SESSIONS_TRIES_OF_ALL; i++)
        s->at[i] = NEVER;
    for (size_t i = 0; s && i < TRIERS; i++)
        for (size_t k = 0; k < SESSIONS_TRIES; k++)
            s->triers[i].at[k] = NEVER;
    return s;
}

void sessions_free(struct sessions *s)
{
    if (s)
        secret_wipe(s, sizeof *s);
    free(s);
}

/* Seconds until the oldest of the ring is a minute ago. */
static unsigned ring_wait(int64_t oldest_us, int64_t now_us)
{
    const int64_t left = MINUTE_US - (now_us - oldest_us);
    return left <= 0 ? 0 : (unsigned)((left + US_PER_S - 1) / US_PER_S);
}

static int64_t trier_newest(const struct trier *t)
{
    return t->at[(t->next + SESSIONS_TRIES - 1) % SESSIONS_TRIES];
}

/* Its own, else that of who has not tried for longest. */
static struct trier *trier_of(struct sessions *s, const struct ip *source)
{
    static const uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    uint8_t key[SOURCE] = {0};
    struct trier *oldest = &s->triers[0];
    if (source->known) /* an IPv4 address as 0:ffff:a.b.c.d: ::/16 is nobody's */
        memcpy(key, memcmp(source->b, MAPPED, sizeof MAPPED) == 0 ? source->b + 8 : source->b, SOURCE);
    for (size_t i = 0; i < TRIERS; i++) {
        struct trier *t = &s->triers[i];
        if (trier_newest(t) != NEVER && memcmp(t->key, key, SOURCE) == 0)
            return t;
        if (trier_newest(t) < trier_newest(oldest))
            oldest = t;
    }
    *oldest = (struct trier){.next = 0};
    for (size_t k = 0; k < SESSIONS_TRIES; k++)
        oldest->at[k] = NEVER;
    memcpy(oldest->key, key, SOURCE);
    return oldest;
}

unsigned sessions_try(struct sessions *s, const struct ip *source, int64_t now_us)
{
    const unsigned all = ring_wait(s->at[s->next], now_us);
    if (all)
        return all;
    struct trier *t = trier_of(s, source);
    const unsigned own = ring_wait(t->at[t->next], now_us);
    if (own)
        return own;
    t->at[t->next] = now_us;
    t->next = (t->next + 1) % SESSIONS_TRIES;
    s->at[s->next] = now_us;
    s->next = (s->next + 1) % SESSIONS_TRIES_OF_ALL;
    return 0;
}

static bool is_alive(const struct session *v, int64_t now_us)
{
    return v->number && now_us - v->used_us < SESSIONS_IDLE_S * US_PER_S &&
           now_us - v->since_us < SESSIONS_WHOLE_S * US_PER_S;
}

bool sessions_begin(struct sessions *s, int64_t now_us, char name[SESSIONS_NAME])
{
    uint8_t random[NAME_BYTES];
    struct session *free_one = &s->v[0];
    for (size_t i = 1; i < SESSIONS_MOST && is_alive(free_one, now_us); i++)
        if (!is_alive(&s->v[i], now_us) || s->v[i].used_us < free_one->used_us)
            free_one = &s->v[i];
    if (RAND_priv_bytes(random, sizeof random) != 1)
        return false;
    for (size_t i = 0; i < sizeof random; i++) {
        name[2 * i] = "0123456789abcdef"[random[i] >> 4];
        name[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
    name[SESSIONS_NAME - 1] = '\0';
    secret_wipe(random, sizeof random);
    *free_one = (struct session){.since_us = now_us, .used_us = now_us};
    if (!crypto_sha256(name, SESSIONS_NAME - 1, free_one->hash))
        return false;
    free_one->number = ++s->last;
    return true;
}

/* All are compared, whichever it is. */
static struct session *session_of(struct sessions *s, struct str name)
{
    uint8_t hash[HASH_BYTES];
    struct session *found = NULL;
    if (!name.p || !crypto_sha256(name.p, name.n, hash))
        return NULL;
    for (size_t i = 0; i < SESSIONS_MOST; i++) {
        const bool same = secret_equal(s->v[i].hash, hash, sizeof hash);
        if (same && s->v[i].number)
            found = &s->v[i];
    }
    return found;
}

uint64_t sessions_use(struct sessions *s, struct str name, int64_t now_us, bool attended)
{
    struct session *v = session_of(s, name);
    if (!v || !is_alive(v, now_us))
        return 0;
    if (attended)
        v->used_us = now_us;
    return v->number;
}

bool sessions_alive(const struct sessions *s, uint64_t number, int64_t now_us)
{
    bool found = false;
    for (size_t i = 0; i < SESSIONS_MOST; i++)
        found = found || (s->v[i].number == number && is_alive(&s->v[i], now_us));
    return found;
}

void sessions_end(struct sessions *s, struct str name)
{
    struct session *v = session_of(s, name);
    if (v)
        *v = (struct session){.number = 0};
}
