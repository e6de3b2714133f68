#include "keys/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

enum {
    LINE_MAX_BYTES = 16 * 1024,  /* two texts of KEY_TEXT_MAX, each byte escaped, and a key */
    ENTRIES_MAX = 8 * 1000 * 1000,
    FAULTS_TOLD = 100,
};
#define TEXT_MAX_BYTES ((size_t)1 << 31)

struct reading {
    const char *name; /* of the file, for messages */
    struct keyfile *out;
    struct faults *faults;
    size_t faults_before;
    struct buf text;
    int fd;
    size_t line;
    /* in secret memory; holds at most one line and what was read beyond it */
    struct window {
        char b[4 * LINE_MAX_BYTES];
    } *window;
    size_t begin, end;
    bool over; /* no more to read */
    bool cut;  /* before the end */
};

static bool keyfile_fault(struct reading *r, size_t column, const char *text)
{
    faults_add(r->faults, r->name, (int)r->line, (int)column, "%s", text);
    return false;
}

static bool keyfile_cannot(struct reading *r, const char *text)
{
    r->cut = true;
    return keyfile_fault(r, 0, text);
}

static bool keyfile_grow(struct keyfile *f)
{
    if (f->n < f->cap)
        return true;
    size_t cap = f->cap ? f->cap * 2 : 64;
    size_t *line = realloc(f->line, cap * sizeof *line);
    if (!line)
        return false;
    f->line = line;
    struct key_entry *v = secret_alloc(cap * sizeof *v);
    if (!v)
        return false;
    if (f->n)
        memcpy(v, f->v, f->n * sizeof *v);
    secret_free(f->v, f->cap * sizeof *v);
    f->v = v;
    f->cap = cap;
    return true;
}

/* The members of a line, by name: each is there at most once, since the reader refuses doubles. */
enum member { M_USER, M_TYPE, M_ID, M_KEY, M_STATE, M_NOT_AFTER, M_COUNT };
static const struct {
    const char *name;
    bool required;
} MEMBERS[M_COUNT] = {
    [M_USER] = {"user", true}, [M_TYPE] = {"type", true},    [M_ID] = {"id", true},
    [M_KEY] = {"key", true},   [M_STATE] = {"state", false}, [M_NOT_AFTER] = {"not_after", false},
};

static bool sort_members(struct reading *r, const struct json_value *object, const struct json_value *out[M_COUNT])
{
    bool ok = true;
    if (object->kind != JSON_OBJECT)
        return keyfile_fault(r, object->at + 1, "want one JSON object a line");
    for (const struct json_value *v = object->first; v; v = v->next) {
        size_t m = 0;
        while (m < M_COUNT && !str_eq_z(v->key, MEMBERS[m].name))
            m++;
        if (m == M_COUNT)
            ok = keyfile_fault(r, v->at + 1, "unknown member; known are user, type, id, key, state, not_after");
        else if (v->kind != JSON_STRING) {
            faults_add(r->faults, r->name, (int)r->line, (int)v->at + 1, "`%s` must be a string", MEMBERS[m].name);
            ok = false;
        } else {
            out[m] = v;
        }
    }
    for (size_t m = 0; ok && m < M_COUNT; m++) {
        if (out[m] || !MEMBERS[m].required)
            continue;
        faults_add(r->faults, r->name, (int)r->line, 0, "`%s` is missing", MEMBERS[m].name);
        ok = false;
    }
    return ok;
}

static bool take_key(struct reading *r, const struct json_value *v, struct secret_key *out)
{
    size_t n = 0;
    if (v->text.n == 2 * KEY_BYTES && hex_decode(v->text, out->b, sizeof out->b, &n) && n == KEY_BYTES)
        return true;
    faults_add(r->faults, r->name, (int)r->line, (int)v->at + 1,
               "`key` must be %d hex digits (%d bytes); it has %zu characters%s", 2 * KEY_BYTES, KEY_BYTES, v->text.n,
               v->text.n == 2 * KEY_BYTES ? ", not all of them hex" : "");
    return false;
}

static bool take_not_after(struct reading *r, const struct json_value *v, int64_t *out)
{
    bool zone = false;
    *out = TIME_NONE;
    if (!v || (time_parse(v->text, out, &zone) && zone))
        return true;
    return keyfile_fault(r, v->at + 1, "`not_after` must be a time with a zone, such as 2027-01-01T00:00:00Z");
}

static bool take_type(struct reading *r, const struct json_value *v, enum key_type *out)
{
    *out = str_eq_z(v->text, "trk") ? KEY_TRK : KEY_INK;
    return *out == KEY_TRK || str_eq_z(v->text, "ink") || keyfile_fault(r, v->at + 1, "`type` must be ink or trk");
}

static bool take_state(struct reading *r, const struct json_value *v, enum key_state *out)
{
    *out = KEY_ACTIVE;
    if (!v)
        return true;
    for (enum key_state s = KEY_ACTIVE; s <= KEY_OFFERED; s++)
        if (str_eq_z(v->text, key_state_name(s))) {
            *out = s;
            return true;
        }
    return keyfile_fault(r, v->at + 1, "`state` must be active, retiring, revoked or offered");
}

static bool take_text(struct reading *r, const struct json_value *v, const char *name)
{
    if (v->text.n > 0 && v->text.n <= KEY_TEXT_MAX)
        return true;
    faults_add(r->faults, r->name, (int)r->line, (int)v->at + 1, "`%s` must have 1 to %d bytes", name, KEY_TEXT_MAX);
    return false;
}

static bool take_entry(struct reading *r, const struct json_value *object)
{
    const struct json_value *m[M_COUNT] = {NULL};
    if (!sort_members(r, object, m))
        return false;
    if (r->out->n >= ENTRIES_MAX || !keyfile_grow(r->out))
        return keyfile_cannot(r, "out of memory, or too many keys for one file");
    struct key_entry *e = &r->out->v[r->out->n];
    bool ok = take_text(r, m[M_USER], "user");
    ok = take_text(r, m[M_ID], "id") && ok;
    ok = take_type(r, m[M_TYPE], &e->type) && ok;
    ok = take_key(r, m[M_KEY], &e->key) && ok;
    ok = take_state(r, m[M_STATE], &e->state) && ok;
    ok = take_not_after(r, m[M_NOT_AFTER], &e->not_after) && ok;
    if (!ok)
        return false;
    e->user = (struct str){NULL, m[M_USER]->text.n}; /* the text may still move: keyfile_read() sets the pointers */
    e->id = (struct str){NULL, m[M_ID]->text.n};
    buf_str(&r->text, m[M_USER]->text);
    buf_str(&r->text, m[M_ID]->text);
    r->out->line[r->out->n++] = r->line;
    return true;
}

static void take_line(struct reading *r, struct str line)
{
    size_t at = 0;
    const char *why = "out of memory";
    if (str_trim(line).n == 0)
        return;
    struct json_doc *doc = json_read(line, &at, &why);
    if (!doc)
        keyfile_fault(r, at + 1, why);
    else
        take_entry(r, json_root(doc));
    json_free(doc);
}

/* Fills the window; false at the end of the file or on an error, which becomes a fault. */
static bool keyfile_fill(struct reading *r)
{
    if (r->over)
        return false;
    if (r->begin > 0) {
        memmove(r->window->b, r->window->b + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
    }
    ssize_t n;
    do
        n = read(r->fd, r->window->b + r->end, sizeof r->window->b - r->end);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        faults_add(r->faults, r->name, 0, 0, "cannot read: %s", strerror(errno));
    r->over = n <= 0;
    r->cut = r->cut || n < 0;
    r->end += n > 0 ? (size_t)n : 0;
    return n > 0;
}

static bool too_many(const struct reading *r)
{
    return r->faults->errors - r->faults_before >= FAULTS_TOLD;
}

static void read_lines(struct reading *r)
{
    bool skipping = false; /* the rest of a line that is too long */
    while (!too_many(r)) {
        char *begin = r->window->b + r->begin;
        char *newline = memchr(begin, '\n', r->end - r->begin);
        size_t n = newline ? (size_t)(newline - begin) : r->end - r->begin;
        if (!newline && n <= LINE_MAX_BYTES && keyfile_fill(r))
            continue;
        if (!skipping)
            r->line++;
        if (n > LINE_MAX_BYTES && !skipping)
            keyfile_fault(r, 0, "the line is too long");
        else if (!skipping && n > 0)
            take_line(r, (struct str){begin, n});
        r->begin += n + (newline != NULL);
        skipping = !newline;
        if (!newline && r->over && r->begin == r->end)
            return;
    }
}

/* The texts of the entries, which stand one behind the other; where some were lost, of none. */
static void place_texts(struct keyfile *f)
{
    const char *at = f->text;
    for (size_t i = 0; i < f->n; i++) {
        struct key_entry *e = &f->v[i];
        if (!f->whole) {
            e->user = e->id = STR_MISSING;
            continue;
        }
        e->user.p = at;
        e->id.p = at += e->user.n;
        at += e->id.n;
    }
}

bool keyfile_read(const char *path, struct keyfile *out, struct faults *faults)
{
    bool standard = str_eq_z(str_z(path), "-");
    struct reading r = {.name = standard ? "standard input" : path, .out = out, .faults = faults};
    r.faults_before = faults->errors;
    r.text = BUF_INIT(TEXT_MAX_BYTES);
    *out = (struct keyfile){0};
    r.fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (r.fd < 0) {
        faults_add(faults, path, 0, 0, "cannot open: %s", strerror(errno));
        return false;
    }
    r.window = secret_alloc(sizeof *r.window);
    if (r.window)
        read_lines(&r);
    secret_free(r.window, r.window ? sizeof *r.window : 0);
    if (!standard)
        close(r.fd);
    if (!r.window || r.text.failed)
        faults_add(faults, r.name, 0, 0, "out of memory, or too long a file");
    out->text = r.text.p;
    out->text_n = r.text.n;
    out->whole = r.window && !r.text.failed && !r.cut && !too_many(&r);
    place_texts(out);
    return faults->errors == r.faults_before;
}

void keyfile_free(struct keyfile *f)
{
    if (!f)
        return;
    secret_free(f->v, f->cap * sizeof *f->v);
    free(f->line);
    free(f->text);
    *f = (struct keyfile){0};
}
