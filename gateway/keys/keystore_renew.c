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

static unsigned long long value_of(struct str number)
{
    unsigned long long value = 0;
    for (size_t i = 0; i < number.n; i++)
        value = value * 10 + (unsigned long long)(number.p[i] - '0');
    return value;
}

/* What is counted from where there is none to count from. */
static struct str first_id(enum key_type type)
{
    return type == KEY_INK ? STR("ink.0") : STR("trk.0");
}

/* `ink.1.u` becomes `ink.2.u`, `key` becomes `key.2`; one that is taken gives way to the next, as does `reserved`. */
static bool next_id(struct change *c, struct str old, enum key_type type, struct str reserved, struct buf *out,
                    struct detail *why)
{
    const struct str start = old.n ? old : first_id(type);
    const struct str number = number_in(start);
    const size_t before = (size_t)(number.p - start.p), after = before + number.n;
    unsigned long long value = number.n ? value_of(number) : 1;
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
        if (!change_taken(c, buf_view(out)) && !str_eq(buf_view(out), reserved))
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

static bool has_room_for(const struct stored *s, struct str trk)
{
    return !trk.n || key_sent_under(&s->key, trk) || s->key.sent.n + trk.n + 1 <= KEY_SENT_MAX;
}

/* Notes the TrK, once. False when there is no room for it: then it must not be sent. */
static enum outcome note_trk(struct change *c, struct stored *s, struct str trk, struct detail *why)
{
    if (!trk.n || key_sent_under(&s->key, trk))
        return DONE;
    const size_t n = s->key.id.n + s->key.sent.n + trk.n + 1;
    if (!has_room_for(s, trk))
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

static enum outcome renew_resend(struct change *c, struct stored *s, const struct key_wish *w, struct key_fate *f)
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

static enum outcome renew_offer(struct change *c, const struct key_wish *w, struct key_fate *f)
{
    struct buf id BUF_CLEANUP = BUF_INIT(2 * KEY_TEXT_MAX);
    struct stored *trk = change_find(c, w->trk), *there = change_newest(c, w->type, KEY_OFFERED);
    if (!trk || trk->key.type != KEY_TRK || !key_usable(&trk->key, c->now_us))
        return DONE; /* revoked since the reply was begun */
    if (there)
        return renew_resend(c, there, w, f);
    there = change_newest(c, w->type, KEY_ACTIVE);
    if (there && !str_eq(there->key.id, w->id))
        return renew_resend(c, there, w, f); /* renewed meanwhile, or the client uses an older one */
    if (change_retiring(c, w->type) >= KEY_RETIRING_MAX || !next_id(c, w->id, w->type, STR_MISSING, &id, &f->why))
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

/* True when both are the same but for their numbers; *number is that of `id`. */
static bool is_numbered_like(struct str id, struct str like, unsigned long long *number)
{
    const struct str a = number_in(id), b = number_in(like);
    const size_t before = (size_t)(a.p - id.p), after = id.n - before - a.n;
    *number = value_of(a);
    return a.n && b.n && str_eq((struct str){id.p, before}, (struct str){like.p, (size_t)(b.p - like.p)}) &&
           str_eq((struct str){a.p + a.n, after}, (struct str){b.p + b.n, like.n - (size_t)(b.p - like.p) - b.n});
}

/* Of the user's IDs that are like that one, whatever has become of their keys, the one of the highest number: behind it
 * is none that a pruned key had, whose bytes a client may still know under it. */
static struct str highest_like(struct change *c, struct str like)
{
    struct str highest = like;
    unsigned long long most, number;
    if (!is_numbered_like(like, like, &most))
        return like;
    for (size_t i = 0; i < c->n + c->tomb_n; i++) {
        const struct str id = i < c->n ? c->v[i].key.id : c->tombs[i - c->n].key.id;
        if (is_numbered_like(id, like, &number) && number > most) {
            most = number;
            highest = id;
        }
    }
    return highest;
}

/* The ID that it will have: its own, or one that is counted and is not its twin's. */
static bool learnt_id(struct change *c, const struct key_wish *w, struct str reserved, struct buf *id,
                      struct detail *why)
{
    const struct stored *active = change_newest(c, w->type, KEY_ACTIVE);
    const struct str like = active ? active->key.id : first_id(w->type);
    if (!w->id.n && !next_id(c, highest_like(c, like), w->type, reserved, id, why))
        return false;
    buf_str(id, w->id.n ? w->id : STR(""));
    return !id->failed && change_check_names(w->user, buf_view(id), why);
}

/* Whatever import would refuse, without a change; *id: unless it is there already. */
static bool learnable(struct change *c, const struct key_wish *w, const struct key_wish *twin, struct buf *id,
                      struct detail *why)
{
    const struct stored *there = known(c, w);
    if (there && has_room_for(there, w->trk))
        return true;
    if (there)
        detail_set(why, "there is no room to note under how many TrKs it was sent");
    else if (twin && secret_equal(twin->key.b, w->key.b, sizeof w->key.b))
        detail_set(why, "InK and TrK of the user are the same");
    else if (twin && w->id.n && str_eq(twin->id, w->id))
        detail_set(why, "two new keys of one ID");
    else
        return may_learn(c, w, why) && learnt_id(c, w, twin ? twin->id : STR_MISSING, id, why);
    return false;
}

static bool renew_opens(struct change *c, struct str trk)
{
    const struct stored *s = change_find(c, trk);
    return s && s->key.type == KEY_TRK && key_usable(&s->key, c->now_us);
}

/* `twin`: what came in the same reply. Both are learnt or neither: a reply without one of them is not sent. */
static enum outcome renew_learn(struct change *c, const struct key_wish *w, const struct key_wish *twin,
                                struct key_fate *f)
{
    struct buf id BUF_CLEANUP = BUF_INIT(2 * KEY_TEXT_MAX), other BUF_CLEANUP = BUF_INIT(2 * KEY_TEXT_MAX);
    if (!renew_opens(c, w->trk)) {
        detail_set(&f->why, "the TrK that it would be sent under was revoked meanwhile, or has expired");
        f->outcome = KEY_DEFERRED;
        return DONE;
    }
    if (!learnable(c, w, twin, &id, &f->why) || (twin && !learnable(c, twin, w, &other, &f->why))) {
        f->outcome = KEY_REFUSED;
        return DONE;
    }
    struct stored *there = known(c, w), *older = change_newest(c, w->type, KEY_OFFERED);
    if (there)
        return renew_resend(c, there, w, f);
    if (older) {
        older->key.state = KEY_RETIRING;
        older->key.not_after = c->now_us + w->keep_old_us;
        if (!change_write(c, older, &f->why))
            return FAILED;
    }
    return insert(c, w, buf_view(&id), KEY_LEARNT, f);
}

static const struct key_wish *twin_of(const struct key_wish *v, size_t i, size_t n)
{
    if (v[i].with_next)
        return i + 1 < n ? &v[i + 1] : NULL;
    return i > 0 && v[i - 1].with_next ? &v[i - 1] : NULL;
}

static enum outcome do_one(struct change *c, const struct key_wish *w, const struct key_wish *twin, struct key_fate *f)
{
    f->outcome = KEY_NOTHING;
    if (!change_fetch(c, w->user, &f->why))
        return FAILED;
    return w->deed == KEY_LEARN   ? renew_learn(c, w, twin, f)
           : w->deed == KEY_OFFER ? renew_offer(c, w, f)
                                  : confirm(c, w, f);
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
        if (do_one(c, &wishes[i], twin_of(wishes, i, n), &v[i]) == FAILED) {
            why = v[i].why;
            ok = false;
        }
    ok = ok && change_commit(c, &why);
    const bool lags = ok && c->lags; /* whoever was sent such a key would be refused under it */
    change_end(ks, c);
    if (lags)
        detail_set(&why, "committed, but not in the table yet, for want of memory: it is sent next time");
    if (!ok || lags)
        defer_all(v, n, &why);
}

void key_fates_free(struct key_fate *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free((char *)v[i].id.p);
        secret_wipe(&v[i], sizeof v[i]);
    }
}
