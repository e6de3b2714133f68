#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LIMIT = 4096 };

int file_open_folder(const char *path, int flags, mode_t mode)
{
    struct buf folder BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    const char *slash = strrchr(path, '/');
    buf_str(&folder, slash ? (struct str){path, slash == path ? 1 : (size_t)(slash - path)} : STR("."));
    if (folder.failed) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(folder.p, flags | O_CLOEXEC, mode);
}

ssize_t file_read_into(int fd, void *to, size_t max)
{
    size_t n = 0;
    while (n < max) {
        const ssize_t got = read(fd, (char *)to + n, max - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

bool file_read(int fd, struct buf *out)
{
    enum { PIECE = 16 * 1024 };
    char beyond;
    while (!out->failed && out->n < out->max) {
        const size_t left = out->max - out->n, piece = left < PIECE ? left : PIECE;
        char *at = buf_reserve(out, piece);
        const ssize_t n = at ? file_read_into(fd, at, piece) : -1;
        if (n < 0)
            return false;
        out->n += (size_t)n;
        out->p[out->n] = '\0';
        if ((size_t)n < piece)
            return true;
    }
    const ssize_t more = out->failed ? -1 : file_read_into(fd, &beyond, 1);
    out->failed |= more > 0;
    return more == 0;
}

bool file_write_all(int fd, const void *p, size_t n)
{
    const char *at = p;
    while (n > 0) {
        const ssize_t w = write(fd, at, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w == 0)
            errno = EIO;
        if (w <= 0)
            return false;
        at += w;
        n -= (size_t)w;
    }
    return true;
}

bool file_sync_folder(const char *path)
{
    const int folder = file_open_folder(path, O_RDONLY | O_DIRECTORY, 0);
    if (folder < 0)
        return false;
    const bool ok = fsync(folder) == 0;
    close(folder);
    return ok;
}

bool file_to_folder_owner(const char *path, int fd)
{
    struct stat st;
    if (geteuid() != 0)
        return true;
    const int folder = file_open_folder(path, O_RDONLY | O_DIRECTORY, 0);
    const bool known = folder >= 0 && fstat(folder, &st) == 0;
    if (folder >= 0)
        close(folder);
    return known && (st.st_uid == 0 || fchown(fd, st.st_uid, st.st_gid) == 0);
}
