#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/timestamp.h"

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* The C library's calendar writes the same instant. */
static void by_libc(int64_t us, bool with_ms, char out[64])
{
    time_t seconds = us / US_PER_S - (us % US_PER_S < 0);
    struct tm tm;
    assert_non_null(gmtime_r(&seconds, &tm));
    const int n = snprintf(out, 64, "%04lld-%02d-%02dT%02d:%02d:%02d", tm.tm_year + 1900LL, tm.tm_mon + 1, tm.tm_mday,
                           tm.tm_hour, tm.tm_min, tm.tm_sec);
    const int64_t rest = (us % US_PER_S + US_PER_S) % US_PER_S;
    if (with_ms)
        snprintf(out + n, (size_t)(64 - n), ".%03dZ", (int)(rest / 1000));
    else
        snprintf(out + n, (size_t)(64 - n), "Z");
}

/* Each day of the years 0001 to 9999: written as the C library does, and read again. */
static void all_days(void **state)
{
    uint32_t seed = 6;
    int64_t us = 0;
    bool zone = false;
    struct tm first = {.tm_year = 1 - 1900, .tm_mday = 1}, last = {.tm_year = 9999 - 1900, .tm_mon = 11, .tm_mday = 31};
    const int64_t from = timegm(&first), to = timegm(&last);
    (void)state;
    assert_int_equal((to - from) / 86400 + 1, 3652059);
    for (int64_t day = from; day <= to; day += 86400) {
        char ours[TIME_TEXT], theirs[64];
        const int64_t when = (day + dice(&seed) % 86400) * US_PER_S + dice(&seed) % US_PER_S;
        const bool with_ms = when & 1;
        time_format(when, with_ms, ours);
        by_libc(when, with_ms, theirs);
        if (strcmp(ours, theirs) != 0)
            fail_msg("%s for %s", ours, theirs);
        const int64_t unit = with_ms ? 1000 : US_PER_S, whole = when - ((when % unit) + unit) % unit;
        if (!time_parse(str_z(ours), &us, &zone) || us != whole || !zone)
            fail_msg("%s read as %lld", ours, (long long)us);
        ours[10] = '\0';
        if (!date_parse(str_z(ours), &us) || us != day * US_PER_S)
            fail_msg("%s read as %lld", ours, (long long)us);
    }
}

/* Beyond those years nobody promises a text, but it stays in its field and is a true one. */
static void any_instant(void **state)
{
    uint32_t seed = 7;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char ours[TIME_TEXT], theirs[64];
        const int64_t random = (int64_t)((uint64_t)dice(&seed) << 44 ^ (uint64_t)dice(&seed) << 22 ^ dice(&seed));
        const int64_t us = round == 0 ? INT64_MIN : round == 1 ? INT64_MAX : round % 2 ? random : random / 131072;
        time_format(us, round % 3 == 0, ours);
        by_libc(us, round % 3 == 0, theirs);
        assert_string_equal(ours, theirs);
    }
}

/* Every day number of every kind of year, and every offset and clock text, told good or bad by the calendar. */
static void every_field(void **state)
{
    char text[64];
    int64_t us;
    bool zone;
    (void)state;
    for (int year = 1896; year <= 2104; year += year % 100 == 99 || year % 100 == 0 ? 1 : 3)
        for (int month = 0; month <= 13; month++)
            for (int day = 0; day <= 32; day++) {
                struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = 12};
                struct tm same = tm;
                const time_t wanted = timegm(&same); /* moves what does not exist to another day */
                const bool exists =
                    same.tm_mon == tm.tm_mon && same.tm_mday == tm.tm_mday && same.tm_year == tm.tm_year;
                snprintf(text, sizeof text, "%04d-%02d-%02dT12:00:00Z", year, month, day);
                if (time_parse(str_z(text), &us, &zone) != exists || (exists && us != (int64_t)wanted * US_PER_S))
                    fail_msg("%s", text);
                text[10] = '\0';
                assert_int_equal(date_parse(str_z(text), &us), exists);
            }
    for (int a = 0; a < 100; a++)
        for (int b = 0; b < 100; b++) {
            snprintf(text, sizeof text, "2026-11-23T%02d:%02d:01Z", a, b);
            assert_int_equal(time_parse(str_z(text), &us, &zone), a < 24 && b < 60);
            snprintf(text, sizeof text, "2026-11-23T12:%02d:%02dZ", a, b);
            assert_int_equal(time_parse(str_z(text), &us, &zone), a < 60 && b < 60);
            for (int minus = 0; minus < 2; minus++) {
                snprintf(text, sizeof text, "1970-01-01T00:00:00%c%02d:%02d", minus ? '-' : '+', a, b);
                const bool good = b < 60 && a * 60 + b <= 14 * 60;
                assert_int_equal(time_parse(str_z(text), &us, &zone), good);
                assert_true(!good || us == (minus ? 1 : -1) * (a * 60 + b) * 60 * US_PER_S);
            }
        }
}

static void by_example(void **state)
{
    static const struct {
        const char *bad, *good;
    } CASES[] = {
        {"2026-11-23T24:00:00Z", "2026-11-23T23:59:59Z"},
        {"2026-11-23T18:00:60Z", "2026-11-23T18:00:59Z"},
        {"2026-11-23T18:00Z", "2026-11-23T18:00:00Z"},
        {"2026-11-23 18:00:00Z", "2026-11-23T18:00:00Z"},
        {"2026-11-23t18:00:00Z", "2026-11-23T18:00:00Z"},
        {"2026-11-23T18:00:00z", "2026-11-23T18:00:00Z"},
        {"2026-11-23T18:00:00+0100", "2026-11-23T18:00:00+01:00"},
        {"2026-11-23T18:00:00+1:00", "2026-11-23T18:00:00-01:00"},
        {"2026-11-23T18:00:00+14:01", "2026-11-23T18:00:00+14:00"},
        {"2026-11-23T18:00:00-15:00", "2026-11-23T18:00:00-14:00"},
        {"2026-11-23T18:00:00.Z", "2026-11-23T18:00:00.0Z"},
        {"2026-11-23T18:00:00,5Z", "2026-11-23T18:00:00.5Z"},
        {"2026-11-23T18:00:00.5 Z", "2026-11-23T18:00:00.5Z"},
        {"0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
        {"10000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"},
        {"-2026-11-23T18:00:00Z", " 2026-11-23T18:00:00Z"},
        {"+2026-11-23T18:00:00Z", "\t2026-11-23T18:00:00Z\r\n"},
        {"2026-11-23T18:00:00ZZ", "2026-11-23T18:00:00Z "},
        {"2026-11-23T18:00:00Z x", "2026-11-23T18:00:00Z \n"},
        {"2026-1-23T18:00:00Z", "2026-01-23T18:00:00Z"},
        {"2026-11-23T8:00:00Z", "2026-11-23T08:00:00Z"},
        {"2026-02-29T00:00:00Z", "2028-02-29T00:00:00Z"},
        {"2100-02-29T00:00:00Z", "2000-02-29T00:00:00Z"},
        {"2026-04-31T00:00:00Z", "2026-04-30T00:00:00Z"},
        {"2026-11-23", "2026-11-23T00:00:00"},
        {"2026-11-23T", "2026-11-23T00:00:00"},
        {"", "2026-11-23T00:00:00-00:00"},
        {"\xef\xbc\x92" "026-11-23T18:00:00Z", "2026-11-23T18:00:00Z"},
        {"2026-11-23T18:00:00+", "2026-11-23T18:00:00+00:00"},
    };
    int64_t us;
    bool zone;
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        if (time_parse(str_z(CASES[i].bad), &us, &zone))
            fail_msg("`%s` is taken", CASES[i].bad);
        if (!time_parse(str_z(CASES[i].good), &us, &zone))
            fail_msg("`%s` is refused", CASES[i].good);
    }
    assert_false(time_parse(STR_MISSING, &us, &zone));
    assert_false(time_parse((struct str){"2026-11-23T18:00:00Z\0", 21}, &us, &zone));
    static const char *const NO_DATES[] = {"",        "2026-11-23 ", " 2026-11-23", "2026-11-23Z",
                                           "2026-11", "2026-11-231", "26-11-23"};
    for (size_t i = 0; i < sizeof NO_DATES / sizeof *NO_DATES; i++)
        assert_false(date_parse(str_z(NO_DATES[i]), &us));
    assert_true(date_parse(STR("1969-12-31"), &us));
    assert_int_equal(us, -86400 * US_PER_S);
    assert_false(date_parse(STR_MISSING, &us));
}

static void fractions_and_zones(void **state)
{
    int64_t us = 0;
    bool zone = true;
    char text[1100];
    (void)state;
    assert_true(time_parse(STR("1970-01-01T00:00:00"), &us, &zone));
    assert_false(zone);
    assert_true(time_parse(STR("1970-01-01T00:00:00Z"), &us, &zone));
    assert_true(zone);
    assert_int_equal(us, 0);
    assert_true(time_parse(STR("1970-01-01T00:00:00.1234569"), &us, &zone)); /* cut, not rounded */
    assert_int_equal(us, 123456);
    assert_true(time_parse(STR("1969-12-31T23:59:59.9999999Z"), &us, &zone));
    assert_int_equal(us, -1);
    int n = snprintf(text, sizeof text, "1970-01-01T00:00:01.");
    memset(text + n, '9', 1000);
    memcpy(text + n + 1000, "Z", 2);
    assert_true(time_parse(str_z(text), &us, &zone));
    assert_int_equal(us, 1999999);
    char out[TIME_TEXT];
    time_format(-1, true, out);
    assert_string_equal(out, "1969-12-31T23:59:59.999Z");
    time_format(-1, false, out);
    assert_string_equal(out, "1969-12-31T23:59:59Z");
    time_format(TIME_NONE, true, out); /* no time at all, yet no harm */
}

static void clocks(void **state)
{
    (void)state;
    const int64_t now = time_now_us(), mono = time_mono_us();
    assert_true(now / US_PER_S - time(NULL) >= -2 && now / US_PER_S - time(NULL) <= 2);
    assert_true(time_mono_us() >= mono);
    assert_true(mono > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_days),   cmocka_unit_test(any_instant),         cmocka_unit_test(every_field),
        cmocka_unit_test(by_example), cmocka_unit_test(fractions_and_zones), cmocka_unit_test(clocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
