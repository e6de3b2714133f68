#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/locked.h"
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

static bool memory_is_enough;

/* Keys in clear that the system would not lock. */
static void layer_memlock(bool enough)
{
    static bool held = true;
    const size_t missing = locked_missing();
    if (missing && held)
        log_warn("sandbox", "memlock", "%zu KiB for keys in clear are not locked: they can be swapped; raise "
                 "RLIMIT_MEMLOCK", (missing + 1023) / 1024);
    held = !missing;
    layer("layer=\"memlock\"", held && enough);
}

static void look_at_memory(const struct config *c)
{
    const size_t limit = locked_limit(false), need = sandbox_memory(c);
    memory_is_enough = limit >= need;
    if (!memory_is_enough)
        log_warn("sandbox", "memlock", "RLIMIT_MEMLOCK is %zu KiB, and keys in clear need %zu KiB at least: the rest "
                 "can be swapped", limit / 1024, need / 1024);
    layer_memlock(memory_is_enough);
}

void sandbox_tick(void)
{
    layer_memlock(memory_is_enough);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names_replaced(i) && access_is_lost(names[i].path))
            log_warn("sandbox", names[i].path, "was replaced by another file, which is read after a restart alone");
}

size_t sandbox_memory(const struct config *c)
{
    return locked_need(config_workers(c) + 1); /* and the keys' own thread */
}

void sandbox_forgo(const struct config *c)
{
    look_at_memory(c);
    layer_user();
    layer("layer=\"landlock\"", false);
    layer("layer=\"seccomp\"", false);
    log_warn("sandbox", NULL, "off: whoever takes this process over can open every file that its user can");
}

void sandbox_enter(const struct config *c, const char *upstream_port)
{
    char why[128];
    look_at_memory(c);
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
