#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "base/yaml.h"

static bool is_null(const struct yaml_node *n)
{
    return n->kind == YAML_SCALAR && n->plain &&
           (n->text.n == 0 || str_eq_z(n->text, "~") || str_eq_z(n->text, "null"));
}

static bool is_boolean(const struct yaml_node *n)
{
    return n->plain && (str_eq_z(n->text, "true") || str_eq_z(n->text, "false"));
}

struct shown show(struct str text)
{
    struct shown s;
    size_t n = 0;
    const size_t max = sizeof s.z - 6;
    s.z[n++] = '`';
    for (size_t i = 0; i < text.n && n < max; i++)
        s.z[n++] = (unsigned char)text.p[i] < 0x20 || text.p[i] == 0x7f ? ' ' : text.p[i];
    if (n == max) {
        while (n > 1 && ((unsigned char)s.z[n - 1] & 0xC0) == 0x80) /* not inside a character */
            n--;
        if ((unsigned char)s.z[n - 1] >= 0xC0)
            n--;
        memcpy(s.z + n, "...", 3);
        n += 3;
    }
    s.z[n++] = '`';
    s.z[n] = '\0';
    return s;
}

struct shown yaml_found(const struct yaml_node *n)
{
    static const struct shown NOTHING = {"nothing"}, EMPTY = {"an empty text"}, LIST = {"a list"},
                              MAPPING = {"a mapping"};
    if (is_null(n))
        return NOTHING;
    if (n->kind == YAML_SCALAR)
        return n->text.n ? show(n->text) : EMPTY;
    return n->kind == YAML_LIST ? LIST : MAPPING;
}

static bool is_kind(struct yaml_in *in, const struct yaml_node *node, enum yaml_kind kind, const char *expected)
{
    if (node->kind == kind && !is_null(node))
        return true;
    yaml_fault(in, node, "found %s, expected %s", yaml_found(node).z, expected);
    return false;
}

bool yaml_is_scalar(struct yaml_in *in, const struct yaml_node *node, const char *expected)
{
    return is_kind(in, node, YAML_SCALAR, expected);
}

bool yaml_is_list(struct yaml_in *in, const struct yaml_node *node, const char *expected)
{
    return is_kind(in, node, YAML_LIST, expected);
}

bool yaml_is_mapping(struct yaml_in *in, const struct yaml_node *node, const char *expected)
{
    return is_kind(in, node, YAML_MAPPING, expected);
}

static void no_memory(struct yaml_in *in, const struct yaml_node *node)
{
    yaml_fault(in, node, "out of memory");
}

static void unknown_key(struct yaml_in *in, const struct yaml_node *member, const struct yaml_field *fields)
{
    size_t n = 0;
    struct buf known BUF_CLEANUP = BUF_INIT(2000);
    for (; fields[n].key; n++)
        buf_printf(&known, "%s%s", n ? ", " : "", fields[n].key);
    const char *near = nearest_name(member->key, &fields->key, sizeof *fields, n);
    faults_add(in->faults, in->file, member->key_line, member->key_column,
               "unknown key %s; did you mean `%s`? Known here: %s", show(member->key).z, near ? near : "",
               known.p ? known.p : "");
}

void yaml_sub(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_fields(in, node, arg, to);
}

void yaml_fields(struct yaml_in *in, const struct yaml_node *node, const struct yaml_field *fields, void *object)
{
    if (!yaml_is_mapping(in, node, "a mapping"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        const struct yaml_field *f = fields;
        while (f->key && !str_eq_z(m->key, f->key))
            f++;
        if (!f->key)
            unknown_key(in, m, fields);
        else
            f->read(in, m, (char *)object + f->offset, f->sub ? (const void *)f->sub : f->arg);
    }
    for (const struct yaml_field *f = fields; f->key; f++)
        if (f->required && !yaml_get(node, f->key))
            yaml_fault(in, node, "the key `%s` is missing", f->key);
}

static void set_text(struct yaml_in *in, const struct yaml_node *node, char **to)
{
    char *copy = str_dup(node->text);
    if (!copy) {
        no_memory(in, node);
        return;
    }
    free(*to);
    *to = copy;
}

static bool is_text(struct yaml_in *in, const struct yaml_node *node, bool lines)
{
    if (!yaml_is_scalar(in, node, "a text"))
        return false;
    if (node->text.n == 0 || is_boolean(node) || str_trim(node->text).n == 0)
        yaml_fault(in, node, "found %s, expected a text%s", yaml_found(node).z,
                   is_boolean(node) ? "; put it in quotes if that is the text" : "");
    else if (!lines && memchr(node->text.p, '\n', node->text.n))
        yaml_fault(in, node, "found a text of several lines, expected one");
    else
        return true;
    return false;
}

void yaml_text(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (is_text(in, node, false))
        set_text(in, node, to);
}

void yaml_prose(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (is_text(in, node, true))
        set_text(in, node, to);
}

void yaml_switch(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (!yaml_is_scalar(in, node, "on or off"))
        return;
    if (node->plain && (str_eq_z(node->text, "on") || str_eq_z(node->text, "true")))
        *(bool *)to = true;
    else if (node->plain && (str_eq_z(node->text, "off") || str_eq_z(node->text, "false")))
        *(bool *)to = false;
    else
        yaml_fault(in, node, "found %s, expected on or off", yaml_found(node).z);
}

void yaml_count(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    const struct yaml_range *r = arg;
    uint64_t value = 0;
    if (!yaml_is_scalar(in, node, "a number"))
        return;
    if (!node->plain || !str_to_u64(node->text, (uint64_t)r->max, &value) || value < (uint64_t)r->min)
        yaml_fault(in, node, "found %s%s, expected a number from %lld to %lld", yaml_found(node).z,
                   node->plain ? "" : " in quotes", (long long)r->min, (long long)r->max);
    else
        *(unsigned *)to = (unsigned)value;
}

void yaml_duration(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    const struct yaml_range *r = arg;
    int64_t us;
    if (!yaml_is_scalar(in, node, "a duration such as 5s"))
        return;
    if (!duration_parse(node->text, &us))
        yaml_fault(in, node, "found %s, expected a duration such as 200ms, 5s, 10m, 2h or 7d", yaml_found(node).z);
    else if (us < r->min || us > r->max)
        yaml_fault(in, node, "found %s, expected a duration from %s to %s", yaml_found(node).z, duration_show(r->min).z,
                   duration_show(r->max).z);
    else
        *(int64_t *)to = us;
}

static size_t choice_count(const struct yaml_choice *c)
{
    size_t n = 0;
    while (c[n].name)
        n++;
    return n;
}

static const struct yaml_choice *chosen(struct yaml_in *in, const struct yaml_node *node, const struct yaml_choice *c)
{
    struct buf known BUF_CLEANUP = BUF_INIT(1000);
    const size_t n = choice_count(c);
    for (size_t i = 0; i < n; i++) {
        if (node->kind == YAML_SCALAR && str_eq_z(node->text, c[i].name))
            return c + i;
        buf_printf(&known, "%s%s", i == 0 ? "" : i + 1 == n ? " or " : ", ", c[i].name);
    }
    const size_t strict = c[n].value ? (size_t)c[n].value : n;
    const char *near = node->kind == YAML_SCALAR && node->text.n
                           ? (strict < n ? similar_name : nearest_name)(node->text, &c->name, sizeof *c, strict)
                           : NULL;
    yaml_fault(in, node, "found %s, expected %s%s%s%s", yaml_found(node).z, known.p ? known.p : "",
               near && n > 1 ? "; did you mean `" : "", near && n > 1 ? near : "", near && n > 1 ? "`?" : "");
    return NULL;
}

void yaml_choose(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    const struct yaml_choice *c = chosen(in, node, arg);
    if (c)
        *(int *)to = c->value;
}

void yaml_flags(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    unsigned bits = 0;
    const struct yaml_node *item = node->kind == YAML_LIST ? node->first : node;
    if (node->kind == YAML_LIST && !node->n) {
        struct buf names BUF_CLEANUP = BUF_INIT(1024);
        for (const struct yaml_choice *c = arg; c->name; c++)
            buf_printf(&names, "%s%s", c == arg ? "" : ", ", c->name);
        yaml_fault(in, node, "found an empty list, expected at least one of: %s", names.p ? names.p : "");
    }
    for (; item; item = node->kind == YAML_LIST ? item->next : NULL) {
        const struct yaml_choice *c = chosen(in, item, arg);
        if (c && bits & (unsigned)c->value)
            yaml_fault(in, item, "duplicate value %s", yaml_found(item).z);
        if (c)
            bits |= (unsigned)c->value;
    }
    if (bits)
        *(unsigned *)to = bits;
}

bool strings_add(struct strings *s, struct str text)
{
    char **grown = realloc(s->v, (s->n + 1) * sizeof *grown);
    if (!grown)
        return false;
    s->v = grown;
    s->v[s->n] = str_dup(text);
    if (!s->v[s->n])
        return false;
    s->n++;
    return true;
}

void strings_free(struct strings *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->v[i]);
    free(s->v);
    *s = (struct strings){0};
}

static bool strings_have(const struct strings *s, struct str text)
{
    for (size_t i = 0; i < s->n; i++)
        if (str_eq_z(text, s->v[i]))
            return true;
    return false;
}

enum { MAX_LIST = 1000 }; /* of the languages' lists none needs more; bounds the search for doubles */

static const struct yaml_node *list_begin(struct yaml_in *in, const struct yaml_node *node, const char *what)
{
    if (node->kind != YAML_LIST)
        return yaml_is_scalar(in, node, what) ? node : NULL;
    if (!node->n)
        yaml_fault(in, node, "found an empty list, expected %s", what);
    if (node->n > MAX_LIST)
        yaml_fault(in, node, "found a list of %zu, expected at most %d", node->n, MAX_LIST);
    return node->n > MAX_LIST ? NULL : node->first;
}

void yaml_texts(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct strings *s = to;
    (void)arg;
    strings_free(s);
    const struct yaml_node *item = list_begin(in, node, "a text or a list of texts");
    for (; item; item = node->kind == YAML_LIST ? item->next : NULL) {
        if (!is_text(in, item, false))
            continue;
        if (strings_have(s, item->text))
            yaml_fault(in, item, "duplicate value %s", yaml_found(item).z);
        else if (!strings_add(s, item->text))
            no_memory(in, item);
    }
}

void yaml_networks(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct yaml_cidrs *c = to;
    (void)arg;
    free(c->v);
    *c = (struct yaml_cidrs){0};
    const struct yaml_node *item = list_begin(in, node, "a network such as 10.0.0.0/8, or a list of them");
    if (!item)
        return;
    c->v = calloc(node->kind == YAML_LIST ? node->n : 1, sizeof *c->v);
    if (!c->v) {
        no_memory(in, node);
        return;
    }
    for (; item; item = node->kind == YAML_LIST ? item->next : NULL) {
        if (item->kind == YAML_SCALAR && cidr_parse(item->text, c->v + c->n))
            c->n++;
        else
            yaml_fault(in, item,
                       "found %s, expected an address or a network whose host bits are zero, such as 10.0.0.0/8",
                       yaml_found(item).z);
    }
}
