#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

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
