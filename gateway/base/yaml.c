#include "base/yaml.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "base/file.h"
#include "base/limits.h"

/* Bounds the memory and the work that a file can cost; the languages read from YAML nest no deeper than 8. */
enum { MAX_DEPTH = 32, MAX_NODES = 200000, MAX_MEMBERS = 2000, CHUNK = 64 * 1024 };

struct chunk {
    struct chunk *next;
    size_t used, size;
    max_align_t data[];
};

/* One walk over libyaml's events. */
struct walk {
    const char *file;
    struct faults *faults;
    struct yaml *y;
    yaml_parser_t parser;
    size_t nodes;
};

static void *yaml_keep(struct yaml *y, size_t n)
{
    struct chunk *c = y->memory;
    n = (n + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (!c || c->size - c->used < n) {
        const size_t size = n > CHUNK ? n : CHUNK;
        c = malloc(sizeof *c + size);
        if (!c)
            return NULL;
        *c = (struct chunk){.next = y->memory, .size = size};
        y->memory = c;
    }
    void *p = (char *)c->data + c->used;
    c->used += n;
    return p;
}

static bool fault_at(struct walk *w, yaml_mark_t at, const char *message)
{
    faults_add(w->faults, w->file, (int)at.line + 1, (int)at.column + 1, "%s", message);
    return false;
}

static bool no_memory(struct walk *w)
{
    faults_add(w->faults, w->file, 0, 0, "out of memory");
    return false;
}

/* False at the parser's own errors. */
static bool next_event(struct walk *w, yaml_event_t *e)
{
    if (yaml_parser_parse(&w->parser, e))
        return true;
    const yaml_parser_t *p = &w->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return no_memory(w);
    /* what its own words would not tell anybody: globs begin like that */
    const bool alias = p->context && strstr(p->context, "alias"), anchor = p->context && strstr(p->context, "anchor");
    if (alias || anchor)
        return fault_at(w, p->context_mark, alias ? "a text that begins with `*` needs quotes: \"*@example.org\""
                                                  : "a text that begins with `&` needs quotes");
    faults_add(w->faults, w->file, (int)p->problem_mark.line + 1, (int)p->problem_mark.column + 1,
               "not valid YAML: %s%s%s", p->problem ? p->problem : "malformed", p->context ? ", " : "",
               p->context ? p->context : "");
    return false;
}

static bool plain_text(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char c = (unsigned char)s.p[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            return false;
    }
    return str_is_utf8(s);
}

static bool keep_text(struct walk *w, const yaml_event_t *e, struct str *out)
{
    const struct str s = {(const char *)e->data.scalar.value, e->data.scalar.length};
    if (!plain_text(s))
        return fault_at(w, e->start_mark, "a text with a control character in it");
    char *p = yaml_keep(w->y, s.n + 1);
    if (!p)
        return no_memory(w);
    memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    *out = (struct str){p, s.n};
    return true;
}

static bool has_anchor_or_tag(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return e->data.scalar.anchor || e->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return e->data.sequence_start.anchor || e->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return e->data.mapping_start.anchor || e->data.mapping_start.tag;
    default:
        return false;
    }
}

static struct yaml_node *read_node(struct walk *w, yaml_event_t *e, unsigned depth);

static void yaml_append(struct yaml_node *parent, struct yaml_node **last, struct yaml_node *node)
{
    if (*last)
        (*last)->next = node;
    else
        parent->first = node;
    *last = node;
    parent->n++;
}

static bool read_list(struct walk *w, struct yaml_node *list, unsigned depth)
{
    struct yaml_node *last = NULL;
    for (;;) {
        yaml_event_t e;
        if (!next_event(w, &e))
            return false;
        const bool end = e.type == YAML_SEQUENCE_END_EVENT;
        struct yaml_node *node = end ? NULL : read_node(w, &e, depth + 1);
        yaml_event_delete(&e);
        if (end || !node)
            return end;
        yaml_append(list, &last, node);
    }
}

/* The key of the next member, NULL-key node at the mapping's end. False on a fault. */
static bool read_key(struct walk *w, struct yaml_node *key)
{
    yaml_event_t e;
    if (!next_event(w, &e))
        return false;
    bool ok = true;
    *key = (struct yaml_node){.key_line = (int)e.start_mark.line + 1, .key_column = (int)e.start_mark.column + 1};
    if (e.type == YAML_ALIAS_EVENT || has_anchor_or_tag(&e))
        ok = fault_at(w, e.start_mark,
                      "anchors, aliases and tags are not taken here: write the text out, in quotes "
                      "where it begins with *, & or !");
    else if (e.type == YAML_SCALAR_EVENT)
        ok = keep_text(w, &e, &key->key);
    else if (e.type != YAML_MAPPING_END_EVENT)
        ok = fault_at(w, e.start_mark, "a list or a mapping where a key is expected");
    yaml_event_delete(&e);
    return ok;
}

static bool read_mapping(struct walk *w, struct yaml_node *mapping, unsigned depth)
{
    struct yaml_node *last = NULL;
    for (;;) {
        struct yaml_node key;
        if (!read_key(w, &key))
            return false;
        if (!key.key.p)
            return true;
        /* a duplicate is a fault but no reason to stop: the rest may hold more faults */
        for (const struct yaml_node *m = mapping->first; m; m = m->next)
            if (str_eq(m->key, key.key)) {
                faults_add(w->faults, w->file, key.key_line, key.key_column,
                           "duplicate key %s (first on line %d)", show(key.key).z, m->key_line);
                break;
            }
        yaml_event_t e;
        if (!next_event(w, &e))
            return false;
        struct yaml_node *node = read_node(w, &e, depth + 1);
        if (node && mapping->n == MAX_MEMBERS) {
            fault_at(w, e.start_mark, "a mapping of more than 2000 keys");
            node = NULL;
        }
        yaml_event_delete(&e);
        if (!node)
            return false;
        node->key = key.key;
        node->key_line = key.key_line;
        node->key_column = key.key_column;
        yaml_append(mapping, &last, node);
    }
}

static bool node_is_refused(struct walk *w, const yaml_event_t *e, unsigned depth)
{
    if (e->type == YAML_ALIAS_EVENT || has_anchor_or_tag(e))
        fault_at(w, e->start_mark, "anchors, aliases and tags are not taken here: write the text out");
    else if (depth >= MAX_DEPTH && e->type != YAML_SCALAR_EVENT)
        fault_at(w, e->start_mark, "nested more than 32 deep");
    else if (++w->nodes > MAX_NODES)
        fault_at(w, e->start_mark, "more than 200000 values in one file");
    else
        return false;
    return true;
}

static struct yaml_node *read_node(struct walk *w, yaml_event_t *e, unsigned depth)
{
    if (node_is_refused(w, e, depth))
        return NULL;
    struct yaml_node *node = yaml_keep(w->y, sizeof *node);
    if (!node) {
        no_memory(w);
        return NULL;
    }
    *node = (struct yaml_node){.line = (int)e->start_mark.line + 1, .column = (int)e->start_mark.column + 1};
    bool ok = false;
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        node->kind = YAML_SCALAR;
        node->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        ok = keep_text(w, e, &node->text);
        break;
    case YAML_SEQUENCE_START_EVENT:
        node->kind = YAML_LIST;
        ok = read_list(w, node, depth);
        break;
    case YAML_MAPPING_START_EVENT:
        node->kind = YAML_MAPPING;
        ok = read_mapping(w, node, depth);
        break;
    default:
        fault_at(w, e->start_mark, "a value is expected");
    }
    return ok ? node : NULL;
}

/* Nothing but the end may follow the first document. */
static bool read_end(struct walk *w)
{
    for (;;) {
        yaml_event_t e;
        if (!next_event(w, &e))
            return false;
        const yaml_event_type_t type = e.type;
        const yaml_mark_t at = e.start_mark;
        yaml_event_delete(&e);
        if (type == YAML_STREAM_END_EVENT)
            return true;
        if (type != YAML_DOCUMENT_END_EVENT)
            return fault_at(w, at, "a second document; only one is taken");
    }
}

static bool read_document(struct walk *w)
{
    for (;;) {
        yaml_event_t e;
        if (!next_event(w, &e))
            return false;
        bool go_on = e.type == YAML_STREAM_START_EVENT || e.type == YAML_DOCUMENT_START_EVENT;
        if (e.type == YAML_STREAM_END_EVENT)
            fault_at(w, e.start_mark, "the file is empty; a mapping is expected");
        else if (!go_on)
            w->y->root = read_node(w, &e, 0);
        yaml_event_delete(&e);
        if (!go_on)
            return w->y->root && read_end(w);
    }
}

/* libyaml would tell less of these, and take UTF-16. */
static bool bytes_are_text(const char *file, struct str bytes, struct faults *faults)
{
    int line = 1, column = 1;
    if (bytes.n > LIMIT_YAML_BYTES) {
        faults_add(faults, file, 0, 0, "larger than %u bytes", LIMIT_YAML_BYTES);
        return false;
    }
    for (size_t i = 0; i < bytes.n; i++) {
        if (bytes.p[i] == '\0') {
            faults_add(faults, file, line, column, "a NUL byte; UTF-8 text is expected");
            return false;
        }
        column = bytes.p[i] == '\n' ? 1 : column + 1;
        line += bytes.p[i] == '\n';
    }
    if (!str_is_utf8(bytes))
        faults_add(faults, file, 0, 0, "not valid UTF-8");
    return str_is_utf8(bytes);
}

struct yaml *yaml_parse(const char *file, struct str bytes, struct faults *faults)
{
    if (!bytes_are_text(file, bytes, faults))
        return NULL;
    struct walk w = {.file = file, .faults = faults, .y = calloc(1, sizeof *w.y)};
    if (!w.y || !(w.y->bytes = malloc(bytes.n + 1)) || !yaml_parser_initialize(&w.parser)) {
        no_memory(&w);
        yaml_done(w.y);
        return NULL;
    }
    if (bytes.n)
        memcpy(w.y->bytes, bytes.p, bytes.n);
    w.y->bytes[bytes.n] = '\0';
    w.y->n = bytes.n;
    yaml_parser_set_encoding(&w.parser, YAML_UTF8_ENCODING);
    /* libyaml takes a BOM for a column of the first line: the lines below would seem to stand further left. */
    const size_t mark = str_starts(bytes, STR("\xef\xbb\xbf")) ? 3 : 0;
    yaml_parser_set_input_string(&w.parser, (const unsigned char *)w.y->bytes + mark, bytes.n - mark);
    const size_t before = faults->errors;
    const bool ok = read_document(&w) && faults->errors == before;
    const bool usable = ok || w.y->root;
    yaml_parser_delete(&w.parser);
    if (!usable) {
        yaml_done(w.y);
        return NULL;
    }
    return w.y;
}

struct yaml *yaml_load(const char *path, struct faults *faults)
{
    struct stat st;
    struct yaml *y = NULL;
    struct buf b BUF_CLEANUP = BUF_INIT(LIMIT_YAML_BYTES + 1);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        faults_add(faults, path, 0, 0, "cannot be read: %s", strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
        faults_add(faults, path, 0, 0, "is a folder; a YAML file is expected");
    } else {
        if (file_read(fd, &b) || b.n > LIMIT_YAML_BYTES) /* too much is told by yaml_parse() */
            y = yaml_parse(path, b.p ? buf_view(&b) : STR(""), faults);
        else
            faults_add(faults, path, 0, 0, "cannot be read: %s", b.failed ? "out of memory" : strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return y;
}

void yaml_done(struct yaml *y)
{
    if (!y)
        return;
    for (struct chunk *c = y->memory, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(y->bytes);
    free(y);
}

const struct yaml_node *yaml_get(const struct yaml_node *mapping, const char *key)
{
    if (!mapping || mapping->kind != YAML_MAPPING)
        return NULL;
    for (const struct yaml_node *m = mapping->first; m; m = m->next)
        if (str_eq_z(m->key, key))
            return m;
    return NULL;
}
