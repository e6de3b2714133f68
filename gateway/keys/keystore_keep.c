#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "keys/keychange.h"

enum { USERS_EACH = 200 };

/* What is done to every user, USERS_EACH in a transaction. */
typedef bool keep_deed(struct change *c, size_t *n, struct detail *why);
struct walk {
    struct change *c;
    keep_deed *deed;
    struct buf names; /* of the users of this transaction, each with its NUL */
    char last[KEY_TEXT_MAX + 1];
    size_t last_n, users, done, n;
};

static bool take_name(void *arg, struct str user, struct str id, struct detail *why)
{
    struct walk *w = arg;
    (void)id;
    if (w->users == USERS_EACH) {
        detail_set(why, "more users than were asked for");
        return false;
    }
    buf_str(&w->names, user);
    buf_char(&w->names, 0);
    if (w->names.failed)
        detail_set(why, "out of memory");
    w->users++;
    return !w->names.failed;
}

static bool keep_users(struct walk *w, struct detail *why)
{
    const struct str after = w->last_n ? (struct str){w->last, w->last_n} : STR_MISSING;
    buf_reset(&w->names);
    w->users = 0;
    if (keydb_users(w->c->ks->db, after, USERS_EACH, take_name, w, why) != KEYDB_OK)
        return false;
    struct str names[USERS_EACH] = {{NULL, 0}};
    size_t at = 0;
    for (size_t i = 0; i < w->users; i++) {
        names[i] = str_z(w->names.p + at);
        at += names[i].n + 1;
    }
    if (w->users && keydb_fetch(w->c->ks->db, names, w->users, why) != KEYDB_OK)
        return false;
    for (size_t i = 0; i < w->users; i++) {
        const struct str user = names[i];
        if (!change_fetch(w->c, user, why) || !w->deed(w->c, &w->n, why))
            return false;
        memcpy(w->last, user.p, user.n);
        w->last_n = user.n;
    }
    w->done += w->users;
    return true;
}

static size_t count_users(struct keystore *ks)
{
    size_t n = 0;
    pthread_rwlock_rdlock(&ks->locks->table);
    n = table_size(ks->now.table) / 2; /* an estimate for the progress alone */
    pthread_rwlock_unlock(&ks->locks->table);
    return n;
}

static bool keep_all(struct keystore *ks, keep_deed *deed, const struct key_telling *tell, size_t *n,
                     struct faults *faults)
{
    struct walk *w = calloc(1, sizeof *w);
    struct detail why = {"out of memory"};
    const size_t about = count_users(ks);
    bool ok = w != NULL, more = true;
    if (w) {
        w->deed = deed;
        w->names = BUF_INIT(USERS_EACH * (KEY_TEXT_MAX + 1) + 1);
    }
    while (ok && more) {
        enum keydb_result r;
        w->c = change_begin(ks, 0, &r, &why);
        ok = w->c && keep_users(w, &why) && change_commit(w->c, &why);
        change_end(ks, w->c);
        more = ok && w->users > 0;
        if (ok && tell && tell->progress)
            tell->progress(tell->arg, w->done, more && w->done < about ? about : w->done);
    }
    *n = w ? w->n : 0;
    if (w)
        buf_free(&w->names);
    free(w);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}

static bool rekey_user(struct change *c, size_t *n, struct detail *why)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->v[i].key.under == c->ks->first)
            continue;
        if (!change_write(c, &c->v[i], why))
            return false;
        ++*n;
    }
    for (size_t i = 0; i < c->tomb_n; i++) {
        if (c->tombs[i].key.under == c->ks->first)
            continue;
        if (!change_write_tomb(c, &c->tombs[i], why))
            return false;
        ++*n;
    }
    return true;
}

/* The meta row is sealed under the first key by each change; there may have been none. */
static bool rekey_meta(struct keystore *ks, struct faults *faults)
{
    struct detail why = {{0}};
    enum keydb_result r;
    struct change *c = change_begin(ks, 0, &r, &why);
    bool ok = c != NULL;
    if (ok && !secret_equal(c->meta.check, seal_check(ks->seals[ks->first]), SEAL_CHECK)) {
        c->meta.last_seq++; /* a change, though of no key */
        c->wrote = true;
        ok = change_commit(c, &why);
    }
    change_end(ks, c);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}

bool keystore_rekey(struct keystore *ks, const struct key_telling *tell, size_t *n, struct faults *faults)
{
    return keep_all(ks, rekey_user, tell, n, faults) && rekey_meta(ks, faults);
}

static bool prune_user(struct change *c, size_t *n, struct detail *why)
{
    const uint64_t before = c->meta.count;
    if (!change_prune(c, why))
        return false;
    *n += before - c->meta.count;
    return true;
}

bool keystore_prune(struct keystore *ks, const struct key_telling *tell, size_t *n, struct faults *faults)
{
    return keep_all(ks, prune_user, tell, n, faults);
}
