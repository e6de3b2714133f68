#include "message/kms_request_table.h"
#include "message/xml_internal.h"

/* The first element of each name counts. */
static void read_fields(const xmlNode *request, struct kms_request *out)
{
    *out = (struct kms_request){0};
    out->id = xml_attr(request, NULL, "Id");
    out->version = xml_attr(request, NULL, "Version");
    bool seen[REQUEST_FIELDS] = {false};
    for (const xmlNode *n = xml_child(request); n; n = xml_next(n)) {
        for (enum request_field f = 0; f < REQUEST_FIELDS; f++) {
            if (seen[f] || !xml_is(n, NS_KMS, REQUEST_LEAVES[f].name.p))
                continue;
            const struct str text = xml_text(n);
            seen[f] = true;
            *request_field(out, f) = REQUEST_LEAVES[f].trimmed && text.p ? str_trim(text) : text;
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
    read_fields(proof->node, out);
}

static bool forward(const struct xml_doc *doc, const xmlNode *request, bool extensions, struct buf *out)
{
    static const char *const between_client_and_gateway[] = {"TrK-ID", "Signature-ID", NULL};
    const struct xml_subtree part = {.doc = doc, .apex = request, .omit_named = between_client_and_gateway,
                                     .plain_attributes = true, .own_elements = !extensions};
    return xml_canonical(&part, XML_C14N_INCLUSIVE, out);
}

bool kms_request_forward(const struct xml_signed *proof, bool extensions, struct buf *out)
{
    return forward(proof->doc, proof->node, extensions, out);
}

bool kms_request_forward_claimed(const struct xml_doc *doc, bool extensions, struct buf *out)
{
    const xmlNode *request = request_node(doc);
    return request && forward(doc, request, extensions, out);
}

void kms_request_write(const struct kms_request *fields, struct buf *out)
{
    struct kms_request copy = *fields;
    buf_z(out, "<KmsRequest xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.1.0\">");
    for (enum request_field f = 0; f < REQUEST_FIELDS; f++) {
        const struct str text = *request_field(&copy, f);
        if (!text.p)
            continue;
        buf_printf(out, "<%s>", REQUEST_LEAVES[f].name.p);
        buf_xml_text(out, text);
        buf_printf(out, "</%s>", REQUEST_LEAVES[f].name.p);
    }
    buf_z(out, "</KmsRequest>");
}
