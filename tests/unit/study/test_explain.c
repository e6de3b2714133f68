/*
 * Explaining changes nothing of what was judged, whatever the request and the rule; it tells each rule and check, and
 * of each refusal a cause or something that would mend it.
 */
#include "../gate/kinds.h"

#include "study/explain.h"

static void printable(const char *text)
{
    for (; text && *text; text++)
        assert_true((unsigned char)*text >= 0x20 && *text != 0x7f);
}

static void hold(struct world *w, const struct kind *k, const struct explain_in *in)
{
    struct explanation e;
    const struct decision before = w->j->decision;
    const bool proven = w->j->proven;
    assert_true(explain(in, &e));
    const struct decision *d = &w->j->decision;
    assert_int_equal(before.accepted, d->accepted);
    assert_int_equal(before.reason, d->reason);
    assert_int_equal(before.skew_us, d->skew_us);
    assert_memory_equal(before.checks, d->checks, sizeof d->checks);
    assert_memory_equal(before.shadow, d->shadow, sizeof d->shadow);
    assert_int_equal(proven, w->j->proven);
    assert_ptr_equal(&w->rule[0], w->j->rule);
    assert_int_equal(e.rule_count, 1);
    assert_true(e.rules[0].matches);
    for (size_t c = 0; e.has_checks && c < CHECK_COUNT; c++) {
        const enum check_result r = d->checks[c];
        const bool judged = r == CHECK_PASS || r == CHECK_FAIL || r == CHECK_SHADOW_FAIL;
        assert_int_equal(e.checks[c].result, d->checks[c]);
        if (judged && (!e.checks[c].found || !e.checks[c].expected))
            fail_msg("%s: %s tells nothing", k->name, check_name((enum check)c));
        printable(e.checks[c].found);
        printable(e.checks[c].expected);
    }
    if (!d->accepted && d->reason != REASON_REPLAY_SEEN && !e.advice_count)
        fail_msg("%s: %s: nothing would mend it", k->name, reason_name(d->reason));
    bool looked_on = false; /* at what would be refused: it is to be mended, too */
    for (size_t c = 0; c < CHECK_COUNT; c++)
        looked_on |= c != CHECK_REPLAY && d->shadow[c] != REASON_OK;
    if (d->accepted && looked_on != (e.advice_count > 0))
        fail_msg("%s: accepted, %zu pieces of advice", k->name, e.advice_count);
    explanation_free(&e);
}

static void test_every_kind(void **state)
{
    struct world *w = *state;
    static char file[] = "rules.yaml", text[] = "version: 1\nrequests:\n  - id: everyone\n";
    w->rules.file = file;
    w->rules.text = text;
    for (size_t k = 0; k < KIND_COUNT; k++)
        for (int rule = 0; rule < RULE_COUNT; rule++) {
            struct ask a = ask_of(w);
            struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
            KINDS[k].change(w, &a);
            ask_write(&a, &body);
            const struct str bytes = body.p ? buf_view(&body) : STR("");
            judge_kind(w, &KINDS[k], rule, &a, bytes);
            hold(w, &KINDS[k], &(struct explain_in){w->j, bytes, NOW, rule % 2 == 0, w->keys, "gateway.yaml"});
        }
    w->rules.file = w->rules.text = NULL;
}

/* Nothing of a key, in any form, in any text. */
static void test_no_key_is_told(void **state)
{
    struct world *w = *state;
    static char file[] = "rules.yaml", text[] = "version: 1\n";
    w->rules.file = file;
    w->rules.text = text;
    for (size_t k = 0; k < KIND_COUNT; k++) {
        struct ask a = ask_of(w);
        struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
        struct buf hex BUF_CLEANUP = BUF_INIT(200), b64 BUF_CLEANUP = BUF_INIT(200);
        struct explanation e;
        KINDS[k].change(w, &a);
        ask_write(&a, &body);
        const struct str bytes = body.p ? buf_view(&body) : STR("");
        judge_kind(w, &KINDS[k], 0, &a, bytes);
        assert_true(explain(&(struct explain_in){w->j, bytes, NOW, true, w->keys, "gateway.yaml"}, &e));
        buf_hex(&hex, w->ink[WHO_ALICE].b, KEY_BYTES, false);
        buf_base64(&b64, w->ink[WHO_ALICE].b, KEY_BYTES);
        for (size_t i = 0; i < e.diagnosis.n; i++) {
            assert_null(strstr(e.diagnosis.v[i], hex.p));
            assert_null(strstr(e.diagnosis.v[i], b64.p));
        }
        explanation_free(&e);
    }
    w->rules.file = w->rules.text = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_every_kind, fresh),
        cmocka_unit_test_setup(test_no_key_is_told, fresh),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
