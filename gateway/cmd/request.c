#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/uri.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

struct request_options {
    const char *url, *user, *keys, *kms_uri, *client_id, *connect, *ca, *cert, *key, *token_file, *certificate, *out;
    bool no_proof, proof, print, with_secrets;
};

static bool request_wrong(const char *what, const char *found, const char *expected)
{
    usage_error(&COMMAND_REQUEST, "%s: found `%s`, expected %s", what, found, expected);
    return false;
}

static bool values_hold(const struct request_options *q)
{
    struct buf scratch BUF_CLEANUP = BUF_INIT(1 << 20);
    if (!uri_normalize(str_z(q->url), &scratch))
        return request_wrong("--url", q->url, "an http:// or https:// URL without user and fragment");
    if (q->client_id && !str_is_utf8(str_z(q->client_id)))
        return request_wrong("--client-id", q->client_id, "UTF-8");
    if (q->connect && !client_connect_holds(q->connect))
        return request_wrong("--connect", q->connect, "HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH");
    if (!q->cert != !q->key)
        return request_wrong("--cert and --key", q->cert ? q->cert : q->key, "both of them");
    if (q->certificate && q->no_proof)
        return request_wrong("--no-proof", "--certificate beside it", "one of them");
    if (q->proof && q->no_proof)
        return request_wrong("--no-proof", "--proof beside it", "one of them");
    return true;
}

static bool compose(const struct request_options *q, const struct client *c, struct str url, struct buf *out)
{
    const struct client_ask ask = {.url = url, .kms_uri = str_z(q->kms_uri), .client_id = str_z(q->client_id)};
    if (client_compose(c, &ask, out))
        return true;
    complain("request: cannot be composed: no memory, or a value that no request can hold");
    return false;
}

static bool exchange(const struct request_options *q, const struct client *c, const char *url, bool quiet, long *status,
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
static void fetch_kms(const struct request_options *q, struct client *c, size_t base, struct proof_kms *out)
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
    if (!client_keep(c, q->keys, &got))
        complain("request: the keys are used as they were");
    client_got_free(&got);
}

/* False: a file was named that holds none. */
static bool find_kms(const struct request_options *q, struct client *c, struct proof_kms *out)
{
    struct resource r;
    size_t base;
    if (q->certificate)
        return client_stored_kms(c, q->certificate, out);
    if (!q->no_proof && client_resource(str_z(q->url), &base, &r) && r.kind == RESOURCE_KEYPROV)
        fetch_kms(q, c, base, out);
    return true;
}

static bool request_keep(const char *path, const struct buf *reply)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0600);
    const bool ok = fd >= 0 && file_write_all(fd, reply->p, reply->n);
    if (!ok)
        complain("request: %s: cannot be written: %s", path, strerror(errno));
    return (fd < 0 || close(fd) == 0) && ok;
}

static int request_ask(const struct request_options *q, struct client *c, const struct proof_kms *kms)
{
    struct buf reply BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    long status = 0;
    if (!exchange(q, c, q->url, false, &status, &reply) || (q->out && !request_keep(q->out, &reply)))
        return EXIT_NEGATIVE;
    struct client_got got;
    client_open(c, buf_view(&reply),
                &(struct client_expect){.signer = client_signer(c), .url = str_z(q->url), .now_us = time_now_us(),
                                        .with_secrets = q->with_secrets, .kms = kms,
                                        .why_not = "--no-proof was given"}, &got);
    if (got.result == CLIENT_BROKEN)
        complain("request: HTTP %ld: the reply (%zu octets) failed verification", status, reply.n);
    const bool kept = client_keep(c, q->keys, &got);
    int code = client_tell("request", &got);
    if (!kept)
        code = EXIT_NEGATIVE;
    if (code == EXIT_DONE && q->proof && (got.sets == 0 || got.proven < got.sets)) {
        complain("request: %u of %u key sets are proven, expected one or more, and all of them", got.proven, got.sets);
        code = EXIT_NEGATIVE;
    }
    client_got_free(&got);
    return code;
}

static int request_print(const struct request_options *q, const struct client *c)
{
    struct buf body BUF_CLEANUP = BUF_INIT(1 << 20);
    if (!compose(q, c, str_z(q->url), &body))
        return EXIT_NEGATIVE;
    fwrite(body.p, 1, body.n, stdout);
    fputc('\n', stdout);
    return EXIT_DONE;
}

static int request_exchange(const struct request_options *q)
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
            code = request_print(q, &c);
        else if (find_kms(q, &c, &kms))
            code = request_ask(q, &c, &kms);
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

static int request_run(const void *given)
{
    const struct request_options *q = given;
    return values_hold(q) ? request_exchange(q) : EXIT_USAGE;
}

static const struct command_option REQUEST_OPTIONS[] = {
    {.name = "url", .argument = "RESOURCE-URL", .required = true, .at = offsetof(struct request_options, url),
     .help = "The URL of the resource. It is also the ClientReqUrl, which a gateway compares with its public_url "
             "byte for byte."},
    {.name = "user", .argument = "URI", .type = VALUE_URI, .required = true,
     .at = offsetof(struct request_options, user),
     .help = "The user who makes the request."},
    {.name = "keys", .argument = "FILE.jsonl", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct request_options, keys),
     .help = "The InK and TrK of the user, in the format that `kmsgate keys import` reads. New keys that a reply "
             "brings are appended to it."},
    {.name = "kms-uri", .argument = "URI", .type = VALUE_URI, .at = offsetof(struct request_options, kms_uri),
     .help = "The KmsUri. Default: the host of the URL."},
    {.name = "client-id", .argument = "TEXT", .at = offsetof(struct request_options, client_id),
     .help = "The ClientId. Default: none."},
    {.name = "connect", .argument = "ADDRESS", .at = offsetof(struct request_options, connect),
     .help = "Post to HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH instead of the host of the URL."},
    {.name = "ca", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct request_options, ca),
     .help = "The CA certificates that the certificate of the server is verified against. Default: those of the "
             "system."},
    {.name = "cert", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct request_options, cert),
     .help = "The certificate of the client, for mutual TLS."},
    {.name = "key", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct request_options, key),
     .help = "The private key of the client, for mutual TLS."},
    {.name = "token-file", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct request_options, token_file),
     .help = "Send the bearer token in this file."},
    {.name = "certificate", .argument = "FILE", .type = VALUE_FILE,
     .at = offsetof(struct request_options, certificate),
     .help = "Verify the keys against the KMS certificate in this stored reply to an init request. Without it, the "
             "certificate is requested first."},
    {.name = "no-proof", .at = offsetof(struct request_options, no_proof),
     .help = "Do not verify the keys against a KMS certificate."},
    {.name = "proof", .at = offsetof(struct request_options, proof),
     .help = "Fail if the reply contains no keys, or keys that cannot be verified."},
    {.name = "out", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct request_options, out),
     .help = "Store the reply as received."},
    {.name = "print", .at = offsetof(struct request_options, print),
     .help = "Print the signed request instead of posting it."},
    {.name = "with-secrets", .at = offsetof(struct request_options, with_secrets),
     .help = "Print the decrypted keys."}};
const struct command COMMAND_REQUEST = {
    .name = "request", .does = "send a signed request, as a client",
    .about = "Acts as a key management client: signs a request, posts it, verifies the reply, decrypts its keys, and "
             "verifies that they belong to this user, this KMS and this key period.",
    .exits = "0 done; 1 the request was refused, the reply failed verification, or a key is wrong",
    .examples = "kmsgate request --user sip:alice@example.org --keys alice.jsonl \\\n"
                "    --url https://kms.example.org/keymanagement/identity/v1/keyprov\n",
    COMMAND_OPTIONS(REQUEST_OPTIONS), .size = sizeof(struct request_options), .run = request_run};
