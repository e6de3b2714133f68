#include <stdlib.h>
#include <string.h>

#include "http/upstream_inside.h"

/* An upstream in a container has another address when it comes back: its name is asked for again after NAME_KEPT_S. */
enum { HEADERS_IN = 64 * 1024, NAME_KEPT_S = 5 };

enum reason upstream_reason(CURLcode code, const struct upstream_call *c)
{
    if (c->too_large)
        return REASON_UPSTREAM_INVALID;
    switch (code) {
    case CURLE_OK:
        return REASON_OK;
    case CURLE_OPERATION_TIMEDOUT: /* nothing but 1xx is no silence, and no reply either */
        return c->interim ? REASON_UPSTREAM_INVALID : REASON_UPSTREAM_TIMEOUT;
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
        const char *status = memchr(line.p, ' ', line.n);
        const struct str code = {status ? status + 1 : "", status ? (size_t)(line.p + line.n - status - 1) : 0};
        c->www_authenticate[0] = c->retry_after[0] = '\0';
        c->head_ended = false;
        c->interim = code.n >= 3 && code.p[0] == '1';
        if (c->interim && str_starts(code, STR("101"))) /* nobody asked for another protocol: no reply will follow */
            return 0;
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

/*
 * A connection that is used again must be silent: what lies in it was sent before it was asked for, and would be taken
 * for the reply to whoever asks next. libcurl does not look. Nothing was sent yet, so the call may go out on another.
 *
 * Once asked, never again: where a connection dies and there is no body to be rewound, libcurl would, and nobody knows
 * what the upstream has seen of the first.
 */
static int before_request(void *arg, char *to, char *from, int to_port, int from_port)
{
    (void)to;
    (void)from;
    (void)to_port;
    struct upstream_call *c = arg;
    long fresh = 0;
    if (c->asked)
        return CURL_PREREQFUNC_ABORT;
    if (curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &fresh) == CURLE_OK && fresh == 0)
        c->unclean = !upstream_sockets_silent(&c->u->sockets, from_port);
    c->asked = !c->unclean;
    return c->asked ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static bool set_options(struct upstream_call *c, const char *method, const char *url)
{
    CURL *e = c->easy;
    const long ms = (long)(c->u->config->timeout_us / 1000);
#define SET(option, value) (curl_easy_setopt(e, CURLOPT_##option, value) == CURLE_OK)
    return SET(URL, url) && SET(PATH_AS_IS, 1L) && SET(PROTOCOLS_STR, "http,https") && SET(FOLLOWLOCATION, 0L) &&
           SET(PROXY, "") && SET(NOPROXY, "*") && SET(NOSIGNAL, 1L) && SET(TIMEOUT_MS, ms) &&
           SET(CONNECTTIMEOUT_MS, ms) && SET(DNS_CACHE_TIMEOUT, (long)NAME_KEPT_S) &&
           SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) && SET(POST, 1L) &&
           SET(CUSTOMREQUEST, method) && SET(HTTP09_ALLOWED, 0L) && SET(NETRC, (long)CURL_NETRC_IGNORED) &&
           SET(WRITEFUNCTION, on_write) && SET(WRITEDATA, c) && SET(READFUNCTION, on_read) && SET(READDATA, c) &&
           SET(HEADERFUNCTION, on_header) && SET(HEADERDATA, c) && SET(PREREQFUNCTION, before_request) &&
           SET(PREREQDATA, c) && SET(OPENSOCKETFUNCTION, upstream_socket_open) &&
           SET(OPENSOCKETDATA, &c->u->sockets) && SET(CLOSESOCKETFUNCTION, upstream_socket_close) &&
           SET(CLOSESOCKETDATA, &c->u->sockets) && SET(PRIVATE, c) && SET(ERRORBUFFER, c->error) &&
           SET(MAXFILESIZE_LARGE, (curl_off_t)c->u->config->max_reply) &&
           (!str_eq_z(STR("GET"), method) || SET(HTTPGET, 1L)) && set_tls(e, c->tls);
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
