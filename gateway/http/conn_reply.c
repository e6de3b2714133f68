#include <errno.h>
#include <event2/buffer.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/timestamp.h"
#include "http/conn_inside.h"
#include "http/server.h"

/* The last reply is out: no more will be sent, and what still comes is read for a second. */
static void conn_linger(struct conn *c)
{
    if (c->eof) {
        conn_close(c);
        return;
    }
    if (!conn_mark(c, PLACE_IDLE))
        return;
    if (c->tls)
        conn_tls_say_end(c);
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    c->shut = true;
    c->waiting = false;
    conn_forget_unread(c);
    conn_listen(c);
    conn_due(c, US_PER_S);
}

void conn_sent(struct conn *c)
{
    if (c->state == CONN_LINGER) {
        if (!c->shut)
            conn_linger(c);
        return;
    }
    if (c->state == CONN_STREAMING) {
        c->front->service->written(c);
        return;
    }
    conn_settle(c);
    c->state = CONN_READING;
    c->armed = false;
    c->served = true;
    if (c->paused) {
        c->paused = false;
        conn_listen(c);
    }
    const bool idle = conn_unread(c) == 0;
    if (idle && (c->eof || atomic_load(&c->front->server->stopping))) {
        conn_close(c);
        return;
    }
    if (idle && !conn_mark(c, PLACE_IDLE))
        return;
    c->held_since_us = time_mono_rough_us();
    conn_due(c, c->guard.limits->idle_timeout_us);
    if (!c->looping)
        conn_process(c);
}

/* Head and body, at once as far as the socket takes them. */
static void conn_write(struct conn *c, struct str head, struct str body)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    const bool first = evbuffer_get_length(out) == 0;
    size_t done = 0;
    if (!c->tls && first) {
        const struct iovec v[2] = {{(void *)(uintptr_t)head.p, head.n}, {(void *)(uintptr_t)body.p, body.n}};
        const ssize_t n = writev(bufferevent_getfd(c->bev), v, body.n ? 2 : 1);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            conn_close(c);
            return;
        }
        done = n > 0 ? (size_t)n : 0;
    }
    if (done == head.n + body.n) {
        conn_sent(c);
        return;
    }
    bool ok = evbuffer_expand(out, head.n + body.n - done) == 0; /* one piece, so that TLS makes few records of it */
    if (ok && done < head.n)
        ok = evbuffer_add(out, head.p + done, head.n - done) == 0;
    const size_t rest = done > head.n ? done - head.n : 0;
    if (ok && body.n > rest)
        ok = evbuffer_add(out, body.p + rest, body.n - rest) == 0;
    ok = ok && (!c->tls || !first || conn_tls_write(c)); /* else what waits takes it along */
    if (!ok)
        conn_close(c);
    else if (c->tls && !conn_waiting(c))
        conn_sent(c);
    else if (c->front->service->replies_yield && c->state != CONN_STREAMING)
        (void)conn_mark(c, PLACE_UNFINISHED);
}

static const char *phrase(int status)
{
    static const struct {
        int status;
        const char *text;
    } PHRASES[] = {
        {200, "OK"}, {303, "See Other"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"},
        {404, "Not Found"}, {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"},
        {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
        {417, "Expectation Failed"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"},
        {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof PHRASES / sizeof *PHRASES; i++)
        if (PHRASES[i].status == status)
            return PHRASES[i].text;
    return "Error";
}

static void put_field(struct buf *head, struct str name, const char *value)
{
    buf_str(head, name);
    buf_z(head, value);
    buf_str(head, STR("\r\n"));
}

static void conn_write_head(struct buf *head, const struct conn_answer *a)
{
    buf_reset(head);
    buf_str(head, STR("HTTP/1.1 "));
    buf_decimal(head, (uint64_t)a->status);
    put_field(head, STR(" "), phrase(a->status));
    put_field(head, STR("Content-Type: "), a->type);
    if (!a->stream) { /* it ends with the connection */
        buf_str(head, STR("Content-Length: "));
        buf_decimal(head, a->body.n);
        buf_str(head, STR("\r\n"));
    }
    buf_str(head, STR("Cache-Control: no-store\r\n"));
    if (a->id)
        put_field(head, STR("X-Request-Id: "), a->id);
    if (a->extra.n)
        buf_str(head, a->extra);
    buf_str(head, a->last || a->stream ? STR("Connection: close\r\n\r\n") : STR("\r\n"));
}

void conn_reply(struct conn *c, const struct conn_answer *a)
{
    struct buf *head = &c->front->head;
    const bool head_only = str_eq_z(c->guard.method, "HEAD");
    conn_enter(c);
    conn_write_head(head, a);
    c->state = a->stream && !head_only ? CONN_STREAMING : a->last || a->stream ? CONN_LINGER : CONN_WRITING;
    conn_due(c, c->guard.limits->idle_timeout_us); /* to take the reply */
    c->reply_size = head->n + a->body.n;
    c->reserved = 0;
    c->held_since_us = time_mono_rough_us();
    if (head->failed)
        conn_close(c);
    else
        conn_write(c, buf_view(head), head_only ? STR("") : a->body);
    const enum conn_state state = c->state; /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
    if (state == CONN_LINGER || state == CONN_STREAMING)
        guard_next(&c->guard); /* nothing more is read */
    conn_leave(c);
}

void conn_refuse(struct conn *c, const struct conn_answer *a)
{
    struct conn_answer last = *a;
    last.last = true;
    conn_enter(c);
    conn_reply(c, &last);
    if (c->bev && !c->shut) /* NOLINT(clang-analyzer-unix.Malloc): kept by `inside` */
        conn_due(c, 2 * US_PER_S);
    conn_leave(c);
}

void conn_push(struct conn *c, struct str more)
{
    if (more.n && !conn_put(c, more))
        conn_close(c);
}

size_t conn_waiting(const struct conn *c)
{
    return evbuffer_get_length(bufferevent_get_output(c->bev));
}

void conn_end(struct conn *c)
{
    c->state = CONN_LINGER;
    conn_due(c, c->guard.limits->idle_timeout_us);
    if (!conn_waiting(c))
        conn_sent(c);
}
