#include <stdio.h>

#include "base/limits.h"
#include "base/log.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

static const char USAGE[] =
    "usage: kmsgate open --user URI --keys FILE.jsonl [OPTION]... RESPONSE.xml\n"
    "\n"
    "Verifies a stored response, such as `kmsgate request --out` keeps, and decrypts its keys. `-` is standard input.\n"
    "\n"
    "  --user URI          whose response it is\n"
    "  --keys FILE         the user's InK and TrK, a JSON object a line, as `kmsgate keys import` reads it\n"
    "  --certificate FILE  proves the keys by the KMS certificate in this stored reply to init\n"
    "  --with-secrets      shows the clear keys\n"
    "\n"
    "Exit: 0 done, 1 a KmsError, not to be believed, or a wrong key; 2 wrong usage.\n";

struct request {
    const char *user, *keys, *certificate, *response;
    bool with_secrets;
};

static int tell(const struct request *q, const struct client *c)
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

static int run(const struct request *q)
{
    struct client c;
    if (!client_startup()) {
        complain("open: a library does not start");
        return EXIT_NEGATIVE;
    }
    int code = client_load(&c, q->user, q->keys) ? tell(q, &c) : EXIT_NEGATIVE;
    client_free(&c);
    client_shutdown();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("open: cannot write to standard output");
        code = EXIT_NEGATIVE;
    }
    return code;
}

int cmd_open(int argc, char **argv)
{
    struct request q = {0};
    const struct option_entry entries[] = {
        {"--user", "URI", &q.user, NULL, true},
        {"--keys", "FILE.jsonl", &q.keys, NULL, true},
        {"--certificate", "FILE", &q.certificate, NULL, false},
        {"--with-secrets", NULL, NULL, &q.with_secrets, false},
    };
    switch (options_read(&(struct option_table){"open", entries, sizeof entries / sizeof *entries, &q.response,
                                                "a RESPONSE.xml"}, argc, argv)) {
    case OPTIONS_HELP:
        fputs(USAGE, stdout);
        return EXIT_DONE;
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    default:
        return run(&q);
    }
}
