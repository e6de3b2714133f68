/*
 * What a secret buffer leaves behind holds nothing of it: its module is compiled in here with a free() and a malloc()
 * that look, and that fail on demand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int frees, left_behind;
static bool no_memory;

static void looking_free(void *p)
{
    const char *bytes = p;
    for (size_t i = 0, n = p ? malloc_usable_size(p) : 0; i + 3 < n; i++)
        left_behind += memcmp(bytes + i, "KEY", 3) == 0;
    frees += p != NULL;
    free(p);
}

static void *failing_malloc(size_t n)
{
    return no_memory ? NULL : calloc(1, n);
}

static void *failing_realloc(void *p, size_t n)
{
    void *to = no_memory ? NULL : calloc(1, n);
    if (to && p) {
        memcpy(to, p, n < malloc_usable_size(p) ? n : malloc_usable_size(p));
        looking_free(p);
    }
    return to;
}

#define free looking_free
#define malloc failing_malloc
#define realloc failing_realloc
#define block_take failing_malloc
#define block_give looking_free
#include "base/buf.c" /* NOLINT(bugprone-suspicious-include) */
#undef free
#undef malloc
#undef realloc
#undef block_take
#undef block_give

static void fill(struct buf *b)
{
    for (int i = 0; i < 2000; i++)
        buf_z(b, "KEY.");
    assert_false(b->failed);
}

static void secrets_are_wiped(void **state)
{
    (void)state;
    struct buf plain = BUF_INIT(1 << 20), passing = BUF_INIT_PASSING(1 << 20), later = BUF_INIT(1 << 20);
    fill(&plain);
    assert_true(left_behind > 0); /* the look finds what is there */
    buf_free(&plain);
    left_behind = 0;
    fill(&passing);
    assert_true(left_behind > 0);
    buf_free(&passing);
    later.secret = true;
    struct buf secret[] = {BUF_INIT_SECRET(1 << 20), later};
    for (size_t k = 0; k < sizeof secret / sizeof *secret; k++) {
        left_behind = frees = 0;
        fill(&secret[k]);
        assert_true(frees > 2); /* it has moved, and left nothing */
        buf_reset(&secret[k]);
        for (size_t i = 0; i < secret[k].cap; i++)
            assert_int_equal(secret[k].p[i], 0);
        fill(&secret[k]);
        buf_free(&secret[k]);
        assert_int_equal(left_behind, 0);
        assert_null(secret[k].p);
    }
}

static void no_memory_is_a_failure(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        const bool secret = kind % 2, passing = kind / 2;
        struct buf b = {.max = 10000, .secret = secret, .passing = passing};
        struct buf empty = {.max = 100, .secret = secret, .passing = passing};
        buf_z(&b, "abc");
        no_memory = true;
        buf_z(&b, "def"); /* there is room */
        assert_false(b.failed);
        for (int i = 0; i < 3000; i++)
            buf_char(&b, 'x');
        assert_true(b.failed);
        assert_memory_equal(b.p, "abcdef", 6);
        buf_printf(&empty, "%d", 1);
        assert_true(empty.failed);
        assert_true(str_eq(buf_view(&empty), STR("")));
        no_memory = false;
        buf_free(&b);
        buf_free(&empty);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(secrets_are_wiped), cmocka_unit_test(no_memory_is_a_failure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
