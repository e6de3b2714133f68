#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "base/yaml.h"

struct unit {
    const char *name;
    int64_t worth;
};
/* Larger units first, for showing. */
static const struct unit DURATIONS[] = {{"d", 86400 * US_PER_S}, {"h", 3600 * US_PER_S}, {"m", 60 * US_PER_S},
                                        {"s", US_PER_S},         {"ms", 1000}};
static const struct unit SIZES[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}};

static bool quantity_parse(struct str text, const struct unit *units, size_t n, int64_t *out)
{
    size_t digits = 0;
    uint64_t value;
    while (digits < text.n && text.p[digits] >= '0' && text.p[digits] <= '9')
        digits++;
    const struct str unit = {text.p + digits, text.n - digits};
    if (!digits || (digits > 1 && text.p[0] == '0') || !str_to_u64((struct str){text.p, digits}, INT64_MAX, &value))
        return false;
    for (size_t i = 0; i < n; i++)
        if (str_eq_z(unit, units[i].name)) {
            if (value > (uint64_t)(INT64_MAX / units[i].worth))
                return false;
            *out = (int64_t)value * units[i].worth;
            return true;
        }
    return false;
}

bool duration_parse(struct str text, int64_t *us)
{
    return quantity_parse(text, DURATIONS, sizeof DURATIONS / sizeof *DURATIONS, us);
}

bool size_parse(struct str text, int64_t *bytes)
{
    return quantity_parse(text, SIZES, sizeof SIZES / sizeof *SIZES, bytes);
}

static struct shown quantity_show(int64_t value, const struct unit *units, size_t n, const char *zero)
{
    struct shown s;
    for (size_t i = 0; value && i < n; i++)
        if (value % units[i].worth == 0) {
            snprintf(s.z, sizeof s.z, "%lld%s", (long long)(value / units[i].worth), units[i].name);
            return s;
        }
    snprintf(s.z, sizeof s.z, "%s", zero);
    return s;
}

struct shown duration_show(int64_t us)
{
    return quantity_show(us, DURATIONS, sizeof DURATIONS / sizeof *DURATIONS, "0s");
}

struct shown size_show(int64_t bytes)
{
    return quantity_show(bytes, SIZES, sizeof SIZES / sizeof *SIZES, "0B");
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b, both cut to 64 bytes. */
static unsigned distance(struct str a, struct str b)
{
    enum { MAX = 64 };
    unsigned rows[3][MAX + 1];
    a.n = a.n > MAX ? MAX : a.n;
    b.n = b.n > MAX ? MAX : b.n;
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];
    for (size_t j = 0; j <= b.n; j++)
        before[j] = last[j] = (unsigned)j;
    for (size_t i = 1; i <= a.n; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned best = last[j - 1] + (a.p[i - 1] != b.p[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        unsigned *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[b.n];
}

const char *nearest_name(struct str text, const void *names, size_t stride, size_t n)
{
    const char *best = NULL;
    unsigned best_distance = UINT_MAX;
    for (size_t i = 0; i < n; i++) {
        const char *name = *(const char *const *)((const char *)names + i * stride);
        if (!name) /* a rule whose id is a fault itself */
            continue;
        /* half a name says more than a short name that happens to be near */
        const bool half = text.n >= 3 && memmem(name, strlen(name), text.p, text.n);
        const unsigned d = half ? 1 : distance(text, str_z(name));
        if (d < best_distance) {
            best_distance = d;
            best = name;
        }
    }
    return best;
}

const char *similar_name(struct str text, const void *names, size_t stride, size_t n)
{
    const char *near = nearest_name(text, names, stride, n);
    if (!near || (text.n >= 3 && memmem(near, strlen(near), text.p, text.n)))
        return near;
    return distance(text, str_z(near)) * 5 <= text.n * 2 ? near : NULL;
}

static void print_value(struct buf *out, const struct yaml_node *node)
{
    if (node->kind == YAML_SCALAR) {
        buf_char(out, node->plain ? ' ' : '"');
        for (size_t i = 0; i < node->text.n; i++) {
            const char c = node->text.p[i];
            if (c == '\n')
                buf_z(out, "\\n");
            else if (c == '\t')
                buf_z(out, "\\t");
            else if (!node->plain && (c == '"' || c == '\\'))
                buf_printf(out, "\\%c", c);
            else
                buf_char(out, c);
        }
        if (!node->plain)
            buf_char(out, '"');
        return;
    }
    buf_char(out, node->kind == YAML_LIST ? '[' : '{');
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        buf_z(out, m == node->first ? "" : ", ");
        if (node->kind == YAML_MAPPING) {
            buf_str(out, m->key);
            buf_z(out, ": ");
        }
        struct buf one BUF_CLEANUP = BUF_INIT(65536);
        print_value(&one, m);
        buf_str(out, one.p ? str_trim(buf_view(&one)) : STR(""));
    }
    buf_char(out, node->kind == YAML_LIST ? ']' : '}');
}

void setting_print(struct buf *out, const char *path, struct str value, const char *origin)
{
    enum { COLUMN = 56 }; /* the origin stands in a column of its own */
    const size_t from = out->n;
    buf_printf(out, "%s: ", path);
    buf_str(out, value);
    const size_t width = out->n - from;
    buf_printf(out, "%*s  # %s\n", width < COLUMN ? (int)(COLUMN - width) : 0, "", origin);
}

void yaml_settings(const struct yaml_node *node, const struct yaml_field *fields, const char *prefix,
                   yaml_setting *each, void *arg)
{
    for (const struct yaml_field *f = fields; f->key; f++) {
        const struct yaml_node *at = yaml_get(node, f->key);
        struct buf path BUF_CLEANUP = BUF_INIT(1000);
        buf_printf(&path, "%s%s%s", prefix, *prefix ? "." : "", f->key);
        if (f->sub && (!at || at->kind == YAML_MAPPING)) {
            yaml_settings(at, f->sub, path.p ? path.p : "", each, arg);
            continue;
        }
        if (!at && !f->preset)
            continue;
        struct buf value BUF_CLEANUP = BUF_INIT(1 << 20);
        if (at)
            print_value(&value, at);
        else
            buf_z(&value, f->preset);
        if (value.p && path.p)
            each(arg, path.p, str_trim(buf_view(&value)), at);
    }
}

struct printing {
    struct buf *out;
    const char *file;
};

static void print_setting(void *arg, const char *path, struct str value, const struct yaml_node *at)
{
    const struct printing *p = arg;
    struct buf origin BUF_CLEANUP = BUF_INIT(8192);
    if (at)
        buf_printf(&origin, "%s:%d", p->file, at->line);
    else
        buf_z(&origin, "default");
    if (origin.p)
        setting_print(p->out, path, value, origin.p);
}

void yaml_print(struct buf *out, const char *file, const struct yaml_node *node, const struct yaml_field *fields,
                const char *prefix)
{
    yaml_settings(node, fields, prefix, print_setting, &(struct printing){out, file});
}

struct placed {
    struct fault fault;
    long line, column;
    size_t index;
};

static int place_order(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* FILE:LINE:COLUMN: as faults_add() writes it; without a place a fault stands first. */
static void place_read(struct placed *p, struct str file)
{
    p->line = p->column = 0;
    const struct str text = str_z(p->fault.text);
    if (!str_starts(text, file) || text.n == file.n || text.p[file.n] != ':')
        return;
    char *end;
    const long line = strtol(text.p + file.n + 1, &end, 10);
    if (line > 0 && *end == ':') {
        p->line = line;
        p->column = strtol(end + 1, NULL, 10);
    }
}

void yaml_sort_faults(struct faults *faults, size_t from, const char *file)
{
    const size_t n = faults->n > from ? faults->n - from : 0;
    struct placed *v = n > 1 ? calloc(n, sizeof *v) : NULL;
    if (!v)
        return;
    for (size_t i = 0; i < n; i++) {
        v[i].fault = faults->v[from + i];
        v[i].index = i;
        place_read(v + i, str_z(file));
    }
    qsort(v, n, sizeof *v, place_order);
    for (size_t i = 0; i < n; i++)
        faults->v[from + i] = v[i].fault;
    free(v);
}
