#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"
#include "base/timestamp.h"
#include "http/server.h"

/* What Prometheus' own libraries tell of a process, under their names. What the system does not tell is left out. */

static void measure_memory(void)
{
    char line[128], *rest = line;
    FILE *f = fopen("/proc/self/statm", "re");
    const bool told = f && fgets(line, sizeof line, f);
    const double page = (double)sysconf(_SC_PAGESIZE);
    if (f)
        (void)fclose(f);
    if (!told)
        return;
    metric_set(METRIC_PROCESS_VIRTUAL, NULL, (double)strtoull(rest, &rest, 10) * page);
    metric_set(METRIC_PROCESS_MEMORY, NULL, (double)strtoull(rest, NULL, 10) * page);
}

/* Without that of the folder itself. */
static void measure_descriptors(void)
{
    size_t n = 0;
    struct rlimit most;
    DIR *all = opendir("/proc/self/fd");
    for (const struct dirent *e = all ? readdir(all) : NULL; e; e = readdir(all))
        n += e->d_name[0] != '.';
    if (all) {
        closedir(all);
        metric_set(METRIC_PROCESS_FDS, NULL, (double)n - 1);
    }
    if (getrlimit(RLIMIT_NOFILE, &most) == 0)
        metric_set(METRIC_PROCESS_FDS_MAX, NULL, (double)most.rlim_cur);
}

void process_begins(void)
{
    metric_set(METRIC_PROCESS_START, NULL, (double)time_now_us() / (double)US_PER_S);
}

void process_measure(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0)
        metric_set(METRIC_PROCESS_CPU, NULL, (double)t.tv_sec + (double)t.tv_nsec / 1e9);
    measure_memory();
    measure_descriptors();
}
