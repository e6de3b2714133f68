/*
 * What it costs to remember one more request, the more are remembered: a JSON line for each size.
 *
 *     remember SIZE...             sizes ascending; each is measured by the last EACH before it is full
 */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "replay/replay.h"

enum { EACH = 20000, USERS = 1000000 };

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double resident_mib(void)
{
    unsigned long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    need(f && fscanf(f, "%lu %lu", &all, &resident) == 2, "/proc/self/statm");
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void spend(struct replay *r, struct replay_line *line, uint64_t i, int64_t now)
{
    uint8_t value[32] = {0};
    char user[64], id[64];
    memcpy(value, &i, sizeof i);
    snprintf(user, sizeof user, "sip:u%llu@example.org", (unsigned long long)(i % USERS));
    snprintf(id, sizeof id, "ink.1.u%llu", (unsigned long long)(i % USERS));
    struct replay_call call = {.done = NULL};
    const struct replay_claim claim = {.user = str_z(user), .key_id = str_z(id), .value = value,
                                       .value_n = sizeof value, .time_us = now, .earliest_us = now, .latest_us = now,
                                       .now_us = now};
    need(replay_spend(r, line, &claim, &call) == REASON_OK && !call.waits, "replay_spend");
}

int main(int argc, char **argv)
{
    need(argc > 1, "usage: remember SIZE...");
    const uint64_t most = strtoull(argv[argc - 1], NULL, 10);
    const int64_t now = time_now_us();
    const struct replay_settings settings = {.past_us = 86400 * US_PER_S, .future_us = US_PER_S};
    struct replay *r = replay_memory_new((unsigned)most + 1, now - US_PER_S, &settings);
    struct detail why;
    need(r && replay_start(r, &why), "replay_memory_new");
    struct replay_line *line = replay_line_open(r, &(struct replay_host){0});
    need(line, "replay_line_open");
    const double before = resident_mib();
    uint64_t i = 0;
    for (int k = 1; k < argc; k++) {
        const uint64_t size = strtoull(argv[k], NULL, 10), from = size > EACH ? size - EACH : i;
        while (i < from)
            spend(r, line, i++, now);
        const double began = cpu_us();
        const uint64_t first = i;
        while (i < size)
            spend(r, line, i++, now);
        need(i > first, "sizes in ascending order");
        printf("{\"bench\":\"remember\",\"entries\":%llu,\"us\":%.3f,\"mib\":%.1f}\n", (unsigned long long)size,
               (cpu_us() - began) / (double)(i - first), resident_mib() - before);
        fflush(stdout);
    }
    replay_line_close(line);
    replay_end(r);
    replay_free(r);
    return 0;
}
