#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/timestamp.h"
#include "cmd/cmd.h"
#include "cmd/decision_files.h"
#include "cmd/screen.h"
#include "study/advise.h"

struct advise_options {
    const char *rules;
    struct words files;
};

static bool advise_take(void *arg, const struct record *r, struct str line)
{
    (void)line;
    return advice_add(arg, r);
}

/* It stays YAML that can be pasted: comments alone are folded. */
static struct screen_line advise_look(struct str line)
{
    const bool comment = str_starts(str_trim(line), STR("#"));
    const enum tone tone = str_starts(line, STR("# Somebody is locked out")) ? TONE_BAD
                           : str_starts(line, STR("# Nobody is locked out")) ? TONE_GOOD
                           : comment                                         ? TONE_NONE
                                                                             : TONE_HEAD;
    return (struct screen_line){.tone = tone, .whole = !comment};
}

static int advise_tell(struct advice *a)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 << 20);
    const struct screen s = screen_of(STDOUT_FILENO);
    if (!advice_write(a, &out) || !screen_write(&s, buf_view(&out), advise_look, stdout) || fflush(stdout) != 0) {
        complain("advise: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    return advice_locked_out(a) ? EXIT_NEGATIVE : EXIT_DONE;
}

static int advise_run(const void *given)
{
    const struct advise_options *q = given;
    struct faults faults = {0};
    struct rules *rules = rules_load(q->rules, &faults);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    struct advice *a = rules ? advice_new(rules, time_now_us()) : NULL;
    struct lines_count count = {0};
    int code = EXIT_NEGATIVE;
    if (a) {
        const enum lines_end end = lines_each(q->files.v, q->files.n, advise_take, a, &count);
        if (end == LINES_STOPPED)
            complain("out of memory");
        else if (decisions_found("advise", &q->files, end, &count))
            code = advise_tell(a);
    } else if (rules) {
        complain("out of memory");
    }
    advice_free(a);
    rules_unref(rules);
    return code;
}

static const struct command_option ADVISE_OPTIONS[] = {
    {.name = "rules", .argument = "RULES.yaml", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct advise_options, rules), .help = "The rules that lock out, or would."}};
static const struct command_operand ADVISE_OPERANDS[] = {
    {.name = "DECISIONS.jsonl", .type = VALUE_FILE, .many = true, .at = offsetof(struct advise_options, files),
     .help = DECISION_FILES_HELP}};
const struct command COMMAND_ADVISE = {
    .name = "advise", .does = "advise exceptions for whom the rules lock out",
    .about = "Judges recorded decisions by these rules and groups the refused requests by cause, network and user "
             "pattern. For each group it prints the narrowest exception: a request rule with `why`, `until` and a "
             "`match` on source and user, ready to paste. What it costs in safety, how many requests and users it is "
             "about, and when they were first and last seen are comments.\n"
             "There is no exception for what is forged, replayed, revoked or unknown, nor for what is mended in a "
             "client, in `public_url` or with a missing key: these are comments that name the remedy.",
    .exits = "0 nobody is locked out; 1 somebody is, or a file is at fault",
    .examples = "kmsgate advise --rules rules.yaml decisions.jsonl.1.gz decisions.jsonl\n",
    COMMAND_TAKES(ADVISE_OPTIONS, ADVISE_OPERANDS, struct advise_options), .run = advise_run};
