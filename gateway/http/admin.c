#include "base/metrics.h"
#include "http/admin.h"
#include "http/bounds.h"
#include "http/console.h"

const char *admin_unready(const struct server *s)
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

static void page_rules(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    (void)q;
    pthread_mutex_lock(&s->lock);
    struct rules *r = rules_ref(s->rules);
    pthread_mutex_unlock(&s->lock);
    struct json j = {.out = &a->body};
    a->type = "application/json";
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
    process_measure();
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
    const char *word = admin_unready(s);
    a->status = word ? 503 : 200;
    buf_printf(&a->body, "%s\n", word ? word : "ready");
    write_keys_age(s, known, &a->body);
    reload_write_troubles(s, known, &a->body);
    if (known)
        bounds_write(&a->body);
}

static void page_healthz(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    (void)s;
    (void)q;
    buf_z(&a->body, "ok\n");
}

static void page_readyz(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    write_state(s, q->known, a);
}

static void page_metrics(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    (void)q;
    a->type = "text/plain; version=0.0.4; charset=utf-8";
    measure(s);
    metrics_write(&a->body);
}

static const struct admin_route ROUTES[] = {
    {"/healthz", page_healthz, ADMIN_OPEN, NULL}, {"/readyz", page_readyz, ADMIN_OPEN, NULL},
    {"/metrics", page_metrics, ADMIN_KNOWN, NULL}, {"/decisions", admin_decisions, ADMIN_KNOWN, NULL},
    {"/sign-in", admin_signin_page, ADMIN_OPEN, admin_signin}, {"/sign-in.css", admin_signin_css, ADMIN_OPEN, NULL},
    {"/sign-out", NULL, ADMIN_OPEN, admin_signout},
    {"/rules", page_rules, ADMIN_KNOWN, NULL}, {"/", console_page, ADMIN_KNOWN, NULL},
    {"/console.js", console_page, ADMIN_KNOWN, NULL}, {"/console.css", console_page, ADMIN_KNOWN, NULL},
    {"/console/decisions.js", console_page, ADMIN_KNOWN, NULL}, {"/console/detail.js", console_page, ADMIN_KNOWN, NULL},
    {"/console/fleet.js", console_page, ADMIN_KNOWN, NULL}, {"/console/ruled.js", console_page, ADMIN_KNOWN, NULL},
    {"/console/state.js", console_page, ADMIN_KNOWN, NULL}, {"/console/text.js", console_page, ADMIN_KNOWN, NULL},
    {"/console.svg", console_page, ADMIN_KNOWN, NULL}, {"/api/state", console_page, ADMIN_KNOWN, NULL},
    {"/api/traffic", console_page, ADMIN_KNOWN, NULL}, {"/api/passes", console_page, ADMIN_KNOWN, NULL},
    {"/api/clocks", console_page, ADMIN_KNOWN, NULL}, {"/api/keys", console_page, ADMIN_KNOWN, NULL},
    {"/api/rules", console_page, ADMIN_KNOWN, NULL}, {"/api/reasons", console_page, ADMIN_KNOWN, NULL},
};

const struct admin_route *admin_route(struct str path)
{
    for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++)
        if (str_eq_z(path, ROUTES[i].path))
            return &ROUTES[i];
    return NULL;
}

/* What may be done there, for Allow. */
static const char *methods(const struct admin_route *r)
{
    return !r || (r->get && !r->post) ? "GET, HEAD" : r->get ? "GET, HEAD, POST" : "POST";
}

static bool is_get(const struct admin_request *q)
{
    return q->head_only || str_eq_z(q->conn->guard.method, "GET");
}

bool admin_admits(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    const struct guard *g = &q->conn->guard;
    const struct admin_route *r = admin_route(q->path);
    const bool post = str_eq_z(g->method, "POST"), open = r && (post || r->door == ADMIN_OPEN);
    if (post ? !r || !r->post : !is_get(q) || (r && !r->get)) {
        a->status = 405;
        buf_printf(&a->headers, "Allow: %s\r\n", methods(r));
        buf_printf(&a->body, "%s: all that is taken here\n", methods(r));
    } else if (!open && !q->known && !admin_has_token(s, g)) {
        admin_ask(q, a);
    } else if (!open && !q->known) {
        a->status = 403;
        buf_z(&a->body, "without an admin_token only addresses and localhost are taken as Host\n");
    } else if (!r) {
        a->status = 404;
        buf_z(&a->body, "there are");
        for (size_t i = 0; i < sizeof ROUTES / sizeof *ROUTES; i++)
            buf_printf(&a->body, " %s", ROUTES[i].path);
        buf_char(&a->body, '\n');
    } else {
        return true;
    }
    return false;
}

void admin_show(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    const struct admin_route *r = admin_route(q->path);
    admin_page *page = !r ? NULL : is_get(q) ? r->get : r->post;
    if (page) /* else it was not admitted */
        page(s, q, a);
}
