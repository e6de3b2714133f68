#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "keys/keystore_inside.h"

enum { FAULTS_TOLD = 100 };

/* One transaction of a writer. In secret memory, for the clear keys of the user at hand. */
struct change {
    struct keystore *ks;
    struct seal_opener *opener;
    struct keydb_meta meta; /* totals grow with each row written; goes in at the end */
    int64_t now_us;
    bool replace, wrote;
    struct str user;
    size_t n;
    struct stored {
        struct key key;
        struct secret_key clear;
        char id[KEY_TEXT_MAX];
    } v[LIMIT_USER_KEYS];
};

/* FAULT: this entry is refused, the next may be looked at. FAILED: nothing more can be done. */
enum outcome { DONE, FAULT, FAILED };

static bool take_stored(void *arg, const struct key_row *row, struct detail *why)
{
    struct change *c = arg;
    if (c->n == LIMIT_USER_KEYS) {
        detail_set(why, "tampered with: more than %d keys of one user", LIMIT_USER_KEYS);
        return false;
    }
    struct stored *s = &c->v[c->n];
    if (!seal_opener_open(c->opener, row->user, &row->key, &s->clear)) {
        detail_set(why, "tampered with: %s does not verify", key_row_name(row).text);
        return false;
    }
    s->key = row->key;
    memcpy(s->id, row->key.id.p, row->key.id.n);
    s->key.id.p = s->id;
    c->n++;
    return true;
}

/* Read from the database, not from the table: it has what this transaction wrote before. */
static bool fetch_user(struct change *c, struct str user, struct detail *why)
{
    c->user = user;
    c->n = 0;
    return keydb_of_user(c->ks->db, user, take_stored, c, why) == KEYDB_OK;
}

static struct stored *find(struct change *c, struct str id)
{
    for (size_t i = 0; i < c->n; i++)
        if (str_eq(c->v[i].key.id, id))
            return &c->v[i];
    return NULL;
}

/* key->seq: what the key had in the database, 0 for a new one. */
static bool write_key(struct change *c, struct key *key, const struct secret_key *clear, struct detail *why)
{
    struct key_totals *t = &c->meta.totals;
    t->count += key->seq == 0;
    t->seq_sum += ++t->last_seq - key->seq;
    key->seq = t->last_seq;
    struct key_row row = {.user = c->user, .key = *key};
    if (!seal_close(c->ks->seal, c->user, &row.key, clear)) {
        detail_set(why, "OpenSSL failed");
        return false;
    }
    c->wrote = true;
    return keydb_put(c->ks->db, &row, why) == KEYDB_OK;
}

static bool printable(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
            return false;
    return s.n > 0 && s.n <= KEY_TEXT_MAX && str_is_utf8(s);
}

/* What could never be found again, since no message can carry it, is refused here. */
static bool check_entry(const struct key_entry *e, struct detail *why)
{
    static const struct secret_key ZERO;
    if (!e->user.p || e->user.n > KEY_TEXT_MAX || !uri_is_any_uri(e->user))
        detail_set(why, "the user must be a URI of at most %d bytes", KEY_TEXT_MAX);
    else if (!e->id.p || !printable(e->id) || str_trim(e->id).n != e->id.n)
        detail_set(why, "the ID must be 1 to %d bytes of UTF-8 without control characters, not beginning or ending "
                        "with a space", KEY_TEXT_MAX);
    else if (e->type > KEY_TRK || e->state > KEY_REVOKED)
        detail_set(why, "a type or a state that does not exist");
    else if (secret_equal(e->key.b, ZERO.b, sizeof ZERO.b))
        detail_set(why, "an all-zero key");
    else
        return true;
    return false;
}

static const char *called(enum key_type t)
{
    return t == KEY_INK ? "InK" : "TrK";
}

/* The same key again: no change, unless more is said of it than the store knows; never back to a looser state. */
static enum outcome put_same(struct change *c, struct stored *s, const struct key_entry *e, enum key_change *did,
                             struct detail *why)
{
    bool stricter = e->state > s->key.state, other_end = e->not_after != TIME_NONE && e->not_after != s->key.not_after;
    *did = KEY_SAME;
    if (!stricter && !other_end)
        return DONE;
    if (!c->replace) {
        detail_set(why, "is known with another %s (`--replace` takes over the new one)",
                   stricter ? "state" : "not_after");
        return FAULT;
    }
    if (stricter)
        s->key.state = e->state;
    if (other_end)
        s->key.not_after = e->not_after;
    *did = KEY_REPLACED;
    return write_key(c, &s->key, &s->clear, why) ? DONE : FAILED;
}

static enum outcome check_against_stored(struct change *c, const struct stored *same, const struct key_entry *e,
                                         struct detail *why)
{
    if (same && !c->replace) {
        detail_set(why, "is known with other bytes (`keys import --replace` overwrites it)");
        return FAULT;
    }
    if (!same && c->n == LIMIT_USER_KEYS) {
        detail_set(why, "the user has %d keys already", LIMIT_USER_KEYS);
        return FAULT;
    }
    for (size_t i = 0; i < c->n; i++) {
        const struct key *k = &c->v[i].key;
        if (k->type == e->type || !secret_equal(c->v[i].clear.b, e->key.b, sizeof e->key.b))
            continue;
        detail_set(why, "equals the user's %s %.*s", called(k->type), k->id.n < 100 ? (int)k->id.n : 100, k->id.p);
        return FAULT;
    }
    return DONE;
}

static enum outcome put_entry(struct change *c, const struct key_entry *e, enum key_change *did, struct detail *why)
{
    if (!check_entry(e, why))
        return FAULT;
    if (!fetch_user(c, e->user, why))
        return FAILED;
    struct stored *same = find(c, e->id);
    if (same && same->key.type != e->type) {
        detail_set(why, "is known as a key of the other type, %s", called(same->key.type));
        return FAULT;
    }
    if (same && secret_equal(same->clear.b, e->key.b, sizeof e->key.b))
        return put_same(c, same, e, did, why);
    enum outcome o = check_against_stored(c, same, e, why);
    if (o != DONE)
        return o;
    bool takes_over = e->state == KEY_ACTIVE && (e->not_after == TIME_NONE || e->not_after >= c->now_us);
    for (size_t i = 0; takes_over && i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (s == same || s->key.type != e->type || s->key.state != KEY_ACTIVE)
            continue;
        s->key.state = KEY_RETIRING;
        if (!write_key(c, &s->key, &s->clear, why))
            return FAILED;
    }
    struct key key = {.type = e->type, .state = e->state, .not_after = e->not_after, .id = e->id};
    key.seq = same ? same->key.seq : 0;
    *did = same ? KEY_REPLACED : KEY_ADDED;
    return write_key(c, &key, &e->key, why) ? DONE : FAILED;
}

/* Takes the db lock; end_change() gives it back, also when this failed. */
static struct change *begin_change(struct keystore *ks, bool replace, struct detail *why)
{
    bool changed;
    pthread_mutex_lock(&ks->locks->db);
    keydb_patience(ks->db, 0);
    struct change *c = secret_alloc(sizeof *c);
    if (!c || !(c->opener = seal_opener_new(ks->seal))) {
        detail_set(why, "out of memory");
        goto failed;
    }
    c->ks = ks;
    c->now_us = time_now_us();
    c->replace = replace;
    /* what others wrote comes in first: the totals that this change continues are theirs */
    if (keydb_begin(ks->db, true, why) != KEYDB_OK || keystore_absorb(ks, &changed, why) != KEYDB_OK ||
        keystore_meta(ks->db, ks->seal, &c->meta, why) != KEYDB_OK)
        goto failed;
    return c;
failed:
    if (c) {
        seal_opener_free(c->opener);
        secret_free(c, sizeof *c);
    }
    return NULL;
}

static bool commit_change(struct change *c, struct detail *why)
{
    struct keystore *ks = c->ks;
    struct detail later;
    bool changed;
    if (!c->wrote)
        return true;
    if (!keystore_meta_mac(ks->seal, &c->meta, c->meta.mac)) {
        detail_set(why, "OpenSSL failed");
        return false;
    }
    if (keydb_set_meta(ks->db, &c->meta, why) != KEYDB_OK || keydb_commit(ks->db, why) != KEYDB_OK)
        return false;
    /* it is done; should the table not follow now, the next refresh tries again */
    ks->behind = true;
    if (keydb_begin(ks->db, false, &later) == KEYDB_OK && keystore_absorb(ks, &changed, &later) == KEYDB_OK)
        ks->behind = false;
    return true;
}

static void end_change(struct keystore *ks, struct change *c)
{
    keydb_rollback(ks->db);
    pthread_mutex_unlock(&ks->locks->db);
    if (!c)
        return;
    seal_opener_free(c->opener);
    secret_free(c, sizeof *c);
}

struct ordered {
    const struct key_entry *entry;
};

static int by_user_and_id(const void *a, const void *b)
{
    const struct key_entry *x = ((const struct ordered *)a)->entry, *y = ((const struct ordered *)b)->entry;
    int order = key_text_order(x->user, y->user);
    if (order == 0)
        order = key_text_order(x->id, y->id);
    return order ? order : (x < y ? -1 : x > y);
}

struct teller {
    void (*fault)(void *arg, size_t at, const char *text);
    void *arg;
    size_t told;
};

static void tell(struct teller *t, size_t at, const char *text)
{
    if (t->told++ < FAULTS_TOLD)
        t->fault(t->arg, at, text);
}

static void tell_entry(struct teller *t, size_t at, const struct key_entry *e, const struct detail *why)
{
    struct key_row row = {.user = e->user, .key = {.id = e->id}};
    struct detail text;
    detail_set(&text, "%s: %s", key_row_name(&row).text, why->text);
    tell(t, at, text.text);
}

/* `replace` is about what the store has: two keys of one ID in one file are a mistake in any case. */
static bool check_doubles(const struct key_entry *v, size_t n, struct teller *t)
{
    struct ordered *order = malloc((n + 1) * sizeof *order);
    if (!order) {
        tell(t, n, "out of memory");
        return false;
    }
    for (size_t i = 0; i < n; i++)
        order[i].entry = &v[i];
    qsort(order, n, sizeof *order, by_user_and_id);
    for (size_t i = 1; i < n; i++) {
        const struct key_entry *a = order[i - 1].entry, *b = order[i].entry;
        if (str_eq(a->user, b->user) && str_eq(a->id, b->id) &&
            (a->type != b->type || !secret_equal(a->key.b, b->key.b, sizeof a->key.b))) {
            struct detail why;
            detail_set(&why, "is given twice, with different keys");
            tell_entry(t, (size_t)(b - v), b, &why);
        }
    }
    free(order);
    return t->told == 0;
}

static bool put_all(struct change *c, const struct key_entry *v, size_t n, size_t counts[3], struct teller *t)
{
    for (size_t i = 0; i < n && t->told < FAULTS_TOLD; i++) {
        struct detail why = {{0}};
        enum key_change did = KEY_SAME;
        enum outcome o = put_entry(c, &v[i], &did, &why);
        if (o == DONE) {
            counts[did]++;
            continue;
        }
        if (o == FAILED) {
            tell(t, n, why.text);
            break;
        }
        tell_entry(t, i, &v[i], &why);
    }
    return t->told == 0;
}

bool keystore_import(struct keystore *ks, const struct key_entry *v, size_t n, bool replace, size_t counts[3],
                     void (*fault)(void *arg, size_t at, const char *text), void *arg)
{
    struct teller t = {.fault = fault, .arg = arg};
    struct detail why = {{0}};
    counts[KEY_ADDED] = counts[KEY_REPLACED] = counts[KEY_SAME] = 0;
    if (!check_doubles(v, n, &t))
        return false;
    struct change *c = begin_change(ks, replace, &why);
    bool ok = c && put_all(c, v, n, counts, &t);
    if (ok)
        ok = commit_change(c, &why);
    end_change(ks, c);
    if (!ok && t.told == 0)
        tell(&t, n, why.text);
    return ok;
}

struct first_fault {
    const char *file;
    struct faults *faults;
    size_t *at;
    bool there;
};

static void take_first(void *arg, size_t at, const char *text)
{
    struct first_fault *f = arg;
    if (!f->there)
        *f->at = at;
    f->there = true;
    faults_add(f->faults, f->file, 0, 0, "%s", text);
}

bool keystore_put(struct keystore *ks, const struct key_entry *v, size_t n, bool replace, size_t counts[3], size_t *at,
                  struct faults *faults)
{
    struct first_fault f = {.file = ks->path, .faults = faults, .at = at};
    return keystore_import(ks, v, n, replace, counts, take_first, &f);
}

static bool set_state(struct change *c, struct str user, struct str id, enum key_state state, struct detail *why)
{
    struct key_row row = {.user = user, .key = {.id = id}};
    if (!fetch_user(c, user, why))
        return false;
    struct stored *s = find(c, id);
    if (!s)
        detail_set(why, "%s: there is no such key", key_row_name(&row).text);
    else if (s->key.state == state)
        return true;
    else if (s->key.state == KEY_REVOKED)
        detail_set(why, "%s: was revoked, for good", key_row_name(&row).text);
    else if (state == KEY_ACTIVE)
        detail_set(why, "%s: is retiring; a new key becomes active, not an old one", key_row_name(&row).text);
    else {
        s->key.state = state;
        return write_key(c, &s->key, &s->clear, why);
    }
    return false;
}

bool keystore_set_state(struct keystore *ks, struct str user, struct str id, enum key_state state,
                        struct faults *faults)
{
    struct detail why = {{0}};
    struct change *c = begin_change(ks, false, &why);
    bool ok = c && set_state(c, user, id, state, &why) && commit_change(c, &why);
    end_change(ks, c);
    if (!ok)
        faults_add(faults, ks->path, 0, 0, "%s", why.text);
    return ok;
}
