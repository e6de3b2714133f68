/* Key files, line by line: each bad line beside a good one that differs by one thing. */
#include "fixture.h"

#include "keys/keyfile.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"
#define GOOD "{\"user\":\"sip:alice@example.org\",\"type\":\"ink\",\"id\":\"ink.1.alice\",\"key\":\"" HEX "\"}"

static bool read_bytes(struct fixture *f, const char *text, size_t n, struct keyfile *out)
{
    int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, n), n);
    close(fd);
    return keyfile_read(f->path, out, &f->faults);
}

static bool read_text(struct fixture *f, const char *text, struct keyfile *out)
{
    return read_bytes(f, text, strlen(text), out);
}

static void good(void **state)
{
    struct fixture *f = *state;
    struct keyfile k;
    assert_true(read_text(f,
                          GOOD "\n"
                          " { \"key\" : \"" HEX "\", \"id\":\"trk.1\\u00e4\", \"type\":\"trk\", \"user\":\"sip:b\\/c\","
                          "\"state\":\"retiring\",\"not_after\":\"2027-01-01T00:00:00Z\"} \r\n"
                          "\n"
                          "{\"user\":\"sip:c\",\"type\":\"ink\",\"id\":\"i\",\"key\":\"" HEX "\",\"state\":\"revoked\","
                          "\"not_after\":\"2027-01-01T01:00:00.5+01:00\"}", &k));
    assert_int_equal(k.n, 3);
    assert_true(str_eq_z(k.v[0].user, ALICE) && str_eq_z(k.v[0].id, "ink.1.alice"));
    assert_true(k.v[0].type == KEY_INK && k.v[0].state == KEY_ACTIVE && k.v[0].not_after == TIME_NONE);
    assert_true(k.v[0].key.b[0] == 0x01 && k.v[0].key.b[31] == 0xef);
    assert_true(str_eq_z(k.v[1].user, "sip:b/c") && str_eq_z(k.v[1].id, "trk.1\xc3\xa4"));
    assert_true(k.v[1].type == KEY_TRK && k.v[1].state == KEY_RETIRING);
    assert_true(k.v[1].not_after == INT64_C(1798761600) * US_PER_S);
    assert_true(k.v[2].state == KEY_REVOKED && k.v[2].not_after == INT64_C(1798761600500000));
    assert_true(k.line[0] == 1 && k.line[1] == 2 && k.line[2] == 4);
    keyfile_free(&k);
    assert_true(read_text(f, "", &k) && k.n == 0);
    keyfile_free(&k);
    assert_true(read_text(f, "\n\n \n", &k) && k.n == 0);
    keyfile_free(&k);
}

/* The line after a good one is bad: a fault at line 2 that names the member, and no key text in it. */
static void bad_lines(void **state)
{
    struct fixture *f = *state;
#define LINE(user, type, id, key, rest) \
    "{\"user\":" user ",\"type\":" type ",\"id\":" id ",\"key\":" key rest "}"
#define U "\"sip:b\""
#define I "\"ink.1\""
#define K "\"" HEX "\""
    static const struct {
        const char *line, *reason; /* NULL: a good one */
    } cases[] = {
        {LINE(U, "\"ink\"", I, K, ""), NULL},
        {LINE(U, "\"trk\"", I, K, ""), NULL},
        {LINE(U, "\"INK\"", I, K, ""), "`type`"},
        {LINE(U, "\"\"", I, K, ""), "`type`"},
        {LINE(U, "1", I, K, ""), "`type`"},
        {LINE("\"\"", "\"ink\"", I, K, ""), "`user`"},
        {LINE("null", "\"ink\"", I, K, ""), "`user`"},
        {LINE(U, "\"ink\"", "\"\"", K, ""), "`id`"},
        {LINE(U, "\"ink\"", "[]", K, ""), "`id`"},
        {LINE(U, "\"ink\"", I, "\"\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDE\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "\"" HEX "0\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "\"" HEX "00\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEG\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "\" 123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF\"", ""), "`key`"},
        {LINE(U, "\"ink\"", I, "12", ""), "`key`"},
        {LINE(U, "\"ink\"", I, K, ",\"state\":\"active\""), NULL},
        {LINE(U, "\"ink\"", I, K, ",\"state\":\"expired\""), "`state`"},
        {LINE(U, "\"ink\"", I, K, ",\"state\":null"), "`state`"},
        {LINE(U, "\"ink\"", I, K, ",\"not_after\":\"2027-01-01T00:00:00-02:00\""), NULL},
        {LINE(U, "\"ink\"", I, K, ",\"not_after\":\"2027-01-01T00:00:00\""), "`not_after`"},
        {LINE(U, "\"ink\"", I, K, ",\"not_after\":\"2027-02-29T00:00:00Z\""), "`not_after`"},
        {LINE(U, "\"ink\"", I, K, ",\"not_after\":1798761600"), "`not_after`"},
        {LINE(U, "\"ink\"", I, K, ",\"State\":\"active\""), "unknown member"},
        {LINE(U, "\"ink\"", I, K, ",\"id\":\"ink.1\""), ":2:"},
        {LINE(U, "\"ink\"", I, K, "") "x", ":2:"},
        {LINE(U, "\"ink\"", I, K, "") " " LINE(U, "\"ink\"", "\"2\"", K, ""), ":2:"},
        {"{\"user\":" U ",\"type\":\"ink\",\"id\":" I "}", "`key` is missing"},
        {"{\"user\":" U ",\"type\":\"ink\",\"key\":" K "}", "`id` is missing"},
        {"{\"user\":" U ",\"id\":" I ",\"key\":" K "}", "`type` is missing"},
        {"{\"type\":\"ink\",\"id\":" I ",\"key\":" K "}", "`user` is missing"},
        {"[]", "JSON object"},
        {"\"" HEX "\"", "JSON object"},
        {"{}", "is missing"},
        {"{\"user\":" U ",\"type\":\"ink\",\"id\":" I ",\"key\":\"" HEX, ":2:"},
        {"\xef\xbb\xbf" LINE(U, "\"ink\"", I, K, ""), ":2:"},
        {LINE("\"sip:\xff\"", "\"ink\"", I, K, ""), ":2:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct keyfile k;
        char text[2048];
        snprintf(text, sizeof text, GOOD "\n%s\n" GOOD "\n", cases[i].line);
        bool ok = read_text(f, text, &k);
        if (ok != (cases[i].reason == NULL) || (!ok && !told(f, cases[i].reason)))
            fail_msg("%s", cases[i].line);
        assert_true(!ok || k.n == 3);
        for (size_t n = 0; n < f->faults.n; n++) {
            assert_null(strstr(f->faults.v[n].text, "0123456789"));
            assert_non_null(strstr(f->faults.v[n].text, ":2"));
            assert_int_equal(strncmp(f->faults.v[n].text, f->path, strlen(f->path)), 0);
        }
        forget_faults(f);
        keyfile_free(&k);
    }
}

static void all_faults_of_one_run(void **state)
{
    struct fixture *f = *state;
    struct keyfile k;
    assert_false(read_text(f, "{}\n" GOOD "\nno\n{\"user\":\"\",\"type\":\"x\",\"id\":\"i\",\"key\":\"0\"}\n", &k));
    assert_true(told(f, ":1") && told(f, ":3") && told(f, ":4") && told(f, "`user`") && told(f, "`type`") &&
                told(f, "`key`"));
    keyfile_free(&k);
}

static void sizes(void **state)
{
    struct fixture *f = *state;
    struct keyfile k;
    char *text = malloc(1 << 20);
    assert_non_null(text);
    for (int over = 0; over < 2; over++) { /* a user of KEY_TEXT_MAX bytes, and of one more */
        int n = snprintf(text, 1 << 20, "{\"user\":\"sip:%0*d\",\"type\":\"ink\",\"id\":\"i\",\"key\":\"" HEX "\"}\n",
                         KEY_TEXT_MAX - 4 + over, 7);
        assert_int_equal(read_bytes(f, text, (size_t)n, &k), !over);
        keyfile_free(&k);
        forget_faults(f);
    }
    memset(text, ' ', 1 << 20); /* a line without end, then a good one: told once */
    memcpy(text + (1 << 20) - sizeof GOOD - 1, "\n" GOOD "\n", sizeof GOOD + 1);
    assert_false(read_bytes(f, text, 1 << 20, &k));
    assert_int_equal(f->faults.n, 1);
    assert_true(told(f, "too long") && told(f, ":1"));
    keyfile_free(&k);
    forget_faults(f);
    size_t n = 0; /* more lines than fit into what is read at once */
    for (int i = 0; i < 2000; i++)
        n += (size_t)snprintf(text + n, (1 << 20) - n, "{\"user\":\"sip:%d\",\"type\":\"ink\",\"id\":\"i\",\"key\":\""
                              HEX "\"}\n", i);
    assert_true(read_bytes(f, text, n, &k));
    assert_int_equal(k.n, 2000);
    assert_true(str_eq_z(k.v[1999].user, "sip:1999") && str_eq_z(k.v[1999].id, "i") && k.line[1999] == 2000);
    keyfile_free(&k);
    memset(text, '}', 1000); /* faults without end */
    for (size_t i = 1; i < 1000; i += 2)
        text[i] = '\n';
    assert_false(read_bytes(f, text, 1000, &k));
    assert_true(f->faults.n >= 100 && f->faults.n < 110);
    keyfile_free(&k);
    free(text);
}

static void no_file(void **state)
{
    struct fixture *f = *state;
    struct keyfile k;
    assert_false(keyfile_read(f->path, &k, &f->faults));
    assert_true(told(f, "No such file"));
    keyfile_free(&k);
    assert_false(keyfile_read(f->folder, &k, &f->faults));
    assert_true(told(f, "directory"));
    keyfile_free(&k);
}

static void standard_input(void **state)
{
    struct fixture *f = *state;
    struct keyfile k;
    int saved = dup(STDIN_FILENO), ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], GOOD "\n{}\n", sizeof GOOD + 3), sizeof GOOD + 3);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
    assert_false(keyfile_read("-", &k, &f->faults));
    dup2(saved, STDIN_FILENO);
    close(saved);
    assert_true(told(f, "standard input:2"));
    assert_int_equal(k.n, 1);
    keyfile_free(&k);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {T(good), T(bad_lines), T(all_faults_of_one_run), T(sizes), T(no_file),
                                       T(standard_input)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
