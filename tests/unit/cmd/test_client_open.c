/* What a client believes, by replies that other implementations made. */
#include "client_fixture.h"

#include "base/limits.h"

#define VECTORS TEST_ROOT "/cases/vectors/"
static const char *const REPLIES[] = {VECTORS "reply-santuario.xml", VECTORS "reply-xml-crypto.xml"};

static void opened(const struct client *c, const char *file, const struct client_expect *expect, struct client_got *got)
{
    struct buf text BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    assert_true(client_read(file, &text));
    client_open(c, buf_view(&text), expect, got);
}

static void others_replies(void **state)
{
    struct files *f = *state;
    for (size_t i = 0; i < sizeof REPLIES / sizeof *REPLIES; i++) {
        struct client c;
        struct client_got got;
        hush(f);
        assert_true(client_load(&c, ALICE, VECTORS "keys.jsonl"));
        opened(&c, REPLIES[i], &(struct client_expect){.why_not = "nobody asked"}, &got);
        assert_true(told(f, ""));
        assert_int_equal(got.result, CLIENT_OPENED);
        assert_int_equal(got.message, KMS_MESSAGE_KEYPROV);
        assert_true(got.sets == 3 && got.proven == 0);
        assert_non_null(strstr(got.head.p, "signed by ink.1.alice"));
        assert_non_null(strstr(got.lines.p, "not proven: nobody asked"));
        client_got_free(&got);
        client_free(&c);
    }
}

/* One thing differs from the reply above, which is believed. */
static void not_believed(void **state)
{
    static const struct {
        const char *user, *url, *told;
        bool by_trk;
        int64_t now_us;
    } CASES[] = {
        {BOB, NULL, "by `ink.1.alice`", false, 0},
        {ALICE, NULL, "by `ink.1.alice`", true, 0},
        {ALICE, "http://127.0.0.1:8083/keymanagement/identity/v1/init", "the reply answers", false, 0},
        {ALICE, NULL, "which is not now", false, INT64_C(1795464412) * US_PER_S + 31 * US_PER_S},
        {ALICE, NULL, "which is not now", false, INT64_C(1795464412) * US_PER_S - 31 * US_PER_S},
        {ALICE, NULL, NULL, false, INT64_C(1795464412) * US_PER_S + 30 * US_PER_S},
        {ALICE, "http://127.0.0.1:8083/keymanagement/identity/v1/keyprov", NULL, false, 0},
    };
    struct files *f = *state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct client c;
        struct client_got got;
        hush(f);
        assert_true(client_load(&c, CASES[i].user, VECTORS "keys.jsonl"));
        const struct key_entry *trk = NULL;
        for (size_t k = 0; k < c.file.n; k++)
            if (c.file.v[k].type == KEY_TRK && str_eq_z(c.file.v[k].user, ALICE))
                trk = &c.file.v[k];
        opened(&c, REPLIES[0],
               &(struct client_expect){.signer = CASES[i].by_trk ? trk : NULL, .url = str_z(CASES[i].url),
                                       .now_us = CASES[i].now_us, .why_not = ""}, &got);
        assert_true(told(f, CASES[i].told ? CASES[i].told : ""));
        assert_int_equal(got.result, CASES[i].told ? CLIENT_BROKEN : CLIENT_OPENED);
        assert_true(!CASES[i].told || got.head.n == 0);
        client_got_free(&got);
        client_free(&c);
    }
}

/* Whatever octet is changed: what is still opened says the very same. */
static void every_octet(void **state)
{
    struct files *f = *state;
    struct buf text BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    struct client c;
    struct client_got whole, got;
    size_t believed = 0;
    hush(f);
    assert_true(client_load(&c, ALICE, VECTORS "keys.jsonl"));
    assert_true(client_read(REPLIES[1], &text));
    const struct client_expect expect = {.with_secrets = true, .why_not = ""};
    client_open(&c, buf_view(&text), &expect, &whole);
    bool same = whole.result == CLIENT_OPENED;
    for (size_t i = 0; i < text.n; i++) {
        const char was = text.p[i];
        text.p[i] = (char)(was ^ (1 << (i % 7)));
        client_open(&c, buf_view(&text), &expect, &got);
        if (got.result == CLIENT_OPENED) {
            believed++;
            same = same && str_eq(buf_view(&got.head), buf_view(&whole.head)) &&
                   str_eq(buf_view(&got.lines), buf_view(&whole.lines));
        }
        same = same && got.result != CLIENT_WRONG;
        client_got_free(&got);
        text.p[i] = was;
    }
    assert_true(told(f, "not"));
    assert_true(same);
    assert_true(believed < text.n / 50); /* white space in a base64 value, at most */
    client_got_free(&whole);
    client_free(&c);
}

static void truncated(void **state)
{
    struct files *f = *state;
    struct buf text BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    struct client c;
    bool none = true;
    hush(f);
    assert_true(client_load(&c, ALICE, VECTORS "keys.jsonl"));
    assert_true(client_read(REPLIES[0], &text));
    while (text.n && text.p[text.n - 1] != '>')
        text.n--;
    for (size_t n = 0; n < text.n; n += 7) {
        struct client_got got;
        client_open(&c, (struct str){text.p, n}, &(struct client_expect){.why_not = ""}, &got);
        none = none && got.result == CLIENT_BROKEN;
        client_got_free(&got);
    }
    assert_true(told(f, "not a KmsResponse"));
    assert_true(none);
    client_free(&c);
}

static void files(void **state)
{
    struct files *f = *state;
    struct buf some = BUF_INIT(10), none = BUF_INIT(10), folder = BUF_INIT(10);
    hush(f);
    assert_false(client_read(REPLIES[0], &some));
    assert_true(told(f, "is larger than 10 octets"));
    hush(f);
    assert_false(client_read("/nonexistent", &none));
    assert_true(told(f, "/nonexistent: cannot be read"));
    hush(f);
    assert_false(client_read("/", &folder));
    assert_true(told(f, "/: cannot be read"));
    buf_free(&some);
    buf_free(&none);
    buf_free(&folder);
}

/* A reply to keyprov holds no certificate. */
static void stored(void **state)
{
    struct files *f = *state;
    struct client c;
    struct proof_kms kms = {.known = false};
    hush(f);
    assert_true(client_load(&c, ALICE, VECTORS "keys.jsonl"));
    assert_false(client_stored_kms(&c, REPLIES[0], &kms));
    assert_true(told(f, "expected a reply to init"));
    assert_false(kms.known);
    proof_kms_free(&kms);
    client_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(others_replies, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(not_believed, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(every_octet, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(truncated, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(files, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(stored, files_setup, files_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
