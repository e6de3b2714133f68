#include <stdlib.h>
#include <string.h>

#include "gate/rules_internal.h"

/* How an older KMS speaks: read and validated; the program does not follow it yet. */
struct dialect {
    struct strings namespaces;
    int key_text, point_prefix, user_uri;
};
#define IN(member) .offset = offsetof(struct dialect, member)

static const struct yaml_choice KEY_TEXTS[] = {{"auto", 0}, {"hex", 1}, {"base64", 2}, {NULL, 0}};
static const struct yaml_choice PREFIXES[] = {{"keep", 0}, {"add", 1}, {NULL, 0}};
static const struct yaml_choice USER_URIS[] = {{"check", 0}, {"ignore_envelope", 1}, {"ignore", 2}, {NULL, 0}};

/* The empty text is the namespace of elements that have none. */
static void read_namespaces(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of namespace URIs"))
        return;
    if (!node->n)
        yaml_fault(in, node, "found an empty list, expected at least one namespace URI");
    for (const struct yaml_node *m = node->first; m; m = m->next)
        if (m->kind != YAML_SCALAR || (m->plain && m->text.n == 0))
            yaml_fault(in, m, "found %s, expected a namespace URI, or \"\" for none", yaml_found(m).z);
}

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= 'A' && s.p[i] <= 'Z') || s.p[i] == '_' ||
              (unsigned char)s.p[i] >= 0x80 || (i && s.p[i] && strchr("0123456789.-", s.p[i]))))
            return false;
    return s.n > 0;
}

static void read_rename(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to;
    (void)arg;
    if (!yaml_is_mapping(in, node, "a mapping of the older KMS's element names to the standard's"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        if (!is_name(m->key))
            faults_add(in->faults, in->file, m->key_line, m->key_column, "found %s, expected an element's name",
                       show(m->key).z);
        if (m->kind != YAML_SCALAR || !is_name(m->text))
            yaml_fault(in, m, "found %s, expected an element's name", yaml_found(m).z);
    }
}

static const struct yaml_field DIALECT[] = {
    {"namespaces", read_namespaces, IN(namespaces)},
    {"rename", read_rename, .offset = 0},
    {"key_text", yaml_choose, IN(key_text), KEY_TEXTS, "auto"},
    {"point_prefix", yaml_choose, IN(point_prefix), PREFIXES, "keep"},
    {"user_uri", yaml_choose, IN(user_uri), USER_URIS, "check"},
    {0}};

void rules_read_dialects(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct reading *g = to;
    (void)arg;
    if (!yaml_is_mapping(in, node, "a mapping of names to dialects"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        struct dialect d = {0};
        yaml_fields(in, m, DIALECT, &d);
        if (!strings_add(&g->dialects, m->key))
            yaml_fault(in, m, "out of memory");
        faults_add(in->faults, in->file, m->key_line, m->key_column,
                   "not built yet: dialects; `kmsgate serve` refuses this file");
    }
}
