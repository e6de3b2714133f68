#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http/server.h"

/*
 * The admin address has a thread of its own, since it must answer when workers are busy, and asks nobody to wait: who
 * is slow holds a place until his deadline, and loses it sooner when all are taken.
 */
enum { CLIENTS = 32, HEAD = 8192, BODY = 64 << 20, READ_S = 2, WRITE_S = 10, CLOSE_S = 1, STALL_S = 60 };

enum client_state { CLIENT_FREE, CLIENT_READING, CLIENT_WRITING, CLIENT_CLOSING, CLIENT_FOLLOWING };
struct client {
    enum client_state state;
    int fd;
    int64_t until_us;
    size_t n, sent;
    char head[HEAD];
    struct buf out;
    struct stream *stream; /* behind what is in `out` */
    int64_t stalled_us;    /* monotonic: since when nothing of what waits could be written; 0: it can */
};
struct admin {
    struct server *server;
    struct client client[CLIENTS];
    int64_t accept_us; /* not before: out of descriptors */
};

static void release(struct client *c)
{
    close(c->fd);
    secret_wipe(c->head, c->n); /* it may hold the token */
    buf_free(&c->out);
    stream_free(c->stream);
    *c = (struct client){.state = CLIENT_FREE, .fd = -1};
}

static void enter(struct client *c, enum client_state state, int seconds)
{
    c->state = state;
    c->until_us = time_mono_us() + seconds * US_PER_S;
}

static const char *phrase(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    default: return "Service Unavailable";
    }
}

static void answer(struct server *s, struct client *c, bool whole)
{
    struct admin_answer a = {.status = 431, .type = "text/plain; charset=utf-8", .body = BUF_INIT(BODY)};
    if (whole)
        admin_answer(s, (struct str){c->head, c->n}, &a);
    if (a.body.failed) { /* without memory */
        a.status = 503;
        buf_free(&a.body);
    }
    c->out = BUF_INIT(BODY + HEAD);
    buf_printf(&c->out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\n", a.status, phrase(a.status), a.type);
    if (!a.stream) /* it ends with the connection */
        buf_printf(&c->out, "Content-Length: %zu\r\n", a.body.n);
    buf_printf(&c->out, "Cache-Control: no-store\r\n%s%sX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
               a.status == 401 ? "WWW-Authenticate: Bearer\r\n" : "",
               a.status == 405 ? "Allow: GET, HEAD\r\n" : "");
    if (a.body.n && !a.head_only)
        buf_str(&c->out, buf_view(&a.body));
    buf_free(&a.body);
    c->stream = a.stream;
    enter(c, CLIENT_WRITING, WRITE_S);
    if (!a.stream)
        return;
    const int waiting = STREAM_WAITING / 2; /* the system takes twice as much, and would take more by itself */
    (void)setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &waiting, sizeof waiting);
    c->state = CLIENT_FOLLOWING;
    c->until_us = INT64_MAX; /* others make room first; there are always some */
}

static void write_on(struct client *c)
{
    while (c->sent < c->out.n) {
        const ssize_t n = send(c->fd, c->out.p + c->sent, c->out.n - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            release(c);
            return;
        }
        c->sent += (size_t)n;
    }
    shutdown(c->fd, SHUT_WR);
    enter(c, CLIENT_CLOSING, CLOSE_S); /* what he still says is thrown away, so that he can read the answer */
}

/* What is new goes out as far as the socket takes it. */
static void follow_on(struct server *s, struct client *c)
{
    if (!stream_pump(c->stream, &c->out)) {
        release(c);
        return;
    }
    const ssize_t n = c->out.n ? send(c->fd, c->out.p, c->out.n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        release(c);
        return;
    }
    if (n > 0) {
        c->out.n -= (size_t)n;
        memmove(c->out.p, c->out.p + n, c->out.n);
    }
    const int64_t now = time_mono_us();
    c->stalled_us = n > 0 || !c->out.n ? 0 : c->stalled_us ? c->stalled_us : now;
    if (c->stalled_us && now - c->stalled_us > STALL_S * US_PER_S)
        release(c);
    else if (atomic_load(&s->draining))
        enter(c, CLIENT_WRITING, WRITE_S); /* what waits is written, and that is the end */
}

static void read_on(struct server *s, struct client *c)
{
    const ssize_t n = recv(c->fd, c->head + c->n, sizeof c->head - c->n, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        release(c);
        return;
    }
    c->n += (size_t)n;
    const bool whole = memmem(c->head, c->n, "\r\n\r\n", 4);
    if (!whole && c->n < sizeof c->head)
        return;
    answer(s, c, whole);
    if (c->state == CLIENT_FOLLOWING)
        follow_on(s, c);
    else
        write_on(c);
}

static void throw_away(struct client *c)
{
    char room[4096];
    const ssize_t n = recv(c->fd, room, sizeof room, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        release(c);
}

/* A free place, or that of him who would have to go first. */
static struct client *place(struct admin *a)
{
    struct client *first = &a->client[0];
    for (size_t i = 0; i < CLIENTS; i++) {
        if (a->client[i].state == CLIENT_FREE)
            return &a->client[i];
        if (a->client[i].until_us < first->until_us)
            first = &a->client[i];
    }
    release(first);
    return first;
}

static void accept_all(struct admin *a)
{
    for (int i = 0; i < CLIENTS; i++) {
        const int fd = accept4(a->server->admin_socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            a->accept_us = time_mono_us() + US_PER_S / 10;
        if (fd < 0)
            return;
        struct client *c = place(a);
        c->fd = fd;
        enter(c, CLIENT_READING, READ_S);
        read_on(a->server, c); /* mostly it is all there */
    }
}

static void step(struct admin *a, struct client *c, short what)
{
    if (what && c->state == CLIENT_READING)
        read_on(a->server, c);
    else if (what && c->state == CLIENT_WRITING)
        write_on(c);
    else if (what & ~POLLOUT && (c->state == CLIENT_CLOSING || c->state == CLIENT_FOLLOWING))
        throw_away(c);
    if (c->state == CLIENT_FOLLOWING)
        follow_on(a->server, c);
    if (c->state != CLIENT_FREE && time_mono_us() >= c->until_us)
        release(c);
}

/* Only places in use are looked at: poll() refuses more than the process may have open. */
static void turn(struct admin *a)
{
    static const struct timespec PAUSE = {0, 100000000};
    struct pollfd p[CLIENTS + 1];
    struct client *who[CLIENTS];
    nfds_t n = 0;
    for (size_t i = 0; i < CLIENTS; i++) {
        struct client *c = &a->client[i];
        if (c->state == CLIENT_FREE)
            continue;
        p[n] = (struct pollfd){.fd = c->fd, .events = c->state == CLIENT_WRITING ? POLLOUT : POLLIN};
        if (c->state == CLIENT_FOLLOWING && c->out.n)
            p[n].events |= POLLOUT;
        who[n++] = c;
    }
    const nfds_t clients = n;
    if (time_mono_us() >= a->accept_us)
        p[n++] = (struct pollfd){.fd = a->server->admin_socket, .events = POLLIN};
    if (poll(p, n, 100) < 0) {
        nanosleep(&PAUSE, NULL);
        return;
    }
    for (nfds_t i = 0; i < clients; i++)
        step(a, who[i], p[i].revents);
    if (n > clients && p[clients].revents)
        accept_all(a);
}

static void *run(void *arg)
{
    struct admin *a = arg;
    while (!atomic_load(&a->server->leaving)) /* a draining gateway still says so */
        turn(a);
    for (size_t i = 0; i < CLIENTS; i++)
        if (a->client[i].state != CLIENT_FREE)
            release(&a->client[i]);
    close(a->server->admin_socket);
    free(a);
    return NULL;
}

bool admin_start(struct server *s, pthread_t *thread)
{
    struct admin *a = calloc(1, sizeof *a);
    if (!a)
        return false;
    a->server = s;
    if (pthread_create(thread, NULL, run, a) == 0)
        return true;
    free(a);
    return false;
}
