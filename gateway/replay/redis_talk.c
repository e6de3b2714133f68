#include "replay/redis_talk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "replay/library.h" /* library.lua, by CMake */

enum {
    BEAT_US = 1000000,     /* how often it is asked how things stand */
    BEAT_AGAIN_US = 250000, /* the same while they stand badly */
    LOOK_US = 5000000,     /* how often memory's policy is looked at */
    DEAF_US = 2000000,     /* without an answer for so long, a connection is given up */
    LONELY_US = 1000000,   /* a primary without its replicas: then Sentinels are asked again */
    TELL_US = 60000000,
    OUT_MAX = 4 << 20,
    NUMBER = 21,
    NUMBER_MAX = 1 + 2 + 2 + NUMBER + 2, /* as an argument */
    USER_MAX = 5 + 26 + 2,               /* the same */
};
#define KEY_PREFIX "{kmsgate}:"

/* "12345" at the end of the room. */
static struct str decimal(int64_t value, char room[NUMBER + 1])
{
    uint64_t v = value < 0 ? -(uint64_t)value : (uint64_t)value;
    char *p = decimal_before(room + NUMBER, v, 1);
    if (value < 0)
        *--p = '-';
    return (struct str){p, (size_t)(room + NUMBER - p)};
}

static void put_length(struct buf *out, char kind, size_t n)
{
    char room[NUMBER + 1];
    buf_char(out, kind);
    buf_str(out, decimal((int64_t)n, room));
    buf_str(out, STR("\r\n"));
}

void redis_command(struct buf *out, size_t n)
{
    put_length(out, '*', n);
}

void redis_argument(struct buf *out, const void *p, size_t n)
{
    put_length(out, '$', n);
    buf_bytes(out, p, n);
    buf_str(out, STR("\r\n"));
}

void redis_argument_z(struct buf *out, const char *z)
{
    redis_argument(out, z, strlen(z));
}

void redis_argument_int(struct buf *out, int64_t value)
{
    char room[NUMBER + 1];
    const struct str text = decimal(value, room);
    redis_argument(out, text.p, text.n);
}

static char *talk_put(char *to, struct str s)
{
    memcpy(to, s.p, s.n);
    return to + s.n;
}

static char *put_user(char *to, const uint8_t digest[REPLAY_DIGEST])
{
    to = talk_put(to, STR("$26\r\n" KEY_PREFIX));
    to = talk_put(to, (struct str){(const char *)digest, REPLAY_DIGEST});
    return talk_put(to, STR("\r\n"));
    _Static_assert(sizeof KEY_PREFIX - 1 + REPLAY_DIGEST == 26, "the key's length is written above");
}

const char *redis_fault_name(enum redis_fault f)
{
    static const char *const NAMES[REDIS_FAULTS] = {
#define REDIS_FAULT_NAME(e, name) [REDIS_##e] = (name),
        REDIS_FAULT_LIST(REDIS_FAULT_NAME)
#undef REDIS_FAULT_NAME
    };
    return NAMES[f];
}

void redis_count(enum redis_fault f, unsigned n)
{
    static const char *const LABELS[REDIS_FAULTS] = {
#define REDIS_FAULT_LABEL(e, name) [REDIS_##e] = "kind=\"" name "\"",
        REDIS_FAULT_LIST(REDIS_FAULT_LABEL)
#undef REDIS_FAULT_LABEL
    };
    metric_add(METRIC_REPLAY_ERRORS, LABELS[f], n);
}

bool talk_init(struct talk *t, struct redis_site *site)
{
    *t = (struct talk){.site = site, .out = BUF_INIT_SECRET(OUT_MAX), .fault = REDIS_STARTING};
    t->reader = redis_reader_new();
    t->claims = calloc(CLAIMS, sizeof *t->claims);
    t->asked = calloc(ASKED, sizeof *t->asked);
    return t->reader && t->claims && t->asked;
}

void talk_free(struct talk *t)
{
    redis_reader_free(t->reader);
    free(t->claims);
    free(t->asked);
    buf_free(&t->out);
}

/* Trouble is told when it begins, when it becomes another, and each minute; by one of all conversations. */
static void talk_tell(struct talk *t, enum redis_fault fault, const char *why)
{
    struct redis_site *s = t->site;
    const int64_t now = time_mono_us(), told = atomic_load(&s->told_us);
    if (fault == REDIS_FINE) {
        if (atomic_exchange(&s->told_us, 0) || t->fault == REDIS_STARTING)
            log_info("replay", s->how.name, "in use");
        return;
    }
    if (told && (int)fault == atomic_load(&s->told_fault) && now - told < TELL_US)
        return;
    atomic_store(&s->told_fault, (int)fault);
    atomic_store(&s->told_us, now);
    log_warn("replay", s->how.name, "%s: %s; signed requests are refused", redis_fault_name(fault), why);
}

void talk_settle(struct talk *t, enum redis_fault fault, const char *why)
{
    talk_tell(t, fault, why);
    if (fault != REDIS_FINE)
        redis_count(fault, 1); /* each time, so that a rate tells that it lasts */
    if (fault == t->fault)
        return;
    t->fault = fault;
    t->fault_us = time_mono_us();
    snprintf(t->why, sizeof t->why, "%s", why);
}

bool talk_fail(struct talk *t, enum redis_fault fault, const char *format, ...)
{
    char why[WHY];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    talk_settle(t, fault, why);
    return false;
}

/* False: more is waited for than can be. */
static bool talk_ask(struct talk *t, int what, unsigned claims)
{
    if (t->asked_end - t->asked_first == ASKED)
        return false;
    t->asked[t->asked_end++ % ASKED] = (struct asked){.what = what, .claims = claims, .sent_us = time_mono_us()};
    return true;
}

static void ask_info(struct talk *t, int what, const char *section)
{
    if (!talk_ask(t, what, 0))
        return;
    redis_command(&t->out, 2);
    redis_argument_z(&t->out, "INFO");
    redis_argument_z(&t->out, section);
}

void talk_ask_version(struct talk *t)
{
    if (!talk_ask(t, ASK_VERSION, 0))
        return;
    redis_command(&t->out, 3);
    redis_argument_z(&t->out, "FCALL");
    redis_argument_z(&t->out, "kmsgate_version");
    redis_argument_z(&t->out, "0");
}

void talk_load(struct talk *t, bool replace)
{
    if (!talk_ask(t, ASK_LOAD, 0))
        return;
    redis_command(&t->out, replace ? 4 : 3);
    redis_argument_z(&t->out, "FUNCTION");
    redis_argument_z(&t->out, "LOAD");
    if (replace)
        redis_argument_z(&t->out, "REPLACE");
    redis_argument(&t->out, REPLAY_LIBRARY, sizeof REPLAY_LIBRARY);
}

int64_t talk_library_version(void)
{
    static const char MARK[] = "\nlocal VERSION = ";
    const char *at = memmem(REPLAY_LIBRARY, sizeof REPLAY_LIBRARY, MARK, sizeof MARK - 1);
    int64_t version = 0;
    for (at = at ? at + sizeof MARK - 1 : ""; *at >= '0' && *at <= '9'; at++)
        version = version * 10 + (*at - '0');
    return version;
}

void talk_begin(struct talk *t)
{
    const struct redis_site *s = t->site;
    t->greeting = true;
    t->loads = 0;
    t->silent = t->unbroken = false;
    t->beat_us = t->look_us = time_mono_us();
    if (s->password && talk_ask(t, ASK_AUTH, 0)) {
        redis_command(&t->out, s->how.user ? 3 : 2);
        redis_argument_z(&t->out, "AUTH");
        if (s->how.user)
            redis_argument_z(&t->out, s->how.user);
        redis_argument(&t->out, s->password, s->password_n);
    }
    ask_info(t, ASK_MEMORY, "memory");
    ask_info(t, ASK_ROLE, "replication");
    talk_ask_version(t);
}

bool talk_takes(const struct talk *t)
{
    return !t->greeting && !t->silent && (t->fault == REDIS_FINE || t->fault == REDIS_FULL) &&
           t->claim_end - t->claim_answered < CLAIMS && t->asked_end - t->asked_first < ASKED - CLAIMS / BATCH - 8;
}

/* Other gateways may read a Time without a zone otherwise, now or after a reload: it is remembered until clocks have
 * passed it everywhere; what is further ahead than clocks are apart was not judged by its Time. */
static int64_t remembered_by(const struct replay_claim *c)
{
    enum { WEST_HOURS = 14, APART_HOURS = 48 };
    const int64_t hour = 3600 * US_PER_S;
    if (!c->zoneless)
        return c->latest_us;
    const int64_t last = c->wall_us + WEST_HOURS * hour, furthest = c->now_us + APART_HOURS * hour;
    const int64_t until = last < furthest ? last : furthest;
    return until > c->latest_us ? until : c->latest_us;
}

void talk_spend(struct talk *t, const struct replay_claim *c, struct replay_call *call)
{
    struct claim *claim = &t->claims[t->claim_end % CLAIMS];
    *claim = (struct claim){.call = call, .state = CLAIM_NEW, .earliest_us = c->earliest_us,
                            .latest_us = remembered_by(c), .asked_us = time_mono_us(),
                            .wall_us = c->zoneless && c->time_us != TIME_NONE ? c->wall_us : TIME_NONE};
    if (claim->wall_us != TIME_NONE)
        time_raise(&t->site->wall_us, claim->wall_us);
    memcpy(claim->digest, call->digest, sizeof claim->digest);
    call->order = t->claim_end++;
    call->waits = true;
}

void talk_cancel(struct talk *t, struct replay_call *call)
{
    struct claim *claim = &t->claims[call->order % CLAIMS];
    call->waits = false;
    claim->call = NULL;
    if (claim->state == CLAIM_NEW)
        claim->state = CLAIM_LEFT_OUT;
    if (time_mono_us() - claim->asked_us >= t->site->how.timeout_us)
        redis_count(REDIS_TIMEOUT, 1);
}

void talk_forget(struct talk *t, const uint8_t digest[2][REPLAY_DIGEST])
{
    if (t->greeting || t->fault != REDIS_FINE || t->asked_end - t->asked_first > ASKED / 2 ||
        !talk_ask(t, ASK_FORGET, 0))
        return; /* it stays spent */
    redis_command(&t->out, 5);
    redis_argument_z(&t->out, "FCALL");
    redis_argument_z(&t->out, "kmsgate_forget");
    redis_argument_z(&t->out, "1");
    char user[USER_MAX];
    buf_bytes(&t->out, user, (size_t)(put_user(user, digest[0]) - user));
    redis_argument(&t->out, digest[1], REPLAY_DIGEST);
}

/* What a SPEND takes at most: its head, and each claim in it. */
enum { SPEND_HEAD = 512, SPEND_CLAIM = USER_MAX + 23 + 3 * NUMBER_MAX };

/* All this goes straight into the room that was made: it is most of what asking for a request costs. */
static char *put_number(char *to, int64_t value)
{
    char room[NUMBER + 1];
    const struct str text = decimal(value, room);
    *to++ = '$';
    if (text.n > 9)
        *to++ = (char)('0' + text.n / 10);
    *to++ = (char)('0' + text.n % 10);
    to = talk_put(to, STR("\r\n"));
    to = talk_put(to, text);
    return talk_put(to, STR("\r\n"));
}

/* In ms, away from what would let more through. */
static char *put_time(char *to, int64_t us, bool up)
{
    if (us == TIME_NONE)
        return talk_put(to, STR("$0\r\n\r\n"));
    const int64_t rest = ((us % 1000) + 1000) % 1000;
    return put_number(to, (us - rest) / 1000 + (up && rest ? 1 : 0));
}

static char *put_claim(char *to, const struct claim *c)
{
    to = talk_put(to, STR("$16\r\n"));
    to = talk_put(to, (struct str){(const char *)c->digest[1], REPLAY_DIGEST});
    to = talk_put(to, STR("\r\n"));
    to = put_time(put_time(to, c->earliest_us, false), c->latest_us, true);
    return put_time(to, c->wall_us, false);
    _Static_assert(REPLAY_DIGEST == 16, "its length is written above");
}

/* How things stand at this gateway, for all claims. */
static char *put_stand(char *to, const struct redis_site *s)
{
    const int64_t d_ms = s->how.apart_us / 1000, future_ms = (atomic_load(&s->future_us) + 999) / 1000;
    const int64_t past_ms = (atomic_load(&s->past_us) + 999) / 1000;
    to = put_number(to, time_now_us() / 1000);
    to = put_number(to, past_ms + future_ms + 2 * d_ms);
    to = put_number(to, future_ms);
    to = put_number(to, d_ms);
    to = put_number(to, atomic_load(&s->user_max));
    to = talk_put(to, STR("$16\r\n"));
    to = talk_put(to, (struct str){s->mark, REDIS_MARK});
    to = talk_put(to, STR("\r\n"));
    return put_number(to, atomic_load(&s->walls_us) / 1000);
    _Static_assert(REDIS_MARK == 16, "its length is written above");
}

/* The claims from claim_asked on, at most BATCH, as one command; without any it asks how things stand. */
static bool ask_spend(struct talk *t)
{
    unsigned n = 0, all = 0;
    while (n < BATCH && t->claim_asked + all < t->claim_end)
        n += t->claims[(t->claim_asked + all++) % CLAIMS].state == CLAIM_NEW;
    if (!talk_ask(t, ASK_SPEND, all))
        return false;
    redis_command(&t->out, 3 + 2 + n + 7 + 4 * (size_t)n);
    buf_str(&t->out, STR("$5\r\nFCALL\r\n$13\r\nkmsgate_spend\r\n"));
    char *to = buf_reserve(&t->out, SPEND_HEAD + (size_t)n * SPEND_CLAIM);
    if (!to) /* the buffer is full, which ends the connection */
        return false;
    to = put_number(to, 2 + (int64_t)n);
    to = talk_put(to, STR("$15\r\n" KEY_PREFIX "epoch\r\n$15\r\n" KEY_PREFIX "walls\r\n"));
    for (unsigned i = 0; i < all; i++) {
        const struct claim *c = &t->claims[(t->claim_asked + i) % CLAIMS];
        if (c->state == CLAIM_NEW)
            to = put_user(to, c->digest[0]);
    }
    to = put_stand(to, t->site);
    for (unsigned i = 0; i < all; i++) {
        struct claim *c = &t->claims[(t->claim_asked + i) % CLAIMS];
        if (c->state != CLAIM_NEW)
            continue;
        to = put_claim(to, c);
        c->state = CLAIM_ASKED;
    }
    *to = '\0';
    t->out.n = (size_t)(to - t->out.p);
    t->claim_asked += all;
    return true;
}

/* The replicas that have what this connection wrote; asked on it, since no other knows. */
static void ask_wait(struct talk *t, unsigned claims)
{
    const struct replay_redis *how = &t->site->how;
    if (!how->wait_replicas || !talk_ask(t, ASK_WAIT, claims))
        return;
    redis_command(&t->out, 3);
    redis_argument_z(&t->out, "WAIT");
    redis_argument_int(&t->out, how->wait_replicas);
    redis_argument_int(&t->out, how->timeout_us / 1000 * 3 / 4); /* its answer comes before the request is given up */
}

void talk_probe(struct talk *t)
{
    if (!talk_ask(t, ASK_PROBE, 0))
        return;
    redis_command(&t->out, 4);
    redis_argument_z(&t->out, "FCALL");
    redis_argument_z(&t->out, "kmsgate_probe");
    redis_argument_z(&t->out, "1");
    redis_argument_z(&t->out, KEY_PREFIX "probe");
}

void talk_beat(struct talk *t)
{
    t->beat_us = time_mono_us();
    const uint64_t before = t->claim_asked;
    if (ask_spend(t))
        ask_wait(t, (unsigned)(t->claim_asked - before));
}

void talk_flush(struct talk *t)
{
    const uint64_t before = t->claim_asked;
    while (t->claim_asked < t->claim_end && ask_spend(t))
        ;
    if (t->claim_asked != before)
        ask_wait(t, (unsigned)(t->claim_asked - before));
}

bool talk_tick(struct talk *t)
{
    const int64_t now = time_mono_us();
    const struct replay_redis *how = &t->site->how;
    const bool waits = t->asked_first != t->asked_end;
    const int64_t age = waits ? now - t->asked[t->asked_first % ASKED].sent_us : 0;
    if (age > how->timeout_us && !t->silent) {
        t->silent = true;
        talk_settle(t, REDIS_TIMEOUT, "the server does not answer in time");
    }
    if (t->silent && !waits)
        t->silent = false;
    if (age > DEAF_US && age > 4 * how->timeout_us)
        return talk_fail(t, REDIS_TIMEOUT, "the server has not answered for %lld s", (long long)(age / US_PER_S));
    if (how->master && t->fault == REDIS_REPLICAS && now - t->fault_us > LONELY_US)
        return talk_fail(t, REDIS_REPLICAS, "Sentinels are asked again who the primary is");
    if (t->greeting || waits)
        return true;
    if (now - t->look_us > LOOK_US) {
        t->look_us = now;
        ask_info(t, ASK_MEMORY, "memory");
    }
    if (now - t->beat_us >= (t->fault == REDIS_FINE ? BEAT_US : BEAT_AGAIN_US))
        talk_beat(t);
    return true;
}

void talk_end(struct talk *t)
{
    const enum redis_fault fault = t->fault == REDIS_FINE ? REDIS_CONNECTION : t->fault;
    t->greeting = true; /* nothing is asked any more */
    t->asked_first = t->asked_end;
    while (t->claim_answered < t->claim_end) {
        struct claim *c = &t->claims[t->claim_answered++ % CLAIMS];
        if (c->call) {
            redis_count(fault, 1);
            c->call->waits = false;
            c->call->done(c->call->arg, REASON_REPLAY_UNAVAILABLE);
        }
    }
    t->claim_spent = t->claim_asked = t->claim_end;
    if (t->out.p)
        secret_wipe(t->out.p, t->out.n);
    buf_reset(&t->out);
    t->out.failed = false;
    if (!redis_reader_reset(t->reader))
        talk_settle(t, REDIS_CONNECTION, "out of memory");
}
