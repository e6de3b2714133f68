#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "http/upstream_inside.h"

enum {
    PROBE_S = 2,
    GRACE_US = 50000, /* libcurl's own deadline comes first: it knows more to say */
};

void upstream_call_free(struct upstream_call *c)
{
    if (!c)
        return;
    if (c->link) {
        curl_multi_remove_handle(c->u->multi, c->easy);
        *c->link = c->next;
        if (c->next)
            c->next->link = c->link;
    }
    if (c->easy)
        curl_easy_cleanup(c->easy);
    if (c->deadline)
        event_free(c->deadline);
    curl_slist_free_all(c->headers);
    upstream_tls_unref(c->tls);
    buf_free(&c->out);
    buf_free(&c->in);
    free(c);
}

static void finish_probe(struct upstream_call *c, enum reason reason)
{
    struct upstream *u = c->u;
    if (!u->probed && reason == REASON_OK)
        log_info("upstream", u->config->url, "can be reached");
    u->probed = true;
    u->probing = false;
    upstream_call_free(c);
}

static void finish(struct upstream_call *c, CURLcode code)
{
    long status = 0;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    struct upstream_result result = {.reason = upstream_reason(code, c), .unsent = !c->asked};
    if (code != CURLE_ABORTED_BY_CALLBACK) /* the gateway ends */
        upstream_tell(c, result.reason, code);
    if (c->probe) {
        finish_probe(c, result.reason);
        return;
    }
    if (result.reason == REASON_OK) {
        result.status = (int)status;
        result.body = c->in.n ? buf_view(&c->in) : STR("");
        result.www_authenticate = c->www_authenticate[0] ? str_z(c->www_authenticate) : STR_MISSING;
        result.retry_after = c->retry_after[0] ? str_z(c->retry_after) : STR_MISSING;
    }
    c->done(c->arg, &result);
    upstream_call_free(c);
}

static bool again(struct upstream_call *c)
{
    curl_multi_remove_handle(c->u->multi, c->easy);
    c->unclean = false;
    c->error[0] = '\0';
    return c->sent == 0 && curl_easy_setopt(c->easy, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK &&
           curl_multi_add_handle(c->u->multi, c->easy) == CURLM_OK;
}

/* Only after curl_multi_socket_action() has returned. */
static void harvest(struct upstream *u)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(u->multi, &left))) {
        struct upstream_call *c = NULL;
        const CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE || curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c) != CURLE_OK || !c)
            continue;
        if (!c->unclean || !again(c))
            finish(c, code);
    }
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct upstream *u = arg;
    int running;
    const int action = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(u->multi, fd, action, &running);
    harvest(u);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream *u = arg;
    int running;
    curl_multi_socket_action(u->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    harvest(u);
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct upstream *u = arg;
    if (ms < 0)
        return event_del(u->timer);
    const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    return event_add(u->timer, &tv);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *watched)
{
    (void)easy;
    struct upstream *u = arg;
    struct event *event = watched;
    if (event) {
        event_free(event);
        curl_multi_assign(u->multi, fd, NULL);
    }
    if (what == CURL_POLL_REMOVE)
        return 0;
    const int mask = EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    event = event_new(u->base, fd, (short)mask, on_socket, u);
    if (!event)
        return -1;
    curl_multi_assign(u->multi, fd, event);
    return event_add(event, NULL);
}

struct upstream *upstream_new(struct event_base *base, const struct upstream_config *config, unsigned connections,
                              struct upstream_health *health)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->config = config;
    u->base = base;
    u->health = health;
    u->multi = curl_multi_init();
    u->timer = evtimer_new(base, on_timer, u);
    if (!u->multi || !u->timer) {
        upstream_free(u);
        return NULL;
    }
    curl_multi_setopt(u->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(u->multi, CURLMOPT_SOCKETDATA, u);
    curl_multi_setopt(u->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(u->multi, CURLMOPT_TIMERDATA, u);
    curl_multi_setopt(u->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    if (connections) {
        curl_multi_setopt(u->multi, CURLMOPT_MAXCONNECTS, (long)connections);
        curl_multi_setopt(u->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)connections);
    }
    return u;
}

void upstream_free(struct upstream *u)
{
    if (!u)
        return;
    while (u->calls)
        finish(u->calls, CURLE_ABORTED_BY_CALLBACK); /* NOLINT(clang-analyzer-unix.Malloc): it leaves the list */
    if (u->multi)
        curl_multi_cleanup(u->multi);
    if (u->timer)
        event_free(u->timer);
    if (u->probe_timer)
        event_free(u->probe_timer);
    upstream_tls_unref(u->tls);
    upstream_sockets_free(&u->sockets);
    free(u);
}

void upstream_use_tls(struct upstream *u, struct upstream_tls *tls)
{
    struct upstream_tls *old = u->tls;
    u->tls = upstream_tls_ref(tls);
    upstream_tls_unref(old);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    finish(arg, CURLE_OPERATION_TIMEDOUT);
}

static bool add(struct upstream_call *c)
{
    const int64_t us = c->u->config->timeout_us + GRACE_US;
    const struct timeval tv = {us / US_PER_S, us % US_PER_S};
    c->deadline = evtimer_new(c->u->base, on_deadline, c);
    if (!c->deadline || event_add(c->deadline, &tv) != 0)
        return false;
    if (curl_multi_add_handle(c->u->multi, c->easy) != CURLM_OK)
        return false;
    c->next = c->u->calls;
    c->link = &c->u->calls;
    if (c->next)
        c->next->link = &c->next;
    c->u->calls = c;
    return true;
}

bool upstream_start(struct upstream_call *c, struct buf *body, upstream_done *done, void *arg)
{
    c->out = *body;
    *body = (struct buf){0};
    c->done = done;
    c->arg = arg;
    if (upstream_call_header(c, STR("Expect"), STR("")) &&
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->out.n) == CURLE_OK &&
        curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers) == CURLE_OK && add(c))
        return true;
    upstream_call_free(c);
    return false;
}

static void on_probe_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream *u = arg;
    pthread_mutex_lock(&u->health->lock);
    const bool due = !u->probed || (atomic_load(&u->health->down) && u->health->unconnected);
    pthread_mutex_unlock(&u->health->lock);
    if (u->probing || !due)
        return;
    struct upstream_call *c = upstream_call_new(u, "POST", STR("/"));
    if (!c)
        return;
    c->probe = u->probing = true;
    if (curl_easy_setopt(c->easy, CURLOPT_CONNECT_ONLY, 1L) == CURLE_OK && add(c))
        return;
    u->probing = false;
    upstream_call_free(c);
}

bool upstream_probe(struct upstream *u)
{
    static const struct timeval every = {PROBE_S, 0};
    u->probe_timer = event_new(u->base, -1, EV_PERSIST, on_probe_timer, u);
    if (!u->probe_timer || event_add(u->probe_timer, &every) != 0)
        return false;
    event_active(u->probe_timer, EV_TIMEOUT, 0);
    return true;
}

bool upstream_startup(void)
{
    /* clients' tokens and an older KMS's keys go through curl's buffers */
    return curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, secret_heap_free, secret_heap_realloc, strdup,
                                calloc) == 0;
}
