/*
 * JSON: a writer that cannot produce a broken line, and a small strict reader (RFC 8259) for what users hand in.
 */
#ifndef KMSGATE_BASE_JSON_H
#define KMSGATE_BASE_JSON_H

#include "base/buf.h"

/*
 * Writer. Commas and nesting are kept by the writer; keys are literals. Strings are escaped, bytes that are no UTF-8
 * become U+FFFD.
 *
 *     struct json j = {.out = &b};
 *     json_object(&j, NULL); json_string(&j, "user", user, LIMIT_DECISION_TEXT); json_end(&j);
 *
 * `key` is NULL inside arrays and at the top. Its length is the compiler's to count, since it counts those of literals
 * at once; where a key is handed on, json_put_… take it as a view, missing for none.
 */
struct json {
    struct buf *out;
    unsigned depth;
    uint64_t is_array; /* bit per level */
    uint64_t has_item; /* bit per level */
};
void json_put_object(struct json *j, struct str key);
void json_put_array(struct json *j, struct str key);
void json_put_string(struct json *j, struct str key, struct str value, size_t max);
void json_put_int(struct json *j, struct str key, int64_t value);
void json_put_number(struct json *j, struct str key, double value, int decimals);
void json_put_thousandths(struct json *j, struct str key, int64_t value);
void json_put_bool(struct json *j, struct str key, bool value);

static inline __attribute__((always_inline)) struct str json_key(const char *key)
{
    return (struct str){key, key ? strlen(key) : 0};
}
static inline void json_object(struct json *j, const char *key)
{
    json_put_object(j, json_key(key));
}
static inline void json_array(struct json *j, const char *key)
{
    json_put_array(j, json_key(key));
}
void json_end(struct json *j);
/* A missing string writes nothing. max: cut to so many bytes (0: no cut), never inside a character. */
static inline void json_string(struct json *j, const char *key, struct str value, size_t max)
{
    json_put_string(j, json_key(key), value, max);
}
static inline void json_int(struct json *j, const char *key, int64_t value)
{
    json_put_int(j, json_key(key), value);
}
static inline void json_number(struct json *j, const char *key, double value, int decimals)
{
    json_put_number(j, json_key(key), value, decimals);
}
/* value / 1000, with three decimals. */
static inline void json_thousandths(struct json *j, const char *key, int64_t value)
{
    json_put_thousandths(j, json_key(key), value);
}
static inline void json_bool(struct json *j, const char *key, bool value)
{
    json_put_bool(j, json_key(key), value);
}
/* A value, or a member with its key, as this writer wrote it before. */
void json_again(struct json *j, struct str text);

/*
 * Reader of one flat or nested value into a tree; strings are decoded. Depth at most 16. All memory, which may hold key
 * text, is wiped by json_free(). On a fault returns NULL and sets *at (byte offset) and *why (a literal).
 */
enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
struct json_value {
    enum json_kind kind;
    struct str text;   /* STRING: decoded; NUMBER, BOOL: as written */
    struct str key;    /* when a member of an object; duplicate keys are refused */
    struct json_value *first, *next;
    size_t at;
};
struct json_doc;
struct json_doc *json_read(struct str text, size_t *at, const char **why);
const struct json_value *json_root(const struct json_doc *doc);
const struct json_value *json_get(const struct json_value *object, const char *key); /* NULL when absent */
void json_free(struct json_doc *doc);

#endif
