#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/log.h"
#include "cmd/client.h"

enum { CONNECT_SECONDS = 10, WHOLE_SECONDS = 60 };

static size_t take(char *p, size_t size, size_t n, void *arg)
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

static bool set_up(CURL *curl, const struct client_post *what, struct curl_slist *headers, struct buf *reply)
{
    bool ok = curl_easy_setopt(curl, CURLOPT_URL, what->url) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK && /* ClientReqUrl is this URL, byte for byte */
              curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_USERAGENT, "kmsgate/" KMSGATE_VERSION) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)WHOLE_SECONDS) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take) == CURLE_OK &&
              curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply) == CURLE_OK;
    if (ok && what->ca)
        ok = curl_easy_setopt(curl, CURLOPT_CAINFO, what->ca) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) == CURLE_OK;
    if (ok && what->body.p)
        ok = curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)what->body.n) == CURLE_OK &&
             curl_easy_setopt(curl, CURLOPT_POSTFIELDS, what->body.p) == CURLE_OK;
    return ok;
}

bool client_post(const struct client_post *what, long *status, struct buf *reply)
{
    char why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL;
    CURL *curl = curl_easy_init();
    bool ok = curl && add_header(&headers, "Content-Type: application/xml") &&
              add_header(&headers, "Accept: application/xml") && add_header(&headers, "Expect:");
    if (!ok)
        complain("no memory");
    ok = ok && (!what->token_file || add_token(&headers, what->token_file));
    if (ok) {
        ok = curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why) == CURLE_OK && set_up(curl, what, headers, reply);
        const CURLcode code = ok ? curl_easy_perform(curl) : CURLE_FAILED_INIT;
        ok = code == CURLE_OK && curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, status) == CURLE_OK;
        if (!ok && !what->quiet)
            complain("%s: %s", what->url, reply->failed ? "the reply is too large" : *why ? why : curl_easy_strerror(code));
    }
    curl_easy_cleanup(curl);
    free_headers(headers);
    return ok;
}
