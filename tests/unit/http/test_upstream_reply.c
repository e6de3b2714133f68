#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "http/upstream_reply.h"

enum { MAX = 64 };

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"
#define B64 "0123456789012345678901234567890123456789012345678901234567890123" /* as long as a body may be */

/* How a reply ends: by itself (DONE), refused, or not yet; END: when the upstream closes. */
enum due { DONE, REFUSED, OPEN, END };
static const struct {
    const char *in;
    enum due due;
    const char *text; /* the body, or why */
    bool keeps;
} CASES[] = {
    {OK "Content-Length: 3\r\n\r\nabc", DONE, "abc", true},
    {OK "content-length:3\r\n\r\nabc", DONE, "abc", true},
    {OK "Content-Length: 0\r\n\r\n", DONE, "", true},
    {OK "Content-Length: 4\r\n\r\nabc", OPEN, NULL, false},
    {OK "Content-Length: 64\r\n\r\n" B64, DONE, B64, true},
    {OK "Content-Length: 65\r\n\r\n", REFUSED, "max_reply", false},
    {OK "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", REFUSED, "more than one Content-Length", false},
    {OK "Content-Length: 3\r\nX: y\r\ncontent-LENGTH: 4\r\n\r\nabc", REFUSED, "more than one Content-Length", false},
    {OK "Content-Length: 3, 3\r\n\r\nabc", REFUSED, "not a number", false},
    {OK "Content-Length: +3\r\n\r\nabc", REFUSED, "not a number", false},
    {OK "Content-Length: -3\r\n\r\nabc", REFUSED, "not a number", false},
    {OK "Content-Length: 0x3\r\n\r\nabc", REFUSED, "not a number", false},
    {OK "Content-Length: 3 3\r\n\r\nabc", REFUSED, "not a number", false},
    {OK "Content-Length:\r\n\r\n", REFUSED, "not a number", false},
    {OK "Content-Length: 99999999999999999999999\r\n\r\n", REFUSED, "max_reply", false},
    {OK "Content-Length : 3\r\n\r\nabc", REFUSED, "without a name", false},
    {OK "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED, "both", false},
    {OK "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", REFUSED, "both", false},
    {CHUNKED "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", DONE, "abcd", true},
    {CHUNKED "0000000A\r\n0123456789\r\n0\r\n\r\n", DONE, "0123456789", true},
    {CHUNKED "a\r\n0123456789\r\nf\r\n0123456789abcde\r\n0\r\n\r\n", DONE, "01234567890123456789abcde", true},
    {CHUNKED "A\r\n0123456789\r\nF\r\n0123456789abcde\r\n0\r\n\r\n", DONE, "01234567890123456789abcde", true},
    {CHUNKED "00000000A\r\n0123456789\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "0\r\n\r\n", DONE, "", true},
    {CHUNKED "0\r\nX: y\r\nContent-Length: 7\r\n\r\n", DONE, "", true},
    {CHUNKED "0\r\nX y\r\n\r\n", REFUSED, "without a name", false},
    {CHUNKED "0\r\n X: y\r\n\r\n", REFUSED, "folded", false},
    {CHUNKED "40\r\n" B64 "\r\n0\r\n\r\n", DONE, B64, true},
    {CHUNKED "41\r\n", REFUSED, "max_reply", false},
    {CHUNKED "3\r\nabc\r\n3e\r\n", REFUSED, "max_reply", false},
    {CHUNKED "10000000000000005\r\n", REFUSED, "max_reply", false},
    {CHUNKED "3;a=b\r\nabc\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "3 \r\nabc\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "3\nabc\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "3\r\nabcd\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "\r\nabc\r\n0\r\n\r\n", REFUSED, "chunk", false},
    {CHUNKED "g\r\n", REFUSED, "chunk", false},
    {CHUNKED "G\r\n", REFUSED, "chunk", false},
    {CHUNKED "`\r\n", REFUSED, "chunk", false},
    {CHUNKED "@\r\n", REFUSED, "chunk", false},
    {CHUNKED "3\r\nabc\r\n", OPEN, NULL, false},
    {CHUNKED "3\r\nabc\r\n0\r\n", OPEN, NULL, false},
    {OK "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", DONE, "", true},
    {OK "Transfer-Encoding: gzip, chunked\r\n\r\n", REFUSED, "Transfer-Encoding", false},
    {OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED, "Transfer-Encoding", false},
    {OK "Transfer-Encoding:\r\n\r\n", REFUSED, "Transfer-Encoding", false},
    {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED, "HTTP/1.0", false},
    {OK "\r\nuntil it closes", END, "until it closes", false},
    {"HTTP/1.0 200 OK\r\n\r\nuntil it closes", END, "until it closes", false},
    {"HTTP/1.0 200 OK\r\n\r\n" B64 "4", REFUSED, "max_reply", false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", DONE, "abc", false},
    {"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\nabc", DONE, "abc", true},
    {OK "Connection: x, CLOSE\r\nContent-Length: 3\r\n\r\nabc", DONE, "abc", false},
    {OK "Keep-Alive: timeout=5, max=0\r\nContent-Length: 0\r\n\r\n", DONE, "", false},
    {OK "Keep-Alive: timeout=5, max=1\r\nContent-Length: 0\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 204 No Content\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", REFUSED, "status allows none", false},
    {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED, "status allows none", false},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", DONE, "", false},
    {"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 3\r\n\r\nabc", DONE, "abc", true},
    {"HTTP/1.1 103 Early\r\nConnection: close\r\n\r\n" OK "Content-Length: 0\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 100 Continue\r\n\r\n", OPEN, NULL, false},
    {"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", REFUSED, "status allows none", false},
    {"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED, "status allows none", false},
    {"HTTP/1.1 101 Switching\r\n\r\n", REFUSED, "protocol", false},
    {"HTTP/1.1 102 Processing\r\n\r\n", REFUSED, "1xx", false},
    {"HTTP/1.1 199 X\r\n\r\n", REFUSED, "1xx", false},
    {"HTTP/1.1 099 X\r\n\r\n", REFUSED, "status", false},
    {"HTTP/1.1 600 X\r\n\r\n", REFUSED, "status", false},
    {"HTTP/1.1 20 OK\r\n\r\n", REFUSED, "status", false},
    {"HTTP/1.1 2000 OK\r\n\r\n", REFUSED, "status line", false},
    {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", DONE, "", true},
    {"HTTP/1.1 200 A\x01\r\n\r\n", REFUSED, "status line", false},
    {"HTTP/1.1  200 OK\r\n\r\n", REFUSED, "three digits", false},
    {"HTTP/1.2 200 OK\r\n\r\n", REFUSED, "does not begin", false},
    {"HTTP/2 200 OK\r\n\r\n", REFUSED, "does not begin", false},
    {"http/1.1 200 OK\r\n\r\n", REFUSED, "does not begin", false},
    {"\r\n" OK "Content-Length: 0\r\n\r\n", REFUSED, "does not begin", false},
    {"SSH-2.0", REFUSED, "does not begin", false},
    {"HTTP", OPEN, NULL, false},
    {"", OPEN, NULL, false},
    {"HTTP/1.1 200 OK\nContent-Length: 0\n\n", REFUSED, "without CR", false},
    {OK "Content-Length: 0\n\r\n", REFUSED, "without CR", false},
    {OK "X: a\rb\r\nContent-Length: 0\r\n\r\n", REFUSED, "bare CR", false},
    {OK "X: a\r\r\nContent-Length: 0\r\n\r\n", REFUSED, "bare CR", false},
    {OK "X: a\r\n b\r\nContent-Length: 0\r\n\r\n", REFUSED, "folded", false},
    {OK "X: a\r\n\tb\r\nContent-Length: 0\r\n\r\n", REFUSED, "folded", false},
    {OK "no colon\r\n\r\n", REFUSED, "without a name", false},
    {OK ": x\r\n\r\n", REFUSED, "without a name", false},
    {OK "X\x01: x\r\n\r\n", REFUSED, "without a name", false},
    {OK "Content-Length: 3\x01\r\n\r\nabc", REFUSED, "control character", false},
    {OK "X: \x01\r\nContent-Length: 0\r\n\r\n", DONE, "", true}, /* no danger to the frame */
    {OK "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", REFUSED, "Content-Encoding", false},
    {OK "Content-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", DONE, "abc", true},
    {"HTTP/1.1 404 X\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", DONE, "abc", true},
};

static void feed(struct reply_reader *r, const char *p, size_t n)
{
    const size_t used = reply_feed(r, p, n);
    assert_true(used <= n);
    if (r->state != REPLY_DONE && r->state != REPLY_REFUSED)
        assert_int_equal(used, n);
}

static void check(const struct reply_reader *r, size_t i, size_t cut)
{
    const enum due due = CASES[i].due;
    const enum reply_state state = due == REFUSED || due == OPEN ? REPLY_REFUSED : REPLY_DONE;
    if (r->state != state || reply_keeps(r) != CASES[i].keeps)
        fail_msg("case %zu cut at %zu: state %d (%s), keeps %d: %s", i, cut, (int)r->state, r->why ? r->why : "",
                 reply_keeps(r), CASES[i].in);
    if (due == REFUSED && !strstr(r->why, CASES[i].text))
        fail_msg("case %zu cut at %zu: %s: %s", i, cut, r->why, CASES[i].in);
    if (due == DONE || due == END)
        assert_true(str_eq_z(r->body.n ? buf_view(&r->body) : STR(""), CASES[i].text));
}

/* However the bytes are split, the outcome is the same; one reader reads them all, each from the start. */
static void every_split(void **state)
{
    (void)state;
    struct reply_reader r = {.state = REPLY_STATUS};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const size_t n = strlen(CASES[i].in);
        for (size_t cut = 0; cut <= n; cut++) {
            reply_begin(&r, MAX);
            feed(&r, CASES[i].in, cut);
            if (r.state != REPLY_DONE && r.state != REPLY_REFUSED)
                feed(&r, CASES[i].in + cut, n - cut);
            const bool open = r.state != REPLY_DONE && r.state != REPLY_REFUSED;
            assert_int_equal(open, CASES[i].due == OPEN || CASES[i].due == END);
            reply_end(&r);
            check(&r, i, cut);
        }
    }
    reply_free(&r);
}

static void a_nul_is_refused(void **state)
{
    (void)state;
    static const char IN[] = OK "X: a\0b\r\nContent-Length: 0\r\n\r\n", IN2[] = "HTTP/1.1 200 \0\r\n\r\n";
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, MAX);
    feed(&r, IN, sizeof IN - 1);
    assert_int_equal(r.state, REPLY_REFUSED);
    reply_begin(&r, MAX);
    feed(&r, IN2, sizeof IN2 - 1);
    assert_int_equal(r.state, REPLY_REFUSED);
    reply_free(&r);
}

static void what_follows_is_not_taken(void **state)
{
    (void)state;
    static const char TWO[] = OK "Content-Length: 2\r\n\r\nab" OK "Content-Length: 2\r\n\r\ncd";
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, MAX);
    assert_int_equal(reply_feed(&r, TWO, sizeof TWO - 1), sizeof OK "Content-Length: 2\r\n\r\nab" - 1);
    assert_int_equal(r.state, REPLY_DONE);
    assert_true(str_eq_z(buf_view(&r.body), "ab"));
    reply_free(&r);
}

static void heads_have_an_end(void **state)
{
    (void)state;
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, MAX);
    feed(&r, OK, sizeof OK - 1);
    static const char LINE[] = "X: 0123456789\r\n";
    size_t n = sizeof OK - 1;
    for (; r.state == REPLY_FIELDS; n += sizeof LINE - 1)
        feed(&r, LINE, sizeof LINE - 1);
    assert_int_equal(r.state, REPLY_REFUSED);
    assert_true(n > REPLY_HEADS && n - (sizeof LINE - 1) <= REPLY_HEADS);
    reply_begin(&r, MAX); /* one line without an end, and interim heads without one */
    for (n = 0; r.state == REPLY_STATUS; n++)
        feed(&r, n < 9 ? &"HTTP/1.1 "[n] : "2", 1);
    assert_int_equal(n, REPLY_HEADS + 1);
    reply_begin(&r, MAX);
    static const char CONTINUE[] = "HTTP/1.1 100 Continue\r\n\r\n";
    for (n = 0; r.state != REPLY_REFUSED; n += sizeof CONTINUE - 1)
        feed(&r, CONTINUE, sizeof CONTINUE - 1);
    assert_true(n <= REPLY_HEADS + 2 * (sizeof CONTINUE - 1));
    reply_free(&r);
}

static void what_is_kept_of_a_head(void **state)
{
    (void)state;
    static const char IN[] = "HTTP/1.1 103 Early\r\nRetry-After: 1\r\nKeep-Alive: timeout=1\r\n\r\n"
                             "HTTP/1.1 503 Busy\r\nretry-after:  7 \r\nRetry-After: 8\r\nWWW-Authenticate: B\xe9\r\n"
                             "WWW-Authenticate: Bearer x\r\nKeep-Alive: foo, TIMEOUT=20 , max=3, timeout=x\r\n"
                             "Content-Length: 0\r\n\r\n";
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, MAX);
    assert_true(r.keep_seconds == UINT64_MAX);
    feed(&r, IN, sizeof IN - 1);
    assert_int_equal(r.state, REPLY_DONE);
    assert_int_equal(r.status, 503);
    assert_string_equal(r.retry_after, "7");
    assert_string_equal(r.www_authenticate, "Bearer x");
    assert_int_equal(r.keep_seconds, 20);
    reply_free(&r);
}

/* What a body was is gone once its reader begins anew. */
static void a_body_is_wiped(void **state)
{
    (void)state;
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, MAX);
    feed(&r, OK "Content-Length: 6\r\n\r\nsecret", sizeof OK "Content-Length: 6\r\n\r\nsecret" - 1);
    const char *where = r.body.p;
    assert_memory_equal(where, "secret", 6);
    reply_begin(&r, MAX);
    assert_ptr_equal(r.body.p, where);
    assert_memory_equal(where, "\0\0\0\0\0\0", 6);
    reply_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_split),
        cmocka_unit_test(a_nul_is_refused),
        cmocka_unit_test(what_follows_is_not_taken),
        cmocka_unit_test(heads_have_an_end),
        cmocka_unit_test(what_is_kept_of_a_head),
        cmocka_unit_test(a_body_is_wiped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
