#include <string.h>

#include "base/json.h"
#include "cmd/explain.h"

/* Text from a request, on one line: no terminal obeys it. */
static void plain(struct buf *out, struct str s, size_t max)
{
    size_t n = s.n < max ? s.n : max;
    while (n < s.n && n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++)
        buf_char(out, (unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i]);
    buf_z(out, n < s.n ? "..." : "");
}

static void print_head(const struct explained *x, struct buf *out)
{
    const struct decision *d = &x->j->decision;
    char at[TIME_TEXT];
    time_format(x->now_us, true, at);
    buf_printf(out, "request  %s: %zu octets", x->file, x->size);
    if (x->j->form)
        buf_printf(out, ", %s", form_name(x->j->form));
    if (d->user.n) {
        buf_z(out, ", of ");
        plain(out, d->user, 200);
    }
    buf_z(out, "\n         POST ");
    plain(out, x->j->head.target, 1000);
    buf_printf(out, " (%s)\n         from %s, judged as of %s\n", x->target_from, d->source, at);
}

static void print_rules(const struct explained *x, struct buf *out)
{
    if (!x->why->rule_count)
        return;
    buf_z(out, "rules\n");
    for (size_t i = 0; i < x->why->rule_count; i++) {
        const struct explained_rule *r = x->why->rules + i;
        buf_printf(out, "  %-16s %-8s %s%s(%s:%d)\n", r->rule->id, r->matches ? "matches" : "no", r->why ? r->why : "",
                   r->why ? "  " : "", x->j->rules->file, r->rule->line);
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
        if (k->found)
            buf_printf(out, "%-11s found     %s\n", check_result_name(k->result), k->found);
        else
            buf_printf(out, "%s\n", check_result_name(k->result));
        if (k->expected)
            buf_printf(out, "%40sexpected  %s\n", "", k->expected);
    }
}

static void print_verdict(const struct explained *x, struct buf *out)
{
    const struct decision *d = &x->j->decision;
    if (d->accepted)
        buf_printf(out, "verdict  accepted by rule `%s`%s\n", d->rule,
                   d->proven ? ", if it is no replay" : "; who asks is not proven");
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
    if (e->stage && e->stage[0])
        buf_printf(out, "cause    %s\n", e->stage);
    for (size_t i = 0; i < e->diagnosis.n; i++)
        buf_printf(out, "%s%s\n", i ? "         " : "cause    ", e->diagnosis.v[i]);
    for (size_t i = 0; i < e->advice_count; i++) {
        const struct advice *a = e->advice + i;
        buf_printf(out, "%s%s: %s\n           costs %s\n", i ? "         " : "to mend  ", a->place, a->change, a->cost);
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

static void text(struct json *j, const char *key, const char *z)
{
    json_string(j, key, str_z(z), 0);
}

static void json_rules(const struct explained *x, struct json *j)
{
    json_array(j, "rules");
    for (size_t i = 0; i < x->why->rule_count; i++) {
        const struct explained_rule *r = x->why->rules + i;
        json_object(j, NULL);
        text(j, "id", r->rule->id);
        text(j, "file", x->j->rules->file);
        json_int(j, "line", r->rule->line);
        json_bool(j, "matches", r->matches);
        text(j, "why", r->why);
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
        text(j, "name", check_name((enum check)c));
        text(j, "mode", mode_name(k->mode));
        text(j, "result", check_result_name(k->result));
        text(j, "found", k->found);
        text(j, "expected", k->expected);
        json_end(j);
    }
    json_end(j);
}

static void json_why(const struct explained *x, struct json *j)
{
    const struct explanation *e = x->why;
    json_array(j, "cause");
    if (e->stage && e->stage[0])
        text(j, NULL, e->stage);
    for (size_t i = 0; i < e->diagnosis.n; i++)
        text(j, NULL, e->diagnosis.v[i]);
    json_end(j);
    json_array(j, "to_mend");
    for (size_t i = 0; i < e->advice_count; i++) {
        json_object(j, NULL);
        text(j, "place", e->advice[i].place);
        text(j, "change", e->advice[i].change);
        text(j, "costs", e->advice[i].cost);
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
    text(&j, "file", x->file);
    text(&j, "at", at);
    text(&j, "source", d->source);
    json_string(&j, "target", x->j->head.target, 0);
    text(&j, "target_from", x->target_from);
    if (x->j->form)
        text(&j, "form", form_name(x->j->form));
    json_string(&j, "user", d->user, 0);
    json_rules(x, &j);
    json_checks(x, &j);
    text(&j, "verdict", d->accepted ? "accept" : "reject");
    text(&j, "reason", reason_name(d->reason));
    json_int(&j, "status", d->accepted ? 200 : reason_status(d->reason));
    text(&j, "rule", d->rule);
    json_bool(&j, "proven", d->proven);
    json_array(&j, "shadow");
    for (size_t c = 0; c < SHADOW_COUNT; c++)
        if (d->shadow[c] != REASON_OK)
            text(&j, NULL, reason_name(d->shadow[c]));
    json_end(&j);
    text(&j, "rules_hash", x->j->rules->hash);
    json_why(x, &j);
    json_end(&j);
    buf_char(out, '\n');
}
