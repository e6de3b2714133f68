#include "replay/redis.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/metrics.h"
#include "replay/redis_talk.h"

enum { PATIENT_US = 2000000, KNOWN_SETS = 8192, KNOWN_WAYS = 4, KNOWN_NAME = 96 };

/* Users come again: what their names are keyed to need not be found anew. Four whose names hash alike have room. */
struct known_user {
    uint16_t n; /* 0: none */
    char name[KNOWN_NAME];
    uint8_t digest[REPLAY_DIGEST];
};
struct known_set {
    struct known_user user[KNOWN_WAYS];
    unsigned next; /* to make room */
};

struct redis {
    struct replay replay;
    struct redis_site site;
    const struct redis_sockets *sockets;
    void *sockets_arg;
    pthread_mutex_t lock; /* of the list */
    struct redis_line *lines;
};

struct redis_line {
    struct replay_line line;
    struct redis_line *next;
    struct talk talk;
    void *wire;
    struct crypto_keyed *hmac; /* of requests, under the secret */
    EVP_MAC_CTX *cmac;         /* of users, under a key that is made of it */
    struct known_set *known; /* KNOWN_SETS */
    /* What other threads ask for. */
    _Atomic int fault;
    _Atomic int64_t since_us; /* monotonic: when it was last FINE, or began */
    /* Of a conversation with a Sentinel. */
    bool asks_sentinel, authenticates, knows;
    char host[REDIS_HOST], port[REDIS_PORT];
};

static struct redis *redis_of(const struct redis_line *l)
{
    return (struct redis *)l->line.replay;
}

static void redis_publish(struct redis_line *l)
{
    const int fault = (int)l->talk.fault, before = atomic_load(&l->fault);
    if (before == (int)REDIS_FINE && fault != (int)REDIS_FINE)
        atomic_store(&l->since_us, time_mono_us());
    atomic_store(&l->fault, fault);
}

/* Who reads the memory learns neither users nor signatures, and cannot try any. What is keyed is kept short: with a
 * key's ID of up to 20 octets it is one block, beside the key's own. */
static bool request_digest(const struct redis_line *l, const struct replay_claim *c, uint8_t out[REPLAY_DIGEST])
{
    enum { WHOLE = 'r', HASHED = 'h', HEAD = 3, LONG = 1024 };
    uint8_t full[HASH_BYTES], text[LONG];
    const uint64_t id_n = c->key_id.n;
    size_t n = HEAD + c->key_id.n + c->value_n;
    if (c->key_id.n <= LONG && c->value_n <= LONG && n <= sizeof text) {
        text[0] = WHOLE;
        text[1] = (uint8_t)(id_n >> 8);
        text[2] = (uint8_t)id_n;
        memcpy(text + HEAD, c->key_id.p, c->key_id.n);
        memcpy(text + HEAD + id_n, c->value, c->value_n);
    } else {
        const struct crypto_part parts[] = {{&id_n, sizeof id_n}, {c->key_id.p, c->key_id.n}, {c->value, c->value_n}};
        if (!crypto_sha256_parts(parts, sizeof parts / sizeof *parts, text + 1))
            return false;
        text[0] = HASHED;
        n = 1 + HASH_BYTES;
    }
    if (!crypto_keyed_hmac(l->hmac, text, n, full))
        return false;
    memcpy(out, full, REPLAY_DIGEST);
    return true;
}

static struct known_set *known_set_of(const struct redis_line *l, struct str user)
{
    uint32_t h = 2166136261u; /* FNV-1a: who makes names meet only has them found anew */
    for (size_t i = 0; i < user.n; i++)
        h = (h ^ (unsigned char)user.p[i]) * 16777619u;
    return &l->known[(h ^ h >> 16) % KNOWN_SETS];
}

static bool user_digest(const struct redis_line *l, struct str user, uint8_t out[REPLAY_DIGEST])
{
    struct known_set *set = known_set_of(l, user);
    for (size_t i = 0; i < KNOWN_WAYS; i++) {
        const struct known_user *k = &set->user[i];
        if (k->n && str_eq((struct str){k->name, k->n}, user)) {
            memcpy(out, k->digest, REPLAY_DIGEST);
            return true;
        }
    }
    if (!crypto_cmac(l->cmac, user.p, user.n, out))
        return false;
    if (user.n && user.n <= KNOWN_NAME) {
        struct known_user *k = &set->user[set->next++ % KNOWN_WAYS];
        k->n = (uint16_t)user.n;
        memcpy(k->name, user.p, user.n);
        memcpy(k->digest, out, REPLAY_DIGEST);
    }
    return true;
}

static bool digests(const struct redis_line *l, const struct replay_claim *c, uint8_t out[2][REPLAY_DIGEST])
{
    return user_digest(l, c->user, out[0]) && request_digest(l, c, out[1]);
}

static enum reason redis_spend(struct replay *replay, struct replay_line *line, const struct replay_claim *c,
                               struct replay_call *call)
{
    struct redis *r = (struct redis *)replay;
    struct redis_line *l = (struct redis_line *)line;
    if (!call) /* nobody could wait for the answer */
        return REASON_REPLAY_UNAVAILABLE;
    if (!talk_takes(&l->talk)) {
        redis_count(l->talk.fault == REDIS_FINE ? REDIS_TIMEOUT : l->talk.fault, 1);
        return REASON_REPLAY_UNAVAILABLE;
    }
    if (!digests(l, c, call->digest))
        return REASON_REPLAY_FULL;
    call->line = line;
    talk_spend(&l->talk, c, call);
    r->sockets->soon(l->wire);
    return REASON_OK;
}

static void redis_cancel(struct replay_call *call)
{
    talk_cancel(&((struct redis_line *)call->line)->talk, call);
}

static void redis_give_back(struct replay *replay, struct replay_line *line, const struct replay_claim *c)
{
    struct redis *r = (struct redis *)replay;
    struct redis_line *l = (struct redis_line *)line;
    uint8_t digest[2][REPLAY_DIGEST];
    if (!l || !digests(l, c, digest)) /* then it stays spent */
        return;
    talk_forget(&l->talk, digest);
    r->sockets->soon(l->wire);
}

static void redis_settle(struct replay *replay, const struct replay_settings *s)
{
    enum { USER_SHARE = 16 };
    struct redis_site *site = &((struct redis *)replay)->site;
    atomic_store(&site->past_us, s->past_us);
    time_raise(&site->future_us, s->future_us); /* what wider rules let through may be ahead yet, and forgotten */
    if (s->max_entries)
        atomic_store(&site->user_max, s->max_entries / USER_SHARE ? s->max_entries / USER_SHARE : 1);
}

static int64_t redis_floor(const struct replay *r)
{
    return atomic_load(&((const struct redis *)r)->site.floor_us);
}

/* As far as this gateway knows. */
static int64_t redis_walls(const struct replay *r)
{
    const int64_t walls = atomic_load(&((const struct redis *)r)->site.walls_us);
    return walls ? walls : TIME_NONE;
}

/* The memory is not ours to count. */
static size_t redis_entries(const struct replay *r)
{
    (void)r;
    return 0;
}

static int64_t redis_patience(const struct replay *r)
{
    return ((const struct redis *)r)->site.how.timeout_us;
}

static const char *word(enum redis_fault f)
{
    static const char *const WORDS[REDIS_FAULTS] = {
#define REDIS_FAULT_WORD(e, name) [REDIS_##e] = "replay: " name,
        REDIS_FAULT_LIST(REDIS_FAULT_WORD)
#undef REDIS_FAULT_WORD
    };
    return f == REDIS_STARTING ? "starting" : WORDS[f];
}

static const char *redis_unready(const struct replay *replay, int64_t now_us)
{
    struct redis *r = (struct redis *)replay; /* its lock and its atomics */
    const int64_t mono = time_mono_us();
    int found = REDIS_FINE;
    pthread_mutex_lock(&r->lock);
    if (!r->lines)
        found = REDIS_STARTING;
    for (struct redis_line *l = r->lines; l && found == (int)REDIS_FINE; l = l->next) {
        const int fault = atomic_load(&l->fault);
        if (fault != REDIS_FINE && mono - atomic_load(&l->since_us) >= PATIENT_US)
            found = fault;
    }
    pthread_mutex_unlock(&r->lock);
    if (found == REDIS_FINE && now_us < redis_floor(replay))
        found = REDIS_EPOCH;
    return found == REDIS_FINE ? NULL : word((enum redis_fault)found);
}

static void redis_line_close(struct replay_line *line)
{
    struct redis_line *l = (struct redis_line *)line;
    struct redis *r = redis_of(l);
    if (l->wire)
        r->sockets->close(l->wire);
    pthread_mutex_lock(&r->lock);
    for (struct redis_line **at = &r->lines; *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
    pthread_mutex_unlock(&r->lock);
    talk_free(&l->talk);
    crypto_keyed_free(l->hmac);
    crypto_cmac_free(l->cmac);
    free(l->known);
    free(l);
}

/* Another key than the requests': the same one is never two algorithms'. */
static bool keys_of(struct redis_line *l, const struct secret_key *secret)
{
    static const char USERS[] = "kmsgate replay users";
    uint8_t key[KEY_BYTES];
    _Static_assert((int)KEY_BYTES == (int)HASH_BYTES && (int)CMAC_BYTES == (int)REPLAY_DIGEST, "of the lengths due");
    if (crypto_hmac_sha256(secret->b, USERS, sizeof USERS - 1, key))
        l->cmac = crypto_cmac_new(key);
    secret_wipe(key, sizeof key);
    l->hmac = crypto_keyed_new(secret->b);
    return l->hmac && l->cmac;
}

static struct replay_line *redis_line_open(struct replay *replay, const struct replay_host *host)
{
    struct redis *r = (struct redis *)replay;
    struct redis_line *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->line.replay = replay;
    atomic_init(&l->fault, REDIS_STARTING);
    atomic_init(&l->since_us, time_mono_us() - PATIENT_US); /* nobody is patient with what was never there */
    l->known = calloc(KNOWN_SETS, sizeof *l->known);
    if (talk_init(&l->talk, &r->site) && keys_of(l, r->site.secret) && l->known)
        l->wire = r->sockets->open(r->sockets_arg, l, host->loop);
    pthread_mutex_lock(&r->lock);
    l->next = r->lines;
    r->lines = l;
    pthread_mutex_unlock(&r->lock);
    if (l->wire)
        return &l->line;
    redis_line_close(&l->line);
    return NULL;
}

static void redis_line_turned(struct replay_line *line)
{
    (void)line; /* its answers come from the loop */
}

void redis_line_connected(struct redis_line *l, enum redis_peer peer)
{
    l->asks_sentinel = peer == PEER_SENTINEL;
    l->authenticates = false;
    if (l->asks_sentinel)
        redis_ask_sentinel(&l->talk, false);
    else
        talk_begin(&l->talk);
    redis_publish(l);
}

/* A Sentinel may want a password, too; it is told it only then. */
static bool feed_sentinel(struct redis_line *l, const void *bytes, size_t n)
{
    switch (redis_hear_sentinel(&l->talk, bytes, n, l->host, l->port)) {
    case SENTINEL_MORE:
        return true;
    case SENTINEL_KNOWS:
        l->knows = true;
        return false;
    case SENTINEL_LOCKED:
        if (!l->authenticates && l->talk.site->password) {
            l->authenticates = true;
            redis_ask_sentinel(&l->talk, true);
            return true;
        }
        return talk_fail(&l->talk, REDIS_AUTH, "a Sentinel wants another password");
    default:
        return false;
    }
}

bool redis_line_feed(struct redis_line *l, const void *bytes, size_t n)
{
    const bool goes_on = l->asks_sentinel ? feed_sentinel(l, bytes, n) : talk_feed(&l->talk, bytes, n);
    redis_publish(l);
    return goes_on;
}

bool redis_line_tick(struct redis_line *l)
{
    const bool goes_on = talk_tick(&l->talk);
    redis_publish(l);
    return goes_on;
}

void redis_line_turn_ends(struct redis_line *l)
{
    if (!l->asks_sentinel)
        talk_flush(&l->talk);
}

struct buf *redis_line_out(struct redis_line *l)
{
    return &l->talk.out;
}

bool redis_line_primary(struct redis_line *l, char host[REDIS_HOST], char port[REDIS_PORT])
{
    if (!l->knows)
        return false;
    l->knows = false;
    memcpy(host, l->host, REDIS_HOST);
    memcpy(port, l->port, REDIS_PORT);
    return true;
}

void redis_line_lost(struct redis_line *l, enum redis_fault kind, const char *why)
{
    if (kind != REDIS_FINE)
        talk_settle(&l->talk, kind, why);
    talk_end(&l->talk);
    redis_publish(l);
}

static void redis_free(struct replay *replay)
{
    struct redis *r = (struct redis *)replay;
    if (r->site.password)
        secret_free(r->site.password, r->site.password_n + 1);
    if (r->site.secret)
        secret_free(r->site.secret, sizeof *r->site.secret);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* Which secret it is, without telling it. */
static bool make_mark(struct redis_site *s)
{
    static const char WHAT[] = "kmsgate replay memory";
    uint8_t full[HASH_BYTES];
    if (!crypto_hmac_sha256(s->secret->b, WHAT, sizeof WHAT - 1, full))
        return false;
    for (size_t i = 0; i < REDIS_MARK / 2; i++) {
        s->mark[2 * i] = "0123456789abcdef"[full[i] >> 4];
        s->mark[2 * i + 1] = "0123456789abcdef"[full[i] & 15];
    }
    return true;
}

static bool copy_secrets(struct redis_site *s, const struct replay_redis *how)
{
    s->secret = secret_alloc(sizeof *s->secret);
    if (!s->secret)
        return false;
    *s->secret = *how->secret;
    s->how.secret = NULL;
    s->how.password = NULL;
    if (!how->password)
        return true;
    s->password_n = strlen(how->password);
    s->password = secret_alloc(s->password_n + 1);
    if (s->password)
        memcpy(s->password, how->password, s->password_n + 1);
    return s->password;
}

struct replay *replay_redis_new(const struct replay_redis *how, const struct replay_settings *s,
                                const struct redis_sockets *sockets, void *arg)
{
    static const struct replay_engine REDIS = {
        .free = redis_free,
        .settle = redis_settle,
        .floor = redis_floor,
        .walls = redis_walls,
        .unready = redis_unready,
        .count = redis_entries,
        .patience = redis_patience,
        .line_open = redis_line_open,
        .line_turn = redis_line_turned,
        .line_close = redis_line_close,
        .spend = redis_spend,
        .cancel = redis_cancel,
        .give_back = redis_give_back,
    };
    struct redis *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->replay.engine = &REDIS;
    r->sockets = sockets;
    r->sockets_arg = arg;
    r->site.how = *how;
    pthread_mutex_init(&r->lock, NULL);
    atomic_init(&r->site.user_max, how->user_max);
    redis_settle(&r->replay, s);
    for (int f = REDIS_FINE + 1; f < REDIS_FAULTS; f++)
        redis_count((enum redis_fault)f, 0);
    if (copy_secrets(&r->site, how) && make_mark(&r->site))
        return &r->replay;
    redis_free(&r->replay);
    return NULL;
}
