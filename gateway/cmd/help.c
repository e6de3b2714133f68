#include <stdio.h>
#include <string.h>

#include "cmd/command.h"
#include "cmd/screen.h"

enum { HELP_WIDTH = 80, HELP_COLUMN = 26 }; /* of the texts behind names; a longer name gets a line of its own */

/* Paragraphs, an empty line before each; lines that begin with a space stay as they are. */
static void help_paragraphs(struct buf *out, const char *text)
{
    for (bool literal = false; *text;) {
        const struct str line = {text, strcspn(text, "\n")};
        if (!literal || *text != ' ')
            buf_char(out, '\n');
        literal = *text == ' ';
        if (literal) {
            buf_str(out, line);
            buf_char(out, '\n');
        } else {
            screen_wrap(out, line, 0, 0, HELP_WIDTH);
        }
        text += line.n + (text[line.n] != '\0');
    }
}

/* "  NAME      what it is", with what holds by default. */
static void help_item(struct buf *out, const char *name, const char *help, const char *preset)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 16);
    buf_z(&text, help);
    if (preset)
        buf_printf(&text, "%sDefault: %s.", *help ? " " : "", preset);
    buf_printf(out, "  %s", name);
    size_t column = 2 + strlen(name);
    if (column + 2 > HELP_COLUMN) {
        buf_char(out, '\n');
        column = 0;
    }
    buf_printf(out, "%*s", (int)(HELP_COLUMN - column), "");
    screen_wrap(out, buf_view(&text), HELP_COLUMN, HELP_COLUMN, HELP_WIDTH);
}

static void help_options(struct buf *out, const struct command *c)
{
    for (size_t i = 0; i < c->option_count; i++) {
        const struct command_option *o = c->options + i;
        char name[96];
        snprintf(name, sizeof name, "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? "," : " ", o->name, o->argument ? " " : "", o->argument ? o->argument : "");
        help_item(out, name, o->help, o->preset);
    }
    help_item(out, "-h, --help", "Show this help.", NULL);
}

static void help_operands(struct buf *out, const struct command *c)
{
    size_t told = 0;
    for (size_t i = 0; i < c->operand_count; i++)
        if (c->operands[i].help) {
            if (!told++)
                buf_char(out, '\n');
            help_item(out, c->operands[i].name, c->operands[i].help, NULL);
        }
}

static const char *brackets(bool optional, bool open)
{
    return !optional ? "" : open ? "[" : "]";
}

void help_synopsis(const struct command *c, struct buf *out)
{
    buf_printf(out, "kmsgate %s", command_name(c).z);
    if (c->sub)
        buf_z(out, " COMMAND [OPTION]...");
    for (size_t i = 0; i < c->option_count; i++) {
        const struct command_option *o = c->options + i;
        buf_printf(out, " %s--%s%s%s%s", brackets(!o->required, true), o->name, o->argument ? " " : "",
                   o->argument ? o->argument : "", brackets(!o->required, false));
    }
    for (size_t i = 0; i < c->operand_count; i++) {
        const struct command_operand *o = c->operands + i;
        buf_printf(out, " %s%s%s%s", brackets(o->optional, true), o->name, brackets(o->optional, false),
                   o->many ? "..." : "");
    }
}

/* The synopsis, broken between options and not inside of one. */
static void help_usage(const struct command *c, struct buf *out)
{
    static const char BEGIN[] = "usage: ";
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 16);
    help_synopsis(c, &line);
    const size_t indent = sizeof BEGIN - 1 + sizeof "kmsgate" + strlen(command_name(c).z) + 1;
    buf_z(out, BEGIN);
    size_t column = sizeof BEGIN - 1;
    for (size_t from = 0; from < line.n;) {
        const char *at = line.p + from;
        size_t n = strcspn(at, " ");
        if (*at == '[') /* "[--name VALUE]" */
            n = strcspn(at, "]") + 1;
        else if (*at == '-' && at[n] == ' ')
            n += 1 + strcspn(at + n + 1, " ");
        n += strspn(at + n, ".");
        if (column + 1 + n > HELP_WIDTH) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (from) {
            buf_char(out, ' ');
            column++;
        }
        buf_bytes(out, at, n);
        column += n;
        from += n + (at[n] == ' ');
    }
    buf_char(out, '\n');
}

static void help_list(struct buf *out, const struct command *const *among)
{
    for (; *among; among++)
        buf_printf(out, "  %-12s%s\n", (*among)->name, (*among)->does);
}

void help_command(const struct command *c, struct buf *out)
{
    help_usage(c, out);
    help_paragraphs(out, c->about);
    buf_char(out, '\n');
    if (c->sub) {
        help_list(out, c->sub);
        buf_printf(out, "\nSee `kmsgate %s COMMAND --help` for the options of a command.\n", c->name);
        return;
    }
    help_options(out, c);
    help_operands(out, c);
    if (c->examples) {
        buf_z(out, "\nExamples:\n");
        for (const char *at = c->examples; *at;) {
            const size_t n = strcspn(at, "\n");
            buf_printf(out, "  %.*s\n", (int)n, at);
            at += n + (at[n] != '\0');
        }
    }
    buf_z(out, "\nExit status: ");
    struct buf exits BUF_CLEANUP = BUF_INIT(1 << 16);
    buf_printf(&exits, "%s; 2 wrong usage.", c->exits);
    screen_wrap(out, buf_view(&exits), sizeof "Exit status: " - 1, 0, HELP_WIDTH);
}

void help_overview(struct buf *out)
{
    buf_z(out, "usage: kmsgate COMMAND [OPTION]...\n\n");
    help_list(out, COMMANDS);
    buf_z(out, "\nSee `kmsgate COMMAND --help` for the options of a command.\n");
}
