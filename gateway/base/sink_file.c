#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sink_target.h"

enum { CHUNK = 4096 }; /* PIPE_BUF: after poll() a pipe takes so much without blocking, whatever its mode */

struct file {
    bool is_socket;
    bool own_fd; /* opened here, without blocking */
};

/* A FIFO without a reader yet is no fault: opened for both, it takes what fits. */
static int file_open(const char *path)
{
    const int flags = O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = open(path, O_WRONLY | flags, 0640);
    if (fd < 0 && errno == ENXIO)
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    return fd;
}

/* Standard output is shared with others: its mode is left alone. A pipe opened anew has a mode of its own. */
static void file_stdout(struct sink_target *t, struct file *f)
{
    struct stat st;
    t->fd = STDOUT_FILENO;
    if (fstat(STDOUT_FILENO, &st) != 0)
        return;
    f->is_socket = S_ISSOCK(st.st_mode);
    if (!S_ISFIFO(st.st_mode))
        return;
    const int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        t->fd = fd;
        f->own_fd = true;
    }
}

/* A killed process or a full disk left a line without its end: what follows would be lost with it. */
static void file_end_torn_line(const struct sink_target *t)
{
    struct stat st;
    char path[32], last = '\n';
    if (fstat(t->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return;
    snprintf(path, sizeof path, "/proc/self/fd/%d", t->fd); /* it is open for writing alone */
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const bool torn = fd >= 0 && pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
    if (fd >= 0)
        close(fd);
    if (torn && write(t->fd, "\n", 1) == 1)
        log_warn("decisions", t->name, "the last line was incomplete, and has been ended");
}

static ssize_t file_put(struct sink_target *t, const char *p, size_t line, size_t n)
{
    const struct file *f = t->own;
    struct pollfd ready = {.fd = t->fd, .events = POLLOUT};
    (void)line;
    if (poll(&ready, 1, SINK_RETRY_MS) <= 0)
        return 0;
    const size_t some = f->own_fd || n < CHUNK ? n : CHUNK;
    const ssize_t got = f->is_socket ? send(t->fd, p, some, MSG_DONTWAIT | MSG_NOSIGNAL) : write(t->fd, p, some);
    if (got > 0)
        return got;
    if (got < 0 && errno != EAGAIN)
        sink_target_fails(t, strerror(errno));
    nanosleep(&(struct timespec){0, SINK_RETRY_MS * 1000000}, NULL);
    return 0;
}

static bool file_reopen(struct sink_target *t)
{
    const int fd = file_open(t->name);
    if (fd < 0) {
        if (!t->failing)
            log_error("decisions", t->name, "cannot reopen: %s; lines still go to the old file, and it is tried again "
                      "each second", strerror(errno));
        t->failing = true;
        return false;
    }
    close(t->fd);
    t->fd = fd;
    t->failing = false;
    file_end_torn_line(t);
    log_info("decisions", t->name, "reopened");
    return true;
}

static void file_close(struct sink_target *t)
{
    const struct file *f = t->own;
    if (t->fd >= 0 && f->own_fd)
        close(t->fd);
    free(t->own);
}

static const struct sink_target_kind FILE_KIND = {
    .put = file_put, .reopen = file_reopen, .close = file_close};
static const struct sink_target_kind STDOUT_KIND = {.put = file_put, .close = file_close};

bool sink_file_open(struct sink_target *t, const char *where, char *why, size_t why_size)
{
    struct file *f = calloc(1, sizeof *f);
    const bool is_stdout = str_eq_z(str_z(where), "stdout");
    if (!f) {
        snprintf(why, why_size, "out of memory");
        return false;
    }
    t->kind = is_stdout ? &STDOUT_KIND : &FILE_KIND;
    t->own = f;
    if (is_stdout) {
        file_stdout(t, f);
    } else {
        f->own_fd = true;
        t->fd = file_open(where);
        if (t->fd < 0) {
            snprintf(why, why_size, "%s: cannot be opened for writing: %s", where, strerror(errno));
            return false;
        }
    }
    file_end_torn_line(t);
    return true;
}
