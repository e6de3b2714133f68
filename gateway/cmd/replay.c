#include "cmd/replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

enum { LINE_MAX_BYTES = 1 << 20 }; /* a decision has a few kilobytes */

struct replay_options {
    const char *rules, *format, *file;
};
struct replaying {
    const struct replay_options *q;
    bool json;
    const struct rules *rules;
    struct replayed sum;
    size_t line, told;
    bool failed; /* out of memory, or nobody reads what is written */
};

static const char *shown_name(const struct replaying *p)
{
    return strcmp(p->q->file, "-") == 0 ? "standard input" : p->q->file;
}

static void broken(struct replaying *p, const char *why)
{
    p->sum.broken++;
    fprintf(stderr, "%s:%zu: %s\n", shown_name(p), p->line, why);
}

static void write_out(struct replaying *p, const struct buf *out)
{
    p->failed |= out->failed || fwrite(out->p ? out->p : "", 1, out->n, stdout) != out->n;
}

static void tell(struct replaying *p, const struct record *r, const struct rejudged *again, enum change c)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 * 1024);
    if (p->json) {
        buf_z(&out, p->told++ ? ",\n" : "\n");
        replay_json_change(r, again, c, &out);
    } else {
        replay_print_change(r, again, c, &out);
    }
    write_out(p, &out);
}

static void count(struct replaying *p, const struct record *r, enum change c)
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

static void take_line(struct replaying *p, struct str line)
{
    struct detail why = {""};
    struct record r = {0};
    struct rejudged again;
    p->line++;
    if (line.n > LINE_MAX_BYTES) {
        broken(p, "the line has more than 1 MiB, expected a decision");
        return;
    }
    if (!str_trim(line).n)
        return;
    if (!record_read(line, &r, &why)) {
        broken(p, why.text);
    } else if (!rejudge(p->rules, &r, &again)) {
        p->failed = true;
    } else {
        const enum change c = change_of(&r, &again);
        count(p, &r, c);
        if (c != CHANGE_NONE)
            tell(p, &r, &again, c);
    }
    record_free(&r);
}

/* One line, without its end; of one that is too long no more than shows that it is. False at the end. */
static bool next_line(FILE *from, struct buf *line)
{
    int c;
    buf_reset(line);
    while ((c = getc_unlocked(from)) != EOF && c != '\n')
        if (line->n <= LINE_MAX_BYTES)
            buf_char(line, (char)c);
    return c != EOF || line->n > 0;
}

static bool take_all(struct replaying *p, FILE *from)
{
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_MAX_BYTES + 2);
    while (!p->failed && next_line(from, &line)) {
        p->failed |= line.failed;
        take_line(p, line.n ? buf_view(&line) : STR(""));
    }
    if (!ferror(from))
        return !p->failed;
    complain("%s: cannot be read: %s", shown_name(p), strerror(errno));
    return false;
}

static int summary(struct replaying *p)
{
    struct buf out BUF_CLEANUP = BUF_INIT(SIZE_MAX / 2);
    if (!p->json) {
        replay_print_summary(&p->sum, &out);
    } else {
        buf_z(&out, "\n],\n\"summary\":");
        replay_json_summary(&p->sum, p->rules->hash, &out);
        buf_z(&out, "}\n");
    }
    write_out(p, &out);
    if (p->failed || fflush(stdout) != 0) {
        complain("replay: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    if (p->sum.decisions)
        return EXIT_DONE;
    complain("%s: holds no decision", shown_name(p));
    return EXIT_NEGATIVE;
}

static int replay(const struct replay_options *q, const struct rules *rules)
{
    struct replaying p = {.q = q, .json = format_is_json(q->format), .rules = rules};
    FILE *from = strcmp(q->file, "-") == 0 ? stdin : fopen(q->file, "re");
    if (!from) {
        complain("%s: cannot be read: %s", q->file, strerror(errno));
        return EXIT_NEGATIVE;
    }
    if (p.json)
        fputs("{\"changes\":[", stdout);
    int code = take_all(&p, from) || p.failed ? summary(&p) : EXIT_NEGATIVE;
    if (from != stdin)
        fclose(from);
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
    {.name = "DECISIONS.jsonl", .type = VALUE_FILE, .at = offsetof(struct replay_options, file),
     .help = "A decision log; `-` is standard input."}};
const struct command COMMAND_REPLAY = {
    .name = "replay", .does = "judge recorded decisions by other rules",
    .about = "Prints what recorded decisions would have been under other rules: each decision that changes, followed "
             "by "
             "counts by rule and by user. The decision log does not contain messages: of a signature only the recorded "
             "result is known; KmsUri, Time, ClientReqUrl and the user in the path are judged again. Whatever the log "
             "cannot answer is reported as unknown.",
    .exits = "0 done, whatever changes; 1 a file is at fault or contains no decisions",
    .examples = "kmsgate replay --rules new.yaml decisions.jsonl\n",
    COMMAND_TAKES(REPLAY_OPTIONS, REPLAY_OPERANDS, struct replay_options), .run = replay_run};
