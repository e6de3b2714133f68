#include "gate/renewal.h"

#include <stdio.h>
#include <stdlib.h>

#include <openssl/evp.h>

#include "base/metrics.h"

void renewal_free(struct renewal *r)
{
    for (size_t i = 0; r && i < r->count; i++)
        free(r->keys[i].id);
    if (r)
        secret_wipe(r, sizeof *r);
    free(r);
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

/* Whether a key of the type is to be sent; *id: what the keeper is told of it. */
static bool is_due(const struct judgement *j, const struct renew *renew, enum key_type type, int64_t now_us,
                   struct str *id)
{
    const int64_t age_us = type == KEY_TRK ? renew->trk_us : renew->ink_us;
    const struct key *active = newest_in(&j->ring, type, KEY_ACTIVE, now_us), *own = used(j, type);
    const struct key *offered = newest_in(&j->ring, type, KEY_OFFERED, now_us);
    const struct key *base = active ? active : own;
    *id = base ? base->id : STR_MISSING;
    if (!age_us || (own && own->state == KEY_OFFERED))
        return false;
    if (offered)
        return true; /* once more: he goes on using an older one */
    if (active && own && own != active) {
        *id = own->id;
        return true;
    }
    if (active)
        return is_old(active, age_us, renew->keep_old_us, j->request.user_uri, now_us);
    return type == KEY_TRK || !keyring_has_ink(&j->ring) || own; /* none is active, or there never was an InK */
}

static bool is_proven(const struct judgement *j)
{
    const enum mode *mode = j->rule->checks.mode;
    return j->proven && j->decision.accepted && j->spent && mode[CHECK_SIGNATURE] == MODE_ENFORCE &&
           mode[CHECK_KEY_POLICY] == MODE_ENFORCE && mode[CHECK_REPLAY] == MODE_ENFORCE;
}

enum reason renewal_due(const struct judgement *j, const struct response_rule *rule, const struct key *trk,
                        int64_t now_us, struct renewal **out)
{
    static const enum key_type TYPES[RENEWAL_KEYS] = {KEY_TRK, KEY_INK};
    *out = NULL;
    if (!rule->renew.keep_old_us || !trk || !is_proven(j))
        return REASON_OK;
    struct renewal *r = calloc(1, sizeof *r);
    if (!r)
        return REASON_INTERNAL;
    r->trk = trk->id;
    for (size_t i = 0; i < RENEWAL_KEYS; i++) {
        struct str id;
        if (is_due(j, &rule->renew, TYPES[i], now_us, &id))
            r->wishes[r->n++] = (struct key_wish){.deed = KEY_OFFER, .type = TYPES[i], .user = j->request.user_uri,
                                                  .id = id, .trk = trk->id, .keep_old_us = rule->renew.keep_old_us};
    }
    if (r->n)
        *out = r;
    else
        renewal_free(r);
    return REASON_OK;
}

static void count(enum key_type type, const char *result)
{
    char labels[64];
    snprintf(labels, sizeof labels, "type=\"%s\",result=\"%s\"", key_type_name(type), result);
    metric_add(METRIC_RENEWALS, labels, 1);
}

size_t gate_wishes(const struct judgement *j, const struct key_wish **wishes)
{
    const struct renewal *r = j->renewal;
    *wishes = r ? r->wishes : NULL;
    return r && !r->answered ? r->n : 0;
}

/* False: it cannot be sent. */
static bool take(struct renewal *r, enum key_type type, const struct key_fate *f)
{
    char *id = str_dup(f->id);
    if (!id)
        return false;
    r->keys[r->count].type = type;
    r->keys[r->count].id = id;
    r->keys[r->count++].key = f->key;
    return true;
}

void gate_granted(struct judgement *j, const struct key_fate *v, size_t n)
{
    struct renewal *r = j->renewal;
    r->answered = true;
    for (size_t i = 0; i < r->n; i++) {
        const enum key_type type = r->wishes[i].type;
        const enum key_outcome outcome = i < n ? v[i].outcome : KEY_DEFERRED;
        if (outcome == KEY_OFFERED_NEW || outcome == KEY_RESENT)
            count(type, !take(r, type, &v[i]) ? "failed" : outcome == KEY_RESENT ? "resent" : "offered");
        else if (outcome == KEY_DEFERRED)
            count(type, "deferred");
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
        count(type, "confirmed");
}
