#include "reply.h"

#include <string.h>
#include <time.h>

#include "keys_issue.h"

#define NS_KMS "urn:3gpp:ns:mcsecKMSInterface:1.0"

static void put(struct evbuffer *out, const char *z)
{
    evbuffer_add(out, z, strlen(z));
}

/* <name>text</name>, the text escaped */
static void put_text(struct evbuffer *out, const char *name, const char *text)
{
    evbuffer_add_printf(out, "<%s>", name);
    for (; *text; text++) {
        if (*text == '&')
            put(out, "&amp;");
        else if (*text == '<')
            put(out, "&lt;");
        else if (*text == '>')
            put(out, "&gt;");
        else
            evbuffer_add(out, text, 1);
    }
    evbuffer_add_printf(out, "</%s>\n", name);
}

static void put_hex(struct evbuffer *out, const char *name, const uint8_t *p, size_t n)
{
    static const char DIGITS[] = "0123456789ABCDEF";
    evbuffer_add_printf(out, "<%s>", name);
    for (size_t i = 0; i < n; i++) {
        const char two[2] = {DIGITS[p[i] >> 4], DIGITS[p[i] & 15]};
        evbuffer_add(out, two, 2);
    }
    evbuffer_add_printf(out, "</%s>\n", name);
}

static void put_time(struct evbuffer *out, const char *name, int64_t unix_seconds)
{
    struct tm tm;
    char text[40];
    const time_t t = (time_t)unix_seconds;
    if (gmtime_r(&t, &tm) && strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm))
        put_text(out, name, text);
}

static int64_t period_start(uint64_t number)
{
    return (int64_t)(number * KEY_PERIOD + KEY_OFFSET) - NTP_TO_UNIX;
}

static uint64_t period_at(int64_t unix_seconds)
{
    const int64_t ntp = unix_seconds + NTP_TO_UNIX - KEY_OFFSET;
    return ntp < 0 ? 0 : (uint64_t)ntp / KEY_PERIOD;
}

static void put_certificate(struct evbuffer *out, const char *kms_uri, bool root, bool revoked, int64_t now)
{
    evbuffer_add_printf(out, "<KmsCertificate Version=\"1.1.0\" Role=\"%s\">\n", root ? "Root" : "External");
    put_text(out, "CertUri", "cert1.kms.example.org");
    put_text(out, "KmsUri", kms_uri);
    put_text(out, "Issuer", "www.example.org");
    put_time(out, "ValidFrom", period_start(period_at(now)));
    put_time(out, "ValidTo", period_start(period_at(now) + 12) - 1);
    put_text(out, "Revoked", revoked ? "true" : "false");
    put_text(out, "UserIdFormat", "2");
    evbuffer_add_printf(out, "<UserKeyPeriod>%d</UserKeyPeriod>\n<UserKeyOffset>%d</UserKeyOffset>\n", KEY_PERIOD,
                        KEY_OFFSET);
    put_hex(out, "PubEncKey", keys_pub_enc(), ISSUE_SAKKE_POINT);
    put_hex(out, "PubAuthKey", keys_pub_auth(), ISSUE_ECCSI_POINT);
    put_text(out, "ParameterSet", "1");
    put(out, "<KmsDomainList>\n");
    put_text(out, "KmsDomain", root ? "sec1.example.org" : "sec1.other.example");
    put_text(out, "KmsDomain", root ? "sec2.example.org" : "sec2.other.example");
    put(out, "</KmsDomainList>\n</KmsCertificate>\n");
}

/* The keys of the user, or one of them another user's: a true key, and not hers. */
static bool issue(const char *user, enum fault fault, uint64_t number, struct user_keys *out)
{
    struct user_keys theirs = {.user_id = {0}};
    const struct user_keys *k;
    if (fault >= FAULT_WRONG_RSK && fault <= FAULT_WRONG_UID) {
        if (!(k = keys_of("sip:mallory@example.org", number)))
            return false;
        theirs = *k;
    }
    if (!(k = keys_of(user, number)))
        return false;
    *out = *k;
    if (fault == FAULT_WRONG_RSK)
        memcpy(out->keys.rsk, theirs.keys.rsk, sizeof out->keys.rsk);
    else if (fault == FAULT_WRONG_SSK)
        memcpy(out->keys.ssk, theirs.keys.ssk, sizeof out->keys.ssk);
    else if (fault == FAULT_WRONG_PVT)
        memcpy(out->keys.pvt, theirs.keys.pvt, sizeof out->keys.pvt);
    else if (fault == FAULT_WRONG_UID)
        *out = theirs;
    return true;
}

static bool put_key_set(struct evbuffer *out, const struct asked *asked, const struct style *style, uint64_t number)
{
    const char *user = asked->of ? asked->of : asked->user;
    struct user_keys keys, *u = &keys;
    if (style->fault == FAULT_OLD_PERIOD)
        number -= 5;
    if (!issue(user, style->fault, number, u))
        return false;
    put(out, "<KmsKeySet Version=\"1.1.0\">\n");
    put_text(out, "KmsUri", style->fault == FAULT_WRONG_KMS ? "kms.elsewhere.example" : style->kms_uri);
    put_text(out, "CertUri", "cert1.kms.example.org");
    put_text(out, "Issuer", "www.example.org");
    put_text(out, "UserUri", style->fault == FAULT_WRONG_USER ? "sip:mallory@example.org" : user);
    put_hex(out, "UserID", u->user_id, ISSUE_UID);
    put_time(out, "ValidFrom", period_start(number));
    put_time(out, "ValidTo", period_start(number + 1) - 1);
    evbuffer_add_printf(out, "<KeyPeriodNo>%llu</KeyPeriodNo>\n",
                        (unsigned long long)number + (style->fault == FAULT_WRONG_PERIOD));
    put_text(out, "Revoked", "false");
    if (style->fault == FAULT_KEY_IN_COMMENT) {
        put(out, "<!-- ");
        put_hex(out, "UserSigningKeySSK", u->keys.ssk, ISSUE_SSK);
        put(out, " -->\n");
    }
    put_hex(out, "UserDecryptKey", u->keys.rsk, ISSUE_SAKKE_POINT);
    put_hex(out, "UserSigningKeySSK", u->keys.ssk, style->fault == FAULT_BAD_LENGTH ? ISSUE_SSK - 1 : ISSUE_SSK);
    put_hex(out, "UserPubTokenPVT", u->keys.pvt, ISSUE_ECCSI_POINT);
    if (style->fault == FAULT_EXTRA_ELEMENT)
        put_hex(out, "BackupOfSigningKey", u->keys.ssk, ISSUE_SSK);
    put(out, "</KmsKeySet>\n");
    return true;
}

static bool put_message(struct evbuffer *out, const struct asked *asked, const struct style *style, int64_t now)
{
    bool ok = true;
    switch (asked->resource) {
    case INIT:
        put(out, "<KmsInit Version=\"1.0.0\">\n");
        put_certificate(out, style->kms_uri, true, style->fault == FAULT_REVOKED, now);
        put(out, "</KmsInit>\n");
        break;
    case KEYPROV:
        put(out, "<KmsKeyProv Version=\"1.0.0\">\n");
        for (unsigned i = 0; ok && i < style->user_sets; i++)
            ok = put_key_set(out, asked, style, period_at(asked->at) + i);
        put(out, "</KmsKeyProv>\n");
        break;
    case CERTCACHE:
    case CERT:
        evbuffer_add_printf(out, "<KmsCertCache Version=\"1.0.0\" CacheNum=\"%llu\">\n",
                            (unsigned long long)asked->cache_number);
        put_certificate(out, asked->of ? asked->of : "kms.other.example", false, false, now);
        put(out, "</KmsCertCache>\n");
        break;
    case LOOKUP:
        put(out, "<KmsLookup>\n");
        put_text(out, "UserUri", asked->of ? asked->of : asked->user);
        put_text(out, "KmsUri", "kms.other.example");
        put(out, "</KmsLookup>\n");
        break;
    default:
        break;
    }
    return ok;
}

static void put_head(struct evbuffer *out, const struct asked *asked, const struct style *style, int64_t now)
{
    put(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    if (style->fault == FAULT_DTD)
        put(out, "<!DOCTYPE KmsResponse [<!ENTITY id \"KMSProvider12345\">]>\n");
    put(out, "<KmsResponse xmlns=\"" NS_KMS "\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\""
             " Version=\"1.1.0\">\n");
    put_text(out, "KmsUri", style->kms_uri);
    put_text(out, "UserUri", style->fault == FAULT_WRONG_USER ? "sip:mallory@example.org" : asked->user);
    put_time(out, "Time", now);
    put(out, style->fault == FAULT_DTD ? "<KmsId>&id;</KmsId>\n" : "<KmsId>KMSProvider12345</KmsId>\n");
    put_text(out, "ClientReqUrl", asked->client_req_url ? asked->client_req_url : "http://kms.example.org/");
}

bool reply_write(const struct asked *asked, const struct style *style, struct evbuffer *out)
{
    const int64_t now = time(NULL);
    bool ok = true;
    put_head(out, asked, style, now);
    if (asked->resource != REDIRECT) {
        put(out, "<KmsMessage>\n");
        ok = put_message(out, asked, style, now);
        put(out, "</KmsMessage>\n");
    }
    put(out, "</KmsResponse>\n");
    for (int i = 0; style->fault == FAULT_OVERSIZED && i < 4096; i++)
        evbuffer_add_printf(out, "%1023s\n", ""); /* 4 MiB of white space: well-formed, and too much */
    return ok;
}

void reply_error(const struct asked *asked, const struct style *style, int code, struct evbuffer *out)
{
    put_head(out, asked, style, time(NULL));
    evbuffer_add_printf(out, "<KmsError>\n<ErrorCode>%d</ErrorCode>\n", code);
    put_text(out, "ErrorMsg", "no keys: table users, row 4711, at db1.internal");
    put(out, "</KmsError>\n</KmsResponse>\n");
}
