#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

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
