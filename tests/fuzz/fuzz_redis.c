/*
 * Any bytes from a Redis server or a Sentinel, as one piece and cut at places that the bytes themselves choose: the
 * conversation must come to the same end, each request is answered exactly once, and one is accepted only where a
 * verdict says so. The first byte chooses who is asked, what is waited for, and how many requests there are; where the
 * bytes bring the conversation nowhere, they are the values of right answers, too.
 */
#include "fuzz.h"

#include "base/metrics.h"
#include "replay/redis_talk.h"

enum { ASKERS = 8, TURNS = 4, ROOM = 1 << 16 };
enum { BY_SENTINEL = 1, WITH_REPLICAS = 2, GREETED = 4 }; /* of the first byte */

struct asker {
    struct replay_call call;
    int answers;
    enum reason reason;
};

struct end {
    bool goes_on;
    enum redis_fault fault;
    enum reason reason[ASKERS];
    bool ready; /* through the greeting */
    int sentinel;
    char host[REDIS_HOST], port[REDIS_PORT];
};

static void done(void *arg, enum reason reason)
{
    struct asker *a = arg;
    a->answers++;
    a->reason = reason;
}

static void ask(struct talk *t, struct asker a[ASKERS], size_t n)
{
    static const struct replay_claim claim = {.earliest_us = 1000000, .latest_us = 1000000};
    for (size_t i = 0; i < n; i++) {
        a[i] = (struct asker){.call = {.done = done}};
        a[i].call.arg = &a[i];
        if (talk_takes(t))
            talk_spend(t, &claim, &a[i].call);
    }
    talk_flush(t);
}

static void feed(struct talk *t, const uint8_t *data, size_t size, bool cut, struct end *out)
{
    const bool sentinel = t->site->how.master;
    for (size_t at = 0; at < size && out->goes_on;) {
        size_t piece = cut ? 1 + data[at] % 9u : size - at;
        piece = piece < size - at ? piece : size - at;
        if (sentinel) {
            out->sentinel = (int)redis_hear_sentinel(t, data + at, piece, out->host, out->port);
            out->goes_on = out->sentinel == SENTINEL_MORE;
        } else {
            out->goes_on = talk_feed(t, data + at, piece);
        }
        at += piece;
    }
}

static void converse(const uint8_t *data, size_t size, bool cut, struct end *out)
{
    static const char READY[] = "$58\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n\r\n"
                                "$13\r\nrole:master\r\n\r\n:999\r\n:0\r\n*3\r\n:0\r\n:1\r\n:1\r\n:5\r\n";
    static struct secret_key key;
    struct redis_site site = {.how = {.name = "redis://fuzz", .timeout_us = 10000000, .apart_us = 1000000}};
    struct talk t;
    struct asker a[ASKERS];
    const uint8_t how = size ? data[0] : 0;
    const size_t n = how & GREETED ? 1 + (how >> 4) % ASKERS : 0;
    site.secret = &key;
    site.how.master = how & BY_SENTINEL ? "kms" : NULL;
    site.how.wait_replicas = how & WITH_REPLICAS ? 1 : 0;
    *out = (struct end){.goes_on = true};
    must(talk_init(&t, &site), "memory");
    if (site.how.master)
        redis_ask_sentinel(&t, false);
    else
        talk_begin(&t);
    if (n && !site.how.master) { /* else the greeting itself is fuzzed */
        must(talk_feed(&t, READY, sizeof READY - 1 - (site.how.wait_replicas ? 0 : 4)), "greeting: %s", t.why);
        must(talk_takes(&t), "ready");
        ask(&t, a, n);
    }
    feed(&t, size ? data + 1 : data, size ? size - 1 : 0, cut, out);
    out->fault = t.fault;
    out->ready = talk_takes(&t);
    talk_end(&t);
    for (size_t i = 0; n && !site.how.master && i < n; i++) {
        must(a[i].answers == 1 && !a[i].call.waits, "%d answers to %zu", a[i].answers, i);
        out->reason[i] = a[i].reason;
    }
    talk_free(&t);
}

/* Whether somebody got a verdict, a greeting came to its end, or a Sentinel named a primary. */
static bool look(const uint8_t *data, size_t size)
{
    struct end whole, cut;
    converse(data, size, false, &whole);
    converse(data, size, true, &cut);
    must(whole.goes_on == cut.goes_on && whole.fault == cut.fault && whole.ready == cut.ready, "%d %d, in pieces %d %d",
         whole.goes_on, (int)whole.fault, cut.goes_on, (int)cut.fault);
    must(whole.sentinel == cut.sentinel && strcmp(whole.host, cut.host) == 0 && strcmp(whole.port, cut.port) == 0,
         "Sentinel: %s, in pieces %s", whole.host, cut.host);
    bool accepted = false, judged = false;
    for (size_t i = 0; i < ASKERS; i++) {
        must(whole.reason[i] == cut.reason[i], "request %zu: %d, in pieces %d", i, (int)whole.reason[i],
             (int)cut.reason[i]);
        accepted = accepted || (whole.reason[i] == REASON_OK && i < 1);
        judged = judged || whole.reason[i] == REASON_REPLAY_SEEN;
    }
    const unsigned how = size ? data[0] : 0;
    const bool asked = (how & (BY_SENTINEL | GREETED)) == GREETED;
    if (accepted && asked)
        must(size > 12 && memchr(data, '*', size), "accepted without a verdict");
    return how & BY_SENTINEL ? whole.sentinel == SENTINEL_KNOWS : asked ? accepted || judged : whole.ready;
}

static void put_bulk(struct str text, struct buf *out)
{
    buf_printf(out, "$%zu\r\n", text.n);
    buf_str(out, text);
    buf_z(out, "\r\n");
}

/* "name:" and the next text, or what is usual. */
static void put_info(struct str *rest, const char *name, const char *usual, struct buf *out)
{
    const struct str text = fuzz_next(rest);
    buf_z(out, name);
    buf_str(out, text.n ? text : str_z(usual));
    buf_z(out, "\r\n");
}

/* What the server answers to a turn of so many requests. */
static void put_verdicts(struct str *rest, unsigned how, size_t n, struct buf *out)
{
    enum { STATES = 24, VERDICTS = 4, FLOORS = 3, DONE = 0 };
    static const char *const NUMBERS[] = {"1700000000000", "1", "-1", "9223372036854775807"};
    const unsigned choice = fuzz_choice(rest, STATES), state = choice < 3 ? choice : DONE;
    buf_printf(out, "*%zu\r\n:%u\r\n:%s\r\n:%s\r\n", n + FLOORS, state, NUMBERS[fuzz_choice(rest, 4)],
               NUMBERS[fuzz_choice(rest, 4)]);
    for (size_t i = 0; i < n; i++)
        buf_printf(out, ":%u\r\n", fuzz_choice(rest, VERDICTS));
    if (how & WITH_REPLICAS && state == DONE)
        buf_printf(out, ":%d\r\n", fuzz_choice(rest, 3) != 1);
}

static void make_answers(unsigned how, struct str rest, struct buf *out)
{
    struct buf info BUF_CLEANUP = BUF_INIT(ROOM);
    buf_char(out, (char)how);
    if (how & BY_SENTINEL) {
        const struct str host = fuzz_next(&rest), port = fuzz_next(&rest);
        buf_z(out, "*2\r\n");
        put_bulk(host.n ? host : STR("127.0.0.1"), out);
        put_bulk(port.n ? port : STR("6379"), out);
    } else if (how & GREETED) {
        for (int i = 0; i < TURNS && (i == 0 || rest.n); i++)
            put_verdicts(&rest, how, 1 + (how >> 4) % ASKERS, out);
    } else {
        put_info(&rest, "maxmemory:", "1000", &info);
        put_info(&rest, "maxmemory_policy:", "noeviction", &info);
        put_bulk(buf_view(&info), out);
        buf_reset(&info);
        put_info(&rest, "role:", "master", &info);
        put_bulk(buf_view(&info), out);
        if (fuzz_choice(&rest, 2))
            buf_z(out, "-ERR Function not found\r\n$7\r\nkmsgate\r\n");
        buf_z(out, ":999\r\n:0\r\n");
        put_verdicts(&rest, how, 0, out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 60000) /* more at once than is ever fed */
        return 0;
    bool arrived = look(data, size);
    if (!arrived && size) {
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        make_answers(data[0], (struct str){(const char *)data + 1, size - 1}, &made);
        must(!made.failed, "room");
        arrived = look((const uint8_t *)made.p, made.n);
    }
    fuzz_arrived(arrived);
    return 0;
}
