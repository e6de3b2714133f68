#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"
#include "page_flags.h"

static void wiped(void **state)
{
    uint8_t bytes[40];
    struct secret_key key;
    (void)state;
    memset(bytes, 0xa5, sizeof bytes);
    secret_wipe(bytes + 4, 32);
    for (size_t i = 0; i < sizeof bytes; i++)
        assert_int_equal(bytes[i], i < 4 || i >= 36 ? 0xa5 : 0);
    secret_wipe(NULL, 0);
    secret_wipe(NULL, 10);
    memset(&key, 1, sizeof key);
    secret_key_clear(&key);
    for (size_t i = 0; i < KEY_BYTES; i++)
        assert_int_equal(key.b[i], 0);
}

static void equal_to_the_last_bit(void **state)
{
    uint8_t a[KEY_BYTES] = {1, 2, 3}, b[KEY_BYTES] = {1, 2, 3};
    (void)state;
    assert_true(secret_equal(a, b, sizeof a));
    for (size_t bit = 0; bit < 8 * sizeof b; bit++) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(secret_equal(a, b, sizeof a));
        assert_true(secret_equal(a, b, bit / 8)); /* what is before it */
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void blocks(void **state)
{
    (void)state;
    unsigned char *p = secret_alloc(10000);
    assert_non_null(p);
    for (size_t i = 0; i < 10000; i++)
        assert_int_equal(p[i], 0);
    assert_true(has_flag(p, " dd"));
    assert_true(has_flag(p + 9999, " dd"));
    assert_false(has_flag(&has_flag, " dd")); /* the look finds what is there */
    void *probe = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mlock(probe, 1) == 0 && has_flag(probe, " lo")) /* sanitizers lock nothing, limits may forbid it */
        assert_true(has_flag(p, " lo"));
    munmap(probe, 1);
    memset(p, 0x5a, 10000);
    secret_free(p, 10000);
    secret_free(NULL, 10);
    p = secret_alloc(0);
    assert_non_null(p);
    secret_free(p, 0);
    assert_null(secret_alloc(SIZE_MAX - 8192));
}

/* Beyond the limit on locked memory a block is still there. */
static void without_leave_to_lock(void **state)
{
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        int bad = setrlimit(RLIMIT_MEMLOCK, &none);
        if (geteuid() == 0)
            bad |= setgid(65534) | setuid(65534); /* root may lock whatever the limit says */
        unsigned char *p = secret_alloc(100);
        _exit(bad || !p || p[99] != 0 ? 1 : 0);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void hardened(void **state)
{
    (void)state;
    const pid_t child = fork();
    if (child == 0) {
        struct rlimit core = {1, 1};
        const int before = prctl(PR_GET_DUMPABLE);
        secret_harden_process();
        getrlimit(RLIMIT_CORE, &core);
        bool good = core.rlim_cur == 0 && core.rlim_max == 0;
#ifdef KMSGATE_TRACED
        good = good && prctl(PR_GET_DUMPABLE) == before;
#else
        good = good && before == 1 && prctl(PR_GET_DUMPABLE) == 0;
#endif
        _exit(good ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wiped), cmocka_unit_test(equal_to_the_last_bit), cmocka_unit_test(blocks),
        cmocka_unit_test(without_leave_to_lock), cmocka_unit_test(hardened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
