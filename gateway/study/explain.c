#include "study/explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "study/explain_inside.h"

enum { TEXT_MAX = 2048 };

__attribute__((format(printf, 2, 0)))
static char *format_text(struct explanation *e, const char *format, va_list arguments)
{
    char text[TEXT_MAX];
    vsnprintf(text, sizeof text, format, arguments);
    size_t n = strlen(text);
    while (n > 0 && !str_is_utf8((struct str){text, n}) && strlen(text) == TEXT_MAX - 1)
        text[--n] = '\0';
    char *copy = strdup(text);
    e->failed |= !copy;
    return copy;
}

char *explain_text(struct explanation *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_text(e, format, arguments);
    va_end(arguments);
    return text;
}

void explain_sentence(struct explanation *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_text(e, format, arguments);
    va_end(arguments);
    if (text && !strings_add(&e->diagnosis, str_z(text)))
        e->failed = true;
    free(text);
}

struct shown explain_shown(struct str s)
{
    static const struct shown NONE = {"(none)"}, EMPTY = {"(empty)"};
    struct shown out;
    if (!s.p || !s.n)
        return s.p ? EMPTY : NONE;
    size_t n = s.n < sizeof out.z - 4 ? s.n : sizeof out.z - 4;
    while (n < s.n && n > 0 && ((unsigned char)s.p[n] & 0xC0) == 0x80) /* not inside a character */
        n--;
    snprintf(out.z, sizeof out.z, "%.*s%s", (int)n, s.p, n < s.n ? "..." : "");
    return out;
}

/* The members with commas between, as many as there is room for. */
static struct shown join(const struct strings *s)
{
    struct shown out = {""};
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const int more = snprintf(out.z + n, sizeof out.z - n, "%s%s", i ? ", " : "", s->v[i]);
        if (more < 0 || (size_t)more >= sizeof out.z - n) {
            snprintf(out.z + (n < sizeof out.z - 5 ? n : sizeof out.z - 5), 5, " ...");
            break;
        }
        n += (size_t)more;
    }
    return out;
}

static struct shown join_networks(const struct request_match *m)
{
    struct shown out = {""};
    size_t n = 0;
    for (size_t i = 0; i < m->source_count && n + IP_TEXT + 8 < sizeof out.z; i++) {
        char ip[IP_TEXT];
        const struct cidr *c = m->source + i;
        ip_format(&c->base, ip);
        const unsigned bits = strchr(ip, ':') ? c->bits : c->bits - 96;
        n += (size_t)snprintf(out.z + n, sizeof out.z - n, "%s%s/%u", i ? ", " : "", ip, bits);
    }
    return out;
}

static struct shown join_forms(unsigned forms)
{
    struct shown out = {""};
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f *= 2)
        if (forms & f) {
            const size_t n = strlen(out.z);
            snprintf(out.z + n, sizeof out.z - n, "%s%s", n ? ", " : "", form_name((enum form)f));
        }
    return out;
}

/* What stands where a rule looked; `expected`: "expected ", or what else is said of what it names. */
static char *match_miss(struct explanation *e, enum rule_miss miss, const struct request_match *m,
                        const struct request_facts *f, const char *expected)
{
    char ip[IP_TEXT];
    const struct {
        enum rule_miss miss;
        const char *what;
        struct str found;
        const struct strings *globs;
    } globs[] = {{MISS_PATH, "path", f->path, &m->path},
                 {MISS_PATH_USER, "path_user", f->path_user, &m->path_user},
                 {MISS_USER, "user", f->user, &m->user},
                 {MISS_CLIENT_ID, "client_id", f->client_id, &m->client_id},
                 {MISS_DEVICE_ID, "device_id", f->device_id, &m->device_id}};
    for (size_t i = 0; i < sizeof globs / sizeof *globs; i++)
        if (globs[i].miss == miss)
            return explain_text(e, "%s is %s, %s%s", globs[i].what, explain_shown(globs[i].found).z, expected,
                                join(globs[i].globs).z);
    if (miss == MISS_FORM)
        return explain_text(e, "form is %s, %s%s", form_name(f->form), expected, join_forms(m->forms).z);
    ip_format(f->source, ip);
    return explain_text(e, "source is %s, %s%s", ip, expected, join_networks(m).z);
}

static char *why_not(struct explanation *e, const struct request_rule *q, const struct request_facts *f)
{
    char day[TIME_TEXT];
    const enum rule_miss miss = rules_miss(q, f);
    switch (miss) {
    case MISS_NONE:
        return NULL;
    case MISS_SINCE:
        time_format(q->since_us, false, day);
        return explain_text(e, "begins on %.10s (since)", day);
    case MISS_UNTIL:
        time_format(q->until_us - 1, false, day);
        return explain_text(e, "ended with %.10s (until)", day);
    case MISS_NOT:
        return match_miss(e, rules_excepted(q, f), &q->except, f, "`not` has ");
    default:
        return match_miss(e, miss, &q->match, f, "expected ");
    }
}

static void explain_rules(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    const struct request_facts facts = gate_facts(j, in->now_us);
    e->rules = calloc(j->rules->request_count + 1, sizeof *e->rules);
    if (!e->rules) {
        e->failed = true;
        return;
    }
    for (size_t i = 0; i < j->rules->request_count; i++) {
        struct explained_rule *x = e->rules + e->rule_count++;
        x->rule = j->rules->requests + i;
        x->matches = x->rule == j->rule;
        if (x->matches)
            return;
        x->why = why_not(e, x->rule, &facts);
    }
}

static void show_schema(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    const struct str version = j->request.version;
    if (x->result == CHECK_PASS)
        x->found = version.p ? explain_text(e, "a valid KmsRequest, Version %s", explain_shown(version).z)
                             : explain_text(e, "a valid KmsRequest without Version");
    x->expected = explain_text(e, "a valid request, Version one of %s, or none", j->rule->checks.versions);
}

struct shown explain_canonicalizations(unsigned bits)
{
    struct shown out;
    static const char *const NAMES[] = {"c14n",          "exc-c14n",          "c14n11",
                                        "c14n-comments", "exc-c14n-comments", "c14n11-comments"};
    size_t n = 0;
    out.z[0] = '\0';
    for (unsigned i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (bits & 1u << i)
            n += (size_t)snprintf(out.z + n, sizeof out.z - n, "%s%s", n ? ", " : "", NAMES[i]);
    return out;
}

static const char *state(const struct key *k, int64_t now_us)
{
    return k->state != KEY_REVOKED && !key_usable(k, now_us) ? "expired" : key_state_name(k->state);
}

static void show_signature(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    const struct checks *c = &j->rule->checks;
    const struct key *k = j->ring_loaded ? keyring_find(&j->ring, j->sig.key_name) : NULL;
    if (x->result == CHECK_PASS && k)
        x->found = explain_text(e, "valid, by %s %s (%s)", k->type == KEY_INK ? "InK" : "TrK",
                                explain_shown(k->id).z, state(k, in->now_us));
    x->expected = explain_text(e, "HMAC-SHA256, at least %u bits, %s, by a key in use of %s", c->min_hmac_bits,
                               explain_canonicalizations(c->canonicalization).z, explain_shown(j->request.user_uri).z);
}

static void show_key_policy(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    if (x->result == CHECK_PASS)
        x->found = explain_text(e, "Signature-ID %s, TrK-ID %s", explain_shown(j->request.signature_id).z,
                                explain_shown(j->request.trk_id).z);
    x->expected = explain_text(e, "Signature-ID the same as KeyName (%s), %s, TrK-ID %sa TrK in use",
                               explain_shown(j->sig.key_name).z,
                               keyring_has_ink(&j->ring) ? "an InK" : "the TrK: the user has no InK",
                               j->rule->checks.trk_id_required ? "" : "none or ");
}

static void show_kms_uri(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    x->found = explain_text(e, "%s", explain_shown(j->request.kms_uri).z);
    x->expected = explain_text(e, "%s%s", join(&j->rules->kms_uris).z,
                               j->rule->checks.kms_uri_host ? " (compare: host)" : "");
}

static void show_time(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    const struct checks *c = &j->rule->checks;
    const int64_t skew = j->decision.skew_us;
    char from[TIME_TEXT], to[TIME_TEXT];
    time_format(in->now_us - c->past_us, true, from);
    time_format(in->now_us + c->future_us, true, to);
    if (skew == TIME_NONE)
        x->found = explain_text(e, "%s", explain_shown(j->request.time).z);
    else
        x->found = explain_text(e, "%s (%s %s)", explain_shown(j->request.time).z, explain_length(skew).z,
                                skew >= 0 ? "ago" : "ahead");
    x->expected = explain_text(e, "%s to %s%s", from, to, c->zone_refuse ? ", with a zone" : "");
}

static void show_client_req_url(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    static const char *const COMPARE[] = {
        [URL_EXACT] = "", [URL_NORMALIZED] = " (compare: normalized)", [URL_PREFIX] = " (compare: prefix)"};
    const struct judgement *j = in->j;
    const struct strings *bases = j->gate->public_url;
    struct buf urls BUF_CLEANUP = BUF_INIT(TEXT_MAX);
    for (size_t i = 0; i < bases->n; i++) {
        buf_z(&urls, i ? " or " : "");
        buf_z(&urls, bases->v[i]);
        buf_str(&urls, j->head.target);
    }
    x->found = explain_text(e, "%.*s", (int)(j->request.client_req_url.n > TEXT_MAX / 2 ? TEXT_MAX / 2
                                                                                       : j->request.client_req_url.n),
                            j->request.client_req_url.p ? j->request.client_req_url.p : "(none)");
    x->expected = explain_text(e, "%s%s", urls.p ? urls.p : "", COMPARE[j->rule->checks.url_compare]);
}

static void show_path_user(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    const struct judgement *j = in->j;
    const struct strings *also = &j->rule->checks.also;
    if (j->resource.kind != RESOURCE_KEYPROV || !j->resource.user_raw.p) {
        x->found = explain_text(e, "a path that names no user");
        x->expected = explain_text(e, "nothing");
        return;
    }
    x->found = explain_text(e, "%s", explain_shown(buf_view(&j->path_user)).z);
    x->expected = explain_text(e, "%s%s%s", explain_shown(j->request.user_uri).z, also->n ? ", or also " : "",
                               also->n ? join(also).z : "");
}

static void show_replay(const struct explain_in *in, struct explanation *e, struct explained_check *x)
{
    (void)in;
    x->found = explain_text(e, "not judged offline: only the running gateway remembers what it accepted");
    x->expected = explain_text(e, "a request that was not accepted before");
}

static void explain_checks(const struct explain_in *in, struct explanation *e)
{
    static void (*const SHOW[CHECK_COUNT])(const struct explain_in *, struct explanation *,
                                           struct explained_check *) = {
        [CHECK_SCHEMA] = show_schema,         [CHECK_SIGNATURE] = show_signature,
        [CHECK_KEY_POLICY] = show_key_policy, [CHECK_KMS_URI] = show_kms_uri,
        [CHECK_TIME] = show_time,             [CHECK_CLIENT_REQ_URL] = show_client_req_url,
        [CHECK_PATH_USER] = show_path_user,   [CHECK_REPLAY] = show_replay};
    const struct decision *d = &in->j->decision;
    for (size_t c = 0; c < CHECK_COUNT; c++) {
        struct explained_check *x = e->checks + c;
        x->mode = in->j->rule->checks.mode[c];
        x->result = d->checks[c];
        const bool judged = x->result == CHECK_PASS || x->result == CHECK_FAIL || x->result == CHECK_SHADOW_FAIL;
        if (judged || (c == CHECK_REPLAY && in->j->form == FORM_SIGNED && x->result == CHECK_SKIP))
            SHOW[c](in, e, x);
        if (judged && !x->found && d->found[c].text[0])
            x->found = explain_text(e, "%s", d->found[c].text);
    }
    e->has_checks = true;
}

/* What fails and is told by no sentence yet: the cause is what was found there. */
static void explain_rest(struct explanation *e, const bool told[CHECK_COUNT])
{
    for (size_t c = 0; c < CHECK_COUNT; c++) {
        const struct explained_check *x = e->checks + c;
        if ((x->result != CHECK_FAIL && x->result != CHECK_SHADOW_FAIL) || told[c] || !x->found)
            continue;
        const bool said = strstr(x->found, "expected ") != NULL; /* what exactly */
        explain_sentence(e, "%s: %s%s%s", check_name((enum check)c), x->found, said ? "" : "; expected ",
                         said || !x->expected ? "" : x->expected);
    }
}

bool explain(const struct explain_in *in, struct explanation *out)
{
    const struct judgement *j = in->j;
    const struct decision *d = &j->decision;
    *out = (struct explanation){0};
    if (j->form && d->judged && (j->rule || d->reason == REASON_RULE_NONE))
        explain_rules(in, out);
    else
        out->stage = explain_text(out, "%s", d->found[CHECK_SCHEMA].text);
    struct detail bytes;
    if ((d->reason == REASON_XML_MALFORMED || d->reason == REASON_XML_FORBIDDEN) && explain_bytes(in->body, &bytes))
        explain_sentence(out, "%s", bytes.text);
    bool judged = false;
    for (size_t c = 0; c < CHECK_COUNT; c++)
        judged |= d->checks[c] != CHECK_NONE;
    if (j->rule && judged) {
        explain_checks(in, out);
        explain_ways(in, out);
        explain_signature(in, out);
        const size_t of_signature = out->diagnosis.n;
        explain_time(in, out);
        const size_t of_time = out->diagnosis.n;
        explain_url(in, out);
        const bool profile = d->reason == REASON_SIGNATURE_PROFILE || /* whose values are no cause: they may be right */
                             d->shadow[CHECK_SIGNATURE] == REASON_SIGNATURE_PROFILE;
        const bool told[CHECK_COUNT] = {[CHECK_SIGNATURE] = of_signature > 0 && !profile,
                                        [CHECK_TIME] = of_time > of_signature,
                                        [CHECK_CLIENT_REQ_URL] = out->diagnosis.n > of_time};
        explain_rest(out, told);
    }
    if (!d->accepted && !judged && d->reason == REASON_RULE_NONE)
        explain_sentence(out, "no rule matches the request");
    else if (!d->accepted && !judged && j->rule && j->rule->deny)
        explain_sentence(out, "rule `%s` denies all that it matches: %s", j->rule->id, j->rule->why);
    else if (!d->accepted && !judged && j->rule && j->form)
        explain_sentence(out, "the request is %s; rule `%s` accepts %s", form_name(j->form), j->rule->id,
                         join_forms(request_rule_takes(j->rule)).z);
    if (d->shadow[SHADOW_FORM] != REASON_OK)
        explain_sentence(out, "the request is %s: rule `%s` lets it through by `shadow_accept` alone, and tells of it",
                         form_name(j->form), j->rule->id);
    explain_advise(in, out);
    if (!out->failed)
        return true;
    explanation_free(out);
    return false;
}

void explanation_free(struct explanation *e)
{
    for (size_t i = 0; i < e->rule_count; i++)
        free(e->rules[i].why);
    free(e->rules);
    for (size_t c = 0; c < CHECK_COUNT; c++) {
        free(e->checks[c].found);
        free(e->checks[c].expected);
    }
    free(e->stage);
    strings_free(&e->diagnosis);
    for (size_t i = 0; i < e->advice_count; i++) {
        free(e->advice[i].place);
        free(e->advice[i].change);
        free(e->advice[i].cost);
        free(e->advice[i].rule);
    }
    free(e->advice);
    *e = (struct explanation){0};
}
