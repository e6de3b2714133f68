#include "base/timestamp.h"
#include "base/uri.h"
#include "message/kms_request.h"
#include "message/xml_internal.h"

/* Reading the children of a KmsRequest from left to right. */
struct walk {
    const xmlNode *at; /* the next child; NULL: none is left */
    struct detail *why;
};

static enum reason invalid(struct detail *why, const char *where, struct str found, const char *expected)
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
            return invalid(why, (const char *)n->name, name, "no such attribute");
    }
    return REASON_OK;
}

static bool is_string(struct str s)
{
    return s.p != NULL;
}

static bool is_time(struct str s)
{
    int64_t us;
    bool has_zone;
    return time_parse(s, &us, &has_zone);
}

static bool is_uri(struct str s)
{
    return s.p && uri_is_any_uri(str_trim(s));
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

struct leaf {
    const char *name;
    bool (*holds)(struct str);
    const char *expected;
    bool required;
};
static const struct leaf USER_URI = {"UserUri", is_uri, "an anyURI", true};
static const struct leaf KMS_URI = {"KmsUri", is_uri, "an anyURI", true};
static const struct leaf TIME = {"Time", is_time, "a dateTime", true};
static const struct leaf CLIENT_ID = {"ClientId", is_string, "a string", false};
static const struct leaf DEVICE_ID = {"DeviceId", is_string, "a string", false};
static const struct leaf CLIENT_REQ_URL = {"ClientReqUrl", is_uri, "an anyURI", true};
static const struct leaf TRK_ID = {"TrK-ID", is_string, "a string", true};
static const struct leaf SIGNATURE_ID = {"Signature-ID", is_string, "a string", true};
static const struct leaf ERROR_CODE = {"ErrorCode", is_integer, "an integer", true};
static const struct leaf ERROR_MSG = {"ErrorMsg", is_string, "a string", true};

/* Takes the next child if it is this one. */
static enum reason take(struct walk *w, const struct leaf *leaf)
{
    if (!xml_is(w->at, NS_KMS, leaf->name))
        return leaf->required ? invalid(w->why, leaf->name, name_or_end(w->at), "it here") : REASON_OK;
    const struct str text = xml_text(w->at);
    const enum reason r = check_attributes(w->at, (const char *const[2]){NULL, NULL}, false, w->why);
    if (r != REASON_OK)
        return r;
    if (!text.p)
        return invalid(w->why, leaf->name, STR("child elements"), leaf->expected);
    if (!leaf->holds(text))
        return invalid(w->why, leaf->name, text, leaf->expected);
    w->at = xml_next(w->at);
    return REASON_OK;
}

static enum reason take_all(struct walk *w, const struct leaf *const *leaves, size_t n)
{
    enum reason r = REASON_OK;
    for (size_t i = 0; i < n && r == REASON_OK; i++)
        r = take(w, leaves[i]);
    return r;
}

/* What the gateway does not understand may hold anything but elements that it would understand. */
static enum reason check_foreign(const xmlNode *top, struct detail *why)
{
    for (const xmlNode *n = xml_following(top, top); n; n = xml_following(n, top)) {
        if (xml_in(n, NS_KMS))
            return invalid(why, (const char *)top->name, xml_name(n), "nothing of the interface's namespace in it");
    }
    return REASON_OK;
}

static enum reason check_krr_list(const xmlNode *n, bool redirect, struct detail *why)
{
    if (!redirect)
        return invalid(why, "KmsRequest", STR("KrrList"), "it with /redirect only");
    const enum reason r = check_attributes(n, (const char *const[2]){"Id", NULL}, false, why);
    if (r != REASON_OK)
        return r;
    return xml_blank(n) ? check_foreign(n, why) : invalid(why, "KrrList", STR("text"), "elements");
}

static enum reason check_client_error(const xmlNode *n, struct detail *why)
{
    static const struct leaf *const leaves[] = {&ERROR_CODE, &ERROR_MSG};
    struct walk w = {xml_child(n), why};
    enum reason r = check_attributes(n, (const char *const[2]){NULL, NULL}, true, why);
    if (r == REASON_OK && !xml_blank(n))
        r = invalid(why, "ClientError", STR("text"), "elements");
    if (r == REASON_OK)
        r = take_all(&w, leaves, 2);
    for (; r == REASON_OK && w.at; w.at = xml_next(w.at))
        r = xml_in(w.at, NS_KMS) || xml_in(w.at, "")
                ? invalid(why, "ClientError", xml_name(w.at), "elements of other namespaces or the end")
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
            r = take(w, &TRK_ID);
        } else if (xml_is(n, NS_KMS, "Signature-ID") && !signature_id) {
            signature_id = true;
            r = take(w, &SIGNATURE_ID);
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
            r = invalid(w->why, "KmsRequest", xml_name(n), "another element or the end here");
        }
        if (r != REASON_OK)
            return r;
    }
    return REASON_OK;
}

static bool one_of(struct str value, struct str list)
{
    while (list.p && list.n > 0) {
        size_t n = 0;
        while (n < list.n && list.p[n] != ' ')
            n++;
        if (n > 0 && str_eq(value, (struct str){list.p, n}))
            return true;
        n += n < list.n;
        list = (struct str){list.p + n, list.n - n};
    }
    return false;
}

static bool has_attribute(const xmlNode *n, const char *name)
{
    for (const xmlAttr *a = n->properties; a; a = a->next) {
        if (!a->ns && str_eq_z(str_z((const char *)a->name), name))
            return true;
    }
    return false;
}

static enum reason check_request(const xmlNode *n, struct str versions, bool redirect, struct detail *why)
{
    static const struct leaf *const head[] = {&USER_URI, &KMS_URI};
    static const struct leaf *const of_schema[] = {&TIME, &CLIENT_ID, &DEVICE_ID, &CLIENT_REQ_URL};
    static const struct leaf *const of_table[] = {&CLIENT_ID, &DEVICE_ID, &TIME, &CLIENT_REQ_URL};
    struct walk w = {xml_child(n), why};
    enum reason r = check_attributes(n, (const char *const[2]){"Id", "Version"}, true, why);
    if (r != REASON_OK)
        return r;
    if (has_attribute(n, "Version") && !one_of(xml_attr(n, NULL, "Version"), versions))
        return invalid(why, "Version", xml_attr(n, NULL, "Version"), "one that the rule lists");
    if (!xml_blank(n))
        return invalid(why, "KmsRequest", STR("text"), "elements");
    r = take_all(&w, head, 2);
    if (r == REASON_OK)
        r = take_all(&w, xml_is(w.at, NS_KMS, TIME.name) ? of_schema : of_table, 4);
    return r == REASON_OK ? check_rest(&w, redirect) : r;
}

enum reason kms_request_schema(const struct xml_doc *doc, struct str versions, bool redirect, struct detail *why)
{
    const xmlNode *top = xml_top(doc);
    const enum kms_root root = xml_root(doc);
    if (root == KMS_ROOT_REQUEST)
        return check_request(top, versions, redirect, why);
    if (root != KMS_ROOT_SIGNED_REQUEST)
        return invalid(why, "root", xml_name(top), "KmsRequest or SignedKmsRequest of " NS_KMS);
    const xmlNode *request = xml_child(top), *signature = xml_next(request);
    const enum reason r = check_attributes(top, (const char *const[2]){"Id", NULL}, false, why);
    if (r != REASON_OK)
        return r;
    if (!xml_blank(top))
        return invalid(why, "SignedKmsRequest", STR("text"), "elements");
    if (!xml_is(request, NS_KMS, "KmsRequest"))
        return invalid(why, "SignedKmsRequest", name_or_end(request), "KmsRequest first");
    if (signature && (!xml_is(signature, NS_DS, "Signature") || xml_next(signature)))
        return invalid(why, "SignedKmsRequest", xml_name(xml_next(signature) ? xml_next(signature) : signature),
                       "one Signature behind KmsRequest, then the end");
    if (signature) {
        const enum reason foreign = check_foreign(signature, why);
        if (foreign != REASON_OK)
            return foreign;
    }
    return check_request(request, versions, redirect, why);
}
