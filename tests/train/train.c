/*
 * What serving does all day, for the compiler to watch: which way branches go, and how often. A release build runs it
 * once, and is compiled by what it saw (CMakeLists.txt, KMSGATE_TRAINED). No sockets, no file but the rules, no clock
 * and nothing by chance: the same source gives the same profile, and so the same program.
 *
 *     train RULES
 *
 * Signed requests for keyprov, and some for other resources; replies of one to three key sets, and a KMS that fails;
 * requests that are refused, of each kind, or read as a tree; of each the decision's line. Its users and keys are
 * numbers: no key of anybody's is near.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/log.h"
#include "gate/gate.h"
#include "keys/keystore.h"

#define BASE "https://kms.example.org"
#define PREFIX "/keymanagement/identity/v1/"
#define START (INT64_C(1790000000) * US_PER_S) /* when it happens; the rules have no exception that ends */
enum { USERS = 24, ROUNDS = 120, KEYPROV_EACH = 24 };

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s failed\n", program_invocation_short_name, what);
    exit(1);
}

enum change {
    NONE, OLD, EARLY, OTHER_URL, OTHER_KMS, FORGED, NO_KEY, NO_USER, TRK_SIGNS, TWICE, CUT, UNSIGNED, BY_TREE
};
static const struct kind {
    const char *resource;
    bool of_user;   /* the path names the user, too */
    unsigned sets;  /* of the reply to it; 0: the KMS fails */
    unsigned often; /* a round */
    enum change change;
    enum reason want;   /* of the request */
} KINDS[] = {
    {"keyprov", false, 1, KEYPROV_EACH, NONE, REASON_OK},
    {"keyprov", false, 2, 3, NONE, REASON_OK},
    {"keyprov", false, 3, 1, NONE, REASON_OK},
    {"keyprov", false, 1, 1, BY_TREE, REASON_OK}, /* as what is outside the closed profile is read */
    {"keyprov", false, 0, 1, NONE, REASON_OK},
    {"keyprov", true, 1, 2, NONE, REASON_OK},
    {"certcache", false, 0, 1, NONE, REASON_OK},
    {"keyprov", false, 0, 1, OLD, REASON_TIME_STALE},
    {"keyprov", false, 0, 1, EARLY, REASON_TIME_FUTURE},
    {"keyprov", false, 0, 1, OTHER_URL, REASON_CLIENT_REQ_URL_MISMATCH},
    {"keyprov", false, 0, 1, OTHER_KMS, REASON_KMS_URI_MISMATCH},
    {"keyprov", false, 0, 1, FORGED, REASON_SIGNATURE_INVALID},
    {"keyprov", false, 0, 1, NO_KEY, REASON_KEY_UNKNOWN},
    {"keyprov", false, 0, 1, NO_USER, REASON_KEY_UNKNOWN},
    {"keyprov", false, 0, 1, TRK_SIGNS, REASON_KEY_POLICY},
    {"keyprov", false, 0, 1, TWICE, REASON_REPLAY_SEEN},
    {"keyprov", false, 0, 1, CUT, REASON_XML_MALFORMED},
    {"keyprov", false, 0, 1, UNSIGNED, REASON_SIGNATURE_MISSING},
};
enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS };

/* A request's texts, and what it is signed with. */
struct asked {
    const struct kind *kind;
    unsigned user, number;
    int64_t now;
    char target[96], url[128], uri[40], ink[40], trk[40], device[24], time[TIME_TEXT];
    struct buf body;
};

static struct secret_key key_of(unsigned user, bool trk)
{
    struct secret_key k;
    for (size_t i = 0; i < sizeof k.b; i++)
        k.b[i] = (uint8_t)(user * 37 + i * 11 + (trk ? 128 : 1));
    return k;
}

static struct keystore *all_keys(void)
{
    static char text[USERS][3][40];
    static struct key_entry v[2 * USERS];
    for (unsigned u = 0; u < USERS; u++) {
        snprintf(text[u][0], 40, "sip:user-%02u@example.org", u);
        snprintf(text[u][1], 40, "ink.1.user-%02u", u);
        snprintf(text[u][2], 40, "trk.1.user-%02u", u);
        for (unsigned trk = 0; trk < 2; trk++)
            v[2 * u + trk] = (struct key_entry){str_z(text[u][0]), str_z(text[u][1 + trk]), trk ? KEY_TRK : KEY_INK,
                                                KEY_ACTIVE, TIME_NONE, key_of(u, trk)};
    }
    return keystore_scratch(v, 2 * USERS);
}

/* The body as its kind has it. */
static void ask(struct asked *a)
{
    const enum change c = a->kind->change;
    const struct secret_key key = key_of(a->user + (c == FORGED), c == TRK_SIGNS);
    struct buf text BUF_CLEANUP = BUF_INIT(1u << 16), sent BUF_CLEANUP = BUF_INIT(1u << 16);
    if (a->kind->of_user)
        snprintf(a->target, sizeof a->target, PREFIX "%s/sip%%3Auser-%02u%%40example.org", a->kind->resource, a->user);
    else
        snprintf(a->target, sizeof a->target, PREFIX "%s", a->kind->resource);
    snprintf(a->url, sizeof a->url, "%s%s%s", BASE, a->target, c == OTHER_URL ? "/other" : "");
    snprintf(a->uri, sizeof a->uri, "sip:%s-%02u@example.org", c == NO_USER ? "nobody" : "user", a->user);
    snprintf(a->ink, sizeof a->ink, "%s.%u.user-%02u", c == TRK_SIGNS ? "trk" : "ink", c == NO_KEY ? 9 : 1, a->user);
    snprintf(a->trk, sizeof a->trk, "trk.1.user-%02u", a->user);
    snprintf(a->device, sizeof a->device, "device-%06u", a->number);
    time_format(a->now + (c == EARLY) * 3600 * US_PER_S - (c == OLD) * 3600 * US_PER_S, false, a->time);
    const struct kms_request r = {.id = STR("xmldoc"), .version = STR("1.1.0"), .user_uri = str_z(a->uri),
                                  .kms_uri = c == OTHER_KMS ? STR("kms.example.net") : STR("kms.example.org"),
                                  .time = str_z(a->time), .client_id = STR("a client"), .device_id = str_z(a->device),
                                  .client_req_url = str_z(a->url), .trk_id = str_z(a->trk),
                                  .signature_id = str_z(a->ink)};
    kms_request_write(&r, &text);
    need(!text.failed && xmlsig_sign(buf_view(&text), str_z(a->ink), &key, &sent), "xmlsig_sign");
    buf_reset(&a->body);
    buf_bytes(&a->body, c == UNSIGNED ? text.p : sent.p, c == UNSIGNED ? text.n : c == CUT ? sent.n / 2 : sent.n);
    need(!a->body.failed, "memory");
}

static void octets(struct buf *b, const char *name, size_t n, bool point)
{
    static uint32_t state = 1;
    buf_printf(b, "<%s>", name);
    for (size_t i = 0; i < n; i++) {
        state = state * 1103515245u + 12345u;
        const uint8_t octet = point && i == 0 ? 4 : (uint8_t)(state >> 16);
        buf_hex(b, &octet, 1, true);
    }
    buf_printf(b, "</%s>", name);
}

/* What an older KMS answers: key sets in clear. */
static void answer(const struct asked *a, struct buf *b)
{
    buf_reset(b);
    buf_printf(b,
               "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.0.0\">"
               "<UserUri>%s</UserUri><KmsUri>kms.example.org</KmsUri><Time>%s</Time><KmsId>old</KmsId>"
               "<ClientReqUrl>http://old%s</ClientReqUrl><KmsMessage><KmsKeyProv Version=\"1.0.0\">",
               a->uri, a->time, a->target);
    for (unsigned i = 0; i < a->kind->sets; i++) {
        buf_printf(b,
                   "<KmsKeySet Version=\"1.1.0\"><KmsUri>kms.example.org</KmsUri><CertUri>cert%u.kms.example.org"
                   "</CertUri><Issuer>kms.example.org</Issuer><UserUri>%s</UserUri><UserID>%064u</UserID>"
                   "<ValidFrom>2026-01-01T00:00:00Z</ValidFrom><ValidTo>2027-01-01T00:00:00Z</ValidTo>"
                   "<KeyPeriodNo>%u</KeyPeriodNo><Revoked>false</Revoked>",
                   i, a->uri, a->number, 1514 + i);
        octets(b, "UserDecryptKey", 257, true);
        octets(b, "UserSigningKeySSK", 32, false);
        octets(b, "UserPubTokenPVT", 65, true);
        buf_z(b, "</KmsKeySet>");
    }
    buf_z(b, "</KmsKeyProv></KmsMessage></KmsResponse>");
    need(!b->failed, "memory");
}

/* Its line, and the metrics. */
static void decide(struct decision *d, int64_t now, int status)
{
    static struct buf line = BUF_INIT(1u << 20);
    d->time_us = now;
    d->status = status;
    d->us.total = 1234;
    d->us.judge = 34;
    d->us.upstream = d->upstream.us = 567;
    d->us.protect = 12;
    buf_reset(&line);
    decision_json(d, &line);
    decision_count(d);
    need(!line.failed, "decision_json");
}

static void exchange(const struct gate *gate, const struct asked *a, enum reason want)
{
    static struct buf upstream = BUF_INIT(1u << 20);
    struct gate_outgoing outgoing = {0};
    struct gate_response response = {0};
    struct gate_head head = {.method = STR("POST"), .target = str_z(a->target), .content_type = STR("application/xml")};
    struct judgement *j = judgement_new(gate, "0123456789abcdef0123456789abcdef");
    need(j && gate_head(j, &head) == REASON_OK, "gate_head");
    const bool forwarded = gate_request(j, buf_view(&a->body), a->now) == GATE_FORWARD;
    const enum reason r = j->decision.reason;
    if (r != want)
        fprintf(stderr, "train: %s is due: %s\n", reason_name(want), j->decision.found[0].text);
    need(r == want && forwarded == (want == REASON_OK), reason_name(r));
    if (!forwarded) {
        gate_refuse(j, r, 0, a->now, &response);
    } else {
        const unsigned sets = a->kind->sets;
        answer(a, &upstream);
        const struct gate_upstream up = {sets ? 200 : 500, sets ? buf_view(&upstream) : STR("no such user")};
        need(gate_forward(j, buf_view(&a->body), &outgoing) == REASON_OK, "gate_forward");
        const enum reason told = gate_reply(j, &up, a->now, &response);
        need(told == (sets ? REASON_OK : REASON_UPSTREAM_ERROR), reason_name(told));
    }
    need(response.body.n > 0, "a reply");
    decide(&j->decision, a->now, response.status);
    gate_outgoing_free(&outgoing);
    buf_free(&response.body);
    judgement_free(j);
}

int main(int argc, char **argv)
{
    struct faults faults = {0};
    char *base = strdup(BASE);
    const struct strings public_url = {&base, 1};
    if (argc != 2) {
        fputs("usage: train RULES\n", stderr);
        return 2;
    }
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT); /* that a KMS fails is of no interest here */
    heap_setup(); /* as in the gateway */
    need(base && xml_startup(), "xml_startup");
    struct gate gate = {.public_url = &public_url, .rules = rules_load(argv[1], &faults), .keys = all_keys()};
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    need(gate.rules && gate.keys, "rules, keys");
    gate.replay = replay_memory_new(1u << 20, START - 2 * US_PER_S,
                                    &(struct replay_settings){.past_us = gate.rules->max_past_us});
    need(gate.replay, "memory");
    struct asked a = {.body = BUF_INIT(1u << 16)};
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned k = 0; k < KIND_COUNT; k++)
            for (unsigned i = 0; i < KINDS[k].often; i++) {
                a.kind = &KINDS[k];
                a.user = ++a.number % USERS;
                a.now = START + (int64_t)round * US_PER_S;
                gate.by_tree = a.kind->change == BY_TREE;
                ask(&a);
                if (a.kind->change == TWICE)
                    exchange(&gate, &a, REASON_OK);
                exchange(&gate, &a, a.kind->want);
            }
    buf_free(&a.body);
    return 0;
}
