#include "message/response_profile_internal.h"

#include <stdio.h>

#include "base/limits.h"

/* For replies that are short: what is kept may still declare what is declared around it. */
enum { REPEATS_MIN = 64u << 10 };

static void group(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare);

/* One that nobody has signed is but an envelope. */
static void response_sealed(struct writing *w, const xmlNode *n, const struct schema_element *e)
{
    static const struct schema_group own = {.version = ""};
    const struct schema_element certificate = {.name = STR("KmsCertificate"), .type = TYPE_GROUP, .group = e->group};
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the schema has found the element */
    if (schema_is_sealed(n)) {
        if (w->typed && !xmlSearchNs(n->doc, (xmlNode *)n, (const xmlChar *)"xsi"))
            writing_fail(w, REASON_UPSTREAM_INVALID,
                 "SignedKmsCertificate: its signature would not outlive the xsi:type of KmsInit");
        writing_verbatim(w, n);
        return;
    }
    writing_open(w, writing_name(w, n, e->name));
    writing_attributes(w, n, &own, NULL, false);
    buf_char(w->out, '>');
    group(w, xml_child(n), &certificate, "");
    writing_close(w, writing_name(w, n, e->name));
}

static void extensions(struct writing *w, const xmlNode *parent)
{
    if (!w->plan->keep_extensions)
        return;
    for (const xmlNode *n = xml_child(parent); n && !writing_stopped(w); n = xml_next(n)) {
        if (schema_is_foreign(n))
            writing_verbatim(w, n);
    }
}

static void key_content(struct writing *w, const xmlNode *n, const struct schema_element *e)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    const bool came_encrypted = schema_encrypted_key(n) != NULL;
    writing_open(w, writing_name(w, n, e->name));
    if (response_octets(n, e, w->plan->enc, octets, sizeof octets))
        writing_key(w, e, octets, came_encrypted ? STR_MISSING : schema_value(n, TYPE_KEY));
    else
        writing_fail(w, REASON_UPSTREAM_INVALID, came_encrypted ? "an EncryptedKey does not open under the user's TrK"
                                                        : "a key content is not hex of its length");
    secret_wipe(octets, sizeof octets);
    writing_close(w, writing_name(w, n, e->name));
}

/* The plan's, where the schema has them; `name` says of which type. */
static void new_keys(struct writing *w, struct str name)
{
    const struct kms_response_plan *p = w->plan;
    const bool integrity = str_eq(name, STR("NewIntegrityKey"));
    for (size_t i = 0; i < p->new_key_count && !writing_stopped(w); i++) {
        const struct kms_new_key *k = &p->new_keys[i];
        if (k->integrity != integrity)
            continue;
        writing_open(w, writing_name(w, NULL, name));
        spill_key(&w->spill, k->key->b, sizeof k->key->b);
        writing_key_type(w, TYPE_ENCRYPTED);
        if (!p->enc || !xmlenc_new_key(p->enc, k->key, k->id, w->out))
            writing_fail(w, REASON_INTERNAL, "a new key could not be wrapped");
        w->encrypted = true;
        writing_close(w, writing_name(w, NULL, name));
    }
}

static void lookup(struct writing *w, const xmlNode *n, const char *declare)
{
    static const struct schema_group any = {.version = "", .any_attribute = true};
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the schema has found the element */
    const struct str name = writing_name(w, n, xml_name(n));
    writing_open(w, name);
    buf_z(w->out, declare);
    writing_attributes(w, n, &any, NULL, false);
    buf_char(w->out, '>');
    writing_passes(w, name);
    if (!xml_child(n)) {
        writing_passes(w, xml_text(n));
        buf_xml_text(w->out, xml_text(n));
    }
    for (const xmlNode *child = xml_child(n); child && !writing_stopped(w); child = xml_next(child)) {
        if (!schema_is_foreign(child))
            lookup(w, child, "");
        else if (w->plan->keep_extensions)
            writing_verbatim(w, child);
    }
    writing_close(w, name);
}

static void response_element(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare)
{
    switch (e->type) {
    case TYPE_GROUP:
        group(w, n, e, declare);
        break;
    case TYPE_LOOKUP:
        lookup(w, n, declare);
        break;
    case TYPE_SEALED:
        response_sealed(w, n, e);
        break;
    case TYPE_KEY:
        key_content(w, n, e);
        break;
    default:
        if (e->type != TYPE_STRING || e->count != OPTIONAL || schema_is_free_text(xml_text(n)))
            writing_leaf(w, writing_name(w, n, e->name), schema_value(n, e->type));
        else if (w->plan->left_out && !w->plan->left_out->text[0])
            schema_tell_unfree(e->name.p, xml_text(n), w->plan->left_out);
    }
}

/* As they came. */
static void children_in_order(struct writing *w, const xmlNode *n, const struct schema_group *g)
{
    size_t at = 0;
    for (const xmlNode *child = xml_child(n); child && !writing_stopped(w); child = xml_next(child)) {
        const struct schema_element *e = schema_find(g, child, &at);
        if (e && w->plan->own_new_keys && schema_is_new_key(e))
            continue;
        if (e)
            response_element(w, child, e, "");
        else if (w->plan->keep_extensions)
            writing_verbatim(w, child);
    }
}

/* In the schema's order. */
static void children(struct writing *w, const xmlNode *n, const struct schema_group *g)
{
    for (size_t i = 0; i <= g->count && !writing_stopped(w); i++) {
        if (i == g->extensions)
            extensions(w, n);
        const bool own = w->plan->own_new_keys && i < g->count && schema_is_new_key(&g->elements[i]);
        if (own)
            new_keys(w, g->elements[i].name);
        const xmlNode *child = i < g->count && !own ? xml_child(n) : NULL;
        for (; child && !writing_stopped(w); child = xml_next(child))
            if (xml_is(child, NS_KMS, g->elements[i].name.p))
                response_element(w, child, &g->elements[i], "");
    }
}

static void group(struct writing *w, const xmlNode *n, const struct schema_element *e, const char *declare)
{
    const struct schema_group *g = e->group;
    const bool has_new = w->plan->own_new_keys ? w->plan->new_key_count > 0 : schema_is_extended(n);
    const bool extended = g->extended && has_new, outer = w->typed;
    const bool typed = extended || (g->extended && response_child(n, "KmsKeySet"));
    writing_open(w, writing_name(w, n, e->name));
    buf_z(w->out, declare);
    writing_attributes(w, n, g, extended ? writing_type(w, g->extended) : NULL, typed);
    buf_char(w->out, '>');
    w->typed |= typed;
    if (w->plan->speak)
        children_in_order(w, n, g);
    else
        children(w, n, g);
    w->typed = outer;
    writing_close(w, writing_name(w, n, e->name));
}

/* What a message holds: the tree's element, or what was read in one pass. */
struct payload {
    const xmlNode *message, *node;
    const struct schema_element *e;
    const struct response_profile *profile; /* not NULL: instead of all that */
};

static void payload(struct writing *w, const struct payload *p, const char *declare)
{
    if (p->profile)
        writing_profile(w, p->profile, declare);
    else if (p->node)
        response_element(w, p->node, p->e, declare);
    extensions(w, p->message);
}

/* What is encrypted as a whole can be read by itself: it declares the namespace. */
static void encrypted_message(struct writing *w, const struct payload *p)
{
    struct buf *out = w->out;
    struct buf content BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    struct buf declare BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    buf_z(&declare, " xmlns=\"");
    buf_xml_attr(&declare, str_z(w->plan->speak ? w->plan->speak_ns : NS_KMS));
    buf_z(&declare, "\"");
    w->out = &content;
    w->hidden = true;
    payload(w, p, declare.failed ? "" : declare.p);
    w->hidden = false;
    w->out = out;
    if (w->reason != REASON_OK)
        return;
    if (!w->plan->enc)
        writing_fail(w, REASON_PROTECT_NO_KEY, "the message is to be encrypted, and the user has no TrK");
    else if (content.failed || declare.failed || !xmlenc_content(w->plan->enc, buf_view(&content), out))
        writing_fail(w, REASON_INTERNAL, "the message could not be encrypted");
    w->encrypted = true;
}

static void message(struct writing *w, const xmlNode *n)
{
    struct payload p = {.message = n, .profile = w->r->profile};
    p.node = schema_payload(n, &p.e);
    if (!p.profile && (!n || (!p.node && !w->plan->keep_extensions)))
        return;
    writing_open(w, writing_name(w, n, STR("KmsMessage")));
    writing_attributes(w, n, &SCHEMA_MESSAGE, NULL, false);
    buf_char(w->out, '>');
    if ((p.profile || p.node) && w->plan->protect == PROTECT_MESSAGE)
        encrypted_message(w, &p);
    else
        payload(w, &p, "");
    writing_close(w, writing_name(w, n, STR("KmsMessage")));
}

/* The gateway's own words; of the upstream's KmsError (NULL: there is none) what is kept. */
static void error(struct writing *w, const xmlNode *n)
{
    static const struct schema_group own = {.any_attribute = true};
    const struct str name = writing_name(w, n, STR("KmsError"));
    char code[24];
    snprintf(code, sizeof code, "%lld", (long long)w->plan->error_code);
    writing_open(w, name);
    if (n)
        writing_attributes(w, n, &own, NULL, false);
    buf_char(w->out, '>');
    writing_leaf(w, writing_name(w, response_child(n, "ErrorCode"), STR("ErrorCode")), str_z(code));
    writing_leaf(w, writing_name(w, response_child(n, "ErrorMsg"), STR("ErrorMsg")), w->plan->error_msg);
    extensions(w, n);
    writing_close(w, name);
}

/* The parts of a KmsResponse before its IDs, in the schema's order. */
enum { PART_PAYLOAD = 5, PARTS };
static const struct str PART_NAMES[PARTS] = {STR_INIT("UserUri"), STR_INIT("KmsUri"), STR_INIT("Time"),
                                             STR_INIT("KmsId"), STR_INIT("ClientReqUrl")};

/* n: the upstream's own, if it has one. */
static void response_part(struct writing *w, size_t at, const xmlNode *n)
{
    const struct kms_response_plan *p = w->plan;
    const struct str texts[] = {p->user_uri, p->kms_uri, p->time, p->kms_id, p->client_req_url};
    if (at < PART_PAYLOAD)
        writing_leaf(w, writing_name(w, n, PART_NAMES[at]), texts[at]);
    else if (p->error_msg.p)
        error(w, w->r ? response_child(w->r->node, "KmsError") : NULL);
    else if (w->r)
        message(w, response_child(w->r->node, "KmsMessage"));
}

static size_t part_of(const xmlNode *n)
{
    size_t at = 0;
    while (at < PART_PAYLOAD && !xml_is(n, NS_KMS, PART_NAMES[at].p))
        at++;
    if (at == PART_PAYLOAD && !xml_is(n, NS_KMS, "KmsMessage") && !xml_is(n, NS_KMS, "KmsError"))
        return PARTS;
    return at;
}

/* Spoken, what the upstream has comes in its order. */
static void response_parts(struct writing *w)
{
    bool done[PARTS] = {false};
    const xmlNode *own = w->r && w->plan->speak ? w->r->node : NULL;
    for (const xmlNode *n = xml_child(own); n; n = xml_next(n)) {
        const size_t at = part_of(n);
        if (at < PARTS && !done[at])
            response_part(w, at, n);
        if (at < PARTS)
            done[at] = true;
    }
    for (size_t at = 0; at < PARTS; at++)
        if (!done[at])
            response_part(w, at, NULL);
}

/* No key that is encrypted may stand beside it in clear. */
static void look_for_keys(struct writing *w)
{
    if (writing_stopped(w))
        return;
    const enum spill_result found = spill_look(&w->spill);
    if (found == SPILL_FOUND)
        writing_fail(w, REASON_UPSTREAM_INVALID, "found a key's octets in a text or attribute beside its place");
    else if (found != SPILL_NONE)
        writing_fail(w, REASON_INTERNAL, "the texts beside the keys could not be looked through");
}

static void open_response(struct writing *w, const xmlNode *n)
{
    const char *ns = w->plan->speak ? w->plan->speak_ns : NS_KMS;
    writing_open(w, writing_name(w, n, STR("KmsResponse")));
    if (ns[0]) {
        buf_z(w->out, " xmlns=\"");
        buf_xml_attr(w->out, str_z(ns));
        buf_char(w->out, '"');
    }
    writing_attributes(w, n, &SCHEMA_RESPONSE, NULL, false);
    buf_char(w->out, '>');
}

enum reason kms_response_write(const struct kms_response *r, const struct kms_response_plan *plan, struct buf *out,
                               bool *encrypted, struct detail *why)
{
    struct writing w = {.r = r, .plan = plan, .out = out, .why = why, .reason = REASON_OK};
    const xmlNode *root = r ? r->node : NULL;
    const struct str name = writing_name(&w, root, STR("KmsResponse"));
    spill_init(&w.spill);
    if (r && r->profile)
        (void)buf_reserve(out, writing_profile_ceiling(r->profile, plan)); /* growing would wipe one block after the
                                                                            * other */
    w.repeats = r && r->doc ? 2 * r->doc->size + REPEATS_MIN : 0;
    open_response(&w, root);
    if (plan->keeps_kms_id && r && r->kms_id_unfit.p && plan->left_out)
        schema_tell_unfree("KmsId", r->kms_id_unfit, plan->left_out);
    else if (r && r->profile && plan->left_out)
        *plan->left_out = r->profile->left_out;
    response_parts(&w);
    if (w.encrypted)
        writing_leaf(&w, writing_name(&w, NULL, STR("TrK-ID")), plan->trk_id);
    writing_leaf(&w, writing_name(&w, NULL, STR("Signature-ID")), plan->signature_id);
    extensions(&w, root);
    writing_close(&w, name);
    look_for_keys(&w);
    spill_free(&w.spill);
    *encrypted = w.encrypted;
    if (w.reason == REASON_OK && out->failed) {
        detail_set(why, "the reply is too large");
        return REASON_INTERNAL;
    }
    return w.reason;
}
