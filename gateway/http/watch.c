#include "http/watch.h"

#include <string.h>
#include <sys/stat.h>

static int64_t nanoseconds(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static void watch_look(const struct watch *w, struct watch_stamp out[WATCH_FILES])
{
    memset(out, 0, WATCH_FILES * sizeof *out);
    for (size_t i = 0; i < WATCH_FILES; i++) {
        struct stat st;
        if (!w->path[i] || stat(w->path[i], &st) != 0)
            continue;
        out[i].there = true;
        out[i].device = st.st_dev;
        out[i].inode = st.st_ino;
        out[i].size = (uint64_t)st.st_size;
        out[i].changed_ns = nanoseconds(&st.st_ctim);
        out[i].modified_ns = nanoseconds(&st.st_mtim);
    }
}

static bool watch_same(const struct watch_stamp *a, const struct watch_stamp *b)
{
    bool equal = true;
    for (size_t i = 0; i < WATCH_FILES; i++)
        equal = equal && a[i].there == b[i].there && a[i].device == b[i].device && a[i].inode == b[i].inode &&
                a[i].size == b[i].size && a[i].changed_ns == b[i].changed_ns && a[i].modified_ns == b[i].modified_ns;
    return equal;
}

void watch_init(struct watch *w, const char *const path[WATCH_FILES])
{
    *w = (struct watch){0};
    memcpy(w->path, path, sizeof w->path);
    watch_read(w);
}

void watch_read(struct watch *w)
{
    watch_look(w, w->known);
    memcpy(w->pending, w->known, sizeof w->pending);
    w->ticks = 0;
}

bool watch_tick(struct watch *w)
{
    struct watch_stamp now[WATCH_FILES];
    watch_look(w, now);
    if (!watch_same(now, w->pending)) {
        memcpy(w->pending, now, sizeof now);
        w->ticks = 0;
        return false;
    }
    if (watch_same(now, w->known))
        return false;
    bool complete = true;
    for (size_t i = 0; i < WATCH_FILES; i++)
        complete = complete && (!w->path[i] || now[i].there);
    if (++w->ticks < (complete ? 1 : WATCH_MISSING_TICKS))
        return false;
    memcpy(w->known, now, sizeof now);
    w->ticks = 0;
    return true;
}
