#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/random.h"

enum { IDS = 2000, ID = 16 };

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, ID);
}

static void all_differ(uint8_t (*ids)[ID], size_t n)
{
    qsort(ids, n, ID, by_bytes);
    for (size_t i = 1; i < n; i++)
        assert_memory_not_equal(ids[i - 1], ids[i], ID);
}

static void none_comes_twice(void **state)
{
    (void)state;
    static uint8_t ids[IDS][ID]; /* many blocks */
    for (size_t i = 0; i < IDS; i++)
        assert_true(random_bytes(ids[i], ID));
    all_differ(ids, IDS);
}

static void a_block_is_the_most(void **state)
{
    (void)state;
    static uint8_t room[RANDOM_BLOCK + 1];
    assert_true(random_bytes(room, RANDOM_BLOCK));
    assert_false(random_bytes(room, RANDOM_BLOCK + 1));
    assert_true(random_bytes(room, 0));
}

static void *take_some(void *to)
{
    uint8_t(*ids)[ID] = to;
    for (size_t i = 0; i < IDS / 2; i++)
        if (!random_bytes(ids[i], ID))
            return to;
    return NULL;
}

static void threads_share_no_block(void **state)
{
    (void)state;
    static uint8_t ids[IDS][ID];
    pthread_t t[2];
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, take_some, ids + i * (IDS / 2)), 0);
    for (size_t i = 0; i < 2; i++) {
        void *failed;
        assert_int_equal(pthread_join(t[i], &failed), 0);
        assert_null(failed);
    }
    all_differ(ids, IDS);
}

static void a_child_takes_a_block_of_its_own(void **state)
{
    (void)state;
    uint8_t ids[2][ID];
    int fd[2];
    assert_true(random_bytes(ids[0], ID)); /* the block is begun */
    assert_int_equal(pipe(fd), 0);
    const pid_t child = fork();
    if (child == 0) {
        uint8_t id[ID] = {0};
        const bool ok = random_bytes(id, ID) && write(fd[1], id, ID) == ID;
        _exit(ok ? 0 : 1);
    }
    assert_true(child > 0);
    assert_true(random_bytes(ids[0], ID));
    assert_int_equal(read(fd[0], ids[1], ID), ID);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    all_differ(ids, 2);
    close(fd[0]);
    close(fd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_comes_twice),
        cmocka_unit_test(a_block_is_the_most),
        cmocka_unit_test(threads_share_no_block),
        cmocka_unit_test(a_child_takes_a_block_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
