#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "base/timestamp.h"

enum {
    LINE_BYTES = 4096,    /* a pipe takes so many in one piece */
    MESSAGE_BYTES = 1024,
    WAIT_MS = 100,        /* for a full pipe; then the line is lost: serving goes on */
};

static _Atomic enum log_level the_level = LOG_LEVEL_INFO;
static _Atomic enum log_format the_format = LOG_FORMAT_TEXT;
static const char *const LEVELS[] = {"error", "warn", "info", "debug"};

void log_setup(enum log_level level, enum log_format format)
{
    atomic_store(&the_level, level);
    atomic_store(&the_format, format);
}

bool log_enabled(enum log_level level)
{
    return level <= atomic_load_explicit(&the_level, memory_order_relaxed);
}

bool log_is_json(void)
{
    return atomic_load_explicit(&the_format, memory_order_relaxed) == LOG_FORMAT_JSON;
}

static void log_put(const struct buf *line)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (!line->failed && poll(&out, 1, WAIT_MS) == 1 && out.revents & POLLOUT)
        (void)!write(STDERR_FILENO, line->p, line->n);
}

static void as_text(struct buf *line, enum log_level level, const struct str part[3])
{
    char now[TIME_TEXT];
    time_format(time_now_us(), true, now);
    buf_printf(line, "%s %-5s %.*s", now, LEVELS[level], STR_FMT(part[0]));
    if (part[1].p) {
        buf_char(line, ' ');
        text_escape(line, part[1]);
    }
    buf_z(line, ": ");
    text_escape(line, part[2]);
    buf_char(line, '\n');
}

static void as_json(struct buf *line, enum log_level level, const struct str part[3])
{
    char now[TIME_TEXT];
    struct json j = {.out = line};
    time_format(time_now_us(), true, now);
    json_object(&j, NULL);
    json_string(&j, "time", str_z(now), 0);
    json_string(&j, "level", str_z(LEVELS[level]), 0);
    json_string(&j, "object", part[0], 0);
    json_string(&j, "name", part[1], 0);
    json_string(&j, "message", part[2], 0);
    json_end(&j);
    buf_char(line, '\n');
}

void log_event(enum log_level level, const char *what, const char *name, const char *format, ...)
{
    if (!log_enabled(level))
        return;
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_BYTES);
    char message[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    struct str part[3] = {str_z(what), str_z(name), str_z(message)};
    if (part[1].n > MESSAGE_BYTES / 4)
        part[1].n = MESSAGE_BYTES / 4;
    for (;;) { /* escaped, a byte may take six: then less of the message has to do */
        (log_is_json() ? as_json : as_text)(&line, level, part);
        if (!line.failed || !part[2].n)
            break;
        part[2].n /= 2;
        buf_reset(&line);
    }
    log_put(&line);
}

void complain(const char *format, ...)
{
    struct buf line BUF_CLEANUP = BUF_INIT(5 * LINE_BYTES); /* escaped, a byte takes four */
    char message[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    buf_z(&line, "kmsgate: ");
    text_escape(&line, str_z(message));
    buf_char(&line, '\n');
    if (!line.failed)
        fputs(line.p, stderr);
}
