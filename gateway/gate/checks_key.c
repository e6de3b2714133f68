#include "base/random.h"
#include "gate/checks.h"

enum reason checks_ring(struct judgement *j)
{
    if (j->ring_loaded)
        return REASON_OK;
    keyring_clear(&j->ring);
    j->edition = keystore_edition(j->gate->keys);
    if (j->request.user_uri.n > 0 && j->request.user_uri.n <= KEY_TEXT_MAX &&
        keystore_user(j->gate->keys, j->request.user_uri, &j->ring) == KEYSTORE_FAILED) {
        keyring_clear(&j->ring);
        return REASON_INTERNAL;
    }
    j->ring_loaded = true;
    return REASON_OK;
}

void checks_note_request(struct judgement *j)
{
    struct decision *d = &j->decision;
    const struct kms_request *r = &j->request;
    d->user = r->user_uri;
    d->client_id = r->client_id;
    d->device_id = r->device_id;
    d->claims.kms_uri = r->kms_uri;
    d->claims.time = r->time;
    d->claims.client_req_url = r->client_req_url;
    d->claims.trk_id = r->trk_id;
    d->claims.signature_id = r->signature_id;
    d->claims.version = r->version;
}

/*
 * The key to verify with. Where there is none that may be used, a random one takes its place, and what cannot be opened
 * is opened all the same: an unknown user, an unknown key and a revoked one cost what a wrong signature costs.
 */
static enum reason key_for(struct judgement *j, const struct key *key, struct secret_key *clear)
{
    struct secret_key dummy SECRET_CLEANUP;
    if (!random_bytes(dummy.b, sizeof dummy.b))
        return REASON_INTERNAL;
    if (key)
        return keyring_open(&j->ring, key, clear) ? REASON_OK : REASON_INTERNAL;
    struct keyring nobody;
    nobody.store = j->gate->keys;
    nobody.user = STR("nobody");
    const struct key none = {.type = KEY_INK, .state = KEY_REVOKED, .not_after = TIME_NONE, .id = STR("none")};
    (void)keyring_open(&nobody, &none, clear);
    *clear = dummy;
    return REASON_OK;
}

static bool same_text(struct str a, struct str b)
{
    return str_eq(a, b) || (!a.p && !b.p);
}

/* Rule and key were chosen by what the message claims: the part that was signed must claim the same. */
static bool claimed_the_same(const struct kms_request *claim, const struct kms_request *proven)
{
    return str_eq(claim->user_uri, proven->user_uri) && same_text(claim->client_id, proven->client_id) &&
           same_text(claim->device_id, proven->device_id);
}

static enum reason accept_proof(struct judgement *j, const struct request_proof *proof, const struct key *key,
                                struct detail *found)
{
    struct kms_request proven;
    request_proof_fields(proof, &proven);
    if (!claimed_the_same(&j->request, &proven)) {
        detail_set(found, "what was signed is not the request that stands beside the signature");
        return REASON_SIGNATURE_REFERENCE;
    }
    j->request = proven;
    j->proof = proof;
    j->proven = true;
    j->signer = key;
    j->decision.proven = true;
    checks_note_request(j);
    return REASON_OK;
}

enum reason check_signature(struct judgement *j, int64_t now_us, struct detail *found)
{
    const struct checks *c = &j->rule->checks;
    const struct xmlsig_policy policy = {c->min_hmac_bits, c->canonicalization};
    struct secret_key clear SECRET_CLEANUP = {{0}};
    const struct request_proof *proof;
    enum reason r = request_doc_signature(j->doc, &policy, &j->sig, found);
    if (r != REASON_OK) {
        j->sig = (struct xmlsig_info){0};
        return r;
    }
    j->decision.key_id = j->sig.key_name;
    if (checks_ring(j) != REASON_OK) {
        detail_set(found, "the key store could not be read");
        return REASON_INTERNAL;
    }
    const struct key *key = keyring_find(&j->ring, j->sig.key_name);
    const bool usable = key && key_usable(key, now_us);
    if (key) {
        j->decision.has_key_type = true;
        j->decision.key_type = key->type;
    }
    if (key_for(j, usable ? key : NULL, &clear) != REASON_OK) {
        detail_set(found, "the key could not be opened");
        return REASON_INTERNAL;
    }
    r = request_doc_verify(j->doc, &policy, &clear, &proof, found);
    if (r == REASON_INTERNAL)
        return r;
    j->stale = !usable || r != REASON_OK;
    if (!usable) {
        detail_set(found, key ? "the key of that KeyName is revoked or expired" : "UserUri has no key of that KeyName");
        return key ? REASON_KEY_REVOKED : REASON_KEY_UNKNOWN;
    }
    return r == REASON_OK ? accept_proof(j, proof, key, found) : r;
}

enum reason check_key_policy(struct judgement *j, int64_t now_us, struct detail *found)
{
    const struct kms_request *r = &j->request;
    if (checks_ring(j) != REASON_OK)
        return REASON_INTERNAL;
    const struct key *signer = keyring_find(&j->ring, j->sig.key_name);
    if (!str_eq(r->signature_id, j->sig.key_name)) {
        const struct str a = checks_shown(r->signature_id), b = checks_shown(j->sig.key_name);
        detail_set(found, "Signature-ID is %.*s, KeyName %.*s", STR_FMT(a), STR_FMT(b));
        return REASON_KEY_POLICY;
    }
    if (!signer || (signer->type == KEY_TRK && keyring_has_ink(&j->ring))) {
        detail_set(found, signer ? "TrK not allowed: user has an InK on record" : "no key of the user signed");
        return REASON_KEY_POLICY;
    }
    if (!r->trk_id.p && !j->rule->checks.trk_id_required)
        return REASON_OK;
    if (!r->trk_id.p) {
        detail_set(found, "there is no TrK-ID; the rule requires one (`trk_id: required`)");
        return REASON_KEY_POLICY;
    }
    const struct key *trk = keyring_find(&j->ring, r->trk_id);
    if (!trk || trk->type != KEY_TRK || !key_usable(trk, now_us)) {
        j->stale = true;
        const struct str a = checks_shown(r->trk_id);
        detail_set(found, "TrK-ID is %.*s, no TrK of the user that is in use", STR_FMT(a));
        return REASON_KEY_POLICY;
    }
    return REASON_OK;
}
