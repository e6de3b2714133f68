#include "base/zone.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* RFC 8536: a file of transitions, and behind them a rule (POSIX TZ) for the years that follow, written out here up to
 * YEAR_LAST: windows of time are days wide, around now. */
#define ZONE_FOLDER "/usr/share/zoneinfo/"
enum { FILE_MAX = 65536, HEADER = 44, TRANSITIONS_MAX = 4000, YEAR_FIRST = 1970, YEAR_LAST = 2200, DAY_S = 86400 };
/* No clock is further from UTC, and no two transitions of one zone are that near. */
#define AROUND_S INT64_C(93600)

struct transition {
    int64_t at_s;
    int32_t offset_s; /* from then on, east positive */
};
struct zone {
    int32_t first_s; /* before all transitions */
    size_t n;
    struct transition v[TRANSITIONS_MAX];
};

/* A day and time of the year at which clocks change, by POSIX: Mm.w.d, Jn or n; and the time of day. */
struct change {
    enum { BY_WEEK, BY_JULIAN, BY_DAY } kind;
    int month, week, day;
    int32_t time_s;
};
struct footer {
    int32_t standard_s, summer_s;
    bool has_summer;
    struct change to_summer, to_standard;
};

static int64_t days_from_civil(int year, int month, int day)
{
    const int64_t y = month <= 2 ? year - 1 : year, era = y / 400, of_era = y - era * 400;
    const int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int month_days(int year, int month)
{
    static const int DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return DAYS[month - 1] + (month == 2 && is_leap(year));
}

/* The day on which the change falls, counted from 1970-01-01. */
static int64_t change_day(const struct change *c, int year)
{
    const int64_t january = days_from_civil(year, 1, 1);
    if (c->kind == BY_DAY)
        return january + c->day;
    if (c->kind == BY_JULIAN)
        return january + c->day - 1 + (is_leap(year) && c->day > 59);
    const int64_t first = days_from_civil(year, c->month, 1);
    const int weekday = (int)((first + 4) % 7); /* 1970-01-01 was a Thursday */
    int64_t day = (c->day - weekday + 7) % 7 + 7 * (c->week - 1);
    while (day >= month_days(year, c->month))
        day -= 7;
    return first + day;
}

static bool read_number(const char **p, int max, int *out)
{
    int n = 0;
    if (**p < '0' || **p > '9')
        return false;
    while (**p >= '0' && **p <= '9' && n <= max)
        n = n * 10 + (*(*p)++ - '0');
    *out = n;
    return n <= max;
}

/* [+-]h[h][:mm[:ss]] */
static bool read_time(const char **p, int32_t *out)
{
    const bool minus = **p == '-';
    int h, m = 0, s = 0;
    if (**p == '-' || **p == '+')
        (*p)++;
    if (!read_number(p, 167, &h))
        return false;
    if (**p == ':') {
        (*p)++;
        if (!read_number(p, 59, &m))
            return false;
    }
    if (**p == ':') {
        (*p)++;
        if (!read_number(p, 59, &s))
            return false;
    }
    *out = (minus ? -1 : 1) * (h * 3600 + m * 60 + s);
    return true;
}

/* A name: letters, or anything between < and >. */
static bool skip_name(const char **p)
{
    const char *from = *p;
    if (**p == '<') {
        while (**p && **p != '>')
            (*p)++;
        return *(*p)++ == '>';
    }
    while ((**p >= 'A' && **p <= 'Z') || (**p >= 'a' && **p <= 'z'))
        (*p)++;
    return *p - from >= 3;
}

static bool read_change(const char **p, struct change *c)
{
    *c = (struct change){.time_s = 2 * 3600};
    if (*(*p)++ != ',')
        return false;
    if (**p == 'M') {
        (*p)++;
        if (!read_number(p, 12, &c->month) || *(*p)++ != '.' || !read_number(p, 5, &c->week) || *(*p)++ != '.' ||
            !read_number(p, 6, &c->day) || c->month < 1 || c->week < 1)
            return false;
    } else {
        c->kind = **p == 'J' ? BY_JULIAN : BY_DAY;
        *p += **p == 'J';
        if (!read_number(p, 365, &c->day) || (c->kind == BY_JULIAN && c->day < 1))
            return false;
    }
    if (**p != '/')
        return true;
    (*p)++;
    return read_time(p, &c->time_s);
}

static bool read_footer(const char *p, struct footer *f)
{
    int32_t west;
    *f = (struct footer){0};
    if (!skip_name(&p) || !read_time(&p, &west))
        return false;
    f->standard_s = -west;
    f->summer_s = f->standard_s + 3600;
    if (!*p)
        return true;
    f->has_summer = true;
    if (!skip_name(&p))
        return false;
    if (*p && *p != ',') {
        if (!read_time(&p, &west))
            return false;
        f->summer_s = -west;
    }
    return read_change(&p, &f->to_summer) && read_change(&p, &f->to_standard) && !*p;
}

static bool zone_add(struct zone *z, int64_t at_s, int32_t offset_s)
{
    if (z->n == TRANSITIONS_MAX || (z->n && at_s <= z->v[z->n - 1].at_s))
        return z->n < TRANSITIONS_MAX; /* what the file's own transitions have told already */
    z->v[z->n++] = (struct transition){at_s, offset_s};
    return true;
}

static bool write_out(struct zone *z, const struct footer *f)
{
    if (!f->has_summer)
        return z->n || zone_add(z, INT64_MIN / 4, f->standard_s);
    for (int year = YEAR_FIRST; year <= YEAR_LAST; year++) {
        const int64_t summer = change_day(&f->to_summer, year) * DAY_S + f->to_summer.time_s - f->standard_s;
        const int64_t standard = change_day(&f->to_standard, year) * DAY_S + f->to_standard.time_s - f->summer_s;
        const bool north = summer < standard;
        if (!zone_add(z, north ? summer : standard, north ? f->summer_s : f->standard_s) ||
            !zone_add(z, north ? standard : summer, north ? f->standard_s : f->summer_s))
            return false;
    }
    return true;
}

static int64_t big_endian(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return n == 4 ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v;
}

/* The counts of a header: UT, standard, leap, transitions, types, characters. */
static bool read_counts(const unsigned char *p, size_t n, size_t counts[6])
{
    if (n < HEADER || memcmp(p, "TZif", 4) != 0 || p[4] < '2')
        return false;
    for (size_t i = 0; i < 6; i++) {
        const int64_t count = big_endian(p + 20 + 4 * i, 4);
        if (count < 0 || count > FILE_MAX)
            return false;
        counts[i] = (size_t)count;
    }
    return true;
}

static size_t block_size(const size_t c[6], size_t time_n)
{
    return c[3] * (time_n + 1) + c[4] * 6 + c[5] + c[2] * (time_n + 4) + c[1] + c[0];
}

/* The second block, whose times have 64 bits, and the footer behind it. */
static bool read_block(struct zone *z, const unsigned char *p, size_t n)
{
    enum { TIME_N = 8 };
    size_t c[6];
    struct footer footer;
    if (!read_counts(p, n, c) || c[2] != 0 || c[4] == 0 || n - HEADER < block_size(c, TIME_N))
        return false;
    const unsigned char *times = p + HEADER, *indices = times + c[3] * TIME_N, *types = indices + c[3];
    z->first_s = (int32_t)big_endian(types, 4);
    for (size_t i = 0; i < c[3]; i++) {
        if (indices[i] >= c[4] ||
            !zone_add(z, big_endian(times + i * TIME_N, TIME_N),
                      (int32_t)big_endian(types + (size_t)indices[i] * 6, 4)))
            return false;
    }
    const size_t used = HEADER + block_size(c, TIME_N);
    if (n - used < 2 || p[used] != '\n' || p[n - 1] != '\n')
        return false;
    char text[128];
    const size_t text_n = n - used - 2;
    if (text_n >= sizeof text || memchr(p + used + 1, 0, text_n))
        return false;
    memcpy(text, p + used + 1, text_n);
    text[text_n] = '\0';
    return !text_n || (read_footer(text, &footer) && write_out(z, &footer));
}

static bool read_zone(struct zone *z, const unsigned char *p, size_t n)
{
    size_t c[6];
    if (!read_counts(p, n, c))
        return false;
    const size_t skipped = HEADER + block_size(c, 4);
    return skipped < n && read_block(z, p + skipped, n - skipped);
}

/* A name that leads nowhere but into tzdata: parts of letters, digits, `_`, `+` and `-`, none of them empty. */
static bool is_name(struct str s)
{
    static const char ALLOWED[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-";
    enum { NAME_BYTES = 64 };
    if (s.n == 0 || s.n > NAME_BYTES || s.p[0] == '/' || s.p[s.n - 1] == '/')
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '/' ? s.p[i + 1] == '/' : !memchr(ALLOWED, s.p[i], sizeof ALLOWED - 1))
            return false;
    return true;
}

struct zone *zone_load(struct str name, bool *damaged)
{
    char path[sizeof ZONE_FOLDER + 80];
    unsigned char *bytes = malloc(FILE_MAX);
    struct zone *z = calloc(1, sizeof *z);
    int fd = -1;
    if (bytes && z && is_name(name)) {
        snprintf(path, sizeof path, ZONE_FOLDER "%.*s", STR_FMT(name));
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    const ssize_t n = fd < 0 ? -1 : file_read_into(fd, bytes, FILE_MAX);
    if (fd >= 0)
        close(fd);
    const bool good = n >= 0 && n < FILE_MAX && read_zone(z, bytes, (size_t)n);
    free(bytes);
    *damaged = n >= 0 && !good;
    if (!good) {
        free(z);
        return NULL;
    }
    void *fitting = realloc(z, offsetof(struct zone, v) + z->n * sizeof *z->v);
    if (fitting)
        return fitting;
    return z; /* as large as it was */
}

bool zone_offset_parse(struct str text, int *minutes)
{
    enum { MOST = 14 * 60 };
    uint64_t h, m;
    if (text.n != sizeof "+01:00" - 1 || (text.p[0] != '+' && text.p[0] != '-') || text.p[3] != ':' ||
        !str_to_u64((struct str){text.p + 1, 2}, MOST / 60, &h) ||
        !str_to_u64((struct str){text.p + 4, 2}, 59, &m) || h * 60 + m > MOST)
        return false;
    *minutes = (text.p[0] == '-' ? -1 : 1) * (int)(h * 60 + m);
    return true;
}

void zone_free(struct zone *z)
{
    free(z);
}

/* How many transitions are not after `at_s`. */
static size_t passed(const struct zone *z, int64_t at_s)
{
    size_t low = 0, high = z->n;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (z->v[middle].at_s <= at_s)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int32_t offset_at(const struct zone *z, int64_t at_s)
{
    const size_t n = passed(z, at_s);
    return n ? z->v[n - 1].offset_s : z->first_s;
}

static int64_t floor_s(int64_t us)
{
    return us / US_PER_S - (us % US_PER_S < 0);
}

unsigned zone_instants(const struct zone *z, int64_t wall_us, int64_t out[2])
{
    const int64_t wall_s = floor_s(wall_us);
    const size_t from = passed(z, wall_s - AROUND_S), to = passed(z, wall_s + AROUND_S);
    unsigned n = 0;
    /* each offset that is in force around it, the larger of two at a time: the earlier instant */
    for (size_t i = from; i <= to && n < 2; i++) {
        const int32_t offset = i ? z->v[i - 1].offset_s : z->first_s;
        const int64_t at = wall_us - (int64_t)offset * US_PER_S;
        if (offset_at(z, floor_s(at)) == offset && !(n && out[n - 1] == at))
            out[n++] = at;
    }
    if (n == 2 && out[0] > out[1]) {
        const int64_t first = out[1];
        out[1] = out[0];
        out[0] = first;
    }
    return n;
}
