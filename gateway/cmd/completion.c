#include <stdio.h>
#include <string.h>

#include "cmd/cmd.h"

/* What is to be offered as an option's value; NULL: nothing is known. */
static const char *completion_offer(const struct command_option *o)
{
    return o->type == VALUE_CHOICE ? o->argument : o->words;
}

/* What such words are separated by becomes a space. */
static void completion_choices(struct buf *out, const char *choices)
{
    for (; *choices; choices++)
        buf_char(out, *choices == '|' ? ' ' : *choices);
}

static void completion_names(struct buf *out, const struct command *const *among)
{
    for (; *among; among++)
        buf_printf(out, "%s ", (*among)->name);
}

/* Its operands are the names of commands. */
static bool completion_of_help(const struct command *c)
{
    return c == &COMMAND_HELP;
}

static bool is_file(enum value_type type)
{
    return type == VALUE_FILE || type == VALUE_CONFIG;
}

/* --- bash --- */

static const char BASH_HEAD[] =
    "# bash completion for kmsgate: made by `kmsgate completion bash`\n"
    "_kmsgate() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= words= i\n"
    "    COMPREPLY=()\n"
    "    if [[ $cur == = ]]; then # bash takes the = of --name=value for a word\n"
    "        cur=\n"
    "    elif [[ $prev == = ]]; then\n"
    "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
    "    fi\n"
    "    for ((i = 1; i < COMP_CWORD && i < 3; i++)); do\n"
    "        case \"$command ${COMP_WORDS[i]}\" in\n";
static const char BASH_MIDDLE[] =
    "        esac\n"
    "    done\n"
    "    case \"$command $prev\" in\n";
static const char BASH_WORDS[] =
    "    esac\n"
    "    case $command in\n";
static const char BASH_TAIL[] =
    "    esac\n"
    "    if [[ $cur == -* || $words != -* ]]; then\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
    "    else\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "    fi\n"
    "}\n"
    "complete -F _kmsgate kmsgate\n";

static void bash_value(struct buf *out, const struct command *c, const struct command_option *o)
{
    if (!o->argument)
        return;
    buf_printf(out, "    \"%s --%s\"", command_name(c).z, o->name);
    if (o->letter)
        buf_printf(out, "|\"%s -%c\"", command_name(c).z, o->letter);
    buf_z(out, ")\n        ");
    if (completion_offer(o)) {
        buf_z(out, "mapfile -t COMPREPLY < <(compgen -W \"");
        completion_choices(out, completion_offer(o));
        buf_z(out, "\" -- \"$cur\")\n        ");
    } else if (is_file(o->type) || o->type == VALUE_FOLDER) {
        buf_printf(out, "compopt -o filenames 2>/dev/null\n        mapfile -t COMPREPLY < <(compgen -%c -- \"$cur\")\n"
                        "        ", o->type == VALUE_FOLDER ? 'd' : 'f');
    }
    buf_z(out, "return ;;\n");
}

static void bash_words(struct buf *out, const struct command *c)
{
    buf_printf(out, "    \"%s\") words=\"", command_name(c).z);
    if (c->sub)
        completion_names(out, c->sub);
    for (size_t i = 0; i < c->operand_count; i++)
        if (c->operands[i].type == VALUE_CHOICE) {
            completion_choices(out, c->operands[i].name);
            buf_char(out, ' ');
        }
    if (completion_of_help(c))
        completion_names(out, COMMANDS);
    for (size_t i = 0; i < c->option_count; i++)
        buf_printf(out, "--%s ", c->options[i].name);
    buf_z(out, "--help\" ;;\n");
    if (c->sub) {
        buf_printf(out, "    \"%s %s\") words=\"", COMMAND_HELP.name, c->name);
        completion_names(out, c->sub);
        buf_z(out, "--man --help\" ;;\n");
    }
}

/* Calls `each` for every command and every subcommand. */
static void completion_walk(struct buf *out, const struct command *const *among,
                            void (*each)(struct buf *out, const struct command *c))
{
    for (const struct command *c; (c = *among) != NULL; among++) {
        each(out, c);
        if (c->sub)
            completion_walk(out, c->sub, each);
    }
}

static void bash_name(struct buf *out, const struct command *c)
{
    buf_printf(out, "        \"%s %s\") command=\"%s\" ;;\n", c->group ? c->group : "", c->name, command_name(c).z);
    if (c->sub)
        buf_printf(out, "        \"%s %s\") command=\"%s %s\" ;;\n", COMMAND_HELP.name, c->name, COMMAND_HELP.name,
                   c->name);
}

static void bash_values(struct buf *out, const struct command *c)
{
    for (size_t i = 0; i < c->option_count; i++)
        bash_value(out, c, c->options + i);
}

void completion_bash(struct buf *out)
{
    buf_z(out, BASH_HEAD);
    completion_walk(out, COMMANDS, bash_name);
    buf_z(out, BASH_MIDDLE);
    completion_walk(out, COMMANDS, bash_values);
    buf_z(out, BASH_WORDS);
    completion_walk(out, COMMANDS, bash_words);
    buf_z(out, "    *) words=\"");
    completion_names(out, COMMANDS);
    buf_z(out, "--help --version\" ;;\n");
    buf_z(out, BASH_TAIL);
}

/* --- zsh --- */

/* Inside of '…', where _arguments reads [ ] and : as its own. */
static void zsh_text(struct buf *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '\'': buf_z(out, "'\\''"); break;
        case '[': case ']': case ':': case '\\': buf_printf(out, "\\%c", *text); break;
        default: buf_char(out, *text);
        }
}

/* The first sentence is enough for a list. */
static void zsh_help(struct buf *out, const char *help)
{
    char text[160];
    const char *end = strstr(help, ". ");
    snprintf(text, sizeof text, "%.*s", (int)(end ? (size_t)(end - help) : strlen(help)), help);
    zsh_text(out, text);
}

static void zsh_action(struct buf *out, const char *argument, enum value_type type, const char *offer)
{
    buf_char(out, ':');
    zsh_text(out, argument);
    buf_char(out, ':');
    if (offer) {
        buf_char(out, '(');
        completion_choices(out, offer);
        buf_char(out, ')');
    } else if (type == VALUE_FOLDER) {
        buf_z(out, "_files -/");
    } else if (is_file(type)) {
        buf_z(out, "_files");
    } else {
        buf_char(out, ' ');
    }
}

static void zsh_option(struct buf *out, const struct command_option *o)
{
    const char *equals = o->argument ? "=" : "";
    buf_z(out, " \\\n            ");
    if (o->letter)
        buf_printf(out, "'(-%c --%s)'{-%c,--%s%s}'[", o->letter, o->name, o->letter, o->name, equals);
    else
        buf_printf(out, "'--%s%s[", o->name, equals);
    zsh_help(out, o->help);
    buf_char(out, ']');
    if (o->argument)
        zsh_action(out, o->argument, o->type, completion_offer(o));
    buf_char(out, '\'');
}

static void zsh_operand(struct buf *out, const struct command_operand *o)
{
    buf_printf(out, " \\\n            '%s", o->many ? "*" : "");
    if (o->optional && !o->many)
        buf_char(out, ':');
    zsh_action(out, o->name, o->type, o->type == VALUE_CHOICE ? o->name : NULL);
    buf_char(out, '\'');
}

static void zsh_list(struct buf *out, const struct command *const *among)
{
    buf_z(out, "names=(");
    for (; *among; among++) {
        buf_printf(out, "\n            '%s:", (*among)->name);
        zsh_text(out, (*among)->does);
        buf_char(out, '\'');
    }
    buf_z(out, ")\n        _describe -t commands command names");
}

static void zsh_command(struct buf *out, const struct command *c)
{
    buf_printf(out, "    \"%s\")\n        ", command_name(c).z);
    if (c->sub) {
        zsh_list(out, c->sub);
    } else {
        buf_z(out, "_arguments '(- *)'{-h,--help}'[show help]'");
        for (size_t i = 0; i < c->option_count; i++)
            zsh_option(out, c->options + i);
        for (size_t i = 0; i < c->operand_count && !completion_of_help(c); i++)
            zsh_operand(out, c->operands + i);
        if (completion_of_help(c)) {
            buf_z(out, " \\\n            '1:command:(");
            completion_names(out, COMMANDS);
            buf_z(out, ")' \\\n            '2:command:{ case $line[1] in ");
            for (const struct command *const *g = COMMANDS; *g; g++)
                if ((*g)->sub) {
                    buf_printf(out, "(%s) compadd ", (*g)->name);
                    completion_names(out, (*g)->sub);
                    buf_z(out, ";; ");
                }
            buf_z(out, "esac }'");
        }
    }
    buf_z(out, " ;;\n");
}

static void zsh_groups(struct buf *out)
{
    const char *bar = "";
    for (const struct command *const *c = COMMANDS; *c; c++)
        if ((*c)->sub) {
            buf_printf(out, "%s%s", bar, (*c)->name);
            bar = "|";
        }
}

void completion_zsh(struct buf *out)
{
    buf_z(out, "#compdef kmsgate\n"
               "# zsh completion for kmsgate: made by `kmsgate completion zsh`\n"
               "_kmsgate() {\n"
               "    local -a names\n"
               "    local command=\n"
               "    if (( CURRENT > 2 )); then # what follows is completed as if the command were the program\n"
               "        command=$words[2]\n"
               "        shift words\n"
               "        (( CURRENT-- ))\n"
               "        if [[ $command == (");
    zsh_groups(out);
    buf_z(out, ") ]] && (( CURRENT > 2 )); then\n"
               "            command+=\" $words[2]\"\n"
               "            shift words\n"
               "            (( CURRENT-- ))\n"
               "        fi\n"
               "    fi\n"
               "    case $command in\n"
               "    '')\n        ");
    zsh_list(out, COMMANDS);
    buf_z(out, " ;;\n");
    completion_walk(out, COMMANDS, zsh_command);
    buf_z(out, "    esac\n}\nif [[ $funcstack[1] == _kmsgate ]]; then\n    _kmsgate \"$@\"\nelse\n"
               "    compdef _kmsgate kmsgate\nfi\n");
}
