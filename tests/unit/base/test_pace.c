/* When long work rests, and for how long: nanosleep() is the test's own, and comes back as late as it is told. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/pace.h"

static unsigned rests;
static int64_t asked_us, late_us;

int nanosleep(const struct timespec *t, struct timespec *rest)
{
    (void)rest;
    rests++;
    asked_us = t->tv_sec * US_PER_S + t->tv_nsec / 1000;
    const int64_t until_us = time_mono_us() + asked_us + late_us;
    while (time_mono_us() < until_us)
        ;
    return 0;
}

/* Until it has rested once more. */
static void work(struct pace *p)
{
    for (const unsigned before = rests; rests == before;)
        pace_step(p);
}

static void who_disturbs_nobody_goes_on(void **state)
{
    (void)state;
    struct pace p = {0};
    const int64_t until_us = time_mono_us() + 4 * PACE_RUN_US;
    rests = 0;
    while (time_mono_us() < until_us)
        pace_step(&p);
    assert_int_equal(rests, 0);
}

static bool is_true(const void *arg)
{
    return *(const bool *)arg;
}

/* It may not, for as long as it is told so. */
static void who_keeps_others_waiting_does_not_rest(void **state)
{
    (void)state;
    bool may = true;
    struct pace p = {.rests = true, .may = is_true, .arg = &may};
    rests = 0;
    late_us = 0;
    work(&p);
    may = false;
    const int64_t until_us = time_mono_us() + 4 * PACE_RUN_US;
    while (time_mono_us() < until_us)
        pace_step(&p);
    assert_int_equal(rests, 1);
    may = true;
    work(&p);
    assert_int_equal(rests, 2);
}

static void the_rests_have_an_end(void **state)
{
    (void)state;
    struct pace p = {.rests = true, .rested_us = PACE_ALL_US - PACE_REST_US};
    late_us = 0;
    work(&p);
    assert_false(p.rests);
}

static void it_rests_after_a_run(void **state)
{
    (void)state;
    struct pace p = {.rests = true};
    rests = 0;
    late_us = 0;
    const int64_t begin_us = time_mono_us();
    work(&p);
    assert_true(time_mono_us() - begin_us >= PACE_RUN_US + PACE_REST_US);
    assert_int_equal(asked_us, PACE_REST_US);
}

/* However slow the machine is that this runs on: it may come later than told, never sooner. */
static void who_is_woken_late_rests_longer(void **state)
{
    (void)state;
    struct pace p = {.rests = true};
    late_us = PACE_WAKING_US + 100;
    work(&p);
    assert_int_equal(asked_us, PACE_REST_US);
    late_us = 0;
    work(&p);
    assert_true(asked_us >= PACE_REST_US + 100 * PACE_LATE);
    late_us = 10 * PACE_REST_MAX_US;
    work(&p);
    work(&p);
    assert_int_equal(asked_us, PACE_REST_MAX_US);
}

static void the_next_rest(void **state)
{
    (void)state;
    assert_int_equal(pace_next_rest(-1000), PACE_REST_US);
    assert_int_equal(pace_next_rest(PACE_WAKING_US), PACE_REST_US);
    assert_int_equal(pace_next_rest(PACE_WAKING_US + 1), PACE_REST_US + PACE_LATE);
    assert_int_equal(pace_next_rest(1000000), PACE_REST_MAX_US);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_disturbs_nobody_goes_on),
        cmocka_unit_test(who_keeps_others_waiting_does_not_rest),
        cmocka_unit_test(the_rests_have_an_end),
        cmocka_unit_test(it_rests_after_a_run),
        cmocka_unit_test(who_is_woken_late_rests_longer),
        cmocka_unit_test(the_next_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
