#include <arpa/inet.h>
#include <errno.h>
#include <evhtp/evhtp.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"

/* Takes over the rules and certificates in force: each worker holds references of its own. */
static void take_over(struct worker *w)
{
    struct server *s = w->server;
    pthread_mutex_lock(&s->lock);
    struct rules *old = w->gate.rules;
    w->gate.rules = rules_ref(s->rules);
    rules_unref(old);
    for (size_t i = 0; i < s->config->listen_count; i++) {
        struct listener *l = &w->listeners[i];
        if (!s->tls[i] || !l->htp || l->htp->ssl_ctx == s->tls[i])
            continue;
        SSL_CTX_free(l->htp->ssl_ctx);
        SSL_CTX_up_ref(s->tls[i]);
        l->htp->ssl_ctx = s->tls[i];
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct worker *w = arg;
    uint64_t n;
    if (what & EV_READ)
        (void)!read(fd, &n, sizeof n);
    if (!atomic_load(&w->server->stopping)) {
        take_over(w);
        return;
    }
    for (size_t i = 0; !w->stopped_listening && i < w->server->config->listen_count; i++)
        listener_close(&w->listeners[i]);
    w->stopped_listening = true;
    conn_close_idle(w);
    if (atomic_load(&w->server->leaving)) /* drain_timeout has passed, or nothing is left */
        event_base_loopbreak(w->base);
    static const struct timeval again = {0, 20000};
    event_add(w->wake, &again);
}

void worker_wake(struct worker *w)
{
    const uint64_t one = 1;
    (void)!write(w->wake_fd, &one, sizeof one);
}

void worker_stop(struct worker *w)
{
    atomic_store(&w->server->leaving, true);
    worker_wake(w);
    pthread_join(w->thread, NULL);
}

static void *run(void *arg)
{
    struct worker *w = arg;
    event_base_dispatch(w->base);
    while (w->conns)
        conn_close(w->conns);
    upstream_free(w->upstream);
    for (int i = 0; i < 3; i++) /* what waits for its turn to be freed */
        event_base_loop(w->base, EVLOOP_NONBLOCK);
    for (size_t i = 0; i < w->server->config->listen_count; i++) {
        listener_close(&w->listeners[i]);
        evhtp_free(w->listeners[i].htp);
    }
    event_free(w->wake);
    event_base_free(w->base);
    close(w->wake_fd);
    rules_unref(w->gate.rules);
    free(w->listeners);
    return NULL;
}

bool worker_start(struct worker *w)
{
    struct server *s = w->server;
    const size_t n = s->config->listen_count;
    const unsigned total = s->config->upstream.connections;
    w->base = event_base_new();
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->listeners = calloc(n, sizeof *w->listeners);
    if (!w->base || w->wake_fd < 0 || !w->listeners)
        return false;
    w->wake = event_new(w->base, w->wake_fd, EV_READ | EV_PERSIST, on_wake, w);
    const unsigned share = total ? (total + s->worker_count - 1) / s->worker_count : 0;
    w->upstream = upstream_new(w->base, &s->config->upstream, share);
    w->gate = (struct gate){
        .public_url = &s->config->public_url,
        .rules = rules_ref(s->rules),
        .keys = s->keys,
        .replay = s->replay,
        .replay_is_memory = true,
    };
    if (!w->wake || !w->upstream || event_add(w->wake, NULL) != 0)
        return false;
    for (size_t i = 0; i < n; i++) {
        w->listeners[i] = (struct listener){.worker = w, .config = &s->config->listen[i], .index = i};
        const int fd = fcntl(s->sockets[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0 || !server_listen(w, &w->listeners[i], fd))
            return false;
    }
    w->started = pthread_create(&w->thread, NULL, run, w) == 0;
    return w->started;
}

/* A Unix socket that nobody listens on any more is in the way. */
static void remove_stale(const struct listen_config *l)
{
    const char *path = ((const struct sockaddr_un *)&l->sa)->sun_path;
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&l->sa, l->sa_len) != 0 && errno == ECONNREFUSED)
        unlink(path);
    if (fd >= 0)
        close(fd);
}

int socket_listen(const struct listen_config *l)
{
    const int one = 1;
    const bool local = l->sa.ss_family == AF_UNIX;
    if (local)
        remove_stale(l);
    const int fd = socket(l->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool ok = fd >= 0;
    if (ok && !local)
        ok = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0;
    if (ok && l->sa.ss_family == AF_INET6)
        ok = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) == 0;
    const mode_t mask = umask(0117); /* 0660 */
    ok = ok && bind(fd, (const struct sockaddr *)&l->sa, l->sa_len) == 0;
    umask(mask);
    if (ok && listen(fd, 1024) == 0)
        return fd;
    log_error("listener", l->address, "cannot listen: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}
