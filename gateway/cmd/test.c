#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "study/cases.h"

struct test_options {
    const char *rules, *cases;
    bool strict;
};

static size_t test_untouched(const struct rules *r, const struct case_run *run)
{
    size_t n = 0;
    for (size_t i = 0; i < r->request_count; i++)
        if (!run->requests[i]) {
            printf("%s:%d: no case is decided by the request rule `%s`\n", r->file, r->requests[i].line,
                   r->requests[i].id);
            n++;
        }
    for (size_t i = 0; i < r->response_count; i++)
        if (!run->responses[i]) {
            printf("%s:%d: no case expects a `response` of the response rule `%s`\n", r->file, r->responses[i].line,
                   r->responses[i].id);
            n++;
        }
    return n;
}

static bool test_cases(const struct test_options *q, struct rules *rules, const struct cases *cases,
                       struct faults *faults)
{
    struct case_run run;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT); /* what is wrong with a reply is told where a case expects another */
    bool ok = cases_run(cases, rules, faults, &run);
    if (ok) {
        const size_t untouched = test_untouched(rules, &run), rule_count = rules->request_count + rules->response_count;
        printf("%s: %zu case%s, %zu failed; %zu of %zu rules touched\n", q->cases, run.n, run.n == 1 ? "" : "s",
               run.failed, rule_count - untouched, rule_count);
        for (size_t i = 0; i < run.notes.n; i++)
            printf("%s\n", run.notes.v[i]);
        ok = !run.failed && !(q->strict && untouched);
    }
    case_run_free(&run);
    return ok;
}

static int test_run(const void *given)
{
    const struct test_options *q = given;
    struct faults faults = {0};
    struct rules *rules = rules_load(q->rules, &faults);
    struct cases *cases = cases_load(q->cases, &faults);
    bool ok = rules && cases && test_cases(q, rules, cases, &faults);
    faults_print_errors(&faults, stderr);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("test: cannot write to standard output");
        ok = false;
    }
    faults_free(&faults);
    cases_free(cases);
    rules_unref(rules);
    return ok ? EXIT_DONE : EXIT_NEGATIVE;
}

static const struct command_option TEST_OPTIONS[] = {
    {.name = "strict", .at = offsetof(struct test_options, strict), .help = "Fail if a rule is not covered by any "
                                                                            "case."}};
static const struct command_operand TEST_OPERANDS[] = {
    {.name = "RULES.yaml", .type = VALUE_FILE, .at = offsetof(struct test_options, rules),
     .help = "The rules file to test."},
    {.name = "CASES.yaml", .type = VALUE_FILE, .at = offsetof(struct test_options, cases),
     .help = "The cases; the section `Testing rules` of rules/README.md describes the format."}};
const struct command COMMAND_TEST = {
    .name = "test", .does = "run test cases against a rules file",
    .about = "Runs test cases against a rules file. A case states the facts of a request and the expected verdict; the "
             "gateway's own code judges a message that is made from these facts. A case that fails is reported as "
             "FILE:LINE:COLUMN: message. Rules that no case covers are listed.",
    .exits = "0 all cases passed; 1 a case failed, or a file is at fault",
    .examples = "kmsgate test rules.yaml cases.yaml\n",
    COMMAND_TAKES(TEST_OPTIONS, TEST_OPERANDS, struct test_options), .run = test_run};
