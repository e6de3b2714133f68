#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/sink.h"
#include "http/bounds.h"
#include "http/console.h"
#include "http/server.h"
#include "http/census.h"
#include "keys/keydb.h"

#define DAY_US (INT64_C(86400) * US_PER_S)
enum { EXPIRY_DAYS = 30, KEYS_TOLD_FROM_S = 5, DRIFT_PERCENT = 60, RULES_TOLD = 200, HEIRS_TOLD = 5 };

/* What is wrong, what it means, and what to do. `bad`: somebody is refused now; `warn`: he soon will be; `note`. */
static void trouble(struct json *j, const char *level, const char *todo, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void trouble(struct json *j, const char *level, const char *todo, const char *format, ...)
{
    char what[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    json_object(j, NULL);
    json_string(j, "level", str_z(level), 0);
    json_string(j, "what", str_z(what), 0);
    json_string(j, "do", str_z(todo), 0);
    json_end(j);
}

#define SHARED "Signed requests are refused: "
/* Words of /readyz. */
static const struct {
    const char *word, *what, *todo;
} WORDS[] = {
    {"mark", "Requests whose Time is ahead are refused: the mark in the folder `state` cannot be written.",
     "Is the disk full, or the folder another user's? It is tried again by itself."},
    {"replay: connection", SHARED "there is no connection to the shared replay memory.",
     "See whether Redis runs and can be reached from here, and its certificate; the log has the error."},
    {"replay: timeout", SHARED "the shared replay memory does not answer within `timeout`.",
     "Redis, its machine or the network is overloaded or paused: see its SLOWLOG and its CPU."},
    {"replay: sentinel", SHARED "no Sentinel tells which server of the shared replay memory is the primary.",
     "See whether the Sentinels run, and whether they watch the name that is in the URL of `replay`."},
    {"replay: auth", SHARED "the shared replay memory refuses user, password or a right.",
     "Compare `replay.user` and `replay.password` with the server's ACL (`ACL WHOAMI`)."},
    {"replay: role", SHARED "the server of the shared replay memory is a replica.",
     "Promote it, or name the primary in the URL of `replay`; with Sentinel, wait for the failover."},
    {"replay: replicas", SHARED "too few replicas have what the shared replay memory wrote.",
     "Bring the replicas back: `INFO replication` at the primary tells who is there."},
    {"replay: clock", SHARED "this machine's clock and the replay memory's are further apart than agreed.",
     "Correct the clock that is wrong: see the time service (NTP) of both machines."},
    {"replay: eviction", SHARED "the shared replay memory would forget when it is full.",
     "Set `maxmemory-policy noeviction` at the Redis server."},
    {"replay: full", SHARED "the shared replay memory is full.",
     "Give Redis more `maxmemory`; what is old leaves by itself."},
    {"replay: secret", SHARED "the shared replay memory belongs to gateways with another `secret`.",
     "Give all gateways the same `replay.secret`, or a Redis database of their own."},
    {"replay: library", SHARED "the function library of the shared replay memory cannot be loaded.",
     "The user needs the right FUNCTION LOAD, and the server Redis 7.0; the log has the server's words."},
    {"replay: server", SHARED "the shared replay memory answers with an error.",
     "The log has the server's words: its disk may be full, or it still loads its data."},
    {"replay: protocol", SHARED "what answers in place of the shared replay memory is not Redis.",
     "Compare the URL of `replay` with the server's address, port and TLS."},
    {"replay: epoch", SHARED "the shared replay memory is new, restarted or promoted, and a fresh epoch begins.",
     "Wait: it is over within seconds. If it returns, see why Redis restarts or loses its data."},
    {"draining", "The gateway is ending: it finishes what was begun and takes nothing new.",
     "Nothing, if somebody meant it to; else see why it was told to end: `journalctl -u kmsgate`."},
    {"starting", "Signed requests are refused: what was accepted before the start is not yet told from a replay.",
     "Wait a few seconds. After an end that was not clean this takes longer than after a clean one."},
    {"keys", "The keys have not been in step with their database for too long: revoked ones may still be in use.",
     "See `keys:` below and the log; the database has to be mended or put back."},
    {"clock", "Signed requests are refused: this machine's clock stands before what was accepted already.",
     "Correct the clock, or wait until it has caught up. See the time service (NTP) of this machine."},
};

static void readiness(const char *word, struct json *j)
{
    for (size_t i = 0; word && i < sizeof WORDS / sizeof *WORDS; i++)
        if (str_eq_z(str_z(word), WORDS[i].word)) {
            trouble(j, "bad", WORDS[i].todo, "%s", WORDS[i].what);
            return;
        }
    if (word)
        trouble(j, "bad", "The log says more: look for lines at warn and error.", "The gateway is not ready: %s.",
                word);
}

static const char FILE_TODO[] =
    "`kmsgate check` names every fault with its line; mend the file, and it is read again (gateway.yaml: by SIGHUP).";

static void reloads(struct server *s, int64_t now_us, struct json *j)
{
    for (size_t i = 0; i < s->part_count; i++) {
        struct reload_state r;
        char at[TIME_TEXT];
        reload_state(s, i, &r);
        time_format(r.trouble_us, false, at);
        if (r.trouble_us)
            trouble(j, "warn",
                    i <= PART_RULES ? FILE_TODO : "Put the right files there: they are read again by themselves.",
                    "The %s at %s was refused at %s, and the one before stays in force: %s", r.kind, r.file, at,
                    r.trouble);
        if (r.expiry_us == TIME_NONE || r.expiry_us - now_us > EXPIRY_DAYS * DAY_US)
            continue;
        time_format(r.expiry_us, false, at);
        trouble(j, r.expiry_us <= now_us ? "bad" : "warn",
                "Put a new certificate in its place: it is taken up without a restart. certs/README.md has the steps.",
                r.expiry_us <= now_us ? "The certificate %s has expired at %s: the other side refuses it."
                                      : "The certificate %s expires at %s.", r.file, at);
    }
}

static void limits(struct json *j)
{
    static const char *const TODO[BOUND_COUNT] = {
        [BOUND_CONNECTIONS] = "See by source who connects so often; if all are honest, raise `limits.connections`.",
        [BOUND_IN_FLIGHT] = "Is the KMS slow? Else raise `limits.in_flight`.",
        [BOUND_MEMORY] = "See who sends large bodies slowly; raise `limits.memory` if all are honest.",
        [BOUND_USER] = "Look for this user or source in the live decisions: a device in a loop, or an attack.",
        [BOUND_RESOURCE] = "One resource is asked for much more than the others: see the paths in the live decisions.",
        [BOUND_UPSTREAM] = "The KMS takes longer than it should, or `upstream.connections` is too low.",
        [BOUND_BREAKER] = "The KMS does not answer: see whether it runs, and its address and certificate.",
    };
    for (enum bound b = 0; b < BOUND_COUNT; b++)
        if (bounds_reached(b))
            trouble(j, "bad", TODO[b] ? TODO[b] : "See the log.", "A limit is reached: %s.", bounds_text(b));
}

static void console_parts(struct server *s, int64_t now_us, struct json *j)
{
    size_t n[2][KEY_STATES], usable = 0;
    const long long age = keystore_age_us(s->keys) / US_PER_S;
    keystore_count(s->keys, now_us, n);
    for (int t = 0; t < 2; t++)
        usable += n[t][KEY_ACTIVE] + n[t][KEY_RETIRING] + n[t][KEY_OFFERED];
    if (upstream_site_down(s->upstream_site))
        trouble(j, "bad", "See whether the KMS runs and can be reached from here; the log says what the last try met.",
                "The KMS at %s does not answer.", s->config->upstream.url);
    if (age >= KEYS_TOLD_FROM_S)
        trouble(j, "warn",
                keydb_is_shared(s->config->keys)
                    ? "See whether PostgreSQL runs and can be reached; the log says why. Verdicts go on from memory, "
                      "renewal waits, and what `kmsgate keys` changes is not seen here."
                    : "The log says why. Until it is mended, what `kmsgate keys` changes is not seen here.",
                "For %lld s no change of the key database %s could be taken over.", age, keystore_where(s->keys));
    if (!usable)
        trouble(j, "bad", "`kmsgate keys import` brings them; it is seen within a second.",
                "No key is in use: every signed request is refused.");
    const double dropped = metric_get(METRIC_DECISIONS_DROPPED, NULL);
    if (dropped > 0)
        trouble(j, "warn", "Its reader is too slow, or its disk is full. What is shown here was not lost.",
                "%.0f lines of the decision log were lost since the start.", dropped);
    if (sink_is_stuck(s->sink))
        trouble(j, "warn",
                "See whether that is there and takes lines; the log says why. Lines wait, 8 MiB of them; then they are "
                "lost.",
                "The decision log cannot be written to %s.", s->config->decisions);
    const unsigned long long lost = census_lost(s->census);
    if (lost)
        trouble(j, "note", "Nothing: the decision log and the metrics have them all.",
                "%llu decisions came too fast to be counted on this page.", lost);
}

static void days(int64_t until_us, char out[TIME_TEXT])
{
    time_format(until_us - 1, false, out); /* the last day */
    out[sizeof "2026-11-29" - 1] = '\0';
}

/* "`a`, `b` or no rule": who decides then. */
static void heirs(const struct rules *r, size_t i, struct buf *out)
{
    bool all = false;
    size_t n = 0;
    const struct request_rule *heir;
    for (size_t at = i; (heir = rules_request_heir(r, i, &at, &all)); n++)
        if (n < HEIRS_TOLD)
            buf_printf(out, "%s`%s`", n ? ", " : "", heir->id);
    if (n > HEIRS_TOLD)
        buf_printf(out, " and %zu more", n - HEIRS_TOLD);
    if (!all)
        buf_z(out, n ? ", or no rule" : "no rule, and are refused");
}

/* Exceptions are for a time: whose end is near, and which is past it and only stands in the file. */
static void exceptions(const struct rules *r, int64_t now_us, struct json *j)
{
    for (size_t i = 0; i < r->request_count && i < RULES_TOLD; i++) {
        const struct request_rule *q = &r->requests[i];
        struct buf then BUF_CLEANUP = BUF_INIT(1024);
        char day[TIME_TEXT];
        if (q->until_us == TIME_NONE || q->until_us - now_us > EXPIRY_DAYS * DAY_US)
            continue;
        days(q->until_us, day);
        heirs(r, i, &then);
        if (q->until_us <= now_us)
            trouble(j, "note", "Take it out of the file.", "The rule `%s` (line %d) has ended with %s.", q->id, q->line,
                    day);
        else
            trouble(j, "warn", "See below whom it still lets pass; prolong it, or see that nobody needs it any more.",
                    "The rule `%s` (line %d) ends with %s; from then on its requests meet %s.", q->id, q->line, day,
                    then.p ? then.p : "?");
    }
}

static void troubles(struct server *s, const struct rules *r, int64_t now_us, struct json *j)
{
    const size_t drifting = census_drifting(s->census, now_us, DRIFT_PERCENT);
    json_array(j, "troubles");
    readiness(admin_unready(s), j);
    console_parts(s, now_us, j);
    limits(j);
    reloads(s, now_us, j);
    if (drifting)
        trouble(j, "warn", "Correct their clocks before they are refused: see Clocks below.",
                "The clocks of %zu user%s are beyond %d %% of what is allowed.", drifting, drifting == 1 ? "" : "s",
                DRIFT_PERCENT);
    exceptions(r, now_us, j);
    json_end(j);
}

static void engines(struct server *s, int64_t now_us, struct json *j)
{
    const char *unready = replay_unready(s->replay, now_us);
    const bool shared = s->config->replay.host_count > 0;
    json_object(j, "upstream");
    json_string(j, "url", str_z(s->config->upstream.url), 0);
    json_bool(j, "answers", !upstream_site_down(s->upstream_site));
    json_bool(j, "breaker_open", bounds_reached(BOUND_BREAKER));
    json_end(j);
    json_object(j, "replay");
    json_string(j, "state", str_z(unready ? unready : "ready"), 0);
    json_string(j, "where", str_z(shared ? s->config->replay.url : "this process"), 0);
    json_bool(j, "shared", shared);
    if (!shared)
        json_int(j, "remembered", (int64_t)replay_count(s->replay));
    console_time(j, "accepts_from", replay_floor(s->replay));
    json_end(j);
    json_object(j, "keys");
    json_string(j, "where", str_z(keystore_where(s->keys)), 0);
    json_int(j, "age_s", keystore_age_us(s->keys) / US_PER_S);
    json_end(j);
    json_object(j, "decisions");
    json_string(j, "where", str_z(s->config->decisions), 0);
    json_int(j, "dropped", (int64_t)metric_get(METRIC_DECISIONS_DROPPED, NULL));
    json_bool(j, "stuck", sink_is_stuck(s->sink));
    json_end(j);
}

static void certificates(struct server *s, struct json *j)
{
    json_array(j, "certificates");
    for (size_t i = 0; i < s->part_count; i++) {
        struct reload_state r;
        reload_state(s, i, &r);
        if (r.expiry_us == TIME_NONE)
            continue;
        json_object(j, NULL);
        json_string(j, "file", str_z(r.file), 0);
        console_time(j, "expires", r.expiry_us);
        json_end(j);
    }
    json_end(j);
}

void console_state(struct server *s, int64_t now_us, struct json *j)
{
    pthread_mutex_lock(&s->lock);
    struct rules *r = rules_ref(s->rules);
    pthread_mutex_unlock(&s->lock);
    const char *word = admin_unready(s);
    json_object(j, NULL);
    json_string(j, "version", STR(KMSGATE_VERSION), 0);
    console_time(j, "now", now_us);
    console_time(j, "since", census_since(s->census));
    json_string(j, "state", str_z(word ? word : "ready"), 0);
    json_bool(j, "signed_in", s->admin_token != NULL);
    json_string(j, "config", str_z(s->config->file), 0);
    json_string(j, "rules_file", str_z(r->file), 0);
    json_string(j, "rules_hash", str_z(r->hash), 0);
    troubles(s, r, now_us, j);
    engines(s, now_us, j);
    certificates(s, j);
    json_int(j, "connections", crowd_count(s->crowd));
    json_int(j, "in_flight", atomic_load(&s->in_flight));
    json_end(j);
    rules_unref(r);
}
