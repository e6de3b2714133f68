#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/metrics.h"
#include "replay/redis_talk.h"

/* One conversation; the test is the server. */
struct scene {
    struct redis_site site;
    struct talk talk;
};
struct asker {
    struct replay_call call;
    int answers;
    enum reason reason;
};

static void done(void *arg, enum reason reason)
{
    struct asker *a = arg;
    a->answers++;
    a->reason = reason;
}

static struct scene *scene(unsigned wait)
{
    static struct secret_key key = {{1}};
    struct scene *s = calloc(1, sizeof *s);
    s->site.how = (struct replay_redis){.name = "redis://test", .timeout_us = 200000, .apart_us = 1000000,
                                        .wait_replicas = wait};
    s->site.secret = &key;
    snprintf(s->site.mark, sizeof s->site.mark, "0123456789abcdef");
    atomic_init(&s->site.past_us, 5000000);
    atomic_init(&s->site.future_us, 5000000);
    atomic_init(&s->site.user_max, 100);
    assert_true(talk_init(&s->talk, &s->site));
    return s;
}

static void end(struct scene *s)
{
    talk_end(&s->talk);
    talk_free(&s->talk);
    free(s);
    metrics_free();
}

static bool says(struct scene *s, const char *text)
{
    return talk_feed(&s->talk, text, strlen(text));
}

/* What was said since; it is forgotten. */
static bool said(struct scene *s, const char *part)
{
    const bool found = s->talk.out.p && memmem(s->talk.out.p, s->talk.out.n, part, strlen(part));
    buf_reset(&s->talk.out);
    return found;
}

static void info(char *out, size_t n, const char *text)
{
    snprintf(out, n, "$%zu\r\n%s\r\n", strlen(text), text);
}

#define MEMORY "maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n"
#define NOW_DONE "*3\r\n:0\r\n:1700000000000\r\n:1\r\n"

static void greet(struct scene *s)
{
    char text[500];
    talk_begin(&s->talk);
    assert_false(talk_takes(&s->talk));
    info(text, sizeof text, MEMORY);
    assert_true(says(s, text));
    info(text, sizeof text, "role:master\r\n");
    assert_true(says(s, text));
    snprintf(text, sizeof text, ":%lld\r\n", (long long)talk_library_version());
    assert_true(says(s, text));
    assert_true(says(s, ":0\r\n" NOW_DONE));
    if (s->site.how.wait_replicas)
        assert_true(says(s, ":1\r\n"));
    assert_int_equal(s->talk.fault, REDIS_FINE);
    assert_true(talk_takes(&s->talk));
    buf_reset(&s->talk.out);
}

static void spend(struct scene *s, struct asker *a)
{
    static const struct replay_claim claim = {.earliest_us = 1700000000123456, .latest_us = 1700000000123456};
    *a = (struct asker){.call = {.done = done}};
    a->call.arg = a;
    memset(a->call.digest, 'a', sizeof a->call.digest);
    talk_spend(&s->talk, &claim, &a->call);
    assert_true(a->call.waits);
}

static void a_turn_is_one_command(void **state)
{
    struct scene *s = scene(0);
    struct asker a[3];
    (void)state;
    greet(s);
    for (int i = 0; i < 3; i++)
        spend(s, &a[i]);
    assert_int_equal(s->talk.out.n, 0);
    talk_flush(&s->talk);
    const struct str out = buf_view(&s->talk.out);
    assert_true(str_starts(out, STR("*27\r\n$5\r\nFCALL\r\n$13\r\nkmsgate_spend\r\n$1\r\n5\r\n"
                                    "$15\r\n{kmsgate}:epoch\r\n$15\r\n{kmsgate}:walls\r\n$26\r\n")));
    assert_true(said(s, "$16\r\naaaaaaaaaaaaaaaa\r\n$13\r\n1700000000123\r\n$13\r\n1700000000124\r\n$0\r\n\r\n"));
    assert_true(says(s, "*6\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n:1\r\n"));
    assert_int_equal(a[0].answers, 0); /* not yet whole */
    assert_true(says(s, ":2\r\n"));
    assert_int_equal(a[0].reason, REASON_OK);
    assert_int_equal(a[1].reason, REASON_REPLAY_SEEN);
    assert_int_equal(a[2].reason, REASON_REPLAY_FULL);
    for (int i = 0; i < 3; i++)
        assert_true(a[i].answers == 1 && !a[i].call.waits);
    end(s);
}

/* Without a zone it is remembered until clocks have passed it everywhere; far ahead, not for years. */
static void without_a_zone(void **state)
{
    const int64_t now = 1700000000, hour = 3600;
    const struct {
        int64_t wall_s, latest_s;
        const char *until;
    } CASES[] = {{now + hour, now, "$13\r\n1700054000000\r\n"}, {now + 1000 * hour, now, "$13\r\n1700172800000\r\n"},
                 {now + hour, now + 49 * hour, "$13\r\n1700176400000\r\n"}}; /* never less than its own rule says */
    struct scene *s = scene(0);
    (void)state;
    greet(s);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct replay_claim claim = {.earliest_us = now * US_PER_S, .latest_us = CASES[i].latest_s * US_PER_S,
                                     .now_us = now * US_PER_S, .zoneless = true, .wall_us = CASES[i].wall_s * US_PER_S};
        struct asker a = {.call = {.done = done}};
        a.call.arg = &a;
        talk_spend(&s->talk, &claim, &a.call);
        talk_flush(&s->talk);
        assert_true(said(s, CASES[i].until));
        assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n"));
        assert_true(a.answers == 1 && a.reason == REASON_OK);
    }
    end(s);
}

/* What was asked for without a zone is told to the next epoch alone; never what no rule judged by its Time. */
static void without_a_zone_in_another_epoch(void **state)
{
    const int64_t now = 1700000000 * US_PER_S, wall = now + 3600 * US_PER_S;
    struct replay_claim claim = {.earliest_us = now, .latest_us = now, .time_us = now, .now_us = now, .zoneless = true,
                                 .wall_us = wall};
    struct scene *s = scene(0);
    struct asker a = {.call = {.done = done, .arg = &a}}, b = {.call = {.done = done, .arg = &b}};
    (void)state;
    greet(s);
    talk_spend(&s->talk, &claim, &a.call);
    claim.time_us = TIME_NONE;
    claim.wall_us += US_PER_S;
    talk_spend(&s->talk, &claim, &b.call);
    talk_flush(&s->talk);
    assert_non_null(memmem(s->talk.out.p, s->talk.out.n, "0123456789abcdef\r\n$1\r\n0\r\n", 25));
    assert_non_null(memmem(s->talk.out.p, s->talk.out.n, "$13\r\n1700003600000\r\n", 20));
    assert_false(said(s, "$13\r\n1700003601000\r\n"));
    assert_true(says(s, "*5\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n:0\r\n"));
    talk_beat(&s->talk);
    assert_true(said(s, "0123456789abcdef\r\n$1\r\n0\r\n") && says(s, "*3\r\n:0\r\n:1700000000000\r\n:2\r\n"));
    talk_beat(&s->talk);
    assert_true(said(s, "0123456789abcdef\r\n$13\r\n1700003600001\r\n"));
    assert_true(a.reason == REASON_OK && b.reason == REASON_OK);
    end(s);
}

static void more_than_a_batch(void **state)
{
    enum { MANY = 3 * BATCH + 5 };
    static struct asker a[MANY];
    struct scene *s = scene(0);
    (void)state;
    greet(s);
    for (int i = 0; i < MANY; i++)
        spend(s, &a[i]);
    talk_flush(&s->talk);
    assert_int_equal(s->talk.asked_end - s->talk.asked_first, 4);
    for (int left = MANY; left > 0; left -= BATCH) {
        const int n = left < BATCH ? left : BATCH;
        struct buf reply = BUF_INIT(10000);
        buf_printf(&reply, "*%d\r\n:0\r\n:1700000000000\r\n:1\r\n", 3 + n);
        for (int i = 0; i < n; i++)
            buf_z(&reply, ":0\r\n");
        for (size_t i = 0; i < reply.n; i++) /* byte by byte */
            assert_true(talk_feed(&s->talk, reply.p + i, 1));
        buf_free(&reply);
    }
    for (int i = 0; i < MANY; i++)
        assert_true(a[i].answers == 1 && a[i].reason == REASON_OK);
    end(s);
}

/* Who went away before it was asked is left out; of him who went away later, what was spent is taken back. */
static void cancelled(void **state)
{
    struct scene *s = scene(0);
    struct asker a, b;
    (void)state;
    greet(s);
    spend(s, &a);
    spend(s, &b);
    talk_cancel(&s->talk, &a.call);
    assert_false(a.call.waits);
    talk_flush(&s->talk);
    assert_true(said(s, "*17\r\n")); /* one request */
    talk_cancel(&s->talk, &b.call);
    assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n"));
    assert_true(said(s, "kmsgate_forget"));
    assert_true(says(s, ":1\r\n"));
    spend(s, &a);
    talk_flush(&s->talk);
    talk_cancel(&s->talk, &a.call);
    assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:1\r\n"));
    assert_false(said(s, "kmsgate_forget")); /* another's is not taken back */
    assert_int_equal(a.answers + b.answers, 0);
    end(s);
}

static void replicas_are_waited_for(void **state)
{
    struct scene *s = scene(1);
    struct asker a, b, c;
    (void)state;
    greet(s);
    spend(s, &a);
    spend(s, &b);
    talk_flush(&s->talk);
    assert_true(said(s, "*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$3\r\n150\r\n"));
    spend(s, &c);
    talk_flush(&s->talk);
    assert_true(says(s, "*5\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n:1\r\n"));
    assert_int_equal(a.answers, 0);
    assert_int_equal(b.reason, REASON_REPLAY_SEEN);
    assert_true(says(s, ":1\r\n"));
    assert_true(a.answers == 1 && a.reason == REASON_OK);
    assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n:0\r\n"));
    assert_true(c.answers == 1 && c.reason == REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(s->talk.fault, REDIS_REPLICAS);
    assert_false(talk_takes(&s->talk));
    end(s);
}

/* Each refuses who waits, once; whether the connection goes on, and what is told. */
static void what_servers_say(void **state)
{
    static const struct {
        const char *reply;
        bool goes_on;
        enum redis_fault fault;
        enum reason reason;
    } CASES[] = {
        {"*3\r\n:1\r\n:1700000000000\r\n:1\r\n", true, REDIS_CLOCK, REASON_REPLAY_UNAVAILABLE},
        {"*3\r\n:2\r\n:1700000000000\r\n:1\r\n", true, REDIS_SECRET, REASON_REPLAY_UNAVAILABLE},
        {"*4\r\n:0\r\n:1700000000000\r\n:1\r\n:3\r\n", true, REDIS_FINE, REASON_REPLAY_UNAVAILABLE},
        {"-OOM command not allowed\r\n", true, REDIS_FULL, REASON_REPLAY_FULL},
        {"-NOREPLICAS Not enough\r\n", true, REDIS_REPLICAS, REASON_REPLAY_UNAVAILABLE},
        {"-READONLY You can't\r\n", false, REDIS_ROLE, REASON_REPLAY_UNAVAILABLE},
        {"-ERR Function not found\r\n", false, REDIS_LIBRARY, REASON_REPLAY_UNAVAILABLE},
        {"-NOPERM this user\r\n", false, REDIS_AUTH, REASON_REPLAY_UNAVAILABLE},
        {"-ERR The user executing the script can't run this command\r\n", false, REDIS_AUTH,
         REASON_REPLAY_UNAVAILABLE},
        {"-LOADING\r\n", false, REDIS_SERVER, REASON_REPLAY_UNAVAILABLE},
        {"-MISCONF disk\r\n", false, REDIS_SERVER, REASON_REPLAY_UNAVAILABLE},
        {"-\r\n", false, REDIS_SERVER, REASON_REPLAY_UNAVAILABLE},
        {":0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*3\r\n:0\r\n:1700000000000\r\n:1\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*5\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n:0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*4\r\n:0\r\n:1700000000000\r\n:1\r\n:4\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*4\r\n:0\r\n:9223372036854775807\r\n:1\r\n:0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*4\r\n:0\r\n:1700000000000\r\n:1\r\n$1\r\n0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*4\r\n:0\r\n:1700000000000\r\n:1\r\n*1\r\n:0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"*73\r\n:0\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
        {"!oops\r\n", false, REDIS_PROTOCOL, REASON_REPLAY_UNAVAILABLE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct scene *s = scene(0);
        struct asker a;
        greet(s);
        spend(s, &a);
        talk_flush(&s->talk);
        if (says(s, CASES[i].reply) != CASES[i].goes_on || s->talk.fault != CASES[i].fault)
            fail_msg("%s: %s", CASES[i].reply, redis_fault_name(s->talk.fault));
        if (!CASES[i].goes_on)
            talk_end(&s->talk);
        if (a.answers != 1 || a.reason != CASES[i].reason)
            fail_msg("%s: %d answers, %s", CASES[i].reply, a.answers, reason_name(a.reason));
        end(s);
    }
}

static void greetings_that_fail(void **state)
{
    static const struct {
        const char *memory, *role, *version; /* a text is INFO's, one with \r a reply */
        enum redis_fault fault;
    } CASES[] = {
        {"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", NULL, NULL, REDIS_EVICTION},
        {"used_memory:0\r\n", NULL, NULL, REDIS_PROTOCOL},
        {MEMORY, "role:slave\r\n", NULL, REDIS_ROLE},
        {MEMORY, "role:master\r\n", "+OK\r\n", REDIS_PROTOCOL},
        {MEMORY, "role:master\r\n", "-ERR unknown command `FCALL`\r\n", REDIS_LIBRARY},
        {MEMORY, "role:master\r\n", "-LOADING\r\n", REDIS_SERVER},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct scene *s = scene(0);
        char text[500];
        bool goes_on;
        talk_begin(&s->talk);
        info(text, sizeof text, CASES[i].memory);
        goes_on = says(s, text);
        if (CASES[i].role) {
            assert_true(goes_on);
            info(text, sizeof text, CASES[i].role);
            goes_on = says(s, text);
        }
        if (CASES[i].version) {
            assert_true(goes_on);
            goes_on = says(s, CASES[i].version);
        }
        assert_false(goes_on);
        assert_int_equal(s->talk.fault, CASES[i].fault);
        end(s);
    }
}

/* Missing: loaded. Older: replaced. Newer: left alone. Loaded again and again in vain: given up. */
static void the_library(void **state)
{
    struct scene *s = scene(0);
    char text[500];
    (void)state;
    assert_true(talk_library_version() >= 1);
    talk_begin(&s->talk);
    info(text, sizeof text, MEMORY "role:master\r\n");
    assert_true(says(s, text) && says(s, text));
    assert_true(says(s, "-ERR Function not found\r\n"));
    assert_true(said(s, "*3\r\n$8\r\nFUNCTION\r\n$4\r\nLOAD\r\n"));
    assert_true(says(s, "$7\r\nkmsgate\r\n") && said(s, "kmsgate_version"));
    assert_true(says(s, ":0\r\n") && said(s, "*4\r\n$8\r\nFUNCTION\r\n$4\r\nLOAD\r\n$7\r\nREPLACE\r\n"));
    assert_true(says(s, "-ERR Library 'kmsgate' already exists\r\n") && said(s, "kmsgate_version"));
    assert_true(says(s, ":999\r\n") && said(s, "kmsgate_spend"));
    assert_false(s->talk.greeting);
    end(s);
    s = scene(0);
    talk_begin(&s->talk);
    assert_true(says(s, text) && says(s, text));
    for (int i = 0; i < 3; i++)
        assert_true(says(s, "-ERR Function not found\r\n") && says(s, "$7\r\nkmsgate\r\n"));
    assert_false(says(s, "-ERR Function not found\r\n"));
    assert_int_equal(s->talk.fault, REDIS_LIBRARY);
    end(s);
}

static void a_lost_connection_refuses_all(void **state)
{
    struct scene *s = scene(0);
    struct asker a, b;
    (void)state;
    greet(s);
    spend(s, &a);
    talk_flush(&s->talk);
    spend(s, &b);
    talk_end(&s->talk);
    assert_true(a.answers == 1 && a.reason == REASON_REPLAY_UNAVAILABLE);
    assert_true(b.answers == 1 && b.reason == REASON_REPLAY_UNAVAILABLE);
    assert_false(talk_takes(&s->talk));
    greet(s); /* another one */
    spend(s, &a);
    talk_flush(&s->talk);
    assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n"));
    assert_int_equal(a.reason, REASON_OK);
    end(s);
}

static void silence(void **state)
{
    struct scene *s = scene(0);
    struct asker a;
    (void)state;
    s->site.how.timeout_us = 10000;
    greet(s);
    spend(s, &a);
    talk_flush(&s->talk);
    usleep(20000);
    assert_true(talk_tick(&s->talk));
    assert_int_equal(s->talk.fault, REDIS_TIMEOUT);
    assert_false(talk_takes(&s->talk)); /* refused at once from now on */
    assert_true(says(s, "*4\r\n:0\r\n:1700000000000\r\n:1\r\n:0\r\n"));
    assert_int_equal(a.answers, 1);
    assert_int_equal(s->talk.fault, REDIS_TIMEOUT); /* the next one might be as late */
    assert_false(talk_takes(&s->talk));
    s->site.how.timeout_us = 600 * US_PER_S;
    talk_beat(&s->talk);
    assert_true(says(s, NOW_DONE));
    assert_true(talk_takes(&s->talk));
    end(s);
}

static void late_replicas(void **state)
{
    struct scene *s = scene(1);
    (void)state;
    greet(s);
    talk_beat(&s->talk);
    assert_true(says(s, NOW_DONE));
    s->site.how.timeout_us = 10000;
    usleep(20000);
    assert_true(says(s, ":1\r\n"));
    assert_int_equal(s->talk.fault, REDIS_TIMEOUT);
    s->site.how.timeout_us = 600 * US_PER_S;
    talk_beat(&s->talk);
    assert_true(says(s, NOW_DONE ":1\r\n"));
    assert_true(talk_takes(&s->talk));
    end(s);
}

static void sentinels(void **state)
{
    static const struct {
        const char *reply;
        enum sentinel_says says;
    } CASES[] = {
        {"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", SENTINEL_KNOWS},
        {"+OK\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n", SENTINEL_KNOWS},
        {"*2\r\n$9\r\n127.0", SENTINEL_MORE}, {"*-1\r\n", SENTINEL_FAILS}, {"*1\r\n$1\r\na\r\n", SENTINEL_FAILS},
        {"*2\r\n$1\r\na\r\n$5\r\n65536\r\n", SENTINEL_FAILS}, {"*2\r\n$1\r\na\r\n$1\r\n0\r\n", SENTINEL_FAILS},
        {"*2\r\n$1\r\n/\r\n$1\r\n1\r\n", SENTINEL_FAILS}, {"*2\r\n$0\r\n\r\n$1\r\n1\r\n", SENTINEL_FAILS},
        {"-NOAUTH Authentication required.\r\n", SENTINEL_LOCKED}, {"-ERR what\r\n", SENTINEL_FAILS},
        {"HTTP\r\n", SENTINEL_FAILS},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct scene *s = scene(0);
        char host[REDIS_HOST] = "", port[REDIS_PORT] = "";
        s->site.how.master = "kms";
        redis_ask_sentinel(&s->talk, false);
        assert_true(said(s, "*3\r\n$8\r\nSENTINEL\r\n$23\r\nGET-MASTER-ADDR-BY-NAME\r\n$3\r\nkms\r\n"));
        const int got = (int)redis_hear_sentinel(&s->talk, CASES[i].reply, strlen(CASES[i].reply), host, port);
        if (got != (int)CASES[i].says)
            fail_msg("%s: %d", CASES[i].reply, got);
        assert_int_equal(*port != '\0', CASES[i].says == SENTINEL_KNOWS);
        end(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_is_one_command),
        cmocka_unit_test(without_a_zone), cmocka_unit_test(without_a_zone_in_another_epoch),
        cmocka_unit_test(more_than_a_batch), cmocka_unit_test(cancelled),
        cmocka_unit_test(replicas_are_waited_for), cmocka_unit_test(what_servers_say),
        cmocka_unit_test(greetings_that_fail), cmocka_unit_test(the_library),
        cmocka_unit_test(a_lost_connection_refuses_all), cmocka_unit_test(silence),
        cmocka_unit_test(late_replicas), cmocka_unit_test(sentinels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
