#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

enum {
    DEPTH_MAX = 16,
    MEMBERS_MAX = 4096, /* of one object: looking for doubled keys is quadratic in them */
    CHUNK_VALUES = 64,
};

struct chunk {
    struct chunk *next;
    struct json_value v[CHUNK_VALUES];
};
struct json_doc {
    struct json_value *root;
    struct chunk *chunks;
    size_t used; /* of the first chunk */
    char *texts; /* all decoded strings: never longer than the text that they were read from */
    size_t cap, n;
};

struct reading {
    struct json_doc *doc;
    struct str s;
    size_t at;
    const char *why; /* NULL: no fault yet */
    unsigned depth;
};

static struct json_value *json_fault(struct reading *r, const char *why)
{
    r->why = r->why ? r->why : why;
    return NULL;
}

static struct json_value *new_value(struct reading *r, enum json_kind kind)
{
    struct json_doc *d = r->doc;
    if (!d->chunks || d->used == CHUNK_VALUES) {
        struct chunk *more = calloc(1, sizeof *more);
        if (!more)
            return json_fault(r, "out of memory");
        more->next = d->chunks;
        d->chunks = more;
        d->used = 0;
    }
    struct json_value *v = &d->chunks->v[d->used++];
    *v = (struct json_value){.kind = kind, .at = r->at};
    return v;
}

static void json_space(struct reading *r)
{
    while (r->at < r->s.n && strchr(" \t\r\n", r->s.p[r->at]) && r->s.p[r->at])
        r->at++;
}

static bool next_is(struct reading *r, char c)
{
    if (r->at >= r->s.n || r->s.p[r->at] != c)
        return false;
    r->at++;
    return true;
}

static void json_put(struct reading *r, const void *p, size_t n)
{
    memcpy(r->doc->texts + r->doc->n, p, n);
    r->doc->n += n;
}

static bool hex4(struct reading *r, unsigned *out)
{
    uint8_t two[2];
    size_t n;
    if (r->s.n - r->at < 4 || !hex_decode((struct str){r->s.p + r->at, 4}, two, sizeof two, &n))
        return false;
    *out = (unsigned)two[0] << 8 | two[1];
    r->at += 4;
    return true;
}

static void put_character(struct reading *r, unsigned c)
{
    unsigned char b[4];
    size_t n = 0;
    if (c < 0x80) {
        b[n++] = (unsigned char)c;
    } else if (c < 0x800) {
        b[n++] = (unsigned char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        b[n++] = (unsigned char)(0xe0 | c >> 12);
        b[n++] = (unsigned char)(0x80 | (c >> 6 & 63));
    } else {
        b[n++] = (unsigned char)(0xf0 | c >> 18);
        b[n++] = (unsigned char)(0x80 | (c >> 12 & 63));
        b[n++] = (unsigned char)(0x80 | (c >> 6 & 63));
    }
    if (c >= 0x80)
        b[n++] = (unsigned char)(0x80 | (c & 63));
    json_put(r, b, n);
}

/* What follows \u: one character, which may take two escapes (RFC 8259, section 7). */
static bool unicode_escape(struct reading *r)
{
    unsigned c, low;
    if (!hex4(r, &c) || (c >= 0xdc00 && c <= 0xdfff))
        return false;
    if (c >= 0xd800 && c <= 0xdbff) {
        if (!next_is(r, '\\') || !next_is(r, 'u') || !hex4(r, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    put_character(r, c);
    return true;
}

static bool escape(struct reading *r)
{
    static const char FROM[] = "\"\\/bfnrt", TO[] = "\"\\/\b\f\n\r\t";
    if (next_is(r, 'u'))
        return unicode_escape(r);
    const char *known = r->at < r->s.n && r->s.p[r->at] ? strchr(FROM, r->s.p[r->at]) : NULL;
    if (!known)
        return false;
    json_put(r, TO + (known - FROM), 1);
    r->at++;
    return true;
}

/* The string whose first quote has been read. */
static bool read_string(struct reading *r, struct str *out)
{
    const size_t from = r->doc->n;
    for (;;) {
        if (r->at >= r->s.n)
            return json_fault(r, "a string has no end");
        const unsigned char c = (unsigned char)r->s.p[r->at];
        if (c == '"')
            break;
        if (c == '\\') {
            r->at++;
            if (!escape(r))
                return json_fault(r, "an escape in a string is malformed");
            continue;
        }
        const size_t n = str_utf8_length((struct str){r->s.p + r->at, r->s.n - r->at});
        if (c < 0x20 || !n)
            return json_fault(r, c < 0x20 ? "a control character in a string" : "the text is not UTF-8");
        json_put(r, r->s.p + r->at, n);
        r->at += n;
    }
    r->at++;
    *out = (struct str){r->doc->texts + from, r->doc->n - from};
    return true;
}

static size_t read_digits(struct reading *r)
{
    const size_t from = r->at;
    while (r->at < r->s.n && r->s.p[r->at] >= '0' && r->s.p[r->at] <= '9')
        r->at++;
    return r->at - from;
}

static struct json_value *json_written(struct reading *r, enum json_kind kind, size_t from)
{
    struct json_value *v = new_value(r, kind);
    if (!v)
        return NULL;
    v->at = from;
    v->text = (struct str){r->doc->texts + r->doc->n, r->at - from};
    json_put(r, r->s.p + from, r->at - from);
    return v;
}

static struct json_value *read_number(struct reading *r)
{
    const size_t from = r->at;
    next_is(r, '-');
    const bool zero = r->at < r->s.n && r->s.p[r->at] == '0';
    const size_t digits = read_digits(r);
    bool good = digits == 1 || (digits && !zero);
    if (good && next_is(r, '.'))
        good = read_digits(r) > 0;
    if (good && (next_is(r, 'e') || next_is(r, 'E'))) {
        if (!next_is(r, '+'))
            next_is(r, '-');
        good = read_digits(r) > 0;
    }
    return good ? json_written(r, JSON_NUMBER, from) : json_fault(r, "a value is expected");
}

static struct json_value *read_word(struct reading *r)
{
    static const struct {
        struct str word;
        enum json_kind kind;
    } WORDS[] = {{{"true", 4}, JSON_BOOL}, {{"false", 5}, JSON_BOOL}, {{"null", 4}, JSON_NULL}};
    const size_t from = r->at;
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        if (str_starts((struct str){r->s.p + from, r->s.n - from}, WORDS[i].word)) {
            r->at += WORDS[i].word.n;
            return json_written(r, WORDS[i].kind, from);
        }
    return read_number(r);
}

static struct json_value *read_value(struct reading *r);

/* "key": of a member; refuses a key that `object` has already. */
static bool read_key(struct reading *r, const struct json_value *object, struct str *key)
{
    size_t n = 0;
    json_space(r);
    const size_t at = r->at;
    if (!next_is(r, '"')) {
        json_fault(r, "a key in quotes is expected");
        return false;
    }
    if (!read_string(r, key))
        return false;
    const struct json_value *same = object->first;
    for (; same && !str_eq(same->key, *key); same = same->next)
        n++;
    if (same || n == MEMBERS_MAX) {
        r->at = at;
        json_fault(r, same ? "a key stands twice in an object" : "an object has too many members");
        return false;
    }
    json_space(r);
    if (!next_is(r, ':'))
        json_fault(r, "`:` is expected");
    return !r->why;
}

/* The members of an array or object whose opening bracket has been read. */
static struct json_value *read_members(struct reading *r, struct json_value *v)
{
    const bool object = v->kind == JSON_OBJECT;
    const char close = object ? '}' : ']';
    struct json_value **last = &v->first;
    json_space(r);
    if (next_is(r, close))
        return v;
    do {
        struct str key = STR_MISSING;
        if (object && !read_key(r, v, &key))
            return NULL;
        struct json_value *member = read_value(r);
        if (!member)
            return NULL;
        member->key = key;
        *last = member;
        last = &member->next;
        json_space(r);
    } while (next_is(r, ','));
    return next_is(r, close) ? v : json_fault(r, object ? "`,` or `}` is expected" : "`,` or `]` is expected");
}

static struct json_value *read_nested(struct reading *r, enum json_kind kind)
{
    struct json_value *v = new_value(r, kind);
    if (!v)
        return NULL;
    if (r->depth == DEPTH_MAX)
        return json_fault(r, "nested too deep");
    r->at++;
    r->depth++;
    v = read_members(r, v);
    r->depth--;
    return v;
}

static struct json_value *read_value(struct reading *r)
{
    json_space(r);
    if (r->at >= r->s.n)
        return json_fault(r, "the text ends too early");
    switch (r->s.p[r->at]) {
    case '{': return read_nested(r, JSON_OBJECT);
    case '[': return read_nested(r, JSON_ARRAY);
    case '"': {
        struct json_value *v = new_value(r, JSON_STRING);
        r->at++;
        return v && read_string(r, &v->text) ? v : NULL;
    }
    default: return read_word(r);
    }
}

struct json_doc *json_read(struct str text, size_t *at, const char **why)
{
    struct json_doc *doc = calloc(1, sizeof *doc);
    if (doc)
        doc->texts = malloc(doc->cap = text.n + 1);
    if (!doc || !doc->texts) {
        free(doc);
        *at = 0;
        *why = "out of memory";
        return NULL;
    }
    struct reading r = {.doc = doc, .s = text};
    doc->root = read_value(&r);
    if (doc->root)
        json_space(&r);
    if (doc->root && r.at < text.n)
        json_fault(&r, "something follows the value");
    if (!r.why)
        return doc;
    *at = r.at;
    *why = r.why;
    json_free(doc);
    return NULL;
}

const struct json_value *json_root(const struct json_doc *doc)
{
    return doc->root;
}

const struct json_value *json_get(const struct json_value *object, const char *key)
{
    if (!object || object->kind != JSON_OBJECT)
        return NULL;
    for (const struct json_value *v = object->first; v; v = v->next)
        if (str_eq_z(v->key, key))
            return v;
    return NULL;
}

void json_free(struct json_doc *doc)
{
    if (!doc)
        return;
    for (struct chunk *c = doc->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    secret_wipe(doc->texts, doc->cap);
    free(doc->texts);
    free(doc);
}
