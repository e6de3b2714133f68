#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http/watch.h"

static char folder[] = "/tmp/kmsgate-watch-XXXXXX";
static char file[128], second[128], other[128];

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static int in_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kmsgate-watch-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/file", folder);
    snprintf(second, sizeof second, "%s/second", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    put(file, "one");
    put(second, "one");
    return 0;
}

static int out_of_folder(void **state)
{
    (void)state;
    unlink(file);
    unlink(second);
    unlink(other);
    return rmdir(folder);
}

static void begin(struct watch *w)
{
    watch_init(w, (const char *[WATCH_FILES]){file, NULL, second});
    for (int i = 0; i < 20; i++)
        assert_false(watch_tick(w));
}

static void a_change_is_told_once_it_has_settled(void **state)
{
    (void)state;
    struct watch w;
    begin(&w);
    put(file, "two!");
    assert_false(watch_tick(&w));
    put(second, "two!"); /* still being written */
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
    assert_false(watch_tick(&w));
}

static void a_file_put_in_its_place_is_a_change(void **state)
{
    (void)state;
    struct watch w;
    begin(&w);
    put(other, "one"); /* of the same size */
    assert_int_equal(rename(other, file), 0);
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
}

static void another_mode_is_a_change(void **state)
{
    (void)state;
    struct watch w;
    begin(&w);
    usleep(20000); /* the clock of files is coarse */
    assert_int_equal(chmod(file, 0600), 0);
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
}

static void a_file_that_is_away_is_waited_for(void **state)
{
    (void)state;
    struct watch w;
    begin(&w);
    unlink(file);
    for (int i = 0; i < WATCH_MISSING_TICKS; i++)
        assert_false(watch_tick(&w));
    put(file, "back");
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
    unlink(file); /* and when it stays away, that is told too, once */
    for (int i = 0; i < WATCH_MISSING_TICKS; i++)
        assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
    for (int i = 0; i < 20; i++)
        assert_false(watch_tick(&w));
    put(file, "back");
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
}

static void what_was_read_is_known(void **state)
{
    (void)state;
    struct watch w;
    begin(&w);
    put(file, "two!");
    watch_read(&w);
    for (int i = 0; i < 20; i++)
        assert_false(watch_tick(&w));
}

/* As Kubernetes does it: the name stays, a link in the middle of the path is replaced. */
static void the_swap_of_a_link_is_a_change(void **state)
{
    (void)state;
    char a[64], b[64], data[64], fresh[64], path[128], in_a[128], in_b[128];
    snprintf(a, sizeof a, "%s/a", folder);
    snprintf(b, sizeof b, "%s/b", folder);
    snprintf(data, sizeof data, "%s/..data", folder);
    snprintf(fresh, sizeof fresh, "%s/..tmp", folder);
    snprintf(in_a, sizeof in_a, "%s/rules", a);
    snprintf(in_b, sizeof in_b, "%s/rules", b);
    snprintf(path, sizeof path, "%s/rules", data);
    assert_int_equal(mkdir(a, 0700) | mkdir(b, 0700), 0);
    put(in_a, "one");
    put(in_b, "one");
    assert_int_equal(symlink("a", data), 0);
    struct watch w;
    watch_init(&w, (const char *[WATCH_FILES]){path});
    assert_false(watch_tick(&w));
    assert_int_equal(symlink("b", fresh), 0);
    assert_int_equal(rename(fresh, data), 0);
    assert_false(watch_tick(&w));
    assert_true(watch_tick(&w));
    const char *const made[] = {in_a, in_b, data};
    for (size_t i = 0; i < 3; i++)
        unlink(made[i]);
    rmdir(a);
    rmdir(b);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, in_folder, out_of_folder)
    const struct CMUnitTest tests[] = {
        CASE(a_change_is_told_once_it_has_settled), CASE(a_file_put_in_its_place_is_a_change),
        CASE(another_mode_is_a_change),             CASE(a_file_that_is_away_is_waited_for),
        CASE(what_was_read_is_known),               CASE(the_swap_of_a_link_is_a_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
