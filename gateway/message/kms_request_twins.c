#include "message/kms_request.h"
#include "message/xml_internal.h"

/*
 * What an older KMS, which reads by local name and lets the last one win, could read otherwise than the gateway does.
 */

/* Every element that a KmsRequest has, wherever in it. */
static const char *const NAMES[] = {"KmsRequest",   "UserUri", "KmsUri",      "Time",   "ClientId",
                                    "DeviceId",     "TrK-ID",  "ClientError", "KrrList", "ErrorCode",
                                    "ClientReqUrl", "ErrorMsg", "Signature-ID"};
/* What rules and checks look at: there is one of each, as text, below the one KmsRequest. */
static const char *const FIELDS[] = {"UserUri",  "KmsUri",       "Time",   "ClientId",
                                     "DeviceId", "ClientReqUrl", "TrK-ID", "Signature-ID"};
enum { NAME_COUNT = sizeof NAMES / sizeof *NAMES, FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

/* The place of its name in the list; `n`: it is none of them. */
static size_t named(const xmlNode *element, const char *const *list, size_t n)
{
    const struct str name = xml_name(element);
    size_t i = 0;
    while (i < n && !str_eq_z(name, list[i]))
        i++;
    return i;
}

static enum reason twins_invalid(struct detail *why, const xmlNode *n, const char *what)
{
    const struct str ns = xml_namespace(n);
    detail_set(why, "%s of namespace %.*s: %s", (const char *)n->name, ns.p ? (int)(ns.n > 96 ? 96 : ns.n) : 6,
               ns.p ? ns.p : "(none)", what);
    return REASON_XML_INVALID;
}

/* True where the element is a KMS redirect response's own, or a signature's in one. */
static bool of_redirects(const xmlNode *n)
{
    return (xml_in(n, NS_KRR) || xml_in(n, NS_DS)) && xml_in_krr_list(n);
}

/* One of the interface's own elements: `seen` has a place for each field. */
static enum reason check_own(const xmlNode *n, const xmlNode *request, bool seen[FIELD_COUNT], struct detail *why)
{
    const size_t i = named(n, FIELDS, FIELD_COUNT);
    if (xml_is(n, NS_KMS, "KmsRequest") && n != request)
        return twins_invalid(why, n, "a second one");
    if (i == FIELD_COUNT)
        return REASON_OK;
    if (n->parent != request)
        return twins_invalid(why, n, "found where no field of the request stands");
    if (seen[i])
        return twins_invalid(why, n, "a second one");
    seen[i] = true;
    return xml_text(n).p ? REASON_OK : twins_invalid(why, n, "found elements in it, expected text");
}

enum reason kms_request_twins(const struct xml_doc *doc, struct detail *why)
{
    bool seen[FIELD_COUNT] = {false};
    const xmlNode *top = xml_top(doc), *request = top;
    if (xml_root(doc) == KMS_ROOT_SIGNED_REQUEST)
        for (request = xml_child(top); request && !xml_is(request, NS_KMS, "KmsRequest");)
            request = xml_next(request);
    for (const xmlNode *n = top; n; n = xml_following(n, top)) {
        if (xml_in(n, NS_KMS)) {
            const enum reason r = check_own(n, request, seen, why);
            if (r != REASON_OK)
                return r;
        } else if (named(n, NAMES, NAME_COUNT) < NAME_COUNT && !of_redirects(n)) {
            return twins_invalid(why, n, "it has the name of an element of KmsRequest: an older KMS would take it "
                                 "for that");
        }
    }
    return REASON_OK;
}

enum reason kms_request_foreign_ids(const struct xml_doc *doc, struct detail *why)
{
    const xmlNode *top = xml_top(doc);
    for (const xmlNode *n = top; n; n = xml_following(n, top))
        for (const xmlAttr *a = n->properties; a; a = a->next) {
            const struct str name = str_z((const char *)a->name);
            if (!a->ns || !(str_eq_z(name, "Id") || str_eq_z(name, "Version")))
                continue;
            detail_set(why, "%s: found the attribute %.*s of another namespace, which `body: signed` would pass on",
                       (const char *)n->name, STR_FMT(name));
            return REASON_XML_INVALID;
        }
    return REASON_OK;
}
