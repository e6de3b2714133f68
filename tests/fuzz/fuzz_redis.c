/*
 * Any bytes from a Redis server or a Sentinel, as one piece and cut at places that the bytes themselves choose: the
 * conversation must come to the same end, each request is answered exactly once, and one is accepted only where a
 * verdict says so. The first byte chooses who is asked, what is waited for, and how many requests there are.
 */
#include "fuzz.h"

#include "base/log.h"
#include "base/metrics.h"
#include "replay/redis_talk.h"

enum { ASKERS = 8 };

struct asker {
    struct replay_call call;
    int answers;
    enum reason reason;
};

struct end {
    bool goes_on;
    enum redis_fault fault;
    enum reason reason[ASKERS];
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
    const size_t n = how & 4 ? 1 + (how >> 4) % ASKERS : 0;
    site.secret = &key;
    site.how.master = how & 1 ? "kms" : NULL;
    site.how.wait_replicas = how & 2 ? 1 : 0;
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
    talk_end(&t);
    for (size_t i = 0; n && !site.how.master && i < n; i++) {
        must(a[i].answers == 1 && !a[i].call.waits, "%d answers to %zu", a[i].answers, i);
        out->reason[i] = a[i].reason;
    }
    talk_free(&t);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct end whole, cut;
    if (size > 60000) /* more at once than is ever fed */
        return 0;
    converse(data, size, false, &whole);
    converse(data, size, true, &cut);
    must(whole.goes_on == cut.goes_on && whole.fault == cut.fault, "%d %d, in pieces %d %d", whole.goes_on,
         (int)whole.fault, cut.goes_on, (int)cut.fault);
    must(whole.sentinel == cut.sentinel && strcmp(whole.host, cut.host) == 0 && strcmp(whole.port, cut.port) == 0,
         "Sentinel: %s, in pieces %s", whole.host, cut.host);
    bool accepted = false;
    for (size_t i = 0; i < ASKERS; i++) {
        must(whole.reason[i] == cut.reason[i], "request %zu: %d, in pieces %d", i, (int)whole.reason[i],
             (int)cut.reason[i]);
        accepted = accepted || (whole.reason[i] == REASON_OK && i < 1);
    }
    if (accepted && size && (data[0] & 5) == 4)
        must(size > 12 && memchr(data, '*', size), "accepted without a verdict");
    return 0;
}
