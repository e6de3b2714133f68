#include "message/kms_response_internal.h"

#include "base/limits.h"

struct opening {
    const struct kms_reader *reader;
    struct detail *why;
    struct str trk_id;   /* the response's */
    struct xmlenc *enc;  /* made when first needed */
    enum reason reason;  /* of the first thing that went wrong */
};

static bool open_fail(struct opening *o, enum reason reason, const char *what)
{
    detail_set(o->why, "%s", what);
    o->reason = reason;
    return false;
}

/* All that is encrypted names the same TrK: TrK-ID's. */
static bool want_trk(struct opening *o, struct str key_name)
{
    struct secret_key clear SECRET_CLEANUP = {{0}};
    if (!str_eq(key_name, o->trk_id))
        return open_fail(o, REASON_UPSTREAM_INVALID, "TrK-ID: expected the KeyName of what is encrypted");
    if (o->enc)
        return true;
    if (!o->reader->trk(o->reader->arg, key_name, &clear))
        return open_fail(o, REASON_KEY_UNKNOWN, "TrK-ID: there is no such TrK");
    o->enc = xmlenc_new(&clear, key_name);
    return o->enc ? true : open_fail(o, REASON_INTERNAL, "the TrK cannot be used");
}

static struct str text_in(const xmlNode *set, const char *name)
{
    const xmlNode *n = response_child(set, name);
    const struct str text = xml_text(n);
    return text.p ? str_trim(text) : text;
}

static bool open_key(struct opening *o, const xmlNode *set, const xmlNode *n, const struct schema_element *e)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    struct encrypted found = {0};
    const xmlNode *key = schema_encrypted_key(n);
    if (key && (!encrypted_key_read(key, &found, o->why) || !want_trk(o, found.key_name)))
        return false;
    if (!response_octets(n, e, o->enc, octets, sizeof octets)) {
        detail_set(o->why, "%s: does not open under the TrK, expected %zu octets", e->name.p, e->octets);
        o->reason = REASON_UPSTREAM_INVALID;
        return false;
    }
    struct kms_key_content content = {.element = e->name, .set = set, .algorithm = found.algorithm,
                                      .key_name = found.key_name, .carried = found.carried, .octets = octets,
                                      .n = e->octets};
    content.kms_uri = text_in(set, "KmsUri");
    content.user_uri = text_in(set, "UserUri");
    content.user_id = text_in(set, "UserID");
    content.period_no = text_in(set, "KeyPeriodNo");
    content.valid_from = text_in(set, "ValidFrom");
    content.valid_to = text_in(set, "ValidTo");
    o->reader->key(o->reader->arg, &content);
    secret_wipe(octets, sizeof octets);
    return true;
}

static bool pub_key(const xmlNode *certificate, const char *name, uint8_t *out, size_t want)
{
    size_t n = 0;
    return hex_decode(text_in(certificate, name), out, want, &n) && n == want;
}

/* Of a KmsInit, signed by the KMS itself or not: what answers for it here is the response's signature. */
static bool show_certificate(struct opening *o, const xmlNode *init)
{
    const xmlNode *outer = response_child(init, "SignedKmsCertificate");
    const xmlNode *n = response_child(outer ? outer : init, "KmsCertificate");
    struct kms_certificate c = {.kms_uri = text_in(n, "KmsUri"), .user_id_format = text_in(n, "UserIdFormat"),
                                .valid_from = text_in(n, "ValidFrom"), .valid_to = text_in(n, "ValidTo")};
    const struct str revoked = text_in(n, "Revoked");
    c.revoked = str_eq_z(revoked, "true") || str_eq_z(revoked, "1");
    if (!str_to_u64(text_in(n, "UserKeyPeriod"), UINT32_MAX, &c.period) ||
        !str_to_u64(text_in(n, "UserKeyOffset"), UINT32_MAX, &c.offset))
        c.period = 0;
    if (!n || !pub_key(n, "PubEncKey", c.pub_enc, sizeof c.pub_enc) ||
        !pub_key(n, "PubAuthKey", c.pub_auth, sizeof c.pub_auth))
        return open_fail(o, REASON_UPSTREAM_INVALID, "KmsInit: its certificate cannot be read");
    o->reader->certificate(o->reader->arg, &c);
    return true;
}

static bool open_group(struct opening *o, const xmlNode *parent, const struct schema_group *g)
{
    size_t at;
    if (o->reader->certificate && xml_is(parent, NS_KMS, "KmsInit") && !show_certificate(o, parent))
        return false;
    for (const xmlNode *n = xml_child(parent); n; n = xml_next(n)) {
        const struct schema_element *e = schema_find(g, n, &at);
        const xmlNode *set = g == &SCHEMA_KEY_SET ? parent : NULL;
        if (e && e->type == TYPE_KEY && !open_key(o, set, n, e))
            return false;
        if (e && e->type == TYPE_GROUP && !open_group(o, n, e->group))
            return false;
    }
    return true;
}

/* The clear content, as a KmsMessage again: others may have written it without its declarations. */
static bool open_decrypt(struct opening *o, const xmlNode *data, struct buf *out)
{
    struct encrypted found, key;
    struct secret_key content SECRET_CLEANUP = {{0}};
    uint8_t wrapped[2 * KEY_BYTES];
    size_t n = 0, key_n = 0, cipher_n = 0;
    if (!encrypted_data_read(data, &found, o->why) || !encrypted_key_read(found.key, &key, o->why) ||
        !want_trk(o, key.key_name))
        return false;
    struct buf cipher BUF_CLEANUP = BUF_INIT(found.cipher.n + 1);
    uint8_t *room = (uint8_t *)buf_reserve(&cipher, found.cipher.n);
    if (!room)
        return open_fail(o, REASON_INTERNAL, "no memory");
    if (!base64_decode(key.cipher, wrapped, sizeof wrapped, &n) ||
        !xmlenc_open_key(o->enc, key.algorithm, wrapped, n, content.b, sizeof content.b, &key_n) ||
            key_n != KEY_BYTES ||
        !base64_decode(found.cipher, room, found.cipher.n, &cipher_n))
        return open_fail(o, REASON_UPSTREAM_INVALID, "the key of KmsMessage does not open under the TrK");
    buf_z(out, "<KmsMessage xmlns=\"" NS_KMS "\" xmlns:xsi=\"" NS_XSI "\">");
    if (!xmlenc_open_gcm(content.b, room, cipher_n, out))
        return open_fail(o, REASON_UPSTREAM_INVALID, "KmsMessage does not open under its key");
    buf_z(out, "</KmsMessage>");
    return out->failed ? open_fail(o, REASON_INTERNAL, "no memory") : true;
}

static bool open_encrypted(struct opening *o, const xmlNode *data, struct kms_response *r)
{
    struct schema_check check = {.mode = SCHEMA_CLIENT, .why = o->why};
    struct buf text BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    struct xml_doc *doc = NULL;
    const struct schema_element *e = NULL;
    if (!open_decrypt(o, data, &text))
        return false;
    const enum reason parsed = xml_parse(buf_view(&text), &XML_LIMITS_PROTECTED, &doc, o->why);
    if (parsed != REASON_OK) {
        o->reason = parsed == REASON_INTERNAL ? parsed : REASON_UPSTREAM_INVALID;
        return false;
    }
    bool ok = schema_holds(&check, xml_top(doc), &SCHEMA_MESSAGE);
    if (ok && schema_payload(xml_top(doc), &e))
        r->message = (enum kms_message)(KMS_MESSAGE_INIT + (e - SCHEMA_MESSAGE.elements));
    ok = ok && open_group(o, xml_top(doc), &SCHEMA_MESSAGE);
    r->has_key_content = check.has_key_content;
    xml_free(doc);
    return ok;
}

static enum reason open_response(const struct xml_doc *doc, const xmlNode *response, const struct kms_reader *reader,
                                 struct kms_response *r, struct detail *why)
{
    struct schema_check check = {.mode = SCHEMA_CLIENT, .why = why};
    struct opening o = {.reader = reader, .why = why, .reason = REASON_UPSTREAM_INVALID};
    *r = (struct kms_response){0};
    if (!response || !schema_holds(&check, response, &SCHEMA_RESPONSE) ||
        !response_fields(doc, response, r, why))
        return REASON_UPSTREAM_INVALID;
    r->has_key_content = check.has_key_content;
    r->has_encrypted = check.has_encrypted;
    r->has_new_key = check.has_new_key;
    o.trk_id = xml_text(response_child(response, "TrK-ID"));
    const xmlNode *message = response_child(response, "KmsMessage"), *data = xml_child(message);
    const bool ok = xml_is(data, NS_XENC, "EncryptedData") ? open_encrypted(&o, data, r)
                    : !message || open_group(&o, message, &SCHEMA_MESSAGE);
    xmlenc_free(o.enc);
    return ok ? REASON_OK : o.reason;
}

enum reason kms_response_open(const struct xml_signed *proof, const struct kms_reader *reader, struct kms_response *r,
                              struct detail *why)
{
    return open_response(proof->doc, proof->node, reader, r, why);
}

enum reason kms_response_open_unsigned(const struct xml_doc *doc, const struct kms_reader *reader,
                                       struct kms_response *r, struct detail *why)
{
    if (xml_root(doc) == KMS_ROOT_RESPONSE)
        return open_response(doc, xml_top(doc), reader, r, why);
    *r = (struct kms_response){0};
    detail_set(why, "the root: expected KmsResponse");
    return REASON_UPSTREAM_INVALID;
}
