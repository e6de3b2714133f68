/*
 * Where decision lines go: a thread writes them; whoever serves never waits for it.
 *
 *     struct sink *s = sink_open("stdout", NULL, why, sizeof why);
 *     sink_write(s, line);
 *     sink_close(s);
 */
#ifndef KMSGATE_BASE_SINK_H
#define KMSGATE_BASE_SINK_H

#include "base/buf.h"

/*
 * Where lines go: "stdout", "none", a path, or a syslog server. A thread writes them, at most 100 ms later; a stalled
 * sink drops and counts. What a broken connection had not taken for certain is sent again, so that a line may come
 * twice; what was dropped is told in the log, and to a syslog server by a message of its own.
 */
struct sink;
struct sink_target;
struct sink_ways {
    /* Another text of a line, as it is written (the kept ones stay as they are); false: it cannot. NULL: none. */
    bool (*shape)(struct str line, struct buf *out);
    /* Prepares for a server: http/syslog.h. NULL: there is no way to one. */
    bool (*syslog)(struct sink_target *t, const char *where, char *why, size_t why_size);
};
/* NULL: `why` is written. ways may be NULL. */
struct sink *sink_open(const char *where, const struct sink_ways *ways, char *why, size_t why_size);
/* Whether `where` begins as a syslog server's does. */
bool sink_is_syslog(struct str where);
/* Whether it is one of syslog:unix:PATH, syslog+tcp://HOST:PORT, syslog+tls://HOST:PORT. */
bool sink_syslog_is_valid(struct str where);
/* Any thread; never blocks. Also keeps the newest 1000 for /decisions. */
void sink_write(struct sink *s, struct str line);
void sink_reopen(struct sink *s); /* after log rotation */
/* Whether lines wait that cannot be written now: the target fails, or has left half of what may wait. Any thread. */
bool sink_is_stuck(struct sink *s);
typedef bool sink_wanted(const void *arg, struct str line);
/* The newest n lines of those kept that are wanted (NULL: all are), newest first, as a JSON array. */
void sink_recent(struct sink *s, size_t n, sink_wanted *wanted, const void *arg, struct buf *out);
/* For who follows: the number of the next line. */
uint64_t sink_next_number(struct sink *s);
/* Appends line *at to out and moves on. False: there is none yet, or no memory for it. *lost grows by those that are
 * not kept any more, or never were. */
bool sink_follow(struct sink *s, uint64_t *at, uint64_t *lost, struct buf *out);
/* Writes what is queued (for at most a second) and ends the thread. */
void sink_close(struct sink *s);

#endif
