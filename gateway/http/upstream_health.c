#include <string.h>

#include "base/log.h"
#include "http/upstream_inside.h"

enum { CALM_S = 5 }; /* an upstream that comes and goes fills no log: so long the log stays with "answers again" */

static void tell_failure(struct upstream_call *c, CURLcode code)
{
    struct upstream_health *h = c->u->health;
    curl_off_t connected = 0;
    long os = 0;
    const int64_t now = time_mono_us();
    curl_easy_getinfo(c->easy, CURLINFO_OS_ERRNO, &os);
    curl_easy_getinfo(c->easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
    pthread_mutex_lock(&h->lock);
    const bool tell = !atomic_load(&h->down) && (!h->since_us || now - h->since_us > CALM_S * US_PER_S);
    if (tell) {
        atomic_store(&h->down, true);
        h->since_us = now;
        h->failed = 0;
    }
    h->unconnected = connected == 0;
    h->failed += !c->probe;
    pthread_mutex_unlock(&h->lock);
    const char *why = connected == 0 && os ? strerrordesc_np((int)os) : NULL;
    if (tell)
        log_warn("upstream", c->u->config->url, "%s%s%s; requests get an error until it answers",
                 c->error[0] ? c->error : curl_easy_strerror(code), why ? ": " : "", why ? why : "");
}

static void tell_success(struct upstream_call *c)
{
    struct upstream_health *h = c->u->health;
    const int64_t now = time_mono_us();
    if (!atomic_load_explicit(&h->down, memory_order_relaxed))
        return;
    pthread_mutex_lock(&h->lock);
    const bool tell = atomic_load(&h->down) && (!c->probe || h->unconnected);
    const int64_t seconds = (now - h->since_us) / US_PER_S;
    const unsigned failed = h->failed;
    if (tell) {
        atomic_store(&h->down, false);
        h->since_us = now;
    }
    pthread_mutex_unlock(&h->lock);
    if (tell)
        log_info("upstream", c->u->config->url, "%s again after %lld s; %u request%s failed meanwhile",
                 c->probe ? "can be reached" : "answers", (long long)seconds, failed, failed == 1 ? "" : "s");
}

void upstream_tell(struct upstream_call *c, enum reason reason, CURLcode code)
{
    if (reason == REASON_UPSTREAM_UNREACHABLE || reason == REASON_UPSTREAM_TIMEOUT)
        tell_failure(c, code);
    else
        tell_success(c);
}
