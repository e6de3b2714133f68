#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/uri.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

static const char USAGE[] =
    "usage: kmsgate request --url RESOURCE-URL --user URI --keys FILE.jsonl [OPTION]...\n"
    "\n"
    "A key management client: signs a request, posts it, verifies the reply, decrypts its keys and proves that they\n"
    "are the right ones for this user, this KMS and this key period.\n"
    "\n"
    "  --url URL           the resource, such as https://kms.example.org/keymanagement/identity/v1/keyprov; it is the\n"
    "                      ClientReqUrl too, which a gateway holds against its public_url byte for byte\n"
    "  --user URI          who asks\n"
    "  --keys FILE         the user's InK and TrK, a JSON object a line, as `kmsgate keys import` reads it\n"
    "  --kms-uri URI       KmsUri (the URL's host)\n"
    "  --client-id TEXT    ClientId (none)\n"
    "  --connect ADDRESS   posts to HOST:PORT, http://HOST:PORT or unix:PATH, the URL stays what it is\n"
    "  --ca FILE           the CA certificates that the server's certificate must lead to (the system's)\n"
    "  --cert FILE, --key FILE   the client's own certificate and private key, for mutual TLS\n"
    "  --token-file FILE   a bearer token that goes along\n"
    "  --certificate FILE  proves the keys by the KMS certificate in this stored reply to init; without it the\n"
    "                      certificate is asked for by another request, to …/init\n"
    "  --no-proof          takes the keys as they come\n"
    "  --proof             a reply without keys, or with keys that cannot be proven, ends with 1, too\n"
    "  --out FILE          keeps the raw reply\n"
    "  --print             prints the signed request instead of posting it\n"
    "  --with-secrets      shows the clear keys\n"
    "\n"
    "Exit: 0 done, 1 refused, not to be believed, or a wrong key; 2 wrong usage.\n";

struct request {
    const char *url, *user, *keys, *kms_uri, *client_id, *connect, *ca, *cert, *key, *token_file, *certificate, *out;
    bool no_proof, proof, print, with_secrets;
};

static bool wrong(const char *what, const char *found, const char *expected)
{
    complain("request: %s: found `%s`, expected %s", what, found, expected);
    return false;
}

static bool values_hold(const struct request *q)
{
    struct buf scratch BUF_CLEANUP = BUF_INIT(1 << 20);
    if (!uri_normalize(str_z(q->url), &scratch))
        return wrong("--url", q->url, "an http:// or https:// URL without user and fragment");
    if (!uri_is_any_uri(str_z(q->user)))
        return wrong("--user", q->user, "a URI, such as sip:alice@example.org");
    if (q->kms_uri && !uri_is_any_uri(str_z(q->kms_uri)))
        return wrong("--kms-uri", q->kms_uri, "a URI, such as kms.example.org");
    if (q->client_id && !str_is_utf8(str_z(q->client_id)))
        return wrong("--client-id", q->client_id, "UTF-8");
    if (q->connect && !client_connect_holds(q->connect))
        return wrong("--connect", q->connect, "HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH");
    if (!q->cert != !q->key)
        return wrong("--cert and --key", q->cert ? q->cert : q->key, "both of them");
    if (q->certificate && q->no_proof)
        return wrong("--no-proof", "--certificate beside it", "one of them");
    if (q->proof && q->no_proof)
        return wrong("--no-proof", "--proof beside it", "one of them");
    return true;
}

static bool compose(const struct request *q, const struct client *c, struct str url, struct buf *out)
{
    const struct client_ask ask = {.url = url, .kms_uri = str_z(q->kms_uri), .client_id = str_z(q->client_id)};
    if (client_compose(c, &ask, out))
        return true;
    complain("request: cannot be composed: no memory, or a value that no request can hold");
    return false;
}

static bool exchange(const struct request *q, const struct client *c, const char *url, bool quiet, long *status,
                     struct buf *reply)
{
    struct buf body BUF_CLEANUP = BUF_INIT(1 << 20);
    return compose(q, c, str_z(url), &body) &&
           client_post(&(struct client_post){.url = url, .connect = q->connect, .ca = q->ca, .certificate = q->cert,
                                             .key = q->key, .token_file = q->token_file, .body = buf_view(&body),
                                             .quiet = quiet},
                       status, reply);
}

/* The KMS certificate, by a request of its own. What goes wrong leaves the keys unproven, and is told there. */
static void fetch_kms(const struct request *q, const struct client *c, size_t base, struct proof_kms *out)
{
    struct buf url BUF_CLEANUP = BUF_INIT(1 << 20), reply BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    long status = 0;
    buf_bytes(&url, q->url, base);
    buf_z(&url, "/keymanagement/identity/v1/init");
    if (url.failed || !exchange(q, c, url.p, true, &status, &reply)) {
        snprintf(out->why, sizeof out->why, "no KMS certificate could be had: …/init was not answered");
        return;
    }
    struct client_got got;
    client_open(c, buf_view(&reply), &(struct client_expect){.signer = client_signer(c), .url = buf_view(&url),
                                                             .now_us = time_now_us()}, &got);
    client_take_kms(&got, out);
    client_got_free(&got);
}

/* False: a file was named that holds none. */
static bool find_kms(const struct request *q, const struct client *c, struct proof_kms *out)
{
    struct resource r;
    size_t base;
    if (q->certificate)
        return client_stored_kms(c, q->certificate, out);
    if (!q->no_proof && client_resource(str_z(q->url), &base, &r) && r.kind == RESOURCE_KEYPROV)
        fetch_kms(q, c, base, out);
    return true;
}

static bool keep(const char *path, const struct buf *reply)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
    bool ok = fd >= 0;
    for (size_t at = 0; ok && at < reply->n;) {
        const ssize_t n = write(fd, reply->p + at, reply->n - at);
        ok = n > 0 || (n < 0 && errno == EINTR);
        at += n > 0 ? (size_t)n : 0;
    }
    if (!ok)
        complain("request: %s: cannot be written: %s", path, strerror(errno));
    return (fd < 0 || close(fd) == 0) && ok;
}

static int ask(const struct request *q, const struct client *c, const struct proof_kms *kms)
{
    struct buf reply BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    long status = 0;
    if (!exchange(q, c, q->url, false, &status, &reply) || (q->out && !keep(q->out, &reply)))
        return EXIT_NEGATIVE;
    struct client_got got;
    client_open(c, buf_view(&reply),
                &(struct client_expect){.signer = client_signer(c), .url = str_z(q->url), .now_us = time_now_us(),
                                        .with_secrets = q->with_secrets, .kms = kms,
                                        .why_not = "--no-proof was given"}, &got);
    if (got.result == CLIENT_BROKEN)
        complain("request: HTTP %ld with %zu octets that are not to be believed", status, reply.n);
    int code = client_tell("request", &got);
    if (code == EXIT_DONE && q->proof && (got.sets == 0 || got.proven < got.sets)) {
        complain("request: %u of %u key sets are proven, expected one or more, and all of them", got.proven, got.sets);
        code = EXIT_NEGATIVE;
    }
    client_got_free(&got);
    return code;
}

static int print(const struct request *q, const struct client *c)
{
    struct buf body BUF_CLEANUP = BUF_INIT(1 << 20);
    if (!compose(q, c, str_z(q->url), &body))
        return EXIT_NEGATIVE;
    fwrite(body.p, 1, body.n, stdout);
    fputc('\n', stdout);
    return EXIT_DONE;
}

static int run(const struct request *q)
{
    struct client c;
    struct proof_kms kms = {.known = false};
    int code = EXIT_NEGATIVE;
    if (!client_startup()) {
        complain("request: a library does not start");
        return EXIT_NEGATIVE;
    }
    if (client_load(&c, q->user, q->keys)) {
        if (q->print)
            code = print(q, &c);
        else if (find_kms(q, &c, &kms))
            code = ask(q, &c, &kms);
    }
    client_free(&c);
    proof_kms_free(&kms);
    client_shutdown();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("request: cannot write to standard output");
        return EXIT_NEGATIVE;
    }
    return code;
}

int cmd_request(int argc, char **argv)
{
    struct request q = {0};
    const struct option_entry entries[] = {
        {"--url", "RESOURCE-URL", &q.url, NULL, true},
        {"--user", "URI", &q.user, NULL, true},
        {"--keys", "FILE.jsonl", &q.keys, NULL, true},
        {"--kms-uri", "URI", &q.kms_uri, NULL, false},
        {"--client-id", "TEXT", &q.client_id, NULL, false},
        {"--connect", "ADDRESS", &q.connect, NULL, false},
        {"--ca", "FILE", &q.ca, NULL, false},
        {"--cert", "FILE", &q.cert, NULL, false},
        {"--key", "FILE", &q.key, NULL, false},
        {"--token-file", "FILE", &q.token_file, NULL, false},
        {"--certificate", "FILE", &q.certificate, NULL, false},
        {"--out", "FILE", &q.out, NULL, false},
        {"--no-proof", NULL, NULL, &q.no_proof, false},
        {"--proof", NULL, NULL, &q.proof, false},
        {"--print", NULL, NULL, &q.print, false},
        {"--with-secrets", NULL, NULL, &q.with_secrets, false},
    };
    switch (options_read(&(struct option_table){.command = "request", .entries = entries,
                                                .n = sizeof entries / sizeof *entries}, argc, argv)) {
    case OPTIONS_HELP:
        fputs(USAGE, stdout);
        return EXIT_DONE;
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    default:
        return values_hold(&q) ? run(&q) : EXIT_USAGE;
    }
}
