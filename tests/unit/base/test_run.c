/* Runs, hex and base64, by whatever steps the processor allows, say what one byte at a time says. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/buf.h"
#include "base/run.h"

enum { LONGEST = 70 };

static bool in(unsigned c, const char *set)
{
    return c && strchr(set, (int)c);
}

static bool is_hex(unsigned c)
{
    return in(c, "0123456789abcdefABCDEF");
}

static bool is_base64(unsigned c)
{
    return in(c, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/");
}

static bool is_name(unsigned c)
{
    return in(c, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._");
}

static bool is_uri(unsigned c)
{
    return c > ' ' && c <= '~' && !in(c, "\"<>\\^`{|}");
}

static bool is_plain(unsigned c)
{
    return c >= ' ' && c <= '~' && !in(c, "&<>\"'");
}

static bool is_json(unsigned c)
{
    return c >= ' ' && c <= '~' && !in(c, "\"\\");
}

/* A text in memory that ends with it, so that a sanitizer sees who reads on. */
static char *filled(size_t n, char c)
{
    char *text = malloc(n ? n : 1);
    assert_non_null(text);
    memset(text, c, n);
    return text;
}

/* Each byte at each place of texts of each length: a run of what is of the kind ends at the first that is not. */
static void test_runs(void **state)
{
    static const struct {
        size_t (*run)(const char *p, size_t n);
        bool (*is)(unsigned c);
    } KINDS[] = {{run_hex, is_hex}, {run_base64, is_base64}, {run_name, is_name}, {run_plain, is_plain},
                 {run_uri, is_uri}, {run_json, is_json}};
    (void)state;
    for (size_t k = 0; k < sizeof KINDS / sizeof *KINDS; k++)
        for (size_t n = 0; n <= LONGEST; n++) {
            char *text = filled(n, 'a');
            assert_int_equal(KINDS[k].run(text, n), n);
            for (size_t at = 0; at < n; at++)
                for (unsigned c = 0; c < 256; c++) {
                    text[at] = (char)c;
                    assert_int_equal(KINDS[k].run(text, n), KINDS[k].is(c) ? n : at);
                    text[at] = 'a';
                }
            free(text);
        }
}

/* OpenSSL's base64 is ours, and comes back; a text with one character of another kind in it does not. */
static void test_base64(void **state)
{
    (void)state;
    for (size_t n = 1; n <= LONGEST; n++)
        for (int round = 0; round < 20; round++) {
            uint8_t octets[LONGEST], back[LONGEST];
            unsigned char theirs[2 * LONGEST];
            struct buf ours = BUF_INIT(2 * LONGEST);
            size_t got = 0;
            assert_int_equal(RAND_bytes(octets, (int)n), 1);
            buf_base64(&ours, octets, n);
            assert_int_equal(EVP_EncodeBlock(theirs, octets, (int)n), (int)ours.n);
            assert_memory_equal(theirs, ours.p, ours.n);
            char *exact = filled(ours.n, ' ');
            memcpy(exact, ours.p, ours.n);
            const struct str text = {exact, ours.n};
            assert_true(base64_decode(text, back, n, &got));
            assert_int_equal(got, n);
            assert_memory_equal(back, octets, n);
            assert_false(base64_decode(text, back, n - 1, &got));
            exact[(size_t)round * 7 % ours.n] = ".-_@[`{\x80\xff"[round % 9];
            assert_false(base64_decode(text, back, n, &got));
            free(exact);
            buf_free(&ours);
        }
}

/* Each digit at each place. */
static void test_each_digit(void **state)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (void)state;
    for (size_t at = 0; at < 16; at++)
        for (unsigned v = 0; v < 64; v++) {
            uint8_t octets[12];
            char text[] = "AAAAAAAAAAAAAAAA";
            struct buf again = BUF_INIT(64);
            size_t got = 0;
            text[at] = DIGITS[v];
            assert_true(base64_decode((struct str){text, 16}, octets, sizeof octets, &got));
            for (size_t bit = 0; bit < 96; bit++)
                assert_int_equal(octets[bit / 8] >> (7 - bit % 8) & 1, bit / 6 == at ? v >> (5 - bit % 6) & 1 : 0);
            buf_base64(&again, octets, sizeof octets);
            assert_string_equal(again.p, text);
            buf_free(&again);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_runs), cmocka_unit_test(test_base64),
                                       cmocka_unit_test(test_each_digit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
