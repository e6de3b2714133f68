/*
 * A client and its keys over months, as the bytes choose: it asks, with its newest keys or older ones; replies get
 * lost; the keeper defers; days pass; the store is closed and opened; keys are renewed by the gateway, learnt from an
 * upstream that issues good ones and bad ones, or replaced; one is revoked. The clock is the test's.
 *
 * What must hold: as long as nothing was revoked, one of the keys that the client was ever sent is let through; each
 * reply opens with the keys that it has, and is signed by the one that signed the request; a key's name never stands
 * for two keys; of a type, one key is active and one is offered at most. At the end the client asks twice more, so
 * that what was offered is confirmed.
 */
#include "asking.h"

#include <sys/stat.h>

#include "base/json.h"
#include "keys/keylife.h"

#define BY_RULE(rest) \
    "version: 1\nkms: { uris: [kms.example.org], id: kms-01 }\nrequests: [{ id: everyone }]\n" \
    "responses: [{ id: default, " rest " }]\n"
#define LATEST (INT64_C(4000000000) * US_PER_S) /* 2096; in 2106 the store counts no further */
#define URL "http://127.0.0.1:8080/keymanagement/identity/v1/keyprov"
#define RENEW "renew: { trk: 90d, ink: 90d, keep_old: 7d }"
static const char *const RULES[] = {BY_RULE(RENEW), BY_RULE("new_keys: { learn: { keep_old: 7d } }"),
                                    BY_RULE(RENEW ", new_keys: replace")};
enum { RENEWS, LEARNS, REPLACES, RULE_SETS };
enum { HELD_MAX = 80, STEPS_MAX = 24, STORE_RUNS = 256, ROOM = 1 << 20, TYPES = 2, ISSUES = 6 };

/* What the client was sent, the newest last. */
struct held {
    char id[64];
    enum key_type type;
    struct secret_key key;
};
struct client {
    char user[40];
    struct held v[HELD_MAX];
    size_t n;
    bool revoked;     /* one of its keys was: it may be locked out from now on */
    bool confirmed;   /* a key that it was sent became active */
    unsigned issued;  /* how many keys its upstream has made */
    const struct held *signer; /* of the request that is asked */
};

static const struct secret_key MASTER = {{9}};
static struct keystore *store;
static char folder[] = "/dev/shm/kmsgate-fuzz-XXXXXX", other_folder[] = "/tmp/kmsgate-fuzz-XXXXXX", path[64];
static int64_t now_us = INT64_C(1795000000) * US_PER_S;
static unsigned long runs;

int64_t __wrap_time_now_us(void);
int64_t __wrap_time_now_us(void)
{
    return now_us;
}

static void open_store(bool anew)
{
    struct faults faults = {0};
    if (store)
        keystore_close(store);
    if (anew) {
        now_us = asking.now_us;
        unlink(path);
    }
    store = keystore_open(path, &MASTER, anew, &faults);
    must(store, "%s", faults.n ? faults.v[0].text : "");
    faults_free(&faults);
    asking.gate.keys = store;
}

static void close_all(void)
{
    asking_end(); /* the store, which is the gate's */
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    asking_begin(RULES, RULE_SETS);
    keystore_close((struct keystore *)asking.gate.keys);
    const char *where = mkdtemp(folder) ? folder : mkdtemp(other_folder);
    must(where, "no folder");
    snprintf(path, sizeof path, "%s/k.db", where);
    open_store(true);
    asking.gate.asks_keeper = true;
    atexit(close_all);
    return 0;
}

static void hold(struct client *c, enum key_type type, struct str id, const uint8_t octets[KEY_BYTES])
{
    for (size_t i = 0; i < c->n; i++)
        if (str_eq_z(id, c->v[i].id)) {
            must(c->v[i].type == type && secret_equal(c->v[i].key.b, octets, KEY_BYTES), "another key of the name %s",
                 c->v[i].id);
            const struct held again = c->v[i];
            memmove(&c->v[i], &c->v[i + 1], (c->n - i - 1) * sizeof again);
            c->v[c->n - 1] = again;
            return;
        }
    if (c->n == HELD_MAX)
        memmove(c->v, c->v + 1, --c->n * sizeof *c->v);
    struct held *h = &c->v[c->n++];
    h->type = type;
    must(id.n < sizeof h->id, "a long name");
    snprintf(h->id, sizeof h->id, "%.*s", STR_FMT(id));
    memcpy(h->key.b, octets, KEY_BYTES);
}

/* The n-th newest of a type; NULL: the client has not so many. */
static const struct held *newest(const struct client *c, enum key_type type, size_t n)
{
    for (size_t i = c->n; i > 0; i--)
        if (c->v[i - 1].type == type && n-- == 0)
            return &c->v[i - 1];
    return NULL;
}

static void begin(struct client *c)
{
    static unsigned long number;
    struct faults faults = {0};
    struct key_entry e[TYPES];
    size_t counts[3], at;
    *c = (struct client){.n = 0};
    snprintf(c->user, sizeof c->user, "sip:user%lu@example.org", number++);
    for (int type = 0; type < TYPES; type++) {
        struct secret_key key = {{(uint8_t)(type + 1), (uint8_t)number, (uint8_t)(number >> 8)}};
        e[type] = (struct key_entry){str_z(c->user), type ? STR("trk.1") : STR("ink.1"), type ? KEY_TRK : KEY_INK,
                                     KEY_ACTIVE, TIME_NONE, key};
        hold(c, e[type].type, e[type].id, key.b);
    }
    must(keystore_put(store, e, TYPES, false, counts, &at, &faults), "%s", faults.v[0].text);
    now_us += 91 * 86400 * US_PER_S;
}

static void issue_key(struct client *c, struct str *rest, const char *name, struct buf *out)
{
    enum { ISSUE_NEW, ISSUE_AGAIN, ISSUE_KNOWN, ISSUE_ZERO, ISSUE_NONE };
    struct secret_key key = {{0}};
    const unsigned what = fuzz_choice(rest, ISSUES);
    const struct held *known = newest(c, fuzz_choice(rest, TYPES), 0);
    if (what >= ISSUE_NONE)
        return;
    c->issued += what == ISSUE_NEW;
    if (what == ISSUE_KNOWN && known)
        key = known->key;
    else if (what != ISSUE_ZERO)
        snprintf((char *)key.b, sizeof key.b, "%s%u", name + 3, c->issued);
    buf_printf(out, "<%s>", name);
    buf_hex(out, key.b, KEY_BYTES, true);
    buf_printf(out, "</%s>", name);
}

/* What the upstream says. */
static void make_reply(struct client *c, bool issues, struct str *rest, struct buf *out)
{
    buf_printf(out, "<KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.1.0\"><UserUri>%s</UserUri><KmsMessage>"
                    "<KmsKeyProv Version=\"1.0.0\">", c->user);
    if (issues) {
        issue_key(c, rest, "NewTransportKey", out);
        issue_key(c, rest, "NewIntegrityKey", out);
    }
    buf_z(out, "</KmsKeyProv></KmsMessage></KmsResponse>");
}

static bool give_trk(void *arg, struct str id, struct secret_key *out)
{
    const struct client *c = arg;
    for (size_t i = 0; i < c->n; i++)
        if (c->v[i].type == KEY_TRK && str_eq_z(id, c->v[i].id)) {
            *out = c->v[i].key;
            return true;
        }
    return false;
}

static void take_key(void *arg, const struct kms_key_content *key)
{
    struct client *c = arg;
    must(key->n == KEY_BYTES && key->carried.n, "a key without a name");
    must(key->algorithm.p, "a new key in clear");
    hold(c, str_eq_z(key->element, "NewTransportKey") ? KEY_TRK : KEY_INK, key->carried, key->octets);
}

static void receive(struct client *c, struct str text)
{
    static const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    const struct secret_key signed_by = c->signer->key;
    struct xml_doc *doc = NULL;
    const struct xml_signed *proof = NULL;
    struct kms_response r;
    struct detail why = {""};
    const struct kms_reader reader = {.trk = give_trk, .key = take_key, .arg = c};
    must(xml_parse(text, &XML_LIMITS_PROTECTED, &doc, &why) == REASON_OK, "%s", why.text);
    must(xmlsig_verify(doc, &policy, &signed_by, &proof, &why) == REASON_OK, "%s", why.text);
    must(kms_response_open(proof, &reader, &r, &why) == REASON_OK, "%s: %.*s", why.text, STR_FMT(text));
    xml_free(doc);
}

static struct judgement *judge(struct client *c, const struct held *ink, const struct held *trk)
{
    char time[TIME_TEXT];
    struct buf request BUF_CLEANUP = BUF_INIT(ROOM), body BUF_CLEANUP = BUF_INIT(ROOM);
    time_format(now_us, true, time);
    const struct kms_request fields = {.user_uri = str_z(c->user), .kms_uri = STR("kms.example.org"),
                                       .time = str_z(time), .client_req_url = STR(URL),
                                       .trk_id = trk ? str_z(trk->id) : STR_MISSING, .signature_id = str_z(ink->id)};
    const struct gate_head head = {.method = STR("POST"), .target = STR("/keymanagement/identity/v1/keyprov")};
    kms_request_write(&fields, &request);
    must(xmlsig_sign(buf_view(&request), str_z(ink->id), &ink->key, &body), "not signed");
    struct judgement *j = judgement_new(&asking.gate, "fuzz");
    must(j && gate_head(j, &head) == REASON_OK, "head");
    if (gate_request(j, buf_view(&body), now_us) == GATE_FORWARD) {
        c->signer = ink;
        return j;
    }
    must(j->decision.reason == REASON_SIGNATURE_INVALID || j->decision.reason == REASON_KEY_UNKNOWN ||
             j->decision.reason == REASON_KEY_REVOKED || j->decision.reason == REASON_KEY_POLICY,
         "%s", reason_name(j->decision.reason));
    judgement_free(j);
    return NULL;
}

/* With the newest keys, else older ones; `skip`: so many of the newest are passed over at first. */
static struct judgement *get_through(struct client *c, unsigned skip, bool names_trk)
{
    struct judgement *j = NULL;
    const struct held *ink, *trk = NULL;
    if ((ink = newest(c, KEY_INK, skip)) && (j = judge(c, ink, names_trk ? newest(c, KEY_TRK, skip) : NULL)))
        return j;
    for (size_t i = 0; !j && (ink = newest(c, KEY_INK, i)); i++)
        for (size_t k = 0; !j && (k == 0 || trk); k++) {
            trk = names_trk ? newest(c, KEY_TRK, k) : NULL;
            j = judge(c, ink, trk);
        }
    return j;
}

static void confirm(struct client *c, const struct judgement *j)
{
    struct key_wish wishes[2];
    struct key_fate fates[2];
    const size_t n = gate_confirms(j, wishes);
    if (!n)
        return;
    keystore_do(store, wishes, n, 0, fates);
    for (size_t i = 0; i < n; i++) {
        must(fates[i].outcome != KEY_DEFERRED, "%s", fates[i].why.text);
        c->confirmed |= fates[i].outcome == KEY_CONFIRMED;
    }
    key_fates_free(fates, n);
}

/* The keeper, asked between the two halves of a reply. */
static void grant(struct judgement *j, bool defers)
{
    const struct key_wish *wishes;
    struct key_fate fates[KEYKEEPER_WISHES];
    const size_t n = gate_wishes(j, &wishes);
    if (defers) {
        gate_granted(j, NULL, 0);
        return;
    }
    keystore_do(store, wishes, n, 0, fates);
    gate_granted(j, fates, n);
    key_fates_free(fates, n);
}

/* gate_request() and all that follows; false: nobody was let through. */
static bool ask(struct client *c, int set, struct str *rest)
{
    enum { DEFERS = 4, LOST = 3, LATE = 8 };
    struct buf reply BUF_CLEANUP = BUF_INIT(ROOM);
    struct gate_response out;
    const unsigned skip = fuzz_choice(rest, 6);
    const bool names_trk = fuzz_choice(rest, 4) != 3, late = fuzz_choice(rest, LATE) == 1;
    asking.gate.rules = asking.rules[set];
    asking.gate.replay = replay_memory_new(64, now_us - US_PER_S,
                                           &(struct replay_settings){.past_us = 60 * US_PER_S});
    struct judgement *j = get_through(c, skip < 3 ? 0 : skip - 3, names_trk);
    must(j || c->revoked, "%s is locked out", c->user);
    if (j) {
        if (!late)
            confirm(c, j);
        make_reply(c, set != RENEWS, rest, &reply);
        const struct gate_upstream up = {.status = 200, .body = buf_view(&reply)};
        enum reason r = gate_reply(j, &up, now_us, &out);
        if (out.waits) {
            buf_free(&out.body);
            grant(j, fuzz_choice(rest, DEFERS) == 1);
            r = gate_reply(j, &up, now_us, &out);
        }
        must(!out.waits, "it waits twice");
        must(r == REASON_OK || (set != RENEWS && (r == REASON_UPSTREAM_INVALID || r == REASON_KEYS_UNAVAILABLE)) ||
                 (r == REASON_PROTECT_NO_KEY && c->revoked), "%s", reason_name(r));
        if (r == REASON_OK && fuzz_choice(rest, LOST) != 1)
            receive(c, buf_view(&out.body));
        buf_free(&out.body);
        judgement_free(j);
    }
    replay_free(asking.gate.replay);
    asking.gate.replay = NULL;
    return j != NULL;
}

static void check_ring(const struct client *c)
{
    struct keyring ring;
    unsigned count[TYPES][KEY_STATES] = {{0}};
    must(keystore_user(store, str_z(c->user), &ring) == KEYSTORE_OK, "no ring");
    for (size_t i = 0; i < ring.n; i++)
        count[ring.keys[i].type][ring.keys[i].state]++;
    for (int type = 0; type < TYPES; type++)
        must(count[type][KEY_ACTIVE] <= 1 && count[type][KEY_OFFERED] <= 1 &&
                 count[type][KEY_RETIRING] <= KEY_RETIRING_MAX, "%u active, %u offered", count[type][KEY_ACTIVE],
             count[type][KEY_OFFERED]);
    keyring_clear(&ring);
}

static void revoke_one(struct client *c, struct str *rest)
{
    struct faults faults = {0};
    const struct held *h = newest(c, fuzz_choice(rest, TYPES), fuzz_choice(rest, 3));
    if (h) /* it may be gone since */
        (void)keystore_revoke(store, str_z(c->user), str_z(h->id), fuzz_choice(rest, 2), NULL, NULL, &faults);
    faults_free(&faults);
    c->revoked |= h != NULL;
}

static void step(struct client *c, int set, struct str *rest)
{
    enum { ASK, ASK_AGAIN, WAIT, REOPEN, REFRESH, DUE, REVOKE, STEPS = 16 };
    static const int64_t WAITS[] = {1, 3600, 8 * 86400, 91 * 86400};
    struct faults faults = {0};
    size_t n;
    bool changed;
    char why[200];
    switch (fuzz_choice(rest, STEPS)) {
    case WAIT:
    case WAIT + STEPS / 2:
        now_us += WAITS[fuzz_choice(rest, 4)] * US_PER_S;
        break;
    case REOPEN:
        open_store(false);
        break;
    case REFRESH:
        must(keystore_refresh(store, &changed, why, sizeof why), "%s", why);
        break;
    case DUE:
        (void)keystore_make_due(store, str_z(c->user), &n, &faults);
        faults_free(&faults);
        break;
    case REVOKE:
        revoke_one(c, rest);
        break;
    default:
        ask(c, set, rest);
    }
    check_ring(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct client c;
    struct str rest = fuzz_view(data, size), nothing = {"", 0};
    const int set = (int)fuzz_choice(&rest, RULE_SETS);
    if (++runs % STORE_RUNS == 0 || now_us > LATEST)
        open_store(true);
    begin(&c);
    for (int i = 0; i < STEPS_MAX && rest.n; i++)
        step(&c, set, &rest);
    for (int i = 0; i < 2; i++)
        ask(&c, set, &nothing);
    check_ring(&c);
    fuzz_arrived(c.confirmed);
    return 0;
}
