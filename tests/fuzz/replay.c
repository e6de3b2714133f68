/*
 * Runs a fuzzer's target over stored inputs:
 *
 *     fuzz_NAME PATH...        each file, and each file in each folder; says how many there were
 */
#include <dirent.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "fuzz.h"

static void one(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct buf bytes BUF_CLEANUP = BUF_INIT(64u << 20);
    size_t n = 1;
    must(f, "%s", path);
    for (char *room; n > 0 && (room = buf_reserve(&bytes, 65536)); bytes.n += n)
        n = fread(room, 1, 65536, f);
    must(!bytes.failed && fclose(f) == 0, "%s", path);
    /* a copy of exactly that size: what reads beyond it is seen */
    uint8_t *exact = malloc(bytes.n ? bytes.n : 1);
    must(exact, "no memory");
    memcpy(exact, bytes.p, bytes.n);
    LLVMFuzzerTestOneInput(exact, bytes.n);
    free(exact);
}

static unsigned all(const char *path)
{
    struct stat st;
    unsigned count = 0;
    must(stat(path, &st) == 0, "%s is not there", path);
    if (!S_ISDIR(st.st_mode)) {
        one(path);
        return 1;
    }
    DIR *folder = opendir(path);
    must(folder, "%s", path);
    for (struct dirent *e; (e = readdir(folder));) {
        char below[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(below, sizeof below, "%s/%s", path, e->d_name);
        count += all(below);
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        count += all(argv[i]);
    printf("%u inputs\n", count);
    return count ? 0 : 1;
}
