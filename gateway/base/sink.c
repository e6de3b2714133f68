#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/sink.h"
#include "base/timestamp.h"

enum {
    QUEUE_BYTES = 8 << 20, /* lines that a stalled sink may owe */
    RECENT = 1000,
    BATCH_MS = 20,         /* lines of so long go out in one write: fewer wake-ups, and still far below 100 ms */
    RETRY_MS = 50,         /* a sink that takes nothing is asked again */
    CHUNK = 4096,          /* PIPE_BUF: after poll() a pipe takes so much without blocking, whatever its mode */
    CLOSE_US = 1000000,
};

struct recent {
    char *p;
    size_t n, cap;
};

/*
 * Producers append to a ring of bytes under `lock`; the thread writes from its head without the lock, since nobody else
 * moves the head. `asked` is for waking it: new lines, reopening, closing.
 */
struct sink {
    char *path; /* NULL: standard output */
    int fd;     /* -1: none; the thread's own once it runs */
    bool is_socket;
    bool own_fd;
    pthread_t thread;
    bool has_thread;

    pthread_mutex_t lock;
    pthread_cond_t asked;
    char *queue;
    size_t head, n; /* oldest byte, bytes queued */
    bool reopen, closing;
    int64_t deadline_us; /* of closing */

    bool inside_line;  /* the thread: the last byte written was no line's end */
    bool failing;      /* the thread: the sink took nothing, and the log says so */
    atomic_ullong dropped, told; /* lines, and how many of them the log speaks of */

    pthread_mutex_t recent_lock;
    struct recent recent[RECENT];
    uint64_t recent_next; /* how many lines there ever were */
};

static void pause_ms(long ms)
{
    const struct timespec t = {0, ms * 1000000};
    nanosleep(&t, NULL);
}

static const char *sink_name(const struct sink *s)
{
    return s->path ? s->path : "stdout";
}

/* A FIFO without a reader yet is no fault: opened for both, it takes what fits. */
static int open_path(const char *path)
{
    const int flags = O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = open(path, O_WRONLY | flags, 0640);
    if (fd < 0 && errno == ENXIO)
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    return fd;
}

/* Standard output is shared with others: its mode is left alone. A pipe opened anew has a mode of its own. */
static void open_stdout(struct sink *s)
{
    struct stat st;
    s->fd = STDOUT_FILENO;
    if (fstat(STDOUT_FILENO, &st) != 0)
        return;
    s->is_socket = S_ISSOCK(st.st_mode);
    if (!S_ISFIFO(st.st_mode))
        return;
    const int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        s->fd = fd;
        s->own_fd = true;
    }
}

/* A killed process or a full disk left a line without its end: what follows would be lost with it. */
static void end_torn_line(const struct sink *s)
{
    struct stat st;
    char path[32], last = '\n';
    if (s->fd < 0 || fstat(s->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd); /* it is open for writing alone */
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const bool torn = fd >= 0 && pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
    if (fd >= 0)
        close(fd);
    if (torn && write(s->fd, "\n", 1) == 1)
        log_warn("decisions", sink_name(s), "the last line was incomplete, and has been ended");
}

static ssize_t put(const struct sink *s, const char *p, size_t n)
{
    if (s->is_socket)
        return send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    return write(s->fd, p, n);
}

/* Says once that lines were lost, and once that it is over. */
static void tell_recovery(struct sink *s)
{
    const unsigned long long dropped = atomic_load(&s->dropped);
    if (!s->failing && dropped == atomic_load(&s->told))
        return;
    log_info("decisions", sink_name(s), "lines are written again; %llu were dropped since the start", dropped);
    atomic_store(&s->told, dropped);
    s->failing = false;
}

/* One attempt: how much was taken; 0 when the sink is full or broken. */
static size_t try_write(struct sink *s, const char *p, size_t n)
{
    struct pollfd ready = {.fd = s->fd, .events = POLLOUT};
    if (poll(&ready, 1, RETRY_MS) <= 0)
        return 0;
    const ssize_t got = put(s, p, s->own_fd || n < CHUNK ? n : CHUNK);
    if (got > 0) {
        s->inside_line = p[got - 1] != '\n';
        if (n < QUEUE_BYTES / 2)
            tell_recovery(s);
        return (size_t)got;
    }
    if (got < 0 && errno != EAGAIN && !s->failing) {
        log_error("decisions", sink_name(s), "cannot write: %s; lines queue up and are then dropped", strerror(errno));
        s->failing = true;
    }
    pause_ms(RETRY_MS);
    return 0;
}

static size_t contiguous(const struct sink *s)
{
    return s->head + s->n > QUEUE_BYTES ? QUEUE_BYTES - s->head : s->n;
}

static void taken(struct sink *s, size_t n)
{
    pthread_mutex_lock(&s->lock);
    s->head = (s->head + n) % QUEUE_BYTES;
    s->n -= n;
    pthread_mutex_unlock(&s->lock);
}

static size_t waiting(struct sink *s)
{
    pthread_mutex_lock(&s->lock);
    const size_t n = contiguous(s);
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* The rest of a line whose beginning is in the old file goes there too, or nowhere. */
static void finish_line(struct sink *s)
{
    int tries = 4;
    for (size_t n = waiting(s); s->inside_line && n > 0; n = waiting(s)) {
        const char *p = s->queue + s->head, *end = memchr(p, '\n', n);
        const size_t rest = end ? (size_t)(end - p) + 1 : n;
        if (tries-- > 0) {
            taken(s, try_write(s, p, rest));
            continue;
        }
        s->inside_line = !end;
        taken(s, rest);
    }
}

static void open_again(struct sink *s)
{
    const int fd = open_path(s->path);
    if (fd < 0) {
        log_error("decisions", sink_name(s), "cannot reopen: %s; lines still go to the old file", strerror(errno));
        return;
    }
    close(s->fd);
    s->fd = fd;
    s->inside_line = false;
    end_torn_line(s);
    log_info("decisions", sink_name(s), "reopened");
}

struct task {
    size_t n; /* bytes to write from the head */
    bool reopen, closing;
    int64_t deadline_us;
};

static struct task next_task(struct sink *s)
{
    pthread_mutex_lock(&s->lock);
    const bool idle = s->n == 0;
    while (s->n == 0 && !s->reopen && !s->closing)
        pthread_cond_wait(&s->asked, &s->lock);
    const bool batch = idle && !s->closing && !s->reopen;
    if (batch) {
        pthread_mutex_unlock(&s->lock);
        pause_ms(BATCH_MS);
        pthread_mutex_lock(&s->lock);
    }
    const struct task t = {contiguous(s), s->reopen, s->closing, s->deadline_us};
    s->reopen = false;
    pthread_mutex_unlock(&s->lock);
    return t;
}

static void *run(void *arg)
{
    struct sink *s = arg;
    sigset_t all;
    sigfillset(&all); /* signals are for main; a reader that goes away is EPIPE here */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        const struct task t = next_task(s);
        if (t.closing && (t.n == 0 || time_mono_us() >= t.deadline_us))
            return NULL;
        if (t.reopen) {
            finish_line(s);
            open_again(s);
        } else if (t.n > 0)
            taken(s, try_write(s, s->queue + s->head, t.n));
    }
}

static void sink_free(struct sink *s)
{
    if (s->fd >= 0 && (s->path || s->own_fd))
        close(s->fd);
    for (size_t i = 0; i < RECENT; i++)
        free(s->recent[i].p);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->recent_lock);
    pthread_cond_destroy(&s->asked);
    free(s->queue);
    free(s->path);
    free(s);
}

static bool start(struct sink *s, const char *where, char *why, size_t why_size)
{
    if (str_eq_z(str_z(where), "none"))
        return true;
    if (str_eq_z(str_z(where), "stdout")) {
        open_stdout(s);
    } else {
        s->own_fd = true;
        s->path = str_dup(str_z(where));
        s->fd = s->path ? open_path(s->path) : -1;
        if (s->fd < 0) {
            snprintf(why, why_size, "%s: cannot be opened for writing: %s", where, strerror(errno));
            return false;
        }
    }
    end_torn_line(s);
    s->queue = malloc(QUEUE_BYTES);
    s->has_thread = s->queue && pthread_create(&s->thread, NULL, run, s) == 0;
    if (!s->has_thread)
        snprintf(why, why_size, "no memory or no thread for the decision log");
    return s->has_thread;
}

struct sink *sink_open(const char *where, char *why, size_t why_size)
{
    struct sink *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(why, why_size, "out of memory");
        return NULL;
    }
    s->fd = -1;
    atomic_init(&s->dropped, 0);
    atomic_init(&s->told, 0);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->recent_lock, NULL);
    pthread_cond_init(&s->asked, NULL);
    if (start(s, where, why, why_size))
        return s;
    sink_free(s);
    return NULL;
}

static void keep(struct sink *s, struct str line)
{
    pthread_mutex_lock(&s->recent_lock);
    struct recent *r = &s->recent[s->recent_next % RECENT];
    if (r->cap < line.n) {
        free(r->p);
        r->p = malloc(line.n);
        r->cap = r->p ? line.n : 0;
    }
    r->n = r->p ? line.n : 0;
    if (r->n)
        memcpy(r->p, line.p, line.n);
    s->recent_next++;
    pthread_mutex_unlock(&s->recent_lock);
}

static void append(struct sink *s, const char *p, size_t n)
{
    const size_t at = (s->head + s->n) % QUEUE_BYTES;
    const size_t first = n < QUEUE_BYTES - at ? n : QUEUE_BYTES - at;
    memcpy(s->queue + at, p, first);
    memcpy(s->queue, p + first, n - first);
    s->n += n;
}

void sink_write(struct sink *s, struct str line)
{
    if (!line.p)
        return;
    keep(s, line);
    if (!s->has_thread)
        return;
    pthread_mutex_lock(&s->lock);
    const bool was_empty = s->n == 0;
    const bool fits = line.n < QUEUE_BYTES - s->n;
    if (fits) {
        append(s, line.p, line.n);
        append(s, "\n", 1);
        if (was_empty)
            pthread_cond_signal(&s->asked);
    }
    pthread_mutex_unlock(&s->lock);
    if (fits)
        return;
    if (atomic_fetch_add(&s->dropped, 1) == atomic_load(&s->told))
        log_warn("decisions", sink_name(s), "the decision log is blocked and its queue is full: lines are dropped");
    metric_add(METRIC_DECISIONS_DROPPED, NULL, 1);
}

void sink_reopen(struct sink *s)
{
    if (!s->has_thread || !s->path)
        return;
    pthread_mutex_lock(&s->lock);
    s->reopen = true;
    pthread_cond_signal(&s->asked);
    pthread_mutex_unlock(&s->lock);
}

/* A line at a time, so that no producer waits for more than one copy; what was overwritten meanwhile is left out. */
/* Copies line `number` behind what `out` holds; false where it is gone, or was never kept. */
static bool copy_recent(struct sink *s, uint64_t number, struct buf *out)
{
    pthread_mutex_lock(&s->recent_lock);
    const struct recent *r = &s->recent[number % RECENT];
    const bool there = s->recent_next <= number + RECENT && r->n > 0;
    if (there)
        buf_str(out, (struct str){r->p, r->n});
    pthread_mutex_unlock(&s->recent_lock);
    return there;
}

uint64_t sink_next_number(struct sink *s)
{
    pthread_mutex_lock(&s->recent_lock);
    const uint64_t next = s->recent_next;
    pthread_mutex_unlock(&s->recent_lock);
    return next;
}

bool sink_follow(struct sink *s, uint64_t *at, uint64_t *lost, struct buf *out)
{
    for (uint64_t next; (next = sink_next_number(s)) > *at;) {
        const uint64_t oldest = next > RECENT ? next - RECENT : 0;
        if (*at < oldest) {
            *lost += oldest - *at;
            *at = oldest;
        }
        if (copy_recent(s, (*at)++, out))
            return !out->failed;
        ++*lost;
    }
    return false;
}

void sink_recent(struct sink *s, size_t n, sink_wanted *wanted, const void *arg, struct buf *out)
{
    const uint64_t next = sink_next_number(s);
    const uint64_t kept = next < RECENT ? next : RECENT;
    size_t found = 0;
    buf_char(out, '[');
    for (uint64_t i = 0; found < n && i < kept && !out->failed; i++) {
        const size_t before = out->n;
        if (found)
            buf_char(out, ',');
        const size_t from = out->n;
        const bool there = copy_recent(s, next - 1 - i, out) && !out->failed;
        if (there && (!wanted || wanted(arg, (struct str){out->p + from, out->n - from})))
            found++;
        else if (!out->failed)
            out->n = before;
    }
    buf_char(out, ']');
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
