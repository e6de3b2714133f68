#include <event2/buffer.h>
#include <evhtp/evhtp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "http/admin.h"
#include "http/hold.h"

/* How often streams look for what is new; how long one may wait without anything of it being taken; how long the end
 * waits for what is on its way; how many are accepted at once: so few that nobody is pushed out before being heard. */
enum { LOOK_MS = 100, STALL_S = 60, END_MS = 1000, ACCEPTS = 8 };
_Static_assert(SETTINGS_ADMIN_CONNECTIONS - STREAMS_MOST >= 4 * ACCEPTS, "there is room beside streams");
#define PLAIN "text/plain; charset=utf-8"

struct admin {
    struct front front;
    struct listener listener;
    pthread_t thread;
    struct event *wake;
    struct event look; /* while there are streams, and while it ends */
    int wake_fd;
    int64_t end_us;    /* monotonic: when the end waits no longer; 0: it has not come */
    atomic_size_t held;
};

static struct admin *admin_of(struct front *f)
{
    return (struct admin *)(void *)((char *)f - offsetof(struct admin, front));
}

static void admin_look_soon(struct admin *a)
{
    static const struct timeval look = {0, LOOK_MS * 1000};
    if (!evtimer_pending(&a->look, NULL))
        event_add(&a->look, &look);
}

/* What is new goes out as far as there is room for it. */
static void admin_turn(struct conn *c)
{
    const size_t waiting = conn_waiting(c);
    struct buf out BUF_CLEANUP = BUF_INIT(STREAM_WAITING + (4 << 20));
    if (waiting < STREAM_WAITING && !stream_pump(c->stream, STREAM_WAITING - waiting, &out)) {
        conn_close(c);
        return;
    }
    if (!waiting) /* while something waits, whoever takes it comes here by admin_written() */
        conn_due(c, STALL_S * US_PER_S);
    conn_push(c, out.n ? buf_view(&out) : STR(""));
    struct server *s = c->front->server;
    const uint64_t session = c->bev ? stream_session(c->stream) : 0;
    const bool over = session && !sessions_alive(s->sessions, session, time_mono_us());
    if (c->bev && (over || atomic_load(&s->draining))) {
        stream_free(c->stream);
        c->stream = NULL;
        conn_end(c);
    }
}

static void admin_written(struct conn *c)
{
    admin_turn(c);
}

static void admin_vanished(struct conn *c)
{
    stream_free(c->stream);
    c->stream = NULL;
}

static void admin_follow(struct front *f)
{
    (void)f; /* what is in force is looked up by each page */
}

static struct admin_request admin_request(const struct conn *c)
{
    const struct guard *g = &c->guard;
    const struct server *s = c->front->server;
    const struct str target = g->target.p ? g->target : STR("");
    const char *q = target.n ? memchr(target.p, '?', target.n) : NULL;
    const uint64_t session = admin_session(s, c);
    return (struct admin_request){
        .path = {target.p, q ? (size_t)(q - target.p) : target.n},
        .query = q ? (struct str){q + 1, (size_t)(target.p + target.n - q - 1)} : STR_MISSING,
        .body = g->body.n ? buf_view(&g->body) : STR(""),
        .known = session || (admin_has_token(s, g) && admin_host_holds(s, g)),
        .session = session,
        .head_only = g->method.p && str_eq_z(g->method, "HEAD"),
        .conn = c,
    };
}

static struct admin_answer answer_new(int status)
{
    return (struct admin_answer){
        .status = status, .type = PLAIN, .headers = BUF_INIT(4096), .body = BUF_INIT(ADMIN_BODY_MAX)};
}

/* Sends it, and frees what it holds. */
static void answer_send(struct conn *c, struct admin_answer *a, bool refusal)
{
    if (a->body.failed || a->headers.failed) {
        a->status = 503;
        buf_free(&a->headers);
        buf_free(&a->body);
    }
    buf_z(&a->headers, "X-Content-Type-Options: nosniff\r\n");
    const struct conn_answer answer = {
        .status = a->status,
        .type = a->type,
        .extra = a->headers.failed ? STR("") : buf_view(&a->headers),
        .body = a->body.n ? buf_view(&a->body) : STR(""),
        .last = true,
        .stream = a->stream != NULL,
    };
    c->stream = a->stream;
    if (refusal)
        conn_refuse(c, &answer);
    else
        conn_reply(c, &answer);
    buf_free(&a->headers);
    buf_free(&a->body);
}

/* What the guard refused. Who sends a token that does not hold is told no more than that. */
static void admin_refuse(struct conn *c, enum reason reason, int status)
{
    struct admin_answer a = answer_new(status);
    const struct admin_request q = admin_request(c);
    const bool read = c->guard.header_count > 0 && reason == REASON_HTTP_FRAMING;
    if (!read || admin_admits(c->front->server, &q, &a)) {
        a.status = status == 505 ? 400 : status; /* as for all that is no HTTP/1 request */
        buf_z(&a.body, status == 408 ? "the request did not come in time\n"
                       : status == 503 ? "there is no room for the request\n"
                       : a.status == 400 ? "this is not an HTTP/1 request\n"
                                         : "the request is too large\n");
    }
    answer_send(c, &a, true);
}

static bool admin_head(struct conn *c, enum reason reason, int status)
{
    if (reason != REASON_OK) {
        admin_refuse(c, reason, status);
        return false;
    }
    struct admin_answer a = answer_new(200);
    const struct admin_request q = admin_request(c);
    if (admin_admits(c->front->server, &q, &a)) {
        buf_free(&a.headers);
        buf_free(&a.body);
        return true;
    }
    answer_send(c, &a, true);
    return false;
}

static void admin_complete(struct conn *c)
{
    struct admin_answer a = answer_new(200);
    const struct admin_request q = admin_request(c);
    admin_show(c->front->server, &q, &a);
    if (a.stream) { /* the system takes twice as much, and would take more by itself */
        const int waiting = STREAM_WAITING / 2;
        (void)setsockopt(bufferevent_getfd(c->bev), SOL_SOCKET, SO_SNDBUF, &waiting, sizeof waiting);
        admin_look_soon(admin_of(c->front));
        stream_bind(a.stream, q.session);
    }
    answer_send(c, &a, false);
}

static const struct service ADMIN = {
    .head = admin_head, .complete = admin_complete, .vanished = admin_vanished, .written = admin_written,
    .follow = admin_follow, .accepts = ACCEPTS, .replies_yield = true};

/* Nothing new begins; what is on its way has until end_us. */
static void admin_end(struct admin *a)
{
    if (!a->end_us) {
        a->end_us = time_mono_us() + END_MS * 1000;
        listener_close(&a->listener);
    }
    for (struct conn *c = a->front.conns, *next; c; c = next) {
        next = c->next;
        if (c->state == CONN_READING || c->shut)
            conn_close(c);
    }
    if (!a->front.conns || time_mono_us() >= a->end_us)
        event_base_loopbreak(a->front.base);
}

static void on_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct admin *a = arg;
    bool streams = false;
    for (struct conn *c = a->front.conns, *next; c; c = next) {
        next = c->next;
        streams = streams || c->state == CONN_STREAMING;
        if (c->state == CONN_STREAMING)
            admin_turn(c);
    }
    const bool ends = atomic_load(&a->front.server->leaving);
    if (ends)
        admin_end(a);
    if (streams || ends)
        admin_look_soon(a);
}

static void on_room(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    hold_look(arg);
}

/* A certificate that was read anew. */
static void admin_take_over(struct admin *a)
{
    struct server *s = a->front.server;
    pthread_mutex_lock(&s->lock);
    listener_use(&a->listener, s->admin_tls);
    pthread_mutex_unlock(&s->lock);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct admin *a = arg;
    uint64_t n;
    (void)what;
    (void)!read(fd, &n, sizeof n);
    admin_take_over(a);
    if (atomic_load(&a->front.server->leaving))
        on_look(-1, 0, a);
}

static void *admin_run(void *arg)
{
    struct admin *a = arg;
    event_base_dispatch(a->front.base);
    while (a->front.conns)
        conn_close(a->front.conns);
    for (int i = 0; i < 3; i++) /* what waits for its turn to be freed */
        event_base_loop(a->front.base, EVLOOP_NONBLOCK);
    return NULL;
}

static void admin_free(struct admin *a)
{
    if (!a)
        return;
    listener_close(&a->listener);
    if (a->listener.htp)
        evhtp_free(a->listener.htp);
    if (a->wake)
        event_free(a->wake);
    if (a->front.base) {
        event_del(&a->look);
        event_del(&a->front.room);
        event_base_free(a->front.base);
    }
    if (a->wake_fd >= 0)
        close(a->wake_fd);
    sessions_free(a->front.server->sessions);
    a->front.server->sessions = NULL;
    settings_unref(a->front.settings);
    crowd_free(a->front.crowd);
    buf_free(&a->front.head);
    buf_free(&a->front.scratch);
    free(a);
}

static bool admin_open(struct admin *a, struct server *s)
{
    struct front *f = &a->front;
    *f = (struct front){.service = &ADMIN, .server = s, .base = event_base_new(), .held = &a->held,
                        .settings = settings_for_admin(s->config), .full = BOUND_ADMIN, .short_of = BOUND_ADMIN,
                        .crowd = crowd_new(SETTINGS_ADMIN_CONNECTIONS, 1), .head = BUF_INIT(32 << 10),
                        .scratch = BUF_INIT(CONN_SCRATCH)};
    a->listener = (struct listener){.front = f, .config = &s->config->admin};
    a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!f->base || !buf_reserve(&f->scratch, CONN_SCRATCH))
        return false;
    evtimer_assign(&a->look, f->base, on_look, a);
    evtimer_assign(&f->room, f->base, on_room, f);
    a->wake = a->wake_fd >= 0 ? event_new(f->base, a->wake_fd, EV_READ | EV_PERSIST, on_wake, a) : NULL;
    s->sessions = sessions_new();
    if (!f->settings || !f->crowd || !s->sessions || !a->wake || event_add(a->wake, NULL) != 0)
        return false;
    const int fd = s->admin_socket;
    s->admin_socket = -1;
    return listener_open(&a->listener, fd, s->admin_tls);
}

bool admin_start(struct server *s)
{
    struct admin *a = calloc(1, sizeof *a);
    if (!a)
        return false;
    process_begins();
    if (admin_open(a, s) && pthread_create(&a->thread, NULL, admin_run, a) == 0) {
        s->admin = a;
        return true;
    }
    admin_free(a);
    return false;
}

void admin_wake(struct server *s)
{
    const uint64_t one = 1;
    if (s->admin)
        (void)!write(s->admin->wake_fd, &one, sizeof one);
}

void admin_stop(struct server *s)
{
    if (!s->admin)
        return;
    atomic_store(&s->leaving, true);
    admin_wake(s);
    pthread_join(s->admin->thread, NULL);
    admin_free(s->admin);
    s->admin = NULL;
}
