#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "study/explain_inside.h"

/*
 * A loosening as a rule of its own: it holds for this user or this source alone, on this resource, and it ends. What is
 * a stranger's in it is quoted, and is left out where it would match more than it says (`*` is a glob's).
 */
enum { EXCEPTION_DAYS = 30, EXCEPTION_MAX = 8192 };

static bool rule_takes_text(struct str s)
{
    return s.n && s.n <= 1024 && text_is_plain(s) && !memchr(s.p, '*', s.n);
}

bool explain_quoted(struct str s, struct buf *out)
{
    struct json yaml = {.out = out}; /* a JSON string is one of YAML, too */
    if (!rule_takes_text(s))
        return false;
    size_t digits = 0;
    while (digits < s.n && strchr("0123456789.", s.p[digits]))
        digits++;
    if (digits == s.n) /* a version */
        buf_str(out, s);
    else
        json_string(&yaml, NULL, s, 0);
    return !out->failed;
}

static bool rule_is_loopback(const struct ip *ip)
{
    char text[IP_TEXT];
    ip_format(ip, text);
    return str_starts(str_z(text), STR("127.")) || str_eq_z(str_z(text), "::1");
}

/* False when nothing bounds the rule: then there is none. */
static bool rule_match(const struct judgement *j, struct buf *out)
{
    char ip[IP_TEXT];
    ip_format(&j->head.source, ip);
    const bool user = rule_takes_text(j->request.user_uri);
    const bool address = strcmp(ip, "unix") != 0 && strcmp(ip, "unknown") != 0;
    /* of an explanation whose source was not given nothing is known of it; a signed request has its user's proof */
    const bool source = address && !(user && j->form == FORM_SIGNED && rule_is_loopback(&j->head.source));
    buf_z(out, "    match:\n");
    if (user) {
        buf_z(out, "      user: ");
        (void)!explain_quoted(j->request.user_uri, out);
        buf_char(out, '\n');
    }
    if (source)
        buf_printf(out, "      source: [%s/%d]\n", ip, strchr(ip, ':') ? 128 : 32);
    if ((user || source) && rule_takes_text(j->resource.path) && !memchr(j->resource.path.p, '%', j->resource.path.n)) {
        buf_z(out, "      path: ");
        (void)!explain_quoted(j->resource.path, out);
        buf_char(out, '\n');
    }
    return user || source;
}

char *explain_exception(const struct explain_in *in, struct explanation *e, const char *settings)
{
    const struct judgement *j = in->j;
    struct buf out BUF_CLEANUP = BUF_INIT(EXCEPTION_MAX);
    char until[TIME_TEXT];
    time_format(time_now_us() + EXCEPTION_DAYS * INT64_C(86400) * US_PER_S, false, until);
    buf_printf(&out, "  - id: %s-exception\n    why: until this client is mended\n    until: %.10s\n", j->rule->id,
               until);
    const bool bounded = rule_match(j, &out);
    buf_printf(&out, "    %s\n    # and what rule `%s` says besides, such as forward\n", settings, j->rule->id);
    char *text = bounded && !out.failed ? str_dup(buf_view(&out)) : NULL;
    e->failed |= bounded && !text;
    return text;
}
