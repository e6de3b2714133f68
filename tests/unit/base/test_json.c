#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void writes(void **state)
{
    (void)state;
    struct buf b BUF_CLEANUP = BUF_INIT(1000);
    struct json j = {.out = &b};
    json_object(&j, NULL);
    json_string(&j, "a", STR("x"), 0);
    json_string(&j, "missing", STR_MISSING, 0);
    json_string(&j, "empty", STR(""), 0);
    json_array(&j, "list");
    json_int(&j, NULL, INT64_MIN);
    json_object(&j, NULL);
    json_end(&j);
    json_array(&j, NULL);
    json_end(&j);
    json_string(&j, NULL, STR("y"), 0);
    json_end(&j);
    json_object(&j, "o");
    json_bool(&j, "t", true);
    json_bool(&j, "f", false);
    json_end(&j);
    json_number(&j, "n", 1.25, 3);
    json_number(&j, "nan", NAN, 3);
    json_number(&j, "inf", INFINITY, 3);
    json_number(&j, "low", -DBL_MAX, 0);
    json_number(&j, "whole", -3, 0);
    json_thousandths(&j, "ms", 1234567);
    json_thousandths(&j, "small", -7);
    json_thousandths(&j, "most", INT64_MIN);
    json_int(&j, "zero", 0);
    json_end(&j);
    assert_false(b.failed);
    assert_string_equal(b.p,
                        "{\"a\":\"x\",\"empty\":\"\",\"list\":[-9223372036854775808,{},[],\"y\"],\"o\":{\"t\":true,"
                        "\"f\":false},\"n\":1.250,\"nan\":null,\"inf\":null,\"low\":null,\"whole\":-3,"
                        "\"ms\":1234.567,\"small\":-0.007,\"most\":-9223372036854775.808,\"zero\":0}");
}

static void strings_cannot_break_a_line(void **state)
{
    static const struct {
        struct str in;
        size_t max;
        const char *out;
    } CASES[] = {
        {{"\"\\/", 3}, 0, "\"\\\"\\\\/\""},
        {{"a\xc2\x85\xe2\x80\xa8\xe2\x80\xa9z", 10}, 0, "\"a\\u0085\\u2028\\u2029z\""}, /* ends of lines to some */
        {{"\xc2\x80\xc2\x9f\xc2\xa0\xe2\x80\xa7\xe2\x80\xaa", 12}, 0,
         "\"\\u0080\\u009f\xc2\xa0\xe2\x80\xa7\\u202a\""},
        {{"\xef\xbb\xbf\xf3\xa0\x80\x81\xf0\x9f\x98\x80", 11}, 0, "\"\\ufeff\\udb40\\udc01\xf0\x9f\x98\x80\""},
        {{"ab\xf3\xa0\x80\x81", 6}, 5, "\"ab\""},
        {{"xx\xe2\x80\xa8", 5}, 4, "\"xx\""},
        {{"\n\r\t\b\f", 5}, 0, "\"\\n\\r\\t\\u0008\\u000c\""},
        {{"\0\x1f\x7f", 3}, 0, "\"\\u0000\\u001f\\u007f\""},
        {{"\xc3\xa4\xff\xc3", 4}, 0, "\"\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\""},
        {{"a\xed\xa0\x80" "b", 5}, 0, "\"a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "b\""},
        {{"abcdef", 6}, 3, "\"abc\""},
        {{"abc", 3}, 3, "\"abc\""},
        {{"ab\xe2\x82\xac", 5}, 4, "\"ab\""}, /* never inside a character */
        {{"ab\xe2\x82\xac", 5}, 5, "\"ab\xe2\x82\xac\""},
        {{"\xe2\x82\xac", 3}, 2, "\"\""},
        {{"a\nb", 3}, 2, "\"a\\n\""},
        {{"a\nb", 3}, 1, "\"a\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1000);
        struct json j = {.out = &b};
        json_string(&j, NULL, CASES[i].in, CASES[i].max);
        assert_string_equal(b.p, CASES[i].out);
    }
}

/* Whatever is written is read again as it was, up to what is no UTF-8. */
static void written_is_readable(void **state)
{
    uint32_t seed = 5;
    (void)state;
    for (int round = 0; round < 50000; round++) {
        char text[64];
        const size_t n = dice(&seed) % sizeof text, max = round % 3 ? 0 : dice(&seed) % 40;
        for (size_t i = 0; i < n; i++)
            text[i] = round % 2 ? (char)(dice(&seed) % 256) : "\"\\\n\x7f/ab\xc3\xa4"[dice(&seed) % 9];
        struct buf b BUF_CLEANUP = BUF_INIT(1000);
        struct json j = {.out = &b};
        json_string(&j, NULL, (struct str){text, n}, max);
        size_t at;
        const char *why;
        struct json_doc *doc = json_read(buf_view(&b), &at, &why);
        assert_non_null(doc);
        const struct str got = json_root(doc)->text;
        assert_true(str_is_utf8(got));
        assert_true(!memchr(b.p, '\n', b.n));
        if (!max && str_is_utf8((struct str){text, n}))
            assert_true(str_eq(got, (struct str){text, n}));
        if (max && str_is_utf8((struct str){text, n}))
            assert_true(got.n <= max && str_starts((struct str){text, n}, got));
        json_free(doc);
    }
}

static void too_deep_is_a_failure(void **state)
{
    (void)state;
    for (int depth = 60; depth < 80; depth++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1000);
        struct json j = {.out = &b};
        for (int i = 0; i < depth; i++)
            json_array(&j, NULL);
        for (int i = 0; i < depth; i++)
            json_end(&j);
        assert_int_equal(b.failed, depth > 63);
    }
}

static struct json_doc *read_z(const char *text)
{
    size_t at;
    const char *why;
    return json_read(str_z(text), &at, &why);
}

static void reads(void **state)
{
    (void)state;
    struct json_doc *doc = read_z(" {\"user\" : \"sip:\\u0061@b\" ,\n\"n\":[ -0.5e+3, true,null ,false],\"o\":{},"
                                  "\"esc\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u20ac\\ud83d\\ude00\"}\t");
    assert_non_null(doc);
    const struct json_value *o = json_root(doc), *n = json_get(o, "n");
    assert_int_equal(o->kind, JSON_OBJECT);
    assert_int_equal(o->at, 1);
    assert_true(str_eq_z(json_get(o, "user")->text, "sip:a@b"));
    assert_int_equal(json_get(o, "user")->kind, JSON_STRING);
    assert_int_equal(json_get(o, "user")->at, 11);
    assert_int_equal(n->kind, JSON_ARRAY);
    assert_true(str_eq_z(n->first->text, "-0.5e+3"));
    assert_int_equal(n->first->kind, JSON_NUMBER);
    assert_int_equal(n->first->next->kind, JSON_BOOL);
    assert_true(str_eq_z(n->first->next->text, "true"));
    assert_int_equal(n->first->next->next->kind, JSON_NULL);
    assert_null(n->first->next->next->next->next);
    assert_int_equal(json_get(o, "o")->kind, JSON_OBJECT);
    assert_null(json_get(o, "o")->first);
    assert_true(str_eq_z(json_get(o, "esc")->text, "\"\\/\b\f\n\r\t\xe2\x82\xac\xf0\x9f\x98\x80"));
    assert_null(json_get(o, "N"));
    assert_null(json_get(n, "n"));
    assert_null(json_get(NULL, "n"));
    json_free(doc);
    json_free(NULL);
    doc = read_z("\"a\\u0000b\"");
    assert_true(str_eq(json_root(doc)->text, (struct str){"a\0b", 3}));
    json_free(doc);
}

/* RFC 8259, rule by rule: what breaks one, where that is seen, why, and the twin that keeps it. */
static void refuses(void **state)
{
    static const struct {
        const char *bad;
        size_t at;
        const char *why, *good;
    } CASES[] = {
        {"", 0, "the text ends too early", "1"},
        {"  ", 2, "the text ends too early", " 1 "},
        {"{\"a\":1,}", 7, "a key in quotes is expected", "{\"a\":1}"},
        {"{\"a\":1,\"a\":2}", 7, "a key stands twice in an object", "{\"a\":1,\"b\":{\"a\":2}}"},
        {"{\"a\":1,\"\\u0061\":2}", 7, "a key stands twice in an object", "{\"a\":1,\"\\u0062\":2}"},
        {"{a:1}", 1, "a key in quotes is expected", "{\"a\":1}"},
        {"{\"a\" 1}", 5, "`:` is expected", "{\"a\":1}"},
        {"{\"a\":1 \"b\":2}", 7, "`,` or `}` is expected", "{\"a\":1,\"b\":2}"},
        {"{\"a\":1", 6, "`,` or `}` is expected", "{\"a\":1}"},
        {"{\"a\":1]", 6, "`,` or `}` is expected", "{\"a\":1}"},
        {"[1,]", 3, "a value is expected", "[1]"},
        {"[1 2]", 3, "`,` or `]` is expected", "[1,2]"},
        {"[1}", 2, "`,` or `]` is expected", "[1]"},
        {"[", 1, "the text ends too early", "[]"},
        {"1 2", 2, "something follows the value", "1 "},
        {"{} x", 3, "something follows the value", "{} \r\n\t "},
        {"truex", 4, "something follows the value", "true"},
        {"True", 0, "a value is expected", "true"},
        {"nul", 0, "a value is expected", "null"},
        {"01", 2, "a value is expected", "0"},
        {"-", 1, "a value is expected", "-0"},
        {"+1", 0, "a value is expected", "1"},
        {"1.", 2, "a value is expected", "1.0"},
        {".5", 0, "a value is expected", "0.5"},
        {"1e", 2, "a value is expected", "1e0"},
        {"1e+", 3, "a value is expected", "1E-2"},
        {"0x10", 1, "something follows the value", "10"},
        {"NaN", 0, "a value is expected", "null"},
        {"'a'", 0, "a value is expected", "\"a\""},
        {"\"a", 2, "a string has no end", "\"a\""},
        {"\"a\\\"", 4, "a string has no end", "\"a\\\\\""},
        {"\"\\", 2, "an escape in a string is malformed", "\"\\n\""},
        {"\"\\x41\"", 2, "an escape in a string is malformed", "\"\\u0041\""},
        {"\"\\u004\"", 3, "an escape in a string is malformed", "\"\\u0040\""},
        {"\"\\u00 1\"", 3, "an escape in a string is malformed", "\"\\u00A1\""},
        {"\"\\ud800\"", 7, "an escape in a string is malformed", "\"\\ud800\\udc00\""},
        {"\"\\ud800\\u0041\"", 13, "an escape in a string is malformed", "\"\\udbff\\udfff\""},
        {"\"\\udc00\"", 7, "an escape in a string is malformed", "\"\\ue000\""},
        {"\"a\nb\"", 2, "a control character in a string", "\"a\\nb\""},
        {"\"a\tb\"", 2, "a control character in a string", "\"a\x7f" "b\""},
        {"\"\xff\"", 1, "the text is not UTF-8", "\"\xc3\xbf\""},
        {"\"\xed\xa0\x80\"", 1, "the text is not UTF-8", "\"\xed\x9f\xbf\""},
        {"\xef\xbb\xbf{}", 0, "a value is expected", "{}"}, /* no byte order mark */
        {"{}//", 2, "something follows the value", "{}"},
        {"[1,\v2]", 3, "a value is expected", "[1,\t2]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        size_t at = 99;
        const char *why = NULL;
        assert_null(json_read(str_z(CASES[i].bad), &at, &why));
        if (at != CASES[i].at || strcmp(why, CASES[i].why) != 0)
            fail_msg("`%s`: at %zu: %s", CASES[i].bad, at, why);
        struct json_doc *doc = read_z(CASES[i].good);
        if (!doc)
            fail_msg("`%s` is refused", CASES[i].good);
        json_free(doc);
    }
    size_t at;
    const char *why;
    assert_null(json_read((struct str){"1\0", 2}, &at, &why));
    assert_int_equal(at, 1);
    assert_null(json_read((struct str){"\"\\\0\"", 4}, &at, &why));
    assert_null(json_read((struct str){"[\0]", 3}, &at, &why));
    assert_null(json_read(STR_MISSING, &at, &why));
}

static void bounded(void **state)
{
    char text[80];
    size_t at;
    const char *why;
    (void)state;
    for (int object = 0; object < 2; object++)
        for (size_t depth = 16; depth < 18; depth++) {
            struct buf b BUF_CLEANUP = BUF_INIT(1000);
            for (size_t i = 0; i < depth; i++)
                buf_z(&b, object && i + 1 < depth ? "{\"a\":" : "[");
            for (size_t i = depth; i-- > 0;)
                buf_z(&b, object && i + 1 < depth ? "}" : "]");
            struct json_doc *doc = json_read(buf_view(&b), &at, &why);
            assert_int_equal(doc != NULL, depth == 16);
            assert_true(doc || strcmp(why, "nested too deep") == 0);
            json_free(doc);
        }
    for (int members = 4096; members < 4098; members++) { /* looking for doubled keys is quadratic in them */
        struct buf b BUF_CLEANUP = BUF_INIT(1 << 20);
        for (int i = 0; i < members; i++) {
            snprintf(text, sizeof text, "%s\"k%d\":%d", i ? "," : "{", i, i);
            buf_z(&b, text);
        }
        buf_char(&b, '}');
        struct json_doc *doc = json_read(buf_view(&b), &at, &why);
        assert_int_equal(doc != NULL, members == 4096);
        assert_true(doc || strcmp(why, "an object has too many members") == 0);
        assert_true(!doc || str_eq_z(json_get(json_root(doc), "k4095")->text, "4095"));
        json_free(doc);
    }
    struct buf b BUF_CLEANUP = BUF_INIT(1 << 20);
    for (int i = 0; i < 200000; i++)
        buf_char(&b, '[');
    assert_null(json_read(buf_view(&b), &at, &why));
}

/* Every beginning of a text is refused but the whole, and no changed byte does harm (the sanitizers look on). */
static void torn_and_changed(void **state)
{
    static const char TEXT[] =
        "{\"user\":\"sip:alice@example.org\",\"n\":[-1.5e3,true,{\"k\":\"\\u20ac\\n\xc3\xa4\"}],\"z\":null}";
    const size_t n = sizeof TEXT - 1;
    size_t at, accepted = 0;
    const char *why;
    (void)state;
    for (size_t i = 0; i <= n; i++) {
        char *exact = malloc(i ? i : 1); /* so that a read beyond is seen */
        memcpy(exact, TEXT, i);
        struct json_doc *doc = json_read((struct str){exact, i}, &at, &why);
        assert_int_equal(doc != NULL, i == n);
        assert_true(doc || at <= i);
        json_free(doc);
        for (unsigned byte = 0; byte < 256 && i < n; byte++) {
            char *whole = malloc(n);
            memcpy(whole, TEXT, n);
            whole[i] = (char)byte;
            doc = json_read((struct str){whole, n}, &at, &why);
            accepted += doc != NULL;
            json_free(doc);
            free(whole);
        }
        free(exact);
    }
    assert_true(accepted > n && accepted < n * 250);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes),  cmocka_unit_test(strings_cannot_break_a_line), cmocka_unit_test(written_is_readable),
        cmocka_unit_test(reads),   cmocka_unit_test(too_deep_is_a_failure),       cmocka_unit_test(refuses),
        cmocka_unit_test(bounded), cmocka_unit_test(torn_and_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
