/* Eight bytes at a time say what one at a time does: each byte at each place, beside each of its neighbours. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/buf.h"
#include "base/eight.h"

static bool is_hex(unsigned c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_base64(unsigned c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '/';
}

static bool is_name(unsigned c)
{
    return (is_base64(c) && c != '+' && c != '/') || c == '-' || c == '.' || c == '_';
}

static bool is_uri(unsigned c)
{
    return c > ' ' && c <= '~' && c != '"' && c != '<' && c != '>' && c != '\\' && c != '^' && c != '`' &&
           !(c >= '{' && c <= '}');
}

static bool is_plain(unsigned c)
{
    return c >= ' ' && c <= '~' && c != '&' && c != '<' && c != '>' && c != '"' && c != '\'';
}

static uint64_t by_bytes(const char *text, bool (*is)(unsigned c))
{
    uint64_t answers = 0;
    for (int i = 0; i < 8; i++)
        answers |= is((unsigned char)text[i]) ? UINT64_C(0x80) << 8 * i : 0;
    return answers;
}

static void check(const char text[8])
{
    const uint64_t v = eight_load(text);
    assert_true(eight_hex(v) == by_bytes(text, is_hex));
    assert_true(eight_base64(v) == by_bytes(text, is_base64));
    assert_true(eight_name(v) == by_bytes(text, is_name));
    assert_true(eight_uri(v) == by_bytes(text, is_uri));
    assert_true(eight_plain(v) == by_bytes(text, is_plain));
}

static void test_each_byte(void **state)
{
    static const unsigned char BESIDE[] = {0, 1, ' ', '/', '0', '9', ':', '@', 'A', 'F', 'Z', '`', 'f', 'z', '~', 0x7f,
                                           0x80, 0xff};
    (void)state;
    for (int at = 0; at < 8; at++)
        for (int c = 0; c < 256; c++)
            for (size_t k = 0; k < sizeof BESIDE; k++) {
                char text[8];
                memset(text, BESIDE[k], sizeof text);
                text[at] = (char)c;
                check(text);
            }
}

/* Octets come back from hex of either case, and from no text that has one other character. */
static void test_hex(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 40; n++) {
        uint8_t octets[40], back[40];
        struct buf text = BUF_INIT(256);
        size_t got;
        for (size_t i = 0; i < n; i++)
            octets[i] = (uint8_t)(i * 67 + n * 13);
        for (int upper = 0; upper < 2; upper++) {
            buf_reset(&text);
            buf_hex(&text, octets, n, upper);
            assert_true(hex_decode(buf_view(&text), back, n, &got));
            assert_int_equal(got, n);
            assert_memory_equal(back, octets, n);
            for (size_t i = 0; i < text.n; i++) {
                const char before = text.p[i];
                text.p[i] = "g/:@`G \x80"[i % 8];
                assert_false(hex_decode(buf_view(&text), back, n, &got));
                text.p[i] = before;
            }
        }
        buf_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_byte), cmocka_unit_test(test_hex)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
