#include "keys/keychange.h"

#include <stdlib.h>
#include <string.h>

#include "base/uri.h"

struct change *change_begin(struct keystore *ks, int patience_ms, enum keydb_result *result, struct detail *why)
{
    bool changed;
    pthread_mutex_lock(&ks->locks->db);
    *result = KEYDB_FAILED;
    struct change *c = calloc(1, sizeof *c);
    if (!c || !(c->v = secret_alloc(CHANGE_KEYS * sizeof *c->v))) {
        free(c);
        detail_set(why, "out of memory");
        return NULL;
    }
    c->ks = ks;
    c->openers.ks = ks;
    c->now_us = time_now_us();
    /* what others wrote comes in first: the sums that this change continues are theirs */
    if (ks->db)
        keydb_patience(ks->db, patience_ms);
    else
        detail_set(why, "these keys are in memory only");
    if (ks->db && (*result = keydb_begin(ks->db, true, why)) == KEYDB_OK &&
        (*result = keystore_absorb(ks, &changed, why)) == KEYDB_OK &&
        (*result = keystore_meta(ks->db, ks, &c->meta, c->sums, why)) == KEYDB_OK)
        return c;
    secret_free(c->v, CHANGE_KEYS * sizeof *c->v);
    free(c);
    return NULL;
}

static void forget_user(struct change *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->v[i].texts);
    secret_wipe(c->v, c->n * sizeof *c->v);
    for (size_t i = 0; i < c->tomb_n; i++)
        free(c->tombs[i].id);
    free(c->user);
    c->user = NULL;
    c->n = c->tomb_n = c->user_n = 0;
}

/* What this process has committed comes into its table. Want of memory passes: it is tried more than once. */
static bool follow_own(struct keystore *ks)
{
    enum { TRIES = 3 };
    struct detail later;
    bool changed;
    for (int i = 0; i < TRIES; i++) {
        if (keydb_begin(ks->db, false, &later) == KEYDB_OK && keystore_absorb(ks, &changed, &later) == KEYDB_OK)
            return true;
        keydb_rollback(ks->db);
    }
    return false;
}

bool change_commit(struct change *c, struct detail *why)
{
    struct keystore *ks = c->ks;
    struct detail later;
    if (!c->wrote && !keydb_is_draft(ks->db))
        return true;
    if (!keystore_meta_seal(ks->seals[ks->first], &c->meta, c->sums)) {
        c->result = KEYDB_FAILED;
        detail_set(why, "OpenSSL failed");
        return false;
    }
    if ((c->result = keydb_set_meta(ks->db, &c->meta, why)) != KEYDB_OK ||
        (c->result = keydb_commit(ks->db, why)) != KEYDB_OK)
        return false;
    /* it is done; should the table not follow now, the next refresh tries again */
    ks->behind = true;
    ks->stamp = keydb_stamp(ks->db, ks->database);
    if (follow_own(ks))
        ks->behind = false;
    else
        c->lags = true;
    (void)!keystore_count_up(ks, &later); /* a refresh, or keystore_counted(), tells when that failed */
    return true;
}

void change_end(struct keystore *ks, struct change *c)
{
    if (ks->db)
        keydb_rollback(ks->db);
    pthread_mutex_unlock(&ks->locks->db);
    if (!c)
        return;
    forget_user(c);
    free(c->tombs);
    openers_free(&c->openers);
    secret_free(c->v, CHANGE_KEYS * sizeof *c->v);
    free(c);
}

static bool lacks_memory(struct change *c, struct detail *why)
{
    c->result = KEYDB_FAILED;
    detail_set(why, "out of memory");
    return false;
}

static bool copy_texts(struct stored *s, const struct key *key)
{
    const size_t n = key->id.n + key->sent.n;
    if (!(s->texts = malloc(n + 1)))
        return false;
    memcpy(s->texts, key->id.p, key->id.n);
    if (key->sent.n)
        memcpy(s->texts + key->id.n, key->sent.p, key->sent.n);
    s->key.id = (struct str){s->texts, key->id.n};
    s->key.sent = (struct str){s->texts + key->id.n, key->sent.n};
    return true;
}

static bool take_tomb(struct change *c, const struct key_row *row, struct detail *why)
{
    if (c->tomb_n == c->tomb_cap) {
        const size_t cap = c->tomb_cap ? c->tomb_cap * 2 : 8;
        struct tomb *v = realloc(c->tombs, cap * sizeof *v);
        if (!v)
            return lacks_memory(c, why);
        c->tombs = v;
        c->tomb_cap = cap;
    }
    struct tomb *t = &c->tombs[c->tomb_n];
    *t = (struct tomb){.key = row->key, .hash = c->openers.clear, .id = str_dup(row->key.id)};
    if (!t->id)
        return lacks_memory(c, why);
    t->key.id.p = t->id;
    t->key.sent = STR("");
    c->tomb_n++;
    return true;
}

static bool take_stored(void *arg, const struct key_row *claim, struct detail *why)
{
    struct change *c = arg;
    struct key_row row = *claim;
    if ((c->result = keystore_verify(&c->openers, &row, why)) != KEYDB_OK)
        return false;
    if (row.key.state == KEY_PRUNED)
        return take_tomb(c, &row, why);
    if (c->n == LIMIT_USER_KEYS) {
        c->result = KEYDB_REFUSED;
        detail_set(why, "tampered with: more than %d keys of one user", LIMIT_USER_KEYS);
        return false;
    }
    struct stored *s = &c->v[c->n];
    *s = (struct stored){.key = row.key, .clear = c->openers.clear};
    if (!copy_texts(s, &row.key))
        return lacks_memory(c, why);
    c->n++;
    return true;
}

static int by_seq(const void *a, const void *b)
{
    const struct stored *x = a, *y = b;
    return x->key.seq < y->key.seq ? -1 : x->key.seq > y->key.seq;
}

bool change_fetch(struct change *c, struct str user, struct detail *why)
{
    forget_user(c);
    if (!(c->user = str_dup(user)))
        return lacks_memory(c, why);
    c->user_n = user.n;
    const enum keydb_result r = keydb_of_user(c->ks->db, user, take_stored, c, why);
    if (r != KEYDB_OK && (r != KEYDB_REFUSED || c->result == KEYDB_OK))
        c->result = r;
    for (size_t i = 1; i < c->n; i++) /* no library sort: it might leave keys behind in memory of its own */
        for (size_t k = i; k > 0 && by_seq(&c->v[k - 1], &c->v[k]) > 0; k--) {
            struct stored s = c->v[k];
            c->v[k] = c->v[k - 1];
            c->v[k - 1] = s;
            secret_wipe(&s, sizeof s);
        }
    return r == KEYDB_OK;
}

struct stored *change_find(struct change *c, struct str id)
{
    for (size_t i = 0; i < c->n; i++)
        if (!c->v[i].gone && str_eq(c->v[i].key.id, id))
            return &c->v[i];
    return NULL;
}

struct stored *change_newest(struct change *c, enum key_type type, enum key_state state)
{
    struct stored *newest = NULL;
    for (size_t i = 0; i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (!s->gone && s->key.type == type && s->key.state == state && key_usable(&s->key, c->now_us) &&
            (!newest || s->key.seq > newest->key.seq))
            newest = s;
    }
    return newest;
}

size_t change_retiring(struct change *c, enum key_type type)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        n += !c->v[i].gone && c->v[i].key.type == type && c->v[i].key.state == KEY_RETIRING &&
             key_usable(&c->v[i].key, c->now_us);
    return n;
}

static const struct tomb *find_tomb(const struct change *c, struct str id)
{
    for (size_t i = 0; i < c->tomb_n; i++)
        if (str_eq(c->tombs[i].key.id, id))
            return &c->tombs[i];
    return NULL;
}

bool change_taken(struct change *c, struct str id)
{
    return change_find(c, id) || find_tomb(c, id);
}

static bool keychange_hash(const struct change *c, const struct secret_key *clear, struct secret_key *out)
{
    return seal_hash(c->ks->seals[c->ks->first], clear, out);
}

bool change_is_tomb(struct change *c, struct str id, const struct secret_key *clear, bool *same)
{
    struct secret_key h SECRET_CLEANUP = {{0}};
    const struct tomb *t = find_tomb(c, id);
    *same = t && keychange_hash(c, clear, &h) && secret_equal(t->hash.b, h.b, sizeof h.b);
    return t != NULL;
}

bool change_was_revoked(struct change *c, const struct secret_key *clear, struct str *id)
{
    struct secret_key h SECRET_CLEANUP = {{0}};
    for (size_t i = 0; i < c->n; i++) {
        const struct stored *s = &c->v[i];
        if (!s->gone && !key_usable(&s->key, c->now_us) && secret_equal(s->clear.b, clear->b, sizeof clear->b)) {
            *id = s->key.id;
            return true;
        }
    }
    if (!c->tomb_n || !keychange_hash(c, clear, &h))
        return false;
    for (size_t i = 0; i < c->tomb_n; i++)
        if (secret_equal(c->tombs[i].hash.b, h.b, sizeof h.b)) {
            *id = c->tombs[i].key.id;
            return true;
        }
    return false;
}

static bool fails(struct change *c, struct detail *why)
{
    c->result = KEYDB_FAILED;
    detail_set(why, "OpenSSL failed, or out of memory");
    return false;
}

/* Of the row as it is in the database now. */
static bool take_from_sum(struct change *c, const struct key *key, bool tomb, struct detail *why)
{
    struct seal_sum tag;
    if (!keystore_tag(&c->openers, key, &tag))
        return fails(c, why);
    seal_sum_take(&c->sums[tomb], &tag);
    return true;
}

/* `key` with a new seq, sealed anew, in the database and in a sum. */
static bool put_row(struct change *c, struct key *key, const struct secret_key *clear, struct detail *why)
{
    const struct keystore *ks = c->ks;
    struct seal_sum tag;
    key->seq = ++c->meta.last_seq;
    key->under = (uint8_t)ks->first;
    struct key_row row = {.user = {c->user, c->user_n}, .master = seal_name(ks->seals[ks->first])};
    if (!seal_close(ks->seals[ks->first], row.user, key, clear) || !keystore_tag(&c->openers, key, &tag))
        return fails(c, why);
    seal_sum_add(&c->sums[key->state == KEY_PRUNED], &tag);
    row.key = *key;
    c->wrote = true;
    return (c->result = keydb_put(ks->db, &row, why)) == KEYDB_OK;
}

bool change_write(struct change *c, struct stored *s, struct detail *why)
{
    return take_from_sum(c, &s->key, false, why) && put_row(c, &s->key, &s->clear, why);
}

bool change_write_tomb(struct change *c, struct tomb *t, struct detail *why)
{
    return take_from_sum(c, &t->key, true, why) && put_row(c, &t->key, &t->hash, why);
}

bool change_overwrite(struct change *c, struct stored *s, const struct secret_key *clear, struct detail *why)
{
    s->clear = *clear;
    return change_write(c, s, why);
}

struct stored *change_add(struct change *c, const struct key *key, const struct secret_key *clear, struct detail *why)
{
    struct stored *s = &c->v[c->n];
    if (c->n == CHANGE_KEYS) {
        c->result = KEYDB_REFUSED;
        detail_set(why, "the user has %d keys already", LIMIT_USER_KEYS);
        return NULL;
    }
    *s = (struct stored){.key = *key, .clear = *clear};
    if (!copy_texts(s, key)) {
        lacks_memory(c, why);
        return NULL;
    }
    c->n++;
    c->meta.count++;
    return put_row(c, &s->key, clear, why) ? s : NULL;
}

bool change_retire_others(struct change *c, const struct stored *except, enum key_type type, int64_t end_us,
                          struct detail *why)
{
    for (size_t i = 0; i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (s == except || s->gone || s->key.type != type || s->key.state != KEY_ACTIVE)
            continue;
        s->key.state = KEY_RETIRING;
        if (end_us != TIME_NONE && (s->key.not_after == TIME_NONE || s->key.not_after > end_us))
            s->key.not_after = end_us;
        if (!change_write(c, s, why))
            return false;
    }
    return true;
}

/* The oldest of those that retire and are usable. */
static struct stored *oldest_retiring(struct change *c, enum key_type type)
{
    struct stored *oldest = NULL;
    for (size_t i = 0; i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (!s->gone && s->key.type == type && s->key.state == KEY_RETIRING && key_usable(&s->key, c->now_us) &&
            (!oldest || s->key.seq < oldest->key.seq))
            oldest = s;
    }
    return oldest;
}

static struct stored *oldest_dead(struct change *c, enum key_type type, size_t *n)
{
    struct stored *oldest = NULL;
    *n = 0;
    for (size_t i = 0; i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (s->gone || s->key.type != type || key_usable(&s->key, c->now_us))
            continue;
        ++*n;
        if (!oldest || s->key.seq < oldest->key.seq)
            oldest = s;
    }
    return oldest;
}

static bool bury(struct change *c, struct stored *s, struct detail *why)
{
    struct secret_key h SECRET_CLEANUP = {{0}};
    if (!take_from_sum(c, &s->key, false, why))
        return false;
    c->meta.count--;
    s->gone = true;
    if (s->key.state != KEY_REVOKED) {
        struct key_row row = {.user = {c->user, c->user_n}, .key = {.id = s->key.id, .seq = ++c->meta.last_seq}};
        c->wrote = true;
        return (c->result = keydb_remove(c->ks->db, &row, why)) == KEYDB_OK;
    }
    struct key tomb = {.type = s->key.type, .state = KEY_PRUNED, .origin = s->key.origin, .not_after = TIME_NONE,
                       .since = TIME_NONE, .keep_old = TIME_NONE, .id = s->key.id};
    return keychange_hash(c, &s->clear, &h) ? put_row(c, &tomb, &h, why) : fails(c, why);
}

bool change_prune(struct change *c, struct detail *why)
{
    enum { DEAD_MAX = 2 };
    for (enum key_type type = KEY_INK; type <= KEY_TRK; type++) {
        size_t n = 0;
        while (change_retiring(c, type) > KEY_RETIRING_MAX) {
            struct stored *s = oldest_retiring(c, type);
            s->key.not_after = c->now_us - 1;
            if (!change_write(c, s, why))
                return false;
        }
        for (struct stored *s = oldest_dead(c, type, &n); n > DEAD_MAX; s = oldest_dead(c, type, &n))
            if (!bury(c, s, why))
                return false;
    }
    return true;
}

/* Controls, line and paragraph separators, and what Unicode calls format characters: a screen shows something else than
 * what is there. */
static bool is_hidden(uint32_t c)
{
    static const struct {
        uint32_t from, to;
    } HIDDEN[] = {
        {0, 0x1f},         {0x7f, 0x9f},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
        {0x6dd, 0x6dd},    {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},     {0x180e, 0x180e},
        {0x200b, 0x200f},  {0x2028, 0x202e},   {0x2060, 0x206f},   {0xfeff, 0xfeff},   {0xfff9, 0xfffb},
        {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
        {0xe0001, 0xe0001}, {0xe0020, 0xe007f},
    };
    for (size_t i = 0; i < sizeof HIDDEN / sizeof *HIDDEN; i++)
        if (c >= HIDDEN[i].from && c <= HIDDEN[i].to)
            return true;
    return false;
}

/* Of valid UTF-8. */
static bool shows_what_it_is(struct str s)
{
    for (size_t i = 0; i < s.n;) {
        const unsigned char b = (unsigned char)s.p[i++];
        size_t more = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : b >= 0xc0 ? 1 : 0;
        uint32_t c = more == 3 ? b & 7u : more == 2 ? b & 15u : more == 1 ? b & 31u : b;
        for (; more > 0 && i < s.n; more--)
            c = c << 6 | ((unsigned char)s.p[i++] & 63u);
        if (is_hidden(c))
            return false;
    }
    return true;
}

bool change_check_names(struct str user, struct str id, struct detail *why)
{
    if (!user.p || user.n > KEY_TEXT_MAX || !str_is_utf8(user) || !uri_is_any_uri(user))
        detail_set(why, "the user must be a URI of at most %d bytes", KEY_TEXT_MAX);
    else if (!shows_what_it_is(user))
        detail_set(why, "the user holds a control or format character, which no screen shows");
    else if (!id.p || !id.n || id.n > KEY_TEXT_MAX || !str_is_utf8(id) || str_trim(id).n != id.n)
        detail_set(why, "the ID must be 1 to %d bytes of UTF-8, not beginning or ending with a space", KEY_TEXT_MAX);
    else if (!shows_what_it_is(id))
        detail_set(why, "the ID must be without control and format characters, which no screen shows");
    else
        return true;
    return false;
}
