#include "message/response_profile_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "message/scanner.h"
#include "message/tested_way.h"

enum {
    PROFILE_MAX = 1u << 18, /* longer texts may pass the tree's caps: an element takes 13 bytes at least */
    PROFILE_KEY_MIN = 64,   /* octets of the hex of the shortest key */
    PROFILE_DEPTH = 4,      /* KmsCertCache, KmsCertificate, KmsDomainList: one to spare */
    PROFILE_SLACK = 1024    /* for attributes that are added, and texts that become longer */
};

/* A group that is open. Order is strict, so that only the place in it counts, and how often the last one was met. */
struct profile_level {
    const struct schema_group *group;
    size_t place;
    unsigned seen, chosen;
    struct scan_tag tag;
};

/* One reading. */
struct profile {
    struct scanner s;
    struct canon c, texts; /* of the envelope the fields' values, then the payload; see struct response_profile */
    struct response_profile *out;
    size_t key_cap;
    size_t payload; /* where it begins in c */
    struct profile_level level[PROFILE_DEPTH];
    unsigned depth; /* levels in use */
};

static const struct str KMS = {NS_KMS, sizeof NS_KMS - 1}, XSI = {NS_XSI, sizeof NS_XSI - 1};

static void profile_put_end(struct profile *p, struct str local)
{
    canon_bytes(&p->c, STR("</"));
    canon_bytes(&p->c, local);
    canon_bytes(&p->c, STR(">"));
}

static bool profile_has_reference(struct str canonical)
{
    return canonical.n > 0 && memchr(canonical.p, '&', canonical.n);
}

/* A text that is sent as it came: noted for the look for keys beside their place. Its value, without references. */
static struct str profile_passes(struct profile *p, struct str canonical)
{
    char *const at = p->texts.p + p->texts.n;
    struct str value = {at, canonical.n};
    canon_bytes(&p->texts, canonical);
    if (p->texts.full)
        return STR_MISSING;
    if (profile_has_reference(value)) {
        value = canon_decode(value, at);
        p->texts.n -= canonical.n - value.n;
    }
    canon_bytes(&p->texts, (struct str){"", 1});
    return value;
}

/* Canonical text that is a value of the type. An ampersand is the one character of URIs that has a reference. */
static bool profile_holds(struct str text, const struct schema_element *e)
{
    if (e->type == TYPE_HEX)
        return schema_hex_holds(text, e->octets);
    const char *const end = text.p + text.n;
    for (const char *p = text.p; e->type == TYPE_URI && (p = memchr(p, '&', (size_t)(end - p))); p++)
        if (!str_starts((struct str){p, (size_t)(end - p)}, STR("&amp;")))
            return false;
    return schema_value_holds(text, e->type, e->count == OPTIONAL || e->count == ENVELOPE);
}

/* From behind a leaf's start tag to behind its end: its text is the last of the canonical text, and valid. */
static bool profile_text(struct profile *p, const struct scan_tag *tag, const struct schema_element *e,
                         struct str *text)
{
    *text = STR("");
    if (tag->attribute_count || (!tag->empty && !scanner_text(&p->s, &p->c, text)) || !scanner_end(&p->s, tag))
        return false;
    if (e->type != TYPE_STRING)
        *text = str_trim(*text);
    return profile_holds(*text, e);
}

/* A leaf of the payload. An optional text that is not free is left out, as the tree's writer does it. */
static bool profile_leaf(struct profile *p, const struct scan_tag *tag, const struct schema_element *e)
{
    const size_t from = p->c.n;
    struct str text;
    canon_bytes(&p->c, STR("<"));
    canon_bytes(&p->c, tag->local);
    canon_bytes(&p->c, STR(">"));
    const size_t begin = p->c.n;
    if (!profile_text(p, tag, e, &text))
        return false;
    if (e->type == TYPE_STRING && e->count == OPTIONAL && !schema_is_free_text(text)) {
        if (!p->out->left_out.text[0])
            schema_tell_unfree(e->name.p, text, &p->out->left_out);
        p->c.n = from;
        return true;
    }
    if (text.n > 0 && text.p != p->c.p + begin)
        memmove(p->c.p + begin, text.p, text.n);
    p->c.n = begin + text.n;
    const struct str value = profile_passes(p, (struct str){p->c.p + begin, text.n});
    profile_put_end(p, tag->local);
    if (p->level[p->depth - 1].group == &SCHEMA_KEY_SET && str_eq(tag->local, STR("UserUri"))) {
        if (p->out->set_user.p && !str_eq(p->out->set_user, value))
            return false;
        p->out->set_user = value;
    }
    return true;
}

/* xsi:type that says `type`. Without prefix it is ours, also where there is no default namespace. */
static bool profile_is_type(const struct profile *p, const struct scan_attribute *a, const char *type)
{
    size_t colon = 0;
    if (!str_eq(a->local, STR("type")) || !str_eq(scanner_uri(&p->s, a->prefix), XSI))
        return false;
    while (colon < a->value.n && a->value.p[colon] != ':')
        colon++;
    const bool prefixed = colon < a->value.n;
    const struct str uri = scanner_uri(&p->s, prefixed ? (struct str){a->value.p, colon} : STR(""));
    if (prefixed)
        return colon > 0 && str_eq(uri, KMS) &&
               str_eq_z((struct str){a->value.p + colon + 1, a->value.n - colon - 1}, type);
    return (!uri.p || str_eq(uri, KMS)) && str_eq_z(a->value, type);
}

static bool profile_key(struct profile *p, const struct scan_tag *tag, const struct schema_element *e)
{
    if (schema_is_new_key(e) || p->out->key_count == p->key_cap || tag->empty || tag->attribute_count > 1 ||
        (tag->attribute_count && !profile_is_type(p, &tag->attributes[0], TYPE_CLEAR)))
        return false;
    struct response_key *key = &p->out->keys[p->out->key_count++];
    canon_bytes(&p->c, STR("<"));
    canon_bytes(&p->c, tag->local);
    *key = (struct response_key){.at = p->c.n - p->payload, .e = e};
    scanner_space(&p->s);
    key->hex = scanner_hex(&p->s);
    scanner_space(&p->s);
    if (key->hex.n != 2 * e->octets || !scanner_end(&p->s, tag))
        return false;
    profile_put_end(p, tag->local);
    return true;
}

/* The attributes of a group, in canonical order. */
enum { AT_CACHE_NUM, AT_ID, AT_GATEWAY, AT_ROLE, AT_VERSION, AT_COUNT };
static const struct str AT_NAMES[AT_COUNT] = {
    STR_INIT("CacheNum"), STR_INIT("Id"), STR_INIT("IsSecurityGateway"), STR_INIT("Role"), STR_INIT("Version")};

static bool profile_attribute_holds(const struct schema_group *g, unsigned at, struct str value)
{
    if (at == AT_ID || at == AT_VERSION)
        return g->version != NULL;
    for (size_t i = 0; i < g->attribute_count; i++)
        if (str_eq(AT_NAMES[at], g->attributes[i].name))
            return schema_attribute_holds(&g->attributes[i], value);
    return false;
}

/* One of XML Schema's: the group's type, if it has one, or a hint on where schemas are. 0: something else. */
static unsigned profile_xsi(const struct profile *p, const struct scan_attribute *a, const struct schema_group *g)
{
    enum { TYPED = 1, HINT = 2, OTHER_HINT = 4 };
    if (g->extended && (profile_is_type(p, a, g->plain) || profile_is_type(p, a, g->extended)))
        return TYPED;
    if (!str_eq(scanner_uri(&p->s, a->prefix), XSI))
        return 0;
    return str_eq(a->local, STR("schemaLocation"))              ? HINT
           : str_eq(a->local, STR("noNamespaceSchemaLocation")) ? OTHER_HINT
                                                                : 0;
}

/* All of them known ones. Two prefixes of one namespace make one name. */
static bool profile_attributes(const struct profile *p, const struct scan_tag *tag, const struct schema_group *g,
                               struct str found[AT_COUNT])
{
    unsigned met = 0;
    memset(found, 0, AT_COUNT * sizeof *found);
    for (unsigned i = 0; i < tag->attribute_count; i++) {
        const struct scan_attribute *a = &tag->attributes[i];
        const unsigned is = a->prefix.n > 0 ? profile_xsi(p, a, g) : 0;
        unsigned at = 0;
        if (a->prefix.n > 0) {
            if (!is || met & is)
                return false;
            met |= is;
            continue;
        }
        while (at < AT_COUNT && !str_eq(a->local, AT_NAMES[at]))
            at++;
        if (at == AT_COUNT || !profile_attribute_holds(g, at, a->value))
            return false;
        found[at] = a->value;
    }
    for (size_t i = 0; i < g->attribute_count; i++)
        for (unsigned at = 0; g->attributes[i].required && at < AT_COUNT; at++)
            if (!found[at].p && str_eq(AT_NAMES[at], g->attributes[i].name))
                return false;
    return true;
}

/* What is written of one; missing: it is left out. */
static struct str profile_written(const struct schema_group *g, unsigned at, struct str value)
{
    if (at == AT_VERSION)
        return str_z(g->version);
    if (at == AT_ID)
        return schema_id_stays(value) ? value : STR_MISSING;
    return value.p ? str_trim(value) : value;
}

static void profile_put_attributes(struct profile *p, const struct schema_group *g, struct str element,
                                   const struct str found[AT_COUNT])
{
    if (found[AT_ID].p && !schema_id_stays(found[AT_ID]))
        schema_tell_attribute("Id", element, found[AT_ID], &p->out->left_out);
    for (unsigned at = 0; at < AT_COUNT; at++) {
        const struct str value = profile_written(g, at, found[at]);
        if (!value.p)
            continue;
        canon_bytes(&p->c, STR(" "));
        canon_bytes(&p->c, AT_NAMES[at]);
        canon_bytes(&p->c, STR("=\""));
        canon_bytes(&p->c, value);
        canon_bytes(&p->c, STR("\""));
        (void)profile_passes(p, value);
    }
}

/* A group begins at the tag of the level that is not yet in use. One with key sets declares xsi, for their keys. */
static bool profile_push(struct profile *p, const struct schema_group *g)
{
    struct profile_level *l = &p->level[p->depth];
    struct str found[AT_COUNT];
    const bool of_sets = g->elements[0].group == &SCHEMA_KEY_SET;
    l->group = g;
    l->place = 0;
    l->seen = l->chosen = 0;
    if (!profile_attributes(p, &l->tag, g, found))
        return false;
    scanner_space(&p->s);
    canon_bytes(&p->c, STR("<"));
    canon_bytes(&p->c, l->tag.local);
    if (of_sets && !l->tag.empty && !scanner_at_end_tag(&p->s))
        canon_bytes(&p->c, STR(" xmlns:xsi=\"" NS_XSI "\""));
    profile_put_attributes(p, g, l->tag.local, found);
    canon_bytes(&p->c, STR(">"));
    p->depth++;
    return true;
}

/* Moves on to the element at `to` of the group (its count: the end), none that is due left out. */
static bool profile_move(struct profile_level *l, size_t to)
{
    for (; l->place < to; l->place++, l->seen = 0) {
        const enum schema_count count = l->group->elements[l->place].count;
        if (l->seen == 0 && (count == ONE || count == MANY))
            return false;
    }
    return true;
}

static bool profile_pop(struct profile *p)
{
    struct profile_level *l = &p->level[p->depth - 1];
    const bool chooses = l->group->elements[0].count == CHOICE;
    if (!scanner_end(&p->s, &l->tag) || !profile_move(l, l->group->count) || (chooses && l->chosen != 1))
        return false;
    profile_put_end(p, l->tag.local);
    p->depth--;
    return true;
}

/* One element of the group that is open. */
static bool profile_child(struct profile *p)
{
    struct profile_level *l = &p->level[p->depth - 1];
    if (p->depth == PROFILE_DEPTH)
        return false;
    struct scan_tag *tag = &p->level[p->depth].tag;
    size_t at = l->place;
    if (!scanner_start(&p->s, tag) || !str_eq(tag->uri, KMS))
        return false;
    while (at < l->group->count && !str_eq(tag->local, l->group->elements[at].name))
        at++;
    if (at == l->group->count || !profile_move(l, at))
        return false;
    const struct schema_element *e = &l->group->elements[at];
    if (l->seen++ > 0 && e->count != ANY && e->count != MANY)
        return false;
    l->chosen += e->count == CHOICE;
    switch (e->type) {
    case TYPE_GROUP:
        p->out->certificates += p->depth == 1 && str_eq(tag->local, STR("KmsCertificate"));
        return profile_push(p, e->group);
    case TYPE_KEY:
        return profile_key(p, tag, e);
    case TYPE_PAYLOAD:
    case TYPE_LOOKUP:
    case TYPE_SEALED:
        return false;
    default:
        return profile_leaf(p, tag, e);
    }
}

/* From behind the start tag of KmsMessage: one payload. */
static bool profile_message(struct profile *p, const struct scan_tag *message)
{
    struct scan_tag *tag = &p->level[0].tag;
    size_t at = 0;
    p->payload = p->c.n;
    if (message->attribute_count || message->empty || !scanner_start(&p->s, tag) || !str_eq(tag->uri, KMS))
        return false;
    while (at < SCHEMA_MESSAGE.count && !str_eq(tag->local, SCHEMA_MESSAGE.elements[at].name))
        at++;
    if (at == SCHEMA_MESSAGE.count || SCHEMA_MESSAGE.elements[at].type != TYPE_GROUP ||
        !profile_push(p, SCHEMA_MESSAGE.elements[at].group))
        return false;
    while (p->depth > 0) {
        scanner_space(&p->s);
        const bool ends = p->level[p->depth - 1].tag.empty || scanner_at_end_tag(&p->s);
        if (ends ? !profile_pop(p) : !profile_child(p))
            return false;
    }
    p->out->message = (enum kms_message)(KMS_MESSAGE_INIT + at);
    p->out->text = (struct str){p->c.p + p->payload, p->c.n - p->payload};
    scanner_space(&p->s);
    return scanner_end(&p->s, message);
}

/* Where the field is kept; NULL: it says nothing in an upstream's reply. */
static struct str *profile_field(struct response_profile *out, size_t at)
{
    enum { FIELDS = 5 };
    struct str *const fields[FIELDS] = {&out->user_uri, &out->kms_uri, &out->time, &out->kms_id, &out->client_req_url};
    return at < FIELDS ? fields[at] : NULL;
}

/* A child of KmsResponse, its place in the schema `at`. Empty is as good as missing, but for KmsId. */
static bool profile_envelope(struct profile *p, const struct scan_tag *tag, size_t at)
{
    const struct schema_element *e = &SCHEMA_RESPONSE.elements[at];
    struct str *field = profile_field(p->out, at), text;
    if (e->type == TYPE_PAYLOAD)
        return profile_message(p, tag);
    if (e->type == TYPE_GROUP || !profile_text(p, tag, e, &text))
        return false;
    if (profile_has_reference(text))
        text = canon_decode(text, p->c.p + (text.p - p->c.p));
    if (field && (e->type == TYPE_STRING ? schema_is_free_text(text) : text.n > 0))
        *field = text;
    else if (field && e->type == TYPE_STRING)
        p->out->kms_id_unfit = text;
    return true;
}

/* Each element of the envelope at most once, KmsMessage once. */
static bool profile_response(struct profile *p)
{
    struct scan_tag top, tag;
    struct str found[AT_COUNT];
    unsigned met = 0;
    if (!scanner_start(&p->s, &top) || !scan_tag_is(&top, KMS, STR("KmsResponse")) || top.empty ||
        !profile_attributes(p, &top, &SCHEMA_RESPONSE, found))
        return false;
    for (scanner_space(&p->s); !scanner_at_end_tag(&p->s); scanner_space(&p->s)) {
        size_t at = 0;
        if (!scanner_start(&p->s, &tag) || !str_eq(tag.uri, KMS))
            return false;
        while (at < SCHEMA_RESPONSE.count && !str_eq(tag.local, SCHEMA_RESPONSE.elements[at].name))
            at++;
        if (at == SCHEMA_RESPONSE.count || met & 1u << at || !profile_envelope(p, &tag, at))
            return false;
        met |= 1u << at;
    }
    return scanner_end(&p->s, &top) && scanner_done(&p->s) && p->out->text.p;
}

struct response_profile *response_profile_read(struct str body)
{
    if (!body.p || body.n > PROFILE_MAX || tested_way_is_tree("TESTED_REPLY_WAY"))
        return NULL;
    /* a self-closing tag becomes two, a `>` four bytes; what needs more is declined */
    const size_t key_cap = body.n / PROFILE_KEY_MIN, keys = key_cap * sizeof(struct response_key);
    const size_t room = 2 * body.n + PROFILE_SLACK, texts = body.n + PROFILE_SLACK;
    struct response_profile *out = block_take(sizeof *out + keys + room + texts);
    if (!out)
        return NULL;
    memset(out, 0, offsetof(struct response_profile, left_out) + 1); /* its text is long, and begins empty */
    out->message = KMS_MESSAGE_NONE;
    out->key_count = 0;
    out->text = out->texts = STR_MISSING;
    struct profile p;
    char *const text = (char *)out + sizeof *out + keys;
    p.out = out;
    p.depth = 0;
    p.key_cap = key_cap;
    p.c = (struct canon){.p = text, .cap = room};
    p.texts = (struct canon){.p = text + room, .cap = texts};
    if (scanner_begin(&p.s, body) && profile_response(&p) && !p.c.full && !p.texts.full) {
        out->texts = (struct str){p.texts.p, p.texts.n};
        return out;
    }
    block_give(out);
    return NULL;
}

void response_profile_free(struct response_profile *p)
{
    block_give(p);
}

enum kms_message response_profile_message(const struct response_profile *p)
{
    return p->message;
}

void response_profile_fields(const struct response_profile *p, struct kms_response *out)
{
    *out = (struct kms_response){.profile = p, .message = p->message, .user_uri = p->user_uri, .kms_uri = p->kms_uri,
                                 .time = p->time, .kms_id = p->kms_id, .client_req_url = p->client_req_url,
                                 .kms_id_unfit = p->kms_id_unfit, .certificates = p->certificates,
                                 .has_key_content = p->key_count > 0};
}
