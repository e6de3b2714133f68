#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "http/guard.h"

static const struct limits_config LIMITS = {
    .body = 64, .target = 40, .header = 60, .headers = 200, .header_count = 6};

#define HEAD "POST /a HTTP/1.1\r\nHost: h\r\n"
#define FULL "X: 012345678901234567890123456789012345678901234567890123456\r\n" /* as long as one may be */

static const struct {
    const char *in;
    enum guard_state state;
    int status;       /* refused */
    const char *body; /* done */
} CASES[] = {
    {HEAD "\r\n", GUARD_DONE, 0, ""},
    {"\r\n" HEAD "\r\n", GUARD_DONE, 0, ""},
    {"\r\n\r\n" HEAD "\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Content-Length: 3\r\n\r\nabc", GUARD_DONE, 0, "abc"},
    {HEAD "Content-Length: 64\r\n\r\n", GUARD_BODY, 0, NULL},
    {HEAD "Content-Length: 65\r\n\r\n", GUARD_REFUSED, 413, NULL},
    {HEAD "Content-Length: 99999999999999999999999\r\n\r\n", GUARD_REFUSED, 413, NULL},
    {HEAD "Content-Length: +3\r\n\r\nabc", GUARD_REFUSED, 400, NULL},
    {HEAD "Content-Length: 3, 3\r\n\r\nabc", GUARD_REFUSED, 400, NULL},
    {HEAD "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", GUARD_REFUSED, 400, NULL},
    {HEAD "Content-Length:\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Content-Length : 3\r\n\r\nabc", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", GUARD_DONE, 0, "abcd"},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nabcde\r\n0\r\n\r\n", GUARD_REFUSED, 413, NULL},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: Chunked\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST /a HTTP/1.0\r\nHost: h\r\n\r\n", GUARD_DONE, 0, ""},
    {"POST /a HTTP/2.0\r\nHost: h\r\n\r\n", GUARD_REFUSED, 505, NULL},
    {"POST /a HTTP/1.1 \r\nHost: h\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST  /a HTTP/1.1\r\nHost: h\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST /a\r\nHost: h\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", GUARD_DONE, 0, ""}, /* the target is judged after the method */
    {"POST /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: h\r\n\r\n", GUARD_REFUSED, 414, NULL},
    {"POST /a HTTP/1.1\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "Host: h\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {"POST /a HTTP/1.1\nHost: h\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\rb\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\r\n b\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD " X: a\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\x01\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\x1f\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\x7f\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: a\t~\x80\r\n\r\n", GUARD_DONE, 0, ""},
    {HEAD "no colon\r\n\r\n", GUARD_REFUSED, 400, NULL},
    {HEAD "X: 0123456789012345678901234567890123456789012345678901234567\r\n\r\n", GUARD_REFUSED, 431, NULL},
    {HEAD "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n\r\n", GUARD_DONE, 0, ""},
    {HEAD "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\nF: 1\r\n\r\n", GUARD_REFUSED, 431, NULL},
    {HEAD FULL FULL FULL "A: \r\n\r\n", GUARD_DONE, 0, ""}, /* 200 bytes of headers: the empty line is none */
    {HEAD FULL FULL FULL "A:  \r\n\r\n", GUARD_REFUSED, 431, NULL},
    {HEAD FULL FULL FULL "A:  \r\n", GUARD_REFUSED, 431, NULL},
    {HEAD "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx", GUARD_DONE, 0, "x"},
    {HEAD "Expect: tea\r\n\r\n", GUARD_REFUSED, 417, NULL},
};

static size_t feed(struct guard *g, const char *p, size_t n)
{
    size_t used = 0, step;
    do {
        step = guard_feed(g, p + used, n - used);
        used += step;
    } while (step && used < n && g->state != GUARD_DONE && g->state != GUARD_REFUSED);
    return used;
}

/* However the bytes are split, the outcome is the same. */
static void every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *in = CASES[i].in;
        const size_t n = strlen(in);
        for (size_t cut = 0; cut <= n; cut++) {
            struct guard g;
            guard_init(&g, &LIMITS);
            feed(&g, in, cut);
            if (g.state != GUARD_DONE && g.state != GUARD_REFUSED)
                feed(&g, in + cut, n - cut);
            if (g.state != CASES[i].state || g.status != CASES[i].status)
                fail_msg("case %zu cut at %zu: state %d status %d: %s", i, cut, (int)g.state, g.status, in);
            if (CASES[i].body)
                assert_true(str_eq_z(g.body.n ? buf_view(&g.body) : STR(""), CASES[i].body));
            guard_free(&g);
        }
    }
}

static void pipelined_requests_are_told_apart(void **state)
{
    (void)state;
    static const char TWO[] = HEAD "Content-Length: 2\r\n\r\nab" HEAD "\r\n";
    struct guard g;
    guard_init(&g, &LIMITS);
    const size_t used = feed(&g, TWO, sizeof TWO - 1);
    assert_int_equal(g.state, GUARD_DONE);
    assert_int_equal(used, sizeof HEAD "Content-Length: 2\r\n\r\nab" - 1);
    guard_next(&g);
    assert_int_equal(feed(&g, TWO + used, sizeof TWO - 1 - used), sizeof TWO - 1 - used);
    assert_int_equal(g.state, GUARD_DONE);
    assert_int_equal(g.body.n, 0);
    guard_free(&g);
}

static void a_nul_is_refused(void **state)
{
    (void)state;
    static const char IN[] = HEAD "X: a\0b\r\n\r\n";
    struct guard g;
    guard_init(&g, &LIMITS);
    feed(&g, IN, sizeof IN - 1);
    assert_int_equal(g.state, GUARD_REFUSED);
    assert_int_equal(g.status, 400);
    guard_free(&g);
}

/* A chunked body may be empty where no body fits: refused once its first chunk's size is more than nothing. */
static void a_body_where_none_fits(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        enum guard_state state;
        enum reason reason;
        int status;
    } BODIES[] = {
        {"0\r\n\r\n", GUARD_DONE, REASON_OK, 0},
        {"00\r\n\r\n", GUARD_DONE, REASON_OK, 0},
        {"0", GUARD_BODY, REASON_OK, 0},
        {"03", GUARD_REFUSED, REASON_HTTP_MEDIA_TYPE, 415},
        {"3\r\nabc\r\n0\r\n\r\n", GUARD_REFUSED, REASON_HTTP_MEDIA_TYPE, 415},
        {"41\r\n", GUARD_REFUSED, REASON_HTTP_MEDIA_TYPE, 415}, /* the type before the size */
        {"x\r\n", GUARD_REFUSED, REASON_HTTP_FRAMING, 400},
    };
    for (size_t i = 0; i < sizeof BODIES / sizeof *BODIES; i++) {
        struct guard g;
        guard_init(&g, &LIMITS);
        feed(&g, HEAD "Transfer-Encoding: chunked\r\n\r\n", sizeof HEAD "Transfer-Encoding: chunked\r\n\r\n" - 1);
        assert_int_equal(g.state, GUARD_BODY);
        g.only_empty = true;
        feed(&g, BODIES[i].in, strlen(BODIES[i].in));
        if (g.state != BODIES[i].state || g.status != BODIES[i].status)
            fail_msg("%s: state %d status %d", BODIES[i].in, (int)g.state, g.status);
        if (g.state == GUARD_REFUSED)
            assert_int_equal(g.reason, BODIES[i].reason);
        assert_int_equal(g.body.n, 0);
        guard_free(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_split),
        cmocka_unit_test(pipelined_requests_are_told_apart),
        cmocka_unit_test(a_nul_is_refused),
        cmocka_unit_test(a_body_where_none_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
