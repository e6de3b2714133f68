/*
 * Which files have changed, found by looking at them now and then: a rename, a write, another mode, and the swap of
 * the `..data` link by which a Kubernetes volume changes all its files at once.
 *
 * A change is told once it has settled: half a file, or a certificate without its key, is not worth reading. A file
 * that is away is waited for, and told of in the end.
 */
#ifndef KMSGATE_HTTP_WATCH_H
#define KMSGATE_HTTP_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WATCH_TICK_MS = 400,     /* a change is in force within a second: seen by one look, settled by the next */
    WATCH_MISSING_TICKS = 8, /* a file that is replaced may be away for a moment */
    WATCH_FILES = 4,
};

struct watch_stamp {
    bool there;
    uint64_t device, inode, size;
    int64_t changed_ns, modified_ns;
};

/* Files that are read together. */
struct watch {
    const char *path[WATCH_FILES]; /* NULL: none; alive as long as the watch */
    struct watch_stamp known[WATCH_FILES], pending[WATCH_FILES];
    unsigned ticks; /* for how many looks `pending` has stood still */
};

/* Also takes what is there now for known. */
void watch_init(struct watch *w, const char *const path[WATCH_FILES]);
/* They are about to be read: what is there now is known. */
void watch_read(struct watch *w);
/* One look. True when a change has settled; it is known from then on. */
bool watch_tick(struct watch *w);

#endif
