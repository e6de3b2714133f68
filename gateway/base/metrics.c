#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 64, BUCKETS = 18 };

/* Upper bounds; +Inf follows. Ascending; what is beyond the last one is in +Inf alone. */
struct bounds {
    double v[BUCKETS];
    size_t n;
};
static const struct bounds PHASE_BOUNDS = {
    {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}, 16};
static const struct bounds SKEW_BOUNDS = {
    {-3600, -600, -60, -30, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 30, 60, 3600}, 18};

/* One line of the exposition, or one histogram. Once linked into its list a series stays until metrics_free(), so that
 * readers need no lock. */
struct series {
    struct series *next;
    char *labels; /* "" for none */
    _Atomic double value;                   /* a histogram's sum */
    _Atomic uint64_t buckets[BUCKETS + 1]; /* the last: all beyond */
};

enum kind { counter, gauge, histogram };
static const struct {
    enum kind kind;
    const char *type, *name, *help;
} METRICS[METRIC_COUNT] = {
#define METRIC_ROW(e, type, name, help) [METRIC_##e] = {type, #type, name, help},
    METRIC_LIST(METRIC_ROW)
#undef METRIC_ROW
};
/* Those without labels are there from the start, at 0. */
static const bool BARE[METRIC_COUNT] = {
    [METRIC_IN_FLIGHT] = true,      [METRIC_CONNECTIONS] = true, [METRIC_REPLAY_ENTRIES] = true,
    [METRIC_DECISIONS_DROPPED] = true, [METRIC_CAPTURES_DROPPED] = true, [METRIC_CLOCK_SKEW] = true,
};

static struct series *_Atomic table[METRIC_COUNT][SLOTS];
static atomic_uint freed; /* how often all series were: places from before hold none */
static char *infos[METRIC_COUNT]; /* of metric_info(): their labels, NULL for none */
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER; /* to the table; of infos */

static const struct bounds *bounds_of(enum metric m)
{
    return m == METRIC_CLOCK_SKEW ? &SKEW_BOUNDS : &PHASE_BOUNDS;
}

static unsigned slot_of(const char *labels)
{
    uint32_t h = 2166136261u; /* FNV-1a: labels are ours, nobody can make them collide on purpose */
    for (const char *p = labels; *p; p++)
        h = (h ^ (unsigned char)*p) * 16777619u;
    return h % SLOTS;
}

static struct series *metrics_look(enum metric m, unsigned slot, const char *labels)
{
    for (struct series *s = atomic_load_explicit(&table[m][slot], memory_order_acquire); s; s = s->next)
        if (strcmp(s->labels, labels) == 0)
            return s;
    return NULL;
}

/* The series, made when it is new; NULL without memory: a figure is lost, nothing else. */
static struct series *series_of(enum metric m, const char *labels)
{
    labels = labels ? labels : "";
    const unsigned slot = slot_of(labels);
    struct series *s = metrics_look(m, slot, labels);
    if (s)
        return s;
    pthread_mutex_lock(&adding);
    s = metrics_look(m, slot, labels);
    if (!s && (s = calloc(1, sizeof *s))) {
        s->labels = str_dup(str_z(labels));
        if (s->labels) {
            s->next = atomic_load_explicit(&table[m][slot], memory_order_relaxed);
            atomic_store_explicit(&table[m][slot], s, memory_order_release);
        } else {
            free(s);
            s = NULL;
        }
    }
    pthread_mutex_unlock(&adding);
    return s;
}

static void add_to(_Atomic double *to, double by)
{
    double before = atomic_load_explicit(to, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(to, &before, before + by, memory_order_relaxed, memory_order_relaxed))
        ;
}

static struct series *metrics_at(struct metric_place *place, enum metric m, const char *labels)
{
    if (!metric_place_stands(place)) {
        place->freed = atomic_load_explicit(&freed, memory_order_relaxed);
        place->series = series_of(m, labels);
    }
    return place->series;
}

bool metric_place_stands(const struct metric_place *place)
{
    return place->series && place->freed == atomic_load_explicit(&freed, memory_order_relaxed);
}

void metric_add_at(struct metric_place *place, enum metric m, const char *labels, double by)
{
    struct series *s = metrics_at(place, m, labels);
    if (s)
        add_to(&s->value, by);
}

void metric_add(enum metric m, const char *labels, double by)
{
    metric_add_at(&(struct metric_place){0}, m, labels, by);
}

void metric_set(enum metric m, const char *labels, double value)
{
    struct series *s = series_of(m, labels);
    if (!s)
        return;
    atomic_store_explicit(&s->value, value, memory_order_relaxed);
}

void metric_observe_at(struct metric_place *place, enum metric m, const char *labels, double value)
{
    const struct bounds *b = bounds_of(m);
    struct series *s = metrics_at(place, m, labels);
    size_t at = 0;
    if (!s)
        return;
    while (at < b->n && value > b->v[at])
        at++;
    atomic_fetch_add_explicit(&s->buckets[at == b->n ? BUCKETS : at], 1, memory_order_relaxed);
    add_to(&s->value, value);
}

void metric_observe(enum metric m, const char *labels, double value)
{
    metric_observe_at(&(struct metric_place){0}, m, labels, value);
}

double metric_get(enum metric m, const char *labels)
{
    labels = labels ? labels : "";
    const struct series *s = metrics_look(m, slot_of(labels), labels);
    return s ? atomic_load_explicit(&s->value, memory_order_relaxed) : 0;
}

void metric_info(enum metric m, const char *labels)
{
    char *fresh = labels ? str_dup(str_z(labels)) : NULL;
    pthread_mutex_lock(&adding);
    char *old = infos[m];
    infos[m] = fresh;
    pthread_mutex_unlock(&adding);
    free(old);
}

void metric_label(struct buf *b, const char *name, struct str value)
{
    size_t from = 0;
    buf_z(b, name);
    buf_z(b, "=\"");
    for (size_t i = 0; i < value.n; i++) {
        const char c = value.p[i];
        if (c != '\n' && c != '"' && c != '\\')
            continue;
        buf_bytes(b, value.p + from, i - from);
        buf_char(b, '\\');
        buf_char(b, c == '\n' ? 'n' : c);
        from = i + 1;
    }
    buf_bytes(b, value.p + from, value.n - from);
    buf_char(b, '"');
}

/* Counts are whole numbers; nobody should have to read them as 1e+06. */
static void put_value(struct buf *out, double value)
{
    if (value == floor(value) && fabs(value) < 1e15)
        buf_printf(out, " %.0f\n", value);
    else
        buf_printf(out, " %.15g\n", value);
}

static void put_line(struct buf *out, const char *name, const char *suffix, const char *labels, double value)
{
    buf_printf(out, "%s%s", name, suffix);
    if (*labels)
        buf_printf(out, "{%s}", labels);
    put_value(out, value);
}

static void put_histogram(struct buf *out, enum metric m, const struct series *s)
{
    const struct bounds *b = bounds_of(m);
    const char *name = METRICS[m].name, *comma = *s->labels ? "," : "";
    uint64_t total = 0;
    for (size_t i = 0; i < b->n; i++) {
        total += atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, s->labels, comma, b->v[i], (unsigned long long)total);
    }
    total += atomic_load_explicit(&s->buckets[BUCKETS], memory_order_relaxed);
    buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, s->labels, comma, (unsigned long long)total);
    put_line(out, name, "_sum", s->labels, atomic_load_explicit(&s->value, memory_order_relaxed));
    put_line(out, name, "_count", s->labels, (double)total);
}

void metrics_write(struct buf *out)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", METRICS[m].name, METRICS[m].help, METRICS[m].name,
                   METRICS[m].type);
        if (BARE[m])
            (void)series_of((enum metric)m, NULL);
        pthread_mutex_lock(&adding);
        if (infos[m])
            put_line(out, METRICS[m].name, "", infos[m], 1);
        pthread_mutex_unlock(&adding);
        for (unsigned i = 0; i < SLOTS; i++)
            for (const struct series *s = atomic_load_explicit(&table[m][i], memory_order_acquire); s; s = s->next) {
                if (METRICS[m].kind == histogram)
                    put_histogram(out, (enum metric)m, s);
                else
                    put_line(out, METRICS[m].name, "", s->labels,
                             atomic_load_explicit(&s->value, memory_order_relaxed));
            }
    }
}

void metrics_free(void)
{
    atomic_fetch_add(&freed, 1);
    for (int m = 0; m < METRIC_COUNT; m++) {
        metric_info((enum metric)m, NULL);
        for (unsigned i = 0; i < SLOTS; i++) {
            struct series *s = atomic_exchange(&table[m][i], NULL);
            while (s) {
                struct series *next = s->next;
                free(s->labels);
                free(s);
                s = next;
            }
        }
    }
}
