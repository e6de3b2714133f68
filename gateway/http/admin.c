#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "http/bounds.h"
#include "http/server.h"

/* Why the gateway is not ready, in a word; NULL: it is. */
static const char *unready(const struct server *s)
{
    if (atomic_load(&s->draining))
        return "draining";
    if (!atomic_load(&s->serving))
        return "starting";
    if (keystore_age_us(s->keys) >= s->config->keys_max_age_us)
        return "keys";
    return replay_unready(s->replay, time_now_us());
}

static void count_keys(struct server *s)
{
    size_t n[2][KEY_STATES];
    keystore_count(s->keys, time_now_us(), n);
    for (int t = 0; t < 2; t++)
        for (int k = 0; k < KEY_STATES; k++) {
            struct buf label BUF_CLEANUP = BUF_INIT(256);
            metric_label(&label, "type", str_z(key_type_name((enum key_type)t)));
            buf_char(&label, ',');
            metric_label(&label, "state", str_z(key_state_name((enum key_state)k)));
            if (!label.failed)
                metric_set(METRIC_KEYS, label.p, (double)n[t][k]);
        }
}

static void rules_json(struct server *s, struct buf *out)
{
    pthread_mutex_lock(&s->lock);
    struct rules *r = rules_ref(s->rules);
    pthread_mutex_unlock(&s->lock);
    struct json j = {.out = out};
    json_object(&j, NULL);
    json_string(&j, "hash", str_z(r->hash), 0);
    json_string(&j, "file", str_z(r->file), 0);
    json_string(&j, "text", str_z(r->text), 0);
    json_end(&j);
    rules_unref(r);
}

/* Those that another part keeps are read when somebody asks. */
static void measure(struct server *s)
{
    count_keys(s);
    metric_set(METRIC_KEYS_AGE, NULL, (double)keystore_age_us(s->keys) / (double)US_PER_S);
    reload_measure(s);
    bounds_measure();
    metric_set(METRIC_IN_FLIGHT, NULL, atomic_load(&s->in_flight));
    metric_set(METRIC_CONNECTIONS, NULL, crowd_count(s->crowd));
    metric_set(METRIC_REPLAY_ENTRIES, NULL, (double)replay_count(s->replay));
}

/* A line when changes of the keys are not seen any more; what is in force goes on. */
static void write_keys_age(const struct server *s, bool known, struct buf *out)
{
    enum { TOLD_FROM_S = 5 };
    const long long age = keystore_age_us(s->keys) / US_PER_S;
    if (known && age >= TOLD_FROM_S)
        buf_printf(out, "keys: for %lld s no change of the database could be taken over; the log says why\n", age);
}

static void write_state(struct server *s, bool known, struct admin_answer *a)
{
    const char *word = unready(s);
    a->status = word ? 503 : 200;
    buf_printf(&a->body, "%s\n", word ? word : "ready");
    write_keys_age(s, known, &a->body);
    reload_write_troubles(s, known, &a->body);
    if (known)
        bounds_write(&a->body);
}

static void console(struct server *s, struct admin_answer *a)
{
    char now[TIME_TEXT];
    time_format(time_now_us(), false, now);
    pthread_mutex_lock(&s->lock);
    buf_printf(&a->body, "kmsgate %s at %s\nrules %s\n", KMSGATE_VERSION, now, s->rules->hash);
    pthread_mutex_unlock(&s->lock);
    buf_printf(&a->body, "upstream %s%s\nconnections %u, in flight %u, replay entries %zu\n", s->config->upstream.url,
               upstream_site_down(s->upstream_site) ? " (does not answer)" : "", crowd_count(s->crowd),
               atomic_load(&s->in_flight), replay_count(s->replay));
    write_state(s, true, a);
    a->status = 200;
    buf_z(&a->body, "\n/healthz\n/readyz\n/metrics\n/decisions?n=100\n/rules\n");
}

/* known: by the token, or since none is needed, and by a Host that no web page can have. */
static void route(struct server *s, struct str target, bool known, struct admin_answer *a)
{
    const char *q = memchr(target.p, '?', target.n);
    const struct str path = {target.p, q ? (size_t)(q - target.p) : target.n};
    const struct str query = q ? (struct str){q + 1, target.n - path.n - 1} : STR_MISSING;
    a->status = 200;
    a->type = "text/plain; charset=utf-8";
    if (str_eq_z(path, "/healthz")) {
        buf_z(&a->body, "ok\n");
    } else if (str_eq_z(path, "/readyz")) {
        write_state(s, known, a);
    } else if (str_eq_z(path, "/metrics")) {
        a->type = "text/plain; version=0.0.4; charset=utf-8";
        measure(s);
        metrics_write(&a->body);
    } else if (str_eq_z(path, "/decisions")) {
        admin_decisions(s, query, a);
    } else if (str_eq_z(path, "/rules")) {
        a->type = "application/json";
        rules_json(s, &a->body);
    } else if (str_eq_z(path, "/")) {
        console(s, a);
    } else {
        a->status = 404;
        buf_z(&a->body, "there are / /healthz /readyz /metrics /decisions /rules\n");
    }
}

/* The first header of this name, without blanks around; missing where there is none. */
static struct str header(struct str head, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = head.p, *end = head.p + head.n; p && p < end;) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        const struct str line = {p, lf ? (size_t)(lf - p) : (size_t)(end - p)};
        if (line.n > n && line.p[n] == ':' && str_ieq_z((struct str){line.p, n}, name))
            return str_trim((struct str){line.p + n + 1, line.n - n - 1});
        p = lf ? lf + 1 : NULL;
    }
    return STR_MISSING;
}

/* The token's place and length leak nothing: both are padded into blocks of one size. */
static bool allowed(const struct server *s, struct str head)
{
    if (!s->admin_token)
        return true;
    char due[ADMIN_TOKEN_MAX + 16] = {0}, got[ADMIN_TOKEN_MAX + 16] = {0};
    snprintf(due, sizeof due, "Bearer %s", s->admin_token);
    const struct str value = header(head, "Authorization");
    if (value.p && value.n < sizeof got)
        memcpy(got, value.p, value.n);
    const bool same = secret_equal(due, got, sizeof due);
    secret_wipe(due, sizeof due);
    secret_wipe(got, sizeof got);
    return same;
}

/* A web page that a browser on this machine shows may rename its own host to 127.0.0.1, and then read what stands
 * here; its requests still carry its name. Where there is a token, it does not know that. */
static bool host_holds(const struct server *s, struct str head)
{
    struct ip ip;
    struct str host = header(head, "Host");
    if (s->admin_token || !host.p)
        return true;
    if (host.n && *host.p == '[') {
        const char *close = memchr(host.p, ']', host.n);
        host = close ? (struct str){host.p + 1, (size_t)(close - host.p) - 1} : host;
    } else {
        const char *colon = memchr(host.p, ':', host.n);
        host.n = colon ? (size_t)(colon - host.p) : host.n;
    }
    return str_ieq_z(host, "localhost") || ip_parse(host, &ip);
}

void admin_answer(struct server *s, struct str head, struct admin_answer *a)
{
    a->status = 400;
    a->type = "text/plain; charset=utf-8";
    const char *end = memchr(head.p, '\n', head.n);
    const struct str line = {head.p, end ? (size_t)(end - head.p) : 0};
    const char *one = memchr(line.p, ' ', line.n);
    const char *two = one ? memchr(one + 1, ' ', (size_t)(line.p + line.n - one - 1)) : NULL;
    const struct str method = {line.p, one ? (size_t)(one - line.p) : 0};
    if (!two || !str_starts((struct str){two + 1, (size_t)(line.p + line.n - two - 1)}, STR("HTTP/1."))) {
        buf_z(&a->body, "this is no HTTP/1 request\n");
        return;
    }
    const struct str target = {one + 1, (size_t)(two - one - 1)};
    const bool probe = str_eq_z(target, "/healthz") || str_eq_z(target, "/readyz"); /* kubelets have no token */
    const bool known = allowed(s, head);
    a->head_only = str_eq_z(method, "HEAD");
    if (!a->head_only && !str_eq_z(method, "GET")) {
        a->status = 405;
        buf_z(&a->body, "GET and HEAD are all that is taken here\n");
    } else if (!probe && !known) {
        a->status = 401;
        buf_z(&a->body, "expected `Authorization: Bearer` and the admin_token\n");
    } else if (!probe && !host_holds(s, head)) {
        a->status = 403;
        buf_z(&a->body, "without an admin_token only addresses and localhost are taken as Host\n");
    } else {
        route(s, target, known && host_holds(s, head), a);
    }
}
