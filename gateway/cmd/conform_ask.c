/* TS 33.180 D.2.2: what a KMS with the security extension must verify, each by one thing wrong in a valid request. */
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/timestamp.h"
#include "cmd/conform.h"
#include "message/kms_request.h"
#include "message/xmlsig.h"

enum { BODY_MAX = 64 << 10, APART_US = 600 * 1000000 };

struct conform_row *conform_row(struct conform *c, const char *clause, const char *what, const char *resource,
                                enum conform_result result, unsigned exchange)
{
    struct conform_row *r = &c->rows[c->n < CONFORM_ROWS ? c->n++ : CONFORM_ROWS - 1];
    *r = (struct conform_row){.clause = clause, .what = what, .result = result, .exchange = exchange};
    snprintf(r->resource, sizeof r->resource, "%s", resource);
    return r;
}

static void flaw_fields(const struct conform *c, enum conform_flaw flaw, struct kms_request *f)
{
    if (flaw == FLAW_OTHER_USER)
        f->user_uri = STR("sip:conform-nobody@example.invalid");
    if (flaw == FLAW_KMS_URI)
        f->kms_uri = STR("conform-other-kms.example.invalid");
    if (flaw == FLAW_NO_SIGNATURE_ID)
        f->signature_id = STR_MISSING;
    if (flaw == FLAW_OTHER_SIGNATURE_ID)
        f->signature_id = c->trk && c->signer != c->trk ? c->trk->id : STR("ink.conform-other");
    if (flaw == FLAW_TRK_ID)
        f->trk_id = STR("trk.conform-unknown");
    if (flaw == FLAW_UNSIGNED)
        f->signature_id = STR_MISSING;
    if (flaw == FLAW_TRK_SIGNS && c->trk)
        f->signature_id = c->trk->id;
    if (flaw == FLAW_UNKNOWN_KEY)
        f->signature_id = STR("ink.conform-unknown");
    if (flaw == FLAW_ELEMENT)
        f->kms_uri = STR_MISSING; /* the schema demands it */
}

/* The first element of p's n bytes that begins with `start`, to behind its `end`; NULL: there is none. */
static char *span(char *p, size_t n, const char *start, const char *end, size_t *length)
{
    char *first = memmem(p, n, start, strlen(start));
    const char *last = first ? memmem(first, n - (size_t)(first - p), end, strlen(end)) : NULL;
    *length = last ? (size_t)(last - first) + strlen(end) : 0;
    return last ? first : NULL;
}

/*
 * The request that was signed moves behind its signature, and another one stands where it stood: who follows the
 * reference finds all as it was signed, and who then reads the first KmsRequest reads what nobody has signed.
 */
static bool conform_move(struct buf *out, size_t from)
{
    static const char last[] = "</SignedKmsRequest>";
    static const char id[] = " Id=\"xmldoc\"", device[] = "<DeviceId>";
    struct buf moved BUF_CLEANUP = BUF_INIT(BODY_MAX);
    size_t n;
    char *first = span(out->p + from, out->n - from, "<KmsRequest", "</KmsRequest>", &n);
    if (!first || !str_ends(buf_view(out), str_z(last)))
        return false;
    buf_str(&moved, (struct str){first, n});
    char *named = memmem(first, n, id, sizeof id - 1), *at = memmem(first, n, device, sizeof device - 1);
    if (moved.failed || !named || !at)
        return false;
    memcpy(named + sizeof " Id=\"" - 1, "others", sizeof "others" - 1);
    memcpy(at + sizeof device - 1, "another", sizeof "another" - 1); /* in place of "conform" */
    out->n -= sizeof last - 1;
    buf_str(out, buf_view(&moved));
    buf_z(out, last);
    return !out->failed;
}

static bool spoil(struct buf *out, size_t from, enum conform_flaw flaw)
{
    if (flaw == FLAW_MOVED)
        return conform_move(out, from);
    const char *mark = flaw == FLAW_SIGNATURE ? "SignatureValue>" : "<DeviceId>";
    if (flaw == FLAW_DTD) {
        static const char dtd[] = "<!DOCTYPE SignedKmsRequest>";
        if (!buf_reserve(out, sizeof dtd))
            return false;
        memmove(out->p + from + sizeof dtd - 1, out->p + from, out->n - from);
        memcpy(out->p + from, dtd, sizeof dtd - 1);
        out->n += sizeof dtd - 1;
        return true;
    }
    if (flaw != FLAW_SIGNATURE && flaw != FLAW_CONTENT)
        return true;
    char *p = memmem(out->p + from, out->n - from, mark, strlen(mark));
    if (!p)
        return false;
    p += strlen(mark); /* the first character of the value */
    *p = *p == 'A' ? 'B' : 'A';
    return true;
}

static bool flaw_sign(const struct conform *c, enum conform_flaw flaw, struct str payload, struct buf *out)
{
    static const struct xmlsig_policy SHORT = {.min_hmac_bits = 128, .canonicalization = XMLSIG_C14N};
    const struct key_entry *by = flaw == FLAW_TRK_SIGNS && c->trk ? c->trk : c->signer;
    const size_t from = out->n;
    struct secret_key other;
    bool ok;
    if (flaw == FLAW_UNSIGNED) {
        buf_str(out, payload);
        return !out->failed;
    }
    if (flaw == FLAW_SHORT_HMAC)
        return xmlsig_sign_as(payload, by->id, &by->key, &SHORT, out);
    if (flaw == FLAW_OTHER_KEY || flaw == FLAW_UNKNOWN_KEY) {
        ok = RAND_bytes(other.b, sizeof other.b) == 1 &&
             xmlsig_sign_as(payload, flaw == FLAW_UNKNOWN_KEY ? STR("ink.conform-unknown") : by->id, &other,
                            &XMLSIG_STANDARD, out);
        secret_key_clear(&other);
        return ok;
    }
    return xmlsig_sign_as(payload, by->id, &by->key, &XMLSIG_STANDARD, out) && spoil(out, from, flaw);
}

/* A second KmsUri, equal to the first. */
static bool repeat(struct buf *payload)
{
    struct buf out BUF_CLEANUP = BUF_INIT(BODY_MAX);
    size_t n;
    const char *first = span(payload->p, payload->n, "<KmsUri>", "</KmsUri>", &n);
    if (!first)
        return false;
    buf_str(&out, (struct str){payload->p, (size_t)(first - payload->p) + n});
    buf_str(&out, (struct str){first, payload->n - (size_t)(first - payload->p)});
    payload->n = 0;
    buf_str(payload, buf_view(&out));
    return !out.failed && !payload->failed;
}

bool conform_compose(const struct conform *c, const char *resource, enum conform_flaw flaw, struct buf *out)
{
    struct buf url BUF_CLEANUP = BUF_INIT(BODY_MAX), device BUF_CLEANUP = BUF_INIT(64);
    struct buf payload BUF_CLEANUP = BUF_INIT(BODY_MAX);
    unsigned char fresh[8];
    char when[TIME_TEXT];
    if (RAND_bytes(fresh, sizeof fresh) != 1)
        return false;
    buf_z(&device, "conform-");
    buf_hex(&device, fresh, sizeof fresh, false);
    buf_z(&url, flaw == FLAW_URL_HOST ? "https://conform-other.example.invalid" : c->options->url);
    buf_z(&url, "/keymanagement/identity/v1");
    if (flaw == FLAW_URL_RESOURCE)
        buf_z(&url, strcmp(resource, "/certcache") == 0 ? "/init" : "/certcache");
    else if (flaw != FLAW_URL_BASE)
        buf_z(&url, resource);
    const int64_t apart = flaw == FLAW_PAST ? -APART_US : flaw == FLAW_FUTURE ? APART_US : 0;
    time_format(time_now_us() + apart, true, when);
    struct kms_request f = {.user_uri = c->client.user, .kms_uri = c->kms_uri, .time = str_z(when),
                            .client_id = str_z(c->options->client_id), .device_id = buf_view(&device),
                            .client_req_url = buf_view(&url), .trk_id = c->trk ? c->trk->id : STR_MISSING,
                            .signature_id = c->signer->id};
    flaw_fields(c, flaw, &f);
    kms_request_write(&f, &payload);
    return !device.failed && !url.failed && !payload.failed && (flaw != FLAW_TWICE || repeat(&payload)) &&
           flaw_sign(c, flaw, buf_view(&payload), out) && !out->failed;
}

static const struct refusal {
    enum conform_flaw flaw;
    const char *clause, *what, *name;
} REFUSALS[] = {
    {FLAW_SIGNATURE, "D.2.2 (1)", "a changed SignatureValue is refused", "signature"},
    {FLAW_CONTENT, "D.2.2 (1)", "a field changed after signing is refused", "content"},
    {FLAW_OTHER_KEY, "D.2.2 (1)", "a signature by another key is refused", "other-key"},
    {FLAW_UNKNOWN_KEY, "D.2.2 (1)", "a signature by an unknown key is refused", "unknown-key"},
    {FLAW_OTHER_USER, "D.2.2 (1)", "another user's UserUri under this user's key is refused", "other-user"},
    {FLAW_UNSIGNED, "D.2.2 (1)", "a request without signature is refused", "unsigned"},
    {FLAW_MOVED, "D.2.2 (1)", "a signature of another request than the one beside it is refused", "moved"},
    {FLAW_SHORT_HMAC, "D.2.2 (1)", "an HMAC cut to 128 bits is refused", "short-hmac"},
    {FLAW_TRK_SIGNS, "D.2.2", "the TrK does not sign for a user with an InK", "trk-signs"},
    {FLAW_NO_SIGNATURE_ID, "D.2.2", "a signed request without Signature-ID is refused", "no-signature-id"},
    {FLAW_OTHER_SIGNATURE_ID, "D.2.2", "a Signature-ID that names another key is refused", "other-signature-id"},
    {FLAW_TRK_ID, "D.2.2", "an unknown TrK-ID is refused", "trk-id"},
    {FLAW_ELEMENT, "D.2.2 (2)", "a request without KmsUri is refused", "no-kms-uri"},
    {FLAW_TWICE, "D.2.2 (2)", "a request with two KmsUri is refused", "two-kms-uris"},
    {FLAW_DTD, "D.2.2 (2)", "a document type declaration is refused", "dtd"},
    {FLAW_KMS_URI, "D.2.2 (3)", "another KMS's KmsUri is refused", "kms-uri"},
    {FLAW_PAST, "D.2.2 (4)", "a Time ten minutes ago is refused", "past"},
    {FLAW_FUTURE, "D.2.2 (4)", "a Time ten minutes ahead is refused", "future"},
    {FLAW_URL_RESOURCE, "D.2.2 (5)", "another resource's ClientReqUrl is refused", "url-resource"},
    {FLAW_URL_HOST, "D.2.2 (5)", "another server's ClientReqUrl is refused", "url-host"},
    {FLAW_URL_BASE, "D.2.2 (5)", "a ClientReqUrl that names no resource is refused", "url-base"},
};
/* On each other resource, one for each clause: who verifies at one door may have forgotten another. */
static const struct refusal REFUSALS_TO[] = {
    {FLAW_SIGNATURE, "D.2.2 (1)", "a changed SignatureValue is refused", "signature"},
    {FLAW_UNSIGNED, "D.2.2 (1)", "a request without signature is refused", "unsigned"},
    {FLAW_ELEMENT, "D.2.2 (2)", "a request without KmsUri is refused", "no-kms-uri"},
    {FLAW_KMS_URI, "D.2.2 (3)", "another KMS's KmsUri is refused", "kms-uri"},
    {FLAW_PAST, "D.2.2 (4)", "a Time ten minutes ago is refused", "past"},
    {FLAW_URL_RESOURCE, "D.2.2 (5)", "another resource's ClientReqUrl is refused", "url-resource"},
};

/* One exchange; false: it could not be made. */
static bool ask_of(struct conform *c, const char *resource, enum conform_flaw flaw, const char *name,
                   struct conform_reply *r)
{
    struct buf body BUF_CLEANUP = BUF_INIT(BODY_MAX);
    *r = (struct conform_reply){.body = BUF_INIT(0)};
    if (!conform_compose(c, resource, flaw, &body)) {
        complain("conform: no memory for a request");
        c->broken = true;
        return false;
    }
    conform_post(c, resource, name, buf_view(&body), r);
    return true;
}

static bool conform_ask(struct conform *c, enum conform_flaw flaw, const char *name, struct conform_reply *r)
{
    return ask_of(c, "/init", flaw, name, r);
}

/* A valid request just before: else a KMS that refuses all would pass. */
static bool twin_accepted(struct conform *c, char text[CONFORM_TEXT])
{
    struct conform_reply r;
    const bool ok = conform_ask(c, FLAW_NONE, "twin", &r) && conform_accepted(&r, text);
    conform_reply_free(&r);
    return ok;
}

static void judge_refusal(struct conform_row *row, const struct conform_reply *r, const char *twin)
{
    char text[CONFORM_TEXT];
    const bool judged = r->arrived && r->status < 500; /* 503: it could not be judged now, which is no refusal of it */
    if (r->arrived && conform_accepted(r, text))
        row->result = CONFORM_FAILS;
    else if (!judged || *twin)
        row->result = CONFORM_UNKNOWN;
    if (row->result == CONFORM_FAILS)
        snprintf(row->found, sizeof row->found, "it was accepted (HTTP %ld)", r->status);
    else if (!r->arrived)
        snprintf(row->found, sizeof row->found, "no answer came");
    else if (!judged)
        snprintf(row->found, sizeof row->found, "HTTP %ld: it was not judged; try again when the server is well",
                 r->status);
    else if (row->result == CONFORM_UNKNOWN)
        snprintf(row->found, sizeof row->found, "the valid request beside it was not accepted either: %.180s", twin);
}

static void try_refusal(struct conform *c, const struct refusal *f)
{
    char twin[CONFORM_TEXT] = "";
    struct conform_reply r;
    if (twin_accepted(c, twin))
        *twin = '\0';
    if (conform_ask(c, f->flaw, f->name, &r))
        judge_refusal(conform_row(c, f->clause, f->what, "/init", CONFORM_HOLDS, r.exchange), &r, twin);
    conform_reply_free(&r);
}

void conform_requests_to(struct conform *c, const char *resource, const struct conform_reply *valid)
{
    char twin[CONFORM_TEXT] = "";
    if (conform_accepted(valid, twin))
        *twin = '\0';
    for (size_t i = 0; i < sizeof REFUSALS_TO / sizeof *REFUSALS_TO && !c->broken; i++) {
        const struct refusal *f = &REFUSALS_TO[i];
        struct conform_reply r;
        if (ask_of(c, resource, f->flaw, f->name, &r))
            judge_refusal(conform_row(c, f->clause, f->what, resource, CONFORM_HOLDS, r.exchange), &r, twin);
        conform_reply_free(&r);
    }
}

/* The same octets twice, and others between: the first time they are accepted. */
static void try_replay(struct conform *c)
{
    struct buf body BUF_CLEANUP = BUF_INIT(BODY_MAX);
    struct conform_reply first, second;
    char text[CONFORM_TEXT] = "";
    if (!conform_compose(c, "/init", FLAW_NONE, &body)) {
        c->broken = true;
        return;
    }
    conform_post(c, "/init", "replay-first", buf_view(&body), &first);
    char between[CONFORM_TEXT];
    (void)twin_accepted(c, between);
    conform_post(c, "/init", "replay-second", buf_view(&body), &second);
    struct conform_row *row = conform_row(c, "D.2.2 (4)", "the same request a second time is refused", "/init",
                                          CONFORM_HOLDS, second.exchange);
    if (conform_accepted(&first, text))
        *text = '\0';
    judge_refusal(row, &second, text);
    conform_reply_free(&first);
    conform_reply_free(&second);
}

/* A refusal says so as D.3 has it: KmsResponse with KmsError, signed for a requester who has proven himself. */
static void try_error_form(struct conform *c)
{
    struct conform_reply r;
    char text[CONFORM_TEXT] = "";
    if (!conform_ask(c, FLAW_KMS_URI, "error", &r))
        return;
    struct conform_row *row = conform_row(c, "D.3", "a refusal is a KmsResponse with KmsError", "/init", CONFORM_HOLDS,
                                          r.exchange);
    if (!r.arrived || conform_accepted(&r, text)) {
        row->result = CONFORM_UNKNOWN;
        snprintf(row->found, sizeof row->found, r.arrived ? "nothing was refused" : "no answer came");
    } else if (!r.response || !r.error) {
        row->result = CONFORM_FAILS;
        snprintf(row->found, sizeof row->found, "HTTP %ld with %s", r.status,
                 r.response ? "a KmsResponse that has no KmsError" : "a body that is not a KmsResponse");
    }
    if (row->result == CONFORM_HOLDS)
        conform_signed(c, "a refusal of what was signed well is signed by the same key", "/init", &r);
    conform_reply_free(&r);
}

void conform_requests(struct conform *c)
{
    struct conform_reply r;
    if (!conform_ask(c, FLAW_NONE, "valid", &r))
        return;
    struct conform_row *row = conform_row(c, "D.2.2", "a valid signed request is accepted", "/init", CONFORM_HOLDS,
                                          r.exchange);
    if (!conform_accepted(&r, row->found))
        row->result = r.arrived ? CONFORM_FAILS : CONFORM_UNKNOWN;
    else
        *row->found = '\0';
    conform_reply_free(&r);
    for (size_t i = 0; i < sizeof REFUSALS / sizeof *REFUSALS && !c->broken; i++)
        if (REFUSALS[i].flaw != FLAW_TRK_SIGNS || (c->ink && c->trk))
            try_refusal(c, &REFUSALS[i]);
    if (!c->broken)
        try_replay(c);
    if (!c->broken)
        try_error_form(c);
}
