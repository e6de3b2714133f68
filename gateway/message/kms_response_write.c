#include "message/kms_response_internal.h"
#include "message/kms_response_spill.h"

#include "base/limits.h"

struct writing {
    const struct kms_response *r; /* NULL: no payload */
    const struct kms_response_plan *plan;
    struct buf *out;
    struct detail *why;
    enum reason reason; /* the first that went wrong; then nothing more is written that would be sent */
    bool encrypted;
    bool typed;         /* within an element that declares xsi */
    bool hidden;        /* within what is encrypted as a whole */
    struct spill spill; /* what is encrypted, and what stands beside it in clear */
};

static void fail(struct writing *w, enum reason reason, const char *what)
{
    if (w->reason != REASON_OK)
        return;
    w->reason = reason;
    detail_set(w->why, "%s", what);
}

/* A text of the upstream's that leaves as it is. */
static void passes(struct writing *w, struct str text)
{
    if (!w->hidden && text.n > 0)
        spill_text(&w->spill, text);
}

static void open_tag(struct writing *w, const char *name)
{
    buf_char(w->out, '<');
    buf_z(w->out, name);
}

static void close_tag(struct writing *w, const char *name)
{
    buf_z(w->out, "</");
    buf_z(w->out, name);
    buf_char(w->out, '>');
}

static void leaf(struct writing *w, const char *name, struct str text)
{
    if (!text.p)
        return;
    passes(w, text);
    open_tag(w, name);
    buf_char(w->out, '>');
    buf_xml_text(w->out, text);
    close_tag(w, name);
}

static void attribute(struct writing *w, const char *name, struct str value)
{
    if (!value.p)
        return;
    passes(w, value);
    buf_char(w->out, ' ');
    buf_z(w->out, name);
    buf_z(w->out, "=\"");
    buf_xml_attr(w->out, value);
    buf_char(w->out, '"');
}

/* In canonical order. No Id may be mistaken for the response's. */
static void attributes(struct writing *w, const xmlNode *n, const struct schema_group *g)
{
    static const char *const SORTED[] = {"CacheNum", "Id", "IsSecurityGateway", "Role", "Version"};
    for (size_t i = 0; i < sizeof SORTED / sizeof SORTED[0]; i++) {
        const struct str name = str_z(SORTED[i]), value = xml_attr(n, NULL, SORTED[i]);
        if (str_eq_z(name, "Version")) {
            if (g->version)
                attribute(w, SORTED[i], g->version[0] ? str_z(g->version) : value);
        } else if (str_eq_z(name, "Id")) {
            if (g->version && !str_eq_z(value, "xmldoc"))
                attribute(w, SORTED[i], value);
        } else {
            for (size_t k = 0; k < g->attribute_count; k++) {
                if (str_eq_z(name, g->attributes[k].name))
                    attribute(w, SORTED[i], value.p ? str_trim(value) : value);
            }
        }
    }
}

/*
 * An element as it came: its inclusive canonical form, so that a signature over it holds where it stands now. That form
 * declares every namespace that was in scope; where there was no default namespace, ours must not become its.
 */
static void verbatim(struct writing *w, const xmlNode *n)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): what is written verbatim was read */
    const struct xml_subtree part = {.doc = w->r->doc, .apex = n};
    struct buf text BUF_CLEANUP = BUF_INIT_SECRET(xml_canonical_ceiling(w->r->doc->size));
    if (!xml_canonical(&part, XML_C14N_INCLUSIVE, &text)) {
        fail(w, REASON_INTERNAL, "an element could not be canonicalized");
        return;
    }
    passes(w, buf_view(&text));
    const xmlNs *ns = xmlSearchNs(n->doc, (xmlNode *)n, NULL);
    size_t name = 1;
    while (name < text.n && text.p[name] != ' ' && text.p[name] != '>')
        name++;
    buf_bytes(w->out, text.p, name);
    if (!ns || !ns->href || !ns->href[0])
        buf_z(w->out, " xmlns=\"\"");
    buf_bytes(w->out, text.p + name, text.n - name);
}

static void sealed(struct writing *w, const xmlNode *n)
{
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the schema has found the element */
    if (w->typed && !xmlSearchNs(n->doc, (xmlNode *)n, (const xmlChar *)"xsi"))
        fail(w, REASON_UPSTREAM_INVALID,
             "SignedKmsCertificate: its signature would not outlive the xsi:type of KmsInit");
    verbatim(w, n);
}

static void extensions(struct writing *w, const xmlNode *parent)
{
    if (!w->plan->keep_extensions)
        return;
    for (const xmlNode *n = xml_child(parent); n; n = xml_next(n)) {
        if (schema_is_foreign(n))
            verbatim(w, n);
    }
}

static void wrapped_key(struct writing *w, const uint8_t *octets, size_t n)
{
    buf_z(w->out, " xsi:type=\"" TYPE_ENCRYPTED "\">");
    if (!w->plan->enc)
        fail(w, REASON_PROTECT_NO_KEY, "a key content is to be encrypted, and the user has no TrK");
    else if (!xmlenc_key(w->plan->enc, w->plan->wrap, octets, n, w->out))
        fail(w, REASON_INTERNAL, "a key content could not be wrapped: the rule's key_wrap may not take its length");
    w->encrypted = true;
}

static void key_content(struct writing *w, const xmlNode *n, const struct schema_element *e)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    const bool came_encrypted = schema_encrypted_key(n) != NULL;
    open_tag(w, e->name);
    if (!response_octets(n, e, w->plan->enc, octets, sizeof octets)) {
        fail(w, REASON_UPSTREAM_INVALID, came_encrypted ? "an EncryptedKey does not open under the user's TrK"
                                                        : "a key content is no hex of its length");
    } else if (w->plan->protect == PROTECT_KEYS || came_encrypted || schema_is_new_key(e)) {
        spill_key(&w->spill, octets, e->octets);
        wrapped_key(w, octets, e->octets);
    } else {
        if (w->hidden)
            spill_key(&w->spill, octets, e->octets);
        buf_z(w->out, " xsi:type=\"" TYPE_CLEAR "\">");
        buf_xml_text(w->out, schema_value(n, TYPE_KEY));
    }
    secret_wipe(octets, sizeof octets);
    close_tag(w, e->name);
}

static void lookup(struct writing *w, const xmlNode *n, const char *declare)
{
    static const struct schema_group any = {.version = ""};
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the schema has found the element */
    const char *name = (const char *)n->name;
    open_tag(w, name);
    buf_z(w->out, declare);
    attributes(w, n, &any);
    buf_char(w->out, '>');
    passes(w, str_z(name));
    if (!xml_child(n)) {
        passes(w, xml_text(n));
        buf_xml_text(w->out, xml_text(n));
    }
    for (const xmlNode *child = xml_child(n); child; child = xml_next(child))
        lookup(w, child, "");
    close_tag(w, name);
}

static void group(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare);

static void element(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare)
{
    switch (e->type) {
    case TYPE_GROUP:
        group(w, n, e, declare);
        break;
    case TYPE_LOOKUP:
        lookup(w, n, declare);
        break;
    case TYPE_SEALED:
        sealed(w, n);
        break;
    case TYPE_KEY:
        key_content(w, n, e);
        break;
    default:
        leaf(w, e->name, schema_value(n, e->type));
    }
}

/* The children in the schema's order. */
static void children(struct writing *w, const xmlNode *n, const struct schema_group *g)
{
    for (size_t i = 0; i <= g->count; i++) {
        if (i == g->extensions)
            extensions(w, n);
        for (const xmlNode *child = i < g->count ? xml_child(n) : NULL; child; child = xml_next(child)) {
            if (xml_is(child, NS_KMS, g->elements[i].name))
                element(w, child, &g->elements[i], "");
        }
    }
}

static void group(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare)
{
    const struct schema_group *g = e->group;
    const bool extended = g->extended && schema_is_extended(n), outer = w->typed;
    const bool typed = extended || (g->extended && response_child(n, "KmsKeySet"));
    open_tag(w, e->name);
    buf_z(w->out, declare);
    if (typed)
        buf_z(w->out, " xmlns:xsi=\"" NS_XSI "\"");
    attributes(w, n, g);
    if (extended) {
        buf_z(w->out, " xsi:type=\"");
        buf_z(w->out, g->extended);
        buf_char(w->out, '"');
    }
    buf_char(w->out, '>');
    w->typed |= typed;
    children(w, n, g);
    w->typed = outer;
    close_tag(w, e->name);
}

/* What is encrypted as a whole can be read by itself: it declares the namespace. */
static void encrypted_message(struct writing *w, const xmlNode *payload, const struct schema_element *e)
{
    struct buf *out = w->out;
    struct buf content BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    w->out = &content;
    w->hidden = true;
    element(w, payload, e, " xmlns=\"" NS_KMS "\"");
    w->hidden = false;
    w->out = out;
    if (w->reason != REASON_OK)
        return;
    if (!w->plan->enc)
        fail(w, REASON_PROTECT_NO_KEY, "the message is to be encrypted, and the user has no TrK");
    else if (content.failed || !xmlenc_content(w->plan->enc, buf_view(&content), out))
        fail(w, REASON_INTERNAL, "the message could not be encrypted");
    w->encrypted = true;
}

static void message(struct writing *w)
{
    size_t at = 0;
    const xmlNode *payload = w->r ? xml_child(response_child(w->r->node, "KmsMessage")) : NULL;
    const struct schema_element *e = payload ? schema_find(&SCHEMA_MESSAGE, payload, &at) : NULL;
    if (!payload || !e)
        return;
    buf_z(w->out, "<KmsMessage>");
    if (w->plan->protect == PROTECT_MESSAGE)
        encrypted_message(w, payload, e);
    else
        element(w, payload, e, "");
    buf_z(w->out, "</KmsMessage>");
}

static void error(struct writing *w)
{
    buf_printf(w->out, "<KmsError><ErrorCode>%lld</ErrorCode>", (long long)w->plan->error_code);
    leaf(w, "ErrorMsg", w->plan->error_msg);
    buf_z(w->out, "</KmsError>");
}

/* No key that is encrypted may stand beside it in clear. */
static void look_for_keys(struct writing *w)
{
    const enum spill_result found = spill_look(&w->spill);
    if (found == SPILL_FOUND)
        fail(w, REASON_UPSTREAM_INVALID, "found a key's octets in a text or attribute beside its place");
    else if (found != SPILL_NONE)
        fail(w, REASON_INTERNAL, "the texts beside the keys could not be looked through");
}

enum reason kms_response_write(const struct kms_response *r, const struct kms_response_plan *plan, struct buf *out,
                               bool *encrypted, struct detail *why)
{
    struct writing w = {.r = r, .plan = plan, .out = out, .why = why, .reason = REASON_OK};
    spill_init(&w.spill);
    buf_z(out, "<KmsResponse xmlns=\"" NS_KMS "\" Id=\"xmldoc\" Version=\"1.0.0\">");
    leaf(&w, "UserUri", plan->user_uri);
    leaf(&w, "KmsUri", plan->kms_uri);
    leaf(&w, "Time", plan->time);
    leaf(&w, "KmsId", plan->kms_id);
    leaf(&w, "ClientReqUrl", plan->client_req_url);
    if (plan->error_msg.p)
        error(&w);
    else
        message(&w);
    if (w.encrypted)
        leaf(&w, "TrK-ID", plan->trk_id);
    leaf(&w, "Signature-ID", plan->signature_id);
    if (r)
        extensions(&w, r->node);
    buf_z(out, "</KmsResponse>");
    look_for_keys(&w);
    spill_free(&w.spill);
    *encrypted = w.encrypted;
    if (w.reason == REASON_OK && out->failed) {
        detail_set(why, "the reply is too large");
        return REASON_INTERNAL;
    }
    return w.reason;
}
