/*
 * The operational log (stderr), and the program's error lines. One line an event: it names the object and the reason.
 * Text from outside is escaped. Never a key, a token or a body.
 *
 *     log_warn("upstream", "http://127.0.0.1:9000", "connection refused; requests get 502 until it is there");
 */
#ifndef KMSGATE_BASE_LOG_H
#define KMSGATE_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* Process-wide; called before threads start and on reload. */
void log_setup(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);
bool log_is_json(void);
/* `what` is the kind of object ("listener"), `name` which one; NULL name where there is but one. Never blocks for
 * long. */
void log_event(enum log_level level, const char *what, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define log_error(what, name, ...) log_event(LOG_LEVEL_ERROR, what, name, __VA_ARGS__)
#define log_warn(what, name, ...) log_event(LOG_LEVEL_WARN, what, name, __VA_ARGS__)
#define log_info(what, name, ...) log_event(LOG_LEVEL_INFO, what, name, __VA_ARGS__)
#define log_debug(what, name, ...) log_event(LOG_LEVEL_DEBUG, what, name, __VA_ARGS__)

/* A command's error: "kmsgate: …\n" on stderr. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
