#include "keys/table.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

/* Equal items in chunks that never move: growing copies nothing, so memory never peaks at twice its size. */
struct pool {
    uint8_t **chunk;
    size_t chunks, slots; /* chunks there; room in the array of them */
    size_t n;             /* items in use */
    size_t item;          /* bytes */
    unsigned shift;       /* log2 of the items a chunk */
};

/* A text is an offset into the text pool; none crosses the end of a chunk. */
struct user_slot {
    uint32_t hash; /* lower half: spares comparing names, and reading them when the index grows */
    uint32_t name;
    uint32_t first; /* key, NONE-terminated list */
    uint16_t name_n;
    uint16_t keys;
};
struct key_slot {
    uint64_t seq;
    int64_t not_after;
    uint32_t next, id;
    uint16_t id_n;
    uint8_t type, state;
    uint8_t sealed[KEY_SEALED];
};
_Static_assert(sizeof(struct key_slot) == 88, "two million of them are most of the memory");
_Static_assert(KEY_TEXT_MAX <= UINT16_MAX, "lengths of texts are kept in 16 bits");

enum { TEXT_SHIFT = 18, USER_SHIFT = 13, KEY_SHIFT = 12, INDEX_FIRST = 1024 };
#define NONE UINT32_MAX

struct table {
    struct pool text, users, keys;
    uint32_t *index; /* open addressing, linear probing; user's number + 1, 0: free */
    size_t index_n;  /* a power of two */
    uint64_t seed[2];
    struct key_totals totals;
    size_t counts[2][3];
    size_t with_end; /* keys that have a not_after */
};

static void *pool_at(const struct pool *p, size_t i)
{
    return p->chunk[i >> p->shift] + (i & (((size_t)1 << p->shift) - 1)) * p->item;
}

static bool pool_reserve(struct pool *p, size_t items)
{
    size_t want = (items + ((size_t)1 << p->shift) - 1) >> p->shift;
    if (items > NONE) /* places are kept in 32 bits */
        return false;
    if (want > p->slots) {
        size_t slots = p->slots ? p->slots : 8;
        while (slots < want)
            slots *= 2;
        uint8_t **chunk = realloc(p->chunk, slots * sizeof *chunk);
        if (!chunk)
            return false;
        p->chunk = chunk;
        p->slots = slots;
    }
    for (; p->chunks < want; p->chunks++) {
        p->chunk[p->chunks] = malloc(p->item << p->shift);
        if (!p->chunk[p->chunks])
            return false;
    }
    return true;
}

static void pool_free(struct pool *p)
{
    for (size_t i = 0; i < p->chunks; i++)
        free(p->chunk[i]);
    free(p->chunk);
}

static bool text_add(struct pool *p, struct str s, uint32_t *at)
{
    size_t chunk = (size_t)1 << p->shift, begin = p->n;
    if ((begin & (chunk - 1)) + s.n > chunk)
        begin = (begin | (chunk - 1)) + 1;
    if (!pool_reserve(p, begin + s.n))
        return false;
    memcpy(pool_at(p, begin), s.p, s.n);
    *at = (uint32_t)begin;
    p->n = begin + s.n;
    return true;
}

static struct str text_at(const struct table *t, uint32_t at, size_t n)
{
    return (struct str){pool_at(&t->text, at), n};
}

struct table *table_new(void)
{
    struct table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->text = (struct pool){.item = 1, .shift = TEXT_SHIFT};
    t->users = (struct pool){.item = sizeof(struct user_slot), .shift = USER_SHIFT};
    t->keys = (struct pool){.item = sizeof(struct key_slot), .shift = KEY_SHIFT};
    t->index_n = INDEX_FIRST;
    t->index = calloc(t->index_n, sizeof *t->index);
    if (!t->index || RAND_bytes((unsigned char *)t->seed, sizeof t->seed) != 1) {
        table_free(t);
        return NULL;
    }
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    pool_free(&t->text);
    pool_free(&t->users);
    pool_free(&t->keys);
    free(t->index);
    free(t);
}

struct key_totals table_totals(const struct table *t)
{
    return t->totals;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Names are the operator's own, so a seeded mix is enough against chains that somebody might aim at. */
static uint32_t hash_name(const struct table *t, struct str s)
{
    uint64_t h = t->seed[0] ^ s.n, word;
    size_t i = 0;
    for (; i + sizeof word <= s.n; i += sizeof word) {
        memcpy(&word, s.p + i, sizeof word);
        h = fold(h ^ word ^ UINT64_C(0x9e3779b97f4a7c15), t->seed[1] | 1);
    }
    word = 0;
    memcpy(&word, s.p + i, s.n - i);
    h = fold(h ^ word ^ UINT64_C(0xd1b54a32d192ed03), t->seed[1] | 1);
    return (uint32_t)(fold(h ^ t->seed[0], UINT64_C(0xe7037ed1a0b428db)) >> 16);
}

static struct user_slot *user_at(const struct table *t, size_t i)
{
    return pool_at(&t->users, i);
}

static struct key_slot *key_at(const struct table *t, uint32_t i)
{
    return pool_at(&t->keys, i);
}

/* *place: where it is in the index, or where it would go. */
static struct user_slot *find_user(const struct table *t, struct str user, uint32_t hash, size_t *place)
{
    size_t at = hash & (t->index_n - 1);
    for (; t->index[at]; at = (at + 1) & (t->index_n - 1)) {
        struct user_slot *u = user_at(t, t->index[at] - 1);
        if (u->hash == hash && str_eq(text_at(t, u->name, u->name_n), user))
            break;
    }
    if (place)
        *place = at;
    return t->index[at] ? user_at(t, t->index[at] - 1) : NULL;
}

static struct key_slot *find_key(const struct table *t, const struct user_slot *u, struct str id)
{
    for (uint32_t i = u->first; i != NONE; i = key_at(t, i)->next)
        if (str_eq(text_at(t, key_at(t, i)->id, key_at(t, i)->id_n), id))
            return key_at(t, i);
    return NULL;
}

static bool index_reserve(struct table *t, size_t users)
{
    size_t size = t->index_n;
    while (users > size / 4 * 3)
        size *= 2;
    if (size == t->index_n)
        return true;
    uint32_t *index = calloc(size, sizeof *index);
    if (!index)
        return false;
    for (size_t i = 0; i < t->users.n; i++) {
        size_t at = user_at(t, i)->hash & (size - 1);
        while (index[at])
            at = (at + 1) & (size - 1);
        index[at] = (uint32_t)i + 1;
    }
    free(t->index);
    t->index = index;
    t->index_n = size;
    return true;
}

bool table_reserve(struct table *t, size_t keys, size_t text)
{
    size_t chunk = (size_t)1 << TEXT_SHIFT;
    size_t gaps = text / (chunk - KEY_TEXT_MAX) * KEY_TEXT_MAX + 2 * KEY_TEXT_MAX; /* at the ends of chunks */
    return pool_reserve(&t->keys, t->keys.n + keys) && pool_reserve(&t->users, t->users.n + keys) &&
           pool_reserve(&t->text, t->text.n + text + gaps) && index_reserve(t, t->users.n + keys);
}

static struct user_slot *add_user(struct table *t, struct str user, uint32_t hash)
{
    uint32_t name;
    size_t place;
    if (!index_reserve(t, t->users.n + 1) || !pool_reserve(&t->users, t->users.n + 1) ||
        !text_add(&t->text, user, &name))
        return NULL;
    find_user(t, user, hash, &place); /* the index may have grown */
    struct user_slot *u = user_at(t, t->users.n);
    *u = (struct user_slot){.hash = hash, .name = name, .first = NONE, .name_n = (uint16_t)user.n};
    t->index[place] = (uint32_t)++t->users.n;
    return u;
}

static struct key_slot *add_key(struct table *t, struct user_slot *u, const struct key *key)
{
    uint32_t id;
    if (u->keys >= LIMIT_USER_KEYS || !pool_reserve(&t->keys, t->keys.n + 1) || !text_add(&t->text, key->id, &id))
        return NULL;
    uint32_t number = (uint32_t)t->keys.n++, *link = &u->first;
    struct key_slot *k = key_at(t, number);
    *k = (struct key_slot){.next = NONE, .id = id, .id_n = (uint16_t)key->id.n, .type = (uint8_t)key->type};
    while (*link != NONE)
        link = &key_at(t, *link)->next;
    *link = number;
    u->keys++;
    t->totals.count++;
    return k;
}

static void count_key(struct table *t, const struct key_slot *k, size_t by)
{
    t->counts[k->type][k->state] += by;
    t->with_end += k->not_after != TIME_NONE ? by : 0;
    t->totals.seq_sum += by * k->seq;
}

bool table_set(struct table *t, const struct key_row *row)
{
    const struct key *key = &row->key;
    if (row->user.n > KEY_TEXT_MAX || key->id.n > KEY_TEXT_MAX)
        return false;
    uint32_t hash = hash_name(t, row->user);
    struct user_slot *u = find_user(t, row->user, hash, NULL);
    struct key_slot *k = u ? find_key(t, u, key->id) : NULL;
    if (k && k->type != key->type)
        return false;
    if (k)
        count_key(t, k, (size_t)-1);
    else if ((!u && !(u = add_user(t, row->user, hash))) || !(k = add_key(t, u, key)))
        return false;
    k->seq = key->seq;
    k->not_after = key->not_after;
    k->state = (uint8_t)key->state;
    memcpy(k->sealed, key->sealed, sizeof k->sealed);
    count_key(t, k, 1);
    if (key->seq > t->totals.last_seq)
        t->totals.last_seq = key->seq;
    return true;
}

uint64_t table_seq(const struct table *t, struct str user, struct str id)
{
    const struct user_slot *u = find_user(t, user, hash_name(t, user), NULL);
    const struct key_slot *k = u ? find_key(t, u, id) : NULL;
    return k ? k->seq : 0;
}

enum keystore_result table_user(const struct table *t, struct str user, struct keyring *out)
{
    if (!user.p || user.n > KEY_TEXT_MAX)
        return KEYSTORE_NOT_FOUND;
    const struct user_slot *u = find_user(t, user, hash_name(t, user), NULL);
    if (!u)
        return KEYSTORE_NOT_FOUND;
    size_t text_n = user.n;
    for (uint32_t i = u->first; i != NONE; i = key_at(t, i)->next)
        text_n += key_at(t, i)->id_n;
    char *at = malloc(text_n + 1);
    if (!at)
        return KEYSTORE_FAILED;
    out->text = at;
    memcpy(at, user.p, user.n);
    out->user = (struct str){at, user.n};
    at += user.n;
    for (uint32_t i = u->first; i != NONE; i = key_at(t, i)->next) {
        const struct key_slot *k = key_at(t, i);
        struct key *key = &out->keys[out->n++];
        *key = (struct key){.type = k->type, .state = k->state, .not_after = k->not_after, .seq = k->seq};
        memcpy(key->sealed, k->sealed, sizeof key->sealed);
        memcpy(at, pool_at(&t->text, k->id), k->id_n);
        key->id = (struct str){at, k->id_n};
        at += k->id_n;
    }
    return KEYSTORE_OK;
}

void table_count(const struct table *t, int64_t now_us, size_t out[2][3])
{
    memcpy(out, t->counts, sizeof t->counts);
    for (size_t i = 0; t->with_end && i < t->keys.n; i++) {
        const struct key_slot *k = key_at(t, (uint32_t)i);
        if (k->not_after == TIME_NONE || k->not_after >= now_us || k->state == KEY_REVOKED)
            continue;
        out[k->type][k->state]--;
        out[k->type][KEY_REVOKED]++;
    }
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

static int by_name(const void *a, const void *b)
{
    return key_text_order(*(const struct str *)a, *(const struct str *)b);
}

struct str *table_users(const struct table *t, size_t *n)
{
    struct str *v = malloc((t->users.n + 1) * sizeof *v);
    if (!v)
        return NULL;
    *n = t->users.n;
    for (size_t i = 0; i < *n; i++)
        v[i] = text_at(t, user_at(t, i)->name, user_at(t, i)->name_n);
    qsort(v, *n, sizeof *v, by_name);
    return v;
}
