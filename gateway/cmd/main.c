#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "cmd/cmd.h"
#include "message/xml.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *does;
} COMMANDS[] = {
    {"serve", cmd_serve, "run the gateway"},
    {"check", cmd_check, "validate configuration and rules"},
    {"health", cmd_health, "ask a running gateway whether it is ready"},
    {"keys", cmd_keys, "the users' keys: import, export, list, show, add, retire, revoke"},
    {"request", cmd_request, "a client: sign, post, verify, decrypt"},
    {"open", cmd_open, "verify and decrypt a stored response"},
    {"demo", cmd_demo, "the whole story on loopback"},
    {"explain", cmd_explain, "judge one captured request offline, and tell why"},
    {"test", cmd_test, "run your own cases against a rules file"},
    {"replay", cmd_replay, "what recorded decisions would have been under other rules"},
};

static void usage(FILE *to)
{
    fputs("usage: kmsgate COMMAND [OPTION]...\n\n", to);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        fprintf(to, "  %-8s  %s\n", COMMANDS[i].name, COMMANDS[i].does);
    fputs("\n`kmsgate COMMAND --help` explains a command; `kmsgate --version` tells the version.\n", to);
}

int main(int argc, char **argv)
{
    secret_harden_process();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow any more is a failed write, not the end */
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("kmsgate " KMSGATE_VERSION);
        return EXIT_DONE;
    }
    if (!xml_startup()) { /* before any thread; without it libxml2 speaks on stderr, and wipes nothing */
        complain("libxml2 does not start");
        return EXIT_NEGATIVE;
    }
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (strcmp(argv[1], COMMANDS[i].name) == 0) {
            const int code = COMMANDS[i].run(argc - 1, argv + 1);
            xml_shutdown();
            return code;
        }
    complain("no command `%s`; `kmsgate --help` lists them", argv[1]);
    return EXIT_USAGE;
}
