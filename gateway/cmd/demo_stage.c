#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/timestamp.h"
#include "cmd/client.h"
#include "cmd/demo.h"
#include "cmd/spec_rules.h" /* rules/spec.yaml, by CMake */

enum { START_SECONDS = 20, END_SECONDS = 15, LINE_SECONDS = 5, TRIES = 3, STEP_US = 10000 };

static void path_of(const struct stage *s, const char *name, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%s", s->folder, name);
}

static sigset_t ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    return set;
}

bool stage_stop(void)
{
    sigset_t pending;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP));
}

/* --- files -------------------------------------------------------------------------------------------------------- */

static bool write_file(const struct stage *s, const char *name, struct str text)
{
    char path[PATH_MAX];
    path_of(s, name, path);
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const bool ok = fd >= 0 && text.p && write(fd, text.p, text.n) == (ssize_t)text.n;
    if (!ok)
        complain("demo: %s: cannot be written: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool random_hex(struct buf *out)
{
    unsigned char key[KEY_BYTES];
    const bool ok = RAND_bytes(key, sizeof key) == 1;
    buf_hex(out, key, sizeof key, false);
    secret_wipe(key, sizeof key);
    return ok && !out->failed;
}

static bool write_secrets(const struct stage *s)
{
    static const char *const USERS[] = {"alice", "bob"}, *const TYPES[] = {"ink", "trk"};
    struct buf master BUF_CLEANUP = BUF_INIT_SECRET(256), keys BUF_CLEANUP = BUF_INIT_SECRET(4096);
    bool ok = random_hex(&master);
    for (int i = 0; ok && i < 4; i++) {
        const char *user = USERS[i / 2], *type = TYPES[i % 2];
        buf_printf(&keys, "{\"user\":\"sip:%s@example.org\",\"type\":\"%s\",\"id\":\"%s.1.%s\",\"key\":\"", user, type,
                   type, user);
        ok = random_hex(&keys);
        buf_z(&keys, "\"}\n");
    }
    return ok && !keys.failed && write_file(s, "master.key", buf_view(&master)) &&
           write_file(s, "keys.jsonl", buf_view(&keys));
}

static bool write_config(const struct stage *s)
{
    struct buf b BUF_CLEANUP = BUF_INIT(4096);
    char path[PATH_MAX];
    buf_printf(&b,
               "listen:\n"
               "  - address: 127.0.0.1:%u\n"
               "admin: 127.0.0.1:%u\n"
               "public_url: http://127.0.0.1:%u\n"
               "upstream: { url: \"%s\", timeout: 5s }\n"
               "rules: rules.yaml\n"
               "keys: sqlite:kmsgate.db\n"
               "master_key: file:master.key\n"
               "decisions: decisions.jsonl\n",
               s->port, s->admin_port, s->port, s->kms_url);
    path_of(s, "gateway.yaml", path);
    unlink(path); /* of another try */
    return !b.failed && write_file(s, "gateway.yaml", buf_view(&b));
}

/* The last line of a child's log: why it ended. */
static void tell_log(const struct stage *s, const char *who, const char *log)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    char path[PATH_MAX];
    path_of(s, log, path);
    if (!client_read(path, &text))
        return;
    while (text.n && text.p[text.n - 1] == '\n')
        text.n--;
    const char *newline = text.n ? memrchr(text.p, '\n', text.n) : NULL;
    const size_t from = newline ? (size_t)(newline - text.p) + 1 : 0;
    if (text.n > from)
        complain("demo: %s: %.*s", who, (int)(text.n - from), text.p + from);
}

/* The folder is flat. */
static void remove_folder(const struct stage *s)
{
    DIR *dir = opendir(s->folder);
    char path[PATH_MAX];
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        path_of(s, e->d_name, path);
        if (!str_eq_z(str_z(e->d_name), ".") && !str_eq_z(str_z(e->d_name), ".."))
            unlink(path);
    }
    if (dir)
        closedir(dir);
    if (rmdir(s->folder) != 0)
        complain("demo: %s: cannot be removed: %s", s->folder, strerror(errno));
}

/* --- children ----------------------------------------------------------------------------------------------------- */

/* The environment without KMSGATE_…, which would win over the demo's gateway.yaml. */
static char **clean_environment(void)
{
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        if (!str_starts(str_z(environ[i]), STR("KMSGATE_")))
            out[kept++] = environ[i];
    return out;
}

/* In the child, from fork to exec: async-signal-safe calls alone. It dies with the demo. */
static void stage_become(const struct stage *s, const char *log, const char *const argv[], char *const environment[])
{
    sigset_t none;
    sigemptyset(&none);
    const int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == s->self && setpgid(0, 0) == 0 && in >= 0 && out >= 0 &&
        dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 && dup2(out, STDERR_FILENO) >= 0 &&
        chdir(s->folder) == 0 && signal(SIGPIPE, SIG_DFL) != SIG_ERR && sigprocmask(SIG_SETMASK, &none, NULL) == 0)
        execve(argv[0], (char *const *)(uintptr_t)argv, environment); /* which changes none of them */
    _exit(127);
}

/* posix_spawn() cannot ask for the signal that a parent's death sends, hence fork. 0: told. */
static pid_t stage_start(const struct stage *s, const char *log, const char *const argv[])
{
    char path[PATH_MAX];
    path_of(s, log, path);
    char **environment = clean_environment();
    const pid_t child = environment ? fork() : -1;
    if (child == 0)
        stage_become(s, path, argv, environment);
    if (child < 0)
        complain("demo: %s cannot be started: %s", argv[0], strerror(errno));
    free(environment);
    return child > 0 ? child : 0;
}

/* True when the child has ended; *code is its exit code, or 128 + the signal. */
static bool has_ended(pid_t child, int *code)
{
    int status = 0;
    if (waitpid(child, &status, WNOHANG) != child)
        return false;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
}

static bool ends_within(pid_t child, int seconds, int *code)
{
    const int64_t until = time_mono_us() + seconds * US_PER_S;
    while (!has_ended(child, code)) {
        if (time_mono_us() > until)
            return false;
        usleep(STEP_US);
    }
    return true;
}

static void demo_stage_end(pid_t *child)
{
    int code;
    if (*child && kill(*child, SIGTERM) == 0 && !ends_within(*child, END_SECONDS, &code)) {
        kill(*child, SIGKILL);
        waitpid(*child, NULL, 0);
    }
    *child = 0;
}

/* --- what stands on the stage ------------------------------------------------------------------------------------- */

static bool find_programs(struct stage *s)
{
    const ssize_t n = readlink("/proc/self/exe", s->program, sizeof s->program - 1);
    if (n <= 0) {
        complain("demo: /proc/self/exe: cannot be read: %s", strerror(errno));
        return false;
    }
    s->program[n] = 0;
    const char *slash = strrchr(s->program, '/');
    const size_t folder = slash ? (size_t)(slash - s->program) : 0;
    snprintf(s->legacy, sizeof s->legacy, "%.*s/legacy_kms", (int)folder, s->program);
    if (access(s->legacy, X_OK) == 0)
        return true;
    complain("demo: %s: expected the legacy KMS there, which is built with kmsgate (gateway/demo): %s", s->legacy,
             strerror(errno));
    return false;
}

/* False when it ended, or nothing came within the time; `what` is told then. */
static bool comes(bool (*there)(struct stage *), struct stage *s, pid_t *child, const char *what, const char *log)
{
    const int64_t until = time_mono_us() + START_SECONDS * US_PER_S;
    int code = 0;
    while (!there(s)) {
        if (stage_stop())
            return false;
        if (has_ended(*child, &code)) {
            *child = 0;
            complain("demo: %s ended with %d before it was ready", what, code);
            tell_log(s, what, log);
            return false;
        }
        if (time_mono_us() > until) {
            complain("demo: %s is not ready after %d seconds", what, START_SECONDS);
            tell_log(s, what, log);
            return false;
        }
        usleep(STEP_US);
    }
    return true;
}

static bool kms_listens(struct stage *s)
{
    static const char SAYS[] = "listening on ";
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 16);
    char path[PATH_MAX];
    path_of(s, "legacy_kms.log", path);
    if (access(path, R_OK) != 0 || !client_read(path, &text))
        return false;
    const char *at = text.p ? strstr(text.p, SAYS) : NULL, *newline = at ? strchr(at, '\n') : NULL;
    if (newline)
        snprintf(s->kms_url, sizeof s->kms_url, "%.*s", (int)(newline - at) - (int)sizeof SAYS + 1,
                 at + sizeof SAYS - 1);
    return newline != NULL;
}

static bool gateway_ready(struct stage *s)
{
    struct buf reply BUF_CLEANUP = BUF_INIT(1 << 16);
    char url[64];
    long status = 0;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/readyz", s->admin_port);
    return client_post(&(struct client_post){.url = url, .quiet = true, .stop = stage_stop}, &status, &reply) &&
           status == 200;
}

static bool start_kms(struct stage *s)
{
    const char *const argv[] = {s->legacy, "--listen", "127.0.0.1:0", "--kms-uri", DEMO_KMS_URI, "--log",
                                "legacy.jsonl", NULL};
    return (s->kms = stage_start(s, "legacy_kms.log", argv)) &&
        comes(kms_listens, s, &s->kms, "the legacy KMS", "legacy_kms.log");
}

/* A command that ends by itself; called so. */
static bool stage_run(const struct stage *s, const char *called, const char *log, const char *const argv[])
{
    int code = -1;
    const pid_t child = stage_start(s, log, argv);
    if (!child)
        return false;
    if (!ends_within(child, START_SECONDS, &code)) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    if (code == 0)
        return true;
    complain("demo: `%s` ended with %d", called, code);
    tell_log(s, called, log);
    return false;
}

static bool import_keys(const struct stage *s)
{
    const char *const argv[] = {s->program, "keys", "import", "--first", "--config", "gateway.yaml", "keys.jsonl",
                                NULL};
    return stage_run(s, "kmsgate keys import", "import.log", argv);
}

bool stage_make_due(const struct stage *s)
{
    const char *const argv[] = {s->program, "keys", "renew", "--config", "gateway.yaml", "--user", DEMO_USER, NULL};
    return stage_run(s, "kmsgate keys renew", "renew.log", argv);
}

/* The standard's, in which the last response rule is the only one, and new keys. */
static bool write_rules(const struct stage *s)
{
    struct buf b BUF_CLEANUP = BUF_INIT(1 << 16);
    buf_bytes(&b, SPEC_RULES, sizeof SPEC_RULES);
    buf_z(&b, "    renew: { trk: 90d, ink: 90d }\n");
    return !b.failed && write_file(s, "rules.yaml", buf_view(&b));
}

/* Both are held until both are known, so that they differ. */
static bool free_ports(unsigned port[2])
{
    int fd[2] = {-1, -1};
    bool ok = true;
    for (int i = 0; ok && i < 2; i++) {
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t n = sizeof sa;
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ok = fd[i] >= 0 && bind(fd[i], (struct sockaddr *)&sa, sizeof sa) == 0 &&
             getsockname(fd[i], (struct sockaddr *)&sa, &n) == 0;
        port[i] = ntohs(sa.sin_port);
    }
    if (!ok)
        complain("demo: no free port on 127.0.0.1: %s", strerror(errno));
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    return ok;
}

/* Another program may take a port between its choice and its use: then with others. */
static bool start_gateway(struct stage *s)
{
    const char *const argv[] = {s->program, "serve", "--allow-root", "--config", "gateway.yaml", NULL};
    for (int i = 0; i < TRIES && !stage_stop(); i++) {
        unsigned port[2];
        if (!free_ports(port))
            return false;
        s->port = port[0];
        s->admin_port = port[1];
        if (!write_config(s) || (i == 0 && !import_keys(s)) || !(s->gateway = stage_start(s, "gateway.log", argv)))
            return false;
        if (comes(gateway_ready, s, &s->gateway, "the gateway", "gateway.log"))
            return true;
        if (s->gateway) /* it runs, and does not get ready */
            return false;
    }
    return false;
}

bool stage_begin(struct stage *s)
{
    const char *base = getenv("TMPDIR");
    sigset_t set = ending_signals();
    *s = (struct stage){.self = getpid()};
    sigaddset(&set, SIGCHLD); /* for stage_wait() */
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR || !find_programs(s))
        return false;
    if (!base || *base != '/' || strlen(base) > sizeof s->folder - sizeof "/kmsgate-demo-XXXXXX")
        base = "/tmp";
    snprintf(s->folder, sizeof s->folder, "%s/kmsgate-demo-XXXXXX", base);
    if (!mkdtemp(s->folder)) { /* mode 0700 */
        complain("demo: %s: cannot be made: %s", s->folder, strerror(errno));
        s->folder[0] = 0;
        return false;
    }
    return write_secrets(s) && write_rules(s) && start_kms(s) && start_gateway(s);
}

void stage_end(struct stage *s)
{
    demo_stage_end(&s->gateway);
    demo_stage_end(&s->kms);
    if (s->folder[0])
        remove_folder(s);
    s->folder[0] = 0;
}

bool stage_wait(struct stage *s)
{
    sigset_t set = ending_signals();
    int got = 0, code = 0;
    sigaddset(&set, SIGCHLD);
    for (;;) {
        if (sigwait(&set, &got) == 0 && got != SIGCHLD)
            return true;
        if (has_ended(s->gateway, &code)) {
            s->gateway = 0;
            complain("demo: the gateway ended with %d", code);
            tell_log(s, "the gateway", "gateway.log");
            return false;
        }
        if (has_ended(s->kms, &code)) {
            s->kms = 0;
            complain("demo: the legacy KMS ended with %d", code);
            return false;
        }
    }
}

/* --- what was noted ----------------------------------------------------------------------------------------------- */

static struct str line_of(struct str text, unsigned n)
{
    for (size_t begin = 0, i = 0; i < text.n; i++)
        if (text.p[i] == '\n') {
            if (--n == 0)
                return (struct str){text.p + begin, i - begin};
            begin = i + 1;
        }
    return STR_MISSING;
}

static bool read_reason(const struct stage *s, unsigned n, struct buf *reason)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    char path[PATH_MAX];
    size_t at;
    const char *why;
    path_of(s, "decisions.jsonl", path);
    const struct str line = access(path, R_OK) == 0 && client_read(path, &text)
        ? line_of(buf_view(&text), n) : STR_MISSING;
    struct json_doc *doc = line.p ? json_read(line, &at, &why) : NULL;
    const struct json_value *v = doc ? json_get(json_root(doc), "reason") : NULL;
    if (v)
        buf_str(reason, v->text);
    json_free(doc);
    return v && !reason->failed;
}

bool stage_decision(const struct stage *s, unsigned n, struct buf *reason)
{
    const int64_t until = time_mono_us() + LINE_SECONDS * US_PER_S;
    while (!read_reason(s, n, reason)) {
        if (stage_stop())
            return false;
        if (time_mono_us() > until) {
            complain("demo: %s/decisions.jsonl: line %u does not come", s->folder, n);
            return false;
        }
        usleep(STEP_US);
    }
    return true;
}

bool stage_seen(const struct stage *s, unsigned *requests, bool *is_signed)
{
    static const char SIGNATURE[] = "SignatureValue";
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    char path[PATH_MAX];
    path_of(s, "legacy.jsonl", path);
    *requests = 0;
    if (!client_read(path, &text))
        return false;
    for (size_t i = 0; i < text.n; i++)
        *requests += text.p[i] == '\n';
    *is_signed = text.n && memmem(text.p, text.n, SIGNATURE, sizeof SIGNATURE - 1);
    return true;
}
