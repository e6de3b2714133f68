#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

/* Of targets that need no more: what is logged for operators is not of interest here. */
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    return 0;
}

int fuzz_file(struct str bytes, char path[64])
{
    const int fd = memfd_create("fuzz", MFD_CLOEXEC);
    must(fd >= 0, "no memory");
    for (size_t done = 0; done < bytes.n;) {
        const ssize_t n = write(fd, bytes.p + done, bytes.n - done);
        must(n > 0, "no memory");
        done += (size_t)n;
    }
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

struct str fuzz_next(struct str *s)
{
    const size_t most = s->n ? (uint8_t)s->p[0] : 0;
    *s = (struct str){s->p + (s->n > 0), s->n - (s->n > 0)};
    const size_t n = most < s->n ? most : s->n;
    const struct str value = {s->p, n};
    *s = (struct str){s->p + n, s->n - n};
    return value;
}

unsigned fuzz_choice(struct str *s, unsigned sides)
{
    const unsigned octet = s->n ? (uint8_t)s->p[0] : 0;
    *s = (struct str){s->p + (s->n > 0), s->n - (s->n > 0)};
    return octet % sides;
}

struct fuzz_count fuzz_count;

static void tell(void)
{
    if (getenv("FUZZ_ARRIVED"))
        fprintf(stderr, "%lu of %lu runs arrived\n", fuzz_count.arrived, fuzz_count.runs);
}

void fuzz_arrived(bool yes)
{
    if (fuzz_count.runs++ == 0)
        atexit(tell);
    fuzz_count.arrived += yes;
}
