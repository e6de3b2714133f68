/* Each check of the contract: what it holds for, and twins that differ by one thing. */
#include "judging.h"

#include "base/provided.h"

static unsigned hashes;

bool __real_provided_hash_end(struct provided_hash *h, uint8_t out[HASH_BYTES]);
bool __wrap_provided_hash_end(struct provided_hash *h, uint8_t out[HASH_BYTES]);

/* Counts how often the work of a verification is done (linked with --wrap). */
bool __wrap_provided_hash_end(struct provided_hash *h, uint8_t out[HASH_BYTES])
{
    hashes++;
    return __real_provided_hash_end(h, out);
}

static void test_all_good(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    for (enum check c = 0; c < CHECK_COUNT; c++)
        assert_int_equal(w->j->decision.checks[c], CHECK_PASS);
    assert_true(w->j->proven);
    assert_true(w->j->signer && str_eq_z(w->j->signer->id, "ink.1"));
}

static void test_schema(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.fields.time = STR("yesterday");
    assert_judged(w, &a, REASON_XML_INVALID);
    assert_false(w->j->proven);
    a = ask_of(w);
    a.find = "Version=\"1.1.0\"";
    a.put = "Version=\"9.9.9\"";
    assert_judged(w, &a, REASON_XML_INVALID);
    a = ask_of(w);
    a.find = "</SignedKmsRequest>";
    a.put = "<Surprise/></SignedKmsRequest>";
    assert_judged(w, &a, REASON_XML_INVALID);
    a = ask_of(w);
    a.find = "</ClientReqUrl>";
    a.put = "</ClientReqUrl><KrrList/>";
    assert_judged(w, &a, REASON_XML_INVALID);
    a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
}

static void test_signature(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.find = "client-1";
    a.put = "client-2";
    assert_judged(w, &a, REASON_SIGNATURE_INVALID);
    assert_false(w->j->proven);
    assert_null(w->j->signer);
    a = ask_of(w);
    a.key = &w->ink[WHO_BOB];
    assert_judged(w, &a, REASON_SIGNATURE_INVALID);
    a = ask_of(w);
    a.find = "xmldsig-more#hmac-sha256";
    a.put = "xmldsig-more#hmac-sha512";
    assert_judged(w, &a, REASON_SIGNATURE_PROFILE);
    a = ask_of(w);
    a.find = "URI=\"#xmldoc\"";
    a.put = "URI=\"#other\"";
    assert_judged(w, &a, REASON_SIGNATURE_REFERENCE);
    a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
}

static void test_signature_missing(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    struct buf text BUF_CLEANUP = BUF_INIT(1u << 20);
    ask_write(&a, &text);
    char *from = strstr(text.p, "<ds:Signature"), *to = strstr(text.p, "</SignedKmsRequest>");
    if (!from)
        from = strstr(text.p, "<Signature ");
    assert_true(from && to);
    memmove(from, to, strlen(to) + 1);
    a.body = str_z(text.p);
    assert_judged(w, &a, REASON_SIGNATURE_MISSING);
}

static void test_keys(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.key_id = "ink.2";
    a.fields.signature_id = STR("ink.2");
    assert_judged(w, &a, REASON_KEY_UNKNOWN);
    assert_false(w->j->proven);
    a = ask_of(w);
    a.fields.user_uri = STR("sip:nobody@example.org");
    assert_judged(w, &a, REASON_KEY_UNKNOWN);
    /* one user's key under another's name */
    a = ask_as(w, WHO_CAROL);
    a.key = &w->ink[WHO_ALICE];
    a.key_id = "ink.1";
    a.fields.signature_id = STR("ink.1");
    assert_judged(w, &a, REASON_KEY_UNKNOWN);
    a = ask_as(w, WHO_BOB);
    assert_judged(w, &a, REASON_KEY_REVOKED);
    assert_false(w->j->proven);
    a = ask_as(w, WHO_DAVE);
    assert_judged(w, &a, REASON_KEY_REVOKED);
    a = ask_as(w, WHO_DAVE); /* the twin: on the last instant */
    a.now_us = NOW - 1;
    assert_judged(w, &a, REASON_OK);
}

/* Whoever cannot be verified costs one HMAC, as a wrong signature does, and the rest is skipped. */
static void test_equal_work(void **state)
{
    struct world *w = *state;
    struct ask asks[4] = {ask_of(w), ask_of(w), ask_of(w), ask_as(w, WHO_BOB)};
    asks[0].key = &w->stranger;
    asks[1].key_id = "ink.2";
    asks[2].fields.user_uri = STR("sip:nobody@example.org");
    const enum reason expected[4] = {REASON_SIGNATURE_INVALID, REASON_KEY_UNKNOWN, REASON_KEY_UNKNOWN,
                                     REASON_KEY_REVOKED};
    for (int i = 0; i < 4; i++) {
        struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
        ask_write(&asks[i], &body);
        hashes = 0;
        assert_int_equal(judge_text(w, &asks[i], buf_view(&body)), expected[i]);
        assert_int_equal(hashes, 2); /* an HMAC is two */
        assert_int_equal(w->j->decision.checks[CHECK_SIGNATURE], CHECK_FAIL);
        for (enum check c = CHECK_KEY_POLICY; c < CHECK_COUNT; c++)
            assert_int_equal(w->j->decision.checks[c], CHECK_SKIP);
    }
}

static void test_key_policy(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    a.fields.signature_id = STR_MISSING;
    assert_judged(w, &a, REASON_KEY_POLICY);
    assert_true(w->j->proven);
    a = ask_of(w);
    a.fields.signature_id = STR("ink.2");
    assert_judged(w, &a, REASON_KEY_POLICY);
    a = ask_of(w);
    a.fields.signature_id = STR("INK.1");
    assert_judged(w, &a, REASON_KEY_POLICY);
    a = ask_of(w);
    a.fields.trk_id = STR("trk.9");
    assert_judged(w, &a, REASON_KEY_POLICY);
    a = ask_of(w);
    a.fields.trk_id = STR("ink.1"); /* a key of the user, but no TrK */
    assert_judged(w, &a, REASON_KEY_POLICY);
    a = ask_of(w);
    a.fields.trk_id = STR_MISSING;
    assert_judged(w, &a, REASON_OK);
}

static void test_the_trk_signs_only_without_an_ink(void **state)
{
    struct world *w = *state;
    struct ask a = ask_as(w, WHO_CAROL);
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(w->j->decision.key_type, KEY_TRK);
    const enum who had_one[] = {WHO_ALICE, WHO_BOB, WHO_DAVE}; /* a revoked and an expired InK count */
    for (int i = 0; i < 3; i++) {
        a = ask_as(w, had_one[i]);
        a.key = &w->trk[had_one[i]];
        a.key_id = "trk.1";
        a.fields.signature_id = STR("trk.1");
        assert_judged(w, &a, REASON_KEY_POLICY);
        assert_true(w->j->proven);
    }
}

static void test_a_revoked_trk(void **state)
{
    struct world *w = *state;
    struct faults faults = {0};
    size_t counts[3], at;
    struct key_entry e = {STR(ALICE), STR("trk.old"), KEY_TRK, KEY_RETIRING, TIME_NONE, w->stranger};
    assert_true(keystore_put(w->keys, &e, 1, false, counts, &at, &faults));
    struct ask a = ask_of(w);
    a.fields.trk_id = STR("trk.old");
    assert_judged(w, &a, REASON_OK);
    assert_true(keystore_set_state(w->keys, STR(ALICE), STR("trk.old"), KEY_REVOKED, &faults));
    a = ask_of(w);
    a.fields.trk_id = STR("trk.old");
    assert_judged(w, &a, REASON_KEY_POLICY);
}

static void test_kms_uri(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *uri;
        bool exact, host;
    } CASES[] = {
        {"kms.example.org", true, true},
        {"kms2.example.org", true, true},
        {"KMS.example.org", false, true},
        {"http://kms.example.org:8080", false, true},
        {"https://kms.example.org/", false, true},
        {"https://kms.example.org/keymanagement", false, false},
        {"ftp://kms.example.org", false, false},
        {"kms.example.org?", false, false},
        {"kms.example.org.evil.example", false, false},
        {"evil.kms.example.org", false, false},
        {"kms.evil.example", false, false},
        {"http://kms.evil.example/kms.example.org", false, false},
        {"k", false, false},
        {"kms.example.org#x", false, false},
        {"evil.example#://kms.example.org", false, false},
        {"evil.example?://kms.example.org", false, false},
        {"\xd0\xba" "ms.example.org", false, false},
    };
    for (size_t i = 0; i < 2 * sizeof CASES / sizeof *CASES; i++) {
        const size_t k = i / 2;
        w->rule[0].checks.kms_uri_host = i % 2;
        struct ask a = ask_of(w);
        a.fields.kms_uri = str_z(CASES[k].uri);
        assert_judged(w, &a, (i % 2 ? CASES[k].host : CASES[k].exact) ? REASON_OK : REASON_KMS_URI_MISMATCH);
    }
}

static void judged_at(struct world *w, int64_t time_us, enum reason expected)
{
    char time[TIME_TEXT];
    struct ask a = ask_of(w);
    time_format(time_us, false, time); /* whole seconds: the microseconds are written by hand */
    char *z = strchr(time, 'Z');
    snprintf(z, sizeof time - (size_t)(z - time), ".%06dZ", (int)(time_us % US_PER_S));
    a.fields.time = str_z(time);
    assert_judged(w, &a, expected);
    assert_int_equal(w->j->decision.skew_us, NOW - time_us);
}

/* Both ends are inside. */
static void test_time(void **state)
{
    struct world *w = *state;
    w->rule[0].checks.past_us = 2 * US_PER_S;
    judged_at(w, NOW, REASON_OK);
    judged_at(w, NOW - 2 * US_PER_S, REASON_OK);
    judged_at(w, NOW - 2 * US_PER_S - 1, REASON_TIME_STALE);
    judged_at(w, NOW + 5 * US_PER_S, REASON_OK);
    judged_at(w, NOW + 5 * US_PER_S + 1, REASON_TIME_FUTURE);
    judged_at(w, NOW - 3600 * US_PER_S, REASON_TIME_STALE);
    judged_at(w, NOW + 3600 * US_PER_S, REASON_TIME_FUTURE);
}

/* The replay memory begins 3 s before NOW: what is older cannot be told from a replay, where that matters. */
static void test_time_before_the_start(void **state)
{
    struct world *w = *state;
    judged_at(w, NOW - 3 * US_PER_S, REASON_OK);
    judged_at(w, NOW - 3 * US_PER_S - 1, REASON_REPLAY_UNAVAILABLE);
    w->rule[0].checks.mode[CHECK_REPLAY] = MODE_OFF;
    judged_at(w, NOW - 3 * US_PER_S - 1, REASON_OK);
    w->rule[0].checks.mode[CHECK_REPLAY] = MODE_ENFORCE;
    w->rule[0].checks.mode[CHECK_TIME] = MODE_SHADOW;
    judged_at(w, NOW - 3 * US_PER_S - 1, REASON_OK);
    w->rule[0].checks.mode[CHECK_TIME] = MODE_ENFORCE;
    judged_at(w, NOW - 3 * US_PER_S - 1, REASON_REPLAY_UNAVAILABLE);
    struct ask a = ask_of(w); /* what cannot be a replay */
    a.now_us = NOW - 3 * US_PER_S - 1;
    a.key = NULL;
    a.fields.signature_id = a.fields.trk_id = STR_MISSING;
    w->rule[0].accept = FORM_UNSIGNED;
    assert_judged(w, &a, REASON_OK);
}

static void test_time_zone(void **state)
{
    struct world *w = *state;
    struct checks *c = &w->rule[0].checks;
    char local[TIME_TEXT], *z;
    time_format(NOW + 3600 * US_PER_S, false, local);
    z = strchr(local, 'Z');
    *z = 0;
    struct ask a = ask_of(w);
    a.fields.time = str_z(local);
    assert_judged(w, &a, REASON_TIME_FUTURE); /* read as UTC */
    c->zone_minutes = 60;
    assert_judged(w, &a, REASON_OK);
    c->zone_minutes = 120;
    a = ask_of(w);
    a.fields.time = str_z(local);
    assert_judged(w, &a, REASON_TIME_STALE);
    c->zone_refuse = true;
    assert_judged(w, &a, REASON_TIME_ZONE);
    /* the replay memory reads it as the check does: an hour ago it would be before the start */
    c->zone_refuse = false;
    c->zone_minutes = -60;
    time_format(NOW - 3600 * US_PER_S, false, local);
    *z = 0;
    a = ask_of(w);
    a.fields.time = str_z(local);
    assert_judged(w, &a, REASON_OK);
    c->zone_refuse = true;
    time_format(NOW + 3600 * US_PER_S, false, local);
    snprintf(z, 8, "+01:00"); /* a zone that is there is read, whatever is assumed */
    a = ask_of(w);
    a.fields.time = str_z(local);
    assert_judged(w, &a, REASON_OK);
}

#define TARGET V1 "/keyprov/sip%3Aalice%40example.org?a=/b"
static void test_client_req_url(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *url;
        bool exact, normalized, prefix;
    } CASES[] = {
        {BASE TARGET, true, true, true},
        {"http://localhost:8080" TARGET, true, true, true},
        {"HTTPS://KMS.example.org" TARGET, false, true, false},
        {"https://kms.example.org:443" TARGET, false, true, false},
        {BASE "/x/.." TARGET, false, true, false},
        {BASE V1 "/keyprov/sip%3aalice%40example.org?a=/b", false, true, false},
        {BASE V1 "/keyprov/sip%3Aalice%40ex%61mple.org?a=/b", false, true, false},
        {BASE V1 "/keyprov/sip:alice@example.org?a=/b", false, false, false},
        {BASE V1 "/keyprov/sip%3Aalice%40example.org", false, false, false},
        {BASE V1 "/keyprov/sip%3Aalice%40example.org?a=", false, false, false},
        {BASE V1 "/keyprov", false, false, true},
        {BASE V1 "/keyprov/", false, false, false},
        {BASE V1 "/keypro", false, false, false},
        {BASE V1, false, false, true},
        {BASE, false, false, true},
        {"https://kms.example.or", false, false, false},
        {"https:/", false, false, false},
        {"https://kms.example.org:444" TARGET, false, false, false},
        {"http://kms.example.org" TARGET, false, false, false},
        {"https://kms.example.org@evil.example" TARGET, false, false, false},
        {"https://u@kms.example.org" TARGET, false, false, false},
        {BASE TARGET "#f", false, false, false},
        {BASE TARGET "/", false, false, false},
        {BASE V1 "/init", false, false, false},
        {TARGET, false, false, false},
    };
    for (size_t i = 0; i < 3 * sizeof CASES / sizeof *CASES; i++) {
        const size_t k = i / 3;
        struct ask a = ask_of(w);
        ask_at(&a, TARGET, CASES[k].url);
        w->rule[0].checks.url_compare = i % 3 == 0 ? URL_EXACT : i % 3 == 1 ? URL_NORMALIZED : URL_PREFIX;
        const bool good = i % 3 == 0 ? CASES[k].exact : i % 3 == 1 ? CASES[k].normalized : CASES[k].prefix;
        const enum reason got = judge_ask(w, &a);
        if (got != (good ? REASON_OK : REASON_CLIENT_REQ_URL_MISMATCH) && !(got == REASON_XML_INVALID && !good))
            fail_msg("%s, compare %d: %s", CASES[k].url, (int)(i % 3), reason_name(got));
        if (got == REASON_XML_INVALID)
            continue;
        const bool local = strncmp(CASES[k].url, "http://l", 8) == 0;
        assert_true(w->j->decision.expected_url && !strchr(w->j->decision.expected_url, '?'));
        assert_int_equal(local, strncmp(w->j->decision.expected_url, "http://l", 8) == 0);
    }
}

static void test_path_user(void **state)
{
    struct world *w = *state;
    static char group[] = "sip:group-*@example.org";
    char *also[] = {group};
    static const struct {
        const char *path;
        bool good, with_also;
    } CASES[] = {
        {V1 "/keyprov", true, true},
        {V1 "/keyprov/sip%3Aalice%40example.org", true, true},
        {V1 "/keyprov/sip:alice@example.org", true, true},
        {V1 "/keyprov/s%69p:alice@example.org/D6B4323200000000", true, true},
        {V1 "/keyprov/sip:bob@example.org", false, false},
        {V1 "/keyprov/sip:alice@example.or", false, false},
        {V1 "/keyprov/sip:Alice@example.org", false, false},
        {V1 "/keyprov/sip%253Aalice%2540example.org", false, false},
        {V1 "/keyprov/sip:bob@example.org/D6B4323200000000", false, false},
        {V1 "/keyprov/sip:group-7@example.org", false, true},
        {V1 "/keyprov/sip:group-7@example.org.evil", false, false},
        {V1 "/lookup/sip:bob@example.org", true, true},
        {V1 "/init", true, true},
    };
    for (size_t i = 0; i < 2 * sizeof CASES / sizeof *CASES; i++) {
        const size_t k = i / 2;
        char url[256];
        struct ask a = ask_of(w);
        snprintf(url, sizeof url, BASE "%s", CASES[k].path);
        ask_at(&a, CASES[k].path, url);
        w->rule[0].checks.also = i % 2 ? (struct strings){also, 1} : (struct strings){0};
        assert_judged(w, &a, (i % 2 ? CASES[k].with_also : CASES[k].good) ? REASON_OK : REASON_PATH_USER_MISMATCH);
    }
    w->rule[0].checks.also = (struct strings){0};
}

/* `also` is for proven users only. */
static void test_also_needs_proof(void **state)
{
    struct world *w = *state;
    static char group[] = "sip:group-*@example.org";
    char *also[] = {group};
    w->rule[0].checks.also = (struct strings){also, 1};
    w->rule[0].accept = FORM_SIGNED | FORM_UNSIGNED;
    struct ask a = ask_of(w);
    ask_at(&a, V1 "/keyprov/sip:group-7@example.org", BASE V1 "/keyprov/sip:group-7@example.org");
    assert_judged(w, &a, REASON_OK);
    a.key = NULL;
    a.fields.signature_id = STR_MISSING;
    a.fields.trk_id = STR_MISSING;
    assert_judged(w, &a, REASON_PATH_USER_MISMATCH);
}

static void test_replay(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    assert_judged(w, &a, REASON_REPLAY_SEEN);
    assert_true(w->j->proven);
    a.find = "<ds:SignatureValue>"; /* the same value, written another way */
    a.put = "<ds:SignatureValue>\n ";
    struct buf text BUF_CLEANUP = BUF_INIT(1u << 20);
    struct ask plain = a;
    plain.find = NULL;
    ask_write(&plain, &text);
    if (!strstr(text.p, a.find)) {
        a.find = "<SignatureValue>";
        a.put = "<SignatureValue>\n ";
    }
    assert_judged(w, &a, REASON_REPLAY_SEEN);
    a = ask_of(w);
    assert_judged(w, &a, REASON_OK);
}

/* What is refused for another reason is not spent: a stranger cannot use up a request by sending it elsewhere. */
static void test_replay_is_spent_last(void **state)
{
    struct world *w = *state;
    struct ask good = ask_of(w), elsewhere = good;
    elsewhere.target = V1 "/init";
    assert_judged(w, &elsewhere, REASON_CLIENT_REQ_URL_MISMATCH);
    assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_SKIP);
    assert_int_equal(replay_count(w->gate.replay), 0);
    assert_judged(w, &good, REASON_OK);
    assert_int_equal(replay_count(w->gate.replay), 1);
    assert_judged(w, &elsewhere, REASON_CLIENT_REQ_URL_MISMATCH);
    assert_judged(w, &good, REASON_REPLAY_SEEN);
}

/* What one rule let through before its Time must not come again under another rule at its Time. */
static void test_replay_under_another_rule(void **state)
{
    struct world *w = *state;
    char elsewhere[] = "/elsewhere", *paths[] = {elsewhere}, local[TIME_TEXT], ahead[TIME_TEXT];
    const int64_t hour = 3600 * US_PER_S;
    w->rules.request_count = 2;
    time_format(NOW, false, local);
    *strchr(local, 'Z') = 0;
    time_format(NOW + hour, false, ahead);
    for (int i = 0; i < 2; i++) {
        struct ask a = ask_of(w), twin;
        a.fields.time = str_z(i ? ahead : local);
        w->rule[0].match.path = (struct strings){0};
        w->rule[0].checks.mode[CHECK_TIME] = i ? MODE_OFF : MODE_ENFORCE;
        w->rule[1].checks.zone_minutes = i ? 0 : -60;
        a.now_us = NOW;
        assert_judged(w, &a, REASON_OK);
        assert_string_equal(w->j->decision.rule, "everyone");
        w->rule[0].match.path = (struct strings){paths, 1};
        twin = ask_of(w);
        twin.fields.time = a.fields.time;
        twin.now_us = a.now_us = NOW + hour;
        assert_judged(w, &twin, REASON_OK);
        assert_string_equal(w->j->decision.rule, "second");
        assert_judged(w, &a, REASON_REPLAY_SEEN);
        fresh(state);
        w->rules.request_count = 2;
    }
}

/* A reload that reads Times without a zone as later makes no old one new: neither at once nor when it is forgotten. */
static void test_replay_after_another_zone(void **state)
{
    struct world *w = *state;
    const int64_t hour = 3600 * US_PER_S;
    char local[TIME_TEXT], next[TIME_TEXT];
    time_format(NOW + hour, false, local);
    *strchr(local, 'Z') = 0;
    time_format(NOW + hour + US_PER_S, false, next);
    *strchr(next, 'Z') = 0;
    w->rule[0].checks.zone_minutes = 60;
    struct ask a = ask_of(w);
    a.fields.time = str_z(local);
    assert_judged(w, &a, REASON_OK);
    w->rule[0].checks.zone_minutes = 0;
    a.now_us = NOW + hour;
    assert_judged(w, &a, REASON_REPLAY_UNAVAILABLE);
    assert_non_null(strstr(w->j->decision.found[CHECK_REPLAY].text, "another zone"));
    struct ask fresh_one = ask_of(w);
    fresh_one.fields.time = str_z(next);
    fresh_one.now_us = NOW + hour;
    assert_judged(w, &fresh_one, REASON_OK);
    assert_judged(w, &fresh_one, REASON_REPLAY_SEEN);
}

/* What a shadow let through before its Time is remembered when that comes, and `time` is enforced. */
static void test_replay_after_a_shadow(void **state)
{
    struct world *w = *state;
    char ahead[TIME_TEXT];
    for (int zone = 0; zone < 2; zone++) {
        time_format(NOW + 7200 * US_PER_S, false, ahead);
        if (zone)
            *strchr(ahead, 'Z') = 0;
        w->rule[0].checks.mode[CHECK_TIME] = MODE_SHADOW;
        struct ask a = ask_of(w);
        a.fields.time = str_z(ahead);
        assert_judged(w, &a, REASON_OK);
        w->rule[0].checks.mode[CHECK_TIME] = MODE_ENFORCE;
        a.now_us = NOW + 7200 * US_PER_S;
        assert_judged(w, &a, REASON_REPLAY_SEEN);
        fresh(state);
    }
}

/* A Time years ahead takes no place for years. */
static void test_replay_far_ahead(void **state)
{
    struct world *w = *state;
    w->rules.request_count = 2;
    w->rule[0].checks.mode[CHECK_TIME] = MODE_OFF;
    struct ask a = ask_of(w);
    a.fields.time = STR("9000-01-01T00:00:00Z");
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(replay_count(w->gate.replay), 1);
    a = ask_of(w);
    a.now_us = NOW + 49 * 3600 * US_PER_S;
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(replay_count(w->gate.replay), 1);
}

static void test_replay_without_a_memory(void **state)
{
    struct world *w = *state;
    struct replay *memory = w->gate.replay;
    struct ask a = ask_of(w);
    w->gate.replay = NULL;
    assert_judged(w, &a, REASON_OK);
    assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_SKIP);
    w->gate.replay = memory;
    assert_judged(w, &a, REASON_OK);
}

static void test_replay_full(void **state)
{
    struct world *w = *state;
    replay_free(w->gate.replay);
    w->gate.replay = replay_memory_new(16, NOW - US_PER_S, &(struct replay_settings){.past_us = 5 * US_PER_S});
    struct ask a = ask_of(w), b = ask_of(w);
    assert_judged(w, &a, REASON_OK);
    assert_judged(w, &b, REASON_REPLAY_FULL);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup(f, fresh)
    const struct CMUnitTest tests[] = {
        CASE(test_all_good),
        CASE(test_schema),
        CASE(test_signature),
        CASE(test_signature_missing),
        CASE(test_keys),
        CASE(test_equal_work),
        CASE(test_key_policy),
        CASE(test_the_trk_signs_only_without_an_ink),
        CASE(test_a_revoked_trk),
        CASE(test_kms_uri),
        CASE(test_time),
        CASE(test_time_before_the_start),
        CASE(test_time_zone),
        CASE(test_client_req_url),
        CASE(test_path_user),
        CASE(test_also_needs_proof),
        CASE(test_replay),
        CASE(test_replay_is_spent_last),
        CASE(test_replay_under_another_rule),
        CASE(test_replay_far_ahead),
        CASE(test_replay_after_another_zone),
        CASE(test_replay_after_a_shadow),
        CASE(test_replay_without_a_memory),
        CASE(test_replay_full),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
