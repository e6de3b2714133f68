#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"

static struct buf text;

/* The exposition; what the last test left is gone. */
static const char *exposed(void)
{
    buf_free(&text);
    text = BUF_INIT(1 << 20);
    metrics_write(&text);
    assert_false(text.failed);
    return text.p;
}

static int fresh(void **state)
{
    (void)state;
    metrics_free();
    buf_free(&text);
    return 0;
}

static bool has_line(const char *line)
{
    const size_t n = strlen(line);
    for (const char *at = exposed(); (at = strstr(at, line)); at++)
        if ((at == text.p || at[-1] == '\n') && at[n] == '\n')
            return true;
    return false;
}

/* The names that dashboards hold on to, copied from what is promised; each with its type and help, once, in groups. */
static void the_promised_names(void **state)
{
    static const char *const NAMES[] = {
        "kmsgate_requests_total counter", "kmsgate_check_failures_total counter", "kmsgate_phase_seconds histogram",
        "kmsgate_clock_skew_seconds histogram", "kmsgate_in_flight gauge", "kmsgate_connections gauge",
        "kmsgate_keys gauge", "kmsgate_keys_age_seconds gauge", "kmsgate_renewals_total counter",
        "kmsgate_replay_entries gauge", "kmsgate_replay_seconds histogram", "kmsgate_replay_errors_total counter",
        "kmsgate_clock_steps_total counter",
        "kmsgate_decisions_dropped_total counter",
        "kmsgate_captures_dropped_total counter",
        "kmsgate_rules_reloads_total counter", "kmsgate_config_reloads_total counter",
        "kmsgate_rules_info gauge", "kmsgate_limit gauge",
        "kmsgate_certificate_expiry_seconds gauge", "kmsgate_build_info gauge", "kmsgate_sandbox gauge",
        "kmsgate_tls_failures_total counter",
        "process_cpu_seconds_total counter", "process_start_time_seconds gauge",
        "process_resident_memory_bytes gauge", "process_virtual_memory_bytes gauge", "process_open_fds gauge",
        "process_max_fds gauge",
    };
    char line[120];
    (void)state;
    assert_int_equal(METRIC_COUNT, sizeof NAMES / sizeof *NAMES);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        snprintf(line, sizeof line, "# TYPE %s", NAMES[i]);
        assert_true(has_line(line));
        snprintf(line, sizeof line, "# HELP %.*s ", (int)strcspn(NAMES[i], " "), NAMES[i]);
        assert_non_null(strstr(text.p, line));
    }
    /* what needs no label is there from the start */
    assert_true(has_line("kmsgate_in_flight 0"));
    assert_true(has_line("kmsgate_connections 0"));
    assert_true(has_line("kmsgate_replay_entries 0"));
    assert_true(has_line("kmsgate_decisions_dropped_total 0"));
}

static void counters_and_gauges(void **state)
{
    (void)state;
    metric_add(METRIC_REQUESTS, "rule=\"a\"", 1);
    metric_add(METRIC_REQUESTS, "rule=\"a\"", 1);
    metric_add(METRIC_REQUESTS, "rule=\"b\"", 1);
    metric_add(METRIC_IN_FLIGHT, NULL, 3);
    metric_add(METRIC_IN_FLIGHT, NULL, -1);
    metric_set(METRIC_CERTIFICATE_EXPIRY, "file=\"f\"", 12345678);
    metric_set(METRIC_CONNECTIONS, NULL, 7);
    metric_set(METRIC_CONNECTIONS, NULL, 5);
    metric_set(METRIC_REPLAY_ENTRIES, NULL, 0.25);
    assert_true(has_line("kmsgate_requests_total{rule=\"a\"} 2"));
    assert_true(has_line("kmsgate_requests_total{rule=\"b\"} 1"));
    assert_true(has_line("kmsgate_in_flight 2"));
    assert_true(has_line("kmsgate_certificate_expiry_seconds{file=\"f\"} 12345678")); /* never 1.2e+07 */
    assert_true(has_line("kmsgate_connections 5"));
    assert_true(has_line("kmsgate_replay_entries 0.25"));
    assert_false(has_line("kmsgate_requests_total 0"));
}

static void info_is_replaced(void **state)
{
    (void)state;
    metric_info(METRIC_RULES_INFO, "hash=\"old\"");
    metric_set(METRIC_BUILD_INFO, "version=\"1\"", 1);
    assert_true(has_line("kmsgate_rules_info{hash=\"old\"} 1"));
    metric_info(METRIC_RULES_INFO, "hash=\"new\"");
    assert_false(has_line("kmsgate_rules_info{hash=\"old\"} 1"));
    assert_true(has_line("kmsgate_rules_info{hash=\"new\"} 1"));
    assert_true(has_line("kmsgate_build_info{version=\"1\"} 1"));
    metric_info(METRIC_RULES_INFO, NULL);
    assert_null(strstr(exposed(), "kmsgate_rules_info{"));
    metric_info(METRIC_RULES_INFO, "hash=\"old\"");
    assert_true(has_line("kmsgate_rules_info{hash=\"old\"} 1"));
}

static void histograms(void **state)
{
    static const double VALUES[] = {0, 0.0001, 0.00011, 0.5, 10, 10.5, 1e9};
    (void)state;
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++)
        metric_observe(METRIC_PHASE_SECONDS, "phase=\"judge\"", VALUES[i]);
    /* the bound itself is in it */
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"0.0001\"} 2"));
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"0.00025\"} 3"));
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"0.25\"} 3"));
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"0.5\"} 4"));
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"10\"} 5"));
    assert_true(has_line("kmsgate_phase_seconds_bucket{phase=\"judge\",le=\"+Inf\"} 7"));
    assert_true(has_line("kmsgate_phase_seconds_count{phase=\"judge\"} 7"));
    assert_non_null(strstr(exposed(), "kmsgate_phase_seconds_sum{phase=\"judge\"} 1000000021.00021\n"));
    metric_observe(METRIC_CLOCK_SKEW, NULL, -4000);
    metric_observe(METRIC_CLOCK_SKEW, NULL, 0);
    metric_observe(METRIC_CLOCK_SKEW, NULL, 4000);
    assert_true(has_line("kmsgate_clock_skew_seconds_bucket{le=\"-3600\"} 1"));
    assert_true(has_line("kmsgate_clock_skew_seconds_bucket{le=\"-0.5\"} 1"));
    assert_true(has_line("kmsgate_clock_skew_seconds_bucket{le=\"0\"} 2"));
    assert_true(has_line("kmsgate_clock_skew_seconds_bucket{le=\"3600\"} 2"));
    assert_true(has_line("kmsgate_clock_skew_seconds_bucket{le=\"+Inf\"} 3"));
    assert_true(has_line("kmsgate_clock_skew_seconds_sum 0"));
    assert_true(has_line("kmsgate_clock_skew_seconds_count 3"));
}

static void labels_are_escaped(void **state)
{
    static const struct {
        const char *value, *written;
    } CASES[] = {{"a", "x=\"a\""}, {"", "x=\"\""}, {"a\"b", "x=\"a\\\"b\""},
                 {"a\\", "x=\"a\\\\\""}, {"a\nb", "x=\"a\\nb\""},
                 {"\"} 1\nkmsgate_up 1", "x=\"\\\"} 1\\nkmsgate_up 1\""}, {"\xc3\xa4", "x=\"\xc3\xa4\""}};
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(100);
        metric_label(&b, "x", str_z(CASES[i].value));
        assert_string_equal(b.p, CASES[i].written);
    }
}

enum { THREADS = 8, ROUNDS = 20000, LABELS = 200 };

static void *works(void *number)
{
    char labels[32];
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(labels, sizeof labels, "rule=\"r%d\"", i % LABELS);
        metric_add(METRIC_REQUESTS, labels, 1);
        metric_add(METRIC_IN_FLIGHT, NULL, i % 2 ? -1 : 1);
        metric_observe(METRIC_PHASE_SECONDS, "phase=\"total\"", 0.25);
        if (i % 100 == 0)
            metric_info(METRIC_RULES_INFO, number);
    }
    return NULL;
}

/* Nothing is lost between threads, and one that reads meanwhile sees whole lines. */
static void threads(void **state)
{
    static char names[THREADS][24];
    pthread_t thread[THREADS];
    char line[80];
    (void)state;
    for (int i = 0; i < THREADS; i++) {
        snprintf(names[i], sizeof names[i], "hash=\"%d\"", i);
        assert_int_equal(pthread_create(&thread[i], NULL, works, names[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        const char *p = exposed();
        assert_int_equal(p[text.n - 1], '\n');
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < LABELS; i++) {
        snprintf(line, sizeof line, "kmsgate_requests_total{rule=\"r%d\"} %d", i, THREADS * ROUNDS / LABELS);
        assert_true(has_line(line));
    }
    assert_true(has_line("kmsgate_in_flight 0"));
    snprintf(line, sizeof line, "kmsgate_phase_seconds_count{phase=\"total\"} %d", THREADS * ROUNDS);
    assert_true(has_line(line));
    snprintf(line, sizeof line, "kmsgate_phase_seconds_sum{phase=\"total\"} %d", THREADS * ROUNDS / 4);
    assert_true(has_line(line));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_promised_names, fresh), cmocka_unit_test_setup(counters_and_gauges, fresh),
        cmocka_unit_test_setup(info_is_replaced, fresh),    cmocka_unit_test_setup(histograms, fresh),
        cmocka_unit_test_setup(labels_are_escaped, fresh), cmocka_unit_test_setup_teardown(threads, fresh, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
