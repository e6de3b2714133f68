#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/zone.h"

static bool damaged; /* of the zone that was loaded at last */

static int64_t us_of(const char *text)
{
    int64_t us;
    bool has_zone;
    assert_true(time_parse(str_z(text), &us, &has_zone));
    return us;
}

static void the_clocks_of_zones(void **state)
{
    static const struct {
        const char *zone, *wall, *first, *second;
    } CASES[] = {
        {"Europe/Paris", "2026-07-01T12:00:00", "2026-07-01T10:00:00Z", NULL},
        {"Europe/Paris", "2026-12-01T12:00:00", "2026-12-01T11:00:00Z", NULL},
        {"Europe/Paris", "2026-03-29T01:59:59.999999", "2026-03-29T00:59:59.999999Z", NULL},
        {"Europe/Paris", "2026-03-29T02:00:00", NULL, NULL},
        {"Europe/Paris", "2026-03-29T02:59:59.999999", NULL, NULL},
        {"Europe/Paris", "2026-03-29T03:00:00", "2026-03-29T01:00:00Z", NULL},
        {"Europe/Paris", "2026-10-25T01:59:59", "2026-10-24T23:59:59Z", NULL},
        {"Europe/Paris", "2026-10-25T02:00:00", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
        {"Europe/Paris", "2026-10-25T02:59:59", "2026-10-25T00:59:59Z", "2026-10-25T01:59:59Z"},
        {"Europe/Paris", "2026-10-25T03:00:00", "2026-10-25T02:00:00Z", NULL},
        {"Europe/Paris", "2099-07-01T12:00:00", "2099-07-01T10:00:00Z", NULL},
        {"America/New_York", "2026-11-01T01:30:00", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"},
        {"America/New_York", "2026-03-08T02:30:00", NULL, NULL},
        {"Australia/Lord_Howe", "2026-04-05T01:45:00", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"}, /* by 30 min */
        {"Pacific/Auckland", "2026-01-15T12:00:00", "2026-01-14T23:00:00Z", NULL},
        {"Asia/Kolkata", "2026-07-01T05:30:00", "2026-07-01T00:00:00Z", NULL},
        {"Asia/Tokyo", "2026-07-01T09:00:00", "2026-07-01T00:00:00Z", NULL},
        {"Pacific/Apia", "2011-12-30T12:00:00", NULL, NULL}, /* the day that never was there */
        {"Etc/GMT+5", "2026-07-01T07:00:00", "2026-07-01T12:00:00Z", NULL},
        {"UTC", "2026-07-01T12:00:00", "2026-07-01T12:00:00Z", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int64_t at[2];
        struct zone *z = zone_load(str_z(CASES[i].zone), &damaged);
        assert_non_null(z);
        const unsigned n = zone_instants(z, us_of(CASES[i].wall), at);
        assert_int_equal(n, !CASES[i].first ? 0 : CASES[i].second ? 2 : 1);
        assert_true(n < 1 || at[0] == us_of(CASES[i].first));
        assert_true(n < 2 || at[1] == us_of(CASES[i].second));
        zone_free(z);
    }
}

/* The C library reads the same files: what its clock shows at an instant stands for that instant. In a process of its
 * own, whose environment names the zone. */
static int compare_with_library(const char *zone)
{
    int wrong = 0;
    struct zone *z = zone_load(str_z(zone), &damaged);
    tzset();
    for (int64_t s = INT64_C(1600000000); z && s < INT64_C(2200000000); s += 86400 / 2 + 1801) {
        const time_t t = (time_t)s;
        struct tm tm;
        int64_t at[2] = {0, 0};
        if (!localtime_r(&t, &tm))
            return 1;
        const unsigned n = zone_instants(z, (s + tm.tm_gmtoff) * US_PER_S, at);
        if (!(n > 0 && (at[0] == s * US_PER_S || (n == 2 && at[1] == s * US_PER_S)))) {
            fprintf(stderr, "%s at %lld: %u instants, %lld\n", zone, (long long)s, n, (long long)at[0]);
            wrong = 1;
        }
    }
    zone_free(z);
    return !z || wrong;
}

static void as_the_library_reads_them(void **state)
{
    static const char *const ZONES[] = {"Europe/Paris", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Gaza",
                                        "America/Nuuk", "Europe/Dublin", "Australia/Sydney", "Antarctica/Troll"};
    (void)state;
    for (size_t i = 0; i < sizeof ZONES / sizeof *ZONES; i++) {
        char name[] = "test_zone", zone[64], tz[80];
        snprintf(zone, sizeof zone, "%s", ZONES[i]);
        snprintf(tz, sizeof tz, "TZ=%s", ZONES[i]);
        char *argv[] = {name, zone, NULL}, *envp[] = {tz, NULL};
        int status = -1;
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            execve("/proc/self/exe", argv, envp);
            _exit(2);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

/* In tzdata, under a name that a zone may have. */
static bool is_file(const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "/usr/share/zoneinfo/%s", name);
    return !strchr(name, '.') && !strstr(name, "//") && stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static void names_of_no_zone(void **state)
{
    static const char *const NAMES[] = {"",
                                        "/",
                                        "../../../etc/passwd",
                                        "Europe",
                                        "Europe/",
                                        "/etc/localtime",
                                        "Europe//Paris",
                                        "Europe/Pariss",
                                        "europe/paris",
                                        "tzdata.zi",
                                        "zone.tab",
                                        "right/Europe/Paris",
                                        "leapseconds",
                                        "."};
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        struct zone *z = zone_load(str_z(NAMES[i]), &damaged);
        if (z)
            fail_msg("`%s` is taken", NAMES[i]);
        assert_int_equal(damaged, is_file(NAMES[i]));
    }
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return compare_with_library(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_clocks_of_zones),
                                       cmocka_unit_test(as_the_library_reads_them),
                                       cmocka_unit_test(names_of_no_zone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
