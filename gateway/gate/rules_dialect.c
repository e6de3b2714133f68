#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "gate/rules_internal.h"

#define IN(member) .offset = offsetof(struct dialect, member)
enum { TARGETS_MAX = 128 };

static const struct yaml_choice KEY_TEXTS[] = {
    {"auto", KEY_TEXT_AUTO}, {"hex", KEY_TEXT_HEX}, {"base64", KEY_TEXT_BASE64}, {NULL, 0}};
static const struct yaml_choice PREFIXES[] = {{"keep", PREFIX_KEEP}, {"add", PREFIX_ADD}, {NULL, 0}};
static const struct yaml_choice OCTETS[] = {{"exact", OCTETS_EXACT}, {"numeric", OCTETS_NUMERIC}, {NULL, 0}};
static const struct yaml_choice ENCODINGS[] = {{"utf-8", ENCODING_UTF_8}, {"declared", ENCODING_DECLARED}, {NULL, 0}};
static const struct yaml_choice USERS[] = {
    {"check", USERS_CHECK}, {"ignore_envelope", USERS_IGNORE_ENVELOPE}, {"ignore", USERS_IGNORE}, {NULL, 1}};

/* One namespace; the empty text is that of elements that have none. */
static void read_namespace(struct yaml_in *in, const struct yaml_node *node, struct strings *to)
{
    const bool none = node->kind == YAML_SCALAR && !node->plain && node->text.n == 0;
    char *text = NULL;
    if (!none)
        yaml_text(in, node, &text, NULL);
    if (!none && !text)
        return;
    if (text && !uri_is_any_uri(str_z(text)))
        yaml_fault(in, node, "found %s, expected a namespace URI, or \"\" for none", yaml_found(node).z);
    free(text);
    if (dialect_is_foreign(node->text))
        yaml_fault(in, node, "%s is XML's own, and no KMS's: its elements keep their meaning", show(node->text).z);
    for (size_t i = 0; i < to->n; i++)
        if (str_eq_z(node->text, to->v[i]))
            yaml_fault(in, node, "duplicate value %s", node->text.n ? show(node->text).z : "\"\"");
    if (!strings_add(to, node->text))
        yaml_fault(in, node, "out of memory");
}

static void read_namespaces(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (node->kind != YAML_LIST) {
        read_namespace(in, node, to);
        return;
    }
    if (!node->n)
        yaml_fault(in, node, "found an empty list, expected at least one namespace URI");
    for (const struct yaml_node *m = node->first; m; m = m->next)
        read_namespace(in, m, to);
}

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= 'A' && s.p[i] <= 'Z') || s.p[i] == '_' ||
              (unsigned char)s.p[i] >= 0x80 || (i && s.p[i] && strchr("0123456789.-", s.p[i]))))
            return false;
    return s.n > 0;
}

/* What a mapping of names may lead to. */
struct naming {
    const char *what, *whose;
    const char *(*target)(size_t n);
    bool elements;
};
static const struct naming ELEMENTS = {"element", "an element's", dialect_target, true},
                           TYPES = {"type", "a type's", dialect_type_target, false};

static void check_target(struct yaml_in *in, const struct yaml_node *node, const struct naming *of)
{
    const char *known[TARGETS_MAX];
    size_t n = 0;
    for (const char *name; n < TARGETS_MAX && (name = of->target(n)) != NULL; n++) {
        known[n] = name;
        if (str_eq_z(node->text, name))
            return;
    }
    yaml_fault(in, node, "the standard's replies have no %s %s; did you mean `%s`?", of->what, show(node->text).z,
               nearest_name(node->text, known, sizeof *known, n));
}

static void read_name(struct yaml_in *in, const struct yaml_node *m, const struct naming *of, struct dialect_name *r)
{
    if (!is_name(m->key))
        faults_add(in->faults, in->file, m->key_line, m->key_column, "found %s, expected %s name",
                   show(m->key).z, of->whose);
    check_target(in, m, of);
    if (of->elements && dialect_looks_like_key(m->key) && !dialect_is_key(m->text))
        yaml_fault(in, m, "%s is a key: read as %s it would pass in clear", show(m->key).z, show(m->text).z);
    r->from = str_dup(m->key);
    r->to = str_dup(m->text);
    if (!r->from || !r->to)
        yaml_fault(in, m, "out of memory");
}

static void read_names(struct yaml_in *in, const struct yaml_node *node, const struct naming *of,
                       struct dialect_name **v, size_t *n)
{
    if (!yaml_is_mapping(in, node, of->elements ? "a mapping of the older KMS's element names to the standard's"
                                                : "a mapping of the older KMS's types to the standard's") || *v)
        return;
    *v = calloc(node->n + 1, sizeof **v);
    if (!*v)
        yaml_fault(in, node, "out of memory");
    for (const struct yaml_node *m = node->first; m && *v; m = m->next) {
        if (m->kind == YAML_SCALAR && is_name(m->text))
            read_name(in, m, of, *v + (*n)++);
        else
            yaml_fault(in, m, "found %s, expected %s name", yaml_found(m).z, of->whose);
    }
}

/* `to` is a struct dialect. */
static void read_rename(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct dialect *d = to;
    (void)arg;
    read_names(in, node, &ELEMENTS, &d->rename, &d->rename_count);
}

static void read_rename_types(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct dialect *d = to;
    (void)arg;
    read_names(in, node, &TYPES, &d->rename_types, &d->rename_type_count);
}

const struct yaml_field DIALECT_FIELDS[] = {
    {"namespaces", read_namespaces, IN(namespaces)},
    {"rename", read_rename, .offset = 0},
    {"rename_types", read_rename_types, .offset = 0},
    {"key_octets", yaml_choose, IN(key_octets), OCTETS, "exact"},
    {"encoding", yaml_choose, IN(encoding), ENCODINGS, "utf-8"},
    {"key_text", yaml_choose, IN(key_text), KEY_TEXTS, "auto"},
    {"point_prefix", yaml_choose, IN(point_prefix), PREFIXES, "keep"},
    {"user_uri", yaml_choose, IN(user_uri), USERS, "check"},
    {0}};

void rules_read_dialects(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct reading *g = to;
    (void)arg;
    if (!yaml_is_mapping(in, node, "a mapping of names to dialects") || g->r->dialects || !node->n)
        return;
    if (node->n > RULES_MAX) {
        yaml_fault(in, node, "found %zu dialects, expected at most %d", node->n, RULES_MAX);
        return;
    }
    g->dialects = node;
    g->r->dialects = calloc(node->n, sizeof *g->r->dialects);
    for (const struct yaml_node *m = node->first; m && g->r->dialects; m = m->next) {
        struct dialect *d = g->r->dialects + g->r->dialect_count++;
        if (!rules_is_id(m->key))
            faults_add(in->faults, in->file, m->key_line, m->key_column, "found %s, expected " RULES_ID_EXPECTED,
                       show(m->key).z);
        d->name = str_dup(m->key);
        yaml_fields(in, m, DIALECT_FIELDS, d);
        if (!d->name)
            yaml_fault(in, m, "out of memory");
    }
    if (!g->r->dialects)
        yaml_fault(in, node, "out of memory");
}
