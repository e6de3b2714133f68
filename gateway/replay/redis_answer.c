/* What comes of a server's replies. Each is held against what was asked: anything else ends the conversation. */
#include <stdio.h>

#include "base/log.h"
#include "base/metrics.h"
#include "replay/redis_talk.h"

/* library.lua's */
enum { STATUS_DONE, STATUS_APART, STATUS_FOREIGN };
enum { VERDICT_OK, VERDICT_SEEN, VERDICT_FULL, VERDICT_EARLY };
enum { HEAD_ITEMS = 3, LOADS = 3 };

static bool redis_holds(struct str text, const char *part)
{
    const struct str p = str_z(part);
    for (size_t i = 0; i + p.n <= text.n; i++)
        if (str_eq((struct str){text.p + i, p.n}, p))
            return true;
    return false;
}

enum redis_fault redis_error_kind(struct str error)
{
    static const struct {
        const char *start;
        enum redis_fault kind;
    } KINDS[] = {
        {"NOAUTH", REDIS_AUTH}, {"WRONGPASS", REDIS_AUTH}, {"NOPERM", REDIS_AUTH}, {"ERR AUTH", REDIS_AUTH},
        {"ERR Client sent AUTH", REDIS_AUTH}, {"READONLY", REDIS_ROLE}, {"MASTERDOWN", REDIS_ROLE},
        {"UNBLOCKED", REDIS_ROLE}, {"NOREPLICAS", REDIS_REPLICAS}, {"OOM", REDIS_FULL},
        {"ERR Function not found", REDIS_LIBRARY}, {"ERR unknown command", REDIS_LIBRARY},
        {"ERR Error compiling", REDIS_LIBRARY}, {"ERR Error registering", REDIS_LIBRARY},
    };
    /* rights are looked at inside the library, too */
    if (redis_holds(error, "can't run this command") || redis_holds(error, "can't access"))
        return REDIS_AUTH;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (str_starts(error, str_z(KINDS[i].start)))
            return KINDS[i].kind;
    return REDIS_SERVER;
}

static bool fail_by_error(struct talk *t, struct str error)
{
    const int n = error.n < WHY / 2 ? (int)error.n : WHY / 2;
    return talk_fail(t, redis_error_kind(error), "the server says: %.*s", n, error.p);
}

static bool unexpected(struct talk *t)
{
    return talk_fail(t, REDIS_PROTOCOL, "a reply that was not due");
}

static bool is_one(const struct redis_reply *r, int kind)
{
    return !r->array && r->n == 1 && (int)r->item[0].kind == kind;
}

/* Whoever waits for it, if anybody does, hears of it once. */
static void redis_answer(struct talk *t, struct claim *c, enum reason reason)
{
    struct replay_call *call = c->call;
    (void)t;
    c->call = NULL;
    if (!call)
        return;
    metric_observe(METRIC_REPLAY_SECONDS, NULL, (double)(time_mono_us() - c->asked_us) / (double)US_PER_S);
    call->waits = false;
    call->done(call->arg, reason);
}

static void verdict(struct talk *t, struct claim *c, int64_t v)
{
    static const enum reason REASONS[] = {REASON_OK, REASON_REPLAY_SEEN, REASON_REPLAY_FULL,
                                          REASON_REPLAY_UNAVAILABLE};
    if (v == VERDICT_OK && !c->call) { /* he who asked went away: nothing will be sent of it */
        c->state = CLAIM_REFUSED;
        talk_forget(t, c->digest);
        return;
    }
    if (v == VERDICT_EARLY) {
        redis_count(REDIS_EPOCH, 1);
        /* it is not the floor: so that the decision says what it is */
        if (c->wall_us != TIME_NONE && c->earliest_us >= atomic_load(&t->site->floor_us))
            time_raise(&t->site->walls_us, c->wall_us + US_PER_S / 1000);
    }
    c->state = v == VERDICT_OK ? CLAIM_TAKEN : CLAIM_REFUSED;
    if (v != VERDICT_OK || !t->site->how.wait_replicas)
        redis_answer(t, c, REASONS[v]);
}

/* Those at the front that nobody waits for the replicas' word on. */
static void redis_retire(struct talk *t)
{
    if (!t->site->how.wait_replicas)
        t->claim_answered = t->claim_spent;
}

/* The same for all claims of a SPEND. */
static void refuse_all(struct talk *t, unsigned n, enum redis_fault fault)
{
    for (unsigned i = 0; i < n; i++) {
        struct claim *c = &t->claims[t->claim_spent++ % CLAIMS];
        const bool asked = c->state == CLAIM_ASKED;
        c->state = CLAIM_REFUSED;
        if (!asked)
            continue;
        if (c->call)
            redis_count(fault, 1);
        redis_answer(t, c, fault == REDIS_FULL ? REASON_REPLAY_FULL : REASON_REPLAY_UNAVAILABLE);
    }
    redis_retire(t);
}

static bool is_spend_reply(const struct redis_reply *r, unsigned asked)
{
    if (!r->array || r->n < HEAD_ITEMS)
        return false;
    for (size_t i = 0; i < r->n; i++)
        if (r->item[i].kind != ITEM_INTEGER || r->item[i].integer < 0)
            return false;
    for (size_t i = HEAD_ITEMS; i < r->n; i++)
        if (r->item[i].integer > VERDICT_EARLY)
            return false;
    const int64_t most = INT64_MAX / 1000;
    if (r->item[1].integer > most || r->item[2].integer > most)
        return false;
    return r->item[0].integer == STATUS_DONE  ? r->n == HEAD_ITEMS + (size_t)asked
           : r->item[0].integer <= STATUS_FOREIGN ? r->n == HEAD_ITEMS
                                                  : false;
}

/* Another epoch: what this gateway asked for without a zone may have been accepted, and forgotten. Nothing of the new
 * one is among it: until its floor has passed nothing is accepted. */
static void take_floor(struct talk *t, int64_t floor_us, int64_t now_us)
{
    char at[TIME_TEXT];
    const int64_t before = atomic_exchange(&t->site->floor_us, floor_us), wall = atomic_load(&t->site->wall_us);
    if (before == floor_us)
        return;
    if (before && wall)
        time_raise(&t->site->walls_us, wall + US_PER_S / 1000);
    if (floor_us <= now_us || floor_us - before < US_PER_S) /* a server that evicts opens one after the other */
        return;
    time_format(floor_us, false, at);
    log_warn("replay", t->site->how.name, "a new epoch: signed requests are refused until %s", at);
}

static unsigned count_asked(const struct talk *t, unsigned n)
{
    unsigned asked = 0;
    for (unsigned i = 0; i < n; i++)
        asked += t->claims[(t->claim_spent + i) % CLAIMS].state == CLAIM_ASKED;
    return asked;
}

static bool spend_refused(struct talk *t, struct str error, unsigned claims)
{
    const enum redis_fault kind = redis_error_kind(error);
    if (kind != REDIS_FULL && kind != REDIS_REPLICAS)
        return fail_by_error(t, error); /* it is over, and whoever waits hears of that */
    t->unbroken = false;
    (void)fail_by_error(t, error);
    refuse_all(t, claims, kind);
    return true;
}

/* Clocks that agree by now were not apart: it was long before the server looked at what it was asked. */
static void spend_apart(struct talk *t, int64_t now_ms, int64_t here_ms)
{
    const int64_t apart_ms = now_ms > here_ms ? now_ms - here_ms : here_ms - now_ms;
    const int64_t most_ms = t->site->how.apart_us / 1000;
    if (apart_ms > most_ms)
        (void)talk_fail(t, REDIS_CLOCK, "the server's clock and this machine's are %lld ms apart, more than %lld",
                        (long long)apart_ms, (long long)most_ms);
    else
        (void)talk_fail(t, REDIS_TIMEOUT, "the server took more than %lld ms to look at a request", (long long)most_ms);
}

/* It serves, but for answers that come too late for whoever waits: then the next one has to be in time. */
static void redis_serves(struct talk *t, int64_t sent_us)
{
    if (time_mono_us() - sent_us <= t->site->how.timeout_us)
        talk_settle(t, REDIS_FINE, "");
    else
        talk_settle(t, REDIS_TIMEOUT, "the server does not answer in time");
}

static bool on_spend(struct talk *t, const struct redis_reply *r, unsigned claims, int64_t sent_us)
{
    if (is_one(r, ITEM_ERROR))
        return spend_refused(t, r->item[0].text, claims);
    if (!is_spend_reply(r, count_asked(t, claims)))
        return unexpected(t);
    const int64_t status = r->item[0].integer, now_ms = r->item[1].integer, here_ms = time_now_us() / 1000;
    take_floor(t, r->item[2].integer * 1000, now_ms * 1000);
    t->unbroken = status == STATUS_DONE;
    if (status == STATUS_APART)
        spend_apart(t, now_ms, here_ms);
    else if (status == STATUS_FOREIGN)
        (void)talk_fail(t, REDIS_SECRET, "the memory is of gateways with another `secret`");
    else if (!t->site->how.wait_replicas)
        redis_serves(t, sent_us);
    if (!t->unbroken) {
        refuse_all(t, claims, t->fault);
        return true;
    }
    for (size_t i = 0, k = HEAD_ITEMS; i < claims; i++) {
        struct claim *c = &t->claims[t->claim_spent++ % CLAIMS];
        if (c->state == CLAIM_ASKED)
            verdict(t, c, r->item[k++].integer);
    }
    redis_retire(t);
    return true;
}

static bool on_wait(struct talk *t, const struct redis_reply *r, unsigned claims, int64_t sent_us)
{
    if (is_one(r, ITEM_ERROR))
        return fail_by_error(t, r->item[0].text);
    if (!is_one(r, ITEM_INTEGER) || claims > t->claim_spent - t->claim_answered)
        return unexpected(t);
    const int64_t have = r->item[0].integer;
    const bool enough = have >= (int64_t)t->site->how.wait_replicas;
    if (!enough)
        (void)talk_fail(t, REDIS_REPLICAS, "%lld replicas have it, %u are due", (long long)have,
                        t->site->how.wait_replicas);
    else if (t->unbroken)
        redis_serves(t, sent_us);
    for (unsigned i = 0; i < claims; i++) {
        struct claim *c = &t->claims[t->claim_answered++ % CLAIMS];
        if (c->state != CLAIM_TAKEN)
            continue;
        if (!enough && c->call)
            redis_count(REDIS_REPLICAS, 1);
        redis_answer(t, c, enough ? REASON_OK : REASON_REPLAY_UNAVAILABLE);
    }
    return true;
}

static bool on_memory(struct talk *t, const struct redis_reply *r)
{
    if (is_one(r, ITEM_ERROR))
        return fail_by_error(t, r->item[0].text);
    const struct str info = is_one(r, ITEM_TEXT) ? r->item[0].text : STR("");
    const struct str policy = redis_info_field(info, "maxmemory_policy");
    if (!policy.p)
        return unexpected(t);
    if (!str_eq_z(policy, "noeviction"))
        return talk_fail(t, REDIS_EVICTION,
                         "the server's maxmemory-policy is %.*s: full, it would forget; `noeviction` is due",
                         policy.n < 40 ? (int)policy.n : 40, policy.p);
    if (str_eq_z(redis_info_field(info, "maxmemory"), "0") && !atomic_exchange(&t->site->told_unbounded, true))
        log_warn("replay", t->site->how.name, "the server has no `maxmemory`: full, it takes the whole machine's");
    return true;
}

static bool on_role(struct talk *t, const struct redis_reply *r)
{
    if (is_one(r, ITEM_ERROR))
        return fail_by_error(t, r->item[0].text);
    const struct str role = is_one(r, ITEM_TEXT) ? redis_info_field(r->item[0].text, "role") : STR_MISSING;
    if (!role.p)
        return unexpected(t);
    return str_eq_z(role, "master") || talk_fail(t, REDIS_ROLE, "the server is a replica; a primary is due");
}

static bool on_version(struct talk *t, const struct redis_reply *r)
{
    const bool missing = is_one(r, ITEM_ERROR) && str_starts(r->item[0].text, STR("ERR Function not found"));
    if (is_one(r, ITEM_ERROR) && !missing)
        return fail_by_error(t, r->item[0].text);
    if (!missing && !is_one(r, ITEM_INTEGER))
        return unexpected(t);
    if (!missing && r->item[0].integer >= talk_library_version()) {
        t->greeting = false;
        talk_probe(t);
        talk_beat(t);
        return true;
    }
    if (t->loads++ == LOADS)
        return talk_fail(t, REDIS_LIBRARY, "it is loaded, and not there: another library has its name");
    log_info("replay", t->site->how.name, "the function library is %s: loading version %lld",
             missing ? "not there" : "older", (long long)talk_library_version());
    talk_load(t, !missing);
    return true;
}

/* Another gateway may have been faster; perhaps with a newer one. */
static bool on_load(struct talk *t, const struct redis_reply *r)
{
    if (is_one(r, ITEM_ERROR) && !redis_holds(r->item[0].text, "already exists"))
        return redis_error_kind(r->item[0].text) == REDIS_SERVER
                   ? talk_fail(t, REDIS_LIBRARY, "it cannot be loaded: %.*s",
                               r->item[0].text.n < WHY / 2 ? (int)r->item[0].text.n : WHY / 2, r->item[0].text.p)
                   : fail_by_error(t, r->item[0].text);
    talk_ask_version(t);
    return true;
}

static bool on_auth(struct talk *t, const struct redis_reply *r)
{
    if (is_one(r, ITEM_ERROR))
        return talk_fail(t, REDIS_AUTH, "the server refuses user or password");
    return is_one(r, ITEM_STATUS) || unexpected(t);
}

/* Or the probe: whether something was there or not, or could not be done just now. */
static bool on_forget(struct talk *t, const struct redis_reply *r)
{
    if (!is_one(r, ITEM_ERROR))
        return is_one(r, ITEM_INTEGER) || unexpected(t);
    const enum redis_fault kind = redis_error_kind(r->item[0].text);
    return kind == REDIS_FULL || kind == REDIS_REPLICAS || fail_by_error(t, r->item[0].text);
}

static bool redis_take(struct talk *t, const struct redis_reply *r)
{
    if (t->asked_first == t->asked_end)
        return unexpected(t);
    const struct asked a = t->asked[t->asked_first++ % ASKED];
    switch (a.what) {
    case ASK_AUTH:
        return on_auth(t, r);
    case ASK_MEMORY:
        return on_memory(t, r);
    case ASK_ROLE:
        return on_role(t, r);
    case ASK_VERSION:
        return on_version(t, r);
    case ASK_LOAD:
        return on_load(t, r);
    case ASK_WAIT:
        return on_wait(t, r, a.claims, a.sent_us);
    case ASK_FORGET:
    case ASK_PROBE:
        return on_forget(t, r);
    default:
        return on_spend(t, r, a.claims, a.sent_us);
    }
}

bool talk_feed(struct talk *t, const void *bytes, size_t n)
{
    const struct redis_reply *r;
    if (!redis_reader_feed(t->reader, bytes, n))
        return talk_fail(t, REDIS_PROTOCOL, "a reply is larger than any that was due");
    for (;;) {
        switch (redis_reader_next(t->reader, &r)) {
        case REPLY_PART:
            return true;
        case REPLY_FAULTY:
            return talk_fail(t, REDIS_PROTOCOL, "what it says is not a reply of a Redis server");
        default:
            t->silent = false;
            if (!redis_take(t, r))
                return false;
            break;
        }
    }
}
