#include "keys/table.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/block.h"
#include "keys/name_hash.h"
#include "keys/pool.h"

/* A text is an offset into the text pool; none crosses the end of a chunk, nor begins in its last AT_ONCE bytes. */
struct user_slot {
    uint32_t hash; /* lower half: spares comparing names, and reading them when the index grows */
    uint32_t name;
    uint32_t first; /* key; NOBODYS ends the list */
    uint16_t name_n;
    uint8_t keys;
    bool long_texts; /* one of the keys has, or had, more text than an ID of AT_ONCE bytes */
};
struct key_slot {
    uint32_t next, id; /* next: of the user's keys, or of the free slots */
    uint32_t extra;    /* NONE for most */
    uint32_t since;    /* s; 0: never active */
    uint64_t seq : 40, under : 4, type : 1, state : 3, origin : 2, due : 1, : 2, id_n : 11; /* seq 0: a free slot */
    uint32_t id_hash;
    uint8_t sealed[KEY_SEALED];
};
/* What few keys have. */
struct extra_slot {
    int64_t not_after, keep_old;
    uint32_t key, sent; /* key: its slot; of a free one NONE, and `sent` is the next free one */
    uint16_t sent_n;
};
_Static_assert(sizeof(struct key_slot) == 88, "two million of them are most of the memory");
_Static_assert(KEY_TEXT_MAX < 1 << 11 && KEY_SENT_MAX <= UINT16_MAX, "lengths of texts are kept in so many bits");
_Static_assert(KEY_TRK < 2 && KEY_PRUNED < 8 && KEY_LEARNT < 4 && TABLE_MASTERS <= 16, "and so are these");
_Static_assert(LIMIT_USER_KEYS <= UINT8_MAX, "and so is their number");

/* Chunks as large as what base/heap.c makes pages of their own: a table that is freed leaves nothing to be trimmed. */
enum { TEXT_SHIFT = 20, USER_SHIFT = 16, KEY_SHIFT = 14, EXTRA_SHIFT = 15, INDEX_FIRST = 1024, LOOSE_FROM = 1 << 20 };
enum { AT_ONCE = 48 }; /* bytes of an ID that are copied however many it has, which needs no call and no branch */
#define NONE POOL_NONE

struct table {
    struct pool text, users, keys, extras;
    uint32_t free_key, free_extra; /* lists of slots that were used before */
    uint32_t *index; /* open addressing, linear probing; user's number + 1, 0: free */
    size_t index_n;  /* a power of two */
    uint32_t *next;  /* a larger one that is ready, or the one that it replaced (next_n 0); NULL: none */
    size_t next_n, next_users;
    uint64_t seed[2];
    size_t counts[2][KEY_STATES], under[TABLE_MASTERS];
    size_t n, lost; /* keys; bytes of texts that nobody uses any more */
};

static inline struct key_slot *key_at(const struct table *t, uint32_t i)
{
    return (struct key_slot *)(void *)t->keys.chunk[i >> KEY_SHIFT] + (i & ((1u << KEY_SHIFT) - 1)); /* pool_at() */
}

static inline const char *text_of(const struct table *t, uint32_t at)
{
    return (const char *)t->text.chunk[at >> TEXT_SHIFT] + (at & ((1u << TEXT_SHIFT) - 1)); /* the same */
}

static struct str text_at(const struct table *t, uint32_t at, size_t n)
{
    return (struct str){text_of(t, at), n};
}

/*
 * The first slot is nobody's key, whose ID is empty and whose successor is itself. Whoever has fewer keys than there
 * are places has it in the others, and who is not known has nothing else: so a user with one key costs what one with
 * all of them costs, and one whom nobody knows.
 */
enum { NOBODYS = 0 };

static bool add_nobodys(struct table *t)
{
    uint32_t id;
    if (!pool_reserve(&t->keys, 1) || !pool_add_text(&t->text, STR(""), AT_ONCE, &id))
        return false;
    t->keys.n = 1;
    *key_at(t, NOBODYS) = (struct key_slot){.next = NOBODYS, .extra = NONE, .since = 1, .id = id, .state = KEY_PRUNED};
    return true;
}

struct table *table_new(size_t users)
{
    struct table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->text = (struct pool){.item = 1, .shift = TEXT_SHIFT};
    t->users = (struct pool){.item = sizeof(struct user_slot), .shift = USER_SHIFT};
    t->keys = (struct pool){.item = sizeof(struct key_slot), .shift = KEY_SHIFT};
    t->extras = (struct pool){.item = sizeof(struct extra_slot), .shift = EXTRA_SHIFT};
    t->free_key = t->free_extra = NONE;
    for (t->index_n = INDEX_FIRST; users > t->index_n / 4 * 3; t->index_n *= 2)
        ;
    t->index = calloc(t->index_n, sizeof *t->index);
    if (t->index && RAND_bytes((unsigned char *)t->seed, sizeof t->seed) == 1 && add_nobodys(t))
        return t;
    table_free(t);
    return NULL;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    pool_free(&t->text);
    pool_free(&t->users);
    pool_free(&t->keys);
    pool_free(&t->extras);
    free(t->index);
    free(t->next);
    free(t);
}

size_t table_size(const struct table *t)
{
    return t->n;
}

bool table_is_loose(const struct table *t)
{
    return t->lost > LOOSE_FROM && t->lost > t->text.n / 3;
}

static struct user_slot *user_at(const struct table *t, size_t i)
{
    return pool_at(&t->users, i);
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

static struct extra_slot *extra_at(const struct table *t, uint32_t i)
{
    return pool_at(&t->extras, i);
}

static struct key_slot *find_key(const struct table *t, const struct user_slot *u, struct str id)
{
    for (uint32_t i = u->first; i != NOBODYS; i = key_at(t, i)->next)
        if (str_eq(text_at(t, key_at(t, i)->id, key_at(t, i)->id_n), id))
            return key_at(t, i);
    return NULL;
}

/* An index for so many users beside the one in use, if that is too small. */
static bool index_make(struct table *t, size_t users)
{
    size_t size = t->index_n;
    while (users > size / 4 * 3)
        size *= 2;
    if (size == t->index_n || (size == t->next_n && t->next_users == t->users.n))
        return true;
    table_settle(t);
    t->next = calloc(size, sizeof *t->next);
    for (size_t i = 0; t->next && i < t->users.n; i++) {
        size_t at = user_at(t, i)->hash & (size - 1);
        while (t->next[at])
            at = (at + 1) & (size - 1);
        t->next[at] = (uint32_t)i + 1;
    }
    t->next_n = t->next ? size : 0;
    t->next_users = t->users.n;
    return t->next_n > 0;
}

static bool index_reserve(struct table *t, size_t users)
{
    const bool fits = users <= t->index_n / 4 * 3;
    if (fits || !index_make(t, users))
        return fits;
    uint32_t *before = t->index;
    t->index = t->next, t->index_n = t->next_n;
    t->next = before, t->next_n = 0;
    return true;
}

bool table_prepare(struct table *t, size_t keys)
{
    return index_make(t, t->users.n + keys);
}

void table_settle(struct table *t)
{
    free(t->next);
    t->next = NULL, t->next_n = 0;
}

bool table_reserve(struct table *t, size_t keys, size_t text)
{
    size_t chunk = (size_t)1 << TEXT_SHIFT;
    size_t gaps = text / (chunk - KEY_TEXT_MAX) * KEY_TEXT_MAX + 2 * KEY_TEXT_MAX; /* at the ends of chunks */
    return pool_reserve(&t->keys, t->keys.n + keys) && pool_reserve(&t->extras, t->extras.n + keys) &&
           pool_reserve(&t->users, t->users.n + keys) &&
           pool_reserve(&t->text, t->text.n + text + gaps) && index_reserve(t, t->users.n + keys);
}

static struct user_slot *add_user(struct table *t, struct str user, uint32_t hash, size_t free_place)
{
    uint32_t name, *const before = t->index;
    if (!index_reserve(t, t->users.n + 1) || !pool_reserve(&t->users, t->users.n + 1) ||
        !pool_add_text(&t->text, user, AT_ONCE, &name))
        return NULL;
    if (t->index != before)
        find_user(t, user, hash, &free_place); /* it has grown */
    table_settle(t);
    struct user_slot *u = user_at(t, t->users.n);
    *u = (struct user_slot){.hash = hash, .name = name, .first = NOBODYS, .name_n = (uint16_t)user.n};
    t->index[free_place] = (uint32_t)++t->users.n;
    return u;
}

static struct key_slot *add_key(struct table *t, struct user_slot *u, const struct key *key)
{
    uint32_t id, number = t->free_key, *link = &u->first;
    if (u->keys >= LIMIT_USER_KEYS || (number == NONE && !pool_reserve(&t->keys, t->keys.n + 1)) ||
        !pool_add_text(&t->text, key->id, AT_ONCE, &id))
        return NULL;
    if (number == NONE)
        number = (uint32_t)t->keys.n++;
    else
        t->free_key = key_at(t, number)->next;
    struct key_slot *k = key_at(t, number);
    *k = (struct key_slot){.next = NOBODYS, .id = id, .id_n = (uint16_t)key->id.n & 0x7ff, .type = key->type & 1,
                           .id_hash = key_id_hash(key->id), .extra = NONE};
    while (*link != NOBODYS)
        link = &key_at(t, *link)->next;
    *link = number;
    u->keys++;
    t->n++;
    return k;
}

static void count_key(struct table *t, const struct key_slot *k, size_t by)
{
    t->counts[k->type][k->state] += by;
    t->under[k->under] += by;
}

static void drop_extra(struct table *t, struct key_slot *k)
{
    if (k->extra == NONE)
        return;
    struct extra_slot *e = extra_at(t, k->extra);
    t->lost += e->sent_n;
    *e = (struct extra_slot){.key = NONE, .sent = t->free_extra};
    t->free_extra = k->extra;
    k->extra = NONE;
}

/* A text that is there already is not stored again. */
static bool set_extra(struct table *t, struct key_slot *k, uint32_t number, const struct key *key)
{
    if (key->not_after == TIME_NONE && key->keep_old == TIME_NONE && !key->sent.n) {
        drop_extra(t, k);
        return true;
    }
    if (k->extra == NONE) {
        uint32_t at = t->free_extra;
        if (at == NONE && !pool_reserve(&t->extras, t->extras.n + 1))
            return false;
        if (at == NONE)
            at = (uint32_t)t->extras.n++;
        else
            t->free_extra = extra_at(t, at)->sent;
        *extra_at(t, at) = (struct extra_slot){.key = number};
        k->extra = at;
    }
    struct extra_slot *e = extra_at(t, k->extra);
    uint32_t sent = e->sent;
    const bool same = key->sent.n == e->sent_n && (!e->sent_n || str_eq(text_at(t, e->sent, e->sent_n), key->sent));
    if (!same && key->sent.n && !pool_add_text(&t->text, key->sent, AT_ONCE, &sent))
        return false;
    if (!same)
        t->lost += e->sent_n;
    *e = (struct extra_slot){.not_after = key->not_after, .keep_old = key->keep_old, .key = number, .sent = sent,
                             .sent_n = (uint16_t)key->sent.n};
    return true;
}

static uint32_t number_of(const struct table *t, const struct user_slot *u, const struct key_slot *k)
{
    uint32_t i = u->first;
    while (key_at(t, i) != k)
        i = key_at(t, i)->next;
    return i;
}

bool table_set(struct table *t, const struct key_row *row)
{
    const struct key *key = &row->key;
    if (row->user.n > KEY_TEXT_MAX || key->id.n > KEY_TEXT_MAX || key->sent.n > KEY_SENT_MAX ||
        key->state > KEY_OFFERED || key->under >= TABLE_MASTERS || key->seq >> 40)
        return false;
    uint32_t hash = name_hash(t->seed, row->user);
    size_t place;
    struct user_slot *u = find_user(t, row->user, hash, &place);
    struct key_slot *k = u ? find_key(t, u, key->id) : NULL;
    if (k && k->type != key->type)
        return false;
    if (k)
        count_key(t, k, (size_t)-1);
    else if ((!u && !(u = add_user(t, row->user, hash, place))) || !(k = add_key(t, u, key)))
        return false;
    k->seq = key->seq & 0xffffffffff;
    k->state = key->state & 7;
    k->origin = key->origin & 3;
    k->due = key->due;
    k->under = key->under & 15;
    k->since = key->since == TIME_NONE ? 0 : (uint32_t)(key->since / US_PER_S);
    memcpy(k->sealed, key->sealed, sizeof k->sealed);
    u->long_texts |= key->id.n > AT_ONCE || key->sent.n;
    count_key(t, k, 1);
    return set_extra(t, k, number_of(t, u, k), key);
}

static struct key_slot *table_seek(const struct table *t, struct str user, struct str id, struct user_slot **u)
{
    *u = user.p && id.p ? find_user(t, user, name_hash(t->seed, user), NULL) : NULL;
    return *u ? find_key(t, *u, id) : NULL;
}

void table_remove(struct table *t, struct str user, struct str id)
{
    struct user_slot *u;
    struct key_slot *k = table_seek(t, user, id, &u);
    if (!k)
        return;
    uint32_t number = number_of(t, u, k), *link = &u->first;
    while (*link != number)
        link = &key_at(t, *link)->next;
    *link = k->next;
    u->keys--;
    t->n--;
    count_key(t, k, (size_t)-1);
    t->lost += k->id_n;
    drop_extra(t, k);
    memset(k, 0, sizeof *k);
    k->next = t->free_key;
    t->free_key = number;
}

/* All but its ID; `sent` has its length alone. */
static inline __attribute__((always_inline)) void take_key(const struct table *t, const struct key_slot *k,
                                                           struct key *out)
{
    out->type = k->type; /* one by one: as one value it would be cleared before, which costs more than all of it */
    out->state = k->state;
    out->origin = k->origin;
    out->due = k->due;
    out->under = k->under;
    out->seq = k->seq;
    out->since = k->since ? (int64_t)k->since * US_PER_S : TIME_NONE;
    memcpy(out->sealed, k->sealed, sizeof out->sealed);
    if (k->extra == NONE) {
        out->not_after = out->keep_old = TIME_NONE;
        out->sent = STR_MISSING;
        return;
    }
    const struct extra_slot *e = extra_at(t, k->extra);
    out->not_after = e->not_after;
    out->keep_old = e->keep_old;
    out->sent = (struct str){NULL, e->sent_n};
}

bool table_find(const struct table *t, struct str user, struct str id, struct key *out)
{
    struct user_slot *u;
    const struct key_slot *k = table_seek(t, user, id, &u);
    if (k)
        take_key(t, k, out);
    out->id = STR_MISSING;
    return k != NULL;
}

/* Enough for the texts of all of a user's keys, AT_ONCE bytes for each however short, so that most are not added up. */
static size_t room_for(const struct table *t, const struct user_slot *u)
{
    size_t n = AT_ONCE;
    if (!u || !u->long_texts)
        return n * LIMIT_USER_KEYS;
    for (uint32_t place = 0, i = u->first; place < LIMIT_USER_KEYS; place++, i = key_at(t, i)->next) {
        const struct key_slot *k = key_at(t, i);
        n += k->extra == NONE ? k->id_n : k->id_n + extra_at(t, k->extra)->sent_n;
    }
    return n;
}

/* The texts go to `at`; what is there behind the ID is written over by the next one. Returns where that goes. */
static inline __attribute__((always_inline)) char *copy_key(const struct table *t, const struct key_slot *k, char *at,
                                                            struct key *out)
{
    const char *const id = text_of(t, k->id);
    const size_t n = k->id_n;
    take_key(t, k, out);
    out->id = (struct str){at, n};
    memcpy(at, id, AT_ONCE);
    if (n > AT_ONCE)
        memcpy(at + AT_ONCE, id + AT_ONCE, n - AT_ONCE);
    at += n;
    if (k->extra == NONE || !out->sent.n)
        return at;
    out->sent.p = memcpy(at, text_of(t, extra_at(t, k->extra)->sent), out->sent.n);
    return at + out->sent.n;
}

enum keystore_result table_user(const struct table *t, struct str user, struct keyring *out)
{
    if (!user.p || user.n > KEY_TEXT_MAX)
        return KEYSTORE_NOT_FOUND;
    const struct user_slot *u = find_user(t, user, name_hash(t->seed, user), NULL);
    char *at = block_take(user.n + room_for(t, u));
    if (!at)
        return KEYSTORE_FAILED;
    out->text = memcpy(at, user.p, user.n);
    at += user.n;
    struct key *key = out->keys;
    for (uint32_t place = 0, i = u ? u->first : NOBODYS; place < LIMIT_USER_KEYS; place++) {
        const struct key_slot *k = key_at(t, i);
        out->id_hash[place] = k->id_hash;
        at = copy_key(t, k, at, key);
        key += i != NOBODYS; /* nobody's stand all in one place, which needs no more of the cache */
        i = k->next;
    }
    out->n = (size_t)(key - out->keys);
    if (out->n)
        out->user = (struct str){out->text, user.n};
    return out->n ? KEYSTORE_OK : KEYSTORE_NOT_FOUND;
}

void table_count(const struct table *t, int64_t now_us, size_t out[2][KEY_STATES])
{
    memcpy(out, t->counts, sizeof t->counts);
    for (uint32_t i = 0; i < t->extras.n; i++) {
        const struct extra_slot *e = extra_at(t, i);
        if (e->key == NONE || e->not_after == TIME_NONE || e->not_after >= now_us)
            continue;
        const struct key_slot *k = key_at(t, e->key);
        if (k->state == KEY_REVOKED)
            continue;
        out[k->type][k->state]--;
        out[k->type][KEY_REVOKED]++;
    }
}

size_t table_under(const struct table *t, unsigned under)
{
    return under < TABLE_MASTERS ? t->under[under] : 0;
}

bool table_each(const struct table *t, bool (*each)(void *arg, const struct key_row *row), void *arg)
{
    for (size_t u = 0; u < t->users.n; u++)
        for (uint32_t i = user_at(t, u)->first; i != NOBODYS; i = key_at(t, i)->next) {
            const struct key_slot *k = key_at(t, i);
            struct key_row row = {.user = text_at(t, user_at(t, u)->name, user_at(t, u)->name_n)};
            take_key(t, k, &row.key);
            row.key.id = text_at(t, k->id, k->id_n);
            if (row.key.sent.n)
                row.key.sent = text_at(t, extra_at(t, k->extra)->sent, row.key.sent.n);
            if (!each(arg, &row))
                return false;
        }
    return true;
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
