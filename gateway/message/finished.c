#include "message/finished.h"

#include <stdlib.h>
#include <string.h>

#include "base/run.h"
#include "base/timestamp.h"
#include "base/token.h"
#include "base/uri.h"
#include "message/schema.h"
#include "message/tested_way.h"
#include "message/xmlenc_internal.h"
#include "message/xmlsig_internal.h"

enum {
    FINISHED_MAX = 1u << 20, /* longer texts may pass the tree's caps: an element takes 13 bytes at least */
    FINISHED_DEPTH = 6,      /* KmsResponse, KmsMessage, KmsInit, KmsCertificate, KmsDomainList: one to spare */
    ANY_OCTETS = 0
};

/* An element that is open. Order is strict, so that only the place in the group counts, and how often it was met. */
struct finished_level {
    const struct schema_group *group;
    struct str name;
    size_t place;
    unsigned seen, chosen;
    bool typed, extended, declares; /* has xsi:type; holds a new TrK or InK; declares xsi */
};

struct finished_scan {
    const char *p;
    size_t n, at; /* at <= n */
    struct finished_level level[FINISHED_DEPTH];
    unsigned depth; /* levels in use */
    bool encrypted; /* no key in clear may be met */
    bool xsi;       /* declared around here */
    bool message, error, wrapped;
    struct str wrapped_by, trk_id, signature_id;
};

static inline __attribute__((always_inline)) bool finished_token(struct finished_scan *s, struct str token)
{
    if (!token_at(s->p + s->at, s->n - s->at, token))
        return false;
    s->at += token.n;
    return true;
}

static bool finished_close(struct finished_scan *s, struct str name)
{
    return finished_token(s, STR("</")) && finished_token(s, name) && finished_token(s, STR(">"));
}

/* Bytes of text that stand for themselves in canonical text. */
static bool finished_is_plain(unsigned char c)
{
    return (c >= ' ' && c < 0x80 && c != '&' && c != '<' && c != '>') || c == '\n' || c == '\t';
}

/* One character above ASCII that XML allows. */
static bool finished_character(struct finished_scan *s)
{
    const size_t n = str_utf8_length((struct str){s->p + s->at, s->n - s->at});
    const struct str c = {s->p + s->at, n};
    if (n < 2 || str_eq(c, STR("\xEF\xBF\xBE")) || str_eq(c, STR("\xEF\xBF\xBF")))
        return false;
    s->at += n;
    return true;
}

/* Canonical text up to the next tag; *out is as it stands there, with its references. */
static bool finished_text(struct finished_scan *s, struct str *out)
{
    const size_t from = s->at;
    for (;;) {
        s->at += run_plain(s->p + s->at, s->n - s->at);
        if (s->at == s->n)
            return false;
        if (s->p[s->at] == '<')
            break;
        if (finished_is_plain((unsigned char)s->p[s->at]))
            s->at++;
        else if (!finished_token(s, STR("&amp;")) && !finished_token(s, STR("&lt;")) &&
                 !finished_token(s, STR("&gt;")) && !finished_token(s, STR("&#xD;")) && !finished_character(s))
            return false;
    }
    *out = (struct str){s->p + from, s->at - from};
    return true;
}

/* Bounded, so that no number can be out of anybody's range. */
static bool finished_integer(struct str t)
{
    const size_t sign = t.n > 0 && (t.p[0] == '-' || t.p[0] == '+');
    for (size_t i = sign; i < t.n; i++)
        if (t.p[i] < '0' || t.p[i] > '9')
            return false;
    return t.n > sign && t.n - sign <= 18;
}

static bool finished_hex(struct str t, size_t octets)
{
    return t.n == 2 * octets && run_hex(t.p, t.n) == t.n;
}

/* An ampersand is the one character of URIs that has a reference. */
static bool finished_uri(struct str t)
{
    for (const char *p = t.p, *end = t.p + t.n; (p = memchr(p, '&', (size_t)(end - p))); p++)
        if (!str_starts((struct str){p, (size_t)(end - p)}, STR("&amp;")))
            return false;
    return uri_is_any_uri(t);
}

static bool finished_value(struct str t, enum schema_type type, size_t octets, bool may_be_empty)
{
    int64_t us;
    bool zone;
    switch (type) {
    case TYPE_STRING:
        return true;
    case TYPE_URI:
        return (may_be_empty && t.n == 0) || finished_uri(t);
    case TYPE_TIME:
        return time_parse(t, &us, &zone);
    case TYPE_INTEGER:
        return finished_integer(t);
    case TYPE_BOOLEAN:
        return str_eq(t, STR("true")) || str_eq(t, STR("false")) || str_eq(t, STR("1")) || str_eq(t, STR("0"));
    case TYPE_HEX:
        return finished_hex(t, octets);
    default:
        return false;
    }
}

/* Base64 without gaps of so many octets, up to the next tag; ANY_OCTETS: of at least one. */
static bool finished_base64(struct finished_scan *s, size_t octets)
{
    const size_t from = s->at;
    size_t fill = 0;
    s->at += run_base64(s->p + s->at, s->n - s->at);
    for (; fill < 2 && s->at < s->n && s->p[s->at] == '='; s->at++)
        fill++;
    const size_t digits = s->at - from;
    if (digits == 0 || digits % 4 != 0)
        return false;
    return octets == ANY_OCTETS || digits / 4 * 3 - fill == octets;
}

/* The algorithm of a key, and how many octets it makes of those that it wraps. */
static bool finished_algorithm(struct finished_scan *s, size_t octets, size_t *made)
{
    if (finished_token(s, STR(ALG_KW)) && octets % 8 == 0)
        *made = octets + 8;
    else if (finished_token(s, STR(ALG_KWP)))
        *made = (octets + 7) / 8 * 8 + 8;
    else if (finished_token(s, STR(ALG_GCM)))
        *made = octets + 12 + 16;
    else
        return false;
    return true;
}

/* `octets`: of the key that is wrapped. `declares`: its namespaces stand on it. All are of one TrK. */
static bool finished_encrypted_key(struct finished_scan *s, bool declares, size_t octets)
{
    struct str name;
    size_t made;
    if (!finished_token(s, STR("<xenc:EncryptedKey")) ||
        (declares && !finished_token(s, STR(" xmlns:xenc=\"" NS_XENC "\""))) ||
        !finished_token(s, STR("><xenc:EncryptionMethod Algorithm=\"")) || !finished_algorithm(s, octets, &made) ||
        !finished_token(s, STR("\"></xenc:EncryptionMethod><ds:KeyInfo")) ||
        (declares && !finished_token(s, STR(" xmlns:ds=\"" NS_DS "\""))) ||
        !finished_token(s, STR("><ds:KeyName>")) || !finished_text(s, &name) || name.n == 0 ||
        !finished_token(s, STR("</ds:KeyName></ds:KeyInfo><xenc:CipherData><xenc:CipherValue>")) ||
        !finished_base64(s, made) ||
        !finished_token(s, STR("</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey>")))
        return false;
    if (s->wrapped && !str_eq(s->wrapped_by, name))
        return false;
    s->wrapped = true;
    s->wrapped_by = name;
    return true;
}

/* What is encrypted as a whole: a key of 32 octets, wrapped by the TrK, and what it encrypts. */
static bool finished_encrypted_data(struct finished_scan *s)
{
    return finished_token(s, STR(" xmlns:xenc=\"" NS_XENC "\" Type=\"" TYPE_CONTENT "\">"
                                 "<xenc:EncryptionMethod Algorithm=\"" ALG_GCM "\"></xenc:EncryptionMethod>"
                                 "<ds:KeyInfo xmlns:ds=\"" NS_DS "\">")) &&
           finished_encrypted_key(s, false, KEY_BYTES) &&
           finished_token(s, STR("</ds:KeyInfo><xenc:CipherData><xenc:CipherValue>")) &&
           finished_base64(s, ANY_OCTETS) &&
           finished_token(s, STR("</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData></KmsMessage>"));
}

/* A key content, behind its name: encrypted, or in clear where that may be. */
static bool finished_key(struct finished_scan *s, const struct schema_element *e)
{
    struct str text;
    const bool is_new = str_eq(e->name, STR("NewTransportKey")) || str_eq(e->name, STR("NewIntegrityKey"));
    s->level[s->depth - 1].extended |= is_new;
    if (!s->xsi)
        return false;
    if (finished_token(s, STR(" xsi:type=\"" TYPE_ENCRYPTED "\">")))
        return finished_encrypted_key(s, true, e->octets) && finished_close(s, e->name);
    return !is_new && !s->encrypted && finished_token(s, STR(" xsi:type=\"" TYPE_CLEAR "\">")) &&
           finished_text(s, &text) && finished_hex(text, e->octets) && finished_close(s, e->name);
}

static bool finished_leaf(struct finished_scan *s, const struct schema_element *e, bool of_response)
{
    const bool may_be_empty = e->count == OPTIONAL || e->count == ENVELOPE;
    struct str text;
    if (!finished_token(s, STR(">")) || !finished_text(s, &text) ||
        !finished_value(text, e->type, e->octets, may_be_empty) || !finished_close(s, e->name))
        return false;
    if (of_response && str_eq(e->name, STR("TrK-ID")))
        s->trk_id = text;
    if (of_response && str_eq(e->name, STR("Signature-ID")))
        s->signature_id = text;
    return true;
}

static bool finished_attribute(struct finished_scan *s, struct str *name, struct str *value)
{
    if (!finished_token(s, STR(" ")))
        return false;
    const size_t from = s->at;
    s->at += run_name(s->p + s->at, s->n - s->at);
    if (finished_token(s, STR(":")))
        s->at += run_name(s->p + s->at, s->n - s->at);
    *name = (struct str){s->p + from, s->at - from};
    if (!finished_token(s, STR("=\"")))
        return false;
    const size_t begin = s->at;
    s->at += run_uri(s->p + s->at, s->n - s->at);
    *value = (struct str){s->p + begin, s->at - begin};
    return !memchr(value->p, '&', value->n) && finished_token(s, STR("\""));
}

/* Canonical order of names without prefix; true where b comes behind a. */
static bool finished_behind(struct str a, struct str b)
{
    for (size_t i = 0; i < a.n && i < b.n; i++)
        if (a.p[i] != b.p[i])
            return (unsigned char)a.p[i] < (unsigned char)b.p[i];
    return a.n < b.n;
}

/* An attribute without prefix: what it stands for in `met`; 0: the group has none such, or not with this value. */
static unsigned finished_known(const struct schema_group *g, struct str name, struct str value)
{
    enum { ID = 1, VERSION = 2, OWN = 4 };
    if (g->version && str_eq(name, STR("Id")))
        return value.n > 0 && !str_eq(value, STR("xmldoc")) ? ID : 0; /* that is the response's alone */
    if (g->version && str_eq(name, STR("Version")))
        return !g->version[0] || str_eq_z(value, g->version) ? VERSION : 0;
    for (unsigned i = 0; i < g->attribute_count; i++) {
        const struct schema_attribute *a = g->attributes + i;
        if (!str_eq(name, a->name))
            continue;
        const bool ok = a->values[0] ? str_eq_z(value, a->values[0]) || str_eq_z(value, a->values[1])
                                     : finished_value(value, a->type, 0, false);
        return ok ? (unsigned)OWN << i : 0;
    }
    return 0;
}

static bool finished_has_all(const struct schema_group *g, unsigned met)
{
    if (g->version && g->version[0] && !(met & 2u))
        return false;
    for (unsigned i = 0; i < g->attribute_count; i++)
        if (g->attributes[i].required && !(met & 4u << i))
            return false;
    return true;
}

/* Of a group, up to and with the `>`: xsi's declaration, attributes by name, xsi:type. */
static bool finished_attributes(struct finished_scan *s, struct finished_level *l)
{
    struct str name, value, last = STR("");
    unsigned met = 0;
    while (!finished_token(s, STR(">"))) {
        if (!finished_attribute(s, &name, &value) || l->typed)
            return false;
        if (str_eq(name, STR("xmlns:xsi"))) {
            if (!l->group->extended || last.n > 0 || s->xsi || !str_eq(value, STR(NS_XSI)))
                return false;
            s->xsi = l->declares = true;
        } else if (str_eq(name, STR("xsi:type"))) {
            if (!s->xsi || !str_eq_z(value, l->group->extended))
                return false;
            l->typed = true;
        } else {
            const unsigned is = finished_known(l->group, name, value);
            if (!is || !finished_behind(last, name))
                return false;
            met |= is;
            last = name;
        }
    }
    return finished_has_all(l->group, met);
}

static bool finished_push(struct finished_scan *s, const struct schema_group *g, struct str name)
{
    if (s->depth == FINISHED_DEPTH)
        return false;
    s->level[s->depth++] = (struct finished_level){.group = g, .name = name};
    return finished_attributes(s, &s->level[s->depth - 1]);
}

/* Moves on to the element at `to` of the group (its count: the end), none that is due left out. */
static bool finished_move(struct finished_level *l, size_t to)
{
    for (; l->place < to; l->place++, l->seen = 0) {
        const enum schema_count count = l->group->elements[l->place].count;
        if (l->seen == 0 && (count == ONE || count == MANY || count == ENVELOPE))
            return false;
    }
    return true;
}

static bool finished_pop(struct finished_scan *s)
{
    struct finished_level *l = &s->level[s->depth - 1];
    const bool chooses = l->group->elements[0].count == CHOICE;
    if (!finished_token(s, l->name) || !finished_token(s, STR(">")) || !finished_move(l, l->group->count) ||
        (chooses && l->chosen != 1) || l->typed != l->extended)
        return false;
    if (l->declares)
        s->xsi = false;
    s->depth--;
    return true;
}

/* The element of the group that a tag names, from where the group stands; its count: none. */
static size_t finished_find(struct finished_scan *s, const struct finished_level *l)
{
    for (size_t i = l->place; i < l->group->count; i++) {
        const struct str name = l->group->elements[i].name;
        const size_t left = s->n - s->at;
        if (left <= name.n || (s->p[s->at + name.n] != '>' && s->p[s->at + name.n] != ' '))
            continue;
        if (finished_token(s, name))
            return i;
    }
    return l->group->count;
}

static bool finished_element(struct finished_scan *s)
{
    struct finished_level *l = &s->level[s->depth - 1];
    const size_t i = finished_find(s, l);
    if (i == l->group->count || !finished_move(l, i))
        return false;
    const struct schema_element *e = l->group->elements + i;
    if (l->seen++ > 0 && e->count != ANY && e->count != MANY)
        return false;
    l->chosen += e->count == CHOICE;
    switch (e->type) {
    case TYPE_PAYLOAD:
        s->message = true;
        if (finished_token(s, STR("><xenc:EncryptedData")))
            return finished_encrypted_data(s);
        return finished_push(s, e->group, e->name);
    case TYPE_GROUP:
        s->error |= s->depth == 1;
        return finished_push(s, e->group, e->name);
    case TYPE_KEY:
        return finished_key(s, e);
    case TYPE_LOOKUP:
    case TYPE_SEALED:
        return false;
    default:
        return finished_leaf(s, e, s->depth == 1);
    }
}

/* The whole KmsResponse. */
static bool finished_response(struct finished_scan *s)
{
    if (!finished_token(s, STR("<KmsResponse xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.0.0\">")))
        return false;
    s->level[s->depth++] = (struct finished_level){.group = &SCHEMA_RESPONSE, .name = STR("KmsResponse")};
    while (s->depth > 0) {
        if (finished_token(s, STR("</"))) {
            if (!finished_pop(s))
                return false;
        } else if (!finished_token(s, STR("<")) || !finished_element(s)) {
            return false;
        }
    }
    return !(s->message && s->error) &&
           (s->wrapped ? str_eq(s->trk_id, s->wrapped_by) : s->trk_id.p == NULL);
}

/* Base64 of exactly these octets. */
static bool finished_octets(struct finished_scan *s, const uint8_t octets[HASH_BYTES])
{
    uint8_t found[HASH_BYTES];
    size_t n;
    const size_t from = s->at;
    return finished_base64(s, HASH_BYTES) &&
           base64_decode((struct str){s->p + from, s->at - from}, found, sizeof found, &n) && n == HASH_BYTES &&
           str_eq((struct str){(const char *)found, n}, (struct str){(const char *)octets, HASH_BYTES});
}

/* SignedInfo is here what was MACed there, but for the namespace, which Signature declares. */
static bool finished_info(struct finished_scan *s, const struct xmlsig_made *made)
{
    const struct str begin = STR("<SignedInfo"), maced_begin = STR("<SignedInfo xmlns=\"" NS_DS "\""),
                     maced = {made->info, made->info_n};
    if (!finished_token(s, begin))
        return false;
    const size_t from = s->at;
    if (!finished_token(s, STR("><CanonicalizationMethod Algorithm=\"" ALG_C14N "\"></CanonicalizationMethod>"
                               "<SignatureMethod Algorithm=\"" ALG_HMAC_SHA256 "\"></SignatureMethod>"
                               "<Reference URI=\"#xmldoc\"><DigestMethod Algorithm=\"" ALG_SHA256 "\">"
                               "</DigestMethod><DigestValue>")) ||
        !finished_octets(s, made->digest) || !finished_token(s, STR("</DigestValue></Reference></SignedInfo>")))
        return false;
    return str_starts(maced, maced_begin) &&
           str_eq((struct str){s->p + from, s->at - from},
                  (struct str){maced.p + maced_begin.n, maced.n - maced_begin.n});
}

static bool finished_signature(struct finished_scan *s, const struct finished *f)
{
    return str_eq(s->signature_id, f->key_id) && f->key_id.n > 0 &&
           finished_token(s, STR("<Signature xmlns=\"" NS_DS "\">")) && finished_info(s, f->made) &&
           finished_token(s, STR("<SignatureValue>")) && finished_octets(s, f->made->mac) &&
           finished_token(s, STR("</SignatureValue><KeyInfo><KeyName>")) && finished_token(s, f->key_id) &&
           finished_token(s, STR("</KeyName></KeyInfo></Signature></SignedKmsResponse>"));
}

bool finished_holds(struct str text, const struct finished *f)
{
    struct finished_scan s = {.p = text.p, .n = text.n, .encrypted = f->encrypted};
    if (!text.p || text.n > FINISHED_MAX || tested_way_is_tree("TESTED_REPLY_WAY") ||
        (f->made && !finished_token(&s, STR("<SignedKmsResponse xmlns=\"" NS_KMS "\">"))))
        return false;
    const size_t from = s.at;
    if (!finished_response(&s) || !str_eq((struct str){s.p + from, s.at - from}, f->hashed))
        return false;
    return (f->made ? finished_signature(&s, f) : s.signature_id.p == NULL) && s.at == s.n;
}
