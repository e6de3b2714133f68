/*
 * Replies made at random, most of them in the closed profile that is read in one pass, in every spelling of it that
 * comes to mind, some a step beyond it; and both ways of reading one, which must say the same.
 *
 *     struct dice dice = {.state = seed};              or {.p = bytes, .n = n}: the fuzzer's bytes decide
 *     made_reply(&dice, KMS_MESSAGE_KEYPROV, &out);
 *     ways = reply_ways(&gate, j, &upstream, now_us, &what);
 */
#ifndef TEST_GATE_MADE_REPLY_H
#define TEST_GATE_MADE_REPLY_H

#include "../message/made.h"

#include "gate/gate.h"
#include "message/response_profile.h"

#define MADE_USER "sip:alice@example.org"

/* Octets that no other text holds by accident. */
static inline uint8_t made_octet(unsigned which, size_t i)
{
    uint32_t mixed = which * 2654435761u + (uint32_t)i * 2246822519u + 97;
    mixed = (mixed ^ mixed >> 15) * 3266489917u;
    return (uint8_t)(mixed >> 16);
}

static inline void made_hex(struct making *m, unsigned which, size_t octets)
{
    const bool upper = !one_in(m->d, 4), odd = m->odd && one_in(m->d, 20);
    for (size_t i = odd ? roll(m->d, 3) : 0; i < octets; i++) {
        const uint8_t octet = made_octet(which, i);
        buf_hex(m->out, &octet, 1, upper);
    }
    if (odd && one_in(m->d, 3))
        buf_char(m->out, '0');
}

static inline void made_key(struct making *m, const char *name, unsigned which, size_t octets)
{
    static const char *const TYPES[] = {"KeyContentType", "KeyContentType", "k:KeyContentType"},
                      *const ODD[] = {"EncKeyContentType", "x:KeyContentType", " KeyContentType",
                                      ":KeyContentType", ""};
    buf_printf(m->out, "<%s%s", m->kms, name);
    if (one_in(m->d, 3))
        made_attribute(m, one_in(m->d, 4) ? "i:type" : "xsi:type",
                       m->odd && one_in(m->d, 6) ? PICK(m->d, ODD) : PICK(m->d, TYPES));
    if (m->odd && one_in(m->d, 40))
        made_attribute(m, "Id", "x");
    buf_char(m->out, '>');
    made_gap(m);
    made_hex(m, which, octets);
    made_gap(m);
    buf_printf(m->out, "</%s%s%s>", m->kms, name, one_in(m->d, 10) ? " " : "");
    made_gap(m);
}

/* A text of no type of its own: usual, or a key in another dress, or what is not free. */
static inline void made_free(struct making *m, const char *name)
{
    static const char *const TEXTS[] = {"kms.example.org", "Some issuer, (1)", "", " x ", "a&amp;b", "\"quoted\"",
                                        "\xC3\xA9", "0102030405060708090a0b0c0d0e0f10", "a+b=c"};
    buf_printf(m->out, "<%s%s>", m->kms, name);
    if (one_in(m->d, 12)) {
        uint8_t octets[20];
        const unsigned which = roll(m->d, 3), from = roll(m->d, 8);
        for (size_t i = 0; i < sizeof octets; i++)
            octets[i] = made_octet(which, from + i);
        if (one_in(m->d, 2))
            buf_hex(m->out, octets, sizeof octets, false);
        else
            buf_base64(m->out, octets, sizeof octets);
    } else {
        buf_z(m->out, one_in(m->d, 6) ? made_text(m, "i") : PICK(m->d, TEXTS));
    }
    buf_printf(m->out, "</%s%s>", m->kms, name);
    made_gap(m);
}

static inline void made_one_of(struct making *m, const char *name, const char *const usual[2], const char *odd)
{
    if (m->odd && one_in(m->d, 50))
        made_leaf(m, name, odd);
    else if (!(m->odd && one_in(m->d, 100)))
        made_leaf(m, name, usual[roll(m->d, 2)]);
}

/* An element of the interface's name that is another's, or stands there twice. */
static inline void made_stranger(struct making *m, const char *name, const char *text)
{
    if (m->odd && one_in(m->d, 60))
        buf_printf(m->out, "<x:%s xmlns:x='urn:x'>%s</x:%s>", name, text, name);
    if (m->odd && one_in(m->d, 60))
        buf_printf(m->out, "<%s%s>%s</%s%s>", m->kms, name, text, m->kms, name);
}

/* Id, Version, hints: what may stand on a group. */
static inline void made_group(struct making *m, const char *name, const char *version, const char *more)
{
    static const char *const IDS[] = {"set", "a b", "xmldoc", "", "\xC3\xA9", "0102030405060708090a0b0c0d0e0f10"},
                      *const VERSIONS[] = {"1.0.0", "2", "", "x>y"};
    const bool after = one_in(m->d, 2);
    buf_printf(m->out, "<%s%s", m->kms, name);
    if (after)
        buf_z(m->out, more);
    if (version && !one_in(m->d, 3))
        made_attribute(m, "Version", one_in(m->d, 2) ? version : PICK(m->d, VERSIONS));
    if (version ? one_in(m->d, 4) : m->odd && one_in(m->d, 40))
        made_attribute(m, "Id", PICK(m->d, IDS));
    else if (version && one_in(m->d, 20)) { /* the first key's */
        char hex[33];
        for (size_t i = 0; i < 16; i++)
            snprintf(hex + 2 * i, 3, "%02x", made_octet(0, 3 + i));
        made_attribute(m, "Id", hex);
    }
    if (!after)
        buf_z(m->out, more);
    if (one_in(m->d, 12))
        made_attribute(m, "xsi:schemaLocation", "urn:x x.xsd");
    made_extras(m);
    if (m->odd && one_in(m->d, 60))
        made_attribute(m, "xsi:type", "KmsKeyProvTkIkType");
}

static inline void made_user(struct making *m)
{
    static const char *const NAMED[] = {MADE_USER, MADE_USER, MADE_USER, MADE_USER, " " MADE_USER "\n",
                                        MADE_USER "?a&amp;b", "sip:bob@example.org"};
    static const char *const ODD[] = {"", "a b", "sip:group-1@example.org"};
    made_leaf(m, "UserUri", m->odd && one_in(m->d, 12) ? PICK(m->d, ODD) : NAMED[roll(m->d, one_in(m->d, 8) ? 7 : 5)]);
}

static const char *const MADE_TIMES[2] = {"2026-11-23T18:00:00Z", " 2027-01-01T00:00:00.5+01:00 "};
static const char *const MADE_BOOLEANS[2] = {"false", " 1\n"};
static const char *const MADE_NUMBERS[2] = {"1514", " -0012345678901234567890123456789012345678 "};
static const char *const MADE_FORMATS[2] = {"2", "a&lt;b 01:02:03:04:05:06:07:08:09"};

static inline void made_key_set(struct making *m, unsigned number)
{
    made_group(m, "KmsKeySet", "1.1.0", "");
    buf_char(m->out, '>');
    made_gap(m);
    made_uri(m, "KmsUri", m->odd && one_in(m->d, 40) ? "a&lt;b" : "old.example.org");
    made_stranger(m, "KmsUri", "old.example.org");
    if (one_in(m->d, 2))
        made_uri(m, "CertUri", "cert1.example.org");
    made_stranger(m, "Issuer", "i");
    if (one_in(m->d, 2))
        made_free(m, "Issuer");
    made_user(m);
    made_leaf(m, "UserID", made_text(m, "0A1B2C3D0A1B2C3E"));
    if (one_in(m->d, 2))
        made_one_of(m, "ValidFrom", MADE_TIMES, "now");
    if (one_in(m->d, 2))
        made_one_of(m, "ValidTo", MADE_TIMES, "2026-11-23");
    made_one_of(m, "KeyPeriodNo", MADE_NUMBERS, "1.5");
    if (one_in(m->d, 2))
        made_one_of(m, "Revoked", MADE_BOOLEANS, "yes");
    if (m->odd && one_in(m->d, 40))
        made_free(m, "Issuer");
    made_key(m, "UserDecryptKey", 3 * number, 257);
    made_key(m, "UserSigningKeySSK", 3 * number + 1, 32);
    if (!(m->odd && one_in(m->d, 60)))
        made_key(m, "UserPubTokenPVT", 3 * number + 2, 65);
    made_extension(m);
    buf_printf(m->out, "</%sKmsKeySet>", m->kms);
    made_gap(m);
}

static inline void made_point(struct making *m, const char *name, unsigned which, size_t octets)
{
    buf_printf(m->out, "<%s%s>", m->kms, name);
    if (one_in(m->d, 8))
        buf_char(m->out, ' ');
    made_hex(m, which, octets);
    buf_printf(m->out, "%s</%s%s>", one_in(m->d, 8) ? "\n" : "", m->kms, name);
    made_gap(m);
}

static inline void made_certificate(struct making *m)
{
    static const char *const ROLES[] = {" Role=\"Root\"", " Role='External'",
                                        " Role=\"Root\" IsSecurityGateway=' true '"},
                      *const ODD[] = {"", " Role=\"Other\"", " Role=\" Root\"", " Role=\"Root\" CacheNum=\"1\""};
    made_group(m, "KmsCertificate", "1.1.0", m->odd && one_in(m->d, 12) ? PICK(m->d, ODD) : PICK(m->d, ROLES));
    buf_char(m->out, '>');
    made_gap(m);
    if (one_in(m->d, 2))
        made_uri(m, "CertUri", "cert1.example.org");
    made_uri(m, "KmsUri", "old.example.org");
    if (one_in(m->d, 2))
        made_free(m, "Issuer");
    if (one_in(m->d, 3))
        made_one_of(m, "ValidTo", MADE_TIMES, "");
    made_leaf(m, "UserIdFormat", MADE_FORMATS[roll(m->d, 2)]);
    made_one_of(m, "UserKeyPeriod", MADE_NUMBERS, "");
    made_one_of(m, "UserKeyOffset", MADE_NUMBERS, "x");
    made_point(m, "PubEncKey", 100, 257);
    made_point(m, "PubAuthKey", 101, 65);
    if (one_in(m->d, 2))
        made_one_of(m, "ParameterSet", MADE_NUMBERS, "+");
    if (one_in(m->d, 2)) {
        buf_printf(m->out, "<%sKmsDomainList%s>", m->kms, m->odd && one_in(m->d, 20) ? " Version='1'" : "");
        for (unsigned i = 1 + roll(m->d, 3) - (m->odd && one_in(m->d, 20)); i > 0; i--)
            made_uri(m, "KmsDomain", "sec1.example.org");
        buf_printf(m->out, "</%sKmsDomainList>", m->kms);
        made_gap(m);
    }
    made_extension(m);
    buf_printf(m->out, "</%sKmsCertificate>", m->kms);
    made_gap(m);
}

static inline void made_payload_of(struct making *m, enum kms_message message)
{
    static const char *const NAMES[] = {[KMS_MESSAGE_INIT] = "KmsInit", [KMS_MESSAGE_KEYPROV] = "KmsKeyProv",
                                        [KMS_MESSAGE_CERTCACHE] = "KmsCertCache"};
    static const char *const PREFIXES[] = {"xsi", "i"}, *const ENDS[] = {"Type", "TkIkType", "Type "};
    const bool several = message != KMS_MESSAGE_INIT;
    unsigned count = several ? roll(m->d, 4) : 1;
    char type[80] = "";
    if (message != KMS_MESSAGE_CERTCACHE && one_in(m->d, 6))
        snprintf(type, sizeof type, " %s:type='%s%s%s'", PICK(m->d, PREFIXES), m->kms, NAMES[message],
                 ENDS[roll(m->d, m->odd ? 3 : 2)]);
    else if (message == KMS_MESSAGE_CERTCACHE && one_in(m->d, 2))
        snprintf(type, sizeof type, " CacheNum=\"%s\"", MADE_NUMBERS[roll(m->d, 2)]);
    if (m->odd && one_in(m->d, 20))
        count = one_in(m->d, 2) ? 2 : 0;
    made_group(m, NAMES[message], "1.0.0", type);
    if (count == 0 && one_in(m->d, 2)) {
        buf_z(m->out, "/>");
        return;
    }
    buf_char(m->out, '>');
    made_gap(m);
    for (unsigned i = 0; i < count; i++) {
        if (message == KMS_MESSAGE_KEYPROV)
            made_key_set(m, i);
        else
            made_certificate(m);
    }
    if (m->odd && one_in(m->d, 20))
        made_key(m, "NewTransportKey", 200, 32);
    buf_printf(m->out, "</%s%s>", m->kms, NAMES[message]);
}

static inline void made_message(struct making *m, enum kms_message message)
{
    buf_printf(m->out, "<%sKmsMessage%s>", m->kms, m->odd && one_in(m->d, 40) ? " Id='x'" : "");
    made_gap(m);
    if (m->odd && one_in(m->d, 40))
        buf_z(m->out, "<KmsKeyProv xmlns='urn:x'></KmsKeyProv>");
    else if (message == KMS_MESSAGE_INIT || message == KMS_MESSAGE_KEYPROV || message == KMS_MESSAGE_CERTCACHE)
        made_payload_of(m, message);
    if (m->odd && one_in(m->d, 60))
        made_payload_of(m, KMS_MESSAGE_KEYPROV);
    made_gap(m);
    buf_printf(m->out, "</%sKmsMessage>", m->kms);
    made_gap(m);
}

enum { MADE_PARTS = 8 };
static inline void made_part(struct making *m, unsigned part, enum kms_message message)
{
    switch (part) {
    case 0:
        made_user(m);
        break;
    case 1:
        made_uri(m, "KmsUri", "old.example.org");
        break;
    case 2:
        made_one_of(m, "Time", MADE_TIMES, "");
        break;
    case 3:
        made_free(m, "KmsId");
        break;
    case 4:
        made_uri(m, "ClientReqUrl", "http://old.example.org/?a=1&amp;b=2");
        break;
    case 5:
        made_message(m, message);
        break;
    case 6:
        made_free(m, "TrK-ID");
        break;
    default:
        made_leaf(m, "Signature-ID", made_text(m, "x"));
    }
}

static inline void made_reply(struct dice *d, enum kms_message message, struct buf *out)
{
    static const char *const PROLOGS[] = {"", "", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n",
                                          "<?xml version='1.0'?>",
                                          "\xEF\xBB\xBF", "\n "},
                      *const ODD[] = {"<?xml version='1.0' encoding='latin1'?>", "<!DOCTYPE x>", "<!-- -->", "<?x y?>"};
    struct making m = {d, out, one_in(d, 4) ? "k:" : "", "", one_in(d, 3)};
    const bool usual = one_in(d, 2);
    const unsigned first = usual ? 0 : roll(d, MADE_PARTS);
    buf_z(out, m.odd && one_in(d, 20) ? PICK(d, ODD) : PICK(d, PROLOGS));
    buf_printf(out, "<%sKmsResponse", m.kms);
    made_attribute(&m, *m.kms ? "xmlns:k" : "xmlns", NS_KMS);
    if (!(m.odd && one_in(d, 20)))
        made_attribute(&m, "xmlns:xsi", NS_XSI);
    made_attribute(&m, "xmlns:i", NS_XSI);
    if (!*m.kms && !one_in(d, 3))
        made_attribute(&m, "xmlns:k", NS_KMS);
    if (*m.kms && one_in(d, 3))
        made_attribute(&m, "xmlns", "urn:other");
    if (one_in(d, 3))
        made_attribute(&m, "Id", one_in(d, 2) ? "xmldoc" : "r1");
    if (!one_in(d, 3))
        made_attribute(&m, "Version", "1.1.0");
    if (one_in(d, 8))
        made_attribute(&m, "xsi:schemaLocation", "urn:x x.xsd");
    made_extras(&m);
    buf_char(out, '>');
    made_gap(&m);
    for (unsigned i = 0; i < MADE_PARTS; i++) {
        const unsigned part = (first + i) % MADE_PARTS;
        if (part == 5 || !one_in(d, part > 5 ? 2 : 8))
            made_part(&m, part, message);
        if (m.odd && one_in(d, 100))
            made_part(&m, roll(d, MADE_PARTS), message);
    }
    made_extension(&m);
    buf_printf(out, "</%sKmsResponse>%s", m.kms, m.odd && one_in(d, 40) ? "x" : one_in(d, 6) ? "\n" : "");
}

enum reply_ways {
    REPLY_WAYS_ONE,    /* it is not in the profile: there is but the way by tree */
    REPLY_WAYS_REFUSE, /* both refuse, for the same reason and in the same words */
    REPLY_WAYS_ACCEPT, /* both make the same reply, but for what is random in it */
    REPLY_WAYS_DIFFER
};

/* The contents of these are random where AES-GCM is; where a digest differs, what it is over would, too. */
static inline bool made_random_at(struct str text, size_t i, size_t *end)
{
    static const char *const NAMES[] = {"CipherValue>", "DigestValue>", "SignatureValue>"};
    for (size_t k = 0; k < sizeof NAMES / sizeof *NAMES; k++) {
        const struct str name = str_z(NAMES[k]);
        if (i < name.n || !str_eq((struct str){text.p + i - name.n, name.n}, name) ||
            text.p[i - name.n - 1] == '/')
            continue;
        for (*end = i; *end < text.n && text.p[*end] != '<'; ++*end)
            ;
        return true;
    }
    return false;
}

static inline bool made_same(struct str a, struct str b, bool random)
{
    if (!random)
        return str_eq(a, b);
    if (!a.p || !b.p || a.n != b.n)
        return false;
    for (size_t i = 0, end = 0; i < a.n; i++) {
        if (made_random_at(a, i, &end) && made_random_at(b, i, &end))
            i = end;
        if (i < a.n && a.p[i] != b.p[i])
            return false;
    }
    return true;
}

static inline bool made_same_text(struct str a, struct str b)
{
    return (!a.p && !b.p) || str_eq(a, b);
}

/* Both ways with one judgement. `random`: the rule encrypts by AES-GCM. out: the two replies, the caller's to free. */
static inline enum reply_ways reply_ways(struct gate *gate, struct judgement *j, const struct gate_upstream *up,
                                         int64_t now_us, bool random, struct gate_response out[2], const char **what)
{
    enum reason reason[2];
    struct decision told[2];
    struct response_profile *p = response_profile_read(up->body);
    const bool in_profile = p != NULL;
    const struct decision before = j->decision;
    response_profile_free(p);
    for (int tree = 0; tree < 2; tree++) {
        gate->by_tree = tree;
        j->decision = before;
        reason[tree] = gate_reply(j, up, now_us, &out[tree]);
        told[tree] = j->decision;
    }
    gate->by_tree = false;
    j->decision = before;
    *what = reason[0] != reason[1] || out[0].status != out[1].status            ? "the reason"
            : !str_eq(str_z(out[0].why.text), str_z(out[1].why.text))           ? "why"
            : out[0].waits != out[1].waits                                      ? "whether it waits"
            : told[0].response.rule != told[1].response.rule                    ? "the rule"
            : told[0].response.message != told[1].response.message              ? "the message"
            : !made_same_text(told[0].response.signed_by, told[1].response.signed_by) ? "the signer"
            : !made_same_text(told[0].response.encrypted_by, told[1].response.encrypted_by) ? "the TrK"
            : !made_same(buf_view(&out[0].body), buf_view(&out[1].body), random) ? "what is sent"
                                                                                 : NULL;
    if (*what)
        return REPLY_WAYS_DIFFER;
    if (!in_profile)
        return REPLY_WAYS_ONE;
    return reason[0] == REASON_OK ? REPLY_WAYS_ACCEPT : REPLY_WAYS_REFUSE;
}

#endif
