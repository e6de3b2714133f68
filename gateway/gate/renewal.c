#include "gate/renewal.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/evp.h>

#include "base/locked.h"
#include "base/metrics.h"
#include "message/kms_response.h"

void renewal_free(struct renewal *r)
{
    for (size_t i = 0; r && i < RENEWAL_KEYS; i++) {
        free(r->keys[i].id);
        free(r->learnt[i]);
    }
    locked_free(r);
}

bool renewal_waits(const struct renewal *r)
{
    return r && r->n && !r->answered;
}

/*
 * The user's share of a tenth, in parts of 2^32: the same each time and at each gateway, spread evenly over users. So a
 * fleet that was imported in one day is not renewed in one.
 */
static uint32_t jitter(struct str user)
{
    unsigned char digest[32] = {0};
    if (EVP_Digest(user.p, user.n, digest, NULL, EVP_sha256(), NULL) != 1)
        return 0;
    return (uint32_t)digest[0] << 24 | (uint32_t)digest[1] << 16 | (uint32_t)digest[2] << 8 | digest[3];
}

static int64_t due_age(int64_t age_us, struct str user)
{
    const int64_t tenth = age_us / 10, share = jitter(user);
    return age_us - tenth / 65536 * share / 65536 - tenth % 65536 * share / 65536 / 65536; /* no product overflows */
}

static const struct key *newest_in(const struct keyring *ring, enum key_type type, enum key_state state, int64_t now_us)
{
    const struct key *best = NULL;
    for (size_t i = 0; i < ring->n; i++) {
        const struct key *k = &ring->keys[i];
        if (k->type == type && k->state == state && key_usable(k, now_us) && (!best || k->seq > best->seq))
            best = k;
    }
    return best;
}

/* The key of that type that this request shows to be in its client's hands; NULL: it does not tell. */
static const struct key *used(const struct judgement *j, enum key_type type)
{
    if (j->signer && j->signer->type == type)
        return j->signer;
    const struct key *named = type == KEY_TRK && j->request.trk_id.n ? keyring_find(&j->ring, j->request.trk_id) : NULL;
    return named && named->type == type ? named : NULL;
}

static bool is_old(const struct key *k, int64_t age_us, int64_t keep_old_us, struct str user, int64_t now_us)
{
    if (k->due || (k->not_after != TIME_NONE && k->not_after - now_us < keep_old_us))
        return true;
    return k->since != TIME_NONE && now_us - k->since >= due_age(age_us, user);
}

/* For how long older keys go on; 0: the gateway hands out none of its own. */
static int64_t keep_old(const struct response_rule *rule)
{
    if (rule->renew.keep_old_us)
        return rule->renew.keep_old_us;
    return rule->new_keys.what == NEW_KEYS_REPLACE ? rule->new_keys.keep_old_us : 0;
}

/* Whether a key of the type is to be sent: one that is there already, or, NULL, one that the keeper is asked for with
 * *id. What the upstream issues is an occasion like age, under `replace`. */
static bool is_due(const struct occasion *o, enum key_type type, struct str *id, const struct key **there)
{
    const struct judgement *j = o->j;
    const struct response_rule *rule = o->rule;
    const int64_t age_us = type == KEY_TRK ? rule->renew.trk_us : rule->renew.ink_us;
    const bool replaces = rule->new_keys.what == NEW_KEYS_REPLACE && kms_response_issues(o->reply, type == KEY_INK);
    const struct key *active = newest_in(&j->ring, type, KEY_ACTIVE, o->now_us), *own = used(j, type);
    const struct key *offered = newest_in(&j->ring, type, KEY_OFFERED, o->now_us);
    const struct key *base = active ? active : own;
    *there = NULL;
    *id = base ? base->id : STR_MISSING;
    if ((!age_us && !replaces) || (own && own->state == KEY_OFFERED))
        return false;
    if (offered) { /* once more: he goes on using an older one */
        *there = offered;
        return true;
    }
    if (active && own && own != active) {
        *there = active;
        *id = own->id;
        return true;
    }
    if (active)
        return replaces || is_old(active, age_us, keep_old(rule), j->request.user_uri, o->now_us);
    return type == KEY_TRK || !keyring_has_ink(&j->ring) || own; /* none is active, or there never was an InK */
}

static bool is_proven(const struct judgement *j)
{
    const enum mode *mode = j->rule->checks.mode;
    return j->proven && j->decision.accepted && j->spent && mode[CHECK_SIGNATURE] == MODE_ENFORCE &&
           mode[CHECK_KEY_POLICY] == MODE_ENFORCE && mode[CHECK_REPLAY] == MODE_ENFORCE;
}

static void renewal_count(enum key_type type, const char *result)
{
    char labels[64];
    snprintf(labels, sizeof labels, "type=\"%s\",result=\"%s\"", key_type_name(type), result);
    metric_add(METRIC_RENEWALS, labels, 1);
}

/* False: it cannot be sent. */
static bool renewal_take(struct renewal *r, enum key_type type, struct str id, const struct secret_key *key)
{
    char *copy = str_dup(id);
    if (!copy)
        return false;
    r->keys[type == KEY_INK].id = copy;
    r->keys[type == KEY_INK].key = *key;
    return true;
}

/* What he was sent under this TrK before is sent again as his keys have it: nobody has to wait for the store, nor does
 * it have to be there. */
static bool renewal_resend(const struct occasion *o, const struct key *key, struct renewal *r)
{
    struct secret_key clear SECRET_CLEANUP = {{0}};
    if (!key || !key_sent_under(key, o->trk->id) || !keyring_open(&o->j->ring, key, &clear) ||
        !renewal_take(r, key->type, key->id, &clear))
        return false;
    renewal_count(key->type, "resent");
    return true;
}

static void renewal_offer(const struct occasion *o, struct renewal *r)
{
    static const enum key_type TYPES[RENEWAL_KEYS] = {KEY_TRK, KEY_INK};
    for (size_t i = 0; i < RENEWAL_KEYS; i++) {
        struct str id;
        const struct key *there;
        if (is_due(o, TYPES[i], &id, &there) && !renewal_resend(o, there, r))
            r->wishes[r->n++] = (struct key_wish){.deed = KEY_OFFER, .type = TYPES[i], .user = o->j->request.user_uri,
                                                  .id = id, .trk = o->trk->id, .keep_old_us = keep_old(o->rule)};
    }
}

static bool find_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct occasion *o = arg;
    const struct key *k = keyring_find(&o->j->ring, id);
    return k && k->type == KEY_TRK && key_usable(k, o->now_us) && keyring_open(&o->j->ring, k, out);
}

/* The user's key of those bytes (and that ID, if it says one), which was sent under this TrK before. NULL: none. */
static const struct key *find_sent(const struct occasion *o, enum key_type type, const struct kms_issued_key *issued)
{
    const struct keyring *ring = &o->j->ring;
    struct secret_key clear SECRET_CLEANUP = {{0}};
    for (size_t i = 0; i < ring->n; i++) {
        const struct key *k = &ring->keys[i];
        if (k->type == type && key_usable(k, o->now_us) && key_sent_under(k, o->trk->id) &&
            (!issued->id.p || str_eq(k->id, issued->id)) && keyring_open(ring, k, &clear) &&
            secret_equal(clear.b, issued->key.b, sizeof clear.b))
            return k;
    }
    return NULL;
}

static enum reason learn_one(const struct occasion *o, const struct kms_issued_key *issued, struct renewal *r)
{
    const enum key_type type = issued->integrity ? KEY_INK : KEY_TRK;
    if (renewal_resend(o, find_sent(o, type, issued), r))
        return REASON_OK;
    char *id = issued->id.p ? str_dup(issued->id) : NULL; /* the reply's document does not live as long as a wish */
    if (issued->id.p && !id)
        return REASON_INTERNAL;
    r->learnt[r->n] = id;
    r->wishes[r->n++] = (struct key_wish){.deed = KEY_LEARN, .type = type, .user = o->j->request.user_uri,
                                          .id = id ? (struct str){id, issued->id.n} : STR_MISSING, .trk = o->trk->id,
                                          .keep_old_us = o->rule->new_keys.keep_old_us, .key = issued->key};
    return REASON_OK;
}

static enum reason renewal_learn(const struct occasion *o, struct renewal *r, struct detail *why)
{
    struct kms_issued_key v[KMS_ISSUED_MAX] = {{.integrity = false}};
    struct occasion for_trk = *o;
    size_t n = 0;
    if (!is_proven(o->j)) {
        detail_set(why, "the upstream issues a new key (NewTransportKey, NewIntegrityKey), and `new_keys: learn` takes "
                        "one only for a user proven by `signature`, `key_policy` and `replay`");
        return REASON_UPSTREAM_INVALID;
    }
    if (!o->trk) {
        detail_set(why, "the upstream issues a new key, and the user has no TrK to send it under");
        return REASON_PROTECT_NO_KEY;
    }
    enum reason reason = kms_response_issued(o->reply, find_trk, &for_trk, v, &n, why);
    for (size_t i = 0; reason == REASON_OK && i < n; i++)
        reason = learn_one(o, &v[i], r);
    r->wishes[0].with_next = r->n == 2;
    secret_wipe(v, sizeof v);
    return reason;
}

enum reason renewal_due(const struct occasion *o, struct renewal **out, struct detail *why)
{
    const bool learns = o->rule->new_keys.what == NEW_KEYS_LEARN && o->reply->has_new_key;
    enum reason reason = REASON_OK;
    *out = NULL;
    if (!learns && (!keep_old(o->rule) || !o->trk || !is_proven(o->j)))
        return REASON_OK;
    struct renewal *r = locked_alloc(sizeof *r);
    if (!r)
        return REASON_INTERNAL;
    r->trk = o->trk ? o->trk->id : STR_MISSING;
    if (learns)
        reason = renewal_learn(o, r, why);
    else
        renewal_offer(o, r);
    if (reason == REASON_OK && (r->n || r->keys[0].id || r->keys[1].id))
        *out = r;
    else
        renewal_free(r);
    return reason;
}

size_t gate_wishes(const struct judgement *j, const struct key_wish **wishes)
{
    const struct renewal *r = j->renewal;
    *wishes = r ? r->wishes : NULL;
    return renewal_waits(r) ? r->n : 0;
}

/* A reply whose key could not be learnt does not go out: its client would sign with a key that nobody here knows. */
static void renewal_fail(struct renewal *r, enum reason reason, const char *what, const struct key_fate *f)
{
    if (r->fails != REASON_OK)
        return;
    r->fails = reason;
    detail_set(&r->why, "%s: %s", what, f && f->why.text[0] ? f->why.text : "the keys' keeper was waited for too long");
}

static const char *grant(struct renewal *r, enum key_type type, const struct key_fate *f)
{
    if (!renewal_take(r, type, f->id, &f->key))
        return "failed";
    return f->outcome == KEY_TAKEN_UP ? "learnt" : f->outcome == KEY_RESENT ? "resent" : "offered";
}

void gate_granted(struct judgement *j, const struct key_fate *v, size_t n)
{
    struct renewal *r = j->renewal;
    r->answered = true;
    for (size_t i = 0; i < r->n; i++) {
        const enum key_type type = r->wishes[i].type;
        const bool learns = r->wishes[i].deed == KEY_LEARN;
        const struct key_fate *f = i < n ? &v[i] : NULL;
        const enum key_outcome outcome = f ? f->outcome : KEY_DEFERRED;
        if (outcome == KEY_OFFERED_NEW || outcome == KEY_RESENT || outcome == KEY_TAKEN_UP)
            renewal_count(type, grant(r, type, f));
        else if (outcome != KEY_NOTHING || learns)
            renewal_count(type, outcome == KEY_DEFERRED ? "deferred" : "failed");
        if (learns && outcome == KEY_REFUSED)
            renewal_fail(r, REASON_UPSTREAM_INVALID, "the new key that the upstream issues is not taken", f);
        else if (learns && !r->keys[type == KEY_INK].id)
            renewal_fail(r, REASON_KEYS_UNAVAILABLE, "the new key that the upstream issues cannot be committed", f);
    }
}

size_t gate_confirms(const struct judgement *j, struct key_wish out[2])
{
    size_t n = 0;
    const struct key *const shown[] = {j->signer, used(j, KEY_TRK)};
    for (size_t i = 0; i < 2; i++) {
        const struct key *k = shown[i];
        if (!j->proven || !j->decision.accepted || !k || k->since != TIME_NONE || (i && k == shown[0]))
            continue;
        if (k->state == KEY_OFFERED || k->state == KEY_RETIRING)
            out[n++] = (struct key_wish){.deed = KEY_CONFIRM, .type = k->type, .user = j->request.user_uri,
                                         .id = k->id};
    }
    return n;
}

void gate_confirmed(enum key_type type, const struct key_fate *f)
{
    if (f->outcome == KEY_CONFIRMED)
        renewal_count(type, "confirmed");
}
