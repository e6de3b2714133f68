/* When free memory is given back: malloc_trim() is the test's own, and counts. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <malloc.h>
#include <time.h>

#include "base/timestamp.h"
#include "http/hold.h"
#include "http/server.h"

enum { MIB = 1 << 20 };
static unsigned trims;

int malloc_trim(size_t pad)
{
    (void)pad;
    trims++;
    return 1;
}

static int with_server(void **state)
{
    static struct server s;
    s.crowd = crowd_new(16, 1);
    *state = &s;
    trims = 0;
    return s.crowd ? 0 : -1;
}

static int without(void **state)
{
    struct server *s = *state;
    crowd_free(s->crowd);
    return 0;
}

static void holds(struct server *s, size_t octets)
{
    atomic_store(&s->held, octets);
    hold_trim(s);
}

/* As main does, for so long or until it is done. */
static unsigned watch(struct server *s, int64_t us)
{
    static const struct timespec TICK = {0, 20 * 1000000};
    for (const int64_t from = time_mono_us(); !trims && time_mono_us() - from < us;) {
        nanosleep(&TICK, NULL);
        hold_trim(s);
    }
    return trims;
}

static void a_flood_at_once(void **state)
{
    struct server *s = *state;
    holds(s, 40 * MIB);
    holds(s, 21 * MIB);
    assert_int_equal(trims, 0);
    holds(s, 20 * MIB);
    assert_int_equal(trims, 1);
    holds(s, 10 * MIB);
    assert_int_equal(trims, 2);
    holds(s, 0);
    assert_int_equal(trims, 3);
    holds(s, 0);
    assert_int_equal(trims, 3);
    trims = 0; /* what was counted as gone before it was freed */
    assert_int_equal(watch(s, 60 * US_PER_S), 1);
    trims = 0;
    assert_int_equal(watch(s, 3 * US_PER_S), 0);
}

static void a_small_one_when_it_is_quiet(void **state)
{
    struct server *s = *state;
    const int64_t from = time_mono_us();
    holds(s, 3 * MIB);
    holds(s, 0);
    assert_int_equal(trims, 0);
    assert_int_equal(watch(s, 60 * US_PER_S), 1);
    assert_true(time_mono_us() - from >= 2 * US_PER_S);
    trims = 0;
    assert_int_equal(watch(s, US_PER_S / 2), 0); /* once */
}

/* Who comes now and then keeps it from being done; what is no flood is none. */
static void neither_busy_nor_little(void **state)
{
    struct server *s = *state;
    for (int i = 0; i < 60; i++) {
        holds(s, 3 * MIB);
        assert_int_equal(watch(s, US_PER_S / 20), 0);
    }
    holds(s, 0);
    assert_int_equal(watch(s, 60 * US_PER_S), 1);
    trims = 0;
    holds(s, MIB / 2);
    holds(s, 0);
    assert_int_equal(watch(s, 3 * US_PER_S), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_flood_at_once, with_server, without),
        cmocka_unit_test_setup_teardown(a_small_one_when_it_is_quiet, with_server, without),
        cmocka_unit_test_setup_teardown(neither_busy_nor_little, with_server, without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
