#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/timestamp.h"
#include "base/yaml.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "cmd/screen.h"
#include "study/which.h"

struct which_options {
    const char *rules, *user, *source, *path, *form, *client_id, *at, *format;
};

/* What a rule says, for people. */
struct which_page {
    const struct which *w;
    struct screen screen;
    struct buf *out;
};

static void which_say(const struct which_page *p, enum tone tone, const struct buf *line)
{
    p->out->failed |= line->failed;
    screen_line(&p->screen, line->p ? buf_view(line) : STR(""), (struct screen_line){.tone = tone, .next = 4}, p->out);
}

/* Settings, line by line or as members of an object. */
struct which_settings {
    const struct which_page *page; /* NULL: JSON */
    struct json *json;
};

/* Where it comes from stands beside it, if there is room. */
static void which_compose(const struct which_page *p, const char *path, struct str value, const char *origin,
                          struct buf *out)
{
    enum { COLUMN = 56, BETWEEN = 4 };
    if (!p->screen.terminal) {
        setting_print(out, path, value, origin);
        out->n -= out->n > 0; /* its line end */
        return;
    }
    const size_t width = screen_width(&p->screen), beside = strlen(origin) + BETWEEN;
    const size_t column = width < COLUMN + beside ? width - (beside < width ? beside : width) : COLUMN;
    buf_printf(out, "%s: ", path);
    buf_str(out, value);
    const size_t used = screen_columns(buf_view(out));
    buf_printf(out, "%*s  # %s", used < column ? (int)(column - used) : 0, "", origin);
}

static void which_setting(void *arg, const char *path, struct str value, int line)
{
    const struct which_settings *s = arg;
    if (s->page) {
        struct buf origin BUF_CLEANUP = BUF_INIT(8192), indented BUF_CLEANUP = BUF_INIT(1024),
                          text BUF_CLEANUP = BUF_INIT(1 << 20);
        buf_printf(&origin, line ? "%s:%d" : "default", s->page->w->rules->file, line);
        buf_printf(&indented, "  %s", path);
        which_compose(s->page, indented.p ? indented.p : "", value, origin.p ? origin.p : "", &text);
        which_say(s->page, line ? TONE_NONE : TONE_FAINT, &text);
        return;
    }
    json_object(s->json, NULL);
    json_string(s->json, "key", str_z(path), 0);
    json_string(s->json, "value", value, 0);
    if (line)
        json_int(s->json, "line", line);
    json_end(s->json);
}

static void which_print_settings(const struct which_page *p, bool response, size_t i)
{
    struct which_settings s = {.page = p};
    p->out->failed |= !rules_settings(p->w->rules, response, i, which_setting, &s);
}

static void which_json_settings(const struct which *w, bool response, size_t i, struct json *j)
{
    struct which_settings s = {.json = j};
    json_array(j, "settings");
    j->out->failed |= !rules_settings(w->rules, response, i, which_setting, &s);
    json_end(j);
}

static size_t which_above(const struct which *w)
{
    return w->rule ? (size_t)(w->rule - w->rules->requests) : w->rules->request_count;
}

static size_t which_reply_above(const struct which *w, size_t i)
{
    const struct response_rule *p = w->replies[i].rule;
    return p ? (size_t)(p - w->rules->responses) : w->rules->response_count;
}

static void which_print_request(const struct which_page *p)
{
    const struct which *w = p->w;
    const struct rules *r = w->rules;
    for (size_t i = 0; i < which_above(w); i++) {
        struct buf line BUF_CLEANUP = BUF_INIT(1 << 20);
        buf_printf(&line, "%s:%d: not `%s`: ", r->file, r->requests[i].line, r->requests[i].id);
        which_request_miss(w, r->requests + i, &line);
        which_say(p, TONE_FAINT, &line);
    }
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 20);
    if (!w->rule)
        buf_printf(&line, "request rule: none matches; refused (%s)", reason_name(w->reason));
    else if (w->reason != REASON_OK)
        buf_printf(&line, "%s:%d: request rule `%s`: refused (%s)", r->file, w->rule->line, w->rule->id,
                   reason_name(w->reason));
    else
        buf_printf(&line, "%s:%d: request rule `%s`: %s requests are accepted%s, if the checks hold", r->file,
                   w->rule->line, w->rule->id, form_name(w->facts.form),
                   w->shadow_form ? " by `shadow_accept`" : "");
    which_say(p, w->reason != REASON_OK ? TONE_BAD : w->shadow_form ? TONE_WARN : TONE_GOOD, &line);
    if (w->rule)
        which_print_settings(p, false, which_above(w));
}

/* The settings of a response rule stand once, where it is met first. */
static bool which_told(const struct which *w, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (w->replies[k].rule == w->replies[i].rule)
            return true;
    return false;
}

static void which_print_reply(const struct which_page *page, size_t i)
{
    const struct which *w = page->w;
    const struct rules *r = w->rules;
    const struct response_rule *p = w->replies[i].rule;
    const char *message = kms_message_name(w->replies[i].message);
    for (size_t k = 0; k < which_reply_above(w, i); k++) {
        struct buf line BUF_CLEANUP = BUF_INIT(1 << 20);
        buf_printf(&line, "%s:%d: not `%s` for a reply with %s: ", r->file, r->responses[k].line, r->responses[k].id,
                   message);
        which_response_miss(w, r->responses + k, i, &line);
        which_say(page, TONE_FAINT, &line);
    }
    struct buf line BUF_CLEANUP = BUF_INIT(1 << 20);
    if (p)
        buf_printf(&line, "%s:%d: response rule `%s` for a reply with %s", r->file, p->line, p->id, message);
    else
        buf_printf(&line, "response rule for a reply with %s: none fits; upstream.invalid", message);
    which_say(page, p ? TONE_GOOD : TONE_BAD, &line);
    if (p && !which_told(w, i))
        which_print_settings(page, true, which_reply_above(w, i));
}

static void which_print(const struct which_page *p)
{
    which_print_request(p);
    for (size_t i = 0; i < p->w->reply_count && p->w->reason == REASON_OK; i++)
        which_print_reply(p, i);
}

static void which_json_rule(struct json *j, const char *key, const char *id, int line)
{
    json_object(j, key);
    json_string(j, "id", str_z(id), 0);
    json_int(j, "line", line);
}

static void which_json_miss(struct json *j, const char *id, int line, const struct buf *why)
{
    which_json_rule(j, NULL, id, line);
    json_string(j, "why", buf_view(why), 0);
    json_end(j);
}

static void which_json_reply(const struct which *w, size_t i, struct json *j)
{
    const struct rules *r = w->rules;
    json_object(j, NULL);
    json_string(j, "message", str_z(kms_message_name(w->replies[i].message)), 0);
    if (w->replies[i].rule) {
        which_json_rule(j, "rule", w->replies[i].rule->id, w->replies[i].rule->line);
        which_json_settings(w, true, which_reply_above(w, i), j);
        json_end(j);
    }
    json_array(j, "not");
    for (size_t k = 0; k < which_reply_above(w, i); k++) {
        struct buf why BUF_CLEANUP = BUF_INIT(64 * 1024);
        which_response_miss(w, r->responses + k, i, &why);
        which_json_miss(j, r->responses[k].id, r->responses[k].line, &why);
    }
    json_end(j);
    json_end(j);
}

static void which_json(const struct which *w, struct buf *out)
{
    struct json json = {.out = out}, *j = &json;
    const struct rules *r = w->rules;
    json_object(j, NULL);
    json_string(j, "file", str_z(r->file), 0);
    json_string(j, "verdict", w->reason == REASON_OK ? STR("accept") : STR("reject"), 0);
    json_string(j, "reason", str_z(reason_name(w->reason)), 0);
    if (w->shadow_form)
        json_bool(j, "shadow_accept", true);
    if (w->rule) {
        which_json_rule(j, "request", w->rule->id, w->rule->line);
        which_json_settings(w, false, which_above(w), j);
        json_end(j);
    }
    json_array(j, "not");
    for (size_t i = 0; i < which_above(w); i++) {
        struct buf why BUF_CLEANUP = BUF_INIT(64 * 1024);
        which_request_miss(w, r->requests + i, &why);
        which_json_miss(j, r->requests[i].id, r->requests[i].line, &why);
    }
    json_end(j);
    json_array(j, "responses");
    for (size_t i = 0; i < w->reply_count && w->reason == REASON_OK; i++)
        which_json_reply(w, i, j);
    json_end(j);
    json_end(j);
    buf_char(out, '\n');
}

static int which_answer(const struct which *w, bool json)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 << 20);
    bool answered = w->reason == REASON_OK;
    for (size_t i = 0; i < w->reply_count; i++)
        answered = answered && w->replies[i].rule;
    const struct which_page page = {.w = w, .screen = screen_of(STDOUT_FILENO), .out = &out};
    if (json)
        which_json(w, &out);
    else
        which_print(&page);
    if (out.failed || fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout) != 0) {
        complain("which: out of memory, or standard output cannot be written");
        return EXIT_NEGATIVE;
    }
    return answered ? EXIT_DONE : EXIT_NEGATIVE;
}

static bool which_read(const struct which_options *q, struct which_asks *asks)
{
    bool has_zone = false;
    *asks = (struct which_asks){.user = str_z(q->user), .client_id = str_z(q->client_id), .path = str_z(q->path),
                                .form = FORM_SIGNED, .now_us = time_now_us()};
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f *= 2)
        if (str_eq_z(str_z(q->form), form_name((enum form)f)))
            asks->form = (enum form)f;
    return (!q->source || ip_parse(str_z(q->source), &asks->source)) &&
           (!q->at || (time_parse(str_z(q->at), &asks->now_us, &has_zone) && has_zone));
}

static int which_run(const void *given)
{
    const struct which_options *q = given;
    struct which_asks asks;
    struct which w;
    struct detail why = {""};
    struct faults faults = {0};
    if (!which_read(q, &asks))
        return usage_error(&COMMAND_WHICH, "--source must be an address, --at a time with a zone");
    struct rules *rules = rules_load(q->rules, &faults);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    if (!rules)
        return EXIT_NEGATIVE;
    int code = EXIT_USAGE;
    if (which_ask(rules, &asks, &w, &why))
        code = which_answer(&w, format_is_json(q->format));
    else
        usage_error(&COMMAND_WHICH, "--path: found `%s`: %s; expected a resource such as "
                    "/keymanagement/identity/v1/init", q->path, why.text);
    which_free(&w);
    rules_unref(rules);
    return code;
}

static const struct command_option WHICH_OPTIONS[] = {
    {.name = "rules", .argument = "RULES.yaml", .type = VALUE_FILE, .required = true,
     .at = offsetof(struct which_options, rules), .help = "The rules to ask."},
    {.name = "user", .argument = "URI", .type = VALUE_URI, .at = offsetof(struct which_options, user),
     .help = "The user of the request. Without it no `user` of a rule matches; so with the others."},
    {.name = "source", .argument = "IP", .type = VALUE_IP, .at = offsetof(struct which_options, source),
     .help = "The address that the request comes from."},
    {.name = "path", .argument = "PATH", .at = offsetof(struct which_options, path),
     .help = "The path that the request is posted to. Without it the response rules of all messages are shown."},
    {.name = "form", .argument = "signed|unsigned|empty", .type = VALUE_CHOICE, .preset = "signed",
     .at = offsetof(struct which_options, form), .help = "The form of the request."},
    {.name = "client-id", .argument = "ID", .at = offsetof(struct which_options, client_id),
     .help = "The ClientId of the request."},
    {.name = "at", .argument = "TIME", .type = VALUE_TIME, .at = offsetof(struct which_options, at),
     .help = "When the request comes, which `since` and `until` depend on. Without it: now."},
    OPTION_FORMAT(struct which_options, format)};
const struct command COMMAND_WHICH = {
    .name = "which", .does = "show which rules a request meets",
    .about = "Shows the request rule and the response rule that a request with these facts meets, why it does not meet "
             "those above, and each setting in effect with the line that it stands in. No message is judged: that is "
             "what `kmsgate explain` does.",
    .exits = "0 a rule accepts the form of the request, and a response rule fits; 1 refused, no response rule fits, or "
             "the rules are at fault",
    .examples = "kmsgate which --rules rules.yaml --user sip:alice@example.org --source 10.20.0.7\n",
    COMMAND_OPTIONS(WHICH_OPTIONS), .size = sizeof(struct which_options), .run = which_run};
