#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "study/cases.h"

static const char USAGE[] =
    "usage: kmsgate test [--strict] RULES.yaml CASES.yaml\n"
    "\n"
    "Runs users' own cases against a rules file. A case states the facts of a request and what is to become of\n"
    "it; the gate itself judges a message that is made of them, so that nothing but the rules can make it differ.\n"
    "What differs is told as FILE:LINE:COLUMN; rules that no case touches are named. rules/README.md, `Testing\n"
    "rules`, tells how to write cases.\n"
    "\n"
    "  --strict  a rule that no case touches counts as a failure\n"
    "\n"
    "Exit: 0 all cases hold, 1 one does not (or a file is at fault), 2 wrong usage.\n";

struct request {
    const char *files[2]; /* rules, cases */
    bool strict;
};

static size_t tell_untouched(const struct rules *r, const struct case_run *run)
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

static bool run(const struct request *q, struct rules *rules, const struct cases *cases, struct faults *faults)
{
    struct case_run run;
    bool ok = cases_run(cases, rules, faults, &run);
    if (ok) {
        const size_t untouched = tell_untouched(rules, &run), rule_count = rules->request_count + rules->response_count;
        printf("%s: %zu case%s, %zu failed; %zu of %zu rules touched\n", q->files[1], run.n, run.n == 1 ? "" : "s",
               run.failed, rule_count - untouched, rule_count);
        ok = !run.failed && !(q->strict && untouched);
    }
    case_run_free(&run);
    return ok;
}

static int test(const struct request *q)
{
    struct faults faults = {0};
    struct rules *rules = rules_load(q->files[0], &faults);
    struct cases *cases = cases_load(q->files[1], &faults);
    bool ok = rules && cases && run(q, rules, cases, &faults);
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

int cmd_test(int argc, char **argv)
{
    struct request q = {{NULL, NULL}, false};
    int n = 0;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (options && strcmp(argv[i], "--help") == 0) {
            fputs(USAGE, stdout);
            return EXIT_DONE;
        }
        if (options && strcmp(argv[i], "--strict") == 0) {
            q.strict = true;
        } else if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1]) {
            complain("test: no option `%s`; `kmsgate test --help` explains", argv[i]);
            return EXIT_USAGE;
        } else if (n == 2) {
            complain("test: found `%s` behind the two files that it takes; `kmsgate test --help` explains", argv[i]);
            return EXIT_USAGE;
        } else {
            q.files[n++] = argv[i];
        }
    }
    if (n == 2)
        return test(&q);
    complain("test: expected RULES.yaml and CASES.yaml; `kmsgate test --help` explains");
    return EXIT_USAGE;
}
