#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/uri.h"

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void escapes(void **state)
{
    static const struct {
        const char *bad, *good, *decoded;
    } CASES[] = {
        {"a%", "a", "a"},          {"a%4", "a%41", "aA"},        {"%zz", "%7a", "z"},  {"%4g", "%4f", "O"},
        {"%00", "%20", " "},       {"%1f", "%2F", "/"},          {"%7f", "%7e", "~"},  {"%%41", "%25%41", "%A"},
        {"%0a", "%C3%A4", "\xc3\xa4"}, {"% 41", " %41", " A"},   {"%0d%0aX: y", "", ""}, {"%-1", "%2d1", "-1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(100), c BUF_CLEANUP = BUF_INIT(100);
        assert_false(uri_percent_decode(str_z(CASES[i].bad), &b));
        assert_true(uri_percent_decode(str_z(CASES[i].good), &c));
        assert_true(str_eq_z(buf_view(&c), CASES[i].decoded));
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        struct buf b BUF_CLEANUP = BUF_INIT(100);
        snprintf(text, sizeof text, byte % 2 ? "%%%02x" : "%%%02X", byte);
        const bool control = byte < 0x20 || byte == 0x7f;
        assert_int_equal(uri_percent_decode(str_z(text), &b), !control);
        assert_true(control || (b.n == 1 && (unsigned char)b.p[0] == byte));
    }
    struct buf small BUF_CLEANUP = BUF_INIT(2);
    assert_true(uri_percent_decode(STR("%41%42"), &small));
    buf_reset(&small);
    assert_false(uri_percent_decode(STR("%41%42%43"), &small)); /* no room */
}

static void any_uri(void **state)
{
    (void)state;
    for (int c = 1; c < 256; c++) {
        const char text[] = {'s', (char)c, 0};
        const bool good = c > 0x20 && c < 0x7f && !strchr("<>\"{}|\\^`", c);
        assert_int_equal(uri_is_any_uri(str_z(text)), good);
    }
    assert_true(uri_is_any_uri(STR("sip:\xc3\xa4@example.org")));
    assert_false(uri_is_any_uri(STR("sip:\xc3@example.org")));
    assert_false(uri_is_any_uri(STR("")));
    assert_false(uri_is_any_uri(STR_MISSING));
    assert_false(uri_is_any_uri((struct str){"a\0", 2}));
}

static bool normal(const char *text, char out[256])
{
    struct buf b BUF_CLEANUP = BUF_INIT(255);
    if (!uri_normalize(str_z(text), &b))
        return false;
    snprintf(out, 256, "%.*s", STR_FMT(buf_view(&b)));
    return true;
}

/* Three columns: what equals the first, and what must not. */
static void one_form_for_equals(void **state)
{
    static const struct {
        const char *one, *equal, *other;
    } CASES[] = {
        {"http://h/", "HTTP://H/", "https://h/"},
        {"http://h/", "http://h", "http://h/x"},
        {"http://h/", "http://h:80/", "http://h:443/"},
        {"https://h/", "https://h:443", "https://h:80/"},
        {"https://h/", "https://h:0443/", "https://h:4430/"},
        {"https://h/", "https://h:/", "https://h:1/"},
        {"https://h/", "https://h./", "https://h.x/"},
        {"https://h/a", "https://h/%61", "https://h/A"},
        {"https://h/%2F", "https://h/%2f", "https://h//"},
        {"https://h/%3A", "https://h/%3a", "https://h/:"},
        {"https://h/~u", "https://h/%7Eu", "https://h/%7Fu"},
        {"https://h/b", "https://h/a/../b", "https://h/a/b"},
        {"https://h/b", "https://h/a/%2E%2e/b", "https://h/a/%2E%2E%2Fb"},
        {"https://h/b", "https://h/./b", "https://h/.b"},
        {"https://h/b", "https://h/../../b", "https://h/..b"},
        {"https://h/a/", "https://h/a/.", "https://h/a"},
        {"https://h/", "https://h/a/..", "https://h/a"},
        {"https://h/a/b", "https://h/a//../b", "https://h/b"},
        {"https://h/a//b", "https://h/a//./b", "https://h/a/b"},
        {"https://h/?a=%2F", "https://h?a=%2f", "https://h/?a=/"},
        {"https://h/?a=../b", "https://h/?%61=%2e%2E/b", "https://h/?b"},
        {"https://h/?", "https://h?", "https://h/"},
        {"https://[::1]/", "https://[::1]:443/", "https://[::2]/"},
        {"https://[2001:db8::a]:8443/", "https://[2001:DB8::A]:8443/", "https://[2001:db8::a]/"},
    };
    char one[256], equal[256], other[256];
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_true(normal(CASES[i].one, one));
        assert_true(normal(CASES[i].equal, equal));
        assert_true(!normal(CASES[i].other, other) || strcmp(one, other) != 0);
        assert_string_equal(one, equal);
        assert_string_equal(one, CASES[i].one); /* the first column is normal already */
    }
}

static void no_url(void **state)
{
    static const struct {
        const char *bad, *good;
    } CASES[] = {
        {"", "http://h"},
        {"//h/", "http://h/"},
        {"h/", "http://h/"},
        {"ftp://h/", "https://h/"},
        {"http:/h/", "http://h/"},
        {"http://", "http://h"},
        {"http:///p", "http://h/p"},
        {"http://:80/", "http://h:80/"},
        {"http://./", "http://h./"},
        {"http://u@h/", "http://h/u@h"},
        {"http://u:p@h/", "http://h/u:p@h"},
        {"http://h/#", "http://h/"},
        {"http://h/?q#f", "http://h/?q"},
        {"http://h#f", "http://h"},
        {"http://h:65536/", "http://h:65535/"},
        {"http://h:-1/", "http://h:1/"},
        {"http://h:80a/", "http://h:80/a"},
        {"http://h:1:2/", "http://h:12/"},
        {"http://[::1/", "http://[::1]/"},
        {"http://[::1]x/", "http://[::1]/x"},
        {"http://%68/", "http://h/%68"},
        {"http://h/%", "http://h/%25"},
        {"http://h/%4", "http://h/%41"},
        {"http://h/?%g0", "http://h/?%70"},
        {"http://h/ x", "http://h/%20x"},
        {"http://h/\\x", "http://h/x"},
        {"http://h/\xff", "http://h/\xc3\xbf"},
        {"http://h\t/", "http://h/"},
    };
    char out[256];
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        if (normal(CASES[i].bad, out))
            fail_msg("`%s` is taken for `%s`", CASES[i].bad, out);
        if (!normal(CASES[i].good, out))
            fail_msg("`%s` is refused", CASES[i].good);
    }
    struct buf b BUF_CLEANUP = BUF_INIT(9);
    assert_false(uri_normalize(STR("http://hh/"), &b)); /* no room */
    buf_reset(&b);
    assert_true(uri_normalize(STR("http://h/"), &b));
    assert_false(uri_normalize(STR_MISSING, &b));
}

/* RFC 3986, 5.2.4, step by step, on strings. */
static void dots_by_the_book(const char *path, char out[128])
{
    char input[128];
    snprintf(input, sizeof input, "%s", path);
    out[0] = '\0';
    while (*input) {
        char *slash;
        const bool up = strncmp(input, "/../", 4) == 0 || strcmp(input, "/..") == 0;
        if (strncmp(input, "/./", 3) == 0) { /* B */
            memmove(input, input + 2, strlen(input + 2) + 1);
        } else if (strcmp(input, "/.") == 0) {
            memcpy(input, "/", 2);
        } else if (up) { /* C */
            if (input[3])
                memmove(input, input + 3, strlen(input + 3) + 1);
            else
                memcpy(input, "/", 2);
            slash = strrchr(out, '/');
            *(slash ? slash : out) = '\0';
        } else { /* E */
            slash = strchr(input + 1, '/');
            const size_t n = slash ? (size_t)(slash - input) : strlen(input);
            strncat(out, input, n);
            memmove(input, input + n, strlen(input + n) + 1);
        }
    }
}

static void dots_as_the_book_says(void **state)
{
    static const char *const PIECES[] = {"/", "/.", "/..", "/a", "/...", "/.b", "/b.", "/bb"};
    uint32_t seed = 8;
    (void)state;
    for (int round = 0; round < 100000; round++) {
        char path[100] = "/", url[128], wanted[128], ours[256], again[256];
        path[0] = '\0';
        for (size_t i = 0, n = 1 + dice(&seed) % 8; i < n; i++)
            strncat(path, PIECES[dice(&seed) % 8], sizeof path - strlen(path) - 1);
        snprintf(url, sizeof url, "http://h%s", path);
        dots_by_the_book(path, wanted);
        assert_true(normal(url, ours));
        if (strcmp(ours + strlen("http://h"), wanted) != 0)
            fail_msg("%s: %s instead of %s", path, ours, wanted);
        assert_true(normal(ours, again));
        assert_string_equal(ours, again);
    }
}

/* A normal form is its own normal form, whatever it was made of. */
static void normal_twice_is_normal(void **state)
{
    static const char *const PIECES[] = {"/", ".",   "..", "%2e", "%2F", "a", "B", "%7e", "%e4", ":", "80",
                                         "?", "%3F", "[",  "]",   "-",   "@", "#", "%",   "=",   "&", "\xc3\xa4"};
    uint32_t seed = 9;
    unsigned good = 0;
    (void)state;
    for (int round = 0; round < 200000; round++) {
        char url[128] = "http://h", once[256], twice[256];
        if (dice(&seed) % 4)
            strncat(url, "/", 2);
        for (size_t i = 0, n = dice(&seed) % 8; i < n; i++)
            strncat(url, PIECES[dice(&seed) % (sizeof PIECES / sizeof *PIECES)], 8);
        if (!normal(url, once))
            continue;
        good++;
        if (!normal(once, twice) || strcmp(once, twice) != 0)
            fail_msg("%s: %s, then %s", url, once, twice);
    }
    assert_true(good > 20000);
}

static void hosts(void **state)
{
    static const struct {
        const char *uri, *host;
    } CASES[] = {
        {"kms.example.org", "kms.example.org"},
        {"kms.example.org:8443", "kms.example.org"},
        {"https://kms.example.org:8443/x?y", "kms.example.org"},
        {"sip://KMS.example.org", "KMS.example.org"},
        {"[::1]:80", "[::1]"},
        {"http://[2001:db8::1]/", "[2001:db8::1]"},
        {"kms.example.org/path://x", "kms.example.org"},
        {"kms.example.org?x://y", "kms.example.org"},
        {"h:", "h"},
        {"", NULL},
        {"http://", NULL},
        {"http:///x", NULL},
        {":80", NULL},
        {"h:http", NULL},
        {"user@h", NULL},
        {"http://user@h", NULL},
        {"http://u:p@h", NULL},
        {"[::1", NULL},
        {"[::1]x", NULL},
        {"h:99999", NULL},
        {"%68", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct str host = uri_host(str_z(CASES[i].uri));
        if (CASES[i].host ? !str_eq_z(host, CASES[i].host) : host.p != NULL)
            fail_msg("`%s`: `%.*s`", CASES[i].uri, STR_FMT(host));
    }
    assert_null(uri_host(STR_MISSING).p);
}

static void one_server(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } CASES[] = {
        {"kms.example.org", "KMS.Example.ORG", true},
        {"kms.example.org", "http://kms.example.org:8080/", true},
        {"HTTPS://kms.example.org", "http://kms.example.org:", true},
        {"[::1]:80", "https://[::1]/", true},
        {"https://h/kms", "H:1/kms", true},
        {"ftp://h", "ftp://h", true},
        {"h", "h/a", false},
        {"h/", "h//", false},
        {"h/kms", "h/KMS", false},
        {"h/kms", "h/kms/", false},
        {"h", "h?", false},
        {"h", "h#", false},
        {"h", "ftp://h", false},
        {"h", "http:/h", false},
        {"h", "//h", false},
        {"h", "h.", false},
        {"h", "https://u@h", false},
        {"h", "h:http", false},
        {"h", "h:99999", false},
        {"", "", false},
        {"http://", "https://", false},
    };
    (void)state;
    for (size_t i = 0; i < 2 * (sizeof CASES / sizeof *CASES); i++) {
        const size_t k = i / 2;
        const struct str a = str_z(CASES[k].a), b = str_z(CASES[k].b);
        if ((i % 2 ? uri_same_server(b, a) : uri_same_server(a, b)) != CASES[k].same)
            fail_msg("`%s` and `%s`", CASES[k].a, CASES[k].b);
    }
    assert_false(uri_same_server(STR_MISSING, STR_MISSING));
    assert_false(uri_same_server(STR("h"), STR_MISSING));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes), cmocka_unit_test(any_uri),               cmocka_unit_test(one_form_for_equals),
        cmocka_unit_test(no_url),  cmocka_unit_test(dots_as_the_book_says), cmocka_unit_test(normal_twice_is_normal),
        cmocka_unit_test(hosts),   cmocka_unit_test(one_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
