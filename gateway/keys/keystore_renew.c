#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/buf.h"
#include "keys/keychange.h"
#include "keys/keylife.h"

enum { NUMBER_DIGITS_MAX = 18, ID_TRIES = 10000 };

bool key_sent_under(const struct key *key, struct str trk)
{
    for (size_t i = 0; i < key->sent.n;) {
        const char *end = memchr(key->sent.p + i, '\n', key->sent.n - i);
        const size_t n = end ? (size_t)(end - key->sent.p) - i : key->sent.n - i;
        if (str_eq((struct str){key->sent.p + i, n}, trk))
            return true;
        i += n + 1;
    }
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The first part between dots that is a number; n 0: none. */
static struct str number_in(struct str id)
{
    for (size_t i = 0; i < id.n;) {
        size_t n = 0;
        bool digits = true;
        for (; i + n < id.n && id.p[i + n] != '.'; n++)
            digits = digits && is_digit(id.p[i + n]);
        if (digits && n > 0 && n <= NUMBER_DIGITS_MAX)
            return (struct str){id.p + i, n};
        i += n + 1;
    }
    return (struct str){id.p, 0};
}

/* `ink.1.u` becomes `ink.2.u`, `key` becomes `key.2`; one that is taken gives way to the next. */
static bool next_id(struct change *c, struct str old, enum key_type type, struct buf *out, struct detail *why)
{
    const struct str start = old.n ? old : type == KEY_INK ? STR("ink.0") : STR("trk.0");
    const struct str number = number_in(start);
    const size_t before = (size_t)(number.p - start.p), after = before + number.n;
    unsigned long long value = number.n ? 0 : 1;
    for (size_t i = 0; i < number.n; i++)
        value = value * 10 + (unsigned long long)(number.p[i] - '0');
    for (int i = 0; i < ID_TRIES; i++) {
        buf_reset(out);
        value++;
        if (number.n)
            buf_printf(out, "%.*s%0*llu%.*s", (int)before, start.p, (int)number.n, value, (int)(start.n - after),
                       start.p + after);
        else
            buf_printf(out, "%.*s.%llu", STR_FMT(start), value);
        if (out->failed || out->n > KEY_TEXT_MAX)
            break;
        if (!change_taken(c, buf_view(out)))
            return true;
    }
    detail_set(why, "no ID is free behind %.*s", start.n < 100 ? (int)start.n : 100, start.p);
    return false;
}

static void give(struct key_fate *f, enum key_outcome outcome, const struct stored *s)
{
    char *id = str_dup(s->key.id);
    f->outcome = id ? outcome : KEY_DEFERRED;
    f->id = (struct str){id, id ? s->key.id.n : 0};
    f->key = s->clear;
}

/* Notes the TrK, once. False when there is no room for it: then it must not be sent. */
static enum outcome note_trk(struct change *c, struct stored *s, struct str trk, struct detail *why)
{
    if (!trk.n || key_sent_under(&s->key, trk))
        return DONE;
    const size_t n = s->key.id.n + s->key.sent.n + trk.n + 1;
    if (s->key.sent.n + trk.n + 1 > KEY_SENT_MAX)
        return FAULT;
    char *texts = malloc(n);
    if (!texts)
        return FAULT;
    memcpy(texts, s->texts, s->key.id.n + s->key.sent.n);
    memcpy(texts + n - trk.n - 1, trk.p, trk.n);
    texts[n - 1] = '\n';
    s->key.id.p = texts;
    s->key.sent = (struct str){texts + s->key.id.n, s->key.sent.n + trk.n + 1};
    free(s->texts);
    s->texts = texts;
    return change_write(c, s, why) ? DONE : FAILED;
}

static enum outcome resend(struct change *c, struct stored *s, const struct key_wish *w, struct key_fate *f)
{
    const enum outcome o = note_trk(c, s, w->trk, &f->why);
    if (o == DONE)
        give(f, KEY_RESENT, s);
    return o == FAILED ? FAILED : DONE;
}

static bool line_of(struct str trk, struct buf *out)
{
    if (trk.n) {
        buf_str(out, trk);
        buf_char(out, '\n');
    }
    return !out->failed;
}

static enum outcome insert(struct change *c, const struct key_wish *w, struct str id, enum key_origin origin,
                           struct key_fate *f)
{
    struct buf sent BUF_CLEANUP = BUF_INIT(KEY_SENT_MAX + 1);
    if (!line_of(w->trk, &sent))
        return FAULT;
    const struct key key = {.type = w->type, .state = KEY_OFFERED, .origin = origin, .not_after = TIME_NONE,
                            .since = TIME_NONE, .keep_old = w->keep_old_us, .id = id, .sent = buf_view(&sent)};
    struct stored *s = change_add(c, &key, &w->key, &f->why);
    if (!s || !change_prune(c, &f->why))
        return FAILED;
    give(f, origin == KEY_LEARNT ? KEY_TAKEN_UP : KEY_OFFERED_NEW, s);
    return DONE;
}

static enum outcome offer(struct change *c, const struct key_wish *w, struct key_fate *f)
{
    struct buf id BUF_CLEANUP = BUF_INIT(2 * KEY_TEXT_MAX);
    struct stored *trk = change_find(c, w->trk), *there = change_newest(c, w->type, KEY_OFFERED);
    if (!trk || trk->key.type != KEY_TRK || !key_usable(&trk->key, c->now_us))
        return DONE; /* revoked since the reply was begun */
    if (there)
        return resend(c, there, w, f);
    there = change_newest(c, w->type, KEY_ACTIVE);
    if (there && !str_eq(there->key.id, w->id))
        return resend(c, there, w, f); /* renewed meanwhile, or the client uses an older one */
    if (change_retiring(c, w->type) >= KEY_RETIRING_MAX || !next_id(c, w->id, w->type, &id, &f->why))
        return DONE;
    struct key_wish made = *w;
    const bool ok = RAND_bytes(made.key.b, sizeof made.key.b) == 1;
    const enum outcome o = ok ? insert(c, &made, buf_view(&id), KEY_RENEWED, f) : FAILED;
    secret_key_clear(&made.key);
    return o;
}

/* Only a key that never was active becomes so: what retires stays so. */
static enum outcome confirm(struct change *c, const struct key_wish *w, struct key_fate *f)
{
    struct stored *s = change_find(c, w->id);
    if (!s || !key_usable(&s->key, c->now_us) || s->key.since != TIME_NONE)
        return DONE;
    const int64_t end = s->key.keep_old == TIME_NONE ? TIME_NONE : c->now_us + s->key.keep_old;
    if (!change_retire_others(c, s, s->key.type, end, &f->why))
        return FAILED;
    if (s->key.state == KEY_RETIRING)
        s->key.not_after = TIME_NONE; /* its end was that of an offer that nobody had used */
    s->key.state = KEY_ACTIVE;
    s->key.since = c->now_us / US_PER_S * US_PER_S;
    if (!change_write(c, s, &f->why))
        return FAILED;
    give(f, KEY_CONFIRMED, s);
    secret_key_clear(&f->key);
    return change_prune(c, &f->why) ? DONE : FAILED;
}

static enum outcome refuse(struct key_fate *f)
{
    f->outcome = KEY_REFUSED;
    return DONE;
}

/* A usable key of that type with those bytes. */
static struct stored *known(struct change *c, const struct key_wish *w)
{
    for (size_t i = 0; i < c->n; i++) {
        struct stored *s = &c->v[i];
        if (!s->gone && s->key.type == w->type && key_usable(&s->key, c->now_us) &&
            secret_equal(s->clear.b, w->key.b, sizeof w->key.b) && (!w->id.n || str_eq(s->key.id, w->id)))
            return s;
    }
    return NULL;
}

static bool may_learn(struct change *c, const struct key_wish *w, struct detail *why)
{
    static const struct secret_key ZERO;
    struct str id;
    if (secret_equal(w->key.b, ZERO.b, sizeof ZERO.b))
        detail_set(why, "an all-zero key");
    else if (w->id.n && change_taken(c, w->id))
        detail_set(why, "its ID is known with other bytes, or was revoked");
    else if (change_was_revoked(c, &w->key, &id))
        detail_set(why, "its bytes are those of %.*s, which was revoked or has expired",
                   id.n < 100 ? (int)id.n : 100, id.p);
    else {
        for (size_t i = 0; i < c->n; i++)
            if (!c->v[i].gone && c->v[i].key.type != w->type &&
                secret_equal(c->v[i].clear.b, w->key.b, sizeof w->key.b)) {
                detail_set(why, "InK and TrK of the user are the same");
                return false;
            }
        return true;
    }
    return false;
}

static enum outcome learn(struct change *c, const struct key_wish *w, struct key_fate *f)
{
    struct buf id BUF_CLEANUP = BUF_INIT(2 * KEY_TEXT_MAX);
    const struct stored *trk = change_find(c, w->trk);
    struct stored *there = known(c, w);
    if (!trk || trk->key.type != KEY_TRK || !key_usable(&trk->key, c->now_us)) {
        detail_set(&f->why, "the TrK that it would be sent under was revoked meanwhile, or has expired");
        f->outcome = KEY_DEFERRED;
        return DONE;
    }
    if (there) {
        const enum outcome o = resend(c, there, w, f);
        if (o != FAILED && f->outcome == KEY_NOTHING) {
            detail_set(&f->why, "there is no room to note under how many TrKs it was sent");
            return refuse(f);
        }
        return o;
    }
    if (!may_learn(c, w, &f->why))
        return refuse(f);
    const struct stored *active = change_newest(c, w->type, KEY_ACTIVE);
    if (!w->id.n && !next_id(c, active ? active->key.id : STR_MISSING, w->type, &id, &f->why))
        return refuse(f);
    buf_str(&id, w->id.n ? w->id : STR(""));
    if (id.failed || !change_check_names(w->user, buf_view(&id), &f->why))
        return refuse(f);
    struct stored *older = change_newest(c, w->type, KEY_OFFERED);
    if (older) {
        older->key.state = KEY_RETIRING;
        older->key.not_after = c->now_us + w->keep_old_us;
        if (!change_write(c, older, &f->why))
            return FAILED;
    }
    return insert(c, w, buf_view(&id), KEY_LEARNT, f);
}

static enum outcome do_one(struct change *c, const struct key_wish *w, struct key_fate *f)
{
    static enum outcome (*const DEEDS[])(struct change *, const struct key_wish *, struct key_fate *) = {
        [KEY_OFFER] = offer, [KEY_CONFIRM] = confirm, [KEY_LEARN] = learn};
    f->outcome = KEY_NOTHING;
    return change_fetch(c, w->user, &f->why) ? DEEDS[w->deed](c, w, f) : FAILED;
}

static void defer_all(struct key_fate *v, size_t n, const struct detail *why)
{
    const struct detail text = *why; /* it may be one of theirs */
    key_fates_free(v, n);
    for (size_t i = 0; i < n; i++) {
        v[i].outcome = KEY_DEFERRED;
        v[i].why = text;
    }
}

static bool fetch_wished(struct change *c, const struct key_wish *wishes, size_t n, struct detail *why)
{
    struct str *users = calloc(n, sizeof *users);
    for (size_t i = 0; users && i < n; i++)
        users[i] = wishes[i].user;
    const bool ok = !users || keydb_fetch(c->ks->db, users, n, why) == KEYDB_OK; /* without memory: one by one */
    free(users);
    return ok;
}

void keystore_do(struct keystore *ks, const struct key_wish *wishes, size_t n, int patience_ms, struct key_fate *v)
{
    struct detail why = {{0}};
    enum keydb_result r;
    memset(v, 0, n * sizeof *v);
    struct change *c = change_begin(ks, patience_ms, &r, &why);
    bool ok = c && fetch_wished(c, wishes, n, &why);
    for (size_t i = 0; ok && i < n; i++)
        if (do_one(c, &wishes[i], &v[i]) == FAILED) {
            why = v[i].why;
            ok = false;
        }
    ok = ok && change_commit(c, &why);
    change_end(ks, c);
    if (!ok)
        defer_all(v, n, &why);
}

void key_fates_free(struct key_fate *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free((char *)v[i].id.p);
        secret_wipe(&v[i], sizeof v[i]);
    }
}

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

static void note(struct revoking *r, const struct stored *s, bool revoked)
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
            note(r, o, false);
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
        note(r, s, true);
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

static bool retire(struct change *c, struct str user, struct str id, enum key_state state, struct detail *why)
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
    const bool ok = c && retire(c, user, id, state, &why) && change_commit(c, &why);
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
