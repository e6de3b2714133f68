#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"

enum { KEEP = 64 << 10 };

/* What the C library is asked for, and given back. */
void *__real_malloc(size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void __wrap_free(void *p);
static size_t taken, freed;

void *__wrap_malloc(size_t n)
{
    taken++;
    return __real_malloc(n);
}

void __wrap_free(void *p)
{
    freed++;
    __real_free(p);
}

/* Of each length all octets are there, and nobody else's. */
static void lengths(void **state)
{
    enum { MOST = 70000 };
    (void)state;
    block_keep(KEEP);
    for (int round = 0; round < 2; round++)
        for (size_t n = 0; n < MOST; n += n < 1100 ? 1 : 97) {
            unsigned char *a = block_take(n), *b = block_take(n);
            assert_true(a && b && a != b);
            assert_int_equal((uintptr_t)a % alignof(max_align_t), 0);
            memset(a, 1, n);
            memset(b, 2, n);
            for (size_t i = 0; i < n; i++)
                assert_true(a[i] == 1 && b[i] == 2);
            block_give(a);
            block_give(b);
        }
    block_give(NULL);
    assert_null(block_take(SIZE_MAX));
    assert_null(block_take(SIZE_MAX - 8));
    block_thread_end();
}

/* Around each step from one size to the next: what was given back serves again, for what it has room for alone. */
static void the_same_again(void **state)
{
    (void)state;
    block_keep(2 * KEEP); /* three of the largest */
    for (size_t n = 128; n <= 32768; n += n % 3 ? n / 2 : n / 3) {
        const size_t most = n - 16, begun = taken;
        void *p = block_take(most);
        block_give(p);
        void *larger = block_take(most + 1);
        assert_int_equal(taken, begun + 2);
        void *again = block_take(most);
        assert_int_equal(taken, begun + 2);
        assert_ptr_equal(again, p);
        void *other = block_take(most);
        assert_int_equal(taken, begun + 3);
        block_give(other);
        block_give(again);
        block_give(larger);
        const size_t before = freed;
        block_thread_end();
        assert_int_equal(freed, before + (n < 32768 ? 3 : 2)); /* the larger one was not kept */
    }
}

/* How many of 4,000 octets are freed as they are given back. */
static size_t not_kept(size_t count)
{
    enum { MOST = 64 };
    void *v[MOST];
    assert_true(count <= MOST);
    for (size_t i = 0; i < count; i++)
        assert_non_null(v[i] = block_take(4000));
    const size_t before = freed;
    for (size_t i = 0; i < count; i++)
        block_give(v[i]);
    return freed - before;
}

static void no_more_than_it_may(void **state)
{
    (void)state;
    block_keep(0);
    assert_int_equal(not_kept(20), 20);
    block_keep(KEEP);
    assert_int_equal(not_kept(20), 4); /* each is 4,096 */
    assert_int_equal(not_kept(20), 4);
    block_thread_end();
    assert_int_equal(not_kept(16), 0);
    block_keep(0);
    block_thread_end();
}

static void *elsewhere(void *arg)
{
    block_give(arg);
    void *again = block_take(2000);
    const bool same = again == arg;
    block_give(again); /* freed at this thread's end: a leak is found */
    return same ? arg : NULL;
}

static void another_thread_gives_back(void **state)
{
    pthread_t t;
    void *same;
    (void)state;
    block_keep(KEEP);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&t, NULL, elsewhere, block_take(2000)), 0);
        assert_int_equal(pthread_join(t, &same), 0);
        assert_non_null(same);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths),
        cmocka_unit_test(the_same_again),
        cmocka_unit_test(no_more_than_it_may),
        cmocka_unit_test(another_thread_gives_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
