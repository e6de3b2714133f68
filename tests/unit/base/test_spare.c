#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "base/spare.h"

static void none_before_it_is_set_up(void **state)
{
    (void)state;
    assert_null(spare_take(1));
    assert_false(spare_owns(NULL));
    assert_int_equal(spare_left(), 0);
    assert_true(spare_setup());
    assert_true(spare_setup()); /* once is enough */
    assert_true(spare_left() > 100000);
}

static void blocks(void **state)
{
    enum { MANY = 700 };
    static unsigned char *v[MANY];
    static size_t n[MANY];
    unsigned rand = 3;
    const size_t all = spare_left();
    (void)state;
    assert_null(spare_take(SPARE_MOST + 1));
    for (size_t turn = 0; turn < 20000; turn++) {
        rand = rand * 1103515245 + 12345;
        const size_t i = (rand >> 8) % MANY;
        if (v[i]) {
            for (size_t k = 0; k < n[i]; k++)
                assert_int_equal(v[i][k], i % 255 + 1);
            spare_give(v[i]);
            v[i] = NULL;
            continue;
        }
        n[i] = (rand >> 9) % (rand % 50 == 0 ? SPARE_MOST : 1200);
        if (!(v[i] = spare_take(n[i])))
            continue; /* there are times when it is all taken */
        assert_true(spare_owns(v[i]) && spare_size(v[i]) >= n[i]);
        for (size_t k = 0; k < n[i]; k++)
            assert_int_equal(v[i][k], 0); /* wiped */
        memset(v[i], (int)(i % 255 + 1), n[i]);
    }
    for (size_t i = 0; i < MANY; i++)
        if (v[i])
            spare_give(v[i]);
    assert_int_equal(spare_left(), all);
}

static void an_end(void **state)
{
    unsigned char *v[1000] = {NULL};
    size_t n = 0;
    const size_t all = spare_left();
    (void)state;
    while (n < 1000 && (v[n] = spare_take(SPARE_MOST)))
        n++;
    assert_true(n > 0 && n < 1000);
    assert_true(spare_left() < SPARE_MOST);
    for (size_t i = 0; i < n; i++)
        spare_give(v[i]);
    assert_int_equal(spare_left(), all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_before_it_is_set_up), cmocka_unit_test(blocks), cmocka_unit_test(an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
