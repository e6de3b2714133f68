#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/uri.h"
#include "study/explain_inside.h"

/*
 * What would let the request through, and what that would cost. The client is named first wherever the client is wrong:
 * a rule that is loosened for one client is loosened for whoever comes like it.
 */
struct advising {
    const struct explain_in *in;
    struct explanation *e;
    struct yaml *rules; /* the rules' file, read again for its lines; NULL without memory */
};

static void advise(struct explanation *e, char *place, char *change, char *cost)
{
    struct advice *grown = realloc(e->advice, (e->advice_count + 1) * sizeof *grown);
    if (!grown || !place || !change || !cost) {
        e->failed = true;
        free(place);
        free(change);
        free(cost);
        if (grown)
            e->advice = grown;
        return;
    }
    e->advice = grown;
    e->advice[e->advice_count++] = (struct advice){place, change, cost, NULL};
}


static void advise_client(struct explanation *e, const char *change)
{
    advise(e, explain_text(e, "the client"), explain_text(e, "%s", change), explain_text(e, "nothing: the rules stay"));
}

/* Where the check stands in the rule that judged, or that rule where it says nothing of it. */
static char *place_of_check(struct advising *a, enum check c)
{
    const struct rules *r = a->in->j->rules;
    const size_t n = (size_t)(a->in->j->rule - r->requests);
    const struct yaml_node *rule = a->rules ? rules_node(yaml_get(a->rules->root, "requests"), n) : NULL;
    const struct yaml_node *at = yaml_get(yaml_get(rule, "checks"), check_name(c));
    return explain_text(a->e, "%s:%d", r->file, at ? at->line : a->in->j->rule->line);
}

static char *place_of_rule(struct advising *a, const char *key)
{
    const struct rules *r = a->in->j->rules;
    const size_t n = (size_t)(a->in->j->rule - r->requests);
    const struct yaml_node *rule = a->rules ? rules_node(yaml_get(a->rules->root, "requests"), n) : NULL;
    const struct yaml_node *at = yaml_get(rule, key);
    return explain_text(a->e, "%s:%d", r->file, at ? at->line : a->in->j->rule->line);
}

static char *place_of_top(struct advising *a, const char *key, const char *below)
{
    const struct yaml_node *top = a->rules ? yaml_get(a->rules->root, key) : NULL, *at = yaml_get(top, below);
    return explain_text(a->e, "%s:%d", a->in->j->rules->file, at ? at->line : top ? top->line : 1);
}

/* A loosening: the words and the rule of its own. Where nothing would bound it, it is not advised. */
static void advise_exception(struct advising *a, char *place, const char *settings, char *cost)
{
    struct explanation *e = a->e;
    char *rule = explain_exception(a->in, e, settings);
    if (!rule) {
        free(place);
        free(cost);
        return;
    }
    const size_t before = e->advice_count;
    advise(e, place, explain_text(e, "above rule `%s`, a rule of its own: %s", a->in->j->rule->id, settings), cost);
    if (e->advice_count > before)
        e->advice[before].rule = rule;
    else
        free(rule);
}

static void advise_check(struct advising *a, enum check c, const char *parameters, char *cost)
{
    char *settings = explain_text(a->e, "checks: { %s: { %s } }", check_name(c), parameters);
    if (settings)
        advise_exception(a, place_of_check(a, c), settings, cost);
    else
        free(cost);
    free(settings);
}

enum reason explain_as_if(const struct explain_in *in, check_fn *check, const struct checks *other)
{
    struct judgement *j = in->j;
    const struct request_rule *rule = j->rule;
    struct request_rule copy = *rule;
    const int64_t skew = j->decision.skew_us;
    struct detail ignored;
    copy.checks = *other;
    j->rule = &copy;
    const enum reason r = check(j, in->now_us, &ignored);
    j->rule = rule;
    j->decision.skew_us = skew;
    return r;
}

static void advise_kms_uri(struct advising *a)
{
    const struct judgement *j = a->in->j;
    struct checks other = j->rule->checks;
    other.kms_uri_host = true;
    advise_client(a->e, "write the KmsUri that it was provisioned with for this KMS");
    if (explain_as_if(a->in, check_kms_uri, &other) == REASON_OK)
        advise_check(a, CHECK_KMS_URI, "compare: host",
               explain_text(a->e, "little: scheme, port and case no longer tell two KMSs on one host apart"));
    else
        advise(a->e, place_of_top(a, "kms", "uris"),
               explain_text(a->e, "kms.uris: add %s", explain_shown(j->request.kms_uri).z),
               explain_text(a->e, "little if that name is this KMS's own; else requests meant for another KMS are "
                                  "taken here, and keys of the wrong domain may be asked for"));
}

static void advise_time(struct advising *a)
{
    const struct judgement *j = a->in->j;
    const struct checks *c = &j->rule->checks;
    int64_t t;
    bool has_zone;
    if (!time_parse(j->request.time, &t, &has_zone))
        return;
    const int minutes = explain_zone(t - a->in->now_us);
    advise_client(a->e, has_zone ? "set its clock (NTP), write Time in UTC with Z, send at once"
                                 : "write Time in UTC, with Z");
    if (!has_zone && (minutes || c->zone_refuse)) {
        char parameter[48];
        const int m = minutes < 0 ? -minutes : minutes;
        snprintf(parameter, sizeof parameter, "assume_zone: \"%c%02d:%02d\"", minutes < 0 ? '-' : '+', m / 60, m % 60);
        advise_check(a, CHECK_TIME, parameter,
               explain_text(a->e, "a client elsewhere that leaves its zone out is judged wrong, and daylight saving "
                                  "moves all of them by an hour twice a year"));
        return;
    }
    const int64_t lag = j->decision.skew_us == TIME_NONE ? a->in->now_us - t : j->decision.skew_us;
    const int64_t need = ((lag < 0 ? -lag : lag) + US_PER_S - 1) / US_PER_S * US_PER_S;
    if (need > 600 * US_PER_S) /* no window of this length is one */
        return;
    char parameter[160];
    snprintf(parameter, sizeof parameter, "%s: %s", lag < 0 ? "future" : "past", duration_show(need).z);
    advise_check(a, CHECK_TIME, parameter,
               explain_text(a->e, "a captured request can be sent again for %s where replay is not enforced, and the "
                              "replay memory must hold as long", duration_show(need).z));
}

static bool same_origin(struct str a, const struct strings *bases)
{
    for (size_t i = 0; i < bases->n; i++)
        if (str_ieq(uri_host(a), uri_host(str_z(bases->v[i]))))
            return true;
    return false;
}

static void advise_client_req_url(struct advising *a)
{
    const struct judgement *j = a->in->j;
    struct checks normalized = j->rule->checks, prefix = j->rule->checks;
    normalized.url_compare = URL_NORMALIZED;
    prefix.url_compare = URL_PREFIX;
    advise_client(a->e, "write the URL that it posts to, byte for byte, with its query");
    if (explain_as_if(a->in, check_client_req_url, &normalized) == REASON_OK)
        advise_check(a, CHECK_CLIENT_REQ_URL, "compare: normalized",
               explain_text(a->e, "little: URLs that RFC 3986 calls equal are taken for equal"));
    else if (explain_as_if(a->in, check_client_req_url, &prefix) == REASON_OK)
        advise_check(a, CHECK_CLIENT_REQ_URL, "compare: prefix",
               explain_text(a->e, "a request captured on one resource can be sent to another one below the same URL, "
                                  "until replay or time refuse it"));
    else if (explain_url_fault(a->in) == URL_FAULT_SLASH)
        return;
    else if (explain_url_fault(a->in) == URL_FAULT_SCHEME ||
             !same_origin(j->request.client_req_url, j->gate->public_url))
        advise(a->e, explain_text(a->e, "%s", a->in->config_file),
               explain_text(a->e, "public_url: add the base of %s, if clients use it",
                            explain_shown(j->request.client_req_url).z),
               explain_text(a->e, "little if that name leads here; else requests meant for another server are taken"));
}

static void advise_path_user(struct advising *a)
{
    struct buf parameter BUF_CLEANUP = BUF_INIT(2048);
    advise_client(a->e, "ask for its own user's keys");
    buf_z(&parameter, "also: [");
    if (!explain_quoted(buf_view(&a->in->j->path_user), &parameter))
        return;
    buf_char(&parameter, ']');
    advise_check(a, CHECK_PATH_USER, parameter.p,
                 explain_text(a->e, "this user may ask for the keys of that one: for groups and services, never for a "
                                    "person"));
}

static void advise_form(struct advising *a)
{
    const struct judgement *j = a->in->j;
    if (j->form == FORM_SIGNED) {
        advise(a->e, place_of_rule(a, "accept"),
               explain_text(a->e, "in rule `%s`: accept: [signed, ...]", j->rule->id),
               explain_text(a->e, "nothing: a signed request is the safest kind"));
        return;
    }
    advise_client(a->e, "sign its requests");
    char *settings = explain_text(a->e, "accept: [%s]", form_name(j->form));
    if (settings)
        advise_exception(a, place_of_rule(a, "accept"), settings,
                         explain_text(a->e, "much: whoever comes from there can claim to be any user that the "
                                            "rule matches"));
    free(settings);
}

static void advise_profile(struct advising *a)
{
    const struct checks *c = &a->in->j->rule->checks;
    struct xmlsig_policy need;
    char parameters[sizeof(struct shown) + 64] = "";
    advise_client(a->e,
                  "sign as TS 33.180 says: HMAC-SHA256 in full, C14N 1.0, SHA-256, reference #Id, one KeyName");
    if (!explain_profile(a->in, &need))
        return;
    const bool bits = need.min_hmac_bits < c->min_hmac_bits, forms = need.canonicalization != c->canonicalization;
    if (bits)
        snprintf(parameters, sizeof parameters, "min_hmac_bits: %u%s", need.min_hmac_bits, forms ? ", " : "");
    if (forms) {
        const size_t n = strlen(parameters);
        snprintf(parameters + n, sizeof parameters - n, "canonicalization: [%s]",
                 explain_canonicalizations(need.canonicalization).z);
    }
    advise_check(a, CHECK_SIGNATURE, parameters,
               explain_text(a->e, "%s%s%s",
                            bits ? "some strength: fewer bits to guess; 128 are still out of reach" : "",
                        bits && forms ? "; " : "",
                        forms ? "little: one more form is taken; namespaces around it may change unseen" : ""));
}

static void advise_signature(struct advising *a)
{
    advise_client(a->e, "hash and sign as told above; no line of the rules makes a wrong signature right");
    if (a->e->on_the_way)
        advise(a->e, explain_text(a->e, "what stands between client and gateway"),
               explain_text(a->e, "compare the body with what left the client; where they differ, pass it on byte for "
                                  "byte: no XML in it is to be read and written again"),
               explain_text(a->e, "nothing: the rules stay"));
}

static void advise_missing(struct advising *a)
{
    if (a->in->j->form == FORM_SIGNED)
        advise_client(a->e, "put a Signature behind the KmsRequest: a SignedKmsRequest has exactly one");
    else
        advise_form(a);
}

static bool advise_trk(struct advising *a);

static void advise_key_policy(struct advising *a)
{
    advise_client(a->e, "sign with the InK, write its ID into Signature-ID and KeyName, and into TrK-ID that of a TrK "
                        "in use");
    if (advise_trk(a) || a->in->j->rule->checks.mode[CHECK_KEY_POLICY] == MODE_SHADOW)
        return;
    advise_exception(a, place_of_check(a, CHECK_KEY_POLICY), "checks: { key_policy: shadow }",
           explain_text(a->e, "a stolen TrK signs, too; shadow keeps telling who does it"));
}

static void advise_schema(struct advising *a)
{
    const struct judgement *j = a->in->j;
    const struct str version = j->request.version;
    advise_client(a->e, "send what the schema of TS 33.180, Annex D.2 says");
    if (!version.p || request_doc_schema(j->doc, version, j->resource.kind == RESOURCE_REDIRECT, NULL) != REASON_OK)
        return;
    struct buf parameter BUF_CLEANUP = BUF_INIT(8192);
    buf_z(&parameter, "versions: [");
    for (const char *p = j->rule->checks.versions; *p; p++)
        buf_z(&parameter, *p == ' ' ? ", " : (const char[]){*p, '\0'});
    buf_z(&parameter, ", ");
    if (!explain_quoted(version, &parameter))
        return;
    buf_char(&parameter, ']');
    advise_check(a, CHECK_SCHEMA, parameter.p ? parameter.p : "",
               explain_text(a->e, "little: all else of the schema still holds"));
}

static void advise_rule(struct advising *a)
{
    advise(a->e, place_of_top(a, "requests", ""),
           explain_text(a->e, "requests: a rule that matches this request (path %s, user %s)",
                        explain_shown(a->in->j->resource.path).z, explain_shown(a->in->j->request.user_uri).z),
           explain_text(a->e, "what the rule accepts: with all checks enforced, nothing"));
}

static void advise_denied(struct advising *a)
{
    advise(a->e, place_of_rule(a, "deny"),
           explain_text(a->e, "above rule `%s`, a rule of its own for what is to pass; or `match: { not: ... }` in it",
                        a->in->j->rule->id),
           explain_text(a->e, "what the rule was made to keep out: read its `why` before"));
}

/* Of a key that is revoked or expired the remedy is another key, never the same one again. */
static void advise_key(struct advising *a)
{
    const struct judgement *j = a->in->j;
    struct keyring ring = {0};
    const bool known = a->in->keys && keystore_user(a->in->keys, j->request.user_uri, &ring) == KEYSTORE_OK;
    const struct key *k = known ? keyring_find(&ring, j->sig.key_name) : NULL;
    const char *gone = !k ? NULL : k->state == KEY_REVOKED ? "was revoked" : "has expired";
    advise_client(a->e, "sign with a key that is in use");
    if (gone)
        advise(a->e, explain_text(a->e, "kmsgate keys"),
               explain_text(a->e, "key %s %s: give the device a new key, under a new ID (kmsgate keys add, or import); "
                                  "this one is never imported again", explain_shown(k->id).z, gone),
               explain_text(a->e, "nothing; the rules have no say in it"));
    else
        advise(a->e, explain_text(a->e, "kmsgate keys"),
               explain_text(a->e, "import the key that the device holds, if it is this user's, or give it a new one"),
               explain_text(a->e, "nothing, if the key is this user's; the rules have no say in it"));
    keyring_clear(&ring); /* of who is not known, too */
}

/* The TrK-ID that the policy refuses: is it unknown, or a key that is used no more? */
static bool advise_trk(struct advising *a)
{
    const struct judgement *j = a->in->j;
    const struct key *k = keyring_find(&j->ring, j->request.trk_id);
    if (!j->request.trk_id.n || (k && k->type == KEY_TRK && key_usable(k, a->in->now_us)))
        return false;
    if (!k)
        explain_sentence(a->e, "TrK-ID %s is not known here: the device holds a TrK that was never imported",
                         explain_shown(j->request.trk_id).z);
    else
        explain_sentence(a->e, "TrK-ID %s names %s", explain_shown(k->id).z,
                         k->type != KEY_TRK ? "an InK" : k->state == KEY_REVOKED ? "a TrK that was revoked"
                                                                               : "a TrK that has expired");
    advise(a->e, explain_text(a->e, "kmsgate keys"),
           !k ? explain_text(a->e, "import the TrK %s of this user (kmsgate keys import)",
                             explain_shown(j->request.trk_id).z)
              : explain_text(a->e, "give the device a new TrK; a revoked or expired one is never imported again"),
           explain_text(a->e, "nothing, if the key is this user's; the rules have no say in it"));
    return true;
}

static void advise_by_reason(struct advising *a, enum reason reason)
{
    static void (*const BY_REASON[REASON_COUNT])(struct advising *a) = {
        [REASON_RULE_NONE] = advise_rule,
        [REASON_RULE_FORM] = advise_form,
        [REASON_RULE_DENIED] = advise_denied,
        [REASON_XML_INVALID] = advise_schema,
        [REASON_SIGNATURE_MISSING] = advise_missing,
        [REASON_SIGNATURE_INVALID] = advise_signature,
        [REASON_SIGNATURE_PROFILE] = advise_profile,
        [REASON_SIGNATURE_REFERENCE] = advise_signature,
        [REASON_KEY_UNKNOWN] = advise_key,
        [REASON_KEY_REVOKED] = advise_key,
    };
    if (BY_REASON[reason] && (a->in->j->rule || reason == REASON_RULE_NONE))
        BY_REASON[reason](a);
}

void explain_advise(const struct explain_in *in, struct explanation *e)
{
    static void (*const BY_CHECK[CHECK_COUNT])(struct advising *a) = {
        [CHECK_KEY_POLICY] = advise_key_policy, [CHECK_KMS_URI] = advise_kms_uri,
        [CHECK_TIME] = advise_time,             [CHECK_CLIENT_REQ_URL] = advise_client_req_url,
        [CHECK_PATH_USER] = advise_path_user};
    const struct decision *d = &in->j->decision;
    struct faults none = {0};
    struct advising a = {.in = in, .e = e};
    a.rules = yaml_parse(in->j->rules->file, str_z(in->j->rules->text), &none);
    if (!d->accepted)
        advise_by_reason(&a, d->reason);
    if (d->accepted && d->shadow[SHADOW_FORM] != REASON_OK)
        advise_by_reason(&a, d->shadow[SHADOW_FORM]);
    for (int c = 0; c < CHECK_COUNT && in->j->rule; c++) { /* all that fails: mend the first, and the next would show */
        const bool fails = d->checks[c] == CHECK_FAIL || d->checks[c] == CHECK_SHADOW_FAIL;
        if (fails && BY_CHECK[c])
            BY_CHECK[c](&a);
        else if (d->checks[c] == CHECK_SHADOW_FAIL) /* what shadow lets through is mended before it is enforced */
            advise_by_reason(&a, d->shadow[c]);
    }
    yaml_done(a.rules);
    faults_free(&none);
}
