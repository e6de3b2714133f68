/* Sign-in at the console: how often one may try, how long a session holds, that neither takes memory without end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/timestamp.h"
#include "http/sessions.h"

static const int64_t NOW = 5 * US_PER_S; /* soon after the machine has started */

static struct ip ip_of(const char *text)
{
    struct ip ip;
    assert_true(ip_parse(str_z(text), &ip));
    return ip;
}

static void test_a_session_lives_while_it_is_used(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char name[SESSIONS_NAME], other[SESSIONS_NAME];
    int64_t now = NOW;
    assert_true(sessions_begin(s, now, name));
    assert_int_equal(strlen(name), SESSIONS_NAME - 1);
    const uint64_t number = sessions_use(s, str_z(name), now, true);
    assert_true(number && sessions_alive(s, number, now));
    for (int i = 0; i < 4; i++) {
        now += (SESSIONS_IDLE_S - 1) * US_PER_S;
        assert_int_equal(sessions_use(s, str_z(name), now, true), number);
    }
    assert_true(sessions_begin(s, now, other));
    assert_string_not_equal(name, other);
    assert_true(sessions_use(s, str_z(other), now, true) != number);
    now += SESSIONS_IDLE_S * US_PER_S;
    assert_false(sessions_alive(s, number, now));
    assert_int_equal(sessions_use(s, str_z(name), now, true), 0);
    assert_int_equal(sessions_use(s, str_z(name), now - 1, true), number); /* its twin: a moment before */
    sessions_free(s);
}

/* What a page asks by itself is answered, and keeps no session. */
static void test_a_session_that_nobody_attends_ends(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char name[SESSIONS_NAME];
    assert_true(sessions_begin(s, NOW, name));
    for (int64_t at = 0; at < SESSIONS_IDLE_S; at += 2)
        assert_true(sessions_use(s, str_z(name), NOW + at * US_PER_S, false));
    assert_int_equal(sessions_use(s, str_z(name), NOW + SESSIONS_IDLE_S * US_PER_S, false), 0);
    assert_int_equal(sessions_use(s, str_z(name), NOW + SESSIONS_IDLE_S * US_PER_S, true), 0);
    sessions_free(s);
}

static void test_a_session_ends_in_any_case(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char name[SESSIONS_NAME];
    assert_true(sessions_begin(s, NOW, name));
    int64_t now = NOW;
    for (; now - NOW < SESSIONS_WHOLE_S * US_PER_S; now += 600 * US_PER_S)
        assert_true(sessions_use(s, str_z(name), now, true));
    assert_int_equal(sessions_use(s, str_z(name), now, true), 0);
    sessions_free(s);
}

static void test_only_its_name_finds_it(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char name[SESSIONS_NAME], wrong[SESSIONS_NAME];
    static const uint8_t ZERO[32];
    assert_int_equal(sessions_use(s, STR(""), NOW, true), 0);
    assert_true(sessions_begin(s, NOW, name));
    memcpy(wrong, name, sizeof wrong);
    wrong[63] = wrong[63] == '0' ? '1' : '0';
    const struct str none[] = {STR(""), STR_MISSING, str_z(wrong), {name, 63}, {(const char *)ZERO, 32}};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(sessions_use(s, none[i], NOW, true), 0);
    sessions_end(s, str_z(wrong));
    assert_true(sessions_use(s, str_z(name), NOW, true));
    sessions_end(s, str_z(name));
    assert_int_equal(sessions_use(s, str_z(name), NOW, true), 0);
    assert_false(sessions_alive(s, 0, NOW));
    sessions_free(s);
}

static void test_the_one_unused_for_longest_makes_room(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char name[SESSIONS_MOST + 1][SESSIONS_NAME];
    for (int i = 0; i < SESSIONS_MOST; i++)
        assert_true(sessions_begin(s, NOW + i, name[i]));
    assert_true(sessions_use(s, str_z(name[0]), NOW + 1000, true));
    assert_true(sessions_begin(s, NOW + 1001, name[SESSIONS_MOST]));
    for (int i = 0; i <= SESSIONS_MOST; i++)
        assert_int_equal(sessions_use(s, str_z(name[i]), NOW + 1002, true) != 0, i != 1);
    sessions_free(s);
}

static void test_five_tries_a_minute(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    const struct ip a = ip_of("10.0.0.1"), b = ip_of("10.0.0.2"), none = {0};
    for (int i = 0; i < SESSIONS_TRIES; i++)
        assert_int_equal(sessions_try(s, &a, NOW + i * US_PER_S), 0);
    const int64_t now = NOW + SESSIONS_TRIES * US_PER_S;
    assert_int_equal(sessions_try(s, &a, now), 60 - SESSIONS_TRIES);
    assert_int_equal(sessions_try(s, &b, now), 0); /* another's are not his */
    assert_int_equal(sessions_try(s, &none, now), 0);
    assert_int_equal(sessions_try(s, &a, NOW + 60 * US_PER_S - 1), 1); /* what is refused is not counted */
    assert_int_equal(sessions_try(s, &a, NOW + 60 * US_PER_S), 0);
    assert_int_equal(sessions_try(s, &a, NOW + 60 * US_PER_S), 1);
    sessions_free(s);
}

static void test_a_network_of_ipv6_is_one_source(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    for (int i = 0; i < SESSIONS_TRIES; i++) {
        char text[40];
        snprintf(text, sizeof text, "2001:db8:0:1::%x", i + 1);
        const struct ip ip = ip_of(text);
        assert_int_equal(sessions_try(s, &ip, NOW), 0);
    }
    const struct ip same = ip_of("2001:db8:0:1:ffff::1"), other = ip_of("2001:db8:0:2::1");
    assert_int_equal(sessions_try(s, &same, NOW), 60);
    assert_int_equal(sessions_try(s, &other, NOW), 0);
    sessions_free(s);
}

static void test_many_sources_have_a_bound_together(void **state)
{
    (void)state;
    struct sessions *s = sessions_new();
    char text[40];
    for (int i = 0; i < SESSIONS_TRIES_OF_ALL; i++) {
        snprintf(text, sizeof text, "10.1.%d.1", i);
        const struct ip ip = ip_of(text);
        assert_int_equal(sessions_try(s, &ip, NOW + i), 0);
    }
    const struct ip ip = ip_of("10.2.0.1");
    assert_int_equal(sessions_try(s, &ip, NOW + 1000), 60);
    assert_int_equal(sessions_try(s, &ip, NOW + 60 * US_PER_S), 0);
    for (int i = 0; i < 1000; i++) { /* more than are remembered: over an hour */
        snprintf(text, sizeof text, "10.%d.%d.1", 3 + i / 200, i % 200);
        const struct ip one = ip_of(text);
        assert_int_equal(sessions_try(s, &one, NOW + (120 + i * 5) * US_PER_S), 0);
    }
    sessions_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_session_lives_while_it_is_used),
        cmocka_unit_test(test_a_session_that_nobody_attends_ends),
        cmocka_unit_test(test_a_session_ends_in_any_case),
        cmocka_unit_test(test_only_its_name_finds_it),
        cmocka_unit_test(test_the_one_unused_for_longest_makes_room),
        cmocka_unit_test(test_five_tries_a_minute),
        cmocka_unit_test(test_a_network_of_ipv6_is_one_source),
        cmocka_unit_test(test_many_sources_have_a_bound_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
