#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/uri.h"
#include "gate/renewal.h"

struct judgement *judgement_new(const struct gate *gate, const char *id)
{
    struct judgement *j = block_take(sizeof *j);
    if (!j)
        return NULL;
    memset(j, 0, offsetof(struct judgement, ring.keys));
    j->gate = gate;
    j->rules = rules_ref(gate->rules);
    decision_init(&j->decision);
    if (id) /* the rest of it is zero */
        memcpy(j->decision.id, id, strnlen(id, sizeof j->decision.id - 1));
    j->decision.rules_hash = j->rules->hash;
    j->decision.reason = REASON_INTERNAL; /* until something was judged */
    return j;
}

void judgement_free(struct judgement *j)
{
    if (!j)
        return;
    replay_cancel(&j->spending);
    decision_clear(&j->decision);
    keyring_clear(&j->ring);
    request_doc_free(j->doc);
    renewal_free(j->renewal);
    buf_free(&j->path_user);
    buf_free(&j->path_room);
    rules_unref(j->rules);
    block_give(j->target);
    block_give(j);
}

static char *head_put(char *at, struct str *s)
{
    if (!s->p)
        return at;
    memcpy(at, s->p, s->n);
    s->p = at;
    return at + s->n;
}

/* The three texts one after the other in j->target, which they then are views of. */
static bool copy_head(struct judgement *j, const struct gate_head *head)
{
    j->target = block_take(head->target.n + head->method.n + head->content_type.n + 1);
    if (!j->target)
        return false;
    j->head = *head;
    char *at = head_put(j->target, &j->head.target);
    at = head_put(at, &j->head.method);
    head_put(at, &j->head.content_type);
    return true;
}

static struct str before(struct str s, char c)
{
    size_t n = 0;
    while (n < s.n && s.p[n] != c)
        n++;
    return (struct str){s.p, n};
}

static struct str head_after(struct str s, size_t n)
{
    n = n < s.n ? n : s.n;
    return (struct str){s.p + n, s.n - n};
}

/* `charset=utf-8`, the value quoted or not; nothing else says something that the gateway would not have to obey. */
static bool parameter_holds(struct str parameter)
{
    const struct str name = before(parameter, '=');
    struct str value = head_after(parameter, name.n + 1);
    if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"')
        value = (struct str){value.p + 1, value.n - 2};
    return str_ieq_z(name, "charset") && str_ieq_z(value, "utf-8");
}

/* RFC 9110 8.3.1. Missing is fine, empty is not. */
static bool media_type_holds(struct str s)
{
    if (!s.p)
        return true;
    const struct str type = before(s, ';');
    bool charset = false;
    if (!str_ieq_z(str_trim(type), "application/xml") && !str_ieq_z(str_trim(type), "text/xml"))
        return false;
    for (struct str rest = head_after(s, type.n + 1); rest.n > 0;) {
        const struct str part = before(rest, ';');
        const struct str parameter = str_trim(part);
        if (parameter.n > 0 && (charset || !parameter_holds(parameter)))
            return false;
        charset |= parameter.n > 0;
        rest = head_after(rest, part.n + 1);
    }
    return true;
}

static enum reason read_target(struct judgement *j)
{
    const enum reason r = resource_parse(j->head.target, &j->resource, &j->decision.found[CHECK_SCHEMA]);
    j->decision.path = j->resource.path;
    if (r != REASON_OK)
        return r;
    j->path_clear = j->resource.path;
    if (memchr(j->resource.path.p, '%', j->resource.path.n)) {
        j->path_room = BUF_INIT(j->resource.path.n + 1);
        if (!uri_percent_decode(j->resource.path, &j->path_room))
            return j->path_room.failed ? REASON_INTERNAL : REASON_HTTP_PATH;
        j->path_clear = buf_view(&j->path_room);
    }
    if (!j->resource.user_raw.p)
        return REASON_OK;
    j->path_user = BUF_INIT(j->resource.user_raw.n + 1);
    const bool decoded = uri_percent_decode(j->resource.user_raw, &j->path_user);
    if (j->path_user.failed)
        return REASON_INTERNAL;
    return decoded ? REASON_OK : REASON_HTTP_PATH;
}

static enum reason judge_head(struct judgement *j, const struct gate_head *head)
{
    if (j->target || !copy_head(j, head))
        return REASON_INTERNAL;
    ip_format(&head->source, j->decision.source);
    j->decision.method = j->head.method;
    const enum reason target = read_target(j); /* looked at first, so that the decision names the path */
    if (!str_eq_z(j->head.method, "POST"))
        return REASON_HTTP_METHOD;
    if (target != REASON_OK)
        return target;
    const bool type = media_type_holds(j->head.content_type);
    j->only_empty = !type && j->head.body == GATE_BODY_UNKNOWN;
    return j->head.content_encoded || (!type && j->head.body == GATE_BODY) ? REASON_HTTP_MEDIA_TYPE : REASON_OK;
}

enum reason gate_head(struct judgement *j, const struct gate_head *head)
{
    const enum reason r = judge_head(j, head);
    j->head_holds = r == REASON_OK;
    j->decision.reason = r;
    return r;
}
