#include "cmd/options.h"

#include <string.h>

#include "base/log.h"
#include "base/str.h"

static enum options_result wrong(const struct option_table *t, const char *before, const char *what, const char *after)
{
    complain("%s: %s%s%s; `kmsgate %s --help` explains", t->command, before, what, after, t->command);
    return OPTIONS_WRONG;
}

static const struct option_entry *find(const struct option_table *t, struct str name)
{
    for (size_t i = 0; i < t->n; i++)
        if (str_eq_z(name, t->entries[i].name))
            return &t->entries[i];
    return NULL;
}

static enum options_result take_option(const struct option_table *t, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    const struct str name = {word, strcspn(word, "=")};
    const struct option_entry *e = find(t, name);
    if (!e)
        return wrong(t, "no option `", word, "`");
    const char *value = word[name.n] ? word + name.n + 1 : NULL;
    if (!e->expects) {
        if (value)
            return wrong(t, "`", e->name, "` takes no value");
        *e->flag = true;
        return OPTIONS_OK;
    }
    if (!value && *i + 1 < argc)
        value = argv[++*i];
    if (!value || !*value)
        return wrong(t, e->name, " wants a value: ", e->expects);
    if (*e->value)
        return wrong(t, "`", e->name, "` is given twice");
    *e->value = value;
    return OPTIONS_OK;
}

static enum options_result check_required(const struct option_table *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->entries[i].required && !*t->entries[i].value) {
            complain("%s: wants %s %s; `kmsgate %s --help` explains", t->command, t->entries[i].name,
                     t->entries[i].expects, t->command);
            return OPTIONS_WRONG;
        }
    return t->operand && !*t->operand ? wrong(t, "wants ", t->operand_is, "") : OPTIONS_OK;
}

enum options_result options_read(const struct option_table *t, int argc, char **argv)
{
    bool options = true;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0)
            return OPTIONS_HELP;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && word[0] == '-' && word[1]) {
            if (take_option(t, argc, argv, &i) != OPTIONS_OK)
                return OPTIONS_WRONG;
        } else if (!t->operand) {
            return wrong(t, "found `", word, "`, expected options alone");
        } else if (*t->operand) {
            return wrong(t, "found `", word, "` behind the one argument that it takes");
        } else {
            *t->operand = word;
        }
    }
    return check_required(t);
}
