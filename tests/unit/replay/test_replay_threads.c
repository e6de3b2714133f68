/* Many threads with the same signed request: exactly one is let through. To be run under ThreadSanitizer, too. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "replay/replay.h"

enum { THREADS = 8, REQUESTS = 500 };
#define START (1000 * US_PER_S)

struct race {
    struct replay *replay;
    pthread_barrier_t start;
    atomic_uint accepted[REQUESTS], seen, other;
    int64_t step; /* of the clock, from one request to the next */
};

static void *run(void *arg)
{
    struct race *race = arg;
    pthread_barrier_wait(&race->start);
    for (unsigned i = 0; i < REQUESTS; i++) {
        char user[32];
        uint8_t value[32] = {0};
        const int64_t now = START + (int64_t)i * race->step;
        memcpy(value, &i, sizeof i);
        snprintf(user, sizeof user, "sip:%u@example.org", i % 40);
        const struct replay_claim c = {str_z(user), STR("ink"), value, sizeof value, now, now, now, now, false, 0};
        switch (replay_spend(race->replay, NULL, &c, NULL)) {
        case REASON_OK:
            atomic_fetch_add(&race->accepted[i], 1);
            break;
        case REASON_REPLAY_SEEN:
            atomic_fetch_add(&race->seen, 1);
            break;
        default:
            atomic_fetch_add(&race->other, 1);
        }
        (void)replay_count(race->replay);
        (void)replay_floor(race->replay);
    }
    return NULL;
}

static void race(struct race *r, unsigned max, int64_t step)
{
    pthread_t threads[THREADS];
    memset(r, 0, sizeof *r);
    r->step = step;
    r->replay = replay_memory_new(max, START, &(struct replay_settings){.past_us = 5 * US_PER_S});
    assert_non_null(r->replay);
    pthread_barrier_init(&r->start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run, r), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&r->start);
}

static void test_exactly_one(void **state)
{
    (void)state;
    static struct race r;
    race(&r, 100000, 0);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_int_equal(r.accepted[i], 1);
    assert_int_equal(r.seen, REQUESTS * (THREADS - 1));
    assert_int_equal(r.other, 0);
    assert_int_equal(replay_count(r.replay), REQUESTS);
    replay_free(r.replay);
}

/* With a clock that runs, and differs between threads: forgetting races with remembering; never are two let through. */
static void test_never_two_while_forgetting(void **state)
{
    (void)state;
    static struct race r;
    race(&r, 100000, US_PER_S);
    for (unsigned i = 0; i < REQUESTS; i++)
        assert_true(r.accepted[i] <= 1);
    replay_free(r.replay);
}

/* The bound is one for all shards and threads. */
static void test_never_over_the_bound(void **state)
{
    (void)state;
    static struct race r;
    race(&r, 160, 0);
    unsigned accepted = 0;
    for (unsigned i = 0; i < REQUESTS; i++) {
        assert_true(r.accepted[i] <= 1);
        accepted += r.accepted[i];
    }
    assert_int_equal(accepted, 160);
    assert_int_equal(replay_count(r.replay), 160);
    assert_true(r.other > 0);
    replay_free(r.replay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_one),
        cmocka_unit_test(test_never_two_while_forgetting),
        cmocka_unit_test(test_never_over_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
