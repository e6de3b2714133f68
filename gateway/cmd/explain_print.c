#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "cmd/explain.h"

enum { WIDTH = 100, INDENT = 9 };

/* Text that may be a stranger's, on lines that end before column WIDTH and go on at `indent`; it begins at `column`.
 * What has no space in it, such as a URL, stays whole, so that it can be copied: what is too long to stand at `indent`
 * begins a line at INDENT. Ends the line. */
static void put_wrapped(struct buf *out, size_t column, size_t indent, const char *z)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1 << 20);
    text_escape(&text, str_z(z));
    if (text.failed)
        out->failed = true;
    for (const char *at = text.p ? text.p : ""; *at;) {
        const size_t spaces = strspn(at, " "), word = strcspn(at + spaces, " ");
        const bool first = column <= indent, wide = indent > INDENT && indent + word > WIDTH;
        if ((!first || wide) && column + spaces + word > WIDTH) {
            const size_t to = wide ? INDENT : indent;
            while (out->n > 0 && out->p[out->n - 1] == ' ')
                out->n--;
            buf_printf(out, "\n%*s", (int)to, "");
            column = to + word;
        } else {
            buf_bytes(out, at, spaces);
            column += spaces + word;
        }
        buf_bytes(out, at + spaces, word);
        at += spaces + word;
    }
    buf_char(out, '\n');
}

/* The same behind a label of `indent` columns; the label of the first line only. */
static void put_labelled(struct buf *out, const char *label, size_t indent, const char *z)
{
    buf_printf(out, "%-*s", (int)indent, label);
    put_wrapped(out, indent, indent, z);
}

static void print_head(const struct explained *x, struct buf *out)
{
    const struct decision *d = &x->j->decision;
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 16);
    char at[TIME_TEXT];
    time_format(x->now_us, true, at);
    buf_printf(&line, "%s: %zu octets", x->file, x->size);
    if (x->j->form)
        buf_printf(&line, ", %s", form_name(x->j->form));
    if (d->user.n)
        buf_printf(&line, ", of %.*s", STR_FMT(((struct str){d->user.p, text_cut(d->user, 200)})));
    put_labelled(out, "request", INDENT, line.p ? line.p : "");
    buf_reset(&line);
    const size_t shown = text_cut(x->j->head.target, 1000);
    buf_printf(&line, "POST %.*s%s (%s)", (int)shown, x->j->head.target.p, shown < x->j->head.target.n ? "..." : "",
               x->target_from);
    put_labelled(out, "", INDENT, line.p ? line.p : "");
    buf_printf(out, "%*sfrom %s, judged as of %s\n", INDENT, "", d->source, at);
}

static void print_rules(const struct explained *x, struct buf *out)
{
    if (!x->why->rule_count)
        return;
    buf_z(out, "rules\n");
    for (size_t i = 0; i < x->why->rule_count; i++) {
        const struct explained_rule *r = x->why->rules + i;
        struct buf why BUF_CLEANUP = BUF_INIT(1 << 16);
        buf_printf(&why, "%s%s(%s:%d)", r->why ? r->why : "", r->why ? "  " : "", x->j->rules->file, r->rule->line);
        buf_printf(out, "  %-16s %-8s ", r->rule->id, r->matches ? "matches" : "no");
        put_wrapped(out, 28, 28, why.p ? why.p : "");
    }
}

static void print_checks(const struct explained *x, struct buf *out)
{
    if (!x->why->has_checks)
        return;
    buf_z(out, "checks\n");
    for (size_t c = 0; c < CHECK_COUNT; c++) {
        const struct explained_check *k = x->why->checks + c;
        buf_printf(out, "  %-16s %-8s ", check_name((enum check)c), mode_name(k->mode));
        if (k->found) {
            buf_printf(out, "%-11s found     ", check_result_name(k->result));
            put_wrapped(out, 50, 50, k->found);
        } else {
            buf_printf(out, "%s\n", check_result_name(k->result));
        }
        if (k->expected) {
            buf_printf(out, "%40sexpected  ", "");
            put_wrapped(out, 50, 50, k->expected);
        }
    }
}

static void print_verdict(const struct explained *x, struct buf *out)
{
    const struct decision *d = &x->j->decision;
    if (d->accepted)
        buf_printf(out, "verdict  accepted by rule `%s`%s\n", d->rule,
                   d->proven ? ", unless it is a replay" : "; the user is not proven");
    else
        buf_printf(out, "verdict  refused: %s (HTTP %d)\n", reason_name(d->reason), reason_status(d->reason));
    for (size_t c = 0; c < SHADOW_COUNT; c++)
        if (d->shadow[c] != REASON_OK)
            buf_printf(out, "         %s in shadow: would be refused with %s\n", shadow_name(c),
                       reason_name(d->shadow[c]));
}

static void print_why(const struct explained *x, struct buf *out)
{
    const struct explanation *e = x->why;
    const char *label = "cause";
    if (e->stage && e->stage[0]) {
        put_labelled(out, label, INDENT, e->stage);
        label = "";
    }
    for (size_t i = 0; i < e->diagnosis.n; i++, label = "")
        put_labelled(out, label, INDENT, e->diagnosis.v[i]);
    label = "to mend";
    for (size_t i = 0; i < e->advice_count; i++, label = "") {
        const struct advice *a = e->advice + i;
        struct buf line BUF_CLEANUP = BUF_INIT(1 << 16);
        buf_printf(&line, "%s: %s", a->place, a->change);
        put_labelled(out, label, INDENT, line.p ? line.p : "");
        buf_printf(out, "%*scosts ", INDENT + 2, "");
        put_wrapped(out, INDENT + 8, INDENT + 8, a->cost);
        if (a->rule)
            text_escape_lines(out, str_z(a->rule));
    }
}

void explain_print(const struct explained *x, struct buf *out)
{
    print_head(x, out);
    print_rules(x, out);
    print_checks(x, out);
    print_verdict(x, out);
    print_why(x, out);
}

static void explain_print_text(struct json *j, const char *key, const char *z)
{
    json_string(j, key, str_z(z), 0);
}

static void json_rules(const struct explained *x, struct json *j)
{
    json_array(j, "rules");
    for (size_t i = 0; i < x->why->rule_count; i++) {
        const struct explained_rule *r = x->why->rules + i;
        json_object(j, NULL);
        explain_print_text(j, "id", r->rule->id);
        explain_print_text(j, "file", x->j->rules->file);
        json_int(j, "line", r->rule->line);
        json_bool(j, "matches", r->matches);
        explain_print_text(j, "why", r->why);
        json_end(j);
    }
    json_end(j);
}

static void json_checks(const struct explained *x, struct json *j)
{
    json_array(j, "checks");
    for (size_t c = 0; x->why->has_checks && c < CHECK_COUNT; c++) {
        const struct explained_check *k = x->why->checks + c;
        json_object(j, NULL);
        explain_print_text(j, "name", check_name((enum check)c));
        explain_print_text(j, "mode", mode_name(k->mode));
        explain_print_text(j, "result", check_result_name(k->result));
        explain_print_text(j, "found", k->found);
        explain_print_text(j, "expected", k->expected);
        json_end(j);
    }
    json_end(j);
}

static void json_why(const struct explained *x, struct json *j)
{
    const struct explanation *e = x->why;
    json_array(j, "cause");
    if (e->stage && e->stage[0])
        explain_print_text(j, NULL, e->stage);
    for (size_t i = 0; i < e->diagnosis.n; i++)
        explain_print_text(j, NULL, e->diagnosis.v[i]);
    json_end(j);
    json_array(j, "to_mend");
    for (size_t i = 0; i < e->advice_count; i++) {
        json_object(j, NULL);
        explain_print_text(j, "place", e->advice[i].place);
        explain_print_text(j, "change", e->advice[i].change);
        explain_print_text(j, "costs", e->advice[i].cost);
        explain_print_text(j, "rule", e->advice[i].rule);
        json_end(j);
    }
    json_end(j);
}

void explain_print_json(const struct explained *x, struct buf *out)
{
    const struct decision *d = &x->j->decision;
    struct json j = {.out = out};
    char at[TIME_TEXT];
    time_format(x->now_us, true, at);
    json_object(&j, NULL);
    explain_print_text(&j, "file", x->file);
    explain_print_text(&j, "at", at);
    explain_print_text(&j, "source", d->source);
    json_string(&j, "target", x->j->head.target, 0);
    explain_print_text(&j, "target_from", x->target_from);
    if (x->j->form)
        explain_print_text(&j, "form", form_name(x->j->form));
    json_string(&j, "user", d->user, 0);
    json_rules(x, &j);
    json_checks(x, &j);
    explain_print_text(&j, "verdict", d->accepted ? "accept" : "reject");
    explain_print_text(&j, "reason", reason_name(d->reason));
    json_int(&j, "status", d->accepted ? 200 : reason_status(d->reason));
    explain_print_text(&j, "rule", d->rule);
    json_bool(&j, "proven", d->proven);
    json_array(&j, "shadow");
    for (size_t c = 0; c < SHADOW_COUNT; c++)
        if (d->shadow[c] != REASON_OK)
            explain_print_text(&j, NULL, reason_name(d->shadow[c]));
    json_end(&j);
    explain_print_text(&j, "rules_hash", x->j->rules->hash);
    json_why(x, &j);
    json_end(&j);
    buf_char(out, '\n');
}
