#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config.h"
#include "base/locked.h"
#include "base/log.h"
#include "base/sink.h"
#include "cmd/check_user.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "gate/rules.h"
#include "http/sandbox.h"
#include "http/replay_line.h"
#include "http/tls.h"
#include "keys/keydb.h"
#include "keys/keystore.h"

static void lint_expiry(const char *path, int64_t expiry_us, struct faults *faults)
{
    if (expiry_us != TIME_NONE && expiry_us < time_now_us())
        faults_lint(faults, path, 0, 0, "certificate-expired: this certificate, or one of its chain, has expired");
}

/* By the reader that `serve` uses: what one of them takes, the other takes. */
static void check_certificates(const struct config *c, struct faults *faults)
{
    char why[TLS_WHY];
    for (size_t i = 0; i <= c->listen_count; i++) {
        const struct listen_config *l = i < c->listen_count ? c->listen + i : &c->admin;
        SSL_CTX *ctx = l->certificate ? tls_context(l, NULL, why) : NULL;
        if (ctx)
            lint_expiry(l->certificate, tls_context_expiry(ctx), faults);
        else if (l->certificate)
            faults_add(faults, NULL, 0, 0, "%s", why);
        SSL_CTX_free(ctx);
    }
    struct upstream_tls *tls = upstream_tls_load(&c->upstream, why);
    if (tls)
        lint_expiry(c->upstream.certificate, tls->expiry_us, faults);
    else
        faults_add(faults, NULL, 0, 0, "%s", why);
    upstream_tls_unref(tls);
}

/* A file that the gateway would make has to have a folder in which it can. */
static void check_can_be_made(const char *path, const char *what, struct faults *faults)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? str_dup((struct str){path, slash == path ? 1 : (size_t)(slash - path)}) : str_dup(STR("."));
    if (folder && access(folder, W_OK | X_OK) != 0)
        faults_add(faults, path, 0, 0, "%s cannot be created: %s: %s", what, folder, strerror(errno));
    free(folder);
}

/* The same as the sink does, without making anything. */
static void check_decisions(const char *where, struct faults *faults)
{
    if (str_eq_z(str_z(where), "stdout") || str_eq_z(str_z(where), "none") || sink_is_syslog(str_z(where)))
        return; /* a syslog server that is away is no reason not to serve */
    struct stat st;
    if (stat(where, &st) != 0 && errno == ENOENT)
        check_can_be_made(where, "the decision log", faults);
    else if (access(where, W_OK) != 0)
        faults_add(faults, where, 0, 0, "the decision log cannot be written: %s", strerror(errno));
    else if (S_ISDIR(st.st_mode))
        faults_add(faults, where, 0, 0, "the decision log cannot be written: %s", strerror(EISDIR));
}

/* Whether it opens, is whole, and is as far as its counter says. */
static void look_at_keys(const struct config *c, const struct master_keys *masters, struct faults *faults)
{
    struct keystore *keys = keystore_open_under(c->keys, masters->v, masters->n, KEYSTORE_READ, faults);
    if (keys && keystore_is_earlier(keys))
        complain("%s: is of an earlier version; the next start, or `kmsgate keys` command, takes it over", c->keys);
    else if (keys && c->keys_counter)
        (void)keystore_look_at_counter(keys, c->keys_counter, faults);
    keystore_close(keys);
}

/* One that several gateways have: where it is, then what is in it. */
static void check_shared(const struct config *c, const struct master_keys *masters, struct faults *faults)
{
    const size_t before = faults->errors;
    char *shown = keydb_shown(c->keys);
    keydb_lint(c->keys, shown ? shown : "keys", faults);
    free(shown);
    if (masters && faults->errors == before)
        look_at_keys(c, masters, faults);
}

/* A database that is not there yet is none that is at fault. What `serve` would refuse is found here: another master
 * key, damage, a tampered row, an older one. */
static void check_keys(const struct config *c, struct faults *faults)
{
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    const bool master = config_read_master_keys(c, &masters, faults);
    if (c->keys_counter && access(c->keys_counter, F_OK) != 0)
        check_can_be_made(c->keys_counter, "the counter of keys", faults);
    if (keydb_is_shared(c->keys))
        check_shared(c, master ? &masters : NULL, faults);
    else if (access(c->keys, F_OK) != 0)
        check_can_be_made(c->keys, "the key database", faults);
    else if (access(c->keys, R_OK | W_OK) != 0)
        faults_add(faults, c->keys, 0, 0, "the key database cannot be read and written: %s", strerror(errno));
    else if (master)
        look_at_keys(c, &masters, faults);
}

/* Where a run leaves its mark for the next one. One that is not there yet is told, and is no fault: a service manager
 * or a mount makes it. */
static void check_state(const struct config *c, struct faults *faults)
{
    struct stat st;
    if (stat(c->state, &st) != 0) {
        if (errno == ENOENT)
            complain("%s: `state` is not there yet: `serve` starts once it is a folder that the gateway may write to",
                     c->state);
        else
            faults_add(faults, c->state, 0, 0, "`state` cannot be looked at: %s", strerror(errno));
    } else if (!S_ISDIR(st.st_mode)) {
        faults_add(faults, c->state, 0, 0, "`state` is not a folder: expected one that the gateway may write to");
    } else if (faccessat(AT_FDCWD, c->state, W_OK | X_OK, AT_EACCESS) != 0) {
        faults_add(faults, c->state, 0, 0, "`state` cannot be written: %s", strerror(errno));
    }
}

/* Whether it can be bound, but for its port, which a gateway that runs may have. */
static void check_address(const struct listen_config *l, struct faults *faults)
{
    struct sockaddr_storage sa = l->sa;
    if (sa.ss_family == AF_UNIX) {
        check_can_be_made(((const struct sockaddr_un *)&l->sa)->sun_path, "the socket", faults);
        return;
    }
    if (sa.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)&sa)->sin6_port = 0;
    else
        ((struct sockaddr_in *)(void *)&sa)->sin_port = 0;
    const int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&sa, l->sa_len) != 0)
        faults_add(faults, l->address, 0, 0, "this machine cannot listen there: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void check_addresses(const struct config *c, struct faults *faults)
{
    for (size_t i = 0; i < c->listen_count; i++)
        check_address(&c->listen[i], faults);
    if (c->admin.address)
        check_address(&c->admin, faults);
}

static void check_tickets(const struct config *c, struct faults *faults)
{
    struct secret_key fleet SECRET_CLEANUP = {{0}};
    if (c->tickets.kind != SECRET_NONE)
        (void)config_read_tickets(c, &fleet, faults);
}

/* The server itself is not asked: it may be away, and a check changes nothing. */
static void check_replay(const struct config *c, struct faults *faults)
{
#ifdef KMSGATE_FLEET
    char why[TLS_WHY];
    struct secret_key secret SECRET_CLEANUP = {{0}};
    struct replay_site *site = NULL;
    if (!c->replay.host_count)
        return;
    (void)config_read_key(&c->replay.secret, "key of the replay memory", &secret, faults);
    char *password = c->replay.password.kind != SECRET_NONE ? config_read_token(&c->replay.password, faults) : NULL;
    if (password)
        secret_wipe(password, strlen(password));
    free(password);
    if (!(site = replay_site_new(&c->replay, why)))
        faults_add(faults, NULL, 0, 0, "%s", why);
    replay_site_free(site);
#else
    (void)c;
    (void)faults;
#endif
}

/* The same as the gateway does, without making anything. */
static void check_captures(const char *folder, struct faults *faults)
{
    struct stat st;
    if (!folder)
        return;
    if (stat(folder, &st) != 0 && errno == ENOENT)
        check_can_be_made(folder, "the folder of captures", faults);
    else if (access(folder, R_OK | W_OK | X_OK) != 0 || !S_ISDIR(st.st_mode))
        faults_add(faults, folder, 0, 0, "captures cannot be kept there: %s",
                   S_ISDIR(st.st_mode) ? strerror(errno) : strerror(ENOTDIR));
}

/* Of this process: that of the service may be another, which systemd's ExecStartPre has, too. */
static void lint_memory(const struct config *c, struct faults *faults)
{
    const size_t limit = locked_limit(c->user != NULL), need = sandbox_memory(c);
    if (limit < need)
        faults_lint(faults, c->file, 0, 0,
                    "memory-lock: RLIMIT_MEMLOCK is %zu KiB, and %zu KiB at least are needed for %u worker%s: keys in "
                    "clear can be swapped (LimitMEMLOCK of systemd, --ulimit memlock of a container)", limit / 1024,
                    need / 1024, config_workers(c), config_workers(c) == 1 ? "" : "s");
}

static void lint_captures(const struct config *c, const struct rules *r, struct faults *faults)
{
    for (size_t i = 0; r && !c->captures && i < r->request_count; i++)
        if (r->requests[i].capture && !rules_accept(r, "capture-nowhere", r->requests[i].id))
            faults_lint(faults, c->rules, r->requests[i].line, 5,
                        "capture-nowhere: rule `%s` keeps bodies, and `captures` of %s names no folder: none are kept",
                        r->requests[i].id, c->file);
}

/* What the configuration names must be there and readable by the user who checks. */
static void check_files(const struct config *c, struct faults *faults)
{
    check_addresses(c, faults);
    check_certificates(c, faults);
    check_tickets(c, faults);
    check_decisions(c->decisions, faults);
    check_captures(c->captures, faults);
    check_keys(c, faults);
    check_state(c, faults);
    check_replay(c, faults);
    check_user(c, faults);
    if (c->admin_token.kind != SECRET_NONE) {
        char *token = config_read_token(&c->admin_token, faults);
        if (token)
            secret_wipe(token, strlen(token));
        free(token);
    }
}

/* The first of the networks whose requests a proxy that is trusted may hand on without a word of their client. */
static const struct cidr *within_proxies(const struct request_match *m, const struct listen_config *l)
{
    for (size_t i = 0; i < m->source_count; i++)
        for (size_t k = 0; k < l->trusted_proxy_count; k++)
            if (l->trusted_proxies[k].bits <= m->source[i].bits &&
                cidr_contains(&l->trusted_proxies[k], &m->source[i].base))
                return &m->source[i];
    return NULL;
}

/* What only both files together tell: a trusted proxy's own address, by which a rule bounds what is unsigned, is that
 * of every client whose X-Forwarded-For the proxy leaves out. */
static void lint_proxies(const struct config *c, const struct rules *r, struct faults *faults)
{
    for (size_t i = 0; i < r->request_count; i++)
        for (size_t k = 0; k < c->listen_count; k++) {
            const struct request_rule *q = r->requests + i;
            const struct cidr *found = request_rule_takes(q) & (FORM_UNSIGNED | FORM_EMPTY)
                                           ? within_proxies(&q->match, &c->listen[k]) : NULL;
            if (!found || rules_accept(r, "proxy-source", q->id))
                continue;
            char address[IP_TEXT];
            ip_format(&found->base, address);
            faults_lint(faults, r->file, q->line, 1,
                        "proxy-source: rule `%s` bounds what is unsigned by %s, which is a trusted proxy's own address "
                        "(listen[%zu].trusted_proxies): so has every client that comes through it without "
                        "X-Forwarded-For. Name the clients' networks", q->id, address, k);
            break;
        }
}

static bool print_rules(const struct rules *r)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 << 20);
    rules_describe(r, &out);
    if (out.failed || !out.p) {
        complain("out of memory");
        return false;
    }
    fwrite(out.p, 1, out.n, stdout);
    return true;
}

static int check(const char *config_path, const char *rules_path, bool strict, bool print)
{
    struct faults faults = {0};
    struct rules *r = NULL;
    struct config *c = config_path ? config_load(config_path, &faults) : NULL;
    if (c) {
        check_files(c, &faults);
        rules_path = c->rules;
    }
    if (rules_path)
        r = rules_load(rules_path, &faults);
    if (r && c && c->replay.host_count)
        (void)rules_fit_shared(r, &faults);
    if (c) {
        lint_captures(c, r, &faults);
        lint_memory(c, &faults);
    }
    if (r && c)
        lint_proxies(c, r, &faults);
    if (print && c)
        fputs(c->text, stdout);
    bool ok = !print || !r || print_rules(r);
    const size_t lints = faults.n - faults.errors;
    faults_print(&faults, stderr);
    ok = ok && !faults.errors && !(strict && lints);
    if (!print)
        printf("%s: %zu fault%s, %zu lint%s\n", config_path ? config_path : rules_path, faults.errors,
               faults.errors == 1 ? "" : "s", lints, lints == 1 ? "" : "s");
    rules_unref(r);
    config_free(c);
    faults_free(&faults);
    return ok && fflush(stdout) == 0 ? EXIT_DONE : EXIT_NEGATIVE;
}

struct check_options {
    const char *config, *rules;
    bool strict, print;
};

static int check_run(const void *given)
{
    const struct check_options *q = given;
    if (q->config && q->rules)
        return usage_error(&COMMAND_CHECK, "found both --config and `%s`, expected one of them", q->rules);
    return check(q->rules ? NULL : q->config ? q->config : config_default(), q->rules, q->strict, q->print);
}

static const struct command_option CHECK_OPTIONS[] = {
    {.name = "config", .letter = 'c', .argument = "FILE", .type = VALUE_FILE,
     .at = offsetof(struct check_options, config),
     .help = "The configuration of the gateway. Without it and without a RULES.yaml: `$KMSGATE_CONFIG`, else "
             "`" CONFIG_DEFAULT "`."},
    {.name = "strict", .at = offsetof(struct check_options, strict), .help = "Count lints as faults."},
    {.name = "print", .at = offsetof(struct check_options, print),
     .help = "Print every setting in effect and where it comes from. Secrets are masked."}};
static const struct command_operand CHECK_OPERANDS[] = {
    {.name = "RULES.yaml", .type = VALUE_FILE, .optional = true, .at = offsetof(struct check_options, rules),
     .help = "Check this rules file alone."}};
const struct command COMMAND_CHECK = {
    .name = "check", .does = "validate configuration and rules",
    .about = "Validates a configuration, the files that it names and its rules, or a rules file alone. All faults are "
             "printed as FILE:LINE:COLUMN: message, followed by the lints: settings that are valid but deserve a look.",
    .exits = "0 no faults; 1 faults, or lints with `--strict`",
    .examples = "kmsgate check --config gateway.yaml\nkmsgate check --strict rules.yaml\n",
    COMMAND_TAKES(CHECK_OPTIONS, CHECK_OPERANDS, struct check_options), .run = check_run};
