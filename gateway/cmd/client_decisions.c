#include "cmd/client_decisions.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "cmd/client.h"
#include "http/tls.h"

enum { CONNECT_SECONDS = 10, WHOLE_SECONDS = 60, REPLY_MAX = 64 << 20, HTTP_OK = 200 };

struct live {
    const struct client_decisions *what;
    CURL *curl;
    struct buf reply; /* not yet taken */
    bool ended;       /* by who takes the lines */
};

static bool live_take(struct live *l, struct str line)
{
    l->ended = line.n && !l->what->take(l->what->arg, line);
    return !l->ended;
}

/* Whole lines are taken as they come; what is no stream is kept. */
static size_t live_receive(char *p, size_t size, size_t n, void *arg)
{
    struct live *l = arg;
    long status = 0;
    buf_bytes(&l->reply, p, size * n);
    if (l->reply.failed || curl_easy_getinfo(l->curl, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK)
        return 0;
    size_t from = 0;
    for (const char *end; l->what->follow && status == HTTP_OK && l->reply.n > from &&
                          (end = memchr(l->reply.p + from, '\n', l->reply.n - from));) {
        if (!live_take(l, (struct str){l->reply.p + from, (size_t)(end - l->reply.p) - from}))
            return 0;
        from = (size_t)(end - l->reply.p) + 1;
    }
    if (from) {
        memmove(l->reply.p, l->reply.p + from, l->reply.n - from);
        l->reply.n -= from;
    }
    return size * n;
}

/* A list of decisions, the newest first, becomes lines, the oldest first. */
static bool live_list(struct live *l)
{
    size_t at = 0, n = 0;
    const char *why = NULL;
    struct json_doc *doc = json_read(buf_view(&l->reply), &at, &why);
    const struct json_value *list = doc ? json_root(doc) : NULL;
    const bool good = list && list->kind == JSON_ARRAY;
    for (const struct json_value *v = good ? list->first : NULL; v; v = v->next)
        n++;
    const struct json_value **all = calloc(n + 1, sizeof(void *));
    n = 0;
    for (const struct json_value *v = good && all ? list->first : NULL; v; v = v->next)
        all[n++] = v;
    bool on = true;
    for (size_t i = n; i > 0 && on; i--) {
        const size_t from = all[i - 1]->at, end = (i < n ? all[i]->at : l->reply.n) - 1; /* before `,` or `]` */
        on = live_take(l, str_trim((struct str){l->reply.p + from, end - from}));
    }
    free((void *)all);
    json_free(doc);
    return good && all;
}

static void live_query(const struct live *l, struct buf *url)
{
    const struct {
        const char *name, *value;
    } of[] = {{"user", l->what->user}, {"reason", l->what->reason}, {"verdict", l->what->verdict},
              {"rule", l->what->rule}};
    buf_z(url, l->what->url);
    buf_z(url, l->what->follow ? "/decisions?follow=1" : "/decisions?n=1000");
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        char *escaped = of[i].value ? curl_easy_escape(l->curl, of[i].value, 0) : NULL;
        if (escaped)
            buf_printf(url, "&%s=%s", of[i].name, escaped);
        url->failed |= of[i].value && !escaped;
        curl_free(escaped);
    }
}

static bool live_token(const struct secret_source *from, struct buf *line)
{
    struct faults faults = {0};
    if (!from || from->kind == SECRET_NONE)
        return true;
    char *token = config_read_token(from, &faults);
    if (token) {
        buf_z(line, "Authorization: Bearer ");
        buf_z(line, token);
        secret_wipe(token, strlen(token));
    }
    faults_print(&faults, stderr);
    faults_free(&faults);
    const bool read = token != NULL;
    free(token);
    return read && !line->failed;
}

/* The gateway of this configuration and no other is to read the token. */
static CURLcode live_own(CURL *curl, void *ctx, void *arg)
{
    char why[TLS_WHY];
    (void)curl;
    if (tls_client_of(ctx, arg, true, why))
        return CURLE_OK;
    complain("decisions: %s", why);
    return CURLE_SSL_CERTPROBLEM;
}

static bool live_expect(CURL *c, const struct listen_config *own)
{
    return !own || !own->certificate ||
           (curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L) == CURLE_OK &&
            curl_easy_setopt(c, CURLOPT_CAINFO, own->certificate) == CURLE_OK &&
            curl_easy_setopt(c, CURLOPT_SSL_CTX_DATA, (void *)(uintptr_t)own) == CURLE_OK &&
            curl_easy_setopt(c, CURLOPT_SSL_CTX_FUNCTION, live_own) == CURLE_OK);
}

static bool live_set_up(struct live *l, const char *url, struct curl_slist *headers, char why[CURL_ERROR_SIZE])
{
    CURL *c = l->curl;
    return curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers) == CURLE_OK && live_expect(c, l->what->own) &&
           curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_TIMEOUT, l->what->follow ? 0L : (long)WHOLE_SECONDS) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, live_receive) == CURLE_OK &&
           curl_easy_setopt(c, CURLOPT_WRITEDATA, l) == CURLE_OK;
}

static bool live_ask(struct live *l, struct curl_slist *headers)
{
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    struct buf url BUF_CLEANUP = BUF_INIT(64 * 1024);
    live_query(l, &url);
    if (url.failed || !live_set_up(l, url.p, headers, why)) {
        complain("decisions: out of memory, or a URL that cannot be asked: %s", l->what->url);
        return false;
    }
    const CURLcode code = curl_easy_perform(l->curl);
    if (l->ended)
        return true;
    if (code != CURLE_OK || curl_easy_getinfo(l->curl, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK) {
        complain("%s: %s", l->what->url, *why ? why : curl_easy_strerror(code));
        return false;
    }
    if (status == HTTP_OK && (l->what->follow || live_list(l)))
        return true;
    complain("%s: found HTTP status %ld, expected 200 and decisions%s", l->what->url, status,
             status == 401 || status == 403 ? ": give the admin token as --token-file" : "");
    return false;
}

bool client_decisions(const struct client_decisions *what)
{
    struct buf token BUF_CLEANUP = BUF_INIT_SECRET(16 * 1024);
    struct live l = {.what = what, .reply = BUF_INIT(REPLY_MAX)};
    bool ok = client_startup();
    l.curl = ok ? curl_easy_init() : NULL;
    if (!l.curl)
        complain("out of memory");
    ok = l.curl && live_token(what->token, &token);
    struct curl_slist *headers = ok && token.n ? curl_slist_append(NULL, token.p) : NULL;
    ok = ok && live_ask(&l, headers);
    for (struct curl_slist *h = headers; h; h = h->next)
        secret_wipe(h->data, strlen(h->data));
    curl_slist_free_all(headers);
    curl_easy_cleanup(l.curl);
    client_shutdown();
    buf_free(&l.reply);
    return ok;
}
