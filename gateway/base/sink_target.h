/*
 * Where a sink's lines go, for those who write a kind of target (base/sink_file.c, http/syslog.c).
 */
#ifndef KMSGATE_BASE_SINK_TARGET_H
#define KMSGATE_BASE_SINK_TARGET_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/sink.h"

enum {
    SINK_RETRY_MS = 50, /* a target that takes nothing is asked again */
    SINK_PUT_BROKEN = -1,
};

/*
 * A target belongs to the sink's thread once that runs. A kind's functions:
 *
 * put:     takes some of the n octets at p, of which the first `line` end the message that p stands in; returns how
 *          many (0: none for now, after a wait of at most SINK_RETRY_MS), or SINK_PUT_BROKEN: what was taken may be
 *          lost, and where `resends` is set all that is not settled is to be given again.
 * settled: 1: all that was taken is where it was to go; 0: not yet; or SINK_PUT_BROKEN. NULL: what is taken is settled.
 * frame:   appends the message for a line: `line` as decision_json() made it, `text` as it is to be written; `text`
 *          alone where lines were lost. NULL: the text and a line's end.
 * reopen:  after rotation, or for another address; false: not now, ask again. Says what it did in the log.
 * close:   frees what `own` holds.
 */
struct sink_target;
struct sink_target_kind {
    bool resends;
    ssize_t (*put)(struct sink_target *t, const char *p, size_t line, size_t n);
    int (*settled)(struct sink_target *t);
    void (*frame)(const struct sink_target *t, struct str line, struct str text, struct buf *out);
    bool (*reopen)(struct sink_target *t);
    void (*close)(struct sink_target *t);
};
struct sink_target {
    const struct sink_target_kind *kind; /* NULL: none */
    char *name;                          /* as gateway.yaml has it */
    int fd;                              /* -1: not open */
    atomic_bool failing;                 /* the log says so; others than the sink's thread may look */
    void *own;
};

/* Says once in the log that nothing is taken, and why. */
void sink_target_fails(struct sink_target *t, const char *why);
/* Opens a file or standard output. False: `why` is written. */
bool sink_file_open(struct sink_target *t, const char *where, char *why, size_t why_size);

/* For sink*.c alone: the newest lines. Any thread. */
struct sink_newest;
struct sink_newest *sink_newest_new(void); /* NULL: no memory */
void sink_newest_keep(struct sink_newest *r, struct str line);
void sink_newest_free(struct sink_newest *r);
struct sink_newest *sink_newest_of(struct sink *s);

#endif
