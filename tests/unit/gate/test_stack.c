/*
 * What judging leaves on its thread's stack: no clear key, wherever the signature was looked at. The stack is ours, and
 * is searched when its thread has ended; what ran there stood deep enough for the thread's end not to write over it.
 */
#include "judging.h"

#include <pthread.h>
#include <sys/mman.h>

#include "gate/checks.h"

enum { STACK = 8u << 20, DEEP = 256u << 10 };

struct run {
    struct world *w;
    struct str body;
    void (*what)(struct run *r);
    enum reason reason;
};

/* The twin: what a key that is not wiped leaves. */
static __attribute__((noinline)) void leave_it(struct run *r)
{
    volatile uint8_t copy[KEY_BYTES]; /* octet by octet: a compiler may keep a struct in registers, or copy a part */
    for (size_t i = 0; i < KEY_BYTES; i++)
        copy[i] = r->w->ink[WHO_ALICE].b[i];
    r->reason = copy[0] == r->w->ink[WHO_ALICE].b[0] ? REASON_OK : REASON_INTERNAL;
}

static __attribute__((noinline)) void check_again(struct run *r)
{
    struct detail found = {""};
    checks_again(r->w->j);
    r->reason = check_signature(r->w->j, NOW, &found);
}

static __attribute__((noinline)) void judge_whole(struct run *r)
{
    const struct ask a = ask_of(r->w);
    r->reason = judge_text(r->w, &a, r->body);
}

static __attribute__((noinline)) void deep_down(struct run *r)
{
    volatile char room[DEEP];
    room[0] = 0;
    r->what(r);
    room[DEEP - 1] = room[0];
}

static void *thread(void *arg)
{
    deep_down(arg);
    return NULL;
}

/* Octet by octet: what the compiler's checks say of a stack that is no more is of no interest. */
static __attribute__((noinline, no_sanitize_address)) bool holds(const volatile uint8_t *p, size_t n,
                                                                 const uint8_t *key)
{
    for (size_t i = 0; i + KEY_BYTES <= n; i++) {
        size_t k = 0;
        while (k < KEY_BYTES && p[i + k] == key[k])
            k++;
        if (k == KEY_BYTES)
            return true;
    }
    return false;
}

static bool left_on_the_stack(struct run *r, void (*what)(struct run *r), const struct secret_key *key)
{
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    pthread_attr_t attr;
    pthread_t t;
    assert_true(stack != MAP_FAILED);
    r->what = what;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstack(&attr, stack, STACK), 0);
    assert_int_equal(pthread_create(&t, &attr, thread, r), 0);
    assert_int_equal(pthread_join(t, NULL), 0);
    pthread_attr_destroy(&attr);
    const bool found = holds(stack, STACK, key->b);
    assert_int_equal(munmap(stack, STACK), 0);
    return found;
}

static void test_no_key_is_left(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    struct buf body = BUF_INIT(1u << 20);
    ask_write(&a, &body);
    struct run r = {.w = w, .body = buf_view(&body)};
    assert_true(left_on_the_stack(&r, leave_it, &w->ink[WHO_ALICE]));
    assert_int_equal(r.reason, REASON_OK);
    assert_int_equal(judge_text(w, &a, r.body), REASON_OK);
    assert_false(left_on_the_stack(&r, check_again, &w->ink[WHO_ALICE]));
    assert_int_equal(r.reason, REASON_OK);
    replay_free(w->gate.replay);
    w->gate.replay = NULL; /* the same bytes once more */
    for (int tree = 0; tree < 2; tree++) {
        w->gate.by_tree = tree;
        assert_false(left_on_the_stack(&r, judge_whole, &w->ink[WHO_ALICE]));
        assert_int_equal(r.reason, REASON_OK);
    }
    w->gate.by_tree = false;
    buf_free(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_no_key_is_left, fresh)};
    if (!xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
