#include "cmd/conform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/uri.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

static bool conform_wrong(const char *what, const char *found, const char *expected)
{
    usage_error(&COMMAND_CONFORM, "%s: found `%s`, expected %s", what, found, expected);
    return false;
}

static bool conform_values_hold(const struct conform_options *o)
{
    struct buf scratch BUF_CLEANUP = BUF_INIT(1 << 20);
    const size_t n = strlen(o->url);
    if (!uri_normalize(str_z(o->url), &scratch) || o->url[n - 1] == '/' || strchr(o->url, '?') ||
        strstr(o->url, "/keymanagement/"))
        return conform_wrong("--url", o->url, "the base that clients use, as `public_url` has it, without a slash at "
                             "its end: https://kms.example.org");
    if (!o->cert != !o->key)
        return conform_wrong("--cert and --key", o->cert ? o->cert : o->key, "both of them");
    if (o->connect && !client_connect_holds(o->connect))
        return conform_wrong("--connect", o->connect, "HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH");
    return true;
}

/* The newest that is active. */
static const struct key_entry *conform_key(const struct client *c, enum key_type type)
{
    bool any;
    const struct key_entry *key = client_newest(c, type, &any);
    return key && key->state == KEY_ACTIVE ? key : NULL;
}

static bool conform_open_folder(struct conform *c)
{
    const char *folder = c->options->out;
    c->folder = -1;
    if (!folder)
        return true;
    if (mkdir(folder, 0700) == 0 || errno == EEXIST)
        c->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->folder < 0)
        complain("conform: %s: exchanges cannot be kept there: %s", folder, strerror(errno));
    return c->folder >= 0;
}

static int conform_print(const struct conform *c)
{
    const char *format = c->options->format;
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    if (format_is_json(format))
        conform_print_json(c, &out);
    else if (strcmp(format, "junit") == 0)
        conform_print_junit(c, &out);
    else
        conform_print_text(c, &out);
    if (out.failed || fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout) != 0) {
        complain("conform: no memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].result != CONFORM_HOLDS)
            return EXIT_NEGATIVE;
    return c->broken ? EXIT_NEGATIVE : EXIT_DONE;
}

static int conform_try(struct conform *c)
{
    const struct conform_options *o = c->options;
    if (!client_load(&c->client, o->user, o->keys) || !conform_open_folder(c))
        return EXIT_NEGATIVE;
    c->ink = conform_key(&c->client, KEY_INK);
    c->trk = conform_key(&c->client, KEY_TRK);
    c->signer = client_signer(&c->client);
    c->kms_uri = o->kms_uri ? str_z(o->kms_uri) : uri_host(str_z(o->url));
    conform_requests(c);
    if (!c->broken)
        conform_responses(c);
    return conform_print(c);
}

static int conform_run(const void *given)
{
    const struct conform_options *o = given;
    if (!conform_values_hold(o))
        return EXIT_USAGE;
    struct conform *c = calloc(1, sizeof *c);
    if (!c || !client_startup()) {
        complain("conform: no memory, or a library does not start");
        free(c);
        return EXIT_NEGATIVE;
    }
    c->options = o;
    c->folder = -1;
    const int code = conform_try(c);
    if (c->folder >= 0)
        close(c->folder);
    client_free(&c->client);
    client_shutdown();
    free(c);
    return code;
}

static const struct command_option CONFORM_OPTIONS[] = {
    {.name = "url", .argument = "BASE", .required = true, .at = offsetof(struct conform_options, url),
     .help = "The base that clients use, as `public_url` has it, such as https://kms.example.org."},
    {.name = "user", .argument = "URI", .type = VALUE_URI, .required = true,
     .at = offsetof(struct conform_options, user),
     .help = "The user who makes the requests. No other user is touched; take one that is made for this."},
    {.name = "keys", .argument = "FILE.jsonl", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct conform_options, keys),
     .help = "The InK and TrK of the user, in the format that `kmsgate keys import` reads. New keys that a reply "
             "brings are not kept."},
    {.name = "kms-uri", .argument = "URI", .type = VALUE_URI, .at = offsetof(struct conform_options, kms_uri),
     .help = "The KmsUri. Default: the host of the URL."},
    {.name = "client-id", .argument = "TEXT", .at = offsetof(struct conform_options, client_id),
     .help = "The ClientId. Default: none."},
    {.name = "connect", .argument = "ADDRESS", .at = offsetof(struct conform_options, connect),
     .help = "Post to HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH instead of the host of the URL."},
    {.name = "ca", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct conform_options, ca),
     .help = "The CA certificates that the certificate of the server is verified against. Default: those of the "
             "system."},
    {.name = "cert", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct conform_options, cert),
     .help = "The certificate of the client, for mutual TLS."},
    {.name = "key", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct conform_options, key),
     .help = "The private key of the client, for mutual TLS."},
    {.name = "token-file", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct conform_options, token_file),
     .help = "Send the bearer token in this file."},
    {.name = "out", .argument = "FOLDER", .type = VALUE_FOLDER, .at = offsetof(struct conform_options, out),
     .help = "Keep each exchange in this folder: NNN-NAME.request.xml, .response.xml and .status, with mode 0600."},
    {.name = "format", .argument = "text|json|junit", .type = VALUE_CHOICE, .preset = "text",
     .at = offsetof(struct conform_options, format),
     .help = "The form of the output: `text`, a table for people, or `json` or `junit` for programs."}};
const struct command COMMAND_CONFORM = {
    .name = "conform", .does = "try a KMS or gateway clause by clause",
    .about = "Tries a KMS, or a gateway, that claims the security extension of TS 33.180, as a client: D.2.2, what it "
             "must verify in a request, by requests with one thing wrong each, beside a valid one; D.3 and D.3.1, what "
             "its replies must be, resource by resource. A clause holds, does not hold, or it cannot be told, as "
             "where not even the valid request is accepted. Some 90 requests are sent, one after the other, for "
             "one user. "
             "Nothing is uploaded to /redirect.",
    .exits = "0 all hold; 1 something does not, or cannot be told",
    .examples = "kmsgate conform --url https://kms.example.org --user sip:probe@example.org --keys probe.jsonl \\\n"
                "    --out conform\n",
    COMMAND_OPTIONS(CONFORM_OPTIONS), .size = sizeof(struct conform_options), .run = conform_run};
