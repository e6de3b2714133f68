#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cmd/command.h"

/* Text in roff: `x` in bold, and nothing that would be a request or another kind of dash. */
static void manual_text(struct buf *out, struct str text)
{
    bool literal = false;
    for (size_t i = 0; i < text.n; i++) {
        const char c = text.p[i];
        if (i == 0 && (c == '.' || c == '\''))
            buf_z(out, "\\&");
        if (c == '`') {
            literal = !literal;
            buf_z(out, literal ? "\\fB" : "\\fR");
        } else if (c == '-' || c == '\\') {
            buf_z(out, c == '-' ? "\\-" : "\\e");
        } else {
            buf_char(out, c);
        }
    }
    buf_char(out, '\n');
}

static void manual_z(struct buf *out, const char *text)
{
    manual_text(out, str_z(text));
}

static void manual_paragraphs(struct buf *out, const char *text, const char *between)
{
    bool first = true, literal = false;
    while (*text) {
        const struct str line = {text, strcspn(text, "\n")};
        const bool begins = *text == ' ' && !literal;
        if (literal && *text != ' ')
            buf_z(out, ".fi\n");
        if (!first && (begins || *text != ' '))
            buf_printf(out, "%s\n", between);
        if (begins)
            buf_z(out, ".nf\n");
        literal = *text == ' ';
        manual_text(out, line);
        text += line.n + (text[line.n] != '\0');
        first = false;
    }
    if (literal)
        buf_z(out, ".fi\n");
}

static void manual_head(struct buf *out, const char *name, const char *does)
{
    buf_z(out, ".TH \"");
    for (const char *c = name; *c; c++)
        buf_char(out, (char)toupper((unsigned char)*c));
    buf_printf(out, "\" 8 \"\" \"kmsgate " KMSGATE_VERSION "\" \"System administration\"\n.SH NAME\n%s \\- ", name);
    manual_z(out, does);
}

static void manual_synopsis(struct buf *out, const struct command *c)
{
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 16);
    help_synopsis(c, &line);
    buf_z(out, ".PP\n");
    manual_text(out, buf_view(&line));
}

static void manual_options(struct buf *out, const struct command *c)
{
    for (size_t i = 0; i < c->option_count; i++) {
        const struct command_option *o = c->options + i;
        buf_z(out, ".TP\n");
        if (o->letter)
            buf_printf(out, "\\fB\\-%c\\fR, ", o->letter);
        buf_printf(out, "\\fB\\-\\-");
        for (const char *n = o->name; *n; n++)
            buf_z(out, *n == '-' ? "\\-" : (const char[2]){*n, '\0'});
        buf_printf(out, "\\fR%s%s%s\n", o->argument ? " \\fI" : "", o->argument ? o->argument : "",
                   o->argument ? "\\fR" : "");
        if (*o->help)
            manual_z(out, o->help);
        if (o->preset) {
            struct buf preset BUF_CLEANUP = BUF_INIT(1024);
            buf_printf(&preset, "Default: %s.", o->preset);
            manual_text(out, buf_view(&preset));
        }
    }
    buf_z(out, ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow a short help.\n");
    for (size_t i = 0; i < c->operand_count; i++)
        if (c->operands[i].help) {
            buf_printf(out, ".TP\n\\fI%s\\fR\n", c->operands[i].name);
            manual_z(out, c->operands[i].help);
        }
}

static void manual_examples(struct buf *out, const char *examples)
{
    buf_z(out, ".PP\n.nf\n.RS\n");
    while (*examples) {
        const struct str line = {examples, strcspn(examples, "\n")};
        manual_text(out, line);
        examples += line.n + (examples[line.n] != '\0');
    }
    buf_z(out, ".RE\n.fi\n");
}

/* A subcommand as a section of its group's page. */
static void manual_section(struct buf *out, const struct command *c)
{
    buf_printf(out, ".SS \"%s\"\n", command_name(c).z);
    manual_paragraphs(out, c->about, ".PP");
    manual_options(out, c);
    if (c->examples)
        manual_examples(out, c->examples);
}

static bool has_config(const struct command *c)
{
    for (size_t i = 0; i < c->option_count; i++)
        if (c->options[i].type == VALUE_CONFIG)
            return true;
    return c->sub && c->sub[0] && has_config(c->sub[0]);
}

static void manual_end(struct buf *out, const struct command *c)
{
    if (has_config(c))
        buf_z(out, ".SH ENVIRONMENT\n.TP\n.B KMSGATE_CONFIG\nThe configuration to use without\n.BR \\-\\-config .\n"
                   ".TP\n.BI KMSGATE_ NAME\nA single value of the configuration; see\n.BR kmsgate (8).\n"
                   ".SH FILES\n.TP\n.I " CONFIG_DEFAULT "\nThe configuration of the gateway.\n");
    buf_z(out, ".SH \"EXIT STATUS\"\n");
    if (c->exits) {
        struct buf exits BUF_CLEANUP = BUF_INIT(1 << 16);
        buf_printf(&exits, "%s; 2 wrong usage.", c->exits);
        manual_text(out, buf_view(&exits));
    } else {
        buf_z(out, "0 done; 1 a negative answer or an error; 2 wrong usage.\n");
    }
    buf_printf(out, ".SH \"SEE ALSO\"\n.BR kmsgate (8)%s%s\n", c->also ? ",\n" : "", c->also ? c->also : "");
}

void manual_command(const struct command *c, struct buf *out)
{
    char name[96];
    snprintf(name, sizeof name, "kmsgate-%s", command_name(c).z);
    for (char *at = name; *at; at++)
        *at = *at == ' ' ? '-' : *at;
    manual_head(out, name, c->does);
    buf_z(out, ".SH SYNOPSIS\n");
    if (c->sub)
        for (const struct command *const *s = c->sub; *s; s++)
            manual_synopsis(out, *s);
    else
        manual_synopsis(out, c);
    buf_z(out, ".SH DESCRIPTION\n");
    manual_paragraphs(out, c->about, ".PP");
    buf_z(out, c->sub ? ".SH COMMANDS\n" : ".SH OPTIONS\n");
    if (c->sub)
        for (const struct command *const *s = c->sub; *s; s++)
            manual_section(out, *s);
    else
        manual_options(out, c);
    if (c->examples) {
        buf_z(out, ".SH EXAMPLES\n");
        manual_examples(out, c->examples);
    }
    manual_end(out, c);
}

static const char DESCRIPTION[] =
    ".SH SYNOPSIS\n.B kmsgate\n.I COMMAND\n.RI [ OPTION ]...\n"
    ".SH DESCRIPTION\n"
    ".B kmsgate\nis a reverse proxy for the key management interface of 3GPP TS 33.180, Annex D.\n"
    "It verifies the signed requests of key management clients, checks them against rules, forwards accepted requests\n"
    "to an older key management server, and signs and encrypts the replies of that server.\n"
    "A request that is refused never reaches the server.\n"
    ".PP\nThe name of an option cannot be abbreviated; its argument follows as the next word or after\n.BR = .\n";
static const char REST[] =
    ".SH FILES\n"
    ".TP\n.I /etc/kmsgate/gateway.yaml\nThe configuration of the gateway.\n"
    ".TP\n.I /etc/kmsgate/rules.yaml\nWhich requests are accepted, and how replies are rewritten.\n"
    ".TP\n.I /etc/kmsgate/master.key\nThe master key, 64 hex digits, which encrypts the keys of the users at rest.\n"
    "It is created when the package is installed, and never replaced.\n"
    "The key database cannot be read without it.\n"
    ".TP\n.I /etc/kmsgate/tls/\nCertificates and their keys, readable by the group kmsgate.\n"
    ".TP\n.I /var/lib/kmsgate/kmsgate.db\nThe key database.\n"
    ".SH ENVIRONMENT\n"
    ".TP\n.B KMSGATE_CONFIG\nThe configuration to use without\n.BR \\-\\-config .\n"
    ".TP\n.BI KMSGATE_ NAME\nA single value of the configuration, which takes precedence over the file:\n"
    "KMSGATE_UPSTREAM_URL is\n.I url\nbelow\n.IR upstream .\n"
    ".TP\n.BI KMSGATE_ NAME _FILE\nThe name of a file that holds the value.\n"
    ".TP\n.B CREDENTIALS_DIRECTORY\nSet by\n.BR systemd (1):\n"
    "files named master_key (as a list: master_key_1, master_key_2, ...) and admin_token in this folder hold these\n"
    "secrets.\n"
    ".TP\n.B NO_COLOR\nIf set and not empty, output on a terminal is not coloured.\n"
    ".TP\n.B COLUMNS\nThe width of the terminal, if it is not the one that the terminal itself tells.\n"
    "Where the output is not a terminal it is neither fitted to a width nor coloured.\n"
    ".SH \"EXIT STATUS\"\n0 done; 1 a negative answer or an error; 2 wrong usage.\n"
    ".SH EXAMPLES\nImport the keys of the users, and show the configuration in effect:\n"
    ".PP\n.nf\n.RS\nsudo \\-u kmsgate kmsgate keys import keys.jsonl\nsudo \\-u kmsgate kmsgate check \\-\\-print\n"
    ".RE\n.fi\n";

void manual_overview(struct buf *out)
{
    manual_head(out, "kmsgate", "security gateway for 3GPP MCX key management servers");
    buf_z(out, DESCRIPTION);
    buf_z(out, ".SH COMMANDS\n");
    for (const struct command *const *c = COMMANDS; *c; c++) {
        buf_printf(out, ".TP\n\\fB%s\\fR\n", (*c)->name);
        manual_z(out, (*c)->does);
    }
    buf_z(out, REST);
    buf_z(out, ".SH \"SEE ALSO\"\n");
    for (const struct command *const *c = COMMANDS; *c; c++)
        buf_printf(out, ".BR kmsgate\\-%s (8)%s\n", (*c)->name, c[1] ? "," : "");
}
