#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/faults.h"
#include "base/reason.h"

/* Copied from what users are promised: a name or a status that changes breaks their alarms. */
static void the_promised_reasons(void **state)
{
    static const struct {
        const char *name;
        int status;
    } PROMISED[] = {
        {"ok", 200}, {"http.framing", 400}, {"http.path", 400}, {"http.resource", 404}, {"http.method", 405},
        {"http.media_type", 415}, {"http.too_large", 413}, {"http.timeout", 408}, {"http.version", 505},
        {"http.expect", 417}, {"http.busy", 503}, {"replay.full", 503}, {"replay.unavailable", 503},
        {"keys.unavailable", 503},
        {"rule.none", 403}, {"rule.form", 403}, {"rule.denied", 403},
        {"xml.malformed", 400}, {"xml.forbidden", 400}, {"xml.invalid", 400}, {"signature.missing", 403},
        {"signature.invalid", 403}, {"signature.profile", 403}, {"signature.reference", 403}, {"key.unknown", 403},
        {"key.policy", 403}, {"key.revoked", 403}, {"kms_uri.mismatch", 403}, {"time.stale", 403}, {"time.future", 403},
        {"time.zone", 403}, {"client_req_url.mismatch", 403}, {"path_user.mismatch", 403}, {"replay.seen", 403},
        {"upstream.unreachable", 502}, {"upstream.invalid", 502}, {"upstream.wrong_user", 502},
        {"upstream.timeout", 504}, {"upstream.error", 502}, {"protect.no_key", 500}, {"internal", 500},
    };
    (void)state;
    assert_int_equal(REASON_COUNT, sizeof PROMISED / sizeof *PROMISED);
    for (size_t i = 0; i < sizeof PROMISED / sizeof *PROMISED; i++) {
        enum reason r = REASON_COUNT;
        assert_true(reason_parse(str_z(PROMISED[i].name), &r));
        assert_string_equal(reason_name(r), PROMISED[i].name);
        if (reason_status(r) != PROMISED[i].status)
            fail_msg("%s: %d", PROMISED[i].name, reason_status(r));
    }
    static const char *const NONE[] = {"", "OK", "ok ", "http", "http.", "signature", "internal.x"};
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE; i++) {
        enum reason r = REASON_COUNT;
        assert_false(reason_parse(str_z(NONE[i]), &r));
        assert_int_equal(r, REASON_COUNT);
    }
    assert_false(reason_parse(STR_MISSING, &(enum reason){REASON_OK}));
}

static void details(void **state)
{
    struct detail d;
    char huge[1000];
    (void)state;
    detail_set(NULL, "%s", "nobody asks");
    detail_set(&d, "found %d, expected %s", 1, "two");
    assert_string_equal(d.text, "found 1, expected two");
    memset(huge, 'x', sizeof huge);
    huge[sizeof huge - 1] = '\0';
    detail_set(&d, "%s", huge);
    assert_int_equal(strlen(d.text), sizeof d.text - 1);
}

static void faults_and_lints(void **state)
{
    struct faults f = {0};
    char *text = NULL;
    size_t n = 0;
    (void)state;
    faults_add(&f, "a.yaml", 3, 7, "found `%s`", "x");
    faults_lint(&f, "a.yaml", 4, 0, "wide");
    faults_add(&f, "a.yaml", 0, 5, "empty");
    faults_add(&f, NULL, 3, 7, "no memory");
    faults_lint(&f, "a.pem", 0, 0, "old");
    assert_int_equal(f.n, 5);
    assert_int_equal(f.errors, 3);
    assert_false(f.v[0].lint);
    assert_true(f.v[1].lint);
    FILE *to = open_memstream(&text, &n);
    faults_print(&f, to);
    fclose(to);
    assert_string_equal(text, "a.yaml:3:7: found `x`\na.yaml:4: wide\nkmsgate: a.yaml: empty\nkmsgate: no memory\n"
                              "a.pem: old\n");
    free(text);
    to = open_memstream(&text, &n);
    faults_print_errors(&f, to);
    fclose(to);
    assert_string_equal(text, "a.yaml:3:7: found `x`\nkmsgate: a.yaml: empty\nkmsgate: no memory\n");
    free(text);
    faults_free(&f);
    assert_int_equal(f.n + f.errors, 0);
    faults_free(&f);
}

/* A text that is lost is still an error, and is told. */
static void an_error_is_never_lost(void **state)
{
    static char name[20000], huge[9000];
    struct faults f = {0};
    char *text = NULL;
    size_t n = 0;
    (void)state;
    memset(name, 'n', sizeof name - 1);
    memset(huge, 'm', sizeof huge - 1);
    faults_add(&f, name, 1, 1, "x");
    assert_int_equal(f.errors, 1);
    FILE *to = open_memstream(&text, &n);
    faults_print(&f, to);
    fclose(to);
    assert_true(n > 0);
    free(text);
    faults_add(&f, "f", 1, 1, "%s", huge); /* long ones are cut */
    assert_int_equal(f.errors, 2);
    assert_true(strlen(f.v[f.n - 1].text) > 4000 && strlen(f.v[f.n - 1].text) < sizeof huge);
    faults_free(&f);
    text = NULL;
    to = open_memstream(&text, &n);
    faults_print(&f, to);
    fclose(to);
    assert_int_equal(n, 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_promised_reasons), cmocka_unit_test(details),
                                       cmocka_unit_test(faults_and_lints), cmocka_unit_test(an_error_is_never_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
