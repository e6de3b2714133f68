#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "http/bounds.h"
#include "http/upstream_inside.h"

enum { CALM_S = 5 }; /* an upstream that comes and goes fills no log: so long the log stays with "answers again" */

/* "https://[::1]:8443/kms", held against its form when it was read. */
static bool site_read_url(struct upstream_site *s, struct str url)
{
    s->tls = str_starts(url, STR("https:"));
    const size_t scheme = s->tls ? sizeof "https://" - 1 : sizeof "http://" - 1;
    struct str rest = {url.p + scheme, url.n - scheme};
    const char *slash = memchr(rest.p, '/', rest.n);
    struct str authority = {rest.p, slash ? (size_t)(slash - rest.p) : rest.n};
    struct str prefix = {rest.p + authority.n, rest.n - authority.n};
    while (prefix.n && prefix.p[prefix.n - 1] == '/')
        prefix.n--;
    struct str host = authority, port = s->tls ? STR("443") : STR("80");
    const char *bracket = memrchr(authority.p, ']', authority.n);
    const char *colon = memrchr(authority.p, ':', authority.n);
    if (colon && (!bracket || colon > bracket)) {
        const struct str given = {colon + 1, (size_t)(authority.p + authority.n - colon - 1)};
        host.n = (size_t)(colon - authority.p);
        if (str_eq(given, port)) /* as it stands without it */
            authority = host;
        port = given;
    }
    if (bracket)
        host = (struct str){host.p + 1, host.n - 2};
    s->host = str_dup(host);
    s->port = str_dup(port);
    s->authority = str_dup(authority);
    s->prefix = str_dup(prefix.n ? prefix : STR(""));
    return s->host && s->port && s->authority && s->prefix;
}

struct upstream_site *upstream_site_new(const struct upstream_config *config)
{
    struct upstream_site *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->config = config;
    pthread_mutex_init(&s->lock, NULL);
    if (site_read_url(s, str_z(config->url)) && (s->resolver = resolver_new(s->host, s->port)) &&
        (s->shares = shares_new(config->connections))) {
        s->literal = resolver_is_fixed(s->resolver);
        return s;
    }
    upstream_site_free(s);
    return NULL;
}

void upstream_site_free(struct upstream_site *s)
{
    if (!s)
        return;
    resolver_free(s->resolver);
    shares_free(s->shares);
    pthread_mutex_destroy(&s->lock);
    free(s->host);
    free(s->port);
    free(s->authority);
    free(s->prefix);
    free(s);
}

const char *upstream_site_port(const struct upstream_site *s)
{
    return s->port;
}

bool upstream_site_down(const struct upstream_site *s)
{
    return atomic_load(&s->down);
}

/* Half open: one call in each `probe` goes through. */
static bool site_lets_through(struct upstream_site *s)
{
    if (atomic_load_explicit(&s->failures, memory_order_relaxed) < s->config->breaker_failures)
        return true;
    const int64_t now = time_mono_us();
    pthread_mutex_lock(&s->lock);
    const bool through = !s->broken || now >= s->trial_us;
    if (through)
        s->trial_us = now + s->config->breaker_probe_us;
    else
        s->refused++;
    pthread_mutex_unlock(&s->lock);
    return through;
}

void site_release(struct upstream_site *s, unsigned kind)
{
    shares_end(s->shares, kind);
    atomic_fetch_sub(&s->busy, 1);
}

/* The last eighth of the connections is for resources that have less than half of them: one that hangs leaves it to the
 * others, and one that is merely asked for much is refused no sooner than where the pool is nearly full. */
enum reason site_admit(struct upstream_site *s, unsigned kind)
{
    enum reason reason = REASON_OK;
    const unsigned most = s->config->connections, busy = atomic_fetch_add(&s->busy, 1);
    const bool full = busy >= most, fair = shares_begin(s->shares, kind) || busy < most - most / 8;
    if (full || !fair) {
        bounds_hit(fair ? BOUND_UPSTREAM : BOUND_RESOURCE);
        reason = REASON_HTTP_BUSY;
    } else if (!site_lets_through(s)) {
        reason = REASON_UPSTREAM_UNREACHABLE;
    }
    if (reason != REASON_OK)
        site_release(s, kind);
    return reason;
}

unsigned upstream_retry_after(const struct upstream *u)
{
    const struct upstream_site *s = u->site;
    if (atomic_load_explicit(&s->failures, memory_order_relaxed) < s->config->breaker_failures)
        return 0;
    return (unsigned)((s->config->breaker_probe_us + US_PER_S - 1) / US_PER_S);
}

static void site_note_failure(struct upstream_call *c)
{
    struct upstream_site *s = c->u->site;
    const int64_t now = time_mono_us();
    pthread_mutex_lock(&s->lock);
    const bool tell = !atomic_load(&s->down) && (!s->since_us || now - s->since_us > CALM_S * US_PER_S);
    if (tell) {
        atomic_store(&s->down, true);
        s->since_us = now;
        s->failed = 0;
    }
    s->unconnected = !c->connected;
    s->failed += !c->probe;
    const unsigned failures = c->probe ? 0 : atomic_fetch_add(&s->failures, 1) + 1;
    const bool breaks = !s->broken && failures >= s->config->breaker_failures;
    if (breaks) {
        s->broken = true;
        s->refused = 0;
        s->trial_us = now + s->config->breaker_probe_us;
        bounds_set(BOUND_BREAKER, true);
    }
    pthread_mutex_unlock(&s->lock);
    if (tell)
        log_warn("upstream", s->config->url, "%s; requests get an error until it answers", c->error);
    if (breaks)
        log_warn("upstream", s->config->url, "%u calls in a row without an answer (%s): requests are refused at once, "
                 "but for one each %lld ms", failures, c->error, (long long)(s->config->breaker_probe_us / 1000));
}

static void site_note_success(struct upstream_call *c)
{
    struct upstream_site *s = c->u->site;
    if (!c->probe)
        atomic_fetch_add_explicit(&s->answers, 1, memory_order_relaxed);
    const bool failed_before = !c->probe && atomic_load_explicit(&s->failures, memory_order_relaxed);
    if (!failed_before && !atomic_load_explicit(&s->down, memory_order_relaxed))
        return;
    const int64_t now = time_mono_us();
    pthread_mutex_lock(&s->lock);
    if (failed_before)
        atomic_store(&s->failures, 0);
    const bool tell = atomic_load(&s->down) && (!c->probe || s->unconnected);
    const int64_t seconds = (now - s->since_us) / US_PER_S;
    const unsigned failed = s->failed, refused = s->refused;
    const bool mends = s->broken && !c->probe;
    if (tell) {
        atomic_store(&s->down, false);
        s->since_us = now;
    }
    if (c->probe)
        s->trial_us = now; /* it can be reached again: the next call may try whether it answers */
    if (mends) {
        s->broken = false;
        bounds_set(BOUND_BREAKER, false);
    }
    pthread_mutex_unlock(&s->lock);
    if (tell)
        log_info("upstream", s->config->url, "%s again after %lld s; %u request%s failed meanwhile",
                 c->probe ? "can be reached" : "answers", (long long)seconds, failed, failed == 1 ? "" : "s");
    if (mends)
        log_info("upstream", s->config->url, "requests are let through again; %u had been refused", refused);
}

/* At most one line a second: an upstream that answers badly, or to some alone, does so each time. */
static void site_tell_fault(struct upstream_call *c, const char *before, const char *after)
{
    struct upstream_site *s = c->u->site;
    const int64_t now = time_mono_us();
    pthread_mutex_lock(&s->lock);
    const bool tell = !s->told_us || now - s->told_us > US_PER_S;
    if (tell)
        s->told_us = now;
    pthread_mutex_unlock(&s->lock);
    if (tell)
        log_warn("upstream", s->config->url, "%s%s%s", before, c->error, after);
}

void site_note(struct upstream_call *c, enum reason reason)
{
    const bool silent = reason == REASON_UPSTREAM_TIMEOUT, failed = silent || reason == REASON_UPSTREAM_UNREACHABLE;
    if (reason == REASON_UPSTREAM_INVALID)
        site_tell_fault(c, "its reply ", ": it is not used");
    if (silent && c->answers != atomic_load_explicit(&c->u->site->answers, memory_order_relaxed))
        site_tell_fault(c, "", ", though others were answered meanwhile"); /* a resource that hangs stops no others */
    else if (failed)
        site_note_failure(c);
    else
        site_note_success(c);
}
