#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "base/sink.h"
#include "http/bounds.h"
#include "http/captures.h"
#include "http/server.h"
#include "http/census.h"
#include "http/trace.h"

/* BODY: the head holds. JUDGE: complete. LOOK: judged, and changes of the keys are looked for. SPEND: judged, and the
 * replay memory is waited for. UPSTREAM: the call runs. KEEP: it was answered, and the keeper of the keys is waited
 * for. */
enum exchange_state { EXCHANGE_BODY, EXCHANGE_JUDGE, EXCHANGE_LOOK, EXCHANGE_SPEND, EXCHANGE_UPSTREAM, EXCHANGE_KEEP };
enum { WAIT_US = 500000 }; /* at most, in LOOK and KEEP */
#define REPLY_TYPE "application/xml; charset=utf-8"

struct exchange {
    struct worker *worker;
    struct conn *conn; /* NULL: the client is gone */
    enum exchange_state state;
    struct judgement *judgement;
    struct event patience;   /* only while it waits: LOOK, SPEND, KEEP */
    struct keeping *keeping; /* only in LOOK and KEEP */
    int up_status;           /* the upstream's answer, while it is in KEEP */
    struct buf up_body;
    char id[33];
    struct trace trace;
    int64_t began_us, asked_us;
    bool counted; /* as in flight */
    uint64_t who; /* whose share of in_flight it has; 0: nobody's yet */
    char retry_after[12]; /* seconds, where the breaker refused it */
};

static void on_patience(evutil_socket_t fd, short what, void *arg);
static void on_spent(void *arg, enum reason reason);

static bool waits(const struct exchange *x)
{
    return x->state == EXCHANGE_LOOK || x->state == EXCHANGE_SPEND || x->state == EXCHANGE_KEEP;
}

/* The only place where an exchange changes its state. */
static void proxy_enter(struct exchange *x, enum exchange_state state)
{
    if (waits(x))
        event_del(&x->patience);
    x->state = state;
    if (!waits(x))
        return;
    const int64_t us = state != EXCHANGE_SPEND ? WAIT_US : replay_patience_us(x->worker->gate.replay);
    evtimer_assign(&x->patience, x->worker->front.base, on_patience, x);
    event_add(&x->patience, &(struct timeval){us / US_PER_S, us % US_PER_S});
}

static void exchange_free(struct exchange *x)
{
    if (x->counted) {
        atomic_fetch_sub(&x->worker->server->in_flight, 1);
        shares_end(x->worker->server->shares, x->judgement->resource.kind);
    }
    shares_leave(x->worker->server->shares, x->who);
    judgement_free(x->judgement);
    buf_free(&x->up_body);
    block_give(x);
}

bool proxy_trusts(const struct listen_config *l, const struct ip *peer)
{
    bool trusted = false;
    for (size_t k = 0; peer->known && k < l->trusted_proxy_count; k++)
        trusted = trusted || cidr_contains(&l->trusted_proxies[k], peer);
    return trusted;
}

/* The right-most address that no trusted proxy is; unknown where the header is not a list of addresses. */
static struct ip source_of(const struct conn *c)
{
    const struct listen_config *l = c->front->settings->listen[c->listener->index];
    struct ip ip = c->peer;
    size_t i = c->guard.header_count;
    for (bool first = true;; first = false) {
        /* Who may connect to a Unix socket is said by its file: with trusted_proxies, that is a proxy. */
        const bool trusted = (first && !ip.known && l->trusted_proxy_count) || proxy_trusts(l, &ip);
        if (!trusted)
            return ip;
        while (i > 0 && !str_ieq_z(c->guard.headers[i - 1].name, "x-forwarded-for"))
            i--;
        if (i == 0)
            return ip;
        struct str *list = &c->guard.headers[i - 1].value;
        const char *comma = list->n ? memrchr(list->p, ',', list->n) : NULL;
        const struct str last = comma ? (struct str){comma + 1, (size_t)(list->p + list->n - comma - 1)} : *list;
        if (!ip_parse_with_port(str_trim(last), &ip))
            return (struct ip){.garbled = true};
        if (comma)
            list->n = (size_t)(comma - list->p);
        else
            i--;
    }
}

static struct exchange *exchange_new(struct conn *c)
{
    struct exchange *x = block_take(sizeof *x);
    uint8_t random[16];
    if (!x || !random_bytes(random, sizeof random)) {
        block_give(x);
        return NULL;
    }
    memset(x, 0, sizeof *x);
    for (size_t i = 0; i < sizeof random; i++) {
        x->id[2 * i] = "0123456789abcdef"[random[i] >> 4];
        x->id[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
    x->worker = worker_of(c->front);
    x->conn = c;
    x->began_us = time_mono_us();
    worker_follow(x->worker);
    x->judgement = judgement_new(&x->worker->gate, x->id);
    if (x->judgement) {
        x->judgement->spending.done = on_spent;
        x->judgement->spending.arg = x;
        return x;
    }
    exchange_free(x);
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
    struct buf *line = &x->worker->line;
    buf_reset(line);
    decision_json(d, line);
    if (!line->failed)
        sink_write(x->worker->server->sink, buf_view(line));
    decision_count(d);
    census_note(x->worker->server->census, (unsigned)(x->worker - x->worker->server->workers), x->judgement);
}

static struct str extra_headers(int status)
{
    return status == 405 ? STR("Allow: POST\r\n") : status == 503 ? STR("Retry-After: 1\r\n") : STR("");
}

bool proxy_head(struct conn *c, enum reason reason, int status)
{
    struct server *s = c->front->server;
    struct exchange *x = c->exchange ? c->exchange : exchange_new(c);
    if (!x) {
        conn_refuse(c, &(struct conn_answer){.status = 500, .type = REPLY_TYPE, .id = "-"});
        return false;
    }
    const bool fresh = !c->exchange;
    c->exchange = x;
    if (fresh) {
        const struct guard *g = &c->guard;
        trace_begin(&x->trace, g, x->id);
        memcpy(x->judgement->decision.trace_id, x->trace.id, sizeof x->trace.id);
        const struct gate_head head = {
            .method = g->method.p ? g->method : STR(""),
            .target = g->target.p ? g->target : STR(""),
            .content_type = guard_header(g, "content-type"),
            .body = g->chunked && reason == REASON_OK               ? GATE_BODY_UNKNOWN
                    : g->length == 0 && reason == REASON_OK ? GATE_BODY_NONE
                                                            : GATE_BODY, /* too large: a body */
            .content_encoded = guard_header(g, "content-encoding").p != NULL,
            .source = source_of(c),
        };
        /* Who is served counts, not who passes it on. */
        if (c->front->settings->listen[c->listener->index]->trusted_proxy_count)
            crowd_move(s->crowd, &c->place, &head.source);
        const enum reason judged = gate_head(x->judgement, &head);
        c->guard.only_empty = x->judgement->only_empty;
        if (judged != REASON_OK && (reason == REASON_OK || status == 413)) { /* sizes are judged after all others */
            reason = judged;
            status = 0;
        }
        if (reason == REASON_OK && atomic_load(&s->in_flight) >= c->front->settings->config->limits.in_flight) {
            bounds_hit(BOUND_IN_FLIGHT);
            reason = REASON_HTTP_BUSY;
        }
    }
    if (reason == REASON_OK)
        return true;
    struct gate_response r = {0};
    gate_refuse(x->judgement, reason, status, time_now_us(), &r);
    decide(x, reason, r.status);
    c->exchange = NULL;
    const struct conn_answer a = {.status = r.status,
                                  .type = REPLY_TYPE,
                                  .id = x->id,
                                  .extra = extra_headers(r.status),
                                  .body = r.body.n ? buf_view(&r.body) : STR("")};
    conn_refuse(c, &a);
    buf_free(&r.body);
    exchange_free(x);
    return false;
}

/* Sends it, if there is still somebody to send it to; the exchange is over. */
static void proxy_answer(struct exchange *x, enum reason reason, const struct gate_response *r,
                         const struct upstream_result *up)
{
    struct conn *c = x->conn;
    decide(x, reason, r->status);
    if (c) {
        struct buf extra BUF_CLEANUP = BUF_INIT(16 << 10);
        if (up && reason == REASON_UPSTREAM_ERROR && up->www_authenticate.p)
            buf_printf(&extra, "WWW-Authenticate: %s\r\n", up->www_authenticate.p);
        if (up && reason == REASON_UPSTREAM_ERROR && up->retry_after.p)
            buf_printf(&extra, "Retry-After: %s\r\n", up->retry_after.p);
        else if (r->status != 503 && x->retry_after[0])
            buf_printf(&extra, "Retry-After: %s\r\n", x->retry_after);
        else if (r->status == 503)
            buf_str(&extra, extra_headers(503));
        c->exchange = NULL;
        const struct conn_answer a = {
            .status = r->status,
            .type = REPLY_TYPE,
            .id = x->id,
            .extra = extra.n ? buf_view(&extra) : STR(""),
            .body = r->body.n ? buf_view(&r->body) : STR(""),
            .last = !c->guard.keep_alive || atomic_load(&x->worker->server->draining),
        };
        conn_reply(c, &a);
    }
    exchange_free(x);
}

static void proxy_refuse(struct exchange *x, enum reason reason)
{
    struct gate_response r = {0};
    gate_refuse(x->judgement, reason, 0, time_now_us(), &r);
    proxy_answer(x, reason, &r, NULL);
    buf_free(&r.body);
}

static void on_kept(void *arg, const struct key_fate *v, size_t n);

/* New keys are to be committed first. The upstream's answer is kept until then. */
static void proxy_keep(struct exchange *x, const struct gate_upstream *up)
{
    const struct key_wish *wishes;
    const size_t n = gate_wishes(x->judgement, &wishes);
    x->up_status = up->status;
    x->up_body = BUF_INIT_KEYS(up->body.n + 1);
    buf_str(&x->up_body, up->body);
    if (x->up_body.failed) {
        proxy_refuse(x, REASON_INTERNAL);
        return;
    }
    proxy_enter(x, EXCHANGE_KEEP);
    x->keeping = keeping_ask(x->worker, wishes, n, on_kept, x);
    if (!x->keeping)
        on_kept(x, NULL, 0);
}

/* up: of its headers, what goes on to the client with an error; NULL: it is none. */
static void reply(struct exchange *x, const struct gate_upstream *up, const struct upstream_result *result)
{
    struct decision *d = &x->judgement->decision;
    struct gate_response r = {0};
    const int64_t from = time_mono_us();
    const enum reason reason = gate_reply(x->judgement, up, time_now_us(), &r);
    d->us.protect += time_mono_us() - from;
    if (r.waits)
        proxy_keep(x, up);
    else
        proxy_answer(x, reason, &r, result);
    buf_free(&r.body);
}

static void on_kept(void *arg, const struct key_fate *v, size_t n)
{
    struct exchange *x = arg;
    x->keeping = NULL;
    proxy_enter(x, EXCHANGE_UPSTREAM);
    gate_granted(x->judgement, v, n);
    reply(x, &(struct gate_upstream){x->up_status, buf_view(&x->up_body)}, NULL);
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
        proxy_refuse(x, result->reason);
        return;
    }
    d->us.protect = 0;
    reply(x, &(struct gate_upstream){result->status, result->body}, result);
}

static bool write_headers(struct exchange *x, struct upstream_call *call, const struct gate_outgoing *out)
{
    const struct guard *g = &x->conn->guard;
    char parent[TRACE_PARENT_TEXT];
    bool ok = trace_parent(&x->trace, parent) && upstream_call_header(call, STR("traceparent"), str_z(parent)) &&
              upstream_call_header(call, STR("X-Request-Id"), str_z(x->id)) &&
              upstream_call_header(call, STR("Content-Type"), out->content_type ? str_z(out->content_type) : STR(""));
    for (size_t i = 0; ok && i < out->header_count; i++)
        ok = upstream_call_header(call, str_z(out->headers[i].name), buf_view(&out->headers[i].value));
    for (size_t i = 0; ok && i < g->header_count; i++) {
        const struct guard_header *h = &g->headers[i];
        if (!h->value.n || guard_is_hop_header(g, h->name) ||
            !rules_pass_header(x->judgement->rules, x->judgement->rule, h->name) ||
            (!x->trace.clients && str_ieq_z(h->name, "tracestate"))) /* it is of another trace */
            continue;
        ok = upstream_call_header(call, h->name, h->value);
    }
    return ok;
}

/* What was judged good goes to the upstream. */
static enum reason proxy_ask(struct exchange *x)
{
    struct gate_outgoing out = {0};
    struct guard *g = &x->conn->guard;
    enum reason r = gate_forward(x->judgement, g->body.n ? buf_view(&g->body) : STR(""), &out);
    if (r == REASON_OK) {
        struct upstream *u = x->worker->upstream;
        struct upstream_call *call = upstream_call_new(u, x->judgement->resource.kind, out.method, g->target);
        r = REASON_INTERNAL;
        x->asked_us = time_mono_us();
        if (call && !write_headers(x, call, &out)) {
            upstream_call_free(call);
        } else if (call) {
            if ((r = upstream_start(call, &out.body, on_upstream, x)) == REASON_OK)
                guard_forget_body(g);
        }
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

/* A rule with `capture: on` refuses it. */
static void capture(struct exchange *x)
{
    const struct judgement *j = x->judgement;
    const struct buf *body = x->conn ? &x->conn->guard.body : NULL;
    if (!j->rule || !j->rule->capture || !body || !body->n)
        return;
    const struct capture what = {x->id, buf_view(body), j->head.target, j->head.source, j->decision.time_us};
    x->judgement->decision.captured = captures_keep(x->worker->server->captures, &what);
}

/* It is judged, and the replay memory has answered. */
static void act(struct exchange *x, enum gate_action action)
{
    enum reason r = x->judgement->decision.reason;
    if (action == GATE_FORWARD) {
        proxy_enter(x, EXCHANGE_UPSTREAM);
        keeping_confirm(x->worker, x->judgement);
        r = has_share(x) ? proxy_ask(x) : REASON_HTTP_BUSY;
        if (r == REASON_OK)
            return;
        gate_unsent(x->judgement);
        const unsigned seconds = upstream_retry_after(x->worker->upstream);
        if (r == REASON_UPSTREAM_UNREACHABLE)
            snprintf(x->retry_after, sizeof x->retry_after, "%u", seconds ? seconds : 1);
    } else {
        capture(x);
    }
    proxy_refuse(x, r);
}

static void on_spent(void *arg, enum reason reason)
{
    struct exchange *x = arg;
    proxy_enter(x, EXCHANGE_JUDGE); /* it waits no longer */
    act(x, gate_spent(x->judgement, reason));
}

static void on_looked(void *arg, const struct key_fate *v, size_t n)
{
    struct exchange *x = arg;
    const int64_t from = time_mono_us();
    (void)v, (void)n;
    x->keeping = NULL;
    shares_leave(x->worker->server->shares, x->who);
    x->who = 0;
    proxy_enter(x, EXCHANGE_JUDGE);
    const enum gate_action action = gate_looked(x->judgement);
    x->judgement->decision.us.judge += time_mono_us() - from;
    if (action == GATE_WAIT)
        proxy_enter(x, EXCHANGE_SPEND);
    else
        act(x, action);
}

/* Whoever it comes from, nobody may fill the places of all with what waits only to be refused. */
static void proxy_look(struct exchange *x)
{
    struct shares *s = x->worker->server->shares;
    const uint64_t who = shares_source(s, &x->judgement->head.source);
    proxy_enter(x, EXCHANGE_LOOK);
    if (shares_enter(s, who)) {
        x->who = who;
        x->keeping = keeping_look(x->worker, on_looked, x);
    }
    if (!x->keeping)
        on_looked(x, NULL, 0);
}

static void proxy_judge(struct exchange *x)
{
    struct decision *d = &x->judgement->decision;
    const struct buf *body = &x->conn->guard.body;
    const int64_t from = time_mono_us();
    d->time_us = time_now_us();
    const enum gate_action action = gate_request(x->judgement, body->n ? buf_view(body) : STR(""), d->time_us);
    d->us.judge = time_mono_us() - from;
    if (action == GATE_WAIT && x->judgement->looking)
        proxy_look(x);
    else if (action == GATE_WAIT)
        proxy_enter(x, EXCHANGE_SPEND);
    else
        act(x, action);
}

static void on_patience(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct exchange *x = arg;
    if (x->state != EXCHANGE_SPEND) {
        keeping_cancel(x->keeping);
        (x->state == EXCHANGE_KEEP ? on_kept : on_looked)(x, NULL, 0);
        return;
    }
    replay_cancel(&x->judgement->spending);
    on_spent(x, REASON_REPLAY_UNAVAILABLE);
}

void proxy_complete(struct conn *c)
{
    struct exchange *x = c->exchange;
    struct server *s = c->front->server;
    proxy_enter(x, EXCHANGE_JUDGE);
    x->counted = true; /* from now on: a slow body takes a connection, but nobody else's place here */
    const bool late = atomic_fetch_add(&s->in_flight, 1) >= c->front->settings->config->limits.in_flight;
    const bool fair = shares_begin(s->shares, x->judgement->resource.kind);
    if (late || !fair) {
        bounds_hit(late ? BOUND_IN_FLIGHT : BOUND_RESOURCE);
        proxy_refuse(x, REASON_HTTP_BUSY);
    } else {
        proxy_judge(x);
    }
}

void proxy_vanished(struct conn *c)
{
    struct exchange *x = c->exchange;
    c->exchange = NULL;
    if (!x)
        return;
    x->conn = NULL;
    if (x->state == EXCHANGE_SPEND) {
        replay_cancel(&x->judgement->spending);
        proxy_enter(x, EXCHANGE_JUDGE); /* no longer waited for */
    } else if (x->state == EXCHANGE_KEEP || x->state == EXCHANGE_LOOK) {
        keeping_cancel(x->keeping); /* what is committed all the same is sent with the next reply */
        proxy_enter(x, EXCHANGE_JUDGE);
    } else if (x->state != EXCHANGE_BODY) {
        return; /* it ends when its call ends */
    }
    decide(x, REASON_HTTP_TIMEOUT, 408);
    exchange_free(x);
}
