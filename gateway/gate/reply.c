#include <string.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/uri.h"
#include "gate/renewal.h"
#include "gate/reply.h"
#include "message/response_profile.h"

/*
 * What an upstream's answer becomes: read, held against what is owed, written anew by the response rule, encrypted,
 * signed, and looked at once more. What cannot be made valid ends as a refusal.
 */
struct making {
    struct judgement *j;
    const struct response_rule *rule;
    struct xml_doc *doc;
    struct response_profile *profile; /* instead of doc: it was read in one pass */
    struct kms_response read;
    const struct kms_response *r; /* NULL: the upstream sent no KmsResponse, and owed none */
    struct reply_texts texts;
    char kept_time[TIME_TEXT];
    struct kms_response_plan plan;
    struct reply_signer signer;
    const struct key *trk;
    struct kms_new_key new_keys[RENEWAL_KEYS];
    bool again; /* it brings new keys, which stand where only a tree tells: all of it, by tree */
    struct detail why;
};

static void making_free(struct making *m)
{
    secret_key_clear(&m->signer.clear);
    xmlenc_free(m->plan.enc);
    xml_free(m->doc);
    response_profile_free(m->profile);
    reply_texts_free(&m->texts);
}

static enum reason reply_reject(struct making *m, enum reason r, const char *why)
{
    detail_set(&m->why, "%s", why);
    return r;
}

static enum kms_message reply_owed(enum resource_kind kind)
{
    switch (kind) {
    case RESOURCE_INIT:
        return KMS_MESSAGE_INIT;
    case RESOURCE_KEYPROV:
        return KMS_MESSAGE_KEYPROV;
    case RESOURCE_CERTCACHE:
    case RESOURCE_CERT:
        return KMS_MESSAGE_CERTCACHE;
    case RESOURCE_LOOKUP:
        return KMS_MESSAGE_LOOKUP;
    default:
        return KMS_MESSAGE_NONE;
    }
}

static struct str or_missing(struct str s)
{
    return s.n > 0 ? s : STR_MISSING;
}

static enum reason note_rule(struct making *m, const struct response_rule *rule)
{
    m->rule = rule;
    if (!rule)
        return reply_reject(m, REASON_UPSTREAM_INVALID, "no response rule matches");
    m->j->decision.response.rule = rule->id;
    return REASON_OK;
}

static void note_kind(struct making *m, enum kms_message message)
{
    m->j->decision.response.message = kms_message_name(message);
}

static bool is_empty(const struct gate_upstream *up)
{
    return up->status == 204 || up->body.n == 0;
}

/* A reply as a dialect has it, and what it says that it holds. */
struct look {
    const struct dialect *by;
    enum reason parsed;
    bool seen; /* its kind can be */
    enum kms_message kind;
};

/*
 * By another dialect than before: in one pass where it is the standard's own words in the closed profile, else by tree.
 * New keys of ours stand where only a tree tells.
 */
static void reply_look(struct making *m, struct str body, const struct dialect *by, struct look *l)
{
    xml_free(m->doc);
    response_profile_free(m->profile);
    m->doc = NULL;
    m->profile = by || m->j->renewal || m->j->gate->by_tree ? NULL : response_profile_read(body);
    *l = (struct look){.by = by, .parsed = REASON_OK, .seen = true};
    if (m->profile) {
        l->kind = response_profile_message(m->profile);
        return;
    }
    l->parsed = dialect_parse(body, by, &m->doc, &m->why);
    l->seen = l->parsed == REASON_OK && kms_response_kind(m->doc, &l->kind);
}

/*
 * The first response rule that matches, and the reply as that rule's dialect has it. Which message it is may only be
 * seen through a dialect: each rule looks through its own. What cannot be read matches no rule that names messages.
 */
static enum reason read_by_rule(struct making *m, const struct gate_upstream *up)
{
    const struct judgement *j = m->j;
    struct look l = {.parsed = REASON_OK, .seen = is_empty(up), .kind = KMS_MESSAGE_NONE};
    bool looked = is_empty(up);
    for (size_t i = 0; i < j->rules->response_count; i++) {
        const struct response_rule *p = j->rules->responses + i;
        if (!rules_response_fits(p, j->rule->id, j->form, up->status))
            continue;
        if (!looked || (!is_empty(up) && l.by != p->dialect)) {
            looked = true;
            reply_look(m, up->body, p->dialect, &l);
            if (l.parsed == REASON_INTERNAL)
                return l.parsed;
        }
        if (p->match.messages && !(l.seen && (p->match.messages & (1u << l.kind))))
            continue;
        if (l.seen)
            note_kind(m, l.kind);
        const enum reason r = note_rule(m, p);
        return r == REASON_OK ? l.parsed : r;
    }
    return note_rule(m, NULL);
}

/* Whose reply it is, as far as the rule's dialect lets that be known. */
static enum reason check_users(struct making *m)
{
    const struct judgement *j = m->j;
    const struct dialect *d = m->rule->dialect;
    const struct str path_user = j->resource.user_raw.p ? buf_view(&j->path_user) : STR_MISSING;
    if (d && d->user_uri == USERS_IGNORE)
        return REASON_OK;
    return kms_response_users(&m->read, or_missing(j->request.user_uri), or_missing(path_user),
                              !d || d->user_uri != USERS_IGNORE_ENVELOPE, &m->why);
}

/*
 * A new TrK or InK that the upstream issues. Only the reply's head says whose it is, so that there nothing is set
 * aside, whatever the dialect says: another's key, wrapped for this user, would be his from then on.
 */
static enum reason check_new_keys(struct making *m)
{
    if (!m->read.has_new_key)
        return REASON_OK;
    if (!m->read.user_uri.p || !str_eq(m->read.user_uri, m->j->request.user_uri))
        return reply_reject(m, REASON_UPSTREAM_WRONG_USER,
                            "the upstream issues a new key (NewTransportKey, NewIntegrityKey), and its reply's "
                            "UserUri does not name the requester");
    if (m->rule->new_keys.what != NEW_KEYS_REFUSE)
        return REASON_OK;
    return reply_reject(m, REASON_UPSTREAM_INVALID,
                        "the upstream issues a new key (NewTransportKey, NewIntegrityKey), and the response rule has "
                        "`new_keys: refuse`: the gateway would not know the key that the client signs with from "
                        "then on");
}

/* The message, as the resource owes it, or a KmsError. */
static enum reason read_reply(struct making *m, const struct gate_upstream *up)
{
    const struct judgement *j = m->j;
    const enum kms_message due = reply_owed(j->resource.kind);
    enum reason r = read_by_rule(m, up);
    if (r != REASON_OK)
        return r;
    if (is_empty(up))
        return due == KMS_MESSAGE_NONE ? REASON_OK
                                       : reply_reject(m, REASON_UPSTREAM_INVALID, "the upstream's reply is empty");
    if (m->profile)
        response_profile_fields(m->profile, &m->read);
    else
        r = kms_response_read(m->doc, STR_MISSING, STR_MISSING, &m->read, &m->why);
    if (r == REASON_OK)
        r = check_users(m);
    if (r == REASON_OK)
        r = check_new_keys(m);
    if (r != REASON_OK)
        return r;
    m->r = &m->read;
    if (m->r->message == KMS_MESSAGE_ERROR)
        return REASON_OK;
    if (m->r->message != due)
        return reply_reject(m, REASON_UPSTREAM_INVALID,
                            "the upstream's reply holds another message than the resource owes");
    if (j->resource.kind == RESOURCE_CERT && m->r->certificates != 1)
        return reply_reject(m, REASON_UPSTREAM_INVALID, "the upstream's reply does not hold exactly one certificate");
    return REASON_OK;
}

/* A proven request's own key. Who only claims to be somebody gets that user's newest one, where the rule wants it. */
static enum reason choose_signer(struct making *m, int64_t now_us)
{
    const struct judgement *j = m->j;
    if (m->rule->sign == SIGN_NONE)
        return REASON_OK;
    if (j->proven) {
        m->signer.key = j->signer;
        return m->signer.key ? REASON_OK : REASON_INTERNAL;
    }
    if (m->rule->sign == SIGN_AUTO || j->ring.n == 0)
        return REASON_OK;
    m->signer.key = keyring_newest(&j->ring, KEY_INK, now_us);
    if (!m->signer.key && !keyring_has_ink(&j->ring))
        m->signer.key = keyring_newest(&j->ring, KEY_TRK, now_us);
    return m->signer.key ? REASON_OK : reply_reject(m, REASON_PROTECT_NO_KEY, "the user has no key that may sign");
}

static const struct key *choose_trk(const struct judgement *j, int64_t now_us)
{
    const struct key *named = j->request.trk_id.n > 0 ? keyring_find(&j->ring, j->request.trk_id) : NULL;
    if (named && named->type == KEY_TRK && key_usable(named, now_us))
        return named;
    return keyring_newest(&j->ring, KEY_TRK, now_us);
}

/* Those that were committed. */
static void take_new_keys(struct making *m, const struct renewal *given)
{
    size_t n = 0;
    for (size_t i = 0; i < RENEWAL_KEYS; i++)
        if (given->keys[i].id)
            m->new_keys[n++] = (struct kms_new_key){
                .integrity = i == 1,
                .id = m->rule->carried_key_name ? str_z(given->keys[i].id) : STR_MISSING,
                .key = &given->keys[i].key,
            };
    m->plan.new_keys = m->new_keys;
    m->plan.new_key_count = n;
    m->plan.own_new_keys |= n > 0;
}

/*
 * New keys are committed before they are sent: the reply waits for that, and is made from the beginning when the keeper
 * has answered. Those of the upstream's never go on by themselves: what it issues was learnt, or gives way.
 */
static enum reason plan_new_keys(struct making *m, int64_t now_us, struct gate_response *out)
{
    struct judgement *j = m->j;
    const enum kms_message message = m->r ? m->r->message : KMS_MESSAGE_NONE;
    if (message != KMS_MESSAGE_INIT && message != KMS_MESSAGE_KEYPROV)
        return REASON_OK;
    const bool learns = m->r->has_new_key && m->rule->new_keys.what == NEW_KEYS_LEARN;
    const struct occasion occasion = {j, m->rule, m->r, choose_trk(j, now_us), now_us};
    m->plan.own_new_keys = m->r->has_new_key;
    if (!j->gate->asks_keeper)
        return learns ? reply_reject(m, REASON_KEYS_UNAVAILABLE, "there is nobody who keeps keys") : REASON_OK;
    if (!j->renewal) {
        const enum reason r = renewal_due(&occasion, &j->renewal, &m->why);
        out->waits = renewal_waits(j->renewal);
        if (r != REASON_OK || out->waits)
            return r;
    }
    const struct renewal *given = j->renewal;
    if (!given)
        return REASON_OK;
    if (given->fails != REASON_OK)
        return reply_reject(m, given->fails, given->why.text);
    if (occasion.trk && str_eq(occasion.trk->id, given->trk))
        take_new_keys(m, given);
    else if (learns)
        return reply_reject(m, REASON_KEYS_UNAVAILABLE,
                            "the TrK under which the new key was to be sent has ended meanwhile");
    return REASON_OK;
}

/* The TrK, and with it the key that signs. */
static bool open_keys(struct making *m, struct secret_key *trk)
{
    struct secret_key clear[2];
    if (!m->signer.key)
        return keyring_open(&m->j->ring, m->trk, trk);
    const bool ok = keyring_open_two(&m->j->ring, (const struct key *const[2]){m->trk, m->signer.key}, clear);
    *trk = clear[0];
    m->signer.clear = clear[1];
    m->signer.opened = ok;
    secret_wipe(clear, sizeof clear);
    return ok;
}

/* What is to be encrypted, and under which TrK. */
static enum reason plan_encryption(struct making *m, int64_t now_us)
{
    const struct response_rule *rule = m->rule;
    const struct kms_response *r = m->r;
    struct secret_key trk;
    const bool wanted = rule->encrypt.content != ENCRYPT_NONE &&
                        (rule->encrypt.when == WHEN_ALWAYS ||
                         (rule->encrypt.when == WHEN_REQUESTED && m->j->request.trk_id.n > 0));
    const bool payload = r && r->message != KMS_MESSAGE_NONE && r->message != KMS_MESSAGE_ERROR;
    m->plan.wrap = rule->encrypt.key_wrap;
    m->plan.protect = PROTECT_NONE;
    if (wanted)
        m->plan.protect = rule->encrypt.content == ENCRYPT_MESSAGE ? PROTECT_MESSAGE : PROTECT_KEYS;
    const bool must = payload && (m->plan.protect == PROTECT_MESSAGE ||
                                  (m->plan.protect == PROTECT_KEYS && r->has_key_content) ||
                                  m->plan.new_key_count > 0);
    if (!must && !(payload && r->has_encrypted))
        return REASON_OK;
    m->trk = choose_trk(m->j, now_us);
    if (!m->trk)
        return must ? reply_reject(m, REASON_PROTECT_NO_KEY, "the user has no TrK")
                    : reply_reject(m, REASON_UPSTREAM_INVALID, "an EncryptedKey, and the user has no TrK");
    if (!open_keys(m, &trk))
        return reply_reject(m, REASON_INTERNAL, "the TrK, or the key that is to sign, could not be opened");
    m->plan.enc = xmlenc_new(&trk, m->trk->id);
    secret_key_clear(&trk);
    m->plan.trk_id = m->trk->id;
    return m->plan.enc ? REASON_OK : REASON_INTERNAL;
}

/* One field: `own` is what the request, the rules or the clock say; `kept` the upstream's. */
static struct str set_field(const struct making *m, enum field_from from, struct str own, struct str kept)
{
    if (from == FIELD_REMOVE)
        return STR_MISSING;
    return from == FIELD_KEEP && m->r ? kept : own;
}

/* Whole seconds in UTC; without a zone it is taken for UTC. */
static struct str kept_time(struct making *m)
{
    int64_t us;
    bool zone;
    if (!m->r || !m->r->time.p || !time_parse(m->r->time, &us, &zone))
        return STR_MISSING;
    time_format(us, false, m->kept_time);
    return str_z(m->kept_time);
}

static enum reason plan_envelope(struct making *m, int64_t now_us)
{
    const struct judgement *j = m->j;
    const struct response_rule *rule = m->rule;
    const struct kms_response none = {0}, *r = m->r ? m->r : &none;
    struct kms_response_plan own;
    reply_envelope(j, now_us, &m->texts, &own);
    if (m->texts.url.failed)
        return REASON_INTERNAL;
    if (uri_is_any_uri(j->request.user_uri))
        own.user_uri = j->request.user_uri;
    else if (r->user_uri.p) /* no user is known */
        own.user_uri = r->user_uri;
    if (uri_is_any_uri(j->request.client_req_url))
        own.client_req_url = j->request.client_req_url;
    m->plan.user_uri = set_field(m, rule->user_uri, own.user_uri, r->user_uri);
    m->plan.kms_uri = set_field(m, rule->kms_uri, own.kms_uri, r->kms_uri);
    m->plan.kms_id = set_field(m, rule->kms_id, own.kms_id, r->kms_id);
    m->plan.keeps_kms_id = rule->kms_id == FIELD_KEEP;
    m->plan.time = set_field(m, rule->time, own.time, kept_time(m));
    m->plan.client_req_url = set_field(m, rule->client_req_url, own.client_req_url, r->client_req_url);
    m->plan.keep_extensions = rule->keep_extensions;
    m->plan.signature_id = m->signer.key ? m->signer.key->id : STR_MISSING;
    const bool whole = m->plan.user_uri.p && m->plan.kms_uri.p && m->plan.time.p && m->plan.client_req_url.p;
    const bool payload = r->message != KMS_MESSAGE_NONE && r->message != KMS_MESSAGE_ERROR;
    if (!whole || (payload && m->plan.user_uri.n == 0))
        return reply_reject(m, REASON_UPSTREAM_INVALID, "the upstream's reply lacks a field that the rule keeps");
    return REASON_OK;
}

/* Who has proved nothing reads what he always read, where the rule says so. */
static enum reason speak(struct making *m, struct gate_response *out)
{
    const struct dialect *d = m->rule->dialect;
    if (!m->rule->speak || !d || m->signer.key || m->j->proven)
        return REASON_OK;
    return reply_speak(d, m->doc ? dialect_namespace(m->doc) : reply_spoken_namespace(d), m->r, &m->plan, &out->body,
                       &m->why);
}

static void note_protection(struct making *m, bool encrypted)
{
    struct decision *d = &m->j->decision;
    size_t n = 0;
    d->response.signed_by = m->signer.key ? m->signer.key->id : STR_MISSING;
    d->response.encrypted_by = encrypted ? m->trk->id : STR_MISSING;
    for (size_t i = 0; m->plan.new_key_count && i < RENEWAL_KEYS; i++)
        if (m->j->renewal->keys[i].id)
            d->response.renewed[n++] = str_z(m->j->renewal->keys[i].id);
}

static enum reason write_reply(struct making *m, int64_t now_us, struct gate_response *out)
{
    bool encrypted = false;
    size_t begun = 0;
    m->plan.left_out = &out->left_out;
    enum reason r = choose_signer(m, now_us);
    if (r == REASON_OK)
        r = plan_new_keys(m, now_us, out);
    m->again = m->profile && m->plan.new_key_count;
    if (r != REASON_OK || out->waits || m->again)
        return r;
    r = plan_encryption(m, now_us);
    if (r == REASON_OK)
        r = plan_envelope(m, now_us);
    if (r == REASON_OK)
        begun = reply_start(&m->signer, &out->body);
    if (r == REASON_OK)
        r = kms_response_write(m->r, &m->plan, &out->body, &encrypted, &m->why);
    if (r == REASON_OK)
        r = reply_finish(m->j, &m->signer, begun, m->plan.protect != PROTECT_NONE, &out->body, &m->why);
    if (r == REASON_OK)
        r = speak(m, out);
    if (r == REASON_OK)
        note_protection(m, encrypted);
    return r;
}

/* A payload, or a KmsError of the KMS's own, whose code is kept. */
static enum reason make_reply(struct making *m, const struct gate_upstream *up, int64_t now_us,
                              struct gate_response *out)
{
    const enum reason r = read_reply(m, up);
    if (r == REASON_OK && m->r && m->r->message == KMS_MESSAGE_ERROR) {
        m->plan.error_code = m->r->error_code;
        m->plan.error_msg = STR("The KMS reports an error.");
    }
    out->status = 200;
    return r == REASON_OK ? write_reply(m, now_us, out) : r;
}

/* What an upstream says with an error status is not for the client: its operator reads it in the log. */
static enum reason make_error(struct making *m, const struct gate_upstream *up, int64_t now_us,
                              struct gate_response *out)
{
    const struct judgement *j = m->j;
    enum reason r = note_rule(m, rules_response(j->rules, j->rule->id, j->form, 1u << KMS_MESSAGE_ERROR, up->status));
    note_kind(m, KMS_MESSAGE_ERROR);
    reply_tell_error(j, up);
    m->plan.error_code = up->status;
    m->plan.error_msg = j->rules->detail_reason ? str_z(reason_name(REASON_UPSTREAM_ERROR))
                                                   : reply_generic(up->status);
    out->status = up->status;
    if (r == REASON_OK)
        r = write_reply(m, now_us, out);
    return r == REASON_OK ? REASON_UPSTREAM_ERROR : r;
}

static enum reason reply_make(struct making *m, const struct gate_upstream *up, int64_t now_us,
                              struct gate_response *out)
{
    const struct decision *d = &m->j->decision;
    if (!m->j->rule || !d->accepted)
        return reply_reject(m, REASON_INTERNAL, "the request was not let through");
    if (up->status >= 200 && up->status < 300)
        return make_reply(m, up, now_us, out);
    if (up->status >= 400 && up->status < 600)
        return make_error(m, up, now_us, out);
    return reply_reject(m, REASON_UPSTREAM_INVALID, "the upstream's status is neither a success nor an error");
}

enum reason gate_reply(struct judgement *j, const struct gate_upstream *up, int64_t now_us, struct gate_response *out)
{
    struct making m = {.j = j};
    *out = (struct gate_response){.body = BUF_INIT_KEYS(LIMIT_REPLY_OUT)};
    j->decision.upstream.status = up->status;
    enum reason r = reply_make(&m, up, now_us, out);
    making_free(&m);
    if (m.again) { /* j->renewal is there now, so that it is read by tree */
        m = (struct making){.j = j};
        r = reply_make(&m, up, now_us, out);
        making_free(&m);
    }
    if (r != REASON_OK && r != REASON_UPSTREAM_ERROR) {
        reply_hide_keys(m.why.text);
        log_warn("reply", j->decision.id, "%s: %s", reason_name(r), m.why.text);
        buf_free(&out->body);
        gate_refuse(j, r, 0, now_us, out);
        out->why = m.why;
        return r;
    }
    if (out->left_out.text[0])
        log_warn("reply", j->decision.id, "%s", out->left_out.text);
    j->decision.reason = r;
    j->decision.status = out->status;
    return r;
}
