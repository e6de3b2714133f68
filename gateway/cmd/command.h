/*
 * The commands of the program, as data. From one table come the parser, `--help`, the manual pages and the shells'
 * completion, so that none of them can say what another does not. A command's file holds its entry:
 *
 *     struct explain_options { const char *config, *format; bool quiet; const char *file; };
 *     static const struct command_option OPTIONS[] = {
 *         OPTION_CONFIG(struct explain_options, config),
 *         {.name = "format", .argument = "text|json", .type = VALUE_CHOICE, .preset = "text",
 *          .at = offsetof(struct explain_options, format), .help = "The form of the output."},
 *         {.name = "quiet", .at = offsetof(struct explain_options, quiet), .help = "Print the verdict only."}};
 *     static const struct command_operand OPERANDS[] = {
 *         {.name = "REQUEST.xml", .at = offsetof(struct explain_options, file)}};
 *     const struct command COMMAND_EXPLAIN = {
 *         .name = "explain", .does = "judge one captured request offline", .about = "…", .exits = "0 …; 1 …",
 *         COMMAND_TAKES(OPTIONS, OPERANDS, struct explain_options), .run = explain_run};
 *
 * and commands.c lists it. `run` gets a struct explain_options: what was not given is NULL (or false), or the preset.
 */
#ifndef KMSGATE_CMD_COMMAND_H
#define KMSGATE_CMD_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Exit codes: done, a negative answer or an error, wrong usage. */
enum { EXIT_DONE = 0, EXIT_NEGATIVE = 1, EXIT_USAGE = 2 };

/* What a value is: how the parser checks it, and how a shell completes it. VALUE_CONFIG is a file whose default is
 * $KMSGATE_CONFIG, else CONFIG_DEFAULT. VALUE_CHOICE: one of the words of `argument`, which are separated by `|`. */
enum value_type {
    VALUE_TEXT, VALUE_FILE, VALUE_FOLDER, VALUE_CONFIG, VALUE_CHOICE, VALUE_URI, VALUE_IP, VALUE_TIME, VALUE_COUNT
};
#define CONFIG_DEFAULT "/etc/kmsgate/gateway.yaml"

/* Several values of one option or operand: views of the command line. */
struct words {
    char *const *v;
    size_t n;
};

struct command_option {
    const char *name;     /* without the dashes */
    const char *argument; /* what stands for its value in the help; NULL: a flag, which takes none */
    const char *preset;   /* what holds without it, as it would be written; NULL: nothing does */
    const char *help;     /* sentences; `x` is shown as a literal */
    const char *words;    /* separated by `|`: what a shell offers, where others are right, too; NULL: nothing */
    size_t at;            /* offset of a `const char *`, or of a `bool` for a flag, in the struct that `run` gets */
    enum value_type type;
    bool required;
    char letter;          /* its short form; 0: none */
};
struct command_operand {
    const char *name;
    const char *help; /* NULL: its name says enough */
    size_t at;        /* offset of a `const char *`, or of a `struct words` with `many` */
    enum value_type type;
    bool optional;    /* with `many`: none is enough, too */
    bool many;        /* all that follow; the last operand only */
};
struct command {
    const char *name;  /* "explain"; of a subcommand "import" */
    const char *group; /* the command that it belongs to, such as "keys"; NULL: none */
    const char *does;  /* one line, without a full stop */
    const char *about; /* paragraphs, separated by line breaks; a line that begins with a space stays as it is */
    const char *exits; /* what the exit codes mean, without 2, wrong usage */
    const char *examples;    /* command lines, one a line; NULL: none */
    const char *also;        /* for "see also" of the manual page, such as "systemd.exec(5)"; NULL: none */
    const struct command_option *options;
    size_t option_count;
    const struct command_operand *operands;
    size_t operand_count;
    size_t size;             /* of the struct that `run` gets; at most COMMAND_GIVEN_MAX */
    int (*run)(const void *given);      /* returns an exit code */
    const struct command *const *sub;   /* of a group: its subcommands, NULL behind the last; then no `run` */
};
enum { COMMAND_GIVEN_MAX = 512 };
#define COMMAND_OPTIONS(o) .options = (o), .option_count = sizeof(o) / sizeof *(o)
#define COMMAND_OPERANDS(o) .operands = (o), .operand_count = sizeof(o) / sizeof *(o)
#define COMMAND_TAKES(o, p, type) COMMAND_OPTIONS(o), COMMAND_OPERANDS(p), .size = sizeof(type)

#define OPTION_CONFIG(given, field)                                                                               \
    {.name = "config", .letter = 'c', .argument = "FILE", .type = VALUE_CONFIG, .at = offsetof(given, field),     \
     .preset = "$KMSGATE_CONFIG, else " CONFIG_DEFAULT, .help = "The configuration of the gateway."}
#define OPTION_FORMAT(given, field)                                                                               \
    {.name = "format", .argument = "text|json", .type = VALUE_CHOICE, .at = offsetof(given, field),               \
     .preset = "text", .help = "The form of the output: `text` for people, or `json` for programs."}

/* Of the operand of those that read decision logs (study/lines.h). */
#define DECISION_FILES_HELP                                                                                       \
    "Decision logs, in the order of time; `-` is standard input. Files may be compressed by gzip, and may be the "   \
    "output of `journalctl` or, with nothing left out, `journalctl -o json --all`. A line that is not a decision is " \
    "counted and reported by file and line."

/* All commands in the order of the help; NULL behind the last. */
extern const struct command *const COMMANDS[];
/* The command of that name among these; NULL when there is none. */
const struct command *command_find(const struct command *const *among, const char *name);
/* "explain", "keys import". */
struct command_name {
    char z[64];
};
struct command_name command_name(const struct command *c);
/* Runs what the words (argv[0] is the program's name) say, and returns the exit code of the process. */
int command_main(int argc, char **argv);

/* Texts made from the table. */
void help_overview(struct buf *out);                          /* of the program */
void help_command(const struct command *c, struct buf *out);  /* `--help` */
void help_synopsis(const struct command *c, struct buf *out); /* one line without its end */
void manual_overview(struct buf *out);                        /* kmsgate(8), for man(1) */
void manual_command(const struct command *c, struct buf *out); /* kmsgate-COMMAND(8) */
void completion_bash(struct buf *out);
void completion_zsh(struct buf *out);

#endif
