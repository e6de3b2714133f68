/* The floor after a start, sentence by sentence of what is promised; every number at its edge. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "replay/floor.h"

#define S(n) ((int64_t)(n) * US_PER_S)
#define T S(1795000000) /* a whole second */

static void test_no_mark(void **state)
{
    (void)state;
    assert_int_equal(floor_at_start(NULL, T, 0), T + S(5)); /* at least 5 s */
    assert_int_equal(floor_at_start(NULL, T, S(4)), T + S(5));
    assert_int_equal(floor_at_start(NULL, T, S(5)), T + S(5));
    assert_int_equal(floor_at_start(NULL, T, S(5) + 1), T + S(6)); /* rounded up to a whole second */
    assert_int_equal(floor_at_start(NULL, T, S(30)), T + S(30));
    assert_int_equal(floor_at_start(NULL, T + 1, S(30)), T + S(31));
    assert_int_equal(floor_at_start(NULL, T - 1, S(30)), T + S(30));
}

static void test_clean(void **state)
{
    (void)state;
    struct mark m = {.latest_us = T - S(10), .clock_us = T - S(10), .clean = true};
    assert_int_equal(floor_at_start(&m, T, S(60)), T); /* whatever the rules say */
    assert_int_equal(floor_at_start(&m, T + 1, S(60)), T + S(1));
    assert_int_equal(floor_at_start(&m, T - 1, 0), T);
    m.latest_us = T - 1; /* just after the latest Time, if that is later */
    assert_int_equal(floor_at_start(&m, T - S(1), 0), T);
    m.latest_us = T;
    assert_int_equal(floor_at_start(&m, T, 0), T + S(1));
    m.latest_us = T + S(30);
    assert_int_equal(floor_at_start(&m, T, 0), T + S(31));
    m.latest_us = T + S(30) - 1;
    assert_int_equal(floor_at_start(&m, T, 0), T + S(30));
    m = (struct mark){.clean = true};
    assert_int_equal(floor_at_start(&m, T, S(60)), T);
}

static void test_cut_off(void **state)
{
    (void)state;
    struct mark m = {.latest_us = 0, .clock_us = T - S(60)};
    assert_int_equal(floor_at_start(&m, T, 0), T + S(5));
    assert_int_equal(floor_at_start(&m, T, S(60)), T + S(5)); /* whatever the rules now say */
    assert_int_equal(floor_at_start(&m, T + 1, 0), T + S(6));
    m.latest_us = T + S(5) - 1;
    assert_int_equal(floor_at_start(&m, T, 0), T + S(5));
    m.latest_us = T + S(5);
    assert_int_equal(floor_at_start(&m, T, 0), T + S(6));
    m.latest_us = T + S(300) + 7;
    assert_int_equal(floor_at_start(&m, T, 0), T + S(301));
}

/* A launch before the mark's clock counts as that + 10 s. */
static void test_clock_set_back(void **state)
{
    (void)state;
    struct mark m = {.latest_us = 0, .clock_us = T, .clean = true};
    assert_int_equal(floor_at_start(&m, T, 0), T);
    assert_int_equal(floor_at_start(&m, T - 1, 0), T + S(10));
    assert_int_equal(floor_at_start(&m, T - S(3600), S(60)), T + S(10));
    m.clean = false;
    assert_int_equal(floor_at_start(&m, T - 1, 0), T + S(15));
    assert_int_equal(floor_at_start(&m, T - S(3600), S(60)), T + S(15));
    m.latest_us = T + S(60);
    assert_int_equal(floor_at_start(&m, T - S(3600), 0), T + S(61));
}

/* What was accepted within the beat after the mark, under a clock that was set back by less than that. */
static void test_within_a_beat(void **state)
{
    (void)state;
    const struct mark m = {.latest_us = 0, .clock_us = T};
    assert_int_equal(floor_at_start(&m, T, 0), T + S(6));
    assert_int_equal(floor_at_start(&m, T + S(1), 0), T + S(6));
    assert_int_equal(floor_at_start(&m, T + S(1) + 1, 0), T + S(7));
}

static void test_mark_for(void **state)
{
    (void)state;
    assert_int_equal(floor_mark_for(T), T + S(1) - 1);
    assert_int_equal(floor_mark_for(T + 1), T + S(1) - 1);
    assert_int_equal(floor_mark_for(T + S(1) - 1), T + S(1) - 1);
    assert_int_equal(floor_mark_for(T - 1), T - 1);
}

/*
 * Runs against the truth: whatever is accepted in one run is before the floor of the next, however it ended, whatever
 * the rules say then, and with a clock that was set back by anything up to a beat, or to before the mark.
 */
static void test_nothing_is_let_through_twice(void **state)
{
    (void)state;
    uint32_t seed = 7;
    unsigned waits = 0;
    for (int i = 0; i < 200000; i++) {
        uint32_t r[6];
        for (int k = 0; k < 6; k++) {
            seed = seed * 1664525u + 1013904223u;
            r[k] = seed >> 4;
        }
        const int64_t future = S(r[0] % 60) + r[0] % 1000;
        const int64_t beat = T + r[1] % S(100);                     /* the last mark */
        const int64_t accepted_at = beat + (int64_t)(r[2] % S(1));  /* within a beat after it */
        const int64_t time = accepted_at + (int64_t)(r[3] % (future + 1));
        const bool waited = time > accepted_at + S(FLOOR_AHEAD_S);
        waits += waited;
        const struct mark m = {waited ? floor_mark_for(time) : 0, beat, false, 0, TIME_NONE};
        const struct mark clean = {time, accepted_at, true, 0, TIME_NONE};
        const int64_t launch = r[5] % 2 ? accepted_at + (int64_t)(r[4] % S(20)) : beat + (int64_t)(r[4] % S(1));
        assert_true(floor_at_start(&m, launch, 0) > time);
        assert_true(floor_at_start(&m, beat - 1 - (int64_t)(r[4] % S(3600)), 0) > time);
        assert_true(floor_at_start(&clean, launch, 0) > time);
        assert_true(floor_at_start(NULL, accepted_at + (int64_t)(r[4] % S(20)), future) >= time);
        assert_int_equal(floor_at_start(&m, launch, 0) % US_PER_S, 0);
    }
    assert_true(waits > 1000);
}

/*
 * Times without a zone: whatever one run read by one zone is refused by the next, whatever zone it reads by; and where
 * the zone stays, no later than the floor says.
 */
static void test_walls(void **state)
{
    (void)state;
    const int64_t hour = S(3600);
    assert_int_equal(floor_walls_at_start(NULL, T), TIME_NONE);
    struct mark m = {.clock_us = T, .walls_us = 0, .east_us = TIME_NONE};
    assert_int_equal(floor_walls_at_start(&m, T + S(6)), 0);
    uint32_t seed = 11;
    for (int i = 0; i < 100000; i++) {
        seed = seed * 1664525u + 1013904223u;
        const int64_t east = ((int64_t)(seed >> 8) % 109 - 54) * 900 * US_PER_S, time = T + (seed >> 4) % S(6);
        m = (struct mark){.clock_us = T, .east_us = east, .walls_us = T - 15 * hour};
        const int64_t floor = floor_at_start(&m, T + (seed >> 6) % S(3), 0), wall = time + east;
        assert_true(time >= floor || wall < floor_walls_at_start(&m, floor));
        assert_true(floor_walls_at_start(&m, floor) == floor + east);
        m.clean = true; /* as it was accepted, to the microsecond */
        m.walls_us = wall + 1;
        assert_true(floor_walls_at_start(&m, floor) == wall + 1);
    }
    m = (struct mark){.clock_us = T, .east_us = -hour, .walls_us = T + 14 * hour}; /* of a run before that one */
    assert_int_equal(floor_walls_at_start(&m, T), T + 14 * hour);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_mark),        cmocka_unit_test(test_clean),         cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_clock_set_back), cmocka_unit_test(test_within_a_beat), cmocka_unit_test(test_mark_for),
        cmocka_unit_test(test_nothing_is_let_through_twice), cmocka_unit_test(test_walls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
