#include "keys/keychange.h"
#include "keys/keylife.h"

struct revoking {
    struct change *c;
    bool cascade;
    bool met[CHANGE_KEYS]; /* of c->v: looked at */
    struct {
        const struct stored *key;
        bool revoked;
    } told[CHANGE_KEYS]; /* in their order, once all is committed */
    size_t n;
};

static void revoke_note(struct revoking *r, const struct stored *s, bool revoked)
{
    r->told[r->n].key = s;
    r->told[r->n++].revoked = revoked;
}

static bool revoke_one(struct revoking *r, struct stored *s, struct detail *why);

/* What was sent under that TrK, be it a key, a tombstone or long gone. */
static bool revoke_sent(struct revoking *r, struct str trk, struct detail *why)
{
    struct change *c = r->c;
    for (size_t i = 0; i < c->n; i++) {
        struct stored *o = &c->v[i];
        if (r->met[i] || o->gone || !key_sent_under(&o->key, trk))
            continue;
        if (o->key.state != KEY_REVOKED && o->key.since != TIME_NONE && !r->cascade) {
            r->met[i] = true;
            revoke_note(r, o, false);
        } else if (!revoke_one(r, o, why)) { /* at most as deep as the user has keys: each is met once */
            return false;
        }
    }
    return true;
}

/* Of a key that was revoked before what was sent under it may be left: a cascade goes on behind it. */
static bool revoke_one(struct revoking *r, struct stored *s, struct detail *why)
{
    if (r->met[s - r->c->v])
        return true;
    r->met[s - r->c->v] = true;
    if (s->key.state != KEY_REVOKED) {
        s->key.state = KEY_REVOKED;
        if (!change_write(r->c, s, why))
            return false;
        revoke_note(r, s, true);
    }
    return s->key.type != KEY_TRK || revoke_sent(r, s->key.id, why);
}

static bool was_sent_under(const struct change *c, struct str trk)
{
    for (size_t i = 0; i < c->n; i++)
        if (key_sent_under(&c->v[i].key, trk))
            return true;
    return false;
}

static bool revoke(struct revoking *r, struct str user, struct str id, struct detail *why)
{
    struct change *c = r->c;
    struct key_row row = {.user = user, .key = {.id = id.p ? id : STR("(any)")}};
    if (!change_fetch(c, user, why))
        return false;
    struct stored *s = id.p ? change_find(c, id) : NULL;
    if (s)
        return revoke_one(r, s, why);
    if (id.p ? !change_taken(c, id) && !was_sent_under(c, id) : !c->n) {
        detail_set(why, "%s: there is no such key", key_row_name(&row).text);
        return false;
    }
    if (id.p)
        return revoke_sent(r, id, why);
    r->cascade = true;
    for (size_t i = 0; i < c->n; i++)
        if (!revoke_one(r, &c->v[i], why))
            return false;
    return true;
}

bool keystore_revoke(struct keystore *ks, struct str user, struct str id, bool cascade,
                     void (*told)(void *arg, struct str id, enum key_type type, bool revoked), void *arg,
                     struct faults *faults)
{
    struct detail why = {{0}};
    enum keydb_result result;
    struct change *c = change_begin(ks, 0, &result, &why);
    struct revoking r = {.c = c, .cascade = cascade};
    const bool ok = c && revoke(&r, user, id, &why) && change_commit(c, &why);
    for (size_t i = 0; ok && told && i < r.n; i++)
        told(arg, r.told[i].key->key.id, r.told[i].key->key.type, r.told[i].revoked);
    change_end(ks, c);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}

static bool revoke_retire(struct change *c, struct str user, struct str id, enum key_state state, struct detail *why)
{
    struct key_row row = {.user = user, .key = {.id = id}};
    if (!change_fetch(c, user, why))
        return false;
    struct stored *s = change_find(c, id);
    if (!s)
        detail_set(why, "%s: there is no such key", key_row_name(&row).text);
    else if (s->key.state == state)
        return true;
    else if (s->key.state == KEY_REVOKED)
        detail_set(why, "%s: was revoked, for good", key_row_name(&row).text);
    else if (state != KEY_RETIRING)
        detail_set(why, "%s: is %s; a new key becomes active, not an old one", key_row_name(&row).text,
                   key_state_name(s->key.state));
    else if (s->key.state == KEY_OFFERED)
        detail_set(why, "%s: is offered and becomes active when its user uses it; `keys revoke` takes it back",
                   key_row_name(&row).text);
    else {
        s->key.state = state;
        return change_write(c, s, why) && change_prune(c, why);
    }
    return false;
}

bool keystore_set_state(struct keystore *ks, struct str user, struct str id, enum key_state state,
                        struct faults *faults)
{
    struct detail why = {{0}};
    enum keydb_result result;
    if (state == KEY_REVOKED)
        return keystore_revoke(ks, user, id, false, NULL, NULL, faults);
    struct change *c = change_begin(ks, 0, &result, &why);
    const bool ok = c && revoke_retire(c, user, id, state, &why) && change_commit(c, &why);
    change_end(ks, c);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}

static bool make_due(struct change *c, struct str user, size_t *n, struct detail *why)
{
    *n = 0;
    if (!change_fetch(c, user, why))
        return false;
    for (enum key_type type = KEY_INK; type <= KEY_TRK; type++) {
        struct stored *s = change_newest(c, type, KEY_ACTIVE);
        if (!s)
            continue;
        ++*n;
        if (s->key.due)
            continue;
        s->key.due = true;
        if (!change_write(c, s, why))
            return false;
    }
    if (!*n)
        detail_set(why, "user %.*s has no active key", STR_FMT(user));
    return *n > 0;
}

bool keystore_make_due(struct keystore *ks, struct str user, size_t *n, struct faults *faults)
{
    struct detail why = {{0}};
    enum keydb_result result;
    struct change *c = change_begin(ks, 0, &result, &why);
    const bool ok = c && make_due(c, user, n, &why) && change_commit(c, &why);
    change_end(ks, c);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}
