#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/metrics.h"
#include "http/server.h"

/* The admin address is served by one thread, one short request after the other: it must answer when workers are busy,
 * and nothing more. */
enum { ADMIN_HEAD = 8192, ADMIN_WAIT_S = 2 };

struct answer {
    int status;
    const char *type;
    struct buf body;
};

static bool ready(const struct server *s)
{
    return atomic_load(&s->serving) && !atomic_load(&s->draining) && time_now_us() >= s->floor_us;
}

static void count_keys(struct server *s)
{
    size_t n[2][3];
    keystore_count(s->keys, time_now_us(), n);
    for (int t = 0; t < 2; t++)
        for (int k = 0; k < 3; k++) {
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

static void route(struct server *s, struct str target, struct answer *a)
{
    const char *q = memchr(target.p, '?', target.n);
    const struct str path = {target.p, q ? (size_t)(q - target.p) : target.n};
    const struct str query = q ? (struct str){q + 1, target.n - path.n - 1} : STR_MISSING;
    a->status = 200;
    a->type = "text/plain; charset=utf-8";
    if (str_eq_z(path, "/healthz")) {
        buf_z(&a->body, "ok\n");
    } else if (str_eq_z(path, "/readyz")) {
        a->status = ready(s) ? 200 : 503;
        buf_z(&a->body, a->status == 200 ? "ready\n" : atomic_load(&s->draining) ? "draining\n" : "starting\n");
    } else if (str_eq_z(path, "/metrics")) {
        a->type = "text/plain; version=0.0.4; charset=utf-8";
        count_keys(s);
        tls_count_expiry(s->config);
        metrics_write(&a->body);
    } else if (str_eq_z(path, "/decisions")) {
        uint64_t n = 100;
        a->type = "application/json";
        if (query.p && (!str_starts(query, STR("n=")) ||
                        !str_to_u64((struct str){query.p + 2, query.n - 2}, 1000, &n)))
            a->status = 400;
        else
            sink_recent(s->sink, (size_t)n, &a->body);
    } else if (str_eq_z(path, "/rules")) {
        a->type = "application/json";
        rules_json(s, &a->body);
    } else if (str_eq_z(path, "/")) {
        buf_z(&a->body, "kmsgate " KMSGATE_VERSION "\n/healthz /readyz /metrics /decisions?n= /rules\n");
    } else {
        a->status = 404;
    }
}

/* The token's place and length leak nothing: both are padded into blocks of one size. */
static bool allowed(const struct server *s, struct str head)
{
    if (!s->admin_token)
        return true;
    char due[1024] = {0}, got[1024] = {0};
    snprintf(due, sizeof due, "Bearer %s", s->admin_token);
    for (const char *p = head.p; p && p < head.p + head.n;) {
        const char *lf = memchr(p, '\n', (size_t)(head.p + head.n - p));
        const struct str line = {p, lf ? (size_t)(lf - p) : (size_t)(head.p + head.n - p)};
        const size_t name = sizeof "Authorization:" - 1;
        if (line.n > name && str_ieq_z((struct str){line.p, name}, "Authorization:")) {
            const struct str value = str_trim((struct str){line.p + name, line.n - name});
            if (value.n < sizeof got)
                memcpy(got, value.p, value.n);
            break;
        }
        p = lf ? lf + 1 : NULL;
    }
    const bool same = secret_equal(due, got, sizeof due);
    secret_wipe(due, sizeof due);
    secret_wipe(got, sizeof got);
    return same;
}

static void answer_one(struct server *s, struct str head, struct answer *a)
{
    a->status = 400;
    a->type = "text/plain";
    const char *one = memchr(head.p, ' ', head.n);
    const char *two = one ? memchr(one + 1, ' ', (size_t)(head.p + head.n - one - 1)) : NULL;
    const struct str method = {head.p, one ? (size_t)(one - head.p) : 0};
    if (!two)
        return;
    const struct str target = {one + 1, (size_t)(two - one - 1)};
    const bool probe = str_eq_z(target, "/healthz") || str_eq_z(target, "/readyz"); /* kubelets have no token */
    if (!str_eq_z(method, "GET"))
        a->status = 405;
    else if (!probe && !allowed(s, head))
        a->status = 401;
    else
        route(s, target, a);
}

static void send_all(int fd, struct str s)
{
    while (s.n) {
        const ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        s.p += n;
        s.n -= (size_t)n;
    }
}

static void serve_one(struct server *s, int fd)
{
    char head[ADMIN_HEAD];
    size_t n = 0;
    const int64_t until = time_mono_us() + ADMIN_WAIT_S * US_PER_S;
    const struct timeval wait = {ADMIN_WAIT_S, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    while (n < sizeof head && time_mono_us() < until && !memmem(head, n, "\r\n\r\n", 4)) {
        const ssize_t got = recv(fd, head + n, sizeof head - n, 0);
        if (got <= 0)
            return;
        n += (size_t)got;
    }
    struct answer a = {.body = BUF_INIT(64u << 20)};
    answer_one(s, (struct str){head, n}, &a);
    secret_wipe(head, sizeof head);
    struct buf out BUF_CLEANUP = BUF_INIT(1024);
    buf_printf(&out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%s"
               "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n", a.status, a.status == 200 ? "OK" : "No",
               a.type, a.body.n, a.status == 401 ? "WWW-Authenticate: Bearer\r\n" : "");
    send_all(fd, buf_view(&out));
    if (a.body.n)
        send_all(fd, buf_view(&a.body));
    buf_free(&a.body);
}

struct admin {
    struct server *server;
    int fd;
};

static void *run(void *arg)
{
    struct admin a = *(struct admin *)arg;
    free(arg);
    while (!atomic_load(&a.server->leaving)) /* a draining gateway still says so */ {
        struct pollfd p = {.fd = a.fd, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0)
            continue;
        const int fd = accept4(a.fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        serve_one(a.server, fd);
        close(fd);
    }
    close(a.fd);
    return NULL;
}

bool admin_start(struct server *s, pthread_t *thread, int fd)
{
    struct admin *a = malloc(sizeof *a);
    if (!a)
        return false;
    *a = (struct admin){s, fd};
    if (pthread_create(thread, NULL, run, a) == 0)
        return true;
    free(a);
    return false;
}
