/* What is compared and copied in place is what the C library compares and copies, and nothing beside it is touched. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/short.h"

enum { LONGEST = 200 };

/* Of a length that no compiler knows, in a block of just that length: the sanitizer sees each octet beside it. */
static char *exact(size_t n, char first)
{
    char *p = malloc(n ? n : 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(first + (char)i);
    return p;
}

static void equal_is_equal_in_each_octet(void **state)
{
    (void)state;
    for (size_t n = 0; n <= LONGEST; n++) {
        char *const a = exact(n, 'a'), *const b = exact(n, 'a');
        assert_true(short_equal(a, b, n));
        for (size_t i = 0; i < n; i++)
            for (unsigned bit = 1; bit < 256; bit <<= 1) {
                b[i] = (char)(b[i] ^ (char)bit);
                assert_false(short_equal(a, b, n));
                assert_false(short_equal(b, a, n));
                b[i] = a[i];
            }
        free(a);
        free(b);
    }
    assert_true(short_equal(NULL, NULL, 0));
}

static void a_copy_is_all_of_it_and_no_more(void **state)
{
    enum { BESIDE = 0x55 };
    volatile size_t none = 0;
    (void)state;
    for (size_t n = 0; n <= LONGEST; n++) {
        char *const from = exact(n, 'A'), *const to = malloc(n + 2);
        assert_non_null(to);
        memset(to, BESIDE, n + 2);
        short_copy(to + 1, from, n);
        assert_int_equal(to[0], BESIDE);
        assert_memory_equal(to + 1, from, n);
        assert_int_equal(to[n + 1], BESIDE);
        free(from);
        free(to);
    }
    short_copy(NULL, NULL, none);
}

/* What the compiler knows, it does itself. */
static void what_is_written_in_the_source_too(void **state)
{
    char to[24] = "";
    (void)state;
    short_copy(to, "Signature-ID", sizeof "Signature-ID");
    assert_string_equal(to, "Signature-ID");
    short_copy(to, NULL, 0);
    assert_string_equal(to, "Signature-ID");
    assert_true(short_equal(to, "Signature-ID", 12));
    assert_false(short_equal(to, "Signature-IE", 12));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_is_equal_in_each_octet),
        cmocka_unit_test(a_copy_is_all_of_it_and_no_more),
        cmocka_unit_test(what_is_written_in_the_source_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
