#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/sixteen.h"
#include "keys/keystore_inside.h"

const char *key_type_name(enum key_type t)
{
    return t == KEY_INK ? "ink" : "trk";
}

const char *key_state_name(enum key_state s)
{
    static const char *const NAMES[] = {
        [KEY_ACTIVE] = "active",   [KEY_RETIRING] = "retiring",
        [KEY_REVOKED] = "revoked",
        [KEY_OFFERED] = "offered",   [KEY_PRUNED] = "pruned"};
    return NAMES[s];
}

void keyring_clear(struct keyring *ring)
{
    if (!ring)
        return;
    block_give(ring->text);
    ring->text = NULL;
    ring->user = STR_MISSING;
    ring->n = 0;
}

int key_text_order(struct str x, struct str y)
{
    size_t n = x.n < y.n ? x.n : y.n, i = 0;
    while (i < n && x.p[i] == y.p[i])
        i++;
    if (i < n)
        return (unsigned char)x.p[i] < (unsigned char)y.p[i] ? -1 : 1;
    return x.n < y.n ? -1 : x.n > y.n;
}

static inline uint64_t id_fold(uint64_t h, uint64_t word)
{
    const unsigned __int128 product = (unsigned __int128)(h ^ word ^ UINT64_C(0x9e3779b97f4a7c15)) *
                                      UINT64_C(0xe7037ed1a0b428db);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint32_t key_id_hash(struct str id)
{
    uint64_t h = id.n, word;
    size_t i = 0;
    for (; i + sizeof word <= id.n; i += sizeof word) { /* eight bytes at a time, the last ones filled up with zeros */
        memcpy(&word, id.p + i, sizeof word);
        h = id_fold(h, word);
    }
    word = 0;
    memcpy(&word, id.p + i, id.n - i);
    return (uint32_t)id_fold(h, word);
}

/* All of them are looked at, each as long, whatever is found: how many keys a user has does not show in time. */
static size_t places(const struct keyring *ring)
{
    return ring->text ? LIMIT_USER_KEYS : 0;
}

/* In the place after that of k. Nobody's are all one, the first beyond the user's. */
static inline const struct key *next_key(const struct keyring *ring, const struct key *k)
{
    return k < ring->keys + ring->n ? k + 1 : k;
}

/* A bit a place, also of one that holds none: looked at all the same. */
static uint64_t same_hashes(const uint32_t v[LIMIT_USER_KEYS], uint32_t hash)
{
    uint64_t same = 0;
    _Static_assert(LIMIT_USER_KEYS == 64, "a bit a place");
    for (unsigned i = 0; i < LIMIT_USER_KEYS; i += 4)
        same |= (uint64_t)four_same(v + i, hash) << i;
    return same;
}

const struct key *keyring_find(const struct keyring *ring, struct str id)
{
    const struct key *found = NULL;
    if (!id.p)
        return NULL;
    const uint32_t hash = key_id_hash(id);
    uint64_t same = places(ring) ? same_hashes(ring->id_hash, hash) : 0;
    for (; same; same &= same - 1) {
        const struct key *key = &ring->keys[__builtin_ctzll(same)];
        if (key < ring->keys + ring->n && str_eq(key->id, id))
            found = key;
    }
    return found;
}

bool key_usable(const struct key *key, int64_t now_us)
{
    return key->state != KEY_REVOKED && key->state != KEY_PRUNED &&
           (key->not_after == TIME_NONE || now_us <= key->not_after);
}

bool keyring_has_ink(const struct keyring *ring)
{
    int has = 0; /* by number, so that nothing is left out early */
    const struct key *k = ring->keys, *const end = k + ring->n;
    for (size_t n = places(ring); n > 0; n--, k = next_key(ring, k))
        has |= (int)(k < end) & (int)(k->type == KEY_INK) & (int)(k->since != TIME_NONE);
    return has;
}

static const struct key *newest(const struct keyring *ring, enum key_type type, enum key_state state, int64_t now_us)
{
    const struct key *found = NULL, *k = ring->keys;
    for (size_t n = places(ring); n > 0; n--, k = next_key(ring, k)) /* nobody's is KEY_PRUNED */
        if (k->state == state && k->type == type && key_usable(k, now_us) && (!found || k->seq > found->seq))
            found = k;
    return found;
}

const struct key *keyring_newest(const struct keyring *ring, enum key_type type, int64_t now_us)
{
    const struct key *k = newest(ring, type, KEY_ACTIVE, now_us);
    return k || type == KEY_INK ? k : newest(ring, type, KEY_RETIRING, now_us);
}

bool keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out)
{
    return ring->store && ring->user.p && seal_open(ring->store->seals[key->under], ring->user, key, out);
}

bool keyring_open_two(const struct keyring *ring, const struct key *const keys[2], struct secret_key out[2])
{
    if (ring->store && ring->user.p && keys[0]->under == keys[1]->under)
        return seal_open_two(ring->store->seals[keys[0]->under], ring->user, keys, out);
    const bool ok = keyring_open(ring, keys[0], &out[0]) && keyring_open(ring, keys[1], &out[1]);
    for (size_t i = 0; !ok && i < 2; i++)
        secret_key_clear(&out[i]);
    return ok;
}

/* A copy of the names in order: the table may change, even be replaced, while the callback runs. */
static struct str *copy_names(struct keystore *ks, size_t *n, char **text)
{
    pthread_rwlock_rdlock(&ks->locks->table);
    struct str *v = table_users(ks->now.table, n);
    size_t total = 1;
    for (size_t i = 0; v && i < *n; i++)
        total += v[i].n;
    char *at = *text = v ? malloc(total) : NULL;
    for (size_t i = 0; at && i < *n; i++) {
        memcpy(at, v[i].p, v[i].n);
        v[i].p = at;
        at += v[i].n;
    }
    pthread_rwlock_unlock(&ks->locks->table);
    if (*text)
        return v;
    free(v);
    return NULL;
}

static int by_id(const void *a, const void *b)
{
    return key_text_order(((const struct key *)a)->id, ((const struct key *)b)->id);
}

bool keystore_walk(struct keystore *ks, bool (*each)(void *arg, const struct keyring *ring, const struct key *key),
                   void *arg)
{
    size_t n = 0;
    char *text = NULL;
    struct str *users = copy_names(ks, &n, &text);
    bool ok = users != NULL, go_on = true;
    for (size_t i = 0; ok && go_on && i < n; i++) {
        struct keyring ring;
        ok = keystore_user(ks, users[i], &ring) != KEYSTORE_FAILED;
        qsort(ring.keys, ring.n, sizeof *ring.keys, by_id);
        for (size_t k = 0; k < ring.n; k++)
            ring.id_hash[k] = key_id_hash(ring.keys[k].id);
        for (size_t k = 0; go_on && k < ring.n; k++)
            go_on = each(arg, &ring, &ring.keys[k]);
        keyring_clear(&ring);
    }
    free(users);
    free(text);
    return ok;
}
