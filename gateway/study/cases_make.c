#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "base/uri.h"
#include "study/cases.h"

/* Whose InK signs for SIGNER_ANOTHER. */
#define ANOTHER "sip:somebody-else@example.invalid"

static const struct case_key {
    const char *id;
    enum key_type type;
    enum key_state state;
    bool expired;
} KEYS[SIGNER_COUNT] = {
    [SIGNER_INK] = {"ink.1", KEY_INK, KEY_ACTIVE, false},
    [SIGNER_TRK] = {"trk.1", KEY_TRK, KEY_ACTIVE, false},
    [SIGNER_RETIRING] = {"ink.0", KEY_INK, KEY_RETIRING, false},
    [SIGNER_REVOKED] = {"ink.r", KEY_INK, KEY_REVOKED, false},
    [SIGNER_EXPIRED] = {"ink.e", KEY_INK, KEY_ACTIVE, true},
    [SIGNER_UNKNOWN] = {"ink.x", KEY_INK, KEY_ACTIVE, false},
    [SIGNER_ANOTHER] = {"ink.o", KEY_INK, KEY_ACTIVE, false},
};

bool case_resource(const struct case_facts *f, struct resource *out)
{
    return resource_parse(str_z(f->path), out, NULL) == REASON_OK;
}

static bool wanted(const struct case_facts *f, enum case_signer s)
{
    if (s == SIGNER_INK)
        return f->keys & HAS_INK;
    if (s == SIGNER_TRK)
        return f->keys & HAS_TRK;
    return s == f->signed_by && s != SIGNER_UNKNOWN && !(f->keys & HAS_NONE);
}

/* The keys of a case live for it alone, and in memory alone. */
static struct keystore *make_keys(const struct case_facts *f, int64_t now_us, struct secret_key *signer)
{
    struct key_entry v[SIGNER_COUNT];
    size_t n = 0;
    bool ok = true;
    for (int s = 0; ok && s < SIGNER_COUNT; s++) {
        struct secret_key key;
        ok = RAND_bytes(key.b, sizeof key.b) == 1;
        if (s == (int)f->signed_by)
            *signer = key;
        if (!ok || !wanted(f, (enum case_signer)s))
            continue;
        v[n++] = (struct key_entry){str_z(s == SIGNER_ANOTHER ? ANOTHER : f->user), str_z(KEYS[s].id), KEYS[s].type,
                                    KEYS[s].state, KEYS[s].expired ? now_us - 1 : TIME_NONE, key};
        secret_key_clear(&key);
    }
    struct keystore *ks = ok ? keystore_scratch(v, n) : NULL;
    secret_wipe(v, sizeof v);
    return ks;
}

static void write_time(const struct case_facts *f, int64_t us, char out[TIME_TEXT + 8])
{
    const int zone = f->zone_minutes == ZONE_NONE ? 0 : f->zone_minutes, a = zone < 0 ? -zone : zone;
    time_format(us + (int64_t)zone * 60 * US_PER_S, true, out);
    const size_t n = strlen(out) - 1; /* its Z */
    if (f->zone_minutes == ZONE_NONE)
        out[n] = '\0';
    else if (zone)
        snprintf(out + n, TIME_TEXT + 8 - n, "%c%02d:%02d", zone < 0 ? '-' : '+', a / 60, a % 60);
}

/* A check made to fail by the fact that it looks at. */
static void make_fail(const struct case_facts *f, int64_t now_us, struct kms_request *r, struct case_made *out)
{
    enum { YEAR_DAYS = 366 };
    switch (f->fails) {
    case CHECK_KEY_POLICY:
        r->signature_id = STR("ink.not-the-one");
        break;
    case CHECK_KMS_URI:
        r->kms_uri = STR("another-kms.example.invalid");
        break;
    case CHECK_TIME:
        write_time(f, now_us - (int64_t)YEAR_DAYS * 86400 * US_PER_S, out->time);
        r->time = str_z(out->time);
        break;
    case CHECK_CLIENT_REQ_URL:
        r->client_req_url = STR("https://another-kms.example.invalid/keymanagement/identity/v1/init");
        break;
    default:
        break;
    }
}

static struct str unless(const struct case_facts *f, unsigned without, struct str s)
{
    return f->without & without ? STR_MISSING : s;
}

static struct kms_request make_fields(const struct cases *c, const struct case_facts *f, const struct rules *rules,
                                      struct buf *url)
{
    buf_z(url, c->public_url.v[0]);
    buf_z(url, f->path);
    const struct str trk = f->trk_id ? str_z(f->trk_id) : f->keys & HAS_TRK ? STR("trk.1") : STR_MISSING;
    const struct str signer = f->form == FORM_SIGNED ? str_z(KEYS[f->signed_by].id) : STR_MISSING;
    return (struct kms_request){
        .version = unless(f, WITHOUT_VERSION, str_z(f->version)),
        .user_uri = unless(f, WITHOUT_USER, str_z(f->user)),
        .kms_uri = unless(f, WITHOUT_KMS_URI, f->kms_uri ? str_z(f->kms_uri) : str_z(rules->kms_uris.v[0])),
        .client_id = str_z(f->client_id),
        .device_id = str_z(f->device_id),
        .client_req_url = unless(f, WITHOUT_CLIENT_REQ_URL,
                                 f->client_req_url ? str_z(f->client_req_url) : buf_view(url)),
        .trk_id = unless(f, WITHOUT_TRK_ID, trk),
        .signature_id = unless(f, WITHOUT_SIGNATURE_ID, f->signature_id ? str_z(f->signature_id) : signer),
    };
}

static void cases_put(struct buf *out, const char *name, struct str text)
{
    if (!text.p)
        return;
    buf_printf(out, "<%s>", name);
    buf_xml_text(out, text);
    buf_printf(out, "</%s>", name);
}

/* In the schema's order. A schema that is to fail gets an element that it does not know. */
static void put_request(const struct kms_request *r, bool broken, struct buf *out)
{
    buf_z(out, "<KmsRequest xmlns=\"" NS_KMS "\" Id=\"xmldoc\"");
    if (r->version.p) {
        buf_z(out, " Version=\"");
        buf_xml_attr(out, r->version);
        buf_char(out, '"');
    }
    buf_char(out, '>');
    cases_put(out, "UserUri", r->user_uri);
    cases_put(out, "KmsUri", r->kms_uri);
    cases_put(out, "Time", r->time);
    cases_put(out, "ClientId", r->client_id);
    cases_put(out, "DeviceId", r->device_id);
    cases_put(out, "ClientReqUrl", r->client_req_url);
    cases_put(out, "TrK-ID", r->trk_id);
    cases_put(out, "Signature-ID", r->signature_id);
    buf_z(out, broken ? "<NotOfTheSchema>1</NotOfTheSchema></KmsRequest>" : "</KmsRequest>");
}

static bool make_body(const struct cases *c, const struct case_facts *f, const struct rules *rules, int64_t now_us,
                      const struct secret_key *signer, struct case_made *out)
{
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20), payload BUF_CLEANUP = BUF_INIT(1 << 20);
    const struct xmlsig_policy profile = {f->hmac_bits, f->canonicalization};
    struct secret_key wrong SECRET_CLEANUP = {{0}};
    if (f->form == FORM_EMPTY)
        return true;
    if (f->body) {
        buf_z(&out->body, f->body);
        return !out->body.failed;
    }
    struct kms_request r = make_fields(c, f, rules, &url);
    write_time(f, now_us + f->offset_us, out->time);
    r.time = unless(f, WITHOUT_TIME, f->time ? str_z(f->time) : str_z(out->time));
    make_fail(f, now_us, &r, out);
    put_request(&r, f->fails == CHECK_SCHEMA, &payload);
    if (payload.failed || RAND_bytes(wrong.b, sizeof wrong.b) != 1)
        return false;
    if (f->form == FORM_UNSIGNED) {
        buf_str(&out->body, buf_view(&payload));
        return !out->body.failed;
    }
    return xmlsig_sign_as(buf_view(&payload), str_z(KEYS[f->signed_by].id),
                          f->fails == CHECK_SIGNATURE ? &wrong : signer, &profile, &out->body);
}

static void put_hex(struct buf *out, const char *name, size_t octets, bool point)
{
    buf_printf(out, "<%s>%s", name, point ? "04" : "5a");
    for (size_t i = 1; i < octets; i++)
        buf_z(out, "5a");
    buf_printf(out, "</%s>", name);
}

static void put_certificate(struct buf *out)
{
    enum { RSK = 257, PVT = 65 };
    buf_z(out, "<KmsCertificate Version=\"1.1.0\" Role=\"Root\"><KmsUri>old-kms.example.invalid</KmsUri>"
               "<UserIdFormat>2</UserIdFormat><UserKeyPeriod>2592000</UserKeyPeriod><UserKeyOffset>0</UserKeyOffset>");
    put_hex(out, "PubEncKey", RSK, true);
    put_hex(out, "PubAuthKey", PVT, true);
    buf_z(out, "</KmsCertificate>");
}

static void put_key_set(struct buf *out, struct str user)
{
    enum { RSK = 257, SSK = 32, PVT = 65 };
    buf_z(out, "<KmsKeySet Version=\"1.1.0\"><KmsUri>old-kms.example.invalid</KmsUri>");
    cases_put(out, "UserUri", user);
    buf_z(out, "<UserID>00</UserID><KeyPeriodNo>1</KeyPeriodNo>");
    put_hex(out, "UserDecryptKey", RSK, true);
    put_hex(out, "UserSigningKeySSK", SSK, false);
    put_hex(out, "UserPubTokenPVT", PVT, true);
    buf_z(out, "</KmsKeySet>");
}

static int cases_owed(const struct case_facts *f)
{
    static const int BY_KIND[] = {
        [RESOURCE_INIT] = KMS_MESSAGE_INIT,           [RESOURCE_KEYPROV] = KMS_MESSAGE_KEYPROV,
        [RESOURCE_CERTCACHE] = KMS_MESSAGE_CERTCACHE, [RESOURCE_CERT] = KMS_MESSAGE_CERTCACHE,
        [RESOURCE_LOOKUP] = KMS_MESSAGE_LOOKUP,       [RESOURCE_REDIRECT] = KMS_MESSAGE_NONE};
    struct resource r;
    if (f->message >= 0)
        return f->message;
    return case_resource(f, &r) ? BY_KIND[r.kind] : KMS_MESSAGE_NONE;
}

/* What an older KMS would answer, keys in clear. */
static bool make_reply(const struct case_facts *f, struct str user, struct case_made *out)
{
    struct buf *b = &out->reply;
    const int message = cases_owed(f);
    if (f->reply_n)
        buf_bytes(b, f->reply, f->reply_n);
    else if (f->reply)
        buf_z(b, f->reply);
    if (f->reply || message == KMS_MESSAGE_NONE)
        return !b->failed;
    buf_z(b, "<KmsResponse xmlns=\"" NS_KMS "\">");
    cases_put(b, "UserUri", user);
    buf_z(b, "<KmsUri>old-kms.example.invalid</KmsUri><Time>2020-01-01T00:00:00Z</Time>");
    cases_put(b, "ClientReqUrl", str_z(f->path));
    if (message == KMS_MESSAGE_ERROR) {
        buf_z(b, "<KmsError><ErrorCode>1</ErrorCode><ErrorMsg>made for a case</ErrorMsg></KmsError>");
    } else {
        const char *name = kms_message_name((enum kms_message)message);
        buf_printf(b, "<KmsMessage><%s%s>", name, message == KMS_MESSAGE_LOOKUP ? "" : " Version=\"1.0.0\"");
        if (message == KMS_MESSAGE_KEYPROV)
            put_key_set(b, user);
        else if (message == KMS_MESSAGE_LOOKUP)
            buf_z(b, "<KmsUri>kms.example.invalid</KmsUri>");
        else
            put_certificate(b);
        buf_printf(b, "</%s></KmsMessage>", name);
    }
    buf_z(b, "</KmsResponse>");
    return !b->failed;
}

bool case_make(const struct cases *c, const struct case_facts *f, const struct rules *rules, int64_t now_us,
               struct case_made *out, struct detail *why)
{
    struct secret_key signer SECRET_CLEANUP = {{0}};
    struct resource r;
    struct buf path_user BUF_CLEANUP = BUF_INIT(1 << 20);
    *out = (struct case_made){.body = BUF_INIT(4 << 20), .reply = BUF_INIT(4 << 20)};
    const bool named = case_resource(f, &r) && r.user_raw.p && uri_percent_decode(r.user_raw, &path_user);
    out->keys = make_keys(f, now_us, &signer);
    if (out->keys && make_body(c, f, rules, now_us, &signer, out) &&
        make_reply(f, named ? buf_view(&path_user) : str_z(f->user), out))
        return true;
    detail_set(why, "no request can be made of these facts: out of memory, or a text that XML cannot hold");
    case_made_free(out);
    return false;
}

void case_made_free(struct case_made *m)
{
    keystore_close(m->keys);
    buf_free(&m->body);
    buf_free(&m->reply);
    *m = (struct case_made){0};
}
