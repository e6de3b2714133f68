#include "cmd/replay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

static const char USAGE[] =
    "usage: kmsgate replay --rules NEW.yaml [--format json] DECISIONS.jsonl\n"
    "\n"
    "What the recorded decisions would have been under other rules: each decision that changes, then counts, by\n"
    "rule and by user. The log holds no messages: of a signature only the recorded result is known; KmsUri, Time,\n"
    "ClientReqUrl and the path's user are judged again. What the log cannot tell is said to be unknown.\n"
    "\n"
    "  --rules FILE      the rules to judge by\n"
    "  --format json     one JSON object: `changes`, `summary`\n"
    "  DECISIONS.jsonl   the decision log; `-` is standard input\n"
    "\n"
    "Exit: 0 done (whatever changes), 1 a file is at fault or holds no decision, 2 wrong usage.\n";

enum { LINE_MAX_BYTES = 1 << 20 }; /* a decision has a few kilobytes */

struct request {
    const char *rules, *format, *file;
    bool json;
};
struct replaying {
    const struct request *q;
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
    if (p->q->json) {
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
    if (!p->q->json) {
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

static int replay(const struct request *q, const struct rules *rules)
{
    struct replaying p = {.q = q, .rules = rules};
    FILE *from = strcmp(q->file, "-") == 0 ? stdin : fopen(q->file, "re");
    if (!from) {
        complain("%s: cannot be read: %s", q->file, strerror(errno));
        return EXIT_NEGATIVE;
    }
    if (q->json)
        fputs("{\"changes\":[", stdout);
    int code = take_all(&p, from) || p.failed ? summary(&p) : EXIT_NEGATIVE;
    if (from != stdin)
        fclose(from);
    tally_free(&p.sum.rules);
    tally_free(&p.sum.users);
    return code;
}

static int run(const struct request *q)
{
    struct faults faults = {0};
    struct rules *rules = rules_load(q->rules, &faults);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    const int code = rules ? replay(q, rules) : EXIT_NEGATIVE;
    rules_unref(rules);
    return code;
}

int cmd_replay(int argc, char **argv)
{
    struct request q = {0};
    const struct option_entry entries[] = {
        {"--rules", "NEW.yaml", &q.rules, NULL, true}, {"--format", "text or json", &q.format, NULL, false}};
    switch (options_read(&(struct option_table){"replay", entries, sizeof entries / sizeof *entries, &q.file,
                                                "a DECISIONS.jsonl"}, argc, argv)) {
    case OPTIONS_HELP:
        fputs(USAGE, stdout);
        return EXIT_DONE;
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    default:
        break;
    }
    q.json = q.format && strcmp(q.format, "json") == 0;
    if (!q.format || q.json || strcmp(q.format, "text") == 0)
        return run(&q);
    complain("replay: found --format %s, expected text or json", q.format);
    return EXIT_USAGE;
}
