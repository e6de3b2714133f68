/* The engine before a server that the test is: what it says of a request, and when it is ready. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/metrics.h"
#include "replay/redis_talk.h"

#define MEMORY "maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n"
#define ROLE "role:master\r\n"

struct scene {
    struct replay *replay;
    struct replay_line *line;
    struct redis_line *wire;
};

static void *lend(void *arg, struct redis_line *l, struct event_base *loop)
{
    struct scene *s = arg;
    (void)loop;
    s->wire = l;
    return s;
}

static void nothing(void *wire)
{
    (void)wire;
}

static struct scene scene(uint8_t secret)
{
    static const struct redis_sockets SOCKETS = {lend, nothing, nothing};
    const struct secret_key key = {{secret}};
    const struct replay_redis how = {.name = "redis://test", .secret = &key, .timeout_us = 200000,
                                     .apart_us = 1000000, .user_max = 100};
    const struct replay_settings settings = {5000000, 5000000, 0};
    struct scene s = {0}, *lent = calloc(1, sizeof *lent);
    assert_non_null(lent);
    s.replay = replay_redis_new(&how, &settings, &SOCKETS, lent);
    assert_non_null(s.replay);
    s.line = replay_line_open(s.replay, &(struct replay_host){.loop = NULL});
    assert_non_null(s.line);
    s.wire = lent->wire;
    free(lent);
    return s;
}

static void end(struct scene *s)
{
    redis_line_lost(s->wire, REDIS_CONNECTION, "the test ends");
    replay_line_close(s->line);
    replay_free(s->replay);
    metrics_free();
}

/* The floor of its epoch: a second after 1970 began. */
static void greet(struct scene *s)
{
    char text[500];
    redis_line_connected(s->wire, PEER_SERVER);
    const int n = snprintf(text, sizeof text,
                           "$%zu\r\n%s\r\n$%zu\r\n%s\r\n:%lld\r\n:0\r\n*3\r\n:0\r\n:1700000000000\r\n:1000\r\n",
                           sizeof MEMORY - 1, MEMORY, sizeof ROLE - 1, ROLE, (long long)talk_library_version());
    assert_true(redis_line_feed(s->wire, text, (size_t)n));
}

static void ready_from_the_floor_on(void **state)
{
    struct scene s = scene(1);
    (void)state;
    assert_string_equal(replay_unready(s.replay, 2000000), "starting");
    greet(&s);
    assert_int_equal(replay_floor(s.replay), 1000000);
    assert_string_equal(replay_unready(s.replay, 999999), "replay: epoch");
    assert_null(replay_unready(s.replay, 1000000));
    end(&s);
}

static void done(void *arg, enum reason reason)
{
    (void)arg, (void)reason;
}

/* What is said of a request with this user, this key and this SignatureValue: [0] of the user, [1] of the request. */
static void said_of(struct scene *s, struct str user, struct str key, struct str value, uint8_t out[2][REPLAY_DIGEST])
{
    const struct replay_claim claim = {.user = user, .key_id = key, .value = (const uint8_t *)value.p,
                                       .value_n = value.n, .earliest_us = 2000000, .latest_us = 2000000};
    struct replay_call call = {.done = done};
    assert_int_equal(replay_spend(s->replay, s->line, &claim, &call), REASON_OK);
    assert_true(call.waits);
    memcpy(out, call.digest, sizeof call.digest);
    replay_cancel(&call);
}

static bool alike(const uint8_t a[REPLAY_DIGEST], const uint8_t b[REPLAY_DIGEST])
{
    return memcmp(a, b, REPLAY_DIGEST) == 0;
}

/* Two requests are one only where the user's, the key's and the signature's octets are, wherever one text ends and the
 * next begins, short enough to be keyed as they are or not; and to a fleet with another secret nothing is the same. */
static void what_is_one_request(void **state)
{
    static char x[1100];
    static const struct {
        size_t key, value; /* of so many octets, of one text */
    } CUTS[] = {{2, 32},   {1, 33},   {33, 1},    {257, 32},  {1, 288},
                {33, 256}, {256, 33}, {1024, 32}, {1025, 31}, {32, 1024}};
    enum { ALL = sizeof CUTS / sizeof *CUTS };
    uint8_t is[ALL][2][REPLAY_DIGEST], again[2][REPLAY_DIGEST];
    struct scene s = scene(1), other = scene(2);
    (void)state;
    memset(x, 'x', sizeof x);
    greet(&s);
    greet(&other);
    for (size_t i = 0; i < ALL; i++) {
        const struct str key = {x, CUTS[i].key}, value = {x, CUTS[i].value};
        said_of(&s, STR("sip:alice@a.example"), key, value, is[i]);
        said_of(&s, STR("sip:alice@a.example"), key, value, again);
        assert_true(alike(is[i][0], again[0]) && alike(is[i][1], again[1]));
        said_of(&s, STR("sip:bob@a.example"), key, value, again);
        assert_true(!alike(is[i][0], again[0]) && alike(is[i][1], again[1]));
        said_of(&other, STR("sip:alice@a.example"), key, value, again);
        assert_true(!alike(is[i][0], again[0]) && !alike(is[i][1], again[1]));
        for (size_t k = 0; k < i; k++)
            assert_true(alike(is[k][0], is[i][0]) && !alike(is[k][1], is[i][1]));
    }
    end(&s);
    end(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ready_from_the_floor_on),
        cmocka_unit_test(what_is_one_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
