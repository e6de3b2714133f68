#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/timestamp.h"
#include "cmd/client_decisions.h"
#include "cmd/cmd.h"
#include "cmd/decision_files.h"
#include "cmd/options.h"
#include "cmd/screen.h"

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

static const struct column DECISIONS_COLUMNS[] = {
    {"TIME", 24, COLUMN_CUT},   {"VERDICT", 7, COLUMN_CUT}, {"REASON", 23, COLUMN_CUT},
    {"RULE", 16, COLUMN_GROWS}, {"FORM", 8, COLUMN_CUT},    {"SOURCE", 15, COLUMN_CUT},
    {"USER", 28, COLUMN_GROWS}, {"CAPTURED", 8, COLUMN_CUT}, {"ID", 32, COLUMN_CUT}};
enum { DECISIONS_COLUMN_COUNT = sizeof DECISIONS_COLUMNS / sizeof *DECISIONS_COLUMNS };

static struct screen decisions_screen(void)
{
    return screen_of(STDOUT_FILENO);
}

static void decisions_head(struct buf *out)
{
    const struct screen s = decisions_screen();
    screen_head(&s, DECISIONS_COLUMNS, DECISIONS_COLUMN_COUNT, out);
}

static void decisions_row(struct buf *out, const struct record *r)
{
    char at[TIME_TEXT], source[IP_TEXT];
    const struct screen s = decisions_screen();
    time_format(r->time_us, true, at);
    ip_format(&r->source, source);
    const enum tone tone = !r->accepted ? TONE_BAD : r->reason == REASON_OK ? TONE_GOOD : TONE_WARN;
    const struct cell cells[DECISIONS_COLUMN_COUNT] = {
        {str_z(at), TONE_FAINT},
        {r->accepted ? STR("accept") : STR("reject"), tone},
        {str_z(reason_name(r->reason)), tone},
        cell_of(r->rule),
        cell_of(r->form ? str_z(form_name(r->form)) : STR("")),
        cell_of(r->source.known ? str_z(source) : STR("")),
        cell_of(r->user),
        cell_of(r->captured ? STR("yes") : STR("")),
        cell_of(r->id)};
    screen_row(&s, DECISIONS_COLUMNS, cells, DECISIONS_COLUMN_COUNT, out);
}

static bool decisions_write(const struct buf *out)
{
    return !out->failed && fwrite(out->p ? out->p : "", 1, out->n, stdout) == out->n;
}

static bool decisions_tell(void *arg, const struct record *r, struct str line)
{
    const struct decisions_options *q = arg;
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    if (!decisions_wanted(q, r))
        return true;
    if (format_is_json(q->format)) {
        buf_str(&out, line);
        buf_char(&out, '\n');
    } else {
        decisions_row(&out, r);
    }
    return decisions_write(&out);
}

/* Lines that come one by one, as behind `tail -F` or `docker logs -f`, are shown one by one. */
static void decisions_as_they_come(const struct words *files)
{
    struct stat st;
    for (size_t i = 0; i < files->n; i++)
        if (str_eq_z(str_z(files->v[i]), "-") && fstat(STDIN_FILENO, &st) == 0 && !S_ISREG(st.st_mode))
            (void)setvbuf(stdout, NULL, _IOLBF, 0);
}

static int decisions_of_files(const struct decisions_options *q)
{
    decisions_as_they_come(&q->files);
    struct buf head BUF_CLEANUP = BUF_INIT(1024);
    struct lines_count count = {0};
    if (!format_is_json(q->format))
        decisions_head(&head);
    const enum lines_end end = decisions_write(&head) ? lines_each(q->files.v, q->files.n, decisions_tell,
                                                                   (void *)(uintptr_t)q, &count)
                                                      : LINES_STOPPED;
    if (end == LINES_STOPPED || fflush(stdout) != 0) {
        complain("decisions: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    return decisions_found("decisions", &q->files, end, &count) ? EXIT_DONE : EXIT_NEGATIVE;
}

/* A line of a running gateway: a decision, or how many were lost, where the reader was too slow. */
static bool decisions_take(void *arg, struct str line)
{
    const struct decisions_options *q = arg;
    struct detail why = {""};
    struct record r;
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    if (str_starts(line, STR("{\"lost\":"))) {
        complain("decisions: some were lost: %.*s", STR_FMT(line));
        return true;
    }
    if (!record_read(line, &r, &why)) {
        complain("decisions: found no decision: %s", why.text);
    } else if (format_is_json(q->format)) {
        buf_str(&out, line);
        buf_char(&out, '\n');
    } else {
        decisions_row(&out, &r);
    }
    record_free(&r);
    return decisions_write(&out) && fflush(stdout) == 0;
}

static int decisions_of_gateway(const struct decisions_options *q, const char *url, const struct listen_config *own,
                                const struct secret_source *token)
{
    struct client_decisions what = {.url = url, .own = own, .token = token, .user = q->user, .reason = q->reason,
                                  .verdict = q->verdict, .rule = q->rule, .follow = q->follow, .take = decisions_take,
                                  .arg = (void *)(uintptr_t)q};
    struct buf head BUF_CLEANUP = BUF_INIT(1024);
    if (!format_is_json(q->format))
        decisions_head(&head);
    if (!decisions_write(&head))
        return EXIT_NEGATIVE;
    const bool ok = client_decisions(&what);
    return fflush(stdout) == 0 && !ferror(stdout) && ok ? EXIT_DONE : EXIT_NEGATIVE;
}

static int decisions_of_config(const struct decisions_options *q)
{
    struct faults faults = {0};
    struct config *c = config_load(q->config, &faults);
    struct buf url BUF_CLEANUP = BUF_INIT(1024);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    if (!c)
        return EXIT_NEGATIVE;
    buf_printf(&url, "http%s://%s", c->admin.certificate ? "s" : "", c->admin.address);
    const int code = decisions_of_gateway(q, url.p, &c->admin, &c->admin_token);
    config_free(c);
    return code;
}

static int decisions_run(const void *given)
{
    const struct decisions_options *q = given;
    const struct secret_source token = {.kind = q->token_file ? SECRET_FILE : SECRET_NONE,
                                        .name = (char *)(uintptr_t)q->token_file};
    if ((q->config != NULL) + (q->url != NULL) + (q->files.n > 0) != 1)
        return usage_error(&COMMAND_DECISIONS, "expected one of --config, --url and files");
    if (q->files.n && q->follow)
        return usage_error(&COMMAND_DECISIONS, "--follow is for a running gateway: --config or --url");
    if (q->token_file && !q->url)
        return usage_error(&COMMAND_DECISIONS, "--token-file belongs to --url");
    if (q->files.n)
        return decisions_of_files(q);
    return q->config ? decisions_of_config(q) : decisions_of_gateway(q, q->url, NULL, &token);
}

#define DECISIONS_REASON(e, name, status) name "|"
static const char DECISIONS_REASONS[] = REASON_LIST(DECISIONS_REASON);
#undef DECISIONS_REASON

static const struct command_option DECISIONS_OPTIONS[] = {
    {.name = "config", .letter = 'c', .argument = "FILE", .type = VALUE_FILE,
     .at = offsetof(struct decisions_options, config),
     .help = "Ask the running gateway of this configuration, at its admin address."},
    {.name = "url", .argument = "URL", .at = offsetof(struct decisions_options, url),
     .help = "Ask the gateway with this admin address, such as `http://127.0.0.1:9090`."},
    {.name = "token-file", .argument = "FILE", .type = VALUE_FILE, .at = offsetof(struct decisions_options, token_file),
     .help = "The admin token, for `--url`."},
    {.name = "user", .argument = "GLOB", .at = offsetof(struct decisions_options, user),
     .help = "Show decisions about these users, such as `sip:*@field.example.org`."},
    {.name = "reason", .argument = "GLOB", .words = DECISIONS_REASONS, .at = offsetof(struct decisions_options, reason),
     .help = "Show decisions with this reason, such as `time.*`."},
    {.name = "verdict", .argument = "GLOB", .words = "accept|reject", .at = offsetof(struct decisions_options, verdict),
     .help = "Show decisions with this verdict: `accept` or `reject`."},
    {.name = "rule", .argument = "GLOB", .at = offsetof(struct decisions_options, rule),
     .help = "Show decisions of these request rules."},
    {.name = "follow", .at = offsetof(struct decisions_options, follow),
     .help = "Show the decisions of a running gateway from now on, as they are made."},
    OPTION_FORMAT(struct decisions_options, format)};
static const struct command_operand DECISIONS_OPERANDS[] = {
    {.name = "FILE", .type = VALUE_FILE, .optional = true, .many = true,
     .at = offsetof(struct decisions_options, files), .help = DECISION_FILES_HELP}};
const struct command COMMAND_DECISIONS = {
    .name = "decisions", .does = "show recorded decisions as a table",
    .about = "Shows the decisions of log files, or of a running gateway (the newest, or with `--follow` all to "
             "come), as a table, one line each. Filters are globs, in which `*` stands for "
             "any text; with several, all must match. `--format json` prints the lines as they are in the log, without "
             "what the journal put before them.",
    .exits = "0 done, whatever matches; 1 a file cannot be read or contains no decisions, or the gateway does not "
             "answer",
    .examples = "kmsgate decisions --config gateway.yaml --follow\n"
                "kmsgate decisions --verdict reject --reason 'time.*' decisions.jsonl\n"
                "journalctl -u kmsgate -f | kmsgate decisions -\n",
    COMMAND_TAKES(DECISIONS_OPTIONS, DECISIONS_OPERANDS, struct decisions_options), .run = decisions_run};
