/* A replay memory that answers later, or keys that are looked at anew: the judgement waits, ends as the answer says,
 * and takes back what it may. */
#include "judging.h"

#include "replay/replay_engine.h"

/* Nothing is answered before the test says so. */
struct slow {
    struct replay replay;
    struct replay_line line;
    struct replay_call *waiting;
    unsigned spends, cancels, given_back;
    struct replay_claim claim;
    uint8_t value[32];
};

static int64_t slow_floor(const struct replay *r)
{
    (void)r;
    return NOW;
}

static enum reason slow_spend(struct replay *r, struct replay_line *line, const struct replay_claim *claim,
                              struct replay_call *call)
{
    struct slow *s = (struct slow *)r;
    s->spends++;
    s->claim = *claim;
    assert_int_equal(claim->value_n, sizeof s->value);
    memcpy(s->value, claim->value, sizeof s->value);
    if (!call)
        return REASON_REPLAY_UNAVAILABLE;
    call->waits = true;
    call->line = line;
    s->waiting = call;
    return REASON_OK;
}

static void slow_cancel(struct replay_call *call)
{
    struct slow *s = (struct slow *)call->line->replay;
    assert_ptr_equal(s->waiting, call);
    call->waits = false;
    s->waiting = NULL;
    s->cancels++;
}

static void slow_give_back(struct replay *r, struct replay_line *line, const struct replay_claim *claim)
{
    struct slow *s = (struct slow *)r;
    assert_ptr_equal(line, &s->line);
    assert_memory_equal(claim->value, s->value, sizeof s->value);
    assert_true(str_eq_z(claim->user, ALICE));
    s->given_back++;
}

static const struct replay_engine SLOW = {
    .floor = slow_floor, .spend = slow_spend, .cancel = slow_cancel, .give_back = slow_give_back};

static enum reason answered;
static unsigned answers;

static void on_answer(void *arg, enum reason reason)
{
    (void)arg;
    answered = reason;
    answers++;
}

static void answer(struct slow *s, enum reason reason)
{
    struct replay_call *call = s->waiting;
    assert_non_null(call);
    s->waiting = NULL;
    call->waits = false;
    call->done(call->arg, reason);
}

/* Runs `then` with a judgement that waits for the slow memory. */
static void with_slow(struct world *w, struct slow *s, const struct ask *a, enum gate_action due)
{
    struct replay *memory = w->gate.replay;
    struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
    const struct gate_head head = {.method = STR("POST"), .target = str_z(a->target), .content_type = STR_MISSING};
    *s = (struct slow){.replay.engine = &SLOW, .line.replay = &s->replay};
    answers = 0;
    w->gate.replay = &s->replay;
    w->gate.replay_line = &s->line;
    ask_write(a, &body);
    judgement_free(w->j);
    w->j = judgement_new(&w->gate, "slow");
    w->j->spending.done = on_answer;
    assert_int_equal(gate_head(w->j, &head), REASON_OK);
    assert_int_equal(gate_request(w->j, buf_view(&body), a->now_us), due);
    replay_free(memory);
}

static int slow_end(void **state)
{
    struct world *w = *state;
    judgement_free(w->j);
    w->j = NULL;
    w->gate.replay = NULL;
    w->gate.replay_line = NULL;
    return 0;
}

static void test_forward_after_waiting(void **state)
{
    struct world *w = *state;
    struct slow s;
    struct ask a = ask_of(w);
    with_slow(w, &s, &a, GATE_WAIT);
    assert_false(w->j->decision.accepted);
    assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_SKIP);
    assert_int_equal(w->j->decision.checks[CHECK_TIME], CHECK_PASS);
    answer(&s, REASON_OK);
    assert_int_equal(answers, 1);
    assert_int_equal(gate_spent(w->j, answered), GATE_FORWARD);
    assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_PASS);
    assert_true(w->j->decision.accepted);
    assert_int_equal(w->j->decision.reason, REASON_OK);
    gate_unsent(w->j);
    gate_unsent(w->j);
    assert_int_equal(s.given_back, 1);
}

static void test_refuse_after_waiting(void **state)
{
    static const enum reason REASONS[] = {REASON_REPLAY_SEEN, REASON_REPLAY_FULL, REASON_REPLAY_UNAVAILABLE};
    struct world *w = *state;
    struct slow s;
    for (size_t i = 0; i < sizeof REASONS / sizeof *REASONS; i++) {
        void *again = w;
        struct ask a = ask_of(w);
        with_slow(w, &s, &a, GATE_WAIT);
        answer(&s, REASONS[i]);
        assert_int_equal(gate_spent(w->j, answered), GATE_REFUSE);
        assert_int_equal(w->j->decision.reason, REASONS[i]);
        assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_FAIL);
        assert_true(w->j->decision.found[CHECK_REPLAY].text[0]);
        assert_false(w->j->decision.accepted);
        gate_unsent(w->j);
        assert_int_equal(s.given_back, 0); /* it is another's */
        slow_end(&again);
    }
}

/* In shadow what it answers is told, and refuses nothing. */
static void test_shadow(void **state)
{
    struct world *w = *state;
    struct slow s;
    struct ask a = ask_of(w);
    w->rule[0].checks.mode[CHECK_REPLAY] = MODE_SHADOW;
    with_slow(w, &s, &a, GATE_WAIT);
    answer(&s, REASON_REPLAY_SEEN);
    assert_int_equal(gate_spent(w->j, answered), GATE_FORWARD);
    assert_int_equal(w->j->decision.checks[CHECK_REPLAY], CHECK_SHADOW_FAIL);
    assert_int_equal(w->j->decision.shadow[CHECK_REPLAY], REASON_REPLAY_SEEN);
    gate_unsent(w->j);
    assert_int_equal(s.given_back, 0);
}

/* Who asked is gone, or has waited long enough. */
static void test_nobody_waits_any_more(void **state)
{
    struct world *w = *state;
    struct slow s;
    struct ask a = ask_of(w);
    with_slow(w, &s, &a, GATE_WAIT);
    replay_cancel(&w->j->spending);
    replay_cancel(&w->j->spending);
    assert_int_equal(s.cancels, 1);
    assert_int_equal(gate_spent(w->j, REASON_REPLAY_UNAVAILABLE), GATE_REFUSE);
    assert_int_equal(w->j->decision.reason, REASON_REPLAY_UNAVAILABLE);
    slow_end(state);
    a = ask_of(w);
    with_slow(w, &s, &a, GATE_WAIT);
    judgement_free(w->j);
    w->j = NULL;
    assert_int_equal(s.cancels, 1);
    assert_null(s.waiting);
    assert_int_equal(answers, 0);
}

/* Nobody to tell: nothing waits. And what is refused before never gets as far. */
static void test_nothing_waits(void **state)
{
    struct world *w = *state;
    struct slow s;
    struct ask a = ask_of(w);
    a.fields.kms_uri = STR("kms.evil.example");
    with_slow(w, &s, &a, GATE_REFUSE);
    assert_int_equal(s.spends, 0);
    a = ask_of(w);
    assert_judged(w, &a, REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(s.spends, 1);
    assert_true(str_eq_z(s.claim.user, ALICE));
    assert_true(str_eq_z(s.claim.key_id, "ink.1"));
    assert_int_equal(s.claim.now_us, NOW);
}

/* A key that is not known, or a signature that does not hold, waits for a look at the keys; with others it is judged
 * anew, from its beginning on. */
static void test_looked(void **state)
{
    struct world *w = *state;
    const struct keystore *known = w->gate.keys;
    struct keystore *empty = keystore_scratch(NULL, 0);
    for (int news = 0; news < 2; news++) {
        struct slow s;
        struct ask a = ask_of(w);
        w->gate.keys = empty;
        w->gate.looks = true;
        with_slow(w, &s, &a, GATE_WAIT);
        assert_true(w->j->looking);
        assert_false(w->j->decision.accepted);
        assert_int_equal(s.spends, 0);
        w->gate.keys = known;
        w->j->edition = keystore_edition(known) + (uint64_t)news; /* as if the one store had changed, or not */
        assert_int_equal(gate_looked(w->j), news ? GATE_WAIT : GATE_REFUSE);
        assert_false(w->j->looking);
        assert_int_equal(s.spends, news);
        if (news) {
            assert_true(w->j->decision.proven);
            answer(&s, REASON_OK);
            assert_int_equal(gate_spent(w->j, answered), GATE_FORWARD);
        } else {
            assert_int_equal(w->j->decision.reason, REASON_KEY_UNKNOWN);
        }
        slow_end(state);
    }
    keystore_close(empty);
}

/* Still refused: once is enough. And what fails by something else does not wait. */
static void test_looked_in_vain(void **state)
{
    struct world *w = *state;
    struct slow s;
    struct ask a = ask_of(w);
    a.fields.trk_id = STR("trk.9");
    w->gate.looks = true;
    with_slow(w, &s, &a, GATE_WAIT);
    assert_true(w->j->looking);
    w->j->edition++;
    assert_int_equal(gate_looked(w->j), GATE_REFUSE);
    assert_int_equal(w->j->decision.reason, REASON_KEY_POLICY);
    assert_int_equal(w->j->decision.checks[CHECK_SIGNATURE], CHECK_PASS);
    slow_end(state);
    a = ask_of(w);
    a.fields.kms_uri = STR("kms.evil.example");
    with_slow(w, &s, &a, GATE_REFUSE);
    assert_false(w->j->looking);
    w->gate.looks = false;
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, fresh, slow_end)
    const struct CMUnitTest tests[] = {
        CASE(test_forward_after_waiting), CASE(test_refuse_after_waiting), CASE(test_shadow),
        CASE(test_nobody_waits_any_more), CASE(test_nothing_waits),
        CASE(test_looked), CASE(test_looked_in_vain),
    };
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
