/*
 * The words behind a command: options and operands in any order, `--name VALUE` or `--name=VALUE`, no abbreviations;
 * `--` ends the options, `-` alone is an operand.
 */
#ifndef KMSGATE_CMD_OPTIONS_H
#define KMSGATE_CMD_OPTIONS_H

#include "cmd/command.h"

/* OPTIONS_HELP: `--help` or `-h` was found. OPTIONS_WRONG: what is wrong was written to stderr; the exit code is
 * EXIT_USAGE. */
enum options_result { OPTIONS_OK, OPTIONS_HELP, OPTIONS_WRONG };
/* Reads argv[1] to argv[argc - 1] into `given`, c->size zeroed bytes. The strings stay those of argv, whose order may
 * change. */
enum options_result options_read(const struct command *c, int argc, char **argv, void *given);

/* "kmsgate: COMMAND: message; see `kmsgate COMMAND --help`" on stderr, for usage that only the command itself can find
 * wrong; returns EXIT_USAGE. */
int usage_error(const struct command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The file that --config means where it is not given. */
const char *config_default(void);
/* True when `format` (never NULL) is "json". */
bool format_is_json(const char *format);

#endif
