#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replay/replay.h"

#define S(n) ((n) * US_PER_S)
#define START S(1000)

static struct replay *memory_of(unsigned max, int64_t floor_us, int64_t past_us)
{
    struct replay *r = replay_memory_new(max, floor_us, &(struct replay_settings){.past_us = past_us});
    assert_non_null(r);
    return r;
}

static struct replay_claim claim_of(struct str user, struct str key, const uint8_t *value, size_t n,
                                    const int64_t at[2])
{
    return (struct replay_claim){user, key, value, n, at[0], at[0], at[0], at[1], false, 0};
}

static enum reason spend_value(struct replay *r, struct str user, struct str key, const uint8_t *value, size_t n,
                               int64_t time_us, int64_t now_us)
{
    const struct replay_claim c = claim_of(user, key, value, n, (int64_t[]){time_us, now_us});
    return replay_spend(r, NULL, &c, NULL);
}

/* A request by its number: its SignatureValue. */
static enum reason spend_as(struct replay *r, const char *user, const char *key, unsigned number, int64_t time_us,
                            int64_t now_us)
{
    uint8_t value[32] = {0};
    memcpy(value, &number, sizeof number);
    return spend_value(r, str_z(user), str_z(key), value, sizeof value, time_us, now_us);
}

static enum reason spend(struct replay *r, unsigned number, int64_t time_us, int64_t now_us)
{
    return spend_as(r, "sip:alice@example.org", "ink.1", number, time_us, now_us);
}

static void test_once(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    assert_int_equal(spend(r, 1, START, START), REASON_REPLAY_SEEN);
    assert_int_equal(spend(r, 1, START, START + S(5)), REASON_REPLAY_SEEN);
    assert_int_equal(spend(r, 2, START, START), REASON_OK);
    assert_int_equal(replay_count(r), 2);
    replay_free(r);
}

/* The key is the key's ID and the value, with a boundary between them. */
static void test_what_makes_it_the_same(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    const uint8_t value[] = "1abc";
    assert_int_equal(spend_value(r, STR("u"), STR("ink."), value, 4, START, START), REASON_OK);
    assert_int_equal(spend_value(r, STR("u"), STR("ink.1"), value + 1, 3, START, START), REASON_OK);
    assert_int_equal(spend_value(r, STR("u"), STR("ink."), value, 3, START, START), REASON_OK);
    assert_int_equal(spend_value(r, STR("u"), STR("ink."), value, 4, START, START), REASON_REPLAY_SEEN);
    assert_int_equal(spend_value(r, STR("u"), STR("ink."), value, 4, START + S(1), START), REASON_REPLAY_SEEN);
    replay_free(r);
}

static void test_floor(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_int_equal(replay_floor(r), START);
    assert_int_equal(spend(r, 1, START - 1, START), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(replay_count(r), 0);
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    /* a Time that the rule does not enforce cannot be stale, not even when the clock stepped back */
    assert_int_equal(spend(r, 2, TIME_NONE, START - S(100)), REASON_OK);
    assert_int_equal(spend(r, 2, TIME_NONE, START), REASON_REPLAY_SEEN);
    replay_free(r);
}

/* What left the window is forgotten, and the floor says so. Both ends are inside the window. */
static void test_forgetting(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    assert_int_equal(spend(r, 2, START + S(5), START + S(5)), REASON_OK);
    assert_int_equal(replay_floor(r), START);
    assert_int_equal(replay_count(r), 2);
    assert_int_equal(spend(r, 3, START + S(5), START + S(5) + 1), REASON_OK);
    assert_int_equal(replay_count(r), 2);
    assert_int_equal(replay_floor(r), START + 1);
    assert_int_equal(spend(r, 1, START, START + S(5) + 1), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(spend(r, 2, START + S(5), START + S(5) + 1), REASON_REPLAY_SEEN);
    replay_free(r);
}

/* In whatever order it came: neither later, which would fill the memory, nor sooner. */
static void test_the_oldest_is_forgotten_first(void **state)
{
    enum { ALL = 53, APART_US = 1000 };
    (void)state;
    for (unsigned step = 1; step < ALL; step++) { /* each is prime to 53: all orders differ, and hold each Time once */
        struct replay *r = memory_of(1000, START, S(5));
        for (unsigned i = 0; i < ALL; i++)
            assert_int_equal(spend(r, i, START + i * step % ALL * APART_US, START + ALL * APART_US), REASON_OK);
        for (unsigned gone = 0; gone < ALL; gone++) {
            const int64_t now_us = START + S(5) + gone * APART_US + 1;
            assert_int_equal(spend(r, ALL + gone, now_us, now_us), REASON_OK);
            assert_int_equal(replay_count(r), ALL);
            assert_int_equal(replay_floor(r), START + gone * APART_US + 1);
        }
        replay_free(r);
    }
}

/* Those of one second leave the window together: two go with each that comes, and nobody waits for all of them. What is
 * still there is not "seen": it is as if it had gone. */
static void test_few_go_with_each(void **state)
{
    (void)state;
    enum { N = 100, GONE = 2 };
    struct replay *r = memory_of(16 * N + 64, START, S(5));
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, START, START), REASON_OK);
    for (unsigned i = 0; i < N / 4; i++) {
        assert_int_equal(spend(r, N + i, START + S(6), START + S(6)), REASON_OK);
        assert_int_equal(replay_count(r), N - GONE * (i + 1) + (i + 1));
    }
    assert_int_equal(replay_floor(r), START + S(1));
    for (unsigned i = N - 2; i < N; i++) /* the last two: their turn has not come */
        assert_int_equal(spend(r, i, START, START + S(6)), REASON_REPLAY_UNAVAILABLE);
    replay_free(r);
    /* a Time that no rule enforces is no ground to refuse what has left the window */
    r = memory_of(16 * N + 64, START, S(5));
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, TIME_NONE, START), REASON_OK);
    assert_int_equal(spend(r, N - 1, TIME_NONE, START + S(5)), REASON_REPLAY_SEEN);
    assert_int_equal(spend(r, N - 1, TIME_NONE, START + S(6)), REASON_OK);
    assert_int_equal(spend(r, N - 1, TIME_NONE, START + S(6)), REASON_REPLAY_SEEN);
    replay_free(r);
}

/* A share or a memory that is full of what has left the window is not full, however few go with each. */
static void test_full_of_what_is_over(void **state)
{
    (void)state;
    enum { SHARE = 8, MOST = 16 * SHARE };
    struct replay *r = memory_of(MOST, START, S(5));
    for (unsigned user = 0; user < 16; user++)
        for (unsigned i = 0; i < SHARE; i++) {
            char uri[32];
            snprintf(uri, sizeof uri, "sip:%u@example.org", user);
            assert_int_equal(spend_as(r, uri, "ink.1", i, START, START), REASON_OK);
        }
    for (unsigned i = 0; i < SHARE; i++)
        assert_int_equal(spend_as(r, "sip:3@example.org", "ink.1", MOST + i, START + S(6), START + S(6)), REASON_OK);
    assert_int_equal(spend_as(r, "sip:3@example.org", "ink.1", 2 * MOST, START + S(6), START + S(6)),
                     REASON_REPLAY_FULL);
    replay_free(r);
}

/* What the floor refuses is given back without anybody coming; nothing else is. */
static void test_tidy(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct replay *r = memory_of(16 * N, START, S(5));
    char user[32];
    for (unsigned i = 0; i < N; i++) {
        snprintf(user, sizeof user, "sip:%u@example.org", i);
        assert_int_equal(spend_as(r, user, "ink.1", i, START + i % 2, START), REASON_OK);
    }
    replay_tidy(r);
    assert_int_equal(replay_count(r), N);
    /* the first of one who is there raises the floor */
    assert_int_equal(spend_as(r, "sip:0@example.org", "ink.1", N, START + S(5), START + S(5) + 1), REASON_OK);
    assert_int_equal(replay_floor(r), START + 1);
    replay_tidy(r);
    assert_int_equal(replay_count(r), N / 2 + 1);
    for (unsigned i = 1; i < N; i += 2) {
        snprintf(user, sizeof user, "sip:%u@example.org", i);
        assert_int_equal(spend_as(r, user, "ink.1", i, START + 1, START + S(5) + 1), REASON_REPLAY_SEEN);
    }
    replay_free(r);
}

static void test_a_wider_window_brings_nothing_back(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    assert_int_equal(spend(r, 2, START + S(10), START + S(10)), REASON_OK);
    assert_int_equal(replay_count(r), 1);
    replay_settle(r, &(struct replay_settings){.past_us = S(60)});
    assert_int_equal(spend(r, 1, START, START + S(10)), REASON_REPLAY_UNAVAILABLE);
    /* and from here on nothing is forgotten for a minute */
    assert_int_equal(spend(r, 3, START + S(70), START + S(70)), REASON_OK);
    assert_int_equal(replay_count(r), 2);
    assert_int_equal(spend(r, 2, START + S(10), START + S(70)), REASON_REPLAY_SEEN);
    replay_free(r);
}

static void test_a_narrower_window_forgets_openly(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(60));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    replay_settle(r, &(struct replay_settings){.past_us = S(5)});
    assert_int_equal(spend(r, 2, START + S(10), START + S(10)), REASON_OK);
    assert_int_equal(spend(r, 1, START, START + S(10)), REASON_REPLAY_UNAVAILABLE);
    replay_free(r);
}

static void test_clock_steps(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    assert_int_equal(spend(r, 2, START + S(3600), START + S(3600)), REASON_OK);
    /* an hour back: what was forgotten meanwhile is stale, what was not is seen */
    assert_int_equal(spend(r, 1, START, START), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(spend(r, 3, START + S(1), START + S(1)), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(spend(r, 2, START + S(3600), START), REASON_REPLAY_SEEN);
    replay_free(r);
}

static void test_share_of_one_user(void **state)
{
    (void)state;
    struct replay *r = memory_of(64, START, S(5));
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(spend(r, i, START, START), REASON_OK);
    assert_int_equal(spend(r, 4, START, START), REASON_REPLAY_FULL);
    assert_int_equal(spend(r, 0, START, START), REASON_REPLAY_SEEN);
    assert_int_equal(spend_as(r, "sip:bob@example.org", "ink.1", 4, START, START), REASON_OK);
    assert_int_equal(replay_count(r), 5);
    /* his share is his again when his entries leave the window */
    assert_int_equal(spend(r, 4, START + S(6), START + S(6)), REASON_OK);
    replay_free(r);
}

static void test_the_smallest_share_is_one(void **state)
{
    (void)state;
    struct replay *r = memory_of(3, START, S(5));
    assert_int_equal(spend(r, 1, START, START), REASON_OK);
    assert_int_equal(spend(r, 2, START, START), REASON_REPLAY_FULL);
    assert_int_equal(replay_count(r), 1);
    replay_free(r);
}

/* Full is full, forgets nothing, and has room again when any shard's entries leave the window. */
static void test_full(void **state)
{
    (void)state;
    struct replay *r = memory_of(32, START, S(5));
    char user[32];
    for (unsigned i = 0; i < 32; i++) {
        snprintf(user, sizeof user, "sip:%u@example.org", i);
        assert_int_equal(spend_as(r, user, "ink.1", i, START, START), REASON_OK);
    }
    assert_int_equal(spend_as(r, "sip:new@example.org", "ink.1", 99, START, START + S(5)), REASON_REPLAY_FULL);
    assert_int_equal(replay_count(r), 32);
    assert_int_equal(replay_floor(r), START);
    for (unsigned i = 0; i < 32; i++) {
        snprintf(user, sizeof user, "sip:%u@example.org", i);
        assert_int_equal(spend_as(r, user, "ink.1", i, START, START + S(5)), REASON_REPLAY_SEEN);
    }
    assert_int_equal(spend_as(r, "sip:new@example.org", "ink.1", 99, START + S(6), START + S(6)), REASON_OK);
    replay_tidy(r);
    assert_int_equal(replay_count(r), 1);
    replay_free(r);
}

static void test_nothing_is_not_remembered(void **state)
{
    (void)state;
    struct replay *r = memory_of(100, START, S(5));
    const uint8_t value[4] = {0};
    assert_int_equal(spend_value(r, STR_MISSING, STR("k"), value, 4, START, START), REASON_REPLAY_FULL);
    assert_int_equal(spend_value(r, STR("u"), STR_MISSING, value, 4, START, START), REASON_REPLAY_FULL);
    assert_int_equal(spend_value(r, STR("u"), STR("k"), value, 0, START, START), REASON_REPLAY_FULL);
    assert_int_equal(replay_count(r), 0);
    replay_free(r);
}

/* What came to nothing may come again; all else is as before. */
static void test_given_back(void **state)
{
    (void)state;
    enum { N = 2000 };
    struct replay *r = memory_of(N * 16, START, S(5));
    uint8_t value[32] = {0};
    const struct str user = STR("sip:alice@example.org"), key = STR("ink.1");
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, START + (i * 7919) % N, START), REASON_OK);
    for (unsigned i = 0; i < N; i += 3) {
        memcpy(value, &i, sizeof i);
        const struct replay_claim c = claim_of(user, key, value, sizeof value, (int64_t[]){START, START});
        replay_give_back(r, NULL, &c);
        replay_give_back(r, NULL, &c); /* there is nothing left of it */
    }
    assert_int_equal(replay_count(r), N - (N + 2) / 3);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, START + (i * 7919) % N, START), i % 3 ? REASON_REPLAY_SEEN : REASON_OK);
    assert_int_equal(replay_floor(r), START);
    /* the order in which they are forgotten is still that of their Times */
    assert_int_equal(spend(r, N, START + S(5) + N / 2, START + S(5) + N / 2), REASON_OK);
    replay_tidy(r);
    assert_int_equal(replay_count(r), N - N / 2 + 1);
    replay_free(r);
}

/* A user's share is his again; and who gives back all that he has is not remembered himself. */
static void test_a_share_given_back(void **state)
{
    (void)state;
    struct replay *r = memory_of(16, START, S(5));
    uint8_t value[32] = {0};
    const struct replay_claim c = claim_of(STR("sip:alice@example.org"), STR("ink.1"), value, sizeof value,
                                           (int64_t[]){START, START});
    for (int i = 0; i < 3; i++) {
        assert_int_equal(spend(r, 0, START, START), REASON_OK);
        assert_int_equal(spend(r, 1, START, START), REASON_REPLAY_FULL);
        replay_give_back(r, NULL, &c);
        assert_int_equal(replay_count(r), 0);
    }
    replay_free(r);
}

/* Where rules read a Time differently: the floor looks at the earliest, forgetting at the latest. */
static void test_two_readings(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    const uint8_t value[4] = {1};
    struct replay_claim c = claim_of(STR("u"), STR("k"), value, 4, (int64_t[]){START + S(10), START + S(10)});
    c.earliest_us = START - 1;
    assert_int_equal(replay_spend(r, NULL, &c, NULL), REASON_REPLAY_UNAVAILABLE);
    c.earliest_us = START;
    c.latest_us = START + S(3600);
    assert_int_equal(replay_spend(r, NULL, &c, NULL), REASON_OK);
    assert_int_equal(spend(r, 2, START + S(3605), START + S(3605)), REASON_OK);
    assert_int_equal(replay_count(r), 2);
    assert_int_equal(replay_floor(r), START);
    c.now_us = START + S(3605);
    assert_int_equal(replay_spend(r, NULL, &c, NULL), REASON_REPLAY_SEEN);
    replay_free(r);
}

/* What has no zone: once it is forgotten, nothing that shows the same or less is accepted, however it is read now. */
static void test_walls(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    const uint8_t values[4][4] = {{1}, {2}, {3}, {4}};
    struct replay_claim c = claim_of(STR("u"), STR("k"), values[0], 4, (int64_t[]){START, START});
    c.zoneless = true;
    c.wall_us = START + S(3600); /* an hour east */
    assert_int_equal(replay_walls(r), TIME_NONE);
    assert_int_equal(replay_spend(r, NULL, &c, NULL), REASON_OK);
    struct replay_claim later = claim_of(STR("u"), STR("k"), values[1], 4,
                                         (int64_t[]){START + S(3600), START + S(3600)});
    later.zoneless = true;
    later.wall_us = START + S(3600); /* now read as UTC */
    c.time_us = c.earliest_us = c.latest_us = c.now_us = START + S(3600);
    assert_int_equal(replay_spend(r, NULL, &c, NULL), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(replay_walls(r), START + S(3600) + 1);
    assert_int_equal(replay_spend(r, NULL, &later, NULL), REASON_REPLAY_UNAVAILABLE); /* it cannot be told from it */
    later.wall_us++;
    assert_int_equal(replay_spend(r, NULL, &later, NULL), REASON_OK);
    later.value = values[2];
    later.zoneless = false; /* a zone leaves no doubt */
    later.wall_us = 0;
    assert_int_equal(replay_spend(r, NULL, &later, NULL), REASON_OK);
    later.value = values[3];
    assert_int_equal(replay_spend(r, NULL, &later, NULL), REASON_OK);
    replay_give_back(r, NULL, &later); /* that forgets nothing that was sent */
    assert_int_equal(replay_walls(r), START + S(3600) + 1);
    replay_free(r);
}

static void test_unready(void **state)
{
    (void)state;
    struct replay *r = memory_of(1000, START, S(5));
    assert_string_equal(replay_unready(r, START - 1), "starting");
    assert_null(replay_unready(r, START));
    assert_string_equal(replay_unready(r, START - 1), "clock");
    assert_null(replay_unready(r, START));
    replay_free(r);
}

/*
 * Against a memory that never forgets: whatever the order of times, the clock and the users, nothing is accepted twice,
 * and what is within the window is only refused when it was accepted before.
 */
static void test_against_a_perfect_memory(void **state)
{
    (void)state;
    enum { REQUESTS = 400, ROUNDS = 20000, WINDOW = 5 };
    struct replay *r = memory_of(100000, START, S(WINDOW));
    static int64_t time_of[REQUESTS];
    static bool accepted[REQUESTS];
    int64_t now = START;
    uint32_t seed = 12345;
    memset(accepted, 0, sizeof accepted);
    memset(time_of, 0, sizeof time_of);
    unsigned times[3] = {0};
    for (unsigned i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525u + 1013904223u;
        const unsigned n = (seed >> 8) % REQUESTS;
        char user[32];
        now += (seed >> 24) * 100;
        snprintf(user, sizeof user, "sip:%u@example.org", n % 7);
        if (!time_of[n] || (time_of[n] < now - S(3 * WINDOW))) { /* a fresh request takes the number */
            time_of[n] = now + (int64_t)((seed >> 4) % (2 * WINDOW * 1000)) * 1000 - S(WINDOW);
            accepted[n] = false;
        }
        if (time_of[n] < now - S(WINDOW))
            continue; /* the time check refuses */
        uint8_t value[16] = {0};
        memcpy(value, &n, sizeof n);
        memcpy(value + 8, &time_of[n], 8);
        const enum reason got = spend_value(r, str_z(user), STR("ink"), value, sizeof value, time_of[n], now);
        if (time_of[n] < START)
            assert_int_equal(got, REASON_REPLAY_UNAVAILABLE);
        else
            assert_int_equal(got, accepted[n] ? REASON_REPLAY_SEEN : REASON_OK);
        times[got == REASON_OK ? 0 : got == REASON_REPLAY_SEEN ? 1 : 2]++;
        accepted[n] |= got == REASON_OK;
    }
    assert_true(times[0] > 100 && times[1] > 100);
    assert_true(replay_count(r) <= REQUESTS);
    replay_free(r);
}

/* More entries in one shard than it has buckets to begin with. */
static void test_growing(void **state)
{
    (void)state;
    enum { N = 5000 };
    struct replay *r = memory_of(N * 16, START, S(5));
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, START + (i * 7919) % N, START), REASON_OK);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(spend(r, i, START + (i * 7919) % N, START), REASON_REPLAY_SEEN);
    assert_int_equal(spend(r, N, START + S(5) + N / 2, START + S(5) + N / 2), REASON_OK);
    replay_tidy(r);
    assert_int_equal(replay_count(r), N - N / 2 + 1);
    replay_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_what_makes_it_the_same),
        cmocka_unit_test(test_floor),
        cmocka_unit_test(test_forgetting),
        cmocka_unit_test(test_the_oldest_is_forgotten_first),
        cmocka_unit_test(test_few_go_with_each),
        cmocka_unit_test(test_full_of_what_is_over),
        cmocka_unit_test(test_tidy),
        cmocka_unit_test(test_a_wider_window_brings_nothing_back),
        cmocka_unit_test(test_a_narrower_window_forgets_openly),
        cmocka_unit_test(test_clock_steps),
        cmocka_unit_test(test_share_of_one_user),
        cmocka_unit_test(test_the_smallest_share_is_one),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_nothing_is_not_remembered),
        cmocka_unit_test(test_given_back),
        cmocka_unit_test(test_a_share_given_back),
        cmocka_unit_test(test_two_readings),
        cmocka_unit_test(test_walls),
        cmocka_unit_test(test_unready),
        cmocka_unit_test(test_against_a_perfect_memory),
        cmocka_unit_test(test_growing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
