/*
 * Requests made at random, most of them in the profile of signatures, in every spelling of it that comes to mind, some
 * a step beyond it; then signed by libxml2's canonicalization and OpenSSL, so that the signature holds. Then both ways
 * of reading a request are asked, and must say the same.
 *
 *     struct dice dice = {.state = seed};              or {.p = bytes, .n = n}: the fuzzer's bytes decide
 *     made_request(&dice, &out);
 *     made_sign(&key, &out);
 *     ways = request_ways(text, &policy, &key, &what);
 */
#ifndef TEST_MESSAGE_MADE_H
#define TEST_MESSAGE_MADE_H

#include <stdio.h>
#include <string.h>

#include "message/request_ways.h"
#include "message/xmlsig_internal.h"

enum { MADE_ROOM = 1u << 20 };

struct dice {
    const uint8_t *p;
    size_t n, at;
    uint64_t state;
};
/* 0 to sides - 1; with bytes, 0 once they are used up. */
static inline unsigned roll(struct dice *d, unsigned sides)
{
    if (d->p)
        return d->at < d->n ? d->p[d->at++] % sides : 0;
    d->state ^= d->state << 13;
    d->state ^= d->state >> 7;
    d->state ^= d->state << 17;
    return (unsigned)(d->state >> 33) % sides;
}
static inline bool one_in(struct dice *d, unsigned n)
{
    return roll(d, n) == n - 1;
}
#define PICK(d, list) (list)[roll((d), sizeof(list) / sizeof *(list))]

/* 42 digits and the end of a digest's base64, which made_sign() replaces. */
#define MADE_DIGEST "DDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDDA="
#define MADE_VALUE "EEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEA="

struct making {
    struct dice *d;
    struct buf *out;
    const char *kms, *ds; /* prefixes with their colon, or "" */
    bool odd;             /* what is beyond the profile may come */
};

static inline void made_gap(struct making *m)
{
    static const char *const GAPS[] = {"", "", "", " ", "\n  ", "\t", "\n"}, *const ODD[] = {"\r\n", "x", "<!-- -->"};
    buf_z(m->out, m->odd && one_in(m->d, 40) ? PICK(m->d, ODD) : PICK(m->d, GAPS));
}

static inline void made_attribute(struct making *m, const char *name, const char *value)
{
    static const char *const BEFORE[] = {" ", " ", " ", "\n", "  ", "\t"}, *const EQUALS[] = {"=", "=", "=", " = "};
    const char *quote = one_in(m->d, 3) ? "'" : "\"";
    buf_printf(m->out, "%s%s%s%s%s%s", PICK(m->d, BEFORE), name, PICK(m->d, EQUALS), quote, value, quote);
}

/* A declaration that nobody needs; two of an element have not the same number, and most often not the same prefix. */
static inline void made_namespace(struct making *m, unsigned number)
{
    static const char *const NAMES[] = {"xmlns:x", "xmlns:y", "xmlns:Zz", "xmlns:a-b", "xmlns:_", "xmlns:x2"};
    static const char *const ODD_NAMES[] = {"xmlns:k", "xmlns:d", "xmlns:xml", "xmlns:xmlns", "xmlns:x"};
    static const char *const URIS[] = {"urn:x", "urn:x:y", "http://x.example/y#z", NS_XENC, NS_XSI, NS_KMS, NS_DS,
                                       "https://x/~y/", "urn:x"};
    static const char *const ODD[] = {"relative", "", "urn:", "urn:x:", "http://", "http://x y", "http://x/%41",
                                      "urn:x?y", "urn:&amp;", "http:///x", "http://x#y#z", "mailto:x@y", "urn:\xC3\xA9",
                                      "http://x:99999/", "http://www.w3.org/XML/1998/namespace",
                                      "http://www.w3.org/2000/xmlns/", "//x", "http://[::1]/", "x:", "http://x/a b"};
    const char *usual = NAMES[number % (sizeof NAMES / sizeof *NAMES)];
    made_attribute(m, m->odd && one_in(m->d, 12) ? PICK(m->d, ODD_NAMES) : usual,
                   m->odd && one_in(m->d, 6) ? PICK(m->d, ODD) : PICK(m->d, URIS));
}

/* What may stand in any tag. */
static inline void made_extras(struct making *m)
{
    static const char *const ODD[] = {"xml:lang", "x:y", "Id", "id", "ID", "other", "xml:id", "xmlns", "Version"};
    if (one_in(m->d, 12))
        made_namespace(m, roll(m->d, 6));
    if (m->odd && one_in(m->d, 60))
        made_attribute(m, PICK(m->d, ODD), "xmldoc");
}

static inline void made_leaf(struct making *m, const char *name, const char *text)
{
    static const char *const ENDS[] = {"", "", "", " ", "\n"};
    buf_printf(m->out, "<%s%s", m->kms, name);
    if (one_in(m->d, 10))
        made_extras(m);
    if (!*text && one_in(m->d, 2)) {
        buf_printf(m->out, "%s/>", PICK(m->d, ENDS));
    } else {
        buf_printf(m->out, "%s>%s</%s%s%s>", PICK(m->d, ENDS), text, m->kms, name, PICK(m->d, ENDS));
    }
    made_gap(m);
}

static inline const char *made_text(struct making *m, const char *usual)
{
    static const char *const TEXTS[] = {"a&amp;b", "&lt;", "a>b", "\xC3\xA9", "\xF0\x9F\x98\x80", " x ", "", "a&quot;b",
                                        "a\"'b", "&apos;", "&#xD;", "]", "]]", "a\n\tb", "&gt;&gt;", "x"};
    static const char *const ODD[] = {"&#65;", "<![CDATA[a&b]]>", "]]>", "a\r\nb", "&#10;", "&nbsp;", "\x01", "<x/>",
                                      "\xEF\xBF\xBF", "\xC0\x80", "&", "<!---->", "&#xd;", "a\rb", "\x7F", "<?p?>"};
    if (one_in(m->d, 3))
        return m->odd && one_in(m->d, 5) ? PICK(m->d, ODD) : PICK(m->d, TEXTS);
    return usual;
}

static inline void made_uri(struct making *m, const char *name, const char *usual)
{
    static const char *const URIS[] = {"sip:a@[::1]", " sip:alice@example.org\n", "https://k/?a&amp;b", "x:y",
                                       "tel:+1"};
    static const char *const ODD[] = {"", "a b", "http://\"/", "a<b", "a|b", " "};
    made_leaf(m, name, one_in(m->d, 6) ? m->odd && one_in(m->d, 4) ? PICK(m->d, ODD) : PICK(m->d, URIS) : usual);
}

static inline void made_time(struct making *m)
{
    static const char *const TIMES[] = {"2026-11-23T18:00:00Z", " 2026-11-23T18:00:00.123+01:00\n",
                                        "2026-11-23T18:00:00", "2026-11-23T18:00:00Z"};
    made_leaf(m, "Time", m->odd && one_in(m->d, 20) ? "now" : PICK(m->d, TIMES));
}

static inline void made_optional(struct making *m, const char *name, const char *usual)
{
    if (!one_in(m->d, 3))
        made_leaf(m, name, made_text(m, usual));
}

static inline void made_extension(struct making *m)
{
    static const char *const ODD[] = {"<x:E xmlns:x='urn:x'>t</x:E>", "<e xmlns='urn:e' a='1'/>",
                                      "<x:KmsUri xmlns:x='urn:x'/>", "<e xmlns=''/>"};
    if (m->odd && one_in(m->d, 12)) {
        buf_z(m->out, PICK(m->d, ODD));
        made_gap(m);
    }
    if (m->odd && one_in(m->d, 40))
        buf_printf(m->out, "<%sClientError><%sErrorCode>1</%sErrorCode><%sErrorMsg>m</%sErrorMsg></%sClientError>",
                   m->kms, m->kms, m->kms, m->kms, m->kms, m->kms);
}

static inline void made_children(struct making *m)
{
    const bool by_schema = !one_in(m->d, 3), ids_swapped = one_in(m->d, 4);
    made_gap(m);
    made_uri(m, "UserUri", "sip:alice@example.org");
    if (!(m->odd && one_in(m->d, 40)))
        made_uri(m, "KmsUri", "kms.example.org");
    if (by_schema)
        made_time(m);
    made_optional(m, "ClientId", "client-1");
    made_optional(m, "DeviceId", "device-1");
    if (!by_schema)
        made_time(m);
    made_uri(m, "ClientReqUrl", "https://kms.example.org/keymanagement/identity/v1/keyprov");
    if (ids_swapped)
        made_optional(m, "Signature-ID", "ink.1.alice");
    made_optional(m, "TrK-ID", "trk.1.alice");
    if (!ids_swapped)
        made_optional(m, "Signature-ID", "ink.1.alice");
    if (m->odd && one_in(m->d, 30))
        made_optional(m, "TrK-ID", "trk.2");
    made_extension(m);
}

static inline void made_hints(struct making *m)
{
    if (!one_in(m->d, 8))
        return;
    made_attribute(m, "xmlns:xsi", NS_XSI);
    if (!one_in(m->d, 3))
        made_attribute(m, "xsi:schemaLocation", "urn:x x.xsd");
    if (one_in(m->d, 3))
        made_attribute(m, "xsi:noNamespaceSchemaLocation", "y.xsd");
    if (m->odd && one_in(m->d, 8))
        made_attribute(m, "xsi:type", "x");
}

static inline const char *made_payload(struct making *m, bool root)
{
    static const char *const IDS[] = {"xmldoc", "xmldoc", "xmldoc", "r-1", "_x.y", "1", "\xC3\xA9", "a:b"},
                      *const ODD[] = {"", "a b", "x'y", "xpointer(/)", "a&amp;b"},
                      *const USUAL[] = {"1.1.0", "1.1.0", "1.0.0"}, *const ODD_VERSIONS[] = {"2", "", "1.1.0 "};
    const char *id = m->odd && one_in(m->d, 12) ? PICK(m->d, ODD) : PICK(m->d, IDS);
    const bool id_first = one_in(m->d, 2), has_id = !one_in(m->d, root ? 4 : 40);
    buf_printf(m->out, "<%sKmsRequest", m->kms);
    if (root)
        made_attribute(m, *m->kms ? "xmlns:k" : "xmlns", NS_KMS);
    if (id_first && has_id)
        made_attribute(m, "Id", id);
    if (!one_in(m->d, 4))
        made_attribute(m, "Version", m->odd && one_in(m->d, 12) ? PICK(m->d, ODD_VERSIONS) : PICK(m->d, USUAL));
    if (!id_first && has_id)
        made_attribute(m, "Id", id);
    made_hints(m);
    made_extras(m);
    buf_z(m->out, one_in(m->d, 6) ? " >" : ">");
    made_children(m);
    buf_printf(m->out, "</%sKmsRequest>", m->kms);
    return id;
}

/* <name attribute="value"/>, or with an end tag */
static inline void made_algorithm(struct making *m, const char *name, const char *value)
{
    buf_printf(m->out, "<%s%s", m->ds, name);
    if (one_in(m->d, 12))
        made_extras(m);
    made_attribute(m, "Algorithm", m->odd && one_in(m->d, 60) ? "urn:other" : value);
    if (one_in(m->d, 2))
        buf_z(m->out, one_in(m->d, 2) ? "/>" : " />");
    else
        buf_printf(m->out, ">%s</%s%s>", m->odd && one_in(m->d, 30) ? " " : "", m->ds, name);
}

static inline void made_reference(struct making *m, const char *id)
{
    char uri[64];
    snprintf(uri, sizeof uri, "#%s", id);
    buf_printf(m->out, "<%sReference", m->ds);
    made_attribute(m, "URI", m->odd && one_in(m->d, 20) ? "" : uri);
    if (m->odd && one_in(m->d, 40))
        made_attribute(m, "Type", "urn:t");
    buf_z(m->out, ">");
    made_gap(m);
    if (m->odd && one_in(m->d, 20)) {
        buf_printf(m->out, "<%sTransforms>", m->ds);
        made_algorithm(m, "Transform", one_in(m->d, 2) ? ALG_C14N : ALG_ENVELOPED);
        buf_printf(m->out, "</%sTransforms>", m->ds);
    }
    made_algorithm(m, "DigestMethod", ALG_SHA256);
    made_gap(m);
    buf_printf(m->out, "<%sDigestValue>%s" MADE_DIGEST "%s</%sDigestValue>", m->ds, one_in(m->d, 6) ? "\n " : "",
               one_in(m->d, 6) ? "\n" : "", m->ds);
    made_gap(m);
    buf_printf(m->out, "</%sReference>", m->ds);
}

static inline void made_signature(struct making *m, const char *id)
{
    buf_printf(m->out, "<%sSignature", m->ds);
    made_attribute(m, *m->ds ? "xmlns:d" : "xmlns", NS_DS);
    made_extras(m);
    buf_z(m->out, ">");
    made_gap(m);
    buf_printf(m->out, "<%sSignedInfo", m->ds);
    if (one_in(m->d, 8))
        made_extras(m);
    buf_z(m->out, ">");
    made_gap(m);
    made_algorithm(m, "CanonicalizationMethod", m->odd && one_in(m->d, 20) ? ALG_EXC_C14N : ALG_C14N);
    made_gap(m);
    if (m->odd && one_in(m->d, 20))
        buf_printf(m->out, "<%sSignatureMethod Algorithm='" ALG_HMAC_SHA256 "'><%sHMACOutputLength>256"
                           "</%sHMACOutputLength></%sSignatureMethod>", m->ds, m->ds, m->ds, m->ds);
    else
        made_algorithm(m, "SignatureMethod", ALG_HMAC_SHA256);
    made_gap(m);
    made_reference(m, id);
    made_gap(m);
    buf_printf(m->out, "</%sSignedInfo>", m->ds);
    made_gap(m);
    buf_printf(m->out, "<%sSignatureValue>%s" MADE_VALUE "%s</%sSignatureValue>", m->ds, one_in(m->d, 6) ? "\n " : "",
               one_in(m->d, 6) ? " \n" : "", m->ds);
    made_gap(m);
    buf_printf(m->out, "<%sKeyInfo><%sKeyName>%s</%sKeyName></%sKeyInfo>", m->ds, m->ds, made_text(m, "ink.1.alice"),
               m->ds, m->ds);
    made_gap(m);
    buf_printf(m->out, "</%sSignature>", m->ds);
}

static inline void made_request(struct dice *d, struct buf *out)
{
    static const char *const PROLOGS[] = {"", "", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
                                          "<?xml version='1.0'?>\n",
                                          "\xEF\xBB\xBF", "<?xml version=\"1.0\" encoding='utf-8' standalone=\"yes\"?>",
                                          "\n "},
                      *const ODD[] = {"<?xml version='1.1'?>", "<?xml version='1.0' encoding='latin1'?>",
                                      "<?xml version='1.0'encoding='utf-8'?>", "<!DOCTYPE x>", "<?xml?>", "x",
                                      " <?xml version='1.0'?>", "<?xml version='1.0' standalone='maybe'?>"};
    struct making m = {d, out, one_in(d, 4) ? "k:" : "", one_in(d, 2) ? "d:" : "", one_in(d, 3)};
    const bool bare = one_in(d, 12);
    buf_z(out, m.odd && one_in(d, 20) ? PICK(d, ODD) : PICK(d, PROLOGS));
    if (bare) {
        made_payload(&m, true);
    } else {
        buf_printf(out, "<%sSignedKmsRequest", m.kms);
        made_attribute(&m, *m.kms ? "xmlns:k" : "xmlns", NS_KMS);
        if (one_in(d, 6))
            made_attribute(&m, "Id", m.odd ? "xmldoc" : "envelope");
        made_hints(&m);
        const unsigned first = roll(d, 6);
        for (unsigned i = roll(d, 4); i > 0; i--)
            made_namespace(&m, first + i);
        buf_z(out, ">");
        made_gap(&m);
        const char *id = made_payload(&m, false);
        made_gap(&m);
        made_signature(&m, id);
        made_gap(&m);
        buf_printf(out, "</%sSignedKmsRequest>", m.kms);
    }
    buf_z(out, one_in(d, 6) ? "\n" : m.odd && one_in(d, 40) ? "x" : "");
}

/* A few bytes of it are others, gone, or new. */
static inline void made_mutate(struct dice *d, struct buf *text)
{
    static const char BYTES[] = "<>&\"'/= \n\rx:#;[]!?A1\xC3\x80\x01-.";
    for (unsigned i = 1 + roll(d, 3); i > 0 && text->n > 2; i--) {
        const size_t at = (roll(d, 256) * 256u + roll(d, 256)) % (text->n - 1);
        const unsigned what = roll(d, 4);
        if (what == 0) { /* gone */
            memmove(text->p + at, text->p + at + 1, text->n - at);
            text->n--;
        } else if (what == 1) { /* twice */
            if (!buf_reserve(text, 1))
                return;
            memmove(text->p + at + 1, text->p + at, text->n - at + 1);
            text->n++;
        } else if (what == 2) {
            text->p[at] = PICK(d, BYTES);
        } else {
            text->p[at] = (char)((unsigned char)text->p[at] ^ (1u << roll(d, 8)));
        }
    }
}

static inline void made_put(struct buf *text, const char *placeholder, const uint8_t octets[HASH_BYTES])
{
    struct buf base64 BUF_CLEANUP = BUF_INIT(64);
    char *at = memmem(text->p, text->n, placeholder, strlen(placeholder));
    buf_base64(&base64, octets, HASH_BYTES);
    if (at && base64.n == strlen(placeholder))
        memcpy(at, base64.p, base64.n);
}

static const char *const MADE_PLACES[] = {MADE_DIGEST, MADE_VALUE};

/* What is due in a place of MADE_PLACES, by libxml2's canonicalization alone: the digest, or the HMAC. */
static inline bool made_octets(const struct secret_key *key, const struct buf *text, int place,
                               uint8_t octets[HASH_BYTES])
{
    struct xml_doc *doc = NULL;
    struct buf canonical BUF_CLEANUP = BUF_INIT(MADE_ROOM);
    if (xml_parse(buf_view(text), &XML_LIMITS_REQUEST, &doc, NULL) != REASON_OK)
        return false;
    const xmlNode *payload = xml_child(xml_top(doc)), *info = xml_child(xml_next(payload));
    const struct xml_subtree part = {.doc = doc, .apex = place ? info : payload};
    const bool ok = part.apex && xml_canonical_by_library(&part, XML_C14N_INCLUSIVE, &canonical) &&
                    (place ? signature_hmac(key, buf_view(&canonical), octets)
                           : signature_hash(buf_view(&canonical), octets));
    xml_free(doc);
    return ok;
}

/* Fills in the digest, then the HMAC. What cannot be parsed stays as it is. */
static inline void made_sign(const struct secret_key *key, struct buf *text)
{
    for (int i = 0; i < 2; i++) {
        uint8_t octets[HASH_BYTES];
        if (!made_octets(key, text, i, octets))
            return;
        made_put(text, MADE_PLACES[i], octets);
    }
}

#endif
