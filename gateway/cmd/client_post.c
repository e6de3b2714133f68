#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/log.h"
#include "cmd/client.h"

enum { CONNECT_SECONDS = 10, WHOLE_SECONDS = 60 };

static size_t post_take(char *p, size_t size, size_t n, void *arg)
{
    struct buf *reply = arg;
    buf_bytes(reply, p, size * n);
    return reply->failed ? 0 : size * n; /* 0 ends the transfer */
}

static bool add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (longer)
        *list = longer;
    return longer != NULL;
}

static bool add_token(struct curl_slist **list, const char *file)
{
    struct faults faults = {0};
    struct secret_source from = {.kind = SECRET_FILE, .name = (char *)(uintptr_t)file};
    struct buf line BUF_CLEANUP = BUF_INIT_SECRET(16 * 1024);
    char *token = config_read_token(&from, &faults);
    if (token) {
        buf_z(&line, "Authorization: Bearer ");
        buf_z(&line, token);
        secret_wipe(token, strlen(token));
    }
    faults_print(&faults, stderr);
    faults_free(&faults);
    const bool read = token != NULL;
    free(token);
    return read && !line.failed && add_header(list, line.p);
}

/* The list holds a copy of the token. */
static void free_headers(struct curl_slist *list)
{
    for (struct curl_slist *h = list; h; h = h->next)
        secret_wipe(h->data, strlen(h->data));
    curl_slist_free_all(list);
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct client_post *what = arg;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return what->stop(); /* not 0 ends the transfer */
}

/* What stands before "://" of an address, or of a URL; missing when nothing does. */
static struct str scheme_of(const char *text)
{
    const char *end = strstr(text, "://");
    return end ? (struct str){text, (size_t)(end - text)} : STR_MISSING;
}

static const char *behind_scheme(const char *text)
{
    const struct str scheme = scheme_of(text);
    return scheme.p ? text + scheme.n + 3 : text;
}

static bool is_unix(const char *address)
{
    return str_starts(str_z(address), STR("unix:"));
}

bool client_connect_holds(const char *address)
{
    const struct str scheme = scheme_of(address);
    const char *rest = behind_scheme(address), *colon = strrchr(rest, ':');
    uint64_t port = 0;
    if (is_unix(address))
        return address[5] == '/';
    if (!colon || colon == rest || strpbrk(rest, "/?#@ ") || !str_to_u64(str_z(colon + 1), 65535, &port) || !port)
        return false;
    const bool bracket = rest[0] == '[' && colon[-1] == ']';
    if (!bracket && memchr(rest, ':', (size_t)(colon - rest)))
        return false;
    return !scheme.p || str_eq_z(scheme, "http") || str_eq_z(scheme, "https");
}

/* Where the URL is posted, if not where it says: its scheme may change, the rest of it stays. */
static bool set_address(CURL *curl, const struct client_post *what, struct curl_slist **connect)
{
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20), to BUF_CLEANUP = BUF_INIT(1 << 12);
    if (!what->connect)
        return curl_easy_setopt(curl, CURLOPT_URL, what->url) == CURLE_OK;
    struct str scheme = is_unix(what->connect) ? STR("http") : scheme_of(what->connect);
    if (!scheme.p)
        scheme = scheme_of(what->url);
    buf_str(&url, scheme);
    buf_z(&url, "://");
    buf_z(&url, behind_scheme(what->url));
    buf_z(&to, "::");
    buf_z(&to, behind_scheme(what->connect));
    if (url.failed || to.failed || curl_easy_setopt(curl, CURLOPT_URL, url.p) != CURLE_OK)
        return false;
    if (is_unix(what->connect))
        return curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, what->connect + 5) == CURLE_OK;
    return add_header(connect, to.p) && curl_easy_setopt(curl, CURLOPT_CONNECT_TO, *connect) == CURLE_OK;
}

static bool set_up(CURL *curl, const struct client_post *what, struct curl_slist *headers, struct buf *reply)
{
    bool ok = curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK && /* ClientReqUrl is this URL, byte for
                                                                             * byte */
              curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_USERAGENT, "kmsgate/" KMSGATE_VERSION) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)WHOLE_SECONDS) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, post_take) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply) == CURLE_OK;
    if (ok && what->ca)
        ok = curl_easy_setopt(curl, CURLOPT_CAINFO, what->ca) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) == CURLE_OK;
    if (ok && what->certificate)
        ok = curl_easy_setopt(curl, CURLOPT_SSLCERT, what->certificate) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_SSLKEY, what->key) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_KEYPASSWD, "") == CURLE_OK; /* nobody is asked for one */
    if (ok && what->stop)
        ok = curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_XFERINFODATA, (void *)(uintptr_t)what) == CURLE_OK;
    if (ok && what->body.p)
        ok = curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)what->body.n) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_POSTFIELDS, what->body.p) == CURLE_OK;
    return ok;
}

bool client_post(const struct client_post *what, long *status, struct buf *reply)
{
    char why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL, *connect = NULL;
    CURL *curl = curl_easy_init();
    bool ok = curl && add_header(&headers, "Content-Type: application/xml") &&
              add_header(&headers, "Accept: application/xml") && add_header(&headers, "Expect:");
    if (!ok)
        complain("no memory");
    ok = ok && (!what->token_file || add_token(&headers, what->token_file));
    if (ok) {
        ok = curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why) == CURLE_OK && set_up(curl, what, headers, reply) &&
             set_address(curl, what, &connect);
        const CURLcode code = ok ? curl_easy_perform(curl) : CURLE_FAILED_INIT;
        ok = code == CURLE_OK && curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status) == CURLE_OK;
        if (!ok && !what->quiet)
            complain("%s: %s", what->connect ? what->connect : what->url,
                     reply->failed ? "the reply is too large" : *why ? why : curl_easy_strerror(code));
    }
    curl_easy_cleanup(curl);
    free_headers(headers);
    curl_slist_free_all(connect);
    return ok;
}

bool client_startup(void)
{
    return curl_global_init(CURL_GLOBAL_DEFAULT) == 0;
}

void client_shutdown(void)
{
    curl_global_cleanup();
}
