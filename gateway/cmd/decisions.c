#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "base/timestamp.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "study/lines.h"

struct decisions_options {
    const char *config, *url, *token_file, *user, *reason, *verdict, *rule, *format;
    bool follow;
    struct words files;
};

/* A filter that is not given lets all pass; a member that is not in the line is "" to the others. */
static bool decisions_holds(const char *glob, struct str text)
{
    return !glob || str_glob(str_z(glob), text.p ? text : STR(""), false);
}

static bool decisions_wanted(const struct decisions_options *q, const struct record *r)
{
    return decisions_holds(q->user, r->user) && decisions_holds(q->rule, r->rule) &&
           decisions_holds(q->reason, str_z(reason_name(r->reason))) &&
           decisions_holds(q->verdict, r->accepted ? STR("accept") : STR("reject"));
}

/* A cell of at least `width` columns, as far as characters are columns; "-" for what is not there. */
static void decisions_cell(struct buf *out, struct str s, size_t width)
{
    const size_t from = out->n;
    if (s.n)
        text_escape(out, s);
    else
        buf_char(out, '-');
    size_t columns = 0;
    for (size_t i = from; !out->failed && i < out->n; i++)
        columns += ((unsigned char)out->p[i] & 0xc0) != 0x80;
    for (; columns < width; columns++)
        buf_char(out, ' ');
    buf_z(out, "  ");
}

enum { WIDTH_TIME = 24, WIDTH_VERDICT = 7, WIDTH_REASON = 22, WIDTH_RULE = 16, WIDTH_FORM = 8, WIDTH_SOURCE = 15,
       WIDTH_USER = 28 };

static void decisions_head(struct buf *out)
{
    decisions_cell(out, STR("TIME"), WIDTH_TIME);
    decisions_cell(out, STR("VERDICT"), WIDTH_VERDICT);
    decisions_cell(out, STR("REASON"), WIDTH_REASON);
    decisions_cell(out, STR("RULE"), WIDTH_RULE);
    decisions_cell(out, STR("FORM"), WIDTH_FORM);
    decisions_cell(out, STR("SOURCE"), WIDTH_SOURCE);
    decisions_cell(out, STR("USER"), WIDTH_USER);
    buf_z(out, "ID\n");
}

static void decisions_row(struct buf *out, const struct record *r)
{
    char at[TIME_TEXT], source[IP_TEXT];
    time_format(r->time_us, true, at);
    ip_format(&r->source, source);
    decisions_cell(out, str_z(at), WIDTH_TIME);
    decisions_cell(out, r->accepted ? STR("accept") : STR("reject"), WIDTH_VERDICT);
    decisions_cell(out, str_z(reason_name(r->reason)), WIDTH_REASON);
    decisions_cell(out, r->rule, WIDTH_RULE);
    decisions_cell(out, r->form ? str_z(form_name(r->form)) : STR(""), WIDTH_FORM);
    decisions_cell(out, r->source.known ? str_z(source) : STR(""), WIDTH_SOURCE);
    decisions_cell(out, r->user, WIDTH_USER);
    if (r->id.n)
        text_escape(out, r->id);
    else
        buf_char(out, '-');
    buf_char(out, '\n');
}

static bool decisions_write(const struct buf *out)
{
    return !out->failed && fwrite(out->p ? out->p : "", 1, out->n, stdout) == out->n;
}

static bool decisions_tell(const struct lines *l, const struct record *r, bool json)
{
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    if (json) {
        buf_str(&out, lines_text(l));
        buf_char(&out, '\n');
    } else {
        decisions_row(&out, r);
    }
    return decisions_write(&out);
}

static int decisions_of_files(const struct decisions_options *q)
{
    const bool json = format_is_json(q->format);
    struct lines *l = lines_open(q->files.v, q->files.n);
    struct buf head BUF_CLEANUP = BUF_INIT(1024);
    struct record r;
    enum lines_result result = LINES_END;
    size_t decisions = 0, broken = 0;
    if (!json)
        decisions_head(&head);
    bool ok = l && decisions_write(&head);
    while (ok && (result = lines_next(l, &r)) != LINES_END && result != LINES_FAILED) {
        decisions += result == LINES_DECISION;
        broken += result == LINES_BROKEN;
        if (result == LINES_DECISION && decisions_wanted(q, &r))
            ok = decisions_tell(l, &r, json);
    }
    lines_close(l);
    if (!ok || fflush(stdout) != 0) {
        complain("decisions: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    if (broken)
        complain("decisions: %zu line%s not a decision and not shown", broken, broken == 1 ? " is" : "s are");
    if (result != LINES_FAILED && !decisions)
        complain("%s%s: holds no decision", q->files.v[0], q->files.n > 1 ? " and the others" : "");
    return result == LINES_FAILED || !decisions ? EXIT_NEGATIVE : EXIT_DONE;
}

static int decisions_run(const void *given)
{
    const struct decisions_options *q = given;
    if (q->follow || q->config || q->url || q->token_file) {
        complain("decisions: not built yet: --%s, the decisions of a running gateway; expected one or more files",
                 q->follow ? "follow" : q->config ? "config" : q->url ? "url" : "token-file");
        return EXIT_USAGE;
    }
    if (!q->files.n)
        return usage_error(&COMMAND_DECISIONS, "missing argument: FILE");
    return decisions_of_files(q);
}

static const struct command_option DECISIONS_OPTIONS[] = {
    {.name = "config", .letter = 'c', .argument = "FILE", .type = VALUE_FILE,
     .at = offsetof(struct decisions_options, config), .help = "Not built yet: ask the gateway of this configuration."},
    {.name = "url", .argument = "URL", .at = offsetof(struct decisions_options, url),
     .help = "Not built yet: ask the gateway with this admin address."},
    {.name = "token-file", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct decisions_options, token_file),
     .help = "Not built yet: the admin token, for `--url`."},
    {.name = "user", .argument = "GLOB", .at = offsetof(struct decisions_options, user),
     .help = "Show decisions about these users, such as `sip:*@field.example.org`."},
    {.name = "reason", .argument = "GLOB", .at = offsetof(struct decisions_options, reason),
     .help = "Show decisions with this reason, such as `time.*`."},
    {.name = "verdict", .argument = "GLOB", .at = offsetof(struct decisions_options, verdict),
     .help = "Show decisions with this verdict: `accept` or `reject`."},
    {.name = "rule", .argument = "GLOB", .at = offsetof(struct decisions_options, rule),
     .help = "Show decisions of these request rules."},
    {.name = "follow", .at = offsetof(struct decisions_options, follow),
     .help = "Not built yet: go on with new decisions."},
    OPTION_FORMAT(struct decisions_options, format)};
static const struct command_operand DECISIONS_OPERANDS[] = {
    {.name = "FILE", .type = VALUE_FILE, .optional = true, .many = true,
     .at = offsetof(struct decisions_options, files), .help = DECISION_FILES_HELP}};
const struct command COMMAND_DECISIONS = {
    .name = "decisions", .does = "show recorded decisions as a table",
    .about = "Shows the decisions of log files as a table, one line each. Filters are globs, in which `*` stands for "
             "any text; with several, all must match. `--format json` prints the lines as they are in the log, without "
             "what the journal put before them.",
    .exits = "0 done, whatever matches; 1 a file cannot be read, or contains no decisions",
    .examples = "kmsgate decisions --verdict reject --reason 'time.*' decisions.jsonl\n",
    COMMAND_TAKES(DECISIONS_OPTIONS, DECISIONS_OPERANDS, struct decisions_options), .run = decisions_run};
