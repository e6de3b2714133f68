#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "http/sandbox.h"

static void layer(const char *label, bool holds)
{
    metric_set(METRIC_SANDBOX, label, holds ? 1 : 0);
}

static void layer_user(void)
{
    layer("layer=\"user\"", geteuid() != 0);
}

static bool access_is_lost(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const bool lost = fd < 0 && errno == EACCES;
    if (fd >= 0)
        close(fd);
    return lost;
}

static size_t count_threads(void)
{
    size_t n = 0;
    DIR *all = opendir("/proc/self/task");
    for (const struct dirent *e = all ? readdir(all) : NULL; e; e = readdir(all))
        n += e->d_name[0] != '.';
    if (all)
        closedir(all);
    return n;
}

/* Replaced by renaming, a file is another one than that which Landlock lets through. libc then does as if it were not
 * there: it would ask a name server on this machine. */
static struct {
    const char *path;
    ino_t inode;
} names[] = {{"/etc/resolv.conf", 0}, {"/etc/hosts", 0}};

static bool names_replaced(size_t i)
{
    struct stat st;
    const ino_t now = stat(names[i].path, &st) == 0 ? st.st_ino : names[i].inode;
    const bool other = now != names[i].inode;
    names[i].inode = now;
    return other;
}

void sandbox_tick(void)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names_replaced(i) && access_is_lost(names[i].path))
            log_warn("sandbox", names[i].path, "was replaced by another file, which is read after a restart alone");
}

void sandbox_forgo(void)
{
    layer_user();
    layer("layer=\"landlock\"", false);
    layer("layer=\"seccomp\"", false);
    log_warn("sandbox", NULL, "off: whoever takes this process over can open every file that its user can");
}

void sandbox_enter(const struct config *c, const char *upstream_port)
{
    char why[128];
    layer_user();
    const size_t threads = count_threads();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)names_replaced(i);
    const bool files = sandbox_files(c, upstream_port, why, sizeof why);
    if (!files)
        log_warn("sandbox", "landlock", "not in force: %s; files are guarded by their modes alone", why);
    else if (threads > 1)
        log_warn("sandbox", "landlock", "%zu threads were there before it, and are not held by it", threads - 1);
    layer("layer=\"landlock\"", files && threads <= 1);
    const bool calls = sandbox_calls(why, sizeof why);
    if (!calls)
        log_warn("sandbox", "seccomp", "not in force: %s; every system call is open to this process", why);
    layer("layer=\"seccomp\"", calls);
}
