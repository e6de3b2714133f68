#include "message/kms_response_internal.h"

#include <string.h>

#include "base/limits.h"
#include "message/response_profile_internal.h"

#define SHOWN_URI(s) (int)((s).n > 96 ? 96 : (s).n), (s).p ? (s).p : ""

const char *kms_message_name(enum kms_message m)
{
    static const char *const NAMES[] = {"none", "KmsInit", "KmsKeyProv", "KmsCertCache", "KmsLookup", "error"};
    return (size_t)m < sizeof NAMES / sizeof NAMES[0] ? NAMES[m] : "none";
}

const xmlNode *response_child(const xmlNode *n, const char *name)
{
    const xmlNode *child = xml_child(n);
    while (child && !xml_is(child, NS_KMS, name))
        child = xml_next(child);
    return child;
}

/* Trimmed; empty is as good as missing. */
static struct str response_field(const xmlNode *response, const char *name)
{
    const struct str text = xml_text(response_child(response, name));
    const struct str value = text.p ? str_trim(text) : STR_MISSING;
    return value.n > 0 ? value : STR_MISSING;
}

static bool read_code(struct str text, int64_t *out)
{
    uint64_t value = 0;
    const bool negative = text.n > 0 && text.p[0] == '-', sign = negative || (text.n > 0 && text.p[0] == '+');
    if (!text.p || !str_to_u64((struct str){text.p + sign, text.n - sign}, INT64_MAX, &value))
        return false;
    *out = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

/* Of a KmsMessage; one that is still encrypted is none yet. */
static void read_message(const xmlNode *message, struct kms_response *out)
{
    const struct schema_element *e = NULL;
    const xmlNode *payload = schema_payload(message, &e);
    if (!payload)
        return;
    out->message = (enum kms_message)(KMS_MESSAGE_INIT + (e - SCHEMA_MESSAGE.elements));
    for (const xmlNode *n = xml_child(payload); n; n = xml_next(n))
        out->certificates += xml_is(n, NS_KMS, "KmsCertificate") || xml_is(n, NS_KMS, "SignedKmsCertificate");
}

bool response_fields(const struct xml_doc *doc, const xmlNode *response, struct kms_response *out, struct detail *why)
{
    const xmlNode *error = response_child(response, "KmsError"), *message = response_child(response, "KmsMessage");
    *out = (struct kms_response){.doc = doc, .node = response};
    out->user_uri = response_field(response, "UserUri");
    out->kms_uri = response_field(response, "KmsUri");
    out->time = response_field(response, "Time");
    const struct str kms_id = xml_text(response_child(response, "KmsId"));
    out->kms_id = schema_is_free_text(kms_id) ? kms_id : STR_MISSING;
    out->kms_id_unfit = kms_id.p && !out->kms_id.p ? kms_id : STR_MISSING;
    out->client_req_url = response_field(response, "ClientReqUrl");
    if (error && message) {
        detail_set(why, "KmsResponse: found a KmsError beside a KmsMessage, expected one of them");
        return false;
    }
    if (error) {
        out->message = KMS_MESSAGE_ERROR;
        out->error_msg = xml_text(response_child(error, "ErrorMsg"));
        if (read_code(response_field(error, "ErrorCode"), &out->error_code))
            return true;
        detail_set(why, "ErrorCode: expected a number of 64 bits");
        return false;
    }
    read_message(message, out);
    return true;
}

bool response_octets(const xmlNode *key_content, const struct schema_element *e, struct xmlenc *enc, uint8_t *out,
                     size_t cap)
{
    uint8_t cipher[LIMIT_KEY_CONTENT];
    struct encrypted found;
    size_t n = 0, cipher_n = 0;
    const xmlNode *key = schema_encrypted_key(key_content);
    if (!key)
        return hex_decode(schema_value(key_content, TYPE_KEY), out, cap, &n) && n == e->octets;
    if (!enc || !encrypted_key_read(key, &found, NULL))
        return false;
    if (!base64_decode(found.cipher, cipher, sizeof cipher, &cipher_n) ||
        !xmlenc_open_key(enc, found.algorithm, cipher, cipher_n, out, cap, &n))
        return false;
    if (n != e->octets)
        secret_wipe(out, n);
    return n == e->octets;
}

/* KmsResponse at the root, or in a SignedKmsResponse before one Signature; NULL with the why. */
static const xmlNode *response_node(const struct xml_doc *doc, struct detail *why)
{
    const xmlNode *top = xml_top(doc), *inner = xml_child(top), *signature = xml_next(inner);
    const enum kms_root root = xml_root(doc);
    if (root == KMS_ROOT_RESPONSE)
        return top;
    if (root == KMS_ROOT_SIGNED_RESPONSE && xml_blank(top) && xml_is(inner, NS_KMS, "KmsResponse") &&
        xml_is(signature, NS_DS, "Signature") && !xml_next(signature))
        return inner;
    const struct str name = xml_name(top), ns = xml_in(top, "") ? STR("none") : xml_namespace(top);
    detail_set(why, "the root: found %.*s in the namespace %.*s, expected KmsResponse, or SignedKmsResponse of "
                    "KmsResponse and Signature, in " NS_KMS "; a dialect's `namespaces` and `rename` read others",
               (int)(name.n > 40 ? 40 : name.n), name.p, (int)(ns.n > 80 ? 80 : ns.n), ns.p);
    return NULL;
}

static enum reason tell_key_set(struct str of, struct detail *why)
{
    detail_set(why, "KmsKeySet: found UserUri %.*s, expected the requester's or the path's", SHOWN_URI(of));
    return REASON_UPSTREAM_WRONG_USER;
}

enum reason kms_response_users(const struct kms_response *r, struct str user, struct str path_user, bool envelope,
                               struct detail *why)
{
    const xmlNode *prov = response_child(response_child(r->node, "KmsMessage"), "KmsKeyProv");
    const struct str all = r->profile ? r->profile->set_user : STR_MISSING;
    if (!user.p && !path_user.p)
        return REASON_OK;
    if (envelope && r->user_uri.p && !str_eq(r->user_uri, user) && !str_eq(r->user_uri, path_user)) {
        detail_set(why, "UserUri: found %.*s, expected the requester's or the path's; a dialect's `user_uri: "
                        "ignore_envelope` sets it aside in the head", SHOWN_URI(r->user_uri));
        return REASON_UPSTREAM_WRONG_USER;
    }
    for (const xmlNode *n = xml_child(prov); n; n = xml_next(n)) {
        const struct str of = response_field(n, "UserUri");
        if (xml_is(n, NS_KMS, "KmsKeySet") && !str_eq(of, user) && !str_eq(of, path_user))
            return tell_key_set(of, why);
    }
    return !all.p || str_eq(all, user) || str_eq(all, path_user) ? REASON_OK : tell_key_set(all, why);
}

bool kms_response_kind(const struct xml_doc *doc, enum kms_message *out)
{
    struct detail ignored;
    struct kms_response found = {0};
    const xmlNode *response = response_node(doc, &ignored), *message = response_child(response, "KmsMessage");
    *out = KMS_MESSAGE_NONE;
    if (!response)
        return false;
    if (response_child(response, "KmsError"))
        *out = KMS_MESSAGE_ERROR;
    else if (message) {
        read_message(message, &found);
        *out = found.message;
        return found.message != KMS_MESSAGE_NONE;
    }
    return true;
}

enum reason kms_response_read(const struct xml_doc *doc, struct str user, struct str path_user,
                              struct kms_response *out, struct detail *why)
{
    struct schema_check check = {.mode = SCHEMA_LENIENT, .why = why};
    const xmlNode *response = response_node(doc, why);
    *out = (struct kms_response){0};
    if (!response || !schema_holds(&check, response, &SCHEMA_RESPONSE) || !response_fields(doc, response, out, why))
        return REASON_UPSTREAM_INVALID;
    out->has_key_content = check.has_key_content;
    out->has_encrypted = check.has_encrypted_content;
    out->has_new_key = check.has_new_key;
    return kms_response_users(out, user, path_user, true, why);
}

static const char *const NEW_KEYS[KMS_ISSUED_MAX] = {"NewTransportKey", "NewIntegrityKey"};

/* *n: how many of that name there are. */
static const xmlNode *find_new(const struct kms_response *r, const char *name, size_t *n)
{
    const struct schema_element *e = NULL;
    const xmlNode *payload = schema_payload(response_child(r->node, "KmsMessage"), &e);
    *n = 0;
    for (const xmlNode *child = xml_child(payload); child; child = xml_next(child))
        *n += xml_is(child, NS_KMS, name);
    return response_child(payload, name);
}

bool kms_response_issues(const struct kms_response *r, bool integrity)
{
    size_t n;
    return r->has_new_key && find_new(r, NEW_KEYS[integrity], &n) != NULL;
}

/* One that the schema has found good. */
static enum reason read_issued(const xmlNode *n, const char *name, kms_trk_fn trk, void *arg,
                               struct kms_issued_key *out, struct detail *why)
{
    static const struct schema_element NEW_KEY = {.type = TYPE_KEY, .octets = KEY_BYTES};
    const xmlNode *encrypted = schema_encrypted_key(n);
    struct encrypted found = {.carried = STR_MISSING};
    struct secret_key clear SECRET_CLEANUP = {{0}};
    struct xmlenc *enc = NULL;
    if (encrypted && !encrypted_key_read(encrypted, &found, why))
        return REASON_UPSTREAM_INVALID;
    if (encrypted && !trk(arg, found.key_name, &clear)) {
        detail_set(why, "%s: it is encrypted under %.*s, expected the ID of a TrK that the user has", name,
                   SHOWN_URI(found.key_name));
        return REASON_UPSTREAM_INVALID;
    }
    if (encrypted && !(enc = xmlenc_new(&clear, found.key_name)))
        return REASON_INTERNAL;
    out->id = found.carried;
    const bool ok = response_octets(n, &NEW_KEY, enc, out->key.b, sizeof out->key.b);
    xmlenc_free(enc);
    if (!ok)
        detail_set(why, "%s: it does not open under the TrK that it names", name);
    return ok ? REASON_OK : REASON_UPSTREAM_INVALID;
}

enum reason kms_response_issued(const struct kms_response *r, kms_trk_fn trk, void *arg,
                                struct kms_issued_key out[KMS_ISSUED_MAX], size_t *n, struct detail *why)
{
    *n = 0;
    for (size_t type = 0; type < KMS_ISSUED_MAX; type++) {
        size_t count;
        const xmlNode *node = find_new(r, NEW_KEYS[type], &count);
        if (count > 1) {
            detail_set(why, "found %zu %s, expected one at most", count, NEW_KEYS[type]);
            return REASON_UPSTREAM_INVALID;
        }
        if (!node)
            continue;
        out[*n] = (struct kms_issued_key){.integrity = type == 1};
        const enum reason read = read_issued(node, NEW_KEYS[type], trk, arg, &out[*n], why);
        if (read != REASON_OK)
            return read;
        ++*n;
    }
    return REASON_OK;
}

static bool ids_agree(const struct xml_doc *doc, const xmlNode *response, const struct schema_check *found,
                      struct detail *why)
{
    static const struct xmlsig_policy POLICY = {.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N};
    struct xmlsig_info info = {.key_name = STR_MISSING};
    const struct str trk_id = xml_text(response_child(response, "TrK-ID"));
    const struct str signature_id = xml_text(response_child(response, "Signature-ID"));
    const bool is_signed = xml_root(doc) == KMS_ROOT_SIGNED_RESPONSE;
    if (is_signed && (xml_top(doc)->properties || xmlsig_read(doc, &POLICY, &info, why) != REASON_OK))
        return false;
    if (is_signed ? !str_eq(signature_id, info.key_name) : signature_id.p != NULL) {
        detail_set(why, "Signature-ID: expected the signature's KeyName, and none without signature");
        return false;
    }
    if (found->has_encrypted ? !str_eq(trk_id, found->wrapped_by) : trk_id.p != NULL) {
        detail_set(why, "TrK-ID: expected the KeyName of what is encrypted, and none without that");
        return false;
    }
    return true;
}

static bool is_canonical(const struct xml_doc *doc, const xmlNode *response, struct str text)
{
    struct buf canonical BUF_CLEANUP = BUF_INIT_KEYS(xml_canonical_ceiling(doc->size));
    const struct xml_subtree part = {.doc = doc, .apex = response};
    (void)buf_reserve(&canonical, text.n); /* growing would wipe one block after the other */
    return xml_canonical(&part, XML_C14N_INCLUSIVE, &canonical) && str_eq(buf_view(&canonical), text);
}

/* `holds` NULL: nobody asks whether `signed_text` is what the signature is over. */
static enum reason validate(struct str text, bool encrypted, struct str signed_text, bool *holds, struct detail *why)
{
    struct schema_check check = {.mode = SCHEMA_STRICT, .why = why};
    struct kms_response fields;
    struct xml_doc *doc = NULL;
    enum reason r = xml_parse(text, &XML_LIMITS_PROTECTED, &doc, why);
    if (r != REASON_OK)
        return r == REASON_INTERNAL ? r : REASON_UPSTREAM_INVALID;
    const xmlNode *response = response_node(doc, why);
    const bool ok = response && str_eq_z(xml_attr(response, NULL, "Id"), "xmldoc") &&
                    schema_holds(&check, response, &SCHEMA_RESPONSE) &&
                    response_fields(doc, response, &fields, why) && ids_agree(doc, response, &check, why);
    if (holds)
        *holds = ok && is_canonical(doc, response, signed_text);
    xml_free(doc);
    if (ok && encrypted && check.has_clear_key)
        detail_set(why, "found a key in clear where the rule encrypts");
    return ok && !(encrypted && check.has_clear_key) ? REASON_OK : REASON_UPSTREAM_INVALID;
}

enum reason kms_response_validate(struct str text, bool encrypted, struct detail *why)
{
    return validate(text, encrypted, STR_MISSING, NULL, why);
}

enum reason kms_response_validate_signed(struct str text, struct str response, bool encrypted, bool *holds,
                                         struct detail *why)
{
    *holds = false;
    return validate(text, encrypted, response, holds, why);
}
