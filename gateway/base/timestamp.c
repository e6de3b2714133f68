#include "base/timestamp.h"

#include <stdio.h>
#include <time.h>

#include "base/sixteen.h"

enum { SECONDS_A_DAY = 86400 };

static int64_t clock_us(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * US_PER_S + t.tv_nsec / 1000;
}

int64_t time_now_us(void)
{
    return clock_us(CLOCK_REALTIME);
}

int64_t time_mono_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t time_mono_rough_us(void)
{
    return clock_us(CLOCK_MONOTONIC_COARSE);
}

static bool leap(int year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* Days before each month, and before the next year, of a common year. */
static const int BEFORE[13] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};

static int days_before(int month, int year) /* month 1 to 13 */
{
    return BEFORE[month - 1] + (month > 2 && leap(year));
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days from 0001-01-01 to the first day of a year: timegm() would read the zone files, and judging does no input. */
static int64_t days_to_year(int64_t year)
{
    const int64_t past = year - 1;
    return past * 365 + floor_div(past, 4) - floor_div(past, 100) + floor_div(past, 400);
}

#define DAYS_TO_1970 INT64_C(719162)

/* Reads `width` digits at *at of s. */
static inline __attribute__((always_inline)) bool take_digits(struct str s, size_t *at, int width, int *out)
{
    int value = 0;
    if (s.n - *at < (size_t)width)
        return false;
    for (int i = 0; i < width; i++) {
        const char c = s.p[*at + (size_t)i];
        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (c - '0');
    }
    *at += (size_t)width;
    *out = value;
    return true;
}

static inline bool literal(struct str s, size_t *at, char c)
{
    if (*at >= s.n || s.p[*at] != c)
        return false;
    ++*at;
    return true;
}

static bool take_date(int year, int month, int day, int64_t *seconds)
{
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_before(month + 1, year) - days_before(month, year))
        return false;
    *seconds = (days_to_year(year) - DAYS_TO_1970 + days_before(month, year) + day - 1) * SECONDS_A_DAY;
    return true;
}

/* "2026-11-23" as seconds. */
static bool read_date(struct str s, size_t *at, int64_t *seconds)
{
    int year, month, day;
    return take_digits(s, at, 4, &year) && literal(s, at, '-') && take_digits(s, at, 2, &month) &&
           literal(s, at, '-') && take_digits(s, at, 2, &day) && take_date(year, month, day, seconds);
}

static bool take_clock(int hour, int minute, int second, int *seconds)
{
    *seconds = hour * 3600 + minute * 60 + second;
    return hour <= 23 && minute <= 59 && second <= 59;
}

/* "18:00:00" as seconds. */
static bool read_clock(struct str s, size_t *at, int *seconds)
{
    int hour, minute, second;
    if (!take_digits(s, at, 2, &hour) || !literal(s, at, ':') || !take_digits(s, at, 2, &minute) ||
        !literal(s, at, ':') || !take_digits(s, at, 2, &second))
        return false;
    return take_clock(hour, minute, second, seconds);
}

/* ".123456789" as microseconds, if it is there. */
static bool read_fraction(struct str s, size_t *at, int64_t *us)
{
    int64_t weight = US_PER_S / 10;
    *us = 0;
    if (!literal(s, at, '.'))
        return true;
    const size_t from = *at;
    for (; *at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9'; ++*at) {
        *us += (s.p[*at] - '0') * weight;
        weight /= 10;
    }
    return *at > from;
}

/* "Z", "+01:00" as seconds, or nothing. */
static bool read_zone(struct str s, size_t *at, int *seconds, bool *has_zone)
{
    int hour, minute;
    *seconds = 0;
    *has_zone = *at < s.n;
    if (!*has_zone || literal(s, at, 'Z'))
        return true;
    const char sign = s.p[*at];
    if (sign != '+' && sign != '-')
        return false;
    ++*at;
    if (!take_digits(s, at, 2, &hour) || !literal(s, at, ':') || !take_digits(s, at, 2, &minute) || minute > 59 ||
        hour * 60 + minute > 14 * 60)
        return false;
    *seconds = (hour * 3600 + minute * 60) * (sign == '-' ? -1 : 1);
    return true;
}

/* "2026-11-23T18:00:00Z", which nearly each is; all that it asks of the text is asked at once. */
static bool is_usual(struct str s)
{
#ifdef SIXTEEN
    enum { DIGITS = 0xdb6f }; /* of "2026-11-23T18:00": all but the fifth, eighth, eleventh and fourteenth */
    if (s.n != 20 || sixteen_which(sixteen_within(sixteen_load(s.p), '0', '9')) != DIGITS)
        return false;
    return s.p[4] == '-' && s.p[7] == '-' && s.p[10] == 'T' && s.p[13] == ':' && s.p[16] == ':' &&
           (unsigned)(s.p[17] - '0') < 10 && (unsigned)(s.p[18] - '0') < 10 && s.p[19] == 'Z';
#else
    (void)s;
    return false;
#endif
}

static int two_digits(const char *p)
{
    return (p[0] - '0') * 10 + (p[1] - '0');
}

static bool read_usual(const char *p, int64_t *us)
{
    int64_t date;
    int clock;
    if (!take_date(two_digits(p) * 100 + two_digits(p + 2), two_digits(p + 5), two_digits(p + 8), &date) ||
        !take_clock(two_digits(p + 11), two_digits(p + 14), two_digits(p + 17), &clock))
        return false;
    *us = (date + clock) * US_PER_S;
    return true;
}

bool time_parse(struct str text, int64_t *us, bool *has_zone)
{
    const struct str s = str_trim(text);
    size_t at = 0;
    int64_t date, fraction;
    int clock, zone;
    bool zoned;
    if (s.p && is_usual(s)) {
        if (!read_usual(s.p, us))
            return false;
        *has_zone = true;
        return true;
    }
    if (!s.p || !read_date(s, &at, &date) || !literal(s, &at, 'T') || !read_clock(s, &at, &clock) ||
        !read_fraction(s, &at, &fraction) || !read_zone(s, &at, &zone, &zoned) || at != s.n)
        return false;
    *us = (date + clock - zone) * US_PER_S + fraction;
    *has_zone = zoned;
    return true;
}

bool date_parse(struct str text, int64_t *us)
{
    size_t at = 0;
    int64_t seconds;
    if (!text.p || !read_date(text, &at, &seconds) || at != text.n)
        return false;
    *us = seconds * US_PER_S;
    return true;
}

/* The year in which a day lies that is so many after 0001-01-01: cycles of 400 years, their centuries, and so on; the
 * last day of a cycle, and of four years, is one more than its parts have. */
static int64_t year_of(int64_t days)
{
    enum { DAYS_400 = 146097, DAYS_100 = 36524, DAYS_4 = 1461, DAYS_1 = 365 };
    const int64_t cycles = floor_div(days, DAYS_400);
    int rest = (int)(days - cycles * DAYS_400);
    const int centuries = rest / DAYS_100 < 4 ? rest / DAYS_100 : 3;
    rest -= centuries * DAYS_100;
    const int fours = rest / DAYS_4;
    rest -= fours * DAYS_4;
    const int years = rest / DAYS_1 < 4 ? rest / DAYS_1 : 3;
    return cycles * 400 + centuries * 100 + fours * 4 + years + 1;
}

/* `before`, unless it is NUL, then so many digits; where the next would stand. */
static char *put_digits(char *at, char before, int value, int digits)
{
    if (before)
        *at++ = before;
    for (int i = digits - 1; i >= 0; i--, value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + digits;
}

void time_format(int64_t us, bool with_ms, char out[TIME_TEXT])
{
    const int64_t seconds = floor_div(us, US_PER_S);
    const int64_t days = floor_div(seconds, SECONDS_A_DAY) + DAYS_TO_1970; /* from 0001-01-01 */
    const int clock = (int)(seconds - (days - DAYS_TO_1970) * SECONDS_A_DAY);
    const int64_t year = year_of(days);
    const int day = (int)(days - days_to_year(year));
    int month = 1;
    while (days_before(month + 1, (int)year) <= day)
        month++;
    char *at = out;
    if (year > 9999 || year < 0)
        at += snprintf(out, TIME_TEXT, "%04d", (int)year);
    else
        at = put_digits(at, '\0', (int)year, 4);
    at = put_digits(at, '-', month, 2);
    at = put_digits(at, '-', day - days_before(month, (int)year) + 1, 2);
    at = put_digits(at, 'T', clock / 3600, 2);
    at = put_digits(at, ':', clock / 60 % 60, 2);
    at = put_digits(at, ':', clock % 60, 2);
    if (with_ms)
        at = put_digits(at, '.', (int)((us % US_PER_S + US_PER_S) % US_PER_S / 1000), 3);
    *at++ = 'Z';
    *at = '\0';
}
