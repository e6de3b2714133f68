#include <string.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/uri.h"
#include "gate/reply.h"
#include "message/finished.h"

void reply_texts_free(struct reply_texts *t)
{
    buf_free(&t->url);
}

static bool is_hex_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool escape_at(struct str s, size_t i)
{
    return s.p[i] == '%' && i + 2 < s.n && is_hex_digit(s.p[i + 1]) && is_hex_digit(s.p[i + 2]);
}

/* RFC 3986: what may stand in a path or query as it is. */
static bool stands(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._~!$&'()*+,;=:@/?", c));
}

/* A target may be anything that a stranger sent: what is no part of a URI is escaped. */
static void write_target(struct str target, struct buf *out)
{
    size_t from = 0;
    for (size_t i = 0; i < target.n; i++) {
        if (stands(target.p[i]) || escape_at(target, i))
            continue;
        buf_bytes(out, target.p + from, i - from);
        buf_char(out, '%');
        buf_hex(out, target.p + i, 1, true);
        from = i + 1;
    }
    if (target.n > from)
        buf_bytes(out, target.p + from, target.n - from);
}

/* An anyURI that every validator takes: no stray percent sign, at most one fragment. */
static bool is_plain_uri(struct str s)
{
    size_t fragments = 0;
    if (!uri_is_any_uri(s))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        fragments += s.p[i] == '#';
        if (s.p[i] == '%' && !escape_at(s, i))
            return false;
    }
    return fragments <= 1;
}

void reply_envelope(const struct judgement *j, int64_t now_us, struct reply_texts *texts,
                    struct kms_response_plan *plan)
{
    const struct strings *bases = j->gate->public_url, *uris = &j->rules->kms_uris;
    const struct str user = j->request.user_uri.p ? str_trim(j->request.user_uri) : STR("");
    texts->url = BUF_INIT(LIMIT_REPLY_OUT);
    if (bases && bases->n > 0)
        buf_z(&texts->url, bases->v[0]);
    write_target(j->head.target, &texts->url);
    time_format(now_us, false, texts->time);
    *plan = (struct kms_response_plan){0};
    plan->user_uri = is_plain_uri(user) ? user : STR("");
    plan->kms_uri = uris->n > 0 ? str_z(uris->v[0]) : STR("");
    plan->kms_id = str_z(j->rules->kms_id);
    plan->time = str_z(texts->time);
    plan->client_req_url = buf_view(&texts->url);
}

struct str reply_generic(int status)
{
    return status < 500 ? STR("The request was refused.") : STR("The request could not be served.");
}

/* What is known about a user's keys is not for strangers: whether he is there, whether a key is, whether it holds. */
static enum reason shown(enum reason r)
{
    return r == REASON_KEY_UNKNOWN || r == REASON_KEY_REVOKED ? REASON_SIGNATURE_INVALID : r;
}

/*
 * What was written is canonical as it is, but where an element was passed on as it came. Signing it unread and asking
 * the last look whether the signature holds saves reading it twice: one pass over the finished text as a rule, a tree
 * where the text is not in that pass's form.
 */
static enum reason sign(const struct reply_signer *signer, size_t begun, bool encrypted, struct buf *out,
                        struct detail *why)
{
    const struct str id = signer->key->id;
    struct xmlsig_made made;
    struct buf again BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    const size_t n = out->n - begun;
    bool holds = false;
    if (!xmlsig_response_end(out, begun, id, &signer->clear, &made))
        return REASON_INTERNAL;
    const struct finished finished = {{out->p + begun, n}, &made, id, encrypted};
    if (finished_holds(buf_view(out), &finished))
        return REASON_OK;
    const enum reason r = kms_response_validate_signed(buf_view(out), finished.hashed, encrypted, &holds, why);
    if (r != REASON_OK || holds)
        return r;
    buf_str(&again, finished.hashed);
    buf_reset(out);
    if (again.failed || !xmlsig_sign(buf_view(&again), id, &signer->clear, out))
        return REASON_INTERNAL;
    return kms_response_validate(buf_view(out), encrypted, why);
}

size_t reply_start(const struct reply_signer *signer, struct buf *out)
{
    return signer->key ? xmlsig_response_begin(out) : out->n;
}

enum reason reply_finish(struct judgement *j, struct reply_signer *signer, size_t begun, bool encrypted,
                         struct buf *out, struct detail *why)
{
    if (out->failed)
        return REASON_INTERNAL;
    if (!signer->key) {
        const struct finished finished = {.hashed = buf_view(out), .encrypted = encrypted};
        return finished_holds(buf_view(out), &finished) ? REASON_OK
                                                        : kms_response_validate(buf_view(out), encrypted, why);
    }
    if (!signer->opened && !keyring_open(&j->ring, signer->key, &signer->clear)) {
        detail_set(why, "the key that is to sign the reply could not be opened");
        return REASON_INTERNAL;
    }
    signer->opened = true;
    return sign(signer, begun, encrypted, out, why);
}

/* Of the first response rule that the request can meet, whatever its answer would have been; NULL: none is spoken. */
static const struct dialect *spoken(const struct judgement *j)
{
    if (!j->rule || j->proven)
        return NULL;
    for (size_t i = 0; i < j->rules->response_count; i++) {
        const struct response_rule *p = j->rules->responses + i;
        if (rules_response_fits(p, j->rule->id, j->form, 0))
            return p->speak ? p->dialect : NULL;
    }
    return NULL;
}

static bool write_refusal(struct judgement *j, const struct kms_response_plan *plan, const struct key *signer,
                          struct buf *out)
{
    bool encrypted;
    struct detail why = {""};
    struct kms_response_plan own = *plan;
    own.signature_id = signer ? signer->id : STR_MISSING;
    buf_free(out);
    *out = BUF_INIT(LIMIT_REPLY_OUT);
    const struct dialect *d = signer ? NULL : spoken(j);
    struct reply_signer who = {.key = signer};
    const size_t begun = reply_start(&who, out);
    const bool written = kms_response_write(NULL, &own, out, &encrypted, &why) == REASON_OK &&
                         reply_finish(j, &who, begun, false, out, &why) == REASON_OK;
    secret_key_clear(&who.clear);
    if (written && (!d || reply_speak(d, reply_spoken_namespace(d), NULL, &own, out, &why) == REASON_OK))
        return true;
    log_warn("refusal", j->decision.id, "not written as it should be: %s", why.text);
    buf_free(out);
    return false;
}

void gate_refuse(struct judgement *j, enum reason reason, int status, int64_t now_us, struct gate_response *out)
{
    const struct key *signer = j->proven ? j->signer : NULL;
    struct reply_texts texts;
    struct kms_response_plan plan;
    *out = (struct gate_response){.status = status ? status : reason_status(reason)};
    j->decision.reason = reason;
    j->decision.status = out->status;
    reply_envelope(j, now_us, &texts, &plan);
    plan.error_code = out->status;
    plan.error_msg = j->rules->detail_reason ? str_z(reason_name(shown(reason))) : reply_generic(out->status);
    const bool as_due = !texts.url.failed && write_refusal(j, &plan, signer, &out->body);
    if (as_due && signer)
        j->decision.response.signed_by = signer->id;
    if (!as_due) { /* what the client sent is what may stand in the way */
        plan.user_uri = STR("");
        if (texts.url.failed)
            plan.client_req_url = STR("");
        if (!write_refusal(j, &plan, NULL, &out->body))
            out->body = BUF_INIT(LIMIT_REPLY_OUT);
    }
    reply_texts_free(&texts);
}
