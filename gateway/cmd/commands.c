#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/yaml.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "message/xml.h"

const struct command *const COMMANDS[] = {
    &COMMAND_SERVE,   &COMMAND_CHECK, &COMMAND_HEALTH, &COMMAND_KEYS, &COMMAND_REQUEST,    &COMMAND_OPEN, &COMMAND_DEMO,
    &COMMAND_EXPLAIN, &COMMAND_TEST,  &COMMAND_REPLAY, &COMMAND_WHICH, &COMMAND_ADVISE,
    &COMMAND_DECISIONS, &COMMAND_CONFORM, &COMMAND_HELP,   &COMMAND_COMPLETION, &COMMAND_VERSION,
    NULL,
};

const struct command *command_find(const struct command *const *among, const char *name)
{
    for (; *among; among++)
        if (str_eq_z(str_z((*among)->name), name))
            return *among;
    return NULL;
}

struct command_name command_name(const struct command *c)
{
    struct command_name name;
    snprintf(name.z, sizeof name.z, "%s%s%s", c->group ? c->group : "", c->group ? " " : "", c->name);
    return name;
}

static int commands_print(const struct buf *text, FILE *to)
{
    if (text->failed || fwrite(text->p, 1, text->n, to) != text->n || fflush(to) != 0) {
        complain("cannot write to standard output");
        return EXIT_NEGATIVE;
    }
    return EXIT_DONE;
}

static int commands_help(const struct command *c, FILE *to)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    if (c)
        help_command(c, &text);
    else
        help_overview(&text);
    return commands_print(&text, to);
}

/* `name` is none of `group`'s commands (NULL: of the program's). */
static int commands_unknown(const struct command *group, const char *name)
{
    const struct command *const *among = group ? group->sub : COMMANDS;
    const char *names[64];
    size_t n = 0;
    for (; n < sizeof names / sizeof *names && among[n]; n++)
        names[n] = among[n]->name;
    const char *near = similar_name(str_z(name), names, sizeof *names, n);
    const char *before = group ? group->name : "", *space = group ? " " : "";
    if (near)
        complain("unknown command `%s%s%s`; did you mean `%s%s%s`? See `kmsgate help%s%s`", before, space, name, before,
                 space, near, space, before);
    else
        complain("unknown command `%s%s%s`; see `kmsgate help%s%s`", before, space, name, space, before);
    return EXIT_USAGE;
}

/* The command that up to two words name; NULL, and `*code` said on stderr, where they name none. */
static const struct command *commands_named(const struct words *w, int *code)
{
    const struct command *c = command_find(COMMANDS, w->v[0]), *group = NULL;
    if (c && w->n > 1 && c->sub) {
        group = c;
        c = command_find(c->sub, w->v[1]);
    }
    if (!c)
        *code = commands_unknown(group, w->v[group ? 1 : 0]);
    else if (w->n > (group ? 2 : 1))
        *code = usage_error(&COMMAND_HELP, "unexpected argument `%s`", w->v[group ? 2 : 1]);
    return w->n > (group ? 2 : 1) ? NULL : c;
}

struct help_options {
    bool man;
    struct words names;
};
static const struct command_option HELP_OPTIONS[] = {
    {.name = "man", .at = offsetof(struct help_options, man),
     .help = "Print a manual page for `man -l -`. Without a COMMAND it is that of the whole program, kmsgate(8)."}};
static const struct command_operand HELP_OPERANDS[] = {
    {.name = "COMMAND", .at = offsetof(struct help_options, names), .optional = true, .many = true,
     .help = "The name of a command, such as `explain` or `keys import`. Without it all commands are listed."}};

static int commands_show_help(const void *given)
{
    const struct help_options *q = given;
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    int code = EXIT_DONE;
    const struct command *c = q->names.n ? commands_named(&q->names, &code) : NULL;
    if (code != EXIT_DONE)
        return code;
    if (!q->man)
        return commands_help(c, stdout);
    if (c)
        manual_command(c, &text);
    else
        manual_overview(&text);
    return commands_print(&text, stdout);
}

const struct command COMMAND_HELP = {
    .name = "help", .does = "show help for a command",
    .about = "Shows what a command does and which options it takes, as `kmsgate COMMAND --help` does.",
    .exits = "0 done; 1 the help could not be written",
    COMMAND_TAKES(HELP_OPTIONS, HELP_OPERANDS, struct help_options), .run = commands_show_help};

struct completion_options {
    const char *shell;
};
static const struct command_operand COMPLETION_OPERANDS[] = {
    {.name = "bash|zsh", .at = offsetof(struct completion_options, shell), .type = VALUE_CHOICE,
     .help = "The shell that the script is for."}};

static int commands_complete(const void *given)
{
    const struct completion_options *q = given;
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    if (str_eq_z(str_z(q->shell), "bash"))
        completion_bash(&text);
    else
        completion_zsh(&text);
    return commands_print(&text, stdout);
}

const struct command COMMAND_COMPLETION = {
    .name = "completion", .does = "print a shell completion script",
    .about = "Prints a script that makes the shell complete commands, options, the words that an option takes, and "
             "file "
             "names. The Debian package installs both scripts.",
    .exits = "0 done; 1 the script could not be written",
    .examples = "source <(kmsgate completion bash)\nkmsgate completion zsh > ~/.zsh/completions/_kmsgate\n",
    COMMAND_OPERANDS(COMPLETION_OPERANDS), .size = sizeof(struct completion_options), .run = commands_complete};

static int commands_version(const void *given)
{
    (void)given;
    puts("kmsgate " KMSGATE_VERSION);
    return fflush(stdout) == 0 ? EXIT_DONE : EXIT_NEGATIVE;
}

const struct command COMMAND_VERSION = {
    .name = "version", .does = "show the version", .about = "Shows the version of the program, as `--version` does.",
    .exits = "0 done", .run = commands_version};

static int commands_run(const struct command *c, int argc, char **argv)
{
    union {
        max_align_t align;
        char bytes[COMMAND_GIVEN_MAX];
    } given = {.bytes = {0}};
    switch (options_read(c, argc, argv, &given)) {
    case OPTIONS_HELP:
        return commands_help(c, stdout);
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    default:
        break;
    }
    if (!xml_startup()) { /* before any thread; without it libxml2 speaks on stderr, and wipes nothing */
        complain("cannot initialize libxml2");
        return EXIT_NEGATIVE;
    }
    const int code = c->run(&given);
    xml_shutdown();
    return code;
}

static bool is_help(const char *word)
{
    return str_eq_z(str_z(word), "--help") || str_eq_z(str_z(word), "-h");
}

int command_main(int argc, char **argv)
{
    if (argc < 2)
        return commands_help(NULL, stderr), EXIT_USAGE;
    if (is_help(argv[1]))
        return commands_help(NULL, stdout);
    if (str_eq_z(str_z(argv[1]), "--version"))
        return commands_version(NULL);
    const struct command *c = command_find(COMMANDS, argv[1]);
    if (!c)
        return commands_unknown(NULL, argv[1]);
    if (!c->sub)
        return commands_run(c, argc - 1, argv + 1);
    if (argc < 3)
        return commands_help(c, stderr), EXIT_USAGE;
    if (is_help(argv[2]))
        return commands_help(c, stdout);
    const struct command *sub = command_find(c->sub, argv[2]);
    return sub ? commands_run(sub, argc - 2, argv + 2) : commands_unknown(c, argv[2]);
}
