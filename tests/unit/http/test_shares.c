#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "http/shares.h"

enum { IN_FLIGHT = 64, USERS = 3000, PART = IN_FLIGHT / 16 };

static uint64_t user(const struct shares *s, int n)
{
    char name[32];
    const int length = snprintf(name, sizeof name, "sip:%d@example.org", n);
    return shares_user(s, (struct str){name, (size_t)length});
}

static void one_user_has_a_sixteenth(void **state)
{
    (void)state;
    struct shares *s = shares_new(IN_FLIGHT);
    assert_non_null(s);
    for (int i = 0; i < PART; i++)
        assert_true(shares_enter(s, user(s, 1)));
    assert_false(shares_enter(s, user(s, 1)));
    assert_true(shares_enter(s, user(s, 2)));
    shares_leave(s, user(s, 1));
    assert_true(shares_enter(s, user(s, 1)));
    assert_false(shares_enter(s, user(s, 1)));
    shares_free(s);
}

static void everybody_has_one_at_least(void **state)
{
    (void)state;
    struct shares *s = shares_new(1);
    assert_true(shares_enter(s, user(s, 1)));
    assert_false(shares_enter(s, user(s, 1)));
    assert_true(shares_begin(s, 0));
    shares_free(s);
}

/* Many come and go in any order: counts stay what a plain array says. */
static void a_table_of_many(void **state)
{
    (void)state;
    static unsigned count[USERS];
    struct shares *s = shares_new(IN_FLIGHT);
    uint32_t x = 12345;
    for (int i = 0; i < 200000; i++) {
        x = x * 1664525u + 1013904223u;
        const int u = (int)(x >> 8) % USERS;
        if (x >> 31) {
            assert_int_equal(shares_enter(s, user(s, u)), count[u] < PART);
            count[u] += count[u] < PART;
        } else if (count[u]) {
            shares_leave(s, user(s, u));
            count[u]--;
        }
    }
    for (int u = 0; u < USERS; u++)
        for (; count[u]; count[u]--)
            shares_leave(s, user(s, u));
    for (int u = 0; u < USERS; u++)
        for (int i = 0; i <= PART; i++)
            assert_int_equal(shares_enter(s, user(s, u)), i < PART);
    shares_free(s);
}

static uint64_t source(const struct shares *s, const char *text)
{
    struct ip ip;
    assert_true(ip_parse(str_z(text), &ip));
    return shares_source(s, &ip);
}

static void sources(void **state)
{
    (void)state;
    struct shares *s = shares_new(IN_FLIGHT);
    assert_true(source(s, "10.0.0.1") != source(s, "10.0.0.2"));
    assert_true(source(s, "2001:db8::1") == source(s, "2001:db8::ffff:2"));
    assert_true(source(s, "2001:db8::1") != source(s, "2001:db8:0:1::1"));
    assert_true(source(s, "10.0.0.1") == source(s, "::ffff:10.0.0.1"));
    const struct ip unix_socket = {.known = false};
    assert_true(shares_source(s, &unix_socket) == 0);
    for (int i = 0; i < 3 * IN_FLIGHT; i++)
        assert_true(shares_enter(s, 0));
    shares_leave(s, 0);
    shares_free(s);
}

static void one_resource_has_half_while_others_ask(void **state)
{
    (void)state;
    struct shares *s = shares_new(IN_FLIGHT);
    for (int i = 0; i < IN_FLIGHT; i++)
        assert_true(shares_begin(s, 1)); /* nobody else asks */
    assert_true(shares_begin(s, 2));
    assert_false(shares_begin(s, 1));
    shares_end(s, 1); /* the refused one ends, too */
    for (int i = 0; i < IN_FLIGHT / 2; i++)
        shares_end(s, 1);
    assert_false(shares_begin(s, 1));
    shares_end(s, 1);
    shares_end(s, 1);
    assert_true(shares_begin(s, 1));
    assert_false(shares_begin(s, 1));
    shares_free(s);
}

/* Who has more than his share keeps it, and gets no more. */
static void another_number_in_flight(void **state)
{
    (void)state;
    struct shares *s = shares_new(64);
    const uint64_t who = shares_user(s, STR("sip:alice@example.org"));
    for (int i = 0; i < 4; i++)
        assert_true(shares_enter(s, who));
    assert_false(shares_enter(s, who));
    shares_limit(s, 80);
    assert_true(shares_enter(s, who));
    shares_limit(s, 32);
    assert_false(shares_enter(s, who));
    for (int i = 0; i < 4; i++)
        shares_leave(s, who);
    assert_true(shares_enter(s, who));
    assert_false(shares_enter(s, who));
    shares_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_user_has_a_sixteenth),
        cmocka_unit_test(everybody_has_one_at_least),
        cmocka_unit_test(a_table_of_many),
        cmocka_unit_test(sources),
        cmocka_unit_test(one_resource_has_half_while_others_ask),
        cmocka_unit_test(another_number_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
