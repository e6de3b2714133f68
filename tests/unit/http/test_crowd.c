#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "http/crowd.h"

enum { MOST = 8, OWNERS = 2 };

static struct ip ip_of(const char *text)
{
    struct ip ip = {0};
    if (text)
        assert_true(ip_parse(str_z(text), &ip));
    return ip;
}

static bool join(struct crowd *c, struct place *p, unsigned owner, const char *from, int *wake)
{
    const struct ip ip = ip_of(from);
    return crowd_join(c, p, owner, &ip, wake);
}

/* A crowd whose places are all taken, by p[0] to p[MOST - 1] in this order, from `from`. */
static struct crowd *full(struct place p[MOST], const char *const from[MOST])
{
    int wake;
    struct crowd *c = crowd_new(MOST, OWNERS);
    assert_non_null(c);
    for (int i = 0; i < MOST; i++) {
        assert_true(join(c, &p[i], (unsigned)i % OWNERS, from[i], &wake));
        assert_int_equal(wake, -1);
    }
    assert_int_equal(crowd_count(c), MOST);
    return c;
}

/* One more from 10.9.9.9: who goes for it; MOST when nobody does. The newcomer leaves again. */
static int goes(struct crowd *c, struct place p[MOST])
{
    struct place late;
    int wake, who = MOST;
    if (!join(c, &late, 0, "10.9.9.9", &wake)) {
        assert_int_equal(wake, -1);
        return MOST;
    }
    assert_int_equal(crowd_count(c), MOST);
    assert_in_range(wake, 0, OWNERS - 1);
    assert_null(crowd_evicted(c, 1u - (unsigned)wake));
    struct place *gone = crowd_evicted(c, (unsigned)wake);
    assert_non_null(gone);
    assert_null(crowd_evicted(c, (unsigned)wake));
    for (int i = 0; i < MOST; i++)
        who = gone == &p[i] ? i : who;
    assert_true(who < MOST && wake == who % OWNERS);
    assert_false(crowd_enter(c, gone, PLACE_COMPLETE)); /* what it asks now is not served */
    crowd_leave(c, gone);
    crowd_leave(c, &late);
    assert_int_equal(crowd_count(c), MOST - 1);
    return who;
}

/* The place of him who went is taken again, from the same source. */
static void again(struct crowd *c, struct place *p, const char *from)
{
    int wake;
    assert_true(join(c, p, 0, from, &wake));
    assert_int_equal(wake, -1);
}

static void end(struct crowd *c, struct place p[MOST], int gone)
{
    for (int i = 0; i < MOST; i++)
        if (i != gone)
            crowd_leave(c, &p[i]);
    assert_int_equal(crowd_count(c), 0);
    crowd_free(c);
}

static const char *const APART[MOST] = {"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4",
                                        "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"};

static void test_idle_ones_first(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, (const char *const[]){"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2",
                                                    "10.0.0.3", "10.0.0.4", "10.0.0.5"});
    assert_true(crowd_enter(c, &p[6], PLACE_IDLE) && crowd_enter(c, &p[5], PLACE_IDLE)); /* 6 is idle for longer */
    assert_true(crowd_enter(c, &p[7], PLACE_IDLE) && crowd_enter(c, &p[7], PLACE_UNFINISHED));
    assert_int_equal(goes(c, p), 6);
    again(c, &p[6], "10.0.0.4");
    assert_int_equal(goes(c, p), 5);
    again(c, &p[5], "10.0.0.3");
    assert_int_equal(goes(c, p), 0); /* nobody is idle any more */
    end(c, p, 0);
}

static void test_then_of_the_source_that_holds_most(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, (const char *const[]){"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3", "10.0.0.3",
                                                    "10.0.0.2", "10.0.0.4", "10.0.0.3"});
    assert_true(crowd_enter(c, &p[2], PLACE_COMPLETE));
    assert_int_equal(goes(c, p), 3); /* its oldest unfinished one */
    end(c, p, 3);
}

static void test_between_equals_the_oldest(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, APART);
    assert_true(crowd_enter(c, &p[0], PLACE_COMPLETE));
    assert_int_equal(goes(c, p), 1);
    end(c, p, 1);
    c = full(p, (const char *const[]){NULL, NULL, "10.0.0.3", NULL, NULL, NULL, NULL, NULL});
    assert_int_equal(goes(c, p), 0); /* without a source each counts for itself, however many they are */
    again(c, &p[0], "10.0.0.3");
    assert_int_equal(goes(c, p), 2);
    end(c, p, 2);
    c = full(p, (const char *const[]){NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL});
    assert_int_equal(goes(c, p), 0);
    end(c, p, 0);
}

static void test_never_one_with_a_complete_request(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, APART);
    for (int i = 0; i < MOST; i++)
        assert_true(crowd_enter(c, &p[i], PLACE_COMPLETE));
    assert_int_equal(goes(c, p), MOST);
    assert_true(crowd_enter(c, &p[4], PLACE_UNFINISHED)); /* its next one */
    assert_int_equal(goes(c, p), 4);
    end(c, p, 4);
}

/* Whoever has a /48 can have an address for each connection. */
static void test_networks(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, (const char *const[]){"10.0.0.1", "10.0.0.1", "2001:db8:1:1::1", "2001:db8:1:2::1",
                                                    "2001:db8:1:3::1", "2001:db8:2:1::1", "2001:db8:1:3::2", NULL});
    assert_int_equal(goes(c, p), 4); /* 2001:db8:1::/48 has four of them, and :3::/64 two of those */
    again(c, &p[4], "10.0.0.1");
    assert_int_equal(goes(c, p), 0); /* three each: the oldest */
    end(c, p, 0);
    c = full(p, (const char *const[]){"2001:db8:1:1::1", "2001:db8:2:1::1", "2001:db8:3:1::1", "2001:db8:4:1::1",
                                      "::ffff:10.0.0.1", "10.0.0.1", "2001:db8:5:1::1", "2001:db8:6:1::1"});
    assert_int_equal(goes(c, p), 4);
    end(c, p, 4);
}

/* A proxy's connection belongs to whom it speaks for. */
static void test_moved(void **state)
{
    (void)state;
    struct place p[MOST];
    struct crowd *c = full(p, (const char *const[]){NULL, NULL, NULL, "10.0.0.1", "10.0.0.1", NULL, NULL, NULL});
    const struct ip who = ip_of("10.0.0.2"), none = {0};
    for (int i = 5; i < 8; i++)
        crowd_move(c, &p[i], &who);
    assert_int_equal(goes(c, p), 5);
    crowd_move(c, &p[6], &none);
    crowd_move(c, &p[7], &none);
    again(c, &p[5], "10.0.0.3");
    assert_int_equal(goes(c, p), 3);
    end(c, p, 3);
}

static void test_gone_before_it_was_told(void **state)
{
    (void)state;
    struct place p[MOST], late;
    int wake;
    struct crowd *c = full(p, APART);
    assert_true(join(c, &late, 1, "10.9.9.9", &wake));
    assert_int_equal(wake, 0);
    crowd_leave(c, &p[0]);
    assert_null(crowd_evicted(c, 0));
    assert_int_equal(crowd_count(c), MOST);
    crowd_leave(c, &late);
    end(c, p, 0);
}

/* Thousands come and go: the counts stay right, and somebody of the largest always goes. */
static void test_a_flood(void **state)
{
    (void)state;
    enum { MANY = 2000 };
    static struct place p[MANY], late[MANY];
    char from[40];
    int wake;
    struct crowd *c = crowd_new(MANY, 1);
    for (int i = 0; i < MANY; i++) {
        snprintf(from, sizeof from, i % 2 ? "10.1.%d.%d" : "10.0.0.1", i / 250, i % 250);
        assert_true(join(c, &p[i], 0, from, &wake));
    }
    for (int i = 0; i < MANY / 2 - 1; i++) { /* until it holds no more than the others */
        snprintf(from, sizeof from, "10.2.%d.%d", i / 250, i % 250);
        assert_true(join(c, &late[i], 0, from, &wake));
        struct place *gone = crowd_evicted(c, 0);
        assert_true(gone >= p && gone < p + MANY && (gone - p) % 2 == 0);
        crowd_leave(c, gone);
        assert_int_equal(crowd_count(c), MANY);
        gone->owner = 1; /* has gone: for the end of this test */
    }
    for (int i = 0; i < MANY; i++)
        if (p[i].owner == 0)
            crowd_leave(c, &p[i]);
    for (int i = 0; i < MANY / 2 - 1; i++)
        crowd_leave(c, &late[i]);
    assert_int_equal(crowd_count(c), 0);
    crowd_free(c);
}

/* Fewer places: idle and unfinished ones go at once, complete ones stay, and as many as there are now may come. */
static void test_another_limit(void **state)
{
    (void)state;
    enum { LARGER = 300 };
    static struct place p[LARGER], one;
    int wake;
    struct crowd *c = crowd_new(2, OWNERS);
    for (int i = 0; i < 2; i++)
        assert_true(join(c, &p[i], 0, "10.0.0.1", &wake) && wake == -1);
    assert_true(crowd_limit(c, LARGER));
    for (int i = 2; i < LARGER; i++)
        assert_true(join(c, &p[i], i % OWNERS, "10.0.0.1", &wake) && wake == -1);
    assert_true(join(c, &one, 0, "10.0.0.2", &wake) && wake >= 0);
    int gone = 0;
    for (struct place *e; (e = crowd_evicted(c, (unsigned)wake)); gone++)
        e->since = UINT64_MAX; /* has gone */
    assert_int_equal(gone, 1);
    int complete = 0;
    for (int i = LARGER - 1; complete < 5; i--)
        if (p[i].since != UINT64_MAX)
            complete += crowd_enter(c, &p[i], PLACE_COMPLETE);
    assert_true(crowd_limit(c, 3));
    assert_int_equal(crowd_count(c), 5);
    for (unsigned owner = 0; owner < OWNERS; owner++)
        while (crowd_evicted(c, owner))
            gone++;
    assert_int_equal(gone, LARGER + 1 - 5);
    assert_false(join(c, &one, 0, "10.0.0.2", &wake)); /* nobody can go */
    crowd_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_ones_first),
        cmocka_unit_test(test_then_of_the_source_that_holds_most),
        cmocka_unit_test(test_between_equals_the_oldest),
        cmocka_unit_test(test_never_one_with_a_complete_request),
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_moved),
        cmocka_unit_test(test_gone_before_it_was_told),
        cmocka_unit_test(test_a_flood),
        cmocka_unit_test(test_another_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
