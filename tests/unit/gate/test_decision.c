/* The decision's line, its metrics, and the sink that lines go to. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/metrics.h"
#include "base/sink.h"
#include "gate/decision.h"

static struct decision full(void)
{
    static char url[] = "https://kms.example.org/keymanagement/identity/v1/init?secret=1";
    struct decision d;
    decision_init(&d);
    d.time_us = INT64_C(1795000000123456);
    snprintf(d.id, sizeof d.id, "0123456789abcdef0123456789abcdef");
    snprintf(d.source, sizeof d.source, "10.20.0.7");
    d.method = STR("POST");
    d.path = STR("/keymanagement/identity/v1/init?secret=1");
    d.rule = "everyone";
    d.form = FORM_SIGNED;
    d.judged = d.proven = true;
    d.user = STR("sip:alice@example.org");
    d.client_id = STR("client \"1\"\n");
    d.device_id = STR("radio");
    d.key_id = STR("ink.1");
    d.has_key_type = true;
    d.key_type = KEY_TRK;
    d.checks[CHECK_SCHEMA] = CHECK_PASS;
    d.checks[CHECK_SIGNATURE] = CHECK_PASS;
    d.checks[CHECK_KEY_POLICY] = CHECK_OFF;
    d.checks[CHECK_KMS_URI] = CHECK_SHADOW_FAIL;
    d.checks[CHECK_TIME] = CHECK_FAIL;
    d.checks[CHECK_CLIENT_REQ_URL] = CHECK_PASS;
    d.checks[CHECK_PATH_USER] = CHECK_PASS;
    d.checks[CHECK_REPLAY] = CHECK_SKIP;
    d.shadow[CHECK_KMS_URI] = REASON_KMS_URI_MISMATCH;
    d.reason = REASON_TIME_STALE;
    d.claims.kms_uri = STR("elsewhere#token=hush");
    d.claims.time = STR("2026-11-23T18:00:00Z");
    d.claims.client_req_url = STR("https://kms.example.org/x?secret=1");
    d.claims.trk_id = STR("trk.1");
    d.claims.signature_id = STR("ink.1");
    d.claims.version = STR("1.1.0");
    d.claims.c14n = "exc-c14n";
    d.claims.hmac_bits = 128;
    snprintf(d.trace_id, sizeof d.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    d.captured = true;
    d.expected_url = strdup(url);
    d.rules_hash = "abc";
    d.skew_us = -1500999;
    d.status = 403;
    d.upstream.status = 200;
    d.upstream.us = 2500;
    d.response.rule = "default";
    d.response.message = "KmsInit";
    d.response.signed_by = STR("ink.1");
    d.response.encrypted_by = STR("trk.1");
    d.us.total = 4000;
    d.us.judge = 20;
    d.us.upstream = 2500;
    d.us.protect = 55;
    return d;
}

static void test_line(void **state)
{
    (void)state;
    struct buf out BUF_CLEANUP = BUF_INIT(1u << 16);
    struct decision d = full();
    decision_json(&d, &out);
    assert_string_equal(
        out.p,
        "{\"time\":\"2026-11-18T11:06:40.123Z\",\"id\":\"0123456789abcdef0123456789abcdef\",\"source\":\"10.20.0.7\","
        "\"method\":\"POST\",\"path\":\"/keymanagement/identity/v1/init\",\"rule\":\"everyone\",\"form\":\"signed\","
        "\"proven\":true,\"user\":\"sip:alice@example.org\",\"client_id\":\"client \\\"1\\\"\\n\","
        "\"device_id\":\"radio\","
        "\"key_id\":\"ink.1\",\"key_type\":\"trk\","
        "\"checks\":{\"schema\":\"pass\",\"signature\":\"pass\",\"key_policy\":\"off\",\"kms_uri\":\"shadow_fail\","
        "\"time\":\"fail\",\"client_req_url\":\"pass\",\"path_user\":\"pass\",\"replay\":\"skip\"},"
        "\"verdict\":\"reject\",\"reason\":\"time.stale\",\"shadow\":[\"kms_uri.mismatch\"],"
        "\"claims\":{\"kms_uri\":\"elsewhere\",\"time\":\"2026-11-23T18:00:00Z\","
        "\"client_req_url\":\"https://kms.example.org/x\",\"trk_id\":\"trk.1\",\"signature_id\":\"ink.1\","
        "\"version\":\"1.1.0\",\"c14n\":\"exc-c14n\",\"hmac_bits\":128},"
        "\"captured\":true,"
        "\"expected_url\":\"https://kms.example.org/keymanagement/identity/v1/init\","
        "\"rules\":\"abc\",\"skew_ms\":-1500,\"status\":403,\"upstream\":{\"status\":200,\"ms\":2.500},"
        "\"response\":{\"rule\":\"default\",\"message\":\"KmsInit\",\"signed_by\":\"ink.1\","
        "\"encrypted_by\":\"trk.1\"},"
        "\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\","
        "\"ms\":{\"total\":4.000,\"judge\":0.020,\"upstream\":2.500,\"protect\":0.055}}");
    decision_clear(&d);
    assert_null(d.expected_url);
}

/* What does not apply is left out. */
static void test_little_is_known(void **state)
{
    (void)state;
    struct buf out BUF_CLEANUP = BUF_INIT(1u << 16);
    struct decision d;
    decision_init(&d);
    d.reason = REASON_HTTP_FRAMING;
    decision_json(&d, &out);
    assert_string_equal(out.p,
                        "{\"time\":\"1970-01-01T00:00:00.000Z\",\"verdict\":\"reject\",\"reason\":\"http.framing\"}");
    decision_clear(&d);
}

static void test_cut(void **state)
{
    (void)state;
    struct buf out BUF_CLEANUP = BUF_INIT(1u << 16);
    struct decision d;
    char user[400];
    memset(user, 'a', sizeof user);
    memcpy(user + 255, "\xc3\xa9", 2); /* a character across the cut is left out whole */
    decision_init(&d);
    d.user = (struct str){user, sizeof user};
    decision_json(&d, &out);
    const char *at = strstr(out.p, "\"user\":\"");
    assert_non_null(at);
    assert_int_equal(strcspn(at + 8, "\""), 255);
    assert_true(str_is_utf8(buf_view(&out)));
}

static double value_of(const char *series)
{
    struct buf out BUF_CLEANUP = BUF_INIT(1u << 20);
    char line[512];
    buf_char(&out, '\n');
    metrics_write(&out);
    snprintf(line, sizeof line, "\n%s ", series);
    const char *at = out.p ? strstr(out.p, line) : NULL;
    return at ? strtod(at + strlen(line), NULL) : 0;
}

static void test_metrics(void **state)
{
    (void)state;
    struct decision d = full();
    decision_count(&d);
    decision_count(&d);
    assert_true(value_of("kmsgate_requests_total{rule=\"everyone\",verdict=\"reject\",reason=\"time.stale\","
                         "form=\"signed\",proven=\"true\"}") == 2);
    assert_true(value_of("kmsgate_check_failures_total{check=\"time\",mode=\"enforce\",rule=\"everyone\"}") == 2);
    assert_true(value_of("kmsgate_check_failures_total{check=\"kms_uri\",mode=\"shadow\",rule=\"everyone\"}") == 2);
    assert_true(value_of("kmsgate_check_failures_total{check=\"schema\",mode=\"enforce\",rule=\"everyone\"}") == 0);
    decision_clear(&d);
    d.reason = REASON_HTTP_PATH;
    decision_count(&d);
    assert_true(value_of("kmsgate_requests_total{rule=\"\",verdict=\"reject\",reason=\"http.path\","
                         "form=\"\",proven=\"\"}") == 1);
}

/* What a thread remembers of its last decision is used for none that differs. */
static void test_one_after_another(void **state)
{
    (void)state;
    static const char *const RULES[] = {"1", "2", ("a rule whose ID is longer than what is kept of it: it is looked up "
                                                   "each time, and it is counted all the same as short ones are")};
    struct buf text[4] = {BUF_INIT(1u << 16), BUF_INIT(1u << 16), BUF_INIT(1u << 16), BUF_INIT(1u << 16)};
    char series[512];
    struct decision d = full();
    for (size_t i = 0; i < 4; i++) {
        d.checks[CHECK_TIME] = i % 2 ? CHECK_PASS : CHECK_FAIL;
        decision_json(&d, &text[i]);
        assert_non_null(strstr(text[i].p, i % 2 ? "\"time\":\"pass\"" : "\"time\":\"fail\""));
        assert_true(i < 2 || str_eq(buf_view(&text[i]), buf_view(&text[i - 2])));
    }
    for (size_t i = 0; i < 24; i++) {
        d.rule = RULES[i / 2 % 3];
        d.accepted = i >= 18;
        decision_count(&d);
    }
    for (size_t i = 0; i < 6; i++) {
        snprintf(series, sizeof series, "kmsgate_requests_total{rule=\"%s\",verdict=\"%s\",reason=\"time.stale\","
                 "form=\"signed\",proven=\"true\"}", RULES[i % 3], i < 3 ? "reject" : "accept");
        assert_true(value_of(series) == (i < 3 ? 6 : 2));
    }
    d.rule = RULES[0];
    for (size_t i = 0; i < 8; i++) { /* one thing at a time, and back */
        d.proven = i != 1;
        d.form = i == 3 ? FORM_UNSIGNED : FORM_SIGNED;
        d.reason = i == 5 ? REASON_TIME_FUTURE : REASON_TIME_STALE;
        decision_count(&d);
    }
    for (size_t i = 0; i < 4; i++) {
        snprintf(series, sizeof series, "kmsgate_requests_total{rule=\"1\",verdict=\"accept\",reason=\"time.%s\","
                 "form=\"%s\",proven=\"%s\"}", i == 2 ? "future" : "stale", i == 1 ? "unsigned" : "signed",
                 i ? "true" : "false");
        assert_true(value_of(series) == (i < 3 ? 1 : 2 + 5));
    }
    for (size_t i = 0; i < 4; i++)
        buf_free(&text[i]);
    decision_clear(&d);
}

struct place {
    char folder[64], path[96], other[96];
};

static int set_up(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    *state = p;
    if (!p)
        return -1;
    snprintf(p->folder, sizeof p->folder, "/tmp/kmsgate-sink-XXXXXX");
    if (!mkdtemp(p->folder))
        return -1;
    snprintf(p->path, sizeof p->path, "%s/d.jsonl", p->folder);
    snprintf(p->other, sizeof p->other, "%s/d.jsonl.1", p->folder);
    return 0;
}

static int tear_down(void **state)
{
    struct place *p = *state;
    unlink(p->path);
    unlink(p->other);
    const int left = rmdir(p->folder);
    free(p);
    return left;
}

static void read_all(const char *path, struct buf *out)
{
    char *room;
    const int fd = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    while ((room = buf_reserve(out, 65536))) {
        const ssize_t n = read(fd, room, 65536);
        if (n <= 0)
            break;
        out->n += (size_t)n;
        out->p[out->n] = 0;
    }
    close(fd);
}

static struct sink *open_sink(const char *where)
{
    char why[256] = "";
    struct sink *s = sink_open(where, NULL, why, sizeof why);
    if (!s)
        fail_msg("%s", why);
    return s;
}

static void test_file(void **state)
{
    struct place *p = *state;
    struct buf got BUF_CLEANUP = BUF_INIT(1u << 20);
    struct sink *s = open_sink(p->path);
    sink_write(s, STR("{\"a\":1}"));
    sink_write(s, STR("{\"a\":2}"));
    sink_close(s); /* what is queued is written */
    s = open_sink(p->path);
    sink_write(s, STR("{\"a\":3}"));
    sink_close(s);
    read_all(p->path, &got);
    assert_string_equal(got.p, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    struct stat st;
    assert_int_equal(stat(p->path, &st), 0);
    assert_int_equal(st.st_mode & 07, 0); /* who asks for what is not everybody's business */
    sink_close(NULL);
}

static void test_a_path_that_cannot_be(void **state)
{
    struct place *p = *state;
    char why[256] = "";
    assert_null(sink_open(p->folder, NULL, why, sizeof why));
    assert_non_null(strstr(why, p->folder));
}

static void test_recent(void **state)
{
    (void)state;
    struct buf out BUF_CLEANUP = BUF_INIT(1u << 20);
    struct sink *s = open_sink("none");
    sink_recent(s, 10, NULL, NULL, &out);
    assert_string_equal(out.p, "[]");
    for (int i = 1; i <= 1003; i++) {
        char line[32];
        snprintf(line, sizeof line, "{\"n\":%d}", i);
        sink_write(s, str_z(line));
    }
    buf_reset(&out);
    sink_recent(s, 2, NULL, NULL, &out);
    assert_string_equal(out.p, "[{\"n\":1003},{\"n\":1002}]");
    buf_reset(&out);
    sink_recent(s, 5000, NULL, NULL, &out);
    assert_non_null(strstr(out.p, ",{\"n\":4}]"));
    assert_null(strstr(out.p, "{\"n\":3}"));
    sink_reopen(s);
    sink_close(s);
}

/* Waits until a file holds a text; the tests' own patience, not the sink's. */
static bool comes(const char *path, const char *text)
{
    for (int i = 0; i < 3000; i++) {
        struct buf got BUF_CLEANUP = BUF_INIT(1u << 20);
        if (access(path, R_OK) == 0)
            read_all(path, &got);
        if (got.p && strstr(got.p, text))
            return true;
        usleep(5000);
    }
    return false;
}

static void test_reopen(void **state)
{
    struct place *p = *state;
    struct sink *s = open_sink(p->path);
    sink_write(s, STR("one"));
    assert_true(comes(p->path, "one\n")); /* without any further line or call */
    assert_int_equal(rename(p->path, p->other), 0);
    sink_reopen(s);
    assert_true(comes(p->path, ""));
    sink_write(s, STR("two"));
    assert_true(comes(p->path, "two\n"));
    sink_close(s);
    struct buf old BUF_CLEANUP = BUF_INIT(1u << 20);
    read_all(p->other, &old);
    assert_string_equal(old.p, "one\n");
}

/*
 * A FIFO that nobody reads: writing never waits, 8 MiB queue up, what is more is dropped and counted. Then somebody
 * reads: what was queued comes whole, in order, line by line.
 */
static void read_so_much(const char *path, size_t n, struct buf *out)
{
    const int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    while (out->n < n) {
        char *room = buf_reserve(out, 65536);
        const ssize_t got = room ? read(fd, room, 65536) : -1;
        assert_true(got > 0);
        out->n += (size_t)got;
    }
    close(fd);
}

static void test_a_stalled_fifo(void **state)
{
    struct place *p = *state;
    enum { LINE = 10000, LINES = 1000, QUEUE = 8 << 20 };
    char line[LINE];
    memset(line, 'x', sizeof line);
    assert_int_equal(mkfifo(p->path, 0600), 0);
    struct sink *s = open_sink(p->path); /* nobody reads yet: no fault */
    const double dropped_before = value_of("kmsgate_decisions_dropped_total");
    for (unsigned i = 0; i < LINES; i++) {
        char number[16];
        snprintf(number, sizeof number, "%06u", i);
        memcpy(line, number, 6);
        sink_write(s, (struct str){line, sizeof line});
    }
    const double dropped = value_of("kmsgate_decisions_dropped_total") - dropped_before;
    assert_true(dropped >= LINES - (QUEUE + (1 << 20)) / LINE && dropped < LINES - QUEUE / (LINE + 1) + 1);

    struct buf got BUF_CLEANUP = BUF_INIT(64u << 20);
    const size_t kept = LINES - (size_t)dropped;
    read_so_much(p->path, kept * (LINE + 1), &got);
    sink_close(s);
    assert_int_equal(got.n, kept * (LINE + 1));
    for (unsigned i = 0; i < kept; i++) {
        char number[16];
        snprintf(number, sizeof number, "%06u", i);
        assert_memory_equal(got.p + i * (LINE + 1), number, 6);
        assert_int_equal(got.p[i * (LINE + 1) + LINE], '\n');
    }
}

/* A line that the old file has the beginning of does not end in the new one. */
static void test_reopen_inside_a_line(void **state)
{
    struct place *p = *state;
    enum { LINE = 100000 };
    static char line[LINE];
    char byte;
    memset(line, 'x', sizeof line);
    assert_int_equal(mkfifo(p->path, 0600), 0);
    struct sink *s = open_sink(p->path);
    for (int i = 0; i < 3; i++)
        sink_write(s, (struct str){line, sizeof line});
    const int fd = open(p->path, O_RDONLY);
    assert_int_equal(read(fd, &byte, 1), 1); /* the first line has begun, and is longer than a FIFO */
    assert_int_equal(rename(p->path, p->other), 0);
    sink_reopen(s);
    sink_write(s, STR("whole"));
    assert_true(comes(p->path, "whole\n"));
    sink_close(s);
    close(fd);
    struct buf got BUF_CLEANUP = BUF_INIT(1u << 20);
    read_all(p->path, &got);
    assert_int_equal(got.n, 2 * (LINE + 1) + strlen("whole\n"));
    assert_int_equal(got.p[LINE], '\n');
    assert_int_equal(got.p[2 * LINE + 1], '\n');
}

/* What is longer than any decision is dropped, and counted. */
static void test_the_longest_line(void **state)
{
    struct place *p = *state;
    enum { LONGEST = 128 << 10 };
    static char line[LONGEST + 1];
    struct stat st;
    memset(line, 'x', sizeof line);
    struct sink *s = open_sink(p->path);
    const double before = value_of("kmsgate_decisions_dropped_total");
    sink_write(s, (struct str){line, LONGEST + 1});
    assert_true(value_of("kmsgate_decisions_dropped_total") == before + 1);
    sink_write(s, (struct str){line, LONGEST});
    sink_close(s);
    assert_int_equal(stat(p->path, &st), 0);
    assert_int_equal(st.st_size, LONGEST + 1);
}

/* Ending with a sink that takes nothing ends all the same. */
static void test_closing_a_stalled_sink(void **state)
{
    struct place *p = *state;
    static const char line[100000] = {'x'};
    assert_int_equal(mkfifo(p->path, 0600), 0);
    struct sink *s = open_sink(p->path);
    for (int i = 0; i < 10; i++)
        sink_write(s, (struct str){line, sizeof line});
    sink_close(s);
}

enum { WRITERS = 4, EACH = 3000 };
struct writer {
    struct sink *sink;
    int number;
};

static void *write_many(void *arg)
{
    const struct writer *w = arg;
    for (int i = 0; i < EACH; i++) {
        char line[64];
        snprintf(line, sizeof line, "writer %d line %06d", w->number, i);
        sink_write(w->sink, str_z(line));
        if (i % 1000 == 500)
            sink_reopen(w->sink);
    }
    return NULL;
}

/* Many threads: every line comes once and whole. */
static void test_threads(void **state)
{
    struct place *p = *state;
    struct buf got BUF_CLEANUP = BUF_INIT(8u << 20);
    pthread_t thread[WRITERS];
    struct writer w[WRITERS];
    struct sink *s = open_sink(p->path);
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){s, i};
        assert_int_equal(pthread_create(&thread[i], NULL, write_many, &w[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(thread[i], NULL);
    sink_close(s);
    read_all(p->path, &got);
    const size_t n = strlen("writer 0 line 000000") + 1;
    int next[WRITERS] = {0};
    assert_int_equal(got.n, n * WRITERS * EACH);
    for (size_t i = 0; i < got.n; i += n) {
        const int number = got.p[i + 7] - '0';
        assert_true(number >= 0 && number < WRITERS && got.p[i + n - 1] == '\n');
        assert_int_equal(strtol(got.p + i + 14, NULL, 10), next[number]++);
    }
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_little_is_known),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_one_after_another),
        CASE(test_file),
        CASE(test_a_path_that_cannot_be),
        CASE(test_recent),
        CASE(test_reopen),
        CASE(test_a_stalled_fifo),
        CASE(test_reopen_inside_a_line),
        CASE(test_the_longest_line),
        CASE(test_closing_a_stalled_sink),
        CASE(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
