#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/zone.h"

enum { MUCH = 100000 };

/* A pipe gives what it has, in pieces that are the writer's. */
static void *write_pieces(void *arg)
{
    const int fd = *(const int *)arg;
    char piece[1000];
    for (int i = 0; i < MUCH / (int)sizeof piece; i++) {
        memset(piece, 'a' + i % 26, sizeof piece);
        assert_true(file_write_all(fd, piece, sizeof piece));
    }
    close(fd);
    return NULL;
}

/* file_read() of a pipe into which MUCH octets are written. */
static bool read_much(struct buf *b)
{
    int ends[2];
    pthread_t writer;
    char rest[4096];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(pthread_create(&writer, NULL, write_pieces, &ends[1]), 0);
    const bool whole = file_read(ends[0], b);
    while (read(ends[0], rest, sizeof rest) > 0)
        ;
    pthread_join(writer, NULL);
    close(ends[0]);
    return whole;
}

static void a_whole_file_and_no_more_than_fits(void **state)
{
    (void)state;
    for (int more = -1; more <= 1; more++) {
        struct buf b BUF_CLEANUP = BUF_INIT(MUCH + more);
        assert_int_equal(read_much(&b), more >= 0);
        assert_int_equal(b.failed, more < 0);
        assert_int_equal(b.n, more < 0 ? MUCH - 1 : MUCH);
        for (size_t i = 0; i < b.n; i++)
            assert_int_equal(b.p[i], 'a' + (int)(i / 1000) % 26);
        assert_int_equal(b.p[b.n], '\0');
    }
    struct buf behind BUF_CLEANUP = BUF_INIT(MUCH + 3);
    buf_z(&behind, "abc");
    assert_true(read_much(&behind));
    assert_int_equal(behind.n, MUCH + 3);
}

static void what_cannot_be_read(void **state)
{
    (void)state;
    struct buf b BUF_CLEANUP = BUF_INIT(100);
    char bytes[10];
    const int folder = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(folder >= 0);
    assert_false(file_read(folder, &b));
    assert_int_equal(errno, EISDIR);
    assert_false(b.failed);
    assert_int_equal(file_read_into(folder, bytes, sizeof bytes), -1);
    close(folder);
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(file_read(nothing, &b));
    assert_int_equal(b.n, 0);
    assert_int_equal(file_read_into(nothing, bytes, sizeof bytes), 0);
    close(nothing);
    const int endless = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    assert_int_equal(file_read_into(endless, bytes, sizeof bytes), sizeof bytes);
    assert_false(file_read(endless, &b));
    assert_true(b.failed);
    close(endless);
}

static void offsets(void **state)
{
    static const struct {
        const char *text;
        int minutes;
    } GOOD[] = {{"+00:00", 0}, {"-00:30", -30}, {"+01:00", 60}, {"-14:00", -840}, {"+13:59", 839}};
    static const char *const BAD[] = {"", "+", "Z", "+1:00", "+01:60", "+14:01", "-15:00", "01:00", "+01-00", "+01:000",
                                      "+0a:00"};
    int minutes = 7;
    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_false(zone_offset_parse(str_z(BAD[i]), &minutes));
    assert_false(zone_offset_parse(STR_MISSING, &minutes));
    assert_int_equal(minutes, 7);
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        assert_true(zone_offset_parse(str_z(GOOD[i].text), &minutes));
        assert_int_equal(minutes, GOOD[i].minutes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_whole_file_and_no_more_than_fits),
                                       cmocka_unit_test(what_cannot_be_read), cmocka_unit_test(offsets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
