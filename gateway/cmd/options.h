/*
 * The words behind a subcommand: options in any order, `--name VALUE` or `--name=VALUE`, and at most one operand; `--`
 * ends the options. What is wrong is told on stderr: what was found, what was expected.
 *
 *     const char *url = NULL; bool print = false;
 *     const struct option_entry entries[] = {
 *         {"--url", "RESOURCE-URL", &url, NULL, true}, {"--print", NULL, NULL, &print, false}};
 *     switch (options_read(&(struct option_table){.command = "request", .entries = entries, .n = 2}, argc, argv)) ...
 */
#ifndef KMSGATE_CMD_OPTIONS_H
#define KMSGATE_CMD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

struct option_entry {
    const char *name;
    const char *expects; /* what its value is; NULL: it takes none */
    const char **value;
    bool *flag;
    bool required;
};
struct option_table {
    const char *command;
    const struct option_entry *entries;
    size_t n;
    const char **operand; /* NULL: none is taken; else it is required */
    const char *operand_is;
};
/* OPTIONS_HELP: `--help` stands there. OPTIONS_WRONG: told; the exit code is EXIT_USAGE. */
enum options_result { OPTIONS_OK, OPTIONS_HELP, OPTIONS_WRONG };
enum options_result options_read(const struct option_table *t, int argc, char **argv);

#endif
