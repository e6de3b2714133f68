#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "base/buf.h"
#include "base/crypto.h"
#include "base/locked.h"
#include "page_flags.h"

enum { SPAN = 64 << 10 };

/* Sanitizers lock nothing, limits may forbid it. */
static bool can_lock(void)
{
    void *probe = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const bool can = mlock(probe, 1) == 0 && has_flag(probe, " lo");
    munmap(probe, 1);
    return can;
}

static bool all_is(const unsigned char *p, size_t n, unsigned char c)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != c)
            return false;
    return true;
}

static void pages(void **state)
{
    static const size_t SIZES[] = {1, 64, 65, 1000, 32 << 10, (32 << 10) + 1, SPAN, SPAN + 1, 5 << 20};
    (void)state;
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        unsigned char *p = locked_alloc(SIZES[i]);
        assert_non_null(p);
        assert_true(locked_owns(p));
        assert_true(locked_size(p) >= SIZES[i]);
        assert_true(all_is(p, SIZES[i], 0));
        assert_true(has_flag(p, " dd") && has_flag(p + SIZES[i] - 1, " dd"));
        assert_true(has_flag(p, " wf"));
        if (can_lock())
            assert_true(has_flag(p, " lo") && has_flag(p + SIZES[i] - 1, " lo"));
        memset(p, 0x5a, locked_size(p));
        locked_free(p);
    }
    locked_free(NULL);
    unsigned char *heap = malloc(100);
    assert_false(locked_owns(heap));
    assert_false(locked_owns(NULL));
    assert_false(has_flag(heap, " wf")); /* the look finds what is there */
    free(heap);
}

/* Blocks of all sizes come and go: none overlaps another, each is zero at first, and all goes back to the system. */
static void blocks(void **state)
{
    enum { MANY = 3000 };
    static struct {
        unsigned char *p, c;
        size_t n;
    } v[MANY];
    unsigned rand = 7;
    size_t held = 0;
    (void)state;
    for (size_t turn = 0; turn < 60000; turn++) {
        rand = rand * 1103515245 + 12345;
        const size_t i = (rand >> 8) % MANY;
        if (v[i].p) {
            assert_true(all_is(v[i].p, v[i].n, v[i].c));
            locked_free(v[i].p);
            held -= v[i].n;
            v[i].p = NULL;
            continue;
        }
        v[i].n = 1 + (rand >> 9) % (rand % 200 == 0 ? 200000 : rand % 7 == 0 ? 5000 : 300);
        v[i].p = locked_alloc(v[i].n);
        assert_non_null(v[i].p);
        assert_true(all_is(v[i].p, v[i].n, 0));
        v[i].c = (unsigned char)(1 + rand % 255);
        memset(v[i].p, v[i].c, v[i].n);
        held += v[i].n;
    }
    assert_true(held > SPAN);
    for (size_t i = 0; i < MANY; i++)
        locked_free(v[i].p);
    unsigned char *p = locked_alloc(40 << 20), *q;
    assert_non_null(p);
    locked_free(p);
    q = locked_alloc(40 << 20); /* the same addresses: nothing is lost between */
    assert_ptr_equal(p, q);
    locked_free(q);
}

/* What is behind the last of them belongs to nobody. */
static void guarded(void **state)
{
    (void)state;
    unsigned char *p = locked_alloc(30 << 20);
    assert_non_null(p);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        p[(size_t)30 << 20] = 1;
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
    locked_free(p);
}

static void empty_in_a_fork(void **state)
{
    (void)state;
    unsigned char *p = locked_alloc(100);
    assert_non_null(p);
    memset(p, 0x5a, 100);
    const pid_t child = fork();
    if (child == 0)
        _exit(all_is(p, 100, 0) ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(all_is(p, 100, 0x5a));
    locked_free(p);
}

static void *on_stack(void *arg)
{
    unsigned char key[64];
    memset(key, 0x5a, sizeof key);
    const bool good = has_flag(key, " dd") && has_flag(key, " wf") && (!can_lock() || has_flag(key, " lo"));
    if (good)
        memcpy(arg, &(char){1}, 1);
    return NULL;
}

static void threads(void **state)
{
    char good = 0;
    struct locked_thread t;
    (void)state;
    const size_t before = locked_missing();
    assert_true(locked_thread_start(&t, on_stack, &good));
    locked_thread_join(&t);
    assert_int_equal(good, 1);
    assert_int_equal(locked_missing(), before);
}

/* Beyond the limit it is told, and given all the same. */
static void without_leave_to_lock(void **state)
{
    (void)state;
    if (!can_lock())
        skip();
    assert_int_equal(locked_missing(), 0);
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        int bad = setrlimit(RLIMIT_MEMLOCK, &none);
        if (geteuid() == 0)
            bad |= setgid(65534) | setuid(65534); /* root may lock whatever the limit says */
        bad |= locked_limit(false) != 0;
        unsigned char *p = locked_alloc(3 << 20);
        bad |= !p || locked_missing() < 3 << 20;
        locked_free(p);
        bad |= locked_missing() > 1 << 20;
        _exit(bad);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(locked_limit(true) > 0);
    assert_true(locked_need(2) > locked_need(1));
}

/* What OpenSSL allocates for keys is in there, what it allocates otherwise is not. */
static void of_openssl(void **state)
{
    (void)state;
#ifndef KMSGATE_TRACED
    void *plain = OPENSSL_malloc(100);
    crypto_keys_begin();
    void *ours = OPENSSL_malloc(100);
    plain = OPENSSL_realloc(plain, 200);
    ours = OPENSSL_realloc(ours, 3000);
    crypto_keys_end();
    assert_true(locked_owns(ours));
    assert_true(locked_size(ours) >= 3000);
    assert_false(locked_owns(plain));
    ours = OPENSSL_realloc(ours, 10);
    assert_false(locked_owns(ours));
    OPENSSL_free(ours);
    OPENSSL_free(plain);
#endif
    struct buf keys BUF_CLEANUP = BUF_INIT_KEYS(1 << 20), other BUF_CLEANUP = BUF_INIT_SECRET(1 << 20);
    for (size_t i = 0; i < 5000; i++) {
        buf_printf(&keys, "%zu ", i);
        buf_printf(&other, "%zu ", i);
    }
    assert_true(locked_owns(keys.p));
    assert_false(locked_owns(other.p));
    assert_int_equal(keys.n, other.n);
    assert_memory_equal(keys.p, other.p, keys.n + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages), cmocka_unit_test(blocks), cmocka_unit_test(guarded),
        cmocka_unit_test(empty_in_a_fork), cmocka_unit_test(threads), cmocka_unit_test(without_leave_to_lock),
        cmocka_unit_test(of_openssl),
    };
    locked_use_pages();
    if (!crypto_memory_setup())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
