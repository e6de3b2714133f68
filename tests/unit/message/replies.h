/*
 * An older KMS's replies, one of each message, and how tests look at what they became: the XSD, by libxml2's validator.
 * Made bad by replacing one text by another.
 */
#ifndef TEST_MESSAGE_REPLIES_H
#define TEST_MESSAGE_REPLIES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <libxml/parser.h>
#include <libxml/xmlschemas.h>

#include "message/kms_response.h"

#define REPLY_MAX (4u << 20)
#define REPLY_USER "sip:alice@example.org"
#define REPLY_HEAD                                                                                            \
    "<KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.1.0\">\n<KmsUri>old.example.org</KmsUri>\n"                \
    "<UserUri>" REPLY_USER "</UserUri><Time>2026-11-23T18:00:00.123456+00:00</Time><KmsId>Old</KmsId>"        \
    "<ClientReqUrl>http://old.example.org/</ClientReqUrl>"
#define REPLY_END "</KmsResponse>\n"

enum { RSK_OCTETS = 257, SSK_OCTETS = 32, PVT_OCTETS = 65 };
/* Key contents that no other text of a reply holds by accident. */
static inline uint8_t key_octet(char which, size_t i)
{
    uint32_t mixed = (uint32_t)which * 2654435761u + (uint32_t)i * 2246822519u;
    mixed = (mixed ^ mixed >> 15) * 3266489917u;
    return i == 0 && which != 's' ? 4 : (uint8_t)(mixed >> 16);
}

static inline void put_hex(struct buf *out, const char *name, char which, size_t n)
{
    uint8_t octets[RSK_OCTETS];
    for (size_t i = 0; i < n; i++)
        octets[i] = key_octet(which, i);
    buf_printf(out, "<%s>", name);
    buf_hex(out, octets, n, true);
    buf_printf(out, "</%s>", name);
}

static inline void put_key_set(struct buf *out)
{
    buf_z(out,
          "<KmsKeySet Id=\"set\" Version=\"1.0.0\"><KmsUri>old.example.org</KmsUri><Issuer>An &amp; Issuer</Issuer>"
               "<UserUri>" REPLY_USER "</UserUri><UserID>ABCDEF</UserID><KeyPeriodNo>1514</KeyPeriodNo>");
    put_hex(out, "UserDecryptKey", 'r', RSK_OCTETS);
    put_hex(out, "UserSigningKeySSK", 's', SSK_OCTETS);
    put_hex(out, "UserPubTokenPVT", 'p', PVT_OCTETS);
    buf_z(out, "</KmsKeySet>");
}

static inline void put_certificate(struct buf *out)
{
    buf_z(out, "<KmsCertificate Version=\"1.1.0\" Role=\"Root\"><CertUri>cert1.example.org</CertUri>"
               "<KmsUri>old.example.org</KmsUri><UserIdFormat>2</UserIdFormat><UserKeyPeriod>2592000</UserKeyPeriod>"
               "<UserKeyOffset>0</UserKeyOffset>");
    put_hex(out, "PubEncKey", 'e', RSK_OCTETS);
    put_hex(out, "PubAuthKey", 'a', PVT_OCTETS);
    buf_z(out, "<ParameterSet>1</ParameterSet><KmsDomainList><KmsDomain>sec1.example.org</KmsDomain></KmsDomainList>"
               "</KmsCertificate>");
}

static inline void put_reply(struct buf *out, enum kms_message m)
{
    *out = BUF_INIT(REPLY_MAX);
    buf_z(out, REPLY_HEAD);
    switch (m) {
    case KMS_MESSAGE_KEYPROV:
        buf_z(out, "<KmsMessage><KmsKeyProv Version=\"1.0.0\">");
        put_key_set(out);
        buf_z(out, "</KmsKeyProv></KmsMessage>");
        break;
    case KMS_MESSAGE_INIT:
        buf_z(out, "<KmsMessage><KmsInit Version=\"1.0.0\">");
        put_certificate(out);
        buf_z(out, "</KmsInit></KmsMessage>");
        break;
    case KMS_MESSAGE_CERTCACHE:
        buf_z(out, "<KmsMessage><KmsCertCache Version=\"1.0.0\" CacheNum=\"4\">");
        put_certificate(out);
        buf_z(out, "</KmsCertCache></KmsMessage>");
        break;
    case KMS_MESSAGE_LOOKUP:
        buf_z(out,
              "<KmsMessage><KmsLookup><UserUri>sip:bob@example.org</UserUri><a><b><c><KmsUri>kms.other.example</KmsUri>"
                   "</c></b></a></KmsLookup></KmsMessage>");
        break;
    case KMS_MESSAGE_ERROR:
        buf_z(out, "<KmsError><ErrorCode>17</ErrorCode><ErrorMsg>row 4711</ErrorMsg></KmsError>");
        break;
    default:
        break;
    }
    buf_z(out, REPLY_END);
    assert_false(out->failed);
}

/* The first `find` becomes `put`. */
static inline void replace(struct buf *text, const char *find, const char *put)
{
    struct buf out = BUF_INIT(REPLY_MAX);
    const char *at = strstr(text->p, find);
    if (!at)
        fail_msg("%s is not in %s", find, text->p);
    buf_bytes(&out, text->p, (size_t)(at - text->p));
    buf_z(&out, put);
    buf_z(&out, at + strlen(find));
    buf_free(text);
    *text = out;
}

static inline void keep_error(void *arg, xmlErrorPtr error)
{
    char *text = arg;
    if (!text[0])
        snprintf(text, 300, "line %d: %s", error->line, error->message);
}

/* An empty text when it is valid, else the first fault. */
static inline void xsd_fault(struct str text, char fault[300])
{
    fault[0] = '\0';
    xmlSchemaParserCtxtPtr parser = xmlSchemaNewParserCtxt(TEST_ROOT "/xsd/kms.xsd");
    xmlSchemaPtr schema = xmlSchemaParse(parser);
    assert_non_null(schema);
    xmlSchemaValidCtxtPtr ctx = xmlSchemaNewValidCtxt(schema);
    xmlSchemaSetValidStructuredErrors(ctx, keep_error, fault);
    xmlDocPtr doc = xmlReadMemory(text.p, (int)text.n, "reply", NULL, XML_PARSE_NONET);
    if (!doc)
        snprintf(fault, 300, "not well-formed");
    else if (xmlSchemaValidateDoc(ctx, doc) != 0 && !fault[0])
        snprintf(fault, 300, "invalid");
    xmlFreeDoc(doc);
    xmlSchemaFreeValidCtxt(ctx);
    xmlSchemaFree(schema);
    xmlSchemaFreeParserCtxt(parser);
}

static inline void assert_xsd_valid(struct str text)
{
    char fault[300];
    xsd_fault(text, fault);
    if (fault[0])
        fail_msg("%s\n%.*s", fault, STR_FMT(text));
}

/* No key of put_key_set() is in it: neither hex of either case nor base64, from any third octet on. */
static inline void assert_no_clear_key(struct str text)
{
    for (const char *which = "rs"; *which; which++) {
        uint8_t octets[SSK_OCTETS];
        struct buf hex = BUF_INIT(256), upper = BUF_INIT(256), base64 = BUF_INIT(256);
        for (size_t i = 0; i < sizeof octets; i++)
            octets[i] = key_octet(*which, i);
        buf_hex(&hex, octets + 4, 12, false);
        buf_hex(&upper, octets + 4, 12, true);
        buf_base64(&base64, octets + 3, 12);
        assert_null(memmem(text.p, text.n, hex.p, hex.n));
        assert_null(memmem(text.p, text.n, upper.p, upper.n));
        assert_null(memmem(text.p, text.n, base64.p, base64.n));
        buf_free(&hex);
        buf_free(&upper);
        buf_free(&base64);
    }
}

#endif
