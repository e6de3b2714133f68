#include <stdio.h>

#include "base/limits.h"
#include "base/log.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

struct open_options {
    const char *user, *keys, *certificate, *response;
    bool with_secrets;
};

static int open_tell(const struct open_options *q, const struct client *c)
{
    struct buf text BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    struct proof_kms kms = {.known = false};
    int code = EXIT_NEGATIVE;
    if ((!q->certificate || client_stored_kms(c, q->certificate, &kms)) && client_read(q->response, &text)) {
        struct client_got got;
        client_open(c, buf_view(&text), &(struct client_expect){.with_secrets = q->with_secrets, .kms = &kms,
                                                                .why_not = "no KMS certificate (--certificate FILE)"},
                    &got);
        code = client_tell("open", &got);
        client_got_free(&got);
    }
    proof_kms_free(&kms);
    return code;
}

static int open_run(const void *given)
{
    const struct open_options *q = given;
    struct client c;
    if (!client_startup()) {
        complain("open: a library does not start");
        return EXIT_NEGATIVE;
    }
    int code = client_load(&c, q->user, q->keys) ? open_tell(q, &c) : EXIT_NEGATIVE;
    client_free(&c);
    client_shutdown();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("open: cannot write to standard output");
        code = EXIT_NEGATIVE;
    }
    return code;
}

static const struct command_option OPEN_OPTIONS[] = {
    {.name = "user", .argument = "URI", .type = VALUE_URI, .required = true, .at = offsetof(struct open_options, user),
     .help = "The user that the response was sent to."},
    {.name = "keys", .argument = "FILE.jsonl", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct open_options, keys),
     .help = "The InK and TrK of the user, in the format that `kmsgate keys import` reads."},
    {.name = "certificate", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct open_options, certificate),
     .help = "Verify the keys against the KMS certificate in this stored reply to an init request."},
    {.name = "with-secrets", .at = offsetof(struct open_options, with_secrets), .help = "Print the decrypted keys."}};
static const struct command_operand OPEN_OPERANDS[] = {
    {.name = "RESPONSE.xml", .type = VALUE_FILE, .at = offsetof(struct open_options, response),
     .help = "The stored response; `-` is standard input."}};
const struct command COMMAND_OPEN = {
    .name = "open", .does = "verify and decrypt a stored response",
    .about = "Verifies a response that was stored, as by `kmsgate request --out`, and decrypts its keys.",
    .exits = "0 the response is valid; 1 it is a KmsError, it failed verification, or a key is wrong",
    .examples = "kmsgate open --user sip:alice@example.org --keys alice.jsonl reply.xml\n",
    COMMAND_TAKES(OPEN_OPTIONS, OPEN_OPERANDS, struct open_options), .run = open_run};
