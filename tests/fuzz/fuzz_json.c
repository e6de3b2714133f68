/*
 * Any text as JSON, against SQLite's reader, which shares nothing with ours: what ours reads, it reads too, as the
 * same values in the same order; what ours writes of that is read as the same again. Text that is no JSON is the
 * values of a document that the bytes choose.
 */
#include "fuzz.h"

#include <sqlite3.h>

#include "base/json.h"

enum { ROOM = 1 << 20, VALUES_MAX = 64, DEPTH_MAX = 6 };

static sqlite3 *db;
static sqlite3_stmt *walk;

static void close_all(void)
{
    sqlite3_finalize(walk);
    sqlite3_close(db);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    must(sqlite3_open(":memory:", &db) == SQLITE_OK, "SQLite");
    must(sqlite3_prepare_v2(db, "SELECT type, atom FROM json_tree(?1)", -1, &walk, NULL) == SQLITE_OK, "%s",
         sqlite3_errmsg(db));
    atexit(close_all);
    return 0;
}

/* SQLite ends a string where its value has a NUL. */
static bool has_nul(struct str s)
{
    return s.n && memchr(s.p, '\0', s.n);
}

static void check_value(const struct json_value *v)
{
    static const char *const TYPES[] = {[JSON_NULL] = "null", [JSON_STRING] = "text", [JSON_ARRAY] = "array",
                                        [JSON_OBJECT] = "object"};
    must(sqlite3_step(walk) == SQLITE_ROW, "SQLite has no value at %zu", v->at);
    const char *type = (const char *)sqlite3_column_text(walk, 0), *atom = (const char *)sqlite3_column_text(walk, 1);
    const size_t n = (size_t)sqlite3_column_bytes(walk, 1);
    if (v->kind == JSON_BOOL)
        must(str_eq_z(v->text, type), "%s for %.*s", type, STR_FMT(v->text));
    else if (v->kind == JSON_NUMBER)
        must(strcmp(type, "integer") == 0 || strcmp(type, "real") == 0, "%s for %.*s", type, STR_FMT(v->text));
    else
        must(strcmp(type, TYPES[v->kind]) == 0, "%s for a %s", type, TYPES[v->kind]);
    if (v->kind == JSON_STRING && !has_nul(v->text))
        must(str_eq(v->text, (struct str){atom, n}), "%s for %.*s", atom, STR_FMT(v->text));
    for (const struct json_value *below = v->first; below; below = below->next)
        check_value(below);
}

/* Names that are written are literals of our own, never a stranger's: only such are written again. */
static bool is_plain(struct str name)
{
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] < 0x20 || name.p[i] == '"' || name.p[i] == '\\')
            return false;
    return true;
}

/* Numbers as text. */
static bool write_again(struct json *j, const struct json_value *v, const char *key)
{
    bool ok = true;
    if (v->kind == JSON_ARRAY)
        json_array(j, key);
    else if (v->kind == JSON_OBJECT)
        json_object(j, key);
    else if (v->kind == JSON_BOOL)
        json_bool(j, key, str_eq_z(v->text, "true"));
    else
        json_string(j, key, v->kind == JSON_NULL ? STR("null") : v->text, 0);
    for (const struct json_value *below = v->first; ok && below; below = below->next) {
        char *name = v->kind == JSON_OBJECT && is_plain(below->key) ? str_dup(below->key) : NULL;
        ok = (v->kind == JSON_ARRAY || name) && write_again(j, below, name);
        free(name);
    }
    if (v->kind == JSON_ARRAY || v->kind == JSON_OBJECT)
        json_end(j);
    return ok;
}

static void check_same(const struct json_value *a, const struct json_value *b)
{
    const bool is_text = a->kind == JSON_NUMBER || a->kind == JSON_NULL;
    must(b->kind == (is_text ? JSON_STRING : a->kind), "another kind of value at %zu", b->at);
    must(str_eq(a->kind == JSON_NULL ? STR("null") : a->text, b->text) || (!a->text.p && !b->text.p) || is_text,
         "%.*s written %.*s", STR_FMT(a->text), STR_FMT(b->text));
    must((!a->key.p && !b->key.p) || str_eq(a->key, b->key), "the name %.*s", STR_FMT(b->key));
    for (a = a->first, b = b->first; a && b; a = a->next, b = b->next)
        check_same(a, b);
    must(!a && !b, "more values, or fewer");
}

static void check_written(const struct json_value *root)
{
    struct buf text BUF_CLEANUP = BUF_INIT(8 * ROOM);
    struct json j = {.out = &text};
    size_t at;
    const char *why = "";
    if (!write_again(&j, root, NULL) || text.failed)
        return;
    struct json_doc *doc = json_read(buf_view(&text), &at, &why);
    must(doc, "%s at %zu in %.*s", why, at, STR_FMT(buf_view(&text)));
    check_same(root, json_root(doc));
    json_free(doc);
}

/* Whether ours reads it. */
static bool look(struct str text)
{
    size_t at = 0;
    const char *why = NULL;
    struct json_doc *doc = json_read(text, &at, &why);
    must(doc || (why && at <= text.n), "refused without a word, or behind its end");
    if (!doc)
        return false;
    must(!has_nul(text), "a NUL in the text");
    sqlite3_bind_text(walk, 1, text.p, (int)text.n, SQLITE_STATIC);
    check_value(json_root(doc));
    must(sqlite3_step(walk) == SQLITE_DONE, "SQLite has more values");
    sqlite3_reset(walk);
    check_written(json_root(doc));
    json_free(doc);
    return true;
}

static void put_number(struct str *rest, struct buf *out)
{
    static const char *const ENDS[] = {"", ".5", "e9", "E-2", "e+1", ".0e0"};
    buf_printf(out, "%s%u%s", fuzz_choice(rest, 2) ? "-" : "", fuzz_choice(rest, 256),
               ENDS[fuzz_choice(rest, sizeof ENDS / sizeof *ENDS)]);
}

static void put_string(struct str *rest, struct buf *out)
{
    static const char *const ESCAPES[] = {"\\n", "\\\"", "\\\\", "\\/", "\\u00e9", "\\ud83d\\ude00", "\\u0000", "\\t"};
    const struct str text = fuzz_next(rest);
    buf_char(out, '"');
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            buf_char(out, (char)c);
        else if (c < 0xc0)
            buf_z(out, ESCAPES[c % (sizeof ESCAPES / sizeof *ESCAPES)]);
        else
            buf_z(out, c % 2 ? "\xC3\xA9" : "\xF0\x9F\x98\x80");
    }
    buf_char(out, '"');
}

static void put_value(struct str *rest, unsigned depth, unsigned *left, struct buf *out)
{
    enum { STRING, OBJECT, ARRAY, NUMBER, TRUE, NIL, KINDS };
    static const char *const SPACES[] = {"", "", " ", "\n\t"};
    const unsigned kind = fuzz_choice(rest, KINDS);
    const bool nests = (kind == OBJECT || kind == ARRAY) && depth < DEPTH_MAX;
    buf_z(out, SPACES[fuzz_choice(rest, 4)]);
    if (nests) {
        buf_char(out, kind == OBJECT ? '{' : '[');
        for (unsigned i = 0, n = fuzz_choice(rest, 5); i < n && *left; i++) {
            --*left;
            buf_z(out, i ? "," : "");
            if (kind == OBJECT)
                buf_printf(out, "\"%u\":", i);
            put_value(rest, depth + 1, left, out);
        }
        buf_char(out, kind == OBJECT ? '}' : ']');
    } else if (kind == NUMBER) {
        put_number(rest, out);
    } else if (kind == TRUE || kind == NIL) {
        buf_z(out, kind == TRUE ? "true" : "null");
    } else {
        put_string(rest, out);
    }
    buf_z(out, SPACES[fuzz_choice(rest, 4)]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct str text = fuzz_view(data, size);
    bool arrived = look(text);
    if (!arrived && size < ROOM / 16) {
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        unsigned left = VALUES_MAX;
        struct str rest = text;
        put_value(&rest, 0, &left, &made);
        must(!made.failed, "room");
        arrived = look(buf_view(&made));
    }
    fuzz_arrived(arrived);
    return 0;
}
