#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/net.h"
#include "base/sink.h"
#include "base/sink_target.h"
#include "base/timestamp.h"

enum {
    QUEUE_BYTES = 8 << 20,    /* lines that a stalled target may owe */
    BATCH_BYTES = 256 << 10,  /* so much is handed over, and held until it is settled */
    BATCH_LINES = 512,
    LONGEST = BATCH_BYTES / 2, /* line; no decision comes near it */
    RING_LENGTH = sizeof(uint32_t), /* what stands before each */
    BATCH_MS = 20,            /* lines of so long go out in one write: fewer wake-ups, and still far below 100 ms */
    BATCH_FULL = BATCH_BYTES / 2, /* with so many nothing is waited for */
    SETTLE_MS = 2,
    REOPEN_US = 1000000,
    CLOSE_US = 1000000,
    FINISH_TRIES = 4,
};

/* Messages on their way: whole ones, and up to where they were taken. */
struct batch {
    struct buf text;
    size_t ends[BATCH_LINES];
    size_t lines, at; /* of ends: how many, and the one being written */
    size_t taken;     /* octets of text */
};

/*
 * Producers append to a ring of bytes under `lock`, each line behind its length; the thread reads from its head without
 * the lock, since nobody else moves the head. `asked` is for waking it: new lines, reopening, closing.
 */
struct sink {
    struct sink_target target;
    struct sink_ways ways;
    struct sink_newest *newest;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock;
    pthread_cond_t asked;
    char *queue;
    size_t head, n; /* oldest byte, bytes queued */
    bool reopen, closing;
    int64_t deadline_us; /* of closing */

    struct batch batch;    /* from here on the thread's */
    struct buf line, made; /* one line out of the ring, and as it is to be written */
    int64_t reopen_us;     /* when a failed reopening is tried again; 0: none is due */
    unsigned long long confessed; /* lost lines that the target itself was told of */
    atomic_ullong dropped, told;  /* lines, and how many of them the log speaks of */
};

static void pause_ms(long ms)
{
    const struct timespec t = {0, ms * 1000000};
    nanosleep(&t, NULL);
}

bool sink_is_syslog(struct str where)
{
    return str_starts(where, STR("syslog:")) || str_starts(where, STR("syslog+"));
}

bool sink_syslog_is_valid(struct str where)
{
    struct sockaddr_un un;
    struct str host, port;
    const struct str path = str_behind(where, STR("syslog:unix:"));
    const struct str tcp = str_behind(where, STR("syslog+tcp://")), tls = str_behind(where, STR("syslog+tls://"));
    return (path.n > 0 && path.n < sizeof un.sun_path && !memchr(path.p, '\0', path.n)) ||
           (tcp.p && net_host_port(tcp, &host, &port)) || (tls.p && net_host_port(tls, &host, &port));
}

struct sink_newest *sink_newest_of(struct sink *s)
{
    return s->newest;
}

void sink_target_fails(struct sink_target *t, const char *why)
{
    if (!t->failing)
        log_error("decisions", t->name, "cannot write: %s; lines queue up and are then dropped", why);
    t->failing = true;
}

/* Says once that lines were lost, and once that it is over. */
static void tell_recovery(struct sink *s)
{
    const unsigned long long dropped = atomic_load(&s->dropped);
    if (!s->target.failing && dropped == atomic_load(&s->told))
        return;
    log_info("decisions", s->target.name, "lines are written again; %llu were dropped since the start", dropped);
    atomic_store(&s->told, dropped);
    s->target.failing = false;
}

static void ring_copy(const struct sink *s, size_t at, char *to, size_t n)
{
    const size_t first = n < QUEUE_BYTES - at ? n : QUEUE_BYTES - at;
    memcpy(to, s->queue + at, first);
    memcpy(to + first, s->queue, n - first);
}

/* The line that the ring has at `head`; its p is NULL where it stands in two pieces and no memory joins them. */
static struct str ring_line(struct sink *s, size_t head)
{
    uint32_t n;
    ring_copy(s, head, (char *)&n, sizeof n);
    head = (head + sizeof n) % QUEUE_BYTES;
    if (n <= QUEUE_BYTES - head)
        return (struct str){s->queue + head, n};
    buf_reset(&s->line);
    if (!buf_reserve(&s->line, n))
        return (struct str){NULL, n};
    ring_copy(s, head, s->line.p, n);
    return (struct str){s->line.p, n};
}

static void lose(struct sink *s)
{
    atomic_fetch_add(&s->dropped, 1);
    metric_add(METRIC_DECISIONS_DROPPED, NULL, 1);
}

/* `line` as the gateway has it; missing: `text` is about lines that were lost. */
static void batch_add(struct sink *s, struct str line, struct str text)
{
    struct batch *b = &s->batch;
    const size_t before = b->text.n;
    if (s->target.kind->frame) {
        s->target.kind->frame(&s->target, line, text, &b->text);
    } else {
        buf_str(&b->text, text);
        buf_char(&b->text, '\n');
    }
    if (!b->text.failed) {
        b->ends[b->lines++] = b->text.n;
        return;
    }
    b->text.failed = false; /* no memory, or longer than any line is: the others stay */
    b->text.n = before;
    lose(s);
}

static void batch_line(struct sink *s, struct str line)
{
    if (!s->ways.shape) {
        batch_add(s, line, line);
        return;
    }
    buf_reset(&s->made);
    if (s->ways.shape(line, &s->made) && !s->made.failed)
        batch_add(s, line, buf_view(&s->made));
    else
        lose(s);
}

static void batch_confess(struct sink *s)
{
    char text[96];
    const unsigned long long dropped = atomic_load(&s->dropped);
    if (!s->target.kind->frame || dropped == s->confessed)
        return;
    snprintf(text, sizeof text, "%llu decision lines were lost", dropped - s->confessed);
    batch_add(s, (struct str){NULL, 0}, str_z(text));
    s->confessed = dropped;
}

/* Takes whole lines out of the ring. */
static void batch_fill(struct sink *s)
{
    struct batch *b = &s->batch;
    pthread_mutex_lock(&s->lock);
    const size_t head = s->head, n = s->n;
    pthread_mutex_unlock(&s->lock);
    buf_reset(&b->text);
    b->lines = b->at = b->taken = 0;
    batch_confess(s);
    size_t used = 0;
    while (used < n && b->lines < BATCH_LINES && b->text.n < BATCH_BYTES) {
        const struct str line = ring_line(s, (head + used) % QUEUE_BYTES);
        if (line.p)
            batch_line(s, line);
        else
            lose(s);
        used += RING_LENGTH + line.n;
    }
    pthread_mutex_lock(&s->lock);
    s->n -= used;
    s->head = s->n ? (s->head + used) % QUEUE_BYTES : 0; /* the same memory again: the rest is not touched */
    pthread_mutex_unlock(&s->lock);
}

/* One attempt to get on with what the batch holds. */
static void batch_write(struct sink *s)
{
    struct batch *b = &s->batch;
    struct sink_target *t = &s->target;
    if (b->at == b->lines) {
        const int settled = t->kind->settled ? t->kind->settled(t) : 1;
        if (settled == SINK_PUT_BROKEN)
            b->at = b->taken = 0;
        else if (settled)
            b->lines = b->at = 0;
        else
            pause_ms(SETTLE_MS);
        return;
    }
    const ssize_t got = t->kind->put(t, b->text.p + b->taken, b->ends[b->at] - b->taken, b->text.n - b->taken);
    if (got == SINK_PUT_BROKEN && t->kind->resends)
        b->at = b->taken = 0;
    if (got <= 0)
        return;
    b->taken += (size_t)got;
    while (b->at < b->lines && b->taken >= b->ends[b->at])
        b->at++;
    pthread_mutex_lock(&s->lock);
    const bool few = s->n < QUEUE_BYTES / 2;
    pthread_mutex_unlock(&s->lock);
    if (few && s->reopen_us == 0)
        tell_recovery(s);
}

static bool inside_line(const struct batch *b)
{
    return b->at < b->lines && b->taken > (b->at ? b->ends[b->at - 1] : 0);
}

/* The rest of a line whose beginning is in the old file goes there too, or nowhere. */
static void sink_open_again(struct sink *s)
{
    struct batch *b = &s->batch;
    const bool resends = s->target.kind->resends;
    for (int i = 0; i < FINISH_TRIES && !resends && inside_line(b); i++)
        batch_write(s);
    if (resends) {
        b->at = b->taken = 0;
    } else if (inside_line(b)) {
        b->taken = b->ends[b->at++];
        lose(s);
    }
    s->reopen_us = s->target.kind->reopen(&s->target) ? 0 : time_mono_us() + REOPEN_US;
}

struct task {
    bool lines, reopen, closing;
    int64_t deadline_us;
};

static void task_wait(struct sink *s)
{
    if (!s->reopen_us) {
        pthread_cond_wait(&s->asked, &s->lock);
        return;
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    pthread_cond_timedwait(&s->asked, &s->lock, &until);
}

/* Waits only where the batch is empty. */
static struct task next_task(struct sink *s)
{
    const bool busy = s->batch.lines > 0;
    pthread_mutex_lock(&s->lock);
    while (!busy && s->n == 0 && !s->reopen && !s->closing && (!s->reopen_us || time_mono_us() < s->reopen_us))
        task_wait(s);
    if (!busy && s->n > 0 && s->n < BATCH_FULL && !s->closing && !s->reopen) {
        pthread_mutex_unlock(&s->lock);
        pause_ms(BATCH_MS);
        pthread_mutex_lock(&s->lock);
    }
    const struct task t = {s->n > 0, s->reopen || (s->reopen_us && time_mono_us() >= s->reopen_us), s->closing,
                           s->deadline_us};
    s->reopen = false;
    pthread_mutex_unlock(&s->lock);
    return t;
}

static void *sink_run(void *arg)
{
    struct sink *s = arg;
    sigset_t all;
    sigfillset(&all); /* signals are for main; a reader that goes away is EPIPE here */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        const struct task t = next_task(s);
        if (t.closing && ((!t.lines && s->batch.lines == 0) || time_mono_us() >= t.deadline_us))
            return NULL;
        if (t.reopen && s->target.kind->reopen)
            sink_open_again(s);
        if (s->batch.lines == 0 && t.lines)
            batch_fill(s);
        if (s->batch.lines > 0)
            batch_write(s);
    }
}

static void sink_free(struct sink *s)
{
    if (s->target.kind)
        s->target.kind->close(&s->target);
    sink_newest_free(s->newest);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->asked);
    buf_free(&s->batch.text);
    buf_free(&s->line);
    buf_free(&s->made);
    free(s->queue);
    free(s->target.name);
    free(s);
}

static bool sink_start(struct sink *s, const char *where, char *why, size_t why_size)
{
    s->newest = sink_newest_new();
    s->target.name = str_dup(str_z(where));
    snprintf(why, why_size, "no memory or no thread for the decision log");
    if (!s->newest || !s->target.name)
        return false;
    if (str_eq_z(str_z(where), "none"))
        return true;
    const bool is_syslog = s->ways.syslog && sink_is_syslog(str_z(where));
    if (!(is_syslog ? s->ways.syslog : sink_file_open)(&s->target, where, why, why_size))
        return false;
    s->queue = malloc(QUEUE_BYTES);
    s->has_thread = s->queue && pthread_create(&s->thread, NULL, sink_run, s) == 0;
    return s->has_thread;
}

struct sink *sink_open(const char *where, const struct sink_ways *ways, char *why, size_t why_size)
{
    struct sink *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(why, why_size, "out of memory");
        return NULL;
    }
    if (ways)
        s->ways = *ways;
    s->target.fd = -1;
    atomic_init(&s->target.failing, false);
    s->batch.text.max = 2 * BATCH_BYTES;
    s->line.max = s->made.max = BATCH_BYTES;
    atomic_init(&s->dropped, 0);
    atomic_init(&s->told, 0);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->asked, NULL);
    if (sink_start(s, where, why, why_size))
        return s;
    sink_free(s);
    return NULL;
}

static void sink_append(struct sink *s, const void *p, size_t n)
{
    const size_t at = (s->head + s->n) % QUEUE_BYTES;
    const size_t first = n < QUEUE_BYTES - at ? n : QUEUE_BYTES - at;
    memcpy(s->queue + at, p, first);
    memcpy(s->queue, (const char *)p + first, n - first);
    s->n += n;
}

void sink_write(struct sink *s, struct str line)
{
    if (!line.p)
        return;
    sink_newest_keep(s->newest, line);
    if (!s->has_thread)
        return;
    pthread_mutex_lock(&s->lock);
    const bool was_empty = s->n == 0;
    const bool fits = line.n <= LONGEST && line.n + RING_LENGTH <= QUEUE_BYTES - s->n;
    if (fits) {
        const uint32_t n = (uint32_t)line.n;
        sink_append(s, &n, sizeof n);
        sink_append(s, line.p, line.n);
        if (was_empty)
            pthread_cond_signal(&s->asked);
    }
    pthread_mutex_unlock(&s->lock);
    if (fits)
        return;
    if (atomic_fetch_add(&s->dropped, 1) == atomic_load(&s->told))
        log_warn("decisions", s->target.name, "the decision log is blocked and its queue is full: lines are dropped");
    metric_add(METRIC_DECISIONS_DROPPED, NULL, 1);
}

void sink_reopen(struct sink *s)
{
    if (!s->has_thread || !s->target.kind->reopen)
        return;
    pthread_mutex_lock(&s->lock);
    s->reopen = true;
    pthread_cond_signal(&s->asked);
    pthread_mutex_unlock(&s->lock);
}

bool sink_is_stuck(struct sink *s)
{
    pthread_mutex_lock(&s->lock);
    const bool half = s->n >= QUEUE_BYTES / 2;
    pthread_mutex_unlock(&s->lock);
    return half || atomic_load(&s->target.failing);
}

void sink_close(struct sink *s)
{
    if (!s)
        return;
    if (s->has_thread) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        s->deadline_us = time_mono_us() + CLOSE_US;
        pthread_cond_signal(&s->asked);
        pthread_mutex_unlock(&s->lock);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 2;
        if (pthread_timedjoin_np(s->thread, NULL, &until) != 0) {
            pthread_detach(s->thread); /* stuck in a write to a terminal that is halted: what it uses stays */
            return;
        }
    }
    sink_free(s);
}
