#include "message/kms_request_table.h"
#include "message/xml_internal.h"

/* Reading the children of a KmsRequest from left to right. */
struct walk {
    const xmlNode *at; /* the next child; NULL: none is left */
    struct detail *why;
};

static enum reason schema_invalid(struct detail *why, const char *where, struct str found, const char *expected)
{
    detail_set(why, "%s: found %.*s, expected %s", where, (int)(found.n > 96 ? 96 : found.n), found.p ? found.p : "",
               expected);
    return REASON_XML_INVALID;
}

static struct str name_or_end(const xmlNode *n)
{
    return n ? xml_name(n) : STR("the end");
}

/* Only attributes of no namespace that `allowed` names, and XML Schema's hints on where schemas are; with `foreign` all
 * of other namespaces but XML Schema's own, which mean something. */
static enum reason check_attributes(const xmlNode *n, const char *const allowed[2], bool foreign, struct detail *why)
{
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        const struct str name = str_z((const char *)a->name);
        bool known = false;
        if (!a->ns)
            known = (allowed[0] && str_eq_z(name, allowed[0])) || (allowed[1] && str_eq_z(name, allowed[1]));
        else if (str_eq_z(str_z((const char *)a->ns->href), NS_XSI))
            known = str_eq(name, STR("schemaLocation")) || str_eq(name, STR("noNamespaceSchemaLocation"));
        else
            known = foreign && !str_eq_z(str_z((const char *)a->ns->href), NS_KMS);
        if (!known)
            return schema_invalid(why, (const char *)n->name, name, "no such attribute");
    }
    return REASON_OK;
}

/* xs:integer, of any size. */
static bool is_integer(struct str s)
{
    s = str_trim(s);
    const size_t sign = s.n > 0 && (s.p[0] == '-' || s.p[0] == '+');
    for (size_t i = sign; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    }
    return s.n > sign;
}

static bool is_string(struct str s)
{
    return s.p != NULL;
}

/* What a ClientError holds. */
static const struct request_leaf ERROR_CODE = {{"ErrorCode", 9}, 0, false, true, false, is_integer, "an integer"};
static const struct request_leaf ERROR_MSG = {{"ErrorMsg", 8}, 0, false, true, false, is_string, "a string"};

/* Takes the next child if it is this one; one that is not there is a fault where it is required. */
static enum reason schema_take(struct walk *w, const struct request_leaf *leaf)
{
    if (!xml_is(w->at, NS_KMS, leaf->name.p))
        return leaf->required ? schema_invalid(w->why, leaf->name.p, name_or_end(w->at), "it here") : REASON_OK;
    const struct str text = xml_text(w->at);
    const enum reason r = check_attributes(w->at, (const char *const[2]){NULL, NULL}, false, w->why);
    if (r != REASON_OK)
        return r;
    if (!text.p)
        return schema_invalid(w->why, leaf->name.p, STR("child elements"), leaf->expected);
    if (!leaf->holds(text))
        return schema_invalid(w->why, leaf->name.p, text, leaf->expected);
    w->at = xml_next(w->at);
    return REASON_OK;
}

/* What the gateway does not understand may hold anything but elements that it would understand. */
static enum reason check_foreign(const xmlNode *top, struct detail *why)
{
    for (const xmlNode *n = xml_following(top, top); n; n = xml_following(n, top)) {
        if (xml_in(n, NS_KMS))
            return schema_invalid(why, (const char *)top->name, xml_name(n),
                                  "nothing of the interface's namespace in it");
    }
    return REASON_OK;
}

static enum reason check_krr_list(const xmlNode *n, bool redirect, struct detail *why)
{
    if (!redirect)
        return schema_invalid(why, "KmsRequest", STR("KrrList"), "it with /redirect only");
    const enum reason r = check_attributes(n, (const char *const[2]){"Id", NULL}, false, why);
    if (r != REASON_OK)
        return r;
    return xml_blank(n) ? check_foreign(n, why) : schema_invalid(why, "KrrList", STR("text"), "elements");
}

static enum reason check_client_error(const xmlNode *n, struct detail *why)
{
    struct walk w = {xml_child(n), why};
    enum reason r = check_attributes(n, (const char *const[2]){NULL, NULL}, true, why);
    if (r == REASON_OK && !xml_blank(n))
        r = schema_invalid(why, "ClientError", STR("text"), "elements");
    if (r == REASON_OK)
        r = schema_take(&w, &ERROR_CODE);
    if (r == REASON_OK)
        r = schema_take(&w, &ERROR_MSG);
    for (; r == REASON_OK && w.at; w.at = xml_next(w.at))
        r = xml_in(w.at, NS_KMS) || xml_in(w.at, "")
                ? schema_invalid(why, "ClientError", xml_name(w.at), "elements of other namespaces or the end")
                : check_foreign(w.at, why);
    return r;
}

/* Behind ClientReqUrl: KrrList, ClientError, extensions in this order; TrK-ID and Signature-ID anywhere between. */
static enum reason check_rest(struct walk *w, bool redirect)
{
    enum { START, KRR_LIST, CLIENT_ERROR, EXTENSION } reached = START;
    bool trk_id = false, signature_id = false;
    while (w->at) {
        const xmlNode *n = w->at;
        enum reason r;
        if (xml_is(n, NS_KMS, "TrK-ID") && !trk_id) {
            trk_id = true;
            r = schema_take(w, &REQUEST_LEAVES[REQUEST_TRK_ID]);
        } else if (xml_is(n, NS_KMS, "Signature-ID") && !signature_id) {
            signature_id = true;
            r = schema_take(w, &REQUEST_LEAVES[REQUEST_SIGNATURE_ID]);
        } else if (xml_is(n, NS_KMS, "KrrList") && reached < KRR_LIST) {
            reached = KRR_LIST;
            r = check_krr_list(n, redirect, w->why);
            w->at = xml_next(n);
        } else if (xml_is(n, NS_KMS, "ClientError") && reached < CLIENT_ERROR) {
            reached = CLIENT_ERROR;
            r = check_client_error(n, w->why);
            w->at = xml_next(n);
        } else if (!xml_in(n, NS_KMS) && !xml_in(n, "")) {
            reached = EXTENSION;
            r = check_foreign(n, w->why);
            w->at = xml_next(n);
        } else {
            r = schema_invalid(w->why, "KmsRequest", xml_name(n), "another element or the end here");
        }
        if (r != REASON_OK)
            return r;
    }
    return REASON_OK;
}

enum reason kms_request_version(struct str version, struct str versions, struct detail *why)
{
    if (!version.p || request_version_listed(version, versions))
        return REASON_OK;
    return schema_invalid(why, "Version", version, "one that the rule lists");
}

static enum reason check_request(const xmlNode *n, struct str versions, bool redirect, struct detail *why)
{
    struct walk w = {xml_child(n), why};
    enum reason r = check_attributes(n, (const char *const[2]){"Id", "Version"}, true, why);
    if (r != REASON_OK)
        return r;
    r = kms_request_version(xml_attr(n, NULL, "Version"), versions, why);
    if (r != REASON_OK)
        return r;
    if (!xml_blank(n))
        return schema_invalid(why, "KmsRequest", STR("text"), "elements");
    int order = REQUEST_BY_SCHEMA;
    for (size_t i = 0; i < REQUEST_ORDERED && r == REASON_OK; i++) {
        if (i == REQUEST_TIME && !xml_is(w.at, NS_KMS, REQUEST_LEAVES[REQUEST_TIME].name.p))
            order = REQUEST_BY_TABLE;
        r = schema_take(&w, &REQUEST_LEAVES[REQUEST_ORDER[order][i]]);
    }
    return r == REASON_OK ? check_rest(&w, redirect) : r;
}

enum reason kms_request_schema(const struct xml_doc *doc, struct str versions, bool redirect, struct detail *why)
{
    const xmlNode *top = xml_top(doc);
    const enum kms_root root = xml_root(doc);
    if (root == KMS_ROOT_REQUEST)
        return check_request(top, versions, redirect, why);
    if (root != KMS_ROOT_SIGNED_REQUEST)
        return schema_invalid(why, "root", xml_name(top), "KmsRequest or SignedKmsRequest of " NS_KMS);
    const xmlNode *request = xml_child(top), *signature = xml_next(request);
    const enum reason r = check_attributes(top, (const char *const[2]){"Id", NULL}, false, why);
    if (r != REASON_OK)
        return r;
    if (!xml_blank(top))
        return schema_invalid(why, "SignedKmsRequest", STR("text"), "elements");
    if (!xml_is(request, NS_KMS, "KmsRequest"))
        return schema_invalid(why, "SignedKmsRequest", name_or_end(request), "KmsRequest first");
    if (signature && (!xml_is(signature, NS_DS, "Signature") || xml_next(signature)))
        return schema_invalid(why, "SignedKmsRequest", xml_name(xml_next(signature) ? xml_next(signature) : signature),
                              "one Signature behind KmsRequest, then the end");
    if (signature) {
        const enum reason foreign = check_foreign(signature, why);
        if (foreign != REASON_OK)
            return foreign;
    }
    return check_request(request, versions, redirect, why);
}
