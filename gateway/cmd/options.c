#include "cmd/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/net.h"
#include "base/timestamp.h"
#include "base/uri.h"
#include "base/yaml.h"

/* One reading of a command line. */
struct reading {
    const struct command *c;
    char *given;
    char **operands; /* the front of argv: a word is put there when it is an operand */
    size_t operand_count;
};

int usage_error(const struct command *c, const char *format, ...)
{
    char message[1024];
    va_list arguments;
    const struct command_name name = command_name(c);
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    const size_t n = strlen(message);
    complain("%s: %s%s `kmsgate %s --help`", name.z, message, n && message[n - 1] == '?' ? " See" : "; see", name.z);
    return EXIT_USAGE;
}

const char *config_default(void)
{
    const char *file = getenv("KMSGATE_CONFIG");
    return file && *file ? file : CONFIG_DEFAULT;
}

bool format_is_json(const char *format)
{
    return str_eq_z(str_z(format), "json");
}

static bool holds_choice(const char *value, const char *choices)
{
    const size_t n = strlen(value);
    for (const char *at = choices; *at;) {
        const size_t length = strcspn(at, "|");
        if (str_eq((struct str){at, length}, (struct str){value, n}))
            return true;
        at += length + (at[length] != '\0');
    }
    return false;
}

/* What was expected where the value does not hold; NULL when it does. `words` has room for what has to be composed. */
static const char *expected(enum value_type type, const char *argument, const char *value, struct buf *words)
{
    struct ip ip;
    int64_t us;
    uint64_t count;
    bool zone = false;
    switch (type) {
    case VALUE_CHOICE:
        if (holds_choice(value, argument))
            return NULL;
        for (const char *c = argument; *c; c++)
            buf_z(words, *c != '|' ? (const char[2]){*c, '\0'} : strchr(c + 1, '|') ? ", " : " or ");
        return words->failed ? argument : words->p;
    case VALUE_URI:
        return uri_is_any_uri(str_z(value)) ? NULL : "a URI, such as sip:alice@example.org";
    case VALUE_IP:
        return ip_parse(str_z(value), &ip) ? NULL : "an IP address";
    case VALUE_TIME:
        return time_parse(str_z(value), &us, &zone) && zone ? NULL
                                                            : "a time with a zone, such as 2026-11-23T18:00:00Z";
    case VALUE_COUNT:
        return str_to_u64(str_z(value), INT32_MAX, &count) && count ? NULL : "a number of at least 1";
    default:
        return NULL;
    }
}

static const struct command_option *options_find(const struct command *c, struct str name)
{
    for (size_t i = 0; i < c->option_count; i++) {
        const struct command_option *o = c->options + i;
        if (str_starts(name, STR("--")) ? str_eq_z((struct str){name.p + 2, name.n - 2}, o->name)
                                        : name.n == 2 && o->letter && name.p[1] == o->letter)
            return o;
    }
    return NULL;
}

static enum options_result options_unknown(const struct command *c, struct str name)
{
    const char *near = name.n > 3 && c->option_count
                           ? similar_name((struct str){name.p + 2, name.n - 2}, &c->options->name,
                                          sizeof *c->options, c->option_count)
                           : NULL;
    usage_error(c, "unknown option `%.*s`%s%s%s", STR_FMT(name), near ? "; did you mean `--" : "", near ? near : "",
                near ? "`?" : "");
    return OPTIONS_WRONG;
}

static enum options_result take_option(struct reading *r, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    const struct str name = {word, strcspn(word, "=")};
    const struct command_option *o = options_find(r->c, name);
    if (!o)
        return options_unknown(r->c, name);
    const char *value = word[name.n] ? word + name.n + 1 : NULL;
    if (!o->argument) {
        if (value)
            return usage_error(r->c, "option `--%s` takes no argument", o->name), OPTIONS_WRONG;
        *(bool *)(void *)(r->given + o->at) = true;
        return OPTIONS_OK;
    }
    const char **field = (const char **)(void *)(r->given + o->at);
    if (!value && *i + 1 < argc)
        value = argv[++*i];
    if (!value || !*value)
        return usage_error(r->c, "option `--%s` requires an argument: %s", o->name, o->argument), OPTIONS_WRONG;
    if (*field)
        return usage_error(r->c, "option `--%s` given twice", o->name), OPTIONS_WRONG;
    struct buf words BUF_CLEANUP = BUF_INIT(1024);
    const char *due = expected(o->type, o->argument, value, &words);
    if (due)
        return usage_error(r->c, "--%s: found `%s`, expected %s", o->name, value, due), OPTIONS_WRONG;
    *field = value;
    return OPTIONS_OK;
}

static enum options_result take_operands(struct reading *r)
{
    size_t at = 0;
    for (size_t i = 0; i < r->c->operand_count; i++) {
        const struct command_operand *o = r->c->operands + i;
        const size_t n = o->many ? r->operand_count - at : at < r->operand_count;
        if (!n && !o->optional)
            return usage_error(r->c, "missing argument: %s", o->name), OPTIONS_WRONG;
        for (size_t k = at; k < at + n; k++) {
            struct buf words BUF_CLEANUP = BUF_INIT(1024);
            const char *due = expected(o->type, o->name, r->operands[k], &words);
            if (due)
                return usage_error(r->c, "found `%s`, expected %s", r->operands[k], due), OPTIONS_WRONG;
        }
        if (o->many)
            *(struct words *)(void *)(r->given + o->at) = (struct words){r->operands + at, n};
        else if (n)
            *(const char **)(void *)(r->given + o->at) = r->operands[at];
        at += n;
    }
    if (at < r->operand_count)
        return usage_error(r->c, "unexpected argument `%s`", r->operands[at]), OPTIONS_WRONG;
    return OPTIONS_OK;
}

static enum options_result options_complete(struct reading *r)
{
    for (size_t i = 0; i < r->c->option_count; i++) {
        const struct command_option *o = r->c->options + i;
        if (!o->argument)
            continue;
        const char **field = (const char **)(void *)(r->given + o->at);
        if (!*field && o->required)
            return usage_error(r->c, "missing option `--%s %s`", o->name, o->argument), OPTIONS_WRONG;
        if (!*field)
            *field = o->type == VALUE_CONFIG ? config_default() : o->preset;
    }
    return take_operands(r);
}

enum options_result options_read(const struct command *c, int argc, char **argv, void *given)
{
    struct reading r = {c, given, argv + 1, 0};
    bool options = true;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (options && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0))
            return OPTIONS_HELP;
        if (options && strcmp(word, "--") == 0)
            options = false;
        else if (!options || word[0] != '-' || !word[1])
            r.operands[r.operand_count++] = word;
        else if (take_option(&r, argc, argv, &i) != OPTIONS_OK)
            return OPTIONS_WRONG;
    }
    return options_complete(&r);
}
