/* A calendar that counts: after the last day of a month comes the first of the next. Of the program that it is put into
 * it takes time_format() and time_parse() alone. */
#ifndef PROOFS_DATES_RUN_H
#define PROOFS_DATES_RUN_H

#include <inttypes.h>

#define A_DAY (INT64_C(86400) * 1000000)

struct counted_date {
    int64_t year;
    int month, day;
};

static int length_of(const struct counted_date *d)
{
    static const int LENGTHS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const bool every_fourth = d->year % 4 == 0, every_hundredth = d->year % 100 == 0, every_400th = d->year % 400 == 0;
    return LENGTHS[d->month - 1] + (d->month == 2 && every_fourth && (!every_hundredth || every_400th));
}

static void day_on(struct counted_date *d)
{
    if (++d->day <= length_of(d))
        return;
    d->day = 1;
    if (++d->month > 12) {
        d->month = 1;
        d->year++;
    }
}

static void day_back(struct counted_date *d)
{
    if (--d->day > 0)
        return;
    if (--d->month < 1) {
        d->month = 12;
        d->year--;
    }
    d->day = length_of(d);
}

static void hold_date(int64_t us, const struct counted_date *d, const char *clock)
{
    char out[TIME_TEXT], due[64];
    int64_t again = 0;
    bool zone = false;
    memset(out, '#', sizeof out);
    time_format(us, true, out);
    snprintf(due, sizeof due, "%04" PRId64 "-%02d-%02dT%s", d->year, d->month, d->day, clock);
    holds(strcmp(out, due) == 0, out, strlen(out));
    if (d->year < 1 || d->year > 9999)
        return;
    holds(time_parse(str_z(out), &again, &zone) && zone && again <= us && us - again < 1000, out, strlen(out));
    time_format(us, false, out);
    holds(strlen(out) == 20 && time_parse(str_z(out), &again, &zone) && again <= us && us - again < 1000000, out, 20);
}

/* From 1970 on, forwards or backwards, while the day is whole within 64 bits and the year within `years`. */
static uint64_t hold_days(bool back, int64_t first_year, int64_t last_year)
{
    struct counted_date d = {1970, 1, 1};
    uint64_t n = 0;
    int64_t us = 0;
    while (us <= INT64_MAX - 2 * A_DAY && us >= INT64_MIN + 2 * A_DAY && d.year >= first_year && d.year <= last_year) {
        hold_date(us, &d, "00:00:00.000Z");
        hold_date(us + A_DAY - 1, &d, "23:59:59.999Z");
        n++;
        if (back)
            day_back(&d);
        else
            day_on(&d);
        us += back ? -A_DAY : A_DAY;
    }
    return n;
}

int main(int argc, char **argv)
{
    (void)argv;
    const int64_t first = argc > 1 ? INT64_MIN : -400, last = argc > 1 ? INT64_MAX : 10400;
    char out[TIME_TEXT];
    const uint64_t n = hold_days(false, first, last) + hold_days(true, first, last);
    time_format(INT64_MAX, true, out); /* what is not a whole day */
    holds(strcmp(out, "294247-01-10T04:00:54.775Z") == 0, out, strlen(out));
    time_format(INT64_MIN, true, out);
    holds(strcmp(out, "-290308-12-21T19:59:05.224Z") == 0, out, strlen(out));
    printf("%" PRIu64 " days\n", n);
    return 0;
}

#endif
