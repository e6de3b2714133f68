/* The words behind a command, and that the texts made from the table of commands say what it says. */
#include "client_fixture.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

struct given {
    const char *url, *format, *config, *count, *file;
    bool flag;
    struct words rest;
};
static const struct command_option OPTIONS[] = {
    {.name = "url", .letter = 'u', .argument = "URL", .required = true, .at = offsetof(struct given, url), .help = ""},
    {.name = "flag", .at = offsetof(struct given, flag), .help = ""},
    {.name = "count", .argument = "N", .type = VALUE_COUNT, .at = offsetof(struct given, count), .help = ""},
    OPTION_FORMAT(struct given, format), OPTION_CONFIG(struct given, config)};
static const struct command_operand ONE[] = {{.name = "FILE", .at = offsetof(struct given, file)}};
static const struct command_operand MANY[] = {
    {.name = "FILE", .at = offsetof(struct given, file)},
    {.name = "MORE", .at = offsetof(struct given, rest), .many = true, .optional = true}};
static const struct command X = {.name = "x", .does = "", .about = "", COMMAND_TAKES(OPTIONS, ONE, struct given)};
static const struct command Y = {.name = "y", .group = "x", .does = "", .about = "",
                                 COMMAND_TAKES(OPTIONS, MANY, struct given)};
static const struct command BARE = {.name = "bare", .does = "", .about = ""};

static enum options_result read_words(const struct command *c, const char *const *argv, struct given *g)
{
    static char *words[16]; /* what is given points into it */
    int argc = 0;
    for (; argv[argc]; argc++)
        words[argc] = (char *)(uintptr_t)argv[argc];
    memset(g, 0, sizeof *g);
    return options_read(c, argc, words, g);
}

static void words(void **state)
{
    static const struct {
        const char *argv[8];
        enum options_result want;
        const char *told;
    } CASES[] = {
        {{"x", "--url", "u", "f"}, OPTIONS_OK, ""},
        {{"x", "f", "--url=u"}, OPTIONS_OK, ""},
        {{"x", "f", "-u", "u"}, OPTIONS_OK, ""},
        {{"x", "--url=a=b", "--", "-f"}, OPTIONS_OK, ""},
        {{"x", "--flag", "--url", "--flag", "-"}, OPTIONS_OK, ""}, /* a value is whatever stands there */
        {{"x", "--url", "u", "f", "--format=json", "--count", "3"}, OPTIONS_OK, ""},
        {{"x", "--url", "u", "f", "--help"}, OPTIONS_HELP, ""},
        {{"x", "-h"}, OPTIONS_HELP, ""},
        {{"x", "f"}, OPTIONS_WRONG, "kmsgate: x: missing option `--url URL`; see `kmsgate x --help`\n"},
        {{"x", "--url", "u"}, OPTIONS_WRONG, "x: missing argument: FILE; see"},
        {{"x", "--url", "u", "--", "--help", "g"}, OPTIONS_WRONG, "unexpected argument `g`"},
        {{"x", "f", "--url"}, OPTIONS_WRONG, "option `--url` requires an argument: URL"},
        {{"x", "f", "--url="}, OPTIONS_WRONG, "option `--url` requires an argument: URL"},
        {{"x", "f", "--url", ""}, OPTIONS_WRONG, "option `--url` requires an argument: URL"},
        {{"x", "f", "--url=u", "-u", "u"}, OPTIONS_WRONG, "option `--url` given twice"},
        {{"x", "f", "--url=u", "--flag=1"}, OPTIONS_WRONG, "option `--flag` takes no argument"},
        {{"x", "f", "--url=u", "--ur"}, OPTIONS_WRONG, "unknown option `--ur`"},
        {{"x", "f", "--url=u", "--fromat=json"}, OPTIONS_WRONG, "did you mean `--format`? See `kmsgate x --help`\n"},
        {{"x", "f", "--url=u", "--frobnicate"}, OPTIONS_WRONG, "unknown option `--frobnicate`; see"},
        {{"x", "f", "--url=u", "-f"}, OPTIONS_WRONG, "unknown option `-f`; see"},
        {{"x", "f", "--url=u", "-uu"}, OPTIONS_WRONG, "unknown option `-uu`; see"},
        {{"x", "f", "--url=u", "--format", "xml"}, OPTIONS_WRONG, "--format: found `xml`, expected text or json; see"},
        {{"x", "f", "--url=u", "--format", "text|json"}, OPTIONS_WRONG, "--format: found"},
        {{"x", "f", "--url=u", "--format", "tex"}, OPTIONS_WRONG, "--format: found"},
        {{"x", "f", "--url=u", "--count", "0"}, OPTIONS_WRONG, "--count: found `0`, expected a number of at least 1"},
    };
    struct files *f = *state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct given g;
        hush(f);
        const enum options_result got = read_words(&X, CASES[i].argv, &g);
        assert_true(told(f, CASES[i].told));
        assert_int_equal(got, CASES[i].want);
        assert_true(got != OPTIONS_OK || (g.url && g.file && g.format && g.config));
    }
}

static void values(void **state)
{
    struct given g;
    (void)state;
    assert_int_equal(read_words(&X, (const char *[]){"x", "--url", "u", "f", NULL}, &g), OPTIONS_OK);
    assert_string_equal(g.url, "u");
    assert_string_equal(g.file, "f");
    assert_string_equal(g.format, "text");
    assert_string_equal(g.config, CONFIG_DEFAULT);
    assert_true(!g.flag && !g.count && !format_is_json(g.format) && format_is_json("json"));
    assert_int_equal(read_words(&X, (const char *[]){"x", "--url=a=b", "-c", "k", "--flag", "--", "-f", NULL}, &g),
                     OPTIONS_OK);
    assert_string_equal(g.url, "a=b");
    assert_string_equal(g.config, "k");
    assert_string_equal(g.file, "-f");
    assert_true(g.flag);
    assert_int_equal(read_words(&Y, (const char *[]){"y", "f", "--url=u", "g", "--flag", "h", NULL}, &g), OPTIONS_OK);
    assert_true(g.rest.n == 2);
    assert_string_equal(g.file, "f");
    assert_string_equal(g.rest.v[0], "g");
    assert_string_equal(g.rest.v[1], "h");
    assert_int_equal(read_words(&Y, (const char *[]){"y", "f", "--url=u", NULL}, &g), OPTIONS_OK);
    assert_true(g.rest.n == 0);
}

static void without_options(void **state)
{
    struct given g;
    hush(*state);
    assert_int_equal(read_words(&BARE, (const char *[]){"bare", "--nothing", NULL}, &g), OPTIONS_WRONG);
    assert_true(told(*state, "bare: unknown option `--nothing`; see"));
    assert_int_equal(read_words(&BARE, (const char *[]){"bare", NULL}, &g), OPTIONS_OK);
}

/* Each command, by the name that a user would type. */
static void each_command(const struct command *const *among, void (*check)(const struct command *c))
{
    for (; *among; among++) {
        check(*among);
        if ((*among)->sub)
            each_command((*among)->sub, check);
    }
}

static void is_whole(const struct command *c)
{
    assert_true(c->name && c->does && *c->does && c->about && *c->about);
    assert_true((c->sub != NULL) != (c->run != NULL));
    assert_true(c->sub || c->exits);
    assert_true(c->size <= COMMAND_GIVEN_MAX);
    assert_true(strchr(c->does, '\n') == NULL && c->does[strlen(c->does) - 1] != '.');
    for (size_t i = 0; i < c->option_count; i++) {
        const struct command_option *o = c->options + i;
        assert_true(o->name && o->help && *o->help && o->name[0] != '-');
        assert_true(o->at + (o->argument ? sizeof(char *) : sizeof(bool)) <= c->size);
        assert_true(o->argument || (!o->required && !o->preset && o->type == VALUE_TEXT));
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(o->name, c->options[k].name);
            assert_true(o->at != c->options[k].at);
            assert_true(!o->letter || o->letter != c->options[k].letter);
        }
    }
    for (size_t i = 0; i < c->operand_count; i++) {
        assert_true(c->operands[i].at + sizeof(char *) <= c->size);
        assert_true(!c->operands[i].many || i + 1 == c->operand_count);
        assert_true(i == 0 || !c->operands[i - 1].optional);
    }
}

static void contains(const struct buf *text, const char *word)
{
    assert_false(text->failed);
    if (!strstr(text->p, word))
        fail_msg("`%s` is missing in: %s", word, text->p);
}

/* What the table says is in all that is made from it. */
static void is_told(const struct command *c)
{
    struct buf help BUF_CLEANUP = BUF_INIT(1 << 20), manual BUF_CLEANUP = BUF_INIT(1 << 20);
    struct buf bash BUF_CLEANUP = BUF_INIT(1 << 20), zsh BUF_CLEANUP = BUF_INIT(1 << 20);
    char word[128];
    help_command(c, &help);
    manual_command(c, &manual);
    completion_bash(&bash);
    completion_zsh(&zsh);
    snprintf(word, sizeof word, "usage: kmsgate %s", command_name(c).z);
    contains(&help, word);
    snprintf(word, sizeof word, "\"%s\")", command_name(c).z);
    contains(&bash, word);
    contains(&zsh, word);
    snprintf(word, sizeof word, ".SH NAME\nkmsgate-%s%s%s \\- ",
             c->group ? c->group : "", c->group ? "-" : "", c->name);
    contains(&manual, word);
    for (size_t i = 0; i < c->option_count; i++) {
        snprintf(word, sizeof word, "--%s", c->options[i].name);
        contains(&help, word);
        contains(&bash, word);
        contains(&zsh, word);
    }
    for (const char *line = help.p; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 140);
}

static void the_table(void **state)
{
    (void)state;
    each_command(COMMANDS, is_whole);
    each_command(COMMANDS, is_told);
    assert_ptr_equal(command_find(COMMANDS, "explain"), &COMMAND_EXPLAIN);
    assert_null(command_find(COMMANDS, "expl")); /* nothing is abbreviated */
    assert_null(command_find(COMMANDS, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(words, files_setup, files_teardown),
        cmocka_unit_test(values),
        cmocka_unit_test_setup_teardown(without_options, files_setup, files_teardown),
        cmocka_unit_test(the_table),
    };
    unsetenv("KMSGATE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
