#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "keys/keychange.h"

enum { FAULTS_TOLD = 100, PROGRESS_EACH = 256 /* also: whose rows are fetched at once */ };

/* What could never be used is refused here. */
static bool check_entry(const struct key_entry *e, struct detail *why)
{
    static const struct secret_key ZERO;
    if (!change_check_names(e->user, e->id, why))
        return false;
    if (e->type > KEY_TRK || e->state > KEY_OFFERED)
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

static int strictness(enum key_state s)
{
    return s == KEY_REVOKED ? 2 : s == KEY_RETIRING ? 1 : 0;
}

/* The same key again: no change, unless more is said of it than the store knows; never back to a looser state. */
static enum outcome put_same(struct change *c, struct stored *s, const struct key_entry *e, unsigned how,
                             enum key_change *did, struct detail *why)
{
    const bool stricter = strictness(e->state) > strictness(s->key.state),
               other_end = e->not_after != TIME_NONE && e->not_after != s->key.not_after;
    *did = KEY_SAME;
    if (!stricter && !other_end)
        return DONE;
    if (!(how & KEY_PUT_REPLACE)) {
        detail_set(why, "is known with another %s (`--replace` takes over the new one)",
                   stricter ? "state" : "not_after");
        return FAULT;
    }
    if (stricter)
        s->key.state = e->state;
    if (other_end)
        s->key.not_after = e->not_after;
    *did = KEY_REPLACED;
    return change_write(c, s, why) && change_prune(c, why) ? DONE : FAILED;
}

static enum outcome check_against_stored(struct change *c, const struct stored *same, const struct key_entry *e,
                                         unsigned how, struct detail *why)
{
    struct str id;
    if (same && !(how & KEY_PUT_REPLACE)) {
        detail_set(why, "is known with other bytes (`keys import --replace` overwrites it)");
        return FAULT;
    }
    if (same && same->key.state == KEY_REVOKED) {
        detail_set(why, "was revoked, for good: other bytes need another ID");
        return FAULT;
    }
    for (size_t i = 0; i < c->n; i++) {
        const struct key *k = &c->v[i].key;
        if (c->v[i].gone || k->type == e->type || !secret_equal(c->v[i].clear.b, e->key.b, sizeof e->key.b))
            continue;
        detail_set(why, "equals the user's %s %.*s", called(k->type), k->id.n < 100 ? (int)k->id.n : 100, k->id.p);
        return FAULT;
    }
    if (!(how & KEY_PUT_FORCE) && change_was_revoked(c, &e->key, &id)) {
        detail_set(why, "has the bytes of %.*s, which was revoked or has expired: make a new key (`--force` takes this "
                        "one)", id.n < 100 ? (int)id.n : 100, id.p);
        return FAULT;
    }
    return DONE;
}

/* How the key comes to stand: what has ended already takes nothing over from one that is in use. */
static bool settle_others(struct change *c, const struct stored *same, struct key *key, struct detail *why)
{
    if (key->state == KEY_OFFERED) {
        struct stored *offered = change_newest(c, key->type, KEY_OFFERED);
        if (!offered || offered == same)
            return true;
        offered->key.state = KEY_RETIRING;
        return change_write(c, offered, why);
    }
    if (key->state != KEY_ACTIVE)
        return true;
    if (!key_usable(key, c->now_us) && change_newest(c, key->type, KEY_ACTIVE)) {
        key->state = KEY_RETIRING;
        return true;
    }
    return change_retire_others(c, same, key->type, TIME_NONE, why);
}

static enum outcome put_new(struct change *c, struct stored *same, const struct key_entry *e, unsigned how,
                            struct detail *why)
{
    struct key key = {.type = e->type, .state = e->state, .not_after = e->not_after, .id = e->id,
                      .keep_old = TIME_NONE,
                      .since = e->state == KEY_OFFERED ? TIME_NONE : c->now_us / US_PER_S * US_PER_S,
                      .origin = how & KEY_PUT_BY_HAND ? KEY_BY_HAND : KEY_IMPORTED};
    if (!settle_others(c, same, &key, why))
        return FAILED;
    if (!same)
        return change_add(c, &key, &e->key, why) && change_prune(c, why) ? DONE : FAILED;
    same->key.state = key.state;
    same->key.not_after = key.not_after;
    same->key.since = key.since;
    same->key.origin = key.origin;
    same->key.due = false;
    same->key.keep_old = TIME_NONE;
    same->key.sent.n = 0;
    return change_overwrite(c, same, &e->key, why) && change_prune(c, why) ? DONE : FAILED;
}

static enum outcome put_entry(struct change *c, const struct key_entry *e, unsigned how, enum key_change *did,
                              struct detail *why)
{
    bool same_bytes;
    if (!check_entry(e, why))
        return FAULT;
    if (!change_fetch(c, e->user, why))
        return FAILED;
    if (change_is_tomb(c, e->id, &e->key, &same_bytes)) { /* like the revoked key that it stands for */
        *did = KEY_SAME;
        if (same_bytes)
            return DONE;
        detail_set(why, "was revoked, for good: other bytes need another ID");
        return FAULT;
    }
    struct stored *same = change_find(c, e->id);
    if (same && same->key.type != e->type) {
        detail_set(why, "is known as a key of the other type, %s", called(same->key.type));
        return FAULT;
    }
    if (same && secret_equal(same->clear.b, e->key.b, sizeof e->key.b))
        return put_same(c, same, e, how, did, why);
    const enum outcome o = check_against_stored(c, same, e, how, why);
    if (o != DONE)
        return o;
    *did = same ? KEY_REPLACED : KEY_ADDED;
    return put_new(c, same, e, how, why);
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
    const struct key_telling *to;
    size_t told;
};

static void keystore_write_tell(struct teller *t, size_t at, const char *text)
{
    if (t->told++ < FAULTS_TOLD && t->to->fault)
        t->to->fault(t->to->arg, at, text);
}

static void tell_entry(struct teller *t, size_t at, const struct key_entry *e, const struct detail *why)
{
    struct key_row row = {.user = e->user, .key = {.id = e->id}};
    struct detail text;
    detail_set(&text, "%s: %s", key_row_name(&row).text, why->text);
    keystore_write_tell(t, at, text.text);
}

/* `replace` is about what the store has: two keys of one ID in one file are a mistake in any case. Returns which of the
 * n entries that was said of; the caller frees it. NULL without memory. */
static bool *check_doubles(const struct key_entry *v, size_t n, struct teller *t)
{
    struct ordered *order = malloc((n + 1) * sizeof *order);
    bool *doubled = calloc(n + 1, sizeof *doubled);
    if (!order || !doubled) {
        free(order);
        free(doubled);
        keystore_write_tell(t, n, "out of memory");
        return NULL;
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
            doubled[b - v] = true;
        }
    }
    free(order);
    return doubled;
}

/* The entries at hand need the rows of their users. */
static bool fetch_ahead(struct change *c, const struct key_entry *v, size_t n, struct detail *why)
{
    struct str users[PROGRESS_EACH];
    size_t found = 0;
    for (size_t i = 0; i < n && i < PROGRESS_EACH; i++)
        if (v[i].user.n && v[i].user.n <= KEY_TEXT_MAX && uri_is_any_uri(v[i].user) &&
            (!found || !str_eq(v[i].user, users[found - 1])))
            users[found++] = v[i].user;
    return !found || keydb_fetch(c->ks->db, users, found, why) == KEYDB_OK;
}

/* `doubled` is not tried: what it is held against is not what will be there. */
static bool put_all(struct change *c, const struct key_entry *v, const bool *doubled, size_t n, unsigned how,
                    size_t counts[3], struct teller *t)
{
    for (size_t i = 0; i < n && t->told < FAULTS_TOLD; i++) {
        struct detail why = {{0}};
        enum key_change did = KEY_SAME;
        if (t->to->progress && i % PROGRESS_EACH == 0)
            t->to->progress(t->to->arg, i, n);
        if (i % PROGRESS_EACH == 0 && !fetch_ahead(c, v + i, n - i, &why)) {
            keystore_write_tell(t, n, why.text);
            break;
        }
        if (doubled[i])
            continue;
        enum outcome o = put_entry(c, &v[i], how, &did, &why);
        if (o == DONE) {
            counts[did]++;
            continue;
        }
        if (o == FAILED) {
            keystore_write_tell(t, n, why.text);
            break;
        }
        tell_entry(t, i, &v[i], &why);
    }
    if (t->to->progress)
        t->to->progress(t->to->arg, n, n);
    return t->told == 0;
}

bool keystore_import(struct keystore *ks, const struct key_entry *v, size_t n, unsigned how, size_t counts[3],
                     const struct key_telling *telling)
{
    struct teller t = {.to = telling};
    struct detail why = {{0}};
    counts[KEY_ADDED] = counts[KEY_REPLACED] = counts[KEY_SAME] = 0;
    bool *doubled = check_doubles(v, n, &t);
    if (!doubled)
        return false;
    enum keydb_result r;
    struct change *c = change_begin(ks, 0, &r, &why);
    bool ok = c && put_all(c, v, doubled, n, how, counts, &t);
    if (ok && !(how & KEY_PUT_DRY))
        ok = change_commit(c, &why);
    change_end(ks, c);
    free(doubled);
    if (!ok && (t.told == 0 || !c))
        keystore_write_tell(&t, n, why.text);
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
    struct first_fault f = {.file = ks->where, .faults = faults, .at = at};
    const struct key_telling telling = {.fault = take_first, .arg = &f};
    return keystore_import(ks, v, n, replace ? KEY_PUT_REPLACE : 0, counts, &telling);
}
