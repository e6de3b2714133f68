#include "gate/rules.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "base/uri.h"
#include "gate/rules_forward.h"
#include "gate/rules_internal.h"

const char *check_name(enum check c)
{
    static const char *const NAMES[] = {
#define CHECK_NAME(e, name) name,
        CHECK_LIST(CHECK_NAME)
#undef CHECK_NAME
    };
    return (unsigned)c < CHECK_COUNT ? NAMES[c] : "?";
}

const char *shadow_name(size_t i)
{
    return i == SHADOW_FORM ? "form" : check_name((enum check)i);
}

const char *mode_name(enum mode m)
{
    return m == MODE_ENFORCE ? "enforce" : m == MODE_SHADOW ? "shadow" : "off";
}

const char *form_name(enum form f)
{
    return f == FORM_SIGNED ? "signed" : f == FORM_UNSIGNED ? "unsigned" : f == FORM_EMPTY ? "empty" : "unknown";
}

const struct yaml_node *rules_node(const struct yaml_node *list, size_t n)
{
    const struct yaml_node *m = list ? list->first : NULL;
    while (m && n--)
        m = m->next;
    return m;
}

bool rules_is_id(struct str s)
{
    enum { ID_MAX = 64 };
    static const char ALLOWED[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    for (size_t i = 0; i < s.n; i++)
        if (!memchr(ALLOWED, s.p[i], sizeof ALLOWED - 1))
            return false;
    return s.n > 0 && s.n <= ID_MAX;
}

void rules_read_id(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_text(in, node, to, arg);
    const char *id = *(char **)to;
    if (id && !rules_is_id(str_z(id)))
        yaml_fault(in, node, "found %s, expected " RULES_ID_EXPECTED, show(str_z(id)).z);
}

static void read_version(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to;
    (void)arg;
    if (!yaml_is_scalar(in, node, "1") || (node->plain && str_eq_z(node->text, "1")))
        return;
    yaml_fault(in, node, "found %s%s, expected 1: the version of this language", yaml_found(node).z,
               node->plain ? "" : " in quotes");
}

static void read_uris(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    const struct strings *s = to;
    yaml_texts(in, node, to, arg);
    for (size_t i = 0; i < s->n; i++) {
        if (!uri_is_any_uri(str_z(s->v[i])))
            yaml_fault(in, node, "found %s, expected what KmsUri may be: a URI or a host", show(str_z(s->v[i])).z);
        else if (strchr(s->v[i], '*')) /* who writes one expects more of it than that it stands for itself */
            yaml_fault(in, node, "found %s, expected each URI or host by its own name: there are no globs here",
                       show(str_z(s->v[i])).z);
    }
}

static const struct yaml_choice DETAILS[] = {{"generic", false}, {"reason", true}, {NULL, 0}};
static const struct yaml_field KMS[] = {
    {"uris", read_uris, .offset = offsetof(struct reading, kms_uris), .required = true},
    {"id", yaml_text, .offset = offsetof(struct reading, kms_id)},
    {0}};
static const struct yaml_field ERRORS[] = {
    {"detail", yaml_choose, .offset = offsetof(struct reading, detail_reason), DETAILS, "generic"}, {0}};
static const struct yaml_field LINTS[] = {{"accepted", rules_read_accepted, .offset = 0}, {0}};
static const struct yaml_field ROOT[] = {
    {"version", read_version, .offset = 0, .required = true},
    {"kms", yaml_sub, .offset = 0, .sub = KMS, .required = true},
    {"errors", yaml_sub, .offset = 0, .sub = ERRORS},
    {"requests", rules_read_requests, .offset = 0, .required = true},
    {"responses", rules_read_responses, .offset = 0, .required = true},
    {"dialects", rules_read_dialects, .offset = 0},
    {"lints", yaml_sub, .offset = 0, .sub = LINTS},
    {0}};

static bool rules_hash_text(struct str bytes, char out[65])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    struct buf hex BUF_CLEANUP = BUF_INIT(200);
    if (EVP_Digest(bytes.p, bytes.n, md, &n, EVP_sha256(), NULL) != 1)
        return false;
    buf_hex(&hex, md, n, false);
    if (hex.failed || hex.n != 64)
        return false;
    memcpy(out, hex.p, 65);
    return true;
}

/* Everything but the faults' order. */
static void read_all(struct reading *g)
{
    struct rules *r = g->r;
    const size_t errors = g->in.faults->errors;
    yaml_fields(&g->in, g->root, ROOT, g);
    r->kms_uris = g->kms_uris;
    r->kms_id = g->kms_id;
    r->detail_reason = g->detail_reason;
    rules_check_requests(g);
    forward_collect_headers(g);
    rules_check_responses(g);
    rules_check_accepted(g);
    for (size_t i = 0; i < r->request_count; i++) {
        const struct checks *c = &r->requests[i].checks;
        const bool on = c->mode[CHECK_REPLAY] != MODE_OFF;
        if (on && c->past_us > r->max_past_us)
            r->max_past_us = c->past_us;
        if (on && c->mode[CHECK_TIME] == MODE_ENFORCE && c->future_us > r->max_future_us)
            r->max_future_us = c->future_us;
    }
    if (g->in.faults->errors == errors)
        rules_lint(g, time_now_us());
}

static void reading_free(struct reading *g)
{
    for (size_t i = 0; i < g->accepted_count; i++) {
        free(g->accepted[i].rule);
        free(g->accepted[i].why);
    }
    free(g->accepted);
}

struct rules *rules_load(const char *path, struct faults *faults)
{
    const size_t faults_before = faults->n, errors_before = faults->errors;
    struct yaml *y = yaml_load(path, faults);
    if (!y)
        return NULL;
    struct rules *r = calloc(1, sizeof *r);
    const struct str bytes = {y->bytes, y->n};
    if (r && (r->file = str_dup(str_z(path))) && (r->text = str_dup(bytes)) && rules_hash_text(bytes, r->hash)) {
        struct reading g = {.in = {path, faults}, .r = r, .root = y->root};
        r->refs = 1;
        read_all(&g);
        yaml_sort_faults(faults, faults_before, path);
        reading_free(&g);
    } else {
        faults_add(faults, path, 0, 0, "out of memory");
    }
    yaml_done(y);
    if (faults->errors == errors_before)
        return r;
    if (r)
        r->refs = 1;
    rules_unref(r);
    return NULL;
}

void rules_describe(const struct rules *r, struct buf *out)
{
    struct faults none = {0};
    struct yaml *y = yaml_parse(r->file, str_z(r->text), &none);
    const char *key[] = {"requests", "responses"};
    if (!y)
        out->failed = true;
    else {
        yaml_print(out, r->file, yaml_get(y->root, "kms"), KMS, "kms");
        yaml_print(out, r->file, yaml_get(y->root, "errors"), ERRORS, "errors");
    }
    for (int k = 0; y && k < 2; k++)
        for (size_t i = 0; i < (k ? r->response_count : r->request_count); i++) {
            struct buf prefix BUF_CLEANUP = BUF_INIT(200);
            buf_printf(&prefix, "%s[%s]", key[k], k ? r->responses[i].id : r->requests[i].id);
            yaml_print(out, r->file, rules_node(yaml_get(y->root, key[k]), i), k ? RESPONSE_FIELDS : REQUEST_FIELDS,
                       prefix.p ? prefix.p : "");
        }
    for (size_t i = 0; y && i < r->dialect_count; i++) {
        struct buf prefix BUF_CLEANUP = BUF_INIT(200);
        buf_printf(&prefix, "dialects[%s]", r->dialects[i].name);
        yaml_print(out, r->file, rules_node(yaml_get(y->root, "dialects"), i), DIALECT_FIELDS,
                   prefix.p ? prefix.p : "");
    }
    yaml_done(y);
    faults_free(&none);
}

struct rules_telling {
    rules_setting *each;
    void *arg;
};

static void rules_tell_setting(void *arg, const char *path, struct str value, const struct yaml_node *at)
{
    const struct rules_telling *t = arg;
    t->each(t->arg, path, value, at ? at->line : 0);
}

bool rules_settings(const struct rules *r, bool response, size_t i, rules_setting *each, void *arg)
{
    struct faults none = {0};
    struct yaml *y = yaml_parse(r->file, str_z(r->text), &none);
    if (y)
        yaml_settings(rules_node(yaml_get(y->root, response ? "responses" : "requests"), i),
                      response ? RESPONSE_FIELDS : REQUEST_FIELDS, "", rules_tell_setting,
                      &(struct rules_telling){each, arg});
    yaml_done(y);
    faults_free(&none);
    return y != NULL;
}

struct rules *rules_ref(struct rules *r)
{
    if (r)
        __atomic_add_fetch(&r->refs, 1, __ATOMIC_RELAXED);
    return r;
}

void rules_unref(struct rules *r)
{
    if (!r || __atomic_sub_fetch(&r->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (size_t i = 0; i < r->request_count; i++)
        request_rule_free(r->requests + i);
    for (size_t i = 0; i < r->response_count; i++)
        response_rule_free(r->responses + i);
    for (size_t i = 0; i < r->dialect_count; i++)
        dialect_free(r->dialects + i);
    free(r->requests);
    free(r->responses);
    free(r->dialects);
    strings_free(&r->kms_uris);
    strings_free(&r->headers);
    strings_free(&r->accepted);
    free(r->kms_id);
    free(r->file);
    free(r->text);
    free(r);
}
