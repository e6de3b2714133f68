#include "http/upstream.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum {
    HEADER_VALUE = 256,
    HEADERS_IN = 64 * 1024,
    PROBE_S = 2,
    CALM_S = 5, /* an upstream that comes and goes fills no log: so long the log stays with "answers again" */
};

struct upstream {
    const struct upstream_config *config;
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct upstream_call *calls;
    struct upstream_health *health;
    struct upstream_tls *tls;
    struct event *probe_timer;
    bool probing, probed;
};

struct upstream_call {
    struct upstream *u;
    struct upstream_call *next, **link;
    CURL *easy;
    struct curl_slist *headers;
    struct upstream_tls *tls; /* lives as long as the handle, which has no copy */
    struct buf out, in;
    size_t sent, header_bytes;
    char www_authenticate[HEADER_VALUE], retry_after[HEADER_VALUE];
    upstream_done *done;
    void *arg;
    bool too_large;
    bool probe;      /* connects, and that is all */
    bool head_ended; /* of the reply: what follows are trailers */
    char error[CURL_ERROR_SIZE];
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
    curl_slist_free_all(c->headers);
    upstream_tls_unref(c->tls);
    buf_free(&c->out);
    buf_free(&c->in);
    free(c);
}

static enum reason reason_of(CURLcode code, const struct upstream_call *c)
{
    if (c->too_large)
        return REASON_UPSTREAM_INVALID;
    switch (code) {
    case CURLE_OK:
        return REASON_OK;
    case CURLE_OPERATION_TIMEDOUT:
        return REASON_UPSTREAM_TIMEOUT;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_PARTIAL_FILE:
    case CURLE_WRITE_ERROR:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_FILESIZE_EXCEEDED:
    case CURLE_HTTP2:
        return REASON_UPSTREAM_INVALID;
    default: /* a reply that breaks off is one that is wrong */
        return c->header_bytes ? REASON_UPSTREAM_INVALID : REASON_UPSTREAM_UNREACHABLE;
    }
}

static void tell_failure(struct upstream_call *c, CURLcode code)
{
    struct upstream_health *h = c->u->health;
    curl_off_t connected = 0;
    const int64_t now = time_mono_us();
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
    if (tell)
        log_warn("upstream", c->u->config->url, "%s; requests get an error until it answers",
                 c->error[0] ? c->error : curl_easy_strerror(code));
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

static void tell(struct upstream_call *c, enum reason reason, CURLcode code)
{
    if (reason == REASON_UPSTREAM_UNREACHABLE || reason == REASON_UPSTREAM_TIMEOUT)
        tell_failure(c, code);
    else
        tell_success(c);
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
    struct upstream_result result = {.reason = reason_of(code, c)};
    if (code != CURLE_ABORTED_BY_CALLBACK) /* the gateway ends */
        tell(c, result.reason, code);
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

/* Only after curl_multi_socket_action() has returned. */
static void harvest(struct upstream *u)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(u->multi, &left))) {
        struct upstream_call *c = NULL;
        const CURLcode code = m->data.result;
        if (m->msg == CURLMSG_DONE && curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c) == CURLE_OK && c)
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
        finish(u->calls, CURLE_ABORTED_BY_CALLBACK);
    if (u->multi)
        curl_multi_cleanup(u->multi);
    if (u->timer)
        event_free(u->timer);
    if (u->probe_timer)
        event_free(u->probe_timer);
    upstream_tls_unref(u->tls);
    free(u);
}

void upstream_use_tls(struct upstream *u, struct upstream_tls *tls)
{
    struct upstream_tls *old = u->tls;
    u->tls = upstream_tls_ref(tls);
    upstream_tls_unref(old);
}

static size_t on_write(char *p, size_t size, size_t n, void *arg)
{
    struct upstream_call *c = arg;
    buf_bytes(&c->in, p, size * n);
    c->too_large = c->in.failed;
    return c->in.failed ? 0 : size * n;
}

static size_t on_read(char *p, size_t size, size_t n, void *arg)
{
    struct upstream_call *c = arg;
    size_t take = c->out.n - c->sent;
    if (take > size * n)
        take = size * n;
    if (take)
        memcpy(p, c->out.p + c->sent, take);
    c->sent += take;
    return take;
}

/* A value may go on to the client when it fits and is printable ASCII; Retry-After is a number or a date. */
static bool may_pass(struct str value, bool retry_after)
{
    for (size_t i = 0; i < value.n; i++) {
        const char c = value.p[i];
        const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (c < 0x20 || c > 0x7e || (retry_after && !alnum && c != ' ' && c != ',' && c != ':'))
            return false;
    }
    return value.n > 0 && value.n < HEADER_VALUE;
}

static void keep_header(struct str line, const char *name, bool retry_after, char out[HEADER_VALUE])
{
    const size_t n = strlen(name);
    if (line.n <= n || line.p[n] != ':' || !str_ieq_z((struct str){line.p, n}, name))
        return;
    const struct str value = str_trim((struct str){line.p + n + 1, line.n - n - 1});
    if (out[0] || !may_pass(value, retry_after))
        return;
    memcpy(out, value.p, value.n);
    out[value.n] = '\0';
}

/* Each line of the head, of those of interim replies before it, and of trailers after it. */
static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct upstream_call *c = arg;
    const struct str line = {p, size * n};
    c->header_bytes += line.n;
    if (c->header_bytes > HEADERS_IN) {
        c->too_large = true;
        return 0;
    }
    if (str_starts(line, STR("HTTP/"))) {
        c->www_authenticate[0] = c->retry_after[0] = '\0';
        c->head_ended = false;
    }
    c->head_ended = c->head_ended || str_trim(line).n == 0;
    if (c->head_ended)
        return line.n;
    keep_header(line, "WWW-Authenticate", false, c->www_authenticate);
    keep_header(line, "Retry-After", true, c->retry_after);
    return line.n;
}

static bool set_blob(CURL *e, CURLoption option, const struct buf *pem)
{
    struct curl_blob blob = {pem->p, pem->n, CURL_BLOB_NOCOPY};
    return pem->n == 0 || curl_easy_setopt(e, option, &blob) == CURLE_OK;
}

/* By text, not by file: what was read together is used together, and libcurl keeps no file's contents for a day. */
static bool set_tls(CURL *e, const struct upstream_tls *tls)
{
    bool ok = curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
              curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
              curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK;
    if (!tls)
        return ok;
    if (tls->ca.n)
        ok = ok && curl_easy_setopt(e, CURLOPT_CAINFO, NULL) == CURLE_OK &&
             curl_easy_setopt(e, CURLOPT_CAPATH, NULL) == CURLE_OK;
    return ok && set_blob(e, CURLOPT_CAINFO_BLOB, &tls->ca) && set_blob(e, CURLOPT_SSLCERT_BLOB, &tls->certificate) &&
           set_blob(e, CURLOPT_SSLKEY_BLOB, &tls->key);
}

static bool set_options(struct upstream_call *c, const char *method, const char *url)
{
    CURL *e = c->easy;
    const long ms = (long)(c->u->config->timeout_us / 1000);
#define SET(option, value) (curl_easy_setopt(e, CURLOPT_##option, value) == CURLE_OK)
    return SET(URL, url) && SET(PATH_AS_IS, 1L) && SET(PROTOCOLS_STR, "http,https") && SET(FOLLOWLOCATION, 0L) &&
           SET(PROXY, "") && SET(NOPROXY, "*") && SET(NOSIGNAL, 1L) && SET(TIMEOUT_MS, ms) &&
           SET(CONNECTTIMEOUT_MS, ms) && SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) && SET(POST, 1L) &&
           SET(CUSTOMREQUEST, method) && SET(HTTP09_ALLOWED, 0L) && SET(NETRC, (long)CURL_NETRC_IGNORED) &&
           SET(WRITEFUNCTION, on_write) && SET(WRITEDATA, c) && SET(READFUNCTION, on_read) && SET(READDATA, c) &&
           SET(HEADERFUNCTION, on_header) && SET(HEADERDATA, c) && SET(PRIVATE, c) && SET(ERRORBUFFER, c->error) &&
           SET(MAXFILESIZE_LARGE, (curl_off_t)c->u->config->max_reply) && set_tls(e, c->tls);
#undef SET
}

struct upstream_call *upstream_call_new(struct upstream *u, const char *method, struct str target)
{
    struct upstream_call *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->u = u;
    c->tls = upstream_tls_ref(u->tls);
    c->in = BUF_INIT_SECRET(u->config->max_reply);
    c->easy = curl_easy_init();
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20);
    struct str base = str_z(u->config->url);
    while (base.n && base.p[base.n - 1] == '/')
        base.n--;
    buf_str(&url, base);
    buf_str(&url, target);
    if (!c->easy || url.failed || !set_options(c, method, url.p)) {
        upstream_call_free(c);
        return NULL;
    }
    return c;
}

bool upstream_call_header(struct upstream_call *c, struct str name, struct str value)
{
    for (size_t i = 0; i < value.n; i++)
        if (((unsigned char)value.p[i] < 0x20 && value.p[i] != '\t') || value.p[i] == 0x7f)
            return false;
    struct buf line BUF_CLEANUP = BUF_INIT_SECRET(1 << 20);
    buf_str(&line, name);
    buf_z(&line, value.n ? ": " : ":");
    buf_str(&line, value);
    struct curl_slist *list = line.failed ? NULL : curl_slist_append(c->headers, line.p);
    if (!list)
        return false;
    c->headers = list;
    return true;
}

static bool add(struct upstream_call *c)
{
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
    return curl_global_init(CURL_GLOBAL_DEFAULT) == 0;
}
