#include "answer.h"

#include <ctype.h>
#include <event2/bufferevent.h>
#include <event2/keyvalq_struct.h>
#include <libxml/parser.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>

#include "keys_issue.h"

#define BASE_PATH "/keymanagement/identity/v1"

/* A request whose answer is due later. */
struct waiting {
    struct answers *all;
    struct evhttp_request *req;
    struct event *timer;
    struct waiting *next;
};

bool fault_parse(const char *name, enum fault *out)
{
#define FAULT_NAME(e, text) text,
    static const char *const NAMES[] = {FAULT_LIST(FAULT_NAME)};
#undef FAULT_NAME
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (enum fault)i;
            return true;
        }
    return false;
}

/* --- the log ------------------------------------------------------------------------------------------------------ */

static void json_text(FILE *to, const char *p, size_t n)
{
    fputc('"', to);
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)p[i];
        if (c == '"' || c == '\\')
            fprintf(to, "\\%c", c);
        else if (c < 0x20)
            fprintf(to, "\\u%04x", c);
        else
            fputc(c, to);
    }
    fputc('"', to);
}

static const char *method_name(struct evhttp_request *req)
{
    switch (evhttp_request_get_command(req)) {
    case EVHTTP_REQ_POST: return "POST";
    case EVHTTP_REQ_GET: return "GET";
    case EVHTTP_REQ_PUT: return "PUT";
    default: return "DELETE";
    }
}

/* The line is written at once, whole: readers follow the file. */
static void log_request(FILE *to, struct evhttp_request *req, const char *body, size_t n)
{
    const char *target = evhttp_request_get_uri(req);
    fprintf(to, "{\"method\":\"%s\",\"target\":", method_name(req));
    json_text(to, target, strlen(target));
    fputs(",\"headers\":{", to);
    const struct evkeyval *h, *headers = TAILQ_FIRST(evhttp_request_get_input_headers(req));
    for (h = headers; h; h = TAILQ_NEXT(h, next)) {
        fputs(h == headers ? "" : ",", to);
        json_text(to, h->key, strlen(h->key));
        fputc(':', to);
        json_text(to, h->value, strlen(h->value));
    }
    fputs("},\"body\":", to);
    json_text(to, body, n);
    fputs("}\n", to);
    fflush(to);
}

/* --- what is asked ------------------------------------------------------------------------------------------------ */

static char *copy(const char *p, size_t n)
{
    char *z = malloc(n + 1);
    if (z) {
        memcpy(z, p, n);
        z[n] = 0;
    }
    return z;
}

/* The text of a child of the body's KmsRequest, which may be signed; by local name: older clients' namespaces vary. */
static char *child_text(xmlNode *root, const char *name)
{
    if (root && strcmp((const char *)root->name, "SignedKmsRequest") == 0)
        root = xmlFirstElementChild(root);
    for (xmlNode *e = root ? xmlFirstElementChild(root) : NULL; e; e = xmlNextElementSibling(e))
        if (strcmp((const char *)e->name, name) == 0) {
            xmlChar *text = xmlNodeGetContent(e);
            char *out = text && *text ? copy((const char *)text, strlen((const char *)text)) : NULL;
            xmlFree(text);
            return out;
        }
    return NULL;
}

/* The value of a member of a flat JSON body. */
static char *json_member(const char *body, size_t n, const char *quoted_name)
{
    const char *at = memmem(body, n, quoted_name, strlen(quoted_name));
    const char *end = body + n;
    if (!at)
        return NULL;
    at += strlen(quoted_name);
    while (at < end && (*at == ':' || isspace((unsigned char)*at)))
        at++;
    if (at == end || *at != '"')
        return NULL;
    const char *stop = memchr(at + 1, '"', (size_t)(end - at - 1));
    return stop ? copy(at + 1, (size_t)(stop - at - 1)) : NULL;
}

static void read_body(const char *body, size_t n, struct asked *out)
{
    xmlDoc *doc = xmlReadMemory(body, (int)n, "request", NULL,
                                XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (doc) {
        out->user = child_text(xmlDocGetRootElement(doc), "UserUri");
        out->client_req_url = child_text(xmlDocGetRootElement(doc), "ClientReqUrl");
        xmlFreeDoc(doc);
    } else {
        out->user = json_member(body, n, "\"UserUri\"");
    }
}

static void read_path(const char *target, struct asked *out)
{
    static const struct {
        const char *name;
        enum resource resource;
    } RESOURCES[] = {{"init", INIT}, {"keyprov", KEYPROV}, {"certcache", CERTCACHE},
                     {"cert", CERT}, {"lookup", LOOKUP},   {"redirect", REDIRECT}};
    char *path = copy(target, strcspn(target, "?"));
    char *at = path ? strstr(path, BASE_PATH "/") : NULL;
    char *rest = at ? at + strlen(BASE_PATH "/") : NULL, *name = rest ? strsep(&rest, "/") : NULL;
    for (size_t i = 0; name && i < sizeof RESOURCES / sizeof *RESOURCES; i++)
        if (strcmp(name, RESOURCES[i].name) == 0)
            out->resource = RESOURCES[i].resource;
    const char *first = rest ? strsep(&rest, "/") : NULL;
    if (first && out->resource == CERTCACHE)
        out->cache_number = strtoull(first, NULL, 10);
    else if (first)
        out->of = evhttp_uridecode(first, 0, NULL);
    if (rest && out->resource == KEYPROV && strlen(rest) == 16) /* NTP-UTC: 32 bits of seconds, 32 of a fraction */
        out->at = (int64_t)(strtoull(rest, NULL, 16) >> 32) - NTP_TO_UNIX;
    free(path);
}

/* The caller frees what `out` holds by asked_free(). */
static bool read_request(struct evhttp_request *req, const char *body, size_t n, struct asked *out)
{
    *out = (struct asked){.at = time(NULL), .cache_number = 1};
    read_body(body, n, out);
    read_path(evhttp_request_get_uri(req), out);
    const char *asserted = evhttp_find_header(evhttp_request_get_input_headers(req), "X-3GPP-Asserted-Identity");
    if (!out->user && out->of && (out->resource == KEYPROV || out->resource == LOOKUP))
        out->user = strdup(out->of);
    if (!out->user)
        out->user = strdup(asserted ? asserted : "sip:unknown@example.org");
    return out->user != NULL;
}

static void asked_free(struct asked *a)
{
    free(a->user);
    free(a->of);
    free(a->client_req_url);
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static void send_as(struct evhttp_request *req, int status, const char *type, struct evbuffer *body)
{
    if (type)
        evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", type);
    evhttp_send_reply(req, status, NULL, body);
}

/* The peer sees a reset. Only for a request that waited: evhttp must not stand in its callback. */
static void reset(struct evhttp_request *req)
{
    struct evhttp_connection *conn = evhttp_request_get_connection(req);
    const struct linger hard = {.l_onoff = 1};
    if (!conn) {
        evhttp_request_free(req);
        return;
    }
    setsockopt(bufferevent_getfd(evhttp_connection_get_bufferevent(conn)), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    evhttp_connection_free(conn);
}

/* The length of the whole is promised, half of it comes. */
static void send_half(struct evhttp_request *req, struct evbuffer *body)
{
    char length[24];
    const size_t n = evbuffer_get_length(body);
    snprintf(length, sizeof length, "%zu", n);
    evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Length", length);
    evhttp_add_header(evhttp_request_get_output_headers(req), "Connection", "close");
    evbuffer_drain(body, n / 2);
    send_as(req, HTTP_OK, "application/xml", body);
}

static void send_now(struct answers *a, struct evhttp_request *req)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(req), *out = evbuffer_new();
    struct asked asked = {0};
    const size_t n = evbuffer_get_length(in);
    const char *body = (const char *)evbuffer_pullup(in, -1);
    if (!out || !read_request(req, body ? body : "", n, &asked)) {
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
    } else if (asked.resource == NO_RESOURCE) {
        evhttp_send_error(req, HTTP_NOTFOUND, NULL);
    } else if (a->style.fault == FAULT_RESET) {
        reset(req);
    } else if (a->style.fault == FAULT_ERROR_403 || a->style.fault == FAULT_KMS_ERROR) {
        reply_error(&asked, &a->style, 403, out);
        send_as(req, a->style.fault == FAULT_ERROR_403 ? 403 : HTTP_OK, "application/xml", out);
    } else if (a->style.fault == FAULT_ERROR_500 || a->style.fault == FAULT_PLAIN_TEXT) {
        evbuffer_add_printf(out, "oops: table users, row 4711, at db1.internal\n");
        send_as(req, a->style.fault == FAULT_ERROR_500 ? HTTP_INTERNAL : HTTP_OK, "text/plain", out);
    } else if (a->style.fault == FAULT_REDIRECTED) {
        evhttp_add_header(evhttp_request_get_output_headers(req), "Location", evhttp_request_get_uri(req));
        send_as(req, HTTP_MOVETEMP, NULL, NULL);
    } else if (a->style.fault == FAULT_EMPTY) {
        send_as(req, HTTP_OK, "application/xml", NULL);
    } else if (!reply_write(&asked, &a->style, out)) {
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
    } else if (a->style.fault == FAULT_TRUNCATED) {
        send_half(req, out);
    } else {
        send_as(req, HTTP_OK, "application/xml", out);
    }
    asked_free(&asked);
    if (out)
        evbuffer_free(out);
}

static void forget(struct waiting *w)
{
    struct waiting **at = &w->all->waiting;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
    if (w->timer)
        event_free(w->timer);
    free(w);
}

/* A client that went away meanwhile is evhttp's matter: it frees the request when it is answered. */
static void on_due(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct waiting *w = arg;
    struct answers *a = w->all;
    struct evhttp_request *req = w->req;
    forget(w);
    send_now(a, req);
}

static bool answer_later(struct answers *a, struct evhttp_request *req, unsigned ms)
{
    struct waiting *w = calloc(1, sizeof *w);
    const struct timeval after = {ms / 1000, (suseconds_t)(ms % 1000) * 1000};
    if (!w)
        return false;
    *w = (struct waiting){.all = a, .req = req, .timer = evtimer_new(a->base, on_due, w), .next = a->waiting};
    a->waiting = w;
    if (w->timer && event_add(w->timer, &after) == 0)
        return true;
    forget(w);
    return false;
}

void answer(struct evhttp_request *req, void *arg)
{
    struct answers *a = arg;
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    const size_t n = evbuffer_get_length(in);
    const char *body = (const char *)evbuffer_pullup(in, -1);
    if (a->log)
        log_request(a->log, req, body ? body : "", n);
    unsigned ms = a->style.fault == FAULT_SILENT ? 3600000 : a->delay_ms;
    if (!ms && a->style.fault == FAULT_RESET)
        ms = 1;
    if (!ms)
        send_now(a, req);
    else if (!answer_later(a, req, ms))
        evhttp_send_error(req, HTTP_INTERNAL, NULL);
}

void answers_end(struct answers *a)
{
    while (a->waiting) {
        struct evhttp_request *req = a->waiting->req;
        forget(a->waiting);
        if (!evhttp_request_get_connection(req))
            evhttp_request_free(req); /* with a connection evhttp_free() does it */
    }
}
