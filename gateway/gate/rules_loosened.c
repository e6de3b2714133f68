#include <stdarg.h>
#include <stdio.h>

#include "gate/rules.h"

enum { TEXT = 160 };

struct loosened {
    rules_loosening *each;
    void *arg;
    size_t n;
};

static void loosened_tell(struct loosened *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void loosened_tell(struct loosened *l, const char *format, ...)
{
    l->n++;
    if (!l->each)
        return;
    char text[TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    l->each(l->arg, text);
}

static void tell_forms(struct loosened *l, const struct request_rule *q)
{
    static const enum form FORMS[] = {FORM_UNSIGNED, FORM_EMPTY};
    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++)
        if (q->accept & FORMS[i])
            loosened_tell(l, "accepts %s requests", form_name(FORMS[i]));
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f <<= 1)
        if (q->shadow_accept & f & ~q->accept)
            loosened_tell(l, "lets %s requests pass and reports them (shadow_accept)", form_name((enum form)f));
}

static void tell_window(struct loosened *l, const struct checks *c)
{
    if (c->past_us > STANDARD_WINDOW_US)
        loosened_tell(l, "`time` may be %lld s in the past (standard: 5 s)", (long long)(c->past_us / US_PER_S));
    if (c->future_us > STANDARD_WINDOW_US)
        loosened_tell(l, "`time` may be %lld s in the future (standard: 5 s)", (long long)(c->future_us / US_PER_S));
}

static void tell_parameters(struct loosened *l, const struct checks *c)
{
    if (c->mode[CHECK_SIGNATURE] != MODE_OFF && c->min_hmac_bits < STANDARD_HMAC_BITS)
        loosened_tell(l, "`signature` may be cut to %u bits (standard: 256)", c->min_hmac_bits);
    if (c->mode[CHECK_TIME] != MODE_OFF)
        tell_window(l, c);
    if (c->mode[CHECK_KMS_URI] != MODE_OFF && c->kms_uri_host)
        loosened_tell(l, "`kms_uri` is compared by host alone");
    if (c->mode[CHECK_CLIENT_REQ_URL] != MODE_OFF && c->url_compare != URL_EXACT)
        loosened_tell(l, "`client_req_url` is compared %s",
                      c->url_compare == URL_PREFIX ? "by its beginning" : "normalized");
}

size_t request_rule_loosened(const struct request_rule *q, rules_loosening *each, void *arg)
{
    struct loosened l = {each, arg, 0};
    if (!request_rule_takes(q))
        return 0;
    tell_forms(&l, q);
    for (int c = 0; c < CHECK_COUNT; c++)
        if (q->checks.mode[c] != MODE_ENFORCE)
            loosened_tell(&l, "`%s` is %s", check_name((enum check)c),
                          q->checks.mode[c] == MODE_SHADOW ? "in shadow: it reports and refuses nobody" : "off");
    tell_parameters(&l, &q->checks);
    return l.n;
}
