/* The mark's file: what is written is read again, and nothing else; and who keeps it while requests are accepted. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "replay/mark.h"
#include "replay/replay.h"

#define S(n) ((int64_t)(n) * US_PER_S)

struct place {
    char folder[64], file[96];
    struct secret_key key;
};

static int begin(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    snprintf(p->folder, sizeof p->folder, "/tmp/kmsgate-mark-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    snprintf(p->file, sizeof p->file, "%s/" MARK_FILE, p->folder);
    memset(p->key.b, 7, sizeof p->key.b);
    *state = p;
    return 0;
}

static int end(void **state)
{
    struct place *p = *state;
    unlink(p->file);
    const int left = rmdir(p->folder); /* nothing but the mark was ever left there */
    free(p);
    return left;
}

static enum mark_found found(const struct place *p, struct mark *m)
{
    struct detail why = {""};
    const enum mark_found r = mark_read(p->folder, &p->key, m, &why);
    assert_int_equal(r == MARK_FOREIGN, why.text[0] != 0);
    return r;
}

static void test_round_trip(void **state)
{
    struct place *p = *state;
    static const struct mark MARKS[] = {{0, 1, true, 0, TIME_NONE}, {S(1795000000) + 7, S(1795000001), false, 3, -4},
                                        {INT64_MAX, INT64_MAX, true, INT64_MAX, INT64_MAX}, {-1, -5, false, -1, 0}};
    struct mark m;
    struct stat st;
    assert_int_equal(found(p, &m), MARK_NONE);
    for (size_t i = 0; i < sizeof MARKS / sizeof *MARKS; i++) {
        assert_true(mark_write(p->folder, &p->key, &MARKS[i], NULL));
        assert_int_equal(found(p, &m), MARK_FOUND);
        assert_int_equal(m.latest_us, MARKS[i].latest_us);
        assert_int_equal(m.clock_us, MARKS[i].clock_us);
        assert_int_equal(m.clean, MARKS[i].clean);
        assert_int_equal(m.walls_us, MARKS[i].walls_us);
        assert_int_equal(m.east_us, MARKS[i].east_us);
    }
    assert_int_equal(stat(p->file, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void put(const struct place *p, const char *text, size_t n)
{
    FILE *f = fopen(p->file, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Any bit that is changed, any byte that is missing or too many. */
static void test_damage(void **state)
{
    struct place *p = *state;
    const struct mark whole = {S(1795000000), S(1795000000), true, 0, TIME_NONE};
    struct mark m;
    char text[512], other[512];
    assert_true(mark_write(p->folder, &p->key, &whole, NULL));
    FILE *f = fopen(p->file, "r");
    const size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    assert_true(n > 100 && n < sizeof text - 1);
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(other, text, n);
            other[i] = (char)(other[i] ^ (1 << bit));
            put(p, other, n);
            assert_int_equal(found(p, &m), MARK_FOREIGN);
        }
    for (size_t i = 0; i < n; i++) {
        put(p, text, i);
        assert_int_equal(found(p, &m), MARK_FOREIGN);
    }
    memcpy(other, text, n);
    other[n] = '\n';
    put(p, other, n + 1);
    assert_int_equal(found(p, &m), MARK_FOREIGN);
    put(p, text, n);
    assert_int_equal(found(p, &m), MARK_FOUND);
    p->key.b[31] ^= 1;
    assert_int_equal(found(p, &m), MARK_FOREIGN); /* of other keys */
}

static void test_no_file(void **state)
{
    struct place *p = *state;
    const struct mark whole = {S(1795000000), S(1795000000), true, 0, TIME_NONE};
    struct mark m;
    struct detail why = {""};
    assert_int_equal(mkdir(p->file, 0700), 0);
    assert_int_equal(found(p, &m), MARK_FOREIGN);
    assert_false(mark_write(p->folder, &p->key, &whole, &why));
    assert_non_null(strstr(why.text, "cannot be written"));
    assert_int_equal(rmdir(p->file), 0);
    assert_int_equal(symlink("/dev/null", p->file), 0); /* whoever may write there must not lead it elsewhere */
    assert_int_equal(found(p, &m), MARK_FOREIGN);
    assert_true(mark_write(p->folder, &p->key, &whole, NULL));
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_false(mark_write("/nonexistent/folder", &p->key, &whole, &why));
    char fresh[128];
    snprintf(fresh, sizeof fresh, "%s.new", p->file);
    unlink(fresh);
}

/* --- a memory that keeps a mark --- */

struct kept {
    struct replay *r;
    struct replay_line *line;
    int wake;
    unsigned answers;
    enum reason answer;
};

static void wake(void *arg)
{
    const uint64_t one = 1;
    assert_int_equal(write(((struct kept *)arg)->wake, &one, sizeof one), sizeof one);
}

static void done(void *arg, enum reason reason)
{
    struct kept *k = arg;
    k->answers++;
    k->answer = reason;
}

static void open_kept(struct kept *k, const struct place *p, int64_t future_us)
{
    const struct replay_state state = {p->folder, p->key};
    const struct replay_settings settings = {.past_us = S(5), .future_us = future_us};
    *k = (struct kept){.wake = eventfd(0, EFD_NONBLOCK)};
    k->r = replay_memory_kept(1000, &settings, &state, time_now_us());
    assert_non_null(k->r);
    assert_true(replay_start(k->r, NULL));
    k->line = replay_line_open(k->r, &(struct replay_host){NULL, wake, k});
    assert_non_null(k->line);
}

static void close_kept(struct kept *k, bool clean)
{
    replay_line_close(k->line);
    if (clean)
        replay_end(k->r);
    replay_free(k->r);
    close(k->wake);
}

static struct replay_claim claim_at(int64_t time_us, int64_t now_us)
{
    static unsigned number;
    static uint8_t value[4];
    number++;
    memcpy(value, &number, sizeof value);
    return (struct replay_claim){STR("u"), STR("k"), value, 4, time_us, time_us, time_us, now_us, false, 0};
}

static void await_answer(struct kept *k)
{
    struct pollfd fd = {k->wake, POLLIN, 0};
    for (int i = 0; i < 100 && !k->answers; i++) {
        uint64_t n;
        assert_true(poll(&fd, 1, 60000) == 1);
        assert_int_equal(read(k->wake, &n, sizeof n), sizeof n);
        replay_line_turn(k->line);
    }
    assert_int_equal(k->answers, 1);
}

/* A Time further ahead than 5 s is accepted when the mark on the disk has reached it, and not before. */
static void test_far_ahead_waits_for_the_mark(void **state)
{
    struct place *p = *state;
    struct kept k;
    struct mark m = {.clean = true};
    assert_true(mark_write(p->folder, &p->key, &m, NULL));
    open_kept(&k, p, S(60));
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_false(m.clean); /* the word is taken away before anything is accepted */
    const int64_t now = replay_floor(k.r);
    struct replay_call call = {.done = done, .arg = &k};
    struct replay_claim c = claim_at(now + S(5), now);
    assert_int_equal(replay_spend(k.r, k.line, &c, &call), REASON_OK);
    assert_false(call.waits);
    c = claim_at(now + S(5) + 1, now);
    (void)!replay_spend(k.r, k.line, &c, &call);
    assert_true(call.waits);
    await_answer(&k);
    assert_int_equal(k.answer, REASON_OK);
    assert_false(call.waits);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.latest_us >= now + S(5) + 1 && m.latest_us < now + S(7) && !m.clean);
    (void)!replay_spend(k.r, k.line, &c, &call);
    assert_false(call.waits); /* REPLAY_SEEN: it is spent while it waits, and afterwards */
    c = claim_at(m.latest_us, now); /* the mark is there already */
    assert_int_equal(replay_spend(k.r, k.line, &c, &call), REASON_OK);
    assert_false(call.waits);
    c = claim_at(now + S(50), now); /* nobody who could wait */
    assert_int_equal(replay_spend(k.r, NULL, &c, NULL), REASON_REPLAY_UNAVAILABLE);
    assert_int_equal(replay_count(k.r), 3);
    close_kept(&k, true);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.clean && m.latest_us >= now + S(5) + 1 && m.latest_us < now + S(7));
}

/* Who gave up has spent nothing. */
static void test_cancelled(void **state)
{
    struct place *p = *state;
    struct kept k;
    open_kept(&k, p, S(60));
    const int64_t now = replay_floor(k.r);
    struct replay_call calls[3] = {{.done = done, .arg = &k}, {.done = done, .arg = &k}, {.done = done, .arg = &k}};
    for (int i = 0; i < 3; i++) {
        struct replay_claim c = claim_at(now + S(20 + i), now);
        (void)!replay_spend(k.r, k.line, &c, &calls[i]);
        assert_true(calls[i].waits);
    }
    replay_cancel(&calls[1]);
    replay_cancel(&calls[0]);
    assert_int_equal(replay_count(k.r), 1);
    await_answer(&k);
    assert_false(calls[2].waits);
    close_kept(&k, false);
}

/* A run that was cut off: the next one's floor is beyond what it accepted. And one that never got to its own floor
 * leaves it to the next. */
static void test_the_next_start(void **state)
{
    struct place *p = *state;
    struct kept k;
    struct mark m;
    open_kept(&k, p, S(30)); /* no mark */
    const int64_t first = replay_floor(k.r);
    assert_true(first > time_now_us() + S(25) && first % US_PER_S == 0);
    assert_string_equal(replay_unready(k.r, first - 1), "starting");
    close_kept(&k, false);
    open_kept(&k, p, S(5));
    assert_true(replay_floor(k.r) >= first);
    struct replay_call call = {.done = done, .arg = &k};
    struct replay_claim c = claim_at(first + S(100), first);
    (void)!replay_spend(k.r, k.line, &c, &call);
    await_answer(&k);
    close_kept(&k, false);
    open_kept(&k, p, S(5));
    assert_true(replay_floor(k.r) > first + S(100));
    close_kept(&k, true);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.clean && m.latest_us >= first + S(100));
}

/* A Time without a zone is accepted when the mark says how far east it was read; each next start holds such Times
 * against that, and after an end in order against the very latest. */
static void test_without_a_zone(void **state)
{
    struct place *p = *state;
    struct kept k;
    struct mark m = {.clean = true};
    const int64_t hour = S(3600);
    assert_true(mark_write(p->folder, &p->key, &m, NULL));
    open_kept(&k, p, S(5));
    const int64_t now = replay_floor(k.r);
    struct replay_call call = {.done = done, .arg = &k};
    struct replay_claim c = claim_at(now, now);
    c.zoneless = true;
    c.wall_us = now + hour;
    (void)!replay_spend(k.r, k.line, &c, &call);
    assert_true(call.waits); /* the first of its zone */
    await_answer(&k);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.east_us == hour && m.walls_us == 0 && !m.clean);
    c = claim_at(now, now);
    c.zoneless = true;
    c.wall_us = now - hour; /* further west is covered */
    assert_int_equal(replay_spend(k.r, k.line, &c, &call), REASON_OK);
    assert_false(call.waits);
    close_kept(&k, false);
    open_kept(&k, p, S(5)); /* it was cut off */
    const int64_t walls = replay_floor(k.r) + hour;
    assert_int_equal(replay_walls(k.r), walls);
    c = claim_at(walls - 1, walls - 1); /* read as UTC now, an hour later */
    c.zoneless = true;
    c.wall_us = walls - 1;
    assert_int_equal(replay_spend(k.r, k.line, &c, &call), REASON_REPLAY_UNAVAILABLE);
    close_kept(&k, true);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.clean && m.walls_us == walls && m.east_us == TIME_NONE); /* handed on */
    open_kept(&k, p, S(5));
    k.answers = 0;
    c.time_us = c.earliest_us = c.latest_us = c.now_us = walls;
    c.wall_us = walls + hour;
    (void)!replay_spend(k.r, k.line, &c, &call);
    assert_true(call.waits);
    await_answer(&k);
    assert_int_equal(k.answer, REASON_OK);
    close_kept(&k, true);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.clean && m.walls_us == walls + hour + 1);
}

/* A mark of before there was anything of zones in it is one. */
static void test_the_mark_of_an_older_version(void **state)
{
    struct place *p = *state;
    struct mark m;
    char text[300] = "kmsgate replay mark 1 latest 1795000000000000 clock 1795000001000000 end clean";
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned mac_n = 0;
    const size_t n = strlen(text);
    assert_non_null(HMAC(EVP_sha256(), p->key.b, sizeof p->key.b, (const unsigned char *)text, n, mac, &mac_n));
    size_t at = n + (size_t)snprintf(text + n, sizeof text - n, " mac ");
    for (unsigned i = 0; i < mac_n; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%02x", mac[i]);
    text[at++] = '\n';
    put(p, text, at);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.latest_us == S(1795000000) && m.clock_us == S(1795000001) && m.clean && m.walls_us == 0 &&
                m.east_us == TIME_NONE);
    text[21] = '2'; /* of another version it is none */
    put(p, text, at);
    assert_int_equal(found(p, &m), MARK_FOREIGN);
}

/* A run that accepted nothing leaves no later floor to the next. */
static void test_a_run_that_accepted_nothing(void **state)
{
    struct place *p = *state;
    struct kept k;
    struct mark m;
    open_kept(&k, p, 0);
    const int64_t floor = replay_floor(k.r);
    close_kept(&k, true);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_true(m.clean && m.latest_us < floor);
}

/* While requests are accepted the mark has the time of day; while none are it is left alone. */
static void test_beats(void **state)
{
    struct place *p = *state;
    struct kept k;
    struct mark before, m;
    open_kept(&k, p, 0);
    assert_int_equal(found(p, &before), MARK_FOUND);
    usleep(1500000);
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_int_equal(m.clock_us, before.clock_us);
    const int64_t now = replay_floor(k.r);
    struct replay_claim c = claim_at(now, now);
    assert_int_equal(replay_spend(k.r, NULL, &c, NULL), REASON_OK);
    for (int i = 0; i < 600 && m.clock_us == before.clock_us; i++) {
        usleep(100000);
        assert_int_equal(found(p, &m), MARK_FOUND);
    }
    assert_true(m.clock_us > before.clock_us + S(1));
    close_kept(&k, false);
}

/* A disk that is full: the mark was not written, and the one that is there stays. */
static void test_a_full_disk(void **state)
{
    struct place *p = *state;
    const struct mark old = {.latest_us = 1, .clock_us = 2}, new = {.latest_us = 3, .clock_us = 4};
    struct rlimit was;
    struct mark m;
    char fresh[128];
    snprintf(fresh, sizeof fresh, "%s.new", p->file);
    assert_true(mark_write(p->folder, &p->key, &old, NULL));
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){10, was.rlim_max}), 0);
    struct detail why = {""};
    const bool ok = mark_write(p->folder, &p->key, &new, &why);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    assert_true(!ok && strstr(why.text, "cannot be written"));
    assert_int_equal(found(p, &m), MARK_FOUND);
    assert_int_equal(m.latest_us, 1);
    unlink(fresh);
    assert_true(mark_write(p->folder, &p->key, &new, NULL)); /* the twin */
}

/* A disk that takes nothing: what has to wait waits, and after some seconds nothing is accepted any more. */
static void test_a_disk_that_fails(void **state)
{
    struct place *p = *state;
    struct kept k;
    char fresh[128];
    open_kept(&k, p, 0);
    const int64_t now = replay_floor(k.r);
    snprintf(fresh, sizeof fresh, "%s.new", p->file);
    assert_int_equal(mkdir(fresh, 0700), 0);
    struct replay_claim c = claim_at(now, now);
    assert_int_equal(replay_spend(k.r, NULL, &c, NULL), REASON_OK);
    assert_null(replay_unready(k.r, now));
    enum reason r = REASON_OK;
    for (int i = 0; i < 600 && r == REASON_OK; i++) {
        usleep(100000);
        c = claim_at(now, now);
        r = replay_spend(k.r, NULL, &c, NULL);
    }
    assert_int_equal(r, REASON_REPLAY_UNAVAILABLE);
    assert_string_equal(replay_unready(k.r, now), "mark");
    assert_int_equal(rmdir(fresh), 0);
    for (int i = 0; i < 600 && r != REASON_OK; i++) {
        usleep(100000);
        c = claim_at(now, now);
        r = replay_spend(k.r, NULL, &c, NULL);
    }
    assert_int_equal(r, REASON_OK);
    assert_null(replay_unready(k.r, now));
    close_kept(&k, false);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        CASE(test_round_trip), CASE(test_damage), CASE(test_no_file), CASE(test_far_ahead_waits_for_the_mark),
        CASE(test_cancelled), CASE(test_the_next_start), CASE(test_beats), CASE(test_a_disk_that_fails),
        CASE(test_a_run_that_accepted_nothing), CASE(test_a_full_disk), CASE(test_without_a_zone),
        CASE(test_the_mark_of_an_older_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
