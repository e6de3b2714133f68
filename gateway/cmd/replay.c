#include "cmd/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/decision_files.h"
#include "cmd/options.h"

struct replay_options {
    const char *rules, *format;
    struct words files;
};
struct replaying {
    const struct replay_options *q;
    bool json;
    const struct rules *rules;
    struct replayed sum;
    size_t told;
    struct replay_screen screen;
    bool failed; /* out of memory, or nobody reads what is written */
};

static void write_out(struct replaying *p, const struct buf *out)
{
    p->failed |= out->failed || fwrite(out->p ? out->p : "", 1, out->n, stdout) != out->n;
}

static void replay_tell(struct replaying *p, const struct record *r, const struct rejudged *again, enum change c)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 * 1024);
    if (p->json) {
        buf_z(&out, p->told++ ? ",\n" : "\n");
        replay_json_change(r, again, c, &out);
    } else {
        replay_print_change(&p->screen, r, again, c, &out);
    }
    write_out(p, &out);
}

static void replay_take(struct replaying *p, const struct record *r, enum change c)
{
    struct replayed *sum = &p->sum;
    if (!sum->decisions || r->time_us < sum->first_us)
        sum->first_us = r->time_us;
    if (!sum->decisions || r->time_us > sum->last_us)
        sum->last_us = r->time_us;
    sum->decisions++;
    sum->counts[c]++;
    if (c != CHANGE_NONE && (!tally_add(&sum->rules, r->rule.n ? r->rule : STR("(none)"), c) ||
                             !tally_add(&sum->users, r->user.n ? r->user : STR("(none)"), c)))
        p->failed = true;
}

static bool take_record(void *arg, const struct record *r, struct str line)
{
    struct replaying *p = arg;
    struct rejudged again;
    (void)line;
    if (!rejudge(p->rules, r, &again)) {
        p->failed = true;
        return false;
    }
    const enum change c = change_of(r, &again);
    replay_take(p, r, c);
    if (c != CHANGE_NONE)
        replay_tell(p, r, &again, c);
    return !p->failed;
}

static int summary(struct replaying *p)
{
    struct buf out BUF_CLEANUP = BUF_INIT(SIZE_MAX / 2);
    if (!p->json) {
        replay_print_summary(&p->sum, &out);
        p->failed |= out.failed || !screen_write(&p->screen.screen, buf_view(&out), replay_look, stdout);
    } else {
        buf_z(&out, "\n],\n\"summary\":");
        replay_json_summary(&p->sum, p->rules->hash, &out);
        buf_z(&out, "}\n");
        write_out(p, &out);
    }
    if (p->failed || fflush(stdout) != 0) {
        complain("replay: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    return EXIT_DONE;
}

static int replay(const struct replay_options *q, const struct rules *rules)
{
    struct replaying p = {.q = q, .json = format_is_json(q->format), .rules = rules,
                          .screen = {.screen = screen_of(STDOUT_FILENO)}};
    if (p.json)
        fputs("{\"changes\":[", stdout);
    struct lines_count lines;
    const enum lines_end end = lines_each(q->files.v, q->files.n, take_record, &p, &lines);
    int code = EXIT_NEGATIVE;
    p.sum.broken = lines.broken;
    p.failed |= end == LINES_STOPPED;
    if (end != LINES_UNREADABLE)
        code = summary(&p);
    if (end == LINES_ALL && !decisions_found(NULL, &q->files, end, &lines))
        code = EXIT_NEGATIVE;
    tally_free(&p.sum.rules);
    tally_free(&p.sum.users);
    return code;
}

static int replay_run(const void *given)
{
    const struct replay_options *q = given;
    struct faults faults = {0};
    struct rules *rules = rules_load(q->rules, &faults);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    const int code = rules ? replay(q, rules) : EXIT_NEGATIVE;
    rules_unref(rules);
    return code;
}

static const struct command_option REPLAY_OPTIONS[] = {
    {.name = "rules", .argument = "NEW.yaml", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct replay_options, rules), .help = "The rules to judge by."},
    OPTION_FORMAT(struct replay_options, format)};
static const struct command_operand REPLAY_OPERANDS[] = {
    {.name = "DECISIONS.jsonl", .type = VALUE_FILE, .at = offsetof(struct replay_options, files), .many = true,
     .help = DECISION_FILES_HELP}};
const struct command COMMAND_REPLAY = {
    .name = "replay", .does = "judge recorded decisions by other rules",
    .about = "Prints what recorded decisions would have been under other rules: each decision that changes, followed "
             "by "
             "counts by rule and by user. The decision log does not contain messages: of a signature only the recorded "
             "result is known; KmsUri, Time, ClientReqUrl and the user in the path are judged again. Whatever the log "
             "cannot answer is reported as unknown.",
    .exits = "0 done, whatever changes; 1 a file is at fault or contains no decisions",
    .examples = "kmsgate replay --rules new.yaml decisions.jsonl.1.gz decisions.jsonl\n"
                "journalctl -u kmsgate -o json --all | kmsgate replay --rules new.yaml -\n",
    COMMAND_TAKES(REPLAY_OPTIONS, REPLAY_OPERANDS, struct replay_options), .run = replay_run};
