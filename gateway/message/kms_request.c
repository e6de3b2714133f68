#include <stddef.h>

#include "message/kms_request.h"
#include "message/xml_internal.h"

/* The children whose text the gateway reads, in the order in which the schema has them. */
static const struct {
    const char *name;
    size_t at;
    bool trimmed; /* anyURI and dateTime: white space around the value is none of it */
} FIELDS[] = {
    {"UserUri", offsetof(struct kms_request, user_uri), true},
    {"KmsUri", offsetof(struct kms_request, kms_uri), true},
    {"Time", offsetof(struct kms_request, time), true},
    {"ClientId", offsetof(struct kms_request, client_id), false},
    {"DeviceId", offsetof(struct kms_request, device_id), false},
    {"ClientReqUrl", offsetof(struct kms_request, client_req_url), true},
    {"TrK-ID", offsetof(struct kms_request, trk_id), false},
    {"Signature-ID", offsetof(struct kms_request, signature_id), false},
};
enum { FIELD_COUNT = sizeof FIELDS / sizeof FIELDS[0] };

static struct str *field(struct kms_request *r, size_t i)
{
    return (struct str *)(void *)((char *)r + FIELDS[i].at);
}

/* The first element of each name counts. */
static void read_fields(const xmlNode *request, struct kms_request *out)
{
    *out = (struct kms_request){0};
    out->id = xml_attr(request, NULL, "Id");
    out->version = xml_attr(request, NULL, "Version");
    bool seen[FIELD_COUNT] = {false};
    for (const xmlNode *n = xml_child(request); n; n = xml_next(n)) {
        for (size_t i = 0; i < FIELD_COUNT; i++) {
            if (seen[i] || !xml_is(n, NS_KMS, FIELDS[i].name))
                continue;
            const struct str text = xml_text(n);
            seen[i] = true;
            *field(out, i) = FIELDS[i].trimmed && text.p ? str_trim(text) : text;
        }
    }
}

/* The KmsRequest at the root or the first one beside its signature; NULL: there is none. */
static const xmlNode *request_node(const struct xml_doc *doc)
{
    const xmlNode *top = xml_top(doc);
    const enum kms_root root = xml_root(doc);
    if (root == KMS_ROOT_REQUEST)
        return top;
    if (root != KMS_ROOT_SIGNED_REQUEST)
        return NULL;
    const xmlNode *n = xml_child(top);
    while (n && !xml_is(n, NS_KMS, "KmsRequest"))
        n = xml_next(n);
    return n;
}

bool kms_request_claim(const struct xml_doc *doc, struct kms_request *out)
{
    const xmlNode *request = request_node(doc);
    *out = (struct kms_request){0};
    if (!request)
        return false;
    read_fields(request, out);
    return true;
}

void kms_request_parse(const struct xml_signed *proof, struct kms_request *out)
{
    *out = (struct kms_request){0};
    if (proof->node)
        read_fields(proof->node, out);
}

bool kms_request_forward(const struct xml_doc *doc, bool extensions, struct buf *out)
{
    static const char *const between_client_and_gateway[] = {"TrK-ID", "Signature-ID", NULL};
    const xmlNode *request = request_node(doc);
    if (!request)
        return false;
    const struct xml_subtree part = {.doc = doc, .apex = request, .omit_named = between_client_and_gateway,
                                     .plain_attributes = true, .own_elements = !extensions};
    return xml_canonical(&part, XML_C14N_INCLUSIVE, out);
}

void kms_request_write(const struct kms_request *fields, struct buf *out)
{
    struct kms_request copy = *fields;
    buf_z(out, "<KmsRequest xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.1.0\">");
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const struct str text = *field(&copy, i);
        if (!text.p)
            continue;
        buf_printf(out, "<%s>", FIELDS[i].name);
        buf_xml_text(out, text);
        buf_printf(out, "</%s>", FIELDS[i].name);
    }
    buf_z(out, "</KmsRequest>");
}
