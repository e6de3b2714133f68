#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <iconv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static uint32_t dice(uint32_t *seed) /* the same run every time */
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Missing never equals: each comparison beside the one that holds. */
static void missing_equals_nothing(void **state)
{
    (void)state;
    const struct str empty = STR(""), a = STR("a");
    assert_true(str_eq(empty, empty));
    assert_false(str_eq(STR_MISSING, STR_MISSING));
    assert_false(str_eq(STR_MISSING, empty));
    assert_false(str_eq(empty, STR_MISSING));
    assert_true(str_eq_z(a, "a"));
    assert_false(str_eq_z(a, NULL));
    assert_false(str_eq_z(STR_MISSING, NULL));
    assert_true(str_ieq(empty, empty));
    assert_false(str_ieq(STR_MISSING, STR_MISSING));
    assert_false(str_ieq_z(STR_MISSING, ""));
    assert_true(str_starts(a, empty));
    assert_false(str_starts(a, STR_MISSING));
    assert_false(str_starts(STR_MISSING, empty));
    assert_true(str_ends(a, empty));
    assert_false(str_ends(STR_MISSING, empty));
    assert_false(str_ends(a, STR_MISSING));
    assert_true(str_glob(STR("*"), empty, false));
    assert_false(str_glob(STR("*"), STR_MISSING, false));
    assert_false(str_glob(STR_MISSING, empty, false));
    assert_null(str_z(NULL).p);
    assert_non_null(str_z("").p);
    assert_null(str_trim(STR_MISSING).p);
    assert_null(str_dup(STR_MISSING));
}

static void comparisons(void **state)
{
    (void)state;
    const struct str nul = {"a\0b", 3}, other = {"a\0c", 3};
    assert_true(str_eq(nul, (struct str){"a\0b", 3}));
    assert_false(str_eq(nul, other));
    assert_false(str_eq_z(nul, "a"));
    assert_true(str_eq(STR("Host"), STR("Host")));
    assert_false(str_eq(STR("Host"), STR("host")));
    assert_false(str_eq(STR("Host"), STR("Hos")));
    assert_true(str_ieq(STR("Host"), STR("hOST")));
    assert_false(str_ieq(STR("Host"), STR("Hos")));
    assert_true(str_ieq_z(STR("[z@"), "[Z@"));
    assert_false(str_ieq_z(STR("[z@"), "{z`")); /* not letters, though 32 apart */
    assert_false(str_ieq(STR("\xc3\xa4"), STR("\xc3\x84"))); /* only ASCII has a case here */
    assert_true(str_starts(STR("abc"), STR("ab")));
    assert_false(str_starts(STR("abc"), STR("b")));
    assert_false(str_starts(STR("ab"), STR("abc")));
    assert_true(str_ends(STR("abc"), STR("bc")));
    assert_false(str_ends(STR("abc"), STR("b")));
    assert_false(str_ends(STR("bc"), STR("abc")));
}

static void trimmed_and_copied(void **state)
{
    static const struct {
        const char *from, *to;
    } CASES[] = {{"", ""}, {" ", ""}, {" \t\r\n", ""}, {"a", "a"}, {" a b\t", "a b"}, {"\na", "a"}, {"a\r", "a"},
                 {"\va\v", "\va\v"}, {"\xc2\xa0" "a", "\xc2\xa0" "a"}}; /* XML knows four kinds of space, no others */
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_true(str_eq_z(str_trim(str_z(CASES[i].from)), CASES[i].to));
    char *z = str_dup((struct str){"abc", 2});
    assert_string_equal(z, "ab");
    free(z);
    z = str_dup(STR(""));
    assert_string_equal(z, "");
    free(z);
}

/* Against strtoull(), which takes more than digits: those are refused by a look at the text. */
static bool by_libc(const char *text, uint64_t max, uint64_t *out)
{
    if (!*text || strspn(text, "0123456789") != strlen(text))
        return false;
    errno = 0;
    *out = strtoull(text, NULL, 10);
    return errno == 0 && *out <= max;
}

static void numbers(void **state)
{
    static const char *const TEXTS[] = {"",
                                        "0",
                                        "00",
                                        "7",
                                        "9",
                                        "10",
                                        "+1",
                                        "-1",
                                        " 1",
                                        "1 ",
                                        "0x1",
                                        "1e3",
                                        "1.0",
                                        "255",
                                        "256",
                                        "65535",
                                        "65536",
                                        "18446744073709551615",
                                        "18446744073709551616",
                                        "18446744073709551620",
                                        "28446744073709551615",
                                        "99999999999999999999999",
                                        "00000000000000000000000000000001",
                                        "\xd9\xa1"};
    static const uint64_t MAXES[] = {0, 1, 5, 9, 10, 255, 65535, UINT64_MAX - 1, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        for (size_t m = 0; m < sizeof MAXES / sizeof *MAXES; m++) {
            uint64_t got = 0, wanted = 0;
            const bool good = by_libc(TEXTS[i], MAXES[m], &wanted);
            if (str_to_u64(str_z(TEXTS[i]), MAXES[m], &got) != good || (good && got != wanted))
                fail_msg("`%s` up to %llu", TEXTS[i], (unsigned long long)MAXES[m]);
        }
    uint32_t seed = 1;
    for (int round = 0; round < 200000; round++) {
        char text[32];
        uint64_t got = 0, wanted = 0;
        const uint64_t value = (uint64_t)dice(&seed) << 40 ^ (uint64_t)dice(&seed) << 20 ^ dice(&seed);
        const uint64_t max = round % 3 ? value + dice(&seed) % 3 - 1 : value * dice(&seed);
        snprintf(text, sizeof text, "%llu", (unsigned long long)(value >> dice(&seed) % 64));
        const bool good = by_libc(text, max, &wanted);
        assert_int_equal(str_to_u64(str_z(text), max, &got), good);
        assert_true(!good || got == wanted);
    }
    assert_false(str_to_u64(STR_MISSING, 1, &(uint64_t){0}));
    assert_false(str_to_u64((struct str){"1\0002", 3}, 1000, &(uint64_t){0}));
}

/* The C library's converter to UTF-16 refuses what is no UTF-8. */
static bool utf8_by_iconv(iconv_t to_utf16, const unsigned char *p, size_t n)
{
    char copy[64], out[256], *in = copy, *at = out;
    size_t in_left = n, out_left = sizeof out;
    memcpy(copy, p, n);
    iconv(to_utf16, NULL, NULL, NULL, NULL);
    return iconv(to_utf16, &in, &in_left, &at, &out_left) != (size_t)-1 && in_left == 0;
}

static void utf8_as_iconv_sees_it(void **state)
{
    static const unsigned char EDGES[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f,
                                          0xa0, 0xbf, 0xc0, 0xc2, 0xed, 0xf4, 0xff};
    (void)state;
    iconv_t c = iconv_open("UTF-16LE", "UTF-8");
    assert_true(c != (iconv_t)-1);
    for (unsigned first = 0; first < 256; first++)
        for (unsigned second = 0; second < 256; second++)
            for (unsigned third = 0; third < sizeof EDGES; third++)
                for (unsigned fourth = 0; fourth < (first >= 0xe0 ? sizeof EDGES : 1); fourth++) {
                    const unsigned char text[4] = {(unsigned char)first, (unsigned char)second, EDGES[third],
                                                   EDGES[fourth]};
                    for (size_t n = third || fourth ? 3 : 1; n <= 4; n++)
                        if (str_is_utf8((struct str){(const char *)text, n}) != utf8_by_iconv(c, text, n))
                            fail_msg("%02x %02x %02x %02x, %zu bytes", text[0], text[1], text[2], text[3], n);
                }
    uint32_t seed = 2;
    for (int round = 0; round < 300000; round++) { /* longer ones: the look at eight bytes at once */
        unsigned char text[40];
        const size_t n = dice(&seed) % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] = (unsigned char)(dice(&seed) % 5 ? 'a' + dice(&seed) % 26 : 0);
        for (size_t i = 0, k = n ? dice(&seed) % n : 0; i < 4 && k + i < n && round % 4; i++)
            text[k + i] = (unsigned char)(i ? 0x80 + dice(&seed) % 64 : 0xc0 + dice(&seed) % 64);
        assert_int_equal(str_is_utf8((struct str){(const char *)text, n}), utf8_by_iconv(c, text, n));
    }
    iconv_close(c);
    assert_true(str_is_utf8(STR_MISSING));
    assert_int_equal(str_utf8_length(STR_MISSING), 0);
    assert_int_equal(str_utf8_length(STR("a\xff")), 1);
    assert_int_equal(str_utf8_length(STR("\xe2\x82\xac" "x")), 3);
    assert_int_equal(str_utf8_length((struct str){"\xe2\x82\xac", 2}), 0);
    assert_int_equal(str_utf8_length(STR("\xf0\x9f\x98\x80")), 4);
}

/* What the header says, word by word, and as slow as it likes. */
static bool naive(const char *p, const char *t, bool path)
{
    if (!*p)
        return !*t;
    if (*p != '*')
        return *t == *p && naive(p + 1, t + 1, path);
    const bool crosses = !path || p[1] == '*';
    const char *rest = path && crosses ? p + 2 : p + 1;
    for (;; t++) {
        if (naive(rest, t, path))
            return true;
        if (!*t || (!crosses && *t == '/'))
            return false;
    }
}

/* The number-th text over three letters, shortest first. */
static void spell(unsigned number, const char letters[3], char out[16])
{
    size_t n = 0;
    for (; number; number = (number - 1) / 3)
        out[n++] = letters[(number - 1) % 3];
    out[n] = '\0';
}

static void globs_as_the_naive_way(void **state)
{
    char pattern[16], text[16];
    (void)state;
    for (unsigned p = 0; p < 3280; p++) { /* all patterns of up to seven characters */
        spell(p, "a/*", pattern);
        for (unsigned t = 0; t < 364; t++) { /* all texts of up to five */
            spell(t, "ab/", text);
            for (int path = 0; path < 2; path++)
                if (str_glob(str_z(pattern), str_z(text), path) != naive(pattern, text, path))
                    fail_msg("`%s` on `%s`, path %d", pattern, text, path);
        }
    }
    uint32_t seed = 3;
    unsigned matches = 0;
    for (int round = 0; round < 400000; round++) {
        const size_t n = dice(&seed) % 12, m = dice(&seed) % 15;
        for (size_t i = 0; i < n; i++)
            pattern[i] = "ab/***"[dice(&seed) % 6];
        for (size_t i = 0; i < m; i++)
            text[i] = "aab/"[dice(&seed) % 4];
        pattern[n] = text[m] = '\0';
        const bool path = round % 2, wanted = naive(pattern, text, path);
        matches += wanted;
        if (str_glob(str_z(pattern), str_z(text), path) != wanted)
            fail_msg("`%s` on `%s`, path %d", pattern, text, path);
    }
    assert_true(matches > 20000); /* both sides have been seen */
}

static void globs_by_example(void **state)
{
    static const struct {
        const char *pattern, *good, *bad;
        bool path;
    } CASES[] = {
        {"/v1/**", "/v1/", "/v1", true},
        {"/v1/**", "/v1/a/b", "/v2/a", true},
        {"/v1/*", "/v1/a", "/v1/a/b", true},
        {"/v1/*/c", "/v1/b/c", "/v1/a/b/c", true},
        {"sip:*@field.example.org", "sip:bob@field.example.org", "sip:bob@field.example.org.evil", false},
        {"sip:*@field.example.org", "sip:a/b@field.example.org", "SIP:a/b@field.example.org", false},
        {"a?[b].", "a?[b].", "ax[b].", false},
        {"", "", "a", false},
        {"**", "/", NULL, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_true(str_glob(str_z(CASES[i].pattern), str_z(CASES[i].good), CASES[i].path));
        assert_false(str_glob(str_z(CASES[i].pattern), str_z(CASES[i].bad), CASES[i].path));
    }
    assert_true(str_glob(STR("a*c"), (struct str){"a\0c", 3}, false)); /* a NUL is a byte like any other */
    assert_false(str_glob(STR("a"), (struct str){"a\0", 2}, false));
}

/* Exponential in the naive way. */
static void globs_end(void **state)
{
    static char pattern[2000], text[4000];
    (void)state;
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = i % 2 ? 'a' : '*';
    memset(text, 'a', sizeof text);
    pattern[sizeof pattern - 1] = 'b';
    for (int path = 0; path < 2; path++) {
        text[sizeof text - 1] = 'a';
        assert_false(str_glob((struct str){pattern, sizeof pattern}, (struct str){text, sizeof text}, path));
        text[sizeof text - 1] = 'b';
        assert_true(str_glob((struct str){pattern, sizeof pattern}, (struct str){text, sizeof text}, path));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_equals_nothing), cmocka_unit_test(comparisons),
        cmocka_unit_test(trimmed_and_copied),     cmocka_unit_test(numbers),
        cmocka_unit_test(utf8_as_iconv_sees_it),  cmocka_unit_test(globs_as_the_naive_way),
        cmocka_unit_test(globs_by_example),       cmocka_unit_test(globs_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
