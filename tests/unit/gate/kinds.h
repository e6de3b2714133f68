/*
 * Requests of every kind, each different from a good one by one thing; rules of every kind, each different from the
 * standard by one thing. For tests that hold two ways of judging against each other.
 */
#ifndef TEST_GATE_KINDS_H
#define TEST_GATE_KINDS_H

#include "judging.h"

struct kind {
    const char *name;
    void (*change)(const struct world *w, struct ask *a);
    bool twice; /* it was sent before */
};

#define KIND(name) static void kind_##name(const struct world *w, struct ask *a)
KIND(good)
{
    (void)w, (void)a;
}
KIND(kms_uri)
{
    (void)w;
    a->fields.kms_uri = STR("kms.evil.example");
}
KIND(kms_uri_of_host)
{
    (void)w;
    a->fields.kms_uri = STR("HTTPS://KMS.example.org:8443/x");
}
KIND(late)
{
    (void)w;
    time_format(NOW - 20 * US_PER_S, true, a->time);
    a->fields.time = str_z(a->time);
}
KIND(early)
{
    (void)w;
    time_format(NOW + 20 * US_PER_S, true, a->time);
    a->fields.time = str_z(a->time);
}
KIND(local)
{
    (void)w;
    time_format(NOW + 7200 * US_PER_S, true, a->time);
    a->time[strlen(a->time) - 1] = '\0';
    a->fields.time = str_z(a->time);
}
KIND(url_of_another)
{
    (void)w;
    a->fields.client_req_url = STR("https://kms.evil.example" V1 "/keyprov");
}
KIND(url_in_capitals)
{
    (void)w;
    a->fields.client_req_url = STR("HTTPS://KMS.example.org" V1 "/keyprov");
}
KIND(url_cut)
{
    (void)w;
    a->fields.client_req_url = STR(BASE "/keymanagement");
}
KIND(wrong_key)
{
    a->key = &w->stranger;
}
KIND(unknown_key)
{
    (void)w;
    a->key_id = "ink.9";
    a->fields.signature_id = STR("ink.9");
}
KIND(trk)
{
    a->key = &w->trk[WHO_ALICE];
    a->key_id = "trk.1";
    a->fields.signature_id = STR("trk.1");
}
KIND(revoked)
{
    *a = ask_as(w, WHO_BOB);
}
KIND(expired)
{
    *a = ask_as(w, WHO_DAVE);
}
KIND(signature_id)
{
    (void)w;
    a->fields.signature_id = STR("ink.2");
}
KIND(path_user)
{
    (void)w;
    ask_at(a, V1 "/keyprov/sip%3Agroup-1%40example.org", BASE V1 "/keyprov/sip%3Agroup-1%40example.org");
}
KIND(version)
{
    (void)w;
    a->find = "Version=\"1.1.0\"";
    a->put = "Version=\"2.0.0\"";
}
KIND(schema)
{
    (void)w;
    a->find = "</KmsRequest>";
    a->put = "<Unknown/></KmsRequest>";
}
KIND(unsigned)
{
    (void)w;
    a->key = NULL;
}
KIND(empty)
{
    (void)w;
    a->body = STR("");
}

static const struct kind KINDS[] UNUSED = {
    {"good", kind_good, false},
    {"good, once more", kind_good, true},
    {"kms_uri", kind_kms_uri, false},
    {"kms_uri of the host", kind_kms_uri_of_host, false},
    {"late", kind_late, false},
    {"early", kind_early, false},
    {"local time", kind_local, false},
    {"url of another", kind_url_of_another, false},
    {"url in capitals", kind_url_in_capitals, false},
    {"url cut", kind_url_cut, false},
    {"wrong key", kind_wrong_key, false},
    {"unknown key", kind_unknown_key, false},
    {"trk", kind_trk, false},
    {"revoked", kind_revoked, false},
    {"expired", kind_expired, false},
    {"signature_id", kind_signature_id, false},
    {"path_user", kind_path_user, false},
    {"version", kind_version, false},
    {"schema", kind_schema, false},
    {"unsigned", kind_unsigned, false},
    {"empty", kind_empty, false},
};
enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS };

/* Rule n: 0 the standard; then each check in shadow, each off; then each parameter by itself. */
enum {
    LOOSE_HOST = 1 + 2 * CHECK_COUNT,
    LOOSE_WINDOW,
    LOOSE_ZONE,
    STRICT_ZONE,
    LOOSE_NORMALIZED,
    LOOSE_PREFIX,
    LOOSE_VERSION,
    LOOSE_ALSO,
    LOOSE_FORMS,
    LOOSE_ALL,
    RULE_COUNT
};
static void set_rule(struct request_rule *r, int n) UNUSED;
static void set_rule(struct request_rule *r, int n)
{
    static char versions[] = "2.0.0 1.1.0", group[] = "sip:group-*";
    static char *also[] = {group};
    struct checks *c = &r->checks;
    if (n >= 1 && n <= 2 * CHECK_COUNT)
        c->mode[(n - 1) / 2] = n % 2 ? MODE_SHADOW : MODE_OFF;
    c->kms_uri_host = n == LOOSE_HOST;
    if (n == LOOSE_WINDOW)
        c->past_us = c->future_us = 30 * US_PER_S;
    c->zone_minutes = n == LOOSE_ZONE ? 120 : 0;
    c->zone_refuse = n == STRICT_ZONE;
    if (n == LOOSE_NORMALIZED)
        c->url_compare = URL_NORMALIZED;
    if (n == LOOSE_PREFIX)
        c->url_compare = URL_PREFIX;
    if (n == LOOSE_VERSION)
        c->versions = versions;
    if (n == LOOSE_ALSO)
        c->also = (struct strings){also, 1};
    if (n == LOOSE_FORMS || n == LOOSE_ALL)
        r->accept = FORM_SIGNED | FORM_UNSIGNED | FORM_EMPTY;
    for (int k = 0; k < CHECK_COUNT && n == LOOSE_ALL; k++)
        c->mode[k] = MODE_SHADOW;
}

/* Judges one of the kinds under one of the rules; the judgement is w->j. Two calls make the same bytes only with the
 * same `made`. */
static void judge_kind(struct world *w, const struct kind *k, int rule, const struct ask *a, struct str body) UNUSED;
static void judge_kind(struct world *w, const struct kind *k, int rule, const struct ask *a, struct str body)
{
    void *state = w;
    assert_int_equal(fresh(&state), 0);
    replay_free(w->gate.replay); /* as of a gateway that has run for long */
    const struct replay_settings minute = {.past_us = 60 * US_PER_S};
    w->gate.replay = replay_memory_new(1000, NOW - 3600 * US_PER_S, &minute);
    set_rule(&w->rule[0], rule);
    for (int i = 0; i <= k->twice; i++)
        (void)judge_text(w, a, body);
}

#endif
