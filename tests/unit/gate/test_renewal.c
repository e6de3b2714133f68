/* Which new keys a reply is to bring, by the user's keys, the request and the rule; and how a fleet is spread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "gate/renewal.h"
#include "keys/table.h"

#define DAY (INT64_C(86400) * US_PER_S)
#define NOW (INT64_C(1795000000) * US_PER_S)

static const struct kms_response NOTHING_ISSUED;

struct scene {
    struct judgement j;
    struct request_rule rule;
    struct response_rule reply;
    struct renewal *got;
};

/* A user with an old InK and an old TrK, and his proven request. */
static struct scene *scene(void)
{
    static struct scene s;
    static char texts[1]; /* a ring that was filled has some */
    renewal_free(s.got);
    memset(&s, 0, sizeof s);
    s.j.ring.text = texts;
    for (size_t i = 0; i < LIMIT_USER_KEYS; i++)
        s.j.ring.keys[i].state = KEY_PRUNED;
    s.j.rule = &s.rule; /* all zero: every check is enforced */
    s.j.proven = s.j.spent = s.j.decision.accepted = true;
    s.j.request.user_uri = STR("sip:alice@example.org");
    s.j.ring.n = 2;
    s.j.ring.keys[0] = (struct key){.type = KEY_INK, .seq = 1, .not_after = TIME_NONE, .since = NOW - 90 * DAY,
                                    .keep_old = TIME_NONE, .id = STR("ink.1")};
    s.j.ring.keys[1] = (struct key){.type = KEY_TRK, .seq = 2, .not_after = TIME_NONE, .since = NOW - 90 * DAY,
                                    .keep_old = TIME_NONE, .id = STR("trk.1")};
    for (size_t i = 0; i < s.j.ring.n; i++)
        s.j.ring.id_hash[i] = key_id_hash(s.j.ring.keys[i].id);
    s.j.signer = &s.j.ring.keys[0];
    s.reply.renew = (struct renew){90 * DAY, 90 * DAY, 7 * DAY};
    return &s;
}

static struct key *another(struct scene *s, enum key_type type, enum key_state state, const char *id)
{
    struct key *k = &s->j.ring.keys[s->j.ring.n];
    s->j.ring.id_hash[s->j.ring.n++] = key_id_hash(str_z(id));
    *k = (struct key){.type = type, .state = state, .seq = s->j.ring.n, .not_after = TIME_NONE,
                      .since = state == KEY_OFFERED ? TIME_NONE : NOW - DAY, .keep_old = TIME_NONE, .id = str_z(id)};
    return k;
}

/* "trk:ID ink:ID" of what is asked for; the TrK of the exchange is the second key. */
static const char *due(struct scene *s)
{
    static char text[100];
    renewal_free(s->got);
    s->got = NULL;
    const struct occasion o = {&s->j, &s->reply, &NOTHING_ISSUED, &s->j.ring.keys[1], NOW};
    assert_int_equal(renewal_due(&o, &s->got, NULL), REASON_OK);
    text[0] = '\0';
    for (size_t i = 0; s->got && i < s->got->n; i++) {
        const struct key_wish *w = &s->got->wishes[i];
        const size_t n = strlen(text);
        assert_int_equal(w->deed, KEY_OFFER);
        assert_true(str_eq(w->user, s->j.request.user_uri) && str_eq_z(w->trk, "trk.1"));
        assert_int_equal(w->keep_old_us, 7 * DAY);
        snprintf(text + n, sizeof text - n, "%s%s:%.*s", i ? " " : "", key_type_name(w->type), STR_FMT(w->id));
    }
    return text;
}

static void test_by_age(void **state)
{
    (void)state;
    struct scene *s = scene();
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    s->j.ring.keys[0].since = NOW - 81 * DAY + 1; /* nobody's jitter is more than a tenth */
    assert_string_equal(due(s), "trk:trk.1");
    s->j.ring.keys[0].due = true;
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    s = scene();
    s->j.ring.keys[1].since = NOW - DAY;
    assert_string_equal(due(s), "ink:ink.1");
    s->j.ring.keys[1].not_after = NOW + 7 * DAY;
    assert_string_equal(due(s), "ink:ink.1");
    s->j.ring.keys[1].not_after = NOW + 7 * DAY - 1;
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    s->reply.renew.trk_us = 0;
    assert_string_equal(due(s), "ink:ink.1");
    s->reply.renew = (struct renew){0};
    assert_string_equal(due(s), "");
}

static void test_for_whom(void **state)
{
    (void)state;
    static const enum check NEEDED[] = {CHECK_SIGNATURE, CHECK_KEY_POLICY, CHECK_REPLAY};
    for (size_t i = 0; i < 3; i++) {
        struct scene *s = scene();
        s->rule.checks.mode[NEEDED[i]] = MODE_SHADOW;
        assert_string_equal(due(s), "");
    }
    struct scene *s = scene();
    s->rule.checks.mode[CHECK_TIME] = MODE_OFF; /* the twin: not one of the three */
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    bool *const needed[] = {&s->j.proven, &s->j.spent, &s->j.decision.accepted};
    for (size_t i = 0; i < 3; i++) {
        *needed[i] = false;
        assert_string_equal(due(s), "");
        *needed[i] = true;
    }
    const struct occasion no_trk = {&s->j, &s->reply, &NOTHING_ISSUED, NULL, NOW};
    assert_int_equal(renewal_due(&no_trk, &s->got, NULL), REASON_OK);
    assert_null(s->got);
}

static void test_what_is_offered_is_sent_until_it_is_used(void **state)
{
    (void)state;
    struct scene *s = scene();
    s->j.ring.keys[0].since = s->j.ring.keys[1].since = NOW - DAY;
    assert_string_equal(due(s), "");
    struct key *ink = another(s, KEY_INK, KEY_OFFERED, "ink.2"), *trk = another(s, KEY_TRK, KEY_OFFERED, "trk.2");
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    s->j.request.trk_id = STR("trk.1");
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
    s->j.request.trk_id = STR("trk.2");
    assert_string_equal(due(s), "ink:ink.1");
    s->j.signer = ink;
    assert_string_equal(due(s), "");
    struct key_wish wishes[2];
    assert_int_equal(gate_confirms(&s->j, wishes), 2);
    assert_true(str_eq_z(wishes[0].id, "ink.2") && str_eq_z(wishes[1].id, "trk.2"));
    assert_int_equal(wishes[0].deed, KEY_CONFIRM);
    ink->state = trk->state = KEY_ACTIVE;
    ink->since = trk->since = NOW;
    assert_int_equal(gate_confirms(&s->j, wishes), 0);
    s->j.ring.keys[0].state = s->j.ring.keys[1].state = KEY_RETIRING;
    assert_string_equal(due(s), "");
    s->j.signer = &s->j.ring.keys[0]; /* who uses an older one is sent the active one */
    s->j.request.trk_id = STR("trk.1");
    assert_string_equal(due(s), "trk:trk.1 ink:ink.1");
}

static void test_who_proved_nothing_confirms_nothing(void **state)
{
    (void)state;
    struct scene *s = scene();
    struct key_wish wishes[2];
    s->j.signer = another(s, KEY_INK, KEY_OFFERED, "ink.2");
    assert_int_equal(gate_confirms(&s->j, wishes), 1);
    s->j.decision.accepted = false;
    assert_int_equal(gate_confirms(&s->j, wishes), 0);
    s->j.decision.accepted = true;
    s->j.proven = false;
    assert_int_equal(gate_confirms(&s->j, wishes), 0);
    s->j.proven = true;
    s->j.ring.keys[2].state = KEY_RETIRING; /* a newer one was offered meanwhile */
    assert_int_equal(gate_confirms(&s->j, wishes), 1);
}

static void test_the_first_ink(void **state)
{
    (void)state;
    struct scene *s = scene();
    s->j.ring.keys[0] = (struct key){.type = KEY_TRK, .state = KEY_REVOKED, .not_after = TIME_NONE, .id = STR("trk.0")};
    s->j.ring.keys[1].since = NOW;
    s->j.signer = &s->j.ring.keys[1];
    assert_string_equal(due(s), "ink:");
    another(s, KEY_INK, KEY_REVOKED, "ink.1");
    assert_string_equal(due(s), "");
}

static void test_only_retiring_ones(void **state)
{
    (void)state;
    struct scene *s = scene();
    s->j.ring.keys[0].state = s->j.ring.keys[1].state = KEY_RETIRING;
    assert_string_equal(due(s), "trk: ink:ink.1");
}

/* Of 100,000 users the first is due nine tenths of an age after the import, and they come evenly until the whole. */
static void test_a_fleet_is_spread(void **state)
{
    (void)state;
    enum { USERS = 100000, PARTS = 100 };
    static unsigned early[PARTS + 1];
    struct scene *s = scene();
    char user[40];
    for (int part = 0; part <= PARTS; part++) {
        s->j.ring.keys[0].since = s->j.ring.keys[1].since = NOW - 81 * DAY - 9 * DAY / PARTS * part;
        for (int i = part % 10; i < USERS; i += 10) {
            snprintf(user, sizeof user, "sip:user%d@example.org", i);
            s->j.request.user_uri = str_z(user);
            early[part] += *due(s) != '\0';
        }
    }
    assert_int_equal(early[PARTS], USERS / 10);
    assert_in_range(early[0], 0, 5);
    for (unsigned part = 0; part <= PARTS; part++)
        assert_in_range(early[part] + 300, USERS / 10 * part / PARTS, USERS / 10 * part / PARTS + 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_age), cmocka_unit_test(test_for_whom),
        cmocka_unit_test(test_what_is_offered_is_sent_until_it_is_used),
        cmocka_unit_test(test_who_proved_nothing_confirms_nothing), cmocka_unit_test(test_the_first_ink),
        cmocka_unit_test(test_only_retiring_ones), cmocka_unit_test(test_a_fleet_is_spread),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    renewal_free(scene()->got);
    return failed;
}
