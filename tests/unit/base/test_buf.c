#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/buf.h"

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void is(const struct buf *b, const char *wanted)
{
    assert_false(b->failed);
    assert_int_equal(b->n, strlen(wanted));
    assert_string_equal(b->p, wanted);
    assert_true(str_eq_z(buf_view(b), wanted));
}

static void pieces_join(void **state)
{
    (void)state;
    struct buf b BUF_CLEANUP = BUF_INIT(100);
    assert_true(str_eq(buf_view(&b), STR(""))); /* empty, not missing */
    buf_str(&b, STR("ab"));
    buf_z(&b, "c");
    buf_char(&b, 'd');
    buf_printf(&b, "%d|%s", -7, "x");
    buf_bytes(&b, "yz", 1);
    buf_bytes(&b, NULL, 0);
    buf_str(&b, STR_MISSING);
    is(&b, "abcd-7|xy");
    buf_reset(&b);
    is(&b, "");
    char *at = buf_reserve(&b, 3);
    memcpy(at, "123", 3);
    b.n += 2;
    buf_z(&b, "4");
    is(&b, "124");
}

/* In the blocks that a thread keeps, as elsewhere: all that was written is there, however often it moved. */
static void passing(void **state)
{
    enum { CEILING = 100000 };
    (void)state;
    block_keep(CEILING);
    for (int round = 0; round < 3; round++) {
        struct buf b = BUF_INIT_PASSING(CEILING), plain = BUF_INIT(CEILING);
        for (unsigned i = 0; !plain.failed; i++) {
            buf_decimal(&b, i);
            buf_decimal(&plain, i);
            assert_int_equal(b.failed, plain.failed);
            assert_true(str_eq(buf_view(&b), buf_view(&plain)));
            i += i > 300 ? 97 : 0;
        }
        buf_free(&b);
        buf_free(&plain);
        assert_null(b.p);
    }
    block_thread_end();
    block_keep(0);
}

/* Each write up to the ceiling, and by one byte beyond. */
static void ceilings(void **state)
{
    (void)state;
    for (size_t max = 0; max < 700; max += max < 20 ? 1 : 97)
        for (size_t beyond = 0; beyond < 2; beyond++) {
            static char text[1000];
            memset(text, 'x', sizeof text);
            struct buf b = BUF_INIT(max);
            buf_bytes(&b, text, max + beyond);
            assert_int_equal(b.failed, beyond);
            assert_int_equal(b.n, beyond ? 0 : max);
            assert_true(b.cap <= max + 1);
            buf_free(&b);
            b = BUF_INIT(max);
            for (size_t i = 0; i < max + beyond; i++)
                buf_char(&b, 'x');
            assert_int_equal(b.failed, beyond);
            assert_int_equal(b.n, max);
            buf_free(&b);
            b = BUF_INIT(max);
            buf_printf(&b, "%*s", (int)(max + beyond), "");
            assert_int_equal(b.failed, beyond);
            assert_true(beyond || strlen(b.p) == max);
            buf_free(&b);
        }
    struct buf hex = BUF_INIT(4), base64 = BUF_INIT(4);
    buf_hex(&hex, "ab", 2, false);
    is(&hex, "6162");
    buf_hex(&hex, "a", 1, false);
    assert_true(hex.failed);
    buf_base64(&base64, "abc", 3);
    is(&base64, "YWJj");
    buf_base64(&base64, "a", 1);
    assert_true(base64.failed);
    buf_free(&hex);
    buf_free(&base64);
}

/* What failed stays failed, and what was written before stays as it was, until the buffer is emptied. */
static void failure_sticks(void **state)
{
    (void)state;
    struct buf b BUF_CLEANUP = BUF_INIT(4);
    buf_z(&b, "abc");
    buf_z(&b, "de");
    assert_true(b.failed);
    buf_char(&b, 'f');
    buf_printf(&b, "%s", "");
    buf_hex(&b, "", 0, false);
    assert_null(buf_reserve(&b, 0));
    assert_true(b.failed);
    assert_string_equal(b.p, "abc");
    buf_reset(&b);
    buf_z(&b, "abcd");
    is(&b, "abcd");
    struct buf huge = BUF_INIT(1 << 20);
    assert_null(buf_reserve(&huge, SIZE_MAX));
    assert_true(huge.failed);
    buf_reset(&huge);
    buf_hex(&huge, "", SIZE_MAX / 2 + 1, false);
    assert_true(huge.failed);
    buf_reset(&huge);
    buf_base64(&huge, "", SIZE_MAX - 1);
    assert_true(huge.failed);
    buf_free(&huge);
    buf_free(&huge);
}

static void xml_as_c14n_writes_it(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        static const struct {
            char c;
            const char *text, *attribute;
        } SPECIAL[] = {{'&', "&amp;", "&amp;"}, {'<', "&lt;", "&lt;"}, {'>', "&gt;", ">"}, {'\r', "&#xD;", "&#xD;"},
                       {'"', "\"", "&quot;"}, {'\t', "\t", "&#x9;"}, {'\n', "\n", "&#xA;"}};
        const char one[2] = {(char)c, 0};
        const char *text = one, *attribute = one;
        for (size_t i = 0; i < sizeof SPECIAL / sizeof *SPECIAL; i++)
            if (SPECIAL[i].c == c) {
                text = SPECIAL[i].text;
                attribute = SPECIAL[i].attribute;
            }
        struct buf t BUF_CLEANUP = BUF_INIT(100), a BUF_CLEANUP = BUF_INIT(100), wanted BUF_CLEANUP = BUF_INIT(100);
        const char around[] = {'x', (char)c, (char)c, 'y', (char)c};
        buf_xml_text(&t, (struct str){around, sizeof around});
        buf_xml_attr(&a, (struct str){around, sizeof around});
        for (int twice = 0; twice < 2 && c; twice++) {
            const char *e = twice ? attribute : text;
            buf_reset(&wanted);
            buf_printf(&wanted, "x%s%sy%s", e, e, e);
            is(twice ? &a : &t, wanted.p);
        }
        assert_true(c || (t.n == sizeof around && memcmp(t.p, around, t.n) == 0));
    }
    struct buf b BUF_CLEANUP = BUF_INIT(10);
    buf_xml_text(&b, STR_MISSING);
    buf_xml_attr(&b, STR(""));
    assert_int_equal(b.n, 0);
    assert_false(b.failed);
}

static void hex_both_ways(void **state)
{
    static const struct {
        const char *bad, *good;
    } CASES[] = {{"0", "00"},
                 {"0g", "0f"},
                 {"0 ", "00"},
                 {" 00", ""},
                 {"0x", "0a"},
                 {"00:", "0000"},
                 {"\xef\xbc\x90"
                  "0",
                  "00"},
                 {"@0", "A0"},
                 {"G0", "F0"},
                 {"`0", "a0"},
                 {"/0", "00"},
                 {":0", "90"},
                 {"0\n", "09"}};
    uint8_t out[256];
    size_t n = 0;
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_false(hex_decode(str_z(CASES[i].bad), out, sizeof out, &n));
        assert_true(hex_decode(str_z(CASES[i].good), out, sizeof out, &n));
        assert_int_equal(n, strlen(CASES[i].good) / 2);
    }
    assert_false(hex_decode(STR_MISSING, out, sizeof out, &n));
    assert_false(hex_decode(STR("0102"), out, 1, &n));
    assert_true(hex_decode(STR("0102"), out, 2, &n));
    assert_true(hex_decode(STR(""), out, 0, &n));
    for (int upper = 0; upper < 2; upper++)
        for (unsigned byte = 0; byte < 256; byte++) {
            char wanted[3];
            struct buf b BUF_CLEANUP = BUF_INIT(10);
            snprintf(wanted, sizeof wanted, upper ? "%02X" : "%02x", byte);
            buf_hex(&b, &(uint8_t){(uint8_t)byte}, 1, upper);
            is(&b, wanted);
            assert_true(hex_decode(buf_view(&b), out, 1, &n));
            assert_int_equal(out[0], byte);
        }
}

/* OpenSSL's decoder, plus: what it reads is written the same way again. */
static bool by_openssl(const char *text, uint8_t out[64], size_t *n)
{
    char plain[64], again[64];
    size_t m = 0;
    for (; *text; text++)
        if (!strchr(" \t\r\n", *text))
            plain[m++] = *text;
    plain[m] = '\0';
    const int got = m % 4 || strspn(plain, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != m
                        ? -1 : EVP_DecodeBlock(out, (unsigned char *)plain, (int)m);
    if (got < 0)
        return false;
    *n = (size_t)got - (m > 0 && plain[m - 1] == '=') - (m > 1 && plain[m - 2] == '=');
    EVP_EncodeBlock((unsigned char *)again, out, (int)*n);
    return strcmp(again, plain) == 0;
}

static void base64_as_openssl(void **state)
{
    uint32_t seed = 4;
    uint8_t bytes[60], out[64], theirs[64];
    size_t n = 0, m = 0;
    unsigned good = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) { /* written and read again */
        char wanted[100];
        struct buf b BUF_CLEANUP = BUF_INIT(100);
        const size_t size = (size_t)round % sizeof bytes;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)dice(&seed);
        EVP_EncodeBlock((unsigned char *)wanted, bytes, (int)size);
        buf_base64(&b, bytes, size);
        is(&b, wanted);
        assert_true(base64_decode(buf_view(&b), out, size, &n));
        assert_int_equal(n, size);
        assert_memory_equal(out, bytes, size);
        assert_true(!size || !base64_decode(buf_view(&b), out, size - 1, &n));
    }
    for (int round = 0; round < 400000; round++) { /* hostile: both accept or both refuse */
        static const char LETTERS[] = "AQgw/+z09====  \n\t-_*";
        char text[12];
        const size_t size = dice(&seed) % sizeof text, few = round % 2 ? 13 : sizeof LETTERS - 1;
        for (size_t i = 0; i < size; i++)
            text[i] = LETTERS[dice(&seed) % (round % 3 ? 9 : few)];
        text[size] = '\0';
        if (size > 2 && round % 3 == 2) /* padding where it may stand, mostly */
            text[size - 1 - dice(&seed) % 2] = text[size - 1] = '=';
        const bool wanted = by_openssl(text, theirs, &m);
        good += wanted;
        if (base64_decode(str_z(text), out, sizeof out, &n) != wanted ||
            (wanted && (n != m || memcmp(out, theirs, n) != 0)))
            fail_msg("`%s`: %s by OpenSSL", text, wanted ? "good" : "bad");
    }
    assert_true(good > 20000 && good < 300000);
}

static void base64_by_example(void **state)
{
    static const struct {
        const char *bad, *good;
    } CASES[] = {{"QQ", "QQ=="},       {"QQ=", "QQ=="},  {"QR==", "QQ=="},          {"QUF=", "QUE="},
                 {"QQ==QQ==", "QQ=="}, {"=QQ=", "QQ=="}, {"Q===", "QQ=="},          {"====", ""},
                 {"QUJD=", "QUJD"},    {"QUJ-", "QUJ+"}, {"QQ==x", "Q Q\n=\t= \r"}, {"QUJD\v", "QUJD\r"}};
    uint8_t out[8];
    size_t n;
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_false(base64_decode(str_z(CASES[i].bad), out, sizeof out, &n));
        assert_true(base64_decode(str_z(CASES[i].good), out, sizeof out, &n));
    }
    assert_false(base64_decode(STR_MISSING, out, sizeof out, &n));
    assert_false(base64_decode((struct str){"QUJD\0", 5}, out, sizeof out, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_join), cmocka_unit_test(passing), cmocka_unit_test(ceilings),
        cmocka_unit_test(failure_sticks),
        cmocka_unit_test(xml_as_c14n_writes_it), cmocka_unit_test(hex_both_ways), cmocka_unit_test(base64_as_openssl),
        cmocka_unit_test(base64_by_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
