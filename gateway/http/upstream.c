#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "http/upstream_inside.h"

enum { PROBE_S = 2, HEAD_MAX = 1 << 20 };

static void on_deadline(evutil_socket_t fd, short what, void *arg);

void call_tell(struct upstream_call *c, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->error, sizeof c->error, format, arguments);
    va_end(arguments);
}

void upstream_tell_held(struct upstream *u, void (*held)(void *arg, size_t before, size_t now), void *arg)
{
    u->on_held = held;
    u->on_held_arg = arg;
}

void call_hold(struct upstream_call *c, size_t now)
{
    const size_t before = c->held;
    c->held = now;
    if (c->u->on_held && now != before)
        c->u->on_held(c->u->on_held_arg, before, now);
}

static void call_destroy(struct upstream_call *c)
{
    if (c->deadline)
        event_free(c->deadline);
    reply_free(&c->reply);
    buf_free(&c->head);
    buf_free(&c->out);
    free(c);
}

/* Kept for the next one, with its buffers, which are wiped: they held tokens and an older KMS's keys. */
static void call_recycle(struct upstream_call *c)
{
    struct upstream *u = c->u;
    call_hold(c, 0);
    if (u->spare_count >= UPSTREAM_SPARE_CALLS || c->head.cap > UPSTREAM_SPARE_BYTES) {
        call_destroy(c);
        return;
    }
    secret_wipe(c->head.p, c->head.n);
    buf_free(&c->out);
    reply_begin(&c->reply, 0);
    c->next = u->spare;
    u->spare = c;
    u->spare_count++;
}

void upstream_call_free(struct upstream_call *c)
{
    if (c)
        call_recycle(c);
}

static struct upstream_call *call_new(struct upstream *u)
{
    struct upstream_call *c = u->spare;
    if (c) {
        u->spare = c->next;
        u->spare_count--;
    } else if (!(c = calloc(1, sizeof *c)) || !(c->deadline = evtimer_new(u->base, on_deadline, c))) {
        free(c);
        return NULL;
    }
    c->u = u;
    c->next = NULL;
    c->link = NULL;
    c->connection = NULL;
    c->head.n = 0;
    c->head.max = HEAD_MAX;
    c->head.secret = true;
    c->head.failed = false;
    c->sent = c->address = c->addresses.n = 0;
    c->ends = c->bodiless = c->busy = c->probe = c->waits = c->asked_again = c->connected = c->touched = false;
    c->fault = REASON_OK;
    c->error[0] = '\0';
    reply_begin(&c->reply, u->site->config->max_reply);
    return c;
}

struct upstream_call *upstream_call_new(struct upstream *u, unsigned kind, const char *method, struct str target)
{
    struct upstream_call *c = call_new(u);
    if (!c)
        return NULL;
    c->kind = kind;
    c->bodiless = str_eq_z(STR("GET"), method);
    buf_z(&c->head, method);
    buf_char(&c->head, ' ');
    buf_z(&c->head, u->site->prefix);
    buf_str(&c->head, target);
    buf_z(&c->head, " HTTP/1.1\r\nHost: ");
    buf_z(&c->head, u->site->authority);
    buf_z(&c->head, "\r\n");
    if (!c->head.failed)
        return c;
    call_destroy(c);
    return NULL;
}

bool upstream_call_header(struct upstream_call *c, struct str name, struct str value)
{
    if (!framing_is_value(value))
        return false;
    if (!value.n)
        return true;
    buf_str(&c->head, name);
    buf_str(&c->head, STR(": "));
    buf_str(&c->head, value);
    buf_str(&c->head, STR("\r\n"));
    return !c->head.failed;
}

/* A length is told wherever the method has a body, also of none (RFC 9110, 8.6). */
static bool call_finish_head(struct upstream_call *c, struct buf *body)
{
    buf_free(&c->out);
    if (!c->bodiless) {
        c->out = *body;
        *body = (struct buf){0};
        c->out.secret = true;
        buf_str(&c->head, STR("Content-Length: "));
        buf_decimal(&c->head, c->out.n);
        buf_str(&c->head, STR("\r\n"));
    }
    buf_z(&c->head, "\r\n");
    if (c->u->site->tls && c->out.n) { /* one text: it is one record */
        buf_str(&c->head, buf_view(&c->out));
        buf_free(&c->out);
    }
    return !c->head.failed;
}

/* Out of the list of those that run. */
static void call_unlink(struct upstream_call *c)
{
    if (c->connection)
        connection_close(c->connection);
    if (c->busy)
        site_release(c->u->site, c->kind);
    event_del(c->deadline);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
}

static void probe_end(struct upstream_call *c, enum reason reason)
{
    struct upstream *u = c->u;
    if (!u->probed && reason == REASON_OK)
        log_info("upstream", u->site->config->url, "can be reached");
    u->probed = true;
    u->probing = false;
}

/* Ends it without a word to the log. */
static void call_finish(struct upstream_call *c, enum reason reason)
{
    struct upstream_result result = {.reason = reason, .unsent = !c->touched};
    call_unlink(c);
    if (reason == REASON_OK) {
        const struct reply_reader *r = &c->reply;
        result.status = r->status;
        result.body = r->body.n ? buf_view(&r->body) : STR("");
        result.www_authenticate = r->www_authenticate[0] ? str_z(r->www_authenticate) : STR_MISSING;
        result.retry_after = r->retry_after[0] ? str_z(r->retry_after) : STR_MISSING;
    }
    if (c->probe)
        probe_end(c, reason);
    else
        c->done(c->arg, &result);
    call_recycle(c);
}

void call_end(struct upstream_call *c, enum reason reason)
{
    if (reason != REASON_OK && !c->error[0])
        call_tell(c, "the connection was closed before the request was sent");
    if (reason != REASON_INTERNAL)
        site_note(c, reason);
    call_finish(c, reason);
}

void call_end_later(struct upstream_call *c, enum reason reason)
{
    c->fault = reason;
    c->ends = true;
    c->waits = false;
    event_active(c->deadline, EV_TIMEOUT, 0);
}

int64_t call_left_us(const struct upstream_call *c)
{
    const int64_t left = c->until_us - time_mono_us();
    return left > 0 ? left : 0;
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream_call *c = arg;
    const long long ms = (long long)(c->timeout_us / 1000);
    if (c->ends) {
        call_end(c, c->fault);
        return;
    }
    if (!c->connected)
        call_tell(c, "%s within %lld ms", c->waits ? "the name was not resolved" : "no connection", ms);
    else
        call_tell(c, c->reply.interim ? "is but 1xx for %lld ms" : "no reply within %lld ms", ms);
    /* nothing but 1xx is no silence, and no reply either */
    call_end(c, c->reply.interim ? REASON_UPSTREAM_INVALID : REASON_UPSTREAM_TIMEOUT);
}

/* From now on it runs. */
static bool call_link(struct upstream_call *c)
{
    struct upstream *u = c->u;
    const int64_t us = u->timeout_us;
    const struct timeval tv = {us / US_PER_S, us % US_PER_S};
    c->timeout_us = us;
    c->answers = atomic_load_explicit(&u->site->answers, memory_order_relaxed);
    c->until_us = time_mono_rough_us() + us;
    if (event_add(c->deadline, &tv) != 0)
        return false;
    c->next = u->calls;
    c->link = &u->calls;
    if (c->next)
        c->next->link = &c->next;
    u->calls = c;
    return true;
}

enum reason upstream_start(struct upstream_call *c, struct buf *body, upstream_done *done, void *arg)
{
    c->done = done;
    c->arg = arg;
    enum reason reason = call_finish_head(c, body) ? site_admit(c->u->site, c->kind) : REASON_INTERNAL;
    c->busy = reason == REASON_OK;
    if (reason == REASON_OK && call_link(c)) {
        pool_carry(c);
        return REASON_OK;
    }
    if (c->busy) {
        site_release(c->u->site, c->kind);
        reason = REASON_INTERNAL;
    }
    call_recycle(c);
    return reason;
}

struct upstream *upstream_new(struct event_base *base, struct upstream_site *site)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->site = site;
    u->base = base;
    if (pool_start(u))
        return u;
    upstream_free(u);
    return NULL;
}

void upstream_free(struct upstream *u)
{
    if (!u)
        return;
    while (u->calls) /* the gateway ends: nothing is known of the upstream by that */
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): each takes itself off the list */
        call_finish(u->calls, REASON_UPSTREAM_UNREACHABLE);
    if (u->probe_timer)
        event_free(u->probe_timer);
    pool_end(u);
    for (struct upstream_call *c; (c = u->spare);) {
        u->spare = c->next;
        call_destroy(c);
    }
    upstream_tls_unref(u->tls);
    free(u);
}

void upstream_use_tls(struct upstream *u, struct upstream_tls *tls)
{
    struct upstream_tls *old = u->tls;
    u->tls = upstream_tls_ref(tls);
    upstream_tls_unref(old);
}

void upstream_set_timeout(struct upstream *u, int64_t us)
{
    u->timeout_us = us;
}

static void on_probe_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream *u = arg;
    struct upstream_site *s = u->site;
    pthread_mutex_lock(&s->lock);
    const bool due = !u->probed || (atomic_load(&s->down) && s->unconnected);
    pthread_mutex_unlock(&s->lock);
    struct upstream_call *c = u->probing || !due ? NULL : call_new(u);
    if (!c)
        return;
    c->probe = true;
    if (!call_link(c)) {
        call_recycle(c);
        return;
    }
    u->probing = true;
    pool_connect(c);
}

bool upstream_probe(struct upstream *u)
{
    static const struct timeval every = {PROBE_S, 0};
    u->probe_timer = event_new(u->base, -1, EV_PERSIST, on_probe_timer, u);
    if (!u->probe_timer || event_add(u->probe_timer, &every) != 0)
        return false;
    event_active(u->probe_timer, EV_TIMEOUT, 0);
    return true;
}
