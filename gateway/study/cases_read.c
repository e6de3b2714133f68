#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/zone.h"
#include "study/cases.h"

enum { CASES_MAX = 10000, REPLY_MAX = 4 << 20 };
#define IN_FACTS(member) .offset = offsetof(struct case_facts, member)

static const struct yaml_choice FORMS[] = {
    {"signed", FORM_SIGNED}, {"unsigned", FORM_UNSIGNED}, {"empty", FORM_EMPTY}, {NULL, 0}};
static const struct yaml_choice SIGNERS[] = {{"ink", SIGNER_INK},         {"trk", SIGNER_TRK},
                                             {"retiring", SIGNER_RETIRING}, {"revoked", SIGNER_REVOKED},
                                             {"expired", SIGNER_EXPIRED}, {"unknown", SIGNER_UNKNOWN},
                                             {"another", SIGNER_ANOTHER}, {NULL, 0}};
static const struct yaml_choice KEYS[] = {{"ink", HAS_INK}, {"trk", HAS_TRK}, {"none", HAS_NONE}, {NULL, 0}};
static const struct yaml_choice C14NS[] = {
    {"c14n", XMLSIG_C14N},
    {"exc-c14n", XMLSIG_EXC_C14N},
    {"c14n11", XMLSIG_C14N11},
    {"c14n-comments", XMLSIG_C14N_COMMENTS},
    {"exc-c14n-comments", XMLSIG_EXC_C14N_COMMENTS},
    {"c14n11-comments", XMLSIG_C14N11_COMMENTS},
    {NULL, 0}};
static const struct yaml_choice CHECK_NAMES[] = {
#define CHOICE(e, name) {name, CHECK_##e},
    CHECK_LIST(CHOICE)
#undef CHOICE
    {NULL, 0}};
static const struct yaml_choice WITHOUT[] = {{"user", WITHOUT_USER},
                                             {"kms_uri", WITHOUT_KMS_URI},
                                             {"time", WITHOUT_TIME},
                                             {"client_req_url", WITHOUT_CLIENT_REQ_URL},
                                             {"trk_id", WITHOUT_TRK_ID},
                                             {"signature_id", WITHOUT_SIGNATURE_ID},
                                             {"version", WITHOUT_VERSION},
                                             {NULL, 0}};
static const struct yaml_choice MESSAGES[] = {
    {"KmsInit", KMS_MESSAGE_INIT},     {"KmsKeyProv", KMS_MESSAGE_KEYPROV}, {"KmsCertCache", KMS_MESSAGE_CERTCACHE},
    {"KmsLookup", KMS_MESSAGE_LOOKUP}, {"error", KMS_MESSAGE_ERROR},        {"none", KMS_MESSAGE_NONE},
    {NULL, 0}};
static const struct yaml_range BITS = {128, 256}, STATUS = {100, 599};

static void read_at(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    int64_t us;
    bool has_zone = true;
    (void)arg;
    if (!yaml_is_scalar(in, node, "a date or a time with a zone"))
        return;
    if (date_parse(node->text, &us) || (time_parse(node->text, &us, &has_zone) && has_zone))
        *(int64_t *)to = us;
    else
        yaml_fault(in, node, "found %s, expected a date such as 2027-03-31 or a time with a zone such as "
                   "2027-03-31T18:00:00Z", yaml_found(node).z);
}

static void read_offset(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    int64_t us;
    (void)arg;
    if (!yaml_is_scalar(in, node, "a duration with its sign, such as -3s"))
        return;
    const struct str t = node->text;
    const bool sign = t.n > 0 && (t.p[0] == '-' || t.p[0] == '+');
    if (!duration_parse(sign ? (struct str){t.p + 1, t.n - 1} : t, &us) || us > INT64_C(36600) * 86400 * US_PER_S ||
        (!sign && us))
        yaml_fault(in, node, "found %s, expected a duration with its sign: -3s is a Time of three seconds ago, +2h one "
                             "two hours ahead", yaml_found(node).z);
    else
        *(int64_t *)to = sign && t.p[0] == '-' ? -us : us;
}

static void read_zone(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (!yaml_is_scalar(in, node, "Z, none or an offset such as \"+02:00\""))
        return;
    const struct str z = node->text;
    if (str_eq_z(z, "none") || str_eq_z(z, "Z"))
        *(int *)to = str_eq_z(z, "Z") ? 0 : ZONE_NONE;
    else if (!zone_offset_parse(z, to))
        yaml_fault(in, node, "found %s, expected Z, none or an offset from \"-14:00\" to \"+14:00\"",
                   yaml_found(node).z);
}

static void read_bits(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_count(in, node, to, arg);
    if (*(unsigned *)to % 8)
        yaml_fault(in, node, "found %s, expected a multiple of 8", yaml_found(node).z);
}

static void read_source(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)arg;
    if (yaml_is_scalar(in, node, "an address") && !ip_parse(node->text, to))
        yaml_fault(in, node, "found %s, expected an address such as 10.20.0.7", yaml_found(node).z);
}

static const struct yaml_field REQUEST[] = {
    {"at", read_at, IN_FACTS(at_us)},
    {"path", yaml_text, IN_FACTS(path)},
    {"method", yaml_text, IN_FACTS(method)},
    {"source", read_source, IN_FACTS(source)},
    {"form", yaml_choose, IN_FACTS(form), FORMS},
    {"user", yaml_text, IN_FACTS(user)},
    {"client_id", yaml_text, IN_FACTS(client_id)},
    {"device_id", yaml_text, IN_FACTS(device_id)},
    {"kms_uri", yaml_text, IN_FACTS(kms_uri)},
    {"client_req_url", yaml_text, IN_FACTS(client_req_url)},
    {"version", yaml_text, IN_FACTS(version)},
    {"trk_id", yaml_text, IN_FACTS(trk_id)},
    {"signature_id", yaml_text, IN_FACTS(signature_id)},
    {"time", yaml_text, IN_FACTS(time)},
    {"offset", read_offset, IN_FACTS(offset_us)},
    {"zone", read_zone, IN_FACTS(zone_minutes)},
    {"without", yaml_flags, IN_FACTS(without), WITHOUT},
    {"keys", yaml_flags, IN_FACTS(keys), KEYS},
    {"signed_by", yaml_choose, IN_FACTS(signed_by), SIGNERS},
    {"hmac_bits", read_bits, IN_FACTS(hmac_bits), &BITS},
    {"canonicalization", yaml_choose, IN_FACTS(canonicalization), C14NS},
    {"fails", yaml_choose, IN_FACTS(fails), CHECK_NAMES},
    {"body", yaml_prose, IN_FACTS(body)},
    {0}};
static const struct yaml_field UPSTREAM[] = {{"status", yaml_count, IN_FACTS(status), &STATUS},
                                             {"message", yaml_choose, IN_FACTS(message), MESSAGES},
                                             {"body", yaml_prose, IN_FACTS(reply)},
                                             {0}};
static const struct yaml_field FACTS[] = {{"request", yaml_sub, .offset = 0, .sub = REQUEST},
                                          {"upstream", yaml_sub, .offset = 0, .sub = UPSTREAM},
                                          {0}};

static void facts_free(struct case_facts *f)
{
    char *texts[] = {f->path, f->method, f->user, f->client_id, f->device_id, f->kms_uri, f->client_req_url,
                     f->version, f->trk_id, f->signature_id, f->time, f->body, f->reply};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(texts[i]);
}

static bool facts_preset(struct case_facts *f)
{
    *f = (struct case_facts){.at_us = TIME_NONE, .form = FORM_SIGNED, .keys = HAS_INK | HAS_TRK, .hmac_bits = 256,
                             .canonicalization = XMLSIG_C14N, .fails = -1, .status = 200, .message = -1};
    f->path = str_dup(STR("/keymanagement/identity/v1/init"));
    f->method = str_dup(STR("POST"));
    f->user = str_dup(STR("sip:alice@example.org"));
    f->version = str_dup(STR("1.1.0"));
    return ip_parse(STR("127.0.0.1"), &f->source) && f->path && f->method && f->user && f->version;
}

/* One file being read. */
struct case_reading {
    struct cases *c;
    const struct yaml_node *defaults; /* NULL: none, or at fault */
};

/* A member of a case other than its facts is read elsewhere. */
static void skip(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)in, (void)node, (void)to, (void)arg;
}

struct case_names {
    char *name, *reply;
};
static const struct yaml_field CASE[] = {
    {"name", yaml_text, .offset = offsetof(struct case_names, name), .required = true},
    {"request", skip, .offset = 0},
    {"upstream", skip, .offset = 0},
    {"reply", yaml_text, .offset = offsetof(struct case_names, reply)},
    {"expect", skip, .offset = 0, .required = true},
    {0}};

/* What excludes each other, and what cannot be made so. */
static void check_facts(struct yaml_in *in, const struct yaml_node *node, const struct case_facts *f)
{
    const struct yaml_node *request = yaml_get(node, "request");
    const struct yaml_node *time = yaml_get(request, "time"), *keys = yaml_get(request, "keys");
    if (time && (yaml_get(request, "offset") || yaml_get(request, "zone")))
        yaml_fault(in, time, "`time` is the whole text: `offset` and `zone` beside it say nothing");
    if (keys && (f->keys & HAS_NONE) && f->keys != HAS_NONE)
        yaml_fault(in, keys, "`none` stands beside other keys");
    if (f->body && f->form == FORM_EMPTY)
        yaml_fault(in, yaml_get(request, "body") ? yaml_get(request, "body") : node, "an empty request has no body");
    const struct yaml_node *fails = yaml_get(request, "fails") ? yaml_get(request, "fails") : node;
    if (f->fails == CHECK_PATH_USER)
        yaml_fault(in, fails, "path_user fails where the path names another user than `user`: write such a path "
                              "instead");
    const bool keyless = f->fails == CHECK_SIGNATURE || f->fails == CHECK_KEY_POLICY || f->fails == CHECK_REPLAY;
    if (f->fails >= 0 && (f->form == FORM_EMPTY || (f->form == FORM_UNSIGNED && keyless)))
        yaml_fault(in, fails, "found %s, expected a check that is for %s requests", check_name((enum check)f->fails),
                   form_name(f->form));
    if (f->fails >= 0 && f->body)
        yaml_fault(in, fails, "a `body` is sent as it stands: nothing in it can be made to fail");
}

/* An upstream's reply as it was stored: a path relative to the file of cases. */
static void read_reply(struct yaml_in *in, const struct yaml_node *node, struct case_facts *f)
{
    struct buf path BUF_CLEANUP = BUF_INIT(1 << 16), text BUF_CLEANUP = BUF_INIT_SECRET(REPLY_MAX);
    const char *slash = strrchr(in->file, '/');
    if (slash && node->text.n > 0 && node->text.p[0] != '/')
        buf_bytes(&path, in->file, (size_t)(slash - in->file) + 1);
    buf_str(&path, node->text);
    const int from = path.failed ? -1 : open(path.p, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    const bool whole = from >= 0 && file_read(from, &text);
    if (from >= 0)
        close(from);
    free(f->reply);
    f->reply = whole && text.n ? malloc(text.n) : NULL;
    f->reply_n = f->reply ? text.n : 0;
    if (f->reply)
        memcpy(f->reply, text.p, text.n);
    else
        yaml_fault(in, node, "%s cannot be read as a stored reply, expected a file of 1 byte to 4 MiB",
                   show(buf_view(&path)).z);
}

static bool read_case(struct yaml_in *in, const struct yaml_node *node, struct case_reading *g)
{
    struct rule_case *rc = g->c->v + g->c->n++;
    struct case_names names = {0};
    rc->node = node;
    if (!facts_preset(&rc->facts))
        return false;
    yaml_fields(in, node, CASE, &names);
    rc->name = names.name;
    rc->expect = yaml_get(node, "expect");
    if (g->defaults)
        yaml_fields(in, g->defaults, FACTS, &rc->facts);
    const struct yaml_node *request = yaml_get(node, "request"), *upstream = yaml_get(node, "upstream");
    const size_t before = in->faults->errors;
    if (request && yaml_get(request, "time") == NULL && (yaml_get(request, "offset") || yaml_get(request, "zone"))) {
        free(rc->facts.time); /* the case's own words win over a `time` of the defaults */
        rc->facts.time = NULL;
    }
    if (request)
        yaml_fields(in, request, REQUEST, &rc->facts);
    if (upstream)
        yaml_fields(in, upstream, UPSTREAM, &rc->facts);
    if (names.reply && yaml_get(upstream, "body"))
        yaml_fault(in, yaml_get(node, "reply"), "a stored `reply` stands beside a `body` of `upstream`");
    else if (names.reply)
        read_reply(in, yaml_get(node, "reply"), &rc->facts);
    free(names.reply);
    if (in->faults->errors == before)
        check_facts(in, node, &rc->facts);
    if (rc->expect)
        case_expect_read(in, rc->expect);
    return true;
}

static void check_names(struct yaml_in *in, const struct cases *c)
{
    for (size_t i = 1; i < c->n; i++)
        for (size_t k = 0; k < i && c->v[i].name; k++)
            if (str_eq_z(str_z(c->v[i].name), c->v[k].name)) {
                yaml_fault(in, yaml_get(c->v[i].node, "name"), "duplicate name %s (first on line %d)",
                           show(str_z(c->v[i].name)).z, c->v[k].node->line);
                break;
            }
}

/* `to` is a struct case_reading. */
static void read_cases(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct case_reading *g = to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of cases") || g->c->v)
        return;
    if (!node->n || node->n > CASES_MAX) {
        yaml_fault(in, node, "found %zu cases, expected 1 to %d", node->n, CASES_MAX);
        return;
    }
    bool ok = (g->c->v = calloc(node->n, sizeof *g->c->v)) != NULL;
    for (const struct yaml_node *m = node->first; ok && m; m = m->next)
        ok = read_case(in, m, g);
    if (!ok)
        yaml_fault(in, node, "out of memory");
    else
        check_names(in, g->c);
}

static void read_version(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    (void)to, (void)arg;
    if (yaml_is_scalar(in, node, "1") && !(node->plain && str_eq_z(node->text, "1")))
        yaml_fault(in, node, "found %s, expected 1: the version of this language", yaml_found(node).z);
}

static void read_urls(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct case_reading *g = to;
    yaml_texts(in, node, &g->c->public_url, arg);
    for (size_t i = 0; i < g->c->public_url.n; i++) {
        const struct str url = str_z(g->c->public_url.v[i]);
        if (!(str_starts(url, STR("http://")) || str_starts(url, STR("https://"))) || str_ends(url, STR("/")))
            yaml_fault(in, node, "found %s, expected an http or https URL without a slash at its end", show(url).z);
    }
}

/* Read before all cases, once, so that a fault in it is told once. */
static void read_defaults(struct yaml_in *in, const struct yaml_node *root, struct case_reading *g)
{
    const struct yaml_node *defaults = yaml_get(root, "defaults");
    struct case_facts scratch;
    const size_t before = in->faults->errors;
    if (!defaults)
        return;
    if (facts_preset(&scratch))
        yaml_fields(in, defaults, FACTS, &scratch);
    facts_free(&scratch);
    if (in->faults->errors == before)
        g->defaults = defaults;
}

struct cases *cases_load(const char *path, struct faults *faults)
{
    static const struct yaml_field ROOT[] = {{"version", read_version, .offset = 0, .required = true},
                                             {"public_url", read_urls, .offset = 0},
                                             {"defaults", skip, .offset = 0},
                                             {"cases", read_cases, .offset = 0, .required = true},
                                             {0}};
    const size_t faults_before = faults->n, errors_before = faults->errors;
    struct yaml *y = yaml_load(path, faults);
    struct cases *c = y ? calloc(1, sizeof *c) : NULL;
    if (!c || !(c->file = str_dup(str_z(path)))) {
        if (y)
            faults_add(faults, path, 0, 0, "out of memory");
        yaml_done(y);
        free(c);
        return NULL;
    }
    struct yaml_in in = {path, faults};
    struct case_reading g = {.c = c};
    c->yaml = y;
    read_defaults(&in, y->root, &g);
    yaml_fields(&in, y->root, ROOT, &g);
    if (!c->public_url.n && !strings_add(&c->public_url, STR("https://kms.example.org")))
        faults_add(faults, path, 0, 0, "out of memory");
    yaml_sort_faults(faults, faults_before, path);
    if (faults->errors == errors_before)
        return c;
    cases_free(c);
    return NULL;
}

void cases_free(struct cases *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++) {
        facts_free(&c->v[i].facts);
        free(c->v[i].name);
    }
    free(c->v);
    strings_free(&c->public_url);
    yaml_done(c->yaml);
    free(c->file);
    free(c);
}
