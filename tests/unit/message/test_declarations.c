/* Namespace declarations of a canonical text's first tag: counted, taken out, put in, compared. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "message/declarations.h"

#define TEXT "<r xmlns=\"urn:r\" xmlns:a=\"urn:a\" xmlns:xsd=\"urn:d\" Id=\"x\"><b xmlns:c=\"urn:c\"></b></r>"
#define XSI "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\""

static void assert_dropped(const char *text, unsigned set, const char *expected)
{
    struct buf out BUF_CLEANUP = BUF_INIT(1000);
    assert_true(declarations_drop(str_z(text), set, &out));
    assert_string_equal(out.p, expected);
}

static void test_drop(void **state)
{
    (void)state;
    assert_int_equal(declarations_count(STR(TEXT)), 2);
    assert_int_equal(declarations_count(STR("<r Id=\"x\"></r>")), 0);
    assert_true(str_eq(declarations_of(STR("<r></r>")), STR("")));
    assert_dropped(TEXT, 0, TEXT);
    assert_dropped(TEXT, 1, "<r xmlns=\"urn:r\" xmlns:xsd=\"urn:d\" Id=\"x\"><b xmlns:c=\"urn:c\"></b></r>");
    assert_dropped(TEXT, 2, "<r xmlns=\"urn:r\" xmlns:a=\"urn:a\" Id=\"x\"><b xmlns:c=\"urn:c\"></b></r>");
    assert_dropped(TEXT, 3, "<r xmlns=\"urn:r\" Id=\"x\"><b xmlns:c=\"urn:c\"></b></r>");
}

static unsigned known(const char *name)
{
    char names[DECLARATIONS_NAMES];
    for (unsigned i = 0; i < declarations_known(); i++) {
        declarations_known_names(1u << i, names);
        if (strcmp(names, name) == 0)
            return 1u << i;
    }
    fail_msg("%s is not known", name);
    return 0;
}

static void test_add(void **state)
{
    char names[DECLARATIONS_NAMES];
    struct buf out BUF_CLEANUP = BUF_INIT(1000), none BUF_CLEANUP = BUF_INIT(1000);
    (void)state;
    assert_true(declarations_add(STR(TEXT), known("xsi") | known("ds"), &out));
    assert_string_equal(out.p, "<r xmlns=\"urn:r\" xmlns:a=\"urn:a\" xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\" "
                               "xmlns:xsd=\"urn:d\" " XSI " Id=\"x\"><b xmlns:c=\"urn:c\"></b></r>");
    assert_false(declarations_add(STR(TEXT), known("xsd"), &none)); /* it is there */
    declarations_known_names(known("xsi") | known("ds"), names);
    assert_string_equal(names, "ds, xsi");
    declarations_more(buf_view(&out), STR(TEXT), names);
    assert_string_equal(names, "ds, xsi");
    declarations_more(STR(TEXT), buf_view(&out), names);
    assert_string_equal(names, "");
}

/* What is too long to be shown is left out whole. */
static void test_long_names(void **state)
{
    struct buf text BUF_CLEANUP = BUF_INIT(1000);
    char names[DECLARATIONS_NAMES];
    (void)state;
    buf_z(&text, "<r");
    for (char c = 'a'; c < 'f'; c++) {
        char prefix[40];
        memset(prefix, c, sizeof prefix - 1);
        prefix[sizeof prefix - 1] = '\0';
        buf_printf(&text, " xmlns:%s=\"urn:%c\"", prefix, c);
    }
    buf_z(&text, "></r>");
    declarations_more(buf_view(&text), STR("<r></r>"), names);
    assert_int_equal(strlen(names), 39 + 2 + 39);
}

static void test_sets(void **state)
{
    unsigned seen = 0, all = 0, last = 0;
    (void)state;
    for (unsigned set = 0; declarations_next(4, 2, &set); all++) {
        assert_false(seen & 1u << set);
        seen |= 1u << set;
        last = set;
    }
    assert_int_equal(all, 4 + 6);
    assert_int_equal(last, 12);
    unsigned none = 0;
    assert_false(declarations_next(0, 3, &none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drop), cmocka_unit_test(test_add),
                                       cmocka_unit_test(test_long_names), cmocka_unit_test(test_sets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
