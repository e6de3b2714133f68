/*
 * Another wall clock for redis-server, which libfaketime does not get to start (jemalloc asks for the time before it
 * can give memory): loaded by LD_PRELOAD. The file that WALL_CLOCK names says how many seconds it is ahead; it is read
 * each time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    static int file = -1;
    char text[16] = "";
    const long failed = syscall(SYS_gettimeofday, tv, tz);
    const char *name = getenv("WALL_CLOCK");
    if (file < 0 && name)
        file = open(name, O_RDONLY | O_CLOEXEC);
    if (!failed && file >= 0 && pread(file, text, sizeof text - 1, 0) > 0)
        tv->tv_sec += strtol(text, NULL, 10);
    return (int)failed;
}
