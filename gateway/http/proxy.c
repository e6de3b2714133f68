#include <evhtp/evhtp.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "base/sink.h"
#include "http/bounds.h"
#include "http/server.h"

/* BODY: the head holds. JUDGE: complete, judged in the next loop turn. SPEND: judged, and the replay memory is waited
 * for. UPSTREAM: the call runs. DONE: answered, freed one loop turn later. */
enum exchange_state { EXCHANGE_BODY, EXCHANGE_JUDGE, EXCHANGE_SPEND, EXCHANGE_UPSTREAM, EXCHANGE_DONE };
enum { SPEND_WAIT_US = 500000 }; /* at most, for the replay memory */

struct exchange {
    struct worker *worker;
    struct conn *conn; /* NULL: the client is gone */
    evhtp_request_t *request;
    enum exchange_state state;
    struct judgement *judgement;
    struct event *turn;
    char id[33];
    int64_t began_us, asked_us;
    bool counted; /* as in flight */
    bool late;    /* more are in flight than may be, of all or of its resource */
    uint64_t who;         /* whose share of in_flight it has; 0: nobody's yet */
    char retry_after[12]; /* seconds, where the breaker refused it */
};

static void on_turn(evutil_socket_t fd, short what, void *arg);
static void on_spent(void *arg, enum reason reason);

/* The only place where an exchange changes its state. */
static void enter(struct exchange *x, enum exchange_state state)
{
    if (x->state == EXCHANGE_SPEND)
        event_del(x->turn);
    x->state = state;
    if (state == EXCHANGE_JUDGE || state == EXCHANGE_DONE)
        event_active(x->turn, EV_TIMEOUT, 0);
    static const struct timeval patience = {SPEND_WAIT_US / US_PER_S, SPEND_WAIT_US % US_PER_S};
    if (state == EXCHANGE_SPEND)
        event_add(x->turn, &patience);
}

static void release(struct exchange *x)
{
    if (x->counted) {
        atomic_fetch_sub(&x->worker->server->in_flight, 1);
        shares_end(x->worker->server->shares, x->judgement->resource.kind);
    }
    shares_leave(x->worker->server->shares, x->who);
    judgement_free(x->judgement);
    if (x->turn)
        event_free(x->turn);
    free(x);
}

/* The right-most address that no trusted proxy is; unknown where the header is not a list of addresses. */
static struct ip source_of(const struct conn *c)
{
    struct ip ip = c->peer;
    const struct listen_config *l = c->listener->config;
    size_t i = c->guard.header_count;
    for (bool first = true;; first = false) {
        /* Who may connect to a Unix socket is said by its file: with trusted_proxies, that is a proxy. */
        bool trusted = first && !ip.known && l->trusted_proxy_count;
        for (size_t k = 0; ip.known && k < l->trusted_proxy_count; k++)
            trusted = trusted || cidr_contains(&l->trusted_proxies[k], &ip);
        if (!trusted)
            return ip;
        while (i > 0 && !str_ieq_z(c->guard.headers[i - 1].name, "x-forwarded-for"))
            i--;
        if (i == 0)
            return ip;
        struct str *list = &c->guard.headers[i - 1].value;
        const char *comma = list->n ? memrchr(list->p, ',', list->n) : NULL;
        const struct str last = comma ? (struct str){comma + 1, (size_t)(list->p + list->n - comma - 1)} : *list;
        if (!ip_parse(str_trim(last), &ip))
            return (struct ip){.garbled = true};
        if (comma)
            list->n = (size_t)(comma - list->p);
        else
            i--;
    }
}

static struct exchange *exchange_new(struct conn *c)
{
    struct exchange *x = calloc(1, sizeof *x);
    uint8_t random[16];
    if (!x || !random_bytes(random, sizeof random)) {
        free(x);
        return NULL;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        x->id[2 * i] = "0123456789abcdef"[random[i] >> 4];
        x->id[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
    x->worker = c->worker;
    x->conn = c;
    x->began_us = time_mono_us();
    worker_follow(c->worker);
    x->judgement = judgement_new(&c->worker->gate, x->id);
    x->turn = event_new(c->worker->base, -1, EV_TIMEOUT, on_turn, x);
    if (x->judgement && x->turn) {
        x->judgement->spending.done = on_spent;
        x->judgement->spending.arg = x;
        return x;
    }
    release(x);
    return NULL;
}

/* One line a request, whatever happened. */
static void decide(struct exchange *x, enum reason reason, int status)
{
    struct decision *d = &x->judgement->decision;
    d->reason = reason;
    d->status = status;
    if (!d->time_us || d->time_us == TIME_NONE)
        d->time_us = time_now_us();
    d->us.total = time_mono_us() - x->began_us;
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 20);
    decision_json(d, &line);
    if (!line.failed)
        sink_write(x->worker->server->sink, buf_view(&line));
    decision_count(d);
}

static const char *extra_headers(int status)
{
    return status == 405 ? "Allow: POST\r\n" : status == 503 ? "Retry-After: 1\r\n" : "";
}

bool proxy_head(struct conn *c, enum reason reason, int status)
{
    struct server *s = c->worker->server;
    struct exchange *x = c->exchange ? c->exchange : exchange_new(c);
    if (!x) {
        conn_refuse(c, 500, "-", "", STR(""));
        return false;
    }
    const bool fresh = !c->exchange;
    c->exchange = x;
    if (fresh) {
        const struct guard *g = &c->guard;
        const struct gate_head head = {
            .method = g->method.p ? g->method : STR(""),
            .target = g->target.p ? g->target : STR(""),
            .content_type = guard_header(g, "content-type"),
            .content_encoded = guard_header(g, "content-encoding").p != NULL,
            .source = source_of(c),
        };
        const enum reason judged = gate_head(x->judgement, &head);
        if (judged != REASON_OK && (reason == REASON_OK || status == 413)) { /* sizes are judged after all others */
            reason = judged;
            status = 0;
        }
        if (reason == REASON_OK && atomic_load(&s->in_flight) >= s->config->limits.in_flight) {
            bounds_hit(BOUND_IN_FLIGHT);
            reason = REASON_HTTP_BUSY;
        }
    }
    if (reason == REASON_OK)
        return true;
    struct gate_response r = {0};
    gate_refuse(x->judgement, reason, status, time_now_us(), &r);
    conn_refuse(c, r.status, x->id, extra_headers(r.status), buf_view(&r.body));
    decide(x, reason, r.status);
    buf_free(&r.body);
    c->exchange = NULL;
    x->conn = NULL;
    enter(x, EXCHANGE_DONE);
    return false;
}

static void add_header(evhtp_request_t *r, const char *name, const char *value)
{
    evhtp_header_t *h = evhtp_header_new(name, value, 1, 1);
    if (h)
        evhtp_headers_add_header(r->headers_out, h);
}

/* Sends it, if there is still somebody to send it to, and hands the request back to evhtp. */
static void answer(struct exchange *x, enum reason reason, struct gate_response *r, const struct upstream_result *up)
{
    decide(x, reason, r->status);
    evhtp_request_t *q = x->request;
    if (x->conn) {
        char length[24];
        snprintf(length, sizeof length, "%zu", r->body.n);
        add_header(q, "Content-Type", "application/xml; charset=utf-8");
        add_header(q, "Content-Length", length);
        add_header(q, "Cache-Control", "no-store");
        add_header(q, "X-Request-Id", x->id);
        if (up && reason == REASON_UPSTREAM_ERROR && up->www_authenticate.p)
            add_header(q, "WWW-Authenticate", up->www_authenticate.p);
        if (up && reason == REASON_UPSTREAM_ERROR && up->retry_after.p)
            add_header(q, "Retry-After", up->retry_after.p);
        else if (r->status == 503)
            add_header(q, "Retry-After", "1");
        else if (x->retry_after[0])
            add_header(q, "Retry-After", x->retry_after);
        x->conn->last = !x->conn->guard.keep_alive || atomic_load(&x->worker->server->draining);
        if (x->conn->last)
            evhtp_request_disable_flag(q, EVHTP_REQ_FLAG_KEEPALIVE);
        evbuffer_add(q->buffer_out, r->body.n ? r->body.p : "", r->body.n);
        x->conn->exchange = NULL;
        const int64_t us = x->worker->server->config->limits.idle_timeout_us; /* to take the reply */
        const struct timeval tv = {us / US_PER_S, us % US_PER_S};
        event_add(x->conn->deadline, &tv);
        evhtp_send_reply(q, (evhtp_res)r->status);
        evhtp_request_resume(q);
    }
    x->conn = NULL;
    x->request = NULL;
    enter(x, EXCHANGE_DONE);
}

static void refuse(struct exchange *x, enum reason reason)
{
    struct gate_response r = {0};
    gate_refuse(x->judgement, reason, 0, time_now_us(), &r);
    answer(x, reason, &r, NULL);
    buf_free(&r.body);
}

static void on_upstream(void *arg, const struct upstream_result *result)
{
    struct exchange *x = arg;
    struct decision *d = &x->judgement->decision;
    d->upstream.us = time_mono_us() - x->asked_us;
    d->us.upstream = d->upstream.us;
    if (result->reason != REASON_OK) {
        if (result->unsent)
            gate_unsent(x->judgement);
        refuse(x, result->reason);
        return;
    }
    d->upstream.status = result->status;
    const struct gate_upstream up = {result->status, result->body};
    struct gate_response r = {0};
    const int64_t from = time_mono_us();
    const enum reason reason = gate_reply(x->judgement, &up, time_now_us(), &r);
    d->us.protect = time_mono_us() - from;
    answer(x, reason, &r, result);
    buf_free(&r.body);
}

static bool write_headers(struct exchange *x, struct upstream_call *call, const struct gate_outgoing *out)
{
    const struct guard *g = &x->conn->guard;
    bool ok = upstream_call_header(call, STR("X-Request-Id"), str_z(x->id)) &&
              upstream_call_header(call, STR("Content-Type"), out->content_type ? str_z(out->content_type) : STR(""));
    for (size_t i = 0; ok && i < out->header_count; i++)
        ok = upstream_call_header(call, str_z(out->headers[i].name), buf_view(&out->headers[i].value));
    for (size_t i = 0; ok && i < g->header_count; i++) {
        const struct guard_header *h = &g->headers[i];
        if (!h->value.n || guard_is_hop_header(g, h->name) ||
            !rules_pass_header(x->judgement->rules, x->judgement->rule, h->name))
            continue;
        ok = upstream_call_header(call, h->name, h->value);
    }
    return ok;
}

/* What was judged good goes to the upstream. */
static enum reason ask(struct exchange *x)
{
    struct gate_outgoing out = {0};
    struct conn *c = x->conn;
    enum reason r = gate_forward(x->judgement, c->guard.body.n ? buf_view(&c->guard.body) : STR(""), &out);
    if (r == REASON_OK) {
        struct upstream_call *call = upstream_call_new(x->worker->upstream, out.method, c->guard.target);
        r = REASON_INTERNAL;
        x->asked_us = time_mono_us();
        if (call && !write_headers(x, call, &out))
            upstream_call_free(call);
        else if (call)
            r = upstream_start(call, &out.body, on_upstream, x);
    }
    gate_outgoing_free(&out);
    return r;
}

/* What one proven user, or of unproven requests one source, may have in flight. */
static bool has_share(struct exchange *x)
{
    struct shares *s = x->worker->server->shares;
    const struct judgement *j = x->judgement;
    const uint64_t who = j->proven ? shares_user(s, j->request.user_uri) : shares_source(s, &j->head.source);
    if (!shares_enter(s, who)) {
        bounds_hit(BOUND_USER);
        return false;
    }
    x->who = who;
    return true;
}

/* It is judged, and the replay memory has answered. */
static void act(struct exchange *x, enum gate_action action)
{
    enum reason r = x->judgement->decision.reason;
    if (action == GATE_FORWARD) {
        enter(x, EXCHANGE_UPSTREAM);
        r = has_share(x) ? ask(x) : REASON_HTTP_BUSY;
        if (r == REASON_OK)
            return;
        gate_unsent(x->judgement);
        const unsigned seconds = upstream_retry_after(x->worker->upstream);
        if (r == REASON_UPSTREAM_UNREACHABLE)
            snprintf(x->retry_after, sizeof x->retry_after, "%u", seconds ? seconds : 1);
    }
    refuse(x, r);
}

static void on_spent(void *arg, enum reason reason)
{
    struct exchange *x = arg;
    act(x, gate_spent(x->judgement, reason));
}

static void judge(struct exchange *x)
{
    struct decision *d = &x->judgement->decision;
    const struct buf *body = &x->conn->guard.body;
    const int64_t from = time_mono_us();
    d->time_us = time_now_us();
    const enum gate_action action = gate_request(x->judgement, body->n ? buf_view(body) : STR(""), d->time_us);
    d->us.judge = time_mono_us() - from;
    if (action == GATE_WAIT)
        enter(x, EXCHANGE_SPEND);
    else
        act(x, action);
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct exchange *x = arg;
    if (x->state == EXCHANGE_SPEND) {
        replay_cancel(&x->judgement->spending);
        on_spent(x, REASON_REPLAY_UNAVAILABLE);
    } else if (x->state != EXCHANGE_JUDGE) {
        release(x);
    } else if (!x->conn) { /* the connection was cut meanwhile */
        decide(x, REASON_HTTP_TIMEOUT, 408);
        release(x);
    } else if (x->late) {
        refuse(x, REASON_HTTP_BUSY);
    } else {
        judge(x);
    }
}

void proxy_complete(struct conn *c, evhtp_request_t *request)
{
    struct exchange *x = c->exchange;
    struct server *s = c->worker->server;
    x->request = request;
    x->counted = true; /* from now on: a slow body takes a connection, but nobody else's place here */
    x->late = atomic_fetch_add(&s->in_flight, 1) >= s->config->limits.in_flight;
    const bool fair = shares_begin(s->shares, x->judgement->resource.kind);
    if (x->late || !fair)
        bounds_hit(x->late ? BOUND_IN_FLIGHT : BOUND_RESOURCE);
    x->late = x->late || !fair;
    enter(x, EXCHANGE_JUDGE);
}

void proxy_vanished(struct conn *c)
{
    struct exchange *x = c->exchange;
    c->exchange = NULL;
    if (!x)
        return;
    x->conn = NULL;
    x->request = NULL;
    if (x->state == EXCHANGE_SPEND)
        replay_cancel(&x->judgement->spending);
    else if (x->state != EXCHANGE_BODY)
        return; /* JUDGE ends at its turn, UPSTREAM when the call ends */
    decide(x, REASON_HTTP_TIMEOUT, 408);
    enter(x, EXCHANGE_DONE);
}
