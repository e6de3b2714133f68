/* What strangers wrote is shown so that no terminal obeys it and no line is another than it looks. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "base/faults.h"
#include "base/json.h"
#include "base/text.h"

static void put_code(struct buf *b, uint32_t c)
{
    if (c < 0x80) {
        buf_char(b, (char)c);
    } else if (c < 0x800) {
        buf_char(b, (char)(0xc0 | c >> 6));
        buf_char(b, (char)(0x80 | (c & 63)));
    } else if (c < 0x10000) {
        buf_char(b, (char)(0xe0 | c >> 12));
        buf_char(b, (char)(0x80 | (c >> 6 & 63)));
        buf_char(b, (char)(0x80 | (c & 63)));
    } else {
        buf_char(b, (char)(0xf0 | c >> 18));
        buf_char(b, (char)(0x80 | (c >> 12 & 63)));
        buf_char(b, (char)(0x80 | (c >> 6 & 63)));
        buf_char(b, (char)(0x80 | (c & 63)));
    }
}

static void escapes(void **state)
{
    static const struct {
        struct str in;
        const char *out;
    } CASES[] = {
        {{"plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 \\ \"", 19}, "plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80 \\ \""},
        {{"a\nb\tc\r\x1b[31m\x7f\0z", 14}, "a\\x0ab\\x09c\\x0d\\x1b[31m\\x7f\\x00z"},
        {{"\xc2\x9b" "31m\xc2\x85", 7}, "\\u009b31m\\u0085"},
        {{"\xe2\x80\xa8\xe2\x80\xa9", 6}, "\\u2028\\u2029"},
        {{"\xe2\x80\xaegpj.exe", 10}, "\\u202egpj.exe"},
        {{"\xe2\x81\xa6\xd8\x9c\xef\xbb\xbf\xc2\xad", 10}, "\\u2066\\u061c\\ufeff\\u00ad"},
        {{"\xf3\xa0\x80\x81\xf3\xa0\x81\xbf", 8}, "\\U000e0001\\U000e007f"},
        {{"\xef\xbf\xbf\xf4\x8f\xbf\xbf", 7}, "\\uffff\\U0010ffff"},
        {{"\x9b\xff\xc3", 3}, "\\x9b\\xff\\xc3"}, /* no UTF-8: a byte, as it is told apart from U+009B */
        {{"\xed\xa0\x80", 3}, "\\xed\\xa0\\x80"},
        {{"", 0}, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1000);
        text_escape(&b, CASES[i].in);
        assert_string_equal(b.p ? b.p : "", CASES[i].out);
        assert_int_equal(text_is_plain(CASES[i].in), i == 0 || !CASES[i].in.n);
    }
    struct buf b BUF_CLEANUP = BUF_INIT(1000);
    text_escape_lines(&b, STR("a\nb\r\n\xc2\x85"));
    assert_string_equal(b.p, "a\nb\\x0d\n\\u0085");
}

/* The whole of Unicode: what is hidden is escaped in text and in JSON alike, all else stays as it is; twice is once. */
static void one_table(void **state)
{
    static const uint32_t HIDDEN[] = {0x80, 0x9f, 0xad, 0x200b, 0x200f, 0x202a, 0x2060, 0x2064, 0x206f, 0xfff9, 0xfffb,
                                      0xe0001, 0xe0020, 0xe007f, 0x1d173, 0x13430, 0x110bd};
    static const uint32_t SHOWN[] = {' ', '~', 0xa0, 0xac, 0xae, 0x2010, 0x2027, 0x202f, 0x205f, 0x2070, 0xfefe, 0xfffd,
                                     0x1f600, 0xdfffe - 2, 0x2a};
    size_t hidden = 0;
    (void)state;
    for (size_t i = 0; i < sizeof HIDDEN / sizeof *HIDDEN; i++)
        assert_true(text_is_hidden(HIDDEN[i]));
    for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++)
        assert_false(text_is_hidden(SHOWN[i]));
    for (uint32_t c = 1; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        struct buf in BUF_CLEANUP = BUF_INIT(8), out BUF_CLEANUP = BUF_INIT(64), json BUF_CLEANUP = BUF_INIT(64);
        size_t n;
        put_code(&in, c);
        assert_int_equal(text_code(buf_view(&in), &n), c);
        assert_int_equal(n, in.n);
        text_escape(&out, buf_view(&in));
        assert_int_equal(str_eq(buf_view(&in), buf_view(&out)), !text_is_hidden(c));
        assert_true(text_is_plain(buf_view(&out)));
        json_string(&(struct json){.out = &json}, NULL, buf_view(&in), 0);
        assert_int_equal(json.p[1] == '\\', text_is_hidden(c) || c == '"' || c == '\\');
        assert_true(text_is_plain(buf_view(&json)));
        hidden += text_is_hidden(c);
    }
    assert_true(hidden > 4096 && hidden < 5000);
}

static void cuts(void **state)
{
    (void)state;
    assert_int_equal(text_cut(STR("abc"), 5), 3);
    assert_int_equal(text_cut(STR("abc"), 2), 2);
    assert_int_equal(text_cut(STR("a\xe2\x82\xac"), 3), 1);
    assert_int_equal(text_cut(STR("a\xe2\x82\xac"), 4), 4);
    assert_int_equal(text_cut(STR(""), 4), 0);
}

/* What is wrong in a file that a stranger wrote is told without obeying him. */
static void faults_are_escaped(void **state)
{
    struct faults f = {0};
    (void)state;
    faults_add(&f, "a\x1b[2J.yaml", 1, 2, "found `%s`", "\xc2\x9b" "x\n\xe2\x80\xae");
    assert_string_equal(f.v[0].text, "a\\x1b[2J.yaml:1:2: found `\\u009bx\\x0a\\u202e`");
    faults_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes),
        cmocka_unit_test(one_table),
        cmocka_unit_test(cuts),
        cmocka_unit_test(faults_are_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
