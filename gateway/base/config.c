#include "base/config.h"

#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config_internal.h"

size_t config_option_of(const char *path)
{
    size_t i = 0;
    while (i + 1 < OPTION_COUNT && !str_eq_z(str_z(OPTIONS[i].path), path))
        i++;
    return i;
}

/* Where the option was given: in the file, or the environment's name. */
void config_fault_of(struct load *l, const char *path, bool lint, const char *message)
{
    const struct held *h = l->held + config_option_of(path);
    const char *where = h->line || !h->origin || str_eq_z(str_z(h->origin), "default") ? l->in.file : h->origin;
    (lint ? faults_lint : faults_add)(l->faults, where, h->line, h->column, "%s", message);
}

static void fault_of(struct load *l, const char *path, const char *message)
{
    config_fault_of(l, path, false, message);
}

bool config_is_loopback(const struct listen_config *a)
{
    struct ip ip;
    struct cidr four, six;
    ip_from_sockaddr((const struct sockaddr *)&a->sa, &ip);
    return cidr_parse(STR("127.0.0.0/8"), &four) && cidr_parse(STR("::1/128"), &six) &&
           (cidr_contains(&four, &ip) || cidr_contains(&six, &ip));
}

static void check_required(struct load *l, const struct yaml_node *root)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (OPTIONS[i].required && !l->held[i].given)
            yaml_fault(&l->in, root, "the key `%s` is missing", OPTIONS[i].path);
    if (!yaml_get(root, "listen"))
        yaml_fault(&l->in, root, "the key `listen` is missing");
}

static const char PLAIN_UPSTREAM[] =
    "upstream.tls is given, but upstream.url is not an https URL: nothing would be verified";

static bool is_plain_upstream(const struct config *c)
{
    return c->upstream.url && !str_starts(str_z(c->upstream.url), STR("https:"));
}

/* Whoever writes `tls` takes what is said there for encrypted: with nothing in it, it is no preset. */
static void check_tls_of(struct load *l, const struct yaml_node *root)
{
    const struct yaml_node *admin = yaml_get(yaml_get(root, "admin"), "tls");
    const struct yaml_node *upstream = yaml_get(yaml_get(root, "upstream"), "tls");
    const struct config *c = l->c;
    if (admin && admin->kind == YAML_MAPPING && !admin->first && !c->admin.certificate)
        yaml_fault(&l->in, admin, "found admin.tls without a `certificate`: the address would speak plain HTTP");
    if (upstream && upstream->kind == YAML_MAPPING && !upstream->first && !c->upstream.ca && !c->upstream.certificate &&
        is_plain_upstream(c))
        yaml_fault(&l->in, upstream, "%s", PLAIN_UPSTREAM);
}

static void check_together(struct load *l)
{
    const struct config *c = l->c;
    if (!c->upstream.certificate != !c->upstream.key)
        fault_of(l, c->upstream.certificate ? "upstream.tls.certificate" : "upstream.tls.key",
                 "`certificate` and `key` of upstream.tls belong together: one of them is missing");
    if ((c->upstream.ca || c->upstream.certificate) && is_plain_upstream(c))
        fault_of(l, c->upstream.ca ? "upstream.tls.ca" : "upstream.tls.certificate", PLAIN_UPSTREAM);
    if (!c->admin.certificate != !c->admin.key)
        fault_of(l, c->admin.certificate ? "admin.tls.certificate" : "admin.tls.key",
                 "`certificate` and `key` of admin.tls belong together: one of them is missing");
    if (c->admin.client_ca && !c->admin.certificate)
        fault_of(l, "admin.tls.client_ca", "admin.tls has a `client_ca`, but no certificate of its own");
    if (c->admin.client_auth && !c->admin.client_ca)
        fault_of(l, "admin.tls.client_auth",
                 "`client_auth` without `client_ca`: there is nothing to hold client certificates against");
    if (c->admin.address && !config_is_loopback(&c->admin) && c->admin_token.kind == SECRET_NONE)
        fault_of(l, "admin", "an admin address other than loopback needs `admin_token`");
    for (size_t i = 0; i < c->listen_count; i++)
        if (c->admin.address && str_eq(str_z(c->listen[i].address), str_z(c->admin.address)) &&
            !str_ends(str_z(c->admin.address), STR(":0")))
            fault_of(l, "admin", "the admin address is a listener's address, too");
}

static void set_presets(struct load *l)
{
    struct shown expected;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (OPTIONS[i].preset)
            option_set(l, i, &(struct incoming){str_z(OPTIONS[i].preset), ""}, &expected, "default");
        l->held[i].given = false;
    }
    cpu_set_t cpus;
    const size_t workers = config_option_of("workers");
    struct buf n BUF_CLEANUP = BUF_INIT(20);
    buf_printf(&n, "%d", sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1);
    option_set(l, workers, &(struct incoming){n.p ? buf_view(&n) : STR("1"), ""}, &expected, "default: one per core");
    l->held[workers].given = false;
    if (!l->c->workers)
        l->c->workers = 1;
}

/* Whoever names authorities asks for certificates of theirs. */
static void set_admin_auth(struct load *l)
{
    struct listen_config *a = &l->c->admin;
    if (a->client_ca && a->client_auth == CLIENT_AUTH_NONE)
        a->client_auth = CLIENT_AUTH_REQUIRED;
}

/* Beside the file of the keys, where they are in one: both belong together. */
static void set_state(struct load *l)
{
    const bool file = l->c->keys && !str_starts(str_z(l->c->keys), STR("postgresql://"));
    const char *slash = file ? strrchr(l->c->keys, '/') : NULL;
    const struct str folder = slash ? (struct str){l->c->keys, slash == l->c->keys ? 1 : (size_t)(slash - l->c->keys)}
                                    : file ? STR(".") : STR("/var/lib/kmsgate");
    struct shown expected;
    if (!l->c->state)
        option_set(l, config_option_of("state"), &(struct incoming){folder, ""}, &expected,
                   file ? "default: beside the keys" : "default");
}

static bool config_print(struct load *l)
{
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    buf_str(&out, l->listen.p ? buf_view(&l->listen) : STR(""));
    const bool shared = l->c->replay.host_count;
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (l->held[i].value && (shared || !str_starts(str_z(OPTIONS[i].path), STR("replay."))) &&
            !(str_eq_z(str_z(OPTIONS[i].path), "replay") && l->held[i + 1].value))
            setting_print(&out, OPTIONS[i].path, str_z(l->held[i].value), l->held[i].origin ? l->held[i].origin : "");
    l->c->text = out.failed || l->listen.failed ? NULL : str_dup(buf_view(&out));
    return l->c->text;
}

/* What config_compare() looks at, later. */
static bool keep_values(struct load *l)
{
    struct strings *kept = &l->c->values;
    kept->v = calloc(OPTION_COUNT, sizeof *kept->v);
    if (!kept->v)
        return false;
    kept->n = OPTION_COUNT;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        kept->v[i] = l->held[i].value;
        l->held[i].value = NULL;
    }
    return true;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return str_dup(slash ? (struct str){path, (size_t)(slash - path) + 1} : STR(""));
}

static void load_free(struct load *l)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        free(l->held[i].value);
        free(l->held[i].origin);
    }
    free(l->folder);
    buf_free(&l->listen);
}

struct config *config_load(const char *path, struct faults *faults)
{
    const size_t faults_before = faults->n, errors_before = faults->errors;
    struct yaml *y = yaml_load(path, faults);
    if (!y)
        return NULL;
    struct load l = {.c = calloc(1, sizeof *l.c),
                     .faults = faults,
                     .in = {path, faults},
                     .folder = folder_of(path),
                     .listen = BUF_INIT(1 << 20)};
    if (l.c)
        atomic_init(&l.c->refs, 1);
    bool ok = l.c && l.folder && (l.c->file = str_dup(str_z(path)));
    if (ok) {
        set_presets(&l);
        config_walk(&l, y->root);
        if (y->root->kind == YAML_MAPPING) {
            config_environment(&l);
            check_required(&l, y->root);
            check_together(&l);
            check_tls_of(&l, y->root);
            config_check_replay(&l);
            set_admin_auth(&l);
            set_state(&l);
        }
        yaml_sort_faults(faults, faults_before, path);
        ok = config_print(&l) && keep_values(&l);
    }
    if (!ok)
        faults_add(faults, path, 0, 0, "out of memory");
    yaml_done(y);
    load_free(&l);
    if (faults->errors == errors_before)
        return l.c;
    config_free(l.c);
    return NULL;
}

static void listen_free(struct listen_config *a)
{
    free(a->address);
    free(a->certificate);
    free(a->key);
    free(a->client_ca);
    free(a->trusted_proxies);
}

static void each_of_listener(const struct listen_config *l, void (*each)(void *arg, const char *path), void *arg)
{
    const char *const paths[] = {l->certificate, l->key, l->client_ca};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (paths[i])
            each(arg, paths[i]);
}

void config_each_reread(const struct config *c, void (*each)(void *arg, const char *path), void *arg)
{
    const char *const paths[] = {c->file, c->rules, c->upstream.ca, c->upstream.certificate, c->upstream.key,
                                 c->replay.ca};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (paths[i])
            each(arg, paths[i]);
    for (size_t i = 0; i < c->listen_count; i++)
        each_of_listener(&c->listen[i], each, arg);
    each_of_listener(&c->admin, each, arg);
    for (size_t i = 0; i <= c->master_more_n; i++) {
        const struct secret_source *s = i ? &c->master_more[i - 1] : &c->master_key;
        if (s->kind == SECRET_FILE)
            each(arg, s->name);
    }
}

struct config *config_ref(struct config *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void config_free(struct config *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    for (size_t i = 0; i < c->listen_count; i++)
        listen_free(c->listen + i);
    free(c->listen);
    listen_free(&c->admin);
    strings_free(&c->public_url);
    config_clear_masters(c);
    config_clear_replay(&c->replay);
    strings_free(&c->values);
    if (c->keys)
        secret_wipe(c->keys, strlen(c->keys)); /* it may hold a password */
    char *const texts[] = {c->file, c->admin_token.name, c->tickets.name, c->upstream.url, c->upstream.ca,
                           c->upstream.certificate, c->upstream.key, c->rules, c->keys, c->state, c->keys_counter,
                           c->decisions, c->captures, c->user, c->text, c->replay.url, c->replay.secret.name,
                           c->replay.password.name, c->replay.user, c->replay.ca};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(texts[i]);
    free(c);
}

unsigned config_workers(const struct config *c)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return c->workers ? c->workers : cores > 0 ? (unsigned)cores : 1;
}
