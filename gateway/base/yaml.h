/*
 * YAML as users' files may use it: one document of mappings, sequences and scalars, each node with its place. Anchors,
 * aliases, tags, further documents, duplicate keys and control characters are refused. The only user of libyaml.
 *
 *     struct yaml *y = yaml_load(path, faults);            NULL: no YAML at all; the reason is in faults
 *     struct yaml_in in = {.file = path, .faults = faults};
 *     static const struct yaml_field FIELDS[] = {
 *         {"id", yaml_text, .offset = offsetof(struct thing, id), .required = true},
 *         {"timeout", yaml_duration, .offset = offsetof(struct thing, timeout_us), &RANGE, "5s"},
 *         {0}};
 *     yaml_fields(&in, y->root, FIELDS, &thing);           reads what is there, faults everything else
 *
 * Readers leave the object's field alone when they find a fault. What they allocate is the object's owner's to free.
 */
#ifndef KMSGATE_BASE_YAML_H
#define KMSGATE_BASE_YAML_H

#include "base/buf.h"
#include "base/config.h"
#include "base/faults.h"

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAPPING };

struct yaml_node {
    enum yaml_kind kind;
    bool plain;      /* a scalar without quotes: only such are numbers, booleans or null */
    int line, column; /* from 1 */
    struct str text; /* scalars: NUL-terminated, UTF-8, no controls but tab and line feed */
    struct str key;  /* members of a mapping: the same */
    int key_line, key_column;
    struct yaml_node *first, *next; /* members, in the order of the text */
    size_t n;        /* how many members */
};

struct yaml {
    struct yaml_node *root; /* never NULL */
    char *bytes;            /* the file as it was read, NUL-terminated */
    size_t n;
    void *memory;           /* owns the nodes */
};

/* NULL with at least one fault added: unreadable, too large (LIMIT_YAML_BYTES), no UTF-8, no YAML, or YAML that is
 * refused. */
struct yaml *yaml_load(const char *path, struct faults *faults);
/* The same of bytes at hand; `file` is the name for faults. */
struct yaml *yaml_parse(const char *file, struct str bytes, struct faults *faults);
void yaml_done(struct yaml *y); /* NULL is fine; `yaml_free` is a symbol of libyaml's own */
/* The member of that name; NULL when there is none or when the node (which may be NULL) is no mapping. */
const struct yaml_node *yaml_get(const struct yaml_node *mapping, const char *key);

/* Where a reading stands: the file's name, and where its faults go. */
struct yaml_in {
    const char *file;
    struct faults *faults;
};
#define yaml_fault(in, node, ...) faults_add((in)->faults, (in)->file, (node)->line, (node)->column, __VA_ARGS__)
/* A reading of one node into `to`. `arg` is the field's. */
typedef void yaml_reader(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg);

/* What a mapping may hold; a table ends with a zero key. */
struct yaml_field {
    const char *key;
    yaml_reader *read;
    size_t offset;     /* of the object */
    const void *arg;   /* for the reader */
    const char *preset; /* what holds without it, for yaml_print(); NULL: nothing to show */
    const struct yaml_field *sub; /* of the mapping below; its offsets begin at `offset` */
    bool required;
};
/* Reads a mapping by its table: unknown keys are faults that name the nearest known one, required keys that are
 * missing are faults, too. */
void yaml_fields(struct yaml_in *in, const struct yaml_node *node, const struct yaml_field *fields, void *object);
/* The reader for fields with .sub (arg is not used): yaml_fields() does the work. */
yaml_reader yaml_sub;

/* Readers. arg says what `to` is and what is allowed. */
struct yaml_range {
    int64_t min, max;
};
struct yaml_choice {
    const char *name; /* NULL ends the list; */
    int value;        /* there: how many, from the first, "did you mean" may name, 0: all. No slip of the pen is
                       * answered with the advice to let more through than what was written */
};
yaml_reader yaml_text;     /* char *; not empty, no line breaks */
yaml_reader yaml_prose;    /* char *; not empty, line breaks allowed */
yaml_reader yaml_switch;   /* bool: on, off, true, false */
yaml_reader yaml_count;    /* unsigned; struct yaml_range */
yaml_reader yaml_duration; /* int64_t microseconds; struct yaml_range in microseconds */
yaml_reader yaml_choose;   /* int (or an enum of its size); struct yaml_choice */
yaml_reader yaml_flags;    /* unsigned: a name or a list of names, each once, or-ed; struct yaml_choice */
yaml_reader yaml_texts;    /* struct strings: a text or a list of texts, at least one, each once */
yaml_reader yaml_networks; /* struct yaml_cidrs: a network or a list of them */
struct yaml_cidrs {
    struct cidr *v;
    size_t n;
};

/* Checks on the kind of node; a fault says what was found and that `expected` was due. */
bool yaml_is_scalar(struct yaml_in *in, const struct yaml_node *node, const char *expected);
bool yaml_is_list(struct yaml_in *in, const struct yaml_node *node, const char *expected);
bool yaml_is_mapping(struct yaml_in *in, const struct yaml_node *node, const char *expected);
/* "a list", "a mapping", "`text`", … : what was found, for faults. */
struct shown {
    char z[128];
};
struct shown yaml_found(const struct yaml_node *node);
struct shown show(struct str text); /* "`text`": cut, one line */

/* Text to value, also for what comes from the environment. Digits and a unit: ms s m h d; B KiB MiB GiB. */
bool duration_parse(struct str text, int64_t *us);
bool size_parse(struct str text, int64_t *bytes);
/* The shortest text for it. */
struct shown duration_show(int64_t us);
struct shown size_show(int64_t bytes);
/* The name among n (a stride apart) that is nearest to `text` by edits; NULL when there are none. */
const char *nearest_name(struct str text, const void *names, size_t stride, size_t n);
/* The same, but NULL too when none is near enough to be what was meant: for what is not said beside a list of all. */
const char *similar_name(struct str text, const void *names, size_t stride, size_t n);
bool strings_add(struct strings *s, struct str text); /* a copy; false without memory */
void strings_free(struct strings *s);

/* Every setting in effect, in the order of the tables: `at` is its node, NULL: the default. */
typedef void yaml_setting(void *arg, const char *path, struct str value, const struct yaml_node *at);
void yaml_settings(const struct yaml_node *node, const struct yaml_field *fields, const char *prefix,
                   yaml_setting *each, void *arg);
/* "key.key: value  # FILE:LINE" or "# default", a line a setting, in the order of the tables. */
void yaml_print(struct buf *out, const char *file, const struct yaml_node *node, const struct yaml_field *fields,
                const char *prefix);
/* One such line. */
void setting_print(struct buf *out, const char *path, struct str value, const char *origin);
/* Puts the faults from index `from` on in the order of the text of `file`. */
void yaml_sort_faults(struct faults *faults, size_t from, const char *file);

#endif
