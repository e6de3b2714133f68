/*
 * What a record under other rules is said to have been, against what the gate makes of the same bytes under them: for
 * every kind of request, every kind of rule that was and every kind that would be. What is certain must be true, and
 * what the log holds must be certain.
 */
#include "../gate/kinds.h"

#include "study/rejudge.h"

struct truth {
    bool accepted;
    enum reason reason;
    enum reason shadow[CHECK_COUNT];
};

static struct truth truth_of(const struct world *w)
{
    struct truth t = {w->j->decision.accepted, w->j->decision.reason, {0}};
    memcpy(t.shadow, w->j->decision.shadow, sizeof t.shadow);
    return t;
}

struct totals {
    size_t certain, open;
};

static void compare(const struct kind *k, int was, int would, const struct rejudged *a, const struct truth *t)
{
    const bool same = (a->outcome == OUTCOME_ACCEPT) == t->accepted;
    const bool reason = t->accepted || a->reason_open || a->reason == t->reason;
    bool shadow = true;
    for (int c = 0; c < CHECK_COUNT && t->accepted; c++)
        shadow = shadow && (a->shadow_open & 1u << c || a->shadow[c] == t->shadow[c]);
    if (same && reason && shadow)
        return;
    fail_msg("%s, rule %d -> %d: said %s %s, is %s %s", k->name, was, would,
             a->outcome == OUTCOME_ACCEPT ? "accept" : "reject", reason_name(a->reason),
             t->accepted ? "accept" : "reject", reason_name(t->reason));
}

/* The line as it is written, read again. */
static void record_of(const struct world *w, struct buf *line, struct record *out)
{
    struct detail why = {""};
    decision_json(&w->j->decision, line);
    if (!record_read(buf_view(line), out, &why))
        fail_msg("%s: %s", why.text, line->p);
    assert_int_equal(out->time_us, NOW);
    assert_int_equal(out->accepted, w->j->decision.accepted);
    assert_int_equal(out->reason, w->j->decision.reason);
    assert_memory_equal(out->checks, w->j->decision.checks, sizeof out->checks);
}

static void hold_kind(struct world *w, const struct kind *k, int was, struct totals *totals)
{
    struct ask a = ask_of(w);
    struct buf body BUF_CLEANUP = BUF_INIT(1u << 20), line BUF_CLEANUP = BUF_INIT(1u << 20);
    struct record r;
    k->change(w, &a);
    ask_write(&a, &body);
    const struct str bytes = body.p ? buf_view(&body) : STR("");
    judge_kind(w, k, was, &a, bytes);
    record_of(w, &line, &r);
    for (int would = 0; would < RULE_COUNT; would++) {
        struct rejudged again;
        judge_kind(w, k, would, &a, bytes);
        const struct truth t = truth_of(w);
        w->rules.hash[0] = 'x'; /* other rules than the record's */
        assert_true(rejudge(&w->rules, &r, &again));
        w->rules.hash[0] = '0';
        assert_false(again.untouched);
        totals->open += again.outcome == OUTCOME_OPEN;
        totals->certain += again.outcome != OUTCOME_OPEN;
        if (again.outcome != OUTCOME_OPEN)
            compare(k, was, would, &again, &t);
        else
            assert_true(again.open || again.why_open);
    }
    record_free(&r);
}

static void test_certain_is_true(void **state)
{
    struct totals totals = {0, 0};
    for (size_t k = 0; k < KIND_COUNT; k++)
        for (int was = 0; was < RULE_COUNT; was++)
            hold_kind(*state, &KINDS[k], was, &totals);
    assert_true(totals.certain > totals.open);
}

/* A record of what all checks looked at is certain under any rule that asks nothing new. */
static void test_what_was_judged_is_certain(void **state)
{
    struct world *w = *state;
    enum { KMS_URI = 2, LATE = 4, EARLY = 5, SIGNATURE_ID = 15, PATH_USER = 16 }; /* of KINDS */
    static const int KNOWN[] = {KMS_URI, LATE, EARLY, SIGNATURE_ID, PATH_USER};
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++) {
        const struct kind *k = &KINDS[KNOWN[i]];
        struct ask a = ask_of(w);
        struct buf body BUF_CLEANUP = BUF_INIT(1u << 20), line BUF_CLEANUP = BUF_INIT(1u << 20);
        struct record r;
        struct rejudged again;
        k->change(w, &a);
        ask_write(&a, &body);
        judge_kind(w, k, 0, &a, buf_view(&body));
        record_of(w, &line, &r);
        assert_false(r.accepted);
        set_rule(&w->rule[0], LOOSE_ALL);
        w->rules.hash[0] = 'x';
        assert_true(rejudge(&w->rules, &r, &again));
        w->rules.hash[0] = '0';
        if (again.outcome != OUTCOME_ACCEPT)
            fail_msg("%s is not accepted where all is shadow", k->name);
        record_free(&r);
    }
}

static void test_cut_texts(void **state)
{
    (void)state;
    char text[300];
    memset(text, 'a', sizeof text);
    assert_false(record_cut(STR_MISSING));
    assert_false(record_cut((struct str){text, 252}));
    assert_true(record_cut((struct str){text, 253}));
    assert_true(record_cut((struct str){text, 256}));
}

static void test_lines_that_are_no_decision(void **state)
{
#define OK_SO_FAR "{\"time\":\"2026-01-01T00:00:00Z\",\"verdict\":\"accept\",\"reason\":\"ok\""
    static const char *const LINES[] = {
        "", "{", "null", "[]", "{}", "{\"verdict\":\"accept\"}",
        "{\"time\":\"2026-01-01T00:00:00Z\",\"verdict\":\"accept\"}",
        "{\"time\":\"2026-01-01T00:00:00\",\"verdict\":\"accept\",\"reason\":\"ok\"}",
        OK_SO_FAR ",\"claims\":[]}",
        OK_SO_FAR ",\"shadow\":[7]}",
        OK_SO_FAR ",\"shadow\":[\"ok\",\"ok\",\"ok\",\"ok\","
        "\"ok\",\"ok\",\"ok\",\"ok\",\"ok\",\"ok\"]}"};
    (void)state;
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
        struct record r;
        struct detail why = {""};
        assert_false(record_read(str_z(LINES[i]), &r, &why));
        assert_true(why.text[0]);
        record_free(&r);
    }
    struct record r;
    assert_true(record_read(STR(OK_SO_FAR ",\"later\":{}}"), &r,
                            NULL));
    record_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_certain_is_true, fresh),
        cmocka_unit_test_setup(test_what_was_judged_is_certain, fresh),
        cmocka_unit_test(test_cut_texts),
        cmocka_unit_test(test_lines_that_are_no_decision),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
