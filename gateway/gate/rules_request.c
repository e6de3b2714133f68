#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "base/uri.h"
#include "gate/rules_forward.h"
#include "gate/rules_internal.h"
#include "message/xmlsig.h"

#define DAY_US (86400 * US_PER_S)
#define IN_CHECKS(member) .offset = offsetof(struct checks, member)
#define IN_MATCH(member) .offset = offsetof(struct request_match, member)
#define IN_FORWARD(member) .offset = offsetof(struct forward, member)
#define IN_RULE(member) .offset = offsetof(struct request_rule, member)

static const struct yaml_choice FORMS[] = {
    {"signed", FORM_SIGNED}, {"unsigned", FORM_UNSIGNED}, {"empty", FORM_EMPTY}, {NULL, 1}};
static const struct yaml_choice MODES[] = {
    {"enforce", MODE_ENFORCE}, {"shadow", MODE_SHADOW}, {"off", MODE_OFF}, {NULL, 1}};
static const struct yaml_choice C14NS[] = {
    {"c14n", XMLSIG_C14N},
    {"exc-c14n", XMLSIG_EXC_C14N},
    {"c14n11", XMLSIG_C14N11},
    {"c14n-comments", XMLSIG_C14N_COMMENTS},
    {"exc-c14n-comments", XMLSIG_EXC_C14N_COMMENTS},
    {"c14n11-comments", XMLSIG_C14N11_COMMENTS},
    {NULL, 1}};
static const struct yaml_choice TRK_IDS[] = {{"optional", false}, {"required", true}, {NULL, 0}};
static const struct yaml_choice URI_COMPARE[] = {{"exact", false}, {"host", true}, {NULL, 1}};
static const struct yaml_choice URL_COMPARE[] = {
    {"exact", URL_EXACT}, {"normalized", URL_NORMALIZED}, {"prefix", URL_PREFIX}, {NULL, 1}};
static const struct yaml_choice BODIES[] = {{"request", FORWARD_REQUEST},
                                            {"signed", FORWARD_SIGNED},
                                            {"empty", FORWARD_EMPTY},
                                            {"json", FORWARD_JSON},
                                            {NULL, 0}};
static const struct yaml_choice EXTENSIONS[] = {{"keep", false}, {"drop", true}, {NULL, 0}};
static const struct yaml_choice METHODS[] = {{"POST", 0}, {"GET", 1}, {"PUT", 2}, {NULL, 0}};
static const struct yaml_range WINDOW = {0, 7 * DAY_US};

/* schema: the versions, one text with spaces between. */
static void read_versions(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct strings v = {0};
    struct buf b BUF_CLEANUP = BUF_INIT(4096);
    yaml_texts(in, node, &v, arg);
    for (size_t i = 0; i < v.n; i++) {
        if (strspn(v.v[i], "0123456789.") != strlen(v.v[i]))
            yaml_fault(in, node, "found %s, expected versions such as 1.1.0", show(str_z(v.v[i])).z);
        buf_printf(&b, "%s%s", i ? " " : "", v.v[i]);
    }
    char *joined = b.n && !b.failed ? str_dup(buf_view(&b)) : NULL;
    if (joined) {
        free(*(char **)to);
        *(char **)to = joined;
    } else if (v.n) {
        yaml_fault(in, node, "versions of more than 4096 bytes, or no memory");
    }
    strings_free(&v);
}

static void read_bits(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    static const struct yaml_range BITS = {128, 256};
    unsigned bits = 0;
    (void)arg;
    yaml_count(in, node, &bits, &BITS);
    if (bits % 8)
        yaml_fault(in, node, "found %u, expected a number of bits that is a multiple of 8", bits);
    else if (bits)
        *(unsigned *)to = bits;
}

/* A choice of two that is kept as a bool. */
static void read_bool(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    int chosen = *(bool *)to;
    yaml_choose(in, node, &chosen, arg);
    *(bool *)to = chosen;
}

/* `to` is a struct checks. */
static void read_zone(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct checks *c = to;
    const struct str z = node->text;
    (void)arg;
    if (!yaml_is_scalar(in, node, "UTC, refuse, an offset such as \"+01:00\" or a zone such as Europe/Paris"))
        return;
    zone_free(c->zone);
    free(c->zone_name);
    c->zone = NULL;
    c->zone_name = NULL;
    c->zone_refuse = str_eq_z(z, "refuse");
    c->zone_minutes = 0;
    if (c->zone_refuse || str_eq_z(z, "UTC") || str_eq_z(z, "Z"))
        return;
    if (zone_offset_parse(z, &c->zone_minutes))
        return;
    bool damaged = false;
    const bool is_offset = z.n && (z.p[0] == '+' || z.p[0] == '-');
    if (is_offset || !(c->zone = zone_load(z, &damaged)) || !(c->zone_name = str_dup(z)))
        yaml_fault(in, node, "found %s%s, expected UTC, refuse, an offset from \"-14:00\" to \"+14:00\" or a zone of "
                   "the system's tzdata such as Europe/Paris", yaml_found(node).z,
                   damaged ? ", whose file is damaged or counts leap seconds" : "");
}

#define MODE_FIELD(check) {"mode", yaml_choose, .offset = offsetof(struct checks, mode[check]), MODES, "enforce"}
static const struct yaml_field SCHEMA[] = {
    MODE_FIELD(CHECK_SCHEMA), {"versions", read_versions, IN_CHECKS(versions), .preset = "[1.1.0, 1.0.0]"}, {0}};
static const struct yaml_field SIGNATURE[] = {
    MODE_FIELD(CHECK_SIGNATURE),
    {"min_hmac_bits", read_bits, IN_CHECKS(min_hmac_bits), .preset = "256"},
    {"canonicalization", yaml_flags, IN_CHECKS(canonicalization), C14NS, "[c14n]"},
    {0}};
static const struct yaml_field KEY_POLICY[] = {
    MODE_FIELD(CHECK_KEY_POLICY), {"trk_id", read_bool, IN_CHECKS(trk_id_required), TRK_IDS, "optional"}, {0}};
static const struct yaml_field KMS_URI[] = {
    MODE_FIELD(CHECK_KMS_URI), {"compare", read_bool, IN_CHECKS(kms_uri_host), URI_COMPARE, "exact"}, {0}};
static const struct yaml_field TIME[] = {
    MODE_FIELD(CHECK_TIME),
    {"past", yaml_duration, IN_CHECKS(past_us), &WINDOW, "5s"},
    {"future", yaml_duration, IN_CHECKS(future_us), &WINDOW, "5s"},
    {"assume_zone", read_zone, .offset = 0, .preset = "UTC"},
    {0}};
static const struct yaml_field CLIENT_REQ_URL[] = {
    MODE_FIELD(CHECK_CLIENT_REQ_URL), {"compare", yaml_choose, IN_CHECKS(url_compare), URL_COMPARE, "exact"}, {0}};
static const struct yaml_field PATH_USER[] = {
    MODE_FIELD(CHECK_PATH_USER), {"also", yaml_texts, IN_CHECKS(also), .preset = "[]"}, {0}};
static const struct yaml_field REPLAY[] = {MODE_FIELD(CHECK_REPLAY), {0}};

/* A mode alone, or a mapping of mode and parameters. `to` is the struct checks. */
static void read_check(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    const struct yaml_field *mode = arg;
    if (node->kind == YAML_MAPPING)
        yaml_fields(in, node, arg, to);
    else
        mode->read(in, node, (char *)to + mode->offset, mode->arg);
}

static const struct yaml_field CHECKS[] = {
    {"schema", read_check, .sub = SCHEMA},   {"signature", read_check, .sub = SIGNATURE},
    {"key_policy", read_check, .sub = KEY_POLICY}, {"kms_uri", read_check, .sub = KMS_URI},
    {"time", read_check, .sub = TIME},       {"client_req_url", read_check, .sub = CLIENT_REQ_URL},
    {"path_user", read_check, .sub = PATH_USER}, {"replay", read_check, .sub = REPLAY},
    {0}};

/* arg: not NULL for a last day, which the rule still holds on. */
static void read_day(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    int64_t us;
    if (!yaml_is_scalar(in, node, "a date such as 2027-03-31"))
        return;
    if (!date_parse(node->text, &us))
        yaml_fault(in, node, "found %s, expected a date such as 2027-03-31", yaml_found(node).z);
    else
        *(int64_t *)to = us + (arg ? DAY_US : 0);
}

/* Paths are matched decoded: an escape in a glob would match no spelling of what it was meant for. */
static void check_escapes(struct yaml_in *in, const struct yaml_node *node, struct str glob)
{
    struct buf clear BUF_CLEANUP = BUF_INIT(glob.n + 1);
    static const char HEX[] = "0123456789abcdefABCDEF";
    bool escaped = false;
    for (size_t i = 0; i + 2 < glob.n && !escaped; i++)
        escaped = glob.p[i] == '%' && memchr(HEX, glob.p[i + 1], sizeof HEX - 1) &&
                  memchr(HEX, glob.p[i + 2], sizeof HEX - 1);
    if (!escaped)
        return;
    if (uri_percent_decode(glob, &clear) && !clear.failed)
        yaml_fault(in, node, "found the escape of a URL in %s; paths are matched decoded: write %s", show(glob).z,
                   show(buf_view(&clear)).z);
    else
        yaml_fault(in, node, "found the escape of a URL in %s; paths are matched decoded: write the characters "
                             "themselves, such as : for %%3A and @ for %%40", show(glob).z);
}

static void read_paths(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_texts(in, node, to, arg);
    const struct strings *s = to;
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i][0] != '/' && s->v[i][0] != '*')
            yaml_fault(in, node, "found %s, expected a path that begins with / or *: no other ever matches",
                       show(str_z(s->v[i])).z);
        check_escapes(in, node, str_z(s->v[i]));
    }
}

static void read_path_users(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_texts(in, node, to, arg);
    const struct strings *s = to;
    for (size_t i = 0; i < s->n; i++)
        check_escapes(in, node, str_z(s->v[i]));
}

/* `to` is a struct request_match. */
static void read_source(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct request_match *m = to;
    struct yaml_cidrs c = {0};
    yaml_networks(in, node, &c, arg);
    free(m->source);
    m->source = c.v;
    m->source_count = c.n;
}

/* `to` is the rule's match: what it is not stands beside it. */
static void read_not(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct request_rule *q = (struct request_rule *)(void *)((char *)to - offsetof(struct request_rule, match));
    if (yaml_is_mapping(in, node, "a mapping of the keys of `match`") && !node->n)
        yaml_fault(in, node, "found an empty mapping, expected what the rule is not to match");
    yaml_fields(in, node, arg, &q->except);
}

/* `to` is a struct forward. */
static void read_method(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct forward *f = to;
    int method = 0;
    yaml_choose(in, node, &method, arg);
    free(f->method);
    f->method = str_dup(str_z(METHODS[method].name));
    if (!f->method)
        yaml_fault(in, node, "out of memory");
}

#define MATCH_FIELDS                                                                                      \
    {"path", read_paths, IN_MATCH(path)}, {"path_user", read_path_users, IN_MATCH(path_user)},            \
        {"user", yaml_texts, IN_MATCH(user)}, {"client_id", yaml_texts, IN_MATCH(client_id)},             \
        {"device_id", yaml_texts, IN_MATCH(device_id)}, {"source", read_source, .offset = 0},             \
    {                                                                                                     \
        "form", yaml_flags, IN_MATCH(forms), FORMS                                                        \
    }
static const struct yaml_field NOT[] = {MATCH_FIELDS, {0}};
static const struct yaml_field MATCH[] = {MATCH_FIELDS, {"not", read_not, .offset = 0, .sub = NOT}, {0}};
static const struct yaml_field FORWARD[] = {
    {"method", read_method, .offset = 0, METHODS, "POST"},
    {"body", yaml_choose, IN_FORWARD(body), BODIES, "request (with GET: empty)"},
    {"headers", forward_read_headers, .offset = 0},
    {"pass", forward_read_pass, IN_FORWARD(pass)},
    {"withhold", forward_read_withhold, IN_FORWARD(withhold), .preset = "[]"},
    {"extensions", read_bool, IN_FORWARD(drop_extensions), EXTENSIONS, "keep"},
    {"assert_unproven", yaml_switch, IN_FORWARD(assert_unproven), .preset = "off"},
    {0}};
const struct yaml_field REQUEST_FIELDS[] = {
    {"id", rules_read_id, IN_RULE(id), .required = true},
    {"why", yaml_prose, IN_RULE(why)},
    {"since", read_day, IN_RULE(since_us)},
    {"until", read_day, IN_RULE(until_us), .arg = ""},
    {"match", yaml_sub, IN_RULE(match), .preset = "everything", .sub = MATCH},
    {"deny", yaml_switch, IN_RULE(deny), .preset = "off"},
    {"accept", yaml_flags, IN_RULE(accept), FORMS, "[signed]"},
    {"shadow_accept", yaml_flags, IN_RULE(shadow_accept), FORMS, "[]"},
    {"checks", yaml_sub, IN_RULE(checks), .sub = CHECKS},
    {"forward", yaml_sub, IN_RULE(forward), .sub = FORWARD},
    {"capture", yaml_switch, IN_RULE(capture), .preset = "off"},
    {0}};

static bool presets(struct request_rule *q, int line)
{
    *q = (struct request_rule){.since_us = TIME_NONE, .until_us = TIME_NONE, .accept = FORM_SIGNED, .line = line};
    q->checks.min_hmac_bits = STANDARD_HMAC_BITS;
    q->checks.canonicalization = XMLSIG_C14N;
    q->checks.past_us = q->checks.future_us = STANDARD_WINDOW_US;
    q->checks.versions = str_dup(STR("1.1.0 1.0.0"));
    q->forward.method = str_dup(STR("POST"));
    return q->checks.versions && q->forward.method;
}

static bool takes_unproven(const struct request_rule *q)
{
    const unsigned takes = q->accept | q->shadow_accept;
    return (takes & (FORM_UNSIGNED | FORM_EMPTY)) || q->checks.mode[CHECK_SIGNATURE] != MODE_ENFORCE;
}

static void check_why(struct yaml_in *in, const struct yaml_node *node, const struct request_rule *q)
{
    if (yaml_get(node, "why"))
        return;
    if (q->deny) {
        yaml_fault(in, yaml_get(node, "deny"), "a rule that denies needs `why`");
        return;
    }
    if ((q->accept | q->shadow_accept) & (FORM_UNSIGNED | FORM_EMPTY)) {
        const bool shadow = !(q->accept & (FORM_UNSIGNED | FORM_EMPTY));
        yaml_fault(in, yaml_get(node, shadow ? "shadow_accept" : "accept"),
                   "a rule that accepts unsigned or empty requests needs `why`");
        return;
    }
    for (int c = 0; c < CHECK_COUNT; c++)
        if (q->checks.mode[c] != MODE_ENFORCE) {
            const struct yaml_node *at = yaml_get(yaml_get(node, "checks"), check_name(c));
            yaml_fault(in, at ? at : node, "a rule that sets the check `%s` to %s needs `why`", check_name(c),
                       mode_name(q->checks.mode[c]));
            return;
        }
}

/* A server that takes no notice of a GET's body reads it as the next request: a client's bytes must not stand there. */
static void check_body(struct yaml_in *in, const struct yaml_node *node, struct forward *f)
{
    const struct yaml_node *body = yaml_get(yaml_get(node, "forward"), "body");
    if (!f->method || !str_eq_z(STR("GET"), f->method))
        return;
    if (body && f->body != FORWARD_EMPTY)
        yaml_fault(in, body, "a GET carries no body: `body: empty`, or leave it out");
    f->body = FORWARD_EMPTY;
}

/* Of what goes on as it came nothing can be left out. */
static void check_extensions(struct yaml_in *in, const struct yaml_node *node, const struct forward *f)
{
    if (f->drop_extensions && f->body == FORWARD_SIGNED)
        yaml_fault(in, yaml_get(yaml_get(node, "forward"), "extensions"),
                   "`body: signed` passes on the bytes as received: nothing can be dropped from them");
}

static void check_rule(struct yaml_in *in, const struct yaml_node *node, struct request_rule *q)
{
    check_why(in, node, q);
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f *= 2)
        if (q->accept & q->shadow_accept & f)
            yaml_fault(in, yaml_get(node, "shadow_accept"),
                       "`%s` stands in `accept` too%s: what is accepted is told of nobody; take it out of one",
                       form_name((enum form)f), yaml_get(node, "accept") ? "" : ", which is [signed] where it is not "
                                                                             "stated");
    check_body(in, node, &q->forward);
    check_extensions(in, node, &q->forward);
    if (q->since_us != TIME_NONE && q->until_us != TIME_NONE && q->since_us >= q->until_us)
        yaml_fault(in, yaml_get(node, "until"), "`until` is before `since`: the rule would never match");
    if (q->capture && q->until_us == TIME_NONE)
        yaml_fault(in, yaml_get(node, "capture"),
                   "a rule that keeps bodies needs `until`: they show who asked, and nobody looks at them for ever");
    const char *holder = forward_unproven_holder(&q->forward);
    if (holder && takes_unproven(q) && !q->forward.assert_unproven) {
        const struct yaml_node *at = yaml_get(yaml_get(node, "forward"), "headers");
        yaml_fault(in, at ? at : node,
                   "%s of requests that are not proven: anybody could claim it; `assert_unproven: true` "
                   "beside `headers` if the upstream is to trust it",
                   holder);
    }
}

void rules_read_requests(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct reading *g = to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of rules") || g->r->requests)
        return;
    if (!node->n || node->n > RULES_MAX) {
        yaml_fault(in, node, "found %zu request rules, expected 1 to %d", node->n, RULES_MAX);
        return;
    }
    g->requests = node;
    g->r->requests = calloc(node->n, sizeof *g->r->requests);
    for (const struct yaml_node *m = node->first; m && g->r->requests; m = m->next) {
        struct request_rule *q = g->r->requests + g->r->request_count++;
        if (!presets(q, m->line)) {
            yaml_fault(in, m, "out of memory");
            return;
        }
        yaml_fields(in, m, REQUEST_FIELDS, q);
        if (m->kind == YAML_MAPPING)
            check_rule(in, m, q);
    }
    if (!g->r->requests)
        yaml_fault(in, node, "out of memory");
}

/* No rule passes on what any rule sets: a client would speak with the gateway's voice. */
static void check_pass(struct reading *g, const struct yaml_node *node, const char *name)
{
    for (size_t i = 0; i < g->r->request_count; i++)
        for (size_t h = 0; h < g->r->requests[i].forward.header_count; h++)
            if (header_same(str_z(g->r->requests[i].forward.headers[h].name), str_z(name))) {
                yaml_fault(&g->in, node, "`pass` names the header `%s` that rule `%s` sets: a client could forge it",
                           name, g->r->requests[i].id ? g->r->requests[i].id : "");
                return;
            }
}

void rules_check_requests(struct reading *g)
{
    for (size_t i = 0; i < g->r->request_count; i++) {
        const struct request_rule *q = g->r->requests + i;
        const struct yaml_node *node = rules_node(g->requests, i);
        for (size_t k = 0; k < i && q->id; k++)
            if (str_eq_z(str_z(q->id), g->r->requests[k].id)) {
                yaml_fault(&g->in, yaml_get(node, "id"), "duplicate id `%s` (first on line %d)", q->id,
                           g->r->requests[k].line);
                break;
            }
        const struct yaml_node *pass = yaml_get(yaml_get(node, "forward"), "pass");
        for (size_t k = 0; k < q->forward.pass.n && pass; k++)
            check_pass(g, pass, q->forward.pass.v[k]);
    }
}

static void request_match_free(struct request_match *m)
{
    strings_free(&m->path);
    strings_free(&m->path_user);
    strings_free(&m->user);
    strings_free(&m->client_id);
    strings_free(&m->device_id);
    free(m->source);
}

void request_rule_free(struct request_rule *q)
{
    free(q->id);
    free(q->why);
    request_match_free(&q->match);
    request_match_free(&q->except);
    free(q->checks.versions);
    zone_free(q->checks.zone);
    free(q->checks.zone_name);
    strings_free(&q->checks.also);
    free(q->forward.method);
    for (size_t i = 0; i < q->forward.header_count; i++) {
        free(q->forward.headers[i].name);
        free(q->forward.headers[i].value);
    }
    free(q->forward.headers);
    strings_free(&q->forward.pass);
}
