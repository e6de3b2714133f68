#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>

#include "base/log.h"
#include "base/uri.h"
#include "base/text.h"
#include "cmd/client.h"

enum { REPLY_SECONDS = 30 }; /* how far a reply's Time may be from now: an older one may be an old one sent again */

/* What the callbacks of one reply work on. */
struct opening {
    const struct client *client;
    const struct client_expect *expect;
    struct client_got *got;
    struct proof_want want;
    struct proof proof;
    struct buf also;             /* the path's {UserUri}, decoded */
    struct kms_response response;
};

static const struct key_entry *open_find(const struct client *c, struct str id)
{
    for (size_t i = 0; i < c->file.n; i++)
        if (str_eq(c->file.v[i].user, c->user) && str_eq(c->file.v[i].id, id))
            return &c->file.v[i];
    return NULL;
}

static bool give_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct opening *o = arg;
    const struct key_entry *e = open_find(o->client, id);
    if (!e || e->type != KEY_TRK || e->state == KEY_REVOKED)
        return false;
    *out = e->key;
    return true;
}

/* "kw-aes256" of "http://www.w3.org/2001/04/xmlenc#kw-aes256" */
static struct str short_name(struct str algorithm)
{
    for (size_t i = algorithm.n; i > 0; i--)
        if (algorithm.p[i - 1] == '#')
            return (struct str){algorithm.p + i, algorithm.n - i};
    return algorithm;
}

/* The {time} of `/keyprov/{UserUri}/{time}`: NTP's 64 bits in hex, of which the first 32 are seconds since 1900. */
static bool path_time(const struct resource *r, int64_t *us)
{
    uint8_t octets[8];
    size_t n = 0, at = r->path.n;
    while (at > 0 && r->path.p[at - 1] != '/')
        at--;
    if (!r->user_raw.p || r->user_raw.p == r->path.p + at ||
        !hex_decode((struct str){r->path.p + at, r->path.n - at}, octets, sizeof octets, &n) || n != sizeof octets)
        return false;
    const uint32_t ntp = (uint32_t)octets[0] << 24 | (uint32_t)octets[1] << 16 | (uint32_t)octets[2] << 8 | octets[3];
    *us = ((int64_t)ntp - INT64_C(2208988800)) * US_PER_S;
    return true;
}

/* Whose keys of which moment are due: what the (signed) ClientReqUrl asked for. */
static void begin_proof(struct opening *o)
{
    struct resource r;
    size_t at;
    bool zone;
    o->want = (struct proof_want){.kms = o->expect->kms, .why_not = o->expect->why_not, .user = o->client->user};
    if (!time_parse(o->response.time, &o->want.at_us, &zone))
        o->want.at_us = time_now_us();
    if (client_resource(o->response.client_req_url, &at, &r) && r.kind == RESOURCE_KEYPROV) {
        if (r.user_raw.p && uri_percent_decode(r.user_raw, &o->also) && !o->also.failed)
            o->want.also = buf_view(&o->also);
        path_time(&r, &o->want.at_us);
    }
    proof_begin(&o->proof, &o->want);
}

/* A new TrK or InK, by the name that it has there. */
static void take_new_key(struct opening *o, const struct kms_key_content *key)
{
    struct buf *b = &o->got->lines;
    struct key_entry e = {.user = o->client->user, .id = key->carried, .state = KEY_ACTIVE, .not_after = TIME_NONE};
    e.type = str_eq_z(key->element, "NewTransportKey") ? KEY_TRK : KEY_INK;
    if (!key->carried.n || key->carried.n > KEY_TEXT_MAX || key->n != KEY_BYTES) {
        buf_z(b, "  does not say its ID (CarriedKeyName)");
        return;
    }
    memcpy(e.key.b, key->octets, KEY_BYTES);
    buf_z(b, "  named ");
    text_escape(b, key->carried);
    client_note_new(o->got, &e);
    secret_key_clear(&e.key);
}

static void show_key(void *arg, const struct kms_key_content *key)
{
    struct opening *o = arg;
    struct buf *b = &o->got->lines;
    unsigned char digest[32];
    if (EVP_Digest(key->octets, key->n, digest, NULL, EVP_sha256(), NULL) != 1) {
        b->failed = true;
        return;
    }
    buf_printf(b, "  %-17.*s %4zu octets  sha256 ", STR_FMT(key->element), key->n);
    buf_hex(b, digest, 4, false);
    if (key->algorithm.p && key->key_name.p) {
        buf_printf(b, "  %.*s under ", STR_FMT(short_name(key->algorithm)));
        text_escape(b, key->key_name);
    } else {
        buf_z(b, "  came in clear");
    }
    if (!key->set && key->n == KEY_BYTES)
        take_new_key(o, key);
    if (key->period_no.p)
        buf_printf(b, "  period %.*s", STR_FMT(key->period_no));
    buf_char(b, '\n');
    if (o->expect->with_secrets) {
        buf_printf(b, "    ");
        buf_hex(b, key->octets, key->n, false);
        buf_char(b, '\n');
    }
    if (!o->proof.want)
        begin_proof(o);
    proof_key(&o->proof, key, b);
}

static void pass_over(void *arg, const struct kms_key_content *key)
{
    (void)arg;
    (void)key;
}

static void show_certificate(void *arg, const struct kms_certificate *c)
{
    struct opening *o = arg;
    struct buf *b = &o->got->lines;
    proof_kms_take(&o->got->kms, c, time_now_us());
    buf_printf(b, "  KmsCertificate of %.*s: UserIdFormat ", STR_FMT(c->kms_uri));
    text_escape(b, c->user_id_format);
    buf_printf(b, ", UserKeyPeriod %" PRIu64 " s, UserKeyOffset %" PRIu64 " s", c->period, c->offset);
    if (c->valid_from.p && c->valid_to.p)
        buf_printf(b, ",\n    valid from %.*s to %.*s%s", STR_FMT(c->valid_from), STR_FMT(c->valid_to),
                   c->revoked ? ", REVOKED" : "");
    buf_char(b, '\n');
    if (!o->got->kms.known)
        buf_printf(b, "  proves no keys: %s\n", o->got->kms.why);
}

/* The key that the reply claims to be signed by, if it may sign for this user: his InK; his TrK where he has no InK. */
static const struct key_entry *signer_of(const struct opening *o, struct str key_name)
{
    const struct key_entry *e = open_find(o->client, key_name), *own = client_signer(o->client);
    if (o->expect->signer)
        return e == o->expect->signer ? e : NULL;
    return e && own && e->state != KEY_REVOKED && e->type == own->type ? e : NULL;
}

static bool verify(const struct opening *o, struct xml_doc *doc, const struct xml_signed **proof, struct str *by)
{
    static const struct xmlsig_policy POLICY = {.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N};
    struct detail why = {""};
    struct xmlsig_info info;
    enum reason r = xmlsig_read(doc, &POLICY, &info, &why);
    const struct key_entry *signer = r == REASON_OK ? signer_of(o, info.key_name) : NULL;
    if (r == REASON_OK && !signer) {
        complain("the reply failed verification: it is signed by `%.*s`, which is not a key that should sign it",
                 STR_FMT(info.key_name));
        return false;
    }
    if (r == REASON_OK)
        r = xmlsig_verify(doc, &POLICY, &signer->key, proof, &why);
    if (r != REASON_OK) {
        complain("the reply's signature does not hold: %s (%s)", reason_name(r), why.text);
        return false;
    }
    *by = signer->id;
    return true;
}

/* Signed, but is it the answer to this request? */
static bool answers(const struct opening *o, const struct kms_response *r)
{
    int64_t at = 0;
    bool zone;
    if (!str_eq(r->user_uri, o->client->user)) {
        complain("the reply is for `%.*s`, not for %.*s", STR_FMT(r->user_uri), STR_FMT(o->client->user));
        return false;
    }
    if (o->expect->url.p && !str_eq(r->client_req_url, o->expect->url)) {
        complain("the reply answers `%.*s`, not %.*s", STR_FMT(r->client_req_url), STR_FMT(o->expect->url));
        return false;
    }
    if (!o->expect->now_us)
        return true;
    if (!time_parse(r->time, &at, &zone) || at < o->expect->now_us - REPLY_SECONDS * US_PER_S ||
        at > o->expect->now_us + REPLY_SECONDS * US_PER_S) {
        complain("the reply's Time is %.*s, which is not now", STR_FMT(r->time));
        return false;
    }
    return true;
}

static void describe(const struct kms_response *r, struct str by, struct buf *head)
{
    if (r->message == KMS_MESSAGE_ERROR) {
        buf_printf(head, "KmsError %" PRId64 " ", r->error_code);
        text_escape(head, r->error_msg);
        buf_printf(head, by.p ? " (signed by %.*s)" : " (not signed)", STR_FMT(by));
        return;
    }
    buf_printf(head, "%s for %.*s from %.*s", kms_message_name(r->message), STR_FMT(r->user_uri), STR_FMT(r->kms_uri));
    if (r->kms_id.p) {
        buf_z(head, " (");
        text_escape(head, r->kms_id);
        buf_char(head, ')');
    }
    buf_printf(head, " at %.*s, signed by %.*s", STR_FMT(r->time), STR_FMT(by));
}

static void open_document(struct opening *o, struct xml_doc *doc)
{
    struct kms_response *r = &o->response;
    const struct xml_signed *proof = NULL;
    struct detail why = {""};
    struct str by = STR_MISSING;
    const bool is_signed = xml_root(doc) == KMS_ROOT_SIGNED_RESPONSE;
    if (is_signed && !verify(o, doc, &proof, &by))
        return;
    if (!is_signed && xml_root(doc) != KMS_ROOT_RESPONSE) {
        complain("the reply is not a KmsResponse");
        return;
    }
    /* of what is not signed nothing but a KmsError is taken: no work is spent on its keys */
    const struct kms_reader reader = {give_trk, is_signed ? show_key : pass_over, is_signed ? show_certificate : NULL,
                                      o};
    const enum reason reason = is_signed ? kms_response_open(proof, &reader, r, &why)
                                         : kms_response_open_unsigned(doc, &reader, r, &why);
    proof_end(&o->proof);
    if (reason != REASON_OK) {
        complain("the reply cannot be opened: %s", why.text);
        return;
    }
    if (!is_signed && r->message != KMS_MESSAGE_ERROR) {
        complain("the reply has no signature");
        return;
    }
    if (is_signed && !answers(o, r))
        return;
    describe(r, by, &o->got->head);
    o->got->message = r->message;
    o->got->error_code = r->error_code;
    o->got->sets = o->proof.sets;
    o->got->proven = o->proof.right;
    if (o->got->head.failed || o->got->lines.failed)
        complain("no memory");
    else
        o->got->result = r->message == KMS_MESSAGE_ERROR ? CLIENT_REFUSED
                         : o->proof.wrong               ? CLIENT_WRONG
                                                        : CLIENT_OPENED;
}

void client_open(const struct client *c, struct str reply, const struct client_expect *expect, struct client_got *got)
{
    struct opening o = {.client = c, .expect = expect, .got = got, .also = BUF_INIT(64 * 1024)};
    struct xml_doc *doc = NULL;
    struct detail why = {""};
    *got = (struct client_got){.result = CLIENT_BROKEN, .head = BUF_INIT(64 * 1024),
                               .lines = BUF_INIT_SECRET(LIMIT_REPLY_OUT)};
    const enum reason r = xml_parse(reply, &XML_LIMITS_PROTECTED, &doc, &why);
    if (r == REASON_OK)
        open_document(&o, doc);
    else
        complain("the reply is not a KmsResponse: %s", why.text);
    xml_free(doc);
    buf_free(&o.also);
}

void client_got_free(struct client_got *got)
{
    buf_free(&got->head);
    buf_free(&got->lines);
    proof_kms_free(&got->kms);
    client_forget_new(got);
}
