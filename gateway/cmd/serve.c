#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crypto.h"
#include "base/heap.h"
#include "base/metrics.h"
#include "base/sink.h"
#include "base/spare.h"
#include "cmd/cmd.h"
#include "cmd/serve.h"
#include "gate/decision.h"
#include "http/admin.h"
#include "http/captures.h"
#include "http/census.h"
#include "http/event_memory.h"
#include "http/hold.h"
#include "http/sandbox.h"
#include "http/syslog.h"

enum { KEYS_TELL_EACH_S = 60 };

/* Everything that can be refused is refused here, before a thread runs. */
static bool open_parts(struct server *s, struct faults *faults)
{
    struct config *c = s->config;
    char why[256] = "";
    const bool loaded = reload_start(s, faults);
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    if (config_read_master_keys(c, &masters, faults))
        s->keys = keystore_open_at(&(struct keystore_place){c->keys, masters.v, masters.n, KEYSTORE_MAKE, c->state,
                                                            c->keys_max_age_us}, faults);
    const bool token = c->admin_token.kind != SECRET_NONE;
    if (token && !(s->admin_token = config_read_token(&c->admin_token, faults)))
        return false;
    if (token && strlen(s->admin_token) > ADMIN_TOKEN_MAX) {
        faults_add(faults, c->admin_token.name, 0, 0, "is too long: a token of at most %d bytes is expected",
                   ADMIN_TOKEN_MAX);
        return false;
    }
    if (!loaded || !s->keys || (c->keys_counter && !keystore_use_counter(s->keys, c->keys_counter, faults)))
        return false;
    s->replay = serve_replay(s, faults);
    if (c->captures && !captures_prepare(c->captures, why, sizeof why)) {
        faults_add(faults, c->captures, 0, 0, "%s", why);
        return false;
    }
    return s->replay != NULL;
}

static bool bind_sockets(struct server *s)
{
    const size_t n = s->config->listen_count;
    s->sockets = calloc(n, sizeof *s->sockets);
    s->socket_files = calloc(n, sizeof *s->socket_files);
    if (!s->sockets || !s->socket_files)
        return false;
    s->admin_socket = -1;
    for (size_t i = 0; i < n; i++)
        s->sockets[i] = -1;
    for (size_t i = 0; i < n; i++)
        if ((s->sockets[i] = socket_bind(&s->config->listen[i], &s->socket_files[i])) < 0)
            return false;
    s->admin_socket = socket_bind(&s->config->admin, &s->admin_file);
    return s->admin_socket >= 0;
}

static bool listen_all(const struct server *s)
{
    for (size_t i = 0; i < s->config->listen_count; i++)
        if (!socket_listen(&s->config->listen[i], s->sockets[i]))
            return false;
    return socket_listen(&s->config->admin, s->admin_socket);
}

/* Addresses are bound by whoever starts the gateway, files opened by whom it becomes: what cannot be read at the start
 * could not be read by a reload either. Threads come last: the sandbox holds for those that it was entered before. */
static bool prepare(struct server *s, bool allow_root, struct faults *faults)
{
    struct identity who;
    char why[256] = "";
    if (!identity_find(s->config->user, allow_root, &who) || !bind_sockets(s) || !identity_take(&who))
        return false;
    if (!open_parts(s, faults) || !listen_all(s))
        return false;
    if (s->config->sandbox)
        sandbox_enter(s->config, upstream_site_port(s->upstream_site));
    else
        sandbox_forgo(s->config);
    const struct sink_ways ways = {s->config->decisions_format == DECISIONS_ECS ? decision_ecs : NULL, syslog_open};
    s->sink = sink_open(s->config->decisions, &ways, why, sizeof why);
    if (!s->sink)
        log_error("decisions", s->config->decisions, "%s", why);
    if (s->config->captures && !(s->captures = captures_open(s->config->captures, s->config->captures_max, why,
                                                             sizeof why)))
        log_error("captures", s->config->captures, "%s", why);
    return s->sink && (s->captures || !s->config->captures);
}

/* A gateway without keys serves, since they can come while it runs; nobody should have to guess why all are refused. */
static void tell_keys(const struct server *s)
{
    size_t count[2][KEY_STATES], total = 0;
    keystore_count(s->keys, time_now_us(), count);
    for (size_t i = 0; i < 2 * KEY_STATES; i++)
        total += count[i / KEY_STATES][i % KEY_STATES];
    if (total)
        log_info("keys", keystore_where(s->keys), "%zu key%s loaded", total, total == 1 ? "" : "s");
    else
        log_warn("keys", keystore_where(s->keys),
                 "holds no key: signed requests are refused until `kmsgate keys import`");
}

/* In the keys' own thread, twice a second. */
static void keys_turn(void *arg, bool ok, bool changed, const char *why)
{
    struct server *s = arg;
    const int64_t now = time_mono_us();
    if (!ok && now - s->keys_told_us >= KEYS_TELL_EACH_S * US_PER_S) {
        log_error("keys", keystore_where(s->keys),
                  "%s; the keys known before stay in force, and no change since is seen", why);
        s->keys_told_us = now;
    }
    if (ok && (changed || s->keys_failed))
        log_info("keys", keystore_where(s->keys), "changes taken over");
    if (ok)
        s->keys_told_us = now - KEYS_TELL_EACH_S * US_PER_S;
    s->keys_failed = !ok;
}

static bool start_workers(struct server *s)
{
    s->worker_count = config_workers(s->config);
    s->workers = calloc(s->worker_count, sizeof *s->workers);
    s->crowd = crowd_new(s->connections_max, s->worker_count);
    s->census = census_new(s->worker_count, time_now_us(), s->config->state);
    if (!s->crowd || !s->census)
        return false;
    for (unsigned i = 0; s->workers && i < s->worker_count; i++) {
        s->workers[i].server = s;
        s->workers[i].wake_fd = -1;
        if (!worker_start(&s->workers[i]))
            return false;
    }
    return s->workers != NULL;
}

/* Until a signal says that it is over. */
static void watch(struct server *s, const sigset_t *signals)
{
    static const struct timespec TICK = {0, WATCH_TICK_MS * 1000000L};
    for (;;) {
        const int got = sigtimedwait(signals, NULL, &TICK);
        if (got == SIGTERM || got == SIGINT)
            return;
        if (got == SIGHUP)
            reload_all(s);
        reload_tick(s);
        replay_tidy(s->replay);
        hold_trim(s);
        clock_tick(s);
        sandbox_tick();
    }
}

static int serve_all(struct server *s, const sigset_t *signals)
{
    struct detail why = {""};
    clock_tick(s); /* from here on a step is seen */
    if (!replay_start(s->replay, &why)) { /* before anything is accepted */
        log_error("replay", s->config->state, "%s; `state` is to be a folder that the gateway may write to", why.text);
        return EXIT_NEGATIVE;
    }
    s->keys_told_us = time_mono_us() - KEYS_TELL_EACH_S * US_PER_S;
    keystore_tell_followers(s->keys);
    if (!(s->keeper = keykeeper_start(s->keys, keys_turn, s)) || !start_workers(s) || !admin_start(s)) {
        log_error("gateway", NULL, "threads cannot be started");
        return EXIT_NEGATIVE; /* the process ends, and all with it */
    }
    if (keystore_is_shared(s->keys) && !(s->copy = keycopy_start(s->keys, s->config->state)))
        log_warn("keys", keystore_where(s->keys), "no sealed copy is kept: out of memory");
    metric_set(METRIC_BUILD_INFO, "version=\"" KMSGATE_VERSION "\"", 1);
    atomic_store(&s->serving, true);
    for (size_t i = 0; i < s->config->listen_count; i++)
        log_info("listener", s->config->listen[i].address, "listening");
    log_info("rules", s->config->rules, "in force, hash %s", s->rules->hash);
    tell_keys(s);
    watch(s, signals);
    drain(s, signals);
    replay_end(s->replay);
    admin_stop(s);
    keycopy_stop(s->copy);
    keykeeper_stop(s->keeper);
    return EXIT_DONE;
}

static void close_sockets(struct server *s)
{
    for (size_t i = 0; s->sockets && s->socket_files && i < s->config->listen_count; i++) {
        socket_remove(&s->config->listen[i], s->socket_files[i]);
        if (s->sockets[i] >= 0)
            close(s->sockets[i]);
    }
    socket_remove(&s->config->admin, s->admin_file);
    free(s->sockets);
    free(s->socket_files);
}

static void close_parts(struct server *s)
{
    close_sockets(s);
    for (unsigned i = 0; s->workers && i < s->worker_count; i++)
        keepings_free(s->workers[i].keepings);
    free(s->workers);
    crowd_free(s->crowd);
    census_free(s->census);
    if (s->sink)
        sink_close(s->sink);
    captures_close(s->captures);
    serve_replay_end(s);
    if (s->keys)
        keystore_close(s->keys);
    reload_end(s);
    upstream_site_free(s->upstream_site);
    shares_free(s->shares);
    if (s->admin_token)
        secret_wipe(s->admin_token, strlen(s->admin_token));
    free(s->admin_token);
    config_free(s->now);
    config_free(s->config);
    metrics_free();
}

static int serve(const char *file, bool allow_root)
{
    static struct server server; /* static: threads may outlive a failed start */
    struct server *s = &server;
    struct faults faults = {0};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    heap_setup();
    (void)crypto_memory_setup(); /* nothing of OpenSSL's was used yet */
    event_memory_setup();
    (void)spare_setup(); /* without it, libraries may end the process where memory ends */
    pthread_mutex_init(&s->lock, NULL);
    s->config = config_load(file, &faults);
    bool ok = s->config != NULL;
    if (ok) {
        log_setup(s->config->log_level, s->config->log_format);
        s->now = config_ref(s->config);
        s->connections_max = descriptors_prepare(s->config, &s->config->limits);
        s->upstream_site = upstream_site_new(&s->config->upstream);
        s->shares = shares_new(s->config->limits.in_flight);
        ok = s->upstream_site && s->shares && prepare(s, allow_root, &faults);
    }
    faults_log(&faults);
    faults_free(&faults);
    const int code = ok ? serve_all(s, &signals) : EXIT_NEGATIVE;
    if (ok && code != EXIT_DONE) {
        close_sockets(s);
        _exit(code);
    }
    if (s->config)
        close_parts(s);
    return code;
}

struct serve_options {
    const char *config;
    bool allow_root;
};

static int serve_run(const void *given)
{
    const struct serve_options *q = given;
    return serve(q->config, q->allow_root);
}

static const struct command_option SERVE_OPTIONS[] = {
    OPTION_CONFIG(struct serve_options, config),
    {.name = "allow-root", .at = offsetof(struct serve_options, allow_root),
     .help = "Run as root where `user` is not set. Without it a gateway that is started as root refuses to."}};
const struct command COMMAND_SERVE = {
    .name = "serve", .does = "run the gateway",
    .about = "Runs the gateway in the foreground.\n"
             "`SIGTERM` stops accepting connections, finishes open requests and exits; a second one exits at once. "
             "`SIGHUP` reloads the configuration, rules, certificates and keys, and reopens logs. Settings that take a "
             "restart are named in the log. Rules and certificates are also reloaded when their files change. A reload "
             "that fails is logged, and the previous files stay in effect.",
    .exits = "0 stopped by a signal; 1 the gateway could not start",
    .also = ".BR systemd.exec (5)",
    COMMAND_OPTIONS(SERVE_OPTIONS), .size = sizeof(struct serve_options), .run = serve_run};
