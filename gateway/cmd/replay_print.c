#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cmd/replay.h"

enum { ROWS_SHOWN = 20 };

static void plain(struct buf *out, struct str s)
{
    if (s.n)
        text_escape(out, s);
    else
        buf_char(out, '-');
}

static void put_checks(unsigned checks, struct buf *out)
{
    bool any = false;
    for (int c = 0; c < CHECK_COUNT; c++)
        if (checks & 1u << c) {
            buf_printf(out, "%s%s", any ? ", " : "", check_name((enum check)c));
            any = true;
        }
}

static void put_shadow(const enum reason shadow[SHADOW_COUNT], struct buf *out)
{
    bool any = false;
    for (size_t i = 0; i < SHADOW_COUNT; i++)
        if (shadow[i] != REASON_OK) {
            buf_printf(out, "%s%s", any ? ", " : " (in shadow: ", reason_name(shadow[i]));
            any = true;
        }
    buf_z(out, any ? ")" : "");
}

void replay_was(const struct record *r, struct buf *out)
{
    buf_z(out, r->accepted ? "accept" : "reject ");
    buf_z(out, r->accepted ? "" : reason_name(r->reason));
    put_shadow(r->shadow, out);
}

void replay_becomes(const struct rejudged *a, struct buf *out)
{
    switch (a->outcome) {
    case OUTCOME_ACCEPT:
        buf_z(out, "accept");
        break;
    case OUTCOME_REJECT:
        buf_printf(out, "reject %s", a->reason_open ? "(why first, the log does not tell)"
                                                    : reason_name(a->reason));
        break;
    default:
        buf_z(out, "unknown: ");
        if (a->why_open)
            buf_z(out, a->why_open);
        else {
            buf_z(out, "accept if ");
            put_checks(a->open, out);
            buf_z(out, a->open & (a->open - 1) ? " hold" : " holds");
        }
    }
    put_shadow(a->shadow, out);
    if (a->shadow_open) {
        buf_z(out, " (in shadow, unknown: ");
        put_checks(a->shadow_open, out);
        buf_char(out, ')');
    }
}

static void put_change(const struct record *r, const struct rejudged *a, enum change c, struct buf *out)
{
    replay_was(r, out);
    buf_z(out, " -> ");
    replay_becomes(a, out);
    if (c == CHANGE_REPLY || c == CHANGE_REPLY_LOST) {
        buf_z(out, "; reply by ");
        plain(out, r->response_rule);
        buf_printf(out, " -> %s", a->response ? a->response->id : "no rule: upstream.invalid");
    }
}

static const struct column COLUMNS[] = {{"TIME", 24, COLUMN_CUT},
                                        {"USER", 28, COLUMN_GROWS},
                                        {"RULE", 16, COLUMN_CUT},
                                        {"ID", 32, COLUMN_CUT},
                                        {"CHANGE", 40, COLUMN_FOLDS}};
enum { COLUMN_COUNT = sizeof COLUMNS / sizeof *COLUMNS };

static enum tone change_tone(enum change c)
{
    return c <= CHANGE_REPLY_LOST ? TONE_BAD : c <= CHANGE_REPLAYS_APART ? TONE_GOOD : TONE_WARN;
}

static void put_row(struct replay_screen *s, const struct record *r, const struct rejudged *a, enum change c,
                    struct buf *out)
{
    char at[TIME_TEXT];
    struct buf change BUF_CLEANUP = BUF_INIT(16 << 10);
    time_format(r->time_us, true, at);
    put_change(r, a, c, &change);
    if (a->rule && !str_eq_z(r->rule, a->rule->id))
        buf_printf(&change, "; by the rule %s", a->rule->id);
    out->failed |= change.failed;
    const struct cell cells[COLUMN_COUNT] = {{str_z(at), TONE_FAINT},
                                             cell_of(r->user),
                                             cell_of(r->rule),
                                             cell_of(r->id),
                                             {buf_view(&change), change_tone(c)}};
    if (!s->headed)
        screen_head(&s->screen, COLUMNS, COLUMN_COUNT, out);
    s->headed = true;
    screen_row(&s->screen, COLUMNS, cells, COLUMN_COUNT, out);
}

void replay_print_change(struct replay_screen *s, const struct record *r, const struct rejudged *a, enum change c,
                         struct buf *out)
{
    char at[TIME_TEXT];
    if (s->screen.terminal) {
        put_row(s, r, a, c, out);
        return;
    }
    time_format(r->time_us, true, at);
    buf_printf(out, "%s ", at);
    plain(out, r->id);
    buf_char(out, ' ');
    plain(out, r->user);
    buf_z(out, "  ");
    plain(out, r->rule);
    if (a->rule && !str_eq_z(r->rule, a->rule->id))
        buf_printf(out, " -> %s", a->rule->id);
    buf_z(out, "  ");
    put_change(r, a, c, out);
    buf_char(out, '\n');
}

struct screen_line replay_look(struct str line)
{
    enum { BEHIND_COUNT = 20, BEHIND_TITLE = 9 };
    const bool count = str_starts(line, STR(" ")), row = str_starts(line, STR("by "));
    return (struct screen_line){.tone = TONE_NONE, .next = count ? BEHIND_COUNT : row ? BEHIND_TITLE : 0};
}

static void put_count(struct buf *out, const struct replayed *sum, enum change c)
{
    const size_t n = sum->counts[c], users = tally_users(&sum->users, c);
    if (!n)
        return;
    buf_printf(out, "%9zu  %5.1f %%  %s", n, 100.0 * (double)n / (double)sum->decisions, change_says(c));
    if (c != CHANGE_NONE)
        buf_printf(out, " (%zu user%s)", users, users == 1 ? "" : "s");
    buf_char(out, '\n');
}

static void put_rows(struct buf *out, const char *title, const struct tally *t)
{
    size_t n, shown = 0;
    const struct tally_row **v = tally_sorted(t, &n);
    if (!v) {
        out->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t changes = 0;
        for (int c = 0; c < CHANGE_NONE; c++)
            changes += v[i]->counts[c];
        if (!changes || shown++ >= ROWS_SHOWN)
            continue;
        buf_printf(out, "%s  ", shown == 1 ? title : "       ");
        plain(out, str_z(v[i]->name));
        for (int c = 0; c < CHANGE_NONE; c++)
            if (v[i]->counts[c])
                buf_printf(out, "  %s %zu", change_name((enum change)c), v[i]->counts[c]);
        buf_char(out, '\n');
    }
    if (shown > ROWS_SHOWN)
        buf_printf(out, "         and %zu more\n", shown - ROWS_SHOWN);
    free((void *)v);
}

void replay_print_summary(const struct replayed *sum, struct buf *out)
{
    char first[TIME_TEXT], last[TIME_TEXT];
    buf_printf(out, "%zu decision%s", sum->decisions, sum->decisions == 1 ? "" : "s");
    if (sum->decisions) {
        time_format(sum->first_us, false, first);
        time_format(sum->last_us, false, last);
        buf_printf(out, " from %s to %s", first, last);
    }
    if (sum->broken)
        buf_printf(out, "; %zu line%s could not be read and %s not counted", sum->broken, sum->broken == 1 ? "" : "s",
                   sum->broken == 1 ? "is" : "are");
    buf_char(out, '\n');
    for (int c = 0; c < CHANGE_COUNT; c++)
        put_count(out, sum, (enum change)c);
    put_rows(out, "by rule", &sum->rules);
    put_rows(out, "by user", &sum->users);
    if (sum->counts[CHANGE_OPEN] || sum->counts[CHANGE_REPLAYS_APART])
        buf_z(out, "What the log does not hold is not guessed: a check that was off or skipped when it was written is "
                   "unknown where the new rules enforce it.\n");
}

static void replay_text(struct json *j, const char *key, const char *z)
{
    json_string(j, key, str_z(z), 0);
}

static void json_shadow(struct json *j, const char *key, const enum reason shadow[SHADOW_COUNT])
{
    json_array(j, key);
    for (size_t i = 0; i < SHADOW_COUNT; i++)
        if (shadow[i] != REASON_OK)
            replay_text(j, NULL, reason_name(shadow[i]));
    json_end(j);
}

static void json_checks(struct json *j, const char *key, unsigned checks)
{
    if (!checks)
        return;
    json_array(j, key);
    for (int c = 0; c < CHECK_COUNT; c++)
        if (checks & 1u << c)
            replay_text(j, NULL, check_name((enum check)c));
    json_end(j);
}

static void json_becomes(struct json *j, const struct rejudged *a)
{
    static const char *const OUTCOMES[] = {
        [OUTCOME_ACCEPT] = "accept", [OUTCOME_REJECT] = "reject", [OUTCOME_OPEN] = "unknown"};
    json_object(j, "to");
    replay_text(j, "verdict", OUTCOMES[a->outcome]);
    if (a->outcome == OUTCOME_REJECT && !a->reason_open)
        replay_text(j, "reason", reason_name(a->reason));
    if (a->rule)
        replay_text(j, "rule", a->rule->id);
    replay_text(j, "why", a->why_open);
    json_checks(j, "accept_if", a->open);
    json_checks(j, "shadow_unknown", a->shadow_open);
    json_shadow(j, "shadow", a->shadow);
    if (a->response_judged)
        replay_text(j, "response_rule", a->response ? a->response->id : "none");
    json_end(j);
}

void replay_json_change(const struct record *r, const struct rejudged *a, enum change c, struct buf *out)
{
    struct json j = {.out = out};
    char at[TIME_TEXT];
    time_format(r->time_us, true, at);
    json_object(&j, NULL);
    replay_text(&j, "change", change_name(c));
    replay_text(&j, "time", at);
    json_string(&j, "id", r->id, 0);
    json_string(&j, "user", r->user, 0);
    json_object(&j, "from");
    replay_text(&j, "verdict", r->accepted ? "accept" : "reject");
    replay_text(&j, "reason", reason_name(r->reason));
    json_string(&j, "rule", r->rule, 0);
    json_shadow(&j, "shadow", r->shadow);
    json_string(&j, "response_rule", r->response_rule, 0);
    json_end(&j);
    json_becomes(&j, a);
    json_end(&j);
}

static void json_rows(struct json *j, const char *key, const struct tally *t)
{
    size_t n;
    const struct tally_row **v = tally_sorted(t, &n);
    if (!v)
        j->out->failed = true;
    json_array(j, key);
    for (size_t i = 0; v && i < n; i++) {
        json_object(j, NULL);
        replay_text(j, "name", v[i]->name);
        for (int c = 0; c < CHANGE_COUNT; c++)
            if (v[i]->counts[c])
                json_int(j, change_name((enum change)c), (int64_t)v[i]->counts[c]);
        json_end(j);
    }
    json_end(j);
    free((void *)v);
}

void replay_json_summary(const struct replayed *sum, const char *rules_hash, struct buf *out)
{
    struct json j = {.out = out};
    char at[TIME_TEXT];
    json_object(&j, NULL);
    replay_text(&j, "rules", rules_hash);
    json_int(&j, "decisions", (int64_t)sum->decisions);
    json_int(&j, "broken", (int64_t)sum->broken);
    if (sum->decisions) {
        time_format(sum->first_us, true, at);
        replay_text(&j, "first", at);
        time_format(sum->last_us, true, at);
        replay_text(&j, "last", at);
    }
    for (int c = 0; c < CHANGE_COUNT; c++)
        json_int(&j, change_name((enum change)c), (int64_t)sum->counts[c]);
    json_rows(&j, "by_rule", &sum->rules);
    json_rows(&j, "by_user", &sum->users);
    json_end(&j);
}
