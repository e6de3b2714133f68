#include <stdio.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "cmd/conform.h"
#include "cmd/screen.h"

static const char *const NAMES[] = {
    [CONFORM_HOLDS] = "holds", [CONFORM_FAILS] = "does not", [CONFORM_UNKNOWN] = "cannot be told"};

static size_t table_sum(const struct conform *c, enum conform_result result)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        n += c->rows[i].result == result;
    return n;
}

static const struct column COLUMNS[] = {
    {"CLAUSE", 10, COLUMN_CUT}, {"RESULT", 14, COLUMN_CUT}, {"WHAT, AND WHERE", 20, COLUMN_FOLDS}};
enum { COLUMN_COUNT = sizeof COLUMNS / sizeof *COLUMNS };

static void print_row(const struct screen *s, const struct conform *c, const struct conform_row *r, struct buf *out)
{
    static const enum tone TONES[] = {
        [CONFORM_HOLDS] = TONE_GOOD, [CONFORM_FAILS] = TONE_BAD, [CONFORM_UNKNOWN] = TONE_WARN};
    char what[CONFORM_TEXT + sizeof r->resource];
    snprintf(what, sizeof what, "%s, on %s", r->what, r->resource);
    screen_row(s, COLUMNS, (struct cell[]){{str_z(r->clause), TONE_NONE}, {str_z(NAMES[r->result]), TONES[r->result]},
                                           {str_z(what), TONE_NONE}}, COLUMN_COUNT, out);
    if (!*r->found)
        return;
    snprintf(what, sizeof what, "%s", r->found);
    if (r->exchange && c->folder >= 0)
        snprintf(what, sizeof what, "%s (%03u)", r->found, r->exchange);
    screen_row(s, COLUMNS, (struct cell[]){{STR(""), TONE_NONE}, {STR(""), TONE_NONE}, {str_z(what), TONES[r->result]}},
               COLUMN_COUNT, out);
}

void conform_print_text(const struct conform *c, struct buf *out)
{
    const struct screen s = screen_of(STDOUT_FILENO);
    screen_head(&s, COLUMNS, COLUMN_COUNT, out);
    for (size_t i = 0; i < c->n; i++)
        print_row(&s, c, &c->rows[i], out);
    buf_printf(out, "\n%zu hold, %zu do not, %zu cannot be told\n", table_sum(c, CONFORM_HOLDS),
               table_sum(c, CONFORM_FAILS), table_sum(c, CONFORM_UNKNOWN));
    if (c->folder >= 0) {
        buf_printf(out, "%u exchanges are kept in ", c->sent);
        text_escape(out, str_z(c->options->out));
        buf_char(out, '\n');
    }
}

void conform_print_json(const struct conform *c, struct buf *out)
{
    static const char *const RESULTS[] = {
        [CONFORM_HOLDS] = "holds", [CONFORM_FAILS] = "fails", [CONFORM_UNKNOWN] = "unknown"};
    struct json j = {.out = out};
    json_object(&j, NULL);
    json_string(&j, "url", str_z(c->options->url), 0);
    json_string(&j, "user", c->client.user, 0);
    json_int(&j, "holds", (int64_t)table_sum(c, CONFORM_HOLDS));
    json_int(&j, "fails", (int64_t)table_sum(c, CONFORM_FAILS));
    json_int(&j, "unknown", (int64_t)table_sum(c, CONFORM_UNKNOWN));
    json_array(&j, "checks");
    for (size_t i = 0; i < c->n; i++) {
        const struct conform_row *r = &c->rows[i];
        json_object(&j, NULL);
        json_string(&j, "clause", str_z(r->clause), 0);
        json_string(&j, "check", str_z(r->what), 0);
        json_string(&j, "resource", str_z(r->resource), 0);
        json_string(&j, "result", str_z(RESULTS[r->result]), 0);
        if (*r->found)
            json_string(&j, "found", str_z(r->found), 0);
        if (c->folder >= 0 && r->exchange)
            json_int(&j, "exchange", r->exchange);
        json_end(&j);
    }
    json_end(&j);
    json_end(&j);
    buf_char(out, '\n');
}

/* XML 1.0 has no control characters, nor bytes that are no UTF-8: they are shown escaped. */
static void table_attribute(struct buf *out, const char *name, const char *value)
{
    struct buf plain BUF_CLEANUP = BUF_INIT(64 << 10);
    text_escape(&plain, str_z(value));
    buf_printf(out, " %s=\"", name);
    buf_xml_attr(out, plain.p ? buf_view(&plain) : STR(""));
    buf_char(out, '"');
    out->failed |= plain.failed;
}

static void junit_case(const struct conform_row *r, struct buf *out)
{
    char name[CONFORM_TEXT + 160];
    snprintf(name, sizeof name, "%s, on %s", r->what, r->resource);
    buf_z(out, "    <testcase");
    table_attribute(out, "classname", r->clause);
    table_attribute(out, "name", name);
    if (r->result == CONFORM_HOLDS) {
        buf_z(out, "/>\n");
        return;
    }
    buf_z(out, r->result == CONFORM_FAILS ? "><failure" : "><skipped");
    table_attribute(out, "message", r->found);
    buf_z(out, "/></testcase>\n");
}

void conform_print_junit(const struct conform *c, struct buf *out)
{
    buf_z(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"TS 33.180 Annex D\"");
    buf_printf(out, " tests=\"%zu\" failures=\"%zu\" skipped=\"%zu\">\n", c->n, table_sum(c, CONFORM_FAILS),
               table_sum(c, CONFORM_UNKNOWN));
    for (size_t i = 0; i < c->n; i++)
        junit_case(&c->rows[i], out);
    buf_z(out, "  </testsuite>\n</testsuites>\n");
}
