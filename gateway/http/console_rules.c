#include "http/console.h"
#include "http/server.h"
#include "http/census.h"

enum { HEIRS_TOLD = 20, DATE_CHARS = sizeof "2026-11-29" - 1 };

static void put_day(struct json *j, const char *key, int64_t us)
{
    char text[TIME_TEXT];
    if (us == TIME_NONE)
        return;
    time_format(us, false, text);
    json_string(j, key, (struct str){text, DATE_CHARS}, 0);
}

static void put_phrase(void *arg, const char *phrase)
{
    json_string(arg, NULL, str_z(phrase), 0);
}

static void put_forms(struct json *j, const char *key, unsigned forms)
{
    json_array(j, key);
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f <<= 1)
        if (forms & f)
            json_string(j, NULL, str_z(form_name((enum form)f)), 0);
    json_end(j);
}

static void put_counts(struct json *j, const char *key, const uint32_t *v, size_t n)
{
    json_array(j, key);
    for (size_t i = 0; i < n; i++)
        json_int(j, NULL, v[i]);
    json_end(j);
}

static void put_use(struct server *s, const struct request_rule *q, int64_t now_us, struct json *j)
{
    struct census_use u;
    if (!census_use(s->census, str_z(q->id), now_us, &u))
        return;
    json_object(j, "hits");
    json_int(j, "accepted", (int64_t)u.accepted);
    json_int(j, "rejected", (int64_t)u.rejected);
    console_time(j, "first", u.first_us);
    console_time(j, "last", u.last_us);
    put_counts(j, "hours", u.hours, sizeof u.hours / sizeof *u.hours);
    put_counts(j, "days", u.days, sizeof u.days / sizeof *u.days);
    json_end(j);
}

static void put_heirs(const struct rules *r, size_t i, struct json *j)
{
    bool all = false;
    size_t n = 0;
    const struct request_rule *heir;
    json_array(j, "then");
    for (size_t at = i; n < HEIRS_TOLD && (heir = rules_request_heir(r, i, &at, &all)); n++)
        json_string(j, NULL, str_z(heir->id), 0);
    json_end(j);
    json_bool(j, "then_all", all);
}

static void put_request_rule(struct server *s, const struct rules *r, size_t i, int64_t now_us, struct json *j)
{
    const struct request_rule *q = &r->requests[i];
    json_object(j, NULL);
    json_string(j, "id", str_z(q->id), 0);
    json_int(j, "line", q->line);
    json_string(j, "why", str_z(q->why), 0);
    put_day(j, "since", q->since_us);
    put_day(j, "until", q->until_us == TIME_NONE ? TIME_NONE : q->until_us - 1);
    json_string(j, "state", q->since_us != TIME_NONE && q->since_us > now_us    ? STR("not yet")
                            : q->until_us != TIME_NONE && q->until_us <= now_us ? STR("ended")
                                                                                : STR("in force"), 0);
    put_heirs(r, i, j);
    put_forms(j, "accept", q->deny ? 0 : q->accept);
    json_bool(j, "deny", q->deny);
    json_array(j, "loosened");
    (void)request_rule_loosened(q, put_phrase, j);
    json_end(j);
    json_int(j, "past_ms", q->checks.past_us / 1000);
    json_int(j, "future_ms", q->checks.future_us / 1000);
    put_use(s, q, now_us, j);
    json_end(j);
}

void console_rules(struct server *s, int64_t now_us, struct json *j)
{
    pthread_mutex_lock(&s->lock);
    struct rules *r = rules_ref(s->rules);
    pthread_mutex_unlock(&s->lock);
    json_object(j, NULL);
    json_string(j, "file", str_z(r->file), 0);
    json_string(j, "hash", str_z(r->hash), 0);
    console_time(j, "since", census_watched(s->census));
    json_array(j, "requests");
    for (size_t i = 0; i < r->request_count; i++)
        put_request_rule(s, r, i, now_us, j);
    json_end(j);
    json_array(j, "responses");
    for (size_t i = 0; i < r->response_count; i++) {
        json_object(j, NULL);
        json_string(j, "id", str_z(r->responses[i].id), 0);
        json_int(j, "line", r->responses[i].line);
        json_end(j);
    }
    json_end(j);
    json_end(j);
    rules_unref(r);
}
