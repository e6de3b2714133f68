/* The queue of the decision log, whose memory is used again and again: what goes round its end comes out as it was. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdatomic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sink.h"

enum { LINES = 20000, LONGEST = 2003, QUEUE = 8 << 20 };

/* Line `i`, each octet of which depends on its number and place. */
static struct str line_of(unsigned i, char text[LONGEST])
{
    const size_t n = 7 + i * 7919u % (LONGEST - 7);
    snprintf(text, LONGEST, "%06u", i);
    for (size_t k = 6; k < n; k++)
        text[k] = (char)('a' + (i + k) % 26);
    return (struct str){text, n};
}

struct reading {
    const char *path;
    atomic_bool begins, ended;
    atomic_uint good;
    size_t octets;
};

static void *read_lines(void *arg)
{
    struct reading *r = arg;
    char text[LONGEST], *line = NULL;
    size_t cap = 0;
    while (!atomic_load(&r->begins))
        usleep(1000);
    FILE *f = fopen(r->path, "r");
    for (ssize_t n; f && (n = getline(&line, &cap, f)) > 0; atomic_fetch_add(&r->good, 1), r->octets += (size_t)n) {
        const struct str due = line_of(atomic_load(&r->good), text);
        if ((size_t)n != due.n + 1 || memcmp(line, due.p, due.n) != 0 || line[due.n] != '\n')
            break;
    }
    if (f)
        fclose(f);
    free(line);
    atomic_store(&r->ended, true);
    return NULL;
}

/* From the first to the last line the queue is half full, so that it is never begun anew. */
static void test_round_the_end(void **state)
{
    char folder[] = "/tmp/test_sink.XXXXXX", path[sizeof folder + 8], why[256] = "", text[LONGEST];
    pthread_t thread;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    struct reading r = {.path = path};
    atomic_init(&r.begins, false);
    atomic_init(&r.ended, false);
    atomic_init(&r.good, 0);
    struct sink *s = sink_open(path, NULL, why, sizeof why);
    assert_non_null(s);
    assert_int_equal(pthread_create(&thread, NULL, read_lines, &r), 0);
    for (unsigned i = 0; i < LINES; i++) {
        for (; sink_is_stuck(s) && !atomic_load(&r.ended); usleep(100))
            atomic_store(&r.begins, true);
        sink_write(s, line_of(i, text));
    }
    while (!atomic_load(&r.ended) && atomic_load(&r.good) < LINES) /* closing waits for a second at most */
        usleep(1000);
    sink_close(s);
    pthread_join(thread, NULL);
    unlink(path);
    rmdir(folder);
    assert_int_equal(atomic_load(&r.good), LINES);
    assert_true(r.octets > 2 * (size_t)QUEUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_the_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
