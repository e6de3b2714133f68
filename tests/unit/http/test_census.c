#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http/census_inside.h"
#include "keys/table.h"

#define HOUR_US (3600 * US_PER_S)
#define NOW (INT64_C(1795000000) * US_PER_S)

static struct request_rule a_rule(const char *id)
{
    struct request_rule q = {.id = (char *)(uintptr_t)id, .accept = FORM_SIGNED, .until_us = TIME_NONE};
    q.checks.past_us = q.checks.future_us = 5 * US_PER_S;
    q.checks.min_hmac_bits = 256;
    return q;
}

/* An accepted, proven request, to be changed. */
static void judged(struct judgement *j, const struct request_rule *q, const char *user, int64_t at_us)
{
    memset(j, 0, sizeof *j);
    decision_init(&j->decision);
    j->rule = q;
    j->proven = true;
    j->decision.rule = q ? q->id : NULL;
    j->decision.user = str_z(user);
    j->decision.time_us = at_us;
    j->decision.accepted = true;
}

typedef void teller(struct census *t, int64_t now_us, struct json *j);
static struct json_doc *told(struct census *t, teller *tell, int64_t now_us)
{
    struct buf out BUF_CLEANUP = BUF_INIT(16 << 20);
    struct json j = {.out = &out};
    size_t at;
    const char *why;
    tell(t, now_us, &j);
    assert_false(out.failed);
    struct json_doc *doc = json_read(buf_view(&out), &at, &why);
    assert_non_null(doc);
    return doc;
}

static const struct json_value *member(const struct json_value *v, const char *key)
{
    const struct json_value *m = json_get(v, key);
    assert_non_null(m);
    return m;
}

static long number(const struct json_value *v, const char *key)
{
    const struct str text = member(v, key)->text;
    char z[32] = "";
    memcpy(z, text.p, text.n);
    return strtol(z, NULL, 10);
}

static size_t items(const struct json_value *v)
{
    size_t n = 0;
    for (const struct json_value *m = v->first; m; m = m->next)
        n++;
    return n;
}

static void traffic_is_counted_by_step(void **state)
{
    (void)state;
    struct census *t = census_new(2, NOW, NULL);
    const struct request_rule q = a_rule("everyone");
    struct judgement j;
    judged(&j, &q, "sip:a@example.org", NOW);
    census_note(t, 0, &j);
    census_note(t, 1, &j);
    j.decision.reason = REASON_UPSTREAM_TIMEOUT;
    census_note(t, 0, &j);
    j.decision.accepted = false;
    j.decision.reason = REASON_TIME_STALE;
    j.decision.time_us = NOW - 7 * US_PER_S;
    census_note(t, 0, &j);
    j.decision.time_us = NOW - 2 * HOUR_US; /* beyond the ten minutes; in the day */
    census_note(t, 0, &j);
    struct json_doc *doc = told(t, census_tell_traffic, NOW);
    const struct json_value *bins = member(member(json_root(doc), "minutes"), "bins");
    assert_int_equal(items(bins), 2);
    assert_int_equal(number(member(bins->first, "reject"), "time.stale"), 1);
    assert_int_equal(number(member(bins->first->next, "accept"), "ok"), 2);
    assert_int_equal(number(member(bins->first->next, "accept"), "upstream.timeout"), 1);
    assert_int_equal(items(member(bins->first->next, "reject")), 0);
    assert_int_equal(items(member(member(json_root(doc), "day"), "bins")), 2);
    json_free(doc);
    doc = told(t, census_tell_traffic, NOW + 20 * 60 * US_PER_S); /* time goes on without requests */
    assert_int_equal(items(member(member(json_root(doc), "minutes"), "bins")), 0);
    json_free(doc);
    census_free(t);
}

static void a_clock_that_steps_back_spoils_nothing(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    const struct request_rule q = a_rule("everyone");
    struct judgement j;
    struct census_use u;
    for (int i = 0; i < 3; i++) {
        judged(&j, &q, "sip:a@example.org", NOW - i * 40 * 24 * HOUR_US);
        census_note(t, 0, &j);
    }
    judged(&j, &q, "sip:a@example.org", -1);
    census_note(t, 0, &j);
    assert_true(census_use(t, STR("everyone"), NOW, &u));
    assert_int_equal(u.hours[0], 1);
    assert_int_equal(u.days[0], 1);
    assert_true(u.last_us == NOW);
    for (int i = 1; i < 24; i++)
        assert_int_equal(u.hours[i], 0);
    json_free(told(t, census_tell_traffic, -US_PER_S));
    census_free(t);
}

static void hours_and_days_move_on(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    const struct request_rule q = a_rule("everyone");
    struct judgement j;
    struct census_use u;
    assert_false(census_use(t, STR("everyone"), NOW, &u));
    assert_true(u.last_us == TIME_NONE);
    for (int hour = 0; hour < 100; hour++) {
        judged(&j, &q, "sip:a@example.org", NOW + hour * HOUR_US);
        for (int n = 0; n <= hour; n++)
            census_note(t, 0, &j);
        assert_true(census_use(t, STR("everyone"), NOW, &u)); /* takes the notes out */
    }
    assert_true(census_use(t, STR("everyone"), NOW + 99 * HOUR_US, &u));
    assert_int_equal(u.accepted, 100 * 101 / 2);
    uint32_t days = 0;
    for (int i = 0; i < 24; i++)
        assert_int_equal(u.hours[i], 100 - i);
    for (int i = 0; i < 31; i++)
        days += u.days[i];
    assert_int_equal(days, 100 * 101 / 2);
    assert_true(census_use(t, STR("everyone"), NOW + 109 * HOUR_US, &u));
    assert_int_equal(u.hours[9], 0);
    assert_int_equal(u.hours[10], 100);
    assert_true(census_use(t, STR("everyone"), NOW + 1000 * HOUR_US, &u));
    for (int i = 0; i < 31; i++)
        assert_int_equal(u.days[i], 0);
    census_free(t);
}

static void shadow_and_exceptions_name_their_users(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    const struct request_rule strict = a_rule("everyone");
    struct request_rule loose = a_rule("old-radios");
    struct judgement j;
    loose.checks.mode[CHECK_TIME] = MODE_SHADOW;
    judged(&j, &strict, "sip:strict@example.org", NOW);
    census_note(t, 0, &j);
    judged(&j, &loose, "sip:a@example.org", NOW);
    census_note(t, 0, &j);
    j.decision.shadow[CHECK_TIME] = REASON_TIME_STALE;
    census_note(t, 0, &j);
    j.proven = false;
    j.decision.user = STR("sip:b@example.org");
    j.decision.shadow[CHECK_TIME] = REASON_OK;
    j.decision.shadow[SHADOW_FORM] = REASON_SIGNATURE_MISSING;
    census_note(t, 0, &j);
    j.decision.accepted = false; /* nobody was let pass */
    census_note(t, 0, &j);
    struct json_doc *doc = told(t, census_tell_passes, NOW);
    const struct json_value *passes = member(json_root(doc), "passes");
    assert_int_equal(items(passes), 3);
    for (const struct json_value *p = passes->first; p; p = p->next) {
        const struct str by = member(p, "by")->text;
        assert_true(str_eq_z(member(p, "rule")->text, "old-radios"));
        assert_int_equal(number(p, "count"), str_eq_z(by, "exception") ? 3 : 1);
        const struct json_value *first = member(p, "users")->first;
        assert_true(str_eq_z(member(first, "user")->text,
                             str_eq_z(by, "form") ? "sip:b@example.org" : "sip:a@example.org"));
        assert_true(str_eq_z(member(first, "proven")->text, str_eq_z(by, "form") ? "false" : "true"));
        assert_int_equal(number(p, "users_known"), str_eq_z(by, "exception") ? 2 : 1);
    }
    json_free(doc);
    census_free(t);
}

static void note_clock(struct census *t, const struct request_rule *q, const char *user, int64_t ms)
{
    struct judgement j;
    judged(&j, q, user, NOW);
    j.decision.skew_us = ms * 1000;
    census_note(t, 0, &j);
}

static void clocks_the_nearest_to_refusal_first(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    struct request_rule q = a_rule("everyone"), wide = a_rule("wide");
    wide.checks.past_us = 100 * US_PER_S;
    note_clock(t, &q, "sip:good@example.org", 900);  /* under a fifth */
    note_clock(t, &q, "sip:late@example.org", 3500);
    note_clock(t, &q, "sip:late@example.org", 4000);
    note_clock(t, &q, "sip:ahead@example.org", -4900);
    note_clock(t, &wide, "sip:wide@example.org", 30000);
    assert_int_equal(census_drifting(t, NOW, 60), 2);
    assert_int_equal(census_drifting(t, NOW + 25 * HOUR_US, 60), 0); /* not seen for a day */
    struct json_doc *doc = told(t, census_tell_clocks, NOW);
    const struct json_value *v = member(json_root(doc), "users")->first;
    assert_int_equal(number(json_root(doc), "users_known"), 3);
    assert_true(str_eq_z(member(v, "user")->text, "sip:ahead@example.org"));
    assert_int_equal(number(v, "limit_ms"), 5000);
    assert_true(str_eq_z(member(v->next, "user")->text, "sip:late@example.org"));
    assert_int_equal(number(v->next, "first_ms"), 3500);
    assert_int_equal(number(v->next, "skew_ms"), 4000);
    assert_int_equal(number(v->next->next, "limit_ms"), 100000);
    json_free(doc);
    note_clock(t, &q, "sip:late@example.org", 10); /* mended: seen as such */
    assert_int_equal(census_drifting(t, NOW, 60), 1);
    census_free(t);
}

/* More users than places, most of them only once: the tables keep those that weigh most, and say what they forgot. */
static void a_crowd_takes_no_more_room(void **state)
{
    (void)state;
    enum { CROWD = 40000 };
    struct census *t = census_new(1, NOW, NULL);
    struct request_rule loose = a_rule("old-radios");
    struct judgement j;
    loose.accept |= FORM_UNSIGNED;
    for (int i = 0; i < 50; i++) {
        judged(&j, &loose, "sip:honest@example.org", NOW);
        census_note(t, 0, &j);
    }
    for (int i = 0; i < CROWD; i++) {
        char name[64];
        snprintf(name, sizeof name, "sip:%d@example.org", i);
        judged(&j, &loose, name, NOW);
        j.decision.skew_us = 4 * US_PER_S;
        census_note(t, 0, &j);
        if (i % 200 == 0)
            (void)census_drifting(t, NOW, 60); /* takes the notes out */
    }
    assert_int_equal(census_lost(t), 0);
    struct json_doc *doc = told(t, census_tell_passes, NOW);
    const struct json_value *p = member(json_root(doc), "passes")->first;
    assert_true(number(json_root(doc), "forgotten") >= CROWD - PASS_CELLS);
    assert_int_equal(number(p, "count"), CROWD + 50);
    assert_true(str_eq_z(member(member(p, "users")->first, "user")->text, "sip:honest@example.org"));
    assert_int_equal(number(member(p, "users")->first, "count"), 50);
    json_free(doc);
    doc = told(t, census_tell_clocks, NOW);
    assert_true(number(json_root(doc), "users_known") <= CLOCK_CELLS);
    json_free(doc);
    census_free(t);
}

static void rules_beyond_the_table_push_out_the_oldest(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    struct judgement j;
    struct census_use u;
    for (int i = 0; i < PASSES + 100; i++) {
        char id[32];
        snprintf(id, sizeof id, "rule-%d", i);
        struct request_rule q = a_rule(id);
        q.accept |= FORM_EMPTY;
        judged(&j, &q, "sip:a@example.org", NOW + i);
        census_note(t, 0, &j);
    }
    assert_false(census_use(t, STR("rule-0"), NOW, &u));
    assert_true(census_use(t, STR("rule-100"), NOW, &u));
    assert_int_equal(u.accepted, 1);
    json_free(told(t, census_tell_passes, NOW));
    census_free(t);
}

static void a_full_ring_loses_and_counts(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    const struct request_rule q = a_rule("everyone");
    struct judgement j;
    struct census_use u;
    judged(&j, &q, "sip:a@example.org", NOW);
    pthread_mutex_lock(&t->lock); /* nobody takes them out */
    unsigned noted = 0;
    while (!census_lost(t)) {
        census_note(t, 0, &j);
        noted++;
    }
    pthread_mutex_unlock(&t->lock);
    assert_true(noted > 1000);
    assert_true(census_use(t, STR("everyone"), NOW, &u));
    assert_int_equal(u.accepted, noted - 1);
    assert_int_equal(census_lost(t), 1);
    for (int i = 0; i < 5000; i++) { /* and goes on, over the ring's end */
        judged(&j, &q, i % 2 ? "" : "sip:somebody-with-a-longer-name@example.org", NOW);
        census_note(t, 0, &j);
        (void)census_use(t, STR("everyone"), NOW, &u);
    }
    assert_int_equal(u.accepted, noted - 1 + 5000);
    census_free(t);
}

static void old_keys_are_told_until_they_are_left(void **state)
{
    (void)state;
    struct census *t = census_new(1, NOW, NULL);
    const struct request_rule q = a_rule("everyone");
    struct judgement j;
    judged(&j, &q, "sip:a@example.org", NOW);
    j.ring.n = 3;
    j.ring.keys[0] = (struct key){.type = KEY_INK, .state = KEY_RETIRING, .not_after = NOW + HOUR_US};
    j.ring.keys[0].id = STR("ink.1");
    j.ring.keys[1] = (struct key){.type = KEY_TRK, .state = KEY_ACTIVE, .not_after = TIME_NONE, .id = STR("trk.1")};
    j.ring.keys[2] = (struct key){.type = KEY_TRK, .state = KEY_OFFERED, .not_after = TIME_NONE, .id = STR("trk.2")};
    static char texts[1]; /* a ring that was filled has some */
    j.ring.text = texts;
    for (size_t i = 0; i < j.ring.n; i++)
        j.ring.id_hash[i] = key_id_hash(j.ring.keys[i].id);
    j.signer = &j.ring.keys[0];
    j.decision.key_id = STR("ink.1");
    j.decision.claims.trk_id = STR("trk.1");
    j.decision.response.renewed[0] = STR("trk.2");
    census_note(t, 0, &j);
    struct buf out BUF_CLEANUP = BUF_INIT(1 << 20);
    struct json w = {.out = &out};
    json_object(&w, NULL);
    census_tell_keys(t, NOW, &w);
    json_end(&w);
    assert_non_null(strstr(out.p, "\"type\":\"ink\",\"id\":\"ink.1\",\"why\":\"retiring\",\"until\":\"2026-11-18T"));
    assert_non_null(strstr(out.p, "\"type\":\"trk\",\"id\":\"trk.1\",\"why\":\"offered\"}"));
    assert_non_null(strstr(out.p, "\"renewed\":[{\"time\":"));
    assert_non_null(strstr(out.p, "\"ids\":[\"trk.2\"]"));
    j.ring.keys[0].state = KEY_ACTIVE;
    j.ring.n = 2; /* the offer is taken up, by way of a key that is active now */
    census_note(t, 0, &j);
    buf_reset(&out);
    w = (struct json){.out = &out};
    json_object(&w, NULL);
    census_tell_keys(t, NOW, &w);
    json_end(&w);
    assert_non_null(strstr(out.p, "\"old_known\":0,\"old\":[]"));
    census_free(t);
}

static void a_file_is(const char *folder, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/console.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void a_file_goes(const char *folder)
{
    char path[256];
    snprintf(path, sizeof path, "%s/console.json", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void the_use_of_rules_outlives_a_restart(void **state)
{
    (void)state;
    const int64_t now = time_now_us() / US_PER_S * US_PER_S;
    char folder[] = "/tmp/kmsgate-census-XXXXXX";
    assert_non_null(mkdtemp(folder));
    struct census *t = census_new(1, now, folder);
    struct request_rule loose = a_rule("old-radios");
    struct judgement j;
    struct census_use u;
    loose.checks.mode[CHECK_TIME] = MODE_SHADOW;
    for (int day = 40; day >= 0; day--) {
        judged(&j, &loose, "sip:a@example.org", now - day * 24 * HOUR_US);
        j.decision.shadow[CHECK_TIME] = REASON_TIME_STALE;
        census_note(t, 0, &j);
    }
    j.decision.accepted = false;
    census_note(t, 0, &j);
    census_free(t); /* an end in order writes it */
    t = census_new(1, now + HOUR_US, folder);
    assert_true(census_watched(t) == now && census_since(t) == now + HOUR_US);
    assert_true(census_use(t, STR("old-radios"), now + HOUR_US, &u));
    assert_int_equal(u.accepted, 41);
    assert_int_equal(u.rejected, 1);
    assert_true(u.last_us == now && u.first_us == now - 40 * 24 * HOUR_US);
    for (int i = 0; i < 31; i++)
        assert_int_equal(u.days[i], 1);
    struct json_doc *doc = told(t, census_tell_passes, now + HOUR_US);
    const struct json_value *p = member(json_root(doc), "passes");
    assert_int_equal(items(p), 2);
    assert_int_equal(items(member(p->first, "users")), 0); /* no users are kept */
    json_free(doc);
    judged(&j, &loose, "sip:a@example.org", now + 24 * HOUR_US);
    census_note(t, 0, &j);
    census_free(t);
    t = census_new(1, now + 100 * 24 * HOUR_US, folder); /* nobody watched for long */
    assert_true(census_watched(t) == census_since(t));
    assert_true(census_use(t, STR("old-radios"), now + 24 * HOUR_US, &u));
    assert_int_equal(u.accepted, 42);
    assert_int_equal(u.days[0] + u.days[1], 2);
    census_free(t);
    a_file_goes(folder);
}

#define KEPT(name, since, saved, passes) \
    "{\"file\":\"" name "\",\"since\":\"" since "\",\"saved\":\"" saved "\",\"passes\":[" passes "]}"
#define KEPT_GOOD(passes) KEPT("kmsgate console 1", "2026-01-02T00:00:00Z", "2026-11-18T10:00:00Z", passes)
#define KEPT_PASS(rule, by, last, days) \
    "{\"rule\":\"" rule "\",\"by\":\"" by "\",\"exception\":true,\"count\":1,\"rejected\":0," \
    "\"first\":\"2026-01-02T00:00:00Z\",\"last\":\"" last "\",\"days\":[" days "]}"

static void a_file_that_is_none_is_left(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } FILES[] = {
        {KEPT_GOOD(KEPT_PASS("x", "rule", "2026-11-01T00:00:00Z", "1")), true},
        {KEPT_GOOD(KEPT_PASS("x", "rule", "2026-11-01T00:00:00Z", "-1")), false},
        {KEPT_GOOD(KEPT_PASS("x", "rule", "2026-11-01T00:00:00Z", "1,\"2\"")), false},
        {KEPT_GOOD(KEPT_PASS("x", "rule", "2126-11-01T00:00:00Z", "1")), false},
        {KEPT_GOOD(KEPT_PASS("x", "rule", "yesterday", "1")), false},
        {KEPT_GOOD(KEPT_PASS("x", "nothing", "2026-11-01T00:00:00Z", "1")), false},
        {KEPT_GOOD(KEPT_PASS("", "rule", "2026-11-01T00:00:00Z", "1")), false},
        {KEPT_GOOD("{}"), false},
        {KEPT("kmsgate console 2", "2026-01-02T00:00:00Z", "2026-11-18T10:00:00Z", ""), false},
        {KEPT("kmsgate console 1", "9026-01-02T00:00:00Z", "2026-11-18T10:00:00Z", ""), false},
        {"", false}, {"{", false}, {"[]", false}, {"{}", false}, {"kmsgate console 1", false},
    };
    char folder[] = "/tmp/kmsgate-census-XXXXXX";
    struct census_use u;
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        a_file_is(folder, FILES[i].text);
        struct census *t = census_new(1, NOW, folder);
        assert_non_null(t);
        assert_int_equal(census_watched(t) < NOW, FILES[i].good);
        assert_int_equal(census_use(t, STR("x"), NOW, &u), FILES[i].good);
        census_free(t);
    }
    a_file_goes(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(traffic_is_counted_by_step),
        cmocka_unit_test(a_clock_that_steps_back_spoils_nothing),
        cmocka_unit_test(hours_and_days_move_on),
        cmocka_unit_test(shadow_and_exceptions_name_their_users),
        cmocka_unit_test(clocks_the_nearest_to_refusal_first),
        cmocka_unit_test(a_crowd_takes_no_more_room),
        cmocka_unit_test(rules_beyond_the_table_push_out_the_oldest),
        cmocka_unit_test(a_full_ring_loses_and_counts),
        cmocka_unit_test(old_keys_are_told_until_they_are_left),
        cmocka_unit_test(the_use_of_rules_outlives_a_restart),
        cmocka_unit_test(a_file_that_is_none_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
