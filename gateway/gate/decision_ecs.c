/* A decision's line in the Elastic Common Schema 8.11: what the schema has a field for stands there, the rest under
 * `kmsgate`. Made from the finished line by the thread that writes it, so that serving does not pay for it. */
#include <stdlib.h>
#include <string.h>

#include "base/net.h"
#include "gate/decision.h"

#define ECS_VERSION "8.11.0"

/* Members of the line that have a place of their own in the schema. */
static const char *const PLACED[] = {"time", "id",     "source", "method", "path",  "rule",    "user",
                                     "verdict", "reason", "status", "trace_id", "rules"};

static bool is_placed(struct str key)
{
    for (size_t i = 0; i < sizeof PLACED / sizeof *PLACED; i++)
        if (str_eq_z(key, PLACED[i]))
            return true;
    return false;
}

static struct str line_text(const struct json_value *line, const char *key)
{
    const struct json_value *v = json_get(line, key);
    return v && (v->kind == JSON_STRING || v->kind == JSON_NUMBER) ? v->text : (struct str){NULL, 0};
}

static double line_number(const struct json_value *line, const char *key)
{
    char z[32] = "";
    const struct str s = line_text(line, key);
    if (s.p && s.n < sizeof z)
        memcpy(z, s.p, s.n);
    return strtod(z, NULL);
}

static void copy_value(struct json *j, const char *key, const struct json_value *v, unsigned depth);

static void copy_members(struct json *j, const struct json_value *v, unsigned depth)
{
    for (const struct json_value *m = v->first; m; m = m->next) {
        char key[64] = "";
        if (m->key.n < sizeof key && m->key.n)
            memcpy(key, m->key.p, m->key.n);
        copy_value(j, m->key.p ? key : NULL, m, depth);
    }
}

static void copy_number(struct json *j, const char *key, struct str text)
{
    char z[32] = "";
    if (text.p && text.n < sizeof z)
        memcpy(z, text.p, text.n);
    if (strchr(z, '.'))
        json_number(j, key, strtod(z, NULL), 3);
    else
        json_int(j, key, strtoll(z, NULL, 10));
}

/* The line's own nesting is 2. */
static void copy_value(struct json *j, const char *key, const struct json_value *v, unsigned depth)
{
    if (depth > 4)
        return;
    if (v->kind == JSON_STRING)
        json_string(j, key, v->text, 0);
    else if (v->kind == JSON_BOOL)
        json_bool(j, key, str_eq_z(v->text, "true"));
    else if (v->kind == JSON_NUMBER)
        copy_number(j, key, v->text);
    else if (v->kind == JSON_ARRAY || v->kind == JSON_OBJECT) {
        (v->kind == JSON_ARRAY ? json_array : json_object)(j, key);
        copy_members(j, v, depth + 1);
        json_end(j);
    }
}

static void one(struct json *j, const char *object, const char *key, struct str value)
{
    if (!value.p)
        return;
    json_object(j, object);
    json_string(j, key, value, 0);
    json_end(j);
}

static void ecs_event(struct json *j, const struct json_value *line)
{
    const bool accepted = str_eq_z(line_text(line, "verdict"), "accept");
    const bool ok = accepted && str_eq_z(line_text(line, "reason"), "ok");
    const struct json_value *ms = json_get(line, "ms");
    json_object(j, "event");
    json_string(j, "kind", STR("event"), 0);
    json_array(j, "category");
    json_string(j, NULL, STR("network"), 0); /* the schema has `allowed` and `denied` for it */
    json_string(j, NULL, STR("web"), 0);
    json_end(j);
    json_array(j, "type");
    json_string(j, NULL, STR("access"), 0);
    json_string(j, NULL, accepted ? STR("allowed") : STR("denied"), 0);
    json_end(j);
    json_string(j, "module", STR("kmsgate"), 0);
    json_string(j, "dataset", STR("kmsgate.decision"), 0);
    json_string(j, "action", line_text(line, "verdict"), 0);
    json_string(j, "outcome", ok ? STR("success") : STR("failure"), 0);
    json_string(j, "reason", line_text(line, "reason"), 0);
    json_string(j, "id", line_text(line, "id"), 0);
    if (ms && json_get(ms, "total"))
        json_int(j, "duration", (int64_t)(line_number(ms, "total") * 1e6 + 0.5)); /* nanoseconds */
    json_end(j);
}

static void ecs_http(struct json *j, const struct json_value *line)
{
    json_object(j, "http");
    json_object(j, "request");
    json_string(j, "id", line_text(line, "id"), 0);
    json_string(j, "method", line_text(line, "method"), 0);
    json_end(j);
    if (json_get(line, "status")) {
        json_object(j, "response");
        json_int(j, "status_code", (int64_t)line_number(line, "status"));
        json_end(j);
    }
    json_end(j);
}

static void ecs_source(struct json *j, struct str source)
{
    struct ip ip;
    if (!source.p)
        return;
    json_object(j, "source");
    json_string(j, "address", source, 0);
    if (ip_parse(source, &ip))
        json_string(j, "ip", source, 0);
    json_end(j);
}

static void ecs_rule(struct json *j, const struct json_value *line)
{
    const struct str id = line_text(line, "rule"), set = line_text(line, "rules");
    if (!id.p && !set.p)
        return;
    json_object(j, "rule");
    json_string(j, "id", id, 0);
    json_string(j, "version", set, 0);
    json_end(j);
}

bool decision_ecs(struct str line, struct buf *out)
{
    size_t at;
    const char *why;
    struct json_doc *doc = json_read(line, &at, &why);
    if (!doc || json_root(doc)->kind != JSON_OBJECT) {
        json_free(doc);
        return false;
    }
    const struct json_value *v = json_root(doc);
    struct json j = {.out = out};
    json_object(&j, NULL);
    json_string(&j, "@timestamp", line_text(v, "time"), 0);
    one(&j, "ecs", "version", STR(ECS_VERSION));
    ecs_event(&j, v);
    ecs_source(&j, line_text(v, "source"));
    ecs_http(&j, v);
    one(&j, "url", "path", line_text(v, "path"));
    one(&j, "user", "id", line_text(v, "user"));
    ecs_rule(&j, v);
    one(&j, "trace", "id", line_text(v, "trace_id"));
    json_object(&j, "kmsgate");
    for (const struct json_value *m = v->first; m; m = m->next) {
        char key[64] = "";
        if (is_placed(m->key) || m->key.n >= sizeof key)
            continue;
        memcpy(key, m->key.p, m->key.n);
        copy_value(&j, key, m, 1);
    }
    json_end(&j);
    json_end(&j);
    json_free(doc);
    return !out->failed;
}
