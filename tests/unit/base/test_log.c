#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/timestamp.h"

/* stderr goes into a file while a line is written. */
static char written[20000];
static size_t written_n;

static int begin(void)
{
    const int kept = dup(STDERR_FILENO);
    FILE *f = tmpfile();
    assert_non_null(f);
    fflush(stderr);
    assert_true(dup2(fileno(f), STDERR_FILENO) >= 0);
    fclose(f);
    return kept;
}

static const char *end(int kept)
{
    fflush(stderr);
    lseek(STDERR_FILENO, 0, SEEK_SET);
    const ssize_t n = read(STDERR_FILENO, written, sizeof written - 1);
    dup2(kept, STDERR_FILENO);
    close(kept);
    assert_true(n >= 0);
    written_n = (size_t)n;
    written[n] = '\0';
    return written;
}

/* The one line: its time, then what is expected. */
static void is_line(const char *line, const char *wanted)
{
    int64_t us;
    bool zone;
    assert_true(strlen(line) > 25);
    assert_true(time_parse((struct str){line, 24}, &us, &zone) && zone);
    assert_string_equal(line + 25, wanted);
}

static void as_text(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    int kept = begin();
    log_warn("upstream", "http://127.0.0.1:9000", "connection refused after %d ms", 5);
    is_line(end(kept), "warn  upstream http://127.0.0.1:9000: connection refused after 5 ms\n");
    kept = begin();
    log_error("gateway", NULL, "ends");
    is_line(end(kept), "error gateway: ends\n");
}

static void as_json(void **state)
{
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON);
    for (int named = 0; named < 2; named++) {
        const int kept = begin();
        log_info("rules", named ? "a \"b\"\n" : NULL, "read\tagain");
        const char *line = end(kept), *why;
        size_t at;
        assert_int_equal(line[written_n - 1], '\n');
        assert_null(memchr(line, '\n', written_n - 1));
        struct json_doc *doc = json_read(str_z(line), &at, &why);
        assert_non_null(doc);
        const struct json_value *o = json_root(doc);
        assert_true(str_eq_z(json_get(o, "level")->text, "info"));
        assert_true(str_eq_z(json_get(o, "object")->text, "rules"));
        assert_true(str_eq_z(json_get(o, "message")->text, "read\tagain"));
        assert_int_equal(json_get(o, "name") != NULL, named);
        assert_true(!named || str_eq_z(json_get(o, "name")->text, "a \"b\"\n"));
        assert_non_null(json_get(o, "time"));
        json_free(doc);
    }
}

static void levels(void **state)
{
    (void)state;
    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        log_setup((enum log_level)level, LOG_FORMAT_TEXT);
        for (int event = LOG_LEVEL_ERROR; event <= LOG_LEVEL_DEBUG; event++) {
            const int kept = begin();
            log_event((enum log_level)event, "x", NULL, "y");
            assert_int_equal(*end(kept) != '\0', event <= level);
            assert_int_equal(log_enabled((enum log_level)event), event <= level);
        }
    }
}

/* Text from outside makes no second line, moves no cursor, and is not lost by being long. */
static void hostile_text(void **state)
{
    static const struct {
        const char *in, *out;
    } CASES[] = {{"a\nerror b: c", "a\\x0aerror b: c"}, {"\x1b[2J\r\x7f\t", "\\x1b[2J\\x0d\\x7f\\x09"},
                 {"\xff\xc3\xa4\xc3", "\\xff\xc3\xa4\\xc3"}, {"%s%n", "%s%n"}};
    char wanted[200], huge[5000];
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const int kept = begin();
        log_info("x", CASES[i].in, "%s", CASES[i].in);
        snprintf(wanted, sizeof wanted, "info  x %s: %s\n", CASES[i].out, CASES[i].out);
        is_line(end(kept), wanted);
    }
    for (int json = 0; json < 2; json++)
        for (int byte = 0; byte < 3; byte++) {
            log_setup(LOG_LEVEL_INFO, json ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
            memset(huge, "a\x01\xff"[byte], sizeof huge - 1);
            huge[sizeof huge - 1] = '\0';
            const int kept = begin();
            log_info("x", huge, "%s", huge);
            const char *line = end(kept);
            assert_true(written_n > 300 && written_n <= 4096); /* in one piece into a pipe */
            assert_ptr_equal(strchr(line, '\n'), line + written_n - 1);
        }
}

/* A pipe that nobody reads: lines are lost, nothing waits for ever. */
static void a_full_pipe_does_not_block(void **state)
{
    int ends[2];
    (void)state;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
    assert_int_equal(pipe(ends), 0);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], "x", 1) == 1)
        ;
    fcntl(ends[1], F_SETFL, 0);
    const int kept = dup(STDERR_FILENO);
    fflush(stderr);
    dup2(ends[1], STDERR_FILENO);
    alarm(30); /* ends the program */
    log_info("x", NULL, "lost");
    log_info("x", NULL, "lost");
    alarm(0);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
}

static void complaints(void **state)
{
    char huge[5000];
    (void)state;
    int kept = begin();
    complain("no file `%s`", "a\nb");
    assert_string_equal(end(kept), "kmsgate: no file `a\\x0ab`\n");
    for (int byte = 0; byte < 2; byte++) {
        memset(huge, byte ? '\x01' : 'a', sizeof huge - 1);
        huge[sizeof huge - 1] = '\0';
        kept = begin();
        complain("%s", huge);
        end(kept);
        assert_true(written_n > 4000);
        assert_int_equal(written[written_n - 1], '\n');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_text),      cmocka_unit_test(as_json),                    cmocka_unit_test(levels),
        cmocka_unit_test(hostile_text), cmocka_unit_test(a_full_pipe_does_not_block), cmocka_unit_test(complaints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
