/*
 * Runs a fuzzer's target over stored inputs, then over changed ones, always the same, and fails when less than a fifth
 * of the runs arrives:
 *
 *     fuzz_NAME PATH...        each file, and each file in each folder; says how many there were, and arrived
 */
#include <dirent.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "fuzz.h"

enum { CHANGED_RUNS = 200, CHANGED_MOST = 6000, CHANGES = 3, PIECE = 8, ARRIVE_PERCENT = 20 };

static struct {
    struct str *v;
    size_t n;
} inputs;

static void run(struct str bytes)
{
    /* a copy of exactly that size: what reads beyond it is seen */
    uint8_t *exact = malloc(bytes.n ? bytes.n : 1);
    must(exact, "no memory");
    if (bytes.n)
        memcpy(exact, bytes.p, bytes.n);
    LLVMFuzzerTestOneInput(exact, bytes.n);
    free(exact);
}

static void keep(struct str bytes)
{
    struct str *v = realloc(inputs.v, (inputs.n + 1) * sizeof *v);
    char *p = malloc(bytes.n + 1);
    must(v && p, "no memory");
    if (bytes.n)
        memcpy(p, bytes.p, bytes.n);
    inputs.v = v;
    inputs.v[inputs.n++] = (struct str){p, bytes.n};
}

static void one(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct buf bytes BUF_CLEANUP = BUF_INIT(64u << 20);
    size_t n = 1;
    must(f, "%s", path);
    for (char *room; n > 0 && (room = buf_reserve(&bytes, 65536)); bytes.n += n)
        n = fread(room, 1, 65536, f);
    must(!bytes.failed && fclose(f) == 0, "%s", path);
    run((struct str){bytes.p, bytes.n});
    if (bytes.n <= CHANGED_MOST)
        keep((struct str){bytes.p, bytes.n});
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

static size_t roll(size_t sides)
{
    static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state >> 33) % sides;
}

/* A bit, an octet, a piece gone, a piece twice: as libFuzzer does, without its eyes. */
static void change(struct buf *b)
{
    const size_t at = roll(b->n), most = b->n - at < PIECE ? b->n - at : PIECE, n = 1 + roll(most);
    char piece[PIECE];
    memcpy(piece, b->p + at, n);
    switch (roll(4)) {
    case 0:
        b->p[at] = (char)((uint8_t)b->p[at] ^ 1u << roll(8));
        break;
    case 1:
        b->p[at] = (char)roll(256);
        break;
    case 2:
        memmove(b->p + at, b->p + at + n, b->n - at - n);
        b->n -= n;
        break;
    default:
        must(buf_reserve(b, n), "no memory");
        memmove(b->p + at + n, b->p + at, b->n - at);
        memcpy(b->p + at, piece, n);
        b->n += n;
    }
}

static int by_bytes(const void *a, const void *b)
{
    const struct str *x = a, *y = b;
    const int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void all_changed(void)
{
    qsort(inputs.v, inputs.n, sizeof *inputs.v, by_bytes); /* folders have no order of their own */
    for (size_t i = 0; i < CHANGED_RUNS && inputs.n; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1u << 20);
        buf_str(&b, inputs.v[roll(inputs.n)]);
        for (size_t changes = 1 + roll(CHANGES); changes > 0 && b.n > 0; changes--)
            change(&b);
        run((struct str){b.p, b.n});
    }
    for (size_t i = 0; i < inputs.n; i++)
        free((char *)inputs.v[i].p);
    free(inputs.v);
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        count += all(argv[i]);
    all_changed();
    printf("%u inputs; %lu of %lu runs arrived\n", count, fuzz_count.arrived, fuzz_count.runs);
    return count && fuzz_count.arrived * 100 >= fuzz_count.runs * ARRIVE_PERCENT ? 0 : 1;
}
