#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/sink.h"
#include "http/server.h"
#include "http/tickets.h"

#define DAY_US (INT64_C(86400) * US_PER_S)
#define AGAIN_US (2 * US_PER_S)
enum { WARN_DAYS = 30, FAULTS_TOLD = 20 };

static const char *part_kind(size_t part)
{
    return part == PART_CONFIG ? "gateway.yaml" : part == PART_RULES ? "rules" : "certificate";
}

/* The address whose certificate it is; not of what stands before PART_ADMIN. */
static const struct listen_config *part_address(const struct server *s, size_t part)
{
    return part == PART_ADMIN ? &s->config->admin : &s->config->listen[part - PART_LISTENERS];
}

static const char *part_file(const struct server *s, size_t part)
{
    if (part == PART_CONFIG)
        return s->config->file;
    if (part == PART_RULES)
        return s->config->rules;
    const struct upstream_config *u = &s->config->upstream;
    if (part == PART_UPSTREAM)
        return u->certificate ? u->certificate : u->ca;
    return part_address(s, part)->certificate;
}

#define NO_MEMORY "out of memory"

/* For want of descriptors or memory: the files themselves may be good. Their readers say so in the system's words, or
 * in these. */
static bool scarce(const char *why)
{
    static const int WANTS[] = {EMFILE, ENFILE, ENOMEM};
    static const char *const WORDS[] = {NO_MEMORY, "no memory", "expected more memory"};
    bool found = false;
    for (size_t i = 0; why && i < sizeof WANTS / sizeof *WANTS; i++)
        found = found || strstr(why, strerror(WANTS[i]));
    for (size_t i = 0; why && i < sizeof WORDS / sizeof *WORDS; i++)
        found = found || strstr(why, WORDS[i]);
    return found;
}

bool reload_trouble(struct server *s, size_t part, const char *why)
{
    struct part *p = &s->parts[part];
    p->again_us = scarce(why) ? time_mono_us() + AGAIN_US : 0;
    pthread_mutex_lock(&s->lock);
    const bool before = p->trouble_us != 0;
    p->trouble_us = why ? time_now_us() : 0;
    snprintf(p->trouble, sizeof p->trouble, "%s", why ? why : "");
    pthread_mutex_unlock(&s->lock);
    return before;
}

static void tell_rules(const struct server *s)
{
    struct buf label BUF_CLEANUP = BUF_INIT(256);
    metric_label(&label, "hash", str_z(s->rules->hash));
    metric_info(METRIC_RULES_INFO, label.failed ? NULL : label.p);
}

const char *reload_tell_faults(const char *object, const char *file, const struct faults *faults, const char *outcome)
{
    const char *first = NULL;
    size_t told = 0;
    for (size_t i = 0; i < faults->n && told < FAULTS_TOLD; i++)
        if (!faults->v[i].lint) {
            log_error(object, file, "%s", faults->v[i].text);
            told++;
            if (!first || (!scarce(first) && scarce(faults->v[i].text)))
                first = faults->v[i].text;
        }
    log_error(object, file, "refused for %zu fault%s; %s", faults->errors, faults->errors == 1 ? "" : "s", outcome);
    return first ? first : NO_MEMORY; /* not even for the fault's text */
}

/* Builds the new, checks it all, then swaps; `asked`: by a signal, so that also what is the same is told. */
static void reload_rules(struct server *s, bool asked)
{
    struct faults faults = {0};
    char outcome[160];
    struct rules *rules = rules_load(s->config->rules, &faults);
    if (rules && s->config->replay.host_count && !rules_fit_shared(rules, &faults)) {
        rules_unref(rules);
        rules = NULL;
    }
    if (!rules) {
        metric_add(METRIC_RULES_RELOADS, "result=\"error\"", 1);
        snprintf(outcome, sizeof outcome, "the rules with hash %s stay in force", s->rules->hash);
        (void)reload_trouble(s, PART_RULES, reload_tell_faults("rules", s->config->rules, &faults, outcome));
        faults_free(&faults);
        return;
    }
    faults_free(&faults);
    const bool again = reload_trouble(s, PART_RULES, NULL);
    const bool same = str_eq_z(str_z(rules->hash), s->rules->hash);
    if (same && !asked) { /* touched, or put back */
        if (again)
            log_info("rules", s->config->rules, "the file is again the one in force, hash %s", rules->hash);
        rules_unref(rules);
        return;
    }
    metric_add(METRIC_RULES_RELOADS, "result=\"ok\"", 1);
    replay_settle(s->replay, &(struct replay_settings){rules->max_past_us, rules->max_future_us, 0});
    pthread_mutex_lock(&s->lock);
    struct rules *old = s->rules;
    s->rules = rules;
    atomic_fetch_add(&s->edition, 1);
    pthread_mutex_unlock(&s->lock);
    rules_unref(old);
    tell_rules(s);
    log_info("rules", s->config->rules, "%s, hash %s", same ? "read again and unchanged" : "in force", rules->hash);
}

/* In force from now on; takes over ctx or tls. */
static void install(struct server *s, size_t part, SSL_CTX *ctx, struct upstream_tls *tls)
{
    pthread_mutex_lock(&s->lock);
    SSL_CTX *old = NULL;
    struct upstream_tls *old_tls = NULL;
    if (part == PART_UPSTREAM) {
        old_tls = s->upstream_tls;
        s->upstream_tls = tls;
    } else {
        SSL_CTX **in_use = part == PART_ADMIN ? &s->admin_tls : &s->tls[part - PART_LISTENERS];
        old = *in_use;
        *in_use = ctx;
    }
    s->parts[part].expiry_us = part == PART_UPSTREAM ? tls->expiry_us : tls_context_expiry(ctx);
    atomic_fetch_add(&s->edition, 1);
    pthread_mutex_unlock(&s->lock);
    s->parts[part].told_us = 0;
    SSL_CTX_free(old);
    upstream_tls_unref(old_tls);
}

/* An address's or the upstream's. */
static bool load_certificate(struct server *s, size_t part, char why[TLS_WHY])
{
    SSL_CTX *ctx = NULL;
    struct upstream_tls *tls = NULL;
    if (part == PART_UPSTREAM)
        tls = upstream_tls_load(&s->config->upstream, why);
    else
        ctx = tls_context(part_address(s, part), s->tickets, why);
    if (ctx || tls)
        install(s, part, ctx, tls);
    return ctx || tls;
}

static void reload_certificate(struct server *s, size_t part)
{
    char why[TLS_WHY];
    if (!part_file(s, part))
        return;
    if (!load_certificate(s, part, why)) {
        log_error("certificate", part_file(s, part), "%s; what was read before stays in use", why);
        /* once more in any case: OpenSSL may not say that it lacked memory, and files are replaced one by one */
        if (!reload_trouble(s, part, why) && !s->parts[part].again_us)
            s->parts[part].again_us = time_mono_us() + AGAIN_US;
        return;
    }
    (void)reload_trouble(s, part, NULL);
    log_info("certificate", part_file(s, part), "in use for new connections %s%s",
             part == PART_UPSTREAM ? "to the upstream" : "on ",
             part == PART_UPSTREAM ? "" : part_address(s, part)->address);
}

static void watch_part(struct server *s, size_t part)
{
    const char *path[WATCH_FILES] = {part == PART_RULES ? s->config->rules : NULL}; /* gateway.yaml: by signal alone */
    if (part == PART_UPSTREAM) {
        const struct upstream_config *u = &s->config->upstream;
        memcpy(path, (const char *[WATCH_FILES]){u->ca, u->certificate, u->key}, sizeof path);
    } else if (part >= PART_ADMIN) {
        const struct listen_config *l = part_address(s, part);
        memcpy(path, (const char *[WATCH_FILES]){l->certificate, l->key, l->client_ca}, sizeof path);
    }
    watch_init(&s->parts[part].watch, path);
    s->parts[part].expiry_us = TIME_NONE;
}

/* NULL with a fault, or without memory. */
static struct tickets *load_tickets(const struct config *c, struct faults *faults)
{
    struct secret_key fleet SECRET_CLEANUP = {{0}};
    const bool shared = c->tickets.kind != SECRET_NONE;
    return shared && !config_read_tickets(c, &fleet, faults) ? NULL : tickets_new(shared ? &fleet : NULL);
}

bool reload_start(struct server *s, struct faults *faults)
{
    const size_t n = s->config->listen_count;
    s->part_count = PART_LISTENERS + n;
    s->parts = calloc(s->part_count, sizeof *s->parts);
    s->tls = calloc(n, sizeof(SSL_CTX *));
    s->tickets = load_tickets(s->config, faults);
    if (!s->parts || !s->tls || !s->tickets)
        return false;
    for (size_t i = 0; i < s->part_count; i++) /* before the files are read: what changes meanwhile is read again */
        watch_part(s, i);
    s->rules = rules_load(s->config->rules, faults);
    bool ok = s->rules != NULL;
    for (size_t i = PART_UPSTREAM; i < s->part_count; i++) {
        char why[TLS_WHY];
        if ((i == PART_UPSTREAM || part_file(s, i)) && !load_certificate(s, i, why)) {
            faults_add(faults, NULL, 0, 0, "%s", why);
            ok = false;
        }
    }
    if (!ok)
        return false;
    tell_rules(s);
    metric_add(METRIC_RULES_RELOADS, "result=\"ok\"", 0);
    metric_add(METRIC_RULES_RELOADS, "result=\"error\"", 0);
    metric_add(METRIC_CONFIG_RELOADS, "result=\"ok\"", 0);
    metric_add(METRIC_CONFIG_RELOADS, "result=\"error\"", 0);
    return true;
}

static void wake_all(struct server *s)
{
    for (unsigned i = 0; i < s->worker_count; i++)
        worker_wake(&s->workers[i]);
    admin_wake(s);
}

static void reload_part(struct server *s, size_t part, bool asked)
{
    if (part == PART_CONFIG)
        reload_config(s);
    else if (part == PART_RULES)
        reload_rules(s, asked);
    else
        reload_certificate(s, part);
}

void reload_all(struct server *s)
{
    log_info("gateway", NULL, "reads gateway.yaml, rules and certificates again and reopens its logs");
    for (size_t i = 0; i < s->part_count; i++) {
        watch_read(&s->parts[i].watch);
        reload_part(s, i, true);
    }
    sink_reopen(s->sink);
    wake_all(s);
}

static void warn_of_expiry(struct server *s, size_t part)
{
    struct part *p = &s->parts[part];
    const int64_t now = time_mono_us();
    if (p->expiry_us == TIME_NONE || (p->told_us && now - p->told_us < DAY_US))
        return;
    const int64_t left = p->expiry_us - time_now_us();
    if (left > WARN_DAYS * DAY_US)
        return;
    char at[TIME_TEXT];
    time_format(p->expiry_us, false, at);
    p->told_us = now;
    if (left <= 0)
        log_error("certificate", part_file(s, part), "has expired at %s: the other side will refuse it", at);
    else
        log_warn("certificate", part_file(s, part), "expires at %s, in %lld days", at, (long long)(left / DAY_US));
}

void reload_tick(struct server *s)
{
    bool changed = false;
    for (size_t i = 0; i < s->part_count; i++) {
        const int64_t again_us = s->parts[i].again_us;
        const bool due = watch_tick(&s->parts[i].watch) || (again_us && time_mono_us() >= again_us);
        changed |= due;
        if (due)
            reload_part(s, i, false);
        warn_of_expiry(s, i);
    }
    if (changed)
        wake_all(s);
}

void reload_write_troubles(struct server *s, bool why, struct buf *out)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->part_count; i++) {
        const struct part *p = &s->parts[i];
        if (!p->trouble_us)
            continue;
        char at[TIME_TEXT];
        time_format(p->trouble_us, false, at);
        buf_printf(out, "%s: refused at %s, the old stay in force%s%s\n", part_kind(i), at, why ? ": " : "",
                   why ? p->trouble : "");
    }
    pthread_mutex_unlock(&s->lock);
}

void reload_measure(struct server *s)
{
    for (size_t i = PART_UPSTREAM; i < s->part_count; i++) {
        pthread_mutex_lock(&s->lock);
        const int64_t expiry = s->parts[i].expiry_us;
        pthread_mutex_unlock(&s->lock);
        struct buf label BUF_CLEANUP = BUF_INIT(8192);
        if (expiry == TIME_NONE)
            continue;
        metric_label(&label, "file", str_z(part_file(s, i)));
        if (!label.failed)
            metric_set(METRIC_CERTIFICATE_EXPIRY, label.p, (double)(expiry - time_now_us()) / (double)US_PER_S);
    }
}

void reload_state(struct server *s, size_t part, struct reload_state *out)
{
    const struct part *p = &s->parts[part];
    out->kind = part_kind(part);
    out->file = part_file(s, part);
    pthread_mutex_lock(&s->lock);
    out->trouble_us = p->trouble_us;
    out->expiry_us = p->expiry_us;
    memcpy(out->trouble, p->trouble, sizeof out->trouble);
    pthread_mutex_unlock(&s->lock);
}

void reload_end(struct server *s)
{
    for (size_t i = 0; s->tls && i < s->config->listen_count; i++)
        SSL_CTX_free(s->tls[i]);
    SSL_CTX_free(s->admin_tls);
    tickets_free(s->tickets);
    free(s->tls);
    free(s->parts);
    upstream_tls_unref(s->upstream_tls);
    rules_unref(s->rules);
}
