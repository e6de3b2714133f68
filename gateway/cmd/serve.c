#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/metrics.h"
#include "cmd/cmd.h"
#include "http/server.h"

/* Everything that can be refused is refused here, before a thread runs. */
static bool open_parts(struct server *s, struct faults *faults)
{
    struct config *c = s->config;
    char why[256] = "";
    s->rules = rules_load(c->rules, faults);
    struct secret_key master;
    if (config_read_master_key(&c->master_key, &master, faults))
        s->keys = keystore_open(c->keys, &master, true, faults);
    secret_wipe(&master, sizeof master);
    if (c->admin_token.kind != SECRET_NONE && !(s->admin_token = config_read_token(&c->admin_token, faults)))
        return false;
    if (!s->rules || !s->keys)
        return false;
    s->floor_us = (time_now_us() / US_PER_S + 1) * US_PER_S;
    s->replay = replay_new(c->limits.replay_entries, s->floor_us, s->rules->max_past_us);
    s->sink = sink_open(c->decisions, why, sizeof why);
    if (!s->sink)
        log_error("decisions", c->decisions, "%s", why);
    return s->replay && s->sink;
}

static bool open_sockets(struct server *s, int *admin)
{
    const size_t n = s->config->listen_count;
    s->sockets = calloc(n, sizeof *s->sockets);
    s->tls = calloc(n, sizeof(SSL_CTX *));
    if (!s->sockets || !s->tls)
        return false;
    for (size_t i = 0; i < n; i++)
        s->sockets[i] = -1;
    for (size_t i = 0; i < n; i++) {
        const struct listen_config *l = &s->config->listen[i];
        if (l->certificate && !(s->tls[i] = tls_context(l)))
            return false;
        if ((s->sockets[i] = socket_listen(l)) < 0)
            return false;
    }
    *admin = socket_listen(&s->config->admin);
    return *admin >= 0;
}

static void *follow_keys(void *arg)
{
    struct server *s = arg;
    bool failed = false;
    while (!atomic_load(&s->stopping)) {
        char why[256] = "";
        bool changed = false;
        const bool ok = keystore_refresh(s->keys, &changed, why, sizeof why);
        if (!ok && !failed)
            log_error("keys", s->config->keys, "%s; the keys known before stay in force", why);
        if (ok && (changed || failed))
            log_info("keys", s->config->keys, "changes taken over");
        failed = !ok;
        usleep(400000);
    }
    return NULL;
}

static void wake_all(struct server *s)
{
    for (unsigned i = 0; i < s->worker_count; i++)
        worker_wake(&s->workers[i]);
}

static void tell_rules(const struct server *s)
{
    struct buf label BUF_CLEANUP = BUF_INIT(256);
    metric_label(&label, "hash", str_z(s->rules->hash));
    metric_clear(METRIC_RULES_INFO);
    if (!label.failed)
        metric_set(METRIC_RULES_INFO, label.p, 1);
}

/* Builds the new, checks it all, then swaps; what is at fault leaves the old in force. */
static void reload(struct server *s)
{
    struct faults faults = {0};
    struct rules *rules = rules_load(s->config->rules, &faults);
    metric_add(METRIC_RULES_RELOADS, rules ? "result=\"ok\"" : "result=\"error\"", 1);
    for (size_t i = 0; !rules && i < faults.n; i++)
        if (!faults.v[i].lint)
            log_error("rules", s->config->rules, "%s; the old ones stay", faults.v[i].text);
    faults_free(&faults);
    for (size_t i = 0; i < s->config->listen_count; i++) {
        SSL_CTX *fresh = s->tls[i] ? tls_context(&s->config->listen[i]) : NULL;
        if (!fresh)
            continue;
        pthread_mutex_lock(&s->lock);
        SSL_CTX *old = s->tls[i];
        s->tls[i] = fresh;
        pthread_mutex_unlock(&s->lock);
        SSL_CTX_free(old);
    }
    if (rules) {
        replay_retain(s->replay, rules->max_past_us);
        pthread_mutex_lock(&s->lock);
        struct rules *old = s->rules;
        s->rules = rules;
        pthread_mutex_unlock(&s->lock);
        rules_unref(old);
        tell_rules(s);
        log_info("rules", s->config->rules, "in force, hash %s", rules->hash);
    }
    sink_reopen(s->sink);
    wake_all(s);
}

static void drain(struct server *s)
{
    log_info("gateway", NULL, "ends: requests in flight are finished first");
    atomic_store(&s->draining, true);
    usleep((useconds_t)s->config->drain_delay_us);
    atomic_store(&s->stopping, true);
    wake_all(s);
    const int64_t until = time_mono_us() + s->config->drain_timeout_us;
    while (time_mono_us() < until && (atomic_load(&s->in_flight) || atomic_load(&s->connections)))
        usleep(10000);
    for (unsigned i = 0; i < s->worker_count; i++)
        if (s->workers[i].started)
            worker_stop(&s->workers[i]);
}

static bool start_workers(struct server *s)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    s->worker_count = s->config->workers ? s->config->workers : cores > 0 ? (unsigned)cores : 1;
    s->workers = calloc(s->worker_count, sizeof *s->workers);
    for (unsigned i = 0; s->workers && i < s->worker_count; i++) {
        s->workers[i].server = s;
        s->workers[i].wake_fd = -1;
        if (!worker_start(&s->workers[i]))
            return false;
    }
    return s->workers != NULL;
}

static int run(struct server *s, const sigset_t *signals, int admin_fd)
{
    pthread_t admin, keys;
    if (!start_workers(s) || !admin_start(s, &admin, admin_fd) || pthread_create(&keys, NULL, follow_keys, s) != 0) {
        log_error("gateway", NULL, "threads cannot be started");
        return EXIT_NEGATIVE; /* the process ends, and all with it */
    }
    tell_rules(s);
    metric_set(METRIC_BUILD_INFO, "version=\"" KMSGATE_VERSION "\"", 1);
    atomic_store(&s->serving, true);
    for (size_t i = 0; i < s->config->listen_count; i++)
        log_info("listener", s->config->listen[i].address, "listening");
    for (int got = 0; got != SIGTERM && got != SIGINT;) {
        if (sigwait(signals, &got) == 0 && got == SIGHUP)
            reload(s);
    }
    drain(s);
    pthread_join(admin, NULL);
    pthread_join(keys, NULL);
    return EXIT_DONE;
}

static void close_parts(struct server *s)
{
    for (size_t i = 0; s->sockets && i < s->config->listen_count; i++)
        if (s->sockets[i] >= 0)
            close(s->sockets[i]);
    for (size_t i = 0; s->tls && i < s->config->listen_count; i++)
        SSL_CTX_free(s->tls[i]);
    free(s->sockets);
    free(s->tls);
    free(s->workers);
    if (s->sink)
        sink_close(s->sink);
    if (s->replay)
        replay_free(s->replay);
    if (s->keys)
        keystore_close(s->keys);
    if (s->rules)
        rules_unref(s->rules);
    if (s->admin_token)
        secret_wipe(s->admin_token, strlen(s->admin_token));
    free(s->admin_token);
    config_free(s->config);
    metrics_free();
}

static int serve(const char *file)
{
    static struct server server; /* static: threads may outlive a failed start */
    struct server *s = &server;
    struct faults faults = {0};
    sigset_t signals;
    int admin_fd = -1;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    pthread_mutex_init(&s->lock, NULL);
    s->config = config_load(file, &faults);
    bool ok = s->config != NULL;
    if (ok) {
        log_setup(s->config->log_level, s->config->log_format);
        ok = upstream_startup() && open_parts(s, &faults) && open_sockets(s, &admin_fd);
    }
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (ok && s->config->sandbox && !(ok = sandbox_enter()))
        log_error("sandbox", NULL, "cannot be entered: %s", strerror(errno));
    const int code = ok ? run(s, &signals, admin_fd) : EXIT_NEGATIVE;
    if (ok && code != EXIT_DONE)
        _exit(code);
    if (s->config)
        close_parts(s);
    return code;
}

int cmd_serve(int argc, char **argv)
{
    if (argc == 2 && str_eq_z(str_z(argv[1]), "--help")) {
        puts("usage: kmsgate serve --config gateway.yaml\n\n"
             "Runs the gateway. SIGTERM drains and ends it, SIGHUP reloads rules, certificates, keys and logs.");
        return EXIT_DONE;
    }
    if (argc != 3 || !str_eq_z(str_z(argv[1]), "--config")) {
        complain("serve: usage: kmsgate serve --config gateway.yaml");
        return EXIT_USAGE;
    }
    return serve(argv[2]);
}
